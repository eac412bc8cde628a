"""How to train: rate, blocks of crystals, patterns."""

from dataclasses import dataclass

import torch
from jaxtyping import Int
from torch import Tensor

from xrdkit.models import cell_net, density_net, diffusion, flow
from xrdkit.models.checkpoint import CELLS, DENSITY, PAIRS

METHODS = {  # modules with their loss, and sample
    "flow": flow,
    "diffusion": diffusion,
    CELLS: cell_net,
    DENSITY: density_net,
}
SEEDS = 2**31  # seeds of single blocks, made from these, are whole numbers of 64 bits


@dataclass(frozen=True)
class Plan:
    """How to train; stored with the state, and a run goes on only with the same."""

    method: str = "flow"  # or "diffusion", "pretrain", "cell", "density"
    epochs: int = 100
    decay: float = 0.2  # share of the epochs over which the rate falls to zero
    rate: float = 1e-3
    warm_up: int = 300  # steps
    crystals: int = 192  # of a step, at least
    block: int = 64  # crystals of a dense block at most
    edges: int = 12_800  # pairs of atoms in a dense block at most
    average: float = 0.999  # of the averaged weights, per step
    clip: float = 1.0  # norm of the gradient
    weight_decay: float = 0.01
    clean: float = 0.5  # share of noise-free patterns
    turns: int = 4  # epochs for which a simulated pattern is used
    settings: int = 3  # settings of the cell among which the nearest is taken
    seed: int = 0

    def __post_init__(self) -> None:
        known = (*METHODS, PAIRS)
        if self.method not in known:
            raise ValueError(
                f"method {self.method!r} is none of {', '.join(known)}; give one"
            )
        if not 0 <= self.seed < SEEDS:
            raise ValueError(f"seed {self.seed} is not one of 0–{SEEDS - 1}; give another")

    def factor(self, step: int, epoch: float | int) -> float:
        """The rate relative to ``rate``: warm-up, constant, decay at the end."""
        warm = min(1.0, (step + 1) / max(self.warm_up, 1))
        left = (self.epochs - epoch) / max(self.epochs * self.decay, 1e-9)
        return warm * min(1.0, max(left, 0.0))

    def falling(self, epoch: float | int) -> bool:
        """Whether the rate has begun to fall."""
        return epoch > self.epochs * (1 - self.decay)


def steps_of(
    counts: Int[Tensor, " crystals"], plan: Plan, epoch: int
) -> list[list[Int[Tensor, " chosen"]]]:
    """An epoch's steps: each some blocks of crystals with equally many atoms."""
    generator = torch.Generator().manual_seed(plan.seed * 1_000_003 + epoch)
    blocks = []
    for n in counts.unique().tolist():
        index = torch.nonzero(counts == n).flatten()
        index = index[torch.randperm(len(index), generator=generator)]
        blocks += index.split(max(1, min(plan.block, plan.edges // n**2)))
    steps: list[list[Tensor]] = [[]]
    for i in torch.randperm(len(blocks), generator=generator).tolist():
        if sum(map(len, steps[-1])) >= plan.crystals:
            steps.append([])
        steps[-1].append(blocks[i])
    return steps
