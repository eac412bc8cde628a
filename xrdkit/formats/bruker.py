"""Siemens and Bruker .raw (versions 1 to 4, binary) and .uxd (text) -> columns.

Offsets after the description of file structures in the DIFFRACplus XCH manual (2002,
appendix A) and xylib (M. Wojdyr, J. Appl. Cryst. 43, 1126 (2010)), which gave version 4.
"""

import re
from struct import error as Short
from struct import unpack_from

import numpy as np

from ..types import Instrument, Radiation
from .container import decoded, lines, listed, real, reals, shown
from .scan import Columns, Scan, Values, join, steps, tube
from .text import header_radiation

RANGES = 1000


def raw(data: bytes) -> Columns:
    """All ranges of a .raw file, whichever version its first bytes say."""
    version = {b"RAW ": _first, b"RAW2": _second, b"RAW1": _third, b"RAW4": _fourth}
    try:
        return version[data[:4]](data)
    except Short as error:
        raise ValueError(
            f"the RAW file ends at byte {len(data)}, before its last range; it is cut off: "
            "copy it again"
        ) from error


def _first(data: bytes) -> Columns:
    """Version 1 (DIFFRAC-AT): ranges of 152 bytes of header each, chained."""
    scans, place, beam, more = [], 4, None, 1
    while more and len(scans) < RANGES:
        place += 4 if scans and data[place : place + 4] == b"RAW " else 0
        count, seconds, step = unpack_from("<Iff", data, place)
        (start,) = unpack_from("<f", data, place + 20)
        first, second = unpack_from("<ff", data, place + 68)
        (more,) = unpack_from("<I", data, place + 148)
        beam = beam or _lines(first, second, 0.5, "")
        y = _floats(data, place + 152, count)
        scans.append(_scan(start, step, y, seconds))
        place += 152 + 4 * count
    return join(scans, beam, Instrument())


def _second(data: bytes) -> Columns:
    """Version 2: a header of 256 bytes, ranges with headers of a length that they say."""
    (ranges,) = unpack_from("<H", data, 4)
    beam = _lines(*unpack_from("<fff", data, 190), data[188:190].decode("latin-1"))
    scans, place = [], 256
    for _ in range(min(ranges, RANGES)):
        length, count = unpack_from("<HH", data, place)
        seconds, step, start = unpack_from("<fff", data, place + 8)
        scans.append(_scan(start, step, _floats(data, place + length, count), seconds))
        place += length + 4 * count
    return join(scans, beam, Instrument())


def _third(data: bytes) -> Columns:
    """Version 3 (RAW1.01, DIFFRACplus): a header of 712 bytes, then ranges."""
    (ranges,) = unpack_from("<I", data, 12)
    (radius,) = unpack_from("<f", data, 564)
    (monochromator,) = unpack_from("<I", data, 580)
    first, second, _, ratio = unpack_from("<dddd", data, 624)
    anode = data[608:612].decode("latin-1")
    beam = _lines(first, None if monochromator else second, ratio, anode)
    scans, place, slits = [], 712, set()
    for _ in range(min(ranges, RANGES)):
        length, count = unpack_from("<II", data, place)
        _, start = unpack_from("<dd", data, place + 8)
        (step,) = unpack_from("<d", data, place + 176)
        (seconds,) = unpack_from("<f", data, place + 192)
        size, extra = unpack_from("<II", data, place + 252)
        slits.add(_slits(data[place + 72 : place + 78].decode("latin-1")))
        y = _floats(data, place + length + extra, count, size)
        scans.append(_scan(start, step, y, seconds))
        place += length + extra + max(size, 4) * count
    automatic = slits == {"automatic"}
    return join(scans, beam, _instrument(radius, "automatic" if automatic else "fixed"))


def _fourth(data: bytes) -> Columns:
    """Version 4 (RAW4.00, DIFFRAC.SUITE): records of a kind and a length, then ranges."""
    place, beam, radius = 61, None, 0.0
    while place < len(data):
        (kind,) = unpack_from("<I", data, place)
        if kind in (0, 160):
            break
        (length,) = unpack_from("<I", data, place + 4)
        if kind == 30:  # of the instrument
            (diameter,) = unpack_from("<f", data, place + 24)
            first, second, _, ratio = unpack_from("<dddd", data, place + 80)
            anode = data[place + 116 : place + 120].decode("latin-1")
            beam, radius = _lines(first, second, ratio, anode), diameter / 2
        place += max(length, 8)
    scans, other = [], []
    while place < len(data) and len(scans) + len(other) < RANGES:
        (kind,) = unpack_from("<I", data, place)
        if kind not in (0, 160):
            break
        scan = data[place + 32 : place + 56].split(b"\0")[0].decode("latin-1")
        start, step, count, seconds = unpack_from("<ddIf", data, place + 72)
        size, header = unpack_from("<II", data, place + 136)
        if re.search("coupled|detector|2 ?theta|psd", scan, re.I):
            y = _floats(data, place + 160 + header, count, size)
            scans.append(_scan(start, step, y, seconds))
        else:
            other.append(shown(scan))
        place += 160 + header + size * count
    if other and not scans:
        raise ValueError(f"the RAW file holds a scan '{other[0]}', not over 2θ; give one")
    return join(scans, beam, _instrument(radius, "fixed"))


def uxd(data: bytes) -> Columns:
    """All ranges of a .uxd file."""
    head: dict[str, str] = {}
    scans: list[Scan] = []
    values: list[str] = []
    kind = ""
    for line in [*lines(decoded(data)), "_END"]:
        key, _, value = (word.strip().strip("'\"") for word in line.partition("="))
        if not line.startswith(("_", ";")):
            values.append(line)
            continue
        if kind and values:
            scans.append(_uxd_scan(head, kind, values))
            values, kind = [], ""
        if key.endswith(("COUNTS", "CPS")) and not value:
            kind, values = key, []
        elif value:
            head[key] = value
    anode = head.get("_ANODE", "")
    waves = [real(head.get(key, "0")) for key in ("_WL1", "_WL2", "_WLRATIO")]
    beam = _lines(waves[0], waves[1], waves[2] or 0.5, anode)
    radius = real(head.get("_GONIOMETER_RADIUS", "0"))
    slits = _slits(head.get("_VARDIVERGENCE", ""))
    return join(scans, beam, _instrument(radius, slits))


def _uxd_scan(head: dict[str, str], kind: str, rows: list[str]) -> Scan:
    """One range of intensities, or of pairs of 2θ and intensity."""
    drive = head.get("_DRIVE", "COUPLED")
    if drive not in ("COUPLED", "2THETA", "UNCOUPLED", "DETECTOR"):
        raise ValueError(f"the UXD file is a scan of '{shown(drive)}', not over 2θ")
    seconds = real(head.get("_STEPTIME", "0"))
    if kind.startswith("_2THETA"):
        words = [re.split(r"[\s,;]+", row.strip(), maxsplit=2)[:2] for row in rows]
        pairs = np.array([reals(pair) for pair in words if len(pair) == 2])
        x, y = pairs.reshape(-1, 2).T
    else:
        y = listed(" ".join(rows))
        x = steps(real(head.get("_START", "0")), real(head.get("_STEPSIZE", "0")), len(y))
    if kind.endswith("CPS"):
        return Scan(x, y, 1.0, 1 / seconds if seconds > 0 else 1.0, seconds > 0)
    return Scan(x, y, seconds if seconds > 0 else 1.0)


def _floats(data: bytes, place: int, count: int, size: int = 4) -> Values:
    """The first float of each record of ``size`` bytes."""
    if size < 4 or size % 4:
        raise ValueError(f"the RAW file has points of {size} bytes; it is damaged")
    if place + count * size > len(data):
        raise ValueError(
            f"the RAW file announces a range of {count} points, but has bytes for "
            f"{max(len(data) - place, 0) // size}; it is cut off: copy it again"
        )
    found = np.frombuffer(data, "<f4", count * size // 4, place)[:: size // 4]
    with np.errstate(invalid="ignore"):  # a signalling NaN; ``plausible`` refuses it
        return found.astype(float)


def _scan(start: float, step: float, y: Values, seconds: float) -> Scan:
    known = 1e-6 < seconds < 1e9
    return Scan(steps(start, step, len(y)), y, float(seconds) if known else 1.0)


def _lines(
    first: float, second: float | None, ratio: float, anode: str
) -> Radiation | None:
    """The radiation of a header; the anode where it has no wavelengths."""
    if not 0.05 <= first <= 5:
        return header_radiation(f"anode: {anode.strip(chr(0)).strip()}")
    clean = [float(f"{value:.7g}") for value in (first, second or 0)]
    return tube(clean[0], None if second is None else clean[1], ratio)


def _slits(code: str) -> str:
    """Slits of the code "V" and mm of lit sample: "V6"; anything else is fixed."""
    return "automatic" if re.match(r"V\d", code) else "fixed"


def _instrument(radius: float, slits: str) -> Instrument:
    known = 10 < radius < 2000
    return Instrument(slits=slits, radius=round(float(radius), 3) if known else 200.0)
