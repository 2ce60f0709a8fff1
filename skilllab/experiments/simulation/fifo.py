"""FIFO: the entry that was stored longest ago goes first, however often it was asked for since.

With one TTL for all the first stored is also the first to expire, so the queue alone lets expired entries go before
live ones. The queue is the accesses themselves: see lru.py.
"""

from __future__ import annotations

import numpy as np

from skilllab.experiments.simulation.compiled import compiled
from skilllab.experiments.simulation.kernel import Hits, Keys, Times


@compiled
def kernel(keys: Keys, times: Times, size: int, ttl: float, seed: int, hits: Hits) -> None:
    """Marks in `hits` the accesses that a cache of `size` entries serves; see kernel.py."""
    stored = np.full(keys.max() + 1, -1, np.int64)  # access that stored the entry, -1: not in the cache
    count = oldest = 0
    for now in range(len(keys)):
        key = keys[now]
        at = stored[key]
        if at >= 0 and times[now] < times[at] + ttl:
            hits[now] = True
            continue
        if at >= 0:
            count -= 1
            stored[key] = -1
        while count >= size:
            old = keys[oldest]
            if stored[old] == oldest:
                stored[old] = -1
                count -= 1
            oldest += 1
        stored[key] = now
        count += 1
