"""GSAS-II in a process of its own: found, started, asked, and never left behind."""

import importlib.util
import json
import os
import queue
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import deque
from collections.abc import Iterator
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

VARIABLE = "XRDKIT_GSAS2_PYTHON"
WORKER = Path(__file__).with_name("worker.py")
START = 120.0  # s, the longest that importing GSAS-II may take
LONGEST = 2**26  # characters of an answer
WAITING = 16  # answers that may wait to be read
ANSWER = {"stage", "undone", "seconds"}  # what every answer must have
PATIENCE = 2.0  # s for a process to end that has closed its output
SAID = 20  # last lines of standard error that are kept
HELP = (
    "Install GSAS-II as its own page says (https://gsas-ii.readthedocs.io, 'install'), in "
    f"this Python or in one of its own, and set {VARIABLE} to the path of that Python; it "
    "takes part in nothing else, the built-in engine needs none of it"
)


class GSAS2Error(RuntimeError):
    """GSAS-II is absent, cannot be used, or ended or fell silent in the middle of a job."""


def python() -> str:
    """The Python that has GSAS-II: XRDKIT_GSAS2_PYTHON, else this one."""
    given = os.environ.get(VARIABLE, "")
    if given:
        if not Path(given).is_file():
            raise GSAS2Error(
                f"{VARIABLE} is {given!r}, where there is no file; give the path of the "
                "Python that has GSAS-II, like /opt/gsas2/bin/python"
            )
        return given
    if importlib.util.find_spec("GSASII") is None:
        raise GSAS2Error(f"this Python has no GSAS-II. {HELP}")
    return sys.executable


def installed() -> bool:
    """Whether something says that GSAS-II is here; ``version`` finds out if it works."""
    return bool(os.environ.get(VARIABLE)) or importlib.util.find_spec("GSASII") is not None


def version() -> str:
    """GSAS-II's version; a GSAS2Error that says what is missing where it cannot be used."""
    return _version(python())


@cache
def _version(path: str) -> str:
    with Worker(path) as worker:
        return worker.version


class Worker:
    """A running GSAS-II; a context that ends its process however it is left."""

    def __init__(self, path: str | None = None) -> None:
        self.path = path or python()
        self.folder = tempfile.TemporaryDirectory(
            prefix="xrdkit_gsas2_", ignore_cleanup_errors=True
        )
        try:
            self.process = subprocess.Popen(
                [self.path, str(WORKER), self.folder.name],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                encoding="utf-8",
                errors="replace",
                start_new_session=True,
            )
        except OSError as error:
            self.folder.cleanup()
            raise GSAS2Error(
                f"{self.path} cannot be run ({error.strerror}); give the path of a Python"
            ) from error
        self.lines: queue.Queue[str] = queue.Queue(maxsize=WAITING)
        self.said: deque[str] = deque(maxlen=SAID)
        self.threads = [
            threading.Thread(target=target, daemon=True)
            for target in (self._read_answers, self._read_errors)
        ]
        for thread in self.threads:
            thread.start()
        self.version = ""

    def __enter__(self) -> "Worker":
        try:
            found = self._answer(START)
            if "ready" not in found:
                said = found.get("absent", found)
                raise GSAS2Error(f"{self.path} cannot use GSAS-II ({said}). {HELP}")
        except BaseException:
            self.close()
            raise
        self.version = str(found["ready"])
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def ask(self, job: dict[str, Any], timeout: float | int) -> Iterator[dict[str, Any]]:
        """The answers to a job, one for each stage, each within ``timeout`` s."""
        try:
            self.process.stdin.write(json.dumps(job, allow_nan=False) + "\n")
            self.process.stdin.flush()
        except OSError as error:
            raise GSAS2Error(f"GSAS-II takes no job: {self._end()}") from error
        while "done" not in (found := self._answer(timeout)):
            if "error" in found:
                raise GSAS2Error(f"GSAS-II refuses: {found['error']}")
            if not ANSWER <= found.keys():
                lacking = ", ".join(sorted(ANSWER - found.keys()))
                raise GSAS2Error(
                    f"GSAS-II's process answered without {lacking}; its Python runs "
                    "another program or version"
                )
            yield found

    def close(self) -> None:
        """End the process and all that it started, and wait until it is gone."""
        self._kill()
        self.process.wait()
        end = time.monotonic() + PATIENCE
        while self.threads[0].is_alive() and time.monotonic() < end:
            with suppress(queue.Empty):
                self.lines.get(timeout=0.05)  # what was said stands in the way of the end
        self.threads[1].join(timeout=PATIENCE)
        for stream in (self.process.stdin, self.process.stdout, self.process.stderr):
            with suppress(OSError):  # what was still to be written has no reader
                stream.close()
        self.folder.cleanup()

    def _kill(self) -> None:
        if os.name != "posix":
            self.process.kill()
            return
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)  # it leads its own group

    def _read_answers(self) -> None:
        while line := self.process.stdout.readline(LONGEST):
            self.lines.put(line)
        self.lines.put("")

    def _read_errors(self) -> None:
        for line in self.process.stderr:
            self.said.append(line.strip()[:200])

    def _answer(self, timeout: float | int) -> dict[str, Any]:
        try:
            line = self.lines.get(timeout=timeout)
        except queue.Empty:
            raise GSAS2Error(
                f"GSAS-II said nothing for {timeout:g} s and was ended; "
                "give a longer timeout, or fewer parameters"
            ) from None
        if not line:
            raise GSAS2Error(self._end())
        try:
            found = json.loads(line)
        except ValueError:
            found = None
        if not isinstance(found, dict):
            raise GSAS2Error(
                f"{self.path} answers {line[:80].strip()!r}, which is not from xrdkit's "
                f"worker; is {VARIABLE} a Python?"
            )
        return found

    def _end(self) -> str:
        """How the process ended, in words."""
        try:
            code = self.process.wait(timeout=PATIENCE)
        except subprocess.TimeoutExpired:
            return "its output is closed"
        how = f"signal {-code}" if code < 0 else f"code {code}"
        self.threads[1].join(timeout=1)
        last = next((line for line in reversed(self.said) if line), "nothing")
        return f"GSAS-II ended with {how}; it last said: {last}"
