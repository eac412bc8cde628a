import numpy as np
import pytest
import torch
from textbook import STRUCTURES

from xrdkit.crystal import from_structures
from xrdkit.models import diffusion, flow
from xrdkit.models.crystal_net import PatternNet, Size
from xrdkit.models.generate import generate
from xrdkit.q_profile import CLEAN
from xrdkit.simulate import pattern_of
from xrdkit.types import Pattern

TINY = Size(atom=16, edge=8, layers=1, waves=4, pattern=32, heads=2, attention=8)
CELLS = ((3.99, 3.99, 3.99, 60.0, 60.0, 60.0), (4.0, 4.0, 5.0, 90.0, 90.0, 90.0))


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    made = PatternNet(TINY).eval()
    made.facts = {"atoms": 4, "elements": [11, 17]}
    return made


@pytest.fixture(scope="module")
def pattern():
    return pattern_of(from_structures([STRUCTURES["NaCl"]]), CLEAN, two_theta=(5, 80, 3751))


@pytest.mark.parametrize("method", [flow, diffusion])
def test_crystals_of_the_atoms_and_cells_that_are_asked_for(model, pattern, method):
    generator = torch.Generator().manual_seed(0)
    steps = list(
        generate(
            model,
            method.sample,
            pattern,
            [17, 11],
            count=5,
            cells=CELLS,
            steps=3,
            generator=generator,
        )
    )
    assert len(steps) == 4
    last = steps[-1]
    assert len(last) == 5
    assert last.numbers.tolist() == [11, 17] * 5
    edges = last.lattice.norm(dim=-1)[:, 2].tolist()
    assert edges == pytest.approx([3.99, 5, 3.99, 5, 3.99], rel=1e-4)
    assert ((last.frac >= 0) & (last.frac < 1)).all()


def test_many_crystals_are_sampled_in_parts_that_fit(model, pattern):
    settings = {"count": 7, "steps": 2, "generator": torch.Generator().manual_seed(0)}
    *_, last = generate(model, flow.sample, pattern, [11, 17], room=6, **settings)
    assert len(last) == 7
    assert len({round(float(v), 4) for v in last.volume}) == 7


def test_what_the_network_has_not_learned_is_refused(model, pattern):
    def asked(numbers, shown=pattern):
        return next(
            generate(model, flow.sample, shown, numbers, generator=torch.Generator())
        )

    with pytest.raises(ValueError, match=r"are not one or more of 1–99"):
        asked([])
    with pytest.raises(ValueError, match=r"\[300\] are not one or more of 1–99"):
        asked([300])
    with pytest.raises(ValueError, match=r"9 atoms in the cell; .* learned up to 4"):
        asked([11] * 9)
    with pytest.raises(ValueError, match=r"atomic numbers \[55\] were in no structure"):
        asked([11, 55])
    angle = np.linspace(5, 80, 2000)
    one = Pattern(angle, np.exp(-((angle - 40) ** 2)), CLEAN, prepared=True, name="one.xy")
    with pytest.raises(ValueError, match=r"one.xy has 1 lines above 1 % .* need 3"):
        asked([11, 17], one)
