"""Settings of lattices: refined to the lines, told apart, derived, and adopted."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch

from xrdkit.cell import lattice_of
from xrdkit.indexing.bravais import reduced, standard, superlattices
from xrdkit.indexing.line_match import Setting
from xrdkit.indexing.search import (
    Lines,
    Trials,
    approached,
    free_parameters,
    polished,
    reciprocal_metric,
)

POLISHED = 32  # lines in the last refinement
SPREAD = 0.12  # of ln V about the expected
ALIKE = 0.015  # relative edges and volume within which two results are one lattice
SMALLER = (2, 3)  # times smaller
ROUGH = (0.02, 0.06, 0.15)  # of the mean edge, by which symmetry may be missed
ADOPTED = 20  # of proposed cells, the best of each Bravais lattice
ENLARGED = 4  # times larger, at most, where derivatives may be


def volume_prior(volume: float, unit: float | None) -> float:
    """Log of how much likelier a primitive volume is for multiples of ``unit`` (Å³)."""
    if unit is None:
        return 0.0
    multiples = np.arange(1, max(2, round(1.5 * volume / unit)) + 1)
    apart = (np.log(volume / (unit * multiples)) / SPREAD) ** 2
    return float(np.log((np.exp(-0.5 * apart) / multiples).sum() / SPREAD + 0.02))


def trials_of(settings: Sequence[Setting]) -> Trials:
    """Settings of one Bravais lattice as trials."""
    rows = torch.tensor(np.array([s.lattice for s in settings]))
    metric = free_parameters(torch.linalg.inv(rows @ rows.mT), settings[0].bravais[0])
    zero = torch.tensor([s.zero for s in settings])
    return Trials(metric.float(), zero, torch.zeros_like(zero))


def polished_settings(
    trials: Trials, symbol: str, lines: Lines, volume: float | None
) -> list[Setting]:
    """Trials refined on more lines, as settings whose figure includes the volume prior."""
    trials = polished(trials, symbol, lines.first(POLISHED))
    metric = torch.linalg.inv(reciprocal_metric(trials.metric.double(), symbol[0]))
    rows = torch.linalg.cholesky(metric).numpy()
    facts = zip(rows, trials.zero.tolist(), trials.figure.tolist(), strict=True)
    found = [Setting(symbol, *fact) for fact in facts]
    return [replace(s, figure=s.figure + volume_prior(s.volume, volume)) for s in found]


def distinct(settings: list[Setting], count: int) -> list[Setting]:
    """The best of every lattice, best first."""
    chosen: list[tuple[np.ndarray, Setting]] = []
    for setting in sorted(settings, key=lambda s: -s.figure):
        edges = np.sort(np.linalg.norm(reduced(setting.primitive), axis=1))
        mark = np.append(edges, setting.volume ** (1 / 3))
        if all(np.abs(mark / other - 1).max() > ALIKE for other, _ in chosen):
            chosen.append((mark, setting))
        if len(chosen) == count:
            break
    return [setting for _, setting in chosen]


def derivatives(
    parents: list[Setting], lines: Lines, volume: float | None
) -> list[Setting]:
    """Sublattices of the best cells, and superlattices of those too small.

    Too small is a cell for one formula unit of ``volume``; too large it may have been found
    by chance, though a part of it explains the lines as well.
    """
    groups: dict[str, list[Setting]] = {}
    for parent in parents:
        small = volume is not None and parent.volume < 0.65 * volume
        changes = [np.linalg.inv(rows).T for n in SMALLER for rows in superlattices(n)]
        changes += [
            rows for n in range(2, ENLARGED + 1) if small for rows in superlattices(n)
        ]
        for rows in changes:
            symbol, lattice = standard(rows @ parent.primitive)
            changed = Setting(symbol, lattice, parent.zero)
            groups.setdefault(symbol, []).append(changed)
    found = []
    for symbol, settings in groups.items():
        found += polished_settings(trials_of(settings), symbol, lines, volume)
    return found


def adopted(
    proposed: Sequence[tuple[float, ...]],
    lines: Lines,
    volume: float | None,
    wanted: Sequence[str],
) -> list[Setting]:
    """Rough primitive cells, with the symmetry they nearly have, refined to the lines."""
    groups: dict[str, list[Setting]] = {}
    for cell in proposed:
        for tolerance in ROUGH:
            symbol, lattice = standard(lattice_of(cell), tolerance)
            groups.setdefault(symbol, []).append(Setting(symbol, lattice))
    found = []
    for symbol in set(groups) & set(wanted):
        trials = approached(trials_of(groups[symbol]), symbol, lines)
        best = polished_settings(trials.best(ADOPTED), symbol, lines, volume)
        found += distinct(best, ADOPTED)
    return found


def symmetric(setting: Setting, lines: Lines, volume: float | None) -> Setting:
    """The lattice in the standard setting, of higher symmetry where that fits as well."""
    symbol, lattice = standard(setting.primitive)
    if symbol != setting.bravais:
        trial = trials_of([replace(setting, bravais=symbol, lattice=lattice)])
        higher = polished_settings(trial, symbol, lines, volume)
        if higher and higher[0].figure > setting.figure - 1:
            setting = higher[0]
    symbol, lattice = standard(setting.primitive, 1e-4)
    return replace(setting, bravais=symbol, lattice=lattice)
