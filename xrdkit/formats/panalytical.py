"""PANalytical .xrdml, schema 1.0 to 2.x (www.xrdml.com) -> columns.

``intensities`` are corrected for attenuators already, ``counts`` (schema 2) are not.
"""

from xml.etree.ElementTree import Element

import numpy as np

from ..types import Instrument, Radiation
from .container import listed, number, shown, xml
from .scan import Columns, Scan, Values, join, tube

TYPE = "{http://www.w3.org/2001/XMLSchema-instance}type"


def xrdml(data: bytes) -> Columns:
    """The 2θ scans of the first measurement, with tube, monochromators, slits, radius."""
    measurement = xml(data).find("{*}xrdMeasurement")
    if measurement is None:
        raise ValueError("the XRDML file holds no measurement; export it anew")
    scans = (
        _scan(points, scan.get("scanAxis", ""))
        for scan in measurement.iterfind("{*}scan")
        for points in scan.iterfind("{*}dataPoints")
    )
    return join(scans, _beam(measurement), _instrument(measurement))


def _scan(points: Element, axis: str) -> Scan:
    """One scan; counts that belong to different times are scaled to the longest."""
    counts = points.find("{*}counts")
    values = points.find("{*}intensities") if counts is None else counts
    if values is None:
        raise ValueError("a scan of the XRDML file has no intensities; export it anew")
    y = listed(values.text)
    factor = _per_point(points, "commonBeamAttenuationFactor", "beamAttenuationFactors", y)
    seconds = _per_point(points, "commonCountingTime", "countingTimes", y)
    if len(y) and min(factor.min(), seconds.min()) <= 0:
        raise ValueError("the XRDML file has times or attenuators of zero; export it anew")
    y = y * factor if counts is not None else y
    x = _angles(points, len(y), axis)
    if values.get("unit") == "cps":
        return Scan(x, y, 1.0, factor / seconds)
    longest = float(seconds.max(initial=0))
    return Scan(x, y * (longest / seconds), longest, factor * (longest / seconds))


def _per_point(points: Element, common: str, each: str, like: Values) -> Values:
    """A quantity for each point, given once or in a list; one where it is not given."""
    found = points.find(f"{{*}}{each}")
    if found is None:
        return np.full(len(like), number(points.find(f"{{*}}{common}"), 1.0))
    values = listed(found.text)
    if len(values) != len(like):
        raise ValueError(
            f"{each} of the XRDML file has {len(values)} numbers for {len(like)} points; "
            "export it anew"
        )
    return values


def _angles(points: Element, count: int, scanned: str) -> Values:
    """Angles 2θ (°) of a scan: listed, or from the first to the last."""
    tags = [tag for tag in points.findall("{*}positions") if tag.get("axis") == "2Theta"]
    given = tags[0].find("{*}listPositions") if tags else None
    if given is not None:
        x = listed(given.text)
        if len(x) != count:
            raise ValueError(
                f"the XRDML file lists {len(x)} angles for {count} intensities; "
                "export it anew"
            )
        return x
    ends = [tags[0].find(f"{{*}}{end}Position") for end in ("start", "end")] if tags else []
    if None in ends or not ends:
        raise ValueError(
            f"the scan of the XRDML file is along '{shown(scanned)}', not 2θ; "
            "give a powder scan"
        )
    return np.linspace(number(ends[0]), number(ends[1]), count)


def _beam(measurement: Element) -> Radiation | None:
    lines = measurement.find("{*}usedWavelength")
    if lines is None:
        return None
    values = [lines.find(f"{{*}}kAlpha{line}") for line in "12"]
    ratio = number(lines.find("{*}ratioKAlpha2KAlpha1"), 0.5)
    second = None if values[1] is None else number(values[1])
    paths = [
        measurement.find(f"{{*}}{path}BeamPath") for path in ("incident", "diffracted")
    ]
    return tube(number(values[0]), second, ratio, [_crystal(path) for path in paths])


def _crystal(path: Element | None) -> str:
    """The monochromator of a beam path in words, like "2xGe(220)"."""
    found = None if path is None else path.find("{*}monochromator")
    if found is None:
        return ""
    material = found.findtext("{*}crystal", "") or found.get("name", "")
    hkl = "".join(found.findtext(f"{{*}}hkl/{{*}}{index}", "") for index in "hkl")
    count = found.findtext("{*}numberOfReflections", "1")
    return f"{count}x{material}({hkl})" if hkl else material


def _instrument(measurement: Element) -> Instrument:
    radius = number(measurement.find("{*}diffractedBeamPath/{*}radius")) or number(
        measurement.find("{*}incidentBeamPath/{*}radius"), 200.0
    )
    slit = measurement.find("{*}incidentBeamPath/{*}divergenceSlit")
    automatic = slit is not None and slit.get(TYPE, "").startswith("automatic")
    through = measurement.get("sampleMode") == "Transmission"
    return Instrument(
        "debye-scherrer" if through else "bragg-brentano",
        "automatic" if automatic else "fixed",
        radius,
    )
