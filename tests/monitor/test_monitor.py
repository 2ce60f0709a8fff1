"""PerformanceMonitor: every figure against executions that are known."""

from __future__ import annotations

import asyncio
import gc
import threading
import weakref
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from skilllab.cache import SkillCache
from skilllab.define import skill
from skilllab.engine import LayeredExecutionEngine
from skilllab.errors import (
    HttpStatusError,
    InvalidValueError,
    LimitExceededError,
    QueueFullError,
    SkillFailedError,
    SkillNotFoundError,
)
from skilllab.monitor import PerformanceMonitor
from skilllab.monitor.book import NOT_REGISTERED
from skilllab.monitor.tally import FULL, MOST_KINDS
from skilllab.outcome import BreakerEvent, LoopBlockedEvent
from skilllab.registry import InMemorySkillRegistry
from skilllab.testing import FakeClock

Feed = Callable[..., None]


def test_figures_by_hand(monitor: PerformanceMonitor, ended: Feed) -> None:
    """Four runs, one cached answer and one failure: counts, means and shares are those of the pencil."""
    for duration in (0.01, 0.02, 0.03, 0.04):
        ended(duration=duration, waited=0.5, cpu=0.001, memory=1024)
    ended(duration=None, cached=True)
    ended(duration=9.0, error=SkillFailedError("no"))
    figures = monitor.skill("a")
    assert (figures.executions, figures.succeeded, figures.cached, figures.failed) == (6, 4, 1, 1)
    assert figures.error_rate == pytest.approx(1 / 6)
    assert figures.cached_share == pytest.approx(1 / 5)
    assert (figures.duration.n, figures.duration.mean) == (4, pytest.approx(0.025))
    assert figures.duration.max == pytest.approx(0.04)
    assert figures.ran == pytest.approx(0.1)
    assert figures.queue_time.mean == pytest.approx((4 * 0.5 + 0.0) / 5)
    assert figures.memory_used.max == 1024
    assert monitor.get_average_execution_time("a") == pytest.approx(0.025)
    assert np.isnan(monitor.get_average_execution_time("nobody"))


def test_what_did_not_run_is_not_fast(monitor: PerformanceMonitor, ended: Feed) -> None:
    """Cached answers, refused calls and failures are in no duration: a mean of 100 ms stays 100 ms."""
    ended(duration=0.1, times=10)
    ended(duration=None, cached=True, times=50)
    ended(duration=None, error=QueueFullError("full", limit=1, waiting=1), times=50)
    ended(duration=1e-6, error=SkillFailedError("at once"), times=50)
    figures = monitor.skill("a")
    assert (figures.duration.n, figures.queue_time.n) == (10, 60)  # 50 failures ran and had waited 0 s
    assert figures.duration.mean == pytest.approx(0.1)


def test_what_waited_in_vain_waited(monitor: PerformanceMonitor, ended: Feed) -> None:
    """A call that was given up in the queue counts in the queue times."""
    ended(duration=None, waited=2.0, error=QueueFullError("full", limit=1, waiting=1))
    assert monitor.skill("a").queue_time.max == pytest.approx(2.0)


def test_quantiles_of_many(monitor: PerformanceMonitor, ended: Feed) -> None:
    """p50, p95 and p99 of 5,000 values in two far groups are numpy's to 0.4 %."""
    rng = np.random.default_rng(0)
    values = np.concatenate([rng.lognormal(-7, 0.5, 3000), rng.lognormal(-1, 0.3, 2000)])
    for value in rng.permutation(values).tolist():
        ended(duration=value)
    spread = monitor.skill("a").duration
    true = np.quantile(values, [0.5, 0.95, 0.99])
    assert np.array([spread.p50, spread.p95, spread.p99], dtype=float) == pytest.approx(true, rel=1 / 256 + 1e-6)
    assert spread.mean == pytest.approx(values.mean(), rel=1e-6)
    assert (spread.n, spread.max) == (5000, pytest.approx(values.max(), rel=1e-6))


@pytest.mark.parametrize(("n", "p95", "p99"), [(71, False, False), (72, True, False), (368, True, True)])
def test_n_too_small(monitor: PerformanceMonitor, ended: Feed, n: int, p95: bool, p99: bool) -> None:
    """A quantile without an interval is no number: p95 takes 72 values, p99 368."""
    ended(times=n)
    spread = monitor.skill("a").duration
    assert (spread.p95 is not None, spread.p99 is not None) == (p95, p99)


def test_errors_by_kind(monitor: PerformanceMonitor, ended: Feed) -> None:
    """A kind names the limit, the status or the skill's own error, the most frequent first."""
    own = SkillFailedError("it raised")
    own.__cause__ = ZeroDivisionError("x / 0")
    ended(error=own, times=3)
    ended(error=HttpStatusError("GET /: 503", status=503), times=2)
    ended(error=LimitExceededError("too much", limit="max_memory", allowed=1, used=2))
    assert list(monitor.skill("a").errors.items()) == [
        ("SkillFailedError: ZeroDivisionError", 3),
        ("HttpStatusError: 503", 2),
        ("LimitExceededError: max_memory", 1),
    ]


def test_kinds_are_bounded(monitor: PerformanceMonitor, ended: Feed) -> None:
    """A server that answers with every status there is makes a bounded number of kinds."""
    for status in range(400, 600):
        ended(error=HttpStatusError("no", status=status))
    errors = monitor.skill("a").errors
    assert len(errors) == MOST_KINDS + 1
    assert errors["other"] == 200 - MOST_KINDS
    assert sum(errors.values()) == monitor.skill("a").failed == 200


def test_made_up_ids_are_one(monitor: PerformanceMonitor, ended: Feed) -> None:
    """A caller that makes up a thousand ids makes one row."""
    for number in range(1000):
        ended(f"made-up-{number}", None, layer=None, error=SkillNotFoundError("nobody"))
    assert monitor.skill_ids == (NOT_REGISTERED,)
    assert monitor.skill(NOT_REGISTERED).failed == 1000


def test_layers(monitor: PerformanceMonitor, ended: Feed) -> None:
    """The figures of a layer are those of its skills together."""
    ended("a", 0.1, layer=1, times=10)
    ended("b", 0.3, layer=1, times=10)
    ended("c", 9.0, layer=3)
    first, second = monitor.layers()
    assert (first.skill_id, first.executions, first.duration.mean) == ("layer 1", 20, pytest.approx(0.2))
    assert (second.skill_id, second.layer, second.executions) == ("layer 3", 3, 1)
    assert monitor.together().executions == 21


def test_in_flight_of_layers(monitor: PerformanceMonitor) -> None:
    """A layer was as busy as its own skills were, all together as all were, and what nobody ran never was."""
    for skill_id, layer in (("a", 1), ("b", 1), ("c", 2)):
        monitor.record_execution(skill_id, 0.1, layer=layer)
        monitor.start_tracking(skill_id)
    first, second = monitor.layers()
    assert [(each.in_flight, each.peak) for each in (first, second)] == [(2, 2), (1, 1)]
    assert (monitor.together().peak, monitor.skill("a").peak, monitor.get_performance_report().peak) == (3, 1, 3)
    assert (monitor.skill("nope").peak, monitor.skill("nope").in_flight) == (0, 0)


def test_a_layer_that_nothing_ended_in(monitor: PerformanceMonitor) -> None:
    """Calls under way before the first of their skill ended count for the skill, and its layer was at least as busy."""
    for _ in range(3):
        monitor.start_tracking("a")
    for _ in range(3):
        monitor.record_execution("a", 0.1, layer=1)
    (layer,) = monitor.layers()
    assert (layer.peak, monitor.together().peak) == (3, 3)


def test_nothing_of_an_execution_is_kept(monitor: PerformanceMonitor, ended: Feed) -> None:
    """The monitor holds neither an output nor an error, even before it has counted them."""

    class Output:
        pass

    def feed() -> tuple[weakref.ref[Any], weakref.ref[Any]]:
        output, error = Output(), SkillFailedError("no")
        ended(output=output)
        ended(error=error)
        return weakref.ref(output), weakref.ref(error)

    kept = feed()
    gc.collect()
    assert [ref() for ref in kept] == [None, None]
    assert monitor.skill("a").executions == 2


def test_blocked_loop_and_breaker(monitor: PerformanceMonitor, events: Any, ended: Feed) -> None:
    """Steps that held up the loop are counted with the longest and its place, and so are breakers that opened."""
    ended()
    events.tell(LoopBlockedEvent("loop-blocked", "", "a", 0.0, 0.2, "m.f (m.py:3)"))
    events.tell(LoopBlockedEvent("loop-blocked", "", "a", 0.0, 0.1, "m.g (m.py:9)"))
    events.tell(BreakerEvent("breaker-change", "a", 0.0, "closed", "open"))
    events.tell(BreakerEvent("breaker-change", "a", 0.0, "open", "half-open"))
    figures = monitor.skill("a")
    assert (figures.blocked, figures.longest_block, figures.where, figures.opened) == (2, 0.2, "m.f (m.py:3)", 1)


def test_the_guides_way(clock: FakeClock) -> None:
    """start_tracking and record_execution do without an engine."""
    monitor = PerformanceMonitor(clock=clock)
    monitor.start_tracking("a", "1")
    monitor.start_tracking("a", "2")
    assert (monitor.in_flight, monitor.skill("a").peak) == (2, 2)
    monitor.record_execution("a", 0.2, 2048)
    monitor.record_execution("a", None, error=SkillFailedError("no"))
    figures = monitor.skill("a")
    assert (monitor.in_flight, figures.executions, figures.failed) == (0, 2, 1)
    assert (figures.duration.mean, figures.memory_used.max) == (pytest.approx(0.2), 2048)


@pytest.mark.parametrize(
    "given", [{"duration": -1.0}, {"duration": float("nan")}, {"memory_used": "many"}, {"queue_time": None}]
)
def test_what_is_no_measurement(given: dict[str, Any]) -> None:
    """A negative or missing number is refused, with the name of the argument, and nothing is counted."""
    monitor = PerformanceMonitor()
    with pytest.raises(InvalidValueError, match=next(iter(given))):
        monitor.record_execution("a", **{"duration": 0.1, **given})
    assert monitor.skill_ids == ()


@pytest.mark.parametrize(
    "given", [{"window": 0}, {"window": float("nan")}, {"window": "long"}, {"batch": 0}, {"batch": 1.5}]
)
def test_bad_options(given: dict[str, Any]) -> None:
    """Options without a meaning are refused by name."""
    with pytest.raises(InvalidValueError, match=next(iter(given))):
        PerformanceMonitor(**given)


def test_unknown_metric(monitor: PerformanceMonitor) -> None:
    """A metric that is not measured is refused with those that are."""
    with pytest.raises(InvalidValueError, match=r"latency.*duration"):
        monitor.histogram("a", "latency")


@skill(id="waits")
async def waits(seconds: float) -> float:
    """Waits."""
    await asyncio.sleep(seconds)
    return seconds


@skill(id="answers", cacheable=True)
async def answers(number: int) -> int:
    """Gives its number back."""
    return number


async def engine_of(*skills: Any) -> LayeredExecutionEngine:
    registry = InMemorySkillRegistry()
    for each in skills:
        await registry.register(each)
    return LayeredExecutionEngine(registry)


def test_a_real_engine() -> None:
    """Attached to an engine it counts what really ran: runs, cached answers, CPU time, what is in flight."""

    async def main() -> None:
        async with await engine_of(waits, answers) as engine:
            with PerformanceMonitor() as monitor:
                monitor.attach(engine)
                monitor.attach(engine)  # a second time changes nothing
                tasks = [asyncio.create_task(engine.execute("waits", {"seconds": 0.02})) for _ in range(4)]
                await asyncio.sleep(0.005)
                assert monitor.in_flight == 4
                await asyncio.gather(*tasks)
                for number in (1, 1, 1, 2):
                    await engine.execute("answers", {"number": number})
                waited, answered = monitor.skill("waits"), monitor.skill("answers")
                assert (waited.executions, waited.peak, waited.in_flight, waited.layer) == (4, 4, 0, 1)
                assert waited.duration.mean == pytest.approx(0.02, rel=0.5)
                assert waited.cpu_time.n == 4
                assert (answered.succeeded, answered.cached) == (2, 2)
                results = monitor.result_cache()
                assert results is not None
                assert (results.hits, results.misses) == (2, 2)
            await engine.execute("answers", {"number": 3})
            assert monitor.skill("answers").executions == 4  # it listens no more

    asyncio.run(main())


def test_caches_of_what_is_detached() -> None:
    """What a result cache did while its engine was attached stays when it is detached; attached again it goes on."""

    async def main() -> None:
        async with await engine_of(answers) as engine:
            monitor = PerformanceMonitor()
            monitor.attach(engine)
            for _ in range(3):
                await engine.execute("answers", {"number": 1})
            monitor.close()
            await engine.execute("answers", {"number": 1})
            kept = monitor.get_performance_report().results
            assert kept is not None
            assert (kept.hits, kept.misses, kept.size) == (2, 1, 1)
            monitor.attach(engine)
            await engine.execute("answers", {"number": 2})
            monitor.detach(engine)
            monitor.detach(engine)  # a second time changes nothing
            kept = monitor.result_cache()
            assert kept is not None
            assert (kept.hits, kept.misses, kept.size) == (2, 2, 2)

    asyncio.run(main())


def test_a_shared_cache_counts_once() -> None:
    """Two engines with one result cache are one cache, which is listened to until both are detached."""

    async def main() -> None:
        registry, shared = InMemorySkillRegistry(), SkillCache(10)
        await registry.register(answers)
        first, second = (LayeredExecutionEngine(registry, results=shared) for _ in range(2))
        monitor = PerformanceMonitor()
        for engine in (first, second):
            monitor.attach(engine)
            await engine.execute("answers", {"number": 1})
        monitor.detach(first)
        await second.execute("answers", {"number": 1})
        monitor.detach(second)
        await second.execute("answers", {"number": 1})
        found = monitor.result_cache()
        assert found is not None
        assert (found.hits, found.misses, found.size, found.max_size) == (
            1,
            2,
            2,
            10,
        )  # an engine's entries are its own
        for engine in (first, second):
            await engine.aclose()

    asyncio.run(main())


@pytest.mark.slow
def test_caches_are_read_while_engines_come_and_go(monitor: PerformanceMonitor, events: Any) -> None:
    """Another thread can ask for the result caches while engines are attached and detached."""
    failures: list[BaseException] = []
    ended = threading.Event()

    def read() -> None:
        try:
            while not ended.wait(1e-5):
                monitor.result_cache()
        except BaseException as error:  # noqa: BLE001 - told by the test
            failures.append(error)

    reader = threading.Thread(target=read)
    reader.start()
    made = [type(events)() for _ in range(200)]
    for each in made:
        each.results = SkillCache(1)
        monitor.attach(each)
    for each in made:
        monitor.detach(each)
    ended.set()
    reader.join()
    assert failures == []
    found = monitor.result_cache()
    assert found is not None
    assert found.max_size == 200


def test_executions_that_never_yield_are_bounded() -> None:
    """A loop of executions that never lets the event loop turn leaves no more than a batch put aside."""

    async def main() -> None:
        async with await engine_of(answers) as engine:
            monitor = PerformanceMonitor(batch=50)
            monitor.attach(engine)
            most = rows = 0
            for _ in range(1200):
                await engine.execute("answers", {"number": 1}, cache=False)
                most = max(most, len(monitor._records))
                rows = max(rows, len(monitor._book.tally("answers").pending))
            assert most < 50
            assert FULL / 2 < rows < FULL
            assert monitor.skill("answers").duration.n == 1200
            monitor.close()

    asyncio.run(main())


def test_a_kept_result_has_no_duration() -> None:
    """What was answered from a cache ran nothing: a duration with it is refused, and nothing is counted."""
    monitor = PerformanceMonitor()
    with pytest.raises(InvalidValueError, match="must be None with cached=True"):
        monitor.record_execution("a", 0.002, cached=True)
    assert monitor.get_performance_report().executions == 0
