"""``xrdkit simulate``: the pattern of a CIF."""

import argparse

from xrdkit.cli.words import span, wavelength


def add_options(sub: argparse.ArgumentParser) -> None:
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
