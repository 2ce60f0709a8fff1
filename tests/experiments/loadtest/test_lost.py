"""A skill that ends the process of a load test: no figure is taken for a good one, and no probe before it is lost."""

from __future__ import annotations

import asyncio
import json
import math
import os
import signal
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from skilllab.define import skill
from skilllab.errors import WorkerLostError
from skilllab.experiments.loadtest import Requests, load_test
from skilllab.experiments.loadtest.capacity import CapacityResult, find_capacity
from skilllab.experiments.loadtest.probing import explore
from skilllab.experiments.loadtest.search import Observation, Search
from skilllab.experiments.loadtest.slo import parse_slo
from tests.experiments.loadtest.queues import Queue
from tests.experiments.loadtest.test_child import engine_of, in_loop

state = {"calls": 0, "under_way": 0}


@skill(id="counting")
async def counting(most: int) -> int:
    """Ends its process at a call that is one too many."""
    state["calls"] += 1
    if state["calls"] > most:
        os._exit(7)
    return state["calls"]


@skill(id="crowded")
async def crowded(most: int) -> None:
    """Is killed, as by a system without memory, when too many calls are under way; takes 50 ms."""
    state["under_way"] += 1
    if state["under_way"] > most:
        os.kill(os.getpid(), signal.SIGKILL)
    await asyncio.sleep(0.05)
    state["under_way"] -= 1


async def capacity(target: Any, most: int, **options: Any) -> CapacityResult:
    """Returns what find_capacity says of a skill in a process of its own."""
    options = {"slo": "p95 < 150 ms", "start": 200.0, "duration": 4.0, **options}
    async with engine_of(target) as engine:
        return await find_capacity(engine, target.definition.id, {"most": most}, where="process", **options)


@pytest.mark.slow
@in_loop
async def test_a_test_whose_process_is_lost_does_not_pass() -> None:
    """600 good answers and then no process: without knowing of the loss it would be a pass."""
    slo = "errors < 5 %"
    async with engine_of(counting) as engine:
        result = await load_test(engine, "counting", {"most": 600}, rate=400.0, duration=20.0, where="process", slo=slo)
    assert len(result.requests) > 144
    assert (result.ending.reason, result.ending.lost, result.verdict) == ("aborted", True, "inconclusive")
    assert replace(result, ending=replace(result.ending, lost=False)).verdict == "pass"


@pytest.mark.slow
@in_loop
async def test_a_listener_that_raises_ends_the_test_in_a_process_too() -> None:
    """It comes out at the first call, as it does without a process."""

    def broken(seconds: float, requests: Requests) -> None:
        raise ZeroDivisionError

    async with engine_of(crowded) as engine, asyncio.timeout(30):
        with pytest.raises(ZeroDivisionError):
            await load_test(engine, "crowded", {"most": 99}, duration=600.0, where="process", on_progress=broken)


@pytest.mark.slow
@pytest.mark.parametrize(("most", "start"), [(1, 200.0), (20, 400.0)], ids=["before its first batch", "at a high rate"])
@in_loop
async def test_a_probe_whose_process_is_lost_is_broken(most: int, start: float) -> None:
    """The search goes on below that rate with another process, and all probes are there, with a warning."""
    result = await capacity(crowded, most, start=start)
    lost = [probe for probe in result.probes if probe.lost]
    assert len(result.probes) > 2
    assert lost
    for probe in lost:
        assert "status -9" in probe.lost
        assert (probe.holds, probe.clearly_broken, probe.loads) == (False, True, (1.0,))
        assert probe.requests > 50
    after = result.probes[result.probes.index(lost[0]) + 1 :]
    assert after
    assert max(probe.rate for probe in after) < 1.2 * lost[0].rate
    assert any(probe.holds for probe in result.probes[1:]) == (most > 1)
    (warning,) = [each for each in result.warnings if "status -9" in each]
    assert f"In {len(lost)} of {len(result.probes)} probes, from " in warning
    again = CapacityResult.from_json(json.loads(json.dumps(result.to_json())))
    assert again.probes == result.probes
    assert str(again) == str(result)


@pytest.mark.slow
@in_loop
async def test_a_process_that_is_lost_without_load_holds_at_no_rate() -> None:
    """The tenth of the requests one at a time ends it: no rate is tried, and the answer says why."""
    result = await capacity(counting, 9)
    assert (result.low, result.high, len(result.probes)) == (0.0, 0.0, 1)
    assert "holds at no rate: with one request at a time the process of the load test ended with status 7" in str(
        result
    )


def test_a_process_that_cannot_begin_ends_the_search() -> None:
    """The third probe has no process: the two before are kept, and the result says why there are no more."""
    queue, search = Queue(1, 0), Search(parse_slo("p95 < 5 s"), budget=9000.0, start=0.5)

    async def probe(rate: float, seconds: float) -> Observation:
        if len(search.probes) == 2:
            raise WorkerLostError("the process of a load test cannot be started: no memory")
        return queue.probe(rate, seconds)

    ended = asyncio.run(explore(search, probe))
    assert len(search.probes) == 2
    result = CapacityResult(
        "p95 < 5 s", 0.0, math.inf, None, 99.0, 0.1, 9.0, tuple(search.probes), {}, at_least=True, ended=ended
    )
    assert "The search ended before its time: the process of a load test cannot be started: no memory." in str(result)
    assert CapacityResult.from_json(json.loads(json.dumps(result.to_json()))) == result


def test_a_lost_probe_is_broken_whatever_the_bound() -> None:
    """All may fail, and yet no process is no answer: the next rate is half of that one, and not twice."""
    search = Search(parse_slo("errors <= 100 %"), budget=100.0, start=10.0)
    intended = np.arange(100) / 10
    done = search.add(10.0, 10.0, Observation(intended, np.full(100, 0.01), 1.0, lost="it ended"))
    assert (done.holds, done.clearly_broken) == (False, True)
    plan = search.next()
    assert plan is not None
    assert plan[0] == 5.0
