"""A run and its state on disk: everything to go on as if it had not stopped."""

from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor

from xrdkit.models.checkpoint import (
    Network,
    network_of,
    new_network,
    read_tensors,
    size_of,
    start_network,
    write_tensors,
)
from xrdkit.models.crystal_net import Size
from xrdkit.models.weights import located
from xrdkit.train.plan import Plan

STATE, CONSTANT = "state.safetensors", "constant.safetensors"
KIND = "training state"


@dataclass
class Run:
    """What changes during training."""

    model: Network
    average: dict[str, Tensor]
    optimiser: torch.optim.AdamW
    step: int = 0
    epoch: int = 0
    done: int = 0  # steps of this epoch
    data: str = ""  # mark of the structures that it learns from
    pieces: int = 1  # into which blocks are cut, where memory is short


def averaged(run: Run) -> Network:
    """A copy of the network with the averaged weights, for use."""
    model = type(run.model)(run.model.size).to(next(run.model.parameters()).device)
    model.load_state_dict(run.average)
    return model.eval()


def begin(
    folder: Path, plan: Plan, size: Size | None, start: str | Path | None, device: str
) -> Run:
    """A new run, or the one in the folder; extended, from before its rate fell."""
    path = folder / STATE
    if not path.exists():
        with torch.random.fork_rng(devices=[]):  # weights depend on the seed alone
            torch.manual_seed(plan.seed)
            if start is None:
                model = new_network(plan.method, size)
            else:
                model = start_network(located(start), plan.method, size)
                _same_size(start, model.size, size)
        return _run(model.to(device), plan)
    tensors, header = read_tensors(path, KIND)
    _same_size(path, size_of(header, path), size)
    before = Plan(**header["plan"])
    own, asked = asdict(before), asdict(plan)
    if other := [k for k in own if own[k] != asked[k] and k not in ("epochs", "decay")]:
        raise ValueError(
            f"{path} was trained with {', '.join(f'{k} {own[k]}' for k in other)}, asked "
            f"is {', '.join(f'{k} {asked[k]}' for k in other)}; only epochs and decay may "
            "change: ask for the same, or begin in another folder with start="
        )
    done = header["epoch"] + (header["done"] > 0)
    if plan != before and before.falling(done) and (folder / CONSTANT).exists():
        tensors, header = read_tensors(folder / CONSTANT, KIND)
        (folder / CONSTANT).unlink()
    return _restored(tensors, header, plan, device, path)


def _same_size(path: str | Path, own: Size, asked: Size | None) -> None:
    """Refuse to go on with a network of other sizes than those that are asked for."""
    if asked not in (None, own):
        raise ValueError(
            f"{path} holds a network of {own}, asked is {asked}; ask for the same or none, "
            "or begin in another folder"
        )


def _run(model: Network, plan: Plan) -> Run:
    optimiser = torch.optim.AdamW(
        model.parameters(),
        plan.rate,
        betas=(0.9, 0.98),
        weight_decay=plan.weight_decay,
        fused=True,
    )
    average = {k: v.detach().clone() for k, v in model.state_dict().items()}
    return Run(model, average, optimiser)


def save(path: Path, run: Run, plan: Plan) -> None:
    """Everything that training needs to go on as if it had not stopped."""
    tensors = {f"model.{k}": v for k, v in run.model.state_dict().items()}
    tensors |= {f"average.{k}": v for k, v in run.average.items()}
    for name, parameter in run.model.named_parameters():
        for k, value in run.optimiser.state.get(parameter, {}).items():
            tensors[f"{k}.{name}"] = value
    facts = {
        "plan": asdict(plan),
        "size": asdict(run.model.size),
        **{k: getattr(run, k) for k in ("step", "epoch", "done", "data")},
    }
    write_tensors(path, KIND, tensors, facts)


def _restored(
    tensors: dict[str, Tensor], header: dict, plan: Plan, device: str, path: Path
) -> Run:
    parts: dict[str, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        kind, _, name = key.partition(".")
        parts.setdefault(kind, {})[name] = value.to(device)
    model = network_of(plan.method, header, parts.pop("model"), path)
    run = _run(model.to(device), plan)
    run.average = parts.pop("average")
    for name, parameter in model.named_parameters():
        if name in parts.get("exp_avg", {}):
            state = {kind: values[name] for kind, values in parts.items()}
            run.optimiser.state[parameter] = state
    run.step, run.epoch, run.done = (header[k] for k in ("step", "epoch", "done"))
    run.data = header.get("data", "")
    return run
