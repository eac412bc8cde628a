"""What commands on a measured pattern share: its options, warnings, progress."""

import argparse
import sys
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from xrdkit.cli.words import pattern_path, span, wavelength

if TYPE_CHECKING:
    from xrdkit.types import Pattern, Radiation


def add_pattern(sub: argparse.ArgumentParser) -> None:
    """A measured pattern and what of it is used."""
    sub.add_argument("pattern", metavar="FILE", help="measured pattern, or example:rutile")
    sub.add_argument("--wavelength", help="CuKa, CuKa1, λ in Å, or Kα1,Kα2 in Å")
    sub.add_argument("--range", type=span, metavar="LOW,HIGH", help="2θ in ° to use")
    sub.add_argument(
        "--exclude-range",
        type=span,
        action="append",
        default=[],
        metavar="LOW,HIGH",
        help="2θ in ° to leave out; may be repeated",
    )


def measured(args: argparse.Namespace, beam: "Radiation | None" = None) -> "Pattern":
    """What is used of a measured pattern; ``beam`` unless a wavelength is typed."""
    from xrdkit.pattern import crop, exclude, read

    pattern = read(
        pattern_path(args.pattern), wavelength=wavelength(args.wavelength) or beam
    )
    pattern = crop(pattern, *args.range) if args.range else pattern
    return exclude(pattern, *args.exclude_range)


def warn(sentences: Iterable[str]) -> None:
    """Warnings, one a line, on stderr."""
    for sentence in sentences:
        print(f"xrdkit: warning: {sentence}", file=sys.stderr)


@contextmanager
def plain_warnings() -> Iterator[None]:
    """Warnings of the library as they come, in our words: no file, no line of code."""
    with warnings.catch_warnings():
        warnings.simplefilter("always", UserWarning)
        warnings.showwarning = lambda message, *_, **__: warn([str(message)])
        yield


@contextmanager
def plain_errors() -> Iterator[None]:
    """What GSAS-II says of itself as bad input: one sentence, no traceback."""
    from xrdkit.refine.gsas2 import GSAS2Error

    try:
        yield
    except GSAS2Error as error:
        raise ValueError(str(error)) from error


def bar(args: argparse.Namespace) -> bool:
    """Whether to show a progress bar: not in a log file, not when asked to be quiet."""
    return sys.stderr.isatty() and not args.quiet
