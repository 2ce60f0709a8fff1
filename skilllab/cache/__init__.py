"""Caching: SkillCache, canonical keys, stores, and single_flight."""

from skilllab.cache.cache import UNSET, SkillCache
from skilllab.cache.flight import single_flight
from skilllab.cache.keys import Key, canonical_key
from skilllab.cache.stats import CacheStats, KindStats
from skilllab.cache.stores import LRUStore

__all__ = ["UNSET", "CacheStats", "Key", "KindStats", "LRUStore", "SkillCache", "canonical_key", "single_flight"]
