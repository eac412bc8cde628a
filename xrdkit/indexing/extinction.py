"""Systematic absences: which extinction symbols agree with a pattern."""

import re
from functools import cache
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Bool, Float, Int

from xrdkit.indexing.line_match import Setting, reflections_of
from xrdkit.peaks import noise, typical_fwhm
from xrdkit.types import Pattern
from xrdkit.wavelengths import radiation_choices

if TYPE_CHECKING:
    import gemmi

SYSTEMS = {
    "a": ("triclinic",),
    "m": ("monoclinic",),
    "o": ("orthorhombic",),
    "t": ("tetragonal",),
    "h": ("trigonal", "hexagonal"),
    "c": ("cubic",),
}
MOST = 80  # first lines that are looked at
APART = 1.2  # FWHM between an absent line and the next that may be there
ROUNDS = 40
SEEN = 0.003  # share of the strongest line, and six errors, that count as seen


def extinction_symbols(pattern: Pattern, setting: Setting) -> tuple[str, ...]:
    """Extinction symbols of a lattice that the pattern contradicts least.

    Those that explain more absent lines come first. A line counts as absent only where no
    line that may be there is within 1.2 FWHM.
    """
    angle, hkl, owner = _lines(pattern, setting)
    if not len(angle):
        return ()
    a, b = typical_fwhm(pattern)
    fwhm = np.sqrt(a**2 + (b * np.tan(np.radians(angle / 2))) ** 2)
    seen = _seen(pattern, angle, fwhm)
    ranked = []
    for groups, reflections in extinction_classes(setting.bravais, hkl.tobytes()):
        absent = np.bincount(owner, ~reflections, len(angle)) == 0
        alone = absent & _apart(angle, ~absent, fwhm)
        ranked.append((int((alone & seen).sum()), -int(alone.sum()), symbol_of(groups)))
    least = min(wrong for wrong, *_ in ranked)
    left = (symbol for wrong, _, symbol in sorted(ranked) if wrong == least)
    return tuple(dict.fromkeys(left))


def _lines(
    pattern: Pattern, setting: Setting
) -> tuple[
    Float[np.ndarray, " lines"],
    Int[np.ndarray, "reflections 3"],
    Int[np.ndarray, " reflections"],
]:
    """2θ (°) of the first lines as seen; all their reflections, and whose they are."""
    wavelength = pattern.radiation.main
    reach = np.sin(np.radians(min(float(pattern.two_theta[-1]), 179) / 2))
    hkl, q = reflections_of(setting, float((2 * reach / wavelength) ** 2))
    angle = 2 * np.degrees(np.arcsin((np.sqrt(q) * wavelength / 2).clip(max=1)))
    angle = angle + setting.zero
    inside = angle > pattern.two_theta[0]
    owner = np.cumsum(np.append(0, np.diff(np.round(q[inside], 7)) > 0)[: inside.sum()])
    keep = owner < MOST
    first = np.unique(owner[keep], return_index=True)[1]
    return angle[inside][keep][first], hkl[inside][keep], owner[keep]


def _seen(
    pattern: Pattern,
    angle: Float[np.ndarray, " lines"],
    fwhm: Float[np.ndarray, " lines"],
) -> Bool[np.ndarray, " lines"]:
    """Whether each line has intensity, by expectation maximisation of Gaussian lines.

    With Kα2 every line is a doublet. Lines at one place share what is there.
    """
    low, high = angle[0] - fwhm[0], angle[-1] + 2 * fwhm[-1]
    part = (pattern.two_theta >= low) & (pattern.two_theta <= high)
    x, y = pattern.two_theta[part], pattern.intensity[part].clip(min=0)
    shapes = line_shapes(pattern, x, angle, fwhm)
    heights = np.full(len(angle), y.max())
    norm = shapes.sum(1) + 1e-12
    for _ in range(ROUNDS):
        heights *= shapes @ (y / (heights @ shapes + 1e-9)) / norm
    error = np.interp(angle, x, noise(pattern)[part]) / np.sqrt((shapes**2).sum(1) + 1e-12)
    return heights > np.maximum(6 * error, SEEN * heights.max())


def line_shapes(
    pattern: Pattern,
    x: Float[np.ndarray, " points"],
    angle: Float[np.ndarray, " lines"],
    fwhm: Float[np.ndarray, " lines"],
) -> Float[np.ndarray, "lines points"]:
    """Half Gaussian, half Lorentzian lines of height one at 2θ (°), with Kα2 if there."""
    beam = radiation_choices(pattern.radiation)[-1]
    total = np.zeros((len(angle), len(x)))
    for wavelength, weight in zip(beam.wavelengths, beam.weights, strict=True):
        sine = np.sin(np.radians(angle / 2)) * wavelength / beam.main
        centre = 2 * np.degrees(np.arcsin(sine.clip(max=1)))
        t = ((x - centre[:, None]) / fwhm[:, None]) ** 2
        shape = 0.5 * np.exp(-4 * np.log(2) * t) + 0.5 / (1 + 4 * t)
        total += weight / beam.weights[0] * shape
    return total


def _apart(
    angle: Float[np.ndarray, " lines"],
    present: Bool[np.ndarray, " lines"],
    fwhm: Float[np.ndarray, " lines"],
) -> Bool[np.ndarray, " lines"]:
    """Lines with no line that may be present within some widths."""
    if not present.any():
        return np.ones(len(angle), bool)
    gaps = np.abs(angle[:, None] - angle[present]).min(1)
    return gaps > APART * fwhm


@cache
def extinction_classes(
    bravais: str, packed: bytes
) -> tuple[tuple[tuple[str, ...], Bool[np.ndarray, " reflections"]], ...]:
    """Space groups with the same absences among reflections (packed int64 hkl).

    Orthorhombic groups come in every setting, monoclinic ones in those of unique axis b.
    """
    hkl = np.frombuffer(packed, np.int64).reshape(-1, 3).astype(np.int32)
    classes: dict[bytes, list[str]] = {}
    for group in _settings(bravais):
        absent = np.asarray(group.operations().systematic_absences(hkl), bool)
        classes.setdefault(absent.tobytes(), []).append(group.hm)
    return tuple(
        (tuple(names), np.frombuffer(absent, bool)) for absent, names in classes.items()
    )


@cache
def _settings(bravais: str) -> tuple["gemmi.SpaceGroup", ...]:
    """Tabulated settings of the space groups of a lattice, in its standard axes."""
    import gemmi

    found = []
    for group in gemmi.spacegroup_table():
        fits = group.crystal_system_str() in SYSTEMS[bravais[0]]
        fits &= group.hm[0] == bravais[1] and group.ext not in ("2", "R")
        if bravais[0] == "m":
            fits &= group.monoclinic_unique_axis() == "b"
        if fits and (
            bravais[0] in "mo" or group.is_reference_setting() or group.ext == "1"
        ):
            found.append(group)
    return tuple(found)


def symbol_of(groups: tuple[str, ...]) -> str:
    """The extinction symbol of space groups: the screws and glides common to all.

    After International Tables A, section 1.6.4: "P n - a" of P n m a and P n 21 a.
    """
    names = [name.split() for name in groups]
    length = max(len(name) for name in names)
    places = [[n[i] if i < len(n) else "" for n in names] for i in range(1, length)]
    if all("1" in place for place in places[:1] + places[2:]) and length == 4:
        return f"{names[0][0]} 1 {_common(places[1])} 1"  # monoclinic, unique axis b
    return " ".join([names[0][0], *(_common(place) for place in places)])


def _common(elements: list[str]) -> str:
    """Screw and glide where all these parts of symbols have one, as the first has it."""
    screws = [re.match(r"[2346][1-5]|", element)[0] for element in elements]
    glides = [re.search(r"[abcnde]|$", element)[0] for element in elements]
    return "/".join(kinds[0] for kinds in (screws, glides) if all(kinds)) or "-"
