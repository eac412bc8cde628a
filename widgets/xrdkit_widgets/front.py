"""What the browser is given: the plot of the reports, and this package's files."""

from importlib.resources import files

from xrdkit.report.html import plot_script


def text_of(name: str) -> str:
    """The text of a file of this package."""
    return files("xrdkit_widgets").joinpath(name).read_text(encoding="utf-8")


def module(name: str) -> str:
    """The script of a widget, which exports, behind all that it needs: one ES module."""
    return "\n".join([plot_script(), text_of("elements.js"), text_of(name)])
