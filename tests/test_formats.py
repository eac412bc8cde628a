"""Files of instruments: tiny samples are written here, field by field, and read back."""

import io
import itertools
import random
import re
import struct
import time
import zipfile

import numpy as np
import pytest

from xrdkit import pattern

START, STEP, COUNT = 10.0, 0.02, 400
ANGLES = START + STEP * np.arange(COUNT)
RNG = np.random.default_rng(0)
COUNTS = RNG.poisson(200 + 3000 * np.exp(-(((ANGLES - 14) / 0.1) ** 2)))
CU = (1.5406, 1.54439)


def words(values):
    return " ".join(f"{value:.10g}" for value in values)


def named(members):
    """A zip of files by name."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return buffer.getvalue()


# writers


def scan_xml(y=COUNTS, start=START, *, tag="counts", seconds=1.5, more="", positions=""):
    stop = start + STEP * (len(y) - 1)
    positions = positions or (
        f"<startPosition>{start}</startPosition><endPosition>{stop:.4f}</endPosition>"
    )
    return f"""<scan scanAxis="Gonio" status="Completed"><dataPoints>
<positions axis="2Theta" unit="deg">{positions}</positions>
<positions axis="Omega" unit="deg"><startPosition>5</startPosition></positions>
<commonCountingTime unit="seconds">{seconds}</commonCountingTime>{more}
<{tag} unit="counts">{words(y)}</{tag}></dataPoints></scan>"""


def xrdml(*scans, version="2.1", slit="fixed", optics="", mode="Reflection", head=""):
    return f"""<?xml version="1.0" encoding="UTF-8"?>{head}
<xrdMeasurements xmlns="http://www.xrdml.com/XRDMeasurement/{version}"
 xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance" status="Completed">
<xrdMeasurement measurementType="Scan" sampleMode="{mode}">
<usedWavelength intended="K-Alpha 1"><kAlpha1 unit="Angstrom">{CU[0]}</kAlpha1>
<kAlpha2 unit="Angstrom">{CU[1]}</kAlpha2><kBeta unit="Angstrom">1.39225</kBeta>
<ratioKAlpha2KAlpha1>0.5</ratioKAlpha2KAlpha1></usedWavelength>
<incidentBeamPath><radius unit="mm">240</radius>{optics}
<divergenceSlit xsi:type="{slit}DivergenceSlitType"/></incidentBeamPath>
<diffractedBeamPath><radius unit="mm">240</radius></diffractedBeamPath>
{"".join(scans or [scan_xml()])}</xrdMeasurement></xrdMeasurements>""".encode()


def brml(
    y=COUNTS,
    *,
    absorber=None,
    mode="Slitwidth",
    stage="Flipstick",
    optic="Slit 0.6",
    ratio=0.5,
):
    absorber = np.ones(len(y)) if absorber is None else absorber
    x = START + STEP * np.arange(len(y))
    rows = "".join(
        f"<Datum>2,{f:g},{a:.4f},{a / 2:.4f},{v:.10g}</Datum>"
        for a, v, f in zip(x, y, absorber, strict=True)
    )
    raw = f"""<?xml version="1.0"?>
<RawData xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance"><DataRoutes>
<DataRoute RouteFlag="Measured"><ScanInformation ScanName="LockedCoupled"><ScanAxes>
<ScanAxisInfo AxisId="TwoTheta"><Start>{START}</Start><Increment>{STEP}</Increment>
</ScanAxisInfo></ScanAxes></ScanInformation>{rows}<DataViews>
<RawDataView xsi:type="FixedRawDataView" Start="0" Length="1" LogicName="MeasuredTime"/>
<RawDataView xsi:type="FixedRawDataView" Start="1" Length="1" LogicName="AbsorptionFactor"/>
<RawDataView xsi:type="VaryingRawDataView" Start="2" Length="2"><Varying>
<FieldDefinitions FieldName="TwoTheta"/><FieldDefinitions FieldName="Theta"/></Varying>
</RawDataView><RawDataView xsi:type="RecordedRawDataView" Start="4" Length="1"/>
</DataViews></DataRoute></DataRoutes><FixedInformation><Instrument>
<GoniometerCenter><Stage LogicName="{stage}"/></GoniometerCenter><PrimaryTracks>
<InfoData VisibleName="{optic}" Mode="{mode}"/><Tube>
<WaveLengthAlpha1 Unit="Å" Value="{CU[0]}"/><WaveLengthAlpha2 Unit="Å" Value="{CU[1]}"/>
<WaveLengthRatio Unit="" Value="{ratio}"/></Tube></PrimaryTracks><SecondaryTracks>
<Radius Unit="mm" Value="280"/></SecondaryTracks></Instrument></FixedInformation>
</RawData>"""
    return named({"Experiment0/RawData0.xml": raw, "experimentCollection.xml": "<a/>"})


def first_view_at(start):
    """A .brml whose first column is said to be at ``start``."""
    archive = zipfile.ZipFile(io.BytesIO(brml()))
    data = {name: archive.read(name) for name in archive.namelist()}
    old, new = b'Start="0"', f'Start="{start}"'.encode()
    return named({name: text.replace(old, new) for name, text in data.items()})


def raw_1(ranges=((START, COUNTS, 1.0),), again=b"RAW "):
    data = b"RAW "
    for i, (start, y, seconds) in enumerate(ranges):
        head = bytearray(152)
        struct.pack_into("<IffI", head, 0, len(y), seconds, STEP, 0)
        struct.pack_into("<f", head, 20, start)
        struct.pack_into("<ff", head, 68, *CU)
        struct.pack_into("<I", head, 148, i + 1 < len(ranges))
        data += (again if i else b"") + bytes(head) + np.asarray(y, "<f4").tobytes()
    return data


def raw_2(ranges=((START, COUNTS, 1.0),)):
    head = bytearray(256)
    struct.pack_into("<4sH", head, 0, b"RAW2", len(ranges))
    struct.pack_into("<2sfff", head, 188, b"Cu", *CU, 0.5)
    data = bytes(head)
    for start, y, seconds in ranges:
        part = bytearray(60)
        struct.pack_into("<HH", part, 0, len(part), len(y))
        struct.pack_into("<fff", part, 8, seconds, STEP, start)
        data += bytes(part) + np.asarray(y, "<f4").tobytes()
    return data


def raw_3(ranges=((START, COUNTS, 1.0),), slit=b"fix", monochromator=0):
    head = bytearray(712)
    struct.pack_into("<8sII", head, 0, b"RAW1.01", 1, len(ranges))
    struct.pack_into("<f12xI", head, 564, 200.5, monochromator)
    struct.pack_into("<2s", head, 608, b"Cu")
    struct.pack_into("<5d", head, 616, 1.5418, *CU, 1.3922, 0.5)
    data = bytes(head)
    for start, y, seconds in ranges:
        part = bytearray(304 + 40)
        struct.pack_into("<IIdd", part, 0, 304, len(y), start / 2, start)
        struct.pack_into("<6s", part, 72, slit)
        struct.pack_into("<d8xf", part, 176, STEP, seconds)
        struct.pack_into("<II", part, 252, 4, 40)
        data += bytes(part) + np.asarray(y, "<f4").tobytes()
    return data


def raw_4(ranges=((START, COUNTS, 1.0),), size=4, second=CU[1], scan=b"Locked Coupled"):
    data = b"RAW4.00\0".ljust(61, b"\1")
    data += struct.pack("<II4x24s4s", 10, 40, b"USER", b"me")
    part = bytearray(136)
    struct.pack_into("<II", part, 0, 30, 136)
    struct.pack_into("<f", part, 24, 560)
    struct.pack_into("<5d4x2s", part, 72, 1.5418, CU[0], second, 1.3922, 0.5, b"Cu")
    data += bytes(part)
    for start, y, seconds in ranges:
        part = bytearray(160 + 92)
        struct.pack_into("<24s", part, 32, scan)
        struct.pack_into("<ddIf", part, 72, start, STEP, len(y), seconds)
        struct.pack_into("<II", part, 136, size, 92)
        struct.pack_into("<II4x24s", part, 160, 50, 92, b"2Theta")
        points = np.zeros((len(y), size // 4), "<f4")
        points[:, 0] = y
        data += bytes(part) + points.tobytes()
    return data


def uxd(kind="_2THETACOUNTS", y=COUNTS, slit="V6", drive="COUPLED"):
    pairs = kind.startswith("_2THETA")
    rows = [
        f"{a:.3f}\t{v:g}" if pairs else f"{v:g}" for a, v in zip(ANGLES, y, strict=True)
    ]
    return "\r\n".join(
        [
            "; a remark",
            "_FILEVERSION=2",
            "_GONIOMETER_RADIUS=200.5",
            f"_WL1={CU[0]}\r\n_WL2={CU[1]}\r\n_WLRATIO=0.5\r\n_ANODE='Cu'",
            f"; (Data for Range number 1)\r\n_DRIVE='{drive}'\r\n_STEPTIME=2.0",
            f"_STEPSIZE={STEP}\r\n_START={START}\r\n_VARDIVERGENCE='{slit}'",
            kind,
            *rows,
        ]
    ).encode()


def ras(y=COUNTS, factor=None, wave="Ka", unit="counts", axis="TwoThetaTheta", more=""):
    factor = np.ones(len(y)) if factor is None else factor
    rows = "\r\n".join(
        f"{a:.4f} {v:.4f} {f:.4f}" for a, v, f in zip(ANGLES, y, factor, strict=True)
    )
    head = {
        "HW_GONIOMETER_RADIUS-3": "300.0",
        "HW_XG_WAVE_LENGTH_ALPHA1": CU[0],
        "HW_XG_WAVE_LENGTH_ALPHA2": CU[1],
        "MEAS_COND_AXIS_NAME_INTERNAL-7": "IncidentSlitBox",
        "MEAS_COND_AXIS_POSITION-7": more or "1/2deg",
        "MEAS_COND_XG_WAVE_TYPE": wave,
        "MEAS_SCAN_AXIS_X_INTERNAL": axis,
        "MEAS_SCAN_SPEED": "0.6",
        "MEAS_SCAN_SPEED_UNIT": "deg/min",
        "MEAS_SCAN_STEP": STEP,
        "MEAS_SCAN_UNIT_Y": unit,
    }
    keys = "".join(f'*{key} "{value}"\r\n' for key, value in head.items())
    return (
        f'*RAS_DATA_START\r\n*RAS_HEADER_START\r\n{keys}*FILE_MEMO "\u6e2c\u5b9a"\r\n'
        f"*RAS_HEADER_END\r\n*RAS_INT_START\r\n{rows}\r\n*RAS_INT_END\r\n*RAS_DATA_END\r\n"
    ).encode("shift_jis")


def rasx(y=COUNTS, factor=1.0, wave="Ka", position="1.0mm"):
    rows = "\r\n".join(
        f"{a:.4f}\t{v:g}\t{factor:g}" for a, v in zip(ANGLES, y, strict=True)
    )
    conditions = f"""<?xml version="1.0" encoding="utf-8"?><MeasurementConditions>
<Distances><Distance To="AttachmentStage" From="XrayGenerator" Value="285"/></Distances>
<XrayGenerator><WaveType>{wave}</WaveType><WavelengthKalpha1>{CU[0]}</WavelengthKalpha1>
<WavelengthKalpha2>{CU[1]}</WavelengthKalpha2></XrayGenerator>
<Axes><Axis Name="IS" Position="{position}" State="Fixed"/></Axes>
<ScanInformation><AxisName>TwoTheta</AxisName><Step>{STEP}</Step><Speed>0.6</Speed>
<SpeedUnit>deg/min</SpeedUnit><IntensityUnit>counts</IntensityUnit></ScanInformation>
<RASHeader><Pair><string>*FILE_MD5</string><string/></Pair></RASHeader>
</MeasurementConditions>"""
    return named(
        {
            "Data0/Profile0.txt": "\ufeff" + rows,
            "Data0/MesurementConditions0.xml": "\ufeff" + conditions,
            "root.xml": "<Root/>",
        }
    )


def asc(segments=((START, COUNTS),), unit="counts", char="K-ALPHA"):
    text = (
        f"*TYPE\t\t=  Raw\n*XRAY_CHAR\t=  {char}\n*COUNTER\t=  SC-70, 0\n"
        f"*WAVE_LENGTH1\t=  {CU[0]}\n"
        f"*WAVE_LENGTH2\t=  {CU[1]}\n*SPEED_DIM\t=  sec./step\n*YUNIT\t\t=  {unit}\n"
    )
    for start, y in segments:
        rows = "\n".join(
            ", ".join(f"{v:g}" for v in part) for part in np.array_split(y, len(y) // 4)
        )
        text += (
            f"*BEGIN\n*START\t=  {start}\n*STOP\t=  99\n*STEP\t=  {STEP}\n*SPEED\t=  2\n"
            f"*SLIT_SPEC\t= 0, 2/3deg\n*COUNT\t=  {len(y)}\n{rows}\n*END\n"
        )
    return (text + "*EOF\n").encode()


WRITERS = {
    "a.xrdml": xrdml,
    "a.brml": brml,
    "a1.raw": raw_1,
    "a2.raw": raw_2,
    "a3.raw": raw_3,
    "a4.raw": raw_4,
    "a.uxd": uxd,
    "a.ras": ras,
    "a.rasx": rasx,
    "a.asc": asc,
}


@pytest.fixture
def read(tmp_path):
    """Reads bytes as a file of some name."""

    def from_bytes(data, name="a.raw", wavelength=None):
        path = tmp_path / name
        path.write_bytes(data)
        return pattern.read(path, wavelength)

    return from_bytes


# what is read


@pytest.mark.parametrize("name", WRITERS)
def test_every_format_gives_the_angles_counts_and_lines_that_were_written(read, name):
    found = read(WRITERS[name](), name)
    np.testing.assert_allclose(found.two_theta, ANGLES, atol=1e-5)
    np.testing.assert_array_equal(found.intensity, COUNTS)
    assert found.radiation.wavelengths == pytest.approx(CU)
    assert found.radiation.weights[0] == pytest.approx(2 / 3)
    assert found.radiation.kalpha2
    assert found.radiation.polarisation == 0.5
    assert found.sigma_source == "counts"
    assert found.warnings == ()
    assert found.name == name.split(".")[0]


@pytest.mark.parametrize("name", WRITERS)
def test_content_decides_not_the_suffix(read, name):
    found = read(WRITERS[name](), "wrong.xy")
    np.testing.assert_array_equal(found.intensity, COUNTS)


@pytest.mark.parametrize(
    ("data", "radius"),
    [
        (xrdml(), 240),
        (brml(), 280),
        (raw_3(), 200.5),
        (raw_4(), 280),
        (uxd(), 200.5),
        (ras(), 300),
        (rasx(), 285),
        (raw_1(), 200),
    ],
)
def test_radius_is_the_one_of_the_file(read, data, radius):
    assert read(data).instrument.radius == radius


@pytest.mark.parametrize(
    ("fixed", "automatic"),
    [
        (xrdml(), xrdml(slit="automatic")),
        (brml(), brml(mode="FixedSampleIllumination")),
        (raw_3(), raw_3(slit=b"V20")),
        (uxd(slit="fix"), uxd(slit="V6")),
        (ras(), ras(more="Variable")),
        (rasx(), rasx(position="Auto")),
    ],
)
def test_automatic_slits_are_recognised(read, fixed, automatic):
    assert read(fixed).instrument.slits == "fixed"
    assert read(automatic).instrument.slits == "automatic"


@pytest.mark.parametrize("data", [xrdml(mode="Transmission"), brml(stage="CapillaryStage")])
def test_transmission_is_debye_scherrer_geometry(read, data):
    assert read(data).instrument.geometry == "debye-scherrer"


GERMANIUM = (
    '<monochromator name="Johansson"><crystal>Ge</crystal>'
    "<hkl><h>1</h><k>1</k><l>1</l></hkl></monochromator>"
)


@pytest.mark.parametrize(
    "data",
    [
        xrdml(optics=GERMANIUM),
        brml(optic="Ge(111) Johansson"),
        brml(ratio=0),
        raw_4(second=0.0),
        ras(wave="Ka1"),
        rasx(wave="Ka1"),
        asc(char="K-ALPHA1"),
    ],
)
def test_kalpha2_that_optics_take_away_is_not_there(read, data):
    beam = read(data).radiation
    assert beam.wavelengths == pytest.approx(CU[:1])
    assert beam.kalpha2 is False


def test_unknown_monochromator_leaves_kalpha2_open(read):
    assert read(raw_3(monochromator=2)).radiation.kalpha2 is None


def test_monochromators_polarise_the_beam(read):
    graphite = "<monochromator><crystal>Graphite</crystal></monochromator>"
    beam = read(xrdml(optics=graphite)).radiation
    assert beam.kalpha2
    assert beam.polarisation == pytest.approx(0.556, abs=0.001)  # International Tables C
    one, two = (read(brml(optic=f"{n}xGe(111)")).radiation.polarisation for n in (1, 2))
    assert 1 / two - 1 == pytest.approx((1 / one - 1) ** 2)


def test_counts_behind_attenuators_have_the_deviations_of_what_was_counted(read):
    factor = np.where(COUNTS > 1000, 8.0, 1.0)
    raw = np.maximum(COUNTS // factor, 1)
    sigma = factor * np.sqrt(raw)
    listed = f"<beamAttenuationFactors>{words(factor)}</beamAttenuationFactors>"
    for data in (
        xrdml(scan_xml(raw, more=listed)),
        xrdml(scan_xml(raw * factor, tag="intensities", more=listed), version="1.3"),
        brml(raw * factor, absorber=factor),
        ras(raw, factor=factor),
    ):
        found = read(data)
        np.testing.assert_allclose(found.intensity, raw * factor)
        np.testing.assert_allclose(found.sigma, sigma)
        assert found.sigma_source == "given"


@pytest.mark.parametrize(
    ("data", "seconds"),
    [
        (uxd("_2THETACPS", COUNTS / 2), 2),
        (uxd("_CPS", COUNTS / 2), 2),
        (ras(COUNTS / 2, unit="cps"), 2),
        (asc([(START, COUNTS / 2)], unit="cps"), 2),
    ],
)
def test_rates_have_the_deviations_of_their_counts(read, data, seconds):
    found = read(data)
    np.testing.assert_allclose(found.sigma, np.sqrt(COUNTS) / seconds, rtol=1e-5)
    assert found.sigma_source == "given"


def test_smoothed_intensities_are_not_called_counts(read):
    smooth = np.convolve(COUNTS, np.ones(5) / 5, "same")
    for data in (xrdml(scan_xml(smooth)), raw_4(((START, smooth, 1.0),)), ras(smooth)):
        assert read(data).sigma_source == "unknown"


def test_intensities_alone_get_angles_from_the_head(read):
    np.testing.assert_allclose(read(uxd("_COUNTS")).two_theta, ANGLES)


def test_listed_positions_are_the_angles(read):
    x = ANGLES + 0.001 * np.sin(ANGLES)
    listed = f"<listPositions>{words(x)}</listPositions>"
    np.testing.assert_allclose(read(xrdml(scan_xml(positions=listed))).two_theta, x)


def test_version_4_with_two_numbers_a_point_gives_the_first(read):
    np.testing.assert_array_equal(read(raw_4(size=8)).intensity, COUNTS)


def test_unicode_xml_is_read(read):
    data = xrdml().decode().replace("UTF-8", "UTF-16").encode("utf-16")
    np.testing.assert_array_equal(read(data).intensity, COUNTS)


# several ranges


def twice(second, seconds=1.0):
    return ((START, COUNTS, 1.0), (second, COUNTS, seconds))


def test_repeated_scans_are_summed_and_stay_counts(read):
    for data in (xrdml(scan_xml(), scan_xml()), *(w(twice(START)) for w in (raw_1, raw_3))):
        found = read(data)
        np.testing.assert_array_equal(found.intensity, 2 * COUNTS)
        assert found.sigma_source == "counts"
        assert found.warnings == ("2 scans of the same range summed",)


@pytest.mark.parametrize(
    "data",
    [
        xrdml(scan_xml(), scan_xml(start=40)),
        raw_1(twice(40)),
        raw_1(twice(40), again=b""),
        raw_2(twice(40)),
        raw_3(twice(40)),
        raw_4(twice(40)),
        asc(((START, COUNTS), (40, COUNTS))),
    ],
)
def test_separate_ranges_are_joined(read, data):
    found = read(data)
    assert len(found) == 2 * COUNT
    last = STEP * (COUNT - 1)
    assert np.array(found.ranges) == pytest.approx(
        np.array([[START, START + last], [40, 40 + last]]), abs=1e-4
    )
    assert found.sigma_source == "counts"


def test_range_that_begins_where_the_other_ends_shares_its_point(read):
    found = read(raw_3(twice(ANGLES[-1])))
    assert len(found) == 2 * COUNT - 1
    assert len(found.ranges) == 1


def test_ranges_of_different_times_are_scaled_to_the_longest(read):
    found = read(raw_3(twice(40, seconds=2.0)))
    np.testing.assert_allclose(found.intensity[:COUNT], 2 * COUNTS)
    np.testing.assert_allclose(found.sigma[:COUNT], 2 * np.sqrt(COUNTS))
    np.testing.assert_allclose(found.sigma[COUNT:], np.sqrt(COUNTS))
    assert "different counting times" in found.warnings[0]


def test_ranges_that_overlap_are_refused(read):
    with pytest.raises(ValueError, match=r"ranges that overlap \(10–17\.98°, 12–19\.98°\)"):
        read(raw_3(twice(12)))


# zips


def test_zip_of_one_pattern_is_read(read):
    for name, write in WRITERS.items():
        data = named(
            {"notes.txt": "some words", f"folder/{name}": write(), "__MACOSX/x": "1"}
        )
        np.testing.assert_array_equal(read(data, "a.zip").intensity, COUNTS)


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ({"a.ras": ras(), "b.uxd": uxd()}, r"2 patterns \(a\.ras, b\.uxd\); give one"),
        (
            {"a.txt": "words", "b\n.txt": "words"},
            r"no pattern in a\.zip \(a\.txt, b\?\.txt\)",
        ),
        ({"a.txt": "words"}, r"\(a\.txt\): no columns of numbers"),
        ({}, r"no pattern in a\.zip \(empty\)"),
        ({"b.zip": named({"a.ras": ras()})}, "a zip in a zip"),
        ({f"{i}.txt": "words" for i in range(60)}, "holds 60 files, at most 50"),
        ({f"{i}.txt": "" for i in range(2100)}, "holds 2100 files, at most 2000"),
        ({"a.xy": b"0" * 5_000_000}, "more than 200 times its size"),
    ],
)
def test_zip_without_one_pattern_is_refused_with_the_names(read, members, message):
    with pytest.raises(ValueError, match=message):
        read(named(members), "a.zip")


def test_zip_that_lies_about_sizes_is_refused(read):
    data = bytearray(named({"a.xy": "1 2\n" * 1000}))
    place = data.index(b"PK\x01\x02")
    struct.pack_into("<I", data, place + 24, 150_000_000)
    with pytest.raises(ValueError, match="unpacks to 150 MB, at most 100 MB"):
        read(bytes(data), "a.zip")
    struct.pack_into("<I", data, place + 24, 100)
    with pytest.raises(ValueError, match=r"no pattern in a\.zip"):
        read(bytes(data), "a.zip")


# text


@pytest.mark.parametrize(
    ("header", "wavelength"),
    [
        ("# energy = 17.0 keV", 0.72932),
        ("# Energy (keV): 60", 0.20664),
        ("photon_energy: 8048 eV", 1.54056),
        ("# beam energy 12,398 keV", 1.00003),
        ("# threshold energy: 6 keV, wavelength 0.4136", 0.4136),
    ],
)
def test_photon_energies_become_wavelengths(read, header, wavelength):
    rows = "\n".join(f"{a:.2f} {v}" for a, v in zip(ANGLES, COUNTS, strict=True))
    beam = read(f"{header}\n{rows}".encode(), "a.xy").radiation
    assert beam.main == pytest.approx(wavelength, rel=1e-4)


def test_threshold_of_a_detector_is_no_photon_energy(read):
    rows = "\n".join(f"{a:.2f} {v}" for a, v in zip(ANGLES, COUNTS, strict=True))
    with pytest.raises(ValueError, match="does not say its wavelength"):
        read(f"# threshold energy: 6 keV\n{rows}".encode(), "a.xy")


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-8-sig"])
@pytest.mark.parametrize("form", ["{:.2f};{:.1f}", "{:.2f}\t{:.1f}", '"{:.2f}";"{:.1f}"'])
def test_tables_of_other_countries_are_read(read, encoding, form):
    rows = [
        form.format(a, v).replace(".", ",") for a, v in zip(ANGLES, COUNTS, strict=True)
    ]
    text = "\r\n".join(["2theta;intensity", *rows])
    found = read(text.encode(encoding), "a.csv", "CuKa")
    np.testing.assert_allclose(found.two_theta, ANGLES)
    np.testing.assert_allclose(found.intensity, COUNTS)


@pytest.mark.parametrize("cut", ["15.0", "15.0 1e", "15.0 -"])
def test_half_written_last_line_is_left_out(read, cut):
    rows = [f"{a:.2f} {v}" for a, v in zip(ANGLES, COUNTS, strict=True)]
    found = read("\n".join([*rows, cut]).encode(), "a.xy", "CuKa")
    assert len(found) == COUNT
    assert len(found.warnings) == 1


def test_ras_that_ends_within_its_scan_is_read_so_far(read):
    data = ras()
    found = read(data[: data.index(b"\n14.0000") + 12], "a.ras")
    assert found.two_theta[-1] == pytest.approx(13.98)
    assert "ends within the scan" in found.warnings[0]


# errors

DTD = '<!DOCTYPE a [<!ENTITY b "bbbbbbbbbb"><!ENTITY c "&b;&b;&b;&b;">]>'


@pytest.mark.parametrize(
    ("data", "name", "message"),
    [
        (xrdml(head=DTD), "a.xrdml", "document type or entities, which are not read"),
        (xrdml()[:-40], "a.xrdml", "the XML is damaged"),
        (b"<xrdMeasurements/>", "a.xrdml", "holds no measurement"),
        (xrdml(scan_xml(tag="other")), "a.xrdml", "has no intensities"),
        (xrdml(scan_xml(positions="<a/>")), "a.xrdml", "along 'Gonio', not 2θ"),
        (xrdml(scan_xml(y=[])), "a.xrdml", "no measured points"),
        (xrdml(scan_xml(seconds=0)), "a.xrdml", "times or attenuators of zero"),
        (
            xrdml(scan_xml(positions="<listPositions>1 2</listPositions>")),
            "a.xrdml",
            "lists 2 angles for 400 intensities",
        ),
        (
            xrdml(scan_xml(more="<countingTimes>1 2</countingTimes>")),
            "a.xrdml",
            "2 numbers",
        ),
        (xrdml().replace(b" 2", b" x", 30), "a.xrdml", "where a number is needed"),
        (raw_1()[:500], "a.raw", "announces a range of 400 points, but has bytes for 86"),
        (raw_3()[:800], "a.raw", "ends at byte 800, before its last range"),
        (raw_4(scan=b"Rocking Curve"), "a.raw", "scan 'Rocking Curve', not over 2θ"),
        (raw_4(size=6), "a.raw", "points of 6 bytes"),
        (raw_4(ranges=()), "a.raw", "no measured points"),
        (raw_2(((np.nan, COUNTS, 1.0),)), "a.raw", "a scan starts at nan°"),
        (b"RAW_1.06Powdat\0\0\0", "a.raw", "STOE's binary .raw is not read"),
        (b"FI\0\0\0\0", "a.raw", "Rigaku's binary .raw is not read; save it as .ras"),
        (b"\0\1\2\3", "a.raw", "does not begin as a file of Bruker RAW does"),
        (uxd(drive="PHI"), "a.uxd", "scan of 'PHI', not over 2θ"),
        (ras(axis="Omega"), "a.ras", "along 'Omega', not 2θ"),
        (ras(factor=np.zeros(COUNT)), "a.ras", "attenuators of zero"),
        (named({"Data0/Profile0.txt": ""}), "a.rasx", "no measured points"),
        (named({"RawData0.xml": "<a/>"}), "a.brml", "no measured points"),
        (named({"RawData0.xml": "<a><DataRoute/></a>"}), "a.brml", "is not over 2θ"),
        *(
            (first_view_at(start), "a.brml", "where a whole number from 0 to 1,000,000 is")
            for start in ("1e999", "nan", "-1", "0.5")
        ),
        (brml()[:-100], "a.brml", "the zip is damaged"),
        (brml().replace(b"PK\1\2", b"PK\1\3"), "a.brml", "the zip is damaged"),
        (raw_1(((START, COUNTS * 1e30, 1.0),)), "a.raw", "are no measurement"),
        (b"1 2\n" * 600_000, "a.xy", "600,000 lines, at most 500,000"),
        (
            b"<xrdMeasurements>" + b"<a>" * 1000,
            "a.xrdml",
            "1001 elements deep, at most 100",
        ),
        (b"<xrdMeasurements>" + b"<a/>" * 1_600_000, "a.xrdml", "1,600,001 marks"),
    ],
)
def test_file_that_cannot_be_read_says_why(read, data, name, message):
    with pytest.raises(ValueError, match=message):
        read(data, name, "CuKa")


# fuzz


def truncated(data, rng):
    return data[: rng.randrange(len(data))]


def swapped(data, rng):
    data = bytearray(data)
    for _ in range(rng.choice((1, 20, 300))):
        data[rng.randrange(len(data))] = rng.randrange(256)
    return bytes(data)


def absurd(data, rng):
    """Numbers of a header replaced by huge, negative or no ones."""
    data = bytearray(data)
    for _ in range(rng.choice((1, 5))):
        place = rng.randrange(min(max(len(data) - 8, 1), 1200))
        data[place : place + 4] = rng.choice(
            (
                b"\xff\xff\xff\xff",
                b"\xff\xff\xff\x7f",
                b"\0\0\xc0\x7f",
                b"9e99",
                b"\0\0\0\0",
            )
        )
    return bytes(data)


def overflowing(data, rng):
    """Some numbers of a text replaced by those that are none, or not whole, or huge."""
    places = list(re.finditer(rb"(?<![\w.])\d+(?:\.\d+)?(?![\w.])", data[:4000]))
    for place in sorted(rng.sample(places, min(len(places), 3)), key=lambda p: -p.start()):
        word = rng.choice((b"1e999", b"-1e999", b"nan", b"-1", b"0.5", b"9" * 400))
        data = data[: place.start()] + word + data[place.end() :]
    return data


def repacked(data, rng):
    """The members of a zip damaged one by one; a zip made of anything else."""
    try:
        archive = zipfile.ZipFile(io.BytesIO(data))
    except zipfile.BadZipFile:
        return named({"a": swapped(data, rng), "b/../../c": truncated(data, rng)})
    damage = rng.choice((truncated, swapped, absurd, entities, overflowing))
    return named({name: damage(archive.read(name), rng) for name in archive.namelist()})


def entities(data, rng):
    """A document type whose entities grow, before the root or within text."""
    grow = "".join(f'<!ENTITY e{i + 1} "{f"&e{i};" * 10}">' for i in range(9))
    dtd = f'<!DOCTYPE a [<!ENTITY e0 "xxxxxxxxxx">{grow}]>'.encode()
    place = data.find(b"?>") + 2 if rng.random() < 0.7 else rng.randrange(len(data))
    return data[:place] + dtd + b"&e9;" + data[place:]


def bombed(data, rng):
    """A zip of one repeated byte or line under a name that a reader looks for."""
    name = rng.choice(("RawData0.xml", "Data0/Profile0.txt", "a.xy"))
    return named({name: rng.choice((b"0", b"<a>", b"1 2\n")) * 4_000_000})


def nested(data, rng):
    depth = rng.choice((1_000, 200_000))
    return b"<xrdMeasurements>" + b"<a>" * depth + b"</a>" * rng.choice((depth, 0))


def repeated(data, rng):
    """A long line of the same kind, where searching could take for ever."""
    return rng.choice(
        (b"\n", b" ", b"weights ", b"1.", b"Cu ", b'"', b"1,", b"wl1 ", b"-")
    ) * (1_500_000)


DAMAGES = (truncated, swapped, absurd, repacked, entities, bombed, nested, repeated)
SUFFIXES = ("xrdml", "brml", "raw", "uxd", "ras", "rasx", "asc", "zip", "xy", "cif", "gsas")


def text_samples():
    rows = "\n".join(f"{a:.2f} {v}" for a, v in zip(ANGLES, COUNTS, strict=True))
    head = "data_a\nloop_\n_pd_meas_2theta_scan\n_pd_meas_counts_total\n"
    triples = "\n".join(f"{100 * a:.1f} {v} 1" for a, v in zip(ANGLES, COUNTS, strict=True))
    bank = f"title\nBANK 1 {COUNT} {COUNT} CONST 1000 2 0 0 FXYE\n"
    return [text.encode() for text in (rows, head + rows, bank + triples)]


def cases():
    """Every damage of every format, some several times; 20 damages of any again."""
    rng = random.Random(0)
    samples = [write() for write in WRITERS.values()] + text_samples()
    often = {truncated: 7, swapped: 7, absurd: 5, overflowing: 4, repacked: 4, entities: 1}
    for sample, (damage, times) in itertools.product(samples, often.items()):
        for _ in range(times):
            yield damage(sample, rng), rng.choice(SUFFIXES)
    for damage in (bombed, nested, repeated):
        for _ in range(4):
            yield damage(b"", rng), rng.choice(SUFFIXES)


@pytest.mark.filterwarnings("error")
def test_damaged_files_are_read_or_refused_in_one_sentence_and_in_time(read):
    count = 0
    for data, suffix in cases():
        begin = time.process_time()
        try:
            read(data, f"a.{suffix}", "CuKa")
        except OverflowError as error:
            pytest.fail(f"a.{suffix}: {error!r} instead of a sentence")
        except ValueError as error:
            message = str(error)
            assert not message.startswith("cannot convert"), message
            assert len(message) < 400, message
            assert "\n" not in message, message
            assert "  " not in message, message
        assert time.process_time() - begin < 5, (suffix, data[:80])
        count += 1
    assert count >= 200
