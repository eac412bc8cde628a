"""Known phases beside a candidate, foreign lines, slits and Kβ."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from candidates import candidate_of, moved
from textbook import STRUCTURES

from xrdkit.pattern import prepare
from xrdkit.peaks import typical_fwhm
from xrdkit.refine.batch import refine_steps
from xrdkit.refine.grid import make_grid
from xrdkit.refine.known import density, profile_of, with_phases
from xrdkit.scattering import slit_factor
from xrdkit.simulate import pattern_of
from xrdkit.solve import run
from xrdkit.types import Instrument, Pattern, Phase
from xrdkit.wavelengths import K_ALPHA, K_BETA, radiation, with_kbeta

CU = radiation("CuKa1")
GRID = (10, 90, 4001)
PEAKS = Instrument(w=0.08**2, u=0.05**2)


def phase_of(name: str) -> Phase:
    candidate = candidate_of(STRUCTURES[name])
    return Phase(candidate.crystal, candidate.symmetry, name=name)


def mixture(amounts: dict[str, float]) -> Pattern:
    """The pattern of phases by their share of the volume."""
    curves = [
        share
        * pattern_of(
            phase_of(name).crystal, CU, two_theta=GRID, instrument=PEAKS, normalise=False
        ).intensity
        for name, share in amounts.items()
    ]
    return prepare(Pattern(np.linspace(*GRID), sum(curves), CU))


def fitted(pattern: Pattern, name: str, *known: str):
    start = moved(candidate_of(STRUCTURES[name]), 0.004, 0.05, 1)
    phases = tuple(phase_of(k) for k in known)
    (fit,) = run(refine_steps(pattern, [start], phases=phases), False)
    return fit


def test_weight_fractions_of_a_mixture_come_out():
    fit = fitted(mixture({"TiO2": 0.6, "Al2O3": 0.3, "NaCl": 0.1}), "TiO2", "Al2O3", "NaCl")
    mass = {n: v * density(phase_of(n)) for n, v in (("Al2O3", 0.3), ("NaCl", 0.1))}
    total = 0.6 * density(phase_of("TiO2")) + sum(mass.values())
    assert fit.residual < 0.05
    assert [p.name for p in fit.phases[1:]] == ["Al2O3", "NaCl"]
    assert sum(p.weight_fraction for p in fit.phases) == pytest.approx(1)
    for phase in fit.phases[1:]:
        assert phase.weight_fraction == pytest.approx(mass[phase.name] / total, abs=0.02)


def test_density_of_rock_salt_is_the_known_one():
    u_per_cubic_angstrom = 1.66054  # in g/cm³
    assert density(phase_of("NaCl")) * u_per_cubic_angstrom == pytest.approx(2.16, abs=0.02)


def test_a_known_phase_that_is_absent_gets_no_weight():
    fit = fitted(mixture({"TiO2": 1.0}), "TiO2", "NaCl")
    assert fit.phases[1].weight_fraction < 0.005
    assert fit.residual < 0.03


def test_what_is_not_the_first_phase_is_in_the_background():
    fit = fitted(mixture({"TiO2": 0.6, "Al2O3": 0.4}), "TiO2", "Al2O3")
    corundum = pattern_of(phase_of("Al2O3").crystal, CU, two_theta=GRID, instrument=PEAKS)
    other = np.interp(fit.two_theta, corundum.two_theta, corundum.intensity)
    assert np.corrcoef(fit.background, other)[0, 1] > 0.98


def test_columns_of_known_phases_have_maximum_one():
    pattern = mixture({"TiO2": 1.0})
    grid = make_grid(pattern, typical_fwhm(pattern))
    assert with_phases(grid, ()) is grid
    known = with_phases(grid, (phase_of("Al2O3"), phase_of("NaCl"))).known
    assert known.amax(0).tolist() == pytest.approx([1, 1])
    curve = profile_of(phase_of("NaCl"), grid)
    assert torch.allclose(known[:, 1], curve / curve.max())


def test_lines_of_another_phase_hardly_move_what_is_refined():
    right = candidate_of(STRUCTURES["ZrO2"]).crystal
    fit = fitted(mixture({"ZrO2": 0.6, "NaCl": 0.4}), "ZrO2")
    crystal = fit.phases[0].crystal
    assert torch.allclose(crystal.lattice, right.lattice, rtol=0, atol=0.005)
    shift = crystal.frac - right.frac
    assert float(((shift - shift.round()) @ right.lattice[0]).norm(dim=-1).max()) < 0.05


def test_slit_factors_are_those_of_the_geometry():
    sine = torch.sin(torch.deg2rad(torch.tensor([5.0, 10.0, 15.0, 40.0])))
    assert torch.equal(slit_factor(sine, "automatic", 0.0), sine)
    assert torch.equal(slit_factor(sine, "fixed", 0.0), torch.ones(4))
    wide = slit_factor(sine, "fixed", 30.0)  # 2θ of 30°: θ = 15°
    assert wide.tolist() == pytest.approx([0.3367, 0.6709, 1, 1], abs=1e-4)


def test_kbeta_lies_a_tenth_below_kalpha_for_every_tube():
    for element in K_ALPHA:
        assert 0.87 < K_BETA[element] / K_ALPHA[element][0] < 0.92
        beam = with_kbeta(radiation(f"{element}Ka"), 0.05)
        assert sum(beam.weights) == pytest.approx(1)
        assert beam.weights[2] / sum(beam.weights[:2]) == pytest.approx(0.05)
    assert with_kbeta(replace(CU, wavelengths=(1.0,)), 0.05) is None
