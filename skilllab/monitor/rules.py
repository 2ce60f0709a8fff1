"""Rules: what must not last, such as "p95 of fetch > 200 ms for 30 s", and what is measured for them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Protocol

from skilllab import format as fmt
from skilllab.conditions import Condition, Kind, parse, quantile_of
from skilllab.histogram import Histogram
from skilllab.monitor.figures import COARSE

ANY = "any"
"""Stands for each skill in "of any"."""

_MEASURED: Mapping[str, tuple[str, Kind]] = {
    "queue": ("queue_time", "duration"),
    "cpu": ("cpu_time", "duration"),
    "memory": ("memory_used", "size"),
    "lag": ("lag", "duration"),
}
_STATISTICS = ("mean", "max", "p50", "p95", "p99")

METRICS: Mapping[str, Kind] = {
    "mean": "duration",
    "max": "duration",
    "errors": "share",
    "cached": "share",
    "rate": "rate",
    "in-flight": "count",
    "oldest": "duration",
    **{f"{name}-{statistic}": kind for name, (_, kind) in _MEASURED.items() for statistic in _STATISTICS},
}
"""What a rule may be about beside quantiles of the duration: "queue-p95", "memory-max", "lag-p99", ...

All are of the window but "in-flight" and "oldest", which are of now: executions under way, and for how long the one that
began first is. They alone see a call that hangs: what never ends is in no duration and in no error rate.
"""


class Source(Protocol):
    """Where the values of the window come from; a skill of None is all of them together.

    precision: by how much, as a share, a quantile of the values may err.
    """

    def values(self, metric: str, skill_id: str | None) -> Histogram: ...

    def share(self, metric: str, skill_id: str | None) -> float | None: ...

    def precision(self, skill_id: str | None, metric: str, *, window: bool) -> float: ...


@dataclass(frozen=True, slots=True)
class Rule:
    """Conditions that are broken together; `lasting` seconds make it an alert."""

    text: str
    conditions: tuple[Condition, ...]

    @classmethod
    def of(cls, text: str) -> Rule:
        """Reads a rule; raises InvalidValueError, which points at the character, when it does not parse."""
        return cls(text, parse(text, name="rule", metrics=METRICS))

    @property
    def lasting(self) -> float:
        """Seconds for which it has to be broken."""
        return max(condition.lasting for condition in self.conditions)

    @property
    def for_each(self) -> bool:
        """Whether it is about each skill."""
        return any(condition.skill == ANY for condition in self.conditions)

    def about(self, skill_ids: Iterable[str]) -> Iterable[str | None]:
        """Returns the skills for each of which it is looked at: all of these, or one, None for all together and for several."""
        if self.for_each:
            return skill_ids
        named = {condition.skill for condition in self.conditions} - {None}
        return named if len(named) == 1 else (None,)

    def values(self, source: Source, skill_id: str | None) -> tuple[float | None, ...]:
        """Returns what each condition is about; None where that is not known."""
        return tuple(_value(source, each.metric, self._whose(each, skill_id)) for each in self.conditions)

    def broken(self, values: tuple[float | None, ...]) -> bool:
        """Tells whether these values break it; what is not known breaks nothing."""
        pairs = zip(self.conditions, values, strict=True)
        return all(value is not None and condition.holds(value) for condition, value in pairs)

    def undecided(self, values: tuple[float | None, ...], source: Source, skill_id: str | None) -> bool:
        """Tells whether nothing says that it holds: all that is known breaks it, and of the rest calls are under way."""
        pairs = zip(self.conditions, values, strict=True)
        return all(
            source.share("in-flight", self._whose(condition, skill_id)) if value is None else condition.holds(value)
            for condition, value in pairs
        )

    def show(self, values: tuple[float | None, ...], source: Source, skill_id: str | None) -> str:
        """Returns the values as text, each with its precision where that is coarse."""
        return ", ".join(
            f"{condition.metric} {condition.show(value)}"
            + _precision(source, condition.metric, self._whose(condition, skill_id), value)
            for condition, value in zip(self.conditions, values, strict=True)
        )

    def _whose(self, condition: Condition, skill_id: str | None) -> str | None:
        return skill_id if condition.skill == ANY else condition.skill


def _value(source: Source, metric: str, skill_id: str | None) -> float | None:
    measured, statistic = _parts(metric)
    if measured is None:
        return source.share(metric, skill_id)
    return _statistic(source.values(measured, skill_id), statistic)


def _precision(source: Source, metric: str, skill_id: str | None, value: float | None) -> str:
    """Returns how precise a quantile is as text, nothing where it is precise."""
    measured, statistic = _parts(metric)
    if value is None or measured in (None, "lag") or quantile_of(statistic) is None:
        return ""
    precision = source.precision(skill_id, measured, window=True)
    return f" (right to {fmt.ratio(precision)})" if precision > COARSE else ""


def _parts(metric: str) -> tuple[str | None, str]:
    """Returns what is measured, None for what is counted, and the statistic of it: "queue_time" and "p95" of "queue-p95"."""
    name, _, statistic = metric.rpartition("-")
    if name in _MEASURED:
        return _MEASURED[name][0], statistic
    duration = metric in ("mean", "max") or quantile_of(metric) is not None
    return "duration" if duration else None, metric


def _statistic(found: Histogram, statistic: str) -> float | None:
    """Returns the statistic; None without values, and for a quantile that no value is expected to lie above."""
    q = quantile_of(statistic)
    if not found.count or (q is not None and found.count * (1 - q) < 1 - 1e-9):
        return None
    if q is not None:
        return found.quantile(q)
    return found.mean if statistic == "mean" else found.max
