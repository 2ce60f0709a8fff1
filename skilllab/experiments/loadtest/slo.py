"""Service level objectives: conditions on a load test, each with a verdict that may also be "inconclusive"."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from skilllab import format as fmt
from skilllab.conditions import METRICS, Condition, parse
from skilllab.stats import Interval

Outcome = Literal["pass", "fail", "inconclusive"]


@dataclass(frozen=True, slots=True)
class Judgement:
    """What became of one condition. value, interval: of its metric, None where it was not measured.

    margin: how far the value is on the right side of the bound, as a share of the bound; below 0 it is on the wrong one.
    """

    condition: Condition
    value: float | None
    interval: Interval | None
    outcome: Outcome
    margin: float | None

    def to_json(self) -> dict[str, Any]:
        """Returns plain values, of which `from_json` makes the judgement again."""
        interval = self.interval
        return {
            "condition": str(self.condition),
            "value": self.value,
            "interval": None if interval is None else [interval.low, interval.high, interval.confidence],
        }

    @classmethod
    def from_json(cls, saved: Mapping[str, Any]) -> Judgement:
        """Returns the judgement that `to_json` wrote, judged again."""
        (condition,) = parse_slo(saved["condition"])
        interval = saved["interval"]
        return judge(condition, saved["value"], None if interval is None else Interval(*interval))

    def __str__(self) -> str:
        show = self.condition.show
        if self.value is None:
            return f"{self.condition}: inconclusive, nothing was measured"
        spread = "no interval" if self.interval is None else fmt.interval(self.interval.low, self.interval.high, show)
        margin = "" if self.margin is None else f", margin {fmt.ratio(self.margin)}"
        return f"{self.condition}: {self.outcome}, {show(self.value)} ({spread}){margin}"


def parse_slo(text: str, name: str = "slo") -> tuple[Condition, ...]:
    """Returns the conditions of an SLO such as "p95 < 50 ms and errors < 0.1 %".

    Metrics are any quantile, mean and max of the response time, errors (a share of all requests) and rate (answered
    requests a second). Raises InvalidValueError whose message points at the character that does not fit.
    """
    return parse(text, name=name, metrics=METRICS, skills=False, lasting=False)


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
    outcomes = {judgement.outcome for judgement in judgements}
    if "fail" in outcomes:
        return "fail"
    return "pass" if outcomes == {"pass"} else "inconclusive"
