"""Bruker .brml (DIFFRAC.SUITE: a zip of XML) -> columns.

Stored intensities are corrected for absorbers already.
"""

import re
from xml.etree.ElementTree import Element

import numpy as np

from ..types import Instrument, Radiation
from .container import POINTS, integer, member, member_names, opened, real, shown, xml
from .scan import Columns, Scan, bounded, join, steps, tube

TYPE = "{http://www.w3.org/2001/XMLSchema-instance}type"
RAW_DATA = re.compile(r"(?:^|.*/)RawData(\d+)\.xml$", re.I)


def brml(data: bytes) -> Columns:
    """The scans of all raw data in the file, with tube, slits and radius."""
    archive = opened(data)
    names = [name for name in member_names(archive) if RAW_DATA.match(name)]
    names = sorted(names, key=lambda name: (len(name), name))
    first = xml(member(archive, names[0]))
    scans = bounded(
        _scan(route)
        for name in names
        for route in _routes(first if name == names[0] else xml(member(archive, name)))
    )
    return join(scans, _beam(first), _instrument(first))


def _routes(root: Element) -> list[Element]:
    """What was measured; what was computed from it only where nothing else is there."""
    routes = root.findall(".//{*}DataRoute")
    return [r for r in routes if r.get("RouteFlag") == "Measured"] or routes


def _scan(route: Element) -> Scan:
    """One scan; equal steps are given more precisely in its head than in its rows."""
    rows = [(tag.text or "").split(",", 64) for tag in route.iterfind(".//{*}Datum")]
    angle, counts, absorber, time = _places(route)
    wanted = [angle, counts, *(place for place in (absorber, time) if place is not None)]
    least = max(len(rows[0]) if rows else 0, max(wanted) + 1)
    table = np.array([[real(row[i]) for i in wanted] for row in rows if len(row) >= least])
    table = table.reshape(-1, len(wanted))
    table = table[(table[:, :2] > -9999).all(axis=1)]
    x, y = table[:, 0], table[:, 1]
    factor = table[:, 2] if absorber is not None else np.ones(len(x))
    if len(factor) and factor.min() <= 0:
        raise ValueError("the BRML file has absorbers of zero; export it anew")
    seconds = float(np.median(table[:, -1])) if time is not None and len(x) else 1.0
    return Scan(_finer(route, x), y, seconds if seconds > 0 else 1.0, factor)


def _places(route: Element) -> tuple[int, int, int | None, int | None]:
    """Columns of 2θ, counts, absorber factor and time in a row."""
    axes: dict[str, int] = {}
    counts = None
    for view in route.iterfind(".//{*}RawDataView"):
        start = integer(view.get("Start", "0"), POINTS)
        if view.get(TYPE) == "RecordedRawDataView":
            if real(view.get("Length", "1")) > 1:
                raise ValueError(
                    "the BRML file holds images of a detector, not a scan over 2θ; "
                    "integrate them first"
                )
            counts = start if counts is None else counts
        fields = [
            tag.get("FieldName", "") for tag in view.iterfind(".//{*}FieldDefinitions")
        ]
        names = fields or [view.get("LogicName", "")]
        axes |= {name: start + i for i, name in enumerate(names) if 0 <= start < 60}
    if "TwoTheta" not in axes or counts is None or not 0 <= counts < 64:
        about = route.find(".//{*}ScanInformation")
        name = "" if about is None else about.get("ScanName", "")
        raise ValueError(
            f"the scan '{shown(name)}' of the BRML file is not over 2θ; give a powder scan"
        )
    return axes["TwoTheta"], counts, axes.get("AbsorptionFactor"), axes.get("MeasuredTime")


def _finer(route: Element, x: np.ndarray) -> np.ndarray:
    for axis in route.iterfind(".//{*}ScanAxisInfo"):
        if axis.get("AxisId") == "TwoTheta" and len(x) > 1:
            start = real(axis.findtext("{*}Start", "") or "nan")
            step = real(axis.findtext("{*}Increment", "") or "nan")
            if np.isfinite(start) and 0 < abs(step) < 10:
                even = steps(start, step, len(x))
                return even if np.abs(even - x).max() < 1e-3 else x
    return x


def _beam(root: Element) -> Radiation | None:
    names = ("WaveLengthAlpha1", "WaveLengthAlpha2", "WaveLengthRatio")
    first, second, ratio = (_value(root, f".//{{*}}{name}") for name in names)
    optics = [
        " ".join(_optics(root, f"{track}Tracks")) for track in ("Primary", "Secondary")
    ]
    return tube(first or 0.0, second, 0.5 if ratio is None else ratio, optics)


def _optics(root: Element, tracks: str) -> list[str]:
    """Names of what is mounted before or behind the sample."""
    found = root.iterfind(f".//{{*}}{tracks}//{{*}}InfoData")
    names = [tag.get("VisibleName", "") for tag in found]
    return [re.sub(r"(?<=\bGe|\bSi)(\d{3})(?=[A-Z])", r"\1 ", name) for name in names]


def _value(root: Element, path: str) -> float | None:
    found = root.find(path)
    return None if found is None else real(found.get("Value", "0"))


def _instrument(root: Element) -> Instrument:
    primary = ".//{*}PrimaryTracks//{*}InfoData"
    modes = {tag.get("Mode", "") for tag in root.iterfind(primary)}
    radius = _value(root, ".//{*}SecondaryTracks//{*}Radius") or 200.0
    centre = root.find(".//{*}GoniometerCenter")
    stages = (
        []
        if centre is None
        else [value for tag in centre.iter() for value in tag.attrib.values()]
    )
    through = re.search("capillar|transmission", " ".join(stages), re.I)
    return Instrument(
        "debye-scherrer" if through else "bragg-brentano",
        "automatic" if "FixedSampleIllumination" in modes else "fixed",
        radius if 10 < radius < 2000 else 200.0,
    )
