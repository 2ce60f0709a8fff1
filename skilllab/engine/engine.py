"""LayeredExecutionEngine: looks a skill up, guards it, runs it, measures it and tells who listens."""

from __future__ import annotations

import asyncio
import itertools
import secrets
import time
import weakref
from asyncio import current_task
from collections.abc import AsyncGenerator, Callable, Coroutine, Hashable, Mapping
from threading import get_ident
from typing import Any, NamedTuple, Self

from skilllab import settings
from skilllab.cache.cache import UNSET, SkillCache
from skilllab.engine.events import all_listeners
from skilllab.engine.execution import Execution, Reason, Runner
from skilllab.engine.functions import FunctionOptions, FunctionRunner
from skilllab.engine.guard import (
    CircuitBreaker,
    GuardOptions,
    LimitStatistics,
    checked_seconds,
)
from skilllab.engine.http import HttpOptions, HttpRunner
from skilllab.engine.interruptions import Interruptions, absorb, interruption_error, take_back, undisturbed
from skilllab.engine.lanes import Lanes
from skilllab.engine.many import Calls, run_many
from skilllab.engine.pipeline import Pipeline, Skills
from skilllab.engine.sandbox import SandboxOptions, SandboxRunner
from skilllab.engine.stepping import skill_failure
from skilllab.engine.streams import Sink, streamed
from skilllab.engine.workers.seats import WorkerStatistics
from skilllab.engine.workers.supervision import Supervision
from skilllab.errors import (
    EngineClosedError,
    ExecutionCancelledError,
    InvalidValueError,
    SkilllabError,
    WrongLoopError,
)
from skilllab.frozen import FrozenDict
from skilllab.model import LAYER_OF_HANDLER, ResourceLimits
from skilllab.outcome import BreakerEvent, ExecutionEvent, ExecutionMetadata, ExecutionResult, LoopBlockedEvent

_new: Any = tuple.__new__  # what checks nothing: a third of the time, on the path of every execution
_NO_PARAMS: Mapping[str, Any] = FrozenDict()


class ActiveExecution(NamedTuple):
    """An execution under way. start: seconds since the epoch. state: "queued" or "running"."""

    execution_id: str
    skill_id: str
    start: float
    state: str


class EngineOptions(NamedTuple):
    """How an engine was made. runners: the kinds of handler that runners of its maker's run."""

    functions: FunctionOptions
    sandbox: SandboxOptions
    http: HttpOptions
    guards: GuardOptions
    runners: tuple[str, ...]


class LayeredExecutionEngine:
    """Executes the skills of a registry: functions (layer 1), sandboxed tools (layer 2) and APIs (layer 3).

    registry: finds and loads skills. functions, sandbox, http: how each kind runs. guards: limits, timeout and breakers.
    results: a SkillCache for the outputs of skills that say cacheable; None keeps none; left out, one is made.
    runners: further runners by kind of handler ("function", "command", "script", "http"), in place of the built-in one.
    clock: seconds that only grow, for durations. wall_clock: seconds since the epoch.
    An engine belongs to the event loop that first used it. Close it with `aclose` or `async with`.
    """

    def __init__(
        self,
        registry: Skills,
        *,
        functions: FunctionOptions | None = None,
        sandbox: SandboxOptions | None = None,
        http: HttpOptions | None = None,
        guards: GuardOptions | None = None,
        results: SkillCache | Any | None = UNSET,
        runners: Mapping[str, Runner] | None = None,
        clock: Callable[[], float] = time.perf_counter,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        unknown = set(runners or ()) - set(LAYER_OF_HANDLER)
        if unknown:
            raise InvalidValueError(
                f"runners={sorted(unknown)} name no kind of handler: known are {', '.join(LAYER_OF_HANDLER)}"
            )
        if results is UNSET:
            results = SkillCache(settings.RESULT_CACHE_SIZE)
        elif results is not None and not isinstance(results, SkillCache):
            raise InvalidValueError(f"results={results!r} must be a SkillCache, or None to keep no output")
        functions, sandbox, http = functions or FunctionOptions(), sandbox or SandboxOptions(), http or HttpOptions()
        guards = guards or GuardOptions()
        self.registry = registry
        self.options = EngineOptions(functions, sandbox, http, guards, tuple(runners or ()))
        self._supervision = Supervision()
        weakref.finalize(self, self._supervision.abandon)  # a notebook makes a new engine and forgets the old one
        own = FunctionRunner(functions, self._supervision)
        sandboxes = SandboxRunner(sandbox, self._supervision)
        self._seats = {"functions": own.confined.seats, "sandboxes": sandboxes.seats}
        self._runners: dict[str, Runner] = {
            "function": own,
            "command": sandboxes,
            "script": sandboxes,
            "http": HttpRunner(http),
        }
        self._runners.update(runners or {})
        self._clock = clock
        self._wall_clock = wall_clock
        self._results = results
        cache_ttl = {1: functions.cache_ttl, 2: sandbox.cache_ttl, 3: http.cache_ttl}
        self._lanes = Lanes(guards, self._runners, cache_ttl, clock, self._breaker_changed)
        self._pipeline = Pipeline(registry, self._lanes, results, clock, guards.timeout, self._blocked)
        self._listeners = all_listeners()
        self._starts, self._completes = self._listeners["execution-start"], self._listeners["execution-complete"]
        self._prefix = secrets.token_hex(4)
        self._numbers = itertools.count(1)
        self._active: dict[str, Execution] = {}
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread = 0
        self._closed = False
        self._idle = asyncio.Event()

    # running

    async def execute(
        self,
        skill_id: str,
        params: Mapping[str, Any] = _NO_PARAMS,
        *,
        resource_limits: ResourceLimits | None = None,
        timeout: float | Any | None = UNSET,
        cache: bool = True,
        caller: Hashable = None,
        _sink: Sink | None = None,
    ) -> ExecutionResult:
        """Runs a skill and returns its result, failed or not.

        params: its parameters by name; the skill gets a copy of every dict and list inside, so it cannot change the
        caller's. resource_limits: what this call may use; it can tighten the limits of the skill's definition, never
        loosen them, and a limit that cannot be held refuses the call before it starts. timeout: seconds that the caller
        waits, queue and retries included (UNSET: the skill's, else the engine's; None: without end). cache: whether a
        kept output may be given. caller: who asks; kept outputs are never shared between callers.
        Raises EngineClosedError and WrongLoopError; every other error is the `.error` of the result. A caller that is
        cancelled gets its CancelledError.
        """
        # A thread runs one loop at a time: in the engine's own, a task of its loop can only be the caller's.
        task = current_task(self._loop) if get_ident() == self._thread else None
        if task is None:
            task = self._bind()
        run = Execution()
        run.execution_id = execution_id = f"{self._prefix}-{next(self._numbers)}"
        run.skill_id = skill_id
        run.start = self._wall_clock()
        run.begin = self._clock()
        run.task = task
        run.cancelling = task.cancelling()
        del task  # it may hold what is raised below, whose traceback holds this frame
        if _sink is not None:
            run.sink = _sink
        self._active[execution_id] = run
        if self._starts.callbacks:
            event = _new(ExecutionEvent, ("execution-start", execution_id, skill_id, run.start, None))
            for callback in self._starts.callbacks:  # as `tell` does, without the call
                try:
                    callback(event)
                except (Exception, asyncio.CancelledError):  # noqa: BLE001 - its failure is not the execution's
                    self._starts.failed(event)
        try:
            output = self._pipeline.output(run, params, resource_limits, timeout, cache, caller)
            if not run.ended:
                output = await output
        # No variable keeps the error: its traceback holds this frame, and each would keep the other alive.
        except asyncio.CancelledError as caught:
            if take_back(run):
                self._finish(run, None, ExecutionCancelledError(f"{skill_id}: its caller was cancelled"))
                raise
            # If nobody cancelled it, it awaited something that was.
            return self._finish(run, None, interruption_error(run) if run.interrupts else _wrapped(skill_id, caught))
        except SkilllabError as caught:
            if undisturbed(run):
                return self._finish(run, None, caught)
        except Exception as caught:  # noqa: BLE001 - a foreign error of a registry or runner is a failed result as well
            if undisturbed(run):
                return self._finish(run, None, _wrapped(skill_id, caught))
        except BaseException:
            self._finish(run, None, ExecutionCancelledError(f"{skill_id}: the program was interrupted"))
            raise
        else:
            if run.task.cancelling() == run.cancelling and not run.interrupts:
                return self._finish(run, output, None)
        try:  # it was told to stop and ended otherwise: by itself, or with an error of its own
            await absorb(run)
        except asyncio.CancelledError:
            self._finish(run, None, ExecutionCancelledError(f"{skill_id}: its caller was cancelled"))
            raise
        return self._finish(run, None, interruption_error(run))

    async def call(self, skill_id: str, params: Mapping[str, Any] = _NO_PARAMS, **options: Any) -> Any:
        """Runs a skill as `execute` does, with the same options, and returns its output, or raises the error."""
        result = await self.execute(skill_id, params, **options)
        if result.error is None:
            return result.output
        try:
            raise result.error
        finally:
            del result  # the traceback holds this frame: see execute

    async def execute_many(
        self,
        calls: Calls,
        *,
        limit: int = 10,
        on_progress: Callable[[int, int | None], object] | None = None,
        **options: Any,
    ) -> list[ExecutionResult]:
        """Runs many skills, at most `limit` at once, and returns their results in the order of the calls.

        calls: an iterable or async iterable of (skill_id, params), read no faster than it is run. options: as for
        `execute`. on_progress: told (done, total or None) after each. When the caller is cancelled, all are.
        """
        return await run_many(self.execute, calls, limit, on_progress, options)

    def stream(
        self,
        skill_id: str,
        params: Mapping[str, Any] = _NO_PARAMS,
        *,
        resource_limits: ResourceLimits | None = None,
        timeout: float | Any | None = UNSET,
    ) -> AsyncGenerator[Any, None]:
        """Returns an iterator over the chunks of a streaming skill, which raises its error as `call` does.

        The skill is at most one chunk ahead of the reader. The timeout covers the whole stream. A reader that stops early
        ends the skill: at once with `contextlib.aclosing`. Another skill yields its one output.
        """

        def start(sink: Sink) -> Coroutine[Any, Any, ExecutionResult]:
            return self.execute(skill_id, params, resource_limits=resource_limits, timeout=timeout, _sink=sink)

        return streamed(start)

    def cancel(self, execution_id: str) -> bool:
        """Ends an execution, whose result is an ExecutionCancelledError; returns whether it was still under way."""
        run = self._active.get(execution_id)
        if run is None or run.interruption is not None:
            return False
        self._pipeline.interruptions.interrupt(run, "cancel")
        return True

    # watching

    @property
    def active(self) -> tuple[ActiveExecution, ...]:
        """The executions under way, oldest first."""
        return tuple(
            ActiveExecution(run.execution_id, run.skill_id, run.start, "queued" if run.isolation is None else "running")
            for run in self._active.values()
        )

    @property
    def results(self) -> SkillCache | None:
        """The cache of results, for its statistics and for dropping what it holds."""
        return self._results

    @property
    def left_behind(self) -> int:
        """Executions that go on although their callers were told that they ended: threads, and what takes no cancellation."""
        return self._pipeline.left_behind

    def limits(self) -> dict[str, LimitStatistics]:
        """Returns places, executions and waiting calls of the engine's and the layers' limits, by name."""
        return {name: gate.statistics() for name, gate in self._lanes.gates.items()}

    def workers(self) -> dict[str, WorkerStatistics]:
        """Returns the workers for functions with limits and for sandboxed tools, by name."""
        return {name: seats.statistics() for name, seats in self._seats.items()}

    def breaker(self, skill_id: str) -> CircuitBreaker | None:
        """Returns the circuit breaker of a skill, None before its first execution and where breakers are off."""
        lane = self._lanes.get(skill_id)
        return None if lane is None else lane.breaker

    def on(self, name: str, callback: Callable[[Any], object]) -> Callable[[], None]:
        """Calls `callback(event)` at each event of that name, and returns the function that ends it.

        Names: "execution-start" and "execution-complete" (ExecutionEvent), "breaker-change" (BreakerEvent),
        "loop-blocked" (LoopBlockedEvent). A callback that fails is logged.
        """
        if name not in self._listeners:
            raise InvalidValueError(f"no event is called {name!r}: there are {', '.join(self._listeners)}")
        return self._listeners[name].add(callback)

    # closing

    async def aclose(self, grace: float | None = None) -> None:
        """Refuses further executions, waits for those that run, and closes the runners; to be called from no skill.

        grace: seconds after which those that still run are cancelled; None waits for their own timeouts.
        Every runner is closed even if another one's close fails; the failures come as an ExceptionGroup.
        """
        checked_seconds("grace", grace)
        self._check_loop(asyncio.get_running_loop())
        self._closed, self._thread = True, 0  # no thread: what comes now is looked at closely
        if self._active:
            timer = None
            if grace is not None:
                timer = asyncio.get_running_loop().call_later(grace, self._interrupt_all, "close")
            try:
                await self._idle.wait()
            finally:
                if timer is not None:
                    timer.cancel()
        if self._loop is not None:
            await self._pipeline.aclose()
        runners = {id(runner): runner for runner in self._runners.values()}  # one may run several kinds
        outcomes = await asyncio.gather(*(runner.aclose() for runner in runners.values()), return_exceptions=True)
        await self._supervision.aclose()
        failures = [outcome for outcome in outcomes if isinstance(outcome, Exception)]
        if failures:
            raise ExceptionGroup("some runners could not be closed", failures)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    # one execution

    def _finish(self, run: Execution, output: Any, error: SkilllabError | None) -> ExecutionResult:
        """Takes the execution off the books and returns its result."""
        del self._active[run.execution_id]
        if error is not None:
            run.task = None  # the error's traceback holds the execution, and its task may hold the error
        if run.watched is not None:
            run.watched.pop(run, None)
        execution_id, skill_id, duration = run.execution_id, run.skill_id, run.duration
        waited = run.queued + run.waited
        rest = self._clock() - run.begin - waited
        if duration is not None:
            rest -= duration
        metadata = _new(
            ExecutionMetadata,
            (
                execution_id,
                skill_id,
                run.layer,
                run.isolation,
                run.start,
                duration,
                waited,
                rest,
                run.attempts,
                run.cached,
                run.longest_step,
                run.usage,
            ),
        )
        result: ExecutionResult = _new(ExecutionResult, (output, error, metadata))
        if self._completes.callbacks:
            event = _new(ExecutionEvent, ("execution-complete", execution_id, skill_id, self._wall_clock(), result))
            for callback in self._completes.callbacks:
                try:
                    callback(event)
                except (Exception, asyncio.CancelledError):  # noqa: BLE001 - see above
                    self._completes.failed(event)
        if self._closed and not self._active:
            self._idle.set()
        return result

    # what happens around it

    def _bind(self) -> asyncio.Task[Any]:
        """Makes the running event loop the engine's, the first time, and returns the task that runs in it."""
        if self._closed:
            raise EngineClosedError("the engine is closed: make a new one")
        loop = asyncio.get_running_loop()
        self._check_loop(loop)
        if self._loop is None:
            self._loop = loop
            self._pipeline.interruptions = Interruptions(loop, self._clock)
        self._thread = get_ident()
        task = current_task(loop)
        assert task is not None  # what awaits belongs to a task
        return task

    def _check_loop(self, loop: asyncio.AbstractEventLoop) -> None:
        if self._loop is not None and loop is not self._loop:
            raise WrongLoopError(
                "the engine belongs to the event loop that first used it, and this is another one: make an engine for it"
            )

    def _interrupt_all(self, reason: Reason) -> None:
        for run in tuple(self._active.values()):
            self._pipeline.interruptions.interrupt(run, reason)

    def _blocked(self, run: Execution, seconds: float, where: str) -> None:
        event = LoopBlockedEvent("loop-blocked", run.execution_id, run.skill_id, self._wall_clock(), seconds, where)
        self._listeners["loop-blocked"].tell(event)

    def _breaker_changed(self, skill_id: str, before: str, after: str) -> None:
        event = BreakerEvent("breaker-change", skill_id, self._wall_clock(), before, after)
        self._listeners["breaker-change"].tell(event)


def _wrapped(skill_id: str, error: BaseException) -> SkilllabError:
    failure = skill_failure(skill_id, error)
    failure.__cause__ = error
    return failure
