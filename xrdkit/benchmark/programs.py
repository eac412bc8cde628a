"""Our simulation against pymatgen's and GSAS-II's: speed and agreement."""

import time
import warnings
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from xrdkit.benchmark.simulated_patterns import drawn
from xrdkit.crystal import from_structures
from xrdkit.dataset import Table, read_table
from xrdkit.scattering import Reflections, reflections
from xrdkit.simulate import friedel_mean, intensities, line_positions, simulate
from xrdkit.types import Crystals, Radiation
from xrdkit.wavelengths import radiation

if TYPE_CHECKING:
    from pymatgen.core import Structure

POINTS = 1024
RANGE = (5.0, 80.0)  # ° 2θ
SINGLE = radiation("CuKa1")
MERGE = 0.005  # °
STRONG = 0.01  # of the strongest line: weaker ones are not compared


def speed(
    structures: Table | str | Path, n: int = 200, *, seed: int = 0
) -> dict[str, float | int]:
    """Milliseconds per crystal of ``simulate`` at 1,024 points and of pymatgen's lines.

    Both have pymatgen's one wavelength; ours makes the whole profile, reflections included.
    """
    from pymatgen.analysis.diffraction.xrd import XRDCalculator

    table = structures if isinstance(structures, Table) else read_table(structures)
    rows = drawn(len(table), min(n, len(table)), seed)
    crystals = table.crystals.select(torch.tensor(rows))
    single = [table.structure(row) for row in rows]
    calculator = XRDCalculator("CuKa")
    beam = Radiation((calculator.wavelength,))
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        calculator.get_pattern(single[0], two_theta_range=RANGE)  # both have loaded tables
        simulate(crystals.select(torch.arange(1)), beam, two_theta=(*RANGE, POINTS))
        started = time.perf_counter()
        simulate(crystals, beam, two_theta=(*RANGE, POINTS))
        ours = time.perf_counter() - started
        started = time.perf_counter()
        for structure in single:
            calculator.get_pattern(structure, two_theta_range=RANGE)
        theirs = time.perf_counter() - started
    return {
        "crystals": len(rows),
        "xrdkit_ms": 1000 * ours / len(rows),
        "pymatgen_ms": 1000 * theirs / len(rows),
        "ratio": theirs / ours,
        "threads": torch.get_num_threads(),
    }


def agreement(
    structures: Table | str | Path,
    n: int = 50,
    *,
    seed: int = 0,
    gsas2: str | Path | None = None,
) -> dict[str, float | int]:
    """Differences from pymatgen, and from GSAS-II's files in a folder, of lines above 1 %.

    Positions in °. Against pymatgen, without f′, f″ and U, which it has not: percent of
    the strongest line (its form factors are others). Against GSAS-II: percent of each F².
    """
    table = structures if isinstance(structures, Table) else read_table(structures)
    rows = drawn(len(table), min(n, len(table)), seed)
    pairs = [against_pymatgen(table.structure(row)) for row in rows]
    intensity = np.array([difference for _, difference in pairs])
    found = {
        "crystals": len(rows),
        "position_deg": max(position for position, _ in pairs),
        "intensity_percent_median": float(np.median(intensity)),
        "intensity_percent_worst": float(intensity.max()),
        "share_within_2_percent": float((intensity < 2).mean()),
    }
    if gsas2 is not None:
        names = sorted(Path(gsas2).glob("*_gsas2_refl.csv"))
        if not names:
            raise ValueError(
                f"{gsas2} holds no *_gsas2_refl.csv; give GSAS-II's reflections"
            )
        pairs = [against_gsas2(name) for name in names]
        found["gsas2_position_deg"] = max(position for position, _ in pairs)
        found["gsas2_f2_percent"] = max(difference for _, difference in pairs)
    return found


def against_pymatgen(structure: "Structure") -> tuple[float, float]:
    """Largest difference in ° and in percent of the strongest line from pymatgen, Cu Kα1.

    Lines closer than 0.005° are taken together: pymatgen splits some that symmetry unites.
    """
    from pymatgen.analysis.diffraction.xrd import XRDCalculator

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        calculator = XRDCalculator(SINGLE.main)
        theirs = calculator.get_pattern(structure, scaled=False, two_theta_range=RANGE)
    crystal = _double(from_structures([structure]))
    place, height = lines(replace(crystal, u_iso=torch.zeros_like(crystal.u_iso)), SINGLE)
    every = np.sort(np.concatenate([place, theirs.x]))
    edges = ((every[1:] + every[:-1]) / 2)[np.diff(every) > MERGE]
    ours, other = (
        np.bincount(np.searchsorted(edges, x), y, len(edges) + 1)
        for x, y in ((place, height), (theirs.x, theirs.y))
    )
    strong = theirs.x[theirs.y > STRONG * theirs.y.max()]
    position = np.abs(strong[:, None] - place).min(1).max()
    return float(position), float(
        100 * np.abs(ours / ours.max() - other / other.max()).max()
    )


def lines(crystal: Crystals, beam: Radiation) -> tuple[np.ndarray, np.ndarray]:
    """2θ (°) and intensity without f′ and f″ of all half-sphere reflections in range."""
    q_max = float(4 * np.pi * np.sin(np.radians(RANGE[1] / 2)) / beam.main)
    found = reflections(crystal, q_max)
    heights = intensities(crystal, found, beam, anomalous=False)[0, 0]
    place = line_positions(crystal.lattice, found, beam)[0, 0]
    inside = (place >= RANGE[0]) & (place <= RANGE[1])
    return place[inside].numpy(), heights[inside].numpy()


def against_gsas2(path: Path) -> tuple[float, float]:
    """Largest difference in ° and in percent of F² from GSAS-II's reflections of one phase.

    The structure is ``NAME.cif`` beside ``NAME_gsas2_refl.csv``, λ = 1.5405 Å; compared are
    reflections whose multiplicity × F² × LP is above 1 % of the largest.
    """
    import pandas as pd

    theirs = pd.read_csv(path)
    crystal = _double(
        from_cif(path.with_name(path.name.replace("_gsas2_refl.csv", ".cif")))
    )
    hkl = torch.tensor(theirs[["h", "k", "l"]].to_numpy()).long()[None]
    listed = Reflections(hkl, torch.tensor(theirs["mult"].to_numpy()).long()[None])
    beam = Radiation((1.5405,))
    ours = friedel_mean(crystal, listed, beam.main)[0].numpy()
    height = intensities(crystal, listed, beam)[0, 0].numpy()
    place = line_positions(crystal.lattice, listed, beam)[0, 0].numpy()
    strong = height > STRONG * height.max()
    position = np.abs(place - theirs["two_theta"].to_numpy())[strong].max()
    difference = np.abs(ours / theirs["Fcalc2"].to_numpy() - 1)[strong].max()
    return float(position), float(100 * difference)


def from_cif(path: Path) -> Crystals:
    """The crystal of a CIF with its own isotropic U (Å²), every atom of the cell."""
    import gemmi

    small = gemmi.read_small_structure(str(path))
    sites = small.get_all_unit_cell_sites()
    return Crystals(
        torch.tensor(small.cell.orth.mat.tolist()).mT[None],
        torch.tensor([site.fract.tolist() for site in sites]),
        torch.tensor([site.element.atomic_number for site in sites]),
        torch.tensor([site.occ for site in sites]),
        torch.tensor([site.u_iso for site in sites]),
        torch.zeros(len(sites), dtype=torch.long),
    )


def _double(crystal: Crystals) -> Crystals:
    """The same in double precision, so that 1e-6° can be seen."""
    names = ("lattice", "frac", "occupancy", "u_iso")
    return replace(crystal, **{name: getattr(crystal, name).double() for name in names})
