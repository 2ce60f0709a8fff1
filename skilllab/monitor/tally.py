"""Tally: what is known of one skill, in a few KiB however often it ran."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from struct import Struct

import numpy as np
import numpy.typing as npt

from skilllab.histogram import Histogram
from skilllab.monitor.buckets import Buckets, Numbers, binned, histogram, numbers_of
from skilllab.monitor.figures import EXACT

METRICS = ("duration", "queue_time", "cpu_time", "memory_used")
"""What is measured of an execution, in s and bytes, in the order of a row's last columns."""

SUCCEEDED, CACHED, FAILED = 0, 1, 2
"""Outcomes, by their places in `outcomes`."""

SLOTS = 6
"""Slots of the sliding window: with the one under way it covers the last 5/6 to 6/6 of its length."""

WHOLE_SIZE, SLOT_SIZE = 8192, 640
"""Bytes of a metric's buckets, over the whole run (16 octaves of the full precision, 4 bytes a count) and in a slot.

In a slot a count takes one byte as long as no bucket has more than 255: 5 octaves of the full precision, 10 of half.
"""

MOST_KINDS = 24
"""Kinds of errors of a skill that are told apart; further ones are "other"."""

row = Struct(f"{len(METRICS)}f")
"""A row of one execution: its metrics, NaN for what was not measured."""

FULL = 384 * row.size
"""Bytes of rows that are put aside: 6 KiB, so that folding costs little each."""

_WHOLE_WIDTH = 4  # bytes of a count of the whole run: it takes no more room after many values than after few
_WHOLE_MOST = 2**32 - 1  # executions that these hold for certain
_TOTAL, _LEAST, _GREATEST = 0, 1, 2  # rows of `sums`; the least is negated, so that both ends grow
_ZERO = np.float32(0)
_NEVER = -(2**62)  # no slot


class Peaks:
    """The greatest of the numbers that were noted: `whole` of all, and of the window."""

    __slots__ = ("_slots", "whole")

    def __init__(self) -> None:
        self.whole = 0
        self._slots = array("q", [_NEVER, 0] * SLOTS)

    def note(self, slot: int, number: int) -> None:
        """Notes a number in a slot of the window."""
        held, at = self._slots, 2 * (slot % SLOTS)
        self.whole = max(self.whole, number)
        held[at + 1] = max(held[at + 1], number) if held[at] == slot else number
        held[at] = slot

    def most(self, slot: int | None) -> int:
        """Returns the greatest of the window while `slot` is under way, or of all for None."""
        if slot is None:
            return self.whole
        pairs = zip(self._slots[::2], self._slots[1::2], strict=True)
        return max((number for held, number in pairs if slot - SLOTS < held <= slot), default=0)


class Part:
    """What is known of the executions that ended in one slot of the window, or in all of the run.

    outcomes: how many succeeded, were cached, failed. errors: how many failed, by kind. buckets: of each metric; sums: total,
    least and greatest of each. blocked, longest_block, where: steps that held up the event loop. opened: how often the
    circuit breaker opened.
    """

    __slots__ = ("blocked", "buckets", "errors", "longest_block", "number", "opened", "outcomes", "sums", "where")

    def __init__(self, number: int) -> None:
        self.number = number
        self.outcomes = [0, 0, 0]
        self.errors: dict[str, int] | None = None
        self.buckets = tuple(Buckets() for _ in METRICS)
        self.sums = np.zeros((3, len(METRICS)))
        self.sums[_LEAST] = -np.inf
        self.blocked = self.opened = 0
        self.longest_block, self.where = 0.0, ""

    def failed(self, kind: str) -> None:
        """Counts an error of that kind, and that the next row is of a failure."""
        self.outcomes[FAILED] += 1
        self.outcomes[SUCCEEDED] -= 1  # as which its row counts
        if self.errors is None:
            self.errors = {}
        self.errors[kind] = self.errors.get(kind, 0) + 1

    def add(self, sums: npt.NDArray[np.float64]) -> None:
        """Adds totals and widens the ends."""
        ends = self.sums[_LEAST:]
        self.sums[_TOTAL] += sums[_TOTAL]
        np.fmax(ends, sums[_LEAST:], out=ends)

    def block(self, seconds: float, where: str) -> None:
        """Counts a step that held up the event loop."""
        self.blocked += 1
        if seconds > self.longest_block:
            self.longest_block, self.where = seconds, where


class Tally:
    """The executions of one skill: rows put aside in `pending`, all of one slot, and what they were folded into.

    slot: the number of that slot of the window. whole: what is known of all of the run. peaks: executions under way.
    """

    __slots__ = ("_window", "layer", "peaks", "pending", "slot", "whole")

    def __init__(self) -> None:
        self.slot = _NEVER
        self.layer: int | None = None
        self.pending = bytearray()
        self.peaks = Peaks()
        self.whole = Part(_NEVER)
        self._window: list[Part | None] = [None] * SLOTS

    def turn(self, slot: int, layer: int | None) -> None:
        """Makes what is put aside from now on that of another slot."""
        self.fold()
        self.slot = slot
        self.layer = layer or self.layer

    def cached(self) -> None:
        """Counts an answer without a run."""
        for part in (self.whole, self._part()):
            part.outcomes[CACHED] += 1

    def failed(self, kind: str) -> None:
        """Counts an error of that kind, and that the next row is of a failure."""
        known = self.whole.errors or {}
        kind = kind if kind in known or len(known) < MOST_KINDS else "other"
        for part in (self.whole, self._part()):
            part.failed(kind)

    def both(self, slot: int) -> tuple[Part, Part]:
        """Returns where to note what happened in a slot beside executions that ended: in the whole run, and in the slot."""
        if slot != self.slot:
            self.turn(slot, None)
        return self.whole, self._part()

    def fold(self) -> None:
        """Counts the rows that were put aside."""
        if not self.pending:
            return
        rows = np.frombuffer(bytes(self.pending), dtype=np.float32).reshape(-1, len(METRICS))
        self.pending.clear()
        values = np.ascontiguousarray(rows.T)
        measured = values == values
        sums = np.empty((3, len(METRICS)))
        np.where(measured, values, _ZERO).sum(axis=1, dtype=np.float64, out=sums[_TOTAL])
        sums[_LEAST], sums[_GREATEST] = -np.fmin.reduce(values, axis=1), np.fmax.reduce(values, axis=1)
        whole, slot = self.whole, self._part()
        for part in (whole, slot):
            part.outcomes[SUCCEEDED] += len(rows)
            part.add(sums)
        width = _WHOLE_WIDTH if sum(whole.outcomes) <= _WHOLE_MOST else 2 * _WHOLE_WIDTH
        numbers = numbers_of(values)
        least, counts = numbers.min(axis=1).tolist(), measured.sum(axis=1).tolist()
        for at, count in enumerate(counts):
            if count:
                found: Numbers = numbers[at] if count == len(rows) else numbers[at][measured[at]]
                more = binned(found, least[at])
                whole.buckets[at].add(more, WHOLE_SIZE, width)
                slot.buckets[at].add(more, SLOT_SIZE)

    def parts(self, slot: int | None) -> list[Part]:
        """Returns what is in the window while `slot` is under way, or the whole run for None."""
        self.fold()
        if slot is None:
            return [self.whole]
        return [held for held in self._window if held is not None and slot - SLOTS < held.number <= slot]

    def _part(self) -> Part:
        """Returns the slot that is under way, which takes the place of the one a window before."""
        part = self._window[self.slot % SLOTS]
        if part is None or part.number != self.slot:
            part = self._window[self.slot % SLOTS] = Part(self.slot)
        return part


def values_of(parts: Sequence[Part], metric: str) -> Histogram:
    """Returns the values of a metric; total and ends are exact to the digits of 32-bit floats."""
    at = METRICS.index(metric)
    held = [part for part in parts if not part.buckets[at].empty]
    if not held:
        return Histogram()
    total = sum(float(part.sums[_TOTAL, at]) for part in held)
    least = min(-float(part.sums[_LEAST, at]) for part in held)
    greatest = max(float(part.sums[_GREATEST, at]) for part in held)
    return histogram([part.buckets[at] for part in held], total, _shortest(least), _shortest(greatest))


def precision_of(parts: Sequence[Part], metric: str) -> float:
    """Returns by how much, as a share, a quantile of `values_of` may err."""
    at = METRICS.index(metric)
    return max((part.buckets[at].precision for part in parts), default=EXACT)


def _shortest(value: float) -> float:
    """Returns the number of fewest digits that a 32-bit float stands for: 0.1 for 0.10000000149, as it was recorded."""
    return float(str(np.float32(value)))
