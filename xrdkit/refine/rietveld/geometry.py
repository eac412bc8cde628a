"""Distances and angles with their derivatives, bonds with e.s.d.s, bond-valence sums."""

from dataclasses import dataclass
from functools import cache
from itertools import combinations

import numpy as np
from jaxtyping import Float, Int

from xrdkit.refine.rietveld.asymmetric import AsymmetricUnit
from xrdkit.refine.rietveld.metric import CELL, lattice_rows, metric, metric_derivatives
from xrdkit.refine.rietveld.start import prefix_of
from xrdkit.refine.rietveld.table import Parameters
from xrdkit.types import Fit

Values = Float[np.ndarray, " rows"]
NOTHING, ANYTHING = 1e-9, 1e3  # e.s.d.s below and above these shares of a value are none
SHORT = 0.72  # of the sum of covalent radii: atoms closer than that are too close
BONDED = 1.25  # of the sum of covalent radii: longest distance that counts as a bond
SAME = 1e-3  # fractional; vectors that differ by less are one
VALENCE_REACH = 3.5  # Å; neighbours beyond add nothing to a bond-valence sum
ANIONS = {
    "O": -2,
    "S": -2,
    "Se": -2,
    "Te": -2,
    "N": -3,
    "F": -1,
    "Cl": -1,
    "Br": -1,
    "I": -1,
}
# R0 (Å) of N(V)–O and Cl(VII)–O: Brese & O'Keeffe, Acta Cryst. B 47, 192 (1991)
OXYANIONS = {"N": 1.432, "Cl": 1.632}


@dataclass(frozen=True)
class Contact:
    """Site ``i`` and the image R x + t of site ``j``."""

    i: int
    j: int
    rotation: Int[np.ndarray, "3 3"]
    translation: Float[np.ndarray, "3"]


@dataclass(frozen=True)
class Measure:
    """A distance (Å) or angle (°) between sites by label, with its e.s.d."""

    atoms: tuple[str, ...]
    value: float
    esd: float
    count: int = 1

    def __str__(self) -> str:
        return f"{'–'.join(self.atoms)} {with_esd(self.value, self.esd)}"


def with_esd(value: float, esd: float) -> str:
    """A number with its e.s.d. in brackets as in CIF, 1.532(4), from 2 to 19.

    Without one where it is none: rounding of what symmetry fixes, or a singular matrix.
    """
    size = max(abs(value), 1e-3)
    if not (np.isfinite(esd) and NOTHING * size < esd < ANYTHING * size):
        return f"{value:.6g}"
    places = max(int(np.ceil(np.log10(1.95 / esd))), 0)
    return f"{value:.{places}f}({round(esd * 10**places)})"


def coordinates(
    table: Parameters, values: Values, phase: int
) -> Float[np.ndarray, "sites 3"]:
    """Fractional coordinates of the sites of a phase."""
    return values[rows_of(table, phase)[1]]


def rows_of(
    table: Parameters, phase: int
) -> tuple[Int[np.ndarray, "6"], Int[np.ndarray, "sites 3"]]:
    """Rows of the cell and of the coordinates of a phase."""
    prefix, unit = prefix_of(table.units, phase), table.units[phase]
    cell = np.array([table.place(prefix + name) for name in CELL])
    sites = [[table.place(f"{prefix}{k}:{s.label}") for k in "xyz"] for s in unit.sites]
    return cell, np.array(sites, int).reshape(-1, 3)


def contacts(table: Parameters, values: Values, phase: int, reach: float) -> list[Contact]:
    """All neighbours of every site within ``reach`` (Å) that are on other places."""
    unit, cell = table.units[phase], values[rows_of(table, phase)[0]]
    frac, lattice = coordinates(table, values, phase), lattice_rows(cell)
    spacing = 1 / np.linalg.norm(np.linalg.inv(lattice), axis=0)
    box = np.ceil(reach / spacing).astype(int) + 1
    shifts = np.stack(np.meshgrid(*[np.arange(-n, n + 1) for n in box]), -1).reshape(-1, 3)
    found = []
    for j, site in enumerate(unit.sites):
        images, first = _images(unit, frac[j])
        for i, other in enumerate(unit.sites):
            apart = images - frac[i]
            whole = np.rint(apart)
            delta = (apart - whole)[:, None] + shifts
            d2 = ((delta @ lattice) ** 2).sum(-1)
            low = 1e-4 if other.place != site.place else 0.05
            for image, shift in np.argwhere((d2 < reach**2) & (d2 > low)):
                translation = unit.translations[first[image]] + shifts[shift] - whole[image]
                rotation = unit.rotations[first[image]]
                found.append(Contact(i, j, rotation, translation))
    return found


def _images(
    unit: AsymmetricUnit, frac: Float[np.ndarray, "3"]
) -> tuple[Float[np.ndarray, "places 3"], Int[np.ndarray, " places"]]:
    """Distinct images of a place and the first operation that gives each."""
    images = unit.rotations @ frac + unit.translations
    apart = images[:, None] - images
    same = (np.abs(apart - np.rint(apart)) < 1e-3).all(-1).argmax(1)
    first = np.unique(same)
    return images[first], first


def distance(
    table: Parameters, values: Values, phase: int, contact: Contact
) -> tuple[float, Values]:
    """Length of a contact in Å and its derivatives by row."""
    vector, rows = _vector(table, values, phase, contact)
    cell_rows = rows_of(table, phase)[0]
    g = metric(values[cell_rows])
    length = float(np.sqrt(vector @ g @ vector))
    slope = rows.T @ (g @ vector) / length
    by_cell = np.einsum("i,kij,j->k", vector, metric_derivatives(values[cell_rows]), vector)
    slope[cell_rows] += by_cell / (2 * length)
    return length, slope


def angle(
    table: Parameters, values: Values, phase: int, one: Contact, other: Contact
) -> tuple[float, Values]:
    """Angle (°) between two contacts of one site, and its derivatives by row."""
    (u, u_rows), (v, v_rows) = (_vector(table, values, phase, c) for c in (one, other))
    cell_rows = rows_of(table, phase)[0]
    g, slopes = metric(values[cell_rows]), metric_derivatives(values[cell_rows])
    uu, vv, uv = u @ g @ u, v @ g @ v, u @ g @ v
    cosine = float(np.clip(uv / np.sqrt(uu * vv), -1, 1))
    by_u = g @ (v - u * uv / uu) / np.sqrt(uu * vv)
    by_v = g @ (u - v * uv / vv) / np.sqrt(uu * vv)
    slope = u_rows.T @ by_u + v_rows.T @ by_v
    metric_part = np.einsum("i,kij,j->k", u, slopes, v) / np.sqrt(uu * vv)
    metric_part -= cosine / 2 * np.einsum("i,kij,j->k", u, slopes, u) / uu
    metric_part -= cosine / 2 * np.einsum("i,kij,j->k", v, slopes, v) / vv
    slope[cell_rows] += metric_part
    sine = max(np.sqrt(1 - cosine**2), 1e-6)
    return float(np.degrees(np.arccos(cosine))), -np.degrees(slope / sine)


def _vector(
    table: Parameters, values: Values, phase: int, contact: Contact
) -> tuple[Float[np.ndarray, "3"], Float[np.ndarray, "3 rows"]]:
    """Fractional vector of a contact and its derivatives by row."""
    places = rows_of(table, phase)[1]
    i, j = places[contact.i], places[contact.j]
    vector = contact.rotation @ values[j] + contact.translation - values[i]
    rows = np.zeros((3, len(values)))
    rows[:, j] += contact.rotation
    rows[:, i] -= np.eye(3)
    return vector, rows


def distinct(
    table: Parameters, values: Values, phase: int, found: list[tuple[Contact, ...]]
) -> list[tuple[Contact, ...]]:
    """Contacts, or pairs of contacts of one site, that symmetry does not make equal.

    Of each set of equivalent ones the first is kept; i–j and j–i are one.
    """
    unit = table.units[phase]
    rotations = [_stabiliser(unit, site.frac) for site in unit.sites]
    kept: list[tuple[Contact, ...]] = []
    known: dict[tuple, list[np.ndarray]] = {}
    for contacts_of_one in found:
        vectors = [_vector(table, values, phase, c)[0] for c in contacts_of_one]
        i, ends = contacts_of_one[0].i, [c.j for c in contacts_of_one]
        seen = [(i, ends[::k], vectors[::k]) for k in (1, -1)]
        if len(ends) == 1:  # from its other end
            back = np.linalg.solve(contacts_of_one[0].rotation, -vectors[0])
            seen[1] = (ends[0], [i], [back])
        if any(
            (np.abs(old - np.array(vectors) @ rotation.T) < SAME).all()
            for centre, ends, vectors in seen
            for old in known.get((centre, *ends), ())
            for rotation in rotations[centre]
        ):
            continue
        kept.append(contacts_of_one)
        known.setdefault((i, *ends), []).append(np.array(vectors))
    return kept


def _stabiliser(
    unit: AsymmetricUnit, frac: Float[np.ndarray, "3"]
) -> Int[np.ndarray, "operations 3 3"]:
    """Rotations of the operations that leave a place where it is."""
    apart = unit.rotations @ frac + unit.translations - frac
    return unit.rotations[(np.abs(apart - np.rint(apart)) < SAME).all(1)]


def bonds(
    table: Parameters,
    values: Values,
    covariance: Float[np.ndarray, "rows rows"],
    phase: int,
) -> tuple[list[Measure], list[Measure]]:
    """Bond lengths (Å) and angles (°) of a phase with e.s.d.s; equal ones counted once."""
    unit = table.units[phase]
    radii = [element_radius(site.element) for site in unit.sites]
    reach = BONDED * 2 * max(radii, default=0.5)
    lengths: dict[tuple, list] = {}
    angles: dict[tuple, list] = {}
    near: dict[int, list[Contact]] = {}
    for contact in contacts(table, values, phase, reach):
        length, slope = distance(table, values, phase, contact)
        a, b = unit.sites[contact.i], unit.sites[contact.j]
        if length <= bond_limit(a.element, b.element):
            near.setdefault(contact.i, []).append(contact)
            names = (a.label, b.label)
            _collect(lengths, names, length, slope, covariance)
    for i, around in near.items():
        for one, other in combinations(around[:24], 2):
            value, slope = angle(table, values, phase, one, other)
            ends = (unit.sites[one.j].label, unit.sites[other.j].label)
            names = (min(ends), unit.sites[i].label, max(ends))
            _collect(angles, names, value, slope, covariance)
    return _measures(lengths), _measures(angles)


def _collect(
    found: dict[tuple, list],
    names: tuple[str, ...],
    value: float,
    slope: Values,
    covariance: Float[np.ndarray, "rows rows"],
) -> None:
    """Count a measure; those that differ by rounding alone are one."""
    entry = found.setdefault((names, round(value, 4)), [value, 0.0, 0])
    if not entry[2]:
        entry[1] = float(np.sqrt(max(slope @ covariance @ slope, 0)))
    entry[2] += 1


def _measures(found: dict[tuple, list]) -> list[Measure]:
    return [Measure(names, v, e, n) for (names, _), (v, e, n) in sorted(found.items())]


def element_radius(element: str) -> float:
    """Covalent radius in Å (Cordero et al., Dalton Trans. 2832 (2008))."""
    import gemmi

    return float(gemmi.Element(element).covalent_r)


def bond_limit(one: str, other: str) -> float:
    """Longest distance (Å) of two elements that counts as a bond."""
    return BONDED * (element_radius(one) + element_radius(other))


def too_close(table: Parameters, values: Values, phase: int) -> list[tuple[Contact, float]]:
    """Contacts of full atoms below 0.72 of the sum of covalent radii; that limit (Å)."""
    unit = table.units[phase]
    radii = np.array([element_radius(site.element) for site in unit.sites])
    share = np.array([site.occupancy for site in unit.sites])
    limit = SHORT * (radii[:, None] + radii)
    limit = np.where(share[:, None] + share > 1, limit, 0.0)
    if not len(radii) or not _crowded(table, values, phase, limit):
        return []
    near = contacts(table, values, phase, float(limit.max()))
    return [
        (c, float(limit[c.i, c.j]))
        for c in near
        if c.i <= c.j and distance(table, values, phase, c)[0] < limit[c.i, c.j]
    ]


def _crowded(
    table: Parameters, values: Values, phase: int, limit: Float[np.ndarray, "sites sites"]
) -> bool:
    """Whether some nearest images are closer than their limits: a quick look."""
    unit, cell = table.units[phase], values[rows_of(table, phase)[0]]
    frac, lattice = coordinates(table, values, phase), lattice_rows(cell)
    places = np.array([site.place for site in unit.sites])
    for j in range(len(frac)):
        images = unit.rotations @ frac[j] + unit.translations
        apart = images[:, None] - frac
        square = (((apart - np.rint(apart)) @ lattice) ** 2).sum(-1)
        seen = square > np.where(places == places[j], 0.05, 1e-4)
        if (seen & (square < limit[j] ** 2)).any():
            return True
    return bool(min(cell[:3]) < limit.max())


def valence_sums(table: Parameters, values: Values, phase: int) -> dict[str, float]:
    """Bond-valence sum Σ exp((R0 - d) / 0.37) of every site, by label.

    R0 for pairs of elements from O'Keeffe and Brese's radii and electronegativities, J. Am.
    Chem. Soc. 113, 3226 (1991), as pymatgen tabulates them, or OXYANIONS. An element of
    ANIONS and another one count; of two ANIONS the less electronegative is the cation, if
    they are bonded: N–O of a nitrate counts, O···O and Cl···O of neighbours do not.
    """
    unit = table.units[phase]
    sums = {site.label: 0.0 for site in unit.sites}
    for contact in contacts(table, values, phase, VALENCE_REACH):
        one, other = unit.sites[contact.i], unit.sites[contact.j]
        pair = (one.element, other.element)
        r0 = valence_radius(*pair)
        if r0 is None:
            continue
        length = distance(table, values, phase, contact)[0]
        if not ANIONS.keys() >= set(pair) or length <= bond_limit(*pair):
            sums[one.label] += other.occupancy * float(np.exp((r0 - length) / 0.37))
    return sums


@cache
def valence_radius(one: str, other: str) -> float | None:
    """R0 (Å) of a bond between different elements, one of ANIONS; None for other pairs."""
    from pymatgen.analysis.bond_valence import BV_PARAMS
    from pymatgen.core import Element

    a, b = Element(one), Element(other)
    if a not in BV_PARAMS or b not in BV_PARAMS or one == other:
        return None
    if not ANIONS.keys() & {one, other}:
        return None
    if {one, other} & OXYANIONS.keys() and "O" in (one, other):
        return OXYANIONS[one if other == "O" else other]
    (r1, c1), (r2, c2) = ((BV_PARAMS[e]["r"], BV_PARAMS[e]["c"]) for e in (a, b))
    return r1 + r2 - r1 * r2 * (np.sqrt(c1) - np.sqrt(c2)) ** 2 / (c1 * r1 + c2 * r2)


@dataclass(frozen=True)
class Geometry:
    """Bond lengths (Å), angles (°) and bond-valence sums of a phase."""

    bonds: tuple[Measure, ...]
    angles: tuple[Measure, ...]
    valences: dict[str, float]


def geometry(fit: Fit, phase: int = 0) -> Geometry:
    """Bonds, angles with e.s.d.s and valence sums of a refined phase, by site label."""
    if fit.table is None or fit.covariance is None:
        raise ValueError(
            f"engine '{fit.engine}' left no covariance; refine with xrdkit.refine.rietveld"
        )
    values = fit.table.vector()
    lengths, angles = bonds(fit.table, values, fit.covariance, phase)
    sums = valence_sums(fit.table, values, phase)
    return Geometry(tuple(lengths), tuple(angles), sums)
