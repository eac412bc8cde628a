"""Down in the latent space, to where a pattern, a number of atoms and elements are said.

PXRDnet's equation 4, of many starts at once: the L1 of the pattern, -log p(z) of the normal
prior, and cross entropies of number of atoms and composition; Adam, whose rate falls as a
cosine, with warm restarts (Loshchilov and Hutter, "SGDR", ICLR 2017). Ours adds noise as
wide as the encoder's: without, z comes to say the pattern in ways that no crystal has, and
the cell that is decoded is off by ten times as much.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional

from xrdkit.models.latent import LatentNet
from xrdkit.nanocrystal import normalised

PRIOR, COUNT, COMPOSITION = 2e-4, 0.1, 0.1  # weights of equation 4
RATES = 0.1, 1e-4  # at the beginning and the end of each period
PERIODS = 30, 70  # steps, with a warm restart after each; more leave what crystals have
CONVERGED = 0.01  # gain of a period, relative to the objective, at which it is the last


@dataclass(frozen=True)
class Target:
    """What z is to say: a pattern on ``nano_grid`` as far as it was seen, and contents.

    ``size`` is that of the crystals in Å, ``composition`` the shares of the elements by
    atomic number.
    """

    curve: Float[Tensor, " 512"]
    seen: Bool[Tensor, " 512"]
    size: float
    composition: Float[Tensor, " elements"]

    def apart(self, curves: Float[Tensor, "starts 512"]) -> Float[Tensor, " starts"]:
        """Mean absolute difference of patterns from this one, where it was seen."""
        found = normalised(curves, self.seen) - self.curve
        return found[:, self.seen].abs().mean(1)


def objective(
    model: LatentNet,
    z: Float[Tensor, "starts 256"],
    target: Target,
    atoms: Int[Tensor, " starts"],
) -> Float[Tensor, " starts"]:
    """Equation 4; ``atoms`` are the numbers of them in a primitive cell."""
    size = z.new_tensor([target.size])
    prior = z.square().sum(1) / 2
    count = functional.cross_entropy(model.count(z), atoms - 1, reduction="none")
    said = model.composition(z).log_softmax(1)
    composition = -(target.composition * said).sum(1)
    pattern = target.apart(model.pattern(z, size))
    return pattern + PRIOR * prior + COUNT * count + COMPOSITION * composition


def descend(
    model: LatentNet,
    z: Float[Tensor, "starts 256"],
    target: Target,
    atoms: Int[Tensor, " starts"],
    spread: Float[Tensor, "starts 256"],
    generator: torch.Generator,
    periods: Sequence[int] = PERIODS,
) -> Iterator[Float[Tensor, " starts"]]:
    """Yield the objective of all starts at every step; return the points that are reached.

    Each step is taken from z with normal noise of this ``spread``. It ends after a period
    in which the mean has gained little.
    """
    z, before = z.clone().requires_grad_(), math.inf
    adam = torch.optim.Adam([z], RATES[0])
    high, low = RATES
    for period in periods:
        for step in range(period):
            wave = (1 + math.cos(math.pi * step / period)) / 2
            adam.param_groups[0]["lr"] = low + (high - low) * wave
            noise = torch.randn(z.shape, generator=generator).to(z.device)
            value = objective(model, z + spread * noise, target, atoms)
            (z.grad,) = torch.autograd.grad(value.sum(), z)
            adam.step()
            yield value.detach()
        now = float(value.detach().mean())
        if now > (1 - CONVERGED) * before:
            break
        before = now
    return z.detach()
