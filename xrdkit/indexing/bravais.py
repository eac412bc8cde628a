"""Lattices as such: Bravais type, standard setting, equality, superlattices."""

from itertools import product

import numpy as np
from jaxtyping import Float, Int

from xrdkit.space_group import CENTRING, quiet_spglib

Rows = Float[np.ndarray, "3 3"]

HOLOHEDRY = {  # space group of a lattice of points: Bravais symbol
    2: "aP", 10: "mP", 12: "mC", 47: "oP", 65: "oC", 69: "oF", 71: "oI", 123: "tP",
    139: "tI", 166: "hR", 191: "hP", 221: "cP", 225: "cF", 229: "cI",
}  # fmt: skip
SAME_EDGE, SAME_ANGLE = 0.02, 2.0  # relative, degrees


def parameters(lattice: Rows) -> tuple[float, ...]:
    """a, b, c (Å), α, β, γ (°) of lattice rows."""
    edges = np.linalg.norm(lattice, axis=1)
    units = lattice / edges[:, None]
    cosines = [units[1] @ units[2], units[0] @ units[2], units[0] @ units[1]]
    angles = np.degrees(np.arccos(np.clip(cosines, -1, 1)))
    return (*map(float, edges), *map(float, angles))


def primitive(lattice: Rows, centring: str) -> Rows:
    """Rows of a primitive cell of a conventional one."""
    return CENTRING[centring] @ lattice


def standard(lattice: Rows, tolerance: float = 0.005) -> tuple[str, Rows]:
    """Bravais symbol and standard conventional rows (Å) of a primitive lattice.

    The symmetry is that of the metric: points that a rotation moves by less than
    ``tolerance`` times the mean edge coincide.
    """
    length = abs(float(np.linalg.det(lattice))) ** (1 / 3)
    with quiet_spglib() as spglib:
        point = (lattice, np.zeros((1, 3)), [1])
        found = spglib.get_symmetry_dataset(point, symprec=tolerance * length)
    if found is None or found.number not in HOLOHEDRY:
        return "aP", reduced(lattice)
    symbol = HOLOHEDRY[found.number]
    rows = reduced(lattice) if symbol == "aP" else np.asarray(found.std_lattice)
    return symbol, rows


def reduced(lattice: Rows) -> Rows:
    """Niggli-reduced rows."""
    with quiet_spglib() as spglib:
        found = spglib.niggli_reduce(lattice)
    return lattice if found is None else np.asarray(found)


def same_lattice(one: Rows, other: Rows) -> bool:
    """Whether two primitive lattices agree: edges within 2 %, angles within 2°.

    Some basis of the one must match the Niggli cell of the other; a lattice twice as large
    is another lattice.
    """
    from pymatgen.core import Lattice

    ratio = abs(np.linalg.det(one) / np.linalg.det(other))
    if abs(np.log(ratio)) > 3 * SAME_EDGE:
        return False
    target, given = Lattice(reduced(one)), Lattice(reduced(other))
    return target.find_mapping(given, ltol=SAME_EDGE, atol=SAME_ANGLE) is not None


def superlattices(index: int) -> Int[np.ndarray, "cells 3 3"]:
    """Every superlattice of an index as rows in Hermite normal form."""
    found = []
    for a, b in product(range(1, index + 1), repeat=2):
        if index % (a * b):
            continue
        c = index // (a * b)
        for x, y, z in product(range(b), range(c), range(c)):
            found.append([[a, x, y], [0, b, z], [0, 0, c]])
    return np.array(found)
