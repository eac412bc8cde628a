"""Makes gsas2_*.json: what GSAS-II answers to small simulated patterns, word by word.

XRDKIT_GSAS2_PYTHON=/path/to/python python tests/data/make_gsas2.py
"""

import json
from pathlib import Path

import numpy as np
from pymatgen.core import Lattice, Structure

from xrdkit.refine.gsas2 import simulate
from xrdkit.refine.gsas2.job import job_of, model_of, stages_of
from xrdkit.refine.gsas2.process import Worker
from xrdkit.refine.rietveld.asymmetric import asymmetric_unit
from xrdkit.refine.rietveld.data import observations
from xrdkit.types import Instrument, Pattern
from xrdkit.wavelengths import radiation

GRID = (20.0, 90.0, 701)
INSTRUMENT = Instrument(w=0.04)
BEAM = radiation("CuKa")
TEXTBOOK = {
    "hexagonal": ("P6_3mc", (3.25, 3.25, 5.207, 90, 90, 120), "ZnO",
                  [[1 / 3, 2 / 3, 0], [1 / 3, 2 / 3, 0.382]]),
    "monoclinic": ("P2_1/c", (4.684, 3.423, 5.129, 90, 99.5, 90), "CuO",
                   [[0.25, 0.75, 0.1], [0.1, 0.42, 0.3]]),
    "triclinic": ("P-1", (3.9, 4.6, 5.1, 95, 102, 108), "CuO",
                  [[0.1, 0.2, 0.3], [0.4, 0.3, 0.15]]),
}  # fmt: skip


def structure(system: str) -> Structure:
    """A small structure of a crystal system."""
    group, cell, formula, places = TEXTBOOK[system]
    kinds = [formula[:2], formula[2:]]
    return Structure.from_spacegroup(group, Lattice.from_parameters(*cell), kinds, places)


def pattern(counts: list[int]) -> Pattern:
    """The pattern of these counts."""
    y = np.array(counts, dtype=float)
    sigma = np.sqrt(np.maximum(y, 1))
    grid = np.linspace(*GRID)
    return Pattern(grid, y, BEAM, sigma, "counts", instrument=INSTRUMENT, name="made")


def model(counts: list[int], system: str):
    """The model of a stored run."""
    unit = asymmetric_unit(structure(system))
    return model_of(observations(pattern(counts)), (unit,), INSTRUMENT, terms=2)


def shortened(value):
    """Numbers with eight figures."""
    if isinstance(value, float):
        return float(f"{value:.8g}")
    if isinstance(value, list):
        return [shortened(v) for v in value]
    return {k: shortened(v) for k, v in value.items()} if isinstance(value, dict) else value


def main() -> None:
    """Write the files."""
    generator = np.random.default_rng(0)
    for system in TEXTBOOK:
        clean = simulate(
            structure(system), BEAM, two_theta=GRID, instrument=INSTRUMENT, size=500.0
        )
        counts = generator.poisson(2000 * clean.intensity + 100).tolist()
        made = model(counts, system)
        with Worker() as worker:
            *_, answer = worker.ask(job_of(made, stages_of(made)), 300.0)
        for key in ("calculated", "background"):
            answer["state"][key] = [float(f"{y:.6g}") for y in answer["state"][key]]
        path = Path(__file__).with_name(f"gsas2_{system}.json")
        text = json.dumps({"counts": counts, "answer": shortened(answer)})
        path.write_text(text + "\n", encoding="utf-8")
        print(path.name, len(text), answer["stage"], answer["undone"])


if __name__ == "__main__":
    main()
