"""How right an answer is: structure matching, R factors, rates with intervals."""

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import sqrt
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float

if TYPE_CHECKING:
    from pymatgen.core import Structure

LITERATURE = {"stol": 0.5, "ltol": 0.3, "angle_tol": 10.0}  # as CDVAE and all after it
STRICT = {"stol": 0.2, "ltol": 0.05, "angle_tol": 3.0}
STRICT_VOLUME = 0.01  # largest relative difference of the volume per atom
SYMPREC = 0.1  # Å
WINDOW = 7  # points along each edge of a window in which densities are compared


@dataclass(frozen=True)
class Match:
    """An answer held against the truth.

    ``rmse`` is None where the literature settings do not match; it is divided by
    (V/N)^(1/3), ``rmse_angstrom`` is the same in Å.
    """

    literature: bool
    strict: bool
    heavy: bool
    rmse: float | None = None
    rmse_angstrom: float | None = None


def match(truth: "Structure", answer: "Structure", *, hydrogen: bool = True) -> Match:
    """Literature, strict and hydrogen-free match of an answer, and its RMSE.

    Without ``hydrogen`` all of them are of what is left without it, where something is.
    Deuterium and tritium count as hydrogen.
    """
    truth, answer = (as_protium(s) for s in (truth, answer))
    if not hydrogen:
        bare = [without_hydrogen(s) for s in (truth, answer)]
        truth, answer = bare if all(len(s) for s in bare) else (truth, answer)
    rmse = normalised_rmse(truth, answer)
    return Match(
        rmse is not None,
        strict_match(truth, answer),
        heavy_match(truth, answer),
        rmse,
        None if rmse is None else rmse * _spacing(truth, answer),
    )


def normalised_rmse(truth: "Structure", answer: "Structure") -> float | None:
    """RMSE / (V/N)^(1/3) of the literature match, None where there is none.

    Both are scaled to one volume per atom first, so +15 % volume and 0.3 Å pass: a nearly
    free test. Xie et al., "Crystal Diffusion Variational Autoencoder", ICLR 2022.
    """
    found = _matcher(**LITERATURE).get_rms_dist(truth, answer)
    return None if found is None else float(found[0])


def strict_match(truth: "Structure", answer: "Structure") -> bool:
    """Match without scaling, volume per atom within 1 %, the same space group (0.1 Å)."""
    volumes = [s.volume / len(s) for s in (truth, answer)]
    if abs(volumes[1] / volumes[0] - 1) > STRICT_VOLUME:
        return False
    if not _matcher(**STRICT, scale=False).fit(truth, answer):
        return False
    groups = [space_group(s) for s in (truth, answer)]
    return groups[0] is not None and groups[0] == groups[1]


def mirror_match(truth: "Structure", answer: "Structure") -> bool:
    """Strict match of the mirror image, which no powder pattern tells from the answer.

    It matters in the eleven pairs of enantiomorphic space groups (quartz: P3₁21, P3₂21).
    """
    image = answer.copy()
    for site in image:
        site.frac_coords = -site.frac_coords
    return strict_match(truth, image)


def average_match(truth: "Structure", answer: "Structure") -> bool:
    """Strict match of a disordered answer with the average of the truth, its ordering.

    Elements that share a site in the answer count as one in both. An ordered answer and
    one with vacancies have no such average.
    """
    mixed = shared_elements(answer)
    if not mixed or any(site.species.num_atoms < 0.99 for site in answer):
        return False
    merged = [truth.copy(), answer.copy()]
    for structure in merged:
        for site in structure:
            first = site.species.elements[0].symbol
            site.species = next((min(one) for one in mixed if first in one), first)
    return strict_match(*(s.get_primitive_structure() for s in merged))


def shared_elements(structure: "Structure") -> list[set[str]]:
    """Sets of elements (symbols) that are mixed on some site, joined where they overlap."""
    found: list[set[str]] = []
    for site in structure:
        here = {e.symbol for e in site.species.elements}
        if len(here) > 1:
            touched = [one for one in found if one & here]
            found = [one for one in found if not one & here] + [here.union(*touched)]
    return found


def heavy_match(truth: "Structure", answer: "Structure") -> bool:
    """Literature match of what is left without hydrogen, which X-rays hardly see."""
    bare = [without_hydrogen(s) for s in (truth, answer)]
    if not all(len(s) for s in bare):
        return not any(len(s) for s in bare) and normalised_rmse(truth, answer) is not None
    return normalised_rmse(*bare) is not None


def without_hydrogen(structure: "Structure") -> "Structure":
    """A copy without hydrogen, deuterium and tritium, also on sites shared with others."""
    bare = as_protium(structure)
    bare.remove_species(["H"])
    return bare


def as_protium(structure: "Structure") -> "Structure":
    """A copy in which deuterium and tritium are hydrogen, as X-rays see them."""
    light = structure.copy()
    light.remove_oxidation_states()
    light.replace_species({e: "H" for e in light.composition if e.Z == 1})
    return light


def space_group(structure: "Structure", symprec: float = SYMPREC) -> int | None:
    """Space group number at a tolerance in Å, None where spglib finds none."""
    from pymatgen.symmetry.analyzer import SpacegroupAnalyzer, SymmetryUndeterminedError

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return SpacegroupAnalyzer(structure, symprec).get_space_group_number()
        except SymmetryUndeterminedError:
            return None


def _matcher(scale: bool = True, **tolerances: float) -> "StructureMatcher":  # noqa: F821
    from pymatgen.analysis.structure_matcher import StructureMatcher

    return StructureMatcher(**tolerances, scale=scale)


def _spacing(truth: "Structure", answer: "Structure") -> float:
    """(V/N)^(1/3) in Å of the volume to which the matcher scales both."""
    return (truth.volume / len(truth) * answer.volume / len(answer)) ** (1 / 6)


def valid(structure: "Structure") -> bool:
    """PXRDGen's filter: charges can balance (SMACT) and atoms keep apart."""
    return charge_balanced(structure.formula) and atoms_apart(structure)


def charge_balanced(formula: str) -> bool:
    """SMACT's test as in CDVAE: neutral in Pauling's order, an element, or an alloy.

    Davies et al., Chem 1, 617 (2016); oxidation states of its first edition. Fractions, of
    mixed sites, are taken to whole numbers.
    """
    from pymatgen.core import Composition

    try:
        from smact.screening import smact_validity
    except ImportError as error:
        raise ValueError(
            "the validity filter needs the SMACT package, which is not installed; "
            "pip install 'xrdkit[test]'"
        ) from error
    whole = Composition(formula).get_integer_formula_and_factor(max_denominator=100)[0]
    return bool(smact_validity(whole, oxidation_states_set="smact14"))


def atoms_apart(structure: "Structure") -> bool:
    """CDVAE's test: no two atoms within 0.5 Å, the cell at least 0.1 Å³."""
    distances = structure.distance_matrix + 100 * np.eye(len(structure))
    return bool(distances.min() >= 0.5 and structure.volume >= 0.1)


def r_wp(
    observed: Float[np.ndarray, " points"],
    calculated: Float[np.ndarray, " points"],
    sigma: Float[np.ndarray, " points"] | None = None,
) -> float:
    """R_wp in percent, √(Σw(y-c)²/Σwy²) with the background in y; w = 1/σ², else 1."""
    w = _weights(observed, sigma)
    return 100 * sqrt((w * (observed - calculated) ** 2).sum() / (w * observed**2).sum())


def r_wp_prime(
    observed: Float[np.ndarray, " points"],
    calculated: Float[np.ndarray, " points"],
    background: Float[np.ndarray, " points"],
    *,
    sigma: Float[np.ndarray, " points"] | None = None,
) -> float:
    """R_wp′ in percent: as R_wp, with the background subtracted from y below the line."""
    w = _weights(observed, sigma)
    whole = (w * (observed - background) ** 2).sum()
    return 100 * sqrt((w * (observed - calculated) ** 2).sum() / whole)


def r_exp(
    observed: Float[np.ndarray, " points"],
    sigma: Float[np.ndarray, " points"] | None,
    parameters: int,
) -> float | None:
    """R_exp in percent, √((N-P)/Σwy²); None without σ or with P ≥ N, where it is none."""
    if sigma is None:
        return None
    w = _weights(observed, sigma)
    left = np.count_nonzero(w) - parameters
    return 100 * sqrt(left / (w * observed**2).sum()) if left > 0 else None


def goodness_of_fit(
    observed: Float[np.ndarray, " points"],
    calculated: Float[np.ndarray, " points"],
    sigma: Float[np.ndarray, " points"] | None,
    *,
    parameters: int,
) -> float | None:
    """R_wp / R_exp, one for a fit as good as the noise; None without σ."""
    expected = r_exp(observed, sigma, parameters)
    return None if expected is None else r_wp(observed, calculated, sigma) / expected


def r_squared(
    observed: Float[np.ndarray, " points"], calculated: Float[np.ndarray, " points"]
) -> float:
    """PXRDnet's R², Σ(y-c)²/Σy²: unweighted, no root, a share; for its benchmark only."""
    return float(((observed - calculated) ** 2).sum() / (observed**2).sum())


def ssim(truth: Float[np.ndarray, "a b c"], answer: Float[np.ndarray, "a b c"]) -> float:
    """Structural similarity of two densities on a grid, at most 1; higher is better.

    Wang et al., IEEE Trans. Image Process. 13, 600 (2004): the mean over all windows of 7³
    points of (2 m m' + C1)(2 cov + C2) / (m² + m'² + C1)(var + var' + C2), with C1, C2 the
    squares of 1 % and 3 % of the range of the truth. Windows go on across the cell's faces.
    """
    from scipy.ndimage import uniform_filter

    x, y = (values.astype(float) for values in (truth, answer))
    c1, c2 = (np.array([0.01, 0.03]) * _range(x)) ** 2
    mean_x, mean_y, xx, yy, xy = (
        uniform_filter(values, WINDOW, mode="wrap")
        for values in (x, y, x * x, y * y, x * y)
    )
    xx, yy, xy = xx - mean_x**2, yy - mean_y**2, xy - mean_x * mean_y
    alike = (2 * mean_x * mean_y + c1) * (2 * xy + c2)
    return float((alike / ((mean_x**2 + mean_y**2 + c1) * (xx + yy + c2))).mean())


def psnr(truth: Float[np.ndarray, "a b c"], answer: Float[np.ndarray, "a b c"]) -> float:
    """Peak signal-to-noise ratio 10 log10((max - min)² / mean square error) in dB."""
    square = np.square(truth.astype(float) - answer).mean()
    return float(10 * np.log10(_range(truth) ** 2 / max(square, 1e-30)))


def _range(truth: Float[np.ndarray, "a b c"]) -> float:
    """Highest less lowest value of a density that is to be compared with."""
    found = float(np.ptp(truth))
    if not found > 0:
        raise ValueError(
            "the density to compare with is the same everywhere; give that of a crystal"
        )
    return found


def _weights(
    observed: Float[np.ndarray, " points"], sigma: Float[np.ndarray, " points"] | None
) -> Float[np.ndarray, " points"]:
    """1/σ², and zero where σ is zero (padding); unit weights without σ."""
    if sigma is None:
        return np.ones_like(observed)
    return np.divide(1, sigma**2, out=np.zeros_like(sigma), where=sigma > 0)


def cell_error(
    truth: Float[np.ndarray, "3 3"], answer: Float[np.ndarray, "3 3"]
) -> dict[str, float]:
    """Errors of the Niggli cell: a, b, c and V in percent, α, β, γ in degrees."""
    from pymatgen.core import Lattice

    true, found = (Lattice(rows).get_niggli_reduced_lattice() for rows in (truth, answer))
    errors = {
        name: 100 * abs(getattr(found, name) / getattr(true, name) - 1)
        for name in ("a", "b", "c", "volume")
    }
    angles = {
        n: abs(getattr(found, n) - getattr(true, n)) for n in ("alpha", "beta", "gamma")
    }
    return {**errors, **angles}


def hit_rate(ranks: Sequence[int | None], k: int) -> float:
    """Share of entries whose first right answer is among the first k; ranks start at 1."""
    return sum(rank is not None and rank <= k for rank in ranks) / len(ranks)


def wilson_interval(hits: int, n: int, level: float = 0.95) -> tuple[float, float]:
    """Wilson's interval of a rate: right also for few entries and rates near 0 or 1."""
    from scipy.stats import norm

    if not 0 <= hits <= n or n < 1:
        raise ValueError(f"{hits} hits of {n}; give 0 to n hits of at least one entry")
    z = float(norm.ppf((1 + level) / 2))
    share = hits / n
    centre = (share + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z / (1 + z**2 / n) * sqrt(share * (1 - share) / n + z**2 / (4 * n**2))
    return max(0.0, centre - half), min(1.0, centre + half)


def bootstrap_interval(
    values: Sequence[float] | Float[np.ndarray, " entries"],
    statistic: Callable = np.median,
    *,
    level: float = 0.95,
    samples: int = 2000,
    seed: int = 0,
) -> tuple[float, float]:
    """Percentile interval of a statistic (the median) over resampled entries."""
    data = np.asarray(values, dtype=float)
    generator = np.random.default_rng(seed)
    drawn = [statistic(generator.choice(data, len(data))) for _ in range(samples)]
    low, high = np.quantile(drawn, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def roc_area(right: Sequence[float], wrong: Sequence[float]) -> float:
    """Area under the ROC curve: how often a right value is below a wrong one, ties half."""
    from scipy.stats import rankdata

    if not len(right) or not len(wrong):
        raise ValueError(
            f"{len(right)} right and {len(wrong)} wrong values; give at least one of each"
        )
    ranks = rankdata([*right, *wrong])[: len(right)]
    below = len(right) * len(wrong) - (ranks.sum() - len(right) * (len(right) + 1) / 2)
    return float(below / (len(right) * len(wrong)))
