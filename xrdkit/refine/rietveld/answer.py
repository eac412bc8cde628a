"""A parameter table -> structures and phases in the reference setting."""

from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Float, Int

from xrdkit.crystal import cell_basis, coordinate_basis
from xrdkit.refine.known import density
from xrdkit.refine.rietveld.asymmetric import AsymmetricUnit, orbit
from xrdkit.refine.rietveld.metric import CELL
from xrdkit.refine.rietveld.start import prefix_of
from xrdkit.refine.rietveld.table import Parameters
from xrdkit.types import Crystals, Phase, Symmetry

if TYPE_CHECKING:
    from pymatgen.core import Structure


def lattice_of(table: Parameters, phase: int) -> Float[np.ndarray, "3 3"]:
    """Lattice rows a, b, c in Å of a phase."""
    from pymatgen.core import Lattice

    prefix = prefix_of(table.units, phase)
    return Lattice.from_parameters(*(table[prefix + name].value for name in CELL)).matrix


def atoms_of(
    table: Parameters, phase: int
) -> tuple[Int[np.ndarray, " atoms"], Float[np.ndarray, "atoms 3"]]:
    """Site and fractional coordinates of every atom in the conventional cell."""
    unit, prefix = table.units[phase], prefix_of(table.units, phase)
    owner, places = [], []
    for i, site in enumerate(unit.sites):
        frac = np.array([table[f"{prefix}{k}:{site.label}"].value for k in "xyz"])
        images = orbit(frac, unit.rotations, unit.translations, site.frac)
        owner += [i] * len(images)
        places.append(images)
    return np.array(owner, int), np.concatenate(places or [np.zeros((0, 3))])


def site_values(table: Parameters, phase: int, kind: str) -> Float[np.ndarray, " sites"]:
    """``u`` (Å²) or ``occupancy`` of every site."""
    prefix = prefix_of(table.units, phase)
    labels = [site.label for site in table.units[phase].sites]
    return np.array([table[f"{prefix}{kind}:{label}"].value for label in labels])


def structure_of(table: Parameters, phase: int) -> "Structure":
    """The conventional cell; sites have ``label`` and ``u_iso``, species of one joined."""
    from pymatgen.core import Structure

    unit = table.units[phase]
    owner, frac = atoms_of(table, phase)
    u, occupancy = (site_values(table, phase, k) for k in ("u", "occupancy"))
    if not unit.sites:
        return Structure(lattice_of(table, phase), [], [])
    species, places, labels, displacements = [], [], [], []
    for first in sorted({site.place for site in unit.sites}):
        rows = [i for i, site in enumerate(unit.sites) if site.place == first]
        own = {unit.sites[i].element: float(np.clip(occupancy[i], 0, 1)) for i in rows}
        total = max(sum(own.values()), 1.0)
        for place in frac[owner == rows[0]]:
            species.append({e: n / total for e, n in own.items()})
            places.append(place)
            labels.append(unit.sites[rows[0]].label)
            displacements.append(float(u[rows[0]]))
    return Structure(
        lattice_of(table, phase), species, places,
        site_properties={"u_iso": displacements}, labels=labels,
    )  # fmt: skip


def phases_of(table: Parameters) -> tuple[Phase, ...]:
    """All phases with scale, weight fraction and texture."""
    found = []
    for i, unit in enumerate(table.units):
        prefix = prefix_of(table.units, i)
        axis = table.texture if i == 0 else None
        texture = None if axis is None else (axis, table[f"{prefix}texture"].value)
        scale = table[f"{prefix}scale"].value
        crystal = crystal_of(table, i)
        symmetry = symmetry_of(unit, tuple(crystal.numbers.tolist()))
        found.append(Phase(crystal, symmetry, scale, 1.0, texture, unit.name))
    masses = [p.scale * density(p) if p.crystal.numbers.numel() else 0.0 for p in found]
    total = sum(masses) or 1.0
    return tuple(
        Phase(p.crystal, p.symmetry, p.scale, mass / total, p.texture, p.name)
        for p, mass in zip(found, masses, strict=True)
    )


def crystal_of(table: Parameters, phase: int) -> Crystals:
    """The conventional cell of a phase as a batch of one."""
    unit = table.units[phase]
    owner, frac = atoms_of(table, phase)
    numbers = np.array([site.number for site in unit.sites], int)
    return Crystals(
        torch.tensor(lattice_of(table, phase)).float()[None],
        torch.tensor(frac).float().reshape(-1, 3),
        torch.tensor(numbers[owner], dtype=torch.long),
        torch.tensor(site_values(table, phase, "occupancy")[owner]).float(),
        torch.tensor(site_values(table, phase, "u")[owner]).float(),
        torch.zeros(len(owner), dtype=torch.long),
    )


@lru_cache(maxsize=16)
def _symmetry(number: int, cell: tuple[float, ...], key: tuple, frac: bytes) -> Symmetry:
    from pymatgen.core import Lattice

    from xrdkit.refine.rietveld.asymmetric import reference_operations

    rotations, translations = reference_operations(number)
    numbers = np.array(key, int)
    places = np.frombuffer(frac).reshape(-1, 3)
    lattice = Lattice.from_parameters(*cell).matrix
    basis = np.zeros((0, 0))
    if len(numbers):
        basis = coordinate_basis(rotations, translations, places, numbers)
    return Symmetry(
        number,
        torch.as_tensor(rotations),
        torch.as_tensor(translations).float(),
        torch.as_tensor(cell_basis(rotations, lattice)).float(),
        torch.as_tensor(basis).float(),
    )


def symmetry_of(unit: AsymmetricUnit, numbers: tuple[int, ...]) -> Symmetry:
    """Operations and bases of a unit in its conventional cell, atoms as ``crystal_of``."""
    images = [orbit(s.frac, unit.rotations, unit.translations) for s in unit.sites]
    places = np.concatenate(images or [np.zeros((0, 3))])
    return _symmetry(unit.space_group, unit.cell, numbers, places.tobytes())
