"""The line shape: Thompson–Cox–Hastings pseudo-Voigt with axial divergence, in windows.

Every line only touches the points near it, so that a pattern is a sparse matrix (points ×
lines) times the areas of the lines, and so are its derivatives.
"""

from dataclasses import dataclass
from functools import cache

import numpy as np
from jaxtyping import Float, Int
from scipy.sparse import csc_array
from scipy.special import roots_jacobi

LN2 = np.log(2)
NODES = (1, 3, 6, 12, 24)  # points of the integral over axial divergence
FINE = 0.1  # spread of a line per node, of its FWHM
Lines = Float[np.ndarray, " lines"]


@dataclass(frozen=True)
class Shapes:
    """Line shapes of area one on the grid, and derivatives: matrices (points × lines).

    By the position (°), the Gaussian FWHM² (°²), the Lorentzian FWHM (°) and (S + H)/L.
    """

    area: csc_array
    position: csc_array | None = None
    gauss: csc_array | None = None
    lorentz: csc_array | None = None
    asymmetry: csc_array | None = None


def pseudo_voigt(
    gauss2: Lines, lorentz: Lines
) -> tuple[Lines, Lines, Float[np.ndarray, "2 2 lines"]]:
    """FWHM Γ (°) and Lorentzian share η, and ∂(Γ, η)/∂(Gaussian FWHM², Lorentzian FWHM).

    Thompson, Cox & Hastings, J. Appl. Cryst. 20, 79 (1987), equations 5 and 6.
    """
    g, x = np.sqrt(gauss2), lorentz
    fifth = g**5 + 2.69269 * g**4 * x + 2.42843 * g**3 * x**2
    fifth = fifth + 4.47163 * g**2 * x**3 + 0.07842 * g * x**4 + x**5
    fwhm = fifth**0.2
    by_g = 5 * g**4 + 10.77076 * g**3 * x + 7.28529 * g**2 * x**2
    by_g = (by_g + 8.94326 * g * x**3 + 0.07842 * x**4) / (5 * fwhm**4)
    by_x = 2.69269 * g**4 + 4.85686 * g**3 * x + 13.41489 * g**2 * x**2
    by_x = (by_x + 0.31368 * g * x**3 + 5 * x**4) / (5 * fwhm**4)
    r = x / fwhm
    eta = 1.36603 * r - 0.47719 * r**2 + 0.11116 * r**3
    slope = 1.36603 - 0.95438 * r + 0.33348 * r**2
    g_slopes = np.stack([by_g, -slope * r * by_g / fwhm]) / (2 * g)
    x_slopes = np.stack([by_x, slope * (1 - r * by_x) / fwhm])
    return fwhm, eta, np.stack([g_slopes, x_slopes], 1)


def shapes(
    grid: Float[np.ndarray, " points"],
    position: Lines,
    gauss2: Lines,
    lorentz: Lines,
    asymmetry: float,
    bragg: Lines,
    reach: Lines,
    derivatives: bool = True,
) -> Shapes:
    """Shapes of lines at positions (°), cut off ``reach`` (°) away.

    ``bragg`` is the angle 2θ (°) at which axial divergence is taken.
    """
    fwhm, eta, slopes = pseudo_voigt(gauss2, lorentz)
    spread = axial_spread(bragg, asymmetry)
    first = np.searchsorted(grid, position - reach - np.maximum(spread, 0))
    last = np.searchsorted(grid, position + reach - np.minimum(spread, 0))
    counts = last - first
    owner = np.repeat(np.arange(len(position)), counts)
    starts = np.concatenate([[0], np.cumsum(counts)])
    rows = np.arange(starts[-1]) - np.repeat(starts[:-1] - first, counts)
    window = grid[rows] - position[owner]
    layout = (rows, starts, (len(grid), len(position)))
    values = np.zeros((5 if derivatives else 1, len(rows)))
    kinds = _node_classes(spread, fwhm, asymmetry)
    for kind in np.unique(kinds):
        chosen = kinds == kind
        part = chosen[owner]
        values[:, part] = _summed(
            window[part],
            np.cumsum(chosen)[owner[part]] - 1,
            (fwhm[chosen], eta[chosen], slopes[..., chosen]),
            axial_nodes(bragg[chosen], asymmetry, NODES[kind]),
            derivatives,
        )
    return Shapes(*(csc_array((v, rows, starts), shape=layout[2]) for v in values))


def axial_spread(bragg: Lines, asymmetry: float) -> Lines:
    """How far (°) axial divergence reaches from a line at 2θ; negative above 90°."""
    return bragg - _phi(bragg, np.asarray(asymmetry))


def _phi(bragg: Lines, t: np.ndarray) -> np.ndarray:
    """Angle 2φ (°) at which rays of axial angle t are seen: cos 2φ = cos 2θ √(1 + t²)."""
    cosine = np.cos(np.radians(bragg)) * np.sqrt(1 + t**2)
    return np.degrees(np.arccos(np.clip(cosine, -1 + 1e-9, 1 - 1e-9)))


def axial_nodes(
    bragg: Lines, asymmetry: float, count: int
) -> tuple[
    Float[np.ndarray, "nodes lines"],
    Float[np.ndarray, "nodes lines"],
    Float[np.ndarray, "nodes lines"],
    Float[np.ndarray, "nodes lines"],
]:
    """Shifts (°) and weights of the parts of a line, and their slopes by (S + H)/L.

    Finger, Cox & Jephcoat, J. Appl. Cryst. 27, 892 (1994), with sample and slit of one
    height: intensity at 2φ goes as (S + H - h) / (h cos 2φ) with h/L = t =
    √(cos²2φ / cos²2θ - 1). Integrated over t the singular 1/h is gone: what is left is
    (1 - t / t_max) / ((1 + t²) sin 2φ) from 0 to t_max = (S + H)/L, by Gauss–Jacobi.
    """
    if asymmetry <= 0:
        zero = np.zeros((1, len(bragg)))
        return zero, zero + 1, zero, zero
    u, w = _quadrature(count)
    t = u[:, None] * asymmetry
    phi = np.radians(_phi(bragg, t))
    cos, sin = np.cos(np.radians(bragg)), np.sin(phi)
    by_t = -cos * t / np.sqrt(1 + t**2) / sin  # d(2φ)/dt
    raw = w[:, None] / ((1 + t**2) * sin)
    raw_slope = raw * (-2 * t / (1 + t**2) - np.cos(phi) / sin * by_t) * u[:, None]
    total = raw.sum(0)
    weight = raw / total
    slope = (raw_slope - weight * raw_slope.sum(0)) / total
    return np.degrees(phi) - bragg, weight, np.degrees(by_t) * u[:, None], slope


@cache
def _quadrature(
    count: int,
) -> tuple[Float[np.ndarray, " nodes"], Float[np.ndarray, " nodes"]]:
    """Gauss nodes and weights on 0–1 for the weight 1 - u."""
    x, w = roots_jacobi(count, 1, 0)
    return (x + 1) / 2, w / w.sum()


def _node_classes(spread: Lines, fwhm: Lines, asymmetry: float) -> Int[np.ndarray, " l"]:
    """Which of NODES each line needs."""
    if asymmetry <= 0:
        return np.zeros(len(spread), int)
    needed = np.abs(spread) / (FINE * fwhm)
    return np.searchsorted(NODES[:-1], needed)


def _summed(
    window: Float[np.ndarray, " values"],
    owner: Int[np.ndarray, " values"],
    widths: tuple[np.ndarray, np.ndarray, np.ndarray],
    nodes: tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray],
    derivatives: bool,
) -> Float[np.ndarray, "kinds values"]:
    """Shape and derivatives at distances from lines, summed over axial nodes."""
    fwhm, eta, slopes = widths
    gamma, share = fwhm[owner], eta[owner]
    total = np.zeros((5 if derivatives else 1, len(window)))
    for shift, weight, shift_slope, weight_slope in zip(*nodes, strict=True):
        value, by_place, by_fwhm, by_eta = _parts(window - shift[owner], gamma, share)
        own = weight[owner]
        total[0] += own * value
        if derivatives:
            total[1] += own * by_place
            total[2] += own * by_fwhm
            total[3] += own * by_eta
            total[4] += shift_slope[owner] * own * by_place + weight_slope[owner] * value
    if derivatives:
        by_fwhm, by_eta = total[2].copy(), total[3].copy()
        for k in (0, 1):
            total[2 + k] = by_fwhm * slopes[0, k][owner] + by_eta * slopes[1, k][owner]
    return total


def _parts(
    x: Float[np.ndarray, " values"],
    fwhm: Float[np.ndarray, " values"],
    eta: Float[np.ndarray, " values"],
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Pseudo-Voigt of area one at x (°) and its slopes by position, FWHM and η."""
    inverse = 1 / fwhm
    u = x * inverse
    u2 = u * u
    tail = 1 / (1 + 4 * u2)
    lorentz = (2 / np.pi) * inverse * tail
    gauss = (2 * np.sqrt(LN2 / np.pi)) * inverse * np.exp(-4 * LN2 * u2)
    value = eta * lorentz + (1 - eta) * gauss
    along = 8 * u * (eta * lorentz * tail + (1 - eta) * LN2 * gauss)  # -∂/∂u
    return value, along * inverse, (along * u - value) * inverse, lorentz - gauss
