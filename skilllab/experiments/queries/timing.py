"""Fair timings of who answers queries: all arms in one interleaved run, with medians and intervals."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from skilllab import format as fmt
from skilllab.errors import InvalidValueError
from skilllab.experiments.queries.peers import FORMULATIONS, Peer, SqliteSkills
from skilllab.query import SkillQuery
from skilllab.stats import Array, Comparison, Interval, interleave, paired_bootstrap, quantile, quantile_interval

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

_SAMPLE = 2e-3  # s


@dataclass(frozen=True, slots=True)
class QueryTimes:
    """Seconds a query, one number a round, by (who answered, point: a number of skills, a page, a kind of query)."""

    seconds: Mapping[tuple[str, Any], Array]

    @property
    def names(self) -> tuple[str, ...]:
        """Who answered, in order."""
        return tuple(dict.fromkeys(name for name, _ in self.seconds))

    @property
    def points(self) -> tuple[Any, ...]:
        """What was varied, in order."""
        return tuple(dict.fromkeys(point for _, point in self.seconds))

    def median(self, name: str, point: Any) -> float:
        """Returns the median over the rounds, in seconds a query."""
        return quantile(self.seconds[name, point], 0.5)

    def interval(self, name: str, point: Any) -> Interval | None:
        """Returns the 95 % interval of the median, None with fewer rounds than it takes (6)."""
        return quantile_interval(self.seconds[name, point], 0.5)

    def compare(self, one: str, other: str, point: Any) -> Comparison:
        """Returns how many times as long `other` takes as `one`, paired by round."""
        return paired_bootstrap(self.seconds[one, point], self.seconds[other, point])

    def break_even(self, point: Any, *, fresh: str, hit: str, miss: str) -> tuple[float, Interval | None]:
        """Returns the hit ratio above which a cache saves time, and its interval over the rounds.

        `fresh` asks without a cache, `hit` is served from one, `miss` looks there in vain and stores the answer. The
        mean with a cache, h * hit + (1 - h) * miss, equals fresh at h = (miss - fresh) / (miss - hit), here kept within
        0 (it always pays) and 1 (it never does).
        """
        without, served, stored = (self.seconds[name, point] for name in (fresh, hit, miss))
        gain = stored - served
        ratios = np.where(gain > 0, np.clip((stored - without) / np.where(gain > 0, gain, 1), 0, 1), 1.0)
        return quantile(ratios, 0.5), quantile_interval(ratios, 0.5)

    def frame(self) -> pd.DataFrame:
        """Returns one row for each point and each who, with the median and its interval (NaN: too few rounds) in seconds."""
        import pandas as pd

        rows = []
        for (name, point), values in self.seconds.items():
            one = self.interval(name, point)
            ends = (one.low, one.high) if one else (math.nan, math.nan)
            rows.append((point, name, self.median(name, point), *ends, len(values)))
        return pd.DataFrame(rows, columns=["point", "who", "median", "low", "high", "rounds"])

    def table(self) -> pd.DataFrame:
        """Returns medians as text, a row for each point and a column for each who."""
        frame = self.frame()
        frame["text"] = frame["median"].map(fmt.duration)
        table = frame.pivot_table(index="point", columns="who", values="text", aggfunc="first", sort=False)
        return table[list(self.names)].rename_axis(index=None, columns=None).fillna(fmt.NOT_MEASURED)

    def plot(
        self, *, names: Sequence[str] | None = None, title: str = "", x_label: str = "Skills", ax: Axes | None = None
    ) -> Axes:
        """Draws the medians of `names` (all without) and their intervals against the points, numbers, on log axes."""
        from skilllab import plots

        shown, points = self.names if names is None else names, self.points
        medians = {n: [self.median(n, p) if (n, p) in self.seconds else math.nan for p in points] for n in shown}
        bands = {n: [self.interval(n, p) if (n, p) in self.seconds else None for p in points] for n in shown}
        return plots.growth(
            points, medians, intervals=bands, title=title, x_label=x_label, y_label="Time a query", ax=ax
        )

    def bars(self, point: Any, *, title: str = "", x_label: str = "Time a query", ax: Axes | None = None) -> Axes:
        """Draws everybody's median at one point, with its interval, on a log axis."""
        from skilllab import plots

        medians = [self.median(name, point) for name in self.names]
        ends = [self.interval(name, point) for name in self.names]
        return plots.bars(
            self.names, medians, intervals=ends, show=fmt.duration, log=True, title=title, x_label=x_label, ax=ax
        )


def time_queries(
    arms: Mapping[tuple[str, Any], tuple[Peer, Sequence[SkillQuery]]], *, rounds: int, seed: int = 0
) -> QueryTimes:
    """Times all arms in one interleaved run: in each round every peer answers each of its queries, in random order.

    arms: by (name, point), who answers and what is asked. Quick arms ask again and again until a sample takes 2 ms:
    the arm before left the processor's caches full of its own. Raises InvalidValueError for no arms, queries or rounds.
    """
    batches, asked = {}, {}
    for number, (key, (peer, queries)) in enumerate(arms.items()):
        if not queries:
            raise InvalidValueError(f"arms[{key!r}] must ask at least one query")
        calls = [peer.prepare(query) for query in queries]
        times = math.ceil(_SAMPLE / _seconds(calls))
        batches[str(number)] = partial(_ask_all, calls, times)
        asked[str(number)] = times * len(calls)
    seconds = interleave(batches, rounds, inner=1, seed=seed)
    return QueryTimes({key: seconds[number] / asked[number] for key, number in zip(arms, batches, strict=True)})


def tuned(database: SqliteSkills, queries: Sequence[SkillQuery], *, rounds: int = 9) -> SqliteSkills:
    """Returns the variant of the database whose formulation answers the queries fastest, by the median of the rounds."""
    variants = {name: database.variant(formulation=name) for name in FORMULATIONS}
    times = time_queries({(name, 0): (peer, queries) for name, peer in variants.items()}, rounds=rounds)
    return variants[min(FORMULATIONS, key=lambda name: times.median(name, 0))]


def _ask_all(calls: Sequence[Callable[[], object]], times: int) -> None:
    for _ in range(times):
        for call in calls:
            call()


def _seconds(calls: Sequence[Callable[[], object]]) -> float:
    """Returns how long it takes to make the calls once, when they are warm."""
    taken = math.inf
    for _ in range(3):
        start = time.perf_counter()
        _ask_all(calls, 1)
        taken = min(taken, time.perf_counter() - start)
    return max(taken, 1e-9)
