"""Long jobs are generators that yield Progress and return their result; here it is."""

from collections.abc import Iterator
from typing import Any, TypeVar

from xrdkit.types import Progress

Told = TypeVar("Told")


def result_of(steps: Iterator[Progress]) -> Any:
    """What a job returns, run to its end without telling anyone how far it is."""
    while True:
        try:
            next(steps)
        except StopIteration as finished:
            return finished.value


def told(steps: Iterator[Any], now: Told) -> Iterator[Told]:
    """Yield ``now`` at every step of another job, so that it can be stopped there.

    Returns what that job returns.
    """
    while True:
        try:
            next(steps)
        except StopIteration as finished:
            return finished.value
        yield now
