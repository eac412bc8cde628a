"""The density network: its field, what is told of the formula, training, the benchmark."""

import numpy as np
import pytest
import torch
from textbook import STRUCTURES, table_of

from xrdkit.benchmark.density import density as benchmark
from xrdkit.benchmark.density import density_counts
from xrdkit.cli import main
from xrdkit.density import on_grid
from xrdkit.metrics import ssim
from xrdkit.models import density_net
from xrdkit.models.checkpoint import load_network, save_network
from xrdkit.models.crystal_net import Size
from xrdkit.models.density_net import (
    DensityNet,
    asked,
    drawn,
    field,
    formula_of,
    frequencies,
)
from xrdkit.packed import load_packed, pack, packed_of
from xrdkit.q_profile import clean_profiles
from xrdkit.train.data import batch_of
from xrdkit.train.log import rows
from xrdkit.train.loop import LOG, WEIGHTS, train
from xrdkit.train.plan import Plan

TINY = Size(atom=32, edge=32, layers=1, waves=48, pattern=32)
NAMES = ("NaCl", "CsCl", "ZnS", "SrTiO3", "TiO2", "CaF2")


@pytest.fixture
def generator():
    return torch.Generator().manual_seed(0)


@pytest.fixture(scope="module")
def table():
    return table_of([STRUCTURES[name] for name in NAMES])


@pytest.fixture(scope="module")
def data(table):
    return packed_of(table, standard=True)


@pytest.fixture
def model():
    torch.manual_seed(0)
    return DensityNet(TINY).eval()


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / "density.safetensors"
    return save_network(path, DensityNet(TINY), "density", {"elements": [8, 11, 17, 22]})


def told_of(model, data, generator):
    batch = batch_of(data, torch.tensor([0]), clean_profiles(data.crystals))
    with torch.no_grad():
        latent = model.latent(batch.profile, formula_of(batch.numbers))
        return model.told(drawn(latent, generator))


def test_the_field_has_the_period_of_the_cell(model, data, generator):
    told, places = told_of(model, data, generator), torch.rand(20, 3, generator=generator)
    with torch.no_grad():
        here = model(told, places)
        there = model(told, places + torch.tensor([1.0, -2.0, 3.0]))
        torch.testing.assert_close(here, there, rtol=1e-3, atol=1e-4)
    assert (here > 0).all()


def test_the_field_is_one_at_any_resolution(model, data, generator):
    told = told_of(model, data, generator)
    with torch.no_grad():
        coarse, fine = field(model, told, 4), field(model, told, 8)
    torch.testing.assert_close(fine[:, ::2, ::2, ::2], coarse, rtol=1e-4, atol=1e-5)


def test_frequencies_are_distinct_integers_the_lowest_among_them():
    found = frequencies(192)
    assert torch.equal(found, found.round())
    assert len({tuple(h) for h in torch.cat([found, -found]).tolist()}) == 2 * 192
    assert {(1.0, 0.0, 0.0), (0.0, 1.0, -1.0), (2.0, 1.0, 1.0)} <= {
        tuple(h) for h in found.tolist()
    }


def test_the_network_that_trains_has_fewer_than_two_million_weights():
    assert sum(weight.numel() for weight in DensityNet().parameters()) < 2_000_000


def test_what_is_told_of_a_formula_is_what_its_level_says(generator):
    rutile = torch.tensor([[8, 8, 8, 8, 22, 22]]).repeat(4, 1)
    levels = ["full", "elements", "dropped", "none"]
    told = formula_of(rutile, levels, generator)
    assert told[:, [8, 22]].tolist()[:2] == [
        [pytest.approx(2 / 3), pytest.approx(1 / 3)],
        [1, 1],
    ]
    assert sorted(told[2, [8, 22]].tolist()) == [0, 1]
    assert told[3].sum() == 0
    assert told[:, -2:].tolist() == [[1, 1], [0, 1], [0, 0], [0, 0]]
    alone = formula_of(torch.tensor([[26, 26]]), ["dropped"], generator)
    assert alone[0, 26] == 1  # of a single element nothing is left out


def test_places_are_stratified_and_truths_are_the_densities_there(data, generator):
    batch = batch_of(data, torch.tensor([4]), clean_profiles(data.crystals))
    places, truth, mean = asked(batch, generator)
    boxes = (places * density_net.BINS).floor().long()
    assert len({tuple(box) for box in boxes.tolist()}) == density_net.BINS**3
    from xrdkit.density import at_points

    crystal = data.crystals.select(torch.tensor([4]))
    torch.testing.assert_close(truth, at_points(crystal, places), rtol=1e-3, atol=1e-2)
    assert float(truth.mean()) == pytest.approx(float(mean), rel=0.5)


def test_draws_differ_and_their_mean_is_the_networks(model, data, generator):
    batch = batch_of(data, torch.tensor([0]), clean_profiles(data.crystals))
    with torch.no_grad():
        latent = model.latent(batch.profile, formula_of(batch.numbers))
    many = torch.cat([drawn(latent, generator) for _ in range(400)])
    off = (many.mean(0) - latent.mean[0]) / latent.log_sd.exp()[0]
    assert float(off.abs().max()) < 5 / 20
    torch.testing.assert_close(many.std(0), latent.log_sd.exp()[0], rtol=0.2, atol=0)


def test_loss_falls_for_its_own_gradient(model, data, generator):
    batch = batch_of(data, torch.tensor([0, 1]), clean_profiles(data.crystals))
    optimiser = torch.optim.Adam(model.parameters(), 3e-3)
    found = []
    for _ in range(30):
        parts = density_net.loss(model, batch, torch.Generator().manual_seed(1))
        parts.loss.backward()
        optimiser.step()
        optimiser.zero_grad()
        found.append(float(parts.loss.detach()))
    assert found[-1] < 0.8 * found[0]
    total = parts.density + density_net.KL * parts.kl + density_net.CELL * parts.cell
    torch.testing.assert_close(parts.loss, total)


def test_a_run_in_a_folder_logs_ssim_and_saves_what_loads(data, tmp_path):
    plan = Plan("density", epochs=2, crystals=4, warm_up=1, turns=1)
    list(train(data, tmp_path, validation=data, plan=plan, size=TINY, entries=2, every=2))
    last = rows(tmp_path / LOG)[-1]
    assert -1 <= float(last["val_ssim"]) <= 1
    assert float(last["val_psnr"]) > 0
    model = load_network(tmp_path / WEIGHTS, "density")
    assert model.facts["structures"] == len(NAMES)
    assert torch.equal(model.frequencies, frequencies(TINY.waves))


def test_methods_are_trained_on_the_cells_they_learn_from(data, table, tmp_path):
    with pytest.raises(
        ValueError, match=r"density learns .* pack the tables again with --st"
    ):
        next(train(packed_of(table), tmp_path, plan=Plan("density")))
    with pytest.raises(ValueError, match=r"flow learns .* pack the tables again without"):
        next(train(data, tmp_path, plan=Plan("flow")))


def test_standard_cells_are_packed_of_one_system_and_say_so(table, tmp_path):
    whole = load_packed(pack(table, tmp_path / "all.packed", standard=True))
    assert whole.standard
    assert whole.settings.tolist() == [0] * len(NAMES)
    assert not load_packed(pack(table, tmp_path / "niggli.packed")).standard
    with pytest.raises(ValueError, match="none of 6 structures is cubic; give a table"):
        pack(table, tmp_path / "none.packed", standard=True, system="cubic")  # groups: P1


def test_the_benchmark_goes_on_where_it_stopped(table, weights, tmp_path, capsys):
    asked = {"samples": 2, "points": 12}
    whole = benchmark(table, weights, tmp_path / "a.json", **asked)
    assert all(len(row["ssim"]) == len(row["psnr"]) == 2 for row in whole), whole
    lines = (tmp_path / "a.json").read_text().splitlines(keepends=True)
    (tmp_path / "b.json").write_text("".join(lines[:3]))
    again = benchmark(table, weights, tmp_path / "b.json", **asked)
    assert [row["ssim"] for row in again] == [row["ssim"] for row in whole]
    first, best = density_counts(whole)
    assert best["SSIM"] >= first["SSIM"]
    assert best["recovered"].endswith("of 6")


@pytest.mark.parametrize("formula", ["elements", "dropped", "none"])
def test_the_benchmark_runs_with_less_of_the_formula(formula, table, weights, tmp_path):
    rows = benchmark(
        table, weights, tmp_path / "a.json", n=1, formula=formula, samples=1, points=12
    )
    assert "error" not in rows[0], rows


def test_the_benchmark_refuses_what_it_does_not_know(table, weights, tmp_path):
    with pytest.raises(ValueError, match="formula 'half' is none of full, elements"):
        benchmark(table, weights, tmp_path / "a.json", formula="half")
    with pytest.raises(ValueError, match="none of 6 structures is cubic; give others"):
        benchmark(table, weights, tmp_path / "a.json", system="cubic")
    with pytest.raises(ValueError, match="all 1 entries failed"):
        density_counts([{"id": "a", "error": "none"}])


def test_a_constant_is_off_by_the_standard_deviation_of_the_density(table, tmp_path):
    rows = benchmark(table, None, tmp_path / "a.json", baseline="constant", points=12)
    for row, name in zip(rows, NAMES, strict=True):
        found = packed_of(table_of([STRUCTURES[name]]), standard=True)
        truth = on_grid(found.crystals, 12)[0].double()
        span = float(truth.max() - truth.min())
        off = 20 * np.log10(span / float(truth.std(correction=0)))
        assert row["psnr"] == [pytest.approx(off, abs=0.01)]
        assert row["recovered"] == [False]


def test_the_nearest_pattern_of_a_known_crystal_is_its_own(table, tmp_path):
    known = pack(table, tmp_path / "known.packed", standard=True)
    asked = {"baseline": known, "samples": 2, "points": 24}
    for row in benchmark(table, None, tmp_path / "a.json", **asked):
        assert row["ssim"][0] == pytest.approx(1, abs=1e-4)
        assert row["ssim"][1] < row["ssim"][0]
        assert row["recovered"][0]


def test_baselines_are_refused_beside_weights_and_of_other_cells(table, weights, tmp_path):
    path = tmp_path / "a.json"
    with pytest.raises(ValueError, match="weights and a baseline are both given or mis"):
        benchmark(table, weights, path, baseline="constant")
    with pytest.raises(ValueError, match="weights and a baseline are both given or mis"):
        benchmark(table, None, path)
    with pytest.raises(FileNotFoundError, match="Constant is neither constant nor a file"):
        benchmark(table, None, path, baseline="Constant")
    niggli = pack(table, tmp_path / "niggli.packed")
    with pytest.raises(ValueError, match="not of standard cells; pack with --standard"):
        benchmark(table, None, path, baseline=niggli)


def test_the_command_prints_its_table(weights, tmp_path, capsys):
    STRUCTURES["NaCl"].to(filename=str(tmp_path / "NaCl.cif"))
    line = ["benchmark", "density", "--structures", tmp_path / "NaCl.cif", "--weights"]
    line += [weights, "--samples", 1, "--points", 10, "--json", tmp_path / "a.json"]
    assert main([str(word) for word in line]) == 0
    assert "best of all" in capsys.readouterr().out
    line = ["benchmark", "density", "--structures", tmp_path / "NaCl.cif", "--baseline"]
    line += ["constant", "--points", 10, "--json", tmp_path / "b.json"]
    assert main([str(word) for word in line]) == 0
    assert "0 of 1" in capsys.readouterr().out


@pytest.mark.slow
def test_a_handful_of_crystals_is_learned_by_heart(data, tmp_path):
    size = Size(atom=96, edge=96, layers=2, waves=96, pattern=64)
    plan = Plan(
        "density",
        epochs=500,
        crystals=6,
        warm_up=20,
        rate=3e-3,
        turns=1,
        clean=1.0,
        strain=0.0,
    )
    *_, _ = train(data, tmp_path, plan=plan, size=size)
    model = load_network(tmp_path / WEIGHTS, "density")
    seen = clean_profiles(data.crystals)
    for i in range(len(data)):
        batch = batch_of(data, torch.tensor([i]), seen)
        with torch.no_grad():
            latent = model.latent(batch.profile, formula_of(batch.numbers))
            answer = field(model, model.told(latent.mean), 32)[0].numpy()
        truth = on_grid(data.crystals.select(torch.tensor([i])), 32)[0].numpy()
        assert ssim(truth, answer) > 0.9, NAMES[i]
