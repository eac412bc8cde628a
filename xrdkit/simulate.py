"""Crystals -> reflections -> Pattern, batched and differentiable.

reflections(crystals, q_max)        hkl in dense blocks, multiplicity 0 where padded
structure_factors, intensities      per reflection (and wavelength)
simulate, pattern_of, disturbed     whole patterns
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
import torch
from jaxtyping import Complex, Float, Int
from torch import Tensor

from xrdkit.disturb import asymmetric, grainy, mixed, realistic
from xrdkit.profile import Number, Widths, pattern_widths, profile
from xrdkit.scattering import (
    HEAVIEST,
    LABORATORY,
    Reflections,
    Texture,
    debye_waller,
    dispersion,
    form_factor_tables,
    form_factors,
    hkl_within,
    inverse_d_squared,
    line_positions,
    lorentz_polarisation,
    march_dollase,
    preferred_orientation,
    reflections,
    sin_theta,
    slit_factor,
    unique_reflections,
)
from xrdkit.types import Crystals, DenseCrystals, Instrument, Pattern, Radiation, Symmetry

__all__ = [
    "Reflections",
    "Widths",
    "debye_waller",
    "dispersion",
    "disturbed",
    "form_factor_tables",
    "form_factors",
    "friedel_mean",
    "hkl_within",
    "intensities",
    "inverse_d_squared",
    "line_positions",
    "lorentz_polarisation",
    "march_dollase",
    "pattern_of",
    "preferred_orientation",
    "profile",
    "realistic",
    "reflections",
    "simulate",
    "sin_theta",
    "structure_factors",
    "unique_reflections",
]

Grid = tuple[float | int, float | int, int] | Float[Tensor, " points"]
BLOCK = 2**18  # atoms × reflections worked on at once: stays in the cache


def _species(
    numbers: Int[Tensor, "crystals atoms"],
) -> tuple[Int[Tensor, "crystals species"], Int[Tensor, "crystals atoms"]]:
    """The elements of each crystal (padded with 0) and which of them each atom is."""
    count, atoms = numbers.shape
    first = (numbers[:, :, None] == numbers[:, None, :]).to(torch.int8).argmax(-1)
    new = first == torch.arange(atoms, device=numbers.device)
    slot = (new.long().cumsum(-1) - 1).gather(1, first)
    species = numbers.new_zeros(count, int(slot.max()) + 1)
    return species.scatter(1, slot, numbers), slot


def amplitudes(
    block: DenseCrystals,
    hkl: Int[Tensor, "crystals reflections 3"],
    wavelength: float | None,
) -> tuple[
    Complex[Tensor, "crystals reflections"], Complex[Tensor, "crystals reflections"]
]:
    """Sums over atoms A of f0 + f' and B of f": F(h) = A + iB, F(-h) = A* + iB*."""
    index = hkl.to(block.frac)
    s2 = inverse_d_squared(index, block.lattice) / 4
    species, slot = _species(block.numbers)
    f0 = form_factors(species, s2).flatten(0, 1)
    rows = slot + species.shape[1] * torch.arange(len(slot), device=slot.device)[:, None]
    weight = f0[rows]  # (crystals, atoms, reflections)
    damping = block.occupancy[..., None]
    if block.u_iso.requires_grad or bool((block.u_iso != 0).any()):
        damping = damping * debye_waller(block.u_iso, s2)
    phase = (2 * torch.pi * block.frac) @ index.mT
    cos, sin = phase.cos(), phase.sin()
    if wavelength is None:
        weight = weight * damping
        a = torch.complex((weight * cos).sum(1), (weight * sin).sum(1))
        return a, torch.zeros_like(a)
    extra = torch.view_as_real(dispersion(block.numbers, wavelength)).to(cos)[:, :, None]
    weight, second = (weight + extra[..., 0]) * damping, extra[..., 1] * damping
    a = torch.complex((weight * cos).sum(1), (weight * sin).sum(1))
    return a, torch.complex((second * cos).sum(1), (second * sin).sum(1))


def cache_blocks(
    crystals: Crystals, room: Float[Tensor, " crystals"], least: float = 1.0
) -> Iterator[tuple[Int[Tensor, " chosen"], DenseCrystals]]:
    """Dense blocks of as many atoms and similar ``room``, small enough for the cache.

    ``room`` is the number of reflections; a crystal costs atoms × room, at least ``least``.
    """
    counts = crystals.counts
    for n in counts.unique().tolist():
        index = torch.nonzero(counts == n).flatten()
        rows = torch.nonzero(counts[crystals.owner] == n).reshape(len(index), n)
        order = room[index].argsort()
        largest = max(1, int(BLOCK / max(n * float(room[index].max()), least)))
        for part in order.split(largest):
            atoms = rows[part]
            fields = (crystals.frac, crystals.numbers, crystals.occupancy, crystals.u_iso)
            chosen = index[part]
            yield (
                chosen,
                DenseCrystals(crystals.lattice[chosen], *(f[atoms] for f in fields)),
            )


def _all_amplitudes(
    crystals: Crystals, reflections: Reflections, wavelength: float | None
) -> tuple[
    Complex[Tensor, "crystals reflections"], Complex[Tensor, "crystals reflections"]
]:
    """``amplitudes`` of crystals of any sizes, in their order."""
    room = torch.full_like(crystals.volume.detach(), reflections.hkl.shape[1])
    index, parts = [], []
    for chosen, block in cache_blocks(crystals, room):
        index.append(chosen)
        parts.append(amplitudes(block, reflections.hkl[chosen], wavelength))
    order = torch.cat(index).argsort()
    a, b = (torch.cat(part)[order] for part in zip(*parts, strict=True))
    return a, b


def structure_factors(
    crystals: Crystals,
    reflections: Reflections,
    wavelength: float,
    *,
    anomalous: bool = True,
) -> Complex[Tensor, "crystals reflections"]:
    """Structure factors F(hkl) in electrons per cell at a wavelength in Å.

    F = Σ occupancy (f0 + f' + i f") exp(-8π² U s²) exp(2πi hx). Powder intensity needs the
    mean over Friedel mates, which ``friedel_mean`` gives.
    """
    a, b = _all_amplitudes(crystals, reflections, wavelength if anomalous else None)
    return a + 1j * b


def friedel_mean(
    crystals: Crystals,
    reflections: Reflections,
    wavelength: float,
    *,
    anomalous: bool = True,
) -> Float[Tensor, "crystals reflections"]:
    """Mean of |F(h)|² and |F(-h)|² in electrons²: |A|² + |B|², with F = A + iB."""
    a, b = _all_amplitudes(crystals, reflections, wavelength if anomalous else None)
    return _square(a) + _square(b)


def _square(z: Complex[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """|z|², smooth at zero."""
    return z.real.square() + z.imag.square()


def intensities(
    crystals: Crystals,
    reflections: Reflections,
    radiation: Radiation,
    *,
    instrument: Instrument = LABORATORY,
    texture: Texture | None = None,
    symmetries: Sequence[Symmetry] | None = None,
    anomalous: bool = True,
) -> Float[Tensor, "crystals wavelengths reflections"]:
    """Integrated intensities: weight · multiplicity · mean |F|² · LP · texture / V².

    In electrons² per Å⁶; phases in a mixture count by their volume fraction. The structure
    factor is that of the main wavelength for all lines. ``symmetries`` are needed with
    texture when the reflections are symmetry-unique.
    """
    f2 = friedel_mean(crystals, reflections, radiation.main, anomalous=anomalous)
    if texture is not None:
        f2 = f2 * preferred_orientation(crystals.lattice, reflections, texture, symmetries)
    return _powder(crystals.lattice, reflections, f2, radiation, instrument)


def _powder(
    lattice: Float[Tensor, "crystals 3 3"],
    reflections: Reflections,
    f2: Float[Tensor, "crystals reflections"],
    radiation: Radiation,
    instrument: Instrument,
) -> Float[Tensor, "crystals wavelengths reflections"]:
    """Intensities from squared structure factors."""
    sin = sin_theta(lattice, reflections, radiation)
    seen = sin < 1 - 1e-6
    sin = torch.where(seen, sin, 0.5)
    factor = lorentz_polarisation(torch.rad2deg(2 * sin.arcsin()), radiation.polarisation)
    factor = factor * slit_factor(sin, instrument.slits, instrument.overflow)
    factor = factor * lattice.new_tensor(radiation.weights)[:, None] * seen
    volume = torch.linalg.det(lattice)[:, None]
    return factor * (f2 * reflections.multiplicity / volume**2)[:, None]


def _grid(two_theta: Grid, like: Tensor) -> Float[Tensor, " points"]:
    """The 2θ grid in ° as a tensor."""
    if isinstance(two_theta, Tensor):
        return two_theta.to(like)
    low, high, points = two_theta
    return torch.linspace(low, high, points, dtype=like.dtype, device=like.device)


def _q_max(
    grid: Float[Tensor, " points"], instrument: Instrument, radiation: Radiation
) -> float:
    """Largest Q (1/Å) of a line that may reach the grid, 1° of margin included."""
    shift = np.degrees(2 * instrument.displacement / instrument.radius)
    high = min(float(grid[-1]) + abs(instrument.zero) + abs(float(shift)) + 1, 179.0)
    return float(4 * np.pi * np.sin(np.radians(high / 2)) / min(radiation.wavelengths))


def simulate(
    crystals: Crystals,
    radiation: Radiation,
    *,
    two_theta: Grid = (5, 80, 1024),
    instrument: Instrument = LABORATORY,
    size: Number | None = None,
    strain: Number = 0.0,
    nanocrystal: Number | None = None,
    texture: Texture | None = None,
    anomalous: bool = True,
) -> Float[Tensor, "crystals points"]:
    """Intensity per degree on a grid of 2θ, (low, high, points) or the angles, in °.

    ``size`` is the Scherrer size and ``nanocrystal`` the τ of a sinc² line (Å), ``strain``
    the microstrain; each one number or one per crystal. Gradients flow to the crystals.
    """
    if int(crystals.numbers.max()) > HEAVIEST or int(crystals.numbers.min()) < 1:
        raise ValueError(
            f"atomic numbers {crystals.numbers.unique().tolist()} are not all within "
            f"1–{HEAVIEST}; others have no scattering factor here, replace the element"
        )
    grid = _grid(two_theta, crystals.lattice)
    widths = pattern_widths(
        grid, instrument, radiation.main, size=size, strain=strain, nanocrystal=nanocrystal
    )
    q_max = _q_max(grid, instrument, radiation)
    room = crystals.volume.detach() * (q_max**3 / (12 * np.pi**2)) + 8
    cells = float(grid[-1] - grid[0]) / widths.step() * len(widths.nodes)
    index, curves = [], []
    for chosen, block in cache_blocks(crystals, room, cells / 4):
        found = reflections(block, q_max)
        parts = amplitudes(block, found.hkl, radiation.main if anomalous else None)
        f2 = sum(map(_square, parts))
        if texture is not None:
            f2 = f2 * preferred_orientation(block.lattice, found, texture)
        areas = _powder(block.lattice, found, f2, radiation, instrument)
        places = line_positions(block.lattice, found, radiation, instrument)
        shape = widths.select(chosen)
        curves.append(profile(grid, places.flatten(1), areas.flatten(1), shape))
        index.append(chosen)
    return torch.cat(curves)[torch.cat(index).argsort()]


def pattern_of(
    crystal: Crystals,
    radiation: Radiation,
    *,
    two_theta: Grid = (5, 80, 1024),
    instrument: Instrument = LABORATORY,
    size: float | None = None,
    strain: float = 0.0,
    texture: Texture | None = None,
    normalise: bool = True,
) -> Pattern:
    """Simulated pattern of one crystal, with its maximum at one if ``normalise``."""
    with torch.no_grad():
        curve = simulate(
            crystal.to("cpu"),
            radiation,
            two_theta=two_theta,
            instrument=instrument,
            size=size,
            strain=strain,
            texture=texture,
        )
    curve = curve[0].clamp(min=0).double().numpy()
    grid = _grid(two_theta, torch.zeros((), dtype=torch.float64)).numpy()
    scale = curve.max() if normalise and curve.max() > 0 else 1.0
    return Pattern(grid, curve / scale, radiation, instrument=instrument)


def disturbed(
    crystal: Crystals,
    radiation: Radiation,
    generator: torch.Generator,
    *,
    foreign: Crystals | None = None,
    share: float = 0.3,
    asymmetry: float = 0.0,
    grains: float = 0.0,
    halo: float = 0.0,
) -> Pattern:
    """A pattern of one crystal as a laboratory might measure it, everything at random.

    Uniform: FWHM 0.05–0.3°, displacement ±0.1 mm at R = 200 mm, zero ±0.05°, March–Dollase
    r 0.7–1.3 along a random low-index axis, background 1–10 % and 0–3 impurity lines of up
    to 5 % of the highest line. Log-uniform: size 200–5,000 Å, strain 1e-4–3e-3, highest
    line 2,000–50,000 counts. Grid 5–80° in steps of 0.02°.

    ``foreign`` is another phase, with ``share`` of the intensity. ``asymmetry`` (°),
    ``grains`` and ``halo`` are those of ``xrdkit.disturb``: ``asymmetric``, ``grainy`` and
    ``realistic``.
    """
    u = torch.rand(9, generator=generator, dtype=torch.float64).tolist()
    axis = torch.randint(0, 3, (3,), generator=generator)
    axis[int(u[8] * 3)] = 1  # so that it is not 000
    instrument = Instrument(
        w=(0.05 + 0.25 * u[0]) ** 2, zero=0.1 * u[1] - 0.05, displacement=0.2 * u[2] - 0.1
    )
    sample = {"size": 200 * 25 ** u[3], "strain": 1e-4 * 30 ** u[4]}
    texture = (tuple(axis.tolist()), 0.7 + 0.6 * u[5])
    clean, *other = (
        pattern_of(
            one,
            radiation,
            two_theta=(5, 80, 3751),
            instrument=instrument,
            texture=oriented,
            **sample,
        )
        for one, oriented in ((crystal, texture), (foreign, None))
        if one is not None
    )
    lines = int(torch.randint(0, 4, (), generator=generator))
    clean = mixed(clean, other[0], share) if other else clean
    clean = asymmetric(clean, asymmetry) if asymmetry else clean
    clean = grainy(clean, grains, generator) if grains else clean
    noisy = realistic(
        clean,
        generator,
        counts=2000 * 25 ** u[6],
        background=0.01 + 0.09 * u[7],
        lines=lines,
        impurity=0.05,
        halo=halo,
    )
    return replace(noisy, instrument=LABORATORY)
