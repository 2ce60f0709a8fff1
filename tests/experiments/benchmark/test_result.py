"""Facts about results: comparisons, words, frames, plots, JSON, and fresh processes."""

from __future__ import annotations

import json
import math
import os
import pickle
import subprocess
import sys
import threading
import time
from typing import Any

import numpy as np
import psutil
import pytest

from skilllab.errors import InvalidValueError, SkilllabError
from skilllab.experiments.benchmark import Arm, ArmTimes, BenchmarkResult, benchmark
from skilllab.experiments.benchmark.result import Design
from skilllab.stats import resampled_medians

from .machines import Machine, run

LOOKED_ONCE = Design(smallest_difference=0.01, confidence=0.95, looks=1)


def times(values: Any) -> ArmTimes:
    return ArmTimes(np.asarray(values, dtype=np.float64), 1, None, ((1, 2.0),))


def result_of(*runs: dict[str, Any], **design: Any) -> BenchmarkResult:
    """Returns a result of given seconds a round."""
    made = tuple({name: times(values) for name, values in run.items()} for run in runs)
    return BenchmarkResult(made, Design(0.01, 0.95, 1, **design), 1.0)


def with_slow(n: int, every: int, factor: float = 10.0) -> list[float]:
    return [factor if number % every == every - 1 else 1.0 for number in range(n)]


# --- verdicts


@pytest.mark.parametrize(
    ("b", "verdict", "tail"),
    [
        ([1.0] * 2000, "same", "same"),
        ([1.03] * 2000, "slower", "same"),
        ([0.5] * 2000, "faster", "same"),
        (with_slow(2000, 100), "slower", "slower"),
        (with_slow(2000, 300), "inconclusive", "inconclusive"),
        ([1.0] * 1000 + [1.03] * 1000, "inconclusive", "same"),
    ],
)
def test_the_verdict_is_the_typical_calls_and_the_same_only_with_the_same_tail(
    b: list[float], verdict: str, tail: str
) -> None:
    """A difference of the typical call decides; where there is none, the tail does."""
    found = result_of({"a": [1.0] * 2000, "b": b}).compare("a", "b")
    assert (found.verdict, found.tail.verdict) == (verdict, tail)


def test_words_do_not_hide_a_tail_that_differs() -> None:
    """Half the time with a slower tail is called faster, and its tail slower, in the finding and the table."""
    result = result_of({"a": [1.0] * 2000, "b": [value / 2 for value in with_slow(2000, 100)]})
    assert result.finding.endswith("(faster, but its tail slower)")
    assert result.table().loc["b", "verdict"] == "faster, but its tail slower"
    only_tail = result_of({"a": [1.0] * 2000, "b": with_slow(2000, 100)}).compare("a", "b")
    assert (only_tail.verdict, only_tail.told) == ("slower", "slower in its tail")
    assert str(only_tail).startswith("b takes 1× (1× to 1×) as long as a: same; tail of calls 1.58×")


def test_slow_calls_that_come_together_make_a_wide_p95() -> None:
    """The same times tell less of p95 in one row than scattered: its interval is wider, or there is none."""
    scattered = np.random.default_rng(0).exponential(size=4000)
    row = np.concatenate([np.sort(part) for part in np.split(scattered, 4)])
    ends = {
        name: result_of({"a": column}).frame().loc[0, ["p95_low", "p95_high"]]
        for name, column in (("scattered", scattered), ("row", row))
    }
    assert ends["scattered"].p95_high - ends["scattered"].p95_low < 1
    assert np.isnan(ends["row"].p95_low)


def test_one_call_in_a_hundred_at_ten_times_is_a_tail_of_1_58() -> None:
    """Gathered onto a twentieth of the calls, a hundredth at ten times makes 10^(1/5), for the slower and for the faster."""
    result = result_of({"a": [1.0] * 5000, "b": with_slow(5000, 100)})
    assert result.compare("a", "b").tail_ratio == pytest.approx(10**0.2)
    assert result.compare("b", "a").tail_ratio == pytest.approx(10**-0.2)
    assert (result.compare("a", "b").verdict, result.compare("b", "a").verdict) == ("slower", "faster")


def test_stalls_of_a_thousand_times_do_not_hide_the_tail() -> None:
    """Both arms stall a thousand times as long in the same few calls; that one has slow calls as well is still found."""
    stalls = np.where(np.arange(4000) % 250 == 0, 1000.0, 1.0)
    result = result_of({"a": stalls, "b": stalls * with_slow(4000, 100)})
    assert result.compare("a", "b").tail.verdict == "slower"


def test_twice_as_slow_everywhere_is_no_other_tail() -> None:
    """The tail is relative to the arm's own typical call."""
    slow = np.array(with_slow(4000, 50))
    found = result_of({"a": slow, "b": 2 * slow}).compare("a", "b")
    assert (found.verdict, found.tail_ratio, found.tail.verdict) == ("slower", 1.0, "same")


def test_too_few_calls_have_no_tail() -> None:
    """Below 1,500 calls a tail's interval is 0 to infinity, and equal arms are not called the same."""
    found = result_of({"a": [1.0] * 1499, "b": [1.0] * 1499}).compare("a", "b")
    assert (found.typical.verdict, found.verdict) == ("same", "inconclusive")
    assert (found.tail.low, found.tail.high) == (0.0, math.inf)
    assert "too few" in str(found)


@pytest.mark.slow
def test_seldom_slow_calls_of_few_are_never_the_same() -> None:
    """Of 400 seeded arms with a hundredth of their calls at ten times, with just enough calls, none is the same."""
    rng = np.random.default_rng(11)
    verdicts = [
        result_of({"a": np.ones(1500), "b": np.where(rng.random(1500) < 0.01, 10.0, 1.0)}).compare("a", "b").verdict
        for _ in range(400)
    ]
    assert "same" not in verdicts


def test_swapping_the_arms_swaps_the_verdict() -> None:
    """Which arm is called `a` does not matter: ratios are reciprocal."""
    rng = np.random.default_rng(5)
    result = result_of({"a": np.exp(rng.normal(0, 0.3, 3000)), "b": np.exp(rng.normal(0.1, 0.5, 3000))})
    there, back = result.compare("a", "b"), result.compare("b", "a")
    assert there.ratio == pytest.approx(1 / back.ratio)
    assert there.tail_ratio == pytest.approx(1 / back.tail_ratio)
    assert (there.verdict, back.verdict) == ("slower", "faster")


def test_medians_of_resamples_need_no_resamples() -> None:
    """Drawn by their place, medians of resamples have the quantiles that drawing the resamples gives, n odd and even."""
    rng = np.random.default_rng(0)
    for n in (31, 50):
        values = rng.exponential(size=n)
        drawn = np.median(values[rng.integers(0, n, (20_000, n))], axis=1)
        made = resampled_medians(values, 20_000, seed=1)
        qs = [0.025, 0.25, 0.5, 0.75, 0.975]
        assert np.quantile(made, qs) == pytest.approx(np.quantile(drawn, qs), rel=0.05)
        assert made.std() == pytest.approx(drawn.std(), rel=0.03)


# --- processes


def test_processes_that_disagree_are_inconclusive() -> None:
    """Three processes that are each sure of something else are no verdict; rounds of all of them together would be."""
    apart = [{"a": [1.0] * 500, "b": [ratio] * 500} for ratio in (0.95, 1.0, 1.0)]
    found = result_of(*apart).compare("a", "b")
    assert found.verdict == "inconclusive"
    assert (found.low, found.high) == (pytest.approx(0.95), pytest.approx(1.0))
    pooled = {name: np.concatenate([run[name] for run in apart]) for name in "ab"}
    assert result_of(pooled).compare("a", "b").typical.verdict == "same"


def test_many_processes_carry_the_interval() -> None:
    """Eight processes of which all say 5 % are slower, by an interval over processes."""
    ratios = (1.04, 1.045, 1.05, 1.05, 1.05, 1.055, 1.06, 1.05)
    found = result_of(*({"a": [1.0] * 9, "b": [ratio] * 9} for ratio in ratios)).compare("a", "b")
    assert (found.verdict, found.typical.rounds) == ("slower", 8)
    assert 1.03 < found.low < found.high < 1.07


def double(items: list[int]) -> list[int]:
    return [2 * item for item in items]


@pytest.mark.slow
def test_fresh_processes_run_what_travels() -> None:
    """Functions of this module, a lambda and a set-up travel to two fresh processes, none of which is this one."""
    pids = []

    def outside() -> None:
        assert os.getpid() != here

    here = os.getpid()
    arms = {"double": Arm(double, setup=lambda: [1, 2, 3]), "outside": outside}
    result = run(
        benchmark(arms, processes=2, iterations=10, budget=None, on_progress=lambda told: pids.append(told.rounds))
    )
    assert (len(result.runs), result.rounds, pids) == (2, 20, [1, 2])
    assert "Between processes the median goes from double" in str(result)
    assert str(BenchmarkResult.from_json(json.loads(json.dumps(result.to_json())))) == str(result)


class OwnError(Exception):
    """An error that only this module knows."""


@pytest.mark.slow
def test_an_error_in_a_fresh_process_comes_back() -> None:
    """An arm's error is raised here, as itself where it can travel, by its words where it cannot; a crash is named."""

    def missing() -> None:
        raise LookupError("no such thing")

    def own() -> None:
        raise OwnError("own words")

    with pytest.raises(LookupError, match="no such thing"):
        run(benchmark({"a": missing}, processes=1))
    with pytest.raises(SkilllabError, match="own words"):
        run(benchmark({"a": own}, processes=1))
    with pytest.raises(SkilllabError, match="exit code 3"):
        run(benchmark({"a": lambda: os._exit(3)}, processes=1))


KILLED = """
import asyncio, sys, time
from skilllab import benchmark

def hangs():
    time.sleep(60)

asyncio.run(benchmark({"hangs": hangs}, processes=1))
"""


@pytest.mark.slow
def test_a_fresh_process_ends_with_who_asked_for_it() -> None:
    """Whoever benchmarks is killed outright while an arm hangs: its process is gone soon."""
    with subprocess.Popen([sys.executable, "-c", KILLED]) as asking:
        try:
            process = psutil.Process(asking.pid)
            while not (started := [each for each in process.children() if len(each.cmdline()) > 3]):
                time.sleep(0.01)
            while not started[0].threads()[1:]:  # its watcher
                time.sleep(0.01)
        finally:
            asking.kill()
    _, alive = psutil.wait_procs(started, timeout=2.0)
    assert [each for each in alive if each.status() != psutil.STATUS_ZOMBIE] == []


def test_what_cannot_travel_is_refused() -> None:
    """A function that holds a lock cannot go to another process; the message says where to make it instead."""
    lock = threading.Lock()
    with pytest.raises(InvalidValueError, match=r"Arm\(setup"):
        run(benchmark({"a": lock.locked}, processes=2))


# --- words, frames, plots, JSON


@pytest.fixture(scope="module")
def measured() -> BenchmarkResult:
    machine = Machine(2)
    arms = {
        "cached": machine.arm(1e-6, 0.05),
        "uncached": machine.arm(5e-5, 0.05),
        "optimized": machine.arm(2e-5, 0.05),
    }
    result: BenchmarkResult = run(benchmark(arms, timer=machine, iterations=100, budget=None))
    return result


def test_words_tell_times_verdicts_and_conditions(measured: BenchmarkResult) -> None:
    """The paragraph has each arm's median, each comparison with the first arm, the rounds and the garbage collector."""
    said = str(measured)
    assert "uncached takes" in said
    assert "optimized takes" in said
    assert ": slower; tail of calls" in said
    assert "100 rounds" in said
    assert "garbage collector off inside samples" in said
    assert said.endswith(".")


def test_frame_has_every_statistic_with_its_interval(measured: BenchmarkResult) -> None:
    """One row an arm, in order, with intervals around average, median and p95, in seconds."""
    frame = measured.frame().set_index("arm")
    assert list(frame.index) == ["cached", "uncached", "optimized"]
    for name in ("average", "median", "p95"):
        assert (frame[f"{name}_low"] <= frame[name]).all()
        assert (frame[name] <= frame[f"{name}_high"]).all()
    assert (frame["min"] <= frame["median"]).all()
    assert (frame["p95"] <= frame["max"]).all()
    assert frame.loc["cached", "calls"] > 1


def test_metrics_are_what_a_history_keeps(measured: BenchmarkResult) -> None:
    """Median and p95 of every arm, with intervals."""
    metrics = measured.metrics()
    assert set(metrics) == {f"{name} {what}" for name in measured.names for what in ("median", "p95")}
    value, interval = metrics["uncached median"]
    assert interval is not None
    assert interval.low <= value <= interval.high


def test_plot_shows_every_arm_and_says_what_was_found(measured: BenchmarkResult) -> None:
    """The figure has a bar or dot for each arm, a title that is the finding, and the rounds on its axis."""
    from skilllab.plots import summary

    said = summary(measured.plot())
    assert "uncached takes" in said
    assert "median of 100 rounds" in said
    assert all(f"{name}: " in said for name in measured.names)


def test_html_holds_the_words_and_the_table(measured: BenchmarkResult) -> None:
    """A notebook shows the paragraph and a table with a verdict on each arm."""
    html = measured._repr_html_()
    assert "<table" in html
    assert "slower" in html


def test_json_and_pickle_keep_everything(measured: BenchmarkResult) -> None:
    """A result that went through JSON text or pickle says and compares the same."""
    for copy in (
        BenchmarkResult.from_json(json.loads(json.dumps(measured.to_json()))),
        pickle.loads(pickle.dumps(measured)),
    ):
        assert copy.to_json() == measured.to_json()
        assert copy.compare("cached", "uncached") == measured.compare("cached", "uncached")


@pytest.mark.parametrize("values", [{}, {"version": 99}, {"version": 1}, {"version": 1, "runs": 3, "design": {}}])
def test_other_json_is_refused(values: dict[str, Any]) -> None:
    """Missing parts and newer versions are refused with a typed error."""
    with pytest.raises(InvalidValueError):
        BenchmarkResult.from_json(values)


def test_an_unknown_arm_is_named(measured: BenchmarkResult) -> None:
    """Comparing with an arm that is none says which there are."""
    with pytest.raises(InvalidValueError, match="'cahced' is none of 'cached'"):
        measured.compare("cahced", "uncached")
