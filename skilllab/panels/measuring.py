"""MeasuringPanel: a panel with a button that starts and stops one long measurement of what its controls say."""

from __future__ import annotations

import asyncio
from abc import abstractmethod
from collections.abc import Hashable
from typing import Any, Generic, TypeVar

import ipywidgets as widgets

from skilllab.errors import SkilllabError
from skilllab.panels.panel import Panel

Key = TypeVar("Key", bound=Hashable)
Found = TypeVar("Found")


class MeasuringPanel(Panel, Generic[Key, Found]):
    """A panel whose `.run` button measures what `_chosen` returns and keeps it in `_measured`; at most one run at a time.

    To be overridden: `_chosen`, `_on_progress` (given to `measure`), and `_starting`, the words until the first progress.
    `_end` ends a run whose Stop was pressed: it cancels it, unless overridden.
    `_may_draw` is to be called before each picture: it raises what a run failed with, and ends a run of other values.
    """

    _starting = "starting …"
    _begin = "Run"  # what the button says while nothing runs

    def _prepare(self, measure: Any) -> None:
        """Sets what a first picture needs; to be called before the panel's own __init__."""
        self._measure = measure
        self._measured: dict[Key, Found] = {}
        self._task: asyncio.Task[None] | None = None
        self._running: Key | None = None
        self._failure: SkilllabError | None = None

    def _add_run_button(self, tooltip: str) -> None:
        """Puts the button and what shows its progress above the picture."""
        self.run = widgets.Button(description=self._begin, tooltip=tooltip)
        self.run.on_click(lambda _: self._hand_over())
        self._progress = widgets.FloatProgress(max=1.0, layout={"width": "180px", "visibility": "hidden"})
        self._status = widgets.HTML()
        bar = widgets.HBox(
            [self.run, self._progress, self._status], layout={"align_items": "center", "overflow": "visible"}
        )
        right = self.widget.children[1]
        right.children = (bar, *right.children)

    @abstractmethod
    def _chosen(self) -> Key:
        """Returns what the controls say, to be measured."""

    @abstractmethod
    def _on_progress(self, *told: Any) -> None:
        """Shows how far a run is; called by what measures."""

    def _may_draw(self, chosen: Key) -> None:
        if self._failure is not None:
            failure, self._failure = self._failure, None
            raise failure
        if self._task is not None and chosen != self._running:
            self._task.cancel()

    def _hand_over(self) -> None:
        """Starts or stops a run on the loop; without one, runs to the end."""
        if self._loop is not None and self._loop.is_running():
            self._loop.call_soon_threadsafe(self._start_or_stop)
        else:
            asyncio.run(self._run(self._chosen()))

    def _start_or_stop(self) -> None:
        if self._task is not None:
            self._end(self._task)
            return
        try:
            chosen = self._chosen()
        except SkilllabError:  # the picture says so already
            return
        assert self._loop is not None
        self._running = chosen  # before the task begins: a picture that is still pending must find it
        self._task = self._loop.create_task(self._run(chosen))
        self._task.add_done_callback(self._ended)  # of a task that was cancelled before it began nothing else is heard

    async def start(self) -> None:
        """Runs what the controls say, as a press of the button does, and returns when that has ended; one run at a time."""
        self._loop = asyncio.get_running_loop()
        if self._task is None:
            self._start_or_stop()
        if self._task is not None:
            await asyncio.wait({self._task})

    def _end(self, task: asyncio.Task[None]) -> None:
        """Ends a run whose Stop was pressed."""
        task.cancel()

    async def _run(self, chosen: Key) -> None:
        self._running = chosen
        self._show_progress("Stop", self._starting)
        try:
            self._measured[chosen] = await self._measure(chosen, on_progress=self._on_progress)
        except Exception as failure:  # noqa: BLE001 - one of the user's own code would reach nobody else
            told = f"{type(failure).__name__}: {failure}"
            self._failure = failure if isinstance(failure, SkilllabError) else SkilllabError(told)
        finally:
            self._ended(self._task)

    def _ended(self, task: asyncio.Task[None] | None) -> None:
        """Makes ready for the next run, once for each."""
        if task is self._task:
            self._task = self._running = None
            self._show_progress(self._begin, "")
            self._changed()

    def _show_progress(self, button: str, status: str, share: float = 0.0) -> None:
        self.run.description = button
        self._progress.layout.visibility = "visible" if status else "hidden"
        self._progress.value = share
        self._status.value = f'<span role="status">{status}</span>' if status else ""
