"""What every figure looks like before it shows anything: size, colours, titles, ticks, names of lines, its bytes."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis, YAxis
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure, SubFigure
from matplotlib.font_manager import FontProperties
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.text import Annotation, Text
from matplotlib.textpath import text_to_path
from matplotlib.ticker import Locator, MaxNLocator
from PIL import Image

from skilllab import format as fmt
from skilllab.errors import InvalidValueError
from skilllab.stats import Array

Show = Callable[[float], str]

# Okabe and Ito (2008), the four that have 3:1 on white; names are written in darker shades of them (4.5:1).
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7")
INKS = ("#00639B", "#B34F00", "#00714F", "#A1487A")
STYLES: tuple[Any, ...] = ("-", (0, (5, 1.5)), (0, (7, 1.5, 1.5, 1.5)), (0, (1.5, 1.2)))
INK, GREY, TIE, GRID = "#222222", "#6B6B6B", "#ABABAB", "#E4E4E4"
TEXT, TITLE = 11, 13  # points
NAME, VALUE, FINDING = "line-name", "bar-value", "finding"  # the gids of names of lines, values of bars, titles
_DPI, _CSS = 200, 100  # pixels an inch: drawn, and shown in a notebook (twice as sharp as it is large)


def figure(width: float = 8.0, height: float = 4.5) -> Figure:
    """Returns an empty figure of `width` by `height` inches (100 pixels each on the page), which a notebook shows."""
    if not (width > 0 and height > 0):
        raise InvalidValueError(f"width(={width}) and height(={height}) must be > 0 inches")
    made = _Figure(figsize=(width, height), dpi=_DPI, facecolor="white", layout=Layout())
    FigureCanvasAgg(made)
    return made


def png(fig: Figure) -> bytes:
    """Returns the figure as PNG of 256 colours (a third of the bytes), without a word about who or what drew it."""
    raw, buffer = io.BytesIO(), io.BytesIO()
    fig.savefig(raw, format="png", facecolor="white", pil_kwargs={"compress_level": 1})
    drawn = Image.open(raw).convert("RGB")
    drawn.quantize(256, method=Image.Quantize.FASTOCTREE, dither=Image.Dither.NONE).save(buffer, format="png")
    return buffer.getvalue()


def summary(ax: Axes) -> str:
    """Returns what a plot shows, in words: title, axes, and the ends of every line or the value of every bar."""
    parts = [_unwrapped(ax.get_title("left")), " over ".join(filter(None, (ax.get_ylabel(), ax.get_xlabel())))]
    write_x, write_y = ax.xaxis.get_major_formatter(), ax.yaxis.get_major_formatter()
    for line in ax.get_lines():
        points = finite(line.get_xdata(), line.get_ydata())
        if str(line.get_label()).startswith("_") or not len(points):
            continue
        ends = [f"{write_y(y, None)} at {write_x(x, None)}" for x, y in (points[0], points[-1])]
        parts.append(f"{line.get_label()}: {' to '.join(dict.fromkeys(ends))}")
    values = [text for text in ax.texts if text.get_gid() == VALUE]
    names = [_unwrapped(label.get_text()) for label in ax.get_yticklabels()] if values else []
    parts += [f"{name}: {value.get_text()}" for name, value in zip(names, values, strict=False)]
    return ". ".join(part.rstrip(".") for part in parts if part) + "."


class _Shown:
    """What a notebook shows for a figure, or for a plot that is the value of a cell: one PNG and its text."""

    def _repr_mimebundle_(
        self, include: object = None, exclude: object = None
    ) -> tuple[dict[str, str], dict[str, Any]]:
        fig = self if isinstance(self, Figure) else getattr(self, "figure")  # noqa: B009
        image = base64.b64encode(png(fig)).decode("ascii")
        text = "\n".join(summary(ax) for ax in fig.axes)
        width = round(fig.get_figwidth() * _CSS)
        return {"image/png": image, "text/plain": text}, {"image/png": {"width": width, "alt": text}}


class _Figure(_Shown, Figure):
    pass


class PlotAxes(_Shown, Axes):
    pass


class Layout(ConstrainedLayoutEngine):
    """Constrained layout that also wraps titles to the room there is and spreads the names of lines."""

    def __init__(self) -> None:
        super().__init__(w_pad=0.1, h_pad=0.1)

    def execute(self, fig: Figure) -> None:
        settle_titles(fig)
        super().execute(fig)
        if settle_titles(fig):
            super().execute(fig)
            settle_titles(fig)
        for ax in fig.axes:
            spread_names(ax)


def dress(ax: Axes, title: str, x_label: str, y_label: str) -> Axes:
    """Dresses a plot: title, labels, light grid, no box."""
    ax.set_title(title, loc="left", fontsize=TITLE, fontweight="bold", color=INK, pad=14, gid=FINDING)
    ax.set_xlabel(x_label, fontsize=TEXT, color=INK)
    ax.set_ylabel(y_label, fontsize=TEXT, color=INK)
    ax.tick_params(labelsize=TEXT, labelcolor=INK, color=GREY, length=0)
    ax.set_facecolor("white")
    ax.grid(visible=True, color=GRID, linewidth=0.8)
    ax.set_axisbelow(True)
    ax.spines[["top", "right"]].set_visible(False)
    ax.spines[["left", "bottom"]].set_color(GREY)
    if not isinstance(ax.figure.get_layout_engine(), Layout):
        settle_titles(ax.figure)
        spread_names(ax)
    return ax


class LogTicks(Locator):
    """1-2-5 steps, decades, or every other decade: the finest that fits; durations count in 60 from a minute on."""

    def __init__(self, axis: Axis, show: Show) -> None:
        self._of, self._show = axis, show

    def __call__(self) -> list[float]:
        return self.tick_values(*sorted(self._of.get_view_interval()))

    def tick_values(self, vmin: float, vmax: float) -> list[float]:
        first, last = math.floor(math.log10(vmin)), math.ceil(math.log10(vmax))
        ticks: list[float] = []
        for steps, stride in (((1, 2, 5), 1), ((1,), 1), ((1,), 2), ((1,), 3), ((1,), 6)):
            found = [step * 10.0**power for power in range(first, last + 1) if power % stride == 0 for step in steps]
            if self._show is fmt.duration:
                minutes = (60, 120, 300, 600, 1800, 3600, 7200, 18000) if len(steps) > 1 else (60, 600, 3600)
                found = [tick for tick in found if tick < 60 or tick > 18000] + list(minutes)
            ticks = [tick for tick in sorted(found) if vmin * 0.999 <= tick <= vmax * 1.001]
            if len(ticks) <= _room(self._of, self._show, ticks):
                break
        return ticks


class LinearTicks(MaxNLocator):
    """1-2-5 steps as many as fit; sizes count in the binary unit that fits the axis."""

    def __init__(self, axis: Axis, show: Show) -> None:
        super().__init__(steps=[1, 2, 5, 10])
        self._of, self._show = axis, show

    def tick_values(self, vmin: float, vmax: float) -> list[float]:
        top = max(abs(vmin), abs(vmax), 1e-300)
        unit = 1024.0 ** max(0, math.floor(math.log(top, 1024))) if self._show is fmt.size else 1.0
        self.set_params(nbins=max(1, min(6, int(_room(self._of, self._show, [0.7 * top])))))
        ticks = [tick * unit for tick in super().tick_values(vmin / unit, vmax / unit)]
        slack = 1e-9 * (vmax - vmin)
        return [tick for tick in ticks if vmin - slack <= tick <= vmax + slack]


def _room(axis: Axis, show: Show, ticks: Sequence[float]) -> float:
    """Returns how many ticks the axis has room for."""
    size = TEXT * axis.axes.figure.dpi / 72
    if isinstance(axis, YAxis):
        return min(10, axis.axes.bbox.height / (2 * size))
    longest = max((len(fmt.trimmed(show(tick))) for tick in ticks), default=1)
    return axis.axes.bbox.width / ((0.62 * longest + 1.5) * size)


def settle_titles(fig: Figure | SubFigure) -> bool:
    """Aligns titles with the left edge of their plot's tick labels and wraps them; returns whether a line changed."""
    found = [(title, ax, _left(ax)) for ax in fig.axes if (title := _title(ax)) is not None]
    changed = False
    for title, ax, left in found:
        beside = [edge for _, other, edge in found if edge > left and _same_row(ax, other)]
        room = min(beside, default=fig.bbox.width) - left - 0.2 * fig.dpi
        text = _balanced(title.get_text(), 72 * room / fig.dpi, TITLE)
        changed |= text != title.get_text()
        title.set_text(text)
        title.set_x((left - ax.bbox.x0) / ax.bbox.width)
    return changed


def _left(ax: Axes) -> float:
    box = ax.yaxis.get_tightbbox(None)
    return float(ax.bbox.x0 if box is None else min(box.x0, ax.bbox.x0))


def _same_row(ax: Axes, other: Axes) -> bool:
    return bool(ax.bbox.y0 < other.bbox.y1 and other.bbox.y0 < ax.bbox.y1)


def _balanced(text: str, room: float, size: float) -> str:
    """Breaks a text into the fewest lines at most `room` points wide, all about as long: no word stands alone."""
    lines = _wrapped(text, room, size)
    for narrower in np.linspace(room, room / 2, 12):
        tried = _wrapped(text, narrower, size)
        if len(tried) > len(lines):
            break
        lines = tried
    return "\n".join(lines)


def _wrapped(text: str, room: float, size: float) -> list[str]:
    lines: list[str] = []
    for word in text.split():
        longer = f"{lines[-1]} {word}" if lines else word
        if lines and _width(longer, size) <= room:
            lines[-1] = longer
        else:
            lines.append(word)
    return lines


def spread_names(ax: Axes) -> None:
    """Moves the names of lines up and down, as little as possible, until none overlaps."""
    names = [text for text in ax.texts if isinstance(text, Annotation) and text.get_gid() == NAME]
    if not names:
        return
    wanted = ax.transData.transform([text.xy for text in names])[:, 1]
    points = TEXT * 1.3 * ax.figure.dpi / 72
    heights = [points * (1 + text.get_text().count("\n")) for text in names]
    placed = _apart(wanted, heights, ax.bbox.y0, ax.bbox.y1)
    for text, y in zip(names, placed, strict=True):
        text.xyann = (1, ax.transData.inverted().transform((0, y))[1])


def _apart(wanted: Array, heights: Sequence[float], low: float, high: float) -> Array:
    """Returns the places nearest to the wanted ones (least squares) where boxes of these heights do not overlap.

    Less the heights below it, a place may not lie below the one before: pooling neighbours that do gives the nearest
    such places (Ayer and others, 1955). Boxes that do not fit between `low` and `high` stand out on both sides.
    """
    order = np.lexsort((-np.arange(len(wanted)), wanted))
    tall = np.asarray(heights)[order]
    below = np.concatenate(([0.0], np.cumsum((tall[:-1] + tall[1:]) / 2)))
    pools: list[tuple[float, int]] = []
    for place in wanted[order] - below:
        mean, count = float(place), 1
        while pools and pools[-1][0] >= mean:
            other, size = pools.pop()
            mean, count = (mean * count + other * size) / (count + size), count + size
        pools.append((mean, count))
    first, last = low + tall[0] / 2, high - tall[-1] / 2 - below[-1]
    if first > last:
        first = last = (first + last) / 2
    placed = np.empty(len(wanted))
    placed[order] = np.clip(np.repeat([mean for mean, _ in pools], [count for _, count in pools]), first, last) + below
    return placed


def _title(ax: Axes) -> Text | None:
    return next((text for text in ax.get_children() if isinstance(text, Text) and text.get_gid() == FINDING), None)


def _unwrapped(text: str) -> str:
    return " ".join(text.split())


@lru_cache(maxsize=1024)
def _width(text: str, size: float) -> float:
    """Returns how many points wide a bold text is, whatever will draw it."""
    return float(text_to_path.get_text_width_height_descent(text, FontProperties(weight="bold", size=size), False)[0])


def finite(x: object, y: object) -> Array:
    points = np.column_stack((np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)))
    return points[np.isfinite(points).all(axis=1)]
