from dataclasses import replace
from itertools import product

import numpy as np
import pytest
import torch
from candidates import candidate_of
from pymatgen.core import Lattice, Structure
from scipy.ndimage import gaussian_filter1d
from textbook import STRUCTURES, with_elements

from xrdkit.crystal import from_structures
from xrdkit.generators.assign import decorations, fillings
from xrdkit.generators.spectra import BINS, BLUR, X_MIN, X_STEP, group_of, slot_counts
from xrdkit.generators.templates import (
    ALIKE,
    FAR,
    VOLUME_SPREAD,
    propose,
    screen,
    search_of,
    slot_factors,
)
from xrdkit.library import Library, assemble, expected_volume
from xrdkit.nanocrystal import nano_pattern
from xrdkit.scattering import reflections
from xrdkit.simulate import intensities, pattern_of
from xrdkit.solve import run
from xrdkit.structure_types import member_of
from xrdkit.types import Candidate, Instrument, Pattern, Problem, Radiation

CU = Radiation((1.540593,))
RUTILES = [  # other compounds of one type
    with_elements(STRUCTURES["TiO2"], {"Ti": metal}, scale)
    for metal, scale in (
        ("Sn", 1.04),
        ("Mn", 0.96),
        ("Ru", 0.98),
        ("Pb", 1.08),
        ("Ge", 0.95),
    )
]
BINARY = [STRUCTURES[name] for name in ("CaF2", "CdI2", "FeS2", "SiS2", "SiO2")]


def library_of(*structures: Structure) -> Library:
    cells = [
        (s.lattice.matrix, s.frac_coords, np.array(s.atomic_numbers)) for s in structures
    ]
    return assemble([member_of(*cell) for cell in cells], info={})


def measured(structure: Structure) -> Pattern:
    return pattern_of(
        from_structures([structure]),
        CU,
        two_theta=(10, 90, 4001),
        instrument=Instrument(w=0.1**2),
    )


def problem(structure: Structure, library: Library, **given) -> Problem:
    formula = structure.composition.reduced_composition.get_el_amt_dict()
    return Problem(measured(structure), dict(formula), library=library, **given)


def proposed(asked: Problem, count: int = 20) -> list[Candidate]:
    steps = propose(
        asked, count=count, generator=torch.Generator(), device=torch.device("cpu")
    )
    return run(steps, False)


def own_filling(library: Library) -> tuple[tuple[int, ...], ...]:
    """The elements of member 0 in its slots."""
    return tuple((int(z),) for z in library.elements[0] if z)


def names(candidates: list[Candidate]) -> list[str]:
    return [c.origin.split(",")[0] for c in candidates]


def laid(x: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Values at places x on the axis of the spectra, shared between two bins, blurred."""
    place = (x - X_MIN) / X_STEP
    out = np.zeros(BINS + 2)
    for p, value in zip(place, values, strict=True):
        if -1 <= p < BINS:
            left = int(np.floor(p))
            out[left + 1] += value * (left + 1 - p)
            out[left + 2] += value * (p - left)
    return gaussian_filter1d(out[1:-1], BLUR, mode="constant")


def direct_sum(library: Library, slots: int) -> np.ndarray:
    """Pair spectra of member 0, reflection by reflection."""
    cell, frac = library.lattice[0].astype(float), library.frac.astype(float)
    n = len(frac)
    cell = cell * (n / abs(np.linalg.det(cell))) ** (1 / 3)
    limits = np.ceil(17.1 / (2 * np.pi) * np.linalg.norm(cell, axis=1)).astype(int)
    hkl = np.array([h for h in product(*(range(-m, m + 1) for m in limits)) if any(h)])
    q = 2 * np.pi * np.linalg.norm(hkl @ np.linalg.inv(cell).T, axis=1)
    hkl, q = hkl[q < np.exp(X_MIN + X_STEP * BINS)], q[q < np.exp(X_MIN + X_STEP * BINS)]
    waves = np.exp(2j * np.pi * hkl @ frac.T)
    sums = [waves[:, library.slot == k].sum(1) for k in range(slots)]
    pairs = [(k, m) for k in range(slots) for m in range(k, slots)]
    values = [(sums[k] * sums[m].conj()).real * (1 if k == m else 2) for k, m in pairs]
    return np.array([laid(np.log(q), v / 2 / n**2) for v in values])  # half sphere


@pytest.mark.parametrize("name", ["W", "NaCl", "TiO2", "SiO2", "SrTiO3", "CaTiO3", "P1"])
def test_pair_spectra_are_sums_over_reflections(name):
    library = library_of(STRUCTURES[name])
    ((counts, rows),) = slot_counts(library)
    got = group_of(library, counts, rows).spectra[0].double().numpy()
    expected = direct_sum(library, len(counts))
    assert np.abs(got - expected).max() < 2e-3 * np.abs(expected).max()


def test_lines_below_the_axis_leave_no_trace():
    layers = [[0, 0, z / 8] for z in range(8)]
    stack = Structure(Lattice.tetragonal(2.5, 25), ["Na"] * 5 + ["I"] * 3, layers)
    library = library_of(stack)
    ((counts, rows),) = slot_counts(library)
    got = group_of(library, counts, rows).spectra[0].double().numpy()
    expected = direct_sum(library, 2)
    assert np.abs(got - expected)[:, :10].max() < 2e-3 * np.abs(expected[:, :100]).max()


@pytest.mark.parametrize("name", ["TiO2", "SrTiO3", "CaTiO3"])
def test_substitution_by_pair_spectra_is_the_spectrum_of_the_substituted_crystal(name):
    other = {"Ti": "Sn", "O": "S", "Sr": "Rb", "Ca": "Ag"}
    present = {e.symbol for e in STRUCTURES[name].composition}
    made = with_elements(STRUCTURES[name], {k: other[k] for k in present}, 1.1)
    crystals, volume = from_structures([made]), made.volume / len(made)
    found = reflections(crystals, 6.0)
    q = 2 * np.pi * np.linalg.norm(found.hkl[0].numpy() @ made.lattice.inv_matrix.T, axis=1)
    strength = intensities(crystals, found, CU)[0, 0].double().numpy()
    expected = laid(np.log(q) + np.log(volume) / 3, strength)

    library = library_of(STRUCTURES[name])
    ((counts, rows),) = slot_counts(library)
    z = {s.specie.Z: t.specie.Z for s, t in zip(STRUCTURES[name], made, strict=True)}
    filling = tuple((z[int(e)],) for e in library.elements[0, : len(counts)])
    search = search_of(measured(made), volume)
    f = slot_factors(filling, counts, {}, search)
    k, m = torch.triu_indices(len(f), len(f))
    spectra = group_of(library, counts, rows).spectra[0].float()
    got = (f[k] * f[m] * search.lp * spectra).sum(0).double().numpy()

    seen = X_MIN + X_STEP * np.arange(BINS) < np.log(5.8) + np.log(volume) / 3
    got, expected = got[seen], expected[seen]
    assert got @ expected / np.linalg.norm(got) / np.linalg.norm(expected) > 0.999


@pytest.mark.parametrize("stretch", [0.93, 0.97, 1.0, 1.04, 1.1])
@pytest.mark.parametrize("name", ["NaCl", "TiO2", "CaTiO3"])
def test_screen_finds_the_scale_of_an_expanded_cell_to_one_bin(name, stretch):
    structure = STRUCTURES[name]
    library = library_of(structure)
    ((counts, rows),) = slot_counts(library)
    search = search_of(
        measured(with_elements(structure, {}, stretch)), structure.volume / len(structure)
    )
    factors = slot_factors(own_filling(library), counts, {}, search)
    best, shift = screen(group_of(library, counts, rows).spectra, factors, search)
    assert float(-shift[0]) == pytest.approx(np.log(stretch), abs=X_STEP)
    far = FAR * (3 * np.log(stretch) / VOLUME_SPREAD) ** 2
    assert float(best[0]) > 0.97 - far


@pytest.mark.parametrize("size", [10.0, 30.0, 100.0])
@pytest.mark.parametrize("name", ["NaCl", "TiO2", "CaTiO3"])
def test_screen_broadens_the_lines_of_nanocrystals(name, size):
    structure = STRUCTURES[name]
    library = library_of(structure)
    ((counts, rows),) = slot_counts(library)
    pattern = nano_pattern(from_structures([structure]), size)
    search = search_of(pattern, structure.volume / len(structure))
    factors = slot_factors(own_filling(library), counts, {}, search)
    best, shift = screen(group_of(library, counts, rows).spectra, factors, search)
    assert float(best[0]) > 0.995
    assert float(shift[0]) == 0


def test_right_assignment_is_more_similar_than_exchanged_elements():
    structure = STRUCTURES["SrTiO3"]
    library = library_of(structure)
    ((counts, rows),) = slot_counts(library)
    search = search_of(measured(structure), structure.volume / len(structure))
    spectra, (a, b, oxygen) = group_of(library, counts, rows).spectra, own_filling(library)
    right, wrong = (
        float(screen(spectra, slot_factors(filling, counts, {}, search), search)[0])
        for filling in ((a, b, oxygen), (b, a, oxygen))
    )
    assert right > wrong + 0.05


def test_observed_spectrum_holds_the_whole_area_and_knows_where_it_looked():
    pattern = measured(STRUCTURES["TiO2"])
    search = search_of(pattern, 10.0)
    root, mask = search.observed, search.mask
    area = np.trapezoid(pattern.intensity, pattern.two_theta)
    middle = len(root) // 2
    assert float((root[middle] ** 2).sum()) == pytest.approx(area, rel=0.01)
    x = X_MIN + X_STEP * np.arange(BINS)
    ends = np.log(pattern.q[[0, -1]]) + np.log(10.0) / 3
    inside = (x > ends[0] - X_STEP) & (x < ends[1] + X_STEP)
    assert mask[middle][~inside].sum() == 0
    assert mask[middle].sum() == pytest.approx(inside.sum(), abs=3)
    torch.testing.assert_close(root[middle + 3, :-3], root[middle, 3:])


@pytest.mark.parametrize(
    ("counts", "contents", "expected"),
    [
        ((1, 2), {22: 1, 8: 2}, [((22,), (8,))]),  # AB2
        ((1, 1, 3), {38: 1, 22: 1, 8: 3},  # ABC3
         [((22,), (38,), (8,)), ((38,), (22,), (8,))]),
        ((2, 2), {11: 2, 17: 2}, [((11,), (17,)), ((17,), (11,))]),  # AB
        ((4,), {14: 4}, [((14,),)]),
        ((1, 1, 2), {26: 1, 16: 3},  # species merged
         [((16,), (26,), (16,)), ((26,), (16,), (16,))]),
        ((1, 2), {22: 2, 8: 4}, []),  # another number of atoms
        ((2, 2), {22: 1, 8: 3}, []),
        ((2, 3), {38: 1, 22: 1, 8: 3}, [((22, 38), (8,))]),  # cations share a slot
        ((3,), {22: 1, 8: 2}, []),  # anions and cations do not
    ],
)  # fmt: skip
def test_fillings_are_all_ways_to_fill_the_slots(counts, contents, expected):
    assert fillings(counts, contents) == expected


def test_elements_that_share_a_slot_are_ordered_over_its_orbits():
    slot, orbit = np.array([0, 0, 0, 1, 1, 1]), np.array([0, 1, 1, 2, 2, 2])
    found = decorations(((22, 38), (8,)), slot, orbit, {38: 2, 22: 1, 8: 3})
    assert [numbers.tolist() for numbers in found] == [[22, 38, 38, 8, 8, 8]]
    assert decorations(((22, 38), (8,)), slot, 0 * slot, {38: 2, 22: 1, 8: 3}) == []


def test_spectra_are_computed_once_for_all_excerpts_of_a_library():
    library = library_of(*RUTILES, *BINARY)
    counts, rows = slot_counts(library)[0]
    fewer = library.without(("SnO2",))
    assert len(fewer) == len(library) - 1
    assert group_of(fewer, counts, rows) is group_of(library, counts, rows)


@pytest.mark.parametrize("name", ["CaF2", "CdI2", "TiO2", "FeS2", "SiS2", "SiO2"])
def test_own_type_is_proposed_first_for_another_compound(name):
    library = library_of(*RUTILES, *BINARY)
    old = STRUCTURES[name]
    metal, anion = (e.symbol for e in old.composition)
    made = with_elements(old, {metal: "Hf", anion: "Te"})
    made.scale_lattice(1.15 * len(made) * expected_volume(library, {72: 1, 52: 2}))
    first, second = proposed(problem(made, library), 2)
    assert first.symmetry.number == candidate_of(old).symmetry.number
    assert second.symmetry.number != first.symmetry.number or name == "TiO2"


def test_proposed_crystal_has_the_cell_and_the_symmetry():
    made = with_elements(STRUCTURES["TiO2"], {"Ti": "Cr", "O": "F"}, 1.05)
    best = proposed(problem(made, library_of(*RUTILES, *BINARY)))[0]
    volume = float(best.crystal.volume[0]) / len(best.crystal.numbers)
    assert volume == pytest.approx(made.volume / len(made), rel=3 * X_STEP)
    assert best.symmetry.number == 136
    assert sorted(best.crystal.numbers.tolist()) == [9, 9, 9, 9, 24, 24]
    assert "5 members" in best.origin


@pytest.mark.parametrize("count", [1, 4, 100])
def test_no_more_candidates_than_asked_and_few_of_one_type(count):
    library = library_of(*RUTILES, *BINARY)
    found = proposed(problem(STRUCTURES["TiO2"], library), count)
    assert len(found) == min(count, ALIKE + len(BINARY))
    assert names(found).count(names(found)[0]) <= ALIKE < len(RUTILES)


def test_no_more_candidates_than_asked_with_given_cells():
    edges = [(4.594 * s, 4.594 * s, 2.959 * s) for s in (1, 1.001)]
    cells = tuple(((*abc, 90.0, 90.0, 90.0), 1.0) for abc in edges)
    asked = problem(STRUCTURES["TiO2"], library_of(*RUTILES), cells=cells)
    assert 0 < len(proposed(asked, 1)) <= 1


def test_formula_of_no_type_gets_no_candidates():
    assert proposed(problem(STRUCTURES["MgAl2O4"], library_of(*BINARY))) == []


def test_space_group_contents_and_excerpt_limit_the_candidates():
    library = library_of(*RUTILES, *BINARY)
    structure = STRUCTURES["TiO2"]
    only = proposed(problem(structure, library, space_group=225))
    assert [c.symmetry.number for c in only] == [225]
    small = proposed(problem(structure, library, contents={"Ti": 1.0, "O": 2.0}))
    assert {len(c.crystal.numbers) for c in small} == {3}
    rutile = int(library.kind[0])
    rest = proposed(problem(structure, library.without_types(np.array([rutile]))))
    assert 136 not in {c.symmetry.number for c in rest}
    assert len(rest) == len(BINARY)


def test_type_of_more_species_serves_a_formula_of_fewer():
    # rocksalt from a structure with two kinds of metal on its sites
    found = proposed(problem(STRUCTURES["NaCl"], library_of(STRUCTURES["CuFeS2"])))
    assert [c.symmetry.number for c in found] == [122, 122]  # Na, Na, Cl and Cl, Cl, Na


def test_formula_with_fractions_is_left_to_mixed_sites():
    asked = problem(STRUCTURES["TiO2"], library_of(*RUTILES))
    assert proposed(asked)
    assert proposed(replace(asked, formula={"Ti": 0.7, "Sn": 0.3, "O": 2.0})) == []
