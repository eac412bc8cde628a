"""Views of xrdkit's results for notebooks; they show and compute no science."""

from xrdkit_widgets.candidates_widget import CandidatesWidget
from xrdkit_widgets.density_plot import plot_isosurface, plot_section
from xrdkit_widgets.fit_plot import plot_fit
from xrdkit_widgets.pattern_widget import PatternWidget
from xrdkit_widgets.refine_widget import RefineWidget
from xrdkit_widgets.solve_widget import SolveWidget
from xrdkit_widgets.trajectory_widget import TrajectoryWidget

__all__ = [
    "CandidatesWidget",
    "PatternWidget",
    "RefineWidget",
    "SolveWidget",
    "TrajectoryWidget",
    "plot_fit",
    "plot_isosurface",
    "plot_section",
]
