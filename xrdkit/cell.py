"""Cells in any setting: how a template's lattice maps onto a given cell."""

import numpy as np
from jaxtyping import Float

from xrdkit.crystal import kept_strain
from xrdkit.space_group import CENTRING, centring_letter, operations, quiet_spglib

LENGTH, ANGLE = 0.10, 6.0  # how far a template may be from the cell: relative, degrees
MISFIT = 0.02  # strain that the template's symmetry does not allow


def lattice_of(cell: tuple[float, ...]) -> Float[np.ndarray, "3 3"]:
    """Lattice rows in Å of a, b, c (Å), α, β, γ (°)."""
    from pymatgen.core import Lattice

    return Lattice.from_parameters(*cell).matrix.copy()


def onto_cell(
    lattice: Float[np.ndarray, "3 3"], space_group: int, cell: tuple[float, ...]
) -> list[Float[np.ndarray, "3 3"]]:
    """A standard primitive lattice strained onto a given cell, every way that comes close.

    The cell may be primitive or the centred conventional one, in any setting. Scale is free
    within the length tolerance; the strain keeps the space group.
    """
    rows = CENTRING[centring_letter(space_group)]
    given = lattice_of(cell)
    choices = [np.eye(3)] if rows is CENTRING["P"] else [np.eye(3), np.linalg.inv(rows)]
    found = []
    for multiple in choices:
        for target in _mappings(multiple @ lattice, given):
            strained = _strained(lattice, np.linalg.inv(multiple) @ target, space_group)
            if strained is not None:
                found.append(strained)
    return found


def _mappings(
    template: Float[np.ndarray, "3 3"], given: Float[np.ndarray, "3 3"]
) -> list[Float[np.ndarray, "3 3"]]:
    """The given lattice in bases like the template's, the two closest."""
    from pymatgen.core import Lattice

    volume = abs(np.linalg.det(given) / np.linalg.det(template))
    if abs(volume - 1) > 3 * LENGTH or not _alike(template, given):
        return []
    scaled = Lattice(template * volume ** (1 / 3))
    near: list[tuple[float, np.ndarray]] = []
    mappings = scaled.find_all_mappings(Lattice(given), ltol=LENGTH, atol=ANGLE)
    for aligned, _, integers in mappings:
        target = np.linalg.inv(integers) @ aligned.matrix
        apart = float(np.abs(target @ target.T - scaled.matrix @ scaled.matrix.T).sum())
        if all(abs(apart - other) > 1e-3 for other, _ in near):
            near.append((apart, target))
    return [target for _, target in sorted(near, key=lambda pair: pair[0])[:2]]


def _alike(one: Float[np.ndarray, "3 3"], other: Float[np.ndarray, "3 3"]) -> bool:
    """Whether the Niggli-reduced lattices have about the same edges."""
    with quiet_spglib() as spglib:
        reduced = [spglib.niggli_reduce(lattice) for lattice in (one, other)]
    if any(r is None for r in reduced):
        return True
    edges = [np.sort(np.linalg.norm(r, axis=1)) for r in reduced]
    edges = [e / e.prod() ** (1 / 3) for e in edges]
    return bool((np.abs(edges[0] / edges[1] - 1) < 2 * LENGTH).all())


def _strained(
    lattice: Float[np.ndarray, "3 3"], target: Float[np.ndarray, "3 3"], space_group: int
) -> Float[np.ndarray, "3 3"] | None:
    """The lattice with the metric of the target, as far as the space group allows."""
    inverse = np.linalg.inv(lattice)
    strain = _root(inverse @ (target @ target.T) @ inverse.T) - np.eye(3)
    rotations, _ = operations(space_group)
    kept = kept_strain(strain, rotations, lattice)
    if np.abs(strain - kept).max() > MISFIT:
        return None
    return lattice @ (np.eye(3) + kept)


def _root(matrix: Float[np.ndarray, "3 3"]) -> Float[np.ndarray, "3 3"]:
    """Square root of a symmetric positive matrix."""
    values, vectors = np.linalg.eigh((matrix + matrix.T) / 2)
    return (vectors * np.sqrt(values.clip(1e-12))) @ vectors.T
