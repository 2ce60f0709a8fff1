"""What a cache would have done with a trace: exact hits for a policy, a size and a time to live."""

from __future__ import annotations

import math
import operator
import os
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import product
from numbers import Real
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from skilllab.errors import InvalidValueError
from skilllab.experiments.simulation.kernel import Hits, load

if TYPE_CHECKING:
    import pandas as pd

    from skilllab.trace.trace import Trace

Point = tuple[str, int, float | None]


def hit_mask(trace: Trace, policy: str = "lru", size: int = 1, ttl: float | None = None, seed: int = 0) -> Hits:
    """Returns bool[accesses]: which accesses a cache would have served.

    policy: a name in POLICIES. size: entries, at least 1. ttl: seconds, None never expires.
    seed: for policies that draw lots. Raises InvalidValueError for anything else.
    """
    kernel = load(policy)
    hits = np.zeros(len(trace), dtype=np.bool_)
    kernel(trace.key, trace.time, _size(size), _ttl(ttl), _seed(seed), hits)
    return hits


def hits(trace: Trace, policy: str = "lru", size: int = 1, ttl: float | None = None, seed: int = 0) -> int:
    """Returns how many accesses a cache would have served; arguments and errors as in `hit_mask`."""
    return int(np.count_nonzero(hit_mask(trace, policy, size, ttl, seed)))


def simulate(
    trace: Trace,
    policies: Sequence[str] = ("lru",),
    sizes: Iterable[int] | None = None,
    ttls: Iterable[float | None] = (None,),
    seed: int = 0,
    threads: int | None = None,
    on_progress: Callable[[int, int], object] | None = None,
) -> pd.DataFrame:
    """Returns one row for each policy, size and TTL, in that order.

    policies: names in POLICIES. sizes: entries; `default_sizes(trace)` when None. ttls: seconds, None never expires.
    threads: how many points at once; as many as there are processors when None.
    on_progress: called with (points done, points in all) after each point.
    Columns: policy, size, ttl (s, NaN: never expires), accesses, hits, hit_ratio, misses, and compulsory: the first
    accesses, which no cache can serve. Raises InvalidValueError before it starts when any value is bad.
    """
    import pandas as pd

    wanted = default_sizes(trace) if sizes is None else [_size(size) for size in _several("sizes", sizes)]
    points: list[Point] = list(product(_several("policies", policies), wanted, _several("ttls", ttls)))
    if not points:
        raise InvalidValueError("there is nothing to simulate; give at least one policy, one size and one TTL")
    for policy, _, ttl in points:
        load(policy)
        _ttl(ttl)
    counts = _counts(trace, points, _seed(seed), threads, on_progress)
    frame = pd.DataFrame(points, columns=["policy", "size", "ttl"]).astype({"ttl": "float64"})
    frame["accesses"] = len(trace)
    frame["hits"] = counts
    frame["hit_ratio"] = frame["hits"] / len(trace)
    frame["misses"] = len(trace) - frame["hits"]
    frame["compulsory"] = trace.unique
    return frame


def miss_ratio_curve(
    trace: Trace, policy: str = "lru", sizes: Iterable[int] | None = None, ttl: float | None = None, seed: int = 0
) -> pd.DataFrame:
    """Returns hits, hit_ratio and miss_ratio at each size, exactly.

    sizes: entries; when None every size from 1 to the number of keys for LRU without TTL, which one pass gives, and
    `default_sizes(trace)` for the rest. policy, ttl, seed and errors as in `hit_mask`.
    """
    if sizes is None and policy == "lru" and ttl is None:
        sizes = range(1, trace.unique + 1)
    frame = simulate(trace, [policy], sizes, [ttl], seed)
    frame["miss_ratio"] = frame["misses"] / frame["accesses"]
    return frame[["policy", "size", "ttl", "hits", "hit_ratio", "miss_ratio"]]


def default_sizes(trace: Trace, points: int = 40) -> list[int]:
    """Returns at most `points` sizes from 1 to the number of keys, evenly spread on a logarithmic scale.

    Raises InvalidValueError for fewer than 2 points.
    """
    if operator.index(points) < 2:
        raise InvalidValueError(f"points(={points}) must be at least 2: the smallest and the largest size")
    return [int(size) for size in np.unique(np.rint(np.geomspace(1, trace.unique, points)).astype(np.int64))]


def response_times(mask: Hits, miss: npt.ArrayLike, hit: float) -> npt.NDArray[np.float64]:
    """Returns float64[accesses]: the seconds each access takes when a hit costs `hit` and a miss costs `miss`.

    mask: from `hit_mask`. miss: seconds, one number, or one for each access. hit: seconds.
    It is service time of one cache without waiting: a queue would add to it.
    Raises InvalidValueError for another shape and for costs that are negative or NaN.
    """
    costs = np.asarray(miss, dtype=np.float64)
    if costs.shape not in ((), mask.shape):
        raise InvalidValueError(
            f"miss has shape {costs.shape}; give one number or one for each of {len(mask)} accesses"
        )
    if not (np.all(costs >= 0) and hit >= 0):
        raise InvalidValueError(f"miss and hit(={hit!r}) must be seconds from 0 up, and not NaN")
    return np.where(mask, hit, costs)


def lru_hits(trace: Trace) -> npt.NDArray[np.int64]:
    """Returns int64[unique + 1]: at s the hits of an LRU cache of s entries without TTL, from one pass."""
    from skilllab.experiments.simulation.distances import hits_by_distance

    counts = hits_by_distance(trace.key)
    counts[0] = 0
    return np.cumsum(counts)


def _counts(
    trace: Trace, points: list[Point], seed: int, threads: int | None, on_progress: Callable[[int, int], object] | None
) -> list[int]:
    """Counts hits at every point; where one pass tells every size, that pass is made once."""
    workers = (os.cpu_count() or 1) if threads is None else _size(threads, "threads")
    shared = _shared(trace, points)
    single = [point for point in points if (point[0], point[2]) not in shared]
    counts: dict[Point, int] = {}
    for policy, size, ttl in points:
        if (policy, ttl) in shared:
            counts[policy, size, ttl] = int(shared[policy, ttl][min(size, trace.unique)])
    with ThreadPoolExecutor(workers) as pool:
        done = pool.map(lambda point: hits(trace, point[0], point[1], point[2], seed), single)
        for place, number in enumerate(done, start=1):
            counts[single[place - 1]] = number
            if on_progress is not None:
                on_progress(len(points) - len(single) + place, len(points))
    return [counts[point] for point in points]


def _shared(trace: Trace, points: list[Point]) -> dict[tuple[str, float | None], npt.NDArray[np.int64]]:
    """Returns hits by size for the policies of which one pass tells every size: LRU without TTL, and unbounded."""
    kinds = {(policy, ttl) for policy, _, ttl in points}
    by_size = {kind: lru_hits(trace) for kind in kinds & {("lru", None)}}
    for policy, ttl in kinds:
        if policy == "unbounded":
            by_size[policy, ttl] = np.full(trace.unique + 1, hits(trace, policy, 1, ttl), dtype=np.int64)
    return by_size


def _several(name: str, values: Iterable[Any]) -> list[Any]:
    if isinstance(values, str) or not isinstance(values, Iterable):
        raise InvalidValueError(f"{name}(={values!r}) must be a sequence; write [{values!r}]")
    return list(values)


def _size(size: Any, name: str = "size") -> int:
    try:
        number = operator.index(size)
    except TypeError as error:
        raise InvalidValueError(f"{name}(={size!r}) must be a whole number") from error
    if isinstance(size, bool) or number < 1:
        raise InvalidValueError(f"{name}(={size!r}) must be at least 1")
    return number


def _ttl(ttl: float | None) -> float:
    if ttl is None:
        return math.inf
    if isinstance(ttl, bool) or not isinstance(ttl, Real) or not 0 < ttl < math.inf:
        raise InvalidValueError(f"ttl(={ttl!r}) must be a number of seconds above 0, or None for never")
    return float(ttl)


def _seed(seed: int) -> int:
    if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed < 2**63:
        raise InvalidValueError(f"seed(={seed!r}) must be a whole number from 0 up, below 2 ** 63")
    return seed
