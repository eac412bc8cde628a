"""Known compounds as crystals: from CIF files, a list of common ones, and the library."""

from functools import cache
from itertools import permutations
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Int

from xrdkit.cell import lattice_of
from xrdkit.crystal import (
    cell_basis,
    from_structures,
    one_crystal,
    read_cif,
    standard_cell,
)
from xrdkit.library import (
    Library,
    expected_volume,
    formula_hash,
    mendeleev_numbers,
    type_swelling,
)
from xrdkit.problem import MAX_ATOMS
from xrdkit.space_group import (
    CENTRING,
    centring_letter,
    default_hall,
    operations,
    space_group_types,
)
from xrdkit.types import Candidate, Crystals, Symmetry

if TYPE_CHECKING:
    from pymatgen.core import Structure

CIF_BYTES = 2_000_000
LARGEST = 20_000  # Å³, cell of a phase: its lines are counted by the volume
SYMPREC = 0.01  # Å
GIVEN, TYPE = 0.02, 0.055  # largest relative error of the edges of a cell, and of a type's

# Sample holders and standards: space group, a, c (Å), sites; the first origin choice.
# fmt: off
COMMON = {
    "Al": (225, 4.0495, None, [("Al", 0, 0, 0)]),
    "Si": (227, 5.4312, None, [("Si", 0, 0, 0)]),
    "NaCl": (225, 5.6402, None, [("Na", 0, 0, 0), ("Cl", .5, .5, .5)]),
    "LaB6": (221, 4.1568, None, [("La", 0, 0, 0), ("B", .1993, .5, .5)]),
    "Al2O3": (167, 4.7592, 12.992, [("Al", 0, 0, .3522), ("O", .3063, 0, .25)]),
    "SiO2": (152, 4.9134, 5.4052, [("Si", .4697, 0, 1/3), ("O", .4133, .2672, .2144)]),
}
# fmt: on


def read_structure(path: str | Path) -> "Structure":
    """The structure of a CIF file of at most 2 MB."""
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(
            f"there is no file {path}; give a CIF file or a formula such as Al2O3"
        )
    size = path.stat().st_size
    if size > CIF_BYTES:
        raise ValueError(
            f"{path} has {size:,} bytes; give a CIF file of at most {CIF_BYTES:,}"
        )
    return read_cif(str(path))


def candidate_of(structure: "Structure", origin: str) -> Candidate:
    """A structure, maybe with mixed sites, in its standard primitive cell.

    Its symmetry leaves atoms where they are: only the cell is to be refined.
    """
    from pymatgen.core import Structure

    if len(structure) > 8 * MAX_ATOMS:
        raise ValueError(
            f"{origin} has {len(structure):,} sites in its cell, at most {8 * MAX_ATOMS:,} "
            "are looked at; leave it out"
        )
    if structure.volume > LARGEST:
        raise ValueError(
            f"{origin} has a cell of {structure.volume:,.0f} Å³, at most {LARGEST:,} Å³ "
            "are looked at; leave it out"
        )
    kinds = sorted({site.species_string for site in structure})
    labels = np.array([kinds.index(site.species_string) + 1 for site in structure])
    lattice, frac = structure.lattice.matrix, structure.frac_coords
    cell = standard_cell(lattice, frac, labels, SYMPREC)
    if cell is None:
        raise ValueError(f"{origin}: no symmetry is found; check its cell and sites")
    if len(cell.frac) > MAX_ATOMS:
        raise ValueError(
            f"{origin} has {len(cell.frac)} atoms in its primitive cell; "
            f"at most {MAX_ATOMS}"
        )
    first = [int(np.argmax(labels == k + 1)) for k in range(len(kinds))]
    species = [structure[first[k - 1]].species for k in cell.numbers]
    crystal = from_structures([Structure(cell.lattice, species, cell.frac)])
    if int(crystal.numbers.max()) > 98:
        raise ValueError(f"{origin} has elements beyond Z = 98; leave it out")
    return Candidate(crystal, rigid_symmetry(cell.space_group, crystal), origin)


def rigid_symmetry(number: int, crystal: Crystals) -> Symmetry:
    """The symmetry of a standard primitive cell whose atoms are not to move in it."""
    rotations, translations = operations(number)
    basis = cell_basis(rotations, crystal.lattice[0].double().numpy())
    return Symmetry(
        number,
        torch.as_tensor(rotations),
        torch.as_tensor(translations).float(),
        torch.as_tensor(basis).float(),
        torch.zeros(3 * len(crystal.numbers), 0),
    )


def type_name(formula: str, number: int) -> str:
    """How a phase is named: "TiO2 (P4_2/mnm type)"."""
    return f"{formula} ({space_group_types()[default_hall(number) - 1][1]} type)"


def reduced_name(contents: dict[int, int]) -> str:
    """Reduced formula of counts by atomic number."""
    from pymatgen.core import Composition, Element

    counts = {Element.from_Z(z): n for z, n in contents.items()}
    return Composition(counts).reduced_formula


@cache
def common_compounds() -> dict[str, Candidate]:
    """Sample holders and standards by reduced formula."""
    return {formula: _common(formula, *row) for formula, row in COMMON.items()}


def _common(
    formula: str, number: int, a: float, c: float | None, sites: list[tuple]
) -> Candidate:
    """A crystal from its space group, edges (Å) and sites in the conventional cell."""
    from pymatgen.core import Element

    rows = CENTRING[centring_letter(number)]
    edges = (a, a, c or a, 90.0, 90.0, 120.0 if c else 90.0)
    rotations, translations = operations(number)
    frac, numbers = [], []
    for element, *place in sites:
        images = rotations @ (np.array(place) @ np.linalg.inv(rows)) + translations
        images = np.mod(np.round(np.mod(images, 1), 4), 1)
        frac.append(np.unique(images, axis=0))
        numbers += [Element(element).Z] * len(frac[-1])
    crystal = one_crystal(rows @ lattice_of(edges), np.concatenate(frac), np.array(numbers))
    return Candidate(crystal, rigid_symmetry(number, crystal), type_name(formula, number))


def rows_of(library: Library, formula: str) -> Int[np.ndarray, " rows"]:
    """Rows of a library that hold this reduced formula."""
    rows = library.formula_of[library.formula == formula_hash(formula)]
    return np.intersect1d(rows, library.rows)


def compound(library: Library, row: int, contents: dict[int, int], name: str) -> Candidate:
    """A library row as crystal of these elements, the nearest filling of its slots.

    A member keeps its own cell where the elements are its own; else the volume is what
    the type and the elements let expect.
    """
    atoms, number = library.atoms(row), int(library.space_group[row])
    slot = library.slot[atoms]
    filling = _filling(library, row, contents)
    numbers = np.array(filling)[slot]
    lattice = library.lattice[row].astype(float)
    if tuple(library.elements[row][: len(filling)]) != filling:
        swelling = type_swelling(library, int(library.kind[row]), contents)
        volume = expected_volume(library, contents) * len(slot) * np.exp(swelling)
        lattice *= (volume / abs(np.linalg.det(lattice))) ** (1 / 3)
    crystal = one_crystal(lattice, library.frac[atoms].astype(float), numbers)
    return Candidate(crystal, rigid_symmetry(number, crystal), type_name(name, number))


def _filling(library: Library, row: int, contents: dict[int, int]) -> tuple[int, ...]:
    """Element of each slot so that the counts agree and natures are the most alike."""
    counts = np.bincount(library.slot[library.atoms(row)])
    times = counts.sum() / sum(contents.values())
    scale, nature = mendeleev_numbers(), library.nature[row][: len(counts)]
    fitting = [
        z
        for z in permutations(contents)
        if [contents[e] * times for e in z] == counts.tolist()
    ]
    return min(fitting, key=lambda z: float(np.abs(scale[list(z)] - nature).sum()))


def popular_types(library: Library, contents: dict[int, int]) -> list[int]:
    """A row of each type whose slots these elements fill, large types first."""
    atoms, slots = sum(contents.values()), library.elements.shape[1]
    if len(contents) > slots:
        return []
    wanted = np.zeros(slots)
    wanted[: len(contents)] = sorted(contents.values(), reverse=True)
    owner = np.repeat(np.arange(len(library.kind)), library.counts)
    table = np.zeros((len(library.kind), slots))
    np.add.at(table, (owner, library.slot), 1)
    share = -np.sort(-table, axis=1) / library.counts[:, None] * atoms
    same = np.isclose(share, wanted).all(1)
    rows = library.rows[same[library.rows]]
    firsts = rows[np.unique(library.kind[rows], return_index=True)[1]]
    size = library.type_size[library.kind[firsts]]
    return firsts[np.argsort(-size, kind="stable")].tolist()


def known_types(library: Library, formula: str) -> dict[int, str]:
    """The structure types in which a library knows a reduced formula, by their index.

    Values read "TiO2 (AB2 136 2a4f)".
    """
    kinds = np.unique(library.kind[rows_of(library, formula)]).tolist()
    return {kind: f"{formula} ({library.type_label[kind]})" for kind in kinds}
