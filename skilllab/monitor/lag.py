"""Event-loop lag: how late a timer wakes, which is how long everything else on the loop has to wait."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from contextlib import AbstractContextManager

from skilllab.histogram import Histogram

PERIOD = 0.02
"""Seconds between two looks: a step that holds up the loop for longer is always seen, for a thousandth of a core."""

LOOK = 5
"""Wake-ups from one look at what is under way to the next."""

_RECENT = 3000  # lags that are kept one by one: those of the last minute


class LoopLag:
    """Measures one event loop while it is on; a wake-up is late by about a millisecond even when nothing is in its way.

    look: called at every fifth wake-up. lock: held while something is noted.
    """

    def __init__(
        self, clock: Callable[[], float], lock: AbstractContextManager[object], look: Callable[[], object]
    ) -> None:
        self.whole = Histogram()
        self._recent: deque[tuple[float, float]] = deque(maxlen=_RECENT)
        self._clock, self._lock = clock, lock  # a histogram is for one thread at a time
        self._look = look
        self._timer: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Measures the running loop from now on; once is enough."""
        if self._timer is None:
            self._plan(asyncio.get_running_loop())

    def stop(self) -> None:
        """Ends it."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def recent(self, since: float) -> Histogram:
        """Returns the lags since a time of the clock."""
        return Histogram([lag for time, lag in self._recent if time >= since])

    def _plan(self, loop: asyncio.AbstractEventLoop) -> None:
        due = loop.time() + PERIOD
        self._timer = loop.call_at(due, self._wake, loop, due)

    def _wake(self, loop: asyncio.AbstractEventLoop, due: float) -> None:
        lag = max(0.0, loop.time() - due)
        with self._lock:
            self.whole.record(lag)
            self._recent.append((self._clock(), lag))
            if not self.whole.count % LOOK:
                self._look()
        self._plan(loop)
