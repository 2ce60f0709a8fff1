"""The picture of a capacity: every probe's metric against its rate, the bound, and the interval."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, FuncFormatter

from skilllab import format as fmt
from skilllab import look, plots
from skilllab.conditions import Condition

if TYPE_CHECKING:
    from skilllab.experiments.loadtest.capacity import CapacityResult

_BAND = "#E9E9E9"
_DOTS = {True: ("holds", "o", 0, "left"), False: ("broken", "^", 1, "right")}
"""For probes that held and that did not: their name, dot and colour, and at which end of them the name stands: nobody is there."""


def draw(result: CapacityResult, condition: Condition, ax: Axes | None = None) -> Axes:
    """Draws the first condition's metric of every probe against its rate, on logarithmic axes where it is a duration."""
    if ax is None:
        ax = plots.figure().add_subplot(axes_class=look.PlotAxes)
    log = condition.kind == "duration"
    points = [(probe.rate, probe.values[0], probe.holds) for probe in result.probes if probe.phase != "alone"]
    seen = [value for _, value, _ in points if math.isfinite(value) and (value > 0 or not log)]
    top = max([*seen, condition.bound]) * 1.3
    for holds, (name, marker, place, side) in _DOTS.items():
        here = [(rate, min(value, top)) for rate, value, held in points if held is holds and not math.isnan(value)]
        if here:
            ax.plot(*zip(*here, strict=True), marker, color=look.COLOURS[place], markersize=6, alpha=0.8, label=name)
            ax.annotate(
                name,
                min(here) if side == "left" else max(here),
                xytext=(-4 if side == "left" else 4, 6),
                textcoords="offset points",
                ha=side,
                va="bottom",
                color=look.INKS[place],
                fontsize=look.TEXT,
            )
    if result.low > 0 and math.isfinite(result.high):
        ax.axvspan(result.low, result.high, color=_BAND, zorder=0.5)
    ax.axhline(condition.bound, color=look.GREY, linewidth=1, zorder=1)
    if log:
        ax.set_yscale("log")
        ax.yaxis.set_major_locator(look.LogTicks(ax.yaxis, condition.show))
    else:
        ax.yaxis.set_major_locator(look.LinearTicks(ax.yaxis, condition.show))
    ax.set_xscale("log")
    ax.xaxis.set_major_locator(look.LogTicks(ax.xaxis, fmt.number))
    for axis, show in ((ax.xaxis, fmt.number), (ax.yaxis, condition.show)):
        axis.set_minor_locator(FixedLocator([]))
        axis.set_major_formatter(FuncFormatter(lambda value, _, show=show: fmt.trimmed(show(value))))
    return look.dress(ax, result.finding(), "Arrival rate (1/s)", f"{condition.metric} of a probe")
