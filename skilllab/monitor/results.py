"""ResultCaches: what the result caches of engines do while somebody listens to the engines."""

from __future__ import annotations

import weakref
from dataclasses import astuple

from skilllab.cache import SkillCache
from skilllab.cache.stats import CacheStats, KindStats
from skilllab.monitor.figures import ResultCache

_RESULT = "result"  # the kind of an engine's entries in its result cache


class ResultCaches:
    """Adds up caches, each once however many engines share it; for one thread at a time."""

    def __init__(self) -> None:
        self._heard: list[_Heard] = []

    def begin(self, cache: SkillCache | None) -> None:
        """Counts what a cache does from now on."""
        if cache is None:
            return
        heard = self._of(cache)
        if heard is None:
            heard = _Heard(cache)
            self._heard.append(heard)
        heard.begin(cache)

    def end(self, cache: SkillCache | None) -> None:
        """Keeps what a cache did, once as many engines have ended as have begun."""
        heard = None if cache is None else self._of(cache)
        if heard is not None:
            heard.end()

    def figures(self) -> ResultCache | None:
        """Returns the figures of all; None without any."""
        rows = [astuple(heard.figures()) for heard in self._heard]
        return ResultCache(*map(sum, zip(*rows, strict=True))) if rows else None

    def _of(self, cache: SkillCache) -> _Heard | None:
        return next((heard for heard in self._heard if heard.refers() is cache), None)


class _Heard:
    """One cache: what it did while it was listened to before, and since when it is again; it may be gone by then."""

    def __init__(self, cache: SkillCache) -> None:
        self.refers = weakref.ref(cache)
        self._engines = 0
        self._cache: SkillCache | None = None
        self._before = CacheStats()
        self._kept = ResultCache()

    def begin(self, cache: SkillCache) -> None:
        self._engines += 1
        if self._engines == 1:
            self._cache, self._before = cache, cache.stats()

    def end(self) -> None:
        self._engines -= 1
        if not self._engines:
            self._kept, self._cache = self.figures(), None

    def figures(self) -> ResultCache:
        if self._cache is None:
            return self._kept
        stats, kept = self._cache.stats().since(self._before), self._kept
        kind = stats.by_kind.get(_RESULT, KindStats())
        return ResultCache(
            kept.hits + kind.hits,
            kept.misses + kind.misses,
            kept.evictions + kind.evictions,
            kept.expirations + kind.expirations,
            kind.size,
            stats.max_size,
        )
