"""What a reader of a refinement must know: limits, what is undetermined, odd values."""

from dataclasses import replace

import numpy as np
from jaxtyping import Float

from xrdkit.refine.rietveld.geometry import distance, too_close
from xrdkit.refine.rietveld.least_squares import (
    State,
    at_limit,
    covariance,
    state_of,
    summed_rows,
)
from xrdkit.refine.rietveld.metric import CELL
from xrdkit.refine.rietveld.outcome import Outcome
from xrdkit.refine.rietveld.start import prefix_of
from xrdkit.refine.rietveld.table import ROUNDING, Parameters, is_size, kind_of

LARGE_U = 0.1  # Å²
AXIAL = 0.02  # (S + H)/L, about the least that a pattern can tell from none
GROWN = 1.3  # times an e.s.d., where what is at a limit is free: that is told
TOLD = {*CELL, *"xyz", "u", "occupancy", "scale", "zero", "displacement"}  # of these
SHOWN = 6  # names


def warnings_of(
    outcome: Outcome,
    spread: Float[np.ndarray, "rows rows"],
    lost: np.ndarray,
) -> tuple[str, ...]:
    """What a reader of the result must know: limits, singular parameters, odd values."""
    table, state = outcome.table, outcome.state
    found = [] if state.converged else ["the refinement has not converged; refine again"]
    found += _limits(table, state, spread, lost) + taken_for_known(outcome)
    for i in summed_rows(table, state):
        row, (low, high) = table.rows[i], (limit[i] for limit in table.bounds())
        if row.tie and min(row.value - low, high - row.value) < ROUNDING:
            found.append(f"{row.name}, {row.tie}, is at its limit, {abs(row.value):.4g}")
    for row in table.rows:
        if kind_of(row.name) == "u" and row.value > LARGE_U:
            found.append(f"{row.name} = {row.value:.3f} Å² is large: wrong or empty site?")
    evaluation = state.evaluation
    if (evaluation.background < 0).any() and (outcome.data.intensity >= 0).all():
        found.append("the background is negative in places; use fewer or more terms")
    for i, unit in enumerate(table.units):
        scale = table[f"{prefix_of(table.units, i)}scale"]
        esd = np.sqrt(spread[table.place(scale.name), table.place(scale.name)])
        if scale.value < 3 * esd:
            found.append(f"the scale of {unit.name} is below three e.s.d.s: not there?")
        found += short_distances(table, i)
    return tuple(found)


def _limits(
    table: Parameters,
    state: State,
    spread: Float[np.ndarray, "rows rows"],
    lost: np.ndarray,
) -> list[str]:
    """Parameters at limits, and those that the data do not determine; lines are counted."""
    found, empty, unknown = [], 0, 0
    unseen = lost | (np.diag(spread)[state.free] <= 0)
    for i, limit, gone in zip(state.free, at_limit(table, state), unseen, strict=True):
        row = table.rows[i]
        if kind_of(row.name) == "intensity":
            empty, unknown = empty + bool(limit), unknown + bool(gone and not limit)
        elif limit:
            said = (
                "infinite" if is_size(row.name) and row.value > 1e9 else f"{row.value:.4g}"
            )
            found.append(f"{row.name} is at its limit, {said}, and has no e.s.d.")
        elif gone:
            found.append(f"{row.name} is not determined by the data; fix it")
    lines = sum(kind_of(name) == "intensity" for name in table.free)
    if empty:
        found.append(f"{empty} of {lines} intensities are zero, and have no e.s.d.")
    if unknown:
        found.append(f"{unknown} of {lines} intensities are not determined by the data")
    return found


def taken_for_known(outcome: Outcome) -> list[str]:
    """Which e.s.d.s would be larger if what stands at a limit were free, in words.

    Such a parameter counts as known, which is right where its limit is the truth. As the
    profile does not change with an asymmetry of zero, that is taken a little above.
    """
    table, state = outcome.table, outcome.state
    held, opened = at_limit(table, state), state
    axial = table.place("asymmetry")
    if (held & (state.free == axial)).any() and table["asymmetry"].value < AXIAL:
        values = state.values.copy()
        values[axial] = AXIAL
        here, there = (
            state_of(outcome.frame, table, v).normal for v in (state.values, values)
        )
        opened = replace(state, normal=state.normal - here + there)  # restraints stay
    known = np.diag(covariance(state, held)[0])
    free = np.diag(covariance(opened, np.zeros_like(held))[0])
    rows = [i for i in state.free[~held] if kind_of(table.rows[i].name) in TOLD]
    growth = {
        table.rows[i].name: float(np.sqrt(free[i] / known[i])) for i in rows if known[i] > 0
    }
    names = [name for name, times in growth.items() if times > GROWN]
    if not names:
        return []
    shown = ", ".join(names[:SHOWN]) + f" and {len(names) - SHOWN} more" * (
        len(names) > SHOWN
    )
    most = max(growth[name] for name in names)
    return [
        f"e.s.d.s of {shown} take what is at a limit for known; were that free, they "
        f"would be up to {most:.1f} times larger"
    ]


def short_distances(table: Parameters, phase: int) -> list[str]:
    """Pairs of atoms closer than 0.72 times the sum of their covalent radii."""
    unit, values = table.units[phase], table.vector()
    found: dict[tuple[str, str], float] = {}
    for contact, _ in too_close(table, values, phase):
        length = distance(table, values, phase, contact)[0]
        key = (unit.sites[contact.i].label, unit.sites[contact.j].label)
        found[key] = min(found.get(key, np.inf), length)
    return [f"{a} and {b} are only {d:.2f} Å apart" for (a, b), d in found.items()]
