"""Structures from a latent space that is searched for the pattern: PXRDnet's way.

Guo et al. (2024): many points z of the space (``xrdkit.models.latent``) go down, all at
once, to where the measured pattern and the known contents are said. The cells that z says,
with the known atoms put in by annealed Langevin dynamics, are simulated, also some percent
larger and smaller, which is ours; the forty that come nearest (ten there) are put up, as
they are and with the symmetry that they nearly have, again the nearest first. Without
``periods`` nothing goes down: that is the paper's baseline, CDVAE-search.
"""

import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import islice
from operator import itemgetter
from pathlib import Path

import torch
from jaxtyping import Float, Int
from torch import Tensor

from xrdkit.crystal import joined
from xrdkit.evidence import left_by
from xrdkit.generators.flow import Task, candidates, tasks_of
from xrdkit.generators.templates import numbered
from xrdkit.library import expected_volume
from xrdkit.models import latent
from xrdkit.models.generate import check_atoms, flat
from xrdkit.models.latent import LATENT, MOST_ATOMS, LatentNet
from xrdkit.models.latent_descent import PERIODS, Target, descend
from xrdkit.models.speed import autocast
from xrdkit.models.weights import default, load_model
from xrdkit.nanocrystal import POINTS, Q_MAX, nano_curve_of, nano_curves
from xrdkit.phases import without_phases
from xrdkit.problem import SIZES, SWOLLEN, whole
from xrdkit.q_profile import NotLearned
from xrdkit.types import Candidate, Crystals, Fit, Problem, Progress

UNEXPLAINED = 0.1  # residual above which the space is searched
STARTS, KEPT = 300, 40  # points that are tried, structures that are put up
LEAST_RANGE = 2.0  # 1/Å that must be observed
SCALES = tuple(1 + i / 100 for i in range(-8, 9))  # of the edges of cells that are decoded
FINE_SCALES = tuple(1 + i / 400 for i in range(-3, 4))  # where lines are narrower than 1 %
NARROW = 50.0  # Å: the size from which they are
TETRAGONAL, ORTHORHOMBIC = 75, 16  # the first of these space groups, and of higher ones
FAVOURED = {TETRAGONAL: 0.5, ORTHORHOMBIC: 0.7}  # as how far off their patterns count
PAIRS = 12_800  # pairs of atoms that are sampled at once
STAGE = "latent_search"
FRACTIONS = "a formula with fractions has no ordered cell; ask templates, or round it"


def needed(problem: Problem, fits: Sequence[Fit]) -> bool:
    """Whether others found nothing, or of nanocrystals what leaves something."""
    if not fits:
        return True
    return problem.pattern.size is not None and left_by(fits, problem) > UNEXPLAINED


def propose(
    problem: Problem,
    *,
    count: int,
    generator: torch.Generator,
    device: torch.device,
    weights: str | Path | None = None,
    periods: Sequence[int] = PERIODS,
) -> Iterator[Progress]:
    """Structures from where the pattern is said, by the weights that ship or by others.

    Without a size crystals are taken for large. Cells that are given are kept, those that
    are proposed keep their shape, others are decoded. Where contents are not known, cells
    of every number of formula units up to 20 atoms are tried. A formula with fractions gets
    none. What cannot be, or was not learned, is said in the progress, and gives none.
    """
    if not whole(problem.formula):
        yield Progress(STAGE, 0, 1, None, FRACTIONS)
        return []
    model = load_model(weights or default("latent"), "latent", device)
    drawn = yield from nearest(model, problem, generator, periods)
    several = (candidates(crystal, problem) for crystal in drawn)
    forms = [one for some in islice(filter(None, several), KEPT) for one in some]
    if not forms:
        return []
    found = ranked(forms, problem, target_of(problem, torch.device("cpu")))[:count]
    for i, one in enumerate(found, 1):
        yield Progress(STAGE, i, len(found), one, f"{len(found)} candidates")
    return found


def nearest(
    model: LatentNet,
    problem: Problem,
    generator: torch.Generator,
    periods: Sequence[int] = PERIODS,
) -> Iterator[Progress]:
    """Yield every step; return all crystals that are found, the nearest pattern first."""
    try:
        target = target_of(problem, next(model.parameters()).device)
        tasks = usable(model, problem, tasks_of(problem), target.size)
    except NotLearned as error:
        yield Progress(STAGE, 0, 1, None, str(error))
        return []
    return (yield from searched(model, problem, tasks, target, generator, periods))


def target_of(problem: Problem, device: torch.device) -> Target:
    """The pattern on PXRDnet's axis, and the composition."""
    pattern = without_phases(problem.pattern, problem.phases)
    curve, seen = nano_curve_of(pattern)
    if (wide := seen.sum() * Q_MAX / POINTS) < LEAST_RANGE:
        raise NotLearned(
            f"{pattern.name or 'the pattern'} covers {wide:.2f} 1/Å of the Q that is "
            f"searched for; it needs {LEAST_RANGE:g} 1/Å: measure a wider range"
        )
    numbers = [z for z, n in numbered(problem.formula).items() for _ in range(n)]
    composition = latent.fractions(torch.tensor([numbers]))[0]
    size = pattern.size or SIZES[1]
    return Target(curve.to(device), seen.to(device), size, composition.to(device))


def usable(
    model: LatentNet, problem: Problem, tasks: list[Task], size: float
) -> list[Task]:
    """Cells whose atoms were learned, and of which a crystal of ``size`` Å holds one."""
    counts = numbered(problem.formula)
    atoms = [z for z, n in counts.items() for _ in range(n)]
    kept, error = [], NotLearned("no cell that is given has room for the formula")
    for task in tasks:
        many = task.units * len(atoms)
        edge = (many * expected_volume(problem.library, counts)) ** (1 / 3)
        try:
            check_atoms(model, atoms * task.units)
            if many > MOST_ATOMS:
                less = "give the contents of the primitive cell, or " * (task.units > 1)
                raise NotLearned(
                    f"{many} atoms in the cell; a latent space knows up to {MOST_ATOMS}: "
                    f"{less}ask other sources"
                )
            if edge > size:
                raise NotLearned(
                    f"a crystal of {size:g} Å does not hold a cell of about {edge:.1f} Å; "
                    "check the size"
                )
            kept.append(task)
        except NotLearned as why:
            error = why
    if not kept:
        raise error
    return kept


def searched(
    model: LatentNet,
    problem: Problem,
    tasks: list[Task],
    target: Target,
    generator: torch.Generator,
    periods: Sequence[int],
) -> Iterator[Progress]:
    """Yield every step of starts in these cells; return what is found, nearest first."""
    counts = numbered(problem.formula)
    atoms = torch.tensor([z for z, n in sorted(counts.items()) for _ in range(n)])
    every = sum(task.weight for task in tasks)
    many = [max(1, round(STARTS * task.weight / every)) for task in tasks]
    device = target.curve.device
    contents = [
        atoms.repeat_interleave(task.units).expand(n, -1).to(device)
        for task, n in zip(tasks, many, strict=True)
    ]
    z = torch.randn(sum(many), LATENT, generator=generator).to(device)
    z = yield from descended(model, z, contents, target, generator, periods)
    found: list[tuple[float, Crystals]] = []
    for task, numbers, part in zip(tasks, contents, z.split(many), strict=True):
        for some in part.split(max(1, PAIRS // numbers.shape[1] ** 2)):
            rows = numbers[: len(some)]
            drawn = yield from placed(model, rows, some, task, generator)
            likely = likely_of(drawn, problem)
            found += sized(likely, target, SCALES if task.cell is None else (1.0,))
            yield Progress(STAGE, len(found), len(z), None, f"{len(found)} simulated")
    return [crystal for _, crystal in sorted(found, key=itemgetter(0))]


def descended(
    model: LatentNet,
    z: Float[Tensor, "starts 256"],
    contents: Sequence[Int[Tensor, "_ _"]],
    target: Target,
    generator: torch.Generator,
    periods: Sequence[int],
) -> Iterator[Progress]:
    """Yield every step of the descent of starts with these atoms (rows); return z."""
    started, total = time.monotonic(), sum(periods)
    parts = zip(contents, z.split([len(rows) for rows in contents]), strict=True)
    with torch.no_grad():
        spread = torch.cat([model.spread(*part, generator) for part in parts])
    sizes = torch.cat([rows.new_full((len(rows),), rows.shape[1]) for rows in contents])
    steps, done = descend(model, z, target, sizes, spread, generator, periods), 0
    while True:
        try:
            value = next(steps)
        except StopIteration as finished:
            return finished.value
        done, spent = done + 1, time.monotonic() - started
        note = f"{len(z)} starts, the best at {value.min():.3f}"
        yield Progress(STAGE, done, total, None, note, spent)


def placed(
    model: LatentNet,
    numbers: Int[Tensor, "starts atoms"],
    z: Float[Tensor, "starts 256"],
    task: Task,
    generator: torch.Generator,
) -> Iterator[Progress]:
    """Yield every level of the noise; return crystals of these atoms."""
    started, device = time.monotonic(), z.device
    cell = None if task.cell is None else z.new_tensor([task.cell]).expand(len(z), -1)
    path = latent.sample(model, numbers, z, generator, cell=cell)
    last, note = next(path), f"atoms of {len(z)} crystals"
    while last.time < 1:
        with torch.no_grad(), autocast(str(device)):
            last = next(path)
        spent = time.monotonic() - started
        yield Progress(STAGE, round(100 * last.time), 100, None, note, spent)
    return flat(numbers, last.frac, last.cell)


def likely_of(drawn: Crystals, problem: Problem) -> Crystals:
    """Those of a volume that these atoms may have."""
    each = expected_volume(problem.library, numbered(problem.formula))
    volume = (drawn.volume / (drawn.counts * each)).log()
    return drawn.select(torch.nonzero(volume.abs() < math.log(SWOLLEN)).flatten())


def sized(
    crystals: Crystals, target: Target, scales: Sequence[float]
) -> list[tuple[float, Crystals]]:
    """Crystals, each with how far its pattern is from the target.

    Each has edges ``scales`` times as long, where its pattern is nearest.
    """
    if not len(crystals):
        return []
    wide = [replace(crystals, lattice=crystals.lattice * scale) for scale in scales]
    apart = torch.stack([target.apart(nano_curves(one, target.size)) for one in wide])
    nearest, which = apart.min(0)
    best = [wide[k].select(torch.tensor([i])) for i, k in enumerate(which.tolist())]
    return list(zip(nearest.tolist(), best, strict=True))


def ranked(forms: Sequence[Candidate], problem: Problem, target: Target) -> list[Candidate]:
    """Candidates, one or more, the nearest pattern first, with edges where it is nearest.

    Cells that are given are kept. A form of high symmetry has fewer numbers with which to
    come near, and is taken for nearer than it is.
    """
    crystals = joined([one.crystal for one in forms])
    scales = (1.0,) if problem.given_cells else SCALES
    found = sized(crystals, target, scales)
    if target.size >= NARROW and not problem.given_cells:
        found = sized(joined([crystal for _, crystal in found]), target, FINE_SCALES)
    counted = [
        apart * next((f for n, f in FAVOURED.items() if one.symmetry.number >= n), 1.0)
        for one, (apart, _) in zip(forms, found, strict=True)
    ]
    order = sorted(range(len(forms)), key=counted.__getitem__)
    return [replace(forms[i], crystal=found[i][1], origin=STAGE) for i in order]
