"""How to train: rate, blocks of crystals, patterns."""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from xrdkit.models import cell_net, density_net, diffusion, flow, latent
from xrdkit.models.checkpoint import CELLS, DENSITY, LATENTS, PAIRS
from xrdkit.models.lattice import cell_of, encoded
from xrdkit.types import Crystals

METHODS = {  # modules with their loss, and sample
    "flow": flow,
    "diffusion": diffusion,
    CELLS: cell_net,
    LATENTS: latent,
    DENSITY: density_net,
}
# crystals of a step, and of a block: many, of which to tell one; few where a truth is
# regressed on (BENCHMARKS.md)
STEP = {PAIRS: (1024, 64), LATENTS: (48, 16), DENSITY: (48, 16)}
USUAL = (192, 64)
SEEDS = 2**31  # seeds of single blocks, made from these, are whole numbers of 64 bits


@dataclass(frozen=True)
class Plan:
    """How to train; stored with the state, and a run goes on only with the same.

    ``crystals`` and ``block`` are those of ``STEP`` where they are not given.
    """

    method: str = "flow"  # or "diffusion", "pretrain", "cell", "latent", "density"
    epochs: int = 100
    decay: float = 0.2  # share of the epochs over which the rate falls to zero
    rate: float = 1e-3
    warm_up: int = 300  # steps
    crystals: int | None = None  # of a step, at least
    block: int | None = None  # crystals of a dense block at most
    edges: int = 12_800  # pairs of atoms in a dense block at most
    average: float = 0.999  # of the averaged weights, per step
    clip: float = 1.0  # norm of the gradient
    weight_decay: float = 0.01
    clean: float = 0.5  # share of noise-free patterns
    turns: int = 4  # epochs for which a simulated pattern is used
    settings: int = 3  # settings of the cell among which the nearest is taken
    strain: float = 0.03  # spread of ln(scale) of the crystals that are shown
    swaps: float = 0.2  # share of their elements that are others
    seed: int = 0

    def __post_init__(self) -> None:
        known = (*METHODS, PAIRS)
        if self.method not in known:
            raise ValueError(
                f"method {self.method!r} is none of {', '.join(known)}; give one"
            )
        if not 0 <= self.seed < SEEDS:
            raise ValueError(f"seed {self.seed} is not one of 0–{SEEDS - 1}; give another")
        usual = STEP.get(self.method, USUAL)
        for name, own in zip(("crystals", "block"), usual, strict=True):
            given = getattr(self, name)
            object.__setattr__(self, name, own if given is None else given)
            if given is not None and given < 1:
                raise ValueError(f"{name} = {given}; give 1 or more, or nothing")

    def factor(self, step: int, epoch: float | int) -> float:
        """The rate relative to ``rate``: warm-up, constant, decay at the end."""
        warm = min(1.0, (step + 1) / max(self.warm_up, 1))
        left = (self.epochs - epoch) / max(self.epochs * self.decay, 1e-9)
        return warm * min(1.0, max(left, 0.0))

    def falling(self, epoch: float | int) -> bool:
        """Whether the rate has begun to fall."""
        return epoch > self.epochs * (1 - self.decay)


def steps_of(
    crystals: Crystals, plan: Plan, epoch: int
) -> list[list[Int[Tensor, " chosen"]]]:
    """An epoch's steps: each some blocks of crystals with equally many atoms.

    For pretraining, which is to tell crystals apart, those of a block are alike in cell and
    electrons as well.
    """
    generator = torch.Generator().manual_seed(plan.seed * 1_000_003 + epoch)
    counts, hard = crystals.counts.cpu(), plan.method == PAIRS
    traits = traits_of(crystals) if hard else None
    blocks = []
    for n in counts.unique().tolist():
        index = torch.nonzero(counts == n).flatten()
        index = index[torch.randperm(len(index), generator=generator)]
        most = max(1, min(plan.block, plan.edges // n**2))
        blocks += alike(index, traits, most, generator) if hard else index.split(most)
    steps: list[list[Tensor]] = [[]]
    for i in torch.randperm(len(blocks), generator=generator).tolist():
        if sum(map(len, steps[-1])) >= plan.crystals:
            steps.append([])
        steps[-1].append(blocks[i])
    return steps


def traits_of(crystals: Crystals) -> Float[Tensor, "crystals 8"]:
    """Cell and electrons of crystals, each number with a spread of one.

    Their six numbers (``lattice.encoded``, of one atom), mean and standard deviation of Z.
    """
    owner, z = crystals.owner.cpu(), crystals.numbers.cpu().float()
    totals = torch.zeros(3, len(crystals)).index_add(1, owner, torch.stack([z**0, z, z**2]))
    mean, square = totals[1:] / totals[0]
    spread = (square - mean**2).clamp(min=0).sqrt()
    six = encoded(cell_of(crystals.lattice.cpu()), 1)
    traits = torch.cat([six, mean[:, None], spread[:, None]], 1)
    return traits / traits.std(0, correction=0).clamp(min=1e-6)


def alike(
    index: Int[Tensor, " some"],
    traits: Float[Tensor, "crystals 8"],
    most: int,
    generator: torch.Generator,
) -> list[Int[Tensor, " chosen"]]:
    """Indices in blocks of at most so many alike: halved along directions at random."""
    if len(index) <= most:
        return [index]
    place = traits[index] @ torch.randn(traits.shape[1], generator=generator)
    halves = index[place.argsort()].split(-(-len(index) // 2))
    return [block for half in halves for block in alike(half, traits, most, generator)]
