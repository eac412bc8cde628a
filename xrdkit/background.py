"""The background below the lines of a pattern as measured."""

import numpy as np
from jaxtyping import Float
from pybaselines import Baseline

from .peaks import rough_fwhm, scatter

Curve = Float[np.ndarray, " points"]


def estimate(x: Curve, y: Curve) -> Curve:
    """Background below the lines, at most some 2,500 bins wide.

    First SNIP (Ryan et al., Nucl. Instrum. Methods B 34, 396 (1988)) on the root of the
    intensity over ln 2θ, where a window is narrow in the steep rise at low angle and wide
    among the crowded lines at high angle; then arPLS on what is left, which lifts the
    envelope to the middle of the noise and cannot follow lines.
    """
    if _has_none(y):
        return np.zeros_like(y)
    fwhm = rough_fwhm(x, y)
    grid, values = _binned(x, y)
    base = _snip(grid, values, fwhm)
    step = (grid[-1] - grid[0]) / len(grid)
    stiffness = (60 * fwhm / step / (2 * np.pi)) ** 4
    base = base + Baseline(grid).arpls(values - base, lam=max(stiffness, 1e3))[0]
    return np.interp(x, grid, base)


def _has_none(y: Curve) -> bool:
    """Whether a calculated pattern stands on exactly zero: many zeros and no noise."""
    zero = np.abs(y) <= 1e-6 * np.max(y)
    return bool(zero.mean() > 0.02 and scatter(y, 0.9) < 1e-6 * np.max(y))


def _snip(x: Curve, y: Curve, fwhm: float) -> Curve:
    log = np.log(np.maximum(x, 0.3))
    even = np.linspace(log[0], log[-1], len(x))
    low = min(float(y.min()), 0.0)
    root = np.sqrt(np.interp(even, log, y) - low + 1)
    middle = float(np.median(x))
    width = fwhm / middle / (even[1] - even[0])  # points
    window = int(np.clip(12 * width, 4, (len(x) - 1) // 2))
    base = Baseline().snip(
        _padded(root, window, int(np.clip(2 * width, 5, len(x) // 10))),
        max_half_window=window,
        decreasing=True,
        smooth_half_window=max(1, int(0.3 * width)),
        pad_kwargs={"mode": "edge"},
    )[0][window:-window]
    return np.interp(log, even, base**2 - 1 + low)


def _padded(values: Curve, window: int, part: int) -> np.ndarray:
    """Values with a rise towards low angle carried on to the left, level to the right."""
    first, second, last = (
        np.median(values[rows])
        for rows in (slice(part), slice(part, 2 * part), slice(-part, None))
    )
    slope = max(first - second, 0.0) / part
    left = first + slope * (np.arange(window, 0, -1) + part / 2)
    return np.concatenate([left, values, np.full(window, min(last, values[-part:].mean()))])


def _binned(x: Curve, y: Curve, count: int = 2500) -> tuple[np.ndarray, np.ndarray]:
    """Means over at most ``count`` equal bins of the angle."""
    if len(x) <= count:
        return x, y
    edges = np.linspace(x[0], x[-1], count + 1)
    row = np.clip(np.searchsorted(edges, x, side="right") - 1, 0, count - 1)
    number = np.bincount(row, minlength=count)
    filled = number > 0
    sums = [np.bincount(row, values, count)[filled] for values in (x, y)]
    return sums[0] / number[filled], sums[1] / number[filled]
