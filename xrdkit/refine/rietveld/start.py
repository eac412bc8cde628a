"""The first parameter table of a refinement: every row, its start, limits and symmetry."""

import re

import numpy as np

from xrdkit.refine.rietveld.asymmetric import AsymmetricUnit, Site
from xrdkit.refine.rietveld.metric import CELL
from xrdkit.refine.rietveld.table import Parameter, Parameters
from xrdkit.space_group import crystal_system
from xrdkit.types import Instrument

TIED = {  # which cell parameters follow others, by crystal system
    "triclinic": {},
    "monoclinic": {"alpha": "90", "gamma": "90"},
    "orthorhombic": {"alpha": "90", "beta": "90", "gamma": "90"},
    "tetragonal": {"b": "a", "alpha": "90", "beta": "90", "gamma": "90"},
    "trigonal": {"b": "a", "alpha": "90", "beta": "90", "gamma": "120"},
    "hexagonal": {"b": "a", "alpha": "90", "beta": "90", "gamma": "120"},
    "cubic": {"b": "a", "c": "a", "alpha": "90", "beta": "90", "gamma": "90"},
}
CELL_RANGE, ANGLE_RANGE = 0.1, 8.0  # how far edges (relative) and angles (°) may move
U_HIGHEST = 0.3  # Å²
AXES = "xyz"


def first_table(
    units: tuple[AsymmetricUnit, ...],
    instrument: Instrument,
    *,
    background: int,
    texture: tuple[int, int, int] | None = None,
    intensities: tuple[str, ...] = (),
) -> Parameters:
    """The table before anything is refined, of ``background`` Chebyshev terms.

    A unit without sites has ``intensities`` instead (Pawley), by these names.
    """
    rows = [Parameter(f"background:{i}", 0.0) for i in range(background)]
    rows += _instrument_rows(instrument)
    for i, unit in enumerate(units):
        rows += _phase_rows(unit, prefix_of(units, i), texture if i == 0 else None)
    rows += [Parameter(name, 0.0, low=0.0) for name in intensities]
    table = Parameters(tuple(rows), units, texture)
    matrix, constant = table.ties()
    return table.with_vector(matrix @ table.vector() + constant)


def prefix_of(units: tuple[AsymmetricUnit, ...], i: int) -> str:
    """What stands before the names of a phase: nothing for the first, else ``name/``."""
    if i == 0:
        return ""
    earlier = [unit.name for unit in units[:i]]
    name = re.sub(r"[\s/*+-]", "_", units[i].name) or "phase"  # what a tie can be read with
    return f"{name}/" if units[i].name not in earlier else f"{name}_{i + 1}/"


def _instrument_rows(instrument: Instrument) -> list[Parameter]:
    return [
        Parameter("zero", instrument.zero, low=-1, high=1),
        Parameter("displacement", instrument.displacement, low=-3, high=3),
        Parameter("U", instrument.u, low=-20, high=20),
        Parameter("V", instrument.v, low=-20, high=20),
        Parameter("W", instrument.w, low=-20, high=20),
        Parameter("X", instrument.x, low=0.0, high=5),
        Parameter("Y", instrument.y, low=0.0, high=5),
        Parameter("asymmetry", instrument.asymmetry, low=0.0, high=0.3),
        Parameter("roughness", 0.0, low=0.0, high=1.0),
        Parameter("roughness_depth", 0.3, low=0.01, high=5),
        Parameter("absorption", 0.0, low=0.0, high=3),
    ]


def _phase_rows(
    unit: AsymmetricUnit, prefix: str, texture: tuple[int, int, int] | None
) -> list[Parameter]:
    """Scale, cell, size, strain, texture and atoms of a phase."""
    rows = [Parameter(f"{prefix}scale", 1.0, low=0.0)]
    ties = TIED[crystal_system(unit.space_group)]
    for name, value in zip(CELL, unit.cell, strict=True):
        off = CELL_RANGE * value if name in "abc" else ANGLE_RANGE
        tie = ties.get(name, "")
        tie = f"{prefix}{tie}" if tie == "a" else tie
        rows.append(_row(f"{prefix}{name}", value, value - off, value + off, tie))
    rows.append(Parameter(f"{prefix}size", np.inf, low=10, high=np.inf))
    rows.append(Parameter(f"{prefix}strain", 0.0, low=0.0, high=0.1))
    rows.append(Parameter(f"{prefix}texture", 1.0, low=0.2, high=5))
    if texture is None:
        rows[-1] = Parameter(f"{prefix}texture", 1.0, low=1.0, high=1.0)
    anchor = _anchor(unit)
    for site in unit.sites:
        first = next(s for s in unit.sites if s.place == site.place)
        rows += _site_rows(unit, site, first, anchor, prefix)
    return rows


def _row(name: str, value: float, low: float, high: float, tie: str = "") -> Parameter:
    """A row that symmetry ties where ``tie`` is not empty."""
    if tie:
        return Parameter(name, value, tie=tie, by_symmetry=True)
    return Parameter(name, value, low=low, high=high)


def _site_rows(
    unit: AsymmetricUnit, site: Site, first: Site, anchor: int, prefix: str
) -> list[Parameter]:
    """Coordinates, U and occupancy; species that share a place share what they can."""
    names = [f"{prefix}{axis}:{site.label}" for axis in AXES]
    ties = _coordinate_ties(unit, site, names, site.place == anchor)
    u, occupancy = f"{prefix}u:{site.label}", f"{prefix}occupancy:{site.label}"
    rows = []
    if site is not first:
        ties = [f"{prefix}{axis}:{first.label}" for axis in AXES]
    for name, value, tie in zip(names, site.frac, ties, strict=True):
        rows.append(_row(name, float(value), -np.inf, np.inf, tie))
    shared = "" if site is first else f"{prefix}u:{first.label}"
    rows.append(Parameter(u, site.u_iso, low=0.0, high=U_HIGHEST, tie=shared))
    rows.append(Parameter(occupancy, site.occupancy, low=0.0, high=1.0))
    return rows


def _coordinate_ties(
    unit: AsymmetricUnit, site: Site, names: list[str], anchored: bool
) -> list[str]:
    """What each coordinate follows: "" where it is free, else a sum.

    In polar groups the ``anchored`` site keeps the origin where it is.
    """
    free = site.free
    pivots = [int((row != 0).argmax()) for row in free]
    if anchored and len(unit.polar):
        held = {int((row != 0).argmax()) for row in unit.polar}
    else:
        held = set()
    ties = []
    for axis in range(3):
        if axis in pivots and axis not in held:
            ties.append("")
            continue
        constant, text = float(site.frac[axis]), ""
        for row, pivot in zip(free, pivots, strict=True):
            if row[axis] != 0 and pivot not in held and axis not in pivots:
                constant -= float(row[axis] * site.frac[pivot])
                text += (
                    f" {'-' if row[axis] < 0 else '+'} {abs(row[axis]):g}*{names[pivot]}"
                )
        ties.append(f"{constant:.9g}{text}")
    return ties


def _anchor(unit: AsymmetricUnit) -> int:
    """The place that holds the origin in polar groups: the most electrons, free to move."""
    if not unit.sites:
        return -1
    weights: dict[int, float] = {}
    for site in unit.sites:
        weights.setdefault(site.place, 0.0)
        weights[site.place] += site.number * site.occupancy * site.multiplicity
    return max(weights, key=lambda place: weights[place])
