"""A complete input of TOPAS (version 5 or later) that starts from a fit.

Profile: Gaussian and Lorentzian convolutions with the widths of ``Instrument``. Refined are
scales, background, zero, cell, coordinates and two widths; displacement parameters are not.
"""

from pathlib import Path

import numpy as np

from xrdkit import __version__
from xrdkit.files import write_text
from xrdkit.report.handover import (
    CELL_PARAMETERS,
    Coordinate,
    base_of,
    biso,
    coordinates,
    excluded,
    fraction,
    input_name,
    origin_axes,
    scales,
    without_slits,
    write_data,
)
from xrdkit.report.setting import Setting, Site, settings_of
from xrdkit.types import Fit, Instrument, Pattern, Phase, Radiation

BACKGROUND = 8  # Chebyshev terms
EMISSION = 0.1  # mÅ, half width of emission lines: negligible, widths are in the profile
EDGES = (("a", 0), ("b", 1), ("c", 2), ("al", 3), ("be", 4), ("ga", 5))


def write_topas(fit: Fit, pattern: Pattern, folder: str | Path, name: str) -> list[Path]:
    """NAME_topas.inp and the data NAME_topas.xye (2θ, intensity, e.s.d.).

    ``pattern`` is as measured; ``fit`` gives cell, coordinates, radiation, zero, widths.
    What the slits do is taken off the intensities.
    """
    folder, name = Path(folder), input_name(name, "topas")
    folder.mkdir(parents=True, exist_ok=True)
    factor = without_slits(fit, pattern)
    return [
        write_text(folder / f"{name}.inp", topas_text(fit, pattern, name, factor)),
        write_data(pattern, folder / f"{name}.xye", factor),
    ]


def topas_text(fit: Fit, pattern: Pattern, name: str, factor: np.ndarray) -> str:
    """The input for the data file NAME.xye, its intensities times ``factor``."""
    lines = [
        f"' written by xrdkit {__version__}; starts from its fit, not refined by TOPAS yet",
        "r_wp 0 iters 100 do_errors",
        f'xdd "{name}.xye"',
        *(f"   {line}" for line in _experiment(fit, pattern, factor)),
    ]
    amounts = scales(fit, pattern)
    for i, setting in enumerate(settings_of(fit)):
        lines.append("   str")
        scale = amounts[i] * fit.radiation.polarisation
        phase = _phase(setting, fit.phases[i], scale, f"p{i + 1}")
        lines += [f"      {line}" for line in phase]
    return "\n".join(lines) + "\n"


def _experiment(fit: Fit, pattern: Pattern, factor: np.ndarray) -> list[str]:
    x, base, instrument = pattern.two_theta, base_of(pattern) * factor, fit.instrument
    terms = np.polynomial.Chebyshev.fit(x, base, BACKGROUND - 1).coef
    lines = [
        f"start_X {x[0]:.4f}",
        f"finish_X {x[-1]:.4f}",
        *(f"exclude {low:.4f} {high:.4f}" for low, high in excluded(pattern)),
        "bkg @ " + " ".join(f"{term:.6g}" for term in terms),
        f"LP_Factor({monochromator_angle(fit.radiation):.4f})",
        f"Rp {instrument.radius:g} Rs {instrument.radius:g}",
        f"Zero_Error(@, {instrument.zero:.5f})",
        *_displacement(instrument),
        *_lines(fit.radiation),
    ]
    for letter in "uvwxy":
        free = "" if letter in "wx" else "!"
        floor = " min 0" if letter in "wx" else ""
        value = getattr(instrument, letter)
        lines.append(f"prm {free}width_{letter} {value:.6g}{floor}")
    return lines


def monochromator_angle(beam: Radiation) -> float:
    """2θ_m in ° with cos²2θ_m = (1 - K) / K: 0 for a tube, 90 for a polarised beam."""
    square = np.clip((1 - beam.polarisation) / max(beam.polarisation, 1e-6), 0, 1)
    return float(np.degrees(np.arccos(np.sqrt(square))))


def _displacement(instrument: Instrument) -> list[str]:
    """The shift of lines by a sample off the axis, if there is any."""
    s, radius = instrument.displacement, instrument.radius
    if s == 0:
        return []
    if instrument.geometry == "bragg-brentano":
        return [f"Specimen_Displacement(@, {s:.5f})"]
    return [f"prm s {s:.5f}", f"th2_offset = -Rad s Cos(2 Th) / {radius:g};"]


def _lines(beam: Radiation) -> list[str]:
    found = ["lam ymin_on_ymax 0.0001"]
    for length, weight in zip(beam.wavelengths, beam.weights, strict=True):
        found.append(f"   la {weight:.6f} lo {length:.6f} lh {EMISSION:g}")
    return found


def _phase(setting: Setting, phase: Phase, scale: float, tag: str) -> list[str]:
    """One phase; ``scale`` is of m |F|² LP / V², ``tag`` begins its parameters' names.

    TOPAS's LP is (1 + cos²2θ_m cos²2θ) / (sin²θ cosθ).
    """
    volume = setting.structure.volume
    heaviest, axes = origin_axes(setting)
    lines = [
        f'phase_name "{setting.composition.reduced_formula}"',
        f'space_group "{setting.symbol.replace(" ", "")}"',
        f"scale @ {max(scale, 1e-12) / volume**2:.6g}",
        *_cell(setting, tag),
        "gauss_fwhm = Sqrt(Max(width_u Tan(Th)^2 + width_v Tan(Th) + width_w, 1e-6));",
        "lor_fwhm = Max(width_x / Cos(Th) + width_y Tan(Th), 1e-6);",
    ]
    if phase.texture:
        axis, r = phase.texture
        lines.append(f"PO(@, {r:.4f}, , {' '.join(map(str, axis))})")
    first: dict[int, str] = {}
    for site in setting.sites:
        shared = first.setdefault(site.place, f"{tag}_{site.label}")
        fixed = axes if site.place == heaviest else ()
        own = shared == f"{tag}_{site.label}"
        lines.append(_site(site, coordinates(site, fixed), shared, own))
    return lines


def _cell(setting: Setting, tag: str) -> list[str]:
    """Edges and angles; those that symmetry makes equal follow the first."""
    parameters, lines = CELL_PARAMETERS[setting.system], []
    for name, i in EDGES:
        value, kind = setting.cell[i], parameters[i]
        first = EDGES[parameters.index(kind)][0]
        if kind == 0:
            lines.append(f"{name} {round(value)}")
        elif first == name:
            lines.append(f"{name} {tag}_{name} {value:.6f}")
        else:
            lines.append(f"{name} = {tag}_{first};")
    return lines


def _site(site: Site, places: tuple[Coordinate, ...], shared: str, own: bool) -> str:
    """A site; free coordinates are parameters named after the first element there."""
    parts = [f"site {site.label} num_posns {site.multiplicity}"]
    for axis, place in enumerate(places):
        name = "xyz"[axis]
        if place.axis == axis and own:
            parts.append(f"{name} {shared}_{name} {site.frac[axis]:.6f}")
        else:
            parts.append(f"{name} {_expression(place, shared)}")
    parts.append(f"occ {site.element} {site.occupancy:.4f} beq {biso(site):.4f}")
    return "  ".join(parts)


def _expression(place: Coordinate, shared: str) -> str:
    """A coordinate as a fraction, a number, or an equation of a free one."""
    exact = fraction(place.constant)
    constant = f"{place.constant:.6f}" if exact is None else str(exact)
    if place.axis is None:
        return f"= {constant};" if "/" in constant else constant
    factor = {1.0: "", -1.0: "-"}.get(place.factor, f"{place.factor:g} ")
    return f"= {factor}{shared}_{'xyz'[place.axis]}" + (
        ";" if exact == 0 else f" + {constant};"
    )
