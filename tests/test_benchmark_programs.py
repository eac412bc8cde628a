import pytest
from pymatgen.core import Lattice, Structure

from xrdkit.benchmark import agreement, speed
from xrdkit.crystal import from_structures
from xrdkit.dataset import Table


@pytest.fixture(scope="module")
def table():
    """Fluorite and rutile: many lines, an element of medium weight, free coordinates."""
    structures = [
        Structure.from_spacegroup(
            225, Lattice.cubic(5.463), ["Ca", "F"], [[0, 0, 0], [0.25, 0.25, 0.25]]
        ),
        Structure.from_spacegroup(
            136,
            Lattice.tetragonal(4.594, 2.959),
            ["Ti", "O"],
            [[0, 0, 0], [0.305, 0.305, 0]],
        ),
    ]
    crystals = from_structures(structures)
    return Table(("fluorite", "rutile"), ("CaF2", "TiO2"), (225, 136), crystals)


def test_lines_agree_with_pymatgen(table):
    found = agreement(table, 2)
    assert found["position_deg"] < 1e-6
    assert found["intensity_percent_worst"] < 2


def test_lines_agree_with_gsas2(table, shared):
    found = agreement(table, 1, gsas2=shared / "rietveld")
    assert found["gsas2_position_deg"] < 1e-5  # its files have six decimals
    assert found["gsas2_f2_percent"] < 0.5


def test_folder_without_gsas2_files_is_refused(table, tmp_path):
    with pytest.raises(ValueError, match=r"holds no \*_gsas2_refl.csv"):
        agreement(table, 1, gsas2=tmp_path)


def test_speed_is_that_of_the_same_crystals_in_both_programs(table):
    found = speed(table, 2)
    assert found["crystals"] == 2
    assert found["ratio"] == pytest.approx(found["pymatgen_ms"] / found["xrdkit_ms"])
