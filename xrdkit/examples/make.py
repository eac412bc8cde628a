"""Simulates the example patterns beside it:  python -m xrdkit.examples.make

Textbook structures, rounded constants; Cu Kα doublet, background, Poisson noise and a zero
shift of 0.02°, as from a good laboratory instrument.
"""

import numpy as np
import torch
from pymatgen.core import Lattice, Structure

from xrdkit.crystal import from_structures
from xrdkit.examples import FORMULAS, path
from xrdkit.simulate import pattern_of, realistic
from xrdkit.types import Instrument, Pattern
from xrdkit.wavelengths import radiation

STRUCTURES = {  # space group, cell in Å, elements, coordinates
    "rutile": (
        "P4_2/mnm",
        Lattice.tetragonal(4.594, 2.959),
        ["Ti", "O"],
        [[0, 0, 0], [0.305, 0.305, 0]],
    ),
    "calcite": (
        "R-3c",
        Lattice.hexagonal(4.990, 17.06),
        ["Ca", "C", "O"],
        [[0, 0, 0], [0, 0, 0.25], [0.257, 0, 0.25]],
    ),
    "spinel": (
        "Fd-3m:2",
        Lattice.cubic(8.083),
        ["Mg", "Al", "O"],
        [[0.125, 0.125, 0.125], [0.5, 0.5, 0.5], [0.263, 0.263, 0.263]],
    ),
    "lab6": (
        "Pm-3m",
        Lattice.cubic(4.157),
        ["La", "B"],
        [[0, 0, 0], [0.1996, 0.5, 0.5]],
    ),
}


def simulated(name: str) -> Pattern:
    """The example in counts, the same every time."""
    structure = Structure.from_spacegroup(*STRUCTURES[name])
    clean = pattern_of(
        from_structures([structure]),
        radiation("CuKa"),
        two_theta=(10.0, 90.0, 4001),
        instrument=Instrument(w=0.006, zero=0.02),
        size=900.0,
        strain=5e-4,
    )
    seed = list(STRUCTURES).index(name)
    return realistic(clean, torch.Generator().manual_seed(seed))


if __name__ == "__main__":
    for name in STRUCTURES:
        pattern = simulated(name)
        np.savetxt(
            path(name),
            np.column_stack([pattern.two_theta, pattern.intensity]),
            fmt=("%.2f", "%d"),
            header=f"{name} {FORMULAS[name]}, simulated, not measured; Cu K-alpha\n"
            "2theta/degrees counts",
        )
