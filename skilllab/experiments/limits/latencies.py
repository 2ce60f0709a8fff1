"""Latencies: what a call costs in every layer and isolation, with a worker that is cold, fresh or warm."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from skilllab import format as fmt
from skilllab.define import command_skill, http_skill, script_skill, skill
from skilllab.demo import DemoProcess
from skilllab.engine import FunctionOptions, LayeredExecutionEngine, SandboxOptions
from skilllab.engine.workers.machine import Isolation
from skilllab.experiments.batching.rounds import Progress, counted, ends, middle, middle_interval, turns
from skilllab.experiments.failures import registry_of
from skilllab.experiments.limits.ways import here
from skilllab.model import ResourceLimits
from skilllab.stats import Array

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

_REST = 0.01  # s before each turn: whatever the last one left to be done is done by then
_CALLS = {"fresh": 5, "warm": 20, "": 5}
"""Calls of one turn, by the state of the worker; what a turn gives is their mean. A cold worker has one."""
_WORKER = ResourceLimits(max_duration=30.0)  # what takes a function out of this process


class Arm(NamedTuple):
    """One way to call a skill that does nothing: what runs it, with which isolation, and the state of its worker."""

    what: str
    isolation: str
    state: str

    def __str__(self) -> str:
        inside = f" ({self.isolation})" if self.isolation else ""
        return f"{self.what}, {self.state}{inside}" if self.state else f"{self.what}{inside}"


PROCESS = Arm("new Python process", "", "")
FUNCTION = Arm("function in this process", "", "")
API = Arm("API on this machine", "", "")


@skill(id="nothing-v1")
async def nothing() -> int:
    """Does nothing."""
    return 0


@skill(id="nothing-apart-v1")
def nothing_apart() -> int:
    """Does nothing, in a worker."""
    return 0


_APART = nothing_apart.definition.id
_SCRIPT = script_skill(id="nothing-script-v1", source="def run(params):\n    return 0\n")
_COMMAND = command_skill(id="nothing-command-v1", argv=["true"])


@dataclass(frozen=True, slots=True)
class Latencies:
    """Seconds a call by arm, one number a round."""

    seconds: Mapping[Arm, Array]

    def median(self, what: str, isolation: str = "", state: str = "") -> float:
        """Returns the median (s) of an arm."""
        return middle(self.seconds[Arm(what, isolation, state)])

    @property
    def isolation(self) -> str:
        """The strongest isolation that was measured."""
        return next(arm.isolation for arm in self.seconds if arm.isolation)

    @property
    def warm(self) -> float:
        """Median (s) of a warm sandbox in the strongest isolation."""
        return self.median("sandbox", self.isolation, "warm")

    @property
    def fresh(self) -> float:
        """Median (s) of a fresh one."""
        return self.median("sandbox", self.isolation, "fresh")

    @property
    def cold(self) -> float:
        """Median (s) of a cold one."""
        return self.median("sandbox", self.isolation, "cold")

    @property
    def finding(self) -> str:
        """What it comes to, in one line."""
        fresh, cold = (fmt.times(other / self.warm, 2) for other in (self.fresh, self.cold))
        return f"A warm sandbox answers in {fmt.duration(self.warm, 2)}; a fresh one takes {fresh}, a cold one {cold} as long"

    def frame(self) -> pd.DataFrame:
        """Returns one row an arm, fastest first: what, isolation, state, seconds (median), low, high, rounds."""
        import pandas as pd

        rows = [
            (*arm, middle(values), *ends(middle_interval(values)), len(values))
            for arm, values in self._sorted().items()
        ]
        return pd.DataFrame(rows, columns=[*Arm._fields, "seconds", "low", "high", "rounds"])

    def plot(self, ax: Axes | None = None) -> Axes:
        """Draws the median of each arm with its interval on a log axis, fastest first."""
        from skilllab import plots

        arms = self._sorted()
        rounds = len(next(iter(arms.values())))
        return plots.bars(
            [str(arm) for arm in arms],
            [middle(values) for values in arms.values()],
            intervals=[middle_interval(values) for values in arms.values()],
            show=fmt.duration,
            log=True,
            title=self.finding,
            x_label=f"Time a call: median of {rounds} rounds, 95 % interval",
            ax=ax,
        )

    def __str__(self) -> str:
        told = "; ".join(f"{arm}: {fmt.duration(middle(values))}" for arm, values in self._sorted().items())
        return f"{self.finding}. {told}."

    def _sorted(self) -> dict[Arm, Array]:
        return dict(sorted(self.seconds.items(), key=lambda arm: middle(arm[1])))


async def latencies(
    rounds: int = 30,
    *,
    isolations: tuple[Isolation, ...] | None = None,
    seed: int = 0,
    on_progress: Progress | None = None,
) -> Latencies:
    """Times a skill that does nothing in every layer and isolation (those of this machine when None), in turns.

    Cold is the first call of a new engine, with all that it starts; fresh has a worker of its own, forked from a warm parent,
    and waits for it; warm has one that has answered before. Raises InvalidValueError for rounds below 1.
    """
    counted("rounds", [rounds])
    arms: dict[Arm, Callable[[int], Awaitable[float]]] = {PROCESS: _process}
    async with AsyncExitStack() as stack:
        server = await stack.enter_async_context(DemoProcess())
        api = http_skill(id="nothing-api-v1", url=f"{server.url}/users/1")
        plain = await stack.enter_async_context(LayeredExecutionEngine(registry_of(nothing, api), results=None))
        arms[FUNCTION] = partial(_calls, plain, nothing.definition.id, None, "warm")
        arms[API] = partial(_calls, plain, api.id, None, "warm")
        for isolation in here() if isolations is None else isolations:

            async def calls(
                of: str, state: str, limits: ResourceLimits | None = None
            ) -> Callable[[int], Awaitable[float]]:
                engine = _engine(isolation, reuse_instances=state != "fresh")  # noqa: B023 - called in this very round
                return partial(_calls, await stack.enter_async_context(engine), of, limits, state)

            arms |= {
                Arm("function in a worker", isolation, "warm"): await calls(_APART, "warm", _WORKER),
                Arm("sandbox", isolation, "warm"): await calls(_SCRIPT.id, "warm"),
                Arm("sandbox", isolation, "fresh"): await calls(_SCRIPT.id, "fresh"),
                Arm("sandbox", isolation, "cold"): partial(_cold, isolation),
                Arm("command", isolation, ""): await calls(_COMMAND.id, ""),
            }
        for arm in arms.values():
            await arm(0)  # imports, workers, connections
        seconds = await turns(arms, rounds, seed=seed, on_progress=on_progress)
    return Latencies({arm: np.array(values) for arm, values in seconds.items()})


def _engine(isolation: Isolation, *, reuse_instances: bool) -> LayeredExecutionEngine:
    # One seat: who comes while a worker is being made waits for it, and no other one is ready by chance.
    sandbox = SandboxOptions(isolation=isolation, reuse_instances=reuse_instances, max_concurrent=1)
    functions = FunctionOptions(isolation=isolation, max_workers=1)
    registry = registry_of(nothing_apart, _SCRIPT, _COMMAND)
    return LayeredExecutionEngine(registry, functions=functions, sandbox=sandbox, results=None)


async def _calls(
    engine: LayeredExecutionEngine, skill_id: str, limits: ResourceLimits | None, state: str, turn: int
) -> float:
    """Returns seconds a call; raises what a call failed with."""
    await asyncio.sleep(_REST)
    begin = time.perf_counter()
    for _ in range(_CALLS[state]):
        await engine.call(skill_id, {}, resource_limits=limits)
    return (time.perf_counter() - begin) / _CALLS[state]


async def _cold(isolation: Isolation, turn: int) -> float:
    await asyncio.sleep(_REST)
    async with _engine(isolation, reuse_instances=True) as engine:
        begin = time.perf_counter()
        await engine.call(_SCRIPT.id, {})
        return time.perf_counter() - begin


async def _process(turn: int) -> float:
    await asyncio.sleep(_REST)
    return _new_process()


def _new_process() -> float:
    """Returns seconds that a new Python process takes to start, import next to nothing, and end."""
    begin = time.perf_counter()
    subprocess.run([os.path.realpath(sys.executable), "-I", "-S", "-c", "pass"], check=True)
    return time.perf_counter() - begin
