"""Histogram: how often each size of a value came, in buckets so narrow that every quantile is right to 0.4 %.

Log-linear buckets (as in Tene's HdrHistogram, 2012): every octave, from a power of two to the next, is cut into
128 buckets of equal width, so that the middle of a bucket is within 1/256 of each value in it. A bucket's number is the
first bits of its values as the machine has them (IEEE 754): the exponent and seven bits of the mantissa.
Values are put aside as they come and counted a few hundred at a time.
"""

from __future__ import annotations

import math
from array import array
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import numpy.typing as npt

from skilllab.errors import InvalidValueError

if TYPE_CHECKING:
    import pandas as pd

Array = npt.NDArray[np.float64]

BUCKETS = 128
"""Buckets of an octave."""

_SHIFT = 45  # of 52 bits of a mantissa, those that tell no bucket
_LAST = int(np.float64(np.finfo(np.float64).max).view(np.int64) >> _SHIFT)  # the bucket of the largest number
_PENDING = 512  # values put aside: 4 KiB
_MOST = 2**32 - 1  # values that counts of 32 bits can take, in whatever bucket they are
_NONE = np.zeros(0, dtype=np.uint32)
_INFINITY = math.inf


class Histogram:
    """Counts of values of 0 or more: seconds, bytes, anything that spreads over powers of ten.

    Count, total, mean, minimum and maximum are exact; a quantile errs by 1/256 at most. It takes 4 KiB, and half a KiB for
    each octave from the least value to the greatest. Values below 1e-307 count as 0. For one thread.
    """

    __slots__ = ("_counted", "_counts", "_first", "_high", "_low", "_pending", "_total", "_zeros")

    def __init__(self, values: npt.ArrayLike = ()) -> None:
        self._first, self._counts = 0, _NONE  # the number of the first bucket, and the counts from there on
        self._pending = array("d")
        self._counted = self._zeros = 0
        self._total = 0.0
        self._low, self._high = math.inf, -math.inf  # of the values above 0
        if np.size(values):
            self.record_many(values)

    def record(self, value: float) -> None:
        """Counts one value; raises InvalidValueError when it is negative or not finite."""
        if not 0 <= value < _INFINITY:
            raise _refused(value)
        pending = self._pending
        pending.append(value)
        if len(pending) >= _PENDING:
            self._fold()

    def record_many(self, values: npt.ArrayLike) -> None:
        """Counts each of many values; raises InvalidValueError, and counts none, when one is negative or not finite."""
        column = np.asarray(values, dtype=np.float64).ravel()
        wrong = ~(np.isfinite(column) & (column >= 0))
        if wrong.any():
            raise _refused(float(column[np.argmax(wrong)]))
        self._count(column)

    # what was counted

    @property
    def count(self) -> int:
        """How many values were counted."""
        return self._counted + len(self._pending)

    @property
    def total(self) -> float:
        """Their sum."""
        self._fold()
        return self._total

    @property
    def mean(self) -> float:
        """Their mean; nan without values."""
        count = self.count
        return self.total / count if count else math.nan

    @property
    def min(self) -> float:
        """The least of them; nan without values."""
        self._fold()
        return 0.0 if self._zeros else self._low if len(self._counts) else math.nan

    @property
    def max(self) -> float:
        """The greatest of them; nan without values."""
        self._fold()
        return self._high if len(self._counts) else 0.0 if self._zeros else math.nan

    def quantile(self, q: float) -> float:
        """Returns the `q`-quantile (0 to 1), between order statistics as numpy has it (type 7); nan without values."""
        return float(self.quantiles([q])[0])

    def quantiles(self, qs: npt.ArrayLike) -> Array:
        """Returns one quantile for each of `qs`, as `quantile` does."""
        wanted = np.asarray(qs, dtype=np.float64)
        if wanted.ndim != 1 or not ((wanted >= 0) & (wanted <= 1)).all():
            raise InvalidValueError(f"qs={qs!r} must be numbers from 0 to 1: write p95 as 0.95")
        lows, highs, counts = self._buckets()
        if not len(counts):
            return np.full(len(wanted), math.nan)
        middles = np.clip((lows + highs) / 2, self.min, self.max)
        upto = np.cumsum(counts)
        ranks = wanted * (upto[-1] - 1)
        below = np.floor(ranks)
        first = middles[np.searchsorted(upto, below, side="right")]
        second = middles[np.searchsorted(upto, np.minimum(below + 1, upto[-1] - 1), side="right")]
        return np.asarray(first + (ranks - below) * (second - first))

    def count_above(self, value: float) -> int:
        """Returns how many values are in buckets above that of `value`, its own bucket shared out evenly."""
        lows, highs, counts = self._buckets()
        widths = np.where(highs > lows, highs - lows, 1.0)
        shares = np.where(highs > lows, np.clip((highs - value) / widths, 0.0, 1.0), lows > value)
        return round(float((shares * counts).sum()))

    def frame(self) -> pd.DataFrame:
        """Returns the buckets that hold something: low, high, count."""
        import pandas as pd

        return pd.DataFrame(dict(zip(("low", "high", "count"), self._buckets(), strict=True)))

    # with others

    def merge(self, other: Histogram) -> None:
        """Adds all that the other one has counted."""
        other._fold()
        self._fold()
        self._counted += other._counted
        if len(other._counts):
            self._add(other._first, other._counts)
        self._zeros += other._zeros
        self._total += other._total
        self._low, self._high = min(self._low, other._low), max(self._high, other._high)

    def subtract(self, earlier: Histogram) -> None:
        """Takes away what an earlier state of this histogram had counted.

        The least and the greatest of what is left are known to their buckets. Raises InvalidValueError, and takes nothing,
        when the other one is no earlier state.
        """
        earlier._fold()
        self._fold()
        begin, end = earlier._first - self._first, earlier._first - self._first + len(earlier._counts)
        fits = not len(earlier._counts) or (begin >= 0 and end <= len(self._counts))
        if not fits or self._zeros < earlier._zeros or (self._counts[begin:end] < earlier._counts).any():
            raise InvalidValueError(
                "the histogram to subtract is no earlier state of this one: it holds more of a value"
            )
        self._counted -= earlier._counted
        self._zeros -= earlier._zeros
        if len(earlier._counts):
            self._counts[begin:end] -= earlier._counts
        held = np.flatnonzero(self._counts)
        if not len(held):
            self._first, self._counts, self._total, self._low, self._high = 0, _NONE, 0.0, math.inf, -math.inf
            return
        self._first, self._counts = self._first + int(held[0]), self._counts[held[0] : held[-1] + 1].copy()
        self._total = max(0.0, self._total - earlier._total)
        lows, highs, _ = self._buckets()
        self._low = max(self._low, float(lows[1 if self._zeros else 0]))
        self._high = min(self._high, float(highs[-1]))

    def copy(self) -> Histogram:
        """Returns a histogram of its own with the same counts."""
        made = Histogram()
        made.merge(self)
        return made

    def __add__(self, other: Histogram) -> Histogram:
        made = self.copy()
        made.merge(other)
        return made

    def __sub__(self, earlier: Histogram) -> Histogram:
        made = self.copy()
        made.subtract(earlier)
        return made

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Histogram) and self.to_json() == other.to_json()

    __hash__ = None  # type: ignore[assignment]  # it changes

    def __repr__(self) -> str:
        return f"<Histogram of {self.count} values, {self.min:.4g} to {self.max:.4g}, p95 {self.quantile(0.95):.4g}>"

    # to keep

    def to_json(self) -> dict[str, Any]:
        """Returns plain values for `from_json`; buckets that hold nothing take no room."""
        self._fold()
        held = np.flatnonzero(self._counts)
        buckets = np.stack((held + self._first, self._counts[held].astype(np.int64)), axis=1).tolist()
        ends = [self._low, self._high] if buckets else None
        return {"buckets": buckets, "zeros": self._zeros, "total": self._total, "ends": ends}

    @classmethod
    def from_json(cls, saved: Mapping[str, Any]) -> Self:
        """Returns the histogram of which `to_json` made this."""
        made = cls()
        try:
            pairs = np.array(saved["buckets"], dtype=np.int64).reshape(-1, 2)
            if (pairs < 1).any() or (np.diff(pairs[:, 0]) < 1).any() or (pairs[:, 0] > _LAST).any():
                raise ValueError(
                    f"buckets must be pairs of a number up to {_LAST} and a count, ordered by their numbers"
                )
            made._zeros, made._total = int(saved["zeros"]), float(saved["total"])
            made._counted = made._zeros + int(pairs[:, 1].sum())
            if len(pairs):
                made._add(int(pairs[0, 0]), np.bincount(pairs[:, 0] - pairs[0, 0], pairs[:, 1]))
            if saved["ends"] is not None:
                made._low, made._high = map(float, saved["ends"])
        except (KeyError, TypeError, ValueError) as error:
            raise InvalidValueError(f"{saved!r:.80} is no histogram: {type(error).__name__}: {error}") from error
        return made

    # inside

    def _fold(self) -> None:
        """Counts what was put aside."""
        if self._pending:
            column = np.array(self._pending)
            del self._pending[:]
            self._count(column)

    def _count(self, column: Array) -> None:
        self._counted += len(column)
        numbers = column.view(np.int64) >> _SHIFT
        first = int(numbers.min()) if len(numbers) else 0
        if first < BUCKETS:
            above = numbers >= BUCKETS
            self._zeros += len(column) - int(above.sum())
            column, numbers = column[above], numbers[above]
            if not len(column):
                return
            first = int(numbers.min())
        self._low, self._high = min(self._low, float(column.min())), max(self._high, float(column.max()))
        self._total += float(column.sum())
        self._add(first, np.bincount(numbers - first))

    def _add(self, first: int, more: npt.NDArray[Any]) -> None:
        """Adds counts to the buckets from `first` on."""
        held, begin, end = self._counts, self._first, self._first + len(self._counts)
        wide = self._counted > _MOST and held.dtype != np.uint64
        if wide or not len(held) or first < begin or first + len(more) > end:
            start = min(first, begin) if len(held) else first
            stop = max(first + len(more), end)
            kind = np.uint64 if self._counted > _MOST else held.dtype
            self._first, self._counts = start, np.zeros(stop - start, dtype=kind)
            self._counts[begin - start : end - start] = held
        within = self._counts[first - self._first : first - self._first + len(more)]
        np.add(within, more, out=within, casting="unsafe")

    def _buckets(self) -> tuple[Array, Array, npt.NDArray[np.int64]]:
        """Returns the lower ends, upper ends and counts of the buckets that hold something, from the least up."""
        self._fold()
        held = np.flatnonzero(self._counts)
        numbers = held + self._first
        lows, highs = ((numbers + more << _SHIFT).view(np.float64) for more in (0, 1))
        counts = self._counts[held].astype(np.int64)
        if self._zeros:
            return np.append(0.0, lows), np.append(0.0, highs), np.append(self._zeros, counts)
        return lows, highs, counts


def _refused(value: float) -> InvalidValueError:
    return InvalidValueError(f"value(={value}) must be 0 or more and finite: do not record what was not measured")
