"""What a refinement says: R values, e.s.d.s, correlations, and the Fit itself.

E.s.d.s hold the statistics of the counts alone, multiplied by GOF where that is above one
(as GSAS-II and FullProf do; never made smaller), or by the factor of Bérar & Lelann. Errors
of the wavelength and of what the model leaves out are not in them.
"""

from dataclasses import replace
from typing import Literal

import numpy as np
from jaxtyping import Float

from xrdkit.metrics import goodness_of_fit, r_exp, r_wp, r_wp_prime
from xrdkit.refine.known import density
from xrdkit.refine.rietveld.answer import phases_of, structure_of
from xrdkit.refine.rietveld.cautions import warnings_of
from xrdkit.refine.rietveld.data import Data
from xrdkit.refine.rietveld.frame import PhaseFrame
from xrdkit.refine.rietveld.least_squares import (
    at_limit,
    covariance,
)
from xrdkit.refine.rietveld.metric import CELL, volume, volume_derivatives
from xrdkit.refine.rietveld.model import PhaseProfile
from xrdkit.refine.rietveld.outcome import Outcome
from xrdkit.refine.rietveld.start import prefix_of
from xrdkit.refine.rietveld.table import (
    POLARISATION,
    Parameters,
)
from xrdkit.types import Fit, Instrument, Radiation

Points = Float[np.ndarray, " points"]
Esd = Literal["gof", "berar-lelann", "statistical"]
STRONG = 0.9  # correlation that is named
WHITE = 1 + 4 / np.pi  # sum over runs / sum over points, squared, of uncorrelated residuals


def fit_of(outcome: Outcome, esd: Esd | None = "gof") -> Fit:
    """The Fit of an outcome; without e.s.d.s and warnings while it is on the way (None)."""
    data, state = outcome.data, outcome.state
    table = replace(outcome.table, radiation=data.radiation).with_vector(state.values)
    held = at_limit(table, state)
    found = replace(outcome, table=table)
    extra: dict = {"values": values_of(table)}
    if esd is not None:
        bare, lost = covariance(state, held)
        spread = bare * esd_factor(found, int((~held).sum()), esd) ** 2
        table = table.with_vector(state.values, np.sqrt(np.maximum(np.diag(spread), 0)))
        extra = {
            "values": values_of(table),
            "uncertainties": uncertainties(table, spread),
            "correlations": correlations(table, spread),
            "warnings": (*outcome.notes, *warnings_of(found, spread, lost)),
            "covariance": spread,
            "factors": structure_factors(found),
        }
    parameters = int((~held).sum())
    terms = sum(name.startswith("background:") for name in table.free)
    curve = state.evaluation.curve
    background = state.evaluation.background
    r_values = r_factors(data, curve, background, parameters)
    first = state.evaluation.phases[0]
    r_values |= bragg_factors(data, curve, background, first, outcome.frame.phases[0])
    unit = table.units[0]
    effective = effective_count(data, curve)
    return Fit(
        structure=structure_of(table, 0),
        phases=phases_of(table),
        origin=outcome.origin,
        residual=r_values["r_wp_b"] / 100,
        score=-(effective * np.log(state.chi2) + parameters * np.log(effective)) / 2,
        two_theta=data.two_theta,
        observed=data.intensity,
        calculated=curve,
        background=curve - state.evaluation.phases[0].curve,
        radiation=beam_of(table, data.radiation),
        instrument=instrument_of(table, data.instrument),
        space_group=unit.space_group,
        space_group_symbol=unit.symbol,
        wyckoff="",
        parameters=parameters - terms,
        r_values=r_values,
        engine="rietveld",
        sigma=data.sigma if data.counted else None,
        n_observations=data.count,
        n_parameters=parameters,
        esd=esd or "gof",
        table=table,
        **extra,
    )


def beam_of(table: Parameters, beam: Radiation) -> Radiation:
    """The beam with the refined polarisation."""
    if POLARISATION not in table:
        return beam
    return replace(beam, polarisation=table[POLARISATION].value)


def instrument_of(table: Parameters, instrument: Instrument) -> Instrument:
    """The instrument with the refined profile."""
    value = table.values
    return replace(
        instrument,
        **{k.lower(): value[k] for k in "UVWXY"},
        **{k: value[k] for k in ("asymmetry", "zero", "displacement")},
    )


def r_factors(
    data: Data, calculated: Points, background: Points, parameters: int
) -> dict[str, float]:
    """R values in percent; R_exp and GOF only where σ is known."""
    seen = data.weight > 0
    y, curve, base = (v[seen] for v in (data.intensity, calculated, background))
    sigma = data.sigma[seen] if data.counted else None
    found = {
        "r_p": 100 * float(np.abs(y - curve).sum() / np.abs(y).sum()),
        "r_wp": r_wp(y, curve, sigma),
        "r_wp_b": r_wp_prime(y, curve, base, sigma=sigma),
    }
    expected = r_exp(y, sigma, parameters)
    if expected is None:
        return found
    gof = goodness_of_fit(y, curve, sigma, parameters=parameters)
    return found | {"r_exp": expected, "gof": gof}


def bragg_factors(
    data: Data, curve: Points, background: Points, profile: PhaseProfile, frame: PhaseFrame
) -> dict[str, float]:
    """R_Bragg Σ|I_o - I_c| / ΣI_o and R_F Σ|√I_o - √I_c| / Σ√I_o of a phase, in percent.

    I is the integrated intensity of a reflection, multiplicity, Lorentz and polarisation
    factors and all wavelengths included; I_o is what Rietveld's partition gives it of the
    observed profile. R. A. Young, The Rietveld Method (1993), table 1.3.
    """
    observed, calculated = (
        np.bincount(frame.reflection, areas)
        for areas in partition(data, curve, background, profile)
    )
    if not observed.sum() > 0:
        return {}
    root_o, root_c = np.sqrt(np.maximum(observed, 0)), np.sqrt(np.maximum(calculated, 0))
    return {
        "r_bragg": 100 * float(np.abs(observed - calculated).sum() / observed.sum()),
        "r_f": 100 * float(np.abs(root_o - root_c).sum() / root_o.sum()),
    }


def structure_factors(outcome: Outcome) -> Float[np.ndarray, "reflections 5"]:
    """h, k, l and |F| observed and calculated (electrons) of the first phase's reflections.

    |F_o|² is |F_c|² times what Rietveld's partition gives the lines of a reflection over
    what the model does; reflections without calculated intensity are left out.
    """
    evaluation, frame = outcome.state.evaluation, outcome.frame.phases[0]
    curve, profile = evaluation.curve, evaluation.phases[0]
    observed, calculated = (
        np.bincount(frame.reflection, areas, len(frame.hkl))
        for areas in partition(outcome.data, curve, evaluation.background, profile)
    )
    seen = calculated > 1e-6 * max(float(calculated.max()), 1e-12)
    ratio = np.maximum(observed[seen] / calculated[seen], 0)
    square = profile.squares[seen]
    return np.column_stack([frame.hkl[seen], np.sqrt(square * ratio), np.sqrt(square)])


def partition(
    data: Data, curve: Points, background: Points, profile: PhaseProfile
) -> tuple[Float[np.ndarray, " lines"], Float[np.ndarray, " lines"]]:
    """Observed and calculated areas of the lines of a phase, by Rietveld's partition."""
    peaks = curve - background
    seen = (data.weight > 0) & (peaks > 1e-6 * max(float(peaks.max()), 1e-12))
    above = data.intensity - background
    ratio = np.divide(above, peaks, out=np.zeros_like(peaks), where=seen)
    matrix = profile.shapes.area.T
    return profile.areas * (matrix @ ratio), profile.areas * (matrix @ seen.astype(float))


def effective_count(data: Data, curve: Float[np.ndarray, " points"]) -> float:
    """Number of independent points, N (1 - ρ) / (1 + ρ), ρ between neighbouring residuals.

    What the model does not explain is spread over a line's width, not point by point.
    """
    rest = ((data.intensity - curve) * np.sqrt(data.weight))[data.weight > 0]
    rho = float(rest[1:] @ rest[:-1] / max(rest @ rest, 1e-300))
    rho = min(max(rho, 0.0), 0.99)
    return max(len(rest) * (1 - rho) / (1 + rho), 10.0)


def esd_factor(outcome: Outcome, parameters: int, esd: Esd) -> float:
    """What statistical e.s.d.s are multiplied by."""
    data, curve = outcome.data, outcome.state.evaluation.curve
    rest = ((data.intensity - curve) * np.sqrt(data.weight))[data.weight > 0]
    gof = float(np.sqrt(rest @ rest / max(len(rest) - parameters, 1)))
    if esd == "statistical":
        return 1.0 if data.counted else gof
    if esd == "berar-lelann":
        return berar_lelann(rest) if data.counted else gof * berar_lelann(rest / gof)
    return max(gof, 1.0) if data.counted else gof


def berar_lelann(rest: Float[np.ndarray, " points"]) -> float:
    """Factor on e.s.d.s for residuals (in σ) that are alike over stretches of a pattern.

    Bérar & Lelann, J. Appl. Cryst. 24, 1 (1991): squares of sums over runs of one sign
    stand for sums of squares. Divided by its value for uncorrelated normal residuals.
    """
    runs = np.concatenate([[0], np.flatnonzero(np.diff(np.signbit(rest))) + 1])
    sums = np.add.reduceat(rest, runs)
    mean = float(sums @ sums / len(rest))
    return float(np.sqrt(max(mean / WHITE, 1.0)))


def values_of(table: Parameters) -> dict[str, float]:
    """All values by name, with volumes, and weight fractions of a mixture."""
    found = table.values
    phases = phases_of(table)
    for i in range(len(table.units)):
        prefix = prefix_of(table.units, i)
        cell = np.array([table[prefix + name].value for name in CELL])
        found[f"{prefix}volume"] = volume(cell)
        if len(table.units) > 1:
            found[f"{prefix}weight_fraction"] = phases[i].weight_fraction
    return found


def uncertainties(
    table: Parameters, spread: Float[np.ndarray, "rows rows"]
) -> dict[str, float]:
    """E.s.d.s by name: of rows with any, of volumes by J V Jᵀ, of weight fractions."""
    found = {row.name: row.esd for row in table.rows if row.esd is not None}
    for i in range(len(table.units)):
        prefix = prefix_of(table.units, i)
        rows = [table.place(prefix + name) for name in CELL]
        slope = volume_derivatives(table.vector()[rows])
        variance = slope @ spread[np.ix_(rows, rows)] @ slope
        if variance > 0:
            found[f"{prefix}volume"] = float(np.sqrt(variance))
    if len(table.units) > 1:
        found |= _fraction_esds(table, spread)
    return found


def _fraction_esds(
    table: Parameters, spread: Float[np.ndarray, "rows rows"]
) -> dict[str, float]:
    """E.s.d.s of weight fractions w = Sρ / ΣSρ from those of the scales."""
    phases = phases_of(table)
    names = [prefix_of(table.units, i) for i in range(len(phases))]
    rows = [table.place(f"{name}scale") for name in names]
    densities = np.array([density(p) if len(p.crystal.numbers) else 0.0 for p in phases])
    fraction = np.array([p.weight_fraction for p in phases])
    total = float(densities @ table.vector()[rows])
    if not total > 0:
        return {}
    slope = (np.eye(len(phases)) - fraction[:, None]) * densities / total
    variance = np.diag(slope @ spread[np.ix_(rows, rows)] @ slope.T)
    return {
        f"{name}weight_fraction": float(np.sqrt(max(v, 0)))
        for name, v in zip(names, variance, strict=True)
    }


def correlations(
    table: Parameters, spread: Float[np.ndarray, "rows rows"], least: float = STRONG
) -> tuple[tuple[str, str, float], ...]:
    """Pairs of refined parameters with |correlation| above 0.9, strongest first."""
    rows = [i for i, row in enumerate(table.rows) if row.refine and spread[i, i] > 0]
    part = spread[np.ix_(rows, rows)]
    root = np.sqrt(np.diag(part))
    r = part / np.outer(root, root)
    pairs = [
        (table.rows[rows[i]].name, table.rows[rows[j]].name, round(float(r[i, j]), 4))
        for i, j in np.argwhere(np.triu(np.abs(r) > least, 1))
    ]
    return tuple(sorted(pairs, key=lambda pair: -abs(pair[2])))
