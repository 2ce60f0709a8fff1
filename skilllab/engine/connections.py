"""Connector: how the connections of a pool are opened, checked, made as new and closed."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable
from typing import Any

from skilllab.engine.threads import Threads
from skilllab.errors import InvalidValueError, LeaseError

_ERRORS = (Exception, SystemExit)
"""What foreign functions may raise: none of it may end a task of the pool, and with it a place."""


class Connector:
    """Four functions, each async or plain and then run in one of `max_threads` threads; all but `open` may be None.

    opened, closed: connections, ever.
    """

    def __init__(
        self,
        open: Callable[[], Any],
        close: Callable[[Any], Any] | None,
        reset: Callable[[Any], Any] | None,
        check: Callable[[Any], Any] | None,
        max_threads: int,
    ) -> None:
        for name, function in (("open", open), ("close", close), ("reset", reset), ("check", check)):
            if not callable(function) and (function is not None or name == "open"):
                raise InvalidValueError(f"{name}={function!r} must be a function")
        self._open = open
        self._close = close
        self._reset = reset
        self._check = check
        self._threads = Threads(max_threads, "skilllab-pool")
        self.opened = self.closed = 0

    @property
    def checks(self) -> bool:
        """Whether a used connection has to prove that it works."""
        return self._check is not None

    @property
    def resets(self) -> bool:
        """Whether a used connection can be made as new."""
        return self._reset is not None

    async def open(self) -> Any:
        """Returns a new connection; raises LeaseError from the error with which that failed."""
        try:
            connection = await self._call(self._open, after=self._close_late)
        except _ERRORS as error:
            raise LeaseError(f"no connection could be opened: {type(error).__qualname__}: {error}") from error
        self.opened += 1
        return connection

    async def works(self, connection: Any) -> bool:
        """Returns whether a connection still works; a check that fails says that it does not."""
        try:
            return self._check is None or bool(await self._call(self._check, connection))
        except _ERRORS:
            return False

    async def renew(self, connection: Any) -> bool:
        """Makes a used connection as new; returns whether that could be done."""
        try:
            if self._reset is not None:
                await self._call(self._reset, connection)
        except _ERRORS:
            return False
        return True

    async def close(self, connection: Any) -> None:
        """Closes a connection; an error is told to the loop, since the call that used the connection did not fail."""
        self.closed += 1
        if self._close is None:
            return
        try:
            await self._call(self._close, connection)
        except _ERRORS as error:
            told = {"message": "a connection could not be closed by its pool", "exception": error}
            asyncio.get_running_loop().call_exception_handler(told)

    async def aclose(self) -> None:
        """Ends the threads."""
        await self._threads.aclose()

    async def _call(
        self, function: Callable[..., Any], *args: Any, after: Callable[[Any], object] | None = None
    ) -> Any:
        if inspect.iscoroutinefunction(function):
            return await function(*args)
        answer = await self._threads.call(function, *args, after=after)
        return await answer if inspect.isawaitable(answer) else answer

    def _close_late(self, connection: Any) -> None:
        """Closes, in its thread, what was opened for a pool that was closed meanwhile."""
        if self._close is not None and not inspect.iscoroutinefunction(self._close):
            self._close(connection)
