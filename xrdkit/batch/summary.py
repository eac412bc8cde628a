"""The summary of a batch: a page that needs no network, and a CSV file."""

import csv
import io
from collections import Counter
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any
from urllib.parse import quote

from xrdkit import __version__
from xrdkit.files import write_text
from xrdkit.report.html import page
from xrdkit.report.markup import formula_html, symbol_html, table_html
from xrdkit.report.tables import HEADS, cell_text

Record = dict[str, Any]
HEAD = ("name", "status", "formula", "verdict", "confidence", "found")
TAIL = ("tied", "r_wp", "r_exp", "gof", "seconds", "reasons", "warnings", "error")
LEFT_OUT = "rank", "group", "formula"  # the last one is told as found
COLUMNS = (*HEAD, *(head for head in HEADS if head not in LEFT_OUT), *TAIL)
SHOWN = (
    "sample", "pattern and fit", "verdict", "structure", "cell (Å, °)", "residual",
    "tied", "s",
)  # fmt: skip
WIDE, HIGH = 190, 34  # px of the small plots
STYLE = """<style>
.state { font-weight: 600; color: var(--mark); }
.failed { --mark: var(--none); }
td svg { width: 190px; }
td a { color: inherit; }
</style>"""
GUIDE = """<details><summary>How to read this page</summary>
<p>A row is a sample; its name leads to the report. <b>Verdict</b>: how far the first
structure is to be trusted, with the probability that it, or one that the pattern cannot
tell from it, is right; <b>tied</b> counts those. <b>Residual</b>: profile residual on the
prepared pattern, 0 is perfect; not an <i>R</i><sub>wp</sub>. Small plots: root of the
observed (grey) and calculated (orange) intensity.</p></details>"""


def write_summary(records: Sequence[Record], folder: Path) -> list[Path]:
    """``summary.csv`` and ``index.html`` of these records."""
    table = io.StringIO()
    out = csv.DictWriter(table, COLUMNS, extrasaction="ignore", lineterminator="\n")
    out.writeheader()
    out.writerows({key: _plain(value) for key, value in r.items()} for r in records)
    return [
        write_text(folder / "summary.csv", table.getvalue()),
        write_text(folder / "index.html", page(escape(folder.name), _parts(records))),
    ]


def counted(records: Sequence[Record]) -> str:
    """How many samples have which verdict, in words."""
    counts = Counter(_state(record) for record in records)
    return ", ".join(f"{n} {word}" for word, n in counts.items()) or "none is done"


def _plain(value: Any) -> Any:
    return "; ".join(map(str, value)) if isinstance(value, list) else value


def _parts(records: Sequence[Record]) -> list[str]:
    failed = [record for record in records if record["status"] == "failed"]
    parts = [
        f"{STYLE}<h1>{len(records)} samples</h1>",
        f"<p>{escape(counted(records))} · xrdkit {__version__}</p>",
        "<h2>Answers</h2>",
        table_html(SHOWN, [_cells(record) for record in records], numbers=(5, 6, 7)),
    ]
    if failed:
        rows = [[escape(r["name"]), escape(r["error"])] for r in failed]
        parts += ["<h2>Failed</h2>", table_html(("sample", "what was wrong"), rows)]
    return [*parts, GUIDE]


def _state(record: Record) -> str:
    verdict = record.get("verdict", "failed")
    return "unsolved" if verdict == "none" else str(verdict)


def _cells(record: Record) -> list[str]:
    name, state = record["name"], escape(_state(record))
    if record["status"] == "failed":
        state = '<span class="state failed">failed</span>'
        return [escape(name), "", state, "–", "", "", "", ""]
    link = quote(f"{name}/{name}.html")
    verdict = f'<span class="state {record["verdict"]}">{state}</span>'
    verdict += f"<small>{record['confidence']:.2f}</small>"
    head = [f'<a href="{link}">{escape(name)}</a>']
    if "space_group" not in record:
        return [*head, "", verdict, "–", "", "", "", f"{record['seconds']:.1f}"]
    return [
        *head,
        _spark(record["curves"]),
        verdict,
        f"{formula_html(record['found'])} {symbol_html(record['space_group'])}"
        f"<small>{escape(record['origin'])}</small>",
        escape(cell_text(record)),
        f"{record['residual']:.3f}",
        str(record["tied"]),
        f"{record['seconds']:.1f}",
    ]


def _spark(curves: Sequence[Sequence[float]]) -> str:
    """Observed and calculated pattern as a small picture."""
    lines = ""
    for curve, name in zip(curves, ("observed", "calculated"), strict=True):
        step = WIDE / max(len(curve) - 1, 1)
        points = " ".join(
            f"{i * step:.1f},{HIGH - 1 - y * (HIGH - 2):.1f}" for i, y in enumerate(curve)
        )
        lines += f'<polyline points="{points}" fill="none" stroke="var(--{name})"/>'
    return (
        f'<svg viewBox="0 0 {WIDE} {HIGH}" role="img" '
        f'aria-label="observed and calculated pattern">{lines}</svg>'
    )
