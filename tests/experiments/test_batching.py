"""Batches, pools and calls at once: what is measured is what was done, and counts from when it should have begun."""

from __future__ import annotations

import asyncio
import math
import sqlite3
from contextlib import asynccontextmanager

import numpy as np
import pytest

from skilllab.demo import DemoSettings
from skilllab.errors import ExecutionError, HttpStatusError, InvalidValueError
from skilllab.experiments.batching import (
    BatchSizes,
    Cell,
    Parallel,
    Pooling,
    Workload,
    api_users,
    batch_sizes,
    offer,
    parallel,
    poisson,
    pooling,
    sqlite_inserts,
    workloads,
)
from skilllab.experiments.batching.knee import costs
from skilllab.experiments.batching.limits import Level
from skilllab.experiments.batching.rounds import turns
from skilllab.experiments.failures.virtual import in_virtual_time
from skilllab.plots import summary
from skilllab.testing import FakeClock


class TestOffered:
    """An open model: who comes, comes."""

    def test_arrivals_are_seeded_and_have_their_rate(self):
        """The same seed gives the same times, ascending and within the time; 20,000 of them have the rate within 2 %."""
        times = poisson(1000.0, 20.0, seed=3)
        assert times.tolist() == poisson(1000.0, 20.0, seed=3).tolist()
        assert times[:50].tolist() != poisson(1000.0, 20.0, seed=4)[:50].tolist()
        assert 0 < times[0] < times[-1] < 20
        assert (np.diff(times) > 0).all()
        assert len(times) == pytest.approx(20_000, rel=0.02)
        assert np.diff(times).std() == pytest.approx(1 / 1000, rel=0.03), "gaps of a Poisson process are exponential"

    @pytest.mark.parametrize(("rate", "seconds"), [(0, 1), (1, 0), (-1, 1), (math.inf, 1)])
    def test_rates_without_a_meaning_are_refused(self, rate, seconds):
        """Nothing can come at them."""
        with pytest.raises(InvalidValueError, match="above 0"):
            poisson(rate, seconds, 0)

    def test_latency_counts_from_the_intended_start(self):
        """The first item blocks the loop for 1 s: the next, due at 0.5 and 0.75 s, have waited for 0.5 and 0.25 s."""
        clock = FakeClock(100.0)

        async def sleep(seconds):
            until = clock.now + seconds
            await asyncio.sleep(0)
            clock.now = max(clock.now, until)

        async def submit(item, *, started):
            started(0.0)
            if item == 0:
                clock.advance(1.0)

        times = np.array([0.0, 0.5, 0.75, 2.0])
        came = asyncio.run(offer(submit, times, clock=clock, sleep=sleep))
        assert came.latency.tolist() == [1.0, 0.5, 0.25, 0.0]
        assert came.lag.tolist() == [0.0, 0.5, 0.25, 0.0]

    def test_nobody_waits_for_those_before(self):
        """Items that take 1 s each and come every 0.25 s are under way together, each for 1 s, in virtual time."""

        async def main():
            async def submit(item, *, started):
                started(0.125)
                await asyncio.sleep(1.0)

            clock = asyncio.get_running_loop().time
            return await offer(submit, np.arange(8) / 4, patience=2.0, clock=clock)

        came = in_virtual_time(main)
        assert came.latency == pytest.approx(np.ones(8), abs=1e-4)
        assert came.waited.tolist() == [0.125] * 8

    def test_what_is_not_answered_is_given_up(self):
        """After the patience an item without an answer is cancelled and has no latency."""

        async def main():
            cancelled = []

            async def submit(item, *, started):
                if item == 1:
                    try:
                        await asyncio.Event().wait()
                    finally:
                        cancelled.append(item)

            came = await offer(submit, np.array([0.0, 0.0, 0.0]), patience=0.01)
            assert np.isnan(came.latency).tolist() == [False, True, False]
            assert np.isnan(came.waited).all()
            assert cancelled == [1]
            assert asyncio.all_tasks() == {asyncio.current_task()}

        asyncio.run(main())

    def test_an_error_of_an_item_is_raised(self):
        """A workload that fails is not a fast one."""

        async def submit(item, *, started):
            raise OSError("disk full")

        with pytest.raises(OSError, match="disk full"):
            asyncio.run(offer(submit, np.array([0.0])))

    def test_nothing_offered_is_nothing_measured(self):
        """No arrivals give empty columns."""
        assert [len(column) for column in asyncio.run(offer(None, np.array([])))] == [0, 0, 0]


class TestTurns:
    """All arms, round by round."""

    def test_each_arm_runs_once_a_round_in_changing_order(self):
        """The order is drawn anew for each round, the same for the same seed, and progress is told."""

        def play(seed):
            order, told = [], []

            async def arm(name, turn):
                order.append((turn, name))
                return turn

            arms = {name: (lambda turn, name=name: arm(name, turn)) for name in "abc"}
            results = asyncio.run(turns(arms, 8, seed=seed, on_progress=lambda *now: told.append(now)))
            assert results == {name: list(range(8)) for name in "abc"}
            assert told == [(number, 24) for number in range(1, 25)]
            return ["".join(name for turn, name in order if turn == number) for number in range(8)]

        rounds = play(0)
        assert all(sorted(names) == list("abc") for names in rounds)
        assert len(set(rounds)) > 2
        assert play(0) == rounds != play(1)


class TestKnee:
    """A batch's own cost against that of its items."""

    def test_exact_costs_are_found(self):
        """4 ms a batch and 50 µs an item: the knee is at 80, where throughput is half of 20,000 a second."""
        sizes = (1, 10, 100, 1000)
        found = costs({size: np.full(6, 0.004 / size + 50e-6) for size in sizes})
        assert (found.batch, found.item, found.knee) == pytest.approx((0.004, 50e-6, 80.0))
        assert (found.interval.low, found.interval.high) == pytest.approx((80.0, 80.0))

    def test_the_interval_holds_the_true_knee(self):
        """Of 100 seeded experiments with 20 % noise at least 85 intervals do, and they are no wider than a factor of 2."""
        random, inside = np.random.default_rng(0), 0
        for seed in range(100):
            noise = {size: random.lognormal(0, 0.2, 18) for size in (1, 3, 10, 30, 100, 300)}
            found = costs({size: (0.004 / size + 50e-6) * one for size, one in noise.items()}, seed=seed).interval
            inside += found.low <= 80 <= found.high
            assert found.high < 2 * found.low
        assert inside >= 85

    def test_what_cannot_be_known_is_not_guessed(self):
        """Items that cost nothing have no knee, one size has none, and fewer than 6 rounds give no interval."""
        free = costs({1: np.full(6, 1.0), 10: np.full(6, 0.09)})
        assert (free.item, free.knee) == (0.0, math.inf)
        single = costs({10: np.full(6, 0.1)})
        assert math.isnan(single.knee)
        assert single.interval is None
        assert costs({1: np.full(5, 1.0), 10: np.full(5, 0.5)}).interval is None


def sizes_by_hand():
    """Three sizes, two waits, six equal rounds; the size of 1 cannot keep up with the 500 a second offered."""

    def cell(p50, p95, waited, size):
        return Cell(*(np.full(6, value) for value in (p50, p95, waited, size, 0.001)))

    seconds = {size: np.full(6, 0.004 / size + 50e-6) for size in (1, 10, 100)}
    cells = {
        (10, 0.0): cell(0.005, 0.008, 0.001, 2.5),
        (10, 0.1): cell(0.02, 0.03, 0.015, 9.5),
        (100, 0.0): cell(0.005, 0.009, 0.001, 2.5),
        (100, 0.1): cell(0.06, 0.11, 0.05, 51.0),
    }
    return BatchSizes("work", "insert", 500.0, seconds, cells)


class TestBatchSizes:
    """The result, and the run."""

    def test_the_frame_by_hand(self):
        """A row for each size and wait; what could not keep up has a throughput and no latency."""
        frame = sizes_by_hand().frame().set_index(["size", "wait"])
        assert frame.index.tolist() == [(1, 0.0), (1, 0.1), (10, 0.0), (10, 0.1), (100, 0.0), (100, 0.1)]
        assert frame.loc[(1, 0.0), "throughput"] == pytest.approx(1 / 0.00405)
        assert frame.loc[(1, 0.0), "load"] == pytest.approx(500 * 0.00405)
        assert frame.loc[[(1, 0.0), (1, 0.1)], ["p50", "p95", "waited", "p95_low"]].isna().all(axis=None)
        assert frame.loc[(100, 0.1), ["p50", "p95", "waited", "mean_size"]].tolist() == [0.06, 0.11, 0.05, 51.0]
        assert frame.loc[(10, 0.0), ["p95_low", "p95_high"]].tolist() == [0.008, 0.008]

    def test_the_text_says_what_was_found(self):
        """Costs, knee, throughput, what the wait does, and who cannot keep up."""
        text = str(sizes_by_hand())
        for part in (
            "a batch costs 4.00 ms and each insert 50.0 µs more",
            "the knee is at 80 items (80 to 80)",
            "247 /s with batches of 1, 11,111 /s with batches of 100",
            "At 500 /s offered p95 is 9.00 ms with no wait and 110 ms with a wait of 100 ms (batches of at most 100)",
            "Batches of 1 cannot keep up",
        ):
            assert part in text

    def test_the_plots_say_what_was_found(self):
        """Their titles are the findings; the second has a line for each wait."""
        result = sizes_by_hand()
        assert "Batches of 100 get 45× as much done as batches of 1; the knee is at 80 items" in summary(result.plot())
        told = summary(result.plot_latency())
        assert "110 ms with a wait of 100 ms" in told
        assert "no wait" in told

    def test_a_knee_beyond_the_sizes_is_said_to_be_so(self):
        """An extrapolation is named as one."""
        result = BatchSizes("work", "user", 1.0, {size: np.full(6, 1 / size + 0.01) for size in (1, 10)}, {})
        assert "the knee is at 100 items (100 to 100), beyond the sizes tried" in str(result)
        assert "no size could keep up" in str(result)

    def run(self, slow_after=math.inf, **options):
        """A run in virtual time, in which a batch takes 4 ms and 0.1 ms for each of its items, one at a time.

        slow_after: batches after which each takes 10 s.
        """
        batches = []

        @asynccontextmanager
        async def opened():
            async def work(items):
                batches.append(items)
                await asyncio.sleep(0.004 + 0.0001 * len(items) if len(batches) <= slow_after else 10.0)
                return items

            yield work

        workload = Workload("sleep", "item", 1, opened)
        small = {"sizes": (1, 4, 40), "waits": (0.0, 0.03), "reference": 4, "load": 0.5, "seconds": 1.0, "rounds": 2}

        async def main():
            clock = asyncio.get_running_loop().time
            return await batch_sizes(workload, clock=clock, **{**small, **options})

        return in_virtual_time(main), batches

    def test_known_costs_are_found(self):
        """The knee is where it must be, at 40, and half of the throughput of 4 is offered; no batch is too large."""
        told = []
        result, batches = self.run(on_progress=lambda *now: told.append(now))
        assert (result.costs.batch, result.costs.item) == pytest.approx((0.004, 0.0001), rel=0.01)
        assert result.costs.knee == pytest.approx(40, rel=0.02)
        assert result.rate == pytest.approx(0.5 / (0.001 + 0.0001), rel=0.01)
        assert max(map(len, batches)) == 40
        assert [len(values) for values in result.seconds.values()] == [6, 6, 6]
        assert told[-1][0] == told[-1][1]

    def test_latency_has_its_parts(self):
        """An item waits for its batch and then for the batch: p50 is at least the one and a batch of one, at every cell."""
        result, _ = self.run()
        for (size, wait), cell in result.cells.items():
            assert (cell.size >= 1).all()
            assert (cell.size <= size).all()
            assert (cell.p50 >= cell.waited + 0.004).all()
            assert (cell.p95 >= cell.p50).all()
            assert (cell.lag < 1e-3).all(), "in virtual time nothing keeps the generator"
            assert wait == 0 or size < 40 or (cell.p95 > 0.03).all(), "454 a second fill 40 places in 88 ms: all wait"

    def test_all_cells_of_a_round_get_the_same_arrivals(self):
        """The run is the same for the same seed, and another for another."""
        one, two, other = (self.run(seed=seed)[0].frame() for seed in (1, 1, 2))
        assert one.equals(two)
        assert not one.equals(other)

    def test_the_end_of_a_run_is_not_measured(self):
        """40 items come in 88 ms, long before a wait of 1 s is over: no item is seen to wait for those that never come."""
        result, _ = self.run(waits=(1.0,), seconds=0.25)
        assert (result.cells[40, 1.0].p95 < 0.2).all()

    def test_a_cell_with_items_given_up_has_no_latency(self):
        """What happens after the bursts, when every batch takes 10 s, is told as not keeping up, not as a fast few."""
        bursts = 3 * 1 * 10 * 3  # sizes, times, batches, repetitions
        result, batches = self.run(slow_after=bursts, rounds=1)
        assert len(batches) > bursts
        assert all(np.isnan(column).all() for cell in result.cells.values() for column in cell)
        assert "Batches of 1, 4, 40 cannot keep up" in str(result)

    def test_a_size_that_cannot_keep_up_is_not_run(self):
        """Its latency would say how long the run was, and nothing else; the frame says that it cannot."""
        result, _ = self.run()
        assert set(result.cells) == {(4, 0.0), (4, 0.03), (40, 0.0), (40, 0.03)}
        assert math.isnan(result.p95(1, 0.0))
        assert result.frame().set_index(["size", "wait"]).loc[(1, 0.0), "load"] > 1

    @pytest.mark.parametrize(
        ("change", "named"),
        [
            ({"sizes": ()}, "sizes"),
            ({"sizes": (4, 1)}, "sizes"),
            ({"sizes": (1, 2.0)}, "sizes"),
            ({"waits": ()}, "waits"),
            ({"waits": (0.1, 0.0)}, "waits"),
            ({"waits": (-1,)}, "waits"),
            ({"reference": 5}, "reference=5"),
            ({"load": 0}, "load=0"),
            ({"load": 1.0}, "load=1.0"),
            ({"seconds": 0}, "seconds=0"),
            ({"rounds": 0}, "rounds"),
        ],
    )
    def test_values_without_a_meaning_are_refused(self, change, named):
        """Before anything is opened."""
        with pytest.raises(InvalidValueError, match=named):
            self.run(**change)


class TestWorkloads:
    """Real files, real requests."""

    def test_inserts_are_in_the_file(self):
        """Every item has a row of its own; a commit waits for the disk; the folder is gone afterwards."""
        folders = []

        async def main():
            async with sqlite_inserts().open() as insert:
                return await insert([7, 8]) + await insert([9])

        created = workloads._created

        def seen(file):
            folders.append(file.parent)
            db = created(file)
            assert db.execute("PRAGMA synchronous").fetchone() == (2,), "FULL"
            return db

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(workloads, "_created", seen)
            assert asyncio.run(main()) == [1, 2, 3]
        assert not folders[0].exists()

    def test_answers_without_rows_are_an_error(self, monkeypatch):
        """An insert that only says it was done is found out at the end."""

        async def main():
            async with sqlite_inserts().open() as insert:
                return await insert([7, 8])

        monkeypatch.setattr(workloads, "_insert", lambda db, items: list(items))
        with pytest.raises(ExecutionError, match="2 inserts were answered, and the file holds 0 rows"):
            asyncio.run(main())

    @pytest.mark.slow
    def test_the_api_answers_each_item(self):
        """A user for each number, in order, from a server in another process."""

        async def main():
            workload = api_users(latency=0.0, workers=2)
            async with workload.open() as ask:
                return workload.at_once, await ask([0, 4])

        at_once, answers = asyncio.run(main())
        assert at_once == 2
        assert [answer["status"] for answer in answers] == [200, 200]
        assert [answer["body"]["id"] for answer in answers] == [1, 5]


class TestPooling:
    """The same calls with and without a pool."""

    def test_only_the_pool_makes_the_difference(self):
        """Without it every call opens a connection, the warm-up included; with it there are never more than at once."""
        result = asyncio.run(pooling(calls=20, at_once=3, tables=2, rounds=2))
        assert result.opened["no pool"] == 3 * 20
        assert 1 <= result.opened["pool"] <= 3
        assert len(result.opening) == 60
        assert [len(values) for values in result.seconds.values()] == [2, 2]
        assert (result.opening > 0).all()

    def test_the_result_by_hand(self):
        """Frame, text and plot of ten rounds in which a call takes three times as long without the pool."""
        seconds = {"pool": np.full(10, 0.001), "no pool": np.full(10, 0.003)}
        result = Pooling(seconds, {"pool": 5, "no pool": 2200}, np.full(9, 0.0015), 200, 5)
        assert result.frame()[["arm", "seconds", "opened"]].to_numpy().tolist() == [
            ["pool", 0.001, 5],
            ["no pool", 0.003, 2200],
        ]
        assert "Without a pool a call takes 3.00× as long (3.00× to 3.00×)" in str(result)
        assert "opening one takes 1.50 ms" in str(result)
        assert "no pool: 2,200 connections opened" in summary(result.plot())

    def test_no_difference_is_not_told_as_one(self):
        """With too few rounds the finding is that there is none."""
        one = np.array([0.001, 0.002])
        result = Pooling({"pool": one, "no pool": one[::-1]}, {"pool": 1, "no pool": 2}, one, 2, 1)
        assert "inconclusive over 2 rounds" in str(result)

    def test_a_call_that_fails_is_no_fast_call(self, monkeypatch):
        """Its error is raised."""
        monkeypatch.setattr(
            "skilllab.experiments.batching.connections._opened", lambda file, seconds: sqlite3.connect(":memory:")
        )
        with pytest.raises(ExecutionError):
            asyncio.run(pooling(calls=2, at_once=1, tables=1, rounds=1))

    @pytest.mark.parametrize("name", ["calls", "at_once", "tables", "rounds"])
    def test_counts_below_one_are_refused(self, name):
        """The message names the argument."""
        with pytest.raises(InvalidValueError, match=name):
            asyncio.run(pooling(**{name: 0}))


def parallel_by_hand():
    """Twice the limit, twice the throughput, up to 4; beyond, only the waiting doubles."""
    rows = {1: (0.01, 0.01, 0.02), 2: (0.005, 0.01, 0.02), 4: (0.0025, 0.01, 0.02), 8: (0.0024, 0.02, 0.04)}
    return Parallel(4, {limit: Level(*(np.full(6, value) for value in row)) for limit, row in rows.items()})


class TestParallel:
    """Calls at once."""

    def test_the_knee_by_hand(self):
        """4 at once have 96 % of the throughput of 8: that is enough."""
        result = parallel_by_hand()
        assert result.knee == 4
        frame = result.frame().set_index("limit")
        assert frame.loc[4, ["throughput", "throughput_low", "p50", "p95_high"]].tolist() == pytest.approx(
            [400, 400, 0.01, 0.02]
        )
        assert "4 at once get 4× as much done as 1; 8 get 1.04× of that, and their p95 is 2× as long" in str(result)
        assert "the server serves 4 at once" in str(result)
        assert "4 at once get 4×" in summary(result.plot())

    def test_intervals_of_rates_are_the_right_way_round(self):
        """The slowest round is the low end of the throughput."""
        level = Level(np.linspace(0.01, 0.02, 6), np.ones(6), np.ones(6))
        one = Parallel(None, {1: level})
        assert one.throughput_interval(1).low == pytest.approx(50)
        assert one.throughput_interval(1).high == pytest.approx(100)
        assert "Up to 1 at once" in str(one)

    @pytest.mark.slow
    def test_a_real_server_serves_as_many_as_it_has_workers(self):
        """Two workers of 10 ms: two calls at once get more done than one, four wait for their turn."""
        settings = DemoSettings(latency=0.01, workers=2)
        result = asyncio.run(parallel((1, 2, 4), settings=settings, calls=8, rounds=1))
        assert result.limits == (1, 2, 4)
        assert result.throughput(1) < 100, "a call takes 10 ms at least"
        assert result.throughput(4) < 200, "whatever the limit, two workers serve 200 a second at most"
        assert result.levels[4].p50[0] > 0.0175, (
            "four at once share two workers: each waits about as long as it is served"
        )

    @pytest.mark.slow
    def test_the_error_of_a_call_is_raised(self, monkeypatch):
        """A refused call is not a fast one."""
        monkeypatch.setattr("skilllab.experiments.batching.limits._FIRST", 10**8)
        with pytest.raises(HttpStatusError):
            asyncio.run(parallel((1,), calls=1, rounds=1))

    @pytest.mark.parametrize(
        ("change", "named"),
        [
            ({"limits": (0, 1)}, "limits"),
            ({"rounds": 0}, "rounds"),
            ({"calls": 0}, "calls"),
            ({"settings": DemoSettings(error_rate=0.1)}, "retries"),
        ],
    )
    def test_values_without_a_meaning_are_refused(self, change, named):
        """Before a server is started."""
        with pytest.raises(InvalidValueError, match=named):
            asyncio.run(parallel(**change))
