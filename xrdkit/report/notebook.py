"""How the types look in a notebook: a line of words, and a small plot where there is one.

No style sheet and no script: text takes the colours of the page it stands on.
"""

from functools import singledispatch
from html import escape
from typing import Any

from xrdkit.report.curves import lines_of
from xrdkit.report.drawing import drawing
from xrdkit.report.markup import (
    asked_html,
    counts_html,
    formula_html,
    r_values_html,
    symbol_html,
)
from xrdkit.report.refined import sample_text
from xrdkit.report.sections import phase_html
from xrdkit.report.setting import Setting, settings_of
from xrdkit.report.tables import formula_text
from xrdkit.types import (
    Candidate,
    Controls,
    Crystals,
    Fit,
    Instrument,
    Pattern,
    Peaks,
    Phase,
    Problem,
    Progress,
    Radiation,
    Solution,
    Symmetry,
)

SMALL = (640, 220)  # px
ROWS = 10


@singledispatch
def html_of(value: Any) -> str:
    """A value in short as HTML; what has no form of its own stands as its repr."""
    return f"<code>{escape(repr(value))}</code>"


def _line(*parts: str) -> str:
    return f"<div>{' · '.join(part for part in parts if part)}</div>"


def _table(heads: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    def cells(row: tuple[str, ...], tag: str) -> str:
        return "".join(f"<{tag} style='text-align:left'>{cell}</{tag}>" for cell in row)

    body = "".join(f"<tr>{cells(row, 'td')}</tr>" for row in rows[:ROWS])
    more = f"<div>… and {len(rows) - ROWS} more</div>" if len(rows) > ROWS else ""
    return f"<table><tr>{cells(heads, 'th')}</tr>{body}</table>{more}"


@html_of.register
def _radiation(value: Radiation) -> str:
    waves = ", ".join(
        f"{length:.6f} Å" + (f" ({weight:.3f})" if len(value.weights) > 1 else "")
        for length, weight in zip(value.wavelengths, value.weights, strict=True)
    )
    return _line(f"<b>{escape(value.name or 'X-rays')}</b>", waves,
                 f"polarisation {value.polarisation:g}")  # fmt: skip


@html_of.register
def _instrument(value: Instrument) -> str:
    shape = ", ".join(f"{c.upper()} {getattr(value, c):.4g}" for c in "uvwxy")
    return _line(
        f"<b>{value.geometry}</b>, {value.slits} slits, R {value.radius:g} mm",
        f"{shape} (°², °)",
        f"zero {value.zero:.4f}°",
        f"displacement {value.displacement:g} mm" if value.displacement else "",
    )


@html_of.register
def _pattern(value: Pattern) -> str:
    if not len(value):
        return _line("<b>pattern</b> without points")
    x = value.two_theta
    return drawing(x, value.intensity, size=SMALL, points=800) + _line(
        f"<b>{escape(value.name or 'pattern')}</b>{' (prepared)' * value.prepared}",
        f"{x[0]:.2f}–{x[-1]:.2f}° 2θ, {len(x)} points",
        f"{escape(value.radiation.name)} {value.radiation.main:.5f} Å",
        *(escape(warning) for warning in value.warnings),
    )


@html_of.register
def _peaks(value: Peaks) -> str:
    rows = [
        (f"{x:.3f}", f"{h:.4g}", f"{a:.4g}", f"{w:.3f}")
        for x, h, a, w in zip(
            value.two_theta, value.height, value.area, value.fwhm, strict=True
        )
    ]
    return _table(("2θ (°)", "height", "area", "FWHM (°)"), rows)


@html_of.register
def _crystals(value: Crystals) -> str:
    from xrdkit.crystal import to_structure

    rows = []
    for i in range(min(len(value), ROWS)):
        found = to_structure(value, i)
        edges = ", ".join(f"{edge:.3f}" for edge in found.lattice.abc)
        angles = ", ".join(f"{angle:.1f}" for angle in found.lattice.angles)
        formula = formula_html(formula_text(found.composition))
        rows.append((formula, str(len(found)), edges, angles, f"{found.volume:.1f}"))
    heads = ("", "sites", "a, b, c (Å)", "α, β, γ (°)", "V (Å³)")
    return _line(f"<b>{len(value)} crystals</b>") + _table(heads, rows)


@html_of.register
def _symmetry(value: Symmetry) -> str:
    from xrdkit.space_group import default_hall, space_group_types

    symbol = space_group_types()[default_hall(value.number) - 1][1]
    return _line(
        f"{symbol_html(symbol)} ({value.number})",
        f"{len(value.rotations)} operations in the primitive cell",
        f"{value.cell_basis.shape[1]} free strains",
        f"{value.coordinate_basis.shape[1]} free shifts of atoms",
    )


@html_of.register
def _problem(value: Problem) -> str:
    return html_of(value.pattern) + _line(
        f"<b>{asked_html(value)}</b>",
        f"contents {counts_html(value.contents)}" if value.contents else "",
        f"{len(value.cells)} cells" if value.cells else "",
        f"space group {value.space_group}" if value.space_group else "",
        f"{len(value.phases)} known phases" if value.phases else "",
    )


@html_of.register
def _candidate(value: Candidate) -> str:
    known = f"known: {escape(value.known)}" if value.known else ""
    return html_of(value.crystal) + _line(
        escape(value.origin), f"log prior {value.prior:.2f}", known
    )


@html_of.register
def _phase(value: Phase) -> str:
    axis, r = value.texture or ((), 0.0)
    return html_of(value.crystal) + _line(
        escape(value.name),
        f"{100 * value.weight_fraction:.1f} % by weight",
        f"texture along {' '.join(map(str, axis))}, r = {r:g}" if axis else "",
    )


@html_of.register
def _fit(value: Fit) -> str:
    settings = settings_of(value)
    shown = settings if value.table is not None else settings[:1]
    marks = [
        [angle for angle, _ in lines_of(setting.cell, setting.symbol, value)]
        for setting in shown
    ]
    picture = drawing(
        value.two_theta, value.observed, value.calculated, marks, size=SMALL, points=800
    )
    if value.table is not None:
        return picture + _refined(value, shown)
    formula = formula_html(formula_text(value.structure.composition))
    return picture + _line(
        f"<b>{formula}</b>, {symbol_html(value.space_group_symbol)} ({value.space_group})",
        f"profile residual {value.residual:.4f}",
        escape(value.origin),
        f"known: {escape(value.known)}" if value.known else "",
    )


def _refined(value: Fit, settings: list[Setting]) -> str:
    """R values, and every phase with its cell; warnings."""
    factors = (f"{name} {number}" for name, number in r_values_html(value.r_values))
    phases = (
        f"<div>{phase_html(setting)}{sample_text(value, i)}</div>"
        for i, setting in enumerate(settings)
    )
    counts = f"<i>N</i> {value.n_observations}, <i>P</i> {value.n_parameters}"
    warnings = (f"<div>warning: {escape(said)}</div>" for said in value.warnings)
    return "".join([_line(*factors, counts), *phases, *warnings])


@html_of.register
def _solution(value: Solution) -> str:
    from xrdkit.report.tables import cell_text, solution_rows

    named = not value.problem.formula  # rows may differ in it
    rows = [
        (str(row["rank"]), *[formula_html(row["formula"])] * named,
         f"{symbol_html(row['space_group'])} ({row['number']})",
         cell_text(row), f"{row['residual']:.3f}", f"{row['score']:.1f}",
         escape(row["origin"]))
        for row in solution_rows(value)
    ]  # fmt: skip
    heads = ("", *["formula"] * named, "space group", "cell (Å, °)", "residual", "score",
             "origin")  # fmt: skip
    best = html_of(value.fits[0] if value.fits else value.problem.pattern)
    reasons = "; ".join(escape(reason) for reason in value.reasons)
    said = f"<b>{value.verdict}</b>, confidence {value.confidence:.2f}"
    return best + _line(said, reasons) + (_table(heads, rows) if rows else "")


@html_of.register
def _progress(value: Progress) -> str:
    return _line(
        f"<b>{escape(value.stage)}</b> {value.done} of {value.total}",
        escape(value.message),
        f"{value.seconds:.1f} s" if value.seconds else "",
    )


@html_of.register
def _controls(value: Controls) -> str:
    steps = "as planned" if value.steps is None else str(value.steps)
    return _line(f"guidance {value.guidance:g}", f"steps {steps}")
