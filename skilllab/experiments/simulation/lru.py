"""LRU: the entry that was asked for longest ago goes first.

The accesses themselves are the lists. An entry stands in the order of storing at the access that stored it, and in
the order of use at its last access; a mark that only moves forward finds the oldest entry of either, in constant
time on average. Places that an entry has left are skipped.
"""

from __future__ import annotations

import numpy as np

from skilllab.experiments.simulation.compiled import compiled
from skilllab.experiments.simulation.kernel import Hits, Keys, Times


@compiled
def kernel(keys: Keys, times: Times, size: int, ttl: float, seed: int, hits: Hits) -> None:
    """Marks in `hits` the accesses that a cache of `size` entries serves; see kernel.py."""
    stored = np.full(keys.max() + 1, -1, np.int64)  # access that stored the entry, -1: not in the cache
    used = np.full(keys.max() + 1, -1, np.int64)  # last access to the key
    count = oldest = coldest = 0
    for now in range(len(keys)):
        key = keys[now]
        at = stored[key]
        if at >= 0 and times[now] < times[at] + ttl:
            hits[now] = True
            used[key] = now
            continue
        if at >= 0:
            count -= 1
            stored[key] = -1
        while count >= size and oldest < now:  # expired entries go before a live one
            old = keys[oldest]
            if stored[old] == oldest:
                if times[now] < times[oldest] + ttl:
                    break
                stored[old] = -1
                count -= 1
            oldest += 1
        while count >= size:
            cold = keys[coldest]
            if stored[cold] >= 0 and used[cold] == coldest:
                stored[cold] = -1
                count -= 1
            coldest += 1
        stored[key] = used[key] = now
        count += 1
