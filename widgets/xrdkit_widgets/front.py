"""What the browser is given: scripts and styles of this package, joined as they are."""

from importlib.resources import files


def joined(*names: str) -> str:
    """The text of these files one after another; the last script alone exports."""
    folder = files("xrdkit_widgets")
    return "\n".join(folder.joinpath(name).read_text(encoding="utf-8") for name in names)
