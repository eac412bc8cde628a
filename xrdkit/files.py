"""Write files whole or not at all, and check beforehand that they can be written."""

import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any


def write_whole(path: str | Path, write: Callable[[Path], Any]) -> Path:
    """Write beside the path first, then put it in place: never a half file."""
    path = Path(path)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        part.touch()
        usual = part.stat().st_mode
        write(part)
        part.chmod(usual)  # some writers make files that only their owner can read
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)
    return path


def write_text(path: str | Path, text: str) -> Path:
    """Write a text in UTF-8, whole or not at all."""
    return write_whole(path, lambda part: part.write_text(text, encoding="utf-8"))


def check_file(path: str | Path, overwrite: bool = False) -> Path:
    """The path, if it can be written and holds nothing yet that must stay."""
    path = Path(path)
    if path.is_dir():
        raise ValueError(f"{path} is a folder; give another name")
    if path.exists() and not overwrite:
        raise ValueError(f"{path} exists already; give --overwrite or another file")
    check_writable(path.parent)
    return path


def check_writable(folder: Path) -> None:
    """An error unless a file can be made in the folder or where it would be made."""
    while not folder.exists():
        folder = folder.parent
    try:
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise PermissionError(
            f"cannot write in {folder} ({error.strerror}); give another place"
        ) from error
