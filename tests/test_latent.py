import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from pymatgen.core import Lattice, Structure
from test_dataset import parquet
from textbook import STRUCTURES, table_of

from xrdkit.benchmark.nanocrystals import TEN, nanocrystal_counts
from xrdkit.cli import main
from xrdkit.crystal import from_structures, to_structure
from xrdkit.generators import latent_search
from xrdkit.generators.asked import source_of
from xrdkit.generators.flow import candidates
from xrdkit.generators.latent_search import KEPT, propose, target_of
from xrdkit.metrics import normalised_rmse
from xrdkit.models import latent
from xrdkit.models.checkpoint import load_network, read_tensors, save_network
from xrdkit.models.crystal_net import Output, PatternNet, Size
from xrdkit.models.diffusion import score, score_scale, spread
from xrdkit.models.generate import flat
from xrdkit.models.latent import LatentNet, random_sizes
from xrdkit.models.latent_descent import Target, descend, objective
from xrdkit.models.lattice import cell_of, decoded, encoded
from xrdkit.models.weights import DEFAULTS
from xrdkit.nanocrystal import (
    POINTS,
    broadened,
    nano_curve_of,
    nano_curves,
    nano_grid,
    nano_pattern,
    normalised,
    shown,
)
from xrdkit.packed import packed_of
from xrdkit.problem import pose
from xrdkit.simulate import simulate
from xrdkit.solve import solve
from xrdkit.train.data import Patterns, taken
from xrdkit.train.log import columns, rows
from xrdkit.train.loop import LOG, WEIGHTS, train
from xrdkit.train.plan import Plan
from xrdkit.types import Pattern, Radiation
from xrdkit.wavelengths import radiation

TINY = Size(atom=32, edge=16, layers=1, waves=4, pattern=32, heads=2, attention=8)
NAMES = ("NaCl", "CsCl", "ZnS", "TiO2", "CaTiO3", "CaF2")
CPU = torch.device("cpu")


def nano_batch(data, index):
    """Crystals with their patterns, as training sees them."""
    patterns = Patterns(data, Plan("latent"))
    patterns.renew(0)
    return patterns.batch(index)


@pytest.fixture
def generator():
    return torch.Generator().manual_seed(0)


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return LatentNet(TINY).eval()


@pytest.fixture(scope="module")
def data():
    return packed_of(table_of([STRUCTURES[name] for name in NAMES]))


@pytest.fixture(scope="module")
def weights(model, tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "latent.safetensors"
    return save_network(path, model, "latent", {"atoms": 20, "elements": [8, 11, 17, 22]})


@pytest.fixture(scope="module")
def rutile():
    return nano_pattern(from_structures([STRUCTURES["TiO2"]]), 50.0)


@pytest.fixture(autouse=True)
def few_starts(monkeypatch):
    monkeypatch.setattr(latent_search, "STARTS", 6)


def problem_of(pattern, formula="TiO2", **given):
    return pose(pattern, formula, **given)


def proposed(problem, weights, **settings):
    steps, said = (
        propose(
            problem,
            count=300,
            generator=torch.Generator().manual_seed(0),
            device=CPU,
            weights=weights,
            **settings,
        ),
        [],
    )
    while True:
        try:
            said.append(next(steps))
        except StopIteration as finished:
            return finished.value, said


def point(model, structure):
    """Where a crystal is, in the Niggli cell."""
    crystals = packed_of(table_of([structure])).crystals
    cell = cell_of(crystals.lattice)
    return model.encode(crystals.numbers[None], crystals.frac[None], cell).mean[0]


# ---- patterns


@pytest.mark.parametrize("size", [10.0, 40.0, 300.0])
def test_a_large_crystals_pattern_is_broadened_to_that_of_a_small_one(size):
    crystals = from_structures([STRUCTURES[name] for name in NAMES])
    seen = shown(nano_grid())
    direct = normalised(nano_curves(crystals, size), seen)[:, seen]
    made = broadened(nano_curves(crystals, None), torch.tensor([size]))
    assert (normalised(made, seen)[:, seen] - direct).abs().max() < 0.02


def test_gradients_of_broadening_are_finite_differences():
    curve = torch.rand(1, POINTS, dtype=torch.float64, requires_grad=True)
    weight = torch.rand(POINTS, dtype=torch.float64)
    size = torch.tensor([30.0], dtype=torch.float64)

    def total(c):
        return (broadened(c, size) * weight).sum()

    (slope,) = torch.autograd.grad(total(curve), curve)
    step = torch.zeros_like(curve)
    step[0, 200] = 1e-4
    with torch.no_grad():
        difference = (total(curve + step) - total(curve - step)) / 2e-4
    assert float(slope[0, 200]) == pytest.approx(float(difference), rel=1e-6)


def test_a_nano_pattern_goes_back_to_its_curve(rutile):
    crystal = from_structures([STRUCTURES["TiO2"]])
    curve, seen = nano_curve_of(rutile)
    truth = normalised(nano_curves(crystal, 50.0), seen)[0]
    assert (curve - truth)[seen].abs().max() < 2e-3
    assert not curve[~seen].any()


@pytest.mark.parametrize("beam", [radiation("CuKa1"), Radiation((0.7,), polarisation=0.95)])
def test_a_measured_pattern_becomes_a_smooth_one_of_copper_radiation(beam):
    crystal = from_structures([STRUCTURES["TiO2"]])
    high = float(np.degrees(2 * np.arcsin(7.0 * beam.main / (4 * np.pi))))
    angle = torch.linspace(5, high, 4001)
    intensity = simulate(crystal, beam, two_theta=angle, nanocrystal=60.0)[0]
    intensity = (intensity / intensity.max()).double().numpy()
    pattern = Pattern(angle.double().numpy(), intensity, beam, size=60.0, prepared=True)
    curve, seen = nano_curve_of(pattern)
    truth = normalised(nano_curves(crystal, 60.0), seen)[0]
    assert float((curve - truth)[seen].abs().mean()) < 0.03
    q = nano_grid()
    first = (q > 1.5) & (q < 2.3)  # 110 alone
    assert abs(int(curve[first].argmax()) - int(truth[first].argmax())) <= 1


# ---- the network


def test_the_encoder_knows_no_origin_and_no_order_of_atoms(model, data, generator):
    crystals = taken(data, torch.tensor([4])).crystals
    cell, numbers, frac = cell_of(crystals.lattice), crystals.numbers, crystals.frac
    here = model.encode(numbers[None], frac[None], cell)
    moved = torch.remainder(frac + torch.rand(3, generator=generator), 1)
    order = torch.randperm(len(numbers), generator=generator)
    there = model.encode(numbers[order][None], moved[order][None], cell)
    for a, b in zip(here, there, strict=True):
        torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-4)


def test_the_encoder_knows_no_setting_of_the_cell(model):
    lattice = Lattice.from_parameters(4.1, 5.3, 6.7, 81, 77, 68)  # triclinic: one setting
    frac = np.random.default_rng(0).random((4, 3))
    one = Structure(lattice, ["Na", "Cl", "O", "O"], frac)
    matrix = np.array([[1, 1, 0], [0, 1, -1], [0, 0, 1]])
    other = Structure(matrix @ lattice.matrix, one.species, frac @ np.linalg.inv(matrix))
    assert abs(other.lattice.alpha - one.lattice.alpha) > 5
    torch.testing.assert_close(point(model, one), point(model, other), atol=1e-3, rtol=0)
    assert (point(model, one) - point(model, STRUCTURES["NaCl"])).abs().max() > 1e-2


def test_the_network_is_small_and_every_part_of_z_is_learned(data, generator):
    assert sum(p.numel() for p in LatentNet().parameters()) < 1.95e6
    torch.manual_seed(0)
    model = LatentNet(TINY)
    index = torch.nonzero(data.crystals.counts == 2).flatten()
    batch = nano_batch(data, index)
    found = latent.loss(model, batch, generator)
    assert all(bool((part >= 0).detach()) for part in found)
    found.loss.backward()
    silent = {"encoder.atoms", "encoder.cell", "encoder.tell", "score.cell"}
    silent |= {"score.atoms.bias", "score.norm.bias"}  # of all atoms: no whole shift
    for name, weight in model.named_parameters():
        known = name.startswith(tuple(silent)) or ".ask" in name
        assert known or weight.grad.abs().max() > 0, name


def test_sizes_that_are_trained_are_spread_with_ten_and_a_hundred_often(generator):
    sizes = random_sizes(4000, generator)
    for often in (10.0, 100.0):
        assert float((sizes == often).float().mean()) == pytest.approx(0.25, abs=0.03)
    other = sizes[(sizes != 10) & (sizes != 100)].log10()
    assert other.min() >= 1
    assert other.max() <= 3
    assert float(other.mean()) == pytest.approx(2, abs=0.05)


def test_batches_without_patterns_or_with_too_many_atoms_are_refused(
    model, data, generator
):
    index = torch.tensor([0])
    batch = nano_batch(data, index)
    with pytest.raises(ValueError, match="without patterns of nanocrystals"):
        latent.loss(model, replace(batch, nano=None), generator)
    large = replace(
        batch,
        numbers=torch.ones(1, 21, dtype=torch.long),
        frac=torch.rand(1, 21, 3),
        mask=torch.ones(1, 21, dtype=torch.bool),
    )
    with pytest.raises(ValueError, match="crystals of 21 atoms with patterns"):
        latent.loss(model, large, generator)


# ---- Langevin dynamics


class Exact(LatentNet):
    """Says the cell of one crystal whatever z is, and the score of its coordinates."""

    def __init__(self, frac, cell):
        super().__init__(TINY)
        self.truth = frac
        with torch.no_grad():
            self.cell[-1].weight.zero_()
            self.cell[-1].bias.copy_(encoded(cell, len(frac)))

    def forward(self, numbers, frac, y, times, seen):
        sigma = spread(times[:, :1])[..., None]
        centre = self.truth - self.truth[:1] + frac[:, :1]  # the first atom is kept
        found = score(frac - centre, sigma.expand_as(frac))
        found = found - found.mean(1, keepdim=True)
        return Output(found / score_scale(sigma), y, y)


@pytest.mark.parametrize("name", ["TiO2", "CaTiO3"])
def test_langevin_dynamics_with_the_exact_score_end_at_the_crystal(name, generator):
    crystals = packed_of(table_of([STRUCTURES[name]])).crystals
    cell = cell_of(crystals.lattice)
    exact = Exact(crystals.frac, cell[0]).eval()
    z = torch.randn(3, latent.LATENT, generator=generator)
    numbers = crystals.numbers.expand(3, -1)
    *_, last = latent.sample(exact, numbers, z, generator, steps=60)
    torch.testing.assert_close(last.cell, cell.expand(3, -1), atol=1e-3, rtol=1e-4)
    found = flat(numbers, last.frac, last.cell)
    for i in range(3):
        rmse = normalised_rmse(STRUCTURES[name], to_structure(found, i))
        assert rmse is not None
        assert rmse < 0.03


def test_a_cell_that_is_given_is_kept(model, generator):
    cell = torch.tensor([[4.0, 5.0, 6.0, 90.0, 80.0, 70.0]]).expand(2, -1)
    z = torch.randn(2, latent.LATENT, generator=generator)
    numbers = torch.tensor([[8, 11, 17]]).expand(2, -1)
    states = list(latent.sample(model, numbers, z, generator, steps=5, cell=cell))
    assert len(states) == 6
    torch.testing.assert_close(states[-1].cell, cell)


# ---- the descent


def target(model, z, size=60.0):
    """What the network itself says of a point."""
    seen = shown(nano_grid())
    curve = normalised(model.pattern(z[None], torch.tensor([size])), seen)[0]
    contents = model.composition(z[None]).softmax(1)[0]
    return Target(curve.detach(), seen, size, contents.detach())


def descended(model, z, aim, periods):
    atoms, still = torch.full((len(z),), 6), torch.zeros_like(z)
    steps = descend(model, z, aim, atoms, still, torch.Generator(), periods)
    values = []
    while True:
        try:
            values.append(next(steps))
        except StopIteration as finished:
            return finished.value, torch.stack(values)


@pytest.fixture(scope="module")
def lively():
    """A network whose patterns differ much from point to point."""
    torch.manual_seed(1)
    model = LatentNet(TINY).eval()
    with torch.no_grad():
        model.regressor.points[0].weight.mul_(8)
        model.regressor.points[-1].weight.mul_(20)
    return model


def test_the_descent_lowers_its_objective_and_finds_a_pattern_that_z_can_say(
    lively, generator
):
    hidden, starts = torch.randn(11, latent.LATENT, generator=generator).split([1, 10])
    aim = target(lively, hidden[0])
    size = torch.tensor([aim.size])
    z, values = descended(lively, starts, aim, (60, 120))
    with torch.no_grad():
        before, after = (aim.apart(lively.pattern(x, size)) for x in (starts, z))
    assert (values[-1] < values[0]).all()
    assert float(after.median()) < 0.3 * float(before.median())


def test_starts_of_a_descent_do_not_know_of_each_other(lively, generator):
    starts = torch.randn(3, latent.LATENT, generator=generator)
    aim = target(lively, torch.randn(latent.LATENT, generator=generator))
    together, _ = descended(lively, starts, aim, (8,))
    alone = torch.cat([descended(lively, one[None], aim, (8,))[0] for one in starts])
    torch.testing.assert_close(together, alone, atol=1e-3, rtol=1e-3)


def test_the_descent_ends_when_a_period_gains_little(lively):
    z = torch.zeros(1, latent.LATENT)
    _, values = descended(lively, z, target(lively, z[0]), (20,) * 12)
    assert len(values) < 240


def test_the_objective_is_that_of_the_paper(model, generator):
    z = torch.randn(2, latent.LATENT, generator=generator)
    aim = target(model, torch.randn(latent.LATENT, generator=generator))
    with torch.no_grad():
        found = objective(model, z, aim, torch.tensor([4, 6]))
    curves = normalised(model.pattern(z, torch.tensor([aim.size])), aim.seen)
    for i, atoms in enumerate((4, 6)):
        l1 = (curves[i] - aim.curve)[aim.seen].abs().mean()
        normal = torch.distributions.Normal(0, 1).log_prob(z[i]).sum()
        prior = -normal - latent.LATENT * np.log(2 * np.pi) / 2  # less its constant
        count = -model.count(z)[i].log_softmax(0)[atoms - 1]
        cross = -(aim.composition * model.composition(z)[i].log_softmax(0)).sum()
        expected = l1 + 2e-4 * prior + 0.1 * count + 0.1 * cross
        assert float(found[i]) == pytest.approx(float(expected.detach()), rel=1e-4)


# ---- the source


def test_what_is_put_up_has_the_formula_and_the_nearest_come_first(rutile, weights):
    problem = problem_of(rutile, contents="Ti2O4")
    found, said = proposed(problem, weights, periods=(3,))
    assert 0 < len({id(one.crystal) for one in found})
    for one in found:
        numbers = one.crystal.numbers.tolist()
        assert sorted(set(numbers)) == [8, 22]
        assert numbers.count(8) == 2 * numbers.count(22)
        assert one.origin == "latent_search"
    assert all(now.done <= now.total for now in said)
    assert any(now.best is found[0] for now in said)
    aim = target_of(problem, CPU)
    whole = [one.crystal for one in found if one.symmetry.number == 1]
    apart = [float(aim.apart(nano_curves(one, 50.0))) for one in whole]
    assert len(whole) <= KEPT
    assert apart == sorted(apart)


def test_without_periods_nothing_goes_down_and_candidates_are_of_the_prior(rutile, weights):
    found, said = proposed(problem_of(rutile, contents="Ti2O4"), weights, periods=())
    assert found
    assert not any("starts" in now.message for now in said)


def test_without_contents_cells_of_every_number_of_atoms_are_tried(rutile, weights):
    found, _ = proposed(problem_of(rutile), weights, periods=())
    assert len({len(one.crystal.numbers) for one in found if one.symmetry.number == 1}) > 1


def test_cells_that_are_decoded_get_the_edges_at_which_their_pattern_is_nearest(rutile):
    problem = problem_of(rutile, contents="Ti2O4")
    crystal = from_structures([STRUCTURES["TiO2"]])
    off = replace(crystal, lattice=crystal.lattice / 1.044)
    aim = target_of(problem, CPU)
    ((apart, found),) = latent_search.sized(off, aim, latent_search.SCALES)
    assert float(found.volume[0]) == pytest.approx(float(crystal.volume[0]), rel=0.02)
    ((kept, same),) = latent_search.sized(off, aim, (1.0,))
    torch.testing.assert_close(same.lattice, off.lattice)
    assert apart < 0.3 * kept


@pytest.mark.parametrize(("size", "near"), [(100.0, 0.004), (20.0, 0.02)])
def test_forms_get_their_edges_by_their_size_and_keep_given_cells(rutile, size, near):
    problem = problem_of(rutile, contents="Ti2O4", size=size)
    crystal = from_structures([STRUCTURES["TiO2"]])
    off = replace(crystal, lattice=crystal.lattice / 1.044)
    forms = candidates(off, problem)
    aim = replace(target_of(problem, CPU), curve=nano_curves(crystal, size)[0])
    best, *_ = latent_search.ranked(forms, problem, aim)
    assert float(best.crystal.volume[0]) == pytest.approx(
        float(crystal.volume[0]), rel=near
    )
    cell = (4.4, 4.4, 2.83, 90.0, 90.0, 90.0)
    given = problem_of(rutile, contents="Ti2O4", cell=cell, size=size)
    for one in latent_search.ranked(forms, given, aim):
        torch.testing.assert_close(one.crystal.volume, off.volume, atol=1e-3, rtol=0)


def test_of_forms_with_like_patterns_the_more_symmetric_comes_first(rutile):
    problem = problem_of(rutile, contents="Ti2O4")
    crystal = from_structures([STRUCTURES["TiO2"]])
    shaken = torch.randn(crystal.frac.shape, generator=torch.Generator().manual_seed(0))
    off = replace(crystal, frac=crystal.frac + 0.004 * shaken)
    forms = [one for one in candidates(off, problem) if one.symmetry.number in (1, 136)]
    assert len(forms) == 2
    forms.sort(key=lambda one: one.symmetry.number)
    plain, high = (nano_curves(one.crystal, 50.0)[0] for one in forms)
    aim = target_of(problem, CPU)
    for share, first in ((1.0, 1), (0.6, 136)):
        curve = share * plain + (1 - share) * high
        found = latent_search.ranked(forms, problem, replace(aim, curve=curve))
        assert found[0].symmetry.number == first


def test_a_given_cell_is_filled(rutile, weights):
    cell = (4.594, 4.594, 2.959, 90.0, 90.0, 90.0)
    problem = problem_of(rutile, contents="Ti2O4", cell=cell)
    found, _ = proposed(problem, weights, periods=())
    assert found
    volumes = {round(float(one.crystal.volume[0])) for one in found}
    assert 62 in volumes
    assert volumes <= {62, 31}  # as it is, and as a centred one


@pytest.mark.parametrize(
    ("formula", "given", "said"),
    [
        ("CaTiO3", {}, "were in no structure that this network learned"),
        ("TiO2", {"contents": "Ti8O16"}, "24 atoms in the cell; a latent space knows"),
        ("TiO2", {"contents": "Ti6O12", "size": 5.0}, "5 Å does not hold a cell of about"),
    ],
)
def test_what_cannot_be_is_said_and_gives_none(rutile, weights, formula, given, said):
    found, progress = proposed(problem_of(rutile, formula, **given), weights)
    assert found == []
    assert said in progress[-1].message


def test_a_formula_with_fractions_gets_none(rutile, weights):
    found, said = proposed(problem_of(rutile, "Ti0.9O2"), weights)
    assert found == []
    assert "a formula with fractions has no ordered cell" in said[-1].message


def test_why_nothing_was_found_is_said_in_the_answer(rutile, weights):
    asked = {"sources": "latent_search", "weights": weights, "progress": False}
    found = solve(rutile, "TiO2", contents="Ti8O16", **asked)
    assert found.verdict == "none"
    first, second = found.reasons
    assert first == "no source gives a possible structure"
    assert second.startswith("latent_search: 24 atoms in the cell; a latent space knows")


def test_a_range_that_is_too_short_is_said(rutile, weights):
    few = rutile.q < 2
    short = replace(
        rutile, two_theta=rutile.two_theta[few], intensity=rutile.intensity[few], ranges=()
    )
    found, said = proposed(problem_of(short), weights)
    assert found == []
    assert "it needs 2 1/Å: measure a wider range" in said[-1].message


def test_asked_by_name_without_weights_it_is_refused_at_once(rutile, monkeypatch):
    monkeypatch.delitem(DEFAULTS, "latent", raising=False)
    with pytest.raises(FileNotFoundError, match="train them with xrdkit train latent"):
        solve(rutile, "TiO2", sources="latent_search", progress=False)


def test_weights_are_of_the_source_of_their_kind(rutile, weights, tmp_path):
    assert source_of(weights) == "latent_search"
    torch.manual_seed(0)
    flows = save_network(tmp_path / "f.safetensors", PatternNet(TINY), "flow", {})
    assert source_of(flows) == "flow"
    cells = save_network(tmp_path / "c.safetensors", PatternNet(TINY), "diffusion", {})
    with pytest.raises(ValueError, match="hold diffusion, by which no source draws"):
        source_of(cells)
    with pytest.raises(ValueError, match="weights of latent_search are given, not among"):
        solve(rutile, "TiO2", sources="templates", weights=weights, progress=False)
    with pytest.raises(ValueError, match="holds latent, not flow"):
        load_network(weights, "flow")


def test_the_benchmark_says_r_squared_before_and_after_and_goes_on(
    weights, tmp_path, capsys
):
    table = tmp_path / "two.parquet"
    parquet(table, [STRUCTURES["TiO2"], STRUCTURES["NaCl"]])
    command = ["benchmark", "nanocrystals", "--structures", str(table), "--size", "50"]
    command += ["--weights", str(weights), "--starts", "random", "--n", "2"]
    command += ["--json", str(tmp_path / "rows.json")]
    main(command)
    first = capsys.readouterr().out
    assert "R² before" in first
    assert "tetragonal" in first
    main(command)
    assert capsys.readouterr().out == first
    _, *lines = (tmp_path / "rows.json").read_text().splitlines()
    for row in map(json.loads, lines):
        assert "error" not in row, row["error"]
        assert len(row["before"]) <= TEN
        assert len(row["after"]) <= TEN
        assert min(row["before"], default=0) >= 0


def test_an_entry_without_an_answer_counts_as_one():
    rows_ = [
        {"system": "cubic", "before": [0.4, 0.2], "after": [], "first": False},
        {"system": "cubic", "before": [], "after": [0.1], "first": True},
    ]
    whole, cubic = nanocrystal_counts([*rows_, {"error": "none"}])
    assert whole["R² before"].startswith("0.600")
    assert whole["R² after"].startswith("0.550")
    assert (cubic["entries"], cubic["first matches"]) == (2, "1 of 2")


# ---- training


def trained(data, folder, stop=None, **settings):
    plan = Plan("latent", epochs=2, crystals=2, block=2, warm_up=2, decay=0.5)
    run = train(data, folder, plan=plan, size=TINY, **settings)
    for progress in run:
        if stop is not None and progress.stage == "step" and progress.done == stop:
            run.close()
    return read_tensors(folder / "state.safetensors", "training state")


def test_training_goes_on_as_if_it_had_not_stopped(data, tmp_path):
    tensors, header = trained(data, tmp_path / "whole")
    trained(data, tmp_path / "parts", stop=3)
    again, same = trained(data, tmp_path / "parts")
    assert header == same
    for name, value in tensors.items():
        assert torch.equal(value, again[name]), name


def test_a_run_logs_its_parts_and_what_held_out_crystals_say(data, tmp_path):
    trained(data, tmp_path, validation=data, entries=2, every=2)
    lines = rows(tmp_path / LOG)
    assert tuple(lines[0]) == columns("latent")
    assert all(float(lines[0][name]) >= 0 for name in latent.Loss._fields)
    assert 0 <= float(lines[-1]["match"]) <= 1
    assert float(lines[-1]["val_pattern"]) > 0
    model = load_network(tmp_path / WEIGHTS, "latent")
    assert model.size == TINY
    assert 22 in model.facts["elements"]


@pytest.mark.slow
def test_a_space_that_knows_few_crystals_solves_their_patterns(data, tmp_path, monkeypatch):
    many = taken(data, torch.arange(len(data)).repeat(16))
    size = Size(atom=64, edge=32, layers=2, waves=8, pattern=64, heads=2, attention=16)
    plan = Plan("latent", epochs=300, rate=4e-3, warm_up=20, average=0.98, decay=0.5,
                crystals=192, block=64, strain=0.0, swaps=0.0)  # fmt: skip
    for _ in train(many, tmp_path, plan=plan, size=size):
        pass
    weights = tmp_path / WEIGHTS
    model = load_network(weights, "latent")
    truth = STRUCTURES["TiO2"]
    own = model.cell(point(model, truth)[None])[0]
    cell = cell_of(packed_of(table_of([truth])).crystals.lattice)[0]
    torch.testing.assert_close(decoded(own, 6)[:3], cell[:3], rtol=0.05, atol=0)
    asked = {"contents": "Ti2O4", "sources": "latent_search", "weights": weights}
    pattern = nano_pattern(from_structures([truth]), 100.0)
    monkeypatch.setattr(latent_search, "STARTS", 100)
    best = solve(pattern, "TiO2", progress=False, **asked).fits[0]
    assert best.space_group == 136
    assert normalised_rmse(truth, best.structure) < 0.02
