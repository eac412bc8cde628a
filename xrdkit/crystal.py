"""CIF and pymatgen <-> Crystals; standard cells and symmetry, through spglib."""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Float, Int

from xrdkit.space_group import CENTRING, operations, quiet_spglib, reference_hall
from xrdkit.types import Crystals, Symmetry

if TYPE_CHECKING:
    from pymatgen.core import Composition, Element, Structure
    from spglib import SpglibDataset

U_ISO = 0.006  # Å², a usual value for inorganic solids at room temperature
FULL = 1.001  # of a site: what rounding of shares may give


@dataclass(frozen=True)
class StandardCell:
    """The idealised primitive cell of spglib's standard setting, atom by atom."""

    space_group: int
    lattice: Float[np.ndarray, "3 3"]
    frac: Float[np.ndarray, "atoms 3"]
    numbers: Int[np.ndarray, " atoms"]
    orbit: Int[np.ndarray, " atoms"]
    wyckoff: str  # one letter per atom


def from_structures(structures: "list[Structure]") -> Crystals:
    """A flat batch of pymatgen Structures, disordered sites as several rows."""
    for structure in structures:
        _check(structure)
    rows = []
    for owner, structure in enumerate(structures):
        for site in structure:
            u = site.properties.get("u_iso") or U_ISO
            for species, occupancy in site.species.items():
                rows.append((owner, species.Z, occupancy, u, *np.mod(site.frac_coords, 1)))
    table = np.array(rows, dtype=float).reshape(-1, 7)
    return Crystals(
        torch.tensor(np.array([s.lattice.matrix for s in structures])).float(),
        torch.tensor(table[:, 4:]).float(),
        torch.tensor(table[:, 1]).long(),
        torch.tensor(table[:, 2]).float(),
        torch.tensor(table[:, 3]).float(),
        torch.tensor(table[:, 0]).long(),
    )


def _check(structure: "Structure") -> None:
    """Refuse what is no crystal of known elements at known places."""
    from pymatgen.core import DummySpecies

    name = structure.composition.formula
    _check_finite(structure.lattice.matrix, structure.frac_coords, name)
    dummies = [s for s in structure.composition if isinstance(s, DummySpecies)]
    if dummies:
        raise ValueError(
            f"{dummies[0]} in {name} is no element; replace it or leave it out"
        )


def _check_finite(
    lattice: Float[np.ndarray, "3 3"], frac: Float[np.ndarray, "atoms 3"], name: str
) -> None:
    """Refuse a cell or coordinates that are not numbers: spglib would crash on them."""
    if not (np.isfinite(lattice).all() and np.isfinite(frac).all()):
        raise ValueError(
            f"the cell or a coordinate of {name} is NaN or infinite; correct its numbers"
        )


def one_crystal(
    lattice: Float[np.ndarray, "3 3"],
    frac: Float[np.ndarray, "atoms 3"],
    numbers: Int[np.ndarray, " atoms"],
    occupancy: Float[np.ndarray, " atoms"] | None = None,
) -> Crystals:
    """A crystal as a batch of one, with usual displacement parameters; sites full."""
    n = len(frac)
    return Crystals(
        torch.tensor(lattice, dtype=torch.float32)[None],
        torch.tensor(frac, dtype=torch.float32),
        torch.tensor(numbers, dtype=torch.long),
        torch.ones(n) if occupancy is None else torch.tensor(occupancy).float(),
        torch.full((n,), U_ISO),
        torch.zeros(n, dtype=torch.long),
    )


def joined(batches: Sequence[Crystals]) -> Crystals:
    """Several batches of crystals, one or more, as one, in their order."""
    names = [field.name for field in fields(Crystals)]
    parts = {n: torch.cat([getattr(batch, n) for batch in batches]) for n in names}
    many = parts["owner"].new_tensor([len(batch) for batch in batches])
    rows = many.new_tensor([len(batch.owner) for batch in batches])
    before = (many.cumsum(0) - many).repeat_interleave(rows)
    return Crystals(**{**parts, "owner": parts["owner"] + before})


def to_structure(crystals: Crystals, index: int = 0) -> "Structure":
    """One crystal of a batch as a pymatgen Structure; species on one place share a site.

    As far as it holds them: whole atoms on one place, as a flow may draw them, have sites
    of their own.
    """
    from pymatgen.core import Element, Structure

    rows = torch.nonzero(crystals.owner == index).flatten()
    sites: dict[tuple, dict] = {}
    for row in rows.tolist():
        place = tuple(np.round(crystals.frac[row].tolist(), 6))
        element = Element.from_Z(int(crystals.numbers[row]))
        occupancy = round(float(crystals.occupancy[row]), 6)
        held = (sum(sites.get((place, k), {}).values()) for k in range(len(rows)))
        layer = next(k for k, n in enumerate(held) if min(n, occupancy) * FULL < 1)
        species = sites.setdefault((place, layer), {})
        species[element] = species.get(element, 0) + occupancy
    species = [_full_at_most(shares) for shares in sites.values()]
    at = [place for place, _ in sites]
    return Structure(crystals.lattice[index].double().numpy(), species, at)


def _full_at_most(species: "dict[Element, float]") -> "dict[Element, float]":
    """Shares of a site without what rounding puts above one (0.1 % and more is left)."""
    total = sum(species.values())
    return {e: n / total for e, n in species.items()} if 1 < total < FULL else species


def read_cif(path: str) -> "Structure":
    """The first structure of a CIF file."""
    from pymatgen.core import Structure

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            structure = Structure.from_file(path)
            _check_finite(structure.lattice.matrix, structure.frac_coords, path)
        except FileNotFoundError:
            raise
        except Exception as error:
            raise ValueError(
                f"{path} is not a CIF with a structure ({error}); "
                "give a file with a cell and atom sites"
            ) from error
    return structure


def symmetry_dataset(cell: tuple, symprec: float, hall: int = 0) -> "SpglibDataset | None":
    """spglib's symmetry of (lattice, positions, numbers), None where it finds none.

    The standard cell is that of Hall number ``hall``; of the default setting for 0.
    """
    lattice, positions, _ = cell
    _check_finite(np.asarray(lattice), np.asarray(positions), "the structure")
    with quiet_spglib() as spglib:
        try:
            return spglib.get_symmetry_dataset(cell, symprec=symprec, hall_number=hall)
        except spglib.SpglibError:
            return None


def reference_dataset(cell: tuple, symprec: float = 0.1) -> "SpglibDataset | None":
    """spglib's symmetry of (lattice, positions, numbers) in the reference setting.

    Where the tolerance is too wide for a consistent answer, narrower ones are tried.
    """
    for tolerance in (symprec, symprec / 5, symprec / 100):
        found = symmetry_dataset(cell, tolerance)
        if found is not None and found.hall_number != reference_hall(found.number):
            found = symmetry_dataset(cell, tolerance, reference_hall(found.number))
        if found is not None and _consistent(found):
            return found
    return None


def _consistent(found: "SpglibDataset") -> bool:
    """Whether the given and the standard cell reduce to as many atoms."""
    return bool(found.mapping_to_primitive.max() == found.std_mapping_to_primitive.max())


def standard_cell(
    lattice: Float[np.ndarray, "3 3"],
    frac: Float[np.ndarray, "atoms 3"],
    numbers: Int[np.ndarray, " atoms"],
    symprec: float = 0.1,
) -> StandardCell | None:
    """The idealised standard primitive cell, or None where spglib finds no symmetry.

    Where the tolerance (Å) is too wide for a consistent answer, narrower ones are tried.
    """
    for tolerance in (symprec, symprec / 5, symprec / 100):
        found = symmetry_dataset((lattice, frac, numbers), tolerance)
        if found is not None:
            break
    else:
        return None
    rows = CENTRING[found.international[0]]
    standard = np.unique(found.std_mapping_to_primitive, return_index=True)[1]
    given = np.unique(found.mapping_to_primitive, return_index=True)[1]
    if len(standard) != len(given):
        return None
    primitive = found.std_positions[standard] @ np.linalg.inv(rows)
    orbits = np.unique(found.crystallographic_orbits[given], return_inverse=True)[1]
    return StandardCell(
        int(found.number),
        rows @ found.std_lattice,
        np.mod(np.mod(primitive, 1), 1),
        found.std_types[standard],
        orbits,
        "".join(found.wyckoffs[i] for i in given),
    )


def symmetry_of(
    space_group: int,
    lattice: Float[np.ndarray, "3 3"],
    frac: Float[np.ndarray, "atoms 3"],
    numbers: Int[np.ndarray, " atoms"],
) -> Symmetry:
    """Operations and the linear bases that keep them, for a standard primitive cell."""
    rotations, translations = operations(space_group)
    return Symmetry(
        space_group,
        torch.as_tensor(rotations),
        torch.as_tensor(translations).float(),
        torch.as_tensor(cell_basis(rotations, lattice)).float(),
        torch.as_tensor(coordinate_basis(rotations, translations, frac, numbers)).float(),
    )


def cell_basis(
    rotations: Int[np.ndarray, "operations 3 3"], lattice: Float[np.ndarray, "3 3"]
) -> Float[np.ndarray, "6 strains"]:
    """Symmetric strains (xx, yy, zz, yz, xz, xy) that every rotation leaves unchanged."""
    cartesian = lattice.T @ rotations @ np.linalg.inv(lattice.T)
    pairs = [(0, 0), (1, 1), (2, 2), (1, 2), (0, 2), (0, 1)]
    units = np.zeros((6, 3, 3))
    for unit, (i, j) in zip(units, pairs, strict=True):
        unit[i, j] = unit[j, i] = 1
    mean = np.einsum("gij,sjk,glk->sil", cartesian, units, cartesian) / len(rotations)
    projector = np.array([[m[i, j] for m in mean] for i, j in pairs])
    u, s, _ = np.linalg.svd(projector)
    return u[:, s > 0.5]


def kept_strain(
    strain: Float[np.ndarray, "3 3"],
    rotations: Int[np.ndarray, "operations 3 3"],
    lattice: Float[np.ndarray, "3 3"],
) -> Float[np.ndarray, "3 3"]:
    """The part of a symmetric strain that every rotation leaves unchanged."""
    cartesian = lattice.T @ rotations @ np.linalg.inv(lattice.T)
    return np.einsum("gij,jk,glk->il", cartesian, strain, cartesian) / len(rotations)


def images_of(
    rotations: Int[np.ndarray, "operations 3 3"],
    translations: Float[np.ndarray, "operations 3"],
    frac: Float[np.ndarray, "atoms 3"],
    numbers: Int[np.ndarray, " atoms"],
) -> Int[np.ndarray, "operations atoms"]:
    """Which atom every operation moves each atom onto."""
    moved = np.einsum("gij,nj->gni", rotations, frac) + translations[:, None]
    delta = moved[:, :, None] - frac
    delta -= np.rint(delta)
    return ((delta**2).sum(-1) + (numbers[:, None] != numbers)).argmin(-1)


def orbits(
    rotations: Int[np.ndarray, "operations 3 3"],
    translations: Float[np.ndarray, "operations 3"],
    frac: Float[np.ndarray, "atoms 3"],
    numbers: Int[np.ndarray, " atoms"],
) -> Int[np.ndarray, " atoms"]:
    """The orbit of each atom, named by its first atom."""
    return images_of(rotations, translations, frac, numbers).min(0)


def coordinate_basis(
    rotations: Int[np.ndarray, "operations 3 3"],
    translations: Float[np.ndarray, "operations 3"],
    frac: Float[np.ndarray, "atoms 3"],
    numbers: Int[np.ndarray, " atoms"],
) -> Float[np.ndarray, "coordinates shifts"]:
    """Displacements that keep the space group, without the shift of the whole crystal.

    Rows on one place are species of a mixed site and move together.
    """
    first, site = places(frac)
    basis = site_basis(rotations, translations, frac[first], numbers[first])
    return basis.reshape(len(first), 3, -1)[site].reshape(3 * len(frac), -1)


def covalent_radii(structure: "Structure") -> Float[np.ndarray, " sites"]:
    """Covalent radius of every site in Å, the mean over the species of a mixed one."""
    from pymatgen.analysis.local_env import CovalentRadius

    radii = []
    for site in structure:
        shares = [
            (CovalentRadius.radius.get(s.symbol, 1.5), n) for s, n in site.species.items()
        ]
        radii.append(sum(r * n for r, n in shares) / sum(n for _, n in shares))
    return np.array(radii)


def places(
    frac: Float[np.ndarray, "atoms 3"],
) -> tuple[Int[np.ndarray, " sites"], Int[np.ndarray, " atoms"]]:
    """The first row on every distinct place, and the place of each row."""
    apart = frac[:, None] - frac
    same = (np.abs(apart - np.rint(apart)) < 1e-4).all(-1).argmax(1)
    return np.unique(same, return_inverse=True)


def site_basis(
    rotations: Int[np.ndarray, "operations 3 3"],
    translations: Float[np.ndarray, "operations 3"],
    frac: Float[np.ndarray, "atoms 3"],
    numbers: Int[np.ndarray, " atoms"],
) -> Float[np.ndarray, "coordinates shifts"]:
    """``coordinate_basis`` of atoms that have a place each."""
    n = len(frac)
    target = images_of(rotations, translations, frac, numbers)
    columns, done = [], np.zeros(n, bool)
    for atom in range(n):
        if done[atom]:
            continue
        done[target[:, atom]] = True
        stabiliser = rotations[target[:, atom] == atom].mean(0)
        u, s, _ = np.linalg.svd(stabiliser)
        for direction in (stabiliser @ u[:, s > 0.5]).T:
            column = np.zeros((n, 3))
            column[target[:, atom]] = rotations @ direction
            columns.append(column.ravel())
    if not columns:
        return np.zeros((3 * n, 0))
    return _without_translation(np.array(columns).T, rotations)


def _without_translation(
    basis: Float[np.ndarray, "coordinates shifts"],
    rotations: Int[np.ndarray, "operations 3 3"],
) -> Float[np.ndarray, "coordinates fewer"]:
    """The basis less the directions in which a polar group lets the whole crystal slide."""
    n = len(basis) // 3
    u, s, _ = np.linalg.svd(rotations.mean(0))
    slide = np.tile(u[:, s > 0.5].T, (1, n)).T if (s > 0.5).any() else np.zeros((3 * n, 0))
    if not slide.shape[1]:
        return basis / np.linalg.norm(basis, axis=0)
    frame = np.linalg.qr(slide)[0]
    rest = basis - frame @ (frame.T @ basis)
    u, s, _ = np.linalg.svd(rest, full_matrices=False)
    return u[:, s > 1e-6 * max(s.max(), 1)]


def conventional(
    structure: "Structure", symprec: float = 0.1
) -> tuple["Structure", int, str, str]:
    """Standard conventional cell, space group number and symbol, and Wyckoff sites.

    Sites read "Ti 2a, O 4f", mixed ones "La0.7Sr0.3 1a". A structure whose symmetry is not
    found stays as it is, in P1.
    """
    from pymatgen.core import Structure

    cell, kinds = spglib_cell(structure)
    found = symmetry_dataset(cell, symprec)
    if found is None:
        return structure, 1, "P1", ""
    standard = Structure(
        found.std_lattice,
        [kinds[label] for label in found.std_types],
        np.mod(found.std_positions, 1),
    )
    ratio = len(found.std_types) / len(structure)
    sites: dict[tuple, int] = {}
    for orbit, letter, label in zip(
        found.crystallographic_orbits, found.wyckoffs, cell[2], strict=True
    ):
        key = (orbit, letter, species_text(kinds[label]))
        sites[key] = sites.get(key, 0) + 1
    text = ", ".join(f"{e} {round(n * ratio)}{w}" for (_, w, e), n in sites.items())
    return standard, int(found.number), found.international, text


def spglib_cell(structure: "Structure") -> "tuple[tuple, list[Composition]]":
    """Lattice, positions and kinds of a structure for spglib; and what each kind is."""
    kinds = list(dict.fromkeys(site.species for site in structure))
    labels = [kinds.index(site.species) for site in structure]
    return (structure.lattice.matrix, structure.frac_coords, labels), kinds


def species_text(species: "Composition") -> str:
    """What is on a site, with its shares where they are not one: "Ti", "La0.7Sr0.3"."""
    return "".join(e.symbol + ("" if n == 1 else f"{n:.3g}") for e, n in species.items())
