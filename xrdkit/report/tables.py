"""A Solution as rows, as a text and as a CSV file."""

import csv
import io
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from xrdkit.files import write_text
from xrdkit.generators.cells import IndexedCell
from xrdkit.types import Fit, Solution

if TYPE_CHECKING:
    from pymatgen.core import Composition

TOLD = 3  # cells whose notes are printed
HEADS = (
    "rank", "space_group", "number", "formula", "wyckoff", "a", "b", "c", "alpha", "beta",
    "gamma", "volume", "residual", "score", "unexplained", "origin", "known", "group",
)  # fmt: skip


def formula_text(composition: "Composition") -> str:
    """The reduced formula; occupancies like 0.333333 make whole numbers of atoms again."""
    counts = {element: round(count, 3) for element, count in composition.items()}
    return type(composition)(counts).reduced_formula


def solution_rows(solution: Solution) -> list[dict[str, Any]]:
    """One row per fit: space group, sites, cell (Å, °), volume (Å³), residual, score.

    Rows of one ``group`` cannot be told apart by the pattern.
    """
    group = {i: g for g, fits in enumerate(solution.groups, 1) for i in fits}
    return [
        fit_row(fit, rank, group.get(rank - 1, ""))
        for rank, fit in enumerate(solution.fits, 1)
    ]


def fit_row(fit: Fit, rank: int = 1, group: int | str = "") -> dict[str, Any]:
    """One row of the table of a solution."""
    cell = fit.structure.lattice
    lengths = {name: round(getattr(cell, name), 4) for name in ("a", "b", "c")}
    angles = {name: round(getattr(cell, name), 3) for name in ("alpha", "beta", "gamma")}
    return {
        "rank": rank,
        "space_group": fit.space_group_symbol,
        "number": fit.space_group,
        "formula": formula_text(fit.structure.composition),
        "wyckoff": fit.wyckoff,
        **lengths,
        **angles,
        "volume": round(cell.volume, 2),
        "residual": round(fit.residual, 4),
        "score": round(fit.score, 3),
        "unexplained": round(fit.unexplained, 4),
        "origin": fit.origin,
        "known": fit.known,
        "group": group,
    }


def solution_text(solution: Solution, limit: int = 10) -> str:
    """The first structures as a table, the verdict, its reasons, and what is left open.

    Equal numbers under "group" are structures that the pattern cannot tell apart.
    """
    rows = solution_rows(solution)
    shown = [
        {
            "": row["rank"],
            **({} if solution.problem.formula else {"formula": row["formula"]}),
            "space group": f"{row['space_group']} ({row['number']})",
            "sites": sites_text(row["wyckoff"]),
            "cell (Å, °)": cell_text(row),
            "V (Å³)": f"{row['volume']:.1f}",
            "residual": f"{row['residual']:.3f}",
            "score": f"{row['score']:.1f}",
            "group": row["group"],
            "origin": row["origin"],
        }
        for row in rows[:limit]
    ]
    lines = [text_table(shown)] if shown else ["no structure found"]
    if len(rows) > limit:
        lines.append(f"… and {len(rows) - limit} more")
    lines.append(f"verdict: {solution.verdict}, confidence {solution.confidence:.2f}")
    return "\n".join(
        [*lines, *(f"  {said}" for said in (*solution.reasons, *_told(solution)))]
    )


def _told(solution: Solution) -> list[str]:
    """What is not determined in the first fit, and what it leaves."""
    if not solution.fits:
        return []
    best, said = solution.fits[0], []
    if best.undetermined:
        said.append(f"not determined by the pattern: {'; '.join(best.undetermined)}")
    if solution.foreign:
        named = ", ".join(f"{name} {part:.0%} of it" for name, part in solution.foreign)
        said.append(f"unexplained: {best.unexplained:.0%} of the intensity; may be {named}")
    return said


def sites_text(wyckoff: str) -> str:
    """Wyckoff sites with equal ones counted: "O 4e, O 4e, Ti 2a" -> "2×O 4e, Ti 2a"."""
    counts = Counter(filter(None, wyckoff.split(", ")))
    return ", ".join(f"{n}×{site}" if n > 1 else site for site, n in counts.items())


def cell_text(row: dict[str, Any]) -> str:
    """Lengths, and the angles that are not 90°."""
    lengths = " ".join(f"{row[name]:.3f}" for name in ("a", "b", "c"))
    named = zip("αβγ", (row["alpha"], row["beta"], row["gamma"]), strict=True)
    return " ".join([lengths, *(f"{n}={x:.2f}" for n, x in named if abs(x - 90) > 0.005)])


def text_table(rows: Sequence[dict[str, Any]]) -> str:
    """Rows of equal keys as aligned columns under their names; nothing of no rows."""
    if not rows:
        return ""
    lines = [list(rows[0]), *([str(value) for value in row.values()] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    padded = ([w.ljust(n) for w, n in zip(line, widths, strict=True)] for line in lines)
    return "\n".join("  ".join(line).rstrip() for line in padded)


def write_csv(solution: Solution, path: str | Path) -> Path:
    """The table of ranked structures as CSV."""
    text = io.StringIO()
    table = csv.DictWriter(text, HEADS, lineterminator="\n")
    table.writeheader()
    table.writerows(solution_rows(solution))
    return write_text(path, text.getvalue())


def cells_text(cells: Sequence[IndexedCell]) -> str:
    """Cells from indexing as a table, then the extinctions and warnings of the first."""
    if not cells:
        return "no cell explains the lines"
    return "\n".join([text_table(cell_rows(cells)), *cell_notes(cells)])


def cell_rows(cells: Sequence[IndexedCell]) -> list[dict[str, Any]]:
    """A row for every cell from indexing, in words of the field."""
    return [
        {
            "": rank,
            "lattice": cell.bravais,
            "a b c (Å)": " ".join(f"{value:.4f}" for value in cell.cell[:3]),
            "α β γ (°)": " ".join(f"{value:.2f}" for value in cell.cell[3:]),
            "V (Å³)": f"{cell.volume:.1f}",
            "M20": f"{cell.m20:.1f}",
            "F_N": f"{cell.f_n:.1f}",
            "lines": f"{cell.indexed} of {cell.lines}",
            "zero (°)": f"{cell.zero:+.3f}",
        }
        for rank, cell in enumerate(cells, 1)
    ]


def cell_notes(cells: Sequence[IndexedCell]) -> list[str]:
    """Extinctions and warnings of the first cells, each with its cell's number."""
    return [
        f"{rank}: {note}"
        for rank, cell in enumerate(cells[:TOLD], 1)
        for note in (
            *([f"extinctions {', '.join(cell.extinctions)}"] if cell.extinctions else []),
            *cell.warnings,
        )
    ]
