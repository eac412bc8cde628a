from itertools import combinations

import numpy as np
import pytest
import torch
from pymatgen.analysis.structure_matcher import StructureMatcher
from pymatgen.core import Lattice, Structure
from textbook import STRUCTURES, another_pose, table_of, with_elements

from xrdkit.benchmark.parents import ordering_of_parent
from xrdkit.crystal import conventional, from_structures, symmetry_of, to_structure
from xrdkit.generators import merges, ordered
from xrdkit.generators.derivative import (
    hermite_form,
    hermite_forms,
    number_of_colourings,
    orderings,
    permutations_of,
    supercells,
)
from xrdkit.library import Library, build
from xrdkit.metrics import match
from xrdkit.pattern import prepare
from xrdkit.refine.batch import refine_steps
from xrdkit.refine.block import lines_of, pack
from xrdkit.simulate import pattern_of
from xrdkit.solve import run, solve
from xrdkit.space_group import operations
from xrdkit.types import Candidate, Instrument, Pattern, Problem, Radiation

CU = Radiation((1.540593,))
ONE = np.zeros((1, 3))
FCC, SC, BCC, HEXAGONAL = 225, 221, 229, 191
STRICT = StructureMatcher(ltol=0.05, stol=0.2, angle_tol=3, scale=False)
CU3AU = Structure.from_spacegroup(
    221, Lattice.cubic(3.748), ["Au", "Cu"], [[0, 0, 0], [0.5, 0.5, 0]]
)
BORIDE = Structure.from_spacegroup(  # LaRh3B2, the CeCo3B2 type
    191, Lattice.hexagonal(5.48, 3.14), ["La", "B", "Rh"],
    [[0, 0, 0], [1 / 3, 2 / 3, 0], [0.5, 0, 0.5]],
)  # fmt: skip


def layered(species: str, other: str) -> Structure:
    """The boride with two metals in turn on its layers, the cell doubled."""
    double = BORIDE.copy()
    double.make_supercell([1, 1, 2])
    (first, _) = [i for i, site in enumerate(double) if site.specie.symbol == "La"]
    double.replace_species({"La": species})
    double.replace(first, other)
    return double


def library_of(*names: str | Structure) -> Library:
    structures = [STRUCTURES[n] if isinstance(n, str) else n for n in names]
    return build(table_of(structures))


def measured(structure: Structure) -> Pattern:
    return pattern_of(
        from_structures([structure]), CU, two_theta=(10, 100, 4501),
        instrument=Instrument(w=0.01),
    )  # fmt: skip


def problem(structure: Structure, library: Library, **given) -> Problem:
    formula = structure.composition.fractional_composition * len(structure)
    if all(n % 1 == 0 for n in formula.values()):
        formula = formula.reduced_composition
    return Problem(
        prepare(measured(structure)),
        dict(formula.get_el_amt_dict()),
        library=library,
        **given,
    )


def proposed(asked: Problem, count: int = 60) -> list[Candidate]:
    steps = ordered.propose(
        asked, count=count, generator=torch.Generator(), device=torch.device("cpu")
    )
    return run(steps, False)


def best(asked: Problem) -> Structure:
    """The candidate that fits best after refinement."""
    fits = run(refine_steps(asked.pattern, proposed(asked, 16)), False)
    return min(fits, key=lambda fit: fit.residual).structure


def mixed_ones(candidates: list[Candidate]) -> list[Candidate]:
    return [c for c in candidates if "disordered" in c.origin]


def perovskite_of_two(a: str, b: str, share: float) -> Structure:
    sites = STRUCTURES["SrTiO3"].copy()
    sites.replace_species({"Sr": {a: share, b: 1 - share}, "Ti": "Mn"})
    return sites


@pytest.mark.parametrize(
    ("space_group", "numbers"),
    [
        (FCC, (1, 2, 3, 7, 5, 10, 7, 20)),
        (BCC, (1, 2, 3, 7, 5, 10, 7, 20)),
        (SC, (1, 3, 3, 9, 5, 13, 7, 24)),
        (HEXAGONAL, (1, 3, 5, 11, 7, 19, 11, 34)),
    ],
)
def test_superlattices_are_as_many_as_hart_and_forcade_count(space_group, numbers):
    found = [len(supercells(space_group, n)) for n in range(1, 9)]
    assert found == list(numbers)


@pytest.mark.parametrize(("index", "number"), [(2, 2), (3, 3), (4, 12), (5, 14), (7, 52)])
def test_binary_orderings_of_fcc_are_as_many_as_published(index, number):
    # Hart & Forcade (2008), table IV: A and B may be exchanged, so A is the rarer
    wanted = [((1, k), (2, index - k)) for k in range(1, index // 2 + 1)]
    found = [
        numbers
        for cell in supercells(FCC, index)
        for counts in wanted
        for numbers in orderings(cell, FCC, ONE, np.zeros(1, int), {0: counts})
    ]
    assert len(found) == number


@pytest.mark.parametrize("index", [1, 2, 3, 4, 6])
def test_hermite_forms_are_all_lattices_of_an_index(index):
    forms = hermite_forms(index)
    divisors = [d for d in range(1, index + 1) if index % d == 0]
    assert len(forms) == sum(d * sum(e for e in divisors if d % e == 0) for d in divisors)
    generator = np.random.default_rng(index)
    for form in forms:
        np.testing.assert_array_equal(hermite_form(form), form)
        change = np.tril(generator.integers(-3, 4, (3, 3)), -1) + np.eye(3, dtype=int)
        np.testing.assert_array_equal(hermite_form(change @ form), form)


@pytest.mark.parametrize(("space_group", "index"), [(FCC, 4), (194, 2), (136, 2), (62, 2)])
def test_operations_of_a_supercell_permute_its_sites_and_are_a_group(space_group, index):
    sites = np.array([[0.11, 0.24, 0.37]])
    rotations, translations = operations(space_group)
    sites = np.mod(sites @ rotations.swapaxes(1, 2) + translations[:, None], 1)[:, 0]
    for cell in supercells(space_group, index):
        moves = permutations_of(cell, space_group, sites)
        n = moves.shape[1]
        assert (np.sort(moves, 1) == np.arange(n)).all()
        assert (moves[0] == np.arange(n)).all()
        known = {row.tobytes() for row in moves}
        assert len(known) == len(moves) == n * len(cell.kept) // len(rotations)
        assert all(one[other].tobytes() in known for one in moves[:9] for other in moves)


def test_orderings_by_burnside_counting_and_apart_for_pymatgen():
    zincblende_metal = np.zeros((1, 3))
    counts = ((29, 2), (79, 2))
    found = [
        (cell, numbers)
        for cell in supercells(FCC, 4)
        for numbers in orderings(cell, FCC, zincblende_metal, np.zeros(1, int), {0: counts})
    ]
    lattice = Lattice.from_parameters(2.7, 2.7, 2.7, 60, 60, 60).matrix
    rows = np.array([[0, 0.5, 0.5], [0.5, 0, 0.5], [0.5, 0.5, 0]]) * 2.7 * 2**0.5
    assert abs(np.linalg.det(lattice)) == pytest.approx(abs(np.linalg.det(rows)))
    made = []
    for cell, numbers in found:
        points = ordered.inside(cell.rows) @ np.linalg.inv(cell.rows)
        made.append(Structure(cell.rows @ rows, numbers.tolist(), points))
    assert all(len(s.get_primitive_structure()) == 4 for s in made)
    matcher = StructureMatcher(primitive_cell=False, scale=False)
    assert not any(matcher.fit(one, other) for one, other in combinations(made, 2))


def test_supercells_with_too_many_colourings_are_passed_over():
    sites = np.random.default_rng(0).random((20, 3))
    counts = ((1, 10), (2, 10))
    assert number_of_colourings(counts) == 184_756
    (cell,) = supercells(1, 1)
    assert list(orderings(cell, 1, sites, np.zeros(20, int), {0: counts})) == []


def test_merges_keep_anions_apart_and_begin_with_like_elements():
    formula = {57: 1.0, 58: 1.0, 5: 4.0, 45: 6.0}
    first, *_ = merges.merges(formula)
    assert first.groups == ((5,), (45,), (57, 58))
    groups = {g for m in merges.merges({11: 1.0, 17: 1.0}) for g in m.groups}
    assert groups == {(11,), (17,), (0, 11), (0, 17)}
    vacancies = [m for m in merges.merges({11: 1.0, 17: 1.0}) if 0 in m.contents]
    assert {round(m.contents[0], 3) for m in vacancies} == {0.333, 0.5, 1.0}
    assert merges.merges({26: 1.0}) == []


@pytest.mark.parametrize(
    ("formula", "group", "empty"),
    [
        ({38: 1.0, 26: 1.0, 8: 2.5}, (0, 8), 0.5),
        ({57: 0.7, 25: 1.0, 8: 3.0}, (0, 57), 0.3),
        ({57: 0.6, 38: 0.3, 25: 1.0, 8: 3.0}, (0, 38, 57), 0.1),
    ],
)
def test_what_a_formula_lacks_of_whole_sites_are_vacancies(formula, group, empty):
    found = [m for m in merges.merges(formula) if group in m.groups]
    assert any(m.contents.get(0) == pytest.approx(empty) for m in found)


@pytest.mark.parametrize(("rare", "other"), [("La", "Ce"), ("La", "Y"), ("Y", "Ba")])
def test_layers_of_two_metals_are_found_from_the_type_with_one(rare, other):
    truth = layered(rare, other)
    asked = problem(truth, library_of(BORIDE, "SrTiO3", "AlB2"))
    assert asked.formula == {rare: 1, other: 1, "B": 4, "Rh": 6}
    tried = [to_structure(c.crystal) for c in proposed(asked)]
    assert any(s.is_ordered and match(truth, s).literature for s in tried)
    if rare != "La" or other != "Ce":  # lanthanum and cerium scatter almost alike
        assert STRICT.fit(best(asked), truth)


@pytest.mark.parametrize(
    "given",
    [
        {},
        {"contents": {"Cu": 3.0, "Au": 1.0}},
        {"space_group": 221},
        {"cells": (((3.75, 3.75, 3.75, 90.0, 90.0, 90.0), 1.0),)},
    ],
)
def test_copper_gold_is_found_as_an_ordering_of_copper(given):
    asked = problem(CU3AU, library_of("Cu", "W", "Mg", "Si"), **given)
    assert STRICT.fit(best(asked), CU3AU)


def test_solve_finds_the_ordering_with_contents_given():
    library = library_of("Cu", "W", "Mg", "Si")
    answer = solve(
        measured(CU3AU), "Cu3Au", contents="Cu3Au", library=library, progress=False,
        sources=("templates", "ordered"),
    )  # fmt: skip
    assert answer.fits[0].space_group == 221
    assert answer.fits[0].origin == "A 225 4a parent, ordered 4×"
    assert answer.fits[0].residual < 0.1


def test_half_filled_sites_of_nickel_arsenide_give_cadmium_iodide():
    truth = STRUCTURES["CdI2"]
    parent = STRUCTURES["NiAs"].copy()
    parent.lattice = Lattice.hexagonal(4.0, 6.3)
    of_like_size = with_elements(STRUCTURES["CaF2"], {"Ca": "Cd", "F": "I"}, 1.38)
    asked = problem(truth, library_of(parent, "NaCl", of_like_size))
    assert STRICT.fit(best(asked), truth)


def test_ordering_and_mixed_parent_agree_in_the_lines_of_the_parent():
    candidates = proposed(problem(CU3AU, library_of("Cu")))
    (mixed,) = mixed_ones(candidates)
    assert mixed.crystal.occupancy.tolist() == [0.75, 0.25]
    (l12,) = [c for c in candidates if c.symmetry.number == 221]
    blocks = [pack([one], 9.0) for one in (mixed, l12)]
    lines = [lines_of(block, CU.main, False) for block in blocks]
    where = torch.unique(torch.round(lines[0].g[0], decimals=3))
    strong = [
        [float(one.strength[0][(one.g[0] - g).abs() < 2e-3].sum()) for g in where]
        for one in lines
    ]
    assert len(where) >= 5
    assert strong[1] == pytest.approx(strong[0], rel=1e-3)


def test_mixed_species_move_together():
    frac = np.array([[0.2, 0.3, 0.4], [0.2, 0.3, 0.4], [0.8, 0.7, 0.6], [0.8, 0.7, 0.6]])
    numbers = np.array([57, 58, 57, 58])
    basis = symmetry_of(2, np.eye(3) * 5, frac, numbers).coordinate_basis
    moves = basis.reshape(4, 3, -1)
    assert moves.shape[2] == 3
    torch.testing.assert_close(moves[0], moves[1])
    torch.testing.assert_close(moves[0], -moves[2])


def test_fractional_formula_gets_mixed_sites_with_its_shares():
    truth = perovskite_of_two("La", "Sr", 0.7)
    asked = problem(truth, library_of("SrTiO3", "CaTiO3", "CaCO3"))
    assert asked.formula == pytest.approx({"La": 0.7, "Sr": 0.3, "Mn": 1, "O": 3})
    candidates = proposed(asked)
    assert candidates == mixed_ones(candidates)
    found = best(asked)
    assert match(truth, found).strict
    (site,) = [s for s in found if len(s.species) == 2]
    assert site.species.get_el_amt_dict() == pytest.approx({"La": 0.7, "Sr": 0.3})


def test_shares_that_a_small_supercell_realises_are_ordered_too():
    asked = problem(perovskite_of_two("La", "Ba", 0.5), library_of("SrTiO3"))
    kinds = {c.origin.split(", ")[1] for c in proposed(asked)}
    assert {"disordered", "ordered 2×"} <= kinds


def test_whole_contents_admit_orderings_of_that_many_atoms_alone():
    asked = problem(CU3AU, library_of("Cu", "W"), contents={"Cu": 6.0, "Au": 2.0})
    candidates = proposed(asked)
    assert candidates == []  # eight fold supercells are beyond
    asked = problem(CU3AU, library_of("Cu", "W"), contents={"Cu": 3.0, "Au": 1.0})
    assert {len(c.crystal.numbers) for c in proposed(asked)} == {4}
    assert not mixed_ones(proposed(asked))


def test_candidates_keep_to_the_composition_and_the_count():
    asked = problem(CU3AU, library_of("Cu", "W", "Mg"))
    candidates = proposed(asked)
    for candidate in candidates:
        shares = to_structure(candidate.crystal).composition.fractional_composition
        assert shares.get_el_amt_dict() == pytest.approx({"Cu": 0.75, "Au": 0.25}, abs=1e-4)
    assert len(candidates) > 1 == len(proposed(asked, 1))


def test_pose_of_the_library_and_order_of_the_formula_change_nothing():
    truth = layered("Y", "Ba")
    asked = problem(truth, library_of(BORIDE))
    turned = another_pose(BORIDE, np.random.default_rng(2))
    formula = dict(reversed(asked.formula.items()))
    other = Problem(asked.pattern, formula, library=library_of(turned))
    one, two = (
        sorted((c.origin, c.symmetry.number) for c in proposed(p)) for p in (asked, other)
    )
    assert one == two


def test_nothing_to_merge_gives_no_candidates():
    assert proposed(problem(STRUCTURES["Cu"], library_of("Cu", "W", "NaCl"))) == []
    asked = problem(STRUCTURES["NaCl"], library_of("Cu", "W"))
    assert proposed(asked) == []


def test_mixed_sites_survive_the_way_to_pymatgen_and_back():
    truth = perovskite_of_two("La", "Sr", 0.7)
    again = to_structure(from_structures([truth]))
    assert match(truth, again).strict
    standard, number, symbol, sites = conventional(again)
    assert (number, symbol) == (221, "Pm-3m")
    assert sites.split(", ")[0] in ("La0.7Sr0.3 1b", "La0.7Sr0.3 1a")
    assert not standard.is_ordered
    assert standard.composition.almost_equals(truth.composition, rtol=1e-5)


@pytest.mark.parametrize("shares", [(1 / 3, 2 / 3), (1 / 6, 1 / 6, 2 / 3), (0.1,) * 10])
def test_rounded_shares_fill_a_site_and_not_more(shares):
    names = ["Sc", "Ti", "V", "Cr", "Mn", "Fe", "Co", "Ni", "Cu", "Zn"][: len(shares)]
    mixed = with_elements(STRUCTURES["Cu"], {}).copy()
    mixed.replace_species({"Cu": dict(zip(names, shares, strict=True))})
    again = to_structure(from_structures([mixed]))
    assert again[0].species.num_atoms == pytest.approx(1, abs=1e-5)


def test_judge_knows_orderings_of_a_type_of_the_library():
    library = library_of(BORIDE, "Cu")
    assert ordering_of_parent(layered("La", "Ce"), library)
    assert ordering_of_parent(CU3AU, library)
    assert not ordering_of_parent(BORIDE, library)  # a type that is there itself
    assert not ordering_of_parent(STRUCTURES["TiO2"], library)
    assert not ordering_of_parent(CU3AU, library.without(("Cu",)))


def test_counts_a_little_over_whole_sites_give_full_sites():
    filling = ((57, 38), (25,), (8,))
    contents = {57: 0.67, 38: 0.335, 25: 1.0, 8: 3.0}
    frac = np.array([[0.5] * 3, [0] * 3, [0.5, 0, 0], [0, 0.5, 0], [0, 0, 0.5]])
    slot = np.array([0, 1, 2, 2, 2])
    perovskite = ordered.Parent(
        0, filling, contents, (), 3.9 * np.eye(3), frac, slot, 221, "perovskite", 0.0, 0.1
    )
    candidate = ordered.mixed(perovskite)
    crystal = candidate.crystal
    assert candidate.swelling == 0.1
    assert float(crystal.occupancy[:2].sum()) == pytest.approx(1)
    assert len(to_structure(crystal)) == 5


def test_many_elements_are_merged_by_pairs_and_triples_alone():
    formula = dict.fromkeys(range(57, 72), 1.0) | {8: 3.0}
    found = merges.merges(formula)  # of all divisions, 10⁹, there would be no end
    assert all(len(g) <= 3 for merge in found for g in merge.groups)
    assert (8,) in found[0].groups
    assert len(found[0].groups) == 15


@pytest.mark.parametrize(
    ("groups", "expected"),
    [
        (((13, 15), (8,)), True),  # AlPO4
        (((12, 14), (8,)), True),  # Mg2SiO4
        (((57, 58), (25,), (8,)), False),  # (La,Ce)MnO3
        (((26, 27), (8,)), False),
        (((24, 28),), False),  # Cr–Ni, an alloy
        (((0, 22), (8,)), False),  # vacancies
        (((12, 14, 17), (8,)), True),
    ],
)
def test_cations_of_other_charge_are_not_expected_on_one_site(groups, expected):
    assert merges.unlike(groups) is expected
