"""``xrdkit solve``: a pattern and a formula, or elements, to ranked structures."""

import argparse
from pathlib import Path

from xrdkit.cli.inputs import add_pattern, bar, measured, plain_errors, plain_warnings, warn
from xrdkit.cli.words import SOURCES, cell, number, pattern_path, positive


def add_options(sub: argparse.ArgumentParser) -> None:
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
