"""How a demo server behaves: latencies, workers, errors, stalls, rate limits; frozen, checked, changed by making a copy."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from statistics import NormalDist
from typing import Any, ClassVar

from skilllab import settings
from skilllab.errors import InvalidValueError

ROUTES = ("weather", "user", "products", "echo", "batch", "bytes", "redirect", "secret")
"""What the server offers, by the names that settings and statistics use."""

_LONGEST = 86_400.0  # s; and of every other number here the largest that could be meant
_SHORTEST = 1e-9  # s; a median of next to nothing has tails beyond what a float holds
_SMALLEST = 2.0**-54  # half of the step between two draws: a draw of 0 has no normal quantile
_Z95 = NormalDist().inv_cdf(0.95)


@dataclass(frozen=True, slots=True)
class Constant:
    """Every service takes `seconds`."""

    seconds: float

    def __post_init__(self) -> None:
        _number("seconds", self.seconds, at_least=0)

    def at(self, u: float) -> float:
        """Returns the service time in seconds."""
        return self.seconds


@dataclass(frozen=True, slots=True)
class Exponential:
    """Service times are exponential with a `mean` in seconds."""

    mean: float

    def __post_init__(self) -> None:
        _number("mean", self.mean, above=0)

    def at(self, u: float) -> float:
        """Returns the `u`-quantile (0 to 1) in seconds."""
        return -self.mean * math.log1p(-u)


@dataclass(frozen=True, slots=True)
class Lognormal:
    """Service times are lognormal with a `median` and a `p95` in seconds."""

    median: float
    p95: float

    def __post_init__(self) -> None:
        _number("median", self.median, at_least=_SHORTEST)
        _number("p95", self.p95, at_least=self.median)

    def at(self, u: float) -> float:
        """Returns the `u`-quantile (0 to 1) in seconds."""
        z = NormalDist().inv_cdf(max(u, _SMALLEST))
        return self.median * math.exp(math.log(self.p95 / self.median) * z / _Z95)


Latency = Constant | Exponential | Lognormal


@dataclass(frozen=True, slots=True)
class Stall:
    """The server serves nothing in the last `duration` seconds of `every` so many seconds; what it has begun stands still."""

    duration: float
    every: float

    def __post_init__(self) -> None:
        _number("duration", self.duration, above=0)
        _number("every", self.every, above=self.duration)


@dataclass(frozen=True, slots=True)
class RateLimit:
    """A token bucket: `rate` requests a second for long, `burst` at once; what exceeds it is answered with 429."""

    rate: float
    burst: int = 1

    def __post_init__(self) -> None:
        _number("rate", self.rate, above=0, at_most=1e9)
        _whole("burst", self.burst, 1)


@dataclass(frozen=True, slots=True)
class DemoSettings:
    """How a demo server behaves; `DemoSettings()` answers at once, always, and for everyone.

    latency: service time in seconds, or Constant, Exponential, Lognormal; None takes no time. route_latency: a mapping of
    the same for single ROUTES, kept as pairs. workers: requests served at once, the others wait in order of arrival; None
    serves all at once. error_rate: share (0 to 1) of requests that are served and then answered with `error_status`.
    stall: when the server stands still. rate_limit: refuses at the door, at once, even in a stall. batch_max: items of a
    batch; batch_item_share: what each adds to its service time, as a share of it. gzip: compress large answers for those
    who ask. token: what /secret wants to see. log: served requests whose times are kept. seed: of the content and of every
    draw; each request takes one draw for its service time and one for its error, so that other settings with the same
    seed are paired.
    Raises InvalidValueError, which names the field and its value.
    """

    latency: Latency | float | None = None
    route_latency: Mapping[str, Latency | float | None] | tuple[tuple[str, Latency | None], ...] = ()
    workers: int | None = None
    error_rate: float = 0.0
    error_status: int = 500
    stall: Stall | None = None
    rate_limit: RateLimit | None = None
    batch_max: int = settings.DEMO_BATCH_MAX
    batch_item_share: float = settings.DEMO_ITEM_SHARE
    gzip: bool = True
    token: str = field(default="demo-token", repr=False)
    log: int = settings.DEMO_LOG
    seed: int = 0

    _LOG_MOST: ClassVar[int] = 1_000_000

    def __post_init__(self) -> None:
        set_ = object.__setattr__
        set_(self, "latency", _latency("latency", self.latency))
        set_(self, "route_latency", _route_latency(self.route_latency))
        if self.workers is not None:
            _whole("workers", self.workers, 1)
        _number("error_rate", self.error_rate, at_least=0, at_most=1)
        _whole("error_status", self.error_status, 500, 599)
        _kind("stall", self.stall, Stall, "Stall(duration=1.0, every=10.0)")
        _kind("rate_limit", self.rate_limit, RateLimit, "RateLimit(rate=10.0, burst=5)")
        _whole("batch_max", self.batch_max, 1)
        _number("batch_item_share", self.batch_item_share, at_least=0)
        if not isinstance(self.gzip, bool):
            raise InvalidValueError(f"gzip={self.gzip!r} must be True or False")
        if not isinstance(self.token, str) or not self.token:
            raise InvalidValueError(f"token of type {type(self.token).__name__} must be a text that is not empty")
        _whole("log", self.log, 0, self._LOG_MOST)
        _whole("seed", self.seed, None)

    def latency_of(self, route: str) -> Latency | None:
        """Returns how long the service of a route takes."""
        assert isinstance(self.route_latency, tuple)
        assert not isinstance(self.latency, int | float)  # numbers became Constant when this was made
        return dict(self.route_latency).get(route, self.latency)

    def changed(self, **changes: Any) -> DemoSettings:
        """Returns a copy with some fields changed and everything checked; an unknown field is an InvalidValueError."""
        known = [item.name for item in fields(self)]
        for name in changes:
            if name not in known:
                raise InvalidValueError(f"unknown setting {name}={changes[name]!r}: known are {', '.join(known)}")
        return replace(self, **changes)


def _route_latency(value: object) -> tuple[tuple[str, Latency | None], ...]:
    try:
        pairs = dict(value)  # type: ignore[call-overload]
    except (TypeError, ValueError):
        raise InvalidValueError(f"route_latency={value!r} must map routes to latencies: {{'user': 0.02}}") from None
    for route in pairs:
        if route not in ROUTES:
            raise InvalidValueError(f"route_latency has the unknown route {route!r}: known are {', '.join(ROUTES)}")
    return tuple((route, _latency(f"route_latency[{route!r}]", item)) for route, item in pairs.items())


def _latency(name: str, value: Any) -> Latency | None:
    if value is None or isinstance(value, Constant | Exponential | Lognormal):
        return value
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise InvalidValueError(f"{name}={value!r} must be seconds, Constant, Exponential, Lognormal or None")
    _number(name, value, at_least=0)
    return Constant(float(value))


def _kind(name: str, value: object, kind: type, example: str) -> None:
    if value is not None and not isinstance(value, kind):
        raise InvalidValueError(f"{name}={value!r} must be None or like {example}")


def _whole(name: str, value: object, low: int | None, high: int | None = None) -> None:
    if type(value) is not int:
        raise InvalidValueError(f"{name}={value!r} must be a whole number")
    if (low is not None and value < low) or (high is not None and value > high):
        raise InvalidValueError(f"{name}={value!r} must be {f'at least {low}' if high is None else f'{low} to {high}'}")


def _number(
    name: str, value: object, *, at_least: float | None = None, above: float | None = None, at_most: float = _LONGEST
) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float) or value != value:
        raise InvalidValueError(f"{name}={value!r} must be a number")
    if at_least is not None and value < at_least:
        raise InvalidValueError(f"{name}={value!r} must be at least {at_least:g}")
    if above is not None and value <= above:
        raise InvalidValueError(f"{name}={value!r} must be above {above:g}")
    if value > at_most:
        raise InvalidValueError(f"{name}={value!r} must be at most {at_most:g}")
