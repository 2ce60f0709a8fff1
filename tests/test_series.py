"""Intervals of values in the order of time: they hold for queues, where those for independent values do not."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest

from skilllab import series, stats
from skilllab.errors import InvalidValueError
from skilllab.stats import Array, Interval

QUEUES = [0.5, 0.6, 0.7, 0.8, 0.9]
Method = Callable[[Array, float], Interval | None]


def queue(utilisation: float, n: int, seed: int) -> Array:
    """Returns response times of an M/M/1 queue in a steady state, in means of the time between two arrivals.

    Lindley's recursion as a running minimum; the first 5,000 are left out.
    """
    random = np.random.default_rng([seed, round(100 * utilisation)])
    services, gaps = random.exponential(utilisation, n + 5000), random.exponential(1, n + 5000)
    walk = np.concatenate(([0.0], np.cumsum(services[:-1] - gaps[1:])))
    waits = walk - np.minimum.accumulate(walk)
    return np.asarray((waits + services)[5000:])


def coverage(method: Method, n: int, runs: int, utilisations: list[float]) -> dict[float, tuple[float, float]]:
    """Returns for each utilisation how often p95 has an interval, and how often that holds the truth or there is none."""
    found = {}
    for utilisation in utilisations:
        truth = utilisation * math.log(20) / (1 - utilisation)
        intervals = [method(queue(utilisation, n, seed), 0.95) for seed in range(runs)]
        right = [each is None or each.low <= truth <= each.high for each in intervals]
        given = [each is not None for each in intervals]
        found[utilisation] = float(np.mean(given)), float(np.mean(right))
    return found


@pytest.mark.slow
def test_intervals_of_queues_hold_the_truth() -> None:
    """(c) In 200 M/M/1 runs at .5 to .9, 95 % intervals of p95 hold the truth 90 % of the time, or say "too short".

    At .5 and .7 they nearly always say something.
    """
    found = coverage(series.quantile_interval, 12_000, 40, QUEUES)
    assert np.mean([right for _, right in found.values()]) >= 0.9
    assert min(right for _, right in found.values()) >= 0.85  # of 40: 34, when each is right in 93 % of all
    assert found[0.5][0] == 1
    assert found[0.7][0] >= 0.9
    assert found[0.9][0] <= 0.2


@pytest.mark.slow
def test_long_runs_have_intervals_at_every_utilisation() -> None:
    """With 60,000 arrivals nearly all have one at .5 to .8, and most at .9."""
    found = coverage(series.quantile_interval, 60_000, 8, [0.5, 0.7, 0.8, 0.9])
    assert [found[each][0] for each in (0.5, 0.7, 0.8)] == [1, 1, 1]
    assert found[0.9][0] >= 0.5


@pytest.mark.slow
def test_intervals_for_independent_values_fail_this_test() -> None:
    """(c) The same check finds out the order statistics of independent values: they hold the truth in less than half."""
    found = coverage(stats.quantile_interval, 12_000, 20, [0.5, 0.7, 0.9])
    assert [given for given, _ in found.values()] == [1, 1, 1]
    assert np.mean([right for _, right in found.values()]) < 0.5


def test_independent_values_have_the_intervals_of_independent_values() -> None:
    """Where nothing is correlated the interval is about as wide as the exact one, and the effective size is about n."""
    values = np.random.default_rng(1).exponential(size=5000)
    ours, exact = series.quantile_interval(values, 0.95), stats.quantile_interval(values, 0.95)
    assert ours is not None
    assert exact is not None
    assert ours.high - ours.low == pytest.approx(exact.high - exact.low, rel=0.3)
    assert series.effective_size(values) > 3000


def test_the_autocorrelation_time_of_a_known_process() -> None:
    """A first-order autoregression with coefficient 0.9 has (1 + 0.9) / (1 - 0.9) = 19."""
    random = np.random.default_rng(2)
    values = np.zeros(100_000)
    noise = random.normal(size=len(values))
    for place in range(1, len(values)):
        values[place] = 0.9 * values[place - 1] + noise[place]
    assert series.autocorrelation_time(values) == pytest.approx(19, rel=0.1)
    assert len(values) / series.effective_size(values) == pytest.approx(19, rel=0.4)


def test_a_stall_is_one_event_however_many_it_hits() -> None:
    """Three stalls of a hundred slow values each tell as much as a few dozen values: too few for p95."""
    values = np.full(3000, 0.001)
    for begin in (200, 1200, 2200):
        values[begin : begin + 100] = np.linspace(1, 0, 100)
    assert series.effective_size(values, 0.95) < 100
    assert series.quantile_interval(values, 0.95) is None
    assert stats.quantile_interval(values, 0.95) is not None


def test_too_few_values_have_no_interval() -> None:
    """p95 takes 144 effective values, p99 736, a mean 50."""
    values = np.random.default_rng(3).exponential(size=140)
    assert (series.enough(0.95), series.enough(0.99), series.enough(0.5)) == (144, 736, 50)
    assert series.quantile_interval(values, 0.95) is None
    assert series.mean_interval(values[:49]) is None
    assert series.mean_interval(values) is not None


def test_shares_of_failures() -> None:
    """None of 1,000 is between 0 and 0.4 %; a burst of 50 in 1,000 is one event and has no interval; spread out it has."""
    none = series.proportion_interval(np.zeros(1000, dtype=bool))
    assert none is not None
    assert none.low == 0
    assert none.high == pytest.approx(0.0039, abs=2e-4)
    burst = np.zeros(1000, dtype=bool)
    burst[400:450] = True
    assert series.proportion_interval(burst) is None
    spread = series.proportion_interval(np.random.default_rng(0).permutation(burst))
    assert spread is not None
    assert spread.low < 0.05 < spread.high
    every = series.proportion_interval(np.ones(1000, dtype=bool))
    assert every is not None
    assert every.high == 1


def test_values_all_alike_are_known_exactly() -> None:
    """A constant has an interval without width, whatever rounding makes of its variance."""
    for value in (0.0, 0.1, 1e6 + 0.1):
        interval = series.quantile_interval(np.full(500, value), 0.95)
        assert interval == Interval(value, value, 0.95)
        mean = series.mean_interval(np.full(500, value))
        assert mean is not None
        assert mean.low == pytest.approx(value)


@pytest.mark.parametrize("values", [[], [1.0, math.nan], [[1.0]], [math.inf]])
def test_what_is_no_series_is_refused(values: list[float]) -> None:
    """Missing values have no place in time."""
    with pytest.raises(InvalidValueError, match="column of finite numbers"):
        series.mean_interval(values)


def test_a_confidence_without_a_meaning_is_refused() -> None:
    """95 is no share."""
    with pytest.raises(InvalidValueError, match="confidence"):
        series.mean_interval(np.random.default_rng(0).normal(size=100), 95)
