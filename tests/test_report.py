import json
import re
from dataclasses import fields, is_dataclass, replace
from functools import cache
from html.parser import HTMLParser

import gemmi
import numpy as np
import pytest
import torch
from candidates import candidate_of
from pymatgen.analysis.structure_matcher import StructureMatcher
from pymatgen.core import Composition, Structure
from textbook import SITES, STRUCTURES, build, cell

import xrdkit.types
from xrdkit.crystal import from_structures
from xrdkit.files import write_whole
from xrdkit.pattern import read, write
from xrdkit.report import cif_text, write_cif, write_fullprof, write_html, write_topas
from xrdkit.report.curves import curves_of, lines_of, thinned
from xrdkit.report.fullprof import shifts
from xrdkit.report.handover import fraction, scales
from xrdkit.report.html import _steps
from xrdkit.report.markup import formula_html, symbol_html
from xrdkit.report.results import PROGRAMS, check_output, results_of, write_solution
from xrdkit.report.sections import neighbours
from xrdkit.report.setting import reference_setting, settings_of
from xrdkit.report.tables import formula_text
from xrdkit.report.topas import monochromator_angle
from xrdkit.simulate import pattern_of
from xrdkit.space_group import quiet_spglib, reference_hall
from xrdkit.types import (
    Batch,
    Controls,
    Fit,
    Instrument,
    Pattern,
    Peaks,
    Phase,
    Problem,
    Progress,
    Radiation,
    Solution,
)

COPPER = Radiation((1.540593, 1.544427), (2 / 3, 1 / 3), name="CuKa")
MIXED = {
    "La0.7Sr0.3MnO3": build(
        221,
        cell(3.88),
        [({"La": 0.7, "Sr": 0.3}, 0, 0, 0), ("Mn", 0.5, 0.5, 0.5), ("O", 0.5, 0.5, 0)],
    ),
    "spinel, inverted in part": build(
        227,
        cell(8.083),
        [
            ({"Mg": 0.8, "Al": 0.2}, 0, 0, 0),
            ({"Mg": 0.1, "Al": 0.9}, 0.625, 0.625, 0.625),
            ("O", 0.3874, 0.3874, 0.3874),
        ],
    ),
    "TiO with vacancies": build(
        225, cell(4.18), [({"Ti": 0.85}, 0, 0, 0), ({"O": 0.9}, 0.5, 0.5, 0.5)]
    ),
    "CuAu, half ordered": build(
        123, cell(2.8, 2.8, 3.7), [({"Cu": 0.75, "Au": 0.25}, 0, 0, 0),
                                   ({"Cu": 0.25, "Au": 0.75}, 0.5, 0.5, 0.5)]
    ),
}  # fmt: skip
ALL = {**STRUCTURES, **MIXED}
FIRST = {group: name for name, (group, *_) in reversed(SITES.items())}  # of each group
CASES = [
    name
    if name in {*FIRST.values(), *MIXED}
    else pytest.param(name, marks=pytest.mark.slow)
    for name in ALL
]
SAME = StructureMatcher(ltol=1e-3, stol=1e-3, angle_tol=0.05, scale=False)


@cache
def fit_of(name: str) -> Fit:
    """A perfect fit of a structure to its own pattern."""
    structure = ALL[name]
    ordered = candidate_of(structure) if structure.is_ordered else None
    crystal = ordered.crystal if ordered else from_structures([structure])
    symmetry = ordered.symmetry if ordered else candidate_of(STRUCTURES["P1"]).symmetry
    pattern = pattern_of(
        crystal, COPPER, two_theta=(15.0, 80.0, 1300), instrument=Instrument(w=0.03)
    )
    symbol, number = structure.get_space_group_info()
    return Fit(
        structure=structure,
        phases=(Phase(crystal, symmetry),),
        origin="test",
        residual=0.02,
        score=3.0,
        two_theta=pattern.two_theta,
        observed=pattern.intensity,
        calculated=pattern.intensity,
        background=np.zeros(len(pattern)),
        radiation=COPPER,
        instrument=Instrument(w=0.03),
        space_group=number,
        space_group_symbol=symbol,
        wyckoff="Ti 2a, O 4f",
    )


@cache
def text_of(name: str) -> str:
    """The CIF of a structure."""
    return cif_text(ALL[name], name)


def counts(fit: Fit, top: float = 5000.0) -> Pattern:
    """The fit's pattern as it may have been measured."""
    return Pattern(fit.two_theta, top * fit.observed + 200.0, fit.radiation, name="sample")


def solution_of(*fits: Fit, **changes) -> Solution:
    first = fits[0] if fits else fit_of("TiO2")
    pattern = Pattern(first.two_theta, first.observed, COPPER, prepared=True, name="sample")
    groups = ((0,), tuple(range(1, len(fits)))) if len(fits) > 1 else ((0,),)
    solution = Solution(
        Problem(pattern, {"Ti": 1.0, "O": 2.0}), fits, groups if fits else (), 0.91,
        "confident", ("it fits",),
        settings={"formula": "TiO2", "seed": 7, "sources": (len,)},
        seconds={"refine": 1.25},
    )  # fmt: skip
    return replace(solution, **changes)


@pytest.fixture(scope="module")
def rutile() -> Fit:
    return fit_of("TiO2")


def block_of(text: str) -> gemmi.cif.Block:
    return gemmi.cif.read_string(text).sole_block()


# CIF


@pytest.mark.filterwarnings("ignore:Issues encountered:UserWarning")  # 1/3 in six figures
@pytest.mark.parametrize("name", CASES)
def test_cif_is_read_back_to_the_same_structure(name):
    text = text_of(name)
    back = Structure.from_str(text, fmt="cif", occupancy_tolerance=1.01)
    assert SAME.fit(back, ALL[name])
    assert text.isascii()


@pytest.mark.parametrize("name", CASES)
def test_cif_says_the_same_symmetry_in_every_way(name):
    block = block_of(text_of(name))
    small = gemmi.make_small_structure_from_block(block)
    group = gemmi.SpaceGroup(small.spacegroup_hm)
    operations = gemmi.GroupOps(
        [gemmi.Op(gemmi.cif.as_string(x)) for x in block.find_values(OPERATION)]
    )
    assert small.check_spacegroup() == ""
    assert gemmi.find_spacegroup_by_ops(operations) == group
    hall = gemmi.cif.as_string(block.find_value("_space_group_name_Hall"))
    assert gemmi.symops_from_hall(hall) == operations
    assert group.is_reference_setting()
    assert group.number == int(block.find_value("_space_group_IT_number"))
    places = sum(map(int, block.find_values("_atom_site_symmetry_multiplicity")))
    assert len(small.get_all_unit_cell_sites()) == places


OPERATION = "_space_group_symop_operation_xyz"


@pytest.mark.parametrize("name", CASES)
def test_cif_formula_weight_units_and_density_belong_together(name):
    block = block_of(text_of(name))
    value = {k: float(block.find_value(k)) for k in (WEIGHT, UNITS, DENSITY, VOLUME)}
    mass = value[WEIGHT] * value[UNITS] / 0.602214
    assert mass / value[VOLUME] == pytest.approx(value[DENSITY], abs=6e-4)
    assert value[DENSITY] == pytest.approx(float(ALL[name].density), rel=1e-3)
    assert value[UNITS] == int(value[UNITS]) >= 1


WEIGHT, UNITS = "_chemical_formula_weight", "_cell_formula_units_Z"
DENSITY, VOLUME = "_exptl_crystal_density_diffrn", "_cell_volume"


def test_formula_units_of_known_compounds():
    assert reference_setting(STRUCTURES["MgAl2O4"]).units == 8
    assert reference_setting(STRUCTURES["TiO2"]).units == 2
    assert reference_setting(STRUCTURES["SiO2"]).units == 3
    assert reference_setting(MIXED["La0.7Sr0.3MnO3"]).units == 1


def test_formula_sum_is_in_the_order_of_hill():
    block = block_of(cif_text(STRUCTURES["CaCO3"], "calcite"))
    assert block.find_value("_chemical_formula_sum") == "'C Ca O3'"
    block = block_of(cif_text(MIXED["La0.7Sr0.3MnO3"], "x"))
    assert block.find_value("_chemical_formula_sum") == "'La0.7 Mn O3 Sr0.3'"


def test_elements_on_one_place_have_their_own_rows_and_shares():
    block = block_of(cif_text(MIXED["La0.7Sr0.3MnO3"], "x"))
    table = block.find(
        "_atom_site_", ["label", "fract_x", "occupancy", "symmetry_multiplicity"]
    )
    rows = {row[0]: (row[1], float(row[2]), row[3]) for row in table}
    assert rows["La1"] == ("0.000000", 0.7, "1")
    assert rows["Sr1"] == ("0.000000", 0.3, "1")


@pytest.mark.parametrize("name", ["Si", "MgAl2O4", "CaWO4", "PbO"])
def test_origin_is_on_the_centre_where_there_is_a_choice(name):
    assert reference_setting(STRUCTURES[name]).symbol.endswith(":2")


def test_every_space_group_has_the_reference_setting_of_gemmi():
    for number in range(1, 231):
        with quiet_spglib() as spglib:
            kind = spglib.get_spacegroup_type(reference_hall(number))
        group = gemmi.find_spacegroup_by_ops(gemmi.symops_from_hall(kind.hall_symbol))
        assert group.number == number
        assert group.is_reference_setting()


def test_plainest_place_of_an_orbit_is_chosen():
    sites = {s.label: s for s in reference_setting(STRUCTURES["MgAl2O4"]).sites}
    np.testing.assert_allclose(sites["O1"].frac, [0.2624] * 3, atol=1e-4)
    np.testing.assert_array_equal(sites["O1"].free, [[1, 1, 1]])
    assert sites["Mg1"].free.shape == (0, 3)
    assert [sites[label].wyckoff for label in ("Mg1", "Al1", "O1")] == ["a", "d", "e"]


def test_setting_does_not_depend_on_the_pose_of_the_structure():
    structure = STRUCTURES["CaCO3"].copy()
    structure.make_supercell([[1, 1, 0], [0, 1, 0], [0, 0, 1]])
    structure.translate_sites(range(len(structure)), [0.13, 0.2, 0.31])
    one, other = map(reference_setting, (STRUCTURES["CaCO3"], structure))
    np.testing.assert_allclose(one.cell, other.cell, atol=1e-6)
    assert one.symbol == other.symbol
    assert [(s.label, s.multiplicity) for s in one.sites] == [
        (s.label, s.multiplicity) for s in other.sites
    ]


def test_structure_without_symmetry_is_written_in_p1():
    from pymatgen.core import Lattice

    twice = Structure(Lattice.cubic(4.0), ["Na", "Na"], [[0, 0, 0], [0, 0, 0]])
    setting = reference_setting(twice)
    assert setting.symbol == "P 1"
    assert len(setting.sites) == 2


def test_cif_of_a_fit_has_radiation_displacements_and_curves(rutile):
    block = block_of(cif_text(rutile, "rutile", profile=True))
    assert list(block.find_values("_diffrn_radiation_wavelength")) == [
        "1.540593",
        "1.544427",
    ]
    assert set(block.find_values("_atom_site_U_iso_or_equiv")) == {"0.00600"}
    curve = np.array(block.find_values("_pd_calc_intensity_total"), float)
    np.testing.assert_allclose(curve, rutile.calculated, atol=1e-5)
    assert block.find_value("_pd_proc_ls_prof_wR_factor") is None
    assert "_pd_" not in cif_text(rutile, "rutile")


def test_names_and_origins_from_outside_cannot_break_a_cif(rutile, tmp_path):
    hostile = replace(rutile, origin="\n;\ndata_evil\n_cell_length_a 1 'α°' \"Å\" 猫")
    path = write_cif(hostile, tmp_path / "a b'#µ;.cif")
    document = gemmi.cif.read(str(path))
    assert [block.name for block in document] == ["a_b_"]
    assert float(document[0].find_value("_cell_length_a")) == pytest.approx(4.594, abs=1e-3)


# Inputs of Rietveld programs


def topas_sites(text: str) -> tuple[dict[str, float], list[tuple[dict, dict]]]:
    """Values of named parameters; of every site its words and its coordinates as text."""
    values, sites = {}, []
    for line in text.splitlines():
        if not line.strip().startswith("site "):
            continue
        found = re.fullmatch(
            r"\s*site (\S+) num_posns (\d+)  x (.+?)  y (.+?)  z (.+?)"
            r"  occ (\S+) (\S+) beq (\S+)",
            line,
        )
        label, places, *xyz, element, occupancy, beq = found.groups()
        for text_of in xyz:
            named = re.fullmatch(r"(p\d+_\w+) (\S+)", text_of)
            if named:
                values[named[1]] = float(named[2])
        words = {"label": label, "places": int(places), "element": element}
        sites.append((words | {"occ": float(occupancy), "beq": float(beq)}, xyz))
    return values, sites


def topas_value(text: str, values: dict[str, float]) -> float:
    """A coordinate: a number, a name with its value, or an equation."""
    if not text.startswith("="):
        return values.get(text.split()[0], None) if " " in text else float(text)
    total = 0.0
    for term in text.strip("=; ").split(" + "):
        factor, _, name = term.rpartition(" ") if " " in term else ("1", "", term)
        if name.startswith("-p"):
            factor, name = "-1", name[1:]
        top, _, bottom = name.partition("/")
        value = values[name] if name in values else float(top) / float(bottom or 1)
        total += float(factor) * value
    return total


def places_of(frac: list[float], symbol: str) -> int:
    """How many places the group makes of one."""
    moved = [op.apply_to_xyz(list(frac)) for op in gemmi.SpaceGroup(symbol).operations()]
    return len({tuple(np.mod(np.round(np.mod(p, 1), 4), 1)) for p in moved})


@pytest.mark.parametrize("name", CASES)
def test_topas_constraints_keep_every_site_on_its_position(name, tmp_path):
    fit = fit_of(name)
    text = write_topas(fit, counts(fit), tmp_path, "s")[0].read_text()
    setting = settings_of(fit)[0]
    values, sites = topas_sites(text)
    assert {w["label"] for w, _ in sites} == {s.label for s in setting.sites}
    for step in (0.0, 0.0137):  # each free coordinate by its own amount
        moved = {k: v + step * (1 + 0.31 * i) for i, (k, v) in enumerate(values.items())}
        for words, xyz in sites:
            frac = [topas_value(part, moved) for part in xyz]
            assert places_of(frac, setting.symbol) == words["places"], (words, xyz)


def test_topas_input_is_complete(rutile, tmp_path):
    fit = replace(rutile, instrument=Instrument(w=0.03, zero=0.017, displacement=0.05))
    paths = write_topas(fit, counts(fit), tmp_path / "new", "my sample")
    text = paths[0].read_text()
    assert f'xdd "{paths[1].name}"' in text
    assert re.fullmatch("my_sample_[0-9a-f]{6}_topas.xye", paths[1].name)
    assert 'space_group "P42/mnm"' in text
    assert "Zero_Error(@, 0.01700)" in text
    assert "Specimen_Displacement(@, 0.05000)" in text
    assert "la 0.666667 lo 1.540593" in text
    assert "prm width_w 0.03 " in text
    assert "b = p1_a;" in text
    assert "site Ti1 num_posns 2  x 0  y 0  z 0  occ Ti 1.0000 beq 0.4737" in text
    assert "x p1_O1_x 0.305000  y = p1_O1_x;  z 0" in text
    assert text.isascii() or "θ" not in text


def test_data_beside_the_inputs_are_those_of_the_pattern(rutile, tmp_path):
    pattern = counts(rutile)
    for written in (write_topas, write_fullprof):
        table = np.loadtxt(written(rutile, pattern, tmp_path, "s")[1])
        np.testing.assert_allclose(table[:, 0], pattern.two_theta, atol=1e-6)
        np.testing.assert_allclose(table[:, 1], pattern.intensity, rtol=1e-5)
        assert (table[:, 2] > 0).all()


def test_scale_and_background_give_the_measured_pattern(rutile):
    amount = scales(rutile, counts(rutile, 5000.0))[0]
    raw = pattern_of(
        rutile.phases[0].crystal,
        COPPER,
        two_theta=torch.as_tensor(rutile.two_theta),
        instrument=rutile.instrument,
        normalise=False,
    )
    assert amount * raw.intensity.max() == pytest.approx(5000, rel=0.03)


def numbers(line: str) -> list[float]:
    return [float(word) for word in line.split() if re.fullmatch(r"[-+.\dE]+", word)]


def after(text: str, head: str, skip: int = 1) -> str:
    lines = text.splitlines()
    return lines[next(i for i, line in enumerate(lines) if line.startswith(head)) + skip]


@pytest.mark.parametrize("name", CASES)
def test_fullprof_codes_keep_every_site_on_its_position(name, tmp_path):
    fit = fit_of(name)
    setting = settings_of(fit)[0]
    text = write_fullprof(fit, counts(fit), tmp_path, "s")[0].read_text()
    lines = text.splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith("!Atom")) + 1
    seen = set()
    for i, site in enumerate(setting.sites):
        label, element, *rest = lines[start + 2 * i].split()
        frac, occupancy = np.array(rest[:3], float), float(rest[4])
        codes = np.array(lines[start + 2 * i + 1].split()[:3], float)
        assert (label, element) == (site.label, site.element.upper())
        share = site.occupancy * site.multiplicity / len(setting.operations)
        assert occupancy == pytest.approx(share, abs=1e-6)
        assert places_of(setting.sites[i].frac, setting.symbol) == site.multiplicity
        parameter, factor = np.abs(codes) // 10, np.sign(codes) * (np.abs(codes) % 10)
        seen |= set(parameter[parameter > 0])
        shift = 0.0137 * (1 + 0.31 * parameter) * factor
        np.testing.assert_allclose(frac, site.frac, atol=1e-5)
        assert places_of(site.frac + shift, setting.symbol) == site.multiplicity
    refined = int(next(line for line in lines if "refined parameters" in line).split()[0])
    assert seen <= set(range(1, refined + 1))
    every = [abs(x) // 10 for line in lines for x in codes_of(line)]
    assert max(every) == refined


def codes_of(line: str) -> list[float]:
    """Numbers of a line that look like codes: 10 p + 1, two figures behind the point."""
    return [float(x) for x in re.findall(r"(?<!\S)-?\d+1\.0+(?!\S)", line)]


def test_fullprof_input_is_complete(rutile, tmp_path):
    fit = replace(rutile, instrument=Instrument(u=0.02, v=-0.01, w=0.03, x=0.04, y=0.05))
    path = write_fullprof(fit, counts(fit), tmp_path, "s")[0]
    text = path.read_text()
    assert numbers(after(text, "! Lambda1"))[:3] == [1.540593, 1.544427, 0.5]
    assert after(text, "!Nat", 2).startswith("P 42/m n m ")
    # our X (1 / cosθ) is FullProf's Y, our Y (tanθ) its X
    assert numbers(after(text, "!       U"))[:5] == [0.02, -0.01, 0.03, 0.05, 0.04]
    cells = numbers(after(text, "!     a", 1)), numbers(after(text, "!     a", 2))
    assert cells[0] == pytest.approx([4.594, 4.594, 2.959, 90, 90, 90], abs=1e-5)
    assert cells[1][0] == cells[1][1] != cells[1][2]
    assert cells[1][3:] == [0, 0, 0]
    nba = int(after(text, "!Job").split()[3])
    knots = [
        line.split() for line in text.split("Background  for")[1].splitlines()[1 : nba + 1]
    ]
    assert np.array(knots, float)[:, 1] == pytest.approx(200, abs=40)
    assert numbers(after(text, "!Nat"))[11] == pytest.approx(2 * 79.866, abs=0.01)


def test_polarisation_is_translated():
    graphite = replace(COPPER, polarisation=1 / (1 + np.cos(np.radians(26.6)) ** 2))
    assert monochromator_angle(graphite) == pytest.approx(26.6)
    assert monochromator_angle(COPPER) == pytest.approx(0, abs=1e-4)
    assert monochromator_angle(replace(COPPER, polarisation=1.0)) == pytest.approx(90)


def test_displacement_is_translated():
    zero, cosine = shifts(Instrument(zero=0.01, displacement=0.1), 50.0)
    assert (zero, cosine) == pytest.approx((0.01, -2 * np.degrees(0.1 / 200)))
    capillary = Instrument("debye-scherrer", displacement=0.1)
    assert shifts(capillary, 60.0) == pytest.approx((-np.degrees(0.1 / 200) / 2, 0))


SLITS = {
    "automatic": (Instrument(slits="automatic", w=0.03), lambda sine: sine),
    "beam overflow": (
        Instrument(overflow=40.0, w=0.03),
        lambda sine: (sine / np.sin(np.radians(20))).clip(max=1),
    ),
}


@pytest.mark.parametrize("program", [write_topas, write_fullprof])
@pytest.mark.parametrize("kind", SLITS)
def test_what_slits_do_is_taken_off_intensities_and_deviations(
    rutile, tmp_path, kind, program
):
    instrument, factor = SLITS[kind]
    pattern = counts(rutile)
    table = np.loadtxt(
        program(replace(rutile, instrument=instrument), pattern, tmp_path, "s")[1]
    )
    plain = np.loadtxt(program(rutile, pattern, tmp_path, "p")[1])
    share = factor(np.sin(np.radians(pattern.two_theta / 2)))[:, None]
    np.testing.assert_allclose(table[:, 1:] * share, plain[:, 1:], rtol=2e-5)


def test_background_of_topas_is_that_of_its_data(rutile, tmp_path):
    automatic = replace(rutile, instrument=SLITS["automatic"][0])
    pattern = replace(counts(rutile), two_theta=rutile.two_theta - 15.0)  # from 0°
    text = write_topas(automatic, counts(rutile), tmp_path, "s")[0].read_text()
    terms = re.search(r"bkg @ (.*)", text)[1].split()
    x = np.linspace(-1, 1, len(pattern))
    base = np.polynomial.chebyshev.chebval(x, np.array(terms, float))
    sine = np.sin(np.radians(rutile.two_theta / 2))
    assert np.median(base * sine) == pytest.approx(200, abs=20)
    table = np.loadtxt(write_topas(automatic, pattern, tmp_path, "zero")[1])
    assert np.isfinite(table).all()


@pytest.mark.parametrize(("name", "fixed"), [("ZnO", 1), ("polar P2_1", 1), ("P1", 3)])
def test_origin_of_a_polar_group_is_fixed_by_one_site(name, fixed, tmp_path):
    fit = fit_of(name)
    free = sum(len(site.free) for site in settings_of(fit)[0].sites)
    text = write_topas(fit, counts(fit), tmp_path, "s")[0].read_text()
    assert len(topas_sites(text)[0]) == free - fixed


def test_gaps_of_a_scan_are_excluded_and_texture_is_handed_over(rutile, tmp_path):
    pattern = replace(counts(rutile), ranges=((15.0, 40.0), (45.0, 80.0)))
    phase = replace(rutile.phases[0], texture=((0, 0, 1), 0.8))
    fit = replace(rutile, phases=(phase,))
    topas = write_topas(fit, pattern, tmp_path, "s")[0].read_text()
    assert "exclude 40.0000 45.0000" in topas
    assert "PO(@, 0.8000, , 0 0 1)" in topas
    fullprof = write_fullprof(fit, pattern, tmp_path, "s")[0].read_text()
    assert numbers(after(fullprof, "! Excluded")) == [40, 45]
    assert numbers(after(fullprof, "!  Pref1"))[0] == 0.8
    assert after(fullprof, "!Job").split()[4] == "1"


def test_second_phase_is_handed_over_with_names_of_its_own(rutile, tmp_path):
    other = fit_of("NaCl").phases[0]
    fit = replace(rutile, phases=(*rutile.phases, other))
    text = write_topas(fit, counts(rutile), tmp_path, "s")[0].read_text()
    assert text.count("\n   str\n") == 2
    assert "a p2_a 5.64" in text
    pcr = write_fullprof(fit, counts(rutile), tmp_path, "s")[0].read_text()
    assert after(pcr, "!Job").split()[2] == "2"
    assert pcr.count("<--Space group symbol") == 2


@pytest.mark.parametrize(("value", "text"), [(1 / 3, "1/3"), (0.625, "5/8"), (0.0, "0")])
def test_special_coordinates_are_fractions(value, text):
    assert str(fraction(value)) == text
    assert fraction(value + 1e-4) is None


# HTML


class Page(HTMLParser):
    """Elements and texts of a page; fails where elements do not nest."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open, self.tags, self.attributes, self.texts = [], [], [], []
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs
        if tag not in ("meta", "input", "br"):
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.texts.append(data)


def page_of(solution: Solution, folder, **options) -> tuple[str, Page]:
    text = write_html(solution, folder / "r.html", **options).read_text(encoding="utf-8")
    return text, Page(text)


@pytest.fixture(scope="module")
def others() -> tuple[Fit, ...]:
    return fit_of("TiO2 141"), fit_of("CaF2")


def test_report_says_verdict_in_words_before_the_number(rutile, others, tmp_path):
    _, page = page_of(solution_of(rutile, *others), tmp_path, pattern=counts(rutile))
    said = " ".join(page.texts)
    assert said.index("very probably right") < said.index("0.91") < said.index("it fits")


def test_report_holds_what_it_must(rutile, others, tmp_path):
    first = replace(
        rutile, determined=("the cell",), undetermined=("place of H",), unexplained=0.08
    )
    solution = solution_of(
        first, *others, foreign=(("SiO2", 0.6), ("MgO (Fm-3m type)", 0.2))
    )
    pattern = replace(counts(rutile), warnings=("two spikes removed",))
    text, page = page_of(solution, tmp_path, pattern=pattern)
    said = " ".join(page.texts)
    for word in ("the cell", "place of H", "8.0 %", "60 %", "two spikes removed", "seed",
                 "refine 1.2", "pymatgen", "spglib", "torch", "How to read"):  # fmt: skip
        assert word in said, word
    assert page.tags.count("svg") == 1
    assert page.tags.count("option") == 3
    assert "compared up to" not in said
    longer = np.append(pattern.two_theta, 2 * pattern.two_theta[-1])
    wide = replace(pattern, two_theta=longer, intensity=np.append(pattern.intensity, 1.0))
    last = f"compared up to {rutile.two_theta[-1]:.1f}°"
    assert last in page_of(solution, tmp_path, pattern=replace(wide, sigma=None))[0]
    assert "4&nbsp;×&nbsp;O&nbsp;1.948" in text


def test_report_needs_no_network_and_is_small(rutile, others, tmp_path):
    text, page = page_of(solution_of(rutile, *others * 9), tmp_path, pattern=counts(rutile))
    assert len(text) < 500_000
    assert "http" not in text.replace("http://www.w3.org/2000/svg", "")
    assert not {"link", "img", "iframe"} & set(page.tags)
    assert "src" not in {name for name, _ in page.attributes}


def test_shared_script_is_written_once_beside_the_reports(rutile, tmp_path):
    text, page = page_of(solution_of(rutile), tmp_path, script="shared")
    assert dict(page.attributes)["src"] == "xrdkit_report.js"
    assert "addEventListener" not in text
    assert "addEventListener" in (tmp_path / "xrdkit_report.js").read_text()


EVIL = '</script><img src=x onerror="alert(1)">&\'"<b>'


def test_text_from_outside_stays_text(rutile, tmp_path):
    fit = replace(rutile, origin=EVIL, known=EVIL, determined=(EVIL,), undetermined=(EVIL,),
                  space_group_symbol=EVIL, wyckoff=EVIL, r_values={EVIL: 1.0})  # fmt: skip
    pattern = replace(counts(rutile), name=EVIL, warnings=(EVIL,),
                      radiation=replace(COPPER, name=EVIL))  # fmt: skip
    settings = {"formula": EVIL, "library": EVIL, EVIL: EVIL}
    solution = solution_of(fit, reasons=(EVIL,), foreign=((EVIL, 0.1),), settings=settings)
    _, page = page_of(solution, tmp_path, pattern=pattern)
    assert "img" not in page.tags
    assert not [name for name, _ in page.attributes if name.startswith("on")]
    assert page.tags.count("script") == 2
    for value in (fit, pattern, solution):
        assert "img" not in Page(value._repr_html_()).tags


def test_report_without_any_structure_shows_the_pattern(tmp_path):
    solution = solution_of(verdict="none", confidence=0.0, reasons=("nothing fits",))
    _, page = page_of(solution, tmp_path)
    assert "nothing fits" in page.texts
    assert page.tags.count("svg") == 1


def test_curves_in_the_page_are_those_of_the_fit(rutile, tmp_path):
    text, _ = page_of(solution_of(rutile), tmp_path)
    data = json.loads(re.search(r'application/json">(.*?)</script>', text)[1])
    import base64

    x = np.frombuffer(base64.b64decode(data["two_theta"]), "<f4")
    np.testing.assert_allclose(x, rutile.two_theta, rtol=1e-6)
    observed = data["observed"]
    steps = np.frombuffer(base64.b64decode(observed["steps"]), "<u2") / 65535
    curve = observed["low"] + steps * (observed["high"] - observed["low"])
    np.testing.assert_allclose(curve, rutile.observed, atol=1e-5)
    assert _steps(np.ones(3))["low"] == 1


def test_fit_is_shown_on_the_scale_of_the_measurement(rutile):
    curves = curves_of([rutile], counts(rutile, 7000.0))
    assert curves.observed.max() == pytest.approx(7200)
    assert curves.calculated[0].max() == pytest.approx(7200, rel=0.02)


def test_thinning_keeps_every_line():
    x = np.linspace(0, 100, 60_001)
    centres = np.random.default_rng(1).uniform(1, 99, 40)
    curve = sum(np.exp(-(((x - c) / 0.02) ** 2)) for c in centres)
    keep = thinned(curve, curve[::-1].copy())
    assert keep.sum() <= 3002
    assert all(np.abs(x[keep] - c).min() < 0.002 for c in centres)
    assert thinned(curve[:3000]).all()


def test_marks_stand_at_the_lines_of_silicon():
    fit = fit_of("Si")
    (setting,) = settings_of(fit)
    lines = lines_of(setting.cell, setting.symbol, fit)
    first = 2 * np.degrees(np.arcsin(COPPER.main / 2 / (5.431 / 3**0.5)))
    assert lines[0][0] == pytest.approx(first, abs=1e-4)
    assert [tuple(sorted(map(abs, hkl))) for _, hkl in lines[:4]] == [
        (1, 1, 1), (0, 2, 2), (1, 1, 3), (2, 2, 2)
    ]  # fmt: skip


def test_neighbours_are_those_of_rock_salt_and_fluorite():
    salt = reference_setting(STRUCTURES["NaCl"])
    assert neighbours(salt, salt.sites[0].frac) == ["6&nbsp;×&nbsp;Cl&nbsp;2.820"]
    fluorite = reference_setting(STRUCTURES["CaF2"])
    assert neighbours(fluorite, fluorite.sites[0].frac)[0].startswith("8&nbsp;×&nbsp;F")


@pytest.mark.parametrize(
    ("symbol", "html"),
    [
        ("P4_2/mnm", "<i>P</i>4<sub>2</sub>/<i>m</i><i>n</i><i>m</i>"),
        ("Fd-3m", "<i>F</i><i>d</i>3\u0305<i>m</i>"),
    ],
)
def test_space_group_symbols_are_set_as_in_print(symbol, html):
    assert symbol_html(symbol) == html


def test_formulas_are_set_as_in_print():
    assert formula_html("Ca(OH)2") == "Ca(OH)<sub>2</sub>"
    assert formula_html("La0.7Sr0.3MnO3").count("<sub>") == 3


# The folder of results


def test_formula_of_shared_places_has_whole_atoms_again():
    thirds = Composition({"Mg": 24 * 0.333333, "Al": 24 * 0.666667, "O": 32})
    assert formula_text(thirds) == "MgAl2O4"
    mixed = Composition("Ca0.9Sr0.1O")
    assert formula_text(mixed) == mixed.reduced_formula


def test_ranked_structures_are_a_data_frame_with_the_rows_of_the_csv_file(rutile, tmp_path):
    solution = solution_of(rutile)
    frame = solution.frame()
    write_solution(solution, tmp_path, "s")
    lines = (tmp_path / "s.csv").read_text(encoding="utf-8").splitlines()
    assert lines[0].split(",") == list(frame.columns)
    assert len(lines) - 1 == len(frame) == len(solution.fits)
    assert frame["number"][0] == 136


def test_inputs_of_programs_are_results_of_the_name_and_replaced(rutile, tmp_path):
    solution, name = solution_of(rutile), "my sample (1)"
    first = write_solution(
        solution, tmp_path, name, pattern=counts(rutile), programs=tuple(PROGRAMS)
    )
    inputs = {
        path.name for path in first if path.suffix in (".inp", ".xye", ".pcr", ".dat")
    }
    assert len(inputs) == 4
    assert sorted(first) == results_of(tmp_path, name)
    write_solution(solution, tmp_path, name)
    assert not inputs & {path.name for path in tmp_path.iterdir()}


def test_program_that_cannot_take_the_structure_leaves_the_rest(
    rutile, tmp_path, monkeypatch
):
    def refuses(*given):
        raise ValueError("site O1 has a coordinate that depends on two others")

    monkeypatch.setitem(PROGRAMS, "topas", refuses)
    with pytest.warns(UserWarning, match="no input of topas is written: site O1 has a"):
        written = write_solution(
            solution_of(rutile),
            tmp_path,
            "s",
            pattern=counts(rutile),
            programs=("topas", "fullprof"),
        )
    names = {path.name for path in written}
    assert names == {
        "s_xrdkit.txt", "s_01.cif", "s.csv", "s.html", "s_fullprof.pcr", "s_fullprof.dat"
    }  # fmt: skip
    assert results_of(tmp_path, "s") == sorted(written)


def test_files_that_xrdkit_did_not_write_are_never_replaced(rutile, tmp_path):
    solution = solution_of(rutile)
    own = [tmp_path / name for name in ("s.xye", "s.inp", "s.dat", "s_2023.cif")]
    for path in own:
        path.write_text("mine")
    given = {"pattern": counts(rutile), "programs": tuple(PROGRAMS)}
    for _ in range(2):
        check_output(tmp_path, "s", overwrite=True)
        write_solution(solution, tmp_path, "s", **given)
    assert {path.read_text() for path in own} == {"mine"}


@pytest.mark.parametrize("name", ["s.csv", "s.html", "s_01.cif", "s_xrdkit.txt"])
def test_file_of_another_origin_in_the_way_is_an_error(rutile, tmp_path, name):
    (tmp_path / name).write_text("mine")
    said = f"{name} is no result of s and would be overwritten; give another folder"
    with pytest.raises(ValueError, match=said):
        check_output(tmp_path, "s", overwrite=True)
    with pytest.raises(ValueError, match=said):
        write_solution(solution_of(rutile), tmp_path, "s")
    assert [path.read_text() for path in tmp_path.iterdir()] == ["mine"]


def test_list_of_results_cannot_name_other_files(rutile, tmp_path):
    write_solution(solution_of(rutile), tmp_path / "out", "s")
    (tmp_path / "mine").write_text("mine")
    with (tmp_path / "out" / "s_xrdkit.txt").open("a") as file:
        file.write("../mine\n")
    write_solution(solution_of(rutile), tmp_path / "out", "s")
    assert (tmp_path / "mine").read_text() == "mine"


def test_results_of_a_longer_list_are_replaced(rutile, others, tmp_path):
    write_solution(solution_of(rutile, *others), tmp_path, "s")
    written = write_solution(solution_of(rutile), tmp_path, "s")
    assert results_of(tmp_path, "s") == sorted(written) == sorted(tmp_path.iterdir())


def test_names_that_differ_in_umlauts_do_not_share_files(rutile, tmp_path):
    given = {"pattern": counts(rutile), "programs": tuple(PROGRAMS)}
    one, other = (
        write_solution(solution_of(rutile), tmp_path, name, **given)
        for name in ("probe ä", "probe ö")
    )
    assert not set(one) & set(other)


def test_programs_without_a_pattern_are_refused_at_once(rutile, tmp_path):
    with pytest.raises(ValueError, match="inputs of topas need data; give the pattern"):
        write_solution(solution_of(rutile), tmp_path / "new", "s", programs=("topas",))
    assert not (tmp_path / "new").exists()


# Values in a terminal and in a notebook


def values(fit: Fit) -> dict[str, object]:
    candidate = candidate_of(STRUCTURES["TiO2"])
    solution, one = solution_of(fit), np.ones(3)
    tensors = {f.name: torch.ones(2, 3, 3) for f in fields(Batch)}
    dense = next(iter(candidate.crystal.by_size()))[1]
    return {
        "Radiation": COPPER, "Instrument": fit.instrument, "Pattern": counts(fit),
        "Peaks": Peaks(one, one, one, one), "Crystals": candidate.crystal,
        "DenseCrystals": dense, "Symmetry": candidate.symmetry,
        "Problem": solution.problem, "Candidate": candidate, "Phase": fit.phases[0],
        "Fit": fit, "Solution": solution, "Progress": Progress("refine", 1, 3),
        "Controls": Controls(), "Batch": tensors,
    }  # fmt: skip


def test_every_type_is_one_line_in_a_terminal_and_whole_html_in_a_notebook(rutile):
    known = {
        name for name, kind in vars(xrdkit.types).items()
        if is_dataclass(kind) and kind.__module__ == "xrdkit.types"
    }  # fmt: skip
    shown = values(rutile)
    assert known == set(shown)
    shown.pop("Batch")
    for name, value in shown.items():
        line = repr(value)
        assert line.startswith(f"{name}("), line
        assert "\n" not in line
        assert len(line) < 500, line
        page = Page(value._repr_html_())
        assert page.tags, name
        assert not {"script", "style", "link"} & set(page.tags)


def test_line_of_a_pattern_says_size_and_range(rutile):
    assert "two_theta=1300 from 15 to 80" in repr(counts(rutile))
    assert "sigma" not in repr(counts(rutile))  # left out where it is the default


def test_notebook_forms_show_plots_and_names(rutile):
    assert "<svg" in rutile._repr_html_()
    assert "TiO<sub>2</sub>" in solution_of(rutile)._repr_html_()
    assert "1.540593" in COPPER._repr_html_()


# Whole files


def test_files_can_be_read_by_others_and_no_part_is_left(tmp_path):
    plain = tmp_path / "plain"
    plain.write_text("")
    written = write_whole(tmp_path / "a", lambda part: part.write_text("x"))
    assert written.stat().st_mode == plain.stat().st_mode
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a", "plain"]


def test_pattern_that_was_written_can_be_read_by_others(rutile, tmp_path):
    path = tmp_path / "p.xy"
    write(counts(rutile), path)
    plain = tmp_path / "plain"
    plain.write_text("")
    assert path.stat().st_mode == plain.stat().st_mode
    assert len(read(path)) == 1300


assert set(SITES) == set(STRUCTURES)


def test_settings_given_as_numpy_values_are_told(rutile, tmp_path):
    given = {"cell": np.array([4.6, 4.6, 3.0, 90, 90, 90]), "space_group": np.int64(136)}
    solution = solution_of(rutile, settings=given)
    text, _ = page_of(solution, tmp_path)
    assert "<dd>4.6, 4.6, 3, 90, 90, 90</dd>" in text
    assert "<dd>136</dd>" in text
