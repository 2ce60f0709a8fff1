"""Offered load: items that come at their own times, whatever became of those before them (an open model)."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import NamedTuple, Protocol

import numpy as np

from skilllab.experiments.batching.rounds import positive
from skilllab.stats import Array

_YIELD_EVERY = 32  # items begun in a row by a generator that is late, before it lets the others work


class Submit(Protocol):
    """What takes an item, as RequestBatcher.submit does: `started` is told the seconds that it waited for its batch."""

    def __call__(self, item: int, /, *, started: Callable[[float], object]) -> Awaitable[object]: ...


class Offered(NamedTuple):
    """What came of the offered items, one number each in seconds, NaN for items that were given up.

    latency: from the intended start to the answer, the generator's own lateness included. waited: for the batch to go.
    lag: how late the generator began the item.
    """

    latency: Array
    waited: Array
    lag: Array


def poisson(rate: float, seconds: float, seed: int) -> Array:
    """Returns the arrival times of a Poisson process: `rate` a second on average, within so many seconds, from 0."""
    positive(rate=rate, seconds=seconds)
    random = np.random.default_rng(seed)
    times = np.cumsum(random.exponential(1 / rate, max(16, int(2 * rate * seconds + 16))))
    while times[-1] < seconds:
        times = np.append(times, times[-1] + np.cumsum(random.exponential(1 / rate, len(times))))
    return times[times < seconds]


async def offer(
    submit: Submit,
    times: Array,
    *,
    patience: float = 1.0,
    clock: Callable[[], float] = time.perf_counter,
    sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
) -> Offered:
    """Submits item after item at the intended times (s from now) and returns what came of them.

    patience: seconds after the last item when those without an answer are given up. Raises what an item raised.
    """
    latency, waited, lag = (np.full(len(times), np.nan) for _ in range(3))
    begin = clock()

    async def one(number: int, due: float) -> None:
        await submit(number, started=lambda seconds: waited.__setitem__(number, seconds))
        latency[number] = clock() - due

    tasks: list[asyncio.Task[None]] = []
    try:
        for number, due in enumerate((times + begin).tolist()):
            early = due - clock()
            if early > 0 or number % _YIELD_EVERY == 0:
                await sleep(max(0.0, early))
            lag[number] = clock() - due
            tasks.append(asyncio.create_task(one(number, due)))
        if tasks:
            await asyncio.wait(tasks, timeout=patience)
    finally:
        given_up = [task for task in tasks if task.cancel()]
        await asyncio.gather(*given_up, return_exceptions=True)
    for task in tasks:
        if not task.cancelled():
            task.result()
    return Offered(latency, waited, lag)
