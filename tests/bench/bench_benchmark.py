"""The honesty of benchmark() on this machine in real time: self-comparisons, a real 3 %, a slower tail.

Five kinds of calls; every other comparison runs beside a noisy neighbour, a process that burns a core now and then. The 1,000
self-comparisons take about half an hour; with SKILLLAB_FAST=1 each question is put a fifth as often.
"""

from __future__ import annotations

import asyncio
import random
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from contextlib import contextmanager

from harness import Row, report

from skilllab import LayeredExecutionEngine, benchmark, script_skill, settings
from skilllab import format as fmt
from skilllab.experiments.benchmark import Compared
from skilllab.experiments.failures import registry_of

COMPARISONS = 40 if settings.fast() else 200  # self-comparisons of each kind
DIFFERENT = 10 if settings.fast() else 40  # of each kind that are 3 % slower, and as many with a slower tail
BUDGET = 4.0  # s a comparison
BURN = """
import os, random, time
random.seed(1)
while os.getppid() != 1:
    end = time.monotonic() + random.uniform(0.005, 0.05)
    while time.monotonic() < end:
        pass
    time.sleep(random.uniform(0.005, 0.05))
"""
SCRIPT = "def run(params):\n    return sum(n for n in range(params['n']))\n"

Call = Callable[[], object]
Make = Callable[[random.Random, float, float], Call]
"""Makes an arm: its own random numbers, the size of its work, and which share of the calls does ten times as much."""


def count(size: float) -> int:
    total = 0
    for number in range(round(size)):
        total += number
    return total


def allocate(size: float) -> list[list[int]]:
    return [[number] for number in range(round(size))]


def working(work: Callable[[float], object]) -> Make:
    return lambda own, size, slow: lambda: work(10 * size if own.random() < slow else size)


def waiting(own: random.Random, size: float, slow: float) -> Call:
    """Waits for so many µs; of 50 calls one waits as long as a Pareto variable of shape 1.5 says, whose variance is infinite."""

    def wait() -> None:
        times = own.paretovariate(1.5) if own.random() < 0.02 else 1.0
        time.sleep(1e-6 * size * times * (20 if own.random() < slow else 1))

    return wait


def sandboxed(engine: LayeredExecutionEngine) -> Make:
    def make(own: random.Random, size: float, slow: float) -> Call:
        async def call() -> None:
            for _ in range(10 if own.random() < slow else 1):
                await engine.call("sum-v1", {"n": round(size)})

        return call

    return make


@contextmanager
def neighbour(noisy: bool):
    if not noisy:
        yield
        return
    child = subprocess.Popen([sys.executable, "-c", BURN])
    try:
        yield
    finally:
        child.kill()
        child.wait()


async def more(make: Make, size: float) -> float:
    """Returns the size that takes 3 % longer, from how much longer one half as large again takes."""
    arms = {"usual": make(random.Random(1), size, 0.0), "larger": make(random.Random(2), 1.5 * size, 0.0)}
    ratio = (await benchmark(arms, iterations=1000, budget=None)).compare("usual", "larger").ratio
    return size * (1 + 0.5 * 0.03 / (ratio - 1))


async def ask(make: Make, sizes: tuple[float, float], often: int, what: str, slow: float = 0.0) -> list[Compared]:
    found = []
    for noisy in (False, True):
        with neighbour(noisy):
            for seed in range(noisy, often, 2):
                a = make(random.Random(seed), sizes[0], 0.0)
                b = a if sizes[0] == sizes[1] and not slow else make(random.Random(~seed), sizes[1], slow)
                result = await benchmark({"a": a, "b": b}, budget=BUDGET, seed=seed)
                found.append(result.compare("a", "b"))
    verdicts = Counter(f"{one.typical.verdict}/{one.tail.verdict}" for one in found)
    print(
        f"       {what}: " + ", ".join(f"{number} {verdict}" for verdict, number in verdicts.most_common()), flush=True
    )
    return found


def share(what: str, counted: int, of: int, sense: str, goal: float) -> Row:
    said = f"{fmt.count(counted)} of {fmt.count(of)}"
    return Row(what, said, counted / of, counted / of, counted / of, sense, goal, show=fmt.ratio)  # type: ignore[arg-type]


async def main() -> None:
    registry = registry_of(script_skill(id="sum-v1", source=SCRIPT))
    async with LayeredExecutionEngine(registry, results=None) as engine:
        await engine.call("sum-v1", {"n": 1})
        kinds: dict[str, tuple[Make, float]] = {
            "1 µs": (working(count), 30),
            "100 µs": (working(count), 3_000),
            "heavy-tailed waiting": (waiting, 50),
            "allocating": (working(allocate), 400),
            "sandboxed": (sandboxed(engine), 2_000),
        }
        selves, real, tails = [], [], []
        for kind, (make, size) in kinds.items():
            selves += await ask(make, (size, size), COMPARISONS, f"{kind}, itself")
            real += await ask(make, (size, await more(make, size)), DIFFERENT, f"{kind}, 3 % slower")
            tails += await ask(make, (size, size), DIFFERENT, f"{kind}, 1 % of the calls ten times slower", slow=0.01)
    verdicts = Counter(one.verdict for one in selves)
    found = sum(one.verdict == "slower" for one in real)
    seen = sum(one.tail.verdict == "slower" or one.verdict == "slower" for one in tails)
    report(
        [
            share(
                "self-comparisons called different",
                verdicts["faster"] + verdicts["slower"],
                len(selves),
                "at most",
                0.004,
            ),
            share("self-comparisons called the same", verdicts["same"], len(selves), "at least", 0.9),
            share("a real 3 % found", found, len(real), "at least", 0.95),
            share("a slower tail found", seen, len(tails), "at least", 0.95),
            share(
                "a slower tail called the same", sum(one.verdict == "same" for one in tails), len(tails), "at most", 0.0
            ),
        ]
    )


if __name__ == "__main__":
    asyncio.run(main())
