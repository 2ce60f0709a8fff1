"""The search for a capacity: which probe is next, and what all of them say. Pure logic, it never waits.

First the rate is doubled or halved until one probe holds and one does not, and the gap is halved until it is a third.
Then come rounds of probes in turn below and above the edge as it is known by then, each round's longer than the last's
(as MLRsearch does, RFC draft-ietf-bmwg-mlrsearch). Only the long ones count for the result: short ones begin empty and
end before a slow backlog shows.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from skilllab.conditions import Condition
from skilllab.experiments.loadtest.edge import Edge, edge, load, target
from skilllab.experiments.loadtest.metrics import metric
from skilllab.stats import Array, proportion_interval

WARM = 0.25  # of a probe is left out: it begins without a queue
_CLEARLY = 3.0  # times what is allowed over the bound: no chance of a short probe
_GAP = 1.3  # high : low at which the search for a bracket ends
_OFFSETS = (-1.0, 1.0, -0.5, 0.5, -1.2, 1.2, -0.8, 0.8)  # of a round's probes, in units of the spread
_PER_ROUND = len(_OFFSETS) + 1  # and one far below: what is there without a queue is no matter of the rate
_BELOW = 0.5  # of the edge's rate is far below
_REACH = 1.2  # by which the log odds change over one spread
_SPREAD, _NARROWEST, _WIDEST = 0.12, 0.01, 0.12  # of log rate: at first, at least, at most
_NEAR = 5.0  # spreads from the edge within which a probe counts: further away the line is none
_ROOM = 1.5  # times what would just do: the next interval may be wider than this one
_MOST_TIMES = 16.0  # the time so far: what a wider interval would take cannot be told from it
_GROWTH = 1.5  # a round's probes : those of the round before
_MOST_ROUNDS = 7
_COUNTED = 4.0  # the longest probe : the shortest that still counts
_REST = 1.1  # seconds that a probe takes, its backlog's end included : its length
_FEW, _ENOUGH = 100, 200  # requests of a probe: to find a bracket, at the edge
_BOUNDS, _MORE_BOUNDS = 10, 30  # times the latency bound that a probe lasts at least
_SHORTEST = 0.5  # s that a probe lasts at least, where no latency is bounded
_LAG = 0.01  # s by which a request is late where no latency is bounded
_OUTRUN = 0.5  # of a probe's requests late: the generator does not reach its rate, and no higher one
_FASTEST = 1e5  # 1/s that no generator here reaches


@dataclass(frozen=True, slots=True)
class Probe:
    """One probe: requests at a constant rate (Poisson arrivals), from an empty target.

    rate: of arrivals, 1/s. seconds: in which they came. elapsed: until the last of them had its end. requests: that
    count, after the first quarter. loads: of each condition, see `edge.load`. values: of each condition's metric, however
    few the requests. phase: "alone", "bracket" or "edge". late: share of requests that the generator sent late, by
    `lateness` or more. lost: how the process of the load test ended by itself, "" where it did not; such a probe is broken,
    whatever was answered before.
    """

    rate: float
    seconds: float
    elapsed: float
    requests: int
    loads: tuple[float, ...]
    values: tuple[float, ...]
    holds: bool
    clearly_broken: bool
    phase: str
    late: float = 0.0
    lost: str = ""


@dataclass(frozen=True, slots=True)
class Observation:
    """What a probe saw, a value a request that was to be sent: intended start (s from its begin) and response (s).

    A response is inf where a request failed, was dropped or given up. lag: by which the generator was late; nothing
    when None. elapsed: seconds until the backlog had drained. seconds: after which it was cut short. lost: as of a Probe.
    """

    intended: Array
    response: Array
    elapsed: float
    lag: Array | None = None
    seconds: float = math.inf
    lost: str = ""


@dataclass(frozen=True, slots=True)
class Finding:
    """The interval of the capacity in requests a second: 0 and inf where nothing bounds it.

    needed: seconds that would do, if the time was too short; inf where none would. at_least: whether that is no estimate but
    only a lower bound.
    """

    at: float | None
    low: float
    high: float
    needed: float | None
    at_least: bool = False


def summarised(conditions: Sequence[Condition], rate: float, seconds: float, seen: Observation, phase: str) -> Probe:
    """Returns the summary of what a probe saw, of its requests after the first quarter."""
    counts = seen.intended >= WARM * seconds
    response = seen.response[counts]
    loads = tuple(load(condition, response) for condition in conditions)
    shares = [got / target(condition) for got, condition in zip(loads, conditions, strict=True)]
    late = 0.0
    if seen.lag is not None and len(response):
        late = float((seen.lag[counts] >= lateness(conditions)).mean())
    return Probe(
        rate,
        seconds,
        seen.elapsed,
        len(response),
        loads,
        tuple(metric(condition, response) for condition in conditions),
        not seen.lost and max(shares) <= 1,
        bool(seen.lost) or max(shares) > _CLEARLY,
        phase,
        late,
        seen.lost,
    )


def lateness(conditions: Sequence[Condition]) -> float:
    """Returns the seconds by which a request is late: half of the latency bound, or 10 ms where there is none."""
    return _latency_bound(conditions) / 2 or _LAG


def _latency_bound(conditions: Sequence[Condition]) -> float:
    return max((condition.bound for condition in conditions if condition.kind == "duration"), default=0.0)


class Search:
    """Plans probes: `next()` gives the rate and the length of the next, None at the end; `add` takes what it saw.

    budget: seconds for all probes. start: a rate to begin with. precision: share of its low end that the interval may
    be wide; the search ends when it is. confidence: of the interval.
    """

    def __init__(
        self,
        conditions: Sequence[Condition],
        *,
        budget: float,
        start: float,
        precision: float = 0.1,
        confidence: float = 0.95,
    ) -> None:
        self.conditions = tuple(conditions)
        self.probes: list[Probe] = []
        self.used = 0.0
        self._budget, self._start, self._precision, self._confidence = budget, start, precision, confidence
        self._bound = _latency_bound(self.conditions)
        self._lengths: list[float] | None = None
        self._round = self._place = 0
        self._centre, self._spread = start, _SPREAD

    def next(self) -> tuple[float, float] | None:
        """Returns rate (1/s) and length (s) of the next probe, None when the time is used or the interval narrow enough."""
        if self._lengths is None:
            if self._outrun():
                return None
            rate = self._bracketing()
            if rate is not None:
                length = self._coarse(rate) * (1 if self._one_sided() else 2)
                return (rate, length) if self.used + length <= self._budget else None
            self._lengths = self._rounds()
        if self._place == _PER_ROUND:
            self._round, self._place = self._round + 1, 0
        if self._round >= len(self._lengths):
            return None
        length = self._lengths[self._round]
        if self.used + length > self._budget * 1.05 and self._edge_probes():
            return None
        self._place += 1
        self._locate()
        if self._place == _PER_ROUND:
            return _BELOW * self._centre, length
        offset = _OFFSETS[self._place - 1] * (-1) ** self._round
        return self._centre * math.exp(offset * self._spread), length

    def add(self, rate: float, seconds: float, seen: Observation) -> Probe:
        """Takes what a probe saw, and returns its summary."""
        phase = "bracket" if self._lengths is None else "edge"
        probe = summarised(self.conditions, rate, seconds, seen, phase)
        self.probes.append(probe)
        self.used += seen.elapsed
        return probe

    def finding(self) -> Finding:
        """Returns what the probes so far say."""
        edges = self._edges()
        low, high = self._bracket()
        at = min((found.at for found in edges if found is not None), default=None)
        if at is not None:
            rates = [probe.rate for probe in self.probes]
            fitted = [found for found in edges if found is not None]
            # What lies outside of the probed rates is extrapolation: there the bracket says as much as can be said.
            high = min(found.high if found.high <= max(rates) else high for found in fitted)
            low = min(found.low if found.low >= min(rates) else low for found in fitted)
            low *= 1 - self._unseen()
            at = min(max(at, low), high)
        if low > 0 and high / low - 1 <= self._precision:
            return Finding(at, low, high, None)
        if self._lengths is None and self._outrun():
            return Finding(at, low, high, math.inf)
        return Finding(at, low, high, *self._needed(low, high, at))

    # where to look

    def _bracketing(self) -> float | None:
        """Returns the next rate that brings the edge between two probes, None when it is between two near ones."""
        broken = [probe.rate for probe in self.probes if probe.clearly_broken]
        held = [probe.rate for probe in self.probes if not probe.clearly_broken]
        if not self.probes:
            return self._start
        if not broken:
            return 2 * max(held)
        if not held:
            return min(broken) / 2
        low, high = max(held), min(broken)
        self._centre = math.sqrt(low * high)
        return self._centre if low < high and high / low > _GAP else None

    def _outrun(self) -> bool:
        """Tells whether nothing broke up to the fastest that the generator can send: a higher rate would tell no more."""
        if not self.probes or any(probe.clearly_broken for probe in self.probes):
            return False
        last = self.probes[-1]
        return not self._reached(last) or 2 * last.rate > _FASTEST

    def _reached(self, probe: Probe) -> bool:
        """Tells whether a probe had the rate that it was to have; where a latency is bounded lag is part of it, and breaks it."""
        return self._bound > 0 or probe.late <= _OUTRUN

    def _one_sided(self) -> bool:
        return len({probe.clearly_broken for probe in self.probes}) < 2

    def _coarse(self, rate: float) -> float:
        return max(_FEW / rate, _BOUNDS * self._bound or _SHORTEST)

    def _fine(self, rate: float) -> float:
        return max(_ENOUGH / rate, _MORE_BOUNDS * self._bound or _SHORTEST)

    def _rounds(self) -> list[float]:
        """Returns the probe lengths of the rounds: as many rounds as the time that is left has room for."""
        left = self._budget - self.used
        of_rounds = [
            left / (_PER_ROUND * _REST * sum(_GROWTH**number for number in range(rounds)))
            for rounds in range(1, _MOST_ROUNDS + 1)
        ]
        rounds = max([n for n, first in enumerate(of_rounds, 1) if first >= self._fine(self._centre)], default=1)
        first = max(of_rounds[rounds - 1], self._coarse(self._centre))
        return [first * _GROWTH**number for number in range(rounds)]

    def _locate(self) -> None:
        """Moves the centre to the edge as it is known, and the spread to where the condition changes clearly."""
        probes = self._edge_probes()
        if not probes:
            return
        if len({probe.holds for probe in probes}) == 1:
            self._centre *= math.exp((0.7 if probes[0].holds else -0.7) * self._spread)
            return
        fitted = [found for found in self._edges(rough=True) if found is not None]
        if fitted:
            binding = min(fitted, key=lambda found: found.at)
            move = math.log(binding.at / self._centre)
            self._centre *= math.exp(min(max(move, -self._spread), self._spread))
            self._spread = min(max(_REACH / binding.slope, _NARROWEST), _WIDEST)

    # what they say

    def _edge_probes(self) -> list[Probe]:
        """The probes that count: those at the edge, without the short ones of early rounds."""
        probes = [probe for probe in self.probes if probe.phase == "edge"]
        longest = max((probe.seconds for probe in probes), default=0.0)
        long = [probe for probe in probes if probe.seconds >= longest / _COUNTED]
        near = [probe for probe in long if abs(math.log(probe.rate / self._centre)) <= _NEAR * self._spread]
        return near if len(near) >= len(_OFFSETS) // 2 else long

    def _edges(self, *, rough: bool = False) -> list[Edge | None]:
        probes = self._edge_probes()
        far = [probe for probe in self.probes if probe.rate <= 1.1 * _BELOW * self._centre]
        rates = np.array([probe.rate for probe in probes])
        weights = np.array([float(probe.requests) for probe in probes])
        return [
            edge(
                condition,
                rates,
                np.array([probe.loads[number] for probe in probes]),
                weights,
                self._confidence,
                0.0 if rough else _most(condition, number, far),
            )
            for number, condition in enumerate(self.conditions)
        ]

    def _bracket(self) -> tuple[float, float]:
        """Returns the rates on both sides that are beyond doubt: held at half of all that broke, broken at twice."""
        held = [probe.rate for probe in self.probes if probe.holds and self._reached(probe)]
        broken = [probe.rate for probe in self.probes if not probe.holds]
        low = max((rate for rate in held if 2 * rate <= min(broken, default=math.inf)), default=0.0)
        high = min((rate for rate in broken if rate >= 2 * max(held, default=0.0)), default=math.inf)
        return low, high

    def _unseen(self) -> float:
        """Returns the share of overload whose backlog grows too slowly to break the bound within the longest probe."""
        longest = max((probe.seconds for probe in self.probes), default=0.0) * (1 - WARM)
        return min(0.5, self._bound / longest) if longest else 0.0

    def _needed(self, low: float, high: float, at: float | None) -> tuple[float, bool]:
        """Returns the seconds that would do, and whether they are only a lower bound.

        An interval is as wide as one over the square root of the time; where there is none, or one that is too wide, nothing
        can be told but that it takes many times as long.
        """
        probes = [probe for probe in self.probes if probe.phase == "edge"]
        spent = sum(probe.elapsed for probe in probes)
        rate = at or high if math.isfinite(at or high) else max(low, self._start)
        least = self.used - spent + _REST * _PER_ROUND * self._fine(rate or self._start)
        if not spent or at is None or low == 0 or math.isinf(high):
            return max(least, _MOST_TIMES / 4 * self._budget if spent else 0.0), True
        times = _ROOM * ((high / low - 1) / self._precision) ** 2
        return max(least, self.used - spent + spent * min(times, _MOST_TIMES)), times > _MOST_TIMES


def _most(condition: Condition, number: int, probes: Sequence[Probe]) -> float:
    """Returns the upper end of what a condition's load may be at these probes, as a share of what is allowed."""
    counted = [probe for probe in probes if probe.requests]
    if not counted:
        return 1.0
    seen = sum(probe.requests for probe in counted)
    load = sum(probe.loads[number] * probe.requests for probe in counted) / seen
    if condition.metric != "mean":
        load = proportion_interval(round(load * seen), seen).high
    return load / target(condition)
