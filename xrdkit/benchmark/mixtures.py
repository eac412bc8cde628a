"""Whether a foreign phase in the sample changes the answer: entries alone and mixed."""

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch

from xrdkit.benchmark import results
from xrdkit.benchmark.counts import rate
from xrdkit.benchmark.scoring import Entry, Solver, asked_of, run, shard_of
from xrdkit.benchmark.simulated_patterns import (
    BEAM,
    GRID,
    INSTRUMENT,
    Protocol,
    drawn,
    entry_of,
    protocol_settings,
)
from xrdkit.dataset import Table, read_table
from xrdkit.disturb import mixed
from xrdkit.generators import DEFAULT
from xrdkit.library import Library, load
from xrdkit.models.weights import Weights
from xrdkit.simulate import disturbed as disturbed_pattern
from xrdkit.simulate import pattern_of
from xrdkit.types import Pattern

ALONE, MIXED = "alone", "mixed"


def impurity(
    structures: Table | str | Path,
    library: Library | str | Path | None,
    output: str | Path,
    *,
    n: int | None = None,
    seed: int = 0,
    share: float = 0.3,
    formula: Literal["contents", "reduced"] = "reduced",
    disturbed: bool = False,
    shard: tuple[int, int] = (1, 1),
    sources: tuple[str, ...] = DEFAULT,
    weights: Weights | None = None,
    candidates: int = 20,
    solver: Solver | None = None,
    progress: bool = True,
) -> list[dict]:
    """Rows of n random entries, each alone and with a foreign phase that nobody mentions.

    The patterns are those of the MP-20 protocol; the foreign phase, a random entry
    of another compound, has this ``share`` of the lines' integrated intensity.
    """
    table = structures if isinstance(structures, Table) else read_table(structures)
    known = load(library) if isinstance(library, str | Path) else library
    chosen = drawn(len(table), n, seed)
    keywords = asked_of(sources, weights, candidates, seed)
    shown = {row: row for row in chosen}
    asked = Protocol(table, known, shown, "none", formula, disturbed, "none", keywords)
    settings = {"benchmark": "impurity", "n": len(chosen), "share": share, "shard": shard}
    ids = shard_of([table.ids[row] for row in chosen], shard)
    rows = {table.ids[row]: row for row in chosen}
    return run(
        output,
        {**settings, **protocol_settings(asked)},
        [f"{name} {kind}" for name in ids for kind in (ALONE, MIXED)],
        entry=partial(entry_mixed, asked, rows, share),
        solver=solver,
        validity=False,
        progress=progress,
    )


def entry_mixed(asked: Protocol, rows: dict[str, int], share: float, name: str) -> Entry:
    """The entry "id alone" or "id mixed" of the MP-20 protocol."""
    name, kind = name.rsplit(" ", 1)
    entry = replace(entry_of(asked, rows, name), name=f"{name} {kind}")
    if kind == ALONE:
        return entry
    foreign = another(asked.table, rows[name], asked.keywords["seed"])
    pattern = mixed_pattern(asked, rows[name], foreign, share)
    facts = {**entry.facts, "foreign": asked.table.formulas[foreign]}
    return replace(entry, pattern=pattern, facts=facts)


def another(table: Table, row: int, seed: int) -> int:
    """A random row of another compound."""
    generator = torch.Generator().manual_seed(seed * 1_000_003 + row)
    for other in torch.randperm(len(table), generator=generator).tolist():
        if table.formulas[other] != table.formulas[row]:
            return other
    raise ValueError(
        f"all entries are {table.formulas[row]}; give a table of several compounds"
    )


def mixed_pattern(asked: Protocol, row: int, foreign: int, share: float) -> Pattern:
    """The pattern of a row, disturbed as without the foreign row that is added."""
    main, other = (asked.table.crystals.select(torch.tensor([i])) for i in (row, foreign))
    if asked.disturbed:
        generator = torch.Generator().manual_seed(asked.keywords["seed"] * 1_000_003 + row)
        return disturbed_pattern(main, BEAM, generator, foreign=other, share=share)
    patterns = [
        pattern_of(crystal, BEAM, two_theta=GRID, instrument=INSTRUMENT)
        for crystal in (main, other)
    ]
    return mixed(*patterns, share)


def kept(files: list[str | Path], measure: str = "strict") -> dict[str, Any]:
    """Of the entries whose first answer is right alone, how many stay right when mixed.

    Each count is (hits, of, share, Wilson 95 % interval).
    """
    _, rows = results.read(files)
    right = {row["id"]: bool(row["fits"]) and row["fits"][0][measure] for row in rows}
    names = [name.removesuffix(f" {MIXED}") for name in right if name.endswith(MIXED)]
    alone = [name for name in names if right[f"{name} {ALONE}"]]
    both = sum(right[f"{name} {MIXED}"] for name in alone)
    return {
        ALONE: rate(len(alone), len(names)),
        MIXED: rate(sum(right[f"{name} {MIXED}"] for name in names), len(names)),
        "kept": rate(both, len(alone)),
    }
