"""Events: a start and a complete for every execution, and listeners who can do no harm."""

from __future__ import annotations

import asyncio
import functools
import logging
import pickle
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from skilllab import errors
from skilllab.engine import Execution, GuardOptions, LayeredExecutionEngine
from skilllab.engine.events import Listeners
from skilllab.errors import InvalidValueError
from skilllab.model import ResourceLimits, SkillDefinition
from skilllab.outcome import BreakerEvent, ExecutionEvent, LoopBlockedEvent
from skilllab.registry import InMemorySkillRegistry
from skilllab.testing import FakeClock, FakeRunner


async def settle(turns: int = 12) -> None:
    for _ in range(turns):
        await asyncio.sleep(0)


def definition(skill_id: str, **fields: Any) -> SkillDefinition:
    return SkillDefinition(id=skill_id, name=skill_id, layer=1, handler="textwrap:dedent", **fields)


SKILLS = (
    definition("ok"),
    definition("fails"),
    definition("breaks"),
    definition("hangs"),
    definition("narrow", max_concurrency=1),
    definition("typed", input_schema={"required": ["x"]}, output_schema={"type": "integer"}),
    definition("kept", cacheable=True),
    definition("shared", cacheable=True),
    definition("key", cacheable=True, cache_key="input.hash"),
    definition("streams", streaming=True),
)


async def answer(skill_id: str, params: dict[str, Any]) -> Any:
    await asyncio.sleep(0)
    if skill_id == "fails":
        raise errors.TransportError("gone")
    if skill_id == "breaks":
        raise ZeroDivisionError("oops")
    if skill_id in ("hangs", "narrow", "shared"):
        await asyncio.Event().wait()
    return "text"


def with_engine(work: Callable[[LayeredExecutionEngine], Awaitable[Any]], **options: Any) -> Any:
    async def run() -> Any:
        registry = InMemorySkillRegistry()
        for each in SKILLS:
            await registry.register(each)
        guards = GuardOptions(queue_size=0, breaker_failures=2)
        runners = {"function": FakeRunner(answer)}
        async with LayeredExecutionEngine(registry, runners=runners, guards=guards, **options) as engine:
            return await work(engine)

    return asyncio.run(run())


# the pairs


async def cancelled(engine: LayeredExecutionEngine, skill_id: str) -> None:
    task = asyncio.create_task(engine.execute(skill_id))
    await settle()
    while not task.done():
        task.cancel()
        await asyncio.wait([task])


async def ended(engine: LayeredExecutionEngine, skill_id: str) -> None:
    task = asyncio.create_task(engine.execute(skill_id))
    await asyncio.sleep(0)
    engine.cancel(engine.active[0].execution_id)
    await task


async def twice(engine: LayeredExecutionEngine, skill_id: str) -> None:
    await engine.execute(skill_id)
    await engine.execute(skill_id)


async def full(engine: LayeredExecutionEngine, skill_id: str) -> None:
    await asyncio.gather(*(engine.execute(skill_id, timeout=0.01) for _ in range(2)))


async def streamed(engine: LayeredExecutionEngine, skill_id: str) -> None:
    assert [chunk async for chunk in engine.stream(skill_id)] == list("text")


async def thrice(engine: LayeredExecutionEngine, skill_id: str) -> None:
    for _ in range(3):
        await engine.execute(skill_id)


OUTCOMES: list[tuple[str, Any, list[type[Exception] | None]]] = [
    ("a success", lambda engine: engine.execute("ok"), [None]),
    ("an unknown skill", lambda engine: engine.execute("nope"), [errors.SkillNotFoundError]),
    ("an id that is none", lambda engine: engine.execute(5), [InvalidValueError]),
    ("wrong parameters", lambda engine: engine.execute("typed"), [errors.InvalidParametersError]),
    ("parameters that are none", lambda engine: engine.execute("ok", 5), [errors.InvalidParametersError]),
    ("a wrong output", lambda engine: engine.execute("typed", {"x": 1}), [errors.InvalidOutputError]),
    ("a wrong timeout", lambda engine: engine.execute("ok", timeout=-1), [InvalidValueError]),
    (
        "a limit that cannot be held",
        lambda engine: engine.execute("ok", resource_limits=ResourceLimits(max_memory=1)),
        [errors.LimitNotEnforceableError],
    ),
    ("a streaming skill", lambda engine: engine.execute("streams"), [errors.HandlerNotRunnableError]),
    ("a failure", lambda engine: engine.execute("fails"), [errors.TransportError]),
    ("a bug", lambda engine: engine.execute("breaks"), [errors.SkillFailedError]),
    (
        "an open breaker",
        lambda engine: thrice(engine, "fails"),
        [errors.TransportError] * 2 + [errors.CircuitOpenError],
    ),
    ("a timeout", lambda engine: engine.execute("hangs", timeout=0.01), [errors.ExecutionTimeoutError]),
    ("a full queue", lambda engine: full(engine, "narrow"), [errors.QueueFullError, errors.ExecutionTimeoutError]),
    ("a caller who leaves", lambda engine: cancelled(engine, "hangs"), [errors.ExecutionCancelledError]),
    ("a caller who leaves a shared run", lambda engine: cancelled(engine, "shared"), [errors.ExecutionCancelledError]),
    ("an execution told to end", lambda engine: ended(engine, "hangs"), [errors.ExecutionCancelledError]),
    ("a kept output", lambda engine: twice(engine, "kept"), [None, None]),
    ("a missing key", lambda engine: engine.execute("key"), [errors.CacheKeyError]),
    ("a stream", lambda engine: streamed(engine, "streams"), [None]),
]


@pytest.mark.parametrize(("play", "kinds"), [row[1:] for row in OUTCOMES], ids=[row[0] for row in OUTCOMES])
def test_each_start_has_one_complete(play: Any, kinds: list[type[Exception] | None]) -> None:
    """Whatever comes of an execution, it has one start event, and after it one complete event with its result."""
    told: list[ExecutionEvent] = []

    async def work(engine: LayeredExecutionEngine) -> None:
        for name in ("execution-start", "execution-complete"):
            engine.on(name, told.append)
        engine.on("execution-start", lambda event: active.append([run.execution_id for run in engine.active]))
        engine.on("execution-complete", lambda event: active.append([run.execution_id for run in engine.active]))
        await play(engine)

    active: list[list[str]] = []
    with_engine(work)
    starts = [event for event in told if event.name == "execution-start"]
    completes = [event for event in told if event.name == "execution-complete"]
    assert [event.result for event in starts] == [None] * len(kinds)
    assert len({event.execution_id for event in starts}) == len(kinds)
    assert sorted(event.execution_id for event in completes) == sorted(event.execution_id for event in starts)
    assert [None if event.result.error is None else type(event.result.error) for event in completes] == kinds  # type: ignore[union-attr]
    for event, running in zip(told, active, strict=True):
        assert (event.execution_id in running) == (event.name == "execution-start")
        if event.result is not None:
            assert (event.result.metadata.execution_id, event.result.metadata.skill_id) == event[1:3]


def test_events_tell_what_when() -> None:
    """A start carries id, skill and time of day; a complete carries the very result; both travel."""
    told: list[Any] = []
    wall = FakeClock(1.7e9)

    async def work(engine: LayeredExecutionEngine) -> Any:
        engine.on("execution-start", told.append)
        engine.on("execution-start", lambda _: wall.advance(2.0))
        engine.on("execution-complete", told.append)
        return await engine.execute("ok")

    result = with_engine(work, wall_clock=wall)
    start, complete = told
    assert start == ("execution-start", result.metadata.execution_id, "ok", 1.7e9, None)
    assert complete[:4] == ("execution-complete", result.metadata.execution_id, "ok", 1.7e9 + 2.0)
    assert complete.result is result
    assert result.metadata.start == 1.7e9
    assert pickle.loads(pickle.dumps(told)) == told


def test_a_step_that_held_up_the_loop_is_an_event() -> None:
    """What a runner reports of a step reaches the listeners with the execution, the seconds and the place."""

    class Blocking(FakeRunner):
        async def run(self, execution: Execution) -> Any:
            execution.block(0.25, "skill.py:7")
            return await super().run(execution)

    async def run() -> list[LoopBlockedEvent]:
        registry = InMemorySkillRegistry()
        await registry.register(definition("ok"))
        await registry.register(definition("kept", cacheable=True))
        told: list[LoopBlockedEvent] = []
        wall = FakeClock(3.0)
        async with LayeredExecutionEngine(registry, runners={"function": Blocking()}, wall_clock=wall) as engine:
            engine.on("loop-blocked", told.append)
            ids = [(await engine.execute(skill_id)).metadata.execution_id for skill_id in ("ok", "kept")]
        assert told == [
            ("loop-blocked", ids[0], "ok", 3.0, 0.25, "skill.py:7"),
            ("loop-blocked", ids[1], "kept", 3.0, 0.25, "skill.py:7"),
        ]
        return told

    assert all(isinstance(event, LoopBlockedEvent) for event in asyncio.run(run()))


def test_a_breaker_that_changes_is_an_event() -> None:
    """A skill whose breaker opens says so, with the state before and after."""
    told: list[BreakerEvent] = []

    async def work(engine: LayeredExecutionEngine) -> None:
        engine.on("breaker-change", told.append)
        await thrice(engine, "fails")

    with_engine(work, wall_clock=FakeClock(3.0))
    assert told == [("breaker-change", "fails", 3.0, "closed", "open")]
    assert isinstance(told[0], BreakerEvent)


# listeners


@pytest.mark.parametrize("name", ["execution-start", "execution-complete", "breaker-change"])
@pytest.mark.parametrize("error", [ValueError("mine"), asyncio.CancelledError()])
def test_a_listener_that_fails_is_logged_and_the_others_hear(
    name: str, error: BaseException, caplog: pytest.LogCaptureFixture
) -> None:
    """The execution goes on as if nothing had happened, and the log has the listener's error."""
    heard: list[str] = []

    def fail(event: Any) -> None:
        raise error

    async def work(engine: LayeredExecutionEngine) -> Any:
        engine.on(name, lambda _: heard.append("first"))
        engine.on(name, fail)
        engine.on(name, lambda _: heard.append("last"))
        if name == "breaker-change":
            await thrice(engine, "fails")
            result = await engine.execute("fails")
            assert isinstance(result.error, errors.CircuitOpenError)
        else:
            assert (await engine.execute("ok")).success
        await settle()
        assert engine.active == ()

    with caplog.at_level(logging.ERROR, "skilllab.engine"):
        with_engine(work)
    assert heard == ["first", "last"]
    assert f"a listener to {name} failed" in caplog.text
    assert caplog.records[0].exc_info is not None
    assert caplog.records[0].exc_info[1] is error


def test_who_has_left_hears_nothing() -> None:
    """The function that `on` returns ends the listening; calling it again ends nobody else's."""
    heard: list[str] = []

    async def work(engine: LayeredExecutionEngine) -> None:
        def listen(event: Any) -> None:
            heard.append(event.skill_id)

        first, second = engine.on("execution-start", listen), engine.on("execution-start", listen)
        await engine.execute("ok")
        assert heard == ["ok", "ok"]
        first()
        first()
        await engine.execute("ok")
        assert heard == ["ok"] * 3
        second()
        await engine.execute("ok")
        assert heard == ["ok"] * 3

    with_engine(work)


def test_listeners_may_come_and_go_while_they_are_told() -> None:
    """Who is removed during an event still hears that one, who is added hears the next; nobody is skipped."""
    heard: list[str] = []
    listeners = Listeners()
    event: Any = ExecutionEvent("execution-start", "1", "a", 0.0)

    def once(_: Any) -> None:
        heard.append("once")
        leave()
        leave_last()
        listeners.add(lambda _: heard.append("new"))

    leave = listeners.add(once)
    listeners.add(lambda _: heard.append("stays"))
    leave_last = listeners.add(lambda _: heard.append("last"))
    listeners.tell(event)
    assert heard == ["once", "stays", "last"]
    heard.clear()
    listeners.tell(event)
    assert heard == ["stays", "new"]
    assert len(listeners.callbacks) == 2


async def coroutine(event: Any) -> None:
    pass


class CoroutineObject:
    async def __call__(self, event: Any) -> None:
        pass

    async def method(self, event: Any) -> None:
        pass


@pytest.mark.parametrize(
    "callback",
    [coroutine, functools.partial(coroutine), CoroutineObject(), CoroutineObject().method, None, "print", 5],
    ids=["coroutine", "partial", "object", "method", "None", "text", "number"],
)
def test_what_cannot_hear_is_refused(callback: Any) -> None:
    """A coroutine function would never be awaited, and what is no function cannot be called: both are errors at once."""

    async def work(engine: LayeredExecutionEngine) -> None:
        with pytest.raises(InvalidValueError, match="must be a plain function of one event"):
            engine.on("execution-start", callback)

    with_engine(work)


def test_an_unknown_event_is_refused() -> None:
    """The error names the events there are."""

    async def work(engine: LayeredExecutionEngine) -> None:
        with pytest.raises(InvalidValueError, match="'start': there are execution-start, execution-complete, breaker"):
            engine.on("start", print)

    with_engine(work)
