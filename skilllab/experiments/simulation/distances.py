"""Stack distances: one pass that gives the hits of LRU at every size.

The distance of an access is the number of different keys asked for since the last access to its key, itself included:
LRU hits if and only if the cache has at least that many entries. A Fenwick tree counts them in O(log n).
Sources: R. L. Mattson et al., Evaluation techniques for storage hierarchies, 1970 (distances); B. T. Bennett and
V. J. Kruskal, LRU stack processing, 1975 (tree); P. M. Fenwick, 1994.
"""

from __future__ import annotations

import numpy as np

from skilllab.experiments.simulation.compiled import compiled
from skilllab.experiments.simulation.kernel import Keys


@compiled
def hits_by_distance(keys: Keys) -> Keys:
    """Returns int64[unique + 1]: at d the number of accesses with stack distance d, at 0 the first accesses."""
    n, unique = len(keys), keys.max() + 1
    last = np.zeros(unique, np.int64)  # the last access to the key, counted from 1; 0: none yet
    tree = np.zeros(n + 1, np.int64)  # Fenwick tree over accesses: 1 where an access is the last one to its key
    distances = np.zeros(unique + 1, np.int64)
    seen = 0
    for now in range(1, n + 1):
        key = keys[now - 1]
        at = last[key]
        if at == 0:
            distances[0] += 1
            seen += 1
        else:
            older = 0
            node = at
            while node > 0:
                older += tree[node]
                node -= node & -node
            distances[seen - older + 1] += 1
            node = at
            while node <= n:
                tree[node] -= 1
                node += node & -node
        node = now
        while node <= n:
            tree[node] += 1
            node += node & -node
        last[key] = now
    return distances
