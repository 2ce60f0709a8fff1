"""Runs: what one process measured of each arm, and how it is written as plain JSON values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from skilllab.stats import Array, quantile, quantiles

_STILL_WARM = 0.95  # quantile of the rounds that count: warm-up ends with the first sample that is not slower


@dataclass(frozen=True, slots=True)
class ArmTimes:
    """The times of one arm in one process, in seconds a call.

    samples: one a round, over `calls` calls in a row. singles: a row for each round, of calls timed one by one; None where
    a sample is one call, or where a call is too short to be timed alone. warmup: (calls, seconds a call) of each sample
    before the rounds that count, the first call of all first. memory: bytes of the peak of one call; None: not asked.
    """

    samples: Array
    calls: int
    singles: Array | None
    warmup: tuple[tuple[int, float], ...]
    memory: int | None = None

    @property
    def tail_calls(self) -> int:
        """Calls that each value of `one_by_one` is over."""
        return self.calls if self.singles is None else 1

    @property
    def one_by_one(self) -> Array:
        """The finest times that there are, a row for each round: single calls, else the samples."""
        return self.samples[:, None] if self.singles is None else self.singles

    @property
    def warmup_calls(self) -> int:
        """Calls until the arm was as fast as later: those of the leading warm-up samples above the later p95."""
        usual, calls = quantile(self.samples, _STILL_WARM), 0
        for number, seconds in self.warmup:
            if seconds <= usual:
                break
            calls += number
        return calls

    @property
    def outliers(self) -> int:
        """Samples more than 1.5 times the interquartile range outside of the quartiles (Tukey 1977)."""
        low, high = quantiles(self.samples, [0.25, 0.75])
        reach = 1.5 * (high - low)
        return int(np.sum((self.samples < low - reach) | (self.samples > high + reach)))

    def to_json(self) -> dict[str, Any]:
        """Returns the times as plain JSON values."""
        return {
            "samples": self.samples.tolist(),
            "calls": self.calls,
            "singles": None if self.singles is None else self.singles.tolist(),
            "warmup": [list(sample) for sample in self.warmup],
            "memory": self.memory,
        }

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> ArmTimes:
        """Returns the times that `to_json` wrote."""
        singles = values["singles"]
        return cls(
            np.array(values["samples"], dtype=np.float64),
            int(values["calls"]),
            None if singles is None else np.array(singles, dtype=np.float64),
            tuple((int(calls), float(seconds)) for calls, seconds in values["warmup"]),
            values["memory"],
        )


Run = Mapping[str, ArmTimes]
"""What one process measured: the times of each arm, by name, from the same rounds."""
