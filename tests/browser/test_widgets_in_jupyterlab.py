"""Every widget in a real JupyterLab: drawn, used, and used again after reopening."""

import importlib.util
import os
import shutil
from pathlib import Path

import pytest

from xrdkit.examples import path

pytestmark = pytest.mark.slow
sync_api = pytest.importorskip("playwright.sync_api", reason="needs playwright")
if importlib.util.find_spec("jupyterlab") is None:
    pytest.skip("needs jupyterlab", allow_module_level=True)
lab = pytest.importorskip("lab")
if lab.chromium() is None:
    pytest.skip("needs chromium", allow_module_level=True)

START, PATTERN, AGAIN, SOLVE, CANDIDATES, ASK = range(6)
CELLS = [
    "import xrdkit\n"
    "from xrdkit_widgets import CandidatesWidget, PatternWidget, SolveWidget\n"
    "pattern = xrdkit.read(xrdkit.examples.path('lab6'))\n"
    "known = dict(cell=(4.157, 4.157, 4.157, 90, 90, 90), space_group=221)\n"
    "known |= dict(sources='templates', progress=False)\n"
    "solution = xrdkit.solve(pattern, 'LaB6', **known)",
    "looked = PatternWidget(pattern)\nlooked",
    "looked",
    "solver = SolveWidget(cell='4.157 4.157 4.157 90 90 90', space_group='221', "
    "sources=['templates'])\nsolver",
    "table = CandidatesWidget(solution, pattern=pattern)\ntable",
    "print('excluded', looked.excluded, looked.prepared and len(looked.prepared), '|', "
    "solver.state, bool(solver.solution), '|', table.chosen, table.notes)",
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
        page.set_default_timeout(60_000)
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
        page.wait_for_timeout(300)
        output(page, index).screenshot(path=Path(folder) / f"{name}.png")


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
    own.get_by_text("templates").filter(has_text="of").first.wait_for()
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
    own.get_by_label("draw structure 2").check()
    own.get_by_label("choose structure 2").check()
    own.get_by_label("note on structure 2").fill("copy of the first")
    own.get_by_label("note on structure 2").press("Tab")
    own.get_by_role("button", name="CIF").click()
    own.get_by_text("written:").wait_for()
    assert (folder / "lab6_xrdkit" / "lab6_02.cif").is_file()
    own.get_by_role("button", name="CIF").click()
    own.get_by_text("exists already").wait_for()
    assert "| 2 {'2': 'copy of the first'}" in asked(page)
    picture(page, CANDIDATES, "candidates")


def test_dark_theme_and_narrow_page(page):
    lab.command(page, "apputils:change-theme", {"theme": "JupyterLab Dark"})
    page.wait_for_selector("body[data-jp-theme-light=false]", state="attached")
    for index, name in ((PATTERN, "pattern"), (SOLVE, "solve"), (CANDIDATES, "candidates")):
        picture(page, index, f"{name}_dark")
    lab.command(page, "application:toggle-left-area")
    page.set_viewport_size({"width": 600, "height": 900})
    for index, name in ((PATTERN, "pattern"), (SOLVE, "solve"), (CANDIDATES, "candidates")):
        widget = output(page, index).locator(".xrdkit").first
        assert widget.evaluate("e => e.scrollWidth <= e.clientWidth + 1")
        picture(page, index, f"{name}_narrow")
    page.set_viewport_size({"width": 1100, "height": 900})


def test_saved_widgets_are_drawn_again_without_their_kernel(page, folder):
    page.evaluate("window.jupyterapp.shell.currentWidget.context.save()")
    assert "vnd.jupyter.widget-state+json" in (folder / "widgets.ipynb").read_text()
    fresh = reopened(page)
    for index, name in ((PATTERN, "pattern"), (SOLVE, "solve"), (CANDIDATES, "candidates")):
        lab.wait_drawn(output(fresh, index).locator("canvas"))
        picture(fresh, index, f"{name}_reopened")
    assert output(fresh, CANDIDATES).get_by_label("choose structure 2").is_checked()
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
            output(fresh, PATTERN).locator("canvas").wait_for(timeout=20_000)
            return fresh
        except sync_api.TimeoutError:
            fresh.close()
    pytest.fail("no widget was drawn again in five attempts")


def test_nothing_left_the_machine_and_no_error_was_logged(page):
    away, wrong = page.noted
    assert away == []
    assert wrong == []
