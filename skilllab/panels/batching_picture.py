"""The picture of the BatchingPanel: throughput and latency over the size of a batch, all of which can move."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence
from itertools import chain
from typing import Literal

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patheffects import withStroke
from matplotlib.text import Text
from matplotlib.ticker import FixedFormatter, FixedLocator, FuncFormatter

from skilllab import format as fmt
from skilllab import look, plots
from skilllab.experiments.batching import BatchSizes
from skilllab.experiments.batching.rounds import middle
from skilllab.panels.picture import Curve, Marker

_SLOWEST, _FASTEST = 40.0, 10_000.0  # items/s of the throughput axis
_SHORTEST, _LONGEST = 0.001, 1.0  # s of the latency axis
_OUT_OF_SIGHT = 1e-6  # on every axis, since all are logarithmic: where stands what has no value
_PALE = 0.3


class BatchingDrawing:
    """Two plots over the size of a batch, of which all but the axes moves."""

    def __init__(self, fig: Figure, sizes: Sequence[int]) -> None:
        self._sizes = tuple(sizes)
        self._top, self._bottom = fig.subplots(2, 1, sharex=True, subplot_kw={"axes_class": look.PlotAxes})
        self._done = _throughput(self._top, self._sizes)
        (self._rounds,) = self._top.plot([], [], ".", color=look.COLOURS[0], markersize=4, label="_")
        self._knee = self._top.axvline(1.0, color=look.COLOURS[1], linestyle=look.STYLES[1], label="_")
        self._offered = self._top.axhline(1.0, color=look.GREY, linewidth=1, label="_")
        self._names = _name(self._top, "right"), _name(self._top, "left")
        self._p95, self._waiting = _latency(self._bottom, self._sizes)
        self._marks = Marker(self._top, rising=True), Marker(self._bottom, rising=True)
        self._titles = _title(self._top), _title(self._bottom)

    @property
    def artists(self) -> list[Artist]:
        """What moves, from back to front."""
        lines = [self._knee, self._offered, self._rounds, self._done]
        curves = chain(*(part.artists for part in (self._p95, self._waiting, *self._marks)))
        return [*lines, *curves, *self._names, *self._titles]

    def show(self, found: BatchSizes | None, size: int, described: str, *, pale: bool) -> None:
        """Draws a measurement with a size marked, pale where it is not of this setting; axes alone without one."""
        if found is not None:
            self._show_throughput(found)
            self._show_latency(found)
            self._mark(found, size, pale)
        for title, text in zip(self._titles, _titles(found, size, described, pale), strict=True):
            title.set_text(text)
        for artist in self.artists[: -len(self._titles)]:
            artist.set_alpha(_PALE if pale else 1.0)
            # Names of lines take room beside the plot: they stand there from the first layout on.
            artist.set_visible(found is not None or artist.get_gid() == look.NAME)

    def _show_throughput(self, found: BatchSizes) -> None:
        self._done.set_data(found.sizes, [found.throughput(size) for size in found.sizes])
        points = [(size, 1 / seconds) for size in found.sizes for seconds in found.seconds[size]]
        self._rounds.set_data(*np.array(points).T)
        at = found.costs.knee
        self._knee.set_xdata([at if math.isfinite(at) else _OUT_OF_SIGHT] * 2)
        self._offered.set_ydata([found.rate] * 2)
        knee, offered = self._names
        knee.set_text(f"knee: {fmt.number(at, 2)}" if math.isfinite(at) else "")
        knee.set_position((0.95 * min(at, self._sizes[-1]), 1.2 * _SLOWEST))
        offered.set_text(f"offered: {fmt.rate(round(found.rate))}")
        offered.set_position((self._sizes[0], 1.1 * found.rate))

    def _show_latency(self, found: BatchSizes) -> None:
        (wait,) = found.waits
        p95 = [(size, found.p95(size, wait)) for size in found.sizes]
        waiting = [(size, middle(cell.waited)) for (size, _), cell in found.cells.items()]
        _move(self._p95, p95, "p95 of the answer")
        _move(self._waiting, waiting, "of it, wait for the batch (median)")

    def _mark(self, found: BatchSizes, size: int, pale: bool) -> None:
        (wait,) = found.waits
        p95, (top, bottom) = found.p95(size, wait), self._marks
        top.move(size, found.throughput(size), "" if pale else fmt.rate(round(found.throughput(size))))
        late = not math.isfinite(p95)
        told = "cannot keep up" if late else fmt.duration(p95)
        bottom.move(size, _LONGEST if late else min(p95, _LONGEST), "" if pale else told)


def _throughput(ax: Axes, sizes: tuple[int, ...]) -> Line2D:
    ax.set(xscale="log", yscale="log", xlim=(sizes[0] * 0.9, sizes[-1] * 1.1), ylim=(_SLOWEST, _FASTEST))
    ax.xaxis.set_major_locator(FixedLocator(sizes))
    ax.xaxis.set_major_formatter(FixedFormatter([fmt.count(size) for size in sizes]))
    ax.yaxis.set_major_locator(look.LogTicks(ax.yaxis, fmt.rate))
    ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: fmt.trimmed(fmt.rate(value))))
    for axis in (ax.xaxis, ax.yaxis):
        axis.set_minor_locator(FixedLocator([]))
    look.dress(ax, " ", "", "Throughput")
    ax.tick_params(labelbottom=False)
    (line,) = ax.plot([], [], "-", color=look.COLOURS[0], linewidth=2, label="throughput")
    return line


def _latency(ax: Axes, sizes: tuple[int, ...]) -> tuple[Curve, Curve]:
    names = ("p95 of the answer", "of it, wait for the batch (median)")
    begin = {name: [_SHORTEST] * len(sizes) for name in names}  # until something is shown
    plots.growth(sizes, begin, title=" ", x_label="Items a batch, at most", y_label="Latency", ax=ax)
    ax.set(xlim=(sizes[0] * 0.9, sizes[-1] * 1.1), ylim=(_SHORTEST, _LONGEST))
    ax.xaxis.set_major_locator(FixedLocator(sizes))
    return Curve(ax, 0), Curve(ax, 1)


def _move(curve: Curve, points: list[tuple[int, float]], name: str) -> None:
    """Moves a curve to the points that have a value, or out of sight when none has one."""
    known = [(size, max(value, _SHORTEST)) for size, value in points if math.isfinite(value)]
    x, y = zip(*known or [(1, _OUT_OF_SIGHT)], strict=True)
    curve.move(x, y, textwrap.fill(name, 18) if known else "")


def _name(ax: Axes, side: Literal["left", "right"]) -> Text:
    halo = [withStroke(linewidth=3, foreground="white")]
    return ax.text(1.0, 1.0, "", color=look.GREY, fontsize=look.TEXT, ha=side, va="bottom", path_effects=halo)


def _title(ax: Axes) -> Text:
    (title,) = (text for text in ax.get_children() if isinstance(text, Text) and text.get_gid() == look.FINDING)
    return title


def _titles(found: BatchSizes | None, size: int, described: str, pale: bool) -> tuple[str, str]:
    if found is None:
        return "Not measured yet: press Run", f"Not measured: {described}"
    if pale:
        return "Press Run: this is the last measurement", f"Not measured: {described}"
    (wait,) = found.waits
    gain = fmt.times(found.throughput(size) / found.throughput(found.sizes[0]), 2)
    p95 = found.p95(size, wait)
    late = f"Batches of {size} cannot keep up with {fmt.rate(round(found.rate))}"
    return (
        f"Batches of {size} get {gain} as much done as single items",
        f"p95 {fmt.duration(p95)} at {fmt.rate(round(found.rate))}" if math.isfinite(p95) else late,
    )
