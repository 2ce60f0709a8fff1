"""What the tests of the panels share: a stand-in for what takes long, and the turns of a loop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from skilllab.errors import SkilllabError


class Measuring:
    """Stands in for what takes long: tells how far it is, waits until told to go on, and returns what it has found.

    half: what it tells of a setting meanwhile. found: what it returns for it, unless there is a failure to raise.
    """

    def __init__(
        self, half: Callable[[Any], Any], found: Callable[[Any], Any], failure: SkilllabError | None = None
    ) -> None:
        self._half = half
        self._found = found
        self.asked: list[Any] = []
        self.started = asyncio.Event()
        self.go_on = asyncio.Event()
        self.failure = failure
        self.cancelled = 0

    async def __call__(self, setting: Any, *, on_progress: Any) -> Any:
        self.asked.append(setting)
        on_progress(*self._half(setting))
        self.started.set()
        try:
            await self.go_on.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        if self.failure is not None:
            raise self.failure
        return self._found(setting)


async def turns(number: int = 5) -> None:
    """Lets the loop do what was handed over to it."""
    for _ in range(number):
        await asyncio.sleep(0)


@pytest.fixture(autouse=True)
def _no_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    """A change is drawn in the next turns of the loop."""
    monkeypatch.setattr("skilllab.panels.panel._REST", 0.0)
