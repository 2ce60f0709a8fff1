"""What every kernel is, and the table of them: one policy, one module, one row."""

from __future__ import annotations

from importlib import import_module
from typing import Protocol, TypeAlias, cast

import numpy as np
import numpy.typing as npt

from skilllab.errors import InvalidValueError

Keys: TypeAlias = npt.NDArray[np.int64]
Times: TypeAlias = npt.NDArray[np.float64]
Hits: TypeAlias = npt.NDArray[np.bool_]

POLICIES = {
    "lru": "skilllab.experiments.simulation.lru",
    "fifo": "skilllab.experiments.simulation.fifo",
    "lfu": "skilllab.experiments.simulation.lfu",
    "rr": "skilllab.experiments.simulation.rr",
    "min": "skilllab.experiments.simulation.min",
    "unbounded": "skilllab.experiments.simulation.unbounded",
}


class Kernel(Protocol):
    """Marks the accesses that a cache serves.

    keys: dense ids from 0. times: seconds, never falling. size: entries, at least 1. ttl: seconds, infinity for off.
    seed: for policies that draw lots. hits: all False at the start, one for each access; set where the cache hits.

    A miss stores the entry. An entry is served while now < time of storing + ttl; a hit does not renew that. When the
    cache is full, expired entries go before a live one. An entry that expired or was evicted leaves nothing behind.
    """

    def __call__(self, keys: Keys, times: Times, size: int, ttl: float, seed: int, hits: Hits) -> None: ...


def load(policy: str) -> Kernel:
    """Returns the kernel of a policy, importing numba and the policy's module at the first use.

    Raises InvalidValueError for a policy that is not in the table.
    """
    if policy not in POLICIES:
        raise InvalidValueError(f"policy(={policy!r}) is not known; the policies are {', '.join(POLICIES)}")
    return cast("Kernel", import_module(POLICIES[policy]).kernel)
