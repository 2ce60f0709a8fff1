"""A JupyterLab and a browser for the tests of this folder; both end with the module that asked for them."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import nbformat
import pytest

sys.path.insert(0, str(Path(__file__).parent))

NOTEBOOKS = Path(__file__).parents[2] / "notebooks"
SCREENSHOTS = Path(__file__).parent / "screenshots"

# Whatever the notebooks show, the kit is tried with two traces, so that every kind of control is there.
PANEL = """\
from skilllab.panels import CachePanel
from skilllab.trace import loop, zipf

panel = CachePanel({"Zipf": zipf(5_000, 400, 1.1, rate=10), "Loop": loop(5_000, 300)}, size=100, ttl=120)
panel"""


@pytest.fixture(scope="module")
def lab(needs: Callable[[str], str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A running JupyterLab with copies of all notebooks, and `panel.ipynb`."""
    needs("chromium")
    from lab import running_lab

    own = tmp_path_factory.mktemp("own") / "panel.ipynb"
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3"}}
    nbformat.write(nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(PANEL)], metadata=kernel), own)
    with running_lab([own, *sorted(NOTEBOOKS.glob("*.ipynb"))]) as running:
        yield running


@pytest.fixture(scope="module")
def browser(needs: Callable[[str], str]) -> Iterator[Any]:
    """A running Chromium."""
    chromium = needs("chromium")
    from lab import running_browser

    with running_browser(chromium) as running:
        yield running


@pytest.fixture(scope="session")
def screenshots() -> Path:
    """The folder of pictures to look at; git ignores it."""
    SCREENSHOTS.mkdir(exist_ok=True)
    return SCREENSHOTS
