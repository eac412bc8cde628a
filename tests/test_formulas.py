import pytest
import torch
from pymatgen.core import Composition
from textbook import STRUCTURES, table_of

import xrdkit
from xrdkit.examples import path
from xrdkit.generators import formulas
from xrdkit.generators.formulas import FORMULAS, balanced, likely, propose, ratios_of
from xrdkit.library import build_steps
from xrdkit.problem import load_library, pose
from xrdkit.progress import result_of


@pytest.fixture(scope="module")
def shipped():
    return load_library(None)


@pytest.fixture(scope="module")
def library():
    names = ("NaCl", "CsCl", "TiO2", "SrTiO3")
    return result_of(build_steps(table_of([STRUCTURES[name] for name in names])))


def test_ratios_are_those_of_the_types_of_a_library(library):
    assert ratios_of(library, 2) == {(1, 1): 2, (1, 2): 1}
    assert ratios_of(library, 3) == {(1, 1, 3): 1}
    assert not ratios_of(library, 4)


@pytest.mark.parametrize(
    ("elements", "formula"),
    [
        (("Ti", "O"), {"Ti": 1, "O": 2}),
        (("Ca", "C", "O"), {"Ca": 1, "C": 1, "O": 3}),
        (("O", "Al", "Mg"), {"Mg": 1, "Al": 2, "O": 4}),
        (("Si",), {"Si": 1}),
    ],
)
def test_the_likeliest_formula_is_the_one_everybody_knows(shipped, elements, formula):
    found = likely(shipped, elements)
    assert found[0] == (formula, 1.0)
    weights = [weight for _, weight in found]
    assert weights == sorted(weights, reverse=True)
    assert len(found) <= FORMULAS
    assert all(set(one) == set(elements) for one, _ in found)


def test_rare_ratios_are_tried_as_well(shipped):
    assert {"La": 1, "B": 6} in [formula for formula, _ in likely(shipped, ("La", "B"))]


def test_charges_balance_where_pymatgen_finds_states_of_oxidation():
    for text in ("NaCl", "NaCl2", "Ti2O3", "Ti3O", "CaCO3", "SiO", "MgAl2O4", "LiFePO4"):
        counts = Composition(text).get_el_amt_dict()
        whole = [round(n) for n in counts.values()]
        guessed = bool(Composition(text).oxi_state_guesses())
        assert balanced(tuple(counts), whole) == guessed, text
    assert balanced(("La", "B"), (5, 6))  # no anion
    assert not balanced(("Fe", "O"), (3, 4))  # mixed valence is not looked for


def test_unbalanced_charges_weigh_less_and_known_compounds_more(library):
    weights = {tuple(f.values()): weight for f, weight in likely(library, ("Ti", "O"))}
    assert weights == {(1, 2): 1, (1, 1): pytest.approx(0.2), (2, 1): pytest.approx(0.01)}
    fewer = likely(library.without(("TiO2",)), ("Ti", "O"))
    assert [tuple(formula.values()) for formula, _ in fewer] == [(1, 1)]


@pytest.mark.parametrize(
    "elements", [("Li", "Na", "K", "Rb", "Cs", "Mg", "O"), ("Ti", "O", "Sr", "N")]
)
def test_elements_of_which_no_type_is_known_give_none_and_are_told(library, elements):
    pattern = xrdkit.read(path("rutile"), wavelength="CuKa")
    problem = pose(pattern, elements=elements, library=library)
    settings = {"generator": torch.Generator(), "device": torch.device("cpu")}
    (said,) = propose(problem, count=60, **settings)
    assert said.message.startswith(f"no type of {len(elements)} species is known")


@pytest.mark.slow
def test_candidates_of_several_formulas_are_put_up():
    problem = pose(xrdkit.read(path("rutile"), wavelength="CuKa"), elements=("Ti", "O"))
    settings = {"generator": torch.Generator(), "device": torch.device("cpu")}
    found = result_of(propose(problem, count=60, **settings))
    assert 20 < len(found) <= 60
    counts = [one.crystal.numbers.tolist() for one in found]
    assert {2.0, 1.0, 1.5} <= {z.count(8) / z.count(22) for z in counts}
    assert formulas.needed(problem, [])
    assert not formulas.needed(pose(problem.pattern, "TiO2"), [])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "elements", "formula", "group"),
    [
        ("rutile", ("Ti", "O"), "TiO2", 136),
        ("lab6", ("La", "B"), "LaB6", 221),
        ("calcite", ("Ca", "C", "O"), "CaCO3", 167),
        ("spinel", ("Mg", "Al", "O"), "MgAl2O4", 227),
    ],
)
def test_elements_alone_are_enough_for_the_examples(name, elements, formula, group):
    pattern = xrdkit.read(path(name), wavelength="CuKa")
    solution = xrdkit.solve(pattern, elements=elements, progress=False)
    best = solution.fits[0]
    assert best.structure.composition.reduced_formula == formula
    assert best.space_group == group
    assert "the formula is not known" in solution.reasons[-1]
