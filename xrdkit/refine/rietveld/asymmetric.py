"""What is refined of a structure: its cell and asymmetric unit in the reference setting."""

from collections import Counter
from dataclasses import dataclass, field, replace
from math import gcd
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float, Int

from xrdkit.crystal import U_ISO, symmetry_dataset, to_structure
from xrdkit.refine.rietveld.cif import (
    cif_structure,
    file_and_block,
    refuse_gaps,
    stated_group,
    structure_block,
)
from xrdkit.refine.rietveld.metric import lattice_rows, metric
from xrdkit.scattering import HEAVIEST
from xrdkit.space_group import (
    echelon,
    quiet_spglib,
    reference_hall,
    space_group_types,
    special_position,
)
from xrdkit.types import Candidate, Fit

if TYPE_CHECKING:
    import gemmi
    from pymatgen.core import Composition, Structure

SYMPREC = 0.01  # Å, of structures that come without a space group
SAME_PLACE = 0.05  # Å; species closer than that share a site
APART = 0.4  # Å; full atoms closer than that overlap
UNLIKE = 0.02  # of a product of edges; cells that differ more are not symmetric
OVERFULL = 1.005  # occupancies of a site may sum to
LARGEST = 2000  # atom sites of a CIF
LONGEST = 48  # times a direction, to make its indices whole
Matrix = Float[np.ndarray, "3 3"]


@dataclass(frozen=True)
class Site:
    """One element on one orbit; elements that share a place share its number.

    ``frac`` is exactly on the special position; ``free`` rows are the displacements that
    keep it, in reduced row echelon form.
    """

    label: str
    element: str
    number: int
    frac: Float[np.ndarray, "3"]
    free: Float[np.ndarray, "directions 3"]
    multiplicity: int
    place: int
    occupancy: float = 1.0
    u_iso: float = U_ISO


@dataclass(frozen=True)
class AsymmetricUnit:
    """Cell (Å, °), operations with centring, and sites; without sites only a cell.

    Labels are the element's symbol and a running number, in the order of the sites.
    Coordinates are ``basis`` times those of the source, plus a shift.
    """

    name: str
    space_group: int
    symbol: str
    cell: tuple[float, ...]
    rotations: Int[np.ndarray, "operations 3 3"]
    translations: Float[np.ndarray, "operations 3"]
    sites: tuple[Site, ...]
    basis: Matrix = field(default_factory=lambda: np.eye(3))

    def direction(self, hkl: tuple[int, int, int]) -> tuple[int, int, int]:
        """Least whole indices of the normal of planes hkl that the source's cell has."""
        turned = np.array(hkl) @ np.linalg.inv(self.basis)
        for times in range(1, LONGEST + 1):
            whole = np.rint(times * turned).astype(int)
            if np.abs(times * turned - whole).max() < 1e-3:
                common = gcd(*whole.tolist())
                return tuple((whole // common).tolist())
        raise ValueError(
            f"the direction {hkl} has no small indices in the reference setting, "
            f"{self.symbol}; give the structure in that one"
        )

    @property
    def polar(self) -> Float[np.ndarray, "directions 3"]:
        """Directions along which the origin is arbitrary, in reduced row echelon form."""
        return echelon(self.rotations.mean(0).T)


def asymmetric_unit(
    source: "Structure | str | Path | Fit | Candidate",
    *,
    symprec: float = SYMPREC,
    name: str = "",
) -> AsymmetricUnit:
    """The asymmetric unit of a CIF, Structure, Fit or Candidate in the reference setting.

    A CIF's own space group is kept; of others it is found within ``symprec`` (Å). Of a CIF
    with several structures ``file.cif#block`` is one.
    """
    if isinstance(source, str | Path):
        unit = _of_cif(source, symprec)
    elif isinstance(source, Fit):
        unit = _of_structure(source.structure, symprec)
    elif isinstance(source, Candidate):
        unit = _of_structure(to_structure(source.crystal), symprec)
    else:
        unit = _of_structure(source, symprec)
    return replace(unit, name=name or unit.name)


def reference_operations(
    space_group: int,
) -> tuple[Int[np.ndarray, "operations 3 3"], Float[np.ndarray, "operations 3"]]:
    """All operations of the reference setting, centring included."""
    with quiet_spglib() as spglib:
        found = spglib.get_symmetry_from_database(reference_hall(space_group))
    return found["rotations"].astype(int), found["translations"]


def cell_only(cell: tuple[float, ...], space_group: int, name: str = "") -> AsymmetricUnit:
    """A cell (Å, °) with its space group and no atoms, for Pawley fits."""
    return AsymmetricUnit(
        name,
        space_group,
        space_group_types()[reference_hall(space_group) - 1][1],
        tuple(float(value) for value in cell),
        *reference_operations(space_group),
        (),
    )


def _of_structure(structure: "Structure", symprec: float) -> AsymmetricUnit:
    """The unit of a Structure, whose symmetry spglib finds."""
    present = [_species(site.species) for site in structure]
    kinds = sorted(set(present))
    types = [kinds.index(species) for species in present]
    given = (structure.lattice.matrix, structure.frac_coords, types)
    found = symmetry_dataset(given, symprec)
    if found is not None and found.hall_number != reference_hall(found.number):
        found = symmetry_dataset(given, symprec, reference_hall(found.number))
    name = structure.composition.reduced_formula
    if found is None:
        frac, lattice, number = structure.frac_coords, structure.lattice.matrix, 1
        rows, basis = np.arange(len(structure)), np.eye(3)
    else:
        frac, lattice, number = found.std_positions, found.std_lattice, found.number
        first = np.unique(found.mapping_to_primitive, return_index=True)[1]
        rows = first[found.std_mapping_to_primitive]
        basis = np.array(found.transformation_matrix)
    u = [structure[i].properties.get("u_iso") or U_ISO for i in rows]
    atoms = [
        (place, element, share, own)
        for i, place, own in zip(rows, frac, u, strict=True)
        for element, share in present[i]
    ]
    return replace(_unit(name, int(number), np.array(lattice), atoms), basis=basis)


def _species(composition: "Composition") -> tuple[tuple[str, float], ...]:
    """Elements (without charges) and occupancies of one place."""
    found: dict[str, float] = {}
    for kind, amount in composition.items():
        found[kind.symbol] = found.get(kind.symbol, 0) + float(amount)
    return tuple(sorted((e, round(n, 6)) for e, n in found.items()))


def _of_cif(source: str | Path, symprec: float) -> AsymmetricUnit:
    """The unit of a CIF in its own space group, brought to the reference setting."""
    import gemmi

    block, (path, chosen) = structure_block(source), file_and_block(source)
    small = gemmi.SmallStructure()
    if block is not None:
        small = gemmi.make_small_structure_from_block(block)
    if block is not None and len(small.sites):
        refuse_gaps(block, path.name)
    group = stated_group(small, path.name)
    if group is None and small.spacegroup_hm.strip() and not len(small.symops) > 1:
        raise ValueError(
            f"space group '{small.spacegroup_hm[:40]}' of {path.name} is not known; "
            "give its Hermann–Mauguin symbol or its operations"
        )
    if group is None or not len(small.sites):
        return _of_structure(cif_structure(source), symprec)
    if len(small.sites) > LARGEST:
        raise ValueError(f"{path} has {len(small.sites)} sites, at most {LARGEST} are read")
    matrix, shift = _to_reference(group)
    lattice = np.linalg.inv(matrix).T @ np.array(small.cell.orth.mat.tolist()).T
    atoms = [
        (
            matrix @ np.array(site.fract.tolist()) + shift,
            site.element.name,
            float(site.occ),
            float(site.u_iso) if site.u_iso > 0 else U_ISO,
        )
        for site in small.sites
    ]
    for site, (place, _, share, _) in zip(small.sites, atoms, strict=True):
        if not np.isfinite([*place, share]).all():
            raise ValueError(
                f"atom {site.label} of {path.name} has no coordinates or occupancy; "
                "give numbers or leave it out"
            )
    unit = _unit(chosen or path.stem, group.number, lattice, atoms)
    return replace(unit, basis=matrix)


def _to_reference(group: "gemmi.SpaceGroup") -> tuple[Matrix, Float[np.ndarray, "3"]]:
    """Matrix M and shift t with x_reference = M x + t for a setting of gemmi's table."""
    import gemmi

    rotations, translations = reference_operations(group.number)
    known = {_key(r, t) for r, t in zip(rotations, translations, strict=True)}
    for change in (group.basisop, group.basisop.inverse()):
        turned = group.operations()
        turned.change_basis_forward(change)
        keys = {
            _key(np.array(op.rot) / op.DEN, np.array(op.tran) / op.DEN) for op in turned
        }
        if keys == known:
            den = gemmi.Op.DEN
            return np.array(change.rot) / den, np.array(change.tran) / den
    raise ValueError(
        f"setting {group.xhm()} of space group {group.number} is not one of the tables; "
        "give the structure in a standard setting"
    )


def _key(rotation: np.ndarray, translation: np.ndarray) -> tuple[int, ...]:
    whole = np.rint(np.mod(translation, 1) * 24).astype(int) % 24
    return (*np.rint(rotation).astype(int).ravel().tolist(), *whole.tolist())


def _unit(name: str, space_group: int, lattice: Matrix, atoms: list) -> AsymmetricUnit:
    """Sites of atoms (place, element, occupancy, U), one for each orbit and element."""
    from pymatgen.core import Lattice

    rotations, translations = reference_operations(space_group)
    sites: list[Site] = []
    counts: Counter[str] = Counter()
    for frac, element, share, u in atoms:
        place, free = special_position(np.mod(frac, 1), rotations, translations)
        images = orbit(place, rotations, translations)
        known = np.array([s.frac for s in sites]).reshape(-1, 3)
        old = next((sites[i] for i in _met(known, images, lattice)), None)
        twin = [s for s in sites if old and (s.place, s.element) == (old.place, element)]
        if twin:  # a copy by symmetry; at the very place, another charge of the element
            if len(_met(np.mod(frac, 1)[None], twin[0].frac[None], lattice)):
                more = replace(twin[0], occupancy=twin[0].occupancy + share)
                sites[sites.index(twin[0])] = more
            continue
        if old is not None:
            place, free, images = old.frac, old.free, images[: old.multiplicity]
        counts[element] += 1
        sites.append(
            Site(
                f"{element}{counts[element]}",
                element,
                _number(element),
                place,
                free,
                len(images),
                len({s.place for s in sites}) if old is None else old.place,
                share,
                u,
            )
        )
    cell = Lattice(lattice).parameters
    unit = cell_only(cell, space_group, name)
    return _checked(replace(unit, sites=tuple(sites)))


def _number(element: str) -> int:
    from pymatgen.core import Element

    symbol = "H" if element in ("D", "T") else element
    if not Element.is_valid_symbol(symbol) or Element(symbol).Z > HEAVIEST:
        raise ValueError(
            f"'{element}' is no element with a scattering factor (H to Cf); "
            "replace it or leave it out"
        )
    return int(Element(symbol).Z)


def orbit(
    frac: Float[np.ndarray, "3"],
    rotations: Int[np.ndarray, "operations 3 3"],
    translations: Float[np.ndarray, "operations 3"],
    like: Float[np.ndarray, "3"] | None = None,
) -> Float[np.ndarray, "places 3"]:
    """The distinct places onto which operations map a place, in [0, 1).

    By the operations that give distinct images of ``like``, where it is given: a place that
    has moved onto an element of symmetry keeps its multiplicity so.
    """
    images = np.mod(rotations @ (frac if like is None else like) + translations, 1)
    apart = images[:, None] - images
    same = (np.abs(apart - np.rint(apart)) < 1e-3).all(-1).argmax(1)
    chosen = np.unique(same)
    return np.mod(rotations[chosen] @ frac + translations[chosen], 1)


def _met(
    places: Float[np.ndarray, "places 3"],
    images: Float[np.ndarray, "images 3"],
    lattice: Matrix,
) -> Int[np.ndarray, " met"]:
    """Which places some image meets."""
    apart = images[:, None] - places
    length = np.linalg.norm((apart - np.rint(apart)) @ lattice, axis=-1)
    return np.flatnonzero((length < SAME_PLACE).any(0))


def _checked(unit: AsymmetricUnit) -> AsymmetricUnit:
    """The unit, unless its cell or occupancies are impossible or atoms overlap."""
    _refuse_metric(unit)
    full: dict[int, float] = {}
    for site in unit.sites:
        if not 0 < site.occupancy <= OVERFULL:
            raise ValueError(
                f"occupancy {site.occupancy:g} of {site.label}, atoms of {site.element} on "
                "one place added up, is not above 0 and up to 1; correct it, or leave the "
                "site out"
            )
        full[site.place] = full.get(site.place, 0) + site.occupancy
    for place, total in full.items():
        if total > OVERFULL:
            names = ", ".join(s.label for s in unit.sites if s.place == place)
            raise ValueError(
                f"{names} share a place and their occupancies sum to {total:.3f}; "
                "at most 1 is possible"
            )
    _refuse_overlap(unit, full)
    return unit


def _refuse_metric(unit: AsymmetricUnit) -> None:
    """Refuse a cell that has not the symmetry of its space group."""
    given, turned = metric(np.array(unit.cell)), unit.rotations
    meant = np.einsum("gij,ik,gkl->jl", turned, given, turned) / len(turned)
    edges = np.sqrt(np.diag(given))
    if not np.abs((meant - given) / np.outer(edges, edges)).max() < UNLIKE:
        cell = ", ".join(f"{value:.5g}" for value in unit.cell)
        raise ValueError(
            f"the cell {cell} of {unit.name} cannot have the space group {unit.symbol}; "
            "correct one of them"
        )


def _refuse_overlap(unit: AsymmetricUnit, full: dict[int, float]) -> None:
    """Refuse places closer than 0.4 Å of which more than one atom's worth is occupied."""
    lattice = lattice_rows(np.array(unit.cell))
    firsts = list({site.place: site for site in reversed(unit.sites)}.values())
    orbits = [orbit(site.frac, unit.rotations, unit.translations) for site in firsts]
    owner = np.repeat(np.arange(len(firsts)), [len(places) for places in orbits])
    images = np.concatenate(orbits or [np.zeros((0, 3))])
    share = np.array([full[site.place] for site in firsts])
    for i, one in enumerate(firsts):
        apart = images - one.frac
        length = np.linalg.norm((apart - np.rint(apart)) @ lattice, axis=1)
        length[(owner == i) & (length < 1e-3)] = np.inf
        length[share[owner] + share[i] <= OVERFULL] = np.inf
        k = int(length.argmin())
        if length[k] < APART:
            raise ValueError(
                f"{one.label} and {firsts[owner[k]].label} are {length[k]:.2f} Å apart; "
                "merge them or give occupancies that sum to at most 1"
            )
