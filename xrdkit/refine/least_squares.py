"""Levenberg–Marquardt on a whole block of candidates against one grid.

Scale and a smooth background are solved linearly at every step (variable projection), so
they cost nothing and cannot diverge. Every candidate has its own damping, and a step that
would worsen its fit is not taken.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int
from torch import Tensor

from xrdkit.progress import result_of
from xrdkit.refine.block import EXTRAS, STRAINS, Block, profiles
from xrdkit.refine.grid import Grid
from xrdkit.types import Progress

PRIOR_STRAIN, PRIOR_SHIFT = 0.03, 0.2  # relative; Å
PRIOR_EXTRAS = (0.06, 0.4, 0.4, 1.0)  # degrees, log, share, Å²
U_LEAST = 0.001  # Å², below which no displacement parameter is brought
NEVER = 1e12  # ridge that keeps a known phase's scale at zero
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
    """Scale of each model, smooth background and known phases, by weighted least squares.

    The second curve is the background with the known phases, whose scales are not negative.
    """
    height = model.amax(-1).clamp_min(1e-30)
    linear = grid.linear.T
    columns = torch.cat(
        [(model / height[:, None])[:, None], linear.expand(len(model), -1, -1)], 1
    )
    weighted = columns * grid.weight
    normal = (weighted @ columns.mT).double()
    right = (weighted @ grid.observed).double()
    ridge = torch.full(
        (normal.shape[-1],), 1e-3 * float(grid.weight.sum()), device=model.device
    )
    terms = 1 + grid.smooth.shape[1]
    ridge[0], ridge[terms:] = 1e-9, 1e-9
    normal = normal + torch.diag(ridge)
    solution = torch.linalg.solve(normal, right)
    if terms < normal.shape[-1] and bool((solution[:, terms:] < 0).any()):
        out = torch.where(solution < 0, NEVER, 0.0) * (ridge == ridge[-1])
        out[:, 0] = 0
        solution = torch.linalg.solve(normal + torch.diag_embed(out), right)
        solution[:, terms:] = solution[:, terms:].clamp_min(0)
    solution = solution.float()
    scale = solution[:, 0].clamp_min(1e-6)
    return scale / height, solution[:, 1:] @ linear


def state(
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
    """The block of ``block_steps``, run to its end."""
    return result_of(block_steps(block, grid, stage))


def block_steps(block: Block, grid: Grid, stage: Stage) -> Iterator[Progress]:
    """Levenberg–Marquardt on every candidate; yield every step, return the Fitted.

    A step that worsens is not taken. Candidates whose cost no longer falls are left alone.
    """
    best, slopes = state(block, grid, stage.coordinates)
    free = block.present[:, : slopes.shape[1]].float()
    if not stage.coordinates:
        free = torch.cat(
            [block.present[:, :STRAINS], block.present[:, -EXTRAS:]], 1
        ).float()
    if not stage.extras:
        free[:, -EXTRAS:] = 0
    rows = torch.arange(len(block), device=free.device)
    damping = torch.full((len(block),), 1e-2, device=free.device)
    for done in range(stage.steps):
        yield Progress("refine", done, stage.steps)
        now = best.select(rows)
        pull = 1e-8 + PULL * now.residual**2
        step = _marquardt(now, slopes, grid, free[rows], damping[rows], pull)
        moved = replace(now.block, values=_bounded(now.block, step, stage.coordinates))
        trial, fresh = state(moved, grid, stage.coordinates)
        cost = now.residual**2 + pull * now.penalty
        gain = 1 - (trial.residual**2 + pull * trial.penalty) / cost
        better = gain > 0
        best = choose(rows[better], trial.select(better), best)
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
    linear = grid.linear.T.expand(b, -1, -1)
    columns = torch.cat([jacobian * free[..., None], fitted.calculated[:, None], linear], 1)
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
    values = values.clamp(low, high)
    least = torch.where(block.occupancy > 0, block.u_iso, U_LEAST + 1).amin(1)
    values[:, -1] = values[:, -1].maximum(8 * torch.pi**2 * (U_LEAST - least).clamp(max=0))
    return values


def choose(rows: Int[Tensor, " chosen"], new: Fitted, old: Fitted) -> Fitted:
    """The old state with new ones in these rows."""
    changed = ("values", "texture", "axis")
    block = {
        n: getattr(old.block, n).index_copy(0, rows, getattr(new.block, n)) for n in changed
    }
    names = ("residual", "penalty", "calculated", "background")
    rest = [getattr(old, n).index_copy(0, rows, getattr(new, n)) for n in names]
    return Fitted(replace(old.block, **block), *rest)
