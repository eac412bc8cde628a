"""PXRDnet's model: crystals as points z of a latent space, and what z says of them.

Guo et al., "Ab initio structure solutions from nanocrystalline powder diffraction data via
diffusion models" (2024), on CDVAE: Xie et al., "Crystal diffusion variational autoencoder
for periodic material generation", ICLR 2022. An encoder gives z (mean and variance) of a
crystal; from z come its cell, number of atoms, composition, pattern and, by a score network
with annealed Langevin dynamics (``diffusion.sample``), coordinates in that cell.

Ours differs: ``CrystalNet`` stands for DimeNet and GemNet; elements are given, not
denoised; the regressor says the pattern of a large crystal, and the sinc² of a size is laid
on by calculation (``nanocrystal.broadened``), so that one model serves every size; it has
no batch normalisation, as starts of a search must not know of each other.
"""

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional

from xrdkit.models import diffusion
from xrdkit.models.crystal_net import ELEMENTS, CrystalNet, Output, Size
from xrdkit.models.diffusion import in_setting, noisy
from xrdkit.models.encoder import Seen
from xrdkit.models.flow import STRAIGHT, State
from xrdkit.models.lattice import decoded, encoded
from xrdkit.models.regressor import LATENT, Regressor
from xrdkit.nanocrystal import broadened, nano_grid, normalised, shown
from xrdkit.types import Batch

MOST_ATOMS = 20  # classes of the number of atoms
TOKENS = 2  # as which the score network sees z
SIZE = Size(atom=144, edge=72, layers=3, waves=16, pattern=128, attention=64)
COORDINATES, CELL, COUNT, COMPOSITION, DIVERGENCE = 10.0, 10.0, 1.0, 1.0, 0.01  # CDVAE's
PATTERN = 100.0  # of the mean over points
OFF = 0.2  # of the six numbers, at most: cells in which atoms are placed are decoded ones
SIZES, OFTEN = (10.0, 1000.0), (10.0, 100.0)  # Å: of the patterns; each of four often ones
STEPS = 30  # levels of the noise; more gain little (BENCHMARKS.md)
NARROW, WIDE = -12.0, 4.0  # of the logarithm of a variance


class Loss(NamedTuple):
    """The loss and its parts: mean square errors, cross entropies, L1 and divergence."""

    loss: Float[Tensor, ""]
    atoms: Float[Tensor, ""]
    cell: Float[Tensor, ""]
    count: Float[Tensor, ""]
    composition: Float[Tensor, ""]
    pattern: Float[Tensor, ""]
    divergence: Float[Tensor, ""]


class Latent(NamedTuple):
    """Where crystals are in the latent space: a normal distribution each."""

    mean: Float[Tensor, "crystals 256"]
    log_variance: Float[Tensor, "crystals 256"]


class LatentNet(nn.Module):
    """Encoder of crystals, decoders of z, and the score network that sees z."""

    def __init__(self, size: Size | None = None) -> None:
        super().__init__()
        self.size = size = size or SIZE
        self.facts: dict[str, Any] = {}  # of its training, where it comes from a file
        self.encoder = CrystalNet(size)
        self.where = nn.Linear(size.atom, 2 * LATENT)
        self.cell = _head(size.pattern, 6)
        self.count = nn.Linear(LATENT, MOST_ATOMS)
        self.composition = _head(size.pattern, ELEMENTS)
        self.regressor = Regressor()
        self.tokens = nn.Linear(LATENT, TOKENS * size.pattern)
        self.embed = nn.Linear(LATENT, size.pattern)
        self.score = CrystalNet(size)

    def encode(
        self,
        numbers: Int[Tensor, "crystals atoms"],
        frac: Float[Tensor, "crystals atoms 3"],
        cell: Float[Tensor, "crystals 6"],
    ) -> Latent:
        """Where crystals in Niggli cells (Å, °) are."""
        count, width = len(numbers), self.size.pattern
        unseen = Seen(frac.new_zeros(count, 1, width), frac.new_zeros(count, width))
        y, clean = encoded(cell, numbers.shape[1]), frac.new_ones(count, 2)
        pooled = self.encoder(numbers, frac, y, clean, unseen).embedding
        mean, log_variance = self.where(pooled).float().chunk(2, -1)
        return Latent(mean, log_variance.clamp(NARROW, WIDE))

    def spread(
        self,
        numbers: Int[Tensor, "starts atoms"],
        z: Float[Tensor, "starts 256"],
        generator: torch.Generator,
    ) -> Float[Tensor, "starts 256"]:
        """Standard deviation of z of crystals of these atoms.

        It hardly depends on where the atoms are: they are put at random into the cells that
        z says.
        """
        frac = torch.rand(*numbers.shape, 3, generator=generator).to(z)
        cell = decoded(self.cell(z).float(), numbers.shape[1])
        return (self.encode(numbers, frac, cell).log_variance / 2).exp()

    def pattern(
        self, z: Float[Tensor, "starts 256"], size: Float[Tensor, " #starts"]
    ) -> Float[Tensor, "starts 512"]:
        """Patterns on ``nano_grid`` of crystals of these sizes (Å)."""
        return broadened(self.regressor(z), size)

    def seen(self, z: Float[Tensor, "starts 256"]) -> Seen:
        """z as the score network sees it."""
        return Seen(self.tokens(z).unflatten(-1, (TOKENS, -1)), self.embed(z))

    def forward(
        self,
        numbers: Int[Tensor, "crystals atoms"],
        frac: Float[Tensor, "crystals atoms 3"],
        y: Float[Tensor, "crystals 6"],
        times: Float[Tensor, "crystals 2"],
        seen: Seen,
    ) -> Output:
        """The score of noisy coordinates, as ``diffusion.sample`` asks for it."""
        return self.score(numbers, frac, y, times, seen)


def _head(hidden: int, out: int) -> nn.Sequential:
    """z -> some numbers."""
    return nn.Sequential(nn.Linear(LATENT, hidden), nn.SiLU(), nn.Linear(hidden, out))


def random_sizes(crystals: int, generator: torch.Generator) -> Float[Tensor, " crystals"]:
    """Sizes in Å: 10, 100, and half of them log-uniform between 10 and 1000."""
    draw, which = torch.rand(2, crystals, generator=generator)
    low, high = map(math.log, SIZES)
    sizes = torch.exp(low + (high - low) * draw)
    for i, often in enumerate(OFTEN):
        sizes = torch.where((which * 4).long() == i, often, sizes)
    return sizes


def fractions(numbers: Int[Tensor, "crystals atoms"]) -> Float[Tensor, "crystals elements"]:
    """Shares of the elements, by atomic number."""
    return functional.one_hot(numbers, ELEMENTS).float().mean(1)


def loss(
    model: LatentNet,
    batch: Batch,
    generator: torch.Generator,
    *,
    settings: Float[Tensor, "settings crystals 3 3"] | None = None,
) -> Loss:
    """The paper's loss of crystals with equally many atoms, and their ``nano`` patterns.

    The parts are those of CDVAE with its weights, and the L1 of the pattern at some size.
    The first of ``settings`` (unimodular matrices that keep the metric) is taken.
    """
    crystals, atoms = batch.numbers.shape
    if batch.nano is None or atoms > MOST_ATOMS:
        raise ValueError(
            f"crystals of {atoms} atoms {'with' if batch.nano is not None else 'without'} "
            f"patterns of nanocrystals; give them, of up to {MOST_ATOMS} atoms"
        )
    frac, cell = in_setting(batch, settings)
    found, clean = model.encode(batch.numbers, frac, cell), encoded(cell, atoms)
    noise = torch.randn(crystals, LATENT, generator=generator).to(clean)
    z = found.mean + (found.log_variance / 2).exp() * noise
    size = random_sizes(crystals, generator).to(clean)
    class_ = torch.full_like(batch.numbers[:, 0], atoms - 1)
    parts = (
        coordinate_error(model, batch.numbers, frac, clean, z, generator),
        functional.mse_loss(model.cell(z).float(), clean),
        functional.cross_entropy(model.count(z).float(), class_),
        functional.cross_entropy(model.composition(z).float(), fractions(batch.numbers)),
        pattern_error(model, z, size, batch.nano),
        divergence(found),
    )
    weights = COORDINATES, CELL, COUNT, COMPOSITION, PATTERN, DIVERGENCE
    total = sum(w * part for w, part in zip(weights, parts, strict=True))
    return Loss(total, *parts)


def coordinate_error(
    model: LatentNet,
    numbers: Int[Tensor, "crystals atoms"],
    frac: Float[Tensor, "crystals atoms 3"],
    y: Float[Tensor, "crystals 6"],
    z: Float[Tensor, "crystals 256"],
    generator: torch.Generator,
) -> Float[Tensor, ""]:
    """Mean square error of the score in units of its size, in cells y a little off."""
    noise = torch.randn(frac.shape, generator=generator).to(frac)
    off = torch.randn(y.shape, generator=generator).to(y)
    time, far = torch.rand(2, len(y), 1, generator=generator).to(y)
    x, target = noisy(frac, time, noise)
    times = torch.cat([time, torch.ones_like(time)], 1)
    out = model(numbers, x, y + OFF * far * off, times, model.seen(z))
    return functional.mse_loss(out.atoms, target)


def pattern_error(
    model: LatentNet,
    z: Float[Tensor, "crystals 256"],
    size: Float[Tensor, " crystals"],
    nano: Float[Tensor, "crystals 512"],
) -> Float[Tensor, ""]:
    """Mean absolute error of patterns of these sizes (Å), where they are solved."""
    seen = shown(nano_grid(nano.device))
    truth = normalised(broadened(nano, size), seen)
    return (normalised(model.pattern(z, size), seen) - truth)[:, seen].abs().mean()


def divergence(found: Latent) -> Float[Tensor, ""]:
    """Kullback–Leibler divergence from the standard normal distribution, in nats."""
    mean, log_variance = found
    nats = (mean.square() + log_variance.exp() - 1 - log_variance) / 2
    return nats.sum(-1).mean()


def sample(
    model: LatentNet,
    numbers: Int[Tensor, "crystals atoms"],
    z: Float[Tensor, "crystals 256"],
    generator: torch.Generator,
    *,
    steps: int = STEPS,
    cell: Float[Tensor, "crystals 6"] | None = None,
) -> Iterator[State]:
    """Crystals of these atoms that z says, level by level of the noise.

    In the cells (Å, °) that are decoded of z, or in these. At each level there is one step
    of the predictor and one of Langevin dynamics, where CDVAE has a hundred of the latter.
    """
    with torch.no_grad():
        seen = model.seen(z)
        if cell is None:
            cell = decoded(model.cell(z).float(), numbers.shape[1])
    levels = {"steps": steps, "correction": diffusion.CORRECTION, "legs": STRAIGHT}
    yield from diffusion.sample(model, numbers, seen, generator, cell=cell, **levels)
