"""Rules, alerts and their timing: broken for long enough tells once, holding again tells once."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any

import pytest

from skilllab.engine.engine import ActiveExecution
from skilllab.errors import InvalidValueError, SkillFailedError
from skilllab.monitor import Alert, PerformanceMonitor
from skilllab.monitor.rules import METRICS, Rule
from skilllab.monitor.watch import Watch
from skilllab.testing import FakeClock

Feed = Callable[..., None]


def watch_of(
    monitor: PerformanceMonitor, clock: FakeClock, *rules: str, on_alert: Callable[[Alert], object] | None = None
) -> Watch:
    """A watch that looks when it is told to."""
    return Watch(monitor, 1.0, rules, on_alert, None, clock)


def states(watch: Watch) -> list[str]:
    return [alert.state for alert in watch.alerts]


def test_fires_once_and_clears_once(monitor: PerformanceMonitor, clock: FakeClock, ended: Feed) -> None:
    """A p95 beyond its bound for 30 s fires at the 30th second, once; it clears once when the slow calls left the window."""
    watch = watch_of(monitor, clock, "p95 of skill a > 200 ms for 30 s")
    ended(duration=0.3, times=25)
    begin = clock()
    while clock() < begin + 120:
        watch.look()
        ended(duration=0.3 if clock() < begin + 40 else 0.01, times=2)
        clock.advance(1)
    fired, cleared = watch.alerts
    assert (fired.state, fired.time - begin, fired.lasted) == ("firing", 30, 30)
    assert fired.values[0] == pytest.approx(0.3, rel=0.02)
    assert cleared.state == "cleared"
    assert begin + 90 <= cleared.time <= begin + 110
    assert watch.firing == ()
    assert "p95 of skill a > 200 ms for 30 s" in str(fired)


def test_a_short_excess_fires_nothing(monitor: PerformanceMonitor, clock: FakeClock, ended: Feed) -> None:
    """What holds again before its time is over begins anew."""
    watch = watch_of(monitor, clock, "mean of a > 100 ms for 10 s")
    for _ in range(6):
        for duration in (0.2, 1e-4):
            ended(duration=duration, times=50)
            watch.look()
            clock.advance(6)
            watch.look()
            clock.advance(60)
    assert states(watch) == []


def test_any_tells_which(monitor: PerformanceMonitor, clock: FakeClock, ended: Feed) -> None:
    """A rule about any skill is looked at for each, and its alerts name the one."""
    watch = watch_of(monitor, clock, "errors of any > 10 % for 2 s")
    ended("good", times=10)
    ended("bad", error=SkillFailedError("no"), times=10)
    for _ in range(4):
        watch.look()
        clock.advance(1)
    assert [(alert.skill_id, alert.state) for alert in watch.alerts] == [("bad", "firing")]
    assert watch.firing == (("errors of any > 10 % for 2 s", "bad"),)


def test_conditions_joined_by_and(monitor: PerformanceMonitor, clock: FakeClock, ended: Feed) -> None:
    """Conditions joined by "and" are broken only together."""
    watch = watch_of(monitor, clock, "errors of a > 10 % and mean of a > 1 s")
    ended(error=SkillFailedError("no"), times=10)
    ended(duration=0.1, times=10)
    watch.look()
    assert states(watch) == []
    ended(duration=9.0, times=10)
    watch.look()
    assert states(watch) == ["firing"]


def test_what_is_not_known_fires_nothing(monitor: PerformanceMonitor, clock: FakeClock, ended: Feed) -> None:
    """A p95 of 19 values lies beyond all of them: the rule waits for the twentieth."""
    watch = watch_of(monitor, clock, "p95 of a > 1 ms")
    ended(duration=1.0, times=19)
    watch.look()
    assert states(watch) == []
    ended(duration=1.0)
    watch.look()
    assert states(watch) == ["firing"]


def test_silence_clears(monitor: PerformanceMonitor, clock: FakeClock, ended: Feed) -> None:
    """When nothing runs any more the alert is cleared, and says that there was nothing to measure."""
    watch = watch_of(monitor, clock, "mean of a > 1 ms")
    ended(duration=1.0)
    watch.look()
    clock.advance(100)
    watch.look()
    assert [(alert.state, alert.values[0] is None) for alert in watch.alerts] == [("firing", False), ("cleared", True)]
    assert str(watch.alerts[1]).endswith("mean –")


def test_a_hung_call_clears_nothing(monitor: PerformanceMonitor, clock: FakeClock) -> None:
    """While a call of the skill is under way an alert without values stays; it clears when nothing is, or when calls end well."""
    watch = watch_of(monitor, clock, "p95 of a > 1 ms", "p95 of a > 1 ms and mean of b > 1 s", "p95 of any > 1 ms")
    for _ in range(20):
        monitor.record_execution("a", 1.0)
    monitor.record_execution("b", 2.0)
    watch.look()
    assert states(watch) == ["firing"] * 3
    monitor.start_tracking("a")
    clock.advance(600)
    watch.look()
    assert [alert.rule for alert in watch.alerts if alert.state == "cleared"] == ["p95 of a > 1 ms and mean of b > 1 s"]
    monitor.record_execution("a", 600.0)
    watch.look()
    assert watch.firing == ()


def test_known_values_clear_beside_a_hung_call(monitor: PerformanceMonitor, clock: FakeClock) -> None:
    """One call that hangs does not keep the alert on once enough others end in time."""
    watch = watch_of(monitor, clock, "p95 of a > 100 ms")
    monitor.start_tracking("a")
    for duration in (1.0, 0.01):
        for _ in range(20):
            monitor.record_execution("a", duration)
        monitor.start_tracking("a")
        watch.look()
        clock.advance(600)
    assert states(watch) == ["firing", "cleared"]


def test_the_oldest_call(monitor: PerformanceMonitor, clock: FakeClock, events: Any) -> None:
    """A rule about the oldest call fires as it hangs, whoever told of it, and clears as it ends."""
    watch = watch_of(monitor, clock, "oldest of any > 30 s", "oldest > 30 s")
    events.active = (ActiveExecution("1", "b", clock() - 20, "running"), ActiveExecution("2", "b", clock(), "running"))
    monitor.start_tracking("a")
    clock.advance(5)
    monitor.start_tracking("a")
    clock.advance(10)
    watch.look()
    assert [(alert.skill_id, alert.values[0]) for alert in watch.alerts] == [("b", 35.0), (None, 35.0)]
    events.active = ()
    monitor.record_execution("a", 10.0)  # the second of the two
    assert monitor.share("oldest", "a") == 15.0
    watch.look()
    assert watch.firing == ()
    assert monitor.share("oldest", "b") is None


def test_an_alert_tells_a_coarse_precision(monitor: PerformanceMonitor, clock: FakeClock, ended: Feed) -> None:
    """A quantile of widely spread values is told with its precision, the greatest value is exact."""
    for power in range(-20, 1):
        ended(duration=2.0**power, times=20)
    watch = watch_of(monitor, clock, "p95 of a > 1 ms", "max of a >= 1 s", "max of a > 1 s")
    watch.look()
    p95, greatest = watch.alerts
    assert "(right to " in p95.text
    assert (greatest.values, "right" in greatest.text) == ((1.0,), False)


@pytest.mark.parametrize(
    ("rule", "broken"),
    [
        ("queue-p95 of a > 1 s", True),
        ("queue-p95 of a > 3 s", False),
        ("memory-max of a > 1 MiB", True),
        ("memory-max of a > 4 MiB", False),
        ("cpu-mean of a >= 4.9 ms", True),
        ("cached of a > 10 %", True),
        ("cached of a > 50 %", False),
        ("rate > 0.1 /s", True),
        ("in-flight > 0", False),
        ("oldest > 0 s", False),
        ("p50 < 1 ms", False),
        ("lag-p99 > 1 ms", False),
        ("mean of nobody > 1 ns", False),
    ],
)
def test_every_metric(monitor: PerformanceMonitor, clock: FakeClock, ended: Feed, rule: str, broken: bool) -> None:
    """Each metric that a rule may be about is measured as its name says."""
    ended(duration=0.01, waited=2.0, cpu=0.005, memory=2 * 2**20, times=40)
    ended(duration=None, cached=True, times=10)
    clock.advance(9)
    watch = watch_of(monitor, clock, rule)
    watch.look()
    assert states(watch) == (["firing"] if broken else [])


@pytest.mark.parametrize(
    ("rule", "at"),
    [
        ("p95 of fetch > 200 for 30 s", 20),
        ("latency of fetch > 200 ms", 1),
        ("p95 of fetch 200 ms", 14),
        ("p95 > 200 ms for 30", 20),
        ("errors of x > 120 %", 15),
        ("p95 > 200 ms or mean > 1 s", 14),
    ],
)
def test_a_bad_rule_points_at_the_character(monitor: PerformanceMonitor, rule: str, at: int) -> None:
    """A rule that does not parse is refused before anything starts, and the message points at the character."""
    with pytest.raises(InvalidValueError, match=f"character {at}") as refused:
        monitor.watch(1.0, rules=[rule])
    text, pointer = str(refused.value).splitlines()[-2:]
    assert text[pointer.index("^")] == (rule + "'")[at - 1]


def test_bad_arguments(monitor: PerformanceMonitor) -> None:
    """An interval of 0, a text in place of a list and a coroutine function are refused by name."""

    async def callback(_: Alert) -> None: ...

    for given in ({"interval": 0.0}, {"interval": float("nan")}, {"rules": "p95 > 1 s"}, {"on_alert": callback}):
        with pytest.raises(InvalidValueError, match=next(iter(given))):
            monitor.watch(**given)  # type: ignore[arg-type]


def test_what_is_closed_is_forgotten() -> None:
    """A monitor keeps no watch and no endpoint that was closed."""

    async def main() -> None:
        with PerformanceMonitor() as monitor:
            for _ in range(3):
                monitor.watch(60.0).close()
                monitor.serve_prometheus().close()
            assert (monitor._watches, monitor._endpoints) == (set(), set())

    asyncio.run(main())


def test_every_rule_metric_parses() -> None:
    """Every metric that the documentation of rules names can be written in one."""
    bounds = {"duration": "1 s", "share": "1 %", "rate": "1 /s", "size": "1 B", "count": "1"}
    for metric, kind in METRICS.items():
        assert Rule.of(f"{metric} of x > {bounds[kind]}").conditions[0].metric == metric


def test_a_failing_callback_does_not_stop_it(
    monitor: PerformanceMonitor, clock: FakeClock, ended: Feed, caplog: pytest.LogCaptureFixture
) -> None:
    """A callback that raises is logged; the rules after it are looked at, and so is the next alert."""
    heard: list[Any] = []

    def callback(alert: Alert) -> None:
        heard.append(alert)
        raise RuntimeError("the pager is broken")

    watch = watch_of(monitor, clock, "mean of a > 1 ms", "max of a > 1 ms", on_alert=callback)
    ended(duration=1.0)
    with caplog.at_level(logging.ERROR, "skilllab.monitor"):
        watch.look()
        clock.advance(100)
        watch.look()
    assert [alert.state for alert in heard] == ["firing", "firing", "cleared", "cleared"]
    assert caplog.text.count("the pager is broken") >= 4


def test_on_the_loop() -> None:
    """`watch` looks by itself, tells reports of the window, goes on after a failing callback, and ends with `close`."""

    async def main() -> None:
        monitor = PerformanceMonitor(window=6.0)
        reports: list[Any] = []

        def report(found: Any) -> None:
            reports.append(found)
            raise ValueError("no")

        alerts: list[Alert] = []
        fired = asyncio.Event()

        def alert(found: Alert) -> None:
            alerts.append(found)
            fired.set()

        watch = monitor.watch(0.01, alert, rules=["mean of a > 1 ms for 0.03 s"], on_report=report)
        monitor.record_execution("a", 0.5)
        await fired.wait()
        assert (alerts[0].state, alerts[0].skill_id) == ("firing", "a")
        assert len(reports) >= 3
        assert reports[0].window
        monitor.close()
        await asyncio.sleep(0.02)
        looked = len(reports)
        await asyncio.sleep(0.05)
        assert len(reports) == looked
        watch.close()

    logging.getLogger("skilllab.monitor").disabled = True
    try:
        asyncio.run(asyncio.wait_for(main(), 10))
    finally:
        logging.getLogger("skilllab.monitor").disabled = False
