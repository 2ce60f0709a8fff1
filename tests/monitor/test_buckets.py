"""Buckets against numpy: bounded in size, and as exact as they say."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from skilllab.monitor.buckets import Binned, Buckets, binned, histogram, numbers_of

QS = [0.0, 0.01, 0.25, 0.5, 0.95, 0.99, 1.0]
Values = npt.NDArray[np.float32]


def fed(values: Values, size: int = 8192, parts: int = 3) -> Buckets:
    """Buckets to which the values were added in several parts."""
    buckets = Buckets()
    for part in np.array_split(values, parts):
        if len(part):
            buckets.add(counts_of(part), size)
    return buckets


def counts_of(values: Values) -> Binned:
    numbers = numbers_of(values)
    return binned(numbers, int(numbers.min()))


def errors(buckets: Buckets, values: Values) -> npt.NDArray[np.float64]:
    found = histogram([buckets]).quantiles(QS)
    true = np.quantile(values.astype(np.float64), QS)
    return np.asarray(np.abs(found - true) / np.maximum(true, 1e-300))


@pytest.mark.slow
@given(arrays.arrays(np.float32, st.integers(1, 200), elements=st.floats(2.0**-20, 2.0**-6, width=32)))
def test_quantiles_are_those_of_numpy(values: Values) -> None:
    """Within 16 octaves every quantile is right to 1/256."""
    buckets = fed(values)
    assert buckets.shift == 0
    assert errors(buckets, values).max() <= 1 / 256 + 1e-6


@pytest.mark.slow
@given(arrays.arrays(np.float32, st.integers(1, 200), elements=st.floats(2.0**-60, 2.0**60, width=32)))
def test_what_is_coarser_says_so(values: Values) -> None:
    """However far the values spread, the size holds and the error is what they say."""
    buckets = fed(values, size=512)
    assert buckets.counts.nbytes <= 512
    assert histogram([buckets]).count == len(values)
    assert errors(buckets, values).max() <= buckets.precision + 1e-6


def test_values_that_straddle_a_power_of_ten() -> None:
    """Two groups at 9.9 and 101 ms stay two groups: nothing is sorted as text, nothing is averaged."""
    values = np.repeat(np.array([0.0099, 0.101], dtype=np.float32), [60, 40])
    found = histogram([fed(values)]).quantiles([0.5, 0.95])
    assert found == pytest.approx([0.0099, 0.101], rel=1 / 256)


def test_zeros_are_counted_apart() -> None:
    """A queue time of 0 takes no bucket, does not spread them, and is the quantile that it is."""
    buckets = fed(np.array([0.0] * 90 + [0.5] * 10, dtype=np.float32))
    assert (buckets.zeros, buckets.shift, len(buckets.counts)) == (90, 0, 1)
    assert histogram([buckets]).quantiles([0.5, 0.95]) == pytest.approx([0.0, 0.5], rel=1 / 256)
    assert histogram([buckets]).count == 100


def test_parts_of_different_precision_add_up() -> None:
    """Slots of a window that had to become coarser and others make one histogram of all their values."""
    fine, wide = np.full(50, 0.010, np.float32), np.geomspace(1e-6, 10, 50).astype(np.float32)
    coarse = fed(wide, size=256)
    assert coarse.shift > 0
    made = histogram([fed(fine), coarse])
    assert made.count == 100
    assert made.quantile(0.9) == pytest.approx(np.quantile(np.concatenate([fine, wide]), 0.9), rel=coarse.precision)


def test_a_count_takes_the_bytes_it_needs() -> None:
    """256 values in one bucket make its counts twice as wide, and their neighbours join where that takes too much."""
    values = np.geomspace(1e-3, 1.0, 100).astype(np.float32)
    buckets = fed(values, size=1400)
    assert (buckets.counts.dtype, buckets.shift) == (np.uint8, 0)
    buckets.add(counts_of(np.full(256, values[0], np.float32)), 1400)
    assert (buckets.counts.dtype, buckets.shift) == (np.uint16, 1)
    assert buckets.counts[0] >= 257
    assert histogram([buckets]).count == 356


def test_counts_beyond_32_bits() -> None:
    """A bucket counts on beyond 2**32, in the same number of bytes."""
    buckets = fed(np.geomspace(1e-3, 1.0, 100).astype(np.float32), size=4096)
    assert buckets.counts.dtype == np.uint8
    buckets.counts = buckets.counts.astype(np.uint32)
    buckets.counts[0] = 2**32 - 1
    buckets.add(counts_of(np.full(3, 1e-3, np.float32)), 4096)
    assert buckets.counts.max() >= 2**32 + 2
    assert buckets.counts.nbytes <= 4096
    assert buckets.counts.sum() == 2**32 - 1 + 99 + 3
