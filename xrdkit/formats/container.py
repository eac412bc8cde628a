"""Bytes of others -> text, XML and zip members, within bounds of size and time."""

import re
import zipfile
import zlib
from collections.abc import Iterable
from io import BytesIO
from xml.etree import ElementTree

import numpy as np
from jaxtyping import Float

KNOWN = (
    "two or three columns of text (2θ, intensity, e.s.d.), GSAS, powder CIF, .xrdml, "
    ".brml, .raw, .uxd, .ras, .rasx or .asc"
)
LARGEST = 20  # MB of a file and of a member of a zip
MEMBERS = 2000
UNPACKED = 100  # MB of all members together
RATIO = 200  # unpacked to packed, above 1 MB
MARKS = 400_000  # "<" and "=" in XML
DEEPEST = 100  # elements within each other
LINES = 500_000  # of a text
POINTS = 1_000_000  # of a file
DAMAGE = (
    zipfile.BadZipFile,
    zlib.error,
    EOFError,
    OSError,
    OverflowError,
    RuntimeError,
    NotImplementedError,
)
ZIPPED = (b"PK\x03\x04", b"PK\x05\x06")


def is_binary(data: bytes) -> bool:
    """Whether bytes are no text in any encoding."""
    if _utf16(data):
        return False
    return any(data[:4096].count(c) for c in range(32) if c not in b"\t\n\r\f\x1a")


def decoded(data: bytes) -> str:
    """Bytes as text, whatever the encoding."""
    encoding = _utf16(data)
    if encoding:
        return data.decode(encoding, errors="replace").lstrip("\ufeff")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        return data.decode("latin-1")


def _utf16(data: bytes) -> str:
    """The UTF-16 encoding, or ""; without a mark, every second byte of ASCII is zero."""
    if data[:2] in (b"\xff\xfe", b"\xfe\xff"):
        return "utf-16"
    even, odd = data[:200:2], data[1:200:2]
    for zeros, letters, encoding in ((odd, even, "utf-16-le"), (even, odd, "utf-16-be")):
        if zeros and zeros.count(0) > 0.9 * len(zeros) and not letters.count(0):
            return encoding
    return ""


def xml(data: bytes) -> ElementTree.Element:
    """The root element of XML without a document type, of bounded size."""
    text = decoded(data)
    if re.search(r"<!(?:DOCTYPE|ENTITY)", text):
        raise ValueError(
            "the XML declares a document type or entities, which are not read; "
            "export the measurement again"
        )
    marks = text.count("<") + text.count("=")
    if marks > MARKS:
        raise ValueError(
            f"the XML has {marks:,} marks, at most {MARKS:,} are read; thin it"
        )
    try:
        return _root(text.lstrip())
    except ElementTree.ParseError as error:
        raise ValueError(
            f"the XML is damaged ({error}); copy the file again or export it anew"
        ) from error


def _root(text: str) -> ElementTree.Element:
    """The root element, parsed piece by piece so that depth is noticed in time."""
    parser, depth, root = ElementTree.XMLPullParser(("start", "end")), 0, None
    for place in range(0, len(text), 65536):
        parser.feed(text[place : place + 65536])
        for event, element in parser.read_events():
            root = element if root is None else root
            depth += 1 if event == "start" else -1
        if depth > DEEPEST:
            raise ValueError(
                f"the XML is {depth} elements deep, at most {DEEPEST} are read; export it "
                "anew"
            )
    parser.close()
    if root is None:
        raise ValueError("the XML is empty; copy the file again or export it anew")
    return root


def number(element: ElementTree.Element | None, default: float = 0.0) -> float:
    """The number in an element, ``default`` where there is none."""
    text = "" if element is None else (element.text or "").strip()
    return real(text) if text else default


def real(word: str) -> float:
    """A number written with a decimal point or comma."""
    try:
        return float(word.strip().replace(",", "."))
    except ValueError as error:
        raise ValueError(
            f"'{shown(word)}' stands where a number is needed; the file is damaged"
        ) from error


def integer(word: str, most: int) -> int:
    """A whole number from 0 to ``most``."""
    value = real(word)
    if not (0 <= value <= most and value.is_integer()):
        raise ValueError(
            f"'{shown(word)}' stands where a whole number from 0 to {most:,} is needed; "
            "the file is damaged"
        )
    return int(value)


def reals(words: Iterable[str]) -> list[float]:
    """Numbers of words."""
    return [real(word) for word in words]


def listed(text: str | None) -> Float[np.ndarray, " values"]:
    """Numbers of a long text, separated by blanks."""
    words = (text or "").split(None, POINTS)
    if len(words) > POINTS:
        raise ValueError(f"more than {POINTS:,} numbers are in the file; thin it")
    return np.array(reals(words))


def lines(text: str) -> list[str]:
    """The lines of a text, whatever ends them."""
    count = max(text.count("\n"), text.count("\r"))
    if count > LINES:
        raise ValueError(
            f"the text has {count:,} lines, at most {LINES:,} are read; thin it"
        )
    return re.split(r"\r\n|\r|\n", text)


def shown(name: str) -> str:
    """A name from a file, fit for a message."""
    return "".join(c if c.isprintable() else "?" for c in name[:60])


def is_zip(data: bytes) -> bool:
    """Whether bytes begin like a zip file."""
    return data[:4] in ZIPPED


def opened(data: bytes) -> zipfile.ZipFile:
    """A zip file, its list checked: number of members, sizes, ratio."""
    count = data.count(b"PK\x01\x02")
    if count > MEMBERS:
        raise ValueError(f"the zip holds {count} files, at most {MEMBERS} are looked at")
    try:
        archive = zipfile.ZipFile(BytesIO(data))
    except (*DAMAGE, ValueError) as error:
        raise ValueError(f"the zip is damaged ({error}); copy the file again") from error
    total = sum(info.file_size for info in archive.infolist())
    if total > 1e6 * UNPACKED:
        raise ValueError(
            f"the zip unpacks to {total / 1e6:.0f} MB, at most {UNPACKED} MB are allowed"
        )
    for info in archive.infolist():
        if info.file_size > max(1e6, RATIO * info.compress_size):
            raise ValueError(
                f"{shown(info.filename)} in the zip unpacks to more than {RATIO} times its "
                "size, which no measurement does; pack it again"
            )
    return archive


def member_names(archive: zipfile.ZipFile) -> list[str]:
    """Names of the files in a zip, without folders and hidden ones."""
    names = [info.filename for info in archive.infolist() if not info.is_dir()]
    return [name for name in names if not re.search(r"(?:^|/)(?:\.|__MACOSX/)", name)]


def member(archive: zipfile.ZipFile, name: str) -> bytes:
    """What one file of a zip holds, not more than it announces."""
    info = archive.getinfo(name)
    if info.file_size > 1e6 * LARGEST:
        raise ValueError(
            f"{shown(name)} in the zip has {info.file_size / 1e6:.0f} MB, "
            f"at most {LARGEST} MB are read; thin it"
        )
    try:
        with archive.open(info) as file:
            return file.read(info.file_size + 1)
    except (*DAMAGE, ValueError) as error:
        raise ValueError(
            f"{shown(name)} in the zip cannot be unpacked ({shown(str(error))}); pack it "
            "again without a password"
        ) from error
