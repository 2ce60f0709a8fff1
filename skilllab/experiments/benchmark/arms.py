"""Arms: what is compared, with what each needs, and how one sample of its calls is timed."""

from __future__ import annotations

import inspect
import math
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import repeat
from typing import Any

from skilllab import format as fmt
from skilllab.errors import InvalidValueError

Timer = Callable[[], float]

_TIMER_SAMPLES = 100  # shares of 1: a sample takes at least as many times as long as reading the timer
_SHORTEST_SAMPLE = 2e-5  # s; below, a single interrupt is most of a sample
_SINGLES = 10  # calls of a round that are timed one by one beside a sample of many
_TIMED_SINGLY = 10  # times the timer's cost that a call has to take to be timed one by one
_MOST_CALLS = 1 << 20  # a sample
_ALIKE = 2.0  # times as many calls as the next arm: those closer have the same number


@dataclass(frozen=True, slots=True)
class Arm:
    """A candidate with what it needs. `call` is what is timed; every function may be plain or a coroutine function.

    setup runs once, in each process, before anything is timed; what it returns, unless None, is handed to the others.
    reset runs before every call, untimed, so that each sample is one call: for calls that use up what they work on.
    teardown runs once at the end, whatever happened.
    """

    call: Callable[..., object]
    setup: Callable[[], object] | None = None
    reset: Callable[..., object] | None = None
    teardown: Callable[..., object] | None = None


def checked_arms(arms: object) -> dict[str, Arm]:
    """Returns functions and arms by name as arms; raises InvalidValueError for what cannot be called."""
    if not isinstance(arms, Mapping) or not arms:
        raise InvalidValueError(f"arms(={arms!r:.80}) must be functions by name, at least one: {{'cached': f, ...}}")
    made = {}
    for name, arm in arms.items():
        if not isinstance(name, str) or not name.strip() or "\n" in name:
            raise InvalidValueError(f"arms: the name {name!r:.80} must be one line of text")
        made[name] = arm if isinstance(arm, Arm) else Arm(arm)
        for field in ("call", "setup", "reset", "teardown"):
            function = getattr(made[name], field)
            if not callable(function) and (function is not None or field == "call"):
                hint = " (pass the coroutine function itself, not its call)" if inspect.iscoroutine(function) else ""
                if inspect.iscoroutine(function):
                    function.close()
                raise InvalidValueError(f"arms[{name!r}]: {field}(={function!r:.80}) must be a function{hint}")
    return made


@dataclass(frozen=True, slots=True)
class Overhead:
    """What timing itself costs, in seconds: reading the timer once a sample, the loop once a call."""

    timer: float
    loop: float

    @classmethod
    def measured(cls, timer: Timer) -> Overhead:
        """Measures both; the least of several attempts is what belongs to them and not to the machine's other work."""
        reading = min(_row(timer, 100, timer) / 101 for _ in range(20))
        empty = min(_empty(1000, timer) / 1000 for _ in range(20))
        return cls(reading, max(0.0, empty - reading / 1000))

    def of(self, calls: int) -> float:
        """Returns what is no part of the calls in a sample of so many."""
        return self.timer + self.loop * calls

    @property
    def enough(self) -> float:
        """Seconds that a sample takes at least: 100 times the timer's cost, and 20 µs."""
        return max(_TIMER_SAMPLES * self.timer, _SHORTEST_SAMPLE)


class Stopwatch:
    """Times the calls of one arm. `calls`: a sample; `singles`: timed one by one in each round beside it."""

    def __init__(self, name: str, arm: Arm, timer: Timer, overhead: Overhead) -> None:
        self.name = name
        self.calls, self.singles = 1, 0
        self._arm, self._timer, self._overhead = arm, timer, overhead
        self._seconds = math.inf  # a call
        self._call: Callable[[], Any] = arm.call
        self._reset = arm.reset
        self._teardown: Callable[[], object] | None = None  # once it is set up
        self._waits = inspect.iscoroutinefunction(arm.call)

    async def open(self) -> float:
        """Sets up, makes the first call, and returns its seconds: that of a cold start."""
        made, teardown = None if self._arm.setup is None else await _done(self._arm.setup()), self._arm.teardown
        self._teardown = partial(teardown, made) if teardown and made is not None else teardown
        if made is not None:
            self._call = partial(self._arm.call, made)
            self._reset = self._reset and partial(self._reset, made)
        if self._reset is not None:
            await _done(self._reset())
        start = self._timer()
        answer = self._call()
        if inspect.isawaitable(answer):
            self._waits = True
            await answer
        return self._timer() - start - self._overhead.of(1)

    async def close(self) -> None:
        """Tears down."""
        if self._teardown is not None:
            await _done(self._teardown())

    async def calibrate(self) -> None:
        """Finds how many calls make a sample long enough; the shorter of two attempts decides.

        Raises InvalidValueError for what takes no time, and for a call with a reset that is too short to be a sample.
        """
        enough, most = self._overhead.enough, _MOST_CALLS if self._reset is None else 1
        while (taken := min([await self.sample(), await self.sample()])) * self.calls < enough:
            if self.calls >= most:
                break
            wanted = 1.2 * enough / taken if taken > 0 else 0.0
            self.calls = min(most, max(2 * self.calls, round(wanted)))
        self._seconds = taken
        least = _TIMER_SAMPLES * self._overhead.timer
        if self._reset is not None and taken < least:
            raise InvalidValueError(
                f"arms[{self.name!r}]: with a reset each sample is one call, which takes {fmt.duration(max(0.0, taken))}: "
                f"below {fmt.duration(least)} the timer is too much of it; give a call more work, or do without reset"
            )
        if taken <= 0:
            raise InvalidValueError(
                f"arms[{self.name!r}] takes no time by the timer, {self.calls:,} calls in a row: give it more work"
            )

    def use(self, calls: int) -> None:
        """Makes samples of so many calls, with single ones beside them where they are many and long enough."""
        self.calls = calls if self._reset is None else 1
        if self.calls > 1 and self._seconds >= _TIMED_SINGLY * self._overhead.timer:
            self.singles = min(_SINGLES, self.calls)

    async def sample(self) -> float:
        """Returns seconds a call over one sample, without what timing costs.

        Before a sample of several calls one more is made, untimed: the arm before left the processor full of its own.
        """
        if self.calls > 1:
            await self._row(1)
        return (await self._row(self.calls) - self._overhead.of(self.calls)) / self.calls

    async def one_by_one(self) -> list[float]:
        """Returns the seconds of each of `singles` calls."""
        cost = self._overhead.of(1)
        return [await self._row(1) - cost for _ in range(self.singles)]

    async def once(self) -> None:
        """Makes one call, untimed."""
        await self._row(1)

    async def _row(self, calls: int) -> float:
        if self._reset is not None:
            await _done(self._reset())
        if self._waits:
            return await _awaited_row(self._call, calls, self._timer)
        return _row(self._call, calls, self._timer)


def level(watches: Iterable[Stopwatch]) -> None:
    """Gives arms of about the same speed the same number of calls a sample, and decides which are timed one by one.

    The first calls of a sample are slower than the last, since the arm before left the processor full of its own: with 12
    calls a sample a function of 1 µs looked 1 to 3 % slower than itself with 20.
    """
    calls = most = 0
    for watch in sorted(watches, key=lambda watch: -watch.calls):
        most = most if calls <= _ALIKE * watch.calls else watch.calls
        most, calls = max(most, watch.calls), watch.calls
        watch.use(most)


def _row(call: Callable[[], object], calls: int, timer: Timer) -> float:
    start = timer()
    for _ in repeat(None, calls):
        call()
    return timer() - start


async def _awaited_row(call: Callable[[], Awaitable[object]], calls: int, timer: Timer) -> float:
    start = timer()
    for _ in repeat(None, calls):
        await call()
    return timer() - start


def _empty(calls: int, timer: Timer) -> float:
    start = timer()
    for _ in repeat(None, calls):
        pass
    return timer() - start


async def _done(answer: object) -> object:
    return await answer if inspect.isawaitable(answer) else answer
