"""Result files -> rates with intervals: the numbers of BENCHMARKS.md."""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np

from xrdkit import metrics
from xrdkit.benchmark import results
from xrdkit.metrics import bootstrap_interval, roc_area, wilson_interval

MATCHES = ("literature", "strict", "heavy")
TEN = 10  # answers of which the best R² counts
SIZES = ((1, 4), (5, 8), (9, 12), (13, 16), (17, 20), (21, 52))
Rows = list[dict[str, Any]]


def summary(paths: Iterable[str | Path]) -> dict[str, Any]:
    """Counts of a run from its result files (several shards, or one file).

    Rates are (hits, entries, share, low, high) with Wilson's 95 % interval; a median or
    mean is (value, low, high) with a bootstrap interval.
    """
    paths = list(paths)
    headers, rows = results.read(paths)
    if not rows:
        raise ValueError(
            f"{paths[0]} holds no finished entry yet; let the benchmark run on"
        )
    counted: dict[str, Any] = {
        "settings": headers[0]["settings"],
        "made": [header["made"] for header in headers],
        "entries": len(rows),
        "errors": [f"{r['id']}: {r['error']}" for r in rows if "error" in r],
        "rates": {name: top(rows, name) for name in MATCHES},
        "filtered": filtered(rows),
        "subsets": {
            k: top(part, "literature") for k, part in subsets(rows).items() if part
        },
        "verdicts": verdicts(rows),
        "rmse": rmse(rows),
        "r_squared": r_squared(rows),
        "auc": separation(rows),
        "seconds": seconds(rows),
        "memory_mb": memory(paths),
    }
    if "compound" in rows[0]:
        counted["compounds"] = {name: compounds(rows, name) for name in MATCHES}
        counted["compounds"]["several instruments"] = {"same answer": agreement(rows)}
    return counted


def rank(row: dict, right: Callable[[dict], bool]) -> int | None:
    """Rank from 1 of the first right fit, None where there is none."""
    return next((i for i, fit in enumerate(row["fits"], 1) if right(fit)), None)


def rate(hits: int, n: int) -> tuple[int, int, float, float, float]:
    """Hits, entries, share and its Wilson interval; 0 and (0, 1) of no entries."""
    if n == 0:
        return 0, 0, 0.0, 0.0, 1.0
    return (hits, n, hits / n, *wilson_interval(hits, n))


def top(rows: Rows, match: str, ok: Callable[[dict], bool] = lambda fit: True) -> dict:
    """Rates of a match at the first rank and within 20; a fit not ok counts as wrong."""
    ranks = [rank(row, lambda fit: fit[match] and ok(fit)) for row in rows]
    return {
        "first": rate(sum(r == 1 for r in ranks), len(rows)),
        "within 20": rate(sum(r is not None for r in ranks), len(rows)),
    }


def filtered(rows: Rows) -> dict[str, dict]:
    """Literature rates as PXRDGen counts: "all" asks for valid answer and truth to hit.

    "valid only" leaves out entries whose truth is not valid; both need the filter's result.
    """
    if not all("valid" in row for row in rows):
        return {}
    valid = [row for row in rows if row["valid"]]
    passed = [row if row["valid"] else {**row, "fits": []} for row in rows]
    counted = {"all, with filter": top(passed, "literature", lambda fit: fit["valid"])}
    if valid:
        counted["valid only"] = top(valid, "literature", lambda fit: fit["valid"])
    return counted


def subsets(rows: Rows) -> dict[str, Rows]:
    """Entries by what the library holds of them, and by number of atoms."""
    parts = {}
    known = [row for row in rows if "formula_held" in row]
    for name, key in (
        ("formula", "formula_held"),
        ("formula and group", "formula_group_held"),
    ):
        parts[f"{name} in library"] = [row for row in known if row[key]]
        parts[f"{name} not in library"] = [row for row in known if not row[key]]
    parts["polymorphs in library"] = [row for row in known if row["polymorphs"] > 1]
    parts["orderings of a type"] = [row for row in known if row.get("ordering")]
    for low, high in SIZES:
        parts[f"{low}–{high} atoms"] = [r for r in rows if low <= r["n_atoms"] <= high]
    return parts


def verdicts(rows: Rows) -> dict[str, dict]:
    """Of each verdict, how often the first structure is right."""
    said = sorted({row["verdict"] for row in rows if "verdict" in row})
    return {v: top([r for r in rows if r.get("verdict") == v], "literature") for v in said}


def rmse(rows: Rows) -> dict[str, tuple[float, float, float]]:
    """Median and mean RMSE of first structures that match, normalised and in Å."""
    counted = {}
    for name in ("rmse", "rmse_angstrom"):
        firsts = [
            r["fits"][0][name] for r in rows if r["fits"] and r["fits"][0]["literature"]
        ]
        if firsts:
            for statistic in (np.median, np.mean):
                value = float(statistic(firsts))
                interval = bootstrap_interval(firsts, statistic)
                counted[f"{statistic.__name__} {name}"] = (value, *interval)
    return counted


def r_squared(rows: Rows) -> dict[str, tuple[float, float, float]]:
    """PXRDnet's mean R² of nanocrystals, best of the first ten, in all and by system.

    An entry without an answer counts as one. Of measured patterns also the mean over
    compounds, each the mean of its patterns.
    """
    if not any("r_squared" in fit for row in rows for fit in row["fits"]):
        return {}
    parts: dict[str, dict[str, list[float]]] = {"": {}, "by compound": {}}
    for row in rows:
        best = min((fit["r_squared"] for fit in row["fits"][:TEN]), default=1.0)
        parts[""].setdefault(row["id"], []).append(best)
        if "compound" in row:
            parts["by compound"].setdefault(row["compound"], []).append(best)
        if "system" in row:
            parts.setdefault(row["system"], {})[row["id"]] = [best]
    found = {}
    for name in sorted(parts):
        means = [float(np.mean(several)) for several in parts[name].values()]
        if means:
            interval = bootstrap_interval(means, np.mean)
            found[f"mean R² {name}".strip()] = (float(np.mean(means)), *interval)
    return found


def separation(rows: Rows) -> dict[str, float | None]:
    """AUC of residual and score: is a right structure's better than a wrong one's?

    "all ranks" pools the fits of all entries; "within an entry" is the mean over entries
    that have both. Scores are comparable only within an entry.
    """
    fits = [fit for row in rows for fit in row["fits"]]
    return {
        "residual, all ranks": _area(fits, "residual", 1),
        "residual, within an entry": _mean([_area(r["fits"], "residual", 1) for r in rows]),
        "score, within an entry": _mean([_area(r["fits"], "score", -1) for r in rows]),
    }


def seconds(rows: Rows) -> dict[str, float]:
    """Median, 90th percentile and longest time of an entry."""
    spent = [row["seconds"] for row in rows]
    return {
        "median": float(np.median(spent)),
        "90th percentile": float(np.quantile(spent, 0.9)),
        "worst": max(spent),
    }


def memory(paths: Iterable[str | Path]) -> float | None:
    """Peak memory in MB of all processes: the shards, which run at once, are added."""
    peaks = []
    for path in paths:
        rows = results.read([path])[1]
        peaks.append(
            max((r["memory_mb"] for r in rows if r.get("memory_mb")), default=None)
        )
    return None if None in peaks else sum(peaks)


def compounds(rows: Rows, match: str) -> dict[str, tuple]:
    """Rates over compounds; one is right when more than half of its patterns are."""
    names = sorted({row["compound"] for row in rows})
    counted = {}
    for label, within in (("first", 1), ("within 20", 20)):
        right = 0
        for name in names:
            ranks = [rank(r, lambda fit: fit[match]) for r in rows if r["compound"] == name]
            right += sum(r is not None and r <= within for r in ranks) * 2 > len(ranks)
        counted[label] = rate(right, len(names))
    return counted


def agreement(rows: Rows) -> tuple[int, int, float, float, float]:
    """Patterns whose first structure is that of most patterns of the same compound.

    Of compounds with several patterns, from several instruments, each polymorph (by the
    space group of the reference) for itself; structures are the same when they match as in
    the literature. Right or wrong does not count here.
    """
    same = several = 0
    own = [(row["compound"], row["space_group"]) for row in rows]
    for name in sorted(set(own)):
        found = [r.get("first") for r, mine in zip(rows, own, strict=True) if mine == name]
        if len(found) > 1:
            same += _largest_set(found)
            several += len(found)
    return rate(same, several)


def _largest_set(found: list[dict | None]) -> int:
    """How many of these structures match the one that most of them match."""
    from pymatgen.core import Structure

    structures = [Structure.from_dict(one) for one in found if one]
    matches = [sum(metrics.match(a, b).literature for b in structures) for a in structures]
    return max(matches, default=0)


def outcomes(paths: Iterable[str | Path]) -> list[dict[str, Any]]:
    """One row per entry, so that failures show: ranks of the matches, verdict, error."""
    rows = results.read(list(paths))[1]
    return [
        {
            "id": row["id"],
            "formula": row["formula"],
            "atoms": row["n_atoms"],
            **{match: rank(row, lambda fit, m=match: fit[m]) or "–" for match in MATCHES},
            "residual": f"{row['fits'][0]['residual']:.3f}" if row["fits"] else "–",
            "verdict": row.get("verdict", "–"),
            "seconds": f"{row['seconds']:.1f}",
            "error": row.get("error", ""),
        }
        for row in sorted(rows, key=lambda row: row["id"])
    ]


def summary_text(counted: dict[str, Any]) -> str:
    """The summary as lines for people."""
    lines = [f"{counted['entries']} entries, {len(counted['errors'])} with errors"]
    groups = {
        **counted["rates"],
        **counted["filtered"],
        **counted["subsets"],
        **{f"verdict {name}": part for name, part in counted["verdicts"].items()},
        **{
            f"compounds, {name}": part
            for name, part in counted.get("compounds", {}).items()
        },
    }
    for name, rates in groups.items():
        shown = "   ".join(f"{k} {_rate_text(value)}" for k, value in rates.items())
        lines.append(f"{name:32s} {shown}")
    for name, (value, low, high) in (counted["rmse"] | counted["r_squared"]).items():
        lines.append(f"{name:32s} {value:.4f} ({low:.4f}–{high:.4f})")
    for name, area in counted["auc"].items():
        lines.append(f"{'AUC of ' + name:32s} {'–' if area is None else f'{area:.3f}'}")
    spent = ", ".join(f"{name} {value:.2f}" for name, value in counted["seconds"].items())
    lines.append(f"{'seconds':32s} {spent}")
    if counted["memory_mb"] is not None:
        lines.append(f"{'peak memory, all processes':32s} {counted['memory_mb']:.0f} MB")
    return "\n".join([*lines, *(f"error: {line}" for line in counted["errors"])])


def _rate_text(value: tuple) -> str:
    hits, n, share, low, high = value
    return f"{hits}/{n} {100 * share:.1f} % ({100 * low:.1f}–{100 * high:.1f})"


def _area(fits: Rows, key: str, sign: int) -> float | None:
    right = [sign * fit[key] for fit in fits if fit["literature"]]
    wrong = [sign * fit[key] for fit in fits if not fit["literature"]]
    return roc_area(right, wrong) if right and wrong else None


def _mean(values: list[float | None]) -> float | None:
    present = [value for value in values if value is not None]
    return float(np.mean(present)) if present else None
