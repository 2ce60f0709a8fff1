"""What a live chart costs: a closed load test of no-op executions in a child, watched by a LoadPanel every other second.

Which second of each pair is watched is drawn, so that both sides are the same process and the same machine. And how long it
takes from a press of Stop until no process is left, beside the 150 ms that it may take.
"""

from __future__ import annotations

import asyncio
import time

import numpy as np
from harness import Row, report, row

from skilllab import InMemorySkillRegistry, LayeredExecutionEngine, LoadPanel, script_skill, skill
from skilllab import format as fmt
from skilllab.experiments.loadtest import LoadTestResult, Requests, Scenario
from skilllab.experiments.loadtest.child import run_in_child
from skilllab.experiments.loadtest.records import Numbers, Progress
from skilllab.stats import Array

TESTS, PAIRS, USERS = 4, 8, 10
SETTLE = 0.3  # s at the begin of each second that do not count: what came in the one before is drawn in them
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
    watched, alone = asyncio.run(measure())
    note = f"{fmt.rate(round(float(np.median(1 / alone))))} without"
    chart = row("a closed load test with a live chart", "the same without", watched, alone, at_most=1.05, note=note)
    report([chart, *(longest(kind, asyncio.run(stops(kind))) for kind in KINDS)])


def longest(kind: str, took: list[float]) -> Row:
    """Returns the row of the longest of some stops."""
    ratio = max(took) / ALLOWED
    note = f"median {fmt.duration(float(np.median(took)))}, longest {fmt.duration(max(took))} of {len(took)}"
    what = f"from Stop until no process is left, {kind}: longest"
    return Row(what, fmt.duration(ALLOWED), ratio, min(took) / ALLOWED, ratio, "at most", 1.0, note)


async def measure() -> tuple[Array, Array]:
    """Returns seconds a request in the watched and in the other second of each pair."""
    registry = InMemorySkillRegistry()
    await registry.register(noop)
    found = []
    async with LayeredExecutionEngine(registry) as engine:
        for number in range(TESTS):
            order = np.random.default_rng(number).integers(0, 2, PAIRS)  # which second of each pair is watched
            found.append(await half_watched(engine, order))
    watched, alone = np.concatenate(found).T
    return watched, alone


async def half_watched(engine: LayeredExecutionEngine, order: Numbers) -> Array:
    """Returns one row a pair of seconds: seconds a request while it was watched, and while it was not."""

    async def measured(
        engine: LayeredExecutionEngine, scenario: Scenario, *, stop: asyncio.Event | None, on_progress: Progress | None
    ) -> LoadTestResult:
        assert on_progress is not None

        def sometimes(seconds: float, requests: Requests) -> None:
            pair, second = divmod(int(seconds) - 1, 2)
            if 0 <= pair < PAIRS and second == order[pair]:
                on_progress(seconds, requests)

        return await run_in_child(engine, scenario, stop=stop, on_progress=sometimes)

    panel = LoadPanel(
        engine, {"noop-v1": {}}, model="closed", load=USERS, duration=2.0 * PAIRS + 1, slo="", measure=measured
    )
    panel.settle()
    await panel.start()
    assert panel.result is not None
    ends = panel.result.requests.columns().end
    part = ends % 1 >= SETTLE
    counts = np.bincount(ends[part].astype(int), minlength=2 * PAIRS + 1)[1 : 2 * PAIRS + 1].reshape(PAIRS, 2)
    rows = np.arange(PAIRS)
    return np.stack((counts[rows, order], counts[rows, 1 - order]), axis=1) ** -1.0 * (1 - SETTLE)


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


if __name__ == "__main__":
    main()
