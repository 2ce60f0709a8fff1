"""How many calls at once: throughput and latency of execute_many against its limit, over a real API server."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from skilllab import format as fmt
from skilllab.define import http_skill
from skilllab.demo import DemoProcess, DemoSettings, Lognormal
from skilllab.demo.content import USERS
from skilllab.engine import HttpOptions, LayeredExecutionEngine
from skilllab.errors import InvalidValueError
from skilllab.experiments.batching.rounds import Progress, counted, ends, middle, middle_interval, turns
from skilllab.registry import InMemorySkillRegistry
from skilllab.stats import Array, Interval, quantiles

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

LIMITS = (1, 2, 4, 8, 16, 32, 64)
_ENOUGH = 0.9  # of the highest throughput is all that is worth waiting for
_SKILL = "user"
_FIRST = 1  # number of the first user
_EACH = 3  # calls for each place at least: those of the first wave start at once, and the last are not counted


def served_by(workers: int = 8, seed: int = 0) -> DemoSettings:
    """Returns a server whose workers take 8 ms in the median, 24 ms at p95 (lognormal); the rest wait their turn."""
    return DemoSettings(latency=Lognormal(median=0.008, p95=0.024), workers=workers, log=0, seed=seed)


class Level(NamedTuple):
    """One limit, a number a round. seconds: 1 / throughput, while every place is taken. p50, p95: a caller waits."""

    seconds: Array
    p50: Array
    p95: Array


@dataclass(frozen=True, slots=True)
class Parallel:
    """Throughput and latency by limit. workers: requests that the server serves at once."""

    workers: int | None
    levels: Mapping[int, Level]

    @property
    def limits(self) -> tuple[int, ...]:
        """The limits tried."""
        return tuple(self.levels)

    def throughput(self, limit: int) -> float:
        """Returns calls a second, median over the rounds."""
        return 1 / middle(self.levels[limit].seconds)

    def throughput_interval(self, limit: int) -> Interval | None:
        """Returns the 95 % interval of the throughput, None with fewer than 6 rounds."""
        one = middle_interval(self.levels[limit].seconds)
        return None if one is None else Interval(1 / one.high, 1 / one.low, one.confidence)

    @property
    def knee(self) -> int:
        """The smallest limit that has 90 % of the highest throughput: a higher one only makes calls wait."""
        best = max(map(self.throughput, self.limits))
        return next(limit for limit in self.limits if self.throughput(limit) >= _ENOUGH * best)

    def frame(self) -> pd.DataFrame:
        """Returns one row a limit: calls a second and seconds, medians over the rounds with their intervals (NaN: none)."""
        import pandas as pd

        rows = []
        for limit, level in self.levels.items():
            p50, p95 = ((middle(column), *ends(middle_interval(column))) for column in (level.p50, level.p95))
            rows.append((limit, self.throughput(limit), *ends(self.throughput_interval(limit)), *p50, *p95))
        names = [name + end for name in ("throughput", "p50", "p95") for end in ("", "_low", "_high")]
        return pd.DataFrame(rows, columns=["limit", *names])

    def plot(self, ax: Axes | None = None) -> Axes:
        """Draws what one caller waits (p50, p95) and what a call takes of the whole, against the limit."""
        from skilllab import plots

        columns = {
            "p95": [level.p95 for level in self.levels.values()],
            "p50": [level.p50 for level in self.levels.values()],
            "1 / throughput": [level.seconds for level in self.levels.values()],
        }
        return plots.growth(
            self.limits,
            {name: list(map(middle, rounds)) for name, rounds in columns.items()},
            intervals={name: list(map(middle_interval, rounds)) for name, rounds in columns.items()},
            title=self._finding(),
            x_label="Calls at once (limit)",
            y_label="Time a call",
            ax=ax,
        )

    def __str__(self) -> str:
        first, last = self.limits[0], self.limits[-1]
        rates = ", ".join(
            f"{fmt.rate(round(self.throughput(limit)))} with {limit}" for limit in (first, self.knee, last)
        )
        served = "all at once" if self.workers is None else f"{self.workers} at once"
        return f"{self._finding()}. Throughput {rates}; the server serves {served}."

    def _finding(self) -> str:
        first, knee, last = self.limits[0], self.knee, self.limits[-1]
        gain = fmt.times(self.throughput(knee) / self.throughput(first), 2)
        if knee == last:
            return f"Up to {knee} at once throughput grows, to {gain}"
        slower = fmt.times(middle(self.levels[last].p95) / middle(self.levels[knee].p95), 2)
        more = fmt.times(self.throughput(last) / self.throughput(knee))
        return f"{knee} at once get {gain} as much done as {first}; {last} get {more} of that, and their p95 is {slower} as long"


async def parallel(
    limits: Sequence[int] = LIMITS,
    *,
    settings: DemoSettings | None = None,
    calls: int = 100,
    rounds: int = 10,
    seed: int = 0,
    on_progress: Progress | None = None,
) -> Parallel:
    """Runs execute_many with each limit against a demo API server in a process of its own, in turns.

    settings: of the server; `served_by()` unless given. calls: in each run, and at least three for each place. It is a
    closed model: a call starts when another has ended, and what its caller waits counts from there.
    Raises InvalidValueError for values without a meaning, and the error of a call that failed.
    """
    limits = counted("limits", limits)
    counted("rounds", [rounds])
    counted("calls", [calls])
    settings = settings or served_by(seed=seed)
    if settings.error_rate or settings.rate_limit:
        raise InvalidValueError("settings with errors or a rate limit would measure retries: leave them out")
    async with DemoProcess(settings) as server:
        registry = InMemorySkillRegistry()
        await registry.register(http_skill(id=_SKILL, url=f"{server.url}/users/{{user_id}}"))
        http = HttpOptions(max_sockets=limits[-1])
        async with LayeredExecutionEngine(
            registry, http=http, results=None, clock=time.perf_counter, wall_clock=time.perf_counter
        ) as engine:
            await _run(engine, limits[-1], 2 * limits[-1], 0)  # opens every connection
            arms = {limit: partial(_run, engine, limit, max(calls, _EACH * limit)) for limit in limits}
            runs = await turns(arms, rounds, seed=seed, on_progress=on_progress)
    return Parallel(settings.workers, {limit: Level(*np.array(values).T) for limit, values in runs.items()})


async def _run(engine: LayeredExecutionEngine, limit: int, calls: int, turn: int) -> tuple[float, float, float]:
    """Runs the calls once; seconds count until the last call begins, for then places become empty."""
    asked = [(_SKILL, {"user_id": _FIRST + number % USERS}) for number in range(calls)]
    starts, latencies = [], []
    for result in await engine.execute_many(asked, limit=limit):
        if result.error is not None:
            raise result.error
        about = result.metadata
        starts.append(about.start)
        latencies.append((about.duration or 0.0) + about.queue_time + about.overhead)
    p50, p95 = quantiles(latencies, [0.5, 0.95]).tolist()
    return (max(starts) - min(starts)) / (calls - limit), p50, p95
