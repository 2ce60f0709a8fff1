"""Controls: values in base units behind widgets that show text."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from skilllab.errors import InvalidValueError
from skilllab.panels import amount, durations, named, steps, whole_numbers


def test_steps_show_text_and_hold_values() -> None:
    """A slider shows the options' texts and stands for their values, in both directions."""
    control = steps("Size", {"ten": 10, "never": None}, 10, "how many")
    assert (control.widget.value, control.widget.description, control.widget.tooltip) == ("ten", "Size", "how many")
    control.widget.value = "never"
    assert control.value is None
    control.value = 10
    assert control.widget.value == "ten"
    control.value = None
    control.reset()
    assert control.value == 10


def test_steps_refuse_what_is_not_an_option() -> None:
    """A value that is not among the options is refused with all that are, and the slider stays."""
    control = steps("Size", {"ten": 10, "twenty": 20}, 20)
    with pytest.raises(InvalidValueError, match=r"Size \(=15\) must be one of 10, 20"):
        control.value = 15
    assert control.value == 20
    with pytest.raises(InvalidValueError, match=r"Size \(=15\) must be one of 10, 20"):
        steps("Size", {"ten": 10, "twenty": 20}, 15)


def test_amount_changes_units() -> None:
    """A field shows its own unit and stands for base units, without dust from the change."""
    control = amount("Time", "ms", 0.1, scale=1e-3)
    assert (control.widget.value, control.widget.step, control.widget.description) == (100.0, 10.0, "Time (ms)")
    control.value = 0.0003
    assert control.widget.value == 0.3
    assert control.value == pytest.approx(0.0003)


@pytest.mark.parametrize("typed", [0.0, -5.0, math.nan, math.inf])
def test_amount_takes_anything_and_refuses_to_read_it(typed: float) -> None:
    """What was typed stays to be seen, and reading it says what is wrong."""
    control = amount("Time", "ms", 0.1, scale=1e-3)
    control.widget.value = typed
    assert str(control.widget.value) == str(typed)
    with pytest.raises(InvalidValueError, match=r"Time \(=.* ms\) must be a number above 0"):
        _ = control.value


@pytest.mark.parametrize("value", [0, -1.0, math.nan, "1", None, True])
def test_amount_refuses_a_bad_start(value: Any) -> None:
    """A field cannot be made with a value that has no meaning."""
    with pytest.raises(InvalidValueError, match="must be a number above 0"):
        amount("Time", "ms", value)


def test_on_change_hears_every_change() -> None:
    """A callback hears the person and the program, and nothing when nothing changed."""
    heard: list[object] = []
    control = steps("Size", {"1": 1, "2": 2}, 1)
    control.on_change(heard.append)
    control.widget.index = 1
    control.value = 1
    control.value = 1
    assert len(heard) == 2


def test_round_values() -> None:
    """Sizes go in round numbers, ten a decade; durations in steps of 1, 2 and 5 that count in 60 from a minute on."""
    assert whole_numbers(7.2, 33, 21) == [8, 10, 12, 15, 20, 21, 25, 30, 33]
    assert durations(10, 7200, 90.0) == [10, 20, 50, 60, 90, 120, 300, 600, 1200, 1800, 3600, 7200]
    assert durations(0.02, 0.3) == [0.02, 0.05, 0.1, 0.2]
    assert named([1, 2], lambda value: f"{value} s") == {"1 s": 1, "2 s": 2}


@given(st.floats(0.01, 1e6), st.floats(1, 1e4), st.integers(1, 10**7))
def test_whole_numbers_keep_their_ends(low: float, factor: float, also: int) -> None:
    """Whatever the range, sizes rise strictly, hold both ends and the one asked for, and none is below 1."""
    sizes = whole_numbers(low, low * factor, also)
    assert sizes == sorted(set(sizes))
    assert {max(1, math.ceil(low)), max(1, math.floor(low * factor)), also} <= set(sizes)
    assert sizes[0] >= 1


@given(st.floats(1e-6, 1e6), st.floats(1, 1e4))
def test_durations_stay_in_range(low: float, factor: float) -> None:
    """Whatever the range, durations rise strictly and stay inside it."""
    times = durations(low, low * factor)
    assert times == sorted(set(times))
    assert all(low <= time <= low * factor for time in times)
