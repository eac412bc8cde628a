"""Rietveld refinement against GSAS-II's results, and e.s.d.s against repeated noise."""

import json
import time
from pathlib import Path
from typing import Any

import numpy as np

from xrdkit.formats import read_instrument
from xrdkit.pattern import read
from xrdkit.refine.rietveld import Parameters, geometry, pawley, refine
from xrdkit.refine.rietveld.asymmetric import asymmetric_unit
from xrdkit.refine.rietveld.data import observations
from xrdkit.refine.rietveld.frame import make_frame
from xrdkit.refine.rietveld.least_squares import minimise, state_of
from xrdkit.refine.rietveld.model import evaluate
from xrdkit.refine.rietveld.results import Outcome, fit_of
from xrdkit.refine.rietveld.start import first_table
from xrdkit.types import Fit, Instrument, Pattern
from xrdkit.wavelengths import Spec, radiation

CASES = {  # data, start, GSAS-II's result; anion bonded to the central atom
    "NaCl": ("NaCl_noisy.xye", "NaCl_start.cif", None),
    "TiO2": ("TiO2_noisy.xye", "TiO2_start.cif", None),
    "CaTiO3": ("CaTiO3_noisy.xye", "CaTiO3_start.cif", None),
    "FAP": ("FAP.XRA", "FAP_start.cif", ("P1", "O")),
    "PbSO4": ("PBSO4.XRA", "PbSO4-Wyckoff.cif", ("S1", "O")),
}
SYSTEMS = {  # space group, cell and places of a made-up crystal in each crystal system
    "cubic": (225, (5.64, 5.64, 5.64, 90, 90, 90), ((0, 0, 0), (0.5, 0.5, 0.5))),
    "tetragonal": (136, (4.59, 4.59, 2.96, 90, 90, 90), ((0, 0, 0), (0.305, 0.305, 0))),
    "hexagonal": (
        186,
        (3.25, 3.25, 5.2, 90, 90, 120),
        ((1 / 3, 2 / 3, 0), (1 / 3, 2 / 3, 0.38)),
    ),
    "trigonal": (166, (3.1, 3.1, 15.2, 90, 90, 120), ((0, 0, 0), (0, 0, 0.27))),
    "orthorhombic": (
        62,
        (5.4, 5.2, 4.8, 90, 90, 90),
        ((0.1, 0.25, 0.4), (0.35, 0.25, 0.1)),
    ),
    "monoclinic": (11, (4.6, 3.7, 5.3, 90, 98, 90), ((0.2, 0.25, 0.3), (0.6, 0.25, 0.8))),
    "triclinic": (2, (4.2, 4.9, 5.6, 84, 96, 102), ((0.2, 0.3, 0.1), (0.6, 0.8, 0.7))),
}
CELL = ("a", "b", "c", "alpha", "beta", "gamma")


def against_gsas2(
    folder: str | Path, names: tuple[str, ...] = tuple(CASES), *, beam: Spec | None = None
) -> list[dict[str, Any]]:
    """One row for each case: R_wp, P, seconds, cell and e.s.d.s beside GSAS-II's.

    ``folder`` holds the data, starts and results; the beam is that of its instrument file
    ``lab.instprm`` unless given.
    """
    folder = Path(folder)
    light = radiation(beam) if beam else read_instrument(folder / "lab.instprm")[0]
    rows = []
    for name in names:
        data, start, bond = CASES[name]
        pattern = read(folder / data, wavelength=light)
        began, used = time.perf_counter(), time.process_time()
        fit = refine(pattern, folder / start)
        seconds = time.perf_counter() - began, time.process_time() - used
        unit = fit.table.units[0]
        floor = pawley(pattern, asymmetric_unit(folder / start).cell, unit.space_group)
        theirs = json.loads((folder / f"{name}_gsas2_refined.json").read_text())
        rows.append(_row(name, fit, floor, theirs, seconds) | _bonds(fit, bond))
    return rows


def _row(
    name: str, fit: Fit, floor: Fit, theirs: dict, seconds: tuple[float, float]
) -> dict[str, Any]:
    lengths = {k: theirs["cell"][f"length_{k}"] for k in "abc"}
    errors = {k: theirs["cell_esd"][f"length_{k}"] for k in "abc"}
    return {
        "case": name,
        "r_wp": round(fit.r_wp, 3),
        "r_wp_gsas2": round(theirs["Rwp"], 3),
        "parameters": fit.n_parameters,
        "parameters_gsas2": theirs["nvar"],
        "gof": round(fit.r_values["gof"], 3),
        "r_wp_pawley": round(floor.r_wp, 3),
        "r_wp_over_pawley": round(fit.r_wp / floor.r_wp, 3),
        "seconds": round(seconds[0], 2),
        "cpu_seconds": round(seconds[1], 2),
        "seconds_gsas2": theirs["total_s"],
        "cell": {k: round(fit.values[k], 6) for k in "abc"},
        "cell_esd": {k: fit.uncertainties.get(k, 0.0) for k in "abc"},
        "cell_gsas2": lengths,
        "cell_esd_gsas2": errors,
        "least_u": min(v for k, v in fit.values.items() if k.startswith("u:")),
        "warnings": list(fit.warnings),
    }


def _bonds(fit: Fit, bond: tuple[str, str] | None) -> dict[str, Any]:
    """Bond lengths (Å) of the central atom, each as often as it occurs, and their mean."""
    if bond is None:
        return {}
    found = [
        m.value
        for m in geometry(fit).bonds
        for _ in range(m.count)
        if m.atoms[0] == bond[0] and m.atoms[1].startswith(bond[1])
    ]
    return {
        "bonds": [round(v, 3) for v in found],
        "mean_bond": round(float(np.mean(found)), 3),
    }


def esd_spread(
    beam: Spec,
    *,
    repeats: int = 200,
    seed: int = 0,
    systems: tuple[str, ...] = tuple(SYSTEMS),
) -> list[dict[str, Any]]:
    """Spread of refined cells over patterns with new noise, divided by their e.s.d.s.

    One crystal in each crystal system; scale, background, widths, cell, displacement of the
    sample and U are refined. A ratio is good to 1/√(2 (repeats - 1)).
    """
    rng = np.random.default_rng(seed)
    rows = []
    for system in systems:
        table, pattern, curve = _crystal(system, beam)
        values, errors = [], []
        for _ in range(repeats):
            fit = _again(pattern, table, rng.poisson(curve).astype(float))
            values.append([fit.values[k] for k in CELL])
            errors.append([fit.uncertainties.get(k, 0.0) for k in CELL])
        spread, said = np.std(values, axis=0, ddof=1), np.mean(errors, axis=0)
        ratios = {
            k: round(float(s / e), 3)
            for k, s, e in zip(CELL, spread, said, strict=True)
            if e
        }
        rows.append({"system": system, "repeats": repeats, "spread_over_esd": ratios})
    return rows


def _crystal(system: str, beam: Spec) -> tuple[Parameters, Pattern, np.ndarray]:
    """Table with what is refined, pattern without noise, and its curve in counts."""
    from pymatgen.core import Lattice, Structure

    number, cell, places = SYSTEMS[system]
    lattice = Lattice.from_parameters(*cell)
    structure = Structure.from_spacegroup(number, lattice, ["Ca", "S"], list(places))
    profile = Instrument(w=0.006, x=0.04)
    table = first_table((asymmetric_unit(structure),), profile, background=2)
    table = table.edit("scale", value=15.0).edit("background:0", value=60.0)
    for kind in (*CELL, "scale", "background:*", "u:*", "W", "X", "displacement"):
        if not table.rows[table.place(table.matching(kind)[0])].by_symmetry:
            table = table.edit(kind, refine=True)
    x = np.arange(20.0, 80.0, 0.03)
    flat = Pattern(x, np.ones_like(x), radiation(beam), np.ones_like(x), "counts")
    curve = evaluate(make_frame(observations(flat), table), table, table.vector()).curve
    return table, flat, curve


def _again(pattern: Pattern, table: Parameters, counts: np.ndarray) -> Fit:
    """The refinement of a pattern with these counts."""
    sigma = np.sqrt(np.maximum(counts, 1))
    data = observations(
        Pattern(pattern.two_theta, counts, pattern.radiation, sigma, "counts")
    )
    frame = make_frame(data, table)
    state = state_of(frame, table, table.vector())
    for found in minimise(frame, table):
        state = found
    return fit_of(Outcome(data, frame, table, state), "statistical")
