"""``xrdkit retrieve``: known structures indexed as vectors, and searched by pattern."""

import argparse

from xrdkit.cli.inputs import add_pattern, bar, measured, plain_warnings, warn
from xrdkit.cli.words import positive


def add_options(sub: argparse.ArgumentParser) -> None:
    """Options of ``xrdkit retrieve``."""
    jobs = sub.add_subparsers(dest="job", required=True, metavar="index|search")
    index = jobs.add_parser("index", help="structure tables as an index")
    index.add_argument(
        "tables", nargs="+", metavar="TABLE", help="Parquet, CSV, CIF or folder"
    )
    index.add_argument("-o", "--output", required=True, metavar="FILE")
    index.add_argument("--overwrite", action="store_true", help="replace an earlier file")
    index.set_defaults(run=run_index)
    search = jobs.add_parser("search", help="the structures of an index nearest a pattern")
    add_pattern(search)
    search.add_argument("--index", required=True, metavar="FILE")
    search.add_argument("--elements", nargs="+", help="only of exactly these, like Ti O")
    search.add_argument("--count", type=positive, default=10, help="structures to print")
    search.set_defaults(run=run_search)
    for job in (index, search):
        job.add_argument("--weights", help="of xrdkit train pretrain: name or file")
        job.add_argument("--quiet", action="store_true", help="no progress bar")


def run_index(args: argparse.Namespace) -> None:
    """Embed the ordered structures of tables and write the index."""
    from xrdkit.dataset import read_tables
    from xrdkit.files import check_file
    from xrdkit.packed import packed_of
    from xrdkit.retrieve import index_steps, network, save_index
    from xrdkit.solve import run

    output = check_file(args.output, args.overwrite)
    with plain_warnings():
        table = read_tables(args.tables)
    found = run(index_steps(network(args.weights), packed_of(table)), bar(args))
    save_index(found, output)
    print(f"{len(found)} of {len(table)} structures in {output}")


def run_search(args: argparse.Namespace) -> None:
    """Print the nearest structures, best first."""
    from xrdkit.pattern import prepare
    from xrdkit.problem import by_number, parse_elements
    from xrdkit.report import text_table
    from xrdkit.retrieve import load_index, network, search

    index = load_index(args.index)
    elements = None
    if args.elements:
        elements = list(by_number(dict.fromkeys(parse_elements(args.elements), 1.0)))
    pattern = prepare(measured(args))
    warn(pattern.warnings)
    model = network(args.weights)
    found = search(index, model, pattern, elements=elements, count=args.count)
    rows = [{**one._asdict(), "cosine": f"{one.cosine:.3f}"} for one in found]
    print(text_table(rows) or "no structure of the index has exactly these elements")
