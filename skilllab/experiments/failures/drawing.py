"""The picture of an outage: two plots of latency over time and the breaker's states below, all of which can move."""

from __future__ import annotations

from itertools import chain
from typing import Any

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from matplotlib.text import Text
from matplotlib.ticker import FixedLocator, FuncFormatter

from skilllab import format as fmt
from skilllab import look
from skilllab.experiments.failures.timeline import OUTCOMES, Outage, Timeline

LOWEST, HIGHEST = 2e-5, 10.0  # s, of the latency axis; what took less, as in virtual time, stands at its foot
_LOOKS = {"answered": (0, "o", 3.0, 0.03), "failed": (1, "^", 4.5, 0.5), "refused": (3, "x", 4.0, 4e-4)}
"""For each outcome: colour, marker, its size in points, and the latency (s) at which its name stands."""
_STATES = {"open": 1, "half-open": 3, "closed": 2}
"""The breaker's states from the top, with their colours."""
_STALL = "#E9E9E9"


class OutageDrawing:
    """Draws outages of at most `duration` seconds into a figure; `show` moves everything to where an outage has it."""

    def __init__(self, fig: Figure, duration: float) -> None:
        top, middle, bottom = fig.subplots(3, 1, sharex=True, height_ratios=(1, 1, 0.4))
        self._ways = _Way(top), _Way(middle)
        self._stall = _stall_name(top)
        self._strip = _Strip(bottom)
        for ax in (top, middle):
            ax.tick_params(labelbottom=False)
        bottom.set_xlim(0, duration)
        bottom.xaxis.set_major_locator(look.LinearTicks(bottom.xaxis, fmt.number))

    @property
    def artists(self) -> list[Artist]:
        """What moves, from back to front."""
        return [artist for part in (*self._ways, self._strip) for artist in part.artists] + [self._stall]

    def show(self, outage: Outage, how: str = "") -> None:
        """Draws this outage in place of the last one; `how` says where it comes from, and what is predicted is pale."""
        alpha = 0.35 if how == "predicted" else 0.75
        for name, way, timeline in zip(
            ("No breaker", "Breaker"), self._ways, (outage.without, outage.guarded), strict=True
        ):
            waited, after = fmt.duration(timeline.waited), fmt.duration(timeline.aftermath, 2)
            way.show(timeline, f"{name}: {waited} waited, {after} of aftermath", alpha)
        self._stall.set_x(sum(outage.without.stalled) / 2)
        self._strip.show(outage, how)


class _Way:
    """The latency of each call over time."""

    def __init__(self, ax: Axes) -> None:
        self._stall = _shade(ax)
        self._dots = {outcome: _dots(ax, outcome) for outcome in OUTCOMES}
        ax.set(yscale="log", ylim=(LOWEST, HIGHEST))
        ax.yaxis.set_major_locator(look.LogTicks(ax.yaxis, fmt.duration))
        ax.yaxis.set_minor_locator(FixedLocator([]))
        ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: fmt.trimmed(fmt.duration(value))))
        look.dress(ax, " ", "", "Latency")
        (self._title,) = (
            text for text in ax.get_children() if isinstance(text, Text) and text.get_gid() == look.FINDING
        )

    @property
    def artists(self) -> list[Artist]:
        return [self._stall, *chain(*self._dots.values()), self._title]

    def show(self, timeline: Timeline, title: str, alpha: float) -> None:
        _move(self._stall, timeline)
        for outcome, (dots, name) in self._dots.items():
            latency = np.clip(timeline.column("latency", outcome), 1.2 * LOWEST, HIGHEST)
            dots.set_data(timeline.column("due", outcome), latency)
            dots.set_alpha(alpha)
            name.set_text(outcome if len(latency) else "")
        self._title.set_text(title)


class _Strip:
    """The states of the breaker over time."""

    def __init__(self, ax: Axes) -> None:
        self._stall = _shade(ax)
        self._bars: dict[str, Line2D] = {}
        for state, colour in _STATES.items():
            self._bars[state] = _bar(ax, look.COLOURS[colour])
        ax.set_yticks(range(len(_STATES)), list(_STATES))
        ax.set_ylim(len(_STATES) - 0.4, -0.6)
        look.dress(ax, "", "Time (s)", "Breaker")
        ax.grid(visible=False, axis="y")
        below: dict[str, Any] = {"xycoords": "axes fraction", "textcoords": "offset points", "ha": "right", "va": "top"}
        self._how = ax.annotate("", (1, 0), (0, -21), color=look.GREY, fontsize=look.TEXT, **below)

    @property
    def artists(self) -> list[Artist]:
        return [self._stall, *self._bars.values(), self._how]

    def show(self, outage: Outage, how: str) -> None:
        self._how.set_text(how)
        _move(self._stall, outage.guarded)
        spans = outage.guarded.states(outage.elapsed)
        for place, (state, bar) in enumerate(self._bars.items()):
            ends = [end for name, begin, stop in spans if name == state for end in (begin, stop, np.nan)]
            bar.set_data(ends, [place] * len(ends))


def _bar(ax: Axes, colour: str) -> Line2D:
    (bar,) = ax.plot([], [], color=colour, linewidth=11, solid_capstyle="butt", label="_")
    return bar


def _shade(ax: Axes) -> Rectangle:
    shade = Rectangle((0, 0), 0, 1, transform=ax.get_xaxis_transform(), color=_STALL, linewidth=0, zorder=0.5)
    ax.add_patch(shade)
    return shade


def _stall_name(ax: Axes) -> Text:
    where = ax.get_xaxis_transform()
    return ax.text(0, 0.04, "server stalls", transform=where, ha="center", color=look.GREY, fontsize=look.TEXT)


def _move(shade: Rectangle, timeline: Timeline) -> None:
    begin, end = timeline.stalled
    shade.set_bounds(begin, 0, end - begin, 1)


def _dots(ax: Axes, outcome: str) -> tuple[Line2D, Text]:
    """Adds the dots of an outcome, and its name beside the plot."""
    colour, marker, size, height = _LOOKS[outcome]
    (dots,) = ax.plot([], [], marker, color=look.COLOURS[colour], markersize=size, label=outcome)
    where = ax.get_yaxis_transform()
    return dots, ax.text(
        1.01, height, outcome, transform=where, color=look.INKS[colour], fontsize=look.TEXT, va="center"
    )
