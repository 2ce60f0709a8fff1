"""The process of `run_apart`: reads arms from its standard input, times them, and tells on what was its standard output."""

from __future__ import annotations

import asyncio
import math
import os
import pickle
import sys
import time
from typing import Any

from skilllab.errors import SkilllabError
from skilllab.experiments.benchmark.rounds import Rounds
from skilllab.experiments.benchmark.runs import Run
from skilllab.programs.lifeline import die_with
from skilllab.programs.values import pack


async def measured(arms: bytes, asked: dict[str, Any]) -> Run:
    """Times the arms: `iterations` rounds, then up to `most` of them as long as `budget` seconds last."""
    timer = time.perf_counter
    started, budget = timer(), asked["budget"]
    made = pickle.loads(arms)
    async with Rounds(
        made, warmup=asked["warmup"], collect=asked["collect"], seed=asked["seed"], timer=timer
    ) as rounds:
        await rounds.until(asked["iterations"])
        await rounds.until(asked["most"], math.inf if budget is None else started + budget)
        if asked["memory"]:
            await rounds.peaks()
        return rounds.run()


def main() -> None:
    """Answers once, with what was measured or with the error; what the arms print goes nowhere."""
    die_with(*map(int, sys.argv[1:3]))
    out = os.dup(1)
    os.dup2(2, 1)
    path, arms, asked = pickle.loads(sys.stdin.buffer.read())
    sys.path[:] = path
    try:
        answer = pack(("end", asyncio.run(measured(arms, asked))))
    except Exception as error:  # noqa: BLE001 - told to whoever asked
        answer = _told(error)
    with os.fdopen(out, "wb") as pipe:
        pipe.write(answer)


def _told(error: Exception) -> bytes:
    try:
        return pack(("error", pickle.loads(pickle.dumps(error)) and error))
    except Exception:  # noqa: BLE001 - an error of a class that does not travel
        return pack(("error", SkilllabError(f"an arm raised {type(error).__name__} in its process: {error}")))


if __name__ == "__main__":
    main()
