"""``xrdkit train``: structure tables packed, and networks trained from them."""

import argparse
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from xrdkit.cli.inputs import bar, plain_warnings
from xrdkit.cli.words import numbers, positive

if TYPE_CHECKING:
    from xrdkit.types import Progress

HELP = {
    "flow": "structures from patterns, by flow matching",
    "diffusion": "the same by diffusion",
    "cell": "cells from patterns, for indexing",
    "latent": "a space of crystals and their patterns, to be searched (nanocrystals)",
    "density": "electron densities from patterns",
    "pretrain": "patterns and crystals in one space, to begin from and to search",
}
ENCODER = "of patterns (default: cnn, or that of the run or of --start)"
STOP = ("SIGINT", "SIGTERM", "SIGHUP")


def add_options(sub: argparse.ArgumentParser) -> None:
    """Options of ``xrdkit train``."""
    jobs = sub.add_subparsers(dest="job", required=True, metavar="|".join(("pack", *HELP)))
    pack = jobs.add_parser("pack", help="structure tables as one file to train from")
    pack.add_argument(
        "tables", nargs="+", metavar="TABLE", help="Parquet, CSV, CIF or folder"
    )
    pack.add_argument("-o", "--output", required=True, metavar="FILE")
    pack.add_argument(
        "--standard", action="store_true", help="standard cells, from which density learns"
    )
    pack.add_argument("--system", default="all", help="of crystals: cubic, trigonal …")
    pack.add_argument("--overwrite", action="store_true", help="replace an earlier file")
    pack.set_defaults(run=run_pack)
    for method, text in HELP.items():
        add_method(jobs.add_parser(method, help=text), method)


def add_method(sub: argparse.ArgumentParser, method: str) -> None:
    """What is told of a training; what is not, is as ``Plan`` has it."""
    sub.add_argument("data", metavar="DATA", help="file of xrdkit train pack")
    sub.add_argument(
        "--folder", required=True, help="of the run: states, weights, log; goes on with it"
    )
    sub.add_argument("--validation", metavar="DATA", help="packed, to be measured on")
    sub.add_argument("--epochs", type=positive, default=100)
    sub.add_argument(
        "--decay", type=part, default=0.2, help="share of epochs with a falling rate"
    )
    usual = "(default: what the method learns best by)"
    sub.add_argument("--crystals", type=positive, help=f"of a step, at least {usual}")
    sub.add_argument("--block", type=positive, help=f"of a dense block, at most {usual}")
    sub.add_argument("--rate", type=part, default=1e-3, help="of learning, at most")
    if method == "latent":  # it encodes crystals
        sub.set_defaults(encoder=None)
    else:
        sub.add_argument("--encoder", choices=("cnn", "patches", "peaks"), help=ENCODER)
    sub.add_argument(
        "--start",
        metavar="FILE",
        help="weights to begin from, or a name of those that ship",
    )
    sub.add_argument("--seed", type=int, default=0)
    sub.add_argument("--device", default="cpu", help="cpu, cuda …")
    sub.add_argument("--quiet", action="store_true", help="no progress bar")
    sub.set_defaults(run=run_training, method=method)


def part(text: str) -> float:
    """A number of 0 to 1."""
    (value,) = numbers(1, "0.2")(text)
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"'{text}' is not a number of 0 to 1")
    return value


def run_pack(args: argparse.Namespace) -> None:
    """Write the ordered crystals of tables in Niggli or standard cells."""
    from xrdkit.dataset import read_tables
    from xrdkit.files import check_file
    from xrdkit.packed import load_packed, pack

    output = check_file(args.output, args.overwrite)
    with plain_warnings():
        table = read_tables(args.tables)
    settings = {"standard": args.standard, "system": args.system}
    packed = load_packed(pack(table, output, **settings))
    print(f"{len(packed)} of {len(table)} structures in {output}")


def run_training(args: argparse.Namespace) -> None:
    """Train, or go on; print every epoch, say where the weights are."""
    from xrdkit.models.checkpoint import SIZES
    from xrdkit.models.crystal_net import Size
    from xrdkit.packed import load_packed
    from xrdkit.solve import run, usable_device
    from xrdkit.train.loop import train
    from xrdkit.train.plan import Plan
    from xrdkit.train.step import Diverged

    settings = {"crystals": args.crystals, "block": args.block, "seed": args.seed}
    usual = SIZES.get(args.method, Size())
    plan = Plan(args.method, args.epochs, args.decay, args.rate, **settings)
    device = str(usable_device(args.device))
    steps = train(
        load_packed(args.data),
        args.folder,
        validation=load_packed(args.validation) if args.validation else None,
        plan=plan,
        size=replace(usual, encoder=args.encoder) if args.encoder else None,
        start=args.start,
        device=device,
    )
    try:
        weights = run(stoppable(steps), bar(args))
    except (Diverged, MemoryError) as error:
        raise ValueError(str(error)) from error
    print(f"weights in {weights}")


def stoppable(steps: "Iterator[Progress]") -> "Iterator[Progress]":
    """Pass progress on, print epochs and notes; asked to stop, close ``steps``.

    Closing saves the state.
    """
    from tqdm import tqdm

    with stop_asked() as asked:
        while True:
            try:
                now = next(steps)
            except StopIteration as finished:
                return finished.value
            if now.stage == "epoch":
                tqdm.write(f"{now.message}, {now.seconds:.0f} s")
            elif now.stage == "note":
                tqdm.write(now.message, sys.stderr)
            yield now
            if asked:
                steps.close()
                raise KeyboardInterrupt


@contextmanager
def stop_asked() -> Iterator[list[int]]:
    """Signals to stop, noted in a list; the second one interrupts at once."""
    asked: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield asked
        return

    def note(number: int, frame: Any) -> None:
        if asked:
            raise KeyboardInterrupt
        asked.append(number)

    signals = [getattr(signal, name) for name in STOP if hasattr(signal, name)]
    before = {s: signal.signal(s, note) for s in signals}
    try:
        yield asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
