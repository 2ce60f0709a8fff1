"""find_capacity: intervals that hold the true capacity of queues with a known one, and what it says when it cannot tell."""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from skilllab.define import skill
from skilllab.engine import GuardOptions, LayeredExecutionEngine
from skilllab.errors import InvalidValueError
from skilllab.experiments.failures.virtual import in_virtual_time
from skilllab.experiments.loadtest import edge as edges
from skilllab.experiments.loadtest.capacity import CapacityResult, find_capacity
from skilllab.experiments.loadtest.search import Observation, Probe, Search
from skilllab.experiments.loadtest.slo import parse_slo
from skilllab.plots import summary
from skilllab.registry import InMemorySkillRegistry
from skilllab.stats import Interval
from tests.experiments.loadtest import queues
from tests.experiments.loadtest.conftest import Loaded

CASES = [(1, 0.5), (1, 0.8), (1, 0.9), (2, 0.8), (4, 0.9), (4, 0.6)]
"""Servers, and the utilisation at which the p95 is at its bound; with the last, most of the 5 % are there without load."""


def explored(target: Callable[[float, float], Observation], slo: str, budget: float, start: float = 10.0) -> Search:
    search = Search(parse_slo(slo), budget=budget, start=start)
    while (plan := search.next()) is not None:
        search.add(*plan, target(*plan))
    return search


# honesty


@pytest.mark.slow
def test_the_interval_holds_the_true_capacity() -> None:
    """In at least nine of ten seeded M/M/c runs; where most requests in a run is enough, it is narrow."""
    runs = [(case, *queues.found(*case, 40_000, seed)) for seed in range(5) for case in CASES]
    inside = [queues.holds(finding, truth) for _, finding, truth in runs]
    widths = [
        finding.high / finding.low - 1 if finding.low else math.inf for case, finding, _ in runs if case != CASES[-1]
    ]
    assert sum(inside) >= 0.9 * len(inside)
    assert np.median(widths) < 0.2


@pytest.mark.slow
def test_intervals_of_independent_requests_would_not(monkeypatch: pytest.MonkeyPatch) -> None:
    """The test above fails when requests of a probe count as independent: the same intervals hold half of the truths."""
    honest = edges._fit

    def naive(*given: Any) -> Any:
        fit = honest(*given)
        least = given[-1]
        return edges._Fitted(fit.base, fit.line, fit.covariance * least / fit.dispersion, fit.deviance, least)

    monkeypatch.setattr(edges, "_fit", naive)
    monkeypatch.setattr(Search, "_unseen", lambda self: 0.0)
    runs = [queues.found(1, 0.9, 40_000, seed) for seed in range(12)]
    assert sum(queues.holds(*run) for run in runs) < 0.9 * len(runs)


def test_the_formula_is_that_of_the_queue() -> None:
    """The truth that runs are held against: M/M/1 by its closed form, four servers by a long simulation."""
    assert queues.over(0.9, 1, 30.0) == pytest.approx(math.exp(-0.1 * 30.0))
    assert queues.bound_at(0.5, 1) == pytest.approx(math.log(20) / 0.5)
    seen = queues.Queue(4, 1).probe(3.2, 60_000.0)
    late = seen.response[seen.intended > 1000.0] > 5.0
    assert late.mean() == pytest.approx(queues.over(3.2, 4, 5.0), rel=0.06)


# targets with an edge that is known exactly


def fixed(rate: float, seconds: float, service: float = 0.01) -> Observation:
    """One at a time, each as long as the other, at even distances: it breaks at 100 a second, at once."""
    intended = np.arange(max(1, int(rate * seconds))) / rate
    worked = service * np.arange(1, len(intended) + 1)
    end = worked + np.maximum.accumulate(intended - (worked - service))
    return Observation(intended, end - intended, max(seconds, float(end[-1])))


def limited(rate: float, seconds: float) -> Observation:
    """A server that refuses what exceeds 100 a second; the rest takes a millisecond."""
    intended = np.arange(max(1, int(rate * seconds))) / rate
    refused = np.floor(np.arange(len(intended)) * max(0.0, 1 - 100 / rate)).astype(int)
    fails = np.diff(refused, prepend=0) > 0
    return Observation(intended, np.where(fails, np.inf, 0.001), seconds)


def test_a_sharp_edge_is_found_from_both_sides() -> None:
    """A step is between the last that held and the first that broke, and probes close in on it from both sides."""
    search = explored(fixed, "p95 < 50 ms", 120.0, start=50.0)
    found = search.finding()
    assert found.low <= 100.0 <= found.high
    assert found.high / found.low < 1.15
    near = [probe for probe in search.probes if probe.phase == "edge" and 90 < probe.rate < 111]
    assert {probe.holds for probe in near} == {True, False}


def test_a_rate_limit_is_found_by_its_errors() -> None:
    """errors < 1 % breaks at 101 a second, where one in a hundred is refused."""
    found = explored(limited, "errors < 1 %", 60.0).finding()
    assert found.low <= 100 / 0.99 <= found.high
    assert found.high / found.low < 1.1


def test_the_condition_that_breaks_first_decides() -> None:
    """With two conditions the capacity is the lower one of theirs."""
    found = explored(limited, "p95 < 50 ms and errors < 20 %", 60.0).finding()
    tail_alone = explored(limited, "p95 < 50 ms", 60.0).finding()
    assert found.low <= 100 / 0.95 <= found.high < 100 / 0.8
    assert tail_alone.low <= 100 / 0.95 <= tail_alone.high


def test_a_mean_has_an_edge_too() -> None:
    """The mean response of M/M/1 is 1 / (1 - rate): below 5 s up to 0.8."""
    queue = queues.Queue(1, 3)
    found = explored(queue.probe, "mean < 5 s", 40_000.0, start=0.1).finding()
    assert found.low <= 0.8 <= found.high
    assert found.high / found.low < 1.3


def test_probes_get_longer_and_their_time_is_kept_to() -> None:
    """At the edge each round's probes are longer than those before, and all together take what was given."""
    search = explored(fixed, "p95 < 50 ms", 120.0)
    lengths = [probe.seconds for probe in search.probes if probe.phase == "edge"]
    assert lengths == sorted(lengths)
    assert lengths[-1] > lengths[0]
    assert 0.6 * 120.0 < search.used < 1.1 * 120.0


def test_an_empty_probe_is_broken() -> None:
    """Where nothing was answered at all nothing holds: an aborted probe does not count as a good one."""
    nothing = Observation(np.array([]), np.array([]), 1.0)
    for slo in ("p95 < 50 ms", "errors < 1 %", "mean < 1 s"):
        assert not Search(parse_slo(slo), budget=10.0, start=1.0).add(5.0, 1.0, nothing).holds


# when the time is too short


def test_too_short_says_which_time_would_do() -> None:
    """With time for a few requests the interval is too wide, and says so; the time that it names is enough."""
    short, truth = queues.found(1, 0.8, 20_000, 1)
    assert short.needed is not None
    assert short.needed * truth > 20_000
    assert not short.at_least
    narrow, _ = queues.found(1, 0.8, short.needed * truth, 1)
    assert narrow.needed is None
    assert narrow.high / narrow.low <= 1.1


def test_what_cannot_be_told_is_a_lower_bound() -> None:
    """Where there is no interval yet, or one sixteen times too wide, the time is said to be the least that it takes."""
    wide, _ = queues.found(1, 0.8, 300, 1)
    assert wide.at_least
    assert "at least duration=62, and maybe much more" in str(result_of(low=0.0, needed=61.5, at_least=True))
    assert "with duration=62 or more" in str(result_of(low=50.0, needed=61.5))


def result_of(**changes: Any) -> CapacityResult:
    """Returns a result of two probes that did not suffice."""
    probes = tuple(
        Probe(rate, 5.0, 5.0, 300, (late,), (late,), True, False, "edge", late)
        for rate, late in ((80.0, 0.0), (90.0, 0.2))
    )
    first = {"slo": "p95 < 50 ms", "low": 50.0, "high": 100.0, "at": 80.0, "needed": None, "precision": 0.1}
    return CapacityResult(**{**first, "seconds": 10.0, "probes": probes, "scenario": {"where": "here"}, **changes})


def test_a_late_generator_is_advised_by_where_it_runs() -> None:
    """A process of its own is advised to whoever has none yet; without a latency bound, late is 10 ms."""
    here, apart = result_of(), result_of(scenario={"where": "process"})
    assert "late by 25 ms or more in up to 20.0 % of a probe's requests" in str(here)
    assert 'use where="process"' in str(here)
    assert "where=" not in str(apart)
    assert "end what else runs here" in str(apart)
    assert "late by 10 ms or more in up to" in str(result_of(slo="errors < 1 %"))


def good(rate: float, seconds: float, lag: float = 0.0) -> Observation:
    """Answers everything in 20 ms; the generator is late."""
    intended = np.arange(max(1, int(rate * seconds))) / rate
    return Observation(intended, np.full(len(intended), 0.02 + lag), seconds, np.full(len(intended), lag))


def test_a_target_that_never_fails_has_no_edge_of_errors() -> None:
    """The search ends at a rate that no generator reaches, after probes of half a second, and says so."""
    search = explored(good, "errors < 1 %", 60.0, start=2500.0)
    found = search.finding()
    assert [probe.rate for probe in search.probes] == [2500.0 * 2**number for number in range(6)]
    assert min(probe.seconds for probe in search.probes) == 0.5
    assert (found.low, found.high, found.needed) == (80_000.0, math.inf, math.inf)
    result = result_of(
        slo="errors < 1 %", high=found.high, low=found.low, needed=found.needed, probes=tuple(search.probes)
    )
    assert "holds up to at least 80,000 /s; where it breaks is not known" in str(result)
    assert "no generator here sends twice that" in str(result)
    assert "duration=" not in str(result)
    assert CapacityResult.from_json(json.loads(json.dumps(result.to_json(), allow_nan=False))) == result


def test_a_generator_that_cannot_keep_up_ends_the_search() -> None:
    """From 10,000 a second on everything is 20 ms late: what holds is the rate below, and why is said."""

    def target(rate: float, seconds: float) -> Observation:
        return good(rate, seconds, 0.02 if rate > 9000 else 0.0)

    search = explored(target, "errors < 1 %", 60.0, start=2500.0)
    found = search.finding()
    assert (found.low, found.high, found.needed, len(search.probes)) == (5000.0, math.inf, math.inf, 3)
    result = result_of(
        slo="errors < 1 %", high=found.high, low=found.low, needed=found.needed, probes=tuple(search.probes)
    )
    assert "could not keep up with 10,000 /s, where 100.0 % of its requests were late by 10 ms" in str(result)


def test_an_edge_out_of_reach_is_open() -> None:
    """A target that always holds has no upper end, one that never does no lower."""
    good = explored(lambda rate, seconds: fixed(rate, seconds, 1e-7), "p95 < 50 ms", 20.0).finding()
    assert (good.low > 100, good.high, good.needed is not None) == (True, math.inf, True)
    bad = explored(lambda rate, seconds: fixed(rate, seconds, 1.0), "p95 < 50 ms", 200.0).finding()
    assert (bad.low, bad.needed is not None) == (0.0, True)
    assert bad.high <= 10.0


# with an engine


def capacity_of(function: Callable[..., Any], *, places: int | None = None, **options: Any) -> CapacityResult:
    """Returns what find_capacity says of a function on a virtual clock; places: calls that run at once."""

    async def main() -> CapacityResult:
        loop = asyncio.get_running_loop()
        target = Loaded(skill(id="target", max_concurrency=places)(function).definition)
        guards = GuardOptions(breaker_failures=None)
        async with LayeredExecutionEngine(target, clock=loop.time, wall_clock=loop.time, guards=guards) as engine:
            return await find_capacity(engine, "target", {"number": 1}, **options)

    return in_virtual_time(main)


async def serving(number: int) -> int:
    """Takes 20 ms."""
    await asyncio.sleep(0.02)
    return number


async def refusing(number: int) -> int:
    """Always fails."""
    raise ValueError(number)


@pytest.mark.slow
def test_the_capacity_of_a_skill() -> None:
    """Two places of 20 ms each are an M/D/2 queue: a simulation of 10^6 requests has its p95 at 100 ms at 83.2 a second."""
    result = capacity_of(serving, places=2, slo="p95 < 100 ms and errors < 1 %", duration=90.0, seed=4)
    assert result.low <= 83.2 <= result.high < 1.5 * result.low
    assert result.probes[0].phase == "alone"
    assert result.probes[0].rate == pytest.approx(50.0, rel=0.05)
    for probe in result.probes[1:]:
        assert probe.elapsed >= probe.seconds
    frame = result.frame()
    assert list(frame)[4:6] == ["p95 < 100 ms", "errors < 1 %"]
    assert len(frame) == len(result.probes)
    assert str(result).startswith("p95 < 100 ms and errors < 1 % holds up to ")
    text = summary(result.plot())
    assert "holds up to" in text
    assert "holds: " in text
    assert "broken: " in text
    again = CapacityResult.from_json(json.loads(json.dumps(result.to_json())))
    at, interval = again.metrics()["capacity"]
    assert (at, interval) == (result.at, Interval(result.low, result.high, 0.95))
    assert again == result
    assert "<table" in result._repr_html_()


def test_a_skill_that_always_fails_has_no_capacity() -> None:
    """Nothing is searched where one request at a time breaks the SLO already, and the answer says what it met."""
    result = capacity_of(refusing, slo="p95 < 50 ms and errors < 1 %", duration=30.0)
    assert (result.low, result.high, len(result.probes)) == (0.0, 0.0, 1)
    assert "holds at no rate" in str(result)
    assert "errors is 100 %" in str(result)
    assert "p95 is without end" in str(result)
    assert math.isnan(result.frame()["p95 < 50 ms"].iloc[0])  # 20 requests are too few for a p95
    slow = capacity_of(serving, slo="p95 < 10 ms", duration=30.0)
    assert "with one request at a time 100 % of the responses miss < 10 ms" in str(slow)
    values = json.loads(json.dumps(result.to_json()))
    assert CapacityResult.from_json(values).probes[0].values == (math.inf, 1.0)


async def stopped(after: float, told: Callable[[Probe], None] | None = None) -> CapacityResult:
    """Returns what a search finds that is stopped so many seconds after its begin and after every probe."""
    loop, stop = asyncio.get_running_loop(), asyncio.Event()
    target = Loaded(skill(id="target")(serving).definition)

    def probed(probe: Probe) -> None:
        if told is not None:
            told(probe)
        loop.call_later(0.1, stop.set)

    loop.call_later(after, stop.set)
    async with LayeredExecutionEngine(target, clock=loop.time, wall_clock=loop.time) as engine:
        return await find_capacity(
            engine, "target", {"number": 1}, slo="p95 < 50 ms", duration=60.0, on_probe=probed, stop=stop
        )


def test_a_stop_ends_the_search() -> None:
    """What was found until then is returned and said to be stopped; a probe cut short counts for nothing."""
    seen: list[Probe] = []
    result = in_virtual_time(lambda: stopped(50.0, seen.append))
    assert (len(result.probes), result.stopped) == (2, True)
    assert list(result.probes[1:]) == seen
    assert "The search was stopped after" in str(result)
    assert CapacityResult.from_json(json.loads(json.dumps(result.to_json()))) == result


@pytest.mark.parametrize("after", [0.0, 0.015])
def test_a_stop_before_the_first_probe_says_nothing_of_the_target(after: float) -> None:
    """Requests one at a time that were cut short do not count as failed."""
    result = in_virtual_time(lambda: stopped(after))
    assert (result.low, result.high, result.probes, result.stopped) == (0.0, math.inf, (), True)
    assert "nothing is known about its highest rate yet (0 probes" in str(result)


@pytest.mark.slow
def test_in_a_process_of_its_own() -> None:
    """A child sends the probes; the skill's own limit of one at a time, 5 ms each, holds there as well."""

    async def serving(number: int) -> int:
        await asyncio.sleep(0.005)
        return number

    async def main() -> CapacityResult:
        registry = InMemorySkillRegistry()
        await registry.register(skill(id="target", max_concurrency=1)(serving).definition)
        async with LayeredExecutionEngine(registry) as engine:
            return await find_capacity(
                engine, "target", {"number": 1}, slo="p95 < 50 ms", duration=3.0, where="process"
            )

    result = asyncio.run(main())
    assert result.probes[0].phase == "alone"
    assert result.probes[0].rate < 200.0
    assert {probe.holds for probe in result.probes} == {True, False}
    assert result.scenario["where"] == "process"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"slo": "p95 < 50 mz"}, "character 10"),
        ({"slo": "p95 > 50 ms"}, "no highest rate"),
        ({"slo": "rate > 50 /s"}, "no highest rate"),
        ({"slo": "max < 1 s"}, "no highest rate"),
        ({"slo": "errors <= 0 %"}, "can never be shown"),
        ({"slo": "p95 < 1 s", "duration": 0.0}, "duration"),
        ({"slo": "p95 < 1 s", "duration": math.nan}, "duration"),
        ({"slo": "p95 < 1 s", "start": -1.0}, "start"),
        ({"slo": "p95 < 1 s", "precision": 0.0}, "precision"),
        ({"slo": "p95 < 1 s", "where": "moon"}, "where"),
    ],
)
def test_bad_input_is_refused_before_anything_starts(options: dict[str, Any], message: str) -> None:
    """An SLO without a capacity, and numbers without a meaning, are refused with their value."""
    with pytest.raises(InvalidValueError, match=message):
        capacity_of(serving, **options)


@pytest.mark.parametrize("values", [{}, {"version": 2}, {"version": 1}, {"version": 1, "slo": 3}])
def test_other_json_is_refused(values: dict[str, Any]) -> None:
    """What is no capacity raises InvalidValueError."""
    with pytest.raises(InvalidValueError):
        CapacityResult.from_json(values)
