"""Solve the rows of a table, here or on workers of Dask, each once and each whole."""

import shutil
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

from xrdkit.batch.rows import (
    PART,
    Record,
    done,
    failed,
    finished,
    key_of,
    record_of,
    row_steps,
)
from xrdkit.batch.summary import write_summary
from xrdkit.batch.table import BadTable, Fault, Row, read_table
from xrdkit.files import check_writable
from xrdkit.generators.asked import named, weights_of
from xrdkit.library import Library
from xrdkit.problem import load_library, pose
from xrdkit.progress import result_of
from xrdkit.refine.final import check_engine
from xrdkit.refine.gsas2 import GSAS2Error
from xrdkit.solve import run
from xrdkit.types import Progress

ABSENT = (
    "more than one worker, and the workers of a cluster, need Dask; "
    "pip install 'xrdkit[batch]', or ask for one worker"
)
STALE = 3600  # seconds after which an unfinished folder is given up
WAIT = 0.1  # seconds between two looks at what is done
Keys = dict[str, str]


def batch(
    table: str | Path,
    folder: str | Path,
    *,
    workers: int = 1,
    scheduler: str | None = None,
    progress: bool = True,
) -> list[dict[str, Any]]:
    """Records of all rows of a table, in its order; results are in ``folder``.

    ``workers`` processes of this machine, or those of the Dask cluster whose scheduler has
    this address ("tcp://host:8786"), solve the rows that are not done yet. A record is what
    ``summary.csv`` has of a row; ``index.html`` shows all.
    """
    steps = batch_steps(table, folder, workers=workers, scheduler=scheduler)
    return run(steps, progress)


def batch_steps(
    table: str | Path,
    folder: str | Path,
    *,
    workers: int = 1,
    scheduler: str | None = None,
) -> Iterator[Progress]:
    """``batch`` as a generator: yields Progress, returns the records.

    Every row is checked before the first is solved. A warning names those that cannot be;
    they fail, and the others go on. Raises BadTable where no row is left.
    """
    lines, folder = read_table(table), Path(folder).resolve()
    if workers < 1:
        raise ValueError(f"{workers} workers are asked for; give at least one")
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{folder} is a file; give a folder for the results")
    check_writable(folder)
    lines, keys = yield from checked(lines, folder)
    rows = [line for line in lines if isinstance(line, Row)]
    if not rows:
        raise BadTable([sentence(line) for line in lines])
    folder.mkdir(parents=True, exist_ok=True)
    with alone(folder):
        try:
            open_rows = [row for row in rows if not done(row, folder, keys[row.name])]
            yield from solved(open_rows, folder, keys, workers, scheduler)
        finally:
            records = [recorded(line, folder, keys) for line in lines]
            write_summary([record for record in records if record], folder)
    return [record for record in records if record]


def checked(lines: list[Row | Fault], folder: Path) -> Iterator[Progress]:
    """Yield progress; return rows and faults in their order, and the rows' keys by name."""
    found, keys, library = [], {}, lru_cache(load_library)
    for i, line in enumerate(lines):
        yield Progress("check", i, len(lines), message=line.name)
        try:
            if isinstance(line, Row):
                keys[line.name] = key_of(line)
                if not done(line, folder, keys[line.name]):
                    check_row(line, folder, library)
            found.append(line)
        except (ValueError, OSError, GSAS2Error) as error:
            found.append(Fault(line.name, line.known, str(error)))
    faults = [line for line in found if isinstance(line, Fault)]
    if 0 < len(faults) < len(found):
        for fault in faults:
            warnings.warn(f"left out: {sentence(fault)}", stacklevel=2)
    return found, keys


def sentence(fault: Fault) -> str:
    """What is wrong with which row."""
    return f"{fault.name}: {fault.why}"


def recorded(line: Row | Fault, folder: Path, keys: Keys) -> Record | None:
    """The record of a row that is done, or of a fault."""
    if isinstance(line, Row):
        return finished(line, folder, keys[line.name])
    return {
        "name": line.name,
        "status": "failed",
        "formula": line.known,
        "error": line.why,
    }


def check_row(row: Row, folder: Path, library: Callable[..., Library]) -> None:
    """An error in ``solve``'s own words where a row cannot be solved, or not be written."""
    place, said = folder / row.name, row.given
    if place.exists() and record_of(place) is None:
        raise ValueError(f"{place} is no result of a batch; give another name or folder")
    keys = "elements", "contents", "cell", "space_group", "size"
    asked = {key: said[key] for key in keys if key in said}
    pattern = row.measured()
    pose(pattern, row.formula, library=library(said.get("library")), **asked)
    for source in said.get("sources", ()):
        named(source, weights_of(said.get("weights")))
    if "engine" in said:
        check_engine(said["engine"], pattern)


def solved(
    rows: list[Row], folder: Path, keys: Keys, workers: int, scheduler: str | None
) -> Iterator[Progress]:
    """Yield progress of the rows that are left, here or on Dask's workers."""
    if not rows:
        return
    if workers == 1 and scheduler is None:
        yield from in_turn(rows, folder, keys)
    else:
        yield from at_once(rows, folder, keys, workers, scheduler)


def in_turn(rows: list[Row], folder: Path, keys: Keys) -> Iterator[Progress]:
    """Yield progress of one row after the other, in this process."""
    for i, row in enumerate(rows):
        steps = row_steps(row, folder, keys[row.name])
        for now in steps:
            yield Progress("solve", i, len(rows), now.best, f"{row.name}: {now.stage}")
    yield Progress("solve", len(rows), len(rows))


def at_once(
    rows: list[Row], folder: Path, keys: Keys, workers: int, scheduler: str | None
) -> Iterator[Progress]:
    """Yield progress of rows that Dask's workers solve; a lost worker's rows start anew."""
    with client(min(workers, len(rows)), scheduler) as dask:
        waiting = {
            dask.submit(
                solve_row, row, folder, keys[row.name], key=f"{row.name}-{keys[row.name]}"
            ): row
            for row in rows
        }
        total, said = len(waiting), ""
        while waiting:
            for future in [one for one in waiting if one.done()]:
                row = waiting.pop(future)
                said = row.name
                if future.status != "finished":
                    why = future.exception() if future.status == "error" else future.status
                    failed(row, folder, keys[row.name], f"the worker was lost: {why}")
            yield Progress("solve", total - len(waiting), total, message=said)
            time.sleep(WAIT if waiting else 0)


def solve_row(row: Row, folder: Path, key: str) -> None:
    """What a worker does: solve a row and write its results, unless that is done."""
    if not done(row, folder, key):
        result_of(row_steps(row, folder, key))


@contextmanager
def client(workers: int, scheduler: str | None) -> Iterator[Any]:
    """A client of the cluster at this address, or of worker processes that end with it."""
    try:
        from distributed import Client, LocalCluster
    except ImportError as error:
        raise ValueError(ABSENT) from error
    if scheduler:
        try:
            found = Client(scheduler, timeout=10)
        except (OSError, ValueError) as error:
            raise ValueError(
                f"no Dask scheduler answers at {scheduler!r}; give an address such as "
                "tcp://host:8786"
            ) from error
        with found:
            yield found
        return
    with (
        LocalCluster(
            n_workers=workers,
            threads_per_worker=1,
            dashboard_address=None,
            silence_logs="ERROR",
        ) as cluster,
        Client(cluster) as found,
    ):
        yield found


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Only one batch at a time writes in a folder; the lock ends with its process."""
    try:
        import fcntl
    except ImportError:  # no such lock on this system
        yield
        return
    with open(folder / ".lock", "a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise ValueError(
                f"another batch writes in {folder}; wait for it, or give another folder"
            ) from error
        swept(folder)
        yield


def swept(folder: Path) -> None:
    """Take away what killed workers left an hour ago or earlier."""
    for part in folder.glob(f"{PART}*"):
        if time.time() - part.stat().st_mtime > STALE:
            shutil.rmtree(part, ignore_errors=True)
