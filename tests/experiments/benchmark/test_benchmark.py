"""Facts about benchmark(): what it times, in which order, with what subtracted, and when it stops."""

from __future__ import annotations

import asyncio
import gc
import itertools
import time
from collections.abc import Callable
from typing import Any

import pytest

from skilllab.errors import InvalidValueError
from skilllab.experiments.benchmark import Arm, BenchmarkResult, Progress, benchmark
from skilllab.testing import FakeClock

from .machines import READING, Machine, run


def taking(clock: FakeClock, seconds: float, calls: list[str] | None = None, name: str = "") -> Callable[[], None]:
    """Returns a function that takes so many seconds of the clock."""

    def call() -> None:
        clock.advance(seconds)
        if calls is not None:
            calls.append(name)

    return call


def timed(arms: Any, clock: Callable[[], float], **options: Any) -> BenchmarkResult:
    result: BenchmarkResult = run(benchmark(arms, timer=clock, **options))
    return result


def exactly(clock: FakeClock, **seconds: float) -> dict[str, Callable[[], None]]:
    return {name: taking(clock, each) for name, each in seconds.items()}


def test_times_are_those_of_one_call() -> None:
    """With a clock that only the work moves, every arm's time is what one call takes, however many a sample has."""
    clock = FakeClock()
    result = timed(exactly(clock, short=1e-6, long=0.25), clock, iterations=20)
    assert result.samples("short") == pytest.approx([1e-6] * 20)
    assert result.samples("long") == pytest.approx([0.25] * 20)


def test_a_sample_takes_a_hundred_times_what_the_timer_costs() -> None:
    """Short calls are repeated until a sample is 100 times a reading of the timer and 20 µs; long ones are not."""
    machine = Machine(0)
    result = timed({"short": machine.arm(1e-6, 0.0), "long": machine.arm(1.0, 0.0)}, machine, iterations=6, budget=None)
    (short,), (long,) = result.times("short"), result.times("long")
    assert short.calls * 1e-6 >= 0.8 * max(100 * READING, 2e-5)
    assert long.calls == 1


def test_arms_of_about_the_same_speed_have_the_same_calls_a_sample() -> None:
    """Where the first calls of a sample are slower, arms must not be as fast as their samples are long.

    The machine makes two calls after a switch slower; one arm looks half as fast while it is calibrated, and is the same.
    """
    clock, state = FakeClock(), {"last": "", "cold": 0, "left": 3}

    def arm(name: str) -> Callable[[], None]:
        def call() -> None:
            if state["last"] != name:
                state.update(last=name, cold=3)
            calibrating = name == "b" and clock() < 1e-3
            clock.advance((1e-6 + 1e-6 * (state["cold"] > 0)) * (1.9 if calibrating else 1.0))
            state["cold"] -= 1

        return call

    result = timed({name: arm(name) for name in "ab"}, clock, warmup=100, iterations=20, budget=None)
    (a,), (b,) = result.times("a"), result.times("b")
    assert a.calls == b.calls > 1
    assert a.samples.mean() == pytest.approx(b.samples.mean(), rel=0.03)


def test_what_timing_costs_is_subtracted() -> None:
    """A clock that takes 50 ns to read adds nothing to calls of 1 µs, neither in samples nor one by one."""
    clock = FakeClock()

    def reading() -> float:
        clock.advance(READING)
        return clock()

    result = timed(exactly(clock, a=1e-6), reading, iterations=6, budget=None)
    assert result.samples("a") == pytest.approx([1e-6] * 6, rel=1e-6)
    assert result.one_by_one("a") == pytest.approx([1e-6] * 60, rel=1e-6)


def test_every_round_has_every_arm_in_an_order_drawn_anew() -> None:
    """Each round times every arm once; over the rounds each comes first, second and last; the seed decides."""

    def order(seed: int) -> list[str]:
        clock, calls = FakeClock(), []
        arms = {name: taking(clock, 1.0, calls, name) for name in "abc"}
        timed(arms, clock, warmup=0, iterations=30, budget=None, seed=seed)
        return calls[-90:]

    first = order(1)
    rounds = [first[start : start + 3] for start in range(0, 90, 3)]
    assert all(sorted(turn) == ["a", "b", "c"] for turn in rounds)
    assert {(place, name) for turn in rounds for place, name in enumerate(turn)} == set(
        itertools.product(range(3), "abc")
    )
    assert first == order(1) != order(2)


@pytest.mark.slow
def test_rounds_double_until_every_pair_is_decided() -> None:
    """A clear difference takes the rounds asked for; equal arms take as many as a tail needs; noise takes more."""
    clock = FakeClock()
    assert timed(exactly(clock, a=1.0, b=2.0), clock, budget=1e9).rounds == 100
    assert timed(exactly(clock, a=1.0, b=1.0), clock, budget=1e9).rounds == 1600
    machine = Machine(1)
    arms = {name: machine.arm(1e-4, 0.4) for name in "ab"}
    assert timed(arms, machine, budget=1e9).rounds > 1600


def test_the_budget_ends_the_doubling_and_none_does_exactly_the_iterations() -> None:
    """Undecided arms stop soon after the budget, never below the iterations; without a budget there is one look."""
    clock = FakeClock()
    result = timed(exactly(clock, a=1.0, b=1.0), clock, budget=500.0)
    assert 100 < result.rounds <= 250
    assert result.compare("a", "b").verdict == "inconclusive"
    assert timed(exactly(clock, a=1.0, b=1.0), clock, budget=1.0).rounds == 100
    once = timed(exactly(clock, a=1.0, b=1.0), clock, iterations=7, budget=None)
    assert (once.rounds, once.design.looks) == (7, 1)


def test_intervals_pay_for_the_looks() -> None:
    """The same times have a wider interval where one would have looked eight times than where one looks once."""
    machine = Machine(3)
    arms = {name: machine.arm(1e-4, 0.1) for name in "ab"}
    looked = timed(arms, machine, budget=0.001)
    once = BenchmarkResult.from_json({**looked.to_json(), "design": {**looked.to_json()["design"], "looks": 1}})
    wide, narrow = looked.compare("a", "b"), once.compare("a", "b")
    assert wide.low < narrow.low < narrow.high < wide.high


def test_coroutine_functions_are_awaited_on_the_running_loop() -> None:
    """An `async def`, and a plain function that returns an awaitable, are awaited; the loop is the caller's."""
    clock, loops = FakeClock(), set()

    async def waits() -> None:
        await asyncio.sleep(0)
        loops.add(asyncio.get_running_loop())
        clock.advance(1.0)

    async def main() -> BenchmarkResult:
        loops.add(asyncio.get_running_loop())
        arms = {
            "async": waits,
            "lambda": lambda: waits(),  # noqa: PLW0108 - a plain function whose answer is awaitable
            "plain": taking(clock, 1.0),
        }
        return await benchmark(arms, timer=clock, iterations=6, budget=None)

    result = run(main())
    assert len(loops) == 1
    assert [result.median(name) for name in result.names] == [1.0, 1.0, 1.0]


def test_other_tasks_get_their_turn() -> None:
    """A benchmark of plain functions lets the event loop run between rounds, so that a display can be drawn."""
    clock, turns = FakeClock(), []

    async def other() -> None:
        while True:
            turns.append(clock())
            await asyncio.sleep(0)

    async def main() -> None:
        task = asyncio.create_task(other())
        await benchmark(exactly(clock, a=0.01), timer=clock, iterations=100, budget=None)
        task.cancel()

    run(main())
    assert len(turns) > 20


def test_a_setup_that_fails_is_what_is_told() -> None:
    """Its error reaches the caller: what was never set up is not torn down, and what was is."""
    diary: list[str] = []

    def setup() -> object:
        raise ConnectionError("no database")

    arms = {
        "good": Arm(time.monotonic, teardown=lambda: diary.append("good")),
        "bad": Arm(lambda db: db, setup, teardown=lambda db: db.close()),
    }
    with pytest.raises(ConnectionError, match="no database"):
        asyncio.run(benchmark(arms))
    assert diary == ["good"]


def test_a_call_with_a_reset_that_is_too_short_is_refused() -> None:
    """One call is the whole sample then, and a timer cannot time what takes as long as reading it."""
    with pytest.raises(InvalidValueError, match=r"arms\['short'\]: with a reset each sample is one call"):
        asyncio.run(benchmark({"short": Arm(int, reset=int)}))


def test_an_arm_is_set_up_once_reset_before_every_call_and_torn_down() -> None:
    """What setup returns is handed to the others; a reset makes every sample one call, and its time does not count."""
    clock, diary = FakeClock(), []

    async def setup() -> list[int]:
        diary.append("setup")
        return []

    def call(items: list[int]) -> None:
        assert len(items) == 3
        items.clear()
        clock.advance(1e-6)

    def reset(items: list[int]) -> None:
        clock.advance(5.0)
        items.extend((1, 2, 3))

    arm = Arm(call, setup, reset, lambda items: diary.append("teardown"))
    result = timed({"a": arm}, clock, iterations=10, budget=None)
    assert result.samples("a") == pytest.approx([1e-6] * 10)
    assert diary == ["setup", "teardown"]


def test_a_failing_arm_is_raised_and_all_are_torn_down() -> None:
    """An error of an arm reaches the caller, after the teardown of every arm that was set up; garbage collection is back."""
    diary: list[str] = []

    def fails() -> None:
        raise KeyError("broken")

    arms = {"good": Arm(time.monotonic, teardown=lambda: diary.append("good")), "bad": Arm(fails, setup=list)}
    with pytest.raises(TypeError):  # what setup returned is handed over, and this one takes nothing
        run(benchmark(arms))
    with pytest.raises(KeyError, match="broken"):
        run(benchmark({**arms, "bad": fails}))
    assert diary == ["good", "good"]
    assert gc.isenabled()


def test_warm_up_is_kept_and_detected() -> None:
    """Of an arm whose first 30 calls are slow, warm-up goes on beyond the 10 rounds asked for, and none of it counts."""
    clock, calls = FakeClock(), itertools.count()

    def call() -> None:
        clock.advance(1.0 if next(calls) > 30 else 10.0 - 0.2 * next(calls))

    result = timed({"a": call}, clock, warmup=10, iterations=20, budget=None)
    (times,) = result.times("a")
    assert result.samples("a").tolist() == [1.0] * 20
    assert len(times.warmup) > 11
    assert 10 < times.warmup_calls <= 31
    assert result.remarks == ()


def test_an_arm_that_becomes_faster_all_the_time_is_named() -> None:
    """A function that is still warming up while it counts gets a remark."""
    clock, calls = FakeClock(), itertools.count()
    result = timed({"a": lambda: clock.advance(1 + 100 / (10 + next(calls)))}, clock, warmup=0, budget=None)
    (remark,) = result.remarks
    assert remark.startswith("a became faster")


def test_outliers_are_counted_and_not_dropped() -> None:
    """Five stalls among a hundred calls are five outliers, the maximum, and part of the average."""
    clock, calls = FakeClock(), itertools.count()
    result = timed({"a": lambda: clock.advance(50.0 if next(calls) % 20 == 19 else 1.0)}, clock, warmup=0, budget=None)
    (row,) = result.frame().to_dict("records")
    assert (row["outliers"], row["max"], row["rounds"]) == (5, 50.0, 100)
    assert row["average"] == pytest.approx(1 + 5 * 49 / 100)
    assert row["median"] == row["median_low"] == row["median_high"] == 1.0


def test_calls_too_short_to_be_timed_singly_have_the_tail_of_samples() -> None:
    """Where a call is less than ten readings of the timer, p95 and tail are of samples, and are named so."""
    machine = Machine(0)
    result = timed({name: machine.arm(1e-7, 0.01) for name in "ab"}, machine, iterations=6, budget=None)
    found = result.compare("a", "b")
    assert found.tail_calls > 50
    assert f"tail of samples of {found.tail_calls} calls" in str(found)
    assert any("too short" in remark for remark in result.remarks)


@pytest.mark.slow
def test_memory_is_the_peak_of_a_call() -> None:
    """On request each arm has the peak that one call allocates, also what it frees again; otherwise none."""
    arms = {"none": time.monotonic, "freed": lambda: len(bytes(5_000_000))}
    with_memory = run(benchmark(arms, iterations=6, budget=None, memory=True)).frame().set_index("arm")["memory"]
    assert with_memory["none"] < 10_000
    assert 5_000_000 <= with_memory["freed"] < 5_100_000
    assert run(benchmark(arms, iterations=6, budget=None)).frame()["memory"].isna().all()


@pytest.mark.parametrize("collect", [True, False])
def test_garbage_collection_is_stated_and_as_asked(collect: bool) -> None:
    """The collector is off inside samples unless asked for, the result says which, and afterwards it is as before."""
    seen = set()
    clock = FakeClock()

    def call() -> None:
        clock.advance(1.0)
        seen.add(gc.isenabled())

    result = timed({"a": call}, clock, iterations=6, budget=None, warmup=0, collect_garbage=collect)
    assert gc.isenabled()
    assert (False in seen) is not collect  # the first call of all is outside
    assert ("garbage collector on" in str(result)) is collect


def test_progress_is_told_after_every_look() -> None:
    """A display hears of the rounds and sees only what the test has looked at: doubled rounds, never in between."""
    clock, told = FakeClock(), list[Progress]()
    result = timed(exactly(clock, a=1.0, b=1.0), clock, budget=1e9, on_progress=told.append)
    assert [each.so_far.rounds for each in told if each.so_far and each.so_far.rounds == each.rounds] == [
        100,
        200,
        400,
        800,
        1600,
    ]
    assert {each.so_far.rounds for each in told if each.so_far} == {100, 200, 400, 800, 1600}
    assert told[-1].elapsed == result.elapsed
    assert any(each.so_far is None for each in told)


async def coroutine() -> None: ...


@pytest.mark.parametrize(
    ("arms", "options", "says"),
    [
        ({}, {}, "at least one"),
        ([time.time], {}, "by name"),
        ({"a": 3}, {}, "must be a function"),
        ({"a": coroutine()}, {}, "pass the coroutine function itself"),
        ({"": time.time}, {}, "one line"),
        ({"a": Arm(time.time, setup=3)}, {}, "setup"),  # type: ignore[arg-type]
        ({"a": time.time}, {"iterations": 0}, "iterations"),
        ({"a": time.time}, {"iterations": True}, "iterations"),
        ({"a": time.time}, {"warmup": -1}, "warmup"),
        ({"a": time.time}, {"budget": float("nan")}, "budget"),
        ({"a": time.time}, {"budget": 0}, "budget"),
        ({"a": time.time}, {"smallest_difference": 1}, "1 % is 0.01"),
        ({"a": time.time}, {"confidence": 95}, "95 % is 0.95"),
        ({"a": time.time}, {"processes": 0}, "processes"),
    ],
)
def test_bad_input_is_refused_before_anything_starts(arms: Any, options: dict[str, Any], says: str) -> None:
    """What has no meaning is refused with the value and what to do."""
    with pytest.raises(InvalidValueError, match=says):
        run(benchmark(arms, **options))


def test_an_arm_that_takes_no_time_is_refused() -> None:
    """A function that does not move the clock has no time a call."""
    with pytest.raises(InvalidValueError, match="takes no time"):
        run(benchmark({"a": int}, timer=FakeClock(), iterations=6))
