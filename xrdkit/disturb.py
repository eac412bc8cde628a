"""What a laboratory adds to a clean pattern: background, noise, impurities, a shift."""

from dataclasses import replace

import numpy as np
import torch
from jaxtyping import Float
from numpy.polynomial import chebyshev
from scipy.integrate import trapezoid

from xrdkit.types import Pattern


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


def mixture(main: Pattern, foreign: Pattern, share: float) -> Pattern:
    """Two patterns on one grid as one, its maximum at one.

    ``share`` (0–1) is the foreign pattern's part of the whole integrated intensity.
    """
    if not 0 <= share < 1:
        raise ValueError(f"share {share:g} of a foreign phase; give 0 to below 1")
    if not np.array_equal(main.two_theta, foreign.two_theta):
        raise ValueError("the two patterns have other angles; simulate both on one grid")
    own, other = (trapezoid(p.intensity, p.two_theta) for p in (main, foreign))
    scale = share / (1 - share) * own / other
    curve = main.intensity + scale * foreign.intensity
    return replace(main, intensity=curve / curve.max())


def realistic(
    pattern: Pattern,
    generator: torch.Generator,
    *,
    counts: float = 10_000.0,
    background: float = 0.03,
    impurity: float = 0.02,
    lines: int = 0,
    zero: float = 0.0,
) -> Pattern:
    """The pattern in counts, as measured; defaults are a good laboratory pattern.

    The highest line gets ``counts``; ``background`` is the background's mean and
    ``impurity`` the highest impurity line relative to it, ``lines`` their number; ``zero``
    (°) moves the whole pattern to higher 2θ. Noise is Poisson, sigma = √max(counts, 1).
    """
    angle = pattern.two_theta
    clean = np.interp(angle - zero, angle, pattern.intensity)
    rate = clean / max(clean.max(), np.finfo(float).tiny)
    rate = rate + background * _curved_background(angle, generator)
    fwhm = max(float(np.sqrt(max(pattern.instrument.w, 0))), 0.05)
    rate = rate + impurity * _impurity(angle, generator, lines=lines, fwhm=fwhm)
    expected = torch.from_numpy(np.clip(counts * rate, 0, None))
    seen = torch.poisson(expected, generator=generator).numpy()
    return replace(
        pattern, intensity=seen, sigma=np.sqrt(np.maximum(seen, 1)), sigma_source="counts"
    )
