"""Words of a CIF: names of data blocks, and texts in ASCII that nothing can break."""

import re
import textwrap

CODES = {
    "α": r"\a", "β": r"\b", "γ": r"\g", "η": r"\h", "θ": r"\q", "λ": r"\l", "µ": r"\m",
    "ρ": r"\r", "σ": r"\s", "χ": r"\c", "Å": r"\%A", "°": r"\%", "²": "^2^", "³": "^3^",
    "–": "-", "→": "->", "≤": "<=", "×": "x", "±": "+-", "′": "'", "é": r"\'e",
}  # fmt: skip
ONE_LINE = 60  # characters; what is longer is a text field of its own
ASCII = str.maketrans(CODES)


def data_name(name: str) -> str:
    """A name that a data block may have: letters, figures and - . _ only, at most 75."""
    return re.sub(r"[^A-Za-z0-9._-]+", "_", name)[:75] or "structure"


def plain(value: str) -> str:
    """A text quoted as CIF needs it, in ASCII; long ones on several lines."""
    from gemmi import cif

    text = " ".join(value.split()).translate(ASCII).encode("ascii", "replace").decode()
    if len(text) <= ONE_LINE:
        return cif.quote(text)
    lines = textwrap.wrap(text, 78, break_on_hyphens=False)
    # no line may begin with a semicolon
    return cif.quote("\n " + "\n ".join(lines))
