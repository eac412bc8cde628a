import csv
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from xrdkit import pattern
from xrdkit.types import Pattern, Radiation

DATA = Path(__file__).parent / "data"
LINES = (12, 21, 25, 30, 34, 38, 39.2, 44, 50, 55, 57, 61, 64, 70, 75, 80, 86)


def lines_at(x, positions, height, fwhm):
    """Pseudo-Voigt lines, half Lorentz and half Gauss; ``fwhm`` in ° at each position."""
    y = np.zeros_like(x)
    for p, w in zip(positions, np.broadcast_to(fwhm, len(positions)), strict=True):
        t = (x - p) / w
        y += height * (0.5 * np.exp(-4 * np.log(2) * t * t) + 0.5 / (1 + 4 * t * t))
    return y


def simulated(fwhm=0.2, doublet=False, step=0.02, positions=LINES, seed=0):
    """Counts, clean lines and background of a pattern with air scatter and a hump."""
    x = np.arange(10, 90, step)
    positions = np.array(positions, float)
    clean = lines_at(x, positions, 3000, fwhm)
    if doublet:
        sine = np.sin(np.radians(positions / 2)) * 1.544427 / 1.540593
        clean += 0.5 * lines_at(x, 2 * np.degrees(np.arcsin(sine)), 3000, fwhm)
    base = 200 + 900 * np.exp(-(x - 10) / 4) + 150 * np.exp(-(((x - 25) / 8) ** 2))
    y = np.random.default_rng(seed).poisson(clean + base).astype(float)
    beam = pattern.radiation("CuKa" if doublet else "CuKa1")
    return Pattern(x, y, beam, np.sqrt(np.maximum(y, 1)), "counts"), clean, base


def table(tmp_path, text, name="a.xy", wavelength=1.5406, encoding="utf-8"):
    path = tmp_path / name
    path.write_bytes(text.encode(encoding))
    return pattern.read(path, wavelength)


def rows(form="{:.2f} {:.1f}", n=40):
    return [form.format(10 + 0.1 * i, 5.5 + (i % 7)) for i in range(n)]


# reading


@pytest.mark.parametrize("name", ["si.xy", "si.gsas", "si.fxye", "si_pd.cif"])
def test_all_formats_hold_the_same_pattern(name):
    here, text = pattern.read(DATA / name), pattern.read(DATA / "si.xy")
    np.testing.assert_allclose(here.two_theta, text.two_theta)
    np.testing.assert_allclose(here.intensity, text.intensity)
    assert here.radiation.main == pytest.approx(1.540593)
    assert here.warnings == ()


def test_silicon_111_is_found_at_its_known_angle():
    peaks = pattern.find_peaks(pattern.prepare(pattern.read(DATA / "si.xy")))
    np.testing.assert_allclose(
        peaks.two_theta, [28.44, 47.30, 56.12, 69.13, 76.37], atol=0.03
    )
    assert peaks.fwhm == pytest.approx(0.3, rel=0.2)


def test_where_standard_deviations_come_from_is_kept():
    assert pattern.read(DATA / "si.xy").sigma_source == "counts"
    assert pattern.read(DATA / "si.fxye").sigma_source == "given"
    cif = pattern.read(DATA / "si_pd.cif")
    assert cif.sigma_source == "given"
    assert cif.sigma[0] == 7


def test_cif_with_both_lines_gives_the_doublet():
    beam = pattern.read(DATA / "si_pd.cif").radiation
    assert beam.wavelengths == (1.540593, 1.544427)
    assert beam.weights == pytest.approx((2 / 3, 1 / 3))
    assert beam.kalpha2


def test_cif_range_takes_the_place_of_angles(tmp_path):
    values = "\n".join(f"{100 + i % 9}" for i in range(41))
    head = "".join(
        f"_pd_meas_2theta_range_{end} {value}\n"
        for end, value in (("min", 10), ("max", 14), ("inc", 0.1))
    )
    text = f"data_a\n_diffrn_radiation_wavelength 0.7\n{head}loop_\n_pd_meas_counts_total\n"
    found = table(tmp_path, text + values, "a.cif", None)
    assert found.two_theta[[0, -1]] == pytest.approx([10, 14])
    assert found.radiation.kalpha2 is None


@pytest.mark.parametrize(
    ("form", "encoding"),
    [
        ("{:.2f} {:.1f}", "utf-8"),
        ("{:.2f},{:.1f}", "utf-8-sig"),
        ("{:.2f}\t{:.1f}", "utf-16"),
        ("  {:.2f} ; {:.1f}", "latin-1"),
        ('"{:.2f}" "{:.1f}"', "ascii"),
        ("{:.4e} {:.2E}", "utf-8"),
    ],
)
def test_text_dialects_give_the_same_numbers(tmp_path, form, encoding):
    head = "# a remark\n; one more\n! and one\n2theta intensity\n\n"
    found = table(tmp_path, head + "\r\n".join(rows(form)), encoding=encoding)
    assert found.two_theta[:2] == pytest.approx([10, 10.1])
    assert found.intensity[:2] == pytest.approx([5.5, 6.5])


@pytest.mark.parametrize("separator", [" ", ";", "\t", " ; "])
def test_decimal_comma_is_understood(tmp_path, separator):
    text = "\n".join(rows("{:.2f}" + separator + "{:.1f}")).replace(".", ",")
    assert table(tmp_path, text).intensity[0] == 5.5


def test_descending_angles_are_turned_round(tmp_path):
    found = table(tmp_path, "\n".join(reversed(rows())))
    assert (np.diff(found.two_theta) > 0).all()
    assert found.intensity[0] == 5.5


def test_repeated_angles_are_averaged_with_a_warning(tmp_path):
    found = table(tmp_path, "\n".join([*rows(), "10.00 9.5"]))
    assert found.intensity[0] == 7.5
    assert "1 repeated angles averaged" in found.warnings


def test_negative_intensities_are_allowed_and_are_no_counts(tmp_path):
    text = "\n".join(f"{10 + 0.1 * i:.1f} {i % 7 - 2}" for i in range(40))
    found = table(tmp_path, text)
    assert found.intensity.min() == -2
    assert found.sigma_source == "unknown"
    assert found.sigma is None


def test_third_column_equal_to_the_intensity_is_not_its_deviation(tmp_path):
    text = "\n".join(f"{10 + 0.1 * i:.1f} {900 + i % 7} {901 + i % 7}" for i in range(40))
    found = table(tmp_path, text)
    assert found.sigma is None
    assert "third column ignored" in found.warnings[0]


def test_scaled_intensities_are_not_taken_for_counts(tmp_path):
    counts = pattern.read(DATA / "si.xy")
    scaled = np.round(counts.intensity * 10_000 / counts.intensity.max())
    text = "\n".join(
        f"{a:.2f} {b:.0f}" for a, b in zip(counts.two_theta, scaled, strict=True)
    )
    assert table(tmp_path, text).sigma_source == "unknown"


def test_zeros_behind_the_end_of_a_scan_are_cut_off(tmp_path):
    text = "\n".join([*rows(), "14.0 0", "14.1 0", "14.2 0"])
    found = table(tmp_path, text)
    assert found.two_theta[-1] == pytest.approx(13.9)
    assert "3 points of zero" in found.warnings[0]


def test_gsas_constant_steps_are_centidegrees_and_detectors_count(tmp_path):
    fields = "".join(f"{2:2d}{100 + i % 9:6d}" + "\n" * (i % 10 == 9) for i in range(40))
    found = table(tmp_path, f"title\nBANK 1 40 4 CONST 1500 2.5 0 0 STD\n{fields}", "a.gsa")
    assert found.two_theta[:2] == pytest.approx([15, 15.025])
    assert found.sigma[0] == pytest.approx(50**0.5)
    assert found.sigma_source == "given"


def test_gsas_esd_records_are_pairs(tmp_path):
    fields = "".join(f"{100 + i:8.1f}{5:8.1f}" + "\n" * (i % 5 == 4) for i in range(40))
    found = table(tmp_path, f"title\nBANK 1 40 8 CONST 1500 2 0 0 ESD\n{fields}", "a.raw")
    assert found.intensity[:2] == pytest.approx([100, 101])
    assert found.sigma[0] == 5


@pytest.mark.parametrize(
    ("header", "wavelengths", "kalpha2"),
    [
        ("# wavelength = 1.5406", (1.5406,), None),
        ("# Lambda: 0.4136", (0.4136,), None),
        ("# Wavelength: 4.136e-11 m", (0.4136,), None),
        ("# wavelength 0.15406 nm", (1.5406,), None),
        ("# lambda: 1,5406", (1.5406,), None),
        ("! Cu Ka", (1.540593, 1.544427), True),
        ("; measured with Co Kα1 at home", (1.788996,), False),
        ("Anode: Cu", (1.540593,), None),
        ("Anode material,Mo", (0.709317,), None),
        (
            "K-Alpha1 wavelength,1.54060\nK-Alpha2 wavelength,1.54443",
            (1.5406, 1.54443),
            True,
        ),
        ("_WL1=1.5406", (1.5406,), None),
    ],
)
def test_header_tells_the_radiation(tmp_path, header, wavelengths, kalpha2):
    beam = table(tmp_path, "\n".join([header, *rows()]), wavelength=None).radiation
    assert beam.wavelengths == pytest.approx(wavelengths)
    assert beam.kalpha2 is kalpha2


def test_given_wavelength_wins_and_contradiction_is_a_warning(tmp_path):
    text = "\n".join(["# Cu Ka", *rows()])
    found = table(tmp_path, text, wavelength="CoKa")
    assert found.radiation.name == "CoKa"
    assert found.warnings == (
        "wavelength 1.789 Å as given is used; the file says 1.54059 Å",
    )
    assert table(tmp_path, text, wavelength=1.5418).warnings == ()


def test_written_pattern_reads_back(tmp_path):
    one, _, _ = simulated(doublet=True)
    one = replace(one, sigma_source="given")
    pattern.write(one, tmp_path / "a.xye")
    two = pattern.read(tmp_path / "a.xye")
    np.testing.assert_allclose(two.intensity, one.intensity)
    np.testing.assert_allclose(two.sigma, one.sigma, rtol=1e-6)
    assert two.radiation.wavelengths == one.radiation.wavelengths
    assert two.radiation.weights == pytest.approx(one.radiation.weights, abs=1e-5)
    assert [path.name for path in tmp_path.iterdir()] == ["a.xye"]


# errors of reading


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is empty"),
        ("\x00\x01\x02", "binary file"),
        ("<?xml version='1.0'?>", "is XML"),
        ("\n".join(rows("{:.2f}")), "1 columns found"),
        ("\n".join(f"{row} 1 2" for row in rows()), "4 columns found"),
        ("only words\nand more", "no columns of numbers"),
        ("\n".join([*rows(), "14.0 nan"]), "1 points that are NaN"),
        ("\n".join(rows("{:.2f} 0")), "only zero intensities"),
        ("\n".join(rows("{:.2f} 7")), "same intensity 7 everywhere"),
        ("\n".join(rows(n=20)), "20 points, at least 30"),
        ("\n".join(f"-{row}" for row in rows()), "2θ must be within 0–180°"),
        ("\n".join(rows("9{:.2f} {:.1f}")), "2θ must be within 0–180°"),
        ("\n".join(["# q_A^-1 I", *rows()]), "first column 'q_A^-1 I' is not 2θ"),
        ("\n".join(["d (Å), intensity", *rows()]), "is not 2θ"),
        ("\n".join([*rows(), *rows(), *rows()]), "most angles occur twice"),
        (
            "\n".join(row + " 1" * (i % 2) for i, row in enumerate(rows())),
            "lines have other",
        ),
        ("BANK 1 40 4 SLOG 1500 2 0 0 STD\n1 2", "is not read; use STD, ESD or FXYE"),
        ("data_a\n_cell_length_a 5\n", "no powder pattern"),
        ("data_a\nloop_\n_pd_meas_counts_total\n1\n2\n3\n", "no 2θ for them"),
        ("data_a\n_x 'open\n", "CIF is not valid"),
    ],
)
def test_file_that_cannot_be_used_is_refused_in_a_sentence(tmp_path, text, message):
    with pytest.raises(ValueError, match=message.replace("^", r"\^").replace("(", r"\(")):
        table(tmp_path, text)


def test_missing_wavelength_is_an_error_not_a_guess(tmp_path):
    with pytest.raises(ValueError, match="does not say its wavelength; give"):
        table(tmp_path, "\n".join(rows()), wavelength=None)


def test_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"there is no file .*none\.xy"):
        pattern.read(tmp_path / "none.xy", 1.54)


def test_huge_file_is_refused_unread(tmp_path):
    path = tmp_path / "a.xy"
    with path.open("wb") as file:
        file.truncate(21_000_000)
    with pytest.raises(ValueError, match="21 MB, at most 20 MB"):
        pattern.read(path, 1.54)


# radiation


@pytest.mark.parametrize("name", ["CuKa", "cu", "Cu Kα", "CuKα1,2", "cu-k-alpha"])
def test_names_of_the_copper_doublet_mean_the_same(name):
    beam = pattern.radiation(name)
    assert beam == Radiation(
        (1.540593, 1.544427), (2 / 3, 1 / 3), kalpha2=True, name="CuKa"
    )


def test_single_line_number_and_pair_are_told_apart():
    assert pattern.radiation("Cu Kα1").kalpha2 is False
    assert pattern.radiation(1.5406).kalpha2 is None
    assert pattern.radiation("1.5406").wavelengths == (1.5406,)
    assert pattern.radiation((0.7093, 0.71359)).weights == (2 / 3, 1 / 3)
    assert pattern.radiation(pattern.radiation("Mo")).name == "MoKa"


def test_only_tubes_are_unpolarised():
    assert pattern.radiation(1.5418).polarisation == 0.5
    assert pattern.radiation(0.4136).polarisation == 0.95


@pytest.mark.parametrize("element", ["Cr", "Fe", "Co", "Cu", "Mo", "Ag"])
def test_wavelengths_agree_with_pymatgen(element):
    from pymatgen.analysis.diffraction.xrd import WAVELENGTHS

    ours = pattern.radiation(element).wavelengths
    theirs = [WAVELENGTHS[f"{element}Ka{line}"] for line in (1, 2)]
    assert ours == pytest.approx(theirs, rel=5e-5)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (0.154, "0.154 looks like nm: 0.154 nm -> 1.54 Å"),
        (0.07107, "looks like nm"),
        ("0.15406 nm", "looks like nm"),
        (8.048, "8.048 looks like keV: 8.048 keV -> 1.5406 Å"),
        ("12.4 keV", "looks like kev"),
        (8048, "looks like eV"),
        (154.06, "looks like pm: 154.06 pm -> 1.5406 Å"),
        (-1.0, "not positive"),
        (float("nan"), "not positive"),
        ("Zn", "'Zn' is not known; give CrKa, FeKa, CoKa, CuKa, MoKa, AgKa"),
        ((1.54, 0.7), "not a Kα doublet"),
        (0.01, "outside 0.05–5"),
    ],
)
def test_wrong_wavelength_says_what_it_looks_like(spec, message):
    with pytest.raises(ValueError, match=message):
        pattern.radiation(spec)


@pytest.mark.parametrize(
    ("spec", "names"),
    [
        (1.5406, ["", "CuKa"]),
        (1.5418, ["", "CuKa"]),
        (1.7903, ["", "CoKa"]),
        (1.55, [""]),
        (0.4136, [""]),
        ("CuKa", ["CuKa"]),
        ("CuKa1", ["CuKa1"]),
    ],
)
def test_kalpha2_is_tried_where_a_number_leaves_it_open(spec, names):
    choices = pattern.radiation_choices(pattern.radiation(spec))
    assert [beam.name for beam in choices] == names
    assert all(beam.kalpha2 is not None for beam in choices)


# cutting


def test_crop_and_exclude_keep_track_of_the_ranges():
    one, _, _ = simulated()
    two = pattern.exclude(pattern.crop(one, 15, 60), (20, 22), (58, 70))
    assert two.ranges == ((15, 20), (22, 58))
    assert len(two.sigma) == len(two)
    assert not ((two.two_theta > 20) & (two.two_theta < 22)).any()
    with pytest.raises(ValueError, match="range 20–10° is empty"):
        pattern.crop(one, 20, 10)
    with pytest.raises(ValueError, match="no points are left, at least 30 are needed"):
        pattern.crop(one, 100, 120)


# background


@pytest.mark.parametrize(("fwhm", "step"), [(0.08, 0.01), (0.2, 0.02), (0.5, 0.05)])
def test_background_follows_air_scatter_and_hump_but_not_lines(fwhm, step):
    one, clean, base = simulated(fwhm, step=step)
    found = pattern.background(one)
    assert np.sqrt(np.mean((found - base) ** 2)) < 0.02 * clean.max()
    tops = np.searchsorted(one.two_theta, LINES)
    assert ((one.intensity - found)[tops] > 0.9 * clean[tops]).all()


def test_broad_lines_are_not_eaten():
    one, clean, _ = simulated(1.5, positions=(15, 24, 38, 47, 55, 64, 75))
    left = one.intensity - pattern.background(one)
    tops = np.searchsorted(one.two_theta, (24, 38, 47, 55, 64, 75))
    assert (left[tops] > 0.9 * clean[tops]).all()
    assert left.sum() > 0.85 * clean.sum()


def test_valley_between_overlapping_lines_is_not_filled():
    one, clean, _ = simulated(0.4, positions=(20, 40, 40.6, 41.1, 41.7, 60, 80))
    left = one.intensity - pattern.background(one)
    inside = (one.two_theta > 40) & (one.two_theta < 41.7)
    np.testing.assert_allclose(left[inside].mean(), clean[inside].mean(), rtol=0.05)


def test_calculated_pattern_on_zero_is_left_unharmed():
    x = np.arange(10, 90, 0.02)
    y = sum(500 * np.exp(-4 * np.log(2) * ((x - p) / 0.2) ** 2) for p in LINES)
    y[y < 1e-3] = 0
    done = pattern.prepare(Pattern(x, y, pattern.radiation("CuKa1")))
    np.testing.assert_allclose(done.intensity, y / y.max(), atol=1e-12)


def test_lorentz_tails_without_background_lose_little():
    x = np.arange(10, 90, 0.02)
    y = lines_at(x, LINES, 1.0, 0.1)
    left = y - pattern.background(Pattern(x, y, pattern.radiation("CuKa1")))
    assert abs(left - y).max() < 0.02


def test_prepared_pattern_has_its_maximum_at_one_on_one_scale():
    one, _, _ = simulated()
    two = pattern.prepare(one)
    assert two.prepared
    assert two.intensity.max() == 1
    part = np.isin(one.two_theta, two.two_theta)
    scale = one.sigma[part][5] / two.sigma[5]
    raw = scale * (two.intensity + two.background)
    np.testing.assert_allclose(raw, one.intensity[part])
    assert pattern.prepare(two) is two


def test_preparing_does_not_depend_on_the_scale_of_the_intensities():
    one, _, _ = simulated()
    one = replace(one, sigma=None, sigma_source="unknown")
    two = replace(one, intensity=one.intensity * 100)
    first, second = pattern.prepare(one), pattern.prepare(two)
    np.testing.assert_allclose(first.intensity, second.intensity, atol=0.01)


def test_single_spike_does_not_set_the_scale():
    one, _, _ = simulated()
    y = one.intensity.copy()
    y[2500] = 90_000
    two = pattern.prepare(replace(one, intensity=y))
    assert "single-point spikes at 60.00°" in two.warnings[0]
    np.testing.assert_allclose(two.intensity, pattern.prepare(one).intensity, atol=0.05)


def test_low_angle_tail_is_cut_off_with_a_warning():
    one, _, _ = simulated(positions=LINES[1:])
    y = one.intensity + 9000 * np.exp(-(one.two_theta - 10) / 2)
    two = pattern.prepare(replace(one, intensity=y))
    assert 12 < two.two_theta[0] < 20
    assert two.ranges[0][0] == pytest.approx(two.two_theta[0])
    assert "low-angle tail below" in two.warnings[-1]


def test_noise_alone_is_refused_for_want_of_peaks():
    x = np.arange(10, 90, 0.02)
    y = np.random.default_rng(2).poisson(100, len(x)).astype(float)
    with pytest.raises(ValueError, match=r"shows \d peaks above its noise, at least 3"):
        pattern.prepare(Pattern(x, y, pattern.radiation("CuKa")))


# peaks


@pytest.mark.parametrize("doublet", [False, True])
def test_every_line_is_found_once_and_nothing_else(doublet):
    one, _, _ = simulated(0.1, doublet)
    peaks = pattern.find_peaks(pattern.prepare(one))
    np.testing.assert_allclose(peaks.two_theta, LINES, atol=0.03)


def test_areas_are_in_proportion_to_the_lines():
    one, _, _ = simulated(0.3, positions=(20, 30, 40, 50, 60, 70))
    peaks = pattern.find_peaks(pattern.prepare(one))
    assert peaks.area == pytest.approx(peaks.area.mean(), rel=0.1)
    expected = 0.3 * (0.5 * np.sqrt(np.pi / np.log(2)) / 2 + 0.5 * np.pi / 2)
    assert peaks.area == pytest.approx(expected * peaks.height, rel=0.15)


@pytest.mark.parametrize("doublet", [False, True])
@pytest.mark.parametrize(("a", "b"), [(0.08, 0.05), (0.1, 0.1), (0.3, 0.2)])
def test_typical_width_is_that_of_the_single_line(a, b, doublet):
    width = np.hypot(a, b * np.tan(np.radians(np.array(LINES) / 2)))
    one, _, _ = simulated(width, doublet)
    found_a, found_b = pattern.typical_fwhm(pattern.prepare(one))
    tangent = np.tan(np.radians(25))
    found, true = np.hypot(found_a, found_b * tangent), np.hypot(a, b * tangent)
    assert found == pytest.approx(true, rel=0.15)


def test_width_of_few_lines_is_constant():
    one, _, _ = simulated(0.25, positions=(30, 50, 70))
    a, b = pattern.typical_fwhm(pattern.prepare(one))
    assert a == pytest.approx(0.25, rel=0.1)
    assert b == 0


def test_noise_is_estimated_as_poisson_noise_where_sigma_is_unknown():
    one, clean, _ = simulated()
    bare = pattern.prepare(replace(one, sigma=None, sigma_source="unknown"))
    known = pattern.prepare(one)
    quiet = np.interp(known.two_theta, one.two_theta, clean) < 5
    ratio = pattern.noise(bare)[quiet] / known.sigma[quiet]
    assert np.median(ratio) == pytest.approx(1, abs=0.15)


def test_peaks_need_a_prepared_pattern():
    with pytest.raises(ValueError, match="call prepare first"):
        pattern.find_peaks(simulated()[0])


# measured patterns


def measured(shared):
    index = (shared / "measured" / "index.csv").read_text(encoding="utf-8").splitlines()
    return list(csv.DictReader(index))


@pytest.mark.slow
def test_all_measured_patterns_can_be_read(shared):
    index = measured(shared)
    for row in index:
        path = shared / "measured" / f"{row['id']}.xy"
        one = pattern.read(path, float(row["wavelength_A"]))
        assert len(one) > 500
        if row["id"].startswith("powdr"):
            assert one.sigma_source == "unknown"
    assert len(index) == 203


@pytest.mark.slow
def test_measured_patterns_can_be_prepared(shared):
    for row in measured(shared)[::4]:
        path = shared / "measured" / f"{row['id']}.xy"
        one = pattern.prepare(pattern.read(path, float(row["wavelength_A"])))
        a, b = pattern.typical_fwhm(one)
        assert np.isfinite(one.intensity).all()
        assert 0.01 <= a <= 2
        assert 0 <= b <= 2


def test_background_of_a_steep_real_pattern_leaves_its_gaps_flat(shared):
    path = shared / "measured" / "powdr_D5000_goethite.xy"
    one = pattern.prepare(pattern.read(path, "CoKa"))
    gap = one.intensity[(one.two_theta > 8) & (one.two_theta < 19)]
    assert abs(gap[:200].mean()) < 0.01
    assert abs(gap[-200:].mean()) < 0.01


@pytest.mark.parametrize(
    ("name", "points", "first", "last"),
    [("FAP.XRA", 5753, 15, 130.04), ("PBSO4.XRA", 6001, 10, 160)],
)
def test_gsas_files_of_others_are_read(shared, name, points, first, last):
    one = pattern.read(shared / "rietveld" / name, "CuKa")
    assert len(one) == points
    assert one.two_theta[[0, -1]] == pytest.approx([first, last])
    assert one.sigma_source == "counts"


def test_angles_in_radians_and_few_points_are_refused():
    x = np.linspace(0.1, 1.4, 400)
    radians = Pattern(
        x, np.exp(-(((x - 0.7) / 0.01) ** 2)) + 0.1, pattern.radiation("CuKa")
    )
    with pytest.raises(ValueError, match=r"angles up to 1\.4: radians"):
        pattern.prepare(radians)
    few = replace(radians, two_theta=20 + x[:20], intensity=radians.intensity[:20])
    with pytest.raises(ValueError, match="20 points are left, at least 30 are needed"):
        pattern.prepare(replace(few, ranges=((20.1, 20.2),)))
    whole = replace(radians, two_theta=50 * x, ranges=((5.0, 70.0),))
    with pytest.raises(ValueError, match="at least 30 are needed; the pattern spans 5–70°"):
        pattern.exclude(whole, (5.5, 80))


@pytest.mark.parametrize(
    ("wavelength", "geometry"),
    [("CuKa", "bragg-brentano"), (0.4137, "debye-scherrer")],
)
def test_a_beam_that_is_no_tubes_does_not_fall_on_a_flat_sample(
    tmp_path, wavelength, geometry
):
    x = np.linspace(5, 40, 500)
    np.savetxt(tmp_path / "a.xy", np.column_stack([x, 100 + x]))
    assert pattern.read(tmp_path / "a.xy", wavelength).instrument.geometry == geometry
