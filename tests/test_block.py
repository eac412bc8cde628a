from dataclasses import replace

import numpy as np
import pytest
import torch
from candidates import candidate_of, moved
from scipy.interpolate import CubicSpline
from textbook import STRUCTURES

from xrdkit.refine.block import (
    EXTRAS,
    STRAINS,
    Block,
    current_frac,
    current_lattice,
    pack,
    profiles,
)
from xrdkit.refine.grid import Grid, make_grid, stretch
from xrdkit.simulate import pattern_of
from xrdkit.types import Candidate, Instrument, Pattern, Radiation

CU = Radiation((1.540593,))
DOUBLET = Radiation((1.540593, 1.544427), (2 / 3, 1 / 3))
MOLYBDENUM = Radiation((0.70932, 0.713607), (2 / 3, 1 / 3), polarisation=0.56)
SYSTEMS = ("NaCl", "FeSi", "TiO2", "ZnO", "SiO2", "Al2O3", "CaTiO3", "ZrO2", "P-1", "P1")
ZERO, WIDTH, SHARE, B = range(-EXTRAS, 0)
A = 0.12


@pytest.fixture
def double():
    """New tensors in double precision, so that finite differences are sharp."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def candidates_of(*names: str) -> list[Candidate]:
    return [candidate_of(STRUCTURES[name]) for name in names]


def with_value(block: Block, column: int, value: float) -> Block:
    values = block.values.clone()
    values[:, column] = value
    return replace(block, values=values)


def empty_grid(beam: Radiation = CU, *, a: float = A, b: float = 0.0, **settings) -> Grid:
    """A grid to draw on: 8–100° for Cu, the same range of q for others."""
    x = np.linspace(8, 100, 4601)
    x = 2 * np.degrees(np.arcsin(np.sin(np.radians(x / 2)) * beam.main / CU.main))
    return make_grid(Pattern(x, np.ones_like(x), beam), (a, b), **settings)


def resampled(pattern: Pattern, grid: Grid) -> np.ndarray:
    """Mean of a pattern over every cell of a grid."""
    sine = torch.as_tensor(np.sin(np.radians(pattern.two_theta / 2)))
    u = stretch(sine, grid.a, grid.b)[0].numpy()
    edges = grid.start + grid.step * (np.arange(len(grid) + 1) - 0.5)
    return np.diff(CubicSpline(u, pattern.intensity).antiderivative()(edges)) / grid.step


def difference(block: Block, grid: Grid, column: int, h: float = 1e-4) -> torch.Tensor:
    """Central difference of the profiles by one parameter."""
    step = torch.zeros_like(block.values)
    step[:, column] = h
    up, down = (
        profiles(replace(block, values=v), grid, True)[0]
        for v in (block.values + step, block.values - step)
    )
    return (up - down) / (2 * h)


def doubled(block: Block) -> Block:
    fields = {name: getattr(block, name) for name in Block.__dataclass_fields__}
    return Block(*(v.double() if v.is_floating_point() else v for v in fields.values()))


def general(*names: str) -> Block:
    """A block in double precision with every parameter away from zero."""
    block = doubled(pack(candidates_of(*names), 6.0))
    sign = torch.where(torch.arange(block.values.shape[1]) % 2 == 0, 1.0, -1.0)
    values = 0.03 * sign * block.present
    values[:, :STRAINS] *= 0.1
    return replace(block, values=values)


@pytest.mark.parametrize("name", SYSTEMS)
@pytest.mark.parametrize("beam", [CU, DOUBLET, MOLYBDENUM], ids=["Cu", "Cu doublet", "Mo"])
def test_profiles_equal_the_simulated_pattern(name, beam):
    grid = empty_grid(beam, per_fwhm=5.0)
    candidate = candidate_of(STRUCTURES[name])
    block = with_value(pack([candidate], 7.0), SHARE, -0.5)  # Gaussian
    ends = (float(grid.two_theta[0]) - 0.1, float(grid.two_theta[-1]) + 0.1, 20001)
    pattern = pattern_of(
        candidate.crystal, beam, two_theta=ends, instrument=Instrument(w=A**2)
    )
    expected = resampled(pattern, grid)
    got = profiles(block, grid, False)[0][0].numpy()
    assert np.abs(got / got.max() - expected / expected.max()).max() < 5e-4


def test_profiles_follow_widths_that_grow_with_the_angle():
    grid = empty_grid(a=0.1, b=0.15, per_fwhm=5.0)
    candidate = candidate_of(STRUCTURES["TiO2"])
    block = with_value(pack([candidate], 7.0), SHARE, -0.5)
    instrument = Instrument(w=0.1**2, u=0.15**2)
    pattern = pattern_of(
        candidate.crystal, CU, two_theta=(8, 100, 20001), instrument=instrument
    )
    expected = resampled(pattern, grid)
    got = profiles(block, grid, False)[0][0].numpy()
    assert np.abs(got / got.max() - expected / expected.max()).max() < 0.01


def test_three_points_a_width_cost_less_than_half_a_per_cent():
    block = pack(candidates_of("TiO2"), 7.0)
    coarse, fine = empty_grid(), empty_grid(per_fwhm=27.0)
    few, many = (profiles(block, grid, False)[0][0] for grid in (coarse, fine))
    n = len(fine) // 9
    mean = many[: 9 * n].reshape(n, 9).sum(-1)  # profiles are amounts per point
    assert float((few[:n] - mean).norm() / mean.norm()) < 0.005


def test_profiles_do_not_depend_on_the_choice_of_origin_or_order():
    candidate = candidate_of(STRUCTURES["ZrO2"])
    order = torch.arange(len(candidate.crystal.numbers)).flip(0)
    crystal = replace(
        candidate.crystal,
        frac=candidate.crystal.frac[order] + 0.25,
        numbers=candidate.crystal.numbers[order],
    )
    block = pack([candidate, replace(candidate, crystal=crystal)], 7.0)
    first, second = profiles(block, empty_grid(), False)[0]
    torch.testing.assert_close(first, second, rtol=0, atol=1e-4 * float(first.max()))


def test_shift_moves_every_line_of_a_capillary_by_as_many_degrees():
    grid = empty_grid()
    grid = replace(grid, instrument=Instrument("debye-scherrer"))
    block = pack(candidates_of("TiO2"), 7.0)
    plain, later = (
        profiles(with_value(block, ZERO, value), grid, False)[0][0] for value in (0, A / 3)
    )
    assert grid.step == pytest.approx(1 / 3)
    torch.testing.assert_close(
        later[21:-20], plain[20:-21], rtol=0, atol=2e-3 * float(plain.max())
    )


def test_log_width_keeps_areas_and_widens_lines():
    grid = empty_grid(per_fwhm=6.0)
    block = pack(candidates_of("NaCl"), 7.0)
    plain, wide = (
        profiles(with_value(block, WIDTH, value), grid, False)[0][0]
        for value in (0, np.log(2))
    )
    near = (grid.two_theta - 31.74).abs() < 2  # 200
    assert float(wide[near].sum() / plain[near].sum()) == pytest.approx(1, abs=0.03)
    over_half = [float((y > y.max() / 2).sum()) for y in (plain[near], wide[near])]
    assert over_half[1] / over_half[0] == pytest.approx(2, rel=0.15)


def test_overall_b_equals_a_larger_u_of_every_atom():
    candidate = candidate_of(STRUCTURES["SiO2"])
    crystal = replace(candidate.crystal, u_iso=candidate.crystal.u_iso + 0.01)
    grid = empty_grid()
    larger = profiles(pack([replace(candidate, crystal=crystal)], 7.0), grid, False)[0]
    block = with_value(pack([candidate], 7.0), B, 8 * np.pi**2 * 0.01)
    torch.testing.assert_close(
        profiles(block, grid, False)[0], larger, rtol=1e-4, atol=1e-5 * float(larger.max())
    )


@pytest.mark.parametrize("beam", [CU, DOUBLET], ids=["Cu", "Cu doublet"])
@pytest.mark.parametrize("column", [WIDTH, SHARE, B, ZERO])
def test_derivatives_by_extras_are_finite_differences(double, beam, column):
    # sampling three points a width makes the derivative by zero wrong by 6 %
    block, grid = general("TiO2", "SiO2", "P1"), empty_grid(beam, per_fwhm=6.0)
    slope = profiles(block, grid, True)[1][:, column]
    expected = difference(block, grid, column)
    limit = 0.01 if column == ZERO else 1e-5
    assert float((slope - expected).norm() / expected.norm()) < limit


@pytest.mark.parametrize("beam", [CU, DOUBLET], ids=["Cu", "Cu doublet"])
@pytest.mark.parametrize("name", ["TiO2", "FeSi", "SiO2", "CaTiO3", "P1"])
def test_derivatives_by_shifts_are_finite_differences(double, name, beam):
    block, grid = general(name), empty_grid(beam)
    slopes = profiles(block, grid, True)[1][:, STRAINS:-EXTRAS]
    assert slopes.shape[1] == block.shifts > 0
    for k in range(block.shifts):
        expected = difference(block, grid, STRAINS + k)
        torch.testing.assert_close(
            slopes[:, k], expected, rtol=0, atol=1e-5 * float(expected.abs().max())
        )


@pytest.mark.parametrize("b", [0.0, 0.3])
@pytest.mark.parametrize("name", ["NaCl", "ZnO", "CaTiO3", "ZrO2", "P1"])
def test_derivatives_by_strains_point_along_finite_differences(double, name, b):
    """They leave out the change of intensity with strain, so only directions agree."""
    block, grid = general(name), empty_grid(b=b)
    slopes = profiles(block, grid, True)[1]
    for k in range(int(block.present[0, :STRAINS].sum())):
        got, expected = slopes[0, k], difference(block, grid, k, 1e-6)[0]
        assert float(got @ expected / got.norm() / expected.norm()) > 0.99
        assert float(got.norm() / expected.norm()) == pytest.approx(1, abs=0.05)


def test_derivatives_by_what_a_candidate_lacks_are_zero():
    block = pack(candidates_of("NaCl", "P1"), 6.0)
    slopes = profiles(block, empty_grid(), True)[1]
    assert block.present.sum(1).tolist() == [1 + EXTRAS, 6 + 3 + EXTRAS]
    assert (slopes[~block.present] == 0).all()
    assert (slopes[block.present].abs().amax(-1) > 0).all()


def test_without_coordinates_the_other_derivatives_are_the_same():
    block, grid = pack(candidates_of("TiO2", "P1"), 6.0), empty_grid()
    full, some = profiles(block, grid, True)[1], profiles(block, grid, False)[1]
    kept = [*range(STRAINS), *range(-EXTRAS, 0)]
    torch.testing.assert_close(full[:, kept], some)


@pytest.mark.parametrize("coordinates", [False, True])
def test_padding_changes_nobody(coordinates):
    names, grid = ("W", "CaTiO3", "P1", "NaCl"), empty_grid()
    together = pack(candidates_of(*names), 6.0)
    curves, slopes = profiles(together, grid, coordinates)
    for i, candidate in enumerate(candidates_of(*names)):
        alone = pack([candidate], 6.0)
        curve, slope = profiles(alone, grid, coordinates)
        torch.testing.assert_close(
            curves[i], curve[0], rtol=1e-4, atol=1e-5 * float(curve.max())
        )
        k = slope.shape[1] - EXTRAS
        torch.testing.assert_close(
            slopes[i, [*range(k), *range(-EXTRAS, 0)]],
            slope[0],
            rtol=1e-3,
            atol=1e-5 * float(slope.abs().max()),
        )


def test_trim_removes_only_padding():
    grid = empty_grid()
    block = pack(candidates_of("CaTiO3", "NaCl", "TiO2"), 6.0)
    block = replace(block, values=0.02 * block.present)
    some = block.select(torch.tensor([1, 2]))
    small = some.trim()
    assert small.shifts == 1
    assert small.frac.shape[1] == 6
    assert small.hkl.shape[1] < some.hkl.shape[1]
    torch.testing.assert_close(current_lattice(small), current_lattice(some))
    torch.testing.assert_close(current_frac(small), current_frac(some)[:, :6])
    for got, expected in zip(
        profiles(small, grid, False), profiles(some, grid, False), strict=True
    ):
        torch.testing.assert_close(
            got, expected, rtol=1e-4, atol=1e-5 * float(expected.abs().max())
        )


@pytest.mark.parametrize("name", SYSTEMS)
def test_shift_parameters_are_in_angstroms_of_the_atom_that_moves_most(name):
    block = pack(candidates_of(name), 2.0)
    columns = block.shift_basis[0].reshape(block.frac.shape[1], 3, block.shifts)
    moved_by = torch.einsum("nik,ij->njk", columns, block.lattice[0]).norm(dim=1)
    torch.testing.assert_close(moved_by.amax(0), torch.ones(block.shifts))


def test_isotropic_strain_expands_a_cubic_cell_equally():
    block = with_value(pack(candidates_of("NaCl"), 2.0), 0, 0.01 * 3**0.5)
    ratio = current_lattice(block) / block.lattice.where(block.lattice != 0, 1)
    sign = float(block.cell_basis[0, 0, 0, 0].sign())
    expected = torch.full_like(ratio, 1 + 0.01 * sign).where(block.lattice != 0, 0)
    torch.testing.assert_close(ratio, expected)


@pytest.mark.parametrize("name", SYSTEMS)
def test_any_values_keep_the_space_group(name):
    right = candidate_of(STRUCTURES[name])
    other = moved(right, 0.01, 0.1, seed=3).crystal
    rotations = right.symmetry.rotations.to(other.frac)
    images = torch.einsum("gij,nj->gni", rotations, other.frac)
    images = images + right.symmetry.translations[:, None]
    apart = images[:, :, None] - other.frac
    apart = ((apart - apart.round()) @ other.lattice[0]).norm(dim=-1)
    apart = apart + 9.0 * (other.numbers[:, None] != other.numbers)
    assert float(apart.amin(-1).max()) < 1e-3
    metric = other.lattice[0] @ other.lattice[0].T
    torch.testing.assert_close(
        rotations.mT @ metric @ rotations,
        metric.expand(len(rotations), 3, 3),
        rtol=0,
        atol=1e-3,
    )
