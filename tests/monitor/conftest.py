"""A monitor on a clock that moves when told, and executions that ended as the test says."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from skilllab.errors import SkilllabError
from skilllab.monitor import PerformanceMonitor
from skilllab.outcome import ExecutionEvent, ExecutionMetadata, ExecutionResult, ResourceUsage
from skilllab.testing import FakeClock

Feed = Callable[..., None]


class Events:
    """Stands where an engine stands, and tells what the test says."""

    results: Any = None
    active: tuple[Any, ...] = ()

    def __init__(self) -> None:
        self.callbacks: dict[str, list[Callable[[Any], object]]] = {}

    def on(self, name: str, callback: Callable[[Any], object]) -> Callable[[], None]:
        callbacks = self.callbacks.setdefault(name, [])
        callbacks.append(callback)
        return lambda: callbacks.remove(callback)

    def tell(self, event: Any) -> None:
        for callback in self.callbacks.get(event.name, ()):
            callback(event)


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock(1000.0)


@pytest.fixture
def monitor(clock: FakeClock) -> PerformanceMonitor:
    """A monitor whose window is 60 s, so that a slot is 10 s."""
    return PerformanceMonitor(window=60.0, clock=clock)


@pytest.fixture
def events(monitor: PerformanceMonitor) -> Events:
    made = Events()
    monitor.attach(made)  # type: ignore[arg-type]
    return made


@pytest.fixture
def ended(events: Events, clock: FakeClock) -> Feed:
    """A function that tells the monitor of an execution that ends now."""

    def tell(
        skill_id: str = "a",
        duration: float | None = 0.01,
        *,
        waited: float = 0.0,
        cpu: float | None = None,
        memory: int | None = None,
        cached: bool = False,
        error: SkilllabError | None = None,
        layer: int | None = 1,
        output: Any = None,
        times: int = 1,
    ) -> None:
        start = clock() - (duration or 0.0) - waited
        usage = ResourceUsage(cpu, memory)
        metadata = ExecutionMetadata("", skill_id, layer, None, start, duration, waited, 0.0, 1, cached, None, usage)
        for _ in range(times):
            events.tell(
                ExecutionEvent("execution-complete", "", skill_id, clock(), ExecutionResult(output, error, metadata))
            )

    return tell
