import json

import numpy as np
import pytest
import torch
from pymatgen.core import Lattice, Structure
from safetensors.torch import load_file, save_file
from textbook import STRUCTURES, table_of

from xrdkit.packed import (
    KIND,
    UNIMODULAR,
    load_packed,
    niggli,
    pack,
    packed_of,
    settings_of,
)


@pytest.fixture(scope="module")
def packed(tmp_path_factory):
    path = tmp_path_factory.mktemp("packed") / "some.packed"
    names = ("NaCl", "SiO2", "CuFeO2", "ZnO")
    return load_packed(pack(table_of([STRUCTURES[n] for n in names]), path))


def test_packed_crystals_are_the_same_crystals_in_niggli_cells(packed):
    from xrdkit.crystal import to_structure
    from xrdkit.metrics import strict_match

    for i, name in enumerate(("NaCl", "SiO2", "CuFeO2", "ZnO")):
        found = to_structure(packed.crystals, i)
        assert strict_match(STRUCTURES[name], found)
        edges = STRUCTURES[name].lattice.get_niggli_reduced_lattice().abc
        np.testing.assert_allclose(found.lattice.abc, edges, rtol=1e-4)
    assert packed.ids == ("0", "1", "2", "3")


def test_unimodular_matrices_have_integer_inverses():
    determinant = torch.linalg.det(UNIMODULAR.double()).abs()
    torch.testing.assert_close(determinant, torch.ones_like(determinant))
    assert len(UNIMODULAR) == 6960
    assert (UNIMODULAR[0] == torch.eye(3)).all()


@pytest.mark.parametrize(
    ("lattice", "order"),
    [
        (Lattice.cubic(4), 48),
        (Lattice([[0, 2, 2], [2, 0, 2], [2, 2, 0]]), 48),
        (Lattice.hexagonal(3, 5), 24),
        (Lattice.tetragonal(3, 5), 16),
        (Lattice.orthorhombic(3, 4, 5), 8),
        (Lattice.monoclinic(3, 4, 5, 100), 4),
        (Lattice.from_parameters(3, 4, 5, 80, 85, 70), 2),
    ],
)
def test_settings_of_a_cell_are_the_symmetries_of_its_lattice(lattice, order):
    cell = torch.tensor(lattice.matrix.copy())[None].float()
    settings, starts = settings_of(cell)
    assert starts.tolist() == [0, order]
    matrix = UNIMODULAR[settings.long()].float()
    metric = cell[0] @ cell[0].mT
    moved = matrix @ metric @ matrix.mT
    torch.testing.assert_close(moved, metric.expand_as(moved), atol=1e-3, rtol=0)


@pytest.mark.parametrize("name", ["SiO2", "ZnO", "FeTiO3"])
def test_another_setting_of_a_crystal_is_packed_as_one_of_its_settings(name):
    structure = STRUCTURES[name]
    change = np.array([[1, 1, 0], [0, 1, 0], [1, 0, 1]])
    first = niggli(structure.lattice.matrix, structure.frac_coords, _numbers(structure))
    moved = (
        change @ structure.lattice.matrix,
        structure.frac_coords @ np.linalg.inv(change),
        _numbers(structure),
    )
    lattice, frac, numbers = niggli(*moved)
    cell = torch.tensor(first[0])[None].float()
    settings, _ = settings_of(cell)
    metric = lattice @ lattice.T
    np.testing.assert_allclose(metric, first[0] @ first[0].T, atol=2e-2)
    assert (numbers == first[2]).all()
    inverse = torch.linalg.inv(UNIMODULAR[settings.long()].double()).numpy()
    apart = first[1] @ inverse - frac
    apart -= np.rint(apart)
    assert np.abs(apart).max((1, 2)).min() < 1e-4


def _numbers(structure: Structure) -> np.ndarray:
    return np.array(structure.atomic_numbers)


def test_crystals_with_mixed_sites_are_left_out(tmp_path):
    mixed = Structure(Lattice.cubic(4), [{"Na": 0.5, "K": 0.5}], [[0, 0, 0]])
    path = pack(table_of([mixed, STRUCTURES["CsCl"]]), tmp_path / "one.packed")
    assert load_packed(path).ids == ("1",)
    with pytest.raises(ValueError, match="none of 1 structures is ordered"):
        pack(table_of([mixed]), tmp_path / "none.packed")


def test_files_that_are_no_packed_structures_are_refused(tmp_path):
    path = pack(table_of([STRUCTURES["NaCl"]]), tmp_path / "some.packed")
    with pytest.raises(FileNotFoundError, match="give a file written by pack"):
        load_packed(tmp_path / "nothing")
    short = tmp_path / "short"
    short.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ValueError, match="truncated or not a safetensors file"):
        load_packed(short)
    other = tmp_path / "other"
    save_file({"x": torch.zeros(1)}, other)
    with pytest.raises(ValueError, match="holds no packed structures"):
        load_packed(other)
    parts = {k: v for k, v in load_file(path).items() if k != "counts"}
    save_file(parts, other, {"xrdkit": json.dumps({"kind": KIND, "format": 1})})
    with pytest.raises(ValueError, match="lacks counts; pack the structures again"):
        load_packed(other)
    future = {"xrdkit": json.dumps({"kind": KIND, "format": 99})}
    save_file(load_file(path), other, future)
    with pytest.raises(ValueError, match="has format 99, this xrdkit reads up to 1"):
        load_packed(other)


def test_packed_structures_say_how_many_they_are():
    both = packed_of(table_of([STRUCTURES["NaCl"], STRUCTURES["CsCl"]]))
    assert repr(both) == "Packed(2 structures, 10 atoms)"
