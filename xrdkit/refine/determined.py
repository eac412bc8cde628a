"""What a pattern decides of a refined structure, and what it leaves to the structure type.

Three questions, answered from the log evidence of rank.py, whose noise level is the fit's
own residual with its systematic share. *Coordinates*: the curvature of the evidence gives
e.s.d.s with all other parameters free. *Presence*: an orbit is taken out. *Order*: the
elements of two orbits are mixed over both, or exchanged. The other parameters follow in a
few steps, all changed copies of one fit in one block.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from xrdkit.crystal import (
    orbits,
    reference_dataset,
    spglib_cell,
    symmetry_dataset,
    to_structure,
)
from xrdkit.library import mendeleev_numbers
from xrdkit.metrics import normalised_rmse
from xrdkit.peaks import typical_fwhm
from xrdkit.progress import result_of
from xrdkit.rank import FLOOR, OBSERVATIONS, SYSTEMATIC, TOLD, log_evidence
from xrdkit.refine.batch import Q_MAX
from xrdkit.refine.block import EXTRAS, STRAINS, Block, pack
from xrdkit.refine.grid import Grid, line_limit, make_grid
from xrdkit.refine.known import with_phases
from xrdkit.refine.least_squares import Fitted, Stage, block_steps, state
from xrdkit.refine.texture import CHOICES, orientation_factors
from xrdkit.types import Candidate, Crystals, Fit, Pattern, Phase, Progress

# Right structures of 160 disturbed mp_20_val patterns: of 450 coordinates that counted as
# determined 98 % were within FAR, 95 % of all errors within 2.0 e.s.d.s; a wrong exchange
# fitted better by more than TOLD in 2 %, an orbit's removal in 0.1 %.
FAR, LEVEL = 0.1, 2.0  # a coordinate is determined when LEVEL e.s.d.s are below FAR (Å)
PROFILE = Stage(0.0, 4.0, 8, True, True, 1)  # finds line width and shape again
FOLLOW = Stage(0.0, 4.0, 3, True, True, 1)  # steps in which the rest follows a change
WORK = 2e7  # copies · parameters · points that are held at once
PAIRS = 60  # of orbits, beyond which order is asked of elements as wholes
FIXED = " (coordinates fixed by symmetry)"


@dataclass(frozen=True)
class Orbit:
    """Equivalent atoms of a fit, and the coordinates that symmetry leaves free.

    ``rows`` turn a change of the first atom's fractional coordinates into the change of
    each free coordinate, in Å.
    """

    atoms: Int[np.ndarray, " atoms"]
    symbol: str
    site: str
    label: str
    axes: str
    rows: Float[np.ndarray, "free 3"]


def determined(pattern: Pattern, fits: list[Fit], **given: Any) -> list[Fit]:
    """The fits of ``determined_steps``, run to its end."""
    return result_of(determined_steps(pattern, fits, **given))


def determined_steps(
    pattern: Pattern,
    fits: list[Fit],
    *,
    phases: tuple[Phase, ...] = (),
    device: torch.device | None = None,
) -> Iterator[Progress]:
    """Yield steps; return the fits with ``determined`` and ``undetermined`` in words.

    ``pattern`` is the prepared one that was fitted, ``phases`` those fitted along. Only the
    first phase is looked at.
    """
    if not pattern.prepared:
        raise ValueError(
            "the pattern is as measured, the fits are on the prepared one; "
            "give solution.problem.pattern"
        )
    width, q_max = typical_fwhm(pattern), line_limit(pattern, Q_MAX)
    grid = make_grid(pattern, width, per_fwhm=PROFILE.per_fwhm, q_max=Q_MAX)
    grid = grid.to(device or torch.device("cpu"))
    done = []
    for fit in fits:
        seen = replace(grid, radiation=fit.radiation, instrument=fit.instrument)
        seen = with_phases(seen, phases)
        held = yield from held_again(fit, seen, q_max)
        yes, no = yield from statements(held, seen, orbits_of(fit))
        done.append(replace(fit, determined=yes, undetermined=no))
    return done


def held_again(fit: Fit, grid: Grid, q_max: float) -> Iterator[Progress]:
    """Yield steps; return the first phase as a Fitted of one, with texture and shape."""
    phase = fit.phases[0]
    candidate = Candidate(phase.crystal, phase.symmetry, fit.origin)
    block = pack([candidate], q_max).to(grid.observed.device)
    lift = fit.instrument.displacement / fit.instrument.radius
    block.values[:, -EXTRAS] = fit.instrument.zero - float(np.degrees(2 * lift))
    if phase.texture in CHOICES:
        chosen = CHOICES.index(phase.texture)
        factors = orientation_factors(block, 0, candidate)[chosen]
        block = replace(block, texture=factors[None])
    return block_steps(block, grid, PROFILE)


def orbits_of(fit: Fit) -> list[Orbit]:
    """The orbits of a fit's first phase, named as in its standard setting."""
    from pymatgen.core import Element

    crystal, symmetry = fit.phases[0].crystal, fit.phases[0].symmetry
    frac, numbers = crystal.frac.double().numpy(), crystal.numbers.numpy()
    operations = symmetry.rotations.numpy(), symmetry.translations.double().numpy()
    member = orbits(*operations, frac, numbers)
    sites, order, turn = named_sites(fit)
    free = symmetry.coordinate_basis.double().numpy().reshape(len(frac), 3, -1)
    seen: dict[str, int] = {}
    listed = []
    for first in sorted(np.unique(member), key=order.__getitem__):
        atoms = np.flatnonzero(member == first)
        symbol = Element.from_Z(int(numbers[first])).symbol
        seen[symbol] = seen.get(symbol, 0) + 1
        chosen = pivots(turn @ free[first])
        axes = "".join("xyz"[i] for i in chosen)
        label = f"{symbol}{seen[symbol]} ({sites[first]})"
        listed.append(Orbit(atoms, symbol, sites[first], label, axes, turn[list(chosen)]))
    return listed


def named_sites(fit: Fit) -> tuple[list[str], list[tuple], Float[np.ndarray, "3 3"]]:
    """Of every atom of the first phase the site ("4f") and the place in the list of sites.

    Sites are listed by Mendeleev number, then Wyckoff letter, as in reports and CIFs. The
    matrix turns fractional shifts into shifts along the axes of that setting, in Å.
    """
    crystal, shown = fit.phases[0].crystal, fit.structure
    frac, numbers = crystal.frac.double().numpy(), crystal.numbers.numpy()
    first = symmetry_dataset(spglib_cell(to_structure(crystal))[0], 0.1)
    then = reference_dataset(spglib_cell(shown)[0])
    if first is None or then is None:
        axes = crystal.lattice[0].double().norm(dim=1).diag().numpy()
        return [""] * len(frac), [(i,) for i in range(len(frac))], axes
    standard = frac @ first.transformation_matrix.T + first.origin_shift
    off = standard[:, None] - shown.frac_coords
    off = (off - np.rint(off)) @ shown.lattice.matrix
    row = np.linalg.norm(off, axis=-1).argmin(1)
    owner = then.crystallographic_orbits[row]
    atoms = np.bincount(then.crystallographic_orbits)[owner]
    atoms = atoms * len(then.std_types) // len(shown)
    letters = [then.wyckoffs[i] for i in row]
    nature = mendeleev_numbers()[numbers]
    least = [nature[owner == own].min() for own in owner]
    turn = then.transformation_matrix @ first.transformation_matrix
    return (
        [f"{n}{letter}" for n, letter in zip(atoms, letters, strict=True)],
        list(zip(least, letters, owner.tolist(), strict=True)),
        np.linalg.norm(then.std_lattice, axis=1)[:, None] * turn,
    )


def pivots(directions: Float[np.ndarray, "3 shifts"]) -> tuple[int, ...]:
    """The axes (0, 1, 2) whose coordinates are independent: x alone for (x, x, 0)."""
    chosen: list[int] = []
    for axis in range(3):
        rows = directions[[*chosen, axis]]
        if rows.size and np.linalg.matrix_rank(rows, tol=1e-3) > len(chosen):
            chosen.append(axis)
    return tuple(chosen)


def statements(held: Fitted, grid: Grid, sites: list[Orbit]) -> Iterator[Progress]:
    """Yield steps; return what is determined and what not: of orbits, then of the order."""
    without = yield from losses(
        held, grid, [taken_out(held.block, orbit) for orbit in sites]
    )
    errors = coordinate_errors(held, grid, sites)
    words: dict[bool, list[str]] = {True: [], False: []}
    for orbit, present, error in zip(sites, without > TOLD, errors, strict=True):
        seen = bool(present) and orbit.symbol != "H"  # an electron, moved into its bond
        known = [seen, *(seen & (LEVEL * error < FAR)).tolist()]
        for told, said in words.items():
            names = zip(("presence", *orbit.axes), known, strict=True)
            if chosen := [name for name, is_known in names if is_known == told]:
                fixed = "" if orbit.axes or not told else FIXED
                said.append(f"{orbit.label}: {', '.join(chosen)}{fixed}")
    pairs = yield from orders(held, grid, sites)
    for pair, sites_told in pairs.items():
        for told, said in words.items():
            places = [place for place, is_told in sites_told.items() if is_told == told]
            if told and len(places) == len(sites_told):
                said.append(f"order of {pair}")
            else:
                said += [f"order of {pair} on {place}" for place in places]
    return tuple(words[True]), tuple(words[False])


def orders(held: Fitted, grid: Grid, sites: list[Orbit]) -> Iterator[Progress]:
    """Yield steps; return whether the pattern tells which element is where.

    By pair of elements and pair of sites. It does when neither a mixture of both elements
    over both sites nor, on sites of equal multiplicity, their exchange fits as well. An
    exchange that gives the same crystal (as in CsCl) is passed over.
    """
    pairs = pairs_of(held.block, sites)
    if len(pairs) > PAIRS:
        pairs = pairs_of(held.block, by_element(sites))
    lost = yield from losses(held, grid, [mixed(held.block, *pair) for pair in pairs])
    told = lost > TOLD
    doubtful = [
        i
        for i, (one, other) in enumerate(pairs)
        if told[i] and len(one.atoms) == len(other.atoms)
    ]
    turned = [exchanged(held.block, *pairs[i]) for i in doubtful]
    lost = yield from losses(held, grid, turned)
    for i, change, loss in zip(doubtful, turned, lost, strict=True):
        told[i] = loss > TOLD or same_crystal(held.block, change)
    found: dict[str, dict[str, bool]] = {}
    for (one, other), is_told in zip(pairs, told.tolist(), strict=True):
        places = found.setdefault(f"{one.symbol} and {other.symbol}", {})
        place = f"{one.site} / {other.site}"
        places[place] = places.get(place, True) and is_told
    return found


def pairs_of(block: Block, sites: list[Orbit]) -> list[tuple[Orbit, Orbit]]:
    """Pairs of orbits with different elements, less those that share a mixed site."""
    frac = block.frac[0]
    pairs = []
    for one, other in combinations(sites, 2):
        apart = frac[one.atoms[0]] - frac[other.atoms]
        shared = ((apart - apart.round()).abs() < 1e-4).all(1).any()
        if one.symbol != other.symbol and not shared:
            pairs.append((one, other))
    return pairs


def by_element(sites: list[Orbit]) -> list[Orbit]:
    """All orbits of each element as one."""
    whole = []
    for symbol in dict.fromkeys(orbit.symbol for orbit in sites):
        mine = [orbit for orbit in sites if orbit.symbol == symbol]
        atoms = np.concatenate([orbit.atoms for orbit in mine])
        site = ", ".join(orbit.site for orbit in mine)
        whole.append(Orbit(atoms, symbol, site, symbol, "", np.zeros((0, 3))))
    return whole


Change = tuple[Int[Tensor, " species"], Float[Tensor, " species"]]


def _species(block: Block) -> Change:
    """Numbers and occupancies of all atoms, and of a second, absent species on each."""
    occupancy = block.occupancy[0]
    return block.numbers[0].repeat(2), torch.cat([occupancy, torch.zeros_like(occupancy)])


def taken_out(block: Block, orbit: Orbit) -> Change:
    """The crystal without an orbit."""
    numbers, occupancy = _species(block)
    occupancy[orbit.atoms] = 0
    return numbers, occupancy


def exchanged(block: Block, one: Orbit, other: Orbit) -> Change:
    """The elements of two orbits exchanged."""
    numbers, occupancy = _species(block)
    first, second = numbers[one.atoms[0]].clone(), numbers[other.atoms[0]].clone()
    numbers[one.atoms], numbers[other.atoms] = second, first
    here, there = occupancy[one.atoms].clone(), occupancy[other.atoms].clone()
    occupancy[one.atoms], occupancy[other.atoms] = there, here
    return numbers, occupancy


def same_crystal(block: Block, change: Change) -> bool:
    """Whether the changed crystal matches the one that was fitted (literature settings)."""
    lattice, frac = block.lattice.cpu(), block.frac[0].cpu()
    u_iso, owner = block.u_iso[0].cpu(), torch.zeros(len(frac), dtype=torch.long)
    n, occupancy = len(frac), block.occupancy[0].cpu()
    before, after = (
        to_structure(Crystals(lattice, frac, numbers[:n].cpu(), occupancy, u_iso, owner))
        for numbers in (block.numbers[0], change[0])
    )
    return normalised_rmse(before, after) is not None


def mixed(block: Block, one: Orbit, other: Orbit) -> Change:
    """The elements of two orbits spread evenly over both, the contents kept."""
    numbers, occupancy = _species(block)
    n = len(block.numbers[0])
    amount = [float(occupancy[o.atoms].sum()) for o in (one, other)]
    for here, there, kept in ((one, other, amount[0]), (other, one, amount[1])):
        share = kept / sum(amount)
        numbers[here.atoms + n] = int(numbers[there.atoms[0]])
        occupancy[here.atoms + n] = (1 - share) * occupancy[here.atoms]
        occupancy[here.atoms] *= share
    return numbers, occupancy


def losses(held: Fitted, grid: Grid, changes: list[Change]) -> Iterator[Progress]:
    """Yield steps; return the fall of the log evidence with each change.

    The other parameters have followed the change.
    """
    columns = held.block.values.shape[1]
    at_once = max(1, int(WORK / (columns * grid.padded)))
    residual = [float(held.residual[0])]
    for first in range(0, len(changes), at_once):
        part = changes[first : first + at_once]
        block = held.block.select(torch.zeros(len(part), dtype=torch.long))
        block = replace(
            block,
            frac=block.frac.repeat(1, 2, 1),
            u_iso=block.u_iso.repeat(1, 2),
            shift_basis=block.shift_basis.repeat(1, 2, 1),
            numbers=torch.stack([numbers for numbers, _ in part]),
            occupancy=torch.stack([occupancy for _, occupancy in part]),
        )
        fitted = yield from block_steps(block, grid, FOLLOW)
        residual += fitted.residual.tolist()
    evidence = log_evidence(np.array(residual), np.zeros(len(residual)), len(grid))
    return evidence[0] - evidence[1:]


def coordinate_errors(
    held: Fitted, grid: Grid, sites: list[Orbit]
) -> list[Float[np.ndarray, " free"]]:
    """e.s.d. in Å of each orbit's free coordinates, all other parameters free.

    The inverse of -∂² log evidence / ∂p²: the normal matrix divided by the weighted sum of
    squares, with its systematic share, per independent observation. Coordinates of a polar
    group are relative to the mean of all atoms.
    """
    block = held.block
    _, jacobian = state(block, grid, True)
    smooth = grid.linear.T[None]
    columns = torch.cat(
        [jacobian[:, block.present[0]], held.calculated[:, None], smooth], 1
    )[0].double()
    normal = (columns * grid.weight) @ columns.T
    size = normal.diagonal().sqrt().clamp_min(1e-12)
    ridge = 1e-9 * torch.eye(len(size), dtype=size.dtype, device=size.device)
    inverse = torch.linalg.inv(normal / size / size[:, None] + ridge) / size / size[:, None]
    total = (grid.weight * grid.observed**2).sum().double()
    r0 = SYSTEMATIC * float(held.residual[0]) + FLOOR
    level = float(held.residual[0]) ** 2 + r0**2
    covariance = inverse * total * level / min(OBSERVATIONS, len(grid) / 6)
    strains = int(block.present[0, :STRAINS].sum())
    k = block.shifts
    covariance = covariance[strains : strains + k, strains : strains + k].cpu().numpy()
    basis = block.shift_basis[0].double().cpu().numpy()
    basis = basis.reshape(block.frac.shape[1], 3, k)
    errors = []
    for orbit in sites:
        moved = orbit.rows @ basis[orbit.atoms[0]]
        errors.append(np.sqrt(np.einsum("ik,kl,il->i", moved, covariance, moved)))
    return errors
