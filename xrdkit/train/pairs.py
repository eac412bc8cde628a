"""Packed crystals and their patterns as vectors of the common space, and who finds whom."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from xrdkit.models.contrast import PairNet
from xrdkit.models.speed import autocast
from xrdkit.packed import Packed
from xrdkit.q_profile import POINTS, clean_profiles
from xrdkit.train.data import batch_of, taken

ROOM = 40_000  # pairs of atoms embedded at once
QUERIES = 2000  # patterns that look for their crystals


def crystal_vectors(model: PairNet, data: Packed) -> Float[Tensor, "crystals width"]:
    """Unit vectors of packed crystals, on the device of the network."""
    device = next(model.parameters()).device
    data = data.to(device)
    counts = data.crystals.counts.cpu()
    none = torch.zeros(1, 2, POINTS, device=device).expand(len(data), -1, -1)
    parts, places = [], []
    for n in counts.unique().tolist():
        index = torch.nonzero(counts == n).flatten()
        for some in index.to(device).split(max(1, ROOM // n**2)):
            batch = batch_of(data, some, none)
            with torch.no_grad(), autocast(str(device)):
                parts.append(model.crystals(batch.numbers, batch.frac, batch.cell))
            places.append(some)
    return torch.cat(parts)[torch.cat(places).argsort()]


def pattern_vectors(
    model: PairNet, profile: Float[Tensor, "patterns 2 1024"]
) -> Float[Tensor, "patterns width"]:
    """Unit vectors of patterns on the Q grid, on the device of the network."""
    device = next(model.parameters()).device
    with torch.no_grad(), autocast(str(device)):
        parts = [model.patterns(part.to(device)) for part in profile.split(512)]
    return torch.cat(parts)


def ranks(
    queries: Float[Tensor, "queries width"],
    gallery: Float[Tensor, "crystals width"],
    own: Int[Tensor, " queries"],
) -> Int[Tensor, " queries"]:
    """How many of the gallery are nearer to each query than its own row of it.

    What is not a number is never found: all others are nearer.
    """
    similarity = queries @ gallery.T
    mine = similarity.gather(1, own[:, None])
    return (~(similarity <= mine)).sum(1)


def hit_rates(model: PairNet, data: Packed, *, seed: int = 0) -> dict[str, float]:
    """Shares of clean patterns whose crystal is the nearest of all, or among ten."""
    order = torch.randperm(len(data), generator=torch.Generator().manual_seed(seed))
    own = order[:QUERIES]
    patterns = pattern_vectors(model, clean_profiles(taken(data, own).crystals))
    found = ranks(patterns, crystal_vectors(model, data), own.to(patterns.device))
    return {f"val_top_{k}": float((found < k).float().mean()) for k in (1, 10)}
