"""Fair turns: in each round every arm runs once, in an order drawn anew, so that whatever the machine does meets all."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Hashable, Mapping
from typing import Any, TypeVar

import numpy as np

from skilllab.errors import InvalidValueError
from skilllab.stats import Interval, quantile, quantile_interval

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")

Progress = Callable[[int, int], object]


async def turns(
    arms: Mapping[K, Callable[[int], Awaitable[V]]], rounds: int, *, seed: int, on_progress: Progress | None = None
) -> dict[K, list[V]]:
    """Returns what `arm(round)` returned, one for each arm and round; on_progress is told (runs done, all)."""
    names = list(arms)
    results: dict[K, list[V]] = {name: [] for name in names}
    random = np.random.default_rng(seed)
    for turn in range(rounds):
        for place, index in enumerate(random.permutation(len(names))):
            results[names[index]].append(await arms[names[index]](turn))
            if on_progress is not None:
                on_progress(turn * len(names) + place + 1, rounds * len(names))
    return results


def middle(values: Any) -> float:
    """Returns the median over the rounds, NaN when a round has no value."""
    return quantile(values, 0.5) if np.isfinite(values).all() else float("nan")


def middle_interval(values: Any) -> Interval | None:
    """Returns the 95 % interval of the median, None with fewer than 6 rounds or when one has no value."""
    return quantile_interval(values, 0.5) if np.isfinite(values).all() else None


def ends(interval: Interval | None) -> tuple[float, float]:
    """Returns both ends for a frame, NaN where there is no interval."""
    return (float("nan"), float("nan")) if interval is None else (interval.low, interval.high)


def counted(name: str, values: Any) -> tuple[int, ...]:
    """Returns whole numbers of at least 1, ascending and different; raises InvalidValueError for any other."""
    column = tuple(values)
    whole = all(type(value) is int and value >= 1 for value in column)
    if not column or not whole or sorted(set(column)) != list(column):
        raise InvalidValueError(f"{name}={column!r} must be ascending whole numbers of at least 1")
    return column


def positive(**values: Any) -> None:
    """Raises InvalidValueError unless each is a number above 0."""
    for name, value in values.items():
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < float("inf"):
            raise InvalidValueError(f"{name}={value!r} must be a number above 0")
