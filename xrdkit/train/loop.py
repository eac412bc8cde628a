"""The loop. A run lives in a folder.

``state.safetensors`` is everything, to go on bit for bit; ``constant.safetensors`` the same
before the rate began to fall, to extend the run; ``weights.safetensors`` the averaged
weights, to use; ``log.csv`` a line for every step and epoch.
"""

import csv
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from xrdkit.models import flow
from xrdkit.models.checkpoint import save_flow
from xrdkit.models.crystal_net import Size
from xrdkit.packed import Packed
from xrdkit.train.data import Patterns, batch_of, settings_for
from xrdkit.train.plan import Plan, autocast, steps_of
from xrdkit.train.state import CONSTANT, STATE, Run, averaged, begin, save
from xrdkit.train.validation import validate
from xrdkit.types import Progress

WEIGHTS, LOG = "weights.safetensors", "log.csv"
COLUMNS = (
    "step epoch seconds rate loss atoms cell norm val_atoms val_cell match_cell match"
).split()


class Diverged(FloatingPointError):
    """The loss or its gradient is no number any more; names step, block and structures."""


def train_flow(
    data: Packed,
    folder: str | Path,
    *,
    validation: Packed | None = None,
    plan: Plan | None = None,
    size: Size | None = None,
    start: str | Path | None = None,
    device: str = "cpu",
    entries: int = 64,
    every: int = 5,
) -> Iterator[Progress]:
    """Train a flow in a folder, or go on with the run that is there; yields every step.

    ``start`` are weights to begin from (with a new warm-up). ``validation`` gives losses
    and, ``every`` so many epochs, the match rates of ``entries`` of its crystals, sampled
    once with and once without the true cell, where pymatgen is installed. The state is
    written after every epoch and when the generator is closed.
    """
    torch.set_flush_denormal(True)
    plan = plan or Plan()
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    data = data.to(device)
    counts = data.crystals.counts.cpu()
    run = begin(folder, plan, size, start, device)
    _shorten(folder / LOG, run.step)
    began, seconds = time.perf_counter(), _seconds_so_far(folder / LOG)
    seen: Patterns | None = None
    while run.epoch < plan.epochs:
        steps = steps_of(counts, plan, run.epoch)
        if seen is None:
            seen = Patterns(data, plan, run.epoch)
        elif run.done == 0:
            seen.renew(run.epoch)
        total = len(steps) * plan.epochs
        while run.done < len(steps):
            epoch = run.epoch + run.done / len(steps)
            if plan.falling(epoch) and not (folder / CONSTANT).exists():
                save(folder / CONSTANT, run, plan)
            row = _step(run, plan, data, steps[run.done], seen, epoch, folder)
            row["seconds"] = round(seconds + time.perf_counter() - began, 1)
            _log(folder / LOG, row)
            try:
                yield Progress("step", run.step, total, None, _said(row), row["seconds"])
            except GeneratorExit:
                save(folder / STATE, run, plan)
                raise
        run.epoch, run.done = run.epoch + 1, 0
        save(folder / STATE, run, plan)
        row = {"step": run.step, "epoch": run.epoch}
        if validation is not None:
            few = entries if run.epoch % every == 0 or run.epoch >= plan.epochs else 0
            row |= validate(averaged(run), validation, entries=few, device=device)
        row["seconds"] = round(seconds + time.perf_counter() - began, 1)
        _log(folder / LOG, row)
        facts = {"structures": len(data), **row, "plan": asdict(plan)}
        save_flow(folder / WEIGHTS, averaged(run), facts)
        said = _said(row)
        yield Progress("epoch", run.epoch, plan.epochs, None, said, row["seconds"])
    return folder / WEIGHTS


def _step(
    run: Run,
    plan: Plan,
    data: Packed,
    blocks: list[Tensor],
    seen: Patterns,
    epoch: float,
    folder: Path,
) -> dict[str, Any]:
    """One step of the optimiser over some blocks; a row of the log."""
    device = data.crystals.lattice.device
    generator = torch.Generator().manual_seed(plan.seed * 1_000_003 + run.step * 16 + 11)
    rate = plan.rate * plan.factor(run.step, epoch)
    for group in run.optimiser.param_groups:
        group["lr"] = rate
    crystals = sum(map(len, blocks))
    parts = torch.zeros(3)
    for index in blocks:
        chosen = index.to(device)
        batch = batch_of(data, chosen, seen.profiles)
        settings = settings_for(data, chosen, plan.settings, generator)
        with autocast(str(device)):
            losses = flow.loss(run.model, batch, generator, settings=settings)
        share = len(index) / crystals
        (losses.total * share).backward()
        parts += share * torch.stack([part.detach().float().cpu() for part in losses])
        if not bool(torch.isfinite(parts).all()):
            _stop(run, plan, data, index, folder)
    norm = torch.nn.utils.clip_grad_norm_(run.model.parameters(), plan.clip)
    if not bool(torch.isfinite(norm)):
        _stop(run, plan, data, torch.cat(blocks), folder)
    run.optimiser.step()
    run.optimiser.zero_grad(set_to_none=True)
    keep = min(plan.average, (1 + run.step) / (10 + run.step))
    names, weights = zip(*run.model.named_parameters(), strict=True)
    torch._foreach_lerp_(
        [run.average[k] for k in names], [w.data for w in weights], 1 - keep
    )
    run.step, run.done = run.step + 1, run.done + 1
    names = ("loss", "atoms", "cell")
    return {
        "step": run.step,
        "epoch": round(epoch, 3),
        "rate": rate,
        "norm": float(norm),
        **dict(zip(names, parts.tolist(), strict=True)),
    }


def _stop(run: Run, plan: Plan, data: Packed, index: Tensor, folder: Path) -> None:
    """Keep the state before this step, and say which structures were in it."""
    save(folder / STATE, run, plan)
    names = [data.ids[i] for i in index[:5].tolist()]
    raise Diverged(
        f"the loss is not a number at step {run.step}, in a block of {len(index)} "
        f"structures ({', '.join(names)}, …); the state before it is in "
        f"{folder / STATE}: go on with a lower rate, or leave these structures out"
    )


def _log(path: Path, row: dict[str, Any]) -> None:
    """One more line of the log; numbers short."""
    new = not path.exists()
    with path.open("a", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, COLUMNS)
        if new:
            writer.writeheader()
        short = {k: f"{v:.5g}" if isinstance(v, float) else v for k, v in row.items()}
        writer.writerow(short)


def _shorten(path: Path, step: int) -> None:
    """Drop the lines of a log after a step, which will be written again."""
    if path.exists():
        with path.open(newline="", encoding="utf-8") as file:
            rows = [row for row in csv.DictReader(file) if int(row["step"]) <= step]
        path.unlink()
        for row in rows:
            _log(path, row)


def _seconds_so_far(path: Path) -> float:
    if not path.exists():
        return 0.0
    with path.open(newline="", encoding="utf-8") as file:
        return max(
            (float(row["seconds"] or 0) for row in csv.DictReader(file)), default=0.0
        )


def _said(row: dict[str, Any]) -> str:
    """A row of the log in words."""
    shown = {k: f"{v:.4g}" for k, v in row.items() if k not in ("step", "seconds")}
    return ", ".join(f"{k} {v}" for k, v in shown.items())
