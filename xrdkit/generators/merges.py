"""Which species of a formula may share a site: like ones, or one and vacancies."""

from dataclasses import dataclass
from itertools import combinations
from math import ceil

import numpy as np

from xrdkit.generators.assign import ANIONS, Filling
from xrdkit.library import mendeleev_numbers

MERGES = 12  # ways to merge species, the most alike first
DIVIDED = 7  # elements up to which every division is looked at (their number explodes)
FILLED = (3 / 4, 2 / 3, 1 / 2)  # share of a species' sites beside vacancies
WHOLE = 0.01  # what a number of atoms may be off a whole number


@dataclass(frozen=True)
class Merge:
    """Species of a parent as groups of elements, and sites of each element per formula.

    Element 0 is a vacancy. Formula and counts are those of the problem, not reduced.
    """

    groups: Filling
    contents: dict[int, float]

    @property
    def sites(self) -> float:
        """Sites per formula unit, vacancies included."""
        return sum(self.contents.values())


def merges(formula: dict[int, float]) -> list[Merge]:
    """Ways to merge species, chemically alike ones first; then species with vacancies.

    Anions are merged with anions, other elements with each other. Where a formula lacks a
    part of a whole number of sites, the rest are vacancies.
    """
    scale = mendeleev_numbers()

    def unlike(groups: Filling) -> float:
        return float(sum(np.ptp(scale[list(group)]) for group in groups))

    elements = sorted(formula)
    alone = tuple((z,) for z in elements)
    divide = partitions if len(elements) <= DIVIDED else single_merges
    every = [filled_up(p, formula) for p in sorted(divide(elements), key=unlike)]
    found = [m for m in every if m.groups != alone][:MERGES]
    for z in elements if len(elements) > 1 else ():
        groups = tuple((0, z) if one == (z,) else one for one in alone)
        found += [
            Merge(groups, {**formula, 0: formula[z] * (1 / share - 1)}) for share in FILLED
        ]
    return found


def filled_up(groups: Filling, formula: dict[int, float]) -> Merge:
    """A merge, with vacancies if the sites of one of its groups are no whole number."""
    sites = [sum(formula[z] for z in group) for group in groups]
    empty = [ceil(n - WHOLE) - n for n in sites]
    short = [i for i, n in enumerate(empty) if n > WHOLE]
    if len(short) != 1:
        return Merge(groups, formula)
    (i,) = short
    filled = (*groups[:i], (0, *groups[i]), *groups[i + 1 :])
    return Merge(filled, {**formula, 0: empty[i]})


def partitions(elements: list[int]) -> list[Filling]:
    """All ways to divide elements into groups, anions apart from the rest."""
    found: list[Filling] = [()]
    for z in elements:
        found = [
            (*groups[:i], (*groups[i], z), *groups[i + 1 :]) if i < len(groups)
            else (*groups, (z,))
            for groups in found
            for i in range(len(groups) + 1)
            if i == len(groups) or (z in ANIONS) == (groups[i][0] in ANIONS)
        ]  # fmt: skip
    return found


def single_merges(elements: list[int]) -> list[Filling]:
    """Divisions of many elements in which one pair or triple alone is merged."""
    joined_ones = [
        one
        for size in (2, 3)
        for one in combinations(elements, size)
        if len({z in ANIONS for z in one}) == 1
    ]
    return [(*((z,) for z in elements if z not in one), one) for one in joined_ones]


def unlike(groups: Filling) -> bool:
    """Whether cations share a site, beside anions, that are more than a group apart.

    Their charges differ, so that whole numbers of them order: Al and P, Mg and Si.
    """
    if not any(z in ANIONS for group in groups for z in group):
        return False
    shared = [[z for z in g if z and z not in ANIONS] for g in groups]
    columns = [[group_of(z) for z in one] for one in shared if one]
    return any(max(one) - min(one) > 1 for one in columns)


def group_of(number: int) -> int:
    """The group of the periodic table (1–18), 3 for lanthanides and actinides."""
    from pymatgen.core import Element

    return Element.from_Z(number).group
