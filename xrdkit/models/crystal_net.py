"""CSPNet on dense blocks: crystals of equally many atoms, seen with their pattern.

Jiao et al., "Crystal structure prediction by joint equivariant diffusion", NeurIPS 2023:
every atom hears every other through the Fourier features of their fractional displacement
and the cell. Only displacements enter, so outputs do not change with the origin, and those
of atoms go with their order.
"""

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional

from xrdkit.models.encoder import ENCODERS, Seen
from xrdkit.models.lattice import decoded, metric_of

ELEMENTS = 100
SHELLS, FARTHEST = 16, 6.0  # Gaussians of the distance, up to so many Å


@dataclass(frozen=True)
class Size:
    """The sizes of a network, stored with its weights."""

    atom: int = 384  # width of atom features
    edge: int = 160  # width of messages
    layers: int = 6
    waves: int = 24  # Fourier features: frequencies along each axis
    pattern: int = 192  # width of the encoder
    heads: int = 4
    attention: int = 192  # width of the attention to the pattern
    encoder: str = "cnn"  # or "patches", "peaks"

    def __post_init__(self) -> None:
        if self.encoder not in ENCODERS:
            raise ValueError(
                f"encoder {self.encoder!r} is none of {', '.join(ENCODERS)}; give one"
            )
        sizes = [v for k, v in vars(self).items() if k != "encoder"]
        wrong = min(sizes) < 1 or max(sizes) > 4096 or self.layers > 64
        if wrong or self.attention % self.heads or self.pattern % 32:
            raise ValueError(
                f"{self} is no network: sizes are 1–4096, at most 64 layers, attention a "
                "multiple of heads, pattern of 32"
            )


class Output(NamedTuple):
    """What the network says of each crystal."""

    atoms: Float[Tensor, "crystals atoms 3"]
    cell: Float[Tensor, "crystals 6"]
    embedding: Float[Tensor, "crystals width"]


def waves(x: Float[Tensor, "*shape"], count: int) -> Float[Tensor, "*shape twice"]:
    """sin and cos of 2π k x for k = 1 … count, the higher the weaker: times 2 / k.

    So a network begins smooth and learns twice as fast as from waves of equal height.
    """
    k = torch.arange(1, count + 1, device=x.device)
    phase = 2 * math.pi * x[..., None] * k
    return torch.cat([phase.sin(), phase.cos()], -1) * (2 / torch.cat([k, k]))


def edge_features(
    frac: Float[Tensor, "crystals atoms 3"],
    metric: Float[Tensor, "crystals 3 3"],
    count: int,
) -> Float[Tensor, "crystals atoms atoms features"]:
    """Fourier features of x_j - x_i, and Gaussians of the distance to the nearest image."""
    apart = frac[:, None] - frac[:, :, None]
    near = apart - apart.round()
    square = ((near @ metric[:, None]) * near).sum(-1, keepdim=True)
    centres = torch.linspace(0, FARTHEST, SHELLS, device=frac.device)
    distance = square.clamp(min=0).sqrt() - centres
    shells = torch.exp(-(distance * (SHELLS / FARTHEST)).square() / 2)
    return torch.cat([waves(near, count).flatten(-2), shells], -1)


class _Layer(nn.Module):
    """Messages between all atoms, then a look at the pattern.

    The first edge layer is that of CSPNet taken apart, so that what belongs to atoms and
    cells is worked out once for each; in addition they scale the Fourier features, which
    turns phases and lets small sets be learned in two thirds of the steps.
    """

    def __init__(self, size: Size, features: int, whole: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(size.atom)
        self.whole = nn.Linear(whole, size.atom)
        self.ends = nn.Linear(size.atom, 3 * size.edge)
        self.cell = nn.Linear(whole, 2 * size.edge)
        self.apart = nn.Linear(features, size.edge, bias=False)
        self.edge = nn.Linear(size.edge, size.edge)
        self.atom = nn.Sequential(
            nn.Linear(size.atom + size.edge, size.atom),
            nn.SiLU(),
            nn.Linear(size.atom, size.atom),
        )
        self.heads = size.heads
        self.ask_norm = nn.LayerNorm(size.atom)
        self.ask = nn.Linear(size.atom, size.attention)
        self.answer = nn.Linear(size.attention, size.atom)

    def forward(self, h: Tensor, features: Tensor, whole: Tensor, told: Tensor) -> Tensor:
        x = self.norm(h) + self.whole(whole)[:, None]
        here, there, gate = self.ends(x).chunk(3, -1)
        cell, turn = self.cell(whole)[:, None].chunk(2, -1)
        edges = self.apart(features)  # (crystals, atoms, atoms, edge)
        edges = torch.addcmul(
            (here + cell)[:, :, None], edges, (1 + gate + turn)[:, :, None]
        )
        edges += there[:, None]
        heard = functional.silu(self.edge(functional.silu(edges))).mean(2)
        h = h + self.atom(torch.cat([x, heard], -1))
        return h + self.answer(self._look(self.ask_norm(h), told))

    def _look(self, h: Tensor, told: Tensor) -> Tensor:
        """Attention of atoms to the pattern: a few tokens, plain products are fastest."""
        ask = self.ask(h).unflatten(-1, (self.heads, -1)).transpose(1, 2)
        key, value = told.chunk(2, -1)  # (crystals, heads, tokens, width of a head)
        share = (ask @ key.mT / math.sqrt(ask.shape[-1])).softmax(-1).to(value.dtype)
        return (share @ value).transpose(1, 2).flatten(-2)


class CrystalNet(nn.Module):
    """Atoms, a (noisy) cell, times and a pattern -> per atom, per crystal, embedding."""

    def __init__(self, size: Size) -> None:
        super().__init__()
        self.size = size
        features = 6 * size.waves + SHELLS
        clock = 16
        self.element = nn.Embedding(ELEMENTS, size.atom)
        whole = size.pattern
        self.whole = nn.Sequential(
            nn.Linear(size.atom + size.pattern + 4 * clock + 6 + 9 + 1, 2 * whole),
            nn.SiLU(),
            nn.Linear(2 * whole, whole),
            nn.SiLU(),
        )
        self.clock = clock
        self.tell = nn.Linear(size.pattern, 2 * size.attention)
        self.layers = nn.ModuleList(
            _Layer(size, features, whole) for _ in range(size.layers)
        )
        self.norm = nn.LayerNorm(size.atom)
        self.atoms = nn.Linear(size.atom, 3)
        self.cell = nn.Sequential(
            nn.Linear(size.atom + whole + size.pattern, size.atom),
            nn.SiLU(),
            nn.Linear(size.atom, 6),
        )

    def forward(
        self,
        numbers: Int[Tensor, "crystals atoms"],
        frac: Float[Tensor, "crystals atoms 3"],
        y: Float[Tensor, "crystals 6"],
        times: Float[Tensor, "crystals 2"],
        seen: Seen,
    ) -> Output:
        """``y`` is the cell as ``lattice.encoded``; ``times`` those of atoms and cell."""
        count = numbers.shape[1]
        metric = metric_of(decoded(y, count))
        with torch.autocast(y.device.type, enabled=False):  # distances keep their digits
            features = edge_features(frac, metric, self.size.waves)
        h = self.element(numbers)
        scaled = metric.flatten(1) / (16 * count ** (2 / 3))
        parts = [
            h.mean(1),
            seen.embedding,
            waves(times / 4, self.clock).flatten(1),
            y,
            scaled,
            torch.full_like(y[:, :1], math.log(count)),
        ]
        whole = self.whole(torch.cat([p.to(y.dtype) for p in parts], -1))
        if torch.is_autocast_enabled(y.device.type):
            features = features.to(torch.get_autocast_dtype(y.device.type))
        told = self.tell(seen.tokens).unflatten(-1, (self.size.heads, -1)).transpose(1, 2)
        for layer in self.layers:
            h = layer(h, features, whole, told)
        h = self.norm(h)
        pooled = h.mean(1)
        atoms = self.atoms(h).float()
        cell = self.cell(torch.cat([pooled, whole, seen.embedding.to(whole)], -1)).float()
        return Output(atoms - atoms.mean(1, keepdim=True), cell, pooled)


class PatternNet(nn.Module):
    """An encoder and a crystal network, trained together: what generators sample from."""

    def __init__(self, size: Size | None = None) -> None:
        super().__init__()
        self.size = size or Size()
        self.facts: dict[str, Any] = {}  # of its training, where it comes from a file
        self.encoder = ENCODERS[self.size.encoder](self.size.pattern)
        self.net = CrystalNet(self.size)

    def forward(
        self,
        numbers: Int[Tensor, "crystals atoms"],
        frac: Float[Tensor, "crystals atoms 3"],
        y: Float[Tensor, "crystals 6"],
        times: Float[Tensor, "crystals 2"],
        seen: Seen,
    ) -> Output:
        """What ``CrystalNet`` says, of patterns as ``encoder`` saw them."""
        return self.net(numbers, frac, y, times, seen)
