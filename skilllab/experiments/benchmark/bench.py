"""benchmark(): candidates timed side by side until every pair of them is decided, or the time is up."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from typing import NamedTuple

from skilllab import settings
from skilllab.errors import InvalidValueError
from skilllab.experiments.benchmark.apart import packed, run_apart
from skilllab.experiments.benchmark.arms import Arm, Timer, checked_arms
from skilllab.experiments.benchmark.comparing import LOOKS
from skilllab.experiments.benchmark.result import BenchmarkResult, Design
from skilllab.experiments.benchmark.rounds import Rounds


class Progress(NamedTuple):
    """How far a benchmark is: rounds done, rounds at most, seconds, and what the last look gave (None: none yet)."""

    rounds: int
    most: int
    elapsed: float
    so_far: BenchmarkResult | None


OnProgress = Callable[[Progress], object]


async def benchmark(
    arms: Mapping[str, Callable[[], object] | Arm],
    *,
    warmup: int = settings.BENCHMARK_WARMUP,
    iterations: int = settings.BENCHMARK_ITERATIONS,
    budget: float | None = settings.BENCHMARK_BUDGET,
    smallest_difference: float = settings.SMALLEST_DIFFERENCE,
    confidence: float = 0.95,
    memory: bool = False,
    collect_garbage: bool = False,
    processes: int | None = None,
    seed: int = 0,
    timer: Timer = time.perf_counter,
    on_progress: OnProgress | None = None,
) -> BenchmarkResult:
    """Times functions, plain or `async def`, side by side, and returns their times and who is faster.

    In each round every arm has one sample, in an order drawn anew. A sample is as many calls in a row as take 100 times
    what reading the timer costs, and 20 µs; loop and timer are subtracted. Coroutine functions are awaited on the running loop.

    arms: functions without arguments, or `Arm`s with set-up, by name. warmup: rounds before those that count, at least;
    they are kept. iterations: rounds that count, at least. They are doubled, up to seven times, until each pair is decided
    (faster, slower, same) or `budget` seconds are over; None does exactly `iterations`. smallest_difference: share below
    which times are the same. memory: also finds the peak of memory of a call by tracemalloc, after the timing.
    collect_garbage: leaves the garbage collector on; else it is off inside samples, and collects young objects between rounds.
    processes: fresh processes one after another, which share the budget; functions travel by cloudpickle. Without a budget
    each does `iterations`. From 6 on, processes and not rounds carry the interval. on_progress: told after each look, and
    about ten times a second; in processes, after each.

    Raises InvalidValueError for arguments without a meaning before anything starts, and whatever an arm raises.
    """
    made = checked_arms(arms)
    _check(warmup, iterations, budget, smallest_difference, confidence, processes)
    design = Design(smallest_difference, confidence, 1 if budget is None or processes else LOOKS, collect_garbage, seed)
    most = iterations * 2 ** (LOOKS - 1) if budget is not None else iterations
    started = timer()
    if processes:
        share = None if budget is None else budget / processes
        asked = {"warmup": warmup, "iterations": iterations, "most": most, "budget": share, "memory": memory}
        runs, travelling = [], packed(made)
        for number in range(processes):
            runs.append(await run_apart(travelling, {**asked, "collect": collect_garbage, "seed": seed + number}))
            if on_progress is not None:
                so_far = BenchmarkResult(tuple(runs), design, timer() - started)
                on_progress(Progress(number + 1, processes, so_far.elapsed, so_far))
        return BenchmarkResult(tuple(runs), design, timer() - started)
    async with Rounds(made, warmup=warmup, collect=collect_garbage, seed=seed, timer=timer) as rounds:
        result = await _looks(rounds, design, iterations, most, budget, started, timer, on_progress)
        if memory:
            await rounds.peaks()
            result = BenchmarkResult((rounds.run(),), design, timer() - started)
    return result


async def _looks(
    rounds: Rounds,
    design: Design,
    iterations: int,
    most: int,
    budget: float | None,
    started: float,
    timer: Timer,
    on_progress: OnProgress | None,
) -> BenchmarkResult:
    """Does rounds, looks, and does as many again, until all is decided, the last look is taken, or the budget is spent."""
    so_far: BenchmarkResult | None = None

    def tell() -> None:
        if on_progress is not None:
            on_progress(Progress(rounds.done, most, timer() - started, so_far))

    wanted, deadline = iterations, math.inf
    while True:
        in_time = await rounds.until(wanted, deadline, tell)
        so_far = BenchmarkResult((rounds.run(),), design, timer() - started)
        tell()
        over = budget is None or wanted >= most or not in_time or timer() >= started + budget
        if over or so_far.decided:
            return so_far
        wanted, deadline = 2 * wanted, started + (budget or 0.0)


def _check(
    warmup: int,
    iterations: int,
    budget: float | None,
    smallest_difference: float,
    confidence: float,
    processes: int | None,
) -> None:
    for name, value, least in (("warmup", warmup, 0), ("iterations", iterations, 1), ("processes", processes, 1)):
        if value is None and name == "processes":
            continue
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise InvalidValueError(f"{name}(={value!r}) must be a whole number of at least {least}")
    if budget is not None and not (isinstance(budget, int | float) and 0 < budget < math.inf):
        raise InvalidValueError(f"budget(={budget!r}) must be seconds above 0, or None for exactly `iterations` rounds")
    if not (isinstance(smallest_difference, int | float) and 0 < smallest_difference < 1):
        raise InvalidValueError(f"smallest_difference(={smallest_difference!r}) must be between 0 and 1: 1 % is 0.01")
    if not (isinstance(confidence, int | float) and 0 < confidence < 1):
        raise InvalidValueError(f"confidence(={confidence!r}) must be between 0 and 1: 95 % is 0.95")
