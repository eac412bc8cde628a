"""The steps of a job as crystals, and what can be drawn over them."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Float

from xrdkit.crystal import from_structures, read_cif, to_structure
from xrdkit.metrics import normalised_rmse
from xrdkit.models.lattice import cell_of
from xrdkit.pattern import prepare
from xrdkit.peaks import typical_fwhm
from xrdkit.simulate import simulate
from xrdkit.types import Candidate, Crystals, Fit, Pattern, Progress

if TYPE_CHECKING:
    from pymatgen.core import Structure

MOST_FRAMES = 5000
POINTS = 1500  # of a pattern, in every frame
ROOM = 1_600_000  # bytes of all patterns together, at most
PREPARED = "intensity, maximum 1"
Curve = Float[np.ndarray, " frames"]


@dataclass(frozen=True)
class Patterns:
    """Observed and, frame by frame, calculated intensity over 2θ (°), and a residual."""

    two_theta: Float[np.ndarray, " points"]
    observed: Float[np.ndarray, " points"]
    calculated: Float[np.ndarray, "frames points"]
    residual: Curve
    measure: str
    wavelength: float
    ordinate: str = PREPARED


def steps_of(frames: "Iterable[Structure | Crystals | Candidate | Fit | Progress]") -> list:
    """What holds a crystal among the steps of a job, in order."""
    found = []
    for given in frames:
        one = given.best if isinstance(given, Progress) else given
        if isinstance(given, Progress) and found and one is found[-1]:
            continue  # still within a cycle
        if one is not None and not isinstance(one, float | int):
            found.append(one)
        if len(found) > MOST_FRAMES:
            raise ValueError(
                f"the trajectory has more than {MOST_FRAMES} steps; give every second one, "
                "for example frames[::2]"
            )
    if not found:
        raise ValueError(
            "the trajectory is empty; give structures, or the steps of a job such as "
            "xrdkit.refine.rietveld.refine_steps(…)"
        )
    return found


def crystal_of(step: Any, which: int) -> Crystals:
    """The crystal of a step, ``which`` of them where it has several, as a batch of one."""
    if isinstance(step, Fit):
        return step.phases[0].crystal.to("cpu")
    if isinstance(step, Candidate):
        return step.crystal.to("cpu")
    if isinstance(step, Crystals):
        if not 0 <= which < len(step):
            raise ValueError(
                f"there is no crystal {which}; a step has {len(step)}, counted from 0"
            )
        return step.to("cpu").select(torch.tensor([which]))
    if hasattr(step, "lattice") and hasattr(step, "frac_coords"):
        return from_structures([step])
    raise ValueError(
        f"a {type(step).__name__} is no step of a trajectory; give pymatgen Structures, "
        "Crystals, Candidates, Fits, or the Progress of a job"
    )


def joined(crystals: list[Crystals]) -> Crystals:
    """Batches of one as one batch."""
    parts = (
        torch.cat([getattr(one, name) for one in crystals])
        for name in ("lattice", "frac", "numbers", "occupancy", "u_iso")
    )
    counts = torch.tensor([len(one.numbers) for one in crystals])
    return Crystals(*parts, torch.arange(len(crystals)).repeat_interleave(counts))


def structure_of(what: Any) -> "Structure":
    """A structure, or that of a CIF file, Fit, Candidate or Crystals."""
    if isinstance(what, str | Path):
        return read_cif(str(what))
    return to_structure(crystal_of(what, 0))


def cell_curves(crystals: Crystals) -> dict[str, Curve]:
    """a, b, c (Å), α, β, γ (°) and the volume (Å³) of every crystal."""
    cells = cell_of(crystals.lattice.double()).numpy().T
    volume = crystals.volume.double().numpy()
    return dict(zip(("a", "b", "c", "α", "β", "γ", "V"), (*cells, volume), strict=True))


def rmse_curve(crystals: Crystals, reference: "Structure") -> Curve:
    """RMSE / (V/N)^(1/3) to the reference by the literature's match, NaN without one."""
    found = (
        normalised_rmse(reference, to_structure(crystals, i)) for i in range(len(crystals))
    )
    return np.array([np.nan if one is None else one for one in found])


def fitted_patterns(fits: list[Fit]) -> Patterns | None:
    """The curves of fits over one pattern; None where they are over several."""
    first = fits[0]
    if any(len(fit.two_theta) != len(first.two_theta) for fit in fits):
        return None
    keep = _kept(len(first.two_theta), len(fits))
    refined = all("r_wp" in fit.r_values for fit in fits)
    return Patterns(
        first.two_theta[keep],
        first.observed[keep],
        np.array([fit.calculated[keep] for fit in fits]),
        np.array([fit.r_wp if refined else fit.residual for fit in fits]),
        "R_wp (%)" if refined else "profile residual",
        first.radiation.main,
        "intensity as measured" if refined else PREPARED,
    )


def simulated_patterns(crystals: Crystals, pattern: Pattern) -> Patterns:
    """Patterns of crystals with lines as wide as the observed ones, scaled to them.

    The residual is √(Σ(y - s c)² / Σy²) over the prepared pattern, s by least squares.
    """
    kept = pattern if pattern.prepared else prepare(pattern)
    width, slope = typical_fwhm(kept)
    shape = {"u": slope**2, "v": 0.0, "w": width**2, "x": 0.0, "y": 0.0}
    instrument = replace(kept.instrument, **shape)
    keep = _kept(len(kept), len(crystals))
    x, y = kept.two_theta[keep], kept.intensity[keep]
    with torch.no_grad():
        grid = torch.as_tensor(x)
        curves = simulate(crystals, kept.radiation, two_theta=grid, instrument=instrument)
    curves = curves.double().numpy()
    scale = curves @ y / np.maximum((curves**2).sum(1), 1e-300)
    curves *= scale[:, None]
    residual = np.sqrt(((y - curves) ** 2).sum(1) / (y @ y))
    measure = "profile residual"
    return Patterns(x, y, curves, residual, measure, kept.radiation.main)


def _kept(points: int, frames: int) -> slice:
    """Every so-manyth point, so that the patterns of all frames have room."""
    most = max(min(POINTS, ROOM // (4 * frames)), 100)
    return slice(None, None, -(-points // most))
