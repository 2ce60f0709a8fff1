"""From key press to new picture in the browser: a CachePanel beside `interactive_output` with an inline figure.

`measure()` is for the bench: put this folder on the path and import it. Both stand in one notebook and one kernel, show
the same two plots with every curve known beforehand, and move by turns.
"""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

import nbformat
from lab import running_browser, running_lab
from playwright.sync_api import Locator, Page

_SETTING = """\
from skilllab.panels import CachePanel
from skilllab.trace import zipf

trace = zipf(60_000, 3_000, 1.1, rate=50)
panel = CachePanel(trace, size=100)
panel"""

_PEER = """\
%matplotlib inline
import ipywidgets as widgets
import matplotlib.pyplot as plt
from skilllab.panels.cache import outcome
from skilllab.panels.controls import whole_numbers

miss = trace.time * 0 + 0.1
sizes = whole_numbers(trace.unique / 1000, trace.unique, 100)
curve = {size: outcome(trace, "lru", size, None, miss, 0.0001) for size in sizes}

def draw(size):
    fig, (top, bottom) = plt.subplots(2, 1, sharex=True, figsize=(6, 5.4))
    top.semilogx(sizes, [curve[each].hit_ratio for each in sizes])
    top.plot(size, curve[size].hit_ratio, "o")
    top.set(ylabel="Hit ratio", title=f"{size} entries")
    bottom.loglog(sizes, [curve[each].p95 for each in sizes])
    bottom.plot(size, curve[size].p95, "o")
    bottom.set(xlabel="Cache size (entries)", ylabel="p95 response time")
    plt.show()

slider = widgets.SelectionSlider(options=sizes, value=100, description="Cache size")
widgets.VBox([slider, widgets.interactive_output(draw, {"size": slider})])"""

# Starts at the key press as the browser stamps it, ends when the new picture is decoded and can be painted.
_WATCH = """root => {
  const pressed = new Promise(done =>
    window.addEventListener('keydown', event => done(event.timeStamp), {capture: true, once: true}));
  const before = root.querySelector('img').src;
  const shown = new Promise(done => {
    const look = () => {
      const image = root.querySelector('img');
      if (!image || image.src === before) return;
      image.decode().then(() => { observer.disconnect(); done(performance.now()); }, () => {});
    };
    const observer = new MutationObserver(look);
    observer.observe(root, {subtree: true, childList: true, attributes: true, attributeFilter: ['src']});
  });
  window.skilllabTook = Promise.all([pressed, shown]).then(([start, end]) => (end - start) / 1000);
}"""
_TOOK = "() => Promise.race([window.skilllabTook, new Promise((_, no) => setTimeout(() => no('no picture'), 20000))])"
_AT_REST = """() => new Promise(done => {
  const kernel = window.jupyterapp.shell.currentWidget.sessionContext.session.kernel;
  kernel.requestKernelInfo().then(() => requestAnimationFrame(() => requestAnimationFrame(done)));
})"""


def measure(moves: int = 15) -> dict[str, list[float]]:
    """Returns seconds from key press to picture, `moves` of each side, by turns: {"panel": [...], "interactive_output": [...]}.

    Raises RuntimeError where there is no Chromium.
    """
    chromium = shutil.which("chromium")
    if chromium is None:
        raise RuntimeError("chromium is not installed: apt-get install chromium")
    with tempfile.TemporaryDirectory(prefix="skilllab-latency-") as folder:
        notebook = Path(folder) / "latency.ipynb"
        nbformat.write(_notebook(), notebook)
        with running_lab([notebook]) as lab, running_browser(chromium) as browser:
            page = browser.new_page(viewport={"width": 1280, "height": 1800})
            lab.open(page, notebook.name)
            lab.run(page)
            outputs = page.locator(".jp-Cell-outputArea")
            sides = {"panel": outputs.nth(0), "interactive_output": outputs.nth(1)}
            for side in sides.values():
                side.locator("img").wait_for()
            took: dict[str, list[float]] = {name: [] for name in sides}
            for move in range(-2, moves):  # the first two warm up
                for name, side in sides.items():
                    seconds = _move(page, side, "ArrowRight" if move % 10 < 5 else "ArrowLeft")
                    took[name] += [seconds] if move >= 0 else []
    return took


def _notebook() -> nbformat.NotebookNode:
    cells = [nbformat.v4.new_code_cell(source) for source in (_SETTING, _PEER)]
    return nbformat.v4.new_notebook(
        cells=cells, metadata={"kernelspec": {"name": "python3", "display_name": "Python 3"}}
    )


def _move(page: Page, side: Locator, key: str) -> float:
    side.locator(".widget-slider", has_text="Cache size").locator(".noUi-handle").focus()
    page.evaluate(_AT_REST)
    side.evaluate(_WATCH)
    page.keyboard.press(key)
    return float(page.evaluate(_TOOK))


if __name__ == "__main__":
    from statistics import median

    for side, seconds in measure().items():
        print(f"{side}: median {1000 * median(seconds):.0f} ms of {len(seconds)}")
