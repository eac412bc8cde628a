"""What a pattern decides, held against what is known of X-rays and of the simulation."""

import re
from dataclasses import replace

import numpy as np
import pytest
import torch
from candidates import candidate_of
from pymatgen.core import Lattice, Structure
from textbook import STRUCTURES, another_pose, with_elements

from xrdkit.crystal import conventional, to_structure
from xrdkit.pattern import prepare
from xrdkit.rank import equivalent
from xrdkit.refine.batch import refine_steps
from xrdkit.refine.determined import determined, orbits_of, pivots
from xrdkit.report.setting import reference_setting
from xrdkit.simulate import pattern_of, realistic
from xrdkit.solve import run
from xrdkit.types import Fit, Instrument, Pattern, Phase, Radiation

CU = Radiation((1.540593,))
IN_LEAD = Structure.from_spacegroup(  # lithium in the octahedra of heavy atoms
    "Pm-3m",
    Lattice.cubic(4.9),
    ["Bi", "Pb", "Li"],
    [[0, 0, 0], [0.5, 0.5, 0], [0.5, 0.5, 0.5]],
)
BRUCITE = Structure.from_spacegroup(
    "P-3m1",
    Lattice.hexagonal(3.142, 4.766),
    ["Mg", "O", "H"],
    [[0, 0, 0], [1 / 3, 2 / 3, 0.22], [1 / 3, 2 / 3, 0.42]],
)
LAYERED = Structure.from_spacegroup(
    "R-3m",
    Lattice.hexagonal(2.816, 14.05),
    ["Co", "Li", "O"],
    [[0, 0, 0], [0, 0, 0.5], [0, 0, 0.24]],
)
SLOW = pytest.mark.slow
FIXED = "(coordinates fixed by symmetry)"


def measured(structure: Structure) -> Pattern:
    """The structure's pattern as a laboratory measures it, with counting noise."""
    crystal = candidate_of(structure).crystal
    instrument = Instrument(w=0.08**2, u=0.05**2, x=0.03)
    clean = pattern_of(crystal, CU, two_theta=(10, 90, 4001), instrument=instrument)
    return prepare(realistic(clean, torch.Generator().manual_seed(0)))


def refined(structure: Structure, pattern: Pattern) -> Fit:
    (fit,) = run(refine_steps(pattern, [candidate_of(structure)]), False)
    return fit


@pytest.fixture(scope="module")
def salt() -> tuple[Pattern, Fit]:
    pattern = measured(STRUCTURES["NaCl"])
    return pattern, refined(STRUCTURES["NaCl"], pattern)


def said(structure: Structure) -> tuple[set[str], set[str]]:
    """What the right structure's own pattern determines, and what not."""
    pattern = measured(structure)
    (fit,) = determined(pattern, [refined(structure, pattern)])
    return set(fit.determined), set(fit.undetermined)


def renamed(structure: Structure, *elements: str) -> Structure:
    """The same structure with these elements in place of its own."""
    own = [e.symbol for e in structure.composition]
    return with_elements(structure, dict(zip(own, elements, strict=True)))


def test_oxygen_of_rutile_is_determined_and_titanium_fixed_by_symmetry():
    everything = {
        f"Ti1 (2a): presence {FIXED}", "O1 (4f): presence, x", "order of Ti and O",
    }  # fmt: skip
    assert said(STRUCTURES["TiO2"]) == (everything, set())


def test_lithium_among_lead_and_bismuth_is_not_determined():
    yes, no = said(IN_LEAD)
    assert no == {"Li1 (1b): presence", "order of Pb and Bi on 3c / 1a"}
    assert yes >= {f"Pb1 (3c): presence {FIXED}", f"Bi1 (1a): presence {FIXED}"}


def test_hydrogen_in_palladium_and_in_brucite_is_not_determined():
    assert said(renamed(STRUCTURES["NaCl"], "Pd", "H"))[1] == {"H1 (4b): presence"}
    assert said(BRUCITE)[1] == {"H1 (2d): presence, z"}


@pytest.mark.parametrize(
    "pair", [("Fe", "Co"), ("K", "Cl"), pytest.param(("Ge", "As"), marks=SLOW)]
)
def test_neighbours_in_the_periodic_table_are_not_told_apart(pair):
    yes, no = said(renamed(STRUCTURES["NaCl"], *pair))
    (sentence,) = no
    assert sentence.startswith("order of ")
    assert sentence.endswith((" on 4a / 4b", "4b / 4a"))
    assert len(yes) == 2


@pytest.mark.parametrize(
    "pair", [("Na", "Cl"), ("Cs", "F"), pytest.param(("Na", "Pb"), marks=SLOW)]
)
def test_elements_far_apart_are_told_apart_though_an_exchange_gives_the_same_crystal(pair):
    yes, no = said(renamed(STRUCTURES["NaCl"], *pair))
    assert not no
    assert f"order of {pair[0]} and {pair[1]}" in yes


def test_exchange_that_moves_oxygen_into_the_same_crystal_is_passed_over():
    yes, no = said(LAYERED)
    assert "order of Li and Co" in yes
    assert not no


@pytest.mark.parametrize(
    "name",
    ["TiO2", "CuFeS2", *(pytest.param(name, marks=SLOW) for name in ("ZnO", "FeTiO3"))],
)
def test_nothing_changes_with_origin_orientation_cell_and_order_of_atoms(name):
    def plain(sentences):
        # Wyckoff letters of special positions depend on the origin
        return sorted(re.sub(r"\d+[a-z]", "", s) for s in sentences)

    here, there = STRUCTURES[name], another_pose(STRUCTURES[name], np.random.default_rng(3))
    first, second = said(here), said(there)
    assert [plain(s) for s in first] == [plain(s) for s in second]


def test_rest_of_the_fit_stays_as_it_was(salt):
    pattern, fit = salt
    (told,) = determined(pattern, [fit])
    assert told.phases is fit.phases
    assert (told.residual, told.score) == (fit.residual, fit.score)
    assert determined(pattern, []) == []


def test_coordinates_are_named_by_the_axes_along_which_they_are_free():
    diagonal = np.array([[1.0], [1.0], [0.0]])
    assert pivots(diagonal) == (0,)
    assert pivots(np.array([[0.0, 0], [1, 0], [-1, 1]])) == (1, 2)
    assert pivots(np.zeros((3, 2))) == pivots(np.zeros((3, 0))) == ()


def test_classes_hold_fits_of_one_residual_whatever_their_score(salt):
    _, fit = salt
    residuals, scores = (0.1, 0.2, 0.1005, 0.201), (9.0, 5.0, -30.0, -40.0)
    fits = [
        replace(fit, residual=r, score=s) for r, s in zip(residuals, scores, strict=True)
    ]
    assert equivalent(fits) == ((0, 2), (1, 3))
    assert equivalent([]) == ()


def test_pattern_that_is_not_prepared_is_refused(salt):
    pattern = replace(salt[0], prepared=False)
    with pytest.raises(ValueError, match=r"as measured.*give solution\.problem\.pattern"):
        determined(pattern, [])


@pytest.mark.parametrize("name", sorted(STRUCTURES))
@pytest.mark.parametrize("pose", [0, 3])
def test_sites_are_numbered_as_in_the_report(name, pose):
    structure = another_pose(STRUCTURES[name], np.random.default_rng(pose))
    candidate = candidate_of(structure)
    standard = conventional(to_structure(candidate.crystal))[0]
    phase = Phase(candidate.crystal, candidate.symmetry)
    flat = np.zeros(2)
    fit = Fit(standard, (phase,), "made up", 0.1, 0.0, flat, flat, flat, flat, CU)
    shown = [
        f"{site.label} ({site.multiplicity}{site.wyckoff})"
        for site in reference_setting(standard).sites
    ]
    assert sorted(orbit.label for orbit in orbits_of(fit)) == sorted(shown)
