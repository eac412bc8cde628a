"""The folder of results of one sample: what is in it, what is written, what is replaced."""

import warnings
from collections.abc import Callable, Sequence
from pathlib import Path

from xrdkit.files import check_writable
from xrdkit.report.cif import data_name, write_cif
from xrdkit.report.fullprof import write_fullprof
from xrdkit.report.html import write_html
from xrdkit.report.tables import write_csv
from xrdkit.report.topas import write_topas
from xrdkit.types import Pattern, Solution

PROGRAMS: dict[str, Callable[..., list[Path]]] = {
    "topas": write_topas,
    "fullprof": write_fullprof,
}
WRITTEN = (".csv", ".html")  # beside the numbered CIFs
INPUTS = (".inp", ".xye", ".pcr", ".dat")  # named by ``data_name``


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
    others += [folder / f"{data_name(name)}{suffix}" for suffix in INPUTS]
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
    need the ``pattern`` as measured. One that cannot take the structure is left out, with
    a warning that says why.
    """
    for program in programs:
        if program not in PROGRAMS:
            raise ValueError(
                f"program {program!r} is not known; choose from {', '.join(PROGRAMS)}"
            )
    if programs and pattern is None:
        raise ValueError(
            f"inputs of {', '.join(programs)} need data; give the pattern as measured"
        )
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    old = results_of(folder, name)
    written = [
        *write_cifs(solution, folder, name),
        write_csv(solution, folder / f"{name}.csv"),
        write_html(solution, folder / f"{name}.html", pattern=pattern),
    ]
    for program in programs if pattern is not None and solution.fits else ():
        try:
            written += PROGRAMS[program](solution.fits[0], pattern, folder, name)
        except ValueError as error:
            warnings.warn(f"no input of {program} is written: {error}", stacklevel=2)
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
