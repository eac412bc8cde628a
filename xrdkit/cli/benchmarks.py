"""``xrdkit benchmark``: its jobs and their options."""

import argparse
from typing import Any

from xrdkit.cli.network_benchmarks import (
    SHOWN,
    add_density,
    add_generation,
    add_nanocrystals,
    add_retrieval,
)
from xrdkit.cli.words import SOURCES, positive, shard


def add_options(sub: argparse.ArgumentParser) -> None:
    """The subcommands of ``xrdkit benchmark``."""
    jobs = sub.add_subparsers(dest="job", required=True, metavar="JOB")
    add_mp20(jobs.add_parser("mp20", help="simulated patterns of table entries"))
    add_measured(jobs.add_parser("measured", help="measured patterns with references"))
    add_impurity(jobs.add_parser("impurity", help="a foreign phase in the sample"))
    add_confidence(jobs.add_parser("confidence", help="right and wrong answers on purpose"))
    add_indexing(jobs.add_parser("indexing", help="cells from lines"))
    add_rietveld(jobs.add_parser("rietveld", help="refinement beside GSAS-II's results"))
    add_pawley(jobs.add_parser("pawley", help="solved structures beside their cells"))
    for name, text, n in (
        ("convergence", "refinement from starts that are off", 300),
        ("judgement", "refined right structures against wrong ones", 200),
    ):
        sub = jobs.add_parser(name, help=text)
        sub.add_argument("--structures", required=True, metavar="TABLE")
        sub.add_argument("--n", type=positive, default=n, help="entries drawn at random")
        sub.add_argument("--seed", type=int, default=0)
        sub.add_argument("--shard", type=shard, default=(1, 1), metavar="I/K")
        sub.add_argument("--json", required=True, metavar="FILE")
        sub.set_defaults(run=run_convergence if name == "convergence" else run_judgement)
        if name == "convergence":
            sub.add_argument("--weights", help="of a flow, whose structures are the starts")
    add_generation(jobs.add_parser("generation", help="what a trained network draws"))
    add_density(jobs.add_parser("density", help="electron densities of a network"))
    add_retrieval(
        jobs.add_parser("retrieval", help="patterns that look for their crystals")
    )
    add_nanocrystals(
        jobs.add_parser("nanocrystals", help="PXRDnet's R² of what a latent space gives")
    )
    summary = jobs.add_parser("summary", help="count what result files hold")
    summary.add_argument("files", nargs="+", metavar="FILE", help="all shards of one run")
    summary.set_defaults(run=lambda args: show(args.files))
    for name, text, n in (
        ("speed", "simulation against pymatgen", 200),
        ("agreement", "lines against pymatgen and GSAS-II", 50),
    ):
        sub = jobs.add_parser(name, help=text)
        sub.add_argument("--structures", required=True, metavar="TABLE")
        sub.add_argument("--n", type=positive, default=n, help="crystals drawn at random")
        sub.add_argument("--seed", type=int, default=0)
        sub.set_defaults(run=run_speed if name == "speed" else run_agreement)
    sub.add_argument("--gsas2", metavar="FOLDER", help="with *_gsas2_refl.csv and CIFs")


def add_mp20(sub: argparse.ArgumentParser) -> None:
    """Options of ``xrdkit benchmark mp20``."""
    sub.add_argument("--structures", required=True, metavar="TABLE")
    sub.add_argument("--n", type=positive, help="entries drawn at random (default: all)")
    sub.add_argument("--cell", choices=("none", "given"), default="none")
    told = ("contents", "reduced", "elements")
    sub.add_argument("--formula", choices=told, default="contents", help="what is told")
    sub.add_argument("--disturbed", action="store_true", help="patterns as a lab has them")
    sub.add_argument("--size", type=float, help="of nanocrystals in Å, as PXRDnet's")
    controls = ("none", "shuffled", "composition")
    sub.add_argument("--control", choices=controls, default="none")
    sub.add_argument("--no-validity", action="store_true", help="without SMACT's filter")
    add_shared(sub, unseen="none")
    sub.set_defaults(run=run_mp20)


def add_measured(sub: argparse.ArgumentParser) -> None:
    """Options of ``xrdkit benchmark measured``."""
    sub.add_argument("--folder", required=True, help="with index.csv, .xy and .cif files")
    sub.add_argument("--tiers", nargs="+", default=["A"])
    sub.add_argument("--size", type=float, help="broaden to nanocrystals of so many Å")
    add_shared(sub, unseen="formula")
    sub.set_defaults(run=run_measured)


def add_shared(
    sub: argparse.ArgumentParser, unseen: str | None, candidates: int = 20
) -> None:
    """Options of the long benchmarks; ``unseen`` None where the protocol says it."""
    sub.add_argument("--library", metavar="FILE", help="default: the shipped prototypes")
    if unseen:
        sub.add_argument("--unseen", choices=("none", "formula", "type"), default=unseen)
    sub.add_argument("--seed", type=int, default=0)
    sub.add_argument(
        "--sources", nargs="+", choices=SOURCES, help="default: all, as solve uses them"
    )
    sub.add_argument(
        "--weights", nargs="+", help="of a flow, latent space or density network"
    )
    sub.add_argument("--candidates", type=positive, default=candidates)
    sub.add_argument("--shard", type=shard, default=(1, 1), metavar="I/K")
    sub.add_argument(
        "--json", required=True, metavar="FILE", help="results; goes on with it"
    )
    sub.add_argument("--quiet", action="store_true", help="no progress bar")


def shared(args: argparse.Namespace) -> dict[str, Any]:
    """Keywords of the long benchmarks."""
    return {
        **({"unseen": args.unseen} if "unseen" in args else {}),
        "seed": args.seed,
        **({"sources": tuple(args.sources)} if args.sources else {}),
        "weights": args.weights,
        "candidates": args.candidates,
        "shard": args.shard,
        "progress": not args.quiet,
    }


def run_mp20(args: argparse.Namespace) -> None:
    """Run or go on with the MP-20 protocol, then print the counts."""
    from xrdkit.benchmark import mp20

    mp20(
        args.structures,
        args.library,
        args.json,
        n=args.n,
        cell=args.cell,
        formula=args.formula,
        disturbed=args.disturbed,
        size=args.size,
        control=args.control,
        validity=not args.no_validity,
        **shared(args),
    )
    show([args.json])


def run_measured(args: argparse.Namespace) -> None:
    """Run or go on with the measured patterns, then print every outcome and the counts."""
    from xrdkit.benchmark import measured

    own = {"tiers": tuple(args.tiers), "size": args.size}
    measured(args.folder, args.library, args.json, **own, **shared(args))
    show([args.json])


def run_speed(args: argparse.Namespace) -> None:
    """Print milliseconds per crystal."""
    from xrdkit.benchmark import speed

    show_numbers(speed(args.structures, args.n, seed=args.seed))


def run_agreement(args: argparse.Namespace) -> None:
    """Print the differences from other programs."""
    from xrdkit.benchmark import agreement

    show_numbers(agreement(args.structures, args.n, seed=args.seed, gsas2=args.gsas2))


def add_impurity(sub: argparse.ArgumentParser) -> None:
    """Options of ``xrdkit benchmark impurity``."""
    sub.add_argument("--structures", required=True, metavar="TABLE")
    sub.add_argument("--n", type=positive, help="random entries (default: all)")
    sub.add_argument("--share", type=float, default=0.3, help="of the intensity, foreign")
    sub.add_argument("--disturbed", action="store_true", help="with noise, texture …")
    add_shared(sub, unseen=None)
    sub.set_defaults(run=run_impurity)


def run_impurity(args: argparse.Namespace) -> None:
    """Run or go on with it, then print how many answers a foreign phase leaves right."""
    from xrdkit.benchmark.mixtures import impurity, kept

    impurity(
        args.structures,
        args.library,
        args.json,
        n=args.n,
        share=args.share,
        disturbed=args.disturbed,
        **shared(args),
    )
    for measure in ("literature", "strict"):
        for name, counted in kept([args.json], measure).items():
            hits, of, share, low, high = counted
            print(f"{measure}, {name}: {hits} of {of}, {share:.3f} ({low:.3f}–{high:.3f})")


def add_confidence(sub: argparse.ArgumentParser) -> None:
    """Options of ``xrdkit benchmark confidence``."""
    sub.add_argument("--structures", required=True, metavar="TABLE")
    sub.add_argument("--n", type=positive, help="random entries (default: all)")
    sub.add_argument("--kinds", nargs="+", help="default: all")
    sub.add_argument(
        "--fit",
        action="store_true",
        help="also fit bias and weights to half of the entries, and judge the other half",
    )
    add_shared(sub, unseen=None, candidates=5)
    sub.set_defaults(run=run_confidence)


def run_confidence(args: argparse.Namespace) -> None:
    """Run or go on with it, then print what the confidence is worth."""
    from xrdkit.benchmark.confidence import KINDS, confidence

    rows = confidence(
        args.structures,
        args.library,
        args.json,
        n=args.n,
        kinds=tuple(args.kinds or KINDS),
        **shared(args),
    )
    show_reliability(rows)
    if args.fit:
        show_calibration(rows)


def show_calibration(rows: list[dict]) -> None:
    """Print bias and weights fitted to half 0 of rows, and what they make of half 1."""
    from xrdkit.benchmark.confidence import fit_confidence, half, recalibrated

    halves = [[row for row in rows if half(row) == i] for i in (0, 1)]
    bias, weights = fit_confidence(halves[0])
    print(f"\nfitted to {len(halves[0])} rows, counted on {len(halves[1])} others")
    show_numbers({"bias": bias, **weights})
    show_reliability(recalibrated(halves[1], bias, weights))


def show_reliability(rows: list[dict]) -> None:
    """Print what the confidence of rows is worth."""
    from xrdkit.benchmark.confidence import reliability

    for name, value in reliability(rows).items():
        print(f"{name}: {value}")


def add_indexing(sub: argparse.ArgumentParser) -> None:
    """Options of ``xrdkit benchmark indexing``."""
    what = sub.add_mutually_exclusive_group(required=True)
    what.add_argument("--structures", metavar="TABLE", help="disturbed patterns of it")
    what.add_argument("--folder", help="measured patterns, tiers A and B")
    sub.add_argument("--n", type=positive, help="random entries (default: all)")
    sub.add_argument("--no-formula", action="store_true", help="no formula is known")
    sub.add_argument("--network", metavar="WEIGHTS", help="proposes cells: cell or flow")
    sub.add_argument("--library", metavar="FILE", help="default: the shipped prototypes")
    sub.add_argument("--seed", type=int, default=0)
    sub.add_argument("--shard", type=shard, default=(1, 1), metavar="I/K")
    sub.add_argument("--json", required=True, metavar="FILE")
    sub.add_argument("--quiet", action="store_true", help="no progress bar")
    sub.set_defaults(run=run_indexing)


def run_indexing(args: argparse.Namespace) -> None:
    """Run or go on with it, then print the counts by crystal system or compound."""
    from xrdkit.benchmark.cells import indexing, indexing_counts, indexing_measured
    from xrdkit.report import text_table

    given = {
        "formula": not args.no_formula,
        "network": args.network,
        "shard": args.shard,
        "progress": not args.quiet,
    }
    if args.folder:
        rows = indexing_measured(args.folder, args.library, args.json, **given)
    else:
        given |= {"n": args.n, "seed": args.seed}
        rows = indexing(args.structures, args.library, args.json, **given)
    print(text_table(indexing_counts(rows)))


def add_rietveld(sub: argparse.ArgumentParser) -> None:
    """Options of ``xrdkit benchmark rietveld``."""
    what = sub.add_mutually_exclusive_group(required=True)
    what.add_argument("--folder", help="with patterns, starts and *_gsas2_refined.json")
    what.add_argument(
        "--repeats", type=positive, help="refinements with new noise, to judge e.s.d.s by"
    )
    sub.add_argument("--engine", choices=("builtin", "gsas2"), default="builtin")
    sub.add_argument("--wavelength", default="CuKa", help="of the --repeats")
    sub.set_defaults(run=run_rietveld)


def run_rietveld(args: argparse.Namespace) -> None:
    """Print a block of named values for each data set or crystal system."""
    from xrdkit.benchmark.gsas2 import second_opinion
    from xrdkit.benchmark.rietveld import against_gsas2, esd_spread

    if args.repeats:
        rows = esd_spread(args.wavelength, repeats=args.repeats)
    elif args.engine == "gsas2":
        rows = second_opinion(args.folder)
    else:
        rows = against_gsas2(args.folder)
    for row in rows:
        print("\n".join(f"{name:20s} {value}" for name, value in row.items()), end="\n\n")


def add_pawley(sub: argparse.ArgumentParser) -> None:
    """Options of ``xrdkit benchmark pawley``."""
    sub.add_argument("--folder", required=True, help="measured patterns with index.csv")
    sub.add_argument(
        "--solutions", required=True, metavar="FILE", help="of benchmark measured"
    )
    sub.add_argument("--json", metavar="FILE", required=True, help="goes on with it")
    sub.set_defaults(run=run_pawley)


def run_pawley(args: argparse.Namespace) -> None:
    """Run or go on with it, then print R_wp over that of the cell, worst last."""
    from xrdkit.benchmark.rietveld import against_pawley, pawley_counts
    from xrdkit.report import text_table

    rows = against_pawley(args.folder, args.solutions, args.json)
    table, counted = pawley_counts(rows)
    print(text_table(table), end="\n\n")
    show_numbers(counted)


def run_convergence(args: argparse.Namespace) -> None:
    """Run or go on with it, then print the curve."""
    from xrdkit.benchmark.convergence import convergence, convergence_counts
    from xrdkit.report import text_table

    given = {"n": args.n, "seed": args.seed, "shard": args.shard}
    rows = convergence(args.structures, args.json, weights=args.weights, **given)
    print(text_table(convergence_counts(rows)))


def run_judgement(args: argparse.Namespace) -> None:
    """Run or go on with it, then print the areas."""
    from xrdkit.benchmark.judgement import judgement, judgement_counts

    given = {"n": args.n, "seed": args.seed, "shard": args.shard}
    for name, value in judgement_counts(
        judgement(args.structures, args.json, **given)
    ).items():
        print(f"{name:28s} {value}")


def show(files: list[str]) -> None:
    """Print the counts of result files; of measured patterns every outcome too."""
    from xrdkit.benchmark import outcomes, results, summary, summary_text
    from xrdkit.report import text_table

    headers, rows = results.read(files)
    kind = headers[0]["settings"]["benchmark"]
    if rows and kind in SHOWN:
        SHOWN[kind](rows)
        return
    if rows and "fits" not in rows[0]:
        raise ValueError(
            f"{files[0]} is of benchmark {kind.split()[0]}, whose own command prints its "
            f"table; summary counts mp20, measured, impurity, {', '.join(SHOWN)}"
        )
    if kind == "measured":
        print(text_table(outcomes(files)), end="\n\n")
    print(summary_text(summary(files)))


def show_numbers(found: dict[str, float | int]) -> None:
    """Print named numbers, one a line."""
    for name, value in found.items():
        print(f"{name:28s} {value:.6g}")
