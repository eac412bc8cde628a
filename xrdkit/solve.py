"""The pipeline: pattern and formula in, ranked structures out. Read this first.

problem = pose(...)       check what was given, prepare the pattern
for each source:          known types with these elements, orderings of simpler parents, ...
    pass it by            where the pattern is explained well enough already
    fits = refine         its candidates and the best so far, all at once
raised                    higher symmetry that the best nearly have, refined beside them
solution = rank           one score, duplicates merged, confidence
explained                 what the pattern determines, names for what is left
"""

import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from tqdm.auto import tqdm

from xrdkit.confidence import excess
from xrdkit.generators import NEEDED, SOURCES
from xrdkit.generators.cells import cells_for
from xrdkit.library import Library
from xrdkit.phases import foreign_phases, known_phase
from xrdkit.problem import pose
from xrdkit.rank import rank, scored
from xrdkit.refine.batch import refine_steps
from xrdkit.refine.determined import determined
from xrdkit.refine.symmetry import raised
from xrdkit.types import Candidate, Fit, Pattern, Problem, Progress, Solution, Source

if TYPE_CHECKING:
    from pymatgen.core import Structure

POOL = 300  # candidates that each source may put up for refinement
KEPT = 12  # fits that are refined again beside the candidates of the next source
RAISED = 5  # fits whose symmetry may be higher
TOLD = 3  # fits of which it is said what the pattern determines
BAR = "{desc:<10} {bar:24} {n_fmt}/{total_fmt} {elapsed} {postfix}"


def solve_steps(
    pattern: Pattern,
    formula: str,
    *,
    sources: tuple[str | Source, ...] = tuple(SOURCES),
    candidates: int = 20,
    seed: int = 0,
    device: torch.device | str | None = None,
    phases: "tuple[str | Path | Structure, ...]" = (),
    index: bool = False,
    **given: Any,
) -> Iterator[Progress]:
    """The pipeline as a generator: yields Progress, returns the Solution.

    ``given`` is what else is known: contents, cell, space_group, library, exclude.
    """
    started = time.monotonic()
    seconds: dict[str, float] = {}
    problem = pose(pattern, formula, **given)
    problem = with_known(problem, phases)
    if index:
        problem = yield from cells_for(problem)
    where = usable_device(device)
    _lap(seconds, "prepare", started)
    generator = torch.Generator().manual_seed(seed)
    fits: list[Fit] = []
    measured = problem.pattern
    for source, needed in [named(source) for source in sources]:
        best = min(fits, key=lambda fit: fit.residual, default=None)
        if not needed(problem, excess(best, problem.pattern) if best else 1.0):
            continue
        pool = yield from source(problem, count=POOL, generator=generator, device=where)
        _lap(seconds, "propose", started)
        pool += [again(fit) for fit in scored(fits)[:KEPT]]
        fits = yield from refine_steps(measured, pool, phases=problem.phases, device=where)
        measured = seen_with(measured, fits)
        _lap(seconds, "refine", started)
    best, rest = scored(fits)[:KEPT], scored(fits)[KEPT:]
    if pool := [candidate for fit in best[:RAISED] for candidate in raised(fit)]:
        pool += [again(fit) for fit in best]
        best = yield from refine_steps(measured, pool, phases=problem.phases, device=where)
        fits = best + rest
        _lap(seconds, "refine", started)
    solution = rank(problem, fits, candidates)
    _lap(seconds, "rank", started)
    solution = explained(solution, where)
    _lap(seconds, "explain", started)
    settings = {"formula": formula, "sources": sources, "seed": seed, **given}
    return replace(solution, seconds=seconds, settings=settings)


def named(source: str | Source) -> tuple[Source, Callable[[Problem, float], bool]]:
    """The source of this name, or the function itself, and when it is asked."""
    if isinstance(source, str) and source not in SOURCES:
        raise ValueError(
            f"source {source!r} is not known; choose from {', '.join(SOURCES)}"
        )
    if isinstance(source, str):
        return SOURCES[source], NEEDED[source]
    return source, lambda problem, left: True


def seen_with(pattern: Pattern, fits: list[Fit]) -> Pattern:
    """The pattern with the radiation and slits that the fits were found with."""
    if not fits:
        return pattern
    found = fits[0].instrument
    instrument = replace(pattern.instrument, slits=found.slits, overflow=found.overflow)
    return replace(pattern, radiation=fits[0].radiation, instrument=instrument)


def again(fit: Fit) -> Candidate:
    """A fit as a candidate; its score is its prior again."""
    phase = fit.phases[0]
    return Candidate(phase.crystal, phase.symmetry, fit.origin, fit.prior, fit.known)


def solve(
    pattern: Pattern,
    formula: str,
    *,
    contents: str | None = None,
    cell: tuple[float | int, ...] | None = None,
    space_group: int | str | None = None,
    library: Library | str | Path | None = None,
    exclude: tuple[str, ...] | str = (),
    phases: "tuple[str | Path | Structure, ...]" = (),
    index: bool = False,
    sources: tuple[str | Source, ...] = tuple(SOURCES),
    candidates: int = 20,
    seed: int = 0,
    device: torch.device | str | None = None,
    progress: bool = True,
) -> Solution:
    """Ranked, refined structures for a powder pattern and a chemical formula.

    ``contents`` is the formula of the primitive cell ("Ti2 O4"), or of ``cell`` when that
    is given: (a, b, c, α, β, γ) in Å and degrees, in any setting. ``phases`` are known to
    be in the sample too: CIF files, Structures or formulas. With ``index`` cells are looked
    for in the lines first and proposed to every source. ``exclude`` lists reduced formulas
    to be left out of the library; without ``library`` the shipped prototypes serve.
    """
    steps = solve_steps(
        pattern,
        formula,
        contents=contents,
        cell=cell,
        space_group=space_group,
        library=library,
        exclude=exclude,
        phases=phases,
        index=index,
        sources=sources,
        candidates=candidates,
        seed=seed,
        device=device,
    )
    return run(steps, progress)


def run(steps: Iterator[Progress], progress: bool) -> Any:
    """Drive a generator of Progress to its end, with a bar on stderr; return its result."""
    with tqdm(disable=not progress, leave=False, bar_format=BAR) as bar:
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
    found = [known_phase(what, problem.pattern, problem.library) for what in phases]
    return replace(problem, phases=tuple(found))


def explained(solution: Solution, device: torch.device) -> Solution:
    """The solution with what the pattern determines, and names for what is left of it."""
    if not solution.fits:
        return solution
    problem, fits = solution.problem, solution.fits
    told = determined(
        problem.pattern, list(fits[:TOLD]), phases=problem.phases, device=device
    )
    foreign = foreign_phases(problem, fits[0])
    return replace(solution, fits=(*told, *fits[TOLD:]), foreign=foreign)


def usable_device(device: torch.device | str | None) -> torch.device:
    """The device asked for, the CPU by default; an error where it is not there."""
    try:
        where = torch.device(device or "cpu")
        torch.zeros(1, device=where)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"device {device!r} cannot be used ({reason}); try cpu") from error
    return where


def _lap(seconds: dict[str, float], stage: str, started: float) -> None:
    """Note what this stage took since the last one ended."""
    spent = time.monotonic() - started - sum(seconds.values())
    seconds[stage] = seconds.get(stage, 0.0) + spent
