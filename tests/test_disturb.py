import numpy as np
import pytest
import torch

from xrdkit.simulate import disturbed, pattern_of, realistic
from xrdkit.types import Crystals, Instrument, Pattern, Radiation

CU = Radiation((1.540593,))
DOUBLET = Radiation((1.540593, 1.544427), (2 / 3, 1 / 3))
CRYSTAL = Crystals(  # CsCl
    4.12 * torch.eye(3)[None],
    torch.tensor([[0.0, 0.0, 0.0], [0.5, 0.5, 0.5]]),
    torch.tensor([55, 17]),
    torch.ones(2),
    torch.full((2,), 0.02),
    torch.zeros(2, dtype=torch.long),
)


def test_disturbed_patterns_are_counts_that_follow_the_generator():
    crystal = CRYSTAL
    one, same, other = (
        disturbed(crystal, DOUBLET, torch.Generator().manual_seed(seed))
        for seed in (1, 1, 2)
    )
    assert one.sigma_source == "counts"
    assert np.array_equal(one.intensity, one.intensity.round())
    assert 1000 < one.intensity.max() < 80_000
    assert np.array_equal(one.intensity, same.intensity)
    assert not np.array_equal(one.intensity, other.intensity)
    assert one.instrument == Instrument()  # the truth is not told


def test_noise_is_poisson():
    angles = np.linspace(5, 80, 20_001)
    flat = Pattern(angles, np.ones(20_001), CU)
    noisy = realistic(flat, torch.Generator().manual_seed(0), counts=400.0, background=0.0)
    assert noisy.intensity.mean() == pytest.approx(400, abs=1)
    assert noisy.intensity.var() == pytest.approx(400, rel=0.05)
    np.testing.assert_allclose(noisy.sigma**2, noisy.intensity)


def test_realistic_zero_moves_lines_to_higher_angles():
    clean = pattern_of(CRYSTAL, CU, two_theta=(5, 80, 7501))
    generator = torch.Generator().manual_seed(0)
    moved = realistic(clean, generator, counts=1e9, background=0.0, zero=0.1)
    step = moved.intensity.argmax() - clean.intensity.argmax()
    assert step == 10
