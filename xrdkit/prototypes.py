"""The prototype library that ships: structure types averaged over their members.

Elements are removed; every coordinate and axial ratio is a mean over at least two members,
symmetrised, so that no single entry is copied. The volume, in Å³ an atom, is that of the
members over what their elements let expect. Made by ``xrdkit library prototypes``.
"""

import warnings
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
from jaxtyping import Float, Int

from xrdkit.crystal import coordinate_basis, kept_strain
from xrdkit.library import FORMAT, Library, swellings
from xrdkit.space_group import operations
from xrdkit.types import Progress

AVERAGED = 6  # members that are averaged, at most
NEAR = 0.5  # (V/N)^(1/3): an atom farther from its partner is not aligned


def average_steps(library: Library, *, max_atoms: int = 40) -> Iterator[Progress]:
    """Yield progress while the types of a library are averaged; return the prototypes.

    Types with one member, or whose members cannot be aligned, are left out.
    """
    order = np.argsort(library.kind, kind="stable")
    groups = np.split(order, np.cumsum(np.bincount(library.kind))[:-1])
    groups = [g for g in groups if len(g) > 1 and library.counts[g[0]] <= max_atoms]
    means = []
    for done, group in enumerate(groups, 1):
        mean = _average(library, group)
        if mean is not None:
            means.append((group, *mean))
        if done % 50 == 0 or done == len(groups):
            yield Progress("average", done, len(groups))
    return _assemble(library, means)


def _average(
    library: Library, group: Int[np.ndarray, " members"]
) -> tuple[Float[np.ndarray, "3 3"], Float[np.ndarray, "atoms 3"]] | None:
    """Mean lattice (one Å³ an atom) and sites of a type, in its first member's setting."""
    first = int(group[0])
    atoms = library.atoms(first)
    slot, sites = library.slot[atoms], library.frac[atoms].astype(float)
    lattice = _unit(library.lattice[first].astype(float), len(sites))
    strains, shifts = [np.zeros((3, 3))], [np.zeros_like(sites)]
    for other in group[1:]:
        change = _change(library, int(other), lattice, sites, slot)
        if change is not None:
            strains.append(change[0])
            shifts.append(change[1])
        if len(strains) == AVERAGED:
            break
    if len(strains) < 2:
        return None
    rotations, translations = operations(int(library.space_group[first]))
    return (
        lattice @ (np.eye(3) + kept_strain(np.mean(strains, 0), rotations, lattice)),
        np.mod(
            sites + _kept_shift(np.mean(shifts, 0), rotations, translations, sites, slot), 1
        ),
    )


def _unit(lattice: Float[np.ndarray, "3 3"], atoms: int) -> Float[np.ndarray, "3 3"]:
    """The lattice with one Å³ an atom."""
    return lattice * (atoms / abs(np.linalg.det(lattice))) ** (1 / 3)


def _change(
    library: Library,
    other: int,
    lattice: Float[np.ndarray, "3 3"],
    sites: Float[np.ndarray, "atoms 3"],
    slot: Int[np.ndarray, " atoms"],
) -> tuple[Float[np.ndarray, "3 3"], Float[np.ndarray, "atoms 3"]] | None:
    """Strain and shifts that lead to another member, if its setting can be aligned."""
    from pymatgen.analysis.structure_matcher import StructureMatcher
    from pymatgen.core import Element, Structure

    def anonymous(
        cell: Float[np.ndarray, "3 3"],
        frac: Float[np.ndarray, "n 3"],
        kinds: Int[np.ndarray, " n"],
    ) -> Structure:
        return Structure(cell, [Element.from_Z(int(k) + 1) for k in kinds], frac)

    rows = library.atoms(other)
    mine = anonymous(lattice, sites, slot)
    theirs = anonymous(
        _unit(library.lattice[other].astype(float), len(sites)),
        library.frac[rows].astype(float),
        library.slot[rows],
    )
    matcher = StructureMatcher(primitive_cell=False, attempt_supercell=False)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        like = matcher.get_s2_like_s1(mine, theirs)
    if like is None or len(like) != len(sites):
        return None
    shift = like.frac_coords - mine.frac_coords
    shift -= np.rint(shift)
    if np.linalg.norm(shift @ lattice, axis=1).max() > NEAR:
        return None
    metric = like.lattice.matrix @ like.lattice.matrix.T
    inverse = np.linalg.inv(lattice)
    strain = (inverse @ metric @ inverse.T - np.eye(3)) / 2
    return strain, shift


def _kept_shift(
    shift: Float[np.ndarray, "atoms 3"],
    rotations: Int[np.ndarray, "operations 3 3"],
    translations: Float[np.ndarray, "operations 3"],
    sites: Float[np.ndarray, "atoms 3"],
    slot: Int[np.ndarray, " atoms"],
) -> Float[np.ndarray, "atoms 3"]:
    """The part of the shifts that keeps the space group."""
    basis = coordinate_basis(rotations, translations, sites, slot.astype(int))
    kept = basis @ np.linalg.lstsq(basis, shift.ravel(), rcond=None)[0]
    return kept.reshape(shift.shape)


def _assemble(library: Library, means: list[tuple]) -> Library:
    """A library of averaged prototypes, one a type."""
    firsts = np.array([int(group[0]) for group, *_ in means])
    counts = library.counts[firsts]
    members = [g for g, *_ in means]
    owner = np.repeat(np.arange(len(means)), [len(g) for g in members])
    kinds = library.kind[firsts]
    swelling = swellings(library)[0]
    lattice = [
        _unit(mean, n) * np.exp(swelling[group].mean() / 3)
        for n, (group, mean, _) in zip(counts.tolist(), means, strict=True)
    ]
    return replace(
        library,
        lattice=np.array(lattice, np.float32),
        space_group=library.space_group[firsts],
        kind=np.arange(len(means), dtype=np.int32),
        start=np.concatenate([[0], counts.cumsum()]),
        elements=np.zeros((len(means), library.elements.shape[1]), np.int16),
        formula=library.formula[np.concatenate(members)],
        formula_of=owner.astype(np.int32),
        nature=np.array([library.nature[g].mean(0) for g in members], np.float16),
        frac=np.concatenate([frac for *_, frac in means]).astype(np.float32),
        slot=np.concatenate([library.slot[library.atoms(f)] for f in firsts]),
        type_size=library.type_size[kinds].astype(np.int32),
        type_label=tuple(library.type_label[k] for k in kinds),
        rows=np.arange(len(means)),
        info={"format": FORMAT, "averaged": True, "entries": len(library)},
        cache={},
    )
