"""How well a generator does on crystals that it was not trained on."""

from collections.abc import Sequence
from statistics import fmean
from typing import Any

import torch

from xrdkit.density import on_grid
from xrdkit.metrics import psnr, ssim
from xrdkit.models import cell_net, density_net, latent
from xrdkit.models.cell_net import CellNet
from xrdkit.models.checkpoint import LATENTS
from xrdkit.models.crystal_net import PatternNet
from xrdkit.models.density_net import DensityNet, field, formula_of
from xrdkit.models.generate import flat
from xrdkit.models.latent import LatentNet
from xrdkit.models.speed import autocast
from xrdkit.packed import Packed
from xrdkit.q_profile import clean_profiles
from xrdkit.train.data import Patterns, batch_of, taken
from xrdkit.train.plan import METHODS, Plan
from xrdkit.types import Crystals

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


def latent_rates(
    model: LatentNet, data: Packed, *, entries: int = 64, seed: int = 0, device: str = "cpu"
) -> dict[str, float]:
    """Losses on 256 crystals, and how many of some match what is decoded of their z.

    That is CDVAE's reconstruction: cell and coordinates from the mean of z, with the true
    numbers of atoms and elements.
    """
    order = torch.randperm(len(data), generator=torch.Generator().manual_seed(seed))
    part = taken(data, order[:LOSS_ENTRIES]).to(device)
    seen = Patterns(part, Plan(LATENTS, strain=0.0, swaps=0.0))
    seen.renew(0)
    counts = part.crystals.counts.cpu()
    sums, answers = torch.zeros(len(latent.Loss._fields)), {}
    generator = torch.Generator().manual_seed(seed)
    for n in counts.unique().tolist():
        index = torch.nonzero(counts == n).flatten().to(device)
        batch, own = seen.batch(index), index[index < entries]
        with torch.no_grad(), autocast(device):
            losses = latent.loss(model, batch, generator)
            if len(own):
                few = seen.batch(own)
                z = model.encode(few.numbers, few.frac, few.cell).mean
                *_, last = latent.sample(model, few.numbers, z, generator)
                made = flat(few.numbers, last.frac, last.cell)
                rows = torch.arange(len(own), device=device)[:, None]
                answers |= dict(zip(own.tolist(), map(made.select, rows), strict=True))
        sums += len(index) / len(part) * torch.stack([v.float().cpu() for v in losses])
    named = zip(latent.Loss._fields, sums.tolist(), strict=True)
    row = {f"val_{k}": v for k, v in named if k in ("atoms", "cell", "pattern")}
    if not entries:
        return row
    try:
        own = [answers[i] for i in sorted(answers)]
        rmse = compared(taken(data, order[: len(own)]), own)
    except ImportError:  # pymatgen is not installed
        return row
    return row | {"match": sum(first is not None for (first,) in rmse) / len(rmse)}


def density_rates(
    model: DensityNet,
    data: Packed,
    *,
    entries: int = 64,
    seed: int = 0,
    device: str = "cpu",
) -> dict[str, float]:
    """Losses on 256 crystals; SSIM and PSNR of some, of the mean of what is seen.

    Patterns are clean and formulas known; the pose is the one that was learned.
    """
    order = torch.randperm(len(data), generator=torch.Generator().manual_seed(seed))
    part = taken(data, order[:LOSS_ENTRIES]).to(device)
    seen, counts = clean_profiles(part.crystals), part.crystals.counts.cpu()
    generator, sums, near = torch.Generator().manual_seed(seed), torch.zeros(4), []
    for n in counts.unique().tolist():
        index = torch.nonzero(counts == n).flatten().to(device)
        with torch.no_grad(), autocast(device):
            losses = density_net.loss(model, batch_of(part, index, seen), generator)
        sums += len(index) / len(part) * torch.stack([v.float().cpu() for v in losses])
        few = index[index < entries]
        for i in few.split(8) if len(few) else ():
            batch = batch_of(part, i, seen)
            with torch.no_grad(), autocast(device):
                found = model.latent(batch.profile, formula_of(batch.numbers))
                answers = field(model, model.told(found.mean)).cpu().numpy()
            truths = on_grid(part.crystals.select(i)).cpu().numpy()
            near += [(ssim(t, a), psnr(t, a)) for t, a in zip(truths, answers, strict=True)]
    row = {"val_density": float(sums[1]), "val_cell": float(sums[3])}
    if near:
        row["val_ssim"], row["val_psnr"] = map(fmean, zip(*near, strict=True))
    return row


def matches(
    model: PatternNet, data: Packed, **settings: Any
) -> list[list[float | None]] | None:
    """RMSE of each sample of each entry (None: no literature match), as ``drawn``.

    None where pymatgen is not installed.
    """
    try:
        import pymatgen.core  # noqa: F401
    except ImportError:
        return None
    return compared(data, drawn(model, data, **settings))


def compared(data: Packed, answers: Sequence[Crystals]) -> list[list[float | None]]:
    """RMSE of each answer to each entry, None where there is no literature match."""
    from xrdkit.crystal import to_structure
    from xrdkit.metrics import normalised_rmse

    found = []
    for i, answer in enumerate(answers):
        truth, own = to_structure(data.crystals, i), answer.to("cpu")
        structures = [to_structure(own, k) for k in range(len(own))]
        found.append([normalised_rmse(truth, one) for one in structures])
    return found


def drawn(
    model: PatternNet,
    data: Packed,
    *,
    known: bool,
    method: str = "flow",
    samples: int = 1,
    steps: int = SAMPLING,
    seed: int = 0,
    device: str = "cpu",
    **way: Any,
) -> list[Crystals]:
    """``samples`` crystals for each entry, from its clean pattern and the atoms it has.

    In true cells where these are ``known``; ``way`` is what else ``sample`` takes.
    """
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
                model, numbers, seen, generator, steps=steps, cell=cell, **way
            )
        every = flat(numbers, last.frac, last.cell)
        for row, i in enumerate(index.tolist()):
            chosen = torch.arange(row * samples, (row + 1) * samples, device=device)
            found[i] = every.select(chosen)
    return found
