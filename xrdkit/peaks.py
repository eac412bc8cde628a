"""Lines of a prepared pattern: noise, positions, heights, areas, widths."""

from itertools import pairwise

import numpy as np
from jaxtyping import Float, Int
from scipy.ndimage import median_filter
from scipy.signal import find_peaks as local_maxima
from scipy.signal import peak_widths, savgol_coeffs, savgol_filter

from .types import Pattern, Peaks
from .wavelengths import radiation_choices

Curve = Float[np.ndarray, " points"]
Lines = Float[np.ndarray, " peaks"]
Rows = Int[np.ndarray, " peaks"]
DIFFERENCE = np.array([1.0, -4.0, 6.0, -4.0, 1.0])  # blind to cubic polynomials
WIDTHS = (0.01, 2.0)  # ° bounds of a line's width
SINC = 5.566  # FWHM of sinc²(x / 2)
WIDEST = 0.25  # 1/Å: FWHM beside what the size adds; PXRDnet's patterns have 0.20


def scatter(values: Curve, share: float = 0.6) -> float:
    """Standard deviation between neighbouring points, of the ``share`` weakest points."""
    difference = np.convolve(values, DIFFERENCE, "valid") / np.linalg.norm(DIFFERENCE)
    weak = values[2:-2] <= np.quantile(values, share)
    return float(1.4826 * np.median(np.abs(difference[weak])))


def noise(pattern: Pattern) -> Curve:
    """Standard deviation of every point: ``sigma``, or from the scatter of neighbours.

    The scatter, a median over blocks of the angle, is taken to grow inside a block with the
    root of the intensity including background.
    """
    if pattern.sigma is not None:
        return pattern.sigma
    gross = pattern.intensity + (0 if pattern.background is None else pattern.background)
    typical = float(np.median(gross))
    if typical <= 0.001 * np.max(gross):
        return np.full(len(pattern), scatter(pattern.intensity))
    root = np.sqrt(np.maximum(gross, 0.1 * typical) / typical)
    difference = np.convolve(pattern.intensity, DIFFERENCE, "same") / root
    size = max(len(pattern) // 25, 60)
    blocks = np.arange(0, max(len(pattern) - size // 2, 1), size)
    levels = [np.median(np.abs(difference[start : start + size])) for start in blocks]
    level = 1.4826 / np.linalg.norm(DIFFERENCE) * np.array(levels)
    return root * np.interp(np.arange(len(pattern)), blocks + size / 2, level)


def find_peaks(pattern: Pattern) -> Peaks:
    """Lines of a prepared pattern: 2θ (°) of the main line, height, area and FWHM (°).

    A line stands six standard deviations above its surroundings, and 0.1 % of the maximum.
    Kα2 is not listed apart where the radiation says that it is there.
    """
    if not pattern.prepared:
        raise ValueError("peaks are looked for in a prepared pattern; call prepare first")
    x, sigma = pattern.two_theta, noise(pattern)
    smooth, rows = _significant(
        x, pattern.intensity, sigma, rough_fwhm(x, pattern.intensity)
    )
    rows = _without_kalpha2(rows, x, smooth, pattern)
    if not len(rows):
        none = np.zeros(0)
        return Peaks(none, none, none, none)
    doublet = any(beam.kalpha2 for beam in radiation_choices(pattern.radiation))
    return Peaks(
        _tops(x, smooth, rows),
        smooth[rows],
        _areas(x, pattern.intensity, smooth, rows),
        _half_widths(x, smooth, rows, doublet),
    )


def check(pattern: Pattern, least: int = 3) -> None:
    """Refuse a prepared pattern of fewer than ``least`` lines."""
    count = len(find_peaks(pattern).two_theta)
    if count < least:
        raise ValueError(
            f"the pattern shows {count} peaks above its noise, at least {least} are "
            "needed; measure longer or over a wider range"
        )


def typical_fwhm(pattern: Pattern) -> tuple[float, float]:
    """(a, b) in ° of FWHM² = a² + (b tanθ)², fitted to the strong isolated lines.

    Of nanocrystals' lines without what their size adds: a / cosθ, which has b = a.
    """
    if pattern.size is not None:
        return 2 * (_beside_size(pattern),)
    peaks = find_peaks(pattern)
    step = float(np.median(np.diff(pattern.two_theta)))
    low = max(WIDTHS[0], 1.5 * step)
    if not len(peaks.two_theta):
        return float(np.clip(10 * step, low, WIDTHS[1])), 0.0
    chosen = _isolated(peaks)
    width, height = peaks.fwhm[chosen], peaks.height[chosen]
    slope = np.tan(np.radians(peaks.two_theta[chosen] / 2)) ** 2
    median = float(np.median(width))
    a, b = median, 0.0
    if len(chosen) >= 5 and slope.max() > 3 * slope.min():
        a, b = _caglioti(slope, width, np.sqrt(height))
    return float(np.clip(a, low, WIDTHS[1])), float(np.clip(b, 0, WIDTHS[1]))


def size_fwhm(pattern: Pattern) -> float:
    """FWHM (° at θ = 0) of lines sinc²(Q size / 2)."""
    return float(np.degrees(SINC / pattern.size * pattern.radiation.main / (2 * np.pi)))


def _beside_size(pattern: Pattern) -> float:
    """FWHM (° at θ = 0) that lines have beside that of sinc²(Q size / 2).

    From the narrower ones, as others are not single; at least a quarter of that of size, at
    most ``WIDEST``, as of the smallest crystals no line is single.
    """
    peaks = find_peaks(pattern)
    by_size = size_fwhm(pattern)
    width = peaks.fwhm * np.cos(np.radians(peaks.two_theta / 2))
    whole = float(np.quantile(width, 0.3)) if len(width) else by_size
    widest = np.degrees(WIDEST * pattern.radiation.main / (2 * np.pi))
    return min(float(np.sqrt(max(whole**2 - by_size**2, (by_size / 4) ** 2))), widest)


def rough_fwhm(x: Curve, intensity: Curve) -> float:
    """Width (°) of the strongest lines over their surroundings; no background is needed."""
    smooth = _smoothed(intensity, 5)
    level = max(6 * scatter(intensity), 0.02 * float(np.ptp(smooth)))
    rows, found = local_maxima(smooth, prominence=level)
    step = float(np.median(np.diff(x)))
    if not len(rows):
        return 10 * step
    best = np.argsort(found["prominences"])[-12:]
    _, _, left, right = peak_widths(smooth, rows[best], rel_height=0.5)
    index = np.arange(len(x))
    width = np.interp(right, index, x) - np.interp(left, index, x)
    order = np.argsort(width)  # median, weighted by the root of the prominence
    share = np.cumsum(np.sqrt(found["prominences"][best][order]))
    return float(np.clip(width[order][np.searchsorted(share, share[-1] / 2)], step, 3.0))


def _smoothed(values: Curve, window: int) -> Curve:
    window = min(window | 1, (len(values) - 1) | 1)
    return savgol_filter(values, window, 2) if window >= 5 else values.copy()


def _significant(x: Curve, values: Curve, sigma: Curve, width: float) -> tuple[Curve, Rows]:
    window = int(0.8 * width / np.median(np.diff(x))) | 1
    smooth = _smoothed(values, window)
    gain = np.linalg.norm(savgol_coeffs(window, 2)) if window >= 5 else 1.0
    apart = max(1, window // 2)
    gain *= _correlation(smooth, gain * sigma, window)
    level = np.maximum(6 * gain * median_filter(sigma, 5), 0.001 * values.max())
    rows, found = local_maxima(smooth, prominence=float(level.min()), distance=apart)
    clear = (found["prominences"] > level[rows]) & (smooth[rows] > 0.85 * level[rows])
    if width > 2.5 * np.median(np.diff(x)):  # then one point alone is no line
        clear &= smooth[rows - 1] + smooth[rows + 1] > 0.5 * smooth[rows]
    return smooth, rows[clear]


def _correlation(smooth: Curve, expected: Curve, window: int) -> float:
    """How much stronger than white noise (1–4) the smoothed weak half scatters."""
    if window < 5 or len(smooth) < 4 * window or not expected.any():
        return 1.0
    curve = smooth[2 * window :] - 2 * smooth[window:-window] + smooth[: -2 * window]
    middle, sigma = smooth[window:-window], expected[window:-window]
    weak = (middle < np.quantile(middle, 0.4)) & (sigma > 0)
    if not weak.any():
        return 1.0
    ratio = 1.4826 * np.median(np.abs(curve[weak]) / sigma[weak]) / np.sqrt(6)
    return float(np.clip(ratio, 1, 4))


def _without_kalpha2(
    rows: Rows, x: Curve, values: Curve, pattern: Pattern
) -> Int[np.ndarray, " left"]:
    """Lines that are not the resolved second line of a stronger one."""
    beam = pattern.radiation
    if not beam.kalpha2 or len(beam.wavelengths) < 2 or not len(rows):
        return rows
    sine = np.sin(np.radians(x[rows] / 2)) * beam.wavelengths[1] / beam.wavelengths[0]
    second = 2 * np.degrees(np.arcsin(np.minimum(sine, 1)))
    near = 0.25 * (second - x[rows])
    keep = np.ones(len(rows), bool)
    for i in range(len(rows)):
        ratio = values[rows] / values[rows[i]]
        hit = (np.abs(x[rows] - second[i]) < near[i]) & (ratio > 0.3) & (ratio < 0.8)
        keep &= ~(hit & keep[i])
    return rows[keep]


def _tops(x: Curve, values: Curve, rows: Rows) -> Lines:
    """2θ (°) of the parabolas through the three highest points."""
    rows = np.clip(rows, 1, len(x) - 2)
    left, top, right = values[rows - 1], values[rows], values[rows + 1]
    curvature = left - 2 * top + right
    shift = np.where(curvature < 0, 0.5 * (left - right) / np.minimum(curvature, -1e-12), 0)
    return x[rows] + np.clip(shift, -0.5, 0.5) * 0.5 * (x[rows + 1] - x[rows - 1])


def _half_widths(x: Curve, values: Curve, rows: Rows, doublet: bool) -> Lines:
    """FWHM (°); twice the narrower side where a neighbour or Kα2 widens the other."""
    bounds = np.zeros(len(rows), int), np.full(len(rows), len(x) - 1)
    data = (values[rows], *bounds)
    _, _, left, right = peak_widths(values, rows, rel_height=0.5, prominence_data=data)
    index = np.arange(len(x))
    top = _tops(x, values, rows)
    sides = np.stack([top - np.interp(left, index, x), np.interp(right, index, x) - top])
    narrow, wide = sides.min(axis=0), sides.max(axis=0)
    clean = (wide < 1.4 * narrow) & (not doublet)
    return np.where(clean, narrow + wide, 2 * narrow)


def _areas(x: Curve, values: Curve, smooth: Curve, rows: Rows) -> Lines:
    """Integral (intensity · °) from valley to valley, at most six widths either side."""
    sums = np.concatenate([[0], np.cumsum(np.diff(x) * (values[1:] + values[:-1]) / 2)])
    valleys = [a + int(np.argmin(smooth[a:b])) for a, b in pairwise(rows)]
    reach = 6 * _half_widths(x, smooth, rows, doublet=True)
    left = np.maximum([0, *valleys], np.searchsorted(x, x[rows] - reach))
    right = np.minimum([*valleys, len(x) - 1], np.searchsorted(x, x[rows] + reach))
    return sums[np.minimum(right, len(x) - 1)] - sums[left]


def _isolated(peaks: Peaks) -> Int[np.ndarray, " chosen"]:
    """Rows of at least 5 % of the maximum with no such line within three widths."""
    strong = np.flatnonzero(peaks.height > 0.05 * peaks.height.max())
    gaps = np.diff(peaks.two_theta[strong])
    room = np.minimum(np.append(np.inf, gaps), np.append(gaps, np.inf))
    alone = strong[room > 3 * peaks.fwhm[strong]]
    return alone if len(alone) >= 3 else strong


def _caglioti(slope: Lines, width: Lines, weight: Lines) -> tuple[float, float]:
    """a and b of width² = a² + b² slope, by five robust rounds; a at least 0.4 medians."""
    least = (0.4 * float(np.median(width))) ** 2
    a2, b2 = float(np.median(width)) ** 2, 0.0
    for _ in range(5):
        misfit = (width**2 / (a2 + b2 * slope) - 1) / 0.3
        w = weight / (1 + misfit**2) / (a2 + b2 * slope) ** 2
        s, sx, sy = w.sum(), w @ slope, w @ width**2
        sxx, sxy = w @ slope**2, w @ (slope * width**2)
        b2 = max(0.0, (s * sxy - sx * sy) / (s * sxx - sx**2))
        a2 = (sy - b2 * sx) / s
        if a2 < least:
            a2, b2 = least, max(0.0, (sxy - least * sx) / sxx)
    return float(np.sqrt(a2)), float(np.sqrt(b2))
