"""A fit as one figure: observed, calculated, difference, and where reflections are."""

from typing import Literal

import numpy as np
import plotly.graph_objects as go
import torch
from jaxtyping import Float

from xrdkit.report.tables import formula_text
from xrdkit.simulate import intensities, line_positions, reflections
from xrdkit.types import Fit, Phase, Radiation, Solution

Axis = Literal["two_theta", "q", "d"]
# Okabe and Ito's palette, tones that stand on white and on black; greys are neutral
OBSERVED, CALCULATED, DIFFERENCE, TEXT = "#808080", "#D55E00", "#0072B2", "#808080"
PHASES = ("#009E73", "#CC79A7", "#E69F00", "#56B4E9")
FAINT = "rgba(128, 128, 128, 0.25)"
LABELS = {"two_theta": "2θ (°)", "q": "Q (1/Å)", "d": "d (Å)"}
ABSENT = 1e-5  # of the strongest line: weaker ones are not drawn


def plot_fit(result: Fit | Solution, rank: int = 0, axis: Axis = "two_theta") -> go.Figure:
    """Figure of a fit, or of the fit at this rank (0 is the best) of a solution."""
    if axis not in LABELS:
        raise ValueError(f"axis '{axis}' is unknown; give one of {', '.join(LABELS)}")
    fit = _ranked(result, rank) if isinstance(result, Solution) else result
    wavelength = fit.radiation.main
    x = abscissa(fit.two_theta, wavelength, axis)
    top = float(max(fit.observed.max(), fit.calculated.max()))
    difference = fit.observed - fit.calculated
    figure = go.Figure()
    points = {"color": OBSERVED, "size": 3}
    figure.add_scattergl(
        x=x, y=fit.observed, name="observed", mode="markers", marker=points
    )
    figure.add_scattergl(x=x, y=fit.calculated, name="calculated", line=_line(CALCULATED))
    for i, phase in enumerate(fit.phases):
        ticks = tick_angles(phase, fit)
        figure.add_scatter(
            x=abscissa(ticks, wavelength, axis),
            y=np.full(len(ticks), -0.04 * top * (i + 1)),
            name="reflections" if len(fit.phases) == 1 else f"reflections, phase {i + 1}",
            mode="markers",
            marker={"symbol": "line-ns-open", "size": 9, "color": PHASES[i % len(PHASES)]},
            customdata=abscissa(ticks, wavelength, "d"),
            hovertemplate="d = %{customdata:.4f} Å",
        )
    floor = -0.04 * top * (len(fit.phases) + 1) - float(difference.max())
    figure.add_scattergl(
        x=x,
        y=difference + floor,
        name="difference",
        line=_line(DIFFERENCE),
        customdata=difference,
        hovertemplate="%{customdata:.4g}",
    )
    return figure.update_layout(**_layout(fit, axis))


def abscissa(
    two_theta: Float[np.ndarray, " points"], wavelength: float, axis: Axis
) -> Float[np.ndarray, " points"]:
    """Angles 2θ (°) as they are, as Q = 4π sinθ / λ (1/Å) or as d = 2π / Q (Å)."""
    if axis == "two_theta":
        return two_theta
    q = 4 * np.pi * np.sin(np.radians(two_theta / 2)) / wavelength
    return q if axis == "q" else 2 * np.pi / q


def tick_angles(phase: Phase, fit: Fit) -> Float[np.ndarray, " lines"]:
    """2θ (°) of a phase's lines within the fit's range, zero and displacement included."""
    radiation = Radiation((fit.radiation.main,), polarisation=fit.radiation.polarisation)
    low, high = fit.two_theta[0], fit.two_theta[-1]
    q_max = 4 * np.pi * np.sin(np.radians(min(high + 1, 179) / 2)) / radiation.main
    with torch.no_grad():
        found = reflections(phase.crystal, float(q_max), [phase.symmetry])
        strength = intensities(phase.crystal, found, radiation)[0, 0]
        angle = line_positions(phase.crystal.lattice, found, radiation, fit.instrument)[
            0, 0
        ]
    inside = (angle >= low) & (angle <= high) & (strength > ABSENT * strength.max())
    return np.sort(angle[inside].double().numpy())


def _ranked(solution: Solution, rank: int) -> Fit:
    if not 0 <= rank < len(solution.fits):
        raise ValueError(
            f"there is no fit at rank {rank}; this solution has {len(solution.fits)}, "
            "counted from 0"
        )
    return solution.fits[rank]


def _line(colour: str) -> dict:
    return {"color": colour, "width": 1.2}


def _layout(fit: Fit, axis: Axis) -> dict:
    """Labels with units, and colours that do on a light and a dark page."""
    formula = formula_text(fit.structure.composition)
    quality = f"profile residual {fit.residual:.3f}"
    if "r_wp" in fit.r_values:
        quality = f"R<sub>wp</sub> {fit.r_wp:.2f} %"
    lines = {"gridcolor": FAINT, "zerolinecolor": FAINT, "linecolor": TEXT}
    label = (
        f"{LABELS[axis]}, λ = {fit.radiation.main:.4f} Å"
        if axis == "two_theta"
        else LABELS[axis]
    )
    return {
        "title": f"{formula}, {fit.space_group_symbol}, {quality}",
        "xaxis": {"title": label, **lines, **({"type": "log"} if axis == "d" else {})},
        "yaxis": {"title": "intensity", **lines},
        "font": {"color": TEXT},
        "paper_bgcolor": "rgba(0, 0, 0, 0)",
        "plot_bgcolor": "rgba(0, 0, 0, 0)",
        "legend": {
            "orientation": "h",
            "y": 1.02,
            "yanchor": "bottom",
            "x": 1,
            "xanchor": "right",
        },
        "hovermode": "x",
        "margin": {"l": 60, "r": 20, "t": 80, "b": 50},
    }
