"""The offline page: executed notebooks and their findings in one HTML file that loads nothing from anywhere.

Markdown, code and terminal colours go through nbconvert's filters; its stock templates load three scripts from the
network, so the template is ours, has no script at all, and forbids the browser every load by its security policy.
"""

from __future__ import annotations

import os
import platform
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader
from markupsafe import Markup
from nbformat import NotebookNode

from skilllab import format as fmt
from skilllab.report import render
from skilllab.report.findings import Finding
from skilllab.report.runner import NotebookRun, first_line, has_code

LIBRARIES = ("numpy", "pandas", "matplotlib", "numba", "cachetools", "pyroaring", "pydantic", "jsonschema-rs")
"""Whose version can change a number on the page."""


@dataclass(frozen=True, slots=True)
class CellView:
    """One cell, ready for the template; `prompt` is 0 where nothing ran."""

    html: Markup
    prompt: int = 0
    line: str = ""
    outputs: tuple[Markup, ...] = ()
    failed: bool = False


@dataclass(frozen=True, slots=True)
class Section:
    """One notebook, ready for the template; `parts` are the anchors and titles of its second-level headings."""

    anchor: str
    title: str
    parts: tuple[tuple[str, str], ...]
    facts: str
    cells: tuple[CellView, ...]
    findings: tuple[tuple[str, Finding], ...]
    failure: str


def write_page(runs: Sequence[NotebookRun], path: Path, *, fast: bool = True) -> int:
    """Writes the page of `runs` to `path`, whole or not at all, and returns its size in bytes."""
    html = page(runs, fast=fast).encode()
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, suffix=".part")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(html)
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise
    return len(html)


def page(runs: Sequence[NotebookRun], *, fast: bool = True, now: datetime | None = None) -> str:
    """Returns the page as HTML: findings first, then each notebook with its text, figures and folded code."""
    environment = Environment(
        loader=PackageLoader("skilllab.report"), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["unbroken"] = render.unbroken
    names = frozenset(run.name for run in runs)
    return environment.get_template("page.html.j2").render(
        sections=[_section(run, names) for run in runs],
        when=(now or datetime.now(UTC)).strftime("%-d %B %Y, %H:%M UTC"),
        setting="fast" if fast else "full",
        seconds=fmt.duration(sum(run.duration for run in runs)),
        machine=machine(),
        style=Markup(environment.loader.get_source(environment, "page.css")[0]),  # type: ignore[union-attr]
        highlight=Markup(render.code_style()),
    )


def machine() -> tuple[str, ...]:
    """Returns what the numbers depend on: Python, cores, kind of machine, versions; nothing that names the machine."""
    facts = [
        f"{platform.python_implementation()} {platform.python_version()}",
        f"{os.cpu_count()} cores",
        f"{platform.system()} {platform.machine()}",
    ]
    for library in LIBRARIES:
        try:
            facts.append(f"{library} {version(library)}")
        except PackageNotFoundError:
            continue
    return tuple(facts)


def _section(run: NotebookRun, names: frozenset[str]) -> Section:
    markdown = render.MarkdownRenderer(run.name, names)
    found = iter(f"{run.name}-finding-{number}" for number in range(1, len(run.findings) + 1))
    anchors: list[str] = []

    def anchor() -> str:
        anchors.append(next(found))
        return anchors[-1]

    cells = [_cell(cell, markdown, anchor) for cell in run.notebook.cells if cell.source.strip()]
    titles = [title for level, _, title in markdown.headings if level == 1]
    count = sum(has_code(cell) for cell in run.notebook.cells)
    return Section(
        anchor=run.name,
        title=titles[0] if titles else run.name,
        parts=tuple((slug, title) for level, slug, title in markdown.headings if level == 2),
        facts=f"{run.name}.ipynb · {count} cells with code · {fmt.duration(run.duration)}",
        cells=tuple(cells),
        findings=tuple(zip(anchors, run.findings, strict=True)),
        failure=str(run.failure) if run.failure else "",
    )


def _cell(cell: NotebookNode, markdown: render.MarkdownRenderer, anchor: Any) -> CellView:
    if cell.cell_type != "code":
        return CellView(Markup(markdown.cell(cell) if cell.cell_type == "markdown" else render.plain(cell.source)))
    outputs = tuple(Markup(render.output(output, anchor)) for output in cell.outputs)
    return CellView(
        html=Markup(render.code(cell.source)),
        prompt=cell.execution_count or 0,
        line=first_line(cell),
        outputs=tuple(html for html in outputs if html),
        failed=any(output.output_type == "error" for output in cell.outputs),
    )
