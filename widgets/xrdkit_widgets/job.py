"""A long job of a widget, in a thread or here: told of, stopped, waited for."""

import threading
from collections.abc import Callable, Iterator
from typing import Any

from xrdkit.types import Progress
from xrdkit_widgets import typed
from xrdkit_widgets.pace import Pace

BUSY = ("running", "stopping")
STATES = ("idle", *BUSY, "done", "stopped", "failed")


class Job:
    """Runs generators of Progress for a widget with traits state, progress and message.

    ``told`` hears of every Progress, ``ended`` of the result: None where it was stopped.
    Both are called in the thread of the run, before the state says that it has ended.
    """

    def __init__(
        self, widget: Any, told: Callable[[Progress], None], ended: Callable[[Any], None]
    ) -> None:
        self.widget, self.told, self.ended = widget, told, ended
        self.thread: threading.Thread | None = None
        self._stop, self._lock = threading.Event(), threading.Lock()

    def check_free(self) -> None:
        """An error where a run is going on."""
        if self.widget.state in BUSY:
            raise RuntimeError(
                "a run is going on in this widget; stop() it or wait() for it first"
            )

    def start(self, steps: Iterator[Progress], *, block: bool = False) -> Any:
        """Run in a thread; with ``block`` here, and raise what goes wrong."""
        self._stop.clear()
        self.widget.message, self.widget.progress = "", {}
        self.widget.state = "running"
        if block:
            return self._work(steps)
        self.thread = threading.Thread(target=self._quietly, args=(steps,), daemon=True)
        self.thread.start()
        return None

    def stop(self) -> None:
        """End the run at its next step; nothing happens where none is going on."""
        with self._lock:
            if self.widget.state == "running":
                self.widget.state = "stopping"
                self._stop.set()

    def wait(self, seconds: float | None = None) -> None:
        """Wait until the run that is going on has ended."""
        if self.thread is not None:
            self.thread.join(seconds)

    def _quietly(self, steps: Iterator[Progress]) -> None:
        """A run in a thread: what goes wrong is said in the widget."""
        try:
            self._work(steps)
        except typed.WRONG:
            pass  # bad input: the message says it
        except Exception as error:
            self.widget.message = f"{type(error).__name__}: {self.widget.message}"
            raise

    def _work(self, steps: Iterator[Progress]) -> Any:
        """A run to its end, or to where it is stopped; the state says which."""
        state = "failed"
        try:
            result = self._driven(steps)
            self.ended(result)
            state = "stopped" if result is None else "done"
            return result
        except KeyboardInterrupt:
            state = "stopped"
            raise
        except Exception as error:
            self.widget.message = typed.sentence(error)
            raise
        finally:
            with self._lock:
                self.widget.state = state

    def _driven(self, steps: Iterator[Progress]) -> Any:
        """What the generator returns; None where it is stopped. Progress is told."""
        pace = Pace()
        try:
            while not self._stop.is_set():
                now = next(steps)
                if pace.due(now):
                    self.widget.progress = pace.words(now)
                self.told(now)
        except StopIteration as finished:
            return finished.value
        finally:
            steps.close()
        return None
