"""ConnectionPool: a few connections, opened when needed, each leased to one caller at a time."""

from __future__ import annotations

import asyncio
import math
import time
from collections import deque
from collections.abc import Callable, Coroutine
from types import TracebackType
from typing import Any, NamedTuple

from skilllab.engine.connections import Connector
from skilllab.errors import InvalidValueError, LeaseError
from skilllab.settings import POOL_IDLE, POOL_SIZE

_NONE = object()
"""No connection: a place in the pool for which one is still to be opened."""


class PoolStatistics(NamedTuple):
    """What a ConnectionPool did so far.

    opened, closed: connections, ever. in_use: places that are taken by a lease, or by cleaning up after one. idle: open
    connections that nobody uses. waited: leases that found no free place. wait_seconds: how long these waited, together.
    """

    opened: int
    closed: int
    in_use: int
    idle: int
    waited: int
    wait_seconds: float


class ConnectionPool:
    """Leases connections, at most `max_size` at once; who comes first is served first.

    open: makes a connection. close: ends one. reset: makes a used one as new, after each lease; when it raises, the
    connection is closed and replaced. Without it a connection whose user failed or was cancelled is replaced. check: says
    whether one that was used before still works; if not, or if it raises, it is replaced. Each of the four is async, or
    plain and then runs in a thread (for sqlite3: check_same_thread=False). max_idle: seconds that an unused connection
    is kept; None keeps it, 0 keeps none, so that each lease opens one: the pool is off. clock: seconds that only grow.
    A lease that is cancelled leaves its place, or the connection that is being opened for it, to the next.
    A pool belongs to the event loop that first uses it; an engine closes the pools that it was given.
    """

    def __init__(
        self,
        open: Callable[[], Any],
        *,
        max_size: int = POOL_SIZE,
        close: Callable[[Any], Any] | None = None,
        reset: Callable[[Any], Any] | None = None,
        check: Callable[[Any], Any] | None = None,
        max_idle: float | None = POOL_IDLE,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        if type(max_size) is not int or max_size < 1:
            raise InvalidValueError(f"max_size={max_size!r} must be a whole number of at least 1")
        if max_idle is not None and (type(max_idle) not in (int, float) or not 0 <= max_idle < math.inf):
            raise InvalidValueError(f"max_idle={max_idle!r} must be seconds of at least 0, or None to keep connections")
        self._connector = Connector(open, close, reset, check, max_size)
        self._max_size = max_size
        self._max_idle = math.inf if max_idle is None else max_idle
        self._clock = clock
        self._free = max_size  # places; idle connections are never more
        self._idle: deque[tuple[Any, float]] = deque()  # the longest unused first
        self._waiting: deque[asyncio.Future[Any]] = deque()
        self._tasks: set[asyncio.Task[Any]] = set()
        self._opening: set[asyncio.Task[Any]] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._closed = False
        self._waited = 0
        self._wait_seconds = 0.0

    def lease(self) -> Lease:
        """Returns a lease: `async with pool.lease() as connection`.

        Raises LeaseError when the pool is closed, and from the error of `open` when that failed.
        """
        return Lease(self)

    def statistics(self) -> PoolStatistics:
        """Returns a snapshot of the counters."""
        return PoolStatistics(
            self._connector.opened,
            self._connector.closed,
            self._max_size - self._free,
            len(self._idle),
            self._waited,
            self._wait_seconds,
        )

    async def aclose(self) -> None:
        """Refuses further leases and closes every connection: an idle one now, a leased one as soon as it comes back.

        Waits for connections that are being reset or closed; those that are being opened are given up.
        """
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()
        while self._waiting:
            _tell(self._waiting.popleft(), error=LeaseError("the pool was closed while it was waited for"))
        for task in self._opening:
            task.cancel()
        self._close_idle(math.inf)
        while self._tasks:
            await asyncio.wait(self._tasks)
        await self._connector.aclose()

    # taking

    async def _take(self) -> Any:
        if self._closed:
            raise LeaseError("the pool is closed")
        if self._idle:
            self._close_idle(self._clock() - self._max_idle)
        if self._free:
            self._free -= 1
            connection = self._idle_one()
        else:
            connection = await self._wait()
            if self._closed:  # after the place was given, before it was taken
                self._give(connection)
                raise LeaseError("the pool is closed")
        if connection is not _NONE and not self._connector.checks:
            return connection
        return await self._result(self._task(self._usable(connection)))

    async def _result(self, task: asyncio.Task[Any]) -> Any:
        """Returns the connection that a task gets for a place; the place is kept only if it got one that is taken."""
        self._opening.add(task)
        task.add_done_callback(self._opening.discard)
        try:
            await asyncio.wait((task,))
        except asyncio.CancelledError:
            task.add_done_callback(self._reclaim)
            raise
        try:
            return task.result()
        except asyncio.CancelledError:
            self._give(_NONE)
            raise LeaseError("the pool was closed, or opening was cancelled, before there was a connection") from None
        except LeaseError:
            self._give(_NONE)
            raise
        finally:
            del task  # an error's traceback holds this frame: it must not hold the error in turn

    async def _wait(self) -> Any:
        """Returns what the next place holds: a connection, or none as yet."""
        future = asyncio.get_running_loop().create_future()
        self._waiting.append(future)
        self._waited += 1
        begin = self._clock()
        try:
            return await future
        except asyncio.CancelledError:
            if future.done() and not future.cancelled() and future.exception() is None:
                self._give(future.result())
            else:
                self._forget(future)
            raise
        finally:
            self._wait_seconds += self._clock() - begin
            del future  # an error's traceback holds this frame: it must not hold the error in turn

    async def _usable(self, connection: Any) -> Any:
        """Returns the connection if it still works, else another idle one that does, else a new one."""
        while connection is not _NONE:
            if await self._connector.works(connection):
                return connection
            await self._connector.close(connection)
            connection = self._idle_one()
        return await self._connector.open()

    def _idle_one(self) -> Any:
        """Returns the connection that was used last, since it is the likeliest to work."""
        return self._idle.pop()[0] if self._idle else _NONE

    # giving back

    async def _give_back(self, connection: Any, failed: bool) -> None:
        if not self._connector.resets and self._keeps(failed):
            self._give(connection)
        else:
            await asyncio.wait((self._task(self._clean(connection, failed)),))

    async def _clean(self, connection: Any, failed: bool) -> None:
        keeps = self._keeps(failed) and await self._connector.renew(connection)
        if keeps and not self._closed:
            self._give(connection)
        else:
            await self._drop(connection)

    def _keeps(self, failed: bool) -> bool:
        return not self._closed and self._max_idle > 0 and (self._connector.resets or not failed)

    def _give(self, connection: Any) -> None:
        """Gives a place, with its connection if it has one, to who waits longest, or frees it."""
        if self._closed and connection is not _NONE:
            self._task(self._clean(connection, True))
            return
        while self._waiting:
            future = self._waiting.popleft()
            if _tell(future, connection):
                return
        self._free += 1
        if connection is not _NONE:
            self._idle.append((connection, self._clock()))
            self._watch_idle()

    def _reclaim(self, task: asyncio.Task[Any]) -> None:
        """Takes back the place of a lease that was cancelled before it had its connection."""
        failed = task.cancelled() or task.exception() is not None
        self._give(_NONE if failed else task.result())

    def _forget(self, future: asyncio.Future[Any]) -> None:
        if future in self._waiting:
            self._waiting.remove(future)

    # closing

    def _watch_idle(self) -> None:
        if self._timer is None and self._max_idle < math.inf:
            oldest = self._idle[0][1]
            delay = max(0.0, self._max_idle - (self._clock() - oldest))
            self._timer = asyncio.get_running_loop().call_later(delay, self._reap)

    def _reap(self) -> None:
        self._timer = None
        self._close_idle(self._clock() - self._max_idle)
        if self._idle:
            self._watch_idle()

    def _close_idle(self, until: float) -> None:
        """Closes the connections that nobody used after `until`."""
        while self._idle and self._idle[0][1] <= until:
            connection, _ = self._idle.popleft()
            self._free -= 1  # its place is taken until it is closed
            self._task(self._drop(connection))

    async def _drop(self, connection: Any) -> None:
        await self._connector.close(connection)
        self._give(_NONE)

    def _task(self, coroutine: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        """Runs in a task of the pool's own what must come to its end although the lease is cancelled."""
        task = asyncio.get_running_loop().create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task


class Lease:
    """One lease of a connection; to be used once, with `async with`."""

    __slots__ = ("_connection", "_pool")

    def __init__(self, pool: ConnectionPool) -> None:
        self._pool = pool
        self._connection: Any = _NONE

    async def __aenter__(self) -> Any:
        self._connection = await self._pool._take()
        return self._connection

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        connection, self._connection = self._connection, _NONE
        await self._pool._give_back(connection, failed=kind is not None)


def _tell(future: asyncio.Future[Any], result: Any = None, error: Exception | None = None) -> bool:
    """Ends the waiting of a lease; False when it was cancelled before."""
    if future.done():
        return False
    if error is not None:
        future.set_exception(error)
    else:
        future.set_result(result)
    return True
