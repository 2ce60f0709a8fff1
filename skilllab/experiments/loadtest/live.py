"""Live: what a load test under way looks like, kept up with as requests end, at a cost that does not grow with the test."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from skilllab.experiments.loadtest.arrivals import schedule
from skilllab.experiments.loadtest.records import Columns, Requests
from skilllab.experiments.loadtest.scenario import Scenario
from skilllab.histogram import Histogram
from skilllab.stats import Array, finest_quantile

_SLICES = (4, 60)  # of the time, at least and at most
_SLICE = 0.5  # s that one should be, between the two
_POINTS = 60  # of a percentile curve


@dataclass(frozen=True, slots=True)
class View:
    """A test as it stands after `elapsed` seconds.

    shares: percentiles (0 to 1) up to the finest that so many answers support; response, service: seconds at each, those
    of successes after the warm-up. at: the ends of slices of time (s), and for each the rates (1/s) at which requests came
    due, were answered and failed in it, and how many had come due and had no end at its end. dropped: as in Requests.
    """

    elapsed: float
    finished: int
    failures: int
    dropped: int
    shares: Array
    response: Array
    service: Array
    at: Array
    due: Array
    answered: Array
    failed: Array
    in_flight: Array

    def quantile(self, share: float) -> float:
        """Returns a quantile of the response time so far (s); nan beyond the finest."""
        inside = len(self.shares) and share <= self.shares[-1]
        return float(np.interp(share, self.shares, self.response)) if inside else math.nan


class Live:
    """Takes in what a test has recorded, piece by piece, and shows how it stands.

    Responses are kept as histograms, right to 0.4 %. In flight is who has come due and has no answer yet; in a closed
    test that is all its users all the time.
    """

    def __init__(self, scenario: Scenario) -> None:
        self._scenario = scenario
        length, (fewest, most) = scenario.duration or 30.0, _SLICES
        self.slice = min(max(_SLICE, length / most), length / fewest)
        self._response, self._service = Histogram(), Histogram()
        self._seen = self._failures = 0
        self._counts = {name: np.zeros(0) for name in ("due", "answered", "failed", "gone")}
        self._schedule = schedule(scenario) if scenario.open else iter(())
        self._next = next(self._schedule, None)
        self._dropped = 0

    def take(self, requests: Requests, elapsed: float) -> View:
        """Takes in what was recorded since the last time, and returns how the test stands after `elapsed` seconds."""
        new = requests.columns(self._seen)
        self._seen += len(new.end)
        counted = new.ok & ~new.warm
        self._response.record_many(new.response[counted])
        served = new.service[counted]
        self._service.record_many(served[~np.isnan(served)])
        self._failures += int((~new.ok).sum())
        self._count("answered", new.end[new.ok])
        self._count("failed", new.end[~new.ok])
        self._count("due", self._due(new, elapsed))
        dropped, _, _ = requests.lost("dropped", self._dropped)
        self._count("gone", dropped)
        self._dropped += len(dropped)
        return self._view(elapsed)

    def _due(self, new: Columns, elapsed: float) -> Array:
        """Returns when the requests were due that came due since the last time."""
        if not self._scenario.open:
            return new.intended
        due = []
        while self._next is not None and self._next[0] <= elapsed:
            due.append(self._next[0])
            self._next = next(self._schedule, None)
        return np.array(due)

    def _count(self, name: str, times: Array) -> None:
        places = (times / self.slice).astype(np.int64)
        more = np.bincount(places, minlength=len(self._counts[name])).astype(np.float64)
        more[: len(self._counts[name])] += self._counts[name]
        self._counts[name] = more

    def _view(self, elapsed: float) -> View:
        whole = int(elapsed / self.slice)  # slices that are over
        due, answered, failed, gone = (_padded(column, whole) for column in self._counts.values())
        at: Array = np.arange(1, whole + 1, dtype=np.float64) * self.slice
        count = self._response.count
        finest = finest_quantile(count) if count else 0.0
        shares = -np.expm1(np.linspace(0, math.log1p(-finest), _POINTS)) if count else np.zeros(0)
        in_flight = np.cumsum(due - answered - failed - gone) if self._scenario.open else self._users(at)
        return View(
            elapsed=elapsed,
            finished=self._seen,
            failures=self._failures,
            dropped=self._dropped,
            shares=shares,
            response=self._response.quantiles(shares),
            service=self._service.quantiles(shares),
            at=at,
            due=due / self.slice,
            answered=answered / self.slice,
            failed=failed / self.slice,
            in_flight=in_flight,
        )

    def _users(self, at: Array) -> Array:
        """Returns how many users a closed test has at each of these moments."""
        bounds, stages = self._scenario.bounds, self._scenario.stages
        places = np.clip(np.searchsorted(bounds, at, side="left") - 1, 0, len(stages) - 1)
        return np.array([stages[place].concurrency for place in places], dtype=np.float64)


def _padded(column: Array, length: int) -> Array:
    return np.pad(column[:length], (0, max(0, length - len(column))))
