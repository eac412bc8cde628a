"""Encoders: a pattern on the Q grid -> tokens and one embedding, one interface for all."""

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from xrdkit.q_profile import POINTS

PATCH = 16  # points of a token of PatchEncoder
PEAKS, WEAKEST = 64, 0.05  # tokens of PeakEncoder, and the least √intensity of one
GROWTH = 24  # channels that each convolution of DenseEncoder adds
PLACES = 8  # octaves in which the place of a peak is given


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


def _transformer(width: int, layers: int) -> nn.TransformerEncoder:
    layer = nn.TransformerEncoderLayer(
        width,
        4,
        4 * width,
        dropout=0.0,
        activation="gelu",
        batch_first=True,
        norm_first=True,
    )
    return nn.TransformerEncoder(layer, layers, nn.LayerNorm(width), False)


class PatchEncoder(nn.Module):
    """A transformer over patches of 16 points, as PXRDGen's XRDEncoder-T; 64 tokens."""

    def __init__(self, width: int = 192, layers: int = 4) -> None:
        super().__init__()
        self.patch = nn.Linear(2 * PATCH, width)
        self.place = nn.Parameter(0.1 * torch.randn(POINTS // PATCH, width))
        self.body = _transformer(width, layers)
        self.embed = nn.Linear(width, width)

    def forward(self, profile: Float[Tensor, "patterns 2 1024"]) -> Seen:
        """Tokens (64) and embedding, their mean, of patterns."""
        patches = profile.unflatten(-1, (-1, PATCH)).transpose(1, 2).flatten(2)
        tokens = self.body(self.patch(patches) + self.place)
        return Seen(tokens, self.embed(tokens.mean(1)))


def peaks_of(
    profile: Float[Tensor, "patterns 2 1024"],
) -> Float[Tensor, "patterns 64 3"]:
    """The highest local maxima: place (0 to 1 along the grid), √intensity, curvature.

    Rows without a peak are zero. The place is that of the parabola through three points.
    """
    y = profile[:, 0]
    left, top, right = y[:, :-2], y[:, 1:-1], y[:, 2:]
    height = torch.where((top > left) & (top >= right) & (top > WEAKEST), top, 0)
    best, index = height.topk(PEAKS, dim=1)
    a, b, c = (part.gather(1, index) for part in (left, top, right))
    bend = (2 * b - a - c).clamp(min=1e-6)
    place = (index + 1 + (c - a) / (2 * bend)) / POINTS
    found = torch.stack([place, best, bend], -1)
    return found * (best > 0)[..., None]


class PeakEncoder(nn.Module):
    """A transformer over peaks behind a [CLS] token, as XtalNet's; 65 tokens.

    XtalNet's tokens are numbers of grid points; here the place in Q is continuous, and
    [CLS] is told which part of the grid was observed.
    """

    def __init__(self, width: int = 192, layers: int = 4) -> None:
        super().__init__()
        self.peak = nn.Sequential(
            nn.Linear(2 * PLACES + 3, width), nn.SiLU(), nn.Linear(width, width)
        )
        self.first = nn.Linear(POINTS // PATCH, width)
        self.body = _transformer(width, layers)
        self.embed = nn.Linear(width, width)

    def forward(self, profile: Float[Tensor, "patterns 2 1024"]) -> Seen:
        """Tokens (64 and [CLS]) and embedding, that of [CLS], of patterns."""
        peaks = peaks_of(profile)
        phase = peaks[..., :1] * (torch.pi * 2 ** torch.arange(PLACES, device=peaks.device))
        tokens = self.peak(torch.cat([peaks, phase.sin(), phase.cos()], -1))
        observed = profile[:, 1].unflatten(-1, (-1, PATCH)).mean(-1)
        tokens = torch.cat([self.first(observed)[:, None].to(tokens), tokens], 1)
        absent = torch.nn.functional.pad(peaks[..., 1] == 0, (1, 0))
        tokens = self.body(tokens, src_key_padding_mask=absent)
        tokens = tokens * ~absent[..., None]
        return Seen(tokens, self.embed(tokens[:, 0]))


class _Dense(nn.Module):
    """Convolutions that each add channels to all before them, then half the points."""

    def __init__(self, width: int, layers: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            nn.Sequential(
                nn.GroupNorm(8, width + i * GROWTH),
                nn.ReLU(),
                nn.Conv1d(width + i * GROWTH, GROWTH, 3, padding=1),
            )
            for i in range(layers)
        )
        self.out = nn.Conv1d(width + layers * GROWTH, width, 2, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = torch.cat([x, layer(x)], 1)
        return self.out(x)


class DenseEncoder(nn.Module):
    """A DenseNet, as CrystalNet's: windows of 16 points every 8, three dense blocks.

    Huang et al., "Densely connected convolutional networks", 2017. Features alone.
    """

    def __init__(self, width: int, channels: int = 64, thin: int = 32) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv1d(2, channels, 16, stride=8, padding=4),
            *(_Dense(channels, 3) for _ in range(3)),
            nn.GroupNorm(8, channels),
            nn.ReLU(),
            nn.Conv1d(channels, thin, 1),
        )
        self.out = nn.Linear(thin * POINTS // 64, width)

    def forward(self, profile: Float[Tensor, "crystals 2 1024"]) -> Tensor:
        """Features of patterns."""
        return self.out(functional.relu(self.body(profile).flatten(1)))


ENCODERS = {"cnn": CnnEncoder, "patches": PatchEncoder, "peaks": PeakEncoder}
