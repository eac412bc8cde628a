"""Soft restraints on distances, angles and parameters: observations beside the profile."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from xrdkit.refine.rietveld.geometry import (
    Contact,
    angle,
    contacts,
    distance,
    distinct,
    too_close,
)
from xrdkit.refine.rietveld.table import Parameters

NEAR = 1.3  # times the target distance: pairs of elements within are restrained
ANGLES = 2.2  # Å, to both ends of an angle between elements


@dataclass(frozen=True)
class Restraint:
    """Distance (Å) of two atoms or angle (°) at the second of three, with its tolerance.

    ``atoms`` are labels such as ("P1", "O2"), which stand for the nearest pair, or elements
    such as ("P", "O"), which stand for all pairs up to 1.3 times the target, each that
    symmetry does not make equal to another one being an observation; ``phase`` counts from
    0.
    """

    atoms: tuple[str, ...]
    target: float | int
    tolerance: float | int
    phase: int = 0

    def __post_init__(self) -> None:
        if len(self.atoms) not in (2, 3):
            raise ValueError(
                f"restraint on {len(self.atoms)} atoms; give two (distance) or three "
                "(angle)"
            )
        if not (self.tolerance > 0 and self.target > 0):
            raise ValueError(
                f"restraint {self.target:g} ± {self.tolerance:g}: both must be positive"
            )


@dataclass(frozen=True)
class Apart:
    """Atoms closer than 0.72 of the sum of their covalent radii are pushed apart.

    ``tolerance`` (Å) is the standard deviation of that limit.
    """

    tolerance: float | int = 0.02


def pulls(
    table: Parameters,
    values: Float[np.ndarray, " rows"],
    restraints: tuple[Restraint | Apart, ...],
) -> tuple[Float[np.ndarray, " pulls"], Float[np.ndarray, "pulls rows"]]:
    """(target - value) / tolerance of every restraint, and ∂value / tolerance by row."""
    pull, slopes = [], []
    for i, row in enumerate(table.rows):
        if row.restraint is not None:
            slope = np.zeros(len(table))
            slope[i] = 1 / row.restraint[1]
            pull.append((row.restraint[0] - values[i]) / row.restraint[1])
            slopes.append(slope)
    for restraint in restraints:
        if isinstance(restraint, Apart):
            for value, slope in _missing(table, values):
                pull.append(value / restraint.tolerance)
                slopes.append(slope / restraint.tolerance)
            continue
        for value, slope in _measured(table, values, restraint):
            pull.append((restraint.target - value) / restraint.tolerance)
            slopes.append(slope / restraint.tolerance)
    return np.array(pull), np.array(slopes).reshape(-1, len(table))


def _missing(
    table: Parameters, values: Float[np.ndarray, " rows"]
) -> list[tuple[float, Float[np.ndarray, " rows"]]]:
    """What atoms of all phases lack of their limits (Å), and derivatives of distances."""
    found = []
    for phase in range(len(table.units)):
        for contact, limit in too_close(table, values, phase):
            length, slope = distance(table, values, phase, contact)
            found.append((limit - length, slope))
    return found


def _measured(
    table: Parameters, values: Float[np.ndarray, " rows"], restraint: Restraint
) -> list[tuple[float, Float[np.ndarray, " rows"]]]:
    """Values, and derivatives by row, of all that a restraint stands for."""
    phase, atoms = restraint.phase, restraint.atoms
    if not 0 <= phase < len(table.units):
        raise ValueError(f"restraint on phase {phase}; there are {len(table.units)}")
    if len(atoms) == 2:
        near = contacts(table, values, phase, NEAR * restraint.target + 0.5)
        found = [(c,) for c in _around(table, restraint, near, *atoms)]
        measure = distance
    else:
        near = contacts(table, values, phase, ANGLES)
        ends = [_around(table, restraint, near, atoms[1], atoms[k]) for k in (0, 2)]
        found = [(a, b) for a in ends[0] for b in ends[1] if a.i == b.i and a is not b]
        measure = angle
    alone = distinct(table, values, phase, found)
    return _chosen([measure(table, values, phase, *c) for c in alone], restraint, table)


def _around(
    table: Parameters, restraint: Restraint, near: list[Contact], centre: str, end: str
) -> list[Contact]:
    return [c for c in near if _pair(table, restraint, c, centre, end)]


def _pair(
    table: Parameters, restraint: Restraint, contact: Contact, one: str, other: str
) -> bool:
    """Whether a contact goes from ``one`` to ``other``, each a label or an element."""
    sites = table.units[restraint.phase].sites
    i, j = sites[contact.i], sites[contact.j]
    return one in (i.label, i.element) and other in (j.label, j.element)


def _chosen(
    found: list[tuple[float, Float[np.ndarray, " rows"]]],
    restraint: Restraint,
    table: Parameters,
) -> list[tuple[float, Float[np.ndarray, " rows"]]]:
    """Of labels the nearest to the target, of elements all that are near."""
    labels = {site.label for site in table.units[restraint.phase].sites}
    if not found:
        names = ", ".join(sorted(labels))
        raise ValueError(
            f"restraint {'–'.join(restraint.atoms)} {restraint.target:g}: no such atoms "
            f"near each other; sites are {names}"
        )
    found = sorted(found, key=lambda one: abs(one[0] - restraint.target))
    if labels.issuperset(restraint.atoms):
        return found[:1]
    return [one for one in found if one[0] < NEAR * restraint.target]
