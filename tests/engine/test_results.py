"""The result cache: what is kept, for whom, for how long; and one run for all who ask at the same time."""

from __future__ import annotations

import asyncio
import gc
import itertools
import logging
import weakref
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from skilllab.cache.cache import SkillCache
from skilllab.engine import FunctionOptions, GuardOptions, HttpOptions, LayeredExecutionEngine
from skilllab.errors import (
    CacheKeyError,
    ExecutionCancelledError,
    ExecutionTimeoutError,
    InvalidParametersError,
    LimitExceededError,
    LimitNotEnforceableError,
    SingleFlightError,
    TransportError,
)
from skilllab.model import ResourceLimits, SkillDefinition
from skilllab.registry import InMemorySkillRegistry
from skilllab.testing import FakeClock, FakeRunner

MB = 2**20


async def settle(turns: int = 12) -> None:
    for _ in range(turns):
        await asyncio.sleep(0)


def definition(skill_id: str = "c", *, cacheable: bool = True, layer: int = 1, **fields: Any) -> SkillDefinition:
    handler: Any = "textwrap:dedent" if layer == 1 else {"kind": "http", "url": "http://127.0.0.1/"}
    return SkillDefinition(id=skill_id, name=skill_id, layer=layer, handler=handler, cacheable=cacheable, **fields)


class Counter(FakeRunner):
    """Answers with the number of the run, or as told; holds limits of memory."""

    def __init__(self, answer: Callable[[str, dict[str, Any]], Any] | None = None) -> None:
        numbers = itertools.count(1)
        super().__init__(answer or (lambda *_: next(numbers)), enforces=["max_memory", "max_duration"])


def with_engine(
    work: Callable[[LayeredExecutionEngine], Awaitable[Any]],
    runner: FakeRunner,
    *definitions: SkillDefinition,
    loaded: bool = True,
    **options: Any,
) -> Any:
    async def run() -> Any:
        registry = InMemorySkillRegistry()
        for each in definitions or (definition(),):
            await registry.register(each)
            if loaded:
                await registry.load(each.id)
        runners = {"function": runner, "http": runner}
        async with LayeredExecutionEngine(registry, runners=runners, **options) as engine:
            return await work(engine)

    return asyncio.run(run())


# what is kept


def test_an_equal_call_gets_the_kept_output() -> None:
    """The second call runs nothing: its result says cached, has no duration, no attempt, and no isolation."""
    runner = Counter(lambda skill_id, params: {"x": params["x"]})

    async def work(engine: LayeredExecutionEngine) -> None:
        first, second = [await engine.execute("c", {"x": 1, "y": [1]}) for _ in range(2)]
        assert first.output == second.output == {"x": 1}
        assert (first.metadata.cached, first.metadata.attempts, first.metadata.isolation) == (False, 1, "fake")
        kept = second.metadata
        assert (kept.cached, kept.duration, kept.attempts, kept.isolation) == (True, None, 0, None)
        assert (kept.layer, kept.skill_id, kept.queue_time) == (1, "c", 0.0)
        assert set(kept.resource_usage.unmeasured.values()) == {"the skill did not run for this call"}
        assert kept.execution_id != first.metadata.execution_id
        assert engine.results is not None
        assert engine.results.stats().by_kind["result"].hits == 1

    with_engine(work, runner)
    assert len(runner.calls) == 1


@pytest.mark.parametrize("output", [None, 0, False, "", [], {}, [None]])
def test_empty_outputs_are_kept(output: Any) -> None:
    """Nothing is an answer, too."""
    runner = Counter(lambda *_: output)

    async def work(engine: LayeredExecutionEngine) -> list[Any]:
        return [await engine.execute("c") for _ in range(3)]

    results = with_engine(work, runner)
    assert [result.output for result in results] == [output] * 3
    assert [result.metadata.cached for result in results] == [False, True, True]
    assert len(runner.calls) == 1


@pytest.mark.parametrize(
    "error",
    [
        ValueError("a bug"),
        TransportError("gone"),
        LimitExceededError("too much", limit="max_memory", allowed=1, used=2),
    ],
    ids=lambda error: type(error).__name__,
)
def test_errors_and_limit_hits_are_not_kept(error: Exception) -> None:
    """After a failure the next call runs."""
    answers: list[Any] = [error, error, "well"]

    def answer(*_: Any) -> Any:
        now = answers.pop(0)
        if isinstance(now, Exception):
            raise now
        return now

    async def work(engine: LayeredExecutionEngine) -> list[Any]:
        return [await engine.execute("c") for _ in range(4)]

    results = with_engine(work, Counter(answer))
    assert [result.success for result in results] == [False, False, True, True]
    assert [result.metadata.cached for result in results] == [False, False, False, True]


def test_an_output_that_breaks_its_schema_is_not_kept() -> None:
    """What fails the output schema is an error like others."""
    answers = ["lie", 5]
    runner = Counter(lambda *_: answers.pop(0))

    async def work(engine: LayeredExecutionEngine) -> list[Any]:
        return [await engine.execute("c") for _ in range(3)]

    results = with_engine(work, runner, definition(output_schema={"type": "integer"}))
    assert [result.output for result in results] == [None, 5, 5]


def test_half_an_output_is_not_kept() -> None:
    """What a skill returns when it is told to stop is no output: nobody gets it, then or later."""
    hang = True

    async def answer(*_: Any) -> str:
        try:
            if hang:
                await asyncio.Event().wait()
        except asyncio.CancelledError:
            return "half"
        return "whole"

    async def work(engine: LayeredExecutionEngine) -> None:
        nonlocal hang
        assert isinstance((await engine.execute("c", timeout=0.01)).error, ExecutionTimeoutError)
        hang = False
        assert await engine.call("c") == "whole"

    with_engine(work, Counter(answer))


def test_skills_that_do_not_say_cacheable_run_each_time() -> None:
    """So does a call with cache=False, whose output is not kept either, and everything in an engine without a cache."""

    async def work(engine: LayeredExecutionEngine) -> list[Any]:
        outputs = [await engine.call(skill_id) for skill_id in ("plain", "plain", "c", "c")]
        outputs += [await engine.call("c", cache=False), await engine.call("c")]
        return outputs

    skills = (definition("plain", cacheable=False), definition())
    assert with_engine(work, Counter(), *skills) == [1, 2, 3, 3, 4, 3]
    assert with_engine(work, Counter(), *skills, results=None) == [1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize(
    ("own", "layer", "lives"),
    [("inherit", 1, 50.0), ("inherit", 3, 70.0), (5.0, 1, 5.0), (5.0, 3, 5.0), (None, 1, None)],
)
def test_how_long_an_output_lives(own: Any, layer: int, lives: float | None) -> None:
    """As long as the skill says, else as the options of its kind say; None is for ever."""
    timer = FakeClock()

    async def work(engine: LayeredExecutionEngine) -> None:
        assert await engine.call("c") == 1
        timer.advance(10**9 if lives is None else lives - 0.5)
        assert await engine.call("c") == 1
        if lives is not None:
            timer.advance(0.5)
            assert await engine.call("c") == 2

    with_engine(
        work,
        Counter(),
        definition(layer=layer, cache_ttl=own),
        results=SkillCache(10, ttl=1.0, timer=timer),
        functions=FunctionOptions(cache_ttl=50.0),
        http=HttpOptions(cache_ttl=70.0),
    )


# for whom


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"x": 1}, {"x": 2}),
        ({"x": 1}, {"x": True}),
        ({"x": 1}, {"x": 1.0}),
        ({"x": True}, {"x": 1.0}),
        ({"x": 0}, {"x": False}),
        ({"x": None}, {}),
        ({"x": "1"}, {"x": 1}),
        ({"x": [1, 2]}, {"x": [2, 1]}),
        ({"x": [[1], 2]}, {"x": [1, [2]]}),
        ({"x": {"a": 1}}, {"x": {"a": True}}),
        ({"x": "\u00e9"}, {"x": "e\u0301"}),
        ({"x": ["bool", True]}, {"x": True}),
    ],
)
def test_different_parameters_do_not_share(one: Any, other: Any) -> None:
    """What a skill can tell apart has outputs of its own, kept or under way."""

    async def work(engine: LayeredExecutionEngine) -> None:
        first = await asyncio.gather(engine.call("c", one), engine.call("c", other))
        assert first == [1, 2]
        assert [await engine.call("c", one), await engine.call("c", other)] == [1, 2]

    with_engine(work, Counter())


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-3, 3)
    | st.sampled_from([0.0, 1.0, -0.0, 0.5])
    | st.sampled_from(["", "a", "1"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["a", "b", ""]), inner, max_size=3),
    max_leaves=6,
)


def shape(value: Any) -> Any:
    """A value with the types of all its parts, for comparing what Python holds equal."""
    if isinstance(value, dict):
        return {key: shape(item) for key, item in value.items()}
    return [shape(item) for item in value] if isinstance(value, list) else (type(value), repr(value))


@pytest.mark.slow
@given(st.lists(st.dictionaries(st.sampled_from(["x", "y"]), JSON, max_size=2), max_size=8))
def test_calls_share_exactly_when_their_parameters_are_one_value(calls: list[dict[str, Any]]) -> None:
    """Whatever is called in whatever order, each output is that of the first call with the same JSON value."""
    runner = Counter(lambda skill_id, params: [shape(params)])

    async def work(engine: LayeredExecutionEngine) -> None:
        for params in [*calls, *({key: params[key] for key in reversed(params)} for params in calls)]:
            assert await engine.call("c", params) == [shape(params)]

    with_engine(work, runner)
    distinct: list[Any] = []
    for params in calls:
        if shape(params) not in distinct:
            distinct.append(shape(params))
    assert len(runner.calls) == len(distinct)


def test_callers_do_not_share() -> None:
    """An output belongs to the caller for whom it was made, kept or under way, and nobody to nobody."""
    callers: list[Any] = [None, "ann", "bob", 1, True, 1.0, ("ann", 1), {"user": "ann"}, {"user": "bob"}]

    async def work(engine: LayeredExecutionEngine) -> None:
        expected = list(range(1, len(callers) + 1))
        assert await asyncio.gather(*(engine.call("c", {}, caller=caller) for caller in callers)) == expected
        assert [await engine.call("c", {}, caller=caller) for caller in callers] == expected
        assert not (await engine.execute("c", {}, caller={1, 2})).success  # type: ignore[arg-type]

    with_engine(work, Counter())


def test_limits_do_not_leak_to_other_limits() -> None:
    """Calls share an output when their effective limits are the same: the tightest of the call's and the skill's."""

    async def work(engine: LayeredExecutionEngine) -> None:
        limits: list[ResourceLimits | None] = [
            None,
            ResourceLimits(),
            ResourceLimits(max_memory=5 * MB),
            ResourceLimits(max_memory=9 * MB),
            ResourceLimits(max_memory=5 * MB, max_duration=1.0),
        ]
        for skill_id, expected in (("c", [1, 1, 2, 3, 4]), ("tight", [5, 5, 5, 5, 6])):
            for _ in range(2):
                assert [await engine.call(skill_id, resource_limits=limit) for limit in limits] == expected
        refused = await engine.execute("c", resource_limits=ResourceLimits(max_disk=1))
        assert isinstance(refused.error, LimitNotEnforceableError)

    with_engine(work, Counter(), definition(), definition("tight", resource_limits=ResourceLimits(max_memory=5 * MB)))


def test_an_update_forgets_and_a_flight_of_before_reaches_nobody_after() -> None:
    """A run that was under way at an update serves those who asked before it; whoever asks after it gets the new one."""
    gates = {"1": asyncio.Event(), "2": asyncio.Event()}

    async def answer(skill_id: str, params: Any) -> str:
        version = engines[0]._lanes.get("c").skill.definition.version  # type: ignore[union-attr]
        await gates[version].wait()
        return version

    engines: list[LayeredExecutionEngine] = []

    async def work(engine: LayeredExecutionEngine) -> None:
        engines.append(engine)
        registry: Any = engine._pipeline._registry
        before = [asyncio.create_task(engine.call("c")) for _ in range(2)]
        await settle()
        await registry.update("c", definition(version="2"))
        await registry.load("c")
        after = [asyncio.create_task(engine.call("c")) for _ in range(2)]
        await settle()
        gates["1"].set()
        assert await asyncio.gather(*before) == ["1", "1"]
        assert not any(task.done() for task in after)
        later = asyncio.create_task(engine.call("c"))
        await settle()
        assert not later.done()
        gates["2"].set()
        assert await asyncio.gather(*after, later) == ["2"] * 3
        assert await engine.call("c") == "2"

    runner = Counter(answer)
    with_engine(work, runner, definition(version="1"))
    assert len(runner.calls) == 2


def test_going_back_to_an_old_definition_is_a_new_revision() -> None:
    """An output of the first revision is not served when its definition comes back, nor after taking it out and in."""

    async def work(engine: LayeredExecutionEngine) -> None:
        registry: Any = engine._pipeline._registry
        assert await engine.call("c") == 1
        await registry.update("c", definition(version="2"))
        await registry.update("c", definition())
        assert await engine.call("c") == 2
        await registry.unregister("c")
        assert not (await engine.execute("c")).success
        await registry.register(definition())
        assert await engine.call("c") == 3

    with_engine(work, Counter())


def test_engines_share_a_cache_and_no_output() -> None:
    """Two engines with one cache may have different skills of one name."""
    cache = SkillCache(100)

    async def work(engine: LayeredExecutionEngine) -> Any:
        return await engine.call("c")

    assert [with_engine(work, Counter(lambda *_, n=n: n), results=cache) for n in (1, 2)] == [1, 2]
    assert cache.stats().by_kind["result"].size == 2


# which calls are equal


def test_a_cache_key_by_path() -> None:
    """Only the named part counts; "input." is the parameters themselves, numbers are positions in a list."""

    async def work(engine: LayeredExecutionEngine) -> None:
        for skill_id, first in (("by-path", 1), ("bare", 3)):
            assert await engine.call(skill_id, {"doc": {"hash": "x"}, "n": 1}) == first
            assert await engine.call(skill_id, {"doc": {"hash": "x"}, "n": 2}) == first
            assert await engine.call(skill_id, {"doc": {"hash": "y"}, "n": 1}) == first + 1
        assert await engine.call("item", {"ids": [5, 6]}) == 5
        assert await engine.call("item", {"ids": [5, 7]}) == 5
        assert await engine.call("item", {"ids": (5, 8)}) == 5
        assert await engine.call("item", {"ids": [5.0]}) == 6
        assert [await engine.call("item", {"ids": [text]}) for text in ("\u00e9", "e\u0301")] == [7, 8]

    with_engine(
        work,
        Counter(),
        definition("by-path", cache_key="input.doc.hash"),
        definition("bare", cache_key="doc.hash"),
        definition("item", cache_key="input.ids.0"),
    )


@pytest.mark.parametrize("params", [{}, {"doc": {}}, {"doc": None}, {"doc": "x"}, {"doc": ["x"]}, {"doc": 5}])
def test_a_missing_path_is_a_typed_error(params: Any) -> None:
    """The error names the skill and the path, and the skill does not run; with cache=False it does."""
    runner = Counter()

    async def work(engine: LayeredExecutionEngine) -> None:
        result = await engine.execute("c", params)
        assert isinstance(result.error, CacheKeyError)
        assert (result.error.skill_id, result.error.path) == ("c", "/doc/hash")
        assert "'input.doc.hash'" in str(result.error)
        assert result.metadata.duration is None
        assert runner.calls == []
        assert await engine.call("c", params, cache=False) == 1

    with_engine(work, runner, definition(cache_key="input.doc.hash"))


def test_a_cache_key_by_function() -> None:
    """It picks what counts, from a copy: it cannot change what the skill or the caller has."""

    def picks(params: dict[str, Any]) -> Any:
        return params.pop("x") % 10

    runner = Counter()

    async def work(engine: LayeredExecutionEngine) -> None:
        params = {"x": 13}
        assert [
            await engine.call("c", params),
            await engine.call("c", {"x": 23}),
            await engine.call("c", {"x": 4}),
        ] == [
            1,
            1,
            2,
        ]
        assert params == {"x": 13}

    with_engine(work, runner, definition(cache_key=picks))
    assert [params for _, params, _ in runner.calls] == [{"x": 13}, {"x": 4}]


def test_a_cache_key_that_fails_is_a_typed_error() -> None:
    """A function that raises, or returns what no key can be, fails the call before it runs."""

    def raises(params: Any) -> Any:
        raise ZeroDivisionError("oops")

    async def work(engine: LayeredExecutionEngine) -> None:
        raised = (await engine.execute("raises")).error
        assert isinstance(raised, CacheKeyError)
        assert isinstance(raised.__cause__, ZeroDivisionError)
        assert "raises: its cache_key function raised ZeroDivisionError: oops" in str(raised)
        odd = (await engine.execute("odd")).error
        assert isinstance(odd, InvalidParametersError)
        assert "odd: its output cannot be cached" in str(odd)

    runner = Counter()
    with_engine(
        work,
        runner,
        definition("raises", cache_key=raises),
        definition("odd", cache_key=lambda params: {1, 2}),
    )
    assert runner.calls == []


@pytest.mark.parametrize("params", [[1], "x", {"x": {1}}, {"x": {1: 2}}, {1: 2}, {"x": 1, 2: 3}])
def test_wrong_parameters_of_a_cacheable_skill(params: Any) -> None:
    """What is no JSON object is refused as ever, twice, and nothing runs."""
    runner = Counter()

    async def work(engine: LayeredExecutionEngine) -> None:
        for _ in range(2):
            assert isinstance((await engine.execute("c", params)).error, InvalidParametersError)

    with_engine(work, runner)
    assert runner.calls == []


def test_a_kept_output_does_not_excuse_wrong_parameters() -> None:
    """Parameters outside the schema are refused although their cache key has an output."""
    schema = {"type": "object", "properties": {"n": {"type": "integer"}}}

    async def work(engine: LayeredExecutionEngine) -> None:
        assert await engine.call("c", {"k": 1, "n": 1}) == 1
        assert isinstance((await engine.execute("c", {"k": 1, "n": "x"})).error, InvalidParametersError)

    with_engine(work, Counter(), definition(cache_key="k", input_schema=schema))


# copies


def test_a_mutable_output_is_each_callers_own() -> None:
    """The one who ran it, those who joined it and those who come later all get the same value, whatever others do to it."""
    gate = asyncio.Event()

    async def answer(*_: Any) -> Any:
        await gate.wait()
        return {"items": [1, {"a": 2}]}

    async def spoil(engine: LayeredExecutionEngine) -> Any:
        output = await engine.call("c")
        seen = {"items": [item if not isinstance(item, dict) else dict(item) for item in output["items"]]}
        output["items"][1].clear()
        output["items"].append("spoilt")
        return seen

    async def work(engine: LayeredExecutionEngine) -> None:
        tasks = [asyncio.create_task(spoil(engine)) for _ in range(4)]
        await settle()
        gate.set()
        for seen in [*await asyncio.gather(*tasks), await spoil(engine), await spoil(engine)]:
            assert seen == {"items": [1, {"a": 2}]}

    runner = Counter(answer)
    with_engine(work, runner)
    assert len(runner.calls) == 1


def test_what_cannot_be_copied_is_not_shared(caplog: pytest.LogCaptureFixture) -> None:
    """Each caller has a run of its own, and the log says why nothing was kept."""

    class Handle:
        def __deepcopy__(self, memo: Any) -> Any:
            raise TypeError("a handle is one of its kind")

    async def answer(*_: Any) -> Handle:
        await settle()
        return Handle()

    async def work(engine: LayeredExecutionEngine) -> None:
        results = await asyncio.gather(*(engine.execute("c") for _ in range(3)))
        results.append(await engine.execute("c"))
        assert len({id(result.output) for result in results}) == 4
        assert not any(result.metadata.cached for result in results)

    runner = Counter(answer)
    with caplog.at_level(logging.WARNING, "skilllab.engine"):
        with_engine(work, runner)
    assert len(runner.calls) == 4
    assert "c: its output is not kept although it says cacheable" in caplog.text


# one run for all


class Gated(Counter):
    """Answers with the number of the run when told; counts the runs that were cancelled."""

    def __init__(self, error: Exception | None = None) -> None:
        self.gate, self.started = asyncio.Event(), asyncio.Event()
        self.cancelled = 0
        self.numbers = itertools.count(1)
        self.error = error
        super().__init__(self.answer)

    async def answer(self, *_: Any) -> int:
        self.started.set()
        try:
            await self.gate.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        if self.error is not None:
            raise self.error
        return next(self.numbers)


@pytest.mark.parametrize("loaded", [True, False])
def test_a_hundred_tasks_are_one_run(loaded: bool) -> None:
    """All get the output of the one run, also when the skill has yet to be loaded; ninety-nine say cached."""
    runner = Gated()

    async def work(engine: LayeredExecutionEngine) -> None:
        tasks = [asyncio.create_task(engine.execute("c", {"x": 1})) for _ in range(100)]
        await runner.started.wait()
        await settle(30)
        runner.gate.set()
        results = await asyncio.gather(*tasks)
        assert {result.output for result in results} == {1}
        assert [result.metadata.cached for result in results].count(False) == 1
        ran = [result.metadata for result in results if not result.metadata.cached]
        assert ran[0].duration is not None
        assert {result.metadata.duration for result in results if result.metadata.cached} == {None}
        assert len({result.metadata.execution_id for result in results}) == 100

    with_engine(work, runner, loaded=loaded)
    assert len(runner.calls) == 1


@pytest.mark.parametrize("leaves", [0, 4, 9])
@pytest.mark.parametrize("how", ["its caller", "engine.cancel", "timeout"])
def test_one_leaves_and_nine_are_served(how: str, leaves: int) -> None:
    """Whoever leaves, the first one included, and however, the run goes on for the others."""
    runner = Gated()

    async def work(engine: LayeredExecutionEngine) -> None:
        tasks = [
            asyncio.create_task(engine.execute("c", timeout=0.01 if how == "timeout" and n == leaves else None))
            for n in range(10)
        ]
        await settle()
        if how == "its caller":
            tasks[leaves].cancel()
        elif how == "engine.cancel":
            engine.cancel(engine.active[leaves].execution_id)
        await asyncio.wait([tasks[leaves]])
        assert sum(task.done() for task in tasks) == 1
        left = tasks.pop(leaves)
        if how == "its caller":
            assert left.cancelled()
        elif how == "timeout":
            error = left.result().error
            assert isinstance(error, ExecutionTimeoutError)
            assert (error.stage, left.result().metadata.duration) == ("run", None)
            assert "it is still running" in str(error)
        else:
            assert isinstance(left.result().error, ExecutionCancelledError)
        assert runner.cancelled == 0
        late = asyncio.create_task(engine.execute("c"))
        await settle()
        runner.gate.set()
        assert {result.output for result in await asyncio.gather(*tasks, late)} == {1}

    with_engine(work, runner)
    assert len(runner.calls) == 1


def test_when_all_leave_the_run_ends() -> None:
    """The last one who leaves waits for the run's end; whoever comes then starts another."""
    runner = Gated()

    async def work(engine: LayeredExecutionEngine) -> None:
        tasks = [asyncio.create_task(engine.execute("c")) for _ in range(10)]
        await settle()
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
        assert all(task.cancelled() for task in tasks)
        assert runner.cancelled == 1
        assert engine.limits()["engine"].in_flight == 0
        assert not any(engine._pipeline.interruptions._queues.values())
        runner.gate.set()
        assert await engine.call("c") == 1
        assert len(asyncio.all_tasks()) == 1

    with_engine(work, runner)
    assert len(runner.calls) == 2


def test_whoever_comes_while_a_left_run_cleans_up_starts_another() -> None:
    """A run that is being cancelled takes no more callers."""
    cleaning = asyncio.Event()
    runs = 0

    async def answer(*_: Any) -> int:
        nonlocal runs
        runs += 1
        number = runs
        try:
            await (asyncio.Event().wait() if number == 1 else asyncio.sleep(0))
        finally:
            if number == 1:
                await cleaning.wait()
        return number

    async def work(engine: LayeredExecutionEngine) -> None:
        first = asyncio.create_task(engine.execute("c"))
        await settle()
        first.cancel()
        await settle()
        assert await engine.call("c") == 2
        assert not first.done()
        cleaning.set()
        await asyncio.wait([first])
        assert await engine.call("c") == 2

    with_engine(work, Counter(answer))


def test_the_first_ones_timeout_is_not_the_others() -> None:
    """A shared run has no deadline of its own: the impatient leaves with the time it ran, the patient is served."""
    runner = Gated()

    async def work(engine: LayeredExecutionEngine) -> None:
        impatient = asyncio.create_task(engine.execute("c", timeout=0.01))
        await settle()
        patient = asyncio.create_task(engine.execute("c", timeout=60.0))
        assert isinstance((await impatient).error, ExecutionTimeoutError)
        runner.gate.set()
        assert (await patient).output == 1

    with_engine(work, runner)


def test_a_run_that_takes_too_long_takes_no_more_callers() -> None:
    """Whoever asks when the skill's own time is over starts another run, so that one hung run does not hang them all."""
    runner, clock = Gated(), FakeClock()

    async def work(engine: LayeredExecutionEngine) -> None:
        tasks = []
        for advance, runs in ((0.0, 1), (30.0, 1), (0.5, 2), (1.0, 2)):
            clock.advance(advance)
            tasks.append(asyncio.create_task(engine.execute("c", timeout=None)))
            await settle()
            assert len(runner.calls) == runs
        runner.gate.set()
        assert [(await task).output for task in tasks] == [1, 1, 2, 2]

    with_engine(work, runner, guards=GuardOptions(timeout=30.0), clock=clock)


def test_all_share_the_failure() -> None:
    """Each gets the error of the one run, and the next call runs again."""
    runner = Gated(TransportError("gone"))

    async def work(engine: LayeredExecutionEngine) -> None:
        tasks = [asyncio.create_task(engine.execute("c")) for _ in range(5)]
        await settle()
        runner.gate.set()
        results = await asyncio.gather(*tasks)
        assert [type(result.error) for result in results] == [TransportError] * 5
        assert [result.metadata.attempts for result in results] == [1, 0, 0, 0, 0]
        assert not any(result.metadata.cached for result in results)
        assert not (await engine.execute("c")).success

    with_engine(work, runner)
    assert len(runner.calls) == 2


def test_a_skill_that_asks_for_itself_is_told() -> None:
    """A run that would wait for its own output, directly or through another skill, fails at once instead of hanging."""

    async def answer(skill_id: str, params: Any) -> Any:
        engine = engines[0]
        if skill_id == "again":
            return await engine.call("again", {"n": params["n"] - 1}) if params["n"] else "done"
        return await engine.call({"self": "self", "ping": "pong", "pong": "ping"}[skill_id], timeout=None)

    engines: list[LayeredExecutionEngine] = []

    async def work(engine: LayeredExecutionEngine) -> None:
        engines.append(engine)
        for skill_id in ("self", "ping"):
            result = await engine.execute(skill_id, timeout=None)
            assert isinstance(result.error, SingleFlightError)
            assert "would wait for itself" in str(result.error)
        assert await engine.call("again", {"n": 3}) == "done"

    with_engine(work, Counter(answer), *(definition(name) for name in ("self", "ping", "pong", "again")))


def test_two_skills_that_wait_for_each_other_are_told() -> None:
    """Two calls, each under way for a caller of its own, that come to ask for each other end at once with an error."""
    both = asyncio.Event()
    begun: list[str] = []

    async def answer(skill_id: str, params: Any) -> Any:
        begun.append(skill_id)
        if len(begun) == 2:
            both.set()
        await both.wait()
        return await engines[0].call({"ping": "pong", "pong": "ping"}[skill_id], timeout=None)

    engines: list[LayeredExecutionEngine] = []

    async def work(engine: LayeredExecutionEngine) -> None:
        engines.append(engine)
        calls = (engine.execute(skill_id, timeout=None) for skill_id in ("ping", "pong"))
        async with asyncio.timeout(10):
            results = await asyncio.gather(*calls)
        assert all(not result.success for result in results)
        assert any("would wait for itself" in str(result.error) for result in results)

    with_engine(work, Counter(answer), *(definition(name) for name in ("ping", "pong")))
    assert begun == ["ping", "pong"]


@pytest.mark.slow
def test_shared_failures_leave_no_cycles() -> None:
    """When the results are dropped the error of a shared run goes at once, without the garbage collector."""

    class Failure(Exception):  # noqa: N818 - built-in errors take no weak references
        pass

    def answer(*_: Any) -> Any:
        raise Failure

    async def work(engine: LayeredExecutionEngine) -> list[weakref.ref[Any]]:
        results = await asyncio.gather(*(engine.execute("c") for _ in range(3)))
        seen = [weakref.ref(result.error) for result in results]
        seen += [weakref.ref(results[0].error.__cause__)]
        del results
        await settle()
        return seen

    gc.collect()
    gc.disable()
    try:
        seen = with_engine(work, Counter(answer))
        assert len(seen) == 4
        assert [reference() for reference in seen] == [None] * 4
    finally:
        gc.enable()


def test_closing_waits_for_a_run_that_was_left() -> None:
    """A run whose caller did not wait for its end is over when the engine is closed, and before its runner is."""
    order: list[str] = []
    cleaned = asyncio.Event()

    async def answer(*_: Any) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            await cleaned.wait()
            order.append("cleaned up")

    class Closing(Counter):
        async def aclose(self) -> None:
            order.append("closed")

    async def work(engine: LayeredExecutionEngine) -> None:
        task = asyncio.create_task(engine.execute("c"))
        await settle()
        task.cancel()
        await settle()
        task.cancel()  # it will not wait
        await asyncio.wait([task])
        closing = asyncio.create_task(engine.aclose())
        await settle()
        assert not closing.done()
        cleaned.set()
        await closing
        assert order == ["cleaned up", "closed"]

    with_engine(work, Closing(answer))
