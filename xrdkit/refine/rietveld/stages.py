"""The automatic refinement: what is freed when, and undone if it does not help."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from xrdkit.refine.rietveld.data import Data, with_radiation
from xrdkit.refine.rietveld.frame import make_frame
from xrdkit.refine.rietveld.least_squares import at_limit, covariance, minimise, state_of
from xrdkit.refine.rietveld.metric import CELL
from xrdkit.refine.rietveld.orientation import likely_axis, with_texture
from xrdkit.refine.rietveld.restraints import Restraint
from xrdkit.refine.rietveld.results import Outcome, effective_count, short_distances
from xrdkit.refine.rietveld.start import prefix_of
from xrdkit.refine.rietveld.table import Parameters, kind_of
from xrdkit.refine.rietveld.terms import chosen_terms, with_terms
from xrdkit.wavelengths import radiation_choices

LINEAR = ("scale", "background")
SCALES = np.linspace(-0.012, 0.012, 13)  # relative changes of all edges that are tried
GAIN = 0.95  # a changed start must bring R_wp below this times what it was
WORSE = 1.0005  # times R_wp: a stage that ends there is undone
FEEBLE = 4.0  # e.s.d.s; profile parameters below are left out where that costs nothing
ASYMMETRY = 0.02  # (S + H)/L to start from: at 0 its derivative is zero


@dataclass(frozen=True)
class Stage:
    """Kinds of parameters that are freed, and values they start from."""

    name: str
    free: tuple[str, ...]
    start: tuple[tuple[str, float], ...] = ()
    cycles: int = 12


@dataclass(frozen=True)
class Options:
    """What the automatic refinement may do."""

    fixed_profile: bool = False
    terms: int | None = None
    texture: bool = False  # whether an axis is looked for
    displacement: str = "site"  # U for each "site", "element", or one "overall"
    occupancies: bool = False
    restraints: tuple[Restraint, ...] = ()
    cycles: int = 40


def stages_of(table: Parameters, data: Data, options: Options) -> tuple[Stage, ...]:
    """The stages of a table: scale, cell, widths, coordinates, U, asymmetry, the rest."""
    flat = data.instrument.geometry == "bragg-brentano"
    cell = (*CELL, "displacement" if flat else "zero")
    listed = [Stage("scale and background", LINEAR)]
    if options.fixed_profile:
        listed += [Stage("cell", cell), Stage("size and strain", ("size", "strain"))]
    else:
        listed += [
            Stage("cell and width", (*cell, "W")),
            Stage("Lorentzian width", ("X",)),
            Stage("widths along the pattern", ("U", "V", "Y"), cycles=20),
        ]
    listed += [
        Stage("coordinates", ("x", "y", "z")),
        Stage("displacement parameters", ("u",)),
    ]
    if not options.fixed_profile:
        listed.append(Stage("asymmetry", ("asymmetry",), (("asymmetry", ASYMMETRY),), 20))
    if table.texture is not None:
        listed.append(Stage("texture", ("texture",)))
    if options.occupancies:
        listed.append(Stage("occupancies", ("occupancy",)))
    return tuple(stage for stage in listed if _matching(table, stage))


def _matching(table: Parameters, stage: Stage) -> list[str]:
    """Names that a stage frees: those of its kinds that follow nothing else.

    Occupancies of sites that one element fills stay: with the scale they are one too many.
    """
    full = {
        f"{prefix_of(table.units, i)}occupancy:{site.label}"
        for i, unit in enumerate(table.units)
        for site in unit.sites
        if site.occupancy >= 1
    }
    return [
        row.name
        for row in table.rows
        if not row.tie
        and row.low < row.high
        and kind_of(row.name) in stage.free
        and row.name not in full
    ]


def freed(table: Parameters, stage: Stage) -> Parameters:
    """The table with a stage's names free and at their start values."""
    names, start = set(_matching(table, stage)), dict(stage.start)
    rows = tuple(
        replace(row, refine=True, value=start.get(row.name, row.value))
        if row.name in names
        else row
        for row in table.rows
    )
    return table.noted(rows, stage.name)


def run_stage(
    outcome: Outcome, table: Parameters, options: Options, cycles: int
) -> Iterator[Outcome]:
    """Refine what is free in a table; yield every cycle."""
    frame = make_frame(outcome.data, table)
    for state in minimise(frame, table, cycles=cycles, restraints=options.restraints):
        yield replace(outcome, frame=frame, table=table, state=state)


def settled(outcome: Outcome) -> Parameters:
    """The table with the values of the outcome's state."""
    return outcome.table.with_vector(outcome.state.values)


def weighted_r(outcome: Outcome) -> float:
    """R_wp as a share, restraints included."""
    data = outcome.data
    return float(np.sqrt(outcome.state.chi2 / (data.weight @ data.intensity**2)))


def first_outcome(data: Data, table: Parameters, options: Options, origin: str) -> Outcome:
    """Scale and background fitted; beam and overall cell scale chosen where that helps."""
    table = freed(table, Stage("scale and background", LINEAR))
    choices = radiation_choices(data.radiation)
    fits = [_linear(with_radiation(data, beam), table, origin) for beam in choices]
    best = min(fits, key=weighted_r)
    for change in SCALES[SCALES != 0]:
        trial = _linear(best.data, _scaled(table, float(change)), origin)
        if weighted_r(trial) < (GAIN * weighted_r(fits[0])) and (
            weighted_r(trial) < weighted_r(best)
        ):
            best = trial
    return best


def _scaled(table: Parameters, change: float) -> Parameters:
    """The table with the first phase's edges larger by a share."""
    rows = tuple(
        replace(row, value=row.value * (1 + change)) if row.name in ("a", "b", "c") else row
        for row in table.rows
    )
    return replace(table, rows=rows)


def _linear(data: Data, table: Parameters, origin: str) -> Outcome:
    """Scale and background, in which the profile is linear."""
    frame = make_frame(data, table)
    state = state_of(frame, table, table.vector())
    for found in minimise(frame, table, cycles=2):
        state = found
    return Outcome(data, frame, table, state, origin)


def automatic(outcome: Outcome, options: Options) -> Iterator[tuple[Stage, Outcome]]:
    """Run all stages from a first outcome; yield every cycle with its stage.

    A stage that makes the fit worse, or brings atoms too close, is undone and noted. After
    the widths and at the end the number of background terms is chosen anew.
    """
    for stage in stages_of(outcome.table, outcome.data, options)[1:]:
        if stage.name in ("coordinates", "asymmetry", "texture") and options.terms is None:
            outcome = yield from _with_best_terms(outcome, stage, options)
        before = outcome
        table = freed(settled(outcome), stage)
        for found in run_stage(outcome, table, options, stage.cycles):
            outcome = found
            yield stage, outcome
        outcome = _accepted(before, outcome, stage)
        if stage.name == "displacement parameters":
            outcome = yield from _shared_displacements(before, outcome, stage, options)
    if options.texture:
        outcome = yield from _textured(outcome, options)
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


def _accepted(before: Outcome, after: Outcome, stage: Stage) -> Outcome:
    """The outcome of a stage, or what was before it, with a note, where it did harm."""
    old, new = weighted_r(before), weighted_r(after)
    close = []
    if stage.name == "coordinates":
        known = {tuple(text.split()[:3]) for text in _close(before)}
        close = [text for text in _close(after) if tuple(text.split()[:3]) not in known]
    if new <= old * WORSE and np.isfinite(new) and not close:
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
    note = "U is not refined: it would reach its limit (absorption, roughness, wrong K?)"
    return replace(before, notes=(*before.notes, note))


def _without_motion(outcome: Outcome) -> bool:
    """Whether some U stands at a limit."""
    limited = at_limit(outcome.table, outcome.state)
    names = [outcome.table.rows[i].name for i in outcome.state.free[limited]]
    return any(kind_of(name) == "u" for name in names)


def shared_u(table: Parameters, kind: str) -> Parameters:
    """The table with the U of each "element" of a phase, or all of them, tied to one."""
    firsts: dict[tuple, str] = {}
    rows = list(table.rows)
    for i, row in enumerate(rows):
        prefix, _, own = row.name.rpartition("/")
        if not own.startswith("u:") or (row.tie and row.tie not in firsts.values()):
            continue
        element = own[2:].rstrip("0123456789")
        key = (prefix, element if kind == "element" else "")
        first = firsts.setdefault(key, row.name)
        if first != row.name:
            rows[i] = replace(row, tie=first, refine=False)
    return table.noted(tuple(rows), f"one U for each {kind}")


def exchanging(table: Parameters) -> Parameters:
    """The table with the last occupancy of every shared place tied: sums stay.

    No other goes above its place's sum, so that of two species neither becomes negative.
    """
    rows = list(table.rows)
    for i, unit in enumerate(table.units):
        prefix = prefix_of(table.units, i)
        for place in {site.place for site in unit.sites}:
            sites = [site for site in unit.sites if site.place == place]
            *others, last = (table.place(f"{prefix}occupancy:{s.label}") for s in sites)
            if not others:
                continue
            total = sum(site.occupancy for site in sites)
            for k in others:
                rows[k] = replace(rows[k], high=total)
            tie = " - ".join([f"{total:.9g}", *(rows[k].name for k in others)])
            rows[last] = replace(rows[last], tie=tie, refine=False)
    return table.noted(tuple(rows), "occupancies of shared places keep their sums")


def _textured(outcome: Outcome, options: Options) -> Iterator[tuple[Stage, Outcome]]:
    """The outcome with preferred orientation along one axis, if BIC asks for it."""
    table = settled(outcome)
    table = with_texture(table, likely_axis(outcome, table))
    trial = outcome
    for found in run_stage(outcome, table, options, 12):
        trial = found
        yield Stage("texture", ()), trial
    return trial if _worth(trial, outcome, 1) else outcome


def _worth(rich: Outcome, plain: Outcome, more: int) -> bool:
    """Whether BIC is lower with so many parameters more (effective_count observations)."""
    n = effective_count(rich.data, rich.state.evaluation.curve)
    return bool(n * np.log(plain.state.chi2 / rich.state.chi2) > more * np.log(n))


def _pruned(outcome: Outcome, options: Options) -> Iterator[tuple[Stage, Outcome]]:
    """The outcome without profile parameters that the pattern does not ask for.

    Widths below four e.s.d.s are set to zero, U and V together, and stay there while BIC
    falls. Asymmetry stays: it moves lines, and the cell's e.s.d.s need its own.
    """
    stage = Stage("fewer parameters", ())
    for names in (("U", "V"), ("X",), ("Y",)):
        refined = [name for name in names if outcome.table[name].refine]
        if not refined or not _feeble(outcome, refined):
            continue
        table = settled(outcome)
        rows = tuple(
            replace(row, value=0.0, refine=False) if row.name in refined else row
            for row in table.rows
        )
        trial = outcome
        for found in run_stage(
            outcome, table.noted(rows, f"without {refined}"), options, 8
        ):
            trial = found
            yield stage, trial
        if not _worth(outcome, trial, len(refined)):
            outcome = trial
    return outcome


def _feeble(outcome: Outcome, names: list[str]) -> bool:
    """Whether all of these are within four e.s.d.s of zero, or at a limit."""
    held = at_limit(outcome.table, outcome.state)
    spread, _ = covariance(outcome.state, held)
    rows = [outcome.table.place(name) for name in names]
    limit = FEEBLE * np.sqrt(np.maximum(np.diag(spread)[rows], 0))
    value = np.abs(outcome.state.values[rows])
    return bool(((value < limit) | (limit == 0)).all())
