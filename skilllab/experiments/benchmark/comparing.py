"""Comparisons of two arms: the typical call and the tail, each with an interval that holds however often one looked.

How the looks are paid for. A benchmark looks at most LOOKS times, each time at twice as many rounds, and stops when every
pair is decided. Each look has intervals of confidence 1 - (1 - confidence) / LOOKS, so that all of them together err as
rarely as one look would at `confidence` (Bonferroni). Whoever looked in between at plain 95 % intervals, and stopped at
the first difference, would find one between a function and itself.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import NormalDist

import numpy as np
import numpy.typing as npt

from skilllab import format as fmt
from skilllab.experiments.benchmark.runs import ArmTimes
from skilllab.stats import (
    Array,
    Comparison,
    Verdict,
    paired_bootstrap,
    quantile,
    quantiles,
    resampled_medians,
    smallest_n,
    verdict,
)

LOOKS = 8
"""Looks at most: the last at 128 times the rounds of the first."""

SLOW, SLOWEST = 2.0, 10.0
"""Times its arm's typical call from which a call is slow, and beyond which it is not counted as any slower.

A machine that stalls adds calls of a hundred times: without a bound they would hide a hundredth of the calls at ten times.
"""

TAIL = 0.05
"""The share of the calls that are the tail: those beyond p95."""

TAIL_CALLS = 1500
"""Calls of each arm below which a tail gets no interval: a hundredth of the calls would hardly show in it."""

DIFFERENT_TAIL, SAME_TAIL = 0.1, 0.25
"""How far the whole interval of the tail ratio has to be from 1 to be a difference, and within which to be none.

A hundredth of the calls that take ten times as long make a ratio of 10^(1/5) = 1.58; 1.25 is half as many.
"""

_RESAMPLES = 2000  # for the ends of an interval at 99.4 %
_TAIL_RESAMPLES = 400  # for a standard error: exact to 4 %


@dataclass(frozen=True, slots=True)
class Compared:
    """How many times as long `b` takes as `a`: the typical call (`typical`) and, for its own typical call, the tail.

    The tail is the geometric mean, over the slowest 5 % of the calls, of how many times its arm's typical call a slow one
    takes (see SLOW); twice as slow everywhere is no other tail. `tail_calls` is 1, or over how many calls each time is where
    single ones are too short to be timed. The verdict is on `b`: the typical call's, but "same" only if the tail is the
    same as well; else it is the tail's.
    """

    a: str
    b: str
    typical: Comparison
    tail: Comparison
    tail_calls: int = 1
    side_by_side: bool = True

    @property
    def verdict(self) -> Verdict:
        """Whether `b` is faster or slower than `a`, the same, or whether that is not known."""
        return self.tail.verdict if self.typical.verdict == "same" else self.typical.verdict

    @property
    def told(self) -> str:
        """The verdict in words, with that on the tail where it decides, or is another difference."""
        if self.tail.verdict not in ("faster", "slower"):
            return self.verdict
        if self.typical.verdict == "same":
            return f"{self.verdict} in its tail"
        return (
            self.verdict if self.tail.verdict == self.verdict else f"{self.verdict}, but its tail {self.tail.verdict}"
        )

    @property
    def ratio(self) -> float:
        """The typical ratio."""
        return self.typical.ratio

    @property
    def low(self) -> float:
        """The lower end of the typical ratio's interval."""
        return self.typical.low

    @property
    def high(self) -> float:
        """The upper end of the typical ratio's interval."""
        return self.typical.high

    @property
    def tail_ratio(self) -> float:
        """The tail ratio."""
        return self.tail.ratio

    def __str__(self) -> str:
        whose = "calls" if self.tail_calls == 1 else f"samples of {fmt.count(self.tail_calls)} calls"
        said = f"{self.b} takes {_told(self.typical)} as long as {self.a}: {self.typical.verdict}"
        tail = f"; tail of {whose} {_told(self.tail)}: {self.tail.verdict}"
        apart = "" if self.side_by_side else ". They were not measured side by side: what changed may be the machine"
        return f"{said}{tail}{apart}"


def compare(
    a: Sequence[ArmTimes],
    b: Sequence[ArmTimes],
    *,
    smallest_difference: float,
    confidence: float,
    looks: int = 1,
    side_by_side: bool = True,
) -> tuple[Comparison, Comparison]:
    """Compares two arms, one item for each process; returns the typical call and the tail.

    side_by_side: whether they shared their rounds, which then are compared each with itself.
    """
    level = 1 - (1 - confidence) / looks
    if not side_by_side:
        typical = _medians_apart(a, b, smallest_difference, level)
    elif len(a) == 1:
        typical = _paired(a[0].samples, b[0].samples, smallest_difference, level)
    else:
        typical = _over_processes(a, b, smallest_difference, level)
    tail = tails(a, b, level, side_by_side=side_by_side)
    return replace(typical, confidence=confidence), replace(tail, confidence=confidence)


def tails(
    a: Sequence[ArmTimes], b: Sequence[ArmTimes], confidence: float, *, side_by_side: bool = True, seed: int = 0
) -> Comparison:
    """Compares how slow the slow calls of two arms are, with an interval from a paired bootstrap.

    All slowness of an arm is gathered onto TAIL of its calls, also where more of them are slow. A resample gives each round,
    for both arms, a weight that is Poisson distributed with mean 1 (Hanley and MacGibbon 2006); the interval is normal on
    the log scale, with the standard error over the resamples.
    """
    singly = all(run.tail_calls == 1 for run in (*a, *b))  # else a tail of samples is compared with one of samples
    fine_a, fine_b = ([run.one_by_one if singly else run.samples[:, None] for run in runs] for runs in (a, b))
    slow_a, slow_b = _slowness(fine_a), _slowness(fine_b)
    middle = float(slow_b.mean() - slow_a.mean()) / TAIL
    rounds = min(len(slow_a), len(slow_b))
    if min(sum(times.size for times in fine) for fine in (fine_a, fine_b)) < TAIL_CALLS:
        return Comparison(math.exp(middle), 0.0, math.inf, confidence, rounds, "inconclusive")
    rng = np.random.default_rng(seed)
    if side_by_side:
        spread = _spread_of_mean(slow_b - slow_a, rng)
    else:
        spread = math.hypot(_spread_of_mean(slow_a, rng), _spread_of_mean(slow_b, rng))
    reach = NormalDist().inv_cdf((1 + confidence) / 2) * spread / TAIL
    low, high = middle - reach, middle + reach
    return Comparison(math.exp(middle), math.exp(low), math.exp(high), confidence, rounds, _tail_verdict(low, high))


def _slowness(runs: Sequence[Array]) -> Array:
    """Returns for each round the mean over its calls of the log of how slow they were, 0 for those that were not."""
    means = []
    for run in runs:
        times = run / np.median(run)
        slow = np.where(times > SLOW, np.log(np.clip(times, SLOW, SLOWEST)), 0.0)
        means.append(slow.mean(axis=1))
    return np.concatenate(means)


def _spread_of_mean(values: Array, rng: np.random.Generator) -> float:
    """Returns the standard error of a mean by a Poisson bootstrap; only values other than 0 need a weight."""
    some = values[values != 0]
    sums = rng.poisson(1.0, (_TAIL_RESAMPLES, len(some))) @ some
    return float(sums.std(ddof=1)) / len(values)


def _paired(a: npt.ArrayLike, b: npt.ArrayLike, smallest_difference: float, level: float) -> Comparison:
    return paired_bootstrap(a, b, confidence=level, resamples=_RESAMPLES, smallest_difference=smallest_difference)


def _over_processes(
    a: Sequence[ArmTimes], b: Sequence[ArmTimes], smallest_difference: float, level: float
) -> Comparison:
    """Compares with each process as one round, since processes differ by more than rounds do.

    With fewer processes than a median's interval takes, it reaches over the intervals of all of them.
    """
    each = [_paired(x.samples, y.samples, smallest_difference, level) for x, y in zip(a, b, strict=True)]
    found = _paired(np.ones(len(each)), [one.ratio for one in each], smallest_difference, level)
    if math.isfinite(found.high):
        return found
    return _within(found, min(one.low for one in each), max(one.high for one in each), smallest_difference)


def _medians_apart(
    a: Sequence[ArmTimes], b: Sequence[ArmTimes], smallest_difference: float, level: float
) -> Comparison:
    """Compares the medians of two arms that share no rounds; of their processes where there are enough for an interval."""
    logs = [np.log(_units(runs, level)) for runs in (a, b)]
    middle = float(np.median(logs[1]) - np.median(logs[0]))
    found = Comparison(math.exp(middle), 0.0, math.inf, level, min(map(len, logs)), "inconclusive")
    if found.rounds < smallest_n(0.5, level):
        return found
    draws = [resampled_medians(each, _RESAMPLES, seed) for seed, each in enumerate(logs)]
    low, high = quantiles(draws[1] - draws[0], [(1 - level) / 2, (1 + level) / 2]).tolist()
    return _within(found, math.exp(low), math.exp(high), smallest_difference)


def _units(runs: Sequence[ArmTimes], level: float) -> Array:
    if len(runs) >= smallest_n(0.5, level):
        return np.array([quantile(run.samples, 0.5) for run in runs])
    return np.concatenate([run.samples for run in runs])


def _within(found: Comparison, low: float, high: float, smallest_difference: float) -> Comparison:
    """Returns a comparison with another interval, and its verdict."""
    if low <= 0:
        return found
    said = verdict(math.log(low), math.log(high), math.log1p(smallest_difference))
    return replace(found, low=low, high=high, verdict=said)


def _tail_verdict(low: float, high: float) -> Verdict:
    different, same = math.log1p(DIFFERENT_TAIL), math.log1p(SAME_TAIL)
    if high < -different:
        return "faster"
    if low > different:
        return "slower"
    return "same" if -same <= low and high <= same else "inconclusive"


def _told(found: Comparison) -> str:
    if not math.isfinite(found.high):
        return f"{_times(found.ratio)} (too few for an interval)"
    return f"{_times(found.ratio)} ({_times(found.low)} to {_times(found.high)})"


def _times(ratio: float) -> str:
    return fmt.times(ratio, 4 if 0.9 < ratio < 1.1 else 3)
