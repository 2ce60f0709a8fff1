"""Unbounded: nothing is ever evicted, so only first accesses and expiry miss."""

from __future__ import annotations

import numpy as np

from skilllab.experiments.simulation.compiled import compiled
from skilllab.experiments.simulation.kernel import Hits, Keys, Times


@compiled
def kernel(keys: Keys, times: Times, size: int, ttl: float, seed: int, hits: Hits) -> None:
    """Marks in `hits` the accesses that a cache without a limit serves; see kernel.py."""
    stored = np.full(keys.max() + 1, -1, np.int64)  # access that stored the entry, -1: never stored
    for now in range(len(keys)):
        at = stored[keys[now]]
        if at >= 0 and times[now] < times[at] + ttl:
            hits[now] = True
        else:
            stored[keys[now]] = now
