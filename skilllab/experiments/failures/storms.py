"""Storms: many callers at once, a server that cannot serve all of them in time, and three ways to come back."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from skilllab import format as fmt
from skilllab.demo import Constant, DemoProcess, DemoSettings
from skilllab.engine import GuardOptions, HttpOptions, HttpRunner, LayeredExecutionEngine
from skilllab.errors import InvalidValueError
from skilllab.experiments.failures.skills import USER, registry_of, user_skill
from skilllab.experiments.failures.waiting import until
from skilllab.stats import Array

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

_AT_ONCE = 1e-6  # s: as good as no backoff
_PATIENT = 30.0  # s: long enough for every caller to be served in turn
_SETTLED = 2.0  # s more than a server should need to work off what came


@dataclass(frozen=True, slots=True)
class Crowd:
    """Callers who come at the same moment, and the one worker that serves them; times in seconds.

    service: what each request takes. timeout: how long a request may take, its wait for the worker included. backoff:
    before the first of `retries` repetitions, twice as long before each later one. seed: of the jitter.
    """

    callers: int = 40
    service: float = 0.01
    timeout: float = 0.1
    retries: int = 3
    backoff: float = 0.15
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("callers", "service", "timeout", "retries", "backoff"):
            if not getattr(self, name) > 0:
                raise InvalidValueError(f"{name}(={getattr(self, name)!r}) must be above 0")

    def ways(self) -> dict[str, tuple[float, Callable[[], float]]]:
        """Returns the three ways by name: the backoff, and the chance (0 to 1) that makes each wait 0.5 to 1.5 times it."""
        return {
            "at once": (_AT_ONCE, lambda: 0.5),
            "all together": (self.backoff, lambda: 0.5),
            "scattered": (self.backoff, random.Random(self.seed).random),
        }


class Way(NamedTuple):
    """What one way to come back led to: callers answered, when each request came (s), when all was over (s)."""

    answered: int
    came: Array
    over: float


@dataclass(frozen=True, slots=True)
class Storm:
    """What the same crowd met with each way to come back."""

    crowd: Crowd
    ways: dict[str, Way]

    def frame(self) -> pd.DataFrame:
        """Returns one row a way: answered callers as a share, requests sent, seconds until all was over."""
        import pandas as pd

        rows = [(name, way.answered / self.crowd.callers, len(way.came), way.over) for name, way in self.ways.items()]
        return pd.DataFrame(rows, columns=["way", "answered", "requests", "over"]).set_index("way")

    def arrivals(self, width: float = 0.05) -> pd.DataFrame:
        """Returns how many requests came in each `width` seconds: one row a span, at its middle, and one column a way."""
        import pandas as pd

        last = max(float(way.came.max()) for way in self.ways.values())
        edges = np.arange(0.0, last + 2 * width, width)
        counts = {name: np.histogram(way.came, edges)[0] for name, way in self.ways.items()}
        return pd.DataFrame(counts, index=pd.Index(edges[:-1] + width / 2, name="time"))

    def _most_back(self, way: Way, width: float) -> int:
        """Returns how many requests came within `width` seconds at most, those left out that all begin with."""
        again = np.sort(way.came)[self.crowd.callers :]
        return max((int(np.sum((again >= first) & (again < first + width))) for first in again), default=0)

    def plot(self) -> Figure:
        """Returns a figure: the share of callers that were answered, and beside it when requests came."""
        from skilllab import plots

        width, table = 0.05, self.frame()
        came = self.arrivals(width)
        back = {name: self._most_back(way, width) for name, way in self.ways.items()}
        fig = plots.figure(11, 4)
        left, right = fig.subplots(1, 2)
        best, worst = table["answered"].max(), table["answered"].min()
        plots.bars(
            list(table.index),
            table["answered"],
            show=lambda share: fmt.ratio(share, 0),
            title=f"Scattered retries get {fmt.ratio(best, 0)} through, instant ones {fmt.ratio(worst, 0)}",
            x_label=f"Callers answered, of {fmt.count(self.crowd.callers)}",
            ax=left,
        )
        plots.time_line(
            came.index,
            {name: came[name] for name in self.ways},
            show=fmt.number,
            title=f"Together, up to {back['all together']} come back at a time; scattered, {back['scattered']}",
            y_label=f"Requests in {fmt.trimmed(fmt.duration(width))}",
            ax=right,
        )
        return fig


async def storm(crowd: Crowd | None = None) -> Storm:
    """Sends the crowd to the same server three times, each time coming back in another way.

    A request that its caller gave up is worked off all the same. No breaker stands before it.
    """
    crowd = crowd or Crowd()
    settings = DemoSettings(latency=Constant(crowd.service), workers=1)
    async with DemoProcess(settings) as server:
        await _come(
            replace(crowd, timeout=_PATIENT), server, _AT_ONCE, lambda: 0.5
        )  # imports, and a server that is warm
        return Storm(crowd, {name: await _come(crowd, server, *way) for name, way in crowd.ways().items()})


async def _come(crowd: Crowd, server: DemoProcess, backoff: float, chance: Callable[[], float]) -> Way:
    options = HttpOptions(max_sockets=1000, timeout=crowd.timeout, retries=crowd.retries, backoff=backoff)
    runner, guards = HttpRunner(options, random=chance), GuardOptions(breaker_failures=None)
    registry = registry_of(user_skill(server.url))
    async with LayeredExecutionEngine(registry, guards=guards, runners={"http": runner}) as engine:
        await engine.call(USER, {"user_id": 1})  # imports, and a connection
        before = len(await server.log())
        begin = time.monotonic()  # the clock of the server's log
        calls = [engine.execute(USER, {"user_id": number + 1}) for number in range(crowd.callers)]
        answered = sum(result.success for result in await asyncio.gather(*calls))
        over = time.monotonic() - begin

    async def drained() -> bool:
        return not (await server.statistics()).in_flight

    await until(drained, 2 * crowd.callers * (crowd.retries + 1) * crowd.service + _SETTLED)
    came = [served.arrived - begin for served in (await server.log())[before:]]
    return Way(answered, np.array(came), over)
