"""The runner of layer 1."""

from __future__ import annotations

import asyncio
import contextvars
import functools
import gc
import random
import sqlite3
import sys
import threading
import time
import weakref
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest

from skilllab.engine import FunctionOptions, FunctionRunner
from skilllab.engine.execution import Execution
from skilllab.engine.pools import ConnectionPool
from skilllab.errors import (
    BatchError,
    HandlerNotRunnableError,
    InvalidValueError,
    LeaseError,
    SkillFailedError,
)
from skilllab.loading import load
from skilllab.model import FunctionHandler, ScriptHandler, SkillDefinition
from skilllab.testing import FakeClock

VARIABLE: contextvars.ContextVar[str] = contextvars.ContextVar("VARIABLE", default="unset")


def execution_of(
    function: Callable[..., Any],
    /,
    *,
    batch: Callable[..., Any] | None = None,
    leases: tuple[str, ...] = (),
    revision: int = 1,
    clock: Callable[[], float] = time.perf_counter,
    **params: Any,
) -> Execution:
    """An execution as an engine gives it to a runner."""
    handler = FunctionHandler(
        target="m:f", function=function, batch=None if batch is None else "m:b", batch_function=batch, leases=leases
    )
    execution = Execution.of("e", "s", 0.0, clock())
    execution.skill = load(SkillDefinition(id="s", name="s", layer=1, handler=handler), revision)
    execution.params, execution.limits, execution.clock = params, None, clock
    task = asyncio.current_task()
    assert task is not None
    execution.task, execution.cancelling = task, task.cancelling()
    return execution


def with_runner(work: Callable[[FunctionRunner], Awaitable[Any]], **options: Any) -> Any:
    async def run() -> Any:
        runner = FunctionRunner(FunctionOptions(**options))
        try:
            return await work(runner)
        finally:
            await runner.aclose()

    return asyncio.run(run())


def run(function: Callable[..., Any], /, **params: Any) -> Any:
    return with_runner(lambda runner: runner.run(execution_of(function, **params)))


async def start(runner: FunctionRunner, execution: Execution) -> asyncio.Task[Any]:
    """Runs the execution in a task of its own, like a caller's."""
    execution.task = asyncio.create_task(runner.run(execution))
    await turns()
    return execution.task


async def turns(number: int = 5) -> None:
    for _ in range(number):
        await asyncio.sleep(0)


async def interrupt(execution: Execution) -> None:
    """Does what an engine does at a deadline."""
    execution.interrupts += 1
    execution.task.cancel()
    await turns()


def raising(error: BaseException | type[BaseException], *, in_thread: bool) -> Callable[[], Any]:
    def plain() -> None:
        raise error

    async def on_loop() -> None:
        raise error

    return plain if in_thread else on_loop


class Gate:
    """A plain function that waits in its thread until it is let go."""

    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.begun = asyncio.Event()
        self.go = threading.Event()

    def __call__(self, **params: Any) -> Any:
        self.loop.call_soon_threadsafe(self.begun.set)
        assert self.go.wait(10)
        return params


# where functions run, and with what


def test_async_def_runs_on_the_loop_and_def_in_a_thread() -> None:
    """The thread of an async def is the loop's; that of a plain def is one of the runner's, and a daemon."""

    async def on_loop() -> threading.Thread:
        return threading.current_thread()

    def in_thread() -> threading.Thread:
        return threading.current_thread()

    assert run(on_loop) is threading.current_thread()
    thread = run(in_thread)
    assert thread.name.startswith("skilllab-function")
    assert thread.daemon


def test_parameters_are_keywords_and_context_variables_travel() -> None:
    """A thread sees the caller's context variables, and what it sets stays its own."""

    def function(*, a: int, b: str) -> tuple[int, str, str]:
        seen = VARIABLE.get()
        VARIABLE.set("changed")
        return a, b, seen

    async def work(runner: FunctionRunner) -> Any:
        VARIABLE.set("mine")
        return await runner.run(execution_of(function, a=1, b="x")), VARIABLE.get()

    assert with_runner(work) == ((1, "x", "mine"), "mine")


def test_awaitables_from_plain_functions_are_awaited() -> None:
    """A wrapper, a partial and an object around an async def give its output, not a coroutine; so does a future."""

    async def inner(x: int) -> int:
        return x + 1

    class Wrapper:
        async def __call__(self, x: int) -> int:
            return await inner(x)

    class Awaitable_:  # noqa: N801
        def __init__(self, x: int) -> None:
            self.x = x

        def __await__(self) -> Any:
            return inner(self.x).__await__()

    for function in (lambda x: inner(x + 0), functools.partial(inner), Wrapper(), Awaitable_):
        assert run(function, x=1) == 2


# what is measured


def test_the_cpu_time_of_a_plain_function_is_that_of_its_thread() -> None:
    """What the function burns in its thread is counted, what it burns on the loop afterwards too, and waiting is not."""
    cpu = FakeClock()

    def plain() -> None:
        cpu.advance(0.5)

    def wrapper() -> Any:
        cpu.advance(0.25)
        return on_loop()

    async def on_loop() -> None:
        cpu.advance(1.0)
        await asyncio.sleep(0)
        cpu.advance(2.0)

    async def work() -> list[Any]:
        runner = FunctionRunner(cpu_clock=cpu)
        executions = [execution_of(function) for function in (plain, wrapper, on_loop)]
        for execution in executions:
            await runner.run(execution)
        await runner.aclose()
        return [execution.usage for execution in executions]

    usages = asyncio.run(work())
    assert [usage.cpu_time for usage in usages] == [0.5, 3.25, 3.0]
    for usage in usages:
        assert usage[1:4] == (None, None, None)
        assert all("share this process" in reason for reason in usage.unmeasured.values())


def test_what_failed_is_measured_too() -> None:
    """An error ends a run, not its measurement."""
    cpu = FakeClock()

    def plain() -> None:
        cpu.advance(0.5)
        raise ValueError

    async def on_loop() -> None:
        plain()

    async def work() -> list[Any]:
        runner = FunctionRunner(cpu_clock=cpu)
        executions = [execution_of(function) for function in (plain, on_loop)]
        for execution in executions:
            with pytest.raises(SkillFailedError):
                await runner.run(execution)
        await runner.aclose()
        return [execution.usage.cpu_time for execution in executions]

    assert asyncio.run(work()) == [0.5, 0.5]


def test_waiting_for_a_thread_is_no_time_of_the_skill() -> None:
    """With one thread taken, a second function waits; `waited` says how long."""

    async def work(runner: FunctionRunner) -> None:
        clock, gate = FakeClock(), Gate()
        first, second = execution_of(gate, clock=clock), execution_of(lambda: None, clock=clock)
        tasks = [await start(runner, first), await start(runner, second)]
        await gate.begun.wait()
        clock.advance(3.0)
        gate.go.set()
        await asyncio.gather(*tasks)
        assert (first.waited, second.waited) == (0.0, 3.0)
        assert (first.longest_step, second.longest_step) == (None, None)

    with_runner(work, max_threads=1)


def test_a_first_thread_is_none_that_the_skill_started() -> None:
    """An async skill that awaits another execution, for which the runner starts a thread, knows its own CPU time."""

    async def work(runner: FunctionRunner) -> None:
        async def outer() -> Any:
            return await runner.run(execution_of(lambda: threading.current_thread().name))

        execution = execution_of(outer)
        assert (await runner.run(execution)).startswith("skilllab-function")
        assert execution.usage.cpu_time is not None

    with_runner(work)


# failures


@pytest.mark.parametrize("in_thread", [True, False])
@pytest.mark.parametrize(
    "error", [ValueError("bad"), KeyError("k"), ExceptionGroup("two", [ValueError("a")]), RecursionError("deep")]
)
def test_an_error_of_the_skill_is_its_cause(error: Exception, in_thread: bool) -> None:
    """The message has the skill's id, the error's type and text; the error itself is the cause."""
    with pytest.raises(SkillFailedError) as caught:
        run(raising(error, in_thread=in_thread))
    assert caught.value.__cause__ is error
    assert str(caught.value) == f"s: {type(error).__name__}: {error}"


def test_wrong_arguments_are_the_skills_error() -> None:
    """A call that the function's signature does not take fails like an error inside it."""

    async def on_loop() -> None:
        return None

    async def chunks() -> AsyncIterator[int]:
        yield 1

    async def read(runner: FunctionRunner) -> None:
        await anext(runner.stream(execution_of(chunks, x=1)))

    for function in (on_loop, lambda: None, functools.partial(on_loop)):
        with pytest.raises(SkillFailedError, match=r"s: TypeError: .*unexpected keyword argument 'x'"):
            run(function, x=1)
    with pytest.raises(SkillFailedError, match=r"s: TypeError: .*unexpected keyword argument 'x'"):
        with_runner(read)


def test_stop_iteration_out_of_a_thread_hangs_nothing() -> None:
    """A future cannot carry a StopIteration; the skill's failure carries it."""
    with pytest.raises(SkillFailedError, match="StopIteration") as caught:
        run(raising(StopIteration(3), in_thread=True))
    assert isinstance(caught.value.__cause__, StopIteration)


@pytest.mark.parametrize("in_thread", [True, False])
def test_no_skill_ends_the_program(in_thread: bool) -> None:
    """sys.exit() in a skill fails the call."""

    def plain() -> None:
        sys.exit(3)

    async def on_loop() -> None:
        sys.exit(3)

    with pytest.raises(SkillFailedError, match="s: SystemExit: 3"):
        run(plain if in_thread else on_loop)


def test_keyboard_interrupt_is_the_persons_on_the_loop_and_the_skills_in_a_thread() -> None:
    """Ctrl-C arrives on the main thread only: there it passes through, in a thread it is something the skill raised."""
    with pytest.raises(SkillFailedError, match="KeyboardInterrupt"):
        run(raising(KeyboardInterrupt, in_thread=True))
    with pytest.raises(KeyboardInterrupt):
        run(raising(KeyboardInterrupt, in_thread=False))


def test_an_error_without_readable_text_is_reported() -> None:
    """An error whose own __str__ raises does not break the report of it."""

    class Mute(Exception):  # noqa: N818
        def __str__(self) -> str:
            raise ValueError("no text")

    with pytest.raises(SkillFailedError, match=r"Mute: \(an error without readable text\)"):
        run(raising(Mute(), in_thread=False))


def test_what_is_no_function_or_yields_is_refused() -> None:
    """A handler that is no function, and a generator that is to be read with stream, are refused with what to do."""

    def generator() -> Iterator[int]:
        yield 1

    async def async_generator() -> AsyncIterator[int]:
        yield 1

    for function in (generator, async_generator):
        with pytest.raises(HandlerNotRunnableError, match=r"say streaming=True and read it with engine.stream"):
            run(function)

    async def script(runner: FunctionRunner) -> None:
        execution = execution_of(generator)
        handler = ScriptHandler(source="def run(params): ...")
        execution.skill = load(SkillDefinition(id="s", name="s", layer=2, handler=handler), 1)
        for use in (runner.run(execution), anext(runner.stream(execution))):
            with pytest.raises(HandlerNotRunnableError, match="its handler is no function"):
                await use

    with_runner(script)


# cancellation


def test_cancelling_the_caller_cancels_an_async_def() -> None:
    """Cancellation reaches the coroutine, which may clean up, and comes out as CancelledError."""
    seen: list[str] = []

    async def work(runner: FunctionRunner) -> None:
        async def function() -> None:
            try:
                await asyncio.Event().wait()
            finally:
                await asyncio.sleep(0)
                seen.append("cleaned up")

        task = await start(runner, execution_of(function))
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    with_runner(work)
    assert seen == ["cleaned up"]


@pytest.mark.parametrize("in_thread", [True, False])
def test_a_cancellation_that_nobody_asked_for_is_the_skills_failure(in_thread: bool) -> None:
    """A skill that awaited a cancelled task fails; its caller is not cancelled, not even one that was before."""

    async def work(runner: FunctionRunner) -> None:
        task = asyncio.current_task()
        assert task is not None
        for _ in range(2):
            with pytest.raises(SkillFailedError, match="CancelledError"):
                await runner.run(execution_of(raising(asyncio.CancelledError, in_thread=in_thread)))
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await asyncio.sleep(0)
        task.uncancel()
        task.uncancel()

    with_runner(work)


@pytest.mark.parametrize("in_thread", [True, False])
def test_a_timeout_of_the_caller_passes_through(in_thread: bool) -> None:
    """asyncio.timeout around a call ends it as a TimeoutError of the caller's, not as a failure of the skill."""

    async def work(runner: FunctionRunner) -> None:
        gate = Gate()

        async def function() -> None:
            await asyncio.Event().wait()

        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.001):
                await runner.run(execution_of(gate if in_thread else function))
        gate.go.set()

    with_runner(work)


def test_an_async_def_that_will_not_stop_is_left_behind() -> None:
    """After a second interruption the caller is free; it counts as abandoned until it ends, and closing waits not."""

    async def work(runner: FunctionRunner) -> None:
        ended = asyncio.Event()

        async def stubborn() -> None:
            while True:
                try:
                    await asyncio.Event().wait()
                except asyncio.CancelledError:
                    ignored.append(1)
                    if len(ignored) == 3:
                        ended.set()
                        raise

        ignored: list[int] = []
        execution = execution_of(stubborn)
        task = await start(runner, execution)
        await interrupt(execution)
        assert (task.done(), execution.left_behind, runner.abandoned) == (False, None, 0)
        await interrupt(execution)
        assert task.cancelled()
        assert execution.left_behind is not None
        assert not execution.left_behind.done()
        assert runner.abandoned == 1
        assert execution.usage.cpu_time is None
        await runner.aclose()  # cancels it once more
        await ended.wait()

    with_runner(work)


def test_a_function_that_runs_on_is_left_behind_and_keeps_its_thread() -> None:
    """The caller is free at once; the thread serves nobody else until the function ends, and then counts no more."""

    async def work(runner: FunctionRunner) -> None:
        gate = Gate()
        execution = execution_of(gate)
        task = await start(runner, execution)
        await gate.begun.wait()
        await interrupt(execution)
        assert task.cancelled()
        assert execution.left_behind is not None
        assert not execution.left_behind.done()
        assert runner.abandoned == 1
        assert "could not be stopped" in execution.usage.unmeasured["cpu_time"]
        second = await start(runner, execution_of(lambda: "served"))
        await asyncio.sleep(0.01)
        assert not second.done()
        gate.go.set()
        await execution.left_behind
        assert await second == "served"
        assert runner.abandoned == 0

    with_runner(work, max_threads=1)


def test_threads_are_bounded_and_a_cancelled_turn_is_never_taken() -> None:
    """With two threads, a third function waits; cancelled while it waits, it never runs; closing waits for callers."""
    ran: list[int] = []

    async def work(runner: FunctionRunner) -> None:
        gates = [Gate() for _ in range(3)]

        def function(n: int) -> int:
            ran.append(n)
            gates[n]()
            return n

        executions = [execution_of(function, n=n) for n in range(3)]
        tasks = [await start(runner, execution) for execution in executions]
        await gates[0].begun.wait()
        await gates[1].begun.wait()
        await interrupt(executions[2])
        await interrupt(executions[0])
        assert (tasks[2].cancelled(), tasks[0].cancelled()) == (True, True)
        assert executions[2].left_behind is None
        assert set(executions[2].usage.unmeasured.values()) == {"the skill did not run for this call"}
        assert executions[2].waited > 0
        closing = asyncio.create_task(runner.aclose())
        await turns()
        assert not closing.done()
        gates[1].go.set()
        await closing
        assert (await tasks[1], runner.abandoned) == (1, 1)
        gates[0].go.set()

    with_runner(work, max_threads=2)
    assert sorted(ran) == [0, 1]
    for thread in threading.enumerate():
        if thread.name.startswith("skilllab-function"):
            thread.join(1)
            assert not thread.is_alive()


def test_a_coroutine_that_nobody_takes_is_closed() -> None:
    """A wrapper's coroutine that comes back to a caller who has left is closed, and not warned of as never awaited."""

    async def work(runner: FunctionRunner) -> None:
        async def inner() -> None:
            raise AssertionError("it ran")

        for wait in range(200):
            execution = execution_of(lambda: inner())  # noqa: PLW0108 - a plain function around an async def
            task = asyncio.create_task(runner.run(execution))
            for _ in range(wait % 6):
                await asyncio.sleep(0)
            task.cancel()
            (task,), _ = await asyncio.wait([task])
            if not task.cancelled():
                assert isinstance(task.exception(), SkillFailedError)
            if execution.left_behind is not None:
                await execution.left_behind
        gate = Gate()
        execution = execution_of(lambda: (gate(), inner())[1])
        await start(runner, execution)
        await gate.begun.wait()
        await interrupt(execution)
        gate.go.set()
        assert execution.left_behind is not None
        await execution.left_behind

    with_runner(work)


# connections


def test_leased_connections_are_parameters() -> None:
    """Each name in `leases` is filled from the pool of that name, whatever the caller gave, in a thread or on the loop."""

    async def on_loop(db: Any, other: Any, x: int) -> Any:
        return db, other, x

    def plain(db: Any, other: Any, x: int) -> Any:
        return db, other, x

    async def work(runner: FunctionRunner) -> None:
        for function in (on_loop, plain):
            execution = execution_of(function, leases=("db", "other"), x=1, db="the caller's")
            assert await runner.run(execution) == ("a connection", "another", 1)
            assert execution.params == {"x": 1, "db": "the caller's"}
            assert execution.usage.cpu_time is not None

    async def open_() -> str:
        return "a connection"

    pools = {"db": ConnectionPool(open_), "other": ConnectionPool(lambda: "another")}
    with_runner(work, pools=pools)
    for pool in pools.values():
        statistics = pool.statistics()
        assert (statistics.opened, statistics.closed, statistics.in_use) == (1, 1, 0)


def test_waiting_for_a_connection_is_no_time_of_the_skill() -> None:
    """With one connection leased, a second execution waits; `waited` says how long."""

    async def work(runner: FunctionRunner) -> None:
        clock, gate = FakeClock(), asyncio.Event()

        async def function(db: Any) -> None:
            await gate.wait()

        first, second = (execution_of(function, leases=("db",), clock=clock) for _ in range(2))
        tasks = [await start(runner, first), await start(runner, second)]
        clock.advance(3.0)
        gate.set()
        await asyncio.gather(*tasks)
        assert (first.waited, second.waited) == (0.0, 3.0)

    async def open_() -> object:
        return object()

    with_runner(work, pools={"db": ConnectionPool(open_, max_size=1)})


def test_connections_go_back_in_reverse_and_are_asked_for_in_one_order() -> None:
    """Two executions that want the same two connections, named in different orders, never wait for each other."""
    order: list[str] = []

    def pool(name: str) -> ConnectionPool:
        async def open_() -> str:
            order.append(f"+{name}")
            return name

        async def close(_: str) -> None:
            order.append(f"-{name}")

        return ConnectionPool(open_, close=close, max_size=1, max_idle=0)

    async def work(runner: FunctionRunner) -> None:
        async def function(a: str, b: str) -> None:
            order.append("run")

        async with asyncio.timeout(5):
            await runner.run(execution_of(function, leases=("b", "a")))
            assert order == ["+a", "+b", "run", "-b", "-a"]
            await asyncio.gather(
                *(runner.run(execution_of(function, leases=leases)) for leases in (("a", "b"), ("b", "a")) * 20)
            )

    with_runner(work, pools={"a": pool("a"), "b": pool("b")})


def test_a_connection_that_cannot_be_had_names_skill_and_pool() -> None:
    """No pool of that name, one that is closed, and an open that fails are a LeaseError; what was leased goes back."""

    def function(**_: Any) -> None:
        raise AssertionError("it ran")

    def broken() -> None:
        raise OSError("no route")

    good = ConnectionPool(object)

    async def work(runner: FunctionRunner) -> None:
        with pytest.raises(LeaseError, match="s: no pool of the engine is called 'db': there are a, z"):
            await runner.run(execution_of(function, leases=("a", "db")))
        with pytest.raises(LeaseError, match="s: pool 'z': no connection could be opened: OSError: no route") as caught:
            await runner.run(execution_of(function, leases=("a", "z")))
        assert isinstance(caught.value.__cause__, OSError)
        assert good.statistics().in_use == 0

    with_runner(work, pools={"a": good, "z": ConnectionPool(broken)})
    assert good.statistics().closed == 1

    async def alone(runner: FunctionRunner) -> None:
        with pytest.raises(LeaseError, match=r"it has none; give it one with FunctionOptions\(pools={'db': "):
            await runner.run(execution_of(function, leases=("db",)))

    with_runner(alone)


@pytest.mark.parametrize("in_thread", [True, False])
def test_what_is_left_behind_keeps_its_connection(in_thread: bool) -> None:
    """A connection goes back when the work ends that uses it, not when its caller leaves, and then as after a failure."""
    closed: list[str] = []

    async def work(runner: FunctionRunner) -> None:
        gate, go = Gate(), asyncio.Event()

        async def stubborn(db: str) -> None:
            while not go.is_set():
                try:
                    gate.begun.set()
                    await go.wait()
                except asyncio.CancelledError:
                    continue

        execution = execution_of(gate if in_thread else stubborn, leases=("db",))
        task = await start(runner, execution)
        await gate.begun.wait()
        await interrupt(execution)
        if not in_thread:
            await interrupt(execution)
        assert task.cancelled()
        assert (pool.statistics().in_use, closed) == (1, [])
        assert execution.left_behind is not None
        gate.go.set()
        go.set()
        await execution.left_behind
        assert (pool.statistics().in_use, closed) == (0, ["connection"])

    async def open_() -> str:
        return "connection"

    async def close(connection: str) -> None:
        closed.append(connection)

    pool = ConnectionPool(open_, close=close)
    with_runner(work, pools={"db": pool})


@pytest.mark.slow
def test_thousands_of_calls_with_a_real_database_leak_nothing(tmp_path: Path) -> None:
    """4,000 calls of SQLite, in threads and on the loop, with errors, cancellations and timeouts at random:

    never more than three connections, all closed at the end, none leased, no task and no function left.
    """
    chance, lock = random.Random(7), threading.Lock()
    live: set[sqlite3.Connection] = set()
    most = 0

    def connect() -> sqlite3.Connection:
        nonlocal most
        connection = sqlite3.connect(tmp_path / "data.db", check_same_thread=False)
        with lock:
            live.add(connection)
            most = max(most, len(live))
        return connection

    def close(connection: sqlite3.Connection) -> None:
        connection.close()
        with lock:
            live.remove(connection)

    def plain(db: sqlite3.Connection, n: int) -> int:
        db.execute("BEGIN")
        ((square,),) = db.execute("SELECT ? * ?" if n % 10 else "SELECT * FROM missing", (n, n) if n % 10 else ())
        return int(square)

    async def on_loop(db: sqlite3.Connection, n: int) -> int:
        await asyncio.sleep(0)
        return plain(db, n)

    async def call(runner: FunctionRunner, n: int) -> int:
        function = plain if n % 3 else on_loop
        async with asyncio.timeout(0.002 if n % 7 == 0 else 10):
            return int(await runner.run(execution_of(function, leases=("db",), n=n)))

    async def work(runner: FunctionRunner) -> list[Any]:
        results: list[Any] = []
        for begin in range(0, 4000, 50):
            tasks = [asyncio.create_task(call(runner, n)) for n in range(begin, begin + 50)]
            cancels = chance.randrange(10)  # not for each turn: a busy machine has many
            while waiting := [task for task in tasks if not task.done()]:
                if cancels and chance.random() < 0.03:
                    chance.choice(waiting).cancel()
                    cancels -= 1
                await asyncio.sleep(0)
            results += await asyncio.gather(*tasks, return_exceptions=True)
        async with asyncio.timeout(10):
            while runner.abandoned or pool.statistics().in_use:  # noqa: ASYNC110 - ends of which nobody tells
                await asyncio.sleep(0.001)
        await turns(20)
        assert asyncio.all_tasks() == {asyncio.current_task()}
        return results

    pool = ConnectionPool(connect, close=close, reset=sqlite3.Connection.rollback, max_size=3)
    results = with_runner(work, pools={"db": pool}, max_threads=4)
    kinds = {type(result) for result in results}
    assert kinds == {int, SkillFailedError, asyncio.CancelledError, TimeoutError}
    assert all(result == n * n for n, result in enumerate(results) if isinstance(result, int))
    assert sum(isinstance(result, int) for result in results) > 1000
    assert (most <= 3, live, pool.statistics().in_use) == (True, set(), 0)


# batches


async def alone(**params: Any) -> Any:
    raise AssertionError("the function ran, and not its batch")


async def squares(items: list[dict[str, Any]]) -> list[Any]:
    return [item["x"] ** 2 for item in items]


def squares_in_thread(items: list[dict[str, Any]]) -> list[Any]:
    assert threading.current_thread().name.startswith("skilllab-function")
    return [item["x"] ** 2 for item in items]


@pytest.mark.parametrize("batch", [squares, squares_in_thread])
def test_concurrent_calls_share_a_batch(batch: Callable[..., Any]) -> None:
    """Calls of one skill at the same time are answered by few calls of its batch function, each with its own answer."""
    sizes: list[int] = []

    @functools.wraps(batch)
    def counted(items: list[Any]) -> Any:
        sizes.append(len(items))
        return batch(items)

    async def work(runner: FunctionRunner) -> None:
        executions = [execution_of(alone, batch=counted, x=x) for x in range(25)]
        assert await asyncio.gather(*map(runner.run, executions)) == [x * x for x in range(25)]
        for execution in executions:
            assert execution.usage.cpu_time is None
            assert "in a batch with others" in execution.usage.unmeasured["cpu_time"]
        assert runner.abandoned == 0

    with_runner(work, batch_size=10, batch_wait=0.001)
    assert sizes == [10, 10, 5]


def test_batches_of_different_revisions_are_apart() -> None:
    """A call of a skill that was changed meanwhile never goes to the function of the other revision."""

    def batch_of(name: str) -> Callable[..., Any]:
        async def batch(items: list[Any]) -> list[Any]:
            return [f"{name} of {len(items)}"] * len(items)

        return batch

    async def work(runner: FunctionRunner) -> list[str]:
        executions = [execution_of(alone, batch=batch_of(f"r{n % 2}"), revision=n % 2) for n in range(4)]
        return list(await asyncio.gather(*map(runner.run, executions)))

    assert with_runner(work, batch_wait=0.001) == ["r0 of 2", "r1 of 2"] * 2


def test_no_batcher_is_kept_for_skills_that_nobody_calls() -> None:
    """What collects the calls of a skill goes with the last of them, however it ends."""

    async def fails(items: list[Any]) -> list[Any]:
        raise ValueError("bad")

    async def never(items: list[Any]) -> list[Any]:
        await asyncio.Event().wait()
        return items

    async def work(runner: FunctionRunner) -> None:
        for revision in range(10):
            await runner.run(execution_of(alone, batch=squares, revision=revision, x=1))
        with pytest.raises(SkillFailedError):
            await runner.run(execution_of(alone, batch=fails))
        task = await start(runner, execution_of(alone, batch=never))
        assert len(runner._coalescer) == 1
        task.cancel()
        await asyncio.wait([task])
        assert len(runner._coalescer) == 0

    with_runner(work, batch_wait=0.0)


def test_errors_of_a_batch() -> None:
    """An exception as an answer fails its call alone; one that is raised fails each call with an error of its own."""

    async def mixed(items: list[Any]) -> list[Any]:
        return [ValueError("odd") if item["x"] % 2 else item["x"] for item in items]

    async def fails(items: list[Any]) -> list[Any]:
        raise OSError("down")

    async def outcomes(runner: FunctionRunner, batch: Callable[..., Any]) -> list[Any]:
        executions = [execution_of(alone, batch=batch, x=x) for x in range(4)]
        return await asyncio.gather(*map(runner.run, executions), return_exceptions=True)

    async def work(runner: FunctionRunner) -> None:
        first, second, third, fourth = await outcomes(runner, mixed)
        assert (first, third) == (0, 2)
        assert str(second) == str(fourth) == "s: ValueError: odd"
        assert isinstance(second.__cause__, ValueError)
        errors = await outcomes(runner, fails)
        assert {str(error) for error in errors} == {"s: OSError: down"}
        assert len(set(map(id, errors))) == 4
        assert {type(error) for error in errors} == {SkillFailedError}
        assert all(isinstance(error.__cause__, OSError) for error in errors)

    with_runner(work, batch_wait=0.001)


@pytest.mark.parametrize(
    ("answers", "message"),
    [
        ([1], "s: its batch function returned 1 answers for 2 parameter objects: return one for each"),
        ([1, 2, 3], "s: its batch function returned 3 answers for 2"),
        ("ab", "s: its batch function returned str for 2 parameter objects: return a list"),
        (None, "s: its batch function returned NoneType for 2"),
    ],
)
def test_answers_that_do_not_match_fail_the_whole_batch(answers: Any, message: str) -> None:
    """Too few answers, too many, and none at all are a BatchError for every call, which names the skill."""

    async def batch(items: list[Any]) -> Any:
        return answers

    async def work(runner: FunctionRunner) -> None:
        executions = [execution_of(alone, batch=batch, x=x) for x in range(2)]
        errors = await asyncio.gather(*map(runner.run, executions), return_exceptions=True)
        assert [type(error) for error in errors] == [BatchError, BatchError]
        assert all(str(error).startswith(message) for error in errors)

    with_runner(work, batch_wait=0.001)


def test_a_batch_tells_its_calls_how_long_they_waited() -> None:
    """`waited` is the time until the batch started, and for its thread; the longest step is that of the batch."""

    async def work(runner: FunctionRunner) -> None:
        clock = FakeClock()

        async def batch(items: list[Any]) -> list[Any]:
            clock.advance(0.25)
            return items

        executions = [execution_of(alone, batch=batch, clock=clock, x=x) for x in range(2)]
        blocks: list[float] = []
        for execution in executions:
            execution.on_block = lambda _, seconds, __: blocks.append(seconds)
        first = await start(runner, executions[0])
        clock.advance(1.0)
        second = await start(runner, executions[1])
        await asyncio.gather(first, second)
        assert [execution.waited for execution in executions] == [1.0, 0.0]
        assert [execution.longest_step for execution in executions] == [0.25, 0.25]
        assert blocks == [0.25]

    with_runner(work, batch_size=2, batch_wait=10.0)


def test_a_batch_is_of_no_single_caller() -> None:
    """Its function does not see the context variables of the call that happened to come first."""

    async def batch(items: list[Any]) -> list[Any]:
        return [VARIABLE.get()] * len(items)

    async def work(runner: FunctionRunner) -> str:
        VARIABLE.set("of one caller")
        return str(await runner.run(execution_of(alone, batch=batch)))

    assert with_runner(work, batch_wait=0.0) == "unset"


def test_a_batch_leases_one_connection() -> None:
    """A batch function gets its connections as keywords, once for the whole batch."""

    async def batch(items: list[Any], db: object) -> list[Any]:
        return [db] * len(items)

    pool = ConnectionPool(object)

    async def work(runner: FunctionRunner) -> None:
        executions = [execution_of(alone, batch=batch, leases=("db",), x=x) for x in range(5)]
        connections = await asyncio.gather(*map(runner.run, executions))
        assert len(set(map(id, connections))) == 1
        assert pool.statistics().opened == 1

    with_runner(work, batch_wait=0.001, pools={"db": pool})


@pytest.mark.parametrize("in_thread", [True, False])
def test_a_caller_that_leaves_a_batch_leaves_the_others_served(in_thread: bool) -> None:
    """The batch runs on for the others, and the one that left keeps its place until it ends."""

    async def work(runner: FunctionRunner) -> None:
        gate, go = Gate(), asyncio.Event()

        async def on_loop(items: list[Any]) -> list[Any]:
            gate.begun.set()
            await go.wait()
            return items

        def plain(items: list[Any]) -> list[Any]:
            gate()
            return items

        executions = [execution_of(alone, batch=plain if in_thread else on_loop, x=x) for x in range(3)]
        tasks = [await start(runner, execution) for execution in executions]
        await gate.begun.wait()
        await interrupt(executions[0])
        assert tasks[0].cancelled()
        left = executions[0].left_behind
        assert left is not None
        assert not left.done()
        gate.go.set()
        go.set()
        assert await asyncio.gather(*tasks[1:]) == [{"x": 1}, {"x": 2}]
        await left

    with_runner(work, batch_wait=10.0, batch_size=3)


def test_a_batch_that_awaits_something_cancelled_fails_those_who_stayed() -> None:
    """That one caller has left makes no cancellation of what is the skill's own failure."""

    async def work(runner: FunctionRunner) -> None:
        begun, go = asyncio.Event(), asyncio.Event()

        async def batch(items: list[Any]) -> list[Any]:
            begun.set()
            await go.wait()
            raise asyncio.CancelledError

        executions = [execution_of(alone, batch=batch, x=x) for x in range(2)]
        tasks = [await start(runner, execution) for execution in executions]
        await begun.wait()
        await interrupt(executions[0])
        go.set()
        with pytest.raises(SkillFailedError, match="s: CancelledError"):
            await tasks[1]

    with_runner(work, batch_wait=10.0, batch_size=2)


@pytest.mark.parametrize("kind", ["in a thread", "stubborn", "on the loop"])
def test_a_batch_that_all_have_left_is_ended_or_left_behind(kind: str) -> None:
    """A coroutine is cancelled; what cannot be stopped counts as abandoned, holds up no closing, and tells when it ends."""

    async def work(runner: FunctionRunner) -> None:
        gate, go, seen = Gate(), asyncio.Event(), []

        async def on_loop(items: list[Any]) -> list[Any]:
            gate.begun.set()
            try:
                await go.wait()
            except asyncio.CancelledError:
                seen.append("cancelled")
                if kind == "stubborn":
                    await go.wait()
                raise
            return items

        def plain(items: list[Any]) -> list[Any]:
            gate()
            return items

        batch = plain if kind == "in a thread" else on_loop
        executions = [execution_of(alone, batch=batch, x=x) for x in range(2)]
        tasks = [await start(runner, execution) for execution in executions]
        await gate.begun.wait()
        for execution in executions:
            await interrupt(execution)
        assert all(task.cancelled() for task in tasks)
        ends = kind == "on the loop"
        assert runner.abandoned == (0 if ends else 1)
        assert [left is not None and left.done() for left in (e.left_behind for e in executions)] == [ends, ends]
        assert seen == ([] if kind == "in a thread" else ["cancelled"])
        async with asyncio.timeout(5):
            await runner._coalescer.aclose()
            gate.go.set()
            go.set()
            for execution in executions:
                assert execution.left_behind is not None
                await execution.left_behind

    with_runner(work, batch_wait=10.0, batch_size=2)


def test_an_inner_batch_leaves_the_outer_execution_its_cpu_time() -> None:
    """The task of a batch is none that the skill started which waits for it."""

    async def work(runner: FunctionRunner) -> None:
        async def outer() -> Any:
            return await runner.run(execution_of(alone, batch=squares, x=3))

        execution = execution_of(outer)
        assert await runner.run(execution) == 9
        assert execution.usage.cpu_time is not None

    with_runner(work, batch_size=1)


# streams


async def counting(n: int) -> AsyncIterator[int]:
    for number in range(n):
        await asyncio.sleep(0)
        yield number


def counting_in_thread(n: int) -> Iterator[int]:
    assert threading.current_thread().name.startswith("skilllab-function")
    yield from range(n)


@pytest.mark.parametrize("function", [counting, counting_in_thread])
@pytest.mark.parametrize("n", [0, 1, 5])
def test_a_generator_streams_its_chunks(function: Callable[..., Any], n: int) -> None:
    """Each chunk comes out in order, from an async generator on the loop or from a plain one in a thread."""

    async def work(runner: FunctionRunner) -> None:
        execution = execution_of(function, n=n)
        assert [chunk async for chunk in runner.stream(execution)] == list(range(n))
        assert execution.usage.cpu_time is not None

    with_runner(work)


@pytest.mark.parametrize("in_thread", [True, False])
def test_a_stream_is_measured_as_a_whole(in_thread: bool) -> None:
    """CPU time is the sum of all chunks and of the end; what the reader burns in between is not counted."""
    cpu = FakeClock()

    def plain() -> Iterator[int]:
        for number in range(3):
            cpu.advance(0.25)
            yield number
        cpu.advance(0.5)

    async def on_loop() -> AsyncIterator[int]:
        for number in plain():
            yield number
            await asyncio.sleep(0)

    async def work() -> Any:
        runner = FunctionRunner(cpu_clock=cpu)
        execution = execution_of(plain if in_thread else on_loop)
        async for _ in runner.stream(execution):
            cpu.advance(100.0)
        await runner.aclose()
        return execution

    execution = asyncio.run(work())
    assert execution.usage.cpu_time == 1.25
    assert (execution.longest_step is None) == in_thread


def test_a_stream_that_starts_tasks_has_no_cpu_time() -> None:
    """A task started for one chunk is remembered at the end."""

    async def function() -> AsyncIterator[int]:
        yield 1
        await asyncio.create_task(asyncio.sleep(0))
        yield 2
        yield 3

    async def work(runner: FunctionRunner) -> None:
        execution = execution_of(function)
        async for _ in runner.stream(execution):
            pass
        assert execution.usage.cpu_time is None
        assert "started tasks" in execution.usage.unmeasured["cpu_time"]

    with_runner(work)


@pytest.mark.parametrize("in_thread", [True, False])
def test_no_chunk_is_made_before_it_is_asked_for(in_thread: bool) -> None:
    """A generator without an end is read as far as its reader goes, and no further."""
    made: list[int] = []

    def plain() -> Iterator[int]:
        while True:
            made.append(len(made))
            yield made[-1]

    async def on_loop() -> AsyncIterator[int]:
        for number in plain():
            yield number

    async def work(runner: FunctionRunner) -> None:
        async with aclosing(runner.stream(execution_of(plain if in_thread else on_loop))) as chunks:
            async for chunk in chunks:
                await turns()
                assert made[-1] == chunk
                if chunk == 4:
                    break

    with_runner(work)
    assert len(made) == 5


@pytest.mark.parametrize("in_thread", [True, False])
@pytest.mark.parametrize("ends", ["reader stops", "cancelled", "fails"])
def test_the_end_of_a_stream_runs_its_finally(ends: str, in_thread: bool) -> None:
    """Whichever way a stream ends early, its generator cleans up, awaits included, before the connection goes back."""
    seen: list[str] = []

    def plain(db: str) -> Iterator[int]:
        assert db == "connection"
        try:
            yield 1
            if ends == "fails":
                raise ValueError("bad")
            yield 2
        finally:
            seen.append("cleaned up")

    async def on_loop(db: str) -> AsyncIterator[int]:
        assert db == "connection"
        try:
            yield 1
            if ends == "fails":
                raise ValueError("bad")
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0)
            seen.append("cleaned up")

    async def work(runner: FunctionRunner) -> None:
        execution = execution_of(plain if in_thread else on_loop, leases=("db",), db="the caller's")

        async def read() -> None:
            async with aclosing(runner.stream(execution)) as chunks:
                async for _ in chunks:
                    if ends == "reader stops":
                        break
                    if ends == "cancelled" and in_thread:
                        await asyncio.Event().wait()

        execution.task = task = asyncio.create_task(read())
        if ends == "cancelled":
            await asyncio.sleep(0.01)
            await interrupt(execution)
        await asyncio.wait([task])
        error = None if task.cancelled() else task.exception()
        assert (task.cancelled(), type(error)) == (
            ends == "cancelled",
            SkillFailedError if ends == "fails" else type(None),
        )
        assert seen == ["cleaned up", "connection back"]
        assert execution.left_behind is None

    async def open_() -> str:
        return "connection"

    async def reset(_: str) -> None:
        seen.append("connection back")

    with_runner(work, pools={"db": ConnectionPool(open_, reset=reset)})


@pytest.mark.parametrize("in_thread", [True, False])
def test_a_stream_that_will_not_stop_is_left_behind_and_closed_later(in_thread: bool) -> None:
    """The reader is free; when the chunk that nobody wants is made, the generator is closed, and counts no more."""
    seen: list[str] = []

    async def work(runner: FunctionRunner) -> None:
        gate, go = Gate(), asyncio.Event()

        def plain() -> Iterator[int]:
            try:
                gate()
                yield 1
                seen.append("went on")
            finally:
                seen.append("closed")

        async def on_loop() -> AsyncIterator[int]:
            try:
                while not go.is_set():
                    try:
                        gate.begun.set()
                        await go.wait()
                    except asyncio.CancelledError:
                        continue
                yield 1
                seen.append("went on")
            finally:
                seen.append("closed")

        execution = execution_of(plain if in_thread else on_loop)

        async def read() -> None:
            async for _ in runner.stream(execution):
                pass

        execution.task = task = asyncio.create_task(read())
        await gate.begun.wait()
        await interrupt(execution)
        if not in_thread:
            await interrupt(execution)
        assert task.cancelled()
        left = execution.left_behind
        assert left is not None
        assert (runner.abandoned, seen) == (1, [])
        gate.go.set()
        go.set()
        await left
        await turns()
        assert (runner.abandoned, seen) == (0, ["closed"])

    with_runner(work)


@pytest.mark.parametrize("in_thread", [True, False])
def test_an_error_of_a_stream_comes_after_its_chunks(in_thread: bool) -> None:
    """What was yielded before it is read first; the error is a SkillFailedError with its cause."""

    def plain() -> Iterator[int]:
        yield 1
        raise KeyError("k")

    async def on_loop() -> AsyncIterator[int]:
        yield 1
        raise KeyError("k")

    async def work(runner: FunctionRunner) -> None:
        chunks = runner.stream(execution_of(plain if in_thread else on_loop))
        assert await anext(chunks) == 1
        with pytest.raises(SkillFailedError, match="s: KeyError: 'k'") as caught:
            await anext(chunks)
        assert isinstance(caught.value.__cause__, KeyError)

    with_runner(work)


def test_a_streaming_skill_that_is_no_generator_is_refused() -> None:
    """A function that returns, and a callable that is no function, yield nothing."""

    async def returns() -> int:
        return 1

    async def work(runner: FunctionRunner) -> None:
        for function in (returns, lambda: iter([1]), functools.partial(returns)):
            with pytest.raises(HandlerNotRunnableError, match="its function yields nothing"):
                await anext(runner.stream(execution_of(function)))

    with_runner(work)


def test_a_partial_of_a_generator_streams() -> None:
    """What wraps a generator function is one too."""

    async def work(runner: FunctionRunner) -> None:
        for function in (counting, counting_in_thread):
            execution = execution_of(functools.partial(function, n=2))
            assert [chunk async for chunk in runner.stream(execution)] == [0, 1]

    with_runner(work)


# the rest


@pytest.mark.parametrize("kind", ["on the loop", "in a thread", "in a batch", "leased", "streamed"])
def test_no_error_is_kept_alive(kind: str) -> None:
    """A failure goes with its last holder, without the garbage collector, whichever way it came."""

    class Failure(Exception):  # noqa: N818 - built-in errors take no weak references
        pass

    async def on_loop(db: Any = None) -> None:
        raise Failure

    def plain() -> None:
        raise Failure

    async def batch(items: list[Any]) -> list[Any]:
        raise Failure

    def chunks() -> Iterator[int]:
        yield 1
        raise Failure

    async def fail(runner: FunctionRunner) -> None:
        if kind == "streamed":
            async for _ in runner.stream(execution_of(chunks)):
                pass
        elif kind == "in a batch":
            await runner.run(execution_of(alone, batch=batch))
        elif kind == "leased":
            await runner.run(execution_of(on_loop, leases=("db",)))
        else:
            await runner.run(execution_of(plain if kind == "in a thread" else on_loop))

    async def work(runner: FunctionRunner) -> None:
        seen = []
        try:
            await fail(runner)
        except SkillFailedError as error:
            seen += [weakref.ref(error), weakref.ref(error.__cause__)]  # type: ignore[arg-type]
        if kind != "on the loop":  # until the thread has turned to something else
            await runner.run(execution_of(lambda: None))
        await turns()
        assert [reference() for reference in seen] == [None, None]

    gc.disable()
    try:
        with_runner(work, max_threads=1, batch_wait=0.0, pools={"db": ConnectionPool(object)})
    finally:
        gc.enable()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_threads": 0}, "max_threads=0 must be a whole number of at least 1"),
        ({"max_threads": True}, "max_threads=True"),
        ({"batch_size": 1.5}, "batch_size=1.5 must be a whole number"),
        ({"batch_wait": -0.1}, "batch_wait=-0.1 must be seconds of at least 0"),
        ({"batch_wait": None}, "batch_wait=None"),
        ({"cache_ttl": 0}, "cache_ttl=0 must be seconds above 0, or None"),
        ({"cache_ttl": float("nan")}, "cache_ttl=nan"),
        ({"pools": [1]}, r"pools=\[1\] must be a mapping"),
        ({"pools": {"db": sqlite3.connect}}, r"pools\['db'\]=<.*> must be a ConnectionPool"),
        ({"pools": {1: None}}, r"pools\[1\]=None must be a ConnectionPool"),
    ],
)
def test_bad_options_are_refused(options: dict[str, Any], message: str) -> None:
    """A wrong option is an InvalidValueError that shows it."""
    with pytest.raises(InvalidValueError, match=message):
        FunctionOptions(**options)


def test_options_are_frozen() -> None:
    """The mapping of pools is a copy that nobody can change."""
    pools = {"db": ConnectionPool(object)}
    options = FunctionOptions(pools=pools)
    pools.clear()
    assert list(options.pools) == ["db"]
    with pytest.raises(TypeError, match="frozen"):
        options.pools["other"] = pools  # type: ignore[index]
