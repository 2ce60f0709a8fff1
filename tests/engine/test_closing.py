"""What an engine leaves behind: nothing running, nothing open, nothing that only the garbage collector frees."""

from __future__ import annotations

import asyncio
import gc
import weakref
from typing import Any

import pytest

from skilllab.define import skill
from skilllab.engine import LayeredExecutionEngine, Runner
from skilllab.errors import EngineClosedError, SkilllabError
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
        await asyncio.sleep(0)
        return seen

    gc.collect()
    gc.disable()
    try:
        seen = asyncio.run(run())
        assert len(seen) == 10
        assert [reference() for reference in seen] == [None] * 10
    finally:
        gc.enable()
