"""The best answers refined by full profile, and ordered by what that says."""

from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np

from xrdkit.confidence import judge
from xrdkit.rank import log_evidence
from xrdkit.types import Fit, Pattern, Progress, Solution

REFINED = 3  # fits, at most
ENGINES = ("builtin", "gsas2")


def check_engine(engine: str, pattern: Pattern) -> None:
    """An error unless the engine is known and there, and the pattern as measured."""
    if engine not in ENGINES:
        raise ValueError(
            f"engine {engine!r} is not known; choose from {', '.join(ENGINES)}"
        )
    if pattern.prepared:
        raise ValueError(
            f"engine {engine!r} refines a pattern as measured, and this one is prepared "
            "already; give it as it was read"
        )
    if engine == "gsas2":
        from xrdkit.refine.gsas2 import version

        version()


def refined_steps(solution: Solution, pattern: Pattern, engine: str) -> Iterator[Progress]:
    """Yield progress; return the solution with its best fits refined and put in order.

    ``pattern`` is as measured. Verdict and confidence are those of the fit that is first
    then. What could not be refined stands after the others, and the reasons say why.
    """
    done: dict[int, Fit] = {}
    said: list[str] = []
    for place, fit in enumerate(solution.fits[:REFINED]):
        try:
            done[place] = yield from _steps_of(engine)(pattern, fit)
        except (ValueError, RuntimeError) as error:
            said.append(f"no. {place + 1} is not refined by full profile: {error}")
    scores = scores_of(solution.fits, done)
    order = sorted(range(len(solution.fits)), key=lambda i: -scores.get(i, -np.inf))
    answers = [
        answer(done[i], solution.fits[i], scores[i]) if i in done else solution.fits[i]
        for i in order
    ]
    place_of = {old: new for new, old in enumerate(order)}
    groups = sorted(tuple(sorted(place_of[i] for i in g)) for g in solution.groups)
    changed = replace(solution, fits=tuple(answers), groups=tuple(groups))
    if order[:1] != [0] and groups:
        asked = [solution.fits[i] for i in order]
        judgement = judge(solution.problem, asked, groups[0])
        names = ("confidence", "verdict", "reasons", "features")
        changed = replace(changed, **dict(zip(names, judgement, strict=True)))
    return replace(changed, reasons=(*changed.reasons, *said))


def scores_of(fits: tuple[Fit, ...], done: dict[int, Fit]) -> dict[int, float]:
    """Scores of the refined fits: prior and log evidence, the best as the best before.

    R_wp′, with the background taken off, stands for the residual, and all parameters but
    those of the background count.
    """
    if not done:
        return {}
    residual = np.array([fit.r_values["r_wp_b"] / 100 for fit in done.values()])
    parameters = np.array([float(fit.parameters) for fit in done.values()])
    points = len(next(iter(done.values())).two_theta)
    score = log_evidence(residual, parameters, points)
    score += np.array([fits[i].prior for i in done])
    score += max(fits[i].score for i in done) - score.max()
    return dict(zip(done, score.tolist(), strict=True))


def answer(refined: Fit, asked: Fit, score: float) -> Fit:
    """A refined fit with what is known of it from before."""
    kept = ("origin", "prior", "known", "residual", "unexplained", "determined")
    kept += ("undetermined", "wyckoff")
    return replace(refined, score=score, **{name: getattr(asked, name) for name in kept})


def _steps_of(engine: str) -> Callable[..., Iterator[Progress]]:
    """The generator of an engine, which is imported only here."""
    if engine == "gsas2":
        from xrdkit.refine.gsas2 import refine_steps
    else:
        from xrdkit.refine.rietveld import refine_steps
    return refine_steps
