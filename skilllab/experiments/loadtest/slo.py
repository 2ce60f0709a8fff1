"""Service level objectives: conditions on a load test, each with a verdict that may also be "inconclusive".

An SLO is judged on every request that was due, as find_capacity does: one that failed, was dropped or has no end was
answered within no bound. With 6 % of them "p95 < 50 ms" is broken, and with one a mean and a maximum have no end.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from skilllab import format as fmt
from skilllab.conditions import METRICS, Condition, parse
from skilllab.errors import InvalidValueError
from skilllab.stats import Interval

Outcome = Literal["pass", "fail", "inconclusive"]
TOO_FEW = "n too small"
WITHOUT_END = "without end"
_SEVERITY: tuple[Outcome, ...] = ("fail", "inconclusive", "pass")


@dataclass(frozen=True, slots=True)
class Judgement:
    """What became of one condition. value, interval: of its metric, None where it was not measured or n is too small.

    Both are infinite where too many requests were answered within no bound. margin: how far the value is on the right side
    of the bound, as a share of the bound; below 0 it is on the wrong one.
    """

    condition: Condition
    value: float | None
    interval: Interval | None
    outcome: Outcome
    margin: float | None

    def to_json(self) -> dict[str, Any]:
        """Returns plain values, of which `from_json` makes the judgement again; an infinite number is the text "inf"."""
        interval = self.interval
        ends = None if interval is None else [plain(interval.low), plain(interval.high), interval.confidence]
        return {"condition": str(self.condition), "value": plain(self.value), "interval": ends}

    @classmethod
    def from_json(cls, saved: Mapping[str, Any]) -> Judgement:
        """Returns the judgement that `to_json` wrote, judged again."""
        (condition,) = parse_slo(saved["condition"])
        value, interval = saved["value"], saved["interval"]
        ends = None if interval is None else Interval(*map(float, interval))
        return judge(condition, None if value is None else float(value), ends)

    @property
    def shown(self) -> str:
        """The value as text: "n too small" for a quantile of too few requests, "without end" where it is infinite."""
        if self.value is None:
            return TOO_FEW if self.condition.q is not None else "nothing was measured"
        return WITHOUT_END if math.isinf(self.value) else self.condition.show(self.value)

    def __str__(self) -> str:
        interval, parts = self.interval, [f"{self.condition}: {self.outcome}, {self.shown}"]
        if self.value is not None and interval is None:
            parts.append(" (no interval)")
        elif interval is not None and math.isfinite(interval.low):
            parts.append(f" ({fmt.interval(interval.low, interval.high, self.condition.show)})")
        if self.margin is not None and math.isfinite(self.margin):
            parts.append(f", margin {fmt.ratio(self.margin)}")
        return "".join(parts)


def parse_slo(text: str, name: str = "slo") -> tuple[Condition, ...]:
    """Returns the conditions of an SLO such as "p95 < 50 ms and errors < 0.1 %".

    Metrics are any quantile, mean and max of the response time of all requests that were due; errors, the share of them
    that failed, were dropped or have no end; and rate, successes a second. Raises InvalidValueError whose message points at
    the character that does not fit, or names a condition that no test of any length could show to hold.
    """
    conditions = parse(text, name=name, metrics=METRICS, skills=False, lasting=False)
    for condition in conditions:
        if condition.metric == "errors" and condition.upper and condition.bound == 0:
            raise InvalidValueError(
                f"{name}: {condition} can never be shown to hold, since a test without failures bounds their share and no "
                'more: allow a small share, such as "errors < 0.1 %"'
            )
    return conditions


def judge(condition: Condition, value: float | None, interval: Interval | None) -> Judgement:
    """Judges one condition by the interval of its metric: it passes or fails only when the whole interval does.

    A metric without an interval is inconclusive: too few values to tell. What is exact has an interval of no width.
    """
    if value is None or math.isnan(value):
        return Judgement(condition, None, None, "inconclusive", None)
    sign = 1 if condition.upper else -1
    margin = sign * (condition.bound - value) / (condition.bound or 1.0)
    if interval is None:
        return Judgement(condition, value, None, "inconclusive", margin)
    held = {condition.holds(interval.low), condition.holds(interval.high)}
    outcome: Outcome = "inconclusive" if len(held) == 2 else "pass" if held == {True} else "fail"
    return Judgement(condition, value, interval, outcome, margin)


def overall(judgements: Iterable[Judgement]) -> Outcome:
    """Returns the verdict on all conditions: one that fails fails all, one that is inconclusive keeps all from passing."""
    found = worst(judgements)
    return "inconclusive" if found is None else found.outcome


def worst(judgements: Iterable[Judgement]) -> Judgement | None:
    """Returns the first judgement that fails, else the first that is inconclusive, else the first; None of none."""
    return min(judgements, key=lambda each: _SEVERITY.index(each.outcome), default=None)


def plain(value: Any) -> Any:
    """Returns a value as JSON has it: an infinite number is the text "inf", one that is none is None."""
    if isinstance(value, float):
        return None if math.isnan(value) else "inf" if math.isinf(value) else float(value)
    if isinstance(value, dict):
        return {key: plain(each) for key, each in value.items()}
    return [plain(each) for each in value] if isinstance(value, list | tuple) else value
