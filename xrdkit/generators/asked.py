"""Which sources are asked, and with what weights those that are trained draw."""

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

from xrdkit.generators import (
    ANY_FORMULA,
    DEFAULT,
    INDEXED,
    LEARNED,
    NEEDED,
    SOURCES,
    Needed,
)
from xrdkit.models.checkpoint import kind_of
from xrdkit.models.weights import Weights, default, located
from xrdkit.problem import several
from xrdkit.types import Controls, Source

ASK_FORMULA = ", ".join(source for source in SOURCES if source not in ANY_FORMULA)
NO_FORMULA = (
    f"the formula is not known: {ASK_FORMULA} need one and were left out (known types are "
    "tried by formulas); the probability is that of answers to known formulas"
)


class Asked(NamedTuple):
    """A source, when it is asked, and whether cells are to be proposed to it."""

    source: Source
    needed: Needed
    indexed: bool


def asked_of(
    sources: str | Source | Sequence[str | Source] | None,
    weights: Weights | None,
    controls: Controls | None,
    *,
    any_formula: bool,
) -> tuple[tuple[str | Source, ...], list[Asked]]:
    """The sources as they are told of, and each as it is asked.

    Without ``sources`` those of ``DEFAULT`` and those that the ``weights`` are of. With
    ``any_formula`` those that need one are left out.
    """
    own = weights_of(weights)
    chosen = tuple(dict.fromkeys((*DEFAULT, *own))) if sources is None else several(sources)
    if idle := " and ".join(name for name in own if name not in chosen):
        raise ValueError(
            f"weights of {idle} are given, not among the sources; add {idle} to them, or "
            "leave the weights out"
        )
    usable = without_formula(chosen) if any_formula else chosen
    return chosen, [named(source, own, controls) for source in usable]


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


def named(
    source: str | Source, weights: Mapping[str, Path], controls: Controls | None = None
) -> Asked:
    """The source of this name, or the function itself, as it is asked.

    What is learned takes its ``weights``, or those that ship; a flow heeds ``controls``.
    """
    if isinstance(source, str) and source not in SOURCES:
        raise ValueError(
            f"source {source!r} is not known; choose from {', '.join(SOURCES)}"
        )
    if not isinstance(source, str):
        return Asked(source, lambda problem, fits: True, False)
    told = NEEDED[source], source in INDEXED
    if source not in LEARNED:
        return Asked(SOURCES[source], *told)
    own = weights.get(source) or located(default(LEARNED[source]))
    keywords = {"weights": own} | ({"controls": controls} if source == "flow" else {})
    return Asked(partial(SOURCES[source], **keywords), *told)


def without_formula(sources: tuple) -> tuple:
    """The sources that need no formula, and functions."""
    kept = tuple(s for s in sources if not isinstance(s, str) or s in ANY_FORMULA)
    if sources and not kept:
        raise ValueError(
            f"the sources {', '.join(sources)} need a formula; give it, or ask "
            f"{' and '.join(ANY_FORMULA)}, which elements are enough for"
        )
    return kept
