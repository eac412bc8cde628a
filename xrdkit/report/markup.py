"""Formulas, symbols, cells and tables as HTML; what comes from outside is escaped."""

import re
from collections.abc import Iterable, Sequence
from html import escape

from xrdkit.refine.rietveld.metric import CELL
from xrdkit.report.handover import CELL_PARAMETERS
from xrdkit.report.setting import Setting
from xrdkit.types import Problem

R_NAMES = {
    "r_wp": "R_wp", "r_wp_b": "R_wp′", "r_p": "R_p", "r_exp": "R_exp", "gof": "GOF",
    "r_bragg": "R_Bragg", "r_f": "R_F",
}  # fmt: skip


def formula_html(text: str) -> str:
    """A formula with its numbers as subscripts."""
    return re.sub(r"(?<=[A-Za-z)\]])(\d+(?:\.\d+)?)", r"<sub>\1</sub>", escape(text))


def compound_html(name: str) -> str:
    """The name of a known phase: formula, and after it the group of its type if said."""
    formula, bracket, rest = name.partition(" (")
    symbol, _, word = rest.partition(" ")
    text = formula_html(formula)
    return f"{text} ({symbol_html(symbol)} {escape(word)}" if bracket else text


def counts_html(counts: dict[str, float]) -> str:
    """A formula of counts by element."""
    return formula_html("".join(f"{e}{n:g}" if n != 1 else e for e, n in counts.items()))


def asked_html(problem: Problem) -> str:
    """The formula that is asked for, or the elements where it is not known."""
    return counts_html(problem.formula) or escape(" and ".join(problem.elements))


def symbol_html(symbol: str) -> str:
    """A Hermann–Mauguin symbol with letters slanted, screw axes below, bars over."""
    symbol = re.sub(r"(?<= )([2346])([1-5])", r"\1_\2", symbol)
    text = re.sub(r"([A-Za-z])", r"<i>\1</i>", escape(symbol.replace(" ", "")))
    text = re.sub(r"_(\d)", r"<sub>\1</sub>", text)
    return re.sub(r"-(\d)", "\\1\u0305", text)


def cell_words(setting: Setting) -> list[tuple[str, str]]:
    """Symbol and value of the lengths (Å) and angles (°) that symmetry leaves free."""
    kinds = CELL_PARAMETERS[setting.system]
    return [
        ("abcαβγ"[i], setting.shown(name, setting.cell[i], 4 if i < 3 else 2))
        for i, (name, kind) in enumerate(zip(CELL, kinds, strict=True))
        if kind and kinds.index(kind) == i
    ]


def cell_html(setting: Setting) -> str:
    """The lengths (Å) and angles (°) that symmetry leaves free."""
    return ", ".join(
        f"<i>{symbol}</i>&nbsp;{value}" + "°" * (symbol in "αβγ")
        for symbol, value in cell_words(setting)
    )


def r_values_html(r_values: dict[str, float]) -> list[tuple[str, str]]:
    """Names and values of R factors, in percent but for GOF."""
    return [
        (re.sub(r"R_(\w+)(′?)", r"<i>R</i><sub>\1</sub>\2", name), value)
        for name, value in r_words(r_values)
    ]


def r_words(r_values: dict[str, float]) -> list[tuple[str, str]]:
    """R factors as words, R_wp first: percent but for GOF."""
    return [
        (name, f"{r_values[key]:.2f}" + " %" * (key != "gof"))
        for key, name in R_NAMES.items()
        if key in r_values
    ]


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
