from dataclasses import replace

import numpy as np
import pytest
import torch
from textbook import STRUCTURES, table_of

from xrdkit.crystal import from_structures, to_structure
from xrdkit.examples import FORMULAS, path
from xrdkit.generators import flow
from xrdkit.generators.flow import Task, forms, in_cell, propose, shared, tasks_of
from xrdkit.metrics import normalised_rmse
from xrdkit.models import flow as flow_model
from xrdkit.models.checkpoint import save_network
from xrdkit.models.crystal_net import PatternNet, Size
from xrdkit.models.generate import generate
from xrdkit.packed import packed_of
from xrdkit.pattern import read
from xrdkit.problem import pose
from xrdkit.q_profile import CLEAN
from xrdkit.simulate import pattern_of
from xrdkit.solve import solve
from xrdkit.train.data import taken
from xrdkit.train.loop import WEIGHTS, train
from xrdkit.train.plan import Plan
from xrdkit.types import Controls

TINY = Size(atom=16, edge=8, layers=1, waves=4, pattern=32, heads=2, attention=8)
RUTILE = (4.594, 4.594, 2.959, 90.0, 90.0, 90.0)
PLAIN = {"swaps": 0.0, "strain": 0.0}  # what is learned by heart


@pytest.fixture(scope="module")
def pattern():
    return pattern_of(from_structures([STRUCTURES["TiO2"]]), CLEAN, two_theta=(5, 80, 3751))


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / "flow.safetensors"
    facts = {"atoms": 12, "elements": [8, 22]}
    return save_network(path, PatternNet(TINY).eval(), "flow", facts)


def drawn(problem, weights, count=12):
    generator, said = torch.Generator().manual_seed(0), []
    settings = {"generator": generator, "device": torch.device("cpu"), "weights": weights}
    steps = propose(problem, count=count, **settings)
    while True:
        try:
            said.append(next(steps))
        except StopIteration as finished:
            return finished.value, said


def test_what_is_drawn_holds_the_contents_and_the_cell(pattern, weights):
    problem = pose(pattern, "TiO2", contents="Ti2O4", cell=RUTILE)
    found, said = drawn(problem, weights)
    assert 0 < len(found) <= 12
    assert all(now.done <= now.total for now in said)
    for one in found:
        numbers = one.crystal.numbers.tolist()
        assert numbers.count(8) == 2 * numbers.count(22)
        assert one.origin == "flow"
    volumes = {round(float(one.crystal.volume[0])) for one in found}
    assert 62 in volumes


def test_without_contents_every_size_up_to_twenty_atoms_is_drawn(pattern):
    assert [task.units for task in tasks_of(pose(pattern, "TiO2"))] == [1, 2, 3, 4, 5, 6]
    (only,) = tasks_of(pose(pattern, "TiO2", contents="Ti4O8"))
    assert only == Task(4, weight=flow.FREE)


def test_a_given_cell_is_taken_as_primitive_and_as_centred(pattern):
    problem = pose(pattern, "NaCl")
    rock_salt = (5.64, 5.64, 5.64, 90.0, 90.0, 90.0)
    tasks = in_cell(problem, rock_salt, 8)
    assert {task.units for task in tasks} == {1, 2, 4}
    (fcc,) = (task for task in tasks if task.units == 1)
    assert fcc.cell == pytest.approx((3.988, 3.988, 3.988, 60, 60, 60), abs=1e-3)
    assert tasks[0].cell == pytest.approx(rock_salt)
    by_volume = in_cell(problem, rock_salt, None)
    assert {task.units for task in by_volume} >= {1, 2}
    assert in_cell(pose(pattern, "NaCl"), rock_salt, 2) == [Task(1, tasks[0].cell)]


def test_a_proposed_cell_is_filled_beside_free_ones(pattern):
    problem = pose(pattern, "TiO2", contents="Ti2O4")
    tasks = tasks_of(replace(problem, cells=((RUTILE, 0.5),)))
    assert [task.units for task in tasks] == [2, 2]
    assert sorted(tasks[0].cell) == pytest.approx(sorted(RUTILE))
    assert tasks[1].cell is None
    assert tasks[0].weight > tasks[1].weight


def test_samples_are_shared_by_weight_and_a_hardly_likely_cell_gets_none():
    tasks = [
        Task(units, RUTILE, weight) for units, weight in ((2, 0.6), (3, 1e-6), (4, 0.3))
    ]
    assert shared(tasks, 120) == [(tasks[0], 80), (tasks[2], 40)]
    alike = [Task(units) for units in range(1, 51)]
    assert sum(many for _, many in shared(alike, 12)) == 12
    assert shared([], 120) == []


def test_a_nearly_symmetric_sample_is_put_up_with_and_without_its_symmetry(pattern):
    rutile = STRUCTURES["TiO2"]
    noise = 0.02 * np.random.default_rng(0).normal(size=(6, 3))
    frac = rutile.frac_coords + noise / rutile.lattice.abc
    numbers = np.array(rutile.atomic_numbers)
    problem = pose(pattern, "TiO2")
    found = forms(rutile.lattice.matrix, frac, numbers, problem)
    assert {one.symmetry.number for one in found} >= {1, 136}
    only = forms(rutile.lattice.matrix, frac, numbers, replace(problem, space_group=136))
    assert [one.symmetry.number for one in only] == [136]
    for one in found:
        assert normalised_rmse(rutile, to_structure(one.crystal)) < 0.02


def test_a_sample_with_two_atoms_on_one_place_is_left_out(pattern):
    rutile, problem = STRUCTURES["TiO2"], pose(pattern, "TiO2")
    frac, numbers = rutile.frac_coords.copy(), np.array(rutile.atomic_numbers)
    frac[-1] = frac[0] + 1  # the same place in the next cell
    assert forms(rutile.lattice.matrix, frac, numbers, problem) == []


def test_what_was_never_learned_is_said_and_gives_none(pattern, weights):
    found, said = drawn(pose(pattern, "NaCl", contents="NaCl"), weights)
    assert found == []
    assert "were in no structure that this network learned" in said[-1].message
    assert drawn(pose(pattern, "Ti0.9O2"), weights)[0] == []


def test_weights_that_nothing_uses_or_that_are_not_there_are_refused_at_once(pattern):
    with pytest.raises(ValueError, match="weights of flow are given, not among"):
        solve(pattern, "TiO2", sources="templates", weights="flow_mp20", progress=False)
    with pytest.raises(FileNotFoundError, match="there are no weights nowhere"):
        solve(pattern, "TiO2", weights="nowhere", progress=False)
    with pytest.raises(ValueError, match="two weights of flow are given, the second"):
        solve(pattern, "TiO2", weights=["flow_mp20"] * 2, progress=False)
    with pytest.raises(ValueError, match="weights pairs_mp20 hold pretrain, by which no"):
        solve(pattern, "TiO2", weights="pairs_mp20", progress=False)


def test_the_flow_is_asked_where_the_answer_is_not_confident(pattern):
    solution = solve(pattern, "TiO2", sources="templates", progress=False)
    problem, fits = solution.problem, solution.fits
    assert solution.verdict == "confident"
    assert not flow.needed(problem, fits)
    assert flow.needed(problem, [])
    assert flow.needed(problem, [replace(fits[0], residual=0.2)])
    assert flow.needed(problem, [replace(fits[0], prior=-20.0)])  # doubtful, fits as well


@pytest.mark.slow
def test_a_flow_that_knows_one_crystal_solves_its_pattern(pattern, tmp_path):
    data = packed_of(table_of([STRUCTURES["TiO2"]]))
    many = taken(data, torch.zeros(32, dtype=torch.long))
    size = Size(atom=64, edge=32, layers=2, waves=8, pattern=32, heads=2, attention=16)
    plan = Plan(
        epochs=400, rate=4e-3, warm_up=20, average=0.98, clean=1.0, decay=0.5, **PLAIN
    )
    for _ in train(many, tmp_path, plan=plan, size=size):
        pass
    asked = {"contents": "Ti2O4", "sources": "flow", "weights": tmp_path / WEIGHTS}
    for given in ({}, {"cell": RUTILE}):
        solution = solve(pattern, "TiO2", progress=False, **asked, **given)
        assert solution.fits[0].space_group == 136
        assert normalised_rmse(STRUCTURES["TiO2"], solution.fits[0].structure) < 0.01


@pytest.mark.slow
@pytest.mark.parametrize("name", ["rutile", "lab6"])
def test_the_flow_that_ships_solves_examples_without_any_structure_type(name):
    pattern = read(path(name), wavelength="CuKa")
    asked = {"sources": "flow", "weights": "flow_mp20", "progress": False}
    best = solve(pattern, FORMULAS[name], **asked).fits[0]
    assert best.origin.startswith("flow")
    assert best.space_group == {"rutile": 136, "lab6": 221}[name]
    assert best.residual < 0.12


def moved(model, pattern, **settings):
    """The crystals that a network draws, and in how many steps."""
    generator = torch.Generator().manual_seed(1)
    drawn_of = list(
        generate(model, flow_model.sample, pattern, [22, 22, 8, 8, 8, 8], count=3,
                 generator=generator, **settings)
    )  # fmt: skip
    return drawn_of[-1], len(drawn_of) - 1


@pytest.fixture
def seeing(weights):
    """A network whose answer depends on the pattern."""
    torch.manual_seed(1)
    model = PatternNet(TINY).eval()
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(0.1 * torch.randn_like(weight))
    return model


def test_guidance_of_one_is_none_and_of_zero_is_the_answer_to_no_pattern(seeing, pattern):
    plain, steps = moved(seeing, pattern, steps=6)
    assert steps == 6
    same, _ = moved(seeing, pattern, steps=6, controls=Controls())
    torch.testing.assert_close(plain.frac, same.frac)
    found = [
        moved(seeing, one, steps=6, controls=Controls(guidance))[0].lattice
        for one, guidance in ((pattern, 0.0), (salt(), 0.0), (pattern, 3.0))
    ]
    torch.testing.assert_close(found[0], found[1])  # whatever the pattern
    assert (found[0] - plain.lattice).abs().max() > 1e-5
    assert (found[2] - plain.lattice).abs().max() > 1e-5


def test_steps_may_be_changed_on_the_way(seeing, pattern):
    controls, generator = Controls(steps=10), torch.Generator().manual_seed(1)
    path = generate(
        seeing, flow_model.sample, pattern, [22, 8, 8], count=2, generator=generator,
        controls=controls,
    )  # fmt: skip
    first = [next(path) for _ in range(6)]  # the start, and half of the way
    controls.steps = 4
    assert len(first) + len(list(path)) == 6 + 2
    assert moved(seeing, pattern, controls=Controls(steps=3))[1] == 3
    with pytest.raises(ValueError, match="steps with a cell known to"):
        moved(seeing, pattern, controls=Controls(steps=10**6))


def salt():
    crystal = from_structures([STRUCTURES["NaCl"]])
    return pattern_of(crystal, CLEAN, two_theta=(5, 80, 3751))
