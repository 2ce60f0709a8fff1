"""Metrics that conditions are about: quantiles, mean and max of the response, share of errors; with intervals.

One convention holds for the SLO of a load test, for its guard and for find_capacity: a request that failed, was dropped or
has no end was answered within no bound, so that its response is infinite. What a result *reports* as response times are
those of successes alone: a failure is no fast answer, and no slow one.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from skilllab import series
from skilllab.conditions import Condition
from skilllab.experiments.loadtest.records import Columns
from skilllab.stats import Array, Interval, quantile, quantiles, smallest_n

_CONFIDENCE = 0.95
_SLICES = 100  # of the time, whose counts give the interval of a rate


class Answers(NamedTuple):
    """Requests in the order of their intended starts, since an interval asks how values follow one another; in seconds.

    response: inf for what was answered within no bound. lag: of the generator, 0 for what has no end.
    """

    intended: Array
    response: Array
    lag: Array


def answers(requests: Columns, lost: Array) -> Answers:
    """Returns how requests were answered: those that ended, and `lost`, the intended starts of those that did not."""
    intended = np.concatenate((requests.intended, lost))
    ended = np.where(requests.ok, requests.response, np.inf)
    response = np.concatenate((ended, np.full(len(lost), np.inf)))
    lag = np.concatenate((requests.lag, np.zeros(len(lost))))
    order = np.argsort(intended, kind="stable")
    return Answers(intended[order], response[order], lag[order])


def metric(condition: Condition, response: Array) -> float:
    """Returns the metric of a condition over some responses, inf where too many have no end; nan without any.

    It says nothing of how much so few values tell: `value` does.
    """
    if not len(response):
        return math.nan
    if condition.metric == "errors":
        return float(np.isinf(response).mean())
    if condition.q is not None:
        finite, top = _finite(response)
        return _unbounded(quantiles(finite, [condition.q]).tolist(), top)[0]
    return float(response.mean() if condition.metric == "mean" else response.max())


def known_quantile(values: Array, q: float) -> float:
    """Returns a quantile of finite values, nan where they are too few: they would give no interval if independent."""
    return quantile(values, q) if len(values) >= smallest_n(q) else math.nan


def value(condition: Condition, response: Array) -> float:
    """Returns the metric as a result may show it: nan where the values are too few for the quantile."""
    return known(condition, len(response), metric(condition, response))


def known(condition: Condition, requests: int, got: float) -> float:
    """Returns a metric over so many requests, nan where they are too few for the quantile that it is."""
    return math.nan if condition.q is not None and requests < smallest_n(condition.q) else got


def interval(condition: Condition, response: Array, time: float | None = None) -> Interval | None:
    """Returns the 95 % interval of the metric, None where the test was too short for one; what is exact has no width.

    Exact are a maximum, and a mean over requests of which one has no end. time: the autocorrelation time where it is known.
    """
    if not len(response):
        return None
    if condition.metric == "errors":
        return series.proportion_interval(np.isinf(response))
    if condition.q is not None:
        finite, top = _finite(response)
        found = series.quantile_interval(finite, condition.q, time=time)
        if found is None:
            return None
        low, high = _unbounded([found.low, found.high], top)
        return Interval(low, high, found.confidence)
    most = metric(condition, response)
    if condition.metric == "mean" and math.isfinite(most):
        return series.mean_interval(response, time=time)
    return Interval(most, most, 1.0)


def rate_interval(ends: Array, begin: float, end: float) -> Interval | None:
    """Returns the 95 % interval of how many ended a second, from the counts in a hundred slices of the time.

    None ended: then it is the exact one of a Poisson count of 0, up to 3.7 in the whole time (Garwood 1936).
    """
    if not begin < end < math.inf:
        return None
    if not len(ends):
        return Interval(0.0, -math.log((1 - _CONFIDENCE) / 2) / (end - begin), _CONFIDENCE)
    counts, _ = np.histogram(ends, _SLICES, (begin, end))
    return series.mean_interval(counts * (_SLICES / (end - begin)))


def _finite(response: Array) -> tuple[Array, float]:
    """Returns responses with a number in place of infinity that keeps their order, and the longest that has an end."""
    ended = np.isfinite(response)
    top = float(response[ended].max()) if ended.any() else 0.0
    return np.where(ended, response, 2 * top or 1.0), top


def _unbounded(ends: Sequence[float], top: float) -> list[float]:
    """Returns quantiles with infinity for those beyond the longest response that has an end."""
    return [math.inf if end > top else end for end in ends]
