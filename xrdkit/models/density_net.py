"""DensityNet: a pattern, and what is known of the elements -> an electron density anywhere.

Guo et al., "Towards end-to-end structure determination from X-ray diffraction data using
deep learning", npj Comput. Mater. 10, 209 (2024) (CrystalNet): variational encoders of the
pattern and of the formula, fused; a field that is asked at fractional coordinates, by
Fourier features, feature-wise modulation (FiLM) and a regressor with skips. Otherwise than
there, frequencies are random integers h, so that the field has the period of the cell
exactly; it begins with a few Fourier syntheses whose coefficients the pattern gives;
every layer is modulated; and the cell is answered as well, for ``TYPICAL`` atoms
(``lattice.encoded``), so that a density can become a structure. The target is the
promolecule density in the one description of each crystal (``xrdkit.canonical``).
"""

import math
from collections.abc import Sequence
from functools import cache
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional

from xrdkit.density import POINTS as GRID
from xrdkit.density import on_grid
from xrdkit.models.cell_net import TYPICAL
from xrdkit.models.crystal_net import ELEMENTS, Size
from xrdkit.models.encoder import DenseEncoder
from xrdkit.models.generate import flat
from xrdkit.models.lattice import decoded, encoded
from xrdkit.types import Batch

SIZE = Size(atom=256, edge=256, layers=3, waves=192, pattern=192)
SERIES = 4  # Fourier syntheses that begin the field
SPREAD, HIGHEST = 3.5, 14  # of the frequencies h along each axis
LEVELS = {"full": 0.5, "elements": 0.2, "dropped": 0.15, "none": 0.15}  # and their shares
BINS, FINE = 6, 4  # asked in training: a random one of FINE³ points in each of BINS³ boxes
KL, CELL = 0.002, 0.2  # weights beside the density
AT_ONCE = 32_768  # points of all crystals that are asked at once
NARROW = -2.0  # ln of the standard deviations with which training begins


class Loss(NamedTuple):
    """All of it; |ρ - ρ'| over the mean density; divergence; square error of the cell."""

    loss: Float[Tensor, ""]
    density: Float[Tensor, ""]
    kl: Float[Tensor, ""]
    cell: Float[Tensor, ""]


class Latent(NamedTuple):
    """Normal distributions of what is seen of pattern and formula, side by side."""

    mean: Float[Tensor, "crystals width"]
    log_sd: Float[Tensor, "crystals width"]


@cache
def frequencies(count: int) -> Float[Tensor, "count 3"]:
    """Integers h k l, one of each and its opposite: the lowest, and others at random."""
    h = torch.arange(-HIGHEST, HIGHEST + 1, device="cpu")
    every = torch.cartesian_prod(h, h, h)
    code = (every[:, 0] * (2 * HIGHEST + 1) + every[:, 1]) * (2 * HIGHEST + 1)
    half = every[code + every[:, 2] > 0].float()
    generator = torch.Generator().manual_seed(0)
    draw = torch.rand(len(half), generator=generator, device="cpu").log()
    square = half.square().sum(-1)
    chance = draw / torch.exp(-square / (2 * SPREAD**2))  # the highest k: drawn by weights
    chance = torch.where(square <= 6, square / 1e3, chance)
    return half[chance.topk(count).indices]


def formula_of(
    numbers: Int[Tensor, "crystals atoms"],
    levels: Sequence[str] | None = None,
    generator: torch.Generator | None = None,
) -> Float[Tensor, "crystals known"]:
    """Fractions of elements, and whether ratios are known and elements are complete.

    Levels are "full", "elements" (ratios unknown: every element is 1), "dropped" (one of
    several elements, that of an atom at random, is left out) and "none".
    """
    count, atoms = numbers.shape
    shares = torch.zeros(count, ELEMENTS, device=numbers.device)
    shares.scatter_add_(1, numbers, torch.full_like(numbers, 1, dtype=shares.dtype))
    shares = shares / atoms
    level = levels or ["full"] * count
    full, there, some = (
        shares.new_tensor([name in kinds for name in level])[:, None]
        for kinds in (("full",), ("full", "elements"), ("full", "elements", "dropped"))
    )
    present = (shares > 0).to(shares)
    several = present.sum(1, keepdim=True) > 1
    atom = torch.randint(atoms, (count, 1), generator=generator).to(numbers.device)
    lost = functional.one_hot(numbers.gather(1, atom)[:, 0], ELEMENTS)
    absent = lost * several * (1 - there)
    known = torch.where(full > 0, shares, present * some * (1 - absent))
    return torch.cat([known, full, there], 1)


class _Layer(nn.Module):
    """A modulated layer, added to what goes in."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first = nn.Linear(width, width)
        self.second = nn.Linear(width, width)

    def forward(self, h: Tensor, gain: Tensor, bias: Tensor) -> Tensor:
        return h + self.second(functional.relu(torch.addcmul(bias, gain, self.first(h))))


class DensityNet(nn.Module):
    """Pattern and formula -> a distribution; a draw of it -> a cell, and a density."""

    def __init__(self, size: Size | None = None) -> None:
        super().__init__()
        self.size = size = size or SIZE
        self.facts: dict[str, Any] = {}  # of its training, where it comes from a file
        width, told = size.atom, size.edge
        self.register_buffer("frequencies", frequencies(size.waves))
        self.pattern = DenseEncoder(2 * size.pattern)
        self.formula = nn.Sequential(
            nn.Linear(ELEMENTS + 2, told), nn.ReLU(), nn.Linear(told, size.pattern)
        )
        self.fuse = nn.Sequential(
            nn.Linear(3 * size.pattern // 2, told),
            nn.ReLU(),
            nn.Linear(told, told),
            nn.ReLU(),
        )
        self.cell = nn.Linear(told, 6)
        self.level = nn.Linear(told, 1)
        self.series = nn.Linear(told, SERIES * 2 * size.waves)
        self.begin = nn.Linear(2 * size.waves, width)
        self.join = nn.Linear(SERIES, width)
        self.film = nn.Linear(told, 2 * width * (size.layers + 1))
        self.layers = nn.ModuleList(_Layer(width) for _ in range(size.layers))
        self.out = nn.Linear(width, 1)

    def latent(
        self,
        profile: Float[Tensor, "crystals 2 1024"],
        formula: Float[Tensor, "crystals known"],
    ) -> Latent:
        """The distribution for patterns and formulas (``formula_of``)."""
        seen = [self.pattern(profile).chunk(2, 1), self.formula(formula).chunk(2, 1)]
        mean, log_sd = (torch.cat(part, 1).float() for part in zip(*seen, strict=True))
        return Latent(mean, (log_sd + NARROW).clamp(-6, 3))

    def told(self, z: Float[Tensor, "crystals width"]) -> Float[Tensor, "crystals told"]:
        """What fields and cells are made from, of draws from the distribution."""
        return self.fuse(z)

    def forward(
        self, told: Float[Tensor, "crystals told"], places: Float[Tensor, "places 3"]
    ) -> Float[Tensor, "crystals places"]:
        """Density (e/Å³) at fractional coordinates, the same ones for all crystals."""
        waves = self._waves(places)
        series = self.series(told).view(-1, 2 * self.size.waves).to(waves.dtype)
        start = (waves @ series.mT).view(len(places), len(told), SERIES).transpose(0, 1)
        film = self.film(told)[:, None].chunk(2 * self.size.layers + 2, -1)
        h = self.join(start) + film[1] + (1 + film[0]) * self.begin(waves)
        for i, layer in enumerate(self.layers):
            h = layer(h, 1 + film[2 * i + 2], film[2 * i + 3])
        field = functional.softplus(self.out(functional.relu(h))[..., 0].float())
        return field * self.level(told).float().exp()

    def _waves(self, places: Float[Tensor, "places 3"]) -> Tensor:
        """cos and sin of 2π h·x, the higher the weaker."""
        with torch.autocast(places.device.type, enabled=False):
            phase = 2 * math.pi * (places @ self.frequencies.to(places).T)
            high = self.frequencies.to(places).norm(dim=-1)
            waves = torch.cat([phase.cos(), phase.sin()], -1)
            return waves * (2 / (1 + high / SPREAD)).repeat(2)

    def cells(self, told: Float[Tensor, "crystals told"]) -> Float[Tensor, "crystals 6"]:
        """Standard primitive cells (Å, °)."""
        return decoded(self.cell(told).float(), TYPICAL)


def drawn(latent: Latent, generator: torch.Generator) -> Float[Tensor, "crystals width"]:
    """One draw of each distribution."""
    noise = torch.randn(latent.mean.shape, generator=generator).to(latent.mean)
    return latent.mean + latent.log_sd.exp() * noise


def field(
    model: DensityNet, told: Float[Tensor, "crystals told"], points: int = GRID
) -> Float[Tensor, "crystals points points points"]:
    """Densities (e/Å³) at the fractional coordinates i / points."""
    axis = torch.arange(points, device=told.device) / points
    places = torch.cartesian_prod(axis, axis, axis)
    parts = [model(told, some) for some in places.split(AT_ONCE // len(told) + 1)]
    return torch.cat(parts, 1).view(-1, points, points, points)


def loss(
    model: DensityNet,
    batch: Batch,
    generator: torch.Generator,
    *,
    settings: Float[Tensor, "settings crystals 3 3"] | None = None,
) -> Loss:
    """Loss of a batch of crystals with equally many atoms, in their one description.

    What is told of the formula is drawn for each by ``LEVELS``. ``settings`` are of no use
    here: other settings would be other descriptions.
    """
    names, shares = list(LEVELS), torch.tensor(list(LEVELS.values()))
    draw = torch.multinomial(shares, len(batch.cell), True, generator=generator)
    formula = formula_of(batch.numbers, [names[i] for i in draw.tolist()], generator)
    latent = model.latent(batch.profile, formula)
    told = model.told(drawn(latent, generator))
    places, truth, mean = asked(batch, generator)
    density = ((model(told, places) - truth).abs() / mean[:, None]).mean()
    square = latent.mean.square() + (2 * latent.log_sd).exp()
    kl = (square - 1).mean() / 2 - latent.log_sd.mean()
    cell = functional.mse_loss(model.cell(told).float(), encoded(batch.cell, TYPICAL))
    return Loss(density + KL * kl + CELL * cell, density, kl, cell)


def asked(
    batch: Batch, generator: torch.Generator
) -> tuple[
    Float[Tensor, "places 3"],
    Float[Tensor, "crystals places"],
    Float[Tensor, " crystals"],
]:
    """Stratified places, the same for all crystals; densities there, and their means."""
    points, device = BINS * FINE, batch.cell.device
    shift = torch.rand(3, generator=generator) / points
    corner = FINE * torch.cartesian_prod(*[torch.arange(BINS)] * 3)
    place = corner + torch.randint(0, FINE, corner.shape, generator=generator)
    a, b, c = place.to(device).unbind(-1)
    with torch.autocast(device.type, enabled=False), torch.no_grad():
        crystals = flat(batch.numbers, batch.frac, batch.cell)
        grid = on_grid(crystals, points, shift=tuple(shift.tolist()))
    places = (place / points + shift).to(device)
    return places, grid[:, a, b, c], grid.mean((1, 2, 3))
