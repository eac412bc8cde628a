"""What the beam is: names, numbers and texts of a file -> Radiation.

Kα lines from International Tables for Crystallography C, table 4.2.2.4 (Cr, Fe, Co, Cu:
Hölzer et al., Phys. Rev. A 56, 4554 (1997)); Kα2 has half the intensity of Kα1.
"""

import math
import re
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from .types import Radiation

K_ALPHA = {  # Å: Kα1, Kα2
    "Cr": (2.289726, 2.293651),
    "Fe": (1.936041, 1.939973),
    "Co": (1.788996, 1.792835),
    "Cu": (1.540593, 1.544427),
    "Mo": (0.709317, 0.713607),
    "Ag": (0.559422, 0.563813),
}
K_BETA = {  # Å
    "Cr": 2.084888, "Fe": 1.756606, "Co": 1.620826,
    "Cu": 1.392235, "Mo": 0.632303, "Ag": 0.497082,
}  # fmt: skip
DOUBLET = (2 / 3, 1 / 3)
KEV = 12.398420  # Å keV: λ = KEV / E
SYNCHROTRON = 0.95  # polarisation assumed when a bare number is near no tube's line
NAME = re.compile(r"(cr|fe|co|cu|mo|ag)(k(a(1|2|12)?)?)?(radiation)?")

Spec = str | float | int | np.floating | Sequence[float] | Radiation


def radiation(spec: Spec) -> Radiation:
    """The radiation (Å) of a name ("CuKa", "Co Kα1"), λ, (Kα1, Kα2) or Radiation.

    A bare number does not say whether Kα2 is there (``kalpha2`` None); it is polarised like
    a synchrotron beam if it lies more than 1 % off every tube's Kα line.
    """
    if isinstance(spec, Radiation):
        return spec
    if isinstance(spec, str):
        return _named(spec)
    if isinstance(spec, Sequence):
        return _doublet(spec)
    return _single(float(spec))


def radiation_choices(beam: Radiation) -> tuple[Radiation, ...]:
    """The radiations to try: two if Kα2 is unknown and λ within 0.15 % of a Kα line."""
    if beam.kalpha2 is not None or len(beam.wavelengths) > 1:
        return (beam,)
    single = Radiation(beam.wavelengths, (1.0,), beam.polarisation, kalpha2=False)
    for element, lines in K_ALPHA.items():
        if min(abs(beam.main / known - 1) for known in (lines[0], mean(element))) < 0.0015:
            doublet = radiation(f"{element}Ka")
            return (single, _repolarised(doublet, beam.polarisation))
    return (single,)


def with_kbeta(beam: Radiation, share: float) -> Radiation | None:
    """The beam with a Kβ line of this share of the Kα intensity; None if not a tube's."""
    for element, lines in K_ALPHA.items():
        if min(abs(beam.main / known - 1) for known in (lines[0], mean(element))) < 0.0015:
            weights = np.array([*beam.weights, share]) / (1 + share)
            return replace(
                beam,
                wavelengths=(*beam.wavelengths, K_BETA[element]),
                weights=tuple(weights.tolist()),
                name=f"{element} Kα, Kβ {100 * share:g} %",
            )
    return None


def has_kbeta(beam: Radiation) -> bool:
    """Whether one of several wavelengths is a tube's Kβ line."""
    lines = beam.wavelengths[1:]
    return any(abs(w / line - 1) < 0.002 for w in lines for line in K_BETA.values())


def mean(element: str) -> float:
    """Weighted mean wavelength of an element's Kα doublet in Å."""
    first, second = K_ALPHA[element]
    return (2 * first + second) / 3


def agree(one: Radiation, other: Radiation) -> bool:
    """Whether two radiations can be the same beam, to 0.2 % of the wavelength."""
    return abs(one.main / other.main - 1) < 0.002


def _repolarised(beam: Radiation, polarisation: float) -> Radiation:
    return Radiation(
        beam.wavelengths, beam.weights, polarisation, kalpha2=True, name=beam.name
    )


def _named(text: str) -> Radiation:
    plain = text.strip().replace(",", ".")
    try:
        return _single(float(re.sub(r"\s*(Å|Å|A|angstrom)$", "", plain, flags=re.I)))
    except ValueError as error:
        if "could not convert" not in str(error):
            raise
    unit = re.fullmatch(r"([\d.]+)\s*(kev|nm|pm)", plain, flags=re.I)
    if unit:
        raise ValueError(_other_unit(text, float(unit[1]), unit[2].lower()))
    key = re.sub(r"[\s_\-.,/]", "", text.lower().replace("α", "a").replace("alpha", "a"))
    found = NAME.fullmatch(key)
    if not found:
        known = ", ".join(f"{element}Ka" for element in K_ALPHA)
        raise ValueError(
            f"radiation '{text}' is not known; give {known} (or …Ka1 for Kα1 alone) "
            "or the wavelength in Å"
        )
    element, line = found[1].capitalize(), found[4]
    if line in ("1", "2"):
        one = (K_ALPHA[element][int(line) - 1],)
        return Radiation(one, kalpha2=False, name=f"{element}Ka{line}")
    return Radiation(K_ALPHA[element], DOUBLET, kalpha2=True, name=f"{element}Ka")


def _doublet(lines: Sequence[float]) -> Radiation:
    if len(lines) != 2 or not 0 < lines[1] / lines[0] - 1 < 0.02:
        raise ValueError(
            f"wavelengths {tuple(lines)} are not a Kα doublet; give (Kα1, Kα2) in Å, "
            "like (1.540593, 1.544427)"
        )
    return Radiation((_checked(lines[0]), _checked(lines[1])), DOUBLET, kalpha2=True)


def _single(value: float) -> Radiation:
    value = _checked(value)
    off = min(abs(value / line - 1) for pair in K_ALPHA.values() for line in pair)
    return Radiation((value,), (1.0,), 0.5 if off < 0.01 else SYNCHROTRON, kalpha2=None)


def _checked(value: float) -> float:
    """The wavelength in Å itself, unless it looks like another unit."""
    if not math.isfinite(value) or value <= 0:
        raise ValueError(f"wavelength {value:g} Å is not positive; give it in Å, 0.05–5")
    if is_line(10 * value):
        raise ValueError(
            f"{_other_unit(f'{value:g}', value, 'nm')} "
            f"(if it truly is {value:g} Å, pass Radiation(({value:g},)))"
        )
    if value > 5:
        unit = "pm" if is_line(value / 100) else "eV" if value > 1000 else "keV"
        raise ValueError(_other_unit(f"{value:g}", value, unit))
    return float(value)


def is_line(value: float) -> bool:
    """Whether a wavelength (Å) is within 1 % of a tube's Kα line."""
    lines = [line for pair in K_ALPHA.values() for line in pair]
    return any(abs(value / line - 1) < 0.01 for line in lines)


def _other_unit(text: str, value: float, unit: str) -> str:
    factor = {"nm": 10 * value, "pm": value / 100, "ev": 1000 * KEV / value}
    angstrom = factor.get(unit.lower(), KEV / value)
    return (
        f"wavelength {text} looks like {unit}: {value:g} {unit} -> {angstrom:.5g} Å; "
        "give it in Å, 0.05–5"
    )
