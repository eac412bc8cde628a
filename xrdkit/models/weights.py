"""Trained networks by name, file or address; what is fetched is checked and kept."""

import hashlib
import os
import urllib.request
from collections.abc import Sequence
from functools import cache
from http.client import HTTPException
from pathlib import Path

import torch

from xrdkit.files import write_whole
from xrdkit.models.checkpoint import Network, load_network

Weights = str | Path | Sequence[str | Path]  # names, files or addresses, one or several
SHIPPED = Path(__file__).parents[1] / "weights"
ENDING, MARK = ".safetensors", "#sha256="
LARGEST = 2**30  # bytes of a file that is fetched
PATIENCE = 30.0  # seconds without an answer
DEFAULTS = {  # by kind, used without being told
    "flow": "flow_mp20",
    "pretrain": "pairs_mp20",
    "latent": "latent_mp20",
    "density": "density_mp20",
}


def default(kind: str) -> str:
    """The name of the weights of a kind that ship and are used without being told."""
    if kind not in DEFAULTS:
        raise FileNotFoundError(
            f"no weights of kind {kind} come with this xrdkit: train them with xrdkit "
            f"train {kind} and give the file, or leave out what needs them"
        )
    return DEFAULTS[kind]


def load_model(where: str | Path, kind: str, device: torch.device | str = "cpu") -> Network:
    """A network of a kind by shipped name ("flow_mp20"), file, or address; loaded once.

    An address carries its SHA-256, https://…#sha256=…, and is fetched once into the user's
    cache folder.
    """
    path = located(where)
    return _loaded(str(path), path.stat().st_mtime_ns, kind, str(device))


@cache
def _loaded(path: str, changed: int, kind: str, device: str) -> Network:
    return load_network(path, kind, device)


def located(where: str | Path) -> Path:
    """The file of a name, path or address on this machine."""
    text = str(where)
    if text.startswith(("https://", "http://")):
        return fetched(text)
    shipped = SHIPPED / f"{text}{ENDING}"
    for path in (Path(where), shipped):
        if path.is_file():
            return path
    names = sorted(path.stem for path in SHIPPED.glob(f"*{ENDING}"))
    raise FileNotFoundError(
        f"there are no weights {text}: no such file, and those that ship are "
        f"{', '.join(names) or 'none'}; give a file of xrdkit train, or an address"
    )


def fetched(address: str) -> Path:
    """The file of an address, from the cache folder if it is there already."""
    link, mark, asked = address.partition(MARK)
    asked = asked.lower()
    if not mark or len(asked) != 64 or set(asked) - set("0123456789abcdef"):
        raise ValueError(
            f"{link} comes without its SHA-256, so that it cannot be checked; "
            f"give address{MARK} and 64 digits"
        )
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "xrdkit"
    path = folder / f"{asked}{ENDING}"
    if path.is_file() and hashlib.sha256(path.read_bytes()).hexdigest() == asked:
        return path
    content = _content(link)
    if (found := hashlib.sha256(content).hexdigest()) != asked:
        raise ValueError(
            f"what {link} gives has SHA-256 {found[:12]}…, not {asked[:12]}…; "
            "it is not kept: check the address"
        )
    folder.mkdir(parents=True, exist_ok=True)
    return write_whole(path, lambda part: part.write_bytes(content))


def _content(link: str) -> bytes:
    """What an address gives, up to a gigabyte."""
    try:
        with urllib.request.urlopen(link, timeout=PATIENCE) as answer:
            content = answer.read(LARGEST + 1)
    except (OSError, HTTPException) as error:  # also where the connection breaks off
        raise ValueError(
            f"{link} cannot be fetched ({error}); fetch it by other means and give the file"
        ) from error
    if len(content) > LARGEST:
        raise ValueError(
            f"{link} gives more than {LARGEST >> 20} MB; no weights are so large"
        )
    return content
