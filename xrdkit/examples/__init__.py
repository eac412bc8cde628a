"""Example patterns that the package ships: simulated by ``make.py``, not measured."""

from pathlib import Path

FORMULAS = {"rutile": "TiO2", "calcite": "CaCO3", "spinel": "MgAl2O4", "lab6": "LaB6"}


def path(name: str) -> Path:
    """The file of an example pattern, Cu Kα, of the compound ``FORMULAS[name]``."""
    if name not in FORMULAS:
        known = ", ".join(FORMULAS)
        raise ValueError(f"there is no example '{name}'; choose one of {known}")
    return Path(__file__).with_name(f"{name}.xy")
