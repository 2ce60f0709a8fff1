"""find_capacity: the highest arrival rate at which an SLO holds, as an interval, with the probes that found it."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Mapping
from contextlib import AsyncExitStack
from dataclasses import asdict, dataclass
from html import escape
from typing import TYPE_CHECKING, Any, Literal

from skilllab import format as fmt
from skilllab import settings
from skilllab.conditions import Condition
from skilllab.engine import LayeredExecutionEngine
from skilllab.errors import InvalidValueError
from skilllab.experiments.loadtest.child import Child
from skilllab.experiments.loadtest.edge import checked_condition
from skilllab.experiments.loadtest.metrics import known
from skilllab.experiments.loadtest.probing import OnProbe, Target, explore
from skilllab.experiments.loadtest.scenario import Abort, Params, Scenario, Stage, positive
from skilllab.experiments.loadtest.search import Probe, Search, lateness, summarised
from skilllab.experiments.loadtest.slo import WITHOUT_END, parse_slo, plain
from skilllab.model import ResourceLimits
from skilllab.stats import Interval

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

_VERSION = 1
_CONFIDENCE = 0.95
_ALONE = 20  # requests one at a time, before the search
_ALONE_SHARE = 0.1  # of the time that they may take
_START = 0.5  # of the rate of requests one at a time is the first rate
_HOPELESS = 0.5  # of the requests alone over the bound: no rate will do
_LATE = 0.01  # of the requests late by half a bound: the generator is part of what is measured
_PRECISION = 0.1
_ABORT = Abort()


@dataclass(frozen=True)
class CapacityResult:
    """The highest arrival rate at which an SLO holds lies between `low` and `high` requests a second (95 %).

    at: the best guess, None without one. low is 0 and high infinite where nothing bounds it. needed: seconds that would
    make the interval as narrow as `precision` (high / low - 1), None where it is, and inf where the generator was outrun, so
    that no time would. probes: in the order in which they ran. seconds: that they took. scenario: what was asked, as text.
    stopped: whether the search was ended before its time. at_least: whether `needed` is only a lower bound. ended: why the
    search ended by itself before its time, "" where it did not.
    """

    slo: str
    low: float
    high: float
    at: float | None
    needed: float | None
    precision: float
    seconds: float
    probes: tuple[Probe, ...]
    scenario: Mapping[str, Any]
    stopped: bool = False
    at_least: bool = False
    ended: str = ""

    @property
    def enough(self) -> bool:
        """Whether the interval is as narrow as was asked for."""
        return self.needed is None

    @property
    def warnings(self) -> tuple[str, ...]:
        """What limits the answer, each with what to do about it."""
        found = self._crashes()
        near = [probe.late for probe in self.probes if probe.phase == "edge" and probe.late > _LATE]
        if near:
            found.append(
                f"The generator was late by {self._lateness()} or more in up to {fmt.ratio(max(near))} of a probe's requests, "
                f"so that its own limit is part of the answer: {self._room()}."
            )
        if self.needed == math.inf:
            found.append(self._outrun())
        elif self.needed is not None and self.high > 0:
            early = f"The search was stopped after {fmt.duration(self.seconds)}, which is"
            short = early if self.stopped or self.ended else "The search was"
            longer = f"duration={self._longer():g}"
            advice = f"at least {longer}, and maybe much more" if self.at_least else f"{longer} or more"
            found.append(
                f"{short} too short for an interval of {fmt.ratio(self.precision, 0)}: let it run with {advice}."
            )
        return tuple(found)

    def _crashes(self) -> list[str]:
        """Returns what is to be said of processes that ended by themselves."""
        lost = [probe for probe in self.probes if probe.lost and probe.phase != "alone"]
        found = [f"The search ended before its time: {self.ended}."] if self.ended else []
        if lost:
            found.append(
                f"In {fmt.count(len(lost))} of {fmt.count(len(self.probes))} probes, from "
                f"{fmt.rate(min(probe.rate for probe in lost))} on, {lost[-1].lost}: they count as broken, so that a rate at "
                "which it ends is taken for one that is too high; find out why it does."
            )
        return found

    def _outrun(self) -> str:
        fastest = self.probes[-1]
        if fastest.late > _LATE:
            seen = f"could not keep up with {fmt.rate(fastest.rate)}, where {fmt.ratio(fastest.late)} of its requests were late"
            return f"The generator {seen} by {self._lateness()}, so that where the SLO breaks is not known: {self._room()}."
        return (
            f"The search ended at {fmt.rate(fastest.rate)}, since no generator here sends twice that: take a tighter SLO to "
            "find where it breaks."
        )

    def _lateness(self) -> str:
        return fmt.trimmed(fmt.duration(lateness(parse_slo(self.slo))))

    def _room(self) -> str:
        apart = self.scenario.get("where") == "process"
        return "end what else runs here" if apart else 'use where="process", and end what else runs here'

    def metrics(self) -> dict[str, tuple[float, Interval | None]]:
        """Returns the figure that a history keeps, with its interval."""
        known = self.low > 0 and math.isfinite(self.high)
        at = math.nan if self.at is None else self.at
        return {"capacity": (at, Interval(self.low, self.high, _CONFIDENCE) if known else None)}

    def frame(self) -> pd.DataFrame:
        """Returns one row a probe: rate, seconds, elapsed, requests, one column a condition, holds, phase, late.

        A quantile is NaN where the requests are too few for it.
        """
        import pandas as pd

        conditions = parse_slo(self.slo)
        names = list(map(str, conditions))
        rows = [
            {
                "rate": probe.rate,
                "seconds": probe.seconds,
                "elapsed": probe.elapsed,
                "requests": probe.requests,
                **{
                    str(each): known(each, probe.requests, got)
                    for each, got in zip(conditions, probe.values, strict=True)
                },
                "holds": probe.holds,
                "phase": probe.phase,
                "late": probe.late,
            }
            for probe in self.probes
        ]
        return pd.DataFrame(rows, columns=["rate", "seconds", "elapsed", "requests", *names, "holds", "phase", "late"])

    def plot(self, ax: Axes | None = None) -> Axes:
        """Draws the first condition's metric of every probe against its rate, the bound, and the interval as a band."""
        from skilllab.experiments.loadtest.capacity_picture import draw

        return draw(self, parse_slo(self.slo)[0], ax)

    def __str__(self) -> str:
        number = len(self.probes)
        probes = f"{fmt.count(number)} probe{'' if number == 1 else 's'} in {fmt.duration(self.seconds)}"
        return " ".join([f"{self.finding()} ({probes}).", *self.warnings])

    def _repr_html_(self) -> str:
        return f"<p>{escape(str(self))}</p>{self.frame().to_html(index=False)}"

    def finding(self) -> str:
        """Returns the answer in a sentence without its full stop."""
        if self.high == 0:
            alone = self.probes[0]
            seen = map(_seen_alone, parse_slo(self.slo), alone.values, alone.loads)
            return f"{self.slo} holds at no rate: with one request at a time {alone.lost or ' and '.join(seen)}"
        if self.low == 0 and math.isinf(self.high):
            return f"{self.slo}: nothing is known about its highest rate yet"
        if math.isinf(self.high):
            return f"{self.slo} holds up to at least {fmt.rate(self.low)}; where it breaks is not known"
        if self.low == 0:
            return f"{self.slo} is broken from {fmt.rate(self.high)} on; where it holds is not known"
        return f"{self.slo} holds up to {fmt.interval(self.low, self.high, fmt.rate)} (95 %)"

    def to_json(self) -> dict[str, Any]:
        """Returns the result as plain JSON values; an infinite number is the text "inf", one that is none is None."""
        values: dict[str, Any] = plain({"version": _VERSION, **asdict(self)})
        return values

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> CapacityResult:
        """Returns the result that `to_json` wrote; raises InvalidValueError for anything else."""
        if values.get("version") != _VERSION:
            raise InvalidValueError(f"version(={values.get('version')!r}) of a capacity must be {_VERSION}")
        try:
            low, high, precision, seconds = (_number(values[name]) for name in ("low", "high", "precision", "seconds"))
            at, needed = (None if values[name] is None else _number(values[name]) for name in ("at", "needed"))
            probes = tuple(_probe(probe) for probe in values["probes"])
            slo, about = str(values["slo"]), dict(values["scenario"])
            parse_slo(slo)
            ways = {name: bool(values.get(name)) for name in ("stopped", "at_least")}
            ended = str(values.get("ended", ""))
            return cls(slo, low, high, at, needed, precision, seconds, probes, about, **ways, ended=ended)
        except (KeyError, TypeError, ValueError) as error:
            raise InvalidValueError(f"not the JSON of a capacity: {type(error).__name__}: {error}") from error

    def _longer(self) -> float:
        """Returns the seconds that would do, two digits of them, rounded up."""
        needed = self.needed or 0.0
        step = 10.0 ** max(0, math.floor(math.log10(max(needed, 1.0))) - 1)
        return math.ceil(needed / step) * step


async def find_capacity(
    engine: LayeredExecutionEngine,
    skill_id: str,
    params: Params | None = None,
    *,
    slo: str,
    duration: float = 60.0,
    precision: float = _PRECISION,
    start: float | None = None,
    where: Literal["here", "process"] = "here",
    max_in_flight: int = settings.MAX_IN_FLIGHT,
    cache: bool = False,
    timeout: float | Literal["inherit"] | None = "inherit",
    resource_limits: ResourceLimits | None = None,
    seed: int = 0,
    abort_on: Abort | None = _ABORT,
    on_probe: OnProbe | None = None,
    stop: asyncio.Event | None = None,
) -> CapacityResult:
    """Returns the interval of the highest rate of Poisson arrivals at which the SLO holds for a skill.

    slo: upper bounds of quantiles, the mean or errors. duration: seconds for all probes. precision: how narrow the interval
    should be, as a share of its low end; the result says which duration would do. start: the first rate, half of what one
    request at a time reaches unless given. where: "process" sends from a child. Requests that fail, are dropped at
    max_in_flight or have no end count as answered within no bound. abort_on: ends a probe early, which spares a server that
    is not ours. on_probe: told of each probe. stop: ends the search; the result is of the probes until then. A probe whose
    process ended by itself is broken.
    Raises InvalidValueError before anything starts, SkillNotFoundError, and what a load test raises.
    """
    conditions = _checked(slo, duration, precision, start, where)
    alone = Scenario(
        skill_id,
        {} if params is None else params,
        (Stage(duration * _ALONE_SHARE, concurrency=1),),
        count=_ALONE,
        max_in_flight=max_in_flight,
        cache=cache,
        timeout=timeout,
        resource_limits=resource_limits,
        seed=seed,
    )
    stop = stop or asyncio.Event()
    about = {"skill_id": skill_id, "duration": duration, "seed": seed, "where": where}
    async with AsyncExitStack() as stack:
        child = await stack.enter_async_context(Child(engine)) if where == "process" else None
        target = Target(engine, child, alone, abort_on, stop)
        first = await target.alone()
        if stop.is_set():  # what was cut short says nothing
            return CapacityResult(slo, 0.0, math.inf, None, duration, precision, first.elapsed, (), about, True, True)
        reached = max(1, len(first.intended)) / first.elapsed
        unloaded = summarised(conditions, reached, 0.0, first, "alone")
        if unloaded.lost or _hopeless(unloaded, conditions):
            return CapacityResult(slo, 0.0, 0.0, None, duration, precision, first.elapsed, (unloaded,), about)
        rate = start or _START * unloaded.rate
        search = Search(conditions, budget=duration - first.elapsed, start=rate, precision=precision)
        ended = await explore(search, target.probe, on_probe, stop)
    found, probes, seconds = search.finding(), (unloaded, *search.probes), first.elapsed + search.used
    needed = None if found.needed is None else found.needed + first.elapsed
    ways = (stop.is_set(), found.at_least, ended)
    return CapacityResult(slo, found.low, found.high, found.at, needed, precision, seconds, probes, about, *ways)


def _checked(slo: str, duration: float, precision: float, start: float | None, where: str) -> tuple[Condition, ...]:
    conditions = tuple(checked_condition(condition) for condition in parse_slo(slo))
    positive("duration", duration, "seconds")
    positive("precision", precision, "shares of the rate")
    positive("start", start, "requests a second", optional=True)
    if where not in ("here", "process"):
        raise InvalidValueError(f'where={where!r} must be "here" or "process"')
    return conditions


def _hopeless(alone: Probe, conditions: tuple[Condition, ...]) -> bool:
    """Tells whether an SLO is broken without any load."""
    least = [2.0 if condition.metric == "mean" else _HOPELESS for condition in conditions]
    return any(load >= most for load, most in zip(alone.loads, least, strict=True))


def _seen_alone(condition: Condition, got: float, load: float) -> str:
    """Says what a condition met with one request at a time: of a quantile the share beyond, as the requests are few."""
    if math.isinf(got):
        return f"{condition.metric} is {WITHOUT_END}"
    if condition.q is not None:
        return f"{fmt.ratio(load, 0)} of the responses miss {condition.sense} {fmt.trimmed(condition.show(condition.bound))}"
    return f"{condition.metric} is {condition.show(got)}"


def _number(value: Any) -> float:
    return math.nan if value is None else float(value)


def _probe(values: Mapping[str, Any]) -> Probe:
    columns = {name: tuple(map(_number, values[name])) for name in ("loads", "values")}
    return Probe(**{**values, **columns})
