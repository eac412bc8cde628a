"""Densities as figures: a section through the cell, and surfaces of one value."""

from itertools import product

import numpy as np
import plotly.graph_objects as go
from jaxtyping import Float
from scipy.ndimage import map_coordinates

from xrdkit.density import DensityGrid

AXES = "abc"
POSITIVE, NEGATIVE = "#0072B2", "#D55E00"
ACROSS, FINE = 40, 160  # points along each side of the box that is drawn, of the section
EDGE = 1e-6
Values = Float[np.ndarray, " places"]


def plot_section(
    density: DensityGrid, axis: str = "c", place: float = 0.0, *, title: str = ""
) -> go.Figure:
    """The plane at a fractional ``place`` along an axis, in true shape: edges in Å."""
    if axis not in tuple(AXES):
        raise ValueError(f"axis {axis!r} is none of a, b, c; give one")
    normal = AXES.index(axis)
    i, j = (k for k in range(3) if k != normal)
    plane = _flat(density.lattice[i], density.lattice[j])
    x, y, inside = _box(plane, FINE)
    frac = np.full((len(x), 3), place)
    frac[:, [i, j]] = np.column_stack([x, y]) @ np.linalg.inv(plane)
    shown = np.where(inside, _values(density, frac), np.nan).reshape(FINE, FINE).T
    figure = go.Figure(
        go.Heatmap(
            x=x[::FINE],
            y=y[:FINE],
            z=shown,
            zmid=0,
            colorscale="RdBu_r",
            colorbar={"title": "e/Å³"},
            hovertemplate="%{z:.3f} e/Å³<extra></extra>",
        )
    )
    figure.update_xaxes(title=f"along {AXES[i]} (Å)")
    figure.update_yaxes(title="Å", scaleanchor="x")
    said = title or f"section at {place:g} along {axis}"
    return figure.update_layout(title=said, template="none", height=420)


def plot_isosurface(density: DensityGrid, level: float, *, title: str = "") -> go.Figure:
    """Surfaces at ``level`` (e/Å³) and, where it is reached, at the same below zero."""
    top = float(np.abs(density.values).max())
    if not 0 < level < top:
        raise ValueError(
            f"a level of {level:g} e/Å³ is not within 0–{top:.3g} e/Å³, the highest of "
            "this density; give one between"
        )
    x, y, z, inside = _box(density.lattice, ACROSS)
    frac = np.column_stack([x, y, z]) @ np.linalg.inv(density.lattice)
    values = np.where(inside, _values(density, frac), 0.0)
    figure = go.Figure()
    for sign, colour in ((1, POSITIVE), (-1, NEGATIVE)):
        if (sign * values).max() > level:
            figure.add_isosurface(
                x=x,
                y=y,
                z=z,
                value=sign * values,
                isomin=level,
                isomax=level,
                surface_count=1,
                colorscale=[[0, colour], [1, colour]],
                showscale=False,
            )
    scene = {"aspectmode": "data", "xaxis_title": "Å", "yaxis_title": "", "zaxis_title": ""}
    return figure.update_layout(title=title, scene=scene, height=480)


def _flat(
    one: Float[np.ndarray, "3"], other: Float[np.ndarray, "3"]
) -> Float[np.ndarray, "2 2"]:
    """Two edges (Å) in their own plane, the first along x."""
    long = np.linalg.norm(one)
    along = float(other @ one / long)
    return np.array([[long, 0], [along, np.sqrt(float(other @ other) - along**2)]])


def _box(rows: Float[np.ndarray, "n n"], points: int) -> tuple[Values, ...]:
    """Coordinates (Å) of an upright grid about a cell, and whether each is in the cell."""
    corners = np.array(list(product((0, 1), repeat=len(rows)))) @ rows
    sides = np.linspace(corners.min(0), corners.max(0), points).T
    places = np.stack(np.meshgrid(*sides, indexing="ij"), -1).reshape(-1, len(rows))
    frac = places @ np.linalg.inv(rows)
    inside = ((frac > -EDGE) & (frac < 1 + EDGE)).all(1)
    return *places.T, inside.astype(float)


def _values(density: DensityGrid, frac: Float[np.ndarray, "places 3"]) -> Values:
    """Density between the points of its grid, linear."""
    index = (frac * density.values.shape).T
    return map_coordinates(density.values, index, order=1, mode="grid-wrap")
