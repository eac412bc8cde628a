"""Which elements go on which sites of a type.

A *filling* names for every slot of a type the elements in it, mostly one. Where a formula
has more elements than the type has species, alike elements share a slot and are then
ordered over its orbits, which keeps the space group; where it has fewer, several slots take
the same element.
"""

from collections.abc import Iterator
from itertools import islice, product

import numpy as np
from jaxtyping import Int

Filling = tuple[tuple[int, ...], ...]

ANIONS = frozenset({1, 7, 8, 9, 16, 17, 34, 35, 52, 53})
DECORATIONS = 12  # orderings of one filling, at most
MOST = 1000  # fillings that are followed up, so that many elements do not explode


def fillings(counts: tuple[int, ...], contents: dict[int, int]) -> list[Filling]:
    """Every way to put elements (atomic number: count) into slots of these counts."""
    if sum(counts) != sum(contents.values()):
        return []
    if len(counts) < len(contents):
        return sorted(_shared(counts, contents))
    partial: list[tuple[Filling, dict[int, int]]] = [((), contents)]
    for n in reversed(counts):
        partial = [
            (((z,), *chosen), {**left, z: left[z] - n})
            for chosen, left in partial
            for z in left
            if left[z] >= n
        ][:MOST]
    return sorted(chosen for chosen, _ in partial)


def _shared(counts: tuple[int, ...], contents: dict[int, int]) -> set[Filling]:
    """Ways to divide the elements among fewer slots, anions apart from the rest."""
    empty: Filling = tuple(() for _ in counts)
    partial = [(empty, counts)]
    for z, n in sorted(contents.items(), key=lambda item: -item[1]):
        partial = [
            (
                tuple((*g, z) if i == k else g for i, g in enumerate(groups)),
                tuple(r - n if i == k else r for i, r in enumerate(room)),
            )
            for groups, room in partial
            for k in range(len(counts))
            if room[k] >= n
            and all((z in ANIONS) == (other in ANIONS) for other in groups[k])
        ][:MOST]
    return {
        tuple(tuple(sorted(group)) for group in groups)
        for groups, room in partial
        if not any(room)
    }


def decorations(
    filling: Filling,
    slot: Int[np.ndarray, " atoms"],
    orbit: Int[np.ndarray, " atoms"],
    contents: dict[int, int],
) -> list[Int[np.ndarray, " atoms"]]:
    """Atomic numbers of the sites: each orbit takes one element of its slot."""
    choices = []
    for k, group in enumerate(filling):
        names, sizes = np.unique(orbit[slot == k], return_counts=True)
        wanted = {z: contents[z] for z in group}
        if len(group) == 1:
            wanted = {group[0]: int(sizes.sum())}
        orderings = _divided(names.tolist(), sizes.tolist(), wanted)
        choices.append(list(islice(orderings, DECORATIONS)))
    found = []
    for choice in product(*choices):
        numbers = np.zeros(len(slot), np.int64)
        for orbits in choice:
            for name, z in orbits:
                numbers[orbit == name] = z
        found.append(numbers)
        if len(found) == DECORATIONS:
            break
    return found


def _divided(
    names: list[int], sizes: list[int], wanted: dict[int, int]
) -> Iterator[tuple[tuple[int, int], ...]]:
    """Elements for orbits of these sizes so that each element gets its count."""
    if not names:
        yield ()
        return
    for z, left in wanted.items():
        if left >= sizes[0]:
            for rest in _divided(names[1:], sizes[1:], {**wanted, z: left - sizes[0]}):
                yield ((names[0], z), *rest)
