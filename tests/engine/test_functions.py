"""The runner of layer 1."""

from __future__ import annotations

import asyncio
import contextvars
import functools
import sys
import threading
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from skilllab.engine import FunctionOptions, FunctionRunner
from skilllab.errors import HandlerNotRunnableError, SkillFailedError
from skilllab.loading import LoadedSkill, load
from skilllab.model import FunctionHandler, ScriptHandler, SkillDefinition

VARIABLE: contextvars.ContextVar[str] = contextvars.ContextVar("VARIABLE", default="unset")


def loaded(function: Callable[..., Any]) -> LoadedSkill:
    return load(SkillDefinition(id="s", name="s", layer=1, handler=FunctionHandler(target="m:f", function=function)), 1)


def with_runner(work: Callable[[FunctionRunner], Awaitable[Any]], max_threads: int = 32) -> Any:
    async def run() -> Any:
        runner = FunctionRunner(FunctionOptions(max_threads=max_threads))
        try:
            return await work(runner)
        finally:
            await runner.aclose()

    return asyncio.run(run())


def run(function: Callable[..., Any], **params: Any) -> Any:
    return with_runner(lambda runner: runner.run(loaded(function), params, None))


def raising(error: BaseException | type[BaseException], *, in_thread: bool) -> Callable[[], Any]:
    def plain() -> None:
        raise error

    async def on_loop() -> None:
        raise error

    return plain if in_thread else on_loop


def test_async_def_runs_on_the_loop_and_def_in_a_thread() -> None:
    """The thread of an async def is the loop's; that of a plain def is one of the runner's."""

    async def on_loop() -> str:
        return threading.current_thread().name

    def in_thread() -> str:
        return threading.current_thread().name

    assert run(on_loop) == threading.current_thread().name
    assert run(in_thread).startswith("skilllab-function")


def test_parameters_are_keywords_and_context_variables_travel() -> None:
    """A thread sees the caller's context variables, and what it sets stays its own."""

    def function(*, a: int, b: str) -> tuple[int, str, str]:
        seen = VARIABLE.get()
        VARIABLE.set("changed")
        return a, b, seen

    async def work(runner: FunctionRunner) -> Any:
        VARIABLE.set("mine")
        return await runner.run(loaded(function), {"a": 1, "b": "x"}, None), VARIABLE.get()

    assert with_runner(work) == ((1, "x", "mine"), "mine")


def test_awaitables_from_plain_functions_are_awaited() -> None:
    """A wrapper, a partial and an object around an async def give its output, not a coroutine."""

    async def inner(x: int) -> int:
        return x + 1

    class Wrapper:
        async def __call__(self, x: int) -> int:
            return await inner(x)

    for function in (lambda x: inner(x + 0), functools.partial(inner), Wrapper()):
        assert run(function, x=1) == 2


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

    for function in (on_loop, lambda: None):
        with pytest.raises(SkillFailedError, match=r"s: TypeError: .*unexpected keyword argument 'x'"):
            run(function, x=1)


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


def test_cancelling_the_caller_cancels_an_async_def() -> None:
    """Cancellation reaches the coroutine, which may clean up, and comes out as CancelledError."""
    seen: list[str] = []

    async def work(runner: FunctionRunner) -> None:
        started = asyncio.Event()

        async def function() -> None:
            started.set()
            try:
                await asyncio.Event().wait()
            finally:
                seen.append("cleaned up")

        task = asyncio.create_task(runner.run(loaded(function), {}, None))
        await started.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    with_runner(work)
    assert seen == ["cleaned up"]


@pytest.mark.parametrize("in_thread", [True, False])
def test_a_cancellation_that_nobody_asked_for_is_the_skills_failure(in_thread: bool) -> None:
    """A skill that awaited a cancelled task fails; its caller is not cancelled."""
    with pytest.raises(SkillFailedError, match="CancelledError"):
        run(raising(asyncio.CancelledError, in_thread=in_thread))


def test_a_timeout_of_the_caller_passes_through() -> None:
    """asyncio.timeout around a call ends it as a TimeoutError of the caller's, not as a failure of the skill."""

    async def work(runner: FunctionRunner) -> None:
        async def function() -> None:
            await asyncio.Event().wait()

        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.001):
                await runner.run(loaded(function), {}, None)

    with_runner(work)


def test_threads_are_bounded_and_a_cancelled_turn_is_never_taken() -> None:
    """With two threads, a third function waits; cancelled while it waits, it never runs; closing waits for the others."""
    ran: list[int] = []
    gate = threading.Event()

    async def work(runner: FunctionRunner) -> None:
        loop, both_run = asyncio.get_running_loop(), asyncio.Event()

        def function(n: int) -> int:
            ran.append(n)
            if len(ran) == 2:
                loop.call_soon_threadsafe(both_run.set)
            gate.wait(10)
            return n

        tasks = [asyncio.create_task(runner.run(loaded(function), {"n": n}, None)) for n in range(3)]
        await both_run.wait()
        tasks[2].cancel()
        tasks[0].cancel()
        with pytest.raises(asyncio.CancelledError):
            await tasks[2]
        with pytest.raises(asyncio.CancelledError):
            await tasks[0]
        closing = asyncio.create_task(runner.aclose())
        await asyncio.sleep(0)
        assert not closing.done()
        gate.set()
        await closing
        assert await tasks[1] == 1

    with_runner(work, max_threads=2)
    assert sorted(ran) == [0, 1]
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("skilllab-function")]


def test_a_handler_that_is_no_function_is_refused() -> None:
    """The runner says what it is for when it is given the skill of another one."""
    script = load(SkillDefinition(id="s", name="s", layer=2, handler=ScriptHandler(source="def run(params): ...")), 1)
    with pytest.raises(HandlerNotRunnableError, match="its handler is no function"):
        with_runner(lambda runner: runner.run(script, {}, None))
