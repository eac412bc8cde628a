"""One HTML page a sample: verdict, plot, candidates, structure, limits, provenance.

The page needs no network. Everything that comes from outside is escaped.
"""

import base64
import json
import platform
import re
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from html import escape
from importlib.metadata import PackageNotFoundError, version
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal

import numpy as np
from jaxtyping import Float

from xrdkit import __version__
from xrdkit.files import write_text
from xrdkit.report.curves import curves_of, lines_of
from xrdkit.report.drawing import drawing
from xrdkit.report.setting import Setting, settings_of
from xrdkit.report.tables import cell_text, fit_row, sites_text, solution_rows
from xrdkit.types import Fit, Pattern, Solution

SCRIPT = "xrdkit_report.js"
WORDS = {
    "confident": "The first structure is very probably right.",
    "tentative": "The first structure may be right; check it before you rely on it.",
    "none": "No structure here explains the pattern.",
}
HINT = (
    "Drag to zoom, double click to see all. With the plot in focus: ← → move, ↑ ↓ zoom, "
    "Esc shows all."
)
PROGRAMS = ("torch", "pymatgen", "spglib", "gemmi", "numpy")
Curve = Float[np.ndarray, " points"]


def write_html(
    solution: Solution,
    path: str | Path,
    *,
    pattern: Pattern | None = None,
    script: Literal["inline", "shared"] = "inline",
) -> Path:
    """One report, readable without network and, but for zooming, without scripts.

    ``pattern`` is the pattern as measured: with it the plot has the measured scale. For
    many reports beside each other, script="shared" writes xrdkit_report.js once.
    """
    path = Path(path)
    source = files("xrdkit.report").joinpath(SCRIPT).read_text(encoding="utf-8")
    if script == "shared":
        write_text(path.with_name(SCRIPT), source)
        link = f'<script defer src="{SCRIPT}"></script>'
    else:
        link = f'<script type="module">\n{source}</script>'
    return write_text(path, html_text(solution, pattern, link))


def html_text(solution: Solution, pattern: Pattern | None, script: str) -> str:
    """The page, with this script element at its end."""
    name = (pattern or solution.problem.pattern).name or "pattern"
    style = files("xrdkit.report").joinpath("page.css").read_text(encoding="utf-8")
    settings = [settings_of(fit) for fit in solution.fits]
    parts = [
        f"<h1>{escape(name)}</h1><p>{_subtitle(solution, pattern)}</p>",
        verdict(solution),
        figure(solution, settings, pattern),
        candidates(solution),
        *(
            structure(fit, own[0])
            for fit, own in zip(solution.fits[:1], settings, strict=False)
        ),
        limits(solution),
        rest(solution),
        warnings_of(solution, pattern),
        provenance(solution, pattern),
        GUIDE,
    ]
    body = "\n".join(part for part in parts if part)
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(name)} · xrdkit</title>\n<style>\n{style}</style></head>\n"
        f"<body>\n<main>\n{body}\n</main>\n{script}\n</body></html>\n"
    )


def formula_html(text: str) -> str:
    """A formula with its numbers as subscripts."""
    return re.sub(r"(?<=[A-Za-z)\]])(\d+(?:\.\d+)?)", r"<sub>\1</sub>", escape(text))


def symbol_html(symbol: str) -> str:
    """A Hermann–Mauguin symbol with bars over, screw axes below, letters slanted."""
    text = escape(symbol.replace(" ", ""))
    text = re.sub(r"_(\d)", r"<sub>\1</sub>", text)
    text = re.sub(r"-(\d)", "\\1\u0305", text)
    return re.sub(r"(?<![<&/a-z])([A-Za-z])(?![a-z]*>)", r"<i>\1</i>", text)


def _subtitle(solution: Solution, pattern: Pattern | None) -> str:
    beam = solution.problem.pattern.radiation
    shown = pattern or solution.problem.pattern
    low, high = shown.two_theta[0], shown.two_theta[-1]
    asked = str(solution.settings.get("formula", "")) or reduced(solution)
    return (
        f"asked for {formula_html(asked)} · {low:.1f}–{high:.1f}° 2θ, {len(shown)} points · "
        f"{escape(beam.name or 'λ')} {beam.main:.5f} Å"
    )


def reduced(solution: Solution) -> str:
    """The formula of the problem as a text."""
    return "".join(
        f"{e}{n:g}" if n != 1 else e for e, n in solution.problem.formula.items()
    )


def verdict(solution: Solution) -> str:
    """What is thought of the answer: words first, the number second, then the reasons."""
    percent = 100 * solution.confidence
    best = f'<p class="best">{_name(solution.fits[0])}</p>' if solution.fits else ""
    reasons = "".join(f"<li>{escape(reason)}</li>" for reason in solution.reasons)
    return (
        f'<section class="verdict {solution.verdict}">'
        f'<p class="words">{WORDS[solution.verdict]}</p>{best}'
        f'<p class="number"><span class="bar"><i style="width:{percent:.0f}%"></i></span>'
        f"<b>{solution.confidence:.2f}</b> <span>{solution.verdict}: probability that the "
        f"first structure, or one that this pattern cannot tell from it, is right</span></p>"
        f"<ul>{reasons}</ul></section>"
    )


def _name(fit: Fit) -> str:
    """Formula, space group, cell, and what is known of it."""
    formula = formula_html(fit.structure.composition.reduced_formula)
    known = f" · known: {escape(fit.known)}" if fit.known else ""
    return (
        f"<b>{formula}</b>, {symbol_html(fit.space_group_symbol)} "
        f"({fit.space_group}), {cell_text(fit_row(fit))} Å{known}"
    )


def figure(
    solution: Solution, settings: Sequence[Sequence[Setting]], pattern: Pattern | None
) -> str:
    """The plot: an SVG, which the script replaces by one that zooms and has a choice."""
    if not solution.fits:
        shown = pattern or solution.problem.pattern
        return f"<figure>{drawing(shown.two_theta, shown.intensity)}</figure>"
    first = solution.fits[0]
    curves = curves_of(solution.fits, pattern)
    lines = [
        lines_of(own[0], fit) for own, fit in zip(settings, solution.fits, strict=True)
    ]
    still = drawing(
        curves.two_theta,
        curves.observed,
        curves.calculated[0],
        tuple(angle for angle, _ in lines[0]),
    )
    options = "".join(
        f'<option value="{i}">{i + 1} · {escape(_short(fit))}</option>'
        for i, fit in enumerate(solution.fits)
    )
    data = {
        "two_theta": _encoded(curves.two_theta.astype("<f4")),
        "observed": _steps(curves.observed),
        "fits": [
            {"calculated": _steps(c), "lines": [[round(x, 3), *hkl] for x, hkl in marks]}
            for c, marks in zip(curves.calculated, lines, strict=True)
        ],
        "wavelength": first.radiation.main,
        "abscissa": f"2θ (°), λ = {first.radiation.main:.5f} Å",
        "ordinate": curves.unit,
    }
    keys = "".join(
        f'<span class="key" style="background:var(--{name})"></span>{word}'
        for name, word in KEYS
    )
    return (
        f'<figure class="pattern"><div class="controls">'
        f"<label>structure <select>{options}</select></label>"
        f'<label><input type="checkbox"> root of intensity</label></div>'
        f'{still}<canvas tabindex="0" role="img" aria-label="observed and calculated '
        f'pattern; arrow keys move and zoom"></canvas>'
        f'<output data-hint="{escape(HINT)}"></output><figcaption>{keys}</figcaption>'
        f'<script type="application/json">{_json(data)}</script></figure>'
    )


def _short(fit: Fit) -> str:
    formula = fit.structure.composition.reduced_formula
    return f"{formula} {fit.space_group_symbol}, residual {fit.residual:.3f}"


def _encoded(values: np.ndarray) -> str:
    return base64.b64encode(values.tobytes()).decode()


def _steps(values: Curve) -> dict[str, Any]:
    """A curve in 65,536 steps between its ends: two bytes a point."""
    low, high = float(values.min()), float(values.max())
    steps = np.rint((values - low) / ((high - low) or 1) * 65535).astype("<u2")
    return {"low": low, "high": high, "steps": _encoded(steps)}


def _json(data: Any) -> str:
    """JSON that cannot end the script element it stands in."""
    return json.dumps(data, ensure_ascii=True, separators=(",", ":")).replace(
        "<", "\\u003c"
    )


def table(
    heads: Sequence[str],
    rows: Iterable[Sequence[str]],
    *,
    classes: Sequence[str] = (),
    numbers: Sequence[int] = (),
) -> str:
    """A table of cells that are HTML already; columns ``numbers`` are set to the right."""

    def cells(row: Sequence[str], tag: str) -> str:
        return "".join(
            f"<{tag}{' class=n' if i in numbers else ''}>{cell}</{tag}>"
            for i, cell in enumerate(row)
        )

    body = "".join(
        f'<tr class="{classes[i] if i < len(classes) else ""}">{cells(row, "td")}</tr>'
        for i, row in enumerate(rows)
    )
    head = f"<thead><tr>{cells(heads, 'th')}</tr></thead>"
    return f'<div class="wide"><table>{head}<tbody>{body}</tbody></table></div>'


def candidates(solution: Solution) -> str:
    """All structures that were kept, those that cannot be told from the first marked."""
    if not solution.fits:
        return ""
    rows = [
        [
            str(row["rank"]),
            f"{symbol_html(row['space_group'])} ({row['number']})",
            escape(sites_text(row["wyckoff"])),
            cell_text(row),
            f"{row['volume']:.1f}",
            f"{row['residual']:.3f}",
            f"{row['score']:.1f}",
            f"{100 * row['unexplained']:.0f} %",
            escape(row["origin"]),
            escape(row["known"]) or "–",
            str(row["group"]),
        ]
        for row in solution_rows(solution)
    ]
    ties = solution.groups[0] if solution.groups else ()
    classes = [
        f"{'first' if i == 0 else ''} {'tie' if i in ties and len(ties) > 1 else ''}".strip()
        for i in range(len(rows))
    ]
    heads = ("", "space group", "sites", "cell (Å, °)", "V (Å³)", "residual", "score",
             "unexplained", "origin", "known", "group")  # fmt: skip
    numbers = (0, 4, 5, 6, 7, 10)
    return "<h2>Candidates</h2>" + table(heads, rows, classes=classes, numbers=numbers)


def structure(fit: Fit, setting: Setting) -> str:
    """Cell and sites of the first structure, with the nearest neighbours of each site."""
    rows = [
        [
            site.label,
            f"{site.multiplicity}<i>{site.wyckoff}</i>",
            *(f"{x:.4f}" for x in site.frac),
            f"{site.occupancy:.3g}",
            f"{site.u_iso:.4f}",
            ", ".join(neighbours(setting, site.frac)),
        ]
        for site in setting.sites
    ]
    heads = ("site", "Wyckoff", "x", "y", "z", "occupancy", "<i>U</i><sub>iso</sub> (Å²)",
             "nearest neighbours (Å)")  # fmt: skip
    formula = formula_html(setting.composition.reduced_formula)
    quality = "".join(
        f" · {escape(name)} {value:.2f} %" for name, value in fit.r_values.items()
    )
    said = (
        f"{formula}, {symbol_html(setting.symbol)} ({setting.number}), "
        f"{cell_text(fit_row(fit))} Å, <i>V</i> = {setting.structure.volume:.2f} Å³, "
        f"<i>Z</i> = {setting.units}, {float(setting.structure.density):.2f} g/cm³; "
        f"profile residual {fit.residual:.4f}{quality}"
    )
    return f"<h2>Structure of the first</h2><p>{said}</p>" + table(
        heads, rows, numbers=(2, 3, 4, 5, 6)
    )


def neighbours(setting: Setting, frac: Float[np.ndarray, "3"]) -> list[str]:
    """First shell of a place, up to 1.25 × the shortest distance: "O 1.949 (4×)"."""
    place = setting.structure.lattice.get_cartesian_coords(frac)
    for radius in (3.0, 5.0, 8.0, 20.0):
        around = setting.structure.get_sites_in_sphere(place, radius)
        found = sorted((n.nn_distance, n.species_string) for n in around)
        found = [(d, name) for d, name in found if d > 0.05]
        if found and 1.25 * found[0][0] <= radius:
            break
    shell = [(f"{d:.3f}", name) for d, name in found if d <= 1.25 * found[0][0]]
    counts = {pair: shell.count(pair) for pair in shell}
    return [
        f"{escape(name)} {d}{f' ({n}×)' if n > 1 else ''}"
        for (d, name), n in counts.items()
    ]


def limits(solution: Solution) -> str:
    """What the pattern decides of the first structure and what it does not."""
    if not solution.fits:
        return ""
    fit = solution.fits[0]
    if not (fit.determined or fit.undetermined):
        return ""
    return (
        '<h2>What this pattern says</h2><div class="two">'
        f"<div><h3>determined by the pattern</h3>{_list(fit.determined)}</div>"
        "<div><h3>carried over from the structure type, not determined</h3>"
        f"{_list(fit.undetermined)}</div></div>"
    )


def _list(items: Iterable[str]) -> str:
    lines = "".join(f"<li>{escape(item)}</li>" for item in items)
    return f"<ul>{lines}</ul>" if lines else '<p class="muted">nothing named</p>'


def rest(solution: Solution) -> str:
    """Intensity that the first structure leaves, and what might explain it."""
    if not solution.fits:
        return ""
    share = 100 * solution.fits[0].unexplained
    said = f"<p>{share:.1f} % of the intensity above background lies above the calculated "
    said += "profile of the first structure.</p>"
    rows = [[formula_html(name), f"{100 * part:.0f} %"] for name, part in solution.foreign]
    if rows:
        said += "<p>Foreign phases that would explain some of it:</p>"
        said += table(("phase", "of the unexplained intensity"), rows, numbers=(1,))
    return f"<h2>Unexplained intensity</h2>{said}"


def warnings_of(solution: Solution, pattern: Pattern | None) -> str:
    """What was noticed in reading and preparing the pattern."""
    own = pattern.warnings if pattern is not None else ()
    found = dict.fromkeys((*own, *solution.problem.pattern.warnings))
    return f"<h2>Warnings of the pattern</h2>{_list(found)}" if found else ""


def provenance(solution: Solution, pattern: Pattern | None) -> str:
    """Where everything comes from: input, settings, versions, time."""
    shown = pattern or solution.problem.pattern
    problem = solution.problem
    beam = ", ".join(f"{w:.6f}" for w in shown.radiation.wavelengths)
    settings = {k: v for k, v in solution.settings.items() if v not in (None, (), "")}
    library = settings.pop("library", None)
    entries = {
        "pattern": shown.name or "–",
        "formula": reduced(solution),
        "radiation": f"{beam} Å, polarisation {shown.radiation.polarisation:g}",
        "e.s.d.s": shown.sigma_source,
        **{str(name).replace("_", " "): _plain(value) for name, value in settings.items()},
        "library": _library(library if library is not None else problem.library),
        "xrdkit": __version__,
        "with": ", ".join(f"{name} {_version(name)}" for name in PROGRAMS),
        "python": platform.python_version(),
        "written": f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
        "seconds": ", ".join(f"{k} {v:.1f}" for k, v in solution.seconds.items()) or "–",
    }
    items = "".join(
        f"<dt>{escape(name)}</dt><dd>{escape(value)}</dd>"
        for name, value in entries.items()
    )
    return f"<h2>Where this comes from</h2><dl>{items}</dl>"


def _plain(value: Any) -> str:
    if isinstance(value, tuple | list | frozenset):
        return ", ".join(_plain(item) for item in value)
    return (
        f"{value:g}" if isinstance(value, float) else str(getattr(value, "__name__", value))
    )


def _library(library: Any) -> str:
    """A path as it was given; of a library what it says of itself."""
    if library is None:
        return "none"
    info = getattr(library, "info", None)
    if info is None:
        return str(library)
    return ", ".join(f"{name} {_plain(value)}" for name, value in info.items())


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"


KEYS = (
    ("observed", "observed"),
    ("calculated", "calculated"),
    ("ticks", "lines of the structure"),
    ("difference", "observed − calculated"),
)
GUIDE = """<details><summary>How to read this page</summary>
<p><b>Residual</b>: profile residual on the prepared pattern (background taken off, maximum
one); 0 is perfect. It is not an <i>R</i><sub>wp</sub>. <b>Score</b>: logarithm of the
posterior probability up to a constant; higher is better, and only differences within this
page mean something. <b>Group</b>: structures of one group cannot be told apart by this
pattern; a coloured edge marks those that share the first's.</p>
<p><b>Unexplained</b>: share of the observed intensity above background that lies above the
calculated profile; lines of another phase show up here. <b>Origin</b>: where the candidate
comes from, usually a structure type with its formula, space group and Wyckoff sites.
<b>Known</b>: this compound is in the library in this structure type.</p>
<p>Cells and sites are in the reference setting of International Tables A. Coordinates are
refined within the space group, element by element displacement parameters are not: check
them in a Rietveld refinement before you publish.</p></details>"""
