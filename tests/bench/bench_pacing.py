"""How late requests begin at 1,000 arrivals a second, from a process of its own: timerfd against asyncio.sleep.

Both sides are the load test's generator with an engine and a skill that does nothing; they differ in how they wait.
"""

from __future__ import annotations

import asyncio
import json
import random
import subprocess
import sys

import numpy as np
from bench_engine import expect
from harness import report, row

from skilllab import InMemorySkillRegistry, LayeredExecutionEngine, skill
from skilllab import format as fmt
from skilllab.experiments.loadtest import Requests, Scenario, Stage
from skilllab.experiments.loadtest.generator import run
from skilllab.experiments.loadtest.pacing import LoopPacer, Pacer, TimerPacer

STAGE = Stage(1.0, rate=1000.0)  # of each turn
TURNS = 8  # in each process
PROCESSES = 4


@skill(id="noop-v1")
async def noop() -> int:
    """Returns at once."""
    return 1


class Sleeper(LoopPacer):
    """Waits as a dispatcher made of asyncio.sleep does."""

    async def _wait(self, at: float) -> None:
        await asyncio.sleep(at - self._loop.time())


async def p99(engine: LayeredExecutionEngine, pacer: Pacer, seed: int) -> float:
    """Returns by how much requests began late, in seconds at p99."""
    requests = Requests()
    await run(engine, Scenario("noop-v1", {}, (STAGE,), seed=seed), requests, pacer=pacer)
    columns = requests.columns()
    expect((len(columns.ok) > 800, columns.ok.all()), (True, True))
    return float(np.quantile(columns.lag, 0.99))


async def turns(seed: int) -> list[dict[str, float]]:
    """Returns the p99 of both ways, each turn in random order."""
    order, loop, found = random.Random(seed), asyncio.get_running_loop(), []
    ways = {"timerfd": TimerPacer, "sleep": Sleeper}
    registry = InMemorySkillRegistry()
    await registry.register(noop)
    async with LayeredExecutionEngine(registry) as engine:
        await p99(engine, TimerPacer(loop), seed)  # warms up
        for turn in range(TURNS):
            mixed = order.sample(sorted(ways), 2)
            found.append({way: await p99(engine, ways[way](loop), 100 * seed + turn) for way in mixed})
    return found


def main() -> None:
    rounds: list[dict[str, float]] = []
    for seed in range(PROCESSES):
        done = subprocess.run([sys.executable, __file__, str(seed)], capture_output=True, text=True, check=True)
        rounds += json.loads(done.stdout)
    ours, theirs = ([each[way] for each in rounds] for way in ("timerfd", "sleep"))
    note = f"p99 {fmt.duration(float(np.median(ours)))} against {fmt.duration(float(np.median(theirs)))}"
    report([row("start lag p99 at 1,000 arrivals a second", "asyncio.sleep", ours, theirs, at_most=0.5, note=note)])


if __name__ == "__main__":
    if len(sys.argv) > 1:
        print(json.dumps(asyncio.run(turns(int(sys.argv[1])))))
    else:
        main()
