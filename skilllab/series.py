"""Intervals for values in the order of time, such as the latencies of a load test, which are not independent.

A slow request stands beside slow ones: a thousand of them tell less than a thousand independent values would. How many
independent ones they are worth is the effective size, n divided by the integrated autocorrelation time. That is taken
as the largest of three estimates, since each errs towards 1 in a short series: Geyer's initial monotone sequence (1992)
of the values, the same of their being above the quantile, and the variance of batch means (Law and Carson 1979).
Where the effective size is too small to be known, and with it the interval, the answer is None: the run was too short.
"""

from __future__ import annotations

import math
from statistics import NormalDist

import numpy as np
import numpy.typing as npt

from skilllab.errors import InvalidValueError
from skilllab.stats import Array, Interval, smallest_n, wilson

_BATCHES = 20  # of the batch means: fewer know their own spread badly, more are too short to forget one another
_ENOUGH = 50  # effective values at least: below, the time is guessed too short as often as not (Sokal 1997)
_PER_DEGREE = 10  # effective values that make one degree of freedom of the estimated autocorrelation time
_CONSTANT = 1e-24  # of the mean's square: a variance below is rounding


def quantile_interval(
    values: npt.ArrayLike, q: float, confidence: float = 0.95, *, time: float | None = None
) -> Interval | None:
    """Returns the interval of the `q`-quantile of values in the order of time, None where they are too few.

    time: the values' autocorrelation time where it is known, which spares half of the work. Too few are fewer effective
    values than `enough(q)`. The share of values below the quantile has Wilson's interval (1927) with the effective size for n
    and Student's t for what that size is uncertain (after Korn and Graubard 1998); its ends are read off the ordered values.
    """
    series = _series(values)
    size = effective_size(series, q, time=time)
    if size < enough(q, confidence):
        return None
    low, high = wilson(q, size, student(confidence, size / _PER_DEGREE))
    ends = np.quantile(series, [low, high])
    return Interval(float(ends[0]), float(ends[1]), confidence)


def mean_interval(values: npt.ArrayLike, confidence: float = 0.95, *, time: float | None = None) -> Interval | None:
    """Returns the interval of the mean of values in the order of time, None below 50 effective values; time: as above."""
    series = _series(values)
    mean, size = float(series.mean()), effective_size(series, time=time)
    if size < _ENOUGH:
        return None
    half = student(confidence, size / _PER_DEGREE) * float(series.std()) / math.sqrt(size)
    return Interval(mean - half, mean + half, confidence)


def proportion_interval(flags: npt.ArrayLike, confidence: float = 0.95) -> Interval | None:
    """Returns the interval of the share of true flags in the order of time, None below 50 effective ones.

    Flags that are all alike count as independent: nothing in them tells otherwise.
    """
    series = _series(np.asarray(flags, dtype=np.float64))
    share, size = float(series.mean()), effective_size(series)
    if size < _ENOUGH:
        return None
    low, high = wilson(share, size, student(confidence, size / _PER_DEGREE))
    return Interval(0.0 if share == 0 else low, 1.0 if share == 1 else high, confidence)


def effective_size(values: npt.ArrayLike, q: float | None = None, *, time: float | None = None) -> float:
    """Returns how many independent values tell as much about the mean, or about the `q`-quantile, as these do."""
    series = _series(values)
    times = [autocorrelation_time(series) if time is None else time]
    if q is None:
        times.append(_batch_time(series))
    else:
        above = (series > np.quantile(series, q)).astype(np.float64)
        times += [autocorrelation_time(above), _batch_time(above)]
    return len(series) / max(times)


def enough(q: float, confidence: float = 0.95) -> int:
    """Returns the effective size that the interval of a `q`-quantile takes: 144 for p95, 736 for p99.

    It is twice what independent values would need, since the size itself is estimated, and never below 50.
    """
    return max(_ENOUGH, 2 * smallest_n(q, confidence))


def autocorrelation_time(values: npt.ArrayLike) -> float:
    """Returns the integrated autocorrelation time of a series in numbers of values: 1 when they are independent.

    Sums of neighbouring pairs of autocorrelations are added as long as they are positive, none counting for more than
    the one before (Geyer 1992, initial monotone sequence).
    """
    series = _series(values)
    centred = series - series.mean()
    n = len(series)
    if n < 2 or float(centred @ centred) <= _CONSTANT * n * max(1.0, float(np.mean(series)) ** 2):
        return 1.0
    length = 1 << (2 * n - 1).bit_length()
    spectrum = np.fft.rfft(centred, length)
    covariance = np.fft.irfft(spectrum.real**2 + spectrum.imag**2, length)[: n - n % 2]
    pairs = covariance.reshape(-1, 2).sum(axis=1) / covariance[0]
    negative = np.flatnonzero(pairs <= 0)
    positive = pairs[: negative[0]] if len(negative) else pairs
    return max(1.0, 2 * float(np.minimum.accumulate(positive).sum()) - 1) if len(positive) else 1.0


def _batch_time(series: Array) -> float:
    """Returns the autocorrelation time that the spread of batch means shows."""
    length, spread = len(series) // _BATCHES, float(series.var())
    if length < 2 or spread <= _CONSTANT * max(1.0, float(series.mean()) ** 2):
        return 1.0
    means = series[: length * _BATCHES].reshape(_BATCHES, length).mean(axis=1)
    return length * float(means.var(ddof=1)) / spread


def student(confidence: float, degrees: float) -> float:
    """Returns how many standard errors wide each side of an interval is: Student's t with so many degrees of freedom.

    It is the expansion about the normal in 1 over the degrees of freedom (Abramowitz and Stegun 26.7.5, Hill 1970).
    Raises InvalidValueError for a confidence that is no share between 0 and 1.
    """
    if not 0 < confidence < 1:
        raise InvalidValueError(f"confidence(={confidence}) must be between 0 and 1, both excluded: 95 % is 0.95")
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    first = (z**3 + z) / 4
    second = (5 * z**5 + 16 * z**3 + 3 * z) / 96
    third = (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384
    return z + first / degrees + second / degrees**2 + third / degrees**3


def _series(values: npt.ArrayLike) -> Array:
    series = np.asarray(values, dtype=np.float64)
    if series.ndim != 1 or not len(series) or not np.isfinite(series).all():
        raise InvalidValueError(
            f"values of shape {series.shape} must be a column of finite numbers, at least one, in the order of time"
        )
    return series
