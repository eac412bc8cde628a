"""The pipeline: pattern and formula in, ranked structures out. Read this first.

problem = pose(...)       check what was given, prepare the pattern; known phases, cells
for each source:          known types with these elements, orderings of simpler parents, ...
    pass it by            where the pattern is explained well enough already
    cells                 from indexing, for those that draw in cells
    fits = refine         its candidates and the best so far, all at once
raised                    higher symmetry that the best nearly have, refined beside them
solution = rank           one score, duplicates merged, confidence
explained                 what the pattern determines, names for what is left
refined_steps             the best few by full profile (Rietveld), where an engine is named
"""

import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from tqdm.auto import tqdm

from xrdkit.evidence import left_by
from xrdkit.generators.asked import NO_FORMULA, Asked, asked_of
from xrdkit.generators.cells import cells_for
from xrdkit.library import Library
from xrdkit.models.weights import Weights
from xrdkit.phases import foreign_phases, known_phases
from xrdkit.problem import check_known, pose, several
from xrdkit.progress import told
from xrdkit.rank import rank, scored, sound
from xrdkit.refine.batch import refine_steps
from xrdkit.refine.determined import determined_steps
from xrdkit.refine.final import check_engine, refined_steps
from xrdkit.refine.symmetry import raised
from xrdkit.types import (
    Candidate,
    Controls,
    Fit,
    Pattern,
    Problem,
    Progress,
    Solution,
    Source,
)

if TYPE_CHECKING:
    from pymatgen.core import Structure

POOL = 300  # candidates that each source may put up for refinement
KEPT = 12  # fits that are refined again beside the candidates of the next source
TRUSTED = 0.3  # residual up to which radiation and slits that fits found are kept
RAISED = 5  # fits whose symmetry may be higher
TOLD = 3  # fits of which it is said what the pattern determines
BAR = "{desc:<10} {bar:24} {n_fmt}/{total_fmt} {elapsed} {postfix}"


@dataclass
class Laps:
    """Seconds that each stage took, in all."""

    seconds: dict[str, float] = field(default_factory=dict)
    started: float = field(default_factory=time.monotonic)

    def __call__(self, stage: str) -> None:
        """Note what this stage took since the last one ended."""
        spent = time.monotonic() - self.started - sum(self.seconds.values())
        self.seconds[stage] = self.seconds.get(stage, 0.0) + spent


def solve_steps(
    pattern: Pattern,
    formula: str | None = None,
    *,
    elements: Sequence[str] | None = None,
    sources: str | Source | Sequence[str | Source] | None = None,
    weights: Weights | None = None,
    controls: Controls | None = None,
    candidates: int = 20,
    seed: int = 0,
    device: torch.device | str | None = None,
    phases: "tuple[str | Path | Structure, ...]" = (),
    index: bool = False,
    engine: str | None = None,
    **given: Any,
) -> Iterator[Progress]:
    """The pipeline as a generator: yields Progress, returns the Solution.

    What is wrong with the input is said here, before the first step. ``given`` is what
    else is known: contents, cell, space_group, size, library, exclude. ``controls`` of a
    flow may be changed while it runs.
    """
    lap, where = Laps(), usable_device(device)
    check_known(formula, elements)
    sources, asked = asked_of(sources, weights, controls, any_formula=formula is None)
    if not asked or candidates < 1:
        raise ValueError("no sources or no candidates are asked for; give at least one")
    if index and given.get("cell") is not None:
        raise ValueError("a cell is given and cells are to be looked for; give one of them")
    if engine:
        check_engine(engine, pattern)
    settings = {"formula": formula, "sources": sources, "candidates": candidates}
    settings |= {"seed": seed, "phases": phases, "index": index, "engine": engine}
    settings |= {"elements": elements}
    problem = pose(pattern, formula, elements=elements, **given)
    settings |= {"weights": weights, **given}
    return pipeline(pattern, problem, asked, settings, device=where, lap=lap)


def pipeline(
    pattern: Pattern,
    problem: Problem,
    asked: list[Asked],
    settings: dict[str, Any],
    *,
    device: torch.device,
    lap: Laps,
) -> Iterator[Progress]:
    """Yield progress from the problem that was posed to its Solution, which is returned."""
    problem = with_known(problem, several(settings["phases"]))
    if settings["index"]:
        problem = yield from cells_for(problem)
    lap("prepare")
    generator = torch.Generator().manual_seed(settings["seed"])
    fits, why = yield from search(problem, asked, generator, device, lap)
    yield Progress("rank", 0, 1, fits[0] if fits else None)
    solution = rank(problem, fits, settings["candidates"])
    if not fits:
        solution = replace(solution, reasons=(*solution.reasons, *why))
    if not problem.formula:
        solution = replace(solution, reasons=(*solution.reasons, NO_FORMULA))
    lap("rank")
    solution = yield from explained(solution, device)
    lap("explain")
    if engine := settings["engine"]:
        solution = yield from refined_steps(solution, pattern, engine)
        lap("full profile")
    return replace(solution, seconds=lap.seconds, settings=settings)


def search(
    problem: Problem,
    asked: list[Asked],
    generator: torch.Generator,
    device: torch.device,
    lap: Laps,
) -> Iterator[Progress]:
    """Yield the progress of each source in turn, and of refinement; return all fits.

    Also what sources that gave nothing said last. The radiation and slits that a good fit
    shows are kept for what comes after; cells are looked for once, for those that draw in
    them.
    """
    fits: list[Fit] = []
    now, why, cells = problem, [], None
    for source, needed, indexed in asked:
        if not needed(problem, fits):
            continue
        told = now
        if indexed:
            if cells is None:
                cells = now.cells or (yield from cells_for(now)).cells
            told = replace(now, cells=cells)
            lap("index")
        steps = source(told, count=POOL, generator=generator, device=device)
        pool, last = yield from heard(steps)
        why += [] if pool or not last else [last]
        lap("propose")
        fits = yield from refined(now, pool, fits, device)
        if fits:
            yield Progress("refine", 1, 1, fits[0], f"residual {fits[0].residual:.3f}")
        now = seen_with(problem, fits)
        lap("refine")
    higher: list[Candidate] = []
    for fit in fits[:RAISED]:
        higher += raised(fit, problem)
        yield Progress("refine", 1, 1, fits[0], f"{len(higher)} with higher symmetry")
    if higher:
        rest = fits[KEPT:]
        fits = (yield from refined(now, higher, fits, device)) + rest
        lap("refine")
    return fits, why


def heard(steps: Iterator[Progress]) -> Iterator[Progress]:
    """Yield the progress of a source; return its candidates, and what it said last."""
    last = ""
    while True:
        try:
            progress = next(steps)
        except StopIteration as finished:
            return finished.value, last
        last = f"{progress.stage}: {progress.message}" if progress.message else last
        yield progress


def refined(
    problem: Problem, pool: list[Candidate], fits: list[Fit], device: torch.device
) -> Iterator[Progress]:
    """Yield progress; return the fits of new candidates and of the best so far.

    Where none of an origin is sound any more, such as for a hydrogen atom that the pattern
    hardly holds, its fits stay as they were.
    """
    best = fits[:KEPT]
    pool = pool + [again(fit) for fit in best]
    found = yield from refine_steps(
        problem.pattern, pool, phases=problem.phases, device=device
    )
    found = sound(found, problem)
    origins = {fit.origin for fit in found}
    return scored(found + [fit for fit in best if fit.origin not in origins])


def seen_with(problem: Problem, fits: list[Fit]) -> Problem:
    """The problem with the radiation and slits of fits that explain most of the pattern."""
    if left_by(fits, problem) > TRUSTED:
        return problem
    found, pattern = fits[0].instrument, problem.pattern
    instrument = replace(pattern.instrument, slits=found.slits, overflow=found.overflow)
    seen = replace(pattern, radiation=fits[0].radiation, instrument=instrument)
    return replace(problem, pattern=seen)


def again(fit: Fit) -> Candidate:
    """A fit as a candidate to be refined once more, from where it is."""
    phase = fit.phases[0]
    return Candidate(
        phase.crystal, phase.symmetry, fit.origin, fit.prior, fit.known, fit.swelling
    )


def solve(
    pattern: Pattern,
    formula: str | None = None,
    *,
    elements: Sequence[str] | None = None,
    contents: str | None = None,
    cell: tuple[float | int, ...] | None = None,
    space_group: int | str | None = None,
    size: float | None = None,
    library: Library | str | Path | None = None,
    exclude: tuple[str, ...] | str = (),
    phases: "tuple[str | Path | Structure, ...]" = (),
    index: bool = False,
    sources: str | Source | Sequence[str | Source] | None = None,
    weights: Weights | None = None,
    candidates: int = 20,
    seed: int = 0,
    device: torch.device | str | None = None,
    engine: str | None = None,
    progress: bool = True,
) -> Solution:
    """Ranked, refined structures for a powder pattern and a chemical formula.

    Where the formula is not known, ``elements`` ("Ti", "O") are enough for the sources
    "formulas" and "density"; the others are left out. ``contents`` is the formula of the
    primitive cell ("Ti2 O4"), or of ``cell`` when that is given: (a, b, c, α, β, γ) in Å
    and degrees, in any setting. ``size`` (Å) is that of nanocrystals, whose lines are as
    wide as sinc²(Q size / 2). ``phases`` are known to be in the sample too: CIF files,
    Structures or formulas. With ``index`` cells are looked for in the lines first and
    proposed to every source. ``exclude`` lists reduced formulas to be left out of the
    library; without ``library`` the shipped prototypes serve. ``sources`` names those of
    ``xrdkit.generators`` that are asked, by default all that are needed; ``weights`` (a
    name, file or address, or several) are of a flow, a latent space or a density network,
    which draw structures too, or in place of those that ship. With ``engine`` "builtin" or
    "gsas2" the best three are refined by full profile, which gives R values and e.s.d.s,
    and ordered by that.
    """
    steps = solve_steps(
        pattern,
        formula,
        elements=elements,
        contents=contents,
        cell=cell,
        space_group=space_group,
        size=size,
        library=library,
        exclude=exclude,
        phases=phases,
        index=index,
        sources=sources,
        weights=weights,
        candidates=candidates,
        seed=seed,
        device=device,
        engine=engine,
    )
    return run(steps, progress)


def run(steps: Iterator[Progress], progress: bool) -> Any:
    """Drive a generator of Progress to its end, with a bar on stderr; return its result.

    The bar is shown in terminals and notebooks, not in files.
    """
    seen = sys.stderr.isatty() or "ipykernel" in sys.modules
    with tqdm(disable=not (progress and seen), leave=False, bar_format=BAR) as bar:
        while True:
            try:
                now = next(steps)
            except StopIteration as finished:
                return finished.value
            bar.set_description(now.stage)
            bar.total, bar.n = now.total, now.done
            bar.set_postfix_str(now.message)
            bar.refresh()


def with_known(problem: Problem, phases: "tuple[str | Path | Structure, ...]") -> Problem:
    """The problem with these phases, their cells refined against the pattern."""
    found = known_phases(phases, problem.pattern, problem.library)
    return replace(problem, phases=found)


def explained(solution: Solution, device: torch.device) -> Iterator[Progress]:
    """Yield steps; return the solution with what is determined, and names for the rest."""
    if not solution.fits:
        return solution
    problem, fits = solution.problem, solution.fits
    steps = determined_steps(
        problem.pattern, list(fits[:TOLD]), phases=problem.phases, device=device
    )
    known = yield from told(steps, Progress("explain", 0, 1, fits[0]))
    foreign = foreign_phases(problem, fits[0])
    return replace(solution, fits=(*known, *fits[TOLD:]), foreign=foreign)


def usable_device(device: torch.device | str | None) -> torch.device:
    """The device asked for, the CPU by default; an error where it is not there."""
    try:
        where = torch.device(device or "cpu")
        torch.zeros(1, device=where)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"device {device!r} cannot be used ({reason}); try cpu") from error
    return where
