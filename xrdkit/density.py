"""Electron densities in e/Å³: of superposed atoms, and of files.

The promolecule density is that of free atoms, each smeared by one isotropic displacement
parameter: ρ(x) = 1/V Σ F(h) exp(-2πi h·x) with F(h) = Σ f0 exp(-8π² U s²) exp(2πi h·x_j)
for all Q <= ``Q_MAX``. It knows no bonds and is not what DFT gives. On N points along each
axis F is folded to h mod N before the FFT, which is exact at these points for every N.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from numbers import Integral
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Complex, Float, Int
from torch import Tensor

from xrdkit.scattering import form_factor_tables, reflections
from xrdkit.simulate import amplitudes, cache_blocks
from xrdkit.types import Crystals

if TYPE_CHECKING:
    from pymatgen.io.common import VolumetricData

U_ISO = 0.1  # Å²: smears a point to σ = 0.32 Å, about what Q up to 6.4 1/Å resolves
Q_MAX = 10.0  # 1/Å, where that leaves 0.7 % of a form factor
POINTS, FINEST = 50, 256  # along each axis
ROOM = 2**28  # values of all grids that are held at once
LARGEST = 2**29  # bytes of a file
OTHER_CELL = 0.02  # relative difference of the metric of a file and of a crystal
BOHR = 0.529177210903  # Å


@dataclass(frozen=True)
class DensityGrid:
    """A density in e/Å³ on a grid of fractional coordinates i / n, and its cell in Å."""

    lattice: Float[np.ndarray, "3 3"]
    values: Float[np.ndarray, "a b c"]


@dataclass(frozen=True)
class _Series:
    """Terms of a Fourier synthesis over half a sphere, the first one F(000) / 2."""

    hkl: Int[Tensor, "crystals terms 3"]
    terms: Complex[Tensor, "crystals terms"]  # 2 F(h) / V in e/Å³, 0 where padded


def on_grid(
    crystals: Crystals,
    points: int = POINTS,
    *,
    u_iso: float = U_ISO,
    shift: tuple[float, ...] = (0.0, 0.0, 0.0),
) -> Float[Tensor, "crystals points points points"]:
    """Promolecule density (e/Å³) at the fractional coordinates i / points + shift.

    ``u_iso`` (Å²) is the displacement parameter of all atoms.
    """
    _check_room(len(crystals), points)
    density = crystals.lattice.new_zeros(len(crystals), points, points, points)
    for chosen, series in _series(crystals, u_iso):
        place = crystals.lattice.new_tensor(shift)
        turn = -2 * torch.pi * (series.hkl.to(place) @ place)
        terms = series.terms * torch.polar(torch.ones_like(turn), turn)
        density[chosen] = synthesis(series.hkl, terms, points)
    return density


def synthesis(
    hkl: Int[Tensor, "crystals terms 3"],
    terms: Complex[Tensor, "crystals terms"],
    points: int = POINTS,
) -> Float[Tensor, "crystals points points points"]:
    """Real part of Σ terms exp(-2πi h·x) at the fractional coordinates i / points, by FFT.

    Over half a sphere of reflections terms are 2 F(h) / V, and F(000) / V.
    """
    _check_room(len(hkl), points)
    folded = torch.remainder(hkl, points)
    index = (folded[..., 0] * points + folded[..., 1]) * points + folded[..., 2]
    box = terms.new_zeros(len(hkl), points**3).scatter_add_(1, index, terms)
    return torch.fft.fftn(box.view(-1, *[points] * 3), dim=(1, 2, 3)).real


def at_points(
    crystals: Crystals, places: Float[Tensor, "places 3"], *, u_iso: float = U_ISO
) -> Float[Tensor, "crystals places"]:
    """The same density (e/Å³) at any fractional coordinates, by direct summation."""
    density = crystals.lattice.new_zeros(len(crystals), len(places))
    for chosen, series in _series(crystals, u_iso):
        for some in torch.arange(len(places)).split(256):
            turn = -2 * torch.pi * (series.hkl.to(places) @ places[some].T)
            wave = torch.polar(torch.ones_like(turn), turn)
            density[chosen[:, None], some] = (series.terms[..., None] * wave).real.sum(1)
    return density


def _series(
    crystals: Crystals, u_iso: float
) -> Iterator[tuple[Int[Tensor, " chosen"], _Series]]:
    """The Fourier terms of blocks of crystals, small enough for the cache."""
    if not 0 <= u_iso < torch.inf:
        raise ValueError(f"a displacement parameter of {u_iso:g} Å²; give 0 or more")
    smeared = replace(crystals, u_iso=torch.full_like(crystals.u_iso, u_iso))
    total = electrons(crystals)
    room = crystals.volume * (Q_MAX**3 / (12 * torch.pi**2)) + 8
    for chosen, block in cache_blocks(smeared, room):
        found = reflections(block, Q_MAX)
        factors, _ = amplitudes(block, found.hkl, None)
        factors = torch.cat([total[chosen, None] / 2 + 0j, factors], 1)
        weight = torch.nn.functional.pad(found.multiplicity, (1, 0), value=2)
        volume = torch.linalg.det(block.lattice).abs()
        hkl = torch.nn.functional.pad(found.hkl, (0, 0, 1, 0))
        yield chosen, _Series(hkl, factors * (weight / volume[:, None]))


def electrons(crystals: Crystals) -> Float[Tensor, " crystals"]:
    """Electrons of each cell, F(000): the sum of form factors at s = 0."""
    a, _, c = (table.to(crystals.frac) for table in form_factor_tables())
    each = crystals.occupancy * (a.sum(-1) + c)[crystals.numbers]
    return each.new_zeros(len(crystals)).index_add_(0, crystals.owner, each)


def atom_height(
    numbers: Int[Tensor, "*atoms"], u_iso: float = U_ISO
) -> Float[Tensor, "*atoms"]:
    """Density (e/Å³) in the centre of single atoms, smeared by U (Å²)."""
    a, b, c = (table[numbers] for table in form_factor_tables())
    smeared = 8 * torch.pi**2 * u_iso
    peaks = a * (4 * torch.pi / (b + smeared)) ** 1.5
    return peaks.sum(-1) + c * (4 * torch.pi / smeared) ** 1.5


def _check_room(crystals: int, points: int) -> None:
    """Refuse grids that are none, or take too much memory."""
    if not isinstance(points, Integral) or not 1 <= points <= FINEST:
        raise ValueError(
            f"a grid of {points!r} points along each axis; give a number of 1–{FINEST}, "
            "or ask at points"
        )
    if crystals * points**3 > ROOM:
        raise ValueError(
            f"{crystals} grids of {points}³ points are {crystals * points**3:,} values, "
            f"more than {ROOM:,}; take fewer crystals at once, or a coarser grid"
        )


def read_density(path: str | Path, crystal: Crystals | None = None) -> DensityGrid:
    """A density (e/Å³) from a CHGCAR or cube file; ``crystal`` is whose cell it must have.

    A cube file is known by its ending .cube. Values of a CHGCAR are divided by the volume;
    those of a cube file are taken as e/bohr³. Spin densities are left out.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path} is no file; give a CHGCAR or cube file")
    if path.stat().st_size > LARGEST:
        raise ValueError(
            f"{path} has {path.stat().st_size >> 20} MB, at most {LARGEST >> 20} MB are "
            "read; write the density on a coarser grid"
        )
    found, unit = _volumetric(path)
    values = np.asarray(found.data["total"], dtype=float) * unit
    if values.ndim != 3 or max(values.shape) > FINEST:
        raise ValueError(
            f"{path} holds {' × '.join(map(str, values.shape))} points; at most {FINEST} "
            "along each axis are read"
        )
    if not np.isfinite(values).all():
        raise ValueError(f"{path} holds values that are no numbers; write it anew")
    lattice = np.array(found.structure.lattice.matrix)
    if crystal is not None:
        _check_cell(path, lattice, crystal.lattice[0].double().numpy())
    return DensityGrid(lattice, values)


def _volumetric(path: Path) -> "tuple[VolumetricData, float]":
    """What pymatgen reads of a file, and the factor that gives e/Å³."""
    from pymatgen.io.common import VolumetricData
    from pymatgen.io.vasp import Chgcar

    try:
        if path.suffix.lower() == ".cube":
            return VolumetricData.from_cube(str(path)), BOHR**-3
        found = Chgcar.from_file(str(path))
        return found, 1 / found.structure.volume
    except Exception as error:  # pymatgen raises whatever a broken file makes it stumble on
        raise ValueError(
            f"{path} is truncated or no CHGCAR or cube file ({error}); fetch it again"
        ) from error


def _check_cell(
    path: Path, own: Float[np.ndarray, "3 3"], asked: Float[np.ndarray, "3 3"]
) -> None:
    """Refuse a density of another cell, or of the same in another setting."""
    metrics = [rows @ rows.T for rows in (own, asked)]
    if np.abs(metrics[0] - metrics[1]).max() > OTHER_CELL * np.trace(metrics[1]) / 3:
        edges = [" ".join(f"{v:.3f}" for v in np.sqrt(np.diag(m))) for m in metrics]
        raise ValueError(
            f"{path} has a cell of edges {edges[0]} Å, the crystal {edges[1]} Å; give the "
            "density of this crystal, in the same setting"
        )
