"""A structure in the reference setting of its space group, site by site.

The reference setting is that of International Tables A: unique axis b, hexagonal axes, the
origin on the centre of symmetry where there is a choice. CIF, TOPAS, FullProf and the
report describe a structure this way.
"""

from dataclasses import dataclass, field
from functools import reduce
from math import gcd
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float, Int

from xrdkit.crystal import U_ISO, reference_dataset, symmetry_dataset, to_structure
from xrdkit.refine.rietveld import Parameters
from xrdkit.refine.rietveld.answer import atoms_of, lattice_of, site_values, structure_of
from xrdkit.refine.rietveld.geometry import with_esd
from xrdkit.refine.rietveld.start import prefix_of
from xrdkit.space_group import (
    echelon,
    quiet_spglib,
    reference_hall,
    special_position,
)
from xrdkit.types import Fit

if TYPE_CHECKING:
    import gemmi
    from pymatgen.core import Composition, Structure

EXACT = 1e-3  # Å; refined sites are on their special positions
Matrices = tuple[Int[np.ndarray, "operations 3 3"], Float[np.ndarray, "operations 3"]]
Species = tuple[tuple[str, float], ...]  # element symbols and occupancies of one place


@dataclass(frozen=True)
class Site:
    """One element on one orbit of places; elements that share a place share its number.

    ``free`` rows are displacements (fractional) that keep the special position, in reduced
    row echelon form: each has a one in a column where the others have zero.
    """

    label: str
    element: str
    occupancy: float
    u_iso: float
    place: int
    wyckoff: str
    multiplicity: int
    frac: Float[np.ndarray, "3"]
    free: Float[np.ndarray, "directions 3"]


@dataclass(frozen=True)
class Setting:
    """A structure in the reference setting; ``cell`` is a, b, c, α, β, γ in Å and °.

    ``units`` is Z, the number of formula units. ``polar`` rows are the directions along
    which the origin may be chosen, in reduced row echelon form. ``esds`` are those of a
    refinement by the names of its parameters ("a", "volume", "x:Ti1").
    """

    structure: "Structure"
    cell: tuple[float, ...]
    number: int
    symbol: str
    hall: str
    system: str
    operations: tuple[str, ...]
    sites: tuple[Site, ...]
    units: int
    polar: Float[np.ndarray, "directions 3"]
    esds: dict[str, float] = field(default_factory=dict)

    @property
    def composition(self) -> "Composition":
        """Contents of one formula unit."""
        return self.structure.composition / self.units

    def shown(self, name: str, value: float, places: int) -> str:
        """A value with its e.s.d. in brackets, 4.5937(2), or to so many decimals."""
        esd = self.esds.get(name)
        return with_esd(value, esd) if esd else f"{value:.{places}f}"


@dataclass(frozen=True)
class _Orbit:
    """Places that the space group maps onto each other, by Wyckoff letter."""

    species: Species
    wyckoff: str
    frac: Float[np.ndarray, "places 3"]


def settings_of(fit: Fit) -> list[Setting]:
    """Every phase of a fit, the unknown one first; of a refinement its own sites."""
    if fit.table is not None:
        return [_refined(fit, phase) for phase in range(len(fit.table.units))]
    others = [to_structure(phase.crystal) for phase in fit.phases[1:]]
    return [
        reference_setting(structure, _displacements(fit, i))
        for i, structure in enumerate([fit.structure, *others])
    ]


def _displacements(fit: Fit, phase: int) -> dict[str, float]:
    """Mean U_iso (Å²) of each element of a phase."""
    from pymatgen.core import Element

    if phase >= len(fit.phases):
        return {}
    crystal = fit.phases[phase].crystal
    return {
        Element.from_Z(z).symbol: float(crystal.u_iso[crystal.numbers == z].mean())
        for z in crystal.numbers.unique().tolist()
    }


def reference_setting(
    structure: "Structure", u_iso: dict[str, float] | None = None
) -> Setting:
    """The structure with its symmetry at 0.1 Å; in P1 where spglib finds none.

    ``u_iso`` are displacement parameters (Å²) by element; without, a usual value stands.
    """
    whole, hall, orbits = _standardised(structure)
    sites = _sites(orbits, _matrices(_operations(hall)), u_iso or {})
    return _setting(whole, hall, tuple(sites), {})


def _setting(
    structure: "Structure", hall: int, sites: tuple[Site, ...], esds: dict[str, float]
) -> Setting:
    """A structure whose sites are in the setting of a Hall number."""
    import gemmi

    operations = _operations(hall)
    group = gemmi.find_spacegroup_by_ops(operations)
    counts: dict[Species, int] = {}
    for place in {site.place for site in sites}:
        own = [site for site in sites if site.place == place]
        species = tuple(sorted((site.element, round(site.occupancy, 4)) for site in own))
        counts[species] = counts.get(species, 0) + own[0].multiplicity
    return Setting(
        structure,
        tuple(float(value) for value in structure.lattice.parameters),
        group.number,
        group.xhm(),
        group.hall,
        group.crystal_system_str(),
        tuple(operation.triplet() for operation in operations),
        sites,
        reduce(gcd, counts.values(), 0) or 1,
        echelon(_matrices(operations)[0].mean(0).T),
        esds,
    )


def _operations(hall: int) -> "gemmi.GroupOps":
    import gemmi

    with quiet_spglib() as spglib:
        name = spglib.get_spacegroup_type(hall).hall_symbol
    return gemmi.symops_from_hall(name)


def _refined(fit: Fit, phase: int) -> Setting:
    """A phase of a refinement with the sites and labels of its parameter table."""
    table = fit.table
    unit, prefix = table.units[phase], prefix_of(table.units, phase)
    hall = reference_hall(unit.space_group)
    letters = _letters(table, phase, hall)
    u, occupancy = (site_values(table, phase, kind) for kind in ("u", "occupancy"))
    sites = tuple(
        Site(
            site.label,
            site.element,
            float(occupancy[i]),
            float(u[i]),
            site.place,
            letters[i],
            site.multiplicity,
            np.array([table[f"{prefix}{axis}:{site.label}"].value for axis in "xyz"]),
            site.free,
        )
        for i, site in enumerate(unit.sites)
    )
    own = {
        name.removeprefix(prefix): esd
        for name, esd in fit.uncertainties.items()
        if name.rpartition("/")[0] == prefix.rstrip("/")
    }
    return _setting(structure_of(table, phase), hall, sites, own)


def _letters(table: Parameters, phase: int, hall: int) -> list[str]:
    """Wyckoff letters of the sites; "?" where spglib describes the structure otherwise.

    Every place counts as a kind of its own, so that no higher symmetry is found by chance.
    """
    places = [site.place for site in table.units[phase].sites]
    owner, frac = atoms_of(table, phase)
    firsts = [places.index(place) for place in places]
    one = np.isin(owner, firsts)
    owner, frac = owner[one], frac[one]
    if not len(owner):
        return []
    found = symmetry_dataset((lattice_of(table, phase), frac, owner), EXACT, hall)
    same = (
        found is not None
        and found.hall_number == hall
        and np.allclose(found.transformation_matrix, np.eye(3), atol=1e-4)
        and np.allclose(found.origin_shift, np.rint(found.origin_shift), atol=1e-4)
    )
    return [found.wyckoffs[int((owner == i).argmax())] if same else "?" for i in firsts]


def _standardised(structure: "Structure") -> "tuple[Structure, int, list[_Orbit]]":
    """The conventional cell, its Hall number, and its orbits."""
    from pymatgen.core import Structure

    present = [_species(site.species) for site in structure]
    kinds = sorted(set(present))
    types = [kinds.index(species) for species in present]
    found = reference_dataset((structure.lattice.matrix, structure.frac_coords, types))
    if found is None:
        places = np.mod(structure.frac_coords, 1)
        orbits = [_Orbit(s, "a", p[None]) for s, p in zip(present, places, strict=True)]
        return structure, 1, orbits
    given = np.unique(found.mapping_to_primitive, return_index=True)[1]
    rows = given[found.std_mapping_to_primitive]
    frac = np.mod(found.std_positions, 1)
    whole = Structure(found.std_lattice, [structure[i].species for i in rows], frac)
    owner = found.crystallographic_orbits[rows]
    orbits = [
        _Orbit(present[i], found.wyckoffs[i], frac[owner == i]) for i in np.unique(owner)
    ]
    orbits.sort(key=lambda orbit: (_pettifor(orbit.species), orbit.wyckoff))
    return whole, int(found.hall_number), orbits


def _pettifor(species: Species) -> float:
    """Mendeleev number of the first element of a place: metals come before anions."""
    from pymatgen.core import Element

    return min(float(Element(element).mendeleev_no) for element, _ in species)


def _species(composition: "Composition") -> Species:
    """Elements (without charges) and occupancies of one place."""
    found: dict[str, float] = {}
    for kind, amount in composition.items():
        found[kind.symbol] = found.get(kind.symbol, 0) + float(amount)
    return tuple(sorted((e, round(n, 4)) for e, n in found.items()))


def _sites(orbits: list[_Orbit], group: Matrices, u_iso: dict[str, float]) -> list[Site]:
    """Every element of every orbit, labelled by element and number."""
    found: list[Site] = []
    for place, orbit in enumerate(orbits):
        frac, free = _special_position(orbit.frac, group)
        for element, occupancy in orbit.species:
            number = 1 + sum(site.element == element for site in found)
            found.append(
                Site(
                    f"{element}{number}",
                    element,
                    occupancy,
                    u_iso.get(element, U_ISO),
                    place,
                    orbit.wyckoff,
                    len(orbit.frac),
                    frac,
                    free,
                )
            )
    return found


def _special_position(
    places: Float[np.ndarray, "places 3"], group: Matrices
) -> tuple[Float[np.ndarray, "3"], Float[np.ndarray, "directions 3"]]:
    """The plainest place of an orbit: smallest constants, as in x, x, x, then smallest sum.

    Exactly on its special position, with the directions that stay on it.
    """

    def plain(found: tuple[np.ndarray, np.ndarray]) -> tuple[float, ...]:
        constant = np.abs(position_constants(*found)).sum()
        return (constant.round(4), found[0].sum().round(4), *found[0].round(4))

    return min((special_position(frac, *group) for frac in places), key=plain)


def position_constants(
    frac: Float[np.ndarray, "3"], free: Float[np.ndarray, "directions 3"]
) -> Float[np.ndarray, "3"]:
    """What coordinates are beside multiples of the free ones: 1/4 in x, x+1/4, z."""
    return frac - frac[(free != 0).argmax(1)] @ free


def _matrices(operations: "gemmi.GroupOps") -> Matrices:
    """Rotations and translations of all operations, centring included."""
    every = list(operations)
    rotations = np.array([np.array(op.rot) // op.DEN for op in every])
    return rotations, np.array([np.array(op.tran) / op.DEN for op in every])
