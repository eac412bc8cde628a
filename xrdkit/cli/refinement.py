"""``xrdkit refine``: structures against a measured pattern, by Rietveld's method."""

import argparse
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from xrdkit.cli.inputs import add_pattern, bar, measured, plain_errors, warn
from xrdkit.cli.words import axis, pattern_path, positive, tolerance

if TYPE_CHECKING:
    from pymatgen.core import Structure

    from xrdkit.types import Fit, Instrument, Pattern, Progress

ENDS = (".cif", ".csv", ".html")
ESD = ("gof", "berar-lelann", "statistical")
BUILT_IN_ONLY = "GSAS-II is not asked for {}; leave it out, or use --engine builtin"


def add_options(sub: argparse.ArgumentParser) -> None:
    """Options of ``xrdkit refine``."""
    add_pattern(sub)
    sub.add_argument("cif", metavar="CIF", help="start; FILE#BLOCK of several structures")
    sub.add_argument(
        "--phase",
        action="append",
        default=[],
        metavar="CIF",
        help="a further phase in the sample; may be repeated",
    )
    sub.add_argument(
        "--symprec",
        type=tolerance,
        metavar="Å",
        help="look for the space group within this (default: the one of the CIF)",
    )
    sub.add_argument("--engine", choices=("builtin", "gsas2"), default="builtin")
    sub.add_argument(
        "--instrument",
        metavar="FILE",
        help=".instprm of GSAS-II or .prm of GSAS; then size and strain are refined",
    )
    sub.add_argument("--background", type=positive, help="Chebyshev terms (default: found)")
    sub.add_argument(
        "--texture",
        type=axis,
        metavar="H,K,L",
        help="March–Dollase axis in the setting of the CIF, or none (default: found)",
    )
    sub.add_argument("--occupancies", action="store_true", help="refine them too")
    sub.add_argument(
        "--pawley", action="store_true", help="only cell and space group of the CIF"
    )
    sub.add_argument(
        "--esd",
        choices=ESD,
        help="what e.s.d.s are multiplied by: GOF (default), Bérar and Lelann's factor, 1",
    )
    sub.add_argument("--project", metavar="FILE", help=".gpx to write, with --engine gsas2")
    sub.add_argument(
        "-o", "--output", metavar="NAME", help="of results (default: PATTERN_refined)"
    )
    sub.add_argument("--overwrite", action="store_true", help="replace earlier results")
    sub.add_argument("--quiet", action="store_true", help="no progress bar")
    sub.set_defaults(run=run_refine)


def run_refine(args: argparse.Namespace) -> None:
    """Refine, print R values, cells and sites, write CIF, table and page."""
    from xrdkit.formats import read_instrument
    from xrdkit.refine.rietveld.cif import file_and_block
    from xrdkit.report import (
        check_file,
        refinement_text,
        write_cif,
        write_parameters,
        write_refinement,
    )
    from xrdkit.solve import run

    refuse(args)
    path = pattern_path(args.pattern)
    name = (args.output or f"{path.stem}_refined").removesuffix(".cif")
    planned = [Path(f"{name}{end}") for end in ENDS]
    written = [*planned, *map(Path, filter(None, [args.project]))]
    cifs = [file_and_block(one)[0] for one in (args.cif, *args.phase)]
    given = [path, *cifs, *map(Path, filter(None, [args.instrument]))]
    for one in written:
        if any(one.resolve() == other.resolve() for other in given):
            raise ValueError(f"{one} is among what is read; give another name with -o")
        check_file(one, args.overwrite)
    beam, profile = read_instrument(args.instrument) if args.instrument else (None, None)
    pattern = measured(args, beam)
    stages: list[tuple[str, str]] = []
    with plain_errors():
        fit = run(noted(steps_of(args, pattern, profile), stages), bar(args))
    warn([*pattern.warnings, *fit.warnings])
    print(refinement_text(fit))
    named = ("cif", "phase", "engine", "instrument", "background", "texture")
    chosen = {word: getattr(args, word) for word in named} | {"esd": fit.esd}
    folder = planned[0].parent
    folder.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=folder, prefix=".xrdkit") as part:  # all three or none
        cif, table, page = drafts = [Path(part) / one.name for one in planned]
        write_cif(fit, cif, profile=True)
        write_parameters(fit, table)
        write_refinement(fit, page, name=pattern.name, stages=stages, settings=chosen)
        for draft, one in zip(drafts, planned, strict=True):
            draft.replace(one)
    print(f"results in {', '.join(map(str, planned))}")


def refuse(args: argparse.Namespace) -> None:
    """An error where options do not go together."""
    if args.project and args.engine != "gsas2":
        raise ValueError("--project is a file of GSAS-II; give --engine gsas2 with it")
    if args.engine == "gsas2":
        for given, word in ((args.esd, "--esd"), (args.pawley, "--pawley")):
            if given:
                raise ValueError(BUILT_IN_ONLY.format(word))
    if args.pawley and (args.phase or args.occupancies or args.texture):
        raise ValueError(
            "--pawley takes cell and space group alone; leave out --phase, --occupancies "
            "and --texture"
        )


def steps_of(
    args: argparse.Namespace, pattern: "Pattern", profile: "Instrument | None"
) -> "Iterator[Progress]":
    """The refinement that is asked for, step by step."""
    from xrdkit.refine import gsas2, rietveld
    from xrdkit.refine.rietveld.asymmetric import SYMPREC, asymmetric_unit

    start = start_of(args)
    what: dict[str, Any] = {"instrument": profile}
    if args.background:
        what["background"] = args.background
    if args.esd:
        what["esd"] = args.esd
    if args.pawley:
        unit = asymmetric_unit(start, symprec=args.symprec or SYMPREC)
        return rietveld.pawley_steps(pattern, unit.cell, unit.space_group, **what)
    what |= {"phases": args.phase, "occupancies": args.occupancies}
    if args.symprec:
        what["symprec"] = args.symprec
    if args.texture:
        what["texture"] = None if args.texture == "none" else args.texture
    if args.engine == "gsas2":
        return gsas2.refine_steps(pattern, start, project=args.project, **what)
    return rietveld.refine_steps(pattern, start, **what)


def start_of(args: argparse.Namespace) -> "str | Structure":
    """The CIF in its own space group, or its atoms, whose symmetry is then found.

    Many programs write every atom of the cell in P1: then a warning names what they have.
    """
    from xrdkit.refine.rietveld.asymmetric import asymmetric_unit
    from xrdkit.refine.rietveld.cif import cif_structure

    if args.symprec:
        return cif_structure(args.cif)
    if asymmetric_unit(args.cif).space_group == 1:
        found = asymmetric_unit(cif_structure(args.cif))
        if found.space_group > 1:
            said = f"{args.cif} is in P1, its atoms have {found.symbol}; "
            warn([f"{said}give --symprec 0.01 to refine them so"])
    return args.cif


def noted(steps: "Iterator[Progress]", stages: list[tuple[str, str]]) -> "Iterator[Fit]":
    """The same steps; every stage and what it came to goes into ``stages``."""
    while True:
        try:
            now = next(steps)
        except StopIteration as end:
            return end.value
        if stages and stages[-1][0] == now.stage:
            stages.pop()
        stages.append((now.stage, now.message))
        yield now
