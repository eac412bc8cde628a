"""A measured pattern to look at and to prepare: ranges, background, peaks, lines."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import anywidget
import traitlets

from xrdkit.pattern import exclude, find_peaks, prepare, read
from xrdkit.phases.compounds import read_structure
from xrdkit.report.notebook import html_of
from xrdkit.types import Fit, Pattern
from xrdkit_widgets import typed
from xrdkit_widgets.drawn import Cell, pattern_view, ticks_of
from xrdkit_widgets.front import module, text_of

if TYPE_CHECKING:
    from pymatgen.core import Structure


class PatternWidget(anywidget.AnyWidget):
    """A pattern, or the file of one, to look at; ``prepared`` is what came of it.

    Ranges of 2θ (°) are left out by dragging, or by setting ``excluded``. ``add`` puts the
    lines of a phase or a cell under the pattern. ``prepared`` is None where what is left
    cannot be prepared; ``message`` says why.
    """

    _esm = module("pattern_widget.js")
    _css = text_of("widgets.css")

    view = traitlets.Dict().tag(sync=True)  # what is drawn, from Python
    ticks = traitlets.List().tag(sync=True)  # names and lines of phases, from Python
    message = traitlets.Unicode().tag(sync=True)  # what was wrong, from Python
    excluded = traitlets.List().tag(sync=True)  # (low, high) in ° of 2θ, from both
    subtract = traitlets.Bool(True).tag(sync=True)  # the background is taken off
    axis = traitlets.Enum(("two_theta", "q", "d"), "two_theta").tag(sync=True)
    root = traitlets.Bool(False).tag(sync=True)  # the root of intensity is drawn
    most_bytes = traitlets.Int(typed.MOST_BYTES).tag(sync=True)
    prepared = traitlets.Instance(Pattern, allow_none=True)

    def __init__(
        self, pattern: Pattern | str | Path, *, wavelength: Any = None, **traits: Any
    ) -> None:
        if not isinstance(pattern, Pattern):
            pattern = read(pattern, wavelength)
        self.pattern = pattern
        super().__init__(**traits)
        self.on_msg(self._told)
        self.observe(self._prepare, ["excluded", "subtract"])
        self._prepare()

    def add(self, what: "Fit | Structure | Cell | str | Path") -> None:
        """Lines of a fit, a structure, a CIF file, or a cell ("4.6 4.6 3.0 90 90 90")."""
        if isinstance(what, str | Path):
            is_cif = str(what).strip().lower().endswith(".cif")
            what = read_structure(str(what).strip()) if is_cif else typed.cell(str(what))
        if what is None:
            raise ValueError("nothing is given; give a cell, a CIF file or a structure")
        if isinstance(what, tuple | list):
            what = typed.usable_cell(tuple(what))
        self.ticks = [*self.ticks, *ticks_of(what, self.pattern)]

    def remove(self, index: int) -> None:
        """Take away the lines of the phase at this place, counted from 0."""
        self.ticks = [one for i, one in enumerate(self.ticks) if i != index]

    def _repr_mimebundle_(self, **asked: Any) -> tuple[dict, dict]:
        data, about = super()._repr_mimebundle_(**asked)
        return {**data, "text/html": html_of(self.pattern)}, about

    def _prepare(self, _change: Any = None) -> None:
        """Prepare what is left of the pattern, and draw it."""
        self.message, kept, peaks = "", None, None
        try:
            kept = exclude(self.pattern, *(_ascending(pair) for pair in self.excluded))
            self.prepared = prepare(kept, background=self.subtract)
            peaks = find_peaks(self.prepared)
        except ValueError as error:
            self.prepared = None
            self.message = typed.sentence(error)
        base = kept if self.subtract else None
        self.view = pattern_view(self.pattern, base, peaks)

    def _told(self, _widget: Any, said: dict, data: list) -> None:
        """A message from the browser; what is wrong with it is shown there."""
        try:
            if said["kind"] == "ticks":
                self.add(said["text"])
            elif said["kind"] == "remove":
                self.remove(said["index"])
            elif said["kind"] == "file":
                self.add(typed.received(said, data, read_structure))
            self.message = ""
        except typed.WRONG as error:
            self.message = typed.sentence(error)


def _ascending(pair: Any) -> tuple[float, float]:
    """Two angles in ° of a range."""
    try:
        low, high = (float(angle) for angle in pair)
    except (TypeError, ValueError):
        raise ValueError(
            f"range {pair!r} is not two angles; give (low, high) in °"
        ) from None
    return low, high
