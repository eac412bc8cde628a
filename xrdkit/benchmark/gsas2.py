"""The GSAS-II backend on five data sets, beside a refinement that was set up by hand."""

import json
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from xrdkit.formats import read_instrument
from xrdkit.pattern import crop, read
from xrdkit.refine.gsas2 import refine


class Case(NamedTuple):
    """Files of a data set; range of 2θ (°) and background terms of the reference."""

    data: str
    start: str
    instrument: str
    low: float
    high: float
    terms: int


CASES = {
    "NaCl": Case("NaCl_noisy.xye", "NaCl_start.cif", "lab.instprm", 5, 80, 5),
    "TiO2": Case("TiO2_noisy.xye", "TiO2_start.cif", "lab.instprm", 5, 80, 5),
    "CaTiO3": Case("CaTiO3_noisy.xye", "CaTiO3_start.cif", "lab.instprm", 5, 80, 5),
    "FAP": Case("FAP.XRA", "FAP_start.cif", "INST_XRY.PRM", 16, 180, 8),
    "PbSO4": Case("PBSO4.XRA", "PbSO4-Wyckoff.cif", "INST_XRY.PRM", 16, 150, 8),
}
Row = dict[str, str | float | int | list[str]]


def second_opinion(
    folder: str | Path, names: Sequence[str] = tuple(CASES)
) -> Iterator[Row]:
    """R_wp (%) and P here and in NAME_gsas2_refined.json, cell difference in Å, seconds.

    The profile starts from the instrument file and is refined, as it was there.
    """
    folder = Path(folder)
    for name in names:
        case = CASES[name]
        wanted = json.loads((folder / f"{name}_gsas2_refined.json").read_text())
        beam, profile = read_instrument(folder / case.instrument)
        pattern = crop(read(folder / case.data, beam), case.low, case.high)
        started = time.perf_counter()
        fit = refine(
            pattern,
            folder / case.start,
            instrument=profile,
            free_profile=True,
            background=case.terms,
        )
        edges = [wanted["cell"][f"length_{edge}"] for edge in "abc"]
        yield {
            "name": name,
            "r_wp": fit.r_wp,
            "reference": wanted["Rwp"],
            "parameters": fit.n_parameters,
            "reference_parameters": wanted["nvar"],
            "edges": float(np.abs(np.array(fit.structure.lattice.abc) - edges).max()),
            "seconds": time.perf_counter() - started,
            "warnings": list(fit.warnings),
        }
