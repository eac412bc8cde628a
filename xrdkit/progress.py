"""Long jobs are generators that yield Progress and return their result; here it is."""

from collections.abc import Iterator
from typing import Any

from xrdkit.types import Progress


def result_of(steps: Iterator[Progress]) -> Any:
    """What a job returns, run to its end without telling anyone how far it is."""
    while True:
        try:
            next(steps)
        except StopIteration as finished:
            return finished.value
