"""What a laboratory does to a clean pattern: background, noise, other phases, a shift."""

from dataclasses import replace

import numpy as np
import torch
from jaxtyping import Float
from numpy.polynomial import chebyshev

from xrdkit.types import Pattern

GRAIN = 0.5  # degrees over which grains scatter together


def _curved_background(
    two_theta: Float[np.ndarray, " points"], generator: torch.Generator
) -> Float[np.ndarray, " points"]:
    """Air scatter, a random Chebyshev series and an amorphous hump; positive, mean one."""
    draw = torch.rand(8, generator=generator, dtype=torch.float64).numpy()
    low, high = two_theta[0], two_theta[-1]
    x = 2 * (two_theta - low) / (high - low) - 1
    series = 1 + chebyshev.chebval(x, np.append(0, 0.3 * (draw[:4] - 0.5)))
    air = 2 * draw[4] * np.exp(-two_theta / 6)
    centre, width = low + (high - low) * (0.1 + 0.4 * draw[5]), 3 + 5 * draw[6]
    hump = draw[7] * np.exp(-0.5 * ((two_theta - centre) / width) ** 2)
    curve = series + air + hump
    return curve / curve.mean()


def _impurity(
    two_theta: Float[np.ndarray, " points"],
    generator: torch.Generator,
    *,
    lines: int,
    fwhm: float,
) -> Float[np.ndarray, " points"]:
    """Gaussian lines at random places with heights uniform in 0.2–1."""
    draw = torch.rand(lines, 2, generator=generator, dtype=torch.float64).numpy()
    centres = two_theta[0] + (two_theta[-1] - two_theta[0]) * draw[:, :1]
    shapes = np.exp(-4 * np.log(2) * ((two_theta - centres) / fwhm) ** 2)
    return ((0.2 + 0.8 * draw[:, 1:]) * shapes).sum(0)


def mixed(pattern: Pattern, other: Pattern, share: float) -> Pattern:
    """Two patterns on one grid as a mixture: ``share`` of the intensity is the other's."""
    if not 0 <= share <= 1:
        raise ValueError(f"share {share:g} of the other phase; give a share from 0 to 1")
    if not np.array_equal(pattern.two_theta, other.two_theta):
        raise ValueError("the two patterns have other angles; simulate both on one grid")
    one, two = (p.intensity / p.intensity.sum() for p in (pattern, other))
    return replace(pattern, intensity=(1 - share) * one + share * two)


def asymmetric(pattern: Pattern, reach: float) -> Pattern:
    """Lines with a tail to low angle, as axial divergence gives: up to reach / tan 2θ (°).

    A mean of shifted copies; at 2θ = 45° the tail is ``reach`` long, above 90° none.
    """
    angle = pattern.two_theta
    tail = reach / np.tan(np.radians(np.clip(angle, 1, 90)))
    copies = [
        np.interp(angle + t * tail, angle, pattern.intensity)
        for t in np.linspace(0, 1, 9) ** 2
    ]
    return replace(pattern, intensity=np.mean(copies, 0))


def grainy(pattern: Pattern, scatter: float, generator: torch.Generator) -> Pattern:
    """Intensities off by a log-normal factor, independent beyond ``GRAIN`` degrees.

    Stands for what few large grains, extinction and crude models do to measured lines.
    """
    angle = pattern.two_theta
    knots = np.arange(angle[0], angle[-1] + GRAIN, GRAIN)
    draw = torch.randn(len(knots), generator=generator, dtype=torch.float64).numpy()
    factor = np.exp(scatter * np.interp(angle, knots, draw))
    return replace(pattern, intensity=pattern.intensity * factor)


def _halo(
    two_theta: Float[np.ndarray, " points"], generator: torch.Generator
) -> Float[np.ndarray, " points"]:
    """The scattering of glass: a hump 6–14° wide (FWHM) around 16–34°, its height one."""
    draw = torch.rand(2, generator=generator, dtype=torch.float64).tolist()
    centre, fwhm = 16 + 18 * draw[0], 6 + 8 * draw[1]
    return np.exp(-4 * np.log(2) * ((two_theta - centre) / fwhm) ** 2)


def realistic(
    pattern: Pattern,
    generator: torch.Generator,
    *,
    counts: float = 10_000.0,
    background: float = 0.03,
    impurity: float = 0.02,
    lines: int = 0,
    zero: float = 0.0,
    halo: float = 0.0,
) -> Pattern:
    """The pattern in counts, as measured; defaults are a good laboratory pattern.

    The highest line gets ``counts``; ``background`` is the background's mean and
    ``impurity`` the highest impurity line relative to it, ``lines`` their number; ``zero``
    (°) moves the whole pattern to higher 2θ. ``halo`` is the height of an amorphous hump
    relative to the highest background. Noise is Poisson, sigma = √max(counts, 1).
    """
    angle = pattern.two_theta
    clean = np.interp(angle - zero, angle, pattern.intensity)
    rate = clean / max(clean.max(), np.finfo(float).tiny)
    base = background * _curved_background(angle, generator)
    if halo:
        base = base + halo * base.max() * _halo(angle, generator)
    rate = rate + base
    fwhm = max(float(np.sqrt(max(pattern.instrument.w, 0))), 0.05)
    rate = rate + impurity * _impurity(angle, generator, lines=lines, fwhm=fwhm)
    expected = torch.from_numpy(np.clip(counts * rate, 0, None))
    seen = torch.poisson(expected, generator=generator).numpy()
    return replace(
        pattern, intensity=seen, sigma=np.sqrt(np.maximum(seen, 1)), sigma_source="counts"
    )
