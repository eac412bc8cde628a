"""Higher symmetry that refined structures nearly have."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from candidates import candidate_of
from pymatgen.core import Structure
from textbook import STRUCTURES

from xrdkit.crystal import from_structures, symmetry_of
from xrdkit.pattern import prepare
from xrdkit.refine.batch import refine_steps
from xrdkit.refine.symmetry import raised, same_formula, symmetry_per_atom
from xrdkit.simulate import pattern_of
from xrdkit.solve import run
from xrdkit.types import Candidate, Fit, Pattern, Problem
from xrdkit.wavelengths import radiation


def fit_of(candidate: Candidate) -> Fit:
    pattern = pattern_of(candidate.crystal, radiation("CuKa1"), two_theta=(10, 90, 4001))
    (fit,) = run(refine_steps(prepare(pattern), [candidate]), False)
    return fit


def asked(**given) -> Problem:
    pattern = Pattern(np.array([10.0, 90.0]), np.ones(2), radiation("CuKa1"))
    return Problem(pattern, {"Ti": 1.0, "O": 2.0}, **given)


def triclinic(structure: Structure, shift: float) -> Candidate:
    """A structure in P1, its atoms moved at random by about ``shift`` Å."""
    candidate = candidate_of(structure)
    lattice = candidate.crystal.lattice[0].double().numpy()
    numbers = candidate.crystal.numbers.numpy()
    moves = np.random.default_rng(3).normal(0, shift, (len(numbers), 3))
    frac = candidate.crystal.frac.double().numpy() + moves @ np.linalg.inv(lattice)
    crystal = replace(candidate.crystal, frac=torch.tensor(frac).float())
    return Candidate(crystal, symmetry_of(1, lattice, frac, numbers), "P1")


@pytest.mark.parametrize(("name", "number"), [("TiO2", 136), ("NaCl", 225)])
def test_structure_in_p1_is_raised_to_its_space_group(name, number):
    found = raised(fit_of(triclinic(STRUCTURES[name], 0.03)), asked())
    assert number in [c.symmetry.number for c in found]
    assert all(c.origin.endswith(", symmetrised") for c in found)


def test_structure_of_full_symmetry_stays_alone():
    assert raised(fit_of(candidate_of(STRUCTURES["TiO2"])), asked()) == []


def test_sites_that_are_partly_empty_are_left_alone():
    candidate = triclinic(STRUCTURES["TiO2"], 0.03)
    occupancy = candidate.crystal.occupancy.clone()
    occupancy[-1] = 0.75
    partly = replace(candidate, crystal=replace(candidate.crystal, occupancy=occupancy))
    assert raised(fit_of(partly), asked()) == []


def test_what_is_given_is_not_overruled():
    fit = fit_of(triclinic(STRUCTURES["TiO2"], 0.03))
    assert raised(fit, asked(contents={"Ti": 2.0, "O": 4.0}))
    assert raised(fit, asked(space_group=1)) == []
    double = STRUCTURES["TiO2"].make_supercell([1, 1, 2], in_place=False)
    larger = replace(
        fit, phases=(replace(fit.phases[0], crystal=from_structures([double])),)
    )
    assert raised(larger, asked())
    assert raised(larger, asked(contents={"Ti": 4.0, "O": 8.0})) == []


def test_supercells_have_less_symmetry_per_atom():
    assert symmetry_per_atom(225, 2) > symmetry_per_atom(221, 8) > symmetry_per_atom(1, 2)


def test_formulas_are_compared_by_ratios():
    assert same_formula(np.array([22, 8, 8]), np.array([8, 22, 8, 8, 22, 8]))
    assert not same_formula(np.array([22, 8, 8]), np.array([22, 8]))
    assert not same_formula(np.array([22, 8, 8]), np.array([22, 9, 9]))
