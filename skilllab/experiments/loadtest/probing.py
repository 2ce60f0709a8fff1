"""Probes of a search for a capacity: sent to a skill one after another, here or from a child."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace

import numpy as np

from skilllab.engine import LayeredExecutionEngine
from skilllab.errors import WorkerLostError
from skilllab.experiments.loadtest.arrivals import schedule
from skilllab.experiments.loadtest.child import Child
from skilllab.experiments.loadtest.generator import Ending, run
from skilllab.experiments.loadtest.metrics import answers
from skilllab.experiments.loadtest.records import Requests
from skilllab.experiments.loadtest.scenario import Abort, Scenario, Stage
from skilllab.experiments.loadtest.search import Observation, Probe, Search

OnProbe = Callable[[Probe], object]
Prober = Callable[[float, float], Awaitable[Observation]]
"""Sends Poisson arrivals at a rate (1/s) for so many seconds to an empty target, and waits until all have their end."""


async def explore(
    search: Search, probe: Prober, on_probe: OnProbe | None = None, stop: asyncio.Event | None = None
) -> str:
    """Runs the probes that a search plans, until it plans no more, and returns "".

    Where the process of a probe cannot even begin, the search ends with the probes before, and the answer says why.
    """
    while not (stop is not None and stop.is_set()) and (plan := search.next()) is not None:
        rate, seconds = plan
        try:
            seen = await probe(rate, seconds)
        except WorkerLostError as error:
            return str(error)
        if stop is not None and stop.is_set():
            break  # what was cut short says nothing
        done = search.add(rate, min(seconds, seen.seconds), seen)
        if on_probe is not None:
            on_probe(done)
    return ""


class Target:
    """Sends probes to a skill, one after another."""

    def __init__(
        self,
        engine: LayeredExecutionEngine,
        child: Child | None,
        alone: Scenario,
        abort: Abort | None,
        stop: asyncio.Event,
    ) -> None:
        self._engine, self._child, self._alone, self._abort, self._stop = engine, child, alone, abort, stop
        self._number = 0

    async def alone(self) -> Observation:
        """Sends requests one at a time."""
        return await self._observe(self._alone)

    async def probe(self, rate: float, seconds: float) -> Observation:
        """Sends Poisson arrivals; the generator waits until all requests have their end, so that no backlog is left."""
        self._number += 1
        stage = Stage(seconds, rate=rate)
        seed = self._alone.seed * 100_003 + self._number
        return await self._observe(replace(self._alone, stages=(stage,), count=None, seed=seed, abort=self._abort))

    async def _observe(self, scenario: Scenario) -> Observation:
        requests, now = Requests(), asyncio.get_running_loop().time
        begin = now()
        ending = await self._run(scenario, requests)
        columns = requests.columns()
        last = float(columns.end.max()) if len(columns.end) else 0.0
        elapsed = now() - begin if self._child is None else max(last, ending.seconds)
        elapsed = max(elapsed, 1e-9)
        if ending.lost:
            return _unanswered(scenario, requests, elapsed, ending.why)
        seen = answers(columns, np.concatenate([requests.lost(which)[0] for which in ("dropped", "unfinished")]))
        return Observation(seen.intended, seen.response, elapsed, seen.lag, ending.seconds)

    async def _run(self, scenario: Scenario, requests: Requests) -> Ending:
        if self._child is None:
            return await run(self._engine, scenario, requests, stop=self._stop)
        try:
            return await self._child.run(scenario, requests, stop=self._stop)
        except WorkerLostError as error:
            if not self._child.elapsed:  # it did not begin, which says nothing of the rate
                raise
            return Ending("aborted", self._child.elapsed, str(error), apart=True, lost=True)


def _unanswered(scenario: Scenario, requests: Requests, elapsed: float, why: str) -> Observation:
    """Returns what a probe saw whose process ended by itself: all that was to be sent counts as not answered.

    What was answered before was answered on the way to the end, and what was under way then is not known.
    """
    if scenario.open:
        intended = np.array([due for due, _ in schedule(scenario)], dtype=np.float64)
    else:
        intended = np.sort(requests.columns().intended)
    return Observation(intended, np.full(len(intended), np.inf), elapsed, lost=why)
