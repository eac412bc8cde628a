"""The rules that hold for the project as a whole: layout, imports, README, CI, Binder."""

import ast
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tomllib
from pathlib import Path

import pytest

import xrdkit

ROOT = Path(__file__).parents[1]
ORDER = (
    "types progress files wavelengths scattering profile disturb simulate q_profile "
    "density metrics formats peaks background pattern space_group crystal nanocrystal cell "
    "indexing dataset canonical packed structure_types library prototypes problem models "
    "evidence confidence rank refine phases generators train retrieve solve benchmark "
    "report batch cli __main__"
).split()
BARE = (
    "types scattering profile simulate q_profile density metrics packed models train"
).split()
OPTIONAL = {"pymatgen", "spglib", "gemmi", "pybaselines"}
JUPYTER = {"IPython", "ipywidgets", "anywidget", "ipykernel", "nglview", "plotly"}
MODULES = sorted(p for p in (ROOT / "xrdkit").rglob("*.py") if p.name != "make.py")


def code_block(name: str) -> str:
    """The code block of README.md that follows the comment ``<!-- name``."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    return re.search(rf"<!-- {name}[^\n]*-->\n+```\w+\n(.*?)```", text, re.S)[1].strip()


def run(command: list[str], folder: Path, **more: str) -> str:
    """What a command prints that must succeed, with the xrdkit that is tested here.

    ``more`` are variables of its environment.
    """
    done = subprocess.run(
        command,
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(Path(xrdkit.__file__).parents[1]), **more},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def package_part(path: Path) -> str:
    """The word of ORDER for a file: its module, or the folder it is in."""
    return path.relative_to(ROOT / "xrdkit").with_suffix("").parts[0]


def imported(path: Path, *, inside: bool = True) -> set[str]:
    """Full names that a file imports, ``inside`` its functions too."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    package = ("xrdkit", *path.relative_to(ROOT / "xrdkit").parts[:-1])
    nodes = ast.walk(tree) if inside else tree.body
    names = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else ()
            stem = ".".join(filter(None, (*above, node.module)))
            names |= {f"{stem}.{alias.name}" for alias in node.names}
    return names


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_run_one_way(path):
    own = package_part(path)
    if own in ("__init__", "examples"):
        return  # the names of the package, and data
    assert own in ORDER, f"say in ORDER (and in CONTRIBUTING.md) where '{own}' belongs"
    for name in imported(path):
        head, _, rest = name.partition(".")
        part = rest.partition(".")[0]
        if (path.name, part) == ("types.py", "report"):
            continue  # how values look in a notebook; inside a function
        if head == "xrdkit" and part in ORDER:
            assert ORDER.index(part) <= ORDER.index(own), f"{own} imports {part}"


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(ROOT)))
def test_toolkit_imports_no_jupyter_and_no_widgets(path):
    heads = {name.partition(".")[0] for name in imported(path)}
    assert not heads & (JUPYTER | {"papermill", "xrdkit_widgets"})


@pytest.mark.parametrize("name", BARE)
def test_bare_gpu_machine_can_import(name):
    for path in MODULES:
        if package_part(path) == name:
            heads = {n.partition(".")[0] for n in imported(path, inside=False)}
            assert not heads & OPTIONAL, path


def test_order_is_the_one_in_contributing():
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    listed = re.search(r"(    types, .*?)\n\n", text, re.S)[1]
    assert re.split(r",\s+", listed.strip()) == ORDER


def test_import_is_immediate_and_submodule_does_not_hide_the_function(tmp_path):
    code = (
        "import sys, xrdkit; assert 'torch' not in sys.modules; import xrdkit.solve; "
        "assert xrdkit.solve.__name__ == 'solve' and callable(xrdkit.solve)"
    )
    run([sys.executable, "-c", code], tmp_path)


def test_every_public_name_loads():
    assert all(getattr(xrdkit, name) is not None for name in xrdkit.__all__)
    with pytest.raises(AttributeError, match="no attribute 'sovle'"):
        xrdkit.sovle  # noqa: B018


def test_version_is_the_same_everywhere():
    assert f"\nversion: {xrdkit.__version__}\n" in (ROOT / "CITATION.cff").read_text()


def test_ci_runs_the_test_command_of_the_readme(tmp_path):
    shown = run(["bash", str(ROOT / ".ci/run"), "--show"], tmp_path).strip()
    assert shown == code_block("command-tests")
    assert "pytest -m 'not slow'" in shown
    written = (ROOT / ".ci/run").read_text(encoding="utf-8")
    assert "not slow" not in written, "the fast suite is written once, in README.md"


def test_binder_agrees_with_the_project():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))[
        "project"
    ]
    environment = (ROOT / "binder/environment.yml").read_text(encoding="utf-8")
    lines = re.findall(r"^ *- ([^#\s:]+)", environment, re.M)
    torch = next(d for d in project["dependencies"] if d.startswith("torch"))
    assert set(project["optional-dependencies"]["lab"]) <= set(lines)
    assert torch.replace("torch", "pytorch-cpu") in lines
    assert "python=" + project["requires-python"].removeprefix(">=") in lines
    assert "set -e" in (ROOT / "binder/postBuild").read_text(encoding="utf-8")


@pytest.mark.slow
def test_post_build_installs_a_clean_copy_that_runs_elsewhere(tmp_path):
    leave = shutil.ignore_patterns(".*", "__pycache__", "build", "*.egg-info", "runs")
    shutil.copytree(ROOT, tmp_path / "copy", ignore=leave)
    run([sys.executable, "-m", "venv", "fresh"], tmp_path)
    fresh = tmp_path / "fresh" / "bin"
    path = f"{fresh}{os.pathsep}{os.environ['PATH']}"
    run(["bash", "binder/postBuild"], tmp_path / "copy", PATH=path, PIP_NO_DEPS="1")
    others = sysconfig.get_path("purelib")  # what conda brings to Binder
    code = (
        f"import sys; sys.path.append({others!r}); "
        "import xrdkit, xrdkit_widgets; from xrdkit.problem import load_library; "
        "xrdkit_widgets.SolveWidget(xrdkit.examples.path('rutile'), 'TiO2'); "
        "load_library(None); print(xrdkit.__file__)"
    )
    seen = run([str(fresh / "python"), "-c", code], tmp_path, PYTHONPATH="")
    assert str(tmp_path / "fresh") in seen


@pytest.mark.slow
def test_python_code_of_the_readme_runs(tmp_path):
    printed = run([sys.executable, "-c", code_block("example-python")], tmp_path)
    assert "P4_2/mnm" in printed
    assert (tmp_path / "rutile.cif").read_text().startswith("# generated")


@pytest.mark.slow
def test_example_command_of_the_readme_runs(tmp_path):
    command = code_block("command-example").split("&& xrdkit ")[-1]
    assert "P4_2/mnm" in run(
        ["bash", "-c", f"{sys.executable} -m xrdkit {command}"], tmp_path
    )
