"""Hydrogen left out or added: X-rays hardly see it, and formulas may not name it.

A formula with hydrogen is also tried on types without, and an oxide's formula without
hydrogen on the types in which the library has it.
"""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import torch
from jaxtyping import Float, Int

from xrdkit.generators.templates import numbered, substitutions
from xrdkit.library import Library, expected_volume, mendeleev_numbers
from xrdkit.problem import whole
from xrdkit.types import Problem, Progress

UNEXPLAINED = 0.25  # residual above which other hydrogen contents are tried
FEWER = 6  # times fewer candidates of each amount of hydrogen
LOST = 6.0  # in the prior by another hydrogen content than was asked for


def propose(
    problem: Problem, *, count: int, generator: torch.Generator, device: torch.device
) -> Iterator[Progress]:
    """Substitutions with another hydrogen content; their origin says so."""
    found = []
    for asked, volume, note in hydrogen_variants(problem):
        more = yield from substitutions(asked, volume, max(count // FEWER, 1))
        found += [replace(c, origin=c.origin + note, prior=c.prior - LOST) for c in more]
    return found


def hydrogen_variants(problem: Problem) -> list[tuple[Problem, float, str]]:
    """The problem without its hydrogen, or with hydrogen that the formula does not name.

    With the expected volume per atom (Å³) and a note for the origin. Hydrogen is added to
    oxides only, in the amounts and types in which the library has it.
    """
    formula, library = problem.formula, problem.library
    if not whole(formula):
        return []
    if "H" in formula:
        bare = _less_hydrogen(formula)
        if not bare:
            return []
        share = sum(formula.values()) / sum(bare.values())
        volume = expected_volume(library, numbered(formula)) * share
        contents = problem.contents and _less_hydrogen(problem.contents)
        asked = replace(problem, formula=bare, contents=contents)
        return [(asked, volume, ", H not placed")]
    if "O" not in formula or problem.contents:
        return []
    rows, per_atom = hydrogen_in(library)
    amounts = per_atom * sum(formula.values())
    possible = np.isclose(amounts, np.rint(amounts))
    others = np.setdiff1d(library.kind, library.kind[rows])
    hydrides = library.without_types(others)
    variants = []
    for n in np.unique(np.rint(amounts[possible])):
        asked = replace(problem, formula={**formula, "H": float(n)}, library=hydrides)
        volume = expected_volume(library, numbered(asked.formula))
        variants.append((asked, volume, ", H added"))
    return variants


def _less_hydrogen(counts: dict[str, float]) -> dict[str, float]:
    return {element: n for element, n in counts.items() if element != "H"}


def hydrogen_in(
    library: Library,
) -> tuple[Int[np.ndarray, " rows"], Float[np.ndarray, " rows"]]:
    """Members in use that have a hydrogen slot, and their hydrogen per other atom."""
    owner = np.repeat(np.arange(len(library.kind)), library.counts)
    is_hydrogen = library.nature[owner, library.slot] == mendeleev_numbers()[1]
    n = np.bincount(owner, weights=is_hydrogen, minlength=len(library.kind))
    rows = library.rows[(n[library.rows] > 0) & (n < library.counts)[library.rows]]
    return rows, n[rows] / (library.counts - n)[rows]
