"""Measured patterns with reference structures: is the compound found in real data?"""

from dataclasses import replace
from pathlib import Path
from typing import Any

from xrdkit.benchmark.scoring import Entry, Solver, asked_of, fingerprint, run, shard_of
from xrdkit.benchmark.simulated_patterns import (
    Unseen,
    held,
    library_fingerprint,
    without_truth,
)
from xrdkit.crystal import read_cif
from xrdkit.generators import DEFAULT
from xrdkit.library import Library, load
from xrdkit.models.weights import Weights
from xrdkit.nanocrystal import nano_sized
from xrdkit.pattern import prepare, read
from xrdkit.problem import usable_size
from xrdkit.types import Radiation
from xrdkit.wavelengths import radiation

COLUMNS = ("id", "compound", "tier", "wavelength_A", "kalpha2")


def measured(
    folder: str | Path,
    library: Library | str | Path | None,
    output: str | Path,
    *,
    unseen: Unseen = "formula",
    tiers: tuple[str, ...] = ("A",),
    size: float | None = None,
    seed: int = 0,
    shard: tuple[int, int] = (1, 1),
    sources: tuple[str, ...] = DEFAULT,
    weights: Weights | None = None,
    candidates: int = 20,
    solver: Solver | None = None,
    progress: bool = True,
) -> list[dict]:
    """Rows of the measured patterns of these tiers: formula known, cell unknown.

    With ``size`` (Å) they are broadened to those of nanocrystals, as PXRDnet's were
    (``nanocrystal.nano_sized``), and its R² is counted.
    """
    folder = Path(folder)
    known = load(library) if isinstance(library, str | Path) else library
    index = read_index(folder, tiers)
    keywords = asked_of(sources, weights, candidates, seed)
    if size is not None:
        keywords["size"] = usable_size(size)
    settings = {"benchmark": "measured", "unseen": unseen, "tiers": tiers, "shard": shard}
    prints = {"patterns": fingerprint(index), "library": library_fingerprint(known)}

    def entry(name: str) -> Entry:
        return entry_of(folder, index[name], known, unseen, keywords)

    return run(
        output,
        {**settings, **prints, **keywords},
        shard_of(list(index), shard),
        entry=entry,
        solver=solver,
        validity=False,
        progress=progress,
    )


def entry_of(
    folder: Path,
    facts: dict[str, Any],
    library: Library | None,
    unseen: Unseen,
    keywords: dict[str, Any],
) -> Entry:
    """The entry of one row of the index: pattern, reference, keywords of ``solve``."""
    name = facts["id"]
    truth = read_cif(str(folder / f"{name}.cif"))
    beam = beam_of(facts["wavelength_A"], facts["kalpha2"])
    formula = facts["compound"]
    known = without_truth(library, truth, formula, unseen)
    keywords = {**keywords, "library": known}
    if unseen != "none":
        keywords["exclude"] = (formula,)
    pattern = read(folder / f"{name}.xy", wavelength=beam)
    if "size" in keywords:
        pattern = nano_sized(prepare(pattern), keywords["size"])
    facts = {**facts, "n_atoms": len(truth), **held(known, formula, truth)}
    return Entry(name, truth, pattern, formula, keywords, facts)


def read_index(folder: Path, tiers: tuple[str, ...]) -> dict[str, dict[str, Any]]:
    """What ``index.csv`` says of the patterns of these tiers, by id."""
    import pandas as pd

    path = folder / "index.csv"
    if not path.is_file():
        raise FileNotFoundError(
            f"{path} does not exist; give the folder of measured patterns"
        )
    frame = pd.read_csv(path)
    if missing := [name for name in COLUMNS if name not in frame]:
        raise ValueError(
            f"{path} lacks columns: {', '.join(missing)}; it has {list(frame)}"
        )
    known = sorted(frame["tier"].unique())
    if wrong := [tier for tier in tiers if tier not in known]:
        raise ValueError(f"tier {wrong[0]} is not in {path}; it has {', '.join(known)}")
    rows = frame[frame["tier"].isin(tiers)][list(COLUMNS)].astype(object)
    return {row["id"]: row for row in rows.to_dict("records")}


def beam_of(wavelength: float, kalpha2: str) -> str | float | Radiation:
    """What a user would know: the tube, a number, or a single line.

    Near Cu or Co Kα a doublet that is "present" is named; "absent" is one line; else the
    bare number, which does not say.
    """
    if kalpha2.startswith("absent"):
        return replace(radiation(wavelength), kalpha2=False)
    if kalpha2.startswith("present"):
        for name, low, high in (("CuKa", 1.5400, 1.5425), ("CoKa", 1.7885, 1.7910)):
            if low <= wavelength <= high:
                return name
    return wavelength
