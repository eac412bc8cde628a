import math
from dataclasses import replace
from pathlib import Path

import gemmi
import numpy as np
import pytest
import torch
from pymatgen.analysis.diffraction.xrd import XRDCalculator
from pymatgen.core import Lattice, Structure
from pymatgen.symmetry.groups import SpaceGroup

from xrdkit.crystal import one_crystal
from xrdkit.profile import line_widths, pattern_widths
from xrdkit.simulate import (
    Reflections,
    friedel_mean,
    intensities,
    inverse_d_squared,
    line_positions,
    lorentz_polarisation,
    pattern_of,
    profile,
    reflections,
    simulate,
    structure_factors,
    unique_reflections,
)
from xrdkit.types import Crystals, Instrument, Radiation, Symmetry

CU = Radiation((1.540593,))
DOUBLET = Radiation((1.540593, 1.544427), (2 / 3, 1 / 3))
Q_MAX = 5.2
OFFSET = np.array([0.13, 0.7, 0.28])


def crystals_of(*structures: Structure, u: float = 0.01, dtype=torch.float64) -> Crystals:
    numbers = torch.tensor([z for s in structures for z in s.atomic_numbers])
    frac = np.concatenate([s.frac_coords for s in structures])
    sizes = torch.tensor([len(s) for s in structures])
    return Crystals(
        torch.tensor(np.array([s.lattice.matrix for s in structures]), dtype=dtype),
        torch.tensor(frac, dtype=dtype),
        numbers,
        torch.ones(len(numbers), dtype=dtype),
        torch.full((len(numbers),), u, dtype=dtype),
        torch.repeat_interleave(sizes),
    )


def cell(*parameters: float) -> Lattice:
    return Lattice.from_parameters(*parameters)


def cubic(a: float) -> Lattice:
    return cell(a, a, a, 90, 90, 90)


# fmt: off
SITES = {  # space group, cell, species, sites: every crystal system, most centrings
    "Si": (227, cubic(5.4309), ["Si"], [[0, 0, 0]]),
    "Fe": (229, cubic(2.8665), ["Fe"], [[0, 0, 0]]),
    "Cu": (225, cubic(3.615), ["Cu"], [[0, 0, 0]]),
    "CsCl": (221, cubic(4.12), ["Cs", "Cl"], [[0] * 3, [0.5] * 3]),
    "NaCl": (225, cubic(5.64), ["Na", "Cl"], [[0] * 3, [0.5] * 3]),
    "ZnS": (216, cubic(5.41), ["Zn", "S"], [[0] * 3, [0.25] * 3]),
    "FeS2": (205, cubic(5.418), ["Fe", "S"], [[0] * 3, [0.385] * 3]),
    "FeSi": (198, cubic(4.489), ["Fe", "Si"], [[0.137] * 3, [0.842] * 3]),
    "TiO2": (136, cell(4.5937, 4.5937, 2.9587, 90, 90, 90), ["Ti", "O"],
             [[0] * 3, [0.3048, 0.3048, 0]]),
    "CaWO4": (82, cell(5.243, 5.243, 11.376, 90, 90, 90), ["Ca", "W", "O"],
              [[0] * 3, [0, 0, 0.5], [0.24, 0.15, 0.08]]),
    "PbO": (129, cell(3.9729, 3.9729, 5.0217, 90, 90, 90), ["Pb", "O"],
            [[0, 0.5, 0.237], [0] * 3]),
    "ZnO": (186, cell(3.2495, 3.2495, 5.2069, 90, 90, 120), ["Zn", "O"],
            [[1 / 3, 2 / 3, 0], [1 / 3, 2 / 3, 0.3825]]),
    "Mg": (194, cell(3.209, 3.209, 5.21, 90, 90, 120), ["Mg"], [[1 / 3, 2 / 3, 0.25]]),
    "Al2O3": (167, cell(4.759, 4.759, 12.991, 90, 90, 120), ["Al", "O"],
              [[0, 0, 0.352], [0.306, 0, 0.25]]),
    "SiO2": (152, cell(4.913, 4.913, 5.405, 90, 90, 120), ["Si", "O"],
             [[0.4697, 0, 1 / 3], [0.4135, 0.2669, 0.4524]]),
    "BaSO4": (62, cell(8.884, 5.457, 7.157, 90, 90, 90), ["Ba", "S", "O"],
              [[0.1846, 0.25, 0.1585], [0.4371, 0.75, 0.1907], [0.4186, 0.9704, 0.3117]]),
    "ZrO2": (14, cell(5.15, 5.21, 5.317, 90, 99.23, 90), ["Zr", "O", "O"],
             [[0.2758, 0.0404, 0.2089], [0.0703, 0.3359, 0.3406],
              [0.4423, 0.7549, 0.4789]]),
    "CuO": (15, cell(4.6837, 3.4226, 5.1288, 90, 99.54, 90), ["Cu", "O"],
            [[0.25, 0.25, 0], [0, 0.4184, 0.25]]),
    "CuSO": (2, cell(6.12, 10.7, 5.97, 82.3, 107.3, 102.6), ["Cu", "S", "O"],
             [[0] * 3, [0.01, 0.287, 0.625], [0.906, 0.152, 0.673]]),
    "LiFeO": (1, cell(4.1, 5.3, 6.2, 82, 97, 105), ["Li", "Fe", "O"],
              [[0] * 3, [0.3, 0.4, 0.6], [0.7, 0.2, 0.45]]),
}
# fmt: on
STRUCTURES = {
    name: Structure.from_spacegroup(*arguments, tol=1e-3)
    for name, arguments in SITES.items()
}


def symmetry_of(name: str) -> Symmetry:
    number, group = SITES[name][0], SpaceGroup.from_int_number(SITES[name][0])
    rotations = torch.tensor(np.array([op.rotation_matrix for op in group.symmetry_ops]))
    shifts = torch.tensor(np.array([op.translation_vector for op in group.symmetry_ops]))
    rotations = rotations.round().long()
    return Symmetry(number, rotations, shifts, torch.zeros(6, 1), torch.zeros(1, 1))


def lines_of(crystals: Crystals, **settings) -> tuple[np.ndarray, np.ndarray]:
    """2θ and intensity of the half sphere of one crystal up to 88°."""
    found = reflections(crystals, 4 * math.pi / CU.main * math.sin(math.radians(44)))
    places = line_positions(crystals.lattice, found, CU)
    values = intensities(crystals, found, CU, **settings)
    return places[0, 0].numpy(), values[0, 0].numpy()


def same_curve(one, other, tolerance=1e-6):
    torch.testing.assert_close(one, other, rtol=0, atol=tolerance * float(other.max()))


def test_silicon_111_stands_at_28_44_degrees():
    places, values = lines_of(crystals_of(STRUCTURES["Si"]))
    assert places[values > 1e-6 * values.max()].min() == pytest.approx(28.442, abs=0.005)


@pytest.mark.parametrize(
    ("name", "allowed"),
    [
        ("Fe", lambda h, k, m: (h + k + m) % 2 == 0),
        ("Cu", lambda h, k, m: h % 2 == k % 2 == m % 2),
    ],
)
def test_centred_lattices_have_their_absences(name, allowed):
    crystals = crystals_of(STRUCTURES[name])
    found = reflections(crystals, Q_MAX)
    size = structure_factors(crystals, found, CU.main)[0].abs()
    for hkl, f in zip(found.hkl[0].tolist(), size.tolist(), strict=True):
        assert (f > 1) if allowed(*hkl) else (f < 1e-9), hkl


@pytest.mark.parametrize("name", ["SiO2", "ZrO2", "CuSO"])
def test_pattern_ignores_how_the_crystal_is_described(name):
    structure = STRUCTURES[name]
    crystals = crystals_of(structure)
    pattern = simulate(crystals, DOUBLET)
    shifted = Structure(
        structure.lattice, structure.species, structure.frac_coords + OFFSET
    )
    turned = torch.linalg.qr(
        torch.randn(3, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    ).Q
    rotated = Crystals(crystals.lattice @ turned, *list(vars(crystals).values())[1:])
    reordered = Structure.from_sites(list(structure)[::-1])
    others = [shifted, reordered, structure.make_supercell([2, 1, 1], in_place=False)]
    for other in [rotated, *(crystals_of(s) for s in others)]:
        same_curve(simulate(other, DOUBLET), pattern)


@pytest.mark.parametrize("name", ["Si", "Al2O3", "CuO"])
def test_primitive_cell_gives_the_pattern_of_the_conventional(name):
    primitive = STRUCTURES[name].get_primitive_structure()
    assert len(primitive) < len(STRUCTURES[name])
    one, other = (simulate(crystals_of(s), CU) for s in (primitive, STRUCTURES[name]))
    same_curve(one, other, 1e-5)


def test_batch_gives_each_crystal_its_own_pattern_in_order():
    names = list(STRUCTURES)
    size = torch.linspace(100, 400, len(names))
    batch = simulate(crystals_of(*STRUCTURES.values(), dtype=torch.float32), CU, size=size)
    for i in (0, 5, 14, 19):
        alone = simulate(crystals_of(STRUCTURES[names[i]]), CU, size=size[i])
        same_curve(batch[i].double(), alone[0], 2e-3)


@pytest.mark.parametrize("name", list(SITES))
@pytest.mark.parametrize("texture", [None, ((0, 0, 1), 0.8)])
def test_unique_reflections_give_the_pattern_of_the_half_sphere(name, texture):
    crystals, symmetry = crystals_of(STRUCTURES[name]), symmetry_of(name)
    widths = pattern_widths(torch.linspace(5, 80, 1024).double(), Instrument(), CU.main)
    curves = []
    for symmetries in (None, [symmetry]):
        found = reflections(crystals, Q_MAX, symmetries)
        areas = intensities(crystals, found, CU, texture=texture, symmetries=symmetries)
        places = line_positions(crystals.lattice, found, CU)
        grid = torch.linspace(5, 80, 1024).double()
        curves.append(profile(grid, places.flatten(1), areas.flatten(1), widths))
    same_curve(*curves)


def test_multiplicities_of_cubic_forms():
    cell = torch.eye(3).double() * 5
    forms, multiplicity = unique_reflections(cell, symmetry_of("Si").rotations, Q_MAX)
    forms = [tuple(sorted(map(abs, hkl))) for hkl in forms.tolist()]
    table = dict(zip(forms, multiplicity.tolist(), strict=True))
    known = {(0, 0, 1): 6, (0, 1, 1): 12, (1, 1, 1): 8, (0, 1, 2): 24, (1, 2, 3): 48}
    assert {k: table[k] for k in known} == known


# pymatgen's form factors are another table: 2.6 % lower for Zr and 3.9 % for W at s² = 0.2
ANOTHER_TABLE = {"ZrO2": 0.09, "CaWO4": 0.12}


@pytest.mark.parametrize("name", list(SITES))
def test_lines_agree_with_pymatgen(name):
    structure = STRUCTURES[name]
    theirs = XRDCalculator(CU.main).get_pattern(structure, two_theta_range=(5, 85))
    places, values = lines_of(crystals_of(structure, u=0.0), anomalous=False)
    same = np.abs(places - theirs.x[:, None]) < 2e-5
    ours, expected = same @ values, theirs.y / 100
    strong = expected > 0.01
    nearest = np.abs(places - theirs.x[strong][:, None]).min(axis=1)
    assert nearest.max() < 1e-6
    tolerance = ANOTHER_TABLE.get(name, 0.03)
    np.testing.assert_allclose(
        (ours / ours.max())[strong], expected[strong], rtol=tolerance
    )


@pytest.mark.parametrize("name", list(SITES))
def test_structure_factors_are_those_of_gemmi(name):
    structure, crystals = STRUCTURES[name], crystals_of(STRUCTURES[name])
    small = gemmi.SmallStructure()
    small.cell = gemmi.UnitCell(*structure.lattice.parameters)
    small.spacegroup = gemmi.SpaceGroup("P 1")
    for z, frac in zip(structure.atomic_numbers, structure.frac_coords, strict=True):
        site = gemmi.SmallStructure.Site()
        site.element, site.fract = gemmi.Element(z), gemmi.Fractional(*frac)
        site.occ, site.u_iso = 1.0, 0.01
        small.add_site(site)
    small.setup_cell_images()
    calculator = gemmi.StructureFactorCalculatorX(small.cell)
    for z in set(structure.atomic_numbers):
        f1, _ = gemmi.cromer_liberman(z=z, energy=gemmi.hc / CU.main)
        calculator.addends.set(gemmi.Element(z), f1)
    found = reflections(crystals, 4.0)
    ours = _real_part_of_f(crystals, found)
    expected = [
        calculator.calculate_sf_from_small_structure(small, hkl)
        for hkl in found.hkl[0].tolist()
    ]
    np.testing.assert_allclose(ours, expected, atol=1e-4 * np.abs(expected).max())


def _real_part_of_f(crystals: Crystals, found) -> np.ndarray:
    """F without f": its mean with the conjugate of F(-h)."""
    inverse = replace(found, hkl=-found.hkl)
    there, back = (structure_factors(crystals, r, CU.main)[0] for r in (found, inverse))
    return ((there + back.conj()) / 2).numpy()


def test_intensity_is_the_mean_of_friedel_mates():
    crystals = crystals_of(STRUCTURES["LiFeO"])
    found = reflections(crystals, Q_MAX)
    inverse = replace(found, hkl=-found.hkl)
    there, back = (
        structure_factors(crystals, r, CU.main).abs() ** 2 for r in (found, inverse)
    )
    assert float((there - back).abs().max()) > 1  # Fe has f" = 3.2 at Cu Kα
    torch.testing.assert_close(friedel_mean(crystals, found, CU.main), (there + back) / 2)


def rietveld_case(folder: Path, name: str) -> tuple[Crystals, torch.Tensor, np.ndarray]:
    """Crystal, rotations of its space group, and GSAS-II's reflections."""
    block = gemmi.cif.read(str(folder / f"{name}.cif")).sole_block()
    group = gemmi.SpaceGroup(int(block.find_value("_symmetry_Int_Tables_number")))
    small = gemmi.make_small_structure_from_block(block)
    structure = Structure.from_spacegroup(
        group.number,
        cell(*small.cell.parameters),
        [s.element.name for s in small.sites],
        [s.fract.tolist() for s in small.sites],
    )
    rotations = [np.array(op.rot) // op.DEN for op in group.operations().sym_ops]
    rows = np.genfromtxt(folder / f"{name}_gsas2_refl.csv", delimiter=",", names=True)
    return crystals_of(structure, u=0.01), torch.tensor(np.array(rotations)), rows


GSAS2 = Radiation((1.5405, 1.5443), (2 / 3, 1 / 3), polarisation=0.7)


@pytest.mark.parametrize("name", ["NaCl", "TiO2", "CaTiO3"])
def test_reflections_agree_with_gsas2(shared, name):
    crystals, rotations, rows = rietveld_case(shared / "rietveld", name)
    hkl = torch.tensor(np.stack([rows[i] for i in "hkl"], -1)).long()[None]
    theirs = Reflections(hkl, torch.tensor(rows["mult"]).long()[None])
    f2 = friedel_mean(crystals, theirs, GSAS2.main)[0].numpy()
    lp = lorentz_polarisation(torch.tensor(rows["two_theta"]), 0.7).numpy()
    size = rows["mult"] * rows["Fcalc2"] * lp
    strong = size > 0.01 * size.max()
    np.testing.assert_allclose(f2[strong], rows["Fcalc2"][strong], rtol=5e-3)
    unique, multiplicity = unique_reflections(crystals.lattice[0], rotations, 5.3)
    d = inverse_d_squared(unique.double()[None], crystals.lattice)[0] ** -0.5
    same = np.abs(d.numpy() - rows["d"][:, None]) < 1e-5
    same &= multiplicity.numpy() == rows["mult"][:, None]
    assert same.any(axis=1).all()


@pytest.mark.parametrize("name", ["NaCl", "TiO2", "CaTiO3"])
def test_whole_pattern_agrees_with_gsas2(shared, name):
    crystals, _, rows = rietveld_case(shared / "rietveld", name)
    theirs = np.loadtxt(shared / f"rietveld/{name}_gsas2.csv", delimiter=",", skiprows=1)
    grid = torch.from_numpy(theirs[:, 0].copy())
    unit = 8 * math.log(2) / 1e4  # GSAS-II gives the variance in centideg²
    instrument = Instrument(u=2 * unit, v=-2 * unit, w=5 * unit)
    sample = {"size": 9000.0, "strain": 2.5e-4}  # its 1 µm (K = 1) and 1000 · 10⁻⁶
    lines = torch.tensor(rows["two_theta"], dtype=torch.float64)
    widths = line_widths(lines, instrument, GSAS2.main, **sample)
    np.testing.assert_allclose(widths.gauss[0] ** 2 / unit, rows["sig"], rtol=1e-6)
    np.testing.assert_allclose(widths.lorentz[0] * 100, rows["gam"], rtol=1e-6)
    ours = simulate(crystals, GSAS2, two_theta=grid, instrument=instrument, **sample)
    ours = ours[0].numpy()
    ours = ours * (ours @ theirs[:, 1]) / (ours @ ours)
    assert np.abs(ours - theirs[:, 1]).sum() < 0.006 * theirs[:, 1].sum()
    assert np.abs(ours - theirs[:, 1]).max() < 0.003 * theirs[:, 1].max()


@pytest.mark.parametrize("field", ["lattice", "frac", "occupancy", "u_iso"])
def test_gradients_agree_with_finite_differences(field):
    crystals = crystals_of(STRUCTURES["LiFeO"], STRUCTURES["CsCl"], STRUCTURES["Mg"])
    found = reflections(crystals, 2.5)

    def lines(value):
        moved = replace(crystals, **{field: value})
        sizes = intensities(moved, found, DOUBLET, texture=((0, 1, 1), 0.8))
        return sizes, line_positions(moved.lattice, found, DOUBLET)

    def curve(value):
        return simulate(
            replace(crystals, **{field: value}), CU, two_theta=(20, 30, 16), size=90
        )

    start = getattr(crystals, field).clone().requires_grad_()
    assert torch.autograd.gradcheck(lines, start)
    assert torch.autograd.gradcheck(curve, start, rtol=2e-3, atol=1e-4)


def test_pattern_of_one_crystal_has_its_maximum_at_one():
    pattern = pattern_of(crystals_of(STRUCTURES["Si"], dtype=torch.float32), CU)
    assert len(pattern) == 1024
    assert pattern.intensity.max() == 1
    assert pattern.two_theta[pattern.intensity.argmax()] == pytest.approx(28.44, abs=0.05)


def test_elements_without_form_factor_are_refused():
    crystal = one_crystal(4 * np.eye(3), np.zeros((1, 3)), np.array([99]))
    with pytest.raises(ValueError, match=r"atomic numbers \[99\] are not all within 1–98"):
        pattern_of(crystal, Radiation((1.5406,), (1.0,)))
