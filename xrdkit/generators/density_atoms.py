"""Structures read from electron densities that a trained network sees in the pattern.

Each draw of the network gives a cell and a density (``xrdkit.models.density_net``). Atoms
are its maxima: the highest ones hold the heaviest elements. It needs no formula: where the
elements alone are known, heights are held against those of single atoms, which gives the
few compositions that agree best.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int

from xrdkit.canonical import unimodular
from xrdkit.cell import lattice_of
from xrdkit.density import atom_height
from xrdkit.evidence import left_by
from xrdkit.generators.flow import CLOSEST, forms
from xrdkit.generators.measured_lines import with_measured_lines
from xrdkit.indexing.bravais import primitive, reduced
from xrdkit.models.density_net import DensityNet, drawn, field, formula_of
from xrdkit.models.lattice import lattice_of as rows_of
from xrdkit.models.speed import autocast
from xrdkit.models.weights import default, load_model
from xrdkit.phases import without_phases
from xrdkit.problem import by_number, whole
from xrdkit.q_profile import NotLearned, profile_of
from xrdkit.space_group import CENTRING
from xrdkit.types import Candidate, Fit, Problem, Progress

UNEXPLAINED = 0.1  # residual above which densities are drawn
DRAWS, GRID = 5, 48  # densities for a pattern, points along each axis
FAINTEST = 0.02  # of the highest maximum: what is lower is no atom
MOST_ATOMS, UNITS, COMPOSITIONS = 60, 3, 4  # atoms of a cell; choices for each density
SCALES = np.exp(np.linspace(-0.5, 0.3, 17))  # of heights, which a density may have blurred
LOOSE, OFF = 0.2, 0.15  # standard deviations of its logarithm, and of those of heights
NEAR_CELL = 0.15  # relative difference of a known cell and the one that was drawn
PRIOR = -6.0  # natural log: a little less likely than what a flow draws


class Maxima(NamedTuple):
    """Maxima of a density, the highest first."""

    frac: Float[np.ndarray, "maxima 3"]
    height: Float[np.ndarray, " maxima"]  # e/Å³


def needed(problem: Problem, fits: Sequence[Fit]) -> bool:
    """Whether other sources leave something, of a formula of whole numbers or none."""
    if problem.formula and not whole(problem.formula):
        return False
    return left_by(fits, problem) > UNEXPLAINED


def propose(
    problem: Problem,
    *,
    count: int,
    generator: torch.Generator,
    device: torch.device,
    weights: str | Path | None = None,
) -> Iterator[Progress]:
    """Structures at the maxima of densities, by the weights that ship or by others.

    In cells that are given or proposed, in the setting nearest to the one that was drawn,
    and in that one where none is given. What the network has not learned gives none.
    """
    if problem.formula and not whole(problem.formula):
        return []
    model = load_model(weights or default("density"), "density", device)
    try:
        draws = densities(model, problem, DRAWS, generator)
    except NotLearned as error:
        yield Progress("density", 0, 1, None, str(error))
        return []
    found: list[Candidate] = []
    for i, (cell, density) in enumerate(draws):
        for one in candidates(cell, density, problem):
            found.append(one)
            yield Progress("density", i + 1, DRAWS, one, f"{len(found)} candidates")
    return found[:count]


def densities(
    model: DensityNet, problem: Problem, count: int, generator: torch.Generator
) -> Iterator[tuple[Float[np.ndarray, "3 3"], Float[np.ndarray, "n n n"]]]:
    """Cells (rows in Å) and densities (e/Å³): of the mean first, then of draws."""
    device = next(model.parameters()).device
    pattern = without_phases(problem.pattern, problem.phases)
    profile = profile_of(pattern)[None].to(device)
    formula = formula_of(_atoms(model, problem).to(device), [_level(problem)])
    return fields(model, profile, formula, count=count, generator=generator)


def fields(
    model: DensityNet,
    profile: Float[torch.Tensor, "1 2 1024"],
    formula: Float[torch.Tensor, "1 known"],
    *,
    count: int,
    generator: torch.Generator,
    points: int = GRID,
) -> Iterator[tuple[Float[np.ndarray, "3 3"], Float[np.ndarray, "n n n"]]]:
    """``densities`` of a pattern as networks see it, and of a formula (``formula_of``)."""
    device = str(profile.device)
    with torch.no_grad(), autocast(device):
        latent = model.latent(profile, formula)
    for i in range(count):
        with torch.no_grad(), autocast(device):
            told = model.told(drawn(latent, generator) if i else latent.mean)
            cell, density = model.cells(told)[0], field(model, told, points)[0]
        yield rows_of(cell).double().cpu().numpy(), density.double().cpu().numpy()


def _level(problem: Problem) -> str:
    return "full" if problem.formula else "elements"


def _atoms(model: DensityNet, problem: Problem) -> Int[torch.Tensor, "1 atoms"]:
    """A formula unit, or one atom of each element that is known, if they were learned."""
    counts = problem.formula or dict.fromkeys(problem.elements, 1)
    numbers = [z for z, n in by_number(counts).items() for _ in range(round(n))]
    if new := sorted(set(numbers) - set(model.facts.get("elements", numbers))):
        raise NotLearned(
            f"atomic numbers {new} were in no structure that this network learned; "
            "use other sources, or train with such structures"
        )
    return torch.tensor([numbers])


def candidates(
    cell: Float[np.ndarray, "3 3"], density: Float[np.ndarray, "n n n"], problem: Problem
) -> Iterator[Candidate]:
    """Structures of one density: in known cells that are near its own, and in that.

    In known cells also of the density with the amplitudes that the pattern shows.
    """
    known = settings_near(cell, problem)
    seen = [(rows, with_measured_lines(rows, density, problem.pattern)) for rows in known]
    seen += [(rows, density) for rows in known]
    for lattice, grid in seen if problem.given_cells else [*seen, (cell, density)]:
        peaks = maxima(lattice, grid)
        for prior, numbers in fillings(lattice, grid, peaks, problem):
            for one in forms(lattice, peaks.frac[: len(numbers)], numbers, problem):
                yield replace(one, origin="density", prior=prior)


def settings_near(
    cell: Float[np.ndarray, "3 3"], problem: Problem
) -> list[Float[np.ndarray, "3 3"]]:
    """The known cells, primitive or centred, in settings nearest to another cell."""
    metric, found = cell @ cell.T, []
    every = unimodular().astype(float)
    for known, letter in ((c, letter) for c, _ in problem.cells for letter in CENTRING):
        rows = reduced(primitive(lattice_of(known), letter))
        metrics = np.einsum("mij,jk,mlk->mil", every, rows @ rows.T, every)
        off = np.abs(metrics - metric).max((1, 2)) / np.trace(metric) * 3
        if off.min() < 2 * NEAR_CELL:
            found.append(every[off.argmin()] @ rows)
    return found


def maxima(
    lattice: Float[np.ndarray, "3 3"], density: Float[np.ndarray, "a b c"]
) -> Maxima:
    """Local maxima of a density with the period of the cell, the highest first.

    Places and heights are those of a parabola through the neighbours of each grid point.
    Of two that are within 0.5 Å the higher one is kept.
    """
    from scipy.ndimage import maximum_filter

    top = maximum_filter(density, 3, mode="wrap")
    least = max(FAINTEST * density.max(), density.min())  # one value has no maximum
    index = np.argwhere((density == top) & (density > least))
    places, heights = _vertices(density, index)
    order = heights.argsort()[::-1][: 8 * MOST_ATOMS]
    frac, heights = np.mod(places[order] / density.shape, 1), heights[order]
    apart = frac[:, None] - frac
    near = np.linalg.norm((apart - np.rint(apart)) @ lattice, axis=-1) < CLOSEST
    kept: list[int] = []
    for i in range(len(frac)):
        if not near[i, kept].any():
            kept.append(i)
    return Maxima(frac[kept], heights[kept])


def _vertices(
    density: Float[np.ndarray, "a b c"], index: Int[np.ndarray, "maxima 3"]
) -> tuple[Float[np.ndarray, "maxima 3"], Float[np.ndarray, " maxima"]]:
    """Vertices of the parabolas about grid points, in grid steps, and their heights."""
    unit = np.eye(3, dtype=int)

    def at(step: Int[np.ndarray, "3"]) -> Float[np.ndarray, " maxima"]:
        return density[tuple(np.mod(index + step, density.shape).T)]

    middle = at(0 * unit[0])
    slope = np.stack([(at(u) - at(-u)) / 2 for u in unit], -1)
    bend = np.empty((len(index), 3, 3))
    for i, u in enumerate(unit):
        for j, v in enumerate(unit):
            bend[:, i, j] = (at(u + v) - at(u - v) - at(v - u) + at(-u - v)) / 4
        bend[:, i, i] = at(u) + at(-u) - 2 * middle
    bend = bend - 1e-9 * density.max() * np.eye(3)
    step = -np.linalg.solve(bend, slope[..., None])[..., 0].clip(-1, 1)
    return index + step, middle + (slope * step).sum(-1) / 2


def fillings(
    lattice: Float[np.ndarray, "3 3"],
    density: Float[np.ndarray, "a b c"],
    peaks: Maxima,
    problem: Problem,
) -> Iterator[tuple[float, Int[np.ndarray, " atoms"]]]:
    """Elements for the first maxima, with the log prior of each choice."""
    if not problem.formula:
        elements = sorted(by_number(dict.fromkeys(problem.elements, 1)))
        choices = compositions(peaks.height, elements)
        yield from ((PRIOR - np.log(len(choices)), numbers) for numbers in choices)
        return
    total = float(density.mean() * abs(np.linalg.det(lattice)))
    for counts in contents(total, problem):
        numbers = np.repeat(list(counts), list(counts.values()))
        if len(numbers) <= min(len(peaks.height), MOST_ATOMS):
            yield PRIOR, by_height(numbers)


def by_height(numbers: Int[np.ndarray, " atoms"]) -> Int[np.ndarray, " atoms"]:
    """Atomic numbers by the height of a single atom's density, the highest first."""
    return numbers[np.argsort(-atom_height(torch.as_tensor(numbers)).numpy())]


def contents(electrons: float, problem: Problem) -> list[Mapping[int, int]]:
    """Contents of a cell of so many electrons: those known, or nearest numbers of units."""
    unit = {z: round(n) for z, n in by_number(problem.formula).items()}
    each = sum(z * n for z, n in unit.items())
    if problem.contents and not problem.given_cells:
        return [{z: round(n) for z, n in by_number(problem.contents).items()}]
    sizes = range(1, max(1, MOST_ATOMS // sum(unit.values())) + 1)
    near = sorted(sizes, key=lambda k: abs(np.log(k * each / electrons)))[:UNITS]
    return [{z: n * k for z, n in unit.items()} for k in near]


def compositions(
    heights: Float[np.ndarray, " maxima"],
    elements: Sequence[int],
    *,
    every: bool = True,
) -> list[Int[np.ndarray, " atoms"]]:
    """Elements for the highest maxima, as many as agree, best choices first.

    ``heights`` (e/Å³) fall. A density may be blurred: a common scale is tried. A maximum
    that is nearer to nothing, half of the lowest atom, ends the atoms. With ``every`` all
    elements must be there.
    """
    single = atom_height(torch.as_tensor(list(elements))).numpy()
    choices: dict[tuple[int, ...], float] = {}
    for scale in SCALES:
        atoms = heights[heights > scale * single.min() / 2][:MOST_ATOMS]
        off = np.abs(np.log(atoms[:, None] / (scale * single)))
        chosen = off.argmin(1)
        if not len(atoms) or (every and len(set(chosen.tolist())) < len(elements)):
            continue
        misfit = float(np.square(off.min(1) / OFF).mean() + (np.log(scale) / LOOSE) ** 2)
        numbers = tuple(int(elements[k]) for k in chosen)
        choices[numbers] = min(misfit, choices.get(numbers, np.inf))
    best = sorted(choices, key=choices.__getitem__)[:COMPOSITIONS]
    return [np.array(numbers) for numbers in best]
