"""The folder of results of one sample: what is in it, what is written, what is replaced."""

import re
import warnings
from collections.abc import Callable, Collection, Sequence
from pathlib import Path

from xrdkit.files import check_writable, write_text
from xrdkit.refine.gsas2 import GSAS2Error, installed, version
from xrdkit.report.cif import write_cif
from xrdkit.report.fullprof import write_fullprof
from xrdkit.report.gsas2 import write_gsas2
from xrdkit.report.handover import input_name
from xrdkit.report.html import write_html
from xrdkit.report.tables import write_csv
from xrdkit.report.topas import write_topas
from xrdkit.types import Pattern, Solution

PROGRAMS: dict[str, Callable[..., list[Path]]] = {
    "topas": write_topas,
    "fullprof": write_fullprof,
}
if installed():
    PROGRAMS["gsas2"] = write_gsas2  # which GSAS-II itself writes
SUFFIXES = {"topas": (".inp", ".xye"), "fullprof": (".pcr", ".dat"), "gsas2": (".gpx",)}
MANIFEST = "files written by xrdkit; with --overwrite these are replaced, and no others"


def check_output(
    folder: str | Path, name: str, overwrite: bool = False, programs: Sequence[str] = ()
) -> Path:
    """The folder, if it can be written and holds nothing of this name that must stay."""
    folder = Path(folder)
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{folder} is a file; give a folder for the results")
    check_writable(folder)
    _check_free(folder, name, outputs(folder, name, programs=programs))
    check_programs(programs)
    if results_of(folder, name) and not overwrite:
        raise ValueError(
            f"{folder} holds results of {name} already; "
            "give --overwrite or another folder with --output"
        )
    return folder


def check_programs(programs: Sequence[str]) -> None:
    """An error that says what to do where one is not known, or GSAS-II not there."""
    if "gsas2" in programs:
        version()
    for program in programs:
        if program not in PROGRAMS:
            raise ValueError(
                f"program {program!r} is not known; choose from {', '.join(PROGRAMS)}"
            )


def outputs(
    folder: Path, name: str, count: int = 99, programs: Sequence[str] = ()
) -> list[Path]:
    """What a run writes for so many structures: list, CIFs, CSV, report, inputs."""
    digits = max(2, len(str(count)))
    names = [f"{name}_xrdkit.txt"]
    names += [f"{name}_{rank:0{digits}}.cif" for rank in range(1, count + 1)]
    names += [f"{name}.csv", f"{name}.html"]
    names += [input_name(name, p) + end for p in programs for end in SUFFIXES[p]]
    return [folder / one for one in names]


def results_of(folder: Path, name: str) -> list[Path]:
    """The files that an earlier run of this name wrote, by the list that it left."""
    manifest, *_ = outputs(folder, name)
    try:
        head, *lines = manifest.read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError):  # none there, or none of ours
        return []
    if head != MANIFEST:
        return []
    fixed = {path.name for path in outputs(folder, name, 0, tuple(SUFFIXES))}
    numbered = re.compile(re.escape(name) + r"_\d{2,}\.cif")
    known = [one for one in lines if one in fixed or numbered.fullmatch(one)]
    return sorted(folder / one for one in known if (folder / one).is_file())


def _check_free(folder: Path, name: str, planned: list[Path]) -> None:
    """An error where a file is in the way that no earlier run of this name wrote."""
    old = results_of(folder, name)
    taken = [path for path in planned if path.exists() and path not in old]
    if taken:
        raise ValueError(
            f"{taken[0]} is no result of {name} and would be overwritten; "
            "give another folder with --output"
        )


def _write_manifest(path: Path, files: Collection[Path]) -> Path:
    return write_text(path, "\n".join([MANIFEST, *sorted(one.name for one in files), ""]))


def write_solution(
    solution: Solution,
    folder: str | Path,
    name: str,
    *,
    pattern: Pattern | None = None,
    programs: Sequence[str] = (),
) -> list[Path]:
    """CIFs, CSV and HTML report, each whole or not at all; older results are replaced.

    NAME_xrdkit.txt lists what is written: only files that it lists are replaced or
    deleted, and a file of another origin that is in the way is an error.
    ``programs`` ("topas", "fullprof", "gsas2") get an input that starts from the first fit;
    they need the ``pattern`` as measured. One that cannot take the structure is left out,
    with a warning that says why.
    """
    check_programs(programs)
    if programs and pattern is None:
        raise ValueError(
            f"inputs of {', '.join(programs)} need data; give the pattern as measured"
        )
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    planned = outputs(folder, name, len(solution.fits), programs)
    _check_free(folder, name, planned)
    manifest, old = planned[0], results_of(folder, name)
    _write_manifest(manifest, {*planned, *old})
    written = [
        manifest,
        *write_cifs(solution, folder, name),
        write_csv(solution, folder / f"{name}.csv"),
        write_html(solution, folder / f"{name}.html", pattern=pattern),
    ]
    for program in programs if pattern is not None and solution.fits else ():
        try:
            written += PROGRAMS[program](solution.fits[0], pattern, folder, name)
        except (ValueError, GSAS2Error) as error:
            warnings.warn(f"no input of {program} is written: {error}", stacklevel=2)
    for path in old:
        if path not in written:
            path.unlink()
    _write_manifest(manifest, written)
    return written


def write_cifs(solution: Solution, folder: str | Path, name: str) -> list[Path]:
    """Every ranked structure as NAME_01.cif, NAME_02.cif … in its standard setting."""
    paths = outputs(Path(folder), name, len(solution.fits))[1:-2]
    return [write_cif(fit, path) for fit, path in zip(solution.fits, paths, strict=True)]
