"""Phases that are known to be in the sample: their profiles are fitted along linearly."""

from dataclasses import replace

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from xrdkit.refine.block import Block, pack, profiles
from xrdkit.refine.grid import Grid
from xrdkit.refine.least_squares import Fitted
from xrdkit.types import Candidate, Phase

SHAPE = slice(-3, -1)  # of the parameters: log width and Lorentzian share


def with_phases(grid: Grid, phases: tuple[Phase, ...], like: Block | None = None) -> Grid:
    """The grid with a linear column for each phase, its profile with maximum one.

    Lines are as wide as those of the candidate ``like``.
    """
    if not phases:
        return grid
    curves = torch.stack([profile_of(phase, grid, like) for phase in phases], 1)
    return replace(grid, known=curves / curves.amax(0).clamp_min(1e-30))


def profile_of(
    phase: Phase, grid: Grid, like: Block | None = None
) -> Float[Tensor, " points"]:
    """The profile of a phase as it stands, per unit of its volume fraction."""
    candidate = Candidate(phase.crystal, phase.symmetry, phase.name)
    highest = np.sin(np.radians(float(grid.two_theta[-1]) / 2))
    block = pack([candidate], float(4 * np.pi * highest / grid.radiation.main))
    if like is not None:
        block.values[:, SHAPE] = like.values[:, SHAPE].cpu()
    return profiles(block.to(grid.observed.device), grid, False)[0][0]


def with_fractions(
    main: Phase, phases: tuple[Phase, ...], grid: Grid, fitted: Fitted, i: int
) -> tuple[tuple[Phase, ...], Float[Tensor, " points"]]:
    """All phases with scale and weight fraction, and the background without them.

    Profiles are per volume fraction, so that mass is scale times density.
    """
    if not phases:
        return (main,), fitted.background[i]
    linear = torch.linalg.lstsq(grid.linear, fitted.background[i][:, None]).solution[:, 0]
    terms = grid.smooth.shape[1]
    one = fitted.block.select(torch.tensor([i]))
    heights = [profiles(one, grid, False)[0].amax()]
    heights += [profile_of(phase, grid, one).amax() for phase in phases]
    tops = [fitted.calculated[i].amax(), *linear[terms:].clamp_min(0)]
    scales = [float(top / height) for top, height in zip(tops, heights, strict=True)]
    masses = [s * density(phase) for s, phase in zip(scales, (main, *phases), strict=True)]
    together = tuple(
        replace(phase, scale=s, weight_fraction=mass / sum(masses))
        for phase, s, mass in zip((main, *phases), scales, masses, strict=True)
    )
    return together, grid.smooth @ linear[:terms]


def density(phase: Phase) -> float:
    """Mass per volume in u/Å³."""
    from pymatgen.core import Element

    crystal = phase.crystal
    masses = [float(Element.from_Z(z).atomic_mass) for z in crystal.numbers.tolist()]
    mass = (crystal.occupancy * torch.tensor(masses)).sum()
    return float(mass / crystal.volume[0])
