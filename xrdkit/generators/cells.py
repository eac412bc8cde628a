"""Indexing: the cells that explain the lines of a pattern, best first."""

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float

from xrdkit.cell import lattice_of
from xrdkit.generators.learned_cells import learned_cells
from xrdkit.indexing.bravais import (
    parameters,
    primitive,
    same_lattice,
    standard,
    superlattices,
)
from xrdkit.indexing.extinction import extinction_symbols
from xrdkit.indexing.line_match import (
    Setting,
    ambiguities,
    calculated,
    dominant_zones,
    match,
    merit,
    observed_lines,
    refined,
)
from xrdkit.indexing.search import (
    LINES,
    STARTS,
    Lines,
    search,
)
from xrdkit.indexing.settings import (
    ENLARGED,
    POLISHED,
    adopted,
    derivatives,
    distinct,
    polished_settings,
    symmetric,
)
from xrdkit.library import Library, expected_volume
from xrdkit.peaks import find_peaks
from xrdkit.problem import by_number, usable_cell
from xrdkit.progress import result_of
from xrdkit.space_group import CENTRING
from xrdkit.types import Pattern, Problem, Progress

Rows = Float[np.ndarray, "3 3"]
SYSTEMS = "chtoma"  # cubic, hexagonal, tetragonal, orthorhombic, monoclinic, triclinic
LEAST, ENOUGH = 4, 8  # lines without which nothing is tried, or only high symmetry
CLEAR = 2.2  # figure per line beyond which lower symmetry is not tried
LOWER = ("oP", "mP", "aP")  # before which a clear result ends the search
SEARCHES = {"m": 4, "a": 5}  # at most, of systems with many parameters
PARENTS = 5  # cells whose derivatives are tried
KEPT = 60  # results from which the answer is chosen
FROM_BELOW = ((5, 8), (10, 4), (20, 2), (40, 1))  # lines of a cell by hand, tolerance
LOOKED_AT = 3  # first cells whose ambiguities and extinctions are worked out
_CENTRINGS = " ".join(CENTRING)


@dataclass(frozen=True)
class IndexedCell:
    """A cell that explains lines of a pattern: a, b, c (Å), α, β, γ (°), standard setting.

    ``bravais`` is the lattice ("oP"), ``volume`` that of this cell (Å³); ``zero`` (°) is to
    be subtracted from observed 2θ. ``m20`` and ``f_n`` are the figures of merit of de Wolff
    and of Smith and Snyder over the indexed lines, ``indexed`` of ``lines``. ``esd`` are
    standard uncertainties of ``cell``; ``figure`` is the log odds against chance by which
    cells are ordered. ``extinctions`` are symbols that agree with the pattern, the most
    restrictive first (first cells only).
    """

    cell: tuple[float, ...]
    bravais: str
    volume: float
    m20: float
    f_n: float
    indexed: int
    lines: int
    zero: float
    esd: tuple[float, ...]
    figure: float
    extinctions: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()

    @property
    def primitive(self) -> Rows:
        """Rows (Å) of a primitive cell."""
        return primitive(lattice_of(self.cell), self.bravais[1])


def index(
    pattern: Pattern,
    *,
    volume: float | None = None,
    count: int = 20,
    systems: str = SYSTEMS,
    proposed: Sequence[tuple[float, ...]] = (),
    seed: int = 0,
) -> list[IndexedCell]:
    """Cells that explain the lines of a prepared pattern, best first; see index_steps."""
    settings = {"systems": systems, "proposed": proposed, "seed": seed}
    return result_of(index_steps(pattern, volume=volume, count=count, **settings))


def index_steps(
    pattern: Pattern,
    *,
    volume: float | None = None,
    count: int = 20,
    systems: str = SYSTEMS,
    proposed: Sequence[tuple[float, ...]] = (),
    seed: int = 0,
) -> Iterator[Progress]:
    """Yield progress lattice by lattice; return the ``count`` best cells.

    ``volume`` (Å³) is that of a formula unit, or of the contents, where they are known:
    primitive cells near a multiple of it are preferred. ``systems`` are first letters of
    Bravais symbols. ``proposed`` are rough primitive cells (Å, °), as ``learned_cells``
    gives them, which are refined and judged beside those that are found.
    """
    lines, started = observed_lines(pattern), time.monotonic()
    wanted = _wanted(lines, systems)
    generator = torch.Generator().manual_seed(seed)
    pool = adopted(proposed, lines, volume, wanted)
    for done, symbol in enumerate(wanted):
        if symbol in LOWER and _clear(pool, lines):
            break
        for _ in range(SEARCHES.get(symbol[0], 1)):
            trials = search(symbol, lines, generator, unit=volume)
            found = polished_settings(trials, symbol, lines, volume)
            pool += found
            best = max(pool, key=lambda s: s.figure, default=None)
            spent = time.monotonic() - started
            yield Progress("index", done + 1, len(wanted), best, symbol, spent)
            if _clear(found, lines):
                break
    pool += derivatives(distinct(pool, PARENTS), lines, volume)
    pool = distinct([symmetric(s, lines, volume) for s in distinct(pool, KEPT)], count)
    return [_described(pool, rank, lines, pattern) for rank in range(len(pool))]


def _wanted(lines: Lines, systems: str) -> list[str]:
    """Bravais lattices to be tried, of high symmetry first."""
    if len(lines) < LEAST:
        raise ValueError(
            f"{len(lines)} lines are too few to find a cell, {LEAST} are the least and "
            "20 are wanted; measure longer or over a wider range"
        )
    if unknown := set(systems) - set(SYSTEMS):
        raise ValueError(
            f"systems {''.join(sorted(unknown))!r} are not known; "
            f"give letters of {SYSTEMS!r}, the first of Bravais symbols"
        )
    tried = SYSTEMS if len(lines) >= ENOUGH else "cht"
    return [s for system in tried if system in systems for s in STARTS if s[0] == system]


def _clear(pool: list[Setting], lines: Lines) -> bool:
    """Whether a result explains every line far beyond chance."""
    best = max(pool, key=lambda s: s.figure, default=None)
    if best is None or best.figure < CLEAR * min(len(lines), POLISHED) or len(lines) < 12:
        return False
    return bool(match(best, lines.first(LINES))[2].all())


def _described(
    pool: list[Setting], rank: int, lines: Lines, pattern: Pattern
) -> IndexedCell:
    """One cell of the answer with figures of merit, uncertainties and warnings."""
    setting, esd = refined(pool[rank], lines)
    _, hkl, hit = match(setting, lines)
    warnings = (*_short(lines, hit), *dominant_zones(hkl[hit]), *_relations(pool, rank))
    extinctions: tuple[str, ...] = ()
    if rank < LOOKED_AT:
        warnings += _ambiguous(setting, float(lines.q[-1]))
        extinctions = extinction_symbols(pattern, setting)
    m20, f_n = merit(setting, lines)
    return IndexedCell(
        cell=parameters(setting.lattice),
        bravais=setting.bravais,
        volume=abs(float(np.linalg.det(setting.lattice))),
        m20=m20,
        f_n=f_n,
        indexed=int(hit.sum()),
        lines=len(lines),
        zero=setting.zero,
        esd=esd,
        figure=setting.figure,
        extinctions=extinctions,
        warnings=warnings,
    )


def _short(lines: Lines, hit: np.ndarray) -> tuple[str, ...]:
    """Warnings of few lines, and of lines that the cell does not explain."""
    notes: tuple[str, ...] = ()
    if len(lines) < 20:
        notes += (f"only {len(lines)} lines, 20 are wanted; measure over a wider range",)
    if left := int((~hit).sum()):
        notes += (f"{left} of {len(lines)} lines are not indexed",)
    return notes


def _relations(pool: list[Setting], rank: int) -> tuple[str, ...]:
    """Which better cells a cell is a small multiple of, or a part of."""
    own, notes = pool[rank], []
    for place, better in enumerate(pool[: min(rank, LOOKED_AT)], 1):
        ratio = own.volume / better.volume
        times = round(max(ratio, 1 / ratio))
        small, large = sorted((own, better), key=lambda s: s.volume)
        if 2 <= times <= ENLARGED and abs(large.volume / small.volume / times - 1) < 0.03:
            cells = (rows @ small.primitive for rows in superlattices(times))
            if any(same_lattice(large.primitive, cell) for cell in cells):
                kind = "superlattice" if own is large else "sublattice"
                notes.append(f"derivative cell: {kind} of index {times} of no. {place}")
    return tuple(notes)


def _ambiguous(setting: Setting, q_max: float) -> tuple[str, ...]:
    """Sentences about other lattices that have the same lines."""
    notes = []
    for other in ambiguities(setting, q_max):
        edges = " ".join(f"{edge:.3f}" for edge in parameters(other.lattice)[:3])
        notes.append(f"geometrical ambiguity: {other.bravais} {edges} Å has the same lines")
    return tuple(notes)


def held_against(
    pattern: Pattern, cell: tuple[float | int, ...], centring: str = "P"
) -> IndexedCell:
    """A cell given by hand, refined against the lines of a prepared pattern.

    ``cell`` is a, b, c (Å), α, β, γ (°) in any setting, ``centring`` one of P A C I F R;
    the answer is in the standard setting of the lattice.
    """
    lines = observed_lines(pattern)
    if centring not in CENTRING:
        raise ValueError(f"centring {centring!r} is not known; give one of {_CENTRINGS}")
    if len(lines) < 2:
        raise ValueError(
            f"{len(lines)} lines are too few to judge a cell by; measure longer or over a "
            "wider range"
        )
    symbol, lattice = standard(primitive(lattice_of(usable_cell(cell)), centring), 1e-4)
    setting = Setting(symbol, lattice)
    for count, wide in FROM_BELOW:  # lines at low angle find theirs though the cell is off
        first = lines.first(count)
        setting, _ = refined(setting, replace(first, sigma=wide * first.sigma))
    return _described([setting], 0, lines, pattern)


def assigned(pattern: Pattern, cell: IndexedCell) -> list[dict[str, float | str]]:
    """Each line of a prepared pattern with what the cell makes of it.

    2θ (°), height (% of the highest), d (Å), h k l and 2θ observed minus calculated (°) of
    the nearest calculated line; the last two are empty where none is near.
    """
    peaks, lines = find_peaks(pattern), observed_lines(pattern)
    setting = Setting(cell.bravais, lattice_of(cell.cell), cell.zero)
    misfit, hkl, hit = match(setting, lines)
    return [
        {
            "2θ (°)": round(float(angle), 3),
            "height (%)": round(100 * float(height / peaks.height.max()), 1),
            "d (Å)": round(float(1 / np.sqrt(q)), 4),
            "h k l": " ".join(map(str, index)) if near else "",
            "obs − calc (°)": round(float(off), 3) if near else "",
        }
        for angle, height, q, index, off, near in zip(
            peaks.two_theta, peaks.height, lines.q.tolist(), hkl, misfit, hit, strict=True
        )
    ]


def marks(cell: IndexedCell, pattern: Pattern) -> list[float]:
    """2θ (°) of the lines that a cell has within a pattern, zero included, ascending."""
    low, high = float(pattern.two_theta[0]), float(pattern.two_theta[-1])
    sine = np.sin(np.radians(min(high, 179.0) / 2))
    setting = Setting(cell.bravais, lattice_of(cell.cell))
    q, _ = calculated(setting, float((2 * sine / pattern.radiation.main) ** 2))
    half = (np.sqrt(q) * pattern.radiation.main / 2).clip(max=1)
    angles = 2 * np.degrees(np.arcsin(half)) + cell.zero
    return angles[(angles >= low) & (angles <= high)].tolist()


def formula_volume(library: Library, formula: Mapping[str, float | int]) -> float:
    """Volume (Å³) that a formula unit (counts by element) is expected to take."""
    numbers = by_number(formula)
    return sum(numbers.values()) * expected_volume(library, numbers)


def unit_volume(problem: Problem) -> float:
    """Volume (Å³) that a primitive cell is to hold a whole number of times.

    That of the contents, else of a formula unit, else of one atom of each element.
    """
    held = problem.contents or problem.one_of_each
    return formula_volume(problem.library, held)


def cells_for(problem: Problem, *, count: int = 5) -> Iterator[Progress]:
    """Yield progress; return the problem with ``count`` cells from indexing.

    Their weights are their odds, below one. Where a CellNet ships, its cells are judged
    beside those of the search. Too few lines leave the problem as it is, with a warning.
    """
    unit, pattern = unit_volume(problem), problem.pattern
    atoms, whole = problem.contents or problem.formula, bool(problem.contents)
    proposed = learned_cells(pattern, atoms, contents=whole)
    try:
        found = yield from index_steps(pattern, volume=unit, count=count, proposed=proposed)
    except ValueError as error:
        warned = replace(pattern, warnings=(*pattern.warnings, f"no cells: {error}"))
        return replace(problem, pattern=warned)
    odds = np.exp([cell.figure - found[0].figure for cell in found])
    weights = 0.99 * odds / odds.sum()
    cells = tuple((c.cell, float(w)) for c, w in zip(found, weights, strict=True))
    return replace(problem, cells=(*problem.cells, *cells))
