"""Controls: one labelled widget each, whose `.value` is in base units (seconds, bytes, entries, ratios).

All of them work by keyboard: Tab reaches them in reading order, arrow keys move them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Generic, TypeVar

import ipywidgets as widgets

from skilllab import look
from skilllab.errors import InvalidValueError

T = TypeVar("T")

_STEPS = (1.0, 1.2, 1.5, 2.0, 2.5, 3.0, 4.0, 5.0, 6.0, 8.0)
_MINUTES = (60.0, 120.0, 300.0, 600.0, 1200.0, 1800.0, 3600.0, 7200.0, 18000.0, 36000.0)


class Control(Generic[T]):
    """A widget whose one trait stands for a value in base units.

    `read` makes the value of the trait and raises InvalidValueError for one without a meaning; `write` is its inverse.
    Setting `value` moves the widget, and moving the widget changes `value`.
    """

    def __init__(
        self, widget: widgets.DOMWidget, trait: str, read: Callable[[Any], T], write: Callable[[T], Any]
    ) -> None:
        self.widget = widget
        self._trait, self._read, self._write = trait, read, write
        self._first = getattr(widget, trait)

    @property
    def value(self) -> T:
        """What the control stands at; raises InvalidValueError when that has no meaning."""
        return self._read(getattr(self.widget, self._trait))

    @value.setter
    def value(self, value: T) -> None:
        setattr(self.widget, self._trait, self._write(value))

    def reset(self) -> None:
        """Moves the control back to where it was made."""
        setattr(self.widget, self._trait, self._first)

    def on_change(self, callback: Callable[[object], None]) -> None:
        """Calls `callback` with whatever changed, each time that it changes."""
        self.widget.observe(callback, self._trait)


def steps(label: str, options: Mapping[str, T], value: T, hint: str = "") -> Control[T]:
    """Returns a slider over the values of `options`, which shows their texts; `value` is where it starts.

    It serves for names as well: JupyterLab's shortcuts take the arrow keys away from drop-down lists and radio
    buttons, and a slider keeps them. Raises InvalidValueError for a value that is not among the options.
    """
    values = list(options.values())

    def place(value: T) -> int:
        found = [at for at, known in enumerate(values) if known == value]
        if not found:
            raise InvalidValueError(f"{label} (={value!r}) must be one of {', '.join(map(repr, values))}")
        return found[0]

    slider = widgets.SelectionSlider(
        options=list(options),
        index=place(value),
        description=label,
        tooltip=hint,
        style={"handle_color": look.COLOURS[0]},
    )
    return Control(slider, "index", values.__getitem__, place)


def amount(label: str, unit: str, value: float, *, scale: float = 1.0, hint: str = "") -> Control[float]:
    """Returns a field for a number above 0; it shows `unit`, one of which is `scale` base units; `value` is in those.

    The field takes any number, and reading `.value` refuses one without a meaning with InvalidValueError: whoever types
    it sees what they typed, and what is wrong with it.
    """

    def read(shown: float) -> float:
        if not 0 < shown < math.inf:
            raise InvalidValueError(f"{label} (={shown:g} {unit}) must be a number above 0")
        return shown * scale

    if isinstance(value, bool) or not isinstance(value, int | float):
        raise InvalidValueError(f"{label} (={value!r}) must be a number above 0")
    shown = _clean(value / scale)
    read(shown)
    field = widgets.FloatText(value=shown, step=_step(shown), description=f"{label} ({unit})", tooltip=hint)
    return Control(field, "value", read, lambda base: _clean(base / scale))


def text(label: str, value: str, read: Callable[[str], T], *, hint: str = "") -> Control[T]:
    """Returns a line of text, which stands for what `read` makes of it once Enter is pressed or the line is left.

    `read` refuses a text without a meaning with InvalidValueError. To set the value takes a text that `str` gives.
    """
    line = widgets.Text(value=value, continuous_update=False, description=label, tooltip=hint)
    return Control(line, "value", read, str)


def whole_numbers(low: float, high: float, *also: int) -> list[int]:
    """Returns round whole numbers from `low` to `high`, ten a decade, both ends as they are, and those in `also`."""
    first, last = max(1, math.ceil(low)), max(1, math.floor(high))
    decades = range(math.floor(math.log10(first)), math.ceil(math.log10(last)) + 1)
    round_ones = {step * 10**power for power in decades for step in _STEPS}
    return sorted({int(n) for n in round_ones if n == int(n) and first < n < last} | {first, last, *also})


def durations(low: float, high: float, *also: float) -> list[float]:
    """Returns round durations (s) from `low` to `high`, in steps of 1, 2 and 5 that count in 60 from a minute on."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    seconds = {float(f"{step}e{power}") for power in powers for step in (1, 2, 5)}
    days = {day * 86400.0 for day in (1, 2, 5, 10, 20, 50, 100)}
    round_ones = {s for s in seconds if s < 60} | set(_MINUTES) | days
    return sorted({s for s in round_ones if low <= s <= high} | set(also))


def named(values: Iterable[T], show: Callable[[T], str]) -> dict[str, T]:
    """Returns the options of `steps`: each value under its text."""
    return {show(value): value for value in values}


def _step(shown: float) -> float:
    """Returns what an arrow key adds: a tenth of the place of the leading digit."""
    return float(f"1e{math.floor(math.log10(shown)) - 1}")


def _clean(shown: float) -> float:
    """Returns the number without the dust of a change of units: 0.1, not 0.10000000000000002."""
    return float(f"{shown:.12g}")
