"""LoadTestResult: what a load test measured, with intervals, warnings and a verdict."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from html import escape
from typing import TYPE_CHECKING, Any

import numpy as np

from skilllab import series
from skilllab.conditions import Condition
from skilllab.errors import InvalidValueError
from skilllab.experiments.loadtest import metrics, tables
from skilllab.experiments.loadtest.advice import LoadWarning, warnings_of
from skilllab.experiments.loadtest.generator import Ending
from skilllab.experiments.loadtest.machine import Machine
from skilllab.experiments.loadtest.open_client import ASSUMPTION, RATES, OpenClient, longest_gap, seen_by
from skilllab.experiments.loadtest.records import Columns, Requests
from skilllab.experiments.loadtest.scenario import Scenario
from skilllab.experiments.loadtest.slo import Judgement, Outcome, judge, overall, parse_slo
from skilllab.stats import Array, Interval, smallest_n

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

_VERSION = 1
QUANTILES = (0.5, 0.95, 0.99)


@dataclass(frozen=True)
class LoadTestResult:
    """A load test: its scenario, every request, and how it ended. started: seconds since the epoch.

    Figures are of the requests that were meant to begin after the warm-up; response times are those of successes, and
    count from the intended start. The SLO alone is judged on failures as well: see `judgements`.
    """

    scenario: Scenario
    requests: Requests
    ending: Ending
    started: float = 0.0

    # what was measured

    @cached_property
    def finished(self) -> Columns:
        """All finished requests, those of the warm-up among them, in the order of their intended starts."""
        columns = self.requests.columns()
        return columns.where(np.argsort(columns.intended, kind="stable"))

    @cached_property
    def measured(self) -> Columns:
        """The finished requests after the warm-up, in the order of their intended starts."""
        return self.finished.where(~self.finished.warm)

    @cached_property
    def responses(self) -> Array:
        """The response times of measured successes in seconds, in the order of their intended starts."""
        return self.measured.response[self.measured.ok]

    @property
    def average_response_time(self) -> float:
        """Mean response time of the successes in seconds; nan when there are none."""
        return float(self.responses.mean()) if len(self.responses) else math.nan

    @property
    def seconds(self) -> float:
        """How long it was measured: from the end of the warm-up until the last request could begin."""
        return max(0.0, self.ending.seconds - self.scenario.warmup)

    @property
    def requests_per_second(self) -> float:
        """Requests that finished in the measured time, successes and failures, for each second of it."""
        return len(self._counted.end) / self.seconds if self.seconds else math.nan

    @property
    def rate(self) -> float:
        """Successes in the measured time for each second of it; "rate" means this in an SLO, a stage and a history, too."""
        return len(self._succeeded) / self.seconds if self.seconds else math.nan

    @property
    def success_rate(self) -> float:
        """Share of successes (0 to 1) of the measured requests; nan when none ended."""
        return float(self.measured.ok.mean()) if len(self.measured.ok) else math.nan

    @property
    def cached_share(self) -> float:
        """Share of the successes (0 to 1) that were answered from kept results; nan without successes."""
        cached = self.measured.cached[self.measured.ok]
        return float(cached.mean()) if len(cached) else math.nan

    @property
    def errors(self) -> dict[str, int]:
        """How often each kind of error came, the most frequent first."""
        return self.measured.errors()

    @property
    def dropped(self) -> int:
        """Measured requests that were not sent, since `max_in_flight` were under way."""
        return self._lost("dropped")

    @property
    def unfinished(self) -> int:
        """Measured requests that had no end when the test ended; they are in no response time."""
        return self._lost("unfinished")

    def percentile(self, percent: float) -> float | None:
        """Returns a percentile (95 for p95) of the response time in seconds, None where the values are too few for it.

        Too few are those that would give no interval even if they were independent: below 72 for p95, 368 for p99.
        """
        q = _share(percent)
        value = metrics.known_quantile(self.responses, q)
        return None if math.isnan(value) else value

    def percentile_interval(self, percent: float) -> Interval | None:
        """Returns the 95 % interval of a percentile of the response time, None where the test was too short for one."""
        q = _share(percent)
        if q not in self._intervals:
            self._intervals[q] = (
                series.quantile_interval(self.responses, q, time=self._time) if len(self.responses) else None
            )
        return self._intervals[q]

    @cached_property
    def average_interval(self) -> Interval | None:
        """The 95 % interval of the mean response time, None where the test was too short for one."""
        return series.mean_interval(self.responses, time=self._time) if len(self.responses) else None

    @property
    def timeline(self) -> pd.DataFrame:
        """One row a second of the whole test: see `tables.timeline`."""
        return tables.timeline(self)

    @property
    def stages(self) -> pd.DataFrame:
        """One row a stage: see `tables.stages`."""
        return tables.stages(self)

    # what it means

    @cached_property
    def judgements(self) -> tuple[Judgement, ...]:
        """What became of each condition of the SLO, none without one.

        A request that failed, was dropped or has no end counts as answered within no bound, as find_capacity has it. What was
        cut off when a test was stopped or aborted may have been about to end, unless it was over the bound already: where that
        makes a difference, the condition is inconclusive. Of a test whose process ended by itself nobody knows what was under
        way then: no condition passes.
        """
        return () if self.scenario.slo is None else tuple(map(self._judged, parse_slo(self.scenario.slo)))

    @property
    def verdict(self) -> Outcome | None:
        """Whether the SLO held: "pass", "fail" or "inconclusive"; None without an SLO."""
        return overall(self.judgements) if self.judgements else None

    @cached_property
    def warnings(self) -> tuple[LoadWarning, ...]:
        """What limits the meaning of these figures, each with a number and a next step."""
        return warnings_of(self)

    @cached_property
    def longest_gap(self) -> tuple[float, float]:
        """The longest time after the warm-up in which no request ended, and when it began (after the begin), in seconds."""
        return longest_gap(self.finished, self.scenario.warmup, self.ending.seconds)

    @cached_property
    def open_clients(self) -> tuple[OpenClient, ...]:
        """What clients at 10, 100 and 1,000 requests a second would have seen, by assumption; none of an open test."""
        if self.scenario.open:
            return ()
        return tuple(seen_by(rate, self.finished, self.scenario.warmup, self.ending.seconds) for rate in RATES)

    # to look at and to keep

    @property
    def seed(self) -> int:
        """The seed of the arrivals."""
        return self.scenario.seed

    def metrics(self) -> dict[str, tuple[float, Interval | None]]:
        """Returns the figures that a history keeps, with their intervals."""
        found: dict[str, tuple[float, Interval | None]] = {"mean": (self.average_response_time, self.average_interval)}
        for q in QUANTILES:
            value = self.percentile(100 * q)
            found[f"p{100 * q:g}"] = (math.nan if value is None else value, self.percentile_interval(100 * q))
        failed = series.proportion_interval(~self.measured.ok) if len(self.measured.ok) else None
        return {**found, "errors": (self.measured.error_share, failed), "rate": (self.rate, self._rate_interval)}

    def frame(self) -> pd.DataFrame:
        """Returns one row a finished request: see Requests."""
        return self.requests.frame()

    def table(self) -> pd.DataFrame:
        """Returns the figures as text, a row each: value and 95 % interval."""
        return tables.figures(self)

    def plot(self, ax: Axes | None = None) -> Axes:
        """Draws the response time of the successes by percentile, and the service in it; raises when there are none."""
        from skilllab import plots

        if not len(self.responses):
            raise InvalidValueError("no request succeeded: there is no response time to draw")
        ok = self.measured.where(self.measured.ok & ~np.isnan(self.measured.service))
        columns = {"response": self.responses, "service": ok.service}
        columns = {name: column[column > 0] for name, column in columns.items()}
        return plots.percentile_curve(
            {name: column for name, column in columns.items() if len(column) >= smallest_n(0.5)},
            title=tables.finding(self),
            y_label="Time a request",
            ax=ax,
        )

    def __str__(self) -> str:
        return tables.paragraph(self)

    def _repr_html_(self) -> str:
        parts = [f"<p>{escape(tables.paragraph(self, warnings=False))}</p>", self.table().to_html()]
        if self.warnings:
            lines = "".join(f"<li>{escape(str(warning))}</li>" for warning in self.warnings)
            parts.append(f"<p>What limits these figures:</p><ul>{lines}</ul>")
        if self.open_clients:
            parts += [tables.open_clients(self).to_html(), f"<p>{escape(ASSUMPTION)}</p>"]
        return "".join(parts)

    def to_json(self) -> dict[str, Any]:
        """Returns the result as plain JSON values; a function of parameters is kept by its name only."""
        return {
            "version": _VERSION,
            "scenario": self.scenario.to_json(),
            "requests": self.requests.to_json(),
            "ending": {**asdict(self.ending), "workers": list(self.ending.workers)},
            "started": self.started,
        }

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> LoadTestResult:
        """Returns the result that `to_json` wrote; raises InvalidValueError for anything else."""
        if values.get("version") != _VERSION:
            raise InvalidValueError(f"version(={values.get('version')!r}) of a load test must be {_VERSION}")
        try:
            ending = dict(values["ending"])
            ending["workers"] = tuple(ending["workers"])
            ending["machine"] = None if ending["machine"] is None else Machine(**ending["machine"])
            scenario, requests = Scenario.from_json(values["scenario"]), Requests.from_json(values["requests"])
            return cls(scenario, requests, Ending(**ending), float(values["started"]))
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise InvalidValueError(f"not the JSON of a load test: {type(error).__name__}: {error}") from error

    # inside

    @cached_property
    def _time(self) -> float:
        """The autocorrelation time of the responses, in numbers of them."""
        return series.autocorrelation_time(self.responses)

    @cached_property
    def _intervals(self) -> dict[float, Interval | None]:
        return {}

    @cached_property
    def _counted(self) -> Columns:
        """What ended in the measured time, whenever it began."""
        ends = self.finished.end
        return self.finished.where((ends > self.scenario.warmup) & (ends <= self.ending.seconds))

    @property
    def _succeeded(self) -> Array:
        return self._counted.end[self._counted.ok]

    @property
    def _rate_interval(self) -> Interval | None:
        cut_off = self.ending.reason in ("stopped", "aborted") and (self.unfinished or self.ending.lost)
        if not len(self._succeeded) and (cut_off or self.measured.ok.any()):
            return None  # those that had no end in the time were no failures
        return metrics.rate_interval(self._succeeded, self.scenario.warmup, self.ending.seconds)

    def _judged(self, condition: Condition) -> Judgement:
        if condition.metric == "rate":
            found = [judge(condition, self.rate, self._rate_interval)]
        else:
            found = [
                judge(
                    condition, metrics.value(condition, each), metrics.interval(condition, each, self._known_time(each))
                )
                for each in self._responses(condition)
            ]
        first, outcomes = found[0], {each.outcome for each in found}
        known = len(outcomes) == 1 and not (self.ending.lost and first.outcome == "pass")
        return first if known else judge(condition, first.value, None)

    def _responses(self, condition: Condition) -> tuple[Array, ...]:
        """Returns the responses that a condition is judged by; of a test that ended early, those of two tests.

        The first is without what was cut off, but for what had been under way for longer than the bound; in the second none
        of it would ever have had an end.
        """
        (dropped, _, early), (unfinished, _, warm) = map(self.requests.lost, ("dropped", "unfinished"))
        dropped, unfinished, waited = dropped[~early], unfinished[~warm], self.requests.waited()[~warm]
        lost = [np.concatenate((dropped, unfinished))]
        if self.ending.reason in ("stopped", "aborted") and len(unfinished):
            over = waited > (condition.bound if condition.q is not None or condition.metric == "max" else math.inf)
            lost.insert(0, np.concatenate((dropped, unfinished[over])))
        return tuple(metrics.answers(self.measured, each).response for each in lost)

    def _known_time(self, responses: Array) -> float | None:
        """Returns the autocorrelation time of what was answered where all succeeded, and has been measured with them."""
        return self._time if len(responses) and np.array_equal(responses, self.responses) else None

    def _lost(self, which: str) -> int:
        _, _, warm = self.requests.lost(which)
        return int((~warm).sum())


def _share(percent: float) -> float:
    if not 0 < percent < 100:
        raise InvalidValueError(f"percent(={percent}) must be between 0 and 100, both excluded: p95 is 95")
    return round(percent / 100, 9)
