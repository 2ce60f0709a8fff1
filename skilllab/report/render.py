"""Cells and outputs to HTML fragments; whatever would load from elsewhere is left out."""

from __future__ import annotations

import re
from collections.abc import Callable
from html import escape
from typing import Any

from bs4 import BeautifulSoup
from markupsafe import Markup
from nbconvert.filters.ansi import ansi2html
from nbconvert.filters.highlight import Highlight2HTML
from nbconvert.filters.markdown_mistune import IPythonRenderer, MarkdownWithMath
from nbformat import NotebookNode
from pygments.formatters import HtmlFormatter

from skilllab.report.findings import FINDING_MIME

WIDGET_MIME = "application/vnd.jupyter.widget-view+json"
LOADING_TAGS = ("script", "link", "iframe", "frame", "object", "embed", "base", "meta", "audio", "video")
LOADING_ATTRIBUTES = ("src", "srcset", "poster", "background", "data")
_LOADING_CSS = re.compile(r"@import|url\s*\(\s*['\"]?\s*(?!data:)", re.IGNORECASE)

_BREAKS = re.compile(r"(?<=\d) (?=(?:%|×|/s|[µnm]?s|min|h|[KMGT]?i?B)(?!\w))|(?<=\bn) (?==)|(?<=\bn =) (?=\d)")

_highlight = Highlight2HTML(pygments_lexer="ipython3")


class MarkdownRenderer(IPythonRenderer):
    """Renders the markdown cells of one notebook as part of a page: anchors carry its name, headings go one level down.

    Keeps (level, anchor, text) of every heading in `headings`. A link to another notebook of `names` stays on the page.
    """

    def __init__(self, name: str, names: frozenset[str]) -> None:
        super().__init__(escape=False, exclude_anchor_links=True)
        self.name = name
        self.names = names
        self.headings: list[tuple[int, str, str]] = []

    def cell(self, cell: NotebookNode) -> str:
        self.attachments = cell.get("attachments", {})
        return offline(str(MarkdownWithMath(renderer=self).render(cell.source)))

    def heading(self, text: str, level: int, **attrs: Any) -> str:
        words = BeautifulSoup(text, "html.parser").get_text()
        slug = f"{self.name}-{_slug(words)}"
        self.headings.append((level, slug, words))
        tag = f"h{min(level + 1, 6)}"
        return f'<{tag} id="{escape(slug)}">{text}</{tag}>\n'

    def link(self, text: str, url: str, title: str | None = None) -> str:
        file, _, fragment = url.partition("#")
        name = file.removesuffix(".ipynb")
        if file.endswith(".ipynb") and name in self.names:
            url = f"#{name}-{_slug(fragment)}" if fragment else f"#{name}"
        return str(super().link(text, url, title))


def output(data: NotebookNode, anchor: Callable[[], str]) -> str:
    """Returns one output as HTML, "" when there is nothing to see; `anchor` names the next finding."""
    if data.output_type == "stream":
        return f'<pre class="stream {data.name}">{ansi2html(data.text)}</pre>'
    if data.output_type == "error":
        return f'<pre class="error">{ansi2html(chr(10).join(data.traceback))}</pre>'
    return _bundle(data.data, anchor)


def code(source: str) -> str:
    """Returns Python source as highlighted HTML."""
    return str(_highlight(source))


def code_style() -> str:
    """Returns the CSS of highlighted code: few colours, each at least 4.5:1 on white."""
    return str(HtmlFormatter(style="xcode", nobackground=True).get_style_defs(".highlight"))


def unbroken(text: str) -> Markup:
    """Returns text as HTML in which no line breaks between a number and its unit."""
    return Markup(_BREAKS.sub("\N{NO-BREAK SPACE}", escape(text)))


def plain(text: str) -> str:
    """Returns text as it is."""
    return f"<pre>{escape(text)}</pre>"


def offline(html: str) -> str:
    """Returns the HTML without scripts, frames, and sources that are not in the page itself."""
    soup = BeautifulSoup(html, "html.parser")
    for tag in soup(LOADING_TAGS):
        tag.decompose()
    for style in soup("style"):
        if _LOADING_CSS.search(style.get_text()):
            style.decompose()
    for tag in soup(True):
        for name, value in list(tag.attrs.items()):
            loads = name in LOADING_ATTRIBUTES and not str(value).startswith("data:")
            if loads or name.startswith("on") or (name == "style" and _LOADING_CSS.search(str(value))):
                del tag[name]
    return str(soup)


def _bundle(data: dict[str, Any], anchor: Callable[[], str]) -> str:
    """Renders the richest form that lives without a kernel: a panel's picture comes before its widgets."""
    if FINDING_MIME in data:
        found = data[FINDING_MIME]
        question, answer = unbroken(found["question"]), unbroken(found["answer"])
        return f'<div class="finding" id="{anchor()}"><p>{question}</p><p><strong>{answer}</strong></p></div>'
    for mime in ("image/png", "image/jpeg"):
        if mime in data:
            return _image(mime, data[mime], data.get("text/plain", ""))
    if "image/svg+xml" in data:
        return f'<div class="figure">{offline(data["image/svg+xml"])}</div>'
    if WIDGET_MIME in data:
        return '<p class="note">Controls that need a kernel: open the notebook with <code>make lab</code>.</p>'
    if "text/html" in data:
        return f'<div class="html">{offline(data["text/html"])}</div>'
    return f'<pre class="result">{ansi2html(data["text/plain"])}</pre>' if "text/plain" in data else ""


def _image(mime: str, encoded: str, text: str) -> str:
    # The text beside a plain figure is only its repr; a panel writes a summary there.
    alt = "Figure" if not text or text.startswith("<") else text
    return f'<div class="figure"><img alt="{escape(alt)}" src="data:{mime};base64,{"".join(encoded.split())}"></div>'


def _slug(text: str) -> str:
    """Returns the anchor that JupyterLab gives a heading, so that links between notebooks keep working."""
    return re.sub(r"\s+", "-", text.strip())
