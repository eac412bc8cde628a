"""Higher symmetry that a refined structure nearly has: noise must not hide it.

A structure from a distorted type, or an ordering, may have refined to within its errors of
a more symmetric one. That one has fewer parameters, and is refined beside it.
"""

import numpy as np

from xrdkit.crystal import one_crystal, places, standard_cell, symmetry_of
from xrdkit.space_group import operations
from xrdkit.types import Candidate, Fit, Problem

TOLERANCES = (0.1, 0.25, 0.5)  # Å
FULL = 0.999  # least occupancy of a site that counts as full


def raised(fit: Fit, problem: Problem) -> list[Candidate]:
    """The structures of higher symmetry that are near a fit of fully occupied sites.

    None where the space group is given; as many atoms where the contents are.
    """
    phase = fit.phases[0]
    lattice = phase.crystal.lattice[0].double().numpy()
    frac, numbers = phase.crystal.frac.double().numpy(), phase.crystal.numbers.numpy()
    mixed = len(places(frac)[0]) < len(frac) or (phase.crystal.occupancy < FULL).any()
    if mixed or problem.space_group is not None:
        return []
    found: dict[tuple[int, int], Candidate] = {}
    least = symmetry_per_atom(phase.symmetry.number, len(frac))
    for tolerance in TOLERANCES:
        cell = standard_cell(lattice, frac, numbers, tolerance)
        if cell is None or not same_formula(numbers, cell.numbers):
            continue
        key = cell.space_group, len(cell.frac)
        fewer = problem.contents is not None and key[1] != len(frac)
        if key in found or fewer or symmetry_per_atom(*key) <= least:
            continue
        found[key] = Candidate(
            one_crystal(cell.lattice, cell.frac, cell.numbers),
            symmetry_of(cell.space_group, cell.lattice, cell.frac, cell.numbers),
            f"{fit.origin}, symmetrised",
            fit.prior,
            fit.known,
            fit.swelling,
        )
    return list(found.values())


def symmetry_per_atom(space_group: int, atoms: int) -> float:
    """Operations of the primitive cell over its atoms: rises with true symmetry alone."""
    return len(operations(space_group)[0]) / atoms


def same_formula(one: np.ndarray, other: np.ndarray) -> bool:
    """Whether two cells hold the same elements in the same ratios."""
    kinds = [np.unique(numbers, return_counts=True) for numbers in (one, other)]
    (a, m), (b, n) = kinds
    return np.array_equal(a, b) and bool((m * n.sum() == n * m.sum()).all())
