"""The sections of a report below its plot: candidates, structure, limits, provenance."""

import platform
from collections.abc import Sequence
from datetime import UTC, datetime
from html import escape
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import numpy as np
from jaxtyping import Float

from xrdkit import __version__
from xrdkit.report.markup import (
    cell_html,
    compound_html,
    formula_html,
    list_html,
    r_values_html,
    symbol_html,
    table_html,
)
from xrdkit.report.setting import Setting
from xrdkit.report.tables import formula_text, sites_text, solution_rows
from xrdkit.types import Fit, Pattern, Radiation, Solution

PROGRAMS = ("torch", "pymatgen", "spglib", "gemmi", "numpy")
SHELL = 1.25  # neighbours up to this multiple of the shortest distance are shown
GUIDE = """<details><summary>How to read this page</summary>
<p><b>Residual</b>: profile residual on the prepared pattern (background taken off, maximum
one); 0 is perfect. It is not an <i>R</i><sub>wp</sub>. <b>Score</b>: logarithm of the
posterior probability up to a constant; higher is better, and only differences within this
page mean something. <b>Group</b>: structures of one group cannot be told apart by this
pattern; a coloured edge marks the first group.</p>
<p><b>Unexplained</b>: share of the observed intensity above background that lies above the
calculated profile; lines of another phase show up here. <b>Origin</b>: where the candidate
comes from, usually a structure type with its formula, space group and Wyckoff sites.
<b>Known</b>: this compound is known in this structure type.</p>
<p>Cells and sites are in the reference setting of International Tables A. Coordinates are
refined within the space group; displacement parameters differ from usual values by one
overall <i>B</i> only. Refine them by Rietveld's method before you publish.</p></details>"""


def candidates(solution: Solution, settings: Sequence[Setting]) -> str:
    """All structures that were kept; those of the first group are marked."""

    def named(row: dict[str, Any]) -> str:
        """The formula, where it was not given: rows may differ in it."""
        known = solution.problem.formula
        return "" if known else f"{formula_html(row['formula'])}, "

    rows = [
        [
            str(row["rank"]),
            f"{named(row)}{symbol_html(row['space_group'])}&nbsp;({row['number']})"
            f"<small>{escape(sites_text(row['wyckoff']))}</small>",
            cell_html(setting),
            f"{row['volume']:.1f}",
            f"{row['residual']:.3f}",
            f"{row['score']:.1f}",
            f"{100 * row['unexplained']:.0f}&nbsp;%",
            escape(row["origin"]),
            escape(row["known"]) or "–",
            str(row["group"]),
        ]
        for row, setting in zip(solution_rows(solution), settings, strict=True)
    ]
    heads = ("", "space group, sites", "cell (Å)", "V (Å³)", "residual", "score",
             "unexplained", "origin", "known", "group")  # fmt: skip
    first = solution.groups[0] if solution.groups else ()
    table = table_html(heads, rows, numbers=(0, 3, 4, 5, 6, 9), marked=first)
    return f"<h2>Candidates</h2>{table}"


def structure(fit: Fit, setting: Setting) -> str:
    """Cell and sites of a structure, with the nearest neighbours of each site."""
    quality = "".join(f", {name} {value}" for name, value in r_values_html(fit.r_values))
    said = f"{phase_html(setting)}; profile residual {fit.residual:.4f}{quality}"
    around = {
        site.label: ", ".join(neighbours(setting, site.frac)) for site in setting.sites
    }
    table = sites_html(setting, "nearest neighbours (Å)", around)
    return f"<h2>Structure of the first</h2><p>{said}</p>{table}"


def phase_html(setting: Setting) -> str:
    """Formula, space group, cell, volume, Z and density."""
    cell = (
        f"{symbol_html(setting.symbol)} ({setting.number}), {cell_html(setting)} Å, "
        f"<i>V</i>&nbsp;{setting.shown('volume', setting.structure.volume, 2)} Å³"
    )
    if not setting.sites:
        return cell
    return (
        f"{formula_html(formula_text(setting.composition))}, {cell}, "
        f"<i>Z</i>&nbsp;{setting.units}, {float(setting.structure.density):.2f} g/cm³"
    )


def sites_html(setting: Setting, head: str, words: dict[str, str]) -> str:
    """The sites with a last column of ``words`` by label."""
    rows = [
        [
            site.label,
            f"{site.multiplicity}<i>{site.wyckoff.strip('?')}</i>",
            *(
                setting.shown(f"{axis}:{site.label}", x, 4)
                for axis, x in zip("xyz", site.frac, strict=True)
            ),
            setting.shown(f"occupancy:{site.label}", site.occupancy, 3),
            setting.shown(f"u:{site.label}", site.u_iso, 4),
            words[site.label],
        ]
        for site in setting.sites
    ]
    heads = ("site", "Wyckoff", "x", "y", "z", "occupancy", "<i>U</i><sub>iso</sub> (Å²)",
             head)  # fmt: skip
    return table_html(heads, rows, numbers=(2, 3, 4, 5, 6))


def neighbours(setting: Setting, frac: Float[np.ndarray, "3"]) -> list[str]:
    """First shell of a place, up to 1.25 × the shortest distance: "4 × O 1.949"."""
    place = setting.structure.lattice.get_cartesian_coords(frac)
    for radius in (3.0, 5.0, 8.0, 20.0):
        around = setting.structure.get_sites_in_sphere(place, radius)
        found = sorted((n.nn_distance, n.species_string) for n in around)
        found = [(d, name) for d, name in found if d > 0.05]
        if found and SHELL * found[0][0] <= radius:
            break
    shell = [(f"{d:.3f}", name) for d, name in found if d <= SHELL * found[0][0]]
    counts = {pair: shell.count(pair) for pair in shell}
    return [
        f"{n}&nbsp;×&nbsp;" * (n > 1) + f"{escape(name)}&nbsp;{d}"
        for (d, name), n in counts.items()
    ]


def limits(fit: Fit) -> str:
    """What the pattern decides of a structure and what it does not."""
    if not (fit.determined or fit.undetermined):
        return ""
    return (
        '<h2>What this pattern says</h2><div class="two">'
        f"<div><h3>determined by the pattern</h3>{list_html(fit.determined)}</div>"
        "<div><h3>carried over from the structure type, not determined</h3>"
        f"{list_html(fit.undetermined)}</div></div>"
    )


def unexplained(solution: Solution) -> str:
    """Intensity that the first structure leaves, and what might explain it."""
    said = (
        f"<p>{100 * solution.fits[0].unexplained:.1f} % of the intensity above background "
        "lies above the calculated profile of the first structure.</p>"
    )
    rows = [[compound_html(name), f"{100 * part:.0f} %"] for name, part in solution.foreign]
    if rows:
        heads = ("foreign phase", "would explain, of that intensity")
        said += table_html(heads, rows, numbers=(1,))
    return f"<h2>Unexplained intensity</h2>{said}"


def warnings_of(solution: Solution, pattern: Pattern | None) -> str:
    """What was noticed in reading and preparing the pattern."""
    own = pattern.warnings if pattern is not None else ()
    found = dict.fromkeys((*own, *solution.problem.pattern.warnings))
    return f"<h2>Warnings of the pattern</h2>{list_html(found)}" if found else ""


def provenance(solution: Solution, pattern: Pattern | None) -> str:
    """Where everything comes from: input, settings, versions, time."""
    shown = pattern or solution.problem.pattern
    settings = {k: v for k, v in solution.settings.items() if given(v)}
    library = settings.pop("library", None)
    seconds = ", ".join(f"{k} {v:.1f}" for k, v in solution.seconds.items())
    return entries_html(
        {
            "pattern": shown.name or "–",
            "radiation": beam_text(shown.radiation),
            "e.s.d.s": shown.sigma_source,
            **{name.replace("_", " "): plain(value) for name, value in settings.items()},
            "library": _library(solution.problem.library if library is None else library),
            **versions(),
            "seconds": seconds or "–",
        }
    )


def beam_text(beam: Radiation) -> str:
    """Wavelengths and polarisation."""
    lengths = ", ".join(f"{w:.6f}" for w in beam.wavelengths)
    return f"{lengths} Å, polarisation {beam.polarisation:g}"


def versions() -> dict[str, str]:
    """What the page was made with, and when."""
    return {
        "xrdkit": __version__,
        "with": ", ".join(f"{name} {_version(name)}" for name in PROGRAMS),
        "python": platform.python_version(),
        "written": f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
    }


def entries_html(entries: dict[str, str]) -> str:
    """Where a page comes from, entry by entry."""
    items = "".join(
        f"<dt>{escape(name)}</dt><dd>{escape(value)}</dd>"
        for name, value in entries.items()
    )
    return f"<h2>Where this comes from</h2><dl>{items}</dl>"


def given(value: Any) -> bool:
    """Whether a setting says something; an array or a tuple does if it holds anything."""
    return value is not None and str(value) not in ("", "()", "[]")


def plain(value: Any) -> str:
    """A setting as a word: numbers short, functions by name, several with commas."""
    value = value.tolist() if isinstance(value, np.ndarray | np.generic) else value
    if isinstance(value, tuple | list | frozenset):
        return ", ".join(plain(item) for item in value)
    if isinstance(value, float):
        return f"{value:g}"
    return str(getattr(value, "__name__", value))


def _library(library: Any) -> str:
    """A path as it was given; of a library what it says of itself."""
    info = getattr(library, "info", None)
    if info is None:
        return "–" if library is None else str(library)
    return ", ".join(f"{name} {plain(value)}" for name, value in info.items())


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"
