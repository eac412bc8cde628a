"""Sources of candidate structures, one a file, and the one table of their names."""

from xrdkit.generators import hydrogen, ordered, templates
from xrdkit.types import Source

SOURCES: dict[str, Source] = {
    "templates": templates.propose,
    "ordered": ordered.propose,
    "hydrogen": hydrogen.propose,
}
NEEDED = {  # the best profile residual so far, above which a source is asked
    "templates": 0.0,
    "ordered": 0.05,
    "hydrogen": 0.25,
}
