"""One step of the optimiser over some blocks of crystals."""

from functools import partial
from typing import Any

import torch
from torch import Tensor

from xrdkit.models.checkpoint import PAIRS
from xrdkit.models.contrast import backward
from xrdkit.models.speed import autocast
from xrdkit.packed import Packed
from xrdkit.train import parallel
from xrdkit.train.data import Patterns, settings_for
from xrdkit.train.log import PARTS
from xrdkit.train.plan import METHODS, Plan
from xrdkit.train.state import Run


class Diverged(FloatingPointError):
    """The loss or its gradient is not a number; names step, block and structures."""


def take_step(
    run: Run,
    plan: Plan,
    data: Packed,
    *,
    blocks: list[Tensor],
    seen: Patterns,
    epoch: float | int,
) -> dict[str, Any]:
    """Change the run by one step; its line of the log. What is no number changes nothing.

    Noise depends on the seed, the step and the block alone: not on what came before, and
    not on how many processes share the blocks.
    """
    crystals = sum(map(len, blocks))
    blocks = [part for block in blocks for part in cut(block, run.pieces)]
    if plan.method == PAIRS:
        parts, bad = _pairs(run, plan, data, blocks=blocks, seen=seen), None
    else:
        parts, bad = _shared(run, plan, data, blocks=blocks, seen=seen)
    for weight in run.model.parameters():  # a process may be without a block
        weight.grad = torch.zeros_like(weight) if weight.grad is None else weight.grad
    gradients = [w.grad for w in run.model.parameters()]
    parallel.add_up([parts])
    parallel.add_up(gradients)
    torch._foreach_div_(gradients, crystals)
    norm = torch.nn.utils.clip_grad_norm_(run.model.parameters(), plan.clip)
    if not bool(torch.isfinite(parts).all() and torch.isfinite(norm)):
        run.optimiser.zero_grad(set_to_none=True)
        raise _diverged(run, data, torch.cat(blocks) if bad is None else blocks[bad])
    rate = plan.rate * plan.factor(run.step, epoch)
    for group in run.optimiser.param_groups:
        group["lr"] = rate
    run.optimiser.step()
    run.optimiser.zero_grad(set_to_none=True)
    _average(run, min(plan.average, (1 + run.step) / (10 + run.step)))
    run.step, run.done = run.step + 1, run.done + 1
    row = {"step": run.step, "epoch": round(epoch, 3), "rate": rate, "norm": float(norm)}
    return row | dict(zip(PARTS[plan.method], (parts / crystals).tolist(), strict=True))


def cut(block: Tensor, pieces: int) -> tuple[Tensor, ...]:
    """A block as so many equal parts, or single crystals."""
    return block.split(-(-len(block) // pieces))


def _shared(
    run: Run, plan: Plan, data: Packed, *, blocks: list[Tensor], seen: Patterns
) -> tuple[Tensor, int | None]:
    """Add gradients of this process's blocks; losses, both times crystals; a bad block."""
    own, world = parallel.place()
    device = data.crystals.lattice.device
    parts, bad = torch.zeros(len(PARTS[plan.method]), device=device), None
    with autocast(str(device)):  # around all blocks: weights are cast once
        for i in range(own, len(blocks), world):
            losses = _losses(run, plan, data, block=blocks[i], number=i, seen=seen)
            (losses[0] * len(blocks[i])).backward()
            found = torch.stack([part.detach().float() for part in losses])
            parts += len(blocks[i]) * found
            bad = i if bad is None and not bool(torch.isfinite(found).all()) else bad
    return parts, bad


def _pairs(
    run: Run, plan: Plan, data: Packed, *, blocks: list[Tensor], seen: Patterns
) -> Tensor:
    """Add the gradient of all blocks' pairs; loss and top-1 share, times crystals."""
    if parallel.place()[1] > 1:
        raise ValueError(
            "pretraining compares all crystals of a step and runs in one process; "
            "start it without torchrun"
        )
    device = data.crystals.lattice.device
    batches = [partial(seen.batch, block.to(device)) for block in blocks]
    crystals = sum(map(len, blocks))
    with autocast(str(device)):
        found = backward(run.model, batches, weight=crystals, frugal=run.pieces > 1)
    return crystals * torch.stack(found).float()


def _losses(
    run: Run, plan: Plan, data: Packed, *, block: Tensor, number: int, seen: Patterns
) -> tuple[Tensor, ...]:
    """The loss of a block and its parts, means over its crystals."""
    seed = (plan.seed * 1_000_003 + run.step) * 4096 + number
    generator = torch.Generator().manual_seed(seed)
    chosen = block.to(data.crystals.lattice.device)
    batch = seen.batch(chosen)
    settings = settings_for(data, chosen, plan.settings, generator)
    return METHODS[plan.method].loss(run.model, batch, generator, settings=settings)


def _average(run: Run, keep: float) -> None:
    """The averaged weights, a little nearer to the present ones."""
    old, new = zip(
        *((run.average[k], w.detach()) for k, w in run.model.named_parameters()),
        strict=True,
    )
    torch._foreach_lerp_(list(old), list(new), 1 - keep)


def _diverged(run: Run, data: Packed, block: Tensor) -> Diverged:
    names = [data.ids[i] for i in block[:5].tolist()]
    return Diverged(
        f"the loss is not a number at step {run.step}, in a block of {len(block)} "
        f"structures ({', '.join(names)}, …); the state before it is kept: go on with a "
        "lower rate from its weights, or leave these structures out"
    )
