"""Under load and faults: limits hold, the loop stays free, and nothing is left behind."""

from __future__ import annotations

import asyncio
import random
import sqlite3
import threading
import time
from typing import Any

import pytest

from skilllab.define import http_skill, skill
from skilllab.demo import DemoServer
from skilllab.engine import FunctionOptions, GuardOptions, LayeredExecutionEngine
from skilllab.engine.pools import ConnectionPool
from skilllab.errors import QueueFullError
from skilllab.registry import InMemorySkillRegistry


async def engine_of(*skills: Any, **options: Any) -> LayeredExecutionEngine:
    registry = InMemorySkillRegistry()
    for definition in skills:
        await registry.register(definition)
    return LayeredExecutionEngine(registry, **options)


@pytest.mark.parametrize("where", ["engine", "layer", "skill"])
def test_a_thousand_at_once_never_exceed_their_limit(where: str) -> None:
    """Of 1,000 executions at once with limit 10 at most 10 run, 10 do at some time, and those that wait say how long."""
    running = most = 0

    @skill(id="busy", max_concurrency=10 if where == "skill" else None)
    async def busy() -> None:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        running -= 1

    guards = {
        "engine": GuardOptions(concurrency=10),
        "layer": GuardOptions(layer_concurrency={1: 10}),
        "skill": GuardOptions(),
    }[where]

    async def run() -> list[Any]:
        async with await engine_of(busy, guards=guards) as engine:
            await engine.execute("busy")
            return await asyncio.gather(*(engine.execute("busy") for _ in range(1000)))

    results = asyncio.run(run())
    assert [result.error for result in results if result.error] == []
    assert most == 10
    waits = [result.metadata.queue_time for result in results]
    assert sum(wait > 0 for wait in waits) == 990
    assert max(waits) == max(waits[10:])


def test_beyond_the_queue_calls_are_refused() -> None:
    """With 10 places and 90 that may wait, 900 of 1,000 calls are refused with the numbers, and the others run."""

    @skill(id="busy")
    async def busy() -> None:
        await asyncio.sleep(0)

    async def run() -> list[Any]:
        guards = GuardOptions(concurrency=10, queue_size=90)
        async with await engine_of(busy, guards=guards) as engine:
            await engine.execute("busy")  # loaded, so that the others come in one turn of the loop
            return await asyncio.gather(*(engine.execute("busy") for _ in range(1000)))

    errors = [result.error for result in asyncio.run(run()) if not result.success]
    assert len(errors) == 900
    assert {(type(error), error.limit, error.waiting) for error in errors} == {(QueueFullError, 10, 90)}


async def lags(seconds: float, every: float = 0.002) -> list[float]:
    """How late the loop was for each of many intended moments; one long block makes all the moments in it late."""
    loop, late = asyncio.get_running_loop(), []
    begin = loop.time()
    for intended in (begin + every * number for number in range(int(seconds / every))):
        await asyncio.sleep(max(0.0, intended - loop.time()))
        late.append(loop.time() - intended)
    return sorted(late)


def block_for(seconds: float) -> int:
    """Sleeps for half of the time and computes for the other half."""
    end, turns = time.perf_counter() + seconds, 0
    time.sleep(seconds / 2)
    while time.perf_counter() < end:
        turns += 1
    return turns


@pytest.mark.slow
def test_a_plain_function_does_not_stop_the_loop() -> None:
    """While a plain function sleeps and computes, 99 of 100 turns of the loop come at most 40 ms late; on it, they would not.

    A busy machine delays every loop: then what a bare thread does to it at the same time is the measure.
    """

    @skill(id="plain")
    def plain(seconds: float) -> int:
        return block_for(seconds)

    @skill(id="wrong")
    async def wrong(seconds: float) -> int:
        return block_for(seconds)

    async def p99(work: Any) -> float:
        ticking = asyncio.create_task(lags(0.6))
        await asyncio.sleep(0.01)
        await work
        late = await ticking
        return late[int(0.99 * (len(late) - 1))]

    async def run() -> list[float]:
        async with await engine_of(plain, wrong) as engine:
            await engine.call("plain", {"seconds": 0.01})
            work = (
                lambda: engine.call("plain", {"seconds": 0.5}),
                lambda: asyncio.to_thread(block_for, 0.5),
                lambda: engine.call("wrong", {"seconds": 0.5}),
            )
            rounds = [[await p99(start()) for start in work] for _ in range(3)]
        return [min(column) for column in zip(*rounds, strict=True)]

    ours, bare_thread, on_the_loop = asyncio.run(run())
    assert ours <= max(0.04, 2 * bare_thread)
    assert on_the_loop > 0.2


@pytest.mark.slow
def test_ten_thousand_with_faults_leave_nothing_behind() -> None:
    """10,000 executions that are cancelled, fail and time out at random leave no task, thread, lease, socket or place."""
    rng = random.Random(20261123)
    opened: list[sqlite3.Connection] = []

    def connect() -> sqlite3.Connection:
        opened.append(sqlite3.connect(":memory:", check_same_thread=False))
        return opened[-1]

    @skill(id="nap")
    async def nap(turns: int) -> int:
        for _ in range(turns):
            await asyncio.sleep(0.0001)
        return turns

    @skill(id="fail")
    async def fail(turns: int) -> None:
        await asyncio.sleep(0)
        raise ValueError(turns)

    @skill(id="query", leases=["db"])
    def query(db: Any, turns: int) -> int:
        return int(db.execute("select ?", (turns,)).fetchone()[0])

    @skill(id="thread")
    def thread(turns: int) -> None:
        time.sleep(turns / 10_000)

    async def run() -> None:
        pool = ConnectionPool(connect, close=sqlite3.Connection.close, max_size=4)
        async with DemoServer() as server:
            fetch = http_skill(id="fetch", url=f"{server.url}/users/{{turns}}", idempotent=False)
            tasks_before = asyncio.all_tasks()
            engine = await engine_of(
                nap,
                fail,
                query,
                thread,
                fetch,
                functions=FunctionOptions(pools={"db": pool}, max_threads=4),
                guards=GuardOptions(concurrency=50, breaker_failures=None),
            )

            async def one() -> None:
                skill_id = rng.choices(["nap", "fail", "query", "thread", "fetch"], [6, 4, 4, 3, 1])[0]
                timeout = rng.choice([None, 5.0, 0.001, 0.0001])
                work = asyncio.create_task(engine.execute(skill_id, {"turns": rng.randrange(1, 20)}, timeout=timeout))
                if rng.random() < 0.3:
                    await asyncio.sleep(rng.random() / 500)
                    work.cancel()
                await asyncio.wait([work])

            for _ in range(50):
                await asyncio.gather(*(one() for _ in range(200)))
            for statistics in engine.limits().values():
                assert statistics[1:] == (0, 0)
            assert engine.active == ()
            await engine.aclose()
            assert pool.statistics().in_use == 0
            await pool.aclose()
            assert asyncio.all_tasks() == tasks_before
        for connection in opened:
            with pytest.raises(sqlite3.ProgrammingError, match="closed"):
                connection.execute("select 1")

    threads = threading.active_count()
    asyncio.run(run())
    deadline = time.monotonic() + 5
    while threading.active_count() > threads and time.monotonic() < deadline:
        time.sleep(0.01)
    assert threading.active_count() <= threads
