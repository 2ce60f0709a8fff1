"""Buckets: counts by size of a value, as a Histogram has them, in a column that never grows beyond a given size."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from skilllab.histogram import BUCKETS, Histogram

Numbers = npt.NDArray[np.int32]

_SHIFT = 16  # of 23 bits of a mantissa of 32-bit floats, those that tell no bucket
_WIDER = (1023 - 127) * BUCKETS  # what lies between a bucket's number by 32-bit floats and by 64-bit floats
_MOST = 2**32 - 1
_NONE = np.zeros(0, dtype=np.uint32)


class Buckets:
    """Counts in the buckets of a Histogram, from the least value to the greatest, 4 bytes each.

    Where they would take more than the bytes given, two neighbours become one, again and again: `shift` says how often. 0 is
    counted apart.
    """

    __slots__ = ("count", "counts", "first", "shift", "zeros")

    def __init__(self) -> None:
        self.counts: npt.NDArray[Any] = _NONE
        self.count = self.first = self.shift = self.zeros = 0

    @property
    def precision(self) -> float:
        """By how much, as a share, a quantile of the histogram may err."""
        joined = 1 << self.shift
        return (joined + (joined > 1)) / (2 * BUCKETS)  # all of a joined bucket is told as one of those in its middle

    def add(self, numbers: Numbers, first: int, size: int) -> None:
        """Counts values by the numbers of their buckets, of which `first` is the least, in at most `size` bytes."""
        self.count += len(numbers)
        if first < BUCKETS:
            above = numbers >= BUCKETS
            self.zeros += len(numbers) - int(above.sum())
            numbers = numbers[above]
            if not len(numbers):
                return
            first = int(numbers.min())
        if self.shift:
            numbers, first = numbers >> self.shift, first >> self.shift
        counts = np.bincount(numbers - first)
        begin, end = self.first, self.first + len(self.counts)
        if first < begin or first + len(counts) > end or self.count > _MOST:
            self._widen(first, first + len(counts))
            shift = 0
            while self.counts.nbytes > size:
                self.first, self.counts = _coarser(self.first, self.counts)
                shift += 1
            if shift:
                self.shift += shift
                first >>= shift
                counts = np.bincount((numbers >> shift) - first)
        within = self.counts[first - self.first : first - self.first + len(counts)]
        np.add(within, counts, out=within, casting="unsafe")

    def _widen(self, begin: int, end: int) -> None:
        """Makes room for buckets from `begin` to `end`, and for what they count."""
        held = self.counts
        if len(held):
            begin, end = min(begin, self.first), max(end, self.first + len(held))
        kind = np.uint64 if self.count > _MOST else np.uint32
        if len(held) < end - begin or held.dtype != kind:
            self.counts = np.zeros(end - begin, dtype=kind)
            self.counts[self.first - begin : self.first - begin + len(held)] = held
            self.first = begin


def numbers_of(values: npt.NDArray[np.float32]) -> Numbers:
    """Returns the number of each value's bucket: exponent and first seven bits of the mantissa; below 128 it is 0."""
    return values.view(np.int32) >> _SHIFT


def histogram(
    parts: Sequence[Buckets], total: float | None = None, low: float | None = None, high: float | None = None
) -> Histogram:
    """Returns all parts as one Histogram; without a total and ends, which only who counted knows, those of its buckets."""
    numbers, counts = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)]
    for part in parts:
        held = np.flatnonzero(part.counts)
        numbers.append((held + part.first << part.shift) + (1 << part.shift >> 1))
        counts.append(part.counts[held].astype(np.int64))
    found, places = np.unique(np.concatenate(numbers), return_inverse=True)
    sums = np.zeros(len(found), dtype=np.int64)
    np.add.at(sums, places, np.concatenate(counts))
    ends: list[float] | None = None
    if len(found):
        halves = (found << _SHIFT) + (1 << _SHIFT - 1)
        values = halves.astype(np.int32).view(np.float32).astype(np.float64)
        total = float((values * sums).sum()) if total is None else total
        ends = [low or float(values[0]), high or float(values[-1])]
    pairs = np.stack((found + _WIDER, sums), axis=1)
    zeros = sum(part.zeros for part in parts)
    return Histogram.from_json({"buckets": pairs, "zeros": zeros, "total": total or 0.0, "ends": ends})


def _coarser(first: int, counts: npt.NDArray[Any]) -> tuple[int, npt.NDArray[Any]]:
    """Returns the counts of buckets twice as wide."""
    begin, end = first >> 1, first + len(counts) + 1 >> 1
    padded = np.zeros((end - begin, 2), dtype=counts.dtype)
    padded.ravel()[first & 1 : (first & 1) + len(counts)] = counts
    return begin, padded.sum(axis=1, dtype=counts.dtype)
