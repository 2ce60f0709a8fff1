"""The generator: sends the requests of a scenario to an engine and records what became of each."""

from __future__ import annotations

import asyncio
import math
import time
from abc import ABC, abstractmethod
from bisect import bisect
from collections.abc import Callable, Coroutine, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from itertools import groupby
from typing import Any, Literal

from skilllab import settings
from skilllab.cache.cache import UNSET
from skilllab.engine import LayeredExecutionEngine
from skilllab.errors import SkillNotFoundError
from skilllab.experiments.loadtest.arrivals import schedule
from skilllab.experiments.loadtest.guarding import Guard
from skilllab.experiments.loadtest.machine import Machine, Meter
from skilllab.experiments.loadtest.pacing import Pacer
from skilllab.experiments.loadtest.pacing import pacer as finest_pacer
from skilllab.experiments.loadtest.records import Requests
from skilllab.experiments.loadtest.scenario import Scenario
from skilllab.outcome import ExecutionResult

Reason = Literal["duration", "count", "stopped", "aborted"]

_TURN = 1e-3  # s that a worker whose skill never yields may keep the loop before the others, and a stop, get a turn
_LOOK = 0.25  # s between two looks of the guard


@dataclass(frozen=True, slots=True)
class Ending:
    """How a test ended. seconds: from its begin to the last time a request could begin; `why` says what aborted it.

    workers: requests that each worker of a closed test finished. longest_step: seconds that one step of the skill held up
    the event loop at most, 0 where it did not run there. machine: what else it did meanwhile. apart: whether the generator
    had a process of its own; one that had to be killed told neither of its workers nor of the machine. lost: whether that
    process ended by itself: what was under way then is not known, not even how much.
    """

    reason: Reason
    seconds: float
    why: str = ""
    workers: tuple[int, ...] = ()
    longest_step: float = 0.0
    machine: Machine | None = None
    apart: bool = False
    lost: bool = False


async def run(
    engine: LayeredExecutionEngine,
    scenario: Scenario,
    requests: Requests,
    *,
    stop: asyncio.Event | None = None,
    pacer: Pacer | None = None,
    clock: Callable[[], float] | None = None,
    home: int | None = None,
) -> Ending:
    """Runs a scenario to its end and returns how it ended; every request is in `requests` as soon as it has ended.

    At the end, requests under way may still finish for 30 s; `stop` cancels them, and what has no end is given up.
    clock: seconds that only grow, those of the event loop unless given; the pacer waits by those of the loop.
    home: the process whose work, with that of all its descendants, is the test's own; this one unless given.
    Raises EngineClosedError, WrongLoopError and SkillNotFoundError, and what a function of parameters raises.
    """
    test = _Open(engine, scenario, requests, clock) if scenario.open else _Closed(engine, scenario, requests, clock)
    meter = Meter(home)
    with pacer or finest_pacer() as pace:
        reason = await test.run(pace, stop or asyncio.Event())
    machine = meter.read()
    return Ending(reason, test.seconds, test.why, tuple(test.workers), test.longest_step, machine)


class _Test(ABC):
    """What both models share: one request, the begin, and the ways to end."""

    def __init__(
        self,
        engine: LayeredExecutionEngine,
        scenario: Scenario,
        requests: Requests,
        clock: Callable[[], float] | None,
    ) -> None:
        self.scenario = scenario
        self.requests = requests
        self.clock = clock or _clock_of(asyncio.get_running_loop())
        self.zero = self.seconds = self.longest_step = 0.0
        self.sent = 0
        self.why = ""
        self.last = -1  # the worker that finished a request last
        self.workers: list[int] = []
        self.tasks: dict[
            asyncio.Task[None], tuple[float, int] | None
        ] = {}  # with intended start and stage of the one request that each has under way
        self.failure: BaseException | None = None
        self.failed = asyncio.Event()
        self.execute = engine.execute
        self.timeout: Any = UNSET if scenario.timeout == "inherit" else scenario.timeout
        self.put, self.warmup = requests.put, scenario.warmup

    async def run(self, pacer: Pacer, stop: asyncio.Event) -> Reason:
        """Runs the test until its end, or until it is stopped or aborted."""
        loop = asyncio.get_running_loop()
        self.zero = self.clock()
        work = loop.create_task(self.send(pacer))
        others: list[asyncio.Task[Any]] = [loop.create_task(stop.wait()), loop.create_task(self.failed.wait())]
        if self.scenario.abort is not None:
            others.append(loop.create_task(self._watch(Guard(self.scenario))))
        try:
            await asyncio.wait((work, *others), return_when=asyncio.FIRST_COMPLETED)
        finally:
            if not work.done():
                self.seconds = self.seconds or self.now()
            left = [task for task in (work, *others, *self.tasks) if task.cancel()]
            await asyncio.gather(*left, return_exceptions=True)
        if self.failure is not None:
            raise self.failure
        if not work.cancelled():
            work.result()
            return "count" if self.sent == self.scenario.count else "duration"
        for task in others:
            if not task.cancelled():
                task.result()
        return "aborted" if self.why else "stopped"

    @abstractmethod
    async def send(self, pacer: Pacer) -> None:
        """Sends all requests, notes in `seconds` when the last could begin, and waits for their ends."""

    def now(self) -> float:
        """Returns the seconds since the begin."""
        return self.clock() - self.zero

    def start(self, work: Coroutine[Any, Any, None]) -> None:
        """Starts a task that ends with the test."""
        task: asyncio.Task[None] = asyncio.create_task(work)
        self.tasks[task] = None
        task.add_done_callback(self._ended)

    def record(self, intended: float, start: float, end: float, stage: int, result: ExecutionResult) -> None:
        """Records a finished request."""
        _, error, metadata = result
        step, service = metadata.longest_step, metadata.duration
        code: int = metadata.cached
        if step is not None and step > self.longest_step:
            self.longest_step = step
        if error is not None:
            if isinstance(error, SkillNotFoundError):
                raise error  # no request after it would be better off
            code += 2 * self.requests.kind(type(error).__name__)
        place = 2 * stage + (intended < self.warmup)
        self.put((intended, start, end, math.nan if service is None else service, code, place))

    def give_up(self, intended: float, stage: int) -> None:
        """Records a request that was cancelled."""
        self.requests.give_up(intended, self.now(), stage, intended < self.scenario.warmup)

    @abstractmethod
    def under_way(self) -> list[float]:
        """Returns the intended starts of the requests that have no end yet, in seconds from the begin."""

    async def drain(self) -> None:
        """Waits for the requests under way, and cancels those that take too long."""
        if self.tasks:
            _, late = await asyncio.wait(tuple(self.tasks), timeout=settings.LOAD_PATIENCE)
            for task in late:
                task.cancel()
            await asyncio.gather(*late, return_exceptions=True)

    def _ended(self, task: asyncio.Task[None]) -> None:
        request = self.tasks.pop(task)
        if task.cancelled():
            if request is not None:
                self.give_up(*request)
        elif (failure := task.exception()) is not None:
            self.failure = self.failure or failure
            self.failed.set()

    async def _watch(self, guard: Guard) -> None:
        while not self.why:
            await asyncio.sleep(_LOOK)
            if not self.seconds:  # what only waits for its last answers burdens nobody
                self.why = guard.look(self.requests, self.now(), self.under_way())


class _Open(_Test):
    """Requests begin when they are due, each in a task of its own, whatever became of those before.

    Each waits in its own task, where nothing lies between the moment and its begin, and only then is the next one made.
    """

    async def send(self, pacer: Pacer) -> None:
        scenario, loop = self.scenario, asyncio.get_running_loop()
        params = scenario.params_of()
        for due, stage in schedule(scenario):
            begun = loop.create_future()
            self.start(self._one(self.sent, params, due, stage, pacer, begun))
            await begun
            self.sent += 1
        if self.sent != scenario.count and scenario.duration is not None:
            await pacer.until(self.zero + scenario.duration)
        self.seconds = scenario.duration if self.sent != scenario.count and scenario.duration else self.now()
        await self.drain()

    def under_way(self) -> list[float]:
        return [request[0] for request in self.tasks.values() if request is not None]

    async def _one(
        self,
        number: int,
        params: Callable[[int], Mapping[str, Any]],
        due: float,
        stage: int,
        pacer: Pacer,
        begun: asyncio.Future[None],
    ) -> None:
        await pacer.until(self.zero + due)
        begun.set_result(None)
        scenario, task = self.scenario, asyncio.current_task()
        assert task is not None
        if len(self.tasks) > scenario.max_in_flight:  # this one among them
            self.requests.drop(due, stage, due < scenario.warmup)
            return
        self.tasks[task] = due, stage
        asked = params(number)
        start = self.now()
        result = await self.execute(
            scenario.skill_id,
            asked,
            resource_limits=scenario.resource_limits,
            timeout=self.timeout,
            cache=scenario.cache,
        )
        self.record(due, max(due, start), self.now(), stage, result)


class _Closed(_Test):
    """Workers, each of which begins its next request when its last has ended."""

    begun: list[float]  # of each span of work, the intended start of the request under way; nan without one
    full: asyncio.Event  # set when all requests of the count have been sent

    async def send(self, pacer: Pacer) -> None:
        self.workers = [0] * max(stage.concurrency or 0 for stage in self.scenario.stages)
        work = list(spans(self.scenario))
        self.begun, self.full = [math.nan] * len(work), asyncio.Event()
        for place, (worker, begin, end) in enumerate(work):
            self.start(self._work(place, worker, begin, end))
        duration = self.scenario.duration
        if duration is None:  # the first worker ends when all requests are sent
            await asyncio.wait(tuple(self.tasks), return_when=asyncio.FIRST_COMPLETED)
        else:
            await asyncio.wait(tuple(self.tasks), timeout=self.zero + duration - self.clock())
        self.seconds = duration if duration is not None and self.sent != self.scenario.count else 0.0
        await self.drain()
        self.seconds = self.seconds or self.now()

    def under_way(self) -> list[float]:
        return [begin for begin in self.begun if not math.isnan(begin)]

    async def _work(self, place: int, worker: int, begin: float, end: float) -> None:
        """Sends requests one after another from `begin` to `end` (s); the intended start is the end of the one before.

        A skill that never yields would keep the event loop to itself: the worker then gives the others a turn, and what
        it waits for its own next turn is the generator's lag.
        """
        scenario, execute, record, clock, zero = self.scenario, self.execute, self.record, self.clock, self.zero
        skill_id, limits, timeout, cache = scenario.skill_id, scenario.resource_limits, self.timeout, scenario.cache
        fixed, params = isinstance(scenario.params, Mapping), scenario.params_of()
        asked, count, bounds = params(0) if fixed else {}, scenario.count or math.inf, scenario.bounds
        begun = self.begun
        if begin > 0 and not await self._turn(begin):
            return
        stage, free = bisect(bounds, begin) - 1, begin
        start = turn = clock() - zero
        done = 0
        try:
            while free < end and self.sent < count:
                number, self.sent = self.sent, self.sent + 1
                while free >= bounds[stage + 1]:
                    stage += 1
                if not fixed:
                    asked = params(number)
                    start = clock() - zero
                begun[place] = free
                result = await execute(skill_id, asked, resource_limits=limits, timeout=timeout, cache=cache)
                ended = clock() - zero
                record(free, start, ended, stage, result)
                done += 1
                free = start = ended
                if self.last != worker:
                    self.last, turn = worker, ended - (result.metadata.longest_step or 0.0)
                if ended - turn > _TURN:
                    begun[place] = math.nan
                    await asyncio.sleep(0)
                    start = turn = clock() - zero
        except asyncio.CancelledError:
            if not math.isnan(begun[place]):  # else it waited for its turn, and had sent nothing
                self.give_up(free, stage)
            raise
        finally:
            begun[place] = math.nan
            self.workers[worker] += done
            if self.sent >= count:
                self.full.set()

    async def _turn(self, begin: float) -> bool:
        """Waits until `begin` (s); False when all requests were sent before, so that there is nothing left to wait for."""
        with suppress(TimeoutError):
            async with asyncio.timeout(self.zero + begin - self.clock()):
                await self.full.wait()
        return not self.full.is_set()


def _clock_of(loop: asyncio.AbstractEventLoop) -> Callable[[], float]:
    """Returns the loop's clock, without the method around it where that is asyncio's own."""
    return time.monotonic if type(loop).time is asyncio.BaseEventLoop.time else loop.time


def spans(scenario: Scenario) -> Iterator[tuple[int, float, float]]:
    """Yields each span of time in which a worker of a closed test works: its number, begin and end in seconds."""
    bounds = scenario.bounds
    levels = [stage.concurrency or 0 for stage in scenario.stages]
    for worker in range(max(levels)):
        at = 0
        for busy, run in groupby(levels, lambda level, worker=worker: level > worker):  # type: ignore[misc]
            length = len(list(run))
            if busy:
                yield worker, bounds[at], bounds[at + length]
            at += length
