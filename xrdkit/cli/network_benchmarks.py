"""Benchmarks of trained networks on their own.

``xrdkit benchmark generation``, ``retrieval``, ``nanocrystals`` and ``density``.
"""

import argparse
from typing import Any

from xrdkit.cli.words import positive, shard


def add_rows(
    sub: argparse.ArgumentParser,
    weights: str,
    n: int | None = None,
    *,
    required: bool = True,
) -> None:
    """Options of those that go on with a file, entry by entry; ``weights`` says of what."""
    sub.add_argument("--structures", required=True, metavar="TABLE")
    sub.add_argument("--weights", required=required, help=f"of {weights}")
    usual = f"(default: {n or 'all'})"
    sub.add_argument("--n", type=positive, default=n, help=f"random entries {usual}")
    sub.add_argument("--seed", type=int, default=0)
    sub.add_argument("--shard", type=shard, default=(1, 1), metavar="I/K")
    sub.add_argument("--json", required=True, metavar="FILE", help="goes on with it")
    sub.add_argument("--quiet", action="store_true", help="no progress bar")


def rows_asked(args: argparse.Namespace) -> dict[str, Any]:
    """Keywords of those options."""
    asked = {"n": args.n, "seed": args.seed, "shard": args.shard}
    return asked | {"progress": not args.quiet}


def add_generation(sub: argparse.ArgumentParser) -> None:
    """Options of ``xrdkit benchmark generation``."""
    add_rows(sub, "a flow or a diffusion")
    sub.add_argument("--cell", choices=("none", "given"), default="none")
    sub.add_argument("--samples", type=positive, default=20, help="for each entry")
    sub.add_argument("--steps", type=positive, default=50)
    sub.add_argument("--device", default="cpu")
    sub.set_defaults(run=run_generation)


def run_generation(args: argparse.Namespace) -> None:
    """Run or go on with it, then print match rates and seconds for a structure."""
    from xrdkit.benchmark.generation import generation

    rows = generation(
        args.structures,
        args.weights,
        args.json,
        cell=args.cell,
        samples=args.samples,
        steps=args.steps,
        device=args.device,
        **rows_asked(args),
    )
    show_generation(rows)


def show_generation(rows: list[dict]) -> None:
    """Print match rates and seconds for a structure."""
    from statistics import fmean

    from xrdkit.benchmark.generation import generation_counts
    from xrdkit.report import text_table

    print(text_table(generation_counts(rows)))
    print(f"\n{fmean(row['seconds'] for row in rows):.4f} s for a structure")


def add_retrieval(sub: argparse.ArgumentParser) -> None:
    """Options of ``xrdkit benchmark retrieval``."""
    sub.add_argument("--structures", required=True, metavar="TABLE", help="of the queries")
    sub.add_argument(
        "--gallery", nargs="*", default=[], metavar="TABLE", help="further crystals"
    )
    sub.add_argument("--weights", required=True, help="of a pretraining")
    sub.add_argument("--n", type=positive, help="random queries (default: all)")
    sub.add_argument("--seed", type=int, default=0)
    sub.add_argument("--disturbed", action="store_true", help="patterns as a lab has them")
    sub.add_argument("--device", default="cpu")
    sub.set_defaults(run=run_retrieval)


def run_retrieval(args: argparse.Namespace) -> None:
    """Print the shares of patterns that find their own crystal."""
    from xrdkit.benchmark.retrieval import retrieval
    from xrdkit.report import text_table

    rows = retrieval(
        args.structures,
        args.weights,
        args.gallery,
        n=args.n,
        seed=args.seed,
        disturbed=args.disturbed,
        device=args.device,
    )
    print(text_table(rows))


def add_nanocrystals(sub: argparse.ArgumentParser) -> None:
    """Options of ``xrdkit benchmark nanocrystals``."""
    add_rows(sub, "a latent space", n=20)
    sub.add_argument("--size", type=float, required=True, help="of the crystals in Å")
    sub.add_argument(
        "--starts",
        choices=("descent", "random"),
        default="descent",
        help="random: as CDVAE-search, PXRDnet's baseline",
    )
    sub.set_defaults(run=run_nanocrystals)


def run_nanocrystals(args: argparse.Namespace) -> None:
    """Run or go on with it, then print PXRDnet's R² and seconds for an entry."""
    from xrdkit.benchmark.nanocrystals import nanocrystals

    rows = nanocrystals(
        args.structures,
        args.weights,
        args.json,
        size=args.size,
        starts=args.starts,
        **rows_asked(args),
    )
    show_nanocrystals(rows)


def show_nanocrystals(rows: list[dict]) -> None:
    """Print PXRDnet's R² and seconds for an entry."""
    from statistics import median

    from xrdkit.benchmark.nanocrystals import nanocrystal_counts
    from xrdkit.report import text_table

    print(text_table(nanocrystal_counts(rows)))
    print(f"\n{median(row['seconds'] for row in rows):.1f} s for an entry (median)")


def add_density(sub: argparse.ArgumentParser) -> None:
    """Options of ``xrdkit benchmark density``."""
    add_rows(sub, "a density network", required=False)
    sub.add_argument(
        "--baseline",
        metavar="constant|FILE",
        help="instead: the mean everywhere, or the nearest patterns of a packed file",
    )
    sub.add_argument(
        "--system", type=str.lower, default="all", help="cubic, trigonal … (default: all)"
    )
    sub.add_argument(
        "--formula", choices=("full", "elements", "dropped", "none"), default="full"
    )
    sub.add_argument("--samples", type=positive, default=5, help="draws for each entry")
    sub.add_argument("--points", type=positive, default=50, help="of the grid, each axis")
    sub.add_argument("--device", default="cpu")
    sub.set_defaults(run=run_density)


def run_density(args: argparse.Namespace) -> None:
    """Run or go on with it, then print SSIM, PSNR and how many are recovered."""
    from xrdkit.benchmark.density import density

    rows = density(
        args.structures,
        args.weights,
        args.json,
        baseline=args.baseline,
        system=args.system,
        formula=args.formula,
        samples=args.samples,
        points=args.points,
        device=args.device,
        **rows_asked(args),
    )
    show_density(rows)


def show_density(rows: list[dict]) -> None:
    """Print SSIM, PSNR and how many structures are recovered."""
    from xrdkit.benchmark.density import density_counts
    from xrdkit.report import text_table

    print(text_table(density_counts(rows)))


SHOWN = {  # by the name in a file of results
    "generation": show_generation,
    "nanocrystals": show_nanocrystals,
    "density": show_density,
}
