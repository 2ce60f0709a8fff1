"""How long a skill's first call takes: cold, preloaded, and warm, each sample in a fresh process.

A process imports a module once, so a second "cold" call in the same process would be none. This file is also the
program that such a process runs, and therefore imports at its top nothing that a skill would have to import itself.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from skilllab.engine.engine import LayeredExecutionEngine
from skilllab.errors import ExecutionError, InvalidValueError
from skilllab.registry import InMemorySkillRegistry
from skilllab.settings import data_folder
from skilllab.skills.catalogue import read_catalogue

if TYPE_CHECKING:
    import pandas as pd

STATES = ("cold", "preloaded", "warm")
_TIMEOUT = 60.0


def sample_calls(folder: Path | None = None) -> dict[str, dict[str, Any]]:
    """Returns parameters for each built-in skill that make it work on the sample files.

    folder: with samples/ inside; the project's data folder when None.
    """
    folder = folder or data_folder()
    samples = folder / "samples"
    orders = (samples / "orders.json").read_text("utf-8")
    schema = json.loads((samples / "order.schema.json").read_text("utf-8"))
    return {
        "file-reader-v1": {"path": str(samples / "notes" / "menu_cp1252.txt")},
        "data-validator-v1": {"records": json.loads(orders), "schema": schema},
        "json-processor-v1": {"text": orders, "query": "sum([].lines[].pieces)"},
        "csv-summary-v1": {"path": str(samples / "stations.csv")},
        "text-search-v1": {"path": str(samples / "events.log"), "pattern": "status=5[0-9]{2}", "regex": True},
        "checksum-v1": {"path": str(samples / "stations.csv")},
    }


def first_calls(
    processes: int = 8, warm_rounds: int = 10, on_progress: Callable[[int, int], object] | None = None
) -> pd.DataFrame:
    """Times the built-in skills on the sample files and returns one row for each state, process and skill.

    Columns: state (cold: definitions registered, nothing imported; preloaded: after `preload_skills`; warm: the later
    calls of the cold process, their median), process, skill, seconds of `engine.execute` without the result cache. Two
    fresh processes make a sample of each state. on_progress: called with (processes done, processes in all).
    Raises InvalidValueError for counts below 1, ExecutionError when a process fails.
    """
    import pandas as pd

    if processes < 1 or warm_rounds < 1:
        raise InvalidValueError(f"processes(={processes}) and warm_rounds(={warm_rounds}) must be at least 1")
    folder = data_folder()
    rows: list[tuple[str, int, str, float]] = []
    for number in range(processes):
        for preload in (False, True):
            measured = _fresh_process(folder, preload=preload, warm_rounds=warm_rounds)
            state = "preloaded" if preload else "cold"
            rows += [(state, number, skill, first) for skill, (first, _) in measured.items()]
            if not preload:
                rows += [("warm", number, skill, warm) for skill, (_, warm) in measured.items()]
            if on_progress is not None:
                on_progress(2 * number + preload + 1, 2 * processes)
    return pd.DataFrame(rows, columns=["state", "process", "skill", "seconds"])


def _fresh_process(folder: Path, *, preload: bool, warm_rounds: int) -> dict[str, tuple[float, float]]:
    task = json.dumps(
        {
            "file": str(folder / "catalogue.json"),
            "calls": sample_calls(folder),
            "preload": preload,
            "warm_rounds": warm_rounds,
        }
    )
    command = [sys.executable, "-m", "skilllab.experiments.first_calls"]
    try:
        done = subprocess.run(command, input=task, capture_output=True, text=True, timeout=_TIMEOUT, check=False)
    except subprocess.TimeoutExpired as error:
        raise ExecutionError(
            f"a process that timed first calls took longer than {_TIMEOUT:g} s and was ended"
        ) from error
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
        raise ExecutionError(f"a process that timed first calls ended with {done.returncode}: {reason}")
    times: dict[str, tuple[float, float]] = json.loads(done.stdout)
    return times


async def measure(
    file: str, calls: Mapping[str, Mapping[str, Any]], *, preload: bool, warm_rounds: int
) -> dict[str, Any]:
    """Returns for each skill the seconds of its first call and the median of the later ones; see `first_calls`.

    file: the catalogue. Raises what the skill raised when a call fails.
    """
    catalogue = read_catalogue(file)
    registry = InMemorySkillRegistry(catalogue=catalogue)
    for skill_id in calls:
        await registry.register(catalogue[skill_id])
    if preload:
        await registry.preload_skills(calls)
    seconds: dict[str, list[float]] = {skill_id: [] for skill_id in calls}
    async with LayeredExecutionEngine(registry) as engine:
        for _ in range(1 + warm_rounds):
            for skill_id, params in calls.items():
                start = time.perf_counter()
                result = await engine.execute(skill_id, params, cache=False)
                seconds[skill_id].append(time.perf_counter() - start)
                if result.error is not None:
                    raise result.error
    return {skill_id: (first, median(later)) for skill_id, (first, *later) in seconds.items()}


if __name__ == "__main__":
    sys.stdout.write(json.dumps(asyncio.run(measure(**json.load(sys.stdin)))))
