"""Patterns of nanocrystals as PXRDnet has them: over Q, of sinc² lines, smoothed.

Guo et al., "Ab initio structure solutions from nanocrystalline powder diffraction data via
diffusion models" (2024), equations 1–5: lines of Cu Kα1 over Q from 0 to 8.1568 1/Å, whose
areas are multiplicity · |F|² · (1 + cos² 2θ) / (sin² θ cos θ) of atoms at rest, convolved
with sinc²(Qτ / 2) for a crystal of size τ, then with a Gaussian, maximum at one.
"""

import math
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Bool, Float
from scipy.ndimage import gaussian_filter1d
from torch import Tensor

from xrdkit.metrics import r_squared
from xrdkit.peaks import typical_fwhm
from xrdkit.profile import Widths, profile
from xrdkit.scattering import (
    inverse_d_squared,
    lorentz_polarisation,
    reflections,
    slit_factor,
)
from xrdkit.simulate import amplitudes, cache_blocks
from xrdkit.types import Crystals, Pattern, Radiation

if TYPE_CHECKING:
    from pymatgen.core import Structure

BEAM = Radiation((1.5406,))
Q_MAX = 8.1568  # 1/Å: 2θ = 180°
POINTS, JUDGED_POINTS = 512, 8192
SMOOTH = 0.0856  # 1/Å, σ of the Gaussian: the middle of 1.0–1.1 % of the range
JUDGED_SMOOTH = 0.040784  # 1/Å, 0.5 %
SHOWN = (0.3, 7.5)  # 1/Å: what of it is solved, away from both ends, where no line is
FINE = 16  # points of the smoothing to one of the grid
FWHM = 2 * math.sqrt(2 * math.log(2))  # of a Gaussian of σ = 1


def nano_curves(
    crystals: Crystals,
    size: float | None,
    *,
    smooth: float = SMOOTH,
    points: int = POINTS,
) -> Float[Tensor, "crystals points"]:
    """Patterns over Q, 0 to 8.1568 1/Å, maximum at one; ``size`` in Å, None for none.

    ``smooth`` is σ of the Gaussian in 1/Å.
    """
    if size is not None and not 1 <= size <= 1e5:
        raise ValueError(f"a size of {size:g} Å is no crystal's; give 1–100,000 Å")
    grid = torch.linspace(0, Q_MAX, points, device=crystals.lattice.device)
    ends = grid[[0, -1]]
    one = torch.ones(1, 2, device=grid.device)
    cut = one * (size / (2 * math.pi) if size else math.inf)
    widths = Widths(ends, one * smooth * FWHM, one * 1e-6, cut)
    still = replace(crystals, u_iso=torch.zeros_like(crystals.u_iso))
    room = crystals.volume * (Q_MAX**3 / (12 * math.pi**2)) + 8
    parts, places = [], []
    for chosen, block in cache_blocks(still, room):
        found = reflections(block, Q_MAX * (1 - 1e-6))
        inverse = inverse_d_squared(found.hkl.to(block.lattice), block.lattice)
        sine = (inverse.sqrt() * (BEAM.main / 2)).clamp(1e-3, 1 - 1e-6)
        factor = lorentz_polarisation(torch.rad2deg(2 * sine.asin()), BEAM.polarisation)
        both = amplitudes(block, found.hkl, BEAM.main)
        square = sum(z.real.square() + z.imag.square() for z in both)
        area = square * found.multiplicity * factor
        parts.append(profile(grid, 2 * math.pi * inverse.sqrt(), area, widths))
        places.append(chosen)
    curves = torch.cat(parts)[torch.cat(places).argsort()].clamp(min=0)
    return curves / curves.amax(1, keepdim=True).clamp(min=1e-30)


def nano_grid(device: torch.device | str = "cpu") -> Float[Tensor, "512"]:
    """The axis of the patterns: Q in 1/Å."""
    return torch.linspace(0, Q_MAX, POINTS, device=device)


def shown(q: Float[Tensor, " points"]) -> Bool[Tensor, " points"]:
    """Which points are solved."""
    return (q >= SHOWN[0]) & (q <= SHOWN[1])


def broadened(
    curves: Float[Tensor, "crystals 512"], size: Float[Tensor, " #crystals"]
) -> Float[Tensor, "crystals 512"]:
    """Patterns of large crystals on ``nano_grid`` as those of crystals of sizes in Å.

    Equation 1, I ⊗ sinc²(Qτ / 2), as a product with its transform; gradients flow.
    """
    with torch.autocast(curves.device.type, enabled=False):
        frequency = torch.fft.rfftfreq(2 * POINTS, Q_MAX / (POINTS - 1)).to(curves.device)
        window = (1 - 2 * math.pi * frequency / size[:, None]).clamp(min=0)
        made = torch.fft.irfft(torch.fft.rfft(curves, 2 * POINTS) * window, 2 * POINTS)
    return made[:, :POINTS]


def normalised(
    curves: Float[Tensor, "crystals 512"], seen: Bool[Tensor, " 512"]
) -> Float[Tensor, "crystals 512"]:
    """Curves with their maximum over the points that are seen at one."""
    return curves / curves[:, seen].amax(1, keepdim=True).clamp(min=1e-30)


def nano_pattern(crystal: Crystals, size: float, *, smooth: float = SMOOTH) -> Pattern:
    """The pattern of one crystal of this size (Å), ready to be solved, over 2θ."""
    return _over_two_theta(
        nano_curves(crystal, size, smooth=smooth)[0], shown(nano_grid()), size
    )


def nano_sized(pattern: Pattern, size: float) -> Pattern:
    """A prepared pattern of large crystals as if they were of this size (Å).

    What PXRDnet does with measured patterns: what is observed is smoothed and convolved
    with sinc²(Qτ / 2) over Q. It becomes one of Cu Kα1.
    """
    curve, seen = nano_curve_of(pattern)
    if not seen.any():
        raise ValueError(
            f"{pattern.name or 'the pattern'} covers nothing of Q = {SHOWN[0]:g}–"
            f"{SHOWN[1]:g} 1/Å, in which nanocrystals are solved; check its wavelength"
        )
    wide = broadened(curve[None], torch.tensor([size]))[0].clamp(min=0)
    made = _over_two_theta(wide, seen, size)
    return replace(made, name=pattern.name, warnings=pattern.warnings)


def nano_curve_of(
    pattern: Pattern,
) -> tuple[Float[Tensor, " 512"], Bool[Tensor, " 512"]]:
    """A prepared pattern on ``nano_grid``, and which of it is observed: undoes the above.

    Intensity per degree becomes that per 1/Å by I(Q) = I(2θ) / (dQ/d2θ), ∝ I(2θ) / cosθ;
    that of Cu Kα1, unpolarised, by the Lorentz-polarisation factor; and that of fixed
    slits. Lines are smoothed as PXRDnet's are, unless they are half as wide already beside
    what their size adds.
    """
    from xrdkit.pattern import inside_ranges  # not with the first import: pybaselines

    beam, grid = pattern.radiation, nano_grid().double()
    angle = 2 * np.degrees(np.arcsin(_sine(grid.numpy(), beam)))
    seen = torch.from_numpy(inside_ranges(pattern, angle)) & shown(grid)
    fine = np.linspace(0, Q_MAX, FINE * (POINTS - 1) + 1)
    curve = np.interp(fine, pattern.q, pattern.intensity * _per_q(pattern), 0, 0)
    own = math.radians(typical_fwhm(pattern)[0]) * 2 * math.pi / beam.main / FWHM
    if own < SMOOTH / 2:
        curve = gaussian_filter1d(curve, math.sqrt(SMOOTH**2 - own**2) / fine[1])
    found = torch.where(seen, torch.from_numpy(curve[::FINE].clip(min=0)), 0)
    return (found / found.max().clamp(min=1e-30)).float(), seen


def _over_two_theta(
    curve: Float[Tensor, " 512"], seen: Bool[Tensor, " 512"], size: float
) -> Pattern:
    """What is seen of a pattern over Q as one over 2θ, for Cu Kα1.

    I(2θ) = I(Q) dQ/d2θ, and dQ/d2θ = 2π cosθ / λ: a line keeps its area.
    """
    sine = _sine(nano_grid()[seen].double().numpy(), BEAM)
    intensity = curve[seen].double().numpy() * np.sqrt(1 - sine**2)
    angle = 2 * np.degrees(np.arcsin(sine))
    gaps = np.flatnonzero(np.diff(np.flatnonzero(seen.numpy())) > 1) + 1
    ranges = tuple((part[0], part[-1]) for part in np.split(angle, gaps))
    intensity /= max(intensity.max(), 1e-30)
    return Pattern(angle, intensity, BEAM, ranges=ranges, size=size, prepared=True)


def _per_q(pattern: Pattern) -> Float[np.ndarray, " points"]:
    """Intensity of ``BEAM`` per 1/Å beside that measured per degree, up to a constant."""
    optics, beams = pattern.instrument, (BEAM, pattern.radiation)
    sines = [torch.from_numpy(_sine(pattern.q, beam)) for beam in beams]
    wanted, found = (
        lorentz_polarisation(torch.rad2deg(2 * sine.asin()), beam.polarisation)
        for sine, beam in zip(sines, beams, strict=True)
    )
    lit = slit_factor(sines[1], optics.slits, optics.overflow)
    return (wanted / (found * lit * (1 - sines[1] ** 2).sqrt())).numpy()


def _sine(q: Float[np.ndarray, " points"], beam: Radiation) -> np.ndarray:
    """sinθ of Q (1/Å), kept a little off 0 and 1."""
    return (q * beam.main / (4 * np.pi)).clip(1e-6, 1 - 1e-6)


def published_r_squared(truth: "Structure", answer: "Structure") -> float:
    """PXRDnet's R² of one structure held against another, without any size broadening.

    Equation 5: ∫(I - I')² dQ / ∫I² dQ with maxima at one, lines Gaussians of σ = 0.040784
    1/Å on 8,192 points; unweighted, no root, a share.
    """
    from xrdkit.crystal import from_structures

    judged = {"smooth": JUDGED_SMOOTH, "points": JUDGED_POINTS}
    crystals = from_structures([truth, answer])
    return r_squared(*nano_curves(crystals, None, **judged).double().numpy())
