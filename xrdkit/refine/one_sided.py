"""Phases held one-sidedly against the pattern of a mixture: search, refinement, score."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from xrdkit.pattern import inside_ranges
from xrdkit.peaks import typical_fwhm
from xrdkit.refine.block import Block, lines_of, pack
from xrdkit.refine.grid import Grid, make_grid
from xrdkit.refine.least_squares import Fitted, Stage, refine_block, state
from xrdkit.scattering import lorentz_polarisation
from xrdkit.types import Candidate, Pattern

MISSING = 3.0  # calculated but not observed intensity counts so many times
X_STEP, BLUR = 0.003, 1.5  # bins of ln q; smearing (standard deviation) in bins
TOGETHER = 32  # crystals in one block
STAGES = (
    Stage(0.008, 3.0, 4, False, False, 0),
    Stage(0.003, 4.0, 4, False, True, 0),
    Stage(0.0, 4.0, 5, False, True, 0),
)
ROUNDS = 3  # of refinement, each with new weights
ABOVE, FLOOR = 0.1, 0.01  # excess, of the profile and of its maximum, that counts half


def matched(
    model: Float[Tensor, "*rows points"],
    observed: Float[Tensor, "*#rows points"],
    weight: Float[Tensor, " points"] | None = None,
) -> tuple[Float[Tensor, "*rows"], Float[Tensor, "*rows"]]:
    """Share of the observed intensity that a phase explains, and its scale.

    The scale c minimises Σ (o - cm)₊ + MISSING Σ (cm - o)₊: it is a quantile of o/m with
    weights m, so that other phases' lines do not raise it (Koenker & Bassett, Econometrica
    46, 33 (1978)). The share is Σ min(o, cm) - MISSING Σ (cm - o)₊ over Σ o.
    """
    model = model.clamp_min(0)
    observed = observed.clamp_min(0).expand_as(model)
    if weight is not None:
        model, observed = model * weight, observed * weight
    ratio, order = (observed / model.clamp_min(1e-12)).sort(-1)
    mass = model.gather(-1, order).cumsum(-1)
    place = (mass < mass[..., -1:] / (1 + MISSING)).sum(-1, keepdim=True)
    scale = ratio.gather(-1, place.clamp(max=ratio.shape[-1] - 1))
    over = (scale * model - observed).clamp_min(0).sum(-1)
    both = torch.minimum(observed, scale * model).sum(-1)
    share = (both - MISSING * over) / observed.sum(-1).clamp_min(1e-12)
    return share, scale[..., 0]


@dataclass(frozen=True)
class Placed:
    """Candidates with their cells scaled to where they explain most, best first."""

    candidates: tuple[Candidate, ...]
    share: tuple[float, ...]


def place(
    candidates: Sequence[Candidate], pattern: Pattern, stretch: float, keep: int
) -> Placed:
    """The ``keep`` candidates that explain most at any isotropic scale of their cell.

    ``stretch`` is the largest relative change of the edges. On an axis of ln q that is a
    shift; lines are smeared by half a per cent.
    """
    if not candidates:
        return Placed((), ())
    reach = int(np.ceil(stretch / X_STEP))
    edges = np.arange(np.log(pattern.q[0]), np.log(pattern.q[-1]), X_STEP)
    seen = torch.as_tensor(inside_ranges(pattern, _angles(pattern, edges)))
    observed = _smeared(torch.as_tensor(_areas(pattern, edges))[None])[0] * seen[:-1]
    spectra = _smeared(_spectra(candidates, pattern, edges, reach))
    windows = spectra.unfold(-1, len(observed), 1) * seen[:-1]
    share, _ = matched(windows, observed)
    best, shift = share.max(-1)
    order = best.argsort(descending=True)[:keep].tolist()
    found = [
        stretched(candidates[i], float(np.exp(X_STEP * (int(shift[i]) - reach))))
        for i in order
    ]
    return Placed(tuple(found), tuple(best[order].tolist()))


def stretched(candidate: Candidate, factor: float) -> Candidate:
    """The candidate with its cell's edges times ``factor``."""
    crystal = candidate.crystal
    return replace(candidate, crystal=replace(crystal, lattice=crystal.lattice * factor))


def _angles(pattern: Pattern, x: Float[np.ndarray, " edges"]) -> np.ndarray:
    """2θ (°) where ln q has these values."""
    sine = np.exp(x) * pattern.radiation.main / (4 * np.pi)
    return np.degrees(2 * np.arcsin(sine.clip(max=1)))


def _areas(pattern: Pattern, edges: Float[np.ndarray, " edges"]) -> np.ndarray:
    """Integrated intensity between edges of ln q."""
    steps = np.diff(pattern.two_theta)
    parts = steps * (pattern.intensity[1:] + pattern.intensity[:-1]) / 2
    total = np.interp(edges, np.log(pattern.q), np.concatenate([[0], parts.cumsum()]))
    return np.diff(total).clip(min=0).astype(np.float32)


def _spectra(
    candidates: Sequence[Candidate],
    pattern: Pattern,
    edges: Float[np.ndarray, " edges"],
    reach: int,
) -> Float[Tensor, "candidates bins"]:
    """Integrated intensities of lines in bins of ln q, ``reach`` more at either end."""
    bins = len(edges) - 1 + 2 * reach
    out = torch.zeros(len(candidates), bins + 1)
    order = sorted(range(len(candidates)), key=lambda i: len(candidates[i].crystal.numbers))
    beam, q_max = pattern.radiation, float(pattern.q[-1]) * np.exp(reach * X_STEP)
    for first in range(0, len(order), TOGETHER):
        rows = order[first : first + TOGETHER]
        lines = lines_of(pack([candidates[i] for i in rows], q_max), beam.main, False)
        sine = (lines.g * beam.main / 2).clamp(max=0.999)
        angle = torch.rad2deg(2 * torch.asin(sine))
        area = lines.strength * lorentz_polarisation(angle, beam.polarisation)
        x = torch.log(2 * torch.pi * lines.g) - float(edges[0])
        index = torch.floor(x / X_STEP).long() + reach
        index = torch.where((index >= 0) & (index < bins), index, bins)
        part = torch.zeros(len(rows), bins + 1).scatter_add(1, index, area)
        out[rows] = part
    return out[:, :bins]


def _smeared(values: Float[Tensor, "rows bins"]) -> Float[Tensor, "rows bins"]:
    """Gaussian of BLUR bins along the last axis."""
    reach = int(4 * BLUR)
    kernel = torch.exp(-0.5 * (torch.arange(-reach, reach + 1) / BLUR) ** 2)
    kernel = (kernel / kernel.sum()).to(values)
    return torch.nn.functional.conv1d(values[:, None], kernel[None, None], padding=reach)[
        :, 0
    ]


def grids_of(pattern: Pattern, stages: Sequence[Stage] = STAGES) -> list[Grid]:
    """The pattern as each stage sees it."""
    width = typical_fwhm(pattern)
    return [
        make_grid(pattern, width, strain=stage.strain, per_fwhm=stage.per_fwhm)
        for stage in stages
    ]


def refined(block: Block, grid: Grid, stage: Stage) -> Fitted:
    """A block of one phase refined so that what lies above its profile is forgiven."""
    fitted, _ = state(block, grid, False)
    _, scale = matched(fitted.calculated, grid.observed[None], (grid.weight > 0).float())
    profile = fitted.calculated * scale[:, None]
    for _ in range(ROUNDS):
        fitted = refine_block(fitted.block, above_forgiven(grid, profile[0]), stage)
        profile = fitted.calculated
    return fitted


def above_forgiven(grid: Grid, profile: Float[Tensor, " points"]) -> Grid:
    """The grid with little weight where it lies above the profile, and no background."""
    excess = (grid.observed - profile).clamp_min(0)
    usual = ABOVE * profile + FLOOR * profile.max()
    weight = grid.weight / (1 + (excess / usual) ** 2)
    return replace(grid, weight=weight, smooth=grid.smooth[:, :0])


def refined_through(candidate: Candidate, grids: Sequence[Grid]) -> Fitted:
    """One phase refined from broad to sharp."""
    grid = grids[-1]
    sine = torch.sin(torch.deg2rad(grid.two_theta[-1] / 2))
    block = pack([candidate], float(4 * torch.pi * sine / grid.radiation.main))
    for grid, stage in zip(grids, STAGES, strict=True):
        fitted = refined(block, grid, stage)
        block = fitted.block
    return fitted
