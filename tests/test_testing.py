"""The fakes."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from skilllab.engine import Execution
from skilllab.errors import InvalidValueError
from skilllab.loading import load
from skilllab.model import SkillDefinition
from skilllab.outcome import ResourceUsage
from skilllab.testing import FakeClock, FakeRunner


def test_a_fake_clock_moves_only_when_told() -> None:
    """It starts where it is told, moves forward by what it is told, and never back."""
    clock = FakeClock(5.0)
    assert clock() == clock() == 5.0
    clock.advance(1.5)
    clock.advance(0)
    assert clock() == 6.5
    for seconds in (-1.0, float("nan")):
        with pytest.raises(InvalidValueError, match="must be >= 0"):
            clock.advance(seconds)
    assert clock() == 6.5


def execution(params: dict[str, Any]) -> Execution:
    run = Execution.of("1", "a", 0.0, 0.0)
    run.skill, run.params = load(SkillDefinition(id="a", name="a", layer=1), 1), params
    return run


def test_a_fake_runner_notes_and_answers() -> None:
    """It notes every call, answers as told, also by something to await, and counts how often it was closed."""

    async def later(x: int) -> int:
        return x + 2

    runner = FakeRunner(
        lambda skill_id, params: (skill_id, params["x"] + 1) if params["x"] else later(5), enforces=["max_memory"]
    )

    async def run() -> list[Any]:
        runs = [execution({"x": 1}), execution({"x": 0})]
        outputs = [await runner.run(each) for each in runs]
        assert {each.usage for each in runs} == {ResourceUsage()}
        await runner.aclose()
        return outputs

    assert asyncio.run(run()) == [("a", 2), 7]
    assert runner.calls == [("a", {"x": 1}, None), ("a", {"x": 0}, None)]
    assert (runner.closed, runner.enforces) == (1, frozenset({"max_memory"}))


def test_a_fake_runner_streams_what_its_answer_iterates_over() -> None:
    """Each item is a chunk; a failure is raised when the stream is read."""

    def answer(skill_id: str, params: dict[str, Any]) -> Any:
        return range(10 // params["x"])

    async def read(x: int) -> list[Any]:
        return [chunk async for chunk in FakeRunner(answer).stream(execution({"x": x}))]

    assert asyncio.run(read(4)) == [0, 1]
    with pytest.raises(ZeroDivisionError):
        asyncio.run(read(0))
