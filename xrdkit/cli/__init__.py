"""The command ``xrdkit``: words become function calls; each subcommand calls one function.

Imports stand inside the functions, so that ``xrdkit --help`` is immediate.
"""

import argparse
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from xrdkit.cli.inputs import add_pattern, bar, measured, plain_errors, plain_warnings, warn
from xrdkit.cli.words import (
    SOURCES,
    cell,
    number,
    pattern_path,
    positive,
    span,
    wavelength,
)

if TYPE_CHECKING:
    from xrdkit.generators.cells import IndexedCell
    from xrdkit.types import Pattern

BAD_INPUT, STOPPED = 2, 130


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; 0, or 2 with one sentence on bad input, or 130 when interrupted."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(
                errors="replace"
            )  # a terminal without Å or α must not stop us
    try:
        arguments = parser().parse_args(argv)
        with ended_like_ctrl_c():
            arguments.run(arguments)
    except SystemExit as finished:  # argparse has said what is wrong, or printed help
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
    from xrdkit.cli.batching import add_options as add_batch
    from xrdkit.cli.refinement import add_options as add_refine
    from xrdkit.cli.retrieval import add_options as add_retrieve
    from xrdkit.cli.training import add_options as add_train

    top = Parser(
        "xrdkit", description="Powder X-ray pattern + formula -> crystal structures."
    )
    top.add_argument("--version", action="version", version=f"xrdkit {__version__}")
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")
    add_solve(commands.add_parser("solve", help="rank structures for a measured pattern"))
    add_refine(
        commands.add_parser("refine", help="refine a CIF against a measured pattern")
    )
    add_batch(commands.add_parser("batch", help="solve many patterns, listed in a table"))
    add_index(commands.add_parser("index", help="cells that explain the lines"))
    add_simulate(commands.add_parser("simulate", help="the pattern of a CIF"))
    add_library(
        commands.add_parser("library", help="build or describe a structure library")
    )
    add_retrieve(commands.add_parser("retrieve", help="known structures nearest a pattern"))
    add_train(commands.add_parser("train", help="train networks from structure tables"))
    add_benchmark(commands.add_parser("benchmark", help="the tables of BENCHMARKS.md"))
    return top


def add_solve(sub: argparse.ArgumentParser) -> None:
    """Options of ``xrdkit solve``."""
    add_pattern(sub)
    what = sub.add_mutually_exclusive_group(required=True)
    what.add_argument("--formula", help="chemical formula, like TiO2")
    what.add_argument("--elements", nargs="+", help="where it is not known, like Ti O")
    sub.add_argument("--contents", help='contents of the cell, like "Ti2 O4"')
    sub.add_argument("--cell", type=cell, help="a,b,c,α,β,γ in Å and °, if it is known")
    sub.add_argument(
        "--index", action="store_true", help="look for cells in the lines first"
    )
    sub.add_argument("--space-group", help="number or symbol, if it is known")
    sub.add_argument("--size", type=float, help="of nanocrystals in Å, if it is known")
    sub.add_argument(
        "--engine",
        choices=("builtin", "gsas2"),
        help="refine the best answers by full profile (R values, e.s.d.s)",
    )
    sub.add_argument("--library", help="library file (default: the shipped prototypes)")
    sub.add_argument(
        "--exclude",
        action="append",
        default=[],
        help="formula to leave out; may be repeated",
    )
    sub.add_argument(
        "--phase",
        action="append",
        default=[],
        metavar="WHAT",
        help="CIF file or formula of a phase known to be in the sample; may be repeated",
    )
    sub.add_argument(
        "--sources", nargs="+", choices=SOURCES, help="default: all with weights, as needed"
    )
    sub.add_argument(
        "--weights",
        nargs="+",
        metavar="WEIGHTS",
        help="of a flow (default: flow_mp20), latent space, density network: names, files",
    )
    sub.add_argument(
        "--for",
        nargs="+",
        dest="programs",
        default=[],
        choices=("topas", "fullprof", "gsas2"),
        help="also write the input of these Rietveld programs",
    )
    sub.add_argument("--candidates", type=positive, default=20, help="structures to keep")
    sub.add_argument("--seed", type=int, default=0)
    sub.add_argument("--device", help="cpu, cuda … (default: cpu)")
    sub.add_argument(
        "-o", "--output", metavar="FOLDER", help="of results (default: NAME_xrdkit)"
    )
    sub.add_argument("--overwrite", action="store_true", help="replace earlier results")
    sub.add_argument("--quiet", action="store_true", help="no progress bar")
    sub.set_defaults(run=run_solve)


def run_solve(args: argparse.Namespace) -> None:
    """Read, solve, print the table, write CIFs, CSV, report and what else is asked for."""
    from xrdkit.report import check_output, solution_text, write_solution
    from xrdkit.solve import solve

    path = pattern_path(args.pattern)
    folder = Path(args.output or f"{path.stem}_xrdkit")
    with plain_errors():
        check_output(folder, path.stem, args.overwrite, args.programs)
    pattern = measured(args)
    with plain_errors():
        solution = solve(
            pattern,
            args.formula,
            elements=args.elements,
            phases=tuple(args.phase),
            index=args.index,
            engine=args.engine,
            contents=args.contents,
            cell=args.cell,
            space_group=number(args.space_group),
            size=args.size,
            library=args.library,
            exclude=tuple(args.exclude),
            sources=args.sources,
            weights=args.weights,
            candidates=args.candidates,
            seed=args.seed,
            device=args.device,
            progress=bar(args),
        )
    warn(solution.problem.pattern.warnings)
    print(solution_text(solution))
    with plain_warnings():
        written = write_solution(
            solution, folder, path.stem, pattern=pattern, programs=args.programs
        )
    print(f"{len(written)} files in {folder}")


def add_index(sub: argparse.ArgumentParser) -> None:
    """Options of ``xrdkit index``."""
    add_pattern(sub)
    sub.add_argument("--formula", help="if it is known: cells must hold it")
    sub.add_argument("--library", help="library file (default: the shipped prototypes)")
    sub.add_argument(
        "--systems",
        default="chtoma",
        help="first letters: cubic, hexagonal, tetragonal, ortho-, mono-, anorthic",
    )
    sub.add_argument("--count", type=positive, default=10, help="cells to print")
    sub.add_argument(
        "--cell", type=cell, help="a,b,c,α,β,γ in Å and ° to be held against the lines"
    )
    sub.add_argument("--centring", default="P", help="of --cell: P, A, C, I, F or R")
    sub.add_argument("--html", metavar="FILE", help="page with the cells over the pattern")
    sub.add_argument("--overwrite", action="store_true", help="replace an earlier page")
    sub.add_argument("--seed", type=int, default=0)
    sub.add_argument("--quiet", action="store_true", help="no progress bar")
    sub.set_defaults(run=run_index)


def run_index(args: argparse.Namespace) -> None:
    """Print cells, best first, with what is to be said of the first ones."""
    from xrdkit.generators.cells import assigned, held_against
    from xrdkit.pattern import prepare
    from xrdkit.report import cells_text, check_file, text_table, write_cells_html

    output = check_file(args.html, args.overwrite) if args.html else None
    pattern = prepare(measured(args))
    warn(pattern.warnings)
    if args.cell:
        cells = [held_against(pattern, args.cell, args.centring)]
        print(text_table(assigned(pattern, cells[0])))
    else:
        cells = found_cells(args, pattern)
    print(cells_text(cells))
    if output:
        print(f"page in {write_cells_html(cells, pattern, output)}")


def found_cells(args: argparse.Namespace, pattern: "Pattern") -> "list[IndexedCell]":
    """Cells that explain the lines of a prepared pattern."""
    from xrdkit.generators.cells import formula_volume, index_steps
    from xrdkit.problem import load_library, parse_formula, reduced
    from xrdkit.solve import run

    volume = None
    if args.formula:
        counts = reduced(parse_formula(args.formula))
        volume = formula_volume(load_library(args.library), counts)
    settings = {"systems": args.systems, "count": args.count, "seed": args.seed}
    return run(index_steps(pattern, volume=volume, **settings), bar(args))


def add_simulate(sub: argparse.ArgumentParser) -> None:
    """Options of ``xrdkit simulate``."""
    sub.add_argument("cif", metavar="CIF")
    sub.add_argument("--wavelength", required=True, help="CuKa, CuKa1, λ or Kα1,Kα2 in Å")
    sub.add_argument(
        "-o", "--output", required=True, metavar="FILE", help="pattern to write"
    )
    sub.add_argument("--range", type=span, default=(5.0, 80.0), help="2θ in °, like 5,80")
    sub.add_argument("--step", type=float, default=0.02, help="step of 2θ in °")
    sub.add_argument("--fwhm", type=float, default=0.1, help="width of lines in °")
    sub.add_argument("--overwrite", action="store_true", help="replace an earlier file")
    sub.set_defaults(run=run_simulate)


def run_simulate(args: argparse.Namespace) -> None:
    """Write the pattern of a structure, its maximum at one."""
    from xrdkit.crystal import from_structures, read_cif
    from xrdkit.pattern import write
    from xrdkit.report import check_file, write_whole
    from xrdkit.simulate import pattern_of
    from xrdkit.types import Instrument
    from xrdkit.wavelengths import radiation

    output = check_file(args.output, args.overwrite)
    low, high = args.range
    points = round((high - low) / args.step) + 1 if args.step > 0 else 0
    if not 2 <= points <= 1_000_000 or not 0 < args.fwhm < 10:
        raise ValueError(
            f"{points} points and lines of {args.fwhm:g}° width; "
            "give a --step for 2 to 1,000,000 points and a --fwhm of 0–10°"
        )
    pattern = pattern_of(
        from_structures([read_cif(args.cif)]),
        radiation(wavelength(args.wavelength)),
        two_theta=(low, high, points),
        instrument=Instrument(w=args.fwhm**2),
    )
    write_whole(output, lambda part: write(pattern, part))
    print(f"{points} points in {output}")


def add_library(sub: argparse.ArgumentParser) -> None:
    """Options of ``xrdkit library``."""
    jobs = sub.add_subparsers(dest="job", required=True, metavar="build|info")
    build = jobs.add_parser("build", help="structure types of tables")
    build.add_argument(
        "tables", nargs="+", metavar="TABLE", help="Parquet, CSV, CIF or folder"
    )
    build.add_argument("-o", "--output", required=True, metavar="FILE")
    build.add_argument("--workers", type=positive, default=1, help="processes")
    build.add_argument("--overwrite", action="store_true", help="replace an earlier file")
    build.add_argument("--quiet", action="store_true", help="no progress bar")
    build.set_defaults(run=run_library_build)
    average = jobs.add_parser("prototypes", help="average the members of each type")
    average.add_argument("library", metavar="FILE", help="library with members")
    average.add_argument("-o", "--output", required=True, metavar="FILE")
    average.add_argument("--overwrite", action="store_true", help="replace an earlier file")
    average.add_argument("--quiet", action="store_true", help="no progress bar")
    average.set_defaults(run=run_library_prototypes)
    info = jobs.add_parser("info", help="what a library holds")
    info.add_argument("library", metavar="FILE")
    info.set_defaults(run=run_library_info)


def run_library_build(args: argparse.Namespace) -> None:
    """Build a library of structure types and write it."""
    from xrdkit.dataset import read_tables
    from xrdkit.library import build_steps, save
    from xrdkit.report import check_file
    from xrdkit.solve import run

    output = check_file(args.output, args.overwrite)
    with plain_warnings():
        table = read_tables(args.tables)
    library = run(build_steps(table, workers=args.workers), bar(args))
    save(library, output)
    print(f"{len(library)} structures of {len(library.type_label)} types in {output}")


def run_library_prototypes(args: argparse.Namespace) -> None:
    """Average a library's types and write the prototypes."""
    from xrdkit.library import load, save
    from xrdkit.prototypes import average_steps
    from xrdkit.report import check_file
    from xrdkit.solve import run

    output = check_file(args.output, args.overwrite)
    prototypes = run(average_steps(load(args.library)), bar(args))
    save(prototypes, output)
    print(f"{len(prototypes)} prototypes in {output}")


def run_library_info(args: argparse.Namespace) -> None:
    """Print size and origin of a library."""
    from xrdkit.library import load

    library = load(args.library)
    kinds = sorted(zip(library.type_size.tolist(), library.type_label, strict=True))[::-1]
    most = int(library.counts.max())
    print(f"{len(library)} structures of {len(kinds)} types, up to {most} atoms")
    for name, value in library.info.items():
        print(f"{name}: {value}")
    print("largest types:")
    for size, label in kinds[:10]:
        print(f"  {label}, {size} members")


def add_benchmark(sub: argparse.ArgumentParser) -> None:
    """Options of ``xrdkit benchmark``."""
    from xrdkit.cli.benchmarks import add_jobs

    add_jobs(sub.add_subparsers(dest="job", required=True, metavar="JOB"))
