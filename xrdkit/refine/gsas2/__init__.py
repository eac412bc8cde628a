"""GSAS-II as the second opinion: refinement, simulation and projects to go on by hand.

B. H. Toby & R. B. Von Dreele, J. Appl. Cryst. 46, 544 (2013). It runs in a process of its
own, in the Python that XRDKIT_GSAS2_PYTHON names, else in this one.
"""

from collections.abc import Generator, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from xrdkit.progress import result_of
from xrdkit.refine.gsas2.job import AS_IT_IS, Model, job_of, model_of, stages_of
from xrdkit.refine.gsas2.process import GSAS2Error, Worker, installed, version
from xrdkit.refine.gsas2.result import fit_of
from xrdkit.refine.rietveld.asymmetric import SYMPREC, asymmetric_unit
from xrdkit.refine.rietveld.data import Data, observations
from xrdkit.refine.rietveld.engine import check_axis, check_terms, units_of
from xrdkit.refine.rietveld.start import first_table
from xrdkit.scattering import LABORATORY
from xrdkit.types import Fit, Instrument, Pattern, Progress, Radiation

__all__ = [
    "GSAS2Error",
    "installed",
    "refine",
    "refine_steps",
    "simulate",
    "simulations",
    "version",
    "write_project",
]

TERMS = 8  # of the background
TIMEOUT = 600.0  # s that one stage may take
WIDE = "size and strain hold the instrument's widths too: no instrument was given"
Source = Any  # pymatgen Structure, path of a CIF, Fit or Candidate


def refine(pattern: Pattern, structure: Source, **what: Any) -> Fit:
    """The structure refined against a measured pattern by GSAS-II; see ``refine_steps``."""
    return result_of(refine_steps(pattern, structure, **what))


def refine_steps(
    pattern: Pattern,
    structure: Source,
    *,
    phases: Sequence[Source] = (),
    instrument: Instrument | None = None,
    free_profile: bool = False,
    background: int = TERMS,
    texture: tuple[int, int, int] | None = None,
    occupancies: bool = False,
    exclude: Sequence[tuple[float | int, float | int]] = (),
    symprec: float = SYMPREC,
    project: str | Path | None = None,
    timeout: float | int = TIMEOUT,
) -> Generator[Progress, None, Fit]:
    """Staged refinement: every stage is yielded, its fit in ``best``; returns the last.

    A stage that makes R_wp worse, or a parameter impossible, is undone, and tried once more
    towards the end. With ``instrument`` (``formats.read_instrument``) the profile stays as
    given, and size and strain are refined; with ``free_profile`` it starts there.
    ``background`` is a number of Chebyshev terms, ``texture`` a March–Dollase axis (hkl in
    the setting of ``structure``), ``exclude`` are ranges of 2θ (°), and ``project`` is a
    .gpx file to be written. Where
    GSAS-II ends, or is silent for ``timeout`` s, the fit is that of the last good stage,
    with a warning; without one it is a GSAS2Error.
    """
    check_terms(background)
    check_axis(texture)
    model = model_of(
        observations(pattern, tuple((float(a), float(b)) for a, b in exclude)),
        units_of(structure, phases, symprec),
        instrument,
        terms=background,
        texture=texture,
        occupancies=occupancies,
        free_profile=free_profile,
    )
    stages = stages_of(model)
    job = job_of(model, stages, absolute(project))
    notes, undone, state = () if instrument else (WIDE,), {}, None
    with Worker() as worker:
        try:
            for done, answer in enumerate(worker.ask(job, timeout), 1):
                name, why = answer["stage"], answer["undone"]
                undone = {k: v for k, v in undone.items() if k != name}
                undone |= {name: why} if why else {}
                state = answer.get("state", state)
                best = None if state is None else fit_of(model, state, notes)
                said = f"undone: {why}" if why else f"R_wp {best.r_wp:.3f} %"
                total = max(done, len(stages))
                yield Progress(name, done, total, best, said, answer["seconds"])
        except GSAS2Error as error:
            if state is None:
                raise
            notes += (f"{error}; the fit is that of the last good stage",)
    notes += tuple(f"stage '{name}' was undone: {why}" for name, why in undone.items())
    if state is None:
        raise GSAS2Error(
            f"GSAS-II could not start: {notes[-1]}; check that the cell of "
            f"{model.units[0].name} is that of the pattern"
        )
    return fit_of(model, state, notes)


def simulate(structure: Source, radiation: Radiation, **what: Any) -> Pattern:
    """The pattern of one structure by GSAS-II; see ``simulations``."""
    return next(simulations([structure], radiation, **what))


def simulations(
    structures: Iterable[Source],
    radiation: Radiation,
    *,
    two_theta: tuple[float | int, float | int, int] = (5, 80, 7501),
    instrument: Instrument = LABORATORY,
    size: float | int | None = None,
    strain: float | int = 0.0,
    normalise: bool = True,
) -> Iterator[Pattern]:
    """Patterns of structures by GSAS-II on a grid of 2θ (low, high, points), in °.

    Starting GSAS-II takes a second or two, a pattern then 0.1 s: give all at once.
    ``size`` is the Scherrer size in Å, ``strain`` the microstrain. Maxima are at one if
    ``normalise``.
    """
    grid = np.linspace(*two_theta)
    none, one = np.zeros_like(grid), np.ones_like(grid)
    data = Data(grid, none, one, radiation, instrument, counted=False)
    with Worker() as worker:
        for structure in structures:
            table = first_table((asymmetric_unit(structure),), instrument, background=1)
            table = table.edit("size", value=size or np.inf).edit("strain", value=strain)
            (answer,) = worker.ask(job_of(Model(data, table), [AS_IT_IS]), TIMEOUT)
            if answer["undone"]:
                raise GSAS2Error(f"GSAS-II cannot simulate: {answer['undone']}")
            curve = np.array(answer["state"]["calculated"])
            scale = curve.max() if normalise and curve.max() > 0 else 1.0
            yield Pattern(grid, curve / scale, radiation, instrument=instrument)


def write_project(fit: Fit, pattern: Pattern, path: str | Path) -> Path:
    """A GSAS-II project (.gpx) that starts from a fit, scale and background adjusted.

    ``pattern`` is as measured. Nothing else is refined yet, nor flagged to be.
    """
    data = replace(observations(pattern), radiation=fit.radiation)
    model = model_of(data, units_of(fit, (), SYMPREC), fit.instrument, terms=TERMS)
    job = job_of(model, stages_of(model)[:1], absolute(path))
    with Worker() as worker:
        for answer in worker.ask(job, TIMEOUT):
            if answer["undone"]:
                raise GSAS2Error(
                    f"GSAS-II cannot start from {fit.origin}: {answer['undone']}"
                )
    return Path(path)


def absolute(path: str | Path | None) -> str:
    """A path for another process; empty for none. The folder must be there."""
    if path is None:
        return ""
    if not Path(path).absolute().parent.is_dir():
        raise FileNotFoundError(f"there is no folder {Path(path).absolute().parent}")
    return str(Path(path).absolute())
