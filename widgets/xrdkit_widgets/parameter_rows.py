"""A parameter table as rows of texts that can be edited, and what was edited in them."""

import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from xrdkit.refine.rietveld import Parameter, Parameters
from xrdkit.refine.rietveld.start import prefix_of
from xrdkit.refine.rietveld.table import kind_of

LONGEST = 200  # characters of an entry


def rows_of(table: Parameters) -> list[dict[str, Any]]:
    """What a page shows of every parameter that symmetry leaves open."""
    prefixes = {prefix_of(table.units, i): unit.name for i, unit in enumerate(table.units)}
    return [
        {
            "name": row.name,
            "group": group_of(row.name, prefixes),
            "value": value_text(row),
            "esd": "" if row.esd is None else f"{row.esd:.{places_of(row)}f}",
            "refine": bool(row.refine),
            "open": not row.tie and row.low < row.high,
            "low": "" if np.isinf(row.low) else f"{row.low:g}",
            "high": "" if np.isinf(row.high) else f"{row.high:g}",
            "tie": row.tie,
            "restraint": restraint_text(row),
        }
        for row in table.rows
        if not row.by_symmetry
    ]


def group_of(name: str, prefixes: dict[str, str]) -> str:
    """Under which heading a parameter stands: of the pattern, of a phase or its atoms."""
    prefix, _, own = name.rpartition("/")
    phase = prefixes[f"{prefix}/" if prefix else ""]
    if ":" in own and kind_of(name) != "background":
        return f"{phase}: atoms"
    if kind_of(name) == "background":
        return "background"
    return phase if prefix or own in OF_A_PHASE else "instrument and sample"


OF_A_PHASE = ("scale", "size", "strain", "texture", "a", "b", "c", "alpha", "beta", "gamma")


def value_text(row: Parameter) -> str:
    """The value to two digits of its e.s.d., or to six digits."""
    return f"{row.value:.6g}" if row.esd is None else f"{row.value:.{places_of(row)}f}"


def places_of(row: Parameter) -> int:
    """Decimals that hold two digits of the e.s.d."""
    if not row.esd or not np.isfinite(row.esd):
        return 6
    return min(max(1 - int(np.floor(np.log10(row.esd))), 0), 9)


def restraint_text(row: Parameter) -> str:
    """Value and standard deviation of a restraint, nothing where there is none."""
    return "" if row.restraint is None else f"{row.restraint[0]:g} ± {row.restraint[1]:g}"


def edited(table: Parameters, name: str, key: str, text: str | bool) -> Parameters:
    """The table with what was typed, or ticked, of a parameter."""
    if key == "refine":
        return table.edit(name, refine=bool(text))
    said = str(text).strip()
    if len(said) > LONGEST:
        raise ValueError(f"{key} of {len(said)} characters; at most {LONGEST} are read")
    if key in ("value", "low", "high"):
        empty = {"low": -np.inf, "high": np.inf}.get(key)
        value = empty if not said and empty is not None else number(said)
        return table.edit(name, **{key: value})
    if key == "restraint":
        return table.edit(name, restraint=restraint(said) if said else None)
    if key == "tie" and said:
        return table.edit(name, tie=said, refine=False)
    return table.edit(name, **{key: said})


def number(text: str) -> float:
    """A number as typed, with a point or a decimal comma."""
    try:
        return float(text.replace(",", "."))
    except ValueError:
        raise ValueError(f"{text!r} is not a number; write for example 0.25") from None


def restraint(text: str) -> tuple[float, float]:
    """Value and standard deviation, typed as 0.25 ± 0.01 or 0.25 0.01."""
    parts = [part for part in re.split(r"\s*(?:±|\+-|\+/-|\s)\s*", text) if part]
    if len(parts) != 2:
        raise ValueError(
            f"restraint {text!r} is not a value and its standard deviation; "
            "write for example 0.25 ± 0.01"
        )
    return number(parts[0]), number(parts[1])


def marked(table: Parameters, patterns: Sequence[str], refine: bool) -> Parameters:
    """The table with rows of these names or patterns ("u:*") refined, or fixed.

    Rows that follow others, or whose limits leave no room, stay as they are.
    """
    names = {name for pattern in patterns for name in table.matching(pattern)}
    rows = tuple(
        replace(row, refine=refine)
        if row.name in names and not row.tie and row.low < row.high
        else row
        for row in table.rows
    )
    what = patterns[0] if len(patterns) == 1 else f"{len(names)} parameters"
    return table.noted(rows, f"{what}: {'refined' if refine else 'fixed'}")
