"""The ranked structures of a solution: compare, choose, note, and write to files."""

import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anywidget
import traitlets

from xrdkit.refine.gsas2 import GSAS2Error
from xrdkit.report.notebook import html_of
from xrdkit.report.results import PROGRAMS
from xrdkit.report.tables import cell_text, sites_text, solution_rows
from xrdkit.types import Fit, Pattern, Solution
from xrdkit_widgets import typed
from xrdkit_widgets.drawn import fits_view, overlay
from xrdkit_widgets.exports import Exports
from xrdkit_widgets.front import module, text_of

if TYPE_CHECKING:
    from pymatgen.core import Structure

OVERLAYS = 3  # fits drawn at once
DALTON = 1.66053907  # g/cm³ of a dalton in Å³


class CandidatesWidget(anywidget.AnyWidget):
    """The fits of a solution as a table; ``chosen`` is the rank of the chosen one, or 0.

    ``pattern`` is the pattern as measured: with it plots have its scale, and inputs of
    Rietveld programs can be written. ``fit`` is the chosen one, ``notes`` are texts by
    rank (1: the best). Files go to ``folder``; one that exists is replaced only where
    ``replace`` is set.
    """

    _esm = module("candidates_widget.js")
    _css = text_of("widgets.css")

    # from Python
    rows = traitlets.List().tag(sync=True)
    verdict = traitlets.Dict().tag(sync=True)
    programs = traitlets.List().tag(sync=True)  # whose inputs can be written
    view = traitlets.Dict().tag(sync=True)  # the observed curve
    overlays = traitlets.Dict().tag(sync=True)  # calculated curves by rank
    message = traitlets.Unicode().tag(sync=True)  # what was written
    errors = traitlets.Dict().tag(sync=True)  # under "export": what went wrong
    # from both
    chosen = traitlets.Int(0).tag(sync=True)  # rank; 0: none
    shown = traitlets.List(traitlets.Int(), [1]).tag(sync=True)  # ranks that are drawn
    notes = traitlets.Dict().tag(sync=True)  # text by rank, as a string
    axis = traitlets.Enum(("two_theta", "q", "d"), "two_theta").tag(sync=True)
    root = traitlets.Bool(False).tag(sync=True)
    folder = traitlets.Unicode().tag(sync=True)
    replace = traitlets.Bool(False).tag(sync=True)

    def __init__(
        self, solution: Solution, *, pattern: Pattern | None = None, **traits: Any
    ) -> None:
        self.solution, self.pattern = solution, pattern
        self.name = (pattern or solution.problem.pattern).name or "pattern"
        super().__init__(**{"folder": f"{self.name}_xrdkit", **traits})
        self.rows = [
            table_row(row, fit)
            for row, fit in zip(solution_rows(solution), solution.fits, strict=True)
        ]
        self.verdict = {
            "verdict": solution.verdict,
            "confidence": solution.confidence,
            "reasons": list(solution.reasons),
        }
        if solution.fits:
            self.programs = list(PROGRAMS) if pattern is not None else []
            words = f"{self.name}, observed pattern and calculated ones"
            self.view = fits_view(solution.fits, pattern, words)
        else:
            self.shown = []
        self.observe(self._draw, "shown")
        self._draw()
        self.on_msg(self._told)

    @property
    def fit(self) -> Fit | None:
        """The fit that was chosen, or None."""
        return self.solution.fits[self.chosen - 1] if self.chosen else None

    @traitlets.validate("chosen")
    def _rank(self, proposal: Any) -> int:
        if not 0 <= proposal["value"] <= len(self.solution.fits):
            raise traitlets.TraitError(
                f"there is no structure {proposal['value']}; "
                f"give 1 to {len(self.solution.fits)}, or 0 for none"
            )
        return proposal["value"]

    @traitlets.validate("shown")
    def _ranks(self, proposal: Any) -> list[int]:
        count = len(self.solution.fits)
        return [rank for rank in proposal["value"] if 1 <= rank <= count][-OVERLAYS:]

    def export(self, what: str) -> list[Path]:
        """Write "cif", "csv", "html", or the input of a program ("topas", …) to ``folder``.

        CIF and inputs are of the chosen structure, of the first where none is chosen.
        """
        rank, folder = self.chosen or 1, Path(self.folder)
        notes = {int(rank): note for rank, note in self.notes.items() if note}
        exports = Exports(self.solution, self.pattern, self.name, rank, notes)
        return exports.write(what, folder, replace=self.replace)

    def _repr_mimebundle_(self, **asked: Any) -> tuple[dict, dict]:
        data, about = super()._repr_mimebundle_(**asked)
        return {**data, "text/html": html_of(self.solution)}, about

    def _draw(self, _change: Any = None) -> None:
        """Calculate the overlays that are asked for and not there yet."""
        wanted = [rank for rank in self.shown if str(rank) not in self.overlays]
        made = {
            str(rank): overlay(self.solution.fits, rank, self.pattern) for rank in wanted
        }
        if made:
            self.overlays = {**self.overlays, **made}

    def _told(self, _widget: Any, said: dict, _data: list) -> None:
        """A message from the browser; what goes wrong is shown there."""
        if said["kind"] != "export":
            return
        self.message, self.errors = "", {}
        try:
            with warnings.catch_warnings(record=True) as noted:
                warnings.simplefilter("always", UserWarning)
                written = self.export(str(said["what"]))
            lines = [f"written: {', '.join(map(str, written))}"]
            self.message = "; ".join([*lines, *(str(note.message) for note in noted)])
        except (*typed.WRONG, GSAS2Error) as error:
            self.errors = {"export": typed.sentence(error)}


def density(structure: "Structure") -> float:
    """Density in g/cm³; pymatgen's own spends milliseconds on its units."""
    mass = sum(float(e.atomic_mass) * n for e, n in structure.composition.items())
    return DALTON * mass / structure.volume


def table_row(row: dict[str, Any], fit: Fit) -> dict[str, Any]:
    """What the table shows of a fit; ``r_wp`` (%) is None on prepared data."""
    return {
        "rank": row["rank"],
        "formula": row["formula"],
        "space_group": row["space_group"],
        "number": row["number"],
        "sites": sites_text(row["wyckoff"]),
        "cell": cell_text(row),
        "volume": row["volume"],
        "density": round(density(fit.structure), 3),
        "residual": row["residual"],
        "r_wp": round(fit.r_wp, 2) if "r_wp" in fit.r_values else None,
        "score": row["score"],
        "origin": row["origin"],
        "known": row["known"],
        "group": row["group"],
        "determined": list(fit.determined),
        "undetermined": list(fit.undetermined),
    }
