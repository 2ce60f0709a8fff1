"""Time that moves when told, for a server's queue."""

from __future__ import annotations

import heapq
from collections.abc import Callable

import pytest

from skilllab.testing import FakeClock


class _Timer:
    def __init__(self, function: Callable[[], None]) -> None:
        self.function = function
        self.cancelled = False

    def cancel(self) -> None:
        self.cancelled = True


class FakeTime:
    """A clock with timers, which may fire `late` seconds after the moment that they were set for."""

    def __init__(self, late: float = 0.0) -> None:
        self.clock = FakeClock()
        self.late = late
        self._timers: list[tuple[float, int, _Timer]] = []
        self._number = 0

    def call_later(self, delay: float, function: Callable[[], None]) -> _Timer:
        timer = _Timer(function)
        self._number += 1
        heapq.heappush(self._timers, (self.clock.now + delay + self.late, self._number, timer))
        return timer

    @property
    def waiting(self) -> int:
        """Timers that will fire."""
        return sum(not timer.cancelled for _, _, timer in self._timers)

    def run_until(self, moment: float) -> None:
        """Fires every timer due by then, each at its moment, and leaves the clock there."""
        while self._timers and self._timers[0][0] <= moment:
            due, _, timer = heapq.heappop(self._timers)
            if not timer.cancelled:
                self.clock.now = max(self.clock.now, due)
                timer.function()
        self.clock.now = max(self.clock.now, moment)

    def run(self) -> None:
        """Fires timers until none is left."""
        while self._timers:
            self.run_until(self._timers[0][0])


@pytest.fixture(scope="session")
def fake_time() -> type[FakeTime]:
    """The class, since a property test makes one for each example."""
    return FakeTime
