"""Space groups by number in spglib's standard setting: operations, centring, symbols."""

import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from types import ModuleType

import numpy as np
from jaxtyping import Float, Int

SAME = 1e-3  # largest difference of fractional coordinates of one place

# Rows of the primitive lattice in terms of the conventional rows, spglib's convention.
CENTRING = {
    "P": np.eye(3),
    "A": np.array([[1, 0, 0], [0, 0.5, -0.5], [0, 0.5, 0.5]]),
    "C": np.array([[0.5, 0.5, 0], [-0.5, 0.5, 0], [0, 0, 1]]),
    "I": np.array([[-0.5, 0.5, 0.5], [0.5, -0.5, 0.5], [0.5, 0.5, -0.5]]),
    "F": np.array([[0, 0.5, 0.5], [0.5, 0, 0.5], [0.5, 0.5, 0]]),
    "R": np.array([[2, 1, 1], [-1, 1, 1], [-1, -2, 1]]) / 3,
}


@cache
def operations(space_group: int) -> tuple[np.ndarray, np.ndarray]:
    """Rotations and translations of a space group in the standard primitive setting."""
    with quiet_spglib() as spglib:
        found = spglib.get_symmetry_from_database(default_hall(space_group))
    rows = CENTRING[centring_letter(space_group)]
    inverse = np.linalg.inv(rows)
    # x_conventional = x_primitive @ rows, so W' = rows^-T W rows^T
    rotations = np.rint(inverse.T @ found["rotations"] @ rows.T).astype(int)
    translations = np.mod(found["translations"] @ inverse + 1e-6, 1) - 1e-6
    table = np.column_stack([rotations.reshape(-1, 9), np.rint(translations * 24)])
    keep = np.sort(np.unique(table.astype(int), axis=0, return_index=True)[1])
    return rotations[keep], translations[keep]


@contextmanager
def quiet_spglib() -> Iterator[ModuleType]:
    """spglib without its warnings: of how errors will be reported, of what it tries."""
    import spglib

    os.environ.setdefault("SPGLIB_WARNING", "OFF")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        yield spglib


@cache
def space_group_types() -> tuple[tuple[int, str, str], ...]:
    """Number, short and full symbol of every Hall number, in spglib's order from 1."""
    with quiet_spglib() as spglib:
        kinds = [spglib.get_spacegroup_type(hall) for hall in range(1, 531)]
    return tuple((k.number, k.international_short, k.international_full) for k in kinds)


def space_group_number(name: int | str) -> int:
    """A space group's number from a number or a Hermann–Mauguin symbol, any setting."""
    import gemmi

    def plain(text: str) -> str:
        return text.replace(" ", "").replace("_", "").lower()

    if str(name).isdigit() and 1 <= int(name) <= 230:
        return int(name)
    for number, short, full in space_group_types():
        if plain(str(name)) in (plain(short), plain(full)):
            return number
    symbol = "" if str(name).isdigit() else str(name).replace("_", "")
    found = gemmi.find_spacegroup_by_name(symbol)
    if found is not None:
        return found.number
    raise ValueError(
        f"space group {name!r} is not known; "
        "give a number from 1 to 230 or a symbol such as P4_2/mnm"
    )


def crystal_system(space_group: int) -> str:
    """The crystal system of a space group's number."""
    last = {2: "triclinic", 15: "monoclinic", 74: "orthorhombic", 142: "tetragonal"}
    last |= {167: "trigonal", 194: "hexagonal", 230: "cubic"}
    return next(system for number, system in last.items() if space_group <= number)


def centring_letter(space_group: int) -> str:
    """P, A, C, I, F or R of a space group's standard setting."""
    return space_group_types()[default_hall(space_group) - 1][1][0]


@cache
def default_hall(space_group: int) -> int:
    """spglib's default Hall number of a space group: the first."""
    numbers = [number for number, *_ in space_group_types()]
    return numbers.index(space_group) + 1


@cache
def reference_hall(space_group: int) -> int:
    """spglib's Hall number of the reference setting: origin choice 2 where there is one."""
    with quiet_spglib() as spglib:
        halls = [
            hall
            for hall, (number, *_) in enumerate(space_group_types(), 1)
            if number == space_group
        ]
        second = [h for h in halls if spglib.get_spacegroup_type(h).choice == "2"]
    return (second or halls)[0]


def special_position(
    frac: Float[np.ndarray, "3"],
    rotations: Int[np.ndarray, "operations 3 3"],
    translations: Float[np.ndarray, "operations 3"],
) -> tuple[Float[np.ndarray, "3"], Float[np.ndarray, "directions 3"]]:
    """The place exactly on its special position, and the directions that stay on it.

    Directions are rows in reduced row echelon form, fractional.
    """
    moved = rotations @ frac + translations
    lattice = np.rint(moved - frac)
    fixed = (np.abs(moved - lattice - frac) < SAME).all(1)
    exact = (moved - lattice)[fixed].mean(0)
    return np.mod(exact.round(9), 1), echelon(rotations[fixed].mean(0).T)


def echelon(rows: Float[np.ndarray, "rows 3"]) -> Float[np.ndarray, "directions 3"]:
    """Reduced row echelon form of the space that rows span, without zero rows."""
    rows, done = rows.astype(float), 0
    for column in range(3):
        if done == len(rows):
            break
        best = done + int(np.abs(rows[done:, column]).argmax())
        if abs(rows[best, column]) < 1e-6:
            continue
        rows[[done, best]] = rows[[best, done]]
        rows[done] /= rows[done, column]
        others = np.arange(len(rows)) != done
        rows[others] -= np.outer(rows[others, column], rows[done])
        done += 1
    return rows[:done].round(6) + 0.0
