"""Patterns: read, write, cut, take off the background; peaks and radiation beside."""

from dataclasses import replace
from pathlib import Path

import numpy as np
from jaxtyping import Float
from scipy.ndimage import median_filter

from .background import estimate
from .files import write_text
from .formats import Columns, columns
from .peaks import check, find_peaks, noise, rough_fwhm, scatter, typical_fwhm
from .types import Instrument, Pattern, Radiation
from .wavelengths import SYNCHROTRON, Spec, agree, is_line, radiation, radiation_choices

__all__ = [
    "background",
    "check",
    "crop",
    "exclude",
    "find_peaks",
    "noise",
    "prepare",
    "radiation",
    "radiation_choices",
    "read",
    "typical_fwhm",
    "write",
]

Curve = Float[np.ndarray, " points"]
GAP = 0.5  # degrees
LEAST = 30  # points
RADIANS = 3.2  # a pattern of 2θ (°) reaches beyond; π is the largest angle in radians


def read(path: str | Path, wavelength: Spec | None = None) -> Pattern:
    """The pattern of a file, recognised by what is in it.

    Read are text of two or three columns (2θ in °, intensity, e.s.d.) of any dialect, GSAS
    (STD, ESD, FXYE), powder CIF, PANalytical .xrdml, Bruker .brml, .raw (versions 1 to 4)
    and .uxd, Rigaku .ras, .rasx and .asc, and a zip of one such file. Repeated scans of a
    range are summed, separate ranges joined. The radiation is ``wavelength`` if given (see
    ``radiation``), else the file's. Everything else is refused with a ValueError.
    """
    path = Path(path)
    if path.is_dir():
        raise IsADirectoryError(f"{path} is a folder; give the file of one pattern")
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path}; check the name and the folder")
    table = columns(path)
    beam, notes = _beam(table.radiation, wavelength, path.name)
    table, more = _ordered(table, path.name)
    x, y, sigma = table.two_theta, table.intensity, table.sigma
    source = "unknown" if sigma is None else "given"
    counted = _is_counts(y) if table.counted is None else table.counted
    if sigma is None and counted:
        sigma, source = np.sqrt(np.maximum(y, 1.0)), "counts"
    ranges = _measured_ranges(x)
    if len(ranges) > 1:
        more += (f"{len(ranges) - 1} gaps in the scan are left out of every fit",)
    return Pattern(
        x,
        y,
        beam,
        sigma,
        source,
        ranges,
        _instrument(table.instrument, beam),
        name=path.stem,
        warnings=(*table.warnings, *notes, *more),
    )


def _instrument(own: Instrument, beam: Radiation) -> Instrument:
    """The file's instrument; a beam that is no tube's does not fall on a flat sample."""
    return own if is_line(beam.main) else replace(own, geometry="debye-scherrer")


def _measured_ranges(x: Curve) -> tuple[tuple[float, float], ...]:
    """Stretches of 2θ without a gap of over 0.5° and twenty steps."""
    step = np.diff(x)
    ends = np.nonzero(step > max(GAP, 20 * float(np.median(step))))[0]
    starts = [0, *(ends + 1)]
    stops = [*ends, len(x) - 1]
    return tuple((float(x[i]), float(x[j])) for i, j in zip(starts, stops, strict=True))


def write(pattern: Pattern, path: str | Path) -> None:
    """Columns 2θ (°), intensity and given e.s.d.s under a header that ``read`` reads."""
    beam = pattern.radiation
    head = f"# wavelength (Å): {' '.join(f'{value:.7f}' for value in beam.wavelengths)}\n"
    if len(beam.weights) > 1:
        head += f"# weights: {' '.join(f'{weight:.6f}' for weight in beam.weights)}\n"
    table = [pattern.two_theta, pattern.intensity]
    if pattern.sigma is not None and pattern.sigma_source == "given":
        table.append(pattern.sigma)
    rows = np.column_stack(table).tolist()
    text = "\n".join(" ".join(f"{value:.8g}" for value in row) for row in rows)
    write_text(path, f"# {pattern.name}\n{head}{text}\n")


def crop(
    pattern: Pattern, low: float | int | None = None, high: float | int | None = None
) -> Pattern:
    """The part of a pattern between two angles 2θ (°)."""
    low = -np.inf if low is None else float(low)
    high = np.inf if high is None else float(high)
    if not low < high:
        raise ValueError(f"range {low:g}–{high:g}° is empty; give low < high")
    keep = (pattern.two_theta >= low) & (pattern.two_theta <= high)
    pairs = [(max(a, low), min(b, high)) for a, b in pattern.ranges]
    return _kept(pattern, keep, [(a, b) for a, b in pairs if a < b])


def exclude(pattern: Pattern, *ranges: tuple[float | int, float | int]) -> Pattern:
    """The pattern without these ranges of 2θ (°)."""
    for low, high in ranges:
        if not low < high:
            raise ValueError(f"range {low:g}–{high:g}° is empty; give low < high")
        x = pattern.two_theta
        pairs = [(a, min(b, low)) for a, b in pattern.ranges]
        pairs += [(max(a, high), b) for a, b in pattern.ranges]
        pairs = sorted((float(a), float(b)) for a, b in pairs if a < b)
        pattern = _kept(pattern, (x < low) | (x > high), pairs)
    return pattern


def inside_ranges(pattern: Pattern, two_theta: np.ndarray) -> np.ndarray:
    """Which angles (°) lie in the measured ranges of a pattern."""
    inside = [(two_theta >= low) & (two_theta <= high) for low, high in pattern.ranges]
    return np.any(inside, axis=0)


def prepare(pattern: Pattern, *, background: bool = True) -> Pattern:
    """The pattern without background and single-point spikes, its maximum at one.

    A steep tail at low angle is cut off where no line stands on it.
    """
    if pattern.prepared:
        return pattern
    _refuse_radians(pattern.two_theta, pattern.name or "the pattern")
    _enough(len(pattern), pattern)
    x, y, notes = pattern.two_theta, *_despiked(pattern.two_theta, pattern.intensity)
    base = estimate(x, y) if background else np.zeros_like(y)
    done = _normalised(replace(pattern, intensity=y - base, background=base))
    start = _tail(done) if background else 0
    if start:
        notes += (f"low-angle tail below {x[start]:.2f}° cut off (no line stands there)",)
        done = _normalised(crop(done, float(x[start])))
    done = replace(done, warnings=pattern.warnings + notes)
    check(done)
    return done


def background(pattern: Pattern) -> Curve:
    """Background of a pattern as measured, in the units of its intensity."""
    return estimate(pattern.two_theta, pattern.intensity)


def _beam(
    own: Radiation | None, given: Spec | None, name: str
) -> tuple[Radiation, tuple[str, ...]]:
    """The radiation to use, and what to warn of."""
    if given is None and own is None:
        raise ValueError(
            f"{name} does not say its wavelength; give wavelength='CuKa', 'CoKa1', … or Å"
        )
    beam = radiation(given) if given is not None else own
    notes: tuple[str, ...] = ()
    if given is not None and own is not None and not agree(beam, own):
        notes += (
            f"wavelength {beam.main:g} Å as given is used; the file says {own.main:g} Å",
        )
    if beam.kalpha2 is None and beam.polarisation == SYNCHROTRON:
        notes += (f"{beam.main:g} Å is no tube's line: taken as synchrotron radiation",)
    return beam, notes


def _ordered(table: Columns, name: str) -> tuple[Columns, tuple[str, ...]]:
    """The same columns, checked, with ascending angles that occur once."""
    x, y, sigma = table.two_theta, table.intensity, table.sigma
    _refuse(x, y, sigma, name)
    order = np.argsort(x, kind="stable")
    x, y, sigma = x[order], y[order], None if sigma is None else sigma[order]
    notes: tuple[str, ...] = ()
    unique, start, count = np.unique(x, return_index=True, return_counts=True)
    if len(unique) < len(x):
        if len(unique) < 0.5 * len(x):
            raise ValueError(f"{name}: most angles occur twice; give one scan, 2θ first")
        notes += (f"{len(x) - len(unique)} repeated angles averaged",)
        y = np.add.reduceat(y, start) / count
        sigma = None if sigma is None else np.sqrt(np.add.reduceat(sigma**2, start)) / count
    keep = _inside(y)
    if not keep.all():
        notes += (f"{int((~keep).sum())} points of zero at the ends of the scan cut off",)
    if sigma is not None and not (sigma[keep] > 0).all():
        notes += ("e.s.d.s of zero replaced by the median one",)
        sigma = np.where(sigma > 0, sigma, np.median(sigma[sigma > 0]))
    if len(unique) < LEAST:
        raise ValueError(f"{name} has {len(unique)} points, at least {LEAST} are needed")
    sigma = None if sigma is None else sigma[keep]
    counted = table.counted if len(unique) == len(x) else None
    kept = {"two_theta": unique[keep], "intensity": y[keep], "sigma": sigma}
    return table._replace(**kept, counted=counted), notes


def _refuse(x: Curve, y: Curve, sigma: Curve | None, name: str) -> None:
    if not (np.isfinite(x).all() and np.isfinite(y).all()):
        bad = int((~np.isfinite(x) | ~np.isfinite(y)).sum())
        raise ValueError(f"{name} has {bad} points that are NaN or infinite; remove them")
    if sigma is not None and not np.isfinite(sigma).all():
        raise ValueError(f"{name} has e.s.d.s that are NaN or infinite; remove them")
    if len(x) and (x.min() < 0 or x.max() > 180):
        raise ValueError(
            f"{name} has angles {x.min():g} to {x.max():g}, 2θ must be within 0–180°; "
            "give 2θ in degrees in the first column"
        )
    _refuse_radians(x, name)
    if len(y) and not y.any():
        raise ValueError(f"{name} has only zero intensities; give a measured pattern")
    if len(y) and np.ptp(y) == 0:
        raise ValueError(
            f"{name} has the same intensity {y[0]:g} everywhere; check the columns"
        )


def _refuse_radians(x: Curve, name: str) -> None:
    if len(x) >= LEAST and x.max() < RADIANS:
        raise ValueError(
            f"{name} has angles up to {x.max():.3g}: radians? give 2θ in degrees"
        )


def _inside(y: Curve) -> np.ndarray:
    """Points but for three or more exact zeros at the ends of a scan over background."""
    keep = np.ones(len(y), bool)
    filled = np.flatnonzero(y)
    inner = y[filled[0] : filled[-1] + 1]
    if (inner == 0).mean() > 0.01 or np.quantile(inner, 0.1) <= 0:
        return keep
    if filled[0] >= 3:
        keep[: filled[0]] = False
    if len(y) - 1 - filled[-1] >= 3:
        keep[filled[-1] + 1 :] = False
    return keep


def _is_counts(y: Curve) -> bool:
    """Whether intensities are counts: whole numbers that scatter like their roots.

    A maximum of exactly 100, 1000, … says that they were scaled.
    """
    if (y < 0).any() or (y != np.round(y)).any() or y.max() < 20:
        return False
    if y.max() in (100, 1_000, 10_000, 100_000) or np.gcd.reduce(y.astype(np.int64)) > 1:
        return False
    return 0.8 < scatter(2 * np.sqrt(y + 0.375)) < 1.25  # Anscombe: variance one


def _kept(pattern: Pattern, keep: np.ndarray, ranges: list[tuple[float, float]]) -> Pattern:
    _enough(int(keep.sum()), pattern)
    names = ("two_theta", "intensity", "sigma", "background")
    found = {name: getattr(pattern, name) for name in names}
    cut = {name: None if value is None else value[keep] for name, value in found.items()}
    return replace(pattern, ranges=tuple(ranges), **cut)


def _enough(left: int, whole: Pattern) -> None:
    """Refuse what is too little of a pattern to find lines in."""
    if left < LEAST:
        raise ValueError(
            f"{left or 'no'} points are left, at least {LEAST} are needed; "
            f"the pattern spans {whole.two_theta[0]:g}–{whole.two_theta[-1]:g}°"
        )


def _normalised(pattern: Pattern) -> Pattern:
    top = float(pattern.intensity.max())
    if top <= 0:
        raise ValueError("nothing stands above the background; give a pattern with peaks")
    scaled = {"intensity": pattern.intensity / top}
    for name in ("sigma", "background"):
        value = getattr(pattern, name)
        scaled[name] = None if value is None else value / top
    return replace(pattern, prepared=True, **scaled)


def _despiked(x: Curve, y: Curve) -> tuple[Curve, tuple[str, ...]]:
    """Intensities without single points far above both neighbours (lines are wider)."""
    level = median_filter(y, 9)
    noise = scatter(y) * np.sqrt(np.maximum(level / max(float(np.median(y)), 1e-9), 1))
    around = np.maximum(np.append(y[1:], y[-2]), np.append(y[1], y[:-1])) - level
    high = y - level > 5 * np.maximum(around, 0) + 25 * noise + 0.002 * np.ptp(y)
    spikes = np.flatnonzero(high)
    if not 0 < len(spikes) <= 5 or rough_fwhm(x, y) < 3 * float(np.median(np.diff(x))):
        return y, ()
    y = y.copy()
    y[spikes] = level[spikes]
    angles = ", ".join(f"{x[i]:.2f}°" for i in spikes)
    return y, (f"single-point spikes at {angles} replaced by the median around them",)


def _tail(pattern: Pattern) -> int:
    """First point behind a steep low-angle tail on which no line stands, or 0."""
    x, base, peaks = pattern.two_theta, pattern.background, find_peaks(pattern)
    own = np.interp(peaks.two_theta, x, base)
    real = peaks.height > np.maximum(0.2 * own, 0.02)
    if not real.any():
        return 0
    first = int(np.argmax(real))
    free = x < peaks.two_theta[first] - max(8 * peaks.fwhm[first], 1.0)
    steep = base > max(3 * float(np.median(base)), 0.1)
    rows = np.flatnonzero(free & steep)
    if not len(rows) or not steep[: rows[-1] + 1].all() or rows[-1] > 0.4 * len(x):
        return 0
    return int(rows[-1]) + 1
