"""From a prepared pattern and the atoms of a cell to crystals, step by step."""

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import nn

from xrdkit.models.crystal_net import ELEMENTS, PatternNet
from xrdkit.models.flow import State
from xrdkit.models.lattice import lattice_of
from xrdkit.models.speed import autocast
from xrdkit.q_profile import NotLearned, profile_of
from xrdkit.types import Controls, Crystals, Pattern

U_ISO = 0.006  # Å²
AT_ONCE = 2048  # atoms of all crystals that are sampled at once
FEWEST_LINES = 3  # local maxima that a pattern needs
LARGER = 2  # times as many atoms as the network was trained with


def generate(
    model: PatternNet,
    sample: Callable[..., Iterator[State]],
    pattern: Pattern,
    numbers: Sequence[int],
    *,
    count: int = 20,
    cells: Sequence[tuple[float, ...]] = (),
    known: float = 1.0,
    steps: int = 50,
    generator: torch.Generator,
    controls: Controls | None = None,
    room: int = AT_ONCE,
) -> Iterator[Crystals]:
    """Crystals of these atoms (atomic numbers) that explain a pattern; every step of all.

    ``sample`` is ``flow.sample`` or ``diffusion.sample``. ``cells`` (a, b, c in Å, α, β, γ
    in °; Niggli-reduced and primitive) are taken in turn, and trusted to ``known``; without
    them cells are generated as well. At most ``room`` atoms are sampled at once. A flow
    heeds ``controls`` in every step. The last crystals yielded are the answer.
    """
    check_atoms(model, numbers)
    device = next(model.parameters()).device
    profile = profile_of(pattern)[None].to(device)
    _check_lines(profile, pattern)
    with torch.no_grad(), autocast(str(device)):
        seen, blind = model.encoder(profile), model.encoder(torch.zeros_like(profile))
    size = max(1, room // len(numbers))
    sizes = [min(size, count - start) for start in range(0, count, size)]
    z = torch.tensor(sorted(numbers), device=device)
    paths = []
    for part, many in enumerate(sizes):
        chosen = [
            cells[(part * size + i) % len(cells)] for i in range(many if cells else 0)
        ]
        cell = torch.tensor(chosen, device=device) if cells else None
        rows = z.expand(many, -1)
        keywords = {"steps": steps, "cell": cell, "known": known}
        if controls is not None:
            keywords |= {"controls": controls, "blind": blind.repeat(many)}
        paths.append(sample(model, rows, seen.repeat(many), generator, **keywords))
    states: list[State | None] = [None] * len(paths)
    while True:
        with torch.no_grad(), autocast(str(device)):
            moved = [next(path, None) for path in paths]
        if not any(moved):
            return
        states = [new or old for new, old in zip(moved, states, strict=True)]
        frac = torch.cat([state.frac for state in states])
        cell = torch.cat([state.cell for state in states])
        yield flat(z.expand(count, -1), frac, cell)


def flat(numbers: torch.Tensor, frac: torch.Tensor, cell: torch.Tensor) -> Crystals:
    """Crystals of equally many atoms as a flat batch, sites full; cells in Å and °."""
    count, atoms = numbers.shape
    every = count * atoms
    owner = torch.arange(count, device=frac.device).repeat_interleave(atoms)
    return Crystals(
        lattice_of(cell),
        frac.reshape(every, 3),
        numbers.reshape(every),
        frac.new_ones(every),
        frac.new_full((every,), U_ISO),
        owner,
    )


def check_atoms(model: nn.Module, numbers: Sequence[int]) -> None:
    """Refuse atoms that the network has not learned."""
    if not len(numbers) or not all(1 <= z < ELEMENTS for z in numbers):
        raise ValueError(
            f"atomic numbers {list(numbers)} are not one or more of 1–{ELEMENTS - 1}; "
            "give the contents of a primitive cell"
        )
    most = model.facts.get("atoms", len(numbers))
    if len(numbers) > LARGER * most:
        raise NotLearned(
            f"{len(numbers)} atoms in the cell; this network learned up to {most} and is "
            f"asked for {LARGER * most} at most: give the primitive cell, or other weights"
        )
    known = set(model.facts.get("elements", numbers))
    if new := sorted(set(numbers) - known):
        raise NotLearned(
            f"atomic numbers {new} were in no structure that this network learned; "
            "use templates, or train with such structures"
        )


def _check_lines(profile: torch.Tensor, pattern: Pattern) -> None:
    y = profile[0, 0]
    tops = (y[1:-1] > y[:-2]) & (y[1:-1] >= y[2:]) & (y[1:-1] > 0.1)
    if int(tops.sum()) < FEWEST_LINES:
        raise NotLearned(
            f"{pattern.name or 'the pattern'} has {int(tops.sum())} lines above 1 % within "
            f"the range of networks; they need {FEWEST_LINES}: measure a wider range"
        )
