"""CachePanel: what a cache's size, time to live and policy do to hits, to p95, and to the time spent waiting."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from skilllab import format as fmt
from skilllab import look, plots
from skilllab.errors import InvalidValueError
from skilllab.experiments.simulation import hit_mask, hits, response_times
from skilllab.panels.controls import amount, choice, durations, named, steps, whole_numbers
from skilllab.panels.panel import Panel
from skilllab.panels.picture import Marker, Picture, follow
from skilllab.settings import CACHE_MAX_SIZE
from skilllab.stats import Array, quantile
from skilllab.trace import Trace

POLICY_NAMES = {"lru": "LRU", "lfu": "LFU", "fifo": "FIFO", "rr": "RR (random)"}

MISS_SECONDS = 0.1
"""Seconds a miss is assumed to take in the median when nobody says: an ordinary call over the network."""

MISS_SPREAD = 0.6
"""The sigma of the lognormal distribution of assumed misses: their p95 is 2.7 times their median."""

HIT_SECONDS = 0.0001
"""Seconds a hit is assumed to take when nobody says: a look-up and a copy within the process."""

_DAY = 86_400.0  # s; the longest a look-up may take
_MOST_KNOWN = 20_000  # outcomes kept: some 500 settings, a few MiB


class Outcome(NamedTuple):
    """What one cache did with a trace: hit ratio, p95 response time (s), waiting saved against no cache (s)."""

    hit_ratio: float
    p95: float
    saved: float


class Setting(NamedTuple):
    """All but the size: the name of a trace, a policy, seconds to live, what a miss (median) and a hit cost (s)."""

    trace: str
    policy: str
    ttl: float | None
    miss: float
    hit: float


class CachePanel(Panel):
    """Two curves over cache size, hit ratio and p95 response time, with the chosen size marked in both.

    traces: a trace, or several by name. size: entries. ttl: seconds, None never expires. policy: a key of
    POLICY_NAMES. miss_seconds: what a miss costs: one number, or one for each access when there is one trace; None
    assumes a seeded lognormal distribution with median MISS_SECONDS. hit_seconds: what a hit costs. Both costs can be
    changed in the panel; the misses keep their proportions. Response times are service times: a queue would add to them.

    Controls: .trace (shown when there are several), .policy, .size, .ttl, .miss, .hit.
    Raises InvalidValueError for a value that is none of these.
    """

    def __init__(
        self,
        traces: Trace | Mapping[str, Trace],
        *,
        size: int = CACHE_MAX_SIZE,
        ttl: float | None = None,
        policy: str = "lru",
        miss_seconds: float | npt.ArrayLike | None = None,
        hit_seconds: float = HIT_SECONDS,
    ) -> None:
        self._traces = {"trace": traces} if isinstance(traces, Trace) else dict(traces)
        if not self._traces:
            raise InvalidValueError("traces(={}) must hold at least one trace")
        for trace in self._traces.values():
            hit_mask(trace, policy, size, ttl)  # refuses whatever cannot be replayed
        self._shares, median, note = _costs(self._traces, miss_seconds)
        self._sizes = _sizes(self._traces.values(), size)
        self.trace = choice("Trace", {name: name for name in self._traces}, next(iter(self._traces)))
        self.policy = choice("Policy", {text: key for key, text in POLICY_NAMES.items()}, policy, _POLICY_HINT)
        self.size = steps("Cache size", named(self._sizes, _entries), size, "How many entries the cache holds")
        self.ttl = steps("Time to live", named(_lives(self._traces.values(), ttl), _life), ttl, _TTL_HINT)
        self.miss = amount("A miss takes, median", "ms", median, scale=1e-3, most=_DAY, hint=_MISS_HINT)
        self.hit = amount("A hit takes", "ms", hit_seconds, scale=1e-3, most=_DAY, hint=_HIT_HINT)
        self._known: dict[tuple[Setting, int], Outcome] = {}
        self._optima: dict[str, list[float]] = {}
        self._frame: object = None
        self._curve: object = None
        controls = [self.policy, self.size, self.ttl, self.miss, self.hit]
        super().__init__([self.trace] * (len(self._traces) > 1) + controls, self._blank(), note)

    def update(self) -> Iterator[str]:
        """Draws the curves through a few sizes, then through all; with the curves known only the mark moves."""
        setting = Setting(*(control.value for control in (self.trace, self.policy, self.ttl, self.miss, self.hit)))
        size = self.size.value
        known = all((setting, each) in self._known for each in self._sizes)
        rough = sorted({*self._sizes[::4], self._sizes[-1], size})
        for sizes in [self._sizes] if known else [rough, self._sizes]:
            outcomes = dict(zip(sizes, self._outcomes(setting, sizes), strict=True))
            self._draw(setting, outcomes, size)
            yield self._in_words(setting, size, outcomes[size])

    def _outcomes(self, setting: Setting, sizes: Sequence[int]) -> list[Outcome]:
        """Returns the outcome at each size, replaying the trace, on all processors, for those not known yet."""
        missing = [size for size in sizes if (setting, size) not in self._known]
        if missing:
            trace, miss = self._traces[setting.trace], self._shares[setting.trace] * setting.miss
            with self.busy(), ThreadPoolExecutor() as pool:
                found = list(pool.map(lambda size: outcome(trace, size, setting, miss), missing))
            if len(self._known) > _MOST_KNOWN:
                self._known.clear()
            self._known.update(((setting, size), each) for size, each in zip(missing, found, strict=True))
        return [self._known[setting, size] for size in sizes]
