"""What a user types -> values; wrong words are refused with what is allowed."""

import argparse
from collections.abc import Callable
from pathlib import Path

SOURCES = (
    "templates",
    "ordered",
    "hydrogen",
    "flow",
    "latent_search",
    "formulas",
    "density",
)  # of xrdkit.generators, which loads torch


def pattern_path(text: str) -> Path:
    """The file of a pattern; ``example:NAME`` is one that the package ships."""
    if text.startswith("example:"):
        from xrdkit.examples import path

        return path(text.removeprefix("example:"))
    if not Path(text).exists():  # of a folder read says that it is one
        raise FileNotFoundError(f"there is no file {text}; check the name and the folder")
    return Path(text)


def wavelength(text: str | None) -> str | tuple[float, float] | None:
    """A radiation as typed: two numbers with a comma are Kα1 and Kα2."""
    if text is not None and text.count(",") == 1:
        try:
            first, second = (float(part) for part in text.split(","))
        except ValueError:
            return text
        if second < 10:  # else it is one number with a decimal comma
            return first, second
    return text


def number(text: str | None) -> str | int | None:
    """A space group as typed: digits are its number."""
    return int(text) if text is not None and text.isdigit() else text


def numbers(count: int, example: str) -> Callable[[str], tuple[float, ...]]:
    """A reader of so many numbers with commas."""

    def read(text: str) -> tuple[float, ...]:
        try:
            values = tuple(float(part) for part in text.replace(" ", "").split(","))
        except ValueError:
            values = ()
        if len(values) != count:
            raise argparse.ArgumentTypeError(
                f"'{text}' is not {count} numbers like {example}"
            )
        return values

    return read


def cell(text: str) -> tuple[float, ...]:
    """Six cell parameters in Å and °."""
    return numbers(6, "4.59,4.59,2.96,90,90,90")(text)


def span(text: str) -> tuple[float, ...]:
    """Two ascending angles in °."""
    low, high = numbers(2, "5,80")(text)
    if not 0 <= low < high <= 180:
        raise argparse.ArgumentTypeError(f"range {text} is not within 0–180° and ascending")
    return low, high


def axis(text: str) -> tuple[int, ...] | str:
    """Three indices of a texture axis, or "none"."""
    if text == "none":
        return text
    values = numbers(3, "0,0,1 (or none)")(text)
    if not any(values) or any(value not in range(-99, 100) for value in values):
        raise argparse.ArgumentTypeError(
            f"texture axis {text} is not three whole numbers, one of them not zero"
        )
    return tuple(int(value) for value in values)


def tolerance(text: str) -> float:
    """A distance in Å within which atoms count as equivalent."""
    (value,) = numbers(1, "0.01")(text)
    if not 0 < value <= 1:
        raise argparse.ArgumentTypeError(f"'{text}' is not a tolerance of 0 to 1 Å")
    return value


def positive(text: str) -> int:
    """A whole number of at least one."""
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"'{text}' is not a whole number of at least 1")
    return int(text)


def shard(text: str) -> tuple[int, int]:
    """One of several equal parts, like 1/2."""
    parts = text.split("/")
    if len(parts) != 2 or not all(part.isdigit() for part in parts):
        raise argparse.ArgumentTypeError(f"'{text}' is not a shard like 1/2")
    i, k = map(int, parts)
    if not 1 <= i <= k:
        raise argparse.ArgumentTypeError(f"shard {text} is not within 1/{k} to {k}/{k}")
    return i, k
