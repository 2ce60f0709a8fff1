"""Six ways to load test one server that stands still now and then: the p95 each reports, beside the true one.

The server is a demo server in a process of its own: one worker, the same service time for each request, and a stall in
every period. The testers take turns, and each finds the stalls at the same moments. The true p95 is no measurement but
arithmetic: users who come at random times and wait for nobody, served in order of arrival (Lindley 1952).
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from skilllab import format as fmt
from skilllab.demo import DemoProcess, DemoSettings
from skilllab.demo.settings import Stall
from skilllab.demo.stalls import WorkingHours
from skilllab.engine import HttpOptions, LayeredExecutionEngine
from skilllab.experiments.failures.skills import USER, registry_of, user_skill
from skilllab.experiments.loadtest.arrivals import schedule
from skilllab.experiments.loadtest.generator import run
from skilllab.experiments.loadtest.pacing import pacer
from skilllab.experiments.loadtest.records import Requests
from skilllab.experiments.loadtest.scenario import Scenario, Stage
from skilllab.stats import quantile

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

_PARAMS = {"user_id": 7}


@dataclass(frozen=True, slots=True)
class Ground:
    """What all testers have in common.

    rate: requests a second that are meant to come. users: those who wait for their answers, or the connections there are,
    for testers that have a fixed number. service: seconds of each request. stalled, every: the server stands still in the
    last `stalled` of every so many seconds. duration: seconds of each test. seed: of the arrivals.
    """

    rate: float = 200.0
    users: int = 4
    service: float = 0.001
    stalled: float = 0.15
    every: float = 1.5
    duration: float = 6.0
    seed: int = 0

    def scenario(self, *, users: int | None = None) -> Scenario:
        """Returns a test with users who wait for nobody, or with so many who wait for their answers."""
        stage = Stage(self.duration, rate=self.rate if users is None else None, concurrency=users)
        return Scenario(USER, _PARAMS, (stage,), seed=self.seed)

    @property
    def arrivals(self) -> list[float]:
        """When users come who wait for nobody, in seconds from the begin."""
        return [due for due, _ in schedule(self.scenario())]

    def true_times(self) -> list[float]:
        """Returns how long each of those arrivals waits for its answer: the next is served when the last is done."""
        hours, free, times = WorkingHours(Stall(self.stalled, self.every), 0.0), 0.0, []
        for due in self.arrivals:
            free = hours.finish(max(due, free), self.service)
            times.append(free - due)
        return times


class Report(NamedTuple):
    """What one tester reports: the p95 (s) of so many requests."""

    tester: str
    p95: float
    requests: int


@dataclass(frozen=True, slots=True)
class Reports:
    """What all testers report of one server, and `true`, the p95 (s) of users who wait for nobody."""

    ground: Ground
    true: float
    reports: tuple[Report, ...]

    def __getitem__(self, tester: str) -> Report:
        return next(report for report in self.reports if report.tester == tester)

    def frame(self) -> pd.DataFrame:
        """Returns one row a tester: p95 (s), its ratio to the true one, requests."""
        import pandas as pd

        rows = [(each.tester, each.p95, each.p95 / self.true, each.requests) for each in self.reports]
        return pd.DataFrame(rows, columns=["tester", "p95", "ratio", "requests"]).set_index("tester")

    def plot(self, ax: Axes | None = None) -> Axes:
        """Draws the p95 of each tester, and the true one as a line."""
        from skilllab import look, plots

        *others, ours = (each.p95 / self.true for each in self.reports)
        ax = plots.bars(
            [each.tester for each in self.reports],
            [each.p95 for each in self.reports],
            show=fmt.duration,
            log=True,
            title=f"Timed from when it was due: {fmt.times(ours, 2)} the true p95; five others: "
            f"{fmt.interval(min(others), max(others), lambda value: fmt.times(value, 2))}",
            x_label="Reported p95",
            ax=ax,
        )
        ax.axvline(self.true, color=look.COLOURS[1], linestyle=look.STYLES[1], linewidth=2, label="_true", zorder=0.8)
        true = f"true p95: {fmt.duration(self.true)}"
        beside: dict[str, Any] = {"xycoords": ax.get_xaxis_transform(), "textcoords": "offset points", "ha": "right"}
        ax.annotate(true, (self.true, 0), (-6, 6), color=look.INKS[1], fontsize=look.TEXT, **beside)
        return ax

    def __str__(self) -> str:
        said = ", ".join(f"{each.tester} {fmt.duration(each.p95)}" for each in self.reports)
        return f"The true p95 is {fmt.duration(self.true)}. Reported: {said}."


async def compare(ground: Ground | None = None) -> Reports:
    """Starts a server, lets every tester test it for `duration` seconds, and returns what they report.

    Raises InvalidValueError for a ground that no server or test can have, before anything starts.
    """
    ground = ground or Ground()
    ground.scenario(), ground.scenario(users=ground.users)
    stall, settings = Stall(ground.stalled, ground.every), DemoSettings(latency=ground.service, workers=1)
    async with DemoProcess(settings) as server:
        skills, options = registry_of(user_skill(server.url)), HttpOptions(max_sockets=1000)
        async with LayeredExecutionEngine(skills, http=options, results=None) as engine:

            async def begin() -> None:
                await asyncio.gather(*(engine.execute(USER, _PARAMS) for _ in range(ground.users)))  # connects
                await server.configure(stall=None)
                await server.configure(stall=stall)  # its first period begins now

            return await reports(engine, ground, begin)


async def reports(engine: LayeredExecutionEngine, ground: Ground, begin: Callable[[], Awaitable[None]]) -> Reports:
    """Returns what the testers report of the skill that the engine has; `begin` makes the first period begin."""
    found = []
    for name, test in TESTERS.items():
        await begin()
        times = await test(_Test(engine, ground))
        found.append(Report(name, quantile(times, 0.95), len(times)))
    return Reports(ground, quantile(ground.true_times(), 0.95), tuple(found))


class _Test:
    """What a tester needs: the server's skill, a clock, and the time of the test."""

    def __init__(self, engine: LayeredExecutionEngine, ground: Ground) -> None:
        self.engine, self.ground = engine, ground
        self.clock = asyncio.get_running_loop().time
        self.end = self.clock() + ground.duration
        self.times: list[float] = []

    async def call(self) -> None:
        """Calls the skill and notes how long it took from now."""
        begun = self.clock()
        await self.engine.call(USER, _PARAMS)
        self.times.append(self.clock() - begun)

    async def at_arrivals(self, start: Callable[[asyncio.TaskGroup], object]) -> list[float]:
        """Calls `start` whenever a user comes, and returns all times when all have their answers."""
        begin = self.clock()
        async with asyncio.TaskGroup() as group:
            with pacer() as pace:
                for due in self.ground.arrivals:
                    await pace.until(begin + due)
                    start(group)
        return self.times


async def _waiting_users(test: _Test, pause: float = 0.0) -> list[float]:
    """The guide's closed loop: each user calls again when it has its answer, after a pause."""

    async def user(number: int) -> None:
        await asyncio.sleep(number * pause / test.ground.users)  # they do not all begin at once
        while test.clock() < test.end:
            await test.call()
            await asyncio.sleep(pause)

    await asyncio.gather(*(user(number) for number in range(test.ground.users)))
    return test.times


async def _thinking_users(test: _Test) -> list[float]:
    """A closed loop whose users pause so long that they would make up the rate."""
    return await _waiting_users(test, test.ground.users / test.ground.rate)


async def _bursts(test: _Test) -> list[float]:
    """As many calls as there are users, all at once; the next burst when all are answered and its time has come."""
    pause = test.ground.users / test.ground.rate
    while (begun := test.clock()) < test.end:
        await asyncio.gather(*(test.call() for _ in range(test.ground.users)))
        await asyncio.sleep(max(0.0, begun + pause - test.clock()))
    return test.times


async def _few_connections(test: _Test) -> list[float]:
    """Calls at the rate, over so many connections; the time counts from when a call has one of them and is sent."""
    connections = asyncio.Semaphore(test.ground.users)

    async def send() -> None:
        async with connections:
            await test.call()

    return await test.at_arrivals(lambda group: group.create_task(send()))


async def _dropping(test: _Test) -> list[float]:
    """Calls at the rate; a call that finds all connections busy is left out and counts nowhere."""
    connections = asyncio.Semaphore(test.ground.users)

    async def send() -> None:
        if not connections.locked():
            async with connections:
                await test.call()

    return await test.at_arrivals(lambda group: group.create_task(send()))


async def _intended(test: _Test) -> list[float]:
    """Users who wait for nobody; the time counts from when each meant to call."""
    requests = Requests()
    await run(test.engine, test.ground.scenario(), requests)
    times: Iterable[float] = requests.columns().response
    return list(times)


TESTERS: dict[str, Callable[[_Test], Awaitable[list[float]]]] = {
    "closed loop": _waiting_users,
    "closed loop with pauses": _thinking_users,
    "bursts": _bursts,
    "rate, timed when sent": _few_connections,
    "rate, drops when busy": _dropping,
    "rate, timed when due": _intended,
}
"""Every way to test, by its name; the last is the lab's own."""
