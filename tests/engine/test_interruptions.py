"""How an execution ends before its skill does: timeouts, the caller's cancellation, engine.cancel, and all at once."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from skilllab import settings
from skilllab.engine import Execution, GuardOptions, LayeredExecutionEngine
from skilllab.engine.interruptions import Interruptions
from skilllab.errors import ExecutionCancelledError, ExecutionTimeoutError, InvalidValueError, SkillFailedError
from skilllab.model import FunctionHandler, SkillDefinition
from skilllab.registry import InMemorySkillRegistry
from skilllab.testing import FakeClock, FakeRunner


async def settle(turns: int = 12) -> None:
    for _ in range(turns):
        await asyncio.sleep(0)


def definition(skill_id: str, **fields: Any) -> SkillDefinition:
    return SkillDefinition(id=skill_id, name=skill_id, layer=1, handler="textwrap:dedent", **fields)


SKILLS = (
    definition("a"),
    definition("b"),
    definition("cached", cacheable=True),
    definition("narrow", max_concurrency=1),
)


def as_function(skill: SkillDefinition, answer: Any) -> SkillDefinition:
    """Returns the skill as an `async def` of its own, for the engine's own runner, with the same answers."""

    async def function(**params: Any) -> Any:
        answered = answer(skill.id, params)
        return await answered if inspect.isawaitable(answered) else answered

    return skill.model_copy(update={"handler": FunctionHandler(target="tests:skill", function=function)})


def with_engine(
    work: Callable[[LayeredExecutionEngine], Awaitable[Any]],
    answer: Any,
    *definitions: SkillDefinition,
    runner: Any = None,
    real: bool = False,
    **options: Any,
) -> Any:
    async def run() -> Any:
        registry = InMemorySkillRegistry()
        for each in definitions or SKILLS:
            await registry.register(as_function(each, answer) if real else each)
            await registry.load(each.id)
        runners = {} if real else {"function": runner or FakeRunner(answer)}
        async with LayeredExecutionEngine(registry, runners=runners, **options) as engine:
            return await work(engine)

    return asyncio.run(run())


async def forever(*_: Any) -> None:
    await asyncio.Event().wait()


# timeouts


def test_a_timeout_ends_a_running_skill() -> None:
    """The result says how long it was given and that it ran; the skill could clean up, and its time is reported."""
    cleaned: list[str] = []

    async def answer(*_: Any) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0)
            cleaned.append("up")

    result = with_engine(lambda engine: engine.execute("a", timeout=0.01), answer)
    assert isinstance(result.error, ExecutionTimeoutError)
    assert isinstance(result.error, TimeoutError)
    assert (result.error.timeout, result.error.stage) == (0.01, "run")
    assert "a: no answer within 10.0 ms; it ran for" in str(result.error)
    assert result.output is None
    assert result.metadata.duration >= 0.009
    assert (result.metadata.isolation, result.metadata.attempts) == ("fake", 1)
    assert cleaned == ["up"]


def test_a_timeout_ends_the_waiting_in_the_queue() -> None:
    """A call that never had a place says so, has no duration, and leaves the queue; the others are served."""
    gate = asyncio.Event()

    async def answer(*_: Any) -> str:
        await gate.wait()
        return "served"

    async def work(engine: LayeredExecutionEngine) -> Any:
        running = asyncio.create_task(engine.execute("narrow"))
        await settle()
        late = asyncio.create_task(engine.execute("narrow", timeout=0.01))
        patient = asyncio.create_task(engine.execute("narrow"))
        result = await late
        gate.set()
        assert (await running).output == (await patient).output == "served"
        return result

    result = with_engine(work, answer)
    assert isinstance(result.error, ExecutionTimeoutError)
    assert (result.error.timeout, result.error.stage) == (0.01, "queue")
    assert "it never had a place" in str(result.error)
    assert (result.metadata.duration, result.metadata.isolation, result.metadata.attempts) == (None, None, 0)
    assert result.metadata.queue_time >= 0.009


def test_a_timeout_counts_the_loading() -> None:
    """A skill whose loading takes too long is a timeout as well, of the engine's if the call gives none."""

    class Slow(InMemorySkillRegistry):
        async def load(self, skill_id: str) -> Any:
            await asyncio.Event().wait()

    async def run() -> Any:
        async with LayeredExecutionEngine(Slow(), guards=GuardOptions(timeout=0.01)) as engine:
            return [await engine.execute("a"), await engine.execute("a", timeout=0.02)]

    for result, timeout in zip(asyncio.run(run()), (0.01, 0.02), strict=True):
        assert isinstance(result.error, ExecutionTimeoutError)
        assert (result.error.timeout, result.error.stage, result.metadata.layer) == (timeout, "queue", None)


@pytest.mark.parametrize("preloaded", [True, False])
@pytest.mark.parametrize(
    ("engines", "skills", "calls", "held"),
    [
        (30.0, "inherit", ..., 30.0),
        (30.0, 5.0, ..., 5.0),
        (30.0, 50.0, ..., 50.0),
        (30.0, None, ..., None),
        (None, "inherit", ..., None),
        (None, 5.0, ..., 5.0),
        (30.0, 5.0, 7, 7.0),
        (30.0, 5.0, None, None),
    ],
)
def test_whose_timeout_counts(engines: Any, skills: Any, calls: Any, held: float | None, preloaded: bool) -> None:
    """The call's, else the skill's, else the engine's; None is no end; at the first call, which loads, and at the next."""
    clock = FakeClock(100.0)

    class Noting(FakeRunner):
        async def run(self, execution: Execution) -> Any:
            return execution.deadline

    async def run() -> list[Any]:
        registry = InMemorySkillRegistry()
        await registry.register(definition("a", timeout=skills))
        if preloaded:
            await registry.load("a")
        options = {} if calls is ... else {"timeout": calls}
        guards = GuardOptions(timeout=engines)
        async with LayeredExecutionEngine(
            registry, runners={"function": Noting()}, guards=guards, clock=clock
        ) as engine:
            return [await engine.call("a", {}, **options) for _ in range(2)]

    assert asyncio.run(run()) == [None if held is None else 100.0 + held] * 2


@pytest.mark.parametrize("timeout", [0, -1, float("nan"), float("inf"), True, "5", 10**400])
def test_a_timeout_without_a_meaning_is_refused(timeout: Any) -> None:
    """It fails the call, before the skill runs."""
    runner = FakeRunner()
    result = with_engine(lambda engine: engine.execute("a", timeout=timeout), None, runner=runner)
    assert isinstance(result.error, InvalidValueError)
    assert f"timeout={timeout!r}" in str(result.error)
    assert runner.calls == []


@pytest.mark.slow
@given(
    st.lists(
        st.one_of(
            st.tuples(st.just("watch"), st.sampled_from([1.0, 2.0, 5.0]), st.just(0.0)),
            st.tuples(st.just("late"), st.sampled_from([1.0, 2.0, 5.0]), st.sampled_from([0.25, 1.5, 4.0])),
            st.tuples(st.just("forget"), st.integers(0, 9), st.none()),
            st.tuples(st.just("ask"), st.integers(0, 9), st.none()),
            st.tuples(st.just("advance"), st.sampled_from([0.25, 0.5, 1.0, 3.0]), st.none()),
        ),
        max_size=50,
    )
)
def test_deadlines_strike_in_time(steps: list[tuple[str, Any, Any]]) -> None:
    """Whoever is watched, late, forgotten and asked to stop in whatever order: each expires when its time is over, not
    before, not after, and is cancelled once more when its grace is over.
    """

    async def run() -> None:
        clock = FakeClock(10.0)
        interruptions = Interruptions(asyncio.get_running_loop(), clock)
        runs: list[Execution] = []
        due: dict[int, float] = {}
        told: dict[int, int] = {}
        for what, number, ago in steps:
            if what in ("watch", "late"):
                run = Execution.of(str(len(runs)), "a", 0.0, clock() - ago)
                runs.append(run)
                interruptions.watch(run, run.begin, number, late=what == "late")
                due[len(runs) - 1] = run.begin + number
            elif what == "forget" and runs:
                interruptions.forget(runs[number % len(runs)])
                due.pop(number % len(runs), None)
            elif what == "ask" and runs and number % len(runs) not in told:
                interruptions.interrupt(runs[number % len(runs)], "cancel")
                due[number % len(runs)] = clock() + settings.CANCEL_GRACE
                told[number % len(runs)] = 1
            elif what == "advance":
                clock.advance(number)
            interruptions.reap()
            for position, deadline in list(due.items()):
                if deadline <= clock():
                    told[position] = told.get(position, 0) + 1
                    del due[position]
                    if told[position] == 1:
                        due[position] = clock() + settings.CANCEL_GRACE
            assert {position: run.interrupts for position, run in enumerate(runs) if run.interrupts} == told
            assert interruptions._next == min(due.values(), default=float("inf"))
        interruptions.close()

    asyncio.run(run())


def test_timeouts_of_every_length_need_no_memory() -> None:
    """Ten thousand executions, each with a timeout of its own, leave nothing behind when they have ended."""

    async def run() -> None:
        clock = FakeClock()
        interruptions = Interruptions(asyncio.get_running_loop(), clock)
        last = Execution.of("last", "a")
        interruptions.watch(last, 0.0, 29.0)
        for number in range(10_000):
            run = Execution.of(str(number), "a")
            interruptions.watch(run, 0.0, 30.0 + number / 1000)
            interruptions.forget(run)
        assert len(interruptions._queues) < 200
        clock.advance(29.0)
        interruptions.reap()
        assert last.interruption == "timeout"
        interruptions.close()

    asyncio.run(run())


@pytest.mark.parametrize("engines", [60.0, 10.0, None])
def test_a_skill_that_took_long_to_load_expires_in_time(engines: float | None) -> None:
    """Its deadline counts from its call, also when others with the same timeout are watched already."""
    clock = FakeClock()

    class Slow(InMemorySkillRegistry):
        async def load(self, skill_id: str) -> Any:
            if skill_id == "late":
                await settle(6)
            return await super().load(skill_id)

    async def run() -> None:
        registry = Slow()
        for each in (*SKILLS, definition("late", timeout=10.0)):
            await registry.register(each)
            await InMemorySkillRegistry.load(registry, each.id)
        guards = GuardOptions(timeout=engines)
        async with LayeredExecutionEngine(
            registry, runners={"function": FakeRunner(forever)}, guards=guards, clock=clock
        ) as engine:
            late = asyncio.create_task(engine.execute("late"))
            await settle(3)
            clock.advance(6.0)
            other = asyncio.create_task(engine.execute("a", timeout=10.0))
            await settle(12)
            clock.advance(4.0)
            engine._pipeline.interruptions.reap()
            await settle()
            assert late.done()
            assert not other.done()
            clock.advance(6.0)
            engine._pipeline.interruptions.reap()
            assert isinstance((await other).error, ExecutionTimeoutError)

    asyncio.run(run())


# skills that do as they like


@pytest.mark.parametrize("real", [False, True])
@pytest.mark.parametrize("skill_id", ["a", "cached"])
@pytest.mark.parametrize(
    "manner", ["obeys", "swallows", "converts", "takes back", "takes back and fails", "cleans up", "never waited"]
)
def test_whatever_the_skill_makes_of_it_the_result_is_the_timeout(manner: str, skill_id: str, real: bool) -> None:
    """A skill that returns, raises or dawdles when it is told to stop: one timed-out result, and nothing for the caller."""
    clock, engines = FakeClock(), list[LayeredExecutionEngine]()

    async def answer(*_: Any) -> str:
        if manner == "never waited":
            clock.advance(5.0)
            engines[0]._pipeline.interruptions.reap()
            return "done"
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            if manner == "obeys":
                raise
            if manner == "converts":
                raise ValueError("stopped") from None
            if manner.startswith("takes back"):
                task = asyncio.current_task()
                assert task is not None
                task.uncancel()
            if manner == "takes back and fails":
                raise ValueError("stopped") from None
            if manner == "cleans up":
                await settle()
                raise
        return "swallowed"

    async def caller(engine: LayeredExecutionEngine) -> tuple[Any, int]:
        result = await engine.execute(skill_id, timeout=5.0)
        await settle()  # a cancellation that was left over would strike here
        task = asyncio.current_task()
        assert task is not None
        return result, task.cancelling()

    async def work(engine: LayeredExecutionEngine) -> Any:
        engines.append(engine)
        ended: list[Any] = []
        engine.on("execution-complete", ended.append)
        task = asyncio.create_task(caller(engine))
        await settle()
        if manner != "never waited":
            clock.advance(5.0)
            engine._pipeline.interruptions.reap()
        result, cancelling = await task
        assert cancelling == 0
        assert [event.result for event in ended] == [result]
        return result

    result = with_engine(work, answer, real=real, clock=clock)
    assert isinstance(result.error, ExecutionTimeoutError)
    assert (result.error.stage, result.output) == ("run", None)


def test_a_skill_that_goes_on_is_cancelled_once_more() -> None:
    """One second after the first cancellation comes a second one, and no third."""
    clock, seen = FakeClock(), 0

    async def answer(*_: Any) -> str:
        nonlocal seen
        while True:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                seen += 1
                if seen == 2:
                    return "enough"

    async def work(engine: LayeredExecutionEngine) -> None:
        task = asyncio.create_task(engine.execute("a", timeout=5.0))
        await settle()
        for advance, expected in ((4.9, 0), (0.1, 1), (0.9, 1), (0.1, 2)):
            clock.advance(advance)
            engine._pipeline.interruptions.reap()
            await settle()
            assert seen == expected
        assert isinstance((await task).error, ExecutionTimeoutError)
        clock.advance(100.0)
        engine._pipeline.interruptions.reap()
        await settle()

    with_engine(work, answer, clock=clock)


@pytest.mark.parametrize("real", [False, True])
def test_a_cancellation_of_something_else_is_the_skills_failure(real: bool) -> None:
    """A runner that lets the CancelledError of a foreign task escape fails the call; its caller is not cancelled."""

    async def answer(*_: Any) -> None:
        other = asyncio.create_task(forever())
        other.cancel()
        await other

    for skill_id in ("a", "cached"):
        result = with_engine(lambda engine, skill_id=skill_id: engine.execute(skill_id), answer, real=real)
        assert isinstance(result.error, SkillFailedError)
        assert "CancelledError" in str(result.error)


@pytest.mark.parametrize("takes_back", [False, True])
@pytest.mark.parametrize("skill_id", ["a", "cached"])
def test_a_cancelled_caller_may_call_while_it_cleans_up(skill_id: str, takes_back: bool) -> None:
    """Its earlier cancellation is no reason to end the call, and a timeout of the call does not take it back."""
    clock = FakeClock()

    async def answer(skill_id: str, params: dict[str, Any]) -> str:
        try:
            await (settle(3) if params.get("quick") else asyncio.Event().wait())
        except asyncio.CancelledError:
            task = asyncio.current_task()
            assert task is not None
            if not takes_back:
                raise
            task.uncancel()
        return "done"

    async def work(engine: LayeredExecutionEngine) -> None:
        async def caller() -> None:
            task = asyncio.current_task()
            assert task is not None
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                assert await engine.call(skill_id, {"quick": True}) == "done"
                assert isinstance((await engine.execute(skill_id, timeout=5.0)).error, ExecutionTimeoutError)
                assert task.cancelling() == 1
                raise

        task = asyncio.create_task(caller())
        await settle()
        task.cancel()
        await settle(30)
        clock.advance(5.0)
        engine._pipeline.interruptions.reap()
        with pytest.raises(asyncio.CancelledError):
            await task

    with_engine(work, answer, clock=clock)


def test_the_first_reason_counts() -> None:
    """An execution whose time was over is not also closed: one reason, one cancellation, one grace."""

    async def run() -> None:
        interruptions = Interruptions(asyncio.get_running_loop(), FakeClock())
        run = Execution.of("1", "a")
        for reason in ("timeout", "cancel", "close"):
            interruptions.interrupt(run, reason)  # type: ignore[arg-type]
        assert (run.interruption, run.interrupts) == ("timeout", 1)
        interruptions.close()

    asyncio.run(run())


@pytest.mark.parametrize("real", [False, True])
@pytest.mark.parametrize("skill_id", ["a", "cached"])
def test_a_deadline_of_what_has_ended_is_nobodys(skill_id: str, real: bool) -> None:
    """When the time of an execution is over that ended long before, its caller and its task hear nothing."""
    clock = FakeClock()

    async def work(engine: LayeredExecutionEngine) -> None:
        async def caller(fails: bool) -> None:
            assert (await engine.execute(skill_id, {"fails": fails}, timeout=5.0)).success is not fails
            await gate.wait()

        gate = asyncio.Event()
        tasks = [asyncio.create_task(caller(fails)) for fails in (False, True)]
        await settle()
        clock.advance(100.0)
        engine._pipeline.interruptions.reap()
        await settle()
        assert [task.cancelling() for task in tasks] == [0, 0]
        gate.set()
        await asyncio.gather(*tasks)

    def answer(skill_id: str, params: dict[str, Any]) -> int:
        return 1 // (not params["fails"])

    with_engine(work, answer, real=real, clock=clock)


# one execution inside another


@pytest.mark.parametrize("inner", ["b", "cached"])
def test_an_inner_timeout_is_the_inner_executions(inner: str) -> None:
    """A skill whose own call times out gets a failed result and goes on."""

    async def answer(skill_id: str, params: Any) -> Any:
        if skill_id != "a":
            return await forever()
        result = await engines[0].execute(inner, timeout=0.01)
        await settle()
        return type(result.error)

    engines: list[LayeredExecutionEngine] = []

    async def work(engine: LayeredExecutionEngine) -> Any:
        engines.append(engine)
        return await engine.call("a", timeout=30.0)

    assert with_engine(work, answer) is ExecutionTimeoutError


@pytest.mark.parametrize("real", [False, True])
@pytest.mark.parametrize("inner", ["b", "cached"])
@pytest.mark.parametrize("outer", ["a", "cached"])
@pytest.mark.parametrize("order", [(5.0, 7.0), (7.0, 5.0), (5.0, 5.0)])
def test_both_timeouts_in_one_turn(order: tuple[float, float], inner: str, outer: str, real: bool) -> None:
    """When the outer's and the inner's time are over in the same turn, each has its own timeout and nothing is left."""
    clock = FakeClock()
    engines: list[LayeredExecutionEngine] = []
    ended: list[Any] = []

    async def answer(skill_id: str, params: dict[str, Any]) -> Any:
        if params.get("level") == 2:
            return await forever()
        return await engines[0].call(inner, {"level": 2}, timeout=order[1])

    async def work(engine: LayeredExecutionEngine) -> tuple[Any, int]:
        engines.append(engine)
        engine.on("execution-complete", ended.append)
        task = asyncio.create_task(caller(engine))
        await settle()
        clock.advance(10.0)
        engine._pipeline.interruptions.reap()
        return await task

    async def caller(engine: LayeredExecutionEngine) -> tuple[Any, int]:
        result = await engine.execute(outer, {"level": 1}, timeout=order[0])
        await settle()
        task = asyncio.current_task()
        assert task is not None
        return result, task.cancelling()

    result, cancelling = with_engine(work, answer, real=real, clock=clock)
    assert isinstance(result.error, ExecutionTimeoutError)
    assert (result.error.timeout, cancelling) == (order[0], 0)
    assert len(ended) == 2
    assert {type(event.result.error) for event in ended} <= {ExecutionTimeoutError, ExecutionCancelledError}


# the caller's own cancellation


def test_a_timeout_of_the_callers_own_passes_through() -> None:
    """asyncio.timeout around a call raises its TimeoutError, and the skill was ended."""

    async def work(engine: LayeredExecutionEngine) -> None:
        for skill_id in ("a", "cached"):
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.01):
                    await engine.execute(skill_id)
            assert engine.active == ()

    with_engine(work, forever)


@pytest.mark.parametrize("skill_id", ["a", "cached"])
@pytest.mark.parametrize("manner", ["obeys", "swallows", "converts"])
@pytest.mark.parametrize("first", ["engine", "caller"])
@pytest.mark.parametrize("real", [False, True])
def test_the_callers_cancellation_wins(real: bool, first: str, manner: str, skill_id: str) -> None:
    """Cancelled by its caller and by the engine in one turn, in either order, a call raises CancelledError."""
    clock = FakeClock()

    async def answer(*_: Any) -> str:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            if manner == "obeys":
                raise
            if manner == "converts":
                raise ValueError("stopped") from None
        return "swallowed"

    async def work(engine: LayeredExecutionEngine) -> None:
        ended: list[Any] = []
        engine.on("execution-complete", ended.append)
        task = asyncio.create_task(engine.execute(skill_id, timeout=5.0))
        await settle()
        clock.advance(5.0)
        ends = [engine._pipeline.interruptions.reap, task.cancel]
        for end in ends if first == "engine" else reversed(ends):
            end()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert task.cancelling() == 1
        assert [type(event.result.error) for event in ended] == [ExecutionCancelledError]

    with_engine(work, answer, real=real, clock=clock)


class Streaming(FakeRunner):
    async def stream(self, execution: Execution) -> AsyncIterator[Any]:
        try:
            for number in range(3):
                await asyncio.sleep(0)
                yield number
        finally:
            await asyncio.sleep(0)


class Scene:
    """A caller that is cancelled while it does one of many things, and what must hold afterwards."""

    KINDS = (
        "plain",
        "failing",
        "swallowing",
        "converting",
        "slow to end",
        "queued",
        "cached",
        "joined",
        "nested",
        "many",
    )

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self.inside = False
        self.outcome: Any = None
        self.engine: Any = None
        self.started: list[str] = []
        self.completed: list[str] = []

    async def answer(self, skill_id: str, params: dict[str, Any]) -> Any:
        try:
            if params.get("then"):
                return await self.engine.call(params["then"], {}, timeout=5.0)
            await settle(5)
            if self.kind == "failing":
                raise ConnectionError("gone")
        except asyncio.CancelledError:
            if self.kind == "converting":
                raise ValueError("stopped") from None
            if self.kind == "slow to end":
                await settle(3)
            if self.kind != "swallowing":
                raise
        return "done"

    async def victim(self) -> Any:
        self.inside = True
        try:
            if self.kind == "many":
                self.outcome = await self.engine.execute_many([("a", {}), ("cached", {}), ("b", {})] * 2, limit=2)
            else:
                skill_id = {"queued": "narrow", "cached": "cached", "joined": "cached"}.get(self.kind, "a")
                params = {"then": "cached"} if self.kind == "nested" else {}
                self.outcome = await self.engine.execute(skill_id, params)
        except asyncio.CancelledError:
            self.outcome = "cancelled"
        finally:
            self.inside = False
        await settle(4)  # what was left over would strike here
        return self.outcome

    async def play(self, engine: LayeredExecutionEngine, turns: int, ends: list[int]) -> None:
        self.engine = engine
        engine.on("execution-start", lambda event: self.started.append(event.execution_id))
        engine.on("execution-complete", lambda event: self.completed.append(event.execution_id))
        others = []
        if self.kind in ("queued", "joined"):
            others.append(asyncio.create_task(engine.execute({"queued": "narrow", "joined": "cached"}[self.kind])))
            await asyncio.sleep(0)
        task = asyncio.create_task(self.victim())
        for turn in range(turns):
            if turn in ends:
                for run in engine.active[len(others) :]:
                    engine.cancel(run.execution_id)
            await asyncio.sleep(0)
        in_time = self.inside
        asked = task.cancel() and in_time
        try:
            await task
        except asyncio.CancelledError:
            assert not in_time or self.outcome != "cancelled", "it was cancelled a second time"
        if in_time:
            assert self.outcome == "cancelled"
            assert task.cancelling() == 1
        elif self.outcome is not None:
            assert self.outcome != "cancelled"
        assert asked == in_time
        for other in others:
            assert (await other).output == "done" or self.kind not in ("queued", "joined")
        assert engine.active == ()
        assert [statistics[1:] for statistics in engine.limits().values()] == [(0, 0)]
        assert engine._lanes.get("narrow") is None or engine._lanes.get("narrow").own_gate.free == 1  # type: ignore[union-attr]
        assert sorted(self.started) == sorted(self.completed)
        assert len(set(self.started)) == len(self.started)
        await settle(4)
        assert len(asyncio.all_tasks()) == 1


@pytest.mark.slow
@pytest.mark.parametrize("kind", Scene.KINDS)
@pytest.mark.parametrize("real", [False, True])
def test_a_caller_may_be_cancelled_at_every_await(real: bool, kind: str) -> None:
    """After 0, 1, 2, ... 30 turns of the loop: the caller gets its one CancelledError if its call was under way, a result
    if it was over; nothing runs on, every place is free, each start has its complete, and other callers are served.
    """
    for turns in range(31):
        scene = Scene(kind)
        with_engine(lambda engine, scene=scene, turns=turns: scene.play(engine, turns, []), scene.answer, real=real)
        if turns == 30:
            assert scene.outcome not in (None, "cancelled")


@pytest.mark.slow
@given(st.sampled_from(Scene.KINDS), st.integers(0, 25), st.lists(st.integers(0, 25), max_size=3), st.booleans())
def test_a_caller_may_be_cancelled_while_the_engine_cancels(kind: str, turns: int, ends: list[int], real: bool) -> None:
    """The same holds when engine.cancel ends executions at any turns before."""
    scene = Scene(kind)
    with_engine(lambda engine: scene.play(engine, turns, ends), scene.answer, real=real)


@pytest.mark.parametrize("turns", range(12))
def test_a_reader_may_be_cancelled_at_every_await(turns: int) -> None:
    """A reader of a stream that is cancelled leaves no task, no execution and no place behind."""

    async def work(engine: LayeredExecutionEngine) -> None:
        async def read() -> list[Any]:
            return [chunk async for chunk in engine.stream("s")]

        task = asyncio.create_task(read())
        await settle(turns)
        task.cancel()
        await asyncio.wait([task])
        assert task.cancelled() if turns < 6 else task.cancelled() or task.result() == [0, 1, 2]
        await settle()
        assert engine.active == ()
        assert engine.limits()["engine"][1:] == (0, 0)
        assert len(asyncio.all_tasks()) == 1

    with_engine(work, None, definition("s", streaming=True), runner=Streaming())


# engine.cancel


@pytest.mark.parametrize("skill_id", ["a", "cached"])
def test_cancelling_a_running_execution(skill_id: str) -> None:
    """It ends with a typed result; a second cancel, one of an unknown id and one of an ended execution return False."""

    async def work(engine: LayeredExecutionEngine) -> None:
        task = asyncio.create_task(engine.execute(skill_id))
        await settle()
        [run] = engine.active
        assert engine.cancel("nobody") is False
        assert engine.cancel(run.execution_id) is True
        assert engine.cancel(run.execution_id) is False
        result = await task
        assert isinstance(result.error, ExecutionCancelledError)
        assert f"{skill_id}: cancelled while running" in str(result.error)
        assert task.cancelling() == 0
        assert engine.cancel(run.execution_id) is False

    with_engine(work, forever)


def test_cancelling_a_waiting_execution() -> None:
    """It leaves the queue without having run."""
    runner = FakeRunner(forever)

    async def work(engine: LayeredExecutionEngine) -> None:
        tasks = [asyncio.create_task(engine.execute("narrow", {"n": n})) for n in range(3)]
        await settle()
        assert [run.state for run in engine.active] == ["running", "queued", "queued"]
        engine.cancel(engine.active[1].execution_id)
        waiting = await tasks[1]
        assert "narrow: cancelled while waiting" in str(waiting.error)
        assert waiting.metadata.duration is None
        engine.cancel(engine.active[0].execution_id)
        await tasks[0]
        await settle()
        engine.cancel(engine.active[0].execution_id)
        await tasks[2]
        assert [params["n"] for _, params, _ in runner.calls] == [0, 2]

    with_engine(work, None, runner=runner)


@pytest.mark.parametrize("real", [False, True])
@pytest.mark.parametrize("waits", [True, False])
@pytest.mark.parametrize("skill_id", ["a", "cached"])
def test_a_skill_may_cancel_itself(skill_id: str, waits: bool, real: bool) -> None:
    """Whether it waits for something afterwards or ends at once: a cancelled result, and nothing for the caller."""
    engines: list[LayeredExecutionEngine] = []

    async def answer(*_: Any) -> str:
        engine = engines[0]
        assert engine.cancel(engine.active[0].execution_id)
        if waits:
            await settle()
        return "done"

    async def work(engine: LayeredExecutionEngine) -> tuple[Any, int]:
        engines.append(engine)
        result = await engine.execute(skill_id)
        await settle()
        task = asyncio.current_task()
        assert task is not None
        return result, task.cancelling()

    result, cancelling = with_engine(work, answer, real=real)
    assert isinstance(result.error, ExecutionCancelledError)
    assert cancelling == 0


@pytest.mark.parametrize("loaded", [True, False])
@pytest.mark.parametrize("quick", [True, False])
def test_a_listener_may_cancel_what_starts(quick: bool, loaded: bool) -> None:
    """Cancelled before it has begun, an execution ends so, and its caller hears nothing of it later."""
    clock = FakeClock()

    async def answer(*_: Any) -> str:
        if not quick:
            await settle()
        return "done"

    async def run() -> tuple[Any, int]:
        registry = InMemorySkillRegistry()
        await registry.register(definition("a", timeout=7.0))
        if loaded:
            await registry.load("a")
        async with LayeredExecutionEngine(registry, runners={"function": FakeRunner(answer)}, clock=clock) as engine:
            engine.on("execution-start", lambda event: engine.cancel(event.execution_id))
            result = await engine.execute("a")
            clock.advance(100.0)
            engine._pipeline.interruptions.reap()
            await settle()
            task = asyncio.current_task()
            assert task is not None
            return result, task.cancelling()

    result, cancelling = asyncio.run(run())
    assert isinstance(result.error, ExecutionCancelledError)
    assert cancelling == 0


def test_a_listener_cancels_in_vain_what_has_ended() -> None:
    """At its complete event an execution is no longer under way."""

    async def work(engine: LayeredExecutionEngine) -> None:
        answers: list[bool] = []
        engine.on("execution-complete", lambda event: answers.append(engine.cancel(event.execution_id)))
        assert (await engine.execute("a")).success
        await settle()
        assert answers == [False]

    with_engine(work, lambda *_: 1)


def test_ctrl_c_passes_through() -> None:
    """KeyboardInterrupt in a skill ends the program, and the execution has its complete event."""
    ended: list[Any] = []

    def answer(*_: Any) -> None:
        raise KeyboardInterrupt

    async def work(engine: LayeredExecutionEngine) -> None:
        engine.on("execution-complete", ended.append)
        await engine.execute("a")

    with pytest.raises(KeyboardInterrupt):
        with_engine(work, answer)
    assert isinstance(ended[0].result.error, ExecutionCancelledError)
