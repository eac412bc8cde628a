"""Blocks of crystals with equally many atoms, and their patterns, simulated on the fly."""

import hashlib

import torch
from jaxtyping import Float, Int
from torch import Tensor

from xrdkit.models.lattice import cell_of
from xrdkit.packed import UNIMODULAR, Packed
from xrdkit.q_profile import POINTS, profiles
from xrdkit.train.plan import Plan
from xrdkit.types import Batch


class Patterns:
    """Simulated profiles of all crystals; every epoch one of ``turns`` parts is new.

    What an epoch sees depends on it and the seed alone, so that a run goes on exactly.
    """

    def __init__(self, data: Packed, plan: Plan) -> None:
        self.data, self.plan = data, plan
        generator = torch.Generator().manual_seed(plan.seed)
        self.parts = torch.randperm(len(data), generator=generator).chunk(plan.turns)
        self.made: list[int | None] = [None] * len(self.parts)  # in which epoch
        device = data.crystals.lattice.device
        self.profiles = torch.zeros(len(data), 2, POINTS, device=device).half()

    def renew(self, epoch: int) -> None:
        """Simulate what this epoch sees, as far as it is not there yet."""
        for part, index in enumerate(self.parts):
            turn = epoch - (epoch - part) % self.plan.turns
            if self.made[part] != turn:
                self._simulate(index.to(self.profiles.device), turn)
                self.made[part] = turn

    def _simulate(self, index: Int[Tensor, " chosen"], turn: int) -> None:
        seed = (self.plan.seed * 1_000_003 + turn + self.plan.turns) * 7 + 5
        generator = torch.Generator().manual_seed(seed)
        for some in index.split(1024):
            crystals = self.data.crystals.select(some)
            made = profiles(crystals, generator, clean=self.plan.clean)
            self.profiles[some] = made.half()


def batch_of(
    data: Packed, index: Int[Tensor, " chosen"], seen: Float[Tensor, "all 2 1024"]
) -> Batch:
    """Crystals of equally many atoms with their profiles."""
    crystals = data.crystals
    counts = crystals.counts
    starts = counts.cumsum(0) - counts
    n = int(counts[index[0]])
    rows = starts[index][:, None] + torch.arange(n, device=index.device)
    empty = crystals.lattice.new_zeros
    return Batch(
        crystals.numbers[rows],
        crystals.frac[rows],
        cell_of(crystals.lattice[index]),
        seen[index].float(),
        empty(len(index), 0, 3),
        empty(len(index), n).bool().logical_not(),
        empty(len(index)),
    )


def settings_for(
    data: Packed, index: Int[Tensor, " chosen"], many: int, generator: torch.Generator
) -> Float[Tensor, "settings chosen 3 3"]:
    """Some settings of each crystal's cell, drawn at random; the inverse is one of them."""
    low, high = data.starts[index], data.starts[index + 1]
    draw = torch.rand(many, len(index), generator=generator).to(low.device)
    chosen = data.settings[low + (draw * (high - low)).long().clamp(max=high - low - 1)]
    return UNIMODULAR.to(low.device)[chosen.long()].float()


def mark_of(data: Packed) -> str:
    """A mark that other structures, or the same in another order, do not share."""
    found = hashlib.sha256("\n".join(data.ids).encode())
    crystals = data.crystals
    for part in (crystals.lattice, crystals.frac, crystals.numbers, crystals.owner):
        found.update(part.cpu().numpy().tobytes())
    return found.hexdigest()


def taken(data: Packed, index: Int[Tensor, " chosen"]) -> Packed:
    """The packed structures of these indices."""
    names = tuple(data.ids[i] for i in index.tolist())
    low, high = data.starts[index], data.starts[index + 1]
    rows = torch.cat([torch.arange(*pair) for pair in zip(low, high, strict=True)])
    ends = (high - low).cumsum(0)
    starts = torch.cat([ends.new_zeros(1), ends])
    crystals = data.crystals.select(index)
    return Packed(names, crystals, data.settings[rows], starts, data.standard)
