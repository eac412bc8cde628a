"""JupyterLab and Voilà on this machine for tests, and a page that notes what goes wrong."""

import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlparse

ROOT = Path(__file__).parents[2]
TEMPLATES = ROOT / "widgets" / "share" / "jupyter"
SETTINGS = {
    "@jupyterlab/apputils-extension/notification": {
        "fetchNews": "false",
        "checkForUpdates": False,
    },
    "@jupyter-widgets/jupyterlab-manager/plugin": {"saveState": True},
    "@jupyterlab/notebook-extension/tracker": {"windowingMode": "none"},
}
ARGUMENTS = ["--no-sandbox", "--disable-gpu"]
NOTEBOOK = "/labextensions/@jupyter-notebook/"


def chromium() -> str | None:
    """The browser of this machine, if it has one."""
    return shutil.which("chromium") or shutil.which("chromium-browser")


def notebook(cells: list[str]) -> str:
    """A notebook of these code cells."""
    made = [
        {
            "cell_type": "code",
            "id": f"cell-{i}",
            "metadata": {},
            "source": source,
            "outputs": [],
            "execution_count": None,
        }
        for i, source in enumerate(cells)
    ]
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    return json.dumps(
        {
            "cells": made,
            "metadata": {"kernelspec": kernel},
            "nbformat": 4,
            "nbformat_minor": 5,
        }
    )


@contextmanager
def server(folder: Path) -> Iterator[str]:
    """Address of a JupyterLab that serves this folder and keeps its own settings there."""
    for name, values in SETTINGS.items():
        path = folder / ".jupyter" / "settings" / f"{name}.jupyterlab-settings"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(values))
    port = _free_port()
    command = [
        *("jupyterlab", "--no-browser", "--expose-app-in-browser", "--allow-root"),
        *("--ServerApp.ip=127.0.0.1", f"--ServerApp.port={port}"),
        *(
            "--IdentityProvider.token=",
            "--LabApp.news_url=",
            f"--ServerApp.root_dir={folder}",
        ),
    ]
    with _served(command, port, folder) as address:
        yield address


@contextmanager
def app(notebook: Path, folder: Path) -> Iterator[str]:
    """Address of a notebook that Voilà serves as an app; its own settings in a folder."""
    port = _free_port()
    command = ["voila", str(notebook), "--no-browser", f"--port={port}"]
    with _served(command, port, folder) as address:
        yield address


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


@contextmanager
def _served(command: list[str], port: int, folder: Path) -> Iterator[str]:
    """Address of a server, a Python module with arguments, from its answer to its end."""
    hidden = folder / ".jupyter"
    own = {
        f"JUPYTER_{name}_DIR": str(hidden / name.lower())
        for name in ("CONFIG", "DATA", "RUNTIME")
    }
    path = os.pathsep.join([str(ROOT), str(ROOT / "widgets")])
    data = [str(TEMPLATES), *filter(None, [os.environ.get("JUPYTER_PATH")])]
    environment = {
        **os.environ,
        **own,
        "JUPYTERLAB_SETTINGS_DIR": str(hidden / "settings"),
        "JUPYTERLAB_WORKSPACES_DIR": str(hidden / "workspaces"),
        "IPYTHONDIR": str(hidden / "ipython"),
        "JUPYTER_PATH": os.pathsep.join(data),
        "PYTHONPATH": path,
        "OMP_NUM_THREADS": "1",
    }
    with (folder / ".server.log").open("w") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", *command], env=environment, stdout=log, stderr=log
        )
    try:
        address = f"http://127.0.0.1:{port}"
        _wait(port, folder / ".server.log", process)
        yield address
    finally:
        process.terminate()
        process.wait(30)


def _wait(port: int, log: Path, process: subprocess.Popen) -> None:
    """Wait until the server listens."""
    for _ in range(600):
        try:
            with socket.create_connection(("127.0.0.1", port), timeout=1):
                return
        except OSError:
            time.sleep(0.2)
        if process.poll() is not None:
            break
    raise RuntimeError(f"the server does not answer:\n{log.read_text()[-3000:]}")


def watch(page) -> tuple[list[str], list[str]]:
    """Lists of requests that leave this machine and of errors; they fill as it goes.

    Of Jupyter Notebook's own front end none are noted: where it is installed, Voilà loads
    it too, without the parts of JupyterLab that it asks for.
    """
    away, wrong = [], []

    def asked(request) -> None:
        parts = urlparse(request.url)
        if parts.scheme not in ("data", "blob") and parts.hostname != "127.0.0.1":
            away.append(request.url)

    page.on("request", asked)
    page.on(
        "websocket",
        lambda socket: None if "127.0.0.1" in socket.url else away.append(socket.url),
    )

    def logged(said) -> None:
        if said.type == "error" and NOTEBOOK not in said.text:
            wrong.append(said.text)

    page.on("console", logged)
    page.on("pageerror", lambda error: wrong.append(str(error)))
    return away, wrong


def run_cell(page, index: int, wait: bool = True) -> None:
    """Run one cell and, unless told otherwise, wait until it is done."""
    page.evaluate(
        """async (index) => {
            const panel = window.jupyterapp.shell.currentWidget;
            panel.content.activeCellIndex = index;
            await window.jupyterapp.commands.execute('notebook:run-cell');
        }"""
        if wait
        else """(index) => {
            const panel = window.jupyterapp.shell.currentWidget;
            panel.content.activeCellIndex = index;
            window.jupyterapp.commands.execute('notebook:run-cell');
        }""",
        index,
    )


def command(page, name: str, arguments: dict | None = None) -> None:
    """Run a command of JupyterLab."""
    page.evaluate(
        "([name, args]) => window.jupyterapp.commands.execute(name, args)",
        [name, arguments or {}],
    )


def wait_drawn(canvas, least: int = 3) -> None:
    """Wait until a canvas shows so many different colours; one is an empty canvas."""
    canvas.wait_for()
    for _ in range(100):
        if colours(canvas) >= least:
            return
        time.sleep(0.2)
    raise AssertionError(f"the canvas shows {colours(canvas)} colours, not {least}")


def colours(canvas) -> int:
    """Number of different colours on a canvas: one or none where nothing is drawn."""
    return canvas.evaluate(
        """canvas => {
            const { width, height } = canvas;
            const { data } = canvas.getContext('2d').getImageData(0, 0, width, height);
            return new Set(new Uint32Array(data.buffer)).size;
        }"""
    )
