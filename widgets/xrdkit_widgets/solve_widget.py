"""Solve a structure from a notebook: fields as of ``xrdkit.solve``, run, stop, watch."""

import time
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import anywidget
import traitlets

from xrdkit.generators import DEFAULT, SOURCES
from xrdkit.generators.asked import weights_of
from xrdkit.pattern import prepare, radiation, read
from xrdkit.refine.final import ENGINES
from xrdkit.report.notebook import html_of
from xrdkit.solve import solve_steps
from xrdkit.types import Controls, Fit, Pattern, Progress, Solution
from xrdkit_widgets import typed
from xrdkit_widgets.drawn import fits_view, overlay, pattern_view
from xrdkit_widgets.front import module, text_of
from xrdkit_widgets.job import BUSY, STATES, Job

FIELDS = {  # what is typed -> arguments of solve
    "formula": typed.composition,
    "contents": lambda text: typed.formula(text) if text.strip() else None,
    "cell": typed.cell,
    "space_group": typed.space_group,
    "size": typed.size,
    "weights": typed.weights,
    "steps": typed.steps,
    "guidance": typed.guidance,
    "phases": typed.phases,
}
FORMULAS = "formulas"  # the source that is asked where elements are typed
ORDER = tuple(SOURCES)
ASKED = [name for name in DEFAULT if name != FORMULAS]
DRAWN = 0.4  # seconds between two drawings of the best fit so far


class SolveWidget(anywidget.AnyWidget):
    """Choose a pattern, type a formula or elements ("Ti-O"), run: see ``solution``.

    ``pattern`` is a Pattern or a file of one; files can be dropped too. A run is a thread,
    the kernel stays free; ``stop`` ends it, ``wait`` waits for it, and ``run(block=True)``
    runs it here and raises what goes wrong, as papermill needs. ``library`` and ``exclude``
    are those of ``xrdkit.solve``; the other arguments are fields. ``steps`` and
    ``guidance`` may be changed while it runs.
    """

    _esm = module("solve_widget.js")
    _css = text_of("widgets.css")

    # from both: what is typed
    formula = traitlets.Unicode().tag(sync=True)  # or elements: Ti-O
    wavelength = traitlets.Unicode().tag(sync=True)  # a name or Å; empty: of the file
    contents = traitlets.Unicode().tag(sync=True)
    cell = traitlets.Unicode().tag(sync=True)  # a, b, c in Å, α, β, γ in °
    space_group = traitlets.Unicode().tag(sync=True)
    size = traitlets.Unicode().tag(sync=True)  # of nanocrystals, Å
    weights = traitlets.Unicode().tag(
        sync=True
    )  # a name, file or address; empty: what ships
    phases = traitlets.Unicode().tag(sync=True)  # formulas and CIF files, with commas
    sources = traitlets.List(traitlets.Enum(tuple(SOURCES)), ASKED).tag(sync=True)
    candidates = traitlets.Int(20).tag(sync=True)
    seed = traitlets.Int(0).tag(sync=True)
    steps = traitlets.Int(50).tag(sync=True)  # of a flow
    guidance = traitlets.Float(1.0).tag(sync=True)  # how far it follows the pattern
    index = traitlets.Bool(False).tag(sync=True)  # look for cells in the lines first
    engine = traitlets.Enum(("", *ENGINES), "").tag(sync=True)
    # from Python: what is shown
    known_sources = traitlets.List(ASKED).tag(sync=True)
    engines = traitlets.List(list(ENGINES)).tag(sync=True)
    most_bytes = traitlets.Int(typed.MOST_BYTES).tag(sync=True)
    state = traitlets.Enum(STATES, "idle").tag(sync=True)
    errors = traitlets.Dict().tag(sync=True)  # of a field: what is wrong with it
    message = traitlets.Unicode().tag(sync=True)
    chosen = traitlets.Unicode().tag(sync=True)  # words about the pattern
    warnings = traitlets.List().tag(sync=True)
    progress = traitlets.Dict().tag(sync=True)
    view = traitlets.Dict().tag(sync=True)
    answer = traitlets.Dict().tag(sync=True)  # verdict, confidence, reasons, best
    # in Python only
    pattern = traitlets.Instance(Pattern, allow_none=True)
    solution = traitlets.Instance(Solution, allow_none=True)

    def __init__(
        self,
        pattern: Pattern | str | Path | None = None,
        formula: str = "",
        *,
        library: Any = None,
        exclude: tuple[str, ...] | str = (),
        **traits: Any,
    ) -> None:
        self._given = {"library": library, "exclude": exclude}
        self._read = partial(_read, pattern) if pattern is not None else None
        self._job = Job(self, self._draw_best, self._show)
        self._drawn = 0.0
        self._solved: Pattern | None = None
        self._controls = Controls()
        super().__init__(formula=formula, **traits)
        self.on_msg(self._told)
        self.observe(lambda change: self._check(change["name"]), list(FIELDS))
        self.observe(lambda change: self._load(), "wavelength")
        self.observe(lambda change: self._steer(), ["steps", "guidance"])
        for name in filter(lambda name: getattr(self, name), FIELDS):
            self._check(name)
        self._load()

    def run(self, *, block: bool = False) -> Solution | None:
        """Start a run; with ``block`` run here, and raise what goes wrong."""
        self._job.check_free()
        steps = self._steps()
        self._solved = self.pattern  # another may be chosen before the run ends
        self.answer, self.solution = {}, None
        self.view = pattern_view(self.pattern, None, None)
        return self._job.start(steps, block=block)

    def stop(self) -> None:
        """End the run at its next step; nothing happens where none is going on."""
        self._job.stop()

    def wait(self, seconds: float | None = None) -> Solution | None:
        """The answer, when the run that is going on has ended; None if it has none."""
        self._job.wait(seconds)
        return self.solution

    def _repr_mimebundle_(self, **asked: Any) -> tuple[dict, dict]:
        data, about = super()._repr_mimebundle_(**asked)
        shown = self.solution or self.pattern
        still = {"text/html": html_of(shown)} if shown else {}
        return {**data, **still}, about

    def _steps(self) -> Any:
        """The pipeline for what is typed, or a ValueError that says what is missing."""
        asked = {name: self._check(name) for name in FIELDS}
        if self.errors:
            raise ValueError(next(iter(self.errors.values())))
        if self.pattern is None:
            raise ValueError("there is no pattern; choose or drop a file")
        drawing = weights_of(asked["weights"])  # by source
        steps, guidance = asked.pop("steps"), asked.pop("guidance")
        self._controls = Controls(guidance, steps)
        known = asked.pop("formula")
        more = {FORMULAS} if "elements" in known else set()
        return solve_steps(
            self.pattern,
            **known,
            sources=tuple(sorted({*self.sources, *more, *drawing}, key=ORDER.index)),
            controls=self._controls,
            candidates=self.candidates,
            seed=self.seed,
            index=self.index,
            engine=self.engine or None,
            **asked,
            **self._given,
        )

    def _steer(self) -> None:
        """Tell the run that is going on; what cannot be is left as it was."""
        if not {"steps", "guidance"} & set(self.errors):
            self._controls.steps, self._controls.guidance = self.steps, self.guidance

    def _draw_best(self, now: Progress) -> None:
        """The best fit so far, where the step that is going on tells of one."""
        if isinstance(now.best, Fit) and time.monotonic() > self._drawn + DRAWN:
            self._draw((now.best,), "best fit so far")
            self._drawn = time.monotonic()

    def _draw(self, fits: tuple[Fit, ...], words: str) -> None:
        base = fits_view(fits, self._solved, words)
        self.view = {**base, "fits": [overlay(fits, 1, self._solved)]}

    def _show(self, solution: Solution | None) -> None:
        """The answer in short, with the pattern and its first fit; none if stopped."""
        if solution is None:
            return
        said = {"verdict": solution.verdict, "confidence": solution.confidence}
        said |= {"reasons": list(solution.reasons), "count": len(solution.fits), "best": ""}
        if solution.fits:
            best = solution.fits[0]
            self._draw(solution.fits, "observed and calculated pattern of the first fit")
            name = self.view["fits"][0]["phases"][0]["name"]
            said["best"] = f"{name}, profile residual {best.residual:.3f}"
            if "r_wp" in best.r_values:
                said["best"] = f"{name}, R_wp {best.r_wp:.2f} %"
        self.warnings = list(solution.problem.pattern.warnings)
        self.answer, self.solution = said, solution

    def _check(self, name: str) -> Any:
        """The value of a field; what is wrong with it goes into ``errors``."""
        try:
            value = FIELDS[name](getattr(self, name))
        except typed.WRONG as error:
            self.errors = {**self.errors, name: typed.sentence(error)}
            return None
        self._clear(name)
        return value

    def _clear(self, *names: str) -> None:
        """Nothing is wrong with these fields any more."""
        self.errors = {k: v for k, v in self.errors.items() if k not in names}

    def _load(self) -> None:
        """Read the pattern with the radiation that is typed, and draw it."""
        self._clear("file", "wavelength")
        where = "wavelength"
        try:
            beam = typed.wavelength(self.wavelength)
            where = "file"
            pattern = self._read(beam) if self._read else None
            kept = prepare(pattern) if pattern else None
        except typed.WRONG as error:
            self.errors = {**self.errors, where: typed.sentence(error)}
            pattern = None
        self.pattern, self.chosen, self.warnings = pattern, "", []
        if self.state not in BUSY:
            self.view = pattern_view(pattern, None, None) if pattern else {}
        if pattern:
            self.chosen = _described(pattern)
            self.warnings = list(kept.warnings)

    def _told(self, _widget: Any, said: dict, data: list) -> None:
        """A message from the browser; what is wrong with it is shown there."""
        try:
            if said["kind"] == "run":
                self.run()
            elif said["kind"] == "stop":
                self.stop()
            elif said["kind"] == "file":
                name = str(said["name"])
                content = typed.received(said, data, Path.read_bytes)
                self._read = lambda beam: typed.dropped(
                    name, content, lambda path: read(path, beam)
                )
                self._load()
        except (*typed.WRONG, RuntimeError) as error:
            self.message = typed.sentence(error)


def _read(given: Pattern | str | Path, beam: Any) -> Pattern:
    """A pattern, or the file of one, with the radiation that is typed."""
    if not isinstance(given, Pattern):
        return read(given, beam)
    return given if beam is None else replace(given, radiation=radiation(beam))


def _described(pattern: Pattern) -> str:
    """Name, range and radiation of a pattern in words."""
    x, beam = pattern.two_theta, pattern.radiation
    return (
        f"{pattern.name or 'pattern'}: {x[0]:.2f}–{x[-1]:.2f}° 2θ, {len(pattern)} points, "
        f"{beam.name or 'λ'} {beam.main:.5f} Å"
    )
