import warnings
from dataclasses import replace

import numpy as np
import pytest
import torch
from candidates import candidate_of
from pymatgen.analysis.structure_matcher import StructureMatcher
from pymatgen.core import Lattice, Structure
from textbook import STRUCTURES, another_pose, table_of, with_elements

from xrdkit.crystal import from_structures
from xrdkit.generators import templates
from xrdkit.generators.asked import Asked
from xrdkit.library import Library, build
from xrdkit.problem import pose
from xrdkit.rank import possible
from xrdkit.refine.batch import refine_steps
from xrdkit.simulate import pattern_of, realistic
from xrdkit.solve import Laps, refined, run, search, solve, solve_steps
from xrdkit.types import Instrument, Pattern, Progress, Radiation, Solution
from xrdkit.wavelengths import radiation as beam

PEAKS = Instrument(w=0.01, y=0.05)
STRICT = StructureMatcher(ltol=0.05, stol=0.2, angle_tol=3, scale=False)
TYPES = ("templates",)
SWAPS = {
    "Na": "K", "Cl": "Br", "Cs": "Tl", "Zn": "Cd", "S": "Te", "Ca": "Sr", "F": "Cl",
    "Sr": "Ba", "Ti": "Sn", "O": "F", "Fe": "Ru", "Cu": "Ag", "Al": "Cr", "Mg": "Mn",
    "La": "Eu", "Si": "Ge", "C": "B", "Pb": "Bi", "Zr": "Hf", "Nb": "Ta", "Li": "Na",
    "Ni": "Co", "As": "Sb", "Mo": "W", "K": "Rb", "W": "Mo",
}  # fmt: skip


@pytest.fixture(scope="module")
def library() -> Library:
    """The textbook structures, and all of them with other elements and longer edges.

    ``solved`` leaves out the formula asked for, so that only its relatives help.
    """
    generator = np.random.default_rng(4)
    swapped = [another_pose(relative(s), generator) for s in STRUCTURES.values()]
    return build(table_of([*STRUCTURES.values(), *swapped]))


@pytest.fixture(scope="module")
def few(library) -> Library:
    """The types of up to six atoms, without TiO2: quicker where the rest is not asked."""
    large = np.unique(library.kind[library.counts > 6])
    return library.without_types(large).without(("TiO2",))


@pytest.fixture(scope="module")
def solved(library):
    def solve_quietly(pattern: Pattern, formula: str, **given) -> Solution:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            given = {"library": library.without((formula,)), "progress": False, **given}
            return solve(pattern, formula, **given)

    return solve_quietly


@pytest.fixture(scope="module")
def steps(library) -> list[Progress | Solution]:
    """Every step of solving rutile, and last the solution."""

    def recorded():
        pattern, known = measured("TiO2", beam("CuKa")), library.without(("TiO2",))
        yield (yield from solve_steps(pattern, "TiO2", library=known))

    return list(recorded())


def relative(structure: Structure) -> Structure:
    return with_elements(structure, SWAPS, 1.06)


def measured(name: str, radiation: Radiation, seed: int = 0) -> Pattern:
    """A pattern of a textbook structure as counts with background and noise."""
    span = (10.0, 90.0) if radiation.main > 1 else (4.0, 40.0)
    clean = pattern_of(
        from_structures([STRUCTURES[name]]),
        radiation,
        two_theta=(*span, 3201),
        instrument=PEAKS if radiation.main > 1 else replace(PEAKS, w=0.0009, y=0.02),
    )
    noise = torch.Generator().manual_seed(seed)
    return realistic(clean, noise, counts=50_000.0, background=0.03)


@pytest.fixture(scope="module")
def rutile(steps) -> Solution:
    return steps[-1]


@pytest.fixture(scope="module")
def again(solved) -> Solution:
    """Rutile once more, eight answers."""
    return solved(measured("TiO2", beam("CuKa")), "TiO2", candidates=8)


def right(solution: Solution, name: str) -> bool:
    return STRICT.fit(solution.fits[0].structure, STRUCTURES[name])


def formula_of(name: str) -> str:
    return STRUCTURES[name].composition.reduced_formula


def test_rutile_is_found_from_tin_fluoride_with_cell_and_coordinate(rutile):
    best = rutile.fits[0]
    assert right(rutile, "TiO2")
    assert (best.space_group, best.space_group_symbol) == (136, "P4_2/mnm")
    assert sorted(best.wyckoff.split(", ")) in (["O 4f", "Ti 2a"], ["O 4f", "Ti 2b"])
    assert best.structure.lattice.abc == pytest.approx((4.594, 4.594, 2.959), abs=0.005)
    oxygen = best.structure.frac_coords[best.structure.atomic_numbers.index(8)]
    assert min(oxygen[0] % 0.5, 0.5 - oxygen[0] % 0.5) == pytest.approx(0.195, abs=0.01)
    assert best.origin.startswith("AB2 136 2")


def test_good_fit_is_good_in_every_respect(rutile):
    best = rutile.fits[0]
    assert best.residual < 0.15
    assert rutile.verdict == "confident"
    assert rutile.confidence > 0.6
    assert len(best.observed) == len(best.calculated) == len(best.two_theta)
    assert best.residual == min(fit.residual for fit in rutile.fits)


def test_fits_come_best_first_and_are_distinct(rutile):
    scores = [fit.score for fit in rutile.fits]
    assert scores == sorted(scores, reverse=True)
    named = sorted(i for group in rutile.groups for i in group)
    assert named == list(range(len(scores)))
    volumes = {(f.space_group, round(f.structure.volume, 1)) for f in rutile.fits}
    assert len(volumes) == len(scores)


def test_every_answer_has_the_composition_asked_for(rutile):
    formulas = {f.structure.composition.reduced_formula for f in rutile.fits}
    assert formulas == {"TiO2"}


def slow(*values):
    return pytest.param(*values, marks=pytest.mark.slow)


TEXTBOOK = (
    "Al2O3",
    *map(slow, ("NaCl", "CsCl", "ZnO", "SrTiO3", "TiO2 141", "FeS2", "MgAl2O4")),
    *map(slow, ("CuO", "LiGaO2")),
)
SYNCHROTRON = Radiation((0.4959,), polarisation=0.97)


@pytest.mark.parametrize("name", TEXTBOOK)
def test_textbook_structure_is_ranked_first_with_copper_radiation(name, solved):
    assert right(solved(measured(name, beam("CuKa")), formula_of(name)), name)


@pytest.mark.parametrize(
    ("name", "radiation"),
    [
        ("NaCl", beam("MoKa1")),
        slow("TiO2", beam("CoKa")),
        slow("CaTiO3", beam("CoKa")),
        slow("TiO2", SYNCHROTRON),
        slow("SiO2", SYNCHROTRON),
    ],
)
def test_textbook_structure_is_ranked_first_with_other_radiation(name, radiation, solved):
    assert right(solved(measured(name, radiation), formula_of(name)), name)


@pytest.mark.parametrize(("doublet", "name"), [(True, "CuKa"), (False, "CuKa1")])
def test_bare_wavelength_finds_out_whether_the_doublet_is_there(doublet, name, solved, few):
    bare = beam(1.5406)
    assert bare.kalpha2 is None
    pattern = replace(measured("TiO2", beam(name)), radiation=bare)
    solution = solved(pattern, "TiO2", library=few)
    assert len(solution.fits[0].radiation.wavelengths) == 1 + doublet
    assert right(solution, "TiO2")


def test_cells_are_looked_for_once_and_for_those_alone_that_draw_in_them(few):
    told = []

    def noting(problem, **settings):
        told.append(problem.cells)
        return []
        yield

    problem = pose(measured("CsCl", beam("CuKa")), "CsCl", library=few)
    asked = [Asked(noting, lambda *_: True, indexed) for indexed in (True, False, True)]
    steps = list(search(problem, asked, torch.Generator(), torch.device("cpu"), Laps()))
    assert told[0] == told[2]
    assert len(told[0]) > 0
    assert told[1] == ()
    assert sum(s.message == "cP" for s in steps if s.stage == "index") == 1


def test_a_fit_that_a_second_refinement_spoils_stays_as_it_was(few):
    """Of LiOH, whose H the second pattern draws to 0.44 Å from O."""

    def posed(z):
        cell = Lattice.tetragonal(3.55, 4.33)
        sites = [[0, 0, 0], [0, 0.5, 0.194], [0, 0.5, z]]
        crystal = Structure.from_spacegroup(129, cell, ["Li", "O", "H"], sites)
        pattern = pattern_of(
            from_structures([crystal]),
            beam("CuKa"),
            two_theta=(10, 90, 3000),
            instrument=PEAKS,
        )
        return crystal, pose(pattern, "LiOH", library=few)

    cpu = torch.device("cpu")
    crystal, first = posed(0.407)
    before = run(refined(first, [candidate_of(crystal)], [], cpu), False)
    second = posed(0.286)[1]
    (spoiled,) = run(refine_steps(second.pattern, [candidate_of(crystal)]), False)
    assert not possible(spoiled)
    (after,) = run(refined(second, [], before, cpu), False)
    assert after.structure == before[0].structure


def test_space_group_given_admits_no_other(solved, few):
    pattern = measured("TiO2", beam("CuKa"))
    solution = solved(pattern, "TiO2", library=few, space_group="P4_2/mnm")
    assert right(solution, "TiO2")
    assert all(fit.space_group == 136 for fit in solution.fits)


def test_contents_given_admit_no_other(solved, few):
    pattern = measured("TiO2", beam("CuKa"))
    solution = solved(pattern, "TiO2", library=few, contents="Ti2 O4", sources=TYPES)
    assert right(solution, "TiO2")
    for fit in solution.fits:
        assert len(fit.phases[0].crystal.numbers) == 6


def test_wrong_space_group_leaves_the_right_structure_out(solved, few):
    pattern = measured("TiO2", beam("CuKa"))
    solution = solved(pattern, "TiO2", library=few, space_group=225, sources=TYPES)
    assert not any(STRICT.fit(f.structure, STRUCTURES["TiO2"]) for f in solution.fits)
    assert solution.verdict != "confident"


@pytest.mark.parametrize("sources", [TYPES, slow((*TYPES, "ordered", "hydrogen"))])
def test_excluded_formula_takes_its_templates_away(solved, few, sources):
    pattern = measured("TiO2", beam("CuKa"))
    relatives = ("F2Sn",)  # what rutile was solved from
    given = {"library": few, "exclude": relatives, "sources": sources}
    solution = solved(pattern, "TiO2", **given)
    assert not any("AB2 136" in f.origin or "AB2 141" in f.origin for f in solution.fits)
    assert not any(STRICT.fit(f.structure, STRUCTURES["TiO2"]) for f in solution.fits)
    assert solution.problem.exclude == {"F2Sn"}
    assert solution.verdict != "confident"


def test_formula_without_a_type_gives_no_verdict_and_no_crash(solved):
    solution = solved(measured("TiO2", beam("CuKa")), "Ti7O11", sources=TYPES)
    assert solution.fits == ()
    assert (solution.verdict, solution.confidence) == ("none", 0.0)
    assert "no source gives" in solution.reasons[0]


@pytest.mark.slow
def test_pattern_of_another_compound_is_not_explained(solved):
    solution = solved(measured("CaCO3", beam("CuKa")), "NaCl")
    assert solution.verdict == "none"
    assert solution.confidence < 0.2


def test_same_seed_gives_the_same_answer(rutile, again):
    for one, other in zip(rutile.fits[:8], again.fits, strict=True):
        assert (one.score, one.residual) == (other.score, other.residual)
        assert one.structure == other.structure


def test_scale_of_the_counts_does_not_change_the_answer(solved, few):
    pattern = measured("TiO2", beam("CuKa"))
    louder = replace(pattern, intensity=pattern.intensity * 7.5, sigma=None)
    quieter = replace(pattern, sigma=None)
    one, other = (solved(p, "TiO2", library=few).fits[0] for p in (louder, quieter))
    assert one.residual == pytest.approx(other.residual, abs=1e-3)
    assert STRICT.fit(one.structure, other.structure)


def test_candidates_limits_the_fits(rutile, again):
    assert len(again.fits) == 8 < len(rutile.fits)


def test_unknown_source_is_refused_with_the_known_ones(solved):
    with pytest.raises(
        ValueError, match="source 'magic' is not known; choose from templates"
    ):
        solved(measured("TiO2", beam("CuKa")), "TiO2", sources=("magic",))


def test_a_function_serves_as_a_source(solved, few):
    asked = []

    def three(problem, *, count, generator, device):
        asked.append((problem.formula, count, device.type))
        steps = templates.propose(problem, count=3, generator=generator, device=device)
        return (yield from steps)

    solution = solved(measured("TiO2", beam("CuKa")), "TiO2", library=few, sources=(three,))
    assert asked == [({"Ti": 1, "O": 2}, 300, "cpu")]
    assert 1 <= len(solution.fits) <= 3


def test_steps_yield_progress_and_return_the_solution(steps):
    *seen, answer = steps
    assert all(isinstance(step, Progress) for step in seen)
    assert all(0 <= step.done <= step.total for step in seen)
    assert "refine" in {step.stage for step in seen}
    assert isinstance(answer, Solution)
    assert right(answer, "TiO2")


def test_settings_and_seconds_are_kept(rutile):
    solution = rutile
    assert solution.settings["formula"] == "TiO2"
    assert solution.settings["seed"] == 0
    assert list(solution.seconds) == ["prepare", "propose", "refine", "rank", "explain"]
    assert all(value >= 0 for value in solution.seconds.values())


def test_close_stops_the_source_at_once(library):
    ended = []

    def endless(problem, *, count, generator, device):
        try:
            while True:
                yield Progress("endless", 0, 1)
        finally:
            ended.append(True)

    pattern = measured("TiO2", beam("CuKa"))
    steps = solve_steps(pattern, "TiO2", library=library, sources=(endless,))
    assert next(steps).stage == "endless"
    steps.close()
    assert ended == [True]
    with pytest.raises(StopIteration):
        next(steps)


def test_run_shows_a_bar_only_when_asked(capsys):
    def two_steps():
        yield Progress("refine", 1, 2, message="best 0.1")
        yield Progress("refine", 2, 2)
        return "answer"

    assert run(two_steps(), progress=False) == "answer"
    assert capsys.readouterr().err == ""
    assert run(two_steps(), progress=True) == "answer"
    assert "refine" in capsys.readouterr().err


def test_bad_formula_stops_before_any_work(library):
    with pytest.raises(ValueError, match="write TiO2"):
        solve(measured("TiO2", beam("CuKa")), "Ti02", library=library, progress=False)


@pytest.mark.slow
def test_answers_to_a_wrong_formula_have_it_all_the_same(solved):
    solution = solved(measured("TiO2", beam("CuKa")), "Ti2O3")
    assert len(solution.fits) > 1
    assert any("parent" in fit.origin for fit in solution.fits)  # with vacancies
    for fit in solution.fits:
        ratio = fit.structure.composition["O"] / fit.structure.composition["Ti"]
        assert ratio == pytest.approx(1.5, abs=0.01)
