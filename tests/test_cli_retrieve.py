import re

import pytest
import torch
from test_dataset import ROCK_SALT, RUTILE, parquet

from xrdkit.cli import main
from xrdkit.models.checkpoint import save_network
from xrdkit.models.contrast import PairNet
from xrdkit.models.crystal_net import Size

TINY = Size(atom=16, edge=8, layers=1, waves=4, pattern=32, heads=2, attention=8)
SEARCH = ["retrieve", "search", "example:rutile", "--wavelength", "CuKa"]


@pytest.fixture
def weights(tmp_path):
    torch.manual_seed(0)
    path = tmp_path / "pairs.safetensors"
    return str(save_network(path, PairNet(TINY).eval(), "pretrain", {}))


@pytest.fixture
def index(tmp_path, weights, capsys):
    table = parquet(tmp_path / "some.parquet", [ROCK_SALT, RUTILE])
    path = str(tmp_path / "new" / "some.index")  # its folder is made
    assert main(["retrieve", "index", str(table), "-o", path, "--weights", weights]) == 0
    assert f"2 of 2 structures in {path}" in capsys.readouterr().out
    return path


def search(index, weights, *more):
    return main([*SEARCH, "--index", index, "--weights", weights, *more])


def test_nearest_structures_are_printed_best_first(index, weights, capsys):
    assert search(index, weights) == 0
    head, *rows = capsys.readouterr().out.splitlines()
    assert head.split() == ["id", "formula", "cosine"]
    assert {row.split()[1] for row in rows} == {"NaCl", "TiO2"}
    cosines = [float(row.split()[2]) for row in rows]
    assert cosines == sorted(cosines, reverse=True)


def test_only_structures_of_these_elements_are_printed(index, weights, capsys):
    assert search(index, weights, "--elements", "O", "Ti") == 0
    assert re.findall(r"NaCl|TiO2", capsys.readouterr().out) == ["TiO2"]
    assert search(index, weights, "--elements", "Ti") == 0
    assert "no structure of the index has exactly these" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (["--elements", "Xx"], "Xx"),
        (["--elements", "TiO2"], "give symbols one by one, such as Ti O"),
        (["--weights", "nowhere"], "there are no weights nowhere"),
        (["--index", "nowhere"], "nowhere does not exist"),
    ],
)
def test_bad_input_gets_one_sentence(index, weights, capsys, change, said):
    assert search(index, weights, *change) == 2
    error = capsys.readouterr().err.strip()
    assert said in error
    assert len(error.splitlines()) == 1


def test_an_earlier_index_is_not_replaced_unasked(index, weights, tmp_path, capsys):
    table = str(tmp_path / "some.parquet")
    command = ["retrieve", "index", table, "-o", index, "--weights", weights]
    assert main(command) == 2
    assert "overwrite" in capsys.readouterr().err
    assert main([*command, "--overwrite"]) == 0
