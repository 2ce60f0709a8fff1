"""execute_many: some at a time, read no faster than they run, results in the order of the calls."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from skilllab.engine import GuardOptions, LayeredExecutionEngine
from skilllab.errors import (
    EngineClosedError,
    InvalidParametersError,
    InvalidValueError,
    QueueFullError,
    SkillNotFoundError,
)
from skilllab.model import SkillDefinition
from skilllab.registry import InMemorySkillRegistry
from skilllab.testing import FakeRunner


async def settle(turns: int = 12) -> None:
    for _ in range(turns):
        await asyncio.sleep(0)


class Turns:
    """Takes as many turns of the loop as the parameters say; notes what runs at once, and what has ended."""

    def __init__(self) -> None:
        self.now = self.most = 0
        self.ended: list[int] = []

    async def __call__(self, skill_id: str, params: dict[str, Any]) -> int:
        self.now += 1
        self.most = max(self.most, self.now)
        try:
            await settle(params.get("turns", 1))
            if params.get("fail"):
                raise ConnectionError("gone")
            self.ended.append(params["n"])
            return int(params["n"])
        finally:
            self.now -= 1


def with_engine(
    work: Callable[[LayeredExecutionEngine], Awaitable[Any]], answer: Any, guards: GuardOptions | None = None
) -> Any:
    async def run() -> Any:
        registry = InMemorySkillRegistry()
        for name in ("a", "b"):
            await registry.register(
                SkillDefinition(id=name, name=name, layer=1, handler="textwrap:dedent", cacheable=name == "b")
            )
            await registry.load(name)
        runners = {"function": FakeRunner(answer)}
        async with LayeredExecutionEngine(registry, runners=runners, guards=guards) as engine:
            return await work(engine)

    return asyncio.run(run())


async def asynchronous(calls: list[Any]) -> AsyncIterator[Any]:
    for call in calls:
        await asyncio.sleep(0)
        yield call


def lazily(calls: list[Any]) -> Iterator[Any]:
    yield from calls


@pytest.mark.slow
@given(
    st.lists(st.tuples(st.integers(0, 6), st.booleans()), max_size=20),
    st.integers(1, 6),
    st.sampled_from([list, tuple, lazily, iter, asynchronous]),
)
def test_results_come_in_the_order_of_the_calls(plan: list[tuple[int, bool]], limit: int, kind: Any) -> None:
    """However long each takes, whichever fail, from whatever they are drawn: never more than `limit` run at once, as many
    as may do, each call has its result in its place, and progress is told after each.
    """
    turns = Turns()
    calls = [("a", {"n": n, "turns": long, "fail": fails}) for n, (long, fails) in enumerate(plan)]
    told: list[tuple[int, int | None]] = []

    async def work(engine: LayeredExecutionEngine) -> Any:
        return await engine.execute_many(
            kind(calls), limit=limit, on_progress=lambda done, total: told.append((done, total))
        )

    results = with_engine(work, turns, GuardOptions(breaker_failures=None))
    assert [result.output for result in results] == [None if fails else n for n, (_, fails) in enumerate(plan)]
    assert turns.most <= limit
    if kind is list and all(long > 1 for long, _ in plan):
        assert turns.most == min(limit, len(plan))
    total = len(plan) if kind in (list, tuple) else None
    assert told == [(done, total) for done in range(1, len(plan) + 1)]


@pytest.mark.parametrize("kind", ["plain", "async"])
def test_a_generator_is_read_no_faster_than_it_is_run(kind: str) -> None:
    """At most `limit` calls are drawn and not ended, so that an endless generator needs no memory."""
    turns, drawn = Turns(), 0
    ahead: list[int] = []

    def plain() -> Iterator[Any]:
        nonlocal drawn
        for n in range(100):
            drawn += 1
            ahead.append(drawn - len(turns.ended))
            yield ("a", {"n": n, "turns": n % 5})

    async def asynchronously() -> AsyncIterator[Any]:
        for call in plain():
            await asyncio.sleep(0)
            yield call

    async def work(engine: LayeredExecutionEngine) -> Any:
        return await engine.execute_many(plain() if kind == "plain" else asynchronously(), limit=4)

    assert [result.output for result in with_engine(work, turns)] == list(range(100))
    assert max(ahead) <= 4
    assert kind == "async" or max(ahead) == 4


def test_failures_are_results_like_others() -> None:
    """An unknown skill, wrong parameters and a failing skill fail their own call alone."""

    async def work(engine: LayeredExecutionEngine) -> Any:
        return await engine.execute_many(
            [("a", {"n": 1}), ("nope", {}), ["a", 5], ("a", {"n": 2, "fail": True}), ("a", {"n": 3})], limit=2
        )

    results = with_engine(work, Turns())
    assert [result.output for result in results] == [1, None, None, None, 3]
    assert [type(result.error) for result in results[1:3]] == [SkillNotFoundError, InvalidParametersError]


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ("a", "call 2 is 'a'"),
        (("a",), r"call 2 is \('a',\)"),
        ((5, {}), r"call 2 is \(5, {}\)"),
        (None, "call 2 is None"),
        (("a", {}, 1), "call 2 is"),
    ],
)
@pytest.mark.parametrize("kind", [list, lazily, asynchronous])
def test_a_call_that_is_none_ends_the_whole(bad: Any, message: str, kind: Any) -> None:
    """The error names the position; what runs by then is cancelled, and nothing is left behind."""

    async def work(engine: LayeredExecutionEngine) -> None:
        ended: list[Any] = []
        engine.on("execution-complete", ended.append)
        calls = [("a", {"n": 0, "turns": 1000}), ("a", {"n": 1, "turns": 1000}), bad, ("a", {"n": 3})]
        with pytest.raises(InvalidValueError, match=message):
            await engine.execute_many(kind(calls), limit=3)
        assert engine.active == ()
        assert len(ended) == 2
        await settle()
        assert len(asyncio.all_tasks()) == 1

    with_engine(work, Turns())


@pytest.mark.parametrize("calls", [{"a": {}}, "ab", 5, None, b"ab"])
def test_what_holds_no_calls_is_refused(calls: Any) -> None:
    """A mapping, a text and what cannot be iterated are errors that show what was given."""

    async def work(engine: LayeredExecutionEngine) -> None:
        with pytest.raises(InvalidValueError, match=r"calls=.* must be pairs of skill id and parameters"):
            await engine.execute_many(calls)

    with_engine(work, Turns())


@pytest.mark.parametrize("limit", [0, -1, True, 2.5, None])
def test_a_limit_without_a_meaning_is_refused(limit: Any) -> None:
    """Before a single call is drawn."""
    drawn: list[int] = []

    def calls() -> Iterator[Any]:
        drawn.append(1)
        yield ("a", {})

    async def work(engine: LayeredExecutionEngine) -> None:
        with pytest.raises(InvalidValueError, match="limit="):
            await engine.execute_many(calls(), limit=limit)

    with_engine(work, Turns())
    assert drawn == []


def test_no_calls_give_no_results() -> None:
    """Of a list, a generator and an async generator."""

    async def work(engine: LayeredExecutionEngine) -> None:
        for nothing in ([], (), lazily([]), asynchronous([])):
            assert await engine.execute_many(nothing) == []

    with_engine(work, Turns())


@pytest.mark.parametrize("kind", [list, lazily, asynchronous])
@pytest.mark.parametrize("turns", [0, 1, 2, 3, 5, 8, 13])
def test_cancelling_the_caller_cancels_all(kind: Any, turns: int) -> None:
    """After any number of turns: nothing runs on, and no place, task or generator is left open."""
    answer = Turns()

    async def work(engine: LayeredExecutionEngine) -> None:
        task = asyncio.create_task(
            engine.execute_many(kind([("a", {"n": n, "turns": 1000}) for n in range(20)]), limit=5)
        )
        await settle(turns)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert (answer.now, engine.active, engine.limits()["engine"].in_flight) == (0, (), 0)
        await settle()
        assert len(asyncio.all_tasks()) == 1

    with_engine(work, answer)


def test_a_source_that_fails_and_a_progress_that_fails_end_the_whole() -> None:
    """Their own error comes out, and what ran is cancelled."""

    def source() -> Iterator[Any]:
        yield ("a", {"n": 1, "turns": 1000})
        raise OSError("no more")

    def stop(done: int, total: int | None) -> None:
        raise ZeroDivisionError("stop")

    async def work(engine: LayeredExecutionEngine) -> None:
        with pytest.raises(OSError, match="no more"):
            await engine.execute_many(source(), limit=2)
        with pytest.raises(ZeroDivisionError, match="stop"):
            await engine.execute_many([("a", {"n": 1}), ("a", {"n": 2, "turns": 1000})], on_progress=stop)
        assert engine.active == ()

    with_engine(work, Turns())


def test_options_are_those_of_execute() -> None:
    """timeout, caller and cache count for each call; what execute does not know is an error."""

    async def work(engine: LayeredExecutionEngine) -> None:
        late, soon = await engine.execute_many([("a", {"n": 1, "turns": 10**6}), ("a", {"n": 2})], timeout=0.01)
        assert isinstance(late.error, TimeoutError)
        assert soon.output == 2
        calls = [("b", {"n": 3})] * 3
        assert [result.metadata.cached for result in await engine.execute_many(calls, limit=1)] == [False, True, True]
        again = await engine.execute_many(calls, limit=1, caller="ann")
        assert [result.metadata.cached for result in again] == [False, True, True]
        assert not any(result.metadata.cached for result in await engine.execute_many(calls, cache=False))
        with pytest.raises(TypeError, match="colour"):
            await engine.execute_many(calls, colour="red")

    with_engine(work, Turns())


def test_the_engines_own_bounds_hold() -> None:
    """A limit above what the engine takes fails the calls for which there is no room, each with a typed error."""
    turns = Turns()

    async def work(engine: LayeredExecutionEngine) -> Any:
        return await engine.execute_many([("a", {"n": n, "turns": 5}) for n in range(10)], limit=10)

    results = with_engine(work, turns, GuardOptions(concurrency=2, queue_size=3))
    assert [result.output for result in results] == [0, 1, 2, 3, 4] + [None] * 5
    assert {type(result.error) for result in results[5:]} == {QueueFullError}
    assert turns.most == 2


def test_a_closed_engine_raises() -> None:
    """As execute does, without a group around it."""

    async def work(engine: LayeredExecutionEngine) -> None:
        await engine.aclose()
        with pytest.raises(EngineClosedError):
            await engine.execute_many([("a", {"n": 1})] * 3)

    with_engine(work, Turns())
