from dataclasses import replace

import gemmi
import numpy as np
import pytest
import torch
from pymatgen.analysis.structure_matcher import StructureMatcher
from pymatgen.core import Lattice, Species, Structure
from pymatgen.symmetry.groups import SpaceGroup
from textbook import SITES, STRUCTURES, another_pose

from xrdkit.crystal import (
    U_ISO,
    conventional,
    from_structures,
    read_cif,
    standard_cell,
    symmetry_dataset,
    symmetry_of,
    to_structure,
)
from xrdkit.space_group import (
    CENTRING,
    centring_letter,
    operations,
    quiet_spglib,
    space_group_number,
)

FREE_EDGES_AND_ANGLES = {  # International Tables A, table 2.1.1.1
    "cubic": 1, "hexagonal": 2, "trigonal": 2, "tetragonal": 2, "orthorhombic": 3,
    "monoclinic": 4, "triclinic": 6,
}  # fmt: skip
EXACT = StructureMatcher(
    ltol=0.01, stol=0.01, angle_tol=0.5, scale=False, primitive_cell=True
)


def arrays(structure):
    frac, numbers = structure.frac_coords, np.array(structure.atomic_numbers)
    return structure.lattice.matrix.copy(), frac, numbers


def standard(structure, **settings):
    cell = standard_cell(*arrays(structure), **settings)
    return cell, Structure(cell.lattice, cell.numbers, cell.frac)


def found_group(lattice, frac, numbers, symprec=1e-4):
    with quiet_spglib() as spglib:
        found = spglib.get_symmetry_dataset((lattice, frac, numbers), symprec=symprec)
    return found.number


def test_operations_of_every_group_are_as_many_as_gemmi_says():
    for number in range(1, 231):
        group = gemmi.find_spacegroup_by_number(number).operations()
        rotations, translations = operations(number)
        assert len(rotations) == len(translations) == len(group.sym_ops), number
        assert len(np.unique(rotations.reshape(-1, 9), axis=0)) == len(rotations), number


def test_operations_are_closed_under_multiplication():
    for number in range(1, 231):
        rotations, translations = operations(number)
        both = np.einsum("aij,bjk->abik", rotations, rotations)
        shift = np.einsum("aij,bj->abi", rotations, translations) + translations[:, None]
        same = (both[:, :, None] == rotations).all((-1, -2))
        assert (same.sum(-1) == 1).all(), number
        apart = shift - translations[same.argmax(-1)]
        assert np.abs(apart - np.rint(apart)).max() < 1e-5, number


def test_centring_letters_are_gemmis():
    for number in range(1, 231):
        letter = gemmi.find_spacegroup_by_number(number).hm[0]
        assert centring_letter(number) == letter, number
        points = len(gemmi.find_spacegroup_by_number(number).operations().cen_ops)
        assert 1 / np.linalg.det(CENTRING[letter]) == pytest.approx(points)


def test_every_crystal_system_is_among_the_textbook_structures():
    systems = {
        SpaceGroup.from_int_number(group).crystal_system for group, *_ in SITES.values()
    }
    assert systems == set(FREE_EDGES_AND_ANGLES)
    assert len(SITES) >= 50


@pytest.mark.parametrize("name", SITES)
def test_standard_cell_is_primitive_and_the_same_structure(name):
    cell, structure = standard(STRUCTURES[name], symprec=0.01)
    assert cell.space_group == SITES[name][0]
    assert len(structure) == len(STRUCTURES[name].get_primitive_structure())
    assert EXACT.fit(structure, STRUCTURES[name])


def orbits(cell):
    """Element and size of every orbit; letters depend on the origin that spglib takes."""
    sizes = np.bincount(cell.orbit)
    return sorted((cell.numbers[cell.orbit == i][0], n) for i, n in enumerate(sizes))


@pytest.mark.parametrize("name", SITES)
def test_standard_cell_does_not_depend_on_the_pose(name):
    generator = np.random.default_rng(sum(map(ord, name)))
    one, expected = standard(STRUCTURES[name], symprec=0.01)
    for _ in range(2):
        other, structure = standard(another_pose(STRUCTURES[name], generator), symprec=0.01)
        assert other.space_group == one.space_group
        assert np.allclose(
            other.lattice @ other.lattice.T, one.lattice @ one.lattice.T, atol=1e-3
        )
        assert orbits(other) == orbits(one)
        assert EXACT.fit(structure, expected)


@pytest.mark.parametrize("name", SITES)
def test_operations_map_the_standard_cell_onto_itself(name):
    cell, _ = standard(STRUCTURES[name], symprec=0.01)
    rotations, translations = operations(cell.space_group)
    images = np.einsum("gij,nj->gni", rotations, cell.frac) + translations[:, None]
    delta = images[:, :, None] - cell.frac
    far = np.linalg.norm(delta - np.rint(delta), axis=-1)
    far[:, cell.numbers[:, None] != cell.numbers] = 1
    assert far.min(-1).max() < 1e-4
    cartesian = cell.lattice.T @ rotations @ np.linalg.inv(cell.lattice.T)
    assert np.allclose(cartesian @ cartesian.transpose(0, 2, 1), np.eye(3), atol=1e-6)


@pytest.mark.parametrize("name", SITES)
def test_free_cell_parameters_are_those_of_the_crystal_system(name):
    cell, _ = standard(STRUCTURES[name], symprec=0.01)
    symmetry = symmetry_of(cell.space_group, cell.lattice, cell.frac, cell.numbers)
    system = SpaceGroup.from_int_number(SITES[name][0]).crystal_system
    assert symmetry.cell_basis.shape == (6, FREE_EDGES_AND_ANGLES[system])
    assert torch.linalg.matrix_rank(symmetry.cell_basis) == symmetry.cell_basis.shape[1]


@pytest.mark.parametrize("name", SITES)
def test_strains_and_shifts_of_the_bases_keep_the_space_group(name):
    cell, _ = standard(STRUCTURES[name], symprec=0.01)
    symmetry = symmetry_of(cell.space_group, cell.lattice, cell.frac, cell.numbers)
    generator = np.random.default_rng(1)
    shifts, strains = symmetry.coordinate_basis.numpy(), symmetry.cell_basis.numpy()
    for _ in range(3):
        xx, yy, zz, yz, xz, xy = strains @ generator.normal(size=strains.shape[1])
        strain = np.array([[xx, xy, xz], [xy, yy, yz], [xz, yz, zz]])
        lattice = cell.lattice @ (np.eye(3) + 0.01 * strain)
        moved = (shifts @ generator.normal(size=shifts.shape[1])).reshape(-1, 3)
        assert (
            found_group(lattice, cell.frac + 0.01 * moved, cell.numbers) == SITES[name][0]
        )


# Free coordinates of the sites, by hand; in polar groups less the free origin.
# fmt: off
@pytest.mark.parametrize(("name", "free"), [
    ("NaCl", 0), ("CsCl", 0), ("CaF2", 0), ("Si", 0), ("SrTiO3", 0), ("TiO2", 1),
    ("FeS2", 1), ("MgAl2O4", 1), ("LaB6", 1), ("FeSi", 2), ("Al2O3", 2), ("SiO2", 4),
    ("PbO", 1), ("CaWO4", 3), ("CaTiO3", 7), ("ZrO2", 9), ("P-1", 9),
    ("ZnO", 1), ("PbTiO3", 3), ("LiNbO3", 4), ("KNbO3", 4), ("LiGaO2", 11), ("polar Cc", 4),
    ("polar P2_1", 5), ("P1", 3),
])
def test_free_coordinates_are_those_of_the_wyckoff_sites(name, free):
    cell, _ = standard(STRUCTURES[name], symprec=0.01)
    symmetry = symmetry_of(cell.space_group, cell.lattice, cell.frac, cell.numbers)
    assert symmetry.coordinate_basis.shape == (3 * len(cell.frac), free)
    assert free == 0 or torch.linalg.matrix_rank(symmetry.coordinate_basis) == free
# fmt: on


POLAR = ("ZnO", "PbTiO3", "LiNbO3", "KNbO3", "GeS2", "polar Cc", "P1")


@pytest.mark.parametrize("name", POLAR)
def test_no_mix_of_shifts_slides_a_polar_crystal_as_a_whole(name):
    cell, _ = standard(STRUCTURES[name], symprec=0.01)
    symmetry = symmetry_of(cell.space_group, cell.lattice, cell.frac, cell.numbers)
    basis = symmetry.coordinate_basis
    for axis in np.eye(3):
        slide = torch.tensor(np.tile(axis, len(cell.frac)), dtype=torch.float32)
        rest = slide - basis @ torch.linalg.lstsq(basis, slide).solution
        assert rest.norm() > 0.5 * slide.norm()


def test_atoms_on_special_positions_stay_where_they_are():
    cell, _ = standard(STRUCTURES["TiO2"])
    basis = symmetry_of(136, cell.lattice, cell.frac, cell.numbers).coordinate_basis
    moves = basis.reshape(6, 3)
    assert (moves[cell.numbers == 22].abs() < 1e-6).all()
    oxygen = moves[cell.numbers == 8]
    assert (oxygen[:, :2].abs() > 0.1).all()
    assert (oxygen[:, 2].abs() < 1e-6).all()


@pytest.mark.parametrize(
    ("name", "number", "symbol", "sites"),
    [
        ("TiO2", 136, "P4_2/mnm", "Ti 2a, O 4f"),
        ("NaCl", 225, "Fm-3m", "Na 4a, Cl 4b"),
        ("MgAl2O4", 227, "Fd-3m", "Mg 8a, Al 16d, O 32e"),
        ("Al2O3", 167, "R-3c", "Al 12c, O 18e"),
        ("CaTiO3", 62, "Pnma", "Ca 4c, Ti 4b, O 4c, O 8d"),
        ("ZrO2", 14, "P2_1/c", "Zr 4e, O 4e, O 4e"),
    ],
)
def test_conventional_names_group_and_sites_as_textbooks_do(name, number, symbol, sites):
    for given in (STRUCTURES[name], STRUCTURES[name].get_primitive_structure()):
        structure, *names = conventional(given)
        assert names[:2] == [number, symbol]
        assert sorted(names[2].split(", ")) == sorted(sites.split(", "))
        assert len(structure) == len(STRUCTURES[name])
        assert EXACT.fit(structure, given)


def test_conventional_leaves_a_structure_without_symmetry_as_it_is():
    overlap = Structure(Lattice.cubic(4), ["Na", "Na"], [[0, 0, 0], [0, 0, 1e-9]])
    assert conventional(overlap) == (overlap, 1, "P1", "")


def test_structures_come_back_from_a_batch():
    crystals = from_structures(list(STRUCTURES.values()))
    assert len(crystals) == len(STRUCTURES)
    for i, structure in enumerate(STRUCTURES.values()):
        back = to_structure(crystals, i)
        assert back.species == structure.species
        assert np.allclose(back.lattice.matrix, structure.lattice.matrix, atol=1e-5)
        assert (back.distance_matrix - structure.distance_matrix).max() < 1e-4


def test_disordered_sites_come_back_with_their_occupancies():
    sites = [{"Ca": 0.5, "Sr": 0.3}, {Species("O", -2): 1}]
    alloy = Structure(Lattice.cubic(5), sites, [[0, 0, 0], [0.5, 0.5, 0.5]])
    crystals = from_structures([STRUCTURES["NaCl"], alloy])
    assert crystals.counts.tolist() == [8, 3]
    assert crystals.u_iso.unique().tolist() == [pytest.approx(U_ISO)]
    back = to_structure(crystals, 1)
    assert len(back) == 2
    amounts = back[0].species.get_el_amt_dict()
    assert amounts == pytest.approx({"Ca": 0.5, "Sr": 0.3})
    assert back[1].specie.symbol == "O"


def test_whole_atoms_on_one_place_have_sites_of_their_own():
    overlap = Structure(Lattice.cubic(4), ["Na", "Na", "Cl"], [[0, 0, 0]] * 2 + [[0.5] * 3])
    back = to_structure(from_structures([overlap]))
    assert back.composition == overlap.composition
    assert len(back) == 3
    over = from_structures([overlap])
    over = replace(over, occupancy=torch.tensor([0.7, 0.7, 1.0]))  # no whole atoms
    with pytest.raises(ValueError, match="sum to more than 1"):
        to_structure(over)


def test_displacement_parameters_of_sites_are_kept():
    given = [0.01] * 4 + [0.02] * 4
    structure = STRUCTURES["NaCl"].copy(site_properties={"u_iso": given})
    assert from_structures([structure]).u_iso.tolist() == pytest.approx(given)


def test_cif_of_pymatgen_reads_as_the_same_structure(tmp_path):
    path = tmp_path / "rutile.cif"
    path.write_text(STRUCTURES["TiO2"].to(fmt="cif", symprec=0.01))
    assert EXACT.fit(read_cif(str(path)), STRUCTURES["TiO2"])


@pytest.mark.parametrize("text", ["", "not a CIF", "data_x\n_cell_length_a 4\n", "\0\1"])
def test_file_that_is_not_a_cif_says_so(tmp_path, text):
    path = tmp_path / "bad.cif"
    path.write_text(text)
    with pytest.raises(ValueError, match=r"bad\.cif is not a CIF with a structure"):
        read_cif(str(path))


def test_missing_cif_is_a_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError):
        read_cif(str(tmp_path / "none.cif"))


@pytest.mark.parametrize(
    ("name", "number"),
    [
        (136, 136), ("136", 136), ("P4_2/mnm", 136), ("P42/mnm", 136), ("P 42/m n m", 136),
        ("Fm-3m", 225), ("F m -3 m", 225), ("fm-3m", 225), ("P1", 1), ("P-1", 2),
        ("R-3c", 167), ("P2_1/c", 14), ("P21/n", 14), ("C2/c", 15),
        ("I41/amd", 141), ("Pbnm", 62),
        ("R -3 m :H", 166), ("R-3m:R", 166), ("Fd-3m:2", 227), ("C m c e", 64),
    ],
)  # fmt: skip
def test_space_group_is_known_by_number_and_symbol(name, number):
    assert space_group_number(name) == number


def test_gemmis_short_symbols_of_all_groups_are_known():
    for number in range(1, 231):
        assert space_group_number(gemmi.find_spacegroup_by_number(number).hm) == number


@pytest.mark.parametrize("name", ["P9", 0, 231, -1, "", "TiO2"])
def test_unknown_space_group_is_refused_with_a_hint(name):
    with pytest.raises(ValueError, match="not known; give a number from 1 to 230"):
        space_group_number(name)


def test_cells_and_places_that_are_no_numbers_are_refused():
    lattice = Lattice.cubic(4.0)
    bad = Structure(lattice, ["Cu"], [[np.nan, 0, 0]])
    for refused in (
        lambda: from_structures([bad]),
        lambda: symmetry_dataset((np.full((3, 3), np.nan), np.zeros((1, 3)), [1]), 0.1),
    ):
        with pytest.raises(ValueError, match="is NaN or infinite; correct its numbers"):
            refused()


def test_dummies_are_no_elements():
    with pytest.raises(ValueError, match=r"X0\+ in .* is no element; replace it"):
        from_structures([Structure(Lattice.cubic(4.0), ["X"], [[0, 0, 0]])])


def test_symmetry_of_a_distorted_cell_is_found_without_a_word_on_the_terminal(
    capfd, monkeypatch
):
    lattice = [[4.053, 0.021, -0.05], [-0.004, 4.922, 0.011], [0.004, -0.063, 5.025]]
    frac = [[0.343, 0.335, 0.371], [0.275, 0.348, 0.342]]
    cell = (np.array(lattice), np.array(frac), [1, 1])
    monkeypatch.setenv("SPGLIB_WARNING", "ON")
    symmetry_dataset(cell, 0.3)
    assert "spglib" in capfd.readouterr().err
    monkeypatch.delenv("SPGLIB_WARNING")
    symmetry_dataset(cell, 0.3)
    assert capfd.readouterr().err == ""
