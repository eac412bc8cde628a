"""Files of powder patterns -> columns, recognised by what is in them.

Files come from others: sizes, members of zips and numbers announced in headers are
bounded, XML with a document type is refused, and every error is one sentence.
"""

import re
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from . import brml, bruker, cif, gsas, panalytical, rigaku, text
from .container import (
    KNOWN,
    LARGEST,
    decoded,
    is_binary,
    is_zip,
    member,
    member_names,
    opened,
    shown,
)
from .instrument import read_instrument
from .scan import Columns, plausible

__all__ = ["Columns", "columns", "read_instrument"]

PATTERNS = 50  # files looked at in a zip


class Format(NamedTuple):
    """A format and all that its content shows (of a zip: its list of names)."""

    name: str
    suffix: str
    content: tuple[str, ...]
    read: Callable[[bytes], Columns]


FORMATS = (
    Format(
        "PANalytical XRDML", ".xrdml", (r"<(\w+:)?xrdMeasurements\b",), panalytical.xrdml
    ),
    Format("Bruker BRML", ".brml", (r"\A\0PK$", r"(?i)^(.*/)?RawData\d+\.xml$"), brml.brml),
    Format("Rigaku RASX", ".rasx", (r"\A\0PK$", r"^(.*/)?Data\d+/Profile\d"), rigaku.rasx),
    Format("Bruker RAW", ".raw", (r"\ARAW( |2|1\.01|4\.00)", "\0"), bruker.raw),
    Format("STOE RAW", ".raw", (r"\ARAW_", "\0"), text.stoe),
    Format("Rigaku RAW", ".raw", (r"\AFI\W", "\0"), rigaku.raw),
    Format("Bruker UXD", ".uxd", (r"^_(2THETA)?(COUNTS|CPS)[ \t\r]*$",), bruker.uxd),
    Format("Rigaku RAS", ".ras", (r"^\*RAS_INT_START",), rigaku.ras),
    Format("Rigaku ASC", ".asc", (r"^\*START[ \t]*=", r"^\*COUNT[ \t]*="), rigaku.asc),
    Format("GSAS", ".gsas", (r"^BANK\s+\d+",), gsas.gsas),
    Format("CIF", ".cif", (r"(?i)^data_", r"^[ \t]*_\w"), cif.powder_cif),
)


def columns(path: Path) -> Columns:
    """2θ (°), intensity, e.s.d.s, radiation and instrument, as they stand in a file."""
    size = path.stat().st_size / 1e6
    if size > LARGEST:
        raise ValueError(
            f"{path.name} has {size:.0f} MB, at most {LARGEST} MB are read; thin it"
        )
    data = path.read_bytes()
    if not data.strip():
        raise ValueError(f"{path.name} is empty; give {KNOWN}")
    return _columns(data, path.name)


def _columns(data: bytes, name: str, *, packed: bool = False) -> Columns:
    """Columns of the bytes of a file of this name."""
    view = _view(data)
    for known in FORMATS:
        if all(re.search(part, view, re.M) for part in known.content):
            return _checked(known.read(data))
    if is_zip(data):
        if packed:
            raise ValueError(f"{shown(name)} is a zip in a zip; give the file in it")
        return _archived(data, name)
    return _checked(_text_only(data, view, name))


def _view(data: bytes) -> str:
    """What formats are recognised by: text, names in a zip, or the first binary bytes."""
    if is_zip(data):
        return "\n".join(["\0PK", *member_names(opened(data))])
    return data[:64].decode("latin-1") if is_binary(data) else decoded(data)


def _text_only(data: bytes, view: str, name: str) -> Columns:
    """Columns of free text; anything else is named."""
    known = next((f for f in FORMATS if name.lower().endswith(f.suffix)), None)
    if not is_binary(data) and not view.lstrip()[:5].lower().startswith("<?xml"):
        return text.plain(data)
    if known:
        raise ValueError(
            f"{shown(name)} does not begin as a file of {known.name} does; it is damaged "
            "or something else: copy it again or export it as text"
        )
    kind = "a binary file" if is_binary(data) else "XML"
    raise ValueError(
        f"{shown(name)} is {kind}, which is not read; export it as text: {KNOWN}"
    )


def _archived(data: bytes, name: str) -> Columns:
    """The one pattern among the files of a zip."""
    archive = opened(data)
    names = member_names(archive)
    if len(names) > PATTERNS:
        raise ValueError(
            f"{shown(name)} holds {len(names)} files, at most {PATTERNS} are looked at; "
            "give one pattern"
        )
    read, errors = {}, []
    for inner in names:
        try:
            read[inner] = _columns(member(archive, inner), inner, packed=True)
        except ValueError as error:
            errors.append(str(error))
    if len(read) == 1:
        return next(iter(read.values()))
    listed = ", ".join(shown(inner) for inner in list(read or names)[:10])
    if not read:
        reason = f": {errors[0]}" if len(errors) == 1 else ""
        raise ValueError(f"no pattern in {shown(name)} ({listed or 'empty'}){reason}")
    raise ValueError(
        f"{shown(name)} holds {len(read)} patterns ({listed}); give one of them"
    )


def _checked(table: Columns) -> Columns:
    """The table, unless numbers are so large that the file must be damaged."""
    for values in (table.intensity, table.sigma):
        if values is not None and np.isfinite(values).all():
            plausible(values)  # NaN has a message of its own
    return table
