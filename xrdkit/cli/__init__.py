"""The command ``xrdkit``: words become function calls; each subcommand calls one function.

Imports stand inside the functions, so that ``xrdkit --help`` is immediate.
"""

import argparse
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import NoReturn

BAD_INPUT, STOPPED = 2, 130


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; 0, or 2 with one sentence on bad input, or 130 when interrupted."""
    for stream in (sys.stdout, sys.stderr):  # one without Å or α must not stop us
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")
    try:
        arguments = parser().parse_args(argv)
        with ended_like_ctrl_c():
            arguments.run(arguments)
    except SystemExit as finished:  # what is wrong has been said, or help printed
        return int(finished.code or 0)
    except KeyboardInterrupt:
        print("xrdkit: stopped; finished files are whole", file=sys.stderr)
        return STOPPED
    except (ValueError, OSError) as error:
        print(f"xrdkit: error: {_sentence(error)}", file=sys.stderr)
        return BAD_INPUT
    return 0


@contextmanager
def ended_like_ctrl_c() -> Iterator[None]:
    """SIGTERM and SIGHUP interrupt as Ctrl-C does: no process, no half file stays."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    signals = [getattr(signal, n) for n in ("SIGTERM", "SIGHUP") if hasattr(signal, n)]
    before = {s: signal.signal(s, signal.default_int_handler) for s in signals}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _sentence(error: Exception) -> str:
    """The message on one line; of a system error, what it says and of which file."""
    if isinstance(error, OSError) and error.strerror:
        return (
            f"{error.filename or 'system'}: {error.strerror}; check the name and the rights"
        )
    return " ".join(str(error).split())


class Parser(argparse.ArgumentParser):
    """An argparse parser that reports a wrong command line in one sentence too."""

    def error(self, message: str) -> NoReturn:
        """Say what is wrong and end with 2."""
        self.exit(BAD_INPUT, f"xrdkit: error: {message}; see {self.prog} --help\n")


def parser() -> argparse.ArgumentParser:
    """All subcommands and their options."""
    from xrdkit import __version__
    from xrdkit.cli import (
        batching,
        benchmarks,
        indexing,
        libraries,
        refinement,
        retrieval,
        simulation,
        solving,
        training,
    )

    commands = {
        "solve": (solving, "rank structures for a measured pattern"),
        "refine": (refinement, "refine a CIF against a measured pattern"),
        "batch": (batching, "solve many patterns, listed in a table"),
        "index": (indexing, "cells that explain the lines"),
        "simulate": (simulation, "the pattern of a CIF"),
        "library": (libraries, "build or describe a structure library"),
        "retrieve": (retrieval, "known structures nearest a pattern"),
        "train": (training, "train networks from structure tables"),
        "benchmark": (benchmarks, "the tables of BENCHMARKS.md"),
    }
    top = Parser(
        "xrdkit", description="Powder X-ray pattern + formula -> crystal structures."
    )
    top.add_argument("--version", action="version", version=f"xrdkit {__version__}")
    subs = top.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, (module, text) in commands.items():
        module.add_options(subs.add_parser(name, help=text))
    return top
