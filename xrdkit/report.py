"""A Solution as a table, a CSV file and CIF files."""

import csv
import io
import os
import tempfile
import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from xrdkit.types import Fit, Solution

if TYPE_CHECKING:
    from pymatgen.core import Structure

SYMPREC = 0.1  # Å, as in ranking
HEADS = (
    "rank", "space_group", "number", "wyckoff", "a", "b", "c", "alpha", "beta", "gamma",
    "volume", "residual", "score", "origin", "group",
)  # fmt: skip


def solution_rows(solution: Solution) -> list[dict[str, Any]]:
    """One row per fit: space group, sites, cell (Å, °), volume (Å³), residual, score.

    Rows of one ``group`` cannot be told apart by the pattern.
    """
    group = {i: g for g, fits in enumerate(solution.groups, 1) for i in fits}
    return [
        _row(rank, fit, group.get(rank - 1, ""))
        for rank, fit in enumerate(solution.fits, 1)
    ]


def _row(rank: int, fit: Fit, group: int | str) -> dict[str, Any]:
    cell = fit.structure.lattice
    lengths = {name: round(getattr(cell, name), 4) for name in ("a", "b", "c")}
    angles = {name: round(getattr(cell, name), 3) for name in ("alpha", "beta", "gamma")}
    return {
        "rank": rank,
        "space_group": fit.space_group_symbol,
        "number": fit.space_group,
        "wyckoff": fit.wyckoff,
        **lengths,
        **angles,
        "volume": round(cell.volume, 2),
        "residual": round(fit.residual, 4),
        "score": round(fit.score, 3),
        "origin": fit.origin,
        "group": group,
    }


def solution_text(solution: Solution, limit: int = 10) -> str:
    """The first structures as a table, then the verdict, its confidence and its reasons."""
    rows = solution_rows(solution)
    shown = [
        {
            "": row["rank"],
            "space group": f"{row['space_group']} ({row['number']})",
            "sites": _sites_text(row["wyckoff"]),
            "cell (Å, °)": _cell_text(row),
            "V (Å³)": f"{row['volume']:.1f}",
            "residual": f"{row['residual']:.3f}",
            "score": f"{row['score']:.1f}",
            "origin": row["origin"],
        }
        for row in rows[:limit]
    ]
    lines = [text_table(shown)] if shown else ["no structure found"]
    if len(rows) > limit:
        lines.append(f"… and {len(rows) - limit} more")
    lines.append(f"verdict: {solution.verdict}, confidence {solution.confidence:.2f}")
    return "\n".join([*lines, *(f"  {reason}" for reason in solution.reasons)])


def _sites_text(wyckoff: str) -> str:
    """Wyckoff sites with equal ones counted: "O 4e, O 4e, Ti 2a" -> "2×O 4e, Ti 2a"."""
    counts = Counter(filter(None, wyckoff.split(", ")))
    return ", ".join(f"{n}×{site}" if n > 1 else site for site, n in counts.items())


def _cell_text(row: dict[str, Any]) -> str:
    """Lengths, and the angles that are not 90°."""
    lengths = " ".join(f"{row[name]:.3f}" for name in ("a", "b", "c"))
    named = zip("αβγ", (row["alpha"], row["beta"], row["gamma"]), strict=True)
    return " ".join([lengths, *(f"{n}={x:.2f}" for n, x in named if abs(x - 90) > 0.005)])


def text_table(rows: Sequence[dict[str, Any]]) -> str:
    """Rows of equal keys as aligned columns under their names."""
    lines = [list(rows[0]), *([str(value) for value in row.values()] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    padded = ([w.ljust(n) for w, n in zip(line, widths, strict=True)] for line in lines)
    return "\n".join("  ".join(line).rstrip() for line in padded)


def check_output(folder: str | Path, name: str, overwrite: bool = False) -> Path:
    """The folder, if it can be written and holds no results of this name that must stay."""
    folder = Path(folder)
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{folder} is a file; give a folder for the results")
    _check_writable(folder)
    if results_of(folder, name) and not overwrite:
        raise ValueError(
            f"{folder} holds results of {name} already; "
            "give --overwrite or another folder with --out"
        )
    return folder


def check_file(path: str | Path, overwrite: bool = False) -> Path:
    """The path, if it can be written and holds nothing yet that must stay."""
    path = Path(path)
    if path.exists() and not (overwrite and path.is_file()):
        raise ValueError(f"{path} exists already; give --overwrite or another file")
    _check_writable(path.parent)
    return path


def _check_writable(folder: Path) -> None:
    """An error unless a file can be made in the folder or where it would be made."""
    while not folder.exists():
        folder = folder.parent
    try:
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise PermissionError(
            f"cannot write in {folder} ({error.strerror}); give another place"
        ) from error


def results_of(folder: Path, name: str) -> list[Path]:
    """The CSV and numbered CIF files that an earlier run of this name left."""
    numbered = [
        path
        for path in folder.glob("*.cif")
        if path.stem.startswith(f"{name}_") and path.stem[len(name) + 1 :].isdigit()
    ]
    return sorted([*numbered, *(p for p in [folder / f"{name}.csv"] if p.exists())])


def write_solution(solution: Solution, folder: str | Path, name: str) -> list[Path]:
    """Write the CIFs and the CSV, each whole or not at all; older results are replaced."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    old = results_of(folder, name)
    written = [
        *write_cifs(solution, folder, name),
        write_csv(solution, folder / f"{name}.csv"),
    ]
    for path in old:
        if path not in written:
            path.unlink()
    return written


def write_csv(solution: Solution, path: str | Path) -> Path:
    """The table of ranked structures as CSV."""
    text = io.StringIO()
    table = csv.DictWriter(text, HEADS, lineterminator="\n")
    table.writeheader()
    table.writerows(solution_rows(solution))
    return write_whole(
        path, lambda part: part.write_text(text.getvalue(), encoding="utf-8")
    )


def write_cifs(solution: Solution, folder: str | Path, name: str) -> list[Path]:
    """Every ranked structure as NAME_01.cif, NAME_02.cif … in its standard setting."""
    digits = max(2, len(str(len(solution.fits))))
    return [
        write_cif(fit.structure, Path(folder) / f"{name}_{rank:0{digits}}.cif")
        for rank, fit in enumerate(solution.fits, 1)
    ]


def write_cif(structure: "Structure", path: str | Path) -> Path:
    """One structure with its symmetry at 0.1 Å; in P1 where spglib finds none."""
    from pymatgen.io.cif import CifWriter
    from pymatgen.symmetry.analyzer import SymmetryUndeterminedError

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # spglib's, of its own errors
        try:
            writer = CifWriter(structure, symprec=SYMPREC)
        except SymmetryUndeterminedError:
            writer = CifWriter(structure)
    return write_whole(path, lambda part: part.write_text(str(writer), encoding="utf-8"))


def write_whole(path: str | Path, write: Callable[[Path], Any]) -> Path:
    """Write beside the path first, then put it in place: never a half file."""
    path = Path(path)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        write(part)
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)
    return path
