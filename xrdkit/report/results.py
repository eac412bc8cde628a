"""The folder of results of one sample: what is in it, what is written, what is replaced."""

from collections.abc import Callable, Sequence
from pathlib import Path

from xrdkit.files import check_writable
from xrdkit.report.cif import write_cif
from xrdkit.report.fullprof import write_fullprof
from xrdkit.report.html import write_html
from xrdkit.report.tables import write_csv
from xrdkit.report.topas import write_topas
from xrdkit.types import Pattern, Solution

PROGRAMS: dict[str, Callable[..., list[Path]]] = {
    "topas": write_topas,
    "fullprof": write_fullprof,
}
WRITTEN = (".csv", ".html", ".inp", ".xye", ".pcr", ".dat")  # beside the numbered CIFs


def check_output(folder: str | Path, name: str, overwrite: bool = False) -> Path:
    """The folder, if it can be written and holds no results of this name that must stay."""
    folder = Path(folder)
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{folder} is a file; give a folder for the results")
    check_writable(folder)
    if results_of(folder, name) and not overwrite:
        raise ValueError(
            f"{folder} holds results of {name} already; "
            "give --overwrite or another folder with --out"
        )
    return folder


def results_of(folder: Path, name: str) -> list[Path]:
    """The files that an earlier run of this name left."""
    numbered = [
        path
        for path in folder.glob("*.cif")
        if path.stem.startswith(f"{name}_") and path.stem[len(name) + 1 :].isdigit()
    ]
    others = [folder / f"{name}{suffix}" for suffix in WRITTEN]
    return sorted([*numbered, *(path for path in others if path.exists())])


def write_solution(
    solution: Solution,
    folder: str | Path,
    name: str,
    *,
    pattern: Pattern | None = None,
    programs: Sequence[str] = (),
) -> list[Path]:
    """CIFs, CSV and HTML report, each whole or not at all; older results are replaced.

    ``programs`` ("topas", "fullprof") get an input that starts from the first fit; they
    need the ``pattern`` as measured.
    """
    for program in programs:
        if program not in PROGRAMS:
            raise ValueError(
                f"program {program!r} is not known; choose from {', '.join(PROGRAMS)}"
            )
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    old = results_of(folder, name)
    written = [
        *write_cifs(solution, folder, name),
        write_csv(solution, folder / f"{name}.csv"),
        write_html(solution, folder / f"{name}.html", pattern=pattern),
    ]
    if pattern is not None and solution.fits:
        for program in programs:
            written += PROGRAMS[program](solution.fits[0], pattern, folder, name)
    for path in old:
        if path not in written:
            path.unlink()
    return written


def write_cifs(solution: Solution, folder: str | Path, name: str) -> list[Path]:
    """Every ranked structure as NAME_01.cif, NAME_02.cif … in its standard setting."""
    digits = max(2, len(str(len(solution.fits))))
    return [
        write_cif(fit, Path(folder) / f"{name}_{rank:0{digits}}.cif")
        for rank, fit in enumerate(solution.fits, 1)
    ]
