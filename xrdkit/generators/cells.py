"""Indexing: the cells that explain the lines of a pattern, best first."""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float, Int

from xrdkit import bravais as lattices
from xrdkit.indexing import (
    COLUMNS,
    LINES,
    STARTS,
    ZERO,
    Lines,
    Trials,
    allowed,
    free_parameters,
    polished,
    quadratic_forms,
    reciprocal_metric,
    search,
)
from xrdkit.peaks import find_peaks
from xrdkit.scattering import hkl_within
from xrdkit.types import Pattern, Problem, Progress, Radiation

Rows = Float[np.ndarray, "3 3"]
SYSTEMS = "chtoma"  # cubic, hexagonal, tetragonal, orthorhombic, monoclinic, triclinic
LEAST, ENOUGH = 4, 8  # lines without which nothing is tried, or only high symmetry
POLISHED = 32  # lines in the last refinement
ERROR, WIDTH_SHARE = 0.015, 0.08  # ° and share of the FWHM: error of a line's position
INDEXED = 3.0  # errors between a line and the calculated one
SPREAD = 0.12  # of ln V about the expected
ALIKE = 0.015  # relative edges and volume within which two results are one lattice
CLEAR = 2.2  # figure per line beyond which lower symmetry is not tried
PARENTS, ENLARGED = 5, 4  # cells too small for the formula that are enlarged, and how far
KEPT = 60  # results from which the answer is chosen


@dataclass(frozen=True)
class IndexedCell:
    """A cell that explains lines of a pattern: a, b, c (Å), α, β, γ (°), standard setting.

    ``bravais`` is the lattice ("oP"); ``volume`` that of this cell (Å³); ``zero`` (°) is to
    be subtracted from observed 2θ. ``m20`` is de Wolff's figure of merit over the first
    twenty indexed lines (J. Appl. Cryst. 1, 108 (1968)), ``f_n`` that of Smith and Snyder
    over all (J. Appl. Cryst. 12, 60 (1979)). ``indexed`` of ``lines`` lines agree; ``esd``
    are standard uncertainties of ``cell``; ``figure`` is the log odds against chance.
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
    warnings: tuple[str, ...] = ()

    @property
    def primitive(self) -> Rows:
        """Rows (Å) of a primitive cell."""
        rows = lattices.lattice_rows(self.cell)
        return lattices.primitive(rows, self.bravais[1])


@dataclass(frozen=True)
class Result:
    """A lattice on the way: Bravais symbol, conventional rows, zero (°), figure."""

    bravais: str
    lattice: Rows
    zero: float
    figure: float

    @property
    def primitive(self) -> Rows:
        """Rows of a primitive cell."""
        return lattices.primitive(self.lattice, self.bravais[1])

    @property
    def volume(self) -> float:
        """Of the primitive cell, Å³."""
        return abs(float(np.linalg.det(self.primitive)))


def index(pattern: Pattern, **keywords: object) -> list[IndexedCell]:
    """Cells that explain the lines of a prepared pattern, best first; see index_steps."""
    steps = index_steps(pattern, **keywords)
    while True:
        try:
            next(steps)
        except StopIteration as finished:
            return finished.value


def index_steps(
    pattern: Pattern,
    *,
    volume: float | None = None,
    count: int = 20,
    systems: Sequence[str] = SYSTEMS,
    seed: int = 0,
) -> Iterator[Progress]:
    """Yield progress lattice by lattice; return the ``count`` best cells.

    ``volume`` (Å³) is that of a formula unit where the formula is known: primitive cells
    near a multiple of it are preferred. ``systems`` are first letters of Bravais symbols.
    """
    lines, started = observed_lines(pattern), time.monotonic()
    check(lines)
    generator = torch.Generator().manual_seed(seed)
    wanted = [s for system in SYSTEMS if system in systems for s in STARTS if s[0] == system]
    pool: list[Result] = []
    for done, symbol in enumerate(wanted):
        if len(lines) < (ENOUGH if symbol[0] in "oma" else LEAST) or _clear(pool, lines):
            continue
        trials = search(symbol, lines, generator, unit=volume)
        pool += _polished(trials, symbol, lines, volume)
        best = max(pool, key=lambda r: r.figure, default=None)
        spent = time.monotonic() - started
        yield Progress("index", done + 1, len(wanted), best, symbol, spent)
    pool += enlarged(distinct(pool, PARENTS), lines, volume)
    pool = distinct([symmetric(r, lines, volume) for r in distinct(pool, KEPT)], count)
    return described(pool, lines)


def check(lines: Lines) -> None:
    """Refuse fewer lines than fix even the cell of a simple structure."""
    if len(lines) < LEAST:
        raise ValueError(
            f"{len(lines)} lines are too few to find a cell, {LEAST} are the least and "
            "20 are wanted; measure longer or over a wider range"
        )


def observed_lines(pattern: Pattern) -> Lines:
    """The lines of a prepared pattern as indexing wants them."""
    peaks = find_peaks(pattern)
    angle = torch.tensor(peaks.two_theta, dtype=torch.float32)
    height = torch.tensor(peaks.height, dtype=torch.float32)
    width = torch.tensor(peaks.fwhm, dtype=torch.float32)
    wavelength = pattern.radiation.main
    return Lines(
        (2 * torch.sin(torch.deg2rad(angle / 2)) / wavelength) ** 2,
        2 * torch.sin(torch.deg2rad(angle)) / wavelength**2 * (torch.pi / 180),
        ERROR + WIDTH_SHARE * width,
        0.03 + 0.3 * torch.exp(-height / 0.03 / height.max()),
    )


def volume_prior(volume: float, unit: float | None) -> float:
    """Log of how much likelier a primitive volume is for multiples of ``unit`` (Å³)."""
    if unit is None:
        return 0.0
    multiples = np.arange(1, max(2, round(1.5 * volume / unit)) + 1)
    apart = (np.log(volume / (unit * multiples)) / SPREAD) ** 2
    return float(np.log((np.exp(-0.5 * apart) / multiples).sum() / SPREAD + 0.02))


def _clear(pool: list[Result], lines: Lines) -> bool:
    """Whether a result explains every line far beyond chance."""
    best = max(pool, key=lambda r: r.figure, default=None)
    if best is None or best.figure < CLEAR * min(len(lines), POLISHED) or len(lines) < 12:
        return False
    return bool(_match(best, lines.first(LINES))[2].all())


def _trials(results: Sequence[Result]) -> Trials:
    """Results of one Bravais lattice as trials."""
    rows = torch.tensor(np.array([r.lattice for r in results]))
    metric = free_parameters(torch.linalg.inv(rows @ rows.mT), results[0].bravais[0])
    zero = torch.tensor([r.zero for r in results])
    return Trials(metric.float(), zero, torch.zeros_like(zero), torch.zeros_like(zero))


def _polished(
    trials: Trials, symbol: str, lines: Lines, volume: float | None
) -> list[Result]:
    """Trials refined on more lines, as results whose figure includes the volume prior."""
    trials = polished(trials, symbol, lines.first(POLISHED))
    metric = torch.linalg.inv(reciprocal_metric(trials.metric.double(), symbol[0]))
    rows = torch.linalg.cholesky(metric).numpy()
    facts = zip(rows, trials.zero.tolist(), trials.figure.tolist(), strict=True)
    found = [Result(symbol, *fact) for fact in facts]
    return [replace(r, figure=r.figure + volume_prior(r.volume, volume)) for r in found]


def distinct(results: list[Result], count: int) -> list[Result]:
    """The best of every lattice, best first."""
    chosen: list[tuple[np.ndarray, Result]] = []
    for result in sorted(results, key=lambda r: -r.figure):
        edges = np.sort(np.linalg.norm(lattices.reduced(result.primitive), axis=1))
        mark = np.append(edges, result.volume ** (1 / 3))
        if all(np.abs(mark / other - 1).max() > ALIKE for other, _ in chosen):
            chosen.append((mark, result))
        if len(chosen) == count:
            break
    return [result for _, result in chosen]


def enlarged(
    parents: list[Result], lines: Lines, volume: float | None
) -> list[Result]:
    """Superlattices of cells that are too small for one formula unit of ``volume``."""
    groups: dict[str, list[Result]] = {}
    for parent in parents:
        times = range(2, ENLARGED + 1) if volume and parent.volume < 0.65 * volume else ()
        for n in times:
            for rows in lattices.superlattices(n):
                symbol, lattice = lattices.standard(rows @ parent.primitive)
                larger = Result(symbol, lattice, parent.zero, 0.0)
                groups.setdefault(symbol, []).append(larger)
    found = []
    for symbol, results in groups.items():
        found += _polished(_trials(results), symbol, lines, volume)
    return found


def symmetric(result: Result, lines: Lines, volume: float | None) -> Result:
    """The result in the standard setting, of higher symmetry where that fits as well."""
    symbol, lattice = lattices.standard(result.primitive)
    if symbol != result.bravais:
        trial = _trials([replace(result, bravais=symbol, lattice=lattice)])
        refined = _polished(trial, symbol, lines, volume)
        if refined and refined[0].figure > result.figure - 1:
            result = refined[0]
    symbol, lattice = lattices.standard(result.primitive, 1e-4)
    return replace(result, bravais=symbol, lattice=lattice)


def calculated(result: Result, q_max: float) -> tuple[Float[np.ndarray, " lines"], Int[np.ndarray, "lines 3"]]:
    """Different Q = 1/d² (Å⁻²) up to a largest in ascending order, one hkl of each."""
    rows = torch.tensor(result.lattice)
    hkl = hkl_within(rows, 2 * np.pi * float(np.sqrt(q_max)))
    hkl = hkl[allowed(hkl.double(), result.bravais[1])].numpy()
    q = ((hkl @ np.linalg.inv(result.lattice).T) ** 2).sum(1)
    order = np.lexsort((-hkl[:, 2], -hkl[:, 1], -hkl[:, 0], np.round(q, 7)))
    first = np.append(True, np.diff(np.round(q[order], 7)) > 0)
    return q[order][first], hkl[order][first]


def _match(result: Result, lines: Lines) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Observed minus calculated 2θ (°), hkl of the nearest line, whether it is indexed."""
    observed = (lines.q - lines.slope * result.zero).double().numpy()
    q, hkl = calculated(result, float(observed[-1]) * 1.05)
    if not len(q):
        return np.full(len(lines), np.inf), np.zeros((len(lines), 3)), np.zeros(len(lines), bool)
    near = np.abs(observed[:, None] - q).argmin(1)
    misfit = (observed - q[near]) / lines.slope.double().numpy()
    return misfit, hkl[near], np.abs(misfit) < INDEXED * lines.sigma.numpy()


def described(results: list[Result], lines: Lines) -> list[IndexedCell]:
    """The answer: cells with figures of merit, uncertainties and warnings."""
    return [_described(r, lines) for r in results]


def _described(result: Result, lines: Lines) -> IndexedCell:
    result, esd = least_squares(result, lines)
    misfit, hkl, hit = _match(result, lines)
    return IndexedCell(
        lattices.parameters(result.lattice),
        result.bravais,
        abs(float(np.linalg.det(result.lattice))),
        *merit(result, lines),
        int(hit.sum()),
        len(lines),
        result.zero,
        esd,
        result.figure,
        (*_few(lines), *_unindexed(lines, hit), *_dominant_zone(hkl[hit])),
    )


def merit(result: Result, lines: Lines) -> tuple[float, float]:
    """M20 = Q20 / (2 <|ΔQ|> N20) and F_N = N / (<|Δ2θ|> N_possible) over indexed lines."""
    misfit, _, hit = _match(result, lines)
    if not hit.any():
        return 0.0, 0.0
    q, slope = lines.q.numpy()[hit], lines.slope.numpy()[hit]
    possible, _ = calculated(result, float(q[-1]) * 1.001)
    error = np.maximum(np.abs(misfit[hit]), 1e-4)
    twenty = slice(min(20, len(q)))
    last = q[twenty][-1]
    count = max(int((possible < last * 1.001).sum()), 1)
    m20 = last / (2 * (error * slope)[twenty].mean() * count)
    return float(m20), float(len(q) / (error.mean() * max(len(possible), 1)))


def least_squares(result: Result, lines: Lines) -> tuple[Result, tuple[float, ...]]:
    """The cell refined with its zero on the indexed lines, and its uncertainties."""
    system = result.bravais[0]
    for _ in range(3):
        _, hkl, hit = _match(result, lines)
        if hit.sum() <= len(COLUMNS[system]):
            return result, (float("nan"),) * 6
        forms = quadratic_forms(torch.tensor(hkl[hit]).double(), system).numpy()
        slope, sigma = lines.slope.double().numpy()[hit], lines.sigma.double().numpy()[hit]
        design = np.column_stack([forms, slope]) / (slope * sigma)[:, None]
        right = lines.q.double().numpy()[hit] / (slope * sigma)
        design = np.vstack([design, np.append(np.zeros(forms.shape[1]), 1 / ZERO)])
        right = np.append(right, 0)
        values = np.linalg.lstsq(design, right, rcond=None)[0]
        metric = reciprocal_metric(torch.tensor(values[None, :-1]), system)[0].numpy()
        if np.linalg.eigvalsh(metric)[0] <= 0:
            return result, (float("nan"),) * 6
        rows = np.linalg.cholesky(np.linalg.inv(metric))
        result = replace(result, lattice=rows, zero=float(values[-1]))
    misfit = right - design @ values
    spread = (misfit**2).sum() / max(len(right) - len(values), 1)
    covariance = np.linalg.inv(design.T @ design)[:-1, :-1] * spread
    return result, _uncertainties(values[:-1], covariance, system)


def _uncertainties(
    values: np.ndarray, covariance: np.ndarray, system: str
) -> tuple[float, ...]:
    """Standard uncertainties of a, b, c, α, β, γ, by differences along each parameter."""

    def cell(parameters: np.ndarray) -> np.ndarray:
        metric = reciprocal_metric(torch.tensor(parameters[None]), system)[0].numpy()
        return np.array(lattices.parameters(np.linalg.cholesky(np.linalg.inv(metric))))

    steps = np.diag(1e-5 * np.abs(values).max() * np.ones(len(values)))
    slopes = np.array([(cell(values + s) - cell(values - s)) / (2 * s.sum()) for s in steps])
    return tuple(map(float, np.sqrt(np.einsum("ij,ik,kj->j", slopes, covariance, slopes))))


def _few(lines: Lines) -> tuple[str, ...]:
    if len(lines) >= 20:
        return ()
    return (f"only {len(lines)} lines, 20 are wanted; measure over a wider range",)


def _unindexed(lines: Lines, hit: np.ndarray) -> tuple[str, ...]:
    left = int((~hit).sum())
    return (f"{left} of {len(lines)} lines are not indexed",) if left else ()


def _dominant_zone(hkl: np.ndarray) -> tuple[str, ...]:
    """A warning where at most two of the first twenty lines fix an axis."""
    first = hkl[:20]
    found = []
    for axis, name in zip("abc", "hkl", strict=True):
        fixing = int((first[:, "abc".index(axis)] != 0).sum())
        if len(first) >= 10 and fixing <= 2:
            found.append(f"dominant zone: {fixing} lines with {name} ≠ 0 fix {axis}")
    return tuple(found)


def lines_of_cell(
    cell: tuple[float, ...],
    radiation: Radiation,
    two_theta_max: float,
    centring: str = "P",
    zero: float = 0.0,
) -> tuple[Float[np.ndarray, " lines"], Int[np.ndarray, "lines 3"]]:
    """2θ (°) of a cell's lines at the main wavelength and one hkl of each, ascending."""
    rows = lattices.lattice_rows(cell)
    sine = np.sin(np.radians(min(two_theta_max, 179.0) / 2))
    result = Result(f"a{centring}", rows, 0.0, 0.0)
    q, hkl = calculated(result, (2 * sine / radiation.main) ** 2)
    angle = 2 * np.degrees(np.arcsin(np.sqrt(q) * radiation.main / 2))
    return angle + zero, hkl


def cells_for(problem: Problem, *, count: int = 5) -> Problem:
    """The problem with cells found by indexing, weights by their odds and below one."""
    from xrdkit.library import expected_volume, numbers_of

    unit = sum(problem.formula.values()) * expected_volume(
        problem.library, numbers_of(problem.formula)
    )
    found = index(problem.pattern, volume=unit, count=count)
    odds = np.exp([min(c.figure - found[0].figure, 0) for c in found])
    weights = 0.99 * odds / odds.sum()
    cells = tuple((c.cell, float(w)) for c, w in zip(found, weights, strict=True))
    return replace(problem, cells=(*problem.cells, *cells))
