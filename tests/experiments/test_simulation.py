"""Simulation: cases worked by hand, and the same hits as real caches."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import cachetools
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from skilllab.cache import LRUStore, SkillCache
from skilllab.errors import InvalidValueError
from skilllab.experiments.simulation import (
    POLICIES,
    default_sizes,
    hit_mask,
    hits,
    lru_hits,
    miss_ratio_curve,
    response_times,
    simulate,
)
from skilllab.experiments.simulation.kernel import Kernel, load
from skilllab.trace import Trace, loop, scan, zipf

LETTERS = {
    # Two entries. What is in the cache after each access, oldest first; capitals are hits.
    # LRU:  a | ab | bA | ac: b was used before a, goes | cb: a went            -> only the third hits
    ("lru", "abacb"): "..x..",
    # FIFO: a | ab | abA | bc: a was stored first, goes | bcB                   -> a and b hit
    ("fifo", "abacb"): "..x.x",
    # LFU:  a1 | a1 b1 | A2 b1 | a2 c1: b used once | a2 b1: c used once | A3    -> both later a hit
    ("lfu", "abacba"): "..x..x",
    # LFU among equals the least recent goes: a1 b1 -> A2 b1 -> a2 B2 -> c: both 2, a longer ago -> B3
    ("lfu", "ababcb"): "..xx.x",
    # LFU forgets: a2 b1 -> c1 replaces b -> b1 replaces c -> c1 replaces b, so b counts from 1 again each time
    ("lfu", "aabcbca"): ".x....x",
    # MIN:  a b, then c: b is needed at 4, a never again, a goes -> b hits; c at 5 hits
    ("min", "abcbc"): "...xx",
    # MIN:  a b, then c: b is needed later (4) than a (3), b goes | A | b: a is never needed again, goes | C
    ("min", "abcabc"): "...x.x",
    # LRU:  in a loop of three what comes next is what just went
    ("lru", "abcabc"): "......",
    ("unbounded", "abcabc"): "...xxx",
}


@pytest.mark.parametrize(("policy", "accesses"), LETTERS)
def test_cases_by_hand(policy: str, accesses: str) -> None:
    """Each policy serves exactly the accesses that the comment derives for a cache of two entries."""
    served = hit_mask(Trace.from_keys(list(accesses)), policy, size=2)
    assert "".join("x" if hit else "." for hit in served) == LETTERS[policy, accesses]


@pytest.mark.parametrize("policy", ["lru", "fifo", "lfu", "rr", "unbounded", "min"])
def test_ttl_by_hand(policy: str) -> None:
    """With a TTL of 3 s an entry stored at 0 is served at 2.9, not at 3; the hit did not renew it; stored at 3, it is at 5."""
    trace = Trace.from_keys([1, 1, 1, 1], time=[0, 2.9, 3, 5])
    assert hit_mask(trace, policy, size=1, ttl=3.0).tolist() == [False, True, False, True]


@pytest.mark.parametrize("policy", ["lru", "fifo", "lfu", "rr", "min"])
def test_expired_entries_go_first(policy: str) -> None:
    """In a full cache of two the entry that expired goes, though the policy would have given up the other, and that one hits."""
    # At 0 key a, used again and again; at 4 key b; at 5 a is expired (TTL 5 s) and c comes: c takes the place of a.
    trace = Trace.from_keys(list("aaabcb"), time=[0, 1, 2, 4, 5, 6])
    assert hit_mask(trace, policy, size=2, ttl=5.0).tolist() == [False, True, True, False, False, True]
    # The same when a was used after b was stored.
    trace = Trace.from_keys(list("abaacb"), time=[0, 3, 4, 4.5, 5, 6])
    assert hit_mask(trace, policy, size=2, ttl=5.0)[-1]


def random_trace(seed: int, n: int, keys: int) -> Trace:
    """Skewed accesses, some at the same time, with gaps around the TTLs below."""
    random = np.random.default_rng(seed)
    gaps = random.choice([0.0, 0.1, 0.3, 1.0], size=n, p=[0.3, 0.4, 0.2, 0.1])
    return Trace.from_keys(random.geometric(min(1.0, 2 / keys), size=n) % keys, time=np.cumsum(gaps))


def traces(longest: int = 150) -> st.SearchStrategy[Trace]:
    """Random traces; a failing one shrinks to the first accesses that fail."""
    return st.builds(random_trace, st.integers(0, 2**32), st.integers(1, longest), st.integers(1, 12))


SIZES = st.integers(1, 6)
TTLS = st.sampled_from([0.1, 0.4, 1.0, 3.0, 7.0])


def replay(trace: Trace, cache: Any, clock: list[float]) -> list[bool]:
    """Asks a real cache for every access, on the clock of the trace, and stores what it misses."""
    served = []
    for time, key in zip(trace.time.tolist(), trace.key.tolist(), strict=True):
        clock[0] = time
        served.append(cache.get(f"k{key}") is not None)
        if not served[-1]:
            cache[f"k{key}"] = key
    return served


REAL: dict[str, Callable[[int], Any]] = {
    "lru": cachetools.LRUCache,
    "fifo": cachetools.FIFOCache,
    "lfu": cachetools.LFUCache,
}


@pytest.mark.parametrize("policy", REAL)
@given(trace=traces(), size=SIZES)
def test_equals_a_replay_through_cachetools(policy: str, trace: Trace, size: int) -> None:
    """Without TTL every access hits or misses as in the cachetools cache of the policy."""
    assert hit_mask(trace, policy, size).tolist() == replay(trace, REAL[policy](size), [0.0])


def same_as_ttl_caches(trace: Trace, size: int, ttl: float) -> bool:
    clock = [0.0]
    served = hit_mask(trace, "lru", size, ttl).tolist()
    ttl_cache = cachetools.TTLCache(size, ttl, timer=lambda: clock[0])
    tlru_cache = cachetools.TLRUCache(size, lambda key, value, now: now + ttl, timer=lambda: clock[0])
    return bool(served == replay(trace, ttl_cache, clock) == replay(trace, tlru_cache, clock))


@given(trace=traces(), size=SIZES, ttl=TTLS)
def test_equals_a_replay_through_ttl_caches(trace: Trace, size: int, ttl: float) -> None:
    """With a TTL every access hits or misses as in TTLCache and TLRUCache, whose policy is LRU."""
    assert same_as_ttl_caches(trace, size, ttl)


class SplitMix:
    """The generator of the rr kernel, as `choice=` of cachetools.RRCache."""

    def __init__(self, seed: int) -> None:
        self.state = seed

    def __call__(self, keys: list[Any]) -> Any:
        word = 2**64 - 1
        self.state = (self.state + 0x9E3779B97F4A7C15) & word
        mixed = (self.state ^ self.state >> 30) * 0xBF58476D1CE4E5B9 & word
        mixed = (mixed ^ mixed >> 27) * 0x94D049BB133111EB & word
        return keys[(mixed ^ mixed >> 31) % len(keys)]


STORES: dict[str, Callable[[int], Any]] = {
    "lru": LRUStore,
    "fifo": cachetools.FIFOCache,
    "lfu": cachetools.LFUCache,
    "rr": lambda size: cachetools.RRCache(size, choice=SplitMix(7)),
}


class Dictlike:
    """SkillCache with the item assignment that `replay` uses."""

    def __init__(self, cache: SkillCache) -> None:
        self.get = cache.get
        self._cache = cache

    def __setitem__(self, key: str, value: int) -> None:
        self._cache.set(key, value)


@pytest.mark.parametrize("policy", STORES)
@given(trace=traces(), size=SIZES, ttl=st.none() | TTLS)
def test_equals_a_replay_through_the_skill_cache(policy: str, trace: Trace, size: int, ttl: float | None) -> None:
    """With and without TTL every access hits or misses as in SkillCache over the store of the policy, lots drawn alike."""
    clock = [0.0]
    cache = SkillCache(size, ttl, store=STORES[policy], timer=lambda: clock[0], copy=None)
    assert hit_mask(trace, policy, size, ttl, seed=7).tolist() == replay(trace, Dictlike(cache), clock)


def lazy_expiry(keys: Any, times: Any, size: int, ttl: float, seed: int, marks: Any) -> None:
    """A wrong kernel: LRU that notices expiry only when the entry is asked for again."""
    entries: dict[int, float] = {}
    for now, key in enumerate(keys):
        stored = entries.pop(key, -math.inf)
        marks[now] = times[now] < stored + ttl
        if not marks[now]:
            stored = times[now]
            if len(entries) == size:
                del entries[next(iter(entries))]
        entries[key] = stored


def unmoved(keys: Any, times: Any, size: int, ttl: float, seed: int, marks: Any) -> None:
    """A wrong kernel: LRU that forgets to move an entry to the end when it hits, and so is FIFO."""
    load("fifo")(keys, times, size, ttl, seed, marks)


@pytest.mark.parametrize("wrong", [lazy_expiry, unmoved])
def test_the_replay_notices_a_wrong_kernel(wrong: Kernel, monkeypatch: pytest.MonkeyPatch) -> None:
    """Lazy expiry, and a hit that does not count as a use, each fail the comparison with the real caches often."""
    points = [(random_trace(seed, 150, 8), 4, 3.0) for seed in range(20)]
    assert all(same_as_ttl_caches(*point) for point in points)
    monkeypatch.setattr("skilllab.experiments.simulation.whatif.load", lambda policy: wrong)
    assert sum(same_as_ttl_caches(*point) for point in points) < 10


@given(trace=traces())
def test_the_curve_equals_every_single_size(trace: Trace) -> None:
    """One pass over stack distances gives the hits that LRU has at each size, and beyond the last key nothing more."""
    assert lru_hits(trace).tolist()[1:] == [hits(trace, "lru", size) for size in range(1, trace.unique + 1)]


def optimum(keys: list[int], size: int, inside: frozenset[int] = frozenset()) -> int:
    """The most hits of any cache that stores each miss, by trying every victim."""
    if not keys:
        return 0
    key, rest = keys[0], keys[1:]
    if key in inside:
        return 1 + optimum(rest, size, inside)
    if len(inside) < size:
        return optimum(rest, size, inside | {key})
    return max(optimum(rest, size, inside - {victim} | {key}) for victim in inside)


@settings(max_examples=60)
@given(keys=st.lists(st.integers(0, 4), min_size=1, max_size=11), size=st.integers(1, 3))
def test_min_is_the_optimum(keys: list[int], size: int) -> None:
    """No choice of victims at all has more hits than MIN."""
    assert hits(Trace.from_keys(keys), "min", size) == optimum(keys, size)


@given(trace=traces(), size=SIZES)
def test_bounds(trace: Trace, size: int) -> None:
    """No policy beats MIN, MIN does not beat unbounded, and unbounded misses first accesses only."""
    best = hits(trace, "min", size)
    assert all(hits(trace, policy, size) <= best for policy in ("lru", "fifo", "lfu", "rr"))
    assert best <= hits(trace, "unbounded", size) == len(trace) - trace.unique


def test_random_replacement_is_seeded_and_even() -> None:
    """The same seed gives the same hits, another seed others, and on a loop each entry is given up equally often."""
    trace = zipf(3000, 200, seed=1)
    assert np.array_equal(hit_mask(trace, "rr", 20, seed=4), hit_mask(trace, "rr", 20, seed=4))
    assert not np.array_equal(hit_mask(trace, "rr", 20, seed=4), hit_mask(trace, "rr", 20, seed=5))
    # 1..4, then a fifth key: one of the four is gone, each with probability 1/4.
    gone = [
        np.flatnonzero(~hit_mask(Trace.from_keys([1, 2, 3, 4, 5, key]), "rr", 4, seed=seed)[5:]).size
        for seed in range(400)
        for key in (1, 2, 3, 4)
    ]
    assert np.reshape(gone, (400, 4)).mean(axis=0) == pytest.approx(0.25, abs=0.08)


def test_known_shapes() -> None:
    """LRU has no hit in a scan, none in a loop that does not fit, and all but the first round in one that fits."""
    assert hits(scan(100), "lru", 100) == 0
    assert hits(loop(100, 10), "lru", 9) == 0
    assert hits(loop(100, 10), "lru", 10) == 90
    assert hits(loop(100, 10), "min", 9) > 70


def test_simulate_makes_a_row_for_every_point() -> None:
    """The frame crosses policies, sizes and TTLs in order, each row equal to its own count, in any number of threads."""
    trace = zipf(400, 50, seed=2)
    seen: list[tuple[int, int]] = []
    sizes, ttls = [1, 10, 500], [None, 0.05]
    frame = simulate(trace, list(POLICIES), sizes, ttls, seed=3, threads=2, on_progress=lambda *at: seen.append(at))
    assert len(frame) == len(POLICIES) * 6
    for row in frame.itertuples():
        ttl = None if math.isnan(row.ttl) else row.ttl
        assert row.hits == hits(trace, row.policy, row.size, ttl, seed=3)
    assert (frame["hits"] + frame["misses"] == len(trace)).all()
    assert (frame["hit_ratio"] == frame["hits"] / 400).all()
    assert (frame["compulsory"] == trace.unique).all()
    assert seen[-1] == (len(frame), len(frame))
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)
    pd.testing.assert_frame_equal(frame, simulate(trace, list(POLICIES), sizes, ttls, seed=3, threads=1))
    assert simulate(trace)["size"].tolist() == default_sizes(trace)


def test_miss_ratio_curve() -> None:
    """LRU without TTL is told at every size, others at default sizes; hit and miss ratio add up to 1."""
    trace = zipf(400, 50, seed=2)
    curve = miss_ratio_curve(trace)
    assert curve["size"].tolist() == list(range(1, trace.unique + 1))
    assert (curve["hit_ratio"] + curve["miss_ratio"]).to_numpy() == pytest.approx(1)
    assert curve["miss_ratio"].is_monotonic_decreasing
    assert miss_ratio_curve(trace, "fifo", ttl=1.0)["size"].tolist() == default_sizes(trace)
    assert miss_ratio_curve(trace, sizes=[3])["hits"].tolist() == [hits(trace, "lru", 3)]


def test_default_sizes_span_the_trace() -> None:
    """Sizes rise from 1 to the number of keys without repeats, also where there are few keys."""
    trace = loop(1000, 700)
    assert default_sizes(trace)[0] == 1
    assert default_sizes(trace)[-1] == 700
    assert 30 < len(default_sizes(trace)) <= 40
    assert default_sizes(loop(5, 3)) == [1, 2, 3]
    assert default_sizes(loop(5, 1)) == [1]


def test_response_times() -> None:
    """A hit costs what a hit costs, a miss what that access's miss costs."""
    mask = np.array([False, True, False])
    assert response_times(mask, 0.5, 0.001).tolist() == [0.5, 0.001, 0.5]
    assert response_times(mask, [0.5, 0.6, 0.7], 0.001).tolist() == [0.5, 0.001, 0.7]


TRACE = Trace.from_keys([1, 2, 1])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: hits(TRACE, "mru", 1), r"policy\(='mru'\) is not known; the policies are lru, fifo, lfu, rr, min"),
        (lambda: hits(TRACE, "lru", 0), r"size\(=0\)"),
        (lambda: hits(TRACE, "lru", True), r"size\(=True\)"),
        (lambda: hits(TRACE, "lru", 1.5), r"size\(=1.5\) must be a whole number"),  # type: ignore[arg-type]
        (lambda: hits(TRACE, "lru", 1, 0), r"ttl\(=0\)"),
        (lambda: hits(TRACE, "lru", 1, -2.0), r"ttl\(=-2.0\)"),
        (lambda: hits(TRACE, "lru", 1, math.nan), r"ttl\(=nan\)"),
        (lambda: hits(TRACE, "lru", 1, math.inf), r"ttl\(=inf\).*None for never"),
        (lambda: hits(TRACE, "lru", 1, "1"), r"ttl\(='1'\)"),  # type: ignore[arg-type]
        (lambda: hits(TRACE, "rr", 1, seed=-1), r"seed\(=-1\)"),
        (lambda: simulate(TRACE, "lru"), r"write \['lru'\]"),
        (lambda: simulate(TRACE, ["lru"], 5), r"sizes\(=5\) must be a sequence; write \[5\]"),  # type: ignore[arg-type]
        (lambda: simulate(TRACE, ["lru"], [5], 1.0), r"write \[1.0\]"),  # type: ignore[arg-type]
        (lambda: simulate(TRACE, []), "nothing to simulate"),
        (lambda: simulate(TRACE, ["lru"], [1, 0]), r"size\(=0\)"),
        (lambda: simulate(TRACE, ["lru", "x"]), r"policy\(='x'\)"),
        (lambda: simulate(TRACE, threads=0), r"threads\(=0\)"),
        (lambda: default_sizes(TRACE, 1), r"points\(=1\)"),
        (lambda: response_times(np.array([True]), [1.0, 2.0], 0.1), r"miss has shape \(2,\)"),
        (lambda: response_times(np.array([True]), -1.0, 0.1), "from 0 up"),
        (lambda: response_times(np.array([True]), 1.0, math.nan), "from 0 up"),
    ],
)
def test_bad_input_is_refused(call: Callable[[], object], message: str) -> None:
    """Unknown policies and values without a meaning raise an error with the value and what to give."""
    with pytest.raises(InvalidValueError, match=message):
        call()
