"""Batch size and wait against throughput and latency, measured on real work."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from skilllab import format as fmt
from skilllab.engine.batching import RequestBatcher
from skilllab.engine.bulk import require_seconds
from skilllab.errors import InvalidValueError
from skilllab.experiments.batching.knee import Costs, costs
from skilllab.experiments.batching.offered import Offered, offer, poisson
from skilllab.experiments.batching.rounds import Progress, counted, ends, middle, middle_interval, positive, turns
from skilllab.experiments.batching.workloads import BatchFunction, Workload, sqlite_inserts
from skilllab.settings import BATCH_SIZE
from skilllab.stats import Array, quantile, quantiles

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

_BATCHES = 10  # of a burst: enough for a rate, few enough to take turns often
_EACH = 3  # batches for each of those at once, likewise
_BURSTS = 3  # for each round: they are short, and what a disk takes for a commit varies
_AT_ONCE = 8  # batches at once that a burst keeps busy where any number may be
_PATIENCE = 0.5  # s beyond the wait after which a cell has not kept up


class Cell(NamedTuple):
    """One size and one wait at the offered load, a number a round: NaN where the cell did not keep up.

    p50, p95: seconds from the intended start to the answer. waited: seconds for the batch to go, median. size: items a
    batch. lag: seconds that the generator was late, p95.
    """

    p50: Array
    p95: Array
    waited: Array
    size: Array
    lag: Array


@dataclass(frozen=True, slots=True)
class BatchSizes:
    """What batches of each size take, and what callers wait at one offered load.

    seconds: by size, seconds an item of a burst, one number a round. rate: items offered a second. cells: by size and
    wait; a size whose bursts are slower than the offered rate has none: its queue would grow as long as the run.
    """

    workload: str
    item: str
    rate: float
    seconds: Mapping[int, Array]
    cells: Mapping[tuple[int, float], Cell]

    @property
    def sizes(self) -> tuple[int, ...]:
        """The sizes tried."""
        return tuple(self.seconds)

    @property
    def waits(self) -> tuple[float, ...]:
        """The waits tried, in seconds."""
        return tuple(dict.fromkeys(wait for _, wait in self.cells))

    def throughput(self, size: int) -> float:
        """Returns the items a second that batches of a size get done when there is always enough to do."""
        return 1 / middle(self.seconds[size])

    @property
    def best(self) -> int:
        """The size with the highest throughput."""
        return max(self.sizes, key=self.throughput)

    @property
    def costs(self) -> Costs:
        """What a batch costs, what each item adds, and the knee: the size at which the two are equal."""
        return costs(self.seconds)

    def frame(self) -> pd.DataFrame:
        """Returns one row for each size and wait: medians over the rounds in seconds, and their intervals (NaN: none).

        throughput: items a second of bursts of that size. load: the offered rate as a share of it. The rest as in Cell,
        NaN where the size could not keep up.
        """
        import pandas as pd

        rows = []
        for size in self.sizes:
            for wait in self.waits:
                cell = self.cells.get((size, wait))
                columns = [np.array([np.nan])] * len(Cell._fields) if cell is None else list(cell)
                p50, p95, waited, mean_size, lag = map(middle, columns)
                spread = [end for column in columns[:2] for end in ends(middle_interval(column))]
                done = self.throughput(size)
                rows.append((size, wait, done, self.rate / done, p50, p95, *spread, waited, mean_size, lag))
        names = ["size", "wait", "throughput", "load", "p50", "p95", "p50_low", "p50_high", "p95_low", "p95_high"]
        return pd.DataFrame(rows, columns=[*names, "waited", "mean_size", "lag"])

    def plot(self, ax: Axes | None = None) -> Axes:
        """Draws the time an item takes against the size of its batch, and the fitted costs."""
        from skilllab import plots

        batch, item, *_ = self.costs
        lines = {
            "measured": [middle(self.seconds[size]) for size in self.sizes],
            "batch cost / size + item cost": [batch / size + item for size in self.sizes],
        }
        gain = fmt.times(self.throughput(self.best) / self.throughput(self.sizes[0]), 2)
        return plots.growth(
            self.sizes,
            lines,
            intervals={"measured": [middle_interval(self.seconds[size]) for size in self.sizes]},
            title=f"Batches of {self.best} get {gain} as much done as batches of {self.sizes[0]}; {self._knee_text()}",
            x_label="Items a batch",
            y_label=f"Time an {self.item}" if self.item[0] in "aei" else f"Time a {self.item}",
            ax=ax,
        )

    def plot_latency(self, ax: Axes | None = None) -> Axes:
        """Draws p95 from the intended start to the answer against the size, one line for each wait."""
        from skilllab import plots

        lines, bands = {}, {}
        for wait in self.waits:
            name = _wait_name(wait)
            cells = [self.cells.get((size, wait)) for size in self.sizes]
            lines[name] = [math.nan if cell is None else middle(cell.p95) for cell in cells]
            bands[name] = [None if cell is None else middle_interval(cell.p95) for cell in cells]
        return plots.growth(
            self.sizes,
            lines,
            intervals=bands,
            title=f"At {fmt.rate(round(self.rate))} offered: {self._wait_text()}",
            x_label="Items a batch, at most",
            y_label="p95 from the intended start",
            ax=ax,
        )

    def __str__(self) -> str:
        batch, item, *_ = self.costs
        return (
            f"{self.workload}: a batch costs {fmt.duration(batch)} and each {self.item} {fmt.duration(item)} more; "
            f"{self._knee_text()}; throughput {fmt.rate(round(self.throughput(self.sizes[0])))} with batches of "
            f"{self.sizes[0]}, {fmt.rate(round(self.throughput(self.best)))} with batches of {self.best}. "
            f"At {fmt.rate(round(self.rate))} offered {self._wait_text()}. {self._overloaded_text()}"
        ).strip()

    def _knee_text(self) -> str:
        *_, knee, interval = self.costs
        if not math.isfinite(knee):
            return "no knee: items cost next to nothing" if knee > 0 else "one size has no knee"
        spread = "" if interval is None else f" ({fmt.interval(interval.low, interval.high, _rounded)})"
        return f"the knee is at {_rounded(knee)} items{spread}{', beyond the sizes tried' * (knee > self.sizes[-1])}"

    def _wait_text(self) -> str:
        """Says what the longest wait does to p95 at the largest size, which seldom fills before."""
        if not self.cells:
            return "no size could keep up"
        first, last = self.waits[0], self.waits[-1]
        pairs = [(size, self.p95(size, first), self.p95(size, last)) for size in self.sizes]
        measured = [pair for pair in pairs if math.isfinite(pair[1]) and math.isfinite(pair[2])]
        if not measured or first == last:
            return "no two waits can be compared"
        size, short, long = measured[-1]
        return (
            f"p95 is {fmt.duration(short)} with {_wait_name(first)} and {fmt.duration(long)} with {_wait_name(last)} "
            f"(batches of at most {size})"
        )

    def _overloaded_text(self) -> str:
        late = [size for size in self.sizes if all(not math.isfinite(self.p95(size, wait)) for wait in self.waits)]
        return f"Batches of {', '.join(map(str, late))} cannot keep up with it." if late and self.cells else ""

    def p95(self, size: int, wait: float) -> float:
        """Returns p95 in seconds, median over the rounds; NaN where the size could not keep up."""
        cell = self.cells.get((size, wait))
        return math.nan if cell is None else middle(cell.p95)


def _wait_name(wait: float) -> str:
    return f"a wait of {fmt.trimmed(fmt.duration(wait))}" if wait else "no wait"


def _rounded(value: float | None) -> str:
    return fmt.number(value, 2)


async def batch_sizes(
    workload: Workload | None = None,
    sizes: Sequence[int] = (1, 3, 10, 30, 100, 300),
    waits: Sequence[float] = (0.0, 0.01, 0.1),
    *,
    load: float = 0.5,
    reference: int = BATCH_SIZE,
    seconds: float = 0.4,
    rounds: int = 6,
    seed: int = 0,
    on_progress: Progress | None = None,
    clock: Callable[[], float] = time.perf_counter,
) -> BatchSizes:
    """Measures bursts in batches of each size, then latency at an offered load for each size and wait, all in turns.

    workload: SQLite inserts unless given. waits: seconds, ascending. load: the offered rate as a share of what bursts in
    batches of size `reference` get done. seconds: of arrivals in each run, Poisson and seeded; all cells of a round get
    the same. rounds: of the cells; the bursts take three times as many.
    Raises InvalidValueError for values without a meaning, and what the workload raises.
    """
    workload = workload or sqlite_inserts()
    sizes = counted("sizes", sizes)
    for wait in waits:
        require_seconds("waits", wait)
    if not waits or list(waits) != sorted(set(waits)):
        raise InvalidValueError(f"waits={waits!r} must be ascending seconds, at least one")
    positive(load=load, seconds=seconds)
    counted("rounds", [rounds])
    if load >= 1:
        raise InvalidValueError(f"load={load!r} must be below 1: a queue that is offered more grows without end")
    if reference not in sizes:
        raise InvalidValueError(f"reference={reference!r} must be one of the sizes {sizes}")
    async with workload.open() as work:
        bench = _Bench(work, workload.at_once, clock)
        bursts = await turns(
            {size: partial(bench.burst, size) for size in sizes}, _BURSTS * rounds, seed=seed, on_progress=on_progress
        )
        taken = {size: np.array(values) for size, values in bursts.items()}
        rate = load / middle(taken[reference])
        fast_enough = [size for size in sizes if middle(taken[size]) < 1 / rate]
        arms = {
            (size, wait): partial(bench.offered, size, wait, seconds, rate, seed)
            for size in fast_enough
            for wait in waits
        }
        runs = await turns(arms, rounds, seed=seed, on_progress=on_progress)
    cells = {key: Cell(*np.array(values).T) for key, values in runs.items()}
    return BatchSizes(workload.name, workload.item, rate, taken, cells)


class _Bench:
    """Runs one size, and one wait, once."""

    def __init__(self, work: BatchFunction, at_once: int | None, clock: Callable[[], float]) -> None:
        self._work = work
        self._at_once = at_once
        self._clock = clock

    async def burst(self, size: int, turn: int) -> float:
        """Returns the seconds an item takes when there are always enough of them for full batches."""
        items = size * max(_BATCHES, _EACH * min(self._at_once or _AT_ONCE, _AT_ONCE))
        async with self._batcher(size, 0) as batcher:
            begin = self._clock()
            await asyncio.gather(*map(batcher.submit, range(items)))
            return (self._clock() - begin) / items

    async def offered(
        self, size: int, wait: float, seconds: float, rate: float, seed: int, turn: int
    ) -> tuple[float, ...]:
        """Runs one cell; items come for `wait` longer, so that the last batches measured fill as all others do."""
        times = poisson(rate, seconds + wait, seed + turn)
        async with self._batcher(size, wait) as batcher:
            came = await offer(batcher.submit, times, patience=wait + _PATIENCE, clock=self._clock)
            mean_size = batcher.statistics().mean_size
        return _summed(came, int(np.searchsorted(times, seconds)), mean_size)

    def _batcher(self, size: int, wait: float) -> RequestBatcher[int, Any]:
        return RequestBatcher(self._work, max_size=size, max_wait=wait, max_concurrent=self._at_once, clock=self._clock)


def _summed(came: Offered, measured: int, mean_size: float | None) -> tuple[float, ...]:
    latency, waited, lag = (column[:measured] for column in came)
    if not measured or np.isnan(latency).any():
        return (math.nan,) * len(Cell._fields)
    p50, p95 = quantiles(latency, [0.5, 0.95])
    return p50, p95, quantile(waited, 0.5), mean_size or math.nan, quantile(lag, 0.95)
