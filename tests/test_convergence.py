"""Benchmarks of refinement: starts that are off, and wrong structures of one formula."""

import numpy as np
import pytest
import torch
from textbook import STRUCTURES, table_of

from xrdkit.benchmark.convergence import convergence, convergence_counts, moved
from xrdkit.benchmark.judgement import decoy, judgement, judgement_counts
from xrdkit.crystal import one_crystal, standard_cell, symmetry_of, to_structure
from xrdkit.metrics import normalised_rmse, strict_match
from xrdkit.report import text_table


def crystal_of(name):
    structure = STRUCTURES[name]
    numbers = np.array(structure.atomic_numbers)
    cell = standard_cell(structure.lattice.matrix, structure.frac_coords, numbers)
    symmetry = symmetry_of(cell.space_group, cell.lattice, cell.frac, cell.numbers)
    return one_crystal(cell.lattice, cell.frac, cell.numbers), symmetry


@pytest.mark.parametrize("name", ["TiO2", "SiO2", "CaTiO3"])
@pytest.mark.parametrize("rmse", [0.03, 0.08])
def test_starts_are_off_by_the_rmse_that_was_asked_for(name, rmse):
    crystal, symmetry = crystal_of(name)
    start = moved(crystal, symmetry, rmse, torch.Generator().manual_seed(1))
    truth = to_structure(crystal)
    assert normalised_rmse(truth, start) == pytest.approx(rmse, rel=0.05)
    assert abs(start.volume / truth.volume - 1) < 0.0095


@pytest.mark.slow
def test_a_start_that_is_off_is_refined_and_the_run_goes_on_where_it_was(tmp_path):
    table = table_of([STRUCTURES["TiO2"], STRUCTURES["NaCl"]])
    rows = convergence(table, tmp_path / "r.json", n=2)
    assert [row["id"] for row in rows] == [table.ids[0]]  # NaCl has nothing free
    assert rows[0]["after"] < 0.005 < rows[0]["before"]
    assert rows[0]["gof"] == pytest.approx(1, abs=0.1)
    assert convergence(table, tmp_path / "r.json", n=2) == rows


def test_decoys_are_polymorphs_where_there_are_some_else_exchanged_elements():
    table = table_of([STRUCTURES[n] for n in ("TiO2", "TiO2 141", "CaTiO3")])
    other, kind = decoy(table, 0, table.structure(0))
    assert kind == "polymorph"
    assert other.volume / len(other) == pytest.approx(
        table.structure(0).volume / len(table.structure(0))
    )
    swapped, kind = decoy(table, 2, table.structure(2))
    assert kind == "exchanged"
    assert swapped.composition.get_el_amt_dict() != {}
    assert not strict_match(table.structure(2), swapped)


@pytest.mark.slow
def test_the_right_structure_has_the_lower_r_value(tmp_path):
    table = table_of([STRUCTURES[n] for n in ("TiO2", "TiO2 141")])
    counted = judgement_counts(judgement(table, tmp_path / "r.json", n=2))
    assert counted["pairs"] == counted["right has the lower R_wp"] == 2
    assert counted["AUC of r_wp"] == 1


def test_run_without_a_start_has_nothing_to_count():
    nowhere = convergence_counts([{"before": None, "samples": 0}])
    assert nowhere == []
    assert text_table(nowhere) == ""


def test_counts_of_starts_say_how_many_are_refined_and_how_many_worse():
    rows = [{"before": 0.05, "after": 0.01}, {"before": 0.05, "after": 0.2}]
    rows += [{"before": 0.2, "after": None}, {"before": 0.2, "after": 0.019}]
    near, all_ = convergence_counts([*rows, {"error": "x"}])[-2:]
    assert (near["starts"], near["refined"], near["worse"]) == (2, 1, 1)
    assert (all_["starts"], all_["refined"], all_["worse"]) == (4, 2, 2)
