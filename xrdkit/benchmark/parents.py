"""The types of a library that a structure belongs to, or is an ordering of."""

from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float, Int

from xrdkit.generators.merges import merges
from xrdkit.library import Library
from xrdkit.problem import by_number
from xrdkit.structure_types import SAME_TYPE, Member, in_order, member_of, slot_orders

if TYPE_CHECKING:
    from pymatgen.core import Structure

TOLERANCES = (0.1, 0.3)  # Å, within which sites are alike once their species are merged


def built_types(library: Library, structure: "Structure") -> Int[np.ndarray, " types"]:
    """The types of a library to which a structure would be counted when it was built."""
    member = member_of(*arrays(structure))
    return np.zeros(0, int) if member is None else kinds_of(library, member)


def ordering_of_parent(truth: "Structure", library: Library) -> bool:
    """Whether a structure of no type of the library has one when species are merged.

    Species are merged as the source "ordered" does. Vacancies do not count, and sites may
    be off the parent's by 0.3 Å.
    """
    if len(built_types(library, truth)):
        return False
    lattice, frac, numbers = arrays(truth)
    for merge in merges(by_number(truth.composition.get_el_amt_dict())):
        if 0 in merge.contents:
            continue
        group = {z: i + 1 for i, zs in enumerate(merge.groups) for z in zs}
        merged = np.array([group[z] for z in numbers.tolist()])
        for tolerance in TOLERANCES:
            parent = member_of(lattice, frac, merged, tolerance)
            if parent is not None and len(kinds_of(library, parent)):
                return True
    return False


def kinds_of(library: Library, member: Member) -> Int[np.ndarray, " types"]:
    """The types in use that a structure in its standard cell belongs to."""
    used = library.rows
    alike = library.space_group[used] == member.cell.space_group
    alike &= library.counts[used] == len(member.slot)
    kinds, first = np.unique(library.kind[used[alike]], return_index=True)
    ours = [in_order(member, order).features for order in slot_orders(member.key)]
    same = []
    for kind, row in zip(kinds, used[alike][first], strict=True):
        atoms = library.atoms(row)
        known = member_of(
            library.lattice[row], library.frac[atoms], library.slot[atoms] + 1
        )
        if known is not None and known.key == member.key:
            if min(np.abs(known.features - f).max() for f in ours) < SAME_TYPE:
                same.append(kind)
    return np.array(same, int)


def arrays(
    structure: "Structure",
) -> tuple[
    Float[np.ndarray, "3 3"], Float[np.ndarray, "atoms 3"], Int[np.ndarray, " atoms"]
]:
    """Lattice (Å), fractional coordinates and atomic numbers of an ordered structure."""
    return (
        structure.lattice.matrix,
        structure.frac_coords,
        np.array(structure.atomic_numbers),
    )
