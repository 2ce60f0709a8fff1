"""LayeredExecutionEngine: look up, limits, parameters, run, output, measure."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import pytest
from growth import grown
from hypothesis import given
from hypothesis import strategies as st

from skilllab.define import skill
from skilllab.engine import Execution, GuardOptions, LayeredExecutionEngine
from skilllab.engine.lanes import own_copy
from skilllab.errors import (
    ExecutionTimeoutError,
    HandlerNotRunnableError,
    InvalidOutputError,
    InvalidParametersError,
    InvalidValueError,
    SkillFailedError,
    SkillNotFoundError,
    WrongLoopError,
)
from skilllab.model import SkillDefinition
from skilllab.outcome import ExecutionResult
from skilllab.registry import InMemorySkillRegistry
from skilllab.testing import FakeClock, FakeRunner


@skill(id="double")
async def double(x: int) -> int:
    return 2 * x


@skill(id="spoil")
async def spoil(items: list[Any], options: dict[str, Any] | None = None) -> list[Any]:
    """Changes all that it is given."""
    items.append(1)
    for item in items:
        if isinstance(item, dict):
            item.clear()
    if options is not None:
        options["inner"].append(2)
    return items


@skill(id="lie")
async def lie(x: Any) -> dict[str, int]:
    return {"a/b": x}


@skill(id="plain")
def plain(x: int = 0) -> int:
    return x


PLAIN = SkillDefinition(id="fake", name="fake", layer=1, handler="textwrap:dedent")


def with_engine(work: Callable[[LayeredExecutionEngine], Awaitable[Any]], *skills: Any, **options: Any) -> Any:
    async def run() -> Any:
        registry = InMemorySkillRegistry()
        for definition in skills or (double, spoil, lie, plain):
            await registry.register(definition)
        async with LayeredExecutionEngine(registry, **options) as engine:
            return await work(engine)

    return asyncio.run(run())


def execute(skill_id: Any, params: Any = None, *skills: Any, limits: Any = None, **options: Any) -> ExecutionResult:
    result: ExecutionResult = with_engine(
        lambda engine: engine.execute(skill_id, {} if params is None else params, resource_limits=limits),
        *skills,
        **options,
    )
    return result


def test_a_skill_is_run_and_measured() -> None:
    """Duration is the skill's own run, overhead the rest, start the time of day; what was not measured says why."""
    clock, wall = FakeClock(100.0), FakeClock(1.7e9)

    def answer(skill_id: str, params: dict[str, Any]) -> str:
        clock.advance(0.25)
        return f"{skill_id} {params}"

    runner = FakeRunner(answer)
    result = execute("fake", {"x": 1}, PLAIN, runners={"function": runner}, clock=clock, wall_clock=wall)
    assert result.success
    assert (result.output, result.error) == ("fake {'x': 1}", None)
    metadata = result.metadata
    assert (metadata.skill_id, metadata.layer, metadata.isolation) == ("fake", 1, "fake")
    assert (metadata.start, metadata.duration, metadata.overhead) == (1.7e9, 0.25, 0.0)
    assert runner.closed == 1


def test_the_parts_of_a_call_are_its_whole() -> None:
    """Loading is overhead, waiting for a place or for what the runner waits for is queue time, the run is the duration."""
    clock = FakeClock(100.0)

    class Slow(InMemorySkillRegistry):
        async def load(self, skill_id: str) -> Any:
            clock.advance(0.5)
            return await super().load(skill_id)

    class Waiting(FakeRunner):
        async def run(self, execution: Execution) -> Any:
            running.set()
            clock.advance(0.25)
            execution.waited += 0.25  # for a connection, say
            clock.advance(2.0)
            execution.attempts, execution.longest_step = 3, 0.125
            await gates.pop(0).wait()
            return await super().run(execution)

    gates, running = [asyncio.Event(), asyncio.Event()], asyncio.Event()

    async def run() -> list[ExecutionResult]:
        registry = Slow()
        await registry.register(PLAIN)
        first_gate, second_gate = gates
        options: dict[str, Any] = {"guards": GuardOptions(concurrency=1), "clock": clock}
        async with LayeredExecutionEngine(registry, runners={"function": Waiting()}, **options) as engine:
            first = asyncio.create_task(engine.execute("fake"))
            await running.wait()
            second = asyncio.create_task(engine.execute("fake"))
            await asyncio.sleep(0)
            clock.advance(4.0)
            first_gate.set()
            second_gate.set()
            return [await first, await second]

    first, second = (result.metadata for result in asyncio.run(run()))
    assert (first.overhead, first.queue_time, first.duration) == (0.5, 0.25, 6.0)
    assert (second.overhead, second.queue_time, second.duration) == (0.0, 4.25, 2.0)
    assert (second.attempts, second.longest_step, second.cached) == (3, 0.125, False)


def test_a_function_reports_no_isolation_and_what_of_its_usage_is_unknown() -> None:
    """A function runs with isolation "none"; its CPU time is known, each other resource has the reason why it is not."""
    metadata = execute("double", {"x": 4}).metadata
    assert (metadata.isolation, metadata.attempts, metadata.cached) == ("none", 1, False)
    usage = metadata.resource_usage
    assert usage.cpu_time is not None
    assert (usage.memory_used, usage.network_requests, usage.redirects) == (None, None, None)
    assert set(usage.unmeasured) == {"memory_used", "network_requests", "redirects"}


def test_execution_ids_differ_between_calls_and_engines() -> None:
    """Two engines of one process give a hundred executions a hundred ids."""

    async def fifty(engine: LayeredExecutionEngine) -> list[str]:
        return [(await engine.execute("double", {"x": 1})).metadata.execution_id for _ in range(50)]

    assert len({*with_engine(fifty), *with_engine(fifty)}) == 100


def test_call_returns_the_output_or_raises_the_error() -> None:
    """`call` is `execute` without the result around it."""
    assert with_engine(lambda engine: engine.call("double", {"x": 4})) == 8
    assert with_engine(lambda engine: engine.call("plain")) == 0
    with pytest.raises(InvalidParametersError, match="double: parameters at /x"):
        with_engine(lambda engine: engine.call("double", {"x": "4"}))


def test_a_failed_start_has_no_duration() -> None:
    """A refused call took no time of the skill: None, not 0, so that no mean counts it as a fast one."""
    metadata = execute("double", {}).metadata
    assert (metadata.duration, metadata.isolation, metadata.layer) == (None, None, 1)
    assert metadata.overhead > 0
    assert set(metadata.resource_usage.unmeasured.values()) == {"the skill did not run for this call"}


def test_an_unknown_skill_is_a_failed_result() -> None:
    """An id that nobody registered, or that is no text at all, fails the call and not the program."""
    result = execute("nope")
    assert isinstance(result.error, SkillNotFoundError)
    assert (result.success, result.output, result.metadata.layer) == (False, None, None)
    for skill_id in (5, None, ["a"]):
        assert isinstance(execute(skill_id).error, InvalidValueError)


@pytest.mark.parametrize(
    ("params", "path"),
    [
        ({}, ""),
        ({"x": "1"}, "/x"),
        ({"x": None}, "/x"),
        ({"x": 1, "y": 2}, ""),
        ({"x": True}, "/x"),
        ([1], ""),
        ("x", ""),
        ({1: 2}, ""),
    ],
)
def test_wrong_parameters_are_refused_before_the_start(params: Any, path: str) -> None:
    """Parameters that do not fit the schema, or are no mapping, give the skill's id and the JSON Pointer of the offence."""
    result = execute("double", params)
    assert isinstance(result.error, InvalidParametersError)
    assert (result.error.skill_id, result.error.path) == ("double", path)
    assert result.metadata.duration is None


def test_parameters_that_hold_themselves_are_refused() -> None:
    """A list inside itself is an error, not a crash."""
    endless: list[Any] = []
    endless.append(endless)
    result = execute("spoil", {"items": endless})
    assert isinstance(result.error, InvalidParametersError)
    assert "nested too deeply" in str(result.error)


def test_a_skill_cannot_change_the_callers_parameters() -> None:
    """Every dict and list inside is the skill's own copy."""
    params = {"items": [{"a": [1]}], "options": {"inner": [1]}}
    result = execute("spoil", params)
    assert result.output == [{}, 1]
    assert params == {"items": [{"a": [1]}], "options": {"inner": [1]}}


def test_tuples_and_frozen_mappings_arrive_as_json() -> None:
    """A skill gets lists and dicts, whatever kind of sequence and mapping the caller used."""
    runner = FakeRunner()
    definition = SkillDefinition(
        id="a", name="a", layer=1, handler="textwrap:dedent", input_schema={"type": "object", "d": [{"e": 1}]}
    )
    assert definition.input_schema is not None
    params = {"x": definition.input_schema, "y": (1, (2,))}
    execute("a", params, definition, runners={"function": runner})
    [(_, got, _)] = runner.calls
    assert got == {"x": {"type": "object", "d": [{"e": 1}]}, "y": [1, [2]]}
    assert type(got["x"]) is type(got["x"]["d"][0]) is dict
    got["x"]["d"].append(1)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=3),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=12,
)


def parts(value: Any) -> list[Any]:
    inner = value.values() if isinstance(value, Mapping) else value if isinstance(value, list) else ()
    return ([value] if isinstance(value, dict | list) else []) + [part for item in inner for part in parts(item)]


@pytest.mark.slow
@given(st.dictionaries(st.text(max_size=3), JSON, max_size=3))
def test_the_copy_is_equal_and_shares_nothing(params: dict[str, Any]) -> None:
    """Whatever JSON the caller gives, the skill gets an equal value that shares no dict and no list with it."""
    got = own_copy("fake", params)
    assert got == params
    assert not {id(part) for part in parts(got)} & {id(part) for part in parts(params)}


def test_output_that_breaks_the_skills_word_fails_the_call() -> None:
    """An output outside the return hint is an InvalidOutputError with the path; the run it took is still reported."""
    result = execute("lie", {"x": "one"})
    assert isinstance(result.error, InvalidOutputError)
    assert isinstance(result.error, SkillFailedError)
    assert (result.error.skill_id, result.error.path) == ("lie", "/a~1b")
    assert "lie: output at /a~1b" in str(result.error)
    assert result.output is None
    assert result.metadata.duration is not None
    assert execute("lie", {"x": object}).error is not None


def test_skills_that_cannot_run_are_refused() -> None:
    """No handler, a function that cannot be imported, and a skill that streams fail the call with the reason."""
    none = SkillDefinition(id="a", name="a", layer=1)
    missing = SkillDefinition(id="a", name="a", layer=1, handler="no.such:function")
    streams = SkillDefinition(id="a", name="a", layer=1, handler="textwrap:dedent", streaming=True)
    for definition, reason in (
        (none, "has no handler"),
        (missing, "cannot be imported"),
        (streams, "streams its output"),
    ):
        result = execute("a", {}, definition)
        assert isinstance(result.error, HandlerNotRunnableError)
        assert reason in str(result.error)
        assert result.metadata.duration is None


def test_a_runner_that_breaks_is_a_failed_result() -> None:
    """An error of another kind out of a runner or a registry becomes a SkillFailedError with that error as its cause."""

    class Broken(InMemorySkillRegistry):
        async def load(self, skill_id: str) -> Any:
            raise ZeroDivisionError("oops")

    async def run() -> ExecutionResult:
        async with LayeredExecutionEngine(Broken(cache=None)) as engine:
            return await engine.execute("a", {})

    def fail(*_: Any) -> None:
        raise ZeroDivisionError("oops")

    for result in (asyncio.run(run()), execute("fake", {}, PLAIN, runners={"function": FakeRunner(fail)})):
        assert isinstance(result.error, SkillFailedError)
        assert isinstance(result.error.__cause__, ZeroDivisionError)
        assert "ZeroDivisionError: oops" in str(result.error)


def test_an_update_is_run_at_once() -> None:
    """The call after an update runs the new function."""

    @skill(id="double")
    async def triple(x: int) -> int:
        return 3 * x

    async def run() -> list[int]:
        registry = InMemorySkillRegistry()
        await registry.register(double)
        async with LayeredExecutionEngine(registry) as engine:
            before = await engine.call("double", {"x": 1})
            await registry.update("double", triple)
            return [before, await engine.call("double", {"x": 1})]

    assert asyncio.run(run()) == [2, 3]


def test_an_engine_without_a_cache_still_runs() -> None:
    """With cache=None every call loads its skill anew, and runs it."""

    async def run() -> Any:
        registry = InMemorySkillRegistry(cache=None)
        await registry.register(double)
        async with LayeredExecutionEngine(registry) as engine:
            return await engine.call("double", {"x": 3})

    assert asyncio.run(run()) == 6


def test_a_wrong_engine_is_refused() -> None:
    """A runner for no kind of handler, and a cache of results that is none, are errors that show the value."""
    with pytest.raises(InvalidValueError, match=r"\['magic'\] name no kind of handler"):
        LayeredExecutionEngine(InMemorySkillRegistry(), runners={"magic": FakeRunner()})
    with pytest.raises(InvalidValueError, match="results=5 must be a SkillCache, or None"):
        LayeredExecutionEngine(InMemorySkillRegistry(), results=5)


def test_what_is_under_way_can_be_seen() -> None:
    """`active` holds each execution with its id, start and state, oldest first, until its result is there."""
    gate, running = asyncio.Event(), asyncio.Event()
    wall = FakeClock(50.0)

    async def answer(*_: Any) -> None:
        running.set()
        await gate.wait()

    async def work(engine: LayeredExecutionEngine) -> None:
        tasks = [asyncio.create_task(engine.execute("fake"))]
        await running.wait()
        tasks.append(asyncio.create_task(engine.execute("fake")))
        await asyncio.sleep(0)
        wall.advance(1.0)
        assert [(run.skill_id, run.state, run.start) for run in engine.active] == [
            ("fake", "running", 50.0),
            ("fake", "queued", 50.0),
        ]
        assert engine.limits()["engine"] == (1, 1, 1)
        ids = [run.execution_id for run in engine.active]
        gate.set()
        assert [(await task).metadata.execution_id for task in tasks] == ids
        assert engine.active == ()

    with_engine(
        work, PLAIN, runners={"function": FakeRunner(answer)}, guards=GuardOptions(concurrency=1), wall_clock=wall
    )


# event loops


def test_an_engine_works_across_the_cells_of_a_notebook() -> None:
    """Each cell runs to its end on the same loop: executions, kept outputs and listeners last from one to the next."""
    kept = PLAIN.model_copy(update={"cacheable": True})
    runner = FakeRunner(lambda *_: [1])
    registry = InMemorySkillRegistry()
    engine = LayeredExecutionEngine(registry, runners={"function": runner})
    told: list[Any] = []
    engine.on("execution-complete", told.append)
    with contextlib.closing(asyncio.new_event_loop()) as loop:
        loop.run_until_complete(registry.register(kept))
        assert loop.run_until_complete(engine.call("fake")) == [1]
        background = loop.create_task(engine.execute_many([("fake", {"n": n}) for n in range(3)]))
        assert loop.run_until_complete(engine.execute("fake")).metadata.cached
        assert len(loop.run_until_complete(background)) == 3
        loop.run_until_complete(engine.aclose())
    assert len(told) == 5


def test_another_event_loop_is_refused() -> None:
    """An engine belongs to the loop that first used it; another one is told so, also when it would close the engine."""
    registry = InMemorySkillRegistry()
    asyncio.run(registry.register(PLAIN))
    engine = LayeredExecutionEngine(registry, runners={"function": FakeRunner(lambda *_: 1)})

    async def read() -> None:
        async for _ in engine.stream("fake"):
            pass

    assert asyncio.run(engine.call("fake")) == 1
    for use in (
        engine.execute("fake"),
        engine.call("fake"),
        engine.execute_many([("fake", {})]),
        read(),
        engine.aclose(),
    ):
        with pytest.raises(WrongLoopError, match="make an engine for it"):
            asyncio.run(use)


def test_what_cannot_be_stopped_is_counted() -> None:
    """A thread that outlives its caller is counted as left behind until it ends."""
    gate = threading.Event()

    @skill(id="stubborn")
    def stubborn() -> None:
        gate.wait(30)

    async def run() -> None:
        registry = InMemorySkillRegistry()
        await registry.register(stubborn)
        async with LayeredExecutionEngine(registry) as engine:
            assert isinstance((await engine.execute("stubborn", timeout=0.05)).error, ExecutionTimeoutError)
            assert (engine.left_behind, engine.limits()["engine"].in_flight) == (1, 1)
            gate.set()
            while engine.left_behind:  # noqa: ASYNC110 - a thread ends when it ends
                await asyncio.sleep(0.001)
            assert engine.limits()["engine"].in_flight == 0

    asyncio.run(run())


# much of it


@pytest.mark.slow
def test_memory_is_flat() -> None:
    """Twenty thousand executions leave nothing behind, with the garbage collector off: results, failures, kept outputs."""
    counts = asyncio.run(grown(20_000))
    assert max(counts) < 1000, counts  # a leak of one object in twenty executions would show


@pytest.mark.slow
def test_memory_is_flat_over_many() -> None:
    """A hundred thousand executions of a no-op leave nothing behind that grows with their number; `make bench` makes a million."""
    counts = asyncio.run(grown(100_000, kinds=("fake",)))
    assert max(counts) < 1000, counts  # a leak of one object in a hundred executions would show
