from dataclasses import replace

import numpy as np
import pytest
import torch

from xrdkit.crystal import symmetry_of, to_structure
from xrdkit.simulate import pattern_of
from xrdkit.types import Crystals, Fit, Instrument, Phase, Problem, Radiation, Solution
from xrdkit_widgets import plot_fit

COPPER = Radiation((1.540593, 1.544427), (2 / 3, 1 / 3))


@pytest.fixture(scope="module")
def silicon() -> Crystals:
    """Primitive cell of silicon, a = 5.4309 Å."""
    lattice = 5.4309 * torch.tensor([[[0, 0.5, 0.5], [0.5, 0, 0.5], [0.5, 0.5, 0]]])
    frac = torch.tensor([[0.125] * 3, [0.875] * 3])
    ones = torch.ones(2)
    return Crystals(lattice, frac, (14 * ones).long(), ones, 0 * ones, (0 * ones).long())


@pytest.fixture(scope="module")
def fit(silicon) -> Fit:
    pattern = pattern_of(silicon, COPPER, two_theta=(20.0, 90.0, 1500))
    noise = 0.01 * np.sin(pattern.two_theta)
    lattice, frac = silicon.lattice[0].double().numpy(), silicon.frac.double().numpy()
    symmetry = symmetry_of(227, lattice, frac, silicon.numbers.numpy())
    return Fit(
        structure=to_structure(silicon),
        phases=(Phase(silicon, symmetry),),
        origin="test",
        residual=0.0123,
        score=0.0,
        two_theta=pattern.two_theta,
        observed=pattern.intensity + noise,
        calculated=pattern.intensity,
        background=np.zeros(len(pattern)),
        radiation=COPPER,
        space_group=227,
        space_group_symbol="Fd-3m",
    )


def trace(figure, name):
    return next(t for t in figure.data if t.name == name)


def test_traces_hold_what_the_fit_holds(fit):
    figure = plot_fit(fit)
    np.testing.assert_array_equal(trace(figure, "observed").x, fit.two_theta)
    np.testing.assert_array_equal(trace(figure, "observed").y, fit.observed)
    np.testing.assert_array_equal(trace(figure, "calculated").y, fit.calculated)
    difference = trace(figure, "difference")
    np.testing.assert_allclose(difference.customdata, fit.observed - fit.calculated)
    assert max(difference.y) < min(trace(figure, "reflections").y)
    assert np.ptp(np.array(difference.y) - np.array(difference.customdata)) < 1e-12


def test_title_and_axis_name_structure_quality_and_unit(fit):
    figure = plot_fit(fit)
    assert figure.layout.title.text == "Si, Fd-3m, profile residual 0.012"
    assert "2θ (°)" in figure.layout.xaxis.title.text
    refined = plot_fit(replace(fit, r_values={"r_wp": 7.891}))
    assert "7.89 %" in refined.layout.title.text


def test_ticks_stand_at_the_lines_of_silicon_and_not_at_absent_ones(fit):
    # 111 220 311 400 331 422 of Si, Cu Kα1; 200 and 222 are absent, a = 5.4309 Å
    expected = [28.443, 47.304, 56.123, 69.131, 76.378, 88.032]
    ticks = trace(plot_fit(fit), "reflections").x
    np.testing.assert_allclose(ticks, expected, atol=2e-3)


def test_ticks_move_with_the_zero_of_the_instrument(fit):
    moved = replace(fit, instrument=Instrument(zero=0.5))
    before, after = (trace(plot_fit(f), "reflections").x for f in (fit, moved))
    np.testing.assert_allclose(np.array(after) - before, 0.5, atol=1e-4)


def test_axes_q_and_d_agree_with_bragg(fit):
    q = np.array(trace(plot_fit(fit, axis="q"), "reflections").x)
    d = np.array(trace(plot_fit(fit, axis="d"), "reflections").x)
    np.testing.assert_allclose(q * d, 2 * np.pi)
    assert d[0] == pytest.approx(5.4309 / 3**0.5, abs=2e-4)


def test_solution_is_plotted_by_rank(fit):
    pattern = pattern_of(fit.phases[0].crystal, COPPER, two_theta=(20.0, 90.0, 50))
    other = replace(fit, space_group_symbol="P1")
    solution = Solution(
        Problem(pattern, {"Si": 1.0}), (fit, other), ((0,), (1,)), 0.9, "confident"
    )
    assert "P1" in plot_fit(solution, rank=1).layout.title.text
    with pytest.raises(ValueError, match="no fit at rank 2; this solution has 2"):
        plot_fit(solution, rank=2)


def test_unknown_axis_is_refused_with_the_known_ones(fit):
    with pytest.raises(ValueError, match="'tof' is unknown; give one of two_theta, q, d"):
        plot_fit(fit, axis="tof")
