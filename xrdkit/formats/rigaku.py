"""Rigaku .ras and .asc (text), .rasx (zip) -> columns; binary .raw is named only.

The third column of .ras and .rasx is the attenuator's factor by which intensities are
to be multiplied.
"""

import re
from zipfile import ZipFile

import numpy as np

from ..types import Instrument
from .container import (
    decoded,
    lines,
    listed,
    member,
    member_names,
    opened,
    real,
    reals,
    shown,
    xml,
)
from .scan import Columns, Scan, Values, bounded, join, steps, tube

Head = dict[str, str]
PROFILE = re.compile(r"(?:^|.*/)Data\d+/Profile\d+\.txt$")
LINES = ("ALPHA1", "ALPHA2", "BETA")
VARIES = "vari|auto"
KEYS = {  # key of .ras: element of .rasx
    "MEAS_SCAN_AXIS_X_INTERNAL": "ScanInformation/{*}AxisName",
    "MEAS_SCAN_UNIT_Y": "ScanInformation/{*}IntensityUnit",
    "MEAS_SCAN_SPEED": "ScanInformation/{*}Speed",
    "MEAS_SCAN_SPEED_UNIT": "ScanInformation/{*}SpeedUnit",
    "MEAS_SCAN_STEP": "ScanInformation/{*}Step",
    "MEAS_COND_XG_WAVE_TYPE": "XrayGenerator/{*}WaveType",
    "HW_XG_WAVE_LENGTH_ALPHA1": "XrayGenerator/{*}WavelengthKalpha1",
    "HW_XG_WAVE_LENGTH_ALPHA2": "XrayGenerator/{*}WavelengthKalpha2",
    "HW_XG_WAVE_LENGTH_BETA": "XrayGenerator/{*}WavelengthKbeta",
}


def ras(data: bytes) -> Columns:
    """All scans of a .ras file."""
    scans, head, first = [], {}, {}
    rows: list[str] | None = None
    for line in lines(decoded(data)):
        if line.startswith("*RAS_INT_START"):
            rows = []
        elif line.startswith("*") and rows is not None:
            scans.append(_profile(rows, head))
            first, rows = first or dict(head), None
        elif rows is not None:
            rows.append(line)
        elif line.startswith("*"):
            key, _, value = line[1:].partition(" ")
            head[key] = value.strip().strip('"')
    cut = rows is not None
    if rows:
        scans.append(_profile(rows[:-1], head))
    notes = ("the file ends within the scan, what is there is read",) if cut else ()
    return _joined(scans, first or head, notes)


def rasx(data: bytes) -> Columns:
    """All profiles of a .rasx file."""
    archive = opened(data)
    names = [name for name in member_names(archive) if PROFILE.match(name)]
    names = sorted(names, key=lambda name: (len(name), name))
    if not names:
        raise ValueError("the RASX file holds no profile; give a finished measurement")
    head = _conditions(archive, names[0])
    scans = bounded(_profile(lines(decoded(member(archive, n))), head) for n in names)
    return _joined(scans, head)


def asc(data: bytes) -> Columns:
    """All segments of an .asc file."""
    head: Head = {}
    scans: list[Scan] = []
    notes: tuple[str, ...] = ()
    rows: list[str] = []
    for line in [*lines(decoded(data)), "*END"]:
        if not line.startswith("*"):
            rows.append(line.replace(",", " "))
            continue
        if "COUNT" in head:
            scan, more = _segment(head, listed(" ".join(rows)))
            scans.append(scan)
            notes += more
            del head["COUNT"]
        rows = []
        key, value = (word.strip() for word in f"{line[1:]}=".split("=")[:2])
        head[f"{key} {value[:1]}" if key == "SLIT_SPEC" else key] = value
    waves = [real(head.get(f"WAVE_LENGTH{line}", "0").split(",")[0]) for line in "12"]
    single = head.get("XRAY_CHAR", "K-ALPHA").upper() != "K-ALPHA"
    optics = [head.get(f"{side}_MONOCHRO", "") for side in "IC"]
    beam = tube(waves[0], 0.0 if single else waves[1] or None, optics=optics)
    varies = re.search(VARIES, head.get("SLIT_SPEC 0", ""), re.I)
    return join(scans, beam, Instrument(slits="automatic" if varies else "fixed"), notes)


def raw(data: bytes) -> Columns:
    """Refuses the binary format, which is not published."""
    raise ValueError(
        "Rigaku's binary .raw is not read; save it as .ras, .rasx or .asc in PDXL, "
        "SmartLab Studio or the measuring program"
    )


def _profile(rows: list[str], head: Head) -> Scan:
    """Rows of angle, intensity and attenuator factor."""
    axis = head.get("MEAS_SCAN_AXIS_X_INTERNAL") or head.get("MEAS_SCAN_AXIS_X", "2-Theta")
    if axis.isascii() and not re.search("2-?theta|two-?theta", axis, re.I):
        raise ValueError(f"the scan is along '{shown(axis)}', not 2θ; give a powder scan")
    words = [row.split(None, 3)[:3] for row in rows]
    table = np.array([reals((*row, "1")[:3]) for row in words if len(row) > 1])
    x, y, factor = table.reshape(-1, 3).T
    if len(factor) and factor.min() <= 0:
        raise ValueError("the file has attenuators of zero; export it anew")
    rate = head.get("MEAS_SCAN_UNIT_Y", "counts").lower() != "counts"
    seconds = _seconds(head)
    if rate:
        return Scan(x, y * factor, 1.0, factor / (seconds or 1.0), seconds > 0)
    return Scan(x, y * factor, seconds or 1.0, factor)


def _segment(head: Head, y: Values) -> tuple[Scan, tuple[str, ...]]:
    """Intensities of one *BEGIN block of an .asc file."""
    wanted = real(head["COUNT"])
    notes = ()
    if len(y) != wanted:
        notes = (f"COUNT announces {wanted:.0f} points, the file has {len(y)}",)
    x = steps(real(head.get("START", "nan")), real(head.get("STEP", "nan")), len(y))
    names = ("SPEED", "SPEED_DIM", "STEP")
    keys = ("MEAS_SCAN_SPEED", "MEAS_SCAN_SPEED_UNIT", "MEAS_SCAN_STEP")
    seconds = _seconds({key: head.get(n, "") for key, n in zip(keys, names, strict=True)})
    if head.get("YUNIT", "counts").lower() == "counts":
        return Scan(x, y, seconds or 1.0), notes
    return Scan(x, y, 1.0, 1 / (seconds or 1.0), seconds > 0), notes


def _seconds(head: Head) -> float:
    """Seconds per step, zero if the file does not say it."""
    speed = real(head.get("MEAS_SCAN_SPEED") or "0")
    step = real(head.get("MEAS_SCAN_STEP") or "0")
    unit = head.get("MEAS_SCAN_SPEED_UNIT", "").lower().replace(" ", "")
    if speed <= 0 or step <= 0 or not np.isfinite(speed * step):
        return 0.0
    if unit.startswith("deg"):
        return 60 * step / speed
    return speed if unit.startswith("sec") else 0.0


def _joined(scans: list[Scan], head: Head, notes: tuple[str, ...] = ()) -> Columns:
    waves = [real(head.get(f"HW_XG_WAVE_LENGTH_{line}") or "0") for line in LINES]
    kind = head.get("MEAS_COND_XG_WAVE_TYPE", "Ka").lower()
    first, second = (waves[2], 0.0) if kind.startswith("kb") else waves[:2]
    optics = [
        f"{_position(head, part)} {head.get(f'HW_{key}_MONOCHRO_NAME', '')}"
        for part, key in (("IncidentMono", "I"), ("(Counter|Detector)Mono", "COUNTER"))
    ]
    beam = tube(first, 0.0 if kind == "ka1" else second or None, optics=optics)
    return join(scans, beam, _instrument(head), notes)


def _instrument(head: Head) -> Instrument:
    """Slits, capillary and the distance from the tube to the sample (mm)."""
    radius = real(head.get("HW_GONIOMETER_RADIUS-3") or "0")
    holder = " ".join(v for k, v in head.items() if re.match("HW_(ATTACH|SAMPLE)", k))
    slits = _position(head, "IncidentSlitBox$|IS$|DS$|SlitDS|Div")
    return Instrument(
        "debye-scherrer" if re.search("capillar", holder, re.I) else "bragg-brentano",
        "automatic" if re.search(VARIES, slits, re.I) else "fixed",
        radius if 10 < radius < 2000 else 200.0,
    )


def _position(head: Head, name: str) -> str:
    """Where the axes stand whose name begins so."""
    names = "MEAS_COND_AXIS_NAME_INTERNAL-"
    rows = [key.removeprefix(names) for key in head if key.startswith(names)]
    found = [row for row in rows if re.match(name, head[names + row])]
    return " ".join(head.get(f"MEAS_COND_AXIS_POSITION-{row}", "") for row in found)


def _conditions(archive: ZipFile, profile: str) -> Head:
    """The conditions beside a profile of a .rasx file, under the keys of .ras."""
    folder = profile.rpartition("/")[0]
    wanted = re.compile(re.escape(folder) + r"/Mea?surementConditions\d+\.xml")
    name = next((name for name in member_names(archive) if wanted.fullmatch(name)), None)
    if name is None:
        return {}
    root = xml(member(archive, name))
    pairs = [[part.text or "" for part in pair] for pair in root.iterfind(".//{*}Pair")]
    head = {pair[0].lstrip("*"): pair[1] for pair in pairs if len(pair) == 2}
    head |= {key: root.findtext(f".//{{*}}{tag}", "") for key, tag in KEYS.items()}
    for i, axis in enumerate(root.iterfind(".//{*}Axis")):
        head[f"MEAS_COND_AXIS_NAME_INTERNAL-{i}"] = axis.get("Name", "")
        head[f"MEAS_COND_AXIS_POSITION-{i}"] = axis.get("Position", "")
    for part in root.iterfind(".//{*}Category"):
        head[f"HW_ATTACH_{part.get('Name')}"] = part.get("SelectedUnit", "")
    for part in root.iterfind(".//{*}Distance"):
        if (part.get("From"), part.get("To")) == ("XrayGenerator", "AttachmentStage"):
            head["HW_GONIOMETER_RADIUS-3"] = part.get("Value", "")
    return head
