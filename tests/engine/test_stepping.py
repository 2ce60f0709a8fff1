"""Stepping coroutines: what their steps cost, where they hold up the loop, and what becomes of one that will not stop."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import inspect
import threading
import time
import weakref
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from skilllab.engine.execution import Execution
from skilllab.engine.stepping import Stepper
from skilllab.errors import SkillFailedError
from skilllab.loading import load
from skilllab.model import FunctionHandler, SkillDefinition
from skilllab.outcome import ResourceUsage
from skilllab.testing import FakeClock

VARIABLE: contextvars.ContextVar[str] = contextvars.ContextVar("VARIABLE", default="unset")


class Steps:
    """A stepper with clocks that move only when told to, and the executions that it ran."""

    def __init__(self, **options: Any) -> None:
        self.clock = FakeClock()
        self.cpu = FakeClock()
        self.stepper = Stepper(asyncio.get_running_loop(), self.cpu, **options)
        self.blocks: list[tuple[float, str]] = []

    def burn(self, seconds: float) -> None:
        """What a step does that computes so long."""
        self.clock.advance(seconds)
        self.cpu.advance(seconds)

    def execution(self, function: Callable[..., Any]) -> Execution:
        execution = Execution.of("e", "s", 0.0, 0.0)
        execution.skill = load(
            SkillDefinition(id="s", name="s", layer=1, handler=FunctionHandler(target="m:f", function=function)), 1
        )
        execution.clock = self.clock
        task = asyncio.current_task()
        assert task is not None
        execution.task, execution.cancelling = task, task.cancelling()
        execution.on_block = lambda _, seconds, where: self.blocks.append((seconds, where))
        return execution

    def run(self, execution: Execution) -> Awaitable[Any]:
        assert execution.skill.function is not None
        running: Awaitable[Any] = self.stepper.run(execution, execution.skill.function())
        return running

    async def usage(self, function: Callable[..., Any]) -> ResourceUsage:
        execution = self.execution(function)
        await self.run(execution)
        return execution.usage


def with_steps(work: Callable[[Steps], Awaitable[Any]]) -> Any:
    async def run() -> Any:
        steps = Steps()
        try:
            return await work(steps)
        finally:
            steps.stepper.close()

    return asyncio.run(run())


async def turn() -> None:
    await asyncio.sleep(0)


# what steps cost


def test_cpu_time_is_that_of_its_own_steps() -> None:
    """What another task burns between two steps is not counted; what the steps burn is, to the last bit."""

    async def work(steps: Steps) -> None:
        async def function() -> str:
            steps.burn(0.25)
            await turn()
            steps.burn(0.5)
            return "done"

        async def other() -> None:
            steps.burn(100.0)

        execution = steps.execution(function)
        others = asyncio.create_task(other())
        assert await steps.run(execution) == "done"
        await others
        usage = execution.usage
        assert (usage.cpu_time, usage.memory_used, usage.network_requests, usage.redirects) == (0.75, None, None, None)
        assert set(usage.unmeasured) == {"memory_used", "network_requests", "redirects"}
        assert execution.longest_step == 0.5

    with_steps(work)


def test_the_thread_clock_is_read() -> None:
    """With the real clock, 20 ms of computing are at least 15 ms of CPU time, and 20 ms of sleeping next to none."""

    async def work() -> tuple[float | None, float | None]:
        async def busy() -> None:
            end = time.thread_time() + 0.02
            while time.thread_time() < end:
                pass

        async def idle() -> None:
            await asyncio.sleep(0.02)

        steps = Steps()
        steps.stepper.close()
        steps.stepper = Stepper(asyncio.get_running_loop())
        usages = [await steps.usage(busy), await steps.usage(idle)]
        steps.stepper.close()
        return usages[0].cpu_time, usages[1].cpu_time

    busy, idle = asyncio.run(work())
    assert busy is not None
    assert idle is not None
    assert busy >= 0.015
    assert idle < busy / 2


def test_the_steps_of_an_inner_execution_are_its_own() -> None:
    """What an execution burns that another one awaits is counted once, for the inner one, as are its slow steps."""

    async def work(steps: Steps) -> None:
        async def inner_function() -> None:
            steps.burn(1.0)
            await turn()
            steps.burn(2.0)

        inner = steps.execution(inner_function)

        async def outer_function() -> None:
            steps.burn(0.01)
            await steps.run(inner)
            steps.burn(0.02)

        outer = steps.execution(outer_function)
        await steps.run(outer)
        assert inner.usage.cpu_time == pytest.approx(3.0)
        assert outer.usage.cpu_time == pytest.approx(0.03)
        assert (inner.longest_step, outer.longest_step) == (pytest.approx(2.0), pytest.approx(0.02))
        assert [seconds for seconds, _ in steps.blocks] == [1.0, pytest.approx(2.0)]

    with_steps(work)


PROGRAMS = st.recursive(st.integers(0, 8) | st.none(), lambda inner: st.lists(inner, max_size=4), max_leaves=12).filter(
    lambda program: isinstance(program, list)
)


@pytest.mark.slow
@given(PROGRAMS)
def test_every_second_is_counted_once(program: list[Any]) -> None:
    """Whatever burns, waits and awaits further executions: each counts what it burns itself, and nothing else."""

    async def work(steps: Steps) -> None:
        ran: list[tuple[list[Any], Execution]] = []

        def execution_of(program: list[Any]) -> Execution:
            async def function() -> None:
                for part in program:
                    if part is None:
                        await turn()
                    elif isinstance(part, int):
                        steps.burn(part / 8)
                    else:
                        await steps.run(execution_of(part))

            execution = steps.execution(function)
            ran.append((program, execution))
            return execution

        await steps.run(execution_of(program))
        for part, execution in ran:
            assert execution.usage.cpu_time == sum(burn / 8 for burn in part if isinstance(burn, int))

    with_steps(work)


# where a step holds up the loop


async def helper(steps: Steps) -> None:
    steps.burn(0.06)
    await asyncio.sleep(0)  # the place at which the step ends


async def numbers(steps: Steps) -> AsyncIterator[int]:
    yield 1
    steps.burn(0.06)
    await asyncio.sleep(0)  # the place in a generator


def line_of(text: str) -> int:
    source, first = inspect.getsourcelines(inspect.getmodule(helper))  # type: ignore[arg-type]
    return next(number for number, line in enumerate(source, max(first, 1)) if text in line and "line_of" not in line)


@pytest.mark.parametrize("ends", ["waits", "waits in a generator", "returns", "raises"])
def test_a_step_that_holds_up_the_loop_is_named(ends: str) -> None:
    """A step of more than 50 ms is reported with its time and the place at which it ended, files without their folder."""

    async def work(steps: Steps) -> None:
        async def waits() -> None:
            await helper(steps)

        async def waits_in_a_generator() -> None:
            async for _ in numbers(steps):
                pass

        async def returns() -> None:  # the function that returned
            steps.burn(0.06)

        async def raises() -> None:
            steps.burn(0.06)
            raise ValueError("slow and wrong")  # the place that raised

        functions = {
            "waits": (waits, "helper", "# the place at which the step ends"),
            "waits in a generator": (waits_in_a_generator, "numbers", "# the place in a generator"),
            "returns": (returns, "returns", "# the function that returned"),
            "raises": (raises, "raises", "# the place that raised"),
        }
        function, name, text = functions[ends]
        execution = steps.execution(function)
        try:
            await steps.run(execution)
        except SkillFailedError:
            assert ends == "raises"
        ((seconds, where),) = steps.blocks
        assert seconds == pytest.approx(0.06)
        assert where.startswith(f"{__name__}.")
        assert where.endswith(f"{name} (test_stepping.py:{line_of(text)})")
        assert "/" not in where

    with_steps(work)


def test_short_steps_are_not_reported() -> None:
    """Many steps of 50 ms each hold up nobody for longer than that."""

    async def work(steps: Steps) -> None:
        async def function() -> None:
            for _ in range(10):
                steps.clock.now = 0.0
                steps.burn(0.05)
                await turn()

        execution = steps.execution(function)
        await steps.run(execution)
        assert (steps.blocks, execution.longest_step) == ([], 0.05)

    with_steps(work)


# what no step shows


async def with_create_task() -> None:
    await asyncio.create_task(turn())


async def with_group() -> None:
    async with asyncio.TaskGroup() as group:
        group.create_task(turn())


async def with_gather() -> None:
    await asyncio.gather(turn(), turn())


async def with_a_task_never_awaited() -> None:
    asyncio.get_running_loop().create_task(turn())


@pytest.mark.parametrize("function", [with_create_task, with_group, with_gather, with_a_task_never_awaited])
def test_a_skill_that_starts_tasks_has_no_cpu_time(function: Callable[..., Any]) -> None:
    """What its tasks burn is not seen: cpu_time is None, with the reason, and not a number that is too small."""

    async def work(steps: Steps) -> ResourceUsage:
        usage = await steps.usage(function)
        assert (await steps.usage(turn)).cpu_time == 0.0  # the next one is measured again
        return usage

    usage = with_steps(work)
    assert usage.cpu_time is None
    assert usage.unmeasured["cpu_time"] == "the skill started tasks of its own, whose CPU time was not measured"


def test_the_tasks_of_an_inner_execution_are_not_the_outer_ones() -> None:
    """An execution whose inner one starts tasks or asks threads knows its own CPU time nevertheless."""

    async def work(steps: Steps) -> None:
        async def in_thread() -> None:
            await asyncio.to_thread(time.thread_time)

        inner = [steps.execution(function) for function in (with_gather, in_thread)]

        async def outer_function() -> None:
            for execution in inner:
                await steps.run(execution)
            steps.burn(0.01)

        await asyncio.to_thread(time.thread_time)  # the executor has its thread
        outer = steps.execution(outer_function)
        await steps.run(outer)
        assert [execution.usage.cpu_time for execution in inner] == [None, None]
        assert outer.usage.cpu_time == pytest.approx(0.01)

    with_steps(work)


async def executor_awaited(executor: ThreadPoolExecutor) -> None:
    await asyncio.get_running_loop().run_in_executor(executor, time.thread_time)


async def executor_gathered(executor: ThreadPoolExecutor) -> None:
    loop = asyncio.get_running_loop()
    await asyncio.gather(*(loop.run_in_executor(executor, time.thread_time) for _ in range(2)))


async def future_wrapped(executor: ThreadPoolExecutor) -> None:
    await asyncio.wrap_future(executor.submit(time.sleep, 0.001))


@pytest.mark.parametrize("function", [executor_awaited, executor_gathered, future_wrapped])
def test_a_skill_that_asks_threads_has_no_cpu_time(function: Callable[..., Any]) -> None:
    """An executor's thread that ran before is seen by the future that is awaited, also when futures are gathered."""

    async def work(steps: Steps) -> ResourceUsage:
        with ThreadPoolExecutor(1) as executor:
            executor.submit(time.thread_time).result()
            return await steps.usage(lambda: function(executor))

    usage = with_steps(work)
    assert usage.cpu_time is None
    assert "threads were started or used" in usage.unmeasured["cpu_time"]


def test_a_skill_that_starts_a_thread_has_no_cpu_time() -> None:
    """A thread that starts during a step is seen, although nothing is awaited; one that runs already is not its own."""

    async def work(steps: Steps) -> None:
        gate = threading.Event()
        thread = threading.Thread(target=gate.wait)

        async def starts() -> None:
            thread.start()

        try:
            assert (await steps.usage(starts)).cpu_time is None
            assert (await steps.usage(turn)).cpu_time == 0.0
        finally:
            gate.set()
            thread.join()

    with_steps(work)


def test_what_is_no_task_is_measured() -> None:
    """Timeouts, events, timers and generators start no task: cpu_time is known."""

    async def work(steps: Steps) -> None:
        async def function() -> None:
            async with asyncio.timeout(10):
                event = asyncio.Event()
                asyncio.get_running_loop().call_soon(event.set)
                await event.wait()
                async for _ in numbers(steps):
                    await asyncio.sleep(0.001)

        assert (await steps.usage(function)).cpu_time == pytest.approx(0.06)

    with_steps(work)


# the task factory


def test_the_task_factory_is_wrapped_and_given_back() -> None:
    """A factory that the loop had before still makes the tasks, with their context, and is the loop's again at the end."""

    async def work() -> None:
        loop = asyncio.get_running_loop()
        seen: list[dict[str, Any]] = []

        def before(loop: asyncio.AbstractEventLoop, coro: Any, **options: Any) -> asyncio.Task[Any]:
            seen.append(options)
            return asyncio.Task(coro, loop=loop, **options)

        loop.set_task_factory(before)
        first, second = Steps(), Steps()
        context = contextvars.copy_context()
        context.run(VARIABLE.set, "its own")

        async def value() -> str:
            return VARIABLE.get()

        task = loop.create_task(value(), context=context, name="named")
        assert (await task, task.get_name()) == ("its own", "named")
        assert seen[0]["context"] is context
        first.stepper.close()
        assert (await second.usage(with_create_task)).cpu_time is None
        second.stepper.close()
        assert loop.get_task_factory() is before

    asyncio.run(work())


def test_without_a_factory_the_loop_has_none_again() -> None:
    """Closing the last stepper of a loop leaves it as it was."""

    async def work(steps: Steps) -> None:
        loop = asyncio.get_running_loop()
        other = Steps()
        assert loop.get_task_factory() is other.stepper.watch is steps.stepper.watch
        other.stepper.close()
        assert loop.get_task_factory() is steps.stepper.watch

    async def whole() -> None:
        steps = Steps()
        await work(steps)
        steps.stepper.close()
        assert asyncio.get_running_loop().get_task_factory() is None

    asyncio.run(whole())


def test_a_factory_that_another_sets_is_noticed() -> None:
    """Where tasks can no longer be seen cpu_time is None and says why; the other factory stays."""

    async def work() -> None:
        steps = Steps()

        def other(loop: asyncio.AbstractEventLoop, coro: Any, **options: Any) -> asyncio.Task[Any]:
            return asyncio.Task(coro, loop=loop, **options)

        asyncio.get_running_loop().set_task_factory(other)
        usage = await steps.usage(turn)
        assert usage.cpu_time is None
        assert "another task factory was set" in usage.unmeasured["cpu_time"]
        steps.stepper.close()
        assert asyncio.get_running_loop().get_task_factory() is other

    asyncio.run(work())


# what works inside


def test_what_belongs_to_a_task_works_inside() -> None:
    """Timeouts end what they are around, a task group cancels its rest, context variables live on, iterators iterate."""

    async def work(steps: Steps) -> None:
        async def function() -> list[Any]:
            seen: list[Any] = []
            try:
                async with asyncio.timeout(0.001):
                    await asyncio.Event().wait()
            except TimeoutError:
                seen.append("timed out")
            try:
                async with asyncio.TaskGroup() as group:
                    group.create_task(failing())
                    await asyncio.Event().wait()
            except* ValueError:
                seen.append("group ended")
            VARIABLE.set("set inside")
            await turn()
            seen.append(VARIABLE.get())
            seen.extend([number async for number in numbers(steps)])
            return seen

        async def failing() -> None:
            raise ValueError

        assert await steps.run(steps.execution(function)) == ["timed out", "group ended", "set inside", 1]
        assert VARIABLE.get() == "set inside"

    with_steps(work)


# interruptions


@contextmanager
def no_garbage_collector() -> Iterator[None]:
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


async def interrupt(task: asyncio.Task[Any], execution: Execution) -> None:
    """Does what an engine does at a deadline, and lets the task meet it."""
    execution.interrupts += 1
    task.cancel()
    for _ in range(5):
        await turn()


async def start(steps: Steps, function: Callable[..., Any]) -> tuple[asyncio.Task[Any], Execution]:
    execution = steps.execution(function)

    async def caller() -> Any:
        return await steps.run(execution)

    task = execution.task = asyncio.create_task(caller())
    for _ in range(3):
        await turn()
    return task, execution


def test_cleaning_up_after_one_interruption_is_waited_for() -> None:
    """A coroutine that awaits in its cleanup is still awaited after the first interruption, and ends as cancelled."""

    async def work(steps: Steps) -> None:
        seen: list[str] = []
        gate = asyncio.Event()

        async def function() -> None:
            try:
                await asyncio.Event().wait()
            finally:
                await gate.wait()
                seen.append("cleaned up")

        task, execution = await start(steps, function)
        await interrupt(task, execution)
        assert not task.done()
        gate.set()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert (seen, execution.left_behind, execution.usage.cpu_time) == (["cleaned up"], None, 0.0)

    with_steps(work)


def test_what_waits_on_after_two_interruptions_is_left_behind() -> None:
    """The caller is free after the second; the coroutine goes on in a task of its own, which counts until it ends."""

    async def work(steps: Steps) -> None:
        seen: list[str] = []
        gate = asyncio.Event()

        async def stubborn() -> None:
            while not gate.is_set():
                try:
                    await gate.wait()
                except asyncio.CancelledError:
                    seen.append("swallowed")
            seen.append("ended")

        task, execution = await start(steps, stubborn)
        await interrupt(task, execution)
        assert not task.done()
        await interrupt(task, execution)
        with pytest.raises(asyncio.CancelledError):
            await task
        left = execution.left_behind
        assert left is not None
        assert steps.stepper.left == {left}
        assert execution.usage.cpu_time is None
        assert "could not be stopped" in execution.usage.unmeasured["cpu_time"]
        assert seen == ["swallowed", "swallowed"]
        gate.set()
        await left
        await turn()
        assert (seen[-1], steps.stepper.left) == ("ended", set())

    with_steps(work)


@pytest.mark.parametrize("ends", ["returns", "raises", "exits"])
def test_how_it_ends_that_was_left_behind_harms_nobody(ends: str) -> None:
    """A result, an error and a sys.exit() of what was left behind reach neither the loop nor a log."""

    async def work(steps: Steps) -> None:
        told: list[Any] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, context: told.append(context))
        gate = asyncio.Event()

        async def stubborn() -> str:
            while not gate.is_set():
                try:
                    await gate.wait()
                except asyncio.CancelledError:
                    continue
            if ends == "raises":
                raise ValueError("too late")
            if ends == "exits":
                raise SystemExit(3)
            return "too late"

        task, execution = await start(steps, stubborn)
        await interrupt(task, execution)
        await interrupt(task, execution)
        gate.set()
        assert execution.left_behind is not None
        assert await execution.left_behind is None
        await turn()
        assert told == []
        with pytest.raises(asyncio.CancelledError):
            await task

    with_steps(work)


def test_timeouts_of_what_was_left_behind_end_it_and_not_the_caller() -> None:
    """asyncio.timeout, a task group and an inner execution belong to the task that goes on, not to the one that left."""

    async def work(steps: Steps) -> None:
        seen: list[str] = []
        inner = steps.execution(turn)
        inside = asyncio.Event()

        async def awaits_inner(inner: Execution) -> None:
            ignored = 0
            while True:
                try:
                    inside.set()
                    await asyncio.Event().wait()
                except asyncio.CancelledError:
                    ignored += 1
                    if ignored > 2:
                        raise

        async def stubborn() -> None:
            inner.task = asyncio.current_task()  # type: ignore[assignment]
            try:
                async with asyncio.timeout(0.02), asyncio.TaskGroup():
                    await awaits_inner(inner)
            except TimeoutError:
                seen.append("timed out")

        async def caller() -> str:
            execution.task = asyncio.current_task()  # type: ignore[assignment]
            try:
                await steps.run(execution)
            except asyncio.CancelledError:
                left.append(execution.left_behind)
                for _ in range(execution.interrupts):
                    execution.task.uncancel()
            await asyncio.sleep(0.05)  # during which the timeout strikes
            return "not cancelled"

        left: list[Any] = []
        execution = steps.execution(stubborn)
        task = asyncio.create_task(caller())
        await inside.wait()
        await interrupt(task, execution)
        await interrupt(task, execution)
        assert inner.task is left[0]
        assert await task == "not cancelled"
        await left[0]
        assert seen == ["timed out"]

    with_steps(work)


def test_closing_cancels_once_more_what_was_left_behind() -> None:
    """Who swallows two cancellations may heed the third; close waits for nothing."""

    async def work(steps: Steps) -> None:
        ignored: list[int] = []

        async def stubborn() -> None:
            while True:
                try:
                    await asyncio.Event().wait()
                except asyncio.CancelledError:
                    if len(ignored) == 2:
                        raise
                    ignored.append(1)

        task, execution = await start(steps, stubborn)
        await interrupt(task, execution)
        await interrupt(task, execution)
        await asyncio.wait([task])
        steps.stepper.close()
        assert execution.left_behind is not None
        with pytest.raises(asyncio.CancelledError):
            await execution.left_behind

    async def whole() -> None:
        await work(Steps())

    asyncio.run(whole())


def test_nothing_that_was_awaited_is_kept() -> None:
    """A future and its result go with who awaited it, not with the next one that waits."""

    class Thing:
        pass

    async def work(steps: Steps) -> None:
        seen: list[weakref.ref[Thing]] = []

        async def function() -> None:
            future = asyncio.get_running_loop().create_future()
            asyncio.get_running_loop().call_soon(future.set_result, Thing())
            seen.append(weakref.ref(await future))

        await steps.run(steps.execution(function))
        await turn()
        assert [reference() for reference in seen] == [None]

    with no_garbage_collector():
        with_steps(work)


@pytest.mark.parametrize("ends", ["raises", "was cancelled", "awaited something cancelled"])
def test_no_error_is_kept_alive_by_the_frames_that_it_passed(ends: str) -> None:
    """An error and the frames that it passed go with its last holder, without the garbage collector."""

    class Thing:
        pass

    class Failure(Exception):  # noqa: N818 - built-in errors take no weak references
        pass

    class Ended(asyncio.CancelledError):
        pass

    async def work(steps: Steps) -> None:
        local: list[weakref.ref[Any]] = []

        async def function() -> None:
            thing = Thing()
            local.append(weakref.ref(thing))
            await turn()
            if ends == "raises":
                raise Failure
            if ends == "awaited something cancelled":
                raise Ended
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                raise Ended from None

        task, execution = await start(steps, function)
        if ends == "was cancelled":
            await interrupt(task, execution)
        (done,), _ = await asyncio.wait([task])
        error: BaseException | None
        if done.cancelled():
            try:
                await done
            except asyncio.CancelledError as caught:
                error = caught
        else:
            error = done.exception()
        assert error is not None
        seen = local + [weakref.ref(part) for part in (error, error.__cause__) if isinstance(part, Failure | Ended)]
        del execution.task  # a task holds its error, and an execution its task
        del error, task, done, execution
        await turn()
        assert [reference() for reference in seen] == [None] * 2

    with no_garbage_collector():
        with_steps(work)
