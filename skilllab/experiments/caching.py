"""Experiments on SkillCache: traces replayed through it, bursts of misses, and what a cache costs."""

from __future__ import annotations

import asyncio
import threading
import tracemalloc
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from itertools import cycle
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from skilllab.cache.cache import SkillCache
from skilllab.cache.flight import single_flight
from skilllab.cache.keys import QUERY, Key, canonical_key
from skilllab.cache.stats import CacheStats
from skilllab.cache.stores import LRUStore
from skilllab.errors import InvalidValueError
from skilllab.experiments.churn import Churn, churn
from skilllab.experiments.first_calls import first_calls, sample_calls
from skilllab.experiments.queries import finished
from skilllab.experiments.simulation import hit_mask, response_times
from skilllab.loading import import_function
from skilllab.model import FunctionHandler, SkillDefinition
from skilllab.query import SkillQuery
from skilllab.registry import InMemorySkillRegistry
from skilllab.skills import builtin
from skilllab.stats import interleave, quantile, quantiles
from skilllab.testing import FakeClock
from skilllab.trace.synthetic import loop, scan, shifting_working_set, zipf
from skilllab.trace.trace import Trace

if TYPE_CHECKING:
    import pandas as pd

__all__ = [
    "Burst",
    "Case",
    "Churn",
    "break_even",
    "burst",
    "bytes_per_entry",
    "call_case",
    "churn",
    "cost_of_caching",
    "filled",
    "first_calls",
    "query_case",
    "replay",
    "response_by_size",
    "skill_cases",
    "thread_burst",
    "workloads",
]

_CASE_ENTRIES = 100


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


def response_by_size(
    trace: Trace, sizes: Iterable[int], *, miss: npt.ArrayLike, hit: float, policy: str = "lru"
) -> pd.DataFrame:
    """Returns one row a size: hit_ratio, mean, p50 and p95 of the response (s), and `saved`: seconds in all accesses.

    sizes: entries. miss: seconds, one number or one for each access. hit: seconds. Saved is against no cache, where every
    access takes what a miss takes. Errors as in `hit_mask` and `response_times`.
    """
    import pandas as pd

    rows = []
    for size in sizes:
        mask = hit_mask(trace, policy, size)
        seconds = response_times(mask, miss, hit)
        p50, p95 = quantiles(seconds, [0.5, 0.95])
        saved = float(np.broadcast_to(np.asarray(miss), mask.shape).sum() - seconds.sum())
        rows.append((size, float(mask.mean()), float(seconds.mean()), p50, p95, saved))
    return pd.DataFrame(rows, columns=["size", "hit_ratio", "mean", "p50", "p95", "saved"])


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
    Raises InvalidValueError for no callers, and for more cancelled than there are.
    """
    if not 0 <= cancelled <= callers or callers < 1:
        raise InvalidValueError(
            f"callers(={callers}) must be at least 1, and cancelled(={cancelled}) at most all of them"
        )
    cache = SkillCache()
    all_asked, may_end = asyncio.Event(), asyncio.Event()
    asked = calls = 0

    async def fetch(key: str) -> str:
        nonlocal calls
        calls += 1
        await may_end.wait()
        cache.set(key, "loaded")
        return "loaded"

    load = single_flight(fetch) if shared else fetch

    async def caller() -> str:
        nonlocal asked
        found = cache.get("key")
        asked += 1
        if asked == callers:
            all_asked.set()
        return found if found is not None else await load("key")

    tasks = [asyncio.ensure_future(caller()) for _ in range(callers)]
    await all_asked.wait()
    for task in tasks[:cancelled]:
        task.cancel()
    await asyncio.sleep(0)
    may_end.set()
    outcomes = await asyncio.gather(*tasks, return_exceptions=True)
    served = sum(outcome == "loaded" for outcome in outcomes)
    return Burst(callers, calls, served, sum(isinstance(outcome, asyncio.CancelledError) for outcome in outcomes))


def thread_burst(callers: int = 100, *, shared: bool = True) -> Burst:
    """Lets threads miss one key at the same time and load it, through single_flight when `shared`.

    A thread can miss, be overtaken, and arrive after the flight has landed: the shared loader therefore looks again.
    Raises InvalidValueError for no callers.
    """
    if callers < 1:
        raise InvalidValueError(f"callers(={callers}) must be at least 1")
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


class Case(NamedTuple):
    """Three ways through one cached call, each a function to time; `extra` is a miss without the work."""

    work: Callable[[], object]
    hit: Callable[[], object]
    extra: Callable[[], object]


def call_case(function: Callable[..., Any], params: Mapping[str, Any]) -> Case:
    """Returns the case of a function whose results are cached by its parameters: a key is made at each look-up."""
    cache = SkillCache(_CASE_ENTRIES)
    result = function(**params)
    numbers = cycle(range(1, 2 * _CASE_ENTRIES))  # going round more keys than there is room for always misses

    def extra() -> bool:
        return _looked_up_and_stored(cache, _call_key(next(numbers), params), result)

    for _ in range(_CASE_ENTRIES):
        extra()
    served = SkillCache(_CASE_ENTRIES)
    served.set(_call_key(0, params), result)
    return Case(lambda: function(**params), lambda: served.get(_call_key(0, params)), extra)


def query_case(definitions: Iterable[SkillDefinition], **conditions: Any) -> Case:
    """Returns the case of a query: of a registry without a cache, and of one that has the answer in its cache."""
    plain, cached = InMemorySkillRegistry(cache=None), InMemorySkillRegistry()
    for definition in definitions:
        finished(plain.register(definition))
        finished(cached.register(definition))
    page = finished(cached.discover(**conditions))
    cache = SkillCache(_CASE_ENTRIES)
    keys = cycle([Key(QUERY, SkillQuery(name=f"skill {number}")) for number in range(2 * _CASE_ENTRIES)])

    def extra() -> bool:
        return _looked_up_and_stored(cache, next(keys), page)

    for _ in range(_CASE_ENTRIES):
        extra()
    return Case(lambda: finished(plain.discover(**conditions)), lambda: finished(cached.discover(**conditions)), extra)


def skill_cases() -> dict[str, Case]:
    """Returns the cases of the built-in skills, called with the sample files; see `sample_calls`."""
    functions = {
        skill_id: import_function(skill.handler.target, skill.handler.function, skill_id)
        for skill_id, skill in builtin().items()
        if isinstance(skill.handler, FunctionHandler)
    }
    return {skill_id: call_case(functions[skill_id], params) for skill_id, params in sample_calls().items()}


def cost_of_caching(cases: Mapping[str, Case], rounds: int = 30, seed: int = 0) -> pd.DataFrame:
    """Times all cases interleaved and returns a row for each: seconds of work, hit and extra, and the break-even ratio.

    Each is the median over the rounds. break_even: see `break_even`; NaN where a cache never pays.
    """
    import pandas as pd

    arms = {(name, field): getattr(case, field) for name, case in cases.items() for field in Case._fields}
    seconds = interleave({str(arm): function for arm, function in arms.items()}, rounds, seed=seed)
    rows = []
    for name in cases:
        work, hit, extra = (quantile(seconds[str((name, field))], 0.5) for field in Case._fields)
        rows.append((name, work, hit, extra, break_even(work, hit, extra)))
    return pd.DataFrame(rows, columns=["case", *Case._fields, "break_even"]).astype({"break_even": "float64"})


def _looked_up_and_stored(cache: SkillCache, key: Key, value: object) -> bool:
    """Does what a miss does beside the work; returns whether it was a hit after all."""
    if cache.get(key) is not None:
        return True
    cache.set(key, value)
    return False


def _call_key(number: int, params: Mapping[str, Any]) -> Key:
    return Key("call", canonical_key([number, params]))


# memory


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
