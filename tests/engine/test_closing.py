"""What an engine leaves behind: nothing running, nothing open, nothing that only the garbage collector frees."""

from __future__ import annotations

import asyncio
import gc
import random
import weakref
from typing import Any

import pytest

from skilllab.define import skill
from skilllab.engine import GuardOptions, LayeredExecutionEngine, Runner
from skilllab.errors import EngineClosedError, ExecutionCancelledError, InvalidValueError, SkilllabError
from skilllab.model import SkillDefinition
from skilllab.registry import InMemorySkillRegistry
from skilllab.testing import FakeRunner


@skill(id="double")
async def double(x: int) -> int:
    return 2 * x


def test_a_closed_engine_raises() -> None:
    """After aclose, execute and call raise EngineClosedError; a second aclose does no harm."""

    async def run() -> None:
        runner = FakeRunner()
        engine = LayeredExecutionEngine(InMemorySkillRegistry(), runners={"http": runner})
        await engine.aclose()
        await engine.aclose()
        for use in (engine.execute, engine.call):
            with pytest.raises(EngineClosedError, match="closed"):
                await use("a", {})

    asyncio.run(run())


def test_closing_waits_for_what_runs() -> None:
    """aclose refuses new executions at once and returns when the running ones have ended."""
    order: list[str] = []

    async def run() -> None:
        gate = asyncio.Event()

        @skill(id="wait")
        async def wait() -> str:
            await gate.wait()
            order.append("skill ended")
            return "done"

        registry = InMemorySkillRegistry()
        await registry.register(wait)
        await registry.load("wait")
        engine = LayeredExecutionEngine(registry)
        execution = asyncio.create_task(engine.call("wait"))
        await asyncio.sleep(0)
        closing = asyncio.create_task(engine.aclose())
        await asyncio.sleep(0)
        with pytest.raises(EngineClosedError):
            await engine.execute("wait")
        assert not closing.done()
        gate.set()
        await closing
        order.append("closed")
        assert await execution == "done"

    asyncio.run(run())
    assert order == ["skill ended", "closed"]


def test_every_runner_is_closed_even_if_one_cannot() -> None:
    """The error of one runner's close does not keep the others open, and comes out at the end."""

    class Stuck(FakeRunner):
        async def aclose(self) -> None:
            raise OSError("stuck")

    other = FakeRunner()
    runners: dict[str, Runner] = {"command": Stuck(), "http": other}
    with pytest.raises(ExceptionGroup, match="could not be closed") as caught:
        asyncio.run(LayeredExecutionEngine(InMemorySkillRegistry(), runners=runners).aclose())
    assert [str(error) for error in caught.value.exceptions] == ["stuck"]
    assert other.closed == 1


@pytest.mark.slow
def test_failures_leave_no_cycles() -> None:
    """When a failed result is dropped its error goes at once, without waiting for the garbage collector."""

    class Failure(Exception):  # noqa: N818 - built-in errors take no weak references
        pass

    @skill(id="fail")
    async def fail() -> None:
        raise Failure

    @skill(id="fail-in-thread")
    def fail_in_thread() -> None:
        raise Failure

    async def run() -> list[weakref.ref[Any]]:
        registry = InMemorySkillRegistry()
        for function in (fail, fail_in_thread, double):
            await registry.register(function)
        async with LayeredExecutionEngine(registry) as engine:
            return await failures(engine)

    async def failures(engine: LayeredExecutionEngine) -> list[weakref.ref[Any]]:
        seen = []
        for skill_id, params in (("fail", {}), ("fail-in-thread", {}), ("double", {"x": "a"}), ("nope", {})):
            result = await engine.execute(skill_id, params)
            seen.append(weakref.ref(result.error))
            if result.error.__cause__ is not None:
                seen.append(weakref.ref(result.error.__cause__))
            del result
            try:
                await engine.call(skill_id, params)
            except SkilllabError as error:
                seen.append(weakref.ref(error))
            try:
                await asyncio.create_task(engine.call(skill_id, params))
            except SkilllabError as error:
                seen.append(weakref.ref(error))
            results = await engine.execute_many([(skill_id, params)] * 2)
            seen += [weakref.ref(result.error) for result in results]
            del results
        await asyncio.sleep(0)
        return seen

    gc.collect()
    gc.disable()
    try:
        seen = asyncio.run(run())
        assert len(seen) == 22
        assert [reference() for reference in seen] == [None] * 22
    finally:
        gc.enable()


# with a grace


def test_after_its_grace_closing_cancels_what_still_runs() -> None:
    """Running and waiting executions end with the reason; a skill may clean up; nothing is left."""
    cleaned: list[str] = []

    async def answer(*_: Any) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0)
            cleaned.append("up")

    async def run() -> None:
        registry = InMemorySkillRegistry()
        for cacheable in (False, True):
            name = f"cacheable-{cacheable}"
            await registry.register(
                SkillDefinition(
                    id=name, name=name, layer=1, handler="textwrap:dedent", cacheable=cacheable, max_concurrency=1
                )
            )
            await registry.load(name)
        engine = LayeredExecutionEngine(registry, runners={"function": FakeRunner(answer)})
        names = ["cacheable-False"] * 2 + ["cacheable-True"] * 2
        tasks = [asyncio.create_task(engine.execute(name)) for name in names]
        await asyncio.sleep(0)
        await engine.aclose(grace=0.01)
        for task in tasks:
            error = task.result().error
            assert isinstance(error, ExecutionCancelledError)
            assert "the engine was closed and its grace was over" in str(error)
        assert cleaned == ["up"] * 2
        assert len(asyncio.all_tasks()) == 1

    asyncio.run(run())


def test_a_grace_that_is_not_needed_is_not_waited_for() -> None:
    """Closing returns when the last execution has ended, and its timer is gone."""

    async def run() -> None:
        registry = InMemorySkillRegistry()
        await registry.register(double)
        engine = LayeredExecutionEngine(registry)
        task = asyncio.create_task(engine.call("double", {"x": 2}))
        await asyncio.sleep(0)
        await engine.aclose(grace=3600.0)
        assert await task == 4
        loop: Any = asyncio.get_running_loop()
        assert not [timer for timer in loop._scheduled if not timer.cancelled()]

    asyncio.run(run())


@pytest.mark.parametrize("grace", [0, -1, True, float("inf"), "5"])
def test_a_grace_without_a_meaning_is_refused(grace: Any) -> None:
    """The engine stays open then."""

    async def run() -> None:
        registry = InMemorySkillRegistry()
        await registry.register(double)
        async with LayeredExecutionEngine(registry) as engine:
            with pytest.raises(InvalidValueError, match="grace="):
                await engine.aclose(grace=grace)
            assert await engine.call("double", {"x": 2}) == 4

    asyncio.run(run())


def test_who_gives_up_closing_may_close_again() -> None:
    """A close that is cancelled while it waits leaves the executions alone; two at once both return at the end."""

    async def run() -> None:
        gate = asyncio.Event()

        async def answer(*_: Any) -> str:
            await gate.wait()
            return "done"

        registry = InMemorySkillRegistry()
        await registry.register(SkillDefinition(id="a", name="a", layer=1, handler="textwrap:dedent"))
        await registry.load("a")
        runner = FakeRunner(answer)
        engine = LayeredExecutionEngine(registry, runners={"function": runner, "command": runner})
        task = asyncio.create_task(engine.call("a"))
        await asyncio.sleep(0)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.005):
                await engine.aclose(grace=0.01)
        await asyncio.sleep(0.02)
        assert not task.done()
        assert runner.closed == 0
        both = [asyncio.create_task(engine.aclose()) for _ in range(2)]
        await asyncio.sleep(0)
        gate.set()
        await asyncio.gather(*both)
        assert await task == "done"
        assert runner.closed == 2  # once for each close, not for each kind that it runs

    asyncio.run(run())


@pytest.mark.slow
def test_ten_thousand_executions_leave_nothing() -> None:
    """Random cancellations, errors, timeouts and ends from outside: no task, no place, no timer, no execution is left."""
    luck = random.Random(7)

    @skill(id="moody")
    async def moody(n: int) -> int:
        for _ in range(n % 7):
            await asyncio.sleep(0)
        if n % 5 == 0:
            raise ValueError(n)
        if n % 11 == 0:
            await asyncio.Event().wait()
        return n

    @skill(id="kept", cacheable=True)
    async def kept(n: int) -> int:
        return await moody(n)

    @skill(id="stubborn")
    async def stubborn(n: int) -> int:
        try:
            return await moody(n)
        except asyncio.CancelledError:
            await asyncio.sleep(0)
            return -n

    async def caller(engine: LayeredExecutionEngine) -> None:
        skill_id = luck.choice(["moody", "kept", "stubborn", "moody", "nope"])
        await engine.execute(skill_id, {"n": luck.randrange(200)}, timeout=luck.choice([0.002, 0.01]))

    async def run() -> None:
        registry = InMemorySkillRegistry()
        for function in (moody, kept, stubborn):
            await registry.register(function)
        guards = GuardOptions(concurrency=50, skill_concurrency=30, queue_size=100, breaker_failures=None)
        async with LayeredExecutionEngine(registry, guards=guards) as engine:
            counts = {"execution-start": 0, "execution-complete": 0}

            def count(event: Any) -> None:
                counts[event.name] += 1

            for name in counts:
                engine.on(name, count)
            for _ in range(100):
                tasks = [asyncio.create_task(caller(engine)) for _ in range(100)]
                for _ in range(luck.randrange(6)):
                    await asyncio.sleep(0)
                for task in luck.sample(tasks, 20):
                    task.cancel()
                for run in luck.sample(engine.active, min(5, len(engine.active))):
                    engine.cancel(run.execution_id)
                await asyncio.wait(tasks)
                assert not [task for task in tasks if not task.cancelled() and task.exception()]
            assert engine.active == ()
            assert [statistics[1:] for statistics in engine.limits().values()] == [(0, 0)]
            assert counts["execution-start"] == counts["execution-complete"] > 8000
            assert len(asyncio.all_tasks()) == 1
        loop: Any = asyncio.get_running_loop()
        assert not [timer for timer in loop._scheduled if not timer.cancelled()]

    asyncio.run(run())
