"""The picture of the LoadPanel: percentile curves above, rates and requests in flight over time below, all of which can move."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patheffects import withStroke
from matplotlib.text import Annotation, Text
from matplotlib.ticker import FixedLocator, FuncFormatter

from skilllab import format as fmt
from skilllab import look
from skilllab.conditions import Condition
from skilllab.experiments.loadtest.live import View
from skilllab.stats import Array

_SHORTEST, _LONGEST = 2e-5, 20.0  # s of the latency axis
_FINEST = 0.9995  # of the percentile axis
_TICKS = (0.5, 0.9, 0.99, 0.999)
_MOST_RATE, _MOST_IN_FLIGHT = 50_000.0, 5_000.0  # numbers for which there is room beside the axes
_GROWTH = 2.0  # times what is to be shown is what an axis grows to: seldom, since to draw it takes a tenth of a second
_MOST_BOUNDS = 4  # of an SLO that are marked
_CURVES = {"response": (0, 0.7), "service": (2, 0.3)}
"""For each curve: its colour, and how high its name stands beside the plot."""
_NONE: Array = np.zeros(0)


class LoadDrawing:
    """Three plots, of which all but the axes moves; an axis grows when what it shows does.

    At first there are lines across each plot, and room beside it for the longest numbers: what a layout is made for.
    """

    def __init__(self, fig: Figure) -> None:
        top, middle, bottom = fig.subplots(3, 1, height_ratios=(1.7, 1, 0.7))
        self._curves = _Curves(top)
        self._rates = _Lines(middle, {"answered": 0, "due": 2, "failed": 1}, fmt.rate, _MOST_RATE)
        self._in_flight = _Lines(bottom, {"": 3}, fmt.number, _MOST_IN_FLIGHT)
        look.dress(middle, "", "", "Rate")
        look.dress(bottom, "", "Time (s)", "In flight")
        middle.tick_params(labelbottom=False)

    @property
    def artists(self) -> list[Artist]:
        """What moves, from back to front."""
        return [*self._curves.artists, *self._rates.artists, *self._in_flight.artists]

    def fit(self, duration: float, rate: float, in_flight: float) -> bool:
        """Fits the axes to a test of so many seconds; returns whether they changed, and are to be drawn anew."""
        spans = [lines.span(duration) for lines in (self._rates, self._in_flight)]
        return any([*spans, self._rates.reach(rate), self._in_flight.reach(in_flight)])

    def show(self, view: View | None, conditions: Sequence[Condition], title: str) -> bool:
        """Draws a test as it stands, or none; returns whether an axis grew, and is to be drawn anew."""
        self._curves.show(view, conditions, title)
        if view is None:
            self._rates.show(_NONE, [_NONE] * 3)
            self._in_flight.show(_NONE, [_NONE])
            return False
        rates = [view.answered, view.due, view.failed if view.failures else _NONE]
        return any([self._rates.show(view.at, rates), self._in_flight.show(view.at, [view.in_flight])])


class _Curves:
    """Response and service time over the percentile, and what an SLO asks of the response."""

    def __init__(self, ax: Axes) -> None:
        ax.set_yscale("log")
        ax.set_xscale("function", functions=(_nines, lambda nines: 1 - 10.0 ** -np.asarray(nines)))
        ax.set(xlim=(0, _FINEST), ylim=(_SHORTEST, _LONGEST))
        ax.xaxis.set_major_locator(FixedLocator(_TICKS))
        ax.xaxis.set_major_formatter(FuncFormatter(lambda share, _: fmt.trimmed(fmt.ratio(share))))
        ax.yaxis.set_major_locator(look.LogTicks(ax.yaxis, fmt.duration))
        ax.yaxis.set_minor_locator(FixedLocator([]))
        ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: fmt.trimmed(fmt.duration(value))))
        look.dress(ax, "Not run yet", "Percentile of requests", "Time")
        (self._title,) = (
            text for text in ax.get_children() if isinstance(text, Text) and text.get_gid() == look.FINDING
        )
        self._lines = [
            _line(ax, colour, name, height, place) for place, (name, (colour, height)) in enumerate(_CURVES.items())
        ]
        for place, line in enumerate(self._lines, start=1):
            line.set_data((0, _FINEST), (_SHORTEST, _LONGEST ** (1 / place)))
        (self._marks,) = ax.plot([], [], "v", color=look.INK, markersize=7, label="_", clip_on=False)
        self._marks.set_in_layout(False)  # a line without points that nothing clips has no size that a layout could use
        self._bounds = [_bound(ax) for _ in range(_MOST_BOUNDS)]

    @property
    def artists(self) -> list[Artist]:
        return [*self._lines, self._marks, *self._bounds, self._title]

    def show(self, view: View | None, conditions: Sequence[Condition], title: str) -> None:
        self._title.set_text(title)
        columns = (_NONE, _NONE) if view is None else (view.response, view.service)
        for line, column in zip(self._lines, columns, strict=True):
            known = len(column) and np.isfinite(column).all()
            line.set_data(*((view.shares, np.clip(column, _SHORTEST, _LONGEST)) if view and known else (_NONE, _NONE)))
        asked = [(each.q, each) for each in conditions if each.q is not None and each.q <= _FINEST]
        marked = sorted(asked, key=lambda pair: pair[0])[:_MOST_BOUNDS]
        self._marks.set_data([q for q, _ in marked], [min(each.bound, _LONGEST) for _, each in marked])
        for text in self._bounds[len(marked) :]:
            text.set_text("")
        for place, (text, (q, each)) in enumerate(zip(self._bounds, marked, strict=False), start=1):
            last = place == len(marked)
            text.set(text=str(each), va="bottom" if last else "top")
            text.xy, text.xyann = (q, min(each.bound, _LONGEST)), (0, 7 if last else -7)


class _Lines:
    """Lines over time from 0; the axis goes to a round number above what was ever shown in a test."""

    def __init__(self, ax: Axes, colours: dict[str, int], show: look.Show, most: float) -> None:
        self._ax = ax
        self._lines = [
            _line(ax, colour, name, 0.88 - 0.3 * place, place) for place, (name, colour) in enumerate(colours.items())
        ]
        for place, line in enumerate(self._lines, start=1):
            line.set_data((0, 1), (0, most / place))
        ax.set(xlim=(0, 1), ylim=(0, most))
        ax.xaxis.set_major_locator(look.LinearTicks(ax.xaxis, fmt.number))
        ax.yaxis.set_major_locator(look.LinearTicks(ax.yaxis, show))
        ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: fmt.trimmed(show(value))))

    @property
    def artists(self) -> list[Artist]:
        return list(self._lines)

    def span(self, duration: float) -> bool:
        """Makes the time axis so long; returns whether it was not."""
        before = self._ax.get_xlim()
        self._ax.set_xlim(0, duration)
        return before != self._ax.get_xlim()

    def reach(self, most: float) -> bool:
        """Makes the other axis go to a round number above `most`; returns whether it did not."""
        before = self._ax.get_ylim()
        self._ax.set_ylim(0, _round_above(most))
        return before != self._ax.get_ylim()

    def show(self, at: Array, columns: Sequence[Array]) -> bool:
        """Draws the columns; returns whether the axis had to grow."""
        for line, column in zip(self._lines, columns, strict=True):
            line.set_data(at[: len(column)], column)
        most = max((float(column.max()) for column in columns if len(column)), default=0.0)
        return most > self._ax.get_ylim()[1] and self.reach(_GROWTH * most)


def _line(ax: Axes, colour: int, name: str, height: float, style: int) -> Line2D:
    """Adds a line without points, and its name beside the plot."""
    (line,) = ax.plot([], [], color=look.COLOURS[colour], linestyle=look.STYLES[style], linewidth=2, label=name or "_")
    ax.text(1.015, height, name, transform=ax.transAxes, color=look.INKS[colour], fontsize=look.TEXT, va="center")
    return line


def _bound(ax: Axes) -> Annotation:
    return ax.annotate(
        "",
        (0.5, 1.0),
        (0, 7),
        textcoords="offset points",
        ha="center",
        color=look.INK,
        fontsize=look.TEXT,
        path_effects=[withStroke(linewidth=3, foreground="white")],
        in_layout=False,
    )


def _round_above(value: float) -> float:
    """Returns the first of 1, 2, 5, 10, 20, ... that is not below the value, 1 at least."""
    power = 10.0 ** math.floor(math.log10(max(value, 1.0)))
    return next(step * power for step in (1, 2, 5, 10) if step * power >= value * 0.999)


def _nines(shares: Array) -> Array:
    return np.asarray(-np.log10(1 - np.clip(shares, 0, 1 - 1e-12)))
