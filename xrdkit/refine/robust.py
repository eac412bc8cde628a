"""Intensity that no candidate explains is forgiven to all: foreign lines, spikes."""

from dataclasses import replace

import torch

from xrdkit.refine.grid import Grid
from xrdkit.refine.least_squares import Fitted

BEST = 20  # candidates, none of which explains a line that is forgiven
FAR = 2.0  # times the weighted root mean square misfit of the best, where weight halves
LEAST = 0.02  # share of the intensity that must be left by all


def forgiving(grid: Grid, fits: list[Fitted]) -> Grid:
    """The grid with less weight where the observed lies above every one of the best.

    The weight is divided by 1 + (e / 2σ)², e the least excess among the best candidates
    and σ the misfit of the best one; the same for all, so that residuals stay comparable.
    Where less than 2 % of the intensity is left by all, the grid stays as it is.
    """
    residual = torch.cat([f.residual for f in fits])
    rest = torch.cat([grid.observed - f.calculated - f.background for f in fits])
    best = residual.argsort()[:BEST]
    excess = rest[best].amin(0).clamp(min=0) * (grid.weight > 0)
    if float(excess.sum() / grid.observed.clamp(min=0).sum()) < LEAST:
        return grid
    seen = grid.weight > 0
    misfit = (grid.weight * rest[best[0]] ** 2)[seen].mean()
    return replace(
        grid, weight=grid.weight / (1 + grid.weight * excess**2 / (FAR**2 * misfit))
    )
