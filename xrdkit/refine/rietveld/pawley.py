"""Pawley fit: cell and profile without a structure, every line's intensity by itself.

Its R_wp is the floor for any structure in this cell and space group, and it judges a cell.
"""

import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from xrdkit.background import estimate
from xrdkit.progress import result_of
from xrdkit.refine.rietveld.asymmetric import AsymmetricUnit, cell_only
from xrdkit.refine.rietveld.data import Data, observations, refuse_flat, typical_widths
from xrdkit.refine.rietveld.engine import (
    TERMS,
    check_terms,
    first_profile,
    refuse_unseen,
    reported,
)
from xrdkit.refine.rietveld.frame import Frame, intensity_name, make_frame, unit_reflections
from xrdkit.refine.rietveld.least_squares import state_of
from xrdkit.refine.rietveld.metric import inverse_d_squared, possible
from xrdkit.refine.rietveld.outcome import Outcome
from xrdkit.refine.rietveld.results import Esd, partition
from xrdkit.refine.rietveld.stages import (
    Options,
    Stage,
    freed,
    run_stage,
    settled,
    stages_of,
    weighted_r,
)
from xrdkit.refine.rietveld.start import first_table
from xrdkit.refine.rietveld.table import Parameters, kind_of
from xrdkit.refine.rietveld.terms import chosen_terms, with_terms
from xrdkit.space_group import space_group_number
from xrdkit.types import Fit, Instrument, Pattern, Progress

ROUNDS = 6  # of Le Bail's partition and two cycles, in each stage
TOGETHER = 0.2  # FWHM; lines closer than that have one intensity
MOST_LINES = 600  # intensities that are refined; more are only partitioned (Le Bail)


def pawley(
    pattern: Pattern, cell: Sequence[float | int], space_group: int | str, **what: Any
) -> Fit:
    """The Fit of ``pawley_steps``, run to its end; its structure has no atoms."""
    return result_of(pawley_steps(pattern, cell, space_group, **what))


def pawley_steps(
    pattern: Pattern,
    cell: Sequence[float | int],
    space_group: int | str,
    *,
    instrument: Instrument | None = None,
    background: int | None = None,
    exclude: Sequence[tuple[float | int, float | int]] = (),
    esd: Esd = "gof",
    cycles: int = 15,
) -> Iterator[Progress]:
    """Fit a cell (a, b, c in Å, α, β, γ in °, reference setting) and profile; yield cycles.

    Intensities start from Le Bail's partition and are then refined with all else, none
    below zero (Pawley, J. Appl. Cryst. 14, 357 (1981); Le Bail et al., Mater. Res. Bull.
    23, 447 (1988)). Lines that coincide share one.
    """
    started = time.monotonic()
    check_terms(background)
    data = observations(pattern, tuple(exclude))
    refuse_flat(data)
    options = Options(instrument is not None, background, cycles=cycles)
    unit = _checked(cell, space_group)
    profile = instrument or first_profile(pattern)
    widths = typical_widths(pattern)
    table = _first_table(data, unit, profile, background or TERMS, widths)
    refuse_unseen(make_frame(data, table))
    table = _with_background(table, data)
    return (yield from reported(_stages(data, table, options), esd, started))


def _checked(cell: Sequence[float | int], space_group: int | str) -> AsymmetricUnit:
    """A cell with its space group, if it is one."""
    values = np.array([float(value) for value in cell])
    if len(values) != 6 or not possible(values):
        raise ValueError(f"cell {tuple(cell)} is none; give a, b, c in Å and α, β, γ in °")
    number = space_group_number(space_group)
    return cell_only(tuple(values.tolist()), number, f"cell in {space_group}")


def _first_table(
    data: Data,
    unit: AsymmetricUnit,
    profile: Instrument,
    terms: int,
    widths: tuple[float, float],
) -> Parameters:
    """The table with one intensity for each set of lines that cannot be told apart.

    ``widths`` are a and b (°) in FWHM² = a² + (b tanθ)².
    """
    hkl, _ = unit_reflections(unit, np.array(unit.cell), data)
    q = np.sqrt(inverse_d_squared(hkl, np.array(unit.cell))[0])
    sine = np.minimum(q * data.radiation.main / 2, 1)
    place = 2 * np.degrees(np.arcsin(sine))
    apart = TOGETHER * np.hypot(widths[0], widths[1] * np.tan(np.radians(place / 2)))
    first, last = np.ones(len(hkl), bool), -np.inf
    for i in range(len(hkl)):
        first[i] = place[i] - last > apart[i]
        last = place[i] if first[i] else last
    names = tuple(intensity_name(index) for index in hkl[first])
    return first_table((unit,), profile, background=terms, intensities=names)


def _with_background(table: Parameters, data: Data) -> Parameters:
    """The table with its background fitted to a smooth one, and all lines alike."""
    frame = make_frame(data, table)
    base = estimate(data.two_theta, data.intensity)
    terms = np.linalg.lstsq(frame.chebyshev, base, rcond=None)[0]
    start = {f"background:{i}": float(value) for i, value in enumerate(terms)}
    start |= {name: 1.0 for name in table.names if kind_of(name) == "intensity"}
    rows = tuple(replace(r, value=start.get(r.name, r.value)) for r in table.rows)
    return replace(table, rows=rows)


def _stages(
    data: Data, table: Parameters, options: Options
) -> Iterator[tuple[str, int, int, Outcome]]:
    """Cycles of Le Bail's stages, undone where they do harm, then of Pawley's."""
    frame = make_frame(data, table)
    table = le_bail(data, frame, table, 5)
    origin = table.units[0].name
    outcome = Outcome(data, frame, table, state_of(frame, table, table.vector()), origin)
    cell, *others = stages_of(table, data, options)[1:]
    stages = (cell, Stage("background", ("background",)), *others)
    total = len(stages) + 1
    for done, stage in enumerate(stages, 1):
        before, table = outcome, settled(outcome)
        if done == len(stages) and options.terms is None:
            table = with_terms(table, chosen_terms(data, outcome.state))
        table = freed(table, stage)
        for _ in range(ROUNDS):
            start = weighted_r(outcome)
            for found in run_stage(outcome, table, options, 2):
                outcome = found
                yield stage.name, done, total, outcome
            table = le_bail(data, outcome.frame, settled(outcome), 3)
            if abs(weighted_r(outcome) / start - 1) < 1e-3:
                break
        outcome = min(before, outcome, key=weighted_r)
    for found in _together(outcome, stages, options):
        yield "intensities", total, total, found


def _together(
    outcome: Outcome, stages: tuple[Stage, ...], options: Options
) -> Iterator[Outcome]:
    """Cycles of all intensities with what the stages free."""
    table = settled(outcome)
    if len(table.matching("intensity:*")) > MOST_LINES:
        note = f"more than {MOST_LINES} lines: intensities by Le Bail's partition, not in P"
        yield replace(outcome, notes=(*outcome.notes, note))
        return
    kinds = tuple(kind for stage in stages for kind in stage.free)
    start = (pair for stage in stages for pair in stage.start)
    begun = tuple((name, value) for name, value in start if not table[name].value)
    table = freed(table, Stage("intensities", ("intensity", *kinds), begun))
    for _ in range(ROUNDS):
        for found in run_stage(outcome, table, options, options.cycles):
            outcome = found
            yield outcome
        terms = options.terms or chosen_terms(outcome.data, outcome.state)
        if terms == len(table.matching("background:*")):
            break
        table = with_terms(settled(outcome), terms)


def le_bail(data: Data, frame: Frame, table: Parameters, rounds: int) -> Parameters:
    """The table with intensities by Le Bail's partition, profile and background as is."""
    for _ in range(rounds):
        state = state_of(frame, table, table.vector())
        now = state.evaluation
        observed, calculated = partition(data, now.curve, now.background, now.phases[0])
        phase = frame.phases[0]
        count = len(phase.hkl)
        above = np.bincount(phase.reflection, np.maximum(observed, 0), count)
        below = np.bincount(phase.reflection, calculated, count)
        ratio = np.divide(above, below, out=np.ones(count), where=below > 0)
        table = _scaled(table, phase.intensities, ratio)
    return table


def _scaled(
    table: Parameters,
    places: Int[np.ndarray, " reflections"],
    ratio: Float[np.ndarray, " reflections"],
) -> Parameters:
    rows = list(table.rows)
    for place, factor in zip(places, ratio, strict=True):
        if place >= 0:
            rows[place] = replace(rows[place], value=rows[place].value * float(factor))
    return replace(table, rows=tuple(rows))
