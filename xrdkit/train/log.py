"""The log of a run: one line of CSV for every step and every epoch."""

import csv
from pathlib import Path
from typing import Any

GENERATOR = "loss", "atoms", "cell"
PARTS = {"flow": GENERATOR, "diffusion": GENERATOR, "pretrain": ("loss", "top_1")}
VALIDATION = {
    GENERATOR: ("val_atoms", "val_cell", "match_cell", "match"),
    PARTS["pretrain"]: ("val_top_1", "val_top_10"),
}


def columns(method: str) -> tuple[str, ...]:
    """The columns of a method's log."""
    parts = PARTS[method]
    return "step", "epoch", "seconds", "rate", *parts, "norm", *VALIDATION[parts]


def add(path: Path, row: dict[str, Any], names: tuple[str, ...]) -> None:
    """One more line; numbers short."""
    new = not path.exists()
    with path.open("a", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, names)
        if new:
            writer.writeheader()
        short = {k: f"{v:.5g}" if isinstance(v, float) else v for k, v in row.items()}
        writer.writerow(short)


def rows(path: Path) -> list[dict[str, str]]:
    """All lines; none where there is no log yet."""
    if not path.exists():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def shorten(path: Path, step: int) -> float:
    """Drop lines after a step, which will be written again; seconds trained so far."""
    kept = [row for row in rows(path) if int(row["step"]) <= step]
    path.unlink(missing_ok=True)
    for row in kept:
        add(path, row, tuple(row))
    return max((float(row["seconds"] or 0) for row in kept), default=0.0)


def said(row: dict[str, Any]) -> str:
    """A line of the log in words."""
    shown = {k: f"{v:.4g}" for k, v in row.items() if k not in ("step", "seconds")}
    return ", ".join(f"{k} {v}" for k, v in shown.items())
