"""Columns of free text in any dialect, and the radiation that a header names."""

import re
from itertools import compress

import numpy as np
from jaxtyping import Float

from ..types import Radiation
from ..wavelengths import K_ALPHA, KEV, is_line, radiation
from .container import KNOWN, decoded, lines, real, shown
from .scan import Columns

WIDEST = 1000  # characters of a line of data
HEADER = 100_000  # characters
VALUE = r"(?<![\w.])(?<!\d,)(\d*[.,]\d+(?:[eE][-+]?\d+)?)"
WAVELENGTH = re.compile(
    r"(?:wave\s?length|\blambda|\blam\b|λ|\b_?wl1?\b|\bLA\s*=|\bk-?alpha[- ]?1\b)"
    rf"[^\n]{{0,40}}?{VALUE}(?:[ \t,;]+{VALUE})?[\s\"]*(nm\b|m\b)?",
    re.I,
)
SECOND = re.compile(rf"(?:\bk-?alpha[- ]?2\b|\b_?wl2\b)[^\n]{{0,40}}?{VALUE}", re.I)
WEIGHTS = re.compile(rf"\bweights?\b[\s=:]*{VALUE}[\s,;]+{VALUE}", re.I)
LINE = re.compile(
    r"\b(Cr|Fe|Co|Cu|Mo|Ag)[\s_-]*K[\s_\\-]*(?:alpha|a|α)[~\s_-]*(1\b|1,?2)?", re.I
)
ANODE = re.compile(r"(?:anode|target|tube)[^\n]{0,20}?\b(Cr|Fe|Co|Cu|Mo|Ag)\b", re.I)
ENERGY = re.compile(
    r"(?:(?<!threshold[ _])\benerg\w*|photon\w*|\bE\s*=)(?:(?!thresh)[^\n]){0,30}?"
    r"(?:\b(keV|eV)\b[^\n\d]{0,9}([\d.,]*\d)|(?<![\w.])([\d.,]*\d)\s*(keV|eV)\b)",
    re.I,
)
UNIT = r"(?:_|[\s(\[,;/]+)(?:A|Å|nm|1/|ang|int|i\b|y\b)"
WRONG_AXIS = re.compile(
    rf"(?:q|d|s|q[- ]?vector|d[-_ ]?(?:spacing|value))(?:{UNIT}|$)", re.I
)
DATA = re.compile(r"[\"\s]*(?:[-+.]*\d|nan)(?:[-+\d.,;\s\"eEdD]|nan|inf)*", re.I)


def plain(data: bytes) -> Columns:
    """Columns of free text; lines that are not numbers are the header."""
    rows = [line[:WIDEST].strip() for line in lines(decoded(data))]
    numeric = [DATA.fullmatch(row) is not None for row in rows]
    first = numeric.index(True) if True in numeric else len(rows)
    title = _title(rows[:first])
    if WRONG_AXIS.match(title):
        raise ValueError(f"first column '{title[:40]}' is not 2θ; convert it to 2θ in °")
    table, notes = _table(list(compress(rows, numeric)))
    sigma, more = _third(table)
    header = compress(rows, (not is_data for is_data in numeric))
    beam = header_radiation("\n".join(header)[:HEADER])
    return Columns(table[:, 0], table[:, 1], sigma, beam, notes + more)


def stoe(data: bytes) -> Columns:
    """Refuses STOE's binary format, which is not published."""
    raise ValueError(
        "STOE's binary .raw is not read; export it as text (.xy, .xye) in WinXPOW"
    )


def header_radiation(text: str) -> Radiation | None:
    """The radiation that a header of free text names, or None.

    An element alone ("Anode: Cu") and a number alone leave open whether Kα2 is there.
    """
    number, named, anode = WAVELENGTH.search(text), LINE.search(text), ANODE.search(text)
    beam = (_numbered(text, number) if number else None) or _of_energy(text)
    if beam or not (named or anode):
        return beam
    if named:
        return radiation(f"{named[1]}Ka{'1' if named[2] == '1' else ''}")
    return radiation(K_ALPHA[anode[1].capitalize()][0])


def _numbered(text: str, number: re.Match) -> Radiation | None:
    """The radiation of wavelengths in a header: metres and nm are recognised."""
    second, weights = SECOND.search(text), WEIGHTS.search(text)
    first, other = map(real, (number[1], second[1] if second else number[2] or "0"))
    unit = (number[3] or "").lower()
    scale = 10 if unit == "nm" or is_line(10 * first) else 1e10 if first < 1e-8 else 1
    first, other = first * scale, other * scale
    if not 0.05 <= first <= 5:
        return None
    if not 0 < other / first - 1 < 0.02:
        return radiation(first)
    beam = radiation((first, other))
    if not weights:
        return beam
    one, two = real(weights[1]), real(weights[2])
    if not 0 < one + two < np.inf:
        return beam
    shares = (one / (one + two), two / (one + two))
    return Radiation(beam.wavelengths, shares, beam.polarisation, kalpha2=True)


def _of_energy(text: str) -> Radiation | None:
    """The radiation of a photon energy in keV or eV in a header."""
    found = ENERGY.search(text)
    if not found:
        return None
    unit, word = found[1] or found[4], found[2] or found[3]
    if word.count(".") + word.count(",") > 1:
        return None
    energy = real(word) / (1000 if unit.lower() == "ev" else 1)
    return radiation(KEV / energy) if 2.5 <= energy <= 240 else None


def _title(header: list[str]) -> str:
    """The last line before the numbers, without its comment mark."""
    last = next((row for row in reversed(header) if row), "")
    return re.sub(r"^[#!;'\"\s]*(-->)?\s*", "", last)


def _table(data: list[str]) -> tuple[Float[np.ndarray, "points columns"], tuple[str, ...]]:
    """Numbers of lines of two or three columns, and what was skipped."""
    rows = _split(data)
    counts = np.array([len(row) for row in rows], int)
    width = int(np.bincount(counts).argmax()) if len(counts) else 0
    if width not in (2, 3):
        found = f"{width} columns" if width else "no columns of numbers"
        raise ValueError(f"{found} found; give {KNOWN}")
    notes: tuple[str, ...] = ()
    if counts[-1] == width and not _written(rows[-1]):
        notes = ("the last line is half written and left out",)
        rows, counts = rows[:-1], counts[:-1]
    first = int(np.argmax(counts == width))
    broken = int((counts[first:] != width).sum())
    if broken > 0.05 * len(rows) and broken > 1:
        raise ValueError(
            f"{broken} of {len(rows)} lines have other than {width} columns; {KNOWN}"
        )
    notes += (f"{broken} lines with other than {width} columns skipped",) if broken else ()
    values = [_values(row) for row in rows if len(row) == width]
    return np.array(values).reshape(-1, width), notes


def _split(data: list[str]) -> list[list[str]]:
    """Words of each line; a comma is a decimal sign where no point occurs."""
    joined = "\n".join(data).replace('"', " ")
    middle = data[len(data) // 2].replace('"', " ") if data else ""
    if "," in joined and "." not in joined and re.search(r"\d[;\s]+[-+]?\d", middle):
        joined = joined.replace(",", ".")
    joined = re.sub(r"[;,\t]", " ", joined)
    joined = re.sub(r"(?<=[\d.])[dD](?=[-+\d])", "e", joined)
    return [line.split() for line in joined.split("\n")] if data else []


def _written(row: list[str]) -> bool:
    try:
        return bool(_values(row))
    except ValueError:
        return False


def _values(row: list[str]) -> list[float]:
    try:
        return [float(word) for word in row]
    except ValueError as error:
        word = str(error).split(":")[-1].strip()
        raise ValueError(
            f"{shown(word)} among the data is not a number; give {KNOWN}"
        ) from error


def _third(
    table: Float[np.ndarray, "points columns"],
) -> tuple[Float[np.ndarray, " points"] | None, tuple[str, ...]]:
    """The third column if it can be standard deviations, else a warning."""
    if table.shape[1] < 3:
        return None, ()
    y, sigma = table[:, 1], table[:, 2]
    if (sigma < 0).any() or not (sigma > 0).any():
        return None, (
            "third column ignored: not standard deviations (negative or all zero)",
        )
    strong = y > np.median(y)
    alike = strong.any() and np.median(sigma[strong] / y[strong]) > 0.8
    if alike and np.median(y[strong]) > 10 * max(1, y.max() / 1e4):
        return None, ("third column ignored: as large as the intensity, not its e.s.d.",)
    return sigma, ()
