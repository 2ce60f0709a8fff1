"""What a cache did, as frozen snapshots."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from skilllab import format as fmt
from skilllab.frozen import FrozenDict


@dataclass(frozen=True, slots=True)
class KindStats:
    """Counts of one kind of entry; size is now, and includes expired entries that nobody has noticed.

    An entry that expired is an expiration whatever ended it: a look-up (a miss as well), another value, a deletion. So
    insertions = size + expirations + evictions + invalidations + replacements of an entry that lived.
    """

    hits: int = 0
    misses: int = 0
    expirations: int = 0
    evictions: int = 0
    invalidations: int = 0
    size: int = 0

    @property
    def lookups(self) -> int:
        """Hits and misses together."""
        return self.hits + self.misses

    @property
    def hit_rate(self) -> float:
        """Hits per look-up, 0 to 1; NaN before the first look-up, so that no comparison with it is true."""
        return self.hits / self.lookups if self.lookups else math.nan


@dataclass(frozen=True, slots=True)
class CacheStats(KindStats):
    """Counts over all kinds, and `by_kind`."""

    max_size: int = 0
    by_kind: Mapping[str, KindStats] = FrozenDict()

    @classmethod
    def over(cls, by_kind: Mapping[str, KindStats], max_size: int) -> CacheStats:
        """Returns the statistics that sum up those of the kinds."""
        sums = {field: sum(getattr(stats, field) for stats in by_kind.values()) for field in _COUNTS}
        return cls(**sums, max_size=max_size, by_kind=FrozenDict(by_kind))

    def since(self, earlier: CacheStats) -> CacheStats:
        """Returns what happened after the `earlier` snapshot; sizes are those of now."""
        kinds = {kind: _difference(now, earlier.by_kind.get(kind, KindStats())) for kind, now in self.by_kind.items()}
        return CacheStats.over(kinds, self.max_size)

    def frame(self) -> Any:
        """Returns a pandas frame with a row for each kind and one for all."""
        import pandas as pd

        rows = {**self.by_kind, "all": self}
        columns = (*_COUNTS, "hit_rate")
        table = {column: [getattr(stats, column) for stats in rows.values()] for column in columns}
        return pd.DataFrame(table, index=list(rows))

    def __str__(self) -> str:
        return (
            f"{fmt.count(self.hits)} hits, {fmt.count(self.misses)} misses (hit rate {fmt.ratio(self.hit_rate)}), "
            f"{fmt.count(self.evictions)} evictions, {fmt.count(self.expirations)} expirations, "
            f"{fmt.count(self.invalidations)} invalidations, {fmt.count(self.size)} of {fmt.count(self.max_size)} entries"
        )


_COUNTS = tuple(field.name for field in fields(KindStats))


def _difference(now: KindStats, before: KindStats) -> KindStats:
    counts = {field: getattr(now, field) - getattr(before, field) for field in _COUNTS if field != "size"}
    return KindStats(**counts, size=now.size)
