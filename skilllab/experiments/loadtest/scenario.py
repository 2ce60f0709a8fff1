"""Scenarios: what a load test asks, how fast, for how long, and when it gives up. Checked when made, and they travel."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal, get_args

from skilllab import settings
from skilllab.errors import InvalidValueError
from skilllab.experiments.loadtest.slo import parse_slo
from skilllab.model import ResourceLimits

Arrivals = Literal["poisson", "constant", "ramp", "step", "spike", "sine"]
Params = Mapping[str, Any] | Sequence[Mapping[str, Any]] | Callable[[int], Mapping[str, Any]]
_TO = ("ramp", "step", "spike", "sine")  # arrivals that go from one rate to another


@dataclass(frozen=True, slots=True)
class Stage:
    """A part of a load test, `duration` seconds long: open with a `rate`, or closed with a `concurrency`.

    Open: requests begin at their own times, `rate` a second, whatever became of those before. arrivals: "poisson", or
    "constant" (evenly spaced), or a Poisson process whose rate changes: a "ramp" goes from `rate` to the rate `to`, a
    "step" in so many `steps` of equal length, a "spike" to `to` and back for `period` seconds in the middle (a fifth of
    the stage unless given), a "sine" to `to` and back in every `period` (the whole stage unless given).
    Closed: so many workers, of which each begins its next request when its last has ended.
    duration: None in the only stage of a test that is bounded by a count.
    """

    duration: float | None
    rate: float | None = None
    concurrency: int | None = None
    arrivals: Arrivals = "poisson"
    to: float | None = None
    steps: int = 5
    period: float | None = None
    name: str = ""

    def __post_init__(self) -> None:
        positive("duration", self.duration, "seconds", optional=True)
        positive("rate", self.rate, "requests a second", optional=True)
        counted("concurrency", self.concurrency, "workers", optional=True)
        positive("to", self.to, "requests a second", optional=True)
        positive("period", self.period, "seconds", optional=True)
        counted("steps", self.steps, "rates")
        if (self.rate is None) == (self.concurrency is None):
            raise InvalidValueError(
                f"rate(={self.rate}) and concurrency(={self.concurrency}): give one of them, a rate for an open model, "
                "a concurrency for a closed one"
            )
        if self.arrivals not in get_args(Arrivals):
            raise InvalidValueError(f"arrivals={self.arrivals!r} must be one of {', '.join(get_args(Arrivals))}")
        self._check_shape()

    def _check_shape(self) -> None:
        if self.concurrency is not None and (self.arrivals != "poisson" or self.to is not None):
            raise InvalidValueError(f"arrivals={self.arrivals!r} belong to an open stage: give a rate, no concurrency")
        if self.arrivals in _TO and (self.to is None or self.duration is None):
            raise InvalidValueError(
                f"arrivals={self.arrivals!r} need duration(={self.duration}) and to(={self.to}), the rate they go to"
            )
        if self.arrivals not in _TO and self.to is not None:
            raise InvalidValueError(
                f"to(={self.to}) means nothing with arrivals={self.arrivals!r}: use {', '.join(_TO)}"
            )
        if self.arrivals == "spike" and self.period is not None and self.period > (self.duration or 0.0):
            raise InvalidValueError(f"period(={self.period}) of a spike must be within its duration(={self.duration})")

    @property
    def open(self) -> bool:
        """True for an open model, False for a closed one."""
        return self.rate is not None


@dataclass(frozen=True, slots=True)
class Abort:
    """When a test ends early, to spare a server that is not ours; what was measured until then is kept.

    errors: share of the requests within the last `window` seconds (with at least `least` of them) that ends it when they
    failed, by a time-out for one, or were dropped. broken: seconds for which the scenario's SLO must have been broken in
    every window; a request that has no end for longer than the bound of a latency breaks it too, so that this ends a test
    whose target hangs. None: this ends no test.
    """

    errors: float | None = 0.5
    broken: float | None = None
    window: float = 5.0
    least: int = 10

    def __post_init__(self) -> None:
        positive("broken", self.broken, "seconds", optional=True)
        positive("window", self.window, "seconds")
        counted("least", self.least, "requests")
        if self.errors is not None and not (_number(self.errors) and 0 < self.errors <= 1):
            raise InvalidValueError(f"errors(={self.errors!r}) must be a share above 0 and up to 1: half is 0.5")
        if self.errors is None and self.broken is None:
            raise InvalidValueError("errors and broken are None: such a guard ends nothing, leave it out")


@dataclass(frozen=True, slots=True)
class Scenario:
    """One load test: which skill is asked for what, in which stages.

    params: of every request, or a list of them that goes round, or a function of the request's number from 0 on.
    warmup: seconds at the begin that are kept apart. count: requests after which the test ends, those of the warm-up
    among them. max_in_flight: requests under way at once in an open model; what would exceed it is dropped and counted.
    cache: whether kept results may answer. timeout: seconds a request may take ("inherit": the skill's). seed: of the
    arrivals, a whole number from 0 on. slo: what must hold, such as "p95 < 50 ms and errors < 0.1 %". abort: when the test
    gives up.
    """

    skill_id: str
    params: Params
    stages: tuple[Stage, ...]
    warmup: float = 0.0
    count: int | None = None
    max_in_flight: int = settings.MAX_IN_FLIGHT
    cache: bool = False
    timeout: float | Literal["inherit"] | None = "inherit"
    resource_limits: ResourceLimits | None = None
    seed: int = 0
    slo: str | None = None
    abort: Abort | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.skill_id, str) or not self.skill_id:
            raise InvalidValueError(f"skill_id={self.skill_id!r} must be the id of a registered skill, as text")
        self._check_params()
        self._check_stages()
        counted("count", self.count, "requests", optional=True)
        counted("max_in_flight", self.max_in_flight, "requests")
        if not (isinstance(self.seed, int) and not isinstance(self.seed, bool) and self.seed >= 0):
            raise InvalidValueError(f"seed(={self.seed!r}) must be a whole number, 0 or above")
        if self.timeout != "inherit":
            positive("timeout", self.timeout, "seconds", optional=True)
        if not (_number(self.warmup) and 0 <= self.warmup < math.inf):
            raise InvalidValueError(f"warmup(={self.warmup!r}) must be 0 or more seconds")
        if self.duration is not None and self.warmup >= self.duration:
            raise InvalidValueError(
                f"duration(={self.duration:g} s) must be longer than warmup(={self.warmup:g} s): nothing would be measured"
            )
        if self.slo is not None:
            parse_slo(self.slo)
        if self.abort is not None and self.abort.broken is not None and self.slo is None:
            raise InvalidValueError(f"abort: broken(={self.abort.broken:g} s) needs an slo that can be broken")

    def _check_params(self) -> None:
        params = self.params
        if callable(params) or isinstance(params, Mapping):
            return
        if not isinstance(params, Sequence) or not params or not all(isinstance(each, Mapping) for each in params):
            raise InvalidValueError(
                f"params={params!r:.80} must be the parameters by name, a list of such with at least one, or a function "
                "that returns them for a request's number"
            )

    def _check_stages(self) -> None:
        if not self.stages or not all(isinstance(stage, Stage) for stage in self.stages):
            raise InvalidValueError(f"stages={self.stages!r:.80} must be one Stage(...) or more")
        if len({stage.open for stage in self.stages}) > 1:
            raise InvalidValueError("stages: all must be open (rate) or all closed (concurrency): run two tests")
        endless = any(stage.duration is None for stage in self.stages)
        if endless and (self.count is None or len(self.stages) > 1):
            raise InvalidValueError("duration=None: without an end in time a test needs a count, and one stage only")

    @property
    def open(self) -> bool:
        """True for an open model, False for a closed one."""
        return self.stages[0].open

    @property
    def duration(self) -> float | None:
        """Seconds of all stages; None when only the count ends the test."""
        lengths = [stage.duration for stage in self.stages if stage.duration is not None]
        return sum(lengths) if len(lengths) == len(self.stages) else None

    @property
    def bounds(self) -> tuple[float, ...]:
        """Where the stages begin, and where the last one ends (inf without an end), in seconds from the begin."""
        bounds = [0.0]
        for stage in self.stages:
            bounds.append(bounds[-1] + (math.inf if stage.duration is None else stage.duration))
        return tuple(bounds)

    def params_of(self) -> Callable[[int], Mapping[str, Any]]:
        """Returns the function that gives the parameters of a request by its number."""
        params = self.params
        if callable(params):
            return params
        if isinstance(params, Mapping):
            return lambda number: params
        return lambda number: params[number % len(params)]

    def to_json(self) -> dict[str, Any]:
        """Returns plain values for `from_json`; a function of parameters, or one that is no JSON, is kept as its name."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        limits = self.resource_limits
        values["params"] = _plain(self.params)
        values["stages"] = [asdict(stage) for stage in self.stages]
        values["resource_limits"] = None if limits is None else limits.model_dump(exclude_none=True)
        values["abort"] = None if self.abort is None else asdict(self.abort)
        return values

    @classmethod
    def from_json(cls, saved: Mapping[str, Any]) -> Scenario:
        """Returns the scenario that `to_json` wrote; where its parameters were not kept it cannot run again."""
        values, params = dict(saved), saved["params"]
        values["params"] = _NotKept(params) if isinstance(params, str) else params
        values["stages"] = tuple(Stage(**stage) for stage in saved["stages"])
        limits, abort = saved["resource_limits"], saved["abort"]
        values["resource_limits"] = None if limits is None else ResourceLimits(**limits)
        values["abort"] = None if abort is None else Abort(**abort)
        return cls(**values)


@dataclass(frozen=True, slots=True)
class _NotKept:
    """Stands for parameters that a file could not keep."""

    name: str

    def __call__(self, number: int) -> Mapping[str, Any]:
        raise InvalidValueError(f"params={self.name} were not kept with the result: give them anew")


def _plain(params: Params) -> Any:
    """Returns parameters that JSON gives back as they are, else their name."""
    if isinstance(params, _NotKept):
        return params.name
    if callable(params):
        return str(getattr(params, "__qualname__", type(params).__qualname__))
    copy = dict(params) if isinstance(params, Mapping) else [dict(each) for each in params]
    try:
        return copy if json.loads(json.dumps(copy)) == copy else f"{params!r:.200}"
    except (TypeError, ValueError):
        return f"{params!r:.200}"


def positive(name: str, value: Any, unit: str, *, optional: bool = False) -> None:
    """Raises InvalidValueError unless the value is a finite number above 0 (or None where that means something)."""
    if not (value is None and optional) and not (_number(value) and 0 < value < math.inf):
        raise InvalidValueError(f"{name}(={value!r}) must be a finite number of {unit} above 0")


def counted(name: str, value: Any, unit: str, *, optional: bool = False) -> None:
    """Raises InvalidValueError unless the value is a whole number from 1 on (or None where that means something)."""
    whole = isinstance(value, int) and not isinstance(value, bool) and value >= 1
    if not (value is None and optional) and not whole:
        raise InvalidValueError(f"{name}(={value!r}) must be a whole number of {unit}, at least 1")


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
