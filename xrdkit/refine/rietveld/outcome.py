"""A refinement as it stands between two stages."""

from dataclasses import dataclass

from xrdkit.refine.rietveld.data import Data
from xrdkit.refine.rietveld.frame import Frame
from xrdkit.refine.rietveld.least_squares import State
from xrdkit.refine.rietveld.table import Parameters


@dataclass(frozen=True)
class Outcome:
    """A refinement as it stands: data, frame, table and state, and notes on the way."""

    data: Data
    frame: Frame
    table: Parameters
    state: State
    origin: str = "refined"
    notes: tuple[str, ...] = ()
