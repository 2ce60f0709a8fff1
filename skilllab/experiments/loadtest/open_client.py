"""What a closed test did not see: the longest gap, and what clients who wait for nobody would have met in it.

Workers who wait for their answers send nothing while the target stands still, so that a stall is one slow answer for
each, however many requests would have come (coordinated omission, Tene 2013).
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from skilllab.experiments.loadtest.metrics import known_quantile
from skilllab.experiments.loadtest.records import Columns

RATES = (10.0, 100.0, 1000.0)
ASSUMPTION = (
    "Assumed, not measured: each of its requests would have taken the place of the next one that the closed test began, "
    "in turn."
)


class OpenClient(NamedTuple):
    """What a client would have seen who asks `rate` times a second, whatever became of the requests before; in seconds.

    A quantile is nan where so few requests say nothing of it, and all are where the target did not answer so many.
    """

    rate: float
    mean: float
    p50: float
    p95: float
    p99: float


def longest_gap(requests: Columns, begin: float, until: float) -> tuple[float, float]:
    """Returns the longest time between two moments (s) in which no request ended, and when it began, in seconds."""
    until = max(begin, until)
    ends = np.sort(requests.end[(requests.end > begin) & (requests.end < until)])
    edges = np.concatenate(([begin], ends, [until]))
    place = int(np.argmax(np.diff(edges)))
    return float(edges[place + 1] - edges[place]), float(edges[place])


def seen_by(rate: float, requests: Columns, begin: float, until: float) -> OpenClient:
    """Returns what an open client would have seen of a closed test between two times (s), as ASSUMPTION says."""
    answered = requests.where(requests.ok)
    answered = answered.where(np.argsort(answered.start, kind="stable"))
    number = np.arange(int((until - begin) * rate))
    due = begin + (number + 0.5) / rate
    place = number + np.maximum.accumulate(np.searchsorted(answered.start, due) - number) if len(number) else number
    served = place < len(answered.start)
    if not served.any() or (~served).sum() > max(1, 0.01 * len(served)):
        return OpenClient(rate, math.nan, math.nan, math.nan, math.nan)
    seen = answered.end[place[served]] - due[served]
    return OpenClient(rate, float(seen.mean()), *(known_quantile(seen, q) for q in (0.5, 0.95, 0.99)))
