"""Histogram: held against numpy on the values themselves."""

from __future__ import annotations

import json
import math
import pickle
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from skilllab.errors import InvalidValueError
from skilllab.histogram import Histogram

QS = [0.0, 0.01, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99, 0.999, 1.0]
VALUES = st.lists(st.one_of(st.just(0.0), st.floats(1e-9, 1e9)), min_size=1, max_size=200)


def errors(values: np.ndarray, qs: list[float]) -> np.ndarray:
    """How far each quantile of the histogram is from numpy's, as a share of it."""
    truth = np.quantile(values, qs)
    found = Histogram(values).quantiles(qs)
    return np.abs(found - truth) / np.where(truth > 0, truth, 1.0)


@given(VALUES)
def test_quantiles_are_numpys_to_a_256th(values: list[float]) -> None:
    """Every quantile is within 1/256 of what numpy finds in the values themselves."""
    assert errors(np.array(values), QS).max() <= 1 / 256 + 1e-12


def test_quantiles_of_ten_thousand_inputs() -> None:
    """On 10,000 seeded inputs, many with two humps and many around 1, 10 and 100 ms, no quantile errs by 0.4 %."""
    rng = np.random.default_rng(0)
    worst = 0.0
    for turn in range(10_000):
        size = int(rng.integers(2, 40))
        kind = turn % 4
        if kind == 0:
            values = rng.lognormal(rng.uniform(-10, 3), rng.uniform(0.01, 3), size)
        elif kind == 1:  # two humps, of which quantiles fall into the gap
            values = np.where(
                rng.random(size) < rng.random(), rng.normal(1e-3, 1e-5, size), rng.normal(1.0, 0.05, size)
            )
        elif kind == 2:  # around a power of ten
            values = 10.0 ** rng.integers(-3, 0) * rng.uniform(0.99, 1.01, size)
        else:
            values = rng.pareto(1.1, size) + 1e-6
        worst = max(worst, errors(np.abs(values), [0.5, float(rng.random()), 0.95, 0.99]).max())
    assert 0.003 < worst < 0.004


@given(VALUES)
def test_one_by_one_is_all_at_once(values: list[float]) -> None:
    """Values recorded one by one and in one go make the same histogram, sum apart, which rounds."""
    one_by_one = Histogram()
    for value in values:
        one_by_one.record(value)
    at_once = Histogram(values)
    assert one_by_one.total == pytest.approx(at_once.total)
    assert {**one_by_one.to_json(), "total": 0} == {**at_once.to_json(), "total": 0}
    assert (one_by_one.count, one_by_one.min, one_by_one.max) == (len(values), min(values), max(values))
    assert one_by_one.mean == pytest.approx(np.mean(values))


@given(VALUES, VALUES)
def test_merged_is_recorded_together_and_subtracted_is_as_before(first: list[float], second: list[float]) -> None:
    """To merge is to have recorded both; to subtract the first gives the counts of the second."""
    merged = Histogram(first) + Histogram(second)
    together = Histogram([*first, *second])
    assert merged.to_json()["buckets"] == together.to_json()["buckets"]
    assert (merged.count, merged.min, merged.max) == (together.count, together.min, together.max)
    left = merged - Histogram(first)
    assert left.to_json()["buckets"] == Histogram(second).to_json()["buckets"]
    assert left.count == len(second)
    assert left.min <= min(second) * (1 + 1e-12)
    assert left.max >= max(second) * (1 - 1e-12)


@given(VALUES)
def test_it_travels(values: list[float]) -> None:
    """Through JSON and through pickle comes the same histogram, which counts on by itself."""
    histogram = Histogram(values)
    for copy in (
        Histogram.from_json(json.loads(json.dumps(histogram.to_json()))),
        pickle.loads(pickle.dumps(histogram)),
        histogram.copy(),
    ):
        assert copy == histogram
        copy.record(1.0)
        assert copy.count == histogram.count + 1


def test_without_values_nothing_is_known() -> None:
    """An empty histogram has no mean and no quantile, and can be kept, merged and shown."""
    empty = Histogram()
    assert (empty.count, empty.total) == (0, 0.0)
    assert all(map(math.isnan, (empty.mean, empty.min, empty.max, empty.quantile(0.5))))
    assert Histogram.from_json(empty.to_json()) == empty == empty + empty
    assert len(empty.frame()) == 0
    assert "0 values" in repr(empty)


def test_zeros_are_counted_apart() -> None:
    """A value of 0 has no octave; it is the least one and has its share of the quantiles."""
    histogram = Histogram([0.0, 0.0, 0.0, 2.0])
    assert (histogram.min, histogram.max, histogram.quantile(0.5), histogram.mean) == (0.0, 2.0, 0.0, 0.5)
    assert Histogram([0.0]).max == 0.0


@pytest.mark.parametrize("value", [-1.0, math.nan, math.inf, -math.inf])
def test_what_is_no_measurement_is_refused(value: float) -> None:
    """A negative value, infinity and nan are refused with the value, and nothing is counted."""
    histogram = Histogram([1.0])
    with pytest.raises(InvalidValueError, match="must be 0 or more and finite"):
        histogram.record(value)
    with pytest.raises(InvalidValueError, match="must be 0 or more and finite"):
        histogram.record_many([2.0, value])
    assert histogram == Histogram([1.0])


@pytest.mark.parametrize(
    "saved",
    [
        {},
        {"buckets": [["x", 1]]},
        {"buckets": [[9, 1], [8, 1]]},
        {"buckets": [[1]]},
        {"buckets": 1},
        {"buckets": [[10**12, 1]]},
    ],
)
def test_what_is_no_histogram_is_refused(saved: dict[str, object]) -> None:
    """Other JSON is refused with what is wrong."""
    with pytest.raises(InvalidValueError, match="is no histogram"):
        Histogram.from_json({"zeros": 0, "total": 0.0, "ends": None, **saved} if saved else saved)


def test_quantiles_outside_of_0_to_1_are_refused() -> None:
    """95 is no quantile."""
    with pytest.raises(InvalidValueError, match=r"write p95 as 0\.95"):
        Histogram([1.0]).quantile(95)


def test_only_an_earlier_state_can_be_subtracted() -> None:
    """What holds more of some value is no earlier state, and leaves the histogram as it was."""
    histogram = Histogram([1.0, 2.0])
    with pytest.raises(InvalidValueError, match="no earlier state"):
        histogram.subtract(Histogram([1.0, 1.0]))
    assert histogram == Histogram([1.0, 2.0])


def test_counts_above() -> None:
    """How many values are above a bound is exact but for the bucket of the bound."""
    histogram = Histogram(np.arange(1, 1001) / 1000)
    assert histogram.count_above(0.9) == pytest.approx(100, abs=3)
    assert (histogram.count_above(2.0), histogram.count_above(0.0)) == (0, 1000)
    assert Histogram([0.0, 0.0]).count_above(0.0) == 0


def test_more_than_four_billion_of_a_value_are_counted() -> None:
    """A count that outgrows 32 bits goes on, by merging and by recording."""
    saved = Histogram([1.0]).to_json()
    many = Histogram.from_json({**saved, "buckets": [[saved["buckets"][0][0], 2**32 - 1]]})
    assert (many + many).count == 2**33 - 2
    many.record(1.0)
    many.record(1.0)
    assert many.count == 2**32 + 1
    assert pickle.loads(pickle.dumps(many)).count == 2**32 + 1


def test_it_takes_little_memory() -> None:
    """Values from 10 µs to 30 s, 22 octaves, take at most 16 KiB, however many they are."""
    histogram = Histogram(np.geomspace(1e-5, 30.0, 100_000))
    for value in np.geomspace(1e-5, 30.0, 511).tolist():
        histogram.record(value)
    assert sys.getsizeof(histogram._counts) + sys.getsizeof(histogram._pending) < 16 * 1024


def test_its_buckets_are_a_frame() -> None:
    """The frame lists what holds something: the ends of each bucket and its count."""
    frame = Histogram([0.0, 1.0, 1.0, 3.0]).frame()
    assert frame["count"].tolist() == [1, 2, 1]
    assert (frame["low"] <= [0.0, 1.0, 3.0]).all()
    assert (frame["high"] >= [0.0, 1.0, 3.0]).all()
