"""BatchingPanel: what batch size and wait do to throughput and latency, measured on request against a real API server."""

from __future__ import annotations

import math
from collections.abc import Awaitable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

from skilllab import format as fmt
from skilllab import plots
from skilllab.experiments.batching import BatchSizes, api_users, batch_sizes
from skilllab.experiments.batching.rounds import Progress, middle
from skilllab.panels.batching_picture import BatchingDrawing
from skilllab.panels.controls import Control, named, steps
from skilllab.panels.measuring import MeasuringPanel
from skilllab.panels.picture import Picture

SIZES = (1, 3, 10, 20, 40)
"""Items a batch that a run measures, and that the slider shows."""

SERVICE = 0.012
"""Seconds that the server takes for a batch of one; each further item adds a twentieth of it."""

WORKERS = 4
"""Batches that the server serves at once."""

_WAITS = (0.0, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1)  # s
_LOADS = (0.1, 0.25, 0.5, 0.75, 0.9)
_AT_ONCE = (1, 2, 4, 8)


@dataclass(frozen=True, slots=True)
class Setting:
    """What a run measures all sizes with.

    wait: seconds that a batch waits for more items. load: the offered rate as a share of what the largest batches get
    done. at_once: batches under way at once.
    """

    wait: float = 0.01
    load: float = 0.25
    at_once: int = 4


async def measured(setting: Setting, *, rounds: int = 2, on_progress: Progress | None = None) -> BatchSizes:
    """Measures every size against an API server in a process of its own, some ten seconds long."""
    return await batch_sizes(
        api_users(SERVICE, WORKERS, setting.at_once),
        SIZES,
        [setting.wait],
        load=setting.load,
        reference=SIZES[-1],
        seconds=0.25,
        rounds=rounds,
        on_progress=on_progress,
    )


class Measure(Protocol):
    """Measures a setting and tells how far it is, as `measured` does."""

    def __call__(self, setting: Setting, *, on_progress: Progress) -> Awaitable[BatchSizes]: ...


class BatchingPanel(MeasuringPanel[Setting, BatchSizes]):
    """Throughput with its knee, and p95 at an offered rate, against the size of a batch.

    first: what was measured with `Setting()`, if it was. measure: what Run does. One run measures every size, so moving
    the size only moves the mark; another wait, rate or number at once takes another run, and ends one under way. Until
    then the last measurement stands there, pale. What was measured stays known.

    Controls: .size, .wait, .load, .at_once; and .run, the button that starts and stops.
    """

    _starting = "starting a server …"

    def __init__(self, first: BatchSizes | None = None, *, measure: Measure = measured) -> None:
        self._prepare(measure)
        self._shown: Setting | None = None
        base = Setting()
        if first is not None:
            self._measured[base] = first
        rates = named(_LOADS, lambda share: f"{fmt.ratio(share, 0)} of the most")
        self.size = steps("Batch size", named(SIZES, fmt.count), 10, "How many items go together at most")
        self.wait = steps("Wait", named(_WAITS, _time), base.wait, "How long a batch waits for more items")
        self.load = steps(
            "Rate", rates, base.load, "How many items come, as a share of what the largest batches get done"
        )
        self.at_once = steps(
            "At once", named(_AT_ONCE, fmt.count), base.at_once, "How many batches are under way at most"
        )
        controls: list[Control[Any]] = [self.size, self.wait, self.load, self.at_once]
        fig = plots.figure(6.0, 5.6)
        self._drawing = BatchingDrawing(fig, SIZES)
        super().__init__(controls, Picture(fig, [self._drawing.artists]), _note())
        self._add_run_button("Measure all sizes with a real server, or stop that")

    def update(self) -> Iterator[str]:
        """Draws what was measured with these values, or else the last measurement, pale."""
        setting, size = self._chosen(), self.size.value
        self._may_draw(setting)
        if setting in self._measured:
            self._shown = setting
        found = None if self._shown is None else self._measured[self._shown]
        self._drawing.show(found, size, _described(setting), pale=setting != self._shown)
        self._picture.draw(1)
        yield _words(setting, size, self._measured.get(setting))

    def _chosen(self) -> Setting:
        return Setting(self.wait.value, self.load.value, self.at_once.value)

    # running

    def _on_progress(self, done: int, total: int) -> None:
        self._show_progress("Stop", f"{done} of {total} runs", done / total)


def _words(setting: Setting, size: int, found: BatchSizes | None) -> str:
    """Returns the summary: throughput, knee, and what a caller waits; or what Run would measure."""
    if found is None:
        return f"Not measured yet: batches of at most {size}, {_described(setting)}. Press Run to measure every size."
    cell = found.cells.get((size, setting.wait))
    bursts, at = len(found.seconds[size]), found.costs.knee
    knee = f"the knee is at {fmt.number(at, 2)} items" if math.isfinite(at) else "there is no knee"
    done = (
        f"Measured, median of {_count(bursts, 'burst')}: with {_described(setting)}, batches of {size} get "
        f"{fmt.rate(round(found.throughput(size)))} done; {knee}."
    )
    offered = fmt.rate(round(found.rate))
    if cell is None or not math.isfinite(middle(cell.p95)):
        return f"{done} They cannot keep up with {offered}."
    return (
        f"{done} At {offered} p95 is {fmt.duration(middle(cell.p95))} from the intended start to the answer; "
        f"{fmt.duration(middle(cell.waited))} of it (median) is the wait for a batch of {fmt.number(middle(cell.size), 2)}."
    )


def _described(setting: Setting) -> str:
    rate = fmt.ratio(setting.load, 0)
    return f"wait {_time(setting.wait)}, rate {rate}, {setting.at_once} at once"


def _note() -> str:
    return (
        f"Users of an API with a batch endpoint, {WORKERS} workers, {_time(SERVICE)} for a batch of one and "
        f"{_time(SERVICE / 20)} for each further item. Items come at random times (Poisson, seed 0). "
        "A rate is a share of what batches of "
        f"{SIZES[-1]} get done."
    )


def _count(number: int, what: str) -> str:
    return f"{fmt.count(number)} {what}{'' if number == 1 else 's'}"


def _time(seconds: float) -> str:
    return fmt.trimmed(fmt.duration(seconds))
