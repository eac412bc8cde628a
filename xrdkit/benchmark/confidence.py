"""Right and wrong answers on purpose: how far can the confidence be trusted?

``confidence`` solves disturbed patterns of several kinds, some of which have no right
answer, and writes the features of each; ``reliability`` counts what the rows say.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.optimize import minimize
from scipy.special import expit

from xrdkit.benchmark.scoring import (
    Entry,
    Solver,
    asked_of,
    fingerprint,
    run,
    shard_of,
)
from xrdkit.benchmark.simulated_patterns import (
    BEAM,
    drawn,
    held,
    library_fingerprint,
    without_truth,
)
from xrdkit.confidence import TERMS, verdict_of
from xrdkit.dataset import Table, read_table
from xrdkit.generators import DEFAULT
from xrdkit.library import Library, load
from xrdkit.metrics import wilson_interval
from xrdkit.models.weights import Weights
from xrdkit.simulate import disturbed
from xrdkit.types import Pattern
from xrdkit.wavelengths import radiation

KINDS = (
    "known",
    "type removed",
    "wrong formula",
    "foreign phase",
    "absent phase",
    "impurity",
    "wrong wavelength",
    "amorphous hump",
)
NEGATIVE = ("type removed", "wrong formula", "foreign phase", "absent phase")
NEGATIVE += ("wrong wavelength",)
FAR = 0.3  # a type this near, in (V/N)^(1/3), may be refined into the structure
SEEN = 0.3  # relative difference of atomic numbers, at least 8, that X-rays see


def confidence(
    structures: Table | str | Path,
    library: Library | str | Path | None,
    output: str | Path,
    *,
    kinds: tuple[str, ...] = KINDS,
    n: int | None = None,
    seed: int = 0,
    shard: tuple[int, int] = (1, 1),
    sources: tuple[str, ...] = DEFAULT,
    weights: Weights | None = None,
    candidates: int = 5,
    solver: Solver | None = None,
    progress: bool = True,
) -> list[dict]:
    """Rows of n random entries of each kind: is the first answer right, and its features.

    Disturbed patterns (``xrdkit.simulate.disturbed``, with asymmetric lines and grains of a
    random amount), reduced formula, no cell; the formula is left out of the library.

    - known: the structure type is in the library
    - type removed: every type that can give the structure is left out
    - wrong formula: another compound's of the same elements, else one element replaced by
      another of its group that X-rays tell apart
    - foreign phase: 60–70 % of the intensity is an unlisted other compound's
    - absent phase: the pattern is another compound's altogether
    - impurity: 30 % of the intensity is another compound's
    - wrong wavelength: a Cu pattern declared Co or Mo
    - amorphous hump: one to three times the highest background
    """
    if wrong := [kind for kind in kinds if kind not in KINDS]:
        raise ValueError(f"kind {wrong[0]!r} is not known; choose from {', '.join(KINDS)}")
    table = structures if isinstance(structures, Table) else read_table(structures)
    known = load(library) if isinstance(library, str | Path) else library
    rows = drawn(len(table), n, seed)
    names = [f"{table.ids[row]} {kind}" for row in rows for kind in kinds]
    keywords = asked_of(sources, weights, candidates, seed)
    settings = {"benchmark": "confidence", "n": len(rows), "kinds": kinds, "shard": shard}
    prints = {
        "structures": fingerprint(table.ids),
        "library": library_fingerprint(known),
    }
    return run(
        output,
        {**settings, **prints, **keywords},
        shard_of(names, shard),
        entry=partial(case, table, known, keywords),
        solver=solver,
        validity=False,
        progress=progress,
    )


def case(
    table: Table, library: Library | None, keywords: dict[str, Any], name: str
) -> Entry:
    """The case of a name ("id kind"); its randomness depends on the seed, row and kind."""
    label, _, kind = name.partition(" ")
    row = table.ids.index(label)
    number = (keywords["seed"] * 1_000_003 + row) * len(KINDS) + KINDS.index(kind)
    generator = torch.Generator().manual_seed(number)
    truth, formula = table.structure(row), table.formulas[row]
    other = stranger(table, row, generator)
    asked = other_formula(table, row) if kind == "wrong formula" else formula
    unseen = "type" if kind == "type removed" else "formula"
    known = without_truth(library, truth, formula, unseen, within=FAR)
    given = {**keywords, "library": known, "exclude": (formula,)}
    pattern = pattern_for(table, row, other, kind, generator)
    facts = {"kind": kind, "n_atoms": len(truth), **held(known, formula, truth)}
    return Entry(name, truth, pattern, asked, given, facts)


def pattern_for(
    table: Table, row: int, other: int, kind: str, generator: torch.Generator
) -> Pattern:
    """The disturbed pattern of a row as its kind wants it; ``other`` is the foreign row."""
    draw = torch.rand(5, generator=generator, dtype=torch.float64).tolist()
    shown = other if kind == "absent phase" else row
    share = {"foreign phase": 0.6 + 0.1 * draw[0], "impurity": 0.3}.get(kind, 0.0)
    pattern = disturbed(
        table.crystals.select(torch.tensor([shown])),
        BEAM,
        generator,
        foreign=table.crystals.select(torch.tensor([other])) if share else None,
        share=share,
        asymmetry=0.04 * draw[1],
        grains=0.2 * draw[2],
        halo=1 + 2 * draw[3] if kind == "amorphous hump" else 0.0,
    )
    if kind == "wrong wavelength":
        return replace(pattern, radiation=radiation("CoKa" if draw[4] < 0.5 else "MoKa"))
    return pattern


def stranger(table: Table, row: int, generator: torch.Generator) -> int:
    """A random row of another formula."""
    others = [i for i, f in enumerate(table.formulas) if f != table.formulas[row]]
    if not others:
        raise ValueError("all rows have one formula; give a table of several compounds")
    return others[int(torch.randint(len(others), (), generator=generator))]


def other_formula(table: Table, row: int) -> str:
    """A formula of the same chemistry that the row's compound does not have.

    Of the compounds with the same elements the first; else the formula with its heaviest
    element replaced by the nearest of its group that is SEEN.
    """
    from pymatgen.core import Composition

    own = Composition(table.formulas[row])
    elements = {e.symbol for e in own.elements}
    for formula in sorted(set(table.formulas) - {table.formulas[row]}):
        if set(_elements(formula)) == elements:
            return formula
    for element in sorted(own.elements, key=lambda e: -e.Z):
        if twins := _relatives(element.symbol, elements):
            return own.replace({element.symbol: twins[0]}).reduced_formula
    raise ValueError(f"{own.reduced_formula} has no element with relatives; leave it out")


def _elements(formula: str) -> list[str]:
    import re

    return re.findall(r"[A-Z][a-z]?", formula)


def _relatives(symbol: str, taken: set[str]) -> list[str]:
    """Elements of the same group that X-rays tell apart from this one, nearest first."""
    from pymatgen.core import Element

    own = Element(symbol)
    group = [e for e in Element if e.group == own.group and e.Z <= 94 and e.Z != own.Z]
    far = [
        e
        for e in group
        if abs(e.Z - own.Z) >= max(8, SEEN * own.Z) and e.symbol not in taken
    ]
    return [e.symbol for e in sorted(far, key=lambda e: abs(e.Z - own.Z))]


def right(row: dict[str, Any], match: str = "mirror") -> bool:
    """Whether the first group of a row holds a structure that matches.

    ``match`` is literature, strict, heavy (without hydrogen), or mirror: strict, its mirror
    image allowed, as no powder pattern tells them apart. A disordered structure of which
    the truth is an ordering is right too: its group stands for all its orderings. A row
    with an error is not right.
    """
    held = [row["fits"][i] for i in row.get("group", ()) if i < len(row["fits"])]
    return any(fit[match] or fit.get("average", False) for fit in held)


def half(row: dict[str, Any]) -> int:
    """0 for rows to calibrate on, 1 for rows to report, by a hash of the entry's id."""
    return int(fingerprint([row["id"].split(" ")[0]]), 16) % 2


def judged(rows: Sequence[dict]) -> list[dict]:
    """The rows that have an answer, and so features."""
    return [row for row in rows if row.get("features")]


def fit_confidence(
    rows: Sequence[dict], *, match: str = "mirror", pull: float = 0.03
) -> tuple[float, dict[str, float]]:
    """Bias and weights (≤ 0) of ``xrdkit.confidence`` with the highest likelihood.

    Logistic regression; ``pull`` / 2 Σ w² holds the weights of few rows back.
    """
    found = judged(rows)
    x = np.array([[term(row["features"]) for term in TERMS.values()] for row in found])
    y = np.array([right(row, match) for row in found], float)
    if len(set(y)) < 2:
        raise ValueError(
            f"{len(y)} rows are all {'right' if y.any() else 'wrong'}; give some of each"
        )

    def cost(w: np.ndarray) -> tuple[float, np.ndarray]:
        logit = w[0] + x @ w[1:]
        loss = np.logaddexp(0, logit) - y * logit
        slope = expit(logit) - y
        shrunk = np.append(0, w[1:])
        gradient = np.append(slope.mean(), x.T @ slope / len(y)) + pull * shrunk / len(y)
        return float(loss.mean() + pull / 2 * shrunk @ shrunk / len(y)), gradient

    bounds = [(None, None)] + [(None, 0.0)] * x.shape[1]
    best = minimize(cost, np.zeros(x.shape[1] + 1), jac=True, bounds=bounds)
    return float(best.x[0]), dict(zip(TERMS, best.x[1:].tolist(), strict=True))


def recalibrated(
    rows: Sequence[dict], bias: float, weights: Mapping[str, float]
) -> list[dict]:
    """The rows with confidence and verdict by this bias and these weights.

    Rows without features, which have no answer, stay as they are.
    """
    return [
        row | _judgement(row["features"], bias, weights) if row.get("features") else row
        for row in rows
    ]


def _judgement(
    features: Mapping[str, float], bias: float, weights: Mapping[str, float]
) -> dict[str, Any]:
    """Confidence and verdict that these features have with bias and weights."""
    logit = bias + sum(weights[name] * term(features) for name, term in TERMS.items())
    p = round(float(expit(logit)), 3)
    return {"confidence": p, "verdict": verdict_of(p, features)}


def reliability(
    rows: Sequence[dict], *, match: str = "mirror", bins: int = 10
) -> dict[str, Any]:
    """What the confidence of rows is worth.

    ``bins``: (number, mean confidence, share right) by confidence; Brier score; expected
    calibration error; ``wrong``: (number, of so many confident, Wilson's 95 % upper bound);
    ``coverage``: share of right answers that are called confident; both by kind too.
    """
    if not rows:
        raise ValueError("there are no rows to count; run the benchmark on more entries")
    p = np.array([row.get("confidence", 0.0) for row in rows])
    y = np.array([right(row, match) for row in rows], float)
    sure = np.array([row.get("verdict") == "confident" for row in rows])
    place = np.minimum((p * bins).astype(int), bins - 1)
    filled = [(place == i) for i in range(bins) if (place == i).any()]
    table = [(int(b.sum()), float(p[b].mean()), float(y[b].mean())) for b in filled]
    kinds = np.array([row.get("kind", row.get("tier", "")) for row in rows])
    return {
        "bins": table,
        "brier": float(((p - y) ** 2).mean()),
        "ece": sum(n * abs(mean - share) for n, mean, share in table) / len(rows),
        "all": _counts(y, sure),
        "kinds": {k: _counts(y[kinds == k], sure[kinds == k]) for k in sorted(set(kinds))},
    }


def threshold(rows: Sequence[dict], *, match: str = "mirror", limit: float = 0.02) -> float:
    """The lowest confidence from which on at most ``limit`` of these rows are wrong.

    One where no confidence is enough; Wilson's 95 % upper bound is in ``reliability``.
    """
    ordered = sorted(rows, key=lambda row: -row.get("confidence", 0.0))
    wrong = np.cumsum([not right(row, match) for row in ordered])
    fair = np.flatnonzero(wrong <= limit * np.arange(1, len(ordered) + 1))
    return float(ordered[fair[-1]].get("confidence", 0.0)) if len(fair) else 1.0


def _counts(right: np.ndarray, sure: np.ndarray) -> dict[str, Any]:
    """Wrong among confident with its bound, and coverage, as counts."""
    wrong, confident = int((sure & (right == 0)).sum()), int(sure.sum())
    bound = wilson_interval(wrong, confident)[1] if confident else None
    covered = int((sure & (right == 1)).sum())
    return {
        "wrong": (wrong, confident, bound),
        "coverage": (covered, int(right.sum())),
        "n": len(right),
    }
