"""A complete input of FullProf that starts from a fit.

Format of the manual's appendix on the PCR file; profile function 7 (Thompson, Cox and
Hastings), data format 10 (2θ, intensity, e.s.d.). Refined are scales, background, zero,
cell, coordinates and two widths. A code 10 p + f says: parameter p, times f; 0: fixed.
"""

from collections.abc import Iterator, Sequence
from itertools import count
from pathlib import Path

import numpy as np

from xrdkit import __version__
from xrdkit.files import write_text
from xrdkit.report.handover import (
    CELL_PARAMETERS,
    base_of,
    biso,
    coordinates,
    excluded,
    input_name,
    origin_axes,
    scales,
    without_slits,
    write_data,
)
from xrdkit.report.setting import Setting, settings_of
from xrdkit.types import Fit, Instrument, Pattern, Phase, Radiation

KNOTS = 24  # points of the background
LINE = "!" + 79 * "-"
DISPLACED = 180 / np.pi  # degrees in a radian


def write_fullprof(fit: Fit, pattern: Pattern, folder: str | Path, name: str) -> list[Path]:
    """NAME_fullprof.pcr and the data NAME_fullprof.dat (2θ, intensity, e.s.d.).

    ``pattern`` is as measured; ``fit`` gives cell, coordinates, radiation, zero, widths.
    What the slits do is taken off the intensities.
    """
    folder, name = Path(folder), input_name(name, "fullprof")
    folder.mkdir(parents=True, exist_ok=True)
    factor = without_slits(fit, pattern)
    return [
        write_text(folder / f"{name}.pcr", fullprof_text(fit, pattern, name, factor)),
        write_data(pattern, folder / f"{name}.dat", factor),
    ]


def fullprof_text(fit: Fit, pattern: Pattern, name: str, factor: np.ndarray) -> str:
    """The input for the data file NAME.dat, its intensities times ``factor``."""
    codes = count(1)
    experiment = _experiment(fit, pattern, factor, codes)
    phases = [
        line
        for setting, phase, scale in zip(
            settings_of(fit), fit.phases, scales(fit, pattern), strict=True
        )
        for line in _phase(setting, phase, scale, fit, codes)
    ]
    x = pattern.two_theta
    lines = [
        *_head(fit, pattern, name),
        *experiment[:-1],
        "!",
        f"{next(codes) - 1:8d}    !Number of refined parameters",
        "!",
        "!  Zero    Code    SyCos    Code   SySin    Code  Lambda     Code MORE ->Patt# 1",
        experiment[-1],
        *phases,
        "!  2Th1/TOF1    2Th2/TOF2  Pattern # 1",
        f"{x[0]:12.4f} {x[-1]:12.4f}       1",
    ]
    return "\n".join(lines) + "\n"


def _numbers(values: Sequence[float | int], form: str = "10.5f") -> str:
    return " ".join(f"{value:{form}}" for value in values)


def _head(fit: Fit, pattern: Pattern, name: str) -> list[str]:
    """Flags, radiation, and range."""
    x, beam = pattern.two_theta, fit.radiation
    second = beam.wavelengths[min(1, len(beam.wavelengths) - 1)]
    ratio = beam.weights[1] / beam.weights[0] if len(beam.weights) > 1 else 0.0
    textured = int(any(phase.texture for phase in fit.phases))
    knots, gaps = len(_knots(pattern)), len(excluded(pattern))
    return [
        f"COMM {name}, from a fit of xrdkit {__version__}",
        f"! Files => DAT-file: {name}.dat,  PCR-file: {name}",
        "!Job Npr Nph Nba Nex Nsc Nor Dum Iwg Ilo Ias Res Ste Nre Cry Uni Cor Opt Aut",
        f"   0   7 {len(fit.phases):3d} {knots:3d} {gaps:3d}   0 {textured:3d}   0   0   0"
        "   1   0   0   0   0   0   0   0   1",
        "!Ipr Ppl Ioc Mat Pcr Ls1 Ls2 Ls3 NLI Prf Ins Rpa Sym Hkl Fou Sho Ana",
        "   0   0   1   0   1   0   4   0   0   3  10   0   1   0   0   0   0",
        "! Lambda1  Lambda2    Ratio    Bkpos    Wdt    Cthm     muR   AsyLim   Rpolarz"
        "  2nd-muR -> Patt# 1",
        f"{beam.main:9.6f} {second:9.6f} {ratio:8.5f} {x.mean():8.3f}  20.0000"
        f" {monochromator(beam):8.5f}  0.0000    0.00    0.5000  0.0000",
        "!NCY  Eps  R_at  R_an  R_pr  R_gl     Thmin       Step       Thmax    PSD  Sent0",
        f"  10  0.10  0.80  0.80  0.80  0.80 {x[0]:11.4f} {np.median(np.diff(x)):10.6f} "
        f"{x[-1]:11.4f}   0.000   0.000",
    ]


def monochromator(beam: Radiation) -> float:
    """Cthm = cos²2θ_m of the polarisation factor 1 + Cthm cos²2θ: (1 - K) / K."""
    return (1 - beam.polarisation) / max(beam.polarisation, 1e-6)


def _knots(pattern: Pattern) -> np.ndarray:
    """Points of the pattern at which the background is given."""
    return np.unique(np.linspace(0, len(pattern) - 1, KNOTS).round().astype(int))


def _experiment(
    fit: Fit, pattern: Pattern, factor: np.ndarray, codes: Iterator[int]
) -> list[str]:
    """Background and excluded ranges; as last line zero and displacement."""
    base = base_of(pattern) * factor
    lines = ["!2Theta/TOF/E(Kev)   Background  for Pattern#  1"]
    for i in _knots(pattern):
        code = 10 * next(codes) + 1
        lines.append(f"{pattern.two_theta[i]:12.4f} {base[i]:14.6g} {code:10.2f}")
    if excluded(pattern):
        lines.append("! Excluded regions (LowT  HighT) for Pattern#  1")
        lines += [f"{low:12.4f} {high:12.4f}" for low, high in excluded(pattern)]
    zero, cosine = shifts(fit.instrument, float(pattern.two_theta.mean()))
    moving = 10 * next(codes) + 1
    return [
        *lines,
        f"{zero:9.5f} {moving:7.1f} {cosine:9.5f}     0.0  0.00000     0.0 0.000000"
        "    0.00   0",
    ]


def shifts(instrument: Instrument, middle: float) -> tuple[float, float]:
    """Zero and SyCos in °; FullProf has no cos2θ, so that is taken at the ``middle`` 2θ."""
    s = DISPLACED * instrument.displacement / instrument.radius
    if instrument.geometry == "bragg-brentano":
        return instrument.zero, 0.0 - 2 * s
    return instrument.zero - s * float(np.cos(np.radians(middle))), 0.0


def _phase(
    setting: Setting, phase: Phase, scale: float, fit: Fit, codes: Iterator[int]
) -> list[str]:
    unit = setting.composition
    mass = setting.units * float(unit.weight)
    axis, r = phase.texture or ((0, 0, 1), 0.0)
    pairs = [_scale(setting, scale, fit, codes), _widths(fit.instrument, codes)]
    cell_codes = _cell_codes(setting, codes)
    pref = 10 * next(codes) + 1 if phase.texture else 0
    return [
        LINE,
        f"!  Data for PHASE number: ==> Current R_Bragg for Pattern#  1:     0.00\n{LINE}",
        unit.reduced_formula,
        "!Nat Dis Ang Pr1 Pr2 Pr3 Jbt Irf Isy Str Furth       ATZ    Nvk Npr More",
        f"{len(setting.sites):4d}   0   0 {_numbers(axis, '.1f')}   0   0   0   0   0 "
        f"{mass:12.3f}    0   7   0",
        f"{setting.symbol.partition(':')[0]:<24} <--Space group symbol",
        *_atoms(setting, codes),
        "!  Scale        Shape1      Bov      Str1      Str2      Str3   Strain-Model",
        *pairs[0],
        "!       U         V          W           X          Y        GauSiz   LorSiz"
        " Size-Model",
        *pairs[1],
        "!     a          b         c        alpha      beta       gamma      #Cell Info",
        _numbers(setting.cell, "11.6f"),
        _numbers(cell_codes, "11.5f"),
        "!  Pref1    Pref2      Asy1     Asy2     Asy3     Asy4      S_L      D_L",
        _numbers([r, *[0.0] * 7], "8.5f"),
        _numbers([pref, *[0.0] * 7], "8.2f"),
    ]


def _atoms(setting: Setting, codes: Iterator[int]) -> list[str]:
    """Two lines an atom; elements on one place share their codes."""
    lines = [
        "!Atom   Typ       X        Y        Z     Biso       Occ     In Fin N_t Spc /Codes"
    ]
    heaviest, axes = origin_axes(setting)
    numbers: dict[tuple[int, int], int] = {}
    for site in setting.sites:
        places = coordinates(site, axes if site.place == heaviest else ())
        row = []
        for place in places:
            if place.axis is None:
                row.append(0.0)
                continue
            key = (site.place, place.axis)
            if key not in numbers:
                numbers[key] = next(codes)
            row.append(np.copysign(10 * numbers[key] + abs(place.factor), place.factor))
        occupancy = site.occupancy * site.multiplicity / len(setting.operations)
        lines += [
            f"{site.label:<6} {site.element.upper():<4} {_numbers(site.frac.tolist())} "
            f"{biso(site):10.5f} {occupancy:10.6f}   0   0   0    0",
            f"            {_numbers([*row, 0.0, 0.0], '10.2f')}",
        ]
    return lines


def _scale(
    setting: Setting, scale: float, fit: Fit, codes: Iterator[int]
) -> tuple[str, str]:
    """Scale of m |F|² LP, with FullProf's LP = (1 + Cthm cos²2θ) / (4 sin²θ cosθ)."""
    front = 4 * fit.radiation.polarisation * fit.radiation.weights[0]
    value = max(scale, 1e-12) * front / setting.structure.volume**2
    code = 10 * next(codes) + 1
    return (
        f" {value:.6E} {_numbers([0.0] * 5)}      0",
        f" {code:12.2f} {_numbers([0.0] * 5, '10.2f')}",
    )


def _widths(instrument: Instrument, codes: Iterator[int]) -> tuple[str, str]:
    """U V W X Y; FullProf's X is our Y (tanθ), its Y our X (1 / cosθ)."""
    w, y = 10 * next(codes) + 1, 10 * next(codes) + 1
    p = instrument
    return (
        f"{_numbers([p.u, p.v, p.w, p.y, p.x, 0.0, 0.0], '10.6f')}    0",
        _numbers([0, 0, w, 0, y, 0, 0], "10.2f"),
    )


def _cell_codes(setting: Setting, codes: Iterator[int]) -> list[float]:
    parameters = CELL_PARAMETERS[setting.system]
    numbers = {p: 10 * next(codes) + 1.0 for p in sorted(set(parameters) - {0})}
    return [numbers.get(p, 0.0) for p in parameters]
