"""What the browser is given: the plot of the reports, and this package's files."""

from importlib.resources import files

from xrdkit.report.html import plot_script


def text_of(name: str) -> str:
    """The text of a file of this package."""
    return files("xrdkit_widgets").joinpath(name).read_text(encoding="utf-8")


def module(*names: str) -> str:
    """One ES module of what all widgets need and these scripts; the last one exports."""
    return "\n".join([plot_script(), text_of("elements.js"), *map(text_of, names)])
