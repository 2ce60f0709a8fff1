"""How a demo server behaves: distributions, checks, and that settings are values."""

from __future__ import annotations

import math
import pickle
from dataclasses import FrozenInstanceError
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from skilllab.demo import Constant, DemoSettings, Exponential, Lognormal, RateLimit, Stall
from skilllab.demo.routes import TABLE
from skilllab.demo.settings import ROUTES
from skilllab.errors import InvalidValueError


def test_defaults_do_nothing() -> None:
    """By default the server answers at once, always, and for everyone."""
    settings = DemoSettings()
    assert (settings.latency, settings.workers, settings.error_rate) == (None, None, 0)
    assert (settings.stall, settings.rate_limit) == (None, None)
    assert all(settings.latency_of(route) is None for route in ROUTES)


def test_routes_are_those_of_the_server() -> None:
    """Settings name exactly the routes that the server has."""
    assert tuple(TABLE) == ROUTES


def test_distributions_keep_their_word() -> None:
    """Lognormal has the median and the p95 that it is given, Exponential the mean, Constant one value."""
    lognormal = Lognormal(median=0.02, p95=0.1)
    assert lognormal.at(0.5) == pytest.approx(0.02)
    assert lognormal.at(0.95) == pytest.approx(0.1)
    assert Exponential(mean=0.02).at(1 - 1 / math.e) == pytest.approx(0.02)
    assert Constant(0.02).at(0.3) == 0.02


@given(u=st.floats(0, 1, exclude_max=True), v=st.floats(0, 1, exclude_max=True))
def test_every_draw_is_a_time(u: float, v: float) -> None:
    """Whatever random() can return gives a finite time of at least 0, and a larger draw no shorter one."""
    for latency in (Constant(0.1), Exponential(0.1), Lognormal(0.1, 0.5), Lognormal(0.1, 0.1), Lognormal(1e-9, 86_400)):
        low, high = sorted((u, v))
        assert 0 <= latency.at(low) <= latency.at(high) < math.inf


def test_numbers_are_constants_and_routes_have_their_own() -> None:
    """A number of seconds is a constant latency; a route's own latency, None too, goes before the server's."""
    settings = DemoSettings(latency=0.02, route_latency={"user": Exponential(0.1), "echo": None, "batch": 1})
    assert settings.latency_of("weather") == Constant(0.02)
    assert settings.latency_of("user") == Exponential(0.1)
    assert settings.latency_of("echo") is None
    assert settings.latency_of("batch") == Constant(1.0)


def test_settings_are_values() -> None:
    """Settings are frozen, equal by content, hashable, and the same after travelling to a process."""
    settings = DemoSettings(latency=Lognormal(0.1, 0.5), route_latency={"user": 1}, stall=Stall(1, 10), workers=2)
    assert pickle.loads(pickle.dumps(settings)) == settings
    assert hash(settings.changed()) == hash(settings)
    assert settings.changed(workers=3) != settings
    with pytest.raises(FrozenInstanceError):
        settings.workers = 3  # type: ignore[misc]
    with pytest.raises((AttributeError, TypeError)):
        settings.other = 3  # type: ignore[attr-defined]


def test_the_token_is_not_shown() -> None:
    """Neither the repr of the settings nor the refusal of a bad token shows one."""
    assert "hush" not in repr(DemoSettings(token="hush"))
    with pytest.raises(InvalidValueError) as caught:
        DemoSettings(token=b"hush")  # type: ignore[arg-type]
    assert "hush" not in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"latency": -1}, "latency=-1 must be at least 0"),
        ({"latency": "fast"}, "latency='fast' must be seconds, Constant"),
        ({"latency": math.nan}, "latency=nan must be a number"),
        ({"latency": True}, "latency=True must be"),
        ({"route_latency": {"users": 1}}, "unknown route 'users': known are weather, user"),
        ({"route_latency": {"user": -2}}, r"route_latency\['user'\]=-2 must be at least 0"),
        ({"route_latency": 3}, "route_latency=3 must map"),
        ({"workers": 0}, "workers=0 must be at least 1"),
        ({"workers": 1.5}, "workers=1.5 must be a whole number"),
        ({"error_rate": 5}, "error_rate=5 must be at most 1"),
        ({"error_status": 404}, "error_status=404 must be 500 to 599"),
        ({"stall": 3}, r"stall=3 must be None or like Stall\("),
        ({"rate_limit": 3}, r"rate_limit=3 must be None or like RateLimit\("),
        ({"batch_max": 0}, "batch_max=0"),
        ({"batch_item_share": -0.1}, "batch_item_share=-0.1"),
        ({"gzip": 1}, "gzip=1 must be True or False"),
        ({"token": ""}, "token of type str must be a text that is not empty"),
        ({"log": 2_000_000}, "log=2000000 must be 0 to 1000000"),
        ({"seed": "a"}, "seed='a' must be a whole number"),
        ({"speed": 3}, "unknown setting speed=3: known are latency, route_latency"),
    ],
)
def test_bad_settings_are_refused(changes: dict[str, Any], message: str) -> None:
    """A setting without a meaning is refused with its name, its value and what to do."""
    with pytest.raises(InvalidValueError, match=message):
        DemoSettings().changed(**changes)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Constant(-1), "seconds=-1"),
        (lambda: Exponential(0), "mean=0 must be above 0"),
        (lambda: Exponential(10**400), "must be at most 86400"),
        (lambda: Lognormal(1e-300, 1), "median=1e-300 must be at least 1e-09"),
        (lambda: Lognormal(0.1, 0.05), "p95=0.05 must be at least 0.1"),
        (lambda: Stall(10, 10), "every=10 must be above 10"),
        (lambda: Stall(0, 10), "duration=0 must be above 0"),
        (lambda: RateLimit(0), "rate=0 must be above 0"),
        (lambda: RateLimit(1, 0), "burst=0 must be at least 1"),
    ],
)
def test_bad_parts_are_refused(make: Any, message: str) -> None:
    """So is a part of the settings."""
    with pytest.raises(InvalidValueError, match=message):
        make()
