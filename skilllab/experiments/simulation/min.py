"""MIN: the entry whose next use is farthest away goes first: no cache that must store what it fetches does better.

It needs to know the future, so it is a yardstick and not a policy to run. With a TTL an entry that expires before its
next use counts as never used again; that is a good reference, but no longer a proven optimum, because fetching an
entry afresh a little earlier can pay.
Source: L. A. Belady, A study of replacement algorithms for a virtual-storage computer, 1966.
"""

from __future__ import annotations

import heapq

import numpy as np

from skilllab.experiments.simulation.compiled import compiled
from skilllab.experiments.simulation.kernel import Hits, Keys, Times


@compiled
def kernel(keys: Keys, times: Times, size: int, ttl: float, seed: int, hits: Hits) -> None:
    """Marks in `hits` the accesses that a cache of `size` entries serves; see kernel.py."""
    n, unique = len(keys), keys.max() + 1
    following = np.empty(n, np.int64)  # the next access to the same key, or n + key when there is none
    seen = np.arange(n, n + unique)
    for back in range(n - 1, -1, -1):
        following[back] = seen[keys[back]]
        seen[keys[back]] = back
    stored = np.full(unique, -1, np.int64)  # access that stored the entry, -1: not in the cache
    due = np.full(unique, -1, np.int64)  # the next access that the entry can serve, or n + key
    queue = [0]  # the entries' due, negated: the farthest first; places that no longer hold are skipped
    queue.pop()
    count = oldest = 0
    for now in range(n):
        key = keys[now]
        at = stored[key]
        if at >= 0 and times[now] < times[at] + ttl:
            hits[now] = True
        else:
            count -= at >= 0
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
                farthest = -heapq.heappop(queue)
                out = keys[farthest] if farthest < n else farthest - n
                if stored[out] >= 0 and due[out] == farthest:
                    stored[out] = -1
                    count -= 1
            at = stored[key] = now
            count += 1
        upcoming = following[now]
        if upcoming < n and times[upcoming] >= times[at] + ttl:
            upcoming = n + key
        due[key] = upcoming
        heapq.heappush(queue, -upcoming)
