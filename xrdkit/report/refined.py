"""A refinement as a text and as rows: R values, cell and sites with e.s.d.s, parameters."""

import csv
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from xrdkit.files import write_text
from xrdkit.refine.rietveld.geometry import with_esd
from xrdkit.refine.rietveld.start import prefix_of
from xrdkit.refine.rietveld.table import kind_of
from xrdkit.report.markup import cell_words, r_words
from xrdkit.report.setting import Setting, settings_of
from xrdkit.report.tables import text_table
from xrdkit.types import Fit

UNITS = {
    "a": "Å", "b": "Å", "c": "Å", "alpha": "°", "beta": "°", "gamma": "°", "volume": "Å³",
    "u": "Å²", "size": "Å", "zero": "°", "displacement": "mm", "U": "°²", "V": "°²",
    "W": "°²", "X": "°", "Y": "°",
}  # fmt: skip
HEADS = ("name", "value", "esd", "unit", "refined", "low", "high", "follows")


def unit_of(name: str) -> str:
    """The unit of a parameter; empty where it has none."""
    return UNITS.get(kind_of(name), "")


def parameter_rows(fit: Fit) -> list[dict[str, Any]]:
    """Every parameter, then volumes and weight fractions, with e.s.d.s and limits."""
    rows = [
        {
            "name": row.name,
            "value": f"{row.value:.9g}",
            "esd": "" if row.esd is None else f"{row.esd:.3g}",
            "unit": unit_of(row.name),
            "refined": "yes" if row.refine else "",
            "low": "" if np.isinf(row.low) else f"{row.low:.6g}",
            "high": "" if np.isinf(row.high) else f"{row.high:.6g}",
            "follows": row.tie,
        }
        for row in fit.table.rows
    ]
    derived = [
        dict.fromkeys(HEADS, "")
        | {"name": name, "value": f"{value:.9g}", "unit": unit_of(name)}
        | ({"esd": f"{fit.uncertainties[name]:.3g}"} if name in fit.uncertainties else {})
        for name, value in fit.values.items()
        if name not in fit.table
    ]
    return rows + derived


def write_parameters(fit: Fit, path: str | Path) -> Path:
    """The parameter table as CSV."""
    text = io.StringIO()
    table = csv.DictWriter(text, HEADS, lineterminator="\n")
    table.writeheader()
    table.writerows(parameter_rows(fit))
    return write_text(path, text.getvalue())


def refinement_text(fit: Fit) -> str:
    """Phases with cell and sites, and the R values with what they are counted over."""
    lines = [
        line
        for i, setting in enumerate(settings_of(fit))
        for line in _phase_lines(fit, i, setting)
    ]
    factors = ", ".join(f"{name} {value}" for name, value in r_words(fit.r_values))
    x = fit.two_theta
    weights = "all weights alike (σ unknown)" if fit.sigma is None else "weights 1/σ²"
    counts = f"N {fit.n_observations} points, P {fit.n_parameters} parameters"
    return "\n".join([*lines, factors, f"{counts}, {x[0]:.2f}–{x[-1]:.2f}° 2θ, {weights}"])


def _phase_lines(fit: Fit, phase: int, setting: Setting) -> list[str]:
    """Name, space group and cell of a phase, and its sites."""
    cell = ", ".join(
        f"{symbol} {value}" + ("°" if symbol in "αβγ" else " Å")
        for symbol, value in cell_words(setting)
    )
    volume = setting.shown("volume", setting.structure.volume, 2)
    unit = fit.table.units[phase]
    first = f"{unit.name}, {unit.symbol} ({unit.space_group}){sample_text(fit, phase)}"
    lines = [first, f"{cell}, V {volume} Å³"]
    return [*lines, text_table(_site_rows(setting))] if setting.sites else lines


def sample_text(fit: Fit, phase: int) -> str:
    """What a phase is in the sample: its weight fraction in a mixture, its texture."""
    said, esds = "", fit.uncertainties
    if len(fit.phases) > 1:
        name = f"{prefix_of(fit.table.units, phase)}weight_fraction"
        share = 100 * fit.phases[phase].weight_fraction
        said += f"; {with_esd(share, 100 * esds.get(name, 0.0))} % by weight"
    if phase == 0 and fit.table.texture is not None:
        axis = " ".join(map(str, fit.table.texture))
        r = with_esd(fit.table["texture"].value, esds.get("texture", 0.0))
        said += f"; texture along {axis}, r = {r}"
    return said


def _site_rows(setting: Setting) -> Sequence[dict[str, str]]:
    return [
        {
            "site": site.label,
            "Wyckoff": f"{site.multiplicity}{site.wyckoff.strip('?')}",
            **{
                axis: setting.shown(f"{axis}:{site.label}", x, 4)
                for axis, x in zip("xyz", site.frac, strict=True)
            },
            "occupancy": setting.shown(f"occupancy:{site.label}", site.occupancy, 3),
            "U (Å²)": setting.shown(f"u:{site.label}", site.u_iso, 4),
        }
        for site in setting.sites
    ]
