"""Promolecule densities, files of densities, the one description, SSIM and PSNR."""

import re
from dataclasses import replace
from itertools import product

import gemmi
import numpy as np
import pytest
import torch
from pymatgen.io.vasp import Chgcar, Poscar
from textbook import STRUCTURES, another_pose

from xrdkit import density
from xrdkit.canonical import canonical, descriptions, normaliser
from xrdkit.crystal import from_structures, one_crystal
from xrdkit.density import at_points, atom_height, electrons, on_grid, read_density
from xrdkit.metrics import psnr, ssim
from xrdkit.space_group import operations

NAMES = ("NaCl", "TiO2", "CaTiO3", "SiO2", "P1")


@pytest.fixture(scope="module")
def crystals():
    return from_structures([STRUCTURES[name] for name in NAMES])


def described(structure):
    return canonical(
        structure.lattice.matrix,
        structure.frac_coords,
        np.array(structure.atomic_numbers),
    )


def test_density_holds_the_electrons_of_the_cell(crystals):
    total = on_grid(crystals, 32).mean((1, 2, 3)) * crystals.volume
    torch.testing.assert_close(total, electrons(crystals))
    atomic = [sum(STRUCTURES[name].atomic_numbers) for name in NAMES]
    np.testing.assert_allclose(total.numpy(), atomic, rtol=2e-3)


def test_a_grid_too_coarse_for_the_reflections_has_the_values_of_a_direct_sum(crystals):
    shift = (0.013, 0.029, 0.004)
    grid = on_grid(crystals, 7, shift=shift)
    axis = torch.arange(7) / 7
    places = torch.cartesian_prod(axis, axis, axis) + torch.tensor(shift)
    found = at_points(crystals, places)
    torch.testing.assert_close(grid.flatten(1), found, rtol=1e-4, atol=2e-3)


def test_density_is_that_of_gaussian_atoms_summed_by_gemmi():
    structure = STRUCTURES["TiO2"]
    cell = structure.lattice
    places = np.array([[0.02, 0.03, 0.01], [0.3, 0.31, 0.05], [0.5, 0.1, 0.25]])
    smeared = 8 * np.pi**2 * density.U_ISO
    steps = np.array(list(product(range(-2, 3), repeat=3)))
    meant = np.zeros(len(places))
    for site in structure:
        atom = gemmi.Element(site.specie.symbol).it92
        apart = places[:, None] - site.frac_coords + steps
        square = np.linalg.norm(apart @ cell.matrix, axis=-1) ** 2
        meant += [
            sum(atom.calculate_density_iso(r2, smeared) for r2 in row) for row in square
        ]
    found = at_points(from_structures([structure]), torch.tensor(places).float())[0]
    np.testing.assert_allclose(found.numpy(), meant, rtol=0.02, atol=0.1)


def test_height_of_a_single_atom_is_gemmis():
    smeared = 8 * np.pi**2 * density.U_ISO
    for symbol in ("O", "Ti", "Pb"):
        element = gemmi.Element(symbol)
        meant = element.it92.calculate_density_iso(0.0, smeared)
        found = atom_height(torch.tensor(element.atomic_number))
        assert float(found) == pytest.approx(meant, rel=1e-3)


def test_density_does_not_depend_on_the_setting_of_the_cell():
    rutile = STRUCTURES["TiO2"]
    matrix = np.array([[1, 1, 0], [0, 1, 0], [1, 0, 2]])
    other = rutile.make_supercell(matrix, in_place=False)
    places = np.random.default_rng(0).random((20, 3))
    moved = places @ rutile.lattice.matrix @ np.linalg.inv(other.lattice.matrix)
    one, two = (
        at_points(from_structures([s]), torch.tensor(x).float())
        for s, x in ((rutile, places), (other, moved))
    )
    torch.testing.assert_close(one, two, rtol=1e-3, atol=5e-3)


@pytest.mark.parametrize("name", ["NaCl", "TiO2", "SiO2", "CaCO3", "FeTiO3", "polar Cc",
                                  "CuFeS2", "LiNbO3", "P-1", "P1"])  # fmt: skip
def test_every_cell_and_origin_of_a_crystal_leads_to_one_description(name):
    structure, generator = STRUCTURES[name], np.random.default_rng(1)
    first = described(structure)
    whole = on_grid(one_crystal(*first[1:]), 16)
    other = described(another_pose(structure, generator))
    found = on_grid(one_crystal(*other[1:]), 16)
    assert other.space_group == first.space_group
    assert float((found - whole).abs().max()) < 1e-3 * float(whole.max())


def test_the_heavier_atom_of_rock_salt_is_at_the_origin():
    pose = described(STRUCTURES["NaCl"])
    assert pose.space_group == 225
    np.testing.assert_allclose(pose.frac[pose.numbers == 17], [[0, 0, 0]], atol=1e-6)


@pytest.mark.parametrize(("group", "count"), [(225, 2), (227, 2), (216, 8), (62, 8),
                                              (148, 4), (2, 8), (1, 2)])  # fmt: skip
def test_normalisers_have_the_indices_of_international_tables(group, count):
    turns, shifts = normaliser(group)
    assert len(turns) == len(shifts) == count
    rotations, translations = operations(group)
    known = {r.tobytes(): t for r, t in zip(rotations, translations, strict=True)}
    for turn, shift in zip(turns, shifts, strict=True):
        for rotation, step in zip(rotations, translations, strict=True):
            image = np.rint(turn @ rotation @ np.linalg.inv(turn)).astype(int)
            off = turn @ step + shift - image @ shift - known[image.tobytes()]
            assert np.abs(off - np.rint(off)).max() < 1e-5


def test_other_descriptions_are_of_the_same_crystal():
    pose = described(STRUCTURES["LiNbO3"])  # polar: every atom may be at the origin
    crystal = one_crystal(*pose[1:])
    places = torch.rand(5, 3, generator=torch.Generator().manual_seed(0))
    turns, shifts = descriptions(pose.space_group, pose.frac)
    assert len(turns) >= len(pose.frac)
    for turn, shift in zip(turns, shifts, strict=True):
        w, s = (torch.tensor(v).float() for v in (turn, shift))
        other = replace(crystal, frac=crystal.frac @ w.T + s)
        found = at_points(other, places @ w.T + s)
        torch.testing.assert_close(found, at_points(crystal, places), rtol=1e-3, atol=1e-2)


def test_ssim_is_the_mean_over_windows_and_one_of_itself():
    generator = np.random.default_rng(0)
    truth, answer = generator.random((2, 9, 8, 10))
    c1, c2 = (0.01 * np.ptp(truth)) ** 2, (0.03 * np.ptp(truth)) ** 2
    meant = []
    for corner in product(range(9), range(8), range(10)):
        index = np.ix_(
            *[(np.arange(7) + c) % n for c, n in zip(corner, truth.shape, strict=True)]
        )
        x, y = truth[index], answer[index]
        cov = ((x - x.mean()) * (y - y.mean())).mean()
        top = (2 * x.mean() * y.mean() + c1) * (2 * cov + c2)
        bottom = (x.mean() ** 2 + y.mean() ** 2 + c1) * (x.var() + y.var() + c2)
        meant.append(top / bottom)
    assert ssim(truth, answer) == pytest.approx(np.mean(meant))
    assert ssim(truth, truth) == pytest.approx(1)


def test_psnr_of_a_constant_error_is_its_share_of_the_range():
    truth = np.linspace(0, 5, 27).reshape(3, 3, 3)
    assert psnr(truth, truth + 0.05) == pytest.approx(40)
    with pytest.raises(ValueError, match="the same everywhere; give that of a crystal"):
        psnr(np.ones((3, 3, 3)), truth)


@pytest.fixture
def chgcar(tmp_path):
    """A CHGCAR of rutile's promolecule density, and that density."""
    structure = STRUCTURES["TiO2"].copy()
    values = on_grid(from_structures([structure]), 12)[0].double().numpy()
    path = tmp_path / "CHGCAR"
    Chgcar(Poscar(structure), {"total": values * structure.volume}).write_file(path)
    return path, values


def test_a_chgcar_is_read_in_electrons_per_cubic_angstrom(chgcar):
    path, values = chgcar
    found = read_density(path, from_structures([STRUCTURES["TiO2"]]))
    np.testing.assert_allclose(found.values, values, rtol=1e-6)
    np.testing.assert_allclose(found.lattice, STRUCTURES["TiO2"].lattice.matrix, atol=1e-5)


def test_a_cube_file_is_read_in_electrons_per_cubic_angstrom(chgcar, tmp_path):
    path, values = chgcar
    cube = tmp_path / "rutile.cube"
    whole = Chgcar.from_file(path)
    whole.data["total"] = values * density.BOHR**3
    whole.to_cube(cube)
    np.testing.assert_allclose(read_density(cube).values, values, rtol=1e-3, atol=1e-4)


def test_broken_and_foreign_density_files_are_refused(chgcar, tmp_path, monkeypatch):
    path, _ = chgcar
    with pytest.raises(
        ValueError, match=r"has a cell of edges .* Å, the crystal .* Å; give"
    ):
        read_density(path, from_structures([STRUCTURES["NaCl"]]))
    text = path.read_text()
    for name, content in (("cut", text[: len(text) // 2]), ("none", "no density\n")):
        (tmp_path / name).write_text(content)
        with pytest.raises(ValueError, match="truncated or no CHGCAR or cube file"):
            read_density(tmp_path / name)
    (tmp_path / "cut.cube").write_text("a\nb\n2 0 0 0\n")
    with pytest.raises(ValueError, match="truncated or no CHGCAR or cube file"):
        read_density(tmp_path / "cut.cube")
    holes = re.sub(r"(\n +12 +12 +12\n *)\S+", r"\1nan", text, count=1)
    (tmp_path / "holes").write_text(holes)
    with pytest.raises(ValueError, match="holes holds values that are no numbers"):
        read_density(tmp_path / "holes")
    with pytest.raises(FileNotFoundError, match="give a CHGCAR or cube file"):
        read_density(tmp_path / "absent")
    monkeypatch.setattr(density, "FINEST", 8)
    with pytest.raises(ValueError, match=r"12 × 12 × 12 points; at most 8 along each axis"):
        read_density(path)
    monkeypatch.setattr(density, "LARGEST", 100)
    with pytest.raises(ValueError, match="write the density on a coarser grid"):
        read_density(path)


def test_grids_too_large_for_memory_are_refused(crystals):
    with pytest.raises(
        ValueError, match="a grid of 300 points along each axis; give a number of 1–256"
    ):
        on_grid(crystals, 300)
    many = crystals.select(torch.zeros(20, dtype=torch.long))
    with pytest.raises(ValueError, match=r"20 grids of 256³ points are .* take fewer"):
        on_grid(many, 256)


@pytest.mark.parametrize("u_iso", [-1.0, float("nan"), float("inf")])
def test_atoms_smeared_by_nothing_sensible_are_refused(crystals, u_iso):
    with pytest.raises(ValueError, match=r"a displacement parameter of .* Å²; give 0 or"):
        on_grid(crystals, 8, u_iso=u_iso)
