"""From a measured powder X-ray pattern and a formula to ranked crystal structures.

``read`` a pattern, ``solve`` it. Names load when they are first used, so that
``import xrdkit`` is immediate.
"""

import sys
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from xrdkit import examples
    from xrdkit.pattern import read
    from xrdkit.solve import solve, solve_steps
    from xrdkit.types import (
        Candidate,
        Controls,
        Crystals,
        Fit,
        Instrument,
        Pattern,
        Peaks,
        Phase,
        Problem,
        Progress,
        Radiation,
        Solution,
        Symmetry,
    )

__version__ = "0.1.0"
__all__ = [
    "Candidate",
    "Controls",
    "Crystals",
    "Fit",
    "Instrument",
    "Pattern",
    "Peaks",
    "Phase",
    "Problem",
    "Progress",
    "Radiation",
    "Solution",
    "Symmetry",
    "__version__",
    "examples",
    "read",
    "solve",
    "solve_steps",
]
_HOME = {"read": "xrdkit.pattern", "solve": "xrdkit.solve", "solve_steps": "xrdkit.solve"}


def __getattr__(name: str) -> Any:
    if name == "examples":
        return import_module("xrdkit.examples")
    if name not in __all__:
        raise AttributeError(f"module 'xrdkit' has no attribute {name!r}")
    return getattr(import_module(_HOME.get(name, "xrdkit.types")), name)


def __dir__() -> list[str]:
    return sorted(__all__)


class _Package(ModuleType):
    """Importing the submodule ``xrdkit.solve`` must not hide the function of that name."""

    def __setattr__(self, name: str, value: Any) -> None:
        if not (name in _HOME and isinstance(value, ModuleType)):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package
