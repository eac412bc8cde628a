import numpy as np
import pytest
import torch
from scipy.integrate import quad

from xrdkit.refine.grid import Grid, make_grid, stretch
from xrdkit.types import Pattern, Radiation

CU = Radiation((1.540593,))
SHAPES = [(0.12, 0.05), (0.05, 0.2), (0.1, 0.1), (0.08, 0.0)]


def gaussians(*lines: tuple[float, float], fwhm: float = 0.12, **settings) -> Pattern:
    """Lines (2θ, area) of one width on 10–110° in steps of 0.01°."""
    x = np.linspace(10, 110, 10001)
    height = (4 * np.log(2) / np.pi) ** 0.5 / fwhm
    y = sum(
        area * height * np.exp(-4 * np.log(2) * ((x - at) / fwhm) ** 2)
        for at, area in lines
    )
    return Pattern(x, y, CU, **settings)


def around(grid: Grid, angle: float, reach: float = 0.6) -> float:
    """Area (in u) of the observed profile within ``reach`` degrees of an angle."""
    near = (grid.two_theta - angle).abs() < reach
    return float(grid.observed[near].sum()) * grid.step


def sine(two_theta: float) -> torch.Tensor:
    return torch.tensor(two_theta, dtype=torch.float64).div(2).deg2rad().sin()


@pytest.mark.parametrize(("a", "b"), SHAPES)
@pytest.mark.parametrize(("low", "high"), [(5, 30), (30, 95), (95, 165)])
def test_stretch_is_the_integral_of_angle_over_width(a, b, low, high):
    def lines_per_degree(two_theta: float) -> float:
        return 1 / np.hypot(a, b * np.tan(np.radians(two_theta / 2)))

    expected = quad(lines_per_degree, low, high, epsabs=1e-10)[0]
    u = [float(stretch(sine(angle), a, b)[0]) for angle in (low, high)]
    assert u[1] - u[0] == pytest.approx(expected, rel=1e-8)


@pytest.mark.parametrize(("a", "b"), SHAPES)
def test_slope_of_stretch_is_its_derivative(a, b):
    at = torch.linspace(0.05, 0.98, 40, dtype=torch.float64)
    up, down = stretch(at + 1e-6, a, b)[0], stretch(at - 1e-6, a, b)[0]
    torch.testing.assert_close(
        stretch(at, a, b)[1], (up - down) / 2e-6, rtol=1e-7, atol=1e-4
    )


@pytest.mark.parametrize("b", [0.1 * (1 - 1e-5), 0.1 * (1 + 1e-5)])
def test_stretch_is_continuous_where_both_widths_are_equal(b):
    at = torch.linspace(0, 0.98, 40, dtype=torch.float64)
    torch.testing.assert_close(
        stretch(at, 0.1, b)[0], stretch(at, 0.1, 0.1)[0], rtol=2e-5, atol=0
    )


def test_points_are_equally_spaced_in_u():
    grid = make_grid(gaussians((30, 1)), (0.1, 0.15))
    u = stretch(torch.sin(torch.deg2rad(grid.two_theta.double() / 2)), grid.a, grid.b)[0]
    expected = grid.start + grid.step * torch.arange(len(grid))
    torch.testing.assert_close(u, expected.double(), rtol=0, atol=0.01)


@pytest.mark.parametrize("per_fwhm", [1.7, 3.0, 4.4])
@pytest.mark.parametrize("strain", [0.0, 0.005])
def test_resampling_conserves_the_ratio_of_areas(per_fwhm, strain):
    pattern = gaussians((30, 1.0), (47.123, 0.4), (99, 2.0))
    grid = make_grid(pattern, (0.12, 0.0), strain=strain, per_fwhm=per_fwhm, q_max=20.0)
    widths = [
        np.hypot(grid.a, grid.b * np.tan(np.radians(t / 2))) for t in (30, 47.123, 99)
    ]
    first, second, third = (
        around(grid, t, 5 * w) * w for t, w in zip((30, 47.123, 99), widths, strict=True)
    )
    assert second / first == pytest.approx(0.4, rel=5e-3)
    assert third / first == pytest.approx(2.0, rel=5e-3)


def test_every_line_is_one_wide_where_widths_follow_the_model():
    grid = make_grid(gaussians((30, 1.0), (99, 1.0)), (0.12, 0.0), per_fwhm=12.0)
    for angle in (30, 99):
        near = (grid.two_theta - angle).abs() < 0.5
        top = grid.observed[near]
        over_half = float((top / top.max() > 0.5).sum()) * grid.step
        assert over_half == pytest.approx(1.0, abs=0.1)


@pytest.mark.parametrize(("strain", "blur"), [(0.0, 0.0), (0.005, 1.0), (0.012, 1.0)])
def test_strained_grid_blurs_lines_by_one_width_of_its_own(strain, blur):
    grid = make_grid(gaussians((60, 1.0)), (0.12, 0.0), strain=strain, per_fwhm=12.0)
    assert grid.blur == blur
    over_half = float((grid.observed > 0.5).sum()) * grid.step
    natural = 0.12 / np.hypot(grid.a, grid.b * np.tan(np.radians(30)))
    assert over_half == pytest.approx(np.hypot(natural, blur), abs=0.1)


def test_flat_pattern_stays_flat():
    x = np.linspace(10, 110, 5001)
    grid = make_grid(Pattern(x, np.ones_like(x), CU), (0.1, 0.1))
    torch.testing.assert_close(grid.observed, torch.ones(len(grid)), rtol=0, atol=1e-5)


def test_weight_is_zero_outside_the_measured_ranges():
    pattern = gaussians((30, 1), (80, 1), ranges=((20.0, 50.0), (70.0, 100.0)))
    grid = make_grid(pattern, (0.12, 0.05))
    angle = grid.two_theta
    inside = (angle >= 20) & (angle <= 50) | (angle >= 70) & (angle <= 100)
    assert (grid.weight[~inside] == 0).all()
    assert (grid.weight[inside] > 0).all()


def test_weight_falls_with_height_so_that_weak_lines_count():
    grid = make_grid(gaussians((30, 1.0), (60, 0.05)), (0.12, 0.0))
    strong, weak, empty = (
        float(grid.weight[(grid.two_theta - t).abs().argmin()]) for t in (30, 60, 90)
    )
    assert strong < weak < empty == 1


def test_pattern_is_cut_at_q_max():
    grid = make_grid(gaussians((30, 1)), (0.12, 0.05), q_max=5.0)
    q = 4 * np.pi * torch.sin(torch.deg2rad(grid.two_theta / 2)) / CU.main
    assert 4.99 < float(q.max()) <= 5.0


def test_padded_length_leaves_room_for_tails_and_transforms_fast():
    grid = make_grid(gaussians((30, 1)), (0.12, 0.05))
    rest = grid.padded
    assert (rest - len(grid)) * grid.step >= 23.5
    for prime in (2, 3, 5):
        while rest % prime == 0:
            rest //= prime
    assert rest == 1
