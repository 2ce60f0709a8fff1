"""How late requests begin at 1,000 arrivals a second, from a process of its own: timerfd against asyncio.sleep.

Both sides are the load test's generator with an engine and a skill that does nothing; they differ in how they wait. Beside it
the typical lag at 100 a second, where processors fall asleep in between, and what the waiting costs.
"""

from __future__ import annotations

import asyncio
import json
import random
import subprocess
import sys
import time

import numpy as np
from bench_engine import expect
from harness import report, row

from skilllab import InMemorySkillRegistry, LayeredExecutionEngine, skill
from skilllab import format as fmt
from skilllab.experiments.loadtest import Requests, Scenario, Stage
from skilllab.experiments.loadtest.generator import run
from skilllab.experiments.loadtest.pacing import LoopPacer, Pacer, TimerPacer

FAST, SLOW = Stage(1.0, rate=1000.0), Stage(2.0, rate=100.0)  # of each turn
TURNS = 5  # in each process
PROCESSES = 4


@skill(id="noop-v1")
async def noop() -> int:
    """Returns at once."""
    return 1


class Sleeper(LoopPacer):
    """Waits as a dispatcher made of asyncio.sleep does."""

    async def _wait(self, at: float) -> None:
        await asyncio.sleep(at - self._loop.time())


class Timer(TimerPacer):
    """Waits for a timerfd alone, without turning the last bit."""

    async def _wait(self, at: float) -> None:
        assert self._descriptor is not None
        self._waiter = self._loop.create_future()
        self._timers.set(self._descriptor, at)
        await self._waiter


WAYS: dict[str, type[TimerPacer] | type[LoopPacer]] = {"timerfd": TimerPacer, "timerfd alone": Timer, "sleep": Sleeper}
STAGES = {"1,000": FAST, "100": SLOW}


async def lag(engine: LayeredExecutionEngine, pacer: Pacer, stage: Stage, seed: int) -> tuple[float, float, float]:
    """Returns by how much requests began late, in seconds at p50 and p99, and the share of a processor that was used."""
    requests, used, begin = Requests(), time.process_time(), time.perf_counter()
    await run(engine, Scenario("noop-v1", {}, (stage,), seed=seed), requests, pacer=pacer)
    share = (time.process_time() - used) / (time.perf_counter() - begin)
    columns = requests.columns()
    expect((len(columns.ok) > 100, columns.ok.all()), (True, True))
    p50, p99 = np.quantile(columns.lag, (0.5, 0.99)).tolist()
    return p50, p99, share


async def turns(seed: int) -> list[dict[str, tuple[float, float, float]]]:
    """Returns the lags of both ways at both rates, each turn in random order."""
    order, loop, found = random.Random(seed), asyncio.get_running_loop(), []
    ways = {f"{way} {name}": (pacer, stage) for way, pacer in WAYS.items() for name, stage in STAGES.items()}
    registry = InMemorySkillRegistry()
    await registry.register(noop)
    async with LayeredExecutionEngine(registry) as engine:
        await lag(engine, TimerPacer(loop), FAST, seed)  # warms up
        for turn in range(TURNS):
            mixed = order.sample(sorted(ways), len(ways))
            found.append({way: await lag(engine, ways[way][0](loop), ways[way][1], 100 * seed + turn) for way in mixed})
    return found


def main() -> None:
    rounds: list[dict[str, list[float]]] = []
    for seed in range(PROCESSES):
        done = subprocess.run([sys.executable, __file__, str(seed)], capture_output=True, text=True, check=True)
        rounds += json.loads(done.stdout)
    p50, p99, share = ({way: [each[way][part] for each in rounds] for way in rounds[0]} for part in range(3))
    ours, theirs = p99["timerfd 1,000"], p99["sleep 1,000"]
    note = f"p99 {fmt.duration(float(np.median(ours)))} against {fmt.duration(float(np.median(theirs)))}"
    remarks = [
        f"        {way} a second: p50 {fmt.duration(float(np.median(p50[way])))}, p99 {fmt.duration(float(np.median(p99[way])))}, "
        f"{fmt.ratio(float(np.median(share[way])))} of a processor"
        for way in sorted(p50)
    ]
    goal = row("start lag p99 at 1,000 arrivals a second", "asyncio.sleep", ours, theirs, at_most=0.5, note=note)
    report([goal], remarks)


if __name__ == "__main__":
    if len(sys.argv) > 1:
        print(json.dumps(asyncio.run(turns(int(sys.argv[1])))))
    else:
        main()
