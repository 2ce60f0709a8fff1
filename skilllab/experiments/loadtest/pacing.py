"""Pacing: waits until the moment a request is due, to a fraction of a millisecond.

An event loop rounds its waits up to whole milliseconds. A timerfd (Linux) wakes it when the time has come: start lag at
p99 falls from 1.5 to 0.5 ms at 1,000 arrivals a second (tests/bench/bench_pacing.py), for 2 % of a processor. One that idles
still wakes 0.1 to 0.4 ms late, so that the timer is set a little early and the loop turns until the moment is there: at 100
arrivals a second the typical lag falls from 160 to 13 µs for another 3 % of a processor; 10 % is the most it can cost.
"""

from __future__ import annotations

import asyncio
import ctypes
import functools
import os
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from types import TracebackType
from typing import Any, Protocol, Self

_EARLY = (0.1, 5e-4)  # how early a timer is set: this share of the wait, and at most so many seconds
_ALIKE = 0.05  # s by which two readings of one clock differ at most; a clock of its own is further away
_FLAGS = os.O_CLOEXEC | os.O_NONBLOCK  # as TFD_CLOEXEC and TFD_NONBLOCK are (timerfd_create(2))
_ABSOLUTE = 1  # TFD_TIMER_ABSTIME
_NANO = 1_000_000_000


class Pacer(Protocol):
    """Waits for moments of the event loop's clock, for one task at a time."""

    async def until(self, at: float) -> None:
        """Returns when `loop.time()` has reached `at`: at once when it has."""

    def close(self) -> None: ...

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


def pacer() -> Pacer:
    """Returns the finest pacer for the running event loop: a timerfd where there is one, else the loop's own timers.

    A loop with a clock of its own (virtual time, say) has its own timers.
    """
    loop = asyncio.get_running_loop()
    if _timers() is None or abs(loop.time() - time.monotonic()) > _ALIKE:
        return LoopPacer(loop)
    return TimerPacer(loop)


class _Pacing(ABC):
    """What both have in common: what is due already comes at once, and closing."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._clock: Callable[[], float] = loop.time

    async def until(self, at: float) -> None:
        if at > self._clock():
            await self._wait(at)

    @abstractmethod
    async def _wait(self, at: float) -> None:
        """Waits until `at`, which is not yet, in seconds of the loop's clock."""

    def close(self) -> None:  # noqa: B027 - most hold nothing
        """Gives back what the pacer holds."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class LoopPacer(_Pacing):
    """Waits with the timers of the event loop, which are up to a millisecond late."""

    async def _wait(self, at: float) -> None:
        waiter = self._loop.create_future()
        timer = self._loop.call_at(at, _wake, waiter)
        try:
            await waiter
        finally:
            timer.cancel()


class TimerPacer(_Pacing):
    """Waits with a timerfd that the event loop watches; raises OSError where there is none."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(loop)
        timers = _timers()
        if timers is None:
            raise OSError("this system has no timerfd: use LoopPacer")
        self._timers = timers
        self._waiter: asyncio.Future[None] | None = None
        self._descriptor: int | None = timers.create()
        loop.add_reader(self._descriptor, self._fired, self._descriptor)

    async def _wait(self, at: float) -> None:
        assert self._descriptor is not None
        self._waiter = self._loop.create_future()
        share, most = _EARLY
        self._timers.set(self._descriptor, at - min(share * (at - self._clock()), most))
        await self._waiter
        while self._clock() < at:  # noqa: ASYNC110 - the clock tells nobody
            await asyncio.sleep(0)

    def _fired(self, descriptor: int) -> None:
        try:
            os.read(descriptor, 8)
        except BlockingIOError:  # set anew since it fired
            return
        if self._waiter is not None:
            _wake(self._waiter)

    def close(self) -> None:
        """Closes the timer."""
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:
            self._loop.remove_reader(descriptor)
            os.close(descriptor)


def _wake(waiter: asyncio.Future[None]) -> None:
    if not waiter.done():
        waiter.set_result(None)


class _Time(ctypes.Structure):
    _fields_ = (("seconds", ctypes.c_long), ("nanoseconds", ctypes.c_long))


class _Setting(ctypes.Structure):
    _fields_ = (("interval", _Time), ("value", _Time))


class _Timers:
    """timerfd_create and timerfd_settime of the C library, which Python offers from 3.13 on only."""

    def __init__(self, library: Any) -> None:
        self._create, self._set = library.timerfd_create, library.timerfd_settime

    def create(self) -> int:
        """Returns the descriptor of a new timer of the monotonic clock."""
        return int(self._checked(self._create(time.CLOCK_MONOTONIC, _FLAGS)))

    def set(self, descriptor: int, at: float) -> None:
        """Has a timer fire once, at a moment of the monotonic clock in seconds."""
        seconds, nanoseconds = divmod(max(1, round(at * _NANO)), _NANO)
        setting = _Setting(_Time(0, 0), _Time(seconds, nanoseconds))
        self._checked(self._set(descriptor, _ABSOLUTE, ctypes.byref(setting), None))

    @staticmethod
    def _checked(status: int) -> int:
        if status < 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number))
        return status


@functools.cache
def _timers() -> _Timers | None:
    """Returns the system's timers, None where it has none."""
    if not sys.platform.startswith("linux"):
        return None
    try:
        return _Timers(ctypes.CDLL(None, use_errno=True))
    except (OSError, AttributeError):
        return None
