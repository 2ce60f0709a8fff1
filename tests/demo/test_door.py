"""Draws and the rate limit, before anything is served."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from skilllab.demo import DemoSettings, Exponential, Lognormal, RateLimit
from skilllab.demo.door import Door, TokenBucket

GAPS = st.lists(st.integers(0, 64).map(lambda n: n / 64), min_size=1, max_size=60)


def draws(settings: DemoSettings, n: int, route: str = "user") -> list[float]:
    door = Door(settings, 0)
    return [door.service_time(route) for _ in range(n)]


def test_the_seed_decides() -> None:
    """One seed gives one sequence of service times and errors, another seed another."""
    settings = DemoSettings(latency=Exponential(0.1), error_rate=0.5)
    assert draws(settings, 20) == draws(settings, 20)
    assert draws(settings, 20) != draws(settings.changed(seed=1), 20)


def test_routes_do_not_disturb_each_other() -> None:
    """A route draws the same times whether others are asked in between or not."""
    settings = DemoSettings(latency=Exponential(0.1))
    door = Door(settings, 0)
    mixed = [(door.service_time("user"), door.service_time("echo"), door.fails("user"))[0] for _ in range(20)]
    assert mixed == draws(settings, 20)
    assert mixed != draws(settings, 20, "echo")


def test_draws_have_their_distribution() -> None:
    """Over 20,000 draws the mean of an exponential and the p95 of a lognormal are within 3 % of what was asked."""
    n = 20_000
    assert sum(draws(DemoSettings(latency=Exponential(0.1)), n)) / n == pytest.approx(0.1, rel=0.03)
    assert sorted(draws(DemoSettings(latency=Lognormal(0.1, 0.5)), n))[n * 95 // 100] == pytest.approx(0.5, rel=0.03)


def test_errors_have_their_rate_and_are_paired() -> None:
    """A tenth of 20,000 requests fails within a standard error or three, and each of them fails at two tenths as well."""
    n = 20_000
    doors = [Door(DemoSettings(error_rate=rate), 0) for rate in (0.1, 0.2, 0.0, 1.0)]
    tenth, fifth, never, always = ([door.fails("user") for _ in range(n)] for door in doors)
    assert sum(tenth) / n == pytest.approx(0.1, abs=3 * math.sqrt(0.09 / n))
    assert all(b for a, b in zip(tenth, fifth, strict=True) if a)
    assert not any(never)
    assert all(always)


def test_another_latency_is_paired_and_another_seed_begins_anew() -> None:
    """A change of latency goes on in the same stream; a change of the seed starts that seed's stream."""
    settings = DemoSettings(latency=Exponential(0.1))
    door = Door(settings, 0)
    first = [door.service_time("user") for _ in range(5)]
    door.configure(settings.changed(latency=Exponential(0.2)), 0)
    assert [*first, *(door.service_time("user") / 2 for _ in range(5))] == draws(settings, 10)
    door.configure(settings.changed(seed=7), 0)
    assert [door.service_time("user") for _ in range(5)] == draws(settings.changed(seed=7), 5)


@given(gaps=GAPS, rate=st.integers(1, 16), burst=st.integers(1, 5))
def test_a_token_bucket_lets_its_rate_through(gaps: list[float], rate: int, burst: int) -> None:
    """No window lets more through than its burst and its rate, and nobody is refused who would have kept within both."""
    bucket, now, passed = TokenBucket(RateLimit(rate, burst), 0), 0.0, []
    for gap in gaps:
        now += gap
        windows = [len(passed) - i + 1 <= burst + rate * (now - start) + 1e-6 for i, start in enumerate(passed)]
        allowed = all(windows)
        assert (bucket.take(now) == 0) is allowed
        passed += [now] * allowed


@given(gaps=GAPS, rate=st.floats(0.01, 1000), burst=st.integers(1, 5))
def test_who_waits_as_told_comes_in(gaps: list[float], rate: float, burst: int) -> None:
    """The wait that a refusal names is enough, and half of it is not."""
    bucket, now = TokenBucket(RateLimit(rate, burst), 0), 0.0
    for gap in gaps:
        now += gap
        wait = bucket.take(now)
        if wait:
            assert bucket.take(now + wait / 2) > 0
            now += wait
            assert bucket.take(now) == 0


def test_another_limit_starts_full() -> None:
    """A changed limit begins with a full bucket, an unchanged one goes on, and None lets everybody in."""
    settings = DemoSettings(rate_limit=RateLimit(1))
    door = Door(settings, 0)
    assert [door.refuse(0), door.refuse(0)] == [0, 1]
    door.configure(settings.changed(workers=3), 0)
    assert door.refuse(0) == 1
    door.configure(settings.changed(rate_limit=RateLimit(2, 2)), 0)
    assert [door.refuse(0), door.refuse(0), door.refuse(0)] == [0, 0, 0.5]
    door.configure(settings.changed(rate_limit=None), 0)
    assert door.refuse(0) == 0
