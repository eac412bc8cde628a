"""Networks and training states as safetensors with a JSON header: no pickle anywhere."""

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from xrdkit.files import write_whole
from xrdkit.models import cell_net, contrast
from xrdkit.models.cell_net import CellNet
from xrdkit.models.contrast import PairNet
from xrdkit.models.crystal_net import PatternNet, Size
from xrdkit.models.density_net import DensityNet
from xrdkit.models.latent import LatentNet
from xrdkit.q_profile import POINTS, Q_MAX, Q_MIN

FORMAT = 1
HEADER = "xrdkit"
GRID = [Q_MIN, Q_MAX, POINTS]
PAIRS, CELLS, LATENTS, DENSITY = "pretrain", "cell", "latent", "density"  # kinds of these:
NETWORKS = {PAIRS: PairNet, CELLS: CellNet, LATENTS: LatentNet, DENSITY: DensityNet}
SHARING = ("flow", "diffusion", PAIRS, CELLS)  # kinds that begin from each other
SIZES = {PAIRS: contrast.SIZE, CELLS: cell_net.SIZE}  # of others ``Size()``
Network = PatternNet | PairNet | CellNet | LatentNet | DensityNet  # the first: generators


def write_tensors(
    path: str | Path, kind: str, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]
) -> Path:
    """Tensors and facts of a kind as one file, whole or not at all."""
    header = {"format": FORMAT, "kind": kind, "grid": GRID, **facts}
    flat = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
    try:
        return write_whole(
            path, lambda part: save_file(flat, part, {HEADER: json.dumps(header)})
        )
    except (OSError, SafetensorError) as error:
        raise OSError(
            f"cannot write {path} ({error}); what was there stays: make room on the disk, "
            "or give another place"
        ) from error


def read_tensors(path: str | Path, kind: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """What ``write_tensors`` wrote, if it is of this kind."""
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist; check the name and the folder")
    try:
        with safe_open(path, "pt") as file:
            header = _header(file)
            _check(path, kind, header)
            tensors = {name: file.get_tensor(name) for name in file.keys()}
    except (SafetensorError, json.JSONDecodeError) as error:
        raise ValueError(
            f"{path} is truncated or no safetensors file ({error}); fetch or make it again"
        ) from error
    return tensors, header


def kind_of(path: str | Path) -> str | None:
    """What kind a file says it holds; None where it says nothing."""
    try:
        with safe_open(Path(path), "pt") as file:
            return _header(file).get("kind")
    except (OSError, SafetensorError, json.JSONDecodeError):
        return None


def _header(file: Any) -> dict[str, Any]:
    """The facts in an open file; none where others wrote it."""
    header = json.loads((file.metadata() or {}).get(HEADER, "{}"))
    return header if isinstance(header, dict) else {}


def _check(path: Path, kind: str, header: Mapping[str, Any]) -> None:
    """Refuse files of others, of other kinds, of later versions and other grids."""
    if "kind" not in header:
        raise ValueError(f"{path} was not written by xrdkit; give a file that holds {kind}")
    if header.get("format", 0) > FORMAT:
        raise ValueError(
            f"{path} has format {header['format']}, this xrdkit reads up to {FORMAT}; "
            "update xrdkit"
        )
    if header["kind"] != kind:
        raise ValueError(f"{path} holds {header['kind']}, not {kind}; give another file")
    if header.get("grid") != GRID:
        raise ValueError(
            f"{path} was trained on the Q grid {header.get('grid')}, this xrdkit uses "
            f"{GRID}; use weights of this version"
        )


def save_network(
    path: str | Path, model: Network, kind: str, facts: Mapping[str, Any]
) -> Path:
    """Weights in bf16 with the network's sizes and facts (data, steps, figures).

    ``kind`` is what it was trained for, "flow", "diffusion", "pretrain", "cell" …
    """
    weights = {k: v.to(torch.bfloat16) for k, v in model.state_dict().items()}
    return write_tensors(path, kind, weights, {**facts, "size": asdict(model.size)})


def load_network(
    path: str | Path, kind: str, device: torch.device | str = "cpu"
) -> Network:
    """A network from a file of ``save_network``, ready to use, with its ``facts``."""
    weights, header = read_tensors(path, kind)
    model = network_of(kind, header, weights, path)
    model.facts = header
    return model.eval().to(device)


def new_network(kind: str, size: Size | None) -> Network:
    """A network of a kind with weights at random."""
    return NETWORKS.get(kind, PatternNet)(size)


def start_network(path: str | Path, kind: str, size: Size | None = None) -> Network:
    """A network to go on training from weights of its kind, or of one that shares parts.

    Of another kind in SHARING the encoder and all else that fits is taken: generators
    begin from each other, pretraining from a generator, a CellNet from an encoder. The rest
    is at random.
    """
    source = kind_of(path)
    if source in (None, kind):
        return load_network(path, kind).train()
    if not {source, kind} <= set(SHARING):
        raise ValueError(
            f"{path} holds {source}, from which {kind} cannot begin; give weights of "
            f"{kind}, or none"
        )
    other = load_network(path, source)
    if size is None and kind not in (PAIRS, CELLS):
        size = other.size
    model = new_network(kind, size)
    part, given = (m.net if isinstance(m, PairNet) else m for m in (model, other))
    own = part.state_dict()
    fits = {k: v for k, v in given.state_dict().items() if k in own}
    fits = {k: v for k, v in fits.items() if v.shape == own[k].shape}
    if any(k.startswith("encoder") and k not in fits for k in own):
        raise ValueError(
            f"{path} holds {source} of {other.size}, with another encoder than {kind} of "
            f"{model.size}; ask for the same encoder and pattern, or for no size"
        )
    part.load_state_dict(fits, strict=False)
    return model.train()


def size_of(header: Mapping[str, Any], path: str | Path) -> Size:
    """The sizes that a file says its network has."""
    try:
        return Size(**header["size"])
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"{path} says nothing usable of its network ({error}); give other weights"
        ) from error


def network_of(
    kind: str, header: Mapping[str, Any], weights: Mapping[str, Tensor], path: str | Path
) -> Network:
    """A network of the sizes in a header with these weights, in single precision.

    Nothing is set up before sizes and weights are seen to agree: a false header must not
    take the machine's memory.
    """
    with torch.device("meta"):
        model = new_network(kind, size_of(header, path))
    own = model.state_dict()
    wrong = [k for k in own if k not in weights or weights[k].shape != own[k].shape]
    if wrong or len(own) != len(weights):
        raise ValueError(
            f"{path} does not fit the network: {len(weights)} tensors for {len(own)}, "
            f"{len(wrong)} of them other; give weights of the same sizes"
        )
    whole = {k: v.to(own[k].dtype) for k, v in weights.items()}
    model.load_state_dict(whole, assign=True)
    return model
