"""The parameter table: every number of a refinement, what is refined, limits and ties.

A table is never changed; editing gives a new one that remembers the old one:

    fit = refine(pattern, "rutile.cif")
    table = fit.table.edit("u:*", refine=False).edit("zero", refine=True)
    fit = refine(pattern, table)
    table = fit.table.undo()
"""

import re
from dataclasses import dataclass, fields, replace
from fnmatch import fnmatchcase
from html import escape
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float

from xrdkit.refine.rietveld.asymmetric import AsymmetricUnit
from xrdkit.types import Radiation

if TYPE_CHECKING:
    import pandas as pd

TERM = re.compile(r"\s*([+-]?)\s*(?:(\d+\.?\d*(?:e[+-]?\d+)?)\s*\*?\s*)?([^\s*+-]+)?", re.I)
LONGEST = 200  # characters of a tie
DEEPEST = 10  # ties that follow ties
ROUNDING = 1e-8  # how far beyond its limits a sum may be
STEPS = 50  # tables that are remembered
SIZE = 1e4  # sizes (Å) are refined as their reciprocals: none is 0, and widths are linear
POLARISATION = "polarisation"  # K; there is a row where a pattern asks for another one
EDITABLE = ("value", "refine", "low", "high", "tie", "restraint")


@dataclass(frozen=True)
class Parameter:
    """One row: ``tie`` is a sum such as "x:O1", "2*x:O1" or "1 - occupancy:Sr1".

    ``restraint`` is a value and its standard deviation, which count as an observation.
    ``esd`` is None where the parameter was not refined. What ``by_symmetry`` ties stays.
    """

    name: str
    value: float | int
    esd: float | None = None
    refine: bool = False
    low: float | int = -np.inf
    high: float | int = np.inf
    tie: str = ""
    restraint: tuple[float | int, float | int] | None = None
    by_symmetry: bool = False


@dataclass(frozen=True)
class Parameters:
    """The table of a refinement, with the asymmetric units it belongs to.

    Names: ``scale a b c alpha beta gamma size strain texture`` and ``x:Ti1 y:Ti1 z:Ti1
    u:Ti1 occupancy:Ti1`` of a phase, those of further phases behind ``name/``; ``zero``
    (°), ``displacement`` (mm), ``U V W`` (°²), ``X Y`` (°), ``asymmetry`` ((S + H)/L),
    ``roughness``, ``absorption`` (µR) and ``background:0`` … of the pattern, and where it
    was refined, ``polarisation`` (K), which replaces that of the beam. ``radiation`` is
    what a refinement took the beam for, where its pattern left that open.
    """

    rows: tuple[Parameter, ...]
    units: tuple[AsymmetricUnit, ...]
    texture: tuple[int, int, int] | None = None
    previous: "Parameters | None" = None
    note: str = "start"
    radiation: Radiation | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "_place", {r.name: i for i, r in enumerate(self.rows)})

    def __getitem__(self, name: str) -> Parameter:
        return self.rows[self.place(name)]

    def __len__(self) -> int:
        return len(self.rows)

    def __contains__(self, name: str) -> bool:
        return name in self._place

    def place(self, name: str) -> int:
        """The row of a name."""
        if name not in self._place:
            raise ValueError(
                f"there is no parameter '{name}'; the table has {', '.join(self._place)}"
            )
        return self._place[name]

    @property
    def names(self) -> tuple[str, ...]:
        """All names, in order."""
        return tuple(self._place)

    @property
    def values(self) -> dict[str, float]:
        """Value by name."""
        return {row.name: row.value for row in self.rows}

    @property
    def free(self) -> tuple[str, ...]:
        """Names of what is refined."""
        return tuple(row.name for row in self.rows if row.refine)

    @property
    def history(self) -> tuple[str, ...]:
        """What was done to the table, latest last."""
        before = self.previous.history if self.previous else ()
        return (*before, self.note)

    def matching(self, pattern: str) -> tuple[str, ...]:
        """Names that match a pattern such as "u:*" or "background:*"."""
        found = tuple(name for name in self.names if fnmatchcase(name, pattern))
        if not found:
            self.place(pattern)
        return found

    def edit(self, pattern: str, **changes: Any) -> "Parameters":
        """A new table with value, refine, low, high, tie or restraint of rows changed.

        With ``refine=True`` and a pattern that matches several rows, those that symmetry or
        a tie determines stay as they are.
        """
        for key in changes:
            if key not in EDITABLE:
                raise ValueError(
                    f"'{key}' cannot be edited; change {', '.join(EDITABLE)} of a row"
                )
        names = self.matching(pattern)
        rows = list(self.rows)
        for name in names:
            i = self.place(name)
            if changes.get("refine") and rows[i].tie and len(names) > 1:
                continue
            if rows[i].by_symmetry:
                raise ValueError(
                    f"{name} is {rows[i].tie} by symmetry and cannot be changed; "
                    "edit the parameter it follows, or the space group of the structure"
                )
            rows[i] = _checked(replace(rows[i], **changes))
        said = ", ".join(f"{key} {value}" for key, value in changes.items())
        return self.noted(tuple(rows), f"{pattern}: {said}")

    def noted(self, rows: tuple[Parameter, ...], note: str) -> "Parameters":
        """A table of other rows that remembers this one; ties are checked."""
        old = self if len(self.history) < STEPS else replace(self, previous=None)
        new = replace(self, rows=rows, previous=old, note=note)
        matrix, constant = new.ties()
        values = matrix @ new.vector() + constant
        low, high = new.bounds()
        for row, value, least, most in zip(rows, values, low, high, strict=True):
            inside = least - ROUNDING <= value <= most + ROUNDING
            if row.tie and not row.by_symmetry and not inside:
                raise ValueError(
                    f"tie '{row.tie}' makes {row.name} {value:g}, its limits are "
                    f"{row.low:g}–{row.high:g}; change the tie or the limits"
                )
        return new.with_vector(values)

    def undo(self) -> "Parameters":
        """The table before the last change."""
        if self.previous is None:
            raise ValueError("there is nothing to undo; this is the first table")
        return self.previous

    def vector(self) -> Float[np.ndarray, " rows"]:
        """Values as they are refined, sizes as reciprocals."""
        return np.array([_inward(row.name, row.value) for row in self.rows])

    def with_vector(
        self,
        values: Float[np.ndarray, " rows"],
        esds: Float[np.ndarray, " rows"] | None = None,
    ) -> "Parameters":
        """The same table with other values, and e.s.d.s (0 where there is none)."""
        rows = []
        for i, row in enumerate(self.rows):
            value = _outward(row.name, float(values[i]))
            esd = None if esds is None or esds[i] == 0 else float(esds[i])
            if esd is not None and is_size(row.name):
                esd *= value**2 / SIZE
            rows.append(replace(row, value=value, esd=esd))
        return replace(self, rows=tuple(rows))

    def bounds(self) -> tuple[Float[np.ndarray, " rows"], Float[np.ndarray, " rows"]]:
        """Limits of the values as they are refined."""
        pairs = [
            sorted((_inward(row.name, row.low), _inward(row.name, row.high)))
            for row in self.rows
        ]
        low, high = np.array(pairs).reshape(-1, 2).T
        return low, high

    def ties(self) -> tuple[Float[np.ndarray, "rows rows"], Float[np.ndarray, " rows"]]:
        """Matrix M and constants k with values = M values + k, ties resolved."""
        n = len(self.rows)
        matrix, constant = np.eye(n), np.zeros(n)
        for i, row in enumerate(self.rows):
            if row.tie:
                matrix[i] = 0
                terms, constant[i] = parse_tie(row.tie)
                for name, factor in terms.items():
                    matrix[i, self.place(name)] += factor
        tied = np.array([bool(row.tie) for row in self.rows])
        one, shift = matrix, constant
        for _ in range(DEEPEST):
            follow = np.where(tied, matrix, 0)
            if not follow.any():
                return matrix, constant
            matrix = np.where(tied, 0, matrix) + follow @ one
            constant = constant + follow @ shift
        circle = ", ".join(row.name for row in self.rows if row.tie and not row.by_symmetry)
        raise ValueError(f"the ties of {circle} run in a circle; remove one of them")

    def frame(self) -> "pd.DataFrame":
        """The table as a DataFrame, a row for each name, to look at or to edit."""
        import pandas as pd

        columns = [f.name for f in fields(Parameter)]
        table = {c: [getattr(row, c) for row in self.rows] for c in columns}
        return pd.DataFrame(table).set_index("name")

    def from_frame(self, frame: "pd.DataFrame") -> "Parameters":
        """The table with what was changed in its DataFrame; other rows are left alone."""
        rows = list(self.rows)
        for name, line in frame.to_dict("index").items():
            i = self.place(str(name))
            new = {key: _cell(key, line[key]) for key in EDITABLE if key in line}
            changed = {k: v for k, v in new.items() if v != getattr(rows[i], k)}
            if changed and rows[i].by_symmetry:
                raise ValueError(f"{name} is {rows[i].tie} by symmetry; leave it unchanged")
            rows[i] = _checked(replace(rows[i], **changed))
        return self.noted(tuple(rows), "edited as a DataFrame")

    def __repr__(self) -> str:
        refined = sum(row.refine for row in self.rows)
        return f"Parameters({len(self.rows)}, {refined} of them refined)"

    def _repr_html_(self) -> str:
        """What a notebook shows: everything that is not fixed by symmetry."""
        head = ("name", "value", "e.s.d.", "refine", "limits", "tie", "restraint")
        lines = ["".join(f"<th>{title}</th>" for title in head)]
        for row in self.rows:
            if not row.by_symmetry:
                cells = (f"<td>{escape(text)}</td>" for text in _shown(row))
                lines.append("".join(cells))
        return f"<table>{''.join(f'<tr>{line}</tr>' for line in lines)}</table>"


def kind_of(name: str) -> str:
    """What a parameter is, without phase and label: "u" of "CaO/u:O1"."""
    return name.rpartition("/")[2].partition(":")[0]


def is_size(name: str) -> bool:
    """Whether a parameter is a crystallite size."""
    return kind_of(name) == "size"


def parse_tie(text: str) -> tuple[dict[str, float], float]:
    """Factors by name, and the constant, of a sum such as "0.5 + 2*x:O1 - z:O1"."""
    if len(text) > LONGEST:
        raise ValueError(f"tie of {len(text)} characters; at most {LONGEST} are read")
    terms: dict[str, float] = {}
    constant, place = 0.0, 0
    while text[place:].strip():
        found = TERM.match(text, place)
        sign, number, name = found.groups()
        if (number is None and name is None) or (place > 0 and not sign):
            raise ValueError(
                f"tie '{text}' is not a sum of numbers and names; "
                "write for example 'x:O1', '0.5 + 2*x:O1' or '1 - occupancy:Sr1'"
            )
        factor = float(number or 1) * (-1 if sign == "-" else 1)
        if name is None:
            constant += factor
        else:
            terms[name] = terms.get(name, 0) + factor
        place = found.end()
    return terms, constant


def _inward(name: str, value: float | int) -> float | int:
    if not is_size(name):
        return value
    return SIZE / value if value > 0 else np.inf


def _outward(name: str, value: float) -> float:
    if not is_size(name):
        return value
    return SIZE / value if value > 0 else np.inf


def _checked(row: Parameter) -> Parameter:
    """The row, unless it contradicts itself."""
    numbers = (row.value, row.low, row.high, *(row.restraint or ()))
    pair = row.restraint is None or len(row.restraint) == 2
    if not all(isinstance(n, int | float) for n in numbers) or not pair:
        raise ValueError(
            f"value, limits and restraint of {row.name} must be numbers, the restraint two "
            "of them: a value and its standard deviation"
        )
    if not isinstance(row.tie, str) or not isinstance(row.refine, bool | np.bool_):
        raise ValueError(f"tie of {row.name} must be a text, refine True or False")
    if row.tie and row.refine:
        raise ValueError(
            f"{row.name} is tied to {row.tie} and cannot be refined; "
            "refine what it follows, or remove the tie with tie=''"
        )
    if not row.low <= row.high:
        raise ValueError(f"limits {row.low:g}–{row.high:g} of {row.name} are empty")
    finite = row.restraint is None or np.isfinite(row.restraint).all()
    if not finite or (row.restraint is not None and not row.restraint[1] > 1e-12):
        raise ValueError(
            f"the restraint on {row.name} must be a number and a positive standard "
            f"deviation, not {row.restraint}"
        )
    value = row.value if is_size(row.name) else float(np.clip(row.value, row.low, row.high))
    if np.isnan(value) or not (np.isfinite(value) or is_size(row.name)):
        raise ValueError(f"{row.name} is not a number; give a value within its limits")
    return replace(row, value=value)


def _cell(key: str, value: Any) -> Any:
    """A cell of a DataFrame as the table holds it."""
    if key == "restraint":
        if isinstance(value, str) and value.strip():
            value = tuple(float(part) for part in value.strip("()[] ").split(","))
        return tuple(value) if isinstance(value, tuple | list) else None
    if key == "tie":
        return value if isinstance(value, str) else ""
    if key == "refine":
        return {"True": True, "False": False}.get(value, value)
    return float(value)


def _shown(row: Parameter) -> tuple[str, ...]:
    """The cells of a row as texts."""
    limits = "" if np.isinf([row.low, row.high]).all() else f"{row.low:.5g}–{row.high:.5g}"
    restraint = (
        "" if row.restraint is None else f"{row.restraint[0]:g} ± {row.restraint[1]:g}"
    )
    return (
        row.name,
        f"{row.value:.6g}",
        "" if row.esd is None else f"{row.esd:.2g}",
        "yes" if row.refine else "",
        limits,
        row.tie,
        restraint,
    )
