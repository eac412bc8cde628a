"""A fit or a pattern as an SVG that needs no script and no style sheet."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from xrdkit.report.curves import thinned

Curve = Float[np.ndarray, " points"]
COLOURS = {"observed": "#808080", "calculated": "#d55e00", "difference": "#0072b2",
           "ticks": "#009e73", "ticks2": "#b56b9c", "ticks3": "#b8860b",
           "ticks4": "#5a78c8"}  # fmt: skip
ROWS = ("ticks", "ticks2", "ticks3", "ticks4")  # colours of the lines of phases, in turn
LEFT, TOP, MARK, ROW = 8, 8, 16, 11  # px


def drawing(
    two_theta: Curve,
    observed: Curve,
    calculated: Curve | None = None,
    lines: Sequence[Sequence[float]] = (),
    *,
    size: tuple[int, int] = (960, 400),
    points: int = 1600,
) -> str:
    """Observed, calculated, lines of every phase and difference over 2θ (°).

    Colours stand on light and dark; a page may set --observed, --calculated and so on.
    """
    keep = thinned(observed, *([] if calculated is None else [calculated]), points=points)
    x, y = two_theta[keep], observed[keep]
    width, height = size
    bottom = height - 26
    rows = MARK + ROW * (len(lines) - 1) if len(lines) else 0
    floor = bottom - rows - (0 if calculated is None else 60)
    both = np.concatenate([y] if calculated is None else [y, calculated])
    low, top = float(both.min()), float(both.max())
    across = (width - 2 * LEFT) / float(np.ptp(x) or 1)
    up = (floor - TOP) / ((top - low) or 1)

    def place(values: Curve, base: float | int, unit: float | int) -> str:
        pairs = zip((x - x[0]) * across + LEFT, base - values * unit, strict=True)
        return " ".join(f"{a:.1f},{b:.1f}" for a, b in pairs)

    parts = [_polyline(place(y - low, floor, up), "observed")]
    if calculated is not None:
        model = calculated[keep]
        rest = y - model
        unit = min(up, 50 / float(np.ptp(rest) or 1))
        middle = bottom - 30 + float(rest.max() + rest.min()) / 2 * unit
        parts += [
            _polyline(place(model - low, floor, up), "calculated"),
            _polyline(place(rest, middle, unit), "difference"),
        ]
    parts += [
        _marks([float(a - x[0]) * across + LEFT for a in angles], floor + 5 + ROW * i, i)
        for i, angles in enumerate(lines)
    ]
    parts += _scale(float(x[0]), across, bottom, width)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" '
        f'style="max-width:{width}px;width:100%;height:auto" role="img" '
        f'aria-label="diffraction pattern">{"".join(parts)}</svg>'
    )


def _stroke(name: str) -> str:
    return f'fill="none" style="stroke:var(--{name}, {COLOURS[name]})" stroke-width="1.1"'


def _polyline(points: str, name: str) -> str:
    return f'<polyline points="{points}" {_stroke(name)}/>'


def _marks(places: list[float], top: float | int, phase: int) -> str:
    path = "".join(f"M{place:.1f} {top:.1f}v9" for place in places)
    return f'<path d="{path}" {_stroke(ROWS[phase % len(ROWS)])}/>'


def _scale(first: float, across: float | int, bottom: int, width: int) -> list[str]:
    """The axis with a number every 1, 2, 5, 10 … degrees."""
    span = (width - 2 * LEFT) / across
    step = next(s for s in (0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50) if span / s <= 10)
    rule = f"M{LEFT} {bottom}H{width - LEFT}"
    parts = [f'<path d="{rule}" stroke="currentColor" opacity=".4"/>']
    for angle in np.arange(np.ceil(first / step) * step, first + span + 1e-9, step):
        place = (angle - first) * across + LEFT
        if place < width - 50:
            parts.append(_label(place, bottom, f"{angle:g}"))
    return [*parts, _label(width - LEFT - 18, bottom, "2θ (°)")]


def _label(place: float | int, bottom: int, text: str) -> str:
    return (
        f'<text x="{place:.1f}" y="{bottom + 17}" text-anchor="middle" font-size="12" '
        f'fill="currentColor">{text}</text>'
    )
