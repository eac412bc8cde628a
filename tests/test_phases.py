from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from candidates import candidate_of
from pymatgen.core import Lattice, Structure
from textbook import STRUCTURES, table_of, with_elements

from xrdkit import library
from xrdkit.crystal import from_structures, to_structure
from xrdkit.disturb import mixed
from xrdkit.evidence import with_unexplained
from xrdkit.pattern import prepare
from xrdkit.peaks import typical_fwhm
from xrdkit.phases import (
    compounds,
    foreign_phases,
    known_phase,
    known_phases,
    known_types,
    leftover,
    without_phases,
)
from xrdkit.phases.compounds import common_compounds
from xrdkit.refine.batch import refine_steps
from xrdkit.refine.grid import make_grid
from xrdkit.refine.known import with_phases
from xrdkit.refine.one_sided import matched
from xrdkit.simulate import disturbed, pattern_of
from xrdkit.solve import run
from xrdkit.types import Instrument, Problem
from xrdkit.wavelengths import radiation

BEAM = radiation("CuKa")
INSTRUMENT = Instrument(w=0.01)
SLOW = pytest.mark.slow
HELD = ("TiO2", "TiO2 141", "Cu", "ZnO", "CaCO3", "NaCl", "MgO", "SrTiO3")


def clean(name):
    crystal = from_structures([STRUCTURES[name]])
    return pattern_of(crystal, BEAM, two_theta=(5.0, 80.0, 3751), instrument=INSTRUMENT)


def blend(main, foreign, share=0.3):
    return prepare(mixed(clean(main), clean(foreign), share))


def as_measured(main, foreign, seed):
    generator = torch.Generator().manual_seed(seed)
    one, other = (from_structures([STRUCTURES[name]]) for name in (main, foreign))
    return prepare(disturbed(one, BEAM, generator, foreign=other))


def edge_error(phase, name):
    """Relative error of the cube root of the cell volume per atom."""
    own = float(phase.crystal.volume) / len(phase.crystal.numbers)
    true = STRUCTURES[name].volume / len(STRUCTURES[name])
    return abs((own / true) ** (1 / 3) - 1)


def likeness(pattern, other):
    one = np.interp(other.two_theta, pattern.two_theta, pattern.intensity)
    return one @ other.intensity / np.linalg.norm(one) / np.linalg.norm(other.intensity)


def fit_of(pattern, name):
    (fit,) = run(refine_steps(pattern, [candidate_of(STRUCTURES[name])]), False)
    return with_unexplained(fit, pattern)


@pytest.fixture(scope="module")
def known():
    magnesia = with_elements(STRUCTURES["NaCl"], {"Na": "Mg", "Cl": "O"}, 4.21 / 5.64)
    held = [STRUCTURES[name] for name in HELD if name != "MgO"]
    return library.build(table_of([*held, magnesia]))


@pytest.fixture(scope="module")
def rutile_and_corundum():
    return blend("TiO2", "Al2O3")


@pytest.mark.parametrize(
    ("main", "foreign", "form"),
    [
        ("TiO2", "Al2O3", "strained structure"),
        ("CaTiO3", "NaCl", "formula"),
        pytest.param("TiO2", "Al2O3", "formula", marks=SLOW),
        pytest.param("CaTiO3", "NaCl", "strained structure", marks=SLOW),
    ],
)
def test_cell_of_a_known_phase_is_found_within_a_thousandth(main, foreign, form, known):
    what = STRUCTURES[foreign].composition.reduced_formula
    if form == "strained structure":
        what = with_elements(STRUCTURES[foreign], {}, 1.012)
    assert edge_error(known_phase(what, blend(main, foreign), known), foreign) < 1e-4
    measured = known_phase(what, as_measured(main, foreign, 3), known)
    assert edge_error(measured, foreign) < 1e-3


def test_cif_gives_the_same_phase_as_its_structure(rutile_and_corundum, known, tmp_path):
    STRUCTURES["Al2O3"].to_file(str(tmp_path / "corundum.cif"))
    phase = known_phase(tmp_path / "corundum.cif", rutile_and_corundum, known)
    assert edge_error(phase, "Al2O3") < 1e-4
    assert phase.name == "Al2O3"
    again = known_phase(str(tmp_path / "corundum.cif"), rutile_and_corundum, known)
    torch.testing.assert_close(again.crystal.lattice, phase.crystal.lattice)


def test_of_several_structures_of_a_formula_the_one_in_the_pattern_is_taken(known):
    pattern = blend("ZnO", "TiO2 141")
    assert known_phase("TiO2", pattern, known).symmetry.number == 141
    assert known_phase("O4Ti2", blend("ZnO", "TiO2"), known).symmetry.number == 136


def test_formula_that_nothing_holds_takes_a_type_with_its_volume_searched(known):
    lime = with_elements(STRUCTURES["NaCl"], {"Na": "Ca", "Cl": "O"}, 4.81 / 5.64)
    other = pattern_of(
        from_structures([lime]), BEAM, two_theta=(5.0, 80.0, 3751), instrument=INSTRUMENT
    )
    phase = known_phase("CaO", prepare(mixed(clean("TiO2"), other, 0.3)), known)
    assert phase.symmetry.number == 225
    assert abs(float(phase.crystal.volume) * 4) ** (1 / 3) == pytest.approx(4.81, rel=1e-3)


def test_mixed_site_of_a_known_phase_keeps_its_occupancies(known):
    alloy = Structure(Lattice.cubic(3.9), [{"Au": 0.5, "Ag": 0.5}], [[0, 0, 0]])
    other = pattern_of(
        from_structures([alloy]), BEAM, two_theta=(5.0, 80.0, 3751), instrument=INSTRUMENT
    )
    phase = known_phase(alloy, prepare(mixed(clean("TiO2"), other, 0.3)), known)
    assert sorted(phase.crystal.numbers.tolist()) == [47, 79]
    assert phase.crystal.occupancy.tolist() == [0.5, 0.5]


def test_other_lines_do_not_raise_the_scale_of_a_phase():
    line = torch.exp(-0.5 * ((torch.arange(400.0) - 100) / 4) ** 2)
    foreign = torch.exp(-0.5 * ((torch.arange(400.0) - 104) / 4) ** 2)
    foreign += 3 * torch.exp(-0.5 * ((torch.arange(400.0) - 300) / 4) ** 2)
    share, scale = matched(line, 0.5 * line)
    assert (float(share), float(scale)) == pytest.approx((1, 0.5), abs=1e-4)
    two = line + torch.exp(-0.5 * ((torch.arange(400.0) - 200) / 4) ** 2)
    _, beside = matched(two, 0.5 * two + foreign)
    assert float(beside) == pytest.approx(0.5, rel=0.02)
    absent, _ = matched(line, foreign.roll(150))
    assert float(absent) == pytest.approx(0, abs=1e-3)


def test_profile_of_a_phase_has_its_maximum_at_one(rutile_and_corundum, known):
    phase = known_phase("Al2O3", rutile_and_corundum, known)
    for strain in (0.012, 0.005, 0.0):
        width = typical_fwhm(rutile_and_corundum)
        grid = make_grid(rutile_and_corundum, width, strain=strain)
        curve = with_phases(grid, (phase,)).known[:, 0]
        assert len(curve) == len(grid)
        assert float(curve.max()) == pytest.approx(1)
        alone = make_grid(clean("Al2O3"), width, strain=strain).observed
        assert float(curve @ alone / curve.norm() / alone.norm()) > 0.995


def test_without_its_phases_a_mixture_is_the_other_phase(rutile_and_corundum, known):
    phase = known_phase("Al2O3", rutile_and_corundum, known)
    left = without_phases(rutile_and_corundum, (phase,))
    assert likeness(rutile_and_corundum, clean("TiO2")) < 0.99
    assert likeness(left, clean("TiO2")) > 0.999
    assert left.intensity.max() == 1
    assert without_phases(rutile_and_corundum, ()) is rutile_and_corundum


def test_two_known_phases_are_taken_out_together(known):
    both = mixed(mixed(clean("Al2O3"), clean("NaCl"), 0.4), clean("Si"), 0.3)
    phases = [known_phase(name, prepare(both), known) for name in ("NaCl", "Si")]
    assert likeness(without_phases(prepare(both), phases), clean("Al2O3")) > 0.998


def test_known_phases_that_leave_nothing_are_refused(known):
    phase = known_phase("NaCl", prepare(clean("NaCl")), known)
    with pytest.raises(ValueError, match="explain the whole pattern; leave one out"):
        without_phases(prepare(clean("NaCl")), (phase,))


@pytest.mark.parametrize("seed", [1, *(pytest.param(n, marks=SLOW) for n in (2, 3))])
def test_perfect_fit_of_a_noisy_pattern_leaves_nothing_unexplained(seed):
    pattern = clean("TiO2")
    counts = torch.poisson(
        torch.tensor(3000 * pattern.intensity + 300),
        generator=torch.Generator().manual_seed(seed),
    ).numpy()
    sigma = np.sqrt(counts)
    noisy = prepare(replace(pattern, intensity=counts, sigma=sigma, sigma_source="counts"))
    assert fit_of(noisy, "TiO2").unexplained < 0.02


@pytest.mark.parametrize("share", [0.1, 0.3])
def test_unexplained_share_is_about_that_of_the_foreign_phase(share):
    fit = fit_of(blend("TiO2", "Al2O3", share), "TiO2")
    assert fit.unexplained == pytest.approx(share, abs=0.04)
    assert likeness(leftover(fit), clean("Al2O3")) > 0.9


@pytest.mark.parametrize(
    ("main", "foreign", "name"),
    [
        ("TiO2", "Al2O3", "Al2O3 (R-3c type)"),  # a sample holder
        ("SrTiO3", "TiO2", "TiO2 (P4_2/mnm type)"),  # the sample's elements
        ("CaTiO3", "CaCO3", "CaCO3 (R-3c type)"),  # and the air's
    ],
)
def test_leftover_is_named(main, foreign, name, known):
    pattern = blend(main, foreign)
    formula = {e.symbol: float(n) for e, n in STRUCTURES[main].composition.items()}
    problem = Problem(pattern, formula, library=known)
    (first, share), *_ = foreign_phases(problem, fit_of(pattern, main))
    assert first == name
    assert share > 0.6


def test_nothing_is_named_where_nothing_is_left(known):
    pattern = prepare(clean("TiO2"))
    problem = Problem(pattern, {"Ti": 1.0, "O": 2.0}, library=known)
    assert foreign_phases(problem, fit_of(pattern, "TiO2")) == ()


def test_what_the_profile_of_a_phase_misses_is_no_foreign_phase(known):
    pattern = prepare(clean("TiO2"))
    problem = Problem(pattern, {"Ti": 1.0, "O": 2.0}, library=known)
    fit = fit_of(pattern, "TiO2")
    low = fit.background + 0.6 * (fit.calculated - fit.background)
    assert foreign_phases(problem, replace(fit, calculated=low, unexplained=0.4)) == ()


def test_phase_itself_is_not_named_beside_a_foreign_one(known):
    pattern = blend("TiO2", "Al2O3")
    problem = Problem(pattern, {"Ti": 1.0, "O": 2.0}, library=known)
    fit = fit_of(pattern, "TiO2")
    low = fit.background + 0.8 * (fit.calculated - fit.background)
    named = foreign_phases(problem, replace(fit, calculated=low))
    assert known.holds("TiO2")
    assert named[0][0] == "Al2O3 (R-3c type)"
    assert not any(name.startswith("TiO2") for name, _ in named)


def test_common_compounds_are_those_of_the_textbook():
    from pymatgen.analysis.structure_matcher import StructureMatcher

    matcher = StructureMatcher(scale=False)
    for formula, candidate in common_compounds().items():
        if formula in STRUCTURES:
            assert matcher.fit(to_structure(candidate.crystal), STRUCTURES[formula])


def test_known_compound_is_told_from_a_new_one_of_its_type(known):
    rows = known.formula.tolist()
    salt, titania = (
        known.kind[rows.index(library.formula_hash(name))] for name in ("NaCl", "TiO2")
    )
    assert known_types(known, "NaCl") == {int(salt): f"NaCl ({known.type_label[salt]})"}
    assert known_types(known, "MgO").keys() == {int(salt)}
    assert int(titania) in known_types(known, "TiO2")
    assert known_types(known, "KCl") == {}
    assert known_types(known.without(("NaCl",)), "NaCl") == {}


@pytest.mark.parametrize(
    ("what", "text"),
    [
        (
            STRUCTURES["W"],
            r"phase W: its strongest lines \(at 40.\d\d°, .*\) are not in the pattern",
        ),
        ("LaB6", "its strongest lines"),
        ("Xx2", "'Xx' in formula 'Xx2' is not an element"),
        ("Si0.5Ge0.5", "phase Si0.5Ge0.5 has fractional counts; give its CIF"),
        ("Na5Al3W2F14", "no structure type holds this formula; give a CIF file"),
        ("none.cif", "there is no file none.cif; give a CIF file or a formula"),
    ],
)
def test_phase_that_cannot_be_is_refused_in_a_sentence(
    what, text, rutile_and_corundum, known
):
    with pytest.raises((ValueError, FileNotFoundError), match=text):
        known_phase(what, rutile_and_corundum, known)


def test_bad_cif_is_refused_in_a_sentence(rutile_and_corundum, known, tmp_path):
    path = Path(tmp_path / "bad.cif")
    path.write_text("data_x\n_cell_length_a nonsense\n")
    with pytest.raises(ValueError, match="is not a CIF with a structure"):
        known_phase(path, rutile_and_corundum, known)
    path.write_text("#" * 2_000_001)
    with pytest.raises(ValueError, match="has 2,000,001 bytes; give a CIF file of at most"):
        known_phase(path, rutile_and_corundum, known)


def test_structure_of_very_many_sites_is_refused_before_its_symmetry_is_looked_for():
    frac = np.random.default_rng(0).random((30_000, 3))
    huge = Structure(Lattice.cubic(80.0), ["Si"] * len(frac), frac)
    with pytest.raises(
        ValueError, match="huge has 30,000 sites in its cell, at most 1,600"
    ):
        compounds.candidate_of(huge, "huge")


def test_mixture_has_the_share_and_says_what_it_needs():
    one, other = clean("TiO2"), clean("Si")
    both = mixed(one, other, 0.3)
    top = (one.intensity + (both.intensity * 0)).sum() / 0.7
    scale = (both.intensity / both.intensity.sum() * top - one.intensity).clip(0)
    assert scale.sum() / top == pytest.approx(0.3, abs=1e-6)
    with pytest.raises(ValueError, match=r"share -0\.1 of the other phase"):
        mixed(one, other, -0.1)
    with pytest.raises(ValueError, match="simulate both on one grid"):
        mixed(one, replace(other, two_theta=other.two_theta + 0.01), 0.3)


@pytest.mark.parametrize(
    ("main", "absent", "seed"),
    [("TiO2", "CaF2", 0), ("ZnO", "LaB6", 1), ("CaTiO3", "Si", 2)],
)
def test_phase_whose_lines_are_met_by_chance_is_refused(main, absent, seed, known):
    generator = torch.Generator().manual_seed(seed)
    crystal = from_structures([STRUCTURES[main]])
    pattern = prepare(disturbed(crystal, BEAM, generator))
    with pytest.raises(ValueError, match=r"strongest lines .* are not in the pattern"):
        known_phase(STRUCTURES[absent], pattern, known)


def test_phase_given_twice_is_refused(rutile_and_corundum, known):
    with pytest.raises(ValueError, match="phases Al2O3 and Al4O6 are the same; give one"):
        known_phases(("Al2O3", "Al4O6"), rutile_and_corundum, known)


def test_phase_with_a_giant_cell_is_refused():
    giant = Structure(Lattice.cubic(900), ["Cu"], [[0, 0, 0]])
    with pytest.raises(ValueError, match=r"a cell of 729,000,000 Å³, at most 20,000 Å³"):
        compounds.candidate_of(giant, "giant.cif")
