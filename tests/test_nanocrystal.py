from dataclasses import replace

import numpy as np
import pytest
import torch
from pymatgen.analysis.diffraction.xrd import XRDCalculator
from textbook import STRUCTURES

from xrdkit.crystal import from_structures
from xrdkit.metrics import normalised_rmse
from xrdkit.nanocrystal import (
    BEAM,
    FWHM,
    POINTS,
    Q_MAX,
    SMOOTH,
    nano_curve_of,
    nano_curves,
    nano_pattern,
    nano_sized,
    normalised,
    published_r_squared,
)
from xrdkit.peaks import SINC, size_fwhm, typical_fwhm
from xrdkit.problem import pose
from xrdkit.profile import Widths, profile
from xrdkit.refine.grid import make_grid
from xrdkit.simulate import pattern_of
from xrdkit.solve import solve
from xrdkit.types import Instrument, Radiation
from xrdkit.wavelengths import radiation

RUTILE = STRUCTURES["TiO2"]


def width(q, curve):
    """FWHM of a single line, by interpolation."""
    half = curve.max() / 2
    rows = np.nonzero(curve >= half)[0]
    ends = []
    for inner, outer in ((rows[0], rows[0] - 1), (rows[-1], rows[-1] + 1)):
        share = (half - curve[outer]) / (curve[inner] - curve[outer])
        ends.append(q[outer] + share * (q[inner] - q[outer]))
    return ends[1] - ends[0]


def test_sinc_squared_is_the_debye_sum_of_a_cube_of_that_size():
    """Lines h 0 0 of a cube of N cells are sinc² of its edge but for the powder average."""
    a, cells = 3.35, 10
    steps = np.arange(1 - cells, cells)
    triple = np.stack(np.meshgrid(steps, steps, steps, indexing="ij"), -1).reshape(-1, 3)
    pairs = (cells - np.abs(triple)).prod(1)
    q = np.linspace(1.4, 2.35, 951)
    distance = a * np.linalg.norm(triple, axis=1)
    debye = (pairs * np.sinc(q[:, None] * distance / np.pi)).sum(1)
    one = torch.ones(1, 1, dtype=torch.float64)
    shape = Widths(one[0] * 2, 1e-3 * one, 0 * one, one * cells * a / (2 * np.pi))
    place = one * 2 * np.pi / a
    line = profile(torch.from_numpy(q), place, one, shape)[0].numpy()
    assert width(q, line) == pytest.approx(SINC / (cells * a), rel=1e-3)
    assert width(q, line) == pytest.approx(width(q, debye), rel=0.04)
    assert np.abs(line / line.max() - debye / debye.max()).max() < 0.07


def test_lines_are_where_pymatgen_has_them_and_as_high():
    q = np.linspace(0, Q_MAX, 4001)
    lines = XRDCalculator(BEAM.main).get_pattern(RUTILE, two_theta_range=(0, 160))
    places = 4 * np.pi / BEAM.main * np.sin(np.radians(lines.x / 2))
    shapes = np.exp(-((q[:, None] - places) ** 2) / (2 * SMOOTH**2))
    expected = (lines.y * shapes).sum(1)
    own = nano_curves(from_structures([RUTILE]), None, points=4001)[0].numpy()
    seen = q < 6  # beyond, its form factors differ
    assert np.abs(own - expected / expected[seen].max())[seen].max() < 0.02


def test_lines_of_smaller_crystals_are_wider_and_large_ones_have_no_size():
    crystal = from_structures([STRUCTURES["W"]])
    at_all = nano_curves(crystal, None, points=4001)
    sharp, large, small = (
        nano_curves(crystal, size, points=4001)[0].numpy() for size in (9e4, 100.0, 20.0)
    )
    assert np.abs(at_all[0].numpy() - sharp).max() < 1e-2
    q = np.linspace(0, Q_MAX, 4001)
    first = (q > 2) & (q < 3.4)  # the line 110 alone, at 2.81
    widths = [width(q[first], curve[first]) for curve in (sharp, large, small)]
    assert widths[0] == pytest.approx(SMOOTH * FWHM, rel=0.02)
    assert widths[0] < widths[1] < widths[2]
    assert widths[2] == pytest.approx(np.hypot(SMOOTH * FWHM, SINC / 20), rel=0.1)


def test_lines_over_two_theta_have_the_areas_that_are_simulated_at_low_and_high_angle():
    crystal = at_rest("W")
    edge = (2 * STRUCTURES["W"].volume / len(STRUCTURES["W"])) ** (1 / 3)
    nano = nano_pattern(crystal, 1000.0, smooth=0.03)
    other = pattern_of(crystal, BEAM, two_theta=(10, 150, 14001))
    lines = 2 * np.pi / edge * np.sqrt([2, 4, 6, 8, 10, 12])  # 110 … 222: 40° to 115°
    ours, theirs = (areas(one, lines) for one in (nano, other))
    np.testing.assert_allclose(ours / ours[0], theirs / theirs[0], rtol=0.02)


def areas(pattern, lines):
    """Areas over 2θ around lines at these Q, far from all others."""
    near = [np.abs(pattern.q - line) < 0.25 for line in lines]
    return np.array(
        [np.trapezoid(pattern.intensity[k], pattern.two_theta[k]) for k in near]
    )


def at_rest(name):
    """A textbook crystal without displacements, as PXRDnet's are."""
    crystal = from_structures([STRUCTURES[name]])
    return replace(crystal, u_iso=torch.zeros_like(crystal.u_iso))


@pytest.mark.parametrize("slits", ["fixed", "automatic"])
@pytest.mark.parametrize(
    "beam", [BEAM, radiation("CoKa1"), Radiation((0.7,), polarisation=0.95)]
)
def test_a_simulated_pattern_goes_to_its_curve_whatever_the_instrument(beam, slits):
    crystal, optics = at_rest("TiO2"), Instrument(slits=slits)
    high = np.degrees(2 * np.arcsin(min(0.97, 7.6 * beam.main / (4 * np.pi))))
    grid = (5, float(high), 6001)
    pattern = pattern_of(crystal, beam, two_theta=grid, instrument=optics)
    curve, seen = nano_curve_of(replace(pattern, prepared=True))
    truth = normalised(nano_curves(crystal, None), seen)[0]
    assert float((curve - truth)[seen].abs().mean()) < 0.002
    assert float((curve - truth)[seen].abs().max()) < 0.035


@pytest.mark.parametrize("size", [20.0, 100.0])
def test_a_pattern_of_large_crystals_is_made_one_of_small_ones(size):
    crystal = at_rest("TiO2")
    large = pattern_of(crystal, BEAM, two_theta=(5, 135, 6501))
    made = nano_sized(replace(large, prepared=True, name="rutile"), size)
    direct = nano_pattern(crystal, size)
    assert (made.size, made.name) == (size, "rutile")
    inside = np.interp(made.two_theta, direct.two_theta, direct.intensity)
    away = (made.q > 0.6) & (made.q < 6.8)  # what lies beyond the ends is not observed
    scale = inside[away].max() / made.intensity[away].max()
    assert np.abs(scale * made.intensity - inside)[away].max() < 0.02


def test_gaps_of_a_pattern_stay_gaps_of_that_of_nanocrystals():
    large = pattern_of(at_rest("TiO2"), BEAM, two_theta=(5, 135, 6501))
    ranges = (10.0, 60.0), (80.0, 120.0)
    made = nano_sized(replace(large, prepared=True, ranges=ranges), 50.0)
    np.testing.assert_allclose(made.ranges, ranges, atol=0.4)
    assert not ((made.two_theta > 60) & (made.two_theta < 80)).any()


def test_a_pattern_beyond_the_q_of_nanocrystals_is_refused():
    beyond = pattern_of(at_rest("TiO2"), Radiation((0.2,)), two_theta=(15, 20, 501))
    with pytest.raises(ValueError, match=r"covers nothing of .*0\.3–7\.5 1/Å"):
        nano_sized(replace(beyond, prepared=True), 50.0)


def test_many_crystals_are_each_as_if_alone():
    both = from_structures([RUTILE, STRUCTURES["NaCl"]])
    curves = nano_curves(both, 50.0)
    assert curves.shape == (2, POINTS)
    alone = [nano_curves(from_structures([STRUCTURES[n]]), 50.0) for n in ("TiO2", "NaCl")]
    torch.testing.assert_close(curves, torch.cat(alone), rtol=0, atol=1e-4)


def test_published_r_squared_knows_no_setting_and_feels_a_cell_that_is_off():
    assert published_r_squared(RUTILE, RUTILE * [[1, 1, 0], [0, 1, 0], [0, 0, 1]]) < 1e-6
    off = RUTILE.copy()
    off.apply_strain(0.01)
    assert 0.02 < published_r_squared(RUTILE, off) < 1
    assert published_r_squared(RUTILE, STRUCTURES["NaCl"]) > 0.5


@pytest.mark.parametrize("size", [10.0, 30.0, 100.0])
@pytest.mark.parametrize("name", ["SrTiO3", "LaB6", "SiO2", "ZrO2", "P1"])
def test_what_lines_are_wide_beside_their_size_is_seen_in_crowded_patterns_too(name, size):
    pattern = nano_pattern(from_structures([STRUCTURES[name]]), size)
    a, b = typical_fwhm(pattern)
    per_q = np.degrees(BEAM.main / (2 * np.pi))
    assert a == b  # equally wide in Q
    assert 0.6 < a / (SMOOTH * FWHM * per_q) < 1.25
    assert len(make_grid(pattern, (a, b), per_fwhm=4.0, q_max=6.0)) > 60
    assert size_fwhm(pattern) == pytest.approx(SINC / size * per_q)


@pytest.mark.slow
@pytest.mark.parametrize("size", [10.0, 100.0])
def test_rutile_of_nanocrystals_is_found(size):
    pattern = nano_pattern(from_structures([RUTILE]), size)
    found = solve(replace(pattern, size=None), "TiO2", size=size, progress=False)
    assert found.settings["size"] == size
    assert normalised_rmse(RUTILE, found.fits[0].structure) < 0.05
    assert found.fits[0].residual < 0.05
    assert found.fits[0].structure.volume == pytest.approx(
        RUTILE.volume * len(found.fits[0].structure) / len(RUTILE), rel=0.02
    )


@pytest.mark.slow
def test_size_matters_to_the_fit():
    pattern = nano_pattern(from_structures([RUTILE]), 10.0)
    asked = {"contents": "Ti2O4", "progress": False, "candidates": 3}
    known = solve(pattern, "TiO2", **asked).fits[0]
    blind = solve(replace(pattern, size=None), "TiO2", **asked).fits[0]
    assert known.residual < blind.residual


@pytest.mark.parametrize("size", [0.0, 2.0, -10.0, 5000.0, float("nan")])
def test_sizes_that_are_none_are_refused(size):
    pattern = nano_pattern(from_structures([RUTILE]), 100.0)
    with pytest.raises(ValueError, match=r"outside 5–1000 Å"):
        pose(pattern, "TiO2", size=size)


def test_sizes_without_a_crystal_are_refused():
    with pytest.raises(ValueError, match="no crystal's"):
        nano_curves(from_structures([RUTILE]), 0.5)
