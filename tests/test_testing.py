"""The fakes."""

from __future__ import annotations

import asyncio

import pytest

from skilllab.errors import InvalidValueError
from skilllab.loading import load
from skilllab.model import SkillDefinition
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


def test_a_fake_runner_notes_and_answers() -> None:
    """It notes every call, answers as told, and counts how often it was closed."""
    skill = load(SkillDefinition(id="a", name="a", layer=1), 1)
    runner = FakeRunner(lambda skill_id, params: (skill_id, params["x"] + 1), enforces=["max_memory"])

    async def run() -> object:
        output = await runner.run(skill, {"x": 1}, None)
        await runner.aclose()
        return output

    assert asyncio.run(run()) == ("a", 2)
    assert runner.calls == [("a", {"x": 1}, None)]
    assert (runner.closed, runner.enforces) == (1, frozenset({"max_memory"}))
