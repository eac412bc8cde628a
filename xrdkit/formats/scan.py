"""Scans of an instrument's file -> one table of columns with its beam and instrument."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from ..types import Instrument, Radiation
from ..wavelengths import radiation
from .container import POINTS

Values = Float[np.ndarray, " points"]

STRONGEST = 1e15  # no intensity is larger
GRAPHITE = 3.354  # Å: d(002)
LATTICE = {"ge": 5.6579, "si": 5.4310}  # Å
CRYSTAL = re.compile(
    r"(?:(\d)\s*x\s*|\b)(graphite|ge|si)\b[\s-]*(?:\(?(\d)\s?(\d)\s?(\d)\b\)?)?"
    r"(?:\s*x\s*(\d))?",
    re.I,
)


class Columns(NamedTuple):
    """What a file holds, in its own order and units of degrees.

    ``counted`` says whether intensities are counts; None leaves it to how they scatter.
    """

    two_theta: Values
    intensity: Values
    sigma: Values | None
    radiation: Radiation | None
    warnings: tuple[str, ...] = ()
    counted: bool | None = None
    instrument: Instrument = Instrument()


class Scan(NamedTuple):
    """One range as measured; intensity = ``factor`` × counts (attenuator, 1 / time).

    Intensities belong to ``seconds`` per point (one: not known, or they are per second).
    ``counted`` is what the file says; counts must be whole numbers as well.
    """

    two_theta: Values
    intensity: Values
    seconds: float = 1.0
    factor: Values | float = 1.0
    counted: bool = True


def steps(start: float, step: float, count: int) -> Values:
    """Angles (°) of equal steps."""
    if not (np.isfinite(start) and 0 < abs(step) < 10):
        raise ValueError(
            f"a scan starts at {start:g}° in steps of {step:g}°; the file is damaged"
        )
    return start + step * np.arange(count)


def bounded(scans: Iterable[Scan]) -> list[Scan]:
    """The scans, as long as they have no more points than one pattern can have."""
    found, count = [], 0
    for scan in scans:
        count += len(scan.two_theta) + 1000
        if count > POINTS:
            raise ValueError(
                f"the file has over {len(found)} scans or {POINTS:,} points; give fewer"
            )
        plausible(scan.intensity)
        plausible(np.atleast_1d(scan.factor))
        found.append(scan)
    return found


def plausible(values: Values) -> None:
    """Refuses numbers that no measurement has."""
    if len(values) and not np.abs(values).max() <= STRONGEST:
        raise ValueError(
            f"numbers like {np.abs(values).max():.0e} are no measurement; the file is "
            "damaged: copy it again"
        )


def join(
    scans: Iterable[Scan],
    beam: Radiation | None,
    instrument: Instrument,
    notes: tuple[str, ...] = (),
) -> Columns:
    """Scans as one pattern: repeated ranges summed, separate ones put one after another.

    Standard deviations are kept where intensities are not the counts themselves but have
    a known factor to them.
    """
    groups: list[list[Scan]] = []
    for scan in map(_ascending, bounded(scan for scan in scans if len(scan.two_theta))):
        same = next((group for group in groups if _same_range(group[0], scan)), None)
        if same is None:
            groups.append([scan])
        else:
            same.append(scan)
    if not groups:
        raise ValueError("no measured points are in the file; give a finished measurement")
    most = max(len(group) for group in groups)
    notes += (f"{most} scans of the same range summed",) if most > 1 else ()
    parts = [_sum(group) for group in groups]
    times = [scan.seconds for scan in parts]
    if max(times) > 1.001 * min(times):
        notes += ("ranges of different counting times scaled to the longest",)
        parts = [_scaled(scan, max(times) / scan.seconds) for scan in parts]
    parts = _separate(sorted(parts, key=lambda scan: scan.two_theta[0]))
    x, y, factor = (
        np.concatenate([getattr(scan, name) for scan in parts])
        for name in ("two_theta", "intensity", "factor")
    )
    counted = all(scan.counted for scan in parts) and _whole(y / factor)
    if not counted or (factor == 1).all():
        return Columns(x, y, None, beam, notes, counted, instrument)
    sigma = np.sqrt(factor * np.maximum(y, factor))
    return Columns(x, y, sigma, beam, notes, False, instrument)


def tube(
    first: float, second: float | None, ratio: float = 0.5, optics: Sequence[str] = ()
) -> Radiation | None:
    """The beam of a tube with lines Kα1 and Kα2 (Å; 0: removed, None: not said).

    ``ratio`` is Kα2 / Kα1. ``optics`` are descriptions of crystal monochromators, first
    that before the sample (or ""): germanium and silicon there leave Kα1 alone; all
    polarise, K = 1 / (1 + Π cos²2θ_m).
    """
    if not first:
        return None
    beam = radiation(float(first))
    share = float(np.prod([polarising(name, beam.main) for name in optics]))
    if share < 1:
        beam = replace(beam, polarisation=1 / (1 + share))
    before = CRYSTAL.search(optics[0]) if optics else None
    alone = before is not None and before[2].lower() in LATTICE
    if second is None and not alone:
        return beam
    if alone or not second or not 0 < second / first - 1 < 0.02 or not 0 < ratio <= 1:
        return replace(beam, kalpha2=False)
    weights = (1 / (1 + ratio), ratio / (1 + ratio))
    return Radiation((beam.main, float(second)), weights, beam.polarisation, kalpha2=True)


def polarising(crystal: str, wavelength: float) -> float:
    """Product of cos²2θ_m over reflections like "2xGe(220)" or "graphite"; one if none."""
    found = CRYSTAL.search(crystal)
    if not found:
        return 1.0
    hkl = [int(digit or 1) for digit in found.group(3, 4, 5)]
    hkl = hkl if any(hkl) else [1, 1, 1]
    name = found[2].lower()
    spacing = (
        LATTICE[name] / np.sqrt(sum(i * i for i in hkl)) if name in LATTICE else GRAPHITE
    )
    sine = wavelength / (2 * spacing)
    count = int(found[1] or found[6] or 1)
    return float((1 - 2 * sine**2) ** (2 * count)) if sine < 1 else 1.0


def _ascending(scan: Scan) -> Scan:
    order = np.argsort(scan.two_theta, kind="stable")
    factor = np.broadcast_to(np.asarray(scan.factor, float), len(order))
    return scan._replace(
        two_theta=scan.two_theta[order],
        intensity=scan.intensity[order],
        factor=factor[order],
    )


def _same_range(one: Scan, other: Scan) -> bool:
    """Whether two scans have the same angles to a tenth of a step."""
    x = one.two_theta
    if len(x) != len(other.two_theta):
        return False
    return bool(np.abs(x - other.two_theta).max() <= 0.1 * np.ptp(x) / len(x))


def _sum(group: list[Scan]) -> Scan:
    """Repeated scans added up; the factor is the one of the sum's variance."""
    y = np.sum([scan.intensity for scan in group], axis=0)
    variance = np.sum([scan.intensity * scan.factor for scan in group], axis=0)
    plain = np.mean([scan.factor for scan in group], axis=0)
    factor = np.divide(variance, y, out=plain, where=(y > 0) & (variance > 0))
    seconds = sum(scan.seconds for scan in group)
    counted = all(scan.counted for scan in group)
    return Scan(group[0].two_theta, y, seconds, factor, counted)


def _scaled(scan: Scan, scale: float) -> Scan:
    return scan._replace(intensity=scan.intensity * scale, factor=scan.factor * scale)


def _separate(parts: list[Scan]) -> list[Scan]:
    """The scans, each without the one point that it may share with the one before."""
    found = parts[:1]
    for before, scan in pairwise(parts):
        x, last = scan.two_theta, before.two_theta[-1]
        step = np.ptp(before.two_theta) / max(len(before.two_theta) - 1, 1)
        if x[0] < last - 0.5 * step:
            spans = ", ".join(
                f"{part.two_theta[0]:.5g}–{part.two_theta[-1]:.5g}°" for part in parts[:9]
            )
            raise ValueError(
                f"the file holds ranges that overlap ({spans}); export the one to be read"
            )
        keep = x > last + 1e-4 * step
        found.append(
            scan._replace(
                two_theta=x[keep],
                intensity=scan.intensity[keep],
                factor=scan.factor[keep],
            )
        )
    return found


def _whole(counts: Values) -> bool:
    """Whether numbers are whole and not negative, to the digits that files keep."""
    off = np.abs(counts - np.round(counts))
    return bool((counts >= 0).all() and (off <= 0.01 + 1e-6 * counts).all())
