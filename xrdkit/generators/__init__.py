"""Sources of candidate structures, one a file, and the one table of their names.

Beside each source stands when it is asked: a function of the problem and of the profile
residual, less what noise leaves, of the best fit so far (1 where there is none).
"""

from collections.abc import Callable

from xrdkit.generators import flow, hydrogen, ordered, templates
from xrdkit.types import Problem, Source

SOURCES: dict[str, Source] = {
    "templates": templates.propose,
    "ordered": ordered.propose,
    "hydrogen": hydrogen.propose,
    "flow": flow.propose,
}
NEEDED: dict[str, Callable[[Problem, float], bool]] = {
    "templates": lambda problem, left: True,
    "ordered": ordered.needed,
    "hydrogen": lambda problem, left: left > hydrogen.UNEXPLAINED,
    "flow": flow.needed,
}
DEFAULT = tuple(SOURCES)  # what solve asks without being told
