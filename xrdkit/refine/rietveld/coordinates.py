"""The stage of coordinates: far starts by long spacings first, unseen sites held."""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
from jaxtyping import Float, Int

from xrdkit.progress import told
from xrdkit.refine.rietveld.least_squares import at_limit, covariance
from xrdkit.refine.rietveld.metric import CELL, lattice_rows
from xrdkit.refine.rietveld.model import Evaluation, evaluate, same_lines
from xrdkit.refine.rietveld.outcome import Outcome
from xrdkit.refine.rietveld.results import esd_factor
from xrdkit.refine.rietveld.stages import (
    Options,
    Stage,
    freed,
    run_stage,
    settled,
    weighted_r,
)
from xrdkit.refine.rietveld.start import AXES, prefix_of
from xrdkit.refine.rietveld.table import Parameters, kind_of

POOR = 2.0  # GOF above which another way to the coordinates is tried
COARSE = ((3.0, 0.0), (2.2, 0.0), (2.2, 0.3), (2.2, 0.3))
# Å; spacings down to which a pattern is first fitted, and how far atoms are moved before
FEW = 10  # points for each coordinate that a part of a pattern must have
UNSEEN = 0.05  # Å; sites with larger e.s.d.s are held
HARDEST, SOFTEST = 0.1, 0.3  # Å; how they are held
NEARBY = 0.1 * np.arange(-6, 7)  # Å; shifts of one coordinate that are looked at
ELSEWHERE, TRIED = 3.0, 3  # χ² of a minimum there, over that found; how many are tried


def placed(outcome: Outcome, stage: Stage, options: Options) -> Iterator[Outcome]:
    """Cycles of the stage; the last outcome is the best of all ways that were tried.

    Where the fit stays poor, coordinates are refined against long spacings first, which
    find the way from farther off, in the end from places moved at random. Where χ² has
    another minimum along one coordinate, the stage is run from there too. Then sites that
    the pattern hardly sees are restrained to where they were, as softly as the others have
    moved.
    """
    plain = freed(settled(outcome), stage)
    best, rng = outcome, np.random.default_rng(0)
    for way in (None, *COARSE):
        if way is not None and not _poor(best):
            break
        table = plain
        if way is not None:
            coarse = _coarse(outcome, plain, options, *way, rng)
            table = yield from told(coarse, best)
        trial = outcome
        for trial in run_stage(outcome, table, options, stage.cycles):
            yield trial
        best = min(best, trial, key=weighted_r)
    for table in (yield from told(elsewhere(best), best)):
        trial = best
        for trial in run_stage(best, table, options, stage.cycles):
            yield trial
        best = min(best, trial, key=weighted_r)
    table, note = held(outcome, best)
    if note:
        best = replace(best, notes=(*best.notes, note))
        for found in run_stage(best, table, options, stage.cycles):
            best = found
            yield best
    yield best


def _poor(outcome: Outcome) -> bool:
    return esd_factor(outcome, len(outcome.state.free), "gof") > POOR


def _coarse(
    outcome: Outcome,
    table: Parameters,
    options: Options,
    limit: float,
    off: float,
    rng: np.random.Generator,
) -> Iterator[Outcome]:
    """The table with scale and coordinates refined against spacings above ``limit`` (Å).

    Coordinates are first moved by ``off`` (Å) at random, as far as symmetry lets them.
    Yields every cycle, and returns the table.
    """
    kinds = ("scale", *AXES)
    rows = tuple(
        replace(r, refine=r.refine and kind_of(r.name) in kinds) for r in table.rows
    )
    data = outcome.data
    sine = min(data.radiation.main / (2 * limit), 1)
    inside = data.two_theta < 2 * np.degrees(np.arcsin(sine))
    part = replace(data, weight=np.where(inside, data.weight, 0))
    if part.count < FEW * sum(row.refine for row in rows):
        return table
    values, (matrix, constant) = table.vector(), table.ties()
    for places, cell in _free_sites(table):
        step = np.linalg.solve(cell.T, off * rng.normal(size=3))
        values[places] += step * [rows[i].refine for i in places]
    begun = replace(table, rows=rows).with_vector(matrix @ values + constant)
    for found in run_stage(replace(outcome, data=part), begun, options, 12):
        values = found.state.values
        yield found
    return table.with_vector(values)


def elsewhere(outcome: Outcome) -> Iterator[None]:
    """Tables with one coordinate in another minimum of χ² nearby, the lowest few.

    Yields at every coordinate, and returns the tables.
    """
    table = settled(outcome)
    values, (matrix, constant) = table.vector(), table.ties()
    now = evaluate(outcome.frame, table, values)
    found = []
    for rows, cell in _free_sites(table):
        for row, edge in zip(rows.tolist(), np.linalg.norm(cell, axis=1), strict=True):
            if not table.rows[row].refine or not matrix[row, row]:
                continue
            moved = np.repeat(values[None], len(NEARBY), 0)
            moved[:, row] += NEARBY / edge
            moved = moved @ matrix.T + constant
            misfit = _scaled_misfit(outcome, now, table, moved)
            misfit /= misfit[len(NEARBY) // 2]
            beside = np.pad(misfit, 1, constant_values=np.inf)
            lowest = (misfit < beside[:-2]) & (misfit < beside[2:]) & (NEARBY != 0)
            for i in np.flatnonzero(lowest & (misfit < ELSEWHERE)):
                found.append((misfit[i], table.with_vector(moved[i])))
            yield
    found.sort(key=lambda pair: pair[0])
    return [place for _, place in found[:TRIED]]


def _scaled_misfit(
    outcome: Outcome,
    now: Evaluation,
    table: Parameters,
    places: Float[np.ndarray, "places rows"],
) -> Float[np.ndarray, " places"]:
    """χ² at other coordinates with the best scale; lines and background stay."""
    weight, seen = outcome.data.weight, outcome.data.intensity - now.background
    curves = np.stack([same_lines(now, outcome.frame, table, one) for one in places])
    scale = curves @ (weight * seen) / np.maximum(curves**2 @ weight, 1e-12)
    return (seen - scale[:, None] * curves) ** 2 @ weight


def held(before: Outcome, after: Outcome) -> tuple[Parameters, str]:
    """The table with sites restrained that the pattern does not see, and a note of them."""
    table, shift = settled(after), after.state.values - before.state.values
    spread, lost = covariance(after.state, at_limit(after.table, after.state))
    unknown = after.state.free[lost]  # singular: no variance, though not known at all
    spread = spread * esd_factor(after, len(after.state.free), "gof") ** 2
    sites = _free_sites(table)
    esd = [
        np.inf
        if np.isin(rows, unknown).any()
        else np.sqrt(np.linalg.eigvalsh(cell.T @ spread[np.ix_(rows, rows)] @ cell).max())
        for rows, cell in sites
    ]
    seen = np.array(esd) < UNSEEN
    if seen.all():
        return table, ""
    moved = np.array([np.linalg.norm(shift[rows] @ cell) for rows, cell in sites])[seen]
    typical = float(np.sqrt(np.mean(moved**2))) if seen.any() else 0.0
    tolerance = min(max(typical, HARDEST), SOFTEST)
    changed, labels = list(table.rows), []
    for (rows, cell), known in zip(sites, seen, strict=True):
        if known:
            continue
        labels.append(table.rows[rows[0]].name.replace(f"{AXES[0]}:", ""))
        for row, edge in zip(rows, np.linalg.norm(cell, axis=1), strict=True):
            if changed[row].refine and changed[row].restraint is None:
                hold = (float(before.state.values[row]), tolerance / float(edge))
                changed[row] = replace(changed[row], restraint=hold)
    said = f"{', '.join(labels)}: hardly seen by the pattern (e.s.d. above {UNSEEN} Å), "
    note = f"{said}coordinates are restrained to those of the start ± {tolerance:.2f} Å"
    return table.noted(tuple(changed), note), note


def _free_sites(
    table: Parameters,
) -> list[tuple[Int[np.ndarray, "3"], Float[np.ndarray, "3 3"]]]:
    """Rows of the coordinates of every site that is refined, and its lattice rows (Å)."""
    found = []
    for i, unit in enumerate(table.units):
        prefix = prefix_of(table.units, i)
        cell = lattice_rows(np.array([table[prefix + name].value for name in CELL]))
        for site in unit.sites:
            rows = np.array([table.place(f"{prefix}{k}:{site.label}") for k in AXES])
            if any(table.rows[row].refine for row in rows):
                found.append((rows, cell))
    return found
