"""Queues whose capacity is known: M/M/c on a virtual clock, simulated and by formula."""

from __future__ import annotations

import heapq
import math

import numpy as np

from skilllab.experiments.loadtest.search import Finding, Observation, Search
from skilllab.experiments.loadtest.slo import parse_slo
from skilllab.stats import Array


class Queue:
    """c servers with exponential service times of mean 1 s, first come first served; every probe finds it empty."""

    def __init__(self, servers: int, seed: int) -> None:
        self.servers = servers
        self.random = np.random.default_rng(seed)

    def probe(self, rate: float, seconds: float) -> Observation:
        """Returns what Poisson arrivals of that rate meet."""
        intended = np.sort(self.random.uniform(0, seconds, self.random.poisson(rate * seconds)))
        service = self.random.exponential(1.0, len(intended))
        end = self._ends(intended, service)
        return Observation(intended, end - intended, max([seconds, *end[-self.servers :].tolist()]))

    def _ends(self, arrivals: Array, service: Array) -> Array:
        """Returns when each ends: by Lindley's recursion, or Kiefer and Wolfowitz's for several servers."""
        if self.servers == 1:
            worked = np.cumsum(service)
            return np.asarray(worked + np.maximum.accumulate(arrivals - (worked - service)))
        free = [0.0] * self.servers
        ends = []
        for at, needs in zip(arrivals.tolist(), service.tolist(), strict=True):
            ends.append(max(at, free[0]) + needs)
            heapq.heapreplace(free, ends[-1])
        return np.array(ends)


def over(rate: float, servers: int, seconds: float) -> float:
    """Returns the share of responses over so many seconds in an M/M/c queue (Erlang 1917; Gross and Harris, section 2.2)."""
    if rate >= servers:
        return 1.0
    offered, rest = 1.0, 0.0
    for served in range(servers):
        rest += offered
        offered *= rate / (served + 1)
    offered /= 1 - rate / servers
    waits, drain = offered / (offered + rest), servers - rate
    if math.isclose(drain, 1.0):
        both = math.exp(-seconds) * (1 + seconds)
    else:
        both = (drain * math.exp(-seconds) - math.exp(-drain * seconds)) / (drain - 1)
    return (1 - waits) * math.exp(-seconds) + waits * both


def bound_at(rate: float, servers: int, share: float = 0.05) -> float:
    """Returns the seconds that so many responses take at least at that rate: the bound whose capacity is the rate."""
    low, high = 0.0, 1e4
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (middle, high) if over(rate, servers, middle) > share else (low, middle)
    return low


def found(servers: int, utilisation: float, requests: float, seed: int) -> tuple[Finding, float]:
    """Returns what a search finds with the time of so many requests at the true capacity, and that capacity."""
    truth = utilisation * servers
    queue = Queue(servers, seed)
    slo = parse_slo(f"p95 < {bound_at(truth, servers)!r} s")
    search = Search(slo, budget=requests / truth, start=servers * queue.random.uniform(0.05, 0.5))
    while (plan := search.next()) is not None:
        search.add(*plan, queue.probe(*plan))
    return search.finding(), truth


def holds(finding: Finding, truth: float) -> bool:
    """Tells whether the interval has the truth in it."""
    return finding.low <= truth <= finding.high
