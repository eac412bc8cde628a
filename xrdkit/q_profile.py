"""What networks see of a pattern: √intensity and observed mask on one grid in Q.

The curve is y(2θ) / P(2θ) as a function of Q = 4π sinθ / λ, P the polarisation factor. Over
Q a line then has the area multiplicity · |F|² / Q² whatever the wavelength: the Jacobian
dQ/d2θ ∝ cosθ takes away the 1 / cosθ of the Lorentz factor 1 / (sin²θ cosθ). It is smoothed
by a Gaussian of ``FWHM``, so that no line falls between two points, and its maximum over
the observed part is one; what was not observed is zero in both channels.
"""

import math
from collections.abc import Callable, Iterator

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from xrdkit.profile import SCHERRER, Number, Widths, profile
from xrdkit.scattering import inverse_d_squared, march_dollase, reflections
from xrdkit.simulate import amplitudes, cache_blocks
from xrdkit.types import Crystals, DenseCrystals, Pattern, Radiation
from xrdkit.wavelengths import DOUBLET, K_ALPHA

Q_MIN, Q_MAX, POINTS = 0.25, 6.39, 1024  # 1/Å; steps of 0.006
STEP = (Q_MAX - Q_MIN) / (POINTS - 1)
FWHM = 1.25 * STEP  # of the smoothing
CLEAN = Radiation(K_ALPHA["Cu"], DOUBLET, kalpha2=True, name="CuKa")
CLEAN_RANGE, CLEAN_FWHM = (5.0, 80.0), 0.1  # degrees, as in the literature's protocols
TUBES = {"Cu": 0.55, "Co": 0.15, "Mo": 0.1, "Cr": 0.04, "Ag": 0.04}  # and their shares
SYNCHROTRON = (0.35, 0.41, 0.5, 0.62, 0.7, 0.8, 0.9, 1.0)  # Å
NODES = 4  # of the line widths along Q
GRAIN = 0.03  # 1/Å over which intensities are off together
FOREIGN = 5  # lines at most
LEAST_RANGE = 1.0  # 1/Å that must be observed of the grid


class NotLearned(ValueError):
    """A pattern, or atoms, unlike everything that networks are trained on."""


def q_grid(device: torch.device | str = "cpu") -> Float[Tensor, "1024"]:
    """The grid in 1/Å."""
    return torch.linspace(Q_MIN, Q_MAX, POINTS, device=device)


def profile_of(pattern: Pattern) -> Float[Tensor, "2 1024"]:
    """A prepared pattern on the grid: √intensity and observed mask."""
    beam = pattern.radiation
    cos2 = np.cos(np.radians(pattern.two_theta)) ** 2
    flat = pattern.intensity / (beam.polarisation + (1 - beam.polarisation) * cos2)
    fine = 8  # points of the smoothing to a step
    reach = 2 * fine
    x = Q_MIN + STEP / fine * np.arange(-reach, (POINTS - 1) * fine + reach + 1)
    kernel = np.exp(-4 * math.log(2) * (np.arange(-reach, reach + 1) / (1.25 * fine)) ** 2)
    curve = np.convolve(np.interp(x, pattern.q, flat), kernel / kernel.sum(), "valid")
    grid = q_grid().double().numpy()
    edges = np.radians(np.array(pattern.ranges, float).reshape(-1, 2) / 2)
    inside = [
        (low <= grid) & (grid <= high)
        for low, high in 4 * np.pi * np.sin(edges) / beam.main
    ]
    seen = np.any(inside, 0)
    if seen.sum() * STEP < LEAST_RANGE:
        raise NotLearned(
            f"{pattern.name or 'the pattern'} covers {seen.sum() * STEP:.2f} 1/Å of "
            f"Q = {Q_MIN:g}–{Q_MAX:g} 1/Å; networks need {LEAST_RANGE:g} 1/Å at least"
        )
    both = np.stack([curve[::fine], seen])[None]
    return _finished(*torch.from_numpy(both).float().unbind(1))[0]


def profiles(
    crystals: Crystals, generator: torch.Generator, *, clean: float = 0.5
) -> Float[Tensor, "crystals 2 1024"]:
    """Profiles of crystals, simulated on the fly; a share of them as ``clean`` patterns.

    Clean ones are noise-free Cu Kα patterns, 5–80°, FWHM 0.1°, as the literature's. The
    others are what laboratories and beamlines measure: see ``disturbed_profiles``.
    """
    rough = torch.rand(len(crystals), generator=generator) >= clean
    parts, places = [], []
    for chosen, part in ((~rough, clean_profiles), (rough, disturbed_profiles)):
        index = torch.nonzero(chosen).flatten().to(crystals.lattice.device)
        if len(index):
            parts.append(part(crystals.select(index), generator))
            places.append(index)
    return torch.cat(parts)[torch.cat(places).argsort()]


def clean_profiles(
    crystals: Crystals, generator: torch.Generator | None = None
) -> Float[Tensor, "crystals 2 1024"]:
    """Noise-free Cu Kα profiles, 5–80°, FWHM 0.1°; nothing is random."""
    grid = q_grid(crystals.lattice.device)
    low, high = (_q(angle, CLEAN) for angle in CLEAN_RANGE)
    curves = crystals.lattice.new_zeros(len(crystals), POINTS)
    for chosen, block in _blocks(crystals):
        hkl, multiplicity = _reflections(block, high + 0.1)
        q, area = _lines(block, hkl, multiplicity, CLEAN)
        none = q.new_zeros(len(q), 1)
        curves[chosen] = profile(
            grid, *_doubled(q, area, CLEAN), _widths(none + CLEAN_FWHM, none, none, CLEAN)
        )
    seen = ((grid >= low) & (grid <= high)).to(curves)
    return _finished(curves, seen.expand_as(curves))


def disturbed_profiles(
    crystals: Crystals, generator: torch.Generator
) -> Float[Tensor, "crystals 2 1024"]:
    """Profiles as they are measured, everything at random (one beam to a block).

    Beam: Cu, Co, Mo, Cr, Ag (Kα1 alone in one of four) or synchrotron, 0.35–1 Å. Range from
    Q 0.3–1.4 to 3.2–6.4 1/Å or 2θ = 150°. Log-uniform: FWHM 0.03–0.4°, size 100–5,000 Å,
    strain 1e-4–5e-3, highest line 500–100,000 counts, background 0.3–30 % of it. Texture
    along a low-index axis, r 0.6–1.6, in one of two. Intensities off by 15 % (log-normal),
    displacement parameters by up to 0.01 Å², zero by 0.05°, displacement by 0.1 mm at
    R = 200 mm. Waves of up to 1 % are left of the background; up to five foreign lines are
    at most 5 % of the highest; weak lines are cut off in one of five.
    """
    parts, places = [], []
    for chosen, block in _blocks(crystals):
        parts.append(_disturbed(block, _beam(generator), generator))
        places.append(chosen)
    curve, seen = torch.cat(parts)[torch.cat(places).argsort()].unbind(1)
    return _finished(curve, seen)


def _disturbed(
    block: DenseCrystals, beam: Radiation, generator: torch.Generator
) -> Float[Tensor, "crystals 2 1024"]:
    """Curve and mask of one block; see ``disturbed_profiles``."""
    lattice, count = block.lattice, len(block.lattice)
    grid = q_grid(lattice.device)

    def uniform(low: Number, high: Number, columns: int = 1) -> Tensor:
        draw = torch.rand(count, columns, generator=generator).to(lattice)
        return low + (high - low) * draw

    def log_uniform(low: Number, high: Number) -> Tensor:
        return torch.exp(uniform(math.log(low), math.log(high)))

    hkl, multiplicity = _reflections(block, Q_MAX + 0.1)
    q, area = _lines(block, hkl, multiplicity, beam)
    area = area * _textured(hkl, lattice, uniform, generator) * _off(q, uniform)
    cos = _cosine(q, beam)
    shift = torch.deg2rad(uniform(-0.05, 0.05)) + uniform(-1e-3, 1e-3) * cos
    q = q + 2 * math.pi / beam.main * cos * shift
    top = area.amax(1, keepdim=True)
    known = uniform(0, 1, FOREIGN) < uniform(0, 1)
    foreign = top * 0.05 * uniform(0, 1, FOREIGN) * uniform(0, 1) * known
    q = torch.cat([q, uniform(Q_MIN, Q_MAX, FOREIGN)], 1)
    lines = _doubled(q, torch.cat([area, foreign], 1), beam)
    strain = log_uniform(1e-4, 5e-3)
    widths = _widths(log_uniform(0.03, 0.4), 1 / log_uniform(100, 5000), strain, beam)
    curve = profile(grid, *lines, widths).clamp(min=0)
    high = torch.minimum(uniform(3.2, Q_MAX + 0.4), uniform(0, 0) + _q(150.0, beam))
    seen = (grid >= uniform(0.3, 1.4)) & (grid <= high)
    curve = curve / (curve * seen).amax(1, keepdim=True).clamp(min=1e-30)
    base = log_uniform(0.003, 0.3) * (1 + uniform(0, 2) * torch.exp(-grid))
    wave = 0.01 * uniform(0, 1) * torch.sin(uniform(1, 6) * grid + uniform(0, 6.3))
    draw = torch.randn(count, POINTS, generator=generator).to(lattice)
    curve = curve + wave + draw * ((curve + base) / log_uniform(500, 1e5)).sqrt()
    cut = uniform(0.003, 0.03) * (uniform(0, 1) < 0.2)
    return torch.stack([torch.where(curve < cut, 0, curve), seen.to(curve)], 1)


def _textured(
    hkl: Int[Tensor, "crystals lines 3"],
    lattice: Float[Tensor, "crystals 3 3"],
    uniform: Callable[..., Tensor],
    generator: torch.Generator,
) -> Float[Tensor, "crystals lines"]:
    """March–Dollase factors along one low-index axis, in half of the crystals."""
    axis = torch.randint(0, 2, (3,), generator=generator)
    axis[int(torch.randint(0, 3, (), generator=generator))] = 1  # so that it is not 000
    r = torch.where(uniform(0, 1) < 0.5, uniform(0.6, 1.6), 1.0)
    reciprocal = torch.linalg.inv(lattice).mT
    return march_dollase(hkl.to(lattice), reciprocal, tuple(axis.tolist()), r)


def _off(
    q: Float[Tensor, "crystals lines"], uniform: Callable[..., Tensor]
) -> Float[Tensor, "crystals lines"]:
    """By what intensities are off: grains, and displacement parameters of other size."""
    draw = uniform(0, 1, 4 * math.ceil((Q_MAX + 0.2) / GRAIN)).reshape(len(q), -1, 4)
    normal = (draw.sum(-1) - 2) * math.sqrt(3)  # nearly
    grains = normal.gather(1, (q / GRAIN).long().clamp(max=normal.shape[1] - 1))
    return torch.exp(uniform(0, 0.3) * grains - uniform(-0.004, 0.01) * q.square())


def _beam(generator: torch.Generator) -> Radiation:
    """A tube, often with Kα2, or a synchrotron beam."""
    draw, which = torch.rand(2, generator=generator).tolist()
    for element, share in TUBES.items():
        if draw < share:
            lines = K_ALPHA[element]
            return Radiation(lines[:1]) if which < 0.25 else Radiation(lines, DOUBLET)
        draw -= share
    return Radiation(SYNCHROTRON[int(which * len(SYNCHROTRON)) :][:1], polarisation=0.95)


def _finished(
    curve: Float[Tensor, "crystals 1024"], seen: Float[Tensor, "crystals 1024"]
) -> Float[Tensor, "crystals 2 1024"]:
    """√intensity with its maximum at one, and the mask."""
    shown = curve.clamp(min=0) * seen
    top = shown.amax(1, keepdim=True).clamp(min=1e-30)
    return torch.stack([(shown / top).sqrt(), seen], 1)


def _blocks(crystals: Crystals) -> Iterator[tuple[Tensor, DenseCrystals]]:
    """Blocks small enough for the cache, crystals of like volume together."""
    room = crystals.volume * (Q_MAX**3 / (12 * math.pi**2)) + 8
    return cache_blocks(crystals, room)


def _q(two_theta: float, beam: Radiation) -> float:
    """Q in 1/Å of 2θ in °."""
    return 4 * math.pi / beam.main * math.sin(math.radians(two_theta / 2))


def _cosine(q: Float[Tensor, "*n"], beam: Radiation) -> Float[Tensor, "*n"]:
    """cosθ at Q; 0.1 where the wavelength is too long for it."""
    return (1 - (q * (beam.main / (4 * math.pi))).square()).clamp(min=0.01).sqrt()


def _reflections(
    block: DenseCrystals, q_max: float
) -> tuple[Int[Tensor, "crystals lines 3"], Int[Tensor, "crystals lines"]]:
    found = reflections(block, q_max)
    return found.hkl, found.multiplicity


def _lines(
    block: DenseCrystals,
    hkl: Int[Tensor, "crystals lines 3"],
    multiplicity: Int[Tensor, "crystals lines"],
    beam: Radiation,
) -> tuple[Float[Tensor, "crystals lines"], Float[Tensor, "crystals lines"]]:
    """Q (1/Å) and area over Q, multiplicity · |F|² / Q², of every line."""
    q = 2 * math.pi * inverse_d_squared(hkl.to(block.lattice), block.lattice).sqrt()
    a, b = amplitudes(block, hkl, beam.main)
    square = sum(z.real.square() + z.imag.square() for z in (a, b))
    return q, square * multiplicity / q.square()


def _doubled(
    q: Float[Tensor, "crystals lines"],
    area: Float[Tensor, "crystals lines"],
    beam: Radiation,
) -> tuple[Float[Tensor, "crystals all"], Float[Tensor, "crystals all"]]:
    """Every line once for each wavelength, where Q of the main one is taken for all."""
    pairs = zip(beam.wavelengths, beam.weights, strict=True)
    both = [(q * (length / beam.main), area * weight) for length, weight in pairs]
    places, areas = (torch.cat(part, 1) for part in zip(*both, strict=True))
    return places, areas


def _widths(
    fwhm: Float[Tensor, "crystals 1"],
    inverse_size: Float[Tensor, "crystals 1"],
    strain: Float[Tensor, "crystals 1"],
    beam: Radiation,
) -> Widths:
    """Widths over Q of FWHM (°), 1 / Scherrer size (1/Å) and microstrain, smoothed.

    In Q: FWHM dQ/d2θ with dQ/d2θ = 2π cosθ / λ, 2π 0.9 / size, and 2 strain Q.
    """
    nodes = torch.linspace(Q_MIN, Q_MAX, NODES, device=fwhm.device)
    gauss = torch.deg2rad(fwhm) * (2 * math.pi / beam.main) * _cosine(nodes, beam)
    lorentz = 2 * math.pi * SCHERRER * inverse_size + 2 * strain * nodes
    cut = torch.full_like(lorentz, math.inf)
    return Widths(nodes, (gauss.square() + FWHM**2).sqrt(), lorentz, cut)
