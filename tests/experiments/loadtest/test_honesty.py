"""Honesty: what is reported of stalling targets is what a recursion over the recorded arrivals says, and nothing less.

In virtual time, so that targets stall for seconds and tests take none; `make bench` does the same in real time. Each
check is shown to fail on generators that lie.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from skilllab.experiments.loadtest import LoadTestResult, Scenario, Stage, generator
from skilllab.experiments.loadtest.arrivals import schedule
from skilllab.stats import Array, quantiles
from tests.experiments.loadtest.conftest import block, played

pytestmark = pytest.mark.slow  # 30 tests of a thousand requests take a few seconds

SERVICE, RATE, DURATION = 0.002, 100.0, 10.0
TARGETS = ("sleeping", "blocking", "one at a time")
Target = tuple[Callable[..., Any], int | None]


def stall_of(seed: int) -> tuple[float, float]:
    """Returns when a stall begins and ends, at random: 0.3 to 1.2 s somewhere in the test."""
    random = np.random.default_rng([seed, 99])
    begin, length = random.uniform(1, 8), random.uniform(0.3, 1.2)
    return float(begin), float(begin + length)


def target_of(kind: str, stall: tuple[float, float], services: Array | None = None) -> Target:
    """Returns a skill that stands still during the stall, and its places: who begins then begins when it is over."""

    async def target(number: int) -> int:
        now = asyncio.get_running_loop().time()
        rest = stall[1] - now if stall[0] <= now < stall[1] else 0.0
        seconds = rest + (SERVICE if services is None else float(services[number]))
        if kind == "blocking":
            block(seconds)
        else:
            await asyncio.sleep(seconds)
        return number

    return target, 1 if kind == "one at a time" else None


def truth(kind: str, due: Array, stall: tuple[float, float]) -> Array:
    """Returns what users wait who come at these times: Lindley's recursion (1952) with a server that stands still."""
    responses, free = [], 0.0
    for at in due.tolist():
        begin = at if kind == "sleeping" else max(at, free)
        if stall[0] <= begin < stall[1]:
            begin = stall[1]
        free = begin + SERVICE
        responses.append(free - at)
    return np.array(responses)


def is_honest(responses: Array, true: Array) -> bool:
    """Mean, p50, p95 and p99 are within 5 % of the truth, the p50 within 0.3 ms."""
    ours, theirs = ([values.mean(), *quantiles(values, [0.5, 0.95, 0.99])] for values in (responses, true))
    near = [abs(a - b) <= 0.05 * b for a, b in zip(ours, theirs, strict=True)]
    return near[0] and abs(ours[1] - theirs[1]) <= 3e-4 and near[2] and near[3]


def stalled(kind: str, seed: int, **model: Any) -> LoadTestResult:
    function, places = target_of(kind, stall_of(seed))
    model = model or {"rate": RATE}
    result: LoadTestResult = played(function, places=places, duration=DURATION, seed=seed, **model)
    return result


@pytest.mark.parametrize("kind", TARGETS)
def test_stalling_targets_are_reported_as_they_are(kind: str) -> None:
    """(a) Ten times of ten, with stalls of any phase and length, the figures are those of the recursion."""
    for seed in range(10):
        result = stalled(kind, seed)
        assert len(result.responses) == len(result.finished.ok) == pytest.approx(RATE * DURATION, rel=0.15)
        assert is_honest(result.responses, truth(kind, due_of(result.scenario), stall_of(seed)))


def from_the_actual_start(self: Any, intended: float, start: float, *rest: Any) -> None:
    """Times a request from when it was sent, as a generator does that trusts itself."""
    _record(self, start, start, *rest)


def of_the_service_alone(self: Any, intended: float, start: float, end: float, stage: int, result: Any) -> None:
    """Times a request by what the target says that it took."""
    _record(self, end - result.metadata.duration, start, end, stage, result)


_record = generator._Test.record
LIES: dict[str, tuple[Any, tuple[str, ...]]] = {
    "from the actual start": (from_the_actual_start, ("blocking",)),
    "of the service alone": (of_the_service_alone, ("blocking", "one at a time")),
}


@pytest.mark.parametrize("lie", LIES)
def test_a_generator_that_times_otherwise_is_found_out(lie: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """(a) The same check fails each time on a generator that times from elsewhere, on the targets that can tell.

    One that only sleeps cannot: with unlimited concurrency a request is sent when it is due, stalled or not.
    """
    record, told = LIES[lie]
    monkeypatch.setattr(generator._Test, "record", record)
    for kind in told:
        for seed in range(3):
            result = stalled(kind, seed)
            assert not is_honest(result.measured.response, truth(kind, due_of(result.scenario), stall_of(seed)))


def due_of(scenario: Scenario) -> Array:
    """Returns the schedule: a generator that lies records other arrivals, with which its times agree."""
    return np.array([due for due, _ in schedule(scenario)])


def stalled_scenario(seed: int) -> Scenario:
    return Scenario("target", {}, (Stage(DURATION, rate=RATE),), seed=seed)


@pytest.mark.parametrize("kind", TARGETS)
def test_a_closed_loop_would_be_found_out(kind: str) -> None:
    """(a) The guide's closed loop on the same target fails the check: its workers are silent while the target stalls."""
    result = stalled(kind, 0, concurrency=1)
    due = due_of(stalled_scenario(0))
    assert not is_honest(result.responses, truth(kind, due, stall_of(0)))


def agrees_with_lindley(result: LoadTestResult) -> bool:
    """Each response is that of one server with the intended arrivals and the recorded services, to the larger of 1 ms and 1 %."""
    columns, free, agrees = result.measured, 0.0, True
    for due, service, response in zip(due_of(result.scenario), columns.service, columns.response, strict=True):
        free = max(due, free) + service
        agrees &= abs(response - (free - due)) <= max(1e-3, 0.01 * (free - due))
    return bool(agrees)


def queued(kind: str) -> LoadTestResult:
    """Returns a test of a single server with exponential services at utilisation 0.8."""
    services = np.random.default_rng(5).exponential(0.008, 3000)
    function, places = target_of(kind, (0.0, 0.0), services)
    result: LoadTestResult = played(
        function, places=places, params=lambda number: {"number": number}, rate=100.0, duration=20.0, seed=5
    )
    assert len(result.measured.ok) > 1800
    return result


@pytest.mark.parametrize("kind", ["blocking", "one at a time"])
def test_each_response_is_that_of_lindleys_recursion(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """(b) Every one of them agrees, though they are twice their service in the mean; of a generator that lies they do not."""
    result = queued(kind)
    assert agrees_with_lindley(result)
    assert result.responses.mean() > 2 * result.measured.service.mean()
    monkeypatch.setattr(generator._Test, "record", of_the_service_alone)
    assert not agrees_with_lindley(queued(kind))
