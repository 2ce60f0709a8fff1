"""LFU: the entry asked for least often goes first; among equals the one asked for longest ago.

This is the rule of cachetools.LFUCache: counts start at 1 when an entry is stored and are forgotten when it goes,
and an entry joins the end of the list of its count at each access. Each count has a linked list of entries.
Source of the constant-time lists: K. Shah, A. Mitra, D. Matani, An O(1) algorithm for implementing LFU, 2010.
"""

from __future__ import annotations

import numpy as np

from skilllab.experiments.simulation.compiled import compiled
from skilllab.experiments.simulation.kernel import Hits, Keys, Times


@compiled
def _unlink(node: int, after: Keys, before: Keys) -> None:
    after[before[node]] = after[node]
    before[after[node]] = before[node]


@compiled
def _append(node: int, head: int, after: Keys, before: Keys) -> None:
    after[node], before[node] = head, before[head]
    after[before[head]] = node
    before[head] = node


@compiled
def kernel(keys: Keys, times: Times, size: int, ttl: float, seed: int, hits: Hits) -> None:
    """Marks in `hits` the accesses that a cache of `size` entries serves; see kernel.py."""
    unique = keys.max() + 1
    stored = np.full(unique, -1, np.int64)  # access that stored the entry, -1: not in the cache
    uses = np.zeros(unique, np.int64)
    # Heads of lists are nodes too: that of count c is node unique + c, its own neighbour when the list is empty.
    after = np.arange(unique + np.bincount(keys).max() + 1)
    before = after.copy()
    count = oldest = 0
    for now in range(len(keys)):
        key = keys[now]
        at = stored[key]
        if at >= 0:
            _unlink(key, after, before)
        if at >= 0 and times[now] < times[at] + ttl:
            hits[now] = True
            uses[key] += 1
            _append(key, unique + uses[key], after, before)
            continue
        if at >= 0:
            stored[key] = -1
            count -= 1
        while count >= size and oldest < now:  # expired entries go before a live one
            old = keys[oldest]
            if stored[old] == oldest:
                if times[now] < times[oldest] + ttl:
                    break
                _unlink(old, after, before)
                stored[old] = -1
                count -= 1
            oldest += 1
        if count >= size:
            least = unique + 1
            while after[least] == least:  # no more steps than the one that goes has had uses
                least += 1
            rare = after[least]
            _unlink(rare, after, before)
            stored[rare] = -1
            count -= 1
        stored[key] = now
        uses[key] = 1
        count += 1
        _append(key, unique + 1, after, before)
