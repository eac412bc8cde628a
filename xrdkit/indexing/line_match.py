"""A lattice held against observed lines: which are indexed, refinement, merit."""

from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Bool, Float, Int

from xrdkit.indexing.bravais import parameters, primitive, standard, superlattices
from xrdkit.indexing.search import (
    COLUMNS,
    LONGEST,
    ZERO,
    Lines,
    allowed,
    quadratic_forms,
    reciprocal_metric,
)
from xrdkit.peaks import find_peaks
from xrdkit.scattering import hkl_within
from xrdkit.types import Pattern

Rows = Float[np.ndarray, "3 3"]
Angles = Float[np.ndarray, " lines"]
Hkl = Int[np.ndarray, "lines 3"]
ERROR, WIDTH_SHARE = 0.015, 0.08  # ° and share of the FWHM: error of a line's position
INDEXED = 3.0  # errors between a line and the calculated one
MEAN_ERROR = 1e-4  # °, the least in a figure of merit
DERIVATIVES = (2, 3, 4)  # indices of sub- and superlattices with the same lines


@dataclass(frozen=True)
class Setting:
    """A lattice: Bravais symbol, conventional rows (Å), zero error (°), figure of merit."""

    bravais: str
    lattice: Rows
    zero: float = 0.0
    figure: float = 0.0

    @property
    def primitive(self) -> Rows:
        """Rows of a primitive cell."""
        return primitive(self.lattice, self.bravais[1])

    @property
    def volume(self) -> float:
        """Of the primitive cell, Å³."""
        return abs(float(np.linalg.det(self.primitive)))


def observed_lines(pattern: Pattern) -> Lines:
    """The lines of a prepared pattern as indexing wants them.

    Weak lines are more likely another phase's: 33 % near the noise, 3 % of strong ones.
    """
    peaks = find_peaks(pattern)
    angle, height, width = (
        torch.tensor(values, dtype=torch.float32)
        for values in (peaks.two_theta, peaks.height, peaks.fwhm)
    )
    wavelength = pattern.radiation.main
    return Lines(
        (2 * torch.sin(torch.deg2rad(angle / 2)) / wavelength) ** 2,
        2 * torch.sin(torch.deg2rad(angle)) / wavelength**2 * (torch.pi / 180),
        ERROR + WIDTH_SHARE * width,
        0.03 + 0.3 * torch.exp(-height / (0.03 * height.max())) if len(height) else height,
    )


def reflections_of(setting: Setting, q_max: float) -> tuple[Hkl, Angles]:
    """Reflections up to Q = 1/d² (Å⁻²) that the centring leaves, and Q, ascending."""
    hkl = hkl_within(torch.tensor(setting.lattice), 2 * np.pi * float(np.sqrt(q_max)))
    hkl = hkl[allowed(hkl.double(), setting.bravais[1])].numpy()
    q = ((hkl @ np.linalg.inv(setting.lattice).T) ** 2).sum(1)
    order = np.lexsort((*-hkl.T[::-1], np.round(q, 7)))
    return hkl[order], q[order]


def calculated(setting: Setting, q_max: float) -> tuple[Angles, Hkl]:
    """Different Q = 1/d² (Å⁻²) up to a largest, ascending, and one hkl of each."""
    hkl, q = reflections_of(setting, q_max)
    first = np.append(True, np.diff(np.round(q, 7)) > 0)[: len(q)]
    return q[first], hkl[first]


def match(setting: Setting, lines: Lines) -> tuple[Angles, Hkl, Bool[np.ndarray, " lines"]]:
    """Observed minus calculated 2θ (°), hkl of the nearest line, and whether it is near."""
    observed = (lines.q - lines.slope * setting.zero).double().numpy()
    q, hkl = calculated(setting, float(observed[-1]) * 1.05)
    if not len(q):
        none = np.zeros(len(lines), bool)
        return np.full(len(lines), np.inf), np.zeros((len(lines), 3), int), none
    near = np.abs(observed[:, None] - q).argmin(1)
    misfit = (observed - q[near]) / lines.slope.double().numpy()
    return misfit, hkl[near], np.abs(misfit) < INDEXED * lines.sigma.double().numpy()


def merit(setting: Setting, lines: Lines) -> tuple[float, float]:
    """M20 and F_N over the indexed lines.

    M20 = Q20 / (2 <|ΔQ|> N20), de Wolff, J. Appl. Cryst. 1, 108 (1968), over the first
    twenty or all, N20 different calculated lines up to there; F_N = N / (<|Δ2θ|> N_poss),
    Smith and Snyder, J. Appl. Cryst. 12, 60 (1979).
    """
    misfit, _, hit = match(setting, lines)
    if not hit.any():
        return 0.0, 0.0
    q, slope = lines.q.double().numpy()[hit], lines.slope.double().numpy()[hit]
    possible, _ = calculated(setting, q[-1] * 1.001)
    error = np.maximum(np.abs(misfit[hit]), MEAN_ERROR)
    last = q[:20][-1]
    count = max(int((possible < last * 1.001).sum()), 1)
    m20 = last / (2 * (error * slope)[:20].mean() * count)
    return float(m20), float(len(q) / (error.mean() * max(len(possible), 1)))


def refined(setting: Setting, lines: Lines) -> tuple[Setting, tuple[float, ...]]:
    """Cell and zero by least squares on the indexed lines; uncertainties of the cell.

    Uncertainties are scaled by the misfit, and nan where there are too few lines.
    """
    unknown = (float("nan"),) * 6
    for _ in range(3):
        _, hkl, hit = match(setting, lines)
        if hit.sum() <= len(COLUMNS[setting.bravais[0]]):
            return setting, unknown
        design, right = _equations(hkl, hit, setting.bravais[0], lines)
        lengths = np.linalg.norm(design, axis=0)
        if np.linalg.matrix_rank(design / lengths.clip(1e-9)) < len(lengths):
            return setting, unknown
        values = np.linalg.lstsq(design, right, rcond=None)[0]
        metric = _metric(values[:-1], setting.bravais[0])
        if np.linalg.eigvalsh(metric)[0] <= LONGEST**-2:
            return setting, unknown  # the lines do not fix every axis
        rows = np.linalg.cholesky(np.linalg.inv(metric))
        setting = replace(setting, lattice=rows, zero=float(values[-1]))
    spread = ((right - design @ values) ** 2).sum() / max(hit.sum() - len(values), 1)
    covariance = np.linalg.inv(design.T @ design)[:-1, :-1] * spread
    return setting, _uncertainties(values[:-1], covariance, setting.bravais[0])


def _equations(
    hkl: Hkl, hit: Bool[np.ndarray, " lines"], system: str, lines: Lines
) -> tuple[Float[np.ndarray, "equations parameters"], Float[np.ndarray, " equations"]]:
    """Weighted equations for metric and zero; the last one holds the zero near none."""
    forms = quadratic_forms(torch.tensor(hkl[hit]).double(), system).numpy()
    q, slope, sigma = (
        part.double().numpy()[hit] for part in (lines.q, lines.slope, lines.sigma)
    )
    rows = np.column_stack([forms, slope]) / (slope * sigma)[:, None]
    last = np.append(np.zeros(forms.shape[1]), 1 / ZERO)
    return np.vstack([rows, last]), np.append(q / (slope * sigma), 0)


def _metric(values: Float[np.ndarray, " parameters"], system: str) -> Rows:
    return reciprocal_metric(torch.tensor(values[None]), system)[0].numpy()


def _uncertainties(
    values: Float[np.ndarray, " parameters"],
    covariance: Float[np.ndarray, "parameters parameters"],
    system: str,
) -> tuple[float, ...]:
    """Standard uncertainties of a, b, c, α, β, γ, by differences along each parameter."""

    def cell(shifted: np.ndarray) -> np.ndarray:
        return np.array(
            parameters(np.linalg.cholesky(np.linalg.inv(_metric(shifted, system))))
        )

    step = 1e-5 * float(np.abs(values).max())
    shifts = step * np.eye(len(values))
    slopes = np.array([(cell(values + s) - cell(values - s)) / (2 * step) for s in shifts])
    variance = ((covariance @ slopes) * slopes).sum(0)
    return tuple(map(float, np.sqrt(variance.clip(0))))


def dominant_zones(hkl: Hkl) -> tuple[str, ...]:
    """Axes that at most two of the first twenty indexed lines fix."""
    first, found = hkl[:20], []
    for column, (axis, letter) in enumerate(zip("abc", "hkl", strict=True)):
        fixing = int((first[:, column] != 0).sum())
        if len(first) >= 10 and fixing <= 2:
            found.append(f"dominant zone: {fixing} lines with {letter} ≠ 0 fix {axis}")
    return tuple(found)


def ambiguities(setting: Setting, q_max: float) -> tuple[Setting, ...]:
    """Other lattices with the very same line positions up to Q = 1/d² (Å⁻²).

    Mighell and Santoro, J. Appl. Cryst. 8, 372 (1975): they are derivative lattices, here
    all sub- and superlattices of index 2 to 4, of orthorhombic symmetry or higher.
    """
    own, _ = calculated(setting, q_max)
    found: dict[tuple, Setting] = {}
    for rows in _derivatives(setting.primitive):
        symbol, lattice = standard(rows)
        other = Setting(symbol, lattice)
        key = (symbol, *np.round(parameters(lattice), 3))
        if symbol[0] in "am" or key in found:
            continue
        lines, _ = calculated(other, q_max)
        if len(lines) == len(own) and np.abs(lines - own).max() < 1e-5:
            found[key] = other
    return tuple(found.values())


def _derivatives(rows: Rows) -> list[Rows]:
    """Primitive rows of sub- and superlattices."""
    cells = [cell for index in DERIVATIVES for cell in superlattices(index)]
    return [cell @ rows for cell in cells] + [
        np.linalg.inv(cell.T) @ rows for cell in cells
    ]
