"""Diffusion of crystals as in DiffCSP, XtalNet's CCSG and PXRDGen, on the same network.

Coordinates: normal noise wrapped on the torus, σ from 0.005 to 0.5 exponentially in time;
the network predicts the score, in units of its root mean square at that σ. The cell's six
numbers: DDPM with the cosine schedule; the network predicts the clean ones.

Jiao et al., "Crystal structure prediction by joint equivariant diffusion", NeurIPS 2023.
Time runs as in ``flow``: 0 is noise, 1 the crystal, and the cell has a time of its own. The
mean over atoms of the score, which only moves the crystal as a whole, is removed.
"""

import math
from collections.abc import Iterator

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional

from xrdkit.models.encoder import Seen
from xrdkit.models.flow import (
    BLIND,
    LEGS,
    Legs,
    Loss,
    State,
    cell_of_metric,
    check_path,
    schedule,
    times,
    wrapped,
)
from xrdkit.models.lattice import decoded, encoded, metric_of
from xrdkit.types import Batch

LEAST, MOST = 0.005, 0.5  # σ of the coordinates
CORRECTION = 1e-5  # step of the corrector at the least σ, as DiffCSP's step_lr on MP-20
IMAGES = 3  # on either side, of the wrapped normal distribution


def spread(time: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """σ of the coordinates at a time."""
    return LEAST * (MOST / LEAST) ** (1 - time)


def signal(time: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """√ᾱ of the cell at a time: Nichol and Dhariwal's cosine schedule."""
    return torch.cos((1 - time) * (math.pi / 2) * 0.999)


def score(
    x: Float[Tensor, "*shape"], sigma: Float[Tensor, "*#shape"]
) -> Float[Tensor, "*shape"]:
    """Derivative of the logarithm of the wrapped normal density at a displacement x."""
    images = torch.arange(-IMAGES, IMAGES + 1, device=x.device)
    apart = wrapped(x)[..., None] + images
    share = (-(apart**2) / (2 * sigma[..., None] ** 2)).softmax(-1)
    return -(share * apart).sum(-1) / sigma**2


def score_scale(sigma: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """Root mean square of the score at σ, by quadrature over the torus."""
    x = (torch.arange(512, device=sigma.device) + 0.5) / 512 - 0.5
    images = torch.arange(-IMAGES, IMAGES + 1, device=sigma.device)
    wide = sigma[..., None]
    density = torch.exp(-((x[:, None] + images) ** 2) / (2 * wide[..., None] ** 2)).sum(-1)
    square = score(x.expand(*wide.shape[:-1], -1), wide) ** 2
    return ((square * density).sum(-1) / density.sum(-1)).sqrt()


def loss(
    model: nn.Module,
    batch: Batch,
    generator: torch.Generator,
    *,
    settings: Float[Tensor, "settings crystals 3 3"] | None = None,
    weight: float = 1.0,
) -> Loss:
    """Denoising loss of a batch of crystals with equally many atoms.

    Mean square error of the score in units of its root mean square, plus ``weight`` times
    that of the cell's clean six numbers where the cell is not known. The first of
    ``settings`` (unimodular matrices M that keep the metric, x' = x M⁻¹) is taken.
    """
    device = batch.frac.device
    crystals, atoms = batch.numbers.shape
    noise = torch.randn(crystals, atoms, 3, generator=generator).to(device)
    cell_noise = torch.randn(crystals, 6, generator=generator).to(device)
    time = times(crystals, generator, device)
    hidden = torch.rand(crystals, generator=generator).to(device) < BLIND
    frac, cell = in_setting(batch, settings)
    t, s = time[:, :1], time[:, 1:]
    x, target = noisy(frac, t, noise)
    clean = encoded(cell, atoms)
    y = signal(s) * clean + (1 - signal(s) ** 2).sqrt() * cell_noise
    y = torch.where(s < 1, y, clean)
    seen = model.encoder(batch.profile * ~hidden[:, None, None])
    out = model(batch.numbers, x, y, time, seen)
    by_atoms = functional.mse_loss(out.atoms, target)
    unknown = (s < 1).float()
    by_cell = ((out.cell - clean).square() * unknown).sum()
    by_cell = by_cell / (6 * unknown.sum()).clamp(min=1)
    return Loss(by_atoms + weight * by_cell, by_atoms, by_cell)


def in_setting(
    batch: Batch, settings: Float[Tensor, "settings crystals 3 3"] | None
) -> tuple[Float[Tensor, "crystals atoms 3"], Float[Tensor, "crystals 6"]]:
    """Coordinates and cells (Å, °) in the first of some settings, or as they are."""
    if settings is None:
        return batch.frac, batch.cell
    with torch.autocast(batch.frac.device.type, enabled=False):  # they keep all digits
        frac = batch.frac @ torch.linalg.inv(settings[0])
        metric = settings[0] @ metric_of(batch.cell) @ settings[0].mT
        return frac, cell_of_metric(metric)


def noisy(
    frac: Float[Tensor, "crystals atoms 3"],
    time: Float[Tensor, "crystals 1"],
    noise: Float[Tensor, "crystals atoms 3"],
) -> tuple[Float[Tensor, "crystals atoms 3"], Float[Tensor, "crystals atoms 3"]]:
    """Coordinates with noise as at a time, and the score there in units of its size."""
    sigma = spread(time)[..., None]
    target = score(sigma * noise, sigma.expand_as(noise))
    target = target - target.mean(1, keepdim=True)
    return frac + sigma * noise, target / score_scale(sigma)


def sample(
    model: nn.Module,
    numbers: Int[Tensor, "crystals atoms"],
    seen: Seen,
    generator: torch.Generator,
    *,
    steps: int = 50,
    cell: Float[Tensor, "crystals 6"] | None = None,
    known: float = 1.0,
    correction: float = 0.0,
    legs: Legs = LEGS,
) -> Iterator[State]:
    """Crystals of these atoms for these patterns, step by step; the last is the answer.

    Ancestral steps on the schedule of ``flow.sample`` (``legs``): the cell first, then the
    atoms, to which noise is added again three times. ``seen``, ``cell`` and ``known`` as
    there. With a ``correction``, the step of a Langevin corrector at the least σ (it grows
    with σ²), each step asks the network twice, as DiffCSP and XtalNet do in 1,000
    ``STRAIGHT`` steps.
    """
    check_path(steps, known)
    device = numbers.device
    crystals, atoms = numbers.shape

    def noise(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator).to(device)

    x = torch.rand(crystals, atoms, 3, generator=generator).to(device)
    y, begin = noise(crystals, 6), 0.0
    if cell is not None:
        begin = known
        share = signal(torch.tensor(known)) if known < 1 else torch.tensor(1.0)
        y = share * encoded(cell, atoms) + (1 - share**2).sqrt() * y
    yield State(0.0, x, decoded(y, atoms))
    for step in schedule(lambda: steps, begin, legs):
        time = x.new_tensor([[step.t, step.s]]).expand(crystals, 2)
        now, then = torch.tensor([step.t, step.t_then])
        sigma, less = spread(now), spread(then) * (then < 1)  # at last none
        scale = score_scale(sigma)
        if step.back:
            x = x + sigma * _centred(noise(*x.shape))
        if step.atoms and correction:
            size = correction * (sigma / LEAST) ** 2
            with torch.no_grad():
                field = model(numbers, x, y, time, seen).atoms * scale
            x = x + size * field + (2 * size).sqrt() * _centred(noise(*x.shape))
        with torch.no_grad():
            out = model(numbers, x, y, time, seen)
        if step.atoms:
            wide = less * (1 - (less / sigma) ** 2).sqrt() * _centred(noise(*x.shape))
            x = torch.remainder(x + (sigma**2 - less**2) * out.atoms * scale + wide, 1)
        if step.s < 1:
            y = _ancestral(y, out.cell, step.s, step.s_then, noise(*y.shape))
        yield State(step.done, x, decoded(y, atoms))


def _centred(x: Float[Tensor, "crystals atoms 3"]) -> Float[Tensor, "crystals atoms 3"]:
    """Without its mean over the atoms."""
    return x - x.mean(1, keepdim=True)


def _ancestral(
    y: Float[Tensor, "crystals 6"],
    clean: Float[Tensor, "crystals 6"],
    old: float,
    new: float,
    noise: Float[Tensor, "crystals 6"],
) -> Float[Tensor, "crystals 6"]:
    """One step of DDPM's posterior, q(y at new | y at old, clean), of the cell."""
    if new >= 1:
        return clean
    before, after = (signal(torch.tensor(time)) ** 2 for time in (old, new))
    kept = before / after
    mean = after.sqrt() * (1 - kept) * clean + kept.sqrt() * (1 - after) * y
    variance = (1 - after) * (1 - kept) / (1 - before)
    return mean / (1 - before) + variance.sqrt() * noise
