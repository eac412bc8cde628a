"""Many candidates as one block of tensors: profiles and their derivatives.

Parameters of each candidate, within its symmetry: cell strains, atomic shifts, and four
extras: shift of lines (°), log width, Lorentzian share, overall B (Å²). Lines shift by
cosθ, as by a displaced sample, in Bragg–Brentano geometry, all alike (zero) in others.
"""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from xrdkit.refine.grid import Grid, stretch
from xrdkit.scattering import (
    dispersion,
    form_factor_tables,
    lorentz_polarisation,
    slit_factor,
    unique_reflections,
)
from xrdkit.types import Candidate

STRAINS, EXTRAS = 6, 4  # extras: shift, log width, Lorentzian share, overall B
MARGIN_LEFT = 8  # grid points before the first where lines still count


@dataclass(frozen=True)
class Block:
    """Candidates padded to one shape, and their parameters.

    ``shift_basis`` columns move each atom by at most 1 Å. ``cell_basis`` are symmetric
    strains. ``values`` holds strains, shifts and the four extras; ``present`` says which
    of them a candidate has. ``texture`` multiplies
    intensities, ``axis`` says which choice of texture.py made it (-1: none).
    """

    lattice: Float[Tensor, "crystals 3 3"]
    frac: Float[Tensor, "crystals atoms 3"]
    numbers: Int[Tensor, "crystals atoms"]
    occupancy: Float[Tensor, "crystals atoms"]
    u_iso: Float[Tensor, "crystals atoms"]
    hkl: Float[Tensor, "crystals lines 3"]
    multiplicity: Float[Tensor, "crystals lines"]
    cell_basis: Float[Tensor, "crystals 6 3 3"]
    shift_basis: Float[Tensor, "crystals coordinates shifts"]
    texture: Float[Tensor, "crystals lines"]
    axis: Int[Tensor, " crystals"]
    values: Float[Tensor, "crystals parameters"]
    present: Bool[Tensor, "crystals parameters"]

    def __len__(self) -> int:
        return len(self.lattice)

    @property
    def shifts(self) -> int:
        """Number of shift parameters of the candidate that has most."""
        return self.shift_basis.shape[2]

    def to(self, device: torch.device) -> "Block":
        """The same block on another device."""
        return Block(
            *(getattr(self, name).to(device) for name in self.__dataclass_fields__)
        )

    def trim(self) -> "Block":
        """The same candidates without padding that none of them needs."""
        atoms = max(int((self.occupancy > 0).sum(1).max()), 1)
        lines = max(int((self.multiplicity > 0).sum(1).max()), 1)
        k = int(self.present[:, STRAINS:-EXTRAS].sum(1).max())
        used = [*range(STRAINS + k), *range(-EXTRAS, 0)]
        return Block(
            self.lattice,
            self.frac[:, :atoms],
            self.numbers[:, :atoms],
            self.occupancy[:, :atoms],
            self.u_iso[:, :atoms],
            self.hkl[:, :lines],
            self.multiplicity[:, :lines],
            self.cell_basis,
            self.shift_basis[:, : 3 * atoms, :k],
            self.texture[:, :lines],
            self.axis,
            self.values[:, used],
            self.present[:, used],
        )

    def select(self, index: Tensor) -> "Block":
        """Some of the candidates, by index or mask."""
        return Block(*(getattr(self, name)[index] for name in self.__dataclass_fields__))


def pack(candidates: list[Candidate], q_max: float) -> Block:
    """Candidates as one block with their unique reflections up to ``q_max`` (1/Å)."""
    atoms = max(len(c.crystal.numbers) for c in candidates)
    shifts = max(c.symmetry.coordinate_basis.shape[1] for c in candidates)
    lines = [
        unique_reflections(c.crystal.lattice[0], c.symmetry.rotations, q_max * 1.04)
        for c in candidates
    ]
    most = max(len(hkl) for hkl, _ in lines)
    b = len(candidates)
    block = Block(
        torch.stack([c.crystal.lattice[0] for c in candidates]),
        torch.zeros(b, atoms, 3),
        torch.zeros(b, atoms, dtype=torch.long),
        torch.zeros(b, atoms),
        torch.zeros(b, atoms),
        torch.zeros(b, most, 3),
        torch.zeros(b, most),
        torch.zeros(b, STRAINS, 3, 3),
        torch.zeros(b, 3 * atoms, shifts),
        torch.ones(b, most),
        torch.full((b,), -1),
        torch.zeros(b, STRAINS + shifts + EXTRAS),
        torch.zeros(b, STRAINS + shifts + EXTRAS, dtype=torch.bool),
    )
    block.hkl[:, :, 0] = 1
    for i, (candidate, (hkl, multiplicity)) in enumerate(
        zip(candidates, lines, strict=True)
    ):
        _fill(block, i, candidate, hkl, multiplicity)
    return block


def _fill(
    block: Block,
    i: int,
    candidate: Candidate,
    hkl: Int[Tensor, "lines 3"],
    multiplicity: Int[Tensor, " lines"],
) -> None:
    """Write one candidate into a fresh block."""
    crystal, symmetry = candidate.crystal, candidate.symmetry
    n, m = len(crystal.numbers), symmetry.cell_basis.shape[1]
    block.frac[i, :n], block.numbers[i, :n] = crystal.frac, crystal.numbers
    block.occupancy[i, :n], block.u_iso[i, :n] = crystal.occupancy, crystal.u_iso
    block.hkl[i, : len(hkl)] = hkl.float()
    block.multiplicity[i, : len(hkl)] = multiplicity.float()
    xx, yy, zz, yz, xz, xy = symmetry.cell_basis
    strain = torch.stack([xx, xy, xz, xy, yy, yz, xz, yz, zz]).T.reshape(m, 3, 3)
    block.cell_basis[i, :m] = strain / strain.flatten(1).norm(dim=1)[:, None, None]
    k = symmetry.coordinate_basis.shape[1]
    columns = symmetry.coordinate_basis.reshape(n, 3, k)
    if k:
        moved = torch.einsum("nik,ij->njk", columns, crystal.lattice[0])
        block.shift_basis[i, : 3 * n, :k] = (columns / moved.norm(dim=1).amax(0)).reshape(
            -1, k
        )
    block.present[i, :m] = True
    block.present[i, STRAINS : STRAINS + k] = True
    block.present[i, -EXTRAS:] = True


def current_lattice(block: Block) -> Float[Tensor, "crystals 3 3"]:
    """Lattices with their strains: L (1 + ε)."""
    strain = torch.einsum("bs,bsij->bij", block.values[:, :STRAINS], block.cell_basis)
    return block.lattice @ (torch.eye(3, device=strain.device) + strain)


def current_frac(block: Block) -> Float[Tensor, "crystals atoms 3"]:
    """Coordinates with their shifts."""
    shift = torch.einsum(
        "bck,bk->bc", block.shift_basis, block.values[:, STRAINS : STRAINS + block.shifts]
    )
    return block.frac + shift.reshape(block.frac.shape)


@dataclass(frozen=True)
class Lines:
    """Line strengths (without LP) and sines, with derivatives for the Jacobian."""

    g: Float[Tensor, "crystals lines"]
    strength: Float[Tensor, "crystals lines"]
    d_strain: Float[Tensor, "crystals lines strains"]  # d ln g
    d_shift: Float[Tensor, "crystals lines shifts"]  # d strength


def lines_of(block: Block, wavelength: float, coordinates: bool) -> Lines:
    """|g| = 2 sinθ/λ in 1/Å and m |F|² exp(-2 B s²) / V² of every reflection.

    |F|² is the mean over Friedel pairs: A² + B² of the real part of f plus that of f″.
    """
    lattice = current_lattice(block)
    vector = block.hkl @ torch.linalg.inv(lattice).mT
    g = vector.norm(dim=-1)
    s2 = g**2 / 4
    phase = 2 * torch.pi * block.hkl @ current_frac(block).mT  # crystals, lines, atoms
    factor, imaginary = _scattering(block, s2, wavelength)
    cos, sin = torch.cos(phase), torch.sin(phase)
    a, b = (factor * cos).sum(-1), (factor * sin).sum(-1)
    c, d = (imaginary * cos).sum(-1), (imaginary * sin).sum(-1)
    volume = torch.linalg.det(lattice).abs()[:, None]
    front = block.multiplicity * block.texture / volume**2
    front = front * torch.exp(-2 * block.values[:, -1:] * s2)
    strength = front * (a * a + b * b + c * c + d * d)
    unit = vector / g[..., None]
    d_strain = -torch.einsum("bri,bsij,brj->brs", unit, block.cell_basis, unit)
    if not coordinates:
        return Lines(g, strength, d_strain, g[..., None][..., :0])
    turn = -(factor * a[..., None] + imaginary * c[..., None]) * sin
    turn += (factor * b[..., None] + imaginary * d[..., None]) * cos
    turn *= 4 * torch.pi * front[..., None]
    moved = (turn[..., None] * block.hkl[:, :, None]).flatten(2) @ block.shift_basis
    return Lines(g, strength, d_strain, moved)


def _scattering(
    block: Block, s2: Float[Tensor, "crystals lines"], wavelength: float
) -> tuple[Float[Tensor, "crystals lines atoms"], Float[Tensor, "crystals lines atoms"]]:
    """Real and imaginary scattering factors with occupancy and Debye–Waller factor."""
    elements, inverse = torch.unique(block.numbers, return_inverse=True)
    a, b, c = (t.to(s2)[elements] for t in form_factor_tables())
    f0 = (a * torch.exp(-b * s2[..., None, None])).sum(-1) + c  # crystals, lines, elements
    correction = dispersion(elements, wavelength)
    f0 = f0 + correction.real.float()
    index = inverse[:, None, :].expand(-1, s2.shape[1], -1)
    damping = torch.exp(-8 * torch.pi**2 * block.u_iso[:, None] * s2[..., None])
    damping = damping * block.occupancy[:, None]
    imaginary = correction.imag.float()[inverse][:, None]
    return torch.gather(f0, 2, index) * damping, imaginary * damping


def spread(
    u: Float[Tensor, "crystals lines"],
    amounts: Float[Tensor, "crystals lines columns"],
    grid: Grid,
) -> Float[Tensor, "crystals columns padded"]:
    """Lines on the padded grid by cubic B-splines (undone later in Fourier space)."""
    points = grid.padded
    place = (u - grid.start) / grid.step
    inside = (place > -MARGIN_LEFT) & (place < len(grid) + grid.beyond)
    place = torch.where(inside, place, torch.zeros_like(place))
    amounts = amounts * inside[..., None]
    base = torch.floor(place)
    t = place - base
    weights = (
        (1 - t) ** 3 / 6,
        (3 * t**3 - 6 * t**2 + 4) / 6,
        (-3 * t**3 + 3 * t**2 + 3 * t + 1) / 6,
        t**3 / 6,
    )
    crystals, _, columns = amounts.shape
    out = torch.zeros(crystals * points, columns, device=u.device)
    first = torch.arange(crystals, device=u.device)[:, None] * points
    for shift, w in enumerate(weights):
        index = first + torch.remainder(base.long() + (shift - 1), points)
        out.index_add_(0, index.flatten(), (amounts * w[..., None]).flatten(0, 1))
    return out.reshape(crystals, points, columns).mT


def shape(block: Block, grid: Grid) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Fourier transform of the line shape, by log width, by share, and -ik."""
    k = (
        2
        * torch.pi
        * torch.fft.rfftfreq(grid.padded, grid.step, device=block.values.device)
    )
    half = k * grid.step / 2
    # box average of the observed cells over the four-point spline that spread the lines
    spline = torch.sinc(half / torch.pi) ** (1 - 4)
    width = torch.exp(block.values[:, -3:-2])
    share = (0.5 + block.values[:, -2:-1]).clamp(0, 1)
    wide = 0.15 if grid.blur else 1.0  # natural width inside a blurred grid
    log2 = 16 * np.log(2)
    gauss = torch.exp(-(k**2) * (width * wide) ** 2 / log2)
    lorentz = torch.exp(-k * width * wide / 2)
    blur = torch.exp(-(k**2) * grid.blur**2 / log2) * spline
    blur = blur * (1 - k / (2 * torch.pi * grid.cut)).clamp(min=0)
    kernel = ((1 - share) * gauss + share * lorentz) * blur
    by_width = -(1 - share) * gauss * 2 * k**2 * (width * wide) ** 2 / log2
    by_width = (by_width - share * lorentz * k * width * wide / 2) * blur
    return kernel, by_width, (lorentz - gauss) * blur, -1j * k


def profiles(
    block: Block, grid: Grid, coordinates: bool
) -> tuple[Float[Tensor, "crystals points"], Float[Tensor, "crystals used points"]]:
    """Calculated profiles without scale or background, and their derivatives.

    The derivatives are by strains, shifts (if ``coordinates``), and the four extras.
    """
    lines = lines_of(block, grid.radiation.main, coordinates)
    total = sum(
        _wave(block, grid, lines, wavelength, weight)
        for wavelength, weight in zip(
            grid.radiation.wavelengths, grid.radiation.weights, strict=True
        )
    )
    kernel, by_width, by_share, ik = shape(block, grid)
    wave = torch.fft.rfft(total, dim=-1)
    plain = wave[:, :1]
    n = lines.d_shift.shape[-1]
    columns = torch.cat(
        [
            plain * kernel[:, None],
            wave[:, n + 2 : -1] * (kernel * ik)[:, None],  # strains
            wave[:, 1 : n + 1] * kernel[:, None],  # shifts
            wave[:, -1:] * (kernel * ik)[:, None],  # shift of lines
            plain * by_width[:, None],
            plain * by_share[:, None],
            wave[:, n + 1 : n + 2] * kernel[:, None],  # B
        ],
        1,
    )
    curves = torch.fft.irfft(columns, grid.padded, dim=-1)[..., : len(grid)]
    return curves[:, 0], curves[:, 1:]


def _wave(
    block: Block, grid: Grid, lines: Lines, wavelength: float, weight: float
) -> Float[Tensor, "crystals columns padded"]:
    """Lines of one wavelength on the grid: strengths, by shifts, B, strains, line shift."""
    sine = lines.g * wavelength / 2
    seen = (sine < 0.999) & (block.multiplicity > 0)
    sine = torch.where(seen, sine, torch.full_like(sine, 0.5))
    angle = 2 * torch.asin(sine)
    u, slope = stretch(sine, grid.a, grid.b)
    per_degree = slope * torch.cos(angle / 2) / 2 * np.pi / 180
    # a sample that is too low or high shifts lines by cosθ, a capillary hardly ever
    flat = grid.instrument.geometry == "bragg-brentano"
    shift = per_degree * torch.cos(angle / 2) if flat else per_degree
    u = u + block.values[:, -4:-3] * shift
    lp = lorentz_polarisation(torch.rad2deg(angle), grid.radiation.polarisation)
    lp = lp * slit_factor(sine, grid.instrument.slits, grid.instrument.overflow)
    front = torch.where(seen, lp * per_degree * weight, torch.zeros_like(lp))
    amount = front * lines.strength
    columns = [
        amount[..., None],
        front[..., None] * lines.d_shift,
        (-(lines.g**2) / 2 * amount)[..., None],
        (amount * slope * sine)[..., None] * lines.d_strain,
        (amount * shift)[..., None],
    ]
    return spread(u, torch.cat(columns, -1), grid)
