"""What a fit leaves unexplained, and names for it."""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import replace
from itertools import combinations, islice, product
from math import gcd

import numpy as np

from xrdkit.library import Library, formula_hash
from xrdkit.peaks import typical_fwhm
from xrdkit.phases.compounds import GIVEN, TYPE, common_compounds, compound, reduced_name
from xrdkit.problem import by_number
from xrdkit.refine.block import pack
from xrdkit.refine.grid import make_grid
from xrdkit.refine.least_squares import refine_block
from xrdkit.refine.one_sided import STAGES, matched, place
from xrdkit.types import Candidate, Fit, Pattern, Problem

SUBSTANTIAL = 0.05  # share of unexplained intensity that is named
EXPLAINS = 0.1  # of the leftover intensity, by a phase that is named
UNDER = 0.6  # cosine with the fit from which what it leaves lies under its own lines
ATOMS, MOST, TRIED = 24, 300, 8  # in a primitive cell; compounds compared; refined
COUNTS = 6  # of an element in the formula of an averaged type
AIR = frozenset({1, 6, 8})


def leftover(fit: Fit, ranges: tuple[tuple[float, float], ...] = ()) -> Pattern:
    """Observed intensity above the calculated profile, as a prepared pattern.

    ``ranges`` are those that were measured.
    """
    rest = (fit.observed - fit.calculated).clip(min=0).astype(float)
    return Pattern(
        fit.two_theta.astype(float),
        rest / max(rest.max(), 1e-12),
        fit.radiation,
        ranges=ranges,
        instrument=fit.instrument,
        prepared=True,
        name="leftover",
    )


def foreign_phases(
    problem: Problem, fit: Fit, *, count: int = 5
) -> tuple[tuple[str, float], ...]:
    """Names of phases that would explain what a fit leaves, and the share (0–1) of it.

    Compounds of the sample's elements, with oxygen, carbonates and water from the air, that
    the library knows, and common holders and standards, but not the fitted phase itself,
    whose lines keep what profile and texture miss. Empty where little is left, or where it
    lies under the lines of the fit: then its profile or texture is wrong.
    """
    if fit.unexplained < SUBSTANTIAL or _under_lines(fit) > UNDER:
        return ()
    rest = leftover(fit, problem.pattern.ranges)
    own = set(by_number(problem.one_of_each))
    known = list(islice(known_compounds(problem.library, own), MOST))
    stretch = TYPE if problem.library.info.get("averaged") else GIVEN
    found: dict[str, float] = {}
    for candidates, largest in (
        (list(common_compounds().values()), GIVEN),
        (known, stretch),
    ):
        others = [one for one in candidates if not _is_first(one, fit)]
        placed = place(others, rest, largest, TRIED)
        for name, share in _shares(placed.candidates, rest):
            found[name] = max(share, found.get(name, 0.0))
    best = sorted(found.items(), key=lambda item: -item[1])
    return tuple((name, share) for name, share in best if share > EXPLAINS)[:count]


def _under_lines(fit: Fit) -> float:
    """Cosine between what a fit leaves and what it calculates."""
    rest = (fit.observed - fit.calculated).clip(min=0)
    own = fit.calculated - fit.background
    return float(rest @ own / max(np.linalg.norm(rest) * np.linalg.norm(own), 1e-12))


def _is_first(candidate: Candidate, fit: Fit) -> bool:
    """Whether a candidate has the fit's own composition and space group."""
    counts = np.bincount(candidate.crystal.numbers.numpy())
    contents = {int(z): int(counts[z]) for z in np.flatnonzero(counts)}
    name = fit.structure.composition.reduced_formula
    return candidate.symmetry.number == fit.space_group and reduced_name(contents) == name


def _shares(candidates: Sequence[Candidate], rest: Pattern) -> list[tuple[str, float]]:
    """Name of each candidate and the share of the leftover that it explains, refined."""
    if not candidates:
        return []
    block = pack(list(candidates), float(rest.q.max()))
    for stage in STAGES[:-1]:
        grid = make_grid(
            rest, typical_fwhm(rest), strain=stage.strain, per_fwhm=stage.per_fwhm
        )
        grid = replace(grid, smooth=grid.smooth[:, :0])
        fitted = refine_block(block, grid, stage)
        block = fitted.block
    share, _ = matched(fitted.calculated, grid.observed[None], (grid.weight > 0).float())
    return [(c.origin, float(s)) for c, s in zip(candidates, share, strict=True)]


def known_compounds(library: Library, own: set[int]) -> Iterator[Candidate]:
    """Small compounds of these elements and the air's that a library holds."""
    averaged = bool(library.info.get("averaged"))
    for row, contents in _averaged(library, own) if averaged else _members(library, own):
        yield compound(library, row, contents, reduced_name(contents))


def _members(library: Library, own: set[int]) -> Iterator[tuple[int, dict[int, int]]]:
    """Rows of a library with members, and what is in their cells."""
    rows = library.rows[library.counts[library.rows] <= ATOMS]
    allowed = np.array(sorted({0, *own, *AIR}))
    for row in rows[np.isin(library.elements[rows], allowed).all(1)].tolist():
        numbers = library.elements[row][library.slot[library.atoms(row)]]
        names, counts = np.unique(numbers, return_counts=True)
        contents = dict(zip(names.tolist(), counts.tolist(), strict=True))
        if _from_air(contents, own):
            yield row, contents


def _averaged(library: Library, own: set[int]) -> Iterator[tuple[int, dict[int, int]]]:
    """Rows of averaged prototypes, and the formulas of these elements they stand for."""
    formulas = {formula_hash(f): f for f in _formulas(own)}
    held = np.isin(library.formula, np.array(list(formulas)))
    rows, hashes = library.formula_of[held], library.formula[held]
    small = np.isin(rows, library.rows) & (library.counts[rows] <= ATOMS)
    rows, hashes = rows[small], hashes[small]
    popular = np.argsort(-library.type_size[library.kind[rows]], kind="stable")
    for i in popular.tolist():
        yield int(rows[i]), formulas[int(hashes[i])]


def _formulas(own: set[int]) -> Iterator[dict[int, int]]:
    """Reduced formulas of up to three of these elements and the air's."""
    for size in (1, 2, 3):
        for names in combinations(sorted(own | AIR), size):
            if _from_air(names, own):
                for counts in product(range(1, COUNTS + 1), repeat=size):
                    if gcd(*counts) == 1:
                        yield dict(zip(names, counts, strict=True))


def _from_air(elements: Collection[int], own: set[int]) -> bool:
    """Whether carbon and hydrogen that are not the sample's come with oxygen."""
    return 8 in elements or own.issuperset(elements)
