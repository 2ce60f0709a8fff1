"""SLO expressions: what parses, where a message points, and verdicts with three values."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from skilllab.conditions import METRICS, UNITS, Condition, Kind, parse
from skilllab.errors import InvalidValueError
from skilllab.experiments.loadtest.slo import Judgement, judge, overall, parse_slo
from skilllab.stats import Interval


def test_the_issues_example() -> None:
    """Two conditions, with their bounds in seconds and as a share of one."""
    assert parse_slo("p95 < 50 ms and errors < 0.1 %") == (
        Condition("p95", "duration", "<", 0.05),
        Condition("errors", "share", "<", pytest.approx(0.001)),  # type: ignore[arg-type]
    )


@pytest.mark.parametrize(
    ("text", "metric", "sense", "bound"),
    [
        ("p99.9<=1.5s", "p99.9", "<=", 1.5),
        ("p50 < 200 µs", "p50", "<", 2e-4),
        ("p50 < 200 μs", "p50", "<", 2e-4),  # the Greek letter
        ("mean < 200us", "mean", "<", 2e-4),
        ("max ≤ 2 min", "max", "<=", 120.0),
        ("max < 2.5 h", "max", "<", 9000.0),
        ("rate >= 90 /s", "rate", ">=", 90.0),
        ("rate > 60 /min", "rate", ">", 1.0),
        ("errors <= 100 %", "errors", "<=", 1.0),
        ("  p5   >   1e3 ns ", "p5", ">", 1e-6),
    ],
)
def test_units_and_signs(text: str, metric: str, sense: str, bound: float) -> None:
    """Every unit and sign is read, with and without spaces."""
    (found,) = parse_slo(text)
    assert (found.metric, found.sense, found.bound) == (metric, sense, pytest.approx(bound))


@pytest.mark.parametrize(
    ("text", "at", "expected"),
    [
        ("", 0, "a metric"),
        ("p95 < 50 mz and errors < 1 %", 9, "a unit (ns, µs, us, ms, s, min, h), not 'mz'"),
        ("p95 < 50", 8, "a unit"),
        ("p95 < -5 ms", 6, "a number, not '-'"),
        ("p95 < nan ms", 6, "a number, not 'nan'"),
        ("p95 < 1e999 ms", 6, "a number below 1e15"),
        ("p95 < 1,000 ms", 7, "a unit"),
        ("p95 < 5 ms or errors < 1 %", 11, "\"and\" or the end, not 'or'"),
        ("p95 < 5 ms and", 14, "a metric"),
        ("p95 50 ms", 4, "one of < <= > >="),
        ("p95 == 5 ms", 4, "one of < <= > >="),
        ("p0 < 1 ms", 0, "a metric"),
        ("p100 < 1 ms", 0, "a metric"),
        ("errors < 200 %", 9, "a share of at most 100 %"),
        ("errors < 5", 10, "a unit (%)"),
        ("errors < 5 ms", 11, "a unit (%)"),
        ("p95 of fetch < 5 ms", 4, "one of < <= > >="),
        ("p95 < 5 ms for 3 s", 11, '"and" or the end'),
    ],
)
def test_a_message_points_at_the_character(text: str, at: int, expected: str) -> None:
    """The caret stands below the first character that does not fit, and the message says what would."""
    with pytest.raises(InvalidValueError) as raised:
        parse_slo(text)
    first, shown, pointer = str(raised.value).split("\n")
    assert f"slo does not parse at character {at + 1}: expected {expected}" in first
    begin = len("slo='")
    assert shown == f"slo='{text}'"
    assert pointer.index("^") == begin + at


@pytest.mark.parametrize("text", ["errors <= 0 %", "p95 < 50 ms and errors < 0 %"])
def test_what_no_test_could_show_is_refused(text: str) -> None:
    """No failure in any number of requests bounds their share only: the message names the condition and what to write."""
    with pytest.raises(InvalidValueError, match=r"slo: errors <=? 0 % can never be shown .* \"errors < 0.1 %\""):
        parse_slo(text)


def test_what_is_no_text_is_refused() -> None:
    """A number or None is refused with an example."""
    with pytest.raises(InvalidValueError, match="p95 < 50 ms"):
        parse_slo(0.05)  # type: ignore[arg-type]


def test_rules_name_a_skill_and_a_time() -> None:
    """A monitor's rule says which skill, in quotes where its id needs them, and for how long; its text reads back."""
    (rule,) = parse("p95 of skill 'my tool' > 200 ms for 30 s")
    assert (rule.skill, rule.lasting, rule.bound) == ("my tool", 30.0, 0.2)
    assert parse(str(rule)) == (rule,)
    (rule,) = parse("memory of file-reader-v1 > 1.5 GiB", metrics={"memory": "size"})
    assert (rule.skill, rule.bound) == ("file-reader-v1", 1.5 * 2**30)


KINDS: dict[str, Kind] = {**METRICS, "p50": "duration", "p99.99": "duration", "memory": "size", "queue": "count"}
LEAST = {"duration": 1e-12, "size": 1.0}
"""A picosecond and a byte: below them a duration and a size are no longer told from nothing."""


@given(st.data())
def test_a_condition_reads_as_it_was_written(data: st.DataObject) -> None:
    """The text of a condition parses to the same condition, to nine digits, whatever its metric, unit and size."""
    metric, sense = data.draw(st.sampled_from(sorted(KINDS))), data.draw(st.sampled_from(["<", "<=", ">", ">="]))
    kind = KINDS[metric]
    unit = data.draw(st.sampled_from(sorted(UNITS[kind])))
    number = data.draw(st.floats(1e-9, 100.0 if kind == "share" else 1e12))
    lasting = data.draw(st.sampled_from(["", " for 30 s", " for 3 h", " for 90000 min"]))
    (condition,) = parse(f"{metric} {sense} {number} {unit}{lasting}", metrics=KINDS)
    assume(condition.bound >= LEAST.get(kind, 0.0))
    (again,) = parse(str(condition), metrics=KINDS)
    assert again.bound == pytest.approx(condition.bound, rel=1e-2 if kind == "size" else 1e-8)
    assert replace(again, bound=condition.bound) == condition
    assert str(again) == str(condition)


@pytest.mark.parametrize("text", ["p95 < 2.5 h", "rate > 1250.5 /s", "errors < 0.1 %", "max < 2 min"])
def test_a_judgement_of_a_large_bound_comes_back(text: str) -> None:
    """Bounds of hours and of thousands are written so that they are read again."""
    (condition,) = parse_slo(text)
    assert str(condition) == text
    found = judge(condition, 1.0, Interval(0.9, 1.1, 0.95))
    assert Judgement.from_json(json.loads(json.dumps(found.to_json()))) == found


# verdicts


@pytest.mark.parametrize(
    ("text", "value", "low", "high", "outcome", "margin"),
    [
        ("p95 < 50 ms", 0.040, 0.038, 0.042, "pass", 0.2),
        ("p95 < 50 ms", 0.049, 0.045, 0.053, "inconclusive", 0.02),
        ("p95 < 50 ms", 0.060, 0.050, 0.070, "fail", -0.2),
        ("p95 <= 50 ms", 0.060, 0.050, 0.070, "inconclusive", -0.2),
        ("p95 < 50 ms", 0.040, 0.030, 0.050, "inconclusive", 0.2),
        ("p95 <= 50 ms", 0.040, 0.030, 0.050, "pass", 0.2),
        ("rate > 90 /s", 99.0, 95.0, 103.0, "pass", 0.1),
        ("rate > 90 /s", 81.0, 80.0, 90.0, "fail", -0.1),
        ("p95 < 50 ms", math.inf, 0.060, math.inf, "fail", -math.inf),
        ("p95 < 50 ms", math.inf, 0.040, math.inf, "inconclusive", -math.inf),
        ("max < 1 s", 0.5, 0.5, 0.5, "pass", 0.5),
    ],
)
def test_only_a_whole_interval_passes_or_fails(
    text: str, value: float, low: float, high: float, outcome: str, margin: float
) -> None:
    """A condition passes when every value of the interval meets it, fails when none does, else it is inconclusive."""
    (condition,) = parse_slo(text)
    found = judge(condition, value, Interval(low, high, 0.95))
    assert found.outcome == outcome
    assert found.margin == pytest.approx(margin)


def test_without_an_interval_nothing_is_claimed() -> None:
    """Too few values, or none, are inconclusive however good they look."""
    (condition,) = parse_slo("p95 < 50 ms")
    assert judge(condition, 0.001, None).outcome == "inconclusive"
    for nothing in (None, math.nan):
        assert judge(condition, nothing, None) == Judgement(condition, None, None, "inconclusive", None)


def test_one_failure_fails_all() -> None:
    """All conditions have to pass; a failure outweighs an inconclusive one; nothing judged is inconclusive."""
    (condition,) = parse_slo("p95 < 50 ms")
    good, bad = (judge(condition, at, Interval(at, at, 0.95)) for at in (0.01, 0.1))
    open_ = judge(condition, 0.01, None)
    assert overall([good, good]) == "pass"
    assert overall([good, open_, bad]) == "fail"
    assert overall([good, open_]) == "inconclusive"
    assert overall([]) == "inconclusive"


def test_a_judgement_reads_and_is_kept() -> None:
    """Its text has value, interval and margin; JSON brings it back."""
    (condition,) = parse_slo("p95 < 50 ms")
    found = judge(condition, 0.04, Interval(0.038, 0.042, 0.95))
    assert str(found) == "p95 < 50 ms: pass, 40.0 ms (38.0 to 42.0 ms), margin 20.0 %"
    assert Judgement.from_json(json.loads(json.dumps(found.to_json()))) == found
    endless = judge(condition, math.inf, Interval(0.08, math.inf, 0.95))
    assert str(endless) == "p95 < 50 ms: fail, without end (80.0 ms to ∞)"
    assert str(judge(condition, math.inf, Interval(math.inf, math.inf, 0.95))) == "p95 < 50 ms: fail, without end"
    few = judge(condition, None, None)
    assert str(few) == "p95 < 50 ms: inconclusive, n too small"
    nothing = judge(*parse_slo("mean < 50 ms"), None, None)
    assert str(nothing) == "mean < 50 ms: inconclusive, nothing was measured"
    for each in (endless, few, nothing):
        text = json.dumps(each.to_json(), allow_nan=False)
        assert Judgement.from_json(json.loads(text)) == each
