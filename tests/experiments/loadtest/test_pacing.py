"""Pacing: nobody is woken before his time, order is kept, and others get their turn."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from types import SimpleNamespace

import pytest

from skilllab.experiments.failures.virtual import in_virtual_time
from skilllab.experiments.loadtest import pacing
from skilllab.experiments.loadtest.pacing import LoopPacer, Pacer, TimerPacer, pacer

KINDS = [LoopPacer, pytest.param(TimerPacer, marks=pytest.mark.skipif(pacing._timers() is None, reason="no timerfd"))]


@pytest.mark.parametrize("kind", KINDS)
def test_nobody_is_early(kind: Callable[[asyncio.AbstractEventLoop], Pacer]) -> None:
    """A pacer returns at or after the moment, never before, however near it is."""

    async def main() -> list[float]:
        loop = asyncio.get_running_loop()
        early = []
        with kind(loop) as pace:
            for wait in (1e-3, 1e-5, 1e-6, 3e-3, 1e-7):
                at = loop.time() + wait
                await pace.until(at)
                early.append(loop.time() - at)
        return early

    assert min(asyncio.run(main())) >= 0


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_due_comes_at_once(kind: Callable[[asyncio.AbstractEventLoop], Pacer]) -> None:
    """A pacer that is behind does not even give up its turn."""

    async def main() -> bool:
        loop = asyncio.get_running_loop()
        others = asyncio.Event()
        loop.call_soon(others.set)
        with kind(loop) as pace:
            await pace.until(0.0)
        return others.is_set()

    assert not asyncio.run(main())


@pytest.mark.parametrize("kind", KINDS)
def test_a_cancelled_wait_leaves_a_usable_pacer(kind: Callable[[asyncio.AbstractEventLoop], Pacer]) -> None:
    """After a wait was cancelled the next one ends at its own time, not at that of the first."""

    async def main() -> tuple[float, float]:
        loop = asyncio.get_running_loop()
        with kind(loop) as pace:
            begin = loop.time()
            waiting = asyncio.create_task(pace.until(begin + 0.012))
            await asyncio.sleep(0)
            waiting.cancel()
            await asyncio.gather(waiting, return_exceptions=True)
            await pace.until(begin + 0.030)
            return loop.time() - begin, 0.030

    took, wanted = asyncio.run(main())
    assert took >= wanted


@pytest.mark.skipif(pacing._timers() is None, reason="no timerfd")
def test_the_timer_is_given_back() -> None:
    """A closed pacer has no descriptor open any more, and closing twice does no harm."""

    async def main() -> tuple[int, int]:
        pace = TimerPacer(asyncio.get_running_loop())
        with pace:
            during = sum("timerfd" in name for name in timers())
        pace.close()
        return during, sum("timerfd" in name for name in timers())

    def timers() -> list[str]:
        found = []
        for name in os.listdir("/proc/self/fd"):
            try:
                found.append(os.readlink(f"/proc/self/fd/{name}"))
            except FileNotFoundError:
                continue
        return found

    during, after = asyncio.run(main())
    assert during == after + 1


def test_the_finest_pacer_there_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a real loop a timerfd paces where there is one; elsewhere, and in virtual time, the loop's own timers do."""

    async def kind() -> type[Pacer]:
        with pacer() as found:
            return type(found)

    assert asyncio.run(kind()) is (LoopPacer if pacing._timers() is None else TimerPacer)
    assert in_virtual_time(kind) is LoopPacer
    monkeypatch.setattr(pacing, "_timers", lambda: None)
    assert asyncio.run(kind()) is LoopPacer

    async def make() -> None:
        with pytest.raises(OSError, match="no timerfd"):
            TimerPacer(asyncio.get_running_loop())

    asyncio.run(make())


def test_virtual_time_is_paced_exactly() -> None:
    """An hour of arrivals takes no time, and each comes when it is due."""

    async def main() -> list[float]:
        loop = asyncio.get_running_loop()
        late = []
        with pacer() as pace:
            for number in range(1, 361):
                await pace.until(10.0 * number)
                late.append(loop.time() - 10.0 * number)
        return late

    late = in_virtual_time(main)
    assert 0 <= min(late) <= max(late) < 1e-3


@pytest.mark.skipif(pacing._timers() is None, reason="no timerfd")
@pytest.mark.parametrize(("wait", "early"), [(0.001, 1e-4), (0.050, 5e-4)])
def test_the_last_bit_of_a_wait_is_turned(wait: float, early: float) -> None:
    """A timer is set a tenth of the wait early, at most 0.5 ms, and then the clock is looked at until the moment is there."""
    readings = [0.0, 0.0, wait - early, wait - early / 2, wait]
    set_at: list[float] = []

    async def main() -> None:
        def at_once(descriptor: int, at: float) -> None:
            set_at.append(at)
            timers.set(descriptor, 0.0)

        with TimerPacer(asyncio.get_running_loop()) as pace:
            timers, pace._clock = pace._timers, lambda: readings.pop(0)
            pace._timers = SimpleNamespace(set=at_once)  # type: ignore[assignment]
            await pace.until(wait)

    asyncio.run(main())
    assert set_at == [pytest.approx(wait - early)]
    assert not readings
