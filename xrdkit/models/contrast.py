"""Patterns and crystals in one space: contrastive pretraining, as XtalNet's CPCP.

The encoder embeds the pattern, the crystal network the crystal; trained together, those
that belong together are near (symmetric InfoNCE: Radford et al., "Learning transferable
visual models from natural language supervision", ICML 2021). Where memory is short, a step
still takes as many crystals as fit into it as vectors: gradients are those of one batch,
worked out block by block (Gao et al., "Scaling deep contrastive learning batch size under
memory limited setup", RepL4NLP 2021).
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional

from xrdkit.models.crystal_net import PatternNet, Size
from xrdkit.models.encoder import Seen
from xrdkit.models.lattice import encoded
from xrdkit.types import Batch

SIZE = Size(layers=2)
WIDTH = 192  # of the common space
SHARP, SHARPEST = 10.0, 100.0  # factor of the cosines, at first and at most


class Pairs(NamedTuple):
    """Unit vectors of patterns and of their crystals."""

    patterns: Float[Tensor, "crystals width"]
    crystals: Float[Tensor, "crystals width"]


class PairNet(nn.Module):
    """Encoder and crystal network of a generator, with a common space behind them."""

    def __init__(self, size: Size | None = None) -> None:
        super().__init__()
        self.size = size or SIZE
        self.net = PatternNet(self.size)
        self.facts: dict[str, Any] = {}  # of its training, where it comes from a file
        self.pattern = nn.Linear(self.size.pattern, WIDTH)
        self.crystal = nn.Linear(self.size.atom, WIDTH)
        self.sharp = nn.Parameter(torch.tensor(math.log(SHARP)))

    def patterns(
        self, profile: Float[Tensor, "patterns 2 1024"]
    ) -> Float[Tensor, "patterns width"]:
        """Unit vectors of patterns on the Q grid."""
        vectors = self.pattern(self.net.encoder(profile).embedding)
        return functional.normalize(vectors.float(), dim=-1)

    def crystals(
        self,
        numbers: Int[Tensor, "crystals atoms"],
        frac: Float[Tensor, "crystals atoms 3"],
        cell: Float[Tensor, "crystals 6"],
    ) -> Float[Tensor, "crystals width"]:
        """Unit vectors of crystals in Niggli cells (Å, °), seen without a pattern."""
        count, width = len(numbers), self.size.pattern
        unseen = Seen(frac.new_zeros(count, 1, width), frac.new_zeros(count, width))
        clean = frac.new_ones(count, 2)
        y = encoded(cell, numbers.shape[1])
        pooled = self.net(numbers, frac, y, clean, unseen).embedding
        return functional.normalize(self.crystal(pooled).float(), dim=-1)

    def forward(self, batch: Batch) -> Pairs:
        """Both sides of crystals of equally many atoms."""
        patterns = self.patterns(batch.profile)
        return Pairs(patterns, self.crystals(batch.numbers, batch.frac, batch.cell))


def info_nce(pairs: Pairs, sharp: Float[Tensor, ""]) -> Float[Tensor, ""]:
    """Symmetric cross entropy of finding each other by sharpened cosine; 0 is perfect."""
    with torch.autocast(pairs.patterns.device.type, enabled=False):
        cosines = pairs.patterns @ pairs.crystals.T
    logits = sharp.exp().clamp(max=SHARPEST) * cosines
    own = torch.arange(len(logits), device=logits.device)
    by_pattern = functional.cross_entropy(logits, own)
    return (by_pattern + functional.cross_entropy(logits.T, own)) / 2


def backward(
    model: PairNet,
    blocks: Sequence[Callable[[], Batch]],
    *,
    weight: float | int = 1,
    frugal: bool = False,
) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
    """Add ``weight`` times the gradient of ``info_nce``; the loss, and the top-1 share.

    ``frugal``: each block is embedded twice, once for the loss and once for its own
    gradient, so that memory is that of the largest block, in four thirds of the time.
    """
    with torch.set_grad_enabled(not frugal):
        parts = [model(block()) for block in blocks]
    joined = (torch.cat(side) for side in zip(*parts, strict=True))
    whole = Pairs(*(s.detach().requires_grad_() if frugal else s for s in joined))
    loss = info_nce(whole, model.sharp)
    (weight * loss).backward()
    if frugal:
        sizes = [len(part.patterns) for part in parts]
        gradients = [side.grad.split(sizes) for side in whole]
        for i, block in enumerate(blocks):
            pulls = zip(model(block()), gradients, strict=True)
            sum((side * pull[i]).sum() for side, pull in pulls).backward()
    with torch.no_grad():
        nearest = (whole.patterns @ whole.crystals.T).argmax(1).cpu()
    right = (nearest == torch.arange(len(nearest))).float().mean()
    return loss.detach(), right
