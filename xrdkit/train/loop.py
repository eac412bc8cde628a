"""The loop. A run lives in a folder.

``state.safetensors`` is everything, to go on bit for bit; ``constant.safetensors`` the same
before the rate began to fall, to extend the run; ``weights.safetensors`` the averaged
weights, to use; ``log.csv`` a line for every step and epoch.
"""

import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from xrdkit.models.cell_net import CellNet
from xrdkit.models.checkpoint import DENSITY, Network, save_network
from xrdkit.models.contrast import PairNet
from xrdkit.models.crystal_net import Size
from xrdkit.models.density_net import DensityNet
from xrdkit.models.latent import LatentNet
from xrdkit.models.speed import free_memory, keep_memory, out_of_memory
from xrdkit.packed import Packed
from xrdkit.train import log, parallel
from xrdkit.train.data import Patterns, mark_of
from xrdkit.train.pairs import hit_rates
from xrdkit.train.plan import Plan, steps_of
from xrdkit.train.state import CONSTANT, STATE, Run, averaged, begin, save
from xrdkit.train.step import Diverged, take_step
from xrdkit.train.validation import cell_rates, density_rates, latent_rates, validate
from xrdkit.types import Progress

WEIGHTS, LOG = "weights.safetensors", "log.csv"


def train(
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
    """Train a network in a folder, or go on with the run there; yields every step.

    ``start`` are weights to begin from, by name or file (with a new warm-up).
    ``validation`` gives losses and, ``every`` so many epochs, the match rates of
    ``entries`` of its crystals, sampled once with and once without the true cell, where
    pymatgen is installed; of pretraining, how many patterns find their crystal. The state
    is written after every epoch, when the generator is closed, and when the loss is no
    number.
    Processes that torchrun starts share every step; the first one writes. Progress of the
    stage "note" says what should be known: other structures than before, too little memory.
    """
    torch.set_flush_denormal(True)
    keep_memory()
    parallel.join(device)
    plan, folder = plan or Plan(), Path(folder)
    _check_cells(plan, data, validation)
    data = data.to(device)
    run = begin(folder, plan, size, start, device)
    folder.mkdir(parents=True, exist_ok=True)
    yield from _notes(run, plan, data, folder)
    began = time.perf_counter() - log.shorten(folder / LOG, run.step)
    seen: Patterns | None = None
    while run.epoch < plan.epochs:
        steps = steps_of(data.crystals, plan, run.epoch)
        seen = seen or Patterns(data, plan)
        seen.renew(run.epoch)
        while run.done < len(steps):
            epoch = run.epoch + run.done / len(steps)
            if plan.falling(epoch) and not (folder / CONSTANT).exists():
                _write(folder / CONSTANT, run, plan)
            try:
                now = {"blocks": steps[run.done], "seen": seen, "epoch": epoch}
                row = yield from _stepped(run, plan, data, now)
                done = _noted(folder, plan, row, began)
                yield Progress("step", run.step, len(steps) * plan.epochs, None, *done)
            except (GeneratorExit, Diverged, MemoryError):
                _write(folder / STATE, run, plan)
                raise
        run.epoch, run.done = run.epoch + 1, 0
        _write(folder / STATE, run, plan)
        row = {"step": run.step, "epoch": run.epoch}
        if validation is not None:
            last = run.epoch % every == 0 or run.epoch >= plan.epochs
            row |= _measured(averaged(run), validation, plan, entries if last else 0)
        done = _noted(folder, plan, row, began)
        facts = {**_range(data), **row, "plan": asdict(plan)}
        if parallel.place()[0] == 0:
            save_network(folder / WEIGHTS, averaged(run), plan.method, facts)
        yield Progress("epoch", run.epoch, plan.epochs, None, *done)
    return folder / WEIGHTS


def _check_cells(plan: Plan, *tables: Packed | None) -> None:
    """Refuse crystals in other cells than those from which a method learns."""
    asked = plan.method == DENSITY
    if any(table is not None and table.standard != asked for table in tables):
        kinds = ("standard", "with") if asked else ("Niggli", "without")
        raise ValueError(
            f"{plan.method} learns from crystals in {kinds[0]} cells; pack the tables "
            f"again {kinds[1]} --standard"
        )


def _notes(run: Run, plan: Plan, data: Packed, folder: Path) -> Iterator[Progress]:
    """Say that a run has no epoch left, or goes on with other structures than before."""
    mark, said = mark_of(data), None
    if run.epoch >= plan.epochs:
        said = f"{folder} has had {run.epoch} epochs; to go on, ask for more than these"
    elif run.data not in ("", mark):
        said = f"{folder} goes on with other structures than it was trained with before"
    if said:
        yield Progress("note", run.step, run.step, None, said)
    run.data = mark


def _stepped(run: Run, plan: Plan, data: Packed, now: dict[str, Any]) -> Iterator[Progress]:
    """Take a step and return its row; where memory is short, cut blocks and say so."""
    while True:
        try:
            return take_step(run, plan, data, **now)
        except (RuntimeError, MemoryError) as error:
            if not out_of_memory(error):
                raise
            if parallel.place()[1] > 1 or run.pieces >= max(map(len, now["blocks"])):
                raise MemoryError(
                    "too little memory for a single crystal, or for the share of one of "
                    "several processes; end other programs or take a smaller network"
                ) from error
        run.optimiser.zero_grad(set_to_none=True)
        free_memory()
        run.pieces *= 2
        said = f"memory is short: blocks of crystals are cut into {run.pieces} from here on"
        yield Progress("note", run.step, run.step, None, said)


def _measured(
    model: Network, validation: Packed, plan: Plan, entries: int
) -> dict[str, float]:
    """What held-out crystals say of a network; match or hit rates if there are entries."""
    if isinstance(model, PairNet):
        return hit_rates(model, validation) if entries else {}
    device = str(next(model.parameters()).device)
    if isinstance(model, CellNet):
        return cell_rates(model, validation, entries=entries, device=device)
    if isinstance(model, LatentNet):
        return latent_rates(model, validation, entries=entries, device=device)
    if isinstance(model, DensityNet):
        return density_rates(model, validation, entries=entries, device=device)
    return validate(model, validation, method=plan.method, entries=entries, device=device)


def _range(data: Packed) -> dict[str, Any]:
    """What a network was trained on: how many structures, atoms and which elements."""
    return {
        "structures": len(data),
        "atoms": int(data.crystals.counts.max()),
        "elements": data.crystals.numbers.unique().tolist(),
    }


def _write(path: Path, run: Run, plan: Plan) -> None:
    """The state, by the first process."""
    if parallel.place()[0] == 0:
        save(path, run, plan)


def _noted(
    folder: Path, plan: Plan, row: dict[str, Any], began: float
) -> tuple[str, float]:
    """A line added to the log; what it says, and the seconds since the run began."""
    seconds = round(time.perf_counter() - began, 1)
    if parallel.place()[0] == 0:
        log.add(folder / LOG, {**row, "seconds": seconds}, log.columns(plan.method))
    return log.said(row), seconds
