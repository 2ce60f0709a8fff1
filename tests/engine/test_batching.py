"""RequestBatcher: one call for many callers. process_batch and iter_batches: a few items at a time."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import resource
import sys
import threading
import tracemalloc
import weakref
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from skilllab.engine.batching import RequestBatcher
from skilllab.engine.bulk import iter_batches, process_batch
from skilllab.errors import BatchError, EngineClosedError, InvalidValueError, WrongLoopError
from skilllab.testing import FakeClock


class Timers:
    """A clock and the timers that hang on it; `advance` fires those that are due."""

    def __init__(self):
        self.clock = FakeClock()
        self.set = []

    def __call__(self, delay, callback):
        timer = _Timer(self.clock.now + delay, callback, self.set)
        self.set.append(timer)
        return timer

    def advance(self, seconds):
        self.clock.advance(seconds)
        for timer in [timer for timer in self.set if timer.due <= self.clock.now]:
            if timer in self.set:
                self.set.remove(timer)
                timer.callback()


class _Timer:
    def __init__(self, due, callback, timers):
        self.due, self.callback, self.timers = due, callback, timers

    def cancel(self):
        if self in self.timers:
            self.timers.remove(self)


class Target:
    """A batch function that notes its batches, and ends each when told; an answer is the item doubled."""

    def __init__(self, *, held=False, error=None):
        self.batches, self.cancelled, self.error = [], 0, error
        self.gate = asyncio.Event()
        if not held:
            self.gate.set()

    async def __call__(self, items):
        self.batches.append(items)
        try:
            await self.gate.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        if self.error is not None:
            raise self.error
        return [2 * item for item in items]


def batcher(target, timers, **options):
    return RequestBatcher(target, clock=timers.clock, timer=timers, **options)


def callers(batch, items):
    return [asyncio.create_task(batch.submit(item)) for item in items]


async def settle(turns=6):
    for _ in range(turns):
        await asyncio.sleep(0)


class TestWhenABatchGoes:
    """Size and time decide."""

    def test_a_full_batch_goes_at_once(self):
        """max_size items make a batch without any time passing; each caller gets the answer to its own item."""

        async def main():
            target, timers = Target(), Timers()
            answers = await asyncio.gather(*callers(batcher(target, timers, max_size=3), [1, 2, 3]))
            assert answers == [2, 4, 6]
            assert target.batches == [[1, 2, 3]]
            assert timers.set == [], "the timer of a batch that has gone is cancelled"

        asyncio.run(main())

    def test_an_unfinished_batch_goes_max_wait_after_its_first_item(self):
        """Later items do not postpone it: 0.1 s count from the first."""

        async def main():
            target, timers = Target(), Timers()
            batch = batcher(target, timers, max_size=10, max_wait=0.1)
            first = callers(batch, [1])
            await settle()
            timers.advance(0.0625)
            second = callers(batch, [2])
            await settle()
            timers.advance(0.03125)
            await settle()
            assert target.batches == []
            timers.advance(0.03125)
            assert await asyncio.gather(*first, *second) == [2, 4]
            assert target.batches == [[1, 2]]
            assert batch.statistics().longest_wait == 0.125

        asyncio.run(main())

    def test_the_next_batch_waits_from_its_own_first_item(self):
        """An item that comes after a batch has gone starts a wait of its own."""

        async def main():
            target, timers = Target(), Timers()
            batch = batcher(target, timers, max_size=2, max_wait=1.0)
            waiting = callers(batch, [1, 2, 3])
            await settle()
            assert target.batches == [[1, 2]]
            timers.advance(0.75)
            await settle()
            assert len(target.batches) == 1
            timers.advance(0.25)
            await asyncio.gather(*waiting)
            assert target.batches == [[1, 2], [3]]

        asyncio.run(main())

    def test_no_wait_takes_together_what_comes_in_one_turn(self):
        """With max_wait=0 and the loop's own timer, callers that start together share a batch."""

        async def main():
            target = Target()
            batch = RequestBatcher(target, max_size=100, max_wait=0)
            await asyncio.gather(*callers(batch, range(7)))
            await asyncio.gather(*callers(batch, range(2)))
            assert [len(items) for items in target.batches] == [7, 2]

        asyncio.run(main())

    def test_without_max_wait_only_size_and_flush_send(self):
        """max_wait=None sets no timer at all."""

        async def main():
            target, timers = Target(), Timers()
            batch = batcher(target, timers, max_size=5, max_wait=None)
            waiting = callers(batch, [1, 2])
            await settle()
            assert (timers.set, target.batches) == ([], [])
            batch.flush()
            assert await asyncio.gather(*waiting) == [2, 4]

        asyncio.run(main())

    def test_the_loops_own_timer_works(self):
        """Without a fake, a batch that is not full goes by itself."""

        async def main():
            return await asyncio.gather(*callers(RequestBatcher(Target(), max_wait=0.001), [4]))

        assert asyncio.run(main()) == [8]


class TestAtOnce:
    """max_concurrent bounds the batches under way."""

    def test_no_more_batches_run_than_allowed(self):
        """The second batch starts when the first has ended, and then takes all that came meanwhile."""

        async def main():
            target, timers = Target(held=True), Timers()
            batch = batcher(target, timers, max_size=2, max_concurrent=1)
            waiting = callers(batch, range(7))
            await settle()
            assert target.batches == [[0, 1]]
            assert batch.statistics()[4:] == (5, 1)
            target.gate.set()
            await settle(20)
            assert target.batches == [[0, 1], [2, 3], [4, 5]], "the last is not full, and not due"
            timers.advance(0.1)
            assert await asyncio.gather(*waiting) == [2 * item for item in range(7)]

        asyncio.run(main())

    def test_a_due_batch_fills_while_it_waits_for_room(self):
        """What comes while every place is taken joins the batch that could not go yet."""

        async def main():
            target, timers = Target(held=True), Timers()
            batch = batcher(target, timers, max_size=3, max_wait=0.1, max_concurrent=1)
            waiting = callers(batch, [1, 2, 3, 4])
            await settle()
            timers.advance(0.2)
            waiting += callers(batch, [5])
            await settle()
            target.gate.set()
            await asyncio.gather(*waiting)
            assert target.batches == [[1, 2, 3], [4, 5]]

        asyncio.run(main())


class TestFailures:
    """Whose error it is."""

    def test_an_error_as_answer_fails_its_item_alone(self):
        """The neighbours get their answers."""

        async def halves(items):
            return [item // 2 if item % 2 == 0 else ValueError(item) for item in items]

        async def main():
            batch = RequestBatcher(halves, max_size=3)
            return await asyncio.gather(*callers(batch, [2, 3, 4]), return_exceptions=True)

        one, error, two = asyncio.run(main())
        assert (one, two) == (1, 2)
        assert isinstance(error, ValueError)

    def test_a_raised_error_fails_every_item(self):
        """Each caller of the batch gets it, the next batch is not touched."""

        async def main():
            target = Target(error=OSError("away"))
            batch = RequestBatcher(target, max_size=2)
            outcomes = await asyncio.gather(*callers(batch, [1, 2]), return_exceptions=True)
            target.error = None
            return outcomes, await asyncio.gather(*callers(batch, [3, 4]))

        outcomes, later = asyncio.run(main())
        assert [repr(outcome) for outcome in outcomes] == ["OSError('away')"] * 2
        assert later == [6, 8]

    @pytest.mark.parametrize(
        ("answers", "named"),
        [
            ([1], "1 answers for 2 items"),
            ([1, 2, 3], "3 answers for 2 items"),
            (None, "NoneType for 2 items"),
            ({1: 1, 2: 2}, "dict for 2 items"),
            ("ab", "str for 2 items"),
        ],
    )
    def test_answers_that_do_not_match_fail_every_item(self, answers, named):
        """Too few, too many, or no list at all: a BatchError that says how many."""

        async def wrong(items):
            return answers

        async def main():
            return await asyncio.gather(*callers(RequestBatcher(wrong, max_size=2), [1, 2]), return_exceptions=True)

        for outcome in asyncio.run(main()):
            assert isinstance(outcome, BatchError)
            assert named in str(outcome)

    @pytest.mark.parametrize("stop", [asyncio.CancelledError(), SystemExit(3)])
    def test_a_batch_function_cannot_cancel_or_end_its_callers(self, stop):
        """What would look like the caller's own cancellation, or end the program, comes as a BatchError with a cause."""

        async def main():
            batch = RequestBatcher(Target(error=stop), max_size=2)
            return await asyncio.gather(*callers(batch, [1, 2]), return_exceptions=True)

        for outcome in asyncio.run(main()):
            assert isinstance(outcome, BatchError)
            assert outcome.__cause__ is stop

    @pytest.mark.parametrize("stop", [asyncio.CancelledError(), StopIteration(1)])
    def test_an_answer_that_no_future_can_carry_is_an_error(self, stop):
        """gather(return_exceptions=True) answers with a CancelledError: that item alone gets a BatchError."""

        async def mixed(items):
            return [stop, 5]

        async def main():
            batch = RequestBatcher(mixed, max_size=2)
            return await asyncio.gather(*callers(batch, [1, 2]), return_exceptions=True)

        failed, answered = asyncio.run(main())
        assert isinstance(failed, BatchError)
        assert answered == 5

    def test_an_error_that_nobody_reads_is_not_reported(self):
        """A caller that is thrown away before it hears of its error leaves no complaint with the loop."""

        async def main():
            complaints = []
            asyncio.get_running_loop().set_exception_handler(lambda _, context: complaints.append(context))
            caller = RequestBatcher(Target(error=ValueError("lost")), max_size=1).submit(1)
            caller.send(None)
            await settle()
            caller.close()
            del caller
            gc.collect()
            return complaints

        assert asyncio.run(main()) == []

    def test_an_error_keeps_nothing_alive(self):
        """When the last caller forgets its error, the error and the items of its batch are freed without the collector."""

        class Thing:
            pass

        async def refuse(items):
            raise ValueError("no")

        async def main():
            batch, thing = RequestBatcher(refuse, max_size=1), Thing()
            watched = weakref.ref(thing)
            with pytest.raises(ValueError, match="no") as caught:
                await batch.submit(thing)
            del caught, thing
            await settle()
            return watched()

        gc.collect()
        gc.disable()
        try:
            assert asyncio.run(main()) is None
        finally:
            gc.enable()


class TestCancellation:
    """Who leaves, and who stays."""

    def test_a_cancelled_caller_is_taken_out_before_its_batch_goes(self):
        """Its item is never sent, its place is free again, and the others are served."""

        async def main():
            target, timers = Target(), Timers()
            batch = batcher(target, timers, max_size=3)
            waiting = callers(batch, [1, 2])
            await settle()
            waiting[0].cancel()
            await settle()
            waiting += callers(batch, [3])
            await settle()
            assert target.batches == [], "two wait, and a batch takes three"
            waiting += callers(batch, [4])
            assert await asyncio.gather(*waiting[1:]) == [4, 6, 8]
            assert target.batches == [[2, 3, 4]]

        asyncio.run(main())

    def test_a_cancellation_in_the_same_turn_counts(self):
        """A caller cancelled an instant before its batch goes is not in it, though it has not run yet."""

        async def main():
            target = Target()
            batch = RequestBatcher(target, max_size=10)
            waiting = callers(batch, [1, 2])
            await settle()
            waiting[0].cancel()
            batch.flush()
            await asyncio.wait(waiting)
            assert target.batches == [[2]]
            assert batch.statistics()[:2] == (1, 1)

        asyncio.run(main())

    def test_when_all_wait_no_more_there_is_no_batch(self):
        """The timer of an empty batch is cancelled."""

        async def main():
            target, timers = Target(), Timers()
            waiting = callers(batcher(target, timers), [1, 2])
            await settle()
            for caller in waiting:
                caller.cancel()
            await asyncio.wait(waiting)
            assert timers.set == []
            timers.advance(1)
            await settle()
            assert target.batches == []

        asyncio.run(main())

    def test_a_running_batch_goes_on_for_those_who_stay(self):
        """One of three callers leaves; two are served."""

        async def main():
            target = Target(held=True)
            waiting = callers(RequestBatcher(target, max_size=3), [1, 2, 3])
            await settle()
            waiting[0].cancel()
            await settle()
            target.gate.set()
            assert await asyncio.gather(*waiting[1:]) == [4, 6]
            assert target.cancelled == 0

        asyncio.run(main())

    def test_a_running_batch_without_callers_is_cancelled(self):
        """Only the last to leave cancels it."""

        async def main():
            target = Target(held=True)
            batch = RequestBatcher(target, max_size=2)
            waiting = callers(batch, [1, 2])
            await settle()
            waiting[1].cancel()
            await settle()
            assert target.cancelled == 0
            waiting[0].cancel()
            await settle()
            assert target.cancelled == 1
            assert batch.statistics().running == 0

        asyncio.run(main())


class TestClosing:
    """flush, aclose, `async with`."""

    def test_closing_sends_waits_and_then_refuses(self):
        """aclose sends what waits, returns when every batch has ended, and a later submit is refused."""

        async def main():
            target = Target(held=True)
            batch = RequestBatcher(target, max_size=2, max_wait=None, max_concurrent=1)
            waiting = callers(batch, [1, 2, 3])
            await settle()
            closing = asyncio.create_task(batch.aclose())
            await settle()
            assert not closing.done()
            with pytest.raises(EngineClosedError, match="closed"):
                await batch.submit(4)
            target.gate.set()
            await closing
            assert [caller.result() for caller in waiting] == [2, 4, 6]
            assert batch.statistics()[4:] == (0, 0)
            await batch.aclose()

        asyncio.run(main())

    def test_a_block_closes_at_its_end(self):
        """`async with` serves the callers it leaves behind."""

        async def main():
            async with RequestBatcher(Target(), max_wait=None) as batch:
                waiting = callers(batch, [1])
                await settle()
            return waiting[0].result()

        assert asyncio.run(main()) == 2

    def test_flush_sends_no_later_item(self):
        """What is submitted after the flush waits as usual, also when the flushed items had to wait for room."""

        async def main():
            target, timers = Target(held=True), Timers()
            batch = batcher(target, timers, max_size=2, max_wait=5, max_concurrent=1)
            waiting = callers(batch, [1, 2, 3])
            await settle()
            batch.flush()
            waiting += callers(batch, [4, 5])
            await settle()
            target.gate.set()
            await settle(20)
            assert target.batches == [[1, 2], [3, 4]], "5 came after the flush, and its batch is not full"
            timers.advance(5)
            await asyncio.gather(*waiting)

        asyncio.run(main())

    def test_another_loop_is_refused(self):
        """A batcher belongs to the loop that first used it; submit, flush and aclose say so elsewhere."""
        batch = RequestBatcher(Target(), max_size=1)
        assert asyncio.run(batch.submit(1)) == 2
        for use in (lambda: batch.submit(1), batch.aclose):
            with pytest.raises(WrongLoopError):
                asyncio.run(use())
        with pytest.raises(WrongLoopError, match="outside"):
            batch.flush()


class TestFunctionsAndReports:
    """What a batch function may be, what a caller and a reader learn."""

    def test_a_plain_function_runs_in_a_thread(self):
        """The loop's thread never runs it, and a StopIteration in it hangs nobody."""
        threads = []

        def plain(items):
            threads.append(threading.get_ident())
            if items == [0]:
                raise StopIteration
            return items

        async def main():
            batch = RequestBatcher(plain, max_size=1)
            with pytest.raises(RuntimeError, match="StopIteration"):
                await batch.submit(0)
            return await batch.submit(1)

        assert asyncio.run(main()) == 1
        assert threading.get_ident() not in threads

    def test_a_plain_function_may_return_a_coroutine(self):
        """A wrapper around an async def is awaited on the loop."""

        async def main():
            target = Target()
            return await RequestBatcher(lambda items: target([*items]), max_size=1).submit(21)

        assert asyncio.run(main()) == 42

    def test_started_tells_the_seconds_waited(self):
        """Each caller hears its own wait, when the batch starts and not before."""

        async def main():
            heard, timers = {}, Timers()
            batch = batcher(Target(), timers, max_wait=1.0)
            waiting = [asyncio.create_task(batch.submit(1, started=lambda s: heard.update(first=s)))]
            await settle()
            timers.advance(0.75)
            waiting += [asyncio.create_task(batch.submit(2, started=lambda s: heard.update(second=s)))]
            await settle()
            assert heard == {}
            timers.advance(0.25)
            assert heard == {"first": 1.0, "second": 0.25}
            await asyncio.gather(*waiting)

        asyncio.run(main())

    def test_a_hook_that_raises_fails_its_caller_alone(self):
        """The item of that caller is not sent."""

        def broken(seconds):
            raise KeyError("hook")

        async def main():
            target = Target()
            batch = RequestBatcher(target, max_size=2)
            outcomes = await asyncio.gather(batch.submit(1, started=broken), batch.submit(2), return_exceptions=True)
            assert isinstance(outcomes[0], KeyError)
            assert (outcomes[1], target.batches) == (4, [[2]])

        asyncio.run(main())

    def test_a_batch_runs_in_the_batchers_context(self):
        """It sees the context variables of where the batcher was made, not those of whichever caller filled it."""
        variable = contextvars.ContextVar("variable", default="none")

        async def read(items):
            return [variable.get()] * len(items)

        async def main():
            batch = RequestBatcher(read, max_size=1)
            variable.set("a caller's")
            return await batch.submit(1)

        assert asyncio.run(main()) == "none"

    def test_statistics_count(self):
        """Batches, items, their mean, and nothing before the first batch."""

        async def main():
            batch = RequestBatcher(Target(), max_size=2, max_wait=0)
            assert batch.statistics() == (0, 0, None, 0.0, 0, 0)
            await asyncio.gather(*callers(batch, range(3)))
            return batch.statistics()

        assert asyncio.run(main())[:3] == (2, 3, 1.5)

    @pytest.mark.parametrize(
        "options",
        [{"max_size": 0}, {"max_size": 2.0}, {"max_wait": -1}, {"max_wait": float("nan")}, {"max_concurrent": 0}],
    )
    def test_values_without_a_meaning_are_refused(self, options):
        """The message names the argument and its value."""
        ((name, value),) = options.items()
        with pytest.raises(InvalidValueError, match=name) as caught:
            RequestBatcher(Target(), **options)
        assert repr(value) in str(caught.value)
        with pytest.raises(InvalidValueError, match="function"):
            RequestBatcher("text")


STEPS = st.lists(
    st.one_of(
        st.just(("submit", 0)),
        st.tuples(st.just("cancel"), st.integers(0, 30)),
        st.tuples(st.just("advance"), st.sampled_from([0.25, 0.5, 1.0])),
        st.just(("flush", 0)),
        st.tuples(st.just("finish"), st.integers(0, 5)),
        st.just(("settle", 0)),
    ),
    max_size=60,
)


@given(STEPS, st.integers(1, 4), st.sampled_from([None, 1, 2]))
def test_whatever_happens_every_item_is_sent_once_and_answered(steps, max_size, max_concurrent):
    """Submissions, cancellations, time and ends of batches in any order: every caller that stays gets its own answer.

    No item is sent twice or out of order, no batch is empty or too large, no more run at once than may, none that was
    cancelled before its batch is in it, and with room no item waits longer than max_wait.
    """
    asyncio.run(_play(steps, max_size, max_concurrent))


async def _play(steps, max_size, max_concurrent):
    timers, gates, sent, waits, early = Timers(), [], [], [], set()

    async def answer(items):
        assert 1 <= len(items) <= max_size
        gate = asyncio.Event()
        gates.append(gate)
        sent.extend(items)
        assert max_concurrent is None or sum(not gate.is_set() for gate in gates) <= max_concurrent
        try:
            await gate.wait()
        finally:
            gate.set()
        return [2 * item for item in items]

    batch = batcher(answer, timers, max_size=max_size, max_wait=1.0, max_concurrent=max_concurrent)
    waiting = []
    for step, value in steps:
        if step == "submit":
            waiting.append(asyncio.create_task(batch.submit(len(waiting), started=waits.append)))
            await asyncio.sleep(0)
        elif step == "cancel" and value < len(waiting):
            await settle()
            if value not in sent and not waiting[value].done():
                early.add(value)
            waiting[value].cancel()
        elif step == "advance":
            timers.advance(value)
        elif step == "flush":
            batch.flush()
        elif step == "finish" and value < len(gates):
            gates[value].set()
        elif step == "settle":
            await settle()
    closing = asyncio.create_task(batch.aclose())
    while not closing.done():
        for gate in gates:
            gate.set()
        await asyncio.sleep(0)
    assert sent == sorted(set(sent))
    assert not early & set(sent)
    assert max_concurrent is not None or all(seconds <= 1.75 for seconds in waits)
    for item, caller in enumerate(waiting):
        assert caller.cancelled() or caller.result() == 2 * item
    assert batch.statistics()[4:] == (0, 0)


async def double(item):
    await asyncio.sleep(0)
    return 2 * item


class TestProcessBatch:
    """Items in portions."""

    @pytest.mark.parametrize("kind", ["list", "generator", "async generator"])
    def test_results_come_in_order(self, kind):
        """Of whatever yields the items, the shorter last batch included."""

        async def stream():
            for item in range(25):
                yield item

        items = {"list": list(range(25)), "generator": iter(range(25)), "async generator": stream()}[kind]
        assert asyncio.run(process_batch(items, double, pause=0)) == [2 * item for item in range(25)]

    @given(st.lists(st.integers(), max_size=30), st.integers(1, 12))
    def test_it_is_a_map(self, items, size):
        """For any items and any batch size the results are those of a plain loop."""
        assert asyncio.run(process_batch(items, double, size, 0)) == [2 * item for item in items]

    def test_a_plain_function_runs_in_threads(self):
        """The loop's thread runs none of them."""

        async def main():
            return await process_batch(range(5), lambda _: threading.get_ident(), pause=0)

        assert threading.get_ident() not in asyncio.run(main())

    def test_a_batch_runs_at_once_and_batches_one_after_another(self):
        """All items of a batch are under way together, and never one of the next."""

        async def main():
            running, most = set(), []

            async def work(item):
                running.add(item)
                await settle(2)
                most.append(frozenset(running))
                running.discard(item)

            await process_batch(range(7), work, 3, 0)
            assert max(most, key=len) == {0, 1, 2}
            assert all(len({item // 3 for item in together}) == 1 for together in most)

        asyncio.run(main())

    def test_it_rests_between_batches_only(self):
        """Three batches, two pauses: none before the first, none after the last, even when the last one is full."""
        slept = []

        async def sleep(seconds):
            slept.append(seconds)

        asyncio.run(process_batch(range(30), double, 10, 0.25, sleep=sleep))
        assert slept == [0.25, 0.25]

    def test_progress_is_told_after_each_batch(self):
        """Items done, and how many there are where that can be known."""
        told = []
        asyncio.run(process_batch(range(5), double, 2, 0, on_progress=lambda *now: told.append(now)))
        asyncio.run(process_batch(iter(range(3)), double, 2, 0, on_progress=lambda *now: told.append(now)))
        assert told == [(2, 5), (4, 5), (5, 5), (2, None), (3, None)]

    def test_items_are_read_a_batch_at_a_time(self):
        """When the third batch begins, nothing beyond it has been taken from the iterator."""
        taken = []

        def source():
            for item in range(1000):
                taken.append(item)
                yield item

        async def main():
            async for _ in iter_batches(source(), double, 4, 0):
                if len(taken) >= 12:
                    break

        asyncio.run(main())
        assert len(taken) == 12

    def test_the_first_failure_ends_its_batch_and_names_the_item(self):
        """The others of the batch are cancelled, later batches never begin, the error is the item's own, with a note."""
        begun, cancelled = [], []

        async def work(item):
            begun.append(item)
            if item == 4:
                await asyncio.sleep(0)
                raise ValueError("bad")
            try:
                if item > 2:
                    await asyncio.Event().wait()
            except asyncio.CancelledError:
                cancelled.append(item)
                raise

        with pytest.raises(ValueError, match="bad") as caught:
            asyncio.run(process_batch(range(9), work, 3, 0))
        assert caught.value.__notes__ == ["raised by item 4, counted from 0"]
        assert (begun, sorted(cancelled)) == ([0, 1, 2, 3, 4, 5], [3, 5])

    def test_errors_may_stand_in_the_place_of_results(self):
        """With return_exceptions nothing is cancelled, and an item cancelled on its own is a BatchError."""

        async def work(item):
            if item == 1:
                raise ValueError(item)
            if item == 2:
                raise asyncio.CancelledError
            return item

        one, two, three, four = asyncio.run(process_batch(range(4), work, 3, 0, return_exceptions=True))
        assert (one, four) == (0, 3)
        assert isinstance(two, ValueError)
        assert isinstance(three, BatchError)
        with pytest.raises(BatchError, match="item 2 was cancelled"):
            asyncio.run(process_batch([0, 0, 2], work, 3, 0))

    def test_cancellation_leaves_no_task(self):
        """A cancelled process_batch has cancelled its items and waited for their clean-up when it ends."""

        async def main():
            ended = []

            async def work(item):
                try:
                    await asyncio.Event().wait()
                finally:
                    await asyncio.sleep(0)
                    ended.append(item)

            task = asyncio.create_task(process_batch(range(9), work, 3, 0))
            await settle()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert sorted(ended) == [0, 1, 2]
            assert asyncio.all_tasks() == {asyncio.current_task()}

        asyncio.run(main())

    @pytest.mark.parametrize(
        ("change", "named"),
        [({"batch_size": 0}, "batch_size=0"), ({"pause": -1}, "pause=-1"), ({"items": 5}, "items=5")],
    )
    def test_values_without_a_meaning_are_refused(self, change, named):
        """The message names the argument and its value; nothing has run."""
        with pytest.raises(InvalidValueError, match=named):
            asyncio.run(process_batch(**{"items": [1], "fn": double, **change}))


class TestMemory:
    """What is kept, and what goes back."""

    SIZE, COUNT, BATCH = 20_000, 60, 5

    async def make(self, item):
        return bytearray(self.SIZE)

    async def make_knot(self, item):
        knot = [bytearray(self.SIZE)]
        knot.append(knot)
        return knot

    def peak(self, make, count=COUNT, **options):
        """The most bytes traced while all batches are looked at and dropped."""

        async def main():
            async for results in iter_batches(range(count), make, self.BATCH, 0, **options):
                assert len(results) == self.BATCH

        gc.collect()
        gc.disable()
        tracemalloc.start()
        try:
            asyncio.run(main())
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
            gc.enable()

    def test_the_peak_is_two_batches_not_the_whole(self):
        """Twelve batches of results pass; what is in memory at once is the caller's and the one that is being made."""
        assert self.peak(self.make) < 2.5 * self.BATCH * self.SIZE

    def test_results_that_hold_themselves_need_the_collector(self):
        """Only collect=True bounds them: without it (and without Python's own collector) all are there at the end."""
        assert self.peak(self.make_knot, 20) > 0.9 * 20 * self.SIZE
        assert self.peak(self.make_knot, 20, collect=True) < 2.5 * self.BATCH * self.SIZE

    def test_the_source_is_not_held(self):
        """An item is freed when its batch is done, if nobody else keeps it."""

        class Thing:
            pass

        async def main():
            alive = weakref.WeakSet()

            def things():
                for _ in range(12):
                    thing = Thing()
                    alive.add(thing)
                    yield thing

            async def look(thing):
                assert len(alive) <= 4, "a batch, and the one the generator still has in hand"

            async for _ in iter_batches(things(), look, 3, 0):
                assert len(alive) <= 1

        asyncio.run(main())

    @pytest.mark.skipif(sys.platform != "linux", reason="resident memory is read from /proc, malloc_trim is glibc's")
    def test_freed_memory_goes_back_in_the_pause(self):
        """Small blocks that the C library would keep are back with the system when the pause begins."""
        resident, pins = [], []

        async def blocks(item):
            made = [bytes(2000) for _ in range(2000)]
            pins.append(bytes(2000))  # one that stays, above those that go: the library gives back its top unasked
            return made

        def pages():
            return int(Path("/proc/self/statm").read_text().split()[1])

        async def sleep(seconds):
            resident.append(pages())

        async def main():
            async for results in iter_batches(range(10), blocks, 5, 0.01, sleep=sleep):
                resident.append(pages())
                del results

        asyncio.run(main())
        during, between, _ = resident
        assert (during - between) * resource.getpagesize() > 10 * 2**20, "of 19 MiB in small blocks"
