"""A project of GSAS-II that starts from a fit, to go on by hand."""

from pathlib import Path

from xrdkit.refine.gsas2 import write_project
from xrdkit.report.handover import input_name
from xrdkit.types import Fit, Pattern


def write_gsas2(fit: Fit, pattern: Pattern, folder: str | Path, name: str) -> list[Path]:
    """NAME_gsas2.gpx, with data, phases and profile; scale and background are adjusted.

    GSAS-II itself writes it, and must be there. ``pattern`` is as measured.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    return [write_project(fit, pattern, folder / f"{input_name(name, 'gsas2')}.gpx")]
