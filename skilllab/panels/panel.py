"""Panel: controls on the left, a picture that follows them on the right, in words below it.

A panel has no logic of its own. A subclass makes the controls and the picture, and writes `update`, which reads the
controls, asks an experiment, and draws. The rest is here: the loop, newest values first, errors, busy state, reset.
"""

from __future__ import annotations

import asyncio
import base64
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from html import escape
from importlib.resources import files
from typing import Any

import ipywidgets as widgets

from skilllab.errors import SkilllabError
from skilllab.panels.controls import Control
from skilllab.panels.picture import Picture

_REST = 0.03  # s between a rough picture and the finer one: time for the next key press to arrive


class Panel(ABC):
    """Draws anew whenever a control changes.

    Where an event loop runs (a notebook), a change is only handed over to it: whatever thread it comes from, one
    drawing is pending at a time and it takes the newest values. Without a loop a change draws at once. Reading
    `summary` or `png` first draws what is pending, so neither is ever out of date.
    """

    def __init__(self, controls: Sequence[Control[Any]], picture: Picture, note: str = "") -> None:
        self._controls = tuple(controls)
        self._picture = picture
        self._loop = _running_loop()
        self._stale, self._scheduled, self._held = True, False, False
        self._work: Iterator[str] = iter(())
        self._text = self._message = ""
        self._banner = _html("skilllab-error")
        self._summary = _html("skilllab-summary")
        self._reset = widgets.Button(description="Reset", tooltip="Move every control back to where it started")
        self._reset.on_click(lambda _: self.reset())
        self.widget = self._arrange(note)
        for control in self._controls:
            control.on_change(self._changed)

    @abstractmethod
    def update(self) -> Iterator[str]:
        """Reads the controls, draws the picture and yields its summary.

        A slow panel yields a rough picture first and goes on to the finer one, unless newer values have come. A
        SkilllabError goes to the banner and leaves the last picture standing: raise it before drawing.
        """

    @property
    def summary(self) -> str:
        """What the picture shows, in words; after an error, of the last good picture."""
        self.settle()
        return self._text

    @property
    def error(self) -> str:
        """What is wrong with the controls as they stand, or nothing."""
        self.settle()
        return self._message

    @property
    def png(self) -> bytes:
        """The picture, as PNG."""
        self.settle()
        return self._picture.png

    def settle(self) -> None:
        """Draws whatever is pending, to its finest."""
        while self._step():
            pass

    def reset(self) -> None:
        """Moves every control back to where it started, as one change."""
        self._held = True
        try:
            for control in self._controls:
                control.reset()
        finally:
            self._held = False
        self._changed()

    @contextmanager
    def busy(self) -> Iterator[None]:
        """Shows that the panel is at work; the style sheet keeps quiet about work too short to notice."""
        self.widget.add_class("skilllab-busy")
        try:
            yield
        finally:
            self.widget.remove_class("skilllab-busy")

    def _changed(self, change: object = None) -> None:
        """Hands over to the loop; nothing else happens on the thread of the callback."""
        self._stale = True
        if self._held:
            return
        if self._loop is None or not self._loop.is_running():
            self.settle()
        elif not self._scheduled:
            self._scheduled = True
            self._loop.call_soon_threadsafe(self._on_loop)

    def _on_loop(self) -> None:
        self._scheduled = False
        if self._step() and self._loop is not None and not self._scheduled:
            self._scheduled = True
            self._loop.call_later(_REST, self._on_loop)

    def _step(self) -> bool:
        """Draws the newest values, or a finer picture of them; returns whether there may be a still finer one."""
        if self._stale:
            self._stale = False
            self._work = self.update()
        try:
            # One message for the picture and its name: at each the browser decodes the picture anew.
            with self._picture.widget.hold_sync():
                text = next(self._work, None)
                if text is not None:
                    self._show_summary(text)
        except SkilllabError as error:
            self._show_error(str(error))
            return False
        return text is not None or self._stale

    def _show_error(self, message: str) -> None:
        self._message = message
        words, _, pointed = message.partition("\n")  # lines that point at something need letters of one width
        below = f"<pre>{escape(pointed)}</pre>" if pointed else ""
        self._banner.value = f'<div role="alert">{escape(words)}{below}</div>'
        self._banner.layout.display = None

    def _show_summary(self, text: str) -> None:
        self._banner.layout.display = "none"
        self._text, self._message = text, ""
        self._picture.widget.tooltip = text
        self._summary.value = f'<div role="status">{escape(text)}</div>'

    def _arrange(self, note: str) -> widgets.VBox:
        self._banner.layout.display = "none"
        at_work = _html("skilllab-at-work", '<span role="status">Computing …</span>')
        about = _html("skilllab-note", escape(note))
        column = [control.widget for control in self._controls]
        left = widgets.VBox([*column, about, widgets.HBox([self._reset, at_work]), self._banner])
        left.add_class("skilllab-controls")
        right = widgets.VBox([self._picture.widget, self._summary])
        right.add_class("skilllab-view")
        style = (files("skilllab.panels") / "panel.css").read_text(encoding="utf-8")
        both = widgets.HBox([left, right, _html("skilllab-style", f"<style>{style}</style>")])
        both.add_class("skilllab-panel")
        return both

    def _repr_mimebundle_(
        self, include: object = None, exclude: object = None
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """Widgets for a notebook that runs, and for a page that does not: the picture as it is now, and its summary."""
        self.settle()
        image = base64.b64encode(self._picture.png).decode("ascii")
        bundle = {**self.widget._repr_mimebundle_(), "image/png": image, "text/plain": self._text}
        return bundle, {"image/png": {"width": int(self._picture.widget.width), "alt": self._text}}


def _html(name: str, content: str = "") -> widgets.HTML:
    made = widgets.HTML(content)
    made.add_class(name)
    return made


def _running_loop() -> asyncio.AbstractEventLoop | None:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None
