"""The app that Voilà makes of notebooks/app.ipynb: a pattern is dropped and solved."""

import importlib.util
import os
from pathlib import Path

import pytest

from xrdkit.examples import path

pytestmark = pytest.mark.slow
sync_api = pytest.importorskip("playwright.sync_api", reason="needs playwright")
if importlib.util.find_spec("voila") is None:
    pytest.skip("needs voila", allow_module_level=True)
lab = pytest.importorskip("lab")
if lab.chromium() is None:
    pytest.skip("needs chromium", allow_module_level=True)


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    folder = tmp_path_factory.mktemp("voila")
    served = lab.app(lab.ROOT / "notebooks" / "app.ipynb", folder)
    with served as address, sync_api.sync_playwright() as browsers:
        browser = browsers.chromium.launch(
            executable_path=lab.chromium(), args=lab.ARGUMENTS
        )
        page = browser.new_page(viewport={"width": 1100, "height": 900})
        page.set_default_timeout(150_000)
        page.noted = lab.watch(page)
        page.goto(address)
        page.get_by_role("button", name="Run").wait_for()
        yield page
        browser.close()


def picture(page, name: str) -> None:
    """A screenshot of the page, kept where XRDKIT_SCREENSHOTS says."""
    folder = os.environ.get("XRDKIT_SCREENSHOTS")
    if folder:
        page.wait_for_timeout(300)
        page.screenshot(path=Path(folder) / f"{name}.png", full_page=True)


def test_app_shows_the_widget_and_no_code(page):
    picture(page, "voila_start")
    assert page.get_by_role("heading", name="xrdkit").is_visible()
    assert page.get_by_text("SolveWidget").count() == 0


def test_dropped_pattern_is_solved_in_the_app(page):
    page.locator("input[type=file]").set_input_files(path("calcite"))
    page.get_by_text("calcite: ").wait_for()
    page.get_by_label("formula").fill("CaCO3")
    page.get_by_label("formula").press("Tab")
    page.get_by_role("button", name="Run").click()
    page.get_by_text("very probably right").wait_for()
    picture(page, "voila_solved")
    assert "R-3c" in page.locator(".verdict").inner_text()
    lab.wait_drawn(page.locator("canvas"), 5)


def test_nothing_left_the_machine_and_no_error_was_logged(page):
    away, wrong = page.noted
    assert away == []
    assert wrong == []
