"""How far a run is: often enough to be alive, not so often that the browser is busy."""

import time
from collections.abc import Callable

from xrdkit.types import Progress

BETWEEN = 0.1  # seconds between two words about a run


class Pace:
    """The time of a run and of the part that it is in."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.clock = clock  # s
        self.started = self.part_started = clock()
        self.said, self.before = 0.0, ("", 0)

    def due(self, now: Progress) -> bool:
        """Whether it is time to say something; a new part always is."""
        moment = self.clock()
        stage, done = self.before
        fresh = now.stage != stage or now.done < done
        if fresh:
            self.part_started = moment
        self.before = (now.stage, now.done)
        if not fresh and moment < self.said + BETWEEN:
            return False
        self.said = moment
        return True

    def words(self, now: Progress) -> dict[str, str | int | float]:
        """Part, steps done and in all, message, seconds so far and left in this part.

        -1 seconds left means that nothing is known yet.
        """
        moment = self.clock()
        spent = moment - self.part_started
        left = spent * (now.total - now.done) / now.done if now.done and spent > 0.5 else -1
        return {
            "stage": now.stage,
            "done": now.done,
            "total": now.total,
            "message": now.message,
            "seconds": round(moment - self.started, 1),
            "left": round(left, 1),
        }
