import hashlib
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import pytest
import torch

from xrdkit.models import weights
from xrdkit.models.checkpoint import DENSITY, LATENTS, PAIRS, kind_of, save_network
from xrdkit.models.crystal_net import PatternNet, Size
from xrdkit.models.weights import load_model, located
from xrdkit.train.plan import METHODS

TINY = Size(atom=16, edge=8, layers=1, waves=4, pattern=32, heads=2, attention=8)


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *args):
        pass


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("served")
    return save_network(folder / "tiny.safetensors", PatternNet(TINY), "flow", {"step": 7})


@pytest.fixture
def address(file):
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=file.parent))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/{file.name}"
    server.shutdown()
    server.server_close()


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "xrdkit"


def hash_of(file):
    return hashlib.sha256(file.read_bytes()).hexdigest()


def test_a_file_and_a_shipped_name_are_found_and_loaded_once(file, monkeypatch):
    model = load_model(file, "flow")
    assert model.facts["step"] == 7
    assert load_model(str(file), "flow") is model
    monkeypatch.setattr(weights, "SHIPPED", file.parent)
    assert located("tiny") == file
    assert load_model("tiny", "flow") is model
    with pytest.raises(FileNotFoundError, match="those that ship are tiny; give a file"):
        located("huge")


def test_an_address_is_fetched_once_and_checked(file, address, cache):
    asked = f"{address}#sha256={hash_of(file)}"
    path = located(asked)
    assert path.parent == cache
    assert path.read_bytes() == file.read_bytes()
    path.write_bytes(b"damaged")
    assert located(asked).read_bytes() == file.read_bytes()
    assert load_model(asked, "flow").facts["step"] == 7
    elsewhere = f"http://127.0.0.1:9/none#sha256={hash_of(file)}"
    assert located(elsewhere) == path  # without asking again


def test_what_is_not_what_was_asked_for_is_not_kept(file, address, cache):
    with pytest.raises(ValueError, match="comes without its SHA-256"):
        located(address)
    with pytest.raises(ValueError, match=r"not 000000000000…; it is not kept"):
        located(f"{address}#sha256={'0' * 64}")
    with pytest.raises(ValueError, match=r"cannot be fetched \(.*404"):
        located(f"{address}.none#sha256={'0' * 64}")
    with pytest.raises(ValueError, match="cannot be fetched"):
        located(f"http://no such host/#sha256={'0' * 64}")
    assert not cache.exists()


def test_weights_that_change_are_loaded_anew(tmp_path):
    path = tmp_path / "now.safetensors"
    for step in (1, 2):
        save_network(path, PatternNet(TINY), "flow", {"step": step})
        assert load_model(path, "flow").facts["step"] == step


def test_every_network_that_ships_has_a_card_of_its_own_and_room():
    files = sorted(weights.SHIPPED.glob("*.safetensors"))
    assert files
    for path in files:
        card = path.with_suffix(".md").read_text(encoding="utf-8")
        assert hash_of(path) in card
        assert kind_of(path) in (*METHODS, PAIRS)
    later = [path for path in files if kind_of(path) in (LATENTS, DENSITY)]
    assert sum(path.stat().st_size for path in later) <= 8e6
    assert sum(path.stat().st_size for path in set(files) - set(later)) <= 22e6
