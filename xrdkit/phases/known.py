"""Phases that are known to be in the sample: found in the pattern, and taken out of it."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Float
from scipy.optimize import nnls
from torch import Tensor

from xrdkit.library import Library
from xrdkit.peaks import noise, typical_fwhm
from xrdkit.phases.compounds import (
    GIVEN,
    TYPE,
    candidate_of,
    common_compounds,
    compound,
    popular_types,
    read_structure,
    rows_of,
)
from xrdkit.problem import by_number, parse_formula, reduced, whole
from xrdkit.refine.block import current_lattice, pack, profiles
from xrdkit.refine.grid import Grid, make_grid
from xrdkit.refine.known import with_phases
from xrdkit.refine.least_squares import Fitted
from xrdkit.refine.one_sided import (
    ABOVE,
    FLOOR,
    grids_of,
    matched,
    place,
    refined_through,
)
from xrdkit.types import Candidate, Pattern, Phase

if TYPE_CHECKING:
    from pymatgen.core import Structure

MOST = 150  # structure types tried for one formula
TRIED = 4  # structures that are refined
PRESENT = 0.02  # least share of the pattern that a phase explains
CLEAR, LITTLE = 3.0, 0.01  # standard deviations; share that must be left for the sample
NAMED = 3  # strongest lines: each must be there, and is named if it is not
SEEN, CLEAR = 0.5, 3.0  # of a line's height; standard deviations of the noise
SAME = 0.01  # relative difference of volume below which two phases are one


def known_phase(
    what: "str | Path | Structure", pattern: Pattern, library: Library
) -> Phase:
    """A phase that is known to be in the sample, its cell refined against the pattern.

    ``what`` is a CIF file, a Structure, or a formula; for a formula the structure is the
    common one, a known one of the library, or the structure type that explains most.
    """
    name, choices = _choices(what, library)
    grids = grids_of(pattern)
    clear = CLEAR * float(np.median(noise(pattern)))
    asked: list[Candidate] = []
    found: list[Found] = []
    for candidates, stretch in choices:
        asked = asked or candidates[:1]
        placed = place(candidates, pattern, stretch, TRIED)
        found += [_found(c, grids, stretch, clear) for c in placed.candidates]
        if any(one.share > PRESENT and one.seen for one in found):
            break
    if not found:
        raise ValueError(
            f"phase {name}: no structure type holds this formula; give a CIF file"
        )
    best = max(found, key=lambda one: (one.seen, one.share))
    if best.share < PRESENT or not best.seen:
        raise ValueError(_absent(name, asked[0], grids[-1]))
    crystal = replace(best.candidate.crystal, lattice=current_lattice(best.fitted.block))
    return Phase(crystal, best.candidate.symmetry, name=name)


def known_phases(
    whats: "Sequence[str | Path | Structure]", pattern: Pattern, library: Library
) -> tuple[Phase, ...]:
    """Several known phases (``known_phase``); the same one twice is an error."""
    found = [known_phase(what, pattern, library) for what in whats]
    for one, other in combinations(found, 2):
        if _same(one, other):
            raise ValueError(f"phases {one.name} and {other.name} are the same; give one")
    return tuple(found)


def _same(one: Phase, other: Phase) -> bool:
    """Whether two phases are one compound: atoms, space group, volume within 1 %."""
    a, b = one.crystal, other.crystal
    alike = sorted(a.numbers.tolist()) == sorted(b.numbers.tolist())
    near = abs(float(a.volume.log() - b.volume.log())) < SAME
    return alike and near and one.symmetry.number == other.symmetry.number


@dataclass(frozen=True)
class Found:
    """A structure refined as one phase, and the share of the pattern that it explains.

    ``seen``: whether each of its strongest lines is there.
    """

    candidate: Candidate
    fitted: Fitted
    share: float
    seen: bool


def _found(
    candidate: Candidate, grids: Sequence[Grid], stretch: float, clear: float
) -> Found:
    """A structure refined; it explains nothing where its cell has run away."""
    fitted = refined_through(candidate, grids)
    seen = (grids[-1].weight > 0).float()
    share, scale = matched(fitted.calculated, grids[-1].observed[None], seen)
    volume = current_lattice(fitted.block).det() / candidate.crystal.lattice.det()
    near = abs(float(volume.abs().log())) < 3 * stretch
    lines = _lines_seen(fitted.calculated[0] * scale[0], grids[-1], clear)
    return Found(candidate, fitted, float(share[0]) if near else 0.0, lines)


def _lines_seen(curve: Float[Tensor, " points"], grid: Grid, clear: float) -> bool:
    """Whether the pattern reaches to each of the strongest lines of a phase.

    That is ``clear`` of the noise and to half of its height, within its width.
    """
    tops = _strongest(curve * (grid.weight > 0))
    for top in tops:
        height = float(curve[top])
        low = torch.nonzero(curve[:top] < height / 2).flatten()[-1:]
        high = torch.nonzero(curve[top:] < height / 2).flatten()[:1] + top
        around = grid.observed[int(low.sum()) : int(high.sum() or len(grid)) + 1]
        if float(around.max()) < max(SEEN * height, clear):
            return False
    return bool(tops)


Choices = Iterable[tuple[list[Candidate], float]]


def _choices(what: "str | Path | Structure", library: Library) -> tuple[str, Choices]:
    """The phase's name; structures to try in turn, and how far their cells may be off."""
    if isinstance(what, str) and not what.lower().endswith(".cif"):
        return what, _of_formula(what, library)
    structure = read_structure(what) if isinstance(what, str | Path) else what
    name = structure.composition.reduced_formula
    origin = str(what) if isinstance(what, str | Path) else name
    return name, [([candidate_of(structure, origin)], GIVEN)]


def _of_formula(formula: str, library: Library) -> Choices:
    """Structures of a formula: common and known ones, then those of all types."""
    from pymatgen.core import Composition

    counts = reduced(parse_formula(formula))
    if not whole(counts):
        raise ValueError(f"phase {formula} has fractional counts; give its CIF file")
    name = Composition(counts).reduced_formula
    contents = {z: round(n) for z, n in by_number(counts).items()}
    known = rows_of(library, name).tolist()
    averaged = bool(library.info.get("averaged"))
    exact = [] if averaged else [compound(library, r, contents, name) for r in known]
    common = [one for key, one in common_compounds().items() if key == name]
    yield [*common, *exact], GIVEN
    types = [*known, *popular_types(library, contents)][:MOST]
    yield [compound(library, r, contents, name) for r in types], TYPE


def _absent(name: str, candidate: Candidate, grid: Grid) -> str:
    """The sentence that says which strong lines of a phase are not there."""
    highest = torch.sin(torch.deg2rad(grid.two_theta[-1] / 2)) / grid.radiation.main
    block = pack([candidate], float(4 * torch.pi * highest))
    tops = _strongest(profiles(block, grid, False)[0][0])
    angles = ", ".join(f"{float(t):.2f}°" for t in grid.two_theta[tops])
    return (
        f"phase {name}: its strongest lines (at {angles}) are not in the pattern; "
        "check the phase and the wavelength, or leave it out"
    )


def _strongest(curve: Float[Tensor, " points"]) -> list[int]:
    """Where the highest lines of a profile have their maxima, highest first."""
    inner = (curve[1:-1] > curve[:-2]) & (curve[1:-1] >= curve[2:])
    tops = torch.nonzero(inner).flatten() + 1
    return tops[curve[tops].argsort(descending=True)][:NAMED].tolist()


def without_phases(pattern: Pattern, phases: Sequence[Phase]) -> Pattern:
    """A prepared pattern less the profiles of these phases, its maximum at one again."""
    if not phases:
        return pattern
    width, q_max = typical_fwhm(pattern), float(pattern.q.max())
    grid = make_grid(pattern, width, per_fwhm=8.0, q_max=q_max)
    curves = with_phases(grid, tuple(phases)).known.numpy()
    amounts = _amounts(curves.astype(float), grid)
    curve = curves @ amounts * float(pattern.intensity.max())
    taken = np.interp(pattern.two_theta, grid.two_theta.numpy(), curve, 0, 0)
    left = (pattern.intensity - taken).clip(min=0)
    clear = np.where(left > CLEAR * noise(pattern), left, 0)
    whole = np.trapezoid(pattern.intensity.clip(min=0), pattern.two_theta)
    if np.trapezoid(clear, pattern.two_theta) < LITTLE * whole:
        raise ValueError("the known phases explain the whole pattern; leave one out")
    scaled = {
        name: None if value is None else value / left.max()
        for name, value in (("sigma", pattern.sigma), ("background", pattern.background))
    }
    return replace(pattern, intensity=left / left.max(), **scaled)


def _amounts(
    profiles: Float[np.ndarray, "points phases"], grid: Grid
) -> Float[np.ndarray, " phases"]:
    """Scales of phases, none negative, that forgive what lies above their sum."""
    observed, weight = grid.observed.numpy().astype(float), grid.weight.numpy()
    columns = torch.as_tensor(profiles.T)
    seen = torch.as_tensor(weight > 0).double()
    amounts = matched(columns, grid.observed.double()[None], seen)[1].numpy()
    for _ in range(10):
        total = profiles @ amounts
        excess = (observed - total).clip(min=0)
        usual = ABOVE * total + FLOOR * total.max() + 1e-12
        root = np.sqrt(weight / (1 + (excess / usual) ** 2))
        amounts = nnls(profiles * root[:, None], observed * root)[0]
    return amounts
