"""Quantiles, intervals and fair comparisons of plain numbers.

One definition of a quantile holds everywhere: Hyndman and Fan (1996) type 7, the default of numpy and pandas, which
interpolates between order statistics. Intervals assume independent values; latencies of one load test are not.
Where the values cannot carry an interval the answer is None, never a guess. Every function that draws is seeded.
"""

from __future__ import annotations

import gc
import inspect
import math
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import repeat
from statistics import NormalDist
from typing import Literal

import numpy as np
import numpy.typing as npt

from skilllab.errors import InvalidValueError

Array = npt.NDArray[np.float64]
Verdict = Literal["faster", "slower", "same", "inconclusive"]
Statistic = Callable[[Array], Array]  # (resamples, n) -> (resamples,)

_CHUNK = 1 << 21  # numbers drawn at once by a bootstrap: 16 MiB
_MANY = 30  # below, a bootstrap of the median covers 91 to 94 % instead of 95: the order statistics then widen it
_TIMER_SHARE = 1e-3  # of a sample may be the cost of reading the timer
_SHORTEST_SAMPLE = 1e-4  # s; below, interrupts of the machine weigh more than the work
_MOST_INNER = 1 << 20  # calls a sample


@dataclass(frozen=True, slots=True)
class Interval:
    """The range that holds the true value with the given confidence."""

    low: float
    high: float
    confidence: float


@dataclass(frozen=True, slots=True)
class Comparison:
    """How many times as long `b` takes as `a`: the median ratio over the rounds, its interval, and a verdict on `b`."""

    ratio: float
    low: float
    high: float
    confidence: float
    rounds: int
    verdict: Verdict


def quantile(values: npt.ArrayLike, q: float) -> float:
    """Returns the `q`-quantile (0 to 1) of one-dimensional finite values; raises InvalidValueError for any other."""
    return float(quantiles(values, [q])[0])


def quantiles(values: npt.ArrayLike, qs: npt.ArrayLike) -> Array:
    """Returns one quantile for each of `qs`, as `quantile` does, for the price of one sort."""
    wanted = _column(qs, "qs")
    if wanted.min() < 0 or wanted.max() > 1:
        raise InvalidValueError(f"q(={wanted[(wanted < 0) | (wanted > 1)][0]:g}) must be 0 to 1: write p95 as 0.95")
    return np.asarray(np.quantile(_column(values), wanted, method="linear"), dtype=np.float64)


def quantile_interval(values: npt.ArrayLike, q: float, confidence: float = 0.95) -> Interval | None:
    """Returns the interval of the `q`-quantile between two order statistics, or None below `smallest_n` values.

    It assumes no distribution: the number of values below the quantile is binomial, and each end errs with at most
    half of what `confidence` leaves (David and Nagaraja, Order Statistics, 2003, section 7.1).
    """
    ordered = np.sort(_column(values))
    n = len(ordered)
    if n < smallest_n(q, confidence):
        return None
    tail = (1 - confidence) / 2
    first, below = _binomial_cdf(n, q)
    # ranks count from 1; P(B < low) <= tail and P(B >= high) <= tail, where B values lie below the quantile
    low = max(1, first + int(np.searchsorted(below, tail, side="right")))
    high = min(n, first + int(np.searchsorted(below, 1 - tail, side="left")) + 1)
    return Interval(float(ordered[low - 1]), float(ordered[high - 1]), confidence)


def smallest_n(q: float, confidence: float = 0.95) -> int:
    """Returns how many values the interval of a `q`-quantile takes: 72 for p95, 368 for p99."""
    _inside(q, "q", "the minimum and the maximum have no such interval")
    rare = max(q, 1 - q)
    n = math.log(_tail(confidence)) / math.log(rare)
    # n is only as exact as 1 - q is: what rounding added must not cost a whole value more
    return math.ceil(n * (1 - sys.float_info.epsilon / (1 - rare)))


def finest_quantile(n: int, confidence: float = 0.95) -> float:
    """Returns the highest quantile that has an interval with `n` values; the inverse of `smallest_n`."""
    if n < 1:
        raise InvalidValueError(f"n(={n}) must be at least 1")
    return float(_tail(confidence) ** (1 / n))


def mean_interval(
    values: npt.ArrayLike, confidence: float = 0.95, *, resamples: int = 2000, seed: int = 0
) -> Interval | None:
    """Returns the bootstrap-t interval of the mean (Efron 1982), or None where the values are too few.

    Too few also means that one value carries the spread (a single stall): resamples without it have none.
    """
    column, tail = _column(values), _tail(confidence)
    n, mean = len(column), float(column.mean())
    if n < 2:
        return None
    spread = float(column.std())
    if spread <= 1e-12 * abs(mean):
        return Interval(float(column.min()), float(column.max()), confidence)
    with np.errstate(divide="ignore", invalid="ignore"):
        draws = _bootstrap(column, lambda rows: (rows.mean(axis=1) - mean) / rows.std(axis=1), resamples, seed)
    draws[np.isnan(draws)] = 0.0
    ends = np.sort(draws)[[math.floor(tail * resamples), math.ceil((1 - tail) * resamples) - 1]]
    if not np.isfinite(ends).all():
        return None
    return Interval(float(mean - ends[1] * spread), float(mean - ends[0] * spread), confidence)


def proportion_interval(successes: int, trials: int, confidence: float = 0.95) -> Interval:
    """Returns the interval of a share of independent trials (Wilson 1927); it holds for 0 and for all successes."""
    if trials < 1 or not 0 <= successes <= trials:
        raise InvalidValueError(f"successes(={successes}) must be 0 to trials(={trials}), and trials at least 1")
    low, high = wilson(successes / trials, trials, NormalDist().inv_cdf(1 - _tail(confidence)))
    return Interval(0.0 if successes == 0 else low, 1.0 if successes == trials else high, confidence)


def wilson(share: float, n: float, z: float) -> tuple[float, float]:
    """Returns Wilson's interval (1927) of a share of `n` independent trials, `z` standard errors wide on each side."""
    weight = z * z / n
    middle = (share + weight / 2) / (1 + weight)
    half = z * math.sqrt(share * (1 - share) / n + weight / (4 * n)) / (1 + weight)
    return max(0.0, middle - half), min(1.0, middle + half)


def paired_bootstrap(
    a: npt.ArrayLike,
    b: npt.ArrayLike,
    *,
    confidence: float = 0.95,
    resamples: int = 2000,
    smallest_difference: float = 0.01,
    seed: int = 0,
) -> Comparison:
    """Compares `b` with `a` by the median of the per-round log ratios b/a and its bootstrap interval.

    `a` and `b` are positive numbers of the same rounds (seconds a call, from `interleave`). The median is the typical
    round: one stall in one round does not move it, and a change in fewer than half of the rounds is not its business.
    The verdict is "faster" or "slower" when the whole interval is beyond `smallest_difference`, "same" when all of it
    is within, else "inconclusive"; swapping `a` and `b` swaps the verdict. With fewer rounds than a median's interval
    takes (6 at 95 %) the interval is 0 to infinity.
    """
    times_a, times_b = _positive(a, "a"), _positive(b, "b")
    if len(times_a) != len(times_b):
        raise InvalidValueError(f"a and b must hold the same rounds: a has {len(times_a)}, b has {len(times_b)}")
    if not (math.isfinite(smallest_difference) and smallest_difference >= 0):
        raise InvalidValueError(f"smallest_difference(={smallest_difference}) must be 0 or more: 1 % is 0.01")
    logs = np.log(times_b) - np.log(times_a)
    low, high = _median_interval(logs, confidence, resamples, seed)
    found = verdict(low, high, math.log1p(smallest_difference))
    return Comparison(math.exp(float(np.median(logs))), math.exp(low), math.exp(high), confidence, len(logs), found)


def interleave(
    arms: Mapping[str, Callable[[], object]],
    rounds: int,
    *,
    inner: int | None = None,
    seed: int = 0,
    timer: Callable[[], float] = time.perf_counter,
) -> dict[str, Array]:
    """Times plain functions side by side: each round calls every arm once, in an order drawn anew.

    Returns seconds a call, one number for each arm and round. A sample is `inner` calls in a row; None gives each arm
    as many as make the timer cost at most a thousandth of it and the sample 100 µs or longer, found by trying, which
    also warms up. The loop itself adds about 20 ns a call to every arm, so ratios of tiny functions err towards 1.
    The garbage collector is off inside a sample; what a round left young is collected between rounds, unmeasured.
    """
    _check_arms(arms, rounds, inner)
    rng = np.random.default_rng(seed)
    names = list(arms)
    results: dict[str, Array] = {name: np.empty(rounds) for name in names}
    was_on = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        enough = max(_SHORTEST_SAMPLE, _timer_cost(timer) / _TIMER_SHARE)
        calls = {name: inner or _calibrate(name, arms[name], enough, timer) for name in names}
        for turn in range(rounds):
            gc.collect(0)
            for index in rng.permutation(len(names)):
                name = names[index]
                results[name][turn] = _sample(arms[name], calls[name], timer) / calls[name]
    finally:
        if was_on:
            gc.enable()
    return results


def _column(values: npt.ArrayLike, name: str = "values") -> Array:
    try:
        column = np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise InvalidValueError(f"{name}(={values!r:.80}) must be numbers in a list, array or column") from error
    if column.ndim != 1 or not len(column):
        raise InvalidValueError(f"{name} of shape {column.shape} must be one-dimensional and not empty")
    if not np.isfinite(column).all():
        place = int(np.argmin(np.isfinite(column)))
        raise InvalidValueError(f"{name}[{place}](={column[place]}) must be finite: drop what was not measured first")
    return column


def _positive(values: npt.ArrayLike, name: str) -> Array:
    column = _column(values, name)
    if column.min() <= 0:
        place = int(np.argmin(column))
        raise InvalidValueError(f"{name}[{place}](={column[place]}) must be > 0: time more calls a round")
    return column


def _inside(value: float, name: str, hint: str) -> None:
    if not 0 < value < 1:
        raise InvalidValueError(f"{name}(={value}) must be between 0 and 1, both excluded: {hint}")


def _tail(confidence: float) -> float:
    _inside(confidence, "confidence", "95 % is 0.95")
    return (1 - confidence) / 2


def _binomial_cdf(n: int, q: float) -> tuple[int, Array]:
    """Returns the first count k whose probability matters, and P(B <= k) from there on.

    The probabilities follow from their ratios; ten standard deviations and a few counts hold all that matters.
    """
    reach = 10 * math.sqrt(n * q * (1 - q)) + 20
    first, last = max(0, math.floor(n * q - reach)), min(n, math.ceil(n * q + reach))
    k = np.arange(first, last, dtype=np.float64)
    logs = np.concatenate(([0.0], np.cumsum(np.log((n - k) / (k + 1)) + math.log(q / (1 - q)))))
    shares = np.exp(logs - logs.max())
    return first, np.cumsum(shares / shares.sum())


def _bootstrap(values: Array, statistic: Statistic, resamples: int, seed: int) -> Array:
    """Returns the statistic of resamples drawn with replacement, in chunks so that memory stays bounded."""
    if resamples < 1:
        raise InvalidValueError(f"resamples(={resamples}) must be at least 1: 2,000 is usual")
    rng = np.random.default_rng(seed)
    step = max(1, _CHUNK // len(values))
    sizes = [min(step, resamples - start) for start in range(0, resamples, step)]
    return np.concatenate([statistic(values[rng.integers(0, len(values), (rows, len(values)))]) for rows in sizes])


def _median_interval(values: Array, confidence: float, resamples: int, seed: int) -> tuple[float, float]:
    exact = quantile_interval(values, 0.5, confidence)
    if exact is None:
        return -math.inf, math.inf
    medians = resampled_medians(values, resamples, seed)
    low, high = quantiles(medians, [_tail(confidence), 1 - _tail(confidence)]).tolist()
    if len(values) >= _MANY:
        return low, high
    return min(low, exact.low), max(high, exact.high)


def resampled_medians(values: Array, resamples: int, seed: int) -> Array:
    """Returns the medians of resamples drawn with replacement, without drawing them.

    A draw takes the sorted value at a uniform place, so that the place of a resample's k-th smallest is the k-th of n
    uniform numbers: beta distributed (Maritz and Jarrett 1978). Below it lie k - 1 uniform numbers, of which the largest
    is the other middle value when n is even.
    """
    if resamples < 1:
        raise InvalidValueError(f"resamples(={resamples}) must be at least 1: 2,000 is usual")
    ordered, n = np.sort(values), len(values)
    rng, upper = np.random.default_rng(seed), n // 2 + 1
    places = rng.beta(upper, n - upper + 1, resamples)
    high = ordered[np.minimum((n * places).astype(np.intp), n - 1)]
    if n % 2:
        return high
    below = places * rng.random(resamples) ** (1 / (upper - 1))
    return np.asarray((ordered[np.minimum((n * below).astype(np.intp), n - 1)] + high) / 2)


def verdict(low: float, high: float, margin: float) -> Verdict:
    """Returns what an interval of a log ratio says: all of it beyond the margin, all of it within, or neither."""
    if high < -margin:
        return "faster"
    if low > margin:
        return "slower"
    return "same" if -margin <= low and high <= margin else "inconclusive"


def _check_arms(arms: Mapping[str, Callable[[], object]], rounds: int, inner: int | None) -> None:
    if not arms:
        raise InvalidValueError("arms(={}) must hold at least one function")
    if rounds < 1 or (inner is not None and inner < 1):
        raise InvalidValueError(f"rounds(={rounds}) and inner(={inner}) must be at least 1")
    for name, arm in arms.items():
        if not callable(arm) or inspect.iscoroutinefunction(arm):
            raise InvalidValueError(f"arms[{name!r}](={arm!r}) must be a plain function without arguments")


def _timer_cost(timer: Callable[[], float]) -> float:
    """Returns what reading the timer costs, in seconds."""
    return min(_sample(timer, 100, timer) / 100 for _ in range(5))


def _calibrate(name: str, arm: Callable[[], object], enough: float, timer: Callable[[], float]) -> int:
    """Returns how many calls take long enough; the shorter of two samples decides, not a cold first call."""
    inner = 1
    while (taken := min(_sample(arm, inner, timer), _sample(arm, inner, timer))) < enough:
        if inner >= _MOST_INNER:
            if taken > 0:
                return inner
            raise InvalidValueError(f"arms[{name!r}] took no time by the timer in {inner:,} calls: give it more work")
        inner = min(_MOST_INNER, max(2 * inner, math.ceil(inner * enough / taken) if taken > 0 else 0))
    return inner


def _sample(arm: Callable[[], object], calls: int, timer: Callable[[], float]) -> float:
    start = timer()
    for _ in repeat(None, calls):
        arm()
    return timer() - start
