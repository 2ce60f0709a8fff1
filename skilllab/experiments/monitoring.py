"""One live minute: three skills fall ill and recover while a monitor watches; what it says, and when."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from skilllab import format as fmt
from skilllab.define import script_skill, skill
from skilllab.engine import LayeredExecutionEngine
from skilllab.errors import InvalidValueError
from skilllab.monitor import Alert, PerformanceMonitor, PerformanceReport
from skilllab.registry import InMemorySkillRegistry
from skilllab.stats import Comparison, paired_bootstrap

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

SEARCH, RESIZE, PRICE, LOOKUP = "search-v1", "resize-v1", "price-v1", "lookup-v1"
"""The skill that will be slow, the one that will be hungry, the one that will fail, and one that stays well."""

RATES = {SEARCH: 60.0, RESIZE: 4.0, PRICE: 25.0, LOOKUP: 50.0}
"""Calls a second of each, at random times that wait for nobody."""

WELL, ILL, SLOW = 0.02, 0.3, 0.2  # s that a search waits, and beyond which it is slow
SMALL, LARGE = 4, 96  # MiB that a picture takes
FAILS = 0.5  # share of the prices, when ill

_SOURCE = "def run(params): return len(bytearray(b'x') * (params['mib'] << 20))"
_TICKS = 60  # looks at the rules in a run


@skill(id=SEARCH)
async def search(seconds: float) -> float:
    """Waits for an answer, as a client of a server does."""
    await asyncio.sleep(seconds)
    return seconds


@skill(id=PRICE)
async def price(known: bool) -> int:
    """Knows the price, or raises."""
    if not known:
        raise KeyError("price")
    return 100


@skill(id=LOOKUP)
async def lookup(number: int) -> int:
    """Gives its number back."""
    return number


class Moment(NamedTuple):
    """What the monitor's window knew `at` some seconds from the begin: p95 (s), most memory (bytes), share of failures."""

    at: float
    p95: float | None
    memory: float | None
    errors: float | None


@dataclass(frozen=True, slots=True)
class Minute:
    """A live minute. ill: from when to when, in seconds from the begin; alerts with their times counted from there, too."""

    elapsed: float
    ill: tuple[float, float]
    moments: tuple[Moment, ...]
    alerts: tuple[Alert, ...]
    report: PerformanceReport

    def alert(self, skill_id: str, state: str) -> float:
        """Returns when the first alert about a skill fired, or when the last was cleared; raises InvalidValueError for none."""
        times = [alert.time for alert in self.alerts if alert.state == state and _about(alert) == skill_id]
        if not times:
            raise InvalidValueError(f"no alert about {skill_id!r} was {state}: there are {list(map(str, self.alerts))}")
        return times[0] if state == "firing" else times[-1]

    def frame(self) -> pd.DataFrame:
        """Returns a row for each alert: at (s), state, skill, rule."""
        import pandas as pd

        rows = [(alert.time, alert.state, _about(alert), alert.rule) for alert in self.alerts]
        return pd.DataFrame(rows, columns=["at", "state", "skill", "rule"])

    def plot(self, ax: Axes | None = None) -> Axes:
        """Draws the p95 of the slow skill in the window, the time in which it was ill, and that in which its alert was on."""
        from skilllab import look, plots

        begin, end = self.ill
        fired, cleared = self.alert(SEARCH, "firing"), self.alert(SEARCH, "cleared")
        title = (
            f"The alert fires {fmt.duration(fired - begin, 2)} after {SEARCH} turned slow, and clears "
            f"{fmt.duration(cleared - end, 2)} after it is well"
        )
        at = [moment.at for moment in self.moments]
        p95 = [np.nan if moment.p95 is None else moment.p95 for moment in self.moments]
        ax = plots.time_line(at, {f"{SEARCH}, p95": p95}, show=fmt.duration, title=title, y_label="Window's p95", ax=ax)
        ax.set_ylim(0, 1.25 * np.nanmax(p95))
        ax.axhline(SLOW, color=look.TIE, linewidth=1, zorder=1)
        for low, high, name, place, colour in (
            (begin, end, "ill", 0.93, look.GREY),
            (fired, cleared, "alert on", 0.85, look.INKS[1]),
        ):
            where = ax.get_xaxis_transform()
            ax.plot([low, high], [place, place], transform=where, color=colour, linewidth=3, label="_span")
            ax.text(low, place + 0.015, name, transform=where, color=colour, fontsize=look.TEXT)
        return ax

    def __str__(self) -> str:
        told = "; ".join(f"{alert.time:.1f} s {alert.state} {_about(alert)}" for alert in self.alerts)
        return f"{self.report} Alerts: {told or 'none'}."


def rules(duration: float) -> tuple[str, ...]:
    """Returns the rules of a run: each has to be broken for a sixtieth of it."""
    lasting = f"{duration / 60:.3g} s"
    return (
        f"p95 of {SEARCH} > {1000 * SLOW:g} ms for {lasting}",
        f"memory-max of {RESIZE} > 64 MiB for {lasting}",
        f"errors of any > 10 % for {lasting}",
    )


async def live_minute(
    duration: float = 60.0,
    *,
    seed: int = 0,
    monitor: PerformanceMonitor | None = None,
    on_progress: Callable[[Moment], object] | None = None,
) -> Minute:
    """Sends calls to four skills for `duration` seconds, lets three be ill in the middle third, and watches them.

    The skills are real: one waits longer, one fills memory in a sandbox, one raises. monitor: one whose window is a sixth of
    the duration, made unless given. on_progress: called with every moment.
    """
    if not 6.0 <= duration <= 3600.0:
        raise InvalidValueError(f"duration(={duration!r}) must be 6 to 3,600 s: below, no window holds enough calls")
    registry = InMemorySkillRegistry()
    for each in (search, price, lookup, script_skill(id=RESIZE, source=_SOURCE)):
        await registry.register(each)
    monitor = monitor or PerformanceMonitor(window=duration / 6)
    ill, moments, alerts = (duration / 3, duration * 2 / 3), list[Moment](), list[Alert]()
    async with LayeredExecutionEngine(registry) as engine:
        await engine.execute(RESIZE, {"mib": SMALL})  # starts the sandbox, which is no part of the minute
        monitor.attach(engine)
        origin, begin = time.time(), time.perf_counter()

        def look(_: PerformanceReport) -> None:
            moments.append(_moment(monitor, time.perf_counter() - begin))
            if on_progress is not None:
                on_progress(moments[-1])

        watch = monitor.watch(duration / _TICKS, alerts.append, rules=rules(duration), on_report=look)
        try:
            await _traffic(engine, duration, ill, seed, begin)
            report = monitor.get_performance_report()
        finally:
            watch.close()
            monitor.detach(engine)
    told = tuple(_since(alert, origin) for alert in alerts)
    return Minute(time.perf_counter() - begin, ill, tuple(moments), told, report)


async def cost(rounds: int = 40, executions: int = 500, *, seed: int = 0) -> tuple[Comparison, float]:
    """Compares a no-op through an engine that is watched with one through an engine that is not, in random order.

    Returns the comparison, and the seconds that watching adds to an execution (median of the rounds).
    """
    registry = InMemorySkillRegistry()
    await registry.register(lookup)
    async with LayeredExecutionEngine(registry) as plain, LayeredExecutionEngine(registry) as watched:
        with PerformanceMonitor() as monitor:
            monitor.attach(watched)
            arms, times = (plain, watched), np.empty((rounds, 2))
            rng = np.random.default_rng(seed)
            for turn in range(-1, rounds):  # the first is warm-up, which the next one overwrites
                for arm in rng.permutation(2):
                    begin = time.perf_counter()
                    for _ in range(executions):
                        await arms[arm].execute(LOOKUP, {"number": 1})
                    times[max(turn, 0), arm] = (time.perf_counter() - begin) / executions
                await asyncio.sleep(0)
    without, with_it = times.T
    return paired_bootstrap(without, with_it, seed=seed), float(np.median(with_it - without))


async def _traffic(
    engine: LayeredExecutionEngine, duration: float, ill: tuple[float, float], seed: int, begin: float
) -> None:
    rng = np.random.default_rng(seed)
    due = [
        (float(at), skill_id)
        for skill_id, rate in RATES.items()
        for at in np.cumsum(rng.exponential(1 / rate, round(2 * rate * duration) + 20))
        if at < duration
    ]
    async with asyncio.TaskGroup() as group:
        for at, skill_id in sorted(due):
            wait = begin + at - time.perf_counter()
            if wait > 0:
                await asyncio.sleep(wait)
            group.create_task(_call(engine, skill_id, ill[0] <= at < ill[1], float(rng.random())))


def _call(engine: LayeredExecutionEngine, skill_id: str, is_ill: bool, drawn: float) -> Coroutine[Any, Any, object]:
    params: dict[str, dict[str, Any]] = {
        SEARCH: {"seconds": ILL if is_ill else WELL},
        RESIZE: {"mib": LARGE if is_ill else SMALL},
        PRICE: {"known": not (is_ill and drawn < FAILS)},
        LOOKUP: {"number": 1},
    }
    return engine.execute(skill_id, params[skill_id])


def _moment(monitor: PerformanceMonitor, at: float) -> Moment:
    waits, memory = monitor.values("duration", SEARCH), monitor.values("memory_used", RESIZE)
    p95 = float(waits.quantile(0.95)) if waits.count >= 20 else None
    return Moment(at, p95, memory.max if memory.count else None, monitor.share("errors", PRICE))


def _about(alert: Alert) -> str:
    """Returns the skill of an alert: named by it, else by its rule."""
    return alert.skill_id or alert.rule.split(" of ")[1].split(" ")[0]


def _since(alert: Alert, origin: float) -> Alert:
    values = {name: getattr(alert, name) for name in Alert.__dataclass_fields__}
    return Alert(**{**values, "time": alert.time - origin})
