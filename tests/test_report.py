"""Findings, the headless runner and the offline page."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from skilllab.errors import InvalidValueError
from skilllab.report import FINDING_MIME, Finding
from skilllab.report.findings import collect
from skilllab.report.page import machine, page, write_page
from skilllab.report.render import offline, unbroken
from skilllab.report.runner import Failure, NotebookRun, run_notebook

PIXEL = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
WIDGET = {"application/vnd.jupyter.widget-view+json": {"model_id": "1"}, "text/plain": "IntSlider(value=0)"}
NOW = datetime(2026, 1, 2, 3, 4, tzinfo=UTC)


def bundle(**data: Any) -> Any:
    return new_output("display_data", data={name.replace("__", "/"): value for name, value in data.items()})


def found(question: str, answer: str) -> Any:
    return new_output("display_data", data=Finding(question, answer)._repr_mimebundle_())


def code(*outputs: Any, source: str = "measure()") -> Any:
    return new_code_cell(source, outputs=list(outputs), execution_count=1)


def run_of(*cells: Any, name: str = "01_caching", failure: Failure | None = None) -> NotebookRun:
    return NotebookRun(name, new_notebook(cells=list(cells)), 1.5, failure)


def html_of(*cells: Any, **more: Any) -> str:
    return page([run_of(*cells, **more)], now=NOW)


class Loads(HTMLParser):
    """Collects what a browser would fetch for a page, and every script."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag in ("script", "link", "iframe", "object", "embed"):
            self.found.append(tag)
        self.found += [f"{k}={v}" for k, v in attrs if k in ("src", "srcset") and not str(v).startswith("data:")]


def loads(html: str) -> list[str]:
    reader = Loads()
    reader.feed(html)
    return reader.found + re.findall(r"@import.*|url\((?!.?data:).*", html)


# Findings


def test_finding_is_one_line() -> None:
    """A finding reads as question and answer on one line, however it was wrapped in the source."""
    assert str(Finding("How\n  big?", " 2,000 entries ")) == "How big? — 2,000 entries"


@pytest.mark.parametrize("answer", ["", "  \n", None, 71.2])
def test_finding_rejects_what_is_no_line(answer: Any) -> None:
    """An answer that is blank or not a text is refused with its value."""
    with pytest.raises(InvalidValueError, match=re.escape(f"answer={answer!r}")):
        Finding("How big?", answer)


def test_findings_are_collected_in_order() -> None:
    """The findings of a cell come back as they were stated, other outputs left aside."""
    outputs = [found("a?", "1"), bundle(text__plain="x"), new_output("stream", text="y"), found("b?", "2")]
    assert collect(outputs) == (Finding("a?", "1"), Finding("b?", "2"))


def test_finding_shows_in_a_notebook_escaped() -> None:
    """The HTML of a finding shows markup as text, and the bundle carries both lines unchanged."""
    shown = Finding("a < b?", "<b>1</b>")._repr_mimebundle_()
    assert "a &lt; b?" in shown["text/html"]
    assert "<b>" not in shown["text/html"]
    assert shown[FINDING_MIME] == {"question": "a < b?", "answer": "<b>1</b>"}


# The page


def test_page_lists_findings_in_order_and_escaped() -> None:
    """The table holds every finding of every notebook in order, its markup as text, with a link to where it stands."""
    first = run_of(code(found("Which size?", "2,000 <i>entries</i>")), code(found("Which TTL?", "120 s")))
    html = page([first, run_of(code(found("Index?", "1.5 µs")), name="02_queries")], now=NOW)
    table = html[html.index("<tbody>") : html.index("</tbody>")]
    assert re.findall(r"<td>([^<]*\?)</td>", table) == ["Which size?", "Which TTL?", "Index?"]
    assert "2,000 &lt;i&gt;entries&lt;/i&gt;" in table
    for target in re.findall(r'href="#([^"]+)"', table):
        assert f'id="{target}"' in html


HOSTILE = (
    '<script src="https://x.example/a.js"></script><img src="https://x.example/a.png" onerror="go()">'
    '<link rel="stylesheet" href="//x.example/a.css"><style>@import "https://x.example/b.css";</style>'
    '<p style="background: url(https://x.example/c.png)">kept</p><iframe src="https://x.example"></iframe>'
)


def test_page_loads_nothing() -> None:
    """Whatever markdown and outputs ask for, nothing in the page fetches anything, and its policy forbids it too."""
    html = html_of(
        new_markdown_cell(f"# Q?\n\n![remote](https://x.example/d.png)\n\n{HOSTILE}\n\n[a link](https://x.example/e)"),
        code(bundle(text__html=HOSTILE)),
        code(new_output("display_data", data={"image/svg+xml": f"<svg>{HOSTILE}</svg>"})),
        code(new_output("display_data", data={"application/javascript": "fetch('https://x.example')"})),
    )
    assert loads(html) == []
    assert html.count("kept") == 3
    assert "default-src 'none'" in html
    assert 'href="https://x.example/e"' in html  # a link to click is no load
    assert loads(HOSTILE) != []


def test_figures_are_embedded() -> None:
    """A picture stands in the page itself, and before any other form of the same output."""
    html = html_of(code(bundle(image__png=PIXEL + "\n", text__html="<p>other</p>", text__plain="<Figure size 1x1>")))
    assert f'<img alt="Figure" src="data:image/png;base64,{PIXEL}">' in html
    assert "other" not in html


def test_panel_shows_its_picture() -> None:
    """Of a panel the page keeps the picture, described by its text summary, and no trace of the widgets."""
    html = html_of(code(new_output("display_data", data=WIDGET | {"image/png": PIXEL, "text/plain": 'hits "71 %"'})))
    assert '<img alt="hits &quot;71 %&quot;"' in html
    assert "IntSlider" not in html
    assert "need a kernel" not in html


def test_widget_without_picture_says_so() -> None:
    """Controls alone are replaced by a sentence that says where they work."""
    html = html_of(code(new_output("display_data", data=WIDGET)))
    assert "make lab" in html
    assert "IntSlider" not in html


def test_failure_is_shown() -> None:
    """A failed notebook is named on top, its failing cell stands open, and terminal colours become HTML."""
    error = new_output("error", ename="E", evalue="no", traceback=["\x1b[31mE\x1b[0m: a <b> no"])
    html = html_of(code(error, source="boom()"), failure=Failure(1, 1, "boom()", "E: no"))
    assert "cell 1 (In [1]) `boom()`: E: no" in html
    assert "<details open>" in html
    assert '<span class="ansi-red-fg">E</span>: a &lt;b&gt; no' in html
    assert "\x1b" not in html


def test_headings_become_anchors_of_their_own() -> None:
    """The same heading in two notebooks has two anchors, and a link from one to the other stays in the page."""
    first = run_of(new_markdown_cell("# One?\n\n## Time to *live*\n\n[go](02_queries.ipynb#Time-to-live)"))
    html = page([first, run_of(new_markdown_cell("# Two?\n\n## Time to live"), name="02_queries")], now=NOW)
    ids = re.findall(r'id="([^"]+)"', html)
    assert len(ids) == len(set(ids))
    assert '<h3 id="01_caching-Time-to-live">' in html
    assert 'href="#02_queries-Time-to-live">go</a>' in html


def test_link_to_a_notebook_outside_the_run_stays() -> None:
    """A link to a notebook that is not on the page is left as it was written."""
    assert 'href="09_what_if.ipynb"' in html_of(new_markdown_cell("[later](09_what_if.ipynb)"))


def test_text_forms() -> None:
    """Streams, plain results, tables and raw cells are shown; an empty cell is not."""
    html = html_of(
        code(new_output("stream", name="stderr", text="late <\n"), bundle(text__plain="{'a': 1}")),
        code(bundle(text__html="<table><tr><td>71</td></tr></table>", text__plain="71")),
        nbformat.v4.new_raw_cell("raw <text>"),
        new_code_cell(""),
    )
    assert '<pre class="stream stderr">late &lt;' in html
    assert "{&#39;a&#39;: 1}" in html
    assert "<td>71</td>" in html
    assert "raw &lt;text&gt;" in html
    assert html.count('<div class="cell">') == 2


def test_machine_is_a_class_of_machine() -> None:
    """The page tells the kind of machine and the versions, one fact each, without paths."""
    facts = machine()
    assert facts[1].endswith("cores")
    assert any(fact.startswith("numpy ") for fact in facts)
    assert not any("/" in fact for fact in facts)


def test_write_page_replaces_whole(tmp_path: Path) -> None:
    """The page is replaced in one step, its folder made when missing, and nothing else is left beside it."""
    path = tmp_path / "new" / "index.html"
    for question in ("a?", "b?"):
        size = write_page([run_of(code(found(question, "1")))], path)
    assert [p.name for p in path.parent.iterdir()] == ["index.html"]
    assert path.stat().st_size == size
    assert "b?" in path.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("takes 1.5 µs", "takes 1.5\xa0µs"),
        ("71 % of 12 MiB", "71\xa0% of 12\xa0MiB"),
        ("90 /s (n = 100)", "90\xa0/s (n\xa0=\xa0100)"),
        ("2 skills", "2 skills"),
        ("1 < 2", "1 &lt; 2"),
    ],
)
def test_numbers_keep_their_units(text: str, shown: str) -> None:
    """A line never breaks between a number and its unit."""
    assert unbroken(text) == shown


def test_offline_keeps_what_is_embedded() -> None:
    """Pictures that are in the page already, links and plain styles survive."""
    html = f'<img src="data:image/png;base64,{PIXEL}"/><a href="https://x.example" style="color: red">a</a>'
    assert offline(html) == html


# The runner: a real kernel, so these are few


@pytest.fixture
def notebook(tmp_path: Path) -> Callable[..., Path]:
    def write(*cells: str, name: str = "01_small") -> Path:
        path = tmp_path / f"{name}.ipynb"
        metadata = {"kernelspec": {"name": "not-installed", "display_name": "?", "language": "python"}}
        nbformat.write(new_notebook(cells=[new_code_cell(cell) for cell in cells], metadata=metadata), path)
        return path

    return write


@pytest.mark.slow
def test_run_leaves_the_file_and_its_folder_alone(notebook: Callable[..., Path]) -> None:
    """A run uses this interpreter in the notebook's folder, in the fast setting, and changes nothing there."""
    path = notebook(
        "import os, sys\nfrom skilllab import finding",
        "",
        "print(os.getcwd(), sys.executable, os.environ['SKILLLAB_FAST'])",
        "finding('a?', '1 s')",
    )
    before, steps = path.read_bytes(), []
    run = run_notebook(path, on_cell=lambda *step: steps.append(step))
    assert run.failure is None
    assert run.notebook.cells[2].outputs[0].text.split() == [str(path.parent), sys.executable, "1"]
    assert run.findings == (Finding("a?", "1 s"),)
    assert [step[:2] for step in steps] == [(0, 3), (1, 3), (2, 3)]
    assert path.read_bytes() == before
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.slow
def test_run_names_the_cell_that_fails(notebook: Callable[..., Path]) -> None:
    """A failing cell ends the notebook and is named by its number, prompt, first line and error."""
    run = run_notebook(notebook("a = 1", "", "\nb = a / 0\nb", "c = 2"))
    assert run.failure == Failure(3, 2, "b = a / 0", "ZeroDivisionError: division by zero")
    assert run.notebook.cells[3].execution_count is None


@pytest.mark.slow
@pytest.mark.parametrize(
    ("cell", "error"),
    [("import time; time.sleep(60)", "took longer than 0.2 s"), ("import os; os._exit(3)", "Kernel died")],
)
def test_run_survives_a_hung_and_a_dead_kernel(notebook: Callable[..., Path], cell: str, error: str) -> None:
    """A cell that hangs or takes its kernel down is a failure of that notebook, with the reason."""
    run = run_notebook(notebook(cell), cell_timeout=0.2 if "sleep" in cell else None)
    assert run.failure == Failure(1, 1, cell, error)


@pytest.mark.parametrize("text", ["", "{", '{"cells": 3}'])
def test_what_is_no_notebook_fails(tmp_path: Path, text: str) -> None:
    """A file that is empty, half written or of another kind is a failed run without cells."""
    path = tmp_path / "01_half.ipynb"
    path.write_text(text)
    run = run_notebook(path)
    assert str(run.failure).startswith("cannot be read as a notebook: ")
    assert run.notebook.cells == []
