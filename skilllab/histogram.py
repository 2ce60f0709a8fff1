"""Histogram: how often each size of a value came, in buckets so narrow that every quantile is right to 0.4 %.

Log-linear buckets (as in Tene's HdrHistogram, 2012): every octave, from a power of two to the next, is cut into
128 buckets of equal width, so that the middle of a bucket is within 1/256 of each value in it. An octave takes memory
only once a value falls into it.
"""

from __future__ import annotations

import math
from array import array
from collections.abc import Mapping
from math import frexp
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import numpy.typing as npt

from skilllab.errors import InvalidValueError

if TYPE_CHECKING:
    import pandas as pd

Array = npt.NDArray[np.float64]

BUCKETS = 128
"""Buckets of an octave."""

_EMPTY = bytes(4 * BUCKETS)
_HALVES = np.arange(BUCKETS, 2 * BUCKETS, dtype=np.float64) / (2 * BUCKETS)  # lower ends in the octave from 1/2 to 1


class Histogram:
    """Counts of values of 0 or more: seconds, bytes, anything that spreads over powers of ten.

    Count, total, mean, minimum and maximum are exact; a quantile errs by 1/256 at most. An octave takes about 0.7 KiB.
    """

    __slots__ = ("_high", "_low", "_octaves", "_total", "_zeros")

    def __init__(self, values: npt.ArrayLike = ()) -> None:
        self._octaves: dict[int, array[int]] = {}
        self._zeros = 0
        self._total = 0.0
        self._low, self._high = math.inf, -math.inf  # of the values above 0
        if np.size(values):
            self.record_many(values)

    def record(self, value: float) -> None:
        """Counts one value; raises InvalidValueError when it is negative or not finite."""
        if not self._low <= value <= self._high and self._is_zero(value):
            return
        mantissa, exponent = frexp(value)
        try:
            self._octaves[exponent][int(mantissa * 256.0) - 128] += 1
        except (KeyError, OverflowError):
            self._add(exponent, int(mantissa * 256.0) - 128)
        self._total += value

    def record_many(self, values: npt.ArrayLike) -> None:
        """Counts each of many values; raises InvalidValueError, and counts none, when one is negative or not finite."""
        column = np.asarray(values, dtype=np.float64).ravel()
        wrong = ~(np.isfinite(column) & (column >= 0))
        if wrong.any():
            raise _refused(float(column[np.argmax(wrong)]))
        above = column[column > 0]
        self._zeros += len(column) - len(above)
        if not len(above):
            return
        self._low, self._high = min(self._low, float(above.min())), max(self._high, float(above.max()))
        self._total += float(above.sum())
        mantissas, exponents = np.frexp(above)
        inside = (mantissas * (2 * BUCKETS)).astype(np.int64) - BUCKETS
        for exponent in np.unique(exponents).tolist():
            self._merge_octave(exponent, np.bincount(inside[exponents == exponent], minlength=BUCKETS))

    # what was counted

    @property
    def count(self) -> int:
        """How many values were counted."""
        return self._zeros + sum(map(sum, self._octaves.values()))

    @property
    def total(self) -> float:
        """Their sum."""
        return self._total

    @property
    def mean(self) -> float:
        """Their mean; nan without values."""
        count = self.count
        return self._total / count if count else math.nan

    @property
    def min(self) -> float:
        """The least of them; nan without values."""
        return 0.0 if self._zeros else self._low if self._octaves else math.nan

    @property
    def max(self) -> float:
        """The greatest of them; nan without values."""
        return self._high if self._octaves else 0.0 if self._zeros else math.nan

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
        for exponent, counts in other._octaves.items():
            self._merge_octave(exponent, np.asarray(counts, dtype=np.int64))
        self._zeros += other._zeros
        self._total += other._total
        self._low, self._high = min(self._low, other._low), max(self._high, other._high)

    def subtract(self, earlier: Histogram) -> None:
        """Takes away what an earlier state of this histogram had counted.

        The least and the greatest of what is left are known to their buckets. Raises InvalidValueError, and takes nothing,
        when the other one is no earlier state.
        """
        left = {exponent: np.asarray(counts, dtype=np.int64) for exponent, counts in self._octaves.items()}
        for exponent, counts in earlier._octaves.items():
            left[exponent] = left.get(exponent, np.zeros(BUCKETS, dtype=np.int64)) - np.asarray(counts, dtype=np.int64)
        if self._zeros < earlier._zeros or any((counts < 0).any() for counts in left.values()):
            raise InvalidValueError(
                "the histogram to subtract is no earlier state of this one: it holds more of a value"
            )
        self._octaves = {exponent: _stored(counts) for exponent, counts in left.items() if counts.any()}
        self._zeros -= earlier._zeros
        self._total = max(0.0, self._total - earlier._total) if self._octaves else 0.0
        lows, highs, _ = self._buckets()
        above = highs > 0
        self._low = max(self._low, float(lows[above][0])) if above.any() else math.inf
        self._high = min(self._high, float(highs[above][-1])) if above.any() else -math.inf

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
        octaves = {
            str(exponent): [[at, count] for at, count in enumerate(counts) if count]
            for exponent, counts in sorted(self._octaves.items())
        }
        ends = [self._low, self._high] if self._octaves else None
        return {"octaves": octaves, "zeros": self._zeros, "total": self._total, "ends": ends}

    @classmethod
    def from_json(cls, saved: Mapping[str, Any]) -> Self:
        """Returns the histogram of which `to_json` made this."""
        made = cls()
        try:
            for exponent, pairs in saved["octaves"].items():
                counts = np.zeros(BUCKETS, dtype=np.int64)
                for at, count in pairs:
                    counts[at] = count
                made._merge_octave(int(exponent), counts)
            made._zeros, made._total = int(saved["zeros"]), float(saved["total"])
            if saved["ends"] is not None:
                made._low, made._high = map(float, saved["ends"])
        except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
            raise InvalidValueError(f"{saved!r:.80} is no histogram: {type(error).__name__}: {error}") from error
        return made

    # inside

    def _is_zero(self, value: float) -> bool:
        """Counts a zero; notes another value as the least or the greatest one."""
        if value == 0:
            self._zeros += 1
            return True
        if not 0 < value < math.inf:
            raise _refused(value)
        self._low, self._high = min(self._low, value), max(self._high, value)
        return False

    def _add(self, exponent: int, at: int) -> None:
        """Adds one where there is no octave yet, or none with room for so many."""
        counts = self._octaves.get(exponent)
        self._octaves[exponent] = array("I", _EMPTY) if counts is None else array("Q", counts)
        self._octaves[exponent][at] += 1

    def _merge_octave(self, exponent: int, more: npt.NDArray[np.int64]) -> None:
        counts = self._octaves.get(exponent)
        self._octaves[exponent] = _stored(more if counts is None else np.asarray(counts, dtype=np.int64) + more)

    def _buckets(self) -> tuple[Array, Array, npt.NDArray[np.int64]]:
        """Returns the lower ends, upper ends and counts of the buckets that hold something, from the least up."""
        exponents = sorted(self._octaves)
        zeros = 1 if self._zeros else 0
        lows = [np.zeros(zeros), *(np.ldexp(_HALVES, exponent) for exponent in exponents)]
        widths = [np.zeros(zeros), *(np.full(BUCKETS, math.ldexp(0.5 / BUCKETS, exponent)) for exponent in exponents)]
        counts = [np.full(zeros, self._zeros, dtype=np.int64)]
        counts += [np.asarray(self._octaves[exponent], dtype=np.int64) for exponent in exponents]
        low, count = np.concatenate(lows), np.concatenate(counts)
        held = count > 0
        return low[held], (low + np.concatenate(widths))[held], count[held]


def _stored(counts: npt.NDArray[np.int64]) -> array[int]:
    kind = "I" if counts.max() < 2**32 else "Q"
    made = array(kind)
    made.frombytes(counts.astype(np.uint32 if kind == "I" else np.uint64).tobytes())
    return made


def _refused(value: float) -> InvalidValueError:
    return InvalidValueError(f"value(={value}) must be 0 or more and finite: do not record what was not measured")
