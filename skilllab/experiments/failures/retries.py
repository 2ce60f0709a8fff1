"""Retries: what they win, what they cost the server, and what comes of many callers who all try again at once."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from skilllab import format as fmt
from skilllab.demo import DemoServer, DemoSettings, RateLimit
from skilllab.engine import GuardOptions, HttpOptions, LayeredExecutionEngine
from skilllab.experiments.failures.skills import USER, registry_of, user_skill
from skilllab.stats import Array, Interval, proportion_interval, quantile

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

_NO_BREAKER = GuardOptions(breaker_failures=None)


class Retried(NamedTuple):
    """What `calls` calls came to with up to `retries` repetitions: answered ones, requests sent, seconds of each call."""

    retries: int
    calls: int
    answered: int
    requests: int
    latency: Array

    @property
    def share(self) -> float:
        """Calls that were answered, of all."""
        return self.answered / self.calls

    @property
    def interval(self) -> Interval:
        """The 95 % interval of the share."""
        return proportion_interval(self.answered, self.calls)


@dataclass(frozen=True, slots=True)
class RetryCosts:
    """Retries against a server that fails each request with probability `p`: what they win and what they cost."""

    p: float
    backoff: float
    rows: tuple[Retried, ...]

    def share_expected(self, retries: int) -> float:
        """Returns 1 - p^(k+1): a call fails when all its k + 1 requests do."""
        return float(1 - self.p ** (retries + 1))

    def requests_expected(self, retries: int) -> float:
        """Returns (1 - p^(k+1)) / (1 - p): requests a call, since another is sent as long as all before it failed."""
        return self.share_expected(retries) / (1 - self.p)

    def frame(self) -> pd.DataFrame:
        """Returns one row a number of retries: answered share and requests a call, measured and expected; p50, p95 (s)."""
        import pandas as pd

        rows = [
            {
                "retries": row.retries,
                "answered": row.share,
                "answered_expected": self.share_expected(row.retries),
                "requests": row.requests / row.calls,
                "requests_expected": self.requests_expected(row.retries),
                "p50": quantile(row.latency, 0.5),
                "p95": quantile(row.latency, 0.95),
            }
            for row in self.rows
        ]
        return pd.DataFrame(rows)

    def plot(self) -> Figure:
        """Returns a figure: the share of answered calls, and beside it the latencies by percentile."""
        from skilllab import plots

        fig = plots.figure(11, 4)
        left, right = fig.subplots(1, 2)
        names = [_times(row.retries) for row in self.rows]
        first, last = self.rows[0], self.rows[-1]
        plots.bars(
            names,
            [row.share for row in self.rows],
            intervals=[row.interval for row in self.rows],
            show=fmt.ratio,
            title=f"With {_times(last.retries)} {fmt.ratio(last.share, 0)} are answered, not {fmt.ratio(first.share, 0)}",
            x_label=f"Calls answered, of {fmt.count(first.calls)}; 95 % interval",
            ax=left,
        )
        slower = quantile(last.latency, 0.95) / quantile(first.latency, 0.95)
        plots.percentile_curve(
            {name: row.latency for name, row in zip(names, self.rows, strict=True)},
            title=f"p95 is {fmt.times(slower, 2)} as long",
            ax=right,
        )
        return fig


async def retry_costs(
    retries: Sequence[int] = (0, 1, 2, 3), *, p: float = 0.3, calls: int = 400, backoff: float = 0.002, seed: int = 0
) -> RetryCosts:
    """Sends the same calls, one after another, with each number of retries to a server that answers 503 at random.

    p: the probability of a 503, drawn anew for each request, from the same seed each time. backoff: seconds before the
    first repetition. One after another, so that the counts depend on the seed alone.
    """
    rows = []
    for number in retries:
        failing = DemoSettings(error_rate=p, error_status=503, seed=seed)
        options = HttpOptions(retries=number, backoff=backoff)
        async with DemoServer(failing) as server:
            registry = registry_of(user_skill(server.url))
            async with LayeredExecutionEngine(registry, guards=_NO_BREAKER, http=options) as engine:
                latency, answered = [], 0
                for call in range(calls):
                    begin = time.perf_counter()
                    answered += (await engine.execute(USER, {"user_id": call + 1})).success
                    latency.append(time.perf_counter() - begin)
            requests = (await server.statistics()).count("user")
        rows.append(Retried(number, calls, answered, requests, np.array(latency)))
    return RetryCosts(p, backoff, tuple(rows))


async def asked_to_wait(callers: int = 3) -> tuple[list[float], int]:
    """Lets callers come at once to a server that takes one; returns when each was answered (s), and requests sent.

    Whoever comes too early is told with Retry-After, which counts in whole seconds, when to come again, and does.
    """
    async with DemoServer(DemoSettings(rate_limit=RateLimit(rate=2.0, burst=1))) as server:
        registry = registry_of(user_skill(server.url))
        async with LayeredExecutionEngine(registry, guards=_NO_BREAKER) as engine:
            begin = time.perf_counter()

            async def call(number: int) -> float:
                await engine.call(USER, {"user_id": number + 1})
                return time.perf_counter() - begin

            ended = await asyncio.gather(*(call(number) for number in range(callers)))
        return sorted(ended), (await server.statistics()).count()


def _times(retries: int) -> str:
    return "1 retry" if retries == 1 else f"{retries or 'no'} retries"
