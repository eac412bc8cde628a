"""Cells over the pattern that they are to explain: one page, lines and ticks."""

from collections.abc import Sequence
from html import escape
from pathlib import Path

from xrdkit.files import write_text
from xrdkit.generators.cells import IndexedCell, assigned, marks
from xrdkit.report.drawing import drawing
from xrdkit.report.html import page
from xrdkit.report.markup import list_html, table_html
from xrdkit.report.tables import cell_notes, cell_rows
from xrdkit.types import Pattern

DRAWN = 5  # cells with a plot


def write_cells_html(
    cells: Sequence[IndexedCell], pattern: Pattern, path: str | Path
) -> Path:
    """A page with all cells, and the lines of the first few under the prepared pattern."""
    name = escape(pattern.name or "pattern")
    parts = [f"<h1>Cells of {name}</h1>", "<p>no cell explains the lines</p>"]
    if cells:
        rows = cell_rows(cells)
        table = [[escape(str(value)) for value in row.values()] for row in rows]
        heads = [escape(head) for head in rows[0]]
        parts[1:] = [table_html(heads, table), list_html(cell_notes(cells))]
    for rank, cell in enumerate(cells[:DRAWN], 1):
        parts += [
            f"<h2>{rank}: {rows[rank - 1]['lattice']} {rows[rank - 1]['a b c (Å)']} Å</h2>",
            f"<figure>{overlay(cell, pattern)}</figure>",
            _lines(cell, pattern),
        ]
    return write_text(path, page(f"Cells of {name}", parts))


def overlay(cell: IndexedCell, pattern: Pattern) -> str:
    """The prepared pattern with a mark at every line that the cell has, as SVG."""
    lines = marks(cell, pattern)
    return drawing(pattern.two_theta, pattern.intensity, None, [lines], size=(960, 300))


def _lines(cell: IndexedCell, pattern: Pattern) -> str:
    """The lines of the pattern with their indices, folded."""
    rows = assigned(pattern, cell)
    table = [[escape(str(value)) for value in row.values()] for row in rows]
    left = sum(not row["h k l"] for row in rows)
    said = f"{len(rows)} lines, {left} without indices"
    heads = [escape(head) for head in rows[0]]
    inside = table_html(heads, table, numbers=range(len(heads)))
    return f"<details><summary>{said}</summary>{inside}</details>"
