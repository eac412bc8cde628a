"""The HTML page of a refinement: R values, plot, structure with e.s.d.s, bonds, history.

Frame, plot and script are those of a solution's page (``html``).
"""

from collections.abc import Sequence
from html import escape
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from xrdkit.files import write_text
from xrdkit.refine.rietveld import Measure, geometry
from xrdkit.refine.rietveld.geometry import with_esd
from xrdkit.refine.rietveld.table import Parameter, kind_of
from xrdkit.report.curves import curves_of, gaps, lines_of
from xrdkit.report.html import Script, figure, page, script_element
from xrdkit.report.markup import (
    list_html,
    r_values_html,
    table_html,
)
from xrdkit.report.pdcif import ENGINES, convention, method
from xrdkit.report.refined import sample_text, unit_of
from xrdkit.report.sections import (
    beam_text,
    entries_html,
    given,
    phase_html,
    plain,
    sites_html,
    versions,
)
from xrdkit.report.setting import Setting, settings_of
from xrdkit.types import Fit

Stages = Sequence[tuple[str, str]]  # name of a stage and what it came to
EXACT = 1e-7  # Å or °; e.s.d.s below are rounding: symmetry determines the value
LONGEST = 60  # rows of lengths or angles that stand open
GUIDE = """<details><summary>How to read this page</summary>
<p><b><i>R</i><sub>wp</sub></b>: weighted profile <i>R</i> factor on the data as measured,
background included; <b><i>R</i><sub>wp</sub>′</b>: the same without background, which a
high background does not make smaller. <b><i>R</i><sub>exp</sub></b>: what counting
statistics allow; <b>GOF</b> = <i>R</i><sub>wp</sub> / <i>R</i><sub>exp</sub>. Both need
standard deviations of the data. <b><i>R</i><sub>Bragg</sub></b> and
<b><i>R</i><sub>F</sub></b>: on integrated intensities and their roots, first phase.</p>
<p><b>E.s.d.s</b> stand in brackets, in units of the last figures. A value without one was
not refined or follows another.</p></details>"""


def write_refinement(
    fit: Fit,
    path: str | Path,
    *,
    name: str = "",
    stages: Stages = (),
    settings: dict[str, Any] | None = None,
    script: Script = "inline",
) -> Path:
    """The page of a Rietveld or Pawley fit, readable without network.

    ``name`` is that of the pattern, ``stages`` are names of stages with what each came to
    (without, the history of the table), ``settings`` what else was chosen, by name.
    """
    if fit.table is None or fit.covariance is None:
        raise ValueError(
            f"this fit of engine '{fit.engine}' has no parameter table with covariance; "
            "refine it with xrdkit.refine.rietveld.refine"
        )
    path = Path(path)
    title = escape(name or path.stem)
    own = settings_of(fit)
    parts = [
        f"<h1>{title}</h1><p>{_subtitle(fit)}</p>",
        _quality(fit, own),
        _plot(fit, own),
        *([f"<h2>Warnings</h2>{list_html(fit.warnings)}"] if fit.warnings else []),
        *(_phase(fit, i, setting) for i, setting in enumerate(own)),
        _correlations(fit),
        _parameters(fit),
        _history(fit, stages),
        _provenance(fit, name or path.stem, settings or {}),
        GUIDE,
    ]
    return write_text(path, page(title, parts, script_element(path, script)))


def _subtitle(fit: Fit) -> str:
    x, beam = fit.two_theta, fit.radiation
    return (
        f"{method(fit)} by {ENGINES[fit.engine]} · {x[0]:.2f}–{x[-1]:.2f}° 2θ · "
        f"{escape(beam.name or 'λ')} {beam.main:.5f} Å"
    )


def _quality(fit: Fit, settings: Sequence[Setting]) -> str:
    """R values with what they are counted over, and the phases."""
    factors = "".join(
        f"<span>{name}<b>{value}</b></span>" for name, value in r_values_html(fit.r_values)
    )
    phases = "".join(
        f'<p class="best">{phase_html(setting)}{sample_text(fit, i)}</p>'
        for i, setting in enumerate(settings)
    )
    weights = "all points weigh the same, σ is not known"
    if fit.sigma is not None:
        weights = "weights 1/σ²"
    left_out = ", ".join(f"{low:.2f}–{high:.2f}°" for low, high in gaps(fit.two_theta))
    over = (
        f"<i>N</i> = {fit.n_observations} points, <i>P</i> = {fit.n_parameters} "
        f"parameters; {weights}" + f"; without {left_out}" * bool(left_out)
    )
    return (
        f'<section class="verdict refined"><p class="factors">{factors}</p>{phases}'
        f'<p class="muted">{over}</p></section>'
    )


def _plot(fit: Fit, settings: Sequence[Setting]) -> str:
    names = [unit.name or "the phase" for unit in fit.table.units]
    lines = [lines_of(setting.cell, setting.symbol, fit) for setting in settings]
    marks = [list(zip(names, lines, strict=True))]
    return figure(curves_of([fit]), marks, fit.radiation.main)


def _phase(fit: Fit, phase: int, setting: Setting) -> str:
    """Sites with bond-valence sums, bond lengths and angles."""
    if not setting.sites:
        return ""
    found = geometry(fit, phase)
    sums = {label: f"{value:.2f}" for label, value in found.valences.items()}
    lengths, angles = (
        [measure for measure in measures if not _between_metals(measure, setting)]
        for measures in (found.bonds, found.angles)
    )
    name = escape(fit.table.units[phase].name)
    table = sites_html(setting, "valence sum", sums)
    return (
        f"<h2>Structure of {name}</h2>{table}"
        f'<div class="two">{_measures("bond lengths (Å)", lengths)}'
        f"{_measures('angles (°)', angles)}</div>"
    )


def _between_metals(measure: Measure, setting: Setting) -> bool:
    """Whether a contact of two metals is in it, beside bonds to something else."""
    from pymatgen.core import Element

    metal = {site.label: Element(site.element).is_metal for site in setting.sites}
    pairs = pairwise(measure.atoms)
    return not all(metal.values()) and any(metal[a] and metal[b] for a, b in pairs)


def _measures(head: str, measures: Sequence[Measure]) -> str:
    """Lengths or angles; many fold away."""
    if not measures:
        return ""
    rows = [
        ["–".join(m.atoms), with_esd(m.value, m.esd * (m.esd > EXACT)), f"{m.count}&nbsp;×"]
        for m in measures
    ]
    table = table_html((head, "", "count"), rows, numbers=(1, 2))
    if len(rows) > LONGEST:
        table = f"<details><summary>{len(rows)} {head}</summary>{table}</details>"
    return f"<div>{table}</div>"


def _correlations(fit: Fit) -> str:
    if not fit.correlations:
        return "<h2>Correlations</h2><p>None is above 0.9.</p>"
    rows = [[escape(a), escape(b), f"{r:+.3f}"] for a, b, r in fit.correlations]
    table = table_html(("parameter", "parameter", "correlation"), rows, numbers=(2,))
    return f"<h2>Correlations above 0.9</h2>{table}"


def _parameters(fit: Fit) -> str:
    """What was refined, and folded away what was not; intensities of lines are left out."""
    rows = [row for row in fit.table.rows if kind_of(row.name) != "intensity"]
    refined = [row for row in rows if row.refine]
    others = [row for row in rows if not row.refine and not row.by_symmetry]
    count = len(fit.table) - len(rows)
    more = f"<p>{count} intensities of lines are not shown.</p>" if count else ""
    return (
        f"<h2>Parameters</h2><p>{convention(fit)}.</p>{_rows(refined)}{more}"
        f"<details><summary>{len(others)} that were not refined</summary>{_rows(others)}"
        "</details>"
    )


def _rows(rows: Sequence[Parameter]) -> str:
    cells = [
        [
            escape(row.name),
            unit_of(row.name),
            with_esd(row.value, row.esd or 0.0),
            "" if np.isinf(row.low) else f"{row.low:.5g}",
            "" if np.isinf(row.high) else f"{row.high:.5g}",
            escape(row.tie),
            "" if row.restraint is None else "{:g} ± {:g}".format(*row.restraint),
        ]
        for row in rows
    ]
    heads = ("parameter", "unit", "value", "least", "most", "follows", "restraint")
    return table_html(heads, cells, numbers=(2, 3, 4))


def _history(fit: Fit, stages: Stages) -> str:
    """What was done, first to last."""
    if not stages:
        return f"<h2>History</h2>{list_html(fit.table.history)}"
    rows = [[str(i), escape(a), escape(b)] for i, (a, b) in enumerate(stages, 1)]
    return f"<h2>History</h2>{table_html(('', 'stage', 'at its end'), rows)}"


def _provenance(fit: Fit, name: str, settings: dict[str, Any]) -> str:
    chosen = {k.replace("_", " "): plain(v) for k, v in settings.items() if given(v)}
    return entries_html(
        {
            "pattern": name,
            "radiation": beam_text(fit.radiation),
            "geometry": f"{fit.instrument.geometry}, {fit.instrument.slits} slits",
            "start": fit.origin,
            **chosen,
            **versions(),
        }
    )
