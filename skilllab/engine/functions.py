"""The runner of layer 1: Python functions, in this process or, where a limit asks for it, in one of their own."""

from __future__ import annotations

import asyncio
import contextvars
import functools
import inspect
import math
import time
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

from skilllab.engine.chunks import chunks_in_thread, chunks_on_loop
from skilllab.engine.coalescing import Coalescer
from skilllab.engine.confined import ConfinedFunctions
from skilllab.engine.execution import Execution
from skilllab.engine.leases import Leases
from skilllab.engine.pools import ConnectionPool
from skilllab.engine.stepping import LEFT_BEHIND, Stepper, awaited, measured, skill_failure
from skilllab.engine.threads import Job, Threads
from skilllab.engine.workers.machine import Isolation, checked_isolation
from skilllab.engine.workers.rooms import checked_texts
from skilllab.engine.workers.supervision import Supervision
from skilllab.errors import HandlerNotRunnableError, InvalidValueError
from skilllab.frozen import FrozenDict
from skilllab.loading import LoadedSkill
from skilllab.model import ResourceLimits
from skilllab.settings import (
    FUNCTION_BATCH_SIZE,
    FUNCTION_BATCH_WAIT,
    FUNCTION_MAX_OUTPUT,
    FUNCTION_THREADS,
    FUNCTION_WORKERS,
    RESULT_TTL,
)

__all__ = ["FunctionOptions", "FunctionRunner", "skill_failure"]


@dataclass(frozen=True, slots=True)
class FunctionOptions:
    """How functions run.

    max_threads: plain functions at once; further ones wait their turn. pools: connection pools by the name under which
    skills lease from them; the engine closes them when it is closed. batch_size, batch_wait: executions that a batch
    function gets together at most, and seconds that one waits for others. cache_ttl: seconds that a kept output lives
    unless its skill says otherwise; None keeps it.
    What follows is for functions with limits, which run in workers: processes of their own. max_workers: such processes at
    once. isolation: "process" (limits only), or "bubblewrap", which also takes away the network and all files but the
    system's, those where Python finds modules, and `paths`; outputs are pickled all the same, so that it is for functions that
    are trusted (a script, which answers in JSON, need not be). env: variables besides. preload: modules that a worker finds
    imported; that of the function is. max_output: bytes, pickled, that a call may return.
    """

    max_threads: int = FUNCTION_THREADS
    pools: Mapping[str, ConnectionPool] = FrozenDict()
    batch_size: int = FUNCTION_BATCH_SIZE
    batch_wait: float = FUNCTION_BATCH_WAIT
    cache_ttl: float | None = RESULT_TTL
    max_workers: int = FUNCTION_WORKERS
    isolation: Isolation = "process"
    paths: tuple[str, ...] = ()
    env: Mapping[str, str] = FrozenDict()
    preload: tuple[str, ...] = ()
    max_output: int = FUNCTION_MAX_OUTPUT

    def __post_init__(self) -> None:
        for name in ("max_threads", "batch_size", "max_workers", "max_output"):
            count = getattr(self, name)
            if type(count) is not int or count < 1:
                raise InvalidValueError(f"{name}={count!r} must be a whole number of at least 1")
        if type(self.batch_wait) not in (int, float) or not 0 <= self.batch_wait < math.inf:
            raise InvalidValueError(f"batch_wait={self.batch_wait!r} must be seconds of at least 0")
        ttl = self.cache_ttl
        if ttl is not None and (type(ttl) not in (int, float) or not 0 < ttl < math.inf):
            raise InvalidValueError(f"cache_ttl={ttl!r} must be seconds above 0, or None to keep outputs")
        if not isinstance(self.pools, Mapping):
            raise InvalidValueError(f"pools={self.pools!r} must be a mapping of names to ConnectionPool(...)")
        for name, pool in self.pools.items():
            if not isinstance(name, str) or not isinstance(pool, ConnectionPool):
                raise InvalidValueError(f"pools[{name!r}]={pool!r} must be a ConnectionPool(...) under a name")
        checked_isolation(self.isolation)
        if self.isolation is None:
            raise InvalidValueError("isolation=None must be 'process' or 'bubblewrap': a function runs in one of them")
        object.__setattr__(self, "pools", FrozenDict(self.pools))
        object.__setattr__(self, "env", FrozenDict(self.env))
        for name in ("paths", "preload"):
            object.__setattr__(self, name, checked_texts(name, getattr(self, name)))


class FunctionRunner:
    """Runs `async def` on the event loop and a plain `def` in a thread, with parameters as keywords.

    An `async def` is stepped (see skilllab.engine.stepping), so that its CPU time is that of its own steps; that of a
    plain function is its thread's, without what threads and processes of its own spend. The thread sees the caller's
    context variables. When the caller is cancelled an `async def` is cancelled with it, and left behind if it waits on
    after a second interruption; a plain function that has not begun never begins, and one that has is left behind: it
    keeps its thread and its connections until it ends. cpu_clock: seconds that a thread spent on a processor.
    A function that has a limit, or asks for isolation, runs in a worker (see skilllab.engine.confined), alone: not in a
    batch. supervision: of the engine, which closes it; without one such functions are refused.
    """

    isolation = "none"
    limits: ResourceLimits | None = None

    def __init__(
        self,
        options: FunctionOptions = FunctionOptions(),
        supervision: Supervision | None = None,
        *,
        cpu_clock: Callable[[], float] = time.thread_time,
    ) -> None:
        self.confined = ConfinedFunctions(options, supervision or Supervision())
        self._pools = options.pools
        self._cpu_clock = cpu_clock
        self._threads = Threads(options.max_threads, "skilllab-function", cpu_clock)
        self._coalescer = Coalescer(self._run_batch, options.batch_size, options.batch_wait)
        self._stepper: Stepper | None = None

    @property
    def abandoned(self) -> int:
        """Functions that run on although nobody waits for them any more."""
        return self._threads.abandoned + (0 if self._stepper is None else len(self._stepper.left))

    async def run(self, execution: Execution) -> Any:
        """Returns what the function returned.

        Raises SkillFailedError with the function's own error as its cause (a SystemExit included: no skill ends the
        program), LeaseError, BatchError, HandlerNotRunnableError for what is no function or yields.
        """
        if execution.limits is not None or execution.skill.definition.isolation is not None:
            return await self.confined.run(execution)
        if not execution.skill.direct:
            return await self._run_otherwise(execution)
        if not self.begin(execution):
            await self.go_on(execution)
        return execution.output

    def begin(self, execution: Execution) -> bool:
        """Takes the first step of an `async def` without await in between; returns whether it was the last.

        For skills that are `direct`. The output is then in `execution.output`; else `go_on` must be awaited.
        """
        stepper = self._stepper or self._begin()
        try:
            coroutine = execution.skill.function(**execution.params)  # type: ignore[misc]  # direct: it is a function
        except Exception as error:
            raise skill_failure(execution.skill_id, error) from error
        if stepper.step(execution, coroutine):
            return True
        execution.coroutine = coroutine
        return False

    async def go_on(self, execution: Execution) -> Any:
        """Takes the steps after the first and returns the output."""
        coroutine, execution.coroutine = execution.coroutine, None
        stepper = self._stepper or self._begin()
        await stepper.rest(execution, coroutine)
        return execution.output

    async def stream(self, execution: Execution) -> AsyncGenerator[Any, None]:
        """Yields the chunks of a generator, each computed when it is asked for; closes the generator at the end.

        Raises what `run` raises, and HandlerNotRunnableError for what is no generator.
        """
        function = _function_of(execution)
        if execution.limits is not None or execution.skill.definition.isolation is not None:
            async with aclosing(self.confined.stream(execution)) as made:
                async for chunk in made:
                    yield chunk
            return
        if inspect.isasyncgenfunction(function):
            stepper = self._stepper or self._begin()
            chunks = functools.partial(chunks_on_loop, stepper)
        elif inspect.isgeneratorfunction(function):
            chunks = functools.partial(chunks_in_thread, self._in_thread)
        else:
            raise HandlerNotRunnableError(
                f"{execution.skill_id}: it says streaming=True, but its function yields nothing: yield its chunks"
            )
        async with Leases(self._pools, execution, _leases_of(execution)) as connections:
            try:
                source = function(**{**execution.params, **connections})
            except Exception as error:
                raise skill_failure(execution.skill_id, error) from error
            async with aclosing(chunks(execution, source)) as made:
                async for chunk in made:
                    yield chunk

    def unheld(self, skill: LoadedSkill, limits: ResourceLimits) -> Mapping[str, str]:
        """Returns the limits that cannot be held for the function, each with the reason; raises IsolationError."""
        return self.confined.unheld(skill, limits)

    async def aclose(self) -> None:
        """Waits for functions that somebody waits for, ends threads and workers, and closes the pools.

        What was left behind is not waited for: coroutines are cancelled once more, threads end with the program.
        """
        await self._coalescer.aclose()
        await self.confined.aclose()
        await self._threads.aclose()
        if self._stepper is not None:
            self._stepper.close()
            self._stepper = None
        await asyncio.gather(*(pool.aclose() for pool in self._pools.values()))

    def _begin(self) -> Stepper:
        self._stepper = Stepper(asyncio.get_running_loop(), self._cpu_clock)
        return self._stepper

    # ways to run

    async def _run_otherwise(self, execution: Execution) -> Any:
        function = _function_of(execution)
        if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
            raise HandlerNotRunnableError(
                f"{execution.skill_id}: its function yields: say streaming=True and read it with engine.stream(...)"
            )
        if execution.skill.batch is not None:
            return await self._coalescer.output(execution)
        async with Leases(self._pools, execution, _leases_of(execution)) as connections:
            return await self._invoke(execution, function, (), {**execution.params, **connections})

    async def _run_batch(self, execution: Execution, items: list[Any]) -> Any:
        """Returns the answers of the batch function; its connections, one for the whole batch, are keywords."""
        function = execution.skill.batch
        assert function is not None
        async with Leases(self._pools, execution, _leases_of(execution)) as connections:
            return await self._invoke(execution, function, (items,), connections)

    async def _invoke(
        self, execution: Execution, function: Callable[..., Any], args: tuple[Any, ...], params: dict[str, Any]
    ) -> Any:
        if inspect.iscoroutinefunction(function):
            execution.usage = measured(0.0)
            try:
                output = function(*args, **params)
            except Exception as error:
                raise skill_failure(execution.skill_id, error) from error
        else:
            output = await self._in_thread(execution, function, args, params)
            if not inspect.isawaitable(output):
                return output
        # A plain function may hand out an awaitable (a wrapper around an async def): that belongs on the loop as well.
        stepper = self._stepper or self._begin()
        coroutine = output if inspect.iscoroutine(output) else awaited(output)
        return await stepper.run(execution, coroutine)

    async def _in_thread(
        self,
        execution: Execution,
        function: Callable[..., Any],
        args: tuple[Any, ...] = (),
        params: Mapping[str, Any] = FrozenDict(),
        context: contextvars.Context | None = None,
        after: Callable[[Any], object] | None = None,
    ) -> Any:
        """Returns what the function returns in a thread; adds its wait and its CPU time to the execution's."""
        job = self._threads.submit(
            _call,
            execution.skill_id,
            function,
            args,
            params,
            context=context,
            clock=execution.clock,
            after=after or _close,
        )
        try:
            await job.done
            return job.take()
        except asyncio.CancelledError:
            if self._threads.give_up(job):
                execution.left_behind = job.done
            else:
                _close(job.output)
            raise
        finally:
            _note_job(execution, job)
            del job


def _function_of(execution: Execution) -> Callable[..., Any]:
    function = execution.skill.function
    if function is None:
        raise HandlerNotRunnableError(
            f"{execution.skill_id}: its handler is no function; give it to the runner of its kind"
        )
    return function


def _leases_of(execution: Execution) -> tuple[str, ...]:
    leases: tuple[str, ...] = getattr(execution.skill.definition.handler, "leases", ())
    return leases


def _note_job(execution: Execution, job: Job) -> None:
    execution.waited += job.waited
    if execution.left_behind is not None:
        execution.usage = LEFT_BEHIND
    elif job.began:
        execution.cpu_time += job.cpu_time
        execution.usage = execution.unseen or measured(execution.cpu_time)


def _call(skill_id: str, function: Callable[..., Any], args: tuple[Any, ...], params: Mapping[str, Any]) -> Any:
    try:
        return function(*args, **params)
    except BaseException as error:
        # Ctrl-C never reaches a thread, so this is the skill's; and a future could not carry a StopIteration.
        raise skill_failure(skill_id, error) from error


def _close(output: Any) -> None:
    """Closes a coroutine that nobody is there to await."""
    if inspect.iscoroutine(output):
        output.close()
