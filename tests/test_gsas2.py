"""GSAS-II: its answers read, its process started, ended and never left behind, its fits."""

import importlib.util
import json
import os
import re
import subprocess
import sys
import tempfile
import textwrap
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from xrdkit.benchmark.rietveld import against_gsas2
from xrdkit.formats import read_instrument
from xrdkit.pattern import prepare
from xrdkit.refine import gsas2, rietveld
from xrdkit.refine.gsas2.covariance import metric_basis
from xrdkit.refine.gsas2.instrument import VARIANCE, gsas2_instrument
from xrdkit.refine.gsas2.job import gaps, gsas2_symbol, job_of, stages_of
from xrdkit.refine.gsas2.process import VARIABLE, WORKER, Worker
from xrdkit.refine.gsas2.result import fit_of
from xrdkit.refine.rietveld.asymmetric import asymmetric_unit, reference_operations
from xrdkit.refine.rietveld.metric import metric, possible
from xrdkit.report.gsas2 import write_gsas2
from xrdkit.report.results import check_programs
from xrdkit.simulate import pattern_of
from xrdkit.types import Instrument, Radiation
from xrdkit.wavelengths import radiation

DATA = Path(__file__).parent / "data"
SYSTEMS = ("hexagonal", "monoclinic", "triclinic")
READY = '{"ready": "0", "python": "3"}'
SAY = f"print('{READY}', flush=True)"


def made():
    """The module that made the stored answers."""
    spec = importlib.util.spec_from_file_location("make_gsas2", DATA / "make_gsas2.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


MAKE = made()


def stored(system):
    """The model and the last answer of a stored run."""
    found = json.loads((DATA / f"gsas2_{system}.json").read_text())
    return MAKE.model(found["counts"], system), found


@pytest.fixture
def program(tmp_path, monkeypatch):
    """Makes a program that stands where the Python with GSAS-II is expected."""

    def write(code: str) -> Path:
        path = tmp_path / "python"
        head = f"#!{sys.executable}\nimport json, os, signal, sys, time\n"
        path.write_text(head + textwrap.dedent(code), encoding="utf-8")
        path.chmod(0o755)
        monkeypatch.setenv(VARIABLE, str(path))
        return path

    return write


@pytest.fixture(scope="module")
def engine():
    """GSAS-II's version, where it can be used."""
    try:
        return gsas2.version()
    except gsas2.GSAS2Error as error:
        pytest.skip(f"needs GSAS-II: {error}")


def alive(pid: int) -> bool:
    """Whether a process is there and no mere entry of a dead one."""
    stat = Path(f"/proc/{pid}/stat")
    if not Path("/proc/self").exists():
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return False
        return True
    return stat.exists() and stat.read_text().rpartition(")")[2].split()[0] != "Z"


def steps(system="hexagonal", **what):
    """The stages of a refinement of a stored pattern."""
    _, found = stored(system)
    return gsas2.refine_steps(
        MAKE.pattern(found["counts"]),
        MAKE.structure(system),
        instrument=MAKE.INSTRUMENT,
        background=2,
        **what,
    )


# What GSAS-II answers


@pytest.mark.parametrize("system", SYSTEMS)
def test_cell_esds_are_the_spread_of_cells_drawn_from_the_covariance(system):
    model, found = stored(system)
    fit = fit_of(model, found["answer"]["state"])
    cells = drawn_cells(model, found["answer"]["state"])
    gof = max(1, 1 / fit.r_values["gof"])
    names = ("a", "b", "c", "alpha", "beta", "gamma", "volume")
    for name, spread in zip(names, cells.std(0) * gof, strict=True):
        assert fit.uncertainties.get(name, 0.0) == pytest.approx(spread, rel=0.05, abs=1e-9)


def drawn_cells(model, state):
    """Cells and volumes of reciprocal metrics drawn from their covariance."""
    names = [name for name in state["names"] if re.fullmatch(r"0::A\d", name)]
    columns = [state["names"].index(name) for name in names]
    covariance = np.array(state["covariance"])[np.ix_(columns, columns)]
    free = [int(name[-1]) for name in names]
    cell = np.array(state["phases"][0]["cell"])
    g = np.linalg.inv(metric(cell))
    start = np.array([g[0, 0], g[1, 1], g[2, 2], 2 * g[0, 1], 2 * g[0, 2], 2 * g[1, 2]])
    shifts = np.random.default_rng(0).multivariate_normal(0 * start[free], covariance, 4000)
    basis = metric_basis(model.units[0].rotations)
    a = start + shifts @ (basis @ np.linalg.pinv(basis[free])).T
    rows = [[0, 3, 4], [3, 1, 5], [4, 5, 2]]
    tensor = np.linalg.inv(a[:, rows] * (np.eye(3) + (1 - np.eye(3)) / 2))
    lengths = np.sqrt(np.einsum("nii->ni", tensor))
    pairs = [(1, 2), (0, 2), (0, 1)]
    cosines = [tensor[:, i, j] / lengths[:, i] / lengths[:, j] for i, j in pairs]
    angles = np.degrees(np.arccos(np.stack(cosines, 1)))
    return np.column_stack([lengths, angles, np.sqrt(np.linalg.det(tensor))])


@pytest.mark.parametrize("system", SYSTEMS)
def test_refined_cells_and_coordinates_are_those_simulated(system):
    model, found = stored(system)
    fit = fit_of(model, found["answer"]["state"])
    true = asymmetric_unit(MAKE.structure(system))
    for name, value in zip("abc", true.cell, strict=False):
        assert abs(fit.values[name] - value) < 4 * fit.uncertainties[name]
    assert fit.values["size"] == pytest.approx(500, abs=4 * fit.uncertainties["size"])
    for site in true.sites:
        for axis, value in zip("xyz", site.frac, strict=True):
            name = f"{axis}:{site.label}"
            esd = fit.uncertainties.get(name, 1e-6)
            assert abs((fit.values[name] - value + 0.5) % 1 - 0.5) < 4 * esd


def test_answer_becomes_a_complete_fit():
    model, found = stored("hexagonal")
    fit = fit_of(model, found["answer"]["state"], ("a note",))
    assert fit.engine == "gsas2"
    assert fit.space_group_symbol == "P6_3mc"
    assert fit.structure.composition.reduced_formula == "ZnO"
    assert len(fit.structure) == 4
    assert set(fit.r_values) >= {"r_p", "r_wp", "r_wp_b", "r_exp", "gof", "r_bragg", "r_f"}
    assert fit.r_wp == pytest.approx(fit.r_values["gof"] * fit.r_values["r_exp"])
    assert 0.85 < fit.r_values["gof"] < 1.15
    assert fit.n_parameters == len(found["answer"]["state"]["names"])
    assert fit.parameters == fit.n_parameters - 2
    assert fit.warnings[0] == "a note"
    assert any({"size", "strain"} == set(pair[:2]) for pair in fit.correlations)


def test_what_symmetry_fixes_has_no_esd_and_what_it_ties_has_the_same():
    model, found = stored("hexagonal")
    fit = fit_of(model, found["answer"]["state"])
    assert fit.uncertainties["a"] == pytest.approx(fit.uncertainties["b"])
    fixed = {"alpha", "beta", "gamma", "x:Zn1", "y:Zn1", "z:Zn1", "x:O1"}
    assert not fixed & set(fit.uncertainties)  # z of zinc holds the origin
    assert "z:O1" in fit.uncertainties


def test_the_table_of_the_fit_can_be_edited_like_that_of_the_other_engine():
    model, found = stored("monoclinic")
    table = fit_of(model, found["answer"]["state"]).table
    assert table["b"].esd > 0
    assert "x:Cu1" in table.free or "x:O1" in table.free
    assert not table.edit("u:*", refine=False)["u:O1"].refine


# What GSAS-II is asked


def test_profile_is_in_units_of_gsas2_and_comes_back():
    instrument = Instrument(u=0.004, v=-0.002, w=0.01, x=0.02, y=0.03, asymmetry=0.01)
    items = gsas2_instrument(radiation("CuKa"), instrument)
    assert items["W"] == pytest.approx(0.01 / (8 * np.log(2)) * 1e4)
    assert items["X"] == pytest.approx(2)
    assert items["I(L2)/I(L1)"] == pytest.approx(0.5)
    assert items["Polariz."] == 0.5


def test_three_wavelengths_are_refused():
    beam = Radiation((1.5406, 1.5444, 1.3922), (0.6, 0.3, 0.1))
    with pytest.raises(ValueError, match="one wavelength or Kα1 and Kα2, not 3"):
        gsas2_instrument(beam, Instrument())


def test_instrument_files_of_both_programs_are_read(tmp_path):
    new = tmp_path / "a.instprm"
    new.write_text(
        "#GSAS-II instrument parameter file\nType:PXC\nLam1:1.5405\nLam2:1.5443\n"
        "I(L2)/I(L1):0.5\nPolariz.:0.7\nZero:0.01\nU:2.0\nV:-2.0\nW:5.0\nX:1\nSH/L:0.002\n"
    )
    old = tmp_path / "a.prm"
    rows = {
        "INS   HTYPE ": "PXCR",
        "INS  1 ICONS": "  1.540500  1.544300       1.0         0       0.7    0       0.5",
        "INS  1PRCF1 ": "    3    8      0.01",
        "INS  1PRCF11": "   2.000000E+00  -2.000000E+00   5.000000E+00   0.000000E+00",
        "INS  1PRCF12": "   1.000000E+00   0.000000E+00   0.100000E-02   0.100000E-02",
    }
    old.write_text("".join(f"{key}{value}\n" for key, value in rows.items()))
    for path in (new, old):
        beam, instrument = read_instrument(path)
        assert beam.wavelengths == (1.5405, 1.5443)
        assert beam.polarisation == 0.7
        assert instrument.w == pytest.approx(5 * VARIANCE)
        assert instrument.v == pytest.approx(-2 * VARIANCE)
        assert (instrument.x, instrument.zero) == pytest.approx((0.01, 0.01))
        assert instrument.asymmetry == pytest.approx(0.002)


def test_origin_of_a_polar_group_is_held_by_the_heaviest_atom():
    model, _ = stored("hexagonal")
    assert job_of(model, stages_of(model))["hold"] == ["0::dAz:0"]
    assert job_of(*[(m := stored("triclinic")[0]), stages_of(m)])["hold"] == []


def test_fixed_profile_is_not_refined_and_a_free_one_is():
    model, _ = stored("triclinic")
    fixed = [stage["name"] for stage in stages_of(model)]
    free = [stage["name"] for stage in stages_of(replace(model, fixed=False))]
    assert {"W", "U and V", "asymmetry"} == set(free) - set(fixed)
    assert {"size", "strain", "coordinates"} < set(fixed)


def test_gaps_of_a_scan_are_excluded():
    x = np.concatenate([np.arange(10, 20, 0.02), np.arange(30, 40, 0.02)])
    ((low, high),) = gaps(x)
    assert (low, high) == pytest.approx((19.99, 29.99))


def test_symbols_are_those_of_the_reference_settings():
    known = {14: "P 1 21/c 1", 166: "R -3 m", 227: "F d -3 m", 136: "P 42/m n m"}
    assert {n: gsas2_symbol(n) for n in known} == known


def test_prepared_pattern_and_structure_that_cannot_diffract_are_refused():
    _, found = stored("hexagonal")
    pattern, zno = MAKE.pattern(found["counts"]), MAKE.structure("hexagonal")
    with pytest.raises(ValueError, match="prepared"):
        gsas2.refine(prepare(pattern), zno)
    tiny = zno.copy()
    tiny.scale_lattice(8)
    with pytest.raises(ValueError, match="no reflection"):
        gsas2.refine(replace(pattern, radiation=radiation(2.2897)), tiny)


# Its process


def test_absent_gsas2_is_a_help_text(monkeypatch):
    if importlib.util.find_spec("GSASII"):
        pytest.skip("this Python has GSAS-II")
    monkeypatch.delenv(VARIABLE, raising=False)
    assert not gsas2.installed()
    with pytest.raises(gsas2.GSAS2Error, match=r"gsas-ii\.readthedocs\.io") as error:
        gsas2.version()
    assert VARIABLE in str(error.value)
    with pytest.raises(gsas2.GSAS2Error, match="no GSAS-II"):
        check_programs(("topas", "gsas2"))
    monkeypatch.setenv(VARIABLE, sys.executable)  # a Python, without GSAS-II
    with pytest.raises(gsas2.GSAS2Error, match=r"cannot use GSAS-II .*ModuleNotFound"):
        gsas2.version()


def test_wrong_path_is_named(monkeypatch, tmp_path):
    monkeypatch.setenv(VARIABLE, str(tmp_path / "none"))
    with pytest.raises(gsas2.GSAS2Error, match="there is no file"):
        next(steps())
    plain = tmp_path / "plain"
    plain.write_text("no program")
    monkeypatch.setenv(VARIABLE, str(plain))
    with pytest.raises(gsas2.GSAS2Error, match="cannot be run"):
        next(steps())


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("print('hello')", "answers 'hello'"),
        ("print([1, 2])", "which is not from xrdkit"),
        ("sys.exit('no licence')", "ended with code 1; it last said: no licence"),
        ("os.kill(os.getpid(), signal.SIGSEGV)", "ended with signal 11"),
        (f"{SAY}; os.close(0); sys.exit(3)", "code 3"),
        (f"{SAY}; os.close(1); os.close(0); time.sleep(60)", "is closed|takes no job"),
        (f"{SAY}; input(); print(json.dumps({{'error': 'E: x'}}))", "refuses: E: x"),
        (
            f"{SAY}; input();"
            "print(json.dumps({'stage': 's', 'undone': 'why', 'seconds': 1.0}));"
            "print('{\"done\": true}')",
            "could not start: stage 's' was undone: why",
        ),
    ],
)
def test_a_process_that_fails_at_once_is_an_error_that_says_how(program, code, said):
    program(code)
    with pytest.raises(gsas2.GSAS2Error, match=said):
        list(steps(timeout=20))


def test_silent_process_is_ended(program, tmp_path):
    program(
        f"""
        open({str(tmp_path / "pid")!r}, 'w').write(str(os.getpid()))
        print('{READY}', flush=True)
        time.sleep(600)
        """
    )
    with pytest.raises(gsas2.GSAS2Error, match=r"said nothing for 0\.5 s and was ended"):
        next(steps(timeout=0.5))
    assert not alive(int((tmp_path / "pid").read_text()))


def answering(then: str, tmp_path: Path) -> str:
    """A program that answers one good stage, and goes on as told."""
    answer = json.dumps(stored("hexagonal")[1]["answer"])
    (tmp_path / "answer").write_text(answer + "\n")
    return f"""
        open({str(tmp_path / "pid")!r}, 'w').write(str(os.getpid()))
        print('{READY}', flush=True)
        sys.stdin.readline()
        print(open({str(tmp_path / "answer")!r}).read(), end='', flush=True)
        {then}
        """


@pytest.mark.parametrize(
    ("then", "said"),
    [
        ("os.kill(os.getpid(), signal.SIGKILL)", "signal 9"),
        ("time.sleep(600)", "said nothing"),
        ("print('Traceback', flush=True); time.sleep(600)", "answers 'Traceback'"),
    ],
)
def test_last_good_state_is_kept_where_the_process_fails(program, tmp_path, then, said):
    program(answering(then, tmp_path))
    fit = gsas2.refine(
        MAKE.pattern(stored("hexagonal")[1]["counts"]),
        MAKE.structure("hexagonal"),
        instrument=MAKE.INSTRUMENT,
        background=2,
        timeout=5,
    )
    assert fit.r_wp < 12
    (note,) = fit.warnings
    assert said in note
    assert "last good stage" in note
    assert not alive(int((tmp_path / "pid").read_text()))


def test_closing_the_generator_ends_the_process(program, tmp_path):
    program(answering("time.sleep(600)", tmp_path))
    running = steps()
    progress = next(running)
    assert progress.best.engine == "gsas2"
    assert progress.message.startswith("R_wp")
    pid = int((tmp_path / "pid").read_text())
    assert alive(pid)
    running.close()
    assert not alive(pid)
    assert not list((tmp_path / "tmp").iterdir())


@pytest.fixture(autouse=True)
def own_folder(tmp_path, monkeypatch):
    """A place of its own for what would be left behind."""
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))


def test_a_flood_of_answers_is_no_hindrance_to_ending(program, tmp_path):
    program(answering("while True: print('{}', flush=True)", tmp_path))
    running = steps()
    next(running)
    running.close()
    assert not alive(int((tmp_path / "pid").read_text()))


def test_what_the_process_has_started_ends_with_it(program, tmp_path):
    child = tmp_path / "child"
    start = (
        "import subprocess; c = subprocess.Popen(['sleep', '600']); "
        f"open({str(child)!r}, 'w').write(str(c.pid))"
    )
    program(
        answering("time.sleep(600)", tmp_path).replace("sys.stdin", f"{start}; sys.stdin")
    )
    running = steps()
    next(running)
    while not child.exists() or not child.read_text():
        time.sleep(0.02)
    running.close()
    until = time.monotonic() + 10  # a signal takes its time
    while alive(int(child.read_text())) and time.monotonic() < until:
        time.sleep(0.02)
    assert not alive(int(child.read_text()))


def test_worker_imports_nothing_of_xrdkit(tmp_path):
    assert "xrdkit import" not in WORKER.read_text(encoding="utf-8").replace(
        "for xrdkit", ""
    )
    bare = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    done = subprocess.run(
        [sys.executable, "-S", str(WORKER), str(tmp_path)],
        input="",
        env=bare,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr


# GSAS-II itself


def test_worker_ends_with_its_owner(engine):
    with Worker() as worker:
        assert worker.version == engine
        worker.process.stdin.close()
        assert worker.process.wait(timeout=20) == 0
        assert not Path(worker.folder.name).exists()


def test_gsas2_refines_what_was_simulated(engine, tmp_path):
    project = tmp_path / "zno.gpx"
    *stages, last = steps(project=project)
    fit = last.best
    assert [one.stage for one in stages][:2] == [
        "scale and background",
        "cell and displacement",
    ]
    assert fit.r_values["gof"] < 1.15
    assert abs(fit.values["a"] - 3.25) < 4 * fit.uncertainties["a"]
    assert project.stat().st_size > 10_000


def test_r_factors_of_both_engines_are_the_same(engine):
    pattern = MAKE.pattern(stored("hexagonal")[1]["counts"])
    start = MAKE.structure("hexagonal")
    theirs = gsas2.refine(pattern, start, instrument=MAKE.INSTRUMENT).r_values
    ours = rietveld.refine(pattern, start, instrument=MAKE.INSTRUMENT).r_values
    for name in ("r_p", "r_wp", "r_wp_b", "r_exp", "r_bragg", "r_f"):
        assert theirs[name] == pytest.approx(ours[name], rel=0.1), name


def test_gsas2_simulates_the_same_pattern(engine):
    zno = MAKE.structure("hexagonal")
    theirs = gsas2.simulate(
        zno, MAKE.BEAM, two_theta=MAKE.GRID, instrument=MAKE.INSTRUMENT, size=500.0
    )
    unit = asymmetric_unit(zno)
    model, found = stored("hexagonal")
    crystal = fit_of(model, found["answer"]["state"]).phases[0].crystal
    ours = pattern_of(
        replace(crystal, u_iso=0 * crystal.u_iso + unit.sites[0].u_iso),
        MAKE.BEAM,
        two_theta=MAKE.GRID,
        instrument=MAKE.INSTRUMENT,
        size=500.0,
    )
    assert np.corrcoef(ours.intensity, theirs.intensity)[0, 1] > 0.999


def test_project_for_going_on_by_hand_is_written(engine, tmp_path):
    model, found = stored("triclinic")
    fit = fit_of(model, found["answer"]["state"])
    (path,) = write_gsas2(fit, MAKE.pattern(found["counts"]), tmp_path / "new", "CuO 1")
    assert path.name.endswith("_gsas2.gpx")
    assert b"Phases" in path.read_bytes()
    with pytest.raises(FileNotFoundError, match="there is no folder"):
        gsas2.write_project(fit, MAKE.pattern(found["counts"]), tmp_path / "no" / "a.gpx")


@pytest.mark.slow
def test_gsas2_knows_the_reference_setting_of_every_space_group(engine):
    with Worker() as worker:
        for number in range(1, 231):
            model = general(number)
            (answer,) = worker.ask(job_of(model, [gsas2.AS_IT_IS]), 60.0)
            assert not answer["undone"], (number, answer["undone"])


def general(number):
    """A model of one atom on the general position of a space group."""
    from pymatgen.core import Lattice, Structure

    rotations, _ = reference_operations(number)
    basis = metric_basis(rotations)
    wanted = np.array([0.011, 0.013, 0.017, 0.0021, 0.0027, 0.0031])
    a = basis @ basis.T @ wanted
    rows = [[0, 3, 4], [3, 1, 5], [4, 5, 2]]
    g = np.linalg.inv(a[rows] * (np.eye(3) + (1 - np.eye(3)) / 2))
    lattice = Lattice(np.linalg.cholesky(g))
    structure = Structure.from_spacegroup(number, lattice, ["Fe"], [[0.13, 0.21, 0.37]])
    model, _ = stored("hexagonal")
    unit = asymmetric_unit(structure)
    assert possible(np.array(unit.cell))
    return replace(model, table=gsas2.first_table((unit,), MAKE.INSTRUMENT, background=2))


@pytest.mark.slow
def test_gsas2_agrees_with_its_refinements_by_hand(engine, shared):
    from xrdkit.benchmark.gsas2 import second_opinion

    for row in second_opinion(shared / "rietveld", ("NaCl", "TiO2", "CaTiO3")):
        assert abs(row["r_wp"] - row["reference"]) < 0.3
        assert row["parameters"] <= row["reference_parameters"]
        assert row["edges"] < 2e-4


@pytest.mark.slow
def test_both_engines_agree_on_esds(engine, shared):
    (row,) = against_gsas2(shared / "rietveld", ("TiO2",))
    assert row["r_wp"] < row["r_wp_stored"] + 0.15
    assert row["parameters"] <= row["parameters_stored"]
    assert set(row["esd_over_gsas2"]) >= {"a", "c", "x:O1"}
    assert all(abs(off) < 2.5 for off in row["off_truth_in_esd"].values())
    assert all(abs(ratio - 1) < 0.2 for ratio in row["esd_over_gsas2"].values())
