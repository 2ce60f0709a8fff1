"""Book: the tallies of all skills, and what is under way; for one thread at a time."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

from skilllab.frozen import FrozenDict
from skilllab.histogram import Histogram
from skilllab.monitor.figures import SkillFigures, Spread
from skilllab.monitor.kinds import UNKNOWN
from skilllab.monitor.tally import CACHED, FAILED, FULL, METRICS, SLOTS, SUCCEEDED, Tally, row
from skilllab.outcome import ExecutionMetadata

NOT_REGISTERED = "(not registered)"
"""Whose figures the calls of unknown skills are: whoever calls can make up any number of ids."""

Record = ExecutionMetadata | tuple[ExecutionMetadata, str]
"""What is put aside of an execution that ended: neither its output nor its error, of which only the kind."""

_NAN = math.nan
_SUCCESS = len(ExecutionMetadata._fields)  # by which the two are told apart soonest


class Book:
    """Counts records by skill. origin: when it was opened, in seconds since the epoch; width: seconds of a slot.

    active: executions of engines under way, by skill, at the last look; peak: the most that were seen at once.
    """

    def __init__(self, origin: float, width: float) -> None:
        self.tallies: dict[str, Tally] = {}
        self.active: Mapping[str, int] = {}
        self.peak = self._running = 0
        self._origin, self._width = origin, width

    def note(self, records: Sequence[Record]) -> None:
        """Puts the figures of executions into rows of their skills; records come in the order in which these ended."""
        if not records:
            return
        record: Any
        find, pack, full, success, nan = self.tallies.get, row.pack, FULL, _SUCCESS, _NAN  # found sooner than globals
        number = self._slot_of(records[0])
        several = number != self._slot_of(records[-1])
        for record in records:
            kind = None
            if len(record) != success:
                record, kind = record
            skill_id, duration, waited, usage = record[1], record[5], record[6], record[11]
            if several:
                number = self._slot_of(record)
            tally = find(skill_id)
            if tally is None:
                tally = self.tally(NOT_REGISTERED if kind == UNKNOWN else skill_id)
            if number != tally.slot:
                tally.turn(number, record[2])
            if kind is not None:
                tally.failed(kind)
                waited = nan if duration is None and not waited else waited  # it came to no queue
                duration = nan
            elif duration is None:
                if record[9]:
                    tally.cached()
                    continue
                duration = nan
            cpu_time, memory_used = usage[0], usage[1]
            pending = tally.pending
            pending += pack(
                duration, waited, nan if cpu_time is None else cpu_time, nan if memory_used is None else memory_used
            )
            if len(pending) >= full:
                tally.fold()

    def begin(self, skill_id: str) -> None:
        """Notes that an execution began of which no engine knows."""
        tally = self.tally(skill_id)
        tally.running += 1
        self._running += 1
        self.look({**self.active, skill_id: self.active.get(skill_id, 0)})

    def end(self, skill_id: str) -> None:
        """Notes that such an execution ended."""
        tally = self.tally(skill_id)
        if tally.running:
            tally.running -= 1
            self._running -= 1

    def look(self, active: Mapping[str, int]) -> None:
        """Notes how many executions of engines are under way, by skill."""
        self.active = active
        for skill_id, count in active.items():
            tally = self.tally(skill_id)
            tally.peak = max(tally.peak, tally.running + count)
        self.peak = max(self.peak, self._running + sum(active.values()))

    def in_flight(self, skill_id: str) -> int:
        """Returns how many executions of a skill were under way at the last look."""
        tally = self.tallies.get(skill_id)
        return self.active.get(skill_id, 0) + (0 if tally is None else tally.running)

    def tally(self, skill_id: str) -> Tally:
        """Returns the tally of a skill, a new one at first."""
        tally = self.tallies.get(skill_id)
        if tally is None:
            tally = self.tallies[skill_id] = Tally()
        return tally

    def slot(self, moment: float) -> int:
        """Returns the number of the slot of the window that a moment lies in."""
        return math.floor((moment - self._origin) / self._width)

    def spanned(self, now: float) -> float:
        """Returns the seconds that the window before `now` covers."""
        begin = max(0, self.slot(now) - SLOTS + 1)
        return max(now - self._origin - begin * self._width, 1e-9)

    def outcomes(self, skill_ids: Iterable[str], now: float | None = None) -> list[int]:
        """Returns how many executions of these skills succeeded, were cached, failed."""
        sums = [0, 0, 0]
        for tally in (self.tallies[skill_id] for skill_id in skill_ids if skill_id in self.tallies):
            tally.fold()
            for part in [tally] if now is None else tally.recent(self.slot(now)):
                sums = [left + right for left, right in zip(sums, part.outcomes, strict=True)]
        return sums

    def histogram(self, skill_id: str, metric: str, now: float | None = None) -> Histogram:
        """Returns the values of a metric in the whole run, or in the window before `now`."""
        tally = self.tallies.get(skill_id)
        if tally is None:
            return Histogram()
        return tally.histogram(metric, None if now is None else tally.recent(self.slot(now)))

    def precision(self, skill_id: str, metric: str, now: float | None = None) -> float:
        """Returns by how much, as a share, a quantile of `histogram` may err."""
        tally = self.tallies.get(skill_id) or Tally()
        return tally.precision(metric, None if now is None else tally.recent(self.slot(now)))

    def figures(self, name: str, skill_ids: Collection[str], now: float | None = None) -> SkillFigures:
        """Returns the figures of these skills together, in the whole run or in the window before `now`."""
        held = {skill_id: self.tallies[skill_id] for skill_id in skill_ids if skill_id in self.tallies}
        outcomes, errors = self.outcomes(held, now), dict[str, int]()
        for tally in held.values():
            for part in [tally] if now is None else tally.recent(self.slot(now)):
                for kind, count in (part.errors or {}).items():
                    errors[kind] = errors.get(kind, 0) + count
        merged: dict[str, Histogram] = {}
        for metric in METRICS:
            first, *others = [self.histogram(skill_id, metric, now) for skill_id in held] or [Histogram()]
            for other in others:
                first.merge(other)
            merged[metric] = first
        layers = {tally.layer for tally in held.values()}
        longest = max(held.values(), key=lambda tally: tally.longest_block, default=Tally())
        return SkillFigures(
            skill_id=name,
            layer=layers.pop() if len(layers) == 1 else None,
            succeeded=outcomes[SUCCEEDED],
            cached=outcomes[CACHED],
            failed=outcomes[FAILED],
            errors=FrozenDict(sorted(errors.items(), key=lambda item: -item[1])),
            in_flight=sum(map(self.in_flight, held)),
            peak=longest.peak if len(held) == 1 else self.peak,
            ran=merged["duration"].total,
            blocked=sum(tally.blocked for tally in held.values()),
            longest_block=longest.longest_block,
            where=longest.where,
            opened=sum(tally.opened for tally in held.values()),
            **{metric: Spread.of(found) for metric, found in merged.items()},
        )

    def _slot_of(self, record: Record) -> int:
        """Returns the number of the slot that an execution ended in."""
        told = record if isinstance(record, ExecutionMetadata) else record[0]
        return self.slot(told.start + told.queue_time + told.overhead + (told.duration or 0.0))
