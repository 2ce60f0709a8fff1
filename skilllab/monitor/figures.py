"""Figures: what a monitor knows at one moment, as plain frozen numbers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

from skilllab.frozen import FrozenDict
from skilllab.histogram import BUCKETS, Histogram
from skilllab.stats import smallest_n

_QUANTILES = {"p50": 0.5, "p95": 0.95, "p99": 0.99}
EXACT = 1 / (2 * BUCKETS)
"""The precision of a histogram of which no buckets were joined."""

COARSE = 0.01
"""The precision, as a share, above which it is told beside a quantile."""

_LEAST = {name: smallest_n(q) for name, q in _QUANTILES.items()}


class Spread(NamedTuple):
    """How one metric was spread over `n` values; a quantile is None where n is too small for it to have an interval.

    n, mean and max are exact; precision: by how much, as a share, a quantile may err.
    """

    n: int = 0
    mean: float | None = None
    p50: float | None = None
    p95: float | None = None
    p99: float | None = None
    max: float | None = None
    precision: float | None = None

    @classmethod
    def of(cls, found: Histogram, precision: float = EXACT) -> Spread:
        """Returns the spread of what was counted."""
        n = found.count
        if not n:
            return cls()
        values = dict(zip(_QUANTILES, found.quantiles(list(_QUANTILES.values())).tolist(), strict=True))
        quantiles = {name: value if n >= _LEAST[name] else None for name, value in values.items()}
        return cls(n, found.mean, max=found.max, precision=precision, **quantiles)


NO_SPREAD = Spread()


@dataclass(frozen=True, slots=True)
class SkillFigures:
    """One skill, or all of a layer, in the whole run or the window.

    executions: that ended: `succeeded`, `cached` (answered from the result cache, or by an equal call under way) and
    `failed`, whose `errors` are counted by kind. in_flight: now; peak: the most that were seen at once. duration (s): of
    executions that succeeded and ran; queue_time (s), cpu_time (s) and memory_used (bytes): of all for which it was measured.
    ran: seconds that successful executions took together. blocked, longest_block (s), where: steps that held up the event
    loop; opened: how often the circuit breaker opened.
    """

    skill_id: str
    layer: int | None
    succeeded: int = 0
    cached: int = 0
    failed: int = 0
    errors: Mapping[str, int] = FrozenDict()
    in_flight: int = 0
    peak: int = 0
    ran: float = 0.0
    duration: Spread = NO_SPREAD
    queue_time: Spread = NO_SPREAD
    cpu_time: Spread = NO_SPREAD
    memory_used: Spread = NO_SPREAD
    blocked: int = 0
    longest_block: float = 0.0
    where: str = ""
    opened: int = 0

    @property
    def executions(self) -> int:
        """Executions that ended, however."""
        return self.succeeded + self.cached + self.failed

    @property
    def seen(self) -> bool:
        """Whether anything happened."""
        return bool(self.executions or self.in_flight or self.peak or self.blocked or self.opened)

    @property
    def error_rate(self) -> float | None:
        """Share of the executions that failed; None without any."""
        return self.failed / self.executions if self.executions else None

    @property
    def cached_share(self) -> float | None:
        """Share of the answers that took no run; None without any."""
        answered = self.succeeded + self.cached
        return self.cached / answered if answered else None


@dataclass(frozen=True, slots=True)
class ResultCache:
    """The result caches of the engines listened to, added up; of those no longer listened to, what was known last.

    size, max_size: entries now and at most.
    """

    hits: int = 0
    misses: int = 0
    evictions: int = 0
    expirations: int = 0
    size: int = 0
    max_size: int = 0

    @property
    def hit_rate(self) -> float | None:
        """Hits per look-up; None before the first."""
        lookups = self.hits + self.misses
        return self.hits / lookups if lookups else None
