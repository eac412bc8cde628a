"""``xrdkit library``: structure types of tables, built, averaged, described."""

import argparse

from xrdkit.cli.inputs import bar, plain_warnings
from xrdkit.cli.words import positive


def add_options(sub: argparse.ArgumentParser) -> None:
    """Options of ``xrdkit library``."""
    jobs = sub.add_subparsers(dest="job", required=True, metavar="build|prototypes|info")
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
