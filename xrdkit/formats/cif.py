"""Powder CIF (pdCIF, International Tables G, 3.3) -> columns."""

import re

import numpy as np
from jaxtyping import Float

from ..types import Radiation
from ..wavelengths import DOUBLET, agree, radiation
from .container import LINES, decoded
from .scan import Columns
from .text import header_radiation

POINTS = ("_pd_meas_", "_pd_proc_")
ANGLES = ("2theta_scan", "2theta_corrected")
COUNTS = ("counts_total", "intensity_total", "intensity_net")


def powder_cif(data: bytes) -> Columns:
    """The first block of a CIF with a powder pattern."""
    from gemmi import cif

    document = _document(decoded(data))
    block = next((block for block in document if _first_tag(block, COUNTS)), None)
    if block is None:
        raise ValueError(
            "the CIF holds no powder pattern (no _pd_meas_counts_total or the like); "
            "give the file of the measurement"
        )
    values = block.find_values(_first_tag(block, COUNTS))
    if len(values) > LINES:
        raise ValueError(f"the CIF has {len(values):,} points, at most {LINES:,} are read")
    words = list(values)
    y = np.array([cif.as_number(word) for word in words])
    x = _angles(block, len(y))
    sigma = np.array([_uncertainty(word) for word in words])
    if "neutron" in str(block.find_value("_diffrn_radiation_probe")).lower():
        raise ValueError("the CIF is of neutron data; only X-ray patterns are read")
    known = np.isfinite(x) & np.isfinite(y)
    lost = int((~known).sum())
    notes = (f"{lost} points of the CIF without a value skipped",) if lost else ()
    beams = [_radiation(other) for other in (block, *document)]
    beam = next((beam for beam in beams if beam is not None), None)
    given = sigma[known] if (sigma > 0).mean() > 0.5 else None
    return Columns(x[known], y[known], given, beam, notes)


def _document(text: str):
    """The parsed CIF, unless it has too many words."""
    from gemmi import cif

    blanks = sum(text.count(blank) for blank in " \t\n")
    if blanks > 8 * LINES:
        raise ValueError(f"the CIF has {blanks:,} words, at most {8 * LINES:,} are read")
    try:
        return cif.read_string(text)
    except (ValueError, RuntimeError) as error:
        raise ValueError(
            f"the CIF is not valid ({error}); repair it or give text"
        ) from error


def _first_tag(block, endings: tuple[str, ...]) -> str:
    tags = (start + end for start in POINTS for end in endings)
    return next((tag for tag in tags if len(block.find_values(tag)) > 1), "")


def _angles(block, count: int) -> Float[np.ndarray, " points"]:
    from gemmi import cif

    tag = _first_tag(block, ANGLES)
    if tag:
        x = np.array([cif.as_number(word) for word in block.find_values(tag)])
        if len(x) == count:
            return x
    for start in POINTS:
        words = [
            block.find_value(f"{start}2theta_range_{end}") for end in ("min", "max", "inc")
        ]
        low, high, step = (cif.as_number(word) if word else np.nan for word in words)
        if np.isfinite(low) and np.isfinite(high) and 0 < step < 10:
            if abs((high - low) / step + 1 - count) < 1.5:
                return low + step * np.arange(count)
    raise ValueError(
        f"the CIF has {count} intensities but no 2θ for them (_pd_meas_2theta_scan or "
        "_range_min/_max/_inc); convert the axis to 2θ in degrees"
    )


def _uncertainty(word: str) -> float:
    """Standard uncertainty of a CIF number: 123(11) -> 11, 1.23(11) -> 0.11."""
    match = re.fullmatch(r"[-+]?\d*(?:\.(\d*))?\((\d+)\)", word)
    return float(match[2]) * 10.0 ** -len(match[1] or "") if match else 0.0


def _radiation(block) -> Radiation | None:
    from gemmi import cif

    tag = "_diffrn_radiation_wavelength"
    words = list(block.find_values(tag)) or list(block.find_values(f"{tag}_value"))
    waves = [cif.as_number(word) for word in words]
    label = " ".join(block.find_values("_diffrn_radiation_type"))
    named = header_radiation(label.replace("\\a", "a").replace("~", ""))
    if not waves or not np.isfinite(waves).all():
        return named
    if len(waves) == 1:
        beam = radiation(waves[0])
        sure = named is not None and named.kalpha2 is False and agree(beam, named)
        return Radiation(beam.wavelengths, kalpha2=False, name=named.name) if sure else beam
    weights = np.array([cif.as_number(word) for word in block.find_values(f"{tag}_wt")])
    if len(weights) != len(waves) or not np.isfinite(weights).all() or weights.sum() <= 0:
        weights = np.array([*DOUBLET, *[0.0] * (len(waves) - 2)])
    order = np.argsort(-weights, kind="stable")
    shares = tuple((weights / weights.sum())[order].tolist())
    return Radiation(tuple(waves[i] for i in order), shares, kalpha2=True)
