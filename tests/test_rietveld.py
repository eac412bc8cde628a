"""The Rietveld engine: derivatives, symmetry, known answers, e.s.d.s, messages."""

from dataclasses import replace
from itertools import pairwise

import gemmi
import numpy as np
import pytest
from pymatgen.analysis.diffraction.xrd import XRDCalculator
from pymatgen.core import Lattice, Structure
from pymatgen.io.cif import CifWriter

from xrdkit.crystal import read_cif
from xrdkit.metrics import r_wp
from xrdkit.pattern import prepare, read
from xrdkit.refine.rietveld import Restraint, geometry, pawley, refine, refine_steps
from xrdkit.refine.rietveld.answer import atoms_of, phases_of
from xrdkit.refine.rietveld.asymmetric import asymmetric_unit
from xrdkit.refine.rietveld.cif import cif_structure
from xrdkit.refine.rietveld.coordinates import held
from xrdkit.refine.rietveld.data import observations
from xrdkit.refine.rietveld.frame import make_frame
from xrdkit.refine.rietveld.geometry import (
    angle,
    contacts,
    distance,
    too_close,
    valence_sums,
    with_esd,
)
from xrdkit.refine.rietveld.least_squares import covariance, minimise, narrowest, state_of
from xrdkit.refine.rietveld.metric import inverse_d_squared, volume, volume_derivatives
from xrdkit.refine.rietveld.model import capillary, evaluate, same_lines
from xrdkit.refine.rietveld.orientation import distinct_axes
from xrdkit.refine.rietveld.outcome import Outcome
from xrdkit.refine.rietveld.restraints import Apart, pulls
from xrdkit.refine.rietveld.results import berar_lelann
from xrdkit.refine.rietveld.shape import axial_nodes
from xrdkit.refine.rietveld.stages import Stage, exchanging, freed
from xrdkit.refine.rietveld.start import first_table
from xrdkit.refine.rietveld.table import Parameter, parse_tie
from xrdkit.refine.texture import AXES
from xrdkit.types import Instrument, Pattern, Radiation

CU = Radiation((1.540593, 1.544427), (2 / 3, 1 / 3), kalpha2=True)
PROFILE = Instrument(u=0.004, v=-0.003, w=0.006, x=0.03, y=0.02, asymmetry=0.03)


def rutile(x=0.305, a=4.594, c=2.959):
    return Structure.from_spacegroup(
        "P4_2/mnm", Lattice.tetragonal(a, c), ["Ti", "O"], [[0, 0, 0], [x, x, 0]]
    )


def quartz():
    return Structure.from_spacegroup(
        "P3_221", Lattice.hexagonal(4.913, 5.405), ["Si", "O"],
        [[0.4697, 0, 2 / 3], [0.4135, 0.2669, 0.7858]],
    )  # fmt: skip


def mixed():
    """A perovskite with two metals on one site."""
    return Structure.from_spacegroup(
        "Pm-3m", Lattice.cubic(3.9), [{"La": 0.6, "Sr": 0.4}, "Mn", "O"],
        [[0, 0, 0], [0.5, 0.5, 0.5], [0.5, 0.5, 0]],
    )  # fmt: skip


def points(low=15.0, high=100.0, step=0.04):
    x = np.arange(low, high, step)
    ones = np.ones_like(x)
    return Pattern(x, ones, CU, np.ones_like(x), "given", instrument=PROFILE)


def model(*structures, texture=None, pattern=None, **values):
    """Table and frame of structures at values of their parameters."""
    units = tuple(asymmetric_unit(s, name=f"phase{i}") for i, s in enumerate(structures))
    data = observations(pattern or points())
    table = first_table(units, PROFILE, background=3, texture=texture)
    for name, value in values.items():
        table = table.edit(name, value=value)
    return table, make_frame(data, table)


def counted(table, frame, seed=0):
    """A pattern of Poisson counts of a table, on the frame's grid."""
    curve = evaluate(frame, table, table.vector()).curve
    rng = np.random.default_rng(seed)
    y = rng.poisson(curve).astype(float)
    x = frame.data.two_theta
    return Pattern(x, y, CU, np.sqrt(np.maximum(y, 1)), "counts", instrument=Instrument())


def simulated(structure, seed=0, low=15.0, high=100.0, step=0.04, scale=30.0, **values):
    """Counts of one phase over a sloping background."""
    start = {"scale": scale, "background:0": 60.0, "background:1": -20.0, **values}
    pattern = points(low, high, step)
    table, frame = model(structure, pattern=pattern, **start)
    return counted(table, frame, seed), table


def slope(table, frame, name, step):
    """Central difference of the profile by one row, all that follows it moved along."""
    matrix, constant = table.ties()
    curves = []
    for sign in (1, -1):
        values = table.vector()
        values[table.place(name)] += sign * step
        curves.append(evaluate(frame, table, matrix @ values + constant).curve)
    return (curves[0] - curves[1]) / (2 * step)


@pytest.fixture(scope="module")
def example():
    """A pattern of rutile and its refinement, looked at by several tests."""
    pattern, truth = simulated(rutile(), seed=1, high=80.0, displacement=0.05)
    return pattern, truth, refine(pattern, rutile(x=0.30, a=4.605, c=2.965))


STEPS = {
    "background:1": 1e-3, "zero": 1e-5, "displacement": 1e-4, "U": 1e-6, "V": 1e-6,
    "W": 1e-6, "X": 1e-6, "Y": 1e-6, "asymmetry": 1e-5, "roughness": 1e-5,
    "roughness_depth": 1e-5, "absorption": 1e-5, "scale": 1e-5, "a": 1e-6, "c": 1e-6,
    "size": 1e-4, "strain": 1e-7, "texture": 1e-5, "x:O1": 1e-6,
    "y:O1": 1e-6, "z:O1": 1e-6, "u:Si1": 1e-6, "u:O1": 1e-6, "occupancy:O1": 1e-5,
}  # fmt: skip


def test_every_derivative_agrees_with_finite_differences():
    table, frame = model(quartz(), texture=(1, 0, 1))
    start = {"scale": 0.4, "size": 800.0, "strain": 5e-4, "texture": 0.8}
    start |= {"roughness": 0.2, "absorption": 0.4, "zero": 0.02, "displacement": 0.05}
    for name, value in start.items():
        table = table.edit(name, value=value)
    matrix, _ = table.ties()
    wanted = np.ones(len(table), bool)
    jacobian = evaluate(frame, table, table.vector(), wanted).jacobian @ matrix
    silicon = next(n for n in table.names if n.endswith(":Si1") and not table[n].tie)
    for name, step in {**STEPS, silicon: 1e-6}.items():
        numeric = slope(table, frame, name, step)
        analytic = jacobian[:, table.place(name)]
        error = np.abs(numeric - analytic).max() / np.abs(numeric).max()
        assert error < 2e-3, f"{name}: {error:.1e}"


def test_polarisation_has_the_derivative_of_finite_differences():
    table, frame = model(quartz(), scale=0.4, roughness=0.3)
    row = Parameter("polarisation", 0.7, refine=True, low=0, high=1)
    table = table.noted((*table.rows, row), "K")
    state = evaluate(frame, table, table.vector(), np.ones(len(table), bool))
    analytic = state.jacobian[:, table.place("polarisation")]
    numeric = slope(table, frame, "polarisation", 1e-5)
    assert np.abs(numeric - analytic).max() < 2e-3 * np.abs(numeric).max()


def test_derivatives_of_a_second_phase_and_a_triclinic_cell():
    triclinic = Structure(
        Lattice.from_parameters(4, 5, 6, 85, 95, 100),
        ["Ca", "O"],
        [[0, 0, 0], [0.4, 0.5, 0.6]],
    )
    table, frame = model(rutile(), triclinic, pattern=points(15, 60))
    wanted = np.ones(len(table), bool)
    matrix, _ = table.ties()
    jacobian = evaluate(frame, table, table.vector(), wanted).jacobian @ matrix
    for name in ("a", "b", "c", "alpha", "beta", "gamma", "x:O1", "u:Ca1", "scale"):
        numeric = slope(table, frame, f"phase1/{name}", 1e-6)
        analytic = jacobian[:, table.place(f"phase1/{name}")]
        assert np.abs(numeric - analytic).max() < 2e-3 * np.abs(numeric).max(), name


def test_cell_derivatives_agree_with_finite_differences():
    cell = np.array([4.0, 5.0, 6.0, 85.0, 95.0, 100.0])
    hkl = np.array([[1, 2, -1], [3, 0, 1], [0, 0, 2]])
    _, slopes = inverse_d_squared(hkl, cell)
    for k in range(6):
        change = 1e-5 * np.eye(6)[k]
        pair = [inverse_d_squared(hkl, cell + s * change)[0] for s in (1, -1)]
        np.testing.assert_allclose(
            slopes[:, k], (pair[0] - pair[1]) / 2e-5, rtol=1e-6, atol=1e-9
        )
        volumes = [volume(cell + s * change) for s in (1, -1)]
        numeric = (volumes[0] - volumes[1]) / 2e-5
        np.testing.assert_allclose(volume_derivatives(cell)[k], numeric, rtol=1e-5)


def test_distances_and_angles_have_the_derivatives_of_finite_differences():
    table, _ = model(quartz())
    values = table.vector()
    near = [c for c in contacts(table, values, 0, 1.7) if c.i == 0][:2]
    rows = [table.place(n) for n in ("a", "c", "beta", "x:O1", "y:O1", "z:O1", "x:Si1")]
    for measure in (
        lambda v: distance(table, v, 0, near[0]),
        lambda v: angle(table, v, 0, *near),
    ):
        for row in rows:
            moved = [values.copy(), values.copy()]
            moved[0][row] += 1e-5
            moved[1][row] -= 1e-5
            numeric = (measure(moved[0])[0] - measure(moved[1])[0]) / 2e-5
            assert measure(values)[1][row] == pytest.approx(numeric, rel=1e-4, abs=1e-6)


def test_intensities_are_those_of_pymatgen_apart_from_dispersion_and_motion():
    table, frame = model(rutile(), **{"u:Ti1": 0.0, "u:O1": 0.0})
    phase = frame.phases[0]
    profile = evaluate(frame, table, table.vector()).phases[0]
    first = phase.wavelength == CU.main
    mine = {
        round(float(t), 2): area
        for t, area in zip(phase.bragg[first], profile.areas[first], strict=True)
    }
    theirs = XRDCalculator(CU.main).get_pattern(rutile(), two_theta_range=(20, 95))
    strong = theirs.y > 10
    top = max(mine.values())
    for place, height in zip(theirs.x[strong], theirs.y[strong], strict=True):
        nearest = min(mine, key=lambda t: abs(t - place))
        assert nearest == pytest.approx(place, abs=0.02)
        assert 100 * mine[nearest] / top == pytest.approx(height, abs=6)


def test_structure_factors_are_those_of_gemmi():
    table, frame = model(quartz(), **{"u:Si1": 0.01, "u:O1": 0.01})
    small = gemmi.SmallStructure()
    small.cell = gemmi.UnitCell(4.913, 4.913, 5.405, 90, 90, 120)
    small.spacegroup_hm = "P 32 2 1"
    for site in table.units[0].sites:
        atom = gemmi.SmallStructure.Site()
        atom.label, atom.element = site.label, gemmi.Element(site.element)
        atom.fract = gemmi.Fractional(*site.frac)
        atom.u_iso, atom.occ = 0.01, 1.0
        small.add_site(atom)
    small.determine_and_set_spacegroup("H2S")
    small.change_occupancies_to_crystallographic()
    calculator = gemmi.StructureFactorCalculatorX(small.cell)
    energy = gemmi.hc / CU.main
    for element in ("Si", "O"):
        f1, _ = gemmi.cromer_liberman(gemmi.Element(element).atomic_number, energy)
        calculator.addends.set(gemmi.Element(element), f1)
    profile = evaluate(frame, table, table.vector()).phases[0]
    for hkl, square in zip(frame.phases[0].hkl[:12], profile.squares, strict=False):
        theirs = abs(calculator.calculate_sf_from_small_structure(small, hkl.tolist())) ** 2
        assert square == pytest.approx(theirs, rel=0.01, abs=3)


def test_axial_divergence_has_the_moments_of_finger_cox_and_jephcoat():
    bragg, ratio = np.array([20.0]), 0.04
    shift, weight, *_ = axial_nodes(bragg, ratio, 24)
    t = np.linspace(0, ratio, 200_001)[1:]
    phi = np.arccos(np.cos(np.radians(20)) * np.sqrt(1 + t**2))
    density = (1 - t / ratio) / ((1 + t**2) * np.sin(phi))
    mean = np.degrees((density * phi).sum() / density.sum()) - 20
    assert float((shift * weight).sum()) == pytest.approx(mean, rel=1e-4)
    assert mean < 0, "below 90° the tail is on the side of low angles"


def test_transmission_of_a_capillary_is_the_integral_over_its_cross_section():
    mu_r, r = 1.5, np.linspace(-1, 1, 401)
    x, y = np.meshgrid(r, r)
    inside = x**2 + y**2 < 1
    x, y = x[inside], y[inside]
    for theta in (10.0, 45.0, 80.0):
        out = np.radians(2 * theta)
        along = x * np.cos(out) + y * np.sin(out)
        across = -x * np.sin(out) + y * np.cos(out)
        path = x + np.sqrt(1 - y**2) + np.sqrt(1 - across**2) - along
        whole = np.exp(-mu_r * path).mean()
        fitted, _ = capillary(mu_r, np.array([np.sin(np.radians(theta)) ** 2]))
        assert fitted[0] == pytest.approx(whole, rel=0.02)


def test_rutile_with_noise_is_refined_to_the_truth_within_its_errors(example):
    _, truth, fit = example
    assert fit.r_values["gof"] == pytest.approx(1, abs=0.05)
    for name in ("a", "c", "x:O1", "u:O1", "u:Ti1", "displacement"):
        off = fit.values[name] - truth[name].value
        assert abs(off) < 3 * fit.uncertainties[name], name
    assert fit.engine == "rietveld"
    assert fit.space_group == 136
    assert not any("u:" in text for text in fit.warnings)


def test_r_values_are_their_definitions(example):
    fit = example[2]
    y, c, w = fit.observed, fit.calculated, 1 / fit.sigma**2
    assert fit.r_wp == pytest.approx(r_wp(y, c, fit.sigma))
    assert fit.r_values["r_p"] == pytest.approx(100 * np.abs(y - c).sum() / y.sum())
    assert fit.n_observations == len(y)
    expected = 100 * np.sqrt((len(y) - fit.n_parameters) / (w * y**2).sum())
    assert fit.r_values["r_exp"] == pytest.approx(expected)
    assert fit.r_values["gof"] == pytest.approx(fit.r_wp / expected)
    assert fit.r_values["r_bragg"] < 3


@pytest.mark.slow
def test_special_positions_never_move():
    pattern, _ = simulated(quartz(), seed=3, high=80)
    fit = refine(pattern, quartz())
    table, unit = fit.table, fit.table.units[0]
    free = {n for n in table.free if n[:2] in ("x:", "y:", "z:")}
    silicon, oxygen = unit.sites
    assert (len(silicon.free), silicon.multiplicity, len(oxygen.free)) == (1, 3, 3)
    assert len(free) == 4
    fixed = [k for k in range(3) if silicon.free[0, k] == 0]
    values = [table[f"{'xyz'[k]}:Si1"].value for k in fixed]
    assert values == pytest.approx(silicon.frac[fixed].tolist(), abs=1e-12)
    again = asymmetric_unit(fit.structure, symprec=1e-4)
    assert (again.space_group, len(again.sites)) == (154, 2)
    with pytest.raises(ValueError, match="by symmetry"):
        table.edit(f"{'xyz'[fixed[0]]}:Si1", refine=True)


@pytest.mark.parametrize("number", [1, 4, 8, 36, 76, 99, 143, 160])
def test_one_site_holds_the_origin_of_polar_groups(number):
    systems = {
        1: (4, 5, 6, 80, 85, 95),
        4: (4, 5, 6, 90, 100, 90),
        8: (4, 5, 6, 90, 100, 90),
    }
    systems |= {36: (4, 5, 6, 90, 90, 90), 76: (4, 4, 6, 90, 90, 90)}
    cell = systems.get(number, (8, 8, 9, 90, 90, 90 if number == 99 else 120))
    structure = Structure.from_spacegroup(
        number,
        Lattice.from_parameters(*cell),
        ["Pb", "O"],
        [[0.1, 0.27, 0.3], [0.4, 0.05, 0.7]],
    )
    unit = asymmetric_unit(structure)
    table = first_table((unit,), PROFILE, background=1)
    total = sum(len(s.free) for s in unit.sites)
    free = [r for r in table.rows if r.name[:2] in ("x:", "y:", "z:") and not r.tie]
    assert len(free) == total - len(unit.polar)


def anatase():
    return Structure.from_spacegroup(
        "I4_1/amd", Lattice.tetragonal(3.7845, 9.5143), ["Ti", "O"],
        [[0, 0, 0], [0, 0, 0.208]],
    )  # fmt: skip


def write_p21n(path):
    """A CIF in P2_1/n, which is refined in P2_1/c."""
    path.write_text(
        "data_x\n_cell_length_a 5.0\n_cell_length_b 6.0\n_cell_length_c 7.0\n"
        "_cell_angle_alpha 90\n_cell_angle_beta 100\n_cell_angle_gamma 90\n"
        "_symmetry_space_group_name_H-M 'P 1 21/n 1'\nloop_\n_atom_site_label\n"
        "_atom_site_type_symbol\n_atom_site_fract_x\n_atom_site_fract_y\n_atom_site_fract_z\n"
        "Ca1 Ca 0.1 0.2 0.3\nO1 O 0.35 0.45 0.05\n"
    )
    return path


@pytest.mark.parametrize("hkl", [(1, 0, 0), (0, 1, 0), (0, 0, 1), (1, 1, 1), (2, -1, 3)])
@pytest.mark.parametrize("kind", ["primitive", "P2_1/n", "standard"])
def test_a_texture_axis_is_that_of_the_structure_as_given(tmp_path, kind, hkl):
    given, source = (anatase(),) * 2
    if kind == "primitive":
        given = source = anatase().get_primitive_structure()
    elif kind == "P2_1/n":
        source = write_p21n(tmp_path / "n.cif")
        given = read_cif(str(source))
    unit = asymmetric_unit(source)
    axis = unit.direction(hkl)
    spacings = given.lattice.d_hkl(hkl), Lattice.from_parameters(*unit.cell).d_hkl(axis)
    times = max(spacings) / min(spacings)
    assert times == pytest.approx(round(times), abs=1e-3)  # orders of one reflection
    if kind == "standard":
        assert sorted(map(abs, axis)) == sorted(map(abs, hkl))


def test_a_cif_keeps_its_own_space_group_in_another_setting(tmp_path):
    path = write_p21n(tmp_path / "other.cif")
    unit = asymmetric_unit(path)
    assert (unit.space_group, unit.symbol) == (14, "P2_1/c")
    lines = XRDCalculator(CU.main).get_pattern(
        read_cif(str(path)), two_theta_range=(10, 40)
    )
    table = first_table((unit,), PROFILE, background=1)
    bragg = make_frame(observations(points(10, 40)), table).phases[0].bragg
    assert all(
        np.abs(bragg - x).min() < 0.02
        for x, y in zip(lines.x, lines.y, strict=True)
        if y > 1
    )


@pytest.mark.slow
def test_mixed_sites_share_place_and_displacement_and_can_exchange():
    unit = asymmetric_unit(mixed())
    table = first_table((unit,), PROFILE, background=2)
    assert table["x:Sr1"].tie == "x:La1"
    assert table["u:Sr1"].tie == "u:La1"
    pattern, _ = simulated(mixed(), seed=4, high=90)
    fit = refine(pattern, mixed(), background=2)
    table = fit.table.edit("occupancy:Sr1", tie="1 - occupancy:La1")
    again = refine(pattern, table.edit("occupancy:La1", refine=True, value=0.5))
    assert (
        abs(again.values["occupancy:La1"] - 0.6) < 4 * again.uncertainties["occupancy:La1"]
    )
    assert again.values["occupancy:Sr1"] == pytest.approx(1 - again.values["occupancy:La1"])


@pytest.mark.slow
def test_only_occupancies_that_the_pattern_can_tell_are_refined():
    def salt(potassium):
        species = [{"K": potassium, "Na": 1 - potassium}, "Cl"]
        places = [[0, 0, 0], [0.5, 0.5, 0.5]]
        return Structure.from_spacegroup("Fm-3m", Lattice.cubic(5.96), species, places)

    pattern, _ = simulated(salt(0.5), seed=30)
    fit = refine(pattern, salt(0.7), occupancies=True, background=3, texture=None)
    first, last = (s.label for s in fit.table.units[0].sites if s.element != "Cl")
    one, other = fit.table[f"occupancy:{first}"], fit.table[f"occupancy:{last}"]
    assert abs(one.value - 0.5) < 3 * one.esd
    assert one.esd < 0.05
    assert other.tie == f"1 - occupancy:{first}"
    assert one.value + other.value == pytest.approx(1, abs=1e-9)
    assert other.esd == pytest.approx(one.esd)
    chlorine = fit.table["occupancy:Cl1"]
    assert (chlorine.value, chlorine.refine) == (1, False)


def test_sums_of_occupancies_stay_in_every_phase_and_lone_partial_sites_are_free():
    partial = Structure.from_spacegroup(
        "Fm-3m", Lattice.cubic(4.3), [{"Fe": 0.9}, "O"], [[0, 0, 0], [0.5, 0.5, 0.5]]
    )
    three = Structure(
        Lattice.cubic(4), [{"Ca": 0.2, "Sr": 0.3, "Ba": 0.4}, "O"], [[0, 0, 0], [0.5] * 3]
    )
    table = exchanging(model(partial, three)[0])
    table = freed(table, Stage("occupancies", ("occupancy",)))
    labels = [site.label for site in table.units[1].sites if site.element != "O"]
    one, two, last = (f"phase1/occupancy:{label}" for label in labels)
    assert set(table.free) == {"occupancy:Fe1", one, two}
    assert table[last].tie == f"0.9 - {one} - {two}"
    assert table[one].high == pytest.approx(0.9)


@pytest.mark.slow
@pytest.mark.parametrize("shares", [(0.6, 0.0, 0.4), (0.0, 0.45, 0.55), (0.35, 0.65, 0)])
def test_no_share_of_three_on_a_site_becomes_negative_and_the_sum_stays(shares):
    metals = ("Ca", "Sr", "Ba")

    def oxide(shares):
        site = {m: s for m, s in zip(metals, shares, strict=True) if s}
        places = [[0, 0, 0], [0.5, 0.5, 0.5]]
        return Structure.from_spacegroup("Fm-3m", Lattice.cubic(5.1), [site, "O"], places)

    pattern, _ = simulated(oxide(shares), seed=31)
    start = oxide((0.3, 0.3, 0.4))
    what = {"background": 3, "texture": None, "displacement": "overall"}
    fit = refine(pattern, start, occupancies=True, **what)
    found = [fit.values[f"occupancy:{m}1"] for m in metals]
    assert min(found) >= -1e-8
    assert sum(found) == pytest.approx(1, abs=1e-8)
    electrons = np.array([20, 38, 56])
    assert electrons @ found == pytest.approx(electrons @ shares, abs=1)
    again = refine(pattern, fit.table)
    assert again.r_wp == pytest.approx(fit.r_wp, abs=0.01)


@pytest.mark.slow
def test_weight_fractions_of_a_mixture_come_out():
    halite = Structure.from_spacegroup(
        "Fm-3m", Lattice.cubic(5.64), ["Na", "Cl"], [[0, 0, 0], [0.5, 0.5, 0.5]]
    )
    start = {"scale": 30.0, "phase1/scale": 20.0, "background:0": 50.0}
    table, frame = model(rutile(), halite, **start)
    fit = refine(counted(table, frame, 5), rutile(a=4.597), phases=[halite])
    masses = [0.3 * rutile().density, 0.2 * halite.density]
    name = "NaCl/weight_fraction"
    off = fit.values[name] - masses[1] / sum(masses)
    assert abs(off) < 4 * fit.uncertainties[name]
    assert fit.values["weight_fraction"] + fit.values[name] == pytest.approx(1)


@pytest.mark.slow
def test_esds_agree_with_the_spread_of_repeated_measurements():
    table, frame = model(
        rutile(), pattern=points(20, 75, 0.05), **{"scale": 20.0, "background:0": 40.0}
    )
    for name in (
        "scale",
        "a",
        "c",
        "x:O1",
        "u:*",
        "W",
        "X",
        "background:*",
        "displacement",
    ):
        table = table.edit(name, refine=True)
    found, said = [], []
    for seed in range(24):
        pattern = counted(table, frame, seed)
        own = make_frame(observations(pattern), table)
        *_, state = minimise(own, table)
        spread, _ = covariance(state, np.zeros(len(state.free), bool))
        found.append(state.values)
        said.append(np.sqrt(np.diag(spread)))
    for name in ("a", "c", "x:O1", "u:Ti1"):
        row = table.place(name)
        ratio = np.std([v[row] for v in found], ddof=1) / np.mean([s[row] for s in said])
        assert 0.65 < ratio < 1.45, f"{name}: {ratio:.2f}"


def test_what_rests_at_a_limit_is_taken_for_known_and_that_is_said():
    pattern, _ = simulated(rutile(), seed=3, high=80, step=0.05, asymmetry=0.0)
    fit = refine(pattern, rutile(), texture=None)
    assert fit.values["asymmetry"] == 0
    assert abs(fit.values["a"] - 4.594) < 3 * fit.uncertainties["a"]
    said = [text for text in fit.warnings if "take what is at a limit for known" in text]
    assert len(said) == 1
    assert "displacement, a, c" in said[0]
    told = float(said[0].split("up to ")[1].split()[0])
    assert 1.5 < told < 6
    fixed = refine(pattern, fit.table.edit("asymmetry", refine=False))
    assert fixed.uncertainties["a"] == pytest.approx(fit.uncertainties["a"], rel=0.01)
    assert not any("take what" in text for text in fixed.warnings)


def test_lines_without_intensity_are_counted_not_listed():
    pattern, _ = simulated(rutile(), seed=4, high=60, step=0.05)
    fit = pawley(pattern, (4.594, 4.594, 5.918, 90, 90, 90), "P4/mmm", background=3)
    said = [text for text in fit.warnings if "intensit" in text]
    assert len(said) <= 2
    assert " intensities are zero" in said[0]


@pytest.mark.slow
def test_another_polarisation_is_found_where_the_pattern_asks_for_it():
    pattern, _ = simulated(rutile(), seed=40, high=140)
    fit = refine(pattern, rutile(), background=3, texture=None)
    assert "polarisation" not in fit.table
    wrong = replace(pattern, radiation=replace(CU, polarisation=0.95))
    fit = refine(wrong, rutile(), background=3, texture=None)
    esd = fit.uncertainties["polarisation"]
    assert abs(fit.values["polarisation"] - 0.5) < 4 * esd < 0.2
    assert fit.radiation.polarisation == fit.values["polarisation"]
    assert fit.r_values["gof"] < 1.1
    again = refine(wrong, fit.table)
    assert again.r_wp == pytest.approx(fit.r_wp, abs=1e-3)


@pytest.mark.slow
def test_a_rough_surface_is_found_where_the_pattern_asks_for_it():
    pattern, _ = simulated(rutile(), seed=41, high=120, roughness=0.6)
    fit = refine(pattern, rutile(), background=3, texture=None)
    assert fit.values["roughness"] > 0.2
    assert fit.r_values["gof"] < 1.1
    assert min(v for k, v in fit.values.items() if k.startswith("u:")) > 0


def test_atoms_that_meet_are_pushed_apart_and_others_are_not():
    apart = Apart(0.02)
    table, _ = model(rutile())
    assert not len(pulls(table, table.vector(), (apart,))[0])
    table = table.edit("x:O1", value=0.18)  # Ti–O of 1.17 Å
    pull, slopes = pulls(table, table.vector(), (apart,))
    lacking = too_close(table, table.vector(), 0)
    lengths = [distance(table, table.vector(), 0, c)[0] for c, _ in lacking]
    assert pull == pytest.approx([(limit - d) / 0.02 for (_, limit), d in
                                  zip(lacking, lengths, strict=True)])  # fmt: skip
    assert 1.16 < min(lengths) < 1.18
    assert (slopes.T @ pull)[table.place("x:O1")] > 0


@pytest.mark.slow
def test_atoms_that_the_pattern_does_not_see_stay_near_where_they_were():
    def hydride(x):
        places = [[0, 0, 0], [0.5, 0.5, 0.5], [x, x, x]]
        return Structure.from_spacegroup(
            "Pa-3", Lattice.cubic(5.5), ["Pb", "U", "H"], places
        )

    pattern, _ = simulated(hydride(0.30), seed=42, scale=0.3)
    fit = refine(pattern, hydride(0.31), background=3, texture=None)
    value, width = fit.table["x:H1"].restraint
    assert value == pytest.approx(asymmetric_unit(hydride(0.31)).sites[-1].frac[0])
    assert width * 5.5 == pytest.approx(0.1, rel=0.01)
    assert any(w.startswith("H1: hardly seen by the pattern") for w in fit.warnings)
    assert abs(fit.values["x:H1"] - value) * 5.5 * 3**0.5 < 0.2
    assert fit.table["x:H1"].esd * 5.5 < 0.11


def test_texture_axes_that_symmetry_repeats_are_tried_once():
    tetragonal, trigonal = (
        distinct_axes(model(make())[0].units[0].rotations) for make in (rutile, quartz)
    )
    assert tetragonal == [(0, 0, 1), (1, 0, 0), (1, 1, 0), (1, 0, 1), (1, 1, 1)]
    assert (0, 1, 0) not in trigonal
    assert distinct_axes(-np.eye(3, dtype=int)[None]) == list(AXES)


@pytest.mark.slow
def test_texture_is_found_along_its_axis():
    start = {"scale": 30.0, "background:0": 60.0}
    table, _ = model(rutile(), texture=(0, 0, 1), pattern=points(15, 80), **start)
    table = table.edit("texture", value=0.75)
    frame = make_frame(observations(points(15, 80)), table)
    fit = refine(counted(table, frame, 6), rutile())
    assert fit.table.texture == (0, 0, 1)
    assert abs(fit.values["texture"] - 0.75) < 4 * fit.uncertainties["texture"]


def urania(u, o):
    """Uranium and oxygen with one free coordinate each; the former has a false minimum."""
    return Structure.from_spacegroup(
        "P-62m", Lattice.hexagonal(6.8, 4.1), ["U", "O", "O", "O"],
        [[u, 0, 0], [0.36, 0, 0.5], [1 / 3, 2 / 3, 0], [o, 0, 0]],
    )  # fmt: skip


@pytest.mark.slow
def test_a_false_minimum_of_a_coordinate_is_left():
    pattern, _ = simulated(urania(0.65, 0.25))
    fit = refine(pattern, urania(0.69, 0.275), symprec=1e-3)
    assert abs(fit.values["x:U1"] - 0.65) < 4 * fit.uncertainties["x:U1"]
    assert abs(fit.values["x:O3"] - 0.25) < 4 * fit.uncertainties["x:O3"]
    assert fit.r_values["gof"] == pytest.approx(1, abs=0.05)


def test_the_same_lines_at_other_coordinates_are_what_is_calculated_anew():
    table, frame = model(quartz(), scale=2.0)
    now = evaluate(frame, table, table.vector())
    values = table.edit("x:O1", value=0.40).edit("u:Si1", value=0.01).vector()
    there = evaluate(frame, table, values)
    moved = there.background + same_lines(now, frame, table, values)
    tails = 2e-3 * there.curve.max()  # where lines end depends on their intensity
    np.testing.assert_allclose(moved, there.curve, atol=tails)


@pytest.mark.slow
def test_a_stage_that_helps_much_is_kept_though_atoms_come_close_and_it_is_said():
    def layers(z, *lithium):
        places = [[0, 0, 0], [0.5, 0.5, z], *lithium]
        species = ["Ba", "U", "Li"][: len(places)]
        return Structure.from_spacegroup(
            "P4/mmm", Lattice.tetragonal(4, 12), species, places
        )

    pattern, _ = simulated(layers(0.33))
    fit = refine(pattern, layers(0.29, [0.5, 0.5, 0.5]), symprec=1e-3)
    z = fit.values["z:U1"]
    assert min(z, 1 - z) == pytest.approx(0.33, abs=0.003)
    assert any("U1 and Li1 are only 2.0" in text for text in fit.warnings), fit.warnings


def test_a_texture_that_stood_for_something_else_is_left_out_again():
    pattern, _ = simulated(rutile(), seed=40, high=100, step=0.05)
    wrong = replace(pattern, radiation=replace(CU, polarisation=0.95))
    fit = refine(wrong, rutile(), background=3)
    assert "polarisation" in fit.table.free
    assert fit.table.texture is None
    assert fit.values["texture"] == 1


def test_with_the_instrument_given_size_and_strain_mean_something():
    pattern, truth = simulated(rutile(), seed=7, size=600.0)
    fit = refine(pattern, rutile(), instrument=PROFILE)
    assert {fit.table[n].refine for n in ("U", "V", "W", "X", "Y", "asymmetry")} == {False}
    assert abs(fit.values["size"] - truth["size"].value) < 4 * fit.uncertainties["size"]


def test_size_and_strain_that_the_pattern_does_not_show_are_left_out():
    pattern, _ = simulated(rutile(), seed=13, high=80)
    fit = refine(pattern, rutile(), instrument=PROFILE)
    assert fit.values["size"] == np.inf
    assert fit.values["strain"] == 0
    assert {"size", "strain"}.isdisjoint(fit.uncertainties)


def test_gaussian_widths_stay_positive_over_the_whole_range():
    pattern, _ = simulated(rutile(), seed=8, high=140, U=-0.0003, V=0.0002, W=0.004)
    fit = refine(pattern, rutile())
    frame = make_frame(observations(pattern), fit.table)
    assert narrowest(frame, fit.table, fit.table.vector())[1] > -1e-6


def test_points_of_zero_over_a_background_have_no_weight():
    pattern, _ = simulated(rutile(), seed=9, high=60)
    y = pattern.intensity.copy()
    y[-2:] = 0
    data = observations(replace(pattern, intensity=y, sigma=np.sqrt(np.maximum(y, 1))))
    assert (data.weight[-2:] == 0).all()
    assert data.count == len(y) - 2


def test_excluded_ranges_are_left_out():
    pattern, _ = simulated(rutile(), seed=10, high=60)
    data = observations(pattern, ((26.0, 30.0),))
    assert not ((data.two_theta > 26) & (data.two_theta < 30)).any()


def test_without_sigma_there_is_neither_r_exp_nor_gof_but_esds(example):
    pattern, _, _ = example
    bare = replace(pattern, sigma=None, sigma_source="unknown")
    fit = refine(bare, example[2].table)
    assert {"r_exp", "gof"}.isdisjoint(fit.r_values)
    assert fit.sigma is None
    assert 0 < fit.uncertainties["a"] < 1e-3


@pytest.mark.slow
def test_restraints_hold_a_distance():
    pattern, _ = simulated(quartz(), seed=12, scale=0.5, high=60)
    fit = refine(pattern, quartz(), restraints=[Restraint(("Si", "O"), 1.70, 0.001)])
    bonds = [b for b in geometry(fit).bonds if b.atoms == ("Si1", "O1")]
    assert all(b.value == pytest.approx(1.70, abs=0.02) for b in bonds)
    with pytest.raises(ValueError, match="no such atoms"):
        refine(pattern, quartz(), restraints=[Restraint(("Si", "Pb"), 1.7, 0.01)])
    with pytest.raises(ValueError, match="two \\(distance\\)"):
        Restraint(("Si",), 1.6, 0.1)


def counted_pulls(structure, *atoms, target):
    """How many observations a restraint is."""
    table, _ = model(structure)
    return len(pulls(table, table.vector(), (Restraint(atoms, target, 0.01),))[0])


@pytest.mark.parametrize("make", [rutile, quartz])
@pytest.mark.parametrize(("one", "other"), [("metal", "O"), ("O", "O")])
def test_a_restraint_counts_every_bond_that_symmetry_does_not_repeat(make, one, other):
    structure = make()
    metal = structure[0].specie.symbol
    one = metal if one == "metal" else one
    number = structure.get_space_group_info()[1]
    found = structure.get_symmetric_neighbor_list(1.3 * 2.2, number, unique=True)
    centres, points, _, distances, kinds, _ = found
    bonds = {
        int(kind)
        for i, j, d, kind in zip(centres, points, distances, kinds, strict=True)
        if sorted((structure[i].specie.symbol, structure[j].specie.symbol))
        == sorted((one, other)) and d < 1.3 * 2.2
    }  # fmt: skip
    assert counted_pulls(structure, one, other, target=2.2) == len(bonds)


def test_bonds_of_one_length_are_two_observations_unless_symmetry_makes_them_one():
    far = [[0.17, 0, 0], [0, 0.17, 0]]
    bent = Structure(Lattice.cubic(10), ["S", "O", "O"], [[0, 0, 0], *far])
    assert len(asymmetric_unit(bent).sites) == 2  # a mirror makes one O of the other
    assert counted_pulls(bent, "S", "O", target=1.7) == 1
    bent.append("Cl", [0.2, 0.45, 0.37])  # nothing is left of it
    assert counted_pulls(bent, "S", "O", target=1.7) == 2
    assert counted_pulls(bent, "O", "S", "O", target=90) == 1


def test_bond_valence_sums_are_the_valences(example):
    sums = geometry(example[2]).valences
    assert sums["Ti1"] == pytest.approx(4, abs=0.5)
    assert sums["O1"] == pytest.approx(2, abs=0.3)


def anion(center, length, corners):
    """A centre with oxygen around it along directions, far from any other."""
    around = np.array(corners) / np.linalg.norm(corners[0]) * length / 12 + 0.5
    species = [center] + ["O"] * len(corners)
    return Structure(Lattice.cubic(12), species, [[0.5] * 3, *around])


TRIANGLE = [[1, 0, 0], [-0.5, 0.75**0.5, 0], [-0.5, -(0.75**0.5), 0]]
TETRAHEDRON = [[1, 1, 1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1]]


@pytest.mark.parametrize(
    ("center", "length", "corners", "valence"),
    [
        ("N", 1.24, TRIANGLE, 5),
        ("Cl", 1.43, TETRAHEDRON, 7),
        ("S", 1.473, TETRAHEDRON, 6),
        ("C", 1.284, TRIANGLE, 4),
    ],
)
def test_valences_of_oxyanions_are_those_of_their_centres(center, length, corners, valence):
    table, _ = model(anion(center, length, corners))
    sums = valence_sums(table, table.vector(), 0)
    oxygen = [value for label, value in sums.items() if label[0] == "O"]
    assert sums[f"{center}1"] == pytest.approx(valence, rel=0.1)
    sites = {site.label: site.multiplicity for site in table.units[0].sites}
    share = sum(sums[label] * n for label, n in sites.items() if label[0] == "O")
    assert share == pytest.approx(sums[f"{center}1"]), "O–O adds nothing"
    assert min(oxygen) == pytest.approx(max(oxygen), rel=1e-4)


def test_anions_that_are_not_bonded_add_nothing_to_each_others_valence():
    table, _ = model(anion("Cl", 3.0, TETRAHEDRON))
    assert set(valence_sums(table, table.vector(), 0).values()) == {0.0}


def test_a_table_is_edited_rerun_and_undone(example):
    pattern, _, fit = example
    table = fit.table.edit("u:*", refine=False, value=0.02)
    again = refine(pattern, table)
    assert again.values["u:O1"] == 0.02
    assert "u:O1" not in again.uncertainties
    assert again.r_wp > fit.r_wp
    assert table.undo()["u:O1"].value == fit.values["u:O1"]
    assert table.history[-1].startswith("u:*")
    frame = fit.table.frame()
    frame.loc["zero", "refine"] = True
    assert fit.table.from_frame(frame)["zero"].refine
    assert "<table>" in table._repr_html_()
    assert "x:O1" in table._repr_html_()
    assert ">y:O1<" not in table._repr_html_(), "what symmetry fixes is not shown"


def test_ties_are_sums_and_anything_else_is_refused():
    assert parse_tie("0.5 + 2*x:O1 - z:O1") == ({"x:O1": 2.0, "z:O1": -1.0}, 0.5)
    assert parse_tie("1 - occupancy:Sr1") == ({"occupancy:Sr1": -1.0}, 1.0)
    table, _ = model(rutile())
    for text, message in (
        ("x:O1 * x:O1", "not a sum"), ("nothing", "no parameter"), ("1" * 300, "300"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=message):
            table.edit("u:O1", tie=text)
    circle = table.edit("u:O1", tie="u:Ti1")
    with pytest.raises(ValueError, match="circle"):
        circle.edit("u:Ti1", tie="u:O1")
    with pytest.raises(ValueError, match="cannot be refined"):
        circle.edit("u:O1", refine=True)
    with pytest.raises(ValueError, match="nothing to undo"):
        table.undo()
    with pytest.raises(ValueError, match="cannot be edited"):
        table.edit("u:O1", name="x")
    with pytest.raises(ValueError, match="are empty"):
        table.edit("u:O1", low=1.0, high=0.0)


def test_stopping_leaves_the_last_good_state():
    pattern, _ = simulated(rutile(), seed=15, high=70)
    steps = refine_steps(pattern, rutile(a=4.60))
    seen = [next(steps) for _ in range(20)]
    steps.close()
    assert seen[-1].best.r_wp <= seen[0].best.r_wp
    assert seen[-1].best.structure.composition.reduced_formula == "TiO2"
    assert all(p.total >= p.done >= 0 for p in seen)
    resumed = refine(pattern, seen[-1].best.table)
    assert resumed.r_wp <= seen[-1].best.r_wp + 1e-6


def test_trials_within_a_cycle_are_told_of_with_the_fit_of_the_last_cycle():
    pattern, _ = simulated(rutile(), seed=15, high=70)
    seen = list(refine_steps(pattern, rutile(a=4.60)))
    within = [now.stage for last, now in pairwise(seen) if now.best is last.best]
    assert within.count("texture") >= len(AXES)
    assert all(now.done <= now.total for now in seen)


def test_refinement_from_a_fit_goes_on_with_its_structure(example):
    pattern, _, fit = example
    again = refine(pattern, fit)
    assert again.values["a"] == pytest.approx(fit.values["a"], abs=2e-4)


def test_correlations_above_09_are_named(example):
    pattern, _, fit = example
    both = refine(pattern, fit.table.edit("zero", refine=True))
    pairs = [{one, other} for one, other, r in both.correlations if abs(r) > 0.9]
    assert {"zero", "displacement"} in pairs


def test_berar_and_lelann_is_one_for_white_noise_and_more_for_runs():
    noise = np.random.default_rng(0).normal(size=200_000)
    assert berar_lelann(noise) == pytest.approx(1, abs=0.02)
    runs = np.convolve(noise, np.ones(9) / 3, "same")
    assert berar_lelann(runs) > 2


def test_numbers_are_written_with_their_esds():
    assert with_esd(1.53214, 0.0042) == "1.532(4)"
    assert with_esd(109.47, 1.3) == "109.5(13)"
    assert with_esd(2.0, 0.0) == "2"


def test_pawley_finds_the_cell_and_a_floor_for_r_wp(example):
    pattern, truth, fit = example
    floor = pawley(pattern, (4.600, 4.600, 2.963, 90, 90, 90), "P4_2/mnm")
    assert abs(floor.values["a"] - truth["a"].value) < 4 * floor.uncertainties["a"]
    assert floor.r_wp < fit.r_wp + 0.03
    assert len(floor.structure) == 0
    wrong = pawley(pattern, (4.2, 4.2, 3.3, 90, 90, 90), 136)
    assert wrong.r_wp > 2 * floor.r_wp
    with pytest.raises(ValueError, match="give a, b, c"):
        pawley(pattern, (4, 4, 4, 90, 90, 200), 136)


@pytest.mark.slow
def test_pawley_ends_below_the_structure_with_the_same_background(example):
    pattern, _, fit = example
    cell = [fit.values[k] for k in ("a", "b", "c", "alpha", "beta", "gamma")]
    terms = len(fit.table.matching("background:*"))
    floor = pawley(pattern, cell, 136, background=terms)
    assert 0.97 * fit.r_wp < floor.r_wp < fit.r_wp
    wide = pawley(pattern, [1.002 * v for v in cell[:3]] + cell[3:], 136, background=terms)
    assert wide.r_wp == pytest.approx(floor.r_wp, abs=0.03)


def test_what_cannot_be_refined_is_said(tmp_path):
    pattern, _ = simulated(rutile(), seed=19, high=70)
    small = Structure(Lattice.cubic(1.2), ["H"], [[0, 0, 0]])
    heavy = Structure(Lattice.cubic(4), ["Es"], [[0, 0, 0]])
    close = Structure(Lattice.cubic(5), ["Ti", "O"], [[0, 0, 0], [0.02, 0.03, 0.03]])
    full = Structure(Lattice.cubic(5), ["Ti", "O"], [[0, 0, 0], [0.001, 0, 0]])
    for structure, message in (
        (small, "no reflection"), (heavy, "Es"), (close, "apart"), (full, "sum to 2"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=message):
            refine(pattern, structure)
    with pytest.raises(ValueError, match="was prepared"):
        refine(prepare(pattern), rutile())
    with pytest.raises(FileNotFoundError):
        refine(pattern, tmp_path / "none.cif")
    with pytest.raises(ValueError, match="phase 3"):
        refine(pattern, rutile(), restraints=[Restraint(("Ti", "O"), 1.9, 0.1, phase=3)])


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda x, y, s: (x[:2], y[:2], s[:2]), "2 points, at least 30 are needed"),
        (lambda x, y, s: (x[:0], y[:0], s[:0]), "0 points, at least 30 are needed"),
        (lambda x, y, s: (x[::-1], y[::-1], s), "do not rise from point to point"),
        (lambda x, y, s: (np.repeat(x, 2), np.repeat(y, 2), None), "do not rise"),
        (lambda x, y, s: (2 * x, y, s), "30 to 199.* between 0 and 180"),
        (
            lambda x, y, s: (x, np.where(x < 20, np.nan, y), s),
            r"at 100 points, first at 15",
        ),
        (lambda x, y, s: (x, y, 0 * s), "0 points with a positive σ"),
        (lambda x, y, s: (x, 0 * y + 7, s), "intensity 7 everywhere"),
    ],
)
def test_what_is_no_scan_is_refused_by_name(change, said):
    x = np.arange(15, 100, 0.05)
    y = np.exp(-((x - 40) ** 2)) + 1
    angles, intensity, sigma = change(x, y, np.sqrt(y))
    pattern = Pattern(angles, intensity, CU, sigma, name="scan")
    for fit in (refine, lambda p, _: pawley(p, (4.6, 4.6, 3, 90, 90, 90), 136)):
        with pytest.raises(ValueError, match=f"scan .*{said}"):
            fit(pattern, rutile())


def test_points_below_zero_and_without_sigma_do_no_harm():
    pattern, _ = simulated(rutile(), seed=19, high=70)
    sigma = np.where(pattern.two_theta < 20, np.nan, pattern.sigma)
    below = replace(pattern, intensity=pattern.intensity - 200, sigma=sigma)
    fit = refine(below, rutile())
    assert fit.values["a"] == pytest.approx(4.594, abs=5 * fit.uncertainties["a"])
    assert fit.n_observations == int((pattern.two_theta >= 20).sum())


def test_a_structure_that_is_not_there_is_refused():
    pattern, _ = simulated(rutile(), seed=20, high=70)
    wrong = Structure.from_spacegroup(
        "Fm-3m", Lattice.cubic(5.1), ["Na", "Cl"], [[0, 0, 0], [0.5, 0.5, 0.5]]
    )
    with pytest.raises(ValueError, match="explains nothing"):
        refine(pattern, wrong)


def test_singular_parameters_are_named_and_do_no_harm(example):
    pattern, _, fit = example
    table = fit.table.edit(
        "occupancy:*", refine=True, value=0.9
    )  # with the scale: one too many
    again = refine(pattern, table)
    assert again.r_wp <= fit.r_wp + 0.01
    assert any("not determined" in text for text in again.warnings)


TRUTH = {  # what GSAS-II simulated
    "NaCl": {"a": 5.6402},
    "TiO2": {"a": 4.5937, "c": 2.9587, "x:O1": 0.30478},
    "CaTiO3": {"a": 5.4423, "b": 7.6401, "c": 5.3796, "x:O2": 0.2889, "z:Ca1": 0.9933},
}


@pytest.mark.slow
@pytest.mark.parametrize("name", TRUTH)
def test_simulations_of_gsas2_are_refined_as_well_as_by_itself(shared, name):
    import json

    from xrdkit.formats import read_instrument

    folder = shared / "rietveld"
    beam, _ = read_instrument(folder / "lab.instprm")
    pattern = read(folder / f"{name}_noisy.xye", wavelength=beam)
    fit = refine(pattern, folder / f"{name}_start.cif")
    theirs = json.loads((folder / f"{name}_gsas2_refined.json").read_text())
    assert fit.r_wp <= theirs["Rwp"] + 0.15
    assert fit.n_parameters <= theirs["nvar"]
    for key, value in TRUTH[name].items():
        assert abs(fit.values[key] - value) < 2.5 * fit.uncertainties[key], key


@pytest.mark.slow
@pytest.mark.parametrize(
    ("file", "start", "bond", "length", "limits"),
    [
        ("FAP.XRA", "FAP_start.cif", "P1", 1.53, (9.9, 37)),
        ("PBSO4.XRA", "PbSO4-Wyckoff.cif", "S1", 1.48, (9.4, 35)),
    ],
)
def test_measured_patterns_are_refined_automatically(
    shared, file, start, bond, length, limits
):
    folder = shared / "rietveld"
    fit = refine(read(folder / file, wavelength="CuKa"), folder / start)
    assert fit.r_wp <= limits[0]
    assert fit.n_parameters <= limits[1]
    assert all(v > 0 for k, v in fit.values.items() if k.startswith("u:"))
    found = [b for b in geometry(fit).bonds if b.atoms[0] == bond and b.value < 2]
    mean = np.average([b.value for b in found], weights=[b.count for b in found])
    assert mean == pytest.approx(length, abs=0.03)


def test_instrument_files_of_gsas_and_gsas2_agree(shared, tmp_path):
    from xrdkit.formats import read_instrument

    beam, profile = read_instrument(shared / "rietveld" / "lab.instprm")
    other, old = read_instrument(shared / "rietveld" / "INST_XRY.PRM")
    assert (beam, profile.u, profile.w) == (other, old.u, old.w)
    assert (profile.asymmetry, old.asymmetry) == (0.002, 0.02)


def test_instrument_files_are_read_within_bounds(tmp_path):
    from xrdkit.formats import read_instrument

    path = tmp_path / "x.instprm"
    text = (
        "#GSAS-II\nType:PXC\nLam:0.7\nPolariz.:0.99\nU:1\nV:0\nW:2\nX:3\nY:4\nSH/L:0.01\n"
    )
    path.write_text(text + "Zero:0.02\n")
    beam, profile = read_instrument(path)
    assert (beam.wavelengths, beam.polarisation) == ((0.7,), 0.99)
    assert (profile.w, profile.x) == pytest.approx((2 * 8 * np.log(2) / 1e4, 0.03))
    assert (profile.zero, profile.asymmetry) == (0.02, 0.01)
    for content, message in (
        (text.replace("PXC", "PNT"), "only PXC"), ("hello\n", "no instrument file"),
        (text.replace("U:1", "U:abc"), "number is needed"), ("x" * 200_000, "at most"),
        (text.replace("U:1", "U:nan"), "not finite"), ("INS   HTYPE PNCR\n", "only PXC"),
        ("INS   HTYPE PXCR\n", "no wavelengths"),
        ("INS   HTYPE PXCR\nINS  1 ICONS 1 0 0 0 0.5\nINS  1PRCF1 4 8 0\n", "function 4"),
    ):  # fmt: skip
        path.write_text(content)
        with pytest.raises(ValueError, match=message):
            read_instrument(path)
    with pytest.raises(FileNotFoundError):
        read_instrument(tmp_path / "none.prm")


def test_state_is_exact_again_at_the_end(example):
    pattern, _, fit = example
    frame = make_frame(observations(pattern), fit.table)
    state = state_of(frame, fit.table, fit.table.vector())
    assert 100 * np.sqrt(
        state.chi2 / (frame.data.weight @ pattern.intensity**2)
    ) == pytest.approx(fit.r_wp, abs=1e-3)


def test_a_site_that_moves_onto_an_element_of_symmetry_keeps_its_multiplicity():
    unit = asymmetric_unit(rutile())
    table = first_table((unit,), Instrument(w=0.01), background=1).edit("x:O1", value=0.5)
    owner, _ = atoms_of(table, 0)
    assert len(owner) == 6  # the orbit of (½, ½, 0) has two places, not four
    assert len(phases_of(table)[0].crystal.numbers) == 6


def test_a_table_remembers_the_beam_that_was_found(tmp_path):
    pattern, _ = simulated(rutile(), seed=3, high=80)
    bare = replace(pattern, radiation=replace(pattern.radiation, kalpha2=None))
    fit = refine(bare, rutile())
    again = refine(bare, fit.table)
    assert again.radiation.wavelengths == fit.radiation.wavelengths
    assert again.r_wp == pytest.approx(fit.r_wp, rel=1e-3)


def test_a_purely_lorentzian_instrument_is_refined_too():
    pattern, truth = simulated(rutile(), seed=4, high=80)
    profile = Instrument(u=0.0, v=0.0, w=0.0, x=0.1)
    fit = refine(pattern, rutile(a=4.599), instrument=profile)
    assert fit.values["a"] == pytest.approx(truth["a"].value, abs=2e-3)


def test_two_charges_of_an_element_on_one_site_are_added(tmp_path):
    text = """data_m
_cell_length_a 8.396
_cell_length_b 8.396
_cell_length_c 8.396
_cell_angle_alpha 90
_cell_angle_beta 90
_cell_angle_gamma 90
_symmetry_space_group_name_H-M 'F d -3 m :2'
loop_
_atom_site_label
_atom_site_type_symbol
_atom_site_fract_x
_atom_site_fract_y
_atom_site_fract_z
_atom_site_occupancy
Fe1 Fe3+ 0.125 0.125 0.125 1
Fe2 Fe2+ 0.5 0.5 0.5 0.5
Fe3 Fe3+ 0.5 0.5 0.5 0.5
O1 O2- 0.2549 0.2549 0.2549 1
"""
    (tmp_path / "m.cif").write_text(text)
    unit = asymmetric_unit(tmp_path / "m.cif")
    assert [(s.element, s.occupancy) for s in unit.sites] == [
        ("Fe", 1),
        ("Fe", 1),
        ("O", 1),
    ]
    (tmp_path / "m.cif").write_text(text.replace("O1 O2- 0.2549", "O1 O2- ?"))
    with pytest.raises(ValueError, match=r"atom O1 of m\.cif has no coordinates"):
        asymmetric_unit(tmp_path / "m.cif")


@pytest.mark.slow
def test_factor_of_berar_and_lelann_does_not_depend_on_the_scale_of_the_weights():
    rest = np.random.default_rng(5).normal(size=4000)
    assert berar_lelann(rest) == pytest.approx(1, abs=0.1)
    pattern, _ = simulated(rutile(), seed=6, high=70)
    bare = replace(pattern, sigma=None, sigma_source="unknown")
    fits = [refine(bare, rutile(), esd=kind) for kind in ("gof", "berar-lelann")]
    ratio = fits[1].uncertainties["a"] / fits[0].uncertainties["a"]
    assert 1 <= ratio < 2


@pytest.mark.parametrize("terms", [0, -3, 1000])
def test_impossible_numbers_of_background_terms_are_refused(terms):
    pattern, _ = simulated(rutile(), seed=7, high=60)
    with pytest.raises(ValueError, match="background terms; give 1 to 100"):
        refine(pattern, rutile(), background=terms)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"restraint": (np.nan, 1.0)}, "a number and a positive standard deviation"),
        ({"restraint": (4.6, 0.0)}, "a number and a positive standard deviation"),
        ({"tie": "u:Ti1 - 5"}, r"makes u:O1 -\S+, its limits are 0–0.3"),
        ({"tie": "1e999*u:Ti1"}, "its limits are"),
    ],
)
def test_edits_that_cannot_be_are_refused(changes, said):
    table = first_table((asymmetric_unit(rutile()),), PROFILE, background=2)
    with pytest.raises(ValueError, match=said):
        table.edit("u:O1", **changes)


def test_a_table_comes_back_from_a_csv_file_with_its_restraints(tmp_path):
    pd = pytest.importorskip("pandas")
    table = first_table((asymmetric_unit(rutile()),), PROFILE, background=2)
    table = table.edit("a", restraint=(4.6, 0.01), refine=True)
    table.frame().to_csv(tmp_path / "t.csv")
    again = table.from_frame(pd.read_csv(tmp_path / "t.csv", index_col="name"))
    assert again["a"].restraint == (4.6, 0.01)
    assert again["a"].refine is True


def test_arguments_that_a_table_would_not_obey_are_refused():
    pattern, _ = simulated(rutile(), seed=8, high=60)
    table = first_table((asymmetric_unit(rutile()),), PROFILE, background=2)
    with pytest.raises(ValueError, match="stand in a parameter table already"):
        refine(pattern, table, background=4)
    with pytest.raises(ValueError, match="give three indices like"):
        refine(pattern, rutile(), texture=(0, 0, 0))
    with pytest.raises(ValueError, match="displacement 'atom' is not known; give one of"):
        refine(pattern, rutile(), displacement="atom")


SYMBOL = "_symmetry_space_group_name_H-M 'P 42/m n m'\n"
OPERATIONS = "loop_\n_symmetry_equiv_pos_as_xyz\nx,y,z\n-x,-y,-z\n{}\n"


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("P 42/m n m", "P banana", r"space group 'P banana' of r\.cif is not known"),
        ("_cell_length_a 4.594", "_cell_length_a nan", r"cell of r\.cif is nan, 4\.594"),
        ("_cell_length_a 4.594\n", "", r"cell of r\.cif is \?, 4\.594"),
        ("_cell_angle_beta 90", "_cell_angle_beta 200", r"90, 200, 90; give a, b, c"),
        ("_cell_length_b 4.594", "_cell_length_b 4.7", r"cannot have the space group P4_2"),
        ("P 42/m n m", "F m -3 m", r"cannot have the space group Fm-3m"),
        ("_atom_site_fract_y", "_atom_site_other", r"r\.cif have no fractional y"),
        ("O1 0.305 0.305 0", "O1 0.305 0.305", r"not a CIF \(r\.cif:9.*; correct it"),
        ("n m'", "n m", r"not a CIF \(r\.cif:8.*; correct it"),
        ("_cell_length_b", "_cell_length_a", r"duplicate tag _cell_length_a"),
        ("O1 0.305 0.305 0", "O1 0.3 0.3 0\nO2 0.3 0.3 0", "2 of O1, .* place added up"),
        (SYMBOL, OPERATIONS.format("x+1/3,y,z"), "3 symmetry operations .* not a group"),
        (SYMBOL, OPERATIONS.format("x,y"), "operations of r.cif cannot be read"),
        ("loop_\n_atom", OPERATIONS.format("") + "loop_\n_atom", "are those of P -1"),
    ],
)
def test_cifs_that_cannot_be_are_refused(tmp_path, old, new, said):
    text = """data_r
_cell_length_a 4.594
_cell_length_b 4.594
_cell_length_c 2.959
_cell_angle_alpha 90
_cell_angle_beta 90
_cell_angle_gamma 90
_symmetry_space_group_name_H-M 'P 42/m n m'
loop_
_atom_site_label
_atom_site_fract_x
_atom_site_fract_y
_atom_site_fract_z
Ti1 0 0 0
O1 0.305 0.305 0
"""
    (tmp_path / "r.cif").write_text(text)
    assert asymmetric_unit(tmp_path / "r.cif").space_group == 136
    (tmp_path / "r.cif").write_text(text.replace(old, new))
    with pytest.raises(ValueError, match=said):
        asymmetric_unit(tmp_path / "r.cif")
    (tmp_path / "r.cif").write_text("")
    with pytest.raises(ValueError, match=r"r\.cif"):
        asymmetric_unit(tmp_path / "r.cif")


def write_two_structures(path):
    """A CIF of rutile and anatase behind a block without a structure."""
    blocks = [
        str(CifWriter(structure, symprec=1e-3)).replace("data_TiO2", f"data_{name}")
        for name, structure in (("rutile", rutile()), ("anatase", anatase()))
    ]
    path.write_text("\n".join(["data_global\n_journal_year 2026\n", *blocks]))
    return path


def test_a_structure_of_a_cif_with_several_is_chosen_by_its_block(tmp_path):
    path = write_two_structures(tmp_path / "two.cif")
    for name, number in (("rutile", 136), ("anatase", 141)):
        unit = asymmetric_unit(f"{path}#{name}")
        assert (unit.name, unit.space_group) == (name, number)
        assert cif_structure(f"{path}#{name}").get_space_group_info()[1] == number
    with pytest.raises(ValueError, match=r"several structures, rutile, anatase; choose"):
        asymmetric_unit(path)
    with pytest.raises(ValueError, match="no structure 'global' but rutile, anatase"):
        asymmetric_unit(f"{path}#global")
    with pytest.raises(FileNotFoundError, match=r"there is no file .*three\.cif;"):
        asymmetric_unit(tmp_path / "three.cif")


def test_the_only_structure_of_a_cif_needs_no_choice(tmp_path):
    text = write_two_structures(tmp_path / "two.cif").read_text()
    path = tmp_path / "one#1.cif"
    path.write_text(text[: text.index("data_anatase")])
    assert asymmetric_unit(path).space_group == 136


def test_blocks_of_one_name_are_refused_not_the_first_taken(tmp_path):
    path = write_two_structures(tmp_path / "two.cif")
    path.write_text(path.read_text().replace("data_anatase", "data_rutile"))
    for source in (path, f"{path}#rutile"):
        with pytest.raises(ValueError, match=r"two\.cif is not a CIF .*duplic"):
            asymmetric_unit(source)


def test_a_cif_with_names_in_latin_1_is_read(tmp_path):
    text = str(CifWriter(rutile(), symprec=1e-3)) + "_publ_contact_author 'André'\n"
    path = tmp_path / "old.cif"
    path.write_bytes(text.encode("latin-1"))
    assert cif_structure(path).get_space_group_info()[1] == 136


def test_a_site_that_leaves_the_matrix_singular_counts_as_unseen(tmp_path):
    cscl = Structure(Lattice.cubic(4.1), ["Cs", "Cl"], [[0, 0, 0], [0.5, 0.5, 0.5]])
    data = observations(counted(*model(cscl)))
    cscl.to(str(tmp_path / "p1.cif"))  # there, no line changes with a small shift
    table = first_table((asymmetric_unit(tmp_path / "p1.cif"),), PROFILE, background=1)
    table = table.edit("?:Cl1", refine=True).edit("scale", refine=True)
    frame = make_frame(data, table)
    outcome = Outcome(data, frame, table, state_of(frame, table, table.vector()))
    assert held(outcome, outcome)[1].startswith("Cl1: hardly seen by the pattern")
