"""Machines for tests: a clock that the work moves, at a speed that changes as that of a shared machine does."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import numpy as np

READING = 5e-8  # s that reading the clock takes
_STEP, _STEPS = 1e-3, 20_000  # s of one speed, and how many of them before they begin anew
_DRAWS = 1 << 13


class Machine:
    """A seeded machine. Its speed wanders, and with a `neighbour` it is up to 40 % slower for a while, and stalls more often.

    Calling it reads its clock in seconds.
    """

    def __init__(self, seed: int, *, neighbour: bool = False) -> None:
        rng = np.random.default_rng(seed)
        self.now, self._rng = 0.0, rng
        wander = np.cumsum(rng.normal(0, 0.004, _STEPS)) % 0.4
        busy = np.repeat(rng.random(_STEPS // 50) < 0.5, 50) * neighbour
        self._slowness = np.exp(np.abs(wander - 0.2) + 0.35 * busy).tolist()
        self._stalls = (busy * 1.0 + 0.1).tolist()  # a second

    def __call__(self) -> float:
        self.now += READING
        return self.now

    def arm(
        self, seconds: float, spread: float, *, pareto: float = 0.0, slow: float = 0.0, times: float = 1.0
    ) -> Callable[[], None]:
        """Returns a function of so many seconds, with noise of its own.

        spread: standard deviation of the log. pareto: the share of the calls that take as long as a Pareto variable (1.5)
        says. slow: the share of the calls that take ten times as long. times: factor on all.
        """
        rng = self._rng
        work = seconds * times * np.exp(rng.normal(0, spread, _DRAWS))
        work *= np.where(rng.random(_DRAWS) < pareto, 1 + rng.pareto(1.5, _DRAWS), 1.0)
        work *= np.where(rng.random(_DRAWS) < slow, 10.0, 1.0)
        stalled, stalls = rng.random(_DRAWS).tolist(), rng.uniform(1e-3, 8e-3, _DRAWS).tolist()
        column, place = work.tolist(), int(rng.integers(_DRAWS))

        def call() -> None:
            nonlocal place
            place = (place + 1) % _DRAWS
            step = int(self.now / _STEP) % _STEPS
            taken = column[place] * self._slowness[step]
            if stalled[place] < taken * self._stalls[step]:
                taken += stalls[place]
            self.now += taken

        return call


KINDS: dict[str, dict[str, float]] = {
    "1 µs": {"seconds": 1e-6, "spread": 0.1},
    "100 µs": {"seconds": 1e-4, "spread": 0.05},
    "heavy-tailed waiting": {"seconds": 1e-4, "spread": 0.02, "pareto": 0.02},
    "allocating": {"seconds": 3e-5, "spread": 0.12},
    "sandboxed": {"seconds": 2e-4, "spread": 0.09, "pareto": 0.005},
}
"""The five kinds of calls, with the noise that they have on a real machine."""


def run(coroutine: Coroutine[Any, Any, Any]) -> Any:
    """Runs a coroutine on a loop of its own."""
    return asyncio.run(coroutine)
