"""What stands between a call and its run: concurrency limits and circuit breakers."""

from __future__ import annotations

import asyncio
import sys
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, Self

from skilllab import format as fmt
from skilllab import settings
from skilllab.errors import CircuitOpenError, ExecutionError, InvalidValueError, QueueFullError, SkillFailedError
from skilllab.model import LAYERS

_FILES = (FileNotFoundError, FileExistsError, PermissionError, IsADirectoryError, NotADirectoryError)
State = Literal["closed", "open", "half-open"]


@dataclass(frozen=True, slots=True)
class GuardOptions:
    """How an engine guards executions; None turns a guard off.

    timeout: seconds a caller waits, queue and retries included. concurrency: executions of the engine at once;
    layer_concurrency: by layer (1, 2, 3); skill_concurrency: of each skill that sets no max_concurrency of its own.
    queue_size: calls that may wait for a place of one limit. breaker_failures: failures in a row that open the breaker
    of a skill, for breaker_recovery seconds.
    """

    timeout: float | None = settings.TIMEOUT
    concurrency: int | None = settings.ENGINE_CONCURRENCY
    layer_concurrency: Mapping[int, int] = field(default_factory=dict)
    skill_concurrency: int | None = None
    queue_size: int = settings.QUEUE_SIZE
    breaker_failures: int | None = settings.BREAKER_FAILURES
    breaker_recovery: float = settings.BREAKER_RECOVERY

    def __post_init__(self) -> None:
        checked_seconds("timeout", self.timeout)
        for name in ("concurrency", "skill_concurrency", "breaker_failures"):
            if getattr(self, name) is not None:
                checked_count(name, getattr(self, name))
        for layer, limit in self.layer_concurrency.items():
            if layer not in LAYERS:
                raise InvalidValueError(f"layer_concurrency has layer {layer!r}: layers are 1, 2 and 3")
            checked_count(f"layer_concurrency[{layer}]", limit)
        checked_count("queue_size", self.queue_size, least=0)
        if checked_seconds("breaker_recovery", self.breaker_recovery) is None:
            raise InvalidValueError(
                "breaker_recovery=None would never try again: give seconds, or breaker_failures=None"
            )


def checked_count(name: str, value: Any, *, least: int = 1) -> int:
    """Returns a whole number of at least `least`; raises InvalidValueError for anything else."""
    if type(value) is not int or value < least:
        raise InvalidValueError(f"{name}={value!r} must be a whole number of at least {least}")
    return value


def checked_seconds(name: str, value: Any) -> float | None:
    """Returns a number of seconds above 0, or None; raises InvalidValueError for anything else."""
    if value is not None and (
        isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= sys.float_info.max
    ):
        raise InvalidValueError(f"{name}={value!r} must be a number of seconds above 0, or None for no end")
    return None if value is None else float(value)


class LimitStatistics(NamedTuple):
    """A moment of a ConcurrencyLimit: places, executions that hold one, calls that wait."""

    limit: int
    in_flight: int
    waiting: int


class ConcurrencyLimit:
    """A number of places, given first come first served to at most `queue_size` who wait; for one event loop.

    name: what is limited, for messages.
    """

    __slots__ = ("free", "limit", "name", "queue_size", "waiting")

    def __init__(self, limit: int, queue_size: int = settings.QUEUE_SIZE, name: str = "calls") -> None:
        self.limit = checked_count("limit", limit)
        self.queue_size = checked_count("queue_size", queue_size, least=0)
        self.name = name
        self.free = limit
        """Places nobody holds; below 0 after the limit was lowered. Who finds it above 0 may take one at once."""
        self.waiting: OrderedDict[asyncio.Future[None], None] = OrderedDict()  # who leaves it may stand anywhere

    async def acquire(self) -> None:
        """Takes a place, waiting for one if need be; raises QueueFullError when too many wait already."""
        if self.free > 0:
            self.free -= 1
            return
        if len(self.waiting) >= self.queue_size:
            raise QueueFullError(
                f"{self.name}: all {self.limit} places are taken and {len(self.waiting)} calls wait, which is all that "
                "may (queue_size): ask for less at once, or raise the limit if the machine bears it",
                limit=self.limit,
                waiting=len(self.waiting),
            )
        place = asyncio.get_running_loop().create_future()
        self.waiting[place] = None
        try:
            await place
        except BaseException:
            if place.done() and not place.cancelled():
                self.release()  # the place was handed over in the same turn: pass it on
            else:
                self.waiting.pop(place, None)
            raise

    def release(self) -> None:
        """Gives a place back, to the first who waits if there is one."""
        self.free += 1
        if self.waiting:
            self._hand_over()

    def resize(self, limit: int) -> None:
        """Changes the number of places; who holds one keeps it, so that fewer take effect as executions end."""
        self.free += checked_count("limit", limit) - self.limit
        self.limit = limit
        self._hand_over()

    def statistics(self) -> LimitStatistics:
        """Returns how many places there are, are held and are waited for."""
        return LimitStatistics(self.limit, self.limit - self.free, len(self.waiting))

    def _hand_over(self) -> None:
        while self.waiting and self.free > 0:
            place, _ = self.waiting.popitem(last=False)
            if not place.done():
                self.free -= 1
                place.set_result(None)

    async def __aenter__(self) -> Self:
        await self.acquire()
        return self

    async def __aexit__(self, *_: object) -> None:
        self.release()


class CircuitBreaker:
    """Refuses calls to what failed too often, and after a while lets exactly one through to see (Nygard 2007).

    failure_threshold: failures in a row that open it. recovery_time: seconds until the probe. clock: seconds that only
    grow. on_change: called with (state before, state after). Use `with breaker.guard(): ...`, or `admit` and `report`.
    """

    __slots__ = (
        "_clock",
        "_on_change",
        "_probing",
        "_reopens",
        "_ticket",
        "failures",
        "name",
        "recovery_time",
        "state",
        "threshold",
    )

    def __init__(
        self,
        failure_threshold: int = settings.BREAKER_FAILURES,
        recovery_time: float = settings.BREAKER_RECOVERY,
        *,
        clock: Callable[[], float] = time.monotonic,
        on_change: Callable[[State, State], object] | None = None,
        name: str = "the call",
    ) -> None:
        self.threshold = checked_count("failure_threshold", failure_threshold)
        self.recovery_time = recovery_time
        if checked_seconds("recovery_time", recovery_time) is None:
            raise InvalidValueError("recovery_time=None would never try again: give seconds")
        self.name = name
        self.state: State = "closed"
        self._clock = clock
        self._on_change = on_change
        self.failures = 0
        """Failures in a row."""
        self._reopens = 0.0  # when an open breaker lets its probe through
        self._probing = False
        self._ticket = 0  # a report counts only if the breaker did not change since its admission

    def admit(self) -> int:
        """Returns the ticket with which to `report`; raises CircuitOpenError while it is open or being probed."""
        if self.state != "closed":
            self.check()
            if self.state == "open":
                self._change("half-open")
            self._probing = True
            self._ticket += 1
        return self._ticket

    def check(self) -> None:
        """Raises CircuitOpenError if a call would be refused now; admits none."""
        left = self._reopens - self._clock() if self.state == "open" else 0.0
        if left > 0 or self._probing:
            when = f"it is tried again in {fmt.duration(left)}" if left > 0 else "one call is trying it now"
            raise CircuitOpenError(
                f"{self.name}: refused, since it failed {self.failures} times in a row; {when}", retry_after=left
            )

    def report(self, ticket: int, worked: bool | None) -> None:
        """Takes the outcome of an admitted call: True it worked, False it failed, None it says nothing of either."""
        if ticket != self._ticket:
            return
        if self.state == "half-open":
            self._probing = False
        if worked:
            self.failures = 0
            if self.state != "closed":
                self._change("closed")
        elif worked is not None:
            self.failures += 1
            if self.state == "half-open" or self.failures >= self.threshold:
                self._reopens = self._clock() + self.recovery_time
                self._change("open")

    @contextmanager
    def guard(self, counts: Callable[[BaseException], bool | None] | None = None) -> Iterator[None]:
        """Runs the body of a `with` if the breaker admits it, and reports how it ended.

        counts: tells whether an exception is a failure (None: says nothing); by default connections that failed and
        timeouts are, and what says so itself with `trips_breaker`.
        """
        ticket = self.admit()
        try:
            yield
        except BaseException as error:
            failed = (counts or counts_as_failure)(error)
            self.report(ticket, None if failed is None else not failed)
            raise
        self.report(ticket, True)

    def _change(self, state: State) -> None:
        before, self.state = self.state, state
        self._ticket += 1
        if self._on_change is not None:
            self._on_change(before, state)


def counts_as_failure(error: BaseException) -> bool | None:
    """Returns whether an error counts against what was called, for it (it answered), or says nothing (None).

    A connection that failed counts also where a skill's own code met it; a file that is not there does not.
    """
    met = error.__cause__ if isinstance(error, SkillFailedError) and error.__cause__ is not None else error
    if not isinstance(met, ExecutionError):
        if isinstance(met, OSError) and not isinstance(met, _FILES):
            return True
        met = error
    return met.trips_breaker if isinstance(met, ExecutionError) else None
