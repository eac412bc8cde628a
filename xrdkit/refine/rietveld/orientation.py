"""Preferred orientation that a pattern asks for: one March–Dollase axis, found by score."""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
from jaxtyping import Int

from xrdkit.refine.rietveld.frame import make_frame
from xrdkit.refine.rietveld.least_squares import State, covariance, minimise, state_of
from xrdkit.refine.rietveld.outcome import Outcome
from xrdkit.refine.rietveld.table import Parameters
from xrdkit.refine.texture import AXES

LIMITS = 0.2, 5.0  # of r
TRIED = 3  # axes
ALIKE = 1e-6  # relative difference of what promises the same


def with_texture(table: Parameters, axis: tuple[int, int, int]) -> Parameters:
    """The table with a March–Dollase axis (hkl) of the first phase, r refined from 1."""
    rows = tuple(
        replace(row, low=LIMITS[0], high=LIMITS[1], refine=True)
        if row.name == "texture"
        else row
        for row in table.rows
    )
    return replace(table.noted(rows, f"texture along {axis}"), texture=axis)


def likely_axis(outcome: Outcome, table: Parameters) -> Iterator[State | None]:
    """The axis that lowers χ² most in two cycles, of the three likeliest by their slope.

    And of all that are as likely: at r = 1 a texture acts by the quadrupole that symmetry
    leaves of it alone, which is the same for every axis of a uniaxial crystal. Yields at
    every trial, and returns the axis.
    """

    def promise(axis: tuple[int, int, int]) -> float:
        trial = with_texture(table, axis)
        state = state_of(make_frame(outcome.data, trial), trial, trial.vector())
        spread, _ = covariance(state, np.zeros(len(state.free), bool))
        part = spread[np.ix_(state.free, state.free)]
        return float(state.gradient @ part @ state.gradient)

    promises, chi2 = {}, {}
    for axis in distinct_axes(table.units[0].rotations):
        promises[axis] = promise(axis)
        yield None
    least = sorted(promises.values())[-TRIED:][0] * (1 - ALIKE)
    for axis in (a for a, value in promises.items() if value >= least):
        trial = with_texture(table, axis)
        for state in minimise(make_frame(outcome.data, trial), trial, cycles=2):
            yield state
        chi2[axis] = state.chi2
    return min(chi2, key=chi2.get)


def distinct_axes(
    rotations: Int[np.ndarray, "operations 3 3"],
) -> list[tuple[int, int, int]]:
    """Those of ``AXES`` (hkl) that no operation turns into one before."""
    kept: list[tuple[int, int, int]] = []
    seen: set[tuple[int, ...]] = set()
    for axis in AXES:
        if axis not in seen:
            kept.append(axis)
            images = np.array(axis) @ rotations
            seen |= set(map(tuple, images.tolist())) | set(map(tuple, (-images).tolist()))
    return kept
