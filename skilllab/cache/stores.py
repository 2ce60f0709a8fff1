"""Stores: who goes when the cache is full. Expiry, statistics and locks belong to SkillCache."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable
from functools import partial
from typing import Any, Protocol

import cachetools

from skilllab.errors import InvalidValueError


class Store(Protocol):
    """What SkillCache needs of a store: five calls, so that a hit costs two of them and a miss one."""

    @property
    def peek(self) -> Callable[[Hashable], Any]:
        """Returns the entry of a key, or None; no use is counted."""

    @property
    def touch(self) -> Callable[[Hashable], Any]:
        """Counts a use of a key that is present."""

    @property
    def put(self) -> Callable[[Hashable, Any], Any]:
        """Stores the entry of a key; that counts as a use only when the key was not present."""

    @property
    def drop(self) -> Callable[[Hashable], Any]:
        """Removes a key that is present."""

    @property
    def evict(self) -> Callable[[], tuple[Any, Any]]:
        """Removes and returns the key, and its entry, that the policy gives up."""

    @property
    def keys(self) -> Callable[[], Any]:
        """Returns a view of the keys."""


class LRUStore(OrderedDict[Hashable, Any]):
    """Gives up the entry that was not used for the longest time; every call but the constructor is C."""

    def __init__(self, max_size: int) -> None:
        super().__init__()
        self.max_size = max_size
        self.evict = partial(self.popitem, last=False)

    peek = OrderedDict.get
    touch = OrderedDict.move_to_end
    put = OrderedDict.__setitem__
    drop = OrderedDict.__delitem__


class PolicyStore:
    """Any cachetools policy as a store: the policy holds the keys and decides who goes, a dict beside it the entries."""

    def __init__(self, policy: cachetools.Cache[Any, Any]) -> None:
        self._policy = policy
        self._entries: dict[Hashable, Any] = {}
        self.peek = self._entries.get
        self.keys = self._entries.keys
        self.touch = policy.__getitem__

    def put(self, key: Hashable, entry: Any) -> None:
        """Stores the entry."""
        if key not in self._entries:
            self._policy[key] = None
        self._entries[key] = entry

    def drop(self, key: Hashable) -> None:
        """Removes the key."""
        del self._policy[key]
        del self._entries[key]

    def evict(self) -> tuple[Hashable, Any]:
        """Removes and returns what the policy's `popitem` gives up."""
        key, _ = self._policy.popitem()
        return key, self._entries.pop(key)


def make_store(factory: Callable[[int], Any], max_size: int) -> Store:
    """Returns a store of `max_size` entries from LRUStore or a cachetools class; raises InvalidValueError for others."""
    try:
        made = factory(max_size)
    except TypeError as error:
        raise InvalidValueError(
            f"store={factory!r} cannot be called with a size ({error}); give a cachetools class"
        ) from error
    if isinstance(made, cachetools.TTLCache | cachetools.TLRUCache):
        raise InvalidValueError(
            f"store={type(made).__name__} has TTLs of its own; give an eviction policy, TTLs are the cache's"
        )
    if not isinstance(made, LRUStore | cachetools.Cache):
        raise InvalidValueError(
            f"store={made!r} must be a LRUStore or a cachetools cache, as in store=cachetools.LFUCache"
        )
    if len(made):
        raise InvalidValueError(
            f"store={type(made).__name__} holds {len(made)} entries already: make a new one at each call of the factory"
        )
    if isinstance(made, LRUStore):
        return made
    if made.getsizeof is not cachetools.Cache.getsizeof:
        raise InvalidValueError(
            f"store={type(made).__name__} has a getsizeof of its own, and the cache counts entries: leave it out"
        )
    if made.maxsize < max_size:
        raise InvalidValueError(
            f"store holds {made.maxsize} entries, fewer than max_size={max_size}: build it with the size given"
        )
    return PolicyStore(made)
