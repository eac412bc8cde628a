"""Levenberg–Marquardt on a parameter table, within limits, with covariance."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Bool, Float, Int

from xrdkit.refine.rietveld.frame import Frame, limits
from xrdkit.refine.rietveld.metric import CELL, possible
from xrdkit.refine.rietveld.model import NARROWEST, Evaluation, Values, evaluate, widths
from xrdkit.refine.rietveld.restraints import Apart, Restraint, pulls
from xrdkit.refine.rietveld.shape import pseudo_voigt
from xrdkit.refine.rietveld.table import Parameters, kind_of

START, LARGEST = 1e-3, 1e8  # damping
SETTLED = 0.02  # shift / e.s.d. of every parameter at which a refinement has converged
REST = 0.1  # fall of χ² that a step may still promise, of χ² / (N - P)
FLAT = 1e-7  # relative fall of χ² in a cycle at which it has converged
SINGULAR = 1e-11  # smallest eigenvalue, of the scaled normal matrix, that is inverted
STOPS = 8  # limits that one step may stop at, beside those of single parameters
SLACK = 1e-9  # beyond a limit that is none
NARROW = 0.4  # least FWHM, of a step of the scan
Stepper = Callable[[float], Float[np.ndarray, " free"]]
CELL_STEP = 0.004  # most that a cell parameter moves in a cycle, relative
LONGEST = {"x": 0.05, "y": 0.05, "z": 0.05, "u": 0.02, "asymmetry": 0.02}


@dataclass(frozen=True)
class State:
    """A table's values with their χ² (restraints included) and profile.

    ``normal`` and ``gradient`` are of the free rows ``free``, whose values determine all
    others by ``ties``.
    """

    values: Values
    chi2: float
    evaluation: Evaluation
    normal: Float[np.ndarray, "free free"]
    gradient: Float[np.ndarray, " free"]
    free: Int[np.ndarray, " free"]
    ties: Float[np.ndarray, "rows free"]
    converged: bool = False


def minimise(
    frame: Frame,
    table: Parameters,
    *,
    cycles: int = 20,
    restraints: tuple[Restraint | Apart, ...] = (),
) -> Iterator[State | None]:
    """Yield the state after every cycle, never a worse one, until it has converged.

    After a trial step that does not help None is yielded, so that a cycle of many can be
    stopped; the last is a state.
    """
    state = state_of(frame, table, table.vector(), restraints)
    damping = START
    for _ in range(cycles):
        step_of = _steps(frame, table, state)
        while True:
            step = step_of(damping)
            moved = _moved(frame, table, state, step)
            trial = None
            if moved is not None:
                trial = state_of(frame, table, moved, restraints)
            if trial is not None and trial.chi2 < state.chi2 * (1 + 1e-12):
                break
            damping *= 10
            if damping > LARGEST:
                yield _settled(state) if _at_rest(frame, table, state) else state
                return
            yield None
        quiet = _shift(trial, state) < SETTLED
        flat = state.chi2 - trial.chi2 < FLAT * state.chi2
        state, damping = trial, max(damping / 10, 1e-9)
        if quiet or flat:
            yield _settled(state)
            return
        yield state


def state_of(
    frame: Frame,
    table: Parameters,
    values: Values,
    restraints: tuple[Restraint | Apart, ...] = (),
) -> State:
    """Profile, χ², normal matrix and gradient of a table's refined rows at these values."""
    matrix, _ = table.ties()
    free = np.array([i for i, row in enumerate(table.rows) if row.refine], int)
    ties = matrix[:, free]
    wanted = (ties != 0).any(1)
    evaluation = evaluate(frame, table, values, wanted)
    data = frame.data
    rest = data.intensity - evaluation.curve
    jacobian = evaluation.jacobian[:, wanted] @ ties[wanted]
    weighted = jacobian * data.weight[:, None]
    normal, gradient = weighted.T @ jacobian, weighted.T @ rest
    chi2 = float(data.weight @ rest**2)
    pull, slopes = pulls(table, values, restraints)
    slopes = slopes @ ties
    return State(
        values,
        chi2 + float(pull @ pull),
        evaluation,
        normal + slopes.T @ slopes,
        gradient + slopes.T @ pull,
        free,
        ties,
    )


def covariance(
    state: State, held: Bool[np.ndarray, " free"]
) -> tuple[Float[np.ndarray, "rows rows"], Bool[np.ndarray, " free"]]:
    """Inverse of the normal matrix for all rows, and the free rows it does not determine.

    Rows that are ``held`` at a limit have no variance.
    """
    use = np.flatnonzero(~held)
    inverse = np.zeros_like(state.normal)
    scale = np.sqrt(np.maximum(np.diag(state.normal), 1e-300))
    lost = held.copy()
    if len(use):
        part = state.normal[np.ix_(use, use)] / np.outer(scale[use], scale[use])
        values, vectors = np.linalg.eigh(part)
        good = values > SINGULAR
        kept = vectors[:, good]
        inside = (kept / values[good]) @ kept.T / np.outer(scale[use], scale[use])
        inverse[np.ix_(use, use)] = inside
        lost[use] = (vectors[:, ~good] ** 2).sum(1) > 0.1
    ties = state.ties
    return ties @ inverse @ ties.T, lost & ~held


def at_limit(table: Parameters, state: State) -> Bool[np.ndarray, " free"]:
    """Which refined rows stand at a limit and are pushed beyond it."""
    low, high = table.bounds()
    value = state.values[state.free]
    below = (value <= low[state.free]) & (state.gradient <= 0)
    return below | ((value >= high[state.free]) & (state.gradient >= 0))


def _at_rest(frame: Frame, table: Parameters, state: State) -> bool:
    """Whether the best step promises nothing: g V g, the fall of χ², beside χ²/(N - P)."""
    held = at_limit(table, state)
    spread, _ = covariance(state, held)
    gradient = np.where(held, 0, state.gradient)
    fall = gradient @ spread[np.ix_(state.free, state.free)] @ gradient
    left = max(frame.data.count - int((~held).sum()), 1)
    return bool(fall < REST * state.chi2 / left)


def _settled(state: State) -> State:
    return replace(state, converged=True)


def _steps(frame: Frame, table: Parameters, state: State) -> Stepper:
    """A function damping -> step of the free rows, those at their limits held.

    Where a step would make the Gaussian width negative somewhere in the range, or bring a
    sum of parameters beyond its limits, it is the best one of those that stop there.
    """
    use = np.flatnonzero(~at_limit(table, state))
    scale = np.sqrt(np.maximum(np.diag(state.normal), 1e-300))[use]
    part = state.normal[np.ix_(use, use)] / np.outer(scale, scale)
    values, vectors = np.linalg.eigh(part)
    good = values > SINGULAR

    def solved(right: np.ndarray, damping: float) -> np.ndarray:
        turned = vectors.T @ (right.T / scale).T
        weight = np.where(good, 1 / (np.where(good, values, 1) + damping), 0)
        return ((vectors @ (turned.T * weight).T).T / scale).T

    def step(damping: float) -> Float[np.ndarray, " free"]:
        found = np.zeros(len(state.free))
        plain = found[use] = solved(state.gradient[use], damping)
        rows, gaps = [], []
        for _ in range(STOPS):
            values = state.values + state.ties @ found
            row, gap = broken_limit(frame, table, state, values)
            if gap >= -SLACK:
                break
            rows.append(row[use])
            gaps.append(gap - row @ found + row[use] @ plain)
            constraint = np.array(rows)
            toward = solved(constraint.T, damping)
            force = np.linalg.lstsq(constraint @ toward, np.array(gaps), rcond=1e-10)[0]
            found[use] = plain - toward @ force
        return found

    return step


def broken_limit(
    frame: Frame, table: Parameters, state: State, values: Values
) -> tuple[Float[np.ndarray, " free"], float]:
    """What values are beyond: how it changes with the free rows, and how far it is inside.

    The floor of the Gaussian width, or a limit of a row that follows a sum of others, or of
    these others; negative is outside.
    """
    place, gap = narrowest(frame, table, values)
    if gap < -SLACK:
        return np.array([place**2, place, 1]) @ state.ties[uvw_rows(table)], gap
    rows = summed_rows(table, state)
    low, high = (limit[rows] for limit in table.bounds())
    gaps = np.concatenate([values[rows] - low, high - values[rows]])
    worst = int(np.argmin(gaps)) if len(gaps) else 0
    if not len(gaps) or gaps[worst] >= -SLACK:
        return np.zeros(len(state.free)), 0.0
    sign = 1 if worst < len(rows) else -1
    return sign * state.ties[rows[worst % len(rows)]], float(gaps[worst])


def summed_rows(table: Parameters, state: State) -> Int[np.ndarray, " rows"]:
    """Rows that follow sums of free ones, if not by symmetry, and these free ones."""
    sums = [
        i for i, row in enumerate(table.rows)
        if row.tie and not row.by_symmetry and np.count_nonzero(state.ties[i]) > 1
    ]  # fmt: skip
    others = state.free[(state.ties[sums] != 0).any(0)]
    return np.concatenate([np.array(sums, int), others])


def narrowest(frame: Frame, table: Parameters, values: Values) -> tuple[float, float]:
    """tanθ in the range where the Gaussian FWHM² is least, and how far above its floor."""
    ends = np.tan(np.radians(np.array(limits(frame.data)) / 2))
    u, v, w = values[uvw_rows(table)]
    places = [*ends, np.clip(-v / (2 * u), *ends) if u > 0 else ends[0]]
    square = [u * t**2 + v * t + w for t in places]
    floor = (NARROW * float(np.median(np.diff(frame.data.two_theta)))) ** 2
    return float(places[int(np.argmin(square))]), float(min(square) - floor)


def uvw_rows(table: Parameters) -> list[int]:
    """Rows of U, V and W."""
    return [table.place(name) for name in "UVW"]


def _moved(
    frame: Frame, table: Parameters, state: State, step: Float[np.ndarray, " free"]
) -> Values | None:
    """Values after a step, cut so that it is not too long, within limits and possible."""
    if not np.isfinite(step).all():
        return None
    longest = longest_steps(table, state.values)[state.free]
    step = step / max(1.0, float((np.abs(step) / longest).max(initial=0)))
    low, high = table.bounds()
    matrix, constant = table.ties()
    sums = summed_rows(table, state)
    for _ in range(6):
        free = np.clip(state.values[state.free] + step, low[state.free], high[state.free])
        values = state.values.copy()
        values[state.free] = free
        values = matrix @ values + constant
        inside = (values >= low - SLACK) & (values <= high + SLACK)
        if inside[sums].all() and feasible(frame, table, values):
            return values
        step = step / 3
    return None


def longest_steps(table: Parameters, values: Values) -> Values:
    """How far each row may move in one cycle."""
    longest = np.full(len(table), np.inf)
    for i, name in enumerate(table.names):
        kind = kind_of(name)
        if kind in CELL:
            longest[i] = CELL_STEP * values[i]
        elif kind in LONGEST:
            longest[i] = LONGEST[kind]
    return longest


def feasible(frame: Frame, table: Parameters, values: Values) -> bool:
    """Whether cells are cells and widths are positive over the whole range."""
    data = frame.data
    if (values[uvw_rows(table)] != table.vector()[uvw_rows(table)]).any():
        if narrowest(frame, table, values)[1] < -1e-7:
            return False
    narrow = NARROW * float(np.median(np.diff(data.two_theta)))
    for phase in frame.phases:
        if not possible(values[phase.cell]):
            return False
        gauss2, lorentz, *_ = widths(phase, table, values)
        if len(gauss2) and ((gauss2 < -NARROWEST).any() or (lorentz < 0).any()):
            return False
        if not any(table.rows[i].refine for i in _width_rows(table)):
            continue  # widths are as they were given
        gauss2 = np.maximum(gauss2, NARROWEST)
        if len(gauss2) and pseudo_voigt(gauss2, lorentz)[0].min() < narrow:
            return False
    return True


def _width_rows(table: Parameters) -> list[int]:
    """Rows of everything that widths depend on."""
    kinds = {*"UVWXY", "size", "strain"}
    return [i for i, name in enumerate(table.names) if kind_of(name) in kinds]


def _shift(new: State, old: State) -> float:
    """Largest shift of a refined row, in e.s.d.s (from the diagonal of the inverse)."""
    variance = np.diag(covariance(new, np.zeros(len(new.free), bool))[0])[new.free]
    moved = np.abs(new.values - old.values)[new.free]
    known = variance > 0
    return float((moved[known] / np.sqrt(variance[known])).max(initial=0))
