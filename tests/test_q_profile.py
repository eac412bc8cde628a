from dataclasses import replace

import numpy as np
import pytest
import torch
from pymatgen.core import Structure
from textbook import STRUCTURES

from xrdkit.crystal import from_structures
from xrdkit.q_profile import (
    CLEAN,
    POINTS,
    Q_MAX,
    Q_MIN,
    clean_profiles,
    disturbed_profiles,
    profile_of,
    profiles,
    q_grid,
)
from xrdkit.simulate import pattern_of
from xrdkit.types import Instrument, Pattern
from xrdkit.wavelengths import radiation

NAMES = ("NaCl", "CaF2", "ZnO", "Al2O3", "SiO2")


@pytest.fixture(scope="module")
def crystals():
    return from_structures([STRUCTURES[name] for name in NAMES])


def measured(crystals, i, beam, two_theta, w=0.01):
    one = crystals.select(torch.tensor([i]))
    return pattern_of(one, beam, two_theta=two_theta, instrument=Instrument(w=w))


def test_a_simulated_pattern_has_the_profile_that_is_simulated_on_the_fly(crystals):
    made = clean_profiles(crystals)
    for i in range(len(crystals)):
        seen = profile_of(measured(crystals, i, CLEAN, (5, 80, 7501)))
        torch.testing.assert_close(seen, made[i], atol=0.006, rtol=0)


def test_the_profile_does_not_depend_on_the_wavelength(crystals):
    one = radiation("MoKa1")
    other = replace(radiation(1.1), polarisation=0.95)
    for i in range(len(crystals)):
        found = [
            profile_of(measured(crystals, i, beam, (3, high, 8001), w=0.0001))[0]
            for beam, high in ((one, 43), (other, 69))
        ]
        assert (found[0] - found[1])[:1000].abs().max() < 0.05  # dispersion differs


def test_what_was_not_observed_is_zero_in_both_channels(crystals):
    pattern = measured(crystals, 0, CLEAN, (20, 70, 3001))
    seen = profile_of(replace(pattern, ranges=((20.0, 40.0), (50.0, 70.0))))
    q = q_grid().double().numpy()
    two_theta = np.degrees(2 * np.arcsin(q * CLEAN.main / (4 * np.pi)))
    inside = ((two_theta > 20) & (two_theta < 40)) | ((two_theta > 50) & (two_theta < 70))
    np.testing.assert_array_equal(seen[1].numpy(), inside)
    assert (seen[0].numpy()[~inside] == 0).all()
    assert seen[0].max() == 1


def test_a_pattern_of_too_little_range_is_refused():
    angle = np.linspace(20, 25, 200)
    pattern = Pattern(angle, np.ones(200), CLEAN, name="short.xy")
    with pytest.raises(ValueError, match=r"short.xy covers 0\.3\d 1/Å .* need 1 1/Å"):
        profile_of(pattern)


def test_lines_of_rock_salt_stand_where_its_planes_say(crystals):
    curve = clean_profiles(crystals)[0, 0]
    q = 2 * np.pi * np.sqrt([3, 4, 8, 12]) / 5.640
    for line in q:
        near = (q_grid() - line).abs() < 0.05
        peak = q_grid()[near][curve[near].argmax()]
        assert abs(float(peak) - line) < 0.006


def test_profiles_do_not_change_with_origin_order_and_cell():
    structure = STRUCTURES["Al2O3"]
    other = structure.get_primitive_structure()
    other.make_supercell([[1, 1, 0], [0, 1, 1], [1, 0, 2]])
    other.translate_sites(range(len(other)), [0.1, 0.2, 0.3])
    other = Structure.from_sites(list(other)[::-1])
    a, b = (clean_profiles(from_structures([s])) for s in (structure, other))
    torch.testing.assert_close(a, b, atol=2e-3, rtol=0)


def test_disturbed_profiles_are_bounded_masked_and_repeatable(crystals):
    many = crystals.select(torch.arange(len(crystals)).repeat(40))
    made = disturbed_profiles(many, torch.Generator().manual_seed(3))
    assert made.shape == (len(many), 2, POINTS)
    assert torch.isfinite(made).all()
    assert made.min() >= 0
    torch.testing.assert_close(made[:, 0].amax(1), torch.ones(len(many)))
    assert set(made[:, 1].unique().tolist()) == {0, 1}
    assert (made[:, 0][made[:, 1] == 0] == 0).all()
    covered = made[:, 1].mean(1) * (Q_MAX - Q_MIN)
    assert covered.min() > 1.5
    again = disturbed_profiles(many, torch.Generator().manual_seed(3))
    torch.testing.assert_close(made, again, atol=0, rtol=0)


def test_disturbed_profiles_still_look_like_their_crystal(crystals):
    clean = clean_profiles(crystals)[:, 0]
    many = crystals.select(torch.arange(len(crystals)).repeat(40))
    made = disturbed_profiles(many, torch.Generator().manual_seed(4))
    both = made[:, 1]
    alike = [
        torch.nn.functional.cosine_similarity(made[:, 0], both * one, dim=1)
        for one in clean
    ]
    right = torch.stack(alike, 1).argmax(1) == torch.arange(len(crystals)).repeat(40)
    assert right.float().mean() > 0.9


def test_a_share_of_the_profiles_is_clean(crystals):
    many = crystals.select(torch.arange(len(crystals)).repeat(60))
    made = profiles(many, torch.Generator().manual_seed(5), clean=0.3)
    clean = clean_profiles(crystals).repeat(60, 1, 1)
    same = (made - clean).abs().amax((1, 2)) < 5e-3
    assert 0.2 < same.float().mean() < 0.4
