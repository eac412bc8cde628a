"""Generators on their own: how many of the structures they draw for a pattern are right.

The protocol of XtalNet and PXRDGen: a clean pattern, the atoms of the primitive cell, its
true cell or none; a literature match of one sample, and of the best of several.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import torch

from xrdkit.benchmark import results
from xrdkit.benchmark.counts import rate
from xrdkit.benchmark.scoring import fingerprint, shard_of
from xrdkit.benchmark.simulated_patterns import drawn as chosen
from xrdkit.dataset import Table, read_table
from xrdkit.metrics import charge_balanced
from xrdkit.models.checkpoint import kind_of
from xrdkit.models.weights import load_model, located
from xrdkit.packed import Packed, packed_of
from xrdkit.train.data import taken
from xrdkit.train.validation import compared, drawn

Row = dict[str, Any]
METHODS = "flow", "diffusion"
AT_ONCE = 4096  # atoms of all samples that are drawn at once


def generation(
    structures: Table | str | Path,
    weights: str | Path,
    output: str | Path,
    *,
    n: int | None = None,
    seed: int = 0,
    cell: str = "none",
    samples: int = 20,
    steps: int = 50,
    shard: tuple[int, int] = (1, 1),
    device: str = "cpu",
    progress: bool = True,
) -> list[Row]:
    """Rows of n random entries: the RMSE of each sample, None without a literature match.

    ``weights`` are of a flow or a diffusion; ``cell`` is "none" or "given". "seconds" are
    those of drawing one structure, ``AT_ONCE`` atoms at a time.
    """
    from tqdm import tqdm

    path = located(weights)
    method = method_of(path)
    table = structures if isinstance(structures, Table) else read_table(structures)
    settings = {"benchmark": "generation", "n": n, "seed": seed, "cell": cell}
    settings |= {"samples": samples, "steps": steps, "weights": str(weights)}
    settings |= {"structures": fingerprint(table.ids), "shard": shard}
    rows = results.start(output, settings)
    data, facts = packed_of(table), dict(zip(table.ids, table.formulas, strict=True))
    places = {name: i for i, name in enumerate(data.ids)}
    names = [table.ids[i] for i in chosen(len(table), n, seed) if table.ids[i] in places]
    done = {row["id"] for row in rows}
    own = torch.tensor([places[name] for name in shard_of(names, shard)])
    model = load_model(path, method, device)
    with tqdm(total=len(own), initial=len(done), disable=not progress) as bar:
        for index in parts(data, own, samples):
            part = taken(data, index)
            if done.issuperset(part.ids):
                continue
            started = perf_counter()
            answers = drawn(
                model,
                part,
                known=cell == "given",
                method=method,
                samples=samples,
                steps=steps,
                seed=seed * 1_000_003 + int(index[0]),
                device=device,
            )
            spent = (perf_counter() - started) / (samples * len(part))
            for name, rmse in zip(part.ids, compared(part, answers), strict=True):
                if name in done:
                    continue
                row = {"id": name, "formula": facts[name], "rmse": rmse}
                row |= {"valid": charge_balanced(facts[name]), "seconds": spent}
                results.append(output, row)
                rows.append(row)
                bar.update()
    return rows


def method_of(path: Path) -> str:
    """What a file of weights draws by, "flow" or "diffusion"; others are refused."""
    kind = kind_of(path)
    if kind not in METHODS:
        raise ValueError(
            f"{path} holds {kind or 'no weights of xrdkit'}; give those of a flow or a "
            "diffusion"
        )
    return kind


def parts(data: Packed, own: torch.Tensor, samples: int) -> Iterator[torch.Tensor]:
    """Indices of crystals with equally many atoms, as many as are drawn for at once."""
    counts = data.crystals.counts[own]
    for n in counts.unique().tolist():
        yield from own[counts == n].split(max(1, AT_ONCE // (n * samples)))


def generation_counts(rows: Sequence[Row]) -> list[Row]:
    """Match rates of one sample and of the best of all, with Wilson's 95 % interval.

    "with filter" counts entries that SMACT does not pass as missed, as PXRDGen does.
    """
    found = []
    for name, kept in (("match", rows), ("with filter", [r for r in rows if r["valid"]])):
        for many in (1, len(rows[0]["rmse"])):
            best = [
                min((v for v in row["rmse"][:many] if v is not None), default=None)
                for row in kept
            ]
            right = [v for v in best if v is not None]
            hits, of, share, low, high = rate(len(right), len(rows))
            found.append(
                {
                    "": f"{name}, best of {many}",
                    "hits": f"{hits} of {of}",
                    "share": round(share, 3),
                    "interval": f"{low:.3f}–{high:.3f}",
                    "mean RMSE": round(float(np.mean(right)), 4) if right else None,
                }
            )
    return found
