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
from itertools import permutations

import torch

from xrdkit.generators import templates
from xrdkit.library import Library
from xrdkit.phases import known_types, reduced_name
from xrdkit.problem import by_number
from xrdkit.types import Candidate, Problem, Progress

FORMULAS = 24  # that are tried
UNBALANCED, LISTED = 0.1, 10.0  # factors of weights: of charges, of a known compound
ANIONS = {"N", "O", "F", "S", "Cl", "Br", "I"}  # whose compounds balance their charges
STAGE = "formulas"


def needed(problem: Problem, left: float) -> bool:
    """Whether the formula is not known."""
    return not problem.formula


def propose(
    problem: Problem, *, count: int, generator: torch.Generator, device: torch.device
) -> Iterator[Progress]:
    """Known types with the likeliest formulas of the elements.

    The log prior of a candidate is less by that of its formula, relative to the likeliest.
    """
    asked = likely(problem.library, problem.elements)
    found: list[Candidate] = []
    each = max(1, 2 * count // (3 * len(asked)))  # half as many more may share slots
    settings = {"count": each, "generator": generator, "device": device}
    for i, (formula, weight) in enumerate(asked):
        name = reduced_name({z: round(n) for z, n in by_number(formula).items()})
        yield Progress(STAGE, i, len(asked), None, name)
        own = replace(problem, formula=formula)
        part = yield from templates.propose(own, **settings)
        found += [replace(one, prior=one.prior + math.log(weight)) for one in part]
    return found[:count]


def likely(
    library: Library, elements: Sequence[str], count: int = FORMULAS
) -> list[tuple[dict[str, float], float]]:
    """Reduced formulas of all of these elements, and weights beside the likeliest."""
    weights: Counter[tuple[int, ...]] = Counter()
    for ratios, members in ratios_of(library, len(elements)).items():
        for order in set(permutations(ratios)):
            weights[order] += members
    most = [order for order, _ in weights.most_common(4 * count)]
    formulas = [dict(zip(elements, map(float, order), strict=True)) for order in most]
    judged = [
        (formula, weights[order] * plausible(library, formula))
        for formula, order in zip(formulas, most, strict=True)
    ]
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


def plausible(library: Library, formula: dict[str, float]) -> float:
    """Factor of a formula's weight: known compounds more, unbalanced charges less."""
    from pymatgen.core import Composition

    numbers = {z: round(n) for z, n in by_number(formula).items()}
    factor = LISTED if known_types(library, reduced_name(numbers)) else 1.0
    ionic = len(formula) > 1 and not ANIONS.isdisjoint(formula)
    if ionic and not Composition(formula).oxi_state_guesses():
        return factor * UNBALANCED
    return factor
