"""What a plot in the browser is told: curves as float32 bytes, lines of phases, words."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float

from xrdkit.pattern import background
from xrdkit.report.curves import Curves, curves_of, lines_of, thinned
from xrdkit.report.setting import Setting, reference_setting, settings_of
from xrdkit.report.tables import formula_text
from xrdkit.types import Fit, Pattern, Peaks

if TYPE_CHECKING:
    from pymatgen.core import Structure

POINTS = 20_000  # of a pattern, drawn at most
Cell = tuple[float | int, float | int, float | int, float | int, float | int, float | int]
Mark = tuple[float, int, int, int]  # 2θ in ° and hkl


def pattern_view(pattern: Pattern, kept: Pattern | None, peaks: Peaks | None) -> dict:
    """A pattern as measured; the background of what is kept of it, and peaks found."""
    x, y = pattern.two_theta, pattern.intensity
    shown = thinned(y, points=POINTS)
    base = None
    if kept is not None and not pattern.prepared:
        base = np.full(len(x), np.nan)
        base[np.isin(x, kept.two_theta)] = background(kept)
        base = _bytes(base[shown])
    found = [] if peaks is None else peaks.two_theta
    tops = [[float(t), float(y[abs(x - t) <= _reach(x)].max())] for t in found]
    name = pattern.name or "pattern"
    return {
        "x": _bytes(x[shown]),
        "observed": _bytes(y[shown]),
        "background": base,
        "peaks": tops,
        "wavelength": pattern.radiation.main,
        "ordinate": _unit(pattern),
        "words": f"{name}, {x[0]:.1f} to {x[-1]:.1f}° 2θ, {len(tops)} peaks",
    }


def _reach(x: Float[np.ndarray, " points"]) -> float:
    """Degrees around a peak within which its highest point lies."""
    return max(3 * float(np.median(np.diff(x))), 0.05)


def _unit(pattern: Pattern) -> str:
    if pattern.prepared:
        return "intensity without background, maximum 1"
    return "counts" if pattern.sigma_source == "counts" else "intensity as measured"


def fits_view(fits: Sequence[Fit], pattern: Pattern | None, words: str) -> dict:
    """Observed and what the first fit says of its scale; fits are overlays beside."""
    curves = curves_of(fits[:1], pattern)
    base = None if curves.background is None else _bytes(curves.background)
    return {
        "x": _bytes(curves.two_theta),
        "observed": _bytes(curves.observed),
        "background": base,
        "wavelength": fits[0].radiation.main,
        "ordinate": curves.unit,
        "words": words,
    }


def overlay(fits: Sequence[Fit], rank: int, pattern: Pattern | None) -> dict[str, Any]:
    """The fit of this rank (1 is the best) over the points of ``fits_view``, with lines."""
    fit = fits[rank - 1]
    curves: Curves = curves_of([fits[0], fit], pattern)
    phases = [
        {"name": setting_name(one), "lines": marks(one.cell, one.symbol, fit)}
        for one in settings_of(fit)
    ]
    return {
        "name": f"{rank} · {phases[0]['name']}",
        "calculated": _bytes(curves.calculated[1]),
        "phases": phases,
    }


def setting_name(setting: Setting) -> str:
    """Formula and space group of a structure."""
    symbol = setting.symbol.replace(" ", "")
    return f"{formula_text(setting.structure.composition)} {symbol}"


def ticks_of(what: "Fit | Structure | Cell", seen: Pattern) -> list[dict[str, Any]]:
    """Names and lines of the phases of a fit, of a structure, or of a bare cell (Å, °)."""
    if isinstance(what, tuple):
        name = "cell " + " ".join(f"{value:g}" for value in what)
        return [{"name": name, "lines": marks(what, "P 1", seen)}]
    settings = settings_of(what) if isinstance(what, Fit) else [reference_setting(what)]
    held = what if isinstance(what, Fit) else seen
    return [
        {"name": setting_name(one), "lines": marks(one.cell, one.symbol, held)}
        for one in settings
    ]


def marks(cell: Sequence[float | int], symbol: str, seen: Fit | Pattern) -> list[Mark]:
    """Lines that a space group allows within a pattern, as the plot takes them."""
    return [(round(angle, 4), *hkl) for angle, hkl in lines_of(cell, symbol, seen)]


def _bytes(values: Float[np.ndarray, " points"]) -> bytes:
    return values.astype("<f4").tobytes()
