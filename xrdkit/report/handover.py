"""What the inputs of Rietveld programs share: data, background, scales, what may move."""

import os
from dataclasses import dataclass
from fractions import Fraction
from hashlib import sha256
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from scipy.optimize import nnls

from xrdkit.files import write_text
from xrdkit.pattern import background, noise
from xrdkit.report.cif_words import data_name
from xrdkit.report.setting import Setting, Site, position_constants
from xrdkit.scattering import slit_factor
from xrdkit.simulate import pattern_of
from xrdkit.types import Fit, Pattern

CELL_PARAMETERS = {  # which of a, b, c, α, β, γ are one parameter; 0: given by symmetry
    "triclinic": (1, 2, 3, 4, 5, 6),
    "monoclinic": (1, 2, 3, 0, 4, 0),
    "orthorhombic": (1, 2, 3, 0, 0, 0),
    "tetragonal": (1, 1, 2, 0, 0, 0),
    "trigonal": (1, 1, 2, 0, 0, 0),
    "hexagonal": (1, 1, 2, 0, 0, 0),
    "cubic": (1, 1, 1, 0, 0, 0),
}
Curve = Float[np.ndarray, " points"]
LEAST_SINE = 1e-3  # of θ; nothing is measured below


@dataclass(frozen=True)
class Coordinate:
    """One coordinate as ``factor`` × the free coordinate of ``axis`` + ``constant``.

    ``axis`` (0, 1, 2: x, y, z) is None where the coordinate is fixed.
    """

    constant: float
    axis: int | None = None
    factor: float = 0.0


def input_name(name: str, program: str) -> str:
    """Name of a program's files, NAME_PROGRAM, of letters that every program takes.

    Six figures of its hash keep a name apart that had to be changed.
    """
    plain = data_name(name)
    if plain != name:
        plain += f"_{sha256(os.fsencode(name)).hexdigest()[:6]}"
    return f"{plain}_{program}"


def coordinates(site: Site, fixed: tuple[int, ...] = ()) -> tuple[Coordinate, ...]:
    """How x, y and z of a site depend on each other; axes ``fixed`` do not move."""
    axes = (site.free != 0).argmax(1)
    kept = site.free[[axis not in fixed for axis in axes]]
    axes = (kept != 0).argmax(1)
    constants = position_constants(site.frac, kept)
    found = []
    for constant, column in zip(constants.tolist(), kept.T, strict=True):
        rows = np.flatnonzero(column)
        if len(rows) > 1:
            raise ValueError(
                f"site {site.label} has a coordinate that depends on two others; "
                "write the structure as CIF instead"
            )
        tied = [(int(axes[row]), float(column[row])) for row in rows]
        found.append(Coordinate(constant, *(tied[0] if tied else ())))
    return tuple(found)


def origin_axes(setting: Setting) -> tuple[int, tuple[int, ...]]:
    """The place that scatters most, and its axes that fix the origin of a polar group."""
    from pymatgen.core import Element

    weight: dict[int, float] = {}
    for site in setting.sites:
        strength = Element(site.element).Z * site.occupancy
        weight[site.place] = weight.get(site.place, 0) + strength
    heaviest = max(weight, key=lambda place: weight[place])
    return heaviest, tuple((setting.polar != 0).argmax(1).tolist())


def fraction(value: float) -> Fraction | None:
    """The value as a fraction of 24, as special positions have; None if it is none."""
    near = Fraction(round(24 * value), 24)
    return near if abs(value - near) < 1e-6 else None


def base_of(pattern: Pattern) -> Curve:
    """Background in the units of the pattern's intensity; zero where it is prepared."""
    return np.zeros(len(pattern)) if pattern.prepared else background(pattern)


def scales(fit: Fit, pattern: Pattern) -> list[float]:
    """Scale of m |F|² LP / V² of every phase against the pattern, per degree of 2θ."""
    grid = torch.as_tensor(pattern.two_theta)
    curves = [
        pattern_of(
            phase.crystal,
            fit.radiation,
            two_theta=grid,
            instrument=fit.instrument,
            normalise=False,
        ).intensity
        for phase in fit.phases
    ]
    net = pattern.intensity - base_of(pattern)
    top = max(float(curve.max()) for curve in curves)
    found, _ = nnls(np.column_stack(curves) / top, net)
    return (found / top).tolist()


def excluded(pattern: Pattern) -> list[tuple[float, float]]:
    """Ranges of 2θ (°) between those that were measured."""
    pairs = zip(pattern.ranges, pattern.ranges[1:], strict=False)
    return [(before[1], after[0]) for before, after in pairs]


def without_slits(fit: Fit, pattern: Pattern) -> Curve:
    """Factor that makes intensities those of fixed slits and a sample wider than the beam.

    It takes off what automatic slits, or a beam wider than the sample, do (slit_factor).
    """
    sine = np.sin(np.radians(pattern.two_theta / 2)).clip(min=LEAST_SINE)
    now = fit.instrument
    return 1 / slit_factor(torch.as_tensor(sine), now.slits, now.overflow).numpy()


def write_data(pattern: Pattern, path: Path, factor: Curve) -> Path:
    """Columns 2θ (°), intensity and e.s.d., both times a factor, without a header."""
    sigma = np.maximum(noise(pattern), 1e-9)
    table = [pattern.two_theta, pattern.intensity * factor, sigma * factor]
    rows = (f"{x:.6f} {y:.6g} {s:.6g}\n" for x, y, s in np.column_stack(table).tolist())
    return write_text(path, "".join(rows))


def biso(site: Site) -> float:
    """B in Å²: 8π² U."""
    return float(8 * np.pi**2 * site.u_iso)
