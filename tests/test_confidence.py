"""How far an answer is trusted: features, probability, reasons, cases, calibration."""

import re
from dataclasses import replace

import numpy as np
import pytest
import torch
from pymatgen.core import Lattice, Structure
from test_rank import fit as fit_by_hand
from textbook import STRUCTURES, table_of, with_elements

from xrdkit import confidence as judged
from xrdkit import evidence
from xrdkit.benchmark import confidence as cases
from xrdkit.benchmark.simulated_patterns import types_of, without_truth
from xrdkit.cli.benchmarks import show_calibration
from xrdkit.confidence import TERMS, WEIGHTS, judge, probability, reasons
from xrdkit.crystal import from_structures
from xrdkit.evidence import features
from xrdkit.library import build, volume_spread
from xrdkit.pattern import prepare
from xrdkit.simulate import pattern_of
from xrdkit.types import Fit, Instrument, Pattern, Problem, Radiation

CU = Radiation((1.5406,))
GRID = np.linspace(10, 90, 4001)
GOOD = {
    "residual": 0.08,
    "noise": 0.05,
    "excess": 0.06,
    "electrons": 0.02,
    "element": 8.0,
    "deviation": 0.3,
    "unexplained": 0.02,
    "missing": 0.01,
    "unmatched": 0.0,
    "lead": 40.0,
    "parameters": 12.0,
    "lines": 40.0,
    "ties": 1.0,
    "volume": 0.0,
    "spread": 0.06,
    "shortest": 1.0,
    "texture": 0.0,
    "prior": 1.0,
}
WORSE = {
    "electrons": 0.8,
    "deviation": 4.0,
    "missing": 0.4,
    "unmatched": 0.5,
    "lead": 3.0,
    "parameters": 60.0,
    "lines": 6.0,
    "volume": -0.5,
    "shortest": 0.6,
    "texture": 1.0,
    "prior": -6.0,
}
ROCK_SALT = [("Na", "Cl", 5.64), ("K", "Cl", 6.29), ("Mg", "O", 4.21), ("Li", "F", 4.03)]


def lines_at(places, heights, width=0.15):
    """Gaussian lines on the grid."""
    shapes = np.exp(-4 * np.log(2) * ((GRID[:, None] - np.array(places)) / width) ** 2)
    return shapes @ np.array(heights, float)


PLACES, HEIGHTS = [20.0, 30.0, 41.0, 55.0, 63.0, 77.0], [0.5, 1.0, 0.7, 0.4, 0.6, 0.3]
PATTERN = Pattern(
    GRID,
    lines_at(PLACES, HEIGHTS),
    CU,
    sigma=np.full(len(GRID), 0.004),
    sigma_source="given",
    prepared=True,
)
PROBLEM = Problem(PATTERN, {"Ti": 1.0, "O": 2.0})


def fit(calculated, residual=0.1, **changed) -> Fit:
    """A fit of rutile to PATTERN whose calculated profile is given."""
    return replace(
        fit_by_hand(STRUCTURES["TiO2"], residual),
        two_theta=GRID,
        observed=PATTERN.intensity,
        calculated=calculated,
        background=np.zeros_like(GRID),
        **changed,
    )


def test_perfect_fit_leaves_nothing_unexplained_missing_or_unmatched():
    found = features(PROBLEM, [fit(PATTERN.intensity, 0.0)])
    for name in ("excess", "unexplained", "missing", "unmatched"):
        assert found[name] == 0
    assert found["lines"] == len(PLACES)
    assert found["lead"] == evidence.AHEAD


def test_line_that_is_not_calculated_is_unexplained_by_its_share_of_the_intensity():
    found = features(PROBLEM, [fit(lines_at(PLACES[:-1], HEIGHTS[:-1]))])
    share = HEIGHTS[-1] / sum(HEIGHTS)
    assert found["unexplained"] == pytest.approx(share, rel=0.03)
    assert found["missing"] == 0
    roots = np.sqrt(HEIGHTS)
    assert found["unmatched"] == pytest.approx(roots[-1] / roots.sum(), rel=0.01)


def test_line_that_is_not_observed_is_missing_by_its_share_of_the_calculated():
    found = features(PROBLEM, [fit(lines_at([*PLACES, 85.0], [*HEIGHTS, 0.5]))])
    assert found["missing"] == pytest.approx(0.5 / (sum(HEIGHTS) + 0.5), rel=0.03)
    assert found["unexplained"] == 0
    assert found["unmatched"] == 0


def test_noise_alone_is_no_misfit():
    noise = np.random.default_rng(0).normal(0, 0.02, len(GRID))
    pattern = replace(
        PATTERN, intensity=PATTERN.intensity + noise, sigma=np.full(len(GRID), 0.02)
    )
    noisy = replace(fit(PATTERN.intensity), observed=pattern.intensity)
    weight = 1 / (np.clip(pattern.intensity, 0, None) + 0.05)
    r = (weight @ noise**2 / (weight @ pattern.intensity**2)) ** 0.5
    found = features(replace(PROBLEM, pattern=pattern), [replace(noisy, residual=r)])
    assert found["noise"] == pytest.approx(r, rel=0.1)
    assert found["excess"] < 0.25 * r
    assert found["unexplained"] < 0.02
    assert found["missing"] < 0.02


def test_lead_is_that_over_the_next_structure_outside_the_group():
    fits = [fit(PATTERN.intensity, score=s) for s in (50.0, 49.0, 38.0)]
    assert features(PROBLEM, fits, (0, 1))["lead"] == 12
    assert features(PROBLEM, fits, (0, 1))["ties"] == 2
    assert features(PROBLEM, fits)["lead"] == 1


def test_volume_is_held_against_the_library_and_distances_against_radii():
    library = build(table_of([STRUCTURES["TiO2"], STRUCTURES["TiO2 141"]]))
    problem = replace(PROBLEM, library=library)
    swollen = STRUCTURES["TiO2"].copy()
    swollen.scale_lattice(1.5 * swollen.volume)
    usual, large = (
        features(problem, [fit(PATTERN.intensity, structure=s)])
        for s in (STRUCTURES["TiO2"], swollen)
    )
    assert large["volume"] - usual["volume"] == pytest.approx(np.log(1.5), abs=1e-6)
    assert usual["spread"] == volume_spread({22: 1, 8: 2})
    assert large["shortest"] / usual["shortest"] == pytest.approx(1.5 ** (1 / 3))
    assert usual["shortest"] == pytest.approx(1.95 / (1.60 + 0.66), abs=0.03)  # Ti–O
    one = Structure(Lattice.cubic(3.0), ["Cu"], [[0, 0, 0]])
    assert evidence.shortest(fit(PATTERN.intensity, structure=one)) == pytest.approx(
        3.0 / 2.64
    )


def test_features_of_nothing_are_refused_and_judge_says_it_in_words():
    with pytest.raises(ValueError, match="there are no fits"):
        features(PROBLEM, [])
    p, verdict, said, found = judge(PROBLEM, [])
    assert (p, verdict, found) == (0.0, "none", {})
    assert said == ("no source gives a possible structure",)


@pytest.mark.parametrize("name", WORSE)
def test_probability_falls_with_everything_that_speaks_against(name):
    steps = [GOOD | {name: value} for value in np.linspace(GOOD[name], WORSE[name], 30)]
    values = np.array([probability(step) for step in steps])
    assert (np.diff(values) <= 1e-12).all()
    assert (values > 0).all()
    assert (values < 1).all()


def test_weights_have_one_sign_and_one_term_and_one_sentence_each():
    assert WEIGHTS.keys() == TERMS.keys() == judged.SENTENCES.keys()
    assert all(weight <= 0 for weight in WEIGHTS.values())


def test_probability_is_bounded_for_the_worst_and_the_best():
    best = GOOD | {"missing": 0.0, "electrons": 0.0}
    assert 0 <= probability(GOOD | WORSE) < 0.01
    assert judged.CONFIDENT < probability(best) <= 1


def test_reasons_name_what_pulls_the_probability_down():
    bad = GOOD | {"unexplained": 0.12, "missing": 0.5, "lines": 6.0, "ties": 3.0}
    text = "; ".join(reasons(bad))
    assert "12% of the intensity is not explained" in text
    assert "fewer lines than parameters: 6 lines, 12 parameters" in text
    assert "50% of the calculated intensity is not observed" in text
    assert "3 structures fit about equally well" in text
    assert "no other structure comes near" in reasons(GOOD)[0]


@pytest.mark.parametrize(("ln", "words"), [(0.3, "35% more"), (-0.3, "26% fewer")])
def test_reason_names_the_element_that_the_pattern_asks_about(ln, words):
    bad = GOOD | {"electrons": ln, "deviation": 5.0, "element": 57.0}
    assert reasons(bad)[0] == (
        f"the pattern asks for {words} electrons on La (5.0 standard deviations)"
    )


def test_answer_that_is_not_confident_gets_a_reason_even_where_all_are_small():
    middling = GOOD | {"deviation": 1.2, "lines": 20.0, "noise": 0.3, "volume": -0.15}
    assert max(-loss for loss in judged.losses(middling).values()) < judged.PULLED
    assert judged.NONE < probability(middling) < judged.CONFIDENT
    worst = min(WEIGHTS, key=judged.losses(middling).__getitem__)
    assert reasons(middling) == (judged.SENTENCES[worst](middling),)


def test_of_the_smallest_crystals_it_is_said_that_the_probability_is_of_larger_ones():
    said = [
        judge(
            replace(PROBLEM, pattern=replace(PATTERN, size=size)), [fit(PATTERN.intensity)]
        )
        for size in (10.0, 100.0, None)
    ]
    assert "crystals of 10 Å are so broad" in said[0][2][-1]
    assert not any("broad" in reason for one in said[1:] for reason in one[2])


def test_judge_puts_a_good_fit_before_a_bad_one():
    good = judge(PROBLEM, [fit(PATTERN.intensity, 0.02, parameters=2)])
    bad = judge(PROBLEM, [fit(lines_at([25.0, 36.0], [1.0, 1.0]), 0.95, parameters=12)])
    assert good[0] > judged.CONFIDENT
    assert good[1] == "confident"
    assert bad[0] < judged.NONE
    assert bad[1] == "none"
    assert any("of the intensity is not explained" in reason for reason in bad[2])
    assert bad[3]["unmatched"] == pytest.approx(1)


@pytest.fixture(scope="module")
def table():
    cell = [Lattice.from_parameters(*[a / 2**0.5] * 3, 60, 60, 60) for *_, a in ROCK_SALT]
    structures = [
        Structure(c, row[:2], [[0, 0, 0], [0.5, 0.5, 0.5]])
        for c, row in zip(cell, ROCK_SALT, strict=True)
    ]
    return table_of([*structures, STRUCTURES["SrTiO3"], STRUCTURES["CsCl"]])


def test_electrons_say_which_element_the_pattern_asks_for():
    beam, instrument = PATTERN.radiation, Instrument(w=0.01)
    grid = (10.0, 90.0, 1601)
    true = STRUCTURES["SrTiO3"]
    wrong = with_elements(true, {"Sr": "Ca"})
    curves = {}
    for name, structure in (("true", true), ("wrong", wrong)):
        crystal = from_structures([structure])
        curves[name] = (
            crystal,
            pattern_of(crystal, beam, two_theta=grid, instrument=instrument),
        )
    observed = curves["true"][1]

    def held_against(name):
        crystal, pattern = curves[name]
        scale = observed.intensity @ pattern.intensity / (pattern.intensity**2).sum()
        own = replace(fit_by_hand(true).phases[0], crystal=crystal)
        return replace(
            fit_by_hand(true),
            phases=(own,),
            two_theta=observed.two_theta,
            observed=observed.intensity,
            calculated=scale * pattern.intensity,
            background=np.zeros(len(observed)),
            instrument=instrument,
        )

    right = evidence.electrons(held_against("true"))
    assert max(abs(ln) for ln, _ in right.values()) < 1e-3
    asked = evidence.electrons(held_against("wrong"))
    assert asked[20][0] - asked[22][0] > 0.2  # more electrons on Sr's site than Ca has
    assert max(asked, key=asked.get) == 20
    ln, error = asked[20]
    assert 0 < error < evidence.OFF
    assert ln / error > 2


def test_type_that_gives_a_structure_by_merging_or_dividing_species_is_found():
    heusler = Structure.from_spacegroup(
        225, Lattice.cubic(5.95), ["Mn", "Al", "Cu"], [[0] * 3, [0.5] * 3, [0.25] * 3]
    )
    caesium_chloride = STRUCTURES["CsCl"]
    library = build(table_of([heusler, STRUCTURES["NaCl"]]))
    found = types_of(library, caesium_chloride)
    assert len(found) == 1
    assert len(library.without_types(found)) == 1
    assert library.without_types(found).holds("NaCl")
    parent = with_elements(caesium_chloride, {"Cs": "Ni", "Cl": "Cu"})
    assert len(types_of(build(table_of([parent])), heusler)) == 1


def test_distorted_type_goes_too_when_it_could_be_refined_into_the_structure():
    distorted = STRUCTURES["TiO2"].copy()
    generator = np.random.default_rng(0)
    for site in distorted:
        site.coords = site.coords + generator.normal(0, 0.08, 3)
    library = build(table_of([distorted, STRUCTURES["CsCl"]]))
    assert library.space_group.min() < 136
    assert len(types_of(library, STRUCTURES["TiO2"])) == 1
    rest = without_truth(library, STRUCTURES["TiO2"], "TiO2", "type", within=0.3)
    assert len(rest) == 1


def test_other_formula_has_the_same_elements_or_one_that_x_rays_tell_apart(table):
    from pymatgen.core import Composition, Element

    for row, formula in enumerate(table.formulas):
        other = Composition(cases.other_formula(table, row))
        own = Composition(formula)
        assert other.reduced_formula != own.reduced_formula
        lost, gained = (set(a) - set(b) for a, b in ((own, other), (other, own)))
        assert len(lost) == len(gained) <= 1
        for old, new in zip(lost, gained, strict=True):
            assert Element(old).group == Element(new).group
            assert abs(old.Z - new.Z) >= max(8, cases.SEEN * old.Z)
    both = table_of([STRUCTURES["TiO2"], with_elements(STRUCTURES["SrTiO3"], {"Sr": "Ti"})])
    assert cases.other_formula(both, 0) == both.formulas[1]


def intensity_of(table, kind, row=0, other=5):
    generator = torch.Generator().manual_seed(3)
    pattern = cases.pattern_for(table, row, other, kind, generator)
    return pattern, prepare(pattern).intensity.sum()


def test_kinds_change_the_pattern_as_they_say(table):
    patterns = {kind: intensity_of(table, kind)[0] for kind in cases.KINDS}
    known = patterns["known"]
    for kind in ("type removed", "wrong formula"):
        assert np.array_equal(patterns[kind].intensity, known.intensity)
    assert patterns["wrong wavelength"].radiation.main != known.radiation.main
    assert np.array_equal(patterns["wrong wavelength"].intensity, known.intensity)
    strongest = known.two_theta[known.intensity.argmax()]
    assert strongest == pytest.approx(31.7, abs=0.4)  # NaCl 200
    absent = patterns["absent phase"]
    assert absent.two_theta[absent.intensity.argmax()] == pytest.approx(
        30.7, abs=0.4
    )  # CsCl
    assert patterns["amorphous hump"].intensity.sum() > 1.2 * known.intensity.sum()


def test_foreign_phase_is_the_larger_share_and_an_impurity_the_smaller(table):
    alone, mixed, little = (
        prepare(intensity_of(table, kind)[0])
        for kind in ("known", "foreign phase", "impurity")
    )

    def area(pattern, centre):
        near = np.abs(pattern.two_theta - centre) < 1.2
        return pattern.intensity[near].sum() / pattern.intensity.sum()

    own = [area(p, 45.6) for p in (alone, little, mixed)]  # NaCl 220
    assert own[0] > own[1] > own[2] > 0
    assert own[1] / own[0] == pytest.approx(0.7, abs=0.12)
    assert own[2] / own[0] == pytest.approx(0.35, abs=0.12)


def test_case_hides_the_formula_and_where_asked_the_type(table):
    library = build(table)
    keywords = {"sources": ("templates",), "candidates": 5, "seed": 0}
    name = table.ids[0]
    known = cases.case(table, library, keywords, f"{name} known")
    removed = cases.case(table, library, keywords, f"{name} type removed")
    wrong = cases.case(table, library, keywords, f"{name} wrong formula")
    assert not known.keywords["library"].holds("NaCl")
    assert known.keywords["library"].holds("KCl")
    assert not removed.keywords["library"].holds("KCl")
    assert removed.keywords["library"].holds("SrTiO3")
    assert wrong.formula != known.formula == "NaCl"
    assert wrong.facts["kind"] == "wrong formula"
    again = cases.case(table, library, keywords, f"{name} known")
    assert np.array_equal(known.pattern.intensity, again.pattern.intensity)


def test_run_is_resumed_and_unknown_kinds_are_refused(table, tmp_path):
    asked = []

    def solver(pattern, formula, **keywords):
        asked.append(formula)
        raise ValueError("nothing")

    settings = {"kinds": ("known", "impurity"), "n": 2, "progress": False}
    for _ in range(2):
        rows = cases.confidence(table, None, tmp_path / "r.json", solver=solver, **settings)
    assert len(asked) == len(rows) == 4
    assert {row["kind"] for row in rows} == {"known", "impurity"}
    with pytest.raises(ValueError, match="kind 'odd' is not known; choose from known"):
        cases.confidence(table, None, tmp_path / "s.json", kinds=("odd",))
    one = table.select([0])
    with pytest.raises(ValueError, match="all rows have one formula"):
        cases.stranger(one, 0, torch.Generator())


def synthetic(count, seed, bias=5.0, weights=None):
    """Rows whose answers are right with the probability of a known model."""
    generator = np.random.default_rng(seed)
    weights = weights or {"unmatched": -2.0, "rival": -1.0}
    rows = []
    for i in range(count):
        found = GOOD | {
            "unmatched": generator.uniform(0, 0.8),
            "lead": generator.uniform(3, 40),
            "missing": generator.uniform(0, 0.5),
        }
        logit = bias + sum(w * TERMS[name](found) for name, w in weights.items())
        p = 1 / (1 + np.exp(-logit))
        hit = bool(generator.uniform() < p)
        match = {name: hit for name in ("literature", "strict", "heavy", "mirror")}
        rows.append(
            {"id": f"x{i} known", "kind": "known", "fits": [match], "group": [0]}
            | {"features": found, "confidence": p}
            | {"verdict": "confident" if p >= 0.9 else "tentative"}
        )
    return rows


def test_calibration_recovers_known_weights():
    bias, weights = cases.fit_confidence(synthetic(20_000, 0), pull=1e-3)
    assert weights["unmatched"] == pytest.approx(-2, abs=0.2)
    assert weights["rival"] == pytest.approx(-1, abs=0.2)
    assert weights["missing"] == pytest.approx(0, abs=0.3)
    constant = bias + sum(
        weights[k] * TERMS[k](GOOD)
        for k in weights
        if k not in ("unmatched", "rival", "missing")
    )
    assert constant == pytest.approx(5, abs=0.4)
    assert all(weight <= 0 for weight in weights.values())


def test_calibration_needs_right_and_wrong_rows():
    rows = [row for row in synthetic(200, 1) if cases.right(row)]
    with pytest.raises(
        ValueError, match=f"{len(rows)} rows are all right; give some of each"
    ):
        cases.fit_confidence(rows)


def test_reliability_of_a_true_probability_is_on_the_diagonal():
    rows = synthetic(20_000, 2)
    found = cases.reliability(rows)
    p = np.array([row["confidence"] for row in rows])
    assert found["ece"] < 0.02
    assert found["brier"] == pytest.approx((p * (1 - p)).mean(), abs=0.005)
    wrong, confident, bound = found["all"]["wrong"]
    assert confident == (p >= 0.9).sum()
    assert wrong == pytest.approx((1 - p)[p >= 0.9].sum(), abs=4 * confident**0.5 * 0.3)
    assert wrong / confident < bound < wrong / confident + 0.02
    covered, _ = found["all"]["coverage"]
    assert covered == confident - wrong
    assert sum(n for n, *_ in found["bins"]) == len(rows)
    over = [row | {"confidence": min(1.0, row["confidence"] + 0.2)} for row in rows]
    assert cases.reliability(over)["ece"] > 0.1


FAILED = {"id": "e known", "kind": "known", "fits": [], "error": "ValueError: no"}


def test_rows_with_an_error_count_as_not_right_and_not_confident():
    rows = synthetic(300, 5)
    both = [*rows, FAILED]
    assert not cases.right(FAILED)
    assert cases.fit_confidence(both) == cases.fit_confidence(rows)
    alone, found = cases.reliability(rows)["all"], cases.reliability(both)["all"]
    assert found == {**alone, "n": 301}
    assert cases.threshold(both) == cases.threshold(rows)
    assert cases.threshold([FAILED], limit=1.0) == 0.0
    with pytest.raises(ValueError, match="there are no rows to count"):
        cases.reliability([])


def test_recalibrated_rows_are_judged_as_answers_are():
    fits = [fit(lines_at(PLACES[:-1], HEIGHTS[:-1]), 0.2, parameters=9)]
    p, verdict, _, found = judge(PROBLEM, fits)
    row = {"id": "x", "features": found, "confidence": 0.0, "verdict": "none"}
    again, failed = cases.recalibrated([row, FAILED], judged.BIAS, WEIGHTS)
    assert (again["confidence"], again["verdict"]) == (p, verdict)
    assert again["features"] == found
    assert failed == FAILED
    verdicts = [
        cases.recalibrated([row], bias, dict.fromkeys(WEIGHTS, 0.0))[0]["verdict"]
        for bias in (-5.0, 0.0, 5.0)
    ]
    assert verdicts == ["none", "tentative", "confident"]


def test_fitted_weights_and_what_they_are_worth_are_printed(capsys):
    rows = synthetic(400, 6)
    show_calibration(rows)
    said = capsys.readouterr().out
    halves = [[row for row in rows if cases.half(row) == i] for i in (0, 1)]
    bias, weights = cases.fit_confidence(halves[0])
    assert f"fitted to {len(halves[0])} rows, counted on {len(halves[1])} others" in said
    shown = dict(re.findall(r"^(\w+) +(-?[\d.e-]+)$", said, re.M))
    assert shown.keys() == {"bias", *TERMS}
    assert float(shown["bias"]) == pytest.approx(bias, abs=1e-4)
    assert float(shown["unmatched"]) == pytest.approx(weights["unmatched"], abs=1e-4)
    found = cases.reliability(cases.recalibrated(halves[1], bias, weights))
    assert f"brier: {found['brier']}" in said


def test_threshold_leaves_few_wrong_and_is_one_where_nothing_is_sure():
    rows = synthetic(20_000, 3)
    least = cases.threshold(rows, limit=0.1)
    above = [row for row in rows if row["confidence"] >= least]
    assert sum(not cases.right(row) for row in above) <= 0.1 * len(above)
    assert 0.5 < least < 0.95
    wrong = [row for row in rows if not cases.right(row)]
    assert cases.threshold(wrong) == 1.0


def test_halves_are_about_equal_and_keep_the_kinds_of_an_entry_together():
    halves = [cases.half({"id": f"mp-{i} known"}) for i in range(1000)]
    assert 430 < sum(halves) < 570
    assert cases.half({"id": "mp-7 known"}) == cases.half({"id": "mp-7 type removed"})


def test_structure_without_a_line_in_range_gets_no_confidence():
    nothing = fit(np.zeros_like(PATTERN.intensity), 1.0)
    p, verdict, said, _ = judge(PROBLEM, [nothing])
    assert (p, verdict) == (0.0, "none")
    assert said == ("no line of the first structure lies in the measured range",)
