import argparse
import csv
import os
import signal
import subprocess
import sys
import time

import gemmi
import numpy as np
import pytest
from pymatgen.core import Lattice, Structure
from test_refine_output import RUTILE, counted

from xrdkit import __version__, generators, report
from xrdkit.cli import main
from xrdkit.cli.words import SOURCES, axis, span, wavelength
from xrdkit.examples import path
from xrdkit.pattern import read, write


def rutile(metal, anion, a, c):
    cell = Lattice.tetragonal(a, c)
    return Structure.from_spacegroup(
        136, cell, [metal, anion], [[0, 0, 0], [0.305, 0.305, 0]]
    )


def fluorite(metal, anion, a):
    sites = [[0, 0, 0], [0.25, 0.25, 0.25]]
    return Structure.from_spacegroup(225, Lattice.cubic(a), [metal, anion], sites)


@pytest.fixture(scope="module")
def library(tmp_path_factory):
    """A library of a few known structures, none of them TiO2."""
    folder = tmp_path_factory.mktemp("cifs")
    known = {
        "SnO2": rutile("Sn", "O", 4.737, 3.186),
        "MgF2": rutile("Mg", "F", 4.62, 3.05),
        "CaF2": fluorite("Ca", "F", 5.463),
        "CeO2": fluorite("Ce", "O", 5.411),
    }
    for name, structure in known.items():
        structure.to(str(folder / f"{name}.cif"))
    path = folder / "small.lib"
    assert main(["library", "build", str(folder), "-o", str(path), "--quiet"]) == 0
    return path


@pytest.fixture
def here(tmp_path, monkeypatch):
    """An empty folder to work in."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def refused(capsys, *words):
    """The one sentence on stderr of a command that must end with 2."""
    assert main([str(word) for word in words]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    lines = said.err.splitlines()
    assert len(lines) == 1, said.err
    assert lines[0].startswith("xrdkit: error: ")
    return lines[0]


def solve(*words):
    return ["solve", "example:rutile", "--formula", "TiO2", "--wavelength", "CuKa", *words]


def test_names_of_sources_are_those_of_the_generators():
    assert tuple(generators.SOURCES) == SOURCES


def test_range_may_begin_at_zero():
    assert span("0,80") == (0, 80)
    with pytest.raises(argparse.ArgumentTypeError, match="not within 0–180°"):
        span("-1,80")


def test_index_reduces_the_formula_and_says_what_a_pattern_lacks(here, capsys):
    rows = np.loadtxt(path("rutile"))
    np.savetxt("gap.xy", rows[(rows[:, 0] < 45) | (rows[:, 0] > 47)])
    words = ["index", "gap.xy", "--wavelength", "CuKa", "--systems", "t", "--quiet"]
    words += ["--count", "1", "--range", "0,80", "--exclude-range", "79,80"]
    said = []
    for formula in ("TiO2", "Ti2O4"):
        assert main([*words, "--formula", formula]) == 0
        said.append(capsys.readouterr())
    assert "4.59" in said[0].out
    assert said[0] == said[1]
    assert "xrdkit: warning: 1 gaps in the scan" in said[0].err


def test_version_and_help_end_with_zero(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"xrdkit {__version__}\n"
    assert main(["solve", "--help"]) == 0
    assert "--space-group" in capsys.readouterr().out


def test_help_does_not_wait_for_torch_or_pymatgen():
    code = (
        "import sys; from xrdkit.cli import main; main(['--help']); "
        "assert not {'torch', 'numpy', 'pymatgen'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


def test_solve_prints_the_table_and_writes_cifs_and_csv(here, library, capsys):
    assert main(solve("--library", str(library), "--quiet")) == 0
    shown = capsys.readouterr().out
    assert "P4_2/mnm (136)" in shown
    assert "verdict: " in shown
    assert "files in rutile_xrdkit" in shown
    best = Structure.from_file(here / "rutile_xrdkit" / "rutile_01.cif")
    assert best.composition.reduced_formula == "TiO2"
    assert best.lattice.abc == pytest.approx((4.594, 4.594, 2.959), abs=0.01)
    table = (here / "rutile_xrdkit" / "rutile.csv").read_text(encoding="utf-8")
    rows = list(csv.DictReader(table.splitlines()))
    assert rows[0]["number"] == "136"
    assert rows[0]["origin"].startswith("AB2 136 2a4f")
    cifs = sorted((here / "rutile_xrdkit").glob("*.cif"))
    assert len(cifs) == len(rows)


def test_earlier_results_stay_unless_overwriting_is_asked_for(here, library, capsys):
    folder = here / "out"
    words = solve("--library", str(library), "--quiet", "-o", str(folder))
    assert main([*words, "--sources", "templates"]) == 0
    capsys.readouterr()
    with (folder / "rutile_xrdkit.txt").open("a") as listed:
        listed.write("rutile_07.cif\n")  # as of an older, longer list
    (folder / "rutile_07.cif").write_text("older")
    (folder / "rutile_notes.cif").write_text("mine")
    (folder / "rutile.csv").write_text("older")
    assert "holds results of rutile already; give --overwrite" in refused(capsys, *words)
    assert (folder / "rutile.csv").read_text() == "older"
    assert main([*words, "--sources", "templates", "--overwrite"]) == 0
    assert (folder / "rutile.csv").read_text().startswith("rank,space_group")
    assert not (folder / "rutile_07.cif").exists()
    assert (folder / "rutile_notes.cif").read_text() == "mine"


def test_interrupted_command_says_that_files_are_whole(here, monkeypatch, capsys):
    def interrupt(*args, **keywords):
        raise KeyboardInterrupt

    monkeypatch.setattr("xrdkit.pattern.read", interrupt)
    assert main(solve()) == 130
    assert capsys.readouterr().err == "xrdkit: stopped; finished files are whole\n"
    assert list(here.iterdir()) == []


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["solve", "absent.xy", "--formula", "TiO2"], "there is no file absent.xy"),
        (["solve", "example:gold", "--formula", "Au"], "no example 'gold'; choose one of"),
        (
            ["solve", "example:rutile"],
            "arguments --formula --elements is required; see xrdkit solve",
        ),
        (["slove"], "invalid choice: 'slove'"),
        (solve("--cell", "4,4,3"), "'4,4,3' is not 6 numbers like 4.59"),
        (solve("--sources", "odd"), "invalid choice: 'odd'"),
        (solve("--candidates", "0"), "'0' is not a whole number of at least 1"),
        (solve("--library", "absent.lib"), "there is no library file absent.lib"),
        (["solve", "example:rutile", "--formula", "TiO2", "--wavelength", "0.154"], "nm"),
        (
            ["simulate", "a.cif", "--wavelength", "CuKa", "-o", "x", "--range", "9,5"],
            "range",
        ),
        (["library", "info", "absent.lib"], "there is no library file absent.lib"),
        (["library", "build", "absent.csv", "-o", "x.lib"], "absent.csv does not exist"),
        (["benchmark", "summary", "absent.json"], "absent.json: No such file"),
        (
            ["benchmark", "mp20", "--structures", "t", "--json", "f", "--shard", "3/2"],
            "shard 3/2 is not within 1/2 to 2/2",
        ),
    ],
)
def test_bad_input_is_one_sentence_and_nothing_is_written(here, capsys, words, message):
    assert message in refused(capsys, *words)
    assert list(here.iterdir()) == []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"--formula": "Ti02"}, "zero where the letter O"),
        ({"--formula": "Xq2O"}, "is not an element"),
        ({"--contents": "Ti2 O3"}, "not a multiple of the formula"),
        ({"--space-group": "231"}, "231"),
    ],
)
def test_impossible_question_is_one_sentence(here, library, capsys, change, message):
    words = {
        "--formula": "TiO2",
        "--wavelength": "CuKa",
        "--library": str(library),
        **change,
    }
    flat = [word for pair in words.items() for word in pair]
    assert message in refused(capsys, "solve", "example:rutile", *flat)
    assert list(here.iterdir()) == []


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"\x00\x01\x02\xff" * 200, "sample.xy"),
        (b"", "sample.xy"),
        (b"10 nan\n" * 50, "sample.xy"),
        (b"1 2 3 4 5 6 7\n" * 50, "7 columns"),
    ],
    ids=["binary", "empty", "nan", "seven columns"],
)
def test_file_that_is_no_pattern_is_one_sentence(here, library, capsys, content, message):
    (here / "sample.xy").write_bytes(content)
    words = ["solve", "sample.xy", "--formula", "TiO2", "--wavelength", "CuKa"]
    assert message in refused(capsys, *words, "--library", library)
    assert [path.name for path in here.iterdir()] == ["sample.xy"]


def test_place_that_cannot_be_written_is_said_before_the_work(here, library, capsys):
    (here / "taken").write_text("a file")
    words = solve("--library", str(library), "--output")
    assert "taken is a file; give a folder" in refused(capsys, *words, "taken")
    assert "cannot write in taken" in refused(capsys, *words, "taken/inside")
    sources = ("absent.cif", "--wavelength", "CuKa", "-o", "taken")
    assert "taken exists already; give --overwrite" in refused(capsys, "simulate", *sources)


@pytest.fixture
def sample(here):
    """A folder with counts of rutile and a CIF to start from."""
    write(counted(RUTILE), here / "sample.xy")
    report.write_cif(RUTILE, here / "start.cif")
    return here


def refine(*words):
    return ["refine", "sample.xy", "start.cif", "--background", "3", "--quiet", *words]


def test_refine_prints_and_writes_cell_sites_and_r_values(sample, capsys):
    assert main(refine("--texture", "none", "-o", "out/rutile")) == 0
    said = capsys.readouterr()
    assert "P4_2/mnm (136)" in said.out
    assert "R_wp " in said.out
    assert "results in out/rutile.cif, out/rutile.csv, out/rutile.html" in said.out
    names = sorted(one.name for one in (sample / "out").iterdir())
    assert names == ["rutile.cif", "rutile.csv", "rutile.html"]
    block = gemmi.cif.read(str(sample / "out" / "rutile.cif")).sole_block()
    a = block.find_value("_cell_length_a")
    assert a in said.out
    assert float(a.partition("(")[0]) == pytest.approx(4.594, abs=2e-3)
    assert f"{float(block.find_value('_pd_proc_ls_prof_wR_factor')):.2%}"[:-1] in said.out
    assert len(block.find_loop("_pd_proc_ls_weight")) == 1201
    page = (sample / "out" / "rutile.html").read_text(encoding="utf-8")
    assert a in page
    assert "all together" in page
    before = (sample / "out" / "rutile.cif").read_text()
    again = "out/rutile.cif exists already; give --overwrite"
    assert again in refused(capsys, *refine("-o", "out/rutile"))
    assert (sample / "out" / "rutile.cif").read_text() == before


def test_pawley_takes_the_cell_of_the_cif_and_overwrites_when_told(sample, capsys):
    (sample / "sample_refined.csv").write_text("older")
    assert main(refine("--pawley", "--overwrite", "--esd", "statistical")) == 0
    assert "P4_2/mnm (136)" in capsys.readouterr().out
    assert (sample / "sample_refined.csv").read_text().startswith("name,value,esd")
    text = (sample / "sample_refined.cif").read_text()
    assert "Pawley" in text
    assert "multiplied by the goodness" not in text


def test_symmetry_that_a_cif_does_not_state_is_named_and_found_when_told(sample, capsys):
    RUTILE.to(str(sample / "start.cif"))  # in P1
    words = refine("--range", "22,56", "--pawley")
    assert main(words) == 0
    said = capsys.readouterr()
    assert "start.cif is in P1, its atoms have P4_2/mnm; give --symprec" in said.err
    assert "P1 (1)" in said.out
    assert main([*words, "--overwrite", "--symprec", "0.01"]) == 0
    said = capsys.readouterr()
    assert "--symprec" not in said.err
    assert "P4_2/mnm (136)" in said.out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["refine", "absent.xy", "start.cif"], "there is no file absent.xy"),
        (["refine", "sample.xy", "absent.cif"], "there is no file absent.cif"),
        (["refine", "sample.xy"], "required: CIF; see xrdkit refine --help"),
        (refine("--phase", "absent.cif"), "there is no file absent.cif"),
        (refine("--instrument", "absent.prm"), "there is no file absent.prm"),
        (refine("--instrument", "start.cif"), "start.cif is no instrument file"),
        (refine("--texture", "1,0"), "'1,0' is not 3 numbers like 0,0,1 (or none)"),
        (refine("--texture", "0,0,0"), "not three whole numbers"),
        (refine("--background", "0"), "'0' is not a whole number of at least 1"),
        (refine("--project", "a.gpx"), "give --engine gsas2 with it"),
        (refine("--engine", "gsas2", "--pawley"), "not asked for --pawley"),
        (refine("--engine", "gsas2", "--esd", "gof"), "not asked for --esd"),
        (refine("--pawley", "--occupancies"), "takes cell and space group alone"),
        (refine("--engine", "gsas2"), "XRDKIT_GSAS2_PYTHON is 'nowhere'"),
        (refine("--range", "40,40.5"), "at least 30 are needed"),
        (refine("--range", "22,26"), "has no reflection between 22.0 and 26.0°"),
        (refine("--symprec", "2"), "a tolerance of 0 to 1 Å"),
        (refine("-o", "taken/x"), "cannot write in taken"),
        (refine("-o", "start.cif", "--overwrite"), "start.cif is among what is read"),
        (
            ["refine", "sample.xy", "start.cif#TiO2", "-o", "start", "--overwrite"],
            "start.cif is among what is read",
        ),
        (refine("--texture", "inf,0,1"), "is not three whole numbers"),
    ],
)
def test_refinement_that_cannot_be_is_one_sentence_and_writes_nothing(
    sample, capsys, monkeypatch, words, message
):
    monkeypatch.setenv("XRDKIT_GSAS2_PYTHON", "nowhere")
    (sample / "taken").write_text("a file")
    assert message in refused(capsys, *words)
    assert sorted(p.name for p in sample.iterdir()) == ["sample.xy", "start.cif", "taken"]


def test_a_pattern_is_never_replaced_by_the_table_of_parameters(sample, capsys):
    data = (sample / "sample.xy").read_text()
    (sample / "data.csv").write_text(data)
    words = ["refine", "data.csv", "start.cif", "-o", "data", "--overwrite", "--quiet"]
    assert "data.csv is among what is read" in refused(capsys, *words)
    assert (sample / "data.csv").read_text() == data


def test_solve_says_in_one_sentence_that_gsas2_is_absent(here, capsys, monkeypatch):
    monkeypatch.setenv("XRDKIT_GSAS2_PYTHON", "nowhere")
    assert "XRDKIT_GSAS2_PYTHON is 'nowhere'" in refused(
        capsys, *solve("--engine", "gsas2")
    )


def test_input_of_gsas2_is_refused_before_the_work_where_it_is_absent(
    here, capsys, monkeypatch
):
    monkeypatch.setenv("XRDKIT_GSAS2_PYTHON", "nowhere")
    said = refused(capsys, *solve("--for", "gsas2"))
    assert "give the path of the Python that has GSAS-II" in said
    assert list(here.iterdir()) == []


def test_texture_axis_is_three_whole_numbers_or_none():
    assert axis("0,0,-1") == (0, 0, -1)
    assert axis("none") == "none"


def test_simulated_pattern_is_read_back_with_its_wavelengths(here, capsys):
    fluorite("Ca", "F", 5.463).to(str(here / "CaF2.cif"))
    words = [
        "simulate",
        "CaF2.cif",
        "--wavelength",
        "CuKa",
        "-o",
        "CaF2.xy",
        "--range",
        "20,60",
    ]
    assert main(words) == 0
    pattern = read(here / "CaF2.xy")
    assert len(pattern) == 2001
    assert pattern.radiation.wavelengths == pytest.approx((1.540593, 1.544427))
    strongest = pattern.two_theta[pattern.intensity.argmax()]
    theta = np.degrees(np.arcsin(1.540593 * np.sqrt(3) / (2 * 5.463)))  # 111
    assert strongest == pytest.approx(2 * theta, abs=0.03)
    capsys.readouterr()
    assert "CaF2.xy exists already" in refused(capsys, *words)


def test_library_info_says_size_and_types(library, capsys):
    assert main(["library", "info", str(library)]) == 0
    shown = capsys.readouterr().out
    assert "4 structures of 2 types, up to 6 atoms" in shown
    assert "AB2 136 2a4f, 2 members" in shown


def test_benchmark_runs_goes_on_and_is_counted(here, library, capsys):
    (here / "t").mkdir()
    rutile("Ti", "O", 4.594, 2.959).to(str(here / "t" / "TiO2.cif"))
    words = ["benchmark", "mp20", "--structures", "t", "--library", str(library)]
    words += ["--json", "r.json", "--quiet", "--no-validity"]
    assert main(words) == 0
    assert "strict                           first 1/1 100.0 %" in capsys.readouterr().out
    before = (here / "r.json").read_text()
    assert main(words) == 0
    assert (here / "r.json").read_text() == before
    assert main(["benchmark", "summary", "r.json"]) == 0
    capsys.readouterr()
    assert "was made with seed 0 (now 1)" in refused(capsys, *words, "--seed", "1")


def test_benchmark_speed_prints_numbers(here, capsys):
    fluorite("Ca", "F", 5.463).to(str(here / "CaF2.cif"))
    assert main(["benchmark", "speed", "--structures", "CaF2.cif", "--n", "1"]) == 0
    assert "pymatgen_ms" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("CuKa", "CuKa"),
        ("1.5406", "1.5406"),
        ("1,5406", "1,5406"),
        ("1.540593,1.544427", (1.540593, 1.544427)),
        (None, None),
    ],
)
def test_two_wavelengths_have_a_comma_between(typed, meant):
    assert wavelength(typed) == meant


def test_write_that_fails_leaves_the_old_file_whole(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("old")

    def breaks(part):
        part.write_text("half")
        raise RuntimeError("disk full")

    with pytest.raises(RuntimeError, match="disk full"):
        report.write_whole(path, breaks)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_structure_without_symmetry_is_written_all_the_same(tmp_path):
    twice = Structure(Lattice.cubic(4.0), ["Na", "Na"], [[0, 0, 0], [0, 0, 0.001]])
    assert "Na" in report.write_cif(twice, tmp_path / "a.cif").read_text()


def test_equal_sites_are_counted_in_the_table():
    rows = [{"sites": "2×O 4e, Ti 2a", "rank": 1}, {"sites": "O 8i", "rank": 10}]
    table = report.text_table(rows)
    assert table.splitlines() == [
        "sites          rank",
        "2×O 4e, Ti 2a  1",
        "O 8i           10",
    ]


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="signals of POSIX")
def test_a_terminated_refinement_leaves_no_process_behind(sample):
    """As ``timeout`` and batch systems end a job: SIGTERM while GSAS-II is at work."""
    fake = sample / "fake-python"
    fake.write_text(f"#!/bin/sh\necho $$ > {sample}/pid\nexec sleep 300\n")
    fake.chmod(0o755)
    words = [sys.executable, "-m", "xrdkit", *refine("--engine", "gsas2")]
    job = subprocess.Popen(
        words, env={**os.environ, "XRDKIT_GSAS2_PYTHON": str(fake)}, stderr=subprocess.PIPE
    )
    until = time.monotonic() + 60
    while not (sample / "pid").exists() and time.monotonic() < until:
        time.sleep(0.1)
    time.sleep(0.5)
    job.send_signal(signal.SIGTERM)
    _, said = job.communicate(timeout=30)
    assert job.returncode == 130
    assert b"stopped" in said
    with pytest.raises(ProcessLookupError):
        os.kill(int((sample / "pid").read_text()), 0)
