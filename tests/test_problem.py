import subprocess
import sys
import warnings
from contextlib import suppress
from dataclasses import replace

import numpy as np
import pytest
from pymatgen.core import Composition
from textbook import STRUCTURES, table_of

from xrdkit.crystal import from_structures
from xrdkit.library import build, save
from xrdkit.problem import by_number, load_library, parse_formula, pose, reduced, whole
from xrdkit.simulate import pattern_of
from xrdkit.types import Radiation

CU = Radiation((1.540593, 1.544427), (2 / 3, 1 / 3), kalpha2=True, name="CuKa")
RUTILE = (4.594, 4.594, 2.959, 90.0, 90.0, 90.0)


@pytest.fixture(scope="module")
def library():
    return build(table_of([STRUCTURES[n] for n in ("TiO2", "NaCl", "CaF2", "TiO2 141")]))


@pytest.fixture(scope="module")
def pattern():
    return pattern_of(from_structures([STRUCTURES["TiO2"]]), CU, two_theta=(10, 90, 2001))


# fmt: off
@pytest.mark.parametrize("formula", [
    "TiO2", "O2Ti", "NaCl", "Si", "C60", "H2O", "NO2", "Co", "CO", "Ca(OH)2", "Al2(SO4)3",
    "MgAl2O4", "Ca10(PO4)6(OH)2", "La0.7Sr0.3MnO3", "Fe0.95O", "[Co(NH3)6]Cl3", "Ti2O4",
    "K4Fe(CN)6", "Ca(B(OH)4)2",
])
def test_formula_means_what_pymatgen_says(formula):
    expected = Composition(formula.replace("[", "(").replace("]", ")"))
    assert parse_formula(formula) == pytest.approx(expected.get_el_amt_dict())
# fmt: on


@pytest.mark.parametrize("formula", ["Ti O2", " TiO2 ", "Ti O 2", "Ti_1O_2", "O2 Ti"])
def test_spaces_and_order_do_not_change_a_formula(formula):
    assert parse_formula(formula) == {"Ti": 1, "O": 2}


@pytest.mark.parametrize("formula", ["CuSO4·5H2O", "CuSO4*5H2O", "CuSO4 5H2O"])
def test_hydrate_keeps_its_water_or_is_refused(formula):
    """The number before H2O multiplies the water; it never joins the 4 of SO4."""
    with suppress(ValueError):
        assert parse_formula(formula) == {"Cu": 1, "S": 1, "O": 9, "H": 10}


# fmt: off
@pytest.mark.parametrize(("formula", "message"), [
    ("", "is empty; give one such as TiO2"),
    ("   ", "is empty"),
    ("()", "empty|no element|cannot be read"),
    ("Ti02", r"'Ti02' has a zero where the letter O may be meant; write TiO2\?"),
    ("Mg(0H)2", "formula"),
    ("Xx2O3", "'Xx' in formula 'Xx2O3' is not an element; mind upper and lower case"),
    ("TiQ2", "'Q' in formula 'TiQ2' is not an element"),
    ("tio2", "cannot be read at 'tio2'; write element symbols"),
    ("TIO2", "not an element; mind upper and lower case"),
    ("D2O", "'D' in formula 'D2O' is not an element; write H"),
    ("TiO2-", "carries a charge; give the neutral formula"),
    ("Fe3+", "carries a charge"),
    ("SO4^2-", "carries a charge"),
    ("Ti(O2", "has a bracket that is not closed; close it"),
    ("TiO2)", r"cannot be read at '\)'"),
    ("TiO2?", r"cannot be read at '\?'"),
    ("2TiO2", "cannot be read at '2TiO2'"),
    ("TiO0", "O in formula 'TiO0' has count 0; leave it out"),
    ("Ti(OH)0", "has count 0"),
    ("CuSO4.5H2O", "has a dot of a number before its water; write ·5H2O"),
    ("Es2O3", "has no scattering factor here"),
])
def test_impossible_formula_is_refused_with_a_reason(formula, message):
    with pytest.raises(ValueError, match=message):
        parse_formula(formula)
# fmt: on


@pytest.mark.parametrize(
    ("call", "said"),
    [
        ("solve('sample.xy', 'TiO2')", "a str is given as the pattern; give one that"),
        ("solve(pattern, 5)", "formula 5 is no text; give one such as 'TiO2'"),
        ("solve(pattern, 'TiO2', size='30')", "the size '30' is no number; give one in Å"),
    ],
)
def test_argument_of_another_kind_is_explained(call, said):
    """In an interpreter of its own: here jaxtyping checks every type before."""
    lines = (
        "import xrdkit",
        "from xrdkit import solve",
        "pattern = xrdkit.read(xrdkit.examples.path('rutile'))",
        call,
    )
    ran = subprocess.run(
        [sys.executable, "-c", "\n".join(lines)],
        check=False,
        capture_output=True,
        text=True,
    )
    assert ran.returncode == 1
    assert ran.stderr.splitlines()[-1].startswith(f"ValueError: {said}")


def test_counts_by_number_are_those_by_symbol():
    assert by_number({"Ti": 1, "O": 1.95}) == {22: 1.0, 8: 1.95}


def test_reduced_formula_has_no_common_divisor():
    assert reduced({"Ti": 2.0, "O": 4.0}) == {"Ti": 1, "O": 2}
    assert reduced({"Na": 1.0, "Cl": 1.0}) == {"Na": 1, "Cl": 1}


def test_fractional_formula_stays_as_it_is(pattern, library):
    problem = pose(pattern, "La0.7Sr0.3MnO3", contents="La1.4Sr0.6Mn2O6", library=library)
    assert problem.formula == {"La": 0.7, "Sr": 0.3, "Mn": 1, "O": 3}
    assert sum(problem.contents.values()) == pytest.approx(10)
    assert not whole(problem.formula)
    assert whole({"Ti": 1.0, "O": 2.0})


def test_problem_holds_what_was_given(pattern, library):
    problem = pose(
        pattern,
        "Ti2O4",
        contents="Ti2 O4",
        cell=RUTILE,
        space_group="P4_2/mnm",
        library=library,
        exclude=("NaCl",),
    )
    assert problem.formula == {"Ti": 1, "O": 2}
    assert problem.contents == {"Ti": 2, "O": 4}
    assert problem.cells == ((RUTILE, 1.0),)
    assert problem.space_group == 136
    assert problem.exclude == {"NaCl"}
    assert not problem.library.holds("NaCl")
    assert library.holds("NaCl")


def test_what_is_not_given_stays_unknown(pattern, library):
    problem = pose(pattern, "TiO2", library=library)
    assert (problem.contents, problem.cells, problem.space_group) == (None, (), None)
    assert problem.library is library


def test_pattern_is_prepared_once(pattern, library):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        raw = replace(pattern, intensity=50 * pattern.intensity + 3)
        problem = pose(raw, "TiO2", library=library)
    assert problem.pattern.prepared
    assert problem.pattern.intensity.max() == pytest.approx(1)
    again = pose(problem.pattern, "TiO2", library=library)
    assert again.pattern is problem.pattern


def test_library_may_be_a_path(pattern, library, tmp_path):
    save(library, tmp_path / "own.lib")
    for path in (tmp_path / "own.lib", str(tmp_path / "own.lib")):
        assert len(pose(pattern, "TiO2", library=path).library) == len(library)
    assert len(load_library(tmp_path / "own.lib")) == len(library)


@pytest.mark.parametrize("contents", ["Ti2O4", "Ti4 O8", "O2 Ti1", "Ti8O16"])
def test_contents_are_any_multiple_of_the_formula(pattern, library, contents):
    problem = pose(pattern, "TiO2", contents=contents, library=library)
    assert problem.contents == parse_formula(contents)


# fmt: off
@pytest.mark.parametrize(("given", "message"), [
    ({"contents": "Ti2O3"}, "contents 'Ti2O3' are not a multiple of the formula 'TiO2'"),
    ({"contents": "Si2O4"}, "contents 'Si2O4' are not a multiple"),
    ({"contents": "Ti0.5O1"}, "contents 'Ti0.5O1' are not a multiple"),
    ({"contents": "Ti100O200"}, "hold 300 atoms; at most 200"),
    ({"contents": "Ti02"}, "where the letter O may be meant"),
    ({"cell": (4.6, 4.6, 3.0)}, "has 3 numbers; give a, b, c, α, β, γ"),
    ({"cell": ()}, "has 0 numbers"),
    ({"cell": (0.4594, 0.4594, 0.2959, 90.0, 90.0, 90.0)}, "within 1–100 Å; give them"),
    ({"cell": (459.4, 459.4, 295.9, 90.0, 90.0, 90.0)}, "within 1–100 Å"),
    ({"cell": (-4.6, 4.6, 3.0, 90.0, 90.0, 90.0)}, "within 1–100 Å"),
    ({"cell": (4.6, 4.6, np.nan, 90.0, 90.0, 90.0)}, "within 1–100 Å"),
    ({"cell": (4.6, 4.6, 3.0, 90.0, 90.0, 180.0)}, "enclose no volume; give degrees"),
    ({"cell": (4.6, 4.6, 3.0, 60.0, 60.0, 125.0)}, "enclose no volume"),
    ({"cell": (4.6, 4.6, 3.0, 1.57, 1.57, 1.57)}, "enclose no volume; give degrees"),
    ({"cell": (4.6, 4.6, 3.0, np.nan, 90.0, 90.0)}, "enclose no volume"),
    ({"cell": (4.6, 4.6, 3.0, 90.0, 90.0, 90.0), "space_group": 225},
     r"a tetragonal cell cannot have Fm-3m \(225\); correct the cell or the space group"),
    ({"cell": (4.6, 4.9, 3.0, 90.0, 90.0, 90.0), "space_group": "P6/mmm"},
     "an orthorhombic cell cannot have P6/mmm"),
    ({"cell": (4.6, 4.6, 3.0, 90.0, 90.0, 90.0), "contents": "Ti20O40"},
     "the cell has 63 Å³, its contents of 60 atoms need about"),
    ({"cell": (9.2, 9.2, 6.0, 90.0, 90.0, 90.0), "contents": "TiO2"},
     "the cell has 508 Å³, its contents of 3 atoms need about"),
    ({"space_group": "P9"}, "space group 'P9' is not known; give a number from 1 to 230"),
    ({"space_group": 231}, "space group 231 is not known"),
    ({"exclude": ("Ti02",)}, "where the letter O may be meant"),
    ({"exclude": ("Xx",)}, "not an element"),
])
def test_nonsense_is_refused_with_the_value(pattern, library, given, message):
    with pytest.raises(ValueError, match=message):
        pose(pattern, "TiO2", library=library, **given)
# fmt: on


def test_whole_numbers_will_do_for_a_cell(pattern, library):
    problem = pose(pattern, "TiO2", cell=(5, 5, 3, 90, 90, 90), library=library)
    assert problem.cells == (((5.0, 5.0, 3.0, 90.0, 90.0, 90.0), 1.0),)


def test_missing_library_file_is_named(pattern, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no library file .*none\.lib"):
        pose(pattern, "TiO2", library=tmp_path / "none.lib")


@pytest.mark.parametrize(("given", "group"), [
    ((4.6, 4.6, 3.0, 90.0, 90.0, 90.0), 136),
    ((3.0, 4.6, 4.61, 90.0, 90.0, 90.0), 136),  # axes in another order
    ((4.2, 4.2, 4.2, 90.0, 90.0, 90.0), 62),  # a special metric
    ((2.98, 2.98, 2.98, 60.0, 60.0, 60.0), 225),  # the primitive cell
    ((4.76, 4.76, 13.0, 90.0, 90.0, 120.0), 167),
    ((5.13, 5.13, 5.13, 55.3, 55.3, 55.3), 167),
    ((3.0, 5.2, 4.0, 90.0, 90.0, 90.0), 63),
])  # fmt: skip
def test_cell_with_the_metric_of_its_group_is_taken(pattern, library, given, group):
    problem = pose(pattern, "TiO2", cell=given, space_group=group, library=library)
    assert problem.space_group == group


def test_subscripts_are_numbers():
    assert parse_formula("TiO₂") == {"Ti": 1, "O": 2}
    assert parse_formula("Ca₁₀(PO₄)₆(OH)₂")["O"] == 26
    assert parse_formula("Na0.5H2O") == {"Na": 0.5, "H": 2, "O": 1}
