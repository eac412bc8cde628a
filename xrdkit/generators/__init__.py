"""Sources of candidate structures, one a file, and the one table of their names.

Beside each source stands when it is asked: a function of the problem and of the fits so
far, best first.
"""

from collections.abc import Callable, Sequence

from xrdkit.evidence import left_by
from xrdkit.generators import (
    density_atoms,
    flow,
    formulas,
    hydrogen,
    latent_search,
    ordered,
    templates,
)
from xrdkit.models.weights import DEFAULTS
from xrdkit.types import Fit, Problem, Source

SOURCES: dict[str, Source] = {
    "templates": templates.propose,
    "ordered": ordered.propose,
    "hydrogen": hydrogen.propose,
    "flow": flow.propose,
    "latent_search": latent_search.propose,
    "formulas": formulas.propose,
    "density": density_atoms.propose,
}
Needed = Callable[[Problem, Sequence[Fit]], bool]
NEEDED: dict[str, Needed] = {
    "templates": lambda problem, fits: True,
    "ordered": ordered.needed,
    "hydrogen": lambda problem, fits: left_by(fits, problem) > hydrogen.UNEXPLAINED,
    "flow": flow.needed,
    "latent_search": latent_search.needed,
    "formulas": formulas.needed,
    "density": density_atoms.needed,
}
# sources that are trained, and the kind of their weights
LEARNED = {"flow": "flow", "latent_search": "latent", "density": "density"}
INDEXED = ("flow", "density")  # sources that draw in cells from indexing too
ANY_FORMULA = ("formulas", "density")  # sources that need no formula, but elements
# what solve asks without being told: what is learned where its weights ship
DEFAULT = tuple(n for n in SOURCES if n not in LEARNED or LEARNED[n] in DEFAULTS)
