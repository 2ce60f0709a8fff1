"""Cancellations: many executions of three kinds are ended in the middle, and everything that could leak is counted."""

from __future__ import annotations

import asyncio
import random
import sqlite3
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from skilllab.demo import DemoProcess, DemoSettings
from skilllab.engine import FunctionOptions, FunctionRunner, HttpOptions, LayeredExecutionEngine
from skilllab.engine.pools import ConnectionPool
from skilllab.errors import ExecutionCancelledError, InvalidValueError
from skilllab.experiments.failures.skills import USER, lookup, moody, registry_of, stubborn, user_skill
from skilllab.experiments.failures.waiting import until

if TYPE_CHECKING:
    import pandas as pd

_WORK = 0.1  # s that an execution takes if nobody ends it
_SPAN = 0.2  # s in which they are ended, so that some have finished
_SETTLED = 2.0  # s within which a server notices that nobody waits any more


class Counts(NamedTuple):
    """What there is at one moment: executions under way, places and leases taken, tasks beyond those before, requests at
    the server, connections open to it, functions that run on in threads."""

    executions: int
    places: int
    leases: int
    tasks: int
    requests: int
    connections: int
    abandoned: int


@dataclass(frozen=True, slots=True)
class Remains:
    """What cancelled executions left. ended: how many ended in which way; counts: by moment, in order."""

    ended: Mapping[str, int]
    counts: Mapping[str, Counts]

    def frame(self) -> pd.DataFrame:
        """Returns one row a moment and one column for each thing counted."""
        import pandas as pd

        return pd.DataFrame(list(self.counts.values()), index=list(self.counts))


async def cancellations(executions: int = 150, *, seed: int = 0) -> Remains:
    """Starts executions that hold a database connection, a socket, or only a task, and ends each at a random moment.

    Every other one is ended with `engine.cancel`, the rest by cancelling the task that awaits it. Some finish before.
    """
    if executions < 1:
        raise InvalidValueError(f"executions(={executions}) must be at least 1")
    async with DemoProcess(DemoSettings(latency=_WORK)) as server:
        scene = _Scene(server)
        try:
            counts = {"before": await scene.counts()}
            tasks = await scene.start(executions, random.Random(seed))
            await asyncio.sleep(_WORK / 2)
            counts["in the middle"] = await scene.counts()
            outcomes = await asyncio.gather(*tasks, return_exceptions=True)
            counts["all ended"] = await scene.settled()
        finally:
            await scene.engine.aclose(grace=1.0)
        counts["engine closed"] = await scene.settled(connections=0)
    return Remains(dict(Counter(map(_ending, outcomes))), counts)


class Left(NamedTuple):
    """A function that could not be stopped. answered: seconds until its caller had an answer; says: the error and why no
    CPU time is known; abandoned, places: functions that ran on and places that they held then, and when it had ended."""

    answered: float
    error: str
    unmeasured: str
    abandoned: tuple[int, int]
    places: tuple[int, int]


async def left_behind(seconds: float = 0.4, timeout: float = 0.05) -> Left:
    """Calls a plain function that sleeps for `seconds` in its thread, with a timeout, and looks at what runs on."""
    runner = FunctionRunner()
    async with LayeredExecutionEngine(registry_of(stubborn), runners={"function": runner}) as engine:
        await engine.call("stubborn-v1", {"seconds": 0.0})
        begin = time.perf_counter()
        result = await engine.execute("stubborn-v1", {"seconds": seconds}, timeout=timeout)
        answered = time.perf_counter() - begin
        at_once = runner.abandoned, engine.limits()["engine"].in_flight

        async def ended() -> bool:
            return not engine.limits()["engine"].in_flight

        await until(ended, 2 * seconds + _SETTLED)
        later = runner.abandoned, engine.limits()["engine"].in_flight
    reason = result.metadata.resource_usage.unmeasured["cpu_time"]
    abandoned, places = zip(at_once, later, strict=True)
    return Left(answered, str(result.error), reason, abandoned, places)


class _Scene:
    """An engine with a pool and a server, and what can be counted of them."""

    def __init__(self, server: DemoProcess) -> None:
        self._server = server
        self._pool = ConnectionPool(_open, max_size=5, close=sqlite3.Connection.close)
        self._functions = FunctionRunner(FunctionOptions(pools={"orders": self._pool}))
        self._ids: dict[asyncio.Task[Any] | None, str] = {}
        registry = registry_of(lookup, moody, user_skill(server.url))
        runners, http = {"function": self._functions}, HttpOptions(max_sockets=100, retries=0)
        self.engine = LayeredExecutionEngine(registry, runners=runners, http=http)
        self.engine.on("execution-start", self._started)
        self._tasks = len(asyncio.all_tasks())

    async def start(self, executions: int, rng: random.Random) -> list[asyncio.Task[Any]]:
        """Starts the executions, and sees to it that each is ended."""
        await self.engine.call(USER, {"user_id": 1})  # imports
        loop = asyncio.get_running_loop()
        kinds = (("lookup-v1", {"seconds": _WORK}), (USER, {"user_id": 1}), ("moody-v1", {"mood": "slow"}))
        tasks = []
        for number in range(executions):
            task = asyncio.ensure_future(self.engine.execute(*kinds[number % len(kinds)]))
            end = task.cancel if number % 2 else lambda task=task: self.engine.cancel(self._ids[task])
            loop.call_later(rng.uniform(0.0, _SPAN), end)
            tasks.append(task)
        return tasks

    async def counts(self) -> Counts:
        """Returns what there is now."""
        seen = await self._server.statistics()
        engine = self.engine
        return Counts(
            len(engine.active),
            engine.limits()["engine"].in_flight,
            self._pool.statistics().in_use,
            len(asyncio.all_tasks()) - self._tasks,
            seen.in_flight,
            seen.open_connections,
            self._functions.abandoned,
        )

    async def settled(self, connections: int | None = None) -> Counts:
        """Returns what is left when the server has noticed that nobody waits, or what it still has after a while."""

        async def calm() -> bool:
            left = await self.counts()
            return not left.requests and connections in (None, left.connections)

        await until(calm, _SETTLED)
        return await self.counts()

    def _started(self, event: Any) -> None:
        self._ids[asyncio.current_task()] = event.execution_id


def _open() -> sqlite3.Connection:
    connection = sqlite3.connect(":memory:", check_same_thread=False)
    connection.execute("create table orders (id integer primary key)")
    return connection


def _ending(outcome: Any) -> str:
    if isinstance(outcome, asyncio.CancelledError):
        return "its task was cancelled"
    if isinstance(outcome.error, ExecutionCancelledError):
        return "the engine cancelled it"
    return "finished" if outcome.success else f"failed: {outcome.error}"
