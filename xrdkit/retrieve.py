"""Nearest known structures by embedding: a table indexed once, searched by pattern.

Both sides come from one pretrained network (``models.contrast``): the pattern's vector is
held against those of the crystals themselves, not of their patterns.
"""

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from xrdkit.models.checkpoint import read_tensors, write_tensors
from xrdkit.models.contrast import PairNet
from xrdkit.models.crystal_net import ELEMENTS
from xrdkit.packed import Packed
from xrdkit.q_profile import profile_of
from xrdkit.train.data import taken
from xrdkit.train.pairs import crystal_vectors, pattern_vectors
from xrdkit.types import Pattern, Progress

KIND = "index"
AT_ONCE = 1024  # structures between two reports of progress


@dataclass(frozen=True)
class Index:
    """Structures by name: unit vectors of one network, and which elements they hold."""

    ids: tuple[str, ...]
    vectors: Float[Tensor, "structures width"]
    elements: Bool[Tensor, "structures 100"]
    network: str  # mark of the weights that made it

    def __len__(self) -> int:
        return len(self.ids)


def mark_of(model: PairNet) -> str:
    """A mark that networks with other weights do not share."""
    import hashlib

    weights = hashlib.sha256()
    for name, value in sorted(model.state_dict().items()):
        weights.update(name.encode() + value.detach().cpu().float().numpy().tobytes())
    return weights.hexdigest()


def index_steps(model: PairNet, data: Packed) -> Iterator[Progress]:
    """Yield progress; return the Index of packed structures."""
    parts = []
    for some in torch.arange(len(data)).split(AT_ONCE):
        yield Progress("index", int(some[0]), len(data))
        parts.append(crystal_vectors(model, taken(data, some)).cpu())
    crystals = data.crystals
    elements = torch.zeros(len(data), ELEMENTS, dtype=torch.bool)
    elements[crystals.owner.cpu(), crystals.numbers.cpu()] = True
    return Index(data.ids, torch.cat(parts), elements, mark_of(model))


def search(
    index: Index,
    model: PairNet,
    pattern: Pattern,
    *,
    elements: Collection[int] | None = None,
    count: int = 10,
) -> list[tuple[str, float]]:
    """Names of the nearest structures and their cosines to a prepared pattern, best first.

    With ``elements`` (atomic numbers) only structures of exactly these.
    """
    if index.network != mark_of(model):
        raise ValueError(
            "this index was made with other weights; make it again with those in use"
        )
    vector = pattern_vectors(model, profile_of(pattern)[None])[0].cpu()
    similarity = index.vectors @ vector
    if elements is not None:
        similarity = similarity.masked_fill(~holding(index, elements), -torch.inf)
    best = similarity.topk(min(count, len(index)))
    pairs = zip(best.values.tolist(), best.indices.tolist(), strict=True)
    return [(index.ids[i], value) for value, i in pairs if value > -torch.inf]


def holding(index: Index, elements: Collection[int]) -> Bool[Tensor, " structures"]:
    """Which structures consist of exactly these elements."""
    wrong = [z for z in elements if not 1 <= z < ELEMENTS]
    if wrong or not elements:
        raise ValueError(
            f"atomic numbers {sorted(elements)} are not one or more of 1–{ELEMENTS - 1}"
        )
    asked = torch.zeros(ELEMENTS, dtype=torch.bool)
    asked[list(elements)] = True
    return (index.elements == asked).all(1)


def save_index(index: Index, path: str | Path) -> Path:
    """Write an index, half precision."""
    names = torch.tensor(list("\n".join(index.ids).encode()), dtype=torch.uint8)
    tensors = {
        "names": names,
        "vectors": index.vectors.half(),
        "elements": index.elements,
    }
    return write_tensors(path, KIND, tensors, {"network": index.network})


def load_index(path: str | Path) -> Index:
    """Read what ``save_index`` wrote."""
    tensors, header = read_tensors(path, KIND)
    ids = tuple(bytes(tensors["names"].tolist()).decode().split("\n"))
    vectors = torch.nn.functional.normalize(tensors["vectors"].float(), dim=-1)
    if not len(ids) == len(vectors) == len(tensors["elements"]):
        raise ValueError(
            f"{path} has {len(ids)} names for {len(vectors)} vectors; make it again"
        )
    return Index(ids, vectors, tensors["elements"].bool(), header["network"])
