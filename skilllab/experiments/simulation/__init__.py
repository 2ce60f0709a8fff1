"""Simulation of caches with a limit on the number of entries: exact, compiled, one policy a module."""

from __future__ import annotations

from skilllab.experiments.simulation.kernel import POLICIES
from skilllab.experiments.simulation.whatif import (
    default_sizes,
    hit_mask,
    hits,
    lru_hits,
    miss_ratio_curve,
    response_times,
    simulate,
)

__all__ = [
    "POLICIES",
    "default_sizes",
    "hit_mask",
    "hits",
    "lru_hits",
    "miss_ratio_curve",
    "response_times",
    "simulate",
]
