"""Self-comparisons: a function against itself, many times over, in the usual way and in a fair one."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.ticker import FuncFormatter

from skilllab import format as fmt
from skilllab.stats import Array, interleave, paired_bootstrap, quantile

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

USUAL = 0.05
"""The difference of two means from which the usual way speaks of one."""

_SHOWN = 1.0  # log2 of the ratio at which dots are drawn at the edge: half and twice as long


@dataclass(frozen=True)
class SelfComparisons:
    """How many times as long a function took as itself; `alarms` counts what each way called a difference.

    sequential: ratio of two means of calls, one row of calls after the other. interleaved: median ratio of as many calls
    in rounds. seconds: what one call takes. calls: of each side of a comparison.
    """

    sequential: Array
    interleaved: Array
    interleaved_alarms: int
    seconds: float
    calls: int
    smallest_difference: float = field(default=0.01)

    @property
    def sequential_alarms(self) -> int:
        """Means that are more than 5 % apart."""
        return int(np.sum(np.abs(np.log(self.sequential)) > np.log1p(USUAL)))

    @property
    def alarms(self) -> dict[str, int]:
        """False alarms of both ways."""
        return {"sequential": self.sequential_alarms, "interleaved": self.interleaved_alarms}

    @property
    def spread(self) -> dict[str, float]:
        """How far off nineteen of twenty comparisons are at most, as a share: p95 of the distance from 1."""
        both = {"sequential": self.sequential, "interleaved": self.interleaved}
        return {name: quantile(np.expm1(np.abs(np.log(ratios))), 0.95) for name, ratios in both.items()}

    @property
    def finding(self) -> str:
        """What it comes to, in one line."""
        n, (before, after) = fmt.count(len(self.sequential)), self.alarms.values()
        return f"One after the other {fmt.count(before)} of {n} self-comparisons are false alarms, interleaved {fmt.count(after)}"

    def frame(self) -> pd.DataFrame:
        """Returns one row a comparison: its ratio in each way."""
        import pandas as pd

        return pd.DataFrame({"sequential": self.sequential, "interleaved": self.interleaved})

    def plot(self, *, title: str | None = None) -> Figure:
        """Returns a figure: a dot for each comparison in the order in which they ran, both ways side by side."""
        from skilllab import plots

        fig = plots.figure(11, 4.4)
        left, right = fig.subplots(1, 2, sharey=True)
        spread, n = self.spread, len(self.sequential)
        titles = {
            "sequential": f"One after the other: {fmt.ratio(self.sequential_alarms / n, 0)} false alarms",
            "interleaved": f"Interleaved: 95 % within {fmt.ratio(spread['interleaved'])}",
        }
        _dots(left, self.sequential, USUAL, titles["sequential"], 1)
        _dots(right, self.interleaved, self.smallest_difference, titles["interleaved"], 0)
        left.set_ylabel("Time of the second ÷ time of the first")
        return fig

    def __str__(self) -> str:
        before, after = (fmt.ratio(share) for share in self.spread.values())
        return (
            f"{self.finding}. Nineteen of twenty ratios are within {before} of the truth one after the other, within {after} "
            f"interleaved. The function takes {fmt.duration(self.seconds)} and was called {fmt.count(self.calls)} times a side."
        )


def self_comparisons(
    function: Callable[[], object],
    comparisons: int = 200,
    *,
    calls: int = 100,
    seed: int = 0,
    timer: Callable[[], float] = time.perf_counter,
) -> SelfComparisons:
    """Compares a function with itself in two ways, which take turns so that both meet the same machine.

    Sequential: the mean of `calls` calls, then the mean of as many once more. Interleaved: as many calls each in rounds of
    two in random order, the median ratio with its interval, a difference only if all of it is beyond 1 %.
    """
    sequential, interleaved, alarms, seconds = [], [], 0, []
    for number in range(comparisons):
        first, second = _mean(function, calls, timer), _mean(function, calls, timer)
        sequential.append(second / first)
        seconds.append(first)
        times = interleave({"a": function, "b": function}, calls, inner=1, seed=seed + number, timer=timer)
        found = paired_bootstrap(times["a"], times["b"])
        interleaved.append(found.ratio)
        alarms += found.verdict in ("faster", "slower")
    return SelfComparisons(np.array(sequential), np.array(interleaved), alarms, quantile(seconds, 0.5), calls)


def _mean(function: Callable[[], object], calls: int, timer: Callable[[], float]) -> float:
    start = timer()
    for _ in range(calls):
        function()
    return (timer() - start) / calls


def _dots(ax: Axes, ratios: Array, margin: float, title: str, colour: int) -> None:
    from skilllab import look

    logs = np.clip(np.log2(ratios), -_SHOWN, _SHOWN)
    wide = np.log2(1 + margin)
    ax.axhspan(-wide, wide, color=look.GRID, linewidth=0, zorder=0)
    ax.plot(
        np.arange(1, len(logs) + 1), logs, "o", color=look.COLOURS[colour], markersize=4, alpha=0.7, label="comparisons"
    )
    ax.set_ylim(-1.08 * _SHOWN, 1.08 * _SHOWN)
    ticks = {0.5: "0.5×", 0.7: "0.7×", 1.0: "1×", 1.4: "1.4×", 2.0: "2×"}
    ax.set_yticks([float(np.log2(tick)) for tick in ticks])
    ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: fmt.trimmed(fmt.times(2**value, 2))))
    look.dress(ax, title, f"Comparison (grey: called no difference, {fmt.ratio(margin, 0)})", "")
