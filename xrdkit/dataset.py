"""Structure tables: Parquet, CDVAE's CSV, or CIF files -> one flat batch of crystals."""

import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cache, cached_property
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from xrdkit.crystal import U_ISO, from_structures, read_cif, to_structure
from xrdkit.space_group import quiet_spglib
from xrdkit.types import Crystals

if TYPE_CHECKING:
    import pyarrow
    from pymatgen.core import Structure

PARQUET = ("id", "formula", "spacegroup", "lattice", "atomic_numbers", "frac_coords")
CSV = ("material_id", "cif")
MAX_ROWS = 1_000_000  # structures in one table
MAX_ATOMS = 1_000  # atoms of one structure
SYMPREC = 0.01  # Å, where a table does not say the space group


@dataclass(frozen=True)
class Table:
    """Structures with names: crystal ``i`` of the batch is row ``i`` of every tuple.

    Formulas are pymatgen's reduced formulas. Cells are as the file gives them.
    """

    ids: tuple[str, ...]
    formulas: tuple[str, ...]
    space_groups: tuple[int, ...]
    crystals: Crystals

    def __post_init__(self) -> None:
        sizes = (
            len(self.ids),
            len(self.formulas),
            len(self.space_groups),
            len(self.crystals),
        )
        if len(set(sizes)) != 1:
            raise ValueError(
                f"{sizes[0]} ids, {sizes[1]} formulas, {sizes[2]} space groups and "
                f"{sizes[3]} crystals; give one of each per structure"
            )

    def __len__(self) -> int:
        return len(self.ids)

    @cached_property
    def starts(self) -> list[int]:
        """First atom row of each crystal, and the number of rows."""
        return [0, *self.crystals.counts.cumsum(0).tolist()]

    def arrays(self, index: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Lattice (Å), fractional coordinates and atomic numbers of one ordered crystal."""
        rows = slice(*self.starts[index : index + 2])
        if (self.crystals.occupancy[rows] < 1).any():
            raise ValueError(f"{self.ids[index]} has partly occupied sites; leave it out")
        return (
            self.crystals.lattice[index].double().numpy(),
            self.crystals.frac[rows].double().numpy(),
            self.crystals.numbers[rows].numpy(),
        )

    def structure(self, index: int) -> "Structure":
        """One row as a pymatgen Structure, its cell as the file gives it."""
        return to_structure(self.crystals.select(torch.tensor([range(len(self))[index]])))

    def select(self, index: Sequence[int]) -> "Table":
        """The rows of these indices, in this order."""
        names = (self.ids, self.formulas, self.space_groups)
        ids, formulas, groups = (tuple(column[i] for i in index) for column in names)
        chosen = torch.tensor(list(index), dtype=torch.long)
        return Table(ids, formulas, groups, self.crystals.select(chosen))


def read_table(path: str | Path) -> Table:
    """A table from a .parquet, a CDVAE .csv, one .cif, or a folder of .cif files.

    Files of a folder that hold no structure are left out, with a UserWarning.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist; give a structure table")
    if path.is_dir():
        return _from_cifs(path, sorted(path.glob("*.cif")))
    readers = {".parquet": _from_parquet, ".csv": _from_csv}
    if path.suffix.lower() == ".cif":
        return _from_cifs(path, [path])
    if path.suffix.lower() not in readers:
        raise ValueError(
            f"{path} is not a structure table; "
            "give a .parquet, .csv or .cif file or a folder of .cif files"
        )
    return readers[path.suffix.lower()](path)


def read_tables(paths: Iterable[str | Path]) -> Table:
    """Several tables as one; an id that an earlier table holds already is left out."""
    tables = [read_table(path) for path in paths]
    if not tables:
        raise ValueError("no structure table given; give at least one")
    seen: set[str] = set()
    parts = []
    for table in tables:
        new = [i for i, name in enumerate(table.ids) if name not in seen]
        seen.update(table.ids)
        parts.append(table if len(new) == len(table) else table.select(new))
    return _joined(parts)


@cache
def _reduced(counts: tuple[tuple[int, float], ...]) -> str:
    """pymatgen's reduced formula of amounts by atomic number."""
    from pymatgen.core import Composition, Element

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # no electronegativity for noble gases
        return Composition({Element.from_Z(z): n for z, n in counts}).reduced_formula


def _joined(tables: list[Table]) -> Table:
    parts = [table.crystals for table in tables]
    starts = np.cumsum([0] + [len(part) for part in parts[:-1]])
    owner = [part.owner + int(start) for part, start in zip(parts, starts, strict=True)]
    fields = ("lattice", "frac", "numbers", "occupancy", "u_iso")
    flat = [torch.cat([getattr(part, name) for part in parts]) for name in fields]
    columns = (
        [getattr(t, name) for t in tables] for name in ("ids", "formulas", "space_groups")
    )
    ids, formulas, groups = (tuple(chain.from_iterable(column)) for column in columns)
    return Table(ids, formulas, groups, Crystals(*flat, torch.cat(owner)))


def _from_parquet(path: Path) -> Table:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        names = pq.read_schema(path).names
        if missing := [name for name in PARQUET if name not in names]:
            raise ValueError(f"{path} lacks columns: {', '.join(missing)}; it has {names}")
        _check_size(path, pq.read_metadata(path).num_rows)
        columns = pq.read_table(path, columns=list(PARQUET))
    except pa.ArrowException as error:
        raise ValueError(f"{path} is not a Parquet table; write it again") from error
    lattice, sizes = _values(path, columns, "lattice")
    numbers, atoms = _values(path, columns, "atomic_numbers")
    frac, triples = _values(path, columns, "frac_coords")
    wrong = np.flatnonzero((sizes != 9) | (triples != 3 * atoms) | (atoms < 1))
    if len(wrong):
        i = wrong[0]
        raise ValueError(
            f"{path} row {i + 1}: {sizes[i]} lattice numbers, {atoms[i]} atoms and "
            f"{triples[i]} coordinates; give 9 lattice numbers and 3 coordinates per atom"
        )
    crystals = _crystals(lattice.reshape(-1, 3, 3), frac.reshape(-1, 3), numbers, atoms)
    ids = tuple(map(str, columns["id"].to_pylist()))
    known = [columns[name].to_pylist() for name in ("spacegroup", "formula")]
    return _checked(path, ids, crystals, *known)


def _values(
    path: Path, columns: "pyarrow.Table", name: str
) -> tuple[np.ndarray, np.ndarray]:
    """All numbers of a column of lists in one row, and how many each list has."""
    import pyarrow.compute as pc

    column = columns[name]
    try:
        sizes = pc.fill_null(pc.list_value_length(column), 0).to_numpy().astype(int)
        return pc.list_flatten(column).to_numpy().astype(float), sizes
    except (NotImplementedError, TypeError, ValueError) as error:
        raise ValueError(
            f"{path} column {name} holds {column.type}; give a list of numbers per row"
        ) from error


def _from_csv(path: Path) -> Table:
    import pandas as pd

    try:
        frame = pd.read_csv(path)
    except (pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not a CSV table; give columns {CSV}") from error
    if missing := [name for name in CSV if name not in frame]:
        raise ValueError(
            f"{path} lacks columns: {', '.join(missing)}; it has {list(frame)}"
        )
    _check_size(path, len(frame))
    ids = tuple(map(str, frame["material_id"]))
    cells = [_read_p1(path, *row) for row in zip(ids, frame["cif"], strict=True)]
    lattices, fracs, numbers = zip(*cells, strict=True)
    counts = np.array([len(part) for part in numbers])
    crystals = _crystals(
        np.array(lattices), np.concatenate(fracs), np.concatenate(numbers), counts
    )
    optional = ("spacegroup.number", "pretty_formula")
    known = [frame[name].tolist() if name in frame else None for name in optional]
    return _checked(path, ids, crystals, *known)


def _read_p1(path: Path, name: str, text: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Lattice, coordinates and atomic numbers of an ordered CIF, by gemmi (0.3 ms)."""
    import gemmi

    try:
        block = gemmi.cif.read_string(text).sole_block()
        small = gemmi.make_small_structure_from_block(block)
        sites = small.get_all_unit_cell_sites()
        lattice = np.array(small.cell.orth.mat.tolist()).T
    except (RuntimeError, ValueError, TypeError) as error:
        raise ValueError(
            f"{path}, {name}: its cif cannot be read ({error}); give a whole CIF per row"
        ) from error
    if not sites or min(site.occ for site in sites) < 1:
        raise ValueError(
            f"{path}, {name}: its cif has no atoms or partly occupied sites; "
            "give ordered structures, or disordered ones as a folder of .cif files"
        )
    frac = np.array([site.fract.tolist() for site in sites])
    return lattice, frac, np.array([site.element.atomic_number for site in sites])


def _from_cifs(path: Path, files: list[Path]) -> Table:
    """The first structures of CIF files; of several, those that hold none are left out."""
    if not files:
        raise ValueError(f"{path} holds no .cif file; give a folder of CIF files")
    _check_size(path, len(files))
    read: dict[str, Structure] = {}
    faults = []
    for file in files:
        try:
            read[file.stem] = read_cif(str(file))
        except ValueError as error:
            faults.append(error)
    if not read:
        raise faults[0]
    if faults:
        said = f"{len(faults)} of {len(files)} files of {path} are left out"
        warnings.warn(f"{said}; the first: {faults[0]}", stacklevel=4)
    groups = [_group_of(structure) for structure in read.values()]
    return _checked(path, tuple(read), from_structures([*read.values()]), groups, None)


def _group_of(structure: "Structure") -> int:
    """Space group number of a structure that may be disordered."""
    from pymatgen.symmetry.analyzer import SpacegroupAnalyzer

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return SpacegroupAnalyzer(structure, SYMPREC).get_space_group_number()


def _crystals(
    lattice: np.ndarray, frac: np.ndarray, numbers: np.ndarray, counts: np.ndarray
) -> Crystals:
    owner = torch.repeat_interleave(torch.arange(len(lattice)), torch.as_tensor(counts))
    return Crystals(
        torch.as_tensor(lattice).float(),
        torch.as_tensor(np.mod(np.mod(frac.astype(np.float32), 1), 1)),
        torch.as_tensor(numbers).long(),
        torch.ones(len(owner)),
        torch.full((len(owner),), U_ISO),
        owner,
    )


def _check_size(path: Path, rows: int) -> None:
    if not 1 <= rows <= MAX_ROWS:
        raise ValueError(f"{path} holds {rows} structures; give 1 to {MAX_ROWS:,}")


def _checked(
    path: Path,
    ids: tuple[str, ...],
    crystals: Crystals,
    groups: list | None,
    formulas: list | None,
) -> Table:
    """The table, if every row is a crystal with its formula and a space group."""
    _check_crystals(path, ids, crystals)
    true = _formulas(crystals)
    rows = zip(ids, formulas or true, true, groups or [1] * len(ids), strict=True)
    for name, stated, found, group in rows:
        if stated != found and _amounts(path, name, stated) != _amounts(path, name, found):
            raise ValueError(
                f"{path}, {name}: formula {stated}, but its atoms are {found}; correct it"
            )
        if group not in range(1, 231):
            raise ValueError(
                f"{path}, {name}: space group {group}; give a number from 1 to 230"
            )
    table = Table(ids, true, tuple(map(int, groups or [1] * len(ids))), crystals)
    return table if groups else replace(table, space_groups=_space_groups(table))


def _check_crystals(path: Path, ids: tuple[str, ...], crystals: Crystals) -> None:
    finite = torch.isfinite(crystals.lattice).flatten(1).all(1)
    finite[crystals.owner[~torch.isfinite(crystals.frac).all(1)]] = False
    volume = crystals.volume / crystals.counts
    element = torch.ones(len(crystals), dtype=torch.bool)
    element[crystals.owner[(crystals.numbers < 1) | (crystals.numbers > 103)]] = False
    checks = (
        (finite, "its lattice or coordinates are not finite; correct the row"),
        (volume > 0.5, "less than 0.5 Å³ per atom; give the lattice rows in Å"),
        (element, "an atomic number is outside 1–103; give atomic numbers"),
        (crystals.counts <= MAX_ATOMS, f"over {MAX_ATOMS} atoms; give primitive cells"),
    )
    for good, message in checks:
        if not good.all():
            raise ValueError(f"{path}, {ids[int((~good).nonzero()[0, 0])]}: {message}")


def _formulas(crystals: Crystals) -> tuple[str, ...]:
    """Reduced formula of each crystal, one pymatgen call per composition (20 µs)."""
    ends = crystals.counts.cumsum(0).tolist()
    numbers, amounts = crystals.numbers.tolist(), crystals.occupancy.tolist()
    formulas, start = [], 0
    for end in ends:
        counts: dict[int, float] = {}
        for z, amount in zip(numbers[start:end], amounts[start:end], strict=True):
            counts[z] = counts.get(z, 0) + amount
        formulas.append(
            _reduced(tuple(sorted((z, round(n, 4)) for z, n in counts.items())))
        )
        start = end
    return tuple(formulas)


def _amounts(path: Path, name: str, formula: str) -> dict[str, float]:
    """Amounts by element as shares of all atoms, so that Ti2O4 equals TiO2."""
    from pymatgen.core import Composition

    try:
        whole = Composition(formula).get_el_amt_dict()
    except (ValueError, TypeError) as error:
        raise ValueError(f"{path}, {name}: {formula!r} is not a formula") from error
    return {element: round(n / sum(whole.values()), 4) for element, n in whole.items()}


def _space_groups(table: Table) -> tuple[int, ...]:
    cells = [table.arrays(i) for i in range(len(table))]
    with quiet_spglib() as spglib:
        found = [spglib.get_symmetry_dataset(cell, symprec=SYMPREC) for cell in cells]
    return tuple(1 if one is None else int(one.number) for one in found)
