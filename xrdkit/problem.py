"""From what a user types to a Problem: formula, contents, cell, space group, checked."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from math import gcd, isclose
from numbers import Real
from pathlib import Path
from typing import Any

import numpy as np
import torch

from xrdkit import library as libraries
from xrdkit.cell import lattice_of
from xrdkit.indexing.bravais import standard
from xrdkit.library import Library, expected_volume
from xrdkit.pattern import find_peaks, prepare
from xrdkit.scattering import hkl_within
from xrdkit.space_group import (
    crystal_system,
    default_hall,
    space_group_number,
    space_group_types,
)
from xrdkit.types import Pattern, Problem

MAX_ATOMS = 200
APPROXIMATE = (
    "prototypes are averages: those that left-out formulas share with others stay; "
    "only a library with members leaves them out fully"
)
MISSED = 0.4  # degrees between a strong peak and the nearest line of a cell
SUBSCRIPTS = str.maketrans("₀₁₂₃₄₅₆₇₈₉", "0123456789")
METRIC = 0.02, 0.005  # of the mean edge: what a cell may be off the metric of its group
LATTICES = {
    "a": "a triclinic", "m": "a monoclinic", "o": "an orthorhombic", "t": "a tetragonal",
    "h": "a hexagonal", "c": "a cubic",
}  # fmt: skip
METRICS = {  # Bravais symbols of lattices that have the symmetry which a system demands
    "triclinic": ("a", "m", "o", "t", "h", "c"),
    "monoclinic": ("m", "o", "t", "h", "c"),
    "orthorhombic": ("o", "t", "hP", "c"),
    "tetragonal": ("t", "c"),
    "trigonal": ("h", "c"),
    "hexagonal": ("hP",),
    "cubic": ("c",),
}
SWOLLEN = 2.5  # factor that a volume given may be off the expected one
TERM = re.compile(r"([A-Z][a-z]?)(\d+(?:\.\d+)?)?")
SIZES = 5.0, 1000.0  # Å, of nanocrystals


def parse_formula(text: str) -> dict[str, float]:
    """Counts by element symbol of "TiO2", "Ca(OH)2", "Ti2 O4" or "CuSO4·5H2O"."""
    if not isinstance(text, str):
        raise ValueError(f"formula {text!r} is no text; give one such as 'TiO2'")
    if not text.strip():
        raise ValueError(f"formula {text!r} is empty; give one such as TiO2")
    text = text.translate(SUBSCRIPTS)
    if re.search(r"[+-]\d*$|\^", text.strip()):
        raise ValueError(f"formula {text!r} carries a charge; give the neutral formula")
    if re.search(r"[A-Za-z]0\d", text):
        raise ValueError(
            f"formula {text!r} has a zero where the letter O may be meant; "
            f"write {re.sub('(?<=[A-Za-z])0(?=[0-9])', 'O', text)}?"
        )
    if water := re.search(r"(?<![A-Za-z]0)\.(\d*H2O)$", text.strip()):
        raise ValueError(
            f"formula {text!r} has a dot of a number before its water; write ·{water[1]}"
        )
    if re.search(r"\s\d[\d.]*[A-Z(\[]", text.strip()):
        raise ValueError(
            f"formula {text!r} has a number after a space; "
            "join it to its element, or write · before a hydrate's water"
        )
    counts: dict[str, float] = {}
    for i, part in enumerate(re.split(r"[·*•]", re.sub(r"[\s_]+", "", text))):
        number = re.match(r"\d+(?:\.\d+)?", part) if i else None
        inner, rest = _terms(part[number.end() :] if number else part, text)
        if rest or not inner:
            raise ValueError(
                f"formula {text!r} cannot be read at {rest or part!r}; "
                "write element symbols and numbers, such as Ca(OH)2"
            )
        _add(counts, inner, float(number[0]) if number else 1.0)
    _check_elements(counts, f"formula {text!r}")
    return counts


def _add(counts: dict[str, float], more: dict[str, float], times: float) -> None:
    """Add so many times these counts."""
    for element, n in more.items():
        counts[element] = counts.get(element, 0) + n * times


def _terms(text: str, whole: str) -> tuple[dict[str, float], str]:
    """Counts of the terms up to a closing bracket, and what is left."""
    counts: dict[str, float] = {}
    while text and text[0] not in ")]":
        if text[0] in "([":
            inner, text = _terms(text[1:], whole)
            if not text:
                raise ValueError(
                    f"formula {whole!r} has a bracket that is not closed; close it"
                )
            number = re.match(r"\d+(?:\.\d+)?", text[1:])
            times = float(number[0]) if number else 1.0
            text = text[1 + (number.end() if number else 0) :]
        else:
            found = TERM.match(text)
            if not found:
                return counts, text
            inner, times = {found[1]: float(found[2] or 1)}, 1.0
            text = text[found.end() :]
        _add(counts, inner, times)
    return counts, text


def _check_elements(counts: dict[str, float], given: str) -> None:
    from pymatgen.core import Element

    for element, n in counts.items():
        if not Element.is_valid_symbol(element) or element in ("D", "T"):
            hint = (
                "write H for deuterium" if element == "D" else "mind upper and lower case"
            )
            raise ValueError(f"{element!r} in {given} is not an element; {hint}")
        if Element(element).Z > 98:
            raise ValueError(
                f"{element} in {given} has no scattering factor here; Z ≤ 98 have"
            )
        if n <= 0:
            raise ValueError(f"{element} in {given} has count {n:g}; leave it out")


def reduced(counts: dict[str, float]) -> dict[str, float]:
    """The same counts without their common divisor; fractional ones stay as they are."""
    if not whole(counts):
        return counts
    divisor = gcd(*(round(n) for n in counts.values()))
    return {e: round(n) / divisor for e, n in counts.items()}


def by_number(counts: Mapping[str, float | int]) -> dict[int, float]:
    """The same counts by atomic number."""
    from pymatgen.core import Element

    return {Element(e).Z: float(n) for e, n in counts.items()}


def whole(counts: dict[str, float]) -> bool:
    """Whether all counts are whole numbers: an ordered structure can have them."""
    return all(isclose(n, round(n), abs_tol=1e-6) for n in counts.values())


def parse_elements(elements: Sequence[str]) -> tuple[str, ...]:
    """Distinct element symbols, such as ("Ti", "O")."""
    found = [elements] if isinstance(elements, str) else list(elements)
    if not found or not all(re.fullmatch("[A-Z][a-z]?", str(e)) for e in found):
        raise ValueError(
            f"elements {', '.join(map(repr, found)) or 'are none'}; give symbols one by "
            'one, such as Ti O in the command line and ("Ti", "O") in Python'
        )
    _check_elements(dict.fromkeys(found, 1.0), f"elements {' '.join(found)!r}")
    return tuple(dict.fromkeys(found))


def several(what: Any) -> tuple:
    """One thing, or a sequence of them, as a tuple."""
    from pymatgen.core import Structure

    alone = isinstance(what, str | Path | Structure) or callable(what)
    return (what,) if alone else tuple(what)


def check_known(formula: str | None, elements: Sequence[str] | None) -> None:
    """Refuse a formula beside elements, and neither."""
    if (formula is None) == (elements is None):
        raise ValueError(
            "formula and elements are both given or both missing; give the formula, or, "
            "where it is not known, the elements"
        )


def pose(
    pattern: Pattern,
    formula: str | None = None,
    *,
    elements: Sequence[str] | None = None,
    contents: str | None = None,
    cell: tuple[float | int, ...] | None = None,
    space_group: int | str | None = None,
    size: float | None = None,
    library: Library | str | Path | None = None,
    exclude: tuple[str, ...] | str = (),
) -> Problem:
    """A checked Problem with its pattern prepared and its library loaded and thinned."""
    if not isinstance(pattern, Pattern):
        raise ValueError(
            f"a {type(pattern).__name__} is given as the pattern; give one that "
            "xrdkit.read returns of a file"
        )
    pattern = pattern if size is None else replace(pattern, size=usable_size(size))
    check_known(formula, elements)
    if contents and formula is None:
        raise ValueError(
            "contents are given without a formula; give it too, or leave them out"
        )
    counts = reduced(parse_formula(formula)) if formula is not None else {}
    known_elements = parse_elements(elements) if elements is not None else ()
    inside = _contents(contents, counts, formula) if contents else None
    cells = ((usable_cell(cell), 1.0),) if cell is not None else ()
    group = space_group_number(space_group) if space_group is not None else None
    exclude = (exclude,) if isinstance(exclude, str) else exclude
    for left_out in exclude:
        parse_formula(left_out)
    known = library if isinstance(library, Library) else load_library(library)
    prepared = pattern if pattern.prepared else prepare(pattern)
    if exclude and known.info.get("averaged"):
        prepared = replace(prepared, warnings=(*prepared.warnings, APPROXIMATE))
    for lattice, _ in cells:
        if group is not None:
            _check_metric(lattice, group)
        if inside is not None:
            _check_room(lattice, inside, known)
        least = inside or counts or dict.fromkeys(known_elements, 1.0)
        doubts = cell_doubts(prepared, lattice, least, known)
        prepared = replace(prepared, warnings=(*prepared.warnings, *doubts))
    return Problem(
        prepared,
        counts,
        inside,
        cells,
        group,
        library=known.without(frozenset(exclude)) if exclude else known,
        exclude=frozenset(exclude),
        elements=known_elements,
    )


def usable_size(size: float | int) -> float:
    """A size of nanocrystals in Å, refused where it is none or makes no difference."""
    if not isinstance(size, Real):
        raise ValueError(f"the size {size!r} is no number; give one in Å, such as 30")
    if not SIZES[0] <= size <= SIZES[1]:
        raise ValueError(
            f"a crystallite size of {size:g} Å is outside {SIZES[0]:g}–{SIZES[1]:g} Å: "
            "smaller ones hold no cell, and larger ones need no size; leave it out"
        )
    return float(size)


def _check_metric(cell: tuple[float, ...], group: int) -> None:
    """Refuse a cell that has not the metric which its space group demands.

    The cell may be primitive or centred, its axes in any order.
    """
    symbols = [standard(lattice_of(cell), tolerance)[0] for tolerance in METRIC]
    if not any(one.startswith(METRICS[crystal_system(group)]) for one in symbols):
        name = space_group_types()[default_hall(group) - 1][1]
        raise ValueError(
            f"{LATTICES[symbols[0][0]]} cell cannot have {name} ({group}); "
            "correct the cell or the space group"
        )


def _check_room(
    cell: tuple[float, ...], contents: dict[str, float], known: Library
) -> None:
    """Refuse contents for which a cell is far too small or too large."""
    volume = abs(float(np.linalg.det(lattice_of(cell))))
    atoms = sum(contents.values())
    expected = atoms * expected_volume(known, by_number(contents))
    if not 1 / SWOLLEN < volume / expected < SWOLLEN:
        raise ValueError(
            f"the cell has {volume:.0f} Å³, its contents of {atoms:g} atoms need about "
            f"{expected:.0f} Å³; make them agree"
        )


def cell_doubts(
    pattern: Pattern, cell: tuple[float, ...], least: dict[str, float], known: Library
) -> tuple[str, ...]:
    """Sentences about a cell that can hardly hold its atoms or misses strong lines."""
    lattice, doubts = lattice_of(cell), []
    atoms = sum(least.values())
    expected = atoms * expected_volume(known, by_number(least))
    volume = abs(float(np.linalg.det(lattice)))
    if volume < 0.6 * expected:
        doubts.append(
            f"the cell has {volume:.0f} Å³, {atoms:g} atoms of this formula need about "
            f"{expected:.0f} Å³; check both"
        )
    hkl = hkl_within(torch.tensor(lattice), float(pattern.q.max())).double().numpy()
    sine = (
        np.linalg.norm(hkl @ np.linalg.inv(lattice).T, axis=1) * pattern.radiation.main / 2
    )
    lines = np.degrees(2 * np.arcsin(sine.clip(max=1)))
    peaks = find_peaks(pattern)
    strong = peaks.two_theta[peaks.height > 0.1]
    missed = [t for t in strong if len(lines) == 0 or np.abs(lines - t).min() > MISSED]
    if missed:
        doubts.append(
            f"the cell has no line at {len(missed)} of {len(strong)} strong peaks, "
            f"the first at {missed[0]:.2f}°; check cell and wavelength"
        )
    return tuple(doubts)


def load_library(path: str | Path | None) -> Library:
    """A library file, or the prototypes that come with the package."""
    return libraries.load(path or Path(__file__).parent / "weights" / "prototypes.lib")


def _contents(text: str, formula: dict[str, float], name: str) -> dict[str, float]:
    counts = parse_formula(text)
    times = max(round(sum(counts.values()) / sum(formula.values())), 1)
    if counts.keys() != formula.keys() or any(
        not isclose(n, times * formula[e], rel_tol=1e-3) for e, n in counts.items()
    ):
        raise ValueError(
            f"contents {text!r} are not a multiple of the formula {name!r}; make them agree"
        )
    if sum(counts.values()) > MAX_ATOMS:
        raise ValueError(
            f"contents {text!r} hold {sum(counts.values()):g} atoms; at most {MAX_ATOMS}"
        )
    return counts


def usable_cell(cell: tuple[float | int, ...]) -> tuple[float, ...]:
    """A cell (a, b, c in Å, α, β, γ in °) that encloses a volume."""
    values = tuple(float(v) for v in cell)
    if len(values) != 6:
        raise ValueError(f"cell {values} has {len(values)} numbers; give a, b, c, α, β, γ")
    lengths, angles = values[:3], values[3:]
    if not all(1 <= v <= 100 for v in lengths):
        raise ValueError(f"cell edges {lengths} are not all within 1–100 Å; give them in Å")
    cosines = np.cos(np.radians(angles))
    square = 1 - (cosines**2).sum() + 2 * cosines.prod()
    if not all(20 < v < 160 for v in angles) or square <= 1e-3:
        raise ValueError(f"cell angles {angles} enclose no volume; give degrees")
    return values
