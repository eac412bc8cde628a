"""What is typed or dropped in a widget -> values, by the parsers of the command line."""

import re
import tempfile
from argparse import ArgumentTypeError
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from xrdkit.cli import words
from xrdkit.formats.container import LARGEST
from xrdkit.generators.asked import source_of
from xrdkit.phases.compounds import read_structure
from xrdkit.problem import parse_elements, parse_formula, usable_cell, usable_size
from xrdkit.space_group import space_group_number
from xrdkit.wavelengths import radiation

MOST_BYTES = 8_000_000  # of a dropped file: Jupyter ends a connection at 10 MB a message
DASHES = "-‐‑–—−"  # between elements
MOST_STEPS, MOST_GUIDANCE = 1000, 10.0
WRONG = (ValueError, OSError, ArgumentTypeError)  # what wrong input raises
T = TypeVar("T")


def sentence(error: Exception) -> str:
    """The message of an error on one line; of a system error, which file it is about."""
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename or 'system'}: {error.strerror}"
    return " ".join(str(error).split())


def dropped(name: str, data: bytes, read: Callable[[Path], T]) -> T:
    """What ``read`` makes of a file that came as bytes; it is gone afterwards."""
    if len(data) > MOST_BYTES:
        raise ValueError(too_large(name, len(data)))
    plain = re.sub(r"[^\w.+-]", "_", Path(name).name)[-80:].lstrip(".") or "file"
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, plain)
        path.write_bytes(data)
        try:
            return read(path)
        except ValueError as error:  # which names the file where it was for a moment
            said = str(error).replace(str(path), name)
            raise ValueError(said if name in said else f"{name}: {said}") from error


def received(said: dict, data: list, read: Callable[[Path], T]) -> T:
    """What ``read`` makes of a file that the browser sent, or kept as too large."""
    if not data:
        raise ValueError(too_large(str(said["name"]), int(said["size"])))
    return dropped(str(said["name"]), bytes(data[0]), read)


def too_large(name: str, size: int) -> str:
    """Why a file of so many bytes is not taken from the browser."""
    return (
        f"{name} has {size / 1e6:.0f} MB, at most {MOST_BYTES / 1e6:.0f} MB go through the "
        f"browser; give its path in Python (up to {LARGEST} MB are read)"
    )


def formula(text: str) -> str:
    """A formula that can be read, as typed."""
    parse_formula(text)
    return text


def composition(text: str) -> dict[str, Any]:
    """What ``solve`` is told: the formula that is typed, or elements (Ti-O or Ti, O)."""
    found = re.split(rf"\s*[{DASHES},;]\s*", text.strip().rstrip(",; "))
    if len(found) > 1 and all(re.fullmatch("[A-Z][a-z]?", part) for part in found):
        return {"elements": parse_elements(found)}
    return {"formula": formula(text)}


def cell(text: str) -> tuple[float, ...] | None:
    """Six numbers with commas or spaces, in Å and °; None if nothing is typed."""
    given = re.sub(r"[\s,;]+", ",", text.strip()).strip(",")
    return usable_cell(words.cell(given)) if given else None


def space_group(text: str) -> int | None:
    """The number of a space group given by number or symbol."""
    return space_group_number(words.number(text.strip())) if text.strip() else None


def size(text: str) -> float | None:
    """The size of nanocrystals in Å; None if nothing is typed."""
    if not text.strip():
        return None
    try:
        number = float(text)
    except ValueError as error:
        raise ValueError(
            f"{text!r} is not a size in Å; type a number such as 30"
        ) from error
    return usable_size(number)


def weights(text: str) -> str | None:
    """Name, file or address of weights that draw structures; None if nothing is typed."""
    given = text.strip() or None
    if given is not None:
        source_of(given)
    return given


def steps(number: int) -> int:
    """Steps in which a flow draws."""
    if not 2 <= number <= MOST_STEPS:
        raise ValueError(f"{number} steps are asked for; give 2 to {MOST_STEPS:,}")
    return number


def guidance(number: float) -> float:
    """How far a flow follows the pattern."""
    if not 0 <= number <= MOST_GUIDANCE:
        raise ValueError(
            f"a guidance of {number:g} is asked for; give 0 (none) to {MOST_GUIDANCE:g}, "
            "1 is what was learned"
        )
    return number


def phases(text: str) -> tuple[str, ...]:
    """Formulas and CIF files, separated by commas; each must be readable."""
    given = tuple(filter(None, (part.strip() for part in text.split(","))))
    for one in given:
        if one.lower().endswith(".cif"):
            read_structure(one)
        else:
            parse_formula(one)
    return given


def wavelength(text: str) -> Any:
    """What ``xrdkit.read`` takes as wavelength; None if nothing is typed."""
    given = words.wavelength(text.strip()) if text.strip() else None
    if given is not None:
        radiation(given)
    return given
