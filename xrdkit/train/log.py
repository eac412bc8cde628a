"""The log of a run: one line of CSV for every step and every epoch."""

import csv
from pathlib import Path
from typing import Any

from xrdkit.files import write_whole
from xrdkit.models import latent

GENERATOR = "loss", "atoms", "cell"
PARTS = {
    "flow": GENERATOR,
    "diffusion": GENERATOR,
    "pretrain": ("loss", "top_1"),
    "cell": ("loss", "cell"),
    "latent": latent.Loss._fields,
    "density": ("loss", "density", "kl", "cell"),
}
VALIDATION = {
    GENERATOR: ("val_atoms", "val_cell", "match_cell", "match"),
    PARTS["pretrain"]: ("val_top_1", "val_top_10"),
    PARTS["cell"]: ("val_cell", "val_near"),
    PARTS["latent"]: ("val_atoms", "val_cell", "val_pattern", "match"),
    PARTS["density"]: ("val_density", "val_cell", "val_ssim", "val_psnr"),
}


def columns(method: str) -> tuple[str, ...]:
    """The columns of a method's log."""
    parts = PARTS[method]
    return "step", "epoch", "seconds", "rate", *parts, "norm", *VALIDATION[parts]


def add(path: Path, row: dict[str, Any], names: tuple[str, ...]) -> None:
    """One more line; numbers short."""
    new = not path.exists()
    short = {k: f"{v:.5g}" if isinstance(v, float) else v for k, v in row.items()}
    try:
        with path.open("a", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, names)
            if new:
                writer.writeheader()
            writer.writerow(short)
    except OSError as error:
        raise OSError(
            f"cannot write {path} ({error}); the last state stays: make room on the disk "
            "and go on"
        ) from error


def rows(path: Path) -> list[dict[str, str]]:
    """All lines; none where there is no log yet."""
    if not path.exists():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def shorten(path: Path, step: int) -> float:
    """Drop lines after a step, which will be written again; seconds trained so far."""
    kept = [row for row in rows(path) if _whole(row) and int(row["step"]) <= step]

    def write(part: Path) -> None:
        with part.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, tuple(kept[0]))
            writer.writeheader()
            writer.writerows(kept)

    if kept:
        write_whole(path, write)
    else:
        path.unlink(missing_ok=True)
    return max((float(row["seconds"] or 0) for row in kept), default=0.0)


def _whole(row: dict[str, str]) -> bool:
    """Whether a line was written to its end."""
    return row["step"].isdigit() and None not in row.values()


def said(row: dict[str, Any]) -> str:
    """A line of the log in words."""
    shown = {k: f"{v:.4g}" for k, v in row.items() if k not in ("step", "seconds")}
    return ", ".join(f"{k} {v}" for k, v in shown.items())
