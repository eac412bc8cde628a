"""Other phases in the sample: those that are known, and names for what is left.

A pattern of a mixture lies above the profile of each of its phases. So a phase is held
against it one-sidedly: intensity above its profile may be another phase's, intensity
missing below it is not forgiven.
"""

from xrdkit.phases.compounds import known_types, reduced_name
from xrdkit.phases.known import known_phase, known_phases, without_phases
from xrdkit.phases.leftover import foreign_phases, leftover

__all__ = [
    "foreign_phases",
    "known_phase",
    "known_phases",
    "known_types",
    "leftover",
    "reduced_name",
    "without_phases",
]
