"""Plain functions in threads: bounded, reused, given up when nobody waits for them."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import subprocess
import sys
import textwrap
import threading
import time
import weakref
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from skilllab.engine.threads import Threads
from skilllab.testing import FakeClock

VARIABLE: contextvars.ContextVar[str] = contextvars.ContextVar("VARIABLE", default="unset")
NAME = "tested-thread"


def with_threads(work: Callable[[Threads], Awaitable[Any]], max_threads: int = 2, **options: Any) -> Any:
    async def run() -> Any:
        threads = Threads(max_threads, NAME, **options)
        try:
            return await work(threads)
        finally:
            await threads.aclose()

    return asyncio.run(run())


def still_alive() -> list[threading.Thread]:
    """The threads of these tests that do not end by themselves within a second."""
    alive = [thread for thread in threading.enumerate() if thread.name.startswith(NAME)]
    for thread in alive:
        thread.join(1.0)
    return [thread for thread in alive if thread.is_alive()]


class Gate:
    """A function that waits in its thread until it is let go."""

    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.begun = asyncio.Event()
        self.go = threading.Event()

    def __call__(self, answer: Any = None) -> Any:
        self.loop.call_soon_threadsafe(self.begun.set)
        assert self.go.wait(10)
        return answer


def test_outputs_and_errors_come_back() -> None:
    """What the function returns is returned, what it raises is raised, whatever it is."""

    async def work(threads: Threads) -> None:
        assert await threads.call(divmod, 7, 2) == (3, 1)
        for error in (ValueError("bad"), SystemExit(2)):
            with pytest.raises(type(error)) as caught:
                await threads.call(_raise, error)
            assert caught.value is error

    with_threads(work)


def _raise(error: BaseException) -> None:
    raise error


def test_threads_are_started_when_needed_and_used_again() -> None:
    """One call after another uses one thread; as many at once as there may be use that many, and no more."""

    async def work(threads: Threads) -> None:
        names = {await threads.call(lambda: threading.current_thread().name) for _ in range(20)}
        assert names == {f"{NAME}-1"}
        running, most, lock = 0, 0, threading.Lock()

        def count() -> str:
            nonlocal running, most
            with lock:
                running += 1
                most = max(most, running)
            try:
                return threading.current_thread().name
            finally:
                with lock:
                    running -= 1

        names = set(await asyncio.gather(*(threads.call(count) for _ in range(500))))
        assert len(names) <= 3
        assert most <= 3

    with_threads(work, max_threads=3)
    assert still_alive() == []


def test_exactly_as_many_run_at_once_as_may() -> None:
    """With two threads two functions run while a third waits, for as long as they take."""

    async def work(threads: Threads) -> None:
        gates = [Gate() for _ in range(3)]
        tasks = [asyncio.create_task(threads.call(gate, n)) for n, gate in enumerate(gates)]
        await gates[0].begun.wait()
        await gates[1].begun.wait()
        assert not gates[2].begun.is_set()
        gates[2].go.set()
        gates[1].go.set()
        await gates[2].begun.wait()
        assert (await tasks[1], await tasks[2]) == (1, 2)
        gates[0].go.set()
        assert await tasks[0] == 0

    with_threads(work)


def test_who_comes_first_is_served_first() -> None:
    """With one thread functions run in the order in which they were asked for."""

    async def work(threads: Threads) -> None:
        order: list[int] = []
        await asyncio.gather(*(threads.call(order.append, n) for n in range(100)))
        assert order == list(range(100))

    with_threads(work, max_threads=1)


def test_context_variables_travel_and_do_not_come_back() -> None:
    """A function sees its caller's context variables; what it sets stays its own."""

    def function() -> str:
        seen = VARIABLE.get()
        VARIABLE.set("changed")
        return seen

    async def work(threads: Threads) -> None:
        VARIABLE.set("mine")
        assert await threads.call(function) == "mine"
        assert VARIABLE.get() == "mine"

    with_threads(work)


def test_a_job_tells_its_wait_and_its_cpu_time() -> None:
    """waited: until a thread was free, by the clock given. cpu_time: what the function's own thread spent."""
    cpu = FakeClock()

    async def work(threads: Threads) -> None:
        clock, gate = FakeClock(), Gate()
        first = threads.submit(gate, clock=clock)
        second = threads.submit(cpu.advance, 0.25, clock=clock)
        await gate.begun.wait()
        clock.advance(3.0)
        gate.go.set()
        await second.done
        assert (first.waited, second.waited) == (0.0, 3.0)
        assert (first.cpu_time, second.cpu_time) == (0.0, 0.25)

    with_threads(work, max_threads=1, cpu_clock=cpu)


def test_a_call_cancelled_before_it_began_never_begins() -> None:
    """It is taken out of the queue, others of the queue are served, and nothing counts as abandoned."""

    async def work(threads: Threads) -> None:
        gate, ran = Gate(), []
        first = asyncio.create_task(threads.call(gate))
        await gate.begun.wait()
        tasks = [asyncio.create_task(threads.call(ran.append, n)) for n in range(3)]
        await asyncio.sleep(0)
        tasks[1].cancel()
        await asyncio.wait([tasks[1]])
        assert (tasks[1].cancelled(), threads.abandoned) == (True, 0)
        gate.go.set()
        await asyncio.gather(first, tasks[0], tasks[2])
        assert ran == [0, 2]

    with_threads(work, max_threads=1)


def test_one_that_is_handed_to_an_idle_thread_may_still_be_dropped() -> None:
    """Cancelled in the turn in which it was asked for, a function runs entirely or not at all, and no thread is lost."""

    async def work(threads: Threads) -> None:
        for _ in range(300):
            ran: list[int] = []
            job = threads.submit(ran.append, 1)
            runs_on = threads.give_up(job)
            if runs_on:
                await job.done
            assert ran in (([1],) if runs_on else ([], [1]))
            assert threads.abandoned == 0
        assert await threads.call(len, "ab") == 2

    with_threads(work, max_threads=1)


def test_one_that_runs_is_abandoned_and_keeps_its_thread() -> None:
    """The caller is free at once; the thread stays taken until the function ends, and then serves the next."""

    async def work(threads: Threads) -> None:
        gate = Gate()
        task = asyncio.create_task(threads.call(gate))
        await gate.begun.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert threads.abandoned == 1
        second = asyncio.create_task(threads.call(len, "abc"))
        await asyncio.sleep(0.01)
        assert not second.done()
        gate.go.set()
        assert await second == 3
        assert threads.abandoned == 0

    with_threads(work, max_threads=1)


def test_a_job_that_was_given_up_says_when_it_ends() -> None:
    """Its new `done` ends with the function, and `after` has been called with the output by then, in its thread."""

    async def work(threads: Threads) -> None:
        gate, got = Gate(), []

        def after(output: Any) -> None:
            got.append((output, threading.current_thread().name))

        job = threads.submit(gate, "output", after=after)
        await gate.begun.wait()
        assert threads.give_up(job)
        assert not job.done.done()
        gate.go.set()
        await job.done
        assert got == [("output", f"{NAME}-1")]

    with_threads(work)


def test_nobody_loses_an_output_that_needs_care() -> None:
    """Whenever a call is cancelled, either it never began, or its output reached the caller or `after`."""

    async def work(threads: Threads) -> None:
        made: list[int] = []
        cared: list[int] = []
        taken: list[int] = []

        def make(n: int) -> int:
            made.append(n)
            return n

        async def call(n: int) -> None:
            taken.append(await threads.call(make, n, after=cared.append))

        for n in range(400):
            task = asyncio.create_task(call(n))
            for _ in range(n % 5):
                await asyncio.sleep(0)
            if n % 7 == 0:
                await asyncio.sleep(0.0002)
            task.cancel()
            await asyncio.wait([task])
        await threads.aclose()
        assert still_alive() == []
        assert sorted(taken + cared) == made

    with_threads(work, max_threads=1)


def hold_up_the_loop(until: threading.Event) -> None:
    """Lets a function come to its end while the loop hears nothing of it."""
    assert until.wait(10)
    time.sleep(0.005)


def test_an_output_that_is_on_its_way_when_its_caller_leaves_goes_to_after() -> None:
    """Cancelled between the end of the function and the turn in which it would have heard of it, a call loses nothing."""

    async def work(threads: Threads) -> None:
        made, cared = threading.Event(), []

        def make() -> str:
            made.set()
            return "output"

        task = asyncio.create_task(threads.call(make, after=cared.append))
        for _ in range(3):  # in which its thread is started
            await asyncio.sleep(0)
        hold_up_the_loop(made)
        task.cancel()
        await asyncio.wait([task])
        await threads.aclose()
        assert still_alive() == []
        assert (task.cancelled(), cared) == (True, ["output"])

    with_threads(work)


def test_closing_waits_for_callers_and_not_for_the_abandoned() -> None:
    """aclose ends when every function that somebody waits for has ended, waiting ones too, and the threads with it."""

    async def work(threads: Threads) -> None:
        wanted, abandoned = Gate(), Gate()
        first = asyncio.create_task(threads.call(wanted, "wanted"))
        second = asyncio.create_task(threads.call(abandoned))
        await wanted.begun.wait()
        await abandoned.begun.wait()
        second.cancel()
        waiting = asyncio.create_task(threads.call(len, "ab"))
        await asyncio.wait([second])
        closing = asyncio.create_task(threads.aclose())
        await asyncio.sleep(0.005)
        assert not closing.done()
        wanted.go.set()
        await closing
        assert (await first, await waiting, threads.abandoned) == ("wanted", 2, 1)
        abandoned.go.set()

    with_threads(work)
    assert still_alive() == []


def test_a_thread_that_cannot_be_started_fails_the_calls() -> None:
    """When the system gives no thread at all, those who wait get its error; nobody hangs, and the next call tries again."""

    async def work(threads: Threads) -> None:
        start = threading.Thread.start
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(threading.Thread, "start", _no_more_threads)
            results = await asyncio.gather(*(threads.call(len, "ab") for _ in range(3)), return_exceptions=True)
        assert [str(result) for result in results] == ["can't start new thread"] * 3
        assert threading.Thread.start is start
        assert await threads.call(len, "ab") == 2

    with_threads(work)


def _no_more_threads(thread: threading.Thread) -> None:
    raise RuntimeError("can't start new thread")


@pytest.mark.slow
def test_an_abandoned_thread_does_not_hold_up_the_exit() -> None:
    """A program ends although a function of it never does."""
    program = """
        import asyncio, threading
        from skilllab.engine.threads import Threads

        async def main():
            threads, begun = Threads(1, "t"), threading.Event()
            task = asyncio.create_task(threads.call(lambda: (begun.set(), threading.Event().wait())))
            await asyncio.to_thread(begun.wait)
            task.cancel()
            await asyncio.wait([task])
            await threads.aclose()
            print("abandoned", threads.abandoned)

        asyncio.run(main())
    """
    ran = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)], capture_output=True, text=True, timeout=20, check=False
    )
    assert (ran.returncode, ran.stdout, ran.stderr) == (0, "abandoned 1\n", "")


def test_a_function_that_outlives_its_loop_harms_nobody() -> None:
    """When it ends there is no loop to tell any more; its thread ends quietly."""
    gates: list[Gate] = []

    async def work(threads: Threads) -> None:
        gates.append(Gate())
        task = asyncio.create_task(threads.call(gates[0]))
        await gates[0].begun.wait()
        task.cancel()
        await asyncio.wait([task])

    with_threads(work)
    gates[0].go.set()
    assert still_alive() == []


def test_nothing_of_a_call_is_kept() -> None:
    """Its argument, its output and its error go with their last holder, although the thread goes on waiting."""

    class Thing:
        pass

    class Failure(Exception):  # noqa: N818 - built-in errors take no weak references
        pass

    def fail() -> None:
        raise Failure

    async def work(threads: Threads) -> None:
        seen: list[weakref.ref[Any]] = []
        try:
            await threads.call(fail)
        except Failure as error:
            seen.append(weakref.ref(error))
        thing = Thing()
        seen.append(weakref.ref(thing))
        assert await threads.call(lambda given: given, thing) is thing
        del thing
        for _ in range(1000):  # the thread may still be on its way to its next wait
            if any(reference() is not None for reference in seen):
                await asyncio.sleep(0.001)
        assert [reference() for reference in seen] == [None, None]

    gc.disable()
    try:
        with_threads(work, max_threads=1)
    finally:
        gc.enable()
