"""Changes under way: what precise invalidation saves of the hits that emptying the cache would lose."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from skilllab import format as fmt
from skilllab.cache.cache import SkillCache
from skilllab.cache.keys import QUERY
from skilllab.errors import InvalidValueError
from skilllab.experiments.queries import finished
from skilllab.model import Layer, SkillDefinition
from skilllab.query import SkillQuery
from skilllab.registry import InMemorySkillRegistry
from skilllab.settings import CACHE_MAX_SIZE, QUERY_TTL
from skilllab.testing import FakeClock
from skilllab.trace.synthetic import zipf
from skilllab.trace.trace import Trace

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

Counts = npt.NDArray[np.int64]

_LAYERS: tuple[Layer, ...] = (1, 2, 3)
_TAGS = ("io", "text", "batch", "network")
_SHAPES: tuple[Mapping[str, Any], ...] = (
    {},
    {"limit": 20},
    {"limit": 20, "offset": 20},
    {"layer": 1},
    {"layer": 2},
    {"layer": 3},
    {"tags": ["io", "text"]},
    {"all_tags": ["io", "batch"]},
    {"layer": 1, "tags": ["network"]},
    {"text": "reads"},
)
"""What the queries of the churn workload ask for besides a category."""


@dataclass(frozen=True, slots=True)
class Churn:
    """Hits of one sequence of queries under three ways to treat cached pages when skills change.

    no_change: nothing changes, the upper bound. precise: the registry's own invalidation. flush: every change empties
    the query cache. Each holds the hits of `window` queries after one another.
    """

    queries: int
    changes: int
    change_every: int
    window: int
    no_change: Counts
    precise: Counts
    flush: Counts

    @property
    def hits_no_change(self) -> int:
        """Hits when nothing changes."""
        return int(self.no_change.sum())

    @property
    def hits_precise(self) -> int:
        """Hits with the registry's own invalidation."""
        return int(self.precise.sum())

    @property
    def hits_flush(self) -> int:
        """Hits when every change empties the cache."""
        return int(self.flush.sum())

    @property
    def kept_share(self) -> float:
        """Of the hits that flushing loses, the share that precise invalidation keeps; NaN when it loses none."""
        lost = self.hits_no_change - self.hits_flush
        return (self.hits_precise - self.hits_flush) / lost if lost else float("nan")

    def frame(self) -> pd.DataFrame:
        """Returns one row a window: queries so far at its middle, and the hit ratio of each way."""
        import pandas as pd

        rates = {name: getattr(self, field) / self.window for field, name in _WAYS.items()}
        return pd.DataFrame({"query": (np.arange(len(self.precise)) + 0.5) * self.window, **rates})

    def since_change(self) -> pd.DataFrame:
        """Returns the mean hit ratio of each way by the number of queries since the last change."""
        frame = self.frame()
        frame["query"] %= self.change_every
        return frame[self.window * np.arange(len(frame)) >= self.change_every].groupby("query").mean().reset_index()

    def plot(self, ax: Axes | None = None) -> Axes:
        """Draws the mean hit ratio by queries since the last change."""
        from skilllab import plots

        frame = self.since_change()
        ax = plots.time_line(
            frame["query"],
            {name: frame[name] for name in frame.columns[1:]},
            title=f"Precise invalidation keeps {fmt.ratio(self.kept_share, 0)} of the hits that flushing loses",
            x_label="Queries since the last change",
            y_label=f"Hit ratio (mean of {fmt.count(self.changes)} changes)",
            ax=ax,
        )
        ax.set_xlim(0, self.change_every)
        return ax

    def __str__(self) -> str:
        return (
            f"{fmt.count(self.queries)} queries, {fmt.count(self.changes)} changes: {fmt.count(self.hits_no_change)} hits "
            f"without changes, {fmt.count(self.hits_precise)} precise, {fmt.count(self.hits_flush)} flushed; precise keeps "
            f"{fmt.ratio(self.kept_share)}"
        )


_WAYS = {"no_change": "no changes", "precise": "precise invalidation", "flush": "flush at every change"}


def churn(
    *,
    seed: int = 0,
    queries: int = 20_000,
    skills: int = 1000,
    categories: int = 20,
    distinct: int = 200,
    exponent: float = 1.0,
    change_every: int = 100,
    rate: float = 10.0,
    ttl: float | None = QUERY_TTL,
    window: int = 10,
) -> Churn:
    """Asks one seeded sequence of queries of three registries and counts cache hits; no real time passes.

    queries: asked, a whole number of windows. distinct: different queries, each naming one of `categories` categories,
    drawn by Zipf's law with `exponent`. change_every: queries between two updates of a random skill, a whole number of
    windows. rate: queries per second of the registry's clock, at random times (Poisson). ttl: seconds that a page lives.
    Raises InvalidValueError for counts below 1 or that do not divide, and more distinct queries than the workload has.
    """
    _require_counts(queries=queries, skills=skills, categories=categories, change_every=change_every, window=window)
    if queries % window or change_every % window:
        raise InvalidValueError(
            f"queries(={queries}) and change_every(={change_every}) must be multiples of window(={window})"
        )
    asked = _category_queries(distinct, categories, seed)
    trace = zipf(queries, distinct, exponent, seed, rate)
    definitions = _definitions(skills, categories)
    changed = np.random.default_rng(seed).integers(skills, size=(queries - 1) // change_every).tolist()
    ways = {"no_change": [], "precise": changed, "flush": changed}
    hits = {}
    for way, victims in ways.items():
        clock = FakeClock()
        registry = InMemorySkillRegistry(SkillCache(max(distinct, CACHE_MAX_SIZE), query_ttl=ttl, timer=clock))
        for definition in definitions:
            finished(registry.register(definition))
        asks = _asks(registry, clock, trace, asked)
        changes = _changes(registry, definitions, victims, flush=way == "flush")
        hits[way] = _hits_by_window(registry, asks, changes, queries, change_every, window)
    return Churn(queries, len(changed), change_every, window, **hits)


def _require_counts(**counts: int) -> None:
    for name, count in counts.items():
        if type(count) is not int or count < 1:
            raise InvalidValueError(f"{name}(={count!r}) must be a whole number of at least 1")


def _definitions(skills: int, categories: int) -> list[SkillDefinition]:
    return [
        SkillDefinition(
            id=f"skill-{number}",
            name=f"skill {number}",
            layer=_LAYERS[number // categories % 3],
            category=f"category-{number % categories}",
            tags=tuple(tag for bit, tag in enumerate(_TAGS) if number // categories >> bit & 1),
            description="reads" if number // categories % 2 else "writes",
        )
        for number in range(skills)
    ]


def _category_queries(distinct: int, categories: int, seed: int) -> list[SkillQuery]:
    """Returns different queries in random order, as many of each category as of any other."""
    if not 1 <= distinct <= categories * len(_SHAPES):
        raise InvalidValueError(
            f"distinct(={distinct}) must be 1 to {categories * len(_SHAPES)}: {len(_SHAPES)} for each category"
        )
    made = [
        SkillQuery.of({"category": f"category-{number % categories}", **_SHAPES[number // categories]})
        for number in range(distinct)
    ]
    return [made[place] for place in np.random.default_rng(seed).permutation(distinct)]


def _asks(registry: InMemorySkillRegistry, clock: FakeClock, trace: Trace, asked: list[SkillQuery]) -> Iterator[None]:
    for clock.now, key in zip(trace.time.tolist(), trace.key.tolist(), strict=True):
        finished(registry.discover(asked[key]))
        yield


def _changes(
    registry: InMemorySkillRegistry, definitions: list[SkillDefinition], victims: list[int], *, flush: bool
) -> Iterator[None]:
    for number, place in enumerate(victims, start=1):
        definition = definitions[place].model_copy(update={"version": f"1.{number}.0"})
        finished(registry.update(definition.id, definition))
        if flush and registry.cache is not None:
            registry.cache.clear()
        yield


def _hits_by_window(
    registry: InMemorySkillRegistry,
    asks: Iterator[None],
    changes: Iterator[None],
    queries: int,
    change_every: int,
    window: int,
) -> Counts:
    assert registry.cache is not None, "churn gives every registry a cache"
    totals = [0]
    for done in range(0, queries, window):
        if done and done % change_every == 0:
            next(changes, None)
        for _ in islice(asks, window):
            pass
        totals.append(registry.cache.stats().by_kind[QUERY].hits)
    cumulated = np.array(totals, dtype=np.int64)
    return cumulated[1:] - cumulated[:-1]
