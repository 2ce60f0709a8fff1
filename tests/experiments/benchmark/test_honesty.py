"""The honesty of benchmark(), short form: seeded machines in place of a real one; the long form is bench_benchmark.py."""

from __future__ import annotations

from collections import Counter
from itertools import product

import pytest

from skilllab.experiments.benchmark import Compared, benchmark
from skilllab.experiments.benchmark.arms import checked_arms
from skilllab.experiments.benchmark.comparing import compare
from skilllab.experiments.benchmark.rounds import Rounds

from .machines import KINDS, Machine, run

Found = list[Compared]


def compared(kind: str, seed: int, **other: float) -> Compared:
    """Compares a kind of call with itself, or with another that differs by `other`, every other time beside a neighbour."""
    machine = Machine(seed, neighbour=bool(seed % 2))
    arms = {"a": machine.arm(**KINDS[kind]), "b": machine.arm(**(KINDS[kind] | other))}
    return run(benchmark(arms, timer=machine, seed=seed, budget=20.0)).compare("a", "b")


def all_kinds(each: int, **other: float) -> Found:
    return [compared(kind, seed, **other) for kind, seed in product(KINDS, range(each))]


def different(found: Found) -> int:
    return Counter(one.verdict for one in found)["faster"] + Counter(one.verdict for one in found)["slower"]


@pytest.mark.slow
def test_a_function_is_the_same_as_itself() -> None:
    """Of 25 self-comparisons over five kinds, half beside a noisy neighbour, none is different and 90 % are the same."""
    found = all_kinds(5)
    assert different(found) == 0
    assert sum(one.verdict == "same" for one in found) >= 23


@pytest.mark.slow
def test_a_real_3_percent_is_found() -> None:
    """Of 15 calls that take 3 % longer all are called slower, whatever their kind."""
    assert [one.verdict for one in all_kinds(3, times=1.03)] == ["slower"] * 15


@pytest.mark.slow
def test_one_call_in_a_hundred_ten_times_slower_is_a_tail_difference() -> None:
    """Of 10 arms of which a hundredth of the calls take ten times as long, each has a slower tail and none is the same."""
    found = all_kinds(2, slow=0.01)
    assert [one.tail.verdict for one in found] == ["slower"] * 10
    assert "same" not in {one.verdict for one in found}


@pytest.mark.slow
def test_sequential_arms_would_fail(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same comparisons with one arm timed after the other call a function different from itself time and again."""
    monkeypatch.setattr(Rounds, "until", sequential)
    assert different(all_kinds(2)) >= 4


@pytest.mark.slow
def test_stopping_at_the_first_difference_would_fail() -> None:
    """Whoever looks after every few rounds, at intervals of one look, and stops at a difference finds one too often."""
    assert sum(peeking("allocating", seed) for seed in range(20)) >= 2


async def sequential(self: Rounds, rounds: int, *_: object) -> bool:
    """In place of `Rounds.until`: all samples of the first arm, then all of the second."""
    wanted = rounds - self.done
    for watch in self._watches:
        for _turn in range(wanted):
            self._samples[watch.name].append(await watch.sample())
            if watch.singles:
                self._singles[watch.name].append(await watch.one_by_one())
    return True


def peeking(kind: str, seed: int) -> bool:
    """Returns whether a self-comparison is called different in one of 100 looks."""
    machine = Machine(seed, neighbour=bool(seed % 2))

    async def look() -> bool:
        arms = checked_arms({name: machine.arm(**KINDS[kind]) for name in "ab"})
        async with Rounds(arms, warmup=10, collect=False, seed=seed, timer=machine) as rounds:
            for wanted in range(6, 106):
                await rounds.until(wanted)
                a, b = ([times] for times in rounds.run().values())
                typical, _tail = compare(a, b, smallest_difference=0.01, confidence=0.95)
                if typical.verdict in ("faster", "slower"):
                    return True
        return False

    return bool(run(look()))
