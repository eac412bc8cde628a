"""One row: its key, its solving, its folder of results, which appears whole or not at all.

``row.json`` in the folder says what was done. Its key is made of everything that decides
the answer: what the row says, the contents of its files, and the version of the package.
"""

import hashlib
import json
import os
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from xrdkit import __version__
from xrdkit.batch.table import Row
from xrdkit.report import solution_rows, write_solution
from xrdkit.solve import solve_steps
from xrdkit.types import Fit, Progress, Solution

RECORD, MAX_RECORD, PART = "row.json", 1_000_000, ".part-"
THUMB = 160  # points of the small plot
Record = dict[str, Any]


def key_of(row: Row) -> str:
    """Thirty-two hexadecimal digits that change with whatever decides the answer."""
    said = {**asdict(row), "files": [_digest(path) for path in row.files]}
    text = json.dumps([__version__, said], default=str, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def _digest(path: Path) -> str:
    state = path.stat()
    return _digest_of(path, state.st_mtime_ns, state.st_size)


@lru_cache(maxsize=1000)
def _digest_of(path: Path, changed: int, size: int) -> str:
    """SHA-256 of a file that last changed then: a library is read once for all rows."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def record_of(place: Path) -> Record | None:
    """The record in a folder of results, or None where there is none of ours."""
    path = place / RECORD
    try:
        if path.stat().st_size > MAX_RECORD:
            return None
        record = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return record if isinstance(record, dict) and "key" in record else None


def finished(row: Row, folder: Path, key: str) -> Record | None:
    """The record of this row as it is now, solved or failed, or None."""
    record = record_of(folder / row.name)
    return record if record and record["key"] == key else None


def done(row: Row, folder: Path, key: str) -> bool:
    """Whether this row is solved already; a failed one is tried again."""
    record = finished(row, folder, key)
    return bool(record and record["status"] == "solved")


def row_steps(row: Row, folder: Path, key: str) -> Iterator[Progress]:
    """Solve a row and put its folder in place; what goes wrong is written there too."""
    started = time.monotonic()
    try:
        pattern = row.measured()
        solution = yield from solve_steps(pattern, row.formula, **row.given)
        record = _head(row, key, "solved") | answer(solution)
        record["seconds"] = round(time.monotonic() - started, 2)
        with tempfile.TemporaryDirectory(prefix=PART, dir=folder) as part:
            new = Path(part) / row.name
            write_solution(solution, new, row.name, pattern=pattern)
            _put(new, record, folder)
    except Exception as error:  # of whatever kind: the other rows go on
        failed(row, folder, key, f"{type(error).__name__}: {error}")


def failed(row: Row, folder: Path, key: str, why: str) -> None:
    """Write that a row failed, and why, instead of results."""
    record = _head(row, key, "failed") | {"error": " ".join(why.split())[:1000]}
    with tempfile.TemporaryDirectory(prefix=PART, dir=folder) as part:
        new = Path(part) / row.name
        new.mkdir()
        _put(new, record, folder)


def _head(row: Row, key: str, status: str) -> Record:
    return {"name": row.name, "status": status, "formula": row.known, "key": key}


def _put(new: Path, record: Record, folder: Path) -> None:
    """A finished folder in its place, older results of the row out of it."""
    text = json.dumps(record, ensure_ascii=False, indent=1)
    (new / RECORD).write_text(text, encoding="utf-8")
    place = folder / new.name
    if place.exists():
        os.replace(place, new.with_name("before"))  # goes with the temporary folder
    os.replace(new, place)


def answer(solution: Solution) -> Record:
    """What a summary says of a solution."""
    said = {
        "verdict": solution.verdict,
        "confidence": round(solution.confidence, 3),
        "reasons": list(solution.reasons),
        "warnings": list(solution.problem.pattern.warnings),
    }
    if not solution.fits:
        return said
    best = solution.fits[0]
    row = solution_rows(solution)[0]
    found = {"found": row.pop("formula"), **row}
    found |= {"tied": len(solution.groups[0]), **best.r_values}
    return said | found | {"curves": thumb(best)}


def thumb(fit: Fit) -> list[list[float]]:
    """Roots of observed and calculated intensity in a few steps of 2θ, 0 to 1."""
    edges = np.unique(np.linspace(0, len(fit.observed) - 1, THUMB).astype(int))
    curves = np.stack([fit.observed, fit.calculated])
    high = np.maximum.reduceat(curves, edges, axis=1)
    return np.round(np.sqrt(high.clip(0) / (high.max() or 1)), 3).tolist()
