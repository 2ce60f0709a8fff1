"""PerformanceReport: which skills are slow, hungry or failing, what is cached, and what to do about it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from html import escape
from typing import TYPE_CHECKING, Any

from skilllab import format as fmt
from skilllab.errors import InvalidValueError
from skilllab.frozen import FrozenDict
from skilllab.monitor.figures import COARSE, NO_SPREAD, ResultCache, SkillFigures, Spread
from skilllab.monitor.recommendations import Recommendation
from skilllab.monitor.tally import METRICS
from skilllab.stats import Interval, proportion_interval

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

_SHOWN = 10  # skills of a plot
_VERSION = 1


@dataclass(frozen=True, slots=True)
class CachePerformance:
    """What was answered without a run. skills: those with cached answers, most first. saved: seconds that these would have run.

    results: the engines' result caches, None without any.
    """

    results: ResultCache | None
    skills: tuple[SkillFigures, ...]
    saved: float


@dataclass(frozen=True, slots=True)
class PerformanceReport:
    """What a monitor knows, of the whole run or of the window: the last `elapsed` seconds.

    skills, layers: the figures of each. lag: how late the event loop was (s). in_flight, peak: executions at once, now and
    at most. results: the engines' result caches, always of the whole run. recommendations: most urgent first.
    """

    elapsed: float
    window: bool
    skills: tuple[SkillFigures, ...]
    layers: tuple[SkillFigures, ...] = ()
    lag: Spread = NO_SPREAD
    in_flight: int = 0
    peak: int = 0
    results: ResultCache | None = None
    recommendations: tuple[Recommendation, ...] = ()

    @property
    def slowest_skills(self) -> tuple[SkillFigures, ...]:
        """Those that ran, the slowest first: by p95, by the mean where p95 has too few values."""
        return tuple(sorted((skill for skill in self.skills if skill.duration.n), key=_slowness, reverse=True))

    @property
    def memory_heavy_skills(self) -> tuple[SkillFigures, ...]:
        """Those whose memory was measured, the hungriest first: by the most that one execution took."""
        measured = (skill for skill in self.skills if skill.memory_used.n)
        return tuple(sorted(measured, key=lambda skill: skill.memory_used.max or 0.0, reverse=True))

    @property
    def error_rates(self) -> tuple[SkillFigures, ...]:
        """Those with failures, the highest rate first."""
        failing = (skill for skill in self.skills if skill.failed)
        return tuple(sorted(failing, key=lambda skill: skill.error_rate or 0.0, reverse=True))

    @property
    def cache_performance(self) -> CachePerformance:
        """What was answered without a run."""
        cached = tuple(sorted((skill for skill in self.skills if skill.cached), key=lambda skill: -skill.cached))
        saved = sum(skill.cached * (skill.duration.mean or 0.0) for skill in cached)
        return CachePerformance(self.results, cached, saved)

    @property
    def executions(self) -> int:
        """Executions that ended, of all skills."""
        return sum(skill.executions for skill in self.skills)

    @property
    def precision(self) -> float | None:
        """By how much, as a share, the least precise of its quantiles may err; None without any."""
        spreads = (getattr(skill, metric) for skill in self.skills for metric in METRICS)
        return max((spread.precision or 0.0 for spread in spreads if spread.p50 is not None), default=None)

    def metrics(self) -> dict[str, tuple[float, Interval | None]]:
        """Returns what a history keeps of each skill: mean, p50, p95 (s), memory max (bytes), errors, and rate (1/s)."""
        found: dict[str, tuple[float, Interval | None]] = {}
        for skill in self.skills:
            runs, name = skill.duration, skill.skill_id
            rows = {"mean": runs.mean, "p50": runs.p50, "p95": runs.p95, "memory max": skill.memory_used.max}
            found |= {f"{name} {metric}": (value, None) for metric, value in rows.items() if value is not None}
            if skill.error_rate is not None:
                between = proportion_interval(skill.failed, skill.executions)
                found[f"{name} errors"] = (skill.error_rate, between)
                found[f"{name} rate"] = (skill.executions / self.elapsed if self.elapsed else math.nan, None)
        return found

    def error_frame(self) -> pd.DataFrame:
        """Returns a row for each skill and kind of error: skill_id, kind, count, share of the skill's executions."""
        import pandas as pd

        rows = [
            (skill.skill_id, kind, count, count / skill.executions)
            for skill in self.error_rates
            for kind, count in skill.errors.items()
        ]
        return pd.DataFrame(rows, columns=["skill_id", "kind", "count", "share"])

    def frame(self) -> pd.DataFrame:
        """Returns a row for each skill: counts, and n, mean, p50, p95, p99, max and precision of each metric (s, bytes)."""
        import pandas as pd

        rows = []
        for skill in self.skills:
            counts = {name: getattr(skill, name) for name in _COUNTS}
            spreads = {
                f"{metric}_{name}": value
                for metric in METRICS
                for name, value in getattr(skill, metric)._asdict().items()
            }
            rows.append({**counts, **spreads})
        columns = [*_COUNTS, *(f"{metric}_{name}" for metric in METRICS for name in Spread._fields)]
        return pd.DataFrame(rows, columns=columns).set_index("skill_id")

    def plot(self, ax: Axes | None = None) -> Axes:
        """Draws the slowest skills: p95 of each, or its mean where p95 has too few values."""
        from skilllab import plots

        slowest = [skill for skill in self.slowest_skills[:_SHOWN] if _slowness(skill) > 0]
        if not slowest:
            raise InvalidValueError("no skill has run yet: there is nothing to draw")
        first = slowest[0]
        which = "p95" if first.duration.p95 is not None else "a mean"
        labels = [skill.skill_id + ("" if skill.duration.p95 is not None else " (mean)") for skill in slowest]
        label = f"Duration of an execution: p95 (runs: {fmt.count(sum(skill.duration.n for skill in slowest))})"
        title = f"{first.skill_id} is the slowest: {which} of {fmt.duration(_slowness(first))}"
        values = [_slowness(skill) for skill in slowest]
        return plots.bars(labels, values, show=fmt.duration, log=True, title=title, x_label=label, ax=ax)

    def __str__(self) -> str:
        parts = [
            f"{_several(self.executions, 'execution')} of {_several(len(self.skills), 'skill')} in "
            f"{fmt.duration(self.elapsed)}, {fmt.count(self.in_flight)} in flight"
        ]
        if self.slowest_skills:
            slow = self.slowest_skills[0]
            parts.append(f"slowest {slow.skill_id} ({_worst(slow.duration, fmt.duration)})")
        if self.memory_heavy_skills:
            heavy = self.memory_heavy_skills[0]
            parts.append(f"hungriest {heavy.skill_id} ({fmt.size(heavy.memory_used.max)})")
        if self.error_rates:
            failing = self.error_rates[0]
            rate = f"{fmt.ratio(failing.error_rate)} of {fmt.count(failing.executions)}"
            parts.append(f"most failures {failing.skill_id} ({rate})")
        cached = self.cache_performance
        if cached.skills:
            answers = fmt.count(sum(skill.cached for skill in cached.skills))
            parts.append(f"{answers} answers cached ({fmt.duration(cached.saved)} saved)")
        if self.precision is not None and self.precision > COARSE:
            parts.append(f"quantiles are right to {fmt.ratio(self.precision)}")
        parts.append(f"recommendations: {len(self.recommendations) or 'none'}")
        return "; ".join(parts) + "."

    def _repr_html_(self) -> str:
        advice = "".join(f"<li>{escape(str(each))}</li>" for each in self.recommendations)
        return f"<p>{escape(str(self))}</p>" + (f"<ol>{advice}</ol>" if advice else "")

    def to_json(self) -> dict[str, Any]:
        """Returns plain JSON values for `from_json`."""
        plain = {"version": _VERSION} | {field.name: getattr(self, field.name) for field in fields(self)}
        for name in ("skills", "layers"):
            plain[name] = [_plain(skill) for skill in plain[name]]
        plain["lag"] = self.lag._asdict()
        plain["results"] = None if self.results is None else asdict(self.results)
        plain["recommendations"] = [each.to_json() for each in self.recommendations]
        return plain

    @classmethod
    def from_json(cls, saved: Mapping[str, Any]) -> PerformanceReport:
        """Returns the report of which `to_json` made this; raises InvalidValueError for anything else."""
        try:
            made = dict(saved)
            version = made.pop("version")
            if version != _VERSION:
                raise ValueError(f"version(={version!r}) must be {_VERSION}")
            for name in ("skills", "layers"):
                made[name] = tuple(map(_figures, saved[name]))
            made["lag"] = Spread(**saved["lag"])
            made["results"] = None if saved["results"] is None else ResultCache(**saved["results"])
            made["recommendations"] = tuple(map(Recommendation.from_json, saved["recommendations"]))
            made["elapsed"] = float(saved["elapsed"])
            return cls(**made)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise InvalidValueError(f"{saved!r:.80} is no report: {type(error).__name__}: {error}") from error


_COUNTS = (
    "skill_id",
    "layer",
    "executions",
    "succeeded",
    "cached",
    "failed",
    "error_rate",
    "in_flight",
    "peak",
    "blocked",
    "opened",
)


def _several(number: int, name: str) -> str:
    return f"{fmt.count(number)} {name}{'' if number == 1 else 's'}"


def _slowness(skill: SkillFigures) -> float:
    return skill.duration.mean or 0.0 if skill.duration.p95 is None else skill.duration.p95


def _worst(spread: Spread, show: Any) -> str:
    return f"mean {show(spread.mean)}" if spread.p95 is None else f"p95 {show(spread.p95)}"


def _plain(skill: SkillFigures) -> dict[str, Any]:
    plain = {field.name: getattr(skill, field.name) for field in fields(skill)}
    plain["errors"] = dict(skill.errors)
    return plain | {metric: plain[metric]._asdict() for metric in METRICS}


def _figures(saved: Mapping[str, Any]) -> SkillFigures:
    spreads = {metric: Spread(**saved[metric]) for metric in METRICS}
    return SkillFigures(**{**saved, **spreads, "errors": FrozenDict(saved["errors"])})
