from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from candidates import candidate_of, moved
from pymatgen.core import Structure
from textbook import STRUCTURES, with_elements

from xrdkit.crystal import symmetry_dataset, symmetry_of, to_structure
from xrdkit.pattern import prepare
from xrdkit.peaks import typical_fwhm
from xrdkit.rank import scored
from xrdkit.refine.batch import STAGES, refine_steps
from xrdkit.refine.block import EXTRAS, STRAINS, current_frac, current_lattice, pack
from xrdkit.refine.grid import Grid, make_grid
from xrdkit.refine.least_squares import PULL, Fitted, Stage, refine_block, solve_linear
from xrdkit.simulate import disturbed, pattern_of
from xrdkit.solve import run
from xrdkit.types import Candidate, Crystals, Fit, Instrument, Pattern, Radiation
from xrdkit.wavelengths import with_kbeta

CU = Radiation((1.540593,))
DOUBLET = Radiation((1.540593, 1.544427), (2 / 3, 1 / 3))
UNKNOWN = Radiation((1.540593,), kalpha2=None)
SEVERAL = ("NaCl", "FeSi", "TiO2", "ZnO", "Al2O3", "SiO2", "MnP", "ZrO2")
SYSTEMS = ("FeSi", "SiO2", "UCl3", "K2NiF4", "CaTiO3", "CuO", "P1")
SHARP = Stage(0.0, 3.0, 14, True, True, 30)
Q = 6.0


def measured(candidate: Candidate, beam: Radiation = CU, **settings) -> Pattern:
    """Pattern of a candidate as a good laboratory instrument gives it, without noise."""
    instrument = Instrument(w=0.08**2, u=0.05**2, x=0.03, **settings)
    clean = pattern_of(
        candidate.crystal, beam, two_theta=(10, 90, 4001), instrument=instrument
    )
    return prepare(clean)


def sharp_grid(pattern: Pattern) -> Grid:
    return make_grid(pattern, typical_fwhm(pattern), q_max=Q)


def result(pattern: Pattern, candidates: list[Candidate], **settings) -> list[Fit]:
    return run(refine_steps(pattern, candidates, **settings), False)


def refined(fit: Fit) -> Crystals:
    return fit.phases[0].crystal


def farthest(crystal: Crystals, right: Crystals) -> float:
    """Largest distance in Å of an atom from its right place."""
    apart = crystal.frac - right.frac
    return float(((apart - apart.round()) @ right.lattice[0]).norm(dim=-1).max())


def cell_error(crystal: Crystals, right: Crystals) -> float:
    """Largest relative error of a cell edge or (in rad) angle."""
    metrics = [c.lattice[0].double() @ c.lattice[0].double().T for c in (crystal, right)]
    return float(((metrics[0] - metrics[1]).abs() / metrics[1].diagonal().max()).max() / 2)


def decoy(right: Structure, other: Structure) -> Candidate:
    """Elements and volume of one structure in the type of another, A to A and B to B."""
    elements = [e.symbol for e in (*other.composition, *right.composition)]
    structure = with_elements(other, dict(zip(elements[:2], elements[2:], strict=True)))
    structure.scale_lattice(right.volume / len(right) * len(structure))
    return replace(candidate_of(structure), origin="decoy")


def found(name: str, seed: int) -> bool:
    right = candidate_of(STRUCTURES[name])
    (fit,) = result(measured(right), [moved(right, 0.01, 0.1, seed)])
    return cell_error(refined(fit), right.crystal) < 1e-4


def cost(fitted: Fitted) -> torch.Tensor:
    return fitted.residual**2 * (1 + PULL * fitted.penalty)


@pytest.mark.parametrize("seed", [1, pytest.param(2, marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", SEVERAL)
def test_disturbed_start_finds_cell_and_coordinates(name, seed):
    right = candidate_of(STRUCTURES[name])
    (fit,) = result(measured(right), [moved(right, 0.01, 0.1, seed)])
    assert cell_error(refined(fit), right.crystal) < 1e-4
    assert farthest(refined(fit), right.crystal) < 0.005
    assert fit.residual < 0.03


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_nine_of_ten_textbook_structures_are_found_from_disturbed_starts(seed):
    # the rest are mostly pseudocubic: 1 % is enough to take one line for its neighbour
    hits = [found(name, seed) for name in STRUCTURES]
    assert np.mean(hits) > 0.9


@pytest.mark.parametrize(
    ("geometry", "shift", "value", "within"),
    [
        ("debye-scherrer", "zero", 0.04, 0.002),
        ("bragg-brentano", "displacement", -0.08, 0.004),
    ],
)
def test_doublet_and_shift_of_lines_do_not_disturb_the_cell(geometry, shift, value, within):
    right = candidate_of(STRUCTURES["TiO2"])
    pattern = measured(right, DOUBLET, geometry=geometry, **{shift: value})
    (fit,) = result(pattern, [moved(right, 0.01, 0.1, 1)])
    assert cell_error(refined(fit), right.crystal) < 1e-4
    assert getattr(fit.instrument, shift) == pytest.approx(value, abs=within)


@pytest.mark.parametrize("optics", [{"slits": "automatic"}, {"overflow": 45.0}, {}])
def test_slits_are_found_from_the_intensities(optics):
    right = candidate_of(STRUCTURES["CaTiO3"])
    pattern = replace(measured(right, **optics), instrument=Instrument())
    (fit,) = result(pattern, [moved(right, 0.005, 0.05, 1)])
    expected = Instrument(**optics)
    assert fit.instrument.slits == expected.slits
    assert fit.instrument.overflow == pytest.approx(expected.overflow, abs=16)
    assert fit.residual < 0.05


def test_kbeta_is_found_and_explained():
    right = candidate_of(STRUCTURES["TiO2"])
    beam = with_kbeta(DOUBLET, 0.04)
    pattern = replace(measured(right, beam), radiation=DOUBLET)
    (fit,) = result(pattern, [moved(right, 0.005, 0.05, 1)])
    assert len(fit.radiation.wavelengths) == 3
    assert fit.residual < 0.05


@pytest.mark.parametrize(("truth", "lines"), [(CU, 1), (DOUBLET, 2)])
def test_unknown_kalpha2_is_decided_by_the_pattern(truth, lines):
    right = candidate_of(STRUCTURES["TiO2"])
    pattern = replace(measured(right, truth), radiation=UNKNOWN)
    (fit,) = result(pattern, [moved(right, 0.005, 0.05, 1)])
    assert len(fit.radiation.wavelengths) == lines


def test_noise_and_background_leave_the_cell_within_a_thousandth():
    right = candidate_of(STRUCTURES["Al2O3"])
    noisy = disturbed(right.crystal, CU, torch.Generator().manual_seed(5))
    (fit,) = result(prepare(noisy), [moved(right, 0.01, 0.1, 1)])
    assert cell_error(refined(fit), right.crystal) < 1e-3
    assert farthest(refined(fit), right.crystal) < 0.05


@pytest.mark.parametrize("name", SYSTEMS)
def test_symmetry_is_kept_exactly(name):
    right = candidate_of(STRUCTURES[name])
    (fit,) = result(measured(right), [moved(right, 0.01, 0.1, 1)])
    structure = to_structure(refined(fit))
    cell = (structure.lattice.matrix, structure.frac_coords, structure.atomic_numbers)
    assert symmetry_dataset(cell, 1e-3).number == right.symmetry.number
    assert fit.space_group == right.symmetry.number


@pytest.mark.parametrize("stage", STAGES)
def test_no_step_worsens_the_cost(stage):
    right = candidate_of(STRUCTURES["CaTiO3"])
    pattern = measured(right)
    grid = make_grid(
        pattern, typical_fwhm(pattern), strain=stage.strain, per_fwhm=stage.per_fwhm
    )
    block = pack([moved(right, 0.004, 0.4, seed) for seed in range(6)], Q)
    costs = [
        cost(refine_block(block, grid, replace(stage, steps=n))) for n in range(stage.steps)
    ]
    for before, after in pairwise(costs):
        assert (after <= before * (1 + 1e-5)).all()
    assert (costs[-1] < costs[0]).all()


def test_perfect_start_stays_where_it_is():
    right = candidate_of(STRUCTURES["SiO2"])
    grid = sharp_grid(measured(right))
    fitted = refine_block(pack([right], Q), grid, SHARP)
    assert fitted.block.values[0, :STRAINS].abs().max() < 2e-5
    assert fitted.block.values[0, STRAINS:-EXTRAS].abs().max() < 0.002


def test_candidates_refined_together_or_alone_end_alike():
    names = ("TiO2", "SiO2", "NaCl", "MnP")
    right = [candidate_of(STRUCTURES[name]) for name in names]
    starts = [moved(one, 0.005, 0.05, 1) for one in right]
    grid = sharp_grid(measured(right[1]))
    together = refine_block(pack(starts, Q), grid, SHARP)
    alone = refine_block(pack(starts[1:2], Q), grid, SHARP)
    torch.testing.assert_close(together.residual[1:2], alone.residual, rtol=0.01, atol=0)
    torch.testing.assert_close(
        current_lattice(together.block)[1:2],
        current_lattice(alone.block),
        rtol=0,
        atol=2e-4,
    )
    torch.testing.assert_close(
        current_frac(together.block)[1:2, :9], current_frac(alone.block), rtol=0, atol=1e-3
    )


def test_order_of_candidates_does_not_matter():
    right = candidate_of(STRUCTURES["TiO2"])
    starts = [moved(right, 0.01, 0.1, seed) for seed in range(4)]
    pattern = measured(right)
    forth = [fit.residual for fit in result(pattern, starts)]
    back = [fit.residual for fit in result(pattern, starts[::-1])]
    assert sorted(forth) == pytest.approx(sorted(back), rel=0.01)


@pytest.mark.parametrize(
    ("name", "others"),
    [
        ("TiO2", ("CdI2", "SiS2", "CaF2")),
        ("ZnS", ("NaCl", "ZnO", "NiAs")),
        ("FeS2", ("FeS2 58", "TiO2", "CaF2")),
        ("MnP", ("NaCl", "CrB", "FeSi")),
    ],
)
def test_right_structure_fits_better_than_decoys_of_the_same_formula(name, others):
    right = candidate_of(STRUCTURES[name])
    wrong = [decoy(STRUCTURES[name], STRUCTURES[other]) for other in others]
    fits = result(measured(right), [*wrong, moved(right, 0.01, 0.1, 1)])
    assert len(fits) == len(wrong) + 1
    best, second = sorted(fits, key=lambda fit: fit.residual)[:2]
    assert best.origin != "decoy"
    assert best.residual < second.residual / 5


def test_exchanged_metals_fit_worse():
    right = candidate_of(STRUCTURES["SrTiO3"])
    swap = with_elements(STRUCTURES["SrTiO3"], {"Sr": "Ti", "Ti": "Sr"})
    fits = result(measured(right), [candidate_of(swap), right])
    assert fits[1].residual < fits[0].residual / 5


def test_only_the_best_survive():
    right = candidate_of(STRUCTURES["NaCl"])
    wrong = [candidate_of(STRUCTURES[name]) for name in ("W", "Mg", "U", "BN", "CsCl")]
    stages = tuple(
        replace(stage, keep=keep) for stage, keep in zip(STAGES, (4, 2, 1), strict=True)
    )
    (fit,) = result(measured(right), [*wrong, right], stages=stages)
    assert fit.origin == "NaCl"


def test_prior_decides_between_equal_candidates():
    right = candidate_of(STRUCTURES["NaCl"])
    twins = [replace(right, origin=f"prior {p}", prior=float(p)) for p in (0, 3, 1)]
    stages = tuple(replace(stage, keep=1) for stage in STAGES)
    (fit,) = result(measured(right), twins, stages=stages)
    assert fit.origin == "prior 3"


def test_nothing_to_refine_gives_nothing():
    assert result(measured(candidate_of(STRUCTURES["NaCl"])), []) == []


def test_scale_and_smooth_background_are_solved_exactly():
    grid = sharp_grid(measured(candidate_of(STRUCTURES["NaCl"])))
    model = torch.rand(2, len(grid), generator=torch.Generator().manual_seed(1)) * 50
    drift = grid.smooth[:, :4] @ torch.tensor([0.3, -0.1, 0.05, 0.02])
    seen = replace(grid, observed=0.02 * model[0] + drift)
    scale, background = solve_linear(model, seen)
    assert float(scale[0]) == pytest.approx(0.02, rel=0.01)
    torch.testing.assert_close(background[0], drift, rtol=0, atol=0.01)


def test_fit_of_a_refined_candidate_describes_itself():
    right = candidate_of(STRUCTURES["TiO2"], prior=1.5)
    (fit,) = result(measured(right), [right])
    assert fit.structure.composition.reduced_formula == "TiO2"
    assert fit.structure.lattice.abc == pytest.approx((4.594, 4.594, 2.959), rel=1e-4)
    assert fit.wyckoff == "Ti 2a, O 4f"
    assert (fit.prior, fit.origin) == (1.5, "TiO2")
    assert fit.parameters == 2 + 1 + EXTRAS + 1  # cell, x, extras, scale
    rest = fit.observed - fit.calculated
    assert np.abs(rest).max() < 0.05
    u = refined(fit).u_iso
    torch.testing.assert_close(u, right.crystal.u_iso, rtol=0, atol=0.002)


def textured(candidate: Candidate) -> Pattern:
    """Pattern of a sample whose grains lie flat, (001) up."""
    instrument = Instrument(w=0.08**2, u=0.05**2, x=0.03)
    return prepare(
        pattern_of(
            candidate.crystal,
            CU,
            two_theta=(10, 90, 4001),
            instrument=instrument,
            texture=((0, 0, 1), 0.7),
        )
    )


def without_symmetry(candidate: Candidate, seed: int) -> Candidate:
    """The same atoms with every coordinate and cell parameter free, a little off."""
    crystal = candidate.crystal
    arrays = (crystal.lattice[0].double().numpy(), crystal.frac.double().numpy())
    symmetry = symmetry_of(1, *arrays, crystal.numbers.numpy())
    return moved(replace(candidate, symmetry=symmetry, origin="P1"), 0.005, 0.05, seed)


def test_a_preferred_orientation_is_found_and_its_axis_and_ratio_named():
    right = candidate_of(STRUCTURES["TiO2"])
    (fit,) = result(textured(right), [moved(right, 0.005, 0.05, 0)])
    assert fit.phases[0].texture == ((0, 0, 1), 0.7)
    assert fit.residual < 0.03
    assert farthest(refined(fit), right.crystal) < 0.02


def test_overfitted_rivals_do_not_keep_the_texture_from_the_right_structure():
    right = candidate_of(STRUCTURES["ZnO"])
    rivals = [without_symmetry(right, seed) for seed in range(10)]
    fits = scored(result(textured(right), [*rivals, moved(right, 0.005, 0.05, 0)]))
    assert fits[0].origin == right.origin
    assert fits[0].phases[0].texture == ((0, 0, 1), 0.7)
