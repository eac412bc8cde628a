"""Beam and profile in the units of GSAS-II.

GSAS-II's U, V, W are variances in 0.0001 °², X and Y full widths in 0.01 °; its Polariz. is
our K.
"""

import math

from xrdkit.types import Instrument, Radiation

VARIANCE = 8e-4 * math.log(2)  # FWHM² in °² of one unit of U, V and W
HUNDREDTH = 0.01  # ° of one unit of X and Y
UNITS = {"U": VARIANCE, "V": VARIANCE, "W": VARIANCE, "X": HUNDREDTH, "Y": HUNDREDTH}
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
