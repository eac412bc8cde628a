"""Cells that a trained network proposes for a pattern; indexing polishes and judges them.

Lines that are too few, too weak or from a dominant zone, which lead a search astray, are
here seen with their intensities and with the composition. A CellNet draws cells alone, a
flow before it moves its atoms, of every number of formula units.
"""

from collections.abc import Mapping
from itertools import islice
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from xrdkit.models import flow
from xrdkit.models.cell_net import cells_of
from xrdkit.models.checkpoint import kind_of
from xrdkit.models.crystal_net import PatternNet
from xrdkit.models.generate import generate
from xrdkit.models.lattice import cell_of
from xrdkit.models.speed import autocast
from xrdkit.models.weights import DEFAULTS, load_model, located
from xrdkit.problem import by_number
from xrdkit.q_profile import NotLearned, profile_of
from xrdkit.types import Pattern

DRAWN = 200
DRAWN_BY_FLOW = 40
STEPS = 50  # of a flow's whole path, of which those of the cell are taken
MOST_ATOMS = 20  # in a cell whose contents are not known


def learned_cells(
    pattern: Pattern,
    formula: Mapping[str, float | int] | None = None,
    *,
    contents: bool = False,
    weights: str | Path | None = None,
    count: int | None = None,
    seed: int = 0,
    device: torch.device | str = "cpu",
) -> list[tuple[float, ...]]:
    """Rough primitive cells (a, b, c in Å, α, β, γ in °) for a prepared pattern.

    ``formula`` counts atoms by element; with ``contents`` those of a primitive cell. Of a
    formula with fractions the elements are used, and a pattern or atoms outside of what
    networks learn get none. ``weights`` are of a CellNet or of a flow, which needs a
    formula; where none are given, of the CellNet that ships: without it, none.
    """
    if (asked := weights or DEFAULTS.get("cell")) is None:
        return []
    path = located(asked)
    counts = by_number(formula or {})
    atoms = [z for z, n in counts.items() for _ in range(max(1, round(n)))]
    generator = torch.Generator().manual_seed(seed)
    try:
        if kind_of(path) == "flow":
            model = load_model(path, "flow", device)
            many = count or DRAWN_BY_FLOW
            drawn = _by_flow(model, pattern, atoms, contents, many, generator)
        else:
            model, profile = load_model(path, "cell", device), profile_of(pattern)
            with autocast(str(device)):
                drawn = cells_of(
                    model, profile, atoms, generator, whole=contents, count=count or DRAWN
                )
    except NotLearned:
        return []
    return [tuple(cell) for cell in drawn.tolist()]


def _by_flow(
    model: PatternNet,
    pattern: Pattern,
    atoms: list[int],
    contents: bool,
    count: int,
    generator: torch.Generator,
) -> Float[Tensor, "cells 6"]:
    """Cells that a flow draws, of every number of formula units; atoms stay noise."""
    most = 1 if contents else max(MOST_ATOMS // max(len(atoms), 1), 1)
    sizes = range(1, most + 1) if atoms else ()
    found = [torch.zeros(0, 6)]
    for units in sizes:
        many = -(-count // most)
        asked = {"count": many, "steps": STEPS, "generator": generator}
        drawing = generate(model, flow.sample, pattern, atoms * units, **asked)
        *_, crystals = islice(drawing, 1 + flow.cell_steps(STEPS))
        found.append(cell_of(crystals.lattice).cpu())
    return torch.cat(found)
