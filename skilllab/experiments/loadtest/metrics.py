"""Metrics of a load test: quantiles, mean and max of the response, share of errors, rate; with intervals.

The requests come in the order of their intended starts, since an interval asks how values follow one another. Response
times are those of successes: a failure is no fast answer, and no slow one.
"""

from __future__ import annotations

import math

import numpy as np

from skilllab import series
from skilllab.conditions import Condition
from skilllab.experiments.loadtest.records import Columns
from skilllab.stats import Array, Interval, quantile

_SLICES = 100  # of the time, whose counts give the interval of a rate


def value(condition: Condition, requests: Columns, seconds: float) -> float:
    """Returns the metric of a condition over some requests, which ended within `seconds`; nan where there is none."""
    if condition.metric == "errors":
        return 1 - float(requests.ok.mean()) if len(requests.ok) else math.nan
    if condition.metric == "rate":
        return float(requests.ok.sum()) / seconds if seconds > 0 else math.nan
    responses = requests.response[requests.ok]
    if not len(responses):
        return math.nan
    if condition.q is not None:
        return quantile(responses, condition.q)
    return float(responses.mean() if condition.metric == "mean" else responses.max())


def interval(condition: Condition, requests: Columns, begin: float, end: float) -> Interval | None:
    """Returns the 95 % interval of the metric, None where the test was too short for one; what is exact has no width.

    begin, end: seconds between which the requests ended, for a rate.
    """
    if condition.metric == "errors":
        return series.proportion_interval(~requests.ok) if len(requests.ok) else None
    if condition.metric == "rate":
        return rate_interval(requests.end[requests.ok], begin, end)
    responses = requests.response[requests.ok]
    if not len(responses):
        return None
    if condition.q is not None:
        return series.quantile_interval(responses, condition.q)
    if condition.metric == "mean":
        return series.mean_interval(responses)
    most = float(responses.max())
    return Interval(most, most, 1.0)


def rate_interval(ends: Array, begin: float, end: float) -> Interval | None:
    """Returns the 95 % interval of how many ended a second, from the counts in a hundred slices of the time."""
    if not begin < end < math.inf or not len(ends):
        return None
    counts, _ = np.histogram(ends, _SLICES, (begin, end))
    return series.mean_interval(counts * (_SLICES / (end - begin)))
