"""Orderings of simpler parents, and the disordered parents themselves.

Like species of the formula, or a species and vacancies, are merged into one; library types
of the merged formula are *parents*, whose merged sites are mixed. The parents that look
most like the pattern are refined, and their mixed sites decorated in every way that
symmetry tells apart, on the parent cell and its supercells.
"""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import combinations, islice
from math import isclose

import numpy as np
import torch
from jaxtyping import Float, Int

from xrdkit.crystal import U_ISO, one_crystal, places, standard_cell, symmetry_of
from xrdkit.evidence import left_by
from xrdkit.generators.assign import ANIONS, Filling, fillings
from xrdkit.generators.derivative import inside, orderings, supercells
from xrdkit.generators.merges import WHOLE, merges, unlike
from xrdkit.generators.spectra import slot_counts
from xrdkit.generators.templates import (
    Hits,
    Search,
    compared,
    joined,
    log_prior,
    onto_cells,
    search_of,
    varied,
)
from xrdkit.library import Library, expected_volume, type_swelling
from xrdkit.peaks import typical_fwhm
from xrdkit.phases import without_phases
from xrdkit.problem import by_number, whole
from xrdkit.rank import log_evidence
from xrdkit.refine.batch import NOT_A_FIT, refine_steps
from xrdkit.refine.block import EXTRAS, STRAINS, Block
from xrdkit.refine.grid import Grid, make_grid
from xrdkit.refine.known import with_phases
from xrdkit.refine.least_squares import Stage, state
from xrdkit.scattering import half_spheres
from xrdkit.types import Candidate, Fit, Problem, Progress

PARENTS, ALIKE, DECORATED = 30, 2, 10  # parents refined; of one type and filling; decorated
UNEXPLAINED = 0.05  # residual above which parents are tried
TWINS = 2  # difference of atomic numbers that a powder pattern hardly sees
INDEX, ATOMS, EACH = 4, 20, 200  # supercells, atoms in them, orderings of one parent
ORDERED = 1.0  # lost in the prior by an ordering, beside what merging costs
DISORDERED = 3.0  # lost by a parent with mixed sites where whole numbers ask for none
UNLIKE = 5.0  # lost beside where what shares a site has other charges
KEPT, MARGIN = 80, 40.0  # orderings put up; their log posterior below that of the best
Q_MAX = 4.5  # 1/Å, for the comparison of orderings: superlattice lines come early
STAGES = (Stage(0.012, 2.5, 6, False, False, 20), Stage(0.005, 3.0, 5, True, True, 20))


@dataclass(frozen=True)
class Parent:
    """A library member of some type (kind) whose slots hold groups of elements.

    ``contents`` are the sites of each element in its primitive cell (0: vacancies),
    ``indices`` the supercells in which they are whole numbers; ``swelling`` is the type's,
    where no site is vacant.
    """

    kind: int
    filling: Filling
    contents: dict[int, float]
    indices: tuple[int, ...]
    lattice: Float[np.ndarray, "3 3"]
    frac: Float[np.ndarray, "sites 3"]
    slot: Int[np.ndarray, " sites"]
    space_group: int
    label: str
    prior: float
    swelling: float


def parents(problem: Problem) -> list[Parent]:
    """The library members, with merged species, that look most like the pattern."""
    library: Library = problem.library
    found = list(merged_hits(problem))
    if not found:
        return []
    hits = joined([part for part, *_ in found])
    source = np.repeat(np.arange(len(found)), [len(part.row) for part, *_ in found])
    best = varied(library, hits, np.arange(len(hits.row)), PARENTS, alike=ALIKE)
    return [parent_of(library, hits, i, *found[source[i]][1:]) for i in best]


def merged_hits(
    problem: Problem,
) -> Iterator[tuple[Hits, dict[int, float], tuple[int, ...]]]:
    """Merged formulas in the library's types, with ``Parent.contents`` and ``indices``."""
    library: Library = problem.library
    formula = by_number(problem.formula)
    expected = expected_volume(library, formula) * sum(formula.values())
    allowed = np.zeros(len(library.kind), bool)
    allowed[library.rows] = True
    searches: dict[float, Search] = {}
    pattern = without_phases(problem.pattern, problem.phases)
    for merge in merges(formula):
        if merge.sites not in searches:
            searches[merge.sites] = search_of(pattern, expected / merge.sites)
        for counts, rows in slot_counts(library):
            if len(counts) != len(merge.groups) or not allowed[rows].any():
                continue
            contents = {z: n * sum(counts) / merge.sites for z, n in merge.contents.items()}
            indices = whole_indices(problem, contents)
            if not (indices or may_be_mixed(problem, contents)):
                continue
            for filling in group_fillings(counts, merge.groups, contents):
                search = searches[merge.sites]
                part = compared(library, counts, rows, allowed, filling, contents, search)
                yield part, contents, indices


def group_fillings(
    counts: tuple[int, ...], groups: Filling, contents: dict[int, float]
) -> list[Filling]:
    """Every way to put whole groups of elements into the slots of a type."""
    sites = {i: sum(contents[z] for z in group) for i, group in enumerate(groups)}
    if not all(isclose(n, round(n), abs_tol=WHOLE) for n in sites.values()):
        return []
    found = fillings(counts, {i: round(n) for i, n in sites.items()})
    return [tuple(groups[i] for (i,) in filling) for filling in found]


def whole_indices(problem: Problem, contents: dict[int, float]) -> tuple[int, ...]:
    """Supercells of a parent cell with these contents that hold whole atoms.

    Those with as many atoms as the contents of the problem, or up to ATOMS.
    """
    atoms = sum(n for z, n in contents.items() if z)
    sizes = range(1, ATOMS + 1)
    if problem.contents:
        total = round(sum(problem.contents.values()))
        shares = (1, 2, 3, 4) if problem.given_cells else (1,)
        sizes = [total // n for n in shares if total % n == 0]
    return tuple(
        i
        for i in range(1, INDEX + 1)
        if round(i * atoms) in sizes
        and all(isclose(i * n, round(i * n), abs_tol=WHOLE) for n in contents.values())
    )


def may_be_mixed(problem: Problem, contents: dict[int, float]) -> bool:
    """Whether a parent with mixed sites may itself be the answer.

    Contents that are whole numbers are those of an ordered crystal.
    """
    if not problem.contents:
        return True
    total = sum(problem.contents.values())
    whole = all(isclose(n, round(n), abs_tol=WHOLE) for n in problem.contents.values())
    return not whole and isclose(total, sum(contents.values()), rel_tol=WHOLE)


def parent_of(
    library: Library,
    hits: Hits,
    i: int,
    contents: dict[int, float],
    indices: tuple[int, ...],
) -> Parent:
    """One hit with its geometry at the volume that fits best."""
    row, filling = int(hits.row[i]), hits.filling[i]
    atoms = library.atoms(row)
    lattice, frac = library.lattice[row].astype(float), library.frac[atoms].astype(float)
    lattice *= (hits.volume[i] * len(frac) / abs(np.linalg.det(lattice))) ** (1 / 3)
    kind = int(library.kind[row])
    return Parent(
        kind,
        filling,
        contents,
        indices,
        lattice,
        frac,
        library.slot[atoms].astype(int),
        int(library.space_group[row]),
        library.type_label[kind],
        log_prior(library, row, filling),
        0.0 if 0 in contents else type_swelling(library, kind, contents),
    )


def _shares(parent: Parent, slot: int) -> list[tuple[int, float]]:
    """Occupancies of a slot's species; counts a little over whole sites share these."""
    group = parent.filling[slot]
    total = sum(parent.contents[z] for z in group)
    sites = max(np.count_nonzero(parent.slot == slot), total)
    return [(z, parent.contents[z] / sites) for z in group if z]


def mixed(parent: Parent) -> Candidate:
    """A parent with its mixed sites, a row for each of their species."""
    shares = [_shares(parent, k) for k in range(len(parent.filling))]
    rows = [(i, z, n) for i, k in enumerate(parent.slot) for z, n in shares[k]]
    site, numbers, occupancy = (np.array(column) for column in zip(*rows, strict=True))
    frac = parent.frac[site]
    return Candidate(
        one_crystal(parent.lattice, frac, numbers, occupancy.astype(float)),
        symmetry_of(parent.space_group, parent.lattice, frac, numbers),
        f"{parent.label} parent, disordered",
        parent.prior,
        swelling=parent.swelling,
    )


def refined(
    problem: Problem, chosen: list[Parent], device: torch.device
) -> Iterator[Progress]:
    """Yield progress; return the parents with refined cells and sites, best fit first.

    Of one type and filling the best alone is left.
    """
    pool = [mixed(parent) for parent in chosen]
    fits = yield from refine_steps(
        problem.pattern, pool, phases=problem.phases, stages=STAGES, device=device
    )
    found: dict[tuple[int, Filling], Parent] = {}
    for fit in sorted(fits, key=lambda f: f.residual):
        phase = fit.phases[0]
        # refinement changes crystals but hands the symmetry of each candidate on
        i = next(i for i, c in enumerate(pool) if c.symmetry is phase.symmetry)
        lattice, frac = phase.crystal.lattice[0].double(), phase.crystal.frac.double()
        sites = frac.numpy()[places(frac.numpy())[0]]
        parent = replace(chosen[i], lattice=lattice.numpy(), frac=sites)
        found.setdefault((parent.kind, parent.filling), parent)
    return list(found.values())


@dataclass(frozen=True)
class Ordering:
    """A decorated supercell of a parent; element 0 is a vacancy."""

    parent: Parent
    index: int
    lattice: Float[np.ndarray, "3 3"]
    frac: Float[np.ndarray, "sites 3"]
    numbers: Int[np.ndarray, " sites"]


def decorations(parent: Parent) -> Iterator[Ordering]:
    """The symmetry-distinct orderings of a parent, small supercells first."""
    for index in parent.indices:
        wanted = {
            k: tuple((z, round(index * parent.contents[z])) for z in group)
            for k, group in enumerate(parent.filling)
        }
        for cell in supercells(parent.space_group, index):
            points = inside(cell.rows)[:, None] + parent.frac
            frac = points.reshape(-1, 3) @ np.linalg.inv(cell.rows)
            lattice = cell.rows @ parent.lattice
            for numbers in orderings(
                cell, parent.space_group, parent.frac, parent.slot, wanted
            ):
                yield Ordering(parent, index, lattice, np.mod(frac, 1), numbers)


def residuals(
    found: list[Ordering], grid: Grid, device: torch.device
) -> Float[np.ndarray, " orderings"]:
    """Profile residual of each ordering as it stands."""
    out = np.zeros(len(found))
    sizes = np.array([len(one.numbers) for one in found])
    for size in np.unique(sizes):
        rows = np.flatnonzero(sizes == size)
        for part in np.split(rows, range(EACH, len(rows), EACH)):
            block = rigid([found[i] for i in part]).to(device)
            out[part] = state(block, grid, False)[0].residual.cpu().numpy()
    return np.nan_to_num(out, nan=NOT_A_FIT)


def rigid(found: list[Ordering]) -> Block:
    """Orderings with equally many sites as a block without free cells or coordinates."""
    lattice = torch.tensor(np.array([one.lattice for one in found])).float()
    numbers = torch.tensor(np.array([one.numbers for one in found]))
    hkl, owner = half_spheres(lattice, Q_MAX)
    lines = torch.bincount(owner, minlength=len(found))
    each = torch.split(hkl.float(), lines.tolist())
    hkl = torch.nn.utils.rnn.pad_sequence(list(each), batch_first=True)
    there = torch.arange(hkl.shape[1]) < lines[:, None]
    hkl[..., 0] += (~there).float()
    b, n = numbers.shape
    return Block(
        lattice,
        torch.tensor(np.array([one.frac for one in found])).float(),
        numbers,
        (numbers > 0).float(),
        torch.full((b, n), U_ISO),
        hkl,
        there.float(),
        torch.zeros(b, STRAINS, 3, 3),
        torch.zeros(b, 3 * n, 0),
        torch.ones(b, hkl.shape[1]),
        torch.full((b,), -1),
        torch.zeros(b, STRAINS + EXTRAS),
        torch.zeros(b, STRAINS + EXTRAS, dtype=torch.bool),
    )


def ordered_candidates(problem: Problem, one: Ordering) -> list[Candidate]:
    """An ordering in its standard primitive cell, every way onto the candidate cells."""
    there = one.numbers > 0
    cell = standard_cell(one.lattice, one.frac[there], one.numbers[there])
    if cell is None or problem.space_group not in (None, cell.space_group):
        return []
    times = f" {one.index}×" if one.index > 1 else ""
    return [
        Candidate(
            one_crystal(lattice, cell.frac, cell.numbers),
            symmetry_of(cell.space_group, lattice, cell.frac, cell.numbers),
            f"{one.parent.label} parent, ordered{times}",
            one.parent.prior - ORDERED,
            swelling=one.parent.swelling,
        )
        for lattice in onto_cells(problem, cell.lattice, cell.space_group)
    ]


def mixed_candidates(problem: Problem, parent: Parent) -> list[Candidate]:
    """A parent itself, every way onto the candidate cells, where that may be the answer."""
    if problem.space_group not in (None, parent.space_group):
        return []
    if not may_be_mixed(problem, parent.contents):
        return []
    if whole(problem.formula):
        price = DISORDERED + UNLIKE * unlike(parent.filling)
        parent = replace(parent, prior=parent.prior - price)
    return [
        mixed(replace(parent, lattice=lattice))
        for lattice in onto_cells(problem, parent.lattice, parent.space_group)
    ]


def needed(problem: Problem, fits: Sequence[Fit]) -> bool:
    """Whether known types leave something, or elements whose order may not be seen."""
    alike = [
        abs(a - b) <= TWINS and (a in ANIONS) == (b in ANIONS)
        for a, b in combinations(by_number(problem.formula), 2)
    ]
    return left_by(fits, problem) > UNEXPLAINED or any(alike)


def propose(
    problem: Problem, *, count: int, generator: torch.Generator, device: torch.device
) -> Iterator[Progress]:
    """Orderings of merged parents that explain the pattern best, and mixed parents.

    Returns at most ``count`` candidates, a third of them with mixed sites.
    """
    started = time.monotonic()
    yield Progress("ordered", 0, count, message="merging like species")
    chosen = yield from refined(problem, parents(problem), device)
    chosen = chosen[:DECORATED]
    found = [c for p in chosen for c in mixed_candidates(problem, p)][: count // 3]
    every = [o for p in chosen for o in islice(decorations(p), EACH)]
    note = f"{len(every)} orderings of {len(chosen)} parents"
    spent = time.monotonic() - started
    yield Progress("ordered", len(found), count, message=note, seconds=spent)
    if every:
        for i in best_orderings(problem, every, device):
            found = [*found, *ordered_candidates(problem, every[i])][:count]
    return found


def best_orderings(
    problem: Problem, every: list[Ordering], device: torch.device
) -> list[int]:
    """Indices of the orderings that explain the pattern best, with regard to their prior.

    At most KEPT, none of them worse than the best by more than MARGIN in score.
    """
    stage = STAGES[-1]
    width = typical_fwhm(problem.pattern)
    grid = make_grid(
        problem.pattern, width, strain=stage.strain, per_fwhm=stage.per_fwhm, q_max=Q_MAX
    ).to(device)
    grid = with_phases(grid, problem.phases)
    residual = residuals(every, grid, device)
    prior = np.array([one.parent.prior for one in every])
    score = log_evidence(residual, np.zeros(len(every)), len(grid)) + prior
    best = np.argsort(-score, kind="stable")[:KEPT]
    return best[score[best] > score.max() - MARGIN].tolist()
