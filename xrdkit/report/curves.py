"""Curves of fits for drawing: on the scale of the measurement, thinned, with line marks."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from jaxtyping import Bool, Float
from scipy.interpolate import PchipInterpolator

from xrdkit.pattern import background
from xrdkit.scattering import Reflections
from xrdkit.simulate import line_positions
from xrdkit.types import Fit, Pattern

POINTS = 3000  # drawn at most
MARKS = 800  # lines are told apart down to this share of the range
GAP = 5  # median steps of a scan; a longer one is a gap
Curve = Float[np.ndarray, " points"]
Line = tuple[float, tuple[int, int, int]]  # 2θ in ° and hkl


@dataclass(frozen=True)
class Curves:
    """Observed and calculated intensity of several fits over the same 2θ (°)."""

    two_theta: Curve
    observed: Curve
    calculated: tuple[Curve, ...]
    unit: str
    background: Curve | None = None


def curves_of(fits: Sequence[Fit], pattern: Pattern | None = None) -> Curves:
    """Fits on one scale: that of the measurement where it is known, else as prepared.

    It is known from the ``pattern`` as measured, or where the first fit is a refinement of
    it, whose background is drawn too.
    """
    first, smooth = fits[0], None
    x, observed, base = first.two_theta, first.observed, np.zeros_like(first.observed)
    unit = "intensity without background, maximum 1"
    if first.table is not None:
        base = smooth = smooth_background(first)
        unit = "counts" if counted(first) else "intensity as measured"
    elif pattern is not None and not pattern.prepared:
        inside = pattern.two_theta >= first.two_theta[0]
        inside &= pattern.two_theta <= first.two_theta[-1]
        x, observed = pattern.two_theta[inside], pattern.intensity[inside]
        base = background(pattern)[inside]
        unit = "counts" if pattern.sigma_source == "counts" else "intensity as measured"
    calculated = tuple(_on_scale(fit, x, observed, base) for fit in fits)
    keep = thinned(observed, calculated[0])
    smooth = None if smooth is None else smooth[keep]
    return Curves(x[keep], observed[keep], tuple(c[keep] for c in calculated), unit, smooth)


def _on_scale(fit: Fit, x: Curve, observed: Curve, base: Curve) -> Curve:
    """The calculated curve of a fit at 2θ = x, on the scale of the observed one."""
    if fit.table is not None:
        return np.interp(x, fit.two_theta, fit.calculated)
    net = np.interp(fit.two_theta, x, observed - base)
    factor = float(net @ fit.observed / (fit.observed @ fit.observed))
    return base + factor * PchipInterpolator(fit.two_theta, fit.calculated)(x)


def counted(fit: Fit) -> bool:
    """Whether the data of a refinement are counts whose variance is their number."""
    if fit.sigma is None:
        return False
    y, seen = fit.observed, fit.sigma > 0
    whole = (y == np.round(y)).all()
    return bool(whole and np.allclose(fit.sigma[seen] ** 2, np.maximum(y[seen], 1)))


def smooth_background(fit: Fit) -> Curve:
    """The background of a refinement without its phases.

    In a Fit of the built-in engine it includes all phases but the first.
    """
    terms = [r.value for r in fit.table.rows if r.name.startswith("background:")]
    if len(fit.table.units) == 1 or fit.engine == "gsas2" or not terms:
        return fit.background
    x = fit.two_theta
    place = 2 * (x - x[0]) / (x[-1] - x[0]) - 1
    return np.polynomial.chebyshev.chebval(place, np.array(terms))


def gaps(two_theta: Curve) -> list[tuple[float, float]]:
    """Stretches of 2θ (°) without points."""
    step = np.diff(two_theta)
    places = np.flatnonzero(step > GAP * np.median(step))
    return [(float(two_theta[i]), float(two_theta[i + 1])) for i in places]


def thinned(*curves: Curve, points: int = POINTS) -> Bool[np.ndarray, " points"]:
    """Which points to draw: of equal stretches, highest and lowest of every curve."""
    n = len(curves[0])
    keep = np.full(n, n <= points)
    if n <= points:
        return keep
    edges = np.linspace(0, n, points // (2 * len(curves)) + 1).astype(int)
    for curve in curves:
        for start, stop in pairwise(edges):
            part = curve[start:stop]
            keep[[start + part.argmax(), start + part.argmin()]] = True
    keep[[0, -1]] = True
    return keep


def lines_of(cell: Sequence[float | int], symbol: str, seen: Fit | Pattern) -> list[Line]:
    """Lines that a cell (Å, °) and space group allow within a fit or pattern.

    Zero and displacement are included. Of lines that cannot be told apart on a page the
    first is kept.
    """
    import gemmi

    low, high = float(seen.two_theta[0]), float(seen.two_theta[-1])
    sine = np.sin(np.radians(min(high + 0.5, 179.0) / 2))
    unit = gemmi.UnitCell(*cell)
    d_min = seen.radiation.main / (2 * float(sine))
    hkl = gemmi.make_miller_array(unit, gemmi.SpaceGroup(symbol), d_min)
    lattice = torch.tensor(np.array(unit.orth.mat.tolist()).T)[None]
    index = torch.as_tensor(np.array(hkl), dtype=torch.long)[None]
    found = Reflections(index, torch.ones_like(index[..., 0]))
    angles = line_positions(lattice, found, seen.radiation, seen.instrument)[0, 0].numpy()
    order = np.argsort(angles, kind="stable")
    order = order[(angles[order] >= low) & (angles[order] <= high)]
    rank = (angles[order] / ((high - low) / MARKS)).round().astype(int)
    kept = order[np.unique(rank, return_index=True)[1]]
    return [(float(angles[i]), tuple(int(v) for v in hkl[i])) for i in kept]
