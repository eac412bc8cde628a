"""Cells that a trained network proposes for a pattern; indexing polishes and judges them.

Lines that are too few, too weak or from a dominant zone, which lead a search astray, are
here seen with their intensities and with the composition.
"""

from collections.abc import Mapping
from pathlib import Path

import torch

from xrdkit.models.cell_net import cells_of
from xrdkit.models.speed import autocast
from xrdkit.models.weights import load_model
from xrdkit.problem import by_number
from xrdkit.q_profile import NotLearned, profile_of
from xrdkit.types import Pattern

WEIGHTS = Path(__file__).parents[1] / "weights" / "cell.safetensors"
DRAWN = 200


def learned_cells(
    pattern: Pattern,
    formula: Mapping[str, float | int] | None = None,
    *,
    contents: bool = False,
    weights: str | Path | None = None,
    count: int = DRAWN,
    seed: int = 0,
    device: torch.device | str = "cpu",
) -> list[tuple[float, ...]]:
    """Rough primitive cells (a, b, c in Å, α, β, γ in °) for a prepared pattern.

    ``formula`` counts atoms by element; with ``contents`` those of a primitive cell. Of a
    formula with fractions the elements are used, and a pattern outside of what networks
    learn gets none. Weights are those that ship, where none are given: without any, none.
    """
    if weights is None and not WEIGHTS.is_file():
        return []
    model = load_model(weights or WEIGHTS, "cell", device)
    counts = by_number(formula or {})
    atoms = [z for z, n in counts.items() for _ in range(max(1, round(n)))]
    try:
        profile = profile_of(pattern)
    except NotLearned:
        return []
    generator = torch.Generator().manual_seed(seed)
    with autocast(str(device)):
        drawn = cells_of(model, profile, atoms, generator, whole=contents, count=count)
    return [tuple(cell) for cell in drawn.tolist()]
