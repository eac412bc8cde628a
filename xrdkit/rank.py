"""Merge duplicates, refuse impossible structures, order by fit, judge.

One score for every source: the log posterior of a fit up to a constant,
-n/2 ln(R² + R0²) - k/2 ln n + prior, with R the profile residual, k the number of
parameters, n the number of independent observations and R0 a share of the best residual:
what systematic errors leave in every model, so that a slightly lower residual does not
decide alone.
"""

from dataclasses import replace

import numpy as np
from jaxtyping import Float

from xrdkit.library import expected_volume
from xrdkit.structure_types import distance_features
from xrdkit.types import Fit, Problem, Solution, Verdict

SHORTEST = 0.55  # of the sum of covalent radii
SYSTEMATIC, FLOOR = 0.5, 0.001  # R0 = SYSTEMATIC · best residual + FLOOR
OBSERVATIONS = 120  # more points than this are not independent where models are wrong
SIMPLER = 1.15  # of duplicates the simplest stays whose residual is below this × the best
SAME = 0.06  # largest difference of normalised distances between duplicates
NEAR_TIE = 3.0  # difference in score


def possible(fit: Fit) -> bool:
    """Whether the fit is a number and no two atoms are closer than 0.55 of their radii."""
    from pymatgen.analysis.local_env import CovalentRadius

    structure = fit.structure
    if not np.isfinite(fit.residual):
        return False
    radii = np.array([CovalentRadius.radius.get(s.specie.symbol, 1.5) for s in structure])
    if len(structure) > 1:
        distance = structure.distance_matrix
        np.fill_diagonal(distance, np.inf)
        if (distance < SHORTEST * (radii[:, None] + radii)).any():
            return False
    return bool(min(structure.lattice.abc) > 2 * SHORTEST * radii.max())


def roomy(fit: Fit, problem: Problem) -> bool:
    """Whether the volume per atom is within a factor of two of what the library expects."""
    if problem.library is None:
        return True
    counts = {e.Z: n for e, n in fit.structure.composition.items()}
    expected = expected_volume(problem.library, counts) * len(fit.structure)
    return bool(0.5 < fit.structure.volume / expected < 2)


def log_evidence(
    residual: Float[np.ndarray, " fits"],
    parameters: Float[np.ndarray, " fits"],
    points: int,
) -> Float[np.ndarray, " fits"]:
    """-n/2 ln(R² + R0²) - k/2 ln n, the part of the score that the pattern decides."""
    r0 = SYSTEMATIC * residual.min() + FLOOR
    n = min(OBSERVATIONS, points / 6)
    return -n / 2 * np.log(residual**2 + r0**2) - parameters / 2 * np.log(n)


def scored(fits: list[Fit]) -> list[Fit]:
    """The fits with their scores (prior and evidence), best first."""
    if not fits:
        return []
    residual = np.array([f.residual for f in fits])
    parameters = np.array([float(f.parameters) for f in fits])
    evidence = log_evidence(residual, parameters, len(fits[0].two_theta))
    done = [
        replace(f, score=f.prior + float(e)) for f, e in zip(fits, evidence, strict=True)
    ]
    return sorted(done, key=lambda f: -f.score)


def merged(fits: list[Fit]) -> list[Fit]:
    """Fits of distinct structures, in order of score.

    Of duplicates the one with fewest parameters stays, unless another one's residual is
    much lower; it takes the place of the best.
    """
    groups: list[list[Fit]] = []
    seen: list[np.ndarray] = []
    for fit in fits:
        mine = fingerprint(fit)
        same = [i for i, other in enumerate(seen) if np.abs(other - mine).max() < SAME]
        if same:
            groups[same[0]].append(fit)
        else:
            groups.append([fit])
            seen.append(mine)
    return [_simplest(group) for group in groups]


def _simplest(group: list[Fit]) -> Fit:
    """The duplicate with fewest parameters, then atoms, that fits about as well."""
    limit = SIMPLER * min(f.residual for f in group) + FLOOR
    fair = [f for f in group if f.residual <= limit]

    def size(fit: Fit) -> tuple[int, int, float]:
        return fit.parameters, len(fit.phases[0].crystal.numbers), fit.residual

    chosen = min(fair, key=size)
    return replace(chosen, score=max(f.score for f in group))


def fingerprint(fit: Fit) -> Float[np.ndarray, " features"]:
    """Volume per atom (log) and averaged neighbour distances of every element."""
    crystal = fit.phases[0].crystal
    lattice, frac = crystal.lattice[0].double().numpy(), crystal.frac.double().numpy()
    numbers = crystal.numbers.numpy()
    parts = [
        distance_features(lattice, frac, np.nonzero(numbers == z)[0])
        for z in np.unique(numbers)
    ]
    volume = np.log(abs(np.linalg.det(lattice)) / len(frac))
    return np.concatenate([[volume], *parts])


def near_ties(fits: list[Fit]) -> tuple[tuple[int, ...], ...]:
    """Indices of fits whose scores the pattern can hardly tell apart, best group first."""
    groups: list[list[int]] = []
    for i, fit in enumerate(fits):
        if groups and fits[groups[-1][0]].score - fit.score < NEAR_TIE:
            groups[-1].append(i)
        else:
            groups.append([i])
    return tuple(tuple(g) for g in groups)


def judge(fits: list[Fit]) -> tuple[float, Verdict, tuple[str, ...]]:
    """Confidence in the first fit (0-1), verdict and reasons.

    Plain: how much of the profile is explained, times how far ahead of other structures the
    first one is. Not calibrated on disturbed data yet.
    """
    if not fits:
        return (
            0.0,
            "none",
            ("no known structure type gives a possible structure",),
        )
    best = fits[0].residual
    explained = float(1 / (1 + np.exp((best - 0.33) / 0.06)))
    scores = np.array([f.score for f in fits[:20]])
    weights = np.exp((scores - scores[0]) / 4)
    ahead = float(weights[0] / weights.sum())
    confidence = round(explained * ahead, 3)
    reasons = [f"the first structure leaves a profile residual of {best:.3f}"]
    if len(fits) > 1:
        reasons.append(f"the next different one {fits[1].residual:.3f}")
    ties = near_ties(fits)[0]
    if len(ties) > 1:
        reasons.append(f"{len(ties)} structures fit about equally well")
    if explained < 0.5:
        reasons.append("no structure explains the pattern well")
    verdict: Verdict = "none" if explained < 0.2 else "tentative"
    if confidence >= 0.6:
        verdict = "confident"
    return confidence, verdict, tuple(reasons)


def found_out(problem: Problem, best: list[Fit]) -> tuple[str, ...]:
    """What the best fit says of the measurement: Kα2, texture."""
    said = []
    for fit in best:
        if problem.pattern.radiation.kalpha2 is None:
            beam = ", ".join(f"{w:.6g}" for w in fit.radiation.wavelengths)
            kind = "a Kα doublet" if len(fit.radiation.wavelengths) > 1 else "a single line"
            said.append(f"{kind} fits the wavelength given best ({beam} Å)")
        if fit.phases[0].texture:
            axis, r = fit.phases[0].texture
            said.append(f"preferred orientation along {axis}, March–Dollase r = {r:g}")
    return tuple(said)


def rank(problem: Problem, fits: list[Fit], count: int) -> Solution:
    """The best ``count`` distinct, possible structures as a Solution."""
    ordered = merged(scored([f for f in fits if possible(f) and roomy(f, problem)]))[:count]
    confidence, verdict, reasons = judge(ordered)
    reasons += found_out(problem, ordered[:1])
    return Solution(
        problem, tuple(ordered), near_ties(ordered), confidence, verdict, reasons
    )
