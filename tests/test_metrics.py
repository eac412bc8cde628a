import importlib.util
import sys

import numpy as np
import pytest
from pymatgen.analysis.structure_matcher import StructureMatcher
from pymatgen.core import Lattice, Structure
from scipy.stats import binomtest

from xrdkit import metrics

RUTILE = Structure.from_spacegroup(
    136, Lattice.tetragonal(4.594, 2.959), ["Ti", "O"], [[0, 0, 0], [0.305, 0.305, 0]]
)
ROCK_SALT = Structure.from_spacegroup(
    225, Lattice.cubic(5.64), ["Na", "Cl"], [[0, 0, 0], [0.5, 0.5, 0.5]]
)
OBSERVED = np.array([10.0, 20.0, 40.0, 20.0, 10.0])
CALCULATED = np.array([11.0, 18.0, 42.0, 21.0, 10.0])


def scaled(structure, factor):
    answer = structure.copy()
    answer.scale_lattice(structure.volume * factor)
    return answer


def with_hydrogen(structure, *places):
    answer = structure.copy()
    for place in places:
        answer.append("H", place)
    return answer


def test_structure_matches_itself_in_another_cell_and_order():
    answer = RUTILE.copy()
    answer.make_supercell([[1, 1, 0], [1, -1, 0], [0, 0, 1]])
    answer = Structure.from_sites(list(answer)[::-1])
    found = metrics.match(RUTILE, answer)
    assert found.literature
    assert found.strict
    assert found.heavy
    assert found.rmse == pytest.approx(0, abs=1e-6)


def test_literature_match_lets_fifteen_percent_of_volume_pass_and_strict_does_not():
    found = metrics.match(RUTILE, scaled(RUTILE, 1.15))
    assert found.literature
    assert not found.strict
    assert metrics.strict_match(RUTILE, scaled(RUTILE, 1.009))
    assert not metrics.strict_match(RUTILE, scaled(RUTILE, 1.011))


def test_strict_match_refuses_another_space_group():
    distorted = RUTILE.copy()
    distorted.translate_sites([2], [0.03, 0.03, 0.02])  # 0.2 Å
    assert metrics.space_group(RUTILE) == 136
    assert metrics.space_group(distorted) != 136
    assert StructureMatcher(**metrics.STRICT, scale=False).fit(RUTILE, distorted)
    assert not metrics.strict_match(RUTILE, distorted)
    assert metrics.match(RUTILE, distorted).literature


def test_rmse_is_the_displacement_of_the_atoms_in_angstrom():
    moved = RUTILE.copy()
    for i, sign in ((2, 1), (3, -1)):
        moved.translate_sites([i], sign * np.array([0.0, 0.0, 0.3 / 2.959]))
    found = metrics.match(RUTILE, moved)
    assert found.rmse_angstrom == pytest.approx(0.3 * np.sqrt(2 / 6), rel=0.01)
    assert found.rmse == pytest.approx(found.rmse_angstrom / (RUTILE.volume / 6) ** (1 / 3))


def test_other_structure_and_other_elements_do_not_match():
    other = ROCK_SALT.copy()
    other.replace_species({"Cl": "Br"})
    assert metrics.match(ROCK_SALT, other) == metrics.Match(False, False, False)
    assert metrics.match(ROCK_SALT, RUTILE).rmse is None


def test_hydrogen_free_match_ignores_where_hydrogen_is():
    truth = with_hydrogen(RUTILE, [0.5, 0.0, 0.25])
    answer = with_hydrogen(RUTILE, [0.1, 0.1, 0.5], [0.3, 0.8, 0.5])
    assert metrics.match(truth, answer) == metrics.Match(False, False, True)
    assert "H" not in metrics.without_hydrogen(truth).composition
    assert "H" in truth.composition


def test_match_without_hydrogen_is_of_all_measures():
    truth = with_hydrogen(RUTILE, [0.5, 0.0, 0.25])
    answer = with_hydrogen(RUTILE, [0.1, 0.1, 0.5], [0.3, 0.8, 0.5])
    found = metrics.match(truth, answer, hydrogen=False)
    assert found == metrics.match(RUTILE, RUTILE)
    solid = Structure(Lattice.cubic(2.0), ["H"], [[0, 0, 0]])
    assert metrics.match(solid, solid, hydrogen=False).strict
    assert not metrics.match(solid, RUTILE, hydrogen=False).literature


@pytest.mark.parametrize("isotope", ["D", "T", "D-"])
def test_isotopes_match_hydrogen_and_are_left_out_with_it(isotope):
    solid, heavy = (
        Structure(Lattice.cubic(4.1), [metal, light], [[0, 0, 0], [0.5, 0.5, 0.5]])
        for metal, light in (("Na", "H"), ("Na+" if "-" in isotope else "Na", isotope))
    )
    assert metrics.match(solid, heavy) == metrics.Match(True, True, True, 0.0, 0.0)
    assert metrics.without_hydrogen(heavy).formula == "Na1"


def test_hydrogen_leaves_a_mixed_site_and_the_rest_stays():
    place = [[0, 0, 0], [0.5, 0.5, 0.5]]
    mixed = Structure(Lattice.cubic(4), ["Na", {"F": 0.5, "D": 0.3, "H": 0.2}], place)
    assert metrics.as_protium(mixed)[1].species.formula == "H0.5 F0.5"
    assert metrics.without_hydrogen(mixed)[1].species.formula == "F0.5"


def test_only_hydrogen_is_matched_as_it_is():
    solid = Structure(Lattice.cubic(2.0), ["H"], [[0, 0, 0]])
    assert metrics.heavy_match(solid, solid)
    assert not metrics.heavy_match(solid, ROCK_SALT)


def test_space_group_of_coinciding_atoms_is_none():
    twice = Structure(Lattice.cubic(4.0), ["Na", "Na"], [[0, 0, 0], [0, 0, 0.001]])
    assert metrics.space_group(twice) is None


def test_validity_filter_knows_salts_alloys_and_nonsense():
    pytest.importorskip("smact", reason="needs SMACT: pip install 'xrdkit[test]'")
    good = ["NaCl", "TiO2", "LaFeO3", "CeAl2", "Fe"]
    assert all(metrics.charge_balanced(f) for f in good)
    assert not any(metrics.charge_balanced(f) for f in ("NaCl2", "Na3Cl"))
    assert metrics.charge_balanced("Mg0.25 Ca0.75 O1")
    assert not metrics.charge_balanced("Na0.6667 K0.3333 Cl2")
    assert metrics.valid(ROCK_SALT)
    close = Structure(Lattice.cubic(4), ["Na", "Cl"], [[0, 0, 0], [0, 0, 0.1]])
    assert not metrics.valid(close)


def test_missing_smact_is_said_with_what_to_install(monkeypatch):
    if importlib.util.find_spec("smact"):
        monkeypatch.setitem(sys.modules, "smact.screening", None)
    with pytest.raises(ValueError, match=r"needs the SMACT package.*xrdkit\[test\]"):
        metrics.charge_balanced("NaCl")


def test_perfect_fit_has_r_wp_zero_and_no_fit_has_one_hundred():
    assert metrics.r_wp(OBSERVED, OBSERVED) == 0
    assert metrics.r_wp(OBSERVED, 0 * OBSERVED) == pytest.approx(100)
    assert metrics.r_squared(OBSERVED, 0 * OBSERVED) == pytest.approx(1)


def test_r_factors_are_the_sums_of_their_definitions():
    sigma = np.sqrt(OBSERVED)
    squares = (1 / 10, 4 / 20, 4 / 40, 1 / 20, 0)
    assert metrics.r_wp(OBSERVED, CALCULATED, sigma) == pytest.approx(
        100 * np.sqrt(sum(squares) / 100)
    )
    assert metrics.r_exp(OBSERVED, sigma, 2) == pytest.approx(100 * np.sqrt(3 / 100))
    fit = metrics.goodness_of_fit(OBSERVED, CALCULATED, sigma, parameters=2)
    assert fit == pytest.approx(np.sqrt(sum(squares) / 3))
    assert metrics.r_squared(OBSERVED, CALCULATED) == pytest.approx(10 / 2600)


def test_subtracting_background_raises_r_wp():
    background = np.full(5, 5.0)
    whole = metrics.r_wp(OBSERVED, CALCULATED)
    assert metrics.r_wp_prime(OBSERVED, CALCULATED, 0 * background) == pytest.approx(whole)
    assert metrics.r_wp_prime(OBSERVED, CALCULATED, background) > whole


def test_without_sigma_there_is_no_expected_r_factor():
    assert metrics.r_exp(OBSERVED, None, 2) is None
    assert metrics.goodness_of_fit(OBSERVED, CALCULATED, None, parameters=2) is None


def test_points_with_zero_sigma_have_no_weight():
    padded = [np.append(values, 0.0) for values in (OBSERVED, CALCULATED)]
    sigma = np.sqrt(OBSERVED)
    assert metrics.r_wp(*padded, np.append(sigma, 0.0)) == metrics.r_wp(
        OBSERVED, CALCULATED, sigma
    )
    expected = metrics.r_exp(OBSERVED, sigma, 1)
    assert metrics.r_exp(padded[0], np.append(sigma, 0.0), 1) == expected


def test_goodness_of_fit_of_noise_alone_is_one():
    generator = np.random.default_rng(0)
    truth = np.full(20000, 400.0)
    counts = generator.poisson(truth).astype(float)
    fit = metrics.goodness_of_fit(counts, truth, np.sqrt(truth), parameters=0)
    assert fit == pytest.approx(1, abs=0.02)


def test_cell_error_does_not_depend_on_the_choice_of_cell():
    truth = np.array([[4.0, 0, 0], [0.3, 5.0, 0], [0.2, 0.4, 6.0]])
    other = np.array([[1, 0, 0], [1, 1, 0], [0, -1, 1]]) @ truth
    assert max(metrics.cell_error(truth, other).values()) < 1e-6
    errors = metrics.cell_error(truth, 1.01 * other)
    assert errors["a"] == pytest.approx(1)
    assert errors["volume"] == pytest.approx(100 * (1.01**3 - 1))
    assert errors["alpha"] == pytest.approx(0, abs=1e-6)


def test_hit_rate_counts_ranks_up_to_k():
    ranks = [1, 3, None, 20, 21]
    assert metrics.hit_rate(ranks, 1) == 0.2
    assert metrics.hit_rate(ranks, 20) == 0.6


@pytest.mark.parametrize(("hits", "n"), [(28, 35), (0, 10), (10, 10), (440, 500)])
def test_wilson_interval_is_that_of_scipy(hits, n):
    found = binomtest(hits, n).proportion_ci(method="wilson")
    assert metrics.wilson_interval(hits, n) == pytest.approx((found.low, found.high))


def test_more_hits_than_entries_are_refused():
    with pytest.raises(ValueError, match="3 hits of 2; give 0 to n hits"):
        metrics.wilson_interval(3, 2)


def test_bootstrap_interval_of_a_median_holds_it_as_often_as_it_says():
    generator = np.random.default_rng(1)
    inside = 0
    for seed in range(100):
        low, high = metrics.bootstrap_interval(
            generator.normal(size=60), samples=200, seed=seed
        )
        inside += low <= 0 <= high
    assert 86 <= inside <= 100  # 95 ± 4 standard deviations


def test_roc_area_counts_pairs_in_the_right_order():
    assert metrics.roc_area([1.0, 2.0], [3.0, 4.0]) == 1
    assert metrics.roc_area([3.0, 4.0], [1.0, 2.0]) == 0
    assert metrics.roc_area([1.0], [1.0]) == 0.5
    right, wrong = [0.1, 0.4, 0.4], [0.3, 0.4, 0.9, 0.2]
    pairs = [(r < w) + 0.5 * (r == w) for r in right for w in wrong]
    assert metrics.roc_area(right, wrong) == pytest.approx(np.mean(pairs))
    with pytest.raises(ValueError, match="0 right and 1 wrong"):
        metrics.roc_area([], [1.0])


def test_disordered_answer_matches_the_average_of_its_ordering_alone():
    cell = Lattice.cubic(3.75)
    places = [[0, 0, 0], [0.5, 0.5, 0], [0.5, 0, 0.5], [0, 0.5, 0.5]]
    ordered = Structure(cell, ["Au", "Cu", "Cu", "Cu"], places)
    alloy = Structure(cell, [{"Au": 0.25, "Cu": 0.75}] * 4, places)
    assert not metrics.strict_match(ordered, alloy)
    assert metrics.average_match(ordered, alloy)
    assert not metrics.average_match(ordered, ordered)
    swollen = alloy.copy()
    swollen.scale_lattice(alloy.volume * 1.03)
    assert not metrics.average_match(ordered, swollen)
    holes = Structure(cell, [{"Au": 0.2, "Cu": 0.7}] * 4, places)
    assert not metrics.average_match(ordered, holes)


def test_elements_that_share_sites_are_joined_where_they_overlap():
    cell, places = Lattice.cubic(4), [[0, 0, 0], [0.5, 0, 0], [0, 0.5, 0], [0, 0, 0.5]]
    species = [{"Fe": 0.5, "Co": 0.5}, {"Co": 0.5, "Ni": 0.5}, {"S": 0.5, "Se": 0.5}, "O"]
    found = metrics.shared_elements(Structure(cell, species, places))
    assert sorted(map(sorted, found)) == [["Co", "Fe", "Ni"], ["S", "Se"]]
