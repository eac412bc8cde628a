"""Encoders: a pattern on the Q grid -> tokens and one embedding, one interface for all."""

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from xrdkit.q_profile import POINTS


class Seen(NamedTuple):
    """What an encoder makes of patterns."""

    tokens: Float[Tensor, "patterns tokens width"]
    embedding: Float[Tensor, "patterns width"]

    def repeat(self, times: int) -> "Seen":
        """Each pattern ``times`` over, its copies together."""
        return Seen(*(part.repeat_interleave(times, 0) for part in self))


class _Block(nn.Module):
    """Convolutions over three neighbours, added to what goes in."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(8, width)
        self.first = nn.Conv1d(width, width, 3, padding=1)
        self.second = nn.Conv1d(width, width, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.second(functional.silu(self.first(self.norm(x))))


class CnnEncoder(nn.Module):
    """Residual convolutions; 1,024 points become 32 tokens, each with its place.

    As PXRDGen's XRDEncoder-CNN, nine convolutions whose features together are the
    embedding; here they are the tokens as well. The first one takes windows of 32 points.
    """

    def __init__(self, width: int = 192, thin: int = 48) -> None:
        super().__init__()
        middle = 3 * width // 4
        self.body = nn.Sequential(
            nn.Conv1d(2, middle, 32, stride=16, padding=8),
            _Block(middle),
            nn.Conv1d(middle, width, 4, stride=2, padding=1),
            _Block(width),
            _Block(width),
        )
        tokens = POINTS // 32
        self.place = nn.Parameter(0.1 * torch.randn(tokens, width))
        self.norm = nn.LayerNorm(width)
        self.thin = nn.Linear(width, thin)
        self.embed = nn.Linear(tokens * thin, width)

    def forward(self, profile: Float[Tensor, "patterns 2 1024"]) -> Seen:
        """Tokens (32) and embedding of patterns."""
        tokens = self.norm(self.body(profile).mT + self.place)
        return Seen(tokens, self.embed(functional.silu(self.thin(tokens)).flatten(1)))
