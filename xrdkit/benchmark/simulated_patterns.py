"""The MP-20 protocol: patterns simulated from table entries, solved with a library."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from math import gcd, lcm
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch

from xrdkit.benchmark.controls import composition_only
from xrdkit.benchmark.parents import built_types, ordering_of_parent
from xrdkit.benchmark.scoring import Entry, Solver, asked_of, fingerprint, run, shard_of
from xrdkit.dataset import Table, read_table
from xrdkit.generators import DEFAULT
from xrdkit.generators.assign import Filling, fillings
from xrdkit.generators.spectra import slot_counts
from xrdkit.generators.templates import MERGED, MIXED
from xrdkit.library import Library, formula_hash, load
from xrdkit.models.weights import Weights
from xrdkit.nanocrystal import nano_pattern
from xrdkit.problem import usable_size
from xrdkit.simulate import disturbed as disturbed_pattern
from xrdkit.simulate import pattern_of
from xrdkit.space_group import crystal_system
from xrdkit.structure_types import NEIGHBOURS, SAME_TYPE, distance_features
from xrdkit.types import Instrument, Pattern
from xrdkit.wavelengths import radiation

if TYPE_CHECKING:
    from pymatgen.core import Structure

BEAM = radiation("CuKa")
GRID = (5.0, 80.0, 7501)  # °, steps of 0.01
INSTRUMENT = Instrument(w=0.01)  # FWHM 0.1°

SUPERCELL = 4  # cells of a type over which a formula's elements may be ordered

Unseen = Literal["formula", "type", "none"]
Control = Literal["none", "shuffled", "composition"]
Known = Literal["contents", "reduced", "elements"]  # of what is in the cell


@dataclass(frozen=True)
class Protocol:
    """What mp20 asks of every entry; ``shown`` is the row whose pattern a row gets."""

    table: Table
    library: Library | None
    shown: dict[int, int]
    cell: Literal["none", "given"]
    formula: Known
    disturbed: bool
    unseen: Unseen
    keywords: dict[str, Any]


def mp20(
    structures: Table | str | Path,
    library: Library | str | Path | None,
    output: str | Path,
    *,
    n: int | None = None,
    seed: int = 0,
    cell: Literal["none", "given"] = "none",
    formula: Known = "contents",
    disturbed: bool = False,
    unseen: Unseen = "none",
    size: float | None = None,
    control: Control = "none",
    shard: tuple[int, int] = (1, 1),
    sources: tuple[str, ...] = DEFAULT,
    weights: Weights | None = None,
    candidates: int = 20,
    solver: Solver | None = None,
    validity: bool = True,
    progress: bool = True,
) -> list[dict]:
    """Rows of n random entries: Cu Kα doublet, 5–80°, FWHM 0.1°, noise-free or disturbed.

    ``control`` shuffled gives each entry the pattern of another; composition ignores the
    pattern and takes library types in the order of their prior. With ``size`` (Å) patterns
    are those of nanocrystals (``xrdkit.nanocrystal``), and PXRDnet's R² is counted. Of the
    ``formula`` the contents of a primitive cell, the ratios, or only the elements are told.
    """
    if control == "composition" and formula == "elements":
        raise ValueError(
            "the control by composition needs a formula; give formula contents or reduced"
        )
    table = structures if isinstance(structures, Table) else read_table(structures)
    known = load(library) if isinstance(library, str | Path) else library
    chosen = drawn(len(table), n, seed)
    turn = 1 if control == "shuffled" else 0
    shown = dict(zip(chosen, chosen[turn:] + chosen[:turn], strict=True))
    keywords = asked_of(sources, weights, candidates, seed)
    if size is not None:
        keywords["size"] = usable_size(size)
    asked = Protocol(table, known, shown, cell, formula, disturbed, unseen, keywords)
    settings = {"benchmark": "mp20", "n": len(chosen), "control": control, "shard": shard}
    return run(
        output,
        {**settings, "validity": validity, **protocol_settings(asked)},
        shard_of([table.ids[row] for row in chosen], shard),
        entry=partial(entry_of, asked, {table.ids[row]: row for row in chosen}),
        solver=composition_only if control == "composition" else solver,
        validity=validity,
        progress=progress,
    )


def protocol_settings(asked: Protocol) -> dict[str, Any]:
    """What tells one run from another."""
    names = ("cell", "formula", "disturbed", "unseen")
    return {
        "structures": fingerprint(asked.table.ids),
        "library": library_fingerprint(asked.library),
        **{name: getattr(asked, name) for name in names},
        **asked.keywords,
    }


def entry_of(asked: Protocol, rows: dict[str, int], name: str) -> Entry:
    """The entry of this name: its simulated pattern and the keywords of ``solve``."""
    row = rows[name]
    truth, formula = asked.table.structure(row), asked.table.formulas[row]
    known = without_truth(asked.library, truth, formula, asked.unseen)
    keywords = {**asked.keywords, "library": known}
    if asked.cell == "given":
        keywords["cell"] = truth.lattice.parameters
    if asked.formula == "contents":
        keywords["contents"] = truth.composition.formula
    if asked.formula == "elements":
        keywords["elements"] = tuple(sorted(e.symbol for e in truth.composition))
    if asked.unseen != "none":
        keywords["exclude"] = (formula,)
    pattern = pattern_for(asked, asked.shown[row])
    system = crystal_system(asked.table.space_groups[row])
    facts = {"n_atoms": len(truth), "system": system, **held(known, formula, truth)}
    return Entry(name, truth, pattern, formula, keywords, facts)


def pattern_for(asked: Protocol, row: int) -> Pattern:
    """The pattern of a row; its disturbance depends on the seed and the row alone."""
    crystal = asked.table.crystals.select(torch.tensor([row]))
    if "size" in asked.keywords:
        return nano_pattern(crystal, asked.keywords["size"])
    if asked.disturbed:
        seed = asked.keywords["seed"] * 1_000_003 + row
        return disturbed_pattern(crystal, BEAM, torch.Generator().manual_seed(seed))
    return pattern_of(crystal, BEAM, two_theta=GRID, instrument=INSTRUMENT)


def drawn(total: int, n: int | None, seed: int) -> list[int]:
    """Rows drawn at random without repeats; all of them, in order, when n is None."""
    if n is None:
        return list(range(total))
    if not 1 <= n <= total:
        raise ValueError(f"n = {n} entries of {total}; give 1 to {total}")
    return torch.randperm(total, generator=torch.Generator().manual_seed(seed))[:n].tolist()


def without_truth(
    library: Library | None,
    truth: "Structure",
    formula: str,
    unseen: Unseen,
    within: float = SAME_TYPE,
) -> Library | None:
    """The library less the formula, and less its structure type, where these are unseen.

    ``within`` is that of ``types_of``.
    """
    if library is None and unseen == "type":
        raise ValueError("unseen='type' needs a library; build one and give it")
    if library is None or unseen == "none":
        return library
    rest = library.without((formula,))
    return rest.without_types(types_of(rest, truth, within)) if unseen == "type" else rest


def types_of(
    library: Library, structure: "Structure", within: float = SAME_TYPE
) -> np.ndarray:
    """The types of a library whose geometry is that of a structure, as ``solve`` uses them.

    That is: after some way to put the elements into a type's slots (several elements into
    one, or one into several), no averaged neighbour distance differs by ``within`` or more,
    in units of (V/N)^(1/3). Space group and orbits may differ: refinement can restore what
    is distorted.
    """
    lattice, frac = structure.lattice.matrix, structure.frac_coords
    numbers = np.array(structure.atomic_numbers)
    contents = {int(z): int((numbers == z).sum()) for z in np.unique(numbers)}
    divisor = gcd(*contents.values())
    formula = {z: n // divisor for z, n in contents.items()}
    ours = cache(lambda group: distance_features(lattice, frac, _of(numbers, group)))
    whole = ours(tuple(formula))[:NEIGHBOURS]
    far = np.abs(frameworks(library) - whole).max(1) >= within
    same = []
    for counts, rows in slot_counts(library):
        cells = lcm(sum(counts), sum(formula.values())) // sum(counts)
        if cells > SUPERCELL or len(counts) > len(formula) + MERGED:
            continue
        z = cells * sum(counts) // sum(formula.values())
        many = tuple(n * cells for n in counts)
        choices = fillings(many, {e: n * z for e, n in formula.items()})
        if len(choices) > MIXED and len(counts) != len(formula):
            continue
        for kind in np.unique(library.kind[rows]).tolist():
            if not far[kind] and any(
                _apart(library, kind, f, ours) < within for f in choices
            ):
                same.append(kind)
    return np.intersect1d(same, library.kind[library.rows]).astype(int)


def frameworks(library: Library) -> np.ndarray:
    """Neighbour distances of every type's first member, its species taken as one."""
    slots = range(library.elements.shape[1])
    whole = [
        merged_distances(library, k, tuple(slots)) for k in range(len(leaders(library)))
    ]
    return np.array(whole)[:, :NEIGHBOURS]


def leaders(library: Library) -> np.ndarray:
    """The first member of every type, whether in use or not."""
    if "leaders" not in library.cache:
        library.cache["leaders"] = np.unique(library.kind, return_index=True)[1]
    return library.cache["leaders"]


def merged_distances(library: Library, kind: int, slots: tuple[int, ...]) -> np.ndarray:
    """Averaged neighbour distances of the atoms in these slots of a type's first member."""
    if ("distances", kind, slots) not in library.cache:
        row = leaders(library)[kind]
        atoms = library.atoms(row)
        chosen = _of(library.slot[atoms], slots)
        found = distance_features(
            library.lattice[row].astype(float), library.frac[atoms].astype(float), chosen
        )
        library.cache["distances", kind, slots] = found
    return library.cache["distances", kind, slots]


def _apart(library: Library, kind: int, filling: Filling, ours: Callable) -> float:
    """How far a type with its slots so filled is from the distances of a structure.

    ``ours`` gives the structure's by elements; slots that take the same count as one.
    """
    apart = 0.0
    for elements in sorted(set(filling), key=filling.index):
        slots = tuple(k for k, group in enumerate(filling) if group == elements)
        theirs = merged_distances(library, kind, slots)
        apart = max(apart, float(np.abs(theirs - ours(elements)).max()))
    return apart


def _of(numbers: np.ndarray, elements: tuple[int, ...]) -> np.ndarray:
    """The atoms of these elements."""
    return np.flatnonzero(np.isin(numbers, elements))


def held(library: Library | None, formula: str, truth: "Structure") -> dict[str, Any]:
    """Whether a library holds the formula, also with this space group, and its type.

    And whether the structure is an ordering of a type that it holds.
    """
    from xrdkit.metrics import space_group

    if library is None:
        return {}
    rows = library.formula_of[library.formula == formula_hash(formula)]
    rows = np.intersect1d(library.rows, rows)
    group = space_group(truth)
    return {
        "space_group": group,
        "formula_held": bool(len(rows)),
        "formula_group_held": bool((library.space_group[rows] == group).any()),
        "polymorphs": len(np.unique(library.kind[rows])),
        "type_held": bool(len(built_types(library, truth))),
        "ordering": ordering_of_parent(truth, library),
    }


def library_fingerprint(library: Library | None) -> str:
    """Size and hash of a library's cells and types; "shipped" for none given."""
    if library is None:
        return "shipped"
    cells = np.column_stack([library.kind, library.lattice.reshape(-1, 9)])[library.rows]
    return f"{len(library)} {fingerprint([cells.astype(np.float32).tobytes().hex()])}"
