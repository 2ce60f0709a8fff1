"""Workloads from a seed: Zipf, scan, loop and a working set that moves."""

from __future__ import annotations

import math
import operator

import numpy as np
import numpy.typing as npt

from skilllab.errors import InvalidValueError
from skilllab.trace.trace import Meta, Trace


def zipf(n: int, keys: int, exponent: float = 1.0, seed: int = 0, rate: float = 1000.0, poisson: bool = True) -> Trace:
    """Makes independent accesses in which the key of rank r has a share proportional to r ** -exponent.

    n: accesses. keys: how many keys there are (not all need occur). exponent: 0 is uniform; web traffic has 0.6 to 1.
    seed: the same seed gives the same trace. rate: mean accesses per second. poisson: random gaps, or all equal.
    Raises InvalidValueError for counts below 1, a negative exponent, or a rate that is not above 0.
    Source: G. K. Zipf, Human Behavior and the Principle of Least Effort, 1949.
    """
    n, keys = _count("n", n), _count("keys", keys)
    if not (math.isfinite(exponent) and exponent >= 0):
        raise InvalidValueError(f"exponent(={exponent!r}) must be a number from 0 up")
    random = _generator(seed)
    shares = np.cumsum(np.arange(1, keys + 1, dtype=np.float64) ** -exponent)
    ranks = np.searchsorted(shares, random.random(n) * shares[-1], side="right")
    meta: Meta = {
        "workload": "zipf",
        "keys": keys,
        "exponent": float(exponent),
        "seed": seed,
        "rate": float(rate),
        "poisson": bool(poisson),
    }
    return Trace.from_keys(ranks, time=_clock(n, rate, poisson, random), meta=meta)


def scan(n: int, seed: int = 0, rate: float = 1000.0, poisson: bool = True) -> Trace:
    """Makes `n` accesses to `n` keys, each once: no cache of any size has a hit.

    seed, rate, poisson: see zipf. Raises InvalidValueError for bad values.
    """
    n = _count("n", n)
    meta: Meta = {"workload": "scan", "seed": seed, "rate": float(rate), "poisson": bool(poisson)}
    return Trace.from_keys(np.arange(n), time=_clock(n, rate, poisson, _generator(seed)), meta=meta)


def loop(n: int, keys: int, seed: int = 0, rate: float = 1000.0, poisson: bool = True) -> Trace:
    """Makes `n` accesses that go round `keys` keys in order: LRU has no hit until all of them fit.

    seed, rate, poisson: see zipf. Raises InvalidValueError for bad values.
    """
    n, keys = _count("n", n), _count("keys", keys)
    meta: Meta = {"workload": "loop", "keys": keys, "seed": seed, "rate": float(rate), "poisson": bool(poisson)}
    return Trace.from_keys(np.arange(n) % keys, time=_clock(n, rate, poisson, _generator(seed)), meta=meta)


def shifting_working_set(
    n: int, keys: int, working_set: int, period: int, seed: int = 0, rate: float = 1000.0, poisson: bool = True
) -> Trace:
    """Makes accesses spread evenly over a window of `working_set` keys that moves on by half after every `period`.

    n: accesses. keys: size of the ring of keys that the window moves round. working_set: keys in the window.
    period: accesses between two moves. seed, rate, poisson: see zipf.
    Raises InvalidValueError for counts below 1 or a working set larger than `keys`.
    Source: P. J. Denning, The working set model for program behavior, 1968.
    """
    n, keys, period = _count("n", n), _count("keys", keys), _count("period", period)
    working_set = _count("working_set", working_set)
    if working_set > keys:
        raise InvalidValueError(f"working_set(={working_set}) must be at most keys(={keys})")
    random = _generator(seed)
    starts = np.arange(n) // period * max(1, working_set // 2)
    ids = (starts + random.integers(working_set, size=n)) % keys
    shape: Meta = {"workload": "shifting working set", "keys": keys, "working_set": working_set, "period": period}
    meta: Meta = {**shape, "seed": seed, "rate": float(rate), "poisson": bool(poisson)}
    return Trace.from_keys(ids, time=_clock(n, rate, poisson, random), meta=meta)


def _clock(n: int, rate: float, poisson: bool, random: np.random.Generator) -> npt.NDArray[np.float64]:
    if not (math.isfinite(rate) and rate > 0):
        raise InvalidValueError(f"rate(={rate!r}) must be a number of accesses per second above 0")
    gaps = random.exponential(1 / rate, size=n - 1) if poisson else np.full(n - 1, 1 / rate)
    return np.concatenate(([0.0], np.cumsum(gaps)))


def _count(name: str, value: int) -> int:
    try:
        number = operator.index(value)
    except TypeError as error:
        raise InvalidValueError(f"{name}(={value!r}) must be a whole number") from error
    if isinstance(value, bool) or number < 1:
        raise InvalidValueError(f"{name}(={value!r}) must be at least 1")
    return number


def _generator(seed: int) -> np.random.Generator:
    if isinstance(seed, bool) or not isinstance(seed, int) or seed < 0:
        raise InvalidValueError(f"seed(={seed!r}) must be a whole number from 0 up")
    return np.random.default_rng(seed)
