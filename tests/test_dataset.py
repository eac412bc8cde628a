import numpy as np
import pandas as pd
import pytest
import torch
from pymatgen.core import Lattice, Structure

from xrdkit.dataset import Table, read_table, read_tables

ROCK_SALT = Structure.from_spacegroup(
    "Fm-3m", Lattice.cubic(5.64), ["Na", "Cl"], [[0, 0, 0], [0.5, 0.5, 0.5]]
)
RUTILE = Structure.from_spacegroup(
    "P4_2/mnm",
    Lattice.tetragonal(4.594, 2.959),
    ["Ti", "O"],
    [[0, 0, 0], [0.305, 0.305, 0]],
)


GROUPS = {"NaCl": 225, "TiO2": 136}


def parquet(path, structures, **changes):
    """A table as in shared/data/structures, with pandas, so without our reader."""
    columns = {
        "id": [f"s{i}" for i in range(len(structures))],
        "formula": [s.composition.reduced_formula for s in structures],
        "spacegroup": [GROUPS[s.composition.reduced_formula] for s in structures],
        "lattice": [s.lattice.matrix.ravel().tolist() for s in structures],
        "atomic_numbers": [list(s.atomic_numbers) for s in structures],
        "frac_coords": [s.frac_coords.ravel().tolist() for s in structures],
    }
    frame = pd.DataFrame({**columns, **changes})
    frame.to_parquet(path)
    return path


def csv(path, structures, **columns):
    cifs = [s.to(fmt="cif") for s in structures]
    names = [f"mp-{i}" for i in range(len(structures))]
    pd.DataFrame({"material_id": names, "cif": cifs, **columns}).to_csv(path)
    return path


def assert_same(table, structures):
    for i, structure in enumerate(structures):
        read = table.structure(i)
        assert np.allclose(read.lattice.matrix, structure.lattice.matrix, atol=1e-5)
        apart = read.frac_coords - structure.frac_coords
        assert np.abs(apart - np.rint(apart)).max() < 1e-5
        assert read.species == structure.species


def test_parquet_table_comes_back_as_it_was_written(tmp_path):
    structures = [ROCK_SALT, RUTILE, ROCK_SALT.get_primitive_structure()]
    table = read_table(parquet(tmp_path / "t.parquet", structures))
    assert table.ids == ("s0", "s1", "s2")
    assert table.formulas == ("NaCl", "TiO2", "NaCl")
    assert table.space_groups == (225, 136, 225)
    assert_same(table, structures)


def test_formula_is_pymatgens_however_the_table_writes_it(tmp_path):
    path = parquet(tmp_path / "t.parquet", [RUTILE], formula=["O4Ti2"])
    assert read_table(path).formulas == ("TiO2",)


def test_csv_of_cdvae_gives_the_structures_pymatgen_reads(tmp_path):
    columns = {"pretty_formula": ["NaCl", "TiO2"], "spacegroup.number": [225, 136]}
    table = read_table(csv(tmp_path / "val.csv", [ROCK_SALT, RUTILE], **columns))
    assert table.ids == ("mp-0", "mp-1")
    assert table.space_groups == (225, 136)
    assert_same(table, [ROCK_SALT, RUTILE])


def test_csv_without_space_groups_gets_them_from_spglib(tmp_path):
    table = read_table(csv(tmp_path / "val.csv", [RUTILE, ROCK_SALT]))
    assert table.space_groups == (136, 225)


def test_folder_of_cif_files_is_a_table_named_by_the_files(tmp_path):
    for name, structure in (("salt", ROCK_SALT), ("rutile", RUTILE)):
        structure.to(str(tmp_path / f"{name}.cif"))
    table = read_table(tmp_path)
    assert table.ids == ("rutile", "salt")
    assert table.space_groups == (136, 225)
    assert_same(table, [RUTILE, ROCK_SALT])
    assert read_table(tmp_path / "salt.cif").formulas == ("NaCl",)


def test_files_of_a_folder_that_hold_no_structure_are_left_out_and_said(tmp_path):
    RUTILE.to(str(tmp_path / "rutile.cif"))
    for name in ("broken", "empty"):
        (tmp_path / f"{name}.cif").write_text("data_x\n_cell_length_a 3\n")
    with pytest.warns(UserWarning, match=r"2 of 3 files of .* the first: .*broken\.cif"):
        table = read_table(tmp_path)
    assert table.ids == ("rutile",)
    assert_same(table, [RUTILE])
    (tmp_path / "rutile.cif").unlink()
    with pytest.raises(ValueError, match=r"broken\.cif is not a CIF with a structure"):
        read_table(tmp_path)


def test_disordered_cif_keeps_its_occupancies_and_is_refused_as_arrays(tmp_path):
    alloy = Structure(Lattice.cubic(3.6), [{"Cu": 0.75, "Au": 0.25}], [[0, 0, 0]])
    alloy.to(str(tmp_path / "alloy.cif"))
    table = read_table(tmp_path)
    assert table.formulas == ("Cu0.75Au0.25",)
    assert sorted(table.crystals.occupancy.tolist()) == [0.25, 0.75]
    with pytest.raises(ValueError, match="alloy has partly occupied sites"):
        table.arrays(0)


def test_arrays_of_a_row_are_its_cell_and_atoms(tmp_path):
    table = read_table(parquet(tmp_path / "t.parquet", [ROCK_SALT, RUTILE]))
    lattice, frac, numbers = table.arrays(1)
    assert np.allclose(lattice, RUTILE.lattice.matrix, atol=1e-5)
    assert frac.shape == (6, 3)
    assert numbers.tolist() == [22, 22, 8, 8, 8, 8]


def test_selected_rows_come_in_the_order_asked_for(tmp_path):
    table = read_table(parquet(tmp_path / "t.parquet", [ROCK_SALT, RUTILE])).select([1, 0])
    assert table.ids == ("s1", "s0")
    assert_same(table, [RUTILE, ROCK_SALT])


def test_an_id_of_two_tables_is_taken_from_the_first(tmp_path):
    first = parquet(tmp_path / "a.parquet", [ROCK_SALT])
    second = parquet(tmp_path / "b.parquet", [RUTILE, ROCK_SALT], id=["s0", "new"])
    table = read_tables([first, second])
    assert table.ids == ("s0", "new")
    assert_same(table, [ROCK_SALT, ROCK_SALT])


def test_table_of_different_lengths_is_refused(tmp_path):
    table = read_table(parquet(tmp_path / "t.parquet", [ROCK_SALT]))
    with pytest.raises(ValueError, match="2 ids, 1 formulas"):
        Table(("a", "b"), table.formulas, table.space_groups, table.crystals)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"formula": ["KCl"]}, "s0: formula KCl, but its atoms are NaCl; correct it"),
        ({"formula": ["Na?"]}, "s0: 'Na\\?' is not a formula"),
        ({"spacegroup": [231]}, "s0: space group 231; give a number from 1 to 230"),
        ({"lattice": [[1.0] * 6]}, "row 1: 6 lattice numbers, 8 atoms and 24 coordinates"),
        ({"lattice": [np.eye(3).ravel().tolist()]}, "s0: less than 0.5 Å³ per atom"),
        ({"frac_coords": [[np.nan] * 24]}, "s0: its lattice or coordinates are not finite"),
        ({"atomic_numbers": [[0] * 8]}, "s0: an atomic number is outside 1–103"),
        ({"lattice": ["cubic"]}, "column lattice holds .*string; give a list of numbers"),
    ],
)
def test_wrong_row_is_named_with_what_is_wrong(tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        read_table(parquet(tmp_path / "t.parquet", [ROCK_SALT], **changes))


def test_missing_columns_are_named(tmp_path):
    pd.DataFrame({"id": ["a"], "lattice": [[1.0]]}).to_parquet(tmp_path / "t.parquet")
    with pytest.raises(ValueError, match="lacks columns: formula, spacegroup, atomic"):
        read_table(tmp_path / "t.parquet")
    pd.DataFrame({"id": ["a"]}).to_csv(tmp_path / "t.csv")
    with pytest.raises(ValueError, match="lacks columns: material_id, cif; it has"):
        read_table(tmp_path / "t.csv")


def test_files_that_are_no_tables_are_refused_with_what_to_give(tmp_path):
    for name in ("t.parquet", "t.csv", "t.cif", "t.txt"):
        (tmp_path / name).write_bytes(b"\x00\xff\xfe nothing")
    (tmp_path / "empty").mkdir()
    cases = {
        "t.parquet": "is not a Parquet table",
        "t.csv": "is not a CSV table",
        "t.cif": "is not a CIF with a structure",
        "t.txt": "give a .parquet, .csv or .cif file or a folder",
        "empty": "holds no .cif file",
    }
    for name, message in cases.items():
        with pytest.raises(ValueError, match=message):
            read_table(tmp_path / name)
    with pytest.raises(FileNotFoundError, match="does not exist; give a structure table"):
        read_table(tmp_path / "absent.parquet")
    with pytest.raises(ValueError, match="no structure table given"):
        read_tables([])


def test_empty_table_and_broken_cif_row_are_refused(tmp_path):
    with pytest.raises(ValueError, match="holds 0 structures; give 1 to 1,000,000"):
        read_table(csv(tmp_path / "t.csv", []))
    pd.DataFrame({"material_id": ["a"], "cif": ["data_x\nloop_"]}).to_csv(
        tmp_path / "t.csv"
    )
    with pytest.raises(ValueError, match="a: its cif"):
        read_table(tmp_path / "t.csv")


def test_val_table_holds_what_its_readme_says(shared):
    table = read_table(shared / "structures" / "mp_20_val.parquet")
    assert len(table) == 9047
    assert int(table.crystals.counts.max()) == 20
    assert table.structure(0).composition.reduced_formula == table.formulas[0] == "TmMgHg2"
    assert float(table.crystals.frac.min()) >= 0
    assert float(table.crystals.frac.max()) < 1
    assert torch.equal(table.crystals.owner, table.crystals.owner.sort().values)
