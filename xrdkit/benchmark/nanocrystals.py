"""PXRDnet's own table: R² of what a latent space gives, before and after refinement.

Its protocol: the pattern of a nanocrystal and the atoms of its primitive cell; of many
structures (100 there) the ten whose patterns are nearest, and of these the best R²
(unweighted, a share, without size broadening). Ours are the ten that the search puts up
first, with the symmetry that they nearly have or without; after refinement the ten best of
all that it puts up. The baseline, CDVAE-search, decodes points at random.
"""

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch

from xrdkit.benchmark.entries import Row, run_entries
from xrdkit.benchmark.simulated_patterns import drawn as chosen
from xrdkit.crystal import to_structure
from xrdkit.dataset import Table, read_table
from xrdkit.generators import latent_search
from xrdkit.generators.latent_search import KEPT, PERIODS, propose
from xrdkit.metrics import bootstrap_interval, match
from xrdkit.models.latent import STEPS
from xrdkit.models.weights import load_model
from xrdkit.nanocrystal import nano_pattern, published_r_squared
from xrdkit.problem import pose, usable_size
from xrdkit.progress import result_of
from xrdkit.refine.batch import refine_steps
from xrdkit.solve import POOL
from xrdkit.space_group import crystal_system

STARTS = {"descent": PERIODS, "random": ()}  # how points of the space are found
STAGES = "before", "after"
TEN = 10  # structures of which the best counts


def nanocrystals(
    structures: Table | str | Path,
    weights: str | Path,
    output: str | Path,
    *,
    size: float,
    starts: str = "descent",
    n: int = 20,
    seed: int = 0,
    shard: tuple[int, int] = (1, 1),
    progress: bool = True,
) -> list[Row]:
    """Rows of n random entries of crystals of ``size`` Å: R² of ten, as they are put up,
    drawn and with the symmetry that they nearly have, and as the ten best refined.

    ``weights`` are of a latent space. "random" ``starts`` are decoded where they are.
    """
    table = structures if isinstance(structures, Table) else read_table(structures)
    model, size = load_model(weights, "latent"), usable_size(size)
    settings = {"benchmark": "nanocrystals", "n": n, "seed": seed, "size": size}
    settings |= {"starts": starts, "weights": str(weights), "shard": shard}
    settings |= {"points": latent_search.STARTS, "kept": KEPT, "levels": STEPS}
    settings |= {"periods": STARTS[starts], "steps_learned": model.facts.get("step")}
    one = partial(entry_of, table, weights, size, STARTS[starts], seed)
    rows = chosen(len(table), n, seed)
    return run_entries(table, rows, output, settings, shard, one, progress=progress)


def entry_of(
    table: Table,
    weights: str | Path,
    size: float,
    periods: Sequence[int],
    seed: int,
    row: int,
) -> Row:
    """R² of the candidates of a row, and whether the best refined one matches."""
    crystal = table.crystals.select(torch.tensor([row]))
    truth, pattern = table.structure(row), nano_pattern(crystal, size)
    contents = truth.composition.formula
    problem = pose(pattern, table.formulas[row], contents=contents, size=size)
    generator = torch.Generator().manual_seed(seed * 1_000_003 + row)
    asked = {"count": POOL, "generator": generator, "device": torch.device("cpu")}
    forms = result_of(propose(problem, **asked, weights=weights, periods=periods))
    fits = result_of(refine_steps(problem.pattern, forms))
    fits = sorted(fits, key=lambda fit: fit.residual)[:TEN]
    put_up = [to_structure(one.crystal) for one in forms[:TEN]]
    found = [put_up, [fit.structure for fit in fits]]
    r_squared = [[published_r_squared(truth, one) for one in part] for part in found]
    matched = bool(fits) and match(truth, fits[0].structure).literature
    facts = {"system": crystal_system(table.space_groups[row]), "n_atoms": len(truth)}
    return facts | dict(zip(STAGES, r_squared, strict=True)) | {"first": matched}


def nanocrystal_counts(rows: Sequence[Row]) -> list[Row]:
    """Mean R², best of ten, before and after refinement, with 95 % by bootstrap.

    In all and by crystal system; an entry without an answer counts as one.
    """
    found, whole = [], [row for row in rows if "system" in row]
    for name in ("all", *sorted({row["system"] for row in whole})):
        part = [row for row in whole if name in ("all", row["system"])]
        line: Row = {"": name, "entries": len(part)}
        for stage in STAGES:
            best = [min(row[stage], default=1.0) for row in part]
            low, high = bootstrap_interval(best, np.mean)
            line[f"R² {stage}"] = f"{np.mean(best):.3f} ({low:.3f}–{high:.3f})"
        line["first matches"] = f"{sum(row['first'] for row in part)} of {len(part)}"
        found.append(line)
    return found
