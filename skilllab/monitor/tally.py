"""Tally: what is known of one skill, in a few KiB however often it ran."""

from __future__ import annotations

from collections import Counter
from struct import Struct

import numpy as np

from skilllab.histogram import Histogram
from skilllab.monitor.buckets import Buckets, histogram, numbers_of

METRICS = ("duration", "queue_time", "cpu_time", "memory_used")
"""What is measured of an execution, in s and bytes, in the order of a row's last columns."""

SUCCEEDED, CACHED, FAILED = 0, 1, 2
"""Outcomes, by their places in `outcomes`."""

SLOTS = 6
"""Slots of the sliding window: with the one under way it covers the last 5/6 to 6/6 of its length."""

WHOLE_SIZE, SLOT_SIZE = 8192, 640
"""Bytes of a metric's buckets, over the whole run (16 octaves of the full precision) and in a slot (5 at a quarter)."""

MOST_KINDS = 24
"""Kinds of errors of a skill that are told apart; further ones are "other"."""

row = Struct(f"{len(METRICS)}f")
"""A row of one execution: its metrics, NaN for what was not measured."""

FULL = 512 * row.size
"""Bytes of rows that are put aside: 8 KiB, so that folding costs little each."""

_NEVER = -(2**62)  # no slot


class Slot:
    """One slot of the window: how many executions ended how, and the buckets of each metric."""

    __slots__ = ("buckets", "errors", "number", "outcomes")

    def __init__(self, number: int) -> None:
        self.number = number
        self.outcomes = [0, 0, 0]
        self.errors: dict[str, int] | None = None
        self.buckets = tuple(Buckets() for _ in METRICS)


class Tally:
    """The executions of one skill: rows put aside in `pending`, all of one slot, and what they were folded into.

    slot: the number of that slot of the window. outcomes: how many executions succeeded, were cached, failed. errors: how
    many failed, by kind. running, peak: executions under way, now and at most. blocked, longest_block, where: steps that
    held up the event loop. opened: how often its circuit breaker opened.
    """

    __slots__ = (
        "_highs",
        "_lows",
        "_totals",
        "_whole",
        "_window",
        "blocked",
        "errors",
        "layer",
        "longest_block",
        "opened",
        "outcomes",
        "peak",
        "pending",
        "running",
        "slot",
        "where",
    )

    def __init__(self) -> None:
        self.slot = _NEVER
        self.layer: int | None = None
        self.pending = bytearray()
        self.errors: Counter[str] = Counter()
        self.outcomes = [0, 0, 0]
        self.running = self.peak = self.blocked = self.opened = 0
        self.longest_block, self.where = 0.0, ""
        self._whole = tuple(Buckets() for _ in METRICS)
        self._window: list[Slot | None] = [None] * SLOTS
        self._totals = np.zeros(len(METRICS))
        self._lows, self._highs = np.full(len(METRICS), np.inf), np.zeros(len(METRICS))

    def turn(self, slot: int, layer: int | None) -> None:
        """Makes what is put aside from now on that of another slot."""
        self.fold()
        self.slot = slot
        self.layer = layer or self.layer

    def cached(self) -> None:
        """Counts an answer without a run."""
        self.outcomes[CACHED] += 1
        self._part().outcomes[CACHED] += 1

    def failed(self, kind: str) -> None:
        """Counts an error of that kind, and that the next row is of a failure."""
        kind = kind if kind in self.errors or len(self.errors) < MOST_KINDS else "other"
        part = self._part()
        for outcomes in (self.outcomes, part.outcomes):
            outcomes[FAILED] += 1
            outcomes[SUCCEEDED] -= 1  # as which its row counts
        self.errors[kind] += 1
        if part.errors is None:
            part.errors = {}
        part.errors[kind] = part.errors.get(kind, 0) + 1

    def fold(self) -> None:
        """Counts the rows that were put aside."""
        if not self.pending:
            return
        rows = np.frombuffer(bytes(self.pending), dtype=np.float32).reshape(-1, len(METRICS))
        self.pending.clear()
        values = np.ascontiguousarray(rows.T)
        part = self._part()
        self.outcomes[SUCCEEDED] += len(rows)
        part.outcomes[SUCCEEDED] += len(rows)
        numbers = numbers_of(values)
        measured = values == values
        counts = measured.sum(axis=1).tolist()
        self._totals += np.where(measured, values, 0).sum(axis=1, dtype=np.float64)
        self._lows = np.fmin(self._lows, np.fmin.reduce(values, axis=1))
        self._highs = np.fmax(self._highs, np.fmax.reduce(values, axis=1))
        for at, (least, count) in enumerate(zip(numbers.min(axis=1).tolist(), counts, strict=True)):
            if count:
                found = numbers[at] if count == len(rows) else numbers[at][measured[at]]
                self._whole[at].add(found, least, WHOLE_SIZE)
                part.buckets[at].add(found, least, SLOT_SIZE)

    def recent(self, slot: int) -> list[Slot]:
        """Returns what is in the window while `slot` is under way."""
        self.fold()
        return [held for held in self._window if held is not None and slot - SLOTS < held.number <= slot]

    def histogram(self, metric: str, slots: list[Slot] | None = None) -> Histogram:
        """Returns the values of a metric in the whole run, or in these slots."""
        self.fold()
        at = METRICS.index(metric)
        if slots is not None:
            return histogram([slot.buckets[at] for slot in slots])
        return histogram([self._whole[at]], float(self._totals[at]), float(self._lows[at]), float(self._highs[at]))

    def precision(self, metric: str, slots: list[Slot] | None = None) -> float:
        """Returns by how much, as a share, a quantile of `histogram` may err."""
        self.fold()
        at = METRICS.index(metric)
        parts = [self._whole[at]] if slots is None else [slot.buckets[at] for slot in slots]
        return max((part.precision for part in parts), default=1 / 256)

    def _part(self) -> Slot:
        """Returns the slot that is under way, which takes the place of the one a window before."""
        part = self._window[self.slot % SLOTS]
        if part is None or part.number != self.slot:
            part = self._window[self.slot % SLOTS] = Slot(self.slot)
        return part
