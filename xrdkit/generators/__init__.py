"""Sources of candidate structures, one a file, and the one table of their names.

Beside each source stands when it is asked: a function of the problem and of the profile
residual, less what noise leaves, of the best fit so far (1 where there is none).
"""

from collections.abc import Callable
from pathlib import Path

from xrdkit.generators import (
    density_atoms,
    flow,
    hydrogen,
    latent_search,
    ordered,
    templates,
)
from xrdkit.models.checkpoint import kind_of
from xrdkit.models.weights import DEFAULTS, Weights, located
from xrdkit.types import Problem, Source

SOURCES: dict[str, Source] = {
    "templates": templates.propose,
    "ordered": ordered.propose,
    "hydrogen": hydrogen.propose,
    "flow": flow.propose,
    "latent_search": latent_search.propose,
    "density": density_atoms.propose,
}
NEEDED: dict[str, Callable[[Problem, float], bool]] = {
    "templates": lambda problem, left: True,
    "ordered": ordered.needed,
    "hydrogen": lambda problem, left: left > hydrogen.UNEXPLAINED,
    "flow": flow.needed,
    "latent_search": latent_search.needed,
    "density": density_atoms.needed,
}
# sources that are trained, and the kind of their weights
LEARNED = {"flow": "flow", "latent_search": "latent", "density": "density"}
ANY_FORMULA = ("density",)  # sources that need no formula
# what solve asks without being told: what is learned where its weights ship
DEFAULT = tuple(n for n in SOURCES if n not in LEARNED or LEARNED[n] in DEFAULTS)


def source_of(weights: str | Path) -> str:
    """The source that weights, by name, file or address, are of."""
    kind = kind_of(located(weights))
    for source, own in LEARNED.items():
        if own == kind:
            return source
    raise ValueError(
        f"weights {weights} hold {kind or 'nothing that xrdkit can read'}, by which no "
        f"source draws structures; give a whole file of {', '.join(LEARNED.values())}"
    )


def weights_of(given: Weights | None) -> dict[str, Path]:
    """The file of each source that weights are given of."""
    every = [given] if isinstance(given, str | Path) else given or ()
    found: dict[str, Path] = {}
    for one in every:
        source = source_of(one)
        if source in found:
            raise ValueError(
                f"two weights of {source} are given, the second {one}; give one of them"
            )
        found[source] = located(one)
    return found
