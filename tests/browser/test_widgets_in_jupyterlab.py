"""Every widget in a real JupyterLab: drawn, used, and used again after reopening."""

import importlib.util
import os
import re
import shutil
from pathlib import Path

import pytest

from xrdkit.crystal import read_cif
from xrdkit.examples import path

pytestmark = pytest.mark.slow
sync_api = pytest.importorskip("playwright.sync_api", reason="needs playwright")
if importlib.util.find_spec("jupyterlab") is None:
    pytest.skip("needs jupyterlab", allow_module_level=True)
lab = pytest.importorskip("lab")
if lab.chromium() is None:
    pytest.skip("needs chromium", allow_module_level=True)

START, PATTERN, AGAIN, SOLVE, CANDIDATES, REFINE, REFINE_AGAIN = range(7)
TRAJECTORY, TRAJECTORY_AGAIN, REFINE_LONG, ASK = range(7, 11)
DRAWN = {
    PATTERN: "pattern",
    SOLVE: "solve",
    CANDIDATES: "candidates",
    REFINE: "refine",
    TRAJECTORY: "trajectory",
}
FRAMES = 200
TALL = 1800  # px, of a window that shows a whole widget
CELLS = [
    "import xrdkit\n"
    "import numpy as np\n"
    "from pymatgen.core import Lattice, Structure\n"
    "from xrdkit_widgets import *\n"
    "pattern = xrdkit.read(xrdkit.examples.path('lab6'))\n"
    "known = dict(cell=(4.157, 4.157, 4.157, 90, 90, 90), space_group=221)\n"
    "known |= dict(sources='templates', progress=False)\n"
    "solution = xrdkit.solve(pattern, 'LaB6', **known)",
    "looked = PatternWidget(pattern)\nlooked",
    "looked",
    "solver = SolveWidget(cell='4.157 4.157 4.157 90 90 90', space_group='221', "
    "sources=['templates'])\nsolver",
    "table = CandidatesWidget(solution, pattern=pattern)\ntable",
    "sites = [[0, 0, 0], [0.305, 0.305, 0]]\n"
    "cell = Lattice.tetragonal(4.60, 2.96)\n"
    "rutile = Structure.from_spacegroup('P4_2/mnm', cell, ['Ti', 'O'], sites)\n"
    "titania = xrdkit.read(xrdkit.examples.path('rutile'))\n"
    "refiner = RefineWidget(titania, rutile)\nrefiner",
    "refiner",
    "end = rutile * (2, 2, 1)\n"
    "off = np.random.default_rng(0).uniform(-0.2, 0.2, (len(end), 3))\n"
    "strain = np.array([[0.2, 0.1, 0], [0, -0.1, 0], [0, 0, 0.3]])\n"
    "frames = [Structure(end.lattice.matrix @ (np.eye(3) + t * strain), end.species, "
    f"end.frac_coords + t * off) for t in np.linspace(1, 0, {FRAMES})]\n"
    "played = TrajectoryWidget(frames, pattern=titania)\nplayed",
    "played",
    "large = (rutile * (2, 2, 1)).perturb(0.02, seed=0)  # long to refine: 24 free atoms\n"
    "long = RefineWidget(titania, large)\nlong",
    "print('excluded', looked.excluded, looked.prepared and len(looked.prepared), '|', "
    "solver.state, bool(solver.solution), '|', table.chosen, table.notes, '|', "
    "refiner.state, refiner.place, refiner.fit.r_wp, '|', played.frame, played.sent, '|', "
    "'long', long.state, long.place)",
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("lab")
    (folder / "widgets.ipynb").write_text(lab.notebook(CELLS))
    shutil.copy(path("lab6"), folder / "measured.xy")
    (folder / "wrong.xy").write_text("this is no pattern\n")
    return folder


@pytest.fixture(scope="module")
def page(folder):
    with lab.server(folder) as address, sync_api.sync_playwright() as browsers:
        browser = browsers.chromium.launch(
            executable_path=lab.chromium(), args=lab.ARGUMENTS
        )
        page = browser.new_page(viewport={"width": 1100, "height": 900})
        page.set_default_timeout(150_000)
        page.noted = lab.watch(page)
        page.goto(f"{address}/lab/tree/widgets.ipynb")
        page.wait_for_selector(".jp-Notebook .jp-Cell")
        page.wait_for_function(
            "window.jupyterapp.shell.currentWidget?.sessionContext?.isReady"
        )
        for index in range(len(CELLS)):
            lab.run_cell(page, index)
        yield page
        browser.close()


def output(page, index: int):
    """The output of a cell."""
    return page.locator(".jp-Notebook .jp-Cell").nth(index).locator(".jp-OutputArea")


def picture(page, index: int, name: str) -> None:
    """A screenshot of an output, kept where XRDKIT_SCREENSHOTS says."""
    folder = os.environ.get("XRDKIT_SCREENSHOTS")
    if folder:
        size = page.viewport_size
        page.set_viewport_size({**size, "height": TALL})
        page.wait_for_timeout(500)
        output(page, index).screenshot(path=Path(folder) / f"{name}.png")
        page.set_viewport_size(size)


def asked(page) -> str:
    """What the last cell prints of the widgets' traits."""
    lab.run_cell(page, ASK)
    return output(page, ASK).inner_text()


def test_pattern_is_drawn_in_both_copies_and_a_range_left_out_reaches_the_kernel(page):
    plot = output(page, PATTERN).locator("canvas")
    again = output(page, AGAIN)
    lab.wait_drawn(plot)
    lab.wait_drawn(again.locator("canvas"))
    picture(page, PATTERN, "pattern")
    output(page, PATTERN).get_by_role("button", name="leave out", exact=True).click()
    box = plot.bounding_box()
    plot.scroll_into_view_if_needed()
    plot.drag_to(
        plot,
        source_position={"x": 0.5 * box["width"], "y": 80},
        target_position={"x": 0.6 * box["width"], "y": 90},
    )
    again.get_by_role("button", name="take away").wait_for()
    assert "excluded [[" in asked(page)
    again.get_by_role("button", name="take away").click()
    again.get_by_role("button", name="take away").wait_for(state="detached")
    assert "excluded [] 4001" in asked(page)


def test_lines_of_a_typed_cell_are_drawn_and_a_wrong_one_is_explained(page):
    own = output(page, PATTERN)
    entry = own.get_by_label("cell or CIF file")
    entry.fill("4.157 4.157")
    entry.press("Enter")
    own.get_by_text("is not 6 numbers").wait_for()
    picture(page, PATTERN, "pattern_error")
    entry.fill("4.157 4.157 4.157 90 90 90")
    entry.press("Enter")
    own.get_by_role("button", name="take away cell").wait_for()
    own.get_by_text("is not 6 numbers").wait_for(state="hidden")
    own.get_by_label("axis").select_option("d")
    own.locator("canvas").focus()
    page.keyboard.press("ArrowUp")
    picture(page, PATTERN, "pattern_lines_d")
    own.get_by_label("axis").select_option("two_theta")


def test_wrong_file_and_wrong_formula_are_explained_and_the_widget_stays_usable(
    page, folder
):
    own = output(page, SOLVE)
    own.locator("input[type=file]").set_input_files(folder / "wrong.xy")
    own.get_by_text("wrong.xy").wait_for()
    own.get_by_label("formula").fill("LaB")
    own.get_by_label("formula").fill("LaXx6")
    own.get_by_text("formula 'LaXx6'").wait_for()
    picture(page, SOLVE, "solve_errors")
    own.get_by_role("button", name="Run").click()
    own.get_by_role("alert").filter(has_text="wrong.xy").wait_for()


def test_dropped_file_is_solved_while_the_kernel_stays_free(page, folder):
    own = output(page, SOLVE)
    own.locator("input[type=file]").set_input_files(folder / "measured.xy")
    own.get_by_text("measured: 10.00–90.00°").wait_for()
    own.get_by_label("formula").fill("LaB6")
    own.get_by_label("formula").press("Tab")
    own.get_by_role("button", name="Run").click()
    own.get_by_text("very probably right").wait_for()
    lab.wait_drawn(own.locator("canvas"), 5)
    assert "done True" in asked(page)
    picture(page, SOLVE, "solve_done")


def test_run_is_stopped(page):
    own = output(page, SOLVE)
    own.locator("summary").click()
    own.get_by_label("cell a b c").fill("")
    own.get_by_label("space group").fill("")
    own.get_by_label("space group").press("Tab")
    own.get_by_role("button", name="Run").click()
    own.get_by_text(re.compile(r"\d of \d")).first.wait_for()
    assert "running" in asked(page)
    picture(page, SOLVE, "solve_running")
    own.get_by_role("button", name="Stop").click()
    own.get_by_text("stopped", exact=True).wait_for()
    assert "stopped False" in asked(page)


def test_candidates_are_sorted_drawn_chosen_noted_and_written(page, folder):
    own = output(page, CANDIDATES)
    own.get_by_role("button", name="residual").click()
    own.get_by_role("button", name="residual").click()
    assert own.locator("tbody tr").first.locator("td").nth(2).inner_text() == "2"
    own.get_by_role("button", name="residual").click()
    assert own.locator("tbody tr").first.locator("td").nth(2).inner_text() == "1"
    own.get_by_label("draw structure 2").check()
    own.get_by_label("choose structure 2").check()
    own.get_by_label("note on structure 2").fill("boron on other sites")
    own.get_by_label("note on structure 2").press("Tab")
    own.get_by_role("button", name="CIF").click()
    own.get_by_text("written:").wait_for()
    picture(page, CANDIDATES, "candidates")
    assert (folder / "lab6_xrdkit" / "lab6_02.cif").is_file()
    own.get_by_role("button", name="CIF").click()
    own.get_by_text("exists already").wait_for()
    assert "| 2 {'2': 'boron on other sites'}" in asked(page)


def test_refinement_is_run_shared_and_written(page, folder):
    own, again = output(page, REFINE), output(page, REFINE_AGAIN)
    lab.wait_drawn(own.locator("canvas"), 4)
    own.get_by_role("button", name="Refine in stages").click()
    own.get_by_text("done in").wait_for()
    again.get_by_text("5.03 %", exact=True).wait_for()
    assert "done 1 5.02" in asked(page)
    picture(page, REFINE, "refine_done")
    own.get_by_role("button", name="write CIF").click()
    own.get_by_text("written: rutile_refined.cif").wait_for()
    assert (folder / "rutile_refined.cif").is_file()


def test_parameters_are_edited_marked_and_refused_where_they_are_wrong(page):
    own = output(page, REFINE)
    zero = own.get_by_label("value of zero", exact=True)
    zero.fill("0.08")
    zero.press("Enter")
    own.get_by_label("history", exact=True).filter(
        has_text="3. zero: value 0.08"
    ).wait_for()
    own.get_by_label("parameters by name or pattern").fill("background:*")
    own.get_by_role("button", name="fix these parameters").click()
    own.get_by_text("background · 0 of").wait_for()
    own.get_by_label("constraint of x:O1").fill("2 x y")
    own.get_by_label("constraint of x:O1").press("Tab")
    own.get_by_role("alert").filter(has_text="is not a sum of numbers and names").wait_for()
    assert own.get_by_label("constraint of x:O1").get_attribute("aria-invalid") == "true"
    picture(page, REFINE, "refine_wrong_entry")
    own.get_by_role("button", name="Undo").click()
    own.get_by_role("button", name="Undo").click()
    own.get_by_text("background · 0 of").wait_for(state="detached")
    own.get_by_role("alert").wait_for(state="hidden")
    assert "done 1 5.02" in asked(page)


def test_refinement_is_watched_and_stopped_and_keeps_what_it_reached(page):
    own = output(page, REFINE_LONG)
    own.get_by_role("button", name="Refine in stages").click()
    own.get_by_text("coordinates, ").wait_for()
    assert own.get_by_label("value of a", exact=True).is_disabled()
    picture(page, REFINE_LONG, "refine_running")
    own.get_by_role("button", name="Stop").click()
    own.get_by_text("stopped; what was reached is kept").wait_for()
    own.get_by_role("button", name="Refine what is marked").wait_for()
    assert "long stopped 1" in asked(page)


def test_trajectory_is_played_to_its_end_without_the_kernel(page):
    """Prints the CPU time of the page's main thread, with rendering by software."""
    own = output(page, TRAJECTORY)
    crystal = own.locator("canvas.crystal")
    lab.wait_drawn(crystal, 20)
    picture(page, TRAJECTORY, "trajectory")
    own.get_by_label("frames a second").select_option("60")
    crystal.focus()
    page.keyboard.press("Home")
    page.keyboard.press(" ")
    spent = list(milliseconds(page, own.locator(".place")))
    script = float(own.locator(".xrdkit").get_attribute("data-milliseconds"))
    print(f"{min(spent):.1f} ms of CPU a frame; the last one was drawn in {script:.1f} ms")
    assert f"| {FRAMES - 1} " in asked(page)
    assert int(asked(page).split()[-1]) < 2_000_000


def milliseconds(page, place):
    """CPU time a frame of each part of a play, until its end."""
    shown, used = 0, cpu(page)
    while shown < FRAMES:
        page.wait_for_timeout(500)
        now, then = int(place.inner_text().split()[0]), cpu(page)
        if now > shown:
            yield 1000 * (then - used) / (now - shown)
            shown, used = now, then


def cpu(page) -> float:
    """Seconds of CPU that the page's main thread has used."""
    if not hasattr(page, "metrics"):
        page.metrics = page.context.new_cdp_session(page)
        page.metrics.send("Performance.enable", {"timeDomain": "threadTicks"})
    told = page.metrics.send("Performance.getMetrics")["metrics"]
    return next(one["value"] for one in told if one["name"] == "TaskDuration")


def test_trajectory_is_scrubbed_stepped_turned_and_jumped_in(page):
    own = output(page, TRAJECTORY)
    crystal = own.locator("canvas.crystal")
    own.get_by_label("frame", exact=True).fill("60")
    own.get_by_text(f"61 of {FRAMES}").wait_for()
    output(page, TRAJECTORY_AGAIN).get_by_text(f"61 of {FRAMES}").wait_for()
    crystal.focus()
    page.keyboard.press("ArrowRight")
    own.get_by_text(f"62 of {FRAMES}").wait_for()
    still = crystal.screenshot()
    page.keyboard.press("Shift+ArrowRight")
    page.wait_for_timeout(200)
    assert crystal.screenshot() != still
    box = crystal.bounding_box()
    crystal.drag_to(
        crystal, source_position={"x": 60, "y": 90}, target_position={"x": 160, "y": 120}
    )
    own.get_by_role("button", name="look along c").click()
    picture(page, TRAJECTORY, "trajectory_along_c")
    curve = own.get_by_label("cell edges over the frames")
    width = curve.bounding_box()["width"]
    curve.click(position={"x": 46 + (width - 54) / 2, "y": 40})
    own.get_by_text(f"{FRAMES // 2} of {FRAMES}").or_(
        own.get_by_text(f"{FRAMES // 2 + 1} of {FRAMES}")
    ).wait_for()
    own.get_by_label("cells along c").fill("2")
    own.get_by_label("cells along c").press("Tab")
    page.wait_for_timeout(300)
    picture(page, TRAJECTORY, "trajectory_supercell")
    assert box["height"] > 200


def test_frame_is_saved_as_cif_and_png(page, tmp_path):
    own = output(page, TRAJECTORY)
    crystal = own.locator("canvas.crystal")
    crystal.focus()
    page.keyboard.press("End")
    with page.expect_download() as cif:
        own.get_by_role("button", name="CIF").click()
    cif.value.save_as(tmp_path / "frame.cif")
    found = read_cif(str(tmp_path / "frame.cif"))
    assert found.composition.formula == "Ti8 O16"
    assert found.lattice.a == pytest.approx(9.2, abs=1e-4)
    with page.expect_download() as png:
        own.get_by_role("button", name="PNG").click()
    png.value.save_as(tmp_path / "frame.png")
    assert (tmp_path / "frame.png").read_bytes().startswith(b"\x89PNG")


def test_dark_theme_and_narrow_page(page):
    lab.command(page, "apputils:change-theme", {"theme": "JupyterLab Dark"})
    page.wait_for_selector("body[data-jp-theme-light=false]", state="attached")
    for index, name in DRAWN.items():
        picture(page, index, f"{name}_dark")
    lab.command(page, "application:toggle-left-area")
    page.set_viewport_size({"width": 600, "height": 900})
    for index, name in DRAWN.items():
        widget = output(page, index).locator(".xrdkit").first
        assert widget.evaluate("e => e.scrollWidth <= e.clientWidth + 1")
        picture(page, index, f"{name}_narrow")
    page.set_viewport_size({"width": 1100, "height": 900})


def test_saved_widgets_are_drawn_again_without_their_kernel(page, folder):
    page.evaluate("window.jupyterapp.shell.currentWidget.context.save()")
    assert "vnd.jupyter.widget-state+json" in (folder / "widgets.ipynb").read_text()
    fresh = reopened(page)
    for index, name in DRAWN.items():
        lab.wait_drawn(output(fresh, index).locator("canvas").first)
        picture(fresh, index, f"{name}_reopened")
    assert output(fresh, CANDIDATES).get_by_label("choose structure 2").is_checked()
    own = output(fresh, TRAJECTORY)
    own.locator("canvas.crystal").focus()
    fresh.keyboard.press("Home")
    own.get_by_text(f"1 of {FRAMES}").wait_for()
    fresh.keyboard.press(" ")
    own.get_by_text(f"{FRAMES} of {FRAMES}").wait_for()
    fresh.close()


def reopened(page):
    """The saved notebook in a page with a new kernel, which has no widgets.

    JupyterLab sometimes draws outputs before it has read the saved widgets, and then says
    "widget model not found" of every widget of any package: so it is opened up to five
    times.
    """
    for _ in range(5):
        page.evaluate("window.jupyterapp.serviceManager.sessions.shutdownAll()")
        fresh = page.context.browser.new_page(viewport={"width": 1100, "height": 900})
        fresh.goto(page.url)
        try:
            output(fresh, PATTERN).locator("canvas").wait_for(timeout=40_000)
            return fresh
        except sync_api.TimeoutError:
            fresh.close()
    pytest.fail("no widget was drawn again in five attempts")


def test_nothing_left_the_machine_and_no_error_was_logged(page):
    away, wrong = page.noted
    assert away == []
    assert wrong == []
