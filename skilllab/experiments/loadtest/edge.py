"""The edge of a condition: the arrival rate at which it stops to hold, estimated from probes on both sides of it.

What is compared between probes is a mean that does not depend on their lengths: the share of requests over the bound
(which is to be 5 % at the edge of a p95), of failures, or the mean response over its bound. With the tail of a queue
being exponential, the log odds of the share are close to linear in the log rate. The fit is one of quasi-likelihood
(Wedderburn 1974), its dispersion the scatter between probes: they are independent, the requests of one are not. The
interval holds the rates at which the target is within the fit's error (Fieller 1954).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from skilllab.conditions import Condition
from skilllab.errors import InvalidValueError
from skilllab.series import student
from skilllab.stats import Array

_STEEPEST = 300.0  # slope at which a step of 1 % in the rate goes from holding to broken
_FLATTEST = 0.3
_LITTLE = 0.6  # of what is allowed: with less than that there, the condition breaks at a clear edge
_SOME = 4  # probes whose mean has an error, or which are no chance on their side
_REACH_OF_STEP = 3.0  # of a gap, a third is the next spread
_BASES = (0.0, 0.25, 0.5, 0.75, 0.9, 0.97)  # of what is allowed may be there without any load
_FAR = 15.0  # log odds beyond which a share is 0 or 1
_CAP = 10.0  # bounds: a mean beyond is broken, however far
_MOST_STEPS = 30


@dataclass(frozen=True, slots=True)
class Edge:
    """Where a condition stops to hold, and how steeply, as requests a second; low and high are 0 and inf when unknown."""

    at: float
    low: float
    high: float
    slope: float


def checked_condition(condition: Condition) -> Condition:
    """Returns a condition that has an edge; raises InvalidValueError for any other."""
    if not condition.upper or (condition.q is None and condition.metric not in ("errors", "mean")):
        raise InvalidValueError(
            f"slo: {condition} has no highest rate at which it holds: bound a quantile (p99.9), mean or errors from above"
        )
    if condition.bound == 0:
        raise InvalidValueError(f"slo: {condition} can hold at no rate: bound it above 0")
    return condition


def target(condition: Condition) -> float:
    """Returns what `load` is at the edge: the share that may be over the bound, or 1 for a mean over its bound."""
    if condition.q is not None:
        return 1 - condition.q
    return condition.bound if condition.metric == "errors" else 1.0


def load(condition: Condition, response: Array) -> float:
    """Returns the share of requests over the bound, or of failures, or the mean over its bound; the most without requests.

    response: seconds, inf for a request that failed, was dropped or given up: it was not answered within any bound.
    """
    if not len(response):
        return _CAP if condition.metric == "mean" else 1.0
    if condition.metric == "errors":
        return float(np.isinf(response).mean())
    if condition.metric == "mean":
        return float(min(response.mean() / condition.bound, _CAP))
    over = response >= condition.bound if condition.sense == "<" else response > condition.bound
    return float(over.mean())


def edge(
    condition: Condition, rates: Array, loads: Array, weights: Array, confidence: float, base: float = 1.0
) -> Edge | None:
    """Fits the loads of probes at different rates; None where all hold or all are broken, or nothing grows with the rate.

    weights: requests of each probe. base: what may be there at most without any load, as a
    share of what is allowed at the edge.
    """
    wanted = target(condition)
    held = loads <= wanted
    if len(rates) < 4 or held.all() or not held.any():
        return None
    if rates[held].max() < rates[~held].min() and min(held.sum(), (~held).sum()) >= _SOME:
        return _step(rates, held)
    centre = float(np.exp(np.average(np.log(rates), weights=weights)))
    x = np.log(rates / centre)
    least = 1 / float(weights.mean())  # the scatter of independent requests: by chance it may seem smaller
    weights = weights * least
    mean = condition.metric == "mean"
    bases = [share for share in _BASES if share == 0 or (share <= base and not mean)]
    fits = [_fit(x, loads, weights, mean, share * wanted, least) for share in bases]
    best = min(fits, key=lambda fit: fit.deviance)
    degrees = max(2.0, float(weights.sum() ** 2 / (weights**2).sum()) - 2)
    t = student(confidence, degrees)
    growing = [fit for fit in fits if fit.line[1] >= _FLATTEST]
    if best not in growing:
        return None
    clear = mean or base < _LITTLE
    if clear:
        growing = [fit for fit in growing if fit.deviance <= best.deviance + t**2 * best.dispersion]
    ends = [_fieller(fit, wanted, mean, t) for fit in growing]
    if clear:
        ends = [pair for pair in ends if math.isfinite(pair[0])] or ends
    low, high = min(low for low, _ in ends), max(high for _, high in ends)
    if x[held].max() < x[~held].min():  # it may be anywhere between, however well a curve fits
        low, high = min(low, float(x[held].max())), max(high, float(x[~held].min()))
    if not clear:  # most of what is allowed is there at any rate: no curve says where the rest comes
        sure = _sure(x, loads, weights, wanted, mean, confidence, least)
        low, high = min(low, sure[0]), max(high, sure[1])
    at = (_link(wanted, mean, best.base) - best.line[0]) / best.line[1]
    return Edge(centre * math.exp(at), centre * math.exp(low), centre * math.exp(min(high, 700.0)), float(best.line[1]))


def _step(rates: Array, held: npt.NDArray[np.bool_]) -> Edge:
    """Returns the gap between some probes that all held and some that were all broken; the next one goes into it."""
    low, high = float(rates[held].max()), float(rates[~held].min())
    return Edge(math.sqrt(low * high), low, high, _REACH_OF_STEP / max(math.log(high / low), 1e-9))


def _sure(
    x: Array, loads: Array, weights: Array, wanted: float, mean: bool, confidence: float, least: float
) -> tuple[float, float]:
    """Returns the ends that need no curve, only that the load grows with the rate; infinite where there are none.

    A rate holds when the mean load of probes at higher rates is below the target for sure, and is too high when that of
    probes at lower ones is above.
    """
    order = np.argsort(x)
    x, loads, weights = x[order], loads[order], weights[order]
    low, high = -math.inf, math.inf
    for first in range(len(x)):
        for last in range(first + _SOME, len(x) + 1):
            here, weight = loads[first:last], weights[first:last] / weights[first:last].sum()
            middle = float(weight @ here)
            scatter = float(weight**2 @ (here - middle) ** 2) * len(here) / (len(here) - 1)
            chance = 0.0 if mean else middle * (1 - middle) * least / float(weights[first:last].sum())
            error = student(confidence, len(here) - 1) * math.sqrt(max(scatter, chance))
            if middle + error < wanted:
                low = max(low, float(x[first]))
            if middle - error > wanted:
                high = min(high, float(x[last - 1]))
    return low, high


@dataclass(frozen=True, slots=True, eq=False)
class _Fitted:
    """A line of the linear predictor over the log rate, above a base that does not depend on the rate."""

    base: float
    line: Array
    covariance: Array
    deviance: float
    dispersion: float


def _fit(x: Array, loads: Array, weights: Array, mean: bool, base: float, least: float) -> _Fitted:
    """Fits intercept and slope by Fisher scoring.

    A share has a logit link and the variance of a binomial; a mean a reciprocal one, as 1 / mean falls to nothing where a
    queue has no end, and a constant relative deviation.
    """
    columns: Array = np.column_stack((np.ones_like(x), x)).astype(np.float64)
    middle = max(float(np.average(loads, weights=weights)), 1.1 * base + 1e-6)
    line = np.array([_link(middle if mean else min(middle, 0.99), mean, base), 1.0 if mean else 5.0])
    for _ in range(_MOST_STEPS):
        expected, slope, variance = _expected(columns @ line, mean, base)
        weight = weights * slope**2 / variance
        information = columns.T @ (columns * weight[:, np.newaxis]) + 1e-9 * np.eye(2)
        step = np.clip(
            np.linalg.solve(information, columns.T @ (weights * slope * (loads - expected) / variance)), -2, 2
        )
        line = line + step
        line[1] = np.clip(line[1], -_STEEPEST, _STEEPEST)
        if np.abs(step).max() < 1e-6:
            break
    expected, _, variance = _expected(columns @ line, mean, base)
    scatter = float((weights * (loads - expected) ** 2 / variance).sum()) / max(1, len(x) - 2)
    dispersion = scatter if mean else max(scatter, least)
    deviance = float((weights * _deviance(loads, expected, mean)).sum())
    return _Fitted(
        base, line, np.asarray(np.linalg.inv(information) * dispersion, dtype=np.float64), deviance, dispersion
    )


def _link(load: float, mean: bool, base: float) -> float:
    return -1 / load if mean else math.log((load - base) / (1 - load))


def _expected(predictor: Array, mean: bool, base: float) -> tuple[Array, Array, Array]:
    """Returns the expected load, its derivative by the predictor, and the variance it has but for the dispersion."""
    if mean:
        expected = -1 / np.minimum(predictor, -1 / (2 * _CAP))
        return expected, expected**2, expected**2
    predictor = np.clip(predictor, -_FAR, _FAR)
    share = 1 / (1 + np.exp(-predictor))
    expected = base + (1 - base) * share
    return expected, (1 - base) * share * (1 - share), expected * (1 - expected)


def _deviance(loads: Array, expected: Array, mean: bool) -> Array:
    if mean:
        ratio = np.maximum(loads, 1e-12) / expected
        return np.asarray(2 * (ratio - 1 - np.log(ratio)))
    parts = loads * np.log(np.maximum(loads, 1e-12) / expected)
    rest = (1 - loads) * np.log(np.maximum(1 - loads, 1e-12) / (1 - expected))
    return np.asarray(2 * (parts + rest))


def _fieller(fit: _Fitted, wanted: float, mean: bool, t: float) -> tuple[float, float]:
    """Returns the ends of {x: |line(x) - aim| <= t * its standard error}; infinite when the slope may be none."""
    covariance, slope = fit.covariance, fit.line[1]
    offset = fit.line[0] - _link(wanted, mean, fit.base)
    a = slope**2 - t**2 * covariance[1, 1]
    b = offset * slope - t**2 * covariance[0, 1]
    c = offset**2 - t**2 * covariance[0, 0]
    if a <= 0:
        return -math.inf, math.inf
    root = math.sqrt(max(0.0, b * b - a * c))
    return float((-b - root) / a), float((-b + root) / a)
