"""Full-profile refinement (Rietveld) with analytic derivatives, table, stages, e.s.d.s."""

from xrdkit.refine.rietveld.engine import refine, refine_steps
from xrdkit.refine.rietveld.geometry import Geometry, Measure, geometry
from xrdkit.refine.rietveld.pawley import pawley, pawley_steps
from xrdkit.refine.rietveld.restraints import Restraint
from xrdkit.refine.rietveld.table import Parameter, Parameters

__all__ = [
    "Geometry",
    "Measure",
    "Parameter",
    "Parameters",
    "Restraint",
    "geometry",
    "pawley",
    "pawley_steps",
    "refine",
    "refine_steps",
]
