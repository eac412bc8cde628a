"""Blocks of crystals with equally many atoms, and their patterns, simulated on the fly."""

import hashlib
from dataclasses import replace

import torch
from jaxtyping import Float, Int
from torch import Tensor

from xrdkit.models.checkpoint import LATENTS
from xrdkit.models.lattice import cell_of
from xrdkit.nanocrystal import nano_curves, nano_grid, normalised, shown
from xrdkit.packed import UNIMODULAR, Packed
from xrdkit.q_profile import POINTS, profiles
from xrdkit.train.plan import Plan
from xrdkit.types import Batch, Crystals


class Patterns:
    """Simulated profiles of all crystals; every epoch one of ``turns`` parts is new.

    ``shown`` are the crystals that they are of: variants (``varied``) of those that are
    given, which would be learned by heart. What an epoch sees depends on it and the seed
    alone, so that a run goes on exactly. For the method "latent" they are ``nano``,
    patterns of nanocrystals. Standard descriptions, which depend on elements, keep these.
    """

    def __init__(self, data: Packed, plan: Plan) -> None:
        self.data, self.plan = data, plan
        generator = torch.Generator().manual_seed(plan.seed)
        self.parts = torch.randperm(len(data), generator=generator).chunk(plan.turns)
        self.made: list[int | None] = [None] * len(self.parts)  # in which epoch
        device = data.crystals.lattice.device
        large = plan.method == LATENTS
        nano = torch.zeros(len(data) if large else 0, len(nano_grid()), device=device)
        empty = torch.zeros(1 if large else len(data), 2, POINTS, device=device)
        self.nano = nano.half() if large else None
        self.profiles = empty.half().expand(len(data), -1, -1)
        own = data.crystals
        own = replace(own, lattice=own.lattice.clone(), numbers=own.numbers.clone())
        self.shown = replace(data, crystals=own)

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
        kinds = self.data.crystals.numbers.unique()
        plan = replace(self.plan, swaps=0.0) if self.data.standard else self.plan
        for some in index.split(1024):
            own = self.data.crystals
            crystals = varied(own.select(some), kinds, plan, generator)
            self.shown.crystals.lattice[some] = crystals.lattice
            self.shown.crystals.numbers[own.rows(some)] = crystals.numbers
            if self.nano is not None:
                self.nano[some] = nano_patterns(crystals).half()
                continue
            made = profiles(crystals, generator, clean=self.plan.clean)
            self.profiles[some] = made.half()

    def batch(self, index: Int[Tensor, " chosen"]) -> Batch:
        """Crystals of equally many atoms with their patterns."""
        made = batch_of(self.shown, index, self.profiles)
        return made if self.nano is None else replace(made, nano=self.nano[index].float())


def nano_patterns(crystals: Crystals) -> Float[Tensor, "crystals 512"]:
    """PXRDnet's patterns of crystals so large that their size does not show."""
    seen = shown(nano_grid(crystals.lattice.device))
    return normalised(nano_curves(crystals, None), seen)


def varied(
    crystals: Crystals,
    kinds: Int[Tensor, " kinds"],
    plan: Plan,
    generator: torch.Generator,
) -> Crystals:
    """Crystals of about the same size, some with other elements, of ``kinds`` at random.

    Edges are scaled by a factor with a standard deviation of ``plan.strain``; each element
    of a crystal is another one, on all its sites, with probability ``plan.swaps``.
    """
    count, device = len(crystals), crystals.lattice.device
    strain = plan.strain * torch.randn(count, generator=generator).to(device)
    every = int(max(kinds.max(), crystals.numbers.max())) + 1
    others = torch.randint(len(kinds), (count, every), generator=generator)
    swap = torch.rand(count, every, generator=generator) < plan.swaps
    same = torch.arange(every).expand(count, -1)
    become = torch.where(swap, kinds.cpu()[others], same).to(device)
    return replace(
        crystals,
        lattice=crystals.lattice * strain.exp()[:, None, None],
        numbers=become[crystals.owner, crystals.numbers],
    )


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
