"""Rounds: all arms of this process timed side by side, each once a round, in an order drawn anew."""

from __future__ import annotations

import asyncio
import gc
import math
import random
import tracemalloc
from collections.abc import Callable, Iterator, Mapping
from contextlib import AsyncExitStack, contextmanager
from typing import Self

import numpy as np

from skilllab.experiments.benchmark.arms import Arm, Overhead, Stopwatch, Timer, level
from skilllab.experiments.benchmark.runs import ArmTimes, Run
from skilllab.stats import quantile

_BREATH = 0.02  # s after which the event loop gets its turn between two rounds
_SWEEP = 0.002  # s after which young garbage is collected between two rounds
_TELL = 0.1  # s between two words about the progress
_WINDOW = 10  # warm-up rounds that are looked at
_SETTLED = 0.95  # of the first half of the window: as long as the second half is faster, an arm warms up
_LONGEST_WARMUP = 10  # times the rounds asked for
_MEMORY_CALLS = 3


class Rounds:
    """The arms being timed. As a context it sets up, warms up and calibrates; whatever happens, it tears down."""

    def __init__(self, arms: Mapping[str, Arm], *, warmup: int, collect: bool, seed: int, timer: Timer) -> None:
        self._warmup, self._collect, self._timer = warmup, collect, timer
        self._random = random.Random(seed)
        overhead = Overhead.measured(timer)
        self._watches = [Stopwatch(name, arm, timer, overhead) for name, arm in arms.items()]
        self._samples: dict[str, list[float]] = {name: [] for name in arms}
        self._singles: dict[str, list[list[float]]] = {name: [] for name in arms}
        self._warm: dict[str, list[tuple[int, float]]] = {name: [] for name in arms}
        self._memory: dict[str, int] = {}
        self._stack = AsyncExitStack()
        self._breathed = self._swept = timer()

    async def __aenter__(self) -> Self:
        try:
            for watch in self._watches:
                self._stack.push_async_callback(watch.close)
                self._warm[watch.name].append((1, await watch.open()))
            gc.collect()
            with _garbage(self._collect):
                for watch in self._watches:
                    await watch.calibrate()
                level(self._watches)
                await self._warm_up()
        except BaseException:
            await self._stack.aclose()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()

    @property
    def done(self) -> int:
        """Rounds so far."""
        return len(self._samples[self._watches[0].name])

    async def until(self, rounds: int, deadline: float = math.inf, tell: Callable[[], object] | None = None) -> bool:
        """Does rounds until there are so many, or the timer's deadline (s) has passed; returns whether there are.

        tell: called about ten times a second.
        """
        with _garbage(self._collect):
            told = self._timer()
            while self.done < rounds and self._timer() < deadline:
                await self._between()
                if tell is not None and self._timer() - told > _TELL:
                    tell()
                    told = self._timer()
                for watch in self._order():
                    self._samples[watch.name].append(await watch.sample())
                    if watch.singles:
                        self._singles[watch.name].append(await watch.one_by_one())
        return self.done >= rounds

    async def peaks(self) -> None:
        """Finds the peak of memory that one call of each arm takes, by tracemalloc: the highest of three calls."""
        running = tracemalloc.is_tracing()
        if not running:
            tracemalloc.start()
        try:
            for watch in self._watches:
                peaks = []
                for _ in range(_MEMORY_CALLS):
                    gc.collect()
                    tracemalloc.reset_peak()
                    before, _peak = tracemalloc.get_traced_memory()
                    await watch.once()
                    peaks.append(tracemalloc.get_traced_memory()[1] - before)
                self._memory[watch.name] = max(0, *peaks)
        finally:
            if not running:
                tracemalloc.stop()

    def run(self) -> Run:
        """Returns what was measured so far."""
        return {
            watch.name: ArmTimes(
                np.array(self._samples[watch.name]),
                watch.calls,
                np.array(self._singles[watch.name]) if watch.singles else None,
                tuple(self._warm[watch.name]),
                self._memory.get(watch.name),
            )
            for watch in self._watches
        }

    async def _warm_up(self) -> None:
        """Does the rounds asked for, and then more as long as an arm becomes faster."""
        for turn in range(_LONGEST_WARMUP * self._warmup):
            if turn >= self._warmup and all(_settled(warm) for warm in self._warm.values()):
                break
            await self._between()
            for watch in self._order():
                self._warm[watch.name].append((watch.calls, await watch.sample()))

    async def _between(self) -> None:
        now = self._timer()
        if not self._collect and now - self._swept > _SWEEP:
            gc.collect(0)
            self._swept = self._timer()
        if now - self._breathed > _BREATH:
            await asyncio.sleep(0)
            self._breathed = self._timer()

    def _order(self) -> list[Stopwatch]:
        """Returns all arms in an order drawn anew."""
        return self._random.sample(self._watches, len(self._watches))


def _settled(warm: list[tuple[int, float]]) -> bool:
    last = [seconds for _, seconds in warm[-_WINDOW:]]
    half = len(last) // 2
    return half == 0 or quantile(last[half:], 0.5) >= _SETTLED * quantile(last[:half], 0.5)


@contextmanager
def _garbage(collect: bool) -> Iterator[None]:
    """Keeps the garbage collector off, unless it is to run as it does."""
    was_on = gc.isenabled()
    if not collect:
        gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()
