"""TrialResult: every call of a trial, and what follows from them."""

from __future__ import annotations

import html
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from functools import cached_property
from itertools import takewhile
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import numpy.typing as npt

from skilllab import series
from skilllab.errors import InvalidValueError
from skilllab.experiments.trial.target import Kind
from skilllab.settings import TRIAL_TIMEOUT
from skilllab.skills.redaction import redacted, redacted_params
from skilllab.stats import Array, Interval, quantile, smallest_n

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

_VERSION = 1


def estimate(values: npt.ArrayLike, q: float) -> tuple[float | None, Interval | None]:
    """Returns the `q`-quantile of values in the order of time and its 95 % interval, each None where they are too few."""
    column = np.asarray(values, dtype=np.float64)
    if len(column) < smallest_n(q):
        return None, None
    return quantile(column, q), series.quantile_interval(column, q)


@dataclass(frozen=True)
class ToolTrial:
    """The calls of one tool in the order of time, the first kept apart. All times in seconds, nan where there is none.

    params: of every call. first: what the first call took from its start to its result; None when it was never called.
    at: starts since the trial began. late: how much after it was due a call began, since whoever calls was held up.
    queue: how long it waited in the engine. handler: how long the tool took, a new connection to a lost server not counted.
    size: bytes of the result as JSON. error: the kind of error, "" for none. messages: one of each kind. cut: calls that were
    under way when the trial ended. gave_up: whether the calls ended early, since one after the other failed.
    """

    name: str
    params: Mapping[str, Any]
    first: float | None = None
    first_error: str = ""
    at: tuple[float, ...] = ()
    late: tuple[float, ...] = ()
    queue: tuple[float, ...] = ()
    handler: tuple[float, ...] = ()
    size: tuple[float, ...] = ()
    error: tuple[str, ...] = ()
    messages: Mapping[str, str] = field(default_factory=dict)
    cut: int = 0
    gave_up: bool = False

    @cached_property
    def ok(self) -> Array:
        """Which calls succeeded, as 0 and 1."""
        return np.array([not kind for kind in self.error], dtype=np.float64)

    @cached_property
    def handled(self) -> Array:
        """The handler times of the calls that succeeded: a failure is no fast answer."""
        return np.array(self.handler)[self.ok > 0] if self.handler else np.empty(0)

    @cached_property
    def sizes(self) -> Array:
        """The sizes of the results that JSON can hold."""
        sizes = np.array(self.size)
        return sizes[np.isfinite(sizes)] if len(sizes) else sizes

    @property
    def calls(self) -> int:
        """Calls that ended, without the first."""
        return len(self.error)

    @property
    def errors(self) -> dict[str, int]:
        """How often each kind of error came, the first call's among them, the most frequent first."""
        kinds = [kind for kind in (self.first_error, *self.error) if kind]
        return {kind: kinds.count(kind) for kind in sorted(set(kinds), key=lambda kind: (-kinds.count(kind), kind))}

    @property
    def failed_last(self) -> int:
        """How many of the last calls failed, one after the other."""
        kinds = [*(() if self.first is None else (self.first_error,)), *self.error]
        return len(list(takewhile(bool, reversed(kinds))))

    def said(self, kind: str) -> str:
        """Returns what one error of the kind said, without the tool's name before it."""
        return self.messages[kind].removeprefix(f"{self.name}: ")

    def handler_quantile(self, q: float) -> tuple[float | None, Interval | None]:
        """Returns a quantile of the handler times and its interval, each None where there are too few for it."""
        return estimate(self.handled, q)


@dataclass(frozen=True, repr=False)
class TrialResult:
    """What a trial saw. started: seconds since the epoch; all other times in seconds, sizes in bytes.

    target, kind, title: what was tried. connect: until it could be called; connecting: what that was; reconnects: of a server
    that was lost. rate: requests a second at most, calls and pings together, one at a time. elapsed: of the trial, at most
    `duration` was asked for; timeout: of one call. allow: tools that were called since they were named, without saying that
    they only read. options: what else the command line took to open the target, names of secrets and never their values.
    passed_over: why each other tool was not called. floor: what a call takes that does nothing on the same way through the
    engine, in the same run. pings: round trips to the server that ask for nothing. memory: (time, bytes) of a server that
    was started, with all its processes. others: share of the processors that other programs used. stopped: by whoever ran it.
    """

    target: str
    kind: Kind
    title: str
    connect: float
    connecting: str
    rate: float
    duration: float
    elapsed: float
    tools: tuple[ToolTrial, ...]
    passed_over: Mapping[str, str]
    timeout: float = TRIAL_TIMEOUT
    allow: tuple[str, ...] = ()
    options: tuple[str, ...] = ()
    problems: tuple[str, ...] = ()
    floor: tuple[float, ...] = ()
    pings: tuple[float, ...] = ()
    memory: tuple[tuple[float, int], ...] = ()
    reconnects: tuple[float, ...] = ()
    others: float | None = None
    stopped: bool = False
    seed: int = 0
    started: float = 0.0

    @property
    def calls(self) -> int:
        """Calls of all tools that ended, first ones included."""
        return sum(tool.calls + (tool.first is not None) for tool in self.tools)

    @property
    def errors(self) -> int:
        """Calls that failed, first ones included."""
        return sum(sum(tool.errors.values()) for tool in self.tools)

    @property
    def failed(self) -> bool:
        """Whether no call at all succeeded."""
        return self.errors == self.calls

    @cached_property
    def queue(self) -> Array:
        """What all calls waited in the engine, in the order of time."""
        return self._in_order("queue")

    @cached_property
    def late(self) -> Array:
        """How late all calls began, in the order of time: what whoever calls lost, not the target."""
        return self._in_order("late")

    def _in_order(self, name: str) -> Array:
        rows = [row for tool in self.tools for row in zip(tool.at, getattr(tool, name), strict=True)]
        return np.array([value for _, value in sorted(rows)], dtype=np.float64)

    @cached_property
    def noise_floor(self) -> float | None:
        """The median of what a call takes that does nothing; None before there are enough."""
        return quantile(self.floor, 0.5) if len(self.floor) >= smallest_n(0.5) else None

    def metrics(self) -> dict[str, tuple[float, Interval | None]]:
        """Returns what can be compared with another trial, and its interval."""
        found: dict[str, tuple[float, Interval | None]] = {"connect": (self.connect, None)}
        for tool in self.tools:
            for name, q in (("p50", 0.5), ("p95", 0.95)):
                value, interval = tool.handler_quantile(q)
                if value is not None:
                    found[f"{tool.name} {name}"] = value, interval
            if tool.calls:
                found[f"{tool.name} errors"] = 1 - float(tool.ok.mean()), series.proportion_interval(1 - tool.ok)
        return found

    def frame(self) -> pd.DataFrame:
        """Returns a row a call, the first ones apart: tool, at, late, queue, handler (s), size (bytes), error."""
        import pandas as pd

        columns = ("at", "late", "queue", "handler", "size", "error")
        frames = [
            pd.DataFrame({"tool": tool.name, **{name: list(getattr(tool, name)) for name in columns}})
            for tool in self.tools
        ]
        rows = pd.concat(frames, ignore_index=True) if frames else pd.DataFrame(columns=["tool", *columns])
        kinds = {"tool": "string", "error": "string", **dict.fromkeys(columns[:-1], "float64")}
        return rows.astype(kinds).sort_values("at", ignore_index=True)

    def plot(self, ax: Axes | None = None) -> Axes:
        """Draws handler time against percentile for each tool, and what a call takes that does nothing.

        Raises InvalidValueError when nothing has enough values for a median.
        """
        from skilllab import plots
        from skilllab.experiments.trial.advice import first_finding

        lines = {tool.name: tool.handled for tool in self.tools} | {"nothing": np.array(self.floor)}
        drawn = {name: values for name, values in lines.items() if len(values) >= smallest_n(0.5)}
        if not drawn:
            raise InvalidValueError(f"{self.calls} calls are too few for a curve: try longer")
        return plots.percentile_curve(drawn, title=first_finding(self).text, y_label="Handler time", ax=ax)

    def __repr__(self) -> str:
        return f"<TrialResult of {self.calls} calls, {self.errors} failed: {self.title}>"

    def __str__(self) -> str:
        from skilllab.experiments.trial.page import paragraph

        return paragraph(self)

    def _repr_html_(self) -> str:
        from skilllab.experiments.trial.page import page

        return f"<pre>{html.escape(page(self))}</pre>"

    def to_json(self) -> dict[str, Any]:
        """Returns plain JSON values that `from_json` reads; `***` stands for what may be secret in target and parameters."""
        plain = _plain(asdict(self))
        tools = [{**tool, "params": redacted_params(tool["params"])} for tool in plain["tools"]]
        return {"version": _VERSION, **plain, "target": redacted(self.target), "tools": tools}

    @classmethod
    def from_json(cls, values: Mapping[str, Any], /) -> Self:
        """Returns the trial that `to_json` wrote; raises InvalidValueError for what it did not write."""
        if values.get("version") != _VERSION:
            raise InvalidValueError(f"version={values.get('version')!r} of a trial is not known here: it is {_VERSION}")
        fields = {name: _tuples(value) for name, value in values.items() if name != "version"}
        try:
            fields["tools"] = tuple(
                ToolTrial(**{name: _numbers(value) for name, value in tool.items()}) for tool in values["tools"]
            )
            return cls(**fields)
        except (TypeError, KeyError, AttributeError) as error:
            raise InvalidValueError(f"this is no trial as to_json writes it: {error}") from error


def _plain(value: Any) -> Any:
    """Returns the value with lists for tuples and None for nan, which JSON does not have."""
    if isinstance(value, Mapping):
        return {name: _plain(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return None if isinstance(value, float) and math.isnan(value) else value


def _tuples(value: Any) -> Any:
    return tuple(map(_tuples, value)) if isinstance(value, list) else value


def _numbers(value: Any) -> Any:
    """Returns a column as it was: a tuple, with nan for None."""
    return tuple(math.nan if item is None else item for item in value) if isinstance(value, list) else value
