"""One entry of a benchmark: solve it, hold every ranked structure against the truth."""

import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from xrdkit import metrics
from xrdkit.benchmark import results
from xrdkit.generators.asked import weights_of
from xrdkit.models.weights import Weights
from xrdkit.nanocrystal import published_r_squared
from xrdkit.types import Pattern, Solution

if TYPE_CHECKING:
    from pymatgen.core import Structure

WITHIN = 20  # ranks that are looked at

Solver = Callable[..., Solution]


@dataclass(frozen=True)
class Entry:
    """What is asked (pattern, formula, further keywords of ``solve``) and the truth.

    The formula is not told where ``elements`` are among the keywords.
    """

    name: str
    truth: "Structure"
    pattern: Pattern
    formula: str
    keywords: dict[str, Any]
    facts: dict[str, Any]


def asked_of(
    sources: tuple[str, ...],
    weights: Weights | None,
    candidates: int,
    seed: int,
) -> dict[str, Any]:
    """Keywords of ``solve`` for all entries; with weights their sources are asked too."""
    asked = {"sources": sources, "candidates": candidates, "seed": seed}
    if weights is None:
        return asked
    drawing = tuple(dict.fromkeys((*sources, *weights_of(weights))))
    said = str(weights) if isinstance(weights, str | Path) else list(map(str, weights))
    return asked | {"sources": drawing, "weights": said}


def run(
    output: str | Path,
    settings: dict[str, Any],
    names: list[str],
    *,
    entry: Callable[[str], Entry],
    solver: Solver | None = None,
    validity: bool = True,
    progress: bool = True,
) -> list[dict]:
    """Solve the named entries that the file lacks, append each; return all rows."""
    from tqdm import tqdm

    if validity:
        metrics.charge_balanced("NaCl")  # so that missing SMACT is said before the work
    rows = results.start(output, settings)
    done = {row["id"] for row in rows}
    solver = solver or solved
    bar = tqdm(total=len(names), initial=len(done), disable=not progress, unit="entry")
    with bar:
        for name in names:
            if name not in done:
                row = answer(entry(name), solver, validity=validity)
                results.append(output, row)
                rows.append(row)
                bar.update()
                bar.set_postfix_str(f"{sum(_first(r) for r in rows)} of {len(rows)} first")
    return rows


def answer(entry: Entry, solver: Solver, *, validity: bool = True) -> dict[str, Any]:
    """The row of an entry: its facts, and for each rank whether and how it is right.

    A solver that fails leaves its error in the row, and the entry counts as missed.
    """
    row: dict[str, Any] = {"id": entry.name, "formula": entry.formula, **entry.facts}
    if validity:
        row["valid"] = metrics.valid(entry.truth)
    told = None if "elements" in entry.keywords else entry.formula
    started = time.perf_counter()
    try:
        solution = solver(entry.pattern, told, **entry.keywords)
    except Exception as error:  # a long run must not end at one entry
        row["error"] = f"{type(error).__name__}: {error}"
        return row | {"seconds": time.perf_counter() - started, "n_fits": 0, "fits": []}
    return row | {
        "seconds": time.perf_counter() - started,
        "stages": solution.seconds,
        "n_fits": len(solution.fits),
        "fits": [judged(entry, fit, validity) for fit in solution.fits[:WITHIN]],
        "first": solution.fits[0].structure.as_dict(verbosity=0) if solution.fits else None,
        "confidence": solution.confidence,
        "verdict": solution.verdict,
        "group": list(solution.groups[0]) if solution.groups else [],
        "features": solution.features,
        "memory_mb": peak_memory(),
    }


def judged(entry: Entry, fit: Any, validity: bool) -> dict[str, Any]:
    """One rank as plain numbers, of nanocrystals with PXRDnet's R²."""
    truth, nano = entry.truth, entry.pattern.size is not None
    found = metrics.match(truth, fit.structure)
    mirror = found.literature and metrics.mirror_match(truth, fit.structure)
    return {
        **asdict(found),
        "mirror": found.strict or mirror,
        "average": metrics.average_match(truth, fit.structure),
        "residual": fit.residual,
        "origin": fit.origin,
        "score": fit.score,
        **({"valid": metrics.valid(fit.structure)} if validity else {}),
        **({"r_squared": published_r_squared(truth, fit.structure)} if nano else {}),
    }


def peak_memory() -> float | None:
    """Largest memory so far in MB, of this process and of its largest child together."""
    import sys

    try:
        import resource
    except ImportError:  # Windows
        return None
    unit = 1e6 if sys.platform == "darwin" else 1e3
    who = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    return sum(resource.getrusage(one).ru_maxrss for one in who) / unit


def shard_of(names: list[str], shard: tuple[int, int]) -> list[str]:
    """Every k-th name from the i-th, for shard (i, k)."""
    i, k = shard
    if not 1 <= i <= k:
        raise ValueError(f"shard {i}/{k}; give i/k with i from 1 to k")
    return names[i - 1 :: k]


def fingerprint(texts: Iterable[str]) -> str:
    """A short hash that tells one list of texts from another."""
    import hashlib

    return hashlib.sha256("\n".join(texts).encode()).hexdigest()[:12]


def _first(row: dict) -> bool:
    return bool(row["fits"]) and row["fits"][0]["literature"]


def solved(pattern: Pattern, formula: str | None, **keywords: Any) -> Solution:
    """``solve`` without a progress bar."""
    from xrdkit.solve import solve

    return solve(pattern, formula, progress=False, **keywords)
