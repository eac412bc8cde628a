"""What speaks for and against a fit: measured on pattern, profile and structure.

``xrdkit.confidence`` makes a probability of it; ranking, sources and the pipeline ask how
much a fit leaves.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from xrdkit.crystal import covalent_radii
from xrdkit.library import expected_volume, volume_spread
from xrdkit.peaks import find_peaks, noise
from xrdkit.simulate import simulate
from xrdkit.types import Crystals, Fit, Instrument, Pattern, Peaks, Problem

SIGNIFICANT = 3.0  # standard deviations of the noise that are no misfit
MATCHED = 0.5  # of a line's height that the calculated profile must reach
OFF, INDEPENDENT = 0.5, 120  # prior width of ln scattering power; independent points
COMMON = 0.05  # error of ln scattering power that any real pattern has
AHEAD = 40.0  # a larger lead says no more


def features(
    problem: Problem, fits: Sequence[Fit], group: Sequence[int] = (0,)
) -> dict[str, float]:
    """What speaks for and against the first fit; ``group`` are the fits it ties with.

    residual; noise, what noise alone leaves of it, and excess, √(residual² - noise²);
    shares (0–1) of the intensity that is unexplained and missing, and of the observed lines
    that are unmatched; lead, the score over that of the next different structure; numbers
    of parameters, lines and tied structures; prior, the log prior; electrons, the ln of
    the factor that the pattern would put on an element's scattering power, deviation, that
    in standard deviations, of the element (atomic number) where this is largest; volume, ln
    of it over the expected one, and spread, what two thirds of such compounds differ by;
    shortest distance over the sum of covalent radii; texture 0 or 1; shift of the lines in
    line widths; u_iso (Å²); range, the largest q (1/Å).
    """
    if not fits:
        raise ValueError("there are no fits to take features of; judge says so to the user")
    best, pattern = fits[0], problem.pattern
    peaks = find_peaks(pattern)
    others = [f for i, f in enumerate(fits) if i not in group]
    sigma, factors = noise_of(best, pattern), electrons(best)
    deviation = {
        z: abs(ln) / float(np.hypot(sd, COMMON)) for z, (ln, sd) in factors.items()
    }
    worst = max(deviation, key=deviation.__getitem__)
    return {
        "residual": best.residual,
        "noise": noise_residual(best, sigma),
        "excess": excess(best, pattern),
        "unexplained": unexplained(best, sigma),
        "missing": missing(best, sigma),
        "unmatched": unmatched(best, peaks),
        "lead": min([AHEAD, *(best.score - f.score for f in others)]),
        "parameters": float(best.parameters),
        "lines": float(len(peaks.two_theta)),
        "ties": float(len(group)),
        "prior": best.prior,
        "electrons": factors[worst][0],
        "deviation": deviation[worst],
        "element": float(worst),
        "volume": swelling(best, problem),
        "spread": volume_spread({e.Z: n for e, n in best.structure.composition.items()}),
        "shortest": shortest(best),
        "texture": float(best.phases[0].texture is not None),
        "shift": shift(best) / max(best.instrument.w, 1e-6) ** 0.5,
        "u_iso": float(best.phases[0].crystal.u_iso.mean()),
        "range": float(pattern.q.max()),
    }


def shift(fit: Fit) -> float:
    """How far (°) zero and displacement move the lines at low angle."""
    now = fit.instrument
    return abs(now.zero - float(np.degrees(2 * now.displacement / now.radius)))


def noise_of(fit: Fit, pattern: Pattern) -> Float[np.ndarray, " points"]:
    """Standard deviation of the fit's observed profile, whose bins hold several points."""
    step = np.gradient(fit.two_theta)
    bins = np.maximum(step / np.interp(fit.two_theta, *_steps(pattern)), 1)
    return np.interp(fit.two_theta, pattern.two_theta, noise(pattern)) / np.sqrt(bins)


def _steps(pattern: Pattern) -> tuple[np.ndarray, np.ndarray]:
    return pattern.two_theta, np.gradient(pattern.two_theta)


def noise_residual(fit: Fit, sigma: Float[np.ndarray, " points"]) -> float:
    """Profile residual that noise alone leaves, √(Σ wσ² / Σ wy²).

    With the weights of refinement, about 1 / (y + 0.01).
    """
    weight = 1 / (np.clip(fit.observed, 0, None) + 0.01 + 2 * np.median(sigma))
    whole = (weight * fit.observed**2).sum()
    return float(np.sqrt((weight * sigma**2).sum() / max(whole, 1e-12)))


def excess(fit: Fit, pattern: Pattern) -> float:
    """Profile residual of a fit over what noise alone leaves, √(R² - R_noise²)."""
    own = noise_residual(fit, noise_of(fit, pattern))
    return float(np.sqrt(max(fit.residual**2 - own**2, 0)))


def left_by(fits: Sequence[Fit], problem: Problem) -> float:
    """``excess`` of the fit with the least residual, or 1 where there is none."""
    best = min(fits, key=lambda fit: fit.residual, default=None)
    return excess(best, problem.pattern) if best else 1.0


def unexplained(fit: Fit, sigma: Float[np.ndarray, " points"]) -> float:
    """Share of the observed intensity above background that no calculated line explains."""
    above = fit.observed - fit.calculated
    return _share(above, sigma, fit.observed - fit.background)


def with_unexplained(fit: Fit, pattern: Pattern) -> Fit:
    """The fit with the share of the prepared pattern's intensity that it leaves."""
    return replace(fit, unexplained=unexplained(fit, noise_of(fit, pattern)))


def missing(fit: Fit, sigma: Float[np.ndarray, " points"]) -> float:
    """Share of the calculated intensity that is not observed."""
    above = fit.calculated - fit.observed
    return _share(above, sigma, fit.calculated - fit.background)


def _share(
    misfit: Float[np.ndarray, " points"],
    sigma: Float[np.ndarray, " points"],
    whole: Float[np.ndarray, " points"],
) -> float:
    """The part of a positive misfit that noise does not give, over a whole curve."""
    clear = np.where(misfit > SIGNIFICANT * sigma, misfit, 0)
    return float(np.clip(clear.sum() / max(whole.clip(0).sum(), 1e-12), 0, 1))


def unmatched(fit: Fit, peaks: Peaks) -> float:
    """Share of the observed lines, by the root of their height, without a counterpart.

    A counterpart reaches half the height within half a width.
    """
    curve = fit.calculated - fit.background
    inside = peaks.two_theta <= fit.two_theta[-1]
    places = peaks.two_theta + np.linspace(-0.5, 0.5, 5)[:, None] * peaks.fwhm
    reached = np.interp(places, fit.two_theta, curve).max(0)
    weight = np.sqrt(peaks.height) * inside
    lost = weight @ (reached < MATCHED * peaks.height)
    return float(lost / max(weight.sum(), 1e-12))


def electrons(fit: Fit) -> dict[int, tuple[float, float]]:
    """ln of the factor by which the pattern would change each element's scattering power.

    By atomic number, with its standard deviation.
    One Gauss–Newton step of all elements' occupancies, with scale and a common displacement
    parameter free, from the weighted difference curve; prior widths OFF keep what is not
    determined at zero. Near zero for the right elements; about ln(Z / Z') where an element
    stands for one of Z electrons but has Z'.
    """
    crystal, curve = fit.phases[0].crystal, fit.calculated - fit.background
    numbers = crystal.numbers.unique()
    slopes = _slopes(crystal, numbers, fit)
    weight = 1 / (np.clip(fit.observed, 0, None) + 0.02)
    q2 = (4 * np.pi * np.sin(np.radians(fit.two_theta / 2)) / fit.radiation.main) ** 2
    columns = np.stack([*slopes, np.ones_like(q2), -q2 / 10]) * curve * weight
    difference = (fit.observed - fit.calculated) * weight
    variance = max((difference**2).sum() / INDEPENDENT, 1e-12)
    width = np.append(np.full(len(numbers), OFF), [1.0, 1.0])
    normal = columns @ columns.T / variance + np.diag(width**-2)
    covariance = np.linalg.inv(normal)
    step = covariance @ (columns @ difference / variance)
    sd = np.sqrt(covariance.diagonal())
    found = zip(numbers.tolist(), step.tolist(), sd.tolist(), strict=False)
    return {number: (ln, error) for number, ln, error in found}


def _slopes(
    crystal: Crystals, numbers: Int[Tensor, " elements"], fit: Fit
) -> Float[np.ndarray, "elements points"]:
    """d ln(profile) / d ln(occupancy) of each element, by a difference of 20 %."""
    many = crystal.select(torch.zeros(len(numbers) + 1, dtype=torch.long))
    less = many.owner == len(numbers)
    less = ~less & (many.numbers == torch.cat([numbers, numbers[:1]])[many.owner])
    many = replace(many, occupancy=torch.where(less, 0.8, 1.0) * many.occupancy)
    grid = torch.as_tensor(fit.two_theta, dtype=torch.float32)
    with torch.no_grad():
        curves = simulate(
            many, fit.radiation, two_theta=grid, instrument=Instrument(w=fit.instrument.w)
        )
    curves = curves.clamp_min(0).double().numpy()
    logs = np.log(curves + max(1e-3 * curves[-1].max(), 1e-30))
    return (logs[:-1] - logs[-1]) / np.log(0.8)


def swelling(fit: Fit, problem: Problem) -> float:
    """ln of the volume over what compounds of the library let expect; 0 without library.

    That is what the elements let expect, and how much larger compounds of the type are.
    """
    if problem.library is None:
        return 0.0
    counts = {e.Z: n for e, n in fit.structure.composition.items()}
    expected = expected_volume(problem.library, counts) * sum(counts.values())
    return float(np.log(fit.structure.volume / expected)) - fit.swelling


def shortest(fit: Fit) -> float:
    """Shortest distance between two atoms over the sum of their covalent radii."""
    structure = fit.structure
    radii = covalent_radii(structure)
    ratio = structure.distance_matrix / (radii[:, None] + radii)
    np.fill_diagonal(ratio, min(structure.lattice.abc) / (2 * radii.max()))
    return float(ratio.min())
