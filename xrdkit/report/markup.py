"""Formulas, symbols, cells and tables as HTML; what comes from outside is escaped."""

import re
from collections.abc import Iterable, Sequence
from html import escape

from xrdkit.report.handover import CELL_PARAMETERS
from xrdkit.report.setting import Setting


def formula_html(text: str) -> str:
    """A formula with its numbers as subscripts."""
    return re.sub(r"(?<=[A-Za-z)\]])(\d+(?:\.\d+)?)", r"<sub>\1</sub>", escape(text))


def counts_html(counts: dict[str, float]) -> str:
    """A formula of counts by element."""
    return formula_html("".join(f"{e}{n:g}" if n != 1 else e for e, n in counts.items()))


def symbol_html(symbol: str) -> str:
    """A Hermann–Mauguin symbol with letters slanted, screw axes below, bars over."""
    text = re.sub(r"([A-Za-z])", r"<i>\1</i>", escape(symbol.replace(" ", "")))
    text = re.sub(r"_(\d)", r"<sub>\1</sub>", text)
    return re.sub(r"-(\d)", "\\1\u0305", text)


def cell_html(setting: Setting) -> str:
    """The lengths (Å) and angles (°) that symmetry leaves free."""
    kinds = CELL_PARAMETERS[setting.system]
    free = [i for i, kind in enumerate(kinds) if kind and kinds.index(kind) == i]
    return ", ".join(
        f"<i>{'abcαβγ'[i]}</i>&nbsp;{setting.cell[i]:.{4 if i < 3 else 2}f}" + "°" * (i > 2)
        for i in free
    )


def list_html(items: Iterable[str]) -> str:
    """Sentences as a list."""
    lines = "".join(f"<li>{escape(item)}</li>" for item in items)
    return f"<ul>{lines}</ul>" if lines else '<p class="muted">nothing named</p>'


def table_html(
    heads: Sequence[str],
    rows: Iterable[Sequence[str]],
    *,
    numbers: Sequence[int] = (),
    marked: Sequence[int] = (),
) -> str:
    """A table of cells that are HTML already.

    Columns ``numbers`` are set to the right, rows ``marked`` have a coloured edge.
    """

    def cells(row: Sequence[str], tag: str) -> str:
        return "".join(
            f"<{tag}{' class=n' * (i in numbers)}>{cell}</{tag}>"
            for i, cell in enumerate(row)
        )

    body = "".join(
        f"<tr{' class=tie' * (i in marked)}>{cells(row, 'td')}</tr>"
        for i, row in enumerate(rows)
    )
    head = f"<thead><tr>{cells(heads, 'th')}</tr></thead>"
    return f'<div class="wide"><table>{head}<tbody>{body}</tbody></table></div>'
