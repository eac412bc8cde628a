"""Refinement beside GSAS-II and Pawley fits, and e.s.d.s beside repeated noise."""

import json
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from xrdkit.benchmark import results
from xrdkit.benchmark.measured_patterns import beam_of, read_index
from xrdkit.benchmark.scoring import fingerprint
from xrdkit.formats import read_instrument
from xrdkit.pattern import read
from xrdkit.refine import gsas2
from xrdkit.refine.rietveld import Parameters, geometry, pawley, refine
from xrdkit.refine.rietveld.asymmetric import AsymmetricUnit, asymmetric_unit
from xrdkit.refine.rietveld.data import observations
from xrdkit.refine.rietveld.frame import make_frame
from xrdkit.refine.rietveld.least_squares import minimise
from xrdkit.refine.rietveld.model import evaluate
from xrdkit.refine.rietveld.outcome import Outcome
from xrdkit.refine.rietveld.results import fit_of
from xrdkit.refine.rietveld.start import first_table
from xrdkit.types import Fit, Instrument, Pattern
from xrdkit.wavelengths import Spec, radiation

MACHINE = "lab.instprm"
CASES = {  # data, start, whether the profile is that of MACHINE; anion of the central atom
    "NaCl": ("NaCl_noisy.xye", "NaCl_start.cif", True, None),
    "TiO2": ("TiO2_noisy.xye", "TiO2_start.cif", True, None),
    "CaTiO3": ("CaTiO3_noisy.xye", "CaTiO3_start.cif", True, None),
    "FAP": ("FAP.XRA", "FAP_start.cif", False, ("P1", "O")),
    "PbSO4": ("PBSO4.XRA", "PbSO4-Wyckoff.cif", False, ("S1", "O")),
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

    ``folder`` holds the data, starts and stored results; the beam is that of its instrument
    file ``lab.instprm`` unless given, and so is the profile of what was simulated with it.
    Where GSAS-II is installed it refines the same parameters of the profile in the same
    run: e.s.d.s and seconds are compared with those.
    """
    folder = Path(folder)
    light, machine = read_instrument(folder / MACHINE)
    rows = []
    for name in names:
        data, start, known, bond = CASES[name]
        pattern = read(folder / data, wavelength=radiation(beam) if beam else light)
        what = {"instrument": machine if known else None}
        fit, seconds = _timed(partial(refine, pattern, folder / start, **what))
        unit = fit.table.units[0]
        cell = asymmetric_unit(folder / start).cell
        floor = pawley(pattern, cell, unit.space_group, **what)
        stored = json.loads((folder / f"{name}_gsas2_refined.json").read_text())
        row = _row(name, fit, floor, stored) | seconds
        if known:
            row["off_truth_in_esd"] = _off(fit, asymmetric_unit(folder / f"{name}.cif"))
        if gsas2.installed():
            theirs = _timed(partial(gsas2.refine, pattern, folder / start, **what))
            row |= _beside(fit, *theirs)
        rows.append(row | _bonds(fit, bond))
    return rows


def _timed(work: Callable[[], Fit]) -> tuple[Fit, dict[str, float]]:
    """What a refinement gives, with its wall and processor seconds (of this process)."""
    began, used = time.perf_counter(), time.process_time()
    fit = work()
    wall, busy = time.perf_counter() - began, time.process_time() - used
    return fit, {"seconds": round(wall, 2), "cpu_seconds": round(busy, 2)}


def _row(name: str, fit: Fit, floor: Fit, stored: dict) -> dict[str, Any]:
    """Our refinement beside the stored one of GSAS-II."""
    return {
        "case": name,
        "r_wp": round(fit.r_wp, 3),
        "r_wp_stored": round(stored["Rwp"], 3),
        "parameters": fit.n_parameters,
        "parameters_stored": stored["nvar"],
        "gof": round(fit.r_values["gof"], 3),
        "r_wp_pawley": round(floor.r_wp, 3),
        "r_wp_over_pawley": round(fit.r_wp / floor.r_wp, 3),
        "cell": {k: round(fit.values[k], 6) for k in "abc"},
        "cell_esd": {k: fit.uncertainties.get(k, 0.0) for k in "abc"},
        "cell_stored": {k: stored["cell"][f"length_{k}"] for k in "abc"},
        "cell_esd_stored": {k: stored["cell_esd"][f"length_{k}"] for k in "abc"},
        "least_u": min(v for k, v in fit.values.items() if k.startswith("u:")),
        "warnings": list(fit.warnings),
    }


def _off(fit: Fit, truth: AsymmetricUnit) -> dict[str, float]:
    """How far cell and coordinates are from the truth, in e.s.d.s."""
    right = dict(zip(CELL, truth.cell, strict=True))
    for site in truth.sites:
        right |= {f"{k}:{site.label}": v for k, v in zip("xyz", site.frac, strict=True)}
    return {
        k: round(float(fit.values[k] - right[k]) / esd, 2)
        for k, esd in fit.uncertainties.items()
        if k in right and esd
    }


def _beside(fit: Fit, theirs: Fit, seconds: dict[str, float]) -> dict[str, Any]:
    """GSAS-II's refinement of the same run, and our e.s.d.s over its own."""
    ratios = {
        k: round(fit.uncertainties[k] / esd, 3)
        for k, esd in theirs.uncertainties.items()
        if (k in CELL or k[0] in "xyz") and esd and k in fit.uncertainties
    }
    return {
        "r_wp_gsas2": round(theirs.r_wp, 3),
        "parameters_gsas2": theirs.n_parameters,
        "seconds_gsas2": seconds["seconds"],
        "esd_over_gsas2": ratios,
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


def against_pawley(
    folder: str | Path, solutions: str | Path, output: str | Path
) -> list[dict[str, Any]]:
    """Rows of measured compounds: R_wp of the solved structure beside that of its cell.

    ``solutions`` is the result file of ``benchmark measured``, whose first structures are
    refined against the patterns in ``folder``, one for each compound. The Pawley fit has as
    many background terms as the refinement.
    """
    folder = Path(folder)
    header, solved = results.read([solutions])
    index = read_index(folder, tuple(header[0]["settings"]["tiers"]))
    firsts: dict[str, dict] = {}
    for row in solved:
        if row.get("first") is not None:
            firsts.setdefault(index[row["id"]]["compound"], row)
    done = results.start(output, {"benchmark": "pawley", "solutions": fingerprint(firsts)})
    known = {row["compound"] for row in done}
    for compound, row in firsts.items():
        if compound in known:
            continue
        try:
            found = _over_floor(folder, index[row["id"]], row)
        except Exception as error:  # a long run must not end at one entry
            found = {"error": f"{type(error).__name__}: {error}"}
        found = {"id": row["id"], "compound": compound, **found}
        results.append(output, found)
        done.append(found)
    return done


def pawley_counts(
    rows: list[dict[str, Any]], limit: float = 1.3
) -> tuple[list[dict[str, Any]], dict[str, float | int]]:
    """The rows of ``against_pawley`` to be shown, worst last; and how many are within."""
    shown = ("compound", "right", "r_wp", "r_wp_pawley", "r_wp_over_pawley", "parameters")
    found = [row for row in rows if "error" not in row]
    found.sort(key=lambda row: row["r_wp_over_pawley"])
    within = sum(row["r_wp_over_pawley"] <= limit for row in found)
    counted = {
        "compounds": len(rows),
        "errors": len(rows) - len(found),
        f"R_wp over Pawley up to {limit}": within,
        "median R_wp": float(np.median([row["r_wp"] for row in found])),
    }
    return [{name: row[name] for name in shown} for row in found], counted


def _over_floor(folder: Path, facts: dict[str, Any], row: dict) -> dict[str, Any]:
    """One structure refined, and its cell fitted with the same beam and background."""
    from pymatgen.core import Structure

    beam = beam_of(facts["wavelength_A"], facts["kalpha2"])
    pattern = read(folder / f"{facts['id']}.xy", wavelength=beam)
    fit, seconds = _timed(partial(refine, pattern, Structure.from_dict(row["first"])))
    cell = [fit.values[k] for k in CELL]
    terms = len(fit.table.matching("background:*"))
    known = replace(pattern, radiation=fit.radiation)
    floor = pawley(known, cell, fit.space_group, background=terms)
    return {
        "right": row["fits"][0]["literature"],
        "r_wp": fit.r_wp,
        "gof": fit.r_values.get("gof"),
        "parameters": fit.n_parameters,
        "r_wp_pawley": floor.r_wp,
        "r_wp_over_pawley": fit.r_wp / floor.r_wp,
        "warnings": list(fit.warnings),
        **seconds,
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
    *_, state = minimise(frame, table)
    return fit_of(Outcome(data, frame, table, state), "statistical")
