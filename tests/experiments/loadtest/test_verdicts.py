"""Verdicts on results: whole intervals, and every request that was due, whatever became of it."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest

from skilllab.experiments.loadtest import LoadTestResult, Requests
from skilllab.experiments.loadtest.generator import Ending
from tests.experiments.loadtest.conftest import made

TWO_THOUSAND = (0.01 + np.random.default_rng(0).exponential(0.01, 2000)).tolist()


@pytest.mark.parametrize(
    ("slo", "verdict"),
    [
        ("p95 < 60 ms and errors < 1 %", "pass"),
        ("p95 < 20 ms", "fail"),
        ("p95 < 40 ms", "inconclusive"),
        ("p95 < 60 ms and mean < 1 ms", "fail"),
        ("rate > 90 /s", "pass"),
        ("max < 1 s", "pass"),
    ],
)
def test_verdicts(slo: str, verdict: str) -> None:
    """An SLO passes or fails when the whole interval does: p95 is 40 ms, give or take 2."""
    result = made(TWO_THOUSAND, slo=slo)
    assert result.verdict == verdict
    assert f"SLO: {verdict}" in str(result)
    assert all(each.margin is not None for each in result.judgements)


LOSSES: dict[str, Callable[[Requests, float], None]] = {
    "failed": lambda requests, at: requests.append(at, at, at + 0.001, 0.001, "SkillFailedError"),
    "dropped": lambda requests, at: requests.drop(at),
    "unfinished": lambda requests, at: requests.give_up(at, at + 30.0),
}


def losing(share: float, which: str, slo: str) -> LoadTestResult:
    """Returns a result of 2,000 successes, and of as many others that they are a share of all."""
    result = made(TWO_THOUSAND, slo=slo)
    lost = round(2000 * share / (1 - share))
    for place in range(lost):
        LOSSES[which](result.requests, 20 * (place + 0.5) / lost)
    return result


@pytest.mark.parametrize("which", LOSSES)
def test_what_was_not_answered_counts_as_answered_within_no_bound(which: str) -> None:
    """As in find_capacity: with one in a thousand p95 still holds and a mean has no end; with three of four nothing holds."""
    result = losing(0.001, which, "p95 < 60 ms and errors < 1 % and mean < 60 ms and max < 60 s")
    assert [each.outcome for each in result.judgements] == ["pass", "pass", "fail", "fail"]
    result = losing(0.75, which, "p95 < 60 ms and mean < 60 ms and errors < 60 %")
    assert {each.outcome for each in result.judgements} == {"fail"}
    assert str(result.judgements[0]) == "p95 < 60 ms: fail, without end"
    assert result.judgements[2].value == pytest.approx(0.75)
    assert result.percentile(95) == pytest.approx(0.04, rel=0.05)
    assert result.average_response_time < 0.03


def test_an_interval_with_failures_is_that_of_the_share_beyond() -> None:
    """At 4 % of failures p95 is among the slowest successes, and its interval has no upper end; at 1 % it has one."""
    (near,) = losing(0.045, "failed", "p95 < 1 s").judgements
    assert near.interval is not None
    assert near.interval.low < (near.value or 0.0) < near.interval.high == math.inf
    assert near.outcome == "inconclusive"
    (calm,) = losing(0.01, "failed", "p95 < 1 s").judgements
    plain = made(TWO_THOUSAND).percentile_interval(95)
    assert calm.interval is not None
    assert plain is not None
    assert calm.interval.low > plain.low
    assert plain.high < calm.interval.high < 0.1


@pytest.mark.parametrize(("begins", "verdict"), [((19.99, 20.0), "inconclusive"), ((0.0, 19.0), "fail")])
def test_what_a_stop_cut_off_is_judged_by_what_it_had_taken(begins: tuple[float, float], verdict: str) -> None:
    """Of 400 under way nobody knows, unless they were over the bound already; three of two thousand make no difference."""
    for number, expected in ((400, verdict), (3, "pass")):
        result = made(TWO_THOUSAND, slo="p95 < 60 ms and rate > 90 /s")
        for begin in np.linspace(*begins, number):
            result.requests.give_up(float(begin), 20.0)
        stopped = LoadTestResult(result.scenario, result.requests, Ending("stopped", 20.0))
        assert [each.outcome for each in stopped.judgements] == [expected, "pass"]


def test_a_rate_is_one_of_successes() -> None:
    """SLO, stages and what a history keeps count successes; requests_per_second and its row failures as well."""
    result = losing(0.5, "failed", "rate < 110 /s")
    assert result.requests_per_second == pytest.approx(200, rel=0.01)
    assert result.rate == pytest.approx(100, rel=0.01)
    assert result.metrics()["rate"][0] == result.rate == result.judgements[0].value
    assert result.stages["rate"].tolist() == pytest.approx([result.rate])
    table = result.table()["value"]
    assert (table["rate of successes"], table["rate with failures"]) == ("99.9 /s", "200 /s")
