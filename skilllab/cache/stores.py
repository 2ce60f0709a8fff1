"""Stores: who goes when the cache is full. Expiry, statistics and locks belong to SkillCache."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator, MutableMapping
from typing import Any, Protocol

import cachetools

from skilllab.errors import InvalidValueError


class Store(Protocol):
    """What SkillCache needs of a store: a mapping that counts uses in `lookup` and gives up one entry in `evict`."""

    def lookup(self, key: Hashable) -> Any:
        """Returns the entry, counting the use, or None."""

    def peek(self, key: Hashable) -> Any:
        """Returns the entry without counting the use, or None."""

    def put(self, key: Hashable, entry: Any) -> None:
        """Stores the entry; the key is not present."""

    def drop(self, key: Hashable) -> None:
        """Removes the entry; the key is present."""

    def evict(self) -> tuple[Hashable, Any]:
        """Removes and returns the entry that the policy gives up."""

    def __len__(self) -> int: ...

    def __iter__(self) -> Iterator[Any]: ...


class LRUStore(OrderedDict[Hashable, Any]):
    """Gives up the entry that was not used for the longest time: a hit costs a third of cachetools' policies."""

    def __init__(self, max_size: int) -> None:
        super().__init__()
        self.max_size = max_size

    def lookup(self, key: Hashable) -> Any:
        """Returns the entry, now the most recently used, or None."""
        entry = self.get(key)
        if entry is not None:
            self.move_to_end(key)
        return entry

    peek = OrderedDict.get
    put = OrderedDict.__setitem__
    drop = OrderedDict.__delitem__

    def evict(self) -> tuple[Hashable, Any]:
        """Removes and returns the least recently used entry."""
        return self.popitem(last=False)


_untouched: Callable[[Any, Hashable], Any] = cachetools.Cache.__getitem__


class PolicyStore:
    """Any cachetools policy as a store; its `popitem` decides who goes."""

    def __init__(self, policy: MutableMapping[Hashable, Any]) -> None:
        self._policy = policy
        self.put = policy.__setitem__
        self.drop = policy.__delitem__
        self.evict = policy.popitem

    def lookup(self, key: Hashable) -> Any:
        """Returns the entry, counted as a use, or None (`in` first: catching the KeyError of a miss costs five times more)."""
        return self._policy[key] if key in self._policy else None

    def peek(self, key: Hashable) -> Any:
        """Returns the entry, not counted as a use, or None."""
        return _untouched(self._policy, key) if key in self._policy else None

    def __len__(self) -> int:
        return len(self._policy)

    def __iter__(self) -> Iterator[Hashable]:
        return iter(self._policy)


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
    if isinstance(made, LRUStore):
        return made
    if not isinstance(made, cachetools.Cache):
        raise InvalidValueError(
            f"store={made!r} must be a LRUStore or a cachetools cache, as in store=cachetools.LFUCache"
        )
    if made.maxsize < max_size:
        raise InvalidValueError(
            f"store holds {made.maxsize} entries, fewer than max_size={max_size}: build it with the size given"
        )
    return PolicyStore(made)
