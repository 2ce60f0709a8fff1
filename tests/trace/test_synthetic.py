"""Synthetic workloads: their shape, their seed, their arguments."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from skilllab.errors import InvalidValueError
from skilllab.trace import Trace, loop, scan, shifting_working_set, zipf

MAKERS: dict[str, Callable[..., Trace]] = {
    "zipf": lambda **more: zipf(200, 30, **more),
    "scan": lambda **more: scan(200, **more),
    "loop": lambda **more: loop(200, 30, **more),
    "shifting": lambda **more: shifting_working_set(200, 30, 10, 50, **more),
}


@pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS.keys())
def test_the_seed_decides_everything(make: Callable[..., Trace]) -> None:
    """The same seed gives an equal trace of the asked length, another seed another one."""
    assert make(seed=1) == make(seed=1)
    assert len(make()) == 200
    assert not np.array_equal(make(seed=1).time, make(seed=2).time)


@pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS.keys())
def test_the_rate_is_accesses_per_second(make: Callable[..., Trace]) -> None:
    """Without chance the gaps are exactly 1/rate; with it they are 1/rate on average."""
    assert np.diff(make(rate=50.0, poisson=False).time) == pytest.approx(0.02)
    assert np.diff(make(rate=50.0).time).mean() == pytest.approx(0.02, rel=0.3)


@pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS.keys())
@pytest.mark.parametrize(
    "bad", [{"rate": 0}, {"rate": float("nan")}, {"rate": float("inf")}, {"seed": -1}, {"seed": 1.5}]
)
def test_bad_clocks_and_seeds_are_refused(make: Callable[..., Trace], bad: dict[str, Any]) -> None:
    """A rate that is not above 0 and a seed that is not a whole number raise an error naming the argument."""
    with pytest.raises(InvalidValueError, match=next(iter(bad))):
        make(**bad)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: zipf(0, 5), r"n\(=0\)"),
        (lambda: zipf(5, 2.5), r"keys\(=2.5\) must be a whole number"),
        (lambda: zipf(5, 5, exponent=-1), "exponent"),
        (lambda: scan(True), r"n\(=True\)"),
        (lambda: loop(5, 0), r"keys\(=0\)"),
        (lambda: shifting_working_set(5, 3, 4, 1), r"working_set\(=4\) must be at most keys\(=3\)"),
        (lambda: shifting_working_set(5, 3, 2, 0), r"period\(=0\)"),
    ],
)
def test_bad_counts_are_refused(call: Callable[[], Trace], message: str) -> None:
    """Counts below 1, fractions and a working set larger than its ring raise an error naming the argument."""
    with pytest.raises(InvalidValueError, match=message):
        call()


def test_zipf_has_its_shares() -> None:
    """With exponent 1 the second key is asked for half as often as the first, with 0 all equally often."""
    counts = np.sort(np.bincount(zipf(200_000, 100, exponent=1.0).key))[::-1]
    assert counts[0] / counts[1] == pytest.approx(2, rel=0.05)
    even = np.bincount(zipf(200_000, 100, exponent=0.0).key)
    assert even.max() / even.min() < 1.2


def test_scan_and_loop() -> None:
    """A scan never comes back; a loop goes round its keys in order."""
    assert scan(5).key.tolist() == [0, 1, 2, 3, 4]
    assert loop(7, 3).key.tolist() == [0, 1, 2, 0, 1, 2, 0]


def test_the_working_set_moves_by_half() -> None:
    """Each period asks only for the window's keys, and two periods in a row share about half of them."""
    trace = shifting_working_set(3000, keys=1000, working_set=20, period=1000)
    first, second, third = (set(trace.key[start : start + 1000].tolist()) for start in (0, 1000, 2000))
    assert len(first) == len(second) == 20
    assert len(first & second) == 10
    assert not first & third
