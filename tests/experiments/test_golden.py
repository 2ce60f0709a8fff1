"""The simulator on the recorded traces: the stored counts, and a real SkillCache asked for every access."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import cachetools
import pandas as pd
import pytest

from skilllab.cache import LRUStore, SkillCache
from skilllab.experiments.simulation import hit_mask, hits
from skilllab.trace import Trace

DATA = Path(__file__).parents[2] / "data"
STORES: dict[str, Callable[[int], Any]] = {
    "lru": LRUStore,
    "fifo": cachetools.FIFOCache,
    "lfu": cachetools.LFUCache,
}


@cache
def recorded(name: str) -> Trace:
    return Trace.read(DATA / "traces" / f"{name}.trace")


def test_the_stored_counts_hold() -> None:
    """Every policy has exactly the stored hits on both traces, with and without a TTL."""
    stored = pd.read_csv(DATA / "golden" / "simulation.csv")
    assert len(stored) == 64
    for row in stored.itertuples():
        ttl = None if math.isnan(row.ttl) else row.ttl
        assert hits(recorded(row.trace), row.policy, row.size, ttl) == row.hits, row


@pytest.mark.slow
@pytest.mark.parametrize("ttl", [None, 3.0])
@pytest.mark.parametrize("policy", STORES)
@pytest.mark.parametrize("name", ["test-run", "type-checks"])
def test_a_real_cache_serves_the_same_accesses(name: str, policy: str, ttl: float | None) -> None:
    """A SkillCache of 400 entries, asked for the whole recording on its clock, serves exactly the simulated accesses."""
    trace = recorded(name)
    now = 0.0
    real = SkillCache(400, ttl, store=STORES[policy], timer=lambda: now, copy=None)
    served = []
    for now, key in zip(trace.time.tolist(), trace.key.tolist(), strict=True):  # noqa: B007 - the timer reads it
        name_of_key = f"file {key}"
        served.append(real.get(name_of_key) is not None)
        if not served[-1]:
            real.set(name_of_key, True)
    assert served == hit_mask(trace, policy, 400, ttl).tolist()
