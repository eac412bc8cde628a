"""Beam and profile between xrdkit and GSAS-II: Radiation, Instrument, instrument files.

GSAS-II's U, V, W are variances in 0.0001 °², X and Y full widths in 0.01 °; its Polariz. is
our K.
"""

import math
import re
from pathlib import Path

from xrdkit.types import Instrument, Radiation

VARIANCE = 8e-4 * math.log(2)  # FWHM² in °² of one unit of U, V and W
HUNDREDTH = 0.01  # ° of one unit of X and Y
UNITS = {"U": VARIANCE, "V": VARIANCE, "W": VARIANCE, "X": HUNDREDTH, "Y": HUNDREDTH}
LARGEST = 100_000  # bytes of an instrument file
GEOMETRY = {"bragg-brentano": "Bragg-Brentano", "debye-scherrer": "Debye-Scherrer"}
Items = dict[str, float | str]


def gsas2_instrument(beam: Radiation, instrument: Instrument) -> Items:
    """GSAS-II's instrument parameters; it takes one wavelength or a doublet."""
    lines, weights = beam.wavelengths, beam.weights
    if len(lines) > 2:
        raise ValueError(
            f"GSAS-II takes one wavelength or Kα1 and Kα2, not {len(lines)} "
            f"({', '.join(f'{w:g}' for w in lines)} Å); use the built-in engine, or a "
            "radiation without Kβ"
        )
    if len(lines) == 2:
        ratio = weights[1] / weights[0]
        wave: Items = {"Lam1": lines[0], "Lam2": lines[1], "I(L2)/I(L1)": ratio}
    else:
        wave = {"Lam": lines[0]}
    return {
        "Type": "PXC",
        "Bank": 1.0,
        **wave,
        "Zero": instrument.zero,
        "Polariz.": beam.polarisation,
        "Azimuth": 0.0,
        **{key: getattr(instrument, key.lower()) / unit for key, unit in UNITS.items()},
        "Z": 0.0,
        "SH/L": instrument.asymmetry,
    }


def read_instrument(path: str | Path) -> tuple[Radiation, Instrument]:
    """Beam and profile of an instrument file of GSAS-II (.instprm) or GSAS (.prm).

    X-rays at constant wavelength, the first bank. Nothing in the file is executed.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path}; check the name and the folder")
    if path.stat().st_size > LARGEST:
        raise ValueError(f"{path.name} has over {LARGEST:,} bytes; give an instrument file")
    text = path.read_text(encoding="utf-8", errors="replace")
    try:
        items = _gsas(text) if "INS   HTYPE" in text else _gsas2(text)
        return _radiation(items), _instrument(items)
    except (KeyError, IndexError, ValueError) as error:
        raise ValueError(
            f"{path.name} is no instrument file for X-rays at constant wavelength "
            f"({type(error).__name__}: {error}); give a .instprm file of GSAS-II or a "
            ".prm file of GSAS"
        ) from error


def _gsas2(text: str) -> dict[str, float]:
    """Items "key:value" up to the second bank."""
    found: dict[str, float] = {}
    for line in text.splitlines():
        if line.startswith("#") and "Bank" in line and found:
            break
        for item in line.split(";") if line[:1] != "#" else ():
            key, colon, value = (part.strip() for part in item.partition(":"))
            if key == "Type" and not re.match(r"PXC", value):
                raise ValueError(f"its type is {value[:8]}, not PXC")
            if colon and key in KEYS:
                found[key] = float(value)
    return found


KEYS = ("Lam", "Lam1", "Lam2", "I(L2)/I(L1)", "Zero", "Polariz.", "SH/L", *UNITS)


def _gsas(text: str) -> dict[str, float]:
    """GSAS manual (LAUR 86-748), "instrument parameter file": function 2, 3 or 4."""
    rows = {line[:12].strip(): line[12:] for line in text.splitlines()}
    if not rows["INS   HTYPE"].strip().startswith("PXC"):
        raise ValueError(f"its type is {rows['INS   HTYPE'].strip()[:8]}, not PXC")
    waves = [float(word) for word in rows["INS  1 ICONS"].split()]
    first = [float(word) for word in rows["INS  1PRCF11"].split()]
    second = [float(word) for word in rows["INS  1PRCF12"].split()]
    found = {"Zero": waves[2] / 100, "Polariz.": waves[4]}
    found |= dict(zip("UVW", first, strict=False))
    if int(rows["INS  1PRCF1"].split()[0]) == 3:
        found |= {"X": second[0], "Y": second[1], "SH/L": second[2] + second[3]}
    if waves[1] > 0:
        return found | {"Lam1": waves[0], "Lam2": waves[1], "I(L2)/I(L1)": waves[6]}
    return found | {"Lam": waves[0]}


def _radiation(items: dict[str, float]) -> Radiation:
    polarisation = items.get("Polariz.", 0.5)
    if "Lam" in items:
        return Radiation((items["Lam"],), (1.0,), polarisation)
    ratio = items["I(L2)/I(L1)"]
    weights = (1 / (1 + ratio), ratio / (1 + ratio))
    lines = (items["Lam1"], items["Lam2"])
    return Radiation(lines, weights, polarisation, kalpha2=True)


def _instrument(items: dict[str, float]) -> Instrument:
    widths = {key.lower(): unit * items.get(key, 0.0) for key, unit in UNITS.items()}
    return Instrument(
        geometry="debye-scherrer" if "Lam" in items else "bragg-brentano",
        asymmetry=items.get("SH/L", 0.0),
        zero=items.get("Zero", 0.0),
        **widths,
    )
