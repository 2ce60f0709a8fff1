"""Columns to matplotlib Axes: the one look of every figure of the lab. It knows no result class, and never pyplot.

In a notebook a call such as `plots.growth(sizes, {"index": seconds}, title="...")` as the last line of a cell shows its
figure once, sharp, with a text for readers who do not see it; no `%matplotlib`, no `plt.show()`. A call that is not
the last line shows nothing: end the cell with the Axes, or with the figure. Several plots side by side:

    fig = plots.figure(10, 4)
    left, right = fig.subplots(1, 2)
    plots.growth(..., ax=left)
    plots.bars(..., ax=right)
    fig

Titles are findings, wrapped to the width there is. Lines are named at their right end; names that would overlap are
spread and tied to their line. Both happen whenever a figure made here is laid out; in one made elsewhere they happen
once, when the function is called. `png` gives a figure's bytes, `summary` its text.

Durations come in seconds, ratios 0 to 1; `skilllab.format` writes them. None and NaN were not measured: a line has a
gap there, a bar reads "–". What a logarithmic axis cannot show (0 and less) is refused with InvalidValueError.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.patheffects import withStroke
from matplotlib.ticker import FixedLocator, FuncFormatter
from matplotlib.transforms import ScaledTranslation

from skilllab import format as fmt
from skilllab import look
from skilllab.errors import InvalidValueError
from skilllab.look import Show, figure, png, summary
from skilllab.stats import Array, Interval, finest_quantile, quantiles

__all__ = ["bars", "cliff", "figure", "growth", "hit_ratio_curve", "percentile_curve", "png", "summary", "time_line"]

Series = Mapping[str, npt.ArrayLike]

_HALO = [withStroke(linewidth=3, foreground="white")]


def percentile_curve(series: Series, *, title: str = "", y_label: str = "Latency", ax: Axes | None = None) -> Axes:
    """Draws latency (log) against percentile on an axis of nines, one line for each column of seconds.

    A line ends at the finest percentile that its number of values supports: that still has a 95 % interval.
    """
    columns = {name: y[np.isfinite(y)] for name, y in _columns(series, "series", log=True).items()}
    ax = _plot(ax)
    sizes = [len(column) for column in columns.values()]
    finest = {name: finest_quantile(len(column)) for name, column in columns.items()}
    last = max(finest.values())
    shown: list[float] = []
    for name, column in columns.items():
        shares = -np.expm1(-np.linspace(0, -math.log1p(-finest[name]), 300))
        curve = quantiles(column, shares)
        shown += curve.tolist()
        _line(ax, shares, curve, name)
    ax.set_xscale("function", functions=(_nines, lambda nines: 1 - 10.0 ** -np.asarray(nines)))
    ax.set_xlim(0, last)
    ticks = [0.0, *([0.25, 0.5, 0.75] if last < 0.9 else [0.5]), *(1 - 10.0**-nine for nine in range(1, 9))]
    ax.xaxis.set_major_locator(FixedLocator([tick for tick in ticks if tick <= last]))
    _write(ax, "x", _percentile)
    _log_axis(ax, "y", np.array(shown), fmt.duration)
    n = fmt.count(min(sizes)) if min(sizes) == max(sizes) else f"{fmt.count(min(sizes))} to {fmt.count(max(sizes))}"
    return look.dress(ax, title, f"Percentile of calls (n = {n})", y_label)


def hit_ratio_curve(
    sizes: npt.ArrayLike,
    ratios: Series,
    *,
    optimum: npt.ArrayLike | None = None,
    point: tuple[float, float] | None = None,
    title: str = "",
    x_label: str = "Cache size (entries)",
    ax: Axes | None = None,
) -> Axes:
    """Draws hit ratios (0 to 1) against cache size (log); `optimum` is Belady's, `point` a marked (size, ratio)."""
    x = _places(sizes, "sizes", log=True)
    columns = _columns(ratios, "ratios", len(x))
    best = None if optimum is None else _column(optimum, "optimum", len(x))
    ax = _plot(ax)
    _log_axis(ax, "x", x, fmt.number, pad=0.02)
    for name, y in columns.items():
        _line(ax, x, y, name)
    if best is not None:
        _line(ax, x, best, "optimum (Belady)", grey=True)
    _share_axis(ax, "y")
    if point is not None:
        _mark(ax, *point, text=f"{fmt.number(point[0])} entries: {fmt.ratio(point[1])}")
    return look.dress(ax, title, x_label, "Hit ratio")


def growth(
    sizes: npt.ArrayLike,
    series: Series,
    *,
    intervals: Mapping[str, Sequence[Interval | None]] | None = None,
    title: str = "",
    x_label: str = "Skills",
    y_label: str = "Time a call",
    ax: Axes | None = None,
) -> Axes:
    """Draws seconds against size on two log axes, with an interval at each point where `intervals` has one."""
    x = _places(sizes, "sizes", log=True)
    columns = _columns(series, "series", len(x), log=True)
    ends = {name: _ends(y, (intervals or {}).get(name), log=True) for name, y in columns.items()}
    ax = _plot(ax)
    _log_axis(ax, "x", x, fmt.number, pad=0.02)
    for name, y in columns.items():
        colour, (low, high) = _line(ax, x, y, name), ends[name].T
        wide = low < high
        if wide.any():
            ax.vlines(x[wide], low[wide], high[wide], color=colour, linewidth=5, alpha=0.35)
    _log_axis(ax, "y", np.concatenate([*columns.values(), *(pair.ravel() for pair in ends.values())]), fmt.duration)
    return look.dress(ax, title, x_label, y_label)


def cliff(
    hit_ratios: npt.ArrayLike,
    series: Series,
    *,
    q: float = 0.95,
    points: Mapping[str, tuple[float, float]] | None = None,
    title: str = "",
    y_label: str | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Draws a latency quantile in seconds (log) against hit ratio, and the edge where that quantile becomes a hit.

    Of all calls the share `q` lies below the quantile: with more hits than that, the quantile is a hit.
    points: marked places (hit ratio, seconds), named in the empty corner below the lines.
    """
    if not 0 < q < 1:
        raise InvalidValueError(f"q(={q}) must be between 0 and 1, both excluded: p95 is 0.95")
    x = _places(hit_ratios, "hit_ratios")
    columns = _columns(series, "series", len(x), log=True)
    marks = _columns(points, "points", 2, log=True) if points else {}
    ax = _plot(ax)
    for name, y in columns.items():
        _line(ax, x, y, name)
    _share_axis(ax, "x", min(q, x.min(), *(place for place, _ in marks.values())))
    _log_axis(ax, "y", np.concatenate([*columns.values(), [y for _, y in marks.values()]]), fmt.duration)
    which = f"p{fmt.trimmed(fmt.number(100 * q, 6))}"
    ax.axvline(q, color=look.GREY, linewidth=1, zorder=1)
    ax.annotate(
        f"beyond {fmt.trimmed(fmt.ratio(q, 4))} hits\n{which} is a hit",
        (q, 0.03),
        xycoords=ax.get_xaxis_transform(),
        xytext=(-6, 0),
        textcoords="offset points",
        ha="right",
        color=look.GREY,
        fontsize=look.TEXT,
        path_effects=_HALO,
    )
    for number, (name, (x_mark, y_mark)) in enumerate(sorted(marks.items(), key=lambda mark: float(mark[1][0]))):
        _name_below(ax, (x_mark, y_mark), name, place=(0.5, 0.4 - 0.1 * number))
    return look.dress(ax, title, "Hit ratio", f"{which} latency" if y_label is None else y_label)


def time_line(
    times: npt.ArrayLike,
    series: Series,
    *,
    show: Show = fmt.ratio,
    title: str = "",
    x_label: str = "Time (s)",
    y_label: str = "Hit ratio",
    ax: Axes | None = None,
) -> Axes:
    """Draws columns against time or step on linear axes from zero; `show` writes the values."""
    x = _places(times, "times")
    columns = _columns(series, "series", len(x))
    ax = _plot(ax)
    for name, y in columns.items():
        _line(ax, x, y, name)
    _linear_axis(ax, "x", fmt.number)
    ax.set_xlim(x.min(), x.max() + (x.min() == x.max()))
    if show is fmt.ratio:
        _share_axis(ax, "y")
    else:
        _linear_axis(ax, "y", show)
        ax.set_ylim(min(0, ax.get_ylim()[0]))
    return look.dress(ax, title, x_label, y_label)


def bars(
    labels: Sequence[str],
    values: npt.ArrayLike,
    *,
    intervals: Sequence[Interval | None] | None = None,
    show: Show = fmt.number,
    log: bool = False,
    title: str = "",
    x_label: str = "",
    ax: Axes | None = None,
) -> Axes:
    """Draws one horizontal bar for each label, from the top, with its interval and its value as `show` writes it.

    On a log axis, which has no zero for a bar to start from, dots take the place of bars.
    """
    if not labels:
        raise InvalidValueError("labels(=[]) must name at least one bar")
    x, y = _column(values, "values", len(labels), log=log), np.arange(len(labels))
    ends = _ends(x, intervals, log=log)
    ax = _plot(ax, height=1.3 + 0.42 * len(labels))
    if log:
        ax.hlines(y, *_log_axis(ax, "x", np.append(ends, x), show), color=look.GRID, zorder=0.5)
        ax.plot(x, y, "o", color=look.COLOURS[0], markersize=9, label="_values")
    else:
        ax.barh(y, x, color=look.COLOURS[0], height=0.62)
        _linear_axis(ax, "x", show)
    ax.hlines(y, ends[:, 0], ends[:, 1], color=look.INK, linewidth=1.6, zorder=3)
    start = ax.get_xlim()[0] if log else 0.0
    for place, value, end in zip(y, x, ends, strict=True):
        ax.annotate(
            show(value) if math.isfinite(value) else fmt.NOT_MEASURED,
            (np.nanmax([value, end[1], start]), place),
            xytext=(8, 0),
            textcoords="offset points",
            va="center",
            color=look.INK,
            fontsize=look.TEXT,
            gid=look.VALUE,
        )
    ax.set_yticks(y, [textwrap.fill(label, 30) for label in labels])
    ax.set_ylim(len(x) - 0.5, -0.5)
    look.dress(ax, title, x_label, "")
    ax.grid(visible=False, axis="y")
    ax.spines["left"].set_visible(not log)
    return ax


def _plot(ax: Axes | None, height: float = 4.5) -> Axes:
    return figure(height=height).add_subplot(axes_class=look.PlotAxes) if ax is None else ax


def _line(ax: Axes, x: Array, y: Array, name: str, *, grey: bool = False) -> str:
    """Draws one line with its name at its right end, in the next colour and style; returns the colour."""
    index = sum(not str(line.get_label()).startswith("_") for line in ax.get_lines())
    place = index % len(look.COLOURS)
    colour, ink = (look.GREY, look.GREY) if grey else (look.COLOURS[place], look.INKS[place])
    style = "-" if grey else look.STYLES[(place + index // len(look.COLOURS)) % len(look.STYLES)]
    marker = "o" if np.isfinite(y).sum() <= 15 else ""
    ax.plot(x, y, color=colour, linestyle=style, linewidth=2, marker=marker, markersize=4.5, label=name)
    points = look.finite(x, y)
    if len(points):
        beside = ax.get_yaxis_transform() + ScaledTranslation(10 / 72, 0, ax.figure.dpi_scale_trans)
        ax.annotate(
            textwrap.fill(name, 24),
            points[-1],
            xytext=(1, points[-1][1]),
            textcoords=beside,
            va="center",
            color=ink,
            fontsize=look.TEXT,
            arrowprops={
                "arrowstyle": "-",
                "color": look.TIE,
                "linestyle": (0, (1, 1.5)),
                "linewidth": 0.7,
                "shrinkA": 1,
                "shrinkB": 2,
                "relpos": (0, 0.5),
            },
            annotation_clip=False,
            gid=look.NAME,
        )
    return colour


def _name_below(ax: Axes, point: tuple[float, float], name: str, *, place: tuple[float, float]) -> None:
    """Marks one point and ties it to its name, which ends at `place` (shares of the plot)."""
    ax.plot(*point, "o", color=look.INK, markersize=8, markeredgecolor="white", label=name, zorder=5)
    tie = {"arrowstyle": "-", "color": look.INK, "linewidth": 0.8, "shrinkB": 5, "relpos": (1, 0.5)}
    text = ax.annotate(name, point, xytext=place, textcoords="axes fraction", ha="right", va="center", arrowprops=tie)
    text.set(color=look.INK, fontsize=look.TEXT, path_effects=_HALO)


def _mark(ax: Axes, x: float, y: float, *, text: str) -> None:
    """Marks one point; its text stands below, on the side that has room."""
    ax.plot(
        [x],
        [y],
        "o",
        color=look.INK,
        markersize=9,
        markeredgecolor="white",
        markeredgewidth=1.5,
        label="_point",
        zorder=5,
    )
    left = ax.transAxes.inverted().transform(ax.transData.transform((x, y)))[0] > 0.6
    ax.annotate(
        text,
        (x, y),
        xytext=(-9 if left else 9, -9),
        textcoords="offset points",
        ha="right" if left else "left",
        va="top",
        color=look.INK,
        fontsize=look.TEXT,
        weight="bold",
        path_effects=_HALO,
        zorder=6,
    )


def _log_axis(ax: Axes, which: Literal["x", "y"], values: Array, show: Show, pad: float = 0.08) -> tuple[float, float]:
    """Makes an axis logarithmic with human ticks, never so narrow that noise fills it; returns its limits."""
    low, high = math.log10(np.nanmin(values)), math.log10(np.nanmax(values))
    space = max(pad * (high - low), (1 - (high - low)) / 2)
    limits = (10 ** (low - space), 10 ** (high + space))
    ax.set(**{f"{which}scale": "log", f"{which}lim": limits})
    axis = ax.xaxis if which == "x" else ax.yaxis
    axis.set_major_locator(look.LogTicks(axis, show))
    axis.set_minor_locator(FixedLocator([]))
    _write(ax, which, show)
    return limits


def _share_axis(ax: Axes, which: Literal["x", "y"], lowest: float = 0.0) -> None:
    ax.set(**{f"{which}lim": (math.floor(10 * lowest) / 10, 1.02)})
    _linear_axis(ax, which, fmt.ratio)


def _linear_axis(ax: Axes, which: Literal["x", "y"], show: Show) -> None:
    axis = ax.xaxis if which == "x" else ax.yaxis
    axis.set_major_locator(look.LinearTicks(axis, show))
    _write(ax, which, show)


def _write(ax: Axes, which: Literal["x", "y"], show: Show) -> None:
    axis = ax.xaxis if which == "x" else ax.yaxis
    axis.set_major_formatter(FuncFormatter(lambda value, _: fmt.trimmed(show(value))))


def _ends(values: Array, intervals: Sequence[Interval | None] | None, *, log: bool) -> Array:
    """Returns low and high of each value, both the value itself where it has no interval."""
    if intervals is not None and len(intervals) != len(values):
        raise InvalidValueError(f"intervals must hold {len(values)}, one for each value, got {len(intervals)}")
    ranges = zip(values, intervals or [None] * len(values), strict=True)
    ends = [(value, value) if one is None else (one.low, one.high) for value, one in ranges]
    low, high = (_column(column, "intervals", log=log) for column in zip(*ends, strict=True))
    return np.column_stack((low, high))


def _columns(series: Series, name: str, length: int | None = None, *, log: bool = False) -> dict[str, Array]:
    """Returns the columns as arrays, all looked at before any is drawn."""
    if not series:
        raise InvalidValueError(f"{name}(={{}}) must hold at least one column")
    return {key: _column(values, f"{name}[{key!r}]", length, log=log) for key, values in series.items()}


def _places(values: npt.ArrayLike, name: str, *, log: bool = False) -> Array:
    column = _column(values, name, log=log)
    if np.isnan(column).any():
        raise InvalidValueError(f"{name}[{int(np.argmax(np.isnan(column)))}] is missing: every point needs its place")
    return column


def _column(values: npt.ArrayLike, name: str, length: int | None = None, *, log: bool = False) -> Array:
    """Returns numbers as an array, None as NaN; raises InvalidValueError for what the axis cannot show."""
    try:
        column = np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise InvalidValueError(f"{name}(={values!r:.80}) must be numbers in a list, array or column") from error
    if column.ndim != 1 or not len(column) or (length is not None and len(column) != length):
        wanted = "not be empty" if length is None else f"hold {length}, one for each place on the other axis"
        raise InvalidValueError(f"{name} of shape {column.shape} must be one column and {wanted}")
    refused = np.isinf(column) | (column <= 0 if log else False)
    if refused.any():
        wanted = "finite and > 0 on a log axis" if log else "finite"
        raise InvalidValueError(f"{name}[{int(np.argmax(refused))}](={column[refused][0]}) must be {wanted}")
    if log and np.isnan(column).all():
        raise InvalidValueError(f"{name} must hold one measured value at least, all {len(column)} are missing")
    return column


def _percentile(share: float) -> str:
    """Returns a percentile with one decimal more for each nine."""
    return fmt.ratio(share, max(0, math.ceil(-math.log10(max(1 - share, 1e-12))) - 1))


def _nines(shares: npt.ArrayLike) -> Array:
    return np.asarray(-np.log10(1 - np.clip(shares, 0, 1 - 1e-12)))
