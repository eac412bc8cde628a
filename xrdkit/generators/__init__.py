"""Sources of candidate structures, one a file, and the one table of their names.

Beside each source stands when it is asked: a function of the problem and of the profile
residual, less what noise leaves, of the best fit so far (1 where there is none).
"""

from collections.abc import Callable

from xrdkit.generators import density_atoms, flow, hydrogen, ordered, templates
from xrdkit.types import Problem, Source

SOURCES: dict[str, Source] = {
    "templates": templates.propose,
    "ordered": ordered.propose,
    "hydrogen": hydrogen.propose,
    "flow": flow.propose,
    "density": density_atoms.propose,
}
NEEDED: dict[str, Callable[[Problem, float], bool]] = {
    "templates": lambda problem, left: True,
    "ordered": ordered.needed,
    "hydrogen": lambda problem, left: left > hydrogen.UNEXPLAINED,
    "flow": flow.needed,
    "density": density_atoms.needed,
}
WEIGHTS = {  # of the sources that are trained, and what is said where they are not there
    "flow": (flow.WEIGHTS, flow.ABSENT),
    "density": (density_atoms.WEIGHTS, density_atoms.ABSENT),
}
ANY_FORMULA = ("density",)  # sources that need no formula
# what solve asks without being told: networks draw where their weights are there
DEFAULT = tuple(n for n in SOURCES if n not in WEIGHTS or WEIGHTS[n][0].is_file())
