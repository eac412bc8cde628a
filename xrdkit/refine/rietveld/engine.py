"""The built-in Rietveld engine: pattern and structure in, refined Fit out."""

import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np

from xrdkit.crystal import to_structure
from xrdkit.progress import result_of
from xrdkit.refine.rietveld.asymmetric import SYMPREC, AsymmetricUnit, asymmetric_unit
from xrdkit.refine.rietveld.automatic import automatic
from xrdkit.refine.rietveld.data import (
    Data,
    observations,
    refuse_flat,
    typical_widths,
    with_radiation,
)
from xrdkit.refine.rietveld.frame import make_frame
from xrdkit.refine.rietveld.least_squares import state_of
from xrdkit.refine.rietveld.outcome import Outcome
from xrdkit.refine.rietveld.restraints import Restraint
from xrdkit.refine.rietveld.results import Esd, fit_of
from xrdkit.refine.rietveld.stages import (
    Options,
    exchanging,
    first_outcomes,
    run_stage,
    settled,
    shared_u,
    stages_of,
    weighted_r,
)
from xrdkit.refine.rietveld.start import first_table
from xrdkit.refine.rietveld.table import Parameters
from xrdkit.types import Candidate, Fit, Instrument, Pattern, Phase, Progress

if TYPE_CHECKING:
    from pymatgen.core import Structure

TERMS = 6  # of the background, before their number is chosen
MOST_TERMS = 100
Displacement = Literal["site", "element", "overall"]
ROUNDS, STILL = 3, 1e-6  # of a table that is refined as it is; change of R_wp that is none
BROAD, LORENTZ = 1.2, 0.4  # Gaussian and Lorentzian FWHM to start from, of the typical one


def refine(
    pattern: Pattern,
    structure: "Structure | str | Path | Fit | Candidate | Parameters",
    **what: Any,
) -> Fit:
    """The Fit of ``refine_steps``, run to its end; ``what`` is what that takes."""
    return result_of(refine_steps(pattern, structure, **what))


def refine_steps(
    pattern: Pattern,
    structure: "Structure | str | Path | Fit | Candidate | Parameters",
    *,
    phases: "Sequence[Structure | str | Path | Phase]" = (),
    instrument: Instrument | None = None,
    background: int | None = None,
    texture: tuple[int, int, int] | Literal["auto"] | None = "auto",
    displacement: str = "site",
    occupancies: bool = False,
    restraints: Sequence[Restraint] = (),
    exclude: Sequence[tuple[float | int, float | int]] = (),
    symprec: float = SYMPREC,
    esd: Esd = "gof",
    cycles: int = 40,
) -> Iterator[Progress]:
    """Refine structures against a pattern as measured; yield every cycle, return the Fit.

    ``structure`` is a CIF, pymatgen Structure, Candidate or Fit, with further ``phases``
    (those of a Fit come along); everything is then refined in stages, and a stage that
    makes the fit worse is undone. Or it is a parameter table, that of an earlier fit
    (``fit.table``) as edited: then exactly what it marks is refined, ``background`` to
    ``occupancies`` being settled in it.

    With ``instrument`` (``formats.read_instrument``) the profile stays as given, and size
    and strain are refined; without, U V W X Y and asymmetry are. ``background`` is a number
    of Chebyshev terms (None: by BIC), ``texture`` a March–Dollase axis (hkl in the setting
    of ``structure``), None, or "auto": the likeliest of seven, where BIC asks for it.
    ``displacement`` says who has a U of its own: "site", "element" or "overall".
    ``occupancies`` frees those of partly occupied and shared sites; sums on shared sites
    stay. ``exclude`` are ranges of 2θ (°). ``esd``: "gof" multiplies e.s.d.s by GOF where
    it is above one, "berar-lelann" by their factor, "statistical" by nothing. Closing the
    generator stops it; the last Progress has the state then reached.
    """
    started = time.monotonic()
    _check_choice(displacement, Displacement, "displacement")
    _check_choice(esd, Esd, "esd")
    check_terms(background)
    check_axis(texture)
    data = observations(pattern, tuple(exclude))
    refuse_flat(data)
    if isinstance(structure, Fit) and data.radiation.kalpha2 is None:
        data = replace(data, radiation=structure.radiation)
    options = Options(
        instrument is not None,
        background,
        texture == "auto",
        displacement,
        occupancies,
        tuple(restraints),
        cycles,
    )
    if isinstance(structure, Parameters):
        if phases or instrument or background is not None or isinstance(texture, tuple):
            raise ValueError(
                "phases, instrument, background and texture stand in a parameter table "
                "already; edit the table, or give a structure"
            )
        steps = _own_way(data, structure, options)
    else:
        units = units_of(structure, phases, symprec)
        axis = units[0].direction(texture) if isinstance(texture, tuple) else None
        table = _start(units, instrument or first_profile(pattern), options, axis)
        origin = getattr(structure, "origin", "") or f"{units[0].name}, refined"
        steps = _stages(data, table, options, origin)
    return (yield from reported(steps, esd, started))


def reported(
    steps: Iterator[tuple[str, int, int, Outcome]], esd: Esd, started: float
) -> Iterator[Progress]:
    """The Progress of cycles since a time (s); returns the Fit of the last one."""
    outcome = fit = None
    for name, done, total, found in steps:
        if found is not outcome:  # else still within a cycle
            outcome, fit = found, fit_of(found, None)
        message = f"R_wp {100 * weighted_r(outcome):.2f} %"
        yield Progress(name, done, total, fit, message, time.monotonic() - started)
    return fit_of(outcome, esd)


def _check_choice(given: str, kind: Any, what: str) -> None:
    """An error unless a word is one of those that a Literal allows."""
    if given not in get_args(kind):
        known = ", ".join(get_args(kind))
        raise ValueError(f"{what} {given!r} is not known; give one of {known}")


def check_terms(background: int | None) -> None:
    """An error unless the number of background terms can be."""
    if background is not None and not 1 <= background <= MOST_TERMS:
        raise ValueError(
            f"{background} background terms; give 1 to {MOST_TERMS}, or none to have them "
            "chosen"
        )


def check_axis(texture: tuple[int, ...] | str | None) -> None:
    """An error unless three indices, not all zero, say a texture axis."""
    if isinstance(texture, tuple) and (len(texture) != 3 or not any(texture)):
        raise ValueError(
            f"texture axis {texture} is none; give three indices like (0, 0, 1)"
        )


def _start(
    units: tuple[AsymmetricUnit, ...],
    profile: Instrument,
    options: Options,
    axis: tuple[int, int, int] | None,
) -> Parameters:
    """The parameter table that the automatic refinement begins with."""
    terms = options.terms or TERMS
    table = first_table(units, profile, background=terms, texture=axis)
    if options.displacement != "site":
        table = shared_u(table, options.displacement)
    return exchanging(table) if options.occupancies else table


def _own_way(
    data: Data, table: Parameters, options: Options
) -> Iterator[tuple[str, int, int, Outcome]]:
    """Cycles of exactly what a table marks."""
    if data.radiation.kalpha2 is None and table.radiation is not None:
        data = with_radiation(data, table.radiation)
    frame = make_frame(data, table)
    refuse_unseen(frame)
    outcome = Outcome(data, frame, table, state_of(frame, table, table.vector()))
    if not table.free:
        outcome = replace(outcome, state=replace(outcome.state, converged=True))
        yield "as it stands", 0, 1, outcome
        return
    for _ in range(ROUNDS):  # what stands still within a round is brought up to date
        start = weighted_r(outcome)
        done = 0
        for found in run_stage(outcome, table, options, options.cycles):
            done += found is not outcome
            outcome = found
            yield "refinement", done, options.cycles, outcome
        table = settled(outcome)
        if abs(weighted_r(outcome) / start - 1) < STILL and outcome.state.converged:
            break


def _stages(
    data: Data, table: Parameters, options: Options, origin: str
) -> Iterator[tuple[str, int, int, Outcome]]:
    """Cycles of the automatic refinement."""
    refuse_unseen(make_frame(data, table))
    names = [stage.name for stage in stages_of(table, data, options)]
    total = len(names) + 2
    for outcome in first_outcomes(data, table, origin):
        yield names[0], 0, total, outcome
    _refuse_unexplained(outcome)
    yield names[0], 1, total, outcome
    done = 1
    for stage, found in automatic(outcome, options):
        done = names.index(stage.name) + 1 if stage.name in names else max(done, 2)
        yield stage.name, done, total, found


def units_of(
    structure: "Structure | str | Path | Fit | Candidate",
    phases: "Sequence[Structure | str | Path | Phase]",
    symprec: float,
) -> tuple[AsymmetricUnit, ...]:
    """The asymmetric units of the structure and of all other phases."""
    known = structure.phases[1:] if isinstance(structure, Fit) else ()
    found = [asymmetric_unit(structure, symprec=symprec)]
    for phase in (*known, *phases):
        name = phase.name if isinstance(phase, Phase) else ""
        source = to_structure(phase.crystal) if isinstance(phase, Phase) else phase
        found.append(asymmetric_unit(source, symprec=symprec, name=name))
    return tuple(found)


def first_profile(pattern: Pattern) -> Instrument:
    """Widths somewhat above those of the pattern's lines, so that lines meet."""
    width, slope = typical_widths(pattern)
    middle = np.tan(np.radians(float(np.mean(pattern.two_theta[[0, -1]])) / 2))
    fwhm = float(np.hypot(width, slope * middle))
    return replace(
        pattern.instrument,
        u=0.0, v=0.0, w=(BROAD * fwhm) ** 2, x=LORENTZ * fwhm, y=0.0, asymmetry=0.0,
    )  # fmt: skip


def refuse_unseen(frame) -> None:
    """Refuse structures without a reflection in the range of the data."""
    x = frame.data.two_theta
    for phase in frame.phases:
        inside = (phase.bragg > x[0]) & (phase.bragg < x[-1])
        if not inside.any():
            raise ValueError(
                f"{phase.unit.name} has no reflection between {x[0]:.1f} and {x[-1]:.1f}° "
                f"at {frame.data.radiation.main:.4f} Å; check cell, wavelength and range"
            )


def _refuse_unexplained(outcome: Outcome) -> None:
    """Refuse a structure whose scale is zero: where it has lines, the pattern has none."""
    table = outcome.table.with_vector(outcome.state.values)
    if table["scale"].value <= 0:
        raise ValueError(
            f"{table.units[0].name} explains nothing of the pattern: where it has lines "
            "there is no intensity; check cell, wavelength and zero point"
        )
