"""What files leave unsaid of the beam: Kα2, Kβ, automatic slits, one wider than the sample.

Each is tried on a few good candidates and kept where the pattern is explained clearly
better with it.
"""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import torch

from xrdkit.refine.block import Block
from xrdkit.refine.grid import Grid
from xrdkit.refine.least_squares import Stage, block_steps
from xrdkit.types import Instrument, Progress
from xrdkit.wavelengths import has_kbeta, is_line, radiation_choices, with_kbeta

FEW = Stage(0.0, 3.0, 4, True, True, 3)
OVERFLOWS = (20.0, 30.0, 45.0)  # ° of 2θ
K_BETAS = (0.01, 0.02, 0.04, 0.08)  # share of the Kα intensity
GAIN = 0.93  # a residual must fall by this factor
CLEAN = 0.05  # residual below which there is nothing to explain


def best_optics(grid: Grid, blocks: list[Block]) -> Iterator[Progress]:
    """Yield steps; return the grid with the radiation and slits that explain most.

    ``blocks`` are a few candidates. Whether Kα2 is there, if unknown, is decided by the
    lower residual; the others have to earn their place.
    """
    beams = radiation_choices(grid.radiation)
    doublets = [replace(grid, radiation=r) for r in beams] if len(beams) > 1 else [grid]
    residuals = yield from _residuals(doublets, blocks)
    grid, best = doublets[int(np.argmin(residuals))], min(residuals)
    for choices in (_slits(grid), _kbeta(grid)):
        if best < CLEAN or not choices:
            continue
        residuals = yield from _residuals(choices, blocks)
        if min(residuals) < GAIN * best:
            grid, best = choices[int(np.argmin(residuals))], min(residuals)
    return grid


def _residuals(grids: list[Grid], blocks: list[Block]) -> Iterator[Progress]:
    """Yield steps; return the lowest residual of the candidates with each grid."""
    found = []
    for grid in grids:
        fits = []
        for block in blocks:
            fits.append((yield from block_steps(block, grid, FEW)))
        residual = torch.cat([fitted.residual for fitted in fits])
        found.append(float(residual.nan_to_num(nan=torch.inf).min()))
    return found


def _slits(grid: Grid) -> list[Grid]:
    """Automatic slits and overflow, for a flat sample at a tube."""
    now = grid.instrument
    if not is_line(grid.radiation.main):
        return []
    if now.geometry != "bragg-brentano" or now.slits == "automatic" or now.overflow:
        return []
    low = float(grid.two_theta[0])
    changed = [replace(now, slits="automatic")]
    changed += [replace(now, overflow=o) for o in OVERFLOWS if o > low + 5]
    return [replace(grid, instrument=instrument) for instrument in changed]


def _kbeta(grid: Grid) -> list[Grid]:
    """Shares of Kβ, for a tube's Kα without."""
    if has_kbeta(grid.radiation):
        return []
    beams = [with_kbeta(grid.radiation, share) for share in K_BETAS]
    return [replace(grid, radiation=beam) for beam in beams if beam is not None]


def instrument_of(grid: Grid, shift: float) -> Instrument:
    """The instrument of a fit whose lines are shifted by this many degrees (at θ = 0)."""
    now = grid.instrument
    kept = (now.geometry, now.slits, now.radius)
    found = Instrument(*kept, u=grid.b**2, w=grid.a**2, overflow=now.overflow)
    if now.geometry != "bragg-brentano":
        return replace(found, zero=shift)
    return replace(found, displacement=-float(np.radians(shift)) * now.radius / 2)
