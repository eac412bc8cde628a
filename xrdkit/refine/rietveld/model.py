"""The profile that a table predicts, and its derivatives by every row of the table.

y(2θ) = background + Σ scale · factor · |F|² · texture · absorption · shape(2θ - position)
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float

from xrdkit.profile import SCHERRER
from xrdkit.refine.rietveld.frame import Frame, PhaseFrame, polarisation_factor
from xrdkit.refine.rietveld.metric import inverse_d_squared
from xrdkit.refine.rietveld.shape import Shapes, pseudo_voigt, shapes
from xrdkit.refine.rietveld.structure_factors import squares
from xrdkit.refine.rietveld.table import POLARISATION, SIZE, Parameters

NARROWEST = 1e-6  # °², the least Gaussian FWHM²
TAIL = 0.02  # lines are cut where they fall below this share of the noise
SHORTEST, LONGEST = 3.0, 80.0  # FWHM that lines reach at least and at most
Values = Float[np.ndarray, " rows"]
Lines = Float[np.ndarray, " lines"]


@dataclass(frozen=True)
class PhaseProfile:
    """Lines of a phase at some values: areas (counts · °) and shapes on the grid."""

    areas: Lines
    squares: Float[np.ndarray, " reflections"]
    position: Lines
    shapes: Shapes

    @property
    def curve(self) -> Float[np.ndarray, " points"]:
        """The phase's profile without background."""
        return self.shapes.area @ self.areas


@dataclass(frozen=True)
class Evaluation:
    """Calculated curve, and its derivatives by the rows that were asked for."""

    background: Float[np.ndarray, " points"]
    phases: tuple[PhaseProfile, ...]
    jacobian: Float[np.ndarray, "points rows"] | None

    @property
    def curve(self) -> Float[np.ndarray, " points"]:
        """Background and all phases."""
        return self.background + sum(phase.curve for phase in self.phases)


def evaluate(
    frame: Frame,
    table: Parameters,
    values: Values,
    wanted: Bool[np.ndarray, " rows"] | None = None,
) -> Evaluation:
    """The profile at values of a table's rows; with derivatives by the ``wanted`` ones.

    Columns of other rows are zero.
    """
    background_rows = [i for i, n in enumerate(table.names) if n.startswith("background:")]
    background = frame.chebyshev[:, : len(background_rows)] @ values[background_rows]
    jacobian = None
    if wanted is not None:
        jacobian = np.zeros((len(background), len(values)))
        jacobian[:, background_rows] = frame.chebyshev[:, : len(background_rows)]
    phases = []
    for phase in frame.phases:
        phases.append(_profile(frame, phase, table, values, wanted, jacobian))
    return Evaluation(background, tuple(phases), jacobian)


def same_lines(
    evaluation: Evaluation, frame: Frame, table: Parameters, values: Values
) -> Float[np.ndarray, " points"]:
    """All phases at other coordinates, U or occupancies: the lines stay, areas are new."""
    return sum(
        profile.shapes.area @ _areas(phase, table, values, None)[0]
        for profile, phase in zip(evaluation.phases, frame.phases, strict=True)
    )


def _profile(
    frame: Frame,
    phase: PhaseFrame,
    table: Parameters,
    values: Values,
    wanted: Bool[np.ndarray, " rows"] | None,
    jacobian: Float[np.ndarray, "points rows"] | None,
) -> PhaseProfile:
    """One phase; its derivatives are added to the jacobian's columns."""
    areas, square, area_slopes = _areas(phase, table, values, wanted)
    position, position_slopes = _positions(frame, phase, table, values)
    gauss2, lorentz, gauss_slopes, lorentz_slopes = widths(phase, table, values)
    gauss2 = np.maximum(gauss2, NARROWEST)
    found = shapes(
        frame.data.two_theta,
        position,
        gauss2,
        np.maximum(lorentz, 0),
        float(values[table.place("asymmetry")]),
        phase.bragg,
        _reach(frame, areas, gauss2, lorentz),
        jacobian is not None,
    )
    if jacobian is not None:
        asymmetry = {table.place("asymmetry"): np.ones_like(areas)}
        for matrix, slopes, times in (
            (found.area, area_slopes, None),
            (found.position, position_slopes, areas),
            (found.gauss, gauss_slopes, areas),
            (found.lorentz, lorentz_slopes, areas),
            (found.asymmetry, asymmetry, areas),
        ):
            rows = [row for row in slopes if wanted[row]]
            if rows:
                columns = np.stack([slopes[row] for row in rows], 1)
                columns = columns if times is None else columns * times[:, None]
                jacobian[:, rows] += matrix @ columns
    return PhaseProfile(areas, square, position, found)


def _areas(
    phase: PhaseFrame,
    table: Parameters,
    values: Values,
    wanted: Bool[np.ndarray, " rows"] | None,
) -> tuple[Lines, Float[np.ndarray, " reflections"], dict[int, Lines]]:
    """Areas of lines, |F|², and derivatives of the areas by row."""
    line = phase.reflection
    scale = values[phase.scale]
    texture, texture_slope = _texture(phase, table, values)
    transmission, transmission_slopes = _transmission(phase, table, values)
    if phase.atoms is None:
        square = np.where(phase.intensities < 0, 0.0, values[phase.intensities])
        slopes = None
    else:
        x, y, z, u, occupancy = values[phase.sites].T
        moving = wanted is not None and bool(wanted[phase.sites].any())
        square, slopes = squares(phase.atoms, np.stack([x, y, z], 1), u, occupancy, moving)
    bare = phase.factor * transmission
    unit = bare * texture[line]
    areas = scale * unit * square[line]
    if wanted is None:
        return areas, square, {}
    found = {phase.scale: unit * square[line]}
    if phase.alignment is not None:
        row = table.place(f"{phase.prefix}texture")
        found[row] = scale * bare * texture_slope[line] * square[line]
    for row, slope in transmission_slopes.items():
        found[row] = areas / transmission * slope
    if slopes is not None:
        for rows, parts in zip(phase.sites, slopes, strict=True):
            for row, part in zip(rows, parts, strict=True):
                if wanted[row]:
                    found[int(row)] = scale * unit * part[line]
    for k, row in enumerate(phase.intensities):
        if row >= 0 and wanted[row]:
            found[int(row)] = np.where(line == k, scale * unit, 0.0)
    return areas, square, found


def _texture(
    phase: PhaseFrame, table: Parameters, values: Values
) -> tuple[Float[np.ndarray, " reflections"], Float[np.ndarray, " reflections"]]:
    """March–Dollase factor of each reflection, mean over equivalents, and ∂/∂r."""
    if phase.alignment is None:
        ones = np.ones(len(phase.hkl))
        return ones, 0 * ones
    r, cos2 = values[table.place(f"{phase.prefix}texture")], phase.alignment
    inner = r**2 * cos2 + (1 - cos2) / r
    slope = -1.5 * inner**-2.5 * (2 * r * cos2 - (1 - cos2) / r**2)
    return (inner**-1.5).mean(0), slope.mean(0)


def _transmission(
    phase: PhaseFrame, table: Parameters, values: Values
) -> tuple[Lines, dict[int, Lines]]:
    """Surface roughness, absorption in a capillary and polarisation; derivatives by row.

    Roughness p, depth q: (1 - p + p exp(-q / sinθ)) / (1 - p + p exp(-q)), Suortti, J.
    Appl. Cryst. 5, 325 (1972).
    """
    rows = [table.place(n) for n in ("roughness", "roughness_depth", "absorption")]
    p, q, mu_r = values[rows]
    sine = np.sin(np.radians(phase.bragg / 2))
    low, high = np.exp(-q / sine), np.exp(-q)
    top, bottom = 1 - p + p * low, 1 - p + p * high
    rough = top / bottom
    by_p = (low - 1) / bottom - rough * (high - 1) / bottom
    by_q = (-p * low / sine + rough * p * high) / bottom
    through, by_mu = capillary(mu_r, sine**2)
    slopes = (by_p * through, by_q * through, rough * by_mu)
    polarised, by_k = _polarised(phase, table, values)
    found = {r: polarised * slope for r, slope in zip(rows, slopes, strict=True)}
    found |= {row: rough * through * slope for row, slope in by_k.items()}
    return rough * through * polarised, found


def _polarised(
    phase: PhaseFrame, table: Parameters, values: Values
) -> tuple[Lines, dict[int, Lines]]:
    """Polarisation over that of the pattern's beam, and its derivative; one without K."""
    if POLARISATION not in table:
        return np.ones_like(phase.bragg), {}
    row = table.place(POLARISATION)
    now = polarisation_factor(float(values[row]), phase.bragg)
    slope = np.sin(np.radians(phase.bragg)) ** 2
    return now / phase.polarised, {row: slope / phase.polarised}


def capillary(mu_r: float, sin2: Lines) -> tuple[Lines, Lines]:
    """Transmission of a cylinder of absorption µR ≤ 3 at sin²θ, and ∂/∂µR.

    Lobanov & Alte da Veiga, 6th European Powder Diffraction Conference, P12-16 (1998).
    """
    k1 = (25.99978 - 0.01911 * sin2**0.25) * np.exp(-0.024551 * sin2)
    k1 = k1 + 0.109561 * np.sqrt(sin2) - 26.04556
    k2 = -0.02489 - 0.39499 * sin2 + 1.219077 * sin2**1.5
    k2 = k2 - 1.31268 * sin2**2 + 0.871081 * sin2**2.5 - 0.2327 * sin2**3
    k3 = 0.003045 + 0.018167 * sin2 - 0.03305 * sin2**2
    powers = (16 / (3 * np.pi), k1, k2, k3)
    through = np.exp(-sum(k * mu_r ** (n + 1) for n, k in enumerate(powers)))
    slope = -sum((n + 1) * k * mu_r**n for n, k in enumerate(powers)) * through
    return through, slope


def _positions(
    frame: Frame, phase: PhaseFrame, table: Parameters, values: Values
) -> tuple[Lines, dict[int, Lines]]:
    """Where lines are seen (°) and derivatives by cell, zero and displacement."""
    q, by_cell = inverse_d_squared(phase.hkl, values[phase.cell])
    root = np.sqrt(np.maximum(q, 1e-12))[phase.reflection]
    sine = np.minimum(phase.wavelength * root / 2, 1 - 1e-9)
    per_q = np.degrees(phase.wavelength / (2 * root * np.sqrt(1 - sine**2)))
    instrument = frame.data.instrument
    theta = np.radians(phase.bragg / 2)
    shape = -2 * np.cos(theta)
    if instrument.geometry == "debye-scherrer":
        shape = -np.cos(2 * theta)
    per_mm = np.degrees(shape / instrument.radius)
    zero, displacement = table.place("zero"), table.place("displacement")
    position = 2 * np.degrees(np.arcsin(sine)) + values[zero]
    position = position + values[displacement] * per_mm
    slopes = {zero: np.ones_like(position), displacement: per_mm}
    for row, slope in zip(phase.cell, by_cell.T, strict=True):
        slopes[int(row)] = per_q * slope[phase.reflection]
    return position, slopes


def widths(
    phase: PhaseFrame, table: Parameters, values: Values
) -> tuple[Lines, Lines, dict[int, Lines], dict[int, Lines]]:
    """Gaussian FWHM² (°²) and Lorentzian FWHM (°) of lines, and derivatives by row.

    U tan²θ + V tanθ + W, and X / cosθ + Y tanθ + 0.9 λ / (size cosθ) + 4 strain tanθ.
    """
    theta = np.radians(phase.bragg / 2)
    tan, cos = np.tan(theta), np.cos(theta)
    gauss = {"U": tan**2, "V": tan, "W": np.ones_like(tan)}
    lorentz = {
        "X": 1 / cos,
        "Y": tan,
        f"{phase.prefix}size": np.degrees(SCHERRER * phase.wavelength / cos) / SIZE,
        f"{phase.prefix}strain": np.degrees(4 * tan),
    }
    found = []
    for parts in (gauss, lorentz):
        slopes = {table.place(name): part for name, part in parts.items()}
        total = sum(values[row] * part for row, part in slopes.items())
        found.append((total, slopes))
    return found[0][0], found[1][0], found[0][1], found[1][1]


def _reach(frame: Frame, areas: Lines, gauss2: Lines, lorentz: Lines) -> Lines:
    """How far (°) lines are followed: until they vanish in the noise."""
    fwhm, eta, _ = pseudo_voigt(gauss2, np.maximum(lorentz, 0))
    noise = 1 / np.sqrt(np.median(frame.data.weight[frame.data.weight > 0]))
    height = np.abs(areas) / fwhm / (TAIL * noise)
    return fwhm * np.clip(SHORTEST + np.sqrt(eta * height) / 2, None, LONGEST)
