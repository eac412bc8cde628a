"""Refine a structure by full profile: the parameter table, run, stop, undo, watch."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anywidget
import traitlets

from xrdkit.files import check_writable
from xrdkit.pattern import read
from xrdkit.progress import result_of
from xrdkit.refine.rietveld import Parameters, Restraint, refine_steps
from xrdkit.report import write_cif
from xrdkit.report.notebook import html_of
from xrdkit.types import Candidate, Fit, Instrument, Pattern, Phase, Progress
from xrdkit_widgets import typed
from xrdkit_widgets.drawn import fits_view, overlay
from xrdkit_widgets.front import module, text_of
from xrdkit_widgets.job import STATES, Job
from xrdkit_widgets.parameter_rows import edited, marked, rows_of

if TYPE_CHECKING:
    from pymatgen.core import Structure

KEPT = 50  # states that can be gone back to
R_VALUES = {"r_wp": "R_wp", "r_exp": "R_exp", "gof": "GOF", "r_bragg": "R_Bragg"}
CORRELATED = 5  # pairs that are named


@dataclass(frozen=True)
class Step:
    """What was done, and table and fit after it."""

    note: str
    table: Parameters
    fit: Fit


class RefineWidget(anywidget.AnyWidget):
    """A refinement of a structure against a pattern as measured; the result is ``fit``.

    ``structure`` is what ``xrdkit.refine.rietveld.refine`` takes: a CIF, Structure,
    Candidate, Fit, or a parameter table; a structure is scaled to the pattern at once. A
    run refines everything in stages, or exactly what the ``table`` marks. It is a thread,
    the kernel stays free; ``stop`` ends it and keeps what was reached, ``wait`` waits for
    it, and ``run(block=True)`` runs it here and raises what goes wrong. Every edit and run
    can be undone. ``phases`` to ``exclude`` are those of ``refine``.
    """

    _esm = module("refine_widget.js")
    _css = text_of("widgets.css")

    # from both
    terms = traitlets.Int(0).tag(sync=True)  # of the background in stages; 0: by the data
    displacement = traitlets.Enum(("site", "element", "overall"), "site").tag(sync=True)
    occupancies = traitlets.Bool(False).tag(sync=True)
    texture = traitlets.Bool(True).tag(sync=True)  # looked for in stages
    file = traitlets.Unicode().tag(sync=True)  # of the CIF
    replace = traitlets.Bool(False).tag(sync=True)
    axis = traitlets.Enum(("two_theta", "q", "d"), "two_theta").tag(sync=True)
    root = traitlets.Bool(False).tag(sync=True)
    # from Python
    state = traitlets.Enum(STATES, "idle").tag(sync=True)
    progress = traitlets.Dict().tag(sync=True)
    message = traitlets.Unicode().tag(sync=True)  # what went wrong
    said = traitlets.Unicode().tag(sync=True)  # what was written
    errors = traitlets.Dict().tag(sync=True)  # of a row's entry, "name key": what is wrong
    rows = traitlets.List().tag(sync=True)
    view = traitlets.Dict().tag(sync=True)
    figures = traitlets.Dict().tag(sync=True)  # R values as texts
    warnings = traitlets.List().tag(sync=True)
    history = traitlets.List().tag(sync=True)
    place = traitlets.Int(0).tag(sync=True)  # in the history, of what is shown
    # in Python only
    fit = traitlets.Instance(Fit, allow_none=True)
    table = traitlets.Instance(Parameters, allow_none=True)

    def __init__(
        self,
        pattern: Pattern | str | Path,
        structure: "Structure | str | Path | Fit | Candidate | Parameters",
        *,
        phases: "Sequence[Structure | str | Path | Phase]" = (),
        instrument: Instrument | None = None,
        restraints: Sequence[Restraint] = (),
        exclude: Sequence[tuple[float | int, float | int]] = (),
        **traits: Any,
    ) -> None:
        self.pattern = pattern if isinstance(pattern, Pattern) else read(pattern)
        self._held = {"restraints": restraints, "exclude": exclude}
        self._instrument, self._phases = instrument, phases
        self._reached: Fit | None = None
        self._steps: list[Step] = []
        self._job = Job(self, self._draw_cycle, self._keep)
        name = self.pattern.name or "pattern"
        super().__init__(**{"file": f"{name}_refined.cif", **traits})
        fit = self._start(structure)
        self._add("start", fit.table, fit)
        self.on_msg(self._told)

    def run(self, *, marked: bool = False, block: bool = False) -> Fit | None:
        """Refine everything in stages, or what the table marks; with ``block`` wait."""
        self._job.check_free()
        if marked and not self.table.free:
            raise ValueError("no parameter is marked; tick some to be refined")
        self._reached, self.errors, self.said = None, {}, ""
        self._what = "as marked" if marked else "in stages"
        steps = self._marked() if marked else self._in_stages()
        return self._job.start(steps, block=block)

    def stop(self) -> None:
        """End the run at its next trial step, and keep what the last cycle reached."""
        self._job.stop()

    def wait(self, seconds: float | None = None) -> Fit | None:
        """The fit, when the run that is going on has ended."""
        self._job.wait(seconds)
        return self.fit

    def edit(self, pattern: str, **changes: Any) -> None:
        """Change rows of the table, as ``Parameters.edit``."""
        self._change(self.table.edit(pattern, **changes))

    def go_to(self, place: int) -> None:
        """Back, or forth again, to a place in the history, counted from 0."""
        self._job.check_free()
        if not 0 <= place < len(self._steps):
            raise ValueError(
                f"there is no state {place}; the history has {len(self._steps)}, from 0"
            )
        self.place = place
        self._show(self._steps[place].table, self._steps[place].fit)

    def undo(self) -> None:
        """Back to before the last change or run."""
        if self.place == 0:
            raise ValueError("there is nothing to undo; this is the start")
        self.go_to(self.place - 1)

    def export(self) -> Path:
        """Write the fit as CIF to ``file``, over an old one where ``replace`` is set."""
        path = Path(self.file.strip())
        if not self.file.strip():
            raise ValueError("no file is named; give one that ends in .cif")
        if path.exists() and not self.replace:
            raise ValueError(
                f"{path} exists already; tick 'replace file' or give another name"
            )
        check_writable(path.parent)
        return write_cif(self.fit, path)

    def _repr_mimebundle_(self, **asked: Any) -> tuple[dict, dict]:
        data, about = super()._repr_mimebundle_(**asked)
        return {**data, "text/html": html_of(self.fit)}, about

    def _start(self, structure: Any) -> Fit:
        """The structure scaled to the pattern, or a table's fit as it stands."""
        if isinstance(structure, Fit) and structure.table is not None:
            self._source = structure
            return structure
        if isinstance(structure, Parameters):
            self._source = self._as_it_stands(structure)
            return replace(self._source, table=structure)
        self._source = structure
        steps = self._in_stages()
        try:
            return next(now.best for now in steps if now.done)
        finally:
            steps.close()

    def _in_stages(self) -> Any:
        """The automatic refinement, from what was given or was reached since."""
        return refine_steps(
            self.pattern,
            self._source,
            background=self.terms or None,
            texture="auto" if self.texture else None,
            displacement=self.displacement,
            occupancies=self.occupancies,
            phases=self._phases,
            instrument=self._instrument,
            **self._held,
        )

    def _marked(self) -> Any:
        """A refinement of exactly what the table marks."""
        return refine_steps(self.pattern, self.table, **self._held)

    def _as_it_stands(self, table: Parameters) -> Fit:
        """What a table says of the pattern before anything is refined."""
        still = tuple(replace(row, refine=False) for row in table.rows)
        return result_of(
            refine_steps(self.pattern, replace(table, rows=still), **self._held)
        )

    def _change(self, table: Parameters) -> None:
        """Another table; where it changes the pattern that is calculated anew."""
        self._job.check_free()
        fit = self.fit
        if table.values != self.table.values:
            fit = replace(self._as_it_stands(table), table=table)
        self._add(table.note, table, fit)

    def _add(self, note: str, table: Parameters, fit: Fit) -> None:
        """Remember a state behind the one that is shown, and show it."""
        said = f"{note} · R_wp {fit.r_values['r_wp']:.2f} %"
        kept = self._steps[: self.place + 1] if self._steps else []
        self._steps = [*kept, Step(said, table, fit)][-KEPT:]
        self.history = [step.note for step in self._steps]
        self.place = len(self._steps) - 1
        self._show(table, fit)

    def _draw_cycle(self, now: Progress) -> None:
        """What a cycle has reached; trials before the first one and within one are not."""
        if now.done and now.best is not self._reached:
            self._reached = now.best
            self._draw(now.best, now.best.table)

    def _keep(self, fit: Fit | None) -> None:
        """The result of a run, or what it had reached when it was stopped."""
        note, fit = (self._what, fit) if fit else (f"{self._what}, stopped", self._reached)
        if fit is not None:
            self._source, self._phases = fit, ()  # which come along with a fit
            self._add(note, fit.table, fit)

    def _show(self, table: Parameters, fit: Fit) -> None:
        self._draw(fit, table)
        self.warnings = [
            *fit.warnings,
            *(
                f"{a} and {b} are correlated, {r:.2f}"
                for a, b, r in fit.correlations[:CORRELATED]
            ),
        ]
        self.table, self.fit = table, fit

    def _draw(self, fit: Fit, table: Parameters) -> None:
        """Curves, R values and table."""
        words = "observed and calculated pattern of the refinement"
        base = fits_view((fit,), self.pattern, words)
        curve = overlay((fit,), 1, self.pattern)
        self.view = {**base, "fits": [{**curve, "name": "calculated"}]}
        found = fit.r_values
        self.figures = {
            label: f"{found[name]:.2f}" + ("" if name == "gof" else " %")
            for name, label in R_VALUES.items()
            if name in found
        }
        self.rows = rows_of(table)

    def _told(self, _widget: Any, said: dict, _data: list) -> None:
        """A message from the browser; what is wrong with it is shown there."""
        kind, self.message, self.said, self.errors = said["kind"], "", "", {}
        try:
            if kind == "run":
                self.run(marked=bool(said["marked"]))
            elif kind == "stop":
                self.stop()
            elif kind == "go":
                self.go_to(int(said["place"]))
            elif kind == "edit":
                self._change(edited(self.table, said["name"], said["key"], said["text"]))
            elif kind == "mark":
                self._change(marked(self.table, said["names"], bool(said["refine"])))
            elif kind == "export":
                self.said = f"written: {self.export()}"
        except (*typed.WRONG, RuntimeError) as error:
            self.message = typed.sentence(error)
            if kind == "edit":
                self.errors = {f"{said['name']} {said['key']}": self.message}
