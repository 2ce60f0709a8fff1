"""Load tests in virtual time: skills that sleep, block or serve one at a time, without waiting for any of it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from skilllab.define import skill
from skilllab.engine import GuardOptions, LayeredExecutionEngine
from skilllab.experiments.failures.virtual import in_virtual_time
from skilllab.experiments.loadtest import LoadTestResult, Scenario, Stage, load_test
from skilllab.experiments.loadtest.generator import Ending
from skilllab.experiments.loadtest.records import Requests
from skilllab.loading import LoadedSkill, load
from skilllab.model import SkillDefinition


class Loaded:
    """One skill that is ready to run: a registry would load it in a thread, which knows no virtual time."""

    changes = 0

    def __init__(self, definition: SkillDefinition) -> None:
        self._skill = load(definition, 0)

    def revision(self, skill_id: str) -> int:
        return 0

    async def load(self, skill_id: str) -> LoadedSkill:
        return self._skill


def played(
    function: Callable[..., Any], *, places: int | None = None, stop_at: float | None = None, **test: Any
) -> Any:
    """Returns the result of load_test(engine, "target", **test) on a function, in virtual time.

    places: calls that the engine lets run at once. stop_at: virtual seconds at which the test is stopped.
    """

    async def main() -> LoadTestResult:
        loop, stop = asyncio.get_running_loop(), asyncio.Event()
        target = Loaded(skill(id="target", max_concurrency=places, cacheable=True)(function).definition)
        guards = GuardOptions(breaker_failures=None)
        async with LayeredExecutionEngine(target, clock=loop.time, wall_clock=loop.time, guards=guards) as engine:
            if stop_at is not None:
                loop.call_later(stop_at, stop.set)
            result = await load_test(engine, "target", **{"params": {"number": 0}, "stop": stop, **test})
            assert not engine.active
            assert len(asyncio.all_tasks()) == 1
            return result

    return in_virtual_time(main)


def block(seconds: float) -> None:
    """Holds up the event loop for so many virtual seconds, as time.sleep does with real ones."""
    asyncio.get_running_loop()._jumps.now += seconds  # type: ignore[attr-defined]


async def sleeping(number: int) -> int:
    """Takes 10 ms, however many call at once."""
    await asyncio.sleep(0.01)
    return number


async def blocking(number: int) -> int:
    """Takes 10 ms and yields to nobody."""
    block(0.01)
    return number


async def hanging(number: int) -> int:
    """Never answers."""
    await asyncio.Event().wait()
    return number


async def failing(number: int) -> int:
    """Fails after 10 ms."""
    await asyncio.sleep(0.01)
    raise ValueError(number)


def made(responses: list[float], *, rate: float = 100.0, stage: Stage | None = None, **scenario: Any) -> LoadTestResult:
    """Returns a result whose requests took these seconds, at even distances."""
    requests = Requests()
    for number, seconds in enumerate(responses):
        due = number / rate
        requests.append(due, due, due + seconds, seconds)
    length = len(responses) / rate
    stage = stage or Stage(length, rate=rate, arrivals="constant")
    return LoadTestResult(Scenario("made", {}, (stage,), **scenario), requests, Ending("duration", length))
