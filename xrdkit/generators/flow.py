"""Structures that a trained flow draws for the pattern: no structure type is needed.

The atoms of a primitive cell are drawn in a known Niggli cell or together with it
(``xrdkit.models.flow``). What is drawn is nearly symmetric: each sample is put up as it is
and with the symmetry that it has within some tolerances.
"""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int

from xrdkit.cell import lattice_of
from xrdkit.crystal import one_crystal, standard_cell, symmetry_of
from xrdkit.evidence import left_by
from xrdkit.generators.learned_cells import MOST_ATOMS
from xrdkit.generators.templates import numbered
from xrdkit.indexing.bravais import parameters, primitive, reduced
from xrdkit.library import expected_volume
from xrdkit.models import flow
from xrdkit.models.crystal_net import PatternNet
from xrdkit.models.generate import AT_ONCE, generate
from xrdkit.models.speed import free_memory, out_of_memory
from xrdkit.models.weights import default, load_model
from xrdkit.phases import without_phases
from xrdkit.problem import whole
from xrdkit.q_profile import NotLearned
from xrdkit.rank import trusted
from xrdkit.refine.symmetry import TOLERANCES, same_formula
from xrdkit.space_group import CENTRING
from xrdkit.types import Candidate, Controls, Crystals, Fit, Problem, Progress

UNEXPLAINED = 0.1  # residual above which structures are drawn
DRAWN, STEPS = 120, 50  # samples, in all, and steps to each
FREE = 0.3  # weight of samples with cells of their own beside those in proposed cells
ROOM = 1.4  # factor that the volume of a known cell may be off the expected one
AS_DRAWN = 0.01  # Å: the tolerance that adds no symmetry
CLOSEST = 0.5  # Å: atoms that are closer are on one place
PRIOR = -5.0  # natural log: what is drawn is less likely than what is common


@dataclass(frozen=True)
class Task:
    """Formula units in a primitive cell, and its Niggli cell (Å, °) where it is known.

    ``weight`` says how many of the samples it gets, relative to other tasks.
    """

    units: int
    cell: tuple[float, ...] | None = None
    weight: float = 1.0


def needed(problem: Problem, fits: Sequence[Fit]) -> bool:
    """Whether what other sources found leaves something, or is not to be trusted.

    Structures of lower symmetry than the right one may mimic its pattern.
    """
    if not whole(problem.formula):
        return False
    return left_by(fits, problem) > UNEXPLAINED or not trusted(problem, fits)


def propose(
    problem: Problem,
    *,
    count: int,
    generator: torch.Generator,
    device: torch.device,
    weights: str | Path | None = None,
    controls: Controls | None = None,
) -> Iterator[Progress]:
    """Structures drawn for the pattern, by the weights that ship or by others.

    With a cell that is given, in it and its centred forms; else in cells that are proposed,
    as ``cells_for`` does, and in cells drawn as well. Where contents are not known, of
    every number of formula units up to 20 atoms. A formula with fractions gets none. What
    the network has not learned is said in the progress, and gives none. ``controls`` may be
    changed while it draws.
    """
    if not whole(problem.formula):
        return []
    model = load_model(weights or default("flow"), "flow", device)
    found: list[Candidate] = []
    tasks = shared(tasks_of(problem), min(count, DRAWN))
    for i, (task, many) in enumerate(tasks):
        drawn = yield from samples(model, problem, task, many, generator, controls)
        for one in candidates(drawn, problem) if drawn is not None else ():
            found.append(one)
            yield Progress("flow", i + 1, len(tasks), one, f"{len(found)} candidates")
    return found[:count]


def samples(
    model: PatternNet,
    problem: Problem,
    task: Task,
    many: int,
    generator: torch.Generator,
    controls: Controls | None = None,
) -> Iterator[Progress]:
    """Yield every step; return the crystals, or None where it has not learned such."""
    started, drawn = time.monotonic(), None
    numbers = [z for z, n in numbered(problem.formula).items() for _ in range(n)]
    pattern = without_phases(problem.pattern, problem.phases)
    cells = () if task.cell is None else (task.cell,)
    settings = {"count": many, "cells": cells, "steps": STEPS, "generator": generator}
    settings["controls"] = controls
    asked = (model, flow.sample, pattern, numbers * task.units)
    room, note = min(AT_ONCE, many * len(asked[-1])), f"{many} × {task.units} formula units"
    while True:
        try:
            for crystals in generate(*asked, **settings, room=room):
                drawn, spent = crystals, time.monotonic() - started
                yield Progress("flow", 0, 1, None, note, spent)
            return drawn
        except NotLearned as error:
            yield Progress("flow", 0, 1, None, str(error))
            return None
        except (RuntimeError, MemoryError) as error:
            if not out_of_memory(error) or room <= len(asked[-1]):
                raise
        free_memory()
        room //= 2
        note = f"memory is short: {max(1, room // len(asked[-1]))} structures at a time"


def tasks_of(problem: Problem) -> list[Task]:
    """What is to be drawn: contents of cells, those of proposed cells by their weights."""
    atoms = round(sum(problem.formula.values()))
    total = round(sum(problem.contents.values())) if problem.contents else None
    if problem.given_cells:
        return [t for cell in problem.given_cells for t in in_cell(problem, cell, total)]
    sizes = [total // atoms] if total else range(1, max(MOST_ATOMS // atoms, 1) + 1)
    free = [Task(units, weight=FREE / len(sizes)) for units in sizes]
    proposed = []
    for cell, weight in problem.cells:
        tasks = [t for t in in_cell(problem, cell, None) if not total or t.units in sizes]
        proposed += [replace(t, weight=weight / len(tasks)) for t in tasks]
    return [*proposed, *free]


def shared(tasks: Sequence[Task], total: int) -> list[tuple[Task, int]]:
    """Tasks with the samples that each gets: ``total`` in all, shared by their weights."""
    ends = np.cumsum([task.weight for task in tasks])
    many = np.diff(np.rint(total * ends / ends[-1:]).astype(int), prepend=0)
    return [(task, n) for task, n in zip(tasks, many.tolist(), strict=True) if n]


def in_cell(problem: Problem, cell: tuple[float, ...], total: int | None) -> list[Task]:
    """Tasks in a cell, taken as primitive or as centred, that holds ``total`` atoms.

    Where that is not known, as many formula units as its volume has room for.
    """
    atoms = round(sum(problem.formula.values()))
    unit = expected_volume(problem.library, numbered(problem.formula)) * atoms
    found: dict[tuple[int, tuple[int, ...]], Task] = {}
    for letter, rows in CENTRING.items():
        lattice = reduced(primitive(lattice_of(cell), letter))
        if total:
            units, rest = divmod(round(total * np.linalg.det(rows), 6), atoms)
            sizes = [] if rest else [int(units)]
        else:
            room = abs(np.linalg.det(lattice)) / unit
            sizes = [k for k in range(1, int(room * ROOM) + 1) if k * ROOM > room]
        values = parameters(lattice)
        for units in sizes:
            key = units, tuple(np.rint(np.array(values) * 50).astype(int).tolist())
            found.setdefault(key, Task(units, values))
    return list(found.values())


def candidates(drawn: Crystals, problem: Problem) -> list[Candidate]:
    """Every sample as it is, and with the higher symmetry that it nearly has."""
    found = []
    for i in range(len(drawn)):
        rows = drawn.owner == i
        lattice = drawn.lattice[i].double().cpu().numpy()
        frac = drawn.frac[rows].double().cpu().numpy()
        found += forms(lattice, frac, drawn.numbers[rows].cpu().numpy(), problem)
    return found


def forms(
    lattice: Float[np.ndarray, "3 3"],
    frac: Float[np.ndarray, "atoms 3"],
    numbers: Int[np.ndarray, " atoms"],
    problem: Problem,
) -> list[Candidate]:
    """A crystal with the symmetry that it has within some tolerances (Å), distinct ones.

    None where two of its atoms are on one place.
    """
    from pymatgen.core import Lattice

    apart = Lattice(lattice).get_all_distances(frac, frac)
    if (apart + np.where(np.eye(len(frac)), CLOSEST, 0) < CLOSEST).any():
        return []
    found: dict[tuple[int, int], Candidate] = {}
    for tolerance in (*TOLERANCES[::-1], AS_DRAWN):
        cell = standard_cell(lattice, frac, numbers, tolerance)
        if cell is None or not same_formula(numbers, cell.numbers):
            continue
        key = cell.space_group, len(cell.frac)
        other = problem.space_group not in (None, cell.space_group)
        if key in found or other or (problem.contents and len(cell.frac) != len(frac)):
            continue
        found[key] = Candidate(
            one_crystal(cell.lattice, cell.frac, cell.numbers),
            symmetry_of(cell.space_group, cell.lattice, cell.frac, cell.numbers),
            "flow",
            PRIOR,
        )
    return list(found.values())
