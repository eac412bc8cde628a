"""One description of a crystal out of the many: cell, axes and origin chosen by rule.

The cell is the primitive one of spglib's standard setting. Axes and origins that leave the
operations of the space group what they are (its Euclidean normaliser, for a cell of no
higher metric than its group demands) are all tried, mirror images and, in polar groups,
origins level with every atom among them: no powder pattern tells these descriptions apart.
The one is taken whose electrons are nearest to a place close to the origin: mostly the
heaviest atom of highest symmetry lies there, and the origin keeps its symmetry.
"""

from functools import cache
from itertools import product
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from xrdkit.crystal import standard_cell
from xrdkit.space_group import operations

PLACE = np.array([0.023, 0.016, 0.009])  # uneven, so that no two descriptions tie
SHARP = 6.0  # of the bump about it: σ = 0.065 of an edge
PARTS = 24  # origins are looked for at multiples of 1/24


class Pose(NamedTuple):
    """A crystal in its standard primitive cell, edges in Å."""

    space_group: int
    lattice: Float[np.ndarray, "3 3"]
    frac: Float[np.ndarray, "atoms 3"]
    numbers: Int[np.ndarray, " atoms"]


def canonical(
    lattice: Float[np.ndarray, "3 3"],
    frac: Float[np.ndarray, "atoms 3"],
    numbers: Int[np.ndarray, " atoms"],
    symprec: float = 0.1,
) -> Pose | None:
    """The description, symmetry at ``symprec`` (Å) imposed; None where none is found."""
    cell = standard_cell(lattice, frac, numbers, symprec)
    if cell is None:
        return None
    turns, shifts = descriptions(cell.space_group, cell.frac)
    every = np.einsum("pij,aj->pai", turns, cell.frac) + shifts[:, None]
    near = np.exp(SHARP * (np.cos(2 * np.pi * (every - PLACE)) - 1).sum(-1))
    best = int((near @ cell.numbers).argmax())
    frac = np.mod(np.mod(every[best], 1), 1)
    return Pose(cell.space_group, cell.lattice, frac, cell.numbers)


def descriptions(
    space_group: int, frac: Float[np.ndarray, "atoms 3"]
) -> tuple[Int[np.ndarray, "poses 3 3"], Float[np.ndarray, "poses 3"]]:
    """All W and s of x' = W x + s that describe the crystal as well, in its standard cell.

    One of each class that the space group itself makes equal; where the origin is free,
    those that put it level with an atom.
    """
    turns, shifts = normaliser(space_group)
    free = operations(space_group)[0].mean(0)  # keeps the part along polar directions
    if not free.round(6).any():
        return turns, shifts
    moved = np.einsum("pij,aj->pai", turns, frac) + shifts[:, None]
    level = shifts[:, None] - moved @ free.T
    return np.repeat(turns, len(frac), 0), level.reshape(-1, 3)


@cache
def normaliser(
    space_group: int,
) -> tuple[Int[np.ndarray, "poses 3 3"], Float[np.ndarray, "poses 3"]]:
    """Coset representatives of the Euclidean normaliser, without free origin shifts."""
    rotations, translations = operations(space_group)
    known = {r.tobytes() for r in rotations}
    turns, shifts, done = [], [], set()
    for turn in _holohedry(rotations):
        back = np.rint(np.linalg.inv(turn)).astype(int)
        turned = turn @ rotations @ back
        if turn.tobytes() in done or any(t.tobytes() not in known for t in turned):
            continue
        done |= {(r @ turn).tobytes() for r in rotations}
        for shift in _shifts(turned, translations @ turn.T, rotations, translations):
            turns.append(turn)
            shifts.append(shift)
    return np.array(turns), np.array(shifts)


@cache
def unimodular() -> Int[np.ndarray, "matrices 3 3"]:
    """Integer matrices of determinant ±1 with entries -1, 0 and 1; the first is unity."""
    every = np.array(list(product((-1, 0, 1), repeat=9)), dtype=np.int8).reshape(-1, 3, 3)
    kept = every[np.abs(np.rint(np.linalg.det(every.astype(float)))) == 1]
    unity = (kept == np.eye(3)).all((1, 2))
    return np.concatenate([kept[unity], kept[~unity]])


def _holohedry(rotations: Int[np.ndarray, "operations 3 3"]) -> Int[np.ndarray, "all 3 3"]:
    """Matrices that keep the metric of a cell with this symmetry and no more."""
    rough = np.array([[1.0, 0.11, 0.07], [0.11, 1.3, 0.05], [0.07, 0.05, 1.7]])
    metric = np.einsum("gji,jk,gkl->il", rotations, rough, rotations) / len(rotations)
    every = unimodular().astype(int)
    off = np.einsum("mji,jk,mkl->mil", every, metric, every) - metric
    return np.ascontiguousarray(every[np.abs(off).max((1, 2)) < 1e-6])


def _shifts(
    turned: Int[np.ndarray, "operations 3 3"],
    carried: Float[np.ndarray, "operations 3"],
    rotations: Int[np.ndarray, "operations 3 3"],
    translations: Float[np.ndarray, "operations 3"],
) -> list[Float[np.ndarray, "3"]]:
    """Origins s with (1 - R') s = t' - W t for all operations, modulo the lattice.

    What lies along a polar direction is taken off: there any origin will do.
    """
    place = {r.tobytes(): t for r, t in zip(rotations, translations, strict=True)}
    asked = np.rint(PARTS * (np.array([place[r.tobytes()] for r in turned]) - carried))
    s = np.stack(np.meshgrid(*[np.arange(PARTS)] * 3, indexing="ij"), -1).reshape(-1, 3)
    for rotation, wanted in zip(turned, asked.astype(int), strict=True):
        s = s[((s - s @ rotation.T - wanted) % PARTS == 0).all(1)]
    rest = np.mod(s @ (np.eye(3) - rotations.mean(0)).T / PARTS, 1)
    kept = np.unique(np.mod(rest.round(6), 1), axis=0)
    return list(kept)
