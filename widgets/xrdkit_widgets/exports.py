"""Files that are written from the table of candidates."""

import csv
import io
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from xrdkit.files import check_writable, write_text
from xrdkit.report import write_cif, write_csv, write_html
from xrdkit.report.handover import input_name
from xrdkit.report.results import PROGRAMS, SUFFIXES
from xrdkit.types import Fit, Pattern, Solution


@dataclass(frozen=True)
class Exports:
    """A solution, the rank (1: the best) that is meant, and notes by rank."""

    solution: Solution
    pattern: Pattern | None
    name: str
    rank: int
    notes: dict[int, str]

    @property
    def fit(self) -> Fit:
        """The fit that is meant."""
        return self.solution.fits[self.rank - 1]

    @property
    def own(self) -> str:
        """Name of the files of this fit alone."""
        return f"{self.name}_{self.rank:02}"

    def write(self, what: str, folder: Path, *, replace: bool = False) -> list[Path]:
        """Write "cif", "csv", "html" or the input of a program; return the files.

        A file that exists is an error unless it may be replaced.
        """
        if not self.solution.fits:
            raise ValueError("no structure was found; there is nothing to write")
        if folder.exists() and not folder.is_dir():
            raise ValueError(f"{folder} is a file; give a folder for the results")
        check_writable(folder)
        planned = self._planned()
        if what not in planned:
            raise ValueError(
                f"{what!r} cannot be written; choose from {', '.join(planned)}"
            )
        names, write = planned[what]
        taken = [folder / name for name in names if (folder / name).exists()]
        if taken and not replace:
            raise ValueError(
                f"{taken[0]} exists already; tick 'replace files' or give another folder"
            )
        folder.mkdir(parents=True, exist_ok=True)
        return write(folder)

    def _planned(self) -> dict[str, tuple[list[str], Callable[[Path], list[Path]]]]:
        """Of everything that can be written, its files and what writes them."""
        table = [f"{self.name}.csv"] + [f"{self.name}_notes.csv"] * bool(self.notes)
        planned = {
            "cif": ([f"{self.own}.cif"], self._write_cif),
            "csv": (table, self._write_tables),
            "html": ([f"{self.name}.html"], self._write_html),
        }
        for program in PROGRAMS if self.pattern is not None else ():
            stem = input_name(self.own, program)
            names = [stem + end for end in SUFFIXES[program]]
            planned[program] = (
                names,
                lambda folder, p=program: self._write_input(p, folder),
            )
        return planned

    def _write_cif(self, folder: Path) -> list[Path]:
        return [write_cif(self.fit, folder / f"{self.own}.cif")]

    def _write_html(self, folder: Path) -> list[Path]:
        path = folder / f"{self.name}.html"
        return [write_html(self.solution, path, pattern=self.pattern)]

    def _write_input(self, program: str, folder: Path) -> list[Path]:
        """The input of a Rietveld program and its data, from the pattern as measured."""
        return PROGRAMS[program](self.fit, self.pattern, folder, self.own)

    def _write_tables(self, folder: Path) -> list[Path]:
        """The table of structures and, where there are notes, those beside it."""
        written = [write_csv(self.solution, folder / f"{self.name}.csv")]
        if self.notes:
            text = io.StringIO()
            table = csv.writer(text, lineterminator="\n")
            table.writerow(["rank", "note"])
            table.writerows(sorted(self.notes.items()))
            path = folder / f"{self.name}_notes.csv"
            written.append(write_text(path, text.getvalue()))
        return written
