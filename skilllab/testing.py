"""Fakes for tests: a clock that moves when told, and a runner that runs nothing."""

from __future__ import annotations

import inspect
from collections.abc import AsyncIterator, Callable, Iterable
from typing import Any

from skilllab.engine.execution import Execution
from skilllab.errors import InvalidValueError
from skilllab.loading import LoadedSkill
from skilllab.model import ResourceLimits
from skilllab.outcome import ResourceUsage


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
    """A runner that notes each call and returns what `answer(skill_id, params)` returns, or raises what that raises.

    An answer that is awaitable is awaited; the chunks of a stream are those that the answer iterates over.
    """

    isolation = "fake"

    def __init__(
        self, answer: Callable[[str, dict[str, Any]], Any] = lambda *_: None, enforces: Iterable[str] = ()
    ) -> None:
        self.enforces = frozenset(enforces)
        self.limits: ResourceLimits | None = None
        self.calls: list[tuple[str, dict[str, Any], ResourceLimits | None]] = []
        self.closed = 0
        self._answer = answer

    def unheld(self, skill: LoadedSkill, limits: ResourceLimits) -> dict[str, str]:
        return {name: "this runner holds nothing" for name in limits.asked() if name not in self.enforces}

    async def run(self, execution: Execution) -> Any:
        self.calls.append((execution.skill_id, execution.params, execution.limits))
        execution.usage = ResourceUsage()
        answer = self._answer(execution.skill_id, execution.params)
        return await answer if inspect.isawaitable(answer) else answer

    async def stream(self, execution: Execution) -> AsyncIterator[Any]:
        for chunk in await self.run(execution):
            yield chunk

    async def aclose(self) -> None:
        self.closed += 1
