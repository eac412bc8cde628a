"""A prepared pattern on an axis where every line is equally wide.

With FWHM² = a² + b² tan²θ the coordinate u = ∫ d2θ / FWHM has a closed form in sinθ, so one
convolution broadens a whole pattern, and a larger b looks at it through a strain of b / 2:
positions may then be wrong by that much and still overlap.
"""

from dataclasses import dataclass, field, replace

import numpy as np
import torch
from jaxtyping import Float
from scipy.interpolate import PchipInterpolator
from torch import Tensor

from xrdkit.pattern import inside_ranges
from xrdkit.peaks import SINC
from xrdkit.types import Instrument, Pattern, Radiation

BEND, WIDTHS = 4.0, 12.0  # degrees, line widths: as narrow as a background may bend
LEAST, MOST = 4, 24  # terms of the background
REACH = 2.0  # widths over which nanocrystals' lines beyond the end are seen
MARGIN = 24.0  # FWHM of empty grid after the last point, so that tails do not wrap around


@dataclass(frozen=True)
class Grid:
    """Observed profile over equally spaced u, and what is needed to put lines on it.

    ``a`` and ``b`` are in degrees. ``weight`` is zero outside the measured ranges.
    ``blur`` is the FWHM (in u) of the Gaussian that the observed profile has been
    convolved with, ``cut`` the frequency (per u) at which the transform of nanocrystals'
    sinc² lines ends. ``smooth`` are the terms of the background, ``known`` the profiles of
    phases that are in the sample beside the candidate, their maximum at one, ``heights``
    their maxima per volume fraction. Of ``instrument`` geometry and slits
    count.
    """

    a: float
    b: float
    start: float
    step: float
    blur: float
    two_theta: Float[Tensor, " points"]
    observed: Float[Tensor, " points"]
    weight: Float[Tensor, " points"]
    smooth: Float[Tensor, "points terms"]
    known: Float[Tensor, "points phases"]
    heights: Float[Tensor, " phases"]
    radiation: Radiation
    instrument: Instrument = field(default_factory=Instrument)
    cut: float = np.inf

    def __len__(self) -> int:
        return len(self.observed)

    @property
    def linear(self) -> Float[Tensor, "points columns"]:
        """Curves that are fitted linearly beside every candidate."""
        return torch.cat([self.smooth, self.known], 1)

    def to(self, device: torch.device) -> "Grid":
        """The same grid on another device."""
        names = ("two_theta", "observed", "weight", "smooth", "known", "heights")
        return replace(self, **{name: getattr(self, name).to(device) for name in names})

    @property
    def beyond(self) -> int:
        """Points after the last one on which lines are still laid."""
        return 8 if self.cut == np.inf else int(MARGIN / 2 / self.step)

    @property
    def padded(self) -> int:
        """Points including the empty margin, a number that transforms fast."""
        return _fast_length(len(self) + int(MARGIN / self.step))


def line_limit(pattern: Pattern, q_max: float) -> float:
    """Q (1/Å) of the last lines that reach into a pattern that is cut at ``q_max``."""
    reach = 0.0 if pattern.size is None else REACH * SINC / pattern.size
    return min(float(pattern.q.max()), q_max) + reach


def stretch(
    sine: Float[Tensor, "*shape"], a: float, b: float
) -> tuple[Float[Tensor, "*shape"], Float[Tensor, "*shape"]]:
    """u(sinθ) and du / d sinθ, with a and b in degrees."""
    a, b = np.radians(a), np.radians(b)
    c = b * b - a * a
    slope = 2 / torch.sqrt(a * a + c * sine**2)
    if abs(c) < 1e-6 * a * a:
        return 2 * sine / a, slope
    root = abs(c) ** 0.5
    inside = sine * root / a
    return 2 / root * (torch.asinh(inside) if c > 0 else torch.asin(inside)), slope


def make_grid(
    pattern: Pattern,
    width: tuple[float, float],
    *,
    strain: float = 0.0,
    per_fwhm: float = 3.0,
    radiation: Radiation | None = None,
    terms: int | None = None,
    q_max: float = 9.0,
) -> Grid:
    """A prepared pattern seen through a resolution of ``width`` (a, b) plus a strain.

    ``width`` is the pattern's own FWHM model in degrees; ``strain`` (relative change of d)
    blurs it further. Lines of nanocrystals are equally wide in Q, which is what u then is:
    b is a, and they need no blur. Beyond ``q_max`` (1/Å) the pattern is cut. The background
    has so many Chebyshev ``terms``, by default one to every BEND degrees or WIDTHS widths.
    """
    radiation = radiation or pattern.radiation
    nano = pattern.size is not None
    wide = strain > 0 and not nano
    a, b = _resolution(pattern, width, strain)
    cut = np.radians(a) * pattern.size / radiation.main if nano else np.inf
    keep = pattern.q <= q_max
    angle, intensity = pattern.two_theta[keep], pattern.intensity[keep]
    u = _stretch(angle, a, b)
    step = 1 / per_fwhm
    points = int((u[-1] - u[0]) / step)
    edges = u[0] + step * np.arange(points + 1)
    area = np.concatenate(
        [[0], np.cumsum(np.diff(u) * (intensity[1:] + intensity[:-1]) / 2)]
    )
    observed = np.diff(PchipInterpolator(u, area)(edges)) / step
    centres = (edges[1:] + edges[:-1]) / 2
    two_theta = np.interp(centres, u, angle)
    weight = inside_ranges(pattern, two_theta).astype(float)
    if wide:
        observed = _gaussian_blur(observed * weight, step)
        inner = (centres > u[0] + 0.7) & (centres < u[-1] - 0.7)
        weight = weight * inner
    height = max(float(observed.max()), 1e-12)
    floor = 0.01 + 2 * _noise(pattern) if not wide else 0.02
    weight = weight / (np.clip(observed, 0, None) / height + floor)
    x = np.linspace(-1, 1, points)
    period = max(BEND, WIDTHS * width[0])
    terms = terms or int(np.clip((angle[-1] - angle[0]) / period, LEAST, MOST))
    smooth = np.polynomial.chebyshev.chebvander(x, terms - 1)
    return Grid(
        a,
        b,
        float(centres[0]),
        step,
        1.0 if wide else 0.0,
        torch.tensor(two_theta, dtype=torch.float32),
        torch.tensor(observed / height, dtype=torch.float32),
        torch.tensor(weight / weight.max(), dtype=torch.float32),
        torch.tensor(smooth, dtype=torch.float32),
        torch.zeros(points, 0),
        torch.zeros(0),
        radiation,
        pattern.instrument,
        float(cut),
    )


def _resolution(
    pattern: Pattern, width: tuple[float, float], strain: float
) -> tuple[float, float]:
    """a and b in degrees, with what a strain adds where lines are no nanocrystals'."""
    if pattern.size is not None:
        return width[0], width[0]
    a = width[0] * (1.5 if strain > 0 else 1.0)
    return a, float(np.hypot(width[1], np.degrees(2 * strain)))


def _stretch(two_theta: Float[np.ndarray, " points"], a: float, b: float) -> np.ndarray:
    sine = torch.as_tensor(np.sin(np.radians(two_theta / 2)))
    return stretch(sine, a, b)[0].numpy()


def _noise(pattern: Pattern) -> float:
    """Scatter of neighbouring points, relative to the strongest line."""
    difference = (
        pattern.intensity[2:] - 2 * pattern.intensity[1:-1] + pattern.intensity[:-2]
    )
    scatter = np.median(np.abs(difference)) / 0.6745 / 6**0.5
    return float(scatter / max(pattern.intensity.max(), 1e-12))


def _gaussian_blur(values: Float[np.ndarray, " points"], step: float) -> np.ndarray:
    """Convolution with a Gaussian of FWHM one."""
    n = _fast_length(len(values) + int(MARGIN / step))
    k = 2 * np.pi * np.fft.rfftfreq(n, step)
    kernel = np.exp(-(k**2) / (16 * np.log(2)))
    return np.fft.irfft(np.fft.rfft(values, n) * kernel, n)[: len(values)]


def _fast_length(n: int) -> int:
    """The next length whose only prime factors are 2, 3 and 5."""
    from scipy.fft import next_fast_len

    return next_fast_len(n, real=True)
