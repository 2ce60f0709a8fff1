"""Fakes for tests: a clock that moves when told, and a runner that runs nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from skilllab.errors import InvalidValueError
from skilllab.loading import LoadedSkill
from skilllab.model import ResourceLimits, ResourceUsage


class FakeClock:
    """A clock: calling it gives its time in seconds, `advance` moves it."""

    def __init__(self, start: float = 0.0) -> None:
        self.now = start

    def __call__(self) -> float:
        return self.now

    def advance(self, seconds: float) -> None:
        """Moves the clock forward; raises InvalidValueError for a negative number of seconds."""
        if not seconds >= 0:
            raise InvalidValueError(f"seconds={seconds!r} must be >= 0: clocks do not run backwards")
        self.now += seconds


class FakeRunner:
    """A runner that notes each call and returns what `answer(skill_id, params)` returns, or raises what that raises."""

    isolation = "fake"
    usage = ResourceUsage()

    def __init__(
        self, answer: Callable[[str, dict[str, Any]], Any] = lambda *_: None, enforces: Iterable[str] = ()
    ) -> None:
        self.enforces = frozenset(enforces)
        self.calls: list[tuple[str, dict[str, Any], ResourceLimits | None]] = []
        self.closed = 0
        self._answer = answer

    async def run(self, skill: LoadedSkill, params: dict[str, Any], limits: ResourceLimits | None) -> Any:
        self.calls.append((skill.definition.id, params, limits))
        return self._answer(skill.definition.id, params)

    async def aclose(self) -> None:
        self.closed += 1
