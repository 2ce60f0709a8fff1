"""How late requests begin at 1,000 arrivals a second, from a process of its own: timerfd against asyncio.sleep."""

from __future__ import annotations

import asyncio
import json
import random
import subprocess
import sys

import numpy as np
from harness import report, row

from skilllab import format as fmt

RATE = 1000.0  # arrivals a second
SECONDS = 1.0  # of each turn
TURNS = 8  # in each process
PROCESSES = 4


async def lags(way: str, seed: int) -> np.ndarray:
    """Returns by how much each of some Poisson arrivals began late, in seconds; each begins a task that does nothing else."""
    from skilllab.experiments.loadtest.pacing import TimerPacer

    loop = asyncio.get_running_loop()
    late: list[float] = []

    async def request(due: float) -> None:
        late.append(loop.time() - due)

    rng = np.random.default_rng(seed)
    due = loop.time() + 0.01 + np.cumsum(rng.exponential(1 / RATE, round(RATE * SECONDS)))
    tasks = []
    with TimerPacer(loop) as pacer:
        for at in due.tolist():
            if way == "timerfd":
                await pacer.until(at)
            elif (wait := at - loop.time()) > 0:
                await asyncio.sleep(wait)
            tasks.append(loop.create_task(request(at)))
    await asyncio.gather(*tasks)
    return np.array(late)


async def turns(seed: int) -> list[dict[str, float]]:
    """Returns the p99 of both ways, each turn in random order."""
    order = random.Random(seed)
    await lags("timerfd", seed)
    found = []
    for turn in range(TURNS):
        p99 = {}
        for way in order.sample(["timerfd", "sleep"], 2):
            p99[way] = float(np.quantile(await lags(way, 100 * seed + turn), 0.99))
        found.append(p99)
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
