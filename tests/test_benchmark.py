import json

import numpy as np
import pandas as pd
import pytest
from pymatgen.core import Lattice, Structure
from textbook import STRUCTURES

from xrdkit import library
from xrdkit.benchmark import measured, mp20, outcomes, results, summary, summary_text
from xrdkit.benchmark.counts import (
    agreement,
    compounds,
    filtered,
    r_squared,
    rate,
    separation,
)
from xrdkit.benchmark.measured_patterns import beam_of
from xrdkit.benchmark.mixtures import ALONE, MIXED, kept
from xrdkit.benchmark.scoring import asked_of, shard_of
from xrdkit.benchmark.simulated_patterns import types_of
from xrdkit.crystal import from_structures
from xrdkit.dataset import Table
from xrdkit.types import Fit, Pattern, Problem, Radiation, Solution

ROCK_SALT = [("Na", "Cl", 5.64), ("K", "Cl", 6.29), ("Mg", "O", 4.21), ("Li", "F", 4.03)]
BEAM = Radiation((1.5406,))


def rock_salt(first, second, a):
    cell = Lattice.from_parameters(a / 2**0.5, a / 2**0.5, a / 2**0.5, 60, 60, 60)
    return Structure(cell, [first, second], [[0, 0, 0], [0.5, 0.5, 0.5]])


def caesium_chloride(first, second, a):
    return Structure(Lattice.cubic(a), [first, second], [[0, 0, 0], [0.5, 0.5, 0.5]])


@pytest.fixture(scope="module")
def table():
    structures = [rock_salt(*row) for row in ROCK_SALT]
    names = tuple(f"s{i}" for i in range(len(structures)))
    formulas = tuple(s.composition.reduced_formula for s in structures)
    return Table(names, formulas, (225,) * len(names), from_structures(structures))


@pytest.fixture(scope="module")
def known(table):
    return library.build(table)


def solution(*structures):
    """Fits of these structures with residuals 0.1, 0.2, …"""
    flat = np.zeros(2)
    fits = tuple(
        Fit(s, (), "made up", 0.1 * i, -float(i), flat, flat, flat, flat, BEAM)
        for i, s in enumerate(structures, 1)
    )
    problem = Problem(Pattern(flat, flat, BEAM), {})
    return Solution(problem, fits, (), 0.9, "confident", seconds={"refine": 0.1})


def knows(*rows):
    """A solver that answers with the structures of a formula, whatever the pattern."""

    def solve(pattern, formula, **keywords):
        made = [make(*row) for make, row in rows]
        return solution(*(s for s in made if s.composition.reduced_formula == formula))

    return solve


RIGHT = knows(*((rock_salt, row) for row in ROCK_SALT))
WRONG = knows(*((caesium_chloride, (a, b, 0.6 * cell)) for a, b, cell in ROCK_SALT))


def run(table, path, solver, **settings):
    return mp20(table, None, path, solver=solver, progress=False, **settings)


def row(*literature, residuals=None, **facts):
    """A result row made by hand: which ranks are right, which answers are valid."""
    residuals = residuals or [0.1 * i for i in range(1, len(literature) + 1)]
    fits = [
        {"literature": right, "strict": right, "heavy": right, "residual": r, "score": -r}
        for right, r in zip(literature, residuals, strict=True)
    ]
    return {"id": "x", "fits": fits, **facts}


def test_solver_that_knows_the_truth_has_every_rate_one(table, tmp_path):
    run(table, tmp_path / "r.json", RIGHT)
    counted = summary([tmp_path / "r.json"])
    for name in ("literature", "strict", "heavy"):
        hits, n, share, low, high = counted["rates"][name]["first"]
        assert (hits, n, share, high) == (4, 4, 1, 1)
        assert 0.4 < low < 0.6  # four of four say little
    assert counted["rmse"]["median rmse"][0] == pytest.approx(0, abs=1e-5)
    assert counted["verdicts"]["confident"]["first"][:2] == (4, 4)
    assert counted["filtered"]["valid only"]["first"][:2] == (4, 4)
    assert "literature" in summary_text(counted)


def test_wrong_structures_hit_nothing_and_second_place_counts_within_twenty(
    table, tmp_path
):
    run(table, tmp_path / "wrong.json", WRONG)
    assert summary([tmp_path / "wrong.json"])["rates"]["literature"]["within 20"][0] == 0
    both = [(caesium_chloride, (a, b, 0.6 * c)) for a, b, c in ROCK_SALT]
    both += [(rock_salt, one) for one in ROCK_SALT]
    run(table, tmp_path / "both.json", knows(*both))
    counted = summary([tmp_path / "both.json"])
    assert counted["rates"]["literature"]["first"][0] == 0
    assert counted["rates"]["literature"]["within 20"][0] == 4
    assert counted["auc"]["residual, all ranks"] == 0


def test_interrupted_run_goes_on_with_what_is_missing(table, tmp_path):
    path, asked = tmp_path / "r.json", []

    def stops(pattern, formula, **keywords):
        asked.append(formula)
        if len(asked) == 3:
            raise KeyboardInterrupt
        return RIGHT(pattern, formula, **keywords)

    with pytest.raises(KeyboardInterrupt):
        run(table, path, stops)
    with open(path, "a") as file:
        file.write('{"id": "s2", "formu')
    rows = run(table, path, stops)
    assert asked == ["NaCl", "KCl", "MgO", "MgO", "LiF"]
    assert [r["id"] for r in rows] == ["s0", "s1", "s2", "s3"]
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert len(lines) == 5


def test_result_file_of_other_settings_or_of_something_else_is_refused(table, tmp_path):
    path = tmp_path / "r.json"
    run(table, path, RIGHT, n=2)
    with pytest.raises(
        ValueError, match=r"was made with seed 0 \(now 1\), structures|seed 0"
    ):
        run(table, path, RIGHT, n=2, seed=1)
    path.write_text("two_theta intensity\n")
    with pytest.raises(ValueError, match="not a result file of xrdkit benchmark"):
        run(table, path, RIGHT)
    path.write_text("")
    run(table, path, RIGHT, n=1)
    assert summary([path])["entries"] == 1


def test_shards_divide_the_entries_and_are_counted_together(table, tmp_path):
    paths = [tmp_path / f"{i}.json" for i in (1, 2)]
    for i, path in enumerate(paths, 1):
        run(table, path, RIGHT, shard=(i, 2))
    assert summary(paths)["entries"] == 4
    with pytest.raises(ValueError, match="is in two of the files"):
        summary([paths[0], paths[0]])
    with pytest.raises(ValueError, match="shard 3/2; give i/k with i from 1 to k"):
        shard_of(["a"], (3, 2))
    with pytest.raises(ValueError, match="no result file given"):
        summary([])


def test_solver_that_fails_is_written_down_and_counts_as_missed(table, tmp_path):
    def fails(pattern, formula, **keywords):
        raise ValueError("3 peaks; at least 4")

    run(table, tmp_path / "r.json", fails)
    counted = summary([tmp_path / "r.json"])
    assert counted["rates"]["literature"]["first"][:2] == (0, 4)
    assert counted["errors"][0] == "s0: ValueError: 3 peaks; at least 4"
    assert "error: s0" in summary_text(counted)


def test_solver_is_told_what_the_protocol_says_and_no_more(table, known, tmp_path):
    told = {}

    def listens(pattern, formula, **keywords):
        told[formula] = keywords
        return solution()

    mp20(
        table, known, tmp_path / "a.json", cell="given", unseen="formula",
        solver=listens, progress=False,
    )  # fmt: skip
    assert told["NaCl"]["contents"] == "Na1 Cl1"
    assert told["NaCl"]["cell"] == pytest.approx((5.64 / 2**0.5,) * 3 + (60,) * 3, rel=1e-5)
    assert told["NaCl"]["exclude"] == ("NaCl",)
    mp20(
        table, known, tmp_path / "b.json", formula="reduced", solver=listens, progress=False
    )
    assert not {"contents", "cell", "exclude"} & told["NaCl"].keys()
    run(table, tmp_path / "c.json", listens, formula="elements")
    assert told[None]["elements"] == ("F", "Li")  # of the last entry
    with pytest.raises(ValueError, match="control by composition needs a formula"):
        run(table, tmp_path / "d.json", listens, formula="elements", control="composition")


def test_where_only_elements_are_told_the_formula_is_found(table, known, tmp_path):
    asked = {"formula": "elements", "sources": ("formulas",), "n": 1, "seed": 1}
    (found,) = mp20(table, known, tmp_path / "r.json", progress=False, **asked)
    assert found["fits"][0]["strict"]


def test_patterns_are_clean_disturbed_or_of_another_entry(table, tmp_path):
    seen = {}

    def listens(pattern, formula, **keywords):
        seen.setdefault(formula, []).append(pattern)
        return solution()

    for i, settings in enumerate(
        [
            {},
            {"control": "shuffled"},
            {"disturbed": True},
            {"disturbed": True, "shard": (2, 2)},
        ]
    ):
        run(table, tmp_path / f"{i}.json", listens, **settings)
    clean, other, disturbed = seen["NaCl"]
    assert clean.two_theta[0] == 5
    assert clean.two_theta[-1] == 80
    first = clean.two_theta[clean.intensity.argmax()]
    assert first == pytest.approx(31.70, abs=0.02)  # NaCl 200, Cu Kα1
    assert np.array_equal(other.intensity, seen["KCl"][0].intensity)
    assert not np.array_equal(disturbed.intensity, clean.intensity)
    again = seen["KCl"][2:]  # disturbed, and disturbed as part of a shard
    assert np.array_equal(again[0].intensity, again[1].intensity)


def test_row_says_what_the_library_holds(table, known, tmp_path):
    smaller = known.without(("NaCl",))
    rows = mp20(table, smaller, tmp_path / "r.json", solver=RIGHT, progress=False)
    assert [r["formula_held"] for r in rows] == [False, True, True, True]
    assert [r["formula_group_held"] for r in rows] == [False, True, True, True]
    counted = summary([tmp_path / "r.json"])["subsets"]
    assert counted["formula not in library"]["first"][:2] == (1, 1)
    assert counted["1–4 atoms"]["first"][1] == 4


def test_unseen_type_leaves_out_every_structure_of_that_type(table, known, tmp_path):
    asked = []

    def listens(pattern, formula, **keywords):
        asked.append((len(keywords["library"]), keywords["exclude"]))
        return solution()

    mp20(table, known, tmp_path / "r.json", unseen="type", solver=listens, progress=False)
    assert asked == [(0, (formula,)) for formula in table.formulas]
    other = caesium_chloride("Cs", "Cl", 4.12)
    assert len(types_of(known, other)) == 0
    assert len(types_of(known, rock_salt("Ag", "Br", 5.77))) == 1


def test_composition_alone_gives_the_common_type_without_looking(table, known, tmp_path):
    mp20(table, known, tmp_path / "r.json", control="composition", progress=False)
    counted = summary([tmp_path / "r.json"])
    assert counted["errors"] == []
    assert counted["rates"]["literature"]["first"][:2] == (4, 4)
    assert counted["rates"]["strict"]["first"][0] < 4  # volumes are only estimated


def test_more_entries_than_the_table_has_are_refused(table, tmp_path):
    with pytest.raises(ValueError, match="n = 9 entries of 4; give 1 to 4"):
        run(table, tmp_path / "r.json", RIGHT, n=9)
    with pytest.raises(ValueError, match="unseen='type' needs a library"):
        run(table, tmp_path / "r.json", RIGHT, unseen="type")
    with pytest.raises(ValueError, match="holds no finished entry yet"):
        summary([tmp_path / "r.json"])


def test_pxrdgen_filter_counts_valid_answers_of_valid_truths_over_all():
    rows = [row(True, valid=True), row(True, valid=False), row(False, valid=True)]
    for one in rows:
        one["fits"][0]["valid"] = True
    rows.append(row(True, valid=True))
    rows[-1]["fits"][0]["valid"] = False
    counted = filtered(rows)
    assert counted["all, with filter"]["first"][:2] == (1, 4)
    assert counted["valid only"]["first"][:2] == (1, 3)
    assert filtered([row(True)]) == {}


def test_compound_is_right_when_more_than_half_of_its_patterns_are():
    rows = [row(ok, compound="TiO2") for ok in (True, True, False)]
    rows += [row(ok, compound="NaCl") for ok in (True, False)]
    assert compounds(rows, "literature")["first"][:2] == (1, 2)


def test_patterns_of_a_compound_agree_with_the_answer_that_most_of_them_have():
    rutile, anatase = STRUCTURES["TiO2"], STRUCTURES["TiO2 141"]
    turned = rutile.copy()
    turned.make_supercell([[0, 1, 0], [1, 0, 0], [0, 0, -1]])
    answers = [rutile, turned, anatase, None]
    rows = [
        row(True, compound="TiO2", space_group=136)
        | {"first": one and one.as_dict(verbosity=0)}
        for one in answers
    ]
    salt = {"compound": "NaCl", "space_group": 225, "first": STRUCTURES["NaCl"].as_dict()}
    assert agreement([*rows, row(True) | salt])[:2] == (2, 4)
    polymorph = rows[2] | {"space_group": 141}
    assert agreement([*rows[:2], polymorph, polymorph])[:2] == (4, 4)


def test_rate_of_no_entries_is_not_known():
    assert rate(0, 0) == (0, 0, 0.0, 0.0, 1.0)


def test_mixtures_of_entries_that_are_all_wrong_alone_are_counted(tmp_path):
    path = tmp_path / "r.json"
    results.start(path, {"benchmark": "impurity"})
    for kind in (ALONE, MIXED):
        results.append(path, row(False) | {"id": f"x {kind}"})
    assert kept([path]) == {
        ALONE: rate(0, 1), MIXED: rate(0, 1), "kept": (0, 0, 0.0, 0.0, 1.0)
    }  # fmt: skip


def test_auc_says_whether_residuals_separate_right_from_wrong():
    rows = [row(True, False, False), row(False, True, residuals=[0.05, 0.5])]
    found = separation(rows)
    assert found["residual, within an entry"] == pytest.approx(0.5)  # 1 and 0
    assert found["residual, all ranks"] == pytest.approx(2 / 6)
    assert separation([row(True)])["residual, all ranks"] is None


@pytest.mark.parametrize(
    ("wavelength", "kalpha2", "known"),
    [
        (1.541838, "present", "CuKa"),
        (1.54056, "present (split doublets)", "CuKa"),
        (1.79026, "present", "CoKa"),
        (1.541838, "unknown", 1.541838),
        (0.71073, "present", 0.71073),
    ],
)
def test_solver_gets_the_wavelength_a_user_would_know(wavelength, kalpha2, known):
    assert beam_of(wavelength, kalpha2) == known


def test_synchrotron_beam_is_one_line():
    beam = beam_of(0.41365, "absent (synchrotron)")
    assert beam.wavelengths == (0.41365,)
    assert beam.kalpha2 is False


def folder_of_patterns(path):
    x = np.linspace(10, 90, 801)
    y = (
        50
        + 1000 * np.exp(-((x - 31.7) ** 2) / 0.01)
        + 400 * np.exp(-((x - 45.4) ** 2) / 0.01)
        + 200 * np.exp(-((x - 56.4) ** 2) / 0.01)
    )
    names = ("a", "b")
    for name in names:
        np.savetxt(path / f"{name}.xy", np.column_stack([x, y.round()]))
        rock_salt(*ROCK_SALT[0]).to(str(path / f"{name}.cif"))
    columns = {
        "id": names,
        "compound": "NaCl",
        "tier": ("A", "C"),
        "wavelength_A": 1.541838,
        "kalpha2": "present",
    }
    pd.DataFrame(columns).to_csv(path / "index.csv")
    return path


def test_measured_patterns_are_solved_unseen_and_every_outcome_shown(known, tmp_path):
    folder = folder_of_patterns(tmp_path)
    asked = []

    def listens(pattern, formula, **keywords):
        asked.append((formula, keywords["exclude"], pattern.radiation.name))
        return RIGHT(pattern, formula, **keywords)

    settings = {"tiers": ("A", "C"), "solver": listens, "progress": False}
    measured(folder, known, tmp_path / "r.json", **settings)
    assert asked == [("NaCl", ("NaCl",), "CuKa")] * 2
    counted = summary([tmp_path / "r.json"])
    assert counted["compounds"]["literature"]["first"][:2] == (1, 1)
    assert counted["rates"]["literature"]["first"][:2] == (2, 2)
    lines = outcomes([tmp_path / "r.json"])
    ranks = [(line["id"], line["literature"], line["strict"]) for line in lines]
    assert ranks == [("a", 1, 1), ("b", 1, 1)]


def test_measured_patterns_are_broadened_to_those_of_nanocrystals(known, tmp_path):
    folder = folder_of_patterns(tmp_path)
    seen = []

    def listens(pattern, formula, **keywords):
        seen.append((pattern, keywords["size"]))
        return solution(rock_salt(*ROCK_SALT[0]), rock_salt(*ROCK_SALT[1]))

    settings = {"tiers": ("A", "C"), "solver": listens, "progress": False}
    measured(folder, known, tmp_path / "r.json", size=50.0, **settings)
    (pattern, size), _ = seen
    assert (pattern.size, size, pattern.prepared) == (50.0, 50.0, True)
    counted = summary([tmp_path / "r.json"])
    assert set(counted["r_squared"]) == {"mean R²", "mean R² by compound"}
    assert counted["r_squared"]["mean R²"][0] == pytest.approx(0, abs=1e-6)
    with pytest.raises(ValueError, match="2 Å is outside 5–1000 Å"):
        measured(folder, known, tmp_path / "s.json", size=2.0, **settings)


def test_mean_r_squared_is_over_entries_over_compounds_and_by_system():
    fits = [[0.4, 0.1], [0.3], [0.5], []]
    rows = [
        {"id": str(i), "compound": "AABC"[i], "system": "cubic", "fits": of}
        for i, of in enumerate([{"r_squared": r} for r in part] for part in fits)
    ]
    found = {name: value[0] for name, value in r_squared(rows).items()}
    expected = (0.1 + 0.3 + 0.5 + 1) / 4, ((0.1 + 0.3) / 2 + 0.5 + 1) / 3
    assert found["mean R²"] == found["mean R² cubic"] == pytest.approx(expected[0])
    assert found["mean R² by compound"] == pytest.approx(expected[1])
    assert r_squared([{**rows[0], "fits": []}]) == {}


def test_folder_without_index_or_with_other_tiers_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"index\.csv does not exist"):
        measured(tmp_path, None, tmp_path / "r.json")
    folder_of_patterns(tmp_path)
    with pytest.raises(ValueError, match=r"tier Z is not in .*; it has A, C"):
        measured(tmp_path, None, tmp_path / "r.json", tiers=("Z",))
    pd.DataFrame({"id": ["a"]}).to_csv(tmp_path / "index.csv")
    with pytest.raises(ValueError, match="lacks columns: compound, tier"):
        measured(tmp_path, None, tmp_path / "r.json")


def test_with_weights_a_flow_is_asked_too_and_without_them_settings_stay():
    assert asked_of(("templates",), None, 5, 1) == {
        "sources": ("templates",),
        "candidates": 5,
        "seed": 1,
    }
    asked = asked_of(("templates", "flow"), "flow_mp20", 5, 1)
    assert asked["sources"] == ("templates", "flow")
    assert asked_of(("ordered",), ["flow_mp20"], 5, 1)["sources"] == ("ordered", "flow")
    assert asked["weights"] == "flow_mp20"
