import os
import resource
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from textbook import STRUCTURES, table_of

from xrdkit.models import diffusion, flow
from xrdkit.models.checkpoint import load_network, read_tensors
from xrdkit.models.crystal_net import Size
from xrdkit.models.speed import CHOSEN, fast_dtype
from xrdkit.packed import load_packed, pack
from xrdkit.q_profile import clean_profiles
from xrdkit.train.data import Patterns, batch_of, settings_for, taken
from xrdkit.train.log import add, columns, rows, shorten
from xrdkit.train.loop import LOG, WEIGHTS, train
from xrdkit.train.plan import Plan, steps_of, traits_of
from xrdkit.train.state import CONSTANT, KIND, STATE
from xrdkit.train.step import Diverged
from xrdkit.train.validation import matches, validate

TINY = Size(atom=16, edge=8, layers=1, waves=4, pattern=32, heads=2, attention=8)
PLAN = Plan(epochs=3, crystals=4, block=2, warm_up=2, turns=2, decay=0.4)
NAMES = ("NaCl", "CsCl", "ZnS", "NiAs", "ZnO", "CdI2", "AlB2", "CaF2")
PLAIN = {"swaps": 0.0, "strain": 0.0}  # what is learned by heart


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    path = tmp_path_factory.mktemp("data") / "some.packed"
    return load_packed(pack(table_of([STRUCTURES[name] for name in NAMES]), path))


def learn(data, folder, plan=PLAN, stop=None, **keywords):
    run = train(data, folder, plan=plan, size=TINY, **keywords)
    for progress in run:
        if stop is not None and progress.stage == "step" and progress.done == stop:
            run.close()


def trained(data, folder, *arguments, **keywords):
    learn(data, folder, *arguments, **keywords)
    return read_tensors(Path(folder) / STATE, KIND)


def same(one, other):
    assert one[1] == other[1]
    assert one[0].keys() == other[0].keys()
    for name, value in one[0].items():
        assert torch.equal(value, other[0][name]), name


def test_the_rate_warms_up_stays_and_falls_at_the_end():
    plan = Plan(epochs=10, decay=0.2, warm_up=4)
    assert [plan.factor(step, 0) for step in range(5)] == [0.25, 0.5, 0.75, 1, 1]
    assert plan.factor(100, 7.9) == 1
    assert plan.factor(100, 9) == pytest.approx(0.5)
    assert plan.factor(100, 10) == 0
    assert not plan.falling(8)
    assert plan.falling(8.1)


@pytest.mark.parametrize("plan", [PLAN, replace(PLAN, method="pretrain")])
def test_an_epoch_sees_every_crystal_once_in_blocks_of_one_size(data, plan):
    counts = data.crystals.counts
    epochs = [steps_of(data.crystals, plan, epoch) for epoch in (0, 1)]
    for steps in epochs:
        blocks = [block for step in steps for block in step]
        assert sorted(torch.cat(blocks).tolist()) == list(range(len(data)))
        assert all(len(counts[block].unique()) == 1 for block in blocks)
        assert all(sum(map(len, step)) >= plan.crystals for step in steps[:-1])
    order = [torch.cat([b for s in steps for b in s]).tolist() for steps in epochs]
    assert order[0] != order[1]


def test_pretraining_is_to_tell_apart_what_is_alike(data):
    scale = torch.linspace(0.8, 1.2, 40).repeat_interleave(len(data))
    some = torch.arange(len(data)).repeat(40)
    crystals = data.crystals.select(some)
    crystals = replace(crystals, lattice=crystals.lattice * scale[:, None, None])
    traits = traits_of(crystals)

    def spread(method):
        plan = Plan(method, block=8, crystals=16)
        blocks = [block for step in steps_of(crystals, plan, 0) for block in step]
        apart = [torch.pdist(traits[block]).square().mean() for block in blocks]
        return float(torch.stack(apart).nanmean())

    assert spread("pretrain") < 0.3 * spread("flow")


def test_patterns_depend_on_epoch_and_seed_alone(data):
    def at(epoch, plan=PLAN):
        patterns = Patterns(data, plan)
        patterns.renew(epoch)
        return patterns

    grown = at(0)
    first = grown.profiles.clone()
    for epoch in (1, 2):
        grown.renew(epoch)
    assert torch.equal(grown.profiles, at(2).profiles)
    changed = (grown.profiles != first).any(-1).any(-1)
    assert changed.any()
    assert not torch.equal(grown.profiles, at(2, replace(PLAN, seed=1)).profiles)


def test_variants_are_shown_with_their_own_patterns(data):
    many = data.crystals.select(torch.arange(len(data)).repeat(100))
    ids = tuple(map(str, range(len(many))))
    several = replace(data, ids=ids, crystals=many)
    plan = Plan(clean=1.0, turns=1)
    patterns = Patterns(several, plan)
    patterns.renew(0)
    shown = patterns.shown.crystals
    made = clean_profiles(shown.select(torch.arange(20))).half()
    torch.testing.assert_close(patterns.profiles[:20], made, atol=2e-3, rtol=0)
    scale = (shown.lattice / many.lattice).flatten(1).nanmedian(1).values.log()
    assert float(scale.std()) == pytest.approx(plan.strain, rel=0.1)  # 800 crystals
    pairs = {}
    for own, other, z in zip(shown.owner, shown.numbers, many.numbers, strict=True):
        pairs.setdefault((int(own), int(z)), set()).add(int(other))
    assert all(len(others) == 1 for others in pairs.values())  # the same on all sites
    changed = [others != {z} for (_, z), others in pairs.items()]
    assert np.mean(changed) == pytest.approx(plan.swaps, abs=0.06)  # 1,600; some stay
    again = Patterns(several, plan)
    again.renew(0)
    assert torch.equal(again.shown.crystals.numbers, shown.numbers)
    assert torch.equal(again.profiles, patterns.profiles)
    plain = Patterns(data, replace(PLAN, **PLAIN))
    plain.renew(0)
    assert torch.equal(plain.shown.crystals.numbers, data.crystals.numbers)
    assert torch.equal(plain.shown.crystals.lattice, data.crystals.lattice)


def test_batches_hold_the_crystals(data):
    index = torch.tensor([4, 3])
    batch = batch_of(data, index, torch.zeros(len(data), 2, 1024))
    assert batch.numbers.tolist() == [[8, 8, 30, 30], [28, 28, 33, 33]]
    assert batch.mask.all()
    edges = [STRUCTURES[n].lattice.get_niggli_reduced_lattice().a for n in ("ZnO", "NiAs")]
    assert batch.cell[:, 0].tolist() == pytest.approx(edges, rel=1e-4)


def test_settings_drawn_are_those_of_the_crystal(data):
    index = torch.tensor([4, 1])
    generator = torch.Generator().manual_seed(0)
    drawn = settings_for(data, index, 50, generator)
    lattice = data.crystals.lattice[index]
    metric = lattice @ lattice.mT
    moved = drawn @ metric @ drawn.mT
    torch.testing.assert_close(moved, metric.expand_as(moved), atol=5e-2, rtol=0)
    assert len({tuple(m.flatten().tolist()) for m in drawn[:, 1]}) > 20  # of 48


@pytest.mark.parametrize("stop", [1, 2, 4])
def test_a_run_that_stopped_goes_on_bit_for_bit(data, tmp_path, stop):
    whole = trained(data, tmp_path / "whole")
    trained(data, tmp_path / "parts", stop=stop)
    same(whole, trained(data, tmp_path / "parts"))
    for key in ("step", "epoch", "loss"):
        one, other = (
            [r[key] for r in rows(tmp_path / f / LOG)] for f in ("whole", "parts")
        )
        assert one == other


def test_a_finished_run_is_extended_from_before_its_rate_fell(data, tmp_path):
    longer = replace(PLAN, epochs=5)
    whole = trained(data, tmp_path / "whole", longer)
    trained(data, tmp_path / "parts")
    assert (tmp_path / "parts" / CONSTANT).exists()
    same(whole, trained(data, tmp_path / "parts", longer))


def test_a_run_goes_on_only_with_its_own_plan(data, tmp_path):
    trained(data, tmp_path, stop=1)
    with pytest.raises(ValueError, match="only epochs and decay may change"):
        trained(data, tmp_path, replace(PLAN, rate=1e-4))


def test_training_begins_from_weights_alone_with_a_new_warm_up(data, tmp_path):
    trained(data, tmp_path / "first")
    start = tmp_path / "first" / WEIGHTS
    trained(data, tmp_path / "second", stop=1, start=start)
    log = rows(tmp_path / "second" / LOG)
    assert float(log[0]["rate"]) == pytest.approx(PLAN.rate / 2)
    weights = read_tensors(start, "flow")[0]
    now = read_tensors(tmp_path / "second" / STATE, KIND)[0]
    far = max(
        float((now[f"model.{name}"] - value.float()).abs().max())
        for name, value in weights.items()
    )
    assert far < 2 * PLAN.rate  # one step from where it began


def test_a_number_that_is_none_stops_training_and_names_its_structure(data, tmp_path):
    trained(data, tmp_path, stop=1)
    frac = data.crystals.frac.clone()
    frac[data.crystals.owner == 3] = torch.nan
    broken = replace(data, crystals=replace(data.crystals, frac=frac))
    with pytest.raises(Diverged, match=r"not a number at step \d+, in a block of .*3.*"):
        trained(broken, tmp_path)
    state, _ = read_tensors(tmp_path / STATE, KIND)
    assert all(torch.isfinite(value).all() for value in state.values())
    trained(data, tmp_path)  # goes on without it


def test_a_checkpoint_that_cannot_be_written_whole_leaves_the_old_one(data, tmp_path):
    trained(data, tmp_path, stop=1)
    before = (tmp_path / STATE).read_bytes()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    old = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, limits[1]))
        with pytest.raises(OSError, match=r"cannot write .*state.safetensors"):
            trained(data, tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, old)
    assert (tmp_path / STATE).read_bytes() == before
    assert not list(tmp_path.glob("*.part"))


def test_a_run_that_goes_on_with_other_structures_says_so(data, tmp_path):
    trained(data, tmp_path, stop=1)
    assert not [now for now in train(data, tmp_path, plan=PLAN) if now.stage == "note"]
    other = taken(data, torch.arange(len(data)).flip(0))
    longer = replace(PLAN, epochs=4)
    said = [now for now in train(other, tmp_path, plan=longer) if now.stage == "note"]
    assert "goes on with other structures than it was trained with" in said[0].message
    again = train(other, tmp_path, plan=replace(PLAN, epochs=5))
    assert not [now for now in again if now.stage == "note"]


def test_a_log_that_cannot_be_written_says_so_and_half_lines_are_dropped(tmp_path):
    path, names = tmp_path / LOG, columns("flow")
    add(path, {"step": 1, "seconds": 2.0}, names)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    old = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (path.stat().st_size + 2, limits[1]))
        with pytest.raises(OSError, match=r"cannot write .*log.csv .* make room"):
            add(path, {"step": 23}, names)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, old)
    assert len(rows(path)) == 2
    assert shorten(path, 30) == 2.0
    assert [row["step"] for row in rows(path)] == ["1"]


def limited(tmp_path, code, more):
    """What a process prints that may take ``more`` MB beyond what it starts with."""
    script = tmp_path / "limited.py"
    script.write_text(
        "import resource, sys, torch; torch.set_num_threads(1); sys.path[:0] = sys.argv[1:]"
        f"\n{code[0]}\n"
        "pages = int(open('/proc/self/statm').read().split()[0])\n"
        f"limit = pages * resource.getpagesize() + {more} * 2**20\n"
        "resource.setrlimit(resource.RLIMIT_AS, (limit, limit))\n"
        f"{code[1]}\n"
    )
    here = Path(__file__).parent
    done = subprocess.run(
        [sys.executable, str(script), str(here), str(here.parent)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.split("\n")


@pytest.mark.slow
def test_where_memory_is_short_blocks_are_cut_and_it_is_said(tmp_path):
    path = pack(table_of([STRUCTURES["FeS2"]] * 64), tmp_path / "many.packed")
    begun = f"""
from test_train import *
data = load_packed({str(path)!r})
size = replace(TINY, waves=1024)
plan = replace(PLAN, block=64, crystals=64, epochs=2)
run = train(data, {str(tmp_path / "run")!r}, plan=plan, size=size)
"""
    said = limited(tmp_path, (begun, "for now in run: print(now.stage, now.message)"), 500)
    assert said[0] == (
        "note memory is short: blocks of crystals are cut into 2 from here on"
    )
    assert said[-2] == "epoch epoch 2"


def in_two_processes(code, *arguments):
    """Run lines of Python, with their arguments, in two processes of one group."""
    here = Path(__file__).parent
    begun = (
        "import sys, torch; torch.set_num_threads(1); sys.path.insert(0, sys.argv[1]); "
        "import test_train as t; from xrdkit.models import speed\n"
    )
    script = Path(arguments[0]).with_name("script.py")
    script.write_text(begun + code)
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"]
    command = [*torchrun, "--standalone", script, here, *arguments]
    subprocess.run(
        [str(part) for part in command],
        check=True,
        env={**os.environ, "PYTHONPATH": str(here.parent)},
    )


@pytest.mark.slow
def test_two_processes_train_as_one_does(data, tmp_path, monkeypatch):
    path = pack(table_of([STRUCTURES[name] for name in NAMES]), tmp_path / "some.packed")
    code = (
        "speed.CHOSEN['cpu'] = torch.float32\n"
        "data = t.load_packed(sys.argv[2])\n"
        "for stop in (1, 6):\n"
        "    t.learn(data, f'{sys.argv[3]}{stop}', stop=stop)\n"
    )
    in_two_processes(code, path, tmp_path / "two")
    monkeypatch.setitem(CHOSEN, "cpu", torch.float32)
    for stop in (1, 6):
        learn(data, tmp_path / f"one{stop}", stop=stop)
    # gradients of the first step: weights follow signs, even those of rounding errors
    one, two = (read_tensors(tmp_path / f"{n}1" / STATE, KIND)[0] for n in ("one", "two"))
    assert one.keys() == two.keys()
    gradients = [name for name in one if name.startswith("exp_avg.")]
    assert len(gradients) == sum(name.startswith("model.") for name in one)
    largest = max(float(one[name].abs().max()) for name in gradients)
    for name in gradients:
        torch.testing.assert_close(two[name], one[name], atol=1e-5 * largest, rtol=1e-4)
    # losses of all six
    runs = [rows(tmp_path / f"{name}6" / LOG) for name in ("one", "two")]
    losses = [[float(row["loss"]) for row in run if row["loss"]] for run in runs]
    assert len(losses[0]) == 6
    assert losses[1] == pytest.approx(losses[0], rel=2e-3)


@pytest.mark.slow
def test_processes_of_one_run_compute_in_one_number_format(tmp_path):
    code = (
        "import os; from xrdkit.train import parallel\n"
        "first = os.environ['RANK'] == '0'\n"
        "speed.CHOSEN['cpu'] = torch.bfloat16 if first else torch.float32\n"
        "parallel.join('cpu')\n"
        "open(sys.argv[2] + os.environ['RANK'], 'w').write(str(speed.fast_dtype('cpu')))\n"
    )
    in_two_processes(code, tmp_path / "format")
    said = [(tmp_path / f"format{rank}").read_text() for rank in (0, 1)]
    assert said == ["torch.bfloat16"] * 2


@pytest.mark.slow
def test_processes_leave_their_group_before_they_end(tmp_path):
    code = (
        "import atexit, os; from torch import distributed\n"
        "from xrdkit.train import parallel\n"
        "def say(when):\n"
        "    with open(sys.argv[2] + os.environ['RANK'], 'a') as out:\n"
        "        print(when, distributed.is_initialized(), file=out)\n"
        "atexit.register(say, 'end')\n"
        "parallel.join('cpu')\n"
        "say('joined')\n"
    )
    in_two_processes(code, tmp_path / "group")
    for rank in (0, 1):
        assert (tmp_path / f"group{rank}").read_text() == "joined True\nend False\n"


def test_the_log_has_losses_of_every_step_and_match_rates_of_epochs(data, tmp_path):
    trained(data, tmp_path, validation=data, entries=2, every=3)
    log = rows(tmp_path / LOG)
    epochs = [row for row in log if row["val_atoms"]]
    assert [row["epoch"] for row in epochs] == ["1", "2", "3"]
    assert [bool(row["match"]) for row in epochs] == [False, False, True]
    steps = [row for row in log if row["loss"]]
    assert [int(row["step"]) for row in steps] == list(range(1, len(steps) + 1))
    facts = read_tensors(tmp_path / WEIGHTS, "flow")[1]
    assert facts["structures"] == len(data)
    assert facts["atoms"] == 12
    assert 55 in facts["elements"]
    assert load_network(tmp_path / WEIGHTS, "flow").size == TINY


def test_match_rates_are_of_every_entry_and_sample(data):
    torch.manual_seed(0)
    from xrdkit.models.crystal_net import PatternNet

    model = PatternNet(TINY).eval()
    part = taken(data, torch.tensor([2, 7]))
    assert part.ids == ("2", "7")
    found = matches(model, part, known=True, samples=3, steps=2)
    assert [len(row) for row in found] == [3, 3]
    assert set(validate(model, part, entries=0)) == {"val_atoms", "val_cell"}


def test_the_number_format_is_one_that_the_processor_has():
    assert fast_dtype("cpu") in (torch.float32, torch.bfloat16)
    assert fast_dtype("cuda") == torch.bfloat16


@pytest.mark.slow
@pytest.mark.parametrize("method", ["flow", "diffusion"])
def test_a_small_set_is_learned_by_heart(data, tmp_path, method):
    few = taken(data, torch.nonzero(data.crystals.counts <= 4).flatten())
    many = taken(few, torch.arange(len(few)).repeat(16))
    size = Size(atom=96, edge=48, layers=3, waves=16, pattern=64, heads=4, attention=32)
    plan = Plan(
        method,
        epochs=350,
        rate=4e-3,
        warm_up=20,
        average=0.98,
        clean=1.0,
        decay=0.5,
        **PLAIN,
    )
    for _ in train(many, tmp_path, plan=plan, size=size):
        pass
    model = load_network(tmp_path / WEIGHTS, method)
    way = {"steps": 50}
    if method == "diffusion":  # as published: for few crystals better than second looks
        way = {"steps": 200, "legs": flow.STRAIGHT, "correction": diffusion.CORRECTION}
    for known in (True, False):
        found = matches(model, few, known=known, method=method, samples=8, **way)
        right = [v is not None and v < 0.02 for row in found for v in row]
        assert sum(right) / len(right) > 0.85


def test_a_run_goes_on_with_the_network_it_began_with(data, tmp_path):
    trained(data, tmp_path, stop=1)
    other = train(data, tmp_path, plan=PLAN, size=replace(TINY, encoder="patches"))
    with pytest.raises(ValueError, match=r"holds a network of .*ask for the same or none"):
        next(other)


@pytest.mark.parametrize(
    ("method", "usual"),
    [("flow", (192, 64)), ("pretrain", (1024, 64)), ("latent", (48, 16))],
)
def test_a_plan_has_the_sizes_that_its_method_learns_best_by(method, usual):
    plan = Plan(method)
    assert (plan.crystals, plan.block) == usual
    assert Plan(method, crystals=5).block == usual[1]
    with pytest.raises(ValueError, match="block = 0; give 1 or more, or nothing"):
        Plan(method, block=0)
