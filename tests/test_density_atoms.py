"""Atoms from densities, solving with elements alone, difference maps and their figures."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from pymatgen.core import Element
from textbook import STRUCTURES, table_of

from xrdkit.canonical import canonical
from xrdkit.cli import main
from xrdkit.crystal import from_structures, one_crystal, read_cif, to_structure
from xrdkit.density import DensityGrid, on_grid
from xrdkit.generators.density_atoms import (
    candidates,
    compositions,
    maxima,
    propose,
    settings_near,
)
from xrdkit.generators.measured_lines import with_measured_lines
from xrdkit.indexing.bravais import parameters
from xrdkit.metrics import strict_match
from xrdkit.models.checkpoint import save_network
from xrdkit.models.crystal_net import Size
from xrdkit.models.density_net import DensityNet
from xrdkit.models.weights import DEFAULTS
from xrdkit.packed import packed_of
from xrdkit.pattern import prepare, write
from xrdkit.problem import pose
from xrdkit.q_profile import CLEAN
from xrdkit.refine.difference import difference_map
from xrdkit.refine.rietveld import refine
from xrdkit.report.tables import formula_text, solution_text
from xrdkit.simulate import pattern_of, realistic
from xrdkit.solve import solve
from xrdkit.train.loop import WEIGHTS, train
from xrdkit.train.plan import Plan
from xrdkit.types import Instrument, Radiation

NAMES = ("NaCl", "TiO2", "SrTiO3", "CaCO3", "MgAl2O4", "SiO2", "ZrO2", "CaTiO3", "LiNbO3")
TINY = Size(atom=32, edge=32, layers=1, waves=48, pattern=32)


@pytest.fixture(scope="module")
def pattern():
    return good_pattern("TiO2")


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / "density.safetensors"
    return save_network(path, DensityNet(TINY), "density", {"elements": [8, 22, 38]})


def good_pattern(name):
    crystal = from_structures([STRUCTURES[name]])
    return prepare(pattern_of(crystal, CLEAN, two_theta=(5, 80, 3751)))


def seen(name):
    """The one description of a crystal, and its density."""
    structure = STRUCTURES[name]
    arrays = structure.lattice.matrix, structure.frac_coords
    found = canonical(*arrays, np.array(structure.atomic_numbers))
    crystal = one_crystal(found.lattice, found.frac, found.numbers)
    return found, on_grid(crystal, 48)[0].double().numpy()


def symbols(numbers):
    return tuple(sorted({Element.from_Z(int(z)).symbol for z in numbers}))


@pytest.mark.parametrize("name", NAMES)
def test_true_densities_give_their_crystals_back_with_elements_alone(name, pattern):
    found, density = seen(name)
    problem = pose(pattern, elements=symbols(found.numbers))
    first = next(iter(candidates(found.lattice, density, problem)))
    assert sorted(first.crystal.numbers.tolist()) == sorted(found.numbers.tolist())
    answers = candidates(found.lattice, density, problem)
    assert any(strict_match(STRUCTURES[name], to_structure(one.crystal)) for one in answers)


def test_a_known_formula_fills_a_cell_with_units_by_its_electrons(pattern):
    found, density = seen("TiO2")
    answers = list(candidates(found.lattice, density, pose(pattern, "TiO2")))
    assert strict_match(STRUCTURES["TiO2"], to_structure(answers[0].crystal))
    assert all(one.origin == "density" for one in answers)
    assert {one.symmetry.number for one in answers} >= {136}


def test_maxima_are_the_atoms_and_lie_between_grid_points():
    found, density = seen("CaCO3")
    peaks = maxima(found.lattice, density)
    apart = peaks.frac[:10, None] - found.frac
    near = np.linalg.norm((apart - np.rint(apart)) @ found.lattice, axis=-1)
    assert near.min(1).max() < 0.03
    assert len(set(near.argmin(1))) == len(found.numbers)
    assert (np.diff(peaks.height) <= 0).all()


def test_blurred_heights_still_tell_heavy_from_light():
    heights = 0.7 * np.array([23.3, 23.3, 7.0, 7.0, 7.0, 7.0])
    best = compositions(heights, [8, 22])[0]
    assert best.tolist() == [22, 22, 8, 8, 8, 8]
    assert compositions(np.array([7.0]), [8, 22]) == []  # both must be there


def test_a_known_cell_is_taken_in_the_setting_of_the_one_that_was_drawn(pattern):
    cell = (4.594, 4.594, 2.959, 90.0, 90.0, 90.0)
    problem = pose(pattern, "TiO2", cell=(2.959, 4.594, 4.594, 90, 90, 90))
    drawn = np.diag([4.5, 4.7, 2.9])
    (rows,) = [r for r in settings_near(drawn, problem) if abs(np.linalg.det(r)) > 60]
    np.testing.assert_allclose(parameters(rows), cell, atol=1e-6)
    assert settings_near(np.diag([9.0, 9.0, 9.0]), problem) == []


def off(density, truth):
    """1 - correlation of two densities."""
    return 1 - np.corrcoef(density.ravel(), truth.ravel())[0, 1]


@pytest.mark.parametrize("name", ["TiO2", "SrTiO3", "CaCO3", "ZrO2"])
def test_measured_lines_sharpen_a_blurred_density(name):
    found, truth = seen(name)
    crystal = one_crystal(found.lattice, found.frac, found.numbers)
    blurred = on_grid(crystal, 48, u_iso=0.3)[0].double().numpy()
    answer = with_measured_lines(found.lattice, blurred, good_pattern(name))
    assert off(answer, truth) < 0.35 * off(blurred, truth)
    assert (answer >= 0).all()


def test_measured_lines_leave_a_right_density_as_it_is(pattern):
    found, truth = seen("TiO2")
    answer = with_measured_lines(found.lattice, truth, pattern)
    assert off(answer, truth) < 0.005
    empty = replace(pattern, intensity=0 * pattern.intensity)
    assert with_measured_lines(found.lattice, truth, empty) is truth


def test_in_a_known_cell_both_densities_are_read(pattern):
    found, density = seen("TiO2")
    problem = pose(pattern, "TiO2", cell=(4.594, 4.594, 2.959, 90, 90, 90))
    unknown = candidates(found.lattice, density, pose(pattern, "TiO2"))
    known = list(candidates(found.lattice, density, problem))
    assert len(known) == 2 * len(list(unknown))
    assert strict_match(STRUCTURES["TiO2"], to_structure(known[0].crystal))


def test_what_was_never_learned_is_said_and_gives_none(pattern, weights):
    asked = {"count": 5, "generator": torch.Generator().manual_seed(0)}
    steps = propose(
        pose(pattern, elements=("Na", "Cl"), cell=(4, 4, 4, 90, 90, 90)),
        device=torch.device("cpu"),
        weights=weights,
        **asked,
    )
    assert "atomic numbers [11, 17] were in no structure" in next(steps).message
    with pytest.raises(StopIteration) as end:
        next(steps)
    assert end.value.value == []


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({}, "formula and elements are both given or both missing; give the formula"),
        ({"formula": "TiO2", "elements": ("Ti",)}, "both given or both missing"),
        ({"elements": ()}, "elements are none; give symbols one by one, such as Ti O"),
        ({"elements": ("TiO2",)}, "elements 'TiO2'; give symbols one by one"),
        ({"elements": ("Ti", "Xx")}, "'Xx' in elements 'Ti Xx' is not an element"),
        ({"elements": ("Ti",), "contents": "Ti2"}, "contents are given without a formula"),
    ],
)
def test_formula_or_elements_are_asked_for_in_one_sentence(given, said, pattern):
    with pytest.raises(ValueError, match=said):
        pose(pattern, **given)


def test_solving_asks_for_a_formula_or_elements_before_anything_else(pattern):
    with pytest.raises(ValueError, match="both given or both missing"):
        solve(pattern, progress=False)


def test_without_a_formula_other_sources_are_left_out_or_refused(pattern, monkeypatch):
    elements = ("Ti", "O")
    with pytest.raises(ValueError, match="templates need a formula; give it, or ask form"):
        solve(pattern, elements=elements, sources="templates", progress=False)
    monkeypatch.delitem(DEFAULTS, "density", raising=False)
    with pytest.raises(FileNotFoundError, match="train them with xrdkit train density"):
        next(propose(pose(pattern, elements=elements, cell=(4, 4, 4, 90, 90, 90)), count=1,
                     generator=torch.Generator(), device=torch.device("cpu")))  # fmt: skip


def test_weights_of_a_density_network_are_for_its_source(pattern, weights):
    with pytest.raises(ValueError, match="weights of density are given, not among"):
        solve(pattern, "TiO2", sources="templates", weights=weights, progress=False)


@pytest.fixture(scope="module")
def measured():
    """A good pattern of SrTiO3, not prepared."""
    clean = pattern_of(
        from_structures([STRUCTURES["SrTiO3"]]),
        Radiation((1.5406,)),
        two_theta=(15, 110, 1188),
        instrument=Instrument(w=0.03),
    )
    generator = torch.Generator().manual_seed(0)
    return realistic(clean, generator, counts=2e4, background=0.01, lines=0)


def test_an_atom_that_a_model_lacks_is_the_highest_peak_of_the_difference_map(measured):
    model = STRUCTURES["SrTiO3"].copy()
    model.remove_species(["O"])
    grid = difference_map(refine(measured, model), 24)
    places = maxima(grid.lattice, grid.values.clip(0)).frac[:3]
    oxygen = [s.frac_coords for s in STRUCTURES["SrTiO3"] if s.specie.symbol == "O"]
    for place in oxygen:  # edges of Ti at the origin, Sr in the centre
        apart = places - place
        assert np.abs(apart - np.rint(apart)).max(1).min() < 0.03


def test_the_difference_map_of_the_right_model_is_nearly_flat(measured):
    fit = refine(measured, STRUCTURES["SrTiO3"])
    grid = difference_map(fit, 24)
    assert np.abs(grid.values).max() < 1.0  # e/Å³; without oxygen 14
    assert grid.values.mean() == pytest.approx(0, abs=1e-6)
    np.testing.assert_allclose(fit.factors[:, 3], fit.factors[:, 4], rtol=0.2)
    with pytest.raises(ValueError, match="engine 'batch' gives no structure factors"):
        difference_map(replace(fit, factors=None, engine="batch"))


def test_densities_are_drawn_as_sections_and_surfaces():
    from xrdkit_widgets import plot_isosurface, plot_section

    found, values = seen("CaCO3")
    density = DensityGrid(found.lattice, values)
    (plane,) = plot_section(density, "c", 0.0).data
    assert np.nanmax(plane.z) == pytest.approx(values[:, :, 0].max(), rel=0.05)
    across = np.linalg.norm(found.lattice[0])
    assert max(plane.x) >= across
    figure = plot_isosurface(density, 5.0)
    assert len(figure.data) == 1
    assert len(plot_isosurface(replace(density, values=values - 6), 5.0).data) == 2
    with pytest.raises(ValueError, match="axis 'x' is none of a, b, c; give one"):
        plot_section(density, "x")
    with pytest.raises(ValueError, match=r"a level of 1e\+06 e/Å³ is not within 0–"):
        plot_isosurface(density, 1e6)


@pytest.mark.slow
def test_learned_crystals_are_solved_from_their_elements(tmp_path, capsys):
    names = ("NaCl", "CsCl", "TiO2", "SrTiO3")
    data = packed_of(table_of([STRUCTURES[name] for name in names]), standard=True)
    size = Size(atom=96, edge=96, layers=2, waves=96, pattern=64)
    plan = Plan(
        "density",
        epochs=400,
        crystals=4,
        warm_up=20,
        rate=3e-3,
        turns=1,
        clean=1.0,
        strain=0.0,
    )
    list(train(data, tmp_path, plan=plan, size=size))
    weights = tmp_path / WEIGHTS
    asked = {"sources": "density", "weights": weights, "progress": False}
    answer = solve(good_pattern("TiO2"), elements=("Ti", "O"), **asked)
    assert strict_match(STRUCTURES["TiO2"], answer.fits[0].structure)
    assert (
        "templates, ordered, hydrogen, flow, latent_search need one and were left out"
        in answer.reasons[-1]
    )
    formulas = [formula_text(fit.structure.composition) for fit in answer.fits]
    assert list(answer.frame()["formula"]) == formulas
    assert "formula" in solution_text(answer).splitlines()[0]
    assert "<th style='text-align:left'>formula</th>" in answer._repr_html_()
    write(good_pattern("SrTiO3"), tmp_path / "unknown.xy")
    line = [
        "solve",
        tmp_path / "unknown.xy",
        "--wavelength",
        "CuKa",
        "--elements",
        "Sr",
        "Ti",
    ]
    line += ["O", "--sources", "density", "--weights", weights, "--quiet"]
    line += ["-o", tmp_path / "out"]
    assert main([str(word) for word in line]) == 0
    assert "1  SrTiO3   Pm-3m (221)  Sr 1" in capsys.readouterr().out
    first = read_cif(str(tmp_path / "out" / "unknown_01.cif"))
    assert strict_match(STRUCTURES["SrTiO3"], first)
