"""Formulas of elements of which the ratios are not known, each asked of known types.

Ratios are those of structure types with as many species: the more compounds a type has, the
likelier. Which element takes which number is left open, as long as charges can balance;
compounds that the library knows come first. The pattern decides: fits of all formulas are
ranked together.
"""

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cache
from itertools import permutations

import torch

from xrdkit.generators import templates
from xrdkit.library import Library
from xrdkit.phases import known_types, reduced_name
from xrdkit.types import Candidate, Fit, Problem, Progress

FORMULAS, MOST = 24, 6  # that are tried, of at most so many elements
UNBALANCED, LISTED = 0.1, 10.0  # factors of weights: of charges, of a known compound
LOOKED_UP = 20  # times as many formulas are looked up in the library
ANIONS = {"N", "O", "F", "S", "Cl", "Br", "I"}  # whose compounds balance their charges
STAGE = "formulas"
UNKNOWN = "no type of {} species is known, or they are more than {}; give the formula"


def needed(problem: Problem, fits: Sequence[Fit]) -> bool:
    """Whether the formula is not known."""
    return not problem.formula


def propose(
    problem: Problem, *, count: int, generator: torch.Generator, device: torch.device
) -> Iterator[Progress]:
    """Known types with the likeliest formulas of the elements.

    The log prior of a candidate is less by that of its formula, relative to the likeliest.
    """
    asked = likely(problem.library, problem.elements)
    if not asked:
        yield Progress(STAGE, 0, 1, None, UNKNOWN.format(len(problem.elements), MOST))
        return []
    found: list[Candidate] = []
    each = max(1, 2 * count // (3 * len(asked)))  # half as many more may share slots
    settings = {"count": each, "generator": generator, "device": device}
    for i, (formula, weight) in enumerate(asked):
        name = reduced_name(templates.numbered(formula))
        yield Progress(STAGE, i, len(asked), None, name)
        own = replace(problem, formula=formula)
        part = yield from templates.propose(own, **settings)
        found += [replace(one, prior=one.prior + math.log(weight)) for one in part]
    return found[:count]


def likely(
    library: Library, elements: Sequence[str], count: int = FORMULAS
) -> list[tuple[dict[str, float], float]]:
    """Reduced formulas of all of these elements, and weights beside the likeliest.

    None where no type has as many species, or they are more than ``MOST``.
    """
    if len(elements) > MOST:
        return []
    weights: dict[tuple[int, ...], float] = {}
    for ratios, members in ratios_of(library, len(elements)).items():
        for order in set(permutations(ratios)):
            weights[order] = members * (1 if balanced(elements, order) else UNBALANCED)
    most = sorted(weights, key=lambda order: (-weights[order], order))[: LOOKED_UP * count]
    judged = []
    for order in most:
        formula = dict(zip(elements, map(float, order), strict=True))
        listed = known_types(library, reduced_name(templates.numbered(formula)))
        judged.append((formula, weights[order] * (LISTED if listed else 1)))
    judged.sort(key=lambda pair: -pair[1])
    return [(formula, weight / judged[0][1]) for formula, weight in judged[:count]]


def ratios_of(library: Library, species: int) -> Counter[tuple[int, ...]]:
    """Ratios of types with so many species, smallest first, and compounds of each."""
    found: Counter[tuple[int, ...]] = Counter()
    seen = set()
    for row in library.rows.tolist():
        kind = int(library.kind[row])
        if kind in seen:
            continue
        seen.add(kind)
        slots = library.slot[library.atoms(row)]
        numbers = Counter(slots.tolist())
        if len(numbers) == species:
            unit = math.gcd(*numbers.values())
            ratios = tuple(sorted(n // unit for n in numbers.values()))
            found[ratios] += int(library.type_size[kind])
    return found


def balanced(elements: Sequence[str], amounts: Sequence[int]) -> bool:
    """Whether charges can balance, one state of oxidation for each element.

    Always where there is no anion, as in alloys and borides. States are those of the ICSD.
    """
    if len(elements) == 1 or ANIONS.isdisjoint(elements):
        return True
    sums = {0}
    for element, amount in zip(elements, amounts, strict=True):
        sums = {total + amount * q for total in sums for q in charges(element)}
    return 0 in sums


@cache
def charges(element: str) -> tuple[int, ...]:
    """States of oxidation that are found in the ICSD, or any known ones."""
    from pymatgen.core import Element

    one = Element(element)
    return one.icsd_oxidation_states or one.oxidation_states
