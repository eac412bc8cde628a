"""GSAS raw files, first bank: STD, ESD and FXYE records at constant wavelength -> columns.

A. C. Larson & R. B. Von Dreele, GSAS manual (LAUR 86-748), "raw powder data".
"""

import numpy as np
from jaxtyping import Float

from .container import decoded, lines, listed, real, reals, shown
from .scan import Columns
from .text import HEADER, header_radiation

Values = Float[np.ndarray, " points"]


def gsas(data: bytes) -> Columns:
    """The first bank of a GSAS raw file; its angles are in centidegrees."""
    rows = lines(decoded(data))
    banks = [i for i, row in enumerate(rows) if row.startswith("BANK")]
    words = rows[banks[0]].split()
    body = rows[banks[0] + 1 : banks[1] if banks[1:] else None]
    body = [row.rstrip() for row in body if row.strip() and row[0] != "#"]
    kind = words[-1] if words[-1].isalpha() else "STD"
    notes = (
        (f"{len(banks)} banks in the file, only the first is read",) if banks[1:] else ()
    )
    head = "\n".join([*rows[: banks[0]], *(row for row in rows if row[:1] == "#")])
    beam = header_radiation(head[:HEADER])
    if kind == "FXYE":
        triples = [row.split(None, 3)[:3] for row in body]
        table = np.array([reals(row) for row in triples if len(row) == 3]).reshape(-1, 3)
        return Columns(table[:, 0] / 100, table[:, 1], table[:, 2], beam, notes)
    if kind not in ("STD", "ESD") or len(words) < 7 or words[4] != "CONST":
        raise ValueError(
            f"GSAS bank '{shown(' '.join(words[4:]))}' is not read; use STD, ESD or FXYE"
        )
    y, sigma = _standard(body) if kind == "STD" else _pairs(body)
    count = int(min(real(words[2]), len(y))) if real(words[2]) > 0 else len(y)
    if real(words[2]) > len(y):
        notes += (f"BANK announces {words[2]} points, the file has {len(y)}",)
    y, sigma = y[:count], None if sigma is None else sigma[:count]
    x = (real(words[5]) + real(words[6]) * np.arange(count)) / 100
    return Columns(x, y, sigma, beam, notes)


def _standard(body: list[str]) -> tuple[Values, Values | None]:
    """STD records, ten fields of I2 (detectors) and F6 (mean count), or free form."""
    if any(len(row) % 8 for row in body):
        return listed(" ".join(body)), None
    fields = _fields(body)
    detectors = np.array(reals([field[:2].strip() or "1" for field in fields]))
    y = np.array(reals([field[2:].strip() or "0" for field in fields]))
    if (detectors <= 1).all():
        return y, None
    return y, np.sqrt(np.maximum(y, 1) / np.maximum(detectors, 1))


def _pairs(body: list[str]) -> tuple[Values, Values]:
    """ESD records, five pairs of F8: intensity and its standard deviation."""
    if any(len(row) % 8 for row in body):
        values = listed(" ".join(body))
    else:
        values = np.array(reals([field.strip() or "0" for field in _fields(body)]))
    values = values[: len(values) // 2 * 2]
    return values[0::2], values[1::2]


def _fields(body: list[str]) -> list[str]:
    return [row[i : i + 8] for row in body for i in range(0, len(row), 8)]
