"""Entries of a table one by one: their standard cell, a good pattern, a row on the disk."""

from collections.abc import Callable, Sequence
from pathlib import Path
from time import perf_counter
from typing import Any

import torch

from xrdkit.benchmark import results
from xrdkit.benchmark.scoring import fingerprint, shard_of
from xrdkit.benchmark.simulated_patterns import BEAM
from xrdkit.crystal import one_crystal, standard_cell, symmetry_of
from xrdkit.dataset import Table
from xrdkit.simulate import pattern_of, realistic
from xrdkit.types import Crystals, Instrument, Pattern, Symmetry

Row = dict[str, Any]


def run_entries(
    table: Table,
    rows: Sequence[int],
    output: str | Path,
    settings: Row,
    shard: tuple[int, int],
    entry: Callable[[int], Row],
    *,
    progress: bool = True,
) -> list[Row]:
    """Run or go on with a benchmark; each row is on the disk when it is done."""
    from tqdm import tqdm

    done = results.start(output, {**settings, "structures": fingerprint(table.ids)})
    known = {row["id"] for row in done}
    names = {table.ids[row]: row for row in rows}
    left = [name for name in shard_of(list(names), shard) if name not in known]
    for name in tqdm(left, disable=not progress, unit="entry"):
        started = perf_counter()
        try:
            found = entry(names[name])
        except Exception as error:  # a long run must not end at one entry
            found = {"error": f"{type(error).__name__}: {error}"}
        found = {"id": name, **found, "seconds": perf_counter() - started}
        results.append(output, found)
        done.append(found)
    return done


def standard(table: Table, row: int) -> tuple[Crystals, Symmetry]:
    """An entry in its standard primitive cell, symmetry at 0.1 Å imposed."""
    cell = standard_cell(*table.arrays(row))
    if cell is None:
        raise ValueError(f"{table.ids[row]} has no symmetry that spglib finds")
    symmetry = symmetry_of(cell.space_group, cell.lattice, cell.frac, cell.numbers)
    return one_crystal(cell.lattice, cell.frac, cell.numbers), symmetry


def good_pattern(crystal: Crystals, generator: torch.Generator) -> Pattern:
    """A good laboratory pattern, 10–100°: FWHM 0.08°, 10,000 counts at most, Poisson."""
    instrument = Instrument(w=0.08**2, x=0.04)
    clean = pattern_of(crystal, BEAM, two_theta=(10, 100, 4501), instrument=instrument)
    return realistic(clean, generator, impurity=0.0)
