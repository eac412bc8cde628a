import json
from dataclasses import replace

import pytest
import torch
from test_dataset import ROCK_SALT, RUTILE, parquet
from textbook import STRUCTURES, table_of

from xrdkit.benchmark.generation import generation, generation_counts
from xrdkit.benchmark.retrieval import retrieval
from xrdkit.cli import main
from xrdkit.metrics import normalised_rmse
from xrdkit.models.cell_net import CellNet
from xrdkit.models.checkpoint import save_network
from xrdkit.models.contrast import PairNet
from xrdkit.models.crystal_net import PatternNet, Size
from xrdkit.packed import packed_of
from xrdkit.train.data import taken
from xrdkit.train.validation import compared

TINY = Size(atom=16, edge=8, layers=1, waves=4, pattern=32, heads=2, attention=8)
NAMES = ("NaCl", "CsCl", "TiO2", "CaTiO3", "ZnS")


@pytest.fixture(scope="module")
def table():
    return table_of([STRUCTURES[name] for name in NAMES])


@pytest.fixture(scope="module", params=["flow", "diffusion"])
def weights(request, tmp_path_factory):
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / "drawing.safetensors"
    return save_network(path, PatternNet(TINY).eval(), request.param, {})


@pytest.fixture(scope="module")
def pairing(tmp_path_factory):
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / "pairs.safetensors"
    return save_network(path, PairNet(TINY).eval(), "pretrain", {})


def drawn(table, weights, path, **settings):
    settings = {"samples": 3, "steps": 4, "progress": False, **settings}
    return generation(table, weights, path, **settings)


def test_every_entry_is_drawn_for_and_a_stopped_run_goes_on_the_same(
    table, weights, tmp_path
):
    whole = drawn(table, weights, tmp_path / "a.json", cell="given")
    assert {row["id"] for row in whole} == set(table.ids)
    assert all(len(row["rmse"]) == 3 and row["seconds"] > 0 for row in whole)
    lines = (tmp_path / "a.json").read_text().splitlines(keepends=True)
    (tmp_path / "b.json").write_text("".join(lines[:3]))
    again = drawn(table, weights, tmp_path / "b.json", cell="given")
    found = [{row["id"]: row["rmse"] for row in rows} for rows in (whole, again)]
    assert found[0] == found[1]


def test_shards_share_the_entries_that_are_drawn_at_random(
    table, weights, tmp_path, capsys
):
    parts = [
        drawn(table, weights, tmp_path / f"{i}.json", n=4, shard=(i, 2), steps=2)
        for i in (1, 2)
    ]
    assert len({row["id"] for part in parts for row in part}) == 4
    assert (
        main(["benchmark", "summary", *(str(tmp_path / f"{i}.json") for i in (1, 2))]) == 0
    )
    assert "of 4" in capsys.readouterr().out
    with pytest.raises(ValueError, match="another file or the same settings"):
        drawn(table, weights, tmp_path / "1.json", n=4, shard=(1, 2), steps=3)


@pytest.mark.parametrize(
    ("kind", "row", "said"),
    [
        ("judgement", '{"id": "a"}', "is of benchmark judgement, whose own command prints"),
        ("generation", "", "holds no finished entry yet; let the benchmark run on"),
    ],
)
def test_a_file_that_cannot_be_counted_says_why(tmp_path, capsys, kind, row, said):
    file = tmp_path / "r.json"
    header = json.dumps({"xrdkit_benchmark": 1, "settings": {"benchmark": kind}})
    file.write_text(f"{header}\n{row}\n" if row else f"{header}\n")
    assert main(["benchmark", "summary", str(file)]) == 2
    assert said in capsys.readouterr().err


def test_a_crystal_answers_itself_and_no_other(table):
    data = packed_of(table)
    one = taken(data, torch.tensor([2, 3]))
    own = [one.crystals.select(torch.tensor([i])) for i in (0, 1)]
    assert [row[0] for row in compared(one, own)] == pytest.approx([0, 0], abs=1e-4)
    fallen = [replace(c, frac=torch.zeros_like(c.frac)) for c in own]  # all on one place
    assert [row[0] for row in compared(one, fallen)] == [None, None]
    assert compared(one, own[::-1]) == [[None], [None]]
    assert normalised_rmse(STRUCTURES["TiO2"], STRUCTURES["CaTiO3"]) is None


def test_counts_are_of_the_first_sample_and_of_the_best():
    rows = [
        {"rmse": [None, 0.1], "valid": True},
        {"rmse": [0.3, 0.2], "valid": False},
        {"rmse": [0.1, None], "valid": True},
        {"rmse": [None, None], "valid": True},
    ]
    one, best, filtered, filtered_best = generation_counts(rows)
    assert (one["hits"], one["mean RMSE"]) == ("2 of 4", 0.2)
    assert (best["hits"], best["mean RMSE"]) == ("3 of 4", 0.1333)
    assert (filtered["hits"], filtered_best["hits"]) == ("1 of 4", "2 of 4")
    assert best["interval"] == "0.301–0.954"  # Wilson's, of 3 of 4


def test_weights_that_draw_nothing_are_refused(table, tmp_path):
    path = save_network(tmp_path / "cell.safetensors", CellNet(TINY), "cell", {})
    with pytest.raises(ValueError, match="holds cell; give those of a flow or a diffusion"):
        drawn(table, path, tmp_path / "rows.json")
    assert not (tmp_path / "rows.json").exists()


def test_further_tables_only_enlarge_the_gallery(table, pairing):
    other = table_of([STRUCTURES["Si"], STRUCTURES["Cu"]])
    alone, more = retrieval(table, pairing), retrieval(table, pairing, [other])
    assert [row[""] for row in more] == [f"top {k} of 7" for k in (1, 5, 10, 20)]
    assert alone[1]["share"] == 1  # the nearest five of five
    assert all(a["share"] >= m["share"] for a, m in zip(alone, more, strict=True))
    assert retrieval(table, pairing, n=3)[0]["hits"].endswith("of 3")


def test_commands_print_rates(table, weights, pairing, tmp_path, capsys):
    path = parquet(tmp_path / "some.parquet", [ROCK_SALT, RUTILE])
    told = ["--structures", str(path), "--quiet"]
    command = ["benchmark", "generation", *told, "--weights", str(weights)]
    output = tmp_path / "rows.json"
    assert main([*command, "--samples", "2", "--steps", "2", "--json", str(output)]) == 0
    assert "best of 2" in (said := capsys.readouterr().out)
    assert "s for a structure" in said
    assert json.loads(output.read_text().splitlines()[1])["rmse"]
    command = ["benchmark", "retrieval", *told[:-1], "--weights", str(pairing)]
    assert main([*command, "--disturbed"]) == 0
    assert "top 1 of 2" in capsys.readouterr().out
