"""Densities as figures: a section through the cell, and surfaces of one value."""

from itertools import product

import numpy as np
import plotly.graph_objects as go
from jaxtyping import Float

from xrdkit.density import DensityGrid

AXES = "abc"
POSITIVE, NEGATIVE = "#0072B2", "#D55E00"
ACROSS = 40  # points along each side of the box in which surfaces are sought
Values = Float[np.ndarray, " places"]


def plot_section(
    density: DensityGrid, axis: str = "c", place: float = 0.0, *, title: str = ""
) -> go.Figure:
    """Contours of the plane at a fractional ``place`` along an axis, in true shape (Å)."""
    normal = _axis(axis)
    size = density.values.shape[normal]
    plane = np.take(density.values, round(place * size) % size, normal)
    i, j = (k for k in range(3) if k != normal)
    u, v = (np.arange(n + 1) / n for n in plane.shape)
    closed = np.pad(plane, (0, 1), mode="wrap")
    x, y = _in_plane(density.lattice[i], density.lattice[j], u, v)
    top = float(np.abs(closed).max())
    colours = {"colorscale": "RdBu_r", "cmin": -top, "cmax": top, "showscale": True}
    colours |= {"colorbar": {"title": "e/Å³"}, "size": 5, "symbol": "square"}
    marker = {**colours, "color": closed.ravel()}
    figure = go.Figure(
        go.Scattergl(
            x=x.ravel(), y=y.ravel(), mode="markers", marker=marker,
            customdata=closed.ravel(), hovertemplate="%{customdata:.3f} e/Å³<extra></extra>",
        )
    )  # fmt: skip
    figure.update_yaxes(scaleanchor="x", title=f"{AXES[j]} (Å)")
    figure.update_xaxes(title=f"{AXES[i]} (Å)")
    return figure.update_layout(
        title=title or f"section at {place:g} along {axis}", template="none", height=420
    )


def plot_isosurface(density: DensityGrid, level: float, *, title: str = "") -> go.Figure:
    """Surfaces at ``level`` (e/Å³) and, where it is reached, at the same below zero."""
    if not 0 < level < float(np.abs(density.values).max()):
        top = float(np.abs(density.values).max())
        raise ValueError(
            f"a level of {level:g} e/Å³ is not within 0–{top:.3g} e/Å³, the highest of this "
            "density; give one between"
        )
    x, y, z, values = _in_box(density)
    figure = go.Figure()
    for sign, colour in ((1, POSITIVE), (-1, NEGATIVE)):
        if (sign * values).max() > level:
            figure.add_isosurface(
                x=x, y=y, z=z, value=sign * values, isomin=level, isomax=level,
                surface_count=1, colorscale=[[0, colour], [1, colour]], showscale=False,
                caps={"x_show": False, "y_show": False, "z_show": False},
            )  # fmt: skip
    scene = {"aspectmode": "data", "xaxis_title": "Å", "yaxis_title": "", "zaxis_title": ""}
    return figure.update_layout(title=title, scene=scene, height=480)


def _in_box(density: DensityGrid) -> tuple[Values, Values, Values, Values]:
    """x, y, z (Å) of an upright grid about the cell, and the density there, 0 outside."""
    from scipy.ndimage import map_coordinates

    corners = np.array(list(product((0, 1), repeat=3))) @ density.lattice
    sides = np.linspace(corners.min(0), corners.max(0), ACROSS).T
    places = np.stack(np.meshgrid(*sides, indexing="ij"), -1).reshape(-1, 3)
    frac = places @ np.linalg.inv(density.lattice)
    index = (frac * density.values.shape).T
    values = map_coordinates(density.values, index, order=1, mode="grid-wrap")
    inside = ((frac > -1e-6) & (frac < 1 + 1e-6)).all(1)
    return *places.T, np.where(inside, values, 0.0)


def _axis(axis: str) -> int:
    if axis not in tuple(AXES):
        raise ValueError(f"axis {axis!r} is none of a, b, c; give one")
    return AXES.index(axis)


def _in_plane(
    one: Float[np.ndarray, "3"],
    other: Float[np.ndarray, "3"],
    u: Float[np.ndarray, " m"],
    v: Float[np.ndarray, " n"],
) -> tuple[Float[np.ndarray, "m n"], Float[np.ndarray, "m n"]]:
    """Places u, v along two edges (Å) in the plane of both, the first along x."""
    long = np.linalg.norm(one)
    along = float(other @ one / long)
    height = np.sqrt(max(float(other @ other) - along**2, 0))
    return u[:, None] * long + v * along, np.repeat(v[None] * height, len(u), 0)
