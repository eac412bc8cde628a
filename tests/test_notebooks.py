"""The notebooks as course material: form, index, and two that papermill runs."""

import re
from pathlib import Path

import nbformat
import pytest

FOLDER = Path(__file__).parents[1] / "notebooks"
COURSE = sorted(FOLDER.glob("[0-9]*.ipynb"))
LINES, MEGABYTE = 15, 1_000_000


def read(path):
    return nbformat.read(path, as_version=4)


def code(path):
    return [cell.source for cell in read(path).cells if cell.cell_type == "code"]


def prose(path):
    text = [cell.source for cell in read(path).cells if cell.cell_type == "markdown"]
    return "\n".join(text)


@pytest.mark.parametrize("path", COURSE, ids=lambda path: path.stem)
def test_cells_are_short_and_one_checks_what_comes_out(path):
    cells = code(path)
    assert max(len(cell.splitlines()) for cell in cells) <= LINES
    assert any("assert " in cell for cell in cells)
    assert all(cell.get("outputs") in (None, []) for cell in read(path).cells)


@pytest.mark.parametrize("path", COURSE, ids=lambda path: path.stem)
def test_a_notebook_asks_shows_and_says_what_fails(path):
    text = prose(path)
    assert "**The question.**" in text
    assert "## Change this and run again" in text
    assert "what fails" in text.lower()
    assert "../shared" not in "\n".join(code(path))


@pytest.mark.parametrize("path", COURSE, ids=lambda path: path.stem)
def test_links_lead_to_notebooks_that_are_there(path):
    for target in re.findall(r"\]\(([\w.]+\.ipynb)\)", prose(path)):
        assert (FOLDER / target).is_file(), target


def test_the_index_lists_every_notebook_in_order():
    text = (FOLDER / "README.md").read_text(encoding="utf-8")
    listed = re.findall(r"^\| \[\w+\]\((\w+)\.ipynb\)", text, re.M)
    assert listed == [path.stem for path in COURSE]


def test_the_parameters_of_the_batch_are_tagged():
    tagged = [
        cell.source
        for cell in read(FOLDER / "20_batch.ipynb").cells
        if "parameters" in cell.metadata.get("tags", ())
    ]
    assert len(tagged) == 1
    assert re.findall(r"^(\w+) =", tagged[0], re.M) == ["table", "folder", "workers"]


@pytest.fixture
def papermill(monkeypatch):
    """papermill's run, as from the command line but without the state of widgets."""
    from papermill import execute_notebook

    monkeypatch.setenv("PYDEVD_DISABLE_FILE_VALIDATION", "1")
    where = [str(FOLDER.parent), str(FOLDER.parent / "widgets")]
    monkeypatch.setenv("PYTHONPATH", ":".join(where))

    def run(name, output, **parameters):
        execute_notebook(
            str(FOLDER / name),
            str(output),
            parameters,
            progress_bar=False,
            store_widget_state=False,
            kernel_name="python3",
        )
        return output

    return run


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of papermill and its kernel
def test_papermill_runs_the_quickstart(papermill, tmp_path):
    done = papermill("00_quickstart.ipynb", tmp_path / "done.ipynb")
    assert "confident" in done.read_text(encoding="utf-8")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of papermill and its kernel
def test_papermill_runs_a_table_of_its_own_through_the_batch(papermill, tmp_path):
    table = tmp_path / "samples.csv"
    table.write_text("pattern,formula,sources\nexample:lab6,LaB6,templates\n")
    results = tmp_path / "results"
    done = papermill(
        "20_batch.ipynb", tmp_path / "done.ipynb", table=str(table), folder=str(results)
    )
    assert done.stat().st_size < MEGABYTE
    assert (results / "lab6" / "lab6.html").is_file()
    assert "lab6" in (results / "summary.csv").read_text(encoding="utf-8")
