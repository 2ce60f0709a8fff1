"""Experiments on SkillCache: replays, workloads, bursts, costs and weights."""

from __future__ import annotations

import asyncio
import math
import sys
import tracemalloc
from collections.abc import Callable

import cachetools
import numpy as np
import pytest

from skilllab.errors import InvalidValueError
from skilllab.experiments.caching import (
    Burst,
    Case,
    break_even,
    burst,
    bytes_per_entry,
    call_case,
    cost_of_caching,
    filled,
    query_case,
    replay,
    response_by_size,
    skill_cases,
    thread_burst,
    workloads,
)
from skilllab.experiments.queries import make_skills
from skilllab.experiments.simulation import hits
from skilllab.skills import builtin
from skilllab.trace import Trace, loop, zipf


def test_a_replay_by_hand() -> None:
    """A B A C B with room for two: LRU serves the third call only, because C pushes out B."""
    stats = replay(Trace.from_keys(["A", "B", "A", "C", "B"]), size=2)
    assert (stats.hits, stats.misses, stats.evictions) == (1, 4, 2)


@pytest.mark.parametrize("ttl", [None, 0.05, 1.0])
@pytest.mark.parametrize(
    ("policy", "store"), [("lru", None), ("lfu", cachetools.LFUCache), ("fifo", cachetools.FIFOCache)]
)
def test_a_replay_equals_the_simulation(policy: str, store: type | None, ttl: float | None) -> None:
    """The real cache on the trace's clock serves exactly as many accesses as the simulator says."""
    trace = zipf(3000, 300, seed=3)
    real = replay(trace, 60, ttl) if store is None else replay(trace, 60, ttl, store)
    assert real.hits == hits(trace, policy, 60, ttl)


def test_workloads_are_seeded_and_as_described() -> None:
    """The same seed gives the same four workloads; scanned keys come once, and the loop has no hit until it fits."""
    made = workloads(2000, 200, seed=5)
    assert made == workloads(2000, 200, seed=5)
    assert made != workloads(2000, 200, seed=6)
    assert {len(trace) for trace in made.values()} == {2000}
    scanned = made["Zipf with scans"]
    assert (np.bincount(scanned.key) == 1).sum() >= 400
    assert hits(made["loop"], "lru", 49) == 0
    assert hits(made["loop"], "lru", 50) == 1950


def test_response_by_size_by_hand() -> None:
    """Four accesses to two keys: with room for one all miss, with room for two half hit, and two misses are saved."""
    frame = response_by_size(loop(4, 2), [1, 2], miss=1.0, hit=0.1)
    assert frame["hit_ratio"].tolist() == [0.0, 0.5]
    assert frame["mean"].tolist() == pytest.approx([1.0, 0.55])
    assert frame["p50"].tolist() == pytest.approx([1.0, 0.55])
    assert frame["saved"].tolist() == pytest.approx([0.0, 1.8])


def test_beyond_95_percent_hits_p95_is_a_hit() -> None:
    """One miss in fifty leaves p95 at the time of a hit; one in ten does not."""
    rare, often = Trace.from_keys([0] * 49 + [1]), Trace.from_keys([0] * 9 + [1])
    assert response_by_size(rare, [5], miss=1.0, hit=0.001)["p95"].item() == pytest.approx(0.001)
    assert response_by_size(often, [5], miss=1.0, hit=0.001)["p95"].item() == pytest.approx(1.0)


@pytest.mark.parametrize("callers", [1, 2, 100])
def test_a_burst_of_tasks(callers: int) -> None:
    """Without single_flight every caller loads, with it one does; all are served."""
    assert asyncio.run(burst(callers, shared=False)) == Burst(callers, calls=callers, served=callers)
    assert asyncio.run(burst(callers)) == Burst(callers, calls=1, served=callers)


@pytest.mark.parametrize("cancelled", [0, 1, 9, 10])
def test_a_cancelled_caller_leaves_the_others_served(cancelled: int) -> None:
    """Whoever is not cancelled is served by the one call, down to none."""
    assert asyncio.run(burst(10, cancelled=cancelled)) == Burst(10, 1, served=10 - cancelled, cancelled=cancelled)


@pytest.mark.parametrize("callers", [1, 2, 20])
def test_a_burst_of_threads(callers: int) -> None:
    """Without single_flight every thread loads; with it, and a second look, one does, whatever the schedule."""
    assert thread_burst(callers, shared=False) == Burst(callers, calls=callers, served=callers)
    assert thread_burst(callers) == Burst(callers, calls=1, served=callers)


@pytest.mark.parametrize(
    "call", [lambda: asyncio.run(burst(0)), lambda: asyncio.run(burst(3, cancelled=4)), lambda: thread_burst(0)]
)
def test_a_burst_without_callers_is_refused(call: Callable[[], object]) -> None:
    """A burst has at least one caller and cancels at most all: else it would wait for ever."""
    with pytest.raises(InvalidValueError, match="must be"):
        call()


def test_break_even_is_where_both_cost_the_same() -> None:
    """At the break-even ratio a call with the cache takes as long as the work; more hits make it pay."""
    work, hit, extra = 5e-6, 2e-6, 3e-6
    ratio = break_even(work, hit, extra)
    assert ratio == pytest.approx(0.5)
    assert ratio * hit + (1 - ratio) * (work + extra) == pytest.approx(work)


@pytest.mark.parametrize(("work", "hit"), [(1e-6, 2e-6), (2e-6, 2e-6), (0.0, 0.0)])
def test_what_costs_no_more_than_a_hit_never_breaks_even(work: float, hit: float) -> None:
    """No hit ratio makes a cache pay for work that is as cheap as a hit."""
    assert break_even(work, hit, 1e-6) is None


@pytest.mark.parametrize("bad", [-1.0, math.nan])
def test_costs_are_seconds_from_zero_up(bad: float) -> None:
    """A negative or missing cost is refused with its value."""
    with pytest.raises(InvalidValueError, match=f"extra\\(={bad}\\)"):
        break_even(1.0, 0.1, bad)


def test_a_call_case_goes_the_three_ways() -> None:
    """The work gives the result, a hit gives an equal one that is not the same object, and `extra` always misses."""
    case = call_case(lambda size: {"size": [size]}, {"size": 3})
    assert case.work() == case.hit() == {"size": [3]}
    assert case.hit() is not case.hit()
    assert [case.extra() for _ in range(500)] == [False] * 500


def test_a_query_case_goes_the_three_ways() -> None:
    """The hit is the page in the cache, the same each time; the work makes a new one with the same skills."""
    case = query_case(make_skills(50), layer=1, limit=5)
    assert case.work() == case.hit()
    assert case.hit() is case.hit()
    assert case.work() is not case.work()
    assert [case.extra() for _ in range(500)] == [False] * 500


def test_every_built_in_skill_has_a_case() -> None:
    """Each built-in skill works on the sample files, and its result comes back from the cache unchanged."""
    cases = skill_cases()
    assert set(cases) == set(builtin())
    for case in cases.values():
        assert case.work() == case.hit()


def test_cost_of_caching_has_a_row_for_each_case() -> None:
    """A row gives the three times and the ratio that follows from them, NaN for never."""
    idle = Case(work=int, hit=lambda: sum(range(500)), extra=int)
    busy = Case(work=lambda: sum(range(500)), hit=int, extra=int)
    frame = cost_of_caching({"idle": idle, "busy": busy}, rounds=3).set_index("case")
    assert math.isnan(frame.loc["idle", "break_even"])
    row = frame.loc["busy"]
    assert row["break_even"] == pytest.approx(row["extra"] / (row["extra"] + row["work"] - row["hit"]))


def test_a_filled_cache_is_full() -> None:
    """It holds as many entries as it was asked for and has evicted none."""
    stats = filled(50).stats()
    assert (stats.size, stats.max_size, stats.evictions) == (50, 50, 0)


def test_bytes_per_entry_are_those_of_the_parts() -> None:
    """An entry weighs more than its key and its record alone, and less than a kilobyte; tracing ends as it was."""
    least = sys.getsizeof("key 1000") + sys.getsizeof(0.0)
    assert least < bytes_per_entry(1000) < 1024
    assert not tracemalloc.is_tracing()
    tracemalloc.start()
    try:
        assert bytes_per_entry(100) > least
        assert tracemalloc.is_tracing()
    finally:
        tracemalloc.stop()
