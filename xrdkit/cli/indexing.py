"""``xrdkit index``: cells that explain the lines of a pattern."""

import argparse
from typing import TYPE_CHECKING

from xrdkit.cli.inputs import add_pattern, bar, measured, warn
from xrdkit.cli.words import cell, positive

if TYPE_CHECKING:
    from xrdkit.generators.cells import IndexedCell
    from xrdkit.types import Pattern


def add_options(sub: argparse.ArgumentParser) -> None:
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
