"""Instrument files of GSAS-II (.instprm) and GSAS (.prm) -> radiation and line profile.

Their Gaussian variances (0.01°)² become FWHM² (°²), Lorentzian widths (0.01°) become °.
GSAS: A. C. Larson & R. B. Von Dreele, GSAS manual (LAUR 86-748), "instrument parameters".
"""

import math
import re
from pathlib import Path

from ..types import Instrument, Radiation
from .container import decoded, lines, real, shown

LARGEST = 100_000  # bytes
GAUSS = 8 * math.log(2) / 1e4  # (0.01°)² of variance -> °² of FWHM²
PROFILES = {  # names of coefficients of GSAS's constant-wavelength functions, in order
    2: ("U", "V", "W", "X", "Y"),
    3: ("U", "V", "W", "P", "X", "Y", "S/L", "H/L"),
}


def read_instrument(path: str | Path) -> tuple[Radiation, Instrument]:
    """Radiation, and profile with zero, of an instrument file of GSAS-II or GSAS.

    ``asymmetry`` is (S + H)/L. Only X-rays of constant wavelength are read, first bank.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path}; check the name and the folder")
    if path.stat().st_size > LARGEST:
        raise ValueError(
            f"{path.name} has {path.stat().st_size:,} bytes, at most {LARGEST:,} are read; "
            "give an instrument file (.instprm, .prm)"
        )
    rows = lines(decoded(path.read_bytes()))
    if any(row.startswith("INS") for row in rows):
        return _gsas(rows, path.name)
    if any(re.match(r"Type\s*:", row) for row in rows):
        return _gsas2(rows, path.name)
    raise ValueError(
        f"{shown(path.name)} is no instrument file; give .instprm of GSAS-II or "
        ".prm of GSAS"
    )


def _gsas2(rows: list[str], name: str) -> tuple[Radiation, Instrument]:
    items = [item for row in rows if row[:1] != "#" for item in row.split(";")]
    pairs = [item.partition(":") for item in items if ":" in item]
    found = {key.strip(): value.strip() for key, _, value in reversed(pairs)}
    if found.get("Type", "")[:3] != "PXC":
        raise ValueError(
            f"{shown(name)} is of type '{shown(found.get('Type', ''))}'; only PXC, X-rays "
            "of constant wavelength, is read"
        )
    value = {key: real(found[key]) for key in NUMBERS if key in found}
    first = value.get("Lam1", value.get("Lam", 0.0))
    beam = _beam(first, value.get("Lam2", 0.0), value.get("I(L2)/I(L1)", 0.5))
    share = value.get("Polariz.", 0.5)
    if abs(math.cos(math.radians(value.get("Azimuth", 0.0)))) < 0.5:
        share = 1 - share
    profile = {key: value.get(key, 0.0) for key in "UVWXY"}
    return _checked(beam, share, profile, value.get("SH/L", 0.0), value.get("Zero", 0.0))


NUMBERS = (
    "Lam", "Lam1", "Lam2", "I(L2)/I(L1)", "Polariz.", "Azimuth", "Zero", "SH/L", *"UVWXY",
)  # fmt: skip


def _gsas(rows: list[str], name: str) -> tuple[Radiation, Instrument]:
    found = {row[:12].rstrip(): row[12:].split() for row in rows if row.startswith("INS")}
    kind = " ".join(found.get("INS   HTYPE", []))
    if kind[:3] != "PXC":
        raise ValueError(
            f"{shown(name)} is of type '{shown(kind)}'; only PXC, X-rays of constant "
            "wavelength, is read"
        )
    if len(found.get("INS  1 ICONS", [])) < 5:
        raise ValueError(f"{shown(name)} has no wavelengths (ICONS) of bank 1; add them")
    constants = [real(word) for word in found["INS  1 ICONS"]]
    ratio = constants[6] if len(constants) > 6 else 0.5
    beam = _beam(constants[0], constants[1], ratio)
    profile, asymmetry = _gsas_profile(found, name)
    return _checked(beam, constants[4], profile, asymmetry, constants[2] / 100)


def _gsas_profile(found: dict[str, list[str]], name: str) -> tuple[dict[str, float], float]:
    """U V W X Y of the first profile function, and (S + H)/L."""
    head = found.get("INS  1PRCF1", ["0"])
    number = int(real(head[0]))
    if number not in PROFILES:
        raise ValueError(
            f"profile function {number} of {shown(name)} is not read; give function 2 or 3"
        )
    words = [word for k in (1, 2) for word in found.get(f"INS  1PRCF1{k}", [])]
    values = dict(zip(PROFILES[number], map(real, words), strict=False))
    asymmetry = values.get("S/L", 0.0) + values.get("H/L", 0.0)
    return {key: values.get(key, 0.0) for key in "UVWXY"}, asymmetry


def _beam(first: float, second: float, ratio: float) -> tuple[tuple[float, ...], ...]:
    """Wavelengths and weights of one line or a doublet."""
    if second <= 0 or ratio <= 0:
        return (first,), (1.0,)
    return (first, second), (1 / (1 + ratio), ratio / (1 + ratio))


def _checked(
    beam: tuple[tuple[float, ...], ...],
    polarisation: float,
    profile: dict[str, float],
    asymmetry: float,
    zero: float,
) -> tuple[Radiation, Instrument]:
    """Radiation and instrument in our units; numbers that cannot be are refused."""
    numbers = (*beam[0], polarisation, *profile.values(), asymmetry, zero)
    if not all(math.isfinite(n) and abs(n) < 1e6 for n in numbers):
        raise ValueError("a number of the instrument file is not finite; correct it")
    radiation = Radiation(
        beam[0], beam[1], min(max(polarisation, 0.0), 1.0), kalpha2=len(beam[0]) > 1
    )
    widths = {key.lower(): GAUSS * profile[key] for key in "UVW"}
    widths |= {key.lower(): profile[key] / 100 for key in "XY"}
    return radiation, Instrument(**widths, asymmetry=max(asymmetry, 0.0), zero=zero)
