"""RR: a random entry goes first.

Every entry is equally likely, as in cachetools.RRCache; with another generator the hits agree in distribution, with
the same one exactly. The generator is SplitMix64: G. Steele, D. Lea, C. Flood, Fast splittable pseudorandom number
generators, 2014.
"""

from __future__ import annotations

import numpy as np

from skilllab.experiments.simulation.compiled import compiled
from skilllab.experiments.simulation.kernel import Hits, Keys, Times


@compiled
def _remove(key: int, count: int, stored: Keys, slots: Keys, slot: Keys) -> int:
    """Takes an entry out, moves the last one into its slot, and returns how many entries are left."""
    last = slots[count - 1]
    slots[slot[key]] = last
    slot[last] = slot[key]
    stored[key] = -1
    return count - 1


@compiled
def kernel(keys: Keys, times: Times, size: int, ttl: float, seed: int, hits: Hits) -> None:
    """Marks in `hits` the accesses that a cache of `size` entries serves; see kernel.py."""
    unique = keys.max() + 1
    stored = np.full(unique, -1, np.int64)  # access that stored the entry, -1: not in the cache
    slots = np.empty(unique, np.int64)  # the entries, in no particular order
    slot = np.empty(unique, np.int64)  # where in it each entry is
    state = np.uint64(seed)
    count = oldest = 0
    for now in range(len(keys)):
        key = keys[now]
        at = stored[key]
        if at >= 0 and times[now] < times[at] + ttl:
            hits[now] = True
            continue
        if at >= 0:
            count = _remove(key, count, stored, slots, slot)
        if count >= size:
            while oldest < now:  # expired entries go before a live one
                old = keys[oldest]
                if stored[old] == oldest:
                    if times[now] < times[oldest] + ttl:
                        break
                    count = _remove(old, count, stored, slots, slot)
                oldest += 1
        if count >= size:
            state += np.uint64(0x9E3779B97F4A7C15)
            mixed = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
            mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
            drawn = np.int64((mixed ^ (mixed >> np.uint64(31))) % np.uint64(count))
            count = _remove(slots[drawn], count, stored, slots, slot)
        stored[key] = now
        slots[count] = key
        slot[key] = count
        count += 1
