"""Who expires next, in constant time: a queue for each distinct TTL, a heap over their heads.

Entries with one TTL expire in the order in which they were stored, so each queue is sorted as it stands.
"""

from __future__ import annotations

import heapq
import math
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any


class ExpiryQueue:
    """Holds (key, entry) by expiry time; entries that were replaced or removed since are passed over.

    `earliest` (s on the cache's timer) is a time before which nothing expires; `records` counts what is held.
    """

    __slots__ = ("_heads", "_queues", "earliest", "records")

    def __init__(self) -> None:
        self._queues: dict[float, deque[tuple[float, Any, Any]]] = {}
        self._heads: list[tuple[float, float]] = []
        self.earliest = math.inf
        self.records = 0

    def add(self, ttl: float, expires: float, key: Any, entry: Any) -> None:
        """Notes that `entry` of `key`, stored with this TTL (s), expires at `expires` (s on the cache's timer)."""
        self.records += 1
        queue = self._queues.get(ttl)
        if queue is not None:
            queue.append((expires, key, entry))
            return
        self._queues[ttl] = deque(((expires, key, entry),))
        heapq.heappush(self._heads, (expires, ttl))
        self.earliest = self._heads[0][0]

    def due(self, now: float, current: Callable[[Any], Any]) -> Iterator[tuple[Any, Any]]:
        """Yields and forgets every (key, entry) that expired by `now` and is still what `current(key)` returns."""
        while self._heads and self._heads[0][0] <= now:
            _, ttl = heapq.heappop(self._heads)
            queue = self._queues[ttl]
            while queue and queue[0][0] <= now:
                _, key, entry = queue.popleft()
                self.records -= 1
                if current(key) is entry:
                    yield key, entry
            if queue:
                heapq.heappush(self._heads, (queue[0][0], ttl))
            else:
                del self._queues[ttl]
        self.earliest = self._heads[0][0] if self._heads else math.inf

    def trim(self, current: Callable[[Any], Any]) -> None:
        """Forgets every entry that was replaced or removed, so that memory stays bounded by the cache."""
        live = {
            ttl: deque(item for item in queue if current(item[1]) is item[2]) for ttl, queue in self._queues.items()
        }
        self._queues = {ttl: queue for ttl, queue in live.items() if queue}
        self._heads = [(queue[0][0], ttl) for ttl, queue in self._queues.items()]
        heapq.heapify(self._heads)
        self.earliest = self._heads[0][0] if self._heads else math.inf
        self.records = sum(map(len, self._queues.values()))
