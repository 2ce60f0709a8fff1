"""The history of runs: results with all that they depend on, to list, load, compare and follow over time."""

from __future__ import annotations

import importlib
import json
import math
import operator
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, Self

from skilllab import format as fmt
from skilllab.errors import HistoryError, InvalidValueError
from skilllab.experiments.history_file import HistoryFile, plain_text
from skilllab.experiments.surroundings import commit, machine, versions
from skilllab.settings import HISTORY_WAIT
from skilllab.stats import Interval

if TYPE_CHECKING:
    import pandas as pd


_TRIAL = ("target", "kind", "rate", "duration", "timeout", "allow", "seed")


class Kind(NamedTuple):
    """Where a kind of result is imported from, and which values of its JSON say how it was measured."""

    module: str
    settings: tuple[str, ...] = ()


KINDS = {
    "BenchmarkResult": Kind("skilllab.experiments.benchmark.result", ("design",)),
    "CapacityResult": Kind("skilllab.experiments.loadtest.capacity", ("scenario", "slo")),
    "LoadTestResult": Kind("skilllab.experiments.loadtest.result", ("scenario",)),
    "PerformanceReport": Kind("skilllab.monitor.report", ("window",)),
    "TrialResult": Kind("skilllab.experiments.trial.result", _TRIAL),
}
"""The kinds of results; none is imported before one is saved or loaded."""

Metrics = Mapping[str, tuple[float, Interval | None]]
"""Names, values in seconds, bytes, per second or 0 to 1, and their intervals where there are any."""

_ENDS = ("a_low", "a_high", "b_low", "b_high")
_APART = ("higher", "lower")


class Result(Protocol):
    """What can be kept: plain JSON values, and back. With `metrics() -> Metrics` it can be compared and followed, too."""

    def to_json(self) -> dict[str, Any]: ...

    @classmethod
    def from_json(cls, values: dict[str, Any], /) -> Self: ...


@dataclass(frozen=True, slots=True)
class Run:
    """What is known of a run beside its result; `commit` and `dirty` are None where it was not in a git checkout."""

    run: int
    at: str
    kind: str
    label: str
    seed: int | None
    parameters: dict[str, Any]
    versions: dict[str, str]
    machine: dict[str, str | int]
    commit: str | None
    dirty: bool | None

    def differences(self, other: Run) -> tuple[str, ...]:
        """Returns what another run has different, a phrase for each: "kernel Linux 6.1 → Linux 6.8"."""
        code = ({"commit": self._code}, {"commit": other._code})
        pairs = [(getattr(self, name), getattr(other, name)) for name in _TEXTS]
        flat = [(_flat(a), _flat(b)) for a, b in (*pairs, code)]
        return tuple(
            f"{name} {_shown(a.get(name))} → {_shown(b.get(name))}"
            for a, b in flat
            for name in dict.fromkeys([*a, *b])
            if a.get(name) != b.get(name)
        )

    @property
    def _code(self) -> str | None:
        return None if self.commit is None else self.commit[:12] + " with changes" * bool(self.dirty)


_COLUMNS = ", ".join(f'"{field.name}"' for field in fields(Run))
_SUCH = "WHERE kind = coalesce(?, kind) AND label = coalesce(?, label)"
_TEXTS = ("parameters", "machine", "versions")
_MOST = 8  # differences in one paragraph


@dataclass(frozen=True, slots=True)
class ComparedRuns:
    """Two runs side by side; `differences` says what else was not the same: parameters, machine, versions, commit."""

    a: int
    b: int
    kind: str
    rows: tuple[tuple[Any, ...], ...]
    differences: tuple[str, ...]

    def frame(self) -> pd.DataFrame:
        """Returns a row a metric: metric, a, b, ratio (b / a), verdict on b, and the ends of both intervals.

        The verdict is "higher" or "lower" where the intervals lie apart, "inconclusive" where they overlap or a value has
        none, "not measured" where one run lacks the metric. Runs of different hours are never called the same.
        """
        import pandas as pd

        numbers = dict.fromkeys(["a", "b", "ratio", *_ENDS], "float64")
        return pd.DataFrame(self.rows, columns=["metric", "a", "b", "ratio", "verdict", *_ENDS]).astype(numbers)

    def __str__(self) -> str:
        apart = [
            f"{name} {fmt.times(ratio)} ({verdict})"
            for name, _, _, ratio, verdict, *_ in self.rows
            if verdict in _APART
        ]
        unsure = [f"{name} ({verdict})" for name, _, _, _, verdict, *_ in self.rows if verdict not in _APART]
        found = ", ".join(apart) or ("no metric is known to differ" if self.rows else "neither has a metric")
        parts = [
            f"Run {self.b} against run {self.a} ({self.kind}): {found}.",
            f"Not known to differ: {', '.join(unsure)}." if unsure else "",
            f"Warning, these were not the same: {_first(self.differences)}." if self.differences else "",
            "Runs of different hours differ by what else the machine did, too: benchmark() compares side by side.",
        ]
        return " ".join(part for part in parts if part)

    def _repr_html_(self) -> str:
        import html

        return f"<p>{html.escape(str(self))}</p>{self.frame().to_html(index=False)}"


class History:
    """Results in one SQLite file, each with parameters, seed, versions, machine and git commit.

    path: the file, made with its folder when something is saved; None is `skilllab/history.sqlite` in $XDG_STATE_HOME
    or ~/.local/state. wait: seconds to wait for another writer. clock: seconds since 1970.
    Environment variables are not kept, and the home folder is written as ~. pandas reads the file as it is:
    `pandas.read_sql("SELECT * FROM metrics JOIN runs USING (run)", sqlite3.connect(history.path))`.

    Every method raises HistoryError when the file is damaged, of a newer version, another program's, busy for too long or
    out of room; what it held is unharmed.
    """

    def __init__(
        self,
        path: str | os.PathLike[str] | None = None,
        *,
        wait: float = HISTORY_WAIT,
        clock: Callable[[], float] = time.time,
    ) -> None:
        if not 0 <= wait < math.inf:
            raise InvalidValueError(f"wait(={wait}) must be seconds from 0 up")
        self.path = Path(path).absolute() if path is not None else _default_path(os.environ)
        self._file = HistoryFile(self.path, wait)
        self._clock = clock

    def save(self, result: Result, label: str = "", **parameters: Any) -> int:
        """Keeps a result and returns the number of its run; when it returns, all of it is on the disk.

        label: what to find the run by. parameters: plain values that it depends on, beside what the result itself says of
        how it was measured; a function is kept by name. The seed is the parameter of that name, a whole number of any size.
        Raises InvalidValueError for a result of no known kind, for a seed that is none, and for parameters that JSON does
        not know.
        """
        kind, here = _kind_of(result), commit()
        values = result.to_json()
        parameters = _settings(KINDS[kind], values) | parameters
        row = (
            datetime.fromtimestamp(self._clock(), UTC).isoformat(timespec="milliseconds"),
            kind,
            label,
            _seed_column(parameters.get("seed")),
            *(plain_text(each, name) for each, name in ((parameters, "parameters"), (versions(), ""), (machine(), ""))),
            here and here.id,
            here and here.dirty,
            plain_text(values, f"{kind}.to_json()"),
        )
        metrics = [(name, value, *_parts(interval)) for name, (value, interval) in _metrics_of(result).items()]
        with self._file.writing() as db:
            run = db.execute(f"INSERT INTO runs VALUES (NULL{', ?' * len(row)})", row).lastrowid
            db.executemany("INSERT INTO metrics VALUES (?, ?, ?, ?, ?, ?)", [(run, *metric) for metric in metrics])
        assert run is not None
        return run

    def list(self, kind: str | None = None, label: str | None = None, limit: int | None = 50) -> pd.DataFrame:
        """Returns the latest runs, one row each, the newest first.

        Columns: run, at (UTC), kind, label, seed, parameters, versions and machine (as dict), commit, dirty. seed: Int64, or
        Python's whole numbers where one has more than 64 bits.
        Raises InvalidValueError for a kind that is none.
        """
        import pandas as pd

        if limit is not None and _whole(limit, "limit") < 1:
            raise InvalidValueError(f"limit(={limit}) must be at least 1: None lists all")
        runs = [asdict(run) for run in self._runs(kind, label, limit)]
        frame = pd.DataFrame(runs, columns=[field.name for field in fields(Run)])
        texts = {"kind": "string", "label": "string", "commit": "string"}
        seeds = [run["seed"] for run in runs]
        small = all(_seed_column(seed) == seed for seed in seeds)
        frame["seed"] = pd.Series(seeds, dtype="Int64" if small else "object")  # never by way of floats
        return frame.astype({"run": "int64", "at": "datetime64[ns, UTC]", "dirty": "boolean", **texts})

    def load(self, run: int) -> Any:
        """Returns the result of a run as it was saved; raises InvalidValueError when there is no such run."""
        found = self._file.rows("SELECT kind, versions, result FROM runs WHERE run = ?", (_whole(run, "run"),))
        if not found:
            raise self._no_run(run)
        ((kind, kept_by, text),) = found
        try:
            return _class_of(kind).from_json(json.loads(text))
        except (ValueError, LookupError, TypeError, AttributeError) as error:
            message = (
                f"run(={run}) cannot be read as {kind}: it was saved with the versions {kept_by}, load it with those"
            )
            raise HistoryError(message) from error

    def compare(self, a: int, b: int) -> ComparedRuns:
        """Compares run `b` with run `a`, metric by metric, and says what else was different.

        Raises InvalidValueError when a run is missing or they are of different kinds.
        """
        (first, in_a), (second, in_b) = (self._measured(run) for run in (a, b))
        if first.kind != second.kind:
            raise InvalidValueError(f"runs {a} and {b} are a {first.kind} and a {second.kind}: compare two of one kind")
        nothing = (math.nan, None, None)
        rows = [
            _compared(name, in_a.get(name, nothing), in_b.get(name, nothing)) for name in dict.fromkeys([*in_a, *in_b])
        ]
        return ComparedRuns(a, b, first.kind, tuple(rows), first.differences(second))

    def trend(self, metric: str, *, kind: str | None = None, label: str | None = None) -> pd.DataFrame:
        """Returns a metric over time, one row a run, the oldest first.

        Columns: run, at (UTC), label, value, low, high, commit, changed. changed: how parameters, machine, versions and
        commit differ from the row before, "" where they do not. Raises InvalidValueError for a kind that is none, for a
        metric that no such run has, and for one that several kinds have unless `kind` is given.
        """
        import pandas as pd

        found = self._file.rows("SELECT run, value, low, high FROM metrics WHERE metric = ?", (str(metric),))
        values = {run: rest for run, *rest in found}
        runs = [run for run in reversed(self._runs(kind, label, None)) if run.run in values]
        kinds = sorted({run.kind for run in runs})
        if not runs:
            raise self._no_metric(metric, kind, label)
        if len(kinds) > 1:
            raise InvalidValueError(f"metric(={metric!r}) is measured by {' and '.join(kinds)}: choose one with kind=")
        changes = ["", *(_first(before.differences(run)) for before, run in pairwise(runs))]
        rows = [
            (run.run, run.at, run.label, *values[run.run], run.commit, changed)
            for run, changed in zip(runs, changes, strict=True)
        ]
        frame = pd.DataFrame(rows, columns=["run", "at", "label", "value", "low", "high", "commit", "changed"])
        return frame.astype({"at": "datetime64[ns, UTC]", **dict.fromkeys(["value", "low", "high"], "float64")})

    def __repr__(self) -> str:
        return f"History({str(self.path)!r})"

    def _runs(self, kind: str | None, label: str | None, limit: int | None) -> tuple[Run, ...]:
        self._require_kind(kind)
        most = -1 if limit is None else _whole(limit, "limit")
        rows = self._file.rows(f"SELECT {_COLUMNS} FROM runs {_SUCH} ORDER BY run DESC LIMIT ?", (kind, label, most))
        return tuple(_run(row) for row in rows)

    def _measured(self, run: int) -> tuple[Run, dict[str, tuple[float, float | None, float | None]]]:
        number = (_whole(run, "run"),)
        found = self._file.rows(f"SELECT {_COLUMNS} FROM runs WHERE run = ?", number)
        if not found:
            raise self._no_run(run)
        metrics = self._file.rows("SELECT metric, value, low, high FROM metrics WHERE run = ? ORDER BY rowid", number)
        return _run(found[0]), {
            name: (math.nan if value is None else value, low, high) for name, value, low, high in metrics
        }

    def _no_run(self, run: int) -> InvalidValueError:
        held = self._file.rows("SELECT min(run), max(run) FROM runs HAVING count(*)")
        told = "it holds runs from {} to {}, list() shows them".format(*held[0]) if held else "it holds none yet"
        return InvalidValueError(f"run(={run}) is not in {str(self.path)!r}: {told}")

    def _no_metric(self, metric: str, kind: str | None, label: str | None) -> InvalidValueError:
        query = f"SELECT DISTINCT metric FROM runs JOIN metrics USING (run) {_SUCH} ORDER BY metric"
        known = ", ".join(name for (name,) in self._file.rows(query, (kind, label)))
        which = f" of kind {kind}" * bool(kind) + f" with label {label!r}" * (label is not None)
        told = f"there are {known}" if known else "such a run has no metric, or there is none: list() shows all runs"
        return InvalidValueError(f"metric(={metric!r}) is in no run{which}: {told}")

    def _require_kind(self, kind: str | None) -> None:
        if kind is None or kind in KINDS:
            return
        known = {*KINDS, *(name for (name,) in self._file.rows("SELECT DISTINCT kind FROM runs"))}
        if kind not in known:
            raise InvalidValueError(f"kind(={kind!r}) is none: there are {', '.join(sorted(known))}")


def _default_path(environ: Mapping[str, str]) -> Path:
    """Returns the file in the user's state folder; a relative XDG_STATE_HOME counts as none, as its standard says."""
    named = environ.get("XDG_STATE_HOME", "")
    folder = Path(named) if os.path.isabs(named) else Path.home() / ".local" / "state"
    return folder / "skilllab" / "history.sqlite"


def _whole(value: int, name: str) -> int:
    """Returns a whole number that SQLite knows, of whatever library's type it is."""
    try:
        return max(-1, min(operator.index(value), 2**63 - 1))
    except TypeError:
        raise InvalidValueError(f"{name}(={value!r}) must be a whole number") from None


def _seed_column(seed: Any) -> int | str | None:
    """Returns a seed as the file has it: a number of more than SQLite's 64 bits is its hexadecimal text."""
    if seed is None:
        return None
    if isinstance(seed, bool) or not isinstance(seed, int):
        raise InvalidValueError(f"seed(={seed!r:.80}) must be a whole number, or None for none")
    return seed if -(2**63) <= seed < 2**63 else hex(seed)


def _class_of(kind: str) -> Any:
    if kind not in KINDS:
        raise LookupError(kind)
    return getattr(importlib.import_module(KINDS[kind].module), kind)


def _kind_of(result: Result) -> str:
    """Returns the kind of a result that `load` can make again."""
    kind = type(result).__name__
    if kind not in KINDS or _class_of(kind) is not type(result):
        raise InvalidValueError(f"result(={result!r:.80}) is no {', '.join(KINDS)}: a history keeps these")
    return kind


def _settings(kind: Kind, values: Mapping[str, Any]) -> dict[str, Any]:
    """Returns what a result's JSON says of how it was measured; what belongs together in it is spread out."""
    found: dict[str, Any] = {}
    for name in kind.settings:
        value = values.get(name)
        found |= value if isinstance(value, dict) else {name: value}
    return {name: value for name, value in found.items() if value is not None}


def _metrics_of(result: Result) -> Metrics:
    metrics: Callable[[], Metrics] | None = getattr(result, "metrics", None)
    return {} if metrics is None else metrics()


def _parts(interval: Interval | None) -> tuple[float | None, ...]:
    return (None, None, None) if interval is None else (interval.low, interval.high, interval.confidence)


def _run(row: tuple[Any, ...]) -> Run:
    values = dict(zip((field.name for field in fields(Run)), row, strict=True))
    values |= {name: json.loads(values[name]) for name in _TEXTS}
    seed = values["parameters"].get("seed")
    values["seed"] = int(seed) if isinstance(seed, int) else None  # the column cannot hold every number
    values["dirty"] = None if values["dirty"] is None else bool(values["dirty"])
    return Run(**values)


def _compared(name: str, a: tuple[float, Any, Any], b: tuple[float, Any, Any]) -> tuple[Any, ...]:
    ratio = b[0] / a[0] if a[0] else math.nan
    if math.isnan(a[0]) or math.isnan(b[0]):
        verdict = "not measured"
    elif None in (*a, *b) or (a[1] <= b[2] and b[1] <= a[2]):
        verdict = "inconclusive"
    else:
        verdict = "higher" if b[1] > a[2] else "lower"
    return (name, a[0], b[0], ratio, verdict, *a[1:], *b[1:])


def _flat(values: Any, name: str = "") -> dict[str, Any]:
    """Returns the values inside of dicts and lists by their paths: {"stages.0.rate": 100.0}."""
    if not isinstance(values, dict | list):
        return {name: values}
    inner = values.items() if isinstance(values, dict) else enumerate(values)
    return {path: value for key, each in inner for path, value in _flat(each, f"{name}.{key}".lstrip(".")).items()}


def _first(sentences: Sequence[str]) -> str:
    more = len(sentences) - _MOST
    return "; ".join(sentences[:_MOST]) + (f"; and {more} more" if more > 0 else "")


def _shown(value: object) -> str:
    return "none" if value is None else fmt.number(value) if isinstance(value, float) else str(value)
