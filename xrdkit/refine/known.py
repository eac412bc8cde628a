"""Phases that are known to be in the sample: their profiles are fitted along linearly."""

from dataclasses import replace

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from xrdkit.refine.block import pack, profiles
from xrdkit.refine.grid import Grid
from xrdkit.refine.least_squares import Fitted
from xrdkit.refine.one_sided import STAGES, refined
from xrdkit.types import Candidate, Phase


def with_phases(grid: Grid, phases: tuple[Phase, ...]) -> Grid:
    """The grid with a linear column for each phase, its profile with maximum one."""
    if not phases:
        return grid
    curves = torch.stack([profile_of(phase, grid) for phase in phases], 1)
    heights = curves.amax(0).clamp_min(1e-30)
    return replace(grid, known=curves / heights, heights=heights)


def profile_of(phase: Phase, grid: Grid) -> Float[Tensor, " points"]:
    """The profile of a phase per unit of its volume fraction.

    Cell, shift and width follow the grid by a short one-sided refinement; overall B does
    not, as lines of other phases would bias it.
    """
    candidate = Candidate(phase.crystal, phase.symmetry, phase.name)
    highest = np.sin(np.radians(float(grid.two_theta[-1]) / 2))
    block = pack([candidate], float(4 * np.pi * highest / grid.radiation.main))
    block = refined(block.to(grid.observed.device), grid, STAGES[-1]).block
    block.values[:, -1] = 0
    return profiles(block, grid, False)[0][0]


def with_fractions(
    main: Phase, phases: tuple[Phase, ...], grid: Grid, fitted: Fitted, i: int
) -> tuple[Phase, ...]:
    """All phases with scale and weight fraction.

    Profiles are per volume fraction, so that mass is scale times density.
    """
    if not phases:
        return (main,)
    linear = torch.linalg.lstsq(grid.linear, fitted.background[i][:, None]).solution[:, 0]
    one = fitted.block.select(torch.tensor([i], device=linear.device))
    own = fitted.calculated[i].amax() / profiles(one, grid, False)[0].amax()
    others = linear[grid.smooth.shape[1] :].clamp_min(0) / grid.heights
    scales = [float(own), *others.tolist()]
    every = (main, *phases)
    masses = [s * density(phase) for s, phase in zip(scales, every, strict=True)]
    return tuple(
        replace(phase, scale=s, weight_fraction=mass / sum(masses))
        for phase, s, mass in zip(every, scales, masses, strict=True)
    )


def density(phase: Phase) -> float:
    """Mass per volume in u/Å³."""
    from pymatgen.core import Element

    crystal = phase.crystal
    masses = [float(Element.from_Z(z).atomic_mass) for z in crystal.numbers.tolist()]
    mass = (crystal.occupancy * torch.tensor(masses)).sum()
    return float(mass / crystal.volume[0])
