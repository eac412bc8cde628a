import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from textbook import STRUCTURES

from xrdkit.cli import main
from xrdkit.models.checkpoint import load_network, read_tensors
from xrdkit.packed import load_packed
from xrdkit.train.log import rows

NAMES = ("NaCl", "CsCl", "ZnS", "NiAs")


@pytest.fixture(scope="module")
def packed(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("cifs")
    for name in NAMES:
        STRUCTURES[name].to(filename=str(folder / f"{name}.cif"))
    output = folder.parent / "some.packed"
    assert main(["train", "pack", str(folder), "-o", str(output)]) == 0
    return output


def words(packed, folder, *more):
    return ["train", "flow", str(packed), "--folder", str(folder), "--quiet", *more]


def refused(capsys, *line):
    assert main([str(word) for word in line]) == 2
    said = capsys.readouterr().err
    assert len(said.splitlines()) == 1
    return said


def test_tables_are_packed_once(packed, capsys):
    assert len(load_packed(packed)) == len(NAMES)
    said = refused(capsys, "train", "pack", packed.parent, "-o", packed)
    assert "exists already; give --overwrite" in said


@pytest.mark.slow
def test_a_flow_is_trained_and_goes_on(packed, tmp_path, capsys):
    line = words(packed, tmp_path, "--validation", str(packed), "--epochs")
    assert main([*line, "1"]) == 0
    said = capsys.readouterr().out.splitlines()
    assert said[0].startswith("epoch 1, val_atoms ")
    assert "match" in said[0]
    assert said[-1] == f"weights in {tmp_path / 'weights.safetensors'}"
    assert load_network(tmp_path / "weights.safetensors", "flow").facts["structures"] == 4
    assert main([*line, "2"]) == 0
    assert [r["epoch"] for r in rows(tmp_path / "log.csv") if r["val_atoms"]] == ["1", "2"]
    capsys.readouterr()
    assert main([*line, "1"]) == 0
    assert "has had 2 epochs; to go on, ask for more than these" in capsys.readouterr().err


@pytest.mark.slow
def test_what_is_pretrained_is_where_a_flow_begins(packed, tmp_path, capsys):
    line = ["train", "pretrain", packed, "--folder", tmp_path / "pairs", "--quiet"]
    line += ["--epochs", "1", "--validation", packed]
    assert main([str(word) for word in line]) == 0
    assert "val_top_1" in capsys.readouterr().out
    start = str(tmp_path / "pairs" / "weights.safetensors")
    assert main(words(packed, tmp_path / "flow", "--epochs", "1", "--start", start)) == 0


@pytest.mark.slow
def test_a_training_that_is_ended_keeps_its_state(packed, tmp_path):
    job = subprocess.Popen(
        [sys.executable, "-m", "xrdkit", *words(packed, tmp_path, "--epochs", "100000")],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert job.stdout.readline().startswith("epoch 1, ")
    job.send_signal(signal.SIGTERM)
    _, said = job.communicate(timeout=60)
    assert job.returncode == 130
    assert "stopped" in said
    state = read_tensors(tmp_path / "state.safetensors", "training state")[1]
    assert state["step"] >= 1
    assert state["step"] == int(rows(tmp_path / "log.csv")[-1]["step"])


def test_what_cannot_be_trained_from_is_refused(packed, tmp_path, capsys):
    line = words(tmp_path / "none", tmp_path)
    assert "give a file written by pack" in refused(capsys, *line)
    line = words(packed, tmp_path, "--decay", "3")
    assert "'3' is not a number of 0 to 1" in refused(capsys, *line)
    line = words(packed, tmp_path, "--seed", "9" * 20)
    assert "is not one of 0–2147483647" in refused(capsys, *line)
    line = words(packed, tmp_path, "--start", "nothing")
    assert "give a file of xrdkit train" in refused(capsys, *line)
