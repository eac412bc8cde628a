import csv
import os
import signal
import threading
import time

import pytest
from test_cli import library  # noqa: F401

import xrdkit.batch.run
from xrdkit.batch import COLUMNS, BadTable, batch, batch_steps, read_table
from xrdkit.batch.rows import done, key_of
from xrdkit.cli import main
from xrdkit.examples import path as example


def table(folder, *lines, name="table.csv"):
    path = folder / name
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


@pytest.fixture
def two(tmp_path, library):  # noqa: F811
    """Two samples of one pattern, the second with a formula that nothing fits."""
    (tmp_path / "rutile.xy").write_bytes(example("rutile").read_bytes())
    return table(
        tmp_path,
        "pattern,formula,wavelength,library,range,sources,candidates,name",
        f'rutile.xy,TiO2,CuKa,{library},"20,60",templates,1,',
        f'rutile.xy,NaCl,CuKa,{library},"20,60",templates,1,salt',
    )


def quiet(path, folder, **where):
    return batch(path, folder, progress=False, **where)


def left(folder):
    return sorted(path.name for path in folder.iterdir() if path.name != ".lock")


def test_every_column_is_read_in_the_words_of_solve(tmp_path):
    (tmp_path / "si.cif").write_text("")
    (tmp_path / "my.lib").write_text("")
    (tmp_path / "my.safetensors").write_text("")
    path = table(
        tmp_path,
        ";".join(name for name in COLUMNS if name != "elements"),
        'example:rutile;TiO2;one;"1.5406,1.5444";10,80;"20,21; 30,31";Ti2 O4;'
        '"4.59,4.59,2.96,90,90,90";136;50;"Al2O3; si.cif";yes;my.lib;"TiO2; SnO2";'
        'templates;"my.safetensors; flow_mp20";5;7;builtin',
    )
    (row,) = read_table(path)
    assert row.wavelength == (1.5406, 1.5444)
    assert row.range == (10, 80)
    assert row.exclude_range == ((20, 21), (30, 31))
    assert row.given == {
        "contents": "Ti2 O4",
        "cell": (4.59, 4.59, 2.96, 90, 90, 90),
        "space_group": 136,
        "size": 50,
        "phases": ("Al2O3", (tmp_path / "si.cif").resolve()),
        "index": True,
        "library": (tmp_path / "my.lib").resolve(),
        "exclude": ("TiO2", "SnO2"),
        "sources": ("templates",),
        "weights": ((tmp_path / "my.safetensors").resolve(), "flow_mp20"),
        "candidates": 5,
        "seed": 7,
        "engine": "builtin",
    }
    assert {path.name for path in row.files} >= {"my.lib", "my.safetensors", "si.cif"}


def test_elements_stand_in_for_a_formula_that_is_not_known(tmp_path):
    (row,) = read_table(table(tmp_path, "pattern,elements", "example:rutile,Ti O"))
    assert (row.formula, row.known) == (None, "Ti-O")
    assert row.given == {"elements": ("Ti", "O")}


def test_rows_leave_reports_summary_and_their_order(two, tmp_path):
    records = quiet(two, tmp_path / "out")
    assert [record["name"] for record in records] == ["rutile", "salt"]
    assert records[0]["number"] == 136
    assert records[1]["verdict"] == "none"
    assert left(tmp_path / "out") == ["index.html", "rutile", "salt", "summary.csv"]
    assert (tmp_path / "out/rutile/rutile_01.cif").is_file()
    text = (tmp_path / "out/summary.csv").read_text(encoding="utf-8")
    rows = list(csv.DictReader(text.splitlines()))
    assert [row["verdict"] for row in rows] == [r["verdict"] for r in records]
    page = (tmp_path / "out/index.html").read_text(encoding="utf-8")
    assert 'href="rutile/rutile.html"' in page
    assert "http" not in page.replace("http://www.w3.org", "")


@pytest.mark.slow
def test_done_rows_stay_and_changed_ones_are_solved_again(two, tmp_path):
    out = tmp_path / "out"
    quiet(two, out)
    before = {name: (out / name / "row.json").stat().st_mtime_ns for name in left(out)[1:3]}
    two.write_text(two.read_text().replace("NaCl", "MgF2"))
    quiet(two, out)
    after = {name: (out / name / "row.json").stat().st_mtime_ns for name in before}
    assert after["rutile"] == before["rutile"]
    assert after["salt"] > before["salt"]
    row = read_table(two)[0]
    assert done(row, out, key_of(row))
    with open(tmp_path / "rutile.xy", "a") as pattern:
        pattern.write("90.02 100\n")
    assert not done(row, out, key_of(row))


@pytest.mark.slow
def test_stopping_keeps_what_is_done_and_leaves_nothing_half(two, tmp_path):
    out = tmp_path / "out"
    two.write_text(two.read_text().replace("NaCl", "MgF2"))
    steps = batch_steps(two, out)
    for now in steps:
        if now.stage == "solve" and now.message.startswith("salt"):
            steps.close()
    assert left(out) == ["index.html", "rutile", "summary.csv"]
    seen = {now.message.partition(":")[0] for now in batch_steps(two, out) if now.best}
    assert seen == {"salt"}


@pytest.mark.slow
def test_a_row_that_fails_stops_no_other_and_is_tried_again(two, tmp_path, monkeypatch):
    out, real = tmp_path / "out", xrdkit.batch.rows.solve_steps

    def broken(pattern, formula, **given):
        if formula == "TiO2":
            raise RuntimeError("no memory\nleft")
        return (yield from real(pattern, formula, **given))

    monkeypatch.setattr(xrdkit.batch.rows, "solve_steps", broken)
    first, second = quiet(two, out)
    assert (first["status"], second["status"]) == ("failed", "solved")
    assert first["error"] == "RuntimeError: no memory left"
    assert "RuntimeError: no memory left" in (out / "index.html").read_text()
    monkeypatch.undo()
    assert quiet(two, out)[0]["status"] == "solved"


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ("gone.xy,TiO2,CuKa,", r"row 2 \(gone\): there is no file gone.xy"),
        ("example:gold,Au,CuKa,", "there is no example 'gold'"),
        ("example:rutile,,CuKa,", "no formula is given"),
        ("example:rutile,TiO2,CuKa,,Ti O", "formula and elements are both given"),
        ("example:rutile,,CuKa,,Ti Xx", "Xx"),
        ("example:rutile,TiO2,CuKa,../up", "cannot name a folder of results"),
        ("example:rutile,TiO2,CuKa,.hidden", "cannot name a folder of results"),
        ("example:rutile,TiO2,CuKa,summary.csv", "cannot name a folder of results"),
    ],
)
def test_a_table_without_a_good_row_starts_nothing(tmp_path, row, said):
    path = table(tmp_path, "pattern,formula,wavelength,name,elements", row)
    with pytest.raises(BadTable, match=said):
        quiet(path, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_bad_row_is_named_at_once_and_stops_no_other(two, tmp_path, capsys):
    out = tmp_path / "out"
    two.write_text(two.read_text().replace("rutile.xy,NaCl", "gone.xy,NaCl"))
    why = "there is no file gone.xy; it is looked for in"
    with pytest.warns(UserWarning, match=rf"left out: row 3 \(salt\): {why}"):
        good, bad = quiet(two, out)
    assert (good["status"], bad["status"]) == ("solved", "failed")
    assert bad["error"].startswith(why)
    assert left(out) == ["index.html", "rutile", "summary.csv"]
    assert "gone.xy" in (out / "index.html").read_text(encoding="utf-8")
    assert main(["batch", str(two), "-o", str(out), "--quiet"]) == 1
    assert capsys.readouterr().err.count("gone.xy") == 1
    (tmp_path / "gone.xy").write_bytes(example("rutile").read_bytes())
    assert [record["status"] for record in quiet(two, out)] == ["solved"] * 2


@pytest.mark.parametrize(
    ("heads", "cells", "said"),
    [
        ("cell", "4 4 4", "'4 4 4' is not 6 numbers"),
        ("range", "10", "is not 2 numbers like 10,80"),
        ("size", "small", "'small' is not 1 number like 30"),
        ("size", "2", "outside 5–1000 Å"),
        ("candidates", "0", "give at least 1"),
        ("seed", "x", "'x' is not a whole number"),
        ("index", "maybe", "'maybe' is not yes or no"),
        ("library", "my.lib", "there is no file my.lib"),
        ("phases", "si.cif", "there is no file si.cif"),
        ("sources", "magic", "source 'magic' is not known"),
        ("engine", "magic", "engine 'magic' is not known"),
        ("contents", "Ti2 O3", "are not a multiple of the formula"),
        ("space_group", "231", "231"),
    ],
)
def test_a_bad_cell_is_told_in_the_words_of_the_library(tmp_path, heads, cells, said):
    path = table(
        tmp_path,
        f"pattern;formula;wavelength;{heads}",
        f"example:rutile;TiO2;CuKa;{cells}",
    )
    with pytest.raises(BadTable, match=said):
        quiet(path, tmp_path / "out")


def test_all_bad_rows_are_told_at_once_by_the_command(tmp_path, capsys):
    path = table(tmp_path, "pattern,formula,name", "gone.xy,TiO2,", "example:rutile,Xx,a")
    assert main(["batch", str(path), "-o", str(tmp_path / "out")]) == 2
    said = capsys.readouterr().err.splitlines()
    assert "gone.xy" in said[0]
    assert said[-1].startswith("xrdkit: error: 2 faults in ")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "is empty"),
        ("pattern,formula\n", "has no row below"),
        ("pattern,compound\na,b\n", "has a column 'compound'"),
        ("pattern\na\n", "has no column 'formula'"),
        ("pattern,formula,formula\na,b,c\n", "'formula' twice"),
        ("pattern,formula\na,b,c\n", "row 2 of .* has more cells than names of columns"),
        (
            "pattern,formula,name\nexample:rutile,TiO2,\nexample:rutile,TiO2,Rutile\n",
            "2 rows of .* have the name 'rutile'",
        ),
    ],
)
def test_a_table_that_is_none_is_refused(tmp_path, text, said):
    path = tmp_path / "table.csv"
    path.write_text(text)
    with pytest.raises(ValueError, match=said):
        read_table(path)


def test_other_tables_that_cannot_be_read_say_why(tmp_path):
    with pytest.raises(FileNotFoundError, match="there is no table"):
        read_table(tmp_path / "none.csv")
    (tmp_path / "t.csv").write_bytes(b"pattern,formula\n\xff,b\n")
    with pytest.raises(ValueError, match="not text in UTF-8"):
        read_table(tmp_path / "t.csv")


def test_places_that_cannot_take_results_are_refused(two, tmp_path):
    with pytest.raises(ValueError, match="is a file; give a folder"):
        quiet(two, two)
    mine = tmp_path / "out/rutile/thesis.txt"
    mine.parent.mkdir(parents=True)
    mine.write_text("mine")
    with pytest.warns(UserWarning, match="is no result of a batch"):
        quiet(two, tmp_path / "out")
    assert mine.read_text() == "mine"
    with pytest.raises(ValueError, match="give at least one"):
        quiet(two, tmp_path / "new", workers=0)


def test_only_one_batch_at_a_time_writes_in_a_folder(two, tmp_path):
    running = batch_steps(two, tmp_path / "out")
    next(now for now in running if now.stage != "check")
    with pytest.raises(ValueError, match="another batch writes in"):
        quiet(two, tmp_path / "out")
    running.close()


def test_names_from_outside_are_escaped(two, tmp_path, monkeypatch):
    def broken(pattern, formula, **given):
        raise RuntimeError("<script>")
        yield

    monkeypatch.setattr(xrdkit.batch.rows, "solve_steps", broken)
    quiet(two, tmp_path / "out")
    page = (tmp_path / "out/index.html").read_text(encoding="utf-8")
    assert "&lt;script&gt;" in page


def test_pattern_without_wavelength_is_refused_before_the_start(tmp_path):
    lines = example("rutile").read_text().splitlines()[2:]
    table(tmp_path, *lines, name="bare.xy")
    path = table(tmp_path, "pattern,formula", "bare.xy,TiO2")
    with pytest.raises(BadTable, match="does not say its wavelength"):
        quiet(path, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_without_dask_several_workers_are_refused_in_words(two, tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "distributed", None)
    with pytest.raises(ValueError, match=r"xrdkit\[batch\]"):
        quiet(two, tmp_path / "out", workers=2)


@pytest.mark.slow
def test_a_killed_worker_loses_nothing_and_nothing_is_done_twice(two, tmp_path, capfd):
    distributed = pytest.importorskip("distributed")
    lines = two.read_text().splitlines()
    first = lines[1].rsplit(",", 1)[0]
    many = table(two.parent, lines[0], *(f"{first},s{i}" for i in range(6)))
    out = tmp_path / "out"
    with distributed.LocalCluster(
        n_workers=2, threads_per_worker=1, dashboard_address=None, silence_logs="CRITICAL"
    ) as cluster:
        pids = list(distributed.Client(cluster).run(os.getpid).values())
        killer = threading.Thread(target=kill_after_first, args=(pids[0], out))
        killer.start()
        records = quiet(many, out, scheduler=cluster.scheduler_address)
        killer.join()
        alive = distributed.Client(cluster).run(os.getpid).values()
    assert pids[0] not in alive
    assert [record["status"] for record in records] == ["solved"] * 6
    assert len({(out / f"s{i}").stat().st_ino for i in range(6)}) == 6
    assert not list(out.glob(".part-*/*/row.json"))
    assert {name for name in left(out) if not name.startswith(".part-")} == {
        "index.html",
        "summary.csv",
        *(f"s{i}" for i in range(6)),
    }


def kill_after_first(pid, out):
    """End a worker once one row is there, while it is at another."""
    while not list(out.glob("s*/row.json")):
        time.sleep(0.05)
    time.sleep(0.3)
    os.kill(pid, signal.SIGKILL)


@pytest.mark.slow
def test_an_address_where_nobody_answers_is_told(two, tmp_path):
    pytest.importorskip("distributed")
    with pytest.raises(ValueError, match="no Dask scheduler answers"):
        quiet(two, tmp_path / "out", scheduler="tcp://127.0.0.1:9")
