"""Event-loop lag: what holds up the loop is seen, on a real loop."""

from __future__ import annotations

import asyncio
import time

from skilllab.experiments.failures.virtual import in_virtual_time
from skilllab.monitor import PerformanceMonitor


def test_a_blocked_loop_is_late() -> None:
    """A step of 100 ms makes a timer late by 80 to 100 ms at least; a detached monitor measures nothing."""

    async def main() -> None:
        monitor = PerformanceMonitor(window=6.0)
        watch = monitor.watch(60.0, rules=[])
        await asyncio.sleep(0.03)
        time.sleep(0.1)  # noqa: ASYNC251 - that is what is measured
        await asyncio.sleep(0.03)
        found = monitor.lag(window=True)
        assert found.max is not None
        assert found.max >= 0.075
        monitor.close()
        counted = monitor.lag().n
        await asyncio.sleep(0.06)
        assert monitor.lag().n == counted
        watch.close()

    asyncio.run(main())


def test_a_free_loop_is_not() -> None:
    """In virtual time, where nothing takes any, no timer is late, and one is looked at every 20 ms."""

    async def main() -> tuple[int, float | None]:
        loop = asyncio.get_running_loop()
        monitor = PerformanceMonitor(clock=loop.time)
        monitor.watch(60.0, rules=[])
        await asyncio.sleep(10.01)
        found = monitor.lag()
        monitor.close()
        return found.n, found.max

    n, latest = in_virtual_time(main)
    assert n == 500
    assert latest is not None
    assert latest < 1e-4


def test_without_a_loop() -> None:
    """A monitor that is attached to nothing and used outside a loop works, and knows of no lag."""
    monitor = PerformanceMonitor()
    monitor.record_execution("a", 0.1)
    assert monitor.lag().n == 0
    assert monitor.get_performance_report().executions == 1


def test_another_loop_is_measured_from_its_attach_on() -> None:
    """A monitor whose loop has ended without a detach measures the next one that it is started on."""
    monitor = PerformanceMonitor()

    async def main() -> int:
        before = monitor.lag().n
        monitor.watch(60.0, rules=[])
        await asyncio.sleep(0.1)
        return monitor.lag().n - before

    assert asyncio.run(main()) > 0
    assert asyncio.run(main()) > 0
    monitor.close()


def test_a_long_window_keeps_its_lags() -> None:
    """The lag of a window of ten minutes is that of ten minutes, and what came before is out of it."""

    async def main() -> tuple[int, int]:
        loop = asyncio.get_running_loop()
        monitor = PerformanceMonitor(clock=loop.time, window=600.0)
        monitor.watch(3600.0, rules=[])
        await asyncio.sleep(590.0)
        inside = monitor.lag(window=True).n
        await asyncio.sleep(1000.0)
        later = monitor.lag(window=True).n
        monitor.close()
        return inside, later

    inside, later = in_virtual_time(main)
    assert 24_000 < inside <= 29_500
    assert 24_000 < later <= 30_000
