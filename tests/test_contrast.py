import math
from dataclasses import replace

import pytest
import torch
from textbook import STRUCTURES, table_of
from torch.nn.functional import normalize

from xrdkit.crystal import from_structures
from xrdkit.models.checkpoint import (
    PAIRS,
    load_network,
    new_network,
    read_tensors,
    save_network,
    start_network,
    write_tensors,
)
from xrdkit.models.contrast import PairNet, Pairs, backward, info_nce
from xrdkit.models.crystal_net import PatternNet, Size
from xrdkit.packed import packed_of
from xrdkit.progress import result_of
from xrdkit.q_profile import CLEAN, clean_profiles
from xrdkit.retrieve import (
    holding,
    index_steps,
    load_index,
    save_index,
    search,
)
from xrdkit.simulate import pattern_of
from xrdkit.train.data import batch_of
from xrdkit.train.log import rows
from xrdkit.train.loop import LOG, WEIGHTS, train
from xrdkit.train.pairs import crystal_vectors, hit_rates, ranks
from xrdkit.train.plan import Plan
from xrdkit.train.state import STATE

TINY = Size(atom=32, edge=16, layers=2, waves=8, pattern=32, heads=2, attention=16)
NAMES = tuple(STRUCTURES)[:32]
PLAIN = {"swaps": 0.0, "strain": 0.0}  # what is learned by heart


@pytest.fixture
def generator():
    return torch.Generator().manual_seed(0)


@pytest.fixture(scope="module")
def data():
    return packed_of(table_of([STRUCTURES[name] for name in NAMES]))


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return PairNet(TINY).eval()


def some_pairs(generator, count=20):
    return Pairs(*normalize(torch.randn(2, count, 8, generator=generator), dim=-1))


def blocks_of(data):
    profile = clean_profiles(data.crystals)
    counts = data.crystals.counts
    sizes = counts.unique().tolist()
    index = [torch.nonzero(counts == n).flatten() for n in sizes]
    return [lambda i=i: batch_of(data, i, profile) for i in index]


# loss


def test_the_loss_knows_neither_the_order_of_pairs_nor_which_side_is_which(generator):
    pairs, sharp = some_pairs(generator), torch.tensor(2.0)
    order = torch.randperm(20, generator=generator)
    loss = info_nce(pairs, sharp)
    torch.testing.assert_close(loss, info_nce(Pairs(*(v[order] for v in pairs)), sharp))
    torch.testing.assert_close(loss, info_nce(Pairs(pairs.crystals, pairs.patterns), sharp))
    turn = torch.linalg.qr(torch.randn(8, 8, generator=generator)).Q
    torch.testing.assert_close(loss, info_nce(Pairs(*(v @ turn for v in pairs)), sharp))


def test_the_loss_is_zero_for_the_right_answer_and_that_of_guessing_for_none():
    own = Pairs(torch.eye(8), torch.eye(8))
    assert info_nce(own, torch.tensor(math.log(100.0))) < 1e-6
    same = Pairs(torch.eye(8)[:1].repeat(8, 1), torch.eye(8)[:1].repeat(8, 1))
    assert float(info_nce(same, torch.tensor(1.0))) == pytest.approx(math.log(8))


@pytest.mark.parametrize("frugal", [False, True])
def test_the_gradient_by_blocks_is_that_of_all_at_once(data, frugal):
    torch.manual_seed(1)
    model = PairNet(TINY)
    blocks = blocks_of(data)
    found, right = backward(model, blocks, weight=3, frugal=frugal)
    by_blocks = {k: w.grad for k, w in model.named_parameters() if w.grad is not None}
    model.zero_grad()
    parts = [model(block()) for block in blocks]
    whole = Pairs(*(torch.cat(side) for side in zip(*parts, strict=True)))
    loss = info_nce(whole, model.sharp)
    (3 * loss).backward()
    torch.testing.assert_close(found, loss.detach())
    assert 0 <= right <= 1
    for name, weight in model.named_parameters():
        assert (weight.grad is None) == (name not in by_blocks)
        if weight.grad is not None:
            torch.testing.assert_close(
                by_blocks[name], weight.grad, atol=1e-4, rtol=1e-3, msg=name
            )


# vectors


def test_vectors_of_crystals_know_neither_origin_nor_order(model, generator):
    numbers = torch.tensor([[8, 8, 22]])
    frac = torch.rand(1, 3, 3, generator=generator)
    cell = torch.tensor([[3.0, 4.0, 5.0, 80.0, 90.0, 95.0]])
    one = model.crystals(numbers, frac, cell)
    moved = model.crystals(numbers, torch.remainder(frac + 0.4, 1), cell)
    torch.testing.assert_close(one, moved, atol=1e-5, rtol=1e-4)
    order = [2, 0, 1]
    other = model.crystals(numbers[:, order], frac[:, order], cell)
    torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(one.norm(dim=-1), torch.ones(1))


def test_vectors_of_packed_crystals_stand_in_their_order(model, data):
    vectors = crystal_vectors(model, data)
    for block in blocks_of(data):
        batch = block()
        own = model.crystals(batch.numbers, batch.frac, batch.cell)
        assert ((own @ vectors.T).amax(1) > 0.999).all()


def test_a_rank_counts_what_is_nearer():
    gallery = torch.tensor([[1.0, 0.0], [0.6, 0.8], [0.0, 1.0]])
    queries = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.8, 0.6]])
    assert ranks(queries, gallery, torch.tensor([0, 2, 1])).tolist() == [0, 2, 0]
    broken = queries.clone()
    broken[1] = torch.nan
    assert ranks(broken, gallery, torch.tensor([0, 2, 1])).tolist() == [0, 3, 0]


# training and search


@pytest.mark.slow
def test_thirty_two_pairs_are_learned_and_then_searched(data, tmp_path):
    size = Size(atom=64, edge=32, layers=2, waves=8, pattern=64, heads=2, attention=32)
    plan = Plan(
        "pretrain", epochs=60, crystals=1024, rate=2e-3, warm_up=10, clean=1.0,
        average=0.9, **PLAIN,
    )  # fmt: skip
    for _ in train(data, tmp_path, plan=plan, size=size, validation=data, every=60):
        pass
    model = load_network(tmp_path / WEIGHTS, "pretrain")
    assert hit_rates(model, data)["val_top_1"] == 1
    assert float(rows(tmp_path / LOG)[-1]["val_top_1"]) == 1
    found = result_of(index_steps(model, data))
    index = load_index(save_index(found, tmp_path / "some.index"))
    for i, name in enumerate(NAMES[:8]):
        crystal = from_structures([STRUCTURES[name]])
        pattern = pattern_of(crystal, CLEAN, two_theta=(5, 80, 3751))
        assert search(index, model, pattern, count=3)[0].id == str(i)


def started(data, folder, method, start, size=None):
    """The weights of a run of a method that has begun, and not moved."""
    plan = Plan(method, epochs=1, crystals=1, block=1, rate=1e-9, clean=1.0, turns=1)
    run = train(data, folder, plan=plan, size=size, start=start)
    next(run)
    run.close()
    found = read_tensors(folder / STATE, "training state")[0]
    named = {k.removeprefix("model."): v for k, v in found.items() if k[:6] == "model."}
    return {k.removeprefix("net.") if method == PAIRS else k: v for k, v in named.items()}


def kept(found, model, part):
    """Whether the weights of a part are those of the model, in bf16."""
    meant = {k: v for k, v in model.state_dict().items() if k.startswith(part)}
    assert meant
    return all(torch.allclose(found[k], v, atol=1e-3, rtol=1e-2) for k, v in meant.items())


@pytest.mark.parametrize("method", ["flow", "diffusion"])
def test_a_generator_begins_from_what_was_pretrained(data, tmp_path, method):
    torch.manual_seed(0)
    pairs = PairNet(TINY)
    start = save_network(tmp_path / "pairs.safetensors", pairs, PAIRS, {})
    assert kept(started(data, tmp_path / method, method, start), pairs.net, "")


def test_pretraining_and_a_diffusion_begin_from_a_flow(data, tmp_path):
    torch.manual_seed(0)
    flow = PatternNet(TINY)
    start = save_network(tmp_path / "flow.safetensors", flow, "flow", {})
    for method, size in ((PAIRS, TINY), ("diffusion", None)):
        assert kept(started(data, tmp_path / method, method, start, size), flow, "")


def test_networks_of_other_sizes_begin_with_the_encoder_of_a_flow(data, tmp_path):
    torch.manual_seed(0)
    flow = PatternNet(TINY)
    start = save_network(tmp_path / "flow.safetensors", flow, "flow", {})
    small = replace(TINY, layers=1, atom=16)
    for method in (PAIRS, "cell"):
        found = started(data, tmp_path / method, method, start, small)
        assert kept(found, flow, "encoder")


def test_another_encoder_is_refused(data, tmp_path):
    start = save_network(tmp_path / "flow.safetensors", PatternNet(TINY), "flow", {})
    plan, other = Plan(PAIRS), replace(TINY, encoder="peaks")
    with pytest.raises(ValueError, match="another encoder than pretrain"):
        next(train(data, tmp_path / "pairs", plan=plan, size=other, start=start))


@pytest.mark.parametrize(("first", "then"), [("flow", "latent"), ("density", "cell")])
def test_networks_that_share_no_parts_do_not_begin_from_each_other(tmp_path, first, then):
    path = save_network(tmp_path / "w.safetensors", new_network(first, TINY), first, {})
    with pytest.raises(ValueError, match=f"holds {first}, from which {then} cannot begin"):
        start_network(path, then)


def test_a_start_that_cannot_be_leaves_no_folder(data, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"those that ship are .*flow_mp20, "):
        next(train(data, tmp_path / "run", start="flow_mp2"))
    assert not (tmp_path / "run").exists()


def test_an_index_that_lacks_parts_is_refused(model, data, tmp_path):
    found = result_of(index_steps(model, data))
    wrong = {
        r"lacks parts of an index \('names'\)": {},
        "invalid start byte": {"names": torch.tensor([255], dtype=torch.uint8)},
        "names for .* formulas": {"vectors": torch.zeros(2, 3)},
    }
    whole, header = read_tensors(save_index(found, tmp_path / "whole.index"), "index")
    facts = {"network": header["network"]}
    for i, (said, change) in enumerate(wrong.items()):
        tensors = whole | change if change else {"vectors": whole["vectors"]}
        path = write_tensors(tmp_path / f"{i}.index", "index", tensors, facts)
        with pytest.raises(ValueError, match=said):
            load_index(path)


def test_only_structures_of_the_elements_asked_for_are_found(model, data):
    index = result_of(index_steps(model, data))
    asked = holding(index, [11, 17])
    assert [NAMES[i] for i in torch.nonzero(asked).flatten()] == ["NaCl"]
    crystal = from_structures([STRUCTURES["ZnS"]])
    pattern = pattern_of(crystal, CLEAN, two_theta=(5, 80, 3751))
    assert len(search(index, model, pattern, count=5)) == 5
    (only,) = search(index, model, pattern, elements=[11, 17])
    assert (only.id, only.formula) == (str(NAMES.index("NaCl")), "NaCl")
    with pytest.raises(ValueError, match=r"\[120\] are not one or more of 1–99"):
        holding(index, [120])


def test_an_index_of_other_weights_is_refused(model, data):
    index = result_of(index_steps(model, data))
    torch.manual_seed(5)
    crystal = from_structures([STRUCTURES["ZnS"]])
    pattern = pattern_of(crystal, CLEAN, two_theta=(5, 80, 3751))
    with pytest.raises(ValueError, match="made with other weights; make it again"):
        search(index, PairNet(TINY), pattern)
