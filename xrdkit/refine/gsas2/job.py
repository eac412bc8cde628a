"""What GSAS-II is asked: pattern, phases and stages, in its own words."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Float

from xrdkit.peaks import rough_fwhm
from xrdkit.profile import SCHERRER, line_widths
from xrdkit.refine.gsas2.instrument import GEOMETRY, gsas2_instrument
from xrdkit.refine.rietveld.asymmetric import AsymmetricUnit, Site
from xrdkit.refine.rietveld.data import Data, refuse_flat
from xrdkit.refine.rietveld.engine import refuse_unseen
from xrdkit.refine.rietveld.frame import make_frame
from xrdkit.refine.rietveld.start import first_table, prefix_of
from xrdkit.refine.rietveld.table import Parameters
from xrdkit.scattering import slit_factor
from xrdkit.types import Instrument

SIZE = 1e4 * SCHERRER  # Å of one of GSAS-II's µm, whose Scherrer constant is one
STRAIN = 0.25e-6  # our strain of one of GSAS-II's: its width is S tanθ, ours 4 ε tanθ
MICRON = 1e-3  # mm
WIDEST = 10.0  # µm, a size that broadens nothing
LEAST_SINE = 1e-3  # of θ; nothing is measured below
AXIAL = 0.002  # (S + H)/L, the least that GSAS-II draws
GAP = 0.5  # °, the least that counts as a gap of the scan
CYCLES = 10
AS_IT_IS = {"name": "as it is", "flags": [], "cycles": 0}  # a stage
Stage = dict[str, Any]
Curve = Float[np.ndarray, " points"]


@dataclass(frozen=True)
class Model:
    """What is refined: data, and the parameter table with what it starts from.

    ``fixed`` says that the profile is that of an instrument file and does not move.
    """

    data: Data
    table: Parameters
    fixed: bool = True
    occupancies: bool = False

    @property
    def units(self) -> tuple[AsymmetricUnit, ...]:
        """The phases."""
        return self.table.units

    @property
    def slits(self) -> Curve:
        """What the slits do to intensities, which GSAS-II is not told."""
        sine = np.sin(np.radians(self.data.two_theta / 2)).clip(min=LEAST_SINE)
        now = self.data.instrument
        return slit_factor(torch.as_tensor(sine), now.slits, now.overflow).numpy()

    @property
    def flat(self) -> bool:
        """Whether a sample off the axis shifts lines, and not the zero."""
        return self.data.instrument.geometry == "bragg-brentano"

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the phases in GSAS-II, each of its own."""
        return tuple(f"{i + 1} {unit.name}" for i, unit in enumerate(self.units))


def model_of(
    data: Data,
    units: tuple[AsymmetricUnit, ...],
    instrument: Instrument | None,
    *,
    terms: int,
    texture: tuple[int, int, int] | None = None,
    occupancies: bool = False,
    free_profile: bool = False,
) -> Model:
    """The model; without an instrument the profile starts from the widths of the lines."""
    refuse_flat(data)
    own, fwhm = data.instrument, rough_fwhm(data.two_theta, data.intensity)
    profile = replace(own, u=0.0, v=0.0, w=fwhm**2, x=0.0, y=0.0, asymmetry=AXIAL)
    if instrument is not None:
        kept = ("geometry", "slits", "radius", "overflow")
        profile = replace(instrument, **{key: getattr(own, key) for key in kept})
    axis = texture and units[0].direction(texture)
    table = first_table(units, profile, background=terms, texture=axis)
    size, strain = sample_start(fwhm, data, profile)
    level = float(np.quantile(data.intensity, 0.1))
    starts = {"size": size, "strain": strain, "background:0": level}
    for name in table.names:
        if (own_name := name.rpartition("/")[2]) in starts:
            table = table.edit(name, value=starts[own_name])
    fixed = instrument is not None and not free_profile
    model = Model(replace(data, instrument=profile), table, fixed, occupancies)
    refuse_unseen(make_frame(model.data, table))
    return model


def sample_start(fwhm: float, data: Data, instrument: Instrument) -> tuple[float, float]:
    """Size (Å) and strain that each explain half of what lines are wider than the profile.

    In the middle of the pattern; at least a tenth of their width (°).
    """
    middle = torch.tensor([float(data.two_theta.mean())], dtype=torch.float64)
    own = line_widths(middle, instrument, data.radiation.main).pseudo_voigt()[0]
    excess = np.radians(max(fwhm - float(own), fwhm / 10)) / 2
    theta = np.radians(float(middle) / 2)
    size = SCHERRER * data.radiation.main / excess / np.cos(theta)
    return float(size), float(excess / 4 / np.tan(theta))


def job_of(model: Model, stages: Sequence[Stage], project: str = "") -> dict[str, Any]:
    """The job that the worker takes; the project is saved where ``project`` says."""
    data, table, slits = model.data, model.table, model.slits
    instrument = data.instrument
    terms = [row.value for row in table.rows if row.name.startswith("background:")]
    return {
        "two_theta": data.two_theta.tolist(),
        "intensity": np.where(data.weight > 0, data.intensity / slits, 0).tolist(),
        "weight": (data.weight * slits**2).tolist(),
        "excluded": gaps(data.two_theta),
        "instrument": gsas2_instrument(data.radiation, instrument),
        "geometry": GEOMETRY[instrument.geometry],
        "radius": instrument.radius,
        "sample": {
            "Shift" if model.flat else "DisplaceX": instrument.displacement / MICRON
        },
        "background": terms,
        "phases": [_phase(model, i) for i in range(len(model.units))],
        "hold": [name for i, unit in enumerate(model.units) for name in _held(unit, i)],
        "equal": [names for i, u in enumerate(model.units) for names in _shared(u, i)],
        "sums": _sums(model) if model.occupancies else [],
        "stages": list(stages),
        "project": project,
    }


def gaps(two_theta: Curve) -> list[list[float]]:
    """Ranges of 2θ (°) without points, their ends left out: lines there are not missing."""
    step = float(np.median(np.diff(two_theta)))
    wide = np.flatnonzero(np.diff(two_theta) > max(GAP, 20 * step))
    low, high = two_theta[wide] + step / 2, two_theta[wide + 1] - step / 2
    return np.column_stack([low, high]).tolist()


def _phase(model: Model, i: int) -> dict[str, Any]:
    unit, table, start = model.units[i], model.table, prefix_of(model.units, i)
    size = table[f"{start}size"].value / SIZE
    texture = model.table.texture if i == 0 else None
    return {
        "name": model.names[i],
        "symbol": gsas2_symbol(unit.space_group),
        "cell": list(unit.cell),
        "scale": 1.0,
        "size": min(size, WIDEST),
        "strain": table[f"{start}strain"].value / STRAIN,
        "texture": texture and [list(texture), 1.0],
        "atoms": [
            [s.label, s.element, s.frac.tolist(), s.occupancy, s.u_iso, s.multiplicity]
            for s in unit.sites
        ],
    }


def gsas2_symbol(space_group: int) -> str:
    """The symbol, with blanks, by which GSAS-II knows the reference setting."""
    import gemmi

    return gemmi.get_spacegroup_reference_setting(space_group).hm


def _held(unit: AsymmetricUnit, phase: int) -> list[str]:
    """The coordinates of the heaviest place that fix the origin of a polar group."""
    axes = (unit.polar != 0).argmax(1)
    heaviest = max(range(len(unit.sites)), key=lambda i: _weight(unit.sites[i]))
    return [f"{phase}::dA{'xyz'[axis]}:{heaviest}" for axis in axes]


def _weight(site: Site) -> float:
    return site.number * site.occupancy


def same_place(unit: AsymmetricUnit) -> list[list[int]]:
    """The sites of every place that elements share."""
    places: dict[int, list[int]] = {}
    for i, site in enumerate(unit.sites):
        places.setdefault(site.place, []).append(i)
    return [rows for rows in places.values() if len(rows) > 1]


def _shared(unit: AsymmetricUnit, phase: int) -> list[list[str]]:
    """What elements on one place have in common: free coordinates, displacements."""
    found = []
    for rows in same_place(unit):
        axes = ["xyz"[k] for k in (unit.sites[rows[0]].free != 0).argmax(1)]
        for name in [*(f"dA{axis}" for axis in axes), "AUiso"]:
            found.append([f"{phase}::{name}:{i}" for i in rows])
    return found


def _sums(model: Model) -> list[list[Any]]:
    """Occupancies on shared places, whose sums stay."""
    return [
        [
            sum(unit.sites[i].occupancy for i in rows),
            [f"{phase}::Afrac:{i}" for i in rows],
        ]
        for phase, unit in enumerate(model.units)
        for rows in same_place(unit)
    ]


def stages_of(model: Model) -> list[Stage]:
    """The stages, each freeing more: names, flags in GSAS-II's words, cycles."""
    several = len(model.units) > 1
    scale = {"Scale": True} if several else {"Sample Parameters": ["Scale"]}
    shift = {"Sample Parameters": ["Shift"]}
    if not model.flat:
        shift = {"Instrument Parameters": ["Zero"]}
    found = [("scale and background", {"Background": {"refine": True}, **scale})]
    moved = "displacement" if model.flat else "zero"
    found.append((f"cell and {moved}", {"Cell": True, **shift}))
    if not model.fixed:
        found.append(("W", {"Instrument Parameters": ["W"]}))
    found.append(("size", {"Size": {"type": "isotropic", "refine": True}}))
    found.append(("strain", {"Mustrain": {"type": "isotropic", "refine": True}}))
    if not model.fixed:
        found.append(("U and V", {"Instrument Parameters": ["U", "V"]}))
    if any(len(site.free) for unit in model.units for site in unit.sites):
        found.append(("coordinates", {"Atoms": {"all": "X"}}))
    found.append(("displacement parameters", {"Atoms": {"all": "XU"}}))
    done = [_stage(name, [{"set": flags}]) for name, flags in found]
    if model.table.texture is not None:
        flags = {"phase": model.names[0], "set": {"Pref.Ori.": True}}
        done.append(_stage("texture", [flags]))
    if model.occupancies:
        done.append(_stage("occupancies", _occupancy_flags(model)))
    if not model.fixed:
        flags = {"set": {"Instrument Parameters": ["SH/L"]}}
        done.append(_stage("asymmetry", [flags]))
    return [*done, _stage("all together", [])]


def _stage(name: str, flags: list[dict[str, Any]]) -> Stage:
    return {"name": name, "flags": flags, "cycles": CYCLES}


def _occupancy_flags(model: Model) -> list[dict[str, Any]]:
    """Flags of the sites that are partly occupied or shared."""
    found = []
    for name, unit in zip(model.names, model.units, strict=True):
        partial = [s.label for s in unit.sites if s.occupancy < 1]
        if partial:
            flags = {"Atoms": {label: "FXU" for label in partial}}
            found.append({"phase": name, "set": flags})
    return found
