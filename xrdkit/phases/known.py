"""Phases that are known to be in the sample: found in the pattern, and taken out of it."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Float
from scipy.optimize import nnls

from xrdkit.library import Library
from xrdkit.peaks import typical_fwhm
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
NAMED = 3  # lines in a message


def known_phase(
    what: "str | Path | Structure", pattern: Pattern, library: Library
) -> Phase:
    """A phase that is known to be in the sample, its cell refined against the pattern.

    ``what`` is a CIF file, a Structure, or a formula; for a formula the structure is the
    common one, a known one of the library, or the structure type that explains most.
    """
    name, choices = _choices(what, library)
    grids = grids_of(pattern)
    asked: list[Candidate] = []
    found: list[Found] = []
    for candidates, stretch in choices:
        asked = asked or candidates[:1]
        placed = place(candidates, pattern, stretch, TRIED)
        found += [_found(candidate, grids, stretch) for candidate in placed.candidates]
        if any(one.share > PRESENT for one in found):
            break
    if not found:
        raise ValueError(
            f"phase {name}: no structure type holds this formula; give a CIF file"
        )
    best = max(found, key=lambda one: one.share)
    if best.share < PRESENT:
        raise ValueError(_absent(name, asked[0], grids[-1]))
    crystal = replace(best.candidate.crystal, lattice=current_lattice(best.fitted.block))
    return Phase(crystal, best.candidate.symmetry, name=name)


@dataclass(frozen=True)
class Found:
    """A structure refined as one phase, and the share of the pattern that it explains."""

    candidate: Candidate
    fitted: Fitted
    share: float


def _found(candidate: Candidate, grids: Sequence[Grid], stretch: float) -> Found:
    """A structure refined; it explains nothing where its cell has run away."""
    fitted = refined_through(candidate, grids)
    seen = (grids[-1].weight > 0).float()
    share, _ = matched(fitted.calculated, grids[-1].observed[None], seen)
    volume = current_lattice(fitted.block).det() / candidate.crystal.lattice.det()
    near = abs(float(volume.abs().log())) < 3 * stretch
    return Found(candidate, fitted, float(share[0]) if near else 0.0)


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
    curve = profiles(block, grid, False)[0][0]
    inner = (curve[1:-1] > curve[:-2]) & (curve[1:-1] >= curve[2:])
    tops = torch.nonzero(inner).flatten() + 1
    tops = tops[curve[tops].argsort(descending=True)][:NAMED]
    angles = ", ".join(f"{float(t):.2f}°" for t in grid.two_theta[tops])
    return (
        f"phase {name}: its strongest lines (at {angles}) are not in the pattern; "
        "check the phase and the wavelength, or leave it out"
    )


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
    if left.max() <= 0:
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
