"""Indexing: textbook cells from their lines, figures of merit, ambiguities, absences."""

from dataclasses import replace
from functools import cache
from itertools import islice

import numpy as np
import pytest
import torch
from textbook import STRUCTURES, cell, hexagonal, square

from xrdkit.benchmark.cells import answer, indexing, indexing_counts
from xrdkit.crystal import from_structures
from xrdkit.dataset import Table
from xrdkit.generators.cells import (
    IndexedCell,
    assigned,
    cells_for,
    formula_volume,
    held_against,
    index,
    index_steps,
    marks,
    unit_volume,
)
from xrdkit.indexing.bravais import parameters, same_lattice, standard, superlattices
from xrdkit.indexing.extinction import extinction_symbols, symbol_of
from xrdkit.indexing.line_match import Setting, ambiguities, calculated, merit, refined
from xrdkit.indexing.search import (
    STARTS,
    Lines,
    forms_of,
    free_parameters,
    reciprocal_metric,
)
from xrdkit.indexing.settings import volume_prior
from xrdkit.pattern import crop, prepare
from xrdkit.problem import load_library
from xrdkit.report import write_cells_html
from xrdkit.simulate import pattern_of
from xrdkit.solve import run
from xrdkit.space_group import crystal_system
from xrdkit.types import Instrument, Pattern, Problem
from xrdkit.wavelengths import radiation

BEAM = radiation("CuKa1")
SLOW = pytest.mark.slow
PHASES = (
    "CsCl",
    "ZnO",
    "Al2O3",
    "ZrO2",
    *(pytest.param(n, marks=SLOW) for n in ("TiO2", "CaTiO3", "MoSi2", "CuO", "P-1")),
)
SYSTEMS = {"CsCl": "c", "ZnO": "ch", "Al2O3": "cht", "ZrO2": "om"}  # quicker


def pattern(name: str, zero: float = 0.0, high: float = 90.0) -> Pattern:
    """The simulated pattern of a textbook phase, with Kα1 alone, FWHM 0.08°."""
    instrument = Instrument(w=0.0064, zero=zero)
    crystal = from_structures([STRUCTURES[name]])
    grid = (5.0, high, round((high - 5) / 0.02) + 1)
    return prepare(pattern_of(crystal, BEAM, two_theta=grid, instrument=instrument))


def with_foreign_lines(pattern: Pattern, *places: float) -> Pattern:
    """The pattern with lines of 20 % of the highest at these 2θ (°)."""
    x = pattern.two_theta
    extra = sum(0.2 * np.exp(-4 * np.log(2) * ((x - t) / 0.08) ** 2) for t in places)
    return replace(pattern, intensity=pattern.intensity + extra)


def primitive_of(name: str) -> np.ndarray:
    return STRUCTURES[name].get_primitive_structure().lattice.matrix


def lines_at(setting: Setting, q_max: float, error: float = 0.0) -> Lines:
    """Calculated lines as observed, all moved by an error of 2θ (°), Cu Kα1."""
    q, _ = calculated(setting, q_max)
    theta = np.arcsin(np.sqrt(q) * BEAM.main / 2) + np.radians(error / 2)
    q = torch.tensor((2 * np.sin(theta) / BEAM.main) ** 2, dtype=torch.float32)
    slope = torch.tensor(2 * np.sin(2 * theta) / BEAM.main**2 * np.pi / 180).float()
    return Lines(q, slope, torch.full_like(q, 0.02), torch.full_like(q, 0.05))


@cache
def cells_of(name: str) -> list[IndexedCell]:
    """Cells of a textbook phase whose pattern has a zero error of 0.05°."""
    systems = SYSTEMS.get(name, "chtoma")
    return index(pattern(name, zero=0.05), count=3, systems=systems)


@pytest.mark.parametrize("name", PHASES)
def test_cells_of_all_crystal_systems_are_found_first(name):
    found = cells_of(name)
    assert same_lattice(primitive_of(name), found[0].primitive)
    # 32 lines, many of them overlapping, share the zero with six parameters of P-1
    assert found[0].zero == pytest.approx(0.05, abs=0.02 if name == "P-1" else 0.01)
    assert found[0].indexed > 0.95 * found[0].lines


@pytest.mark.parametrize("name", ["CaTiO3", pytest.param("Al2O3", marks=SLOW)])
def test_two_foreign_lines_do_not_hide_the_cell(name):
    mixture = with_foreign_lines(pattern(name, zero=0.05), 19.37, 29.11)
    found = index(mixture, count=3, systems="chto")
    assert same_lattice(primitive_of(name), found[0].primitive)
    assert any("not indexed" in warning for warning in found[0].warnings)


@pytest.mark.slow
def test_uncertainties_cover_the_true_cell():
    found = cells_of("CaTiO3")[0]
    truth = sorted(STRUCTURES["CaTiO3"].lattice.abc)
    off = np.abs(np.sort(found.cell[:3]) - truth)
    assert (off < 0.002).all()
    assert all(0 < esd < 0.002 for esd in found.esd[:3])
    assert found.esd[3:] == pytest.approx([0, 0, 0], abs=1e-9)


def test_known_volume_prefers_cells_that_hold_whole_formula_units():
    assert volume_prior(200.0, 100.0) > volume_prior(150.0, 100.0)
    assert volume_prior(100.0, 100.0) > volume_prior(50.0, 100.0) + 3
    assert volume_prior(123.0, None) == 0


def test_cell_too_small_for_the_formula_is_enlarged():
    """A body-centred cell of one atom, for a formula unit of two."""
    found = index(pattern("W", high=140), volume=3.165**3, count=20, systems="c")
    assert found[0].volume == pytest.approx(3.165**3, rel=0.01)
    assert any(cell.bravais == "cP" for cell in found)


def test_figures_of_merit_are_those_of_a_hand_count():
    """Cubic P, a = 4 Å, three lines Q = 1/16, 2/16, 3/16, all 0.01° too high."""
    setting = Setting("cP", 4 * np.eye(3))
    lines = lines_at(setting, 3.01 / 16, error=0.01)
    m20, f_n = merit(setting, lines)
    mean_error = float((0.01 * lines.slope).mean())
    assert f_n == pytest.approx(1 / 0.01, rel=0.02)
    assert m20 == pytest.approx(3 / 16 / (2 * mean_error * 3), rel=0.02)


def test_refinement_separates_the_zero_from_the_cell():
    truth = Setting("oP", np.diag([5.0, 6.0, 7.0]))
    lines = lines_at(truth, 0.4, error=0.04)
    found, esd = refined(replace(truth, lattice=np.diag([5.01, 5.99, 7.01])), lines)
    assert found.zero == pytest.approx(0.04, abs=2e-3)
    assert parameters(found.lattice)[:3] == pytest.approx((5, 6, 7), abs=1e-3)
    assert max(esd) < 1e-3


@pytest.mark.parametrize("bravais", STARTS)
def test_quadratic_forms_give_the_lines_of_the_lattice(bravais):
    """Against all hkl of a general cell of the system."""
    cells = {
        "c": cell(5.0),
        "t": square(4.0, 6.0),
        "h": hexagonal(4.0, 6.5),
        "o": cell(4.0, 5.0, 6.0),
        "m": cell(4.0, 5.0, 6.0, 90, 100, 90),
        "a": cell(4.0, 5.0, 6.0, 80, 85, 95),
    }
    lattice = cells[bravais[0]].matrix.copy()
    metric = torch.tensor(np.linalg.inv(lattice @ lattice.T))[None]
    free = free_parameters(metric, bravais[0])
    torch.testing.assert_close(reciprocal_metric(free, bravais[0]), metric)
    values = (free.float() @ forms_of(bravais).T)[0]
    low = np.unique(np.round(values[values < 0.2].numpy(), 5))
    expected, _ = calculated(Setting(bravais, lattice), 0.2)
    assert low == pytest.approx(np.unique(np.round(expected, 5)), abs=2e-5)


@pytest.mark.parametrize(
    ("symbol", "rows", "others"),
    [
        ("cP", 5 * np.eye(3), {("tP", 3.536, 3.536, 5.0)}),
        ("cF", 5 * np.eye(3), {("oC", 1.768, 3.536, 5.0), ("oI", 1.179, 3.536, 5.0)}),
        ("cI", 5 * np.eye(3), {("tP", 2.5, 3.536, 3.536)}),
        ("hP", hexagonal(5.0, 7.0).matrix, {("oP", 2.5, 4.33, 7.0)}),
    ],
)
def test_geometrical_ambiguities_of_mighell_and_santoro_are_named(symbol, rows, others):
    found = ambiguities(Setting(symbol, np.array(rows)), 0.8)
    named = {
        (s.bravais, *np.round(np.sort(parameters(s.lattice)[:3]), 3).tolist())
        for s in found
    }
    assert others <= named


def test_low_symmetry_has_no_geometrical_ambiguity():
    rows = cell(4.1, 5.3, 6.7).matrix
    assert ambiguities(Setting("oP", np.array(rows)), 0.8) == ()


@pytest.mark.parametrize(
    ("name", "symbol"),
    [
        ("TiO2", "P - n -"),
        ("NaCl", "F - - -"),
        ("Si", "F d - -"),
        ("ZrO2", "P 1 21/c 1"),
        ("Al2O3", "R - c"),
        ("CuO", "C 1 c 1"),
    ],
)
def test_absences_lead_to_the_extinction_symbol(name, symbol):
    structure = STRUCTURES[name]
    bravais, lattice = standard(primitive_of(name))
    assert abs(np.linalg.det(lattice)) == pytest.approx(structure.volume, rel=1e-3)
    found = extinction_symbols(pattern(name), Setting(bravais, lattice))
    assert found[0] == symbol


def test_extinction_symbol_is_what_its_groups_share():
    assert symbol_of(("P n 21 a", "P n m a")) == "P n - a"
    assert symbol_of(("P 1 21/c 1",)) == "P 1 21/c 1"
    assert symbol_of(("P 21 21 21",)) == "P 21 21 21"
    assert symbol_of(("P 42 n m", "P -4 n 2", "P 42/m n m")) == "P - n -"


def test_derivative_cells_say_of_which():
    found = index(pattern("TiO2"), count=20, systems="t")
    assert any("derivative cell: superlattice" in " ".join(c.warnings) for c in found[1:])


def test_there_are_seven_superlattices_of_index_two():
    cells = superlattices(2)
    assert len(cells) == 7
    assert np.linalg.det(cells) == pytest.approx(np.full(7, 2))
    assert not any(same_lattice(np.eye(3) * 5, c * 5.0) for c in cells)


def test_lattice_is_the_same_in_any_basis():
    rows = primitive_of("ZrO2")
    other = np.array([[1, 1, 0], [0, 1, 0], [2, 0, 1]]) @ rows
    assert same_lattice(rows, other)
    assert same_lattice(rows, other * 1.01)
    assert not same_lattice(rows, other * 1.05)


def test_marks_of_a_cell_are_where_braggs_law_has_them():
    silicon = held_against(pattern("CsCl"), (5.431, 5.431, 5.431, 90, 90, 90), "F")
    exact = replace(silicon, cell=(5.431, 5.431, 5.431, 90.0, 90.0, 90.0), zero=0.0)
    found = marks(exact, pattern("CsCl"))
    assert found[:3] == pytest.approx([28.44, 32.95, 47.30], abs=0.02)
    assert found[-1] < 90


@pytest.mark.parametrize("zero", [0.0, 0.04])
def test_a_cell_given_by_hand_is_refined_and_indexes_every_line(zero):
    seen, truth = pattern("ZnO", zero), (3.25, 3.25, 5.207, 90.0, 90.0, 120.0)
    held = held_against(seen, (3.26, 3.26, 5.19, 90, 90, 120))
    assert held.bravais == "hP"
    assert held.cell == pytest.approx(truth, rel=5e-4)
    assert held.zero == pytest.approx(zero, abs=0.01)
    rows = assigned(seen, held)
    assert len(rows) == held.lines == held.indexed
    assert sorted(map(abs, map(int, rows[1]["h k l"].split()))) == [0, 0, 2]
    assert max(abs(row["obs − calc (°)"]) for row in rows) < 0.02


def test_a_wrong_cell_says_how_many_lines_it_leaves():
    held = held_against(pattern("Al2O3"), (3.9, 3.9, 3.9, 90, 90, 90))
    left = [row for row in assigned(pattern("Al2O3"), held) if not row["h k l"]]
    assert len(left) == held.lines - held.indexed > 5
    assert f"{len(left)} of {held.lines} lines are not indexed" in held.warnings


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (
            ((4, 4, 4, 90, 90, 90), "X"),
            "centring 'X' is not known; give one of P A C I F R",
        ),
        (((4, 4, 4, 90, 90), "P"), "give a, b, c, α, β, γ"),
        (((400, 4, 4, 90, 90, 90), "P"), "not all within 1–100 Å"),
    ],
)
def test_cells_by_hand_that_cannot_be_are_refused(given, said):
    with pytest.raises(ValueError, match=said):
        held_against(pattern("CsCl"), *given)


def test_page_of_cells_has_ticks_lines_and_no_script_of_others(tmp_path):
    seen = replace(pattern("CsCl"), name="<b>Cs & Cl</b>")
    cells = index(seen, systems="c", count=3)
    text = write_cells_html(cells, seen, tmp_path / "cells.html").read_text()
    assert text.count("<svg") == len(cells)
    assert "&lt;b&gt;Cs &amp; Cl&lt;/b&gt;" in text
    assert "<b>Cs" not in text
    assert "http" not in text.replace("http://www.w3.org/2000/svg", "")
    none = write_cells_html([], seen, tmp_path / "none.html").read_text()
    assert "no cell explains the lines" in none


@pytest.mark.slow
def test_cells_join_the_problem_as_proposals():
    problem = Problem(pattern("ZnO"), {"Zn": 1.0, "O": 1.0}, library=load_library(None))
    assert formula_volume(problem.library, problem.formula) == pytest.approx(23.8, rel=0.2)
    cells = run(cells_for(problem, count=3), False).cells
    assert len(cells) == 3
    assert 0 < sum(weight for _, weight in cells) < 1
    assert cells[0][0][:3] == pytest.approx((3.25, 3.25, 5.207), abs=0.01)


def test_cells_are_to_hold_the_contents_or_a_formula_unit_a_whole_number_of_times():
    known = {"library": load_library(None), "contents": {"Cs": 2.0, "Cl": 2.0}}
    told = Problem(pattern("CsCl"), {"Cs": 1.0, "Cl": 1.0}, **known)
    free = replace(told, contents=None)
    assert unit_volume(free) == formula_volume(told.library, told.formula)
    assert unit_volume(told) == pytest.approx(2 * unit_volume(free))


def test_too_few_lines_for_a_cell_are_warned_of_and_the_problem_stays():
    short = crop(pattern("CsCl"), high=40.0)
    library = load_library(None)
    asked = Problem(short, {"Cs": 1.0, "Cl": 1.0}, library=library)
    left = run(cells_for(asked), False)
    assert left.cells == ()
    assert "no cells: " in left.pattern.warnings[-1]
    assert "lines are too few to find a cell" in left.pattern.warnings[-1]


def test_progress_names_the_lattices_one_by_one():
    steps = index_steps(pattern("CsCl"), systems="c")
    assert [now.message for now in islice(steps, 3)] == ["cP", "cI", "cF"]


def test_few_lines_are_refused_or_warned_of():
    with pytest.raises(ValueError, match=r"lines are too few .* measure longer"):
        index(crop(pattern("CsCl"), 20, 40))
    found = index(pattern("CsCl", high=80), count=1, systems="c")[0]
    assert any("20 are wanted" in warning for warning in found.warnings)


def test_unknown_systems_are_refused():
    with pytest.raises(ValueError, match="systems 'x' are not known; give letters of"):
        index(pattern("CsCl"), systems="cx")


@pytest.mark.slow
def test_benchmark_counts_lattices_found_on_disturbed_patterns(tmp_path):
    names = ("CsCl", "ZnO")
    structures = [STRUCTURES[name] for name in names]
    formulas = tuple(s.composition.reduced_formula for s in structures)
    table = Table(names, formulas, (221, 186), from_structures(structures))
    rows = indexing(table, None, tmp_path / "i.json", progress=False)
    assert [row["rank"] for row in rows] == [1, 1]
    again = indexing(table, None, tmp_path / "i.json", progress=False)
    assert again == [{**row, "cell": list(row["cell"])} for row in rows]
    counted = {c["group"]: c for c in indexing_counts(rows)}
    assert counted["all"]["first"] == 1
    assert counted["hexagonal"]["n"] == 1


def test_pattern_without_any_cell_has_no_rank(monkeypatch):
    monkeypatch.setattr("xrdkit.benchmark.cells.index", lambda *given, **settings: [])
    row = answer(pattern("CsCl"), "CsCl", STRUCTURES["CsCl"], "cubic", None)
    assert row["rank"] is None
    assert indexing_counts([row])[-1]["within 20"] == 0


def test_crystal_systems_begin_where_the_tables_say():
    assert [crystal_system(n) for n in (2, 3, 16, 75, 143, 168, 195)] == [
        "triclinic",
        "monoclinic",
        "orthorhombic",
        "tetragonal",
        "trigonal",
        "hexagonal",
        "cubic",
    ]
