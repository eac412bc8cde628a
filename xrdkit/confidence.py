"""How far to trust the first answer: the probability that its group holds the structure.

    p = 1 / (1 + exp(-(b + Σ w_k x_k)))

with few terms x_k of the features (``xrdkit.evidence``), larger where less speaks for the
answer, and weights w_k ≤ 0, so that p falls with each of them:

    missing     3 √(share of the calculated intensity that is not observed)
    unmatched   3 √(share of the observed lines without a counterpart)
    rival       3 exp(-lead in score over the next different structure / 10)
    crowded     2 ln(1 + parameters / lines)
    deviation   |ln of the factor that the pattern wants on an element's electrons|, in
                standard deviations
    volume      |ln(volume / expected volume)| in spreads of such compounds, beyond USUAL
    close       6 (1 - shortest distance / sum of radii), at least 0
    texture     1 where a preferred orientation had to be assumed
    prior       -(log prior) / 2 of rare types and of elements unusual there, at least 0
    noise       5 times the residual that noise alone leaves

``xrdkit.benchmark.confidence`` fits b and w on disturbed and measured patterns with and
without a right answer (logistic regression); right is a strict match. The residual itself
and the share of intensity that is not explained add nothing to these: an impurity raises
both. Yet nothing is called confident where the residual is LEFT or more above what noise
leaves.
"""

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from xrdkit.evidence import features
from xrdkit.types import Fit, Problem, Verdict

CONFIDENT, NONE = 0.93, 0.1  # probabilities from and below which the verdicts hold
LEFT = 0.25  # profile residual over the noise from which nothing is called confident
UNEXPLAINED = 0.1  # share of the intensity that is worth a sentence
PULLED = 2.0  # loss in b + Σ w x that is worth a sentence
USUAL = 1.5  # spreads of volume that any compound may be off
SMALL = 50.0  # Å: size of crystals that the probability is not fitted to

OUT_OF_RANGE = "no line of the first structure lies in the measured range"
# 688 disturbed mp_20_val cases of eight kinds and 98 measured patterns, 340 of them right
BIAS = 8.22
WEIGHTS = {
    "missing": -1.81,
    "unmatched": -0.8,
    "rival": -0.51,
    "crowded": -1.95,
    "deviation": -1.5,
    "volume": -0.85,
    "close": -1.13,
    "texture": -0.88,
    "prior": -1.29,
    "noise": -0.79,
}

TERMS: dict[str, Callable[[Mapping[str, float]], float]] = {
    "missing": lambda f: 3 * f["missing"] ** 0.5,
    "unmatched": lambda f: 3 * f["unmatched"] ** 0.5,
    "rival": lambda f: 3 * float(np.exp(-f["lead"] / 10)),
    "crowded": lambda f: 2 * float(np.log1p(f["parameters"] / max(f["lines"], 1.0))),
    "deviation": lambda f: f["deviation"],
    "volume": lambda f: max(0.0, abs(f["volume"]) / f["spread"] - USUAL),
    "close": lambda f: 6 * max(0.0, 1 - f["shortest"]),
    "texture": lambda f: f["texture"],
    "prior": lambda f: max(0.0, -f["prior"]) / 2,
    "noise": lambda f: 5 * f["noise"],
}


def probability(features: Mapping[str, float]) -> float:
    """Probability (0–1) that the first group holds the right structure."""
    return float(1 / (1 + np.exp(-BIAS - sum(losses(features).values()))))


def losses(features: Mapping[str, float]) -> dict[str, float]:
    """What every term takes off the logit, w_k x_k ≤ 0."""
    return {name: WEIGHTS[name] * term(features) for name, term in TERMS.items()}


def judge(
    problem: Problem, fits: Sequence[Fit], group: Sequence[int] = (0,)
) -> tuple[float, Verdict, tuple[str, ...], dict[str, float]]:
    """Confidence in the first group of fits, verdict, reasons in words, and features."""
    if not fits:
        return 0.0, "none", ("no source gives a possible structure",), {}
    if not (fits[0].calculated - fits[0].background > 0).any():
        return 0.0, "none", (OUT_OF_RANGE,), {}
    found = features(problem, fits, group)
    confidence = round(probability(found), 3)
    said = (*reasons(found), *too_small(problem.pattern.size))
    return confidence, verdict_of(confidence, found), said, found


def too_small(size: float | None) -> tuple[str, ...]:
    """What is to be said of the probability for crystals of this size (Å)."""
    if size is None or size >= SMALL:
        return ()
    return (
        f"lines of crystals of {size:g} Å are so broad that other structures may fit as "
        "well; the probability was fitted to larger crystals",
    )


def verdict_of(probability: float, features: Mapping[str, float]) -> Verdict:
    """The verdict of a probability; never confident where much of the profile is left."""
    if not probability >= NONE:  # also where it is no number
        return "none"
    clean = features["excess"] < LEFT
    return "confident" if probability >= CONFIDENT and clean else "tentative"


def reasons(features: Mapping[str, float]) -> tuple[str, ...]:
    """What pulls the probability down most, in words; else what speaks for the answer."""
    lost = sorted(losses(features).items(), key=lambda item: item[1])
    pulls = [name for name, loss in lost if loss < -PULLED]
    if not pulls and probability(features) < CONFIDENT:
        pulls = [lost[0][0]]
    told = [SENTENCES[name](features) for name in pulls]
    if features["excess"] >= LEFT:
        told.append(f"the profile residual is {features['residual']:.2f}")
    if features["unexplained"] >= UNEXPLAINED:
        told.append(f"{features['unexplained']:.0%} of the intensity is not explained")
    ties = round(features["ties"])
    if ties > 1:
        told.append(f"{ties} structures fit about equally well")
    if not told:
        told = [
            f"the profile is explained to a residual of {features['residual']:.3f} and no "
            "other structure comes near"
        ]
    return tuple(told)


def _asked(features: Mapping[str, float]) -> str:
    from pymatgen.core import Element

    share = float(np.expm1(features["electrons"]))
    more = "more" if share > 0 else "fewer"
    name = Element.from_Z(round(features["element"])).symbol
    return (
        f"the pattern asks for {abs(share):.0%} {more} electrons on {name} "
        f"({features['deviation']:.1f} standard deviations)"
    )


def _lines(features: Mapping[str, float]) -> str:
    lines, parameters = round(features["lines"]), round(features["parameters"])
    fewer = "fewer lines than parameters" if lines < parameters else "few lines"
    return f"{fewer}: {lines} lines, {parameters} parameters"


SENTENCES: dict[str, Callable[[Mapping[str, float]], str]] = {
    "missing": lambda f: f"{f['missing']:.0%} of the calculated intensity is not observed",
    "unmatched": lambda f: (
        f"observed lines have no counterpart ({f['unmatched']:.0%} by √height)"
    ),
    "rival": lambda f: "another structure fits about as well",
    "crowded": _lines,
    "deviation": _asked,
    "volume": lambda f: (
        f"the volume is {100 * np.expm1(f['volume']):+.0f} % off what such compounds have"
    ),
    "close": lambda f: f"atoms are at {f['shortest']:.2f} of the sum of their radii",
    "texture": lambda f: "a preferred orientation had to be assumed",
    "prior": lambda f: (
        "known compounds hardly speak for it: a rare structure type, elements that are "
        "unusual there, or drawn without a type"
    ),
    "noise": lambda f: f"noise alone leaves a residual of {f['noise']:.2f}",
}
