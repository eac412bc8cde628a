"""What the automatic refinement frees, stage by stage, and how a stage is run."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from xrdkit.refine.rietveld.data import Data, with_radiation
from xrdkit.refine.rietveld.frame import make_frame
from xrdkit.refine.rietveld.least_squares import minimise
from xrdkit.refine.rietveld.metric import CELL
from xrdkit.refine.rietveld.outcome import Outcome
from xrdkit.refine.rietveld.restraints import Apart, Restraint
from xrdkit.refine.rietveld.start import prefix_of
from xrdkit.refine.rietveld.table import Parameters, kind_of
from xrdkit.wavelengths import radiation_choices

LINEAR = ("scale", "background")
SCALES = np.linspace(-0.012, 0.012, 13)  # relative changes of all edges that are tried
GAIN = 0.95  # a changed start must bring R_wp below this times what it was
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
    restraints: tuple[Restraint | Apart, ...] = ()
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
    """Refine what is free in a table; yield every cycle, within one again the last."""
    frame = make_frame(outcome.data, table)
    for state in minimise(frame, table, cycles=cycles, restraints=options.restraints):
        if state is not None:
            outcome = replace(outcome, frame=frame, table=table, state=state)
        yield outcome


def settled(outcome: Outcome) -> Parameters:
    """The table with the values of the outcome's state."""
    return outcome.table.with_vector(outcome.state.values)


def weighted_r(outcome: Outcome) -> float:
    """R_wp as a share, restraints included."""
    data = outcome.data
    return float(np.sqrt(outcome.state.chi2 / (data.weight @ data.intensity**2)))


def first_outcomes(data: Data, table: Parameters, origin: str) -> Iterator[Outcome]:
    """Scale and background fitted; beam and overall cell scale chosen where that helps.

    Yields the best after every trial.
    """
    table = freed(table, Stage("scale and background", LINEAR))
    fits = []
    for beam in radiation_choices(data.radiation):
        fits.append(_linear(with_radiation(data, beam), table, origin))
        best = min(fits, key=weighted_r)
        yield best
    for change in SCALES[SCALES != 0]:
        trial = _linear(best.data, _scaled(table, float(change)), origin)
        if weighted_r(trial) < (GAIN * weighted_r(fits[0])) and (
            weighted_r(trial) < weighted_r(best)
        ):
            best = trial
        yield best


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
    *_, state = minimise(frame, table, cycles=2)
    return Outcome(data, frame, table, state, origin)


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
