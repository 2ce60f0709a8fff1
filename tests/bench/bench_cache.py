"""SkillCache, with its lock and statistics, against cachetools.TLRUCache, which has neither, at 1,000 entries.

Both are asked by `get` and told by item or `set`. A sample goes over all keys, in an order drawn once.
"""

from __future__ import annotations

import random
from itertools import islice

import cachetools
from harness import Row, compare, report

from skilllab.cache import SkillCache

SIZE = 1_000
INSERTS = 200_000
PEER = "cachetools.TLRUCache"


def filled(cache):
    for number in range(SIZE):
        cache[f"k{number}"] = number
    return cache


def ours(store=None) -> SkillCache:
    cache = SkillCache(SIZE) if store is None else SkillCache(SIZE, store=store)
    for number in range(SIZE):
        cache.set(f"k{number}", number)
    return cache


def theirs() -> cachetools.TLRUCache:
    return filled(cachetools.TLRUCache(SIZE, ttu=lambda key, value, now: now + 600.0))


def looks(get, keys):
    def look_all() -> None:
        for key in keys:
            get(key)

    return look_all


def inserting(put):
    """Every call inserts 200 keys never seen (they were made beforehand): each evicts one."""
    fresh = iter([f"n{number}" for number in range(INSERTS)])

    def insert_all() -> None:
        for key in islice(fresh, 200):
            put(key, 1)

    return insert_all


def main() -> None:
    shuffled = [f"k{number}" for number in range(SIZE)]
    random.Random(1).shuffle(shuffled)
    unknown = [f"u{number}" for number in range(SIZE)]
    mine, peer = ours(), theirs()
    rows: list[Row] = [
        compare("hit, LRU store", looks(mine.get, shuffled), PEER, looks(peer.get, shuffled), at_most=0.45),
        compare("miss, LRU store", looks(mine.get, unknown), PEER, looks(peer.get, unknown), at_most=0.4),
    ]
    for name, store, goal in (("LRU store", None, 0.45), ("cachetools.LRUCache as store", cachetools.LRUCache, 0.65)):
        mine, peer = ours(store), theirs()
        rows.append(
            compare(
                f"insert with eviction, {name}", inserting(mine.set), PEER, inserting(peer.__setitem__), at_most=goal
            )
        )
    report(rows)


if __name__ == "__main__":
    main()
