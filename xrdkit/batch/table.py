"""A table of samples, one a row: what its columns mean, and every bad cell by its row."""

import csv
import re
from collections import Counter
from collections.abc import Callable, Container
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from xrdkit.examples import path as example
from xrdkit.pattern import crop, exclude, read
from xrdkit.problem import check_known, parse_formula
from xrdkit.types import Pattern

MAX_ROWS, MAX_BYTES = 100_000, 50_000_000
NAME = re.compile(r"\w[\w .+=@()-]{0,99}(?<![ .])")
RESERVED = {"index.html", "summary.csv"}
YES = {"yes": True, "true": True, "1": True, "no": False, "false": False, "0": False}


class BadTable(ValueError):
    """A table of which no row can be solved; ``sentences`` says why, of each."""

    def __init__(self, sentences: list[str]) -> None:
        super().__init__("\n".join(sentences))
        self.sentences = sentences


@dataclass(frozen=True)
class Row:
    """One sample: its pattern, what of it is used (2θ, °), and what ``solve`` is told.

    The formula is None where ``elements`` are given instead.
    """

    name: str
    pattern: Path
    formula: str | None
    wavelength: str | tuple[float, ...] | None = None
    range: tuple[float, ...] | None = None
    exclude_range: tuple[tuple[float, ...], ...] = ()
    given: dict[str, Any] = field(default_factory=dict)

    def measured(self) -> Pattern:
        """What is used of the pattern."""
        pattern = read(self.pattern, wavelength=self.wavelength)
        pattern = crop(pattern, *self.range) if self.range else pattern
        return exclude(pattern, *self.exclude_range)

    @property
    def known(self) -> str:
        """The formula, or elements like Ti-O."""
        return self.formula or "-".join(self.given["elements"])

    @property
    def files(self) -> list[Path]:
        """All files that decide the answer."""
        several = (*self.given.get("weights", ()), *self.given.get("phases", ()))
        named = (self.given.get("library"), *several)
        return [self.pattern, *(path for path in named if isinstance(path, Path))]


@dataclass(frozen=True)
class Fault:
    """A row that cannot be solved as it stands, and why."""

    name: str
    known: str
    why: str


def _numbers(text: str, count: int, example: str) -> tuple[float, ...]:
    try:
        values = tuple(float(part) for part in text.replace(" ", "").split(","))
    except ValueError:
        values = ()
    if len(values) != count:
        raise ValueError(
            f"'{text}' is not {count} number{'s' * (count > 1)} like {example}"
        )
    return values


def _cell(text: str) -> tuple[float, ...]:
    return _numbers(text, 6, "4.59,4.59,2.96,90,90,90")


def _span(text: str) -> tuple[float, ...]:
    return _numbers(text, 2, "10,80")


def _parts(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(";") if part.strip())


def _spans(text: str) -> tuple[tuple[float, ...], ...]:
    return tuple(_span(part) for part in _parts(text))


def _wavelength(text: str) -> str | tuple[float, ...]:
    return _numbers(text, 2, "1.54056,1.54439") if text.count(",") == 1 else text


def _number(text: str) -> float:
    return _numbers(text, 1, "30")[0]


def _whole(text: str) -> int:
    if not text.isdigit():
        raise ValueError(f"'{text}' is not a whole number")
    return int(text)


def _positive(text: str) -> int:
    if not _whole(text):
        raise ValueError("0 candidates are asked for; give at least 1")
    return int(text)


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.replace(";", " ").split())


def _group(text: str) -> int | str:
    return int(text) if text.isdigit() else text


def _yes(text: str) -> bool:
    if text.lower() not in YES:
        raise ValueError(f"'{text}' is not yes or no")
    return YES[text.lower()]


SAMPLE: dict[str, Callable[[str], Any]] = {
    "wavelength": _wavelength,
    "range": _span,
    "exclude_range": _spans,
}
GIVEN: dict[str, Callable[[str], Any]] = {
    "elements": _words,
    "contents": str,
    "cell": _cell,
    "space_group": _group,
    "size": _number,
    "phases": _parts,
    "index": _yes,
    "library": str,
    "exclude": _parts,
    "sources": _parts,
    "weights": _parts,
    "candidates": _positive,
    "seed": _whole,
    "engine": str,
}
COLUMNS = ("pattern", "formula", "name", *SAMPLE, *GIVEN)


def read_table(path: str | Path) -> list[Row | Fault]:
    """Rows of a CSV file (commas, semicolons or tabs), its first line the names of columns.

    ``pattern`` (a file, seen from the table's folder, or example:rutile) and ``formula``
    are needed, or ``elements`` (Ti O) where the formula is not known. ``name`` names the
    results, by default as the file. The other columns are those of COLUMNS, in the words of
    ``xrdkit solve``; an empty cell says nothing. Several phases, ranges and so on are
    separated by semicolons. A row that says what cannot be is a Fault. Raises ValueError
    for a file that is no such table, or names two rows alike.
    """
    path = Path(path)
    rows = [_read(number, cells, path.parent) for number, cells in _cells(path)]
    taken = Counter(row.name.casefold() for row in rows)
    if twice := [name for name, count in taken.items() if count > 1]:
        raise ValueError(
            f"{taken[twice[0]]} rows of {path} have the name '{twice[0]}'; "
            "name them apart in a column 'name'"
        )
    return rows


def _read(number: int, cells: dict[str, str], folder: Path) -> Row | Fault:
    try:
        return _row(cells, folder)
    except (ValueError, OSError) as error:
        name = cells.get("name", Path(cells.get("pattern", "")).stem)
        return Fault(
            f"row {number}" + f" ({name})" * bool(name),
            cells.get("formula") or cells.get("elements", ""),
            str(error),
        )


def _cells(path: Path) -> list[tuple[int, dict[str, str]]]:
    """The number in the file and the filled cells of each row."""
    if not path.is_file():
        raise FileNotFoundError(f"there is no table {path}; check the name and the folder")
    if path.stat().st_size > MAX_BYTES:
        raise ValueError(f"{path} is over {MAX_BYTES // 1_000_000} MB; split the table")
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not text in UTF-8; save it as CSV UTF-8") from error
    first = text.partition("\n")[0]
    table = csv.reader(text.splitlines(), delimiter=max(",;\t", key=first.count))
    lines = [(table.line_num, [c.strip() for c in cells]) for cells in table if any(cells)]
    if not lines:
        raise ValueError(f"{path} is empty; its first line names columns: {_known()}")
    heads = [head.lower().replace(" ", "_") for head in lines[0][1]]
    _check_heads(heads, path)
    if len(lines) == 1:
        raise ValueError(f"{path} has no row below its names of columns; add samples")
    if len(lines) > MAX_ROWS:
        raise ValueError(f"{path} has over {MAX_ROWS:,} rows; split the table")
    if long := [number for number, cells in lines if len(cells) > len(heads)]:
        raise ValueError(
            f"row {long[0]} of {path} has more cells than names of columns; "
            "put quotes around a cell with commas"
        )
    return [
        (n, {h: c for h, c in zip(heads, cells, strict=False) if c})
        for n, cells in lines[1:]
    ]


def _known() -> str:
    return ", ".join(COLUMNS)


def _lacking(given: Container[str]) -> list[str]:
    """What a table or a row must have and has not."""
    known = "formula" in given or "elements" in given
    return ["pattern"] * ("pattern" not in given) + ["formula"] * (not known)


def _check_heads(heads: list[str], path: Path) -> None:
    strange = [head for head in heads if head not in COLUMNS]
    missing = _lacking(heads)
    twice = [head for head, count in Counter(heads).items() if count > 1]
    if strange:
        raise ValueError(f"{path} has a column '{strange[0]}'; known are {_known()}")
    if missing or twice:
        said = f"no column '{missing[0]}'" if missing else f"'{twice[0]}' twice"
        raise ValueError(f"{path} has {said} in its first line; correct it")


def _row(cells: dict[str, str], folder: Path) -> Row:
    """A row from its filled cells, files made absolute and found."""
    if missing := _lacking(cells):
        raise ValueError(f"no {missing[0]} is given; fill it in")
    formula = cells.get("formula")
    if formula is not None:
        parse_formula(formula)
    pattern = _pattern(cells["pattern"], folder)
    name = cells.get("name", pattern.stem)
    if not NAME.fullmatch(name) or name.casefold() in RESERVED:
        raise ValueError(
            f"'{name}' cannot name a folder of results; use letters, digits, - and _ "
            "in the column 'name'"
        )
    words = {key: GIVEN[key](text) for key, text in cells.items() if key in GIVEN}
    if "library" in words:
        words["library"] = _file(words["library"], folder)
    for key, ending in (("weights", ".safetensors"), ("phases", ".cif")):
        if key in words:
            words[key] = tuple(
                _file(one, folder) if one.lower().endswith(ending) else one
                for one in words[key]
            )
    sample = {key: SAMPLE[key](text) for key, text in cells.items() if key in SAMPLE}
    check_known(formula, words.get("elements"))
    return Row(name, pattern, formula, given=words, **sample)


def _pattern(text: str, folder: Path) -> Path:
    if text.startswith("example:"):
        return example(text.removeprefix("example:"))
    return _file(text, folder)


def _file(text: str, folder: Path) -> Path:
    path = (folder / text).resolve()
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {text}; it is looked for in {folder}")
    return path
