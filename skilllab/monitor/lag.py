"""Event-loop lag: how late a timer wakes, which is how long everything else on the loop has to wait."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from contextlib import AbstractContextManager

from skilllab.histogram import Histogram
from skilllab.monitor.tally import SLOTS

PERIOD = 0.02
"""Seconds between two looks: a step that holds up the loop for longer is always seen, for a thousandth of a core."""

LOOK = 5
"""Wake-ups from one look at what is under way to the next."""


class LoopLag:
    """Measures one event loop while it is on; a wake-up is late by about a millisecond even when nothing is in its way.

    slot: the number of the window's slot under way. lock: held while something is noted. look: called at every fifth wake-up.
    """

    def __init__(
        self, slot: Callable[[], int], lock: AbstractContextManager[object], look: Callable[[], object]
    ) -> None:
        self.whole = Histogram()
        self._slots: deque[tuple[int, Histogram]] = deque(maxlen=SLOTS)
        self._slot, self._look = slot, look
        self._lock = lock  # a histogram is for one thread at a time
        self._loop: asyncio.AbstractEventLoop | None = None
        self._timer: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Measures the running loop from now on, and no other; once is enough."""
        loop = asyncio.get_running_loop()
        if self._loop is not loop:
            self.stop()
            self._loop = loop
            self._plan(loop)

    def stop(self) -> None:
        """Ends it."""
        if self._timer is not None:
            self._timer.cancel()
        self._loop = self._timer = None

    def recent(self) -> Histogram:
        """Returns the lags of the window, which moves in slots."""
        found, first = Histogram(), self._slot() - SLOTS
        for number, lags in self._slots:
            if number > first:
                found.merge(lags)
        return found

    def _plan(self, loop: asyncio.AbstractEventLoop) -> None:
        due = loop.time() + PERIOD
        self._timer = loop.call_at(due, self._wake, loop, due)

    def _wake(self, loop: asyncio.AbstractEventLoop, due: float) -> None:
        lag = max(0.0, loop.time() - due)
        with self._lock:
            self.whole.record(lag)
            number = self._slot()
            if not self._slots or self._slots[-1][0] != number:
                self._slots.append((number, Histogram()))
            self._slots[-1][1].record(lag)
            if not self.whole.count % LOOK:
                self._look()
        self._plan(loop)
