"""The sliding window, how precise it is, and what a tally takes."""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from skilllab.errors import SkillFailedError
from skilllab.monitor import PerformanceMonitor
from skilllab.monitor.tally import FULL, METRICS, SLOTS, Tally, row, values_of
from skilllab.outcome import BreakerEvent, LoopBlockedEvent
from skilllab.testing import FakeClock

Feed = Callable[..., None]


def test_precision_is_told(monitor: PerformanceMonitor, ended: Feed) -> None:
    """Values over 40 octaves cost precision, and the monitor says how much."""
    ended("near", duration=0.01)
    assert (monitor.precision("near"), monitor.precision("nobody")) == (1 / 256, 1 / 256)
    for power in range(-30, 11):
        ended("far", duration=2.0**power)
    assert monitor.precision("far") == pytest.approx(5 / 256)
    assert monitor.precision("far", window=True) > monitor.precision("far")
    assert monitor.skill("far").duration.max == 2.0**10


def test_ends_and_mean_are_exact(monitor: PerformanceMonitor, clock: FakeClock, ended: Feed) -> None:
    """Over three decades the window's least and greatest value and its mean are those recorded, slot by slot."""
    rng = np.random.default_rng(0)
    values = np.concatenate([[0.001, 1.0], np.exp(rng.uniform(np.log(0.001), 0.0, 998))])
    for turn, part in enumerate(np.array_split(values, 5)):
        for value in part.tolist():
            ended(duration=value, memory=int(1e6 * value))
        clock.advance(10 if turn < 4 else 0)
    found = monitor.values("duration", "a")
    assert (found.count, found.min, found.max) == (1000, 0.001, 1.0)
    assert found.mean == pytest.approx(values.mean(), rel=1e-6)
    assert monitor.values("memory_used", "a").max == 1e6
    precision = monitor.precision("a", window=True)
    assert precision <= 3 / 256
    true = np.quantile(values, [0.05, 0.5, 0.95])
    assert found.quantiles([0.05, 0.5, 0.95]) == pytest.approx(true, rel=precision)


def test_window_forgets_the_rest_too(monitor: PerformanceMonitor, clock: FakeClock, events: Any, ended: Feed) -> None:
    """Held up loops, opened breakers and peaks of more than 60 s ago are in no window, and stay in the whole run."""
    monitor.start_tracking("a")
    monitor.start_tracking("a")
    ended()
    events.tell(LoopBlockedEvent("loop-blocked", "", "a", clock(), 0.2, "m.f (m.py:3)"))
    events.tell(BreakerEvent("breaker-change", "a", clock(), "closed", "open"))
    monitor.record_execution("a", 0.1)
    for recent in (monitor.skill("a", window=True), monitor.layers(window=True)[0]):
        assert (recent.blocked, recent.where, recent.opened, recent.peak) == (1, "m.f (m.py:3)", 1, 2)
    clock.advance(60)
    ended()
    events.tell(LoopBlockedEvent("loop-blocked", "", "a", clock(), 0.1, "m.g (m.py:9)"))
    recent, whole = monitor.skill("a", window=True), monitor.skill("a")
    assert (recent.blocked, recent.longest_block, recent.where, recent.opened) == (1, 0.1, "m.g (m.py:9)", 0)
    assert (recent.peak, monitor.get_performance_report(window=True).peak) == (1, 1)
    assert (whole.blocked, whole.longest_block, whole.opened, whole.peak) == (2, 0.2, 1, 2)


def test_window(monitor: PerformanceMonitor, clock: FakeClock, ended: Feed) -> None:
    """The window forgets what ended more than 60 s ago, the whole run forgets nothing."""
    ended(duration=5.0, times=10, error=None)
    ended(error=SkillFailedError("old"))
    clock.advance(30)
    ended(duration=0.1, times=10)
    assert monitor.skill("a", window=True).duration.n == 20
    assert monitor.skill("a", window=True).errors == {"SkillFailedError": 1}
    clock.advance(35)
    recent = monitor.skill("a", window=True)
    assert (recent.executions, recent.failed, recent.errors) == (10, 0, {})
    assert recent.duration.max == 0.1
    assert monitor.skill("a").executions == 21
    clock.advance(60)
    assert monitor.skill("a", window=True).executions == 0


def test_window_after_a_long_rest(monitor: PerformanceMonitor, clock: FakeClock, ended: Feed) -> None:
    """A skill that rests for exactly as long as the ring of slots goes round is not taken for a recent one."""
    ended(times=10)
    clock.advance(60.0)
    assert monitor.skill("a", window=True).executions == 0
    ended(times=3)
    assert monitor.skill("a", window=True).executions == 3


def test_window_when_the_clock_is_set_back(monitor: PerformanceMonitor, clock: FakeClock, ended: Feed) -> None:
    """What seems to end in the future is in no window, and what ends now is."""
    clock.advance(3600)
    ended(times=10)
    clock.now -= 1800
    ended(times=4)
    assert monitor.skill("a", window=True).executions == 4


def test_window_counts_the_end(monitor: PerformanceMonitor, clock: FakeClock, ended: Feed) -> None:
    """An execution of 90 s that ends now is in the window of the last 60 s."""
    clock.advance(100)
    ended(duration=90.0)
    assert monitor.skill("a", window=True).executions == 1


def test_rows_of_two_slots_stay_apart(monitor: PerformanceMonitor, clock: FakeClock, ended: Feed) -> None:
    """Records that are put aside over the end of a slot are each counted in their own."""
    ended(duration=1.0, times=5)
    clock.advance(55)
    ended(duration=2.0, times=7)  # nobody has asked in between
    clock.advance(10)
    assert monitor.skill("a", window=True).duration.n == 7


@pytest.mark.slow
def test_memory_is_bounded_and_flat(monitor: PerformanceMonitor, clock: FakeClock, events: Any) -> None:
    """After a million records of one skill all that is known of it takes no more than 16 KiB for each metric."""
    rng = np.random.default_rng(0)
    book = monitor._book
    sizes = []
    tally = book.tally("a")
    for turn in range(20):
        spread = rng.lognormal((-5.0, -8.0, -7.0, 16.0), 1.0, (50_000, 4)).astype(np.float32)
        tally.turn(turn, 1)
        for part in np.array_split(spread, 50):
            tally.pending += part.tobytes()
            tally.fold()
        sizes.append(size_of(tally))
    assert values_of([tally.whole], "duration").count == 1_000_000
    assert max(sizes) / len(METRICS) <= 16 * 2**10
    assert sizes[-1] <= 1.15 * sizes[6]  # the window was full then


@pytest.mark.slow
@pytest.mark.parametrize("octaves", [1, 10, 15.9, 32.0, 200])
def test_memory_is_bounded_whatever_comes(octaves: float) -> None:
    """However far values spread, a tally with a full window and full rows takes at most 16 KiB for each metric."""
    rng, tally = np.random.default_rng(0), Tally()
    for turn in range(SLOTS + 1):
        for _ in range(20):
            tally.turn(turn, 1)  # folds
            tally.pending += (
                (2.0 ** rng.uniform(-octaves / 2, octaves / 2, (FULL // row.size, 4))).astype("f4").tobytes()
            )
    assert size_of(tally) / len(METRICS) <= 16 * 2**10


def size_of(root: object) -> int:
    seen, left, size = {id(root)}, [root], 0
    while left:
        thing = left.pop()
        size += sys.getsizeof(thing)
        for part in gc.get_referents(thing):
            if id(part) not in seen and not isinstance(part, type):
                seen.add(id(part))
                left.append(part)
    return size
