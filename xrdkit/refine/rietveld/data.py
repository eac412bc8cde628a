"""The points of a measured pattern that are fitted, and their weights."""

from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float

from xrdkit.background import estimate
from xrdkit.pattern import exclude, inside_ranges
from xrdkit.peaks import scatter, size_fwhm, typical_fwhm
from xrdkit.types import Instrument, Pattern, Radiation

LEAST = 30  # points
MISSING = 20.0  # counts of background above which a point of exactly zero is no measurement
Points = Float[np.ndarray, " points"]


@dataclass(frozen=True)
class Data:
    """Points that are fitted; ``weight`` is 1/σ², zero where a point does not count.

    Where σ is not known (``counted`` False), all points weigh the same, by their scatter.
    """

    two_theta: Points
    intensity: Points
    weight: Points
    radiation: Radiation
    instrument: Instrument
    counted: bool
    name: str = ""

    @property
    def sigma(self) -> Points:
        """Standard deviations, zero where a point has no weight."""
        root = np.sqrt(self.weight)
        return np.divide(1, root, out=np.zeros_like(root), where=root > 0)

    @property
    def count(self) -> int:
        """Number of points that have weight, N."""
        return int(np.count_nonzero(self.weight))


def observations(
    pattern: Pattern, excluded: tuple[tuple[float | int, float | int], ...] = ()
) -> Data:
    """The data of a pattern as measured, without ``excluded`` ranges of 2θ (°).

    Points of exactly zero in a pattern that has a background were not measured, and get no
    weight, like points whose σ is not positive.
    """
    if pattern.prepared:
        raise ValueError(
            f"the pattern {pattern.name} was prepared: its background and scale are gone, "
            "which R_wp and e.s.d.s need; give the one that was read from the file"
        )
    _refuse(pattern)
    pattern = exclude(pattern, *excluded)
    keep = inside_ranges(pattern, pattern.two_theta)
    x, y = pattern.two_theta[keep], pattern.intensity[keep]
    if pattern.sigma is None:
        weight = np.full(len(x), 1 / max(scatter(y), 1e-6 * float(np.ptp(y)), 1e-12) ** 2)
    else:
        sigma = pattern.sigma[keep]
        weight = np.divide(1, sigma**2, out=np.zeros_like(sigma), where=sigma > 0)
    if np.quantile(y, 0.1) > MISSING:
        weight = np.where(y == 0, 0.0, weight)
    if np.count_nonzero(weight) < LEAST:
        raise ValueError(
            f"{pattern.name or 'the pattern'} has {np.count_nonzero(weight)} points with a "
            f"positive σ, at least {LEAST} are needed"
        )
    return Data(
        x,
        y,
        weight,
        pattern.radiation,
        pattern.instrument,
        pattern.sigma is not None,
        pattern.name,
    )


def _refuse(pattern: Pattern) -> None:
    """Refuse what is no scan: too few points, angles that do not rise, no numbers."""
    name, x = pattern.name or "the pattern", pattern.two_theta
    if len(x) < LEAST:
        raise ValueError(f"{name} has {len(x)} points, at least {LEAST} are needed")
    if not (np.diff(x) > 0).all():
        raise ValueError(f"angles of {name} do not rise from point to point; sort them")
    if not (0 <= x[0] and x[-1] <= 180):
        raise ValueError(
            f"angles of {name} run from {x[0]:g} to {x[-1]:g}°; give 2θ between 0 and 180°"
        )
    bad = ~np.isfinite(pattern.intensity)
    if bad.any():
        raise ValueError(
            f"intensities of {name} are no numbers at {int(bad.sum())} points, first at "
            f"{x[bad][0]:.3f}°; leave them out"
        )


def refuse_flat(data: Data) -> None:
    """Refuse data of one intensity, to which anything can be fitted."""
    y = data.intensity[data.weight > 0]
    if not np.ptp(y) > 0:
        raise ValueError(
            f"{data.name or 'the pattern'} has the intensity {y[0]:g} everywhere; give one "
            "with lines"
        )


def typical_widths(pattern: Pattern) -> tuple[float, float]:
    """(a, b) in ° of FWHM² = a² + (b tanθ)², of the strong lines of a measured pattern.

    Of nanocrystals a / cosθ with all that their size adds, as full profiles know no sinc².
    """
    base = estimate(pattern.two_theta, pattern.intensity)
    above = pattern.intensity - base
    top = max(float(above.max()), 1e-12)
    sigma = None if pattern.sigma is None else pattern.sigma / top
    flat = replace(
        pattern, intensity=above / top, sigma=sigma, background=base / top, prepared=True
    )
    a, b = typical_fwhm(flat)
    return (a, b) if pattern.size is None else 2 * (float(np.hypot(a, size_fwhm(flat))),)


def with_radiation(data: Data, radiation: Radiation) -> Data:
    """The same data, measured with another beam."""
    return replace(data, radiation=radiation)
