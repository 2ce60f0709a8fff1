"""The trial itself: one call at a time, never more often than the ceiling allows, and calls that do nothing in between."""

from __future__ import annotations

import asyncio
import itertools
import json
import math
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from typing import Any

import numpy as np

from skilllab import format as fmt
from skilllab.engine import GuardOptions, HttpOptions, LayeredExecutionEngine
from skilllab.errors import ExecutionTimeoutError, InvalidValueError, SkilllabError
from skilllab.experiments.loadtest.machine import Meter
from skilllab.experiments.loadtest.pacing import Pacer, pacer
from skilllab.experiments.trial.plan import TrialPlan
from skilllab.experiments.trial.result import ToolTrial, TrialResult
from skilllab.experiments.trial.target import Target
from skilllab.loading import LoadedSkill, load
from skilllab.outcome import ExecutionResult
from skilllab.programs import tree
from skilllab.settings import TRIAL_DURATION, TRIAL_LONGEST, TRIAL_RATE, TRIAL_TIMEOUT
from skilllab.skills.redaction import redacted_addresses

_PING_EVERY = 5  # requests: one ping on four calls, and the ceiling is for both together
_FAILURES = 10  # in a row, after which a tool is left alone
_LAST = 0.5  # s that a call may still take at the end
_MEMORY_EVERY = 0.5  # s
_LONGEST_MESSAGE = 200  # characters kept of an error's text
HIGHEST_RATE = 1000.0

OnProgress = Callable[[float, int, int], object]


async def trial(
    target: Target,
    plan: TrialPlan,
    *,
    rate: float = TRIAL_RATE,
    duration: float = TRIAL_DURATION,
    timeout: float = TRIAL_TIMEOUT,
    seed: int = 0,
    stop: asyncio.Event | None = None,
    on_progress: OnProgress | None = None,
    clock: Callable[[], float] = time.perf_counter,
) -> TrialResult:
    """Calls the planned tools in turn, one call at a time, and returns what was seen.

    rate: requests a second at most, calls and pings to the server together: one ping comes on four calls where there is
    something to ping, and connecting again to a lost server comes on top. duration: seconds in which calls begin, at most 60.
    timeout: seconds that one call may take. seed: of the times between requests, which vary by half so that they keep no step
    with the target. stop: ends it, with what was measured kept. on_progress: told (seconds gone, calls, errors) after each
    request.
    Nothing is tried again and nothing is kept from calls before: retries, breakers and caches are off.
    """
    checked(rate=rate, duration=duration, timeout=timeout, seed=seed)
    run = _Run(target, plan, rate, duration, timeout, seed, on_progress, clock)
    started, meter = time.time(), Meter()
    async with AsyncExitStack() as stack:
        run.engine = await stack.enter_async_context(_engine(target, plan, timeout, clock))
        work = asyncio.create_task(run.work())
        waits = [work] if stop is None else [work, asyncio.create_task(stop.wait())]
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in waits:
                task.cancel()
            await asyncio.wait(waits)
        if not work.cancelled():
            work.result()  # an error of the trial's own is raised here
    return run.result(started, meter.read().others, stopped=work.cancelled())


def checked(*, rate: float, duration: float, timeout: float, seed: int) -> None:
    """Raises InvalidValueError for a rate, a duration, a timeout or a seed that a trial does not have."""
    limits = {"rate": (rate, HIGHEST_RATE), "duration": (duration, TRIAL_LONGEST), "timeout": (timeout, TRIAL_LONGEST)}
    for name, (value, most) in limits.items():
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= most:
            raise InvalidValueError(f"{name}={value!r} must be a number above 0 and up to {most:g}: a trial is gentle")
    if isinstance(seed, bool) or not isinstance(seed, int) or seed < 0:
        raise InvalidValueError(f"seed={seed!r} must be a whole number from 0 up")


def _engine(target: Target, plan: TrialPlan, timeout: float, clock: Callable[[], float]) -> LayeredExecutionEngine:
    guards, http = GuardOptions(timeout=timeout, breaker_failures=None), HttpOptions(retries=0)
    return LayeredExecutionEngine(_Loaded(target, plan), guards=guards, http=http, results=None, clock=clock)


class _Loaded:
    """The skills of a trial, loaded before it begins: what that takes is in no call."""

    changes = 0

    def __init__(self, target: Target, plan: TrialPlan) -> None:
        definitions = [target.nothing, *(target.tools[name] for name in plan.calls)]
        self._skills = {definition.id: load(definition, 0) for definition in definitions}

    def revision(self, skill_id: str) -> int:
        return 0

    async def load(self, skill_id: str) -> LoadedSkill:
        return self._skills[skill_id]


class _Run:
    engine: LayeredExecutionEngine

    def __init__(
        self,
        target: Target,
        plan: TrialPlan,
        rate: float,
        duration: float,
        timeout: float,
        seed: int,
        on_progress: OnProgress | None,
        clock: Callable[[], float],
    ) -> None:
        self._target, self._plan = target, plan
        self._rate, self._duration, self._timeout, self._seed = rate, duration, timeout, seed
        self._on_progress, self._clock = on_progress, clock
        self._tools = {name: _Calls() for name in plan.calls}
        self._floor: list[float] = []
        self._floor_failed = False
        self._pings: list[float] = []
        self._memory: list[tuple[float, int]] = []
        self._connects = len(target.connects)
        self._begin = self._end = clock()

    async def work(self) -> None:
        """Calls until the time is up, or every tool was given up."""
        await self._nothing()  # what is imported on first use is not the target's
        self._floor.clear()
        with pacer() as pace:
            await self._requests(pace)

    async def _requests(self, pace: Pacer) -> None:
        gaps, loop = np.random.default_rng(self._seed), asyncio.get_running_loop()
        self._begin = due = self._clock()
        self._end = self._begin + self._duration
        calls = itertools.count()
        for number in itertools.count():
            names = [name for name, calls in self._tools.items() if not calls.gave_up]
            if not names or due >= self._end or self._clock() >= self._end:
                return
            await pace.until(loop.time() + due - self._clock())  # at once when that is past
            late = max(0.0, self._clock() - due)
            if self._target.ping is not None and number % _PING_EVERY == 1:
                await self._ping(self._target.ping)
            else:
                await self._turn(next(calls), names, late)
            self._look()
            self._tell()
            due = max(due + gaps.uniform(0.5, 1.5) / self._rate, self._clock())

    def result(self, started: float, others: float | None, *, stopped: bool) -> TrialResult:
        """Returns what was seen so far."""
        connects = tuple(self._target.connects)
        return TrialResult(
            target=self._target.text,
            kind=self._target.kind,
            title=self._target.title,
            connect=self._target.connect,
            connecting=self._target.connecting,
            rate=self._rate,
            duration=self._duration,
            timeout=self._timeout,
            elapsed=self._clock() - self._begin,
            tools=tuple(calls.trial(name, self._plan.calls[name]) for name, calls in self._tools.items()),
            passed_over=dict(self._plan.passed_over),
            allow=tuple(name for name in self._tools if name not in self._target.allowed),
            options=self._target.options,
            problems=self._target.problems,
            floor=tuple(self._floor),
            pings=tuple(self._pings),
            memory=tuple(self._memory),
            reconnects=connects[self._connects :],
            others=others,
            stopped=stopped,
            seed=self._seed,
            started=started,
        )

    async def _turn(self, number: int, names: Sequence[str], late: float) -> None:
        """Calls the tool whose turn it is, and what does nothing."""
        if number % 2:  # in turn before and after, since whoever comes second finds the machine otherwise
            await self._nothing()
        await self._call(names[number % len(names)], late)
        if not number % 2:
            await self._nothing()

    async def _call(self, name: str, late: float) -> None:
        start = self._clock()
        connects = len(self._target.connects)
        limit = min(self._timeout, max(_LAST, self._end - start))
        result = await self.engine.execute(name, self._plan.calls[name], timeout=limit, cache=False)
        took = self._clock() - start
        calls = self._tools[name]
        if isinstance(result.error, ExecutionTimeoutError) and limit < self._timeout:
            calls.cut += 1
            return
        calls.note(start - self._begin, late, took, sum(self._target.connects[connects:]), result)

    async def _nothing(self) -> None:
        """Measures the way through the engine, without work of the target; no more once it failed, which is ours."""
        if self._floor_failed:
            return
        start = self._clock()
        result = await self.engine.execute(self._target.nothing.id, cache=False)
        if result.error is None:
            self._floor.append(self._clock() - start)
        else:
            self._floor_failed = True

    async def _ping(self, ping: Callable[[], Awaitable[float]]) -> None:
        """Measures the way to the server, without work of a tool."""
        connects = len(self._target.connects)
        limit = min(self._timeout, max(_LAST, self._end - self._clock()))
        try:
            async with asyncio.timeout(limit):
                taken = await ping()
        except (SkilllabError, TimeoutError):
            return  # a server that is lost shows in the calls
        if len(self._target.connects) == connects:
            self._pings.append(taken)

    def _look(self) -> None:
        """Notes the memory of a server that was started, not more often than twice a second."""
        pid, now = self._target.pid(), self._clock() - self._begin
        if pid is not None and (not self._memory or now - self._memory[-1][0] >= _MEMORY_EVERY):
            self._memory.append((now, tree.resident(pid) + tree.memory(pid)))

    def _tell(self) -> None:
        if self._on_progress is not None:
            done, errors = (
                sum(column) for column in zip(*(calls.counts() for calls in self._tools.values()), strict=True)
            )
            self._on_progress(self._clock() - self._begin, done, errors)


class _Calls:
    """The calls of one tool while they come."""

    def __init__(self) -> None:
        self.first: float | None = None
        self.first_error = ""
        self.columns: dict[str, list[Any]] = {name: [] for name in ("at", "late", "queue", "handler", "size", "error")}
        self.messages: dict[str, str] = {}
        self.cut = 0
        self._failed = 0  # in a row

    @property
    def gave_up(self) -> bool:
        return self._failed >= _FAILURES

    def note(self, at: float, late: float, took: float, connecting: float, result: ExecutionResult) -> None:
        error = "" if result.error is None else type(result.error).__name__
        self._failed = self._failed + 1 if error else 0
        if result.error is not None:
            line = redacted_addresses(" ".join(str(result.error).split()))
            self.messages.setdefault(error, fmt.cut(line, _LONGEST_MESSAGE))
        if self.first is None:
            self.first, self.first_error = took - connecting, error
            return
        handled = result.metadata.duration
        handler = math.nan if handled is None else max(0.0, handled - connecting)
        row = (at, late, result.metadata.queue_time, handler, math.nan if error else _size(result.output), error)
        for column, value in zip(self.columns.values(), row, strict=True):
            column.append(value)

    def counts(self) -> tuple[int, int]:
        errors = sum(map(bool, self.columns["error"])) + bool(self.first_error)
        return len(self.columns["error"]) + (self.first is not None), errors

    def trial(self, name: str, params: Any) -> ToolTrial:
        columns = {key: tuple(values) for key, values in self.columns.items()}
        return ToolTrial(
            name=name,
            params=dict(params),
            first=self.first,
            first_error=self.first_error,
            messages=self.messages,
            cut=self.cut,
            gave_up=self.gave_up,
            **columns,
        )


def _size(output: Any) -> float:
    """Returns the bytes of an output as JSON, nan for what JSON cannot hold."""
    try:
        return len(json.dumps(output, ensure_ascii=False).encode("utf-8", "surrogatepass"))
    except (TypeError, ValueError):
        return math.nan
