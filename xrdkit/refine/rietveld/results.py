"""What a refinement says: R values, e.s.d.s, correlations, warnings, and the Fit itself.

E.s.d.s hold the statistics of the counts alone, multiplied by GOF where that is above one
(as GSAS-II and FullProf do; never made smaller), or by the factor of Bérar & Lelann. Errors
of the wavelength and of what the model leaves out are not in them.
"""

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from jaxtyping import Float

from xrdkit.metrics import goodness_of_fit, r_exp, r_wp, r_wp_prime
from xrdkit.refine.known import density
from xrdkit.refine.rietveld.answer import phases_of, structure_of
from xrdkit.refine.rietveld.data import Data
from xrdkit.refine.rietveld.frame import Frame, PhaseFrame
from xrdkit.refine.rietveld.geometry import distance, too_close
from xrdkit.refine.rietveld.least_squares import (
    State,
    at_limit,
    covariance,
    state_of,
    summed_rows,
)
from xrdkit.refine.rietveld.metric import CELL, volume, volume_derivatives
from xrdkit.refine.rietveld.model import PhaseProfile
from xrdkit.refine.rietveld.start import prefix_of
from xrdkit.refine.rietveld.table import (
    POLARISATION,
    ROUNDING,
    Parameters,
    is_size,
    kind_of,
)
from xrdkit.types import Fit, Instrument, Radiation

Points = Float[np.ndarray, " points"]
Esd = Literal["gof", "berar-lelann", "statistical"]
STRONG = 0.9  # correlation that is named
LARGE_U = 0.1  # Å²
AXIAL = 0.02  # (S + H)/L, about the least that a pattern can tell from none
GROWN = 1.3  # times an e.s.d., where what is at a limit is free: that is told
TOLD = {*CELL, *"xyz", "u", "occupancy", "scale", "zero", "displacement"}  # of these
SHOWN = 6  # names
WHITE = 1 + 4 / np.pi  # sum over runs / sum over points, squared, of uncorrelated residuals


@dataclass(frozen=True)
class Outcome:
    """A refinement as it stands: data, frame, table and state, and notes on the way."""

    data: Data
    frame: Frame
    table: Parameters
    state: State
    origin: str = "refined"
    notes: tuple[str, ...] = ()


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


def warnings_of(
    outcome: Outcome,
    spread: Float[np.ndarray, "rows rows"],
    lost: np.ndarray,
) -> tuple[str, ...]:
    """What a reader of the result must know: limits, singular parameters, odd values."""
    table, state = outcome.table, outcome.state
    found = [] if state.converged else ["the refinement has not converged; refine again"]
    found += _limits(table, state, spread, lost) + taken_for_known(outcome)
    for i in summed_rows(table, state):
        row, (low, high) = table.rows[i], (limit[i] for limit in table.bounds())
        if row.tie and min(row.value - low, high - row.value) < ROUNDING:
            found.append(f"{row.name}, {row.tie}, is at its limit, {abs(row.value):.4g}")
    for row in table.rows:
        if kind_of(row.name) == "u" and row.value > LARGE_U:
            found.append(f"{row.name} = {row.value:.3f} Å² is large: wrong or empty site?")
    evaluation = state.evaluation
    if (evaluation.background < 0).any() and (outcome.data.intensity >= 0).all():
        found.append("the background is negative in places; use fewer or more terms")
    for i, unit in enumerate(table.units):
        scale = table[f"{prefix_of(table.units, i)}scale"]
        esd = np.sqrt(spread[table.place(scale.name), table.place(scale.name)])
        if scale.value < 3 * esd:
            found.append(f"the scale of {unit.name} is below three e.s.d.s: not there?")
        found += short_distances(table, i)
    return tuple(found)


def _limits(
    table: Parameters,
    state: State,
    spread: Float[np.ndarray, "rows rows"],
    lost: np.ndarray,
) -> list[str]:
    """Parameters at limits, and those that the data do not determine; lines are counted."""
    found, empty, unknown = [], 0, 0
    unseen = lost | (np.diag(spread)[state.free] <= 0)
    for i, limit, gone in zip(state.free, at_limit(table, state), unseen, strict=True):
        row = table.rows[i]
        if kind_of(row.name) == "intensity":
            empty, unknown = empty + bool(limit), unknown + bool(gone and not limit)
        elif limit:
            said = (
                "infinite" if is_size(row.name) and row.value > 1e9 else f"{row.value:.4g}"
            )
            found.append(f"{row.name} is at its limit, {said}, and has no e.s.d.")
        elif gone:
            found.append(f"{row.name} is not determined by the data; fix it")
    lines = sum(kind_of(name) == "intensity" for name in table.free)
    if empty:
        found.append(f"{empty} of {lines} intensities are zero, and have no e.s.d.")
    if unknown:
        found.append(f"{unknown} of {lines} intensities are not determined by the data")
    return found


def taken_for_known(outcome: Outcome) -> list[str]:
    """Which e.s.d.s would be larger if what stands at a limit were free, in words.

    Such a parameter counts as known, which is right where its limit is the truth. As the
    profile does not change with an asymmetry of zero, that is taken a little above.
    """
    table, state = outcome.table, outcome.state
    held, opened = at_limit(table, state), state
    axial = table.place("asymmetry")
    if (held & (state.free == axial)).any() and table["asymmetry"].value < AXIAL:
        values = state.values.copy()
        values[axial] = AXIAL
        here, there = (
            state_of(outcome.frame, table, v).normal for v in (state.values, values)
        )
        opened = replace(state, normal=state.normal - here + there)  # restraints stay
    known = np.diag(covariance(state, held)[0])
    free = np.diag(covariance(opened, np.zeros_like(held))[0])
    rows = [i for i in state.free[~held] if kind_of(table.rows[i].name) in TOLD]
    growth = {
        table.rows[i].name: float(np.sqrt(free[i] / known[i])) for i in rows if known[i] > 0
    }
    names = [name for name, times in growth.items() if times > GROWN]
    if not names:
        return []
    shown = ", ".join(names[:SHOWN]) + f" and {len(names) - SHOWN} more" * (
        len(names) > SHOWN
    )
    most = max(growth[name] for name in names)
    return [
        f"e.s.d.s of {shown} take what is at a limit for known; were that free, they "
        f"would be up to {most:.1f} times larger"
    ]


def short_distances(table: Parameters, phase: int) -> list[str]:
    """Pairs of atoms closer than 0.72 times the sum of their covalent radii."""
    unit, values = table.units[phase], table.vector()
    found: dict[tuple[str, str], float] = {}
    for contact, _ in too_close(table, values, phase):
        length = distance(table, values, phase, contact)[0]
        key = (unit.sites[contact.i].label, unit.sites[contact.j].label)
        found[key] = min(found.get(key, np.inf), length)
    return [f"{a} and {b} are only {d:.2f} Å apart" for (a, b), d in found.items()]
