"""How well a generator does on crystals that it was not trained on."""

import torch

from xrdkit.models import cell_net
from xrdkit.models.cell_net import CellNet
from xrdkit.models.crystal_net import PatternNet
from xrdkit.models.lattice import lattice_of
from xrdkit.models.speed import autocast
from xrdkit.packed import Packed
from xrdkit.q_profile import clean_profiles
from xrdkit.train.data import batch_of, taken
from xrdkit.train.plan import METHODS

LOSS_ENTRIES = 256  # crystals over which losses are averaged
DRAWN, NEAR = 100, 0.03  # cells of each pattern, and how near is near
SAMPLING = 50  # steps of the samples whose match rate is logged


def validate(
    model: PatternNet,
    data: Packed,
    *,
    method: str = "flow",
    entries: int = 64,
    seed: int = 0,
    device: str = "cpu",
) -> dict[str, float]:
    """Losses on 256 crystals with clean patterns, and match rates of one sample each."""
    order = torch.randperm(len(data), generator=torch.Generator().manual_seed(seed))
    part = taken(data, order[:LOSS_ENTRIES]).to(device)
    seen = clean_profiles(part.crystals)
    counts = part.crystals.counts.cpu()
    sums = torch.zeros(3)
    generator = torch.Generator().manual_seed(seed)
    for n in counts.unique().tolist():
        index = torch.nonzero(counts == n).flatten().to(device)
        with torch.no_grad(), autocast(device):
            losses = METHODS[method].loss(model, batch_of(part, index, seen), generator)
        sums += len(index) / len(part) * torch.stack([v.float().cpu() for v in losses])
    row = {"val_atoms": float(sums[1]), "val_cell": float(sums[2])}
    if not entries:
        return row
    few = taken(data, order[:entries])
    for name, known in (("match_cell", True), ("match", False)):
        rmse = matches(model, few, known=known, method=method, seed=seed, device=device)
        if rmse is not None:
            row[name] = sum(first is not None for first, *_ in rmse) / len(rmse)
    return row


def cell_rates(
    model: CellNet, data: Packed, *, entries: int = 64, seed: int = 0, device: str = "cpu"
) -> dict[str, float]:
    """The loss on 256 crystals, and how many of some have a near cell among many drawn.

    Near are 3 % in every edge and 3° in every angle of the Niggli cell, before any polish.
    """
    order = torch.randperm(len(data), generator=torch.Generator().manual_seed(seed))
    part = taken(data, order[:LOSS_ENTRIES]).to(device)
    seen, counts = clean_profiles(part.crystals), part.crystals.counts.cpu()
    generator, total, near = torch.Generator().manual_seed(seed), 0.0, []
    for n in counts.unique().tolist():
        index = torch.nonzero(counts == n).flatten().to(device)
        batch = batch_of(part, index, seen)
        few = index < entries
        with torch.no_grad(), autocast(device):
            total += len(index) * float(cell_net.loss(model, batch, generator).loss)
            known = torch.ones(int(few.sum()), 2, dtype=torch.bool, device=device)
            asked = model.asked(batch.profile[few], batch.numbers[few], known)
            drawn = cell_net.sample(model, asked, generator, count=DRAWN)
        off = (drawn - batch.cell[few, None]).abs()
        off = torch.cat([off[..., :3] / batch.cell[few, None, :3], off[..., 3:] / 100], -1)
        near += (off.amax(-1) < NEAR).any(1).tolist()
    row = {"val_cell": total / len(part)}
    return row | ({"val_near": sum(near) / len(near)} if near else {})


def matches(
    model: PatternNet,
    data: Packed,
    *,
    known: bool,
    method: str = "flow",
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
        with torch.no_grad(), autocast(device):
            seen = model.encoder(batch.profile).repeat(samples)
            numbers = batch.numbers.repeat_interleave(samples, 0)
            cell = batch.cell.repeat_interleave(samples, 0) if known else None
            *_, last = METHODS[method].sample(
                model, numbers, seen, generator, steps=steps, cell=cell
            )
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
