import math

import gemmi
import pytest
import torch

from xrdkit.scattering import (
    Reflections,
    dispersion,
    form_factor_tables,
    form_factors,
    hkl_within,
    line_positions,
    lorentz_polarisation,
    march_dollase,
)
from xrdkit.types import Instrument, Radiation


@pytest.mark.parametrize("z", [1, 8, 14, 26, 57, 82, 98])
def test_form_factors_are_those_of_gemmi(z):
    s2 = torch.tensor([0.0, 0.05, 0.3, 1.0], dtype=torch.float64)
    ours = form_factors(torch.tensor([z]), s2)[0]
    theirs = [gemmi.Element(z).it92.calculate_sf(x) for x in s2.tolist()]
    torch.testing.assert_close(ours, torch.tensor(theirs, dtype=torch.float64))


def test_form_factors_of_a_batch_pair_atoms_with_their_own_reflections():
    numbers, s2 = torch.tensor([[8, 26], [14, 0]]), torch.rand(2, 5)
    f0 = form_factors(numbers, s2)
    assert f0.shape == (2, 2, 5)
    torch.testing.assert_close(f0[1, 0], form_factors(torch.tensor([14]), s2[1])[0])
    assert (f0[1, 1] == 0).all()
    assert all(len(t) == 99 for t in form_factor_tables())


@pytest.mark.parametrize(
    ("wavelength", "tolerance"),
    [(1.540593, 1e-5), (1.788996, 1e-5), (0.709317, 1e-5), (0.83, 3e-3)],
)
def test_dispersion_is_that_of_gemmi(wavelength, tolerance):
    numbers = torch.tensor([[6, 14, 26], [38, 57, 92]])
    ours = dispersion(numbers, wavelength)
    energy = gemmi.hc / wavelength
    for z, value in zip(numbers.flatten().tolist(), ours.flatten().tolist(), strict=True):
        f1, f2 = gemmi.cromer_liberman(z=z, energy=energy)
        assert value == pytest.approx(complex(f1, f2), rel=tolerance, abs=tolerance)


def test_dispersion_beyond_its_table_says_what_to_do():
    with pytest.raises(ValueError, match="anomalous=False"):
        dispersion(torch.tensor([26]), 6.0)


def test_polarisation_of_known_beams():
    angle = torch.tensor([90.0], dtype=torch.float64)
    lorentz = 1 / (0.5 * math.sqrt(0.5))
    for polarisation in (0.5, 0.95, 1 / (1 + math.cos(math.radians(26.6)) ** 2)):
        value = float(lorentz_polarisation(angle, polarisation))
        assert value == pytest.approx(polarisation * lorentz)  # cos 2θ = 0
    low = torch.tensor([1e-2], dtype=torch.float64)
    ratio = lorentz_polarisation(low, 0.5) / lorentz_polarisation(low, 0.95)
    assert float(ratio) == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize("r", [0.7, 1.0, 1.3])
def test_march_dollase_is_one_on_the_average_over_the_sphere(r):
    generator = torch.Generator().manual_seed(0)
    directions = torch.randn(200_000, 3, dtype=torch.float64, generator=generator)
    factor = march_dollase(directions, torch.eye(3, dtype=torch.float64), (0, 0, 1), r)
    assert float(factor.mean()) == pytest.approx(1, abs=5e-3)


@pytest.mark.parametrize(
    ("geometry", "shift"),
    [
        ("bragg-brentano", lambda t: -2 * math.cos(t)),
        ("debye-scherrer", lambda t: -math.cos(2 * t)),
    ],
)
def test_displacement_moves_lines_as_its_geometry_says(geometry, shift):
    lattice = 5.0 * torch.eye(3, dtype=torch.float64)[None]
    found = Reflections(torch.tensor([[[1, 1, 1], [4, 0, 0]]]), torch.full((1, 2), 2))
    beam = Radiation((1.540593,))
    instrument = Instrument(geometry=geometry, displacement=0.1, radius=150.0, zero=0.02)
    true = line_positions(lattice, found, beam)[0, 0]
    seen = line_positions(lattice, found, beam, instrument)[0, 0]
    for before, after in zip(true.tolist(), seen.tolist(), strict=True):
        expected = math.degrees(shift(math.radians(before / 2)) * 0.1 / 150) + 0.02
        assert after - before == pytest.approx(expected, abs=1e-9)


def test_half_sphere_holds_each_pair_of_the_sphere_once():
    lattice = torch.tensor([[3.2, 0, 0], [-0.9, 5.0, 0], [-0.8, 1.6, 9.4]]).double()
    hkl = hkl_within(lattice, 5.2)
    box = torch.cartesian_prod(*[torch.arange(-12, 13)] * 3)
    q = 2 * torch.pi * (box.double() @ torch.linalg.inv(lattice).mT).norm(dim=-1)
    inside = {tuple(h) for h in box[(q <= 5.2) & (q > 0)].tolist()}
    pairs = [tuple(h) for h in torch.cat([hkl, -hkl]).tolist()]
    assert len(pairs) == len(inside)
    assert set(pairs) == inside


def test_reflections_on_the_limit_are_inside():
    lattice = 4 * torch.eye(3, dtype=torch.float64)
    assert len(hkl_within(lattice, 2 * math.pi / 4 * 3)) == (123 - 1) // 2
