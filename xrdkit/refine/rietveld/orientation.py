"""Preferred orientation that a pattern asks for: one March–Dollase axis, found by score."""

from dataclasses import replace

import numpy as np

from xrdkit.refine.rietveld.frame import make_frame
from xrdkit.refine.rietveld.least_squares import covariance, state_of
from xrdkit.refine.rietveld.results import Outcome
from xrdkit.refine.rietveld.table import Parameters
from xrdkit.refine.texture import AXES

LIMITS = 0.2, 5.0  # of r


def with_texture(table: Parameters, axis: tuple[int, int, int]) -> Parameters:
    """The table with a March–Dollase axis (hkl) of the first phase, r refined from 1."""
    rows = tuple(
        replace(row, low=LIMITS[0], high=LIMITS[1], refine=True)
        if row.name == "texture"
        else row
        for row in table.rows
    )
    return replace(table.noted(rows, f"texture along {axis}"), texture=axis)


def likely_axis(outcome: Outcome, table: Parameters) -> tuple[int, int, int]:
    """The axis whose r, freed, would lower χ² most: g V g for the gradient at r = 1."""

    def gain(axis: tuple[int, int, int]) -> float:
        trial = with_texture(table, axis)
        state = state_of(make_frame(outcome.data, trial), trial, trial.vector())
        spread, _ = covariance(state, np.zeros(len(state.free), bool))
        part = spread[np.ix_(state.free, state.free)]
        return float(state.gradient @ part @ state.gradient)

    return max(AXES, key=gain)
