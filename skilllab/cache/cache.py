"""SkillCache: kinds with TTLs of their own over one store; what comes out cannot change what is in."""

from __future__ import annotations

import copy as copying
import logging
import math
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final

from skilllab import settings
from skilllab.cache.expiry import ExpiryQueue
from skilllab.cache.keys import DEFAULT, QUERY, SKILL, VALIDATION, Key, as_key
from skilllab.cache.stats import CacheStats, KindStats
from skilllab.cache.stores import LRUStore, make_store
from skilllab.cache.tags import TagIndex, checked_tags
from skilllab.errors import InvalidValueError
from skilllab.model import SkillDefinition
from skilllab.query import Page, SkillQuery

UNSET: Final = type("Unset", (), {"__repr__": lambda self: "UNSET"})()
"""Inherit: the TTL of the key's kind."""

Listener = Callable[[Any, Any], None]
_ATOMS = frozenset({str, int, float, bool, bytes, complex, type(None), Page, SkillDefinition})
_SPARE_RECORDS = 64
_MOST_BITS = 1023  # of an int that is a float, and short enough for a message
_log = logging.getLogger("skilllab.cache")


class _Counts:
    """The TTL of one kind, and what happened to it."""

    __slots__ = ("evictions", "expirations", "hits", "invalidations", "misses", "size", "ttl")

    def __init__(self, ttl: float | None) -> None:
        self.ttl = ttl
        self.hits = self.misses = self.expirations = self.evictions = self.invalidations = self.size = 0


# value, when it expires (s on the timer), counts of its kind, tags, whether the value is handed out as a copy
_Entry = tuple[Any, float, _Counts, tuple[str, ...], bool]
_Gone = list[tuple[Any, _Entry]]


class SkillCache:
    """A bounded cache in whose namespaces (kinds) entries live for different times; safe under threads and tasks.

    max_size: entries, over all kinds. ttl: seconds that an entry lives unless `set` says otherwise, with a TTL for
    each of the kinds skill, query and validation; None never expires. store: LRUStore, or any cachetools class (a
    factory called with max_size). timer: seconds, monotonic. on_expire and on_evict: called with (key, value) after
    the entry is gone and the lock is free. copy: makes what is stored and what is handed out independent of each other
    (a value that it returns as it is, being immutable, is shared); None shares everything.

    An expired entry is never served, and goes before a live one when the cache is full (the meaning of
    cachetools.TLRUCache). A hit does not make an entry live longer.
    Raises InvalidValueError for a max_size below 1, a TTL that is not above 0, and a store that is none.
    """

    def __init__(
        self,
        max_size: int = settings.CACHE_MAX_SIZE,
        ttl: float | None = settings.CACHE_TTL,
        *,
        skill_ttl: float | None = settings.SKILL_TTL,
        query_ttl: float | None = settings.QUERY_TTL,
        validation_ttl: float | None = settings.VALIDATION_TTL,
        store: Callable[[int], Any] = LRUStore,
        timer: Callable[[], float] = time.monotonic,
        on_expire: Listener | None = None,
        on_evict: Listener | None = None,
        copy: Callable[[Any], Any] | None = copying.deepcopy,
    ) -> None:
        if type(max_size) is not int or max_size < 1:
            raise InvalidValueError(
                f"max_size={max_size!r} must be a whole number of at least 1; to have no cache, pass cache=None"
            )
        self._default_counts = _Counts(_checked_ttl("ttl", ttl))
        self._counts = {DEFAULT: self._default_counts}
        for kind, given in ((SKILL, skill_ttl), (QUERY, query_ttl), (VALIDATION, validation_ttl)):
            self._counts[kind] = _Counts(_checked_ttl(f"{kind}_ttl", given))
        self.max_size = max_size
        self._store = make_store(store, max_size)
        self._peek, self._touch, self._put = self._store.peek, self._store.touch, self._store.put
        self._evict, self._keys = self._store.evict, self._store.keys()
        self._records_allowed = 2 * max_size + _SPARE_RECORDS
        self._timer = timer
        self._copy = copy
        self._on_expire, self._on_evict = on_expire, on_evict
        self._lock = threading.RLock()
        self._acquire, self._release = self._lock.acquire, self._lock.release
        self._expiry = ExpiryQueue(self._peek)
        self._tags = TagIndex()

    # reading

    def get(self, key: Any, default: Any = None, *, valid: Callable[[Any], bool] | None = None) -> Any:
        """Returns the value of `key`, or `default` when there is none that lives.

        key: text, a Key, or any JSON value or hashable (see canonical_key). valid: told the value, says whether it may
        still be served; when it may not, the entry is dropped and the look-up is a miss.
        """
        kind = type(key)
        if kind is str:
            if not key.isascii():
                key = as_key(key)
        elif kind is not Key:
            key = as_key(key)
        self._acquire()  # a third of a hit cheaper than `with`
        try:
            entry: _Entry | None = self._peek(key)
            if entry is None:
                (self._default_counts if kind is str else self._counts_of(key)).misses += 1
                return default
            value, expires, counts, _, copied = entry
            now = self._timer()
            alive = expires > now
            served = alive and (valid is None or valid(value))
            if served:
                counts.hits += 1
                if valid is None or self._peek(key) is entry:  # `valid` may remove or replace what it was told of
                    self._touch(key)
            else:
                counts.misses += 1
                if self._peek(key) is entry:
                    self._take_out(key, entry, now)
        finally:
            self._release()
        if served:
            return self._copied(value) if copied else value
        if not alive:
            self._tell([(key, entry)], [])
        return default

    def __contains__(self, key: Any) -> bool:
        """Whether a living entry is there; counts neither as a look-up nor as a use."""
        with self._lock:
            entry = self._peek(as_key(key))
            return entry is not None and entry[1] > self._timer()

    def __len__(self) -> int:
        """The number of living entries; those found expired are removed."""
        self.cleanup()
        return len(self._keys)

    def get_skill(self, skill_id: str) -> Any:
        """Returns what `cache_skill` stored for the id, or None."""
        return self.get(_in_kind(SKILL, skill_id))

    def get_query(self, key: Any) -> Any:
        """Returns what `cache_query` stored under the key, or None."""
        return self.get(_in_kind(QUERY, key))

    def get_validation(self, skill_id: str) -> Any:
        """Returns what `cache_validation` stored for the id, or None."""
        return self.get(_in_kind(VALIDATION, skill_id))

    # writing

    def set(self, key: Any, value: Any, ttl: float | Any | None = UNSET, tags: Iterable[str] = ()) -> None:
        """Stores `value` under `key` for `ttl` seconds (UNSET: the kind's; None: for ever), findable by its tags.

        Raises InvalidValueError for a TTL that is not above 0 and for a value that cannot be copied; nothing changes then.
        """
        if not (type(key) is str and key.isascii()):
            key = as_key(key)
        if ttl is not UNSET:
            ttl = _checked_ttl("ttl", ttl)
        stored = value if type(value) in _ATOMS else self._copied(value)
        tags = checked_tags(tags) if tags else ()
        gone = None
        self._acquire()
        try:
            counts = self._default_counts if type(key) is str else self._counts_of(key)
            if ttl is UNSET:
                ttl = counts.ttl
            now = self._timer()
            expires = math.inf if ttl is None else now + ttl
            old = self._peek(key)
            if old is None:
                if len(self._keys) >= self.max_size:
                    gone = self._make_room(now)
            elif old[1] > now:
                self._uncount(key, old)
                self._touch(key)
            else:
                self._take_out(key, old, now)
                gone = [(key, old)], []
            self._put(key, (stored, expires, counts, tags, stored is not value))
            counts.size += 1
            if tags:
                self._tags.add(key, tags)
            if ttl is not None:
                self._expiry.add(ttl, expires, key)
                if self._expiry.records > self._records_allowed:
                    self._expiry.trim()
        finally:
            self._release()
        if gone is not None:
            self._tell(*gone)

    def cache_skill(self, skill_id: str, skill: Any) -> None:
        """Stores a skill under its id (15 minutes by default)."""
        self.set(_in_kind(SKILL, skill_id), skill)

    def cache_query(self, key: Any, results: Any) -> None:
        """Stores the results of a query (2 minutes by default); `key` is best made by generate_query_key."""
        self.set(_in_kind(QUERY, key), results)

    def cache_validation(self, skill_id: str, validation: Any) -> None:
        """Stores the result of checking a skill (5 minutes by default)."""
        self.set(_in_kind(VALIDATION, skill_id), validation)

    @staticmethod
    def generate_query_key(query: SkillQuery | Mapping[str, Any]) -> Key:
        """Returns the key of a query: the same for every way to write it, and never the key of anything else."""
        return Key(QUERY, query if isinstance(query, SkillQuery) else SkillQuery.of(query))

    # removing

    def delete(self, key: Any) -> bool:
        """Removes the entry of `key`; returns whether there was one that lived (an expired one counts as expired)."""
        key = as_key(key)
        return self._remove(lambda: (key,)) > 0

    def invalidate_tags(self, *tags: str) -> int:
        """Removes every entry stored with one of the tags; returns how many lived (expired ones count as expired)."""
        checked = checked_tags(tags)
        return self._remove(lambda: self._tags.carriers(checked))

    def cleanup(self) -> int:
        """Removes every expired entry; returns how many."""
        with self._lock:
            expired = self._purge(self._timer())
        self._tell(expired, [])
        return len(expired)

    def clear(self) -> None:
        """Removes every entry; statistics stay."""
        self._remove(lambda: list(self._keys))

    def _remove(self, choose: Callable[[], Iterable[Any]]) -> int:
        """Removes the entries of the keys that are chosen under the lock; returns how many lived."""
        lived, expired = 0, []
        with self._lock:
            now = self._timer()
            for key in choose():
                entry = self._peek(key)
                if entry is None:
                    continue
                if self._take_out(key, entry, now):
                    lived += 1
                else:
                    expired.append((key, entry))
        self._tell(expired, [])
        return lived

    # statistics

    def stats(self) -> CacheStats:
        """Returns what happened so far, in all and by kind, as a frozen snapshot.

        Sizes include entries that expired and that nobody has noticed: call `cleanup` first to count the living ones.
        """
        with self._lock:
            by_kind = {
                kind: KindStats(c.hits, c.misses, c.expirations, c.evictions, c.invalidations, c.size)
                for kind, c in self._counts.items()
            }
            return CacheStats.over(by_kind, max_size=self.max_size)

    def __repr__(self) -> str:
        return f"<SkillCache {self.stats()}>"

    # under the lock

    def _counts_of(self, key: Any) -> _Counts:
        if type(key) is not Key:
            return self._default_counts
        counts = self._counts.get(key.kind)
        if counts is None:
            counts = self._counts.setdefault(key.kind, _Counts(self._counts[DEFAULT].ttl))
        return counts

    def _make_room(self, now: float) -> tuple[_Gone, _Gone] | None:
        """Removes what expired; when that frees nothing, what the policy gives up. Returns both if somebody listens."""
        if self._expiry.earliest <= now:
            expired = self._purge(now)
            if expired:
                return expired, []
        key, entry = self._evict()
        entry[2].evictions += 1
        self._uncount(key, entry)
        return None if self._on_evict is None else ([], [(key, entry)])

    def _purge(self, now: float) -> _Gone:
        expired: _Gone = []
        for key in self._expiry.due(now):
            entry = self._peek(key)
            self._take_out(key, entry, now)
            expired.append((key, entry))
        return expired

    def _take_out(self, key: Any, entry: _Entry, now: float) -> bool:
        """Removes the entry and counts it, as an invalidation if it lives and else as an expiration; returns which."""
        self._store.drop(key)
        self._uncount(key, entry)
        lives = entry[1] > now
        if lives:
            entry[2].invalidations += 1
        else:
            entry[2].expirations += 1
        return lives

    def _uncount(self, key: Any, entry: _Entry) -> None:
        """Takes the entry off the counts and tags."""
        entry[2].size -= 1
        if entry[3]:
            self._tags.remove(key, entry[3])

    # outside the lock

    def _copied(self, value: Any) -> Any:
        if self._copy is None:
            return value
        try:
            return self._copy(value)
        except Exception as error:
            raise InvalidValueError(
                f"a value of type {type(value).__name__} cannot be copied ({error}): cache something that can, "
                "or share it with SkillCache(copy=None)"
            ) from error

    def _tell(self, expired: _Gone, evicted: _Gone) -> None:
        for listener, gone in ((self._on_expire, expired), (self._on_evict, evicted)):
            if listener is None:
                continue
            for key, entry in gone:
                try:
                    listener(key, entry[0])
                except Exception:  # noqa: BLE001 - a listener's failure is not the cache's
                    _log.exception("a callback failed for the entry of %r, which is gone all the same", key)


def _in_kind(kind: str, key: Any) -> Key:
    return key if type(key) is Key and key.kind == kind else Key(kind, as_key(key))


def _checked_ttl(name: str, ttl: Any) -> float | None:
    if ttl is None:
        return None
    if isinstance(ttl, int) and ttl.bit_length() > _MOST_BITS:
        raise InvalidValueError(
            f"{name} of {ttl.bit_length()} bits is no number of seconds: give None to keep for ever"
        )
    if isinstance(ttl, bool) or not isinstance(ttl, int | float) or not ttl > 0:
        raise InvalidValueError(f"{name}={ttl!r} must be a number of seconds above 0, or None to keep for ever")
    return None if math.isinf(ttl) else float(ttl)
