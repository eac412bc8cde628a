"""How far off may a start be, and does R_wp tell right from wrong? Both on table entries.

``convergence`` moves atoms along what the space group leaves free and refines;
``judgement`` refines the right structure and another one of the same formula.
"""

from collections.abc import Callable, Sequence
from functools import partial
from itertools import islice, pairwise
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from xrdkit.benchmark import results
from xrdkit.benchmark.scoring import fingerprint, shard_of
from xrdkit.benchmark.simulated_patterns import BEAM, drawn
from xrdkit.crystal import (
    conventional,
    one_crystal,
    standard_cell,
    symmetry_of,
    to_structure,
)
from xrdkit.dataset import Table, read_table
from xrdkit.metrics import (
    LITERATURE,
    normalised_rmse,
    roc_area,
    strict_match,
    wilson_interval,
)
from xrdkit.refine.rietveld import refine
from xrdkit.simulate import pattern_of, realistic
from xrdkit.types import Crystals, Fit, Instrument, Pattern, Symmetry

if TYPE_CHECKING:
    from pymatgen.core import Structure

LEAST, MOST = 0.03, 0.3  # RMSE of the starts, in units of (V/N)^(1/3)
REFINED = 0.02  # RMSE from which a structure counts as refined
NEAR = 0.15  # RMSE of starts that should all be
JUDGES = ("r_wp", "r_wp_b", "gof")
Row = dict[str, Any]


def convergence(
    structures: Table | str | Path,
    output: str | Path,
    *,
    n: int = 300,
    seed: int = 0,
    shard: tuple[int, int] = (1, 1),
) -> list[Row]:
    """Rows of n random entries with free coordinates: RMSE before and after refinement.

    Starts are in the right space group and cell (± 0.3 %), their atoms moved along random
    free directions by an RMSE uniform in 0.03–0.3. Patterns are good laboratory ones.
    """
    table = structures if isinstance(structures, Table) else read_table(structures)
    settings = {"benchmark": "convergence", "n": n, "seed": seed, "shard": shard}
    rows = list(
        islice((r for r in drawn(len(table), len(table), seed) if _free(table, r)), n)
    )
    return _run(table, rows, output, settings, shard, partial(_started, table, seed))


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
    return _run(table, rows, output, settings, shard, partial(_paired, table, seed))


def _run(
    table: Table,
    rows: Sequence[int],
    output: str | Path,
    settings: Row,
    shard: tuple[int, int],
    entry: Callable[[int], Row],
) -> list[Row]:
    """Run or go on with a benchmark; each row is on the disk when it is done."""
    done = results.start(output, {**settings, "structures": fingerprint(table.ids)})
    known = {row["id"] for row in done}
    names = {table.ids[row]: row for row in rows}
    for name in shard_of(list(names), shard):
        if name in known:
            continue
        started = perf_counter()
        try:
            found = entry(names[name])
        except Exception as error:  # a long run must not end at one entry
            found = {"error": f"{type(error).__name__}: {error}"}
        found = {"id": name, **found, "seconds": perf_counter() - started}
        results.append(output, found)
        done.append(found)
    return done


def _standard(table: Table, row: int) -> tuple[Crystals, Symmetry]:
    """An entry in its standard primitive cell, symmetry at 0.1 Å imposed."""
    cell = standard_cell(*table.arrays(row))
    if cell is None:
        raise ValueError(f"{table.ids[row]} has no symmetry that spglib finds")
    symmetry = symmetry_of(cell.space_group, cell.lattice, cell.frac, cell.numbers)
    return one_crystal(cell.lattice, cell.frac, cell.numbers), symmetry


def _free(table: Table, row: int) -> bool:
    """Whether an entry has coordinates that symmetry leaves free."""
    cell = standard_cell(*table.arrays(row))
    if cell is None:
        return False
    symmetry = symmetry_of(cell.space_group, cell.lattice, cell.frac, cell.numbers)
    return symmetry.coordinate_basis.shape[1] > 0


def _pattern(crystal: Crystals, generator: torch.Generator) -> Pattern:
    """A good laboratory pattern, 10–100°: FWHM 0.08°, 10,000 counts at most, Poisson."""
    instrument = Instrument(w=0.08**2, x=0.04)
    clean = pattern_of(crystal, BEAM, two_theta=(10, 100, 4501), instrument=instrument)
    return realistic(clean, generator, impurity=0.0)


def _started(table: Table, seed: int, row: int) -> Row:
    """One entry refined from a start that is off."""
    generator = torch.Generator().manual_seed(seed * 1_000_003 + row)
    crystal, symmetry = _standard(table, row)
    wanted = LEAST + (MOST - LEAST) * float(torch.rand((), generator=generator))
    start = moved(crystal, symmetry, wanted, generator)
    facts = {"formula": table.formulas[row], "space_group": symmetry.number}
    try:
        fit = refine(_pattern(crystal, generator), start, symprec=1e-3)
    except ValueError as refused:
        return {**facts, "before": wanted, "after": None, "refused": str(refused)}
    return {
        **facts,
        "before": wanted,
        "after": apart(to_structure(crystal), fit.structure),
        "r_wp": fit.r_wp,
        "gof": fit.r_values.get("gof"),
    }


def apart(truth: "Structure", found: "Structure") -> float | None:
    """RMSE / (V/N)^(1/3) of atoms in the conventional cells, None where they do not match.

    Cells are not reduced further: a primitive cell that is found within a tolerance may be
    there before a refinement and not after it.
    """
    from pymatgen.analysis.structure_matcher import StructureMatcher

    matcher = StructureMatcher(**LITERATURE, primitive_cell=False)
    rms = matcher.get_rms_dist(conventional(truth, symprec=1e-3)[0], found)
    return None if rms is None else float(rms[0])


def moved(
    crystal: Crystals, symmetry: Symmetry, rmse: float, generator: torch.Generator
) -> "Structure":
    """The structure with atoms moved along free coordinates by this RMSE, cell ± 0.3 %."""
    basis = symmetry.coordinate_basis.double()
    lattice = crystal.lattice[0].double()
    direction = torch.randn(basis.shape[1], generator=generator, dtype=torch.float64)
    shift = (basis @ direction).reshape(-1, 3)
    shift = shift - shift.mean(0)
    unit = float(torch.linalg.det(lattice).abs() / len(shift)) ** (1 / 3)
    size = float((shift @ lattice).norm(dim=1).square().mean().sqrt()) / unit
    scale = 1 + 0.003 * (2 * float(torch.rand((), generator=generator)) - 1)
    return to_structure(
        one_crystal(
            (lattice * scale).numpy(),
            (crystal.frac.double() + shift * (rmse / max(size, 1e-9))).numpy(),
            crystal.numbers.numpy(),
        )
    )


def _paired(table: Table, seed: int, row: int) -> Row:
    """The right structure and a wrong one against one pattern."""
    generator = torch.Generator().manual_seed(seed * 1_000_003 + row)
    crystal, _ = _standard(table, row)
    truth, pattern = to_structure(crystal), _pattern(crystal, generator)
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


def convergence_counts(rows: Sequence[Row], bins: int = 9) -> list[Row]:
    """Share of starts that are refined to an RMSE below 0.02, by the RMSE they start from.

    Rows of the curve, then all starts up to 0.15 and all; Wilson's 95 % interval. "worse"
    are those that end farther off than they began.
    """
    good = [row for row in rows if row.get("before") is not None]
    edges = np.linspace(LEAST, MOST, bins + 1)
    parts = list(pairwise(edges.tolist()))
    counted = []
    for low, high in [*parts, (0.0, NEAR), (0.0, np.inf)]:
        part = [row for row in good if low <= row["before"] < high]
        if not part:
            continue
        ends = [np.inf if row["after"] is None else row["after"] for row in part]
        hits = sum(end < REFINED for end in ends)
        refused = sum("refused" in row for row in part)
        worse = sum(e > row["before"] * 1.05 for e, row in zip(ends, part, strict=True))
        bounds = wilson_interval(hits, len(part))
        counted.append(
            {
                "RMSE before": f"{low:.2f}–{high:.2f}",
                "starts": len(part),
                "refined": hits,
                "share": round(hits / len(part), 3),
                "interval": f"{bounds[0]:.3f}–{bounds[1]:.3f}",
                "worse": worse - refused,
                "refused": refused,
            }
        )
    return counted


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
