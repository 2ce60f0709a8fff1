"""The load test: what its generator costs, and its honesty in real time and in long runs.

Cost: a closed test of no-op executions against a bare loop around engine.execute; requests of a layer 3 skill against
Locust's FastHttpUser, each side in a process on one core, the server on another. Honesty: `make test` has the same checks in
virtual time and with fewer runs, and shows there that they fail on generators that lie.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import os
import random
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from bench_engine import expect, sample, serving, typical
from harness import Row, report, row

from skilllab import format as fmt
from skilllab import series
from skilllab.define import http_skill, skill
from skilllab.engine import GuardOptions, HttpOptions, LayeredExecutionEngine
from skilllab.experiments.loadtest import LoadTestResult, Requests, Scenario, Stage, load_test
from skilllab.experiments.loadtest.arrivals import schedule
from skilllab.experiments.loadtest.generator import run
from skilllab.registry import InMemorySkillRegistry
from skilllab.stats import Array, interleave

sys.path.append(str(Path(__file__).parents[2]))

from tests.experiments.loadtest.test_honesty import DURATION, RATE, SERVICE, TARGETS, is_honest, stall_of
from tests.test_series import QUEUES, coverage

COUNT, NOOP_ROUNDS = 20_000, 25  # executions of one sample
USERS, SECONDS, HTTP_ROUNDS = 10, 3.0, 8
RUNS = 10  # of (a), at each target
LONG = (40, 60_000)  # runs at each utilisation and arrivals of each of (c)


def share(what: str, part: float, goal: float, note: str = "") -> Row:
    """Returns the row of a share of runs in which something held."""
    return Row(what, "a recursion", part, part, part, "at least", goal, note, fmt.ratio)


# what it costs


def noop(loop: asyncio.AbstractEventLoop) -> list[Row]:
    registry = InMemorySkillRegistry()

    @skill(id="nothing")
    async def nothing(number: int) -> int:
        return number

    loop.run_until_complete(registry.register(nothing))
    engine = LayeredExecutionEngine(registry)
    params = {"number": 1}
    arms = {"bare": sample(loop, partial(engine.execute, "nothing", params), COUNT)}
    results: list[LoadTestResult] = []

    def tested(workers: int) -> None:
        test = load_test(engine, "nothing", params, concurrency=workers, count=COUNT)
        results[:] = [loop.run_until_complete(test)]
        expect((len(results[0].requests), results[0].success_rate), (COUNT, 1.0))

    for workers in (1, USERS):
        arms[f"{workers} workers"] = partial(tested, workers), COUNT
    found = interleave({name: call for name, (call, _) in arms.items()}, NOOP_ROUNDS, inner=1)
    times = {name: seconds / COUNT for name, seconds in found.items()}
    loop.run_until_complete(engine.aclose())
    return [
        row(
            f"closed load test of a no-op, {workers} worker{'s' if workers > 1 else ''}: its rate",
            "a bare loop of engine.execute",
            times[f"{workers} workers"],
            times["bare"],
            at_least=0.8,
            note=f"bare {typical(times['bare'])}",
        )
        for workers in (1, USERS)
    ]


# against Locust


def http() -> tuple[list[Row], list[str]]:
    """Requests a second of ten users, each side in a process on one core, in random order in every round."""
    sides = ["ours"] + (["locust"] if find_spec("locust") is not None else [])
    rates: dict[str, list[float]] = {side: [] for side in sides}
    with serving() as url:
        for number in range(HTTP_ROUNDS):
            for side in random.Random(number).sample(sides, len(sides)):
                rates[side].append(asked(side, url))
    ours = np.array(rates["ours"])
    rate = fmt.rate(round(float(np.median(ours))))
    if "locust" not in rates:
        return [], [f"skipped locust: it is not installed; pip install -e '.[peers]' (ours: {rate} on one core)"]
    theirs = np.array(rates["locust"])
    peer = f"FastHttpUser, locust {version('locust')}"
    what = f"requests of a layer 3 skill, {USERS} users on one core: rate"
    return [row(what, peer, 1 / ours, 1 / theirs, at_least=0.8, note=f"ours {rate}")], []


def asked(side: str, url: str) -> float:
    """Returns the requests a second of one side, from a process of its own."""
    command = [sys.executable, __file__, side, url]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    return float(done.stdout.split()[-1])


def one_core() -> None:
    """Keeps this process to the last of its cores, where the server need not be."""
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})


async def ask_as_skill(url: str) -> float:
    registry = InMemorySkillRegistry()
    schema = {"type": "object", "properties": {"user_id": {"type": "integer"}}, "required": ["user_id"]}
    await registry.register(http_skill(id="user", url=f"{url}/users/{{user_id}}", input_schema=schema))
    async with LayeredExecutionEngine(registry, http=HttpOptions(max_sockets=USERS)) as engine:
        result = await load_test(engine, "user", {"user_id": 17}, concurrency=USERS, duration=SECONDS + 0.5, warmup=0.5)
    expect(result.success_rate, 1.0)
    return result.requests_per_second


def ask_as_locust(url: str) -> float:
    import gevent  # type: ignore[import-not-found]
    from locust import FastHttpUser, constant, task  # type: ignore[import-not-found]
    from locust.env import Environment  # type: ignore[import-not-found]

    class User(FastHttpUser):  # type: ignore[misc]
        host = url
        wait_time = constant(0)

        @task  # type: ignore[untyped-decorator]
        def get(self) -> None:
            self.client.get("/users/17")

    environment = Environment(user_classes=[User])
    runner = environment.create_local_runner()
    runner.start(USERS, spawn_rate=USERS)
    gevent.sleep(1.5)  # users are there after a second
    total = environment.stats.total
    before, begin = total.num_requests, time.perf_counter()
    gevent.sleep(SECONDS)
    rate = (total.num_requests - before) / (time.perf_counter() - begin)
    expect(total.num_failures, 0)
    runner.quit()
    return float(rate)


# honesty in real time

Served = dict[int, tuple[float, float]]  # begin and end of each request's service, s since the begin of the test


class Clock:
    """The loop's clock, which notes when it was first read: the begin of a test."""

    def __init__(self) -> None:
        self._time = asyncio.get_running_loop().time
        self.zero: float | None = None

    def __call__(self) -> float:
        now = self._time()
        self.zero = now if self.zero is None else self.zero
        return now


def target_of(kind: str, clock: Clock, stall: tuple[float, float], served: Served) -> Callable[..., Any]:
    """Returns a skill that stands still during the stall (s of the test) and notes when it had each request."""

    async def target(number: int) -> int:
        begin = asyncio.get_running_loop().time()
        zero = clock.zero or 0.0
        seconds = SERVICE + (stall[1] - begin + zero if stall[0] <= begin - zero < stall[1] else 0.0)
        if kind == "blocking":
            time.sleep(seconds)  # noqa: ASYNC251 - it is meant to block
        else:
            await asyncio.sleep(seconds)
        served[number] = begin - zero, asyncio.get_running_loop().time() - zero
        return number

    return target


def truth(kind: str, due: list[float], served: Served) -> Array:
    """Returns the response times (s) by Lindley's recursion (1952) over the schedule and the target's own notes.

    The service time of a request that found others before it runs from the end of the last of them: what lies between, the
    engine's hand-over, keeps a single server from the next request too.
    """
    responses, free, last = [], 0.0, 0.0
    for number, at in enumerate(due):
        begin, end = served[number]
        alone = kind == "sleeping"
        free = (at if alone else max(at, free)) + end - (begin if alone or at >= last else last)
        last = end
        responses.append(free - at)
    return np.array(responses)


async def stalled(kind: str, seed: int) -> tuple[LoadTestResult, Array]:
    """Returns a test of a stalling target, and its true response times by Lindley's recursion over the schedule."""
    clock, served = Clock(), Served()
    function = target_of(kind, clock, stall_of(seed), served)
    registry = InMemorySkillRegistry()
    places = 1 if kind == "one at a time" else None
    await registry.register(skill(id="target", max_concurrency=places)(function))
    stage = Stage(DURATION, rate=RATE)
    scenario = Scenario("target", lambda number: {"number": number}, (stage,), seed=seed)
    requests = Requests()
    async with LayeredExecutionEngine(registry, guards=GuardOptions(breaker_failures=None)) as engine:
        await engine.execute("target", {"number": -1})
        ending = await run(engine, scenario, requests, clock=clock)
    return LoadTestResult(scenario, requests, ending), truth(kind, [due for due, _ in schedule(scenario)], served)


def honesty(loop: asyncio.AbstractEventLoop) -> tuple[list[Row], list[str]]:
    rows, remarks = [], []
    for kind in TARGETS:
        honest, lies, near, count = 0, 0, 0, 0
        others: list[float] = []
        for seed in range(RUNS):
            result, true = loop.run_until_complete(stalled(kind, seed))
            expect(len(result.responses), len(true))
            honest += is_honest(result.responses, true)
            lies += not is_honest(result.measured.end - result.measured.start, true)
            near += int((abs(result.responses - true) <= np.maximum(1e-3, 0.01 * true)).sum())
            count += len(true)
            machine = result.ending.machine
            others.append((machine.others or 0.0) if machine else 0.0)
        rows.append(share(f"(a) {kind}: runs with mean, p50, p95, p99 within 5 %", honest / RUNS, 1.0))
        if kind != "sleeping":
            rows.append(share(f"(b) {kind}: responses within 1 ms or 1 %", near / count, 0.99))
        remarks.append(f"        {kind}: timed from the actual start, {lies} of {RUNS} runs fail the same check")
        remarks.append(
            f"        {kind}: other programs used {fmt.ratio(float(np.median(others)))} of the processors meanwhile"
        )
    return rows, remarks


def covered() -> list[Row]:
    runs, arrivals = LONG
    found = coverage(series.quantile_interval, arrivals, runs, QUEUES)
    note = ", ".join(f"{each}: {fmt.ratio(given, 0)} given" for each, (given, _) in found.items())
    right = math.fsum(right for _, right in found.values()) / len(found)
    return [share(f"(c) p95 of {runs * len(QUEUES)} M/M/1 runs: in its interval, or too short", right, 0.9, note)]


def main() -> None:
    with asyncio.Runner() as runner:
        loop = runner.get_loop()
        rows = noop(loop)
        against, remarks = http()
        true, more = honesty(loop)
    report([*rows, *against, *true, *covered()], [*remarks, *more])


if __name__ == "__main__":
    if sys.argv[1:2] in (["ours"], ["locust"]):
        one_core()
        with contextlib.redirect_stdout(sys.stderr):
            found = asyncio.run(ask_as_skill(sys.argv[2])) if sys.argv[1] == "ours" else ask_as_locust(sys.argv[2])
        print(found)
    else:
        main()
