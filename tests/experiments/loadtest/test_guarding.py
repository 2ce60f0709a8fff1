"""The guard, in virtual time: what ends a test early, when, and what does not."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from skilllab.experiments.loadtest import Abort, Requests, Scenario, Stage
from skilllab.experiments.loadtest.guarding import Guard
from tests.experiments.loadtest.conftest import hanging, played, sleeping


def test_errors_abort_a_test() -> None:
    """A guard at half of the requests ends a test whose target fails from 3 s on, within its window, and says why."""

    async def breaks(number: int) -> int:
        if asyncio.get_running_loop().time() > 3:
            raise ValueError("gone")
        return number

    result = played(breaks, rate=50.0, duration=60.0, abort_on=Abort(0.5, window=2.0))
    assert result.ending.reason == "aborted"
    assert result.ending.seconds == pytest.approx(4, abs=0.6)
    assert "SkillFailedError" in result.ending.why
    assert "aborted" in {each.kind for each in result.warnings}
    assert played(breaks, rate=50.0, duration=6.0, abort_on=Abort(0.9, window=6.0)).ending.reason == "duration"


@pytest.mark.slow
def test_an_slo_that_stays_broken_aborts_a_test() -> None:
    """Broken for 3 s on end, window after window, ends the test; a second of it does not."""

    def slow_from(begin: float, until: float) -> Any:
        async def target(number: int) -> int:
            await asyncio.sleep(0.2 if begin < asyncio.get_running_loop().time() < until else 0.01)
            return number

        return target

    guard = Abort(None, broken=3.0, window=1.0)
    test: dict[str, Any] = {"rate": 100.0, "duration": 12.0, "slo": "p95 < 50 ms", "abort_on": guard}
    result = played(slow_from(4, 99), **test)
    assert result.ending.reason == "aborted"
    assert result.ending.seconds == pytest.approx(7.3, abs=0.8)
    assert "p95 < 50 ms has been broken for 3" in result.ending.why
    assert played(slow_from(4, 5), **test).ending.reason == "duration"


@pytest.mark.parametrize("model", [{"rate": 50.0}, {"concurrency": 20}])
@pytest.mark.parametrize("slo", ["p95 < 50 ms", "mean < 50 ms", "rate > 1 /s"])
def test_a_target_that_hangs_breaks_its_slo(model: dict[str, Any], slo: str) -> None:
    """No request ever ends, and yet the guard sees those that are under way for longer than the bound."""
    guard = Abort(None, broken=3.0, window=1.0)
    result = played(hanging, duration=60.0, timeout=None, slo=slo, abort_on=guard, **model)
    assert result.ending.reason == "aborted"
    assert result.ending.seconds == pytest.approx(4.25, abs=0.5)
    assert f"{slo} has been broken for 3" in result.ending.why
    assert result.verdict == ("fail" if "p95" in slo and "rate" in model else "inconclusive")  # of 20 p95 is not known


def test_an_slo_is_not_broken_before_it_is_known_to_be() -> None:
    """A minute of one request a second is too few to tell: at 100 a second a slow target has its ten seconds from then on."""

    async def slower(number: int) -> int:
        await asyncio.sleep(0.2 if asyncio.get_running_loop().time() > 60 else 0.01)
        return number

    stages = (Stage(60.0, rate=1.0), Stage(30.0, rate=100.0))
    test: dict[str, Any] = {"stages": stages, "slo": "p95 < 50 ms", "abort_on": Abort(None, broken=10.0)}
    assert played(sleeping, **test).ending.reason == "duration"
    ending = played(slower, **test).ending
    assert ending.reason == "aborted"
    assert 69.5 < ending.seconds < 76
    assert "has been broken for 10" in ending.why


def test_a_guard_ends_at_the_share_that_it_names() -> None:
    """Ten of every hundred fail: that is 10 %, and no hair less."""
    requests = Requests()
    for number in range(100):
        requests.append(1.0, 1.0, 1.5, 0.5, "" if number % 10 else "SkillFailedError")
    for share, ends in ((0.1, True), (0.11, False)):
        guard = Guard(Scenario("s", {}, (Stage(9.0, rate=9.0),), abort=Abort(share)))
        assert ("10.0 % of the requests" in guard.look(requests, 2.0)) == ends


def test_requests_that_are_within_their_bound_break_nothing() -> None:
    """Ten seconds of service with a bound of 20 s: that nothing ends at first is no reason to end the test."""

    async def slow(number: int) -> int:
        await asyncio.sleep(10)
        return number

    guard = Abort(0.5, broken=3.0, window=1.0)
    result = played(slow, rate=50.0, duration=30.0, slo="p95 < 20 s", abort_on=guard)
    assert (result.ending.reason, result.unfinished) == ("duration", 0)


def test_drops_abort_a_test() -> None:
    """A target that hangs fills the places; what finds none is dropped, and counts for the guard as not answered."""
    result = played(hanging, rate=50.0, duration=60.0, timeout=None, max_in_flight=50, abort_on=Abort(0.5, window=2.0))
    assert result.ending.reason == "aborted"
    assert "dropped: " in result.ending.why
    assert result.ending.seconds < 3
