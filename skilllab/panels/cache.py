"""CachePanel: what a cache's size, time to live and policy do to hits, to p95, and to the time spent waiting."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from skilllab import format as fmt
from skilllab import look, plots
from skilllab.errors import InvalidValueError
from skilllab.experiments.simulation import hit_mask, hits, response_times
from skilllab.panels.controls import Control, amount, durations, named, steps, whole_numbers
from skilllab.panels.panel import Panel
from skilllab.panels.picture import Curve, Marker, Picture
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

_MOST_KNOWN = 20_000  # outcomes kept: some 500 settings, a few MiB


class Outcome(NamedTuple):
    """What one cache did with a trace: hit ratio, p95 response time (s), waiting saved against no cache (s)."""

    hit_ratio: float
    p95: float
    saved: float


class Setting(NamedTuple):
    """All but the size: the name of a trace, a policy, seconds to live, seconds that a miss (median) and a hit take."""

    trace: str
    policy: str
    ttl: float | None
    miss: float
    hit: float


def outcome(trace: Trace, policy: str, size: int, ttl: float | None, miss: Array, hit: float) -> Outcome:
    """Returns what a cache would have done with the trace; arguments and errors as in hit_mask and response_times."""
    mask = hit_mask(trace, policy, size, ttl)
    times = response_times(mask, miss, hit)
    return Outcome(float(mask.mean()), quantile(times, 0.95), float((miss - times).sum()))


class CachePanel(Panel):
    """Two curves over cache size, hit ratio and p95 response time, with the chosen size marked in both.

    traces: a trace, or several by name. size: entries. ttl: seconds, None never expires. policy: a key of
    POLICY_NAMES. miss_seconds: how long a miss takes: one number, or one for each access when there is one trace; None
    assumes a seeded lognormal distribution with median MISS_SECONDS. hit_seconds: how long a hit takes. The panel can
    change both; misses keep their proportions. Response times are service times: a queue would add to them.

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
        self._traces = dict(traces) if isinstance(traces, Mapping) else {"trace": traces}
        if not self._traces or not all(isinstance(trace, Trace) for trace in self._traces.values()):
            raise InvalidValueError(f"traces(={traces!r:.80}) must be a Trace, or at least one by name")
        for trace in self._traces.values():
            hit_mask(trace, policy, size, ttl)  # refuses what cannot be replayed
        self._shares, median, note = _misses(self._traces, miss_seconds)
        self._sizes = _sizes(self._traces.values(), size)
        self._known: dict[tuple[Setting, int], Outcome] = {}
        self._best: dict[str, Array] = {}
        self._framed: object = None
        self._drawn: object = None
        names, policies = {name: name for name in self._traces}, {text: key for key, text in POLICY_NAMES.items()}
        lives = named(_lives(self._traces.values(), ttl), _life)
        self.trace = steps("Trace", names, next(iter(names)), "The recorded accesses that are replayed")
        self.policy = steps("Policy", policies, policy, "Which entry goes when the cache is full")
        self.size = steps("Cache size", named(self._sizes, _entries), size, "How many entries the cache holds")
        self.ttl = steps("Time to live", lives, ttl, "How long an entry is served after it was stored")
        self.miss = amount("Miss time, median", "ms", median, scale=1e-3, hint="What the call itself takes")
        self.hit = amount("Hit time", "ms", hit_seconds, scale=1e-3, hint="What the cache takes to answer")
        controls: list[Control[Any]] = [self.trace, self.policy, self.size, self.ttl, self.miss, self.hit]
        super().__init__(controls[len(self._traces) == 1 :], self._blank(), note)

    def update(self) -> Iterator[str]:
        """Draws the curves through some sizes, then through all of them; where they stand already the mark moves."""
        setting = Setting(self.trace.value, self.policy.value, self.ttl.value, self.miss.value, self.hit.value)
        size = self.size.value
        some = sorted({*self._sizes[::4], self._sizes[-1], size})
        known = all((setting, each) in self._known for each in self._sizes)
        for sizes in [self._sizes] if known else [some, self._sizes]:
            curve = self._curve(setting, sizes)
            self._draw(setting, curve, size)
            yield self._words(setting, curve[size], size)

    def _curve(self, setting: Setting, sizes: Sequence[int]) -> dict[int, Outcome]:
        """Returns the outcome at each size, replaying the trace on all processors for those that are not known."""
        curve = {size: self._known[setting, size] for size in sizes if (setting, size) in self._known}
        missing = [size for size in sizes if size not in curve]
        if missing:
            trace, policy, ttl, miss = self._traces[setting.trace], setting.policy, setting.ttl, self._miss(setting)
            with self.busy(), ThreadPoolExecutor() as pool:
                found = pool.map(lambda size: outcome(trace, policy, size, ttl, miss, setting.hit), missing)
                curve.update(zip(missing, found, strict=True))
            if len(self._known) > _MOST_KNOWN:
                self._known.clear()
            self._known.update(((setting, size), each) for size, each in curve.items())
        return dict(sorted(curve.items()))

    def _miss(self, setting: Setting) -> Array:
        """Returns how long each access takes as a miss (s)."""
        return self._shares[setting.trace] * setting.miss

    def _optimum(self, name: str) -> Array:
        """Returns Belady's hit ratio at each size, without TTL: whatever the TTL, no cache of that size does better."""
        if name not in self._best:
            trace = self._traces[name]
            with self.busy(), ThreadPoolExecutor() as pool:
                counts = list(pool.map(lambda size: hits(trace, "min", size), self._sizes))
            self._best[name] = np.array(counts) / len(trace)
        return self._best[name]

    def _blank(self) -> Picture:
        """Makes the two plots with lines that lie flat; the first drawing lifts them."""
        fig = plots.figure(6.0, 5.4)
        self._top, self._bottom = fig.subplots(2, 1, sharex=True, height_ratios=(1.1, 1))
        flat = np.zeros(len(self._sizes))
        plots.hit_ratio_curve(self._sizes, {"": flat}, optimum=flat, title=" ", x_label="", ax=self._top)
        plots.growth(
            self._sizes, {"": flat + 1}, x_label="Cache size (entries)", y_label="p95 response time", ax=self._bottom
        )
        self._top.tick_params(labelbottom=False)
        (self._title,) = self._top.findobj(lambda artist: artist.get_gid() == look.FINDING)
        self._marks = Marker(self._top, rising=True), Marker(self._bottom, rising=False)
        self._optimum_curve, *self._curves = Curve(self._top, 1), Curve(self._top, 0), Curve(self._bottom, 0)
        curves = [artist for curve in (self._optimum_curve, *self._curves) for artist in curve.artists]
        return Picture(fig, [curves, [*self._marks[0].artists, *self._marks[1].artists, self._title]])

    def _draw(self, setting: Setting, curve: Mapping[int, Outcome], size: int) -> None:
        """Draws what changed and what stands above it: all with a trace or the costs, the curves, or only the marks."""
        frame, drawn = setting._replace(policy="", ttl=None), (setting, list(curve))
        layer = 0 if frame != self._framed else 1 if drawn != self._drawn else 2
        if layer == 0:
            self._optimum_curve.move(self._sizes, self._optimum(setting.trace), "optimum\n(Belady)")
            self._bottom.set_ylim(*self._range(setting))
        if layer <= 1:
            hit_ratios, tails = [each.hit_ratio for each in curve.values()], [each.p95 for each in curve.values()]
            for line, heights in zip(self._curves, (hit_ratios, tails), strict=True):
                line.move(list(curve), heights, setting.policy.upper())
        ratio, p95 = fmt.ratio(curve[size].hit_ratio), fmt.duration(curve[size].p95)
        self._title.set_text(f"{_entries(size)}: {ratio} hits, p95 {p95}")
        self._marks[0].move(size, curve[size].hit_ratio, ratio)
        self._marks[1].move(size, curve[size].p95, p95)
        if layer == 0:
            self._picture.lay_out()
        self._picture.draw(layer)
        self._framed, self._drawn = frame, drawn

    def _range(self, setting: Setting) -> tuple[float, float]:
        """Returns the limits of the p95 axis: from the best that any cache can do to no cache at all, with room."""
        trace, miss = self._traces[setting.trace], self._miss(setting)
        ends = quantile(miss, 0.95), outcome(trace, "unbounded", 1, None, miss, setting.hit).p95
        decades = math.log10(max(ends) / min(ends))
        space: float = 10 ** max(0.1 * decades, (1 - decades) / 2)
        return min(ends) / space, max(ends) * space

    def _words(self, setting: Setting, chosen: Outcome, size: int) -> str:
        """Returns the summary: one sentence of what holds at the mark, one of what could hold at best."""
        where = f"{setting.trace}: " if len(self._traces) > 1 else ""
        life = "no TTL" if setting.ttl is None else f"TTL {_time(setting.ttl)}"
        best = self._optimum(setting.trace)[self._sizes.index(size)]
        return (
            f"{where}{_entries(size)}, {life}, {POLICY_NAMES[setting.policy]}: {fmt.ratio(chosen.hit_ratio)} of "
            f"{fmt.count(len(self._traces[setting.trace]))} look-ups hit; p95 {fmt.duration(chosen.p95)} where a miss "
            f"takes {_time(setting.miss)} (median) and a hit {_time(setting.hit)}; "
            f"{_time(abs(chosen.saved))} of waiting {'saved' if chosen.saved >= 0 else 'added'}. "
            f"Belady's optimum at this size: {fmt.ratio(best)}."
        )


def _misses(traces: Mapping[str, Trace], given: npt.ArrayLike | None) -> tuple[dict[str, Array], float, str]:
    """Returns how long each access of each trace takes as a miss, in medians; the median (s); and what is assumed."""
    about = "Service times only: waiting in a queue would add to them."
    if given is None:
        about = f"Assumed: misses spread lognormally (σ {MISS_SPREAD}, seed 1) around their median. {about}"
        drawn = {
            name: np.random.default_rng(1).lognormal(0.0, MISS_SPREAD, len(trace)) for name, trace in traces.items()
        }
        return {name: values / np.median(values) for name, values in drawn.items()}, MISS_SECONDS, about
    try:
        costs = np.asarray(given, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise InvalidValueError(f"miss_seconds(={given!r:.80}) must be seconds: a number, or one an access") from error
    if costs.ndim and len(traces) > 1:
        raise InvalidValueError(f"miss_seconds of shape {costs.shape} needs a single trace; there are {len(traces)}")
    for trace in traces.values():
        response_times(np.zeros(len(trace), dtype=np.bool_), costs, 0.0)  # refuses another shape, negatives and NaN
    median = float(np.median(costs))
    if not 0 < median < math.inf:
        raise InvalidValueError(f"miss_seconds has the median {median:g} s; it must be a number above 0")
    about = f"{'Each miss takes as long as given' if costs.ndim else 'All misses take the same'}. {about}"
    return {name: np.broadcast_to(costs / median, len(trace)) for name, trace in traces.items()}, median, about


def _sizes(traces: Iterable[Trace], size: int) -> list[int]:
    """Returns three decades of sizes up to the number of keys, where more changes nothing, and the first size."""
    most = max(trace.unique for trace in traces)
    return whole_numbers(most / 1000, most, size)


def _lives(traces: Iterable[Trace], ttl: float | None) -> list[float | None]:
    """Returns three decades of times to live up to the length of the trace, where nothing expires, the first, never."""
    longest = max(trace.duration for trace in traces) or 1.0
    return [*durations(longest / 1000, longest, *([] if ttl is None else [ttl])), None]


def _entries(size: int) -> str:
    return "1 entry" if size == 1 else f"{fmt.count(size)} entries"


def _life(ttl: float | None) -> str:
    return "never expires" if ttl is None else _time(ttl)


def _time(seconds: float) -> str:
    return fmt.trimmed(fmt.duration(seconds))
