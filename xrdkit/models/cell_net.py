"""CellNet: a pattern, and what is known of its contents -> many primitive cells.

As PXRDGen's CellNet a generator of lattices alone, here by flow matching of the six numbers
of the Niggli cell (``lattice.encoded``) along y_t = (1 - t) y_0 + t y_1; the network
predicts y_1. It is shown what stands in the pattern where the lines of y_t would be, so
that it can tell how a cell is off; composition and number of atoms may be unknown. Nothing
is ever compared with a true cell but the training targets.
"""

import math
from collections.abc import Sequence
from itertools import product
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional

from xrdkit.models.crystal_net import ELEMENTS, Size, waves
from xrdkit.models.encoder import ENCODERS
from xrdkit.models.flow import cell_noise
from xrdkit.models.lattice import decoded, encoded, lattice_of, metric_of
from xrdkit.q_profile import POINTS, Q_MIN, STEP
from xrdkit.types import Batch

SIZE = Size(atom=256, edge=192, layers=3, waves=16)
TYPICAL = 10  # atoms: edges are scaled as if every cell held so many
DRAWS = 8  # noisy cells of each pattern in a step of training
UNKNOWN = 0.15, 0.3  # shares of compositions, and of numbers of atoms, that are hidden
NEAR = (-12, -6, -3, -1, 0, 1, 3, 6, 12)  # grid points about a line that are looked at
LEAST_VOLUME = 1e-3  # of the product of the edges
FLAT = 0.02  # square of the volume with unit edges, at most, of cells that are left out


class Loss(NamedTuple):
    """The mean square error of the six numbers; one where nothing is known."""

    loss: Float[Tensor, ""]
    cell: Float[Tensor, ""]


class Asked(NamedTuple):
    """Patterns as the network sees them, and what is known of their contents."""

    profile: Float[Tensor, "patterns 2 1024"]
    embedding: Float[Tensor, "patterns width"]
    contents: Float[Tensor, "patterns known"]


def _indices() -> Float[Tensor, "reflections 3"]:
    """One of h k l and its opposite, with |h|, |k| <= 2 and |l| <= 3."""
    every = product(range(-2, 3), range(-2, 3), range(-3, 4))
    return torch.tensor([hkl for hkl in every if hkl > (0, 0, 0)]).float()


HKL = _indices()


def line_places(cell: Float[Tensor, "*cells 6"]) -> Float[Tensor, "*cells reflections"]:
    """Q (1/Å) of low-index reflections of cells (Å, °)."""
    rows = lattice_of(cell)
    least = LEAST_VOLUME * rows.norm(dim=-1).prod(-1)
    across = torch.linalg.cross(rows[..., [1, 2, 0], :], rows[..., [2, 0, 1], :])
    volume = (rows[..., 0, :] * across[..., 0, :]).sum(-1)
    star = across / torch.maximum(volume, least)[..., None, None]
    return 2 * math.pi * (HKL.to(cell.device) @ star).norm(dim=-1)


def looked_at(
    profile: Float[Tensor, "patterns 2 1024"], cell: Float[Tensor, "patterns draws 6"]
) -> Float[Tensor, "patterns draws features"]:
    """What patterns show about the lines of cells, whether they were observed, and Q."""
    q = line_places(cell)
    place = ((q - Q_MIN) / STEP).round().clamp(-1e3, 1e4).long()
    near = place[..., None] + torch.tensor(NEAR, device=cell.device)
    inside = (near >= 0) & (near < POINTS)
    index = near.clamp(0, POINTS - 1).flatten(2)
    draws = cell.shape[1]
    shown, seen = (
        channel[:, None].expand(-1, draws, -1).gather(2, index).view_as(near) * inside
        for channel in profile.unbind(1)
    )
    middle = seen[..., NEAR.index(0)]
    return torch.cat([shown.flatten(2), middle, (q / 6).clamp(max=4)], -1)


class _Layer(nn.Module):
    """Two linear layers that are told what is asked, added to what goes in."""

    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.first = nn.Linear(width, inner)
        self.second = nn.Linear(inner, width)

    def forward(self, h: Tensor, told: Tensor) -> Tensor:
        return h + self.second(functional.silu(self.first(self.norm(h) + told)))


class CellNet(nn.Module):
    """Noisy cells and times, with what is asked -> the six numbers of cells."""

    def __init__(self, size: Size | None = None) -> None:
        super().__init__()
        self.size = size = size or SIZE
        self.facts: dict[str, Any] = {}  # of its training, where it comes from a file
        self.encoder = ENCODERS[size.encoder](size.pattern)
        self.element = nn.Embedding(ELEMENTS, size.pattern)
        self.told = nn.Linear(2 * size.pattern + 2 + 2 * size.waves, size.atom)
        self.look = nn.Linear(6 + len(HKL) * (len(NEAR) + 2), size.atom)
        self.layers = nn.ModuleList(
            _Layer(size.atom, size.edge) for _ in range(size.layers)
        )
        self.norm = nn.LayerNorm(size.atom)
        self.cell = nn.Linear(size.atom, 6)

    def asked(
        self,
        profile: Float[Tensor, "patterns 2 1024"],
        numbers: Int[Tensor, "patterns atoms"],
        known: Bool[Tensor, "patterns 2"],
    ) -> Asked:
        """Patterns of these atoms; whether composition and number of atoms are known."""
        composition, count = known.to(profile).T[..., None]
        elements = self.element(numbers).mean(1) * composition
        size = math.log(numbers.shape[1] / TYPICAL) * count
        contents = torch.cat([elements, size, count], 1)
        return Asked(profile, self.encoder(profile).embedding, contents)

    def forward(
        self,
        y: Float[Tensor, "patterns draws 6"],
        time: Float[Tensor, "patterns draws"],
        asked: Asked,
    ) -> Float[Tensor, "patterns draws 6"]:
        """``y`` is the cell as ``lattice.encoded`` for ``TYPICAL`` atoms."""
        with torch.autocast(y.device.type, enabled=False):  # lines keep their digits
            features = looked_at(asked.profile, decoded(y, TYPICAL))
        draws = y.shape[1]
        clock = waves(time / 4, self.size.waves)
        common = torch.cat([asked.embedding, asked.contents], 1)
        common = common[:, None].expand(-1, draws, -1)
        told = self.told(torch.cat([common, clock], -1))
        h = self.look(torch.cat([y, features], -1)) + told
        for layer in self.layers:
            h = layer(h, told)
        return y + self.cell(self.norm(h)).float()


def loss(
    model: CellNet,
    batch: Batch,
    generator: torch.Generator,
    *,
    settings: Float[Tensor, "settings crystals 3 3"] | None = None,
) -> Loss:
    """Flow-matching loss of a batch of crystals with equally many atoms.

    ``settings`` keep the metric, and so change nothing here.
    """
    device, count = batch.cell.device, len(batch.cell)
    y_0 = cell_noise(count * DRAWS, generator, device).view(count, DRAWS, 6)
    time = torch.rand(count, DRAWS, generator=generator).to(device)
    known = torch.rand(count, 2, generator=generator) >= torch.tensor(UNKNOWN)
    y_1 = encoded(batch.cell, TYPICAL)[:, None]
    y = (1 - time[..., None]) * y_0 + time[..., None] * y_1
    asked = model.asked(batch.profile, batch.numbers, known.to(device))
    found = functional.mse_loss(model(y, time, asked), y_1.expand_as(y))
    return Loss(found, found)


def sample(
    model: nn.Module,
    asked: Asked,
    generator: torch.Generator,
    *,
    count: int = 200,
    steps: int = 20,
) -> Float[Tensor, "patterns count 6"]:
    """Primitive cells (Å, °) for each pattern, at random."""
    device, patterns = asked.profile.device, len(asked.profile)
    y = cell_noise(patterns * count, generator, device).view(patterns, count, 6)
    for step in range(steps):
        time = y.new_full(y.shape[:2], step / steps)
        with torch.no_grad():
            y = y + (model(y, time, asked) - y) / (steps - step)
    return decoded(y, TYPICAL)


def cells_of(
    model: CellNet,
    profile: Float[Tensor, "2 1024"],
    numbers: Sequence[int],
    generator: torch.Generator,
    *,
    whole: bool = False,
    count: int = 200,
) -> Float[Tensor, "cells 6"]:
    """Cells (Å, °) for one pattern of these elements; none are given where unknown.

    ``whole`` says that they are all the atoms of a primitive cell, not a formula unit.
    Elements that were never learned count as unknown. Flat cells are left out.
    """
    learned = set(model.facts.get("elements", numbers))
    new = not numbers or bool(set(numbers) - learned)
    device = next(model.parameters()).device
    z = torch.tensor([[0] if new else list(numbers)], device=device)
    known = torch.tensor([[not new, whole]], device=device)
    with torch.no_grad():
        asked = model.asked(profile[None].to(device), z, known)
    cells = sample(model, asked, generator, count=count)[0].double()
    box = torch.linalg.det(metric_of(cells)) / cells[:, :3].prod(1) ** 2
    return cells[box > FLAT]
