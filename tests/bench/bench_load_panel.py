"""What a live chart costs: a closed load test of no-op executions in a child, watched by a LoadPanel and not watched.

Both sides run the same scenario in a process of the same kind, in random order in every round. And how long it takes
from a press of Stop until no process is left, beside the 150 ms that it may take.
"""

from __future__ import annotations

import asyncio
import random
import time

import numpy as np
from harness import Row, report, row

from skilllab import InMemorySkillRegistry, LayeredExecutionEngine, LoadPanel, script_skill, skill
from skilllab import format as fmt
from skilllab.experiments.loadtest import LoadTestResult, Scenario, Stage
from skilllab.experiments.loadtest.child import run_in_child

ROUNDS, SECONDS, USERS = 10, 2.0, 10
STOPS, ALLOWED = 15, 0.15  # of each kind of skill; s


@skill(id="noop-v1")
async def noop() -> int:
    """Returns at once."""
    return 1


@skill(id="blocking-v1")
async def blocking() -> int:
    """Keeps the event loop of the test for longer than a stop may take."""
    time.sleep(0.3)  # noqa: ASYNC251 - it is meant to block
    return 1


SCRIPT = "import time\ndef run(params):\n    time.sleep(0.05)\n    return 1\n"
KINDS = {"a no-op": noop, "blocks the loop": blocking, "in sandboxes": script_skill(id="sandboxed-v1", source=SCRIPT)}


def main() -> None:
    rates = asyncio.run(measure())
    watched, alone = (1 / np.array(rates[side]) for side in ("watched", "alone"))
    note = f"{fmt.rate(round(float(np.median(rates['alone']))))} without"
    chart = row("a closed load test with a live chart", "the same without", watched, alone, at_most=1.05, note=note)
    report([chart, *(longest(kind, asyncio.run(stops(kind))) for kind in KINDS)])


def longest(kind: str, took: list[float]) -> Row:
    """Returns the row of the longest of some stops."""
    ratio = max(took) / ALLOWED
    note = f"median {fmt.duration(float(np.median(took)))}, longest {fmt.duration(max(took))} of {len(took)}"
    what = f"from Stop until no process is left, {kind}: longest"
    return Row(what, fmt.duration(ALLOWED), ratio, min(took) / ALLOWED, ratio, "at most", 1.0, note)


async def measure() -> dict[str, list[float]]:
    """Returns executions a second, one for each round, with and without a chart."""
    registry = InMemorySkillRegistry()
    await registry.register(noop)
    rates: dict[str, list[float]] = {"watched": [], "alone": []}
    async with LayeredExecutionEngine(registry) as engine:
        sides = {"watched": watched, "alone": alone}
        for number in range(-1, ROUNDS):  # the first round warms up
            for side in random.Random(number).sample(sorted(sides), 2):
                result = await sides[side](engine)
                rates[side] += [result.requests_per_second] if number >= 0 else []
    return rates


async def stops(kind: str) -> list[float]:
    """Returns seconds from a press of Stop, in the middle of a test, until its process has ended."""
    registry = InMemorySkillRegistry()
    skill_id = (await registry.register(KINDS[kind])).id
    took = []
    async with LayeredExecutionEngine(registry) as engine:
        panel = LoadPanel(engine, {skill_id: {}}, model="closed", load=USERS, duration=60.0, slo="")
        for _ in range(STOPS):
            test = asyncio.create_task(panel.start())
            while panel._view is None or panel._view.finished == 0:  # noqa: ASYNC110 - the child tells nobody else
                await asyncio.sleep(0.01)
            begun = time.perf_counter()
            panel.run.click()
            await test
            took.append(time.perf_counter() - begun)
    return took


async def watched(engine: LayeredExecutionEngine) -> LoadTestResult:
    panel = LoadPanel(engine, {noop.definition.id: {}}, model="closed", load=USERS, duration=SECONDS, slo="")
    panel.settle()
    await panel.start()
    assert panel.result is not None
    return panel.result


async def alone(engine: LayeredExecutionEngine) -> LoadTestResult:
    stage = Stage(SECONDS, concurrency=USERS)
    return await run_in_child(engine, Scenario(noop.definition.id, {}, (stage,), warmup=0.1 * SECONDS))


if __name__ == "__main__":
    main()
