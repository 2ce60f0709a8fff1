"""Every notebook in a real JupyterLab, run and looked at in a real browser; the panels moved by keyboard."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
import pytest
from needed import needed

if TYPE_CHECKING:
    from lab import Lab
    from on_page import PanelOnPage
    from playwright.sync_api import Browser, Page

pytestmark = [pytest.mark.browser, pytest.mark.slow, pytest.mark.timeout(300)]

NOTEBOOKS = sorted((Path(__file__).parents[2] / "notebooks").glob("*.ipynb"))
WINDOW = {"width": 1280, "height": 900}
TALLEST = 20_000  # pixels of one picture
RUNS = {"03_layers_and_limits": "stopped at max_memory"}
"""What a panel says when its Run button was pressed, for those whose run is short."""
LOAD = "06_load_testing"
CHILD = "skilllab.experiments.loadtest.program"  # in the command of a process that runs a load test
LEAVE = 2.0  # s after which nothing of a load test may be left when its kernel has gone


@pytest.fixture(scope="module")
def window(browser: Browser) -> Iterator[Page]:
    """A page that stays: loading JupyterLab takes longer than looking at a notebook."""
    with new_page(browser) as page:
        yield page


@pytest.fixture(scope="module")
def opened(lab: Lab, window: Page) -> Page:
    """The page with panel.ipynb, run."""
    lab.open(window, "panel.ipynb")
    lab.run(window)
    return window


@pytest.fixture
def own(opened: Page) -> Iterator[PanelOnPage]:
    """The panel of panel.ipynb as it is at first."""
    from on_page import panels

    (panel,) = panels(opened)
    first = panel.summary
    yield panel
    panel.reset()
    panel.wait_for_words(first)


@pytest.fixture
def page(lab: Lab, window: Page) -> Iterator[Page]:
    """A page on which no notebook is open, before and after."""
    yield window
    lab.close(window)


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook(notebook: Path, lab: Lab, page: Page, screenshots: Path) -> None:
    """What runs runs without an error, every picture shows, nothing covers the page, and every control moves its panel.

    The first notebook runs from top to bottom, as whoever opens it will; of the others only the cells that the panel
    needs, as each is run in full beside the browser (pytest --nbval).
    """
    from lab import cells_of
    from on_page import panels

    lab.open(page, notebook.name)
    places = None if notebook == NOTEBOOKS[0] else panel_places(notebook)
    cells = lab.run(page, places) if places != [] else cells_of(page)
    assert errors(cells) == []
    assert [cells[place]["execution_count"] for place in places or ()] == list(range(1, len(places or ()) + 1))
    assert pictures_not_shown(page) == []
    assert page.locator(".Toastify__toast, .jp-Dialog").count() == 0
    found = panels(page)
    picture_of_all(page, screenshots / f"{notebook.stem}.png")
    for number, panel in enumerate(found, start=1):
        try_panel(panel, screenshots / f"{notebook.stem}-panel-{number}")
        if notebook.stem in RUNS:
            run_panel(panel, RUNS[notebook.stem], screenshots / f"{notebook.stem}-panel-{number}-run.png")
        if notebook.stem == LOAD:
            watch_panel(panel, screenshots / f"{notebook.stem}-panel-{number}-live.png")
    testers = load_tests()
    lab.close(page)
    assert bool(testers) == (notebook.stem == LOAD)
    end = time.monotonic() + LEAVE
    while any(map(runs_a_load_test, testers)):
        assert time.monotonic() < end
        time.sleep(0.02)


def test_controls_are_reached_in_reading_order(own: PanelOnPage) -> None:
    """Tab goes from control to control, from the top down, then to the reset button, and stops nowhere between."""
    own.controls[0].focus()
    for control in [*own.controls[1:], own.reset_button]:
        own.page.keyboard.press("Tab")
        assert control.evaluate("control => control === document.activeElement")
    tops = [control.bounding_box()["y"] for control in [*own.controls, own.reset_button]]
    assert tops == sorted(tops)


def test_moves_and_reset(own: PanelOnPage, screenshots: Path) -> None:
    """Each control moves words and picture by keyboard, the words name the picture, and reset brings the first back."""
    first = own.summary
    assert len(own.controls) == 6
    for control in own.controls:
        own.move(control)
    own.wait_for_name()
    assert own.summary != first
    own.panel.screenshot(path=screenshots / "panel.png")
    own.reset()
    own.wait_for_words(first)


def test_bad_value(own: PanelOnPage, screenshots: Path) -> None:
    """A bad value shows its message and leaves picture and words as they were; nothing is printed; reset mends it."""
    first, source = own.summary, own.source
    own.controls[-1].fill("-1")
    own.page.keyboard.press("Enter")
    own.alert.wait_for()
    assert own.alert.inner_text() == "Hit time (=-1 ms) must be a number above 0"
    own.panel.screenshot(path=screenshots / "panel-error.png")
    assert (own.summary, own.source) == (first, source)
    assert own.page.locator(".jp-OutputArea-output[data-mime-type*=stderr], .jp-RenderedText").count() == 0
    own.reset()
    own.alert.wait_for(state="hidden")
    assert own.summary == first


def test_widgets_win_over_the_still_picture(own: PanelOnPage) -> None:
    """The output holds a picture and a text for pages without a kernel; where there is one, only the widgets show."""
    from lab import cells_of

    (cell,) = cells_of(own.page)
    (output,) = cell["outputs"]
    assert {"application/vnd.jupyter.widget-view+json", "image/png", "text/plain"} <= output["data"].keys()
    assert "".join(output["data"]["text/plain"]) == own.summary
    assert own.page.locator(".jp-RenderedImage").count() == 0


def panel_places(notebook: Path) -> list[int]:
    """Where the cell with the panel stands, which is the last, and those that it needs; nowhere when there is no panel."""
    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    code = [(place, "".join(cell["source"])) for place, cell in enumerate(cells) if cell["cell_type"] == "code"]
    if "skilllab.panels" not in code[-1][1]:
        return []
    return [code[number][0] for number in needed([source for _, source in code])]


def pictures_not_shown(page: Page) -> list[str]:
    """The pictures on the page that the browser could not draw."""
    pictures = page.locator(".jp-Notebook img")
    assert pictures.count() > 0
    pictures.evaluate_all("images => Promise.allSettled(images.map(image => image.decode()))")
    sources = pictures.evaluate_all("images => images.filter(image => !image.naturalWidth).map(image => image.src)")
    return [source[:80] for source in sources]


def try_panel(panel: PanelOnPage, name: Path) -> None:
    """Moves every control by keyboard, presses reset, and saves the panel before and after."""
    first = panel.summary
    panel.panel.screenshot(path=name.with_name(f"{name.name}-before.png"))
    for control in panel.controls:
        panel.move(control)
    panel.panel.screenshot(path=name.with_name(f"{name.name}-after.png"))
    panel.reset()
    panel.wait_for_words(first)


def run_panel(panel: PanelOnPage, words: str, picture: Path) -> None:
    """Moves a control to where nothing was run yet, presses Run, and waits for what it found."""
    panel.move(panel.controls[1])
    assert "Press Run" in panel.summary
    first = panel.summary
    panel.run()
    panel.wait_for_other_words(first)
    assert words in panel.summary
    panel.panel.screenshot(path=picture)


def watch_panel(panel: PanelOnPage, picture: Path) -> None:
    """Starts a load test of 10 s, watches it, stops it and finds what was measured; then leaves another one running."""
    while "10 s" not in panel.summary:
        panel.move(panel.controls[3])
    first = panel.summary
    panel.run()
    panel.wait_for_words_with("p50")  # after the warm-up
    panel.panel.screenshot(path=picture)
    assert panel.run_button.inner_text() == "Stop"
    panel.run()
    panel.wait_for_words_with("stopped after")
    panel.panel.screenshot(path=picture.with_name(picture.name.replace("live", "stopped")))
    assert load_tests() == []
    panel.move(panel.controls[1])
    panel.run()
    panel.wait_for_words_with("so far")
    assert panel.summary != first


def load_tests() -> list[psutil.Process]:
    """The processes of load tests that the kernels of this lab have started and that run."""
    return [process for process in psutil.Process().children(recursive=True) if runs_a_load_test(process)]


def runs_a_load_test(process: psutil.Process) -> bool:
    """Whether a process runs a load test; one that has ended, a zombie included, has no command any more."""
    try:
        return CHILD in " ".join(process.cmdline())
    except psutil.NoSuchProcess:
        return False


def errors(cells: list[dict[str, Any]]) -> list[str]:
    """What went wrong in any cell, and which code cells did not run."""
    wrong = []
    for number, cell in enumerate(cells, start=1):
        if cell["cell_type"] == "code" and "".join(cell["source"]).strip():
            meant = "raises-exception" in cell["metadata"].get("tags", ())
            raised = [output for output in cell["outputs"] if output["output_type"] == "error" and not meant]
            wrong += [f"cell {number}: {output['ename']}: {output['evalue']}" for output in raised]
            wrong += [f"cell {number} did not run"] * (cell["execution_count"] is None)
    return wrong


def picture_of_all(page: Page, path: Path) -> None:
    """Saves the notebook from its first to its last cell, in a window as tall as it takes."""
    cells = page.locator(".jp-WindowedPanel-outer")
    extra = cells.evaluate("outer => outer.scrollHeight - outer.clientHeight")
    page.set_viewport_size({"width": WINDOW["width"], "height": min(WINDOW["height"] + extra, TALLEST)})
    cells.evaluate("outer => new Promise(done => { outer.scrollTop = 0; requestAnimationFrame(done); })")
    page.locator(".jp-NotebookPanel").screenshot(path=path)
    page.set_viewport_size(WINDOW)


@contextmanager
def new_page(browser: Browser) -> Iterator[Page]:
    """A page of its own, which forgets everything at the end."""
    context = browser.new_context(viewport=WINDOW, locale="en-GB")
    try:
        yield context.new_page()
    finally:
        context.close()
