"""Structure types: build from tables, save, load, select.

A member is one known structure in its standard primitive cell, its species reduced to slots
0, 1, 2 … (most numerous last). A type collects members of the same anonymous formula, space
group, orbits and geometry; a template is a member's geometry with other elements in its
slots.
"""

import hashlib
import json
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cache
from math import gcd
from multiprocessing import get_context
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float, Int

from xrdkit.dataset import Table
from xrdkit.files import write_whole
from xrdkit.progress import result_of
from xrdkit.structure_types import Member, find_types, member_of, type_label
from xrdkit.types import Progress

FORMAT = 1
# by class: how far (ln) two thirds of compounds are off what their type and elements give
SPREADS = (0.06, 0.055, 0.035)
STRANGE = 0.1  # share of elements that even a member without common ones counts as having


@dataclass(frozen=True)
class Library:
    """Known structures as templates; flat arrays, one row per member or per atom.

    ``lattice`` (Å, float32) and ``frac`` are standard primitive cells; ``slot`` numbers the
    species of each atom, ``elements`` gives the atomic number in each slot (0: removed) and
    ``nature`` its Mendeleev number. ``formula`` are hashed reduced formulas, ``formula_of``
    the members they belong to.
    ``rows`` are the members in use; ``without`` returns a library that uses fewer.
    ``volumes`` are atomic volumes in Å³ by class of compound and atomic number; ``cache``
    holds what sources derive from all members, whichever are in use.
    """

    lattice: Float[np.ndarray, "members 3 3"]
    space_group: Int[np.ndarray, " members"]
    kind: Int[np.ndarray, " members"]
    start: Int[np.ndarray, " members_and_one"]
    elements: Int[np.ndarray, "members slots"]
    formula: Int[np.ndarray, " formulas"]
    formula_of: Int[np.ndarray, " formulas"]
    nature: Float[np.ndarray, "members slots"]
    frac: Float[np.ndarray, "atoms 3"]
    slot: Int[np.ndarray, " atoms"]
    type_size: Int[np.ndarray, " types"]
    volumes: Float[np.ndarray, "classes elements"]
    type_label: tuple[str, ...]
    rows: Int[np.ndarray, " used"]
    info: dict
    cache: dict = field(default_factory=dict, repr=False)

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def counts(self) -> Int[np.ndarray, " members"]:
        """Atoms in the primitive cell of every member."""
        return np.diff(self.start)

    def atoms(self, member: int | np.integer) -> slice:
        """The atom rows of a member."""
        return slice(int(self.start[member]), int(self.start[member + 1]))

    def without(self, formulas: tuple[str, ...] | frozenset[str]) -> "Library":
        """This library less every member of these reduced formulas.

        An averaged prototype goes only when all its members had one of them; that others
        of its members took part in the average cannot be undone.
        """
        hashes = np.array([formula_hash(f) for f in formulas], dtype=np.int64)
        other = ~np.isin(self.formula, hashes)
        left = np.bincount(self.formula_of[other], minlength=len(self.kind)) > 0
        return self._keep(left[self.rows], other)

    def without_types(self, kinds: Int[np.ndarray, " kinds"]) -> "Library":
        """This library less every member of these types."""
        return self._keep(~np.isin(self.kind[self.rows], kinds), self.formula_of >= 0)

    def _keep(self, used: np.ndarray, formulas: np.ndarray) -> "Library":
        """Fewer rows, and the sizes of types that these formulas leave."""
        rows = self.rows[used]
        owner = self.formula_of[formulas & np.isin(self.formula_of, rows)]
        sizes = np.bincount(self.kind[owner], minlength=len(self.type_size))
        return replace(self, rows=rows, type_size=sizes)

    def holds(self, formula: str) -> bool:
        """Whether a member in use has this reduced formula."""
        rows = self.formula_of[self.formula == formula_hash(formula)]
        return bool(np.isin(rows, self.rows).any())


def formula_hash(formula: str | Mapping[int, float | int]) -> int:
    """A 63-bit number that stands for a reduced formula (or counts by atomic number)."""
    if isinstance(formula, str):
        from pymatgen.core import Composition

        formula = {e.Z: n for e, n in Composition(formula).items()}
    divisor = gcd(*(round(n) for n in formula.values())) or 1
    text = " ".join(f"{z}:{n / divisor:g}" for z, n in sorted(formula.items()))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little") >> 1


def build_steps(table: Table, *, workers: int = 1) -> Iterator[Progress]:
    """Yield progress while structure types are found; return the Library.

    Two structures are of one type when anonymous formula, space group and orbit sizes agree
    and no averaged neighbour distance differs by more than 0.15 (V/N)^(1/3).
    """
    members, started = [], time.monotonic()
    entries = [table.arrays(i) for i in range(len(table))]
    with _pool(workers) as run:
        for done, member in enumerate(run(_member, entries), 1):
            if member is not None:
                members.append(member)
            if done % 200 == 0 or done == len(entries):
                spent = time.monotonic() - started
                yield Progress("library", done, len(entries), seconds=spent)
    if not members:
        raise ValueError(
            f"none of the {len(entries)} structures has a cell whose symmetry is found; "
            "give tables of ordered crystal structures"
        )
    return assemble(members, info={"entries": len(entries)})


def build(table: Table, *, workers: int = 1) -> Library:
    """The library of a structure table; see ``build_steps``."""
    return result_of(build_steps(table, workers=workers))


def _member(entry: tuple) -> Member | None:
    return member_of(*entry)


@contextmanager
def _pool(workers: int) -> Iterator:
    """A map function, over processes when there are several workers."""
    if workers <= 1:
        yield map
        return
    with get_context("spawn").Pool(workers) as pool:
        yield lambda function, items: pool.imap(function, items, chunksize=100)


def assemble(members: list[Member], info: dict) -> Library:
    """A library of these members, sorted into types."""
    kind, members = find_types(members)
    slots = max(len(m.elements) for m in members)
    labels: dict[int, str] = {}
    for member, k in zip(members, kind.tolist(), strict=True):
        labels.setdefault(k, type_label(member))
    counts = np.array([len(m.slot) for m in members])
    formulas = [
        formula_hash(dict(zip(m.elements, np.bincount(m.slot).tolist(), strict=True)))
        for m in members
    ]
    elements = np.array(
        [m.elements + (0,) * (slots - len(m.elements)) for m in members], np.int16
    )
    library = Library(
        lattice=np.array([m.cell.lattice for m in members], np.float32),
        space_group=np.array([m.cell.space_group for m in members], np.int16),
        kind=kind,
        start=np.concatenate([[0], counts.cumsum()]),
        elements=elements,
        formula=np.array(formulas),
        formula_of=np.arange(len(members)),
        nature=mendeleev_numbers()[elements],
        frac=np.concatenate([m.cell.frac for m in members]).astype(np.float32),
        slot=np.concatenate([m.slot for m in members]).astype(np.int8),
        type_size=np.bincount(kind),
        type_label=tuple(labels[k] for k in range(len(labels))),
        volumes=np.zeros((3, 104)),
        rows=np.arange(len(members)),
        info={"format": FORMAT, "averaged": False, **info},
    )
    return replace(library, volumes=fit_volumes(library))


@cache
def mendeleev_numbers() -> Float[np.ndarray, " elements"]:
    """Mendeleev numbers by atomic number: chemically alike elements are neighbours.

    Pettifor's scale as pymatgen has it; zero where there is no element.
    """
    from pymatgen.core import Element

    numbers = [Element.from_Z(z).mendeleev_no for z in range(1, 104)]
    return np.array(
        [0.0, *(n if n == n and n is not None else 0.0 for n in numbers)], np.float32
    )


ANIONS = ((8, 9), (1, 7, 16, 17, 34, 35, 52, 53))  # oxides and fluorides; other salts; rest


def volume_class(counts: Float[np.ndarray, "rows elements"]) -> Int[np.ndarray, " rows"]:
    """Which table of atomic volumes holds: 0 oxides, fluorides; 1 other salts; 2 the rest.

    A class is taken when a quarter of the atoms are its anions. Rows are counts by number.
    """
    share = [counts[:, list(anions)].sum(1) >= 0.25 * counts.sum(1) for anions in ANIONS]
    return np.where(share[0], 0, np.where(share[1], 1, 2))


def expected_volume(library: Library, formula: Mapping[int, float | int]) -> float:
    """Volume per atom in Å³ that the library's compounds let expect (± 12 %)."""
    counts = np.zeros((1, 104))
    for z, n in formula.items():
        counts[0, z] = n
    volumes = library.volumes[volume_class(counts)[0]]
    return float(counts[0] @ volumes / counts.sum())


def volume_spread(formula: Mapping[int, float | int]) -> float:
    """How far (ln) the volume of a compound may well be off what its type lets expect."""
    counts = np.zeros((1, 104))
    for z, n in formula.items():
        counts[0, z] = n
    return SPREADS[int(volume_class(counts)[0])]


def type_swelling(library: Library, kind: int, formula: Mapping[int, float | int]) -> float:
    """ln of how much larger a type's compounds are than their elements let expect.

    A mean over its members in use, where those count most that share elements with the
    formula, pulled towards none as by one member more; or that of the compound itself where
    it is a member. An averaged prototype holds the mean of its members in its volume.
    """
    rows = library.rows[library.kind[library.rows] == kind]
    if not len(rows):
        return 0.0
    if "swelling" not in library.cache:
        library.cache["swelling"] = swellings(library)
    swelling, elements = library.cache["swelling"]
    own = np.intersect1d(rows, library.formula_of[library.formula == formula_hash(formula)])
    if len(own) and not library.info["averaged"]:
        return float(swelling[own].mean())
    wanted = np.zeros(elements.shape[1], bool)
    wanted[[z - 1 for z, n in formula.items() if n > 0]] = True
    shared = (elements[rows] & wanted).sum(1) / (elements[rows] | wanted).sum(1)
    weight = (STRANGE + shared) ** 2
    members = weight.sum() ** 2 / (weight**2).sum()
    if library.info["averaged"]:
        members = library.type_size[kind]
    mean = float(weight @ swelling[rows] / weight.sum())
    return mean * float(members / (members + 1))


def swellings(
    library: Library,
) -> tuple[Float[np.ndarray, " members"], Bool[np.ndarray, "members elements"]]:
    """ln(volume / expected) of every member, and which elements are in it.

    Averaged prototypes have no elements; their cells have the ratio itself as Å³ an atom.
    """
    counts = _element_counts(library)
    volume = np.abs(np.linalg.det(library.lattice.astype(float)))
    expected = (counts * library.volumes[volume_class(counts)]).sum(1)
    expected = np.where(counts[:, 1:].any(1), expected, library.counts)
    return np.log(volume / np.maximum(expected, 1e-9)), counts[:, 1:] > 0


def _element_counts(library: Library) -> Float[np.ndarray, "members elements"]:
    """Atoms of every atomic number in the members."""
    counts = np.zeros((len(library.kind), 104))
    owner = np.repeat(np.arange(len(library.kind)), library.counts)
    np.add.at(counts, (owner, library.elements[owner, library.slot]), 1)
    return counts


def fit_volumes(library: Library) -> Float[np.ndarray, "classes elements"]:
    """Atomic volumes in Å³ whose sums give cell volumes with the least relative error."""
    counts = _element_counts(library)
    volume = np.abs(np.linalg.det(library.lattice.astype(float)))
    kinds = volume_class(counts)
    overall = _least_squares(counts, volume, np.median(volume / library.counts))
    tables = [
        _least_squares(counts[kinds == k], volume[kinds == k], overall) for k in range(3)
    ]
    return np.array(tables)


def _least_squares(
    counts: Float[np.ndarray, "rows elements"],
    volume: Float[np.ndarray, " rows"],
    usual: float | Float[np.ndarray, " elements"],
) -> Float[np.ndarray, " elements"]:
    """Volumes by element; a pull towards the usual ones settles elements rarely seen."""
    table, pull = counts / volume[:, None], 1e-3
    normal = table.T @ table + pull * np.eye(104)
    return np.linalg.solve(normal, table.sum(0) + pull * usual).clip(3, 120)


ARRAYS = (
    "lattice", "space_group", "kind", "start", "elements", "formula", "formula_of",
    "nature", "frac", "slot", "type_size", "volumes",
)  # fmt: skip


MAKE_ONE = "make one with: xrdkit library build TABLE -o FILE"


def save(library: Library, path: str | Path) -> None:
    """Write a library as safetensors; an old file stays until the new one is whole."""
    from safetensors import SafetensorError
    from safetensors.numpy import save_file

    arrays = {name: np.ascontiguousarray(getattr(library, name)) for name in ARRAYS}
    arrays["type_label"] = np.frombuffer("\n".join(library.type_label).encode(), np.uint8)
    info = {"xrdkit.library": json.dumps(library.info)}
    try:
        write_whole(path, lambda part: save_file(arrays, part, metadata=info))
    except SafetensorError as error:
        raise OSError(
            f"{path} cannot be written ({error}); name a folder that exists and is yours"
        ) from error


def load(path: str | Path) -> Library:
    """Read a library that ``save`` wrote."""
    from safetensors import SafetensorError, safe_open

    if not Path(path).is_file():
        raise FileNotFoundError(f"there is no library file {path}; {MAKE_ONE}")
    foreign = f"{path} is not an xrdkit library; {MAKE_ONE}"
    try:
        with safe_open(str(path), "numpy") as file:
            info = json.loads((file.metadata() or {}).get("xrdkit.library", "null"))
            if info is None:
                raise ValueError(foreign)
            if info["format"] != FORMAT:
                raise ValueError(
                    f"{path} has library format {info['format']}, "
                    f"this version reads {FORMAT}; build it again"
                )
            arrays = {name: file.get_tensor(name) for name in ARRAYS}
            labels = file.get_tensor("type_label").tobytes().decode()
    except SafetensorError as error:
        raise ValueError(foreign) from error
    rows = np.arange(len(arrays["kind"]))
    return Library(**arrays, type_label=tuple(labels.split("\n")), rows=rows, info=info)
