"""stream: chunks as they are made, one ahead at most, under one deadline, with nothing left behind."""

from __future__ import annotations

import asyncio
import gc
import weakref
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from typing import Any

import pytest

from skilllab.engine import Execution, GuardOptions, LayeredExecutionEngine
from skilllab.errors import (
    EngineClosedError,
    ExecutionCancelledError,
    ExecutionTimeoutError,
    HandlerNotRunnableError,
    InvalidOutputError,
    InvalidParametersError,
    LimitNotEnforceableError,
    QueueFullError,
    SkillFailedError,
    SkillNotFoundError,
)
from skilllab.model import ResourceLimits, SkillDefinition
from skilllab.registry import InMemorySkillRegistry
from skilllab.testing import FakeClock, FakeRunner


async def settle(turns: int = 12) -> None:
    for _ in range(turns):
        await asyncio.sleep(0)


def definition(skill_id: str, **fields: Any) -> SkillDefinition:
    fields = {"streaming": True, **fields}
    return SkillDefinition(id=skill_id, name=skill_id, layer=1, handler="textwrap:dedent", **fields)


SKILLS = (
    definition("s"),
    definition("kept", cacheable=True),
    definition("numbers", output_schema={"type": "integer"}),
    definition("plain", streaming=False),
    definition("typed", streaming=False, output_schema={"type": "integer"}),
)


class Chunks(FakeRunner):
    """Streams the numbers below `count`; fails, hangs or waits as told; notes what was made and that it ended."""

    def __init__(self, count: int = 5, *, then: Any = None, gap: int = 0) -> None:
        super().__init__(lambda skill_id, params: params.get("output", "one"))
        self.count, self.then, self.gap = count, then, gap
        self.made: list[int] = []
        self.ended: list[str] = []

    async def stream(self, execution: Execution) -> AsyncIterator[Any]:
        try:
            for number in range(self.count):
                await settle(self.gap)
                self.made.append(number)
                yield number
            if isinstance(self.then, BaseException | type):
                raise self.then
            if self.then == "hang":
                await asyncio.Event().wait()
            elif self.then is not None:
                yield self.then
        finally:
            await asyncio.sleep(0)
            self.ended.append(execution.skill_id)


def with_engine(work: Callable[[LayeredExecutionEngine], Awaitable[Any]], runner: FakeRunner, **options: Any) -> Any:
    async def run() -> Any:
        registry = InMemorySkillRegistry()
        for each in SKILLS:
            await registry.register(each)
            await registry.load(each.id)
        async with LayeredExecutionEngine(registry, runners={"function": runner}, **options) as engine:
            completes: list[Any] = []
            engine.on("execution-complete", completes.append)
            try:
                return await work(engine), completes
            finally:
                await settle()
                assert len(asyncio.all_tasks()) == 1
                assert engine.active == ()
                assert engine.limits()["engine"].in_flight == 0

    return asyncio.run(run())


async def read_into(read: list[Any], chunks: AsyncIterator[Any], pause: Callable[[], Awaitable[None]]) -> None:
    async for chunk in chunks:
        await pause()
        read.append(chunk)


def test_chunks_come_in_order() -> None:
    """All of them, then the end; the one complete event has a result without an output, and the time it took."""
    runner = Chunks(5)

    async def work(engine: LayeredExecutionEngine) -> list[Any]:
        return [chunk async for chunk in engine.stream("s", {"x": 1})]

    chunks, completes = with_engine(work, runner)
    assert chunks == [0, 1, 2, 3, 4]
    [complete] = completes
    assert (complete.result.success, complete.result.output) == (True, None)
    assert complete.result.metadata.duration is not None
    assert runner.ended == ["s"]


@pytest.mark.parametrize("gap", [0, 1, 3])
@pytest.mark.parametrize("pause", [0, 1, 5])
def test_the_skill_is_at_most_one_chunk_ahead(pause: int, gap: int) -> None:
    """When the reader has the n-th chunk no more than n + 1 were made, however slow either is: memory is bounded."""
    runner = Chunks(20, gap=gap)

    async def work(engine: LayeredExecutionEngine) -> list[int]:
        ahead, read = [], 0
        async for _ in engine.stream("s"):
            read += 1
            await settle(pause)
            ahead.append(len(runner.made) - read)
        return ahead

    ahead, _ = with_engine(work, runner)
    assert len(ahead) == 20
    assert max(ahead) <= 1
    if pause > gap + 1:
        assert max(ahead) == 1


def test_a_chunk_is_there_before_the_next_is_made() -> None:
    """A reader gets the first chunk of a skill that then waits for something."""

    async def work(engine: LayeredExecutionEngine) -> Any:
        async with aclosing(engine.stream("s")) as chunks:
            return await anext(chunks)

    runner = Chunks(1, then="hang")
    assert with_engine(work, runner)[0] == 0
    assert runner.ended == ["s"]


def test_an_error_comes_after_the_chunks() -> None:
    """The reader gets what was made before the failure, then the error as call raises it."""

    async def work(engine: LayeredExecutionEngine) -> list[Any]:
        read: list[Any] = []
        with pytest.raises(SkillFailedError, match="s: ZeroDivisionError: oops"):
            await read_into(read, engine.stream("s"), settle)
        return read

    read, completes = with_engine(work, Chunks(3, then=ZeroDivisionError("oops")))
    assert read == [0, 1, 2]
    assert isinstance(completes[0].result.error, SkillFailedError)


@pytest.mark.parametrize(
    ("call", "error"),
    [
        (lambda engine: engine.stream("nope"), SkillNotFoundError),
        (lambda engine: engine.stream("s", 5), InvalidParametersError),
        (lambda engine: engine.stream("s", timeout=0), ValueError),
        (lambda engine: engine.stream("s", resource_limits=ResourceLimits(max_memory=1)), LimitNotEnforceableError),
    ],
)
def test_a_refused_stream_raises_at_the_first_chunk(call: Any, error: type[Exception]) -> None:
    """Nothing runs, and the reader's first step raises the typed error."""
    runner = Chunks()

    async def work(engine: LayeredExecutionEngine) -> None:
        with pytest.raises(error):
            await anext(call(engine))

    with_engine(work, runner)
    assert runner.made == []


def test_a_closed_engine_and_a_full_queue() -> None:
    """A stream takes a place like any execution, for as long as it lasts, and none of a closed engine."""

    async def work(engine: LayeredExecutionEngine) -> None:
        async with aclosing(engine.stream("s")) as first:
            assert await anext(first) == 0
            assert engine.limits()["engine"].in_flight == 1
            with pytest.raises(QueueFullError):
                await anext(engine.stream("s"))
            assert [chunk async for chunk in first] == [1, 2, 3, 4]
        assert [chunk async for chunk in engine.stream("s")] == [0, 1, 2, 3, 4]
        await engine.aclose()
        with pytest.raises(EngineClosedError):
            await anext(engine.stream("s"))

    with_engine(work, Chunks(), guards=GuardOptions(concurrency=1, queue_size=0))


def test_the_deadline_covers_the_whole_stream() -> None:
    """Each chunk is quick, the stream is not: it ends in a timeout after the chunks that were made by then."""
    clock = FakeClock()
    runner = Chunks(100)

    async def work(engine: LayeredExecutionEngine) -> list[Any]:
        async def pause() -> None:
            clock.advance(1.5)
            engine._pipeline.interruptions.reap()

        read: list[Any] = []
        with pytest.raises(ExecutionTimeoutError) as caught:
            await read_into(read, engine.stream("s", timeout=10.0), pause)
        assert caught.value.timeout == 10.0
        return read

    read, _ = with_engine(work, runner, clock=clock)
    assert read == list(range(7)) or read == list(range(8))
    assert runner.ended == ["s"]


def test_a_reader_who_never_comes_back() -> None:
    """A stream that nobody reads on ends at its deadline, gives its place back, and does not count against the skill."""
    runner = Chunks(100)

    async def work(engine: LayeredExecutionEngine) -> None:
        all_ended = asyncio.Event()
        engine.on("execution-complete", lambda _: None if engine.active else all_ended.set())
        streams = []
        for _ in range(6):
            chunks = engine.stream("s", timeout=0.01)
            assert await anext(chunks) == 0
            streams.append(chunks)
        await all_ended.wait()
        assert engine.limits()["engine"].in_flight == 0
        breaker = engine.breaker("s")
        assert breaker is not None
        assert (breaker.state, breaker.failures) == ("closed", 0)
        with pytest.raises(ExecutionTimeoutError) as caught:
            await anext(streams[0])
        assert caught.value.stage == "queue"
        for chunks in streams:
            await chunks.aclose()  # type: ignore[attr-defined]

    _, completes = with_engine(work, runner)
    assert [type(complete.result.error) for complete in completes] == [ExecutionTimeoutError] * 6
    assert runner.ended == ["s"] * 6


def test_a_skill_that_hangs_counts_against_it() -> None:
    """A stream whose skill makes no further chunk runs into its timeout, in the stage run."""

    async def work(engine: LayeredExecutionEngine) -> None:
        with pytest.raises(ExecutionTimeoutError) as caught:
            async for _ in engine.stream("s", timeout=0.02):
                pass
        assert caught.value.stage == "run"
        breaker = engine.breaker("s")
        assert breaker is not None
        assert breaker.failures == 1

    with_engine(work, Chunks(2, then="hang"))


@pytest.mark.parametrize("count", [0, 1, 3])
def test_stopping_early_ends_the_skill(count: int) -> None:
    """When the reader leaves, the skill's generator runs its `finally` before the closing returns."""
    runner = Chunks(100)

    async def work(engine: LayeredExecutionEngine) -> None:
        async with aclosing(engine.stream("s")) as chunks:
            for _ in range(count):
                await anext(chunks)
        assert runner.ended == (["s"] if count else [])

    _, completes = with_engine(work, runner)
    assert [type(complete.result.error) for complete in completes] == [ExecutionCancelledError] * (count > 0)


@pytest.mark.parametrize("turns", [0, 3])
def test_a_skill_that_will_not_stop_is_stopped_at_its_next_chunk(turns: int) -> None:
    """A generator that swallows the cancellation of its reader gets no further than the chunk after it."""
    made: list[int] = []

    class Stubborn(FakeRunner):
        async def stream(self, execution: Execution) -> AsyncIterator[Any]:
            for number in range(100):
                made.append(number)
                yield number
                try:
                    await settle(turns)
                    await asyncio.Event().wait()
                except asyncio.CancelledError:
                    pass

    async def work(engine: LayeredExecutionEngine) -> None:
        async with aclosing(engine.stream("s", timeout=None)) as chunks:
            assert await anext(chunks) == 0
            await settle()

    with_engine(work, Stubborn())
    assert made == [0, 1]


def test_a_reader_that_forgets_the_stream_ends_it() -> None:
    """Without aclosing, a stream that is dropped is ended by the event loop."""
    runner = Chunks(100)

    async def work(engine: LayeredExecutionEngine) -> None:
        async for chunk in engine.stream("s"):
            if chunk == 2:
                break
        await settle(30)
        assert runner.ended == ["s"]

    with_engine(work, runner)


def test_a_stream_can_be_cancelled_by_its_id() -> None:
    """Its reader gets the typed error, and is not cancelled itself."""

    async def work(engine: LayeredExecutionEngine) -> None:
        chunks = engine.stream("s")
        assert await anext(chunks) == 0
        assert engine.cancel(engine.active[0].execution_id)
        with pytest.raises(ExecutionCancelledError):
            async for _ in chunks:
                pass

    with_engine(work, Chunks(1, then="hang"))


def test_each_chunk_is_checked() -> None:
    """A chunk outside the output schema ends the stream with an InvalidOutputError; those before it were read."""

    async def work(engine: LayeredExecutionEngine) -> list[Any]:
        read: list[Any] = []
        with pytest.raises(InvalidOutputError, match="numbers: output"):
            await read_into(read, engine.stream("numbers"), settle)
        return read

    runner = Chunks(3, then="text")
    assert with_engine(work, runner)[0] == [0, 1, 2]
    assert runner.ended == ["numbers"]


def test_a_plain_skill_yields_its_one_output() -> None:
    """Which is checked like any other."""

    async def work(engine: LayeredExecutionEngine) -> None:
        assert [chunk async for chunk in engine.stream("plain")] == ["one"]
        assert [chunk async for chunk in engine.stream("plain", {"output": None})] == [None]
        assert [chunk async for chunk in engine.stream("typed", {"output": 5})] == [5]
        with pytest.raises(InvalidOutputError, match="typed: output"):
            await anext(engine.stream("typed"))

    with_engine(work, Chunks())


def test_a_streaming_skill_is_for_streaming() -> None:
    """execute and call say what to do instead, and run nothing."""
    runner = Chunks()

    async def work(engine: LayeredExecutionEngine) -> None:
        result = await engine.execute("s")
        assert isinstance(result.error, HandlerNotRunnableError)
        assert "read it with engine.stream" in str(result.error)
        with pytest.raises(HandlerNotRunnableError):
            await engine.call("kept")

    with_engine(work, runner)
    assert runner.made == []


def test_streams_are_not_kept() -> None:
    """A streaming skill that says cacheable runs for each reader."""
    runner = Chunks(2)

    async def work(engine: LayeredExecutionEngine) -> None:
        for _ in range(2):
            assert [chunk async for chunk in engine.stream("kept")] == [0, 1]

    with_engine(work, runner)
    assert runner.ended == ["kept", "kept"]


def test_many_streams_at_once() -> None:
    """A hundred readers of their own streams each get all their chunks, with ten places for them."""

    async def work(engine: LayeredExecutionEngine) -> None:
        async def read(pause: int) -> list[Any]:
            chunks = []
            async for chunk in engine.stream("s"):
                await settle(pause)
                chunks.append(chunk)
            return chunks

        assert await asyncio.gather(*(read(n % 4) for n in range(100))) == [[0, 1, 2, 3, 4]] * 100

    with_engine(work, Chunks(gap=1), guards=GuardOptions(concurrency=10))


@pytest.mark.slow
def test_failed_streams_leave_no_cycles() -> None:
    """When the reader has dealt with the error it goes at once, without the garbage collector."""

    class Failure(Exception):  # noqa: N818 - built-in errors take no weak references
        pass

    async def work(engine: LayeredExecutionEngine) -> list[weakref.ref[Any]]:
        seen = []
        try:
            async for _ in engine.stream("s"):
                pass
        except SkillFailedError as error:
            seen = [weakref.ref(error), weakref.ref(error.__cause__)]
        await settle()
        return seen

    gc.collect()
    gc.disable()
    try:
        (seen, completes) = with_engine(work, Chunks(2, then=Failure))
        assert len(seen) == 2
        completes.clear()
        assert [reference() for reference in seen] == [None, None]
    finally:
        gc.enable()
