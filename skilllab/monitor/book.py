"""Book: the tallies of all skills, and what is under way; for one thread at a time."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from skilllab.frozen import FrozenDict
from skilllab.histogram import Histogram
from skilllab.monitor.figures import SkillFigures, Spread
from skilllab.monitor.kinds import UNKNOWN
from skilllab.monitor.tally import (
    CACHED,
    FAILED,
    FULL,
    METRICS,
    SLOTS,
    SUCCEEDED,
    Part,
    Peaks,
    Tally,
    precision_of,
    row,
    values_of,
)
from skilllab.outcome import ExecutionMetadata

NOT_REGISTERED = "(not registered)"
"""Whose figures the calls of unknown skills are: whoever calls can make up any number of ids."""

Record = ExecutionMetadata | tuple[ExecutionMetadata, str]
"""What is put aside of an execution that ended: neither its output nor its error, of which only the kind."""

_NAN = math.nan
_SUCCESS = len(ExecutionMetadata._fields)  # by which the two are told apart soonest


class Book:
    """Counts records by skill. origin: when it was opened, in seconds since the epoch; width: seconds of a slot.

    active, since: executions of engines under way at the last look, by skill, and when the oldest of them began.
    """

    def __init__(self, origin: float, width: float) -> None:
        self.tallies: dict[str, Tally] = {}
        self.active: Mapping[str, int] = {}
        self.since: Mapping[str, float] = {}
        self._told: dict[str, list[float]] = {}  # when those began of which no engine knows
        self._peaks: dict[int | None, Peaks] = {None: Peaks()}  # by layer, and of all together
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

    def begin(self, skill_id: str, now: float) -> None:
        """Notes that an execution began of which no engine knows."""
        self._told.setdefault(skill_id, []).append(now)
        self.look(self.active, self.since, now)

    def end(self, skill_id: str, began: float) -> None:
        """Notes that such an execution ended: the one that began next to that time."""
        told = self._told.get(skill_id)
        if told:
            told.remove(min(told, key=lambda moment: abs(moment - began)))
            if not told:
                del self._told[skill_id]

    def look(self, active: Mapping[str, int], since: Mapping[str, float], now: float) -> None:
        """Notes how many executions of engines are under way, by skill, and when the oldest began."""
        self.active, self.since = active, since
        slot, groups = self.slot(now), dict[int | None, int]()
        for skill_id in {*active, *self._told}:
            tally, count = self.tally(skill_id), self.in_flight(skill_id)
            tally.peaks.note(slot, count)
            for group in {None, tally.layer}:
                groups[group] = groups.get(group, 0) + count
        for group, count in groups.items():
            self._peaks.setdefault(group, Peaks()).note(slot, count)

    def in_flight(self, skill_id: str) -> int:
        """Returns how many executions of a skill were under way at the last look."""
        return self.active.get(skill_id, 0) + len(self._told.get(skill_id, ()))

    def oldest(self, skill_ids: Iterable[str], now: float) -> float | None:
        """Returns for how many seconds the oldest execution of these skills is under way; None without any."""
        begins = [self.since[skill_id] for skill_id in skill_ids if skill_id in self.since]
        begins += [moment for skill_id in skill_ids for moment in self._told.get(skill_id, ())]
        return max(0.0, now - min(begins)) if begins else None

    def tally(self, skill_id: str) -> Tally:
        """Returns the tally of a skill, a new one at first."""
        tally = self.tallies.get(skill_id)
        if tally is None:
            tally = self.tallies[skill_id] = Tally()
        return tally

    def blocked(self, skill_id: str, seconds: float, where: str, now: float) -> None:
        """Notes that a step of a skill held up the event loop."""
        for part in self.tally(skill_id).both(self.slot(now)):
            part.block(seconds, where)

    def opened(self, skill_id: str, now: float) -> None:
        """Notes that the circuit breaker of a skill opened."""
        for part in self.tally(skill_id).both(self.slot(now)):
            part.opened += 1

    def slot(self, moment: float) -> int:
        """Returns the number of the slot of the window that a moment lies in."""
        return math.floor((moment - self._origin) / self._width)

    def spanned(self, now: float) -> float:
        """Returns the seconds that the window before `now` covers."""
        begin = max(0, self.slot(now) - SLOTS + 1)
        return max(now - self._origin - begin * self._width, 1e-9)

    def outcomes(self, skill_ids: Iterable[str], now: float | None = None) -> list[int]:
        """Returns how many executions of these skills succeeded, were cached, failed."""
        return _sums(part.outcomes for part in self._parts(skill_ids, now))

    def histogram(self, skill_ids: Iterable[str], metric: str, now: float | None = None) -> Histogram:
        """Returns the values of a metric of these skills together, in the whole run or in the window before `now`."""
        return values_of(self._parts(skill_ids, now), metric)

    def precision(self, skill_ids: Iterable[str], metric: str, now: float | None = None) -> float:
        """Returns by how much, as a share, a quantile of these skills' values may err."""
        return precision_of(self._parts(skill_ids, now), metric)

    def skill(self, skill_id: str, now: float | None = None) -> SkillFigures:
        """Returns the figures of a skill, in the whole run or in the window before `now`."""
        tally = self.tallies.get(skill_id)
        return self._figures(skill_id, [skill_id] if tally else [], tally.peaks if tally else Peaks(), now)

    def layer(self, layer: int, now: float | None = None) -> SkillFigures:
        """Returns the figures of the skills of a layer."""
        skill_ids = [skill_id for skill_id, tally in self.tallies.items() if tally.layer == layer]
        return self._figures(f"layer {layer}", skill_ids, self._peaks.get(layer, Peaks()), now)

    @property
    def layers(self) -> list[int]:
        """The layers that ran something."""
        return sorted({tally.layer for tally in self.tallies.values() if tally.layer is not None})

    def together(self, now: float | None = None) -> SkillFigures:
        """Returns the figures of all skills."""
        return self._figures("all", list(self.tallies), self._peaks[None], now)

    def peak(self, now: float | None = None) -> int:
        """Returns the most executions of all skills that were seen at once."""
        return self._peaks[None].most(self._slot(now))

    def _figures(self, name: str, skill_ids: Sequence[str], peaks: Peaks, now: float | None) -> SkillFigures:
        parts = self._parts(skill_ids, now)
        found = {metric: values_of(parts, metric) for metric in METRICS}
        layers = {self.tallies[skill_id].layer for skill_id in skill_ids}
        slot, several = self._slot(now), [peaks, *(self.tallies[each].peaks for each in skill_ids)]
        outcomes, errors = _sums(part.outcomes for part in parts), Counter[str]()
        for part in parts:
            errors.update(part.errors or {})
        longest = max(parts, key=lambda part: part.longest_block, default=Part(0))
        return SkillFigures(
            skill_id=name,
            layer=layers.pop() if len(layers) == 1 else None,
            succeeded=outcomes[SUCCEEDED],
            cached=outcomes[CACHED],
            failed=outcomes[FAILED],
            errors=FrozenDict(errors.most_common()),
            in_flight=sum(map(self.in_flight, skill_ids)),
            peak=max(each.most(slot) for each in several),  # a layer is known once one of its executions ended
            ran=found["duration"].total,
            blocked=sum(part.blocked for part in parts),
            longest_block=longest.longest_block,
            where=longest.where,
            opened=sum(part.opened for part in parts),
            **{metric: Spread.of(values, precision_of(parts, metric)) for metric, values in found.items()},
        )

    def _parts(self, skill_ids: Iterable[str], now: float | None) -> list[Part]:
        slot = self._slot(now)
        known = (self.tallies[skill_id] for skill_id in skill_ids if skill_id in self.tallies)
        return [part for tally in known for part in tally.parts(slot)]

    def _slot(self, now: float | None) -> int | None:
        return None if now is None else self.slot(now)

    def _slot_of(self, record: Record) -> int:
        """Returns the number of the slot that an execution ended in."""
        told = record if isinstance(record, ExecutionMetadata) else record[0]
        return self.slot(told.start + told.queue_time + told.overhead + (told.duration or 0.0))


def _sums(rows: Iterable[Sequence[int]]) -> list[int]:
    """Returns the sums of the columns of outcomes."""
    return [sum(column) for column in zip([0, 0, 0], *rows, strict=True)]
