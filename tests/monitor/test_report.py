"""Reports and recommendations: the right skill is named, and no advice comes without figures."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from skilllab.errors import (
    ExecutionTimeoutError,
    HttpStatusError,
    InvalidParametersError,
    InvalidValueError,
    SkillFailedError,
)
from skilllab.monitor import PerformanceMonitor, PerformanceReport, Recommendation
from skilllab.monitor.figures import ResultCache, SkillFigures, Spread
from skilllab.monitor.recommendations import recommendations
from skilllab.outcome import LoopBlockedEvent

Feed = Callable[..., None]
MIB = 2**20


@pytest.fixture
def busy(monitor: PerformanceMonitor, events: Any, ended: Feed) -> PerformanceMonitor:
    """A monitor that has seen a slow, a hungry, a failing, a cached and a quick skill."""
    ended("slow", 0.5, cpu=0.01, times=100)
    ended("hungry", 0.05, cpu=0.04, memory=200 * MIB, times=100)
    ended("failing", 0.01, times=50)
    ended("failing", None, error=HttpStatusError("503", status=503), times=50)
    ended("cached", 0.02, times=10)
    ended("cached", None, cached=True, times=90)
    ended("quick", 0.001, cpu=0.0009, memory=MIB, times=100)
    return monitor


def test_what_it_names(busy: PerformanceMonitor) -> None:
    """The slowest, the hungriest and the failing skill are the first of their lists; what was saved is counted."""
    report = busy.get_performance_report()
    assert [skill.skill_id for skill in report.slowest_skills[:2]] == ["slow", "hungry"]
    assert [skill.skill_id for skill in report.memory_heavy_skills] == ["hungry", "quick"]
    assert [(skill.skill_id, skill.error_rate) for skill in report.error_rates] == [("failing", 0.5)]
    cached = report.cache_performance
    assert [skill.skill_id for skill in cached.skills] == ["cached"]
    assert cached.saved == pytest.approx(90 * 0.02)
    assert report.executions == 500
    for name in ("slow", "hungry", "failing", "90 answers"):
        assert name in str(report)


def test_it_advises(busy: PerformanceMonitor) -> None:
    """Each of the three is advised, by its own figures; the two others are not."""
    found = {each.subject: each for each in busy.get_performance_report().recommendations}
    assert set(found) == {"slow", "hungry", "failing"}
    assert found["failing"].evidence["error_rate"] == pytest.approx(0.5)
    assert "circuit breaker" in found["failing"].change
    assert found["hungry"].evidence["memory_max"] == 200 * MIB
    assert "max_memory" in found["hungry"].change
    assert found["slow"].evidence["share"] == pytest.approx(50 / (50 + 5 + 0.5 + 0.2 + 0.1), rel=1e-3)
    assert "waits 98 %" in found["slow"].change
    for each in found.values():
        assert each.evidence
        assert str(each).endswith(".")


@pytest.mark.slow  # imports a large library
def test_frame(busy: PerformanceMonitor) -> None:
    """The frame has a row for each skill, what was not measured as missing."""
    frame = busy.frame()
    assert frame.loc["hungry", "memory_used_max"] == 200 * MIB
    assert frame.loc["failing", "error_rate"] == pytest.approx(0.5)
    assert frame["memory_used_max"].isna().sum() == 3
    assert frame["duration_n"].sum() == 360


def test_round_trip(busy: PerformanceMonitor) -> None:
    """A report survives JSON unchanged."""
    report = busy.get_performance_report()
    assert PerformanceReport.from_json(json.loads(json.dumps(report.to_json()))) == report


@pytest.mark.parametrize(
    "spoil",
    [
        lambda saved: {"skills": []},
        lambda saved: [],
        lambda saved: None,
        lambda saved: saved | {"version": 2},
        lambda saved: saved | {"elapsed": "long"},
        lambda saved: saved | {"lag": {"p17": 1.0}},
        lambda saved: saved | {"skills": [{"skill_id": "a"}]},
        lambda saved: saved | {"more": 1},
    ],
)
def test_what_is_no_report(busy: PerformanceMonitor, spoil: Callable[[dict[str, Any]], Any]) -> None:
    """What `to_json` did not write is refused, and so is another version."""
    with pytest.raises(InvalidValueError, match="no report"):
        PerformanceReport.from_json(spoil(busy.get_performance_report().to_json()))


def test_what_a_history_keeps(busy: PerformanceMonitor, clock: Any) -> None:
    """Every skill has its times, its rate, its memory and its share of failures, which alone has an interval."""
    clock.advance(10)
    metrics = busy.get_performance_report().metrics()
    assert metrics["slow p95"][0] == pytest.approx(0.5, rel=1 / 256)
    assert metrics["hungry memory max"] == (200 * MIB, None)
    assert metrics["quick rate"] == (pytest.approx(10.0), None)
    share, between = metrics["failing errors"]
    assert (share, between is not None and between.low < 0.5 < between.high) == (0.5, True)
    assert "cached p95" not in metrics  # 10 runs


@pytest.mark.slow  # imports a large library
def test_error_frame(busy: PerformanceMonitor) -> None:
    """The frame of errors has a row for each skill and kind; without errors it has its columns."""
    busy.record_execution("slow", None, error=SkillFailedError("no"))
    rows = busy.error_frame().set_index(["skill_id", "kind"])
    assert rows.loc[("failing", "HttpStatusError: 503"), "count"] == 50
    assert rows.loc[("failing", "HttpStatusError: 503"), "share"] == pytest.approx(0.5)
    assert rows.loc[("slow", "SkillFailedError"), "count"] == 1
    assert list(PerformanceMonitor().error_frame().columns) == ["skill_id", "kind", "count", "share"]


@pytest.mark.slow  # imports a large library
def test_precision_is_told_where_it_is_coarse(monitor: PerformanceMonitor, ended: Feed) -> None:
    """Report, frame and text say how precise quantiles of widely spread values are; where they are precise the text is silent."""
    for power in range(-20, 5):
        ended("far", 2.0**power, times=20)
    report = monitor.get_performance_report(window=True)
    told = monitor.precision("far", window=True)
    assert 0.01 < told == report.precision == report.frame().loc["far", "duration_precision"]
    assert f"quantiles are right to {100 * told:.1f} %" in str(report)
    near = PerformanceMonitor()
    near.record_execution("near", 0.01)
    assert "right to" not in str(near.get_performance_report())


@pytest.mark.slow  # imports a large library
def test_plot(busy: PerformanceMonitor) -> None:
    """The plot's title is the finding, and its first bar the slowest skill."""
    from skilllab import plots

    ax = busy.get_performance_report().plot()
    assert "slow is the slowest: p95 of 500 ms" in plots.summary(ax)
    with pytest.raises(InvalidValueError, match="no skill has run"):
        PerformanceMonitor().get_performance_report().plot()


def test_hungry_alone_and_together() -> None:
    """Advice on memory says what smaller pieces save of one execution, and of those under way at once."""
    (one,) = recommendations([SkillFigures("a", 1, memory_used=Spread(9, 80 * MIB, max=100 * MIB))], Spread(), None)
    assert "take up to 50.0 MiB off one execution;" in one.effect
    assert "at once" not in one.problem
    (many,) = recommendations(
        [SkillFigures("a", 1, peak=4, memory_used=Spread(9, 80 * MIB, max=100 * MIB))], Spread(), None
    )
    assert "200 MiB off the 4 together" in many.effect
    assert "than 150 MiB fails" in many.effect


def test_html_is_escaped(monitor: PerformanceMonitor, ended: Feed) -> None:
    """What a skill calls itself is no markup."""
    ended("<b>bold</b>", error=SkillFailedError("no"), times=50)
    html = monitor.get_performance_report()._repr_html_()
    assert "<b>" not in html
    assert "&lt;b&gt;bold" in html
    assert "<li>" in html


def test_nothing_says_nothing(monitor: PerformanceMonitor) -> None:
    """Without executions there is a report, without a slowest skill and without advice."""
    report = monitor.get_performance_report()
    assert (report.slowest_skills, report.recommendations, report.executions) == ((), (), 0)
    assert "recommendations: none" in str(report)
    assert report.frame().empty


def test_a_skill_that_always_fails(monitor: PerformanceMonitor, ended: Feed) -> None:
    """It has an error rate and kinds, and no latency statistics made of failures."""
    ended(duration=1e-5, error=SkillFailedError("no"), times=400)
    report = monitor.get_performance_report()
    assert report.skills[0].duration == Spread()
    assert report.skills[0].error_rate == 1.0
    assert report.slowest_skills == ()


@pytest.mark.parametrize(
    "skill",
    [
        SkillFigures("few", 1, failed=19, errors={"SkillFailedError": 19}),
        SkillFigures("rare", 1, succeeded=1000, failed=8, errors={"SkillFailedError": 8}),
        SkillFigures("short", 1, succeeded=50, duration=Spread(50, 0.01, 0.01), queue_time=Spread(50, 9.0, 9.0)),
        SkillFigures(
            "waits less than it runs",
            1,
            succeeded=100,
            duration=Spread(100, 0.1, 0.1, 0.2),
            queue_time=Spread(100, 0.05, 0.05, 0.09),
        ),
        SkillFigures("modest", 1, succeeded=100, memory_used=Spread(100, MIB, MIB, MIB, None, 60 * MIB)),
        SkillFigures("one", 1, succeeded=1, memory_used=Spread(1, 1e9, max=1e9)),
        SkillFigures("alone", 1, succeeded=100, ran=100.0, duration=Spread(100, 1.0, 1.0, 1.0)),
    ],
    ids=lambda skill: skill.skill_id,
)
def test_no_advice_without_evidence(skill: SkillFigures) -> None:
    """Too few executions, a rate that may be chance, a harmless amount, a share of nothing: no advice."""
    assert recommendations([skill], Spread(), None) == ()


def test_two_equals_are_no_bottleneck() -> None:
    """Of three skills with a third of the time each none is advised."""
    skills = [SkillFigures(name, 1, succeeded=99, ran=1.0, duration=Spread(99, 0.01, 0.01, 0.01)) for name in "abc"]
    assert recommendations(skills, Spread(), None) == ()


@pytest.mark.parametrize(
    ("cpu", "words"), [(0.001, "more places at once"), (0.009, "computes 90 %"), (None, "more places")]
)
def test_waiting_for_a_place(cpu: float | None, words: str) -> None:
    """Who waits longer than it runs gets more places, unless it computes, when these do not help."""
    skill = SkillFigures(
        "a",
        1,
        succeeded=100,
        duration=Spread(100, 0.01, 0.01, 0.02),
        queue_time=Spread(100, 0.2, 0.2, 0.4),
        cpu_time=Spread() if cpu is None else Spread(100, cpu),
    )
    (found,) = recommendations([skill], Spread(), None)
    assert words in found.change.replace("Give it ", "")
    assert found.evidence["queue_p95"] == 0.4
    assert "200 ms" in found.effect


def test_held_up_loop(monitor: PerformanceMonitor, events: Any, ended: Feed) -> None:
    """A step that held up the loop is advised with its place; the lag that follows from it is not advised again."""
    ended()
    events.tell(LoopBlockedEvent("loop-blocked", "", "a", 0.0, 0.3, "m.f (m.py:3)"))
    late = Spread(1000, 0.1, 0.1, 0.2, 0.3, 0.3)
    (found,) = recommendations(monitor.figures(), late, None)
    assert "the event loop once, for 300 ms at most, at m.f (m.py:3)" in found.problem
    (other,) = recommendations([], late, None)
    assert other.subject == "engine"


def test_what_the_window_forgot_is_not_advised(
    monitor: PerformanceMonitor, clock: Any, events: Any, ended: Feed
) -> None:
    """A step that held up the loop before the window is in the report of the whole run, and in that of the window no more."""
    ended()
    events.tell(LoopBlockedEvent("loop-blocked", "", "a", clock(), 0.3, "m.f (m.py:3)"))
    assert len(monitor.get_performance_report(window=True).recommendations) == 1
    clock.advance(3600)
    ended()
    assert monitor.get_performance_report(window=True).recommendations == ()
    assert len(monitor.get_performance_report().recommendations) == 1
    late = Spread(1000, 0.1, 0.1, 0.2, 0.3, 0.3)
    (found,) = recommendations(monitor.figures(window=True), late, None)
    assert found.subject == "engine"


def test_small_result_cache() -> None:
    """A result cache that throws out what may be asked for again is advised; one that only misses is not."""
    (found,) = recommendations([], Spread(), ResultCache(hits=500, misses=500, evictions=400, size=10, max_size=10))
    assert found.evidence["evictions"] == 400
    assert "40.0 % more of the look-ups hit" in found.effect
    assert "max_size=20" in found.change
    assert recommendations([], Spread(), ResultCache(hits=0, misses=1000, size=1000, max_size=2000)) == ()


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (ExecutionTimeoutError("late", timeout=1.0, stage="run"), "timeout"),
        (HttpStatusError("slow down", status=429), "less often"),
        (HttpStatusError("not there", status=404), "what is asked for"),
        (HttpStatusError("broken", status=500), "circuit breaker"),
        (InvalidParametersError("no", skill_id="a"), "callers"),
        (SkillFailedError("no"), "Mend the skill"),
    ],
)
def test_advice_fits_the_error(monitor: PerformanceMonitor, ended: Feed, error: Any, words: str) -> None:
    """What to do about failures depends on their most frequent kind."""
    ended(error=error, times=30)
    (found,) = monitor.get_performance_report().recommendations
    assert words in found.change


def test_recommendation_is_frozen() -> None:
    """Its evidence cannot be changed, and it survives JSON."""
    made = Recommendation("a", "b", "c", "d", {"n": 1})
    with pytest.raises(TypeError):
        made.evidence["n"] = 2  # type: ignore[index]
    assert Recommendation.from_json(json.loads(json.dumps(made.to_json()))) == made
