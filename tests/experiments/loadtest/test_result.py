"""Results: figures with intervals or none, stages, seconds, verdicts, warnings with a number and a next step."""

from __future__ import annotations

import asyncio
import json
import math
from typing import Any

import numpy as np
import pytest

from skilllab import format as fmt
from skilllab import plots
from skilllab.errors import InvalidValueError
from skilllab.experiments.loadtest import LoadTestResult, Requests, Scenario, Stage
from skilllab.experiments.loadtest import machine as machines
from skilllab.experiments.loadtest.generator import Ending
from skilllab.experiments.loadtest.machine import Machine, Meter
from skilllab.experiments.loadtest.open_client import longest_gap, seen_by
from tests.experiments.loadtest.conftest import failing, made, played, sleeping

RANDOM = np.random.default_rng(0)
TWO_THOUSAND = (0.01 + RANDOM.exponential(0.01, 2000)).tolist()


def warned(result: LoadTestResult, kind: str) -> Any:
    """Returns the one warning of a kind; every warning has a number, a text with it, and a next step."""
    (found,) = [each for each in result.warnings if each.kind == kind]
    assert math.isfinite(found.value)
    assert any(letter.isdigit() for letter in found.text)
    assert found.advice
    assert str(found) in str(result)
    return found


def kinds(result: LoadTestResult) -> set[str]:
    return {each.kind for each in result.warnings}


# figures


def test_figures_of_independent_responses() -> None:
    """Mean and percentiles are those of the values, with intervals around them; nothing is warned of."""
    result = made(TWO_THOUSAND)
    assert result.average_response_time == pytest.approx(np.mean(TWO_THOUSAND))
    for percent in (50, 95, 99):
        value, interval = result.percentile(percent), result.percentile_interval(percent)
        assert value == pytest.approx(np.percentile(TWO_THOUSAND, percent))
        assert interval is not None
        assert interval.low < value < interval.high
    assert result.average_interval is not None
    assert result.requests_per_second == pytest.approx(100, rel=0.01)
    assert (result.success_rate, result.dropped, result.unfinished, result.verdict) == (1, 0, 0, None)
    assert result.warnings == ()


def test_a_percentile_of_too_few_values_is_no_number() -> None:
    """300 values say nothing of p99, and 71 nothing of p95: "n too small" stands where the number would."""
    assert made(TWO_THOUSAND[:300]).percentile(99) is None
    assert made(TWO_THOUSAND[:300]).percentile(95) is not None
    few = made(TWO_THOUSAND[:71])
    assert few.percentile(95) is None
    (judgement,) = made(TWO_THOUSAND[:300], slo="p99 < 50 ms").judgements
    assert (judgement.value, judgement.interval, judgement.margin, judgement.to_json()["value"]) == (None,) * 4
    assert str(judgement) == "p99 < 50 ms: inconclusive, n too small"
    assert few.table().loc["response p95", "value"] == "n too small"
    assert "p99 n too small" in str(few)
    with pytest.raises(InvalidValueError, match="p95 is 95"):
        few.percentile(100)


def test_stages_and_seconds() -> None:
    """Every stage has its own figures, every second its counts, and no request is in two of them."""
    stages = (Stage(3.0, rate=100.0, arrivals="constant", name="calm"), Stage(2.0, rate=300.0, arrivals="constant"))
    result = played(sleeping, stages=stages, warmup=1.0)
    frame = result.stages
    assert frame["name"].tolist() == ["calm", ""]
    assert frame["begin"].tolist() == [1, 3]
    assert frame["offered"].tolist() == pytest.approx([100, 300])
    assert frame["requests"].tolist() == [200, 600]
    assert frame["rate"].tolist() == pytest.approx([100, 300], rel=0.02)
    assert frame["p95"].tolist() == pytest.approx([0.01, 0.01], rel=0.01)
    assert frame["p99"].isna().tolist() == [True, False]
    seconds = result.timeline
    assert seconds["due"].tolist() == [100, 100, 100, 300, 300]
    assert seconds["stage"].tolist() == [0, 0, 0, 1, 1]
    assert seconds["warm"].tolist() == [True, False, False, False, False]
    assert seconds["in_flight"].tolist() == [1, 1, 1, 3, 3]
    assert seconds["p95"].tolist() == pytest.approx([0.01] * 5, rel=0.01)


def test_a_test_that_ended_in_its_warm_up_has_stages_with_columns() -> None:
    """No stage was measured: the frame has no row, and all its columns."""
    early = played(sleeping, concurrency=1, duration=10.0, warmup=5.0, stop_at=1.0)
    assert early.stages["rate"].tolist() == []
    assert list(early.stages) == list(played(sleeping, concurrency=1, duration=1.0).stages)


def test_a_share_of_failures_is_exact() -> None:
    """Ten of a hundred are 10 %, and not the last bit less, in the figures, the warning and the SLO."""
    result = made([0.01] * 90, slo="errors < 10 %")
    for number in range(10):
        result.requests.append(number / 100, number / 100, number / 100 + 0.01, 0.01, "SkillFailedError")
    assert result.metrics()["errors"][0] == result.measured.error_share == 0.1
    assert result.judgements[0].value == warned(result, "failures").value == 0.1
    assert math.isnan(Requests().columns().error_share)


# to keep


@pytest.mark.slow
@pytest.mark.parametrize("model", [{"rate": 200.0, "max_in_flight": 1}, {"concurrency": 3}])
def test_a_result_comes_back_from_json(model: dict[str, Any]) -> None:
    """Figures, warnings, verdict and text are the same after a round trip."""
    result = played(sleeping, duration=2.0, warmup=0.5, slo="p95 < 50 ms", **model)
    saved = json.loads(json.dumps(result.to_json()))
    back = LoadTestResult.from_json(saved)
    assert back.to_json() == saved
    assert str(back) == str(result)
    assert back._repr_html_() == result._repr_html_()
    assert back.frame().shape == result.frame().shape
    assert set(back.metrics()) == {"mean", "p50", "p95", "p99", "errors", "rate"}
    assert back.seed == 0


def test_damaged_rows_are_refused() -> None:
    """Rows that are cut off or altered, and kinds and losses that do not fit them, are an InvalidValueError too."""
    saved = made(TWO_THOUSAND[:50]).to_json()
    rows = saved["requests"]["rows"]
    damages: list[dict[str, Any]] = [{"rows": rows[:length]} for length in range(0, len(rows), 97)]
    damages += [
        {"rows": f"{rows[:place]}{'AB'[rows[place] == 'A']}{rows[place + 1 :]}"} for place in range(0, len(rows) - 8, 5)
    ]
    damages += [{"kinds": []}, {"kinds": 3}, {"dropped": [1.0]}, {"unfinished": ["a"]}, {"rows": None}]
    for damage in damages:
        with pytest.raises(InvalidValueError, match="load test"):
            LoadTestResult.from_json({**saved, "requests": {**saved["requests"], **damage}})


@pytest.mark.parametrize("change", [{"version": 99}, {"requests": {}}, {"ending": {"workers": 1}}, {"scenario": None}])
def test_what_is_no_result_is_refused(change: dict[str, Any]) -> None:
    """JSON of a newer version, or of something else, is an InvalidValueError."""
    with pytest.raises(InvalidValueError, match="load test"):
        LoadTestResult.from_json({**made(TWO_THOUSAND).to_json(), **change})


@pytest.mark.slow
def test_a_result_can_be_drawn_and_shown() -> None:
    """The figure's title is the finding; HTML has table, warnings and, of a closed test, the assumed open clients."""
    result = played(sleeping, concurrency=2, duration=2.0)
    assert "p95 of the response is 10.0 ms" in plots.summary(result.plot())
    html = result._repr_html_()
    for text in ("response p95", "generator lag mean", "longest gap", "assumed", "from kept results"):
        assert text in html
    with pytest.raises(InvalidValueError, match="no request succeeded"):
        played(failing, concurrency=2, duration=0.1).plot()


# warnings


def test_a_run_too_short_says_which_would_do() -> None:
    """100 of the 144 values that p95 takes: the advice is a duration, and that duration has an interval."""
    values = TWO_THOUSAND[:100]
    warning = warned(made(values), "too-short")
    assert "takes 144" in warning.text
    assert warning.advice == "run it for 2.7 s"
    assert "too-short" not in kinds(made(TWO_THOUSAND[:270]))
    counted = made(values, stage=Stage(None, rate=100.0, arrivals="constant"), count=100)
    assert warned(counted, "too-short").advice.startswith("run it with count=")


def test_a_target_still_warming_is_named_with_the_warm_up_it_takes() -> None:
    """Twice as slow for the first 3 of 20 s: the warning says so, and with that warm-up it is silent."""
    values = [2 * each if number < 300 else each for number, each in enumerate(TWO_THOUSAND)]
    warning = warned(made(values), "still-warming")
    assert warning.value == pytest.approx(2, rel=0.2)
    assert warning.advice == "use warmup=3"
    assert "still-warming" not in kinds(made(TWO_THOUSAND))
    later = made(values, warmup=3.0)
    assert "still-warming" not in kinds(LoadTestResult(later.scenario, _warm(values, 3.0), later.ending, later.started))


def _warm(values: list[float], warmup: float) -> Requests:
    requests = Requests()
    for number, seconds in enumerate(values):
        due = number / 100
        requests.append(due, due, due + seconds, seconds, warm=due < warmup)
    return requests


@pytest.mark.slow
def test_a_backlog_that_grows_is_no_steady_value() -> None:
    """A single server of 10 ms asked 110 times a second falls behind, and the warning says by how much."""
    result = played(sleeping, places=1, rate=110.0, duration=20.0)
    assert warned(result, "backlog").value > 2
    assert "backlog" not in kinds(played(sleeping, places=1, rate=50.0, duration=20.0))


@pytest.mark.parametrize(("apart", "advice"), [(False, 'where="process"'), (True, "end what else runs")])
def test_a_late_generator_is_named_with_its_lag(apart: bool, advice: str) -> None:
    """20 ms of lag in a fifth of the requests: the advice is a process of its own, unless it has one."""
    requests = Requests()
    for number in range(1000):
        due, lag = number / 100, 0.02 if number % 5 == 0 else 0.0
        requests.append(due, due + lag, due + lag + 0.01, 0.01)
    scenario = Scenario("made", {}, (Stage(10.0, rate=100.0),))
    result = LoadTestResult(scenario, requests, Ending("duration", 10.0, machine=Machine(2, 0.4), apart=apart))
    warning = warned(result, "generator-late")
    assert warning.value == pytest.approx(0.02)
    assert "40.0 % of a processor" in warning.text
    assert advice in warning.advice


def test_workers_that_sent_nothing_are_named() -> None:
    """[97, 0, 0, 0]: three of four workers never had a turn."""
    result = made(TWO_THOUSAND[:97], stage=Stage(0.97, concurrency=4))
    ending = Ending("duration", 0.97, workers=(97, 0, 0, 0))
    starved = LoadTestResult(result.scenario, result.requests, ending)
    assert "3 of them sent nothing" in warned(starved, "workers-starved").text


@pytest.mark.parametrize("end", [{"count": 100}, {"stop_at": 5.0}, {"stop_at": 10.001}])
def test_workers_whose_turn_had_not_come_did_not_starve(end: dict[str, Any]) -> None:
    """49 of 50 workers begin at 10 s: of a test that ended before, or while they had their first answers to come, none is named."""
    stages = (Stage(10.0, concurrency=1), Stage(10.0, concurrency=50))
    early = played(sleeping, stages=stages, **end)
    assert early.ending.seconds == pytest.approx(end.get("stop_at", 1.0), abs=0.01)
    assert "workers-starved" not in kinds(early)
    requests = made([0.01] * 1000).requests
    blocked = Ending("stopped", 15.0, workers=(1000, *[0] * 49))
    starved = warned(LoadTestResult(Scenario("made", {}, stages), requests, blocked), "workers-starved")
    assert "of 50 only" in starved.text
    assert "49 of them sent nothing" in starved.text


@pytest.mark.parametrize(
    ("machine", "value", "text"),
    [
        (Machine(2, 0.1, 0.1, 0.5, 0.05, 0.0), 0.05, "5.0 % of the processors away"),
        (Machine(2, 0.1, 0.1, 0.5, 0.0, 0.3), 0.3, "other programs used 30.0 %"),
        (Machine(2, 0.1, 2.5, 0.5, 0.0, 0.0), 2.5, "load before was 2.5 for each"),
        (Machine(2, 0.1, 0.1, 0.99, 0.0, 0.0), 0.99, "99.0 % busy"),
    ],
)
def test_a_busy_machine_is_named(machine: Machine, value: float, text: str) -> None:
    """Steal, other programs, load, and no processor left: each is a number in the warning, whose value is the largest."""
    quiet = made(TWO_THOUSAND)
    busy = LoadTestResult(quiet.scenario, quiet.requests, Ending("duration", 20.0, machine=machine))
    warning = warned(busy, "machine-busy")
    assert text in warning.text
    assert warning.value == value
    assert "unless it is what is tested" in warning.advice
    idle = Ending("duration", 20.0, machine=Machine(2, 0.1, 0.1, 0.3, 0.0, 0.01))
    assert LoadTestResult(quiet.scenario, quiet.requests, idle).warnings == ()


def test_the_meter_sees_this_process_work() -> None:
    """A process that computes all the time uses about one processor of its own, and shares are shares."""
    meter, total = Meter(), 0
    for number in range(300_000):
        total += number
    machine = meter.read()
    assert machine.cpus >= 1
    assert 0 < machine.generator <= 1.1
    for share in (machine.busy, machine.steal, machine.others):
        assert share is None or 0 <= share <= 1


def test_work_of_the_home_process_and_its_tree_is_no_work_of_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 6 s that two processors worked, 2 s are those of the process that asked and 3 s its descendants': 1 s of 10 is left."""
    spent = {"ticks": machines._Ticks(100.0, 50.0, 0.0), "home": 7.0, "tree": 20.0}
    monkeypatch.setattr(machines, "_ticks", lambda: spent["ticks"])
    monkeypatch.setattr(machines, "cpu_time", lambda pid: spent["home"] if pid == 4242 else 0.0)
    monkeypatch.setattr(machines, "tree_cpu_time", lambda pid: spent["tree"] if pid == 4242 else 0.0)
    meter = Meter(4242)
    spent.update(ticks=machines._Ticks(110.0, 54.0, 0.0), home=9.0, tree=23.0)
    assert meter.read().others == pytest.approx(0.1)


@pytest.mark.parametrize(
    ("reason", "stage", "advice", "unfinished"),
    [
        ("stopped", Stage(20.0, rate=100.0), "run it to its end", "run it to its end"),
        ("aborted", Stage(20.0, rate=100.0), "mend the cause", "mend the cause"),
        ("duration", Stage(20.0, rate=100.0), "", "lower the rate, or give requests a timeout"),
        ("duration", Stage(20.0, concurrency=5), "", "give requests a timeout"),
    ],
)
def test_an_early_end_is_told_by_its_cause(reason: Any, stage: Stage, advice: str, unfinished: str) -> None:
    """Who stopped a test has nothing to mend; what it cut off calls for no lower rate, and a closed test has none."""
    requests = made(TWO_THOUSAND).requests
    requests.give_up(19.9, 20.0)
    result = LoadTestResult(Scenario("made", {}, (stage,)), requests, Ending(reason, 20.0))
    assert warned(result, "unfinished").advice.startswith(unfinished)
    assert (reason in kinds(result)) == bool(advice)
    if advice:
        assert advice in warned(result, reason).advice


def test_failures_are_a_warning_with_their_kinds() -> None:
    """5 % of failures: the latencies are of the others, and the warning says it."""
    result = made(TWO_THOUSAND)
    for number in range(105):
        result.requests.append(number / 10, number / 10, number / 10 + 9.0, None, "TransportError")
    warning = warned(result, "failures")
    assert warning.value == pytest.approx(0.05, abs=0.001)
    assert "TransportError 105" in warning.text
    assert result.responses.max() < 1


# what a closed test did not see


@pytest.mark.slow
def test_an_open_client_sees_the_stall_that_a_closed_test_hides() -> None:
    """1 ms of service, a stall of 1 s in 10 s: a closed worker's mean is 1.1 ms, an open client's 56 and its p95 550 ms.

    By hand: who comes at 100 a second, x seconds into the stall, waits 1 - x for its end and x / 10 for those before, 0.55 s
    in the mean of a tenth of all. Of 1,000 the 50 slowest came in the first half of the stall: p95 is 1 - 0.9 x 0.5.
    """

    async def stalls(number: int) -> int:
        now = asyncio.get_running_loop().time()
        await asyncio.sleep(0.001 + (6 - now if 5 <= now < 6 else 0.0))
        return number

    result = played(stalls, concurrency=1, duration=10.0)
    assert result.average_response_time == pytest.approx(0.0011, rel=0.1)
    gap, at = result.longest_gap
    assert gap == pytest.approx(1, rel=0.01)
    assert at == pytest.approx(5, rel=0.01)
    slow, middle, fast = result.open_clients
    assert middle.mean == pytest.approx(0.056, rel=0.03)
    assert middle.p95 == pytest.approx(0.55, rel=0.01)
    assert slow.mean == pytest.approx(0.05, rel=0.1)
    assert math.isnan(fast.mean)
    assert "would have seen a mean of 5" in str(result)
    table = result.table()["value"]
    for client in (slow, middle, fast):
        seen = "more than was answered" if client is fast else fmt.duration(client.mean)
        assert f"{seen} at {fmt.rate(client.rate)}" in str(result)
        assert table[f"an open client's mean at {fmt.rate(client.rate)} (assumed)"] == seen
        assert result._repr_html_().count(fmt.rate(client.rate)) >= 3
    assert "(assumed)" in str(result)
    assert played(sleeping, rate=10.0, duration=1.0).open_clients == ()


def test_the_longest_gap_is_one_that_was_measured() -> None:
    """Ends at 3, 4 and 4.5 s: the gap of 3 s is warm-up, and from its end at 2 s on the longest is 1.5 s, up to 6 s."""
    requests = Requests()
    for begin, end in ((0.0, 3.0), (3.0, 4.0), (4.0, 4.5)):
        requests.append(begin, begin, end, end - begin, warm=begin < 2)
    assert longest_gap(requests.columns(), 0.0, 6.0) == (3.0, 0.0)
    result = LoadTestResult(
        Scenario("s", {}, (Stage(6.0, concurrency=1),), warmup=2.0), requests, Ending("duration", 6.0)
    )
    assert result.longest_gap == (1.5, 4.5)
    early = LoadTestResult(result.scenario, Requests(), Ending("stopped", 1.0))
    assert early.longest_gap == (0.0, 2.0)


def test_an_open_client_by_hand() -> None:
    """Requests of 2 s begin at 0, 2 and 4; who comes at 1 takes the place of that of 2, who comes at 3 that of 4."""
    requests = Requests()
    for begin in (0.0, 2.0, 4.0):
        requests.append(begin, begin, begin + 2, 2.0)
    assert seen_by(0.5, requests.columns(), 0.0, 4.0).mean == pytest.approx(3)
    assert longest_gap(requests.columns(), 0.0, 6.0) == (2.0, 0.0)
    assert math.isnan(seen_by(2.0, requests.columns(), 0.0, 4.0).mean)
