"""An outage: the same calls, without and with a circuit breaker, to servers that work, stand still and recover."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable, Coroutine, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from skilllab.demo import DemoProcess, DemoSettings, Exponential
from skilllab.engine import GuardOptions, HttpOptions, LayeredExecutionEngine
from skilllab.errors import CircuitOpenError, InvalidValueError
from skilllab.experiments.failures.queue import QueueTarget
from skilllab.experiments.failures.skills import USER, registry_of, user_skill
from skilllab.experiments.failures.timeline import Call, Change, Outage, Timeline
from skilllab.experiments.failures.virtual import in_virtual_time
from skilllab.outcome import BreakerEvent

_WARM_UP = 5  # calls before the first that counts: imports and connections
_TICK = 0.125  # s between two reports of progress
_ARMS = (False, True)  # without and with a breaker

OnProgress = Callable[[Outage], object]


@dataclass(frozen=True, slots=True)
class Scenario:
    """What happens in a run, all of it in seconds and calls per second.

    rate: calls a second, which come at random times and do not wait for one another. before, stall, after: how long the
    server works, stands still, and works again. service: mean time that one of the server's `workers` takes for a
    request, exponentially distributed. timeout: how long a caller waits. failures: failures in a row that open the
    breaker. recovery: how long it stays open before its probe. seed: of the arrivals and of the service times.
    Raises InvalidValueError for a value that is no number above 0.
    """

    rate: float = 40.0
    before: float = 1.0
    stall: float = 2.0
    after: float = 4.5
    service: float = 0.033
    workers: int = 2
    timeout: float = 0.5
    failures: int = 5
    recovery: float = 0.5
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("rate", "before", "stall", "after", "service", "workers", "timeout", "failures", "recovery"):
            value = getattr(self, name)
            if not isinstance(value, int | float) or not 0 < value < math.inf:
                raise InvalidValueError(f"{name}(={value!r}) must be a number above 0")

    @property
    def duration(self) -> float:
        """Seconds in which calls come."""
        return self.before + self.stall + self.after

    def arrivals(self) -> list[float]:
        """Returns when calls are due, in seconds from the begin: a Poisson process, so that they come in no step."""
        rng = np.random.default_rng(self.seed)
        gaps = rng.exponential(1 / self.rate, round(2 * self.rate * self.duration) + 20)
        due = np.cumsum(gaps)
        return [float(at) for at in due[due < self.duration]]

    def server(self) -> DemoSettings:
        """Returns how the server behaves."""
        return DemoSettings(latency=Exponential(self.service), workers=self.workers, seed=self.seed)

    def guards(self, *, breaker: bool) -> GuardOptions:
        """Returns how the engine guards the calls."""
        failures = self.failures if breaker else None
        return GuardOptions(timeout=self.timeout, breaker_failures=failures, breaker_recovery=self.recovery)


class Target(Protocol):
    """A server to call, and the engine that calls it."""

    def engine(self, guards: GuardOptions) -> LayeredExecutionEngine: ...

    async def stall(self) -> None: ...

    async def resume(self) -> None: ...

    async def served(self) -> int: ...


async def outage(scenario: Scenario | None = None, *, on_progress: OnProgress | None = None) -> Outage:
    """Measures both ways at the same time, each with an engine and a server process of its own.

    Every call is sent once, without retries, when it is due, whatever became of those before it. on_progress: called
    with the outage so far, some times a second. To stop it, cancel the task that awaits.
    """
    scenario = scenario or Scenario()
    async with AsyncExitStack() as stack:
        servers = [DemoProcess(scenario.server()) for _ in _ARMS]
        await asyncio.gather(*(stack.enter_async_context(server) for server in servers))
        targets = [_HttpTarget(server) for server in servers]
        return await play(scenario, targets, clock=time.perf_counter, on_progress=on_progress)


def predicted(scenario: Scenario | None = None) -> Outage:
    """Returns what the arithmetic of queue, timeout and breaker gives, in virtual time and without a network.

    The engine, its breaker, the arrivals, the server's queue and its draws are those of `outage`; what is missing is all
    that takes real time: sockets, processes, the interpreter.
    """
    scenario = scenario or Scenario()

    async def main() -> Outage:
        loop = asyncio.get_running_loop()
        targets = [QueueTarget(scenario.server(), loop) for _ in _ARMS]
        return await play(scenario, targets, clock=loop.time)

    return in_virtual_time(main)


async def play(
    scenario: Scenario,
    targets: Sequence[Target],
    *,
    clock: Callable[[], float],
    on_progress: OnProgress | None = None,
) -> Outage:
    """Sends the calls of the scenario to two targets, the second behind a breaker, and stalls both at the same time.

    clock: seconds that only grow; the event loop must keep the same time.
    """
    due = scenario.arrivals()
    runs = [_Run(scenario, target, breaker, clock) for target, breaker in zip(targets, _ARMS, strict=True)]
    try:
        await asyncio.gather(*(run.warm_up() for run in runs))
        origin = clock()
        async with asyncio.TaskGroup() as group:
            teller = group.create_task(_tell(runs, origin, clock, on_progress)) if on_progress else None
            work = [group.create_task(run.send(due, origin)) for run in runs]
            work += [group.create_task(run.stall(origin)) for run in runs]
            await asyncio.gather(*work)
            if teller is not None:
                teller.cancel()
        without, guarded = [await run.finish() for run in runs]
    except BaseExceptionGroup as failures:
        raise failures.exceptions[0] from None
    finally:
        await asyncio.gather(*(run.engine.aclose(grace=1.0) for run in runs))
    made = Outage(scenario.duration, without, guarded)
    if on_progress is not None:
        on_progress(made)
    return made


async def _tell(runs: Sequence[_Run], origin: float, clock: Callable[[], float], on_progress: OnProgress) -> None:
    while True:
        await asyncio.sleep(_TICK)
        on_progress(Outage(clock() - origin, *(run.timeline() for run in runs)))


class _Run:
    """One engine and its server during a run: what was sent, and what came of it."""

    def __init__(self, scenario: Scenario, target: Target, breaker: bool, clock: Callable[[], float]) -> None:
        self.engine = target.engine(scenario.guards(breaker=breaker))
        self._scenario = scenario
        self._target = target
        self._clock = clock
        self._stalled = (scenario.before, scenario.before + scenario.stall)
        self._origin = 0.0
        self._calls: list[Call] = []
        self._changes: list[Change] = []
        self._before = self._served = 0

    async def warm_up(self) -> None:
        for number in range(_WARM_UP):
            await self.engine.call(USER, {"user_id": number + 1}, timeout=10.0)
        self._before = await self._target.served()
        self.engine.on("breaker-change", self._changed)

    async def send(self, due: Sequence[float], origin: float) -> None:
        """Sends each call when it is due, and returns when the last has ended."""
        self._origin = origin
        await at_times([origin + at for at in due], lambda number: self._call(number, due[number]), self._clock)

    async def stall(self, origin: float) -> None:
        """Stops the server and lets it go on, and notes when it really did."""
        scenario = self._scenario
        await self._until(origin + scenario.before)
        begin = self._clock() - origin
        await self._target.stall()
        self._stalled = (begin, begin + scenario.stall)
        await self._until(origin + self._stalled[1])
        await self._target.resume()
        self._stalled = (begin, self._clock() - origin)

    async def finish(self) -> Timeline:
        """Asks the server what it served, and returns the whole timeline."""
        self._served = await self._target.served() - self._before
        return self.timeline()

    def timeline(self) -> Timeline:
        """Returns what came of the calls that have ended."""
        return Timeline(tuple(sorted(self._calls)), tuple(self._changes), self._stalled, self._served)

    async def _call(self, number: int, at: float) -> None:
        sent = self._clock() - self._origin
        result = await self.engine.execute(USER, {"user_id": number % 1000 + 1})
        ended = self._clock() - self._origin
        refused = isinstance(result.error, CircuitOpenError)
        outcome = "answered" if result.success else "refused" if refused else "failed"
        self._calls.append(Call(at, sent, ended - at, outcome))

    def _changed(self, event: BreakerEvent) -> None:
        self._changes.append(Change(self._clock() - self._origin, event.before, event.after))

    async def _until(self, moment: float) -> None:
        await asyncio.sleep(max(0.0, moment - self._clock()))


async def at_times(
    due: Sequence[float], send: Callable[[int], Coroutine[Any, Any, object]], clock: Callable[[], float]
) -> None:
    """Starts `send(number)` at each of these times of the clock, as a task of its own, and waits for all of them."""
    async with asyncio.TaskGroup() as group:
        for number, moment in enumerate(due):
            wait = moment - clock()
            if wait > 0:
                await asyncio.sleep(wait)
            group.create_task(send(number))


class _HttpTarget:
    """A demo server in a process of its own."""

    def __init__(self, server: DemoProcess) -> None:
        self._server = server
        self.stall, self.resume = server.stall, server.resume

    def engine(self, guards: GuardOptions) -> LayeredExecutionEngine:
        return LayeredExecutionEngine(
            registry_of(user_skill(self._server.url)), guards=guards, http=HttpOptions(max_sockets=1000, retries=0)
        )

    async def served(self) -> int:
        return (await self._server.statistics()).count("user", 200)
