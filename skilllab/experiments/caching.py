"""Experiments on SkillCache: replayed traces, changes under way, bursts, and what a cache costs."""

from __future__ import annotations

import asyncio
import threading
import tracemalloc
from collections.abc import Callable, Coroutine, Iterator, Mapping
from dataclasses import dataclass, fields
from itertools import islice
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import numpy.typing as npt

from skilllab import format as fmt
from skilllab.cache.cache import SkillCache
from skilllab.cache.flight import single_flight
from skilllab.cache.keys import QUERY
from skilllab.cache.stats import CacheStats
from skilllab.cache.stores import LRUStore
from skilllab.errors import InvalidValueError
from skilllab.model import SkillDefinition, SkillQuery
from skilllab.registry import InMemorySkillRegistry
from skilllab.settings import CACHE_MAX_SIZE, QUERY_TTL
from skilllab.testing import FakeClock
from skilllab.trace.synthetic import loop, scan, shifting_working_set, zipf
from skilllab.trace.trace import Trace

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

T = TypeVar("T")
Counts = npt.NDArray[np.int64]

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


def at_once(coroutine: Coroutine[Any, Any, T]) -> T:
    """Returns the result of a coroutine that never waits, without an event loop: a query, a registration.

    Raises InvalidValueError when it does wait.
    """
    try:
        coroutine.send(None)
    except StopIteration as done:
        result: T = done.value
        return result
    coroutine.close()
    raise InvalidValueError(f"{coroutine!r} waits for something: await it on an event loop")


def replay(trace: Trace, size: int, ttl: float | None = None, store: Callable[[int], Any] = LRUStore) -> CacheStats:
    """Sends every access of a trace through a real SkillCache whose clock is the trace's, and returns its statistics.

    size: entries. ttl: seconds, None never expires. store: LRUStore or a cachetools policy. A miss stores the key.
    """
    clock = FakeClock()
    cache = SkillCache(size, ttl, store=store, timer=clock)
    names = [f"key {number}" for number in range(trace.unique)]
    for clock.now, key in zip(trace.time.tolist(), trace.key.tolist(), strict=True):
        if cache.get(names[key]) is None:
            cache.set(names[key], True)
    return cache.stats()


def workloads(accesses: int = 40_000, keys: int = 4000, seed: int = 0) -> dict[str, Trace]:
    """Returns four synthetic workloads: Zipf, Zipf with scans through it, a loop, and a working set that moves.

    accesses: of each. keys: how many the Zipf draws from; the loop goes round a quarter and the working set is an eighth
    of them. The scans are a fifth of the second workload's accesses, each to a key of its own, in ten bursts.
    """
    popular = zipf(accesses, keys, seed=seed)
    return {
        "Zipf": popular,
        "Zipf with scans": _with_scans(zipf(accesses - accesses // 5, keys, seed=seed), scan(accesses // 5), bursts=10),
        "loop": loop(accesses, max(1, keys // 4), seed=seed),
        "moving working set": shifting_working_set(
            accesses, keys, max(1, keys // 8), max(1, accesses // 20), seed=seed
        ),
    }


def _with_scans(trace: Trace, scanned: Trace, bursts: int) -> Trace:
    pieces: list[npt.NDArray[np.int64]] = []
    for kept, once in zip(
        np.array_split(trace.key, bursts), np.array_split(scanned.key + trace.unique, bursts), strict=True
    ):
        pieces += [kept, once]
    return Trace.from_keys(np.concatenate(pieces), meta={"workload": "zipf with scans", "bursts": bursts})


# changes under way


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
        """Returns one row a window: queries so far at its middle, and the hit rate of each way."""
        import pandas as pd

        rates = {name.replace("_", " "): getattr(self, name) / self.window for name in _WAYS}
        return pd.DataFrame({"query": (np.arange(len(self.precise)) + 0.5) * self.window, **rates})

    def since_change(self) -> pd.DataFrame:
        """Returns the mean hit rate of each way by the number of queries since the last change."""
        frame = self.frame()
        frame["query"] %= self.change_every
        return frame[self.window * np.arange(len(frame)) >= self.change_every].groupby("query").mean().reset_index()

    def plot(self, ax: Axes | None = None) -> Axes:
        """Draws the mean hit rate by queries since the last change."""
        from skilllab import plots

        frame = self.since_change()
        return plots.time_line(
            frame["query"],
            {name: frame[name] for name in frame.columns[1:]},
            title=f"Precise invalidation keeps {fmt.ratio(self.kept_share, 0)} of the hits that flushing loses",
            x_label="Queries since the last change",
            y_label=f"Hit rate (mean of {fmt.count(self.changes)} changes)",
            ax=ax,
        )

    def __str__(self) -> str:
        return (
            f"{fmt.count(self.queries)} queries, {fmt.count(self.changes)} changes: {fmt.count(self.hits_no_change)} hits "
            f"without changes, {fmt.count(self.hits_precise)} with precise invalidation, {fmt.count(self.hits_flush)} "
            f"with flushing; precise keeps {fmt.ratio(self.kept_share)} of what flushing loses"
        )


_WAYS = tuple(field.name for field in fields(Churn))[-3:]


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
    Raises InvalidValueError for counts that do not divide, and more distinct queries than the workload has.
    """
    if queries % window or change_every % window or not 0 < change_every <= queries:
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
            at_once(registry.register(definition))
        asks = _asks(registry, clock, trace, asked)
        changes = _changes(registry, definitions, victims, flush=way == "flush")
        hits[way] = _hits_by_window(registry, asks, changes, queries, change_every, window)
    return Churn(queries, len(changed), change_every, window, **hits)


def _definitions(skills: int, categories: int) -> list[SkillDefinition]:
    return [
        SkillDefinition(
            id=f"skill-{number}",
            name=f"skill {number}",
            layer=number // categories % 3 + 1,
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
        at_once(registry.discover(asked[key]))
        yield


def _changes(
    registry: InMemorySkillRegistry, definitions: list[SkillDefinition], victims: list[int], *, flush: bool
) -> Iterator[None]:
    for number, place in enumerate(victims, start=1):
        definition = definitions[place].model_copy(update={"version": f"1.{number}.0"})
        at_once(registry.update(definition.id, definition))
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
    return np.diff(np.array(totals, dtype=np.int64))


# bursts


@dataclass(frozen=True, slots=True)
class Burst:
    """What came of many callers that missed one key at once: calls of the loader, callers served, callers cancelled."""

    callers: int
    calls: int
    served: int
    cancelled: int = 0


async def burst(callers: int = 100, *, shared: bool = True, cancelled: int = 0) -> Burst:
    """Lets tasks miss one key at the same time and load it, through single_flight when `shared`.

    cancelled: how many of the first callers are cancelled while the loader runs. The loader ends when all have asked.
    """
    cache = SkillCache()
    everyone = asyncio.Event()
    asked = calls = 0

    async def fetch(key: str) -> str:
        nonlocal calls
        calls += 1
        await everyone.wait()
        cache.set(key, "loaded")
        return "loaded"

    load = single_flight(fetch) if shared else fetch

    async def caller() -> str:
        nonlocal asked
        found = cache.get("key")
        asked += 1
        return found if found is not None else await load("key")

    tasks = [asyncio.ensure_future(caller()) for _ in range(callers)]
    while asked < callers:
        await asyncio.sleep(0)
    for task in tasks[:cancelled]:
        task.cancel()
    await asyncio.sleep(0)
    everyone.set()
    outcomes = await asyncio.gather(*tasks, return_exceptions=True)
    served = sum(outcome == "loaded" for outcome in outcomes)
    return Burst(callers, calls, served, sum(isinstance(outcome, asyncio.CancelledError) for outcome in outcomes))


def thread_burst(callers: int = 100, *, shared: bool = True) -> Burst:
    """Lets threads miss one key at the same time and load it, through single_flight when `shared`.

    A thread can miss, be overtaken, and arrive after the flight has landed: the shared loader therefore looks again.
    """
    cache = SkillCache()
    missed = threading.Barrier(callers)
    calls: list[str] = []

    def fetch(key: str) -> str:
        calls.append(key)
        cache.set(key, "loaded")
        return "loaded"

    @single_flight
    def load(key: str) -> str:
        return cache.get(key) or fetch(key)

    outcomes: list[str] = []

    def caller() -> None:
        found = cache.get("key")
        missed.wait()
        outcomes.append(found or (load("key") if shared else fetch("key")))

    threads = [threading.Thread(target=caller) for _ in range(callers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return Burst(callers, len(calls), outcomes.count("loaded"))


# cost


def break_even(work: float, hit: float, extra: float) -> float | None:
    """Returns the hit ratio above which a cache pays, or None when no hit ratio makes it pay.

    work: seconds that what is cached takes. hit: seconds of a hit. extra: seconds that a miss costs beside the work (the
    look-up in vain and the storing). With hit ratio h a call takes h * hit + (1 - h) * (work + extra): that is `work` at
    h = extra / (extra + work - hit).
    """
    if not (work >= 0 and hit >= 0 and extra >= 0):
        raise InvalidValueError(f"work(={work}), hit(={hit}) and extra(={extra}) must be seconds from 0 up")
    return extra / (extra + work - hit) if work > hit else None


def filled(entries: int) -> SkillCache:
    """Returns a cache full of `entries` entries under keys of their own, all with the same value."""
    cache = SkillCache(entries)
    for number in range(entries):
        cache.set(f"key {number}", True)
    return cache


def bytes_per_entry(entries: int = 2000) -> float:
    """Returns the bytes that an entry takes beside its value: key, bookkeeping and expiry, by tracemalloc."""
    running = tracemalloc.is_tracing()
    if not running:
        tracemalloc.start()
    before, _ = tracemalloc.get_traced_memory()
    cache = filled(entries)
    after, _ = tracemalloc.get_traced_memory()
    if not running:
        tracemalloc.stop()
    return (after - before) / len(cache)
