"""GSAS-II's variables and covariance -> the rows of our parameter table, by J V Jᵀ.

E.s.d.s of cells come from the covariance of the reciprocal metric: those that GSAS-II gives
itself are wrong where axes are not orthogonal.
"""

import re
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from xrdkit.refine.gsas2.instrument import UNITS
from xrdkit.refine.gsas2.job import MICRON, SIZE, STRAIN
from xrdkit.refine.rietveld.asymmetric import AsymmetricUnit
from xrdkit.refine.rietveld.metric import (
    CELL,
    metric,
    metric_derivatives,
    volume,
)
from xrdkit.refine.rietveld.start import prefix_of
from xrdkit.refine.rietveld.table import SIZE as SIZES
from xrdkit.refine.rietveld.table import Parameters, is_size, parse_tie

VARIABLE = re.compile(r"(\d*):(\d*):([^:]+?)(?::(\d+))?")  # phase, histogram, name, atom
DIRECT = {  # GSAS-II's name: ours, our unit
    "Shift": ("displacement", MICRON),
    "DisplaceX": ("displacement", MICRON),
    "Zero": ("zero", 1.0),
    "SH/L": ("asymmetry", 1.0),
    "Scale": ("scale", 1.0),
    "Size;i": ("size", SIZE),
    "Mustrain;i": ("strain", STRAIN),
    "MD": ("texture", 1.0),
    **{key: (key, unit) for key, unit in UNITS.items()},
}
PAIRS = [(0, 0), (1, 1), (2, 2), (0, 1), (0, 2), (1, 2)]  # of GSAS-II's A0 to A5
State = dict[str, Any]
Jacobian = dict[str, Float[np.ndarray, " variables"]]
Matrix = Float[np.ndarray, "rows columns"]


def values_of(table: Parameters, state: State, geometry: str) -> dict[str, float]:
    """Values of the table's rows, in our units.

    GSAS-II's scale times the cell volume is that of m |F|² LP / V², up to a constant.
    """
    sample, instrument = state["sample"], state["instrument"]
    found = {f"background:{i}": term for i, term in enumerate(state["coefficients"])}
    for key in ("Zero", "SH/L", *UNITS):
        name, unit = DIRECT[key]
        found[name] = instrument[key] * unit
    flat = geometry == "bragg-brentano"
    found["displacement"] = sample["Shift" if flat else "DisplaceX"] * MICRON
    for i, phase in enumerate(state["phases"]):
        start, cell = prefix_of(table.units, i), np.array(phase["cell"])
        found |= {start + key: float(v) for key, v in zip(CELL, cell, strict=True)}
        found[start + "scale"] = phase["scale"] * sample["Scale"] * volume(cell)
        found[start + "size"] = phase["size"] * SIZE
        found[start + "strain"] = phase["strain"] * STRAIN
        found[start + "texture"] = phase["texture"]
        for label, frac, occupancy, u in phase["atoms"]:
            for axis, value in zip("xyz", frac, strict=True):
                found[f"{start}{axis}:{label}"] = value
            found[f"{start}u:{label}"] = u
            found[f"{start}occupancy:{label}"] = occupancy
    return found


def jacobian_of(table: Parameters, state: State) -> Jacobian:
    """Derivatives of the rows that move by GSAS-II's variables."""
    names, phases = state["names"], state["phases"]
    found: Jacobian = {}
    for column, name in enumerate(names):
        said = VARIABLE.fullmatch(name)
        phase, kind = (said[1], said[3]) if said else ("", "")
        if kind.startswith("Back;"):
            found[f"background:{kind[5:]}"] = _unit_row(column, names)
        if kind in DIRECT:
            ours, unit = DIRECT[kind]
            if kind == "Scale":
                unit *= volume(np.array(phases[int(phase or 0)]["cell"]))
            start = prefix_of(table.units, int(phase or 0))
            found[start + ours] = _unit_row(column, names) * unit
    for i, unit in enumerate(table.units):
        start, cell = prefix_of(table.units, i), np.array(phases[i]["cell"])
        rows = {**_cell_rows(unit, cell, names, i), **_site_rows(unit, names, i)}
        found |= {start + name: row for name, row in rows.items()}
    return found


def moved_rows(table: Parameters, state: State) -> set[str]:
    """Names of the rows that were refined: those that move and follow no other."""
    jacobian = jacobian_of(table, state)
    return {n for n, row in jacobian.items() if row.any() and not table[n].tie}


def spread_of(table: Parameters, state: State) -> Matrix:
    """Covariance of ``table.vector()``, in which sizes are reciprocals; J V Jᵀ."""
    jacobian = jacobian_of(table, state)
    rows = np.zeros((len(table), len(state["names"])))
    for name, row in jacobian.items():
        if table[name].tie and not parse_tie(table[name].tie)[0]:
            continue  # an angle that symmetry fixes
        turned = -SIZES / table[name].value ** 2 if is_size(name) else 1.0
        rows[table.place(name)] = turned * row
    return (
        rows @ np.array(state["covariance"], float).reshape(2 * (rows.shape[1],)) @ rows.T
    )


def _unit_row(column: int, names: Sequence[str]) -> Float[np.ndarray, " variables"]:
    row = np.zeros(len(names))
    row[column] = 1
    return row


def _columns(names: Sequence[str], wanted: Sequence[str]) -> tuple[list[int], list[int]]:
    """Which of the wanted variables there are, and their columns."""
    rows = [i for i, name in enumerate(wanted) if name in names]
    return rows, [names.index(wanted[i]) for i in rows]


def dependent(basis: Matrix, free: Sequence[int]) -> Matrix:
    """Derivatives of all rows of a linear space by those that are free in it."""
    return basis @ np.linalg.pinv(basis[list(free)])


def _cell_rows(
    unit: AsymmetricUnit, cell: Float[np.ndarray, "6"], names: Sequence[str], phase: int
) -> Jacobian:
    """Rows of a, b, c, α, β, γ."""
    free, columns = _columns(names, [f"{phase}::A{k}" for k in range(6)])
    if not free:
        return {}
    rows = np.zeros((6, len(names)))
    rows[:, columns] = cell_derivatives(cell) @ dependent(
        metric_basis(unit.rotations), free
    )
    return dict(zip(CELL, rows, strict=True))


def metric_basis(rotations: Int[np.ndarray, "operations 3 3"]) -> Matrix:
    """A0 to A5 of the reciprocal metrics that have a symmetry, as columns."""
    units = np.zeros((6, 3, 3))
    for unit, (i, j) in zip(units, PAIRS, strict=True):
        unit[i, j] = unit[j, i] = 1 if i == j else 0.5
    mean = np.einsum("gij,sjk,glk->sil", rotations, units, rotations) / len(rotations)
    columns = [[m[i, j] * (1 if i == j else 2) for i, j in PAIRS] for m in mean]
    u, s, _ = np.linalg.svd(np.array(columns).T)
    return u[:, s > 1e-6 * s[0]]


def cell_derivatives(cell: Float[np.ndarray, "6"]) -> Float[np.ndarray, "6 6"]:
    """∂(a, b, c, α, β, γ)/∂(A0 … A5), in Å and ° by 1/Å²."""
    inverse = np.linalg.inv(metric(cell))
    slopes = -inverse @ metric_derivatives(cell) @ inverse  # of G⁻¹, by the cell
    table = [[slope[i, j] * (1 if i == j else 2) for slope in slopes] for i, j in PAIRS]
    return np.linalg.inv(np.array(table))


def _site_rows(unit: AsymmetricUnit, names: Sequence[str], phase: int) -> Jacobian:
    """Rows of coordinates, displacements and occupancies; a shared place moves as one."""
    found: Jacobian = {}
    for i, site in enumerate(unit.sites):
        here = [k for k, other in enumerate(unit.sites) if other.place == site.place]
        for k in here:
            wanted = [f"{phase}::dA{axis}:{k}" for axis in "xyz"]
            free, columns = _columns(names, wanted)
            if free:
                rows = np.zeros((3, len(names)))
                rows[:, columns] = dependent(site.free.T, free)
                for axis, row in zip("xyz", rows, strict=True):
                    found[f"{axis}:{site.label}"] = row
            if f"{phase}::AUiso:{k}" in names:
                column = names.index(f"{phase}::AUiso:{k}")
                found[f"u:{site.label}"] = _unit_row(column, names)
        if f"{phase}::Afrac:{i}" in names:
            column = names.index(f"{phase}::Afrac:{i}")
            found[f"occupancy:{site.label}"] = _unit_row(column, names)
    return found
