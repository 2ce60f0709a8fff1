"""The generator, in virtual time: who sends when, what is counted, and how a test ends."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest

from skilllab import settings
from skilllab.define import skill
from skilllab.engine import LayeredExecutionEngine
from skilllab.errors import EngineClosedError, SkillNotFoundError
from skilllab.experiments.failures.virtual import in_virtual_time
from skilllab.experiments.loadtest import Requests, Scenario, Stage, load_test
from skilllab.experiments.loadtest.arrivals import schedule
from skilllab.experiments.loadtest.generator import spans
from skilllab.registry import InMemorySkillRegistry
from tests.experiments.loadtest.conftest import Loaded, block, blocking, failing, hanging, played, sleeping

# closed


@pytest.mark.slow
def test_a_closed_test_keeps_its_workers_busy() -> None:
    """Ten workers on a skill of 10 ms make 1,000 requests in a second, each its service and nothing else."""
    result = played(sleeping, concurrency=10, duration=1.0)
    assert result.ending.workers == (100,) * 10
    assert result.requests_per_second == pytest.approx(1000, rel=0.02)
    assert result.average_response_time == pytest.approx(0.01, rel=0.01)
    assert result.ending.reason == "duration"
    assert result.ending.seconds == 1.0


def test_a_closed_test_of_a_skill_that_never_yields_is_fair_and_obeys_little() -> None:
    """One runs at a time: ten workers wait ten times the service, as 10 = X times R says, and a warning names it."""
    result = played(blocking, concurrency=10, duration=10.0)
    assert max(result.ending.workers) - min(result.ending.workers) <= 1
    assert result.requests_per_second * result.average_response_time == pytest.approx(10, rel=0.02)
    assert result.average_response_time == pytest.approx(0.1, rel=0.02)
    assert result.measured.service.mean() == pytest.approx(0.01, rel=0.01)
    (warning,) = [each for each in result.warnings if each.kind == "workers-starved"]
    assert warning.value == pytest.approx(1, rel=0.01)
    assert "of 10 only 1" in warning.text
    assert "plain def" in warning.advice


def test_a_test_of_a_skill_that_never_yields_can_be_stopped() -> None:
    """One worker alone gives the loop a turn as well, so that `stop` is heard within a request."""
    result = played(blocking, concurrency=1, duration=1000.0, stop_at=2.0)
    assert result.ending.reason == "stopped"
    assert result.ending.seconds == pytest.approx(2, abs=0.06)  # four turns of the loop
    assert result.unfinished == 0  # it waited for its turn, and had sent nothing


def test_a_count_ends_a_closed_test() -> None:
    """Exactly so many requests are sent, and without a duration the test lasts as long as they take."""
    result = played(sleeping, concurrency=4, count=10)
    assert (len(result.requests), result.ending.reason) == (10, "count")
    assert result.ending.seconds == pytest.approx(0.03, rel=0.01)


def test_a_count_without_a_duration_takes_as_long_as_it_takes() -> None:
    """Patience of 30 s is for the last requests, not for the test: 10 requests of 20 s by one worker all end."""

    async def slow(number: int) -> int:
        await asyncio.sleep(20)
        return number

    result = played(slow, concurrency=1, count=10)
    assert (len(result.requests), result.unfinished) == (10, 0)
    assert result.ending.seconds == pytest.approx(200, rel=0.01)


@pytest.mark.slow
def test_closed_stages_add_and_remove_workers() -> None:
    """A worker works while the stage has one of its number; no stage waits for the last requests of the one before."""
    stages = tuple(Stage(1.0, concurrency=workers) for workers in (2, 5, 1))
    assert list(spans(Scenario("s", {}, stages))) == [(0, 0, 3), (1, 0, 2), *((worker, 1, 2) for worker in (2, 3, 4))]
    frame = played(sleeping, stages=stages).stages
    assert frame["rate"].tolist() == pytest.approx([200, 500, 100], abs=6)
    assert frame["concurrency"].tolist() == [2, 5, 1]


# open


def test_an_open_test_sends_what_is_due_whatever_became_of_the_rest() -> None:
    """Every arrival of the schedule is sent when it is due, though answers take 30 times the distance between two."""

    async def slow(number: int) -> int:
        await asyncio.sleep(0.3)
        return number

    result = played(slow, rate=100.0, duration=5.0, seed=3)
    columns = result.finished
    assert columns.intended == pytest.approx([due for due, _ in schedule(result.scenario)], abs=1e-9)
    assert columns.lag.max() < 1e-3
    assert columns.response == pytest.approx(0.3, abs=2e-3)
    assert result.ending.seconds == 5.0
    assert columns.end.max() > 5.2
    assert len(result.responses) == len(columns.ok)


def test_a_blocked_loop_delays_the_sending_and_not_the_intended_start() -> None:
    """What comes due while the skill blocks for a second is sent late; its response counts from when it was due."""

    async def stalls_once(number: int) -> int:
        if number == 100:
            block(1.0)
        return number

    result = played(
        stalls_once, params=lambda number: {"number": number}, rate=100.0, arrivals="constant", duration=3.0
    )
    columns = result.finished
    assert columns.intended == pytest.approx(np.arange(300) / 100)
    assert columns.response[100:200] == pytest.approx(1 - np.arange(100) / 100, abs=1e-3)
    assert columns.lag[101:200] == pytest.approx(columns.response[101:200], abs=1e-3)
    assert columns.response[200:].max() < 1e-3
    (warning,) = [each for each in result.warnings if each.kind == "loop-blocked"]
    assert warning.value == pytest.approx(1, rel=0.01)


def test_the_cap_drops_and_counts() -> None:
    """With 5 under way at most and answers after 0.1 s, 100 a second are half dropped, and no drop is in a response time."""

    async def slow(number: int) -> int:
        await asyncio.sleep(0.1)
        return number

    result = played(slow, rate=100.0, arrivals="constant", duration=10.0, max_in_flight=5, warmup=1.0)
    sent = len(result.requests)
    assert sent + result.requests.dropped == 1000
    assert sent == pytest.approx(500, rel=0.1)
    assert 0 < result.dropped < result.requests.dropped
    assert result.responses == pytest.approx(0.1, rel=0.01)
    assert result.stages["dropped"].sum() == result.dropped
    assert result.timeline["dropped"].sum() == result.requests.dropped
    assert "dropped" in {each.kind for each in result.warnings}


def test_a_count_ends_an_open_test() -> None:
    """Exactly so many arrivals, and the answers that are under way are awaited."""
    result = played(sleeping, rate=100.0, count=50)
    assert (len(result.requests), result.ending.reason) == (50, "count")
    assert result.unfinished == 0


# endings


@pytest.mark.parametrize("model", [{"rate": 10.0, "arrivals": "constant"}, {"concurrency": 20}])
def test_what_has_no_end_is_given_up_and_counted(model: dict[str, Any]) -> None:
    """Requests that outlast the test's patience are no response times; they are counted, and a warning says so."""
    result = played(hanging, duration=2.0, timeout=None, **model)
    assert (len(result.requests), result.unfinished) == (0, 20)
    assert {each.kind for each in result.warnings} >= {"nothing-measured", "unfinished"}


@pytest.mark.parametrize("model", [{"rate": 10.0, "arrivals": "constant"}, {"concurrency": 20}])
def test_stop_ends_all_work_at_once(model: dict[str, Any]) -> None:
    """What was measured is kept, what was under way is cancelled and counted, and no task is left."""
    result = played(hanging, duration=100.0, stop_at=1.95, timeout=None, **model)
    assert result.ending.reason == "stopped"
    assert result.ending.seconds == pytest.approx(1.95, abs=0.01)
    assert (len(result.requests), result.unfinished) == (0, 20)


def test_a_time_out_is_a_failure_of_its_kind() -> None:
    """A request that takes longer than the test's timeout fails with the engine's error."""
    result = played(hanging, rate=10.0, arrivals="constant", duration=1.0, timeout=0.5)
    assert result.errors == {"ExecutionTimeoutError": 10}
    assert result.measured.response == pytest.approx(0.5, rel=0.2)


# requests


def test_warm_up_is_apart() -> None:
    """Slow requests of the warm-up are recorded, and are in no figure."""

    async def warms(number: int) -> int:
        await asyncio.sleep(1.0 if asyncio.get_running_loop().time() < 2 else 0.01)
        return number

    result = played(warms, rate=100.0, duration=6.0, warmup=2.0)
    assert result.finished.warm.sum() == pytest.approx(200, abs=60)
    assert (result.finished.warm == (result.finished.intended < 2)).all()
    assert result.average_response_time == pytest.approx(0.01, rel=0.02)
    assert result.seconds == 4


def test_parameters_come_from_a_function_and_their_cost_is_lag() -> None:
    """Request number n gets what the function says of n; a second that the function takes is the generator's."""
    seen: list[int] = []

    def costly(number: int) -> Mapping[str, int]:
        block(0.005)
        return {"number": number}

    async def target(number: int) -> int:
        seen.append(number)
        await asyncio.sleep(0.01)
        return number

    for model in ({"concurrency": 1}, {"rate": 10.0, "arrivals": "constant"}):
        seen.clear()
        result = played(target, params=costly, count=20, **model)
        assert seen == list(range(20))
        assert result.finished.lag == pytest.approx(0.005, abs=1e-3)
        assert result.finished.response == pytest.approx(0.015, abs=1e-3)


def test_kept_results_are_bypassed_unless_asked_and_their_share_is_shown() -> None:
    """Without cache=True every request runs the skill; with it the share that did not is told."""
    assert played(sleeping, concurrency=1, count=50).cached_share == 0
    kept = played(sleeping, concurrency=1, count=50, cache=True)
    assert kept.cached_share == pytest.approx(0.98)
    assert "98.0 % from kept results" in str(kept)
    assert kept.table().loc["from kept results", "value"] == "98.0 %"


def test_a_skill_that_always_fails_has_no_latency() -> None:
    """Success rate 0, errors by kind, and not one figure made of failures."""
    result = played(failing, rate=100.0, duration=5.0, slo="p95 < 50 ms and errors < 1 %")
    assert result.success_rate == 0
    assert list(result.errors) == ["SkillFailedError"]
    assert np.isnan(result.average_response_time)
    assert [result.percentile(percent) for percent in (50, 95, 99)] == [None] * 3
    assert result.percentile_interval(50) is None
    assert [each.outcome for each in result.judgements] == ["fail", "fail"]
    assert str(result.judgements[0]) == "p95 < 50 ms: fail, without end"
    assert result.verdict == "fail"
    assert "No request succeeded" in str(result)
    assert result.timeline["p50"].isna().all()
    assert result.stages["mean"].isna().all()


def test_an_unknown_skill_and_a_closed_engine_end_the_test_with_their_error() -> None:
    """There is no use in half a minute of the same failure."""

    async def main() -> None:
        registry = InMemorySkillRegistry()
        engine = LayeredExecutionEngine(registry)
        for model in ({"rate": 100.0}, {"concurrency": 3}):
            with pytest.raises(SkillNotFoundError, match="nobody"):
                await load_test(engine, "nobody", **model)
        await engine.aclose()
        with pytest.raises(EngineClosedError):
            await load_test(engine, "nobody", rate=100.0)
        assert len(asyncio.all_tasks()) == 1

    asyncio.run(main())


def test_what_a_function_of_parameters_raises_ends_the_test() -> None:
    """A mistake in the test is no failure of the target."""

    def mistaken(number: int) -> Mapping[str, Any]:
        raise KeyError("user")

    for model in ({"rate": 100.0}, {"concurrency": 3}):
        with pytest.raises(KeyError, match="user"):
            played(sleeping, params=mistaken, duration=1.0, **model)


def test_progress_is_told_and_a_failing_listener_is_not_silent() -> None:
    """Four times a second, with the requests so far; what it raises comes out of the test."""
    told: list[tuple[float, int]] = []

    def listen(seconds: float, requests: Requests) -> None:
        told.append((seconds, len(requests)))

    played(sleeping, concurrency=1, duration=2.0, on_progress=listen)
    assert [seconds for seconds, _ in told] == pytest.approx([0.25 * number for number in range(1, 9)], abs=0.02)
    assert told[3][1] == pytest.approx(100, abs=3)


def test_what_a_listener_raises_ends_the_test() -> None:
    """It comes out at the first call, a quarter of a second from the begin, though the test is one of ten minutes."""
    ended: list[float] = []

    def broken(seconds: float, requests: Requests) -> None:
        raise ZeroDivisionError

    async def main() -> None:
        now = asyncio.get_running_loop().time
        target = Loaded(skill(id="target")(sleeping).definition)
        async with LayeredExecutionEngine(target, clock=now, wall_clock=now) as engine:
            with pytest.raises(ZeroDivisionError):
                await load_test(engine, "target", {"number": 0}, duration=600.0, on_progress=broken)
            assert not engine.active
            assert len(asyncio.all_tasks()) == 1
        ended.append(now())

    in_virtual_time(main)
    assert ended[0] < 0.5


def test_a_cancelled_test_leaves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Cancelling whoever awaits a test ends its requests too."""
    monkeypatch.setattr(settings, "LOAD_PATIENCE", 1000.0)

    async def main() -> None:
        registry, started = InMemorySkillRegistry(), asyncio.Event()
        await registry.register(skill(id="hanging")(hanging))
        async with LayeredExecutionEngine(registry) as engine:
            engine.on("execution-start", lambda event: started.set())
            for model in ({"rate": 1000.0}, {"concurrency": 3}):
                started.clear()
                test = asyncio.create_task(load_test(engine, "hanging", {"number": 1}, **model))
                await started.wait()
                test.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await test
                assert not engine.active
                assert len(asyncio.all_tasks()) == 1

    asyncio.run(main())


def test_of_a_backlog_each_request_has_a_turn() -> None:
    """A generator that is behind begins one request after another, and what else is on the loop has its turn between them."""
    order: list[str] = []

    async def target(number: int) -> int:
        order.append("request")
        if number == 0:
            asyncio.get_running_loop().call_soon(other)
        return number

    def other() -> None:
        order.append("other")
        if len(order) < 300:
            asyncio.get_running_loop().call_soon(other)

    played(target, rate=1e6, arrivals="constant", count=40, params=lambda number: {"number": number})
    assert order.count("request") == 40
    assert "requestrequestrequest" not in "".join(order)
