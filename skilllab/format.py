"""Numbers to text: the only place. Durations come in seconds, sizes in bytes, rates per second, ratios 0 to 1.

What was not measured (None, NaN) reads "–". Whatever the rounding makes of a number decides its unit, so that
0.9999996 s reads "1.00 s" and not "1,000 ms".
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable

# A unit, its size, and how many of it make the text move on to the next unit.
_Units = tuple[tuple[str, float, float], ...]
_DURATIONS: _Units = (
    ("ns", 1e-9, 1000),
    ("µs", 1e-6, 1000),
    ("ms", 1e-3, 1000),
    ("s", 1.0, 120),
    ("min", 60.0, 120),
    ("h", 3600.0, math.inf),
)
_SIZES: _Units = (
    ("B", 1.0, 1024),
    ("KiB", 2.0**10, 1024),
    ("MiB", 2.0**20, 1024),
    ("GiB", 2.0**30, 1024),
    ("TiB", 2.0**40, math.inf),
)
_SHORTEST = 1e-12  # a duration below a picosecond is rounding error
_ZEROS = re.compile(r"(\.\d*?)0+(?!\d)")
NOT_MEASURED = "–"


def number(value: float | None, digits: int = 3) -> str:
    """Returns a plain number with thousands separators and `digits` significant digits: 1,234 or 0.0123.

    The digits before the decimal point are never rounded away, and an exact whole number has no decimals.
    """
    if value is None or not math.isfinite(value):
        return _unusual(value)
    return f"{value:z,.0f}" if float(value).is_integer() else f"{value:z,.{_decimals(value, digits)}f}"


def count(value: int | None) -> str:
    """Returns a whole number with thousands separators: 81,000."""
    return NOT_MEASURED if value is None else f"{value:,d}"


def duration(seconds: float | None, digits: int = 3) -> str:
    """Returns a duration with the unit that fits: 340 ns, 1.52 µs, 23.0 ms, 4.10 s, 2.50 min, 3.00 h."""
    if seconds is None or not math.isfinite(seconds):
        return _unusual(seconds)
    return _scaled(seconds, _DURATIONS, digits) if abs(seconds) >= _SHORTEST else "0 s"


def size(bytes_: float | None, digits: int = 3) -> str:
    """Returns a size in binary units: 512 B, 1.50 KiB, 256 MiB."""
    if bytes_ is None or not math.isfinite(bytes_):
        return _unusual(bytes_)
    whole = round(bytes_)
    return f"{whole} B" if abs(whole) < 1024 else _scaled(bytes_, _SIZES, digits)


def rate(per_second: float | None, digits: int = 3) -> str:
    """Returns a rate: 1,250 /s."""
    return _with_unit(number(per_second, digits), " /s")


def ratio(value: float | None, digits: int = 1) -> str:
    """Returns a share of one as a percentage with `digits` decimals: 0.713 -> 71.3 %."""
    if value is None or not math.isfinite(value):
        return _unusual(value)
    return f"{100 * value:z.{digits}f} %"


def times(value: float | None, digits: int = 3) -> str:
    """Returns a factor: 9.31×."""
    return _with_unit(number(value, digits), "×")


def interval(low: float | None, high: float | None, show: Callable[[float | None], str] = number) -> str:
    """Returns an interval, both ends written by `show`, a unit they share only once: 1.20 to 1.35 ms."""
    first, second = show(low), show(high)
    digits, space, unit = first.rpartition(" ")
    return f"{digits if space and second.endswith(space + unit) else first} to {second}"


def several(number: int, noun: str) -> str:
    """Returns a count and its noun, in the plural but for one: 1 tool, 1,200 tools."""
    return f"{count(number)} {noun}{'' if number == 1 else 's'}"


def cut(text: str, limit: int) -> str:
    """Returns a text of at most `limit` characters, the last of which is … where more was there."""
    return text if len(text) <= limit else f"{text[: limit - 1]}…"


def trimmed(text: str) -> str:
    """Returns a number's text without the zeros at the end of its decimals, as axis ticks need it: 50.0 µs -> 50 µs."""
    return _ZEROS.sub(lambda match: match[1] if match[1] != "." else "", text)


def _scaled(value: float, units: _Units, digits: int) -> str:
    text = NOT_MEASURED
    for unit, factor, limit in units:
        decimals = _decimals(value / factor, digits)
        text = f"{value / factor:,.{decimals}f} {unit}"
        if abs(round(value / factor, decimals)) < limit:
            break
    return text


def _decimals(value: float, digits: int) -> int:
    """Returns how many decimals show `digits` significant digits of the value as it reads once rounded."""
    exponent = int(f"{value:.{digits - 1}e}".partition("e")[2])
    return max(0, digits - 1 - exponent)


def _unusual(value: float | None) -> str:
    if value is None or math.isnan(value):
        return NOT_MEASURED
    return "∞" if value > 0 else "-∞"


def _with_unit(text: str, unit: str) -> str:
    return text if text == NOT_MEASURED else text + unit
