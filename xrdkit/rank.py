"""Merge duplicates, refuse impossible structures, order by fit, judge.

One score for every source: the log posterior of a fit up to a constant,
-n/2 ln(R² + R0²) - k/2 ln n + prior, with R the profile residual, k the number of
parameters, n the number of independent observations and R0 a share of the best residual:
what systematic errors leave in every model, so that a slightly lower residual does not
decide alone.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from jaxtyping import Float

from xrdkit.confidence import judge
from xrdkit.crystal import covalent_radii, places
from xrdkit.evidence import swelling, with_unexplained
from xrdkit.structure_types import distance_features
from xrdkit.types import Fit, Problem, Solution
from xrdkit.wavelengths import has_kbeta

SHORTEST = 0.55  # of the sum of covalent radii
SYSTEMATIC, FLOOR = 0.5, 0.001  # R0 = SYSTEMATIC · best residual + FLOOR
OBSERVATIONS = 120  # more points than this are not independent where models are wrong
SAME = 0.06  # largest difference of normalised distances between duplicates
JUDGED = 20  # ranked fits by which the trust in the first is judged
TOLD = 3.0  # difference of log evidence from which two models count as told apart


def possible(fit: Fit) -> bool:
    """Whether the fit is a number and no two atoms are closer than 0.55 of their radii."""
    structure = fit.structure
    if not np.isfinite(fit.residual):
        return False
    radii = covalent_radii(structure)
    if len(structure) > 1:
        distance = structure.distance_matrix
        np.fill_diagonal(distance, np.inf)
        if (distance < SHORTEST * (radii[:, None] + radii)).any():
            return False
    return bool(min(structure.lattice.abc) > 2 * SHORTEST * radii.max())


def roomy(fit: Fit, problem: Problem) -> bool:
    """Whether the volume per atom is within a factor of two of what the library expects."""
    return bool(abs(swelling(fit, problem)) < np.log(2))


def sound(fits: list[Fit], problem: Problem) -> list[Fit]:
    """The fits whose structures can be."""
    return [fit for fit in fits if possible(fit) and roomy(fit, problem)]


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
    """Fits of distinct structures: of duplicates the one with the best score."""
    chosen: list[Fit] = []
    seen: list[tuple[tuple, np.ndarray]] = []
    for fit in fits:
        mine = fingerprint(fit)
        if not any(alike(mine, other) for other in seen):
            chosen.append(fit)
            seen.append(mine)
    return chosen


def fingerprint(fit: Fit) -> tuple[tuple, Float[np.ndarray, " features"]]:
    """Kinds of sites; volume per site (log) and averaged neighbour distances of each kind.

    A kind is what is on a site: numbers and occupancies.
    """
    crystal = fit.phases[0].crystal
    lattice, frac = crystal.lattice[0].double().numpy(), crystal.frac.double().numpy()
    first, place = places(frac)
    on_site: list[list[tuple[int, float]]] = [[] for _ in first]
    rows = zip(place, crystal.numbers.tolist(), crystal.occupancy.tolist(), strict=True)
    for i, number, occupancy in rows:
        on_site[i].append((number, round(occupancy, 2)))
    kinds = [tuple(sorted(species)) for species in on_site]
    distinct = sorted(set(kinds))
    parts = [
        distance_features(
            lattice, frac[first], np.array([i for i, k in enumerate(kinds) if k == kind])
        )
        for kind in distinct
    ]
    volume = np.log(abs(np.linalg.det(lattice)) / len(first))
    return tuple(distinct), np.concatenate([[volume], *parts])


def alike(one: tuple[tuple, np.ndarray], other: tuple[tuple, np.ndarray]) -> bool:
    """Whether two fingerprints are of one structure."""
    return one[0] == other[0] and bool(np.abs(one[1] - other[1]).max() < SAME)


def equivalent(fits: list[Fit]) -> tuple[tuple[int, ...], ...]:
    """Classes of fits that the pattern cannot tell apart, whatever their priors.

    Indices into ``fits`` (best first). A fit joins the first class whose best member's log
    evidence, parameters aside, differs from its own by less than ``TOLD``.
    """
    if not fits:
        return ()
    residual = np.array([fit.residual for fit in fits])
    evidence = log_evidence(residual, np.zeros(len(fits)), len(fits[0].two_theta))
    classes: list[list[int]] = []
    for i, here in enumerate(evidence):
        same = [c for c in classes if abs(evidence[c[0]] - here) < TOLD]
        if same:
            same[0].append(i)
        else:
            classes.append([i])
    return tuple(tuple(c) for c in classes)


def trusted(problem: Problem, fits: Sequence[Fit]) -> bool:
    """Whether the first of the best of these fits is called confident."""
    return rank(problem, list(fits), JUDGED).verdict == "confident"


def found_out(problem: Problem, best: list[Fit]) -> tuple[str, ...]:
    """What the best fit says of the beam, slits, texture and known phases."""
    said = []
    for fit in best:
        if problem.pattern.radiation.kalpha2 is None:
            beam = ", ".join(f"{w:.6g}" for w in fit.radiation.wavelengths)
            kind = "a Kα doublet" if fit.radiation.kalpha2 else "a single line"
            said.append(f"{kind} fits the wavelength given best ({beam} Å)")
        if has_kbeta(fit.radiation) and not has_kbeta(problem.pattern.radiation):
            said.append(f"Kβ of {fit.radiation.weights[-1]:.0%} of the intensity is seen")
        was = problem.pattern.instrument
        if (fit.instrument.slits, fit.instrument.overflow) != (was.slits, was.overflow):
            said.append(
                "intensities are those of automatic slits"
                if fit.instrument.slits == "automatic"
                else f"the beam overflows the sample below {fit.instrument.overflow:g}°"
            )
        for phase in fit.phases[1:]:
            said.append(f"{phase.name}: {phase.weight_fraction:.1%} by weight")
        if fit.phases[0].texture:
            axis, r = fit.phases[0].texture
            said.append(f"preferred orientation along {axis}, March–Dollase r = {r:g}")
    return tuple(said)


def rank(problem: Problem, fits: list[Fit], count: int) -> Solution:
    """The best ``count`` distinct, possible structures as a Solution."""
    ordered = merged(scored(sound(fits, problem)))[:count]
    ordered = [with_unexplained(fit, problem.pattern) for fit in ordered]
    groups = equivalent(ordered)
    group = groups[0] if groups else ()
    confidence, verdict, reasons, features = judge(problem, ordered, group)
    known = [f"{fit.known} is a known compound" for fit in ordered[:1] if fit.known]
    reasons = (*known, *reasons, *found_out(problem, ordered[:1]))
    return Solution(problem, tuple(ordered), groups, confidence, verdict, reasons, features)
