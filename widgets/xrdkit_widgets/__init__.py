"""Views of xrdkit's results for notebooks; they show and compute no science."""

from xrdkit_widgets.fit_plot import plot_fit

__all__ = ["plot_fit"]
