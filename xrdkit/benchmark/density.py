"""Densities that a network sees in patterns, beside the promolecule density of the truth.

The protocol of CrystalNet on other densities, so that figures are near but not comparable:
a clean pattern, several draws, the best SSIM and PSNR of all; instead of 24 rotations those
descriptions are tried that describe the same crystal (``xrdkit.canonical``), and that one
is taken whose square error is least. A structure is recovered where one at the maxima of a
draw, in the cell that was drawn with it, matches in the literature's sense. What trivial
answers get stands beside it: one value everywhere, or the densities of the crystals with
the most similar patterns among those that a network was trained on.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from xrdkit.benchmark.counts import rate
from xrdkit.benchmark.entries import run_entries
from xrdkit.benchmark.simulated_patterns import BEAM
from xrdkit.benchmark.simulated_patterns import drawn as chosen
from xrdkit.canonical import canonical, descriptions
from xrdkit.crystal import one_crystal, to_structure
from xrdkit.dataset import Table, read_table
from xrdkit.density import POINTS, electrons, on_grid
from xrdkit.generators.density_atoms import candidates, compositions, fields, maxima
from xrdkit.generators.flow import forms
from xrdkit.metrics import bootstrap_interval, normalised_rmse, psnr, ssim
from xrdkit.models.density_net import LEVELS, formula_of
from xrdkit.models.weights import load_model
from xrdkit.packed import Packed, load_packed
from xrdkit.q_profile import clean_profiles
from xrdkit.simulate import pattern_of
from xrdkit.space_group import crystal_system
from xrdkit.types import Candidate, Crystals, Problem

Row = dict[str, Any]
Grid = Float[np.ndarray, "n n n"]
Drawn = tuple[Float[np.ndarray, "3 3"], Grid]
Answers = Callable[[Crystals, torch.Generator], Iterator[Drawn]]
CONSTANT = "constant"


def density(
    structures: Table | str | Path,
    weights: str | Path | None,
    output: str | Path,
    *,
    baseline: str | Path | None = None,
    n: int | None = None,
    seed: int = 0,
    system: str = "all",
    formula: str = "full",
    samples: int = 5,
    points: int = POINTS,
    shard: tuple[int, int] = (1, 1),
    device: str = "cpu",
    progress: bool = True,
) -> list[Row]:
    """Rows of n random entries of a crystal system, or of all; what is known: ``formula``.

    That is "full", "elements", "dropped" (one of several is left out) or "none". A
    ``baseline`` answers in place of weights: "constant" is the right mean everywhere, a
    file of packed standard cells gives densities of those with the nearest patterns.
    """
    if formula not in LEVELS:
        raise ValueError(f"formula {formula!r} is none of {', '.join(LEVELS)}; give one")
    if (weights is None) == (baseline is None):
        raise ValueError("weights and a baseline are both given or missing; give one")
    table = structures if isinstance(structures, Table) else read_table(structures)
    groups = map(crystal_system, table.space_groups)
    own = [i for i, name in enumerate(groups) if system in ("all", name)]
    if not own:
        raise ValueError(f"none of {len(table)} structures is {system}; give others")
    answers, elements = answering(weights, baseline, formula, samples, points, device)
    settings = {"benchmark": "density", "n": n, "seed": seed, "system": system}
    settings |= {"formula": formula, "samples": samples, "points": points}
    settings |= {"weights": str(weights), "shard": shard}
    settings |= {"baseline": str(baseline)} if baseline else {}

    def entry(row: int) -> Row:
        generator = torch.Generator().manual_seed(seed * 1_000_003 + row)
        pose = canonical(*table.arrays(row))
        if pose is None:
            raise ValueError(f"{table.ids[row]} has no symmetry that spglib finds")
        crystal = one_crystal(*pose[1:])
        same = zip(*descriptions(pose.space_group, pose.frac), strict=True)
        grids = [on_grid(moved(crystal, *one), points)[0].numpy() for one in same]
        drawn = list(answers(crystal, generator))
        best = [scores(grids, answer) for _, answer in drawn]
        found = {"formula": table.formulas[row], "space_group": pose.space_group}
        found |= {"ssim": [one[0] for one in best], "psnr": [one[1] for one in best]}
        return found | {"recovered": recovered(elements, crystal, drawn, formula)}

    rows = [own[i] for i in chosen(len(own), n, seed)]
    return run_entries(table, rows, output, settings, shard, entry, progress=progress)


def answering(
    weights: str | Path | None,
    baseline: str | Path | None,
    formula: str,
    samples: int,
    points: int,
    device: str,
) -> tuple[Answers, Sequence[int]]:
    """What gives cells (Å) and densities (e/Å³) of a crystal, and the elements it knows."""
    if baseline == CONSTANT:
        return partial(constant, points=points), ()
    if baseline:
        if not Path(baseline).is_file():
            raise FileNotFoundError(
                f"baseline {baseline} is neither {CONSTANT} nor a file; give one of packed "
                "standard cells"
            )
        known = load_packed(baseline)
        if not known.standard:
            raise ValueError(f"{baseline} is not of standard cells; pack with --standard")
        parts = torch.arange(len(known)).split(1024)
        seen = torch.cat([clean_profiles(known.crystals.select(i))[:, 0] for i in parts])
        elements = known.crystals.numbers.unique().tolist()
        return partial(nearest, known, seen, count=samples, points=points), elements
    model = load_model(weights, "density", device)

    def network(crystal: Crystals, generator: torch.Generator) -> Iterator[Drawn]:
        seen = clean_profiles(crystal).to(device)
        told = formula_of(crystal.numbers[None].to(device), [formula], generator)
        asked = {"count": samples, "generator": generator, "points": points}
        return fields(model, seen, told, **asked)

    return network, model.facts.get("elements", ())


def constant(
    crystal: Crystals, generator: torch.Generator, *, points: int
) -> Iterator[Drawn]:
    """The crystal's own cell and mean density everywhere: what a network must beat."""
    mean = float(electrons(crystal) / crystal.volume)
    yield crystal.lattice[0].double().numpy(), np.full((points,) * 3, mean)


def nearest(
    known: Packed,
    seen: Float[Tensor, "known 1024"],
    crystal: Crystals,
    generator: torch.Generator,
    *,
    count: int,
    points: int,
) -> Iterator[Drawn]:
    """Cells and densities of the known crystals whose patterns are nearest, in order."""
    off = (seen - clean_profiles(crystal)[:, 0]).square().sum(1)
    for i in off.argsort()[:count]:
        one = known.crystals.select(i[None])
        yield one.lattice[0].double().numpy(), on_grid(one, points)[0].double().numpy()


def moved(
    crystal: Crystals, turn: Int[np.ndarray, "3 3"], shift: Float[np.ndarray, "3"]
) -> Crystals:
    """The crystal in another description, x' = W x + s, of the same metric."""
    turn, shift = (torch.as_tensor(np.asarray(v)).to(crystal.frac) for v in (turn, shift))
    return replace(crystal, frac=torch.remainder(crystal.frac @ turn.T + shift, 1))


def scores(truths: Sequence[Grid], answer: Grid) -> tuple[float, float]:
    """SSIM and PSNR (dB) beside the description of the truth of least square error."""
    nearest = min(truths, key=lambda truth: float(np.square(truth - answer).mean()))
    return ssim(nearest, answer), psnr(nearest, answer)


def recovered(
    elements: Sequence[int],
    crystal: Crystals,
    drawn: Sequence[Drawn],
    formula: str,
) -> list[bool]:
    """Whether a structure read from each draw matches the crystal."""
    truth = to_structure(crystal)
    found = []
    for cell, grid in drawn:
        answers = structures_of(elements, crystal, cell, grid, formula)
        matches = (normalised_rmse(truth, to_structure(one.crystal)) for one in answers)
        found.append(any(rmse is not None for rmse in matches))
    return found


def structures_of(
    elements: Sequence[int],
    crystal: Crystals,
    cell: Float[np.ndarray, "3 3"],
    grid: Grid,
    formula: str,
) -> Iterator[Candidate]:
    """Structures at the maxima, of the formula, the elements, or of any ``elements``."""
    counts = {e.symbol: n for e, n in to_structure(crystal).composition.items()}
    pattern = pattern_of(crystal, BEAM)
    if formula in ("full", "elements"):
        known = counts if formula == "full" else {}
        problem = Problem(pattern, known, elements=() if known else tuple(counts))
        yield from candidates(cell, grid, problem)
        return
    peaks = maxima(cell, grid)
    for numbers in compositions(peaks.height, elements, every=False):
        yield from forms(cell, peaks.frac[: len(numbers)], numbers, Problem(pattern, {}))


def density_counts(rows: Sequence[Row]) -> list[Row]:
    """Mean SSIM, PSNR (dB) and share recovered, of the first draw and the best of all."""
    kept = [row for row in rows if "error" not in row]
    if not kept:
        raise ValueError(f"all {len(rows)} entries failed; see the errors in the file")
    found = []
    for name, part in (("first draw", slice(1)), ("best of all", slice(None))):
        line: Row = {"": name, "entries": len(kept)}
        for key, digits in (("ssim", 3), ("psnr", 1)):
            values = [max(row[key][part]) for row in kept]
            low, high = bootstrap_interval(values, np.mean)
            line[key.upper()] = round(fmean(values), digits)
            line[f"{key.upper()} interval"] = f"{low:.{digits}f}–{high:.{digits}f}"
        hits, of, _, low, high = rate(
            sum(any(row["recovered"][part]) for row in kept), len(kept)
        )
        line |= {"recovered": f"{hits} of {of}", "interval": f"{low:.3f}–{high:.3f}"}
        found.append(line)
    return found
