import re
from shutil import copy

import pandas as pd
import pytest
import torch
from pymatgen.core import Lattice, Structure

from xrdkit import examples
from xrdkit.benchmark import agreement, results, speed
from xrdkit.benchmark.measured_patterns import COLUMNS
from xrdkit.benchmark.rietveld import against_pawley
from xrdkit.cli import main
from xrdkit.crystal import from_structures, to_structure
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


@pytest.mark.slow
def test_solved_structures_are_held_against_their_cells_and_errors_are_rows(
    table, tmp_path, capsys
):
    columns = dict.fromkeys(COLUMNS, "")
    facts = {"formula": "TiO2", "tier": "A", "wavelength_A": 1.5406, "kalpha2": "present"}
    rows = [columns | facts | {"id": i, "compound": i} for i in ("rutile", "lost")]
    pd.DataFrame(rows).to_csv(tmp_path / "index.csv", index=False)
    copy(examples.path("rutile"), tmp_path / "rutile.xy")
    solved, out = tmp_path / "solved.json", tmp_path / "out.json"
    results.start(solved, {"benchmark": "measured", "tiers": ["A"]})
    first = to_structure(table.crystals.select(torch.tensor([1]))).as_dict()
    for row in rows:
        fits = [{"literature": True}]
        results.append(solved, {"id": row["id"], "first": first, "fits": fits})
    given = ["--folder", str(tmp_path), "--solutions", str(solved), "--json", str(out)]
    for _ in range(2):  # the second time all is there
        main(["benchmark", "pawley", *given])
        said = capsys.readouterr().out
        assert re.search(r"compounds +2\nerrors +1\nR_wp over Pawley up to 1.3 +1", said)
    right, lost = against_pawley(tmp_path, solved, out)
    assert 1 <= right["r_wp_over_pawley"] < 1.1
    assert "lost.xy" in lost["error"]
