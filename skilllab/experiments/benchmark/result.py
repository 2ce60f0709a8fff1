"""The result of a benchmark: times of every arm, comparisons of any two, in words, as a frame, a plot and JSON."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from html import escape
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from skilllab import format as fmt
from skilllab import series
from skilllab.errors import InvalidValueError
from skilllab.experiments.benchmark.comparing import Compared, compare
from skilllab.experiments.benchmark.runs import ArmTimes, Run
from skilllab.stats import Array, Interval, mean_interval, quantile, quantile_interval

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

_FAR = 10.0  # times: arms further apart stand on a logarithmic axis
_DRIFT = 0.05  # by which the last quarter of the rounds may be faster than the first before it is named
_VERSION = 1


@dataclass(frozen=True, slots=True)
class Design:
    """How a benchmark decides: its smallest difference, its confidence over all `looks`, its garbage collection, its seed.

    side_by_side: whether arms shared their rounds; times read from a file of another program did not.
    """

    smallest_difference: float
    confidence: float
    looks: int
    collect_garbage: bool = False
    seed: int = 0
    side_by_side: bool = True


@dataclass(frozen=True, repr=False)
class BenchmarkResult:
    """Times of every arm, one run for each process, and `elapsed` seconds of it all; the first arm is the baseline."""

    runs: tuple[Run, ...]
    design: Design
    elapsed: float

    @property
    def names(self) -> tuple[str, ...]:
        """The arms, in order."""
        return tuple(self.runs[0])

    @property
    def seed(self) -> int:
        """What the orders were drawn from."""
        return self.design.seed

    @property
    def rounds(self) -> int:
        """Rounds that count, of all processes."""
        return len(self.samples(self.names[0]))

    def times(self, name: str) -> tuple[ArmTimes, ...]:
        """Returns what each process measured of an arm; raises InvalidValueError for a name that is none."""
        if name not in self.runs[0]:
            raise InvalidValueError(f"arm {name!r} is none of {', '.join(map(repr, self.names))}")
        return tuple(run[name] for run in self.runs if name in run)

    def samples(self, name: str) -> Array:
        """Returns seconds a call, one number a round: means over the calls of a sample."""
        return np.concatenate([times.samples for times in self.times(name)])

    def one_by_one(self, name: str) -> Array:
        """Returns the finest times: of single calls, or of samples where a call is too short to be timed alone."""
        return np.concatenate([times.one_by_one.ravel() for times in self.times(name)])

    def median(self, name: str) -> float:
        """Returns the median (s) of an arm's samples."""
        return quantile(self.samples(name), 0.5)

    def interval(self, name: str) -> Interval | None:
        """Returns the interval of the median, None with too few rounds."""
        return quantile_interval(self.samples(name), 0.5, self.design.confidence)

    def compare(self, a: str, b: str) -> Compared:
        """Compares arm `b` with arm `a`: how many times as long it takes, typically and in the tail."""
        return self._compared[a, b] if (a, b) in self._compared else self._compare(a, b)

    @property
    def decided(self) -> bool:
        """Whether the verdict on every pair is another than "inconclusive"."""
        return all(self.compare(a, b).verdict != "inconclusive" for a, b in combinations(self.names, 2))

    @property
    def remarks(self) -> tuple[str, ...]:
        """What limits the meaning of these numbers, a sentence each."""
        found = [
            f"{name} became faster all the time: give it more warm-up" for name in self.names if self._drifts(name)
        ]
        if any(times.tail_calls > 1 for run in self.runs for times in run.values()):
            found.append("Calls too short to be timed one by one: their p95, min, max and tail are those of samples")
        return tuple(found)

    def metrics(self) -> dict[str, tuple[float, Interval | None]]:
        """Returns the median (s) of every arm with its interval, and its p95, as a history keeps them."""
        found: dict[str, tuple[float, Interval | None]] = {}
        for name in self.names:
            column = self.one_by_one(name)
            found[f"{name} median"] = (self.median(name), self.interval(name))
            found[f"{name} p95"] = (quantile(column, 0.95), self._p95_interval(column))
        return found

    def frame(self) -> pd.DataFrame:
        """Returns one row an arm, all times in seconds a call; an interval that cannot be had is NaN.

        average, median with their intervals are of samples, one a round over `calls` calls; p95 with its interval, min and
        max of single calls, or of samples where `tail_calls` is more than 1. outliers: samples beyond 1.5 interquartile
        ranges, counted and not dropped. warmup_calls: calls until the arm was as fast as later. memory: bytes.
        """
        import pandas as pd

        return pd.DataFrame([self._row(name) for name in self.names])

    def table(self) -> pd.DataFrame:
        """Returns the frame as text, with the verdict on each arm beside the first."""
        import pandas as pd

        rows = {}
        for name, row in self.frame().set_index("arm").iterrows():
            ends = fmt.interval(row["median_low"], row["median_high"], fmt.duration)
            shown = {column: fmt.duration(row[column]) for column in ("average", "min", "max", "median", "p95")}
            against = "" if name == self.names[0] else self.compare(self.names[0], str(name)).told
            rows[name] = {**shown, "median, 95 %": ends, "outliers": int(row["outliers"]), "verdict": against}
            if math.isfinite(row["memory"]):
                rows[name]["memory"] = fmt.size(row["memory"])
        return pd.DataFrame.from_dict(rows, orient="index")

    def plot(self, ax: Axes | None = None, *, title: str | None = None) -> Axes:
        """Draws the median of every arm with its interval; `title` is the finding unless given."""
        from skilllab import plots

        medians = [self.median(name) for name in self.names]
        return plots.bars(
            self.names,
            medians,
            intervals=[self.interval(name) for name in self.names],
            show=fmt.duration,
            log=max(medians) > _FAR * min(medians),
            title=self.finding if title is None else title,
            x_label=f"Time a call: median of {fmt.count(self.rounds)} rounds, {fmt.ratio(self.design.confidence, 0)} interval",
            ax=ax,
        )

    @property
    def finding(self) -> str:
        """What it comes to, in one line: every arm beside the first."""
        first, *others = self.names
        if not others:
            return f"{first} takes {fmt.duration(self.median(first))}"
        parts = []
        for name in others:
            found = self.compare(first, name)
            parts.append(f"{name} takes {fmt.times(found.ratio)} as long as {first} ({found.told})")
        return "; ".join(parts)

    def __str__(self) -> str:
        pairs = [str(self.compare(self.names[0], name)) for name in self.names[1:]]
        medians = ", ".join(f"{name} {fmt.duration(self.median(name))}" for name in self.names)
        garbage = "on" if self.design.collect_garbage else "off inside samples"
        where = f" in {fmt.count(len(self.runs))} processes" if len(self.runs) > 1 else ""
        how = f"{fmt.count(self.rounds)} rounds{where} in {fmt.duration(self.elapsed)}, garbage collector {garbage}"
        spread = [self._spread] if len(self.runs) > 1 else []
        return ". ".join([f"Median time a call: {medians} ({how})", *pairs, *spread, *self.remarks]) + "."

    def __repr__(self) -> str:
        return str(self)

    def _repr_html_(self) -> str:
        return f"<p>{escape(str(self))}</p>{self.table().to_html()}"

    def to_json(self) -> dict[str, Any]:
        """Returns the result as plain JSON values."""
        return {
            "version": _VERSION,
            "design": asdict(self.design),
            "elapsed": self.elapsed,
            "runs": [{name: times.to_json() for name, times in run.items()} for run in self.runs],
        }

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> BenchmarkResult:
        """Returns the result that `to_json` wrote; raises InvalidValueError for anything else."""
        if values.get("version") != _VERSION:
            raise InvalidValueError(f"version(={values.get('version')!r}) of a benchmark must be {_VERSION}")
        try:
            runs = tuple({name: ArmTimes.from_json(times) for name, times in run.items()} for run in values["runs"])
            return cls(runs, Design(**values["design"]), float(values["elapsed"]))
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise InvalidValueError(f"not the JSON of a benchmark: {type(error).__name__}: {error}") from error

    def save_pyperf(self, path: str | Path) -> None:
        """Writes the result as pyperf's JSON: `python -m pyperf compare_to before.json after.json` works on it."""
        from skilllab.experiments.benchmark.pyperf import write_pyperf

        write_pyperf(self, Path(path))

    @cached_property
    def _compared(self) -> dict[tuple[str, str], Compared]:
        return {}

    def _compare(self, a: str, b: str) -> Compared:
        of_a, of_b, design = self.times(a), self.times(b), self.design
        options = {"smallest_difference": design.smallest_difference, "confidence": design.confidence}
        typical, tail = compare(of_a, of_b, looks=design.looks, side_by_side=design.side_by_side, **options)
        calls = max(times.tail_calls for times in (*of_a, *of_b))
        return self._compared.setdefault((a, b), Compared(a, b, typical, tail, calls, design.side_by_side))

    def _row(self, name: str) -> dict[str, Any]:
        samples, column, each = self.samples(name), self.one_by_one(name), self.times(name)
        average, median = mean_interval(samples, self.design.confidence, resamples=500), self.interval(name)
        p95 = self._p95_interval(column)
        peaks = [times.memory for times in each if times.memory is not None]
        return {
            "arm": name,
            "average": float(samples.mean()),
            **_ends("average", average),
            "min": float(column.min()),
            "max": float(column.max()),
            "median": quantile(samples, 0.5),
            **_ends("median", median),
            "p95": quantile(column, 0.95),
            **_ends("p95", p95),
            "outliers": sum(times.outliers for times in each),
            "rounds": len(samples),
            "calls": max(times.calls for times in each),
            "tail_calls": max(times.tail_calls for times in each),
            "warmup_calls": max(times.warmup_calls for times in each),
            "memory": max(peaks) if peaks else math.nan,
        }

    def _p95_interval(self, column: Array) -> Interval | None:
        """Returns the interval of p95 of times in the order in which they were measured, as slow ones come together.

        Of fewer values than tell whether they do, it is that of independent ones.
        """
        confidence = self.design.confidence
        if len(column) < series.enough(0.95, confidence):
            return quantile_interval(column, 0.95, confidence)
        return series.quantile_interval(column, 0.95, confidence)

    def _drifts(self, name: str) -> bool:
        """Whether the last quarter of the rounds is faster than the first, by more than chance makes of it."""
        for times in self.times(name):
            quarter = len(times.samples) // 4
            if quarter:
                first, last = (
                    quantile_interval(part, 0.5) for part in (times.samples[:quarter], times.samples[-quarter:])
                )
                if first and last and last.high < (1 - _DRIFT) * first.low:
                    return True
        return False

    @property
    def _spread(self) -> str:
        """How far apart the processes are, in words."""
        parts = []
        for name in self.names:
            medians = [quantile(times.samples, 0.5) for times in self.times(name)]
            parts.append(f"{name} {fmt.interval(min(medians), max(medians), fmt.duration)}")
        return f"Between processes the median goes from {'; '.join(parts)}"


def _ends(name: str, interval: Interval | None) -> dict[str, float]:
    low, high = (math.nan, math.nan) if interval is None else (interval.low, interval.high)
    return {f"{name}_low": low, f"{name}_high": high}
