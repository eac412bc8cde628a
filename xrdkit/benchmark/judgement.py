"""Does R_wp tell right from wrong? Refinements of both against one pattern."""

from collections.abc import Sequence
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from xrdkit.benchmark.entries import Row, good_pattern, run_entries, standard
from xrdkit.benchmark.simulated_patterns import drawn
from xrdkit.crystal import conventional, to_structure
from xrdkit.dataset import Table, read_table
from xrdkit.metrics import normalised_rmse, roc_area, strict_match
from xrdkit.refine.rietveld import refine
from xrdkit.types import Fit

if TYPE_CHECKING:
    from pymatgen.core import Structure

JUDGES = ("r_wp", "r_wp_b", "gof")


def judgement(
    structures: Table | str | Path,
    output: str | Path,
    *,
    n: int = 200,
    seed: int = 0,
    shard: tuple[int, int] = (1, 1),
) -> list[Row]:
    """Rows of n pairs: R_wp of the right structure and of one with the same formula.

    The other one is a polymorph of the table, scaled to the right volume, else the right
    one with two elements exchanged. One that the engine refuses has R values of 100 %.
    """
    table = structures if isinstance(structures, Table) else read_table(structures)
    settings = {"benchmark": "judgement", "n": n, "seed": seed, "shard": shard}
    mixed = (
        r for r in drawn(len(table), len(table), seed) if len(set(table.arrays(r)[2])) > 1
    )
    rows = list(islice(mixed, n))
    return run_entries(table, rows, output, settings, shard, partial(_paired, table, seed))


def _paired(table: Table, seed: int, row: int) -> Row:
    """The right structure and a wrong one against one pattern."""
    generator = torch.Generator().manual_seed(seed * 1_000_003 + row)
    crystal, _ = standard(table, row)
    truth, pattern = to_structure(crystal), good_pattern(crystal, generator)
    wrong, kind = decoy(table, row, truth)
    right = refine(pattern, truth, symprec=1e-3)
    row_of = {"formula": table.formulas[row], "decoy": kind, "right": _r_values(right)}
    try:
        other = refine(pattern, wrong, symprec=1e-2)
    except ValueError as refused:  # nothing in common with the pattern
        nothing = {name: 100.0 for name in JUDGES}
        return {**row_of, "wrong": nothing, "refused": str(refused), "became_right": False}
    same = strict_match(truth, other.structure)
    return {**row_of, "wrong": _r_values(other), "became_right": same}


def _r_values(fit: Fit) -> dict[str, float]:
    return {name: fit.r_values[name] for name in JUDGES}


def decoy(table: Table, row: int, truth: "Structure") -> tuple["Structure", str]:
    """Another structure of the same formula, at the volume of the right one."""
    for other in range(len(table)):
        if other == row or table.formulas[other] != table.formulas[row]:
            continue
        structure = conventional(table.structure(other))[0]
        structure.scale_lattice(truth.volume / len(truth) * len(structure))
        if normalised_rmse(truth, structure) is None:
            return structure, "polymorph"
    swapped = truth.copy()
    first, second = [e.symbol for e in truth.composition.elements][:2]
    swapped.replace_species({first: "X", second: first})
    swapped.replace_species({"X": second})
    return swapped, "exchanged"


def judgement_counts(rows: Sequence[Row]) -> Row:
    """AUC of R values between right and wrong structures, and pairs where R_wp is lower.

    Pairs whose wrong structure was refined into the right one do not count.
    """
    pairs = [row for row in rows if "right" in row and not row["became_right"]]
    counted: Row = {
        "pairs": len(pairs),
        "became right": sum(row.get("became_right", False) for row in rows),
        "errors": sum("error" in row for row in rows),
    }
    for name in JUDGES if pairs else ():
        sides = [[row[side][name] for row in pairs] for side in ("right", "wrong")]
        counted[f"AUC of {name}"] = round(roc_area(*sides), 4)
    lower = [row["right"]["r_wp"] < row["wrong"]["r_wp"] for row in pairs]
    return counted | {"right has the lower R_wp": sum(lower)}
