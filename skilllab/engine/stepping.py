"""Stepping: a coroutine driven step by step, so that what its own steps cost is known exactly.

A step is what runs between two waits. Its CPU time is that of its thread, which is exact as long as the work stays in it:
where the coroutine started tasks or threads, cpu_time is None and says so. Seen are tasks made through the loop, threads
started during a step, and awaited futures of executors, also inside asyncio.gather. Not seen are callbacks given to the
loop, child processes, and threads that ran already and were asked by other means (a queue, asyncio.shield, asyncio.wait).
An execution inside another one is counted once, for the inner one: its steps and its share of a slow step are taken off
the outer one's, and the tasks that the engine makes for it are no tasks of the outer one.
"""

from __future__ import annotations

import asyncio
import os
import time
import types
from _thread import _count as count_threads
from collections.abc import Callable, Coroutine, Generator
from contextlib import suppress
from pathlib import Path
from typing import Any

from skilllab.engine.execution import Execution
from skilllab.engine.frames import move_to_task, where_ended
from skilllab.errors import ExecutionError, SkillFailedError
from skilllab.frozen import FrozenDict
from skilllab.outcome import ResourceUsage
from skilllab.settings import SLOW_STEP

_SHARED = "functions share this process, where the part of one execution was not measured"
_UNMEASURED = FrozenDict(dict.fromkeys(("memory_used", "network_requests", "redirects"), _SHARED))
_new = tuple.__new__


def measured(cpu_time: float) -> ResourceUsage:
    """Returns the usage of an execution of which the CPU time (s) is known."""
    usage: ResourceUsage = _new(ResourceUsage, (cpu_time, None, None, None, _UNMEASURED))
    return usage


def unmeasured(reason: str) -> ResourceUsage:
    """Returns the usage of an execution of which the CPU time is not known, for this reason."""
    return ResourceUsage(unmeasured=FrozenDict({"cpu_time": reason, **_UNMEASURED}))


async def awaited(awaitable: Any) -> Any:
    """Returns what the awaitable gives: a coroutine, which can be stepped, of what is none."""
    return await awaitable


STARTED_TASKS = unmeasured("the skill started tasks of its own, whose CPU time was not measured")
USED_THREADS = unmeasured("threads were started or used while the skill ran, whose CPU time was not measured")
TASKS_UNSEEN = unmeasured(
    "another task factory was set on the event loop after the engine's, so that tasks of the skill were not seen"
)
LEFT_BEHIND = unmeasured("the skill could not be stopped, so that its CPU time is not known yet")


def skill_failure(skill_id: str, error: BaseException) -> SkillFailedError:
    """Returns the error that says which skill raised what; to be raised `from` the error itself."""
    try:
        text = str(error)
    except Exception:  # noqa: BLE001 - the text of a foreign error is foreign code
        text = "(an error without readable text)"
    return SkillFailedError(f"{skill_id}: {type(error).__qualname__}{': ' if text else ''}{text}")


class Watch:
    """The task factory that notes which steps start tasks, and what the steps of an event loop amount to; one a loop.

    It wraps the factory that was set before it. marks: tasks made so far by skills. cpu, wall: seconds of all steps.
    """

    __slots__ = ("cpu", "marks", "passed", "previous", "users", "wall")

    def __init__(self, previous: Callable[..., Any] | None) -> None:
        self.previous = previous
        self.users = 0
        self.marks = 0
        self.cpu = 0.0
        self.wall = 0.0
        self.passed: Any = None  # the awaited future that an inner step has looked at

    def __call__(self, loop: asyncio.AbstractEventLoop, coro: Any, **options: Any) -> Any:
        code = getattr(coro, "cr_code", None)
        if code is None or not code.co_filename.startswith(_ENGINE):
            self.marks += 1
        if self.previous is None:
            return asyncio.Task(coro, loop=loop, **options)
        return self.previous(loop, coro, **options)


_ENGINE = f"{Path(__file__).parent}{os.sep}"


class Stepper:
    """Drives the coroutines of one runner on one event loop.

    cpu_clock: seconds that the current thread spent on a processor. left: tasks that carry on what could not be stopped.
    """

    __slots__ = ("_cpu_clock", "_current_factory", "_loop", "left", "watch")

    def __init__(self, loop: asyncio.AbstractEventLoop, cpu_clock: Callable[[], float] = time.thread_time) -> None:
        factory = loop.get_task_factory()
        if not isinstance(factory, Watch):
            factory = Watch(factory)
            loop.set_task_factory(factory)
        factory.users += 1
        self.watch = factory
        self.left: set[asyncio.Task[Any]] = set()
        self._loop = loop
        self._cpu_clock = cpu_clock
        self._current_factory = loop.get_task_factory

    def close(self) -> None:
        """Cancels what was left behind once more, and gives the loop its task factory back if nobody set another."""
        for task in tuple(self.left):
            task.cancel()
        self.watch.users -= 1
        if not self.watch.users and self._current_factory() is self.watch:
            self._loop.set_task_factory(self.watch.previous)

    async def run(self, execution: Execution, coroutine: Any) -> Any:
        """Returns what the coroutine returns; see `step`. CPU time is added to what the execution has spent so far."""
        if not self.step(execution, coroutine):
            await self.rest(execution, coroutine)
        return execution.output

    def step(self, execution: Execution, coroutine: Any, value: Any = None, error: BaseException | None = None) -> bool:
        """Takes one step and notes in the execution what it cost; returns whether it was the last.

        The output is then in `execution.output`, and before that what is waited for in `execution.pending`.
        Raises SkillFailedError for what the coroutine raises (a SystemExit included: no skill ends the program), but an
        ExecutionError that names the skill as it is, and CancelledError when the caller was cancelled.
        """
        watch, clock, cpu_clock = self.watch, execution.clock, self._cpu_clock
        marks, others_cpu, others_wall, threads = watch.marks, watch.cpu, watch.wall, count_threads()
        trace = None
        begin = clock()
        begin_cpu = cpu_clock()
        try:
            execution.pending = coroutine.send(value) if error is None else coroutine.throw(error)
            return False
        except StopIteration as end:
            execution.output = end.value
            return True
        except (Exception, SystemExit, asyncio.CancelledError) as caught:
            # KeyboardInterrupt is not among them: on the loop's thread it is the person at the keyboard.
            trace = caught.__traceback__
            if isinstance(caught, asyncio.CancelledError) and (execution.interrupts or _was_cancelled(execution)):
                raise
            if isinstance(caught, ExecutionError) and getattr(caught, "skill_id", None) == execution.skill_id:
                raise  # it names this very skill: what calls a tool elsewhere knows best how that failed
            raise skill_failure(execution.skill_id, caught) from caught
        finally:
            spent = cpu_clock() - begin_cpu
            step = clock() - begin
            execution.cpu_time += spent - (watch.cpu - others_cpu)  # what inner executions noted meanwhile is theirs
            watch.cpu = others_cpu + spent
            own = step - (watch.wall - others_wall)
            watch.wall = others_wall + step
            if own > (execution.longest_step or 0.0):
                execution.longest_step = own
            if own > SLOW_STEP:
                execution.block(own, where_ended(execution.skill.function, coroutine, trace))
            if watch.marks != marks or count_threads() > threads:
                execution.unseen = USED_THREADS if watch.marks == marks else STARTED_TASKS
                watch.marks = marks
            elif self._current_factory() is not watch:
                execution.unseen = TASKS_UNSEEN
            execution.usage = execution.unseen or _new(
                ResourceUsage, (execution.cpu_time, None, None, None, _UNMEASURED)
            )
            error = trace = None  # an error's traceback holds this frame, which must not hold it too

    @types.coroutine
    def rest(self, execution: Execution, coroutine: Any) -> Generator[Any, Any, None]:
        """Takes the steps after the first; a coroutine that waits on after a second interruption is left behind."""
        watch = self.watch
        value = error = None
        try:
            while True:
                yielded, execution.pending = execution.pending, None
                if error is not None and execution.interrupts >= 2 and isinstance(error, asyncio.CancelledError):
                    execution.unseen = execution.usage = LEFT_BEHIND
                    self._leave_behind(execution, coroutine, yielded)
                    raise asyncio.CancelledError
                if yielded is not None and yielded is not watch.passed:
                    watch.passed = yielded
                    if _waits_for_thread(yielded):
                        execution.unseen = USED_THREADS
                error = None
                try:
                    value = yield yielded
                except BaseException as caught:  # noqa: BLE001 - whatever it is, it is the coroutine's to meet
                    value, error = None, caught
                watch.passed = None
                if self.step(execution, coroutine, value, error):
                    return
        finally:
            value = error = yielded = None  # as in step

    def start(self, coroutine: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        """Runs what is left behind in a task, which counts as left until it ends."""
        task = self._loop.create_task(coroutine)
        self.left.add(task)
        task.add_done_callback(self.left.discard)
        return task

    def _leave_behind(self, execution: Execution, coroutine: Any, yielded: Any) -> None:
        before = asyncio.current_task(self._loop)
        task = execution.left_behind = self.start(_carry_on(coroutine, yielded))
        if before is not None:
            move_to_task(coroutine, before, task)


async def _carry_on(coroutine: Any, yielded: Any) -> None:
    # Whoever asked has long been told that it was ended; what it still returns or raises is of interest to nobody.
    with suppress(Exception, SystemExit):
        await _driven(coroutine, yielded)


@types.coroutine
def _driven(coroutine: Any, yielded: Any) -> Generator[Any, Any, Any]:
    """Drives a coroutine on from where it waits for `yielded`."""
    while True:
        error: BaseException | None = None
        value = None
        try:
            value = yield yielded
        except BaseException as caught:  # noqa: BLE001 - whatever it is, it is the coroutine's to meet
            error = caught
        try:
            yielded = coroutine.send(value) if error is None else coroutine.throw(error)
        except StopIteration:
            return
        finally:
            del error


def _was_cancelled(execution: Execution) -> bool:
    task = asyncio.current_task()
    return task is None or task.cancelling() > execution.cancelling


_chain: Any = getattr(asyncio.futures, "_chain_future")  # noqa: B009 - it has no public name
_CHAINED = frozenset(code for code in _chain.__code__.co_consts if isinstance(code, types.CodeType))
"""The callbacks that tie a future of the loop to one of an executor."""


def _waits_for_thread(future: Any) -> bool:
    """Tells whether a future is the loop's end of one that an executor works on; so are the parts of a gathering one."""
    for part in (future, *getattr(future, "_children", ())):
        for callback, _ in getattr(part, "_callbacks", None) or ():
            if getattr(callback, "__code__", None) in _CHAINED:
                return True
    return False
