"""What a user sees of a refinement: CIF, page, text, CSV, notebook."""

import csv
import re
from dataclasses import replace

import gemmi
import numpy as np
import pytest
from pymatgen.analysis.structure_matcher import StructureMatcher
from pymatgen.core import Lattice, Structure
from pymatgen.io.cif import CifParser
from test_report import EVIL, Page, fit_of
from textbook import STRUCTURES, build, cell

from xrdkit.crystal import from_structures
from xrdkit.refine.rietveld import pawley, refine
from xrdkit.refine.rietveld.asymmetric import asymmetric_unit
from xrdkit.refine.rietveld.geometry import with_esd
from xrdkit.refine.rietveld.start import first_table
from xrdkit.report import (
    cif_text,
    parameter_rows,
    refinement_text,
    write_cif,
    write_html,
    write_parameters,
    write_refinement,
)
from xrdkit.report.cif_words import plain
from xrdkit.report.curves import gaps, smooth_background
from xrdkit.report.pdcif import convention
from xrdkit.report.setting import Setting, reference_setting, settings_of
from xrdkit.simulate import pattern_of
from xrdkit.space_group import reference_hall
from xrdkit.types import Fit, Instrument, Pattern, Radiation

COPPER = Radiation((1.540593, 1.544427), (2 / 3, 1 / 3), name="CuKa", kalpha2=True)
RUTILE = build(136, cell(4.594, 4.594, 2.959), [("Ti", 0, 0, 0), ("O", 0.305, 0.305, 0)])
SALT = build(225, cell(5.640), [("Na", 0, 0, 0), ("Cl", 0.5, 0.5, 0.5)])
SAME = StructureMatcher(ltol=1e-4, stol=1e-3, angle_tol=0.01, scale=False)
FACTORS = {
    "r_p": "_pd_proc_ls_prof_R_factor",
    "r_wp": "_pd_proc_ls_prof_wR_factor",
    "r_exp": "_pd_proc_ls_prof_wR_expected",
    "r_bragg": "_refine_ls_R_I_factor",
}


def counted(*structures: Structure) -> Pattern:
    """Poisson counts of a mixture of structures on a background, as a file gives them."""
    noise = np.random.default_rng(4)
    grid, shape = (22.0, 70.0, 1201), Instrument(w=0.02)
    parts = [
        pattern_of(from_structures([s]), COPPER, two_theta=grid, instrument=shape)
        for s in structures
    ]
    x = parts[0].two_theta
    total = 60 + 0.3 * (70 - x) + 3000 * sum(part.intensity for part in parts)
    y = noise.poisson(total).astype(float)
    sigma = np.sqrt(np.maximum(y, 1))
    return Pattern(x, y, COPPER, sigma, "counts", instrument=shape, name="sample")


@pytest.fixture(scope="module")
def rutile() -> Fit:
    return refine(counted(RUTILE), RUTILE, background=3, texture=None)


@pytest.fixture(scope="module")
def mixture() -> Fit:
    pattern = counted(RUTILE, SALT)
    return refine(
        pattern, RUTILE, phases=[SALT], background=3, texture=None, exclude=[(50, 52)]
    )


@pytest.fixture(scope="module")
def cell_fit() -> Fit:
    return pawley(counted(RUTILE), (4.594, 4.594, 2.959, 90, 90, 90), 136, background=3)


def block_of(text: str) -> gemmi.cif.Block:
    return gemmi.cif.read_string(text)[0]


def number(text: str) -> tuple[float, float]:
    """Value and e.s.d. of a CIF number, by the definition of its notation."""
    value, esd = re.fullmatch(r"(-?[\d.]+)(?:\((\d+)\))?", text).groups()
    places = len(value.partition(".")[2])
    return float(value), float(esd or 0) * 10.0**-places


@pytest.mark.parametrize(
    ("value", "esd", "said"),
    [
        (4.59372, 0.00021, "4.5937(2)"),
        (4.59372, 0.000194, "4.59372(19)"),
        (90.0, 0.0, "90.00000"),
        (1234.4, 57.0, "1234(57)"),
        (-0.00004, 0.0003, "-0.0000(3)"),
    ],
)
def test_values_stand_with_esds_of_two_to_nineteen(value, esd, said):
    setting = replace(reference_setting(RUTILE), esds={"a": esd} if esd else {})
    assert setting.shown("a", value, 5) == said


# CIF


def test_cif_has_the_esds_of_the_fit(rutile):
    block = block_of(cif_text(rutile, "rutile"))
    for item, name in (("length_a", "a"), ("length_b", "b"), ("volume", "volume")):
        value, esd = number(block.find_value(f"_cell_{item}"))
        assert value == pytest.approx(rutile.values[name], abs=esd)
        assert esd == pytest.approx(rutile.uncertainties[name], rel=0.3)
    assert block.find_value("_cell_angle_alpha") == "90.00000"
    sites = block.find("_atom_site_", ["label", "fract_x", "fract_z", "U_iso_or_equiv"])
    rows = {row[0]: row for row in sites}
    assert number(rows["Ti1"][1]) == (0, 0)
    assert number(rows["O1"][2]) == (0, 0)
    value, esd = number(rows["O1"][1])
    assert value == pytest.approx(rutile.values["x:O1"], abs=esd)
    assert esd == pytest.approx(rutile.uncertainties["x:O1"], rel=0.3)
    assert number(rows["O1"][3])[1] > 0


@pytest.mark.filterwarnings("ignore:Issues encountered:UserWarning")
def test_cif_is_read_by_pymatgen_and_gemmi_as_the_structure_of_the_fit(rutile, tmp_path):
    path = write_cif(rutile, tmp_path / "a.cif", profile=True)
    assert SAME.fit(Structure.from_file(path), rutile.structure)
    small = gemmi.read_small_structure(str(path))
    assert small.check_spacegroup() == ""
    assert small.spacegroup.number == 136
    assert len(small.get_all_unit_cell_sites()) == len(rutile.structure)
    np.testing.assert_allclose(
        small.cell.parameters, rutile.structure.lattice.parameters, atol=2e-4
    )
    assert path.read_text().isascii()


def test_cif_says_r_values_counts_range_and_conventions(rutile):
    block = block_of(cif_text(rutile, "rutile"))
    for key, item in FACTORS.items():
        assert float(block.find_value(item)) == pytest.approx(
            rutile.r_values[key] / 100, abs=6e-6
        )
    gof = float(block.find_value("_refine_ls_goodness_of_fit_all"))
    assert gof == pytest.approx(rutile.r_values["gof"], abs=6e-5)
    assert int(block.find_value("_refine_ls_number_parameters")) == rutile.n_parameters
    assert block.find_value("_pd_proc_number_of_points") == "1201"
    assert block.find_value("_pd_meas_2theta_range_inc") == "0.04"
    assert block.find_value("_refine_ls_weighting_scheme") == "sigma"
    said = {
        word: " ".join(gemmi.cif.as_string(block.find_value(f"_pd_proc_ls_{word}")).split())
        for word in ("profile_function", "background_function", "special_details")
    }
    assert "Thompson, Cox & Hastings" in said["profile_function"]
    assert said["background_function"].count("(") >= 3
    assert "multiplied by the goodness of fit" in said["special_details"]
    assert block.find_value("_pd_proc_ls_pref_orient_corr") is None
    assert block.find_value("_pd_proc_info_excluded_regions") is None
    other = cif_text(replace(rutile, esd="statistical"), "rutile")
    assert "multiplied" not in other


def test_esds_of_a_pattern_without_sigma_are_said_to_be_from_its_scatter(rutile):
    for esd in ("gof", "statistical", "berar-lelann"):
        said = convention(replace(rutile, sigma=None, esd=esd))
        assert "scatter of the intensities about the fit" in said
        assert "goodness of fit" not in said
        assert ("Berar" in said) == (esd == "berar-lelann")
    assert "statistics of the intensities alone, multiplied by the g" in convention(rutile)


def test_curves_of_the_cif_give_the_r_values(rutile):
    block = block_of(cif_text(rutile, "rutile", profile=True))
    names = ("_pd_meas_2theta_scan", "_pd_meas_counts_total", "_pd_calc_intensity_total",
             "_pd_proc_intensity_bkg_calc", "_pd_proc_ls_weight")  # fmt: skip
    x, y, calculated, base, w = (np.array(block.find_values(name), float) for name in names)
    assert len(x) == len(y) == len(calculated) == len(base) == len(w) == 1201
    np.testing.assert_allclose(x, rutile.two_theta, atol=1e-5)
    r_wp = np.sqrt((w * (y - calculated) ** 2).sum() / (w * y**2).sum())
    expected = np.sqrt((len(y) - rutile.n_parameters) / (w * y**2).sum())
    assert 100 * r_wp == pytest.approx(rutile.r_wp, rel=1e-4)
    assert 100 * expected == pytest.approx(rutile.r_values["r_exp"], rel=1e-4)
    assert (calculated >= base - 1e-3).all()


def test_intensities_that_are_no_counts_have_their_own_name(rutile):
    given = replace(rutile, sigma=2 * rutile.sigma)
    assert "_pd_meas_intensity_total" in cif_text(given, "x", profile=True)
    block = block_of(cif_text(replace(rutile, sigma=None), "x", profile=True))
    assert set(block.find_values("_pd_proc_ls_weight")) == {"1"}
    assert block.find_value("_refine_ls_weighting_scheme") == "unit"


@pytest.mark.filterwarnings("ignore:Issues encountered:UserWarning")
@pytest.mark.filterwarnings("ignore:Missing elements:UserWarning")  # of the first block
def test_every_phase_is_a_block_that_is_linked(mixture, tmp_path):
    path = write_cif(mixture, tmp_path / "mix.cif", profile=True)
    document = gemmi.cif.read(str(path))
    assert [block.name for block in document] == ["mix", "mix_2"]
    ids = [block.find_value("_pd_block_id") for block in document]
    table = document[0].find("_pd_phase_", ["block_id", "mass_%"])
    assert [row[0] for row in table] == ids
    assert document[1].find_value("_pd_block_diffractogram_id") == ids[0]
    shares = [number(row[1]) for row in table]
    assert sum(value for value, _ in shares) == pytest.approx(100, abs=0.2)
    assert all(esd > 0 for _, esd in shares)
    phases = CifParser(path).parse_structures(primitive=False)
    assert [p.composition.reduced_formula for p in phases] == ["TiO2", "NaCl"]
    assert number(document[1].find_value("_cell_length_a"))[0] == pytest.approx(
        mixture.values["NaCl/a"], abs=1e-3
    )
    left_out = document[0].find_value("_pd_proc_info_excluded_regions")
    assert "49.960-52.040" in left_out


def test_background_of_a_mixture_is_without_its_phases(mixture):
    base = smooth_background(mixture)
    assert base.max() < 100 < mixture.background.max()
    assert gaps(mixture.two_theta) == [(pytest.approx(49.96), pytest.approx(52.04))]


def test_pawley_fit_has_a_cell_and_no_atoms(cell_fit):
    text = cif_text(cell_fit, "cell", profile=True)
    block = block_of(text)
    assert number(block.find_value("_cell_length_a"))[1] > 0
    assert "_atom_site_" not in text
    assert "Pawley" in block.find_value("_pd_calc_method")


def test_words_from_outside_cannot_break_the_cif_of_a_refinement(rutile, tmp_path):
    evil = "\n;\ndata_evil\n_cell_length_a 1 " + "; 'é' \"Å\" 猫 " * 9
    unit = replace(rutile.table.units[0], name=evil)
    table = replace(rutile.table, units=(unit,))
    hostile = replace(rutile, origin=evil, warnings=(evil,), table=table)
    path = write_cif(hostile, tmp_path / "x.cif")
    document = gemmi.cif.read(str(path))
    assert len(document) == 1
    assert number(document[0].find_value("_cell_length_a"))[0] > 4
    assert all(len(line) <= 80 for line in plain(evil).splitlines())


@pytest.mark.parametrize("name", ["TiO2", "MgAl2O4", "CaCO3", "ZnO", "CaWO4", "PbO"])
def test_sites_of_a_refinement_are_those_of_the_reference_setting(name, rutile):
    structure = STRUCTURES[name]
    table = first_table((asymmetric_unit(structure),), Instrument(), background=1)
    one = settings_of(replace(rutile, table=table, uncertainties={}))[0]
    other = reference_setting(structure)
    assert isinstance(one, Setting)
    assert one.symbol == other.symbol
    assert one.operations == other.operations
    assert one.units == other.units
    np.testing.assert_allclose(one.cell, other.cell, atol=1e-4)
    letters = [sorted((s.wyckoff, s.multiplicity) for s in x.sites) for x in (one, other)]
    assert letters[0] == letters[1]
    assert reference_hall(one.number) > 0
    assert SAME.fit(one.structure, structure)


# Page, text, CSV, notebook


def page_of(fit: Fit, folder, **options) -> tuple[str, Page]:
    text = write_refinement(fit, folder / "r.html", **options).read_text(encoding="utf-8")
    return text, Page(text)


def test_page_holds_what_it_must(mixture, tmp_path):
    told = replace(mixture, warnings=("a warning",), correlations=(("U", "V", -0.97),))
    stages = [("cell", "R_wp 12.00 %"), ("coordinates", "R_wp 9.00 %")]
    text, page = page_of(
        told, tmp_path, name="sample 7", stages=stages, settings={"engine": "builtin"}
    )
    said = " ".join(page.texts)
    a = with_esd(mixture.values["a"], mixture.uncertainties["a"])
    for word in ("sample 7", f"{mixture.r_wp:.2f} %", "GOF", "1/σ²", "% by weight", a,
                 "bond lengths", "valence sum", "a warning", "-0.970", "NaCl",
                 "coordinates", "R_wp 9.00 %", "pymatgen", "How to read", "background:0",
                 f"{mixture.n_observations} points", "without 49.96–52.04°"):  # fmt: skip
        assert word in said, word
    assert page.tags.count("svg") == 1
    assert text.count("stroke:var(--ticks2") == 1
    assert '"name":"NaCl"' in text


def test_page_needs_no_network_and_no_choice(rutile, tmp_path):
    text, page = page_of(rutile, tmp_path)
    assert "http" not in text.replace("http://www.w3.org/2000/svg", "")
    assert not {"link", "img", "iframe", "select"} & set(page.tags)
    assert "src" not in {name for name, _ in page.attributes}
    assert len(text) < 250_000
    assert "4.10" in text or "4.1" in text  # valence of titanium, O'Keeffe and Brese


def test_bonds_of_the_page_are_those_of_pymatgen(rutile, tmp_path):
    text, _ = page_of(rutile, tmp_path)
    shown = re.findall(r"<td>Ti1–O1</td><td class=n>([\d.()]+)</td>", text)
    shell = rutile.structure.get_neighbors(rutile.structure[0], 2.5)
    for length in [neighbour.nn_distance for neighbour in shell]:
        assert any(abs(value - length) <= esd for value, esd in map(number, shown))
    assert "Ti1–Ti1" not in text
    assert re.search(r"<td class=n>90</td>", text)  # by symmetry, without an e.s.d.


def test_metals_are_bonded_where_there_is_nothing_else(rutile, tmp_path):
    copper = Structure.from_spacegroup(225, Lattice.cubic(3.615), ["Cu"], [[0, 0, 0]])
    table = first_table((asymmetric_unit(copper),), Instrument(), background=1)
    spread = np.zeros((len(table), len(table)))
    fit = replace(rutile, table=table, covariance=spread, uncertainties={})
    assert "Cu1–Cu1" in page_of(fit, tmp_path)[0]


def test_page_of_a_pawley_fit_leaves_intensities_out(cell_fit, tmp_path):
    text, page = page_of(cell_fit, tmp_path)
    assert "intensities of lines are not shown" in text
    assert "intensity:" not in text
    assert "Pawley fit" in " ".join(page.texts)


def test_page_keeps_text_from_outside_as_text(rutile, tmp_path):
    unit = replace(rutile.table.units[0], name=EVIL)
    table = replace(rutile.table, units=(unit,), note=EVIL)
    fit = replace(rutile, table=table, origin=EVIL, warnings=(EVIL,),
                  correlations=((EVIL, EVIL, 0.95),),
                  radiation=replace(rutile.radiation, name=EVIL))  # fmt: skip
    for stages in ((), [(EVIL, EVIL)]):
        _, page = page_of(fit, tmp_path, name=EVIL, stages=stages, settings={EVIL: EVIL})
        assert "img" not in page.tags
        assert page.tags.count("script") == 2
    assert "img" not in Page(fit._repr_html_()).tags


def test_fit_without_a_table_has_no_page_of_a_refinement(tmp_path):
    with pytest.raises(ValueError, match="fit of engine 'batch' has no parameter table"):
        write_refinement(fit_of("TiO2"), tmp_path / "r.html")
    assert list(tmp_path.iterdir()) == []


def test_text_says_cell_sites_and_r_values(mixture):
    text = refinement_text(mixture)
    a = with_esd(mixture.values["NaCl/a"], mixture.uncertainties["NaCl/a"])
    assert f"a {a} Å" in text
    assert f"R_wp {mixture.r_wp:.2f} %" in text
    assert f"N {mixture.n_observations} points, P {mixture.n_parameters}" in text
    assert "Cl1   4b" in text
    assert "weights 1/σ²" in text


def test_csv_has_every_parameter_with_its_esd(rutile, tmp_path):
    path = write_parameters(rutile, tmp_path / "p.csv")
    rows = {
        row["name"]: row for row in csv.DictReader(path.read_text("utf-8").splitlines())
    }
    assert set(rows) == {*rutile.table.names, *rutile.values}
    assert len(rows) == len(parameter_rows(rutile))
    assert float(rows["a"]["value"]) == pytest.approx(rutile.values["a"], rel=1e-8)
    assert float(rows["a"]["esd"]) == pytest.approx(rutile.uncertainties["a"], rel=6e-3)
    assert float(rows["volume"]["esd"]) > 0
    assert (rows["a"]["unit"], rows["c"]["refined"]) == ("Å", "yes")
    assert rows["b"]["follows"] == "a"
    assert rows["alpha"]["esd"] == ""


def test_notebook_shows_r_values_and_the_cell_with_esds(mixture):
    html = mixture._repr_html_()
    assert with_esd(mixture.values["a"], mixture.uncertainties["a"]) in html
    assert f"{mixture.r_wp:.2f} %" in html
    assert "% by weight" in html
    assert not {"script", "style", "link"} & set(Page(html).tags)
    assert "x:O1" in mixture.table._repr_html_()
    assert len(repr(mixture)) < 900


def test_solution_report_of_a_refined_fit_says_gof_without_percent(rutile, tmp_path):
    from test_report import solution_of

    text = write_html(solution_of(rutile), tmp_path / "s.html").read_text(encoding="utf-8")
    assert f"GOF {rutile.r_values['gof']:.2f};" in text or (
        f"GOF {rutile.r_values['gof']:.2f}," in text
    )
    assert "GOF 1.0 %" not in text


def test_a_parameter_table_says_in_a_line_how_much_is_refined(rutile):
    rows = rutile.table.rows
    refined = sum(row.refine for row in rows)
    assert repr(rutile.table) == f"Parameters({len(rows)}, {refined} of them refined)"
