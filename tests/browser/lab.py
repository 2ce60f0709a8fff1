"""A real JupyterLab on this machine and a real browser that looks at it, for as long as a `with` block lasts."""

from __future__ import annotations

import os
import secrets
import shutil
import socket
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil
from playwright.sync_api import Browser, Page, sync_playwright

from skilllab.cli import lab_command
from skilllab.settings import DATA_VARIABLE, FAST_VARIABLE, data_folder

START_LIMIT = 60.0  # s
PATIENCE = 30_000.0  # ms; nothing that a test waits for takes this long unless it is broken
CHROMIUM = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
# Cells out of sight keep their place in the page, so that one picture can show the whole notebook.
USER_SETTINGS = {"@jupyterlab/notebook-extension/tracker.jupyterlab-settings": '{"windowingMode": "none"}'}

_OPEN = "async path => { await window.jupyterapp.commands.execute('docmanager:open', {path}); }"
_READY = """path => {
  const shown = window.jupyterapp?.shell.currentWidget;
  return shown?.context?.path === path && shown.sessionContext.isReady;
}"""
_CLOSE = """async () => {
  const shown = window.jupyterapp.shell.currentWidget;
  await shown?.sessionContext?.shutdown();
  shown?.dispose();
}"""
_RUN = """async places => {
  const app = window.jupyterapp;
  await app.restored;
  const panel = app.shell.currentWidget;
  await panel.context.ready;
  await panel.sessionContext.ready;
  if (places) {
    panel.content.deselectAll();
    panel.content.activeCellIndex = places.at(-1);
    places.forEach(place => panel.content.select(panel.content.widgets[place]));
  }
  window.skilllabRan = false;
  const command = places ? 'notebook:run-cell' : 'notebook:run-all-cells';
  app.commands.execute(command).finally(() => { window.skilllabRan = true; });
}"""
_IDLE = "() => window.skilllabRan && window.jupyterapp.shell.currentWidget.sessionContext.session?.kernel?.status === 'idle'"
_CELLS = "() => window.jupyterapp.shell.currentWidget.content.model.sharedModel.cells.map(cell => cell.toJSON())"


class Lab:
    """A running JupyterLab: `url` with its token in `token`."""

    def __init__(self, url: str, token: str) -> None:
        self.url, self.token = url, token

    def open(self, page: Page, notebook: str) -> None:
        """Opens a notebook and waits until it can be run; a page that shows this lab already is not loaded anew."""
        page.set_default_timeout(PATIENCE)
        if page.url.startswith(self.url):
            page.evaluate(_OPEN, notebook)
        else:
            page.goto(f"{self.url}/lab/workspaces/{Path(notebook).stem}/tree/{notebook}?token={self.token}&reset")
        page.wait_for_selector(".jp-Notebook .jp-Cell")
        page.wait_for_function(_READY, arg=notebook)

    def run(self, page: Page, places: Sequence[int] | None = None, limit: float = 120.0) -> list[dict[str, Any]]:
        """Runs all cells, or those at `places`, waits until the kernel rests, and returns all cells as they stand.

        places: of all cells, counted from 0, in order. limit: seconds.
        """
        page.set_default_timeout(1000 * limit)
        page.evaluate(_RUN, places)
        page.wait_for_function(_IDLE)
        page.set_default_timeout(PATIENCE)
        return cells_of(page)

    def close(self, page: Page) -> None:
        """Ends the kernel of the open notebook, if there is one, and closes it; what was changed in it is lost."""
        page.evaluate(_CLOSE)


def cells_of(page: Page) -> list[dict[str, Any]]:
    """Returns the cells of the open notebook as they would be saved."""
    return list(page.evaluate(_CELLS))


@contextmanager
def running_lab(notebooks: Iterable[Path]) -> Iterator[Lab]:
    """Starts JupyterLab as `make lab` does, with copies of the notebooks; leaves no process and no file behind."""
    with tempfile.TemporaryDirectory(prefix="skilllab-browser-") as folder:
        root = Path(folder) / "notebooks"
        root.mkdir()
        for notebook in notebooks:
            shutil.copy(notebook, root)
        port, token = _free_port(), secrets.token_hex(16)
        options = [
            f"--ServerApp.port={port}",
            "--ServerApp.port_retries=0",
            f"--IdentityProvider.token={token}",
            "--LabApp.expose_app_in_browser=True",
        ]
        command = lab_command(root, root=os.geteuid() == 0, browser=False, rest=options)
        log = Path(folder) / "log"
        with log.open("wb") as output:
            server = subprocess.Popen(command, env=_environment(Path(folder)), cwd=root, stdout=output, stderr=output)
        try:
            url = f"http://127.0.0.1:{port}"
            _wait_for(f"{url}/api", server, log)
            yield Lab(url, token)
        finally:
            if server.poll() is None:
                _end(server)


@contextmanager
def running_browser(chromium: str) -> Iterator[Browser]:
    """Starts the Chromium at the given path, headless."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=list(CHROMIUM))
        try:
            yield browser
        finally:
            browser.close()


def _environment(folder: Path) -> dict[str, str]:
    """Returns an environment in which nothing of the person's own Jupyter is read or written."""
    own = {
        name: str(folder / name.lower())
        for name in ("JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR", "IPYTHONDIR")
    }
    for name, text in USER_SETTINGS.items():
        path = folder / "jupyter_config_dir" / "lab" / "user-settings" / name
        path.parent.mkdir(parents=True)
        path.write_text(text, encoding="utf-8")
    return os.environ | own | {FAST_VARIABLE: "1", DATA_VARIABLE: str(data_folder())}


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _wait_for(url: str, server: subprocess.Popen[bytes], log: Path) -> None:
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    end = time.monotonic() + START_LIMIT
    while time.monotonic() < end and server.poll() is None:
        try:
            with direct.open(url, timeout=5):
                return
        except (urllib.error.URLError, ConnectionError, TimeoutError):
            time.sleep(0.1)  # between two questions; the answer ends the wait
    raise RuntimeError(f"JupyterLab did not start: {log.read_text(encoding='utf-8', errors='replace')[-2000:]}")


def _end(server: subprocess.Popen[bytes]) -> None:
    """Asks the server to end, and ends whatever it has started and left."""
    first = psutil.Process(server.pid)
    started = [first, *first.children(recursive=True)]
    server.terminate()
    _, left = psutil.wait_procs(started, timeout=10)
    for process in left:
        with suppress(psutil.NoSuchProcess):
            process.kill()
    server.wait(10)
