"""Trace: columns, checks, parts."""

from __future__ import annotations

import pickle

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from skilllab.errors import InvalidValueError, TraceError
from skilllab.trace import Trace


def test_keys_become_dense_ids_in_order_of_first_appearance() -> None:
    """Whole numbers and texts are numbered from 0 as they first appear; texts stay as names."""
    assert Trace.from_keys([70, 10, 70, 5]).key.tolist() == [0, 1, 0, 2]
    trace = Trace.from_keys(["b", "a", "b"])
    assert trace.key.tolist() == [0, 1, 0]
    assert trace.names == ("b", "a")
    assert trace.unique == 2


@given(st.lists(st.integers(-3, 3), min_size=1, max_size=30))
def test_numbering_matches_a_dict(keys: list[int]) -> None:
    """The sorted numbering of integers equals numbering them one by one, and so does that of any hashable."""
    ids: dict[int, int] = {}
    expected = [ids.setdefault(key, len(ids)) for key in keys]
    assert Trace.from_keys(np.array(keys)).key.tolist() == expected
    assert Trace.from_keys([(key,) for key in keys]).key.tolist() == expected


def test_time_starts_at_zero() -> None:
    """Times from any origin are counted from the first access, and stand one second apart when none are given."""
    assert Trace.from_keys([1, 2, 1], time=[100.5, 101.0, 103.5]).time.tolist() == [0.0, 0.5, 3.0]
    unknown = Trace.from_keys([1, 2, 1])
    assert unknown.time.tolist() == [0.0, 1.0, 2.0]
    assert "no times were given" in str(unknown.meta["clock"])


def test_columns_cannot_be_changed() -> None:
    """Neither an array, nor an attribute, nor the provenance of a trace can be written to, nor its source through it."""
    times, keys = np.array([0.0, 1.0]), np.array([0, 1])
    trace = Trace(times, keys, size=[1, 2], meta={"a": 1})
    for column in (trace.time, trace.key, trace.size):
        assert column is not None
        with pytest.raises(ValueError, match="read-only"):
            column[0] = 5
    with pytest.raises(AttributeError, match="immutable"):
        trace.unique = 3
    with pytest.raises(AttributeError, match="immutable"):
        del trace.key
    with pytest.raises(TypeError):
        trace.meta["a"] = 2  # type: ignore[index]
    times[1] = keys[1] = 9
    assert trace[1] == (1.0, 1)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"key": []}, "no accesses"),
        ({"key": [0, 1], "time": [0.0]}, r"time has shape \(1,\) for 2 keys"),
        ({"key": [0, 1, 2], "time": [0.0, float("nan"), 1.0]}, r"time\[1\] is nan"),
        ({"key": [0, 1], "time": [0.0, float("inf")]}, r"time\[1\] is inf"),
        ({"key": [0, 1, 2], "time": [0.0, 2.0, 1.5]}, r"time\[2\] is 1.5 after 2.0"),
        ({"key": [0, 1], "size": [1]}, r"size has shape \(1,\)"),
        ({"key": [0, 1], "size": [1, -7]}, r"size\[1\] is -7"),
        ({"key": [0, 1], "size": [1, 0.5]}, r"size\[1\] is 0.5"),
        ({"key": [0, 1], "size": [1, float("nan")]}, r"size\[1\] is nan"),
        ({"key": [0, 2]}, r"key\[1\] is 2"),
        ({"key": [0, 1], "names": ["a"]}, "1 names for 2 keys"),
    ],
)
def test_bad_columns_are_refused_with_value_and_place(arguments: dict[str, object], message: str) -> None:
    """Empty, unequal, falling, infinite or negative columns raise a TraceError that says what stands where."""
    full = {"time": np.arange(len(arguments["key"])), **arguments}  # type: ignore[arg-type]
    with pytest.raises(TraceError, match=message):
        Trace(**full)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ([1.0, 2.0], r"keys\[0\] is 1.0"),
        (["a", None], r"keys\[1\] is None"),
        ([["a"]], "not hashable"),
        ("abc", "one text of 3 characters"),
        (np.zeros((2, 2), dtype=int), "2 dimensions"),
    ],
)
def test_keys_that_cannot_be_told_apart_are_refused(keys: object, message: str) -> None:
    """Fractions, missing values, lists, a single text and tables are no keys."""
    with pytest.raises(InvalidValueError, match=message):
        Trace.from_keys(keys)  # type: ignore[arg-type]


def test_provenance_is_flat() -> None:
    """Provenance that could not be written to a file is refused when the trace is made."""
    with pytest.raises(InvalidValueError, match=r"meta\['a'\] is \[1\]"):
        Trace([0], [0], meta={"a": [1]})  # type: ignore[dict-item]


def test_a_part_is_a_trace_of_its_own() -> None:
    """A slice has its own ids, names and clock; a head keeps those of the whole."""
    trace = Trace.from_keys(["a", "b", "c", "b"], time=[0, 1, 2, 4], size=[5, 6, 7, 8])
    part = trace[1:]
    assert part == Trace([0, 1, 3], [0, 1, 0], [6, 7, 8], ["b", "c"])
    assert trace.head(2) == Trace([0, 1], [0, 1], [5, 6], ["a", "b"])
    assert trace.head(99) == trace
    assert trace[::2].names == ("a", "c")
    assert trace[2] == (2.0, 2)
    with pytest.raises(InvalidValueError, match="accesses"):
        trace.head(0)
    with pytest.raises(InvalidValueError, match="backwards"):
        trace[::-1]
    with pytest.raises(TraceError, match="no accesses"):
        trace[2:2]


def test_facts() -> None:
    """Length, distinct keys, seconds and bytes (each key at its latest size) are counted, and its text shows them."""
    trace = Trace.from_keys(["a", "b", "a"], time=[0, 1, 2.5], size=[100, 1000, 48])
    assert (len(trace), trace.unique, trace.duration, trace.footprint) == (3, 2, 2.5, 1048)
    assert repr(trace) == "Trace(3 accesses to 2 keys in 2.50 s, 1.02 KiB)"
    assert Trace.from_keys([1]).footprint is None


def test_another_speed_is_said_aloud() -> None:
    """A slowed trace has longer gaps, says so in its text and provenance, and two changes multiply."""
    trace = Trace.from_keys([1, 2], time=[0, 60]).at_speed(1 / 60)
    assert trace.duration == pytest.approx(3600)
    assert trace.meta["speed"] == pytest.approx(1 / 60)
    assert "replayed at 0.0167× the recorded speed" in repr(trace)
    assert trace.at_speed(60).meta["speed"] == pytest.approx(1)
    for speed in (0, -1, float("nan"), float("inf")):
        with pytest.raises(InvalidValueError, match="speed"):
            trace.at_speed(speed)


def test_frame_has_the_known_columns() -> None:
    """The frame has one row an access, and leaves out what nobody measured."""
    trace = Trace.from_keys(["x", "y", "x"], time=[0, 1, 2], size=[3, 4, 3])
    expected = pd.DataFrame({"time": [0.0, 1, 2], "key": [0, 1, 0], "size": [3, 4, 3], "name": ["x", "y", "x"]})
    pd.testing.assert_frame_equal(trace.frame(), expected, check_dtype=False)
    assert list(Trace.from_keys([1, 2]).frame()) == ["time", "key"]


def test_a_trace_travels_between_processes() -> None:
    """Pickling gives an equal trace, whose columns are as fixed as before."""
    trace = Trace.from_keys(["a", "b"], time=[0, 1], size=[1, 2], meta={"x": 1})
    again = pickle.loads(pickle.dumps(trace))
    assert again == trace
    assert not again.key.flags.writeable
    assert trace != Trace.from_keys(["a", "b"], time=[0, 1], size=[1, 3], meta={"x": 1})
    assert trace != "trace"
