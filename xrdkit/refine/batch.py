"""Refine all candidates at once against one pattern: Levenberg–Marquardt, broad to sharp.

Scale and a smooth background are solved linearly at every step (variable projection), so
they cost nothing and cannot diverge. Full profiles with e.s.d.s are not made here.
"""

import time
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from xrdkit.crystal import conventional, to_structure
from xrdkit.peaks import typical_fwhm
from xrdkit.rank import log_evidence
from xrdkit.refine.block import (
    EXTRAS,
    STRAINS,
    Block,
    current_frac,
    current_lattice,
    pack,
    profiles,
)
from xrdkit.refine.grid import Grid, make_grid
from xrdkit.refine.texture import CHOICES, orientation_factors
from xrdkit.types import Candidate, Fit, Instrument, Pattern, Phase, Progress
from xrdkit.wavelengths import radiation_choices

PRIOR_STRAIN, PRIOR_SHIFT = 0.03, 0.2  # relative; Å
PRIOR_EXTRAS = (0.06, 0.4, 0.4, 1.0)  # degrees, log, share, Å²
SETTLED = 0.002  # relative fall of the cost in a step below which a candidate is done
PULL = 0.02  # of the squared residual: the cost of a parameter at its prior width


@dataclass(frozen=True)
class Stage:
    """One look at the pattern: blur (change of d), points per width, what is free."""

    strain: float
    per_fwhm: float
    steps: int
    coordinates: bool
    extras: bool
    keep: int


STAGES = (
    Stage(0.012, 2.5, 6, False, False, 80),
    Stage(0.005, 3.0, 5, True, True, 40),
    Stage(0.0, 4.0, 14, True, True, 30),
)
TEXTURED, TEXTURE_STEPS, TEXTURE_GAIN, CLEAN = 10, 5, 0.93, 0.05
PART = 64  # candidates of about the same size refined together
Q_MAX = 9.0  # 1/Å; beyond, a powder pattern of inorganic solids says little


def refine_steps(
    pattern: Pattern,
    candidates: list[Candidate],
    *,
    stages: tuple[Stage, ...] = STAGES,
    device: torch.device | None = None,
) -> Iterator[Progress]:
    """Yield progress part by part; return the fits of the candidates that last.

    Where Kα2 is unknown, the sharp stage is tried with and without on the best five.
    """
    if not candidates:
        return []
    started = time.monotonic()
    width, beam = typical_fwhm(pattern), pattern.radiation
    parts = _parts(candidates, min(float(pattern.q.max()), Q_MAX), device)
    for number, stage in enumerate(stages, 1):
        grids = [
            make_grid(
                pattern,
                width,
                strain=stage.strain,
                per_fwhm=stage.per_fwhm,
                radiation=choice,
                q_max=Q_MAX,
            ).to(parts[0][0].lattice.device)
            for choice in ([beam] if stage.strain else radiation_choices(beam))
        ]
        grid = grids[_best_grid(grids, parts)]
        done = []
        for block, names in parts:
            done.append((refine_block(block, grid, stage), names))
            best = min(float(fitted.residual.min()) for fitted, _ in done)
            note = f"stage {number} of {len(stages)}, best residual {best:.3f}"
            spent = time.monotonic() - started
            yield Progress("refine", len(done), len(parts), best, note, spent)
        last = _survivors(done, stage.keep)
        if stage.strain == 0:
            worst = torch.cat([fitted.residual for fitted, _ in last]).sort().values
            worst = float(worst[min(TEXTURED, len(worst)) - 1])
            last = [
                (with_texture(f, grid, stage, names, worst), names) for f, names in last
            ]
        parts = [(fitted.block.trim(), names) for fitted, names in last]
    return [
        fit_of(fitted, i, candidate, grid)
        for fitted, names in last
        for i, candidate in enumerate(names)
    ]


def with_texture(
    fitted: "Fitted", grid: Grid, stage: Stage, names: list[Candidate], worst: float
) -> "Fitted":
    """The same fits, with a preferred orientation where that explains clearly more.

    Tried where the residual is at most ``worst`` and leaves something to explain.
    """
    tried_on = (fitted.residual <= worst) & (fitted.residual > CLEAN)
    for i in torch.nonzero(tried_on).flatten().tolist():
        factors = orientation_factors(fitted.block, i, names[i])
        each = torch.arange(len(factors), device=factors.device)
        many = fitted.block.select(torch.full_like(each, i))
        many = replace(many, texture=factors, axis=each)
        tried, _ = _state(many, grid, False)
        best = tried.select(tried.residual.argmin()[None])
        refined = refine_block(best.block, grid, replace(stage, steps=TEXTURE_STEPS))
        if float(refined.residual[0]) < TEXTURE_GAIN * float(fitted.residual[i]):
            fitted = _choose(torch.full_like(each[:1], i), refined, fitted)
    return fitted


Part = tuple[Block, list[Candidate]]


def _parts(
    candidates: list[Candidate], q_max: float, device: torch.device | None
) -> list[Part]:
    """Candidates in parts of about the same size, so that padding costs little."""

    def size(candidate: Candidate) -> int:
        return candidate.symmetry.coordinate_basis.shape[1] + len(candidate.crystal.numbers)

    ordered = sorted(candidates, key=size)
    groups = [ordered[i : i + PART] for i in range(0, len(ordered), PART)]
    where = device or torch.device("cpu")
    return [(pack(group, q_max).to(where), group) for group in groups]


def _survivors(
    done: list[tuple["Fitted", list[Candidate]]], keep: int
) -> list[tuple["Fitted", list[Candidate]]]:
    """The ``keep`` candidates of all parts with the highest scores so far."""
    residual = torch.cat([fitted.residual for fitted, _ in done]).cpu().numpy()
    free = torch.cat([fitted.block.present.sum(1) for fitted, _ in done]).cpu().numpy()
    prior = np.array([c.prior for _, names in done for c in names])
    points = done[0][0].calculated.shape[1]
    score = prior + log_evidence(residual.astype(float), free.astype(float), points)
    least = np.sort(score)[-min(keep, len(score))]
    chosen, first = [], 0
    for fitted, names in done:
        rows = np.nonzero(score[first : first + len(names)] >= least)[0]
        first += len(names)
        if len(rows):
            index = torch.as_tensor(rows, device=fitted.residual.device)
            chosen.append((fitted.select(index), [names[i] for i in rows]))
    return chosen


def _best_grid(grids: list[Grid], parts: list[Part]) -> int:
    """Which grid (radiation) the candidates fit best after a few steps."""
    if len(grids) == 1:
        return 0
    few = Stage(0.0, 3.0, 5, True, True, 5)
    best = [
        min(float(refine_block(block, grid, few).residual.min()) for block, _ in parts)
        for grid in grids
    ]
    return int(np.argmin(best))


@dataclass(frozen=True)
class Fitted:
    """A block held against a grid: weighted profile residual and curves of every candidate.

    ``penalty`` is Σ (value / prior width)².
    """

    block: Block
    residual: Float[Tensor, " crystals"]
    penalty: Float[Tensor, " crystals"]
    calculated: Float[Tensor, "crystals points"]
    background: Float[Tensor, "crystals points"]

    def select(self, index: Tensor) -> "Fitted":
        """Some of the candidates."""
        rest = (self.residual, self.penalty, self.calculated, self.background)
        return Fitted(self.block.select(index), *(t[index] for t in rest))


def solve_linear(
    model: Float[Tensor, "crystals points"], grid: Grid
) -> tuple[Float[Tensor, " crystals"], Float[Tensor, "crystals points"]]:
    """Scale and smooth background of each model by weighted least squares."""
    height = model.amax(-1).clamp_min(1e-30)
    columns = torch.cat(
        [(model / height[:, None])[:, None], grid.smooth.T.expand(len(model), -1, -1)], 1
    )
    weighted = columns * grid.weight
    normal = (weighted @ columns.mT).double()
    right = (weighted @ grid.observed).double()
    ridge = torch.full(
        (normal.shape[-1],), 1e-3 * float(grid.weight.sum()), device=model.device
    )
    ridge[0] = 1e-9
    solution = torch.linalg.solve(normal + torch.diag(ridge), right).float()
    scale = solution[:, 0].clamp_min(1e-6)
    return scale / height, solution[:, 1:] @ grid.smooth.T


def _state(
    block: Block, grid: Grid, coordinates: bool
) -> tuple[Fitted, Float[Tensor, "crystals parameters points"]]:
    """Fit of a block as it stands, and the derivatives of its scaled profiles."""
    model, jacobian = profiles(block, grid, coordinates)
    scale, background = solve_linear(model, grid)
    calculated = model * scale[:, None]
    total = (grid.weight * grid.observed**2).sum()
    rest = grid.observed - calculated - background
    residual = ((grid.weight * rest**2).sum(-1) / total).sqrt()
    penalty = ((block.values / prior_widths(block)) ** 2).sum(-1)
    fitted = Fitted(block, residual, penalty, calculated, background)
    return fitted, jacobian * scale[:, None, None]


def prior_widths(block: Block) -> Float[Tensor, " parameters"]:
    """How far each parameter may plausibly move."""
    return block.values.new_tensor(
        [PRIOR_STRAIN] * STRAINS + [PRIOR_SHIFT] * block.shifts + list(PRIOR_EXTRAS)
    )


def refine_block(block: Block, grid: Grid, stage: Stage) -> Fitted:
    """Levenberg–Marquardt on every candidate; a step that worsens is not taken.

    Candidates whose cost no longer falls are left alone.
    """
    best, slopes = _state(block, grid, stage.coordinates)
    free = block.present[:, : slopes.shape[1]].float()
    if not stage.coordinates:
        free = torch.cat(
            [block.present[:, :STRAINS], block.present[:, -EXTRAS:]], 1
        ).float()
    if not stage.extras:
        free[:, -EXTRAS:] = 0
    rows = torch.arange(len(block), device=free.device)
    damping = torch.full((len(block),), 1e-2, device=free.device)
    for _ in range(stage.steps):
        now = best.select(rows)
        pull = 1e-8 + PULL * now.residual**2
        step = _marquardt(now, slopes, grid, free[rows], damping[rows], pull)
        moved = replace(now.block, values=_bounded(now.block, step, stage.coordinates))
        trial, fresh = _state(moved, grid, stage.coordinates)
        cost = now.residual**2 + pull * now.penalty
        gain = 1 - (trial.residual**2 + pull * trial.penalty) / cost
        better = gain > 0
        best = _choose(rows[better], trial.select(better), best)
        damping[rows] = torch.where(better, damping[rows] * 0.25, damping[rows] * 6)
        damping = damping.clamp(1e-6, 1e6)
        slopes = torch.where(better[:, None, None], fresh, slopes)
        going = ~(better & (gain < SETTLED)) & (damping[rows] < 1e3)
        rows, slopes = rows[going], slopes[going]
        if not len(rows):
            break
    return best


def _marquardt(
    fitted: Fitted,
    jacobian: Float[Tensor, "crystals parameters points"],
    grid: Grid,
    free: Float[Tensor, "crystals parameters"],
    damping: Float[Tensor, " crystals"],
    pull: Float[Tensor, " crystals"],
) -> Float[Tensor, "crystals parameters"]:
    """The damped Gauss–Newton step, scale and background following along."""
    b, d = free.shape
    smooth = grid.smooth.T.expand(b, -1, -1)
    columns = torch.cat([jacobian * free[..., None], fitted.calculated[:, None], smooth], 1)
    weighted = columns * grid.weight
    normal = (weighted @ columns.mT).double()
    rest = grid.observed - fitted.calculated - fitted.background
    right = (weighted @ rest[..., None])[..., 0].double()
    total = (grid.weight * grid.observed**2).sum().double()
    values = _used(fitted.block.values, d)
    widths = _used(prior_widths(fitted.block), d).double()
    tie = (pull * total)[:, None] / widths**2
    right[:, :d] -= tie * values * free
    extra = normal.diagonal(dim1=-2, dim2=-1) * damping[:, None].double() + 1e-9 * total
    extra[:, :d] += tie
    return torch.linalg.solve(normal + torch.diag_embed(extra), right)[:, :d].float() * free


def _used(values: Float[Tensor, "*rows all"], used: int) -> Float[Tensor, "*rows used"]:
    """All parameters, or strains and extras alone where coordinates are left out."""
    if values.shape[-1] == used:
        return values
    return torch.cat([values[..., :STRAINS], values[..., -EXTRAS:]], -1)


def _bounded(
    block: Block, step: Float[Tensor, "crystals used"], coordinates: bool
) -> Float[Tensor, "crystals parameters"]:
    """Values after a step of bounded length, within physical limits."""
    k = block.shifts
    if not coordinates:
        still = step.new_zeros(len(step), k)
        step = torch.cat([step[:, :STRAINS], still, step[:, STRAINS:]], 1)
    limit = step.new_tensor([0.02] * STRAINS + [0.2] * k + [0.05, 0.4, 0.3, 0.5])
    longest = (step.abs() / limit).amax(-1).clamp_min(1)
    values = block.values + step / longest[:, None]
    low = step.new_tensor([-0.15] * STRAINS + [-1.5] * k + [-0.3, -1.2, -0.5, -0.4])
    high = step.new_tensor([0.15] * STRAINS + [1.5] * k + [0.3, 1.6, 0.5, 6.0])
    return values.clamp(low, high)


def _choose(rows: Int[Tensor, " chosen"], new: Fitted, old: Fitted) -> Fitted:
    """The old state with new ones in these rows."""
    changed = ("values", "texture", "axis")
    block = {
        n: getattr(old.block, n).index_copy(0, rows, getattr(new.block, n)) for n in changed
    }
    names = ("residual", "penalty", "calculated", "background")
    rest = [getattr(old, n).index_copy(0, rows, getattr(new, n)) for n in names]
    return Fitted(replace(old.block, **block), *rest)


def fit_of(fitted: Fitted, i: int, candidate: Candidate, grid: Grid) -> Fit:
    """One refined candidate with its curves, in the standard setting."""
    block = fitted.block
    n = len(candidate.crystal.numbers)
    crystal = replace(
        candidate.crystal,
        lattice=current_lattice(block)[i : i + 1].cpu(),
        frac=torch.remainder(current_frac(block)[i, :n], 1).cpu(),
        u_iso=candidate.crystal.u_iso + block.values[i, -1].cpu() / (8 * torch.pi**2),
    )
    structure, number, symbol, sites = conventional(to_structure(crystal))
    zero = float(block.values[i, -EXTRAS])
    axis = int(block.axis[i])
    texture = None if axis < 0 else CHOICES[axis]
    return Fit(
        structure=structure,
        phases=(Phase(crystal, candidate.symmetry, texture=texture),),
        origin=candidate.origin,
        residual=float(fitted.residual[i]),
        score=candidate.prior,
        two_theta=grid.two_theta.cpu().numpy(),
        observed=grid.observed.cpu().numpy(),
        calculated=(fitted.calculated + fitted.background)[i].cpu().numpy(),
        background=fitted.background[i].cpu().numpy(),
        radiation=grid.radiation,
        instrument=Instrument(w=grid.a**2, zero=zero),
        space_group=number,
        space_group_symbol=symbol,
        wyckoff=sites,
        parameters=int(block.present[i].sum()) + 1 + grid.smooth.shape[1] + (axis >= 0),
    )
