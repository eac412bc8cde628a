"""When two structures are of one type: anonymous formula, space group, orbits, geometry.

The species of a structure become slots 0, 1, 2 … (most numerous last). Within one key
(space group, atoms and orbit sizes of every slot), geometry decides: neighbour distances,
averaged over the atoms of each slot, with the volume per atom as unit.
"""

from dataclasses import dataclass, replace
from itertools import islice, permutations, product
from math import gcd

import numpy as np
from jaxtyping import Float, Int

from xrdkit.crystal import StandardCell, standard_cell
from xrdkit.space_group import CENTRING, centring_letter

SAME_TYPE = 0.15  # largest difference of normalised distances within one type
NEIGHBOURS = 12
MOST_ORDERS = 24  # of slots that are alike by count and orbits


@dataclass(frozen=True)
class Member:
    """One structure on its way into a library; ``key`` and ``features`` decide its type."""

    cell: StandardCell
    slot: Int[np.ndarray, " atoms"]
    elements: tuple[int, ...]
    key: tuple
    features: Float[np.ndarray, " features"]


def member_of(
    lattice: Float[np.ndarray, "3 3"],
    frac: Float[np.ndarray, "atoms 3"],
    numbers: Int[np.ndarray, " atoms"],
    symprec: float = 0.1,
) -> Member | None:
    """A structure in its standard cell, its species as slots, rarest first.

    None where spglib finds no symmetry within the tolerance (Å).
    """
    cell = standard_cell(lattice, frac, numbers, symprec)
    if cell is None:
        return None
    described = []
    for z in np.unique(cell.numbers):
        atoms = np.nonzero(cell.numbers == z)[0]
        sizes = tuple(np.sort(np.unique(cell.orbit[atoms], return_counts=True)[1]).tolist())
        features = distance_features(cell.lattice, cell.frac, atoms)
        # rounded, so that noise does not decide the order of slots that are nearly alike
        order = (len(atoms), sizes, np.round(features, 1).tolist(), features.sum().round(3))
        described.append((*order, int(z), features))
    described.sort(key=lambda row: row[:-1])
    elements = tuple(z for *_, z, _ in described)
    slot = np.array([elements.index(z) for z in cell.numbers])
    key = (cell.space_group, *((count, sizes) for count, sizes, *_ in described))
    features = np.concatenate([row[-1] for row in described])
    return Member(cell, slot, elements, key, features)


def distance_features(
    lattice: Float[np.ndarray, "3 3"],
    frac: Float[np.ndarray, "atoms 3"],
    atoms: Int[np.ndarray, " chosen"],
) -> Float[np.ndarray, " features"]:
    """Sorted neighbour distances, averaged over some atoms, at one volume unit an atom.

    First to any atom, then to the chosen ones: a coarse form of the pointwise distance
    distribution (Widdowson & Kurlin, NeurIPS 2022), the same in every cell and pose.
    """
    scale = (abs(np.linalg.det(lattice)) / len(frac)) ** (-1 / 3)
    reach = np.ceil(3.0 / scale * np.linalg.norm(np.linalg.inv(lattice), axis=0)).astype(
        int
    )
    grids = [np.arange(-r, r + 1) for r in reach]
    shifts = np.stack(np.meshgrid(*grids, indexing="ij"), -1).reshape(-1, 3)
    delta = frac[None, :] - frac[atoms][:, None]
    delta -= np.rint(delta)
    metric = lattice @ lattice.T * scale**2
    images = delta[:, :, None] + shifts  # chosen, atoms, images
    distance = np.sqrt(np.einsum("abij,jk,abik->abi", images, metric, images).clip(0))
    every = np.sort(distance.reshape(len(atoms), -1), -1)[:, 1 : NEIGHBOURS + 1]
    same = np.sort(distance[:, atoms].reshape(len(atoms), -1), -1)[:, 1:]
    same = np.pad(same, ((0, 0), (0, NEIGHBOURS)), constant_values=3.0)[
        :, : NEIGHBOURS // 2
    ]
    return np.concatenate([every.mean(0), same.clip(max=3.0).mean(0)])


def type_label(member: Member) -> str:
    """A readable name: anonymous formula, space group, Wyckoff sites ("AB2 136 2a4f")."""
    counts = np.bincount(member.slot)
    counts = counts // gcd(*counts.tolist())
    letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
    formula = "".join(
        letters[i % 26] + (str(n) if n > 1 else "") for i, n in enumerate(counts.tolist())
    )
    centring = round(1 / np.linalg.det(CENTRING[centring_letter(member.cell.space_group)]))
    sites: dict[tuple, int] = {}
    for slot, letter, orbit in zip(
        member.slot.tolist(), member.cell.wyckoff, member.cell.orbit.tolist(), strict=True
    ):
        site = (slot, letter, orbit)
        sites[site] = sites.get(site, 0) + centring
    text = "".join(f"{n}{letter}" for (_, letter, _), n in sorted(sites.items()))
    return f"{formula} {member.cell.space_group} {text}"


def find_types(members: list[Member]) -> tuple[Int[np.ndarray, " members"], list[Member]]:
    """The type of each member, and the members with their slots in the order of their type.

    The type is that of the nearest leader with the same key, or a new one.
    """
    leaders: dict[tuple, tuple[list[int], list[np.ndarray]]] = {}
    kind, count, ordered = np.zeros(len(members), np.int32), 0, []
    for row, member in enumerate(members):
        names, prints = leaders.setdefault(member.key, ([], []))
        if prints:
            variants = [in_order(member, order) for order in slot_orders(member.key)]
            ours = np.array([v.features for v in variants])
            apart = np.abs(np.array(prints) - ours[:, None]).max(-1)  # orders, leaders
            best, leader = np.unravel_index(apart.argmin(), apart.shape)
            if apart[best, leader] < SAME_TYPE:
                kind[row] = names[leader]
                ordered.append(variants[best])
                continue
        names.append(count)
        prints.append(member.features)
        ordered.append(member)
        kind[row], count = count, count + 1
    return kind, ordered


def slot_orders(key: tuple) -> list[tuple[int, ...]]:
    """Orders of the slots that leave a key as it is: slots of equal counts and orbits."""
    slots = key[1:]
    alike = [
        [i for i, other in enumerate(slots) if other == slot]
        for slot in sorted(set(slots), key=slots.index)
    ]
    parts = [list(islice(permutations(group), MOST_ORDERS)) for group in alike]
    return [sum(choice, ()) for choice in islice(product(*parts), MOST_ORDERS)]


def in_order(member: Member, order: tuple[int, ...]) -> Member:
    """The same member with its slots in another order."""
    features = member.features.reshape(len(order), -1)[list(order)].ravel()
    elements = tuple(member.elements[i] for i in order)
    return replace(
        member, features=features, elements=elements, slot=np.argsort(order)[member.slot]
    )
