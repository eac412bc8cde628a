"""The file of a benchmark run: a header line, then one JSON line per entry; resumable."""

import json
import os
import platform
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

FORMAT = 1


def start(path: str | Path, settings: dict[str, Any]) -> list[dict]:
    """The rows that a run with these settings has left in the file; writes a new header.

    A half line at the end, left by an interruption, is cut off.
    """
    path = Path(path)
    settings = json.loads(json.dumps(settings))
    if not path.exists() or path.stat().st_size == 0:
        header = {
            "xrdkit_benchmark": FORMAT,
            "settings": settings,
            "made": _circumstances(),
        }
        _append(path, header)
        return []
    text = path.read_text(encoding="utf-8", errors="replace")
    whole = text[: text.rfind("\n") + 1]
    header, rows = _parsed(path, whole)
    _check_settings(path, header["settings"], settings)
    if whole != text:
        with open(path, "r+b") as file:
            file.truncate(len(whole.encode()))
    return rows


def append(path: str | Path, row: dict) -> None:
    """Add one row; it is on the disk when this returns."""
    _append(Path(path), row)


def read(paths: Iterable[str | Path]) -> tuple[list[dict], list[dict]]:
    """Headers and rows of result files; shards of one run, or one file."""
    headers, rows = [], []
    for path in map(Path, paths):
        text = path.read_text(encoding="utf-8", errors="replace")
        header, found = _parsed(path, text[: text.rfind("\n") + 1])
        headers.append(header)
        rows += found
    if not headers:
        raise ValueError("no result file given; give the --json file of a benchmark")
    first = _without_shard(headers[0]["settings"])
    for path, header in zip(paths, headers, strict=True):
        _check_settings(path, _without_shard(header["settings"]), first)
    names = [row["id"] for row in rows]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise ValueError(f"{twice} is in two of the files; give the shards of one run once")
    return headers, rows


def _without_shard(settings: dict) -> dict:
    return {name: value for name, value in settings.items() if name != "shard"}


def _check_settings(path: str | Path, old: dict, new: dict) -> None:
    other = sorted(k for k in old.keys() | new.keys() if old.get(k) != new.get(k))
    if other:
        told = ", ".join(f"{k} {old.get(k)!r} (now {new.get(k)!r})" for k in other)
        raise ValueError(
            f"{path} was made with {told}; give another file or the same settings"
        )


def _parsed(path: Path, text: str) -> tuple[dict, list[dict]]:
    try:
        header, *rows = [json.loads(line) for line in text.splitlines()]
        if header["xrdkit_benchmark"] != FORMAT or not isinstance(header["settings"], dict):
            raise ValueError("another format")
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"{path} is not a result file of xrdkit benchmark; give a new file name"
        ) from error
    return header, rows


def _append(path: Path, content: dict) -> None:
    with open(path, "a", encoding="utf-8") as file:
        file.write(json.dumps(content, ensure_ascii=False) + "\n")
        file.flush()
        os.fsync(file.fileno())


def _circumstances() -> dict[str, Any]:
    from xrdkit import __version__

    return {
        "version": __version__,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores",
        "python": platform.python_version(),
    }
