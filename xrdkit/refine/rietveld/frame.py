"""What stays as it is while a stage is refined: points, lines, and where they stand.

Lorentz–polarisation, form factors, widths' angles and cell volume are those of the cell at
the stage's start: a frame is made anew for every stage, so that at the end they are exact.
"""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int

from xrdkit.refine.rietveld.asymmetric import AsymmetricUnit
from xrdkit.refine.rietveld.data import Data
from xrdkit.refine.rietveld.metric import CELL, inverse_d_squared, lattice_rows, volume
from xrdkit.refine.rietveld.start import prefix_of
from xrdkit.refine.rietveld.structure_factors import Scatterers, scatterers
from xrdkit.refine.rietveld.table import Parameters
from xrdkit.scattering import lorentz_polarisation, slit_factor, unique_reflections

MARGIN = 1.0  # ° beside the range within which lines are kept
MOST = 40_000  # reflections of one phase
Lines = Float[np.ndarray, " lines"]
SITE = ("x", "y", "z", "u", "occupancy")
Places = Int[np.ndarray, "..."]


@dataclass(frozen=True)
class PhaseFrame:
    """Lines of a phase (reflection by wavelength), and the rows of its parameters."""

    unit: AsymmetricUnit
    prefix: str
    hkl: Int[np.ndarray, "reflections 3"]
    multiplicity: Int[np.ndarray, " reflections"]
    reflection: Int[np.ndarray, " lines"]
    wavelength: Lines
    bragg: Lines  # 2θ in °
    factor: Lines  # weight · multiplicity · LP · slits / V²
    polarised: Lines  # K + (1 - K) cos²2θ, which is in the factor
    alignment: Float[np.ndarray, "operations reflections"] | None  # cos² to texture axis
    atoms: Scatterers | None
    cell: Places
    sites: Int[np.ndarray, "sites 5"]  # rows of x, y, z, u, occupancy
    scale: int
    intensities: Places  # rows by reflection, -1 where one of the same angle has it


@dataclass(frozen=True)
class Frame:
    """Data, background polynomials and phases of a stage."""

    data: Data
    chebyshev: Float[np.ndarray, "points terms"]
    phases: tuple[PhaseFrame, ...]


def make_frame(data: Data, table: Parameters) -> Frame:
    """The frame of a table's cells and background terms."""
    terms = sum(name.startswith("background:") for name in table.names)
    x = data.two_theta
    place = 2 * (x - x[0]) / max(x[-1] - x[0], 1e-9) - 1
    phases = tuple(_phase(data, table, i) for i in range(len(table.units)))
    return Frame(data, np.polynomial.chebyshev.chebvander(place, max(terms, 1) - 1), phases)


def limits(data: Data) -> tuple[float, float]:
    """Between which angles 2θ (°) lines are kept: those of the data and a margin."""
    low, high = float(data.two_theta[0]), float(data.two_theta[-1])
    return max(low - MARGIN, 0.0), min(high + MARGIN, 179.5)


def unit_reflections(
    unit: AsymmetricUnit, cell: Float[np.ndarray, "6"], data: Data
) -> tuple[Int[np.ndarray, "reflections 3"], Int[np.ndarray, " reflections"]]:
    """Reflections that are not absent and may touch the data, and multiplicities."""
    low, high = limits(data)
    lengths = data.radiation.wavelengths
    q_max = 4 * np.pi * np.sin(np.radians(high / 2)) / min(lengths)
    if q_max**3 * volume(cell) / (12 * np.pi**2) > MOST * 2 * len(unit.rotations):
        raise ValueError(
            f"a cell of {volume(cell):.0f} Å³ has more than {MOST:,} reflections in this "
            "range; cut the pattern at a lower angle"
        )
    hkl, counts = (
        t.numpy()
        for t in unique_reflections(
            torch.from_numpy(lattice_rows(cell)), torch.from_numpy(unit.rotations), q_max
        )
    )
    keep = ~absent(hkl, unit)
    q = np.sqrt(inverse_d_squared(hkl, cell)[0])
    keep &= q > 2 * np.sin(np.radians(low / 2)) / max(lengths)
    order = np.argsort(q[keep], kind="stable")
    return hkl[keep][order], counts[keep][order]


def absent(
    hkl: Int[np.ndarray, "reflections 3"], unit: AsymmetricUnit
) -> Bool[np.ndarray, " reflections"]:
    """Systematic absences: some operation has hR = h and h·t no whole number."""
    turned = np.einsum("ri,gij->grj", hkl, unit.rotations)
    same = (turned == hkl).all(-1)
    phase = np.einsum("ri,gi->gr", hkl, unit.translations)
    return (same & (np.abs(phase - np.rint(phase)) > 1e-3)).any(0)


def _phase(data: Data, table: Parameters, i: int) -> PhaseFrame:
    """Lines of a phase and their factors, at the table's cell."""
    unit, prefix = table.units[i], prefix_of(table.units, i)
    place = table.place
    cell_rows = np.array([place(prefix + name) for name in CELL])
    cell = np.array([table.rows[k].value for k in cell_rows])
    hkl, multiplicity = unit_reflections(unit, cell, data)
    q = inverse_d_squared(hkl, cell)[0]
    beam = data.radiation
    lengths = np.tile(beam.wavelengths, (len(q), 1))
    sine = lengths * np.sqrt(q)[:, None] / 2
    high = limits(data)[1]
    reflection, beam_of = np.nonzero(sine < np.sin(np.radians(high / 2)))
    wavelength, sine = lengths[reflection, beam_of], sine[reflection, beam_of]
    bragg = 2 * np.degrees(np.arcsin(sine))
    factor = _factor(data, sine, bragg) * np.array(beam.weights)[beam_of]
    factor = factor * multiplicity[reflection] / volume(cell) ** 2
    polarised = polarisation_factor(beam.polarisation, bragg)
    atoms = None
    sites = np.zeros((0, 5), int)
    if unit.sites:
        atoms = scatterers(unit, hkl, q, beam.main)
        names = [[f"{prefix}{k}:{s.label}" for k in SITE] for s in unit.sites]
        sites = np.array([[place(name) for name in row] for row in names])
    wanted = hkl[:0] if unit.sites else hkl
    named = [intensity_name(index) for index in wanted]
    intensities = np.array([place(n) if n in table else -1 for n in named], int)
    texture = table.texture if i == 0 else None
    alignment = None if texture is None else _alignment(unit, hkl, cell, texture)
    return PhaseFrame(
        unit, prefix, hkl, multiplicity, reflection, wavelength, bragg, factor, polarised,
        alignment, atoms, cell_rows, sites, place(f"{prefix}scale"), intensities,
    )  # fmt: skip


def intensity_name(hkl: Int[np.ndarray, "3"]) -> str:
    """The name of the intensity of a reflection in a Pawley fit."""
    return f"intensity:{','.join(str(int(index)) for index in hkl)}"


def polarisation_factor(k: float, bragg: Lines) -> Lines:
    """K + (1 - K) cos²2θ at 2θ (°)."""
    return k + (1 - k) * np.cos(np.radians(bragg)) ** 2


def _factor(data: Data, sine: Lines, bragg: Lines) -> Lines:
    """Lorentz–polarisation and slits."""
    instrument = data.instrument
    lp = lorentz_polarisation(torch.from_numpy(bragg), data.radiation.polarisation)
    slits = slit_factor(torch.from_numpy(sine), instrument.slits, instrument.overflow)
    return (lp * slits).numpy()


def _alignment(
    unit: AsymmetricUnit,
    hkl: Int[np.ndarray, "reflections 3"],
    cell: Float[np.ndarray, "6"],
    axis: tuple[int, int, int],
) -> Float[np.ndarray, "operations reflections"]:
    """cos² of the angle between equivalents of hkl and the texture axis (hkl)."""
    reciprocal = np.linalg.inv(lattice_rows(cell)).T
    turned = np.einsum("ri,gij->grj", hkl, unit.rotations) @ reciprocal
    along = np.array(axis) @ reciprocal
    cosine = turned @ along / np.linalg.norm(turned, axis=-1) / np.linalg.norm(along)
    return np.clip(cosine**2, 0, 1)
