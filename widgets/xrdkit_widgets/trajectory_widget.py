"""The steps of a generation or refinement: atoms, cell, pattern and curves, to play."""

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anywidget
import numpy as np
import traitlets
from pymatgen.analysis.local_env import CovalentRadius  # long: not in the midst of a run
from pymatgen.core import Element

from xrdkit.crystal import to_structure
from xrdkit.report.notebook import html_of
from xrdkit.types import Candidate, Crystals, Fit, Pattern, Progress
from xrdkit_widgets.front import module, text_of
from xrdkit_widgets.trajectory import (
    Patterns,
    cell_curves,
    crystal_of,
    fitted_patterns,
    joined,
    rmse_curve,
    simulated_patterns,
    steps_of,
    structure_of,
)

if TYPE_CHECKING:
    from pymatgen.core import Structure

MOST_CELLS = 4  # along each axis of a supercell
SAME = 0.01  # ° within which angles that all stay are not drawn


class TrajectoryWidget(anywidget.AnyWidget):
    """Crystals one after the other, to play, scrub and turn; ``structure`` is the shown.

    ``frames`` are pymatgen Structures, Crystals (of which ``which`` is taken), Candidates,
    Fits, or the Progress of a job that has these in ``best``; a generator is run to its
    end. With a ``pattern`` that of every frame is drawn over it; Fits have their own. With
    a ``reference`` the RMSE to it is a curve. Everything is sent once; playing needs no
    kernel.
    """

    _esm = module("crystal_view.js", "trajectory_widget.js")
    _css = text_of("widgets.css")

    # from Python, once
    path = traitlets.Dict().tag(sync=True)  # cells, atoms and elements of all frames
    curves = traitlets.List().tag(sync=True)  # title, unit, and lines over the frames
    view = traitlets.Dict().tag(sync=True)  # observed pattern, and all calculated ones
    # from both
    frame = traitlets.Int(0).tag(sync=True)  # counted from 0
    speed = traitlets.Int(20).tag(sync=True)  # frames a second
    supercell = traitlets.List(traitlets.Int(), [1, 1, 1]).tag(sync=True)
    bonds = traitlets.Bool(True).tag(sync=True)
    axis = traitlets.Enum(("two_theta", "q", "d"), "two_theta").tag(sync=True)
    root = traitlets.Bool(False).tag(sync=True)

    def __init__(
        self,
        frames: "Iterable[Structure | Crystals | Candidate | Fit | Progress]",
        *,
        pattern: Pattern | None = None,
        reference: "Structure | Crystals | Candidate | Fit | str | Path | None" = None,
        which: int = 0,
        **traits: Any,
    ) -> None:
        steps = steps_of(frames)
        self.crystals = joined([crystal_of(step, which) for step in steps])
        super().__init__(**traits)
        patterns = None
        if pattern is not None:
            patterns = simulated_patterns(self.crystals, pattern)
        elif all(isinstance(step, Fit) for step in steps):
            patterns = fitted_patterns(steps)
        self.path = path_of(self.crystals)
        self.curves = drawn_curves(self.crystals, patterns, reference)
        if patterns is not None:
            self.view = view_of(patterns)

    @property
    def structure(self) -> "Structure":
        """The frame that is shown."""
        return to_structure(self.crystals, self.frame)

    @property
    def sent(self) -> int:
        """Bytes of cells, atoms, curves and patterns that the browser is given."""
        held = [*self.path.values(), *self.view.values()]
        held += [line["values"] for curve in self.curves for line in curve["lines"]]
        return sum(len(value) for value in held if isinstance(value, bytes))

    @traitlets.validate("frame")
    def _frame(self, proposal: Any) -> int:
        if not 0 <= proposal["value"] < len(self.crystals):
            raise traitlets.TraitError(
                f"there is no frame {proposal['value']}; give 0 to {len(self.crystals) - 1}"
            )
        return proposal["value"]

    @traitlets.validate("supercell")
    def _supercell(self, proposal: Any) -> list[int]:
        cells = proposal["value"]
        if len(cells) != 3 or not all(1 <= n <= MOST_CELLS for n in cells):
            raise traitlets.TraitError(
                f"supercell {cells} is not three numbers from 1 to {MOST_CELLS}"
            )
        return cells

    def _repr_mimebundle_(self, **asked: Any) -> tuple[dict, dict]:
        data, about = super()._repr_mimebundle_(**asked)
        shown = self.crystals.select(self.crystals.owner.new_tensor([self.frame]))
        return {**data, "text/html": html_of(shown)}, about


def path_of(crystals: Crystals) -> dict[str, Any]:
    """Lattice rows (Å), atoms and their elements, frame after frame, as bytes."""
    numbers = crystals.numbers.numpy()
    known = sorted(set(numbers.tolist()), reverse=True)
    elements = [Element.from_Z(z) for z in known]
    return {
        "frames": len(crystals),
        "lattice": _bytes(crystals.lattice.numpy()),
        "frac": _bytes(crystals.frac.numpy() % 1),
        "kinds": np.searchsorted(-np.array(known), -numbers).astype("u1").tobytes(),
        "counts": crystals.counts.numpy().astype("<u4").tobytes(),
        "elements": [
            {
                "symbol": one.symbol,
                "radius": CovalentRadius.radius.get(one.symbol, 1.5),
                "metal": bool(one.is_metal),
            }
            for one in elements
        ],
    }


def drawn_curves(
    crystals: Crystals, patterns: Patterns | None, reference: Any
) -> list[dict[str, Any]]:
    """Small plots over the frames: a title, a unit, and named lines."""
    of_cell = cell_curves(crystals)
    edges = {name: of_cell[name] for name in "abc"}
    angles = {name: of_cell[name] for name in "αβγ"}
    plots = [_plot("cell edges", "Å", edges)]
    if max(float(np.ptp(values)) for values in angles.values()) > SAME:
        plots.append(_plot("cell angles", "°", angles))
    plots.append(_plot("volume", "Å³", {"V": of_cell["V"]}))
    if patterns is not None:
        plots.append(_plot(patterns.measure, "", {"": patterns.residual}))
    if reference is not None:
        found = rmse_curve(crystals, structure_of(reference))
        plots.append(_plot("RMSE to the reference, in (V/N)^⅓", "", {"": found}))
    return plots


def _plot(title: str, unit: str, lines: dict[str, np.ndarray]) -> dict[str, Any]:
    drawn = [{"name": name, "values": _bytes(values)} for name, values in lines.items()]
    return {"title": title, "unit": unit, "lines": drawn}


def view_of(patterns: Patterns) -> dict[str, Any]:
    """The observed pattern and those of all frames, one behind the other."""
    return {
        "x": _bytes(patterns.two_theta),
        "observed": _bytes(patterns.observed),
        "all": _bytes(patterns.calculated),
        "wavelength": patterns.wavelength,
        "ordinate": patterns.ordinate,
        "words": "observed pattern, and that of the frame shown",
    }


def _bytes(values: np.ndarray) -> bytes:
    return np.ascontiguousarray(values, dtype="<f4").tobytes()
