"""Nearest known structures by embedding: a table indexed once, searched by pattern.

Both sides come from one pretrained network (``models.contrast``): the pattern's vector is
held against those of the crystals themselves, not of their patterns.
"""

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor
from torch.nn.functional import normalize

from xrdkit.models.checkpoint import PAIRS, read_tensors, write_tensors
from xrdkit.models.contrast import WIDTH, PairNet
from xrdkit.models.crystal_net import ELEMENTS
from xrdkit.models.weights import default, load_model
from xrdkit.packed import Packed
from xrdkit.q_profile import profile_of
from xrdkit.train.data import taken
from xrdkit.train.pairs import crystal_vectors, pattern_vectors
from xrdkit.types import Pattern, Progress

KIND = "index"
AT_ONCE = 1024  # structures between two reports of progress


class Neighbour(NamedTuple):
    """A structure that an index holds, and the cosine between it and a pattern."""

    id: str
    formula: str
    cosine: float


@dataclass(frozen=True)
class Index:
    """Structures by name: unit vectors of one network, and which elements they hold."""

    ids: tuple[str, ...]
    formulas: tuple[str, ...]  # reduced
    vectors: Float[Tensor, "structures width"]
    elements: Bool[Tensor, "structures 100"]
    network: str  # mark of the weights that made it

    def __len__(self) -> int:
        return len(self.ids)


def network(weights: str | Path | None = None) -> PairNet:
    """The pretrained network of a name, file or address, or the one that ships."""
    return load_model(weights or default(PAIRS), PAIRS)


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
    counts = crystals.counts.tolist()
    formulas = tuple(map(_formula, crystals.numbers.cpu().split(counts)))
    return Index(data.ids, formulas, torch.cat(parts), elements, mark_of(model))


def _formula(numbers: Int[Tensor, " atoms"]) -> str:
    """The reduced formula of atoms."""
    from pymatgen.core import Composition, Element

    kinds, counts = numbers.unique(return_counts=True)
    elements = map(Element.from_Z, kinds.tolist())
    return Composition(dict(zip(elements, counts.tolist(), strict=True))).reduced_formula


def search(
    index: Index,
    model: PairNet,
    pattern: Pattern,
    *,
    elements: Collection[int] | None = None,
    count: int = 10,
) -> list[Neighbour]:
    """The structures nearest to a prepared pattern, best first.

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
    return [
        Neighbour(index.ids[i], index.formulas[i], value)
        for value, i in pairs
        if value > -torch.inf
    ]


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
    tensors = {
        "names": _letters(index.ids),
        "formulas": _letters(index.formulas),
        "vectors": index.vectors.half(),
        "elements": index.elements,
    }
    return write_tensors(path, KIND, tensors, {"network": index.network})


def _letters(words: tuple[str, ...]) -> UInt8[Tensor, " letters"]:
    """Words as bytes, one a line."""
    return torch.tensor(list("\n".join(words).encode()), dtype=torch.uint8)


def load_index(path: str | Path) -> Index:
    """Read what ``save_index`` wrote."""
    tensors, header = read_tensors(path, KIND)
    try:
        ids, formulas = (_words(tensors[key]) for key in ("names", "formulas"))
        vectors, elements = tensors["vectors"].float(), tensors["elements"].bool()
        mark = str(header["network"])
    except (KeyError, ValueError, TypeError) as error:
        raise ValueError(
            f"{path} lacks parts of an index ({error}); make it again"
        ) from error
    shapes = (len(ids), WIDTH), (len(ids), ELEMENTS)
    if len(ids) != len(formulas) or (vectors.shape, elements.shape) != shapes:
        raise ValueError(
            f"{path} has {len(ids)} names for {len(formulas)} formulas and vectors of "
            f"shape {tuple(vectors.shape)}; make it again"
        )
    return Index(ids, formulas, normalize(vectors, dim=-1), elements, mark)


def _words(letters: UInt8[Tensor, " letters"]) -> tuple[str, ...]:
    """What ``_letters`` made bytes of."""
    return tuple(bytes(letters.tolist()).decode().split("\n"))
