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
    """Holds keys by expiry time, and neither entries nor values: what left the cache is not kept alive.

    peek: returns the entry of a key, a tuple whose second item is when it expires (s on the cache's timer), or None. A
    record whose time differs is of an entry that was replaced or removed, and is passed over.
    `earliest` is a time before which nothing expires; `records` counts what is held.
    """

    __slots__ = ("_heads", "_peek", "_queues", "earliest", "records")

    def __init__(self, peek: Callable[[Any], Any]) -> None:
        self._peek = peek
        self._queues: dict[float, deque[tuple[float, Any]]] = {}
        self._heads: list[tuple[float, float]] = []
        self.earliest = math.inf
        self.records = 0

    def add(self, ttl: float, expires: float, key: Any) -> None:
        """Notes that the entry of `key`, stored with this TTL (s), expires at `expires`."""
        queue = self._queues.get(ttl)
        self.records += 1
        if queue is None:
            self._queues[ttl] = deque(((expires, key),))
            heapq.heappush(self._heads, (expires, ttl))
            self.earliest = self._heads[0][0]
            return
        queue.append((expires, key))
        head_expires, head_key = queue[0]
        entry = self._peek(head_key)
        if entry is None or entry[1] != head_expires:
            queue.popleft()
            self.records -= 1

    def due(self, now: float) -> Iterator[Any]:
        """Yields and forgets the key of every entry that expired by `now`."""
        while self._heads and self._heads[0][0] <= now:
            _, ttl = heapq.heappop(self._heads)
            queue = self._queues[ttl]
            while queue and queue[0][0] <= now:
                expires, key = queue.popleft()
                self.records -= 1
                if self._holds(key, expires):
                    yield key
            if queue:
                heapq.heappush(self._heads, (queue[0][0], ttl))
            else:
                del self._queues[ttl]
        self.earliest = self._heads[0][0] if self._heads else math.inf

    def trim(self) -> None:
        """Forgets every entry that was replaced or removed."""
        for ttl, queue in list(self._queues.items()):
            live = deque(dict.fromkeys(record for record in queue if self._holds(record[1], record[0])))
            if live:
                self._queues[ttl] = live
            else:
                del self._queues[ttl]
        self._heads = [(queue[0][0], ttl) for ttl, queue in self._queues.items()]
        heapq.heapify(self._heads)
        self.earliest = self._heads[0][0] if self._heads else math.inf
        self.records = sum(map(len, self._queues.values()))

    def _holds(self, key: Any, expires: float) -> bool:
        entry = self._peek(key)
        return entry is not None and bool(entry[1] == expires)
