"""Facts about numbers as text."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from skilllab import format as fmt

_UNITS = {"ns": 1e-9, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "min": 60.0, "h": 3600.0}


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (1234.0, "1,234"),
        (1234.6, "1,235"),
        (0.012345, "0.0123"),
        (9.9999, "10.0"),
        (0.99996, "1.00"),
        (2.0, "2"),
        (-2.5, "-2.50"),
        (0.0, "0"),
        (-0.0, "0"),
        (math.inf, "∞"),
        (-math.inf, "-∞"),
        (math.nan, "–"),
        (None, "–"),
    ],
)
def test_number_keeps_significant_digits(value: float | None, text: str) -> None:
    """A number has three significant digits, whole numbers no decimals, and nothing measured is a dash."""
    assert fmt.number(value) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (340e-9, "340 ns"),
        (1.524e-6, "1.52 µs"),
        (0.023, "23.0 ms"),
        (4.1, "4.10 s"),
        (0.9999996, "1.00 s"),
        (0.9994, "999 ms"),
        (999.6e-9, "1.00 µs"),
        (119.4, "119 s"),
        (119.7, "2.00 min"),
        (150.0, "2.50 min"),
        (7199.0, "2.00 h"),
        (36000.0, "10.0 h"),
        (-0.0015, "-1.50 ms"),
        (-0.9999996, "-1.00 s"),
        (1e-17, "0 s"),
        (0.0, "0 s"),
        (0.4e-9, "0.400 ns"),
        (math.inf, "∞"),
        (math.nan, "–"),
        (None, "–"),
    ],
)
def test_duration_picks_the_unit_after_rounding(seconds: float | None, text: str) -> None:
    """A duration never reads 1,000 of a unit, whichever side of the edge it comes from."""
    assert fmt.duration(seconds) == text


@given(st.floats(1e-9, 1e6))
def test_duration_reads_back(seconds: float) -> None:
    """The text of a duration names the value within half a unit of its third digit."""
    digits, unit = fmt.duration(seconds).split(" ")
    read = float(digits.replace(",", "")) * _UNITS[unit]
    assert math.isclose(read, seconds, rel_tol=0.00501)
    assert unit == "h" or float(digits) < 1000


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0 B"),
        (512, "512 B"),
        (1023.7, "1.00 KiB"),
        (1536, "1.50 KiB"),
        (2**20 - 1, "1.00 MiB"),
        (256 * 2**20, "256 MiB"),
        (3 * 2**50, "3,072 TiB"),
        (-2048, "-2.00 KiB"),
        (-0.2, "0 B"),
        (None, "–"),
        (math.nan, "–"),
    ],
)
def test_size_uses_binary_units(size: float | None, text: str) -> None:
    """A size never reads 1,024 of a unit that has a next one."""
    assert fmt.size(size) == text


@pytest.mark.parametrize(
    ("show", "value", "text"),
    [
        (fmt.ratio, 0.713, "71.3 %"),
        (fmt.ratio, -0.0001, "0.0 %"),
        (fmt.ratio, None, "–"),
        (fmt.rate, 1250.0, "1,250 /s"),
        (fmt.rate, None, "–"),
        (fmt.rate, math.nan, "–"),
        (fmt.times, 9.314, "9.31×"),
        (fmt.times, None, "–"),
        (fmt.times, math.inf, "∞×"),
        (fmt.count, 81000, "81,000"),
        (fmt.count, -81000, "-81,000"),
        (fmt.count, None, "–"),
    ],
)
def test_ratios_rates_and_factors(show: Callable[[float | None], str], value: float | None, text: str) -> None:
    """A value carries its unit; what was not measured carries none."""
    assert show(value) == text


def test_interval_names_a_shared_unit_once() -> None:
    """Two ends in one unit name it once, two ends in two units name both."""
    assert fmt.interval(0.0012, 0.00135, fmt.duration) == "1.20 to 1.35 ms"
    assert fmt.interval(0.0009, 0.00135, fmt.duration) == "900 µs to 1.35 ms"
    assert fmt.interval(0.61, 0.7, fmt.ratio) == "61.0 to 70.0 %"
    assert fmt.interval(1.5, 2.25) == "1.50 to 2.25"
    assert fmt.interval(None, 0.1, fmt.duration) == "– to 100 ms"


@pytest.mark.parametrize(("number", "text"), [(0, "0 tools"), (1, "1 tool"), (2, "2 tools"), (1200, "1,200 tools")])
def test_one_is_no_plural(number: int, text: str) -> None:
    """A count of one has its noun in the singular, every other in the plural."""
    assert fmt.several(number, "tool") == text


@pytest.mark.parametrize(("text", "cut"), [("", ""), ("tea", "tea"), ("teas", "te…"), ("tea time", "te…")])
def test_a_cut_text_has_the_length_that_it_may_have(text: str, cut: str) -> None:
    """A text of the length that it may have stays whole; of a longer one the last character says that more was there."""
    assert fmt.cut(text, 3) == cut


@pytest.mark.parametrize(
    ("text", "short"),
    [
        ("50.0 µs", "50 µs"),
        ("1.50 KiB", "1.5 KiB"),
        ("100 ms", "100 ms"),
        ("1,000", "1,000"),
        ("99.90 %", "99.9 %"),
        ("0.0500", "0.05"),
        ("1.05 s", "1.05 s"),
        ("–", "–"),
    ],
)
def test_trimmed_drops_only_idle_zeros(text: str, short: str) -> None:
    """Only zeros after a decimal point go, and the point with them when nothing is left behind it."""
    assert fmt.trimmed(text) == short
