"""What atoms and reflections do to X-rays: form factors, LP, lists of hkl, angles, texture.

``multiplicity`` counts a reflection and its Friedel mate as two. Reciprocal vectors are in
cycles: |h a* + k b* + l c*| = 1/d, and Q = 2π/d.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Complex, Float, Int
from safetensors.torch import load_file
from torch import Tensor

from xrdkit.types import Crystals, DenseCrystals, Instrument, Radiation, Symmetry

TABLES = Path(__file__).parent / "tables" / "scattering.safetensors"
DISPERSION = ("f_prime", "f_second")
Texture = tuple[tuple[int, int, int], float]  # axis hkl and March-Dollase r
LABORATORY = Instrument()
HEAVIEST = 98  # atomic number that has a form factor
EDGE = 1e-9  # reflections on the limiting sphere are inside


@cache
def form_factor_tables() -> tuple[
    Float[Tensor, "99 4"], Float[Tensor, "99 4"], Float[Tensor, "99"]
]:
    """Coefficients a, b (Å²), c of neutral atoms, row = atomic number (row 0 is zero).

    International Tables C (1992), table 6.1.1.4: f0 = Σ a exp(-b s²) + c, s = sinθ/λ.
    """
    tables = load_file(TABLES)
    return tables["a"], tables["b"], tables["c"]


@cache
def _dispersion_column(wavelength: float) -> Complex[Tensor, "99"]:
    """f' + i f" of every element at one wavelength in Å, linear between columns."""
    tables = {k: v.numpy() for k, v in load_file(TABLES).items()}
    grid = tables["wavelength"]
    if not grid[0] <= wavelength <= grid[-1]:
        raise ValueError(
            f"no f', f\" at {wavelength:g} Å, the table holds {grid[0]:g}–{grid[-1]:g} Å; "
            "leave dispersion out with anomalous=False"
        )
    i = min(int(np.searchsorted(grid, wavelength, side="right")), len(grid) - 1)
    t = (wavelength - grid[i - 1]) / (grid[i] - grid[i - 1])
    parts = [tables[k][:, i - 1] * (1 - t) + tables[k][:, i] * t for k in DISPERSION]
    return torch.complex(*(torch.from_numpy(p.astype(np.float64)) for p in parts))


def form_factors(
    numbers: Int[Tensor, "*batch atoms"], s2: Float[Tensor, "*batch reflections"]
) -> Float[Tensor, "*batch atoms reflections"]:
    """Form factor f0 (electrons) of each atom at each s² = (sinθ/λ)² = 1/4d² in Å⁻²."""
    a, b, c = (t.to(s2)[numbers] for t in form_factor_tables())
    minus_s2 = -s2.unsqueeze(-2)
    total = c.unsqueeze(-1)
    for j in range(4):
        total = total + a[..., j, None] * torch.exp(b[..., j, None] * minus_s2)
    return total


def dispersion(numbers: Int[Tensor, "*n"], wavelength: float) -> Complex[Tensor, "*n"]:
    """Dispersion f' + i f" (electrons) of neutral atoms at a wavelength in Å.

    Cromer and Liberman, Z = 3–92, zero for other elements. The lines of Cr, Fe, Co, Ni, Cu,
    Mo and Ag tubes are exact; between, an absorption edge is smeared over 0.3 % in λ.
    """
    return _dispersion_column(float(wavelength)).to(numbers.device)[numbers]


def lorentz_polarisation(
    two_theta: Float[Tensor, "*shape"], polarisation: float
) -> Float[Tensor, "*shape"]:
    """LP factor (K + (1 - K) cos²2θ) / (sin²θ cosθ) at 2θ in degrees, K = polarisation.

    The one convention of this package; what others call it:

    - unpolarised beam (tube, no monochromator, or a filter): K = 0.5
    - crystal monochromator at 2θ_m, either side: K = 1 / (1 + cos²2θ_m); graphite and
      Cu Kα (2θ_m = 26.6°): 0.556
    - synchrotron, scattering in the vertical plane: K = 0.95–0.99
    - GSAS-II: K = Polariz. at azimuth 0, 1 - Polariz. at azimuth 90
    - FullProf: K = 1 / (1 + Cthm), Cthm = cos²2θ_m
    - TOPAS: K = 1 / (1 + cos²(LP_Factor)); 0 is unpolarised, 90 is synchrotron

    Flat-plate Bragg–Brentano geometry with fixed slits needs no further factor, automatic
    slits (constant lit length) multiply by sinθ; capillaries have none without absorption.
    """
    theta = torch.deg2rad(two_theta / 2)
    sin2, cos = torch.sin(theta) ** 2, torch.cos(theta)
    cos2_two_theta = (1 - 2 * sin2) ** 2
    return (polarisation + (1 - polarisation) * cos2_two_theta) / (sin2 * cos)


def slit_factor(
    sine: Float[Tensor, "*shape"], slits: str, overflow: float
) -> Float[Tensor, "*shape"]:
    """What divergence slits do to an intensity at sinθ: automatic ones multiply by sinθ.

    Fixed ones leave it, but below the 2θ of ``overflow`` (°) the beam is wider than the
    sample and a share sinθ / sin(overflow / 2) of it is used.
    """
    if slits == "automatic":
        return sine
    if overflow > 0:
        return (sine / np.sin(np.radians(overflow / 2))).clamp(max=1)
    return torch.ones_like(sine)


def debye_waller(
    u_iso: Float[Tensor, "*batch atoms"], s2: Float[Tensor, "*batch reflections"]
) -> Float[Tensor, "*batch atoms reflections"]:
    """Damping of the amplitude exp(-8π² U s²) for U in Å² and s² in Å⁻²."""
    return torch.exp(-8 * torch.pi**2 * u_iso.unsqueeze(-1) * s2.unsqueeze(-2))


def inverse_d_squared(
    hkl: Float[Tensor, "crystals reflections 3"], lattice: Float[Tensor, "crystals 3 3"]
) -> Float[Tensor, "crystals reflections"]:
    """1/d² in Å⁻²."""
    reciprocal = torch.linalg.inv(lattice).mT  # rows a*, b*, c* in 1/Å
    return (hkl @ reciprocal).square().sum(-1)


def march_dollase(
    hkl: Float[Tensor, "*batch reflections 3"],
    reciprocal: Float[Tensor, "*#batch 3 3"],
    axis: tuple[float | int, ...],
    r: float | Float[Tensor, "*#batch 1"],
) -> Float[Tensor, "*batch reflections"]:
    """March–Dollase factor (r² cos²α + sin²α / r)^(-3/2), α between hkl and the axis (hkl).

    Dollase, J. Appl. Cryst. 19, 267 (1986): r < 1 platelets lying flat, r > 1 needles in
    reflection. The mean over all directions is one. Rows of ``reciprocal``: a*, b*, c*.
    """
    normal = reciprocal.new_tensor(axis) @ reciprocal
    g = hkl @ reciprocal
    along = (g * normal.unsqueeze(-2)).sum(-1).square()
    cos2 = along / (g.square().sum(-1) * normal.square().sum(-1, keepdim=True))
    return (r**2 * cos2 + (1 - cos2) / r) ** -1.5


def ragged(counts: Int[Tensor, " rows"]) -> tuple[Int[Tensor, " all"], Int[Tensor, " all"]]:
    """Row and position within the row of every item, for rows of these many items."""
    row = torch.repeat_interleave(counts)
    start = counts.cumsum(0) - counts
    return row, torch.arange(len(row), device=row.device) - start[row]


def half_spheres(
    lattice: Float[Tensor, "crystals 3 3"], q_max: float
) -> tuple[Int[Tensor, "reflections 3"], Int[Tensor, " reflections"]]:
    """One of each Friedel pair with Q <= q_max (1/Å), and the crystal it belongs to.

    Kept are h > 0, or h = 0 and k > 0, or h = k = 0 and l > 0. For each crystal all rows
    (h, k) of its box are laid out, then the l inside the sphere solve a quadratic.
    """
    cell = lattice.detach().double()
    reciprocal = torch.linalg.inv(cell).mT
    metric = reciprocal @ reciprocal.mT
    radius = q_max / (2 * torch.pi)
    box = (radius * cell.norm(dim=-1) + EDGE).floor().long()  # |h| <= radius |a|
    width = 2 * box[:, 1] + 1
    owner, place = ragged(box[:, 0] * width + box[:, 1] + 1)
    place = place + box[owner, 1]  # skips h = 0, k < 0
    h, k = place // width[owner], place % width[owner] - box[owner, 1]
    g = metric[owner]
    slope = (g[:, 0, 2] * h + g[:, 1, 2] * k) / g[:, 2, 2]
    flat = g[:, 0, 0] * h * h + 2 * g[:, 0, 1] * h * k + g[:, 1, 1] * k * k - radius**2
    root = (slope**2 - flat / g[:, 2, 2]).clamp(min=-1).add(EDGE)
    reach = root.clamp(min=0).sqrt()
    first = torch.ceil(-slope - reach).long()
    first = torch.where((h == 0) & (k == 0), first.clamp(min=1), first)
    last = torch.where(root < 0, first - 1, torch.floor(-slope + reach).long())
    row, step = ragged((last - first + 1).clamp(min=0))
    return torch.stack([h[row], k[row], first[row] + step], -1), owner[row]


def hkl_within(lattice: Float[Tensor, "3 3"], q_max: float) -> Int[Tensor, "reflections 3"]:
    """Half sphere of reflections with Q <= q_max (1/Å), one of each Friedel pair."""
    return half_spheres(lattice[None], q_max)[0]


def unique_reflections(
    lattice: Float[Tensor, "3 3"], rotations: Int[Tensor, "operations 3 3"], q_max: float
) -> tuple[Int[Tensor, "reflections 3"], Int[Tensor, " reflections"]]:
    """Symmetry-unique reflections with Q <= q_max (1/Å) and their multiplicities.

    The Laue group is made of the rotations W of x' = W x + t, acting as h' = h W, and the
    inversion. Each hkl is coded as one integer linear in hkl, so that the code of h W is
    h · (W code) and that of -h its negative; absences are left in, their F is zero.
    """
    hkl = hkl_within(lattice, q_max)
    _, k, m = (hkl.abs().amax(0) + 2).tolist() if len(hkl) else (2, 2, 2)
    code = torch.tensor([(2 * k + 1) * (2 * m + 1), 2 * m + 1, 1], device=hkl.device)
    images = (rotations.to(hkl) @ code).double().T  # (3, operations)
    best = (hkl.double() @ images).abs().amax(-1).long().unique()
    rest, last = (best + m) // (2 * m + 1), (best + m) % (2 * m + 1) - m
    unique = torch.stack(
        [(rest + k) // (2 * k + 1), (rest + k) % (2 * k + 1) - k, last], -1
    )
    orbit = (unique.double() @ images).abs().sort(-1).values
    return unique, 2 * (1 + (orbit.diff(dim=-1) > 0).sum(-1))


@dataclass(frozen=True)
class Reflections:
    """Reflections of each crystal; rows are padded to one length with multiplicity 0."""

    hkl: Int[Tensor, "crystals reflections 3"]
    multiplicity: Int[Tensor, "crystals reflections"]

    def __len__(self) -> int:
        return self.hkl.shape[0]


def reflections(
    crystals: Crystals | DenseCrystals,
    q_max: float,
    symmetries: Sequence[Symmetry] | None = None,
) -> Reflections:
    """Reflections with Q <= q_max (1/Å): half spheres, or unique ones under symmetries."""
    lattice = crystals.lattice.detach()
    count, device = len(lattice), lattice.device
    if symmetries is None:
        hkl, owner = half_spheres(lattice, q_max)
        multiplicity = torch.full_like(owner, 2)
    else:
        lists = [
            unique_reflections(cell, symmetry.rotations, q_max)
            for cell, symmetry in zip(lattice, symmetries, strict=True)
        ]
        hkl, multiplicity = (torch.cat(part) for part in zip(*lists, strict=True))
        sizes = torch.tensor([len(part) for part, _ in lists], device=device)
        owner = torch.repeat_interleave(sizes)
    sizes = torch.bincount(owner, minlength=count)
    longest = max(int(sizes.max()), 1)
    place = torch.arange(len(owner), device=device) - (sizes.cumsum(0) - sizes)[owner]
    place = place + owner * longest
    padded = torch.tensor([0, 0, 1], device=device).repeat(count * longest, 1)
    padded[place] = hkl
    counts = torch.zeros(count * longest, dtype=torch.long, device=device)
    counts[place] = multiplicity
    return Reflections(padded.reshape(count, longest, 3), counts.reshape(count, longest))


def preferred_orientation(
    lattice: Float[Tensor, "crystals 3 3"],
    reflections: Reflections,
    texture: Texture,
    symmetries: Sequence[Symmetry] | None = None,
) -> Float[Tensor, "crystals reflections"]:
    """March–Dollase factor of each reflection; with symmetries its equivalents' mean."""
    axis, r = texture
    reciprocal = torch.linalg.inv(lattice).mT
    hkl = reflections.hkl.to(lattice)
    if symmetries is None:
        return march_dollase(hkl, reciprocal, axis, r)
    rows = []
    for i, symmetry in enumerate(symmetries):
        images = hkl[i] @ symmetry.rotations.to(lattice)  # (operations, reflections, 3)
        rows.append(march_dollase(images, reciprocal[i], axis, r).mean(0))
    return torch.stack(rows)


def sin_theta(
    lattice: Float[Tensor, "crystals 3 3"], reflections: Reflections, radiation: Radiation
) -> Float[Tensor, "crystals wavelengths reflections"]:
    """sinθ = λ / 2d; may exceed one, where there is no such line."""
    one_over_d = inverse_d_squared(reflections.hkl.to(lattice), lattice).sqrt()
    return one_over_d[:, None] * lattice.new_tensor(radiation.wavelengths)[:, None] / 2


def line_positions(
    lattice: Float[Tensor, "crystals 3 3"],
    reflections: Reflections,
    radiation: Radiation,
    instrument: Instrument = LABORATORY,
) -> Float[Tensor, "crystals wavelengths reflections"]:
    """Where lines are seen, 2θ in °: Bragg angle + zero + shift by displacement.

    A line that cannot be reached (λ > 2d) is put at 180°, where ``intensities`` is zero.
    """
    sin = sin_theta(lattice, reflections, radiation).clamp(max=1 - 1e-6)
    theta = torch.arcsin(sin)
    shift = torch.cos(theta) * -2
    if instrument.geometry == "debye-scherrer":
        shift = -torch.cos(2 * theta)
    shift = shift * (instrument.displacement / instrument.radius)
    return torch.rad2deg(2 * theta + shift) + instrument.zero
