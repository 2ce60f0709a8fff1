"""Workers and sandboxes at the runner: against anyio's worker processes, which have no sandbox, and cold interpreters.

Every sample awaits calls one after another in one event loop. A fresh call gets a process of its own, forked from a warm
parent; the wait for the next such process is part of the sample. Cold starts are whole processes, from start to end.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from typing import Any

import numpy as np
from anyio import to_process
from harness import Row, report, row

from skilllab import format as fmt
from skilllab.define import script_skill
from skilllab.engine import SandboxOptions, SandboxRunner
from skilllab.engine.execution import Execution
from skilllab.engine.workers.supervision import Supervision
from skilllab.loading import load
from skilllab.stats import interleave, quantile

ROUNDS = 40
PYTHON = os.path.realpath(sys.executable)  # the interpreter itself, which a virtual environment only links to
SKILL = load(script_skill(id="same", source="def run(params): return params['x']"), 1)
Arm = tuple[Callable[[], object], int]


def same(x: int) -> int:
    return x


def execution() -> Execution:
    made = Execution.of("bench", "same")
    made.skill, made.params, made.limits = SKILL, {"x": 1}, SandboxOptions().resource_limits
    made.clock = time.perf_counter
    return made


async def repeated(call: Callable[[], Awaitable[object]], times: int) -> None:
    for _ in range(times):
        await call()


def sample(loop: asyncio.AbstractEventLoop, call: Callable[[], Awaitable[object]], times: int) -> Arm:
    return lambda: loop.run_until_complete(repeated(call, times)), times


def cold(*argv: str) -> Arm:
    return lambda: subprocess.run(argv, check=True, env={"PATH": os.defpath}), 1


def measure(arms: dict[str, Arm], rounds: int) -> dict[str, Any]:
    """Returns seconds of one operation, by arm and round; the first rounds, in which everything starts, are left out."""
    for call, _ in arms.values():
        call()
    times = interleave({name: call for name, (call, _) in arms.items()}, rounds)
    return {name: np.asarray(times[name]) / operations for name, (_, operations) in arms.items()}


def main() -> None:
    loop = asyncio.new_event_loop()
    supervision = Supervision()
    runners = {
        "warm": SandboxRunner(SandboxOptions(isolation="bubblewrap"), supervision),
        "process": SandboxRunner(SandboxOptions(isolation="process"), supervision),
        "fresh": SandboxRunner(SandboxOptions(isolation="bubblewrap", reuse_instances=False), supervision),
        "pandas": SandboxRunner(
            SandboxOptions(isolation="bubblewrap", reuse_instances=False, preload=("pandas",)), supervision
        ),
    }
    calls = {name: lambda runner=runner: runner.run(execution()) for name, runner in runners.items()}
    seconds = measure(
        {
            "warm": sample(loop, calls["warm"], 50),
            "process": sample(loop, calls["process"], 50),
            "anyio": sample(loop, lambda: to_process.run_sync(same, 1), 50),
            "fresh": sample(loop, calls["fresh"], 5),
            "cold": cold(PYTHON, "-I", "-S", "-c", "pass"),
        },
        ROUNDS,
    )
    heavy = measure(
        {"pandas": sample(loop, calls["pandas"], 5), "import": cold(sys.executable, "-c", "import pandas")}, 8
    )
    loop.run_until_complete(close(runners.values(), supervision))
    rows: list[Row] = [
        row("sandbox: warm call", "anyio.to_process", seconds["warm"], seconds["anyio"], at_most=1.3),
        row("sandbox: warm call", "cold python -I -S -c pass", seconds["warm"], seconds["cold"], at_most=1 / 40),
        row("sandbox: warm call in bubblewrap", "in a process", seconds["warm"], seconds["process"], at_most=1.1),
        row(
            "sandbox: fresh state for each call",
            "cold python -I -S -c pass",
            seconds["fresh"],
            seconds["cold"],
            at_most=1 / 3,
        ),
        row(
            "sandbox: fresh state, pandas imported",
            "python -c 'import pandas'",
            heavy["pandas"],
            heavy["import"],
            at_most=1 / 50,
        ),
    ]
    shown = {**seconds, **heavy}
    report(rows, [", ".join(f"{name} {fmt.duration(quantile(times, 0.5))}" for name, times in shown.items())])


async def close(runners: Any, supervision: Supervision) -> None:
    for runner in runners:
        await runner.aclose()
    await supervision.aclose()


if __name__ == "__main__":
    main()
