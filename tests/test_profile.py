import math

import pytest
import torch

from xrdkit.profile import Widths, line_widths, pattern_widths, profile
from xrdkit.types import Instrument

LAMBDA = 1.540593


def grid_of(points: int) -> torch.Tensor:
    return torch.linspace(5, 80, points, dtype=torch.float64)


def random_lines(count: int = 30) -> tuple[torch.Tensor, torch.Tensor]:
    draw = torch.rand(
        2, count, dtype=torch.float64, generator=torch.Generator().manual_seed(3)
    )
    return 8 + 68 * draw[0], draw[1]


def drawn_one_by_one(grid, positions, areas, instrument, size):
    """The sum of pseudo-Voigt lines by its definition."""
    fwhm, eta = line_widths(positions, instrument, LAMBDA, size=size).pseudo_voigt()
    away = grid[:, None] - positions
    lorentz = 2 / math.pi * fwhm / (fwhm**2 + 4 * away**2)
    gauss = torch.exp(-4 * math.log(2) * (away / fwhm) ** 2) * 2 / fwhm
    gauss = gauss * math.sqrt(math.log(2) / math.pi)
    return ((eta * lorentz + (1 - eta) * gauss) * areas).sum(-1)


@pytest.mark.parametrize("points", [1024, 7501])
@pytest.mark.parametrize(
    ("instrument", "size"),
    [
        (Instrument(), None),
        (Instrument(w=0.0025), None),
        (Instrument(), 300.0),
        (Instrument(u=0.02, v=-0.02, w=0.02, x=0.02), None),
    ],
)
@pytest.mark.parametrize("even", [True, False])
def test_profile_is_the_sum_of_pseudo_voigt_lines(points, instrument, size, even):
    grid, (positions, areas) = grid_of(points), random_lines()
    grid = grid if even else grid + 0.2 * (grid[1] - grid[0]) * torch.sin(40 * grid)
    widths = pattern_widths(grid, instrument, LAMBDA, size=size)
    curve = profile(grid, positions[None], areas[None], widths)[0]
    expected = drawn_one_by_one(grid, positions, areas, instrument, size)
    torch.testing.assert_close(curve, expected, rtol=0, atol=3e-3 * float(expected.max()))


@pytest.mark.parametrize(
    "sample", [{}, {"size": 500.0}, {"strain": 1e-3}, {"nanocrystal": 80.0}]
)
def test_area_of_a_line_is_conserved(sample):
    grid = grid_of(4001)
    widths = pattern_widths(grid, Instrument(), LAMBDA, **sample)
    line = torch.tensor([[41.237]], dtype=torch.float64)
    curve = profile(grid, line, torch.full_like(line, 7.0), widths)
    area = float(torch.trapezoid(curve, grid))
    assert area == pytest.approx(7, rel=0.02 if sample else 1e-6)


def test_nanocrystal_line_is_sinc_squared_in_q():
    tau, q = 100.0, torch.linspace(1, 3, 801, dtype=torch.float64)
    one = torch.ones(1, 1, dtype=torch.float64)
    widths = Widths(one[0] * 2, 1e-3 * one, 0 * one, one * tau / (2 * math.pi))
    curve = profile(q, 2 * one, one, widths)[0]
    expected = torch.sinc((q - 2) * tau / 2 / math.pi) ** 2
    torch.testing.assert_close(curve / curve.max(), expected, rtol=0, atol=5e-3)


def test_scherrer_width_of_100_angstrom_at_40_degrees():
    at = torch.tensor([40.0], dtype=torch.float64)
    widths = line_widths(at, Instrument(), LAMBDA, size=100.0)
    assert float(widths.lorentz) == pytest.approx(0.8454, abs=1e-3)


def test_widths_that_are_not_real_are_refused():
    with pytest.raises(ValueError, match=r"V² < 4 U W"):
        line_widths(grid_of(10), Instrument(u=0.01, v=-0.1, w=0.01), LAMBDA)


def test_each_crystal_may_have_its_own_size():
    grid, (positions, areas) = grid_of(2001), random_lines()
    sizes = torch.tensor([100.0, 400.0])
    both = profile(
        grid,
        positions.repeat(2, 1),
        areas.repeat(2, 1),
        pattern_widths(grid, Instrument(), LAMBDA, size=sizes),
    )
    for i, size in enumerate(sizes.tolist()):
        alone = pattern_widths(grid, Instrument(), LAMBDA, size=size)
        expected = profile(grid, positions[None], areas[None], alone)[0]
        torch.testing.assert_close(
            both[i], expected, rtol=0, atol=3e-3 * float(expected.max())
        )
