"""What a batch costs, what each item adds, and the size at which the two are equal: the knee."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from skilllab.stats import Array, Interval, smallest_n

_CONFIDENCE = 0.95


class Costs(NamedTuple):
    """Seconds of a batch and of each item in it, and the size `knee` = batch / item at which they are equal.

    Below the knee throughput grows nearly with the size; at the knee it has half of what it could ever have, and ten
    times the size brings less than twice as much (n½ of Hockney and Jesshope, Parallel Computers, 1981). The knee is
    infinite when items cost nothing that could be measured, NaN with a single size. interval: of the knee, by a bootstrap
    over the rounds; None with fewer than 6 of them.
    """

    batch: float
    item: float
    knee: float
    interval: Interval | None


def costs(seconds: Mapping[int, Array], *, resamples: int = 1000, seed: int = 0) -> Costs:
    """Fits `batch + size * item` to the times of batches, by least squares of the relative errors of their medians.

    seconds: by size, seconds an item, one number for each round; all sizes have the same rounds.
    """
    sizes = np.array(list(seconds), dtype=np.float64)
    taken = np.column_stack([np.asarray(values) * size for size, values in seconds.items()])
    rounds = len(taken)
    (batch,), (item,), (knee,) = _fit(sizes, np.median(taken, axis=0)[np.newaxis])
    interval = None
    if rounds >= smallest_n(0.5, _CONFIDENCE) and len(sizes) > 1:
        drawn = np.random.default_rng(seed).integers(rounds, size=(resamples, rounds))
        *_, knees = _fit(sizes, np.median(taken[drawn], axis=1))
        low, high = np.sort(knees)[[int(0.025 * resamples), int(np.ceil(0.975 * resamples)) - 1]]
        interval = Interval(float(low), float(high), _CONFIDENCE)
    return Costs(float(batch), float(item), float(knee), interval)


def _fit(sizes: Array, taken: Array) -> tuple[Array, Array, Array]:
    """Returns batch cost, item cost and knee for each row of `taken` (seconds a batch), no cost below zero."""
    if len(sizes) < 2:
        unknown = np.full(len(taken), np.nan)
        return taken[:, 0], unknown, unknown
    w, bw = 1 / taken, sizes / taken
    ww, bww, bbww, sw, sbw = (part.sum(axis=1) for part in (w * w, w * bw, bw * bw, w, bw))
    determinant = ww * bbww - bww * bww
    batch = (sw * bbww - sbw * bww) / determinant
    item = (ww * sbw - bww * sw) / determinant
    batch, item = np.where(item < 0, sw / ww, batch), np.where(batch < 0, sbw / bbww, item)
    batch, item = np.maximum(batch, 0), np.maximum(item, 0)
    with np.errstate(divide="ignore"):
        return batch, item, np.where(item > 0, batch / item, np.inf)
