"""Listeners: who hears of which event. What a listener does wrong never reaches the execution that it listens to."""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections.abc import Callable
from typing import Any

from skilllab.errors import InvalidValueError
from skilllab.outcome import EVENT_NAMES, Event

Listener = Callable[[Any], object]
_log = logging.getLogger("skilllab.engine")


class Listeners:
    """The callbacks of one kind of event, in the order in which they came; `callbacks` is () while there are none."""

    __slots__ = ("callbacks",)

    def __init__(self) -> None:
        self.callbacks: tuple[Listener, ...] = ()

    def add(self, callback: Listener) -> Callable[[], None]:
        """Adds a callback and returns the function that removes it, which does nothing the second time."""
        if not callable(callback) or any(map(inspect.iscoroutinefunction, (callback, type(callback).__call__))):
            raise InvalidValueError(
                f"callback={callback!r} must be a plain function of one event; for longer work, let it start a task"
            )
        self.callbacks = (*self.callbacks, callback)
        added = [callback]

        def remove() -> None:
            if added:
                kept = list(self.callbacks)
                kept.remove(added.pop())
                self.callbacks = tuple(kept)

        return remove

    def tell(self, event: Event) -> None:
        """Calls every callback; a failing one is logged, and the others still hear."""
        for callback in self.callbacks:
            try:
                callback(event)
            except (Exception, asyncio.CancelledError):  # noqa: BLE001 - a listener's failure is not the execution's
                self.failed(event)

    def failed(self, event: Event) -> None:
        """Logs the failure of a callback, from where it is handled."""
        _log.exception("a listener to %s failed; the execution goes on", event[0])


def all_listeners() -> dict[str, Listeners]:
    """Returns empty listeners for each kind of event."""
    return {name: Listeners() for name in EVENT_NAMES}
