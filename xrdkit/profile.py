"""Lines -> curve: widths along the pattern, and many lines laid on one grid by FFT.

Nothing here knows about crystals, and the abscissa may be 2θ (°) or Q (1/Å).
"""

import math
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from scipy.fft import next_fast_len
from torch import Tensor

from xrdkit.types import Instrument

NARROWEST = 2e-3  # °, the least width that is drawn
SCHERRER = 0.9
Number = float | int | Tensor


@dataclass(frozen=True)
class Widths:
    """Line shape at some nodes of the abscissa, in its unit; between them linear.

    ``gauss`` and ``lorentz`` are full widths at half maximum, mixed by Thompson, Cox and
    Hastings. ``cut`` is the frequency at which the transform of a sinc² line ends
    (infinite: none). One row for all crystals, or one for each.
    """

    nodes: Float[Tensor, " nodes"]
    gauss: Float[Tensor, "#crystals nodes"]
    lorentz: Float[Tensor, "#crystals nodes"]
    cut: Float[Tensor, "#crystals nodes"]

    def select(self, index: Tensor) -> "Widths":
        """The rows of these crystals."""
        parts = {k: getattr(self, k) for k in ("gauss", "lorentz", "cut")}
        return replace(self, **{k: v[index] if len(v) > 1 else v for k, v in parts.items()})

    def pseudo_voigt(
        self,
    ) -> tuple[Float[Tensor, "#crystals nodes"], Float[Tensor, "#crystals nodes"]]:
        """FWHM and Lorentzian share (Thompson, Cox, Hastings 1987, equations 5 and 6)."""
        g, x = self.gauss, self.lorentz
        fifth = g**5 + 2.69269 * g**4 * x + 2.42843 * g**3 * x**2
        fifth = fifth + 4.47163 * g**2 * x**3 + 0.07842 * g * x**4 + x**5
        fwhm = fifth**0.2
        ratio = x / fwhm
        return fwhm, 1.36603 * ratio - 0.47719 * ratio**2 + 0.11116 * ratio**3

    def transform(
        self, frequency: Float[Tensor, " frequencies"]
    ) -> Float[Tensor, "#crystals nodes frequencies"]:
        """Fourier transform of the line shape (area one) at frequencies in cycles."""
        fwhm, eta = (v.unsqueeze(-1) for v in self.pseudo_voigt())
        x = torch.pi * fwhm * frequency
        shape = eta * torch.exp(-x) + (1 - eta) * torch.exp(-(x**2) / (4 * math.log(2)))
        return shape * (1 - frequency / self.cut.unsqueeze(-1)).clamp(min=0)

    def step(self) -> float:
        """Grid step fine enough for the narrowest line."""
        fwhm, eta = self.pseudo_voigt()
        band = torch.minimum((2.5 + 1.5 * eta) / fwhm, self.cut)
        return float(0.5 / band.amax())

    def reach(self) -> float:
        """Distance over which lines matter beside the grid."""
        fwhm, _ = self.pseudo_voigt()
        return float((10 * fwhm + 3 / self.cut).amax())


def _column(value: Number | None, like: Tensor) -> Tensor:
    """A number for all crystals or one for each, as a column."""
    return (
        torch.as_tensor(value if value is not None else torch.inf).to(like).reshape(-1, 1)
    )


def line_widths(
    two_theta: Float[Tensor, " nodes"],
    instrument: Instrument,
    wavelength: float,
    *,
    size: Number | None = None,
    strain: Number = 0.0,
    nanocrystal: Number | None = None,
) -> Widths:
    """Widths in ° at these 2θ (°): instrument, Scherrer size (Å), microstrain, sinc² (Å).

    Gauss² = U tan²θ + V tanθ + W; Lorentz = X / cosθ + Y tanθ + 0.9 λ / (size cosθ)
    + 4 strain tanθ (the last two in radians, turned into degrees). ``nanocrystal`` is τ of
    PXRDnet's equation 1, I_nano(Q) = I(Q) ⊗ sinc²(Qτ/2) with sinc x = sin(x) / x: its
    transform is the triangle 1 - |r| / τ, of FWHM 5.566 / τ in Q.
    """
    theta = torch.deg2rad(two_theta / 2)
    tan, cos = theta.tan(), theta.cos()
    square = instrument.u * tan**2 + instrument.v * tan + instrument.w
    if (square < 0).any():
        raise ValueError(
            f"U {instrument.u:g}, V {instrument.v:g}, W {instrument.w:g} °² give FWHM² = "
            f"{square.min():.3g} °² at 2θ = {two_theta[square.argmin()]:.2f}°; "
            "choose V² < 4 U W, or a smaller range"
        )
    gauss = square.clamp(min=NARROWEST**2).sqrt()[None]
    by_size = SCHERRER * wavelength / _column(size, theta) / cos
    lorentz = torch.rad2deg(by_size + 4 * _column(strain, theta) * tan)
    lorentz = lorentz + instrument.x / cos + instrument.y * tan
    per_degree = 2 * torch.pi / wavelength * cos * torch.pi / 180  # dQ / d2θ
    cut = _column(nanocrystal, theta) * per_degree / (2 * torch.pi)
    return Widths(two_theta, gauss, lorentz, cut)


def pattern_widths(
    grid: Float[Tensor, " points"],
    instrument: Instrument,
    wavelength: float,
    *,
    size: Number | None = None,
    strain: Number = 0.0,
    nanocrystal: Number | None = None,
) -> Widths:
    """Line widths over a 2θ grid (°), on as few nodes as keep shapes within 0.3 %."""
    sample = {"size": size, "strain": strain, "nanocrystal": nanocrystal}
    low, high = float(grid[0]), float(grid[-1])
    fine = torch.linspace(max(low, 0.1), min(high, 179), 65).to(grid)
    widths = line_widths(fine, instrument, wavelength, **sample)
    total = widths.pseudo_voigt()[0] + 1 / widths.cut
    change = float(total.log().diff(dim=-1).abs().amax()) * 64
    intervals = math.ceil(change / 0.07) if change > 1e-3 else 0
    nodes = torch.linspace(float(fine[0]), float(fine[-1]), min(intervals, 64) + 1).to(grid)
    return line_widths(nodes, instrument, wavelength, **sample)


def _spline(t: Tensor) -> tuple[Tensor, ...]:
    """Cubic B-spline weights of the four grid points around a fraction t."""
    s = 1 - t
    return (
        s**3 / 6,
        2 / 3 - t**2 + t**3 / 2,
        2 / 3 - s**2 + s**3 / 2,
        t**3 / 6,
    )


def _deposit(
    place: Float[Tensor, "crystals lines"],
    areas: Float[Tensor, "crystals lines"],
    node: Float[Tensor, "crystals lines"],
    shape: tuple[int, int],
) -> Float[Tensor, "crystals nodes cells"]:
    """Lines on a grid by cubic B-splines, shared out between the two nearest nodes."""
    nodes, cells = shape
    inside = (place >= 1) & (place < cells - 2)
    place = torch.where(inside, place, 1.0)
    areas = torch.where(inside, areas, 0.0)
    left, low = place.detach().floor(), node.detach().floor().clamp(0, max(nodes - 2, 0))
    crystal = torch.arange(len(place), device=place.device)[:, None]
    start = (crystal * nodes + low.long()) * cells + left.long() - 1
    share = (node - low).clamp(0, 1)
    sides = (
        [(0, areas)] if nodes == 1 else [(0, areas * (1 - share)), (cells, areas * share)]
    )
    weights = _spline(place - left)
    index = torch.stack([start + side + i for side, _ in sides for i in range(4)])
    value = torch.stack([area * w for _, area in sides for w in weights])
    empty = place.new_zeros(len(place) * nodes * cells)
    return empty.index_add(0, index.flatten(), value.flatten()).reshape(-1, *shape)


def profile(
    grid: Float[Tensor, " points"],
    positions: Float[Tensor, "crystals lines"],
    areas: Float[Tensor, "crystals lines"],
    widths: Widths,
) -> Float[Tensor, "crystals points"]:
    """Curves on the grid, per unit of its abscissa: every line has its area under it.

    Lines are laid on a fine grid by cubic B-splines, one copy per node, convolved with the
    node's shape by FFT (where the splines' own transform is divided out), and read off.
    """
    low, high = float(grid[0]), float(grid[-1])
    gap = (high - low) / (len(grid) - 1)
    every = max(1, math.ceil(gap / widths.step()))
    h = gap / every
    margin = math.ceil(min(widths.reach(), high - low) / h) + 4
    cells = next_fast_len(round((high - low) / h) + 1 + 2 * margin, real=True)
    nodes = widths.nodes
    spacing = float(nodes[-1] - nodes[0]) / max(len(nodes) - 1, 1) or 1.0
    place, node = (positions - low) / h + margin, (positions - nodes[0]) / spacing
    laid = torch.fft.rfft(_deposit(place, areas, node, (len(nodes), cells)))
    frequency = torch.fft.rfftfreq(cells, h).to(grid)
    spline = torch.sinc(frequency * h) ** 4
    curve = (laid * (widths.transform(frequency) / (spline * h))).sum(1)
    if bool(((grid.diff() - gap).abs() < 1e-3 * gap).all()):
        return torch.fft.irfft(curve, cells)[:, margin::every][:, : len(grid)]
    return _interpolate(torch.fft.irfft(curve / spline, cells), (grid - low) / h + margin)


def _interpolate(
    coefficients: Float[Tensor, "crystals cells"], place: Float[Tensor, " points"]
) -> Float[Tensor, "crystals points"]:
    """Values between grid points of curves given by their cubic spline coefficients."""
    left = place.floor()
    columns = left.long()[:, None] + torch.arange(-1, 3, device=place.device)
    return (coefficients[:, columns] * torch.stack(_spline(place - left), -1)).sum(-1)
