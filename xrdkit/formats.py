"""Files of powder patterns -> columns: text of any dialect, GSAS, powder CIF."""

import re
from itertools import compress
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from .types import Radiation
from .wavelengths import DOUBLET, K_ALPHA, agree, is_line, radiation

LARGEST = 200  # MB
KNOWN = "two or three columns of text (2θ, intensity, e.s.d.), GSAS or powder CIF"
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
UNIT = r"(?:_|[\s(\[,;/]+)(?:A|Å|nm|1/|ang|int|i\b|y\b)"
WRONG_AXIS = re.compile(
    rf"(?:q|d|s|q[- ]?vector|d[-_ ]?(?:spacing|value))(?:{UNIT}|$)", re.I
)
DATA = re.compile(r"[\"\s]*(?:[-+.]*\d|nan)(?:[-+\d.,;\s\"eEdD]|nan|inf)*", re.I)
POINTS = ("_pd_meas_", "_pd_proc_")
ANGLES = ("2theta_scan", "2theta_corrected")
COUNTS = ("counts_total", "intensity_total", "intensity_net")


class Columns(NamedTuple):
    """What a file holds, in its own order and units of degrees."""

    two_theta: Float[np.ndarray, " points"]
    intensity: Float[np.ndarray, " points"]
    sigma: Float[np.ndarray, " points"] | None
    radiation: Radiation | None
    warnings: tuple[str, ...] = ()


def columns(path: Path) -> Columns:
    """2θ (°), intensity, e.s.d.s and radiation of a file, as they stand there."""
    text = _text(path)
    reader = _plain
    if re.search(r"^BANK\s+\d+", text, re.M):
        reader = _gsas
    elif re.search(r"^data_", text, re.M | re.I) and re.search(r"^\s*_\w+", text, re.M):
        reader = _cif
    try:
        return reader(text)
    except ValueError as error:
        if "could not convert" not in str(error):
            raise
        word = str(error).split(":")[-1].strip()
        raise ValueError(f"{word} among the data is not a number; give {KNOWN}") from error


def header_radiation(text: str) -> Radiation | None:
    """The radiation that a header of free text names, or None.

    An element alone ("Anode: Cu") and a number alone leave open whether Kα2 is there.
    """
    number, named, anode = WAVELENGTH.search(text), LINE.search(text), ANODE.search(text)
    beam = _numbered(text, number) if number else None
    if beam or not (named or anode):
        return beam
    if named:
        return radiation(f"{named[1]}Ka{'1' if named[2] == '1' else ''}")
    return radiation(K_ALPHA[anode[1].capitalize()][0])


def _numbered(text: str, number: re.Match) -> Radiation | None:
    """The radiation of wavelengths in a header: metres and nm are recognised."""
    second, weights = SECOND.search(text), WEIGHTS.search(text)
    found = (number[1], second[1] if second else number[2] or "0")
    first, other = (float(word.replace(",", ".")) for word in found)
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
    pair = np.array([float(weights[1]), float(weights[2])])
    shares = tuple((pair / pair.sum()).tolist())
    return Radiation(beam.wavelengths, shares, beam.polarisation, kalpha2=True)


def _text(path: Path) -> str:
    """The file as text, whatever its encoding."""
    size = path.stat().st_size / 1e6
    if size > LARGEST:
        raise ValueError(
            f"{path.name} has {size:.0f} MB, at most {LARGEST} MB are read; thin it"
        )
    data = path.read_bytes()
    if not data.strip():
        raise ValueError(f"{path.name} is empty; give {KNOWN}")
    if data[:2] in (b"\xff\xfe", b"\xfe\xff"):
        return data.decode("utf-16", errors="replace")
    strange = sum(data[:4096].count(c) for c in range(32) if c not in b"\t\n\r\f\x1a")
    if strange:
        raise ValueError(
            f"{path.name} is a binary file, which is not read; export it as text: {KNOWN}"
        )
    if data.lstrip()[:5].lower() == b"<?xml":
        raise ValueError(
            f"{path.name} is XML, which is not read; export it as text: {KNOWN}"
        )
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        return data.decode("latin-1")


def _plain(text: str) -> Columns:
    """Columns of free text; lines that are not numbers are the header."""
    lines = [line.strip() for line in text.replace("\r", "\n").split("\n")]
    numeric = [DATA.fullmatch(line) is not None for line in lines]
    data = list(compress(lines, numeric))
    header = [line for line, is_data in zip(lines, numeric, strict=True) if not is_data]
    title = _titles(lines)
    if WRONG_AXIS.match(title):
        raise ValueError(f"first column '{title[:40]}' is not 2θ; convert it to 2θ in °")
    rows = _split(data)
    counts = np.array([len(row) for row in rows])
    width = int(np.bincount(counts).argmax()) if len(counts) else 0
    if width not in (2, 3):
        found = f"{width} columns" if width else "no columns of numbers"
        raise ValueError(f"{found} found; give {KNOWN}")
    table = np.array([row for row in rows if len(row) == width])
    first = int(np.argmax(counts == width))
    broken = int((counts[first:] != width).sum())
    notes = (f"{broken} lines with other than {width} columns skipped",) if broken else ()
    if broken > 0.05 * len(rows):
        raise ValueError(
            f"{broken} of {len(rows)} lines have other than {width} columns; {KNOWN}"
        )
    sigma, more = _third(table)
    return Columns(
        table[:, 0], table[:, 1], sigma, header_radiation("\n".join(header)), notes + more
    )


def _titles(lines: list[str]) -> str:
    """The last line before the numbers, without its comment mark."""
    before = ""
    for line in lines:
        if DATA.fullmatch(line):
            break
        before = line or before
    return re.sub(r"^[#!;'\"\s]*(-->)?\s*", "", before)


def _split(data: list[str]) -> list[list[float]]:
    """Numbers of each line; a comma is a decimal sign where no point occurs."""
    joined = "\n".join(data).replace('"', " ")
    if "," in joined and "." not in joined and re.search(r"\d[;\s]+[-+]?\d", data[-1]):
        joined = joined.replace(",", ".")
    joined = re.sub(r"[;,\t]", " ", joined)
    joined = re.sub(r"(?<=[\d.])[dD](?=[-+\d])", "e", joined)
    return [list(map(float, line.split())) for line in joined.split("\n")]


def _numbers(words: list[str]) -> np.ndarray:
    return np.array([float(word or 0) for word in words])


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


def _gsas(text: str) -> Columns:
    """The first bank of a GSAS raw file; its angles are in centidegrees."""
    lines = text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
    banks = [i for i, line in enumerate(lines) if line.startswith("BANK")]
    words = lines[banks[0]].split()
    body = lines[banks[0] + 1 : banks[1] if banks[1:] else None]
    body = [line.rstrip() for line in body if line.strip() and line[0] != "#"]
    kind = words[-1] if words[-1].isalpha() else "STD"
    notes = (
        (f"{len(banks)} banks in the file, only the first is read",) if banks[1:] else ()
    )
    head = "\n".join([*lines[: banks[0]], *(line for line in lines if line[:1] == "#")])
    if kind == "FXYE":
        x, y, sigma = (
            _numbers([w for line in body for w in line.split()[:3]]).reshape(-1, 3).T
        )
        return Columns(x / 100, y, sigma, header_radiation(head), notes)
    if kind not in ("STD", "ESD") or len(words) < 7 or words[4] != "CONST":
        raise ValueError(
            f"GSAS bank '{' '.join(words[4:])}' is not read; use STD, ESD or FXYE"
        )
    y, sigma = _standard(body) if kind == "STD" else _pairs(body)
    if len(y) < int(words[2]):
        notes += (f"BANK announces {words[2]} points, the file has {len(y)}",)
    y, sigma = y[: int(words[2])], None if sigma is None else sigma[: int(words[2])]
    x = (float(words[5]) + float(words[6]) * np.arange(len(y))) / 100
    return Columns(x, y, sigma, header_radiation(head), notes)


def _standard(
    body: list[str],
) -> tuple[Float[np.ndarray, " points"], Float[np.ndarray, " points"] | None]:
    """STD records, ten fields of I2 (detectors) and F6 (mean count), or free form."""
    if any(len(line) % 8 for line in body):
        return _numbers(" ".join(body).split()), None
    fields = [line[i : i + 8] for line in body for i in range(0, len(line), 8)]
    detectors = _numbers([field[:2].strip() or "1" for field in fields])
    y = _numbers([field[2:].strip() for field in fields])
    if (detectors <= 1).all():
        return y, None
    return y, np.sqrt(np.maximum(y, 1) / np.maximum(detectors, 1))


def _pairs(
    body: list[str],
) -> tuple[Float[np.ndarray, " points"], Float[np.ndarray, " points"]]:
    """ESD records, five pairs of F8: intensity and its standard deviation."""
    if any(len(line) % 8 for line in body):
        values = _numbers(" ".join(body).split())
    else:
        fields = [line[i : i + 8] for line in body for i in range(0, len(line), 8)]
        values = _numbers([field.strip() for field in fields])
    return values[0::2], values[1::2]


def _cif(text: str) -> Columns:
    """The first block of a CIF with a powder pattern."""
    from gemmi import cif

    document = _cif_document(text)
    block = next((block for block in document if _first_tag(block, COUNTS)), None)
    if block is None:
        raise ValueError(
            "the CIF holds no powder pattern (no _pd_meas_counts_total or the like); "
            "give the file of the measurement"
        )
    words = list(block.find_values(_first_tag(block, COUNTS)))
    y = np.array([cif.as_number(word) for word in words])
    x = _cif_angles(block, len(y))
    sigma = np.array([_uncertainty(word) for word in words])
    if "neutron" in str(block.find_value("_diffrn_radiation_probe")).lower():
        raise ValueError("the CIF is of neutron data; only X-ray patterns are read")
    known = np.isfinite(x) & np.isfinite(y)
    lost = int((~known).sum())
    notes = (f"{lost} points of the CIF without a value skipped",) if lost else ()
    beams = [_cif_radiation(other) for other in (block, *document)]
    beam = next((beam for beam in beams if beam is not None), None)
    given = sigma[known] if (sigma > 0).mean() > 0.5 else None
    return Columns(x[known], y[known], given, beam, notes)


def _cif_document(text: str):
    from gemmi import cif

    try:
        return cif.read_string(text)
    except (ValueError, RuntimeError) as error:
        raise ValueError(
            f"the CIF is not valid ({error}); repair it or give text"
        ) from error


def _first_tag(block, endings: tuple[str, ...]) -> str:
    tags = (start + end for start in POINTS for end in endings)
    return next((tag for tag in tags if len(block.find_values(tag)) > 1), "")


def _cif_angles(block, count: int) -> Float[np.ndarray, " points"]:
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
        if np.isfinite(low) and np.isfinite(high) and np.isfinite(step):
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


def _cif_radiation(block) -> Radiation | None:
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
