"""Facts about quantiles, intervals and fair comparisons."""

from __future__ import annotations

import gc
import math
from collections.abc import Callable
from fractions import Fraction
from itertools import accumulate

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from skilllab import stats
from skilllab.errors import InvalidValueError

_FINITE = st.floats(-1e6, 1e6)
_BAD_COLUMNS = [[], [1.0, math.nan], [math.inf], [[1.0, 2.0]], 3.0, "p95", None, [1, "x"], iter([1.0])]


class Clock:
    """A timer that moves only when told to."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now

    def work(self, seconds: float) -> Callable[[], None]:
        def arm() -> None:
            self.now += seconds

        return arm


# --- quantiles


@given(st.lists(_FINITE, min_size=1, max_size=50), st.floats(0, 1))
def test_quantile_is_type_7(values: list[float], q: float) -> None:
    """A quantile lies between two neighbouring order statistics as Hyndman and Fan's type 7 says, computed exactly."""
    ordered = [Fraction(value) for value in sorted(values)]
    place = Fraction(q) * (len(values) - 1)
    below = math.floor(place)
    above = min(below + 1, len(values) - 1)
    exact = ordered[below] + (place - below) * (ordered[above] - ordered[below])
    assert stats.quantile(values, q) == pytest.approx(float(exact), rel=1e-9, abs=1e-6)


@given(st.lists(_FINITE, min_size=1, max_size=50), st.lists(st.floats(0, 1), min_size=1, max_size=5))
def test_quantiles_agree_with_numpy_and_pandas(values: list[float], qs: list[float]) -> None:
    """The definition is the default of numpy and of pandas, for one quantile and for many."""
    assert stats.quantiles(values, qs) == pytest.approx(np.quantile(values, qs))
    assert stats.quantile(pd.Series(values), qs[0]) == pytest.approx(pd.Series(values).quantile(qs[0]))


@pytest.mark.parametrize("values", _BAD_COLUMNS)
def test_quantile_refuses_what_has_no_quantile(values: object) -> None:
    """Nothing, NaN, infinity, a table, a single number, a text and an iterator are refused."""
    with pytest.raises(InvalidValueError):
        stats.quantile(values, 0.5)  # type: ignore[arg-type]


@pytest.mark.parametrize("q", [-0.01, 1.01, 95, math.nan])
def test_quantile_refuses_q_outside_of_0_to_1(q: float) -> None:
    """A percentile written as 95 is an error, not a number."""
    with pytest.raises(InvalidValueError):
        stats.quantile([1.0, 2.0], q)


# --- intervals of quantiles


def _exact_ranks(n: int, twentieths: int, percent: int) -> tuple[int, int] | None:
    """The ranks of the interval by whole numbers alone, in units of 1 / 20^n: the oracle."""
    chances = [math.comb(n, k) * twentieths**k * (20 - twentieths) ** (n - k) for k in range(n + 1)]
    below = [0, *accumulate(chances)]  # below[r]: fewer than r values lie below the quantile
    tail = Fraction(100 - percent, 200) * 20**n
    low = max((rank for rank in range(1, n + 1) if below[rank] <= tail), default=None)
    high = min((rank for rank in range(1, n + 1) if 20**n - below[rank] <= tail), default=None)
    return None if low is None or high is None else (low, high)


@settings(max_examples=60)
@given(st.integers(1, 120), st.integers(1, 19), st.sampled_from([80, 90, 95, 99]))
def test_quantile_interval_agrees_with_exact_binomial_sums(n: int, twentieths: int, percent: int) -> None:
    """The two ranks are the tightest whose binomial tails are small enough, and None means that there are none."""
    found = stats.quantile_interval(range(1, n + 1), twentieths / 20, percent / 100)
    ranks = None if found is None else (found.low, found.high)
    assert ranks == _exact_ranks(n, twentieths, percent)


def test_quantile_interval_covers_p95() -> None:
    """Of 400 seeded samples of 400 exponential values, at least 92 % have an interval that holds the true p95."""
    samples = np.random.default_rng(20).exponential(size=(400, 400))
    truth = -math.log(0.05)
    found = [stats.quantile_interval(sample, 0.95) for sample in samples]
    covered = np.mean([interval is not None and interval.low <= truth <= interval.high for interval in found])
    assert 0.92 <= covered <= 0.99


def test_quantile_interval_stays_exact_for_many_values() -> None:
    """A million values need only the counts that matter, and the interval is as narrow as the normal law says."""
    n, q = 1_000_000, 0.99
    found = stats.quantile_interval(np.arange(n), q)
    assert found is not None
    half = 1.96 * math.sqrt(n * q * (1 - q))
    assert found.low == pytest.approx(n * q - half, abs=3)
    assert found.high == pytest.approx(n * q + half, abs=3)


@given(st.floats(0.001, 0.999), st.sampled_from([0.8, 0.95, 0.99]))
def test_smallest_n_is_where_intervals_begin(q: float, confidence: float) -> None:
    """With `smallest_n` values there is an interval, with one fewer there is none."""
    n = stats.smallest_n(q, confidence)
    assert stats.quantile_interval(np.arange(n), q, confidence) is not None
    assert n == 1 or stats.quantile_interval(np.arange(n - 1), q, confidence) is None


def test_smallest_n_of_known_percentiles() -> None:
    """The median takes 6 values, p95 takes 72, p99 takes 368, p99.9 takes 3,688."""
    assert [stats.smallest_n(q) for q in (0.5, 0.95, 0.99, 0.999)] == [6, 72, 368, 3688]


@given(st.integers(6, 100_000))
def test_finest_quantile_is_the_inverse_of_smallest_n(n: int) -> None:
    """The finest quantile of n values has an interval, and a finer one has none."""
    finest = stats.finest_quantile(n)
    assert stats.smallest_n(finest) == n
    assert stats.smallest_n(1 - (1 - finest) * 0.9) > n


@pytest.mark.parametrize("q", [0, 1, -1, 2, math.nan])
def test_quantile_interval_refuses_the_extremes(q: float) -> None:
    """The minimum and the maximum have no interval that assumes no distribution."""
    with pytest.raises(InvalidValueError):
        stats.quantile_interval(range(100), q)
    with pytest.raises(InvalidValueError):
        stats.smallest_n(q)


@pytest.mark.parametrize("confidence", [0, 1, 95, math.nan])
def test_confidence_is_a_share(confidence: float) -> None:
    """A confidence of 95 is refused by every interval, and so is a certain one."""
    for attempt in (
        lambda: stats.quantile_interval(range(100), 0.5, confidence),
        lambda: stats.mean_interval(range(100), confidence),
        lambda: stats.proportion_interval(1, 2, confidence),
        lambda: stats.paired_bootstrap(range(1, 9), range(1, 9), confidence=confidence),
        lambda: stats.smallest_n(0.5, confidence),
        lambda: stats.finest_quantile(100, confidence),
    ):
        with pytest.raises(InvalidValueError):
            attempt()


def test_finest_quantile_refuses_no_values() -> None:
    """No values have no quantile at all."""
    with pytest.raises(InvalidValueError):
        stats.finest_quantile(0)


# --- intervals of means and shares


def test_mean_interval_covers_a_skewed_mean() -> None:
    """Of 300 seeded samples of 20 exponential values at least 92 % have an interval that holds the true mean."""
    samples = np.random.default_rng(4).exponential(size=(300, 20))
    found = [stats.mean_interval(sample, resamples=500) for sample in samples]
    covered = np.mean([interval is not None and interval.low <= 1.0 <= interval.high for interval in found])
    assert 0.92 <= covered <= 0.99


def test_mean_interval_of_a_bimodal_column_lies_between_the_modes() -> None:
    """Half fast and half slow values give an interval around their mean, which no value has."""
    found = stats.mean_interval([1.0] * 50 + [9.0] * 50)
    assert found is not None
    assert 3.5 < found.low < 5.0 < found.high < 6.5


def test_mean_interval_says_when_it_cannot_know() -> None:
    """One value, two values and a single stall among equal values carry no interval; equal values carry a point."""
    assert stats.mean_interval([3.0]) is None
    assert stats.mean_interval([3.0, 4.0]) is None
    assert stats.mean_interval([1.0] * 99 + [1000.0]) is None
    assert stats.mean_interval([0.1] * 10) == stats.Interval(0.1, 0.1, 0.95)


def test_mean_interval_is_seeded_and_the_same_in_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same seed gives the same interval, another seed another, and the chunks of the work do not matter."""
    values = np.random.default_rng(1).exponential(size=30)
    whole = stats.mean_interval(values, seed=7)
    assert whole == stats.mean_interval(values, seed=7)
    assert whole != stats.mean_interval(values, seed=8)
    monkeypatch.setattr(stats, "_CHUNK", 100)
    assert whole == stats.mean_interval(values, seed=7)


def test_bootstrap_refuses_no_resamples() -> None:
    """An interval from no resamples does not exist."""
    with pytest.raises(InvalidValueError):
        stats.mean_interval([1.0, 2.0, 3.0], resamples=0)


def test_proportion_interval_is_wilsons() -> None:
    """45 of 50 give 78.6 to 95.7 %: the roots of (p - share)² = z² p (1 - p) / n."""
    found = stats.proportion_interval(45, 50)
    for end in (found.low, found.high):
        assert (end - 0.9) ** 2 == pytest.approx(1.959964**2 * end * (1 - end) / 50, rel=1e-5)
    assert (round(found.low, 3), round(found.high, 3)) == (0.786, 0.957)


@given(st.integers(1, 10_000), st.data())
def test_proportion_interval_holds_the_share(trials: int, data: st.DataObject) -> None:
    """The interval holds the share, stays within 0 and 1, and is never a point."""
    successes = data.draw(st.integers(0, trials))
    found = stats.proportion_interval(successes, trials)
    assert 0 <= found.low <= successes / trials <= found.high <= 1
    assert found.low < found.high


@pytest.mark.parametrize(("successes", "trials"), [(0, 0), (-1, 5), (6, 5)])
def test_proportion_interval_refuses_impossible_counts(successes: int, trials: int) -> None:
    """No trials, a negative count and more successes than trials are refused."""
    with pytest.raises(InvalidValueError):
        stats.proportion_interval(successes, trials)


# --- comparisons


def _noisy(rng: np.random.Generator, rounds: int, spread: float = 0.03) -> np.ndarray:
    """Seconds a call with noise and a stall in every twentieth round, as on a shared machine."""
    return 1e-3 * np.exp(rng.normal(0, spread, rounds)) * np.where(rng.random(rounds) < 0.05, 3.0, 1.0)


def test_self_comparisons_raise_no_alarm() -> None:
    """Of 200 seeded comparisons of a function with itself, none ends as faster or slower, with many rounds or few."""
    rng = np.random.default_rng(3)
    verdicts = [
        stats.paired_bootstrap(_noisy(rng, rounds), _noisy(rng, rounds), resamples=400, seed=seed).verdict
        for seed in range(100)
        for rounds in (8, 100)
    ]
    assert not {"faster", "slower"} & set(verdicts)


def test_a_real_difference_is_found() -> None:
    """Of 50 seeded comparisons over 200 noisy rounds, every real 5 % is found, with the right sign and size."""
    rng = np.random.default_rng(5)
    found = [
        stats.paired_bootstrap(_noisy(rng, 200), 1.05 * _noisy(rng, 200), resamples=400, seed=seed)
        for seed in range(50)
    ]
    assert [one.verdict for one in found] == ["slower"] * 50
    assert np.mean([one.low <= 1.05 <= one.high for one in found]) >= 0.92


def test_comparison_intervals_cover_with_few_rounds() -> None:
    """Of 300 seeded comparisons over 12 rounds, at least 94 % have an interval that holds the true ratio."""
    rng = np.random.default_rng(6)
    found = [
        stats.paired_bootstrap(np.ones(12), 1.2 * np.exp(rng.normal(0, 0.1, 12)), resamples=300, seed=seed)
        for seed in range(300)
    ]
    assert np.mean([one.low <= 1.2 <= one.high for one in found]) >= 0.94


def test_comparison_pairs_the_rounds() -> None:
    """Noise that both arms share in a round cancels: a drift of 100 times hides no 3 %."""
    drift = np.geomspace(1e-3, 1e-1, 50)
    noise = np.exp(np.random.default_rng(0).normal(0, 0.005, 50))
    assert stats.paired_bootstrap(drift, 0.97 * drift * noise).verdict == "faster"


@pytest.mark.parametrize(
    ("ratio", "verdict"), [(1.0, "same"), (1.005, "same"), (0.995, "same"), (1.02, "slower"), (0.98, "faster")]
)
def test_verdict_of_constant_times(ratio: float, verdict: str) -> None:
    """Constant times give an interval without width, and the smallest difference that matters decides."""
    found = stats.paired_bootstrap([1.0] * 10, [ratio] * 10)
    assert (found.verdict, found.rounds) == (verdict, 10)
    assert found.low == found.high == pytest.approx(ratio)


def test_verdict_of_an_interval_across_the_margin_is_inconclusive() -> None:
    """A typical round between the two margins, or noise wider than them, is not called."""
    half = [1.0, 1.02] * 10
    assert stats.paired_bootstrap([1.0] * 20, half).verdict == "inconclusive"
    assert stats.paired_bootstrap([1.0] * 20, [0.9, 1.1] * 10).verdict == "inconclusive"


def test_five_rounds_say_nothing() -> None:
    """Below six rounds the interval is 0 to infinity, however large the difference looks."""
    found = stats.paired_bootstrap([1.0] * 5, [2.0] * 5)
    assert (found.low, found.high, found.verdict) == (0.0, math.inf, "inconclusive")
    assert found.ratio == pytest.approx(2.0)


def test_one_stalled_round_does_not_move_the_verdict() -> None:
    """A stall of 1,000 times in one round of twenty leaves "same"."""
    assert stats.paired_bootstrap([1.0] * 20, [1.0] * 19 + [1000.0]).verdict == "same"


@settings(max_examples=30)
@given(st.lists(st.tuples(st.floats(0.9, 1.1), st.floats(0.9, 1.1)), min_size=1, max_size=40))
def test_swapping_the_arms_swaps_the_verdict(pairs: list[tuple[float, float]]) -> None:
    """Which arm is called `a` does not matter: ratio and interval are the reciprocals."""
    a, b = map(list, zip(*pairs, strict=True))
    there = stats.paired_bootstrap(a, b, resamples=200)
    back = stats.paired_bootstrap(b, a, resamples=200)
    opposite = {"faster": "slower", "slower": "faster"}
    assert back.verdict == opposite.get(there.verdict, there.verdict)
    assert back.ratio == pytest.approx(1 / there.ratio)


@pytest.mark.parametrize(
    ("a", "b"), [([1.0], [1.0, 2.0]), ([], []), ([0.0] * 9, [1.0] * 9), ([1.0] * 9, [-1.0] * 9), ([1.0], [math.nan])]
)
def test_comparison_refuses_what_are_no_times(a: list[float], b: list[float]) -> None:
    """Unequal lengths, nothing, zero, negative and missing times are refused."""
    with pytest.raises(InvalidValueError):
        stats.paired_bootstrap(a, b)


def test_comparison_refuses_a_negative_margin() -> None:
    """A smallest difference below zero has no meaning."""
    with pytest.raises(InvalidValueError):
        stats.paired_bootstrap([1.0], [1.0], smallest_difference=-0.01)


# --- interleaved timing


def test_interleave_gives_seconds_a_call() -> None:
    """With a clock that only the work moves, every sample is exactly what one call takes."""
    clock = Clock()
    times = stats.interleave({"a": clock.work(0.25), "b": clock.work(0.5)}, 4, timer=clock)
    assert {name: column.tolist() for name, column in times.items()} == {"a": [0.25] * 4, "b": [0.5] * 4}


def test_interleave_repeats_short_calls_until_a_sample_is_long() -> None:
    """Calls of a microsecond are repeated until a sample takes 100 µs; calls of a second are not repeated."""
    clock = Clock()
    calls = {"short": 0, "long": 0}

    def arm(name: str, seconds: float) -> Callable[[], None]:
        def call() -> None:
            calls[name] += 1
            clock.now += seconds

        return call

    stats.interleave({"short": arm("short", 1e-6), "long": arm("long", 1.0)}, 10, timer=clock)
    assert 10 * 100 <= calls["short"] <= 10 * 150 + 500
    assert calls["long"] == 10 + 2


def test_interleave_is_not_fooled_by_a_cold_first_call() -> None:
    """An arm whose first call imports and compiles is calibrated by what its later calls take."""
    clock = Clock()
    calls = []

    def arm() -> None:
        clock.now += 1e-6 if calls else 1.0
        calls.append(None)

    stats.interleave({"a": arm}, 1, timer=clock)
    assert len(calls) > 100


def test_interleave_draws_the_order_of_every_round() -> None:
    """Each round calls every arm once; over the rounds every arm comes first, second and last; the seed decides."""

    def order(seed: int) -> list[str]:
        clock, calls = Clock(), []

        def arm(name: str) -> Callable[[], None]:
            def call() -> None:
                clock.now += 1.0
                calls.append(name)

            return call

        stats.interleave({name: arm(name) for name in "abc"}, 30, inner=1, seed=seed, timer=clock)
        return calls

    first = order(1)
    rounds = [first[start : start + 3] for start in range(0, 90, 3)]
    assert all(sorted(turn) == ["a", "b", "c"] for turn in rounds)
    assert {(place, name) for turn in rounds for place, name in enumerate(turn)} == {
        (place, name) for place in range(3) for name in "abc"
    }
    assert first == order(1) != order(2)


def test_interleave_turns_the_collector_off_and_on_again() -> None:
    """The garbage collector is off inside a sample, and as it was before afterwards, even when an arm raises."""
    states: list[bool] = []

    def arm() -> None:
        states.append(gc.isenabled())
        if len(states) == 3:
            raise RuntimeError("third call")

    with pytest.raises(RuntimeError, match="third call"):
        stats.interleave({"a": arm}, 5, inner=1)
    assert states == [False] * 3
    assert gc.isenabled()


def test_interleave_measures_real_time() -> None:
    """With the real timer, a function that does ten times the work takes several times as long."""
    times = stats.interleave({"one": lambda: sum(range(200)), "ten": lambda: sum(range(2000))}, 15)
    assert stats.paired_bootstrap(times["one"], times["ten"]).ratio > 2


def test_interleave_refuses_what_it_cannot_time() -> None:
    """No arms, no rounds, no inner calls, a coroutine function and what cannot be called are refused."""

    async def later() -> None: ...

    for attempt in (
        lambda: stats.interleave({}, 5),
        lambda: stats.interleave({"a": dict}, 0),
        lambda: stats.interleave({"a": dict}, 5, inner=0),
        lambda: stats.interleave({"a": later}, 5),
        lambda: stats.interleave({"a": 5}, 5),  # type: ignore[dict-item]
    ):
        with pytest.raises(InvalidValueError):
            attempt()


def test_interleave_refuses_work_without_a_duration(monkeypatch: pytest.MonkeyPatch) -> None:
    """An arm that takes no time by the timer ends in an error, not in an endless search or a division by zero."""
    monkeypatch.setattr(stats, "_MOST_INNER", 64)
    with pytest.raises(InvalidValueError, match="took no time"):
        stats.interleave({"a": lambda: None}, 5, timer=lambda: 0.0)
