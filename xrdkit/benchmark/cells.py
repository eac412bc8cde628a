"""Indexing: is the lattice of the truth found from the lines of a pattern alone?"""

import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from xrdkit.benchmark import results
from xrdkit.benchmark.measured_patterns import beam_of, read_index
from xrdkit.benchmark.scoring import WITHIN, fingerprint, shard_of
from xrdkit.benchmark.simulated_patterns import BEAM, drawn, library_fingerprint
from xrdkit.crystal import read_cif
from xrdkit.dataset import Table, read_table
from xrdkit.generators.cells import formula_volume, index
from xrdkit.generators.learned_cells import learned_cells
from xrdkit.indexing.bravais import reduced, same_lattice
from xrdkit.library import Library, load
from xrdkit.pattern import prepare, read
from xrdkit.problem import load_library, parse_formula
from xrdkit.simulate import disturbed
from xrdkit.space_group import crystal_system
from xrdkit.types import Pattern

if TYPE_CHECKING:
    from pymatgen.core import Structure

TIERS = ("A", "B_large", "B_tiny")
Question = tuple[Pattern, str, "Structure", str]  # pattern, formula, truth, group


def indexing(
    structures: Table | str | Path,
    library: Library | str | Path | None,
    output: str | Path,
    *,
    n: int | None = None,
    seed: int = 0,
    formula: bool = True,
    network: str | Path | None = None,
    shard: tuple[int, int] = (1, 1),
    progress: bool = True,
) -> list[dict]:
    """Rows of n random entries, patterns disturbed as those of ``mp20``.

    With ``formula`` the reduced formula is known, and so about the volume of a unit of it;
    a ``network`` (weights of a CellNet or a flow) proposes cells beside the search.
    """
    table = structures if isinstance(structures, Table) else read_table(structures)
    rows = {table.ids[row]: row for row in drawn(len(table), n, seed)}

    def question(name: str) -> Question:
        row = rows[name]
        crystal = table.crystals.select(torch.tensor([row]))
        generator = torch.Generator().manual_seed(seed * 1_000_003 + row)
        pattern = disturbed(crystal, BEAM, generator)
        truth = table.structure(row)
        return pattern, table.formulas[row], truth, crystal_system(table.space_groups[row])

    settings = {"benchmark": "indexing", "n": len(rows), "shard": shard, "seed": seed}
    settings["structures"] = fingerprint(table.ids)
    names = shard_of(list(rows), shard)
    asked = {"formula": formula, "network": network, "progress": progress}
    return _run(output, settings, names, question, library, **asked)


def indexing_measured(
    folder: str | Path,
    library: Library | str | Path | None,
    output: str | Path,
    *,
    tiers: tuple[str, ...] = TIERS,
    formula: bool = True,
    network: str | Path | None = None,
    shard: tuple[int, int] = (1, 1),
    progress: bool = True,
) -> list[dict]:
    """Rows of the measured patterns of these tiers; the lattice of the CIF is the truth."""
    folder = Path(folder)
    facts = read_index(folder, tiers)

    def question(name: str) -> Question:
        known = facts[name]
        beam = beam_of(known["wavelength_A"], known["kalpha2"])
        pattern = read(folder / f"{name}.xy", wavelength=beam)
        truth = read_cif(str(folder / f"{name}.cif"))
        return pattern, known["compound"], truth, known["compound"]

    settings = {"benchmark": "indexing measured", "tiers": tiers, "shard": shard}
    settings["patterns"] = fingerprint(facts)
    names = shard_of(list(facts), shard)
    asked = {"formula": formula, "network": network, "progress": progress}
    return _run(output, settings, names, question, library, **asked)


def _run(
    output: str | Path,
    settings: dict[str, Any],
    names: list[str],
    question: Callable[[str], Question],
    library: Library | str | Path | None,
    *,
    formula: bool,
    network: str | Path | None,
    progress: bool,
) -> list[dict]:
    """Index what the file lacks, append each answer; return all rows."""
    from tqdm import tqdm

    known = load(library) if isinstance(library, str | Path) else library
    settings = {**settings, "formula": formula, "library": library_fingerprint(known)}
    if network is not None:
        settings["network"] = str(network)
    known = known or load_library(None)
    rows = results.start(output, settings)
    done = {row["id"] for row in rows}
    left = [name for name in names if name not in done]
    for name in tqdm(left, disable=not progress, unit="pattern"):
        row = {"id": name, **answer(*question(name), known if formula else None, network)}
        results.append(output, row)
        rows.append(row)
    return rows


def answer(
    pattern: Pattern,
    formula: str,
    truth: "Structure",
    group: str,
    library: Library | None,
    network: str | Path | None = None,
) -> dict[str, Any]:
    """Rank of the first cell with the lattice of the truth (``same_lattice``), or None."""
    lattice = reduced(truth.get_primitive_structure().lattice.matrix)
    facts = {"formula": formula, "group": group, "volume": abs(np.linalg.det(lattice))}
    started = time.perf_counter()
    try:
        counts = parse_formula(formula)
        unit = formula_volume(library, counts) if library is not None else None
        seen, proposed = prepare(pattern), []
        if network is not None:
            known = counts if library is not None else None
            proposed = learned_cells(seen, known, weights=network)
        found = index(seen, volume=unit, count=WITHIN, proposed=proposed)
    except ValueError as error:
        seconds = time.perf_counter() - started
        return {**facts, "error": str(error), "rank": None, "seconds": seconds}
    seconds = time.perf_counter() - started
    right = [i for i, cell in enumerate(found, 1) if same_lattice(lattice, cell.primitive)]
    if not found:
        return {**facts, "rank": None, "seconds": seconds}
    first = found[0]
    return {
        **facts,
        "rank": right[0] if right else None,
        "bravais": first.bravais,
        "cell": first.cell,
        "m20": first.m20,
        "indexed": first.indexed,
        "lines": first.lines,
        "seconds": seconds,
    }


def indexing_counts(rows: list[dict]) -> list[dict[str, Any]]:
    """Shares right first and within twenty by crystal system or compound, and of all."""
    groups: dict[str, list[dict]] = {}
    for row in rows:
        groups.setdefault(row["group"], []).append(row)
    return [
        {
            "group": name,
            "n": len(part),
            "first": float(np.mean([row["rank"] == 1 for row in part])),
            "within 20": float(np.mean([row["rank"] is not None for row in part])),
            "median seconds": float(np.median([row["seconds"] for row in part])),
        }
        for name, part in [*sorted(groups.items()), ("all", rows)]
    ]
