"""Training: one loop, a generator, that goes on where it stopped.

A run lives in a folder: ``state.safetensors`` (everything, to go on bit for bit),
``constant.safetensors`` (the same before the rate began to fall, to extend the run),
``weights.safetensors`` (the averaged weights, to use) and ``log.csv``.
"""

import csv
import math
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from xrdkit.models import flow
from xrdkit.models.checkpoint import fill, read_tensors, save_flow, write_tensors
from xrdkit.models.crystal_net import Size
from xrdkit.models.lattice import cell_of, lattice_of
from xrdkit.packed import UNIMODULAR, Packed
from xrdkit.q_profile import clean_profiles, profiles
from xrdkit.types import Batch, Progress

STATE, CONSTANT, WEIGHTS, LOG = (
    "state.safetensors",
    "constant.safetensors",
    "weights.safetensors",
    "log.csv",
)
COLUMNS = (
    "step epoch seconds rate loss atoms cell norm val_atoms val_cell match_cell match"
).split()
SAMPLING = 50  # steps of the samples whose match rate is logged


@dataclass(frozen=True)
class Plan:
    """How to train; stored with the state, and a run goes on only with the same."""

    epochs: float = 100.0
    decay: float = 0.2  # share of the epochs over which the rate falls to zero
    rate: float = 1e-3
    warm_up: int = 300  # steps
    crystals: int = 192  # of a step, at least
    block: int = 64  # crystals of a dense block at most
    edges: int = 12_800  # pairs of atoms in a dense block at most
    average: float = 0.999  # of the averaged weights, per step
    clip: float = 1.0  # norm of the gradient
    weight_decay: float = 0.01
    clean: float = 0.5  # share of noise-free patterns
    turns: int = 4  # epochs for which a simulated pattern is used
    settings: int = 3  # settings of the cell among which the nearest is taken
    seed: int = 0

    def factor(self, step: int, epoch: float) -> float:
        """The rate relative to ``rate``: warm-up, constant, decay at the end."""
        warm = min(1.0, (step + 1) / max(self.warm_up, 1))
        left = (self.epochs - epoch) / max(self.epochs * self.decay, 1e-9)
        return warm * min(1.0, max(left, 0.0))

    def falling(self, epoch: float) -> bool:
        """Whether the rate has begun to fall."""
        return epoch > self.epochs * (1 - self.decay)


class Diverged(FloatingPointError):
    """The loss or its gradient is no number any more; names step, block and structures."""


@dataclass
class Run:
    """What changes during training."""

    model: flow.FlowModel
    average: dict[str, Tensor]
    optimiser: torch.optim.AdamW
    step: int = 0
    epoch: int = 0
    done: int = 0  # steps of this epoch


@cache
def fast_dtype(device: str) -> torch.dtype:
    """bf16 where it multiplies matrices at least 1.5 times as fast as fp32."""
    if device.startswith("cuda"):
        return torch.bfloat16
    return torch.bfloat16 if _seconds(torch.float32) > 1.5 * _seconds(torch.bfloat16) else (
        torch.float32
    )


def _seconds(dtype: torch.dtype) -> float:
    a = torch.ones(2048, 256, dtype=dtype)
    b = torch.ones(256, 256, dtype=dtype)
    times = []
    for _ in range(6):
        start = time.perf_counter()
        torch.nn.functional.linear(a, b)
        times.append(time.perf_counter() - start)
    return min(times)


def steps_of(
    counts: Int[Tensor, " crystals"], plan: Plan, epoch: int
) -> list[list[Int[Tensor, " chosen"]]]:
    """An epoch's steps: each some blocks of crystals with equally many atoms."""
    generator = torch.Generator().manual_seed(plan.seed * 1_000_003 + epoch)
    blocks = []
    for n in counts.unique().tolist():
        index = torch.nonzero(counts == n).flatten()
        index = index[torch.randperm(len(index), generator=generator)]
        blocks += index.split(max(1, min(plan.block, plan.edges // n**2)))
    steps: list[list[Tensor]] = [[]]
    for i in torch.randperm(len(blocks), generator=generator).tolist():
        if sum(map(len, steps[-1])) >= plan.crystals:
            steps.append([])
        steps[-1].append(blocks[i])
    return steps


class Patterns:
    """Simulated profiles of all crystals; every epoch one of ``turns`` parts is new.

    What an epoch sees depends on it and the seed alone, so that a run goes on exactly.
    """

    def __init__(self, data: Packed, plan: Plan, epoch: int) -> None:
        self.data, self.plan = data, plan
        generator = torch.Generator().manual_seed(plan.seed)
        self.parts = torch.randperm(len(data), generator=generator).chunk(plan.turns)
        device = data.crystals.lattice.device
        self.profiles = torch.zeros(
            len(data), 2, 1024, dtype=torch.float16, device=device
        )
        for part in range(len(self.parts)):
            self.renew(epoch - (epoch - part) % plan.turns)

    def renew(self, epoch: int) -> None:
        """Simulate the part whose turn it is in this epoch."""
        part = epoch % self.plan.turns
        seed = (self.plan.seed * 1_000_003 + epoch + self.plan.turns) * 7 + 5
        generator = torch.Generator().manual_seed(seed)
        if part < len(self.parts):
            for index in self.parts[part].split(1024):
                crystals = self.data.crystals.select(index.to(self.profiles.device))
                made = profiles(crystals, generator, clean=self.plan.clean)
                self.profiles[index.to(self.profiles.device)] = made.half()


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
    run = _begin(folder, plan, size, start, device)
    _shorten(folder / LOG, run.step)
    began, seconds = time.perf_counter(), _seconds_so_far(folder / LOG)
    seen: Patterns | None = None
    while run.epoch < plan.epochs:
        steps = steps_of(counts, plan, run.epoch)
        if seen is None:
            seen = Patterns(data, plan, run.epoch)
        elif run.done == 0:
            seen.renew(run.epoch)
        total = math.ceil(len(steps) * plan.epochs)
        while run.done < len(steps):
            epoch = run.epoch + run.done / len(steps)
            if plan.falling(epoch) and not (folder / CONSTANT).exists():
                _save(folder / CONSTANT, run, plan)
            row = _step(run, plan, data, steps[run.done], seen, epoch, folder)
            row["seconds"] = round(seconds + time.perf_counter() - began, 1)
            _log(folder / LOG, row)
            try:
                yield Progress("step", run.step, total, None, _said(row), row["seconds"])
            except GeneratorExit:
                _save(folder / STATE, run, plan)
                raise
        run.epoch, run.done = run.epoch + 1, 0
        _save(folder / STATE, run, plan)
        row = {"step": run.step, "epoch": run.epoch}
        if validation is not None:
            few = entries if run.epoch % every == 0 or run.epoch >= plan.epochs else 0
            row |= validate(averaged(run), validation, entries=few, device=device)
        row["seconds"] = round(seconds + time.perf_counter() - began, 1)
        _log(folder / LOG, row)
        facts = {"structures": len(data), **row, "plan": asdict(plan)}
        save_flow(folder / WEIGHTS, averaged(run), facts)
        done, whole = run.epoch, math.ceil(plan.epochs)
        yield Progress("epoch", done, whole, None, _said(row), row["seconds"])
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
    dtype = fast_dtype(str(device))
    for index in blocks:
        chosen = index.to(device)
        batch = batch_of(data, chosen, seen.profiles)
        settings = settings_for(data, chosen, plan.settings, generator)
        with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
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
    torch._foreach_lerp_([run.average[k] for k in names], [w.data for w in weights], 1 - keep)
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
    _save(folder / STATE, run, plan)
    names = [data.ids[i] for i in index[:5].tolist()]
    raise Diverged(
        f"the loss is not a number at step {run.step}, in a block of {len(index)} "
        f"structures ({', '.join(names)}, …); the state before it is in "
        f"{folder / STATE}: go on with a lower rate, or leave these structures out"
    )


def averaged(run: Run) -> flow.FlowModel:
    """A copy of the network with the averaged weights, for use."""
    model = flow.FlowModel(run.model.size).to(next(run.model.parameters()).device)
    model.load_state_dict(run.average)
    return model.eval()


def _begin(
    folder: Path, plan: Plan, size: Size | None, start: str | Path | None, device: str
) -> Run:
    """A new run, or the one in the folder; extended, from before its rate fell."""
    torch_seed = torch.Generator().manual_seed(plan.seed)
    path = folder / STATE
    if not path.exists():
        model = _new(size, torch_seed)
        if start is not None:
            weights, header = read_tensors(start, "flow")
            model = flow.FlowModel(Size(**header["size"]))
            fill(model, weights, start)
        return _run(model.to(device), plan)
    tensors, header = read_tensors(path, "flow state")
    before = Plan(**header["plan"])
    if replace(plan, epochs=before.epochs, decay=before.decay) != before:
        raise ValueError(
            f"{path} was trained with {before}, asked is {plan}; only epochs and decay "
            "may change, or begin in another folder with start="
        )
    done = header["epoch"] + (header["done"] > 0)
    if plan != before and before.falling(done) and (folder / CONSTANT).exists():
        tensors, header = read_tensors(folder / CONSTANT, "flow state")
        (folder / CONSTANT).unlink()
    return _restored(tensors, header, plan, device, path)


def _new(size: Size | None, generator: torch.Generator) -> flow.FlowModel:
    """A network whose weights depend on the generator alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(generator.initial_seed())
        return flow.FlowModel(size)


def _run(model: flow.FlowModel, plan: Plan) -> Run:
    optimiser = torch.optim.AdamW(
        model.parameters(),
        plan.rate,
        betas=(0.9, 0.98),
        weight_decay=plan.weight_decay,
        fused=True,
    )
    average = {k: v.detach().clone() for k, v in model.state_dict().items()}
    return Run(model, average, optimiser)


def _save(path: Path, run: Run, plan: Plan) -> None:
    """Everything that training needs to go on as if it had not stopped."""
    tensors = {f"model.{k}": v for k, v in run.model.state_dict().items()}
    tensors |= {f"average.{k}": v for k, v in run.average.items()}
    for name, parameter in run.model.named_parameters():
        for k, value in run.optimiser.state.get(parameter, {}).items():
            tensors[f"{k}.{name}"] = value
    facts = {
        "plan": asdict(plan),
        "size": asdict(run.model.size),
        **{k: getattr(run, k) for k in ("step", "epoch", "done")},
    }
    write_tensors(path, "flow state", tensors, facts)


def _restored(
    tensors: dict[str, Tensor], header: dict, plan: Plan, device: str, path: Path
) -> Run:
    parts: dict[str, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        kind, _, name = key.partition(".")
        parts.setdefault(kind, {})[name] = value.to(device)
    model = flow.FlowModel(Size(**header["size"]))
    fill(model, parts.pop("model"), path)
    run = _run(model.to(device), plan)
    run.average = parts.pop("average")
    for name, parameter in model.named_parameters():
        if name in parts.get("exp_avg", {}):
            state = {kind: values[name] for kind, values in parts.items()}
            run.optimiser.state[parameter] = state
    run.step, run.epoch, run.done = (header[k] for k in ("step", "epoch", "done"))
    return run


def validate(
    model: flow.FlowModel,
    data: Packed,
    *,
    entries: int = 64,
    seed: int = 0,
    device: str = "cpu",
) -> dict[str, float]:
    """Losses on 256 crystals with clean patterns, and match rates of one sample each."""
    order = torch.randperm(len(data), generator=torch.Generator().manual_seed(seed))
    part = taken(data, order[:256]).to(device)
    seen = clean_profiles(part.crystals)
    counts = part.crystals.counts.cpu()
    sums = torch.zeros(3)
    generator = torch.Generator().manual_seed(seed)
    for n in counts.unique().tolist():
        index = torch.nonzero(counts == n).flatten().to(device)
        with torch.no_grad(), _autocast(device):
            losses = flow.loss(model, batch_of(part, index, seen), generator)
        sums += len(index) / len(part) * torch.stack([v.float().cpu() for v in losses])
    row = {"val_atoms": float(sums[1]), "val_cell": float(sums[2])}
    few = taken(data, order[:entries])
    for name, known in (("match_cell", True), ("match", False)) if entries else ():
        rmse = matches(model, few, known=known, seed=seed, device=device)
        if rmse is not None:
            row[name] = sum(r[0] is not None for r in rmse) / len(rmse)
    return row


def _autocast(device: str) -> torch.autocast:
    dtype = fast_dtype(device)
    return torch.autocast(device.split(":")[0], dtype, enabled=dtype != torch.float32)


def taken(data: Packed, index: Int[Tensor, " chosen"]) -> Packed:
    """The packed structures of these indices."""
    names = tuple(data.ids[i] for i in index.tolist())
    low, high = data.starts[index], data.starts[index + 1]
    rows = torch.cat([torch.arange(*pair) for pair in zip(low, high, strict=True)])
    ends = (high - low).cumsum(0)
    starts = torch.cat([ends.new_zeros(1), ends])
    return Packed(names, data.crystals.select(index), data.settings[rows], starts)


def matches(
    model: flow.FlowModel,
    data: Packed,
    *,
    known: bool,
    samples: int = 1,
    steps: int = SAMPLING,
    seed: int = 0,
    device: str = "cpu",
) -> list[list[float | None]] | None:
    """RMSE of each sample of each entry (None: no literature match), clean patterns.

    None where pymatgen is not installed. Cells are the true ones, or unknown.
    """
    try:
        from pymatgen.core import Structure

        from xrdkit.metrics import normalised_rmse
    except ImportError:
        return None
    found: list = [None] * len(data)
    generator = torch.Generator().manual_seed(seed)
    part = data.to(device)
    profile = clean_profiles(part.crystals)
    counts = part.crystals.counts.cpu()
    for n in counts.unique().tolist():
        index = torch.nonzero(counts == n).flatten().to(device)
        batch = batch_of(part, index, profile)
        with torch.no_grad(), _autocast(device):
            seen = model.encoder(batch.profile).repeat(samples)
            numbers = batch.numbers.repeat_interleave(samples, 0)
            cell = batch.cell.repeat_interleave(samples, 0) if known else None
            *_, last = flow.sample(model, numbers, seen, generator, steps=steps, cell=cell)
        lattice = lattice_of(last.cell).double().cpu().numpy()
        frac, true = last.frac.double().cpu().numpy(), batch.frac.double().cpu().numpy()
        real = lattice_of(batch.cell).double().cpu().numpy()
        for row, i in enumerate(index.tolist()):
            elements = batch.numbers[row].tolist()
            truth = Structure(real[row], elements, true[row])
            chosen = range(row * samples, (row + 1) * samples)
            answers = [Structure(lattice[k], elements, frac[k]) for k in chosen]
            found[i] = [normalised_rmse(truth, answer) for answer in answers]
    return found


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
        return max((float(row["seconds"] or 0) for row in csv.DictReader(file)), default=0.0)


def _said(row: dict[str, Any]) -> str:
    """A row of the log in words."""
    shown = {k: f"{v:.4g}" for k, v in row.items() if k not in ("step", "seconds")}
    return ", ".join(f"{k} {v}" for k, v in shown.items())
