"""Cells from patterns by a network: what it is shown, samples, training, polishing."""

import numpy as np
import pytest
import torch
from pymatgen.core import Lattice
from textbook import STRUCTURES, table_of

from xrdkit.cell import lattice_of
from xrdkit.crystal import from_structures
from xrdkit.generators.cells import index
from xrdkit.generators.learned_cells import learned_cells
from xrdkit.indexing.bravais import parameters, reduced, same_lattice
from xrdkit.indexing.line_match import observed_lines
from xrdkit.indexing.search import STARTS
from xrdkit.indexing.settings import adopted
from xrdkit.models import cell_net, flow
from xrdkit.models.cell_net import HKL, TYPICAL, Asked, CellNet, line_places, looked_at
from xrdkit.models.checkpoint import load_network, save_network
from xrdkit.models.crystal_net import PatternNet, Size
from xrdkit.models.generate import generate
from xrdkit.models.lattice import cell_of, encoded
from xrdkit.models.weights import DEFAULTS, load_model
from xrdkit.packed import packed_of
from xrdkit.pattern import prepare
from xrdkit.q_profile import CLEAN, Q_MIN, STEP, clean_profiles
from xrdkit.simulate import pattern_of
from xrdkit.train.data import batch_of, taken
from xrdkit.train.log import rows
from xrdkit.train.loop import LOG, WEIGHTS, train
from xrdkit.train.plan import Plan
from xrdkit.train.validation import cell_rates
from xrdkit.types import Pattern

TINY = Size(atom=32, edge=32, layers=1, waves=4, pattern=32)
NAMES = ("NaCl", "CsCl", "ZnS", "NiAs", "ZnO", "CdI2", "TiO2", "CaF2")
PLAIN = {"swaps": 0.0, "strain": 0.0}  # what is learned by heart


@pytest.fixture
def generator():
    return torch.Generator().manual_seed(0)


@pytest.fixture(scope="module")
def data():
    return packed_of(table_of([STRUCTURES[name] for name in NAMES]))


def prepared(name):
    crystal = from_structures([STRUCTURES[name]])
    return prepare(pattern_of(crystal, CLEAN, two_theta=(5, 80, 3751)))


@pytest.fixture(scope="module")
def pattern():
    return prepared("TiO2")


def test_lines_of_a_cell_are_where_their_spacings_say():
    cell = (3.1, 4.2, 5.3, 82.0, 95.0, 101.0)
    lattice = Lattice.from_parameters(*cell)
    meant = [2 * np.pi / lattice.d_hkl(hkl) for hkl in HKL.int().tolist()]
    found = line_places(torch.tensor([cell]))[0].numpy()
    np.testing.assert_allclose(found, meant, rtol=1e-4)
    assert len({tuple(abs(v) for v in hkl) for hkl in HKL.int().tolist()}) == 35


def test_cells_of_no_volume_are_looked_at_without_missing_numbers():
    cell = torch.tensor([[[4.0, 4.0, 4.0, 150.0, 150.0, 150.0]]])
    assert torch.isfinite(looked_at(torch.ones(1, 2, 1024), cell)).all()


def test_a_line_is_seen_where_the_right_cell_has_it_and_not_where_a_wrong_one_has():
    right, wrong = (4.0, 5.0, 7.0, 90.0, 90.0, 90.0), (4.4, 5.0, 7.0, 90.0, 90.0, 90.0)
    cells = torch.tensor([[right, wrong]])
    first = HKL.int().tolist().index([1, 0, 0])
    profile = torch.zeros(1, 2, 1024)
    profile[0, 1] = 1
    profile[0, 0, round((2 * np.pi / 4.0 - Q_MIN) / STEP)] = 1
    wide = len(HKL) * len(cell_net.NEAR)
    shown = looked_at(profile, cells)[0, :, :wide].view(2, len(HKL), -1)
    assert shown[0, first].tolist() == [0, 0, 0, 0, 1, 0, 0, 0, 0]
    assert shown[1, first].sum() == 0
    seen = looked_at(profile, cells)[0, :, wide : wide + len(HKL)]
    assert (seen == (line_places(cells)[0] < 6.39)).all()


class Exact(torch.nn.Module):
    """The exact answer of a small set of cells: their mean, given a noisy one."""

    def __init__(self, cells: torch.Tensor) -> None:
        super().__init__()
        self.y = encoded(cells, TYPICAL)

    def forward(self, y, time, asked):
        t = time[..., None, None]
        off = y[:, :, None] - t * self.y
        log = -(off / (1 - t).clamp(min=1e-3)).square().sum(-1) / 2
        ascends = (off[..., :3].diff(dim=-1) > -1e-3).all(-1)  # as the noise of edges
        return log.masked_fill(~ascends, -1e9).softmax(-1) @ self.y


def test_samples_of_the_exact_answer_are_the_small_set(generator):
    cells = torch.tensor([[3.0, 4, 5, 90, 90, 90], [4.0, 4, 6, 90, 90, 120]])
    none = torch.zeros(1, 2, 1024)
    asked = Asked(none, none[:, 0], none[:, 0])
    drawn = cell_net.sample(Exact(cells), asked, generator, count=400, steps=40)[0]
    near, which = (drawn[:, None] - cells).abs().amax(-1).min(1)
    assert (near < 0.01).float().mean() > 0.97
    assert abs(float(which.float().mean()) - 0.5) < 0.1


def test_what_is_hidden_or_was_never_learned_does_not_matter(data, generator):
    torch.manual_seed(0)
    model = CellNet(TINY).eval()
    model.facts = {"elements": [8, 22]}
    profile = clean_profiles(data.crystals)[:1]
    hidden = torch.tensor([[False, False]])
    one, other = (
        model.asked(profile, torch.tensor([z]), hidden) for z in ([11, 17], [8] * 5)
    )
    torch.testing.assert_close(one.contents, other.contents)
    drawn = [
        cell_net.cells_of(model, profile[0], z, torch.Generator().manual_seed(1), count=5)
        for z in ([], [11, 17], [8, 22])
    ]
    torch.testing.assert_close(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])


def test_every_weight_has_a_gradient_and_mixed_precision_keeps_cells(data, generator):
    torch.manual_seed(1)
    model = CellNet(TINY)
    index = torch.nonzero(data.crystals.counts == 4).flatten()
    batch = batch_of(data, index, clean_profiles(data.crystals))
    cell_net.loss(model, batch, generator).loss.backward()
    for name, weight in model.named_parameters():
        used = name != "element.weight" and ".place" not in name
        assert not used or weight.grad.abs().max() > 0, name
    one, other = (torch.Generator().manual_seed(5) for _ in range(2))
    exact = cell_net.loss(model, batch, one).loss
    with torch.autocast("cpu", torch.bfloat16):
        mixed = cell_net.loss(model, batch, other).loss
    torch.testing.assert_close(mixed, exact, rtol=0.02, atol=0)


def test_a_cell_network_is_trained_goes_on_and_is_loaded(data, tmp_path):
    plan = Plan("cell", epochs=2, crystals=4, block=2, warm_up=2, turns=2, decay=0.4)
    settings = {"plan": plan, "size": TINY, "validation": data, "entries": 4}
    for _ in train(data, tmp_path / "whole", **settings):
        pass
    run = train(data, tmp_path / "parts", **settings)
    for _ in range(3):
        next(run)
    run.close()
    for _ in train(data, tmp_path / "parts", **settings):
        pass
    one, other = (rows(tmp_path / f / LOG) for f in ("whole", "parts"))
    assert [row["loss"] for row in one] == [row["loss"] for row in other]
    assert 0 <= float(one[-1]["val_near"]) <= 1
    model = load_network(tmp_path / "whole" / WEIGHTS, "cell")
    assert isinstance(model, CellNet)
    with pytest.raises(ValueError, match="holds cell, not flow"):
        load_network(tmp_path / "whole" / WEIGHTS, "flow")


@pytest.mark.slow
def test_a_small_set_of_cells_is_learned_by_heart(data, tmp_path):
    many = taken(data, torch.arange(len(data)).repeat(16))
    size = Size(atom=96, edge=128, layers=2, waves=8, pattern=64)
    plan = Plan(
        "cell",
        epochs=150,
        rate=4e-3,
        warm_up=20,
        average=0.98,
        clean=1.0,
        decay=0.5,
        **PLAIN,
    )
    for _ in train(many, tmp_path, plan=plan, size=size):
        pass
    model = load_network(tmp_path / WEIGHTS, "cell")
    found = cell_rates(model, data, entries=len(data))
    assert found["val_near"] == 1


def settings_of(cell, off):
    """A cell off by some share, as primitive cells in several settings."""
    rows = lattice_of(cell) * (1 + off * np.array([[1.0], [-1.0], [0.5]]))
    for change in ([[1, 0, 0], [0, 1, 0], [0, 0, 1]], [[1, 1, 0], [0, 1, 0], [1, 0, 1]]):
        yield parameters(np.array(change) @ rows)


@pytest.mark.parametrize("name", ["TiO2", "NaCl", "ZnO"])
def test_rough_cells_in_any_setting_become_the_lattice(name):
    structure = STRUCTURES[name]
    lines = observed_lines(prepared(name))
    truth = reduced(structure.get_primitive_structure().lattice.matrix)
    figures = []
    for rough in settings_of(parameters(truth), 0.02):
        found = adopted([rough], lines, None, list(STARTS))
        best = max(found, key=lambda setting: setting.figure)
        assert same_lattice(truth, best.primitive)
        figures.append(best.figure)
    assert figures[0] == pytest.approx(figures[1], abs=0.1)


def test_a_network_proposes_cells_that_can_be_indexed_with(pattern, tmp_path):
    torch.manual_seed(0)
    facts = {"elements": [8, 22]}
    path = save_network(tmp_path / "cell.safetensors", CellNet(TINY).eval(), "cell", facts)
    cells = learned_cells(pattern, {"Ti": 1, "O": 2}, weights=path, count=50)
    assert 0 < len(cells) <= 50
    same = learned_cells(pattern, {"Ti": 1, "O": 2}, weights=path, count=50)
    assert cells == same
    assert cells != learned_cells(pattern, None, weights=path, count=50)
    assert index(pattern, proposed=cells, systems="c")


def test_a_flow_proposes_cells_too_of_every_number_of_formula_units(pattern, tmp_path):
    torch.manual_seed(0)
    facts = {"elements": [8, 22], "atoms": 12}
    path = tmp_path / "flow.safetensors"
    save_network(path, PatternNet(TINY).eval(), "flow", facts)
    formula = {"Ti": 1, "O": 2}
    cells = learned_cells(pattern, formula, weights=path, count=12)
    assert len(cells) == 12  # two of one to six units: 20 atoms at most
    whole = generate(load_model(path, "flow"), flow.sample, pattern, [22, 8, 8], count=2,
                     generator=torch.Generator().manual_seed(0))  # fmt: skip
    *_, last = whole  # atoms move, the cells stay
    assert np.allclose(cells[:2], cell_of(last.lattice), rtol=1e-5)
    assert len(learned_cells(pattern, formula, contents=True, weights=path, count=5)) == 5
    assert learned_cells(pattern, {"Fe": 1}, weights=path) == []  # never learned
    assert learned_cells(pattern, None, weights=path) == []


def test_without_weights_or_with_a_strange_pattern_there_are_no_cells(
    pattern, monkeypatch, tmp_path
):
    monkeypatch.delitem(DEFAULTS, "cell", raising=False)
    assert learned_cells(pattern) == []
    path = save_network(tmp_path / "a.safetensors", CellNet(TINY).eval(), "cell", {})
    monkeypatch.setitem(DEFAULTS, "cell", path)
    assert learned_cells(pattern, {"Ti": 1, "O": 2})
    angle = np.linspace(5, 12, 300)
    short = Pattern(angle, np.ones(300), CLEAN, prepared=True)
    assert learned_cells(short) == []
