"""Verdicts on results: whole intervals, and every request that was due, whatever became of it."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from skilllab.experiments.loadtest import LoadTestResult, Requests, Stage
from skilllab.experiments.loadtest.generator import Ending
from tests.experiments.loadtest.conftest import made

ENDED = Ending("duration", 10.0)
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


def test_no_success_at_all_is_a_rate_too() -> None:
    """1,000 failures in 10 s: the rate is below 0.37 a second, the upper end of a Poisson count of 0 (3.69, Garwood 1936)."""
    result = LoadTestResult(made([], slo="rate > 50 /s", stage=Stage(10.0, rate=100.0)).scenario, Requests(), ENDED)
    for number in range(1000):
        result.requests.append(number / 100, number / 100, number / 100 + 0.001, 0.001, "SkillFailedError")
    interval = result.metrics()["rate"][1]
    assert interval is not None
    assert (interval.low, interval.high) == (0.0, pytest.approx(0.3689, abs=1e-4))
    assert result.verdict == "fail"
    few = replace(result, scenario=replace(result.scenario, slo="rate > 0.3 /s"))
    assert few.verdict == "inconclusive"
    result.requests.give_up(9.5, 10.0)
    stopped = replace(result, ending=Ending("stopped", 10.0))
    assert stopped.verdict == "inconclusive"  # what was under way might have been a success


def test_requests_that_end_after_the_test_are_no_rate_of_nothing() -> None:
    """Ten seconds of service and five of test: all succeed, none within the time, and the rate is not known."""
    result = made([10.0] * 500, slo="rate > 50 /s")
    assert (result.rate, result.verdict) == (0.0, "inconclusive")


def test_nothing_passes_when_the_process_was_lost() -> None:
    """What was under way when the process of a test ended is not known: what would pass is inconclusive, what fails fails."""
    ending = Ending("aborted", 20.0, "the process of the load test ended with status -9", apart=True, lost=True)
    for slo, verdict in (
        ("p95 < 60 ms and errors < 1 % and rate > 90 /s", "inconclusive"),
        ("p95 < 20 ms and errors < 1 %", "fail"),
    ):
        alive = made(TWO_THOUSAND, slo=slo)
        lost = replace(alive, ending=ending)
        assert alive.verdict == ("pass" if verdict == "inconclusive" else verdict)
        assert lost.verdict == verdict
        assert not [each for each in lost.judgements if each.outcome == "pass"]
        assert "what was under way is in no figure" in str(lost)
        again = LoadTestResult.from_json(json.loads(json.dumps(lost.to_json())))
        assert again.ending.lost
        assert again.verdict == verdict


def test_a_rate_is_one_of_successes() -> None:
    """SLO, stages and what a history keeps count successes; requests_per_second and its row failures as well."""
    result = losing(0.5, "failed", "rate < 110 /s")
    assert result.requests_per_second == pytest.approx(200, rel=0.01)
    assert result.rate == pytest.approx(100, rel=0.01)
    assert result.metrics()["rate"][0] == result.rate == result.judgements[0].value
    assert result.stages["rate"].tolist() == pytest.approx([result.rate])
    table = result.table()["value"]
    assert (table["rate of successes"], table["rate with failures"]) == ("99.9 /s", "200 /s")
