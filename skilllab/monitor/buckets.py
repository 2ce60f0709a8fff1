"""Buckets: counts by size of a value, as a Histogram has them, in a column that never grows beyond a given size."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from skilllab.histogram import BUCKETS, Histogram

Numbers = npt.NDArray[np.int32]
Sums = npt.NDArray[np.int64]

_SHIFT = 16  # of 23 bits of a mantissa of 32-bit floats, those that tell no bucket
_WIDER = (1023 - 127) * BUCKETS  # what lies between a bucket's number by 32-bit floats and by 64-bit floats
_MOST = {np.dtype(kind): int(np.iinfo(kind).max) for kind in (np.uint8, np.uint16, np.uint32, np.int64)}
_WIDE = 4  # bytes of a count that nobody has to look at
_NONE, _NO_SUMS = np.zeros(0, dtype=np.uint8), np.zeros(0, dtype=np.int64)


class Binned(NamedTuple):
    """Counts in buckets of the full precision from `first` on, and zeros apart."""

    zeros: int
    first: int
    counts: Sums


class Buckets:
    """Counts in the buckets of a Histogram, from the least value to the greatest.

    A count takes as many bytes as the greatest needs. Where all would take more than the bytes given, two neighbours become
    one, again and again: `shift` says how often. 0 is counted apart.
    """

    __slots__ = ("counts", "first", "shift", "zeros")

    def __init__(self) -> None:
        self.counts: npt.NDArray[Any] = _NONE
        self.first = self.shift = self.zeros = 0

    @property
    def empty(self) -> bool:
        """Whether nothing was counted."""
        return not len(self.counts) and not self.zeros

    @property
    def precision(self) -> float:
        """By how much, as a share, a quantile of the histogram may err."""
        joined = 1 << self.shift
        return (joined + (joined > 1)) / (2 * BUCKETS)  # all of a joined bucket is told as one of those in its middle

    def add(self, more: Binned, size: int, width: int = 1) -> None:
        """Counts what is in the buckets of others.

        size: bytes of all counts at most. width: bytes of one at least; 4 and more are taken to hold any.
        """
        self.zeros += more.zeros
        first, counts = more.first, more.counts
        if not len(counts):
            return
        if self.shift:
            first, counts = _coarser(first, counts, self.shift)
        at = first - self.first
        within = self.counts[at : at + len(counts)] if at >= 0 else _NONE
        if len(within) == len(counts):
            if within.itemsize >= width >= _WIDE:
                np.add(within, counts, out=within, casting="unsafe")
                return
            sums = within + counts
            if sums.max() <= _MOST[within.dtype]:
                within[:] = sums
                return
        self._widen(first, counts, size, width)

    def _widen(self, first: int, counts: Sums, size: int, width: int) -> None:
        """Adds counts to the buckets from `first` on, for which there is no room yet."""
        held, begin, end = self.counts, first, first + len(counts)
        if len(held):
            begin, end = min(begin, self.first), max(end, self.first + len(held))
        sums = np.zeros(end - begin, dtype=np.int64)
        sums[first - begin : first - begin + len(counts)] = counts
        if len(held):
            sums[self.first - begin : self.first - begin + len(held)] += held
        while len(sums) * (kind := _kind(sums, width)).itemsize > size:
            begin, sums = _coarser(begin, sums, 1)
            self.shift += 1
        self.first, self.counts = begin, sums.astype(kind)


def numbers_of(values: npt.NDArray[np.float32]) -> Numbers:
    """Returns the number of each value's bucket: exponent and first seven bits of the mantissa; below 128 it is 0."""
    return values.view(np.int32) >> _SHIFT


def binned(numbers: Numbers, first: int) -> Binned:
    """Returns the counts of values by the numbers of their buckets, of which `first` is the least."""
    zeros = 0
    if first < BUCKETS:
        above = numbers[numbers >= BUCKETS]
        zeros = len(numbers) - len(above)
        if not len(above):
            return Binned(zeros, 0, _NO_SUMS)
        numbers, first = above, int(above.min())
    return Binned(zeros, first, np.bincount(numbers - first))


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


def _coarser(first: int, counts: Sums, shift: int) -> tuple[int, Sums]:
    """Returns the counts of buckets 2 ** shift times as wide."""
    begin, end = first >> shift, (first + len(counts) - 1 >> shift) + 1
    padded = np.zeros((end - begin) << shift, dtype=np.int64)
    at = first - (begin << shift)
    padded[at : at + len(counts)] = counts
    return begin, padded.reshape(-1, 1 << shift).sum(axis=1)


def _kind(sums: Sums, width: int) -> np.dtype[Any]:
    """Returns the narrowest type of at least that many bytes that holds these."""
    greatest = sums.max()
    return next(kind for kind, most in _MOST.items() if kind.itemsize >= width and greatest <= most)
