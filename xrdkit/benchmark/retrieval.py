"""Retrieval: does a pattern find its own crystal among thousands?

As XtalNet's CPCP: queries are clean patterns of the entries, or disturbed ones; the gallery
is the *crystals* of these entries and of further tables, never their patterns.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from xrdkit.benchmark.counts import rate
from xrdkit.benchmark.simulated_patterns import drawn
from xrdkit.dataset import Table, read_table
from xrdkit.models.weights import load_model
from xrdkit.packed import packed_of
from xrdkit.q_profile import profiles
from xrdkit.train.data import taken
from xrdkit.train.pairs import crystal_vectors, pattern_vectors, ranks

TOP = (1, 5, 10, 20)


def retrieval(
    structures: Table | str | Path,
    weights: str | Path,
    gallery: Sequence[Table | str | Path] = (),
    *,
    n: int | None = None,
    seed: int = 0,
    disturbed: bool = False,
    device: str = "cpu",
) -> list[dict[str, Any]]:
    """Shares of n random entries whose crystal is among the nearest 1, 5, 10 and 20."""
    model = load_model(weights, "pretrain", device)
    tables = [t if isinstance(t, Table) else read_table(t) for t in (structures, *gallery)]
    own, *others = [packed_of(table) for table in tables]
    index = torch.tensor(drawn(len(own), n, seed))
    generator = torch.Generator().manual_seed(seed)
    seen = profiles(taken(own, index).crystals, generator, clean=0.0 if disturbed else 1.0)
    vectors = torch.cat([crystal_vectors(model, part) for part in (own, *others)])
    found = ranks(pattern_vectors(model, seen), vectors, index.to(vectors.device))
    rows = []
    for k in TOP:
        hits, of, share, low, high = rate(int((found < k).sum()), len(index))
        rows.append(
            {
                "": f"top {k} of {len(vectors)}",
                "hits": f"{hits} of {of}",
                "share": round(share, 3),
                "interval": f"{low:.3f}–{high:.3f}",
            }
        )
    return rows
