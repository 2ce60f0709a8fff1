"""Virtual time: an event loop whose clock jumps to its next timer, so that ten seconds take as long as their work."""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

T = TypeVar("T")

_TURN = (
    1e-6  # s that a turn of the loop takes at least: a timer that fires a rounding error early must not do so forever
)


class VirtualLoop(asyncio.SelectorEventLoop):
    """An event loop in virtual time, from 0 on; for tasks and timers only, since nothing outside of it would be waited for."""

    def __init__(self) -> None:
        self._jumps = _Jumps()
        super().__init__(self._jumps)

    def time(self) -> float:
        """Returns the virtual time in seconds."""
        return self._jumps.now


class _Jumps(selectors.SelectSelector):
    """Waits for nobody: moves the clock forward by as much as it was to wait."""

    now = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        ready = super().select(0)
        if timeout is None and not ready:
            raise RuntimeError("nothing is due in virtual time: a task waits for what will never happen")
        self.now += _TURN if ready else max(_TURN, timeout or 0.0)
        return ready


def in_virtual_time(main: Callable[[], Coroutine[Any, Any, T]]) -> T:
    """Runs `main()` on a VirtualLoop and returns what it returns.

    It has a thread of its own, because the caller's may have a loop that runs. Raises what `main` raises, and
    RuntimeError when all of its tasks wait and no timer is set.
    """

    def run() -> T:
        with asyncio.Runner(loop_factory=VirtualLoop) as runner:
            return runner.run(main())

    with ThreadPoolExecutor(1, "skilllab-virtual-time") as thread:
        return thread.submit(run).result()
