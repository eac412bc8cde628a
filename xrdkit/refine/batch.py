"""Refine all candidates at once against one pattern, broad to sharp, halving as it goes.

Full profiles with e.s.d.s are not made here.
"""

import time
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import torch
from jaxtyping import Float

from xrdkit.crystal import conventional, to_structure
from xrdkit.peaks import typical_fwhm
from xrdkit.progress import told
from xrdkit.rank import log_evidence
from xrdkit.refine.block import EXTRAS, Block, current_frac, current_lattice, pack
from xrdkit.refine.grid import Grid, line_limit, make_grid
from xrdkit.refine.known import with_fractions, with_phases
from xrdkit.refine.least_squares import Fitted, Stage, block_steps, choose, state
from xrdkit.refine.optics import CLEAN, FEW, best_optics, instrument_of
from xrdkit.refine.robust import forgiving
from xrdkit.refine.texture import CHOICES, orientation_factors
from xrdkit.types import Candidate, Fit, Pattern, Phase, Progress

STAGES = (
    Stage(0.012, 2.5, 6, False, False, 80),
    Stage(0.005, 3.0, 5, True, True, 40),
    Stage(0.0, 4.0, 14, True, True, 30),
)
TEXTURED, TEXTURE_STEPS, TEXTURE_GAIN = 8, 5, 0.93
SAME = 1e-3  # difference of residuals below which fits are of one structure
NOT_A_FIT = 1e3  # stands for the residual of a fit that gave no number
PART = 64 * 20**2  # sum of atoms² of candidates that are refined together
Q_MAX = 6.0  # 1/Å; beyond, a powder pattern adds much work and little to the choice


def refine_steps(
    pattern: Pattern,
    candidates: list[Candidate],
    *,
    phases: tuple[Phase, ...] = (),
    stages: tuple[Stage, ...] = STAGES,
    device: torch.device | None = None,
) -> Iterator[Progress]:
    """Yield progress part by part; return the fits of the candidates that last.

    ``phases`` are in the sample beside every candidate. Before the sharp stage the best few
    decide on what is not known of the beam.
    """
    if not candidates:
        return []
    started = time.monotonic()
    width = typical_fwhm(pattern)
    parts: list[Part] = []
    for group in (groups := _groups(candidates)):
        yield Progress("refine", 0, len(groups), None, f"{len(candidates)} candidates")
        block = pack(group, line_limit(pattern, Q_MAX))
        parts.append((block.to(device or torch.device("cpu")), group))
    few, best = [block for block, _ in parts], None

    def now(number: int, done: int) -> Progress:
        note = f"stage {number} of {len(stages)}"
        note += f", best residual {best:.3f}" if best is not None else ""
        spent = time.monotonic() - started
        return Progress("refine", done, len(parts), best, note, spent)

    for number, stage in enumerate(stages, 1):
        grid = make_grid(
            pattern, width, strain=stage.strain, per_fwhm=stage.per_fwhm, q_max=Q_MAX
        ).to(parts[0][0].lattice.device)
        grid = with_phases(grid, phases)
        if stage.strain == 0:
            grid = yield from told(best_optics(grid, few), now(number, 0))
        done = []
        for block, names in parts:
            fitted = yield from told(
                block_steps(block, grid, stage), now(number, len(done))
            )
            done.append((fitted, names))
            best = min(float(fitted.residual.min()) for fitted, _ in done)
            yield now(number, len(done))
        last = _survivors(done, stage.keep)
        if stage.strain == 0:
            lenient = forgiving(grid, [fitted for fitted, _ in last])
            steps = _finished(last, grid, lenient, stage)
            grid, last = lenient, (yield from told(steps, now(number, len(parts))))
        few = [fitted.block.trim() for fitted, _ in _survivors(last, FEW.keep)]
        parts = [(fitted.block.trim(), names) for fitted, names in last]
    fits = []
    for fitted, names in last:
        for i, candidate in enumerate(names):
            fits.append(fit_of(fitted, i, candidate, grid, phases))
            yield now(len(stages), len(parts))
    return fits


def _finished(
    last: "list[Refined]", grid: Grid, lenient: Grid, stage: Stage
) -> Iterator[Progress]:
    """Yield steps; return the fits on the lenient grid, the leading ones with texture."""
    if lenient is not grid:
        again, before, last = replace(stage, steps=FEW.steps), last, []
        for fitted, names in before:
            moved = yield from block_steps(fitted.block, lenient, again)
            last.append((moved, names))
    done = []
    for (fitted, names), rows in zip(last, _leading(last, TEXTURED), strict=True):
        textured = yield from with_texture(fitted, lenient, stage, names, rows)
        done.append((textured, names))
    return done


def with_texture(
    fitted: Fitted, grid: Grid, stage: Stage, names: list[Candidate], rows: list[int]
) -> Iterator[Progress]:
    """Yield steps; return the fits, textured where that explains clearly more.

    Tried on these ``rows`` where the residual leaves something to explain.
    """
    for i in rows:
        if fitted.residual[i] <= CLEAN:
            continue
        factors = orientation_factors(fitted.block, i, names[i])
        each = torch.arange(len(factors), device=factors.device)
        many = fitted.block.select(torch.full_like(each, i))
        many = replace(many, texture=factors, axis=each)
        tried, _ = state(many, grid, False)
        best = tried.select(tried.residual.argmin()[None])
        few = replace(stage, steps=TEXTURE_STEPS)
        refined = yield from block_steps(best.block, grid, few)
        if float(refined.residual[0]) < TEXTURE_GAIN * float(fitted.residual[i]):
            fitted = choose(torch.full_like(each[:1], i), refined, fitted)
    return fitted


Part = tuple[Block, list[Candidate]]


def _groups(candidates: list[Candidate]) -> list[list[Candidate]]:
    """Candidates in groups of about the same size, so that padding costs little."""

    def size(candidate: Candidate) -> int:
        return candidate.symmetry.coordinate_basis.shape[1] + len(candidate.crystal.numbers)

    ordered = sorted(candidates, key=size)
    work = np.cumsum([len(c.crystal.numbers) ** 2 for c in ordered])
    ends = np.unique(np.searchsorted(work, np.arange(PART, work[-1] + PART, PART)))
    groups = [g.tolist() for g in np.split(np.arange(len(ordered)), ends) if len(g)]
    return [[ordered[i] for i in group] for group in groups]


Refined = tuple[Fitted, list[Candidate]]


def _survivors(done: list[Refined], keep: int) -> list[Refined]:
    """The ``keep`` candidates of all parts with the highest scores so far."""
    score = _scores(done)
    least = np.sort(score)[-min(keep, len(score))]
    chosen = []
    for (fitted, names), own in zip(done, _by_part(score, done), strict=True):
        rows = np.nonzero(own >= least)[0]
        if len(rows):
            index = torch.as_tensor(rows, device=fitted.residual.device)
            chosen.append((fitted.select(index), [names[i] for i in rows]))
    return chosen


def _leading(done: list[Refined], count: int) -> list[list[int]]:
    """Rows, part by part, of the ``count`` best distinct fits of all parts by score.

    Fits of one residual and as many parameters are taken for one structure.
    """
    score = _scores(done)
    residual = np.concatenate([fitted.residual.cpu().numpy() for fitted, _ in done])
    free = np.concatenate([fitted.block.present.sum(1).cpu().numpy() for fitted, _ in done])
    chosen = np.zeros(len(score), bool)
    for i in np.argsort(-score):
        same = chosen & (free == free[i]) & (abs(residual - residual[i]) < SAME)
        chosen[i] = not same.any()
        if chosen.sum() == count:
            break
    return [np.nonzero(own)[0].tolist() for own in _by_part(chosen, done)]


def _scores(done: list[Refined]) -> Float[np.ndarray, " candidates"]:
    """Scores so far of the candidates of all parts."""
    residual = torch.cat([fitted.residual for fitted, _ in done]).nan_to_num(nan=NOT_A_FIT)
    free = torch.cat([fitted.block.present.sum(1) for fitted, _ in done])
    prior = np.array([c.prior for _, names in done for c in names])
    points = done[0][0].calculated.shape[1]
    residual, free = residual.cpu().numpy().astype(float), free.cpu().numpy().astype(float)
    return prior + log_evidence(residual, free, points)


def _by_part(values: np.ndarray, done: list[Refined]) -> list[np.ndarray]:
    """Values of all candidates, cut into those of each part."""
    return np.split(values, np.cumsum([len(names) for _, names in done])[:-1])


def fit_of(
    fitted: Fitted, i: int, candidate: Candidate, grid: Grid, known: tuple[Phase, ...] = ()
) -> Fit:
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
    instrument = instrument_of(grid, float(block.values[i, -EXTRAS]))
    axis = int(block.axis[i])
    texture = None if axis < 0 else CHOICES[axis]
    main = Phase(crystal, candidate.symmetry, texture=texture)
    seen = grid.weight > 0
    return Fit(
        structure=structure,
        phases=with_fractions(main, known, grid, fitted, i),
        origin=candidate.origin,
        residual=float(fitted.residual[i]),
        score=0.0,
        prior=candidate.prior,
        known=candidate.known,
        swelling=candidate.swelling,
        two_theta=grid.two_theta[seen].cpu().numpy(),
        observed=grid.observed[seen].cpu().numpy(),
        calculated=(fitted.calculated + fitted.background)[i, seen].cpu().numpy(),
        background=fitted.background[i, seen].cpu().numpy(),
        radiation=grid.radiation,
        instrument=instrument,
        space_group=number,
        space_group_symbol=symbol,
        wyckoff=sites,
        parameters=int(block.present[i].sum()) + 1 + len(known) + (axis >= 0),
    )
