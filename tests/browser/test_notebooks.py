"""Every notebook in a real JupyterLab, run and looked at in a real browser; the panels moved by keyboard."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from lab import Lab
    from on_page import PanelOnPage
    from playwright.sync_api import Page

pytestmark = [pytest.mark.browser, pytest.mark.slow, pytest.mark.timeout(300)]

NOTEBOOKS = sorted((Path(__file__).parents[2] / "notebooks").glob("*.ipynb"))
TALLEST = 20_000  # pixels of one picture


@pytest.fixture
def own(lab: Lab, page: Page) -> Iterator[PanelOnPage]:
    """The panel of panel.ipynb, run."""
    from on_page import panels

    lab.open(page, "panel.ipynb")
    lab.run_all(page)
    (panel,) = panels(page)
    yield panel
    lab.shut_down(page)


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook(notebook: Path, lab: Lab, page: Page, screenshots: Path) -> None:
    """All cells run without an error, nothing covers the page, and every control of every panel moves its picture."""
    from on_page import panels

    lab.open(page, notebook.name)
    cells = lab.run_all(page)
    assert errors(cells) == []
    assert page.locator(".Toastify__toast, .jp-Dialog").count() == 0
    found = panels(page)
    picture_of_all(page, screenshots / f"{notebook.stem}.png")
    for number, panel in enumerate(found, start=1):
        first = panel.summary
        panel.panel.screenshot(path=screenshots / f"{notebook.stem}-panel-{number}-before.png")
        for control in panel.controls:
            panel.move(control)
        panel.panel.screenshot(path=screenshots / f"{notebook.stem}-panel-{number}-after.png")
        panel.reset()
        panel.wait_for(panel.words, first)
    lab.shut_down(page)


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
    own.panel.screenshot(path=screenshots / "panel.png")
    own.page.wait_for_function("([image, holder]) => image.title === holder.innerText.trim()", arg=own.handles())
    own.reset()
    own.wait_for(own.words, first)


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


def errors(cells: list[dict[str, Any]]) -> list[str]:
    """What went wrong in any cell, and which code cells did not run."""
    wrong = []
    for number, cell in enumerate(cells, start=1):
        if cell["cell_type"] != "code":
            continue
        for output in cell["outputs"]:
            if output["output_type"] == "error":
                wrong.append(f"cell {number}: {output['ename']}: {output['evalue']}")
        if cell["execution_count"] is None and "".join(cell["source"]).strip():
            wrong.append(f"cell {number} did not run")
    return wrong


def picture_of_all(page: Page, path: Path) -> None:
    """Saves the notebook from its first to its last cell, in a window that is tall enough for the time of it."""
    window = page.viewport_size
    extra = page.evaluate(
        "() => { const e = document.querySelector('.jp-WindowedPanel-outer'); return e.scrollHeight - e.clientHeight; }"
    )
    page.set_viewport_size({"width": window["width"], "height": min(window["height"] + extra, TALLEST)})
    page.locator(".jp-NotebookPanel").screenshot(path=path)
    page.set_viewport_size(window)
