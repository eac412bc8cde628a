"""The automatic refinement: stages, undone if they do not help, and what BIC asks for."""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from xrdkit.progress import told
from xrdkit.refine.rietveld.cautions import short_distances
from xrdkit.refine.rietveld.coordinates import placed
from xrdkit.refine.rietveld.least_squares import at_limit, covariance
from xrdkit.refine.rietveld.orientation import likely_axis, with_texture
from xrdkit.refine.rietveld.outcome import Outcome
from xrdkit.refine.rietveld.restraints import Apart
from xrdkit.refine.rietveld.results import effective_count
from xrdkit.refine.rietveld.stages import (
    Options,
    Stage,
    freed,
    run_stage,
    settled,
    shared_u,
    stages_of,
    weighted_r,
)
from xrdkit.refine.rietveld.table import POLARISATION, Parameter, Parameters, kind_of
from xrdkit.refine.rietveld.terms import chosen_terms, with_terms

WORSE = 1.0005  # times R_wp: a stage that ends there is undone
MUCH = 0.6  # times R_wp: down to there even close atoms are worth it, for the time being
MOTIONLESS = "U is not refined: it would reach its limit (absorption, roughness, wrong K?)"
NOTHING = {"texture": 1.0, "size": np.inf}  # where a parameter does nothing, else 0
FEEBLE = 4.0  # e.s.d.s; profile parameters below are left out where that costs nothing


def automatic(outcome: Outcome, options: Options) -> Iterator[tuple[Stage, Outcome]]:
    """Run all stages from a first outcome; yield every cycle with its stage.

    A stage that makes the fit worse, or brings atoms too close, is undone and noted. After
    the widths and at the end the number of background terms is chosen anew. Atoms are kept
    apart softly.
    """
    options = replace(options, restraints=(*options.restraints, Apart()))
    for stage in stages_of(outcome.table, outcome.data, options)[1:]:
        if stage.name in ("coordinates", "asymmetry", "texture") and options.terms is None:
            outcome = yield from _with_best_terms(outcome, stage, options)
        before = outcome
        run = placed if stage.name == "coordinates" else _run
        for found in run(outcome, stage, options):
            outcome = found
            yield stage, outcome
        outcome = _accepted(before, outcome, stage)
        if stage.name == "displacement parameters":
            outcome = yield from _shared_displacements(before, outcome, stage, options)
    if options.texture:
        outcome = yield from _textured(outcome, options)
    for correction in (_polarised, _attenuated, _fewer_displacements):
        outcome = yield from correction(outcome, options)
    outcome = yield from _pruned(outcome, options)
    last = Stage("all together", ())
    for _ in range(3):
        start = weighted_r(outcome)
        table = settled(outcome)
        for found in run_stage(outcome, table, options, options.cycles):
            outcome = found
            yield last, outcome
        if abs(weighted_r(outcome) / start - 1) < 1e-6 and outcome.state.converged:
            break


def _run(outcome: Outcome, stage: Stage, options: Options) -> Iterator[Outcome]:
    """The cycles of a stage."""
    table = freed(settled(outcome), stage)
    yield from run_stage(outcome, table, options, stage.cycles)


def _accepted(before: Outcome, after: Outcome, stage: Stage) -> Outcome:
    """The outcome of a stage, or what was before it, with a note, where it did harm."""
    old, new = weighted_r(before), weighted_r(after)
    known = {tuple(text.split()[:3]) for text in _close(before)}
    close = [text for text in _close(after) if tuple(text.split()[:3]) not in known]
    if new <= old * (MUCH if close else WORSE) and np.isfinite(new):
        return after
    why = close[0] if close else f"R_wp {100 * old:.2f} → {100 * new:.2f} %"
    return replace(before, notes=(*before.notes, f"stage '{stage.name}' undone: {why}"))


def _close(outcome: Outcome) -> list[str]:
    table = settled(outcome)
    return [text for i in range(len(table.units)) for text in short_distances(table, i)]


def _with_best_terms(
    outcome: Outcome, stage: Stage, options: Options
) -> Iterator[tuple[Stage, Outcome]]:
    """The outcome with as many background terms as the criterion asks for."""
    count = chosen_terms(outcome.data, outcome.state)
    table = with_terms(settled(outcome), count)
    if len(table) == len(outcome.table):
        return outcome
    for found in run_stage(outcome, table, options, 6):
        outcome = found
        yield replace(stage, name="background"), outcome
    return outcome


def _shared_displacements(
    before: Outcome, outcome: Outcome, stage: Stage, options: Options
) -> Iterator[tuple[Stage, Outcome]]:
    """One U for each element, then for all, then none, where U would fall to zero."""
    for kind in ("element", "overall"):
        if not _without_motion(outcome):
            return outcome
        table = freed(shared_u(settled(before), kind), stage)
        trial = outcome
        for found in run_stage(outcome, table, options, stage.cycles):
            trial = found
            yield stage, trial
        note = f"one U for {'each element' if kind == 'element' else 'all atoms'}: "
        note += "those of sites reached their limits"
        outcome = replace(trial, notes=(*before.notes, note))
    if not _without_motion(outcome):
        return outcome
    return replace(before, notes=(*before.notes, MOTIONLESS))


def _without_motion(outcome: Outcome) -> bool:
    """Whether some U stands at a limit."""
    limited = at_limit(outcome.table, outcome.state)
    names = [outcome.table.rows[i].name for i in outcome.state.free[limited]]
    return any(kind_of(name) == "u" for name in names)


def _textured(outcome: Outcome, options: Options) -> Iterator[tuple[Stage, Outcome]]:
    """The outcome with preferred orientation along one axis, if BIC asks for it."""
    table = settled(outcome)
    stage = Stage("texture", ())
    axis = yield from told(likely_axis(outcome, table), (stage, outcome))
    trial = outcome
    for found in run_stage(outcome, with_texture(table, axis), options, 12):
        trial = found
        yield stage, trial
    return trial if _worth(trial, outcome, 1) else outcome


def _attenuated(outcome: Outcome, options: Options) -> Iterator[tuple[Stage, Outcome]]:
    """The outcome with roughness, or absorption in a capillary, if BIC asks for it."""
    stage = Stage("absorption", ("absorption",), (("absorption", 0.2),))
    if outcome.data.instrument.geometry == "bragg-brentano":
        start = (("roughness", 0.2), ("roughness_depth", 0.3))
        stage = Stage("roughness", ("roughness", "roughness_depth"), start)
    return (yield from _asked_for(outcome, settled(outcome), stage, options))


def _polarised(outcome: Outcome, options: Options) -> Iterator[tuple[Stage, Outcome]]:
    """The outcome with another polarisation K, if that is open and BIC asks for it."""
    table = settled(outcome)
    if options.fixed_profile or POLARISATION in table:
        return outcome
    row = Parameter(POLARISATION, outcome.data.radiation.polarisation, low=0.0, high=1.0)
    table = table.noted((*table.rows, row), "polarisation of its own")
    stage = Stage("polarisation", (POLARISATION,))
    return (yield from _asked_for(outcome, table, stage, options))


def _asked_for(
    outcome: Outcome, table: Parameters, stage: Stage, options: Options
) -> Iterator[tuple[Stage, Outcome]]:
    """The outcome with what a stage frees, if BIC asks for it.

    U is refined anew with it, where it can be: without, it may have reached its limit.
    """
    known = None
    for others in (("u",), ()):
        trial = outcome
        now = freed(table, replace(stage, free=(*stage.free, *others)))
        if now.free == known:  # U was free already
            break
        known = now.free
        for found in run_stage(outcome, now, options, stage.cycles):
            trial = found
            yield stage, trial
        more = len(trial.table.free) - len(outcome.table.free)
        if _worth(trial, outcome, more) and not _without_motion(trial):
            kept = (n for n in outcome.notes if not (others and n == MOTIONLESS))
            return replace(trial, notes=tuple(kept))
    return outcome


def _fewer_displacements(
    outcome: Outcome, options: Options
) -> Iterator[tuple[Stage, Outcome]]:
    """One U for each element, if BIC does not ask for more and nothing else gives way."""
    table = shared_u(settled(outcome), "element")
    fewer = len(outcome.table.free) - len(table.free)
    trial, stage = outcome, Stage("fewer parameters", ())
    if fewer:
        for found in run_stage(outcome, table, options, 8):
            trial = found
            yield stage, trial
    pushed = _limited(trial) > _limited(outcome)
    return outcome if not fewer or pushed or _worth(outcome, trial, fewer) else trial


def _limited(outcome: Outcome) -> int:
    """How many parameters stand at a limit."""
    return int(at_limit(outcome.table, outcome.state).sum())


def _worth(rich: Outcome, plain: Outcome, more: int) -> bool:
    """Whether BIC is lower with so many parameters more (effective_count observations)."""
    n = effective_count(rich.data, rich.state.evaluation.curve)
    return bool(n * np.log(plain.state.chi2 / rich.state.chi2) > more * np.log(n))


def _pruned(outcome: Outcome, options: Options) -> Iterator[tuple[Stage, Outcome]]:
    """The outcome without widths, size, strain and texture that nothing asks for.

    What is within four e.s.d.s of doing nothing is left out, U and V together, where BIC
    falls with that: a texture may have stood for a polarisation found later. Asymmetry
    stays: it moves lines, and the cell's e.s.d.s need its own.
    """
    stage = Stage("fewer parameters", ())
    texture = ("texture",) if options.texture else ()
    sample = [(n,) for n in outcome.table.names if kind_of(n) in ("size", "strain")]
    for names in (("U", "V"), ("X",), ("Y",), *sample, texture):
        refined = [name for name in names if outcome.table[name].refine]
        if not refined or not _feeble(outcome, refined):
            continue
        table = _without(settled(outcome), refined)
        trial = outcome
        for trial in run_stage(outcome, table, options, 8):
            yield stage, trial
        if not _worth(outcome, trial, len(refined)):
            outcome = trial
    return outcome


def _without(table: Parameters, names: list[str]) -> Parameters:
    """The table with parameters fixed where they do nothing; without texture, no axis."""
    rows = list(table.rows)
    for i in map(table.place, names):
        rows[i] = replace(
            rows[i], value=NOTHING.get(kind_of(rows[i].name), 0.0), refine=False
        )
        if rows[i].name == "texture":  # without an axis there is none to refine
            rows[i] = replace(rows[i], low=1.0, high=1.0)
    axis = None if "texture" in names else table.texture
    return replace(table.noted(tuple(rows), f"without {', '.join(names)}"), texture=axis)


def _feeble(outcome: Outcome, names: list[str]) -> bool:
    """Whether all of these are within four e.s.d.s of doing nothing, or at a limit.

    A size does nothing where its inverse is zero.
    """
    held = at_limit(outcome.table, outcome.state)
    spread, _ = covariance(outcome.state, held)
    rows = [outcome.table.place(name) for name in names]
    limit = FEEBLE * np.sqrt(np.maximum(np.diag(spread)[rows], 0))
    nothing = np.array([NOTHING.get(kind_of(name), 0.0) for name in names])
    value = outcome.state.values[rows]
    value = np.where(np.isinf(nothing), value, np.abs(value - nothing))
    return bool(((value < limit) | (limit == 0)).all())
