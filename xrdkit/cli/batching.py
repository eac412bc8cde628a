"""``xrdkit batch``: the patterns of a table, solved one by one or by workers."""

import argparse

from xrdkit.cli.inputs import bar, plain_errors, plain_warnings, warn
from xrdkit.cli.words import positive

SOME_FAILED = 1


def add_options(sub: argparse.ArgumentParser) -> None:
    """Options of ``xrdkit batch``."""
    sub.add_argument(
        "table",
        metavar="TABLE",
        help="CSV with columns pattern and formula, and what solve may be told: name, "
        "wavelength, cell, space_group, phases, …",
    )
    sub.add_argument(
        "-o", "--output", required=True, metavar="FOLDER", help="of results; goes on in it"
    )
    where = sub.add_mutually_exclusive_group()
    where.add_argument(
        "--workers", type=positive, default=1, help="processes of this machine"
    )
    where.add_argument(
        "--scheduler",
        metavar="ADDRESS",
        help="of a Dask cluster, like tcp://host:8786, whose workers solve the rows",
    )
    sub.add_argument("--quiet", action="store_true", help="no progress bar")
    sub.set_defaults(run=run_batch)


def run_batch(args: argparse.Namespace) -> None:
    """Solve the rows that are not done, write the summary, say what came out.

    Ends with 1 if a row failed, for scripts to see.
    """
    from xrdkit.batch import BadTable, batch
    from xrdkit.batch.summary import counted

    scheduler = None if args.scheduler in (None, "local") else args.scheduler
    try:
        with plain_errors(), plain_warnings():
            records = batch(
                args.table,
                args.output,
                workers=args.workers,
                scheduler=scheduler,
                progress=bar(args),
            )
    except BadTable as error:
        warn(error.sentences)
        count = len(error.sentences)
        faults = "1 fault" if count == 1 else f"{count} faults"
        raise ValueError(
            f"{faults} in {args.table} leave no row to solve; nothing was started"
        ) from error
    ran = [record for record in records if "key" in record]  # of the others it is said
    warn(f"{r['name']} failed: {r['error']}" for r in ran if r["status"] == "failed")
    print(f"{len(records)} samples: {counted(records)}")
    print(f"summary in {args.output}/index.html and summary.csv")
    if any(record["status"] == "failed" for record in records):
        raise SystemExit(SOME_FAILED)
