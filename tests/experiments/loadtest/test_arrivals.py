"""Arrivals: as many as the rate says, when it says, the same for the same seed."""

from __future__ import annotations

import math
from itertools import islice
from typing import Any

import numpy as np
import pytest

from skilllab.experiments.loadtest import Scenario, Stage
from skilllab.experiments.loadtest.arrivals import cumulative, levels, schedule, times

SHAPES: list[dict[str, Any]] = [
    {"arrivals": "poisson"},
    {"arrivals": "ramp", "to": 400.0},
    {"arrivals": "ramp", "to": 20.0},
    {"arrivals": "step", "to": 500.0, "steps": 5},
    {"arrivals": "spike", "to": 900.0, "period": 8.0},
    {"arrivals": "sine", "to": 300.0, "period": 20.0},
]


def drawn(stage: Stage, seed: int = 0) -> np.ndarray[Any, Any]:
    return np.concatenate(list(times(stage, np.random.default_rng(seed))))


@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: f"{shape['arrivals']} {shape.get('to', '')}")
def test_a_changing_rate_is_that_of_its_shape(shape: dict[str, Any]) -> None:
    """In each twentieth of the stage as many come as the integral of the rate says, within five standard deviations."""
    stage = Stage(100.0, rate=100.0, **shape)
    edges = np.linspace(0, 100, 21)
    expected = np.diff(cumulative(stage, edges))
    came, _ = np.histogram(drawn(stage), edges)
    assert (abs(came - expected) < 5 * np.sqrt(expected)).all()


@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: f"{shape['arrivals']} {shape.get('to', '')}")
def test_on_the_clock_of_its_rate_every_shape_is_a_poisson_process(shape: dict[str, Any]) -> None:
    """The gaps, each times the rate at it, are exponential: mean and standard deviation are 1 (Kolmogorov distance small)."""
    stage = Stage(100.0, rate=100.0, **shape)
    gaps = np.sort(np.diff(cumulative(stage, drawn(stage))))
    distance = abs(-np.expm1(-gaps) - (np.arange(len(gaps)) + 0.5) / len(gaps)).max()
    assert gaps.mean() == pytest.approx(1, abs=0.05)
    assert distance < 1.6 / math.sqrt(len(gaps))


def test_constant_arrivals_are_evenly_spaced() -> None:
    """20,000 of them, from more than one chunk, stand 1 / rate apart and begin at once."""
    found = drawn(Stage(200.0, rate=100.0, arrivals="constant"))
    assert found == pytest.approx(np.arange(20_000) / 100)


def test_rates_of_a_spike_and_of_steps() -> None:
    """A spike of 100 s is in the middle fifth; five steps go evenly from the first rate to the last."""
    edges, rates = levels(Stage(100.0, rate=10.0, to=90.0, arrivals="spike"))
    assert (edges.tolist(), rates.tolist()) == ([0, 40, 60, 100], [10, 90, 10])
    edges, rates = levels(Stage(100.0, rate=10.0, to=50.0, arrivals="step"))
    assert (edges.tolist(), rates.tolist()) == ([0, 20, 40, 60, 80, 100], [10, 20, 30, 40, 50])


def test_a_seed_gives_the_same_arrivals_and_another_one_others() -> None:
    """A stage has its own random numbers: one more stage behind it changes none of its arrivals."""
    first = Stage(10.0, rate=50.0)
    one = list(schedule(Scenario("s", {}, (first,), seed=7)))
    two = list(schedule(Scenario("s", {}, (first, Stage(10.0, rate=50.0)), seed=7)))
    assert two[: len(one)] == one
    assert [due - 10 for due, stage in two if stage == 1][:3] != [due for due, _ in one][:3]
    assert list(schedule(Scenario("s", {}, (first,), seed=8))) != one


def test_stages_follow_one_another_and_the_count_ends_them() -> None:
    """Each arrival is within its stage, in order; a count of 25 ends the schedule in the third stage."""
    stages = (Stage(1.0, rate=10.0, arrivals="constant"),) * 3
    found = list(schedule(Scenario("s", {}, stages, count=25)))
    assert [stage for _, stage in found] == [0] * 10 + [1] * 10 + [2] * 5
    assert [due for due, _ in found] == pytest.approx(np.arange(25) / 10)


def test_a_stage_without_an_end_goes_on() -> None:
    """With a count alone arrivals are drawn as they are needed, however many."""
    scenario = Scenario("s", {}, (Stage(None, rate=1000.0),), count=100_000)
    found = list(islice(schedule(scenario), 50_000))
    assert found[-1][0] == pytest.approx(50, rel=0.03)
    assert len(list(schedule(scenario))) == 100_000
