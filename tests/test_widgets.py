"""The widgets without a browser: what they tell it, answer it, and refuse."""

import re
import threading
import time
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from pymatgen.analysis.diffraction.xrd import XRDCalculator
from pymatgen.core import Lattice, Structure
from textbook import STRUCTURES
from traitlets import TraitError

import xrdkit
from xrdkit.crystal import from_structures, read_cif
from xrdkit.generators import DEFAULT
from xrdkit.models.checkpoint import new_network, save_network
from xrdkit.models.crystal_net import PatternNet, Size
from xrdkit.pattern import prepare
from xrdkit.refine.rietveld import refine, refine_steps
from xrdkit.types import Fit, Pattern, Progress, Solution
from xrdkit_widgets import (
    CandidatesWidget,
    PatternWidget,
    RefineWidget,
    SolveWidget,
    TrajectoryWidget,
    typed,
)
from xrdkit_widgets.drawn import POINTS, pattern_view
from xrdkit_widgets.pace import Pace

WIDGETS = (
    CandidatesWidget,
    PatternWidget,
    RefineWidget,
    SolveWidget,
    TrajectoryWidget,
)
CELL = "4.157 4.157 4.157 90 90 90"
KNOWN = {"cell": CELL, "space_group": "P m -3 m", "sources": ["templates"]}


@pytest.fixture(scope="module")
def pattern() -> Pattern:
    return xrdkit.read(xrdkit.examples.path("lab6"))


@pytest.fixture(scope="module")
def solution(pattern) -> Solution:
    widget = SolveWidget(pattern, "LaB6", **KNOWN)
    return widget.run(block=True)


def tell(widget, data: bytes | None = None, **said) -> None:
    """What a message from the browser does."""
    widget._handle_custom_msg(said, [] if data is None else [memoryview(data)])


def floats(data: bytes) -> np.ndarray:
    return np.frombuffer(data, "<f4")


# what the browser gets


def test_joined_scripts_are_one_module_without_imports_and_addresses():
    for widget in WIDGETS:
        text = widget._esm
        assert text.count("export default") == 1
        assert not re.search(r"^\s*import\s", text, re.M)
        assert "http" not in text + widget._css


def test_scripts_only_ask_for_traits_that_are_there():
    for widget in WIDGETS:
        asked = set(re.findall(r'model\.get\("(\w+)"\)', widget._esm))
        asked |= set(re.findall(r'field\(model, ends, "(\w+)"', widget._esm))
        optional = {"most_bytes", "errors"}  # of the elements that not every widget has
        assert asked - optional <= set(widget.class_traits(sync=True))


def test_pattern_is_sent_as_measured_within_float32(pattern):
    view = PatternWidget(pattern).view
    np.testing.assert_allclose(floats(view["x"]), pattern.two_theta, rtol=1e-6)
    np.testing.assert_array_equal(floats(view["observed"]), pattern.intensity)
    assert view["ordinate"] == "counts"


def test_long_pattern_is_thinned_but_keeps_its_highest_point(pattern):
    x = np.linspace(5, 120, 100_000)
    y = np.exp(-(((x - 40) / 0.001) ** 2))
    view = pattern_view(Pattern(x, y, pattern.radiation), None, None)
    assert len(floats(view["x"])) <= POINTS
    assert floats(view["observed"]).max() == pytest.approx(y.max())


@pytest.mark.parametrize("name", ["NaCl", "TiO2", "CaCO3", "FeS2"])
def test_lines_of_a_structure_are_those_that_pymatgen_finds(name, pattern):
    structure = STRUCTURES[name]
    widget = PatternWidget(pattern)
    widget.add(structure)
    ours = np.array([line[0] for line in widget.ticks[0]["lines"]])
    wavelength = pattern.radiation.main
    theirs = XRDCalculator(wavelength).get_pattern(structure, two_theta_range=(10, 90)).x
    assert all(np.abs(ours - angle).min() < 0.06 for angle in theirs)


def test_page_that_runs_no_widgets_shows_a_picture_and_words(pattern, solution):
    for widget in (PatternWidget(pattern), CandidatesWidget(solution)):
        data, _ = widget._repr_mimebundle_()
        assert "<svg" in data["text/html"]
        assert "application/vnd.jupyter.widget-view+json" in data


# PatternWidget


def test_prepared_pattern_is_that_of_the_library(pattern):
    widget = PatternWidget(xrdkit.examples.path("lab6"))
    np.testing.assert_array_equal(widget.prepared.intensity, prepare(pattern).intensity)
    assert len(widget.view["peaks"]) == 13


def test_range_that_is_left_out_is_missing_in_the_prepared_pattern(pattern):
    widget = PatternWidget(pattern)
    widget.excluded = [[25, 32], [60.5, 61]]
    x = widget.prepared.two_theta
    assert not ((x > 25) & (x < 32)).any()
    assert np.isnan(floats(widget.view["background"])).sum() == len(pattern) - len(x)
    widget.excluded = []
    assert len(widget.prepared) == len(pattern)


def test_background_is_kept_where_it_is_not_to_be_taken_off(pattern):
    widget = PatternWidget(pattern, subtract=False)
    assert widget.prepared.intensity.min() > 0
    assert widget.view["background"] is None


@pytest.mark.parametrize(
    ("excluded", "said"),
    [
        ([[5, 175]], "no points are left"),
        ([[40, 30]], "range 40–30° is empty"),
        ([["a", 3]], "is not two angles"),
        ([[1, 2, 3]], "is not two angles"),
    ],
)
def test_range_that_cannot_be_left_out_is_explained(pattern, excluded, said):
    widget = PatternWidget(pattern)
    widget.excluded = excluded
    assert said in widget.message
    assert widget.prepared is None
    widget.excluded = []
    assert not widget.message
    assert widget.prepared is not None


def test_lines_come_from_a_cell_a_cif_file_and_a_fit(pattern, solution, tmp_path):
    widget = PatternWidget(pattern)
    tell(widget, kind="ticks", text=CELL)
    xrdkit.report.write_cif(solution.fits[0], tmp_path / "lab6.cif")
    text = (tmp_path / "lab6.cif").read_bytes()
    tell(widget, text, kind="file", name="lab6.cif", size=len(text))
    widget.add(str(tmp_path / "lab6.cif"))
    widget.add(solution.fits[0])
    names = [one["name"] for one in widget.ticks]
    assert names == ["cell 4.157 4.157 4.157 90 90 90"] + 3 * ["LaB6 Pm-3m"]
    first = widget.ticks[1]["lines"][0]
    assert first[0] == pytest.approx(21.36, abs=0.02)  # 100 of LaB6, Cu Kα1
    tell(widget, kind="remove", index=0)
    assert [one["name"] for one in widget.ticks] == 3 * ["LaB6 Pm-3m"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("4.1 4.1", "is not 6 numbers"),
        ("", "nothing is given"),
        ("0.1 4 4 90 90 90", "not all within 1–100 Å"),
        ("none_such.cif", "there is no file none_such.cif"),
    ],
)
def test_wrong_cell_is_explained(pattern, text, said):
    widget = PatternWidget(pattern)
    tell(widget, kind="ticks", text=text)
    assert said in widget.message
    assert widget.ticks == []


def test_error_of_a_dropped_file_names_it():
    widget = SolveWidget()
    tell(widget, b"this is no pattern\n", kind="file", name="wrong.xy", size=19)
    assert widget.errors["file"].startswith("wrong.xy: no columns of numbers found")


def test_damaged_cif_is_explained_under_its_own_name(pattern):
    widget = PatternWidget(pattern)
    tell(widget, b"no cif at all", kind="file", name="my.cif", size=13)
    assert widget.message.startswith("my.cif is not a CIF")


# files from the browser


def test_file_that_is_too_large_is_refused_by_its_size():
    widget = SolveWidget()
    tell(widget, kind="file", name="big.raw", size=30_000_000)
    assert widget.message.startswith("big.raw has 30 MB, at most 8 MB")
    with pytest.raises(ValueError, match="at most 8 MB"):
        typed.dropped("big.raw", bytes(typed.MOST_BYTES + 1), Path.read_bytes)


@pytest.mark.parametrize("name", ["../../etc/x.xy", "..", "", "a" * 300 + ".xy", "a\0b.xy"])
def test_name_of_a_dropped_file_cannot_lead_out_of_its_folder(name, tmp_path):
    seen = []
    typed.dropped(name, b"1", lambda path: seen.append(path) or path.read_bytes())
    assert seen[0].parent.name.startswith("tmp")
    assert not seen[0].exists()


# SolveWidget


def test_blocking_run_returns_the_solution(solution):
    assert solution.fits[0].structure.composition.reduced_formula == "LaB6"
    assert solution.fits[0].space_group == 221
    assert solution.settings["space_group"] == 221


def test_run_in_a_thread_tells_its_progress_and_leaves_the_kernel_free(pattern):
    widget = SolveWidget(pattern, "LaB6", **KNOWN)
    told = []
    widget.observe(lambda change: told.append(threading.current_thread()), "progress")
    assert widget.run() is None
    assert widget.state == "running"
    with pytest.raises(RuntimeError, match="a run is going on in this widget; stop"):
        widget.run()
    tell(widget, kind="run")
    assert "a run is going on" in widget.message
    assert widget.wait(60) is widget.solution
    assert widget.state == "done"
    assert set(told[1:]) == {widget._job.thread}
    assert widget.answer["best"].startswith("LaB6 Pm-3m, profile residual 0.")
    assert len(widget.view["fits"]) == 1


def test_stop_ends_a_run_and_another_can_start(pattern):
    widget = SolveWidget(pattern, "LaB6", sources=["templates"])
    widget.run()
    tell(widget, kind="stop")
    assert widget.wait(30) is None
    assert widget.state == "stopped"
    widget.stop()
    assert widget.state == "stopped"
    widget.cell, widget.space_group = CELL, "221"
    assert widget.run(block=True) is widget.solution


@pytest.mark.slow
@pytest.mark.parametrize("seconds", [0.5, 1.5, 2.5])
def test_run_that_is_stopped_anywhere_says_how_fast_it_was(pattern, seconds):
    """Prints the longest gap between two steps and the time from Stop to stopped."""
    widget = SolveWidget(pattern, "LaB6", sources=["templates"])
    steps, told = [], widget._job.told
    widget._job.told = lambda now: steps.append(time.perf_counter()) or told(now)
    widget.run()
    time.sleep(seconds)
    assert widget.state == "running"
    widget.stop()
    stopped = time.perf_counter()
    assert widget.wait(30) is None
    print(f"stop to stopped {time.perf_counter() - stopped:.3f} s, ", end="")
    print(f"{len(steps)} steps, longest gap {max(np.diff(steps)):.3f} s")
    assert widget.state == "stopped"


@pytest.mark.slow
def test_best_fit_is_drawn_while_it_is_refined(pattern):
    widget = SolveWidget(pattern, "LaB6", **KNOWN, candidates=1, engine="builtin")
    drawn = []
    widget.observe(lambda change: drawn.append(change["new"]), "view")
    widget.run(block=True)
    words = [view["words"] for view in drawn]
    assert words.count("best fit so far") >= 2
    residuals = [
        np.abs(floats(view["observed"]) - floats(view["fits"][0]["calculated"])).sum()
        for view in drawn[1:]
    ]
    assert residuals[-1] < residuals[0]
    assert "R_wp" in widget.answer["best"]


@pytest.mark.parametrize(
    ("field", "text", "said"),
    [
        ("formula", "Ti02", "write TiO2?"),
        ("formula", "", "formula '' is empty"),
        ("formula", "Ti, Xx", "'Xx'"),
        ("formula", "Ti-O2", "'Ti-O2'"),
        ("formula", "O2-", "charge"),
        ("contents", "Xx2", "Xx"),
        ("cell", "4 4 4", "is not 6 numbers"),
        ("cell", "4 4 4 90 90 190", "enclose no volume"),
        ("space_group", "P99", "P99"),
        ("phases", "Al2O3, none.cif", "there is no file none.cif"),
        ("wavelength", "Cx", "radiation 'Cx' is not known"),
        ("wavelength", "0.15406", "looks like nm"),
        ("size", "2", "outside 5–1000 Å"),
        ("size", "small", "'small' is not a size in Å; type a number such as 30"),
        ("weights", "none.such", "there are no weights none.such"),
        ("weights", "pairs_mp20", "hold pretrain, by which no source draws"),
    ],
)
def test_what_is_typed_is_checked_as_it_is_typed(pattern, field, text, said):
    widget = SolveWidget(pattern, "LaB6", **KNOWN)
    setattr(widget, field, "5")
    setattr(widget, field, text)
    assert said in widget.errors[field]
    with pytest.raises(ValueError, match=re.escape(widget.errors[field])):
        widget.run()
    setattr(widget, field, {"formula": "LaB6"}.get(field, ""))
    assert widget.errors == {}


def test_steps_and_guidance_that_cannot_be_are_explained_and_leave_those_before(pattern):
    widget = SolveWidget(pattern, "LaB6", **KNOWN)
    widget.steps, widget.guidance = 20, 1.5
    widget.steps, widget.guidance = 1, -2.0
    assert widget.errors["steps"] == "1 steps are asked for; give 2 to 1,000"
    assert widget.errors["guidance"].startswith("a guidance of -2 is asked for; give 0")
    with pytest.raises(ValueError, match="steps are asked for"):
        widget.run()
    widget.steps, widget.guidance = 20, 1.5
    assert widget.errors == {}


@pytest.mark.slow
def test_steps_are_tuned_while_a_flow_draws(pattern, tmp_path):
    torch.manual_seed(0)
    size = Size(atom=16, edge=8, layers=1, waves=4, pattern=32, heads=2, attention=8)
    path = tmp_path / "flow.safetensors"
    save_network(path, PatternNet(size).eval(), "flow", {"atoms": 7, "elements": [5, 57]})
    asked = {"weights": str(path), "sources": [], "steps": 1000, "contents": "La B6"}
    widget = SolveWidget(pattern, "LaB6", cell=CELL, **asked)
    told, seen = widget._job.told, []

    def counted(now):
        seen.append(now.stage)
        if seen.count("flow") == 10:
            widget.steps = 2
        return told(now)

    widget._job.told = counted
    widget.run(block=True)
    assert 10 < seen.count("flow") < 500  # each candidate is told of as well
    assert widget.solution.settings["weights"] == str(path)


def test_weights_of_any_source_are_asked_beside_the_sources_that_are_ticked(
    pattern, tmp_path
):
    path = tmp_path / "latent.safetensors"
    save_network(path, new_network("latent", None), "latent", {})
    widget = SolveWidget(pattern, "La0.9B6", weights=str(path), sources=[], cell=CELL)
    widget.run(block=True)  # of a formula with fractions nothing is drawn
    assert widget.solution.settings["sources"] == ("latent_search",)


@pytest.mark.parametrize("text", ["Ti-O", "Ti – O", "Ti, O,", "Ti;O ", "Ti−O"])
def test_elements_may_be_typed_with_any_dash_or_comma(text):
    assert typed.composition(text) == {"elements": ("Ti", "O")}
    assert typed.composition("TiO2") == {"formula": "TiO2"}
    assert typed.composition("CuSO4·5H2O") == {"formula": "CuSO4·5H2O"}


@pytest.mark.slow
@pytest.mark.parametrize("typed_", ["La-B", " B , La"])
def test_elements_that_are_typed_are_enough(pattern, typed_):
    widget = SolveWidget(pattern, typed_, cell=CELL)
    solution = widget.run(block=True)
    assert solution.fits[0].structure.composition.reduced_formula == "LaB6"
    assert solution.settings["sources"] == DEFAULT  # all, in the same order as solve


def test_run_without_a_pattern_says_so():
    widget = SolveWidget(formula="LaB6")
    tell(widget, kind="run")
    assert widget.message == "there is no pattern; choose or drop a file"
    assert widget.state == "idle"


def test_file_without_a_wavelength_is_read_once_one_is_typed(pattern):
    rows = np.column_stack([pattern.two_theta, pattern.intensity]).tolist()
    text = "\n".join(f"{x:.3f} {y:.0f}" for x, y in rows).encode()
    widget = SolveWidget()
    tell(widget, text, kind="file", name="measured.xy", size=len(text))
    assert "measured.xy does not say its wavelength" in widget.errors["file"]
    widget.wavelength = "CuKa"
    assert widget.errors == {}
    assert widget.chosen == "measured: 10.00–90.00° 2θ, 4001 points, CuKa 1.54059 Å"
    np.testing.assert_array_equal(widget.pattern.intensity, pattern.intensity)


def test_input_that_contradicts_itself_is_refused_before_a_run_starts(pattern):
    widget = SolveWidget(pattern, "LaB6", **{**KNOWN, "space_group": "194"})
    with pytest.raises(ValueError, match="cubic cell cannot have"):
        widget.run()
    tell(widget, kind="run")
    assert "cubic cell cannot have" in widget.message
    assert widget.state == "idle"


def test_what_goes_wrong_in_a_run_is_said_and_raised_only_when_it_blocks(pattern):
    widget = SolveWidget(pattern, "LaB6", **KNOWN, phases="Ag7Te9")
    widget.run()
    widget.wait(30)
    assert widget.state == "failed"
    assert "Ag7Te9" in widget.message
    with pytest.raises(ValueError, match="Ag7Te9"):
        widget.run(block=True)


def test_words_on_progress_come_at_most_ten_times_a_second_and_at_every_new_part():
    moments = iter(np.arange(0, 100, 0.01))
    pace = Pace(clock=lambda: next(moments))
    said = [pace.due(Progress("templates", done, 100)) for done in range(100)]
    assert sum(said) == 10
    assert pace.due(Progress("refine", 1, 3))
    assert pace.words(Progress("refine", 1, 3))["left"] == -1  # too early to tell
    for _ in range(57):
        next(moments)
    now = Progress("refine", 2, 3)
    assert pace.due(now)
    assert pace.words(now)["left"] == pytest.approx(0.3)
    assert pace.words(Progress("refine", 0, 3))["left"] == -1


# CandidatesWidget


def test_table_holds_what_the_fits_hold(solution, pattern):
    widget = CandidatesWidget(solution, pattern=pattern)
    assert [row["rank"] for row in widget.rows] == list(range(1, len(solution.fits) + 1))
    row, structure = widget.rows[0], solution.fits[0].structure
    assert row["volume"] == pytest.approx(structure.volume, abs=0.01)
    assert row["density"] == pytest.approx(4.71, abs=0.02)  # LaB6, g/cm³
    assert row["r_wp"] is None
    assert row["determined"]


def test_overlay_is_on_the_scale_of_the_measurement(solution, pattern):
    widget = CandidatesWidget(solution, pattern=pattern)
    calculated = floats(widget.overlays["1"]["calculated"])
    assert len(calculated) == len(floats(widget.view["x"]))
    assert calculated.max() == pytest.approx(pattern.intensity.max(), rel=0.15)


def test_overlays_are_calculated_when_they_are_asked_for_and_three_at_most(solution):
    widget = CandidatesWidget(solution)
    assert list(widget.overlays) == ["1"]
    widget.shown = [1, 2, 77]
    assert widget.shown == [1, 2]
    assert sorted(widget.overlays) == ["1", "2"]


def test_choice_is_a_fit_of_the_solution(solution):
    widget = CandidatesWidget(solution)
    assert widget.fit is None
    widget.chosen = 2
    assert widget.fit is solution.fits[1]
    with pytest.raises(TraitError, match="there is no structure 99"):
        widget.chosen = 99


def test_everything_that_can_be_written_is_written(solution, pattern, tmp_path):
    folder = tmp_path / "results"
    widget = CandidatesWidget(solution, pattern=pattern, folder=str(folder), chosen=2)
    widget.notes = {"2": 'a "copy", of 1', "1": ""}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        for what in ("cif", "csv", "html", "topas", "fullprof"):
            tell(widget, kind="export", what=what)
            assert widget.errors == {}
            assert widget.message.startswith("written: ")
    assert read_cif(str(folder / "lab6_02.cif")).composition.reduced_formula == "LaB6"
    assert (folder / "lab6_notes.csv").read_text() == 'rank,note\n2,"a ""copy"", of 1"\n'
    assert (folder / "lab6.html").stat().st_size > 10_000
    assert (folder / "lab6_02_topas.inp").is_file()


def test_file_that_exists_is_replaced_only_where_that_is_ticked(solution, tmp_path):
    (tmp_path / "lab6.csv").write_text("mine")
    widget = CandidatesWidget(solution, folder=str(tmp_path))
    tell(widget, kind="export", what="csv")
    assert "lab6.csv exists already; tick 'replace files'" in widget.errors["export"]
    assert (tmp_path / "lab6.csv").read_text() == "mine"
    widget.replace = True
    tell(widget, kind="export", what="csv")
    assert "written" in widget.message
    assert (tmp_path / "lab6.csv").read_text() != "mine"


def test_what_cannot_be_written_is_explained(solution, tmp_path):
    widget = CandidatesWidget(solution, folder=str(tmp_path))
    tell(widget, kind="export", what="topas")
    assert (
        "'topas' cannot be written; choose from cif, csv, html" in widget.errors["export"]
    )
    (tmp_path / "file").write_text("")
    widget.folder = str(tmp_path / "file")
    tell(widget, kind="export", what="cif")
    assert "is a file; give a folder" in widget.errors["export"]


def test_table_of_two_hundred_has_all_its_rows_at_once(solution, pattern):
    many = replace(solution, fits=100 * solution.fits, groups=())
    widget = CandidatesWidget(many, pattern=pattern)
    assert len(widget.rows) == 200
    expected = float(solution.fits[0].structure.density)  # pymatgen's
    assert widget.rows[0]["density"] == pytest.approx(expected, abs=6e-4)


def test_solution_without_structures_is_shown_as_such(solution):
    empty = replace(solution, fits=(), groups=(), verdict="none", confidence=0.0)
    widget = CandidatesWidget(empty)
    assert (widget.rows, widget.view) == ([], {})
    with pytest.raises(ValueError, match="no structure was found"):
        widget.export("cif")


# RefineWidget


def rutile(**changes) -> Structure:
    cell = Lattice.tetragonal(changes.get("a", 4.60), 2.96)
    sites = [[0, 0, 0], [0.305, 0.305, 0]]
    return Structure.from_spacegroup("P4_2/mnm", cell, ["Ti", "O"], sites)


@pytest.fixture(scope="module")
def measured() -> Pattern:
    return xrdkit.read(xrdkit.examples.path("rutile"))


@pytest.fixture(scope="module")
def refined(measured) -> Fit:
    return RefineWidget(measured, rutile()).run(block=True)


def row_of(widget: RefineWidget, name: str) -> dict:
    return next(row for row in widget.rows if row["name"] == name)


def test_structure_is_scaled_to_the_pattern_before_anything_is_run(measured):
    widget = RefineWidget(measured, rutile())
    assert widget.state == "idle"
    assert widget.history == ["start · R_wp 15.73 %"]
    calculated = floats(widget.view["fits"][0]["calculated"])
    assert calculated.max() == pytest.approx(measured.intensity.max(), rel=0.5)
    assert set(widget.table.free) >= {"scale", "background:0"}


@pytest.mark.slow
def test_refinement_in_stages_is_that_of_the_library_and_draws_every_cycle(measured):
    widget = RefineWidget(measured, rutile())
    drawn, told = [], []
    widget.observe(lambda change: drawn.append(widget.state), "view")
    widget.observe(lambda change: told.append(change["new"]), "progress")
    fit = widget.run(block=True)
    theirs = refine(measured, rutile())
    assert fit.r_wp == pytest.approx(theirs.r_wp, abs=1e-6)
    assert widget.fit is fit
    assert widget.figures["R_wp"] == f"{theirs.r_wp:.2f} %"
    assert len(drawn) > 30
    assert told[-1]["message"].startswith("R_wp ")
    a = fit.table["a"]
    row = row_of(widget, "a")
    assert float(row["value"]) == pytest.approx(a.value, abs=a.esd)
    assert float(row["esd"]) == pytest.approx(a.esd, rel=0.1)


def test_what_symmetry_ties_is_not_in_the_table_and_groups_are_named(measured, refined):
    widget = RefineWidget(measured, refined)
    names = [row["name"] for row in widget.rows]
    assert "b" not in names
    assert "y:O1" not in names
    groups = {row["name"]: row["group"] for row in widget.rows}
    assert groups["background:0"] == "background"
    assert groups["W"] == "instrument and sample"
    assert groups["c"] == "TiO2"
    assert groups["u:O1"] == "TiO2: atoms"


def test_edited_value_is_drawn_at_once_and_a_run_refines_exactly_what_is_marked(
    measured, refined
):
    widget = RefineWidget(measured, refined)
    before = widget.view
    tell(widget, kind="edit", name="a", key="value", text="4.61")
    assert widget.table["a"].value == 4.61
    assert widget.fit.r_wp > refined.r_wp + 5
    assert widget.view != before
    tell(widget, kind="mark", names=list(widget.table.names), refine=False)
    tell(widget, kind="mark", names=["a"], refine=True)
    assert widget.table.free == ("a",)
    fit = widget.run(marked=True, block=True)
    assert fit.table["a"].value == pytest.approx(refined.table["a"].value, abs=2e-4)
    assert fit.table["c"].value == refined.table["c"].value
    assert fit.n_parameters == 1


def test_changes_and_runs_are_undone_and_done_again(measured, refined):
    widget = RefineWidget(measured, refined)
    widget.edit("u:*", refine=False)
    tell(widget, kind="edit", name="zero", key="value", text="0,05")
    assert [note.split(" · ")[0] for note in widget.history] == [
        "start",
        "u:*: refine False",
        "zero: value 0.05",
    ]
    widget.undo()
    assert widget.table["zero"].value == 0
    assert not widget.table["u:O1"].refine
    tell(widget, kind="go", place=2)
    assert widget.table["zero"].value == 0.05
    tell(widget, kind="go", place=0)
    assert widget.fit is refined
    widget.edit("zero", refine=True)
    assert len(widget.history) == 2
    widget.undo()
    with pytest.raises(ValueError, match="there is nothing to undo"):
        widget.undo()


@pytest.mark.parametrize(
    ("name", "key", "text", "said"),
    [
        ("a", "value", "wide", "'wide' is not a number; write for example 0.25"),
        ("x:O1", "tie", "z:Q", "there is no parameter 'z:Q'"),
        ("x:O1", "tie", "2 x y", "is not a sum of numbers and names"),
        ("a", "low", "9", "limits 9–5.06 of a are empty"),
        ("a", "restraint", "4.6", "is not a value and its standard deviation"),
        ("a", "restraint", "4.6 ± 0", "a positive standard deviation"),
        ("q", "value", "1", "there is no parameter 'q'"),
        ("a", "tie", "+c" * 200, "tie of 400 characters; at most 200 are read"),
    ],
)
def test_wrong_entry_is_explained_and_changes_nothing(
    measured, refined, name, key, text, said
):
    widget = RefineWidget(measured, refined)
    tell(widget, kind="edit", name=name, key=key, text=text)
    assert said in widget.message
    assert list(widget.errors) == [f"{name} {key}"]
    assert widget.table is refined.table
    tell(widget, kind="edit", name="zero", key="refine", text=True)
    assert (widget.message, widget.errors) == ("", {})


def test_tie_limits_and_restraint_are_taken_from_what_is_typed(measured, refined):
    widget = RefineWidget(measured, refined)
    tell(widget, kind="edit", name="u:O1", key="tie", text="2*u:Ti1")
    tell(widget, kind="edit", name="c", key="restraint", text="2.96 ± 0.01")
    tell(widget, kind="edit", name="a", key="high", text="")
    assert widget.message == ""
    table = widget.table
    assert table["u:O1"].value == pytest.approx(2 * table["u:Ti1"].value)
    assert not table["u:O1"].refine
    assert row_of(widget, "c")["restraint"] == "2.96 ± 0.01"
    assert table["a"].high == np.inf
    assert row_of(widget, "a")["high"] == ""


def test_stopped_refinement_keeps_what_was_reached_and_nothing_changes_meanwhile(measured):
    widget = RefineWidget(measured, rutile())
    reached = threading.Event()
    widget.observe(lambda change: reached.set(), "rows")
    widget.run()
    tell(widget, kind="edit", name="zero", key="value", text="1")
    assert "a run is going on in this widget" in widget.message
    assert reached.wait(30)
    widget.stop()
    widget.wait(30)
    assert widget.state == "stopped"
    assert widget.history[-1].startswith("in stages, stopped · R_wp")
    assert widget.fit.table is not None
    tell(widget, kind="run", marked=True)
    assert widget.wait(60).r_wp < 15


@pytest.mark.parametrize(
    ("stage", "kept"),
    [("scale and background", "start · R_wp"), ("texture", "in stages, stopped · R_wp")],
)
def test_refinement_that_is_stopped_between_trials_keeps_its_last_cycle(
    measured, stage, kept
):
    widget = RefineWidget(measured, rutile())
    start = widget.fit.r_wp

    def stop(change: dict) -> None:
        if change["new"].get("stage") == stage:
            widget.stop()

    widget.observe(stop, "progress")
    assert widget.run(block=True) is None
    assert widget.state == "stopped"
    assert widget.history[-1].startswith(kept)
    assert widget.fit.r_wp <= start


def test_refined_structure_is_written_once(measured, refined, tmp_path):
    widget = RefineWidget(measured, refined, file=str(tmp_path / "rutile.cif"))
    tell(widget, kind="export")
    assert widget.said.endswith("rutile.cif")
    assert read_cif(widget.file).lattice.a == pytest.approx(4.5937, abs=1e-3)
    tell(widget, kind="export")
    assert "exists already; tick 'replace file'" in widget.message
    widget.replace = True
    tell(widget, kind="export")
    assert widget.message == ""


def test_structure_that_cannot_be_refined_is_refused_at_once(measured):
    with pytest.raises(FileNotFoundError, match=r"none\.cif"):
        RefineWidget(measured, "none.cif")
    with pytest.raises(ValueError, match="prepared"):
        RefineWidget(prepare(measured), rutile())


# TrajectoryWidget


def path_to(end: Structure, count: int) -> list[Structure]:
    """Structures on a straight way from a strained, displaced copy to the end."""
    off = np.random.default_rng(0).uniform(-0.2, 0.2, (len(end), 3))
    strain = np.array([[0.2, 0.1, 0], [0, -0.1, 0], [0, 0, 0.3]])
    frames = []
    for t in np.linspace(1, 0, count):
        lattice = Lattice(end.lattice.matrix @ (np.eye(3) + t * strain))
        frames.append(Structure(lattice, end.species, end.frac_coords + t * off))
    return frames


def test_atoms_and_cells_of_every_frame_are_sent_as_they_are():
    frames = path_to(rutile(), 7)
    path = TrajectoryWidget(frames).path
    assert path["frames"] == 7
    lattice = floats(path["lattice"]).reshape(7, 3, 3)
    np.testing.assert_allclose(lattice[2], frames[2].lattice.matrix, rtol=1e-6)
    frac = floats(path["frac"]).reshape(7, 6, 3)
    np.testing.assert_allclose(frac[2], frames[2].frac_coords % 1, atol=1e-6)
    kinds = np.frombuffer(path["kinds"], "u1").reshape(7, 6)
    assert [path["elements"][k]["symbol"] for k in kinds[0]] == ["Ti"] * 2 + ["O"] * 4


def test_frames_may_differ_in_their_number_of_atoms():
    widget = TrajectoryWidget([rutile(), STRUCTURES["NaCl"], rutile()])
    counts = np.frombuffer(widget.path["counts"], "<u4")
    assert counts.tolist() == [6, len(STRUCTURES["NaCl"]), 6]
    widget.frame = 1
    assert widget.structure.composition.reduced_formula == "NaCl"


def test_curves_are_those_of_pymatgen():
    frames = path_to(rutile(), 5)
    widget = TrajectoryWidget(frames)
    lines = {line["name"]: line["values"] for c in widget.curves for line in c["lines"]}
    cells = np.array([frame.lattice.parameters for frame in frames]).T
    for name, values in zip("abcαβγ", cells, strict=True):
        np.testing.assert_allclose(floats(lines[name]), values, rtol=1e-5)
    np.testing.assert_allclose(floats(lines["V"]), [f.volume for f in frames], rtol=1e-5)


def test_residual_falls_to_that_of_the_right_structure_and_rmse_to_zero(measured):
    end = rutile(a=4.594)
    frames = [STRUCTURES["NaCl"], *path_to(end, 8)]
    widget = TrajectoryWidget(frames, pattern=measured, reference=end)
    residual = floats(widget.curves[-2]["lines"][0]["values"])
    assert widget.curves[-2]["title"] == "profile residual"
    assert residual[1] > 0.7
    assert residual[-1] < 0.3
    rmse = floats(widget.curves[-1]["lines"][0]["values"])
    assert np.isnan(rmse[0])  # no match
    assert rmse[1] > 0.2
    assert rmse[-1] == pytest.approx(0, abs=1e-5)
    points = len(floats(widget.view["x"]))
    assert len(floats(widget.view["all"])) == 9 * points


def test_steps_of_a_refinement_bring_their_own_patterns(measured):
    widget = TrajectoryWidget(refine_steps(measured, rutile()))
    assert widget.curves[-1]["title"] == "R_wp (%)"
    r_wp = floats(widget.curves[-1]["lines"][0]["values"])
    assert r_wp[-1] == pytest.approx(5.03, abs=0.02)
    assert r_wp[-1] < r_wp[0]
    assert widget.path["frames"] == len(r_wp)


def test_one_of_several_crystals_in_a_step_is_shown():
    batch = from_structures([rutile(), STRUCTURES["NaCl"]])
    assert TrajectoryWidget([batch, batch], which=1).structure.formula == "Na4 Cl4"
    with pytest.raises(ValueError, match="there is no crystal 2; a step has 2"):
        TrajectoryWidget([batch], which=2)


def test_two_hundred_frames_of_twenty_atoms_with_patterns_are_below_two_megabytes(measured):
    end = rutile() * (2, 2, 1)
    widget = TrajectoryWidget(path_to(end, 200), pattern=measured)
    assert len(end) == 24
    assert 1e6 < widget.sent < 2e6


@pytest.mark.parametrize(
    ("frames", "said"),
    [
        ([], "the trajectory is empty"),
        ([Progress("refine", 1, 3, 0.2)], "the trajectory is empty"),
        (["rutile.cif"], "a str is no step of a trajectory"),
        (5001 * [rutile()], "more than 5000 steps"),
    ],
)
def test_what_is_no_trajectory_is_refused(frames, said):
    with pytest.raises(ValueError, match=said):
        TrajectoryWidget(frames)


def test_frame_and_supercell_stay_within_what_there_is():
    widget = TrajectoryWidget(path_to(rutile(), 3))
    with pytest.raises(TraitError, match="there is no frame 3; give 0 to 2"):
        widget.frame = 3
    with pytest.raises(TraitError, match="is not three numbers from 1 to 4"):
        widget.supercell = [1, 1, 9]
