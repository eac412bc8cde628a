"""Derivative structures: symmetry-distinct orderings of a parent on its superlattices.

Superlattices are Hermite normal forms H, one of each set that the parent's point group
carries into each other; orderings are colourings of the sites of a supercell, one of each
set that the space group of the supercell carries into each other, without those that have
a smaller cell (Hart & Forcade, Phys. Rev. B 77, 224115, 2008).
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from itertools import combinations, product
from math import comb, prod

import numpy as np
from jaxtyping import Float, Int

from xrdkit.space_group import operations

MOST_COLOURINGS = 20_000  # of one supercell, before symmetry; beyond, it is passed over

Wanted = tuple[tuple[int, int], ...]  # colours and how many sites have them


@dataclass(frozen=True)
class Supercell:
    """Rows H of a superlattice in terms of the parent's; the operations that keep it."""

    rows: Int[np.ndarray, "3 3"]
    kept: Int[np.ndarray, " operations"]

    @property
    def index(self) -> int:
        """Number of parent cells in it."""
        return round(float(np.prod(np.diag(self.rows))))


def hermite_forms(index: int) -> list[Int[np.ndarray, "3 3"]]:
    """All upper triangular matrices whose rows span the superlattices of this index."""
    return [
        np.array([[a, i, j], [0, b, k], [0, 0, index // (a * b)]])
        for a in range(1, index + 1)
        if index % a == 0
        for b in range(1, index // a + 1)
        if index // a % b == 0
        for i, j, k in product(range(b), range(index // (a * b)), range(index // (a * b)))
    ]


@cache
def supercells(space_group: int, index: int) -> tuple[Supercell, ...]:
    """The superlattices of this index that the space group does not make equivalent."""
    rotations, _ = operations(space_group)
    seen: set[bytes] = set()
    found = []
    for rows in hermite_forms(index):
        if rows.tobytes() in seen:
            continue
        # a lattice point n (row) goes to n Wᵀ
        images = [hermite_form(rows @ w.T) for w in rotations]
        seen |= {image.tobytes() for image in images}
        kept = [i for i, image in enumerate(images) if (image == rows).all()]
        found.append(Supercell(rows, np.array(kept)))
    return tuple(found)


def hermite_form(rows: Int[np.ndarray, "3 3"]) -> Int[np.ndarray, "3 3"]:
    """The upper triangular basis, non-negative above a positive diagonal, of a lattice."""
    rows = rows.copy()
    for k in range(3):
        while (np.abs(rows[k:, k]) > 0).sum() > 1:
            column = np.abs(rows[k:, k]).astype(float)
            least = k + int(np.where(column > 0, column, np.inf).argmin())
            rows[[k, least]] = rows[[least, k]]
            rows[k + 1 :] -= rows[k + 1 :, k : k + 1] // rows[k, k] * rows[k]
        if rows[k, k] == 0:
            below = k + int(np.abs(rows[k:, k]).argmax())
            rows[[k, below]] = rows[[below, k]]
        rows[k] *= np.sign(rows[k, k])
        rows[:k] -= rows[:k, k : k + 1] // rows[k, k] * rows[k]
    return rows


def inside(rows: Int[np.ndarray, "3 3"]) -> Int[np.ndarray, "cells 3"]:
    """The parent's lattice points in a supercell, in the order of ``place``."""
    return np.array(list(product(*(range(n) for n in np.diag(rows).tolist()))))


def place(
    points: Int[np.ndarray, "*shape 3"], rows: Int[np.ndarray, "3 3"]
) -> Int[np.ndarray, "*shape"]:
    """Which of the points ``inside`` each lattice point is equivalent to."""
    rest = points.copy()
    for k in range(3):
        rest = rest - (rest[..., k] // rows[k, k])[..., None] * rows[k]
    _, b, c = np.diag(rows).tolist()
    return (rest[..., 0] * b + rest[..., 1]) * c + rest[..., 2]


def permutations_of(
    cell: Supercell, space_group: int, sites: Float[np.ndarray, "sites 3"]
) -> Int[np.ndarray, "operations all_sites"]:
    """Where each operation carries the sites of a supercell; translations come first.

    Site s of lattice point t is number t · sites + s.
    """
    rotations, translations = operations(space_group)
    rotations, translations = rotations[cell.kept], translations[cell.kept]
    moved = np.einsum("gij,nj->gni", rotations, sites) + translations[:, None]
    apart = moved[:, :, None] - sites
    onto = (np.abs(apart - np.rint(apart)) ** 2).sum(-1).argmin(-1)
    shift = np.rint(np.take_along_axis(apart, onto[:, :, None, None], 2)[:, :, 0])
    points = inside(cell.rows)
    rotated = np.einsum("gij,tj->gti", rotations, points)
    # operations, translations added, lattice points, sites
    target = (
        rotated[:, None, :, None]
        + shift.astype(int)[:, None, None]
        + points[None, :, None, None]
    )
    number = place(target, cell.rows) * len(sites) + onto[:, None, None]
    number = number.reshape(len(rotations), len(points), -1)
    first = int(np.flatnonzero((rotations == np.eye(3)).all((1, 2)))[0])
    order = [first, *(g for g in range(len(rotations)) if g != first)]
    return number[order].reshape(-1, number.shape[-1])


def colourings(sites: int, wanted: Wanted) -> Int[np.ndarray, "colourings sites"]:
    """All ways to give ``sites`` places colours, each (colour, count) of them."""
    (colour, count), *rest = wanted
    if not rest:
        return np.full((1, sites), colour)
    chosen = np.array(list(combinations(range(sites), count)), int).reshape(-1, count)
    free = np.ones((len(chosen), sites), bool)
    np.put_along_axis(free, chosen, False, 1)
    others = colourings(sites - count, tuple(rest))
    every = np.full((len(chosen), len(others), sites), colour)
    every[np.broadcast_to(free[:, None], every.shape)] = np.tile(
        others.ravel(), len(chosen)
    )
    return every.reshape(-1, sites)


def number_of_colourings(wanted: Wanted) -> int:
    """How many ``colourings`` there are."""
    left = sum(count for _, count in wanted)
    ways = 1
    for _, count in wanted:
        ways *= comb(left, count)
        left -= count
    return ways


def orderings(
    cell: Supercell,
    space_group: int,
    sites: Float[np.ndarray, "sites 3"],
    slot: Int[np.ndarray, " sites"],
    wanted: dict[int, Wanted],
) -> Iterator[Int[np.ndarray, " all_sites"]]:
    """Distinct colourings of a supercell in which slot k holds ``wanted[k]``.

    ``sites`` are those of the parent in its standard primitive setting, fractional. Slots
    are whole orbits of the space group. Supercells with more than MOST_COLOURINGS
    colourings give none.
    """
    if prod(number_of_colourings(w) for w in wanted.values()) > MOST_COLOURINGS:
        return
    every = _of_slots(np.tile(slot, cell.index), wanted)
    number = {colours.tobytes(): i for i, colours in enumerate(every)}
    moves = permutations_of(cell, space_group, sites)
    seen = np.zeros(len(every), bool)
    for i, colours in enumerate(every):
        if seen[i]:
            continue
        images = [number[image.tobytes()] for image in colours[moves]]
        seen[images] = True
        if i not in images[1 : cell.index]:
            yield colours


def _of_slots(
    slots: Int[np.ndarray, " sites"], wanted: dict[int, Wanted]
) -> Int[np.ndarray, "colourings sites"]:
    """The colourings of every slot, combined."""
    every = np.zeros((1, len(slots)), int)
    for k, counts in wanted.items():
        ways = colourings(int((slots == k).sum()), counts)
        combined = np.repeat(every, len(ways), 0)
        combined[:, slots == k] = np.tile(ways, (len(every), 1))
        every = combined
    return every
