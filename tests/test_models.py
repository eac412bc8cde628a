import resource
from dataclasses import asdict, replace

import numpy as np
import pytest
import torch
from pymatgen.core import Lattice, Structure
from scipy.optimize import linear_sum_assignment
from textbook import STRUCTURES

from xrdkit.metrics import normalised_rmse
from xrdkit.models import diffusion, flow
from xrdkit.models.checkpoint import (
    GRID,
    load_network,
    read_tensors,
    save_network,
    write_tensors,
)
from xrdkit.models.crystal_net import CrystalNet, Output, PatternNet, Size, edge_features
from xrdkit.models.encoder import ENCODERS, Seen, peaks_of
from xrdkit.models.lattice import cell_of, decoded, encoded, lattice_of, metric_of
from xrdkit.q_profile import Q_MIN, STEP, q_grid
from xrdkit.types import Batch, Controls

IDLE = "net.atoms.bias"  # would move all atoms alike, which is taken away
TINY = Size(atom=32, edge=16, layers=2, waves=4, pattern=32, heads=2, attention=16)


@pytest.fixture
def generator():
    return torch.Generator().manual_seed(0)


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return PatternNet(TINY).eval()


def seen_of(count: int, generator: torch.Generator) -> Seen:
    tokens = torch.randn(count, 32, TINY.pattern, generator=generator)
    return Seen(tokens, torch.randn(count, TINY.pattern, generator=generator))


def some_input(generator, crystals=3, atoms=5):
    numbers = torch.randint(1, 90, (crystals, atoms), generator=generator)
    frac = torch.rand(crystals, atoms, 3, generator=generator)
    y = torch.randn(crystals, 6, generator=generator) / 2
    time = torch.rand(crystals, 2, generator=generator)
    return numbers, frac, y, time, seen_of(crystals, generator)


def batch_of(numbers, frac, cell, profile=None) -> Batch:
    count = len(numbers)
    empty = torch.zeros(count, 2, 1024) if profile is None else profile
    mask = torch.ones_like(numbers, dtype=torch.bool)
    peaks, size = torch.zeros(count, 0, 3), torch.zeros(count)
    return Batch(numbers, frac, cell, empty, peaks, mask, size)


# cells


def test_cells_become_six_numbers_and_back():
    cell = torch.tensor([[3.0, 4.0, 5.5, 71.0, 88.0, 102.0], [9.0, 9, 9, 60, 60, 60]])
    torch.testing.assert_close(decoded(encoded(cell, 7), 7), cell)
    torch.testing.assert_close(cell_of(lattice_of(cell)), cell, atol=1e-3, rtol=0)
    lattice = lattice_of(cell)
    torch.testing.assert_close(lattice @ lattice.mT, metric_of(cell), atol=1e-3, rtol=0)
    for one, rows in zip(cell.tolist(), lattice.numpy(), strict=True):
        same = Lattice.from_parameters(*one)
        np.testing.assert_allclose(rows @ rows.T, same.matrix @ same.matrix.T, atol=1e-3)


def test_six_numbers_of_a_cell_do_not_know_how_many_formula_units_it_holds():
    cell = torch.tensor([[4.0, 5.0, 6.0, 90.0, 90.0, 90.0]])
    double = torch.cat([cell[:, :3] * 2, cell[:, 3:]], 1)
    torch.testing.assert_close(encoded(cell, 3), encoded(double, 24))


def test_angles_without_volume_give_a_flat_cell_not_a_missing_number():
    cell = torch.tensor([[4.0, 4.0, 4.0, 150.0, 150.0, 150.0]])
    assert torch.isfinite(lattice_of(cell)).all()


# encoder and network


def some_profiles(count, generator):
    profile = torch.rand(count, 2, 1024, generator=generator) ** 8
    profile[:, 1] = 1
    profile[0, :, :100] = 0
    return profile


@pytest.mark.parametrize(("name", "tokens"), [("cnn", 32), ("patches", 64), ("peaks", 65)])
def test_encoders_make_tokens_and_one_embedding(generator, name, tokens):
    torch.manual_seed(0)
    encoder = ENCODERS[name](TINY.pattern).eval()
    profile = some_profiles(3, generator)
    seen = encoder(profile)
    assert seen.tokens.shape == (3, tokens, TINY.pattern)
    assert seen.embedding.shape == (3, TINY.pattern)
    for one, each in zip(encoder(profile[1:2]), seen, strict=True):
        torch.testing.assert_close(one[0], each[1], atol=1e-5, rtol=1e-4)
    twice = seen.repeat(2)
    torch.testing.assert_close(twice.tokens[1], seen.tokens[0])


@pytest.mark.parametrize("name", ENCODERS)
def test_a_shifted_line_and_a_hidden_pattern_change_the_embedding(name):
    torch.manual_seed(0)
    encoder = ENCODERS[name](TINY.pattern).eval()
    profile = torch.zeros(3, 2, 1024)
    profile[:2, 1] = 1
    profile[0, 0, 500:503] = profile[1, 0, 501:504] = torch.tensor([0.5, 1, 0.5])
    a, b, hidden = encoder(profile).embedding
    assert torch.isfinite(hidden).all()
    assert (a - b).abs().max() > 1e-4
    assert (a - hidden).abs().max() > 1e-3


def test_peaks_stand_between_grid_points_where_their_lines_do():
    q = q_grid()
    places = torch.tensor([1.2345, 2.7182, 4.4])
    heights = torch.tensor([1.0, 0.5, 0.8])
    curve = (heights * torch.exp(-(((q[:, None] - places) / 0.01) ** 2))).sum(1)
    profile = torch.stack([curve, torch.ones(1024)])[None]
    peaks = peaks_of(profile)[0]
    assert (peaks[3:] == 0).all()
    order = peaks[:3, 0].argsort()
    found = Q_MIN + peaks[order, 0] * 1024 * STEP
    torch.testing.assert_close(found, places, atol=5e-4, rtol=0)
    torch.testing.assert_close(peaks[order, 1], heights, atol=0.06, rtol=0)


def test_outputs_do_not_change_with_the_origin(model, generator):
    numbers, frac, *rest = some_input(generator)
    moved = torch.remainder(frac + torch.tensor([0.3, 0.55, 0.91]), 1)
    for a, b in zip(model(numbers, frac, *rest), model(numbers, moved, *rest), strict=True):
        torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-4)


def test_outputs_of_atoms_go_with_their_order_and_those_of_crystals_do_not(
    model, generator
):
    numbers, frac, *rest = some_input(generator)
    order = torch.tensor([3, 1, 4, 0, 2])
    a, b = model(numbers, frac, *rest), model(numbers[:, order], frac[:, order], *rest)
    torch.testing.assert_close(a.atoms[:, order], b.atoms, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(a.cell, b.cell, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(a.embedding, b.embedding, atol=1e-5, rtol=1e-4)


def test_whole_crystals_do_not_move_and_crystals_do_not_see_each_other(model, generator):
    numbers, frac, y, time, seen = some_input(generator)
    out = model(numbers, frac, y, time, seen)
    torch.testing.assert_close(out.atoms.mean(1), torch.zeros(3, 3), atol=1e-6, rtol=0)
    one = model(numbers[1:2], frac[1:2], y[1:2], time[1:2], Seen(*(v[1:2] for v in seen)))
    for alone, among in zip(one, out, strict=True):
        torch.testing.assert_close(alone[0], among[1], atol=1e-5, rtol=1e-4)


def test_edge_features_of_opposite_displacements_are_mirror_images(generator):
    frac = torch.rand(1, 4, 3, generator=generator)
    metric = torch.eye(3)[None] * 25
    features = edge_features(frac, metric, 3)
    sines, rest = features[..., :18].unflatten(-1, (3, 6)), features[..., 18:]
    torch.testing.assert_close(sines[..., :3], -sines.transpose(1, 2)[..., :3])
    torch.testing.assert_close(sines[..., 3:], sines.transpose(1, 2)[..., 3:])
    torch.testing.assert_close(rest, rest.transpose(1, 2))


@pytest.mark.parametrize("name", ENCODERS)
def test_every_weight_has_a_gradient(generator, name):
    torch.manual_seed(1)
    net = PatternNet(replace(TINY, encoder=name))
    numbers = torch.randint(1, 90, (4, 5), generator=generator)
    frac = torch.rand(4, 5, 3, generator=generator)
    cell = torch.tensor([[4.0, 5.0, 6.0, 80.0, 90.0, 95.0]]).repeat(4, 1)
    profile = some_profiles(4, generator)
    flow.loss(net, batch_of(numbers, frac, cell, profile), generator).loss.backward()
    for name, weight in net.named_parameters():
        assert weight.grad is not None, name
        assert name == IDLE or weight.grad.abs().max() > 0, name


def test_sizes_that_make_no_network_are_refused():
    with pytest.raises(ValueError, match="attention a multiple of heads"):
        CrystalNet(Size(heads=5))
    with pytest.raises(ValueError, match="encoder 'rnn' is none of cnn, patches, peaks"):
        Size(encoder="rnn")
    with pytest.raises(ValueError, match="sizes are 1–4096"):
        CrystalNet(Size(layers=0))


# the coupling of noise and crystal


def test_assignment_exchanges_atoms_of_one_element_only_and_is_nearly_the_best(generator):
    numbers = torch.tensor([[8, 8, 8, 8, 8, 22, 22, 22]]).repeat(50, 1)
    cost = torch.rand(50, 8, 8, generator=generator)
    order = flow.assigned(cost, numbers)
    assert (numbers.gather(1, order) == numbers).all()
    assert (order.sort(1).values == torch.arange(8)).all()
    found = cost.gather(2, order[..., None])[..., 0].sum()
    forbidden = cost + 100 * (numbers[:, :, None] != numbers[:, None]).float()
    best = sum(float(one[linear_sum_assignment(one.numpy())].sum()) for one in forbidden)
    unassigned = float(cost.diagonal(dim1=1, dim2=2).sum())
    assert best <= found < best + 0.1 * (unassigned - best)


def test_coupling_shortens_paths_and_keeps_the_crystal_up_to_a_translation(generator):
    numbers = torch.tensor([[1, 1, 2, 2, 2]]).repeat(200, 1)
    start, end = torch.rand(2, 200, 5, 3, generator=generator)
    path = flow.coupled(start, end, numbers)
    plain = flow.wrapped(end - start)
    plain = plain - plain.mean(1, keepdim=True)
    torch.testing.assert_close(path.mean(1), torch.zeros(200, 3), atol=1e-6, rtol=0)
    assert path.square().mean() < 0.6 * plain.square().mean()
    metric = torch.eye(3)[None].repeat(200, 1, 1)
    reached = edge_features(start + path, metric, 2).sort(2).values
    meant = edge_features(end, metric, 2).sort(2).values
    assert (reached.sum((1, 2)) - meant.sum((1, 2))).abs().max() < 1e-3


def test_the_circular_mean_is_the_best_translation(generator):
    x = torch.rand(100, 6, 3, generator=generator)
    found = flow.wrapped(x - flow.circular_mean(x)).square().sum(1)
    tried = torch.linspace(0, 1, 500)[:, None, None, None]
    best = flow.wrapped(x - tried).square().sum(2).amin(0)
    assert (found <= best + 1e-6).all()


def test_the_nearest_of_some_settings_is_taken(generator):
    numbers = torch.tensor([[1, 2, 3]])
    start = torch.rand(1, 3, 3, generator=generator)
    ends = torch.stack([-start, start + 0.2, torch.rand(1, 3, 3, generator=generator)])
    path, best = flow.nearest_setting(start, ends, numbers)
    assert best.tolist() == [1]
    torch.testing.assert_close(path, torch.zeros(1, 3, 3), atol=1e-6, rtol=0)


def test_times_hold_cells_known_as_noisy_as_the_atoms_and_between(generator):
    t, s = flow.times(20_000, generator, torch.device("cpu")).unbind(1)
    assert abs(float(t.mean()) - 0.5) < 0.01
    assert abs(float((s == 1).float().mean()) - flow.KNOWN) < 0.01
    assert abs(float((s == t).float().mean()) - flow.JOINT) < 0.01


def test_noise_of_cells_has_ascending_edges_and_unit_variance(generator):
    y = flow.cell_noise(20_000, generator, torch.device("cpu"))
    assert (y[:, :3].diff(dim=1) >= 0).all()
    assert abs(float(y[:, :3].flatten().var()) - 1) < 0.03
    assert abs(float(y[:, 3:].flatten().var()) - 1) < 0.03


# the exact answer of a small set

TRUTH = torch.tensor([[0.31, 0.17, 0.44], [0.08, 0.42, 0.26], [0.47, 0.03, 0.11]])
CELLS = torch.tensor(
    [
        [3.0, 3.5, 4.0, 90.0, 90.0, 90.0],
        [3.6, 3.9, 4.4, 80.0, 85.0, 95.0],
        [3.2, 4.2, 6.0, 70.0, 90.0, 100.0],
    ]
)


class Exact(torch.nn.Module):
    """The exact velocity of crystals of two atoms, apart by one of some displacements.

    At time t a displacement r is reached from noise if it is within (1 - t) / 2 of its
    end; the cell's six numbers are normal around t y with the spread 1 - t.
    """

    def __init__(self, apart: torch.Tensor, cells: torch.Tensor) -> None:
        super().__init__()
        self.apart, self.y = apart, encoded(cells, 2)

    def encoder(self, profile: torch.Tensor) -> Seen:
        return Seen(profile[:, :, :8], profile[:, 0, :8])

    def forward(self, numbers, frac, y, times, seen) -> Output:
        t, s = times[:, :1], times[:, 1:]
        left = flow.wrapped(self.apart - (frac[:, 1] - frac[:, 0])[:, None])
        inside = (left.abs().amax(-1) <= (1 - t) / 2 + 1e-4).float()
        spread = (1 - s).clamp(min=1e-3)
        log = -((y[:, None] - s[..., None] * self.y) / spread[..., None]).square() / 2
        edges = (y[:, None] - s[..., None] * self.y)[..., :3]  # noise of edges ascends
        inside = inside * (edges.diff(dim=-1).amin(-1) > -1e-3)
        weight = (log.sum(-1) + inside.clamp(min=1e-30).log()).softmax(1)
        half = (weight[..., None] * left).sum(1) / (1 - t).clamp(min=1e-3) / 2
        return Output(torch.stack([-half, half], 1) / flow.SPEED, weight @ self.y, y)


def test_the_exact_velocity_has_no_loss(generator):
    numbers = torch.tensor([[11, 17]]).repeat(100, 1)
    frac = torch.rand(100, 1, 3, generator=generator)
    frac = torch.cat([frac, frac + TRUTH[:1]], 1)
    exact = Exact(TRUTH[:1], CELLS[:1])
    batch = batch_of(numbers, frac, CELLS[:1].repeat(100, 1))
    loss = flow.loss(exact, batch, generator)
    assert loss.atoms < 1e-6
    assert loss.cell < 1e-6
    other = flow.loss(Exact(TRUTH[1:2], CELLS[:1]), batch, generator)
    assert other.atoms > 0.1


def test_mixed_precision_rounds_neither_coordinates_nor_cells(generator):
    numbers = torch.tensor([[11, 17]]).repeat(100, 1)
    frac = torch.rand(100, 1, 3, generator=generator)
    frac = torch.cat([frac, frac + TRUTH[:1]], 1)
    batch = batch_of(numbers, frac, CELLS[1:2].repeat(100, 1))
    unity = torch.eye(3).expand(1, 100, 3, 3)
    with torch.autocast("cpu", torch.bfloat16):
        loss = flow.loss(Exact(TRUTH[:1], CELLS[1:2]), batch, generator, settings=unity)
    assert loss.atoms < 1e-6
    assert loss.cell < 1e-6


class OneCrystal(torch.nn.Module):
    """What is exact for one crystal: the velocity to it, or its score, and its cell."""

    def __init__(self, frac: torch.Tensor, cell: torch.Tensor, method) -> None:
        super().__init__()
        self.frac, self.y, self.method = frac, encoded(cell, len(frac)), method

    def forward(self, numbers, frac, y, times, seen) -> Output:
        time = times[:, :1, None]
        if self.method is flow:
            left = flow.coupled(frac, self.frac.expand_as(frac), numbers)
            atoms = left / (1 - time) / flow.SPEED
        else:
            sigma = diffusion.spread(time).expand_as(frac)
            off = frac - self.frac
            atoms = diffusion.score(off - flow.circular_mean(off), sigma)
            atoms = atoms / diffusion.score_scale(sigma[:1])
        return Output(atoms, self.y.expand_as(y), y)


@pytest.mark.parametrize(("method", "steps"), [(flow, 1), (flow, 50), (diffusion, 100)])
@pytest.mark.parametrize("name", ["FeS2", "SiO2", "TiO2"])
@pytest.mark.parametrize("known", [False, True])
def test_samples_of_the_exact_answer_are_the_crystal(generator, method, steps, name, known):
    truth = STRUCTURES[name].get_primitive_structure()
    numbers = torch.tensor(truth.atomic_numbers)
    cell = torch.tensor(truth.lattice.parameters).float()
    exact = OneCrystal(torch.tensor(truth.frac_coords).float(), cell, method)
    rows, cells = numbers.expand(8, -1), cell.expand(8, -1)
    given = {"steps": steps, "cell": cells if known else None}
    *_, last = method.sample(exact, rows, seen_of(8, generator), generator, **given)
    for lattice, frac in zip(lattice_of(last.cell).numpy(), last.frac.numpy(), strict=True):
        answer = Structure(lattice, numbers.tolist(), frac)
        assert normalised_rmse(truth, answer) < 1e-3


@pytest.mark.parametrize("slope", [0.0, flow.SLOPE])
def test_samples_of_the_exact_velocity_are_the_small_set(generator, slope):
    count = 900
    exact = Exact(TRUTH, CELLS)
    numbers = torch.tensor([[11, 17]]).repeat(count, 1)
    seen = exact.encoder(torch.zeros(count, 2, 1024))
    *_, last = flow.sample(exact, numbers, seen, generator, steps=800, slope=slope)
    apart = last.frac[:, 1] - last.frac[:, 0]
    off = flow.wrapped(apart[:, None] - TRUTH).abs().amax(-1)
    best, which = off.min(1)
    assert (best < 1e-3).float().mean() > 0.98
    off = (encoded(last.cell, 2) - encoded(CELLS, 2)[which]).abs().amax(1)
    assert (off < 1e-3).float().mean() > 0.97
    shares = torch.bincount(which, minlength=3) / count
    assert (shares - 1 / 3).abs().max() < 3 * (2 / 9 / count) ** 0.5


@pytest.mark.parametrize("steps", [1, 2, 3, 4, 7, 20, 51])
@pytest.mark.parametrize("known", [None, 0.5, 1.0])
def test_a_path_has_as_many_steps_as_are_asked_for(generator, steps, known):
    exact, numbers = Exact(TRUTH[:1], CELLS[:1]), torch.tensor([[11, 17]]).repeat(3, 1)
    given = {} if known is None else {"cell": CELLS[:1].repeat(3, 1), "known": known}
    seen = exact.encoder(torch.zeros(3, 2, 1024))
    states = list(flow.sample(exact, numbers, seen, generator, steps=steps, **given))
    wanted = [k / steps for k in range(steps + 1)]
    assert [state.time for state in states] == pytest.approx(wanted)
    assert states[-1].time == 1
    cells = CELLS[:1].expand(3, 6)
    torch.testing.assert_close(states[-1].cell, cells, atol=1e-3, rtol=1e-3)


class Noting(Exact):
    """Notes the times that it is asked for."""

    def forward(self, numbers, frac, y, times, seen) -> Output:
        self.asked = [*getattr(self, "asked", []), tuple(times[0].tolist())]
        return super().forward(numbers, frac, y, times, seen)


def test_the_cell_goes_first_then_the_atoms_which_are_set_back_three_times(generator):
    noting, numbers = Noting(TRUTH[:1], CELLS[:1]), torch.tensor([[11, 17]])
    seen = noting.encoder(torch.zeros(1, 2, 1024))
    states = list(flow.sample(noting, numbers, seen, generator, steps=50))
    cell = [(0, k / 8) for k in range(8)]
    way = [(k / 12, 1) for k in range(12)]
    looks = 3 * [(0.3 + 0.7 * k / 10, 1) for k in range(10)]
    assert np.allclose(noting.asked, cell + way + looks, atol=1e-6)
    assert all(torch.equal(state.frac, states[0].frac) for state in states[:9])
    assert not torch.equal(states[9].frac, states[0].frac)
    assert torch.equal(states[-1].cell, states[8].cell)
    assert flow.cell_steps(50) == 8
    noting.asked = []
    list(flow.sample(noting, numbers, seen, generator, steps=50, cell=CELLS[:1]))
    assert np.allclose(noting.asked, [(k / 20, 1) for k in range(20)] + looks, atol=1e-6)


def test_a_diffusion_takes_the_same_way_and_one_step_is_enough(generator):
    noting, numbers = Noting(TRUTH[:1], CELLS[:1]), torch.tensor([[11, 17]])
    seen = noting.encoder(torch.zeros(1, 2, 1024))
    list(flow.sample(noting, numbers, seen, generator, steps=50))
    asked, noting.asked = noting.asked, []
    states = list(diffusion.sample(noting, numbers, seen, generator, steps=50))
    assert np.allclose(noting.asked, asked)
    assert all(torch.equal(state.frac, states[0].frac) for state in states[:9])
    assert torch.equal(states[-1].cell, states[8].cell)
    noting.asked = []
    straight = {"legs": flow.STRAIGHT, "correction": diffusion.CORRECTION}
    list(diffusion.sample(noting, numbers, seen, generator, steps=4, **straight))
    assert np.allclose(noting.asked, [(k / 4, k / 4) for k in range(4) for _ in "pc"])
    for method in (flow, diffusion):
        *_, last = method.sample(noting, numbers, seen, generator, steps=1)
        assert last.time == 1
        torch.testing.assert_close(last.cell, CELLS[:1], atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize(("first", "then", "left"), [(40, 2, 1), (30, 1, 1), (5, 100, 90)])
def test_a_path_whose_steps_are_changed_ends(generator, first, then, left):
    exact, numbers = Exact(TRUTH[:1], CELLS[:1]), torch.tensor([[11, 17]]).repeat(3, 1)
    seen, controls = exact.encoder(torch.zeros(3, 2, 1024)), Controls(steps=50)
    path = flow.sample(exact, numbers, seen, generator, controls=controls)
    for _ in range(first + 1):
        next(path)
    controls.steps = then
    rest = list(path)
    assert len(rest) == left
    assert rest[-1].time == 1
    torch.testing.assert_close(rest[-1].cell, CELLS[:1].expand(3, 6), atol=1e-3, rtol=1e-3)


def test_atoms_that_are_set_back_are_on_a_way_to_where_they_were(generator):
    numbers = torch.tensor([[11, 17, 17]]).repeat(2000, 1)
    x = torch.rand(1, 3, 3, generator=generator).expand(2000, 3, 3)
    same = flow.set_back(x, numbers, 1.0, generator)  # but for origin and order
    apart = [one[:, 1:] - one[:, :1] for one in (same, x)]
    off = [flow.wrapped(apart[0] - other) for other in (apart[1], apart[1].flip(1))]
    assert torch.stack(off).abs().amax((2, 3)).amin(0).max() < 1e-5
    begun = torch.Generator().manual_seed(4)
    half = flow.set_back(x, numbers, 0.5, begun)
    start = torch.rand(x.shape, generator=begun.manual_seed(4))
    path = flow.coupled(start, x, numbers)
    torch.testing.assert_close(flow.wrapped(half - start), path / 2, atol=1e-5, rtol=1e-4)


def test_a_known_cell_is_kept_and_a_roughly_known_one_is_where_the_path_begins(generator):
    exact = Exact(TRUTH[:1], CELLS[:1])
    numbers = torch.tensor([[11, 17]]).repeat(2, 1)
    seen = exact.encoder(torch.zeros(2, 2, 1024))
    given = CELLS[:1].repeat(2, 1)
    states = list(flow.sample(exact, numbers, seen, generator, steps=10, cell=given))
    assert len(states) == 11
    assert [round(state.time, 6) for state in states] == [k / 10 for k in range(11)]
    for state in states:
        torch.testing.assert_close(state.cell, given)
    rough = given * torch.tensor([1.01, 0.99, 1.0, 1.0, 1.01, 0.99])
    states = list(
        flow.sample(exact, numbers, seen, generator, steps=10, cell=rough, known=0.9)
    )
    assert (states[0].cell / given - 1).abs().max() < 0.2
    torch.testing.assert_close(states[-1].cell, given, atol=1e-3, rtol=1e-3)


def test_samples_are_the_same_with_the_same_seed(model, generator):
    numbers = torch.tensor([[3, 8, 8]]).repeat(4, 1)
    seen = seen_of(4, generator)
    runs = [
        list(flow.sample(model, numbers, seen, torch.Generator().manual_seed(7), steps=3))
        for _ in range(2)
    ]
    torch.testing.assert_close(runs[0][-1].frac, runs[1][-1].frac, atol=0, rtol=0)


def test_steps_and_trust_out_of_range_are_refused(model, generator):
    numbers, seen = torch.tensor([[3, 8]]), seen_of(1, generator)
    with pytest.raises(ValueError, match=r"0 steps .* give 1–10,000 steps"):
        next(flow.sample(model, numbers, seen, generator, steps=0))
    with pytest.raises(ValueError, match=r"known to 1\.5; give .* 0–1"):
        next(flow.sample(model, numbers, seen, generator, known=1.5))


# diffusion


class ExactScore(torch.nn.Module):
    """The exact score, and clean cell, of crystals of two atoms, as ``Exact``."""

    def __init__(self, apart: torch.Tensor, cells: torch.Tensor) -> None:
        super().__init__()
        self.apart, self.y = apart, encoded(cells, 2)

    def forward(self, numbers, frac, y, times, seen) -> Output:
        sigma = diffusion.spread(times[:, :1])[..., None] * 2**0.5  # of the displacement
        left = (frac[:, 1] - frac[:, 0])[:, None] - self.apart
        images = flow.wrapped(left)[..., None] + torch.arange(-3, 4)
        density = (-(images**2) / (2 * sigma[..., None] ** 2)).logsumexp(-1).sum(-1)
        share = diffusion.signal(times[:, 1:])
        narrow = (1 - share**2).clamp(min=1e-6).sqrt()
        log = -(((y[:, None] - share[..., None] * self.y) / narrow[..., None]) ** 2) / 2
        weight = (log.sum(-1) + density).softmax(1)
        half = (weight[..., None] * diffusion.score(left, sigma)).sum(1)
        atoms = torch.stack([-half, half], 1) / diffusion.score_scale(sigma[:1] / 2**0.5)
        return Output(atoms, weight @ self.y, y)


def test_the_score_is_the_derivative_of_the_wrapped_normal_density():
    x = torch.linspace(-0.49, 0.49, 41, dtype=torch.float64, requires_grad=True)
    images = torch.arange(-9, 10)
    for sigma in (0.02, 0.1, 0.5):
        wide = torch.full_like(x, sigma).detach()
        density = torch.exp(-((x[:, None] + images) ** 2) / (2 * sigma**2)).sum(1)
        (meant,) = torch.autograd.grad(density.clamp(min=1e-200).log().sum(), x)
        near = x.abs() < 20 * sigma
        torch.testing.assert_close(
            diffusion.score(x, wide)[near], meant[near], atol=1e-3, rtol=1e-3
        )
        draw = sigma * torch.randn(200_000, generator=torch.Generator().manual_seed(0))
        found = diffusion.score(draw, torch.full_like(draw, sigma)).square().mean().sqrt()
        scale = diffusion.score_scale(torch.tensor([sigma]))
        torch.testing.assert_close(scale[0], found, atol=1e-2, rtol=0.02)


@pytest.mark.parametrize("correction", [0.0, 1e-5])
def test_diffusion_samples_of_the_exact_score_are_the_small_set(generator, correction):
    count = 240
    numbers = torch.tensor([[11, 17]]).repeat(count, 1)
    exact, seen = ExactScore(TRUTH, CELLS), seen_of(count, generator)
    settings = {"steps": 100, "correction": correction}
    *_, last = diffusion.sample(exact, numbers, seen, generator, **settings)
    apart = last.frac[:, 1] - last.frac[:, 0]
    best, which = flow.wrapped(apart[:, None] - TRUTH).abs().amax(-1).min(1)
    assert (best < 1e-3).float().mean() > 0.97
    off = (encoded(last.cell, 2) - encoded(CELLS, 2)[which]).abs().amax(1)
    assert (off < 1e-3).float().mean() > 0.97
    shares = torch.bincount(which, minlength=3) / count
    assert (shares - 1 / 3).abs().max() < 3.5 * (2 / 9 / count) ** 0.5
    given = CELLS[:1].repeat(count, 1)
    *_, last = diffusion.sample(exact, numbers, seen, generator, steps=20, cell=given)
    torch.testing.assert_close(last.cell, given)


def test_diffusion_learns_from_every_weight_and_refuses_steps(generator):
    torch.manual_seed(1)
    net = PatternNet(TINY)
    numbers = torch.randint(1, 90, (4, 5), generator=generator)
    frac = torch.rand(4, 5, 3, generator=generator)
    batch = batch_of(numbers, frac, CELLS[:1].repeat(4, 1), some_profiles(4, generator))
    settings = -torch.eye(3).expand(1, 4, 3, 3)
    diffusion.loss(net, batch, generator, settings=settings).loss.backward()
    for name, weight in net.named_parameters():
        assert name == IDLE or weight.grad.abs().max() > 0, name
    with pytest.raises(ValueError, match=r"0 steps .* give 1–10,000 steps"):
        next(diffusion.sample(net, numbers, seen_of(4, generator), generator, steps=0))


# files


def test_saved_weights_are_loaded_again(model, tmp_path, generator):
    path = save_network(tmp_path / "flow.safetensors", model, "flow", {"step": 5})
    loaded = load_network(path, "flow")
    a, b = (m(*some_input(torch.Generator().manual_seed(1))) for m in (model, loaded))
    torch.testing.assert_close(a.atoms, b.atoms, atol=2e-2, rtol=2e-2)  # bf16
    assert read_tensors(path, "flow")[1]["step"] == 5
    assert not loaded.training


def test_files_that_are_no_weights_are_refused(model, tmp_path):
    path = save_network(tmp_path / "flow.safetensors", model, "flow", {})
    with pytest.raises(FileNotFoundError, match="check the name and the folder"):
        load_network(tmp_path / "nothing", "flow")
    short = tmp_path / "short"
    short.write_bytes(path.read_bytes()[:-50])
    with pytest.raises(ValueError, match="truncated or no safetensors file"):
        load_network(short, "flow")
    other = write_tensors(tmp_path / "other", "cell", {"x": torch.zeros(1)}, {})
    with pytest.raises(ValueError, match="holds cell, not flow"):
        load_network(other, "flow")
    future = write_tensors(other, "flow", {"x": torch.zeros(1)}, {"format": 99})
    with pytest.raises(ValueError, match="has format 99, this xrdkit reads up to 1"):
        load_network(future, "flow")
    grid = write_tensors(other, "flow", {"x": torch.zeros(1)}, {"grid": [0, 5, 512]})
    with pytest.raises(ValueError, match=r"Q grid \[0, 5, 512\], this xrdkit uses"):
        load_network(grid, "flow")
    weights, header = read_tensors(path, "flow")
    del weights["encoder.place"], header["grid"]
    partial = write_tensors(other, "flow", weights, {**header, "grid": GRID})
    with pytest.raises(ValueError, match="does not fit the network"):
        load_network(partial, "flow")
    foreign = tmp_path / "foreign"
    foreign.write_bytes(b"not safetensors at all, but longer than a header would be")
    with pytest.raises(ValueError, match="truncated or no safetensors file"):
        load_network(foreign, "flow")


def test_a_header_that_promises_more_than_the_file_holds_takes_no_memory(model, tmp_path):
    weights = read_tensors(save_network(tmp_path / "own", model, "flow", {}), "flow")[0]
    sizes = asdict(TINY)
    huge = {**sizes, "atom": 4096, "edge": 4096, "layers": 64, "pattern": 4096}  # 60 GB
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    path = write_tensors(tmp_path / "huge", "flow", weights, {"size": huge})
    with pytest.raises(ValueError, match=r"does not fit the network: \d+ tensors for"):
        load_network(path, "flow")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000  # kB
    for size in ({**sizes, "layers": 65}, {**sizes, "depth": 3}, {**sizes, "atom": "x"}):
        path = write_tensors(tmp_path / "wrong", "flow", weights, {"size": size})
        with pytest.raises(ValueError, match="says nothing usable of its network"):
            load_network(path, "flow")
