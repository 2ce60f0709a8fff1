"""The monitor: what listening costs an execution, what it keeps of ten million, and its histogram beside its peers'.

Attaching is measured as the difference between two engines that take turns, one of them watched, and counted in bare
awaits of the same rounds; every sample is long enough to hold its share of the folding. The memory is that of all that
the monitor's book leads to, after events as an engine makes them, of four skills whose durations, queue times, CPU times
and memory are spread over powers of ten (log-normal): made up, since ten million real executions say no more.
"""

from __future__ import annotations

import asyncio
import gc
import sys
from collections.abc import Callable, Iterator
from functools import partial
from importlib.metadata import version
from types import FunctionType, ModuleType
from typing import Any

import numpy as np
from harness import Row, compare, report, row

from skilllab import format as fmt
from skilllab.define import skill
from skilllab.engine import LayeredExecutionEngine
from skilllab.histogram import Histogram
from skilllab.monitor import PerformanceMonitor
from skilllab.outcome import ExecutionEvent, ExecutionMetadata, ExecutionResult, ResourceUsage
from skilllab.registry import InMemorySkillRegistry
from skilllab.stats import interleave, quantile

ROUNDS = 60
BARE, OURS = 20_000, 2048  # awaits and executions in one sample: two batches of the monitor
VALUES = 2000
PARAMS = {"number": 1}
SKILLS, METRICS = 4, 4
MOST, FEW, MANY = 16 * 2**10, 10**6, 10**7
CHUNK = 10_000
FLAT = 1.1  # the rarest of ten times as many values lie half an octave farther out


async def nothing(number: int) -> int:
    """Gives its number back."""
    return number


async def bare(times: int) -> None:
    for _ in range(times):
        await nothing(1)


async def repeated(call: Callable[[], Any], times: int) -> None:
    for _ in range(times):
        await call()


def attached() -> list[Row]:
    """What a monitor adds to an execution, in bare awaits."""
    with asyncio.Runner() as runner:
        run = runner.run
        registry = InMemorySkillRegistry()
        run(registry.register(skill(id="nothing")(nothing)))
        plain, watched = LayeredExecutionEngine(registry), LayeredExecutionEngine(registry)

        async def attach() -> PerformanceMonitor:
            made = PerformanceMonitor()
            made.attach(watched)
            return made

        monitor = run(attach())
        arms = {
            "bare": lambda: run(bare(BARE)),
            "plain": lambda: run(repeated(partial(plain.execute, "nothing", PARAMS), OURS)),
            "watched": lambda: run(repeated(partial(watched.execute, "nothing", PARAMS), OURS)),
        }
        times = interleave(arms, ROUNDS, inner=1)
        figures = monitor.skill("nothing")
        if figures.failed or figures.duration.n != ROUNDS * OURS:
            raise SystemExit(f"not every execution was counted: {figures}")
        monitor.close()
        run(plain.aclose())
        run(watched.aclose())
    await_ = times["bare"] / BARE
    more = np.maximum((times["watched"] - times["plain"]) / OURS, 1e-12)
    note = f"{fmt.duration(quantile(more, 0.5))} an execution, bare await {fmt.duration(quantile(await_, 0.5))}"
    return [row("a monitor attached, folding included", "bare await", more, await_, at_most=15, note=note)]


class Events:
    """Stands where an engine stands, and tells a monitor of events that are made up."""

    results = None
    active = ()

    def __init__(self) -> None:
        self.callbacks: dict[str, Callable[[Any], object]] = {}

    def on(self, name: str, callback: Callable[[Any], object]) -> Callable[[], None]:
        self.callbacks[name] = callback
        return lambda: None


def made_up(rng: np.random.Generator, begin: float) -> Iterator[ExecutionResult]:
    """Yields results whose metrics spread over powers of ten, 2,000 a second from `begin` on."""
    columns = np.stack([np.exp(rng.normal(centre, 1.0, CHUNK)) for centre in (-5.0, -8.0, -7.0, 16.0)])
    for number, (ran, waited, cpu, used) in enumerate(columns.T.tolist()):
        usage = ResourceUsage(cpu, int(used))
        skill_id, start = f"s{number % SKILLS}", begin + number / 2000
        metadata = ExecutionMetadata("", skill_id, 1, None, start, ran, waited, 0.0, 1, False, None, usage)
        yield ExecutionResult(None, None, metadata)


def memory() -> list[Row]:
    """What a monitor keeps of a skill and metric, and whether that grows."""
    rng, kept = np.random.default_rng(0), {}
    monitor, events = PerformanceMonitor(clock=lambda: 0.0), Events()
    monitor.attach(events)  # type: ignore[arg-type]
    complete = events.callbacks["execution-complete"]
    for fed in range(CHUNK, MANY + 1, CHUNK):
        for result in made_up(rng, fed / 2000):
            complete(ExecutionEvent("execution-complete", "", "", 0.0, result))
        if fed in (FEW, MANY):
            kept[fed] = size_of(monitor._book) / (SKILLS * METRICS)
    counted = sum(figures.duration.n for figures in monitor.figures())
    if counted != MANY:
        raise SystemExit(f"{counted:,} of {MANY:,} were counted")
    what = f"kept of a skill and metric after {fmt.count(MANY)} records"
    return [
        Row(what, "", kept[MANY], kept[MANY], kept[MANY], "at most", MOST, show=fmt.size),
        Row(f"the same beside after {fmt.count(FEW)}", "", *[kept[MANY] / kept[FEW]] * 3, "at most", FLAT),
    ]


def size_of(root: object) -> int:
    """Returns the bytes of an object and of all that only it leads to: Python objects, and the data of arrays."""
    seen, left, size = {id(root)}, [root], 0
    while left:
        thing = left.pop()
        size += sys.getsizeof(thing)
        for part in gc.get_referents(thing):
            if id(part) not in seen and not isinstance(part, type | ModuleType | FunctionType):
                seen.add(id(part))
                left.append(part)
    return size


def recording() -> list[Row]:
    """A value recorded in our histogram, beside two others'."""
    import prometheus_client
    from hdrh.histogram import HdrHistogram

    seconds = np.random.default_rng(0).lognormal(-5, 1, VALUES).tolist()
    micros = [max(1, round(1e6 * value)) for value in seconds]
    ours = Histogram().record
    observe = prometheus_client.Histogram("bench_seconds", "", registry=prometheus_client.CollectorRegistry()).observe
    record_value = HdrHistogram(1, 3_600_000_000, 3).record_value

    def each(call: Callable[[Any], object], values: list[Any]) -> Callable[[], None]:
        def sample() -> None:
            for value in values:
                call(value)

        return sample

    does = {"ours_does": VALUES, "theirs_does": VALUES, "rounds": ROUNDS}
    what = "Histogram.record"
    peer = f"observe, prometheus_client {version('prometheus_client')}"
    other = f"record_value, hdrhistogram {version('hdrhistogram')}"
    return [
        compare(what, each(ours, seconds), peer, each(observe, seconds), at_most=1 / 3, **does),
        compare(what, each(ours, seconds), other, each(record_value, micros), at_most=1 / 5, **does),
    ]


def main() -> None:
    report([*attached(), *recording(), *memory()])


if __name__ == "__main__":
    main()
