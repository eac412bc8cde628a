"""One HTML page a sample: verdict, plot, candidates, structure, limits, provenance.

Frame and plot are those of a refinement's page too (``refinement``). A page needs no
network. Everything that comes from outside is escaped.
"""

import base64
import json
from collections.abc import Sequence
from html import escape
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal

import numpy as np
from jaxtyping import Float

from xrdkit.files import write_text
from xrdkit.report.curves import Curves, Line, curves_of, lines_of
from xrdkit.report.drawing import ROWS, drawing
from xrdkit.report.markup import asked_html, cell_html, formula_html, symbol_html
from xrdkit.report.sections import (
    GUIDE,
    candidates,
    limits,
    provenance,
    structure,
    unexplained,
    warnings_of,
)
from xrdkit.report.setting import Setting, settings_of
from xrdkit.report.tables import formula_text
from xrdkit.types import Fit, Pattern, Solution

SHARED = "xrdkit_report.js"
SHORT = 0.98  # of the range: what is left out beyond is told
WORDS = {
    "confident": "The first structure is very probably right.",
    "tentative": "The first structure may be right; check it before you rely on it.",
    "none": "No structure here explains the pattern.",
}
Marks = Sequence[tuple[str, Sequence[Line]]]  # of every phase: its name and its lines
Script = Literal["inline", "shared"]
Curve = Float[np.ndarray, " points"]


def write_html(
    solution: Solution,
    path: str | Path,
    *,
    pattern: Pattern | None = None,
    script: Script = "inline",
) -> Path:
    """One report, readable without network and, but for zooming, without scripts.

    ``pattern`` is the pattern as measured: with it the plot has the measured scale. For
    many reports beside each other, script="shared" writes xrdkit_report.js once.
    """
    path = Path(path)
    return write_text(path, html_text(solution, pattern, script_element(path, script)))


def script_element(path: Path, script: Script) -> str:
    """The element of the plot's script, which is written beside the page if "shared"."""
    source = f"{plot_script()}\n{_packaged('report.js')}"
    if script == "inline":
        return f'<script type="module">\n{source}</script>'
    write_text(path.with_name(SHARED), source)
    return f'<script defer src="{SHARED}"></script>'


def plot_script() -> str:
    """The script of the plot that reports and widgets share."""
    return "\n".join(_packaged(name) for name in ("scales.js", "plot.js"))


def _packaged(name: str) -> str:
    return files("xrdkit.report").joinpath(name).read_text(encoding="utf-8")


def html_text(solution: Solution, pattern: Pattern | None, script: str) -> str:
    """The page, with this script element at its end."""
    name = escape((pattern or solution.problem.pattern).name or "pattern")
    settings = [settings_of(fit)[0] for fit in solution.fits]
    parts = [
        f"<h1>{name}</h1><p>{_subtitle(solution, pattern)}</p>",
        verdict(solution, settings),
        plot(solution, settings, pattern),
    ]
    if solution.fits:
        parts += [
            structure(solution.fits[0], settings[0]),
            limits(solution.fits[0]),
            unexplained(solution),
            candidates(solution, settings),
        ]
    parts += [warnings_of(solution, pattern), provenance(solution, pattern), GUIDE]
    return page(name, parts, script)


def page(title: str, parts: Sequence[str], script: str = "") -> str:
    """Parts as a page under a title, both HTML already, with the package's style."""
    body, style = "\n".join(parts), _packaged("page.css")
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{title} · xrdkit</title>\n<style>\n{style}</style></head>\n"
        f"<body>\n<main>\n{body}\n</main>\n{script}\n</body></html>\n"
    )


def _subtitle(solution: Solution, pattern: Pattern | None) -> str:
    shown = pattern or solution.problem.pattern
    beam, x = shown.radiation, shown.two_theta
    asked = solution.settings.get("formula")
    asked = formula_html(str(asked)) if asked else asked_html(solution.problem)
    seen = solution.fits[0].two_theta[-1] if solution.fits else x[-1]
    compared = f", compared up to {seen:.1f}°" if seen < SHORT * x[-1] else ""
    return (
        f"asked for {asked} · {x[0]:.1f}–{x[-1]:.1f}° 2θ, {len(x)} points{compared} · "
        f"{escape(beam.name or 'λ')} {beam.main:.5f} Å"
    )


def verdict(solution: Solution, settings: Sequence[Setting]) -> str:
    """What is thought of the answer: words first, the number second, then the reasons."""
    best = ""
    if solution.fits:
        fit = solution.fits[0]
        formula = formula_html(formula_text(fit.structure.composition))
        known = f" · known: {escape(fit.known)}" if fit.known else ""
        best = (
            f'<p class="best"><b>{formula}</b>, {symbol_html(fit.space_group_symbol)} '
            f"({fit.space_group}), {cell_html(settings[0])} Å{known}</p>"
        )
    reasons = "".join(f"<li>{escape(reason)}</li>" for reason in solution.reasons)
    return (
        f'<section class="verdict {solution.verdict}">'
        f'<p class="words">{WORDS[solution.verdict]}</p>{best}'
        f'<p class="number"><span class="bar"><i style="width:'
        f'{100 * solution.confidence:.0f}%"></i></span><b>{solution.confidence:.2f}</b> '
        f"<span>{solution.verdict}: probability that the first structure, or one that this "
        f"pattern cannot tell from it, is right</span></p><ul>{reasons}</ul></section>"
    )


def plot(solution: Solution, settings: Sequence[Setting], pattern: Pattern | None) -> str:
    """An SVG, which the script replaces by a plot that zooms and has a choice."""
    if not solution.fits:
        shown = pattern or solution.problem.pattern
        return f"<figure>{drawing(shown.two_theta, shown.intensity)}</figure>"
    marks = [
        [("the structure", lines_of(one.cell, one.symbol, fit))]
        for one, fit in zip(settings, solution.fits, strict=True)
    ]
    wavelength = solution.fits[0].radiation.main
    return figure(
        curves_of(solution.fits, pattern), marks, wavelength, _choice(solution.fits)
    )


def figure(
    curves: Curves, marks: Sequence[Marks], wavelength: float, choice: str = ""
) -> str:
    """Curves and lines of every fit's phases; ``choice`` is a control to choose a fit."""
    still = drawing(
        curves.two_theta,
        curves.observed,
        curves.calculated[0],
        [[x for x, _ in lines] for _, lines in marks[0]],
    )
    data = {
        "two_theta": _encoded(curves.two_theta.astype("<f4")),
        "observed": _steps(curves.observed),
        "background": None if curves.background is None else _steps(curves.background),
        "fits": [
            {"calculated": _steps(curve), "phases": [_phase(*phase) for phase in phases]}
            for curve, phases in zip(curves.calculated, marks, strict=True)
        ],
        "wavelength": wavelength,
        "ordinate": curves.unit,
        "words": "observed and calculated pattern",
    }
    keys = [("observed", "observed"), ("calculated", "calculated")]
    keys += [("base", "background")] if curves.background is not None else []
    keys += [
        (ROWS[i % len(ROWS)], f"lines of {name}") for i, (name, _) in enumerate(marks[0])
    ]
    keys += [("difference", "observed − calculated")]
    return (
        f'<figure class="pattern">{_controls(choice)}{still}'
        f'<div class="plot"></div><figcaption class="keys">{_keys(keys)}</figcaption>'
        f'<script type="application/json">{_json(data)}</script></figure>'
    )


def _phase(name: str, lines: Sequence[Line]) -> dict[str, Any]:
    return {"name": name, "lines": [[round(x, 3), *hkl] for x, hkl in lines]}


def _choice(fits: Sequence[Fit]) -> str:
    options = "".join(
        f'<option value="{i}">{i + 1} · {formula_text(fit.structure.composition)} '
        f"{escape(fit.space_group_symbol)}, residual {fit.residual:.3f}</option>"
        for i, fit in enumerate(fits)
    )
    return f"<label>structure <select>{options}</select></label>"


def _controls(choice: str) -> str:
    return (
        f'<div class="controls">{choice}'
        '<label><input type="checkbox"> root of intensity</label></div>'
    )


def _keys(keys: Sequence[tuple[str, str]]) -> str:
    return "".join(
        f'<span><i class="key" style="background:var(--{name})"></i>{escape(word)}</span>'
        for name, word in keys
    )


def _encoded(values: np.ndarray) -> str:
    return base64.b64encode(values.tobytes()).decode()


def _steps(values: Curve) -> dict[str, Any]:
    """A curve in 65,536 steps between its ends: two bytes a point."""
    low, high = float(values.min()), float(values.max())
    steps = np.rint((values - low) / ((high - low) or 1) * 65535).astype("<u2")
    return {"low": low, "high": high, "steps": _encoded(steps)}


def _json(data: Any) -> str:
    """JSON that cannot end the script element it stands in."""
    return json.dumps(data, separators=(",", ":")).replace("<", "\\u003c")
