"""The last stage of solve: full-profile refinement of the best answers."""

from dataclasses import replace

import gemmi
import numpy as np
import pytest
from textbook import STRUCTURES

from xrdkit.crystal import from_structures
from xrdkit.pattern import prepare
from xrdkit.rank import rank
from xrdkit.refine.final import answer, check_engine, refined_steps, scores_of
from xrdkit.report import write_solution
from xrdkit.report.curves import curves_of
from xrdkit.simulate import pattern_of
from xrdkit.solve import run, solve
from xrdkit.types import Fit, Instrument, Pattern
from xrdkit.wavelengths import radiation

CU = radiation("CuKa")
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def measured() -> Pattern:
    """Rutile as counted, with Poisson noise and a level background."""
    clean = pattern_of(
        from_structures([STRUCTURES["TiO2"]]),
        CU,
        two_theta=(20, 90, 3501),
        instrument=Instrument(w=0.01, x=0.03),
    )
    counts = np.random.default_rng(3).poisson(4000 * clean.intensity + 60).astype(float)
    return replace(
        clean,
        intensity=counts,
        sigma=np.sqrt(np.maximum(counts, 1)),
        sigma_source="counts",
    )


@pytest.fixture(scope="module")
def plain(measured):
    return solve(measured, "TiO2", sources=("templates",), candidates=5, progress=False)


@pytest.fixture(scope="module")
def solution(plain, measured):
    return run(refined_steps(plain, measured, "builtin"), False)


def test_best_answer_is_refined_by_full_profile_within_its_errors(solution):
    best, truth = solution.fits[0], STRUCTURES["TiO2"]
    assert best.engine == "rietveld"
    assert best.space_group == 136
    assert best.r_values["gof"] == pytest.approx(1, abs=0.08)
    for name, right in zip("ac", (truth.lattice.a, truth.lattice.c), strict=True):
        assert abs(best.values[name] - right) < 3 * best.uncertainties[name]


def test_solve_goes_on_to_the_full_profile_where_an_engine_is_named(measured):
    found = solve(measured, "TiO2", engine="builtin", candidates=5, progress=False)
    assert found.fits[0].engine == "rietveld"
    assert "full profile" in found.seconds
    assert found.settings["engine"] == "builtin"


def test_what_was_known_of_an_answer_stays(solution, plain):
    for name in ("origin", "prior", "known", "residual", "determined", "wyckoff"):
        assert getattr(solution.fits[0], name) == getattr(plain.fits[0], name)
    assert solution.fits[0].score == plain.fits[0].score
    assert (solution.confidence, solution.groups) == (plain.confidence, plain.groups)


def by_hand(fit: Fit, r_wp_b: float, parameters: int) -> Fit:
    return replace(fit, r_values={"r_wp_b": r_wp_b}, parameters=parameters)


def test_lower_r_wins_only_where_it_is_worth_its_parameters(solution):
    fit = solution.fits[0]
    clearly = {0: by_hand(fit, 20.0, 10), 1: by_hand(fit, 10.0, 15)}
    barely = {0: by_hand(fit, 10.1, 10), 1: by_hand(fit, 10.0, 30)}
    assert (s := scores_of((fit, fit), clearly))[1] > s[0]
    assert (s := scores_of((fit, fit), barely))[0] > s[1]
    assert max(s.values()) == fit.score
    unlikely = replace(fit, prior=fit.prior - 80)
    assert (s := scores_of((fit, unlikely), clearly))[0] > s[1]
    assert scores_of((fit, fit), {}) == {}
    assert answer(clearly[1], fit, 3.0).score == 3.0


def test_an_answer_that_cannot_be_refined_stands_last_and_the_reason_is_said(
    plain, measured
):
    problem, found = plain.problem, replace(plain, fits=plain.fits[:1])
    far = replace(found.fits[0], score=found.fits[0].score + 1)
    tiny = STRUCTURES["TiO2"].copy()
    tiny.scale_lattice(0.02)  # no line below 180°
    crystal = from_structures([tiny])
    phase = replace(far.phases[0], crystal=crystal)
    far = replace(far, phases=(phase,), structure=tiny)
    asked = replace(rank(problem, list(found.fits), 2), fits=(far, *found.fits))
    asked = replace(asked, groups=((0,), (1,)))
    after = run(refined_steps(asked, measured, "builtin"), False)
    assert [fit.engine for fit in after.fits] == ["rietveld", "batch"]
    assert any("no. 1 is not refined by full profile: " in said for said in after.reasons)
    assert after.groups == ((0,), (1,))


def test_engines_that_cannot_be_used_are_refused_before_anything_is_done(measured):
    with pytest.raises(ValueError, match="engine 'topas' is not known; choose from"):
        solve(measured, "TiO2", engine="topas")
    with pytest.raises(ValueError, match="this one is prepared already; give it as it was"):
        check_engine("builtin", prepare(measured))


def test_refined_and_other_answers_stand_on_one_scale_in_report_and_files(
    solution, plain, measured, tmp_path
):
    both = replace(solution, fits=(solution.fits[0], plain.fits[0]), groups=((0,), (1,)))
    assert [fit.engine for fit in both.fits] == ["rietveld", "batch"]
    curves = curves_of(both.fits, measured)
    assert curves.unit == "counts"
    refined, other = curves.calculated
    assert refined.max() == pytest.approx(measured.intensity.max(), rel=0.1)
    assert np.corrcoef(refined, other)[0, 1] > 0.99
    assert np.median(other / refined) == pytest.approx(1, abs=0.1)
    write_solution(both, tmp_path / "out", name="sample", pattern=measured)
    cifs = sorted((tmp_path / "out").glob("*.cif"))
    assert len(cifs) == 2
    cells = [gemmi.cif.read(str(c)).sole_block().find_value("_cell_length_a") for c in cifs]
    assert ["(" in cell for cell in cells] == [True, False]
