"""How far off may a start be? Table entries refined from starts that are wrong on purpose.

Starts are the right structure with its atoms moved along what the space group leaves free,
and structures that a trained flow draws for the pattern.
"""

from collections.abc import Sequence
from functools import partial
from itertools import islice, pairwise
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from xrdkit.benchmark.entries import Row, good_pattern, run_entries, standard
from xrdkit.benchmark.simulated_patterns import drawn
from xrdkit.crystal import (
    conventional,
    one_crystal,
    standard_cell,
    symmetry_of,
    to_structure,
)
from xrdkit.dataset import Table, read_table
from xrdkit.generators import flow
from xrdkit.metrics import LITERATURE, normalised_rmse, wilson_interval
from xrdkit.models.crystal_net import PatternNet
from xrdkit.pattern import prepare
from xrdkit.progress import result_of
from xrdkit.refine.rietveld import refine
from xrdkit.types import Crystals, Pattern, Problem, Symmetry

if TYPE_CHECKING:
    from pymatgen.core import Structure

LEAST, MOST = 0.03, 0.3  # RMSE of the starts, in units of (V/N)^(1/3)
REFINED = 0.02  # RMSE from which a structure counts as refined
NEAR = 0.15  # RMSE of starts that should all be
SAMPLES = 20  # drawn for an entry, of which one is the start


def convergence(
    structures: Table | str | Path,
    output: str | Path,
    *,
    n: int = 300,
    seed: int = 0,
    shard: tuple[int, int] = (1, 1),
    weights: str | Path | None = None,
) -> list[Row]:
    """Rows of n random entries with free coordinates: RMSE before and after refinement.

    Starts are in the right space group and cell (± 0.3 %), their atoms moved along random
    free directions by an RMSE uniform in 0.03–0.3. With ``weights`` of a flow they are what
    it draws in the right cell: of 20 samples, with the right space group imposed where they
    nearly have it, the one whose RMSE comes nearest to a number drawn as before; an entry
    without one in 0.03–0.3 has no start. Patterns are good laboratory ones.
    """
    table = structures if isinstance(structures, Table) else read_table(structures)
    settings = {"benchmark": "convergence", "n": n, "seed": seed, "shard": shard}
    model = None
    if weights is not None:
        settings["weights"] = str(weights)
        model = flow.network(weights, torch.device("cpu"))
    free = (row for row in drawn(len(table), len(table), seed) if _free(table, row))
    entry = partial(_started, table, seed, model)
    return run_entries(table, list(islice(free, n)), output, settings, shard, entry)


def _free(table: Table, row: int) -> bool:
    """Whether an entry has coordinates that symmetry leaves free."""
    cell = standard_cell(*table.arrays(row))
    if cell is None:
        return False
    symmetry = symmetry_of(cell.space_group, cell.lattice, cell.frac, cell.numbers)
    return symmetry.coordinate_basis.shape[1] > 0


def _started(table: Table, seed: int, model: PatternNet | None, row: int) -> Row:
    """One entry refined from a start that is off."""
    generator = torch.Generator().manual_seed(seed * 1_000_003 + row)
    crystal, symmetry = standard(table, row)
    wanted = LEAST + (MOST - LEAST) * float(torch.rand((), generator=generator))
    facts = {"formula": table.formulas[row], "space_group": symmetry.number}
    truth, before, compared = to_structure(crystal), wanted, apart
    if model is None:
        start = moved(crystal, symmetry, wanted, generator)
        pattern = good_pattern(crystal, generator)
    else:
        pattern, compared = good_pattern(crystal, generator), normalised_rmse
        starts = generated(model, crystal, symmetry, pattern, generator)
        found = [(one, normalised_rmse(truth, one)) for one in starts]
        found = [(one, r) for one, r in found if r is not None and LEAST <= r <= MOST]
        if not found:
            return {**facts, "before": None, "samples": len(starts)}
        start, before = min(found, key=lambda pair: abs(pair[1] - wanted))
    try:
        fit = refine(pattern, start, symprec=1e-3)
    except ValueError as refused:
        return {**facts, "before": before, "after": None, "refused": str(refused)}
    return {
        **facts,
        "before": before,
        "after": compared(truth, fit.structure),
        "r_wp": fit.r_wp,
        "gof": fit.r_values.get("gof"),
    }


def generated(
    model: PatternNet,
    crystal: Crystals,
    symmetry: Symmetry,
    pattern: Pattern,
    generator: torch.Generator,
) -> list["Structure"]:
    """What a flow draws for a pattern in the right cell, where the space group is right."""
    niggli = to_structure(crystal).lattice.get_niggli_reduced_lattice()
    formula = to_structure(crystal).composition
    contents = {e.symbol: float(n) for e, n in formula.items()}
    problem = Problem(prepare(pattern), contents, space_group=symmetry.number)
    task = flow.Task(1, niggli.parameters)
    drawn_ = result_of(flow.samples(model, problem, task, SAMPLES, generator))
    if drawn_ is None:
        return []
    return [to_structure(one.crystal) for one in flow.candidates(drawn_, problem)]


def apart(truth: "Structure", found: "Structure") -> float | None:
    """RMSE / (V/N)^(1/3) of atoms in the conventional cells, None where they do not match.

    Cells are not reduced further: a primitive cell that is found within a tolerance may be
    there before a refinement and not after it.
    """
    from pymatgen.analysis.structure_matcher import StructureMatcher

    matcher = StructureMatcher(**LITERATURE, primitive_cell=False)
    rms = matcher.get_rms_dist(conventional(truth, symprec=1e-3)[0], found)
    return None if rms is None else float(rms[0])


def moved(
    crystal: Crystals, symmetry: Symmetry, rmse: float, generator: torch.Generator
) -> "Structure":
    """The structure with atoms moved along free coordinates by this RMSE, cell ± 0.3 %."""
    basis = symmetry.coordinate_basis.double()
    lattice = crystal.lattice[0].double()
    direction = torch.randn(basis.shape[1], generator=generator, dtype=torch.float64)
    shift = (basis @ direction).reshape(-1, 3)
    shift = shift - shift.mean(0)
    unit = float(torch.linalg.det(lattice).abs() / len(shift)) ** (1 / 3)
    size = float((shift @ lattice).norm(dim=1).square().mean().sqrt()) / unit
    scale = 1 + 0.003 * (2 * float(torch.rand((), generator=generator)) - 1)
    return to_structure(
        one_crystal(
            (lattice * scale).numpy(),
            (crystal.frac.double() + shift * (rmse / max(size, 1e-9))).numpy(),
            crystal.numbers.numpy(),
        )
    )


def convergence_counts(rows: Sequence[Row], bins: int = 9) -> list[Row]:
    """Share of starts that are refined to an RMSE below 0.02, by the RMSE they start from.

    Rows of the curve, then all starts up to 0.15 and all; Wilson's 95 % interval. "worse"
    are those that end farther off than they began.
    """
    good = [row for row in rows if row.get("before") is not None]
    edges = np.linspace(LEAST, MOST, bins + 1)
    parts = list(pairwise(edges.tolist()))
    counted = []
    for low, high in [*parts, (0.0, NEAR), (0.0, np.inf)]:
        part = [row for row in good if low <= row["before"] < high]
        if not part:
            continue
        ends = [np.inf if row["after"] is None else row["after"] for row in part]
        hits = sum(end < REFINED for end in ends)
        refused = sum("refused" in row for row in part)
        worse = sum(e > row["before"] * 1.05 for e, row in zip(ends, part, strict=True))
        bounds = wilson_interval(hits, len(part))
        counted.append(
            {
                "RMSE before": f"{low:.2f}–{high:.2f}",
                "starts": len(part),
                "refined": hits,
                "share": round(hits / len(part), 3),
                "interval": f"{bounds[0]:.3f}–{bounds[1]:.3f}",
                "worse": worse - refused,
                "refused": refused,
            }
        )
    return counted
