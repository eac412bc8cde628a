from dataclasses import replace

import numpy as np
import pytest
from pymatgen.core import Lattice, Structure
from textbook import STRUCTURES, another_pose, table_of, with_elements

from xrdkit.crystal import conventional, from_structures, symmetry_of
from xrdkit.library import build
from xrdkit.rank import (
    FLOOR,
    OBSERVATIONS,
    SYSTEMATIC,
    alike,
    equivalent,
    fingerprint,
    log_evidence,
    merged,
    possible,
    rank,
    roomy,
    scored,
)
from xrdkit.types import Fit, Pattern, Phase, Problem, Radiation

CU = Radiation((1.5406,))
GRID = np.linspace(10, 90, 1200)
PROBLEM = Problem(Pattern(GRID, GRID, CU, prepared=True), {"Ti": 1.0, "O": 2.0})


def fit(structure, residual=0.1, parameters=6, prior=0.0, origin="by hand"):
    """A structure as refinement leaves it; its score, still to be made, is its prior."""
    lattice, frac = structure.lattice.matrix, structure.frac_coords
    numbers = np.array(structure.atomic_numbers)
    symmetry = symmetry_of(1, lattice, frac, numbers)
    phase = Phase(from_structures([structure]), symmetry)
    standard, number, symbol, sites = conventional(structure)
    curves = (GRID, np.ones_like(GRID), np.ones_like(GRID), np.zeros_like(GRID))
    return Fit(
        standard, (phase,), origin, residual, prior, *curves, CU,
        space_group=number, space_group_symbol=symbol, wyckoff=sites, prior=prior,
        parameters=parameters,
    )  # fmt: skip


POLYMORPHS = [
    STRUCTURES["TiO2"],
    STRUCTURES["TiO2 141"],
    with_elements(STRUCTURES["CaF2"], {"Ca": "Ti", "F": "O"}, 0.87),
    with_elements(STRUCTURES["FeS2"], {"Fe": "Ti", "S": "O"}, 0.87),
    with_elements(STRUCTURES["ZrO2"], {"Zr": "Ti"}, 0.93),
]


def names(fits):
    return [f.origin for f in fits]


@pytest.mark.parametrize("name", STRUCTURES)
def test_textbook_structures_are_possible(name):
    assert possible(fit(STRUCTURES[name]))


@pytest.mark.parametrize("name", ["NaCl", "TiO2", "ZnO", "Cu", "CaTiO3"])
def test_structures_at_half_their_size_are_not(name):
    half = STRUCTURES[name].copy()
    half.scale_lattice(half.volume / 8)
    assert not possible(fit(half))


def test_atoms_too_close_to_their_own_images_are_refused():
    thin = Structure(Lattice.tetragonal(6, 1.1), ["Pb"], [[0, 0, 0]])
    assert not possible(fit(thin))


def test_a_short_bond_alone_refuses_a_structure():
    apart, close = (
        Structure(Lattice.cubic(6), ["O", "O"], [[0, 0, 0], [x / 6, 0, 0]])
        for x in (1.2, 0.6)
    )
    assert possible(fit(apart))
    assert not possible(fit(close))


def test_three_times_the_usual_volume_is_refused():
    library = build(table_of([STRUCTURES["NaCl"], STRUCTURES["CsCl"]]))
    problem = Problem(PROBLEM.pattern, {"Na": 1.0, "Cl": 1.0}, library=library)
    swollen = STRUCTURES["NaCl"].copy()
    swollen.scale_lattice(3 * swollen.volume)
    assert roomy(fit(STRUCTURES["NaCl"]), problem)
    assert not roomy(fit(swollen), problem)


def test_hydrogen_may_be_as_near_as_it_is_in_water():
    hydroxide = Structure(Lattice.cubic(4), ["O", "H"], [[0, 0, 0], [0.96 / 4, 0, 0]])
    assert possible(fit(hydroxide))


@pytest.mark.parametrize("name", STRUCTURES)
def test_another_cell_origin_or_order_is_a_duplicate(name):
    generator = np.random.default_rng(5)
    one = STRUCTURES[name]
    fits = [fit(one)] + [fit(another_pose(one, generator)) for _ in range(2)]
    assert len(merged(fits)) == 1


def test_polymorphs_are_not_duplicates():
    assert len(merged([fit(s) for s in POLYMORPHS])) == len(POLYMORPHS)


def test_exchanged_elements_are_not_duplicates():
    one, other = (
        STRUCTURES["SrTiO3"],
        with_elements(STRUCTURES["SrTiO3"], {"Sr": "Ti", "Ti": "Sr"}),
    )
    assert len(merged([fit(one), fit(other)])) == 2


def test_cells_of_other_volume_are_not_duplicates():
    larger = with_elements(STRUCTURES["TiO2"], {}, 1.04)
    assert len(merged([fit(STRUCTURES["TiO2"]), fit(larger)])) == 2


def test_small_differences_of_refinement_are_duplicates():
    generator = np.random.default_rng(0)
    other = STRUCTURES["TiO2"].copy()
    other.perturb(0.02)
    moved = fit(another_pose(other, generator), parameters=30, residual=0.099)
    kept = merged(scored([moved, fit(STRUCTURES["TiO2"])]))
    assert len(kept) == 1
    assert kept[0].parameters == 6


def test_of_duplicates_the_much_better_fit_stays_however_many_parameters_it_has():
    simple, better = fit(STRUCTURES["TiO2"], 0.3), fit(STRUCTURES["TiO2"], 0.05, 20)
    assert merged(scored([simple, better]))[0].residual == 0.05


def test_merged_fit_takes_the_best_score_of_its_duplicates():
    fits = [fit(STRUCTURES["TiO2"], prior=p) for p in (3.0, 1.0, 2.0)]
    assert merged(fits)[0].score == 3.0


def test_fingerprint_does_not_depend_on_the_pose():
    generator = np.random.default_rng(2)
    for structure in POLYMORPHS:
        one, other = fit(structure), fit(another_pose(structure, generator))
        assert alike(fingerprint(one), fingerprint(other))


def test_score_falls_with_residual_and_parameters_and_rises_with_the_prior():
    base = fit(POLYMORPHS[0], 0.1, 6, 0.0, "base")
    worse = replace(base, residual=0.2, origin="worse")
    larger = replace(base, parameters=9, origin="larger")
    likelier = replace(base, prior=2.0, origin="likelier")
    assert names(scored([worse, larger, base, likelier])) == [
        "likelier", "base", "larger", "worse",
    ]  # fmt: skip


def test_score_is_the_stated_formula():
    residual, parameters = np.array([0.1, 0.3]), np.array([6.0, 8.0])
    r0, n = SYSTEMATIC * 0.1 + FLOOR, OBSERVATIONS
    expected = -n / 2 * np.log(residual**2 + r0**2) - parameters / 2 * np.log(n)
    assert np.allclose(log_evidence(residual, parameters, 50_000), expected)


def test_few_points_carry_less_evidence_than_many():
    residual, parameters = np.array([0.1, 0.3]), np.array([6.0, 6.0])
    gaps = [
        -np.diff(log_evidence(residual, parameters, n))[0] for n in (60, 300, 6000, 50_000)
    ]
    assert gaps == sorted(gaps)
    assert gaps[2] == gaps[3]


def test_ranking_does_not_depend_on_the_order_of_candidates():
    residuals = (0.12, 0.05, 0.3, 0.11, 0.2)
    fits = [fit(s, r, origin=str(r)) for s, r in zip(POLYMORPHS, residuals, strict=True)]
    first = rank(PROBLEM, fits, 20)
    for seed in range(5):
        order = np.random.default_rng(seed).permutation(len(fits))
        other = rank(PROBLEM, [fits[i] for i in order], 20)
        assert names(other.fits) == names(first.fits)
        assert [f.score for f in other.fits] == [f.score for f in first.fits]
        assert (other.groups, other.confidence) == (first.groups, first.confidence)


def test_ranking_of_duplicates_does_not_depend_on_their_order():
    residuals = (0.12, 0.05, 0.3, 0.11, 0.2)
    generator = np.random.default_rng(8)
    fits = [fit(s, r, origin=str(r)) for s, r in zip(POLYMORPHS, residuals, strict=True)]
    fits += [
        replace(fit(another_pose(s, generator), r + 0.004), origin=f"again {r}")
        for s, r in zip(POLYMORPHS, residuals, strict=True)
    ]
    expected = names(rank(PROBLEM, fits, 20).fits)
    assert len(expected) == 5
    assert names(rank(PROBLEM, fits[::-1], 20).fits) == expected


def test_groups_name_every_fit_once():
    generator = np.random.default_rng(3)
    base = fit(POLYMORPHS[0])
    residuals = np.sort(generator.uniform(0.05, 0.5, 30))
    groups = equivalent([replace(base, residual=float(r)) for r in residuals])
    assert sorted(i for group in groups for i in group) == list(range(30))
    assert 1 < len(groups) < 30


def test_impossible_structures_do_not_appear_however_well_they_fit():
    crushed = POLYMORPHS[0].copy()
    crushed.scale_lattice(crushed.volume / 8)
    solution = rank(PROBLEM, [fit(crushed, 0.01, origin="crushed"), fit(POLYMORPHS[1])], 20)
    assert names(solution.fits) == ["by hand"]


def test_count_limits_the_fits():
    fits = [fit(s, r) for s, r in zip(POLYMORPHS, (0.1, 0.2, 0.3, 0.4, 0.5), strict=True)]
    assert len(rank(PROBLEM, fits, 3).fits) == 3


def test_without_candidates_the_verdict_is_none():
    solution = rank(PROBLEM, [], 20)
    assert (solution.fits, solution.groups) == ((), ())
    assert (solution.confidence, solution.verdict) == (0.0, "none")
    assert solution.reasons == ("no source gives a possible structure",)


def test_equal_fits_are_one_group_and_the_reason_says_so():
    fits = [fit(s, 0.05) for s in POLYMORPHS[:3]]
    solution = rank(PROBLEM, fits, 20)
    assert solution.groups == ((0, 1, 2),)
    assert "3 structures fit about equally well" in solution.reasons
