"""|F|² of symmetry-unique reflections with derivatives by every atomic parameter."""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Complex, Float, Int

from xrdkit.refine.rietveld.asymmetric import AsymmetricUnit
from xrdkit.scattering import dispersion, form_factors

BLOCK = 2**21  # phases (reflections × operations × sites) worked on at once
Amplitude = Complex[np.ndarray, "sites reflections"]
Square = Float[np.ndarray, " reflections"]


@dataclass(frozen=True)
class Scatterers:
    """What stays the same of a phase's atoms while a stage is refined.

    ``real`` is f0 + f', ``imaginary`` f" (electrons); ``turned`` are the images hR of every
    reflection and ``shifts`` the phases 2π h·t of the operations.
    """

    s2: Square
    real: Float[np.ndarray, "sites reflections"]
    imaginary: Float[np.ndarray, " sites"]
    weight: Float[np.ndarray, " sites"]  # multiplicity / number of operations
    turned: Float[np.ndarray, "operations reflections 3"]
    shifts: Float[np.ndarray, "operations reflections"]


def scatterers(
    unit: AsymmetricUnit,
    hkl: Int[np.ndarray, "reflections 3"],
    inverse_d2: Square,
    wavelength: float,
) -> Scatterers:
    """Form factors and images of reflections, for F at a wavelength in Å."""
    numbers = torch.tensor([site.number for site in unit.sites])
    s2 = inverse_d2 / 4
    extra = dispersion(numbers, wavelength).numpy()
    f0 = form_factors(numbers, torch.from_numpy(s2)).numpy()
    count = len(unit.rotations)
    return Scatterers(
        s2,
        f0 + extra.real[:, None],
        extra.imag,
        np.array([site.multiplicity for site in unit.sites]) / count,
        np.einsum("ri,gij->grj", hkl, unit.rotations).astype(float),
        2 * np.pi * np.einsum("ri,gi->gr", hkl, unit.translations),
    )


def squares(
    atoms: Scatterers,
    frac: Float[np.ndarray, "sites 3"],
    u_iso: Float[np.ndarray, " sites"],
    occupancy: Float[np.ndarray, " sites"],
    derivatives: bool = True,
) -> tuple[Square, Float[np.ndarray, "sites 5 reflections"] | None]:
    """Mean |F|² over Friedel mates (electrons²), and ∂/∂(x, y, z, U, occupancy) by site.

    F(h) = A + iB and F(-h) = A* + iB*, where B holds f", so that the mean is |A|² + |B|².
    """
    damping = np.exp(-8 * np.pi**2 * u_iso[:, None] * atoms.s2)
    share = damping * atoms.weight[:, None]
    sums, slopes = _geometry(atoms, frac, derivatives)
    unit_a, unit_b = share * atoms.real, share * atoms.imaginary[:, None]
    full = occupancy[:, None]
    a = (full * unit_a * sums).sum(0)
    b = (full * unit_b * sums).sum(0)
    square = np.abs(a) ** 2 + np.abs(b) ** 2
    if slopes is None:
        return square, None
    toward = 2 * (np.conj(a) * unit_a + np.conj(b) * unit_b)
    by_occupancy = (toward * sums).real
    by_u = -8 * np.pi**2 * atoms.s2 * full * by_occupancy
    by_place = full[:, None] * (toward[:, None] * slopes).real
    parts = [by_place, by_u[:, None], by_occupancy[:, None]]
    return square, np.concatenate(parts, 1)


def _geometry(
    atoms: Scatterers, frac: Float[np.ndarray, "sites 3"], derivatives: bool
) -> tuple[Amplitude, Complex[np.ndarray, "sites 3 reflections"] | None]:
    """Σ exp(2πi (hRx + ht)) over operations for each site, and its derivatives by x."""
    operations, reflections, _ = atoms.turned.shape
    sites = len(frac)
    sums = np.zeros((sites, reflections), complex)
    slopes = np.zeros((sites, 3, reflections), complex) if derivatives else None
    step = max(1, BLOCK // max(operations * sites, 1))
    for start in range(0, reflections, step):
        part = slice(start, start + step)
        turned = atoms.turned[:, part]
        angle = 2 * np.pi * (turned @ frac.T) + atoms.shifts[:, part, None]
        wave = np.exp(1j * angle)  # (operations, reflections, sites)
        sums[:, part] = wave.sum(0).T
        if slopes is not None:
            found = np.einsum("grj,grs->sjr", turned, wave, optimize=True)
            slopes[:, :, part] = 2j * np.pi * found
    return sums, slopes
