"""Arrivals: when the requests of an open model are to begin, drawn in chunks so that hours fit in little memory."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import numpy as np

from skilllab.experiments.loadtest.scenario import Scenario, Stage
from skilllab.stats import Array

_CHUNK = 8192  # arrivals drawn at once
_GRID = 20_001  # points of the cumulative rate where it has no simple inverse


def schedule(scenario: Scenario) -> Iterator[tuple[float, int]]:
    """Yields the intended start of each request, in seconds from the begin, and the number of its stage.

    At most `count` of them; the seed of a stage depends on its number, so that one stage more changes none before it.
    """
    left = math.inf if scenario.count is None else scenario.count
    bounds = scenario.bounds
    for number, stage in enumerate(scenario.stages):
        for chunk in times(stage, np.random.default_rng([scenario.seed, number])):
            inside = chunk[: int(min(left, len(chunk)))] + bounds[number]
            for due in inside[inside < bounds[number + 1]].tolist():
                yield due, number
            left -= len(inside)
            if left <= 0:
                return


def times(stage: Stage, random: np.random.Generator) -> Iterator[Array]:
    """Yields the arrivals of an open stage in chunks, in seconds from its begin; without end when it has none.

    A Poisson process of a changing rate is one of rate 1 on a clock that runs as the cumulative rate does (Çınlar 1975).
    """
    clock, expected = _clock(stage)
    reached = 0.0
    while reached < expected:
        if stage.arrivals == "constant":
            ticks = np.arange(reached, reached + _CHUNK, dtype=np.float64)
            reached += _CHUNK
        else:
            ticks = reached + np.cumsum(random.exponential(size=_CHUNK))
            reached = float(ticks[-1])
        yield clock(ticks[ticks < expected])


def cumulative(stage: Stage, at: Array) -> Array:
    """Returns how many arrivals are expected until `at` seconds from the begin of an open stage."""
    assert stage.rate is not None
    rate, to, duration = stage.rate, stage.to, stage.duration
    if to is None or duration is None:
        return rate * at
    if stage.arrivals == "ramp":
        return rate * at + (to - rate) * at**2 / (2 * duration)
    if stage.arrivals == "sine":
        period = stage.period or duration
        wave = 2 * math.pi / period
        return (rate + to) / 2 * at - (to - rate) / 2 * np.sin(wave * at) / wave
    edges, rates = levels(stage)
    return np.interp(at, edges, np.concatenate(([0.0], np.cumsum(rates * np.diff(edges)))))


def levels(stage: Stage) -> tuple[Array, Array]:
    """Returns where the rates of a "step" or a "spike" change, in seconds from its begin, and the rates between."""
    assert stage.rate is not None
    assert stage.to is not None
    assert stage.duration is not None
    if stage.arrivals == "step":
        return np.linspace(0, stage.duration, stage.steps + 1), np.linspace(stage.rate, stage.to, stage.steps)
    half, middle = (stage.period or stage.duration / 5) / 2, stage.duration / 2
    edges = np.array([0.0, middle - half, middle + half, stage.duration])
    return edges, np.array([stage.rate, stage.to, stage.rate])


def _clock(stage: Stage) -> tuple[Callable[[Array], Array], float]:
    """Returns when so many arrivals are expected, in seconds from the begin of a stage, and how many there are at its end."""
    assert stage.rate is not None
    rate = stage.rate
    if stage.to is None or stage.duration is None:
        return (lambda ticks: ticks / rate), rate * (math.inf if stage.duration is None else stage.duration)
    grid = np.linspace(0, stage.duration, _GRID)
    reached = cumulative(stage, grid)
    return (lambda ticks: np.interp(ticks, reached, grid)), float(reached[-1])
