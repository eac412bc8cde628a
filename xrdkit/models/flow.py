"""Riemannian flow matching of crystals: from uniform atoms and a normal cell to a crystal.

Atoms move on the torus along x_t = x_0 + t u, the cell's six numbers (``lattice.encoded``)
along y_s = (1 - s) y_0 + s y_1 with a time s of its own: 1 where the cell is known, t where
it is unknown, between where it is roughly known. The network predicts u and y_1.

Chen and Lipman, "Flow matching on general geometries", ICLR 2024; Miller et al., "FlowMM",
ICML 2024; PXRDGen (2024) for the quotient by translations: the mean of u is removed. Noise
and crystal are coupled before: among atoms of one element, a few settings of the cell and
all translations, the ones near to each other are paired, which straightens the paths.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional

from xrdkit.models.crystal_net import Output
from xrdkit.models.encoder import Seen
from xrdkit.models.lattice import cell_of, decoded, encoded, metric_of
from xrdkit.types import Batch, Controls

SPEED = 0.2  # unit of the predicted velocity: about its standard deviation
KNOWN, JOINT = 0.4, 0.45  # shares of crystals with their cell known, or noisy as the atoms
BLIND = 0.05  # share of patterns hidden in training, for guidance
SLOPE = 10.0  # of the anti-annealing
AGAIN = 0.3  # time to which atoms are set back
Legs = tuple[tuple[float | None, float], ...]
# of sampling: the cell (None) or atoms from a time on, and the share of steps at its end
LEGS: Legs = (None, 0.16), (0.0, 0.4), (AGAIN, 0.6), (AGAIN, 0.8), (AGAIN, 1.0)
STRAIGHT: Legs = ((0.0, 1.0),)  # cell and atoms together, once
ROUNDING = 1e-6  # of a way of length one
MOST_STEPS = 10_000


class Loss(NamedTuple):
    """The loss and its parts, each one where the network says nothing."""

    loss: Float[Tensor, ""]
    atoms: Float[Tensor, ""]
    cell: Float[Tensor, ""]


def wrapped(x: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """The nearest image of a displacement, within ±1/2."""
    return x - x.round()


def cell_noise(
    crystals: int, generator: torch.Generator, device: torch.device
) -> Float[Tensor, "crystals 6"]:
    """Normal noise of cells, the edges in ascending order as in Niggli cells."""
    y = torch.randn(crystals, 6, generator=generator)
    return torch.cat([y[:, :3].sort(-1).values, y[:, 3:]], -1).to(device)


def assigned(
    cost: Float[Tensor, "crystals atoms atoms"], numbers: Int[Tensor, "crystals atoms"]
) -> Int[Tensor, "crystals atoms"]:
    """For each row the column that it is given, of its element, by swaps of columns.

    A local optimum: no swap lowers the summed cost of a crystal.
    """
    crystals, atoms = numbers.shape
    same = numbers[:, :, None] == numbers[:, None, :]
    order = torch.arange(atoms, device=cost.device).expand(crystals, atoms)
    row = torch.arange(crystals, device=cost.device)
    for _ in range(2 * atoms):
        own = cost.diagonal(dim1=1, dim2=2)
        gain = own[:, :, None] + own[:, None] - cost - cost.mT
        best, pair = gain.masked_fill(~same, 0).flatten(1).max(1)
        if not bool((best > 1e-6).any()):
            break
        i, j = pair // atoms, pair % atoms
        i = torch.where(best > 1e-6, i, j)
        swap = torch.arange(atoms, device=cost.device).repeat(crystals, 1)
        swap[row, i], swap[row, j] = j, i
        order = order.gather(1, swap)
        cost = cost.gather(2, swap[:, None].expand_as(cost))
    return order


def circular_mean(
    x: Float[Tensor, "crystals atoms 3"],
) -> Float[Tensor, "crystals 1 3"]:
    """The translation m along each axis with the least Σ wrapped(x - m)².

    It is the plain mean plus some k / N: for one of them no term is wrapped the wrong way.
    """
    atoms = x.shape[1]
    shift = torch.arange(atoms, device=x.device)[:, None] / atoms
    centre = x.mean(1, keepdim=True) + shift  # (crystals, choices, 3)
    cost = wrapped(x[:, None] - centre[:, :, None]).square().sum(2)
    return centre.gather(1, cost.argmin(1, keepdim=True))


def coupled(
    start: Float[Tensor, "crystals atoms 3"],
    end: Float[Tensor, "crystals atoms 3"],
    numbers: Int[Tensor, "crystals atoms"],
) -> Float[Tensor, "crystals atoms 3"]:
    """Displacement from start to a translated, reordered end; its mean is zero."""
    for _ in range(2):
        end = end - circular_mean(end - start)
        cost = wrapped(end[:, None] - start[:, :, None]).square().sum(-1)
        order = assigned(cost, numbers)
        end = end.gather(1, order[..., None].expand_as(end))
    apart = wrapped(end - start - circular_mean(end - start))
    return apart - apart.mean(1, keepdim=True)


def nearest_setting(
    start: Float[Tensor, "crystals atoms 3"],
    ends: Float[Tensor, "settings crystals atoms 3"],
    numbers: Int[Tensor, "crystals atoms"],
) -> tuple[Float[Tensor, "crystals atoms 3"], Int[Tensor, " crystals"]]:
    """``coupled`` with the setting of the crystal that is nearest, and which it is."""
    many = len(ends)
    apart = coupled(
        start.repeat(many, 1, 1), ends.flatten(0, 1), numbers.repeat(many, 1)
    ).reshape(ends.shape)
    best = apart.square().sum((-1, -2)).argmin(0)
    return apart[best, torch.arange(len(start), device=start.device)], best


def times(
    crystals: int, generator: torch.Generator, device: torch.device
) -> Float[Tensor, "crystals 2"]:
    """Times of atoms and cells: cells known, as noisy as the atoms, or between."""
    t, own, kind = torch.rand(3, crystals, generator=generator)
    cell = torch.where(kind < KNOWN, 1.0, torch.where(kind < KNOWN + JOINT, t, own))
    return torch.stack([t, cell], -1).to(device)


def loss(
    model: nn.Module,
    batch: Batch,
    generator: torch.Generator,
    *,
    settings: Float[Tensor, "settings crystals 3 3"] | None = None,
    weight: float = 1.0,
) -> Loss:
    """Flow-matching loss of a batch of crystals with equally many atoms.

    Mean |v - u|² in units of the velocity's variance, plus ``weight`` times the mean square
    error of the cell's six numbers where the cell is not known. ``settings`` are unimodular
    matrices M that keep the metric, x' = x M⁻¹, of which the nearest is taken.
    """
    device = batch.frac.device
    crystals, atoms = batch.numbers.shape
    start = torch.rand(crystals, atoms, 3, generator=generator).to(device)
    y_0 = cell_noise(crystals, generator, device)
    time = times(crystals, generator, device)
    hidden = torch.rand(crystals, generator=generator).to(device) < BLIND
    with torch.autocast(device.type, enabled=False):  # crystals keep all their digits
        path, cell = _path(start, batch, settings)
    y_1 = encoded(cell, atoms)
    t, s = time[:, :1], time[:, 1:]
    y = (1 - s) * y_0 + s * y_1
    x = start + t[..., None] * path
    seen = model.encoder(batch.profile * ~hidden[:, None, None])
    out = model(batch.numbers, x, y, time, seen)
    by_atoms = functional.mse_loss(out.atoms, path / SPEED)
    unknown = (s < 1).float()
    by_cell = ((out.cell - y_1).square() * unknown).sum() / (6 * unknown.sum()).clamp(min=1)
    return Loss(by_atoms + weight * by_cell, by_atoms, by_cell)


def _path(
    start: Float[Tensor, "crystals atoms 3"],
    batch: Batch,
    settings: Float[Tensor, "settings crystals 3 3"] | None,
) -> tuple[Float[Tensor, "crystals atoms 3"], Float[Tensor, "crystals 6"]]:
    """Displacement from start to the crystals in the nearest setting, and their cells."""
    if settings is None:
        return coupled(start, batch.frac, batch.numbers), batch.cell
    ends = batch.frac @ torch.linalg.inv(settings)
    path, best = nearest_setting(start, ends, batch.numbers)
    chosen = settings[best, torch.arange(len(best), device=best.device)]
    return path, cell_of_metric(chosen @ metric_of(batch.cell) @ chosen.mT)


def cell_of_metric(metric: Float[Tensor, "*crystals 3 3"]) -> Float[Tensor, "*crystals 6"]:
    """a, b, c (Å) and α, β, γ (°) of a metric tensor."""
    return cell_of(torch.linalg.cholesky(metric))


@dataclass(frozen=True)
class State:
    """Crystals on their way: after a share ``time`` of its steps; at 1 the answer."""

    time: float
    frac: Float[Tensor, "crystals atoms 3"]
    cell: Float[Tensor, "crystals 6"]


def check_path(steps: int, known: float) -> None:
    """Refuse numbers of steps, and trust in a cell, that make no path."""
    if not 1 <= steps <= MOST_STEPS or not 0 <= known <= 1:
        raise ValueError(
            f"{steps} steps with a cell known to {known:g}; "
            f"give 1–{MOST_STEPS:,} steps and 0–1"
        )


def sample(
    model: nn.Module,
    numbers: Int[Tensor, "crystals atoms"],
    seen: Seen,
    generator: torch.Generator,
    *,
    steps: int = 50,
    cell: Float[Tensor, "crystals 6"] | None = None,
    known: float = 1.0,
    slope: float = SLOPE,
    blind: Seen | None = None,
    controls: Controls | None = None,
) -> Iterator[State]:
    """Crystals of these atoms for these patterns, step by step; the last is the answer.

    The cell goes first, while atoms are noise, then the atoms do; after that they are three
    times set back to ``AGAIN`` and find their way anew, in which errors mend (Xu et al.,
    "Restart sampling", NeurIPS 2023); all within ``steps``.
    ``seen`` has one row per crystal: ``model.encoder(profiles).repeat(candidates)``. With a
    ``cell`` (Å, °; Niggli) of trust ``known`` = 1 it is kept; of less, it is where the
    cell's own path begins. ``slope`` speeds atoms up by 1 + slope · t
    (PXRDGen: 5), at most to where they are headed for. ``controls`` are looked at in every
    step: what is left goes at the pace of a whole path of other ``steps``, and
    ``guidance`` needs what the network sees in no pattern, ``blind``.
    """
    controls = controls or Controls()
    check_path(controls.steps or steps, known)
    device = numbers.device
    crystals, atoms = numbers.shape
    x = torch.rand(crystals, atoms, 3, generator=generator).to(device)
    y, begin = cell_noise(crystals, generator, device), 0.0
    if cell is not None:
        y, begin = (1 - known) * y + known * encoded(cell, atoms), known
    yield State(0.0, x, decoded(y, atoms))
    for step in schedule(lambda: controls.steps or steps, begin, LEGS):
        if step.back:
            x = set_back(x, numbers, step.t, generator)
        time = x.new_tensor([[step.t, step.s]]).expand(crystals, 2)
        out = guided(model, (numbers, x, y, time), seen, blind, controls.guidance)
        if step.s < 1:
            y = y + (out.cell - y) / step.left
        if step.atoms:  # x + (1 - t) u is where they are headed for
            share = min((1 + slope * step.t) / step.left, 1)
            x = torch.remainder(x + share * (1 - step.t) * SPEED * out.atoms, 1)
        yield State(step.done, x, decoded(y, atoms))


class Step(NamedTuple):
    """One step of sampling: from the times t of the atoms and s of the cell on."""

    t: float
    s: float
    t_then: float  # the times after it
    s_then: float
    left: int  # steps to the end of this way, with this one
    atoms: bool  # whether they move; the cell does until it is known
    back: bool  # whether they are set back to t before
    done: float  # share of all steps after this one


def schedule(pace: Callable[[], int], known: float, legs: Legs) -> Iterator[Step]:
    """The steps of a path; before each, ``pace`` says of how many a whole one is to be."""
    done, s = 0.0, known
    for begin, end in legs:
        t, first, atoms = begin or 0.0, True, begin is not None
        while (t if atoms else s) < 1:
            whole = pace()
            kept = not first or begin == 0 or (end == 1 and done < 1)
            left = max(round((end - done) * whole), int(kept))
            if not left:
                break
            done = 1.0 if done + 1 / whole > 1 - ROUNDING else done + 1 / whole
            then = (onward(t, left) if atoms else t, onward(s, left))
            yield Step(t, s, *then, left, atoms, first and t > 0, done)
            (t, s), first = then, False


def onward(time: float, left: int) -> float:
    """The time after the next of so many steps to 1."""
    return 1.0 if left == 1 else time + (1 - time) / left


def guided(
    model: nn.Module,
    crystals: tuple[Tensor, Tensor, Tensor, Tensor],
    seen: Seen,
    blind: Seen | None,
    guidance: float,
) -> Output:
    """What the network says of atoms, places, cells and times, led by the pattern.

    So many times as far from what it says to no pattern, ``blind``, as it has learned
    (Ho and Salimans, "Classifier-free diffusion guidance", 2021).
    """
    with torch.no_grad():
        out = model(*crystals, seen)
        if blind is None or guidance == 1:
            return out
        alone = model(*crystals, blind)
    return Output(*(b + guidance * (a - b) for a, b in zip(out, alone, strict=True)))


def cell_steps(steps: int) -> int:
    """How many of the steps move a cell that is not known, before atoms move."""
    return round(LEGS[0][1] * steps)


def set_back(
    x: Float[Tensor, "crystals atoms 3"],
    numbers: Int[Tensor, "crystals atoms"],
    time: float,
    generator: torch.Generator,
) -> Float[Tensor, "crystals atoms 3"]:
    """Atoms at an earlier time, on a straight way from new noise to where they are."""
    start = torch.rand(x.shape, generator=generator).to(x)
    return torch.remainder(start + time * coupled(start, x, numbers), 1)
