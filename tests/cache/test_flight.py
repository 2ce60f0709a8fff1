"""single_flight: one call for many, whoever is cancelled, whatever fails."""

from __future__ import annotations

import asyncio
import gc
import random
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from skilllab.cache import single_flight
from skilllab.errors import InvalidValueError, SingleFlightError


class Target:
    """An async function that counts its calls and ends when told."""

    def __init__(self, error: Exception | None = None):
        self.calls = self.cancelled = 0
        self.gate = asyncio.Event()
        self.error = error
        self.shared = single_flight(self.call)

    async def call(self, key):
        self.calls += 1
        try:
            await self.gate.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        if self.error:
            raise self.error
        return f"{key}:{self.calls}"


async def settle(times=5):
    for _ in range(times):
        await asyncio.sleep(0)


class TestTasks:
    """Callers in one event loop."""

    async def burst(self, target, count=100, key="k"):
        callers = [asyncio.create_task(target.shared(key)) for _ in range(count)]
        await settle()
        return callers

    def test_a_hundred_callers_make_one_call(self):
        """All get the one result, and the next caller makes a new call: nothing is kept."""

        async def main():
            target = Target()
            callers = await self.burst(target)
            assert target.shared.in_flight() == 1
            target.gate.set()
            assert set(await asyncio.gather(*callers)) == {"k:1"}
            assert target.shared.in_flight() == 0
            assert await target.shared("k") == "k:2"

        asyncio.run(main())

    def test_different_arguments_are_different_calls_and_key_order_is_not(self):
        """The canonical key of the arguments decides, keyword order and 1 against True included."""

        async def main():
            calls = []

            @single_flight
            async def shared(*args, **kwargs):
                calls.append((args, kwargs))
                await asyncio.sleep(0)

            await asyncio.gather(
                shared(a=1, b=2),
                shared(b=2, a=1),
                shared(a=True, b=2),
                shared(1),
                shared({"x": [1]}),
                shared({"x": [1]}),
            )
            assert len(calls) == 4

        asyncio.run(main())

    @pytest.mark.parametrize("victim", [0, 1, 9])
    def test_when_one_is_cancelled_the_others_are_served(self, victim):
        """The first caller owns nothing: its cancellation, like anyone's, is its own."""

        async def main():
            target = Target()
            callers = await self.burst(target, 10)
            callers[victim].cancel()
            await settle()
            target.gate.set()
            results = await asyncio.gather(*callers, return_exceptions=True)
            assert isinstance(results.pop(victim), asyncio.CancelledError)
            assert results == ["k:1"] * 9
            assert target.cancelled == 0

        asyncio.run(main())

    def test_when_all_are_cancelled_the_call_is(self):
        """A call for nobody ends, and the next caller starts afresh."""

        async def main():
            target = Target()
            callers = await self.burst(target, 10)
            for caller in callers:
                caller.cancel()
            await asyncio.gather(*callers, return_exceptions=True)
            await settle()
            assert (target.calls, target.cancelled, target.shared.in_flight()) == (1, 1, 0)
            target.gate.set()
            assert await target.shared("k") == "k:2"

        asyncio.run(main())

    def test_a_caller_that_comes_while_the_call_is_being_cancelled_gets_a_call_of_its_own(self):
        """It is not handed the cancellation of others."""

        async def main():
            target = Target()
            (first,) = await self.burst(target, 1)
            first.cancel()
            await asyncio.sleep(0)
            late = asyncio.create_task(target.shared("k"))
            await settle()
            target.gate.set()
            assert await late == "k:2"

        asyncio.run(main())

    def test_an_error_reaches_every_caller_and_is_not_kept(self):
        """All ten see it, none is left unretrieved, and the next call may succeed."""

        async def main():
            unretrieved = []
            asyncio.get_running_loop().set_exception_handler(lambda loop, context: unretrieved.append(context))
            target = Target(ValueError("no"))
            target.gate.set()
            results = await asyncio.gather(*await self.burst(target, 10), return_exceptions=True)
            assert [str(result) for result in results] == ["no"] * 10
            target.error = None
            assert await target.shared("k") == "k:2"
            del results
            gc.collect()
            assert unretrieved == []

        asyncio.run(main())

    def test_a_function_that_waits_for_itself_is_told(self):
        """Recursion with the same arguments raises SingleFlightError instead of hanging."""

        @single_flight
        async def endless(key):
            return await endless(key)

        with pytest.raises(SingleFlightError, match="calls itself"):
            asyncio.run(asyncio.wait_for(endless("k"), 5))

    def test_event_loops_do_not_share(self):
        """The same key in two loops is two calls."""
        calls = []

        @single_flight
        async def shared(key):
            calls.append(key)
            await asyncio.sleep(0)

        asyncio.run(shared("k"))
        asyncio.run(shared("k"))
        assert calls == ["k", "k"]

    @given(st.integers(0, 2**32))
    def test_random_schedules_of_cancellation(self, seed):
        """Whoever is cancelled when: the rest get the result of one call, calls without callers end, nothing is left."""
        chance = random.Random(seed)

        async def main():
            running = peak = 0
            release = asyncio.Event()

            @single_flight
            async def shared(key):
                nonlocal running, peak
                running += 1
                peak = max(peak, running)
                try:
                    await release.wait()
                    return key
                finally:
                    running -= 1

            callers, doomed = [], set()
            for _ in range(chance.randint(1, 12)):
                if callers and chance.random() < 0.4:
                    doomed.add(victim := chance.choice(callers))
                    victim.cancel()
                else:
                    callers.append(asyncio.create_task(shared("k")))
                await settle(chance.randint(0, 4))
            release.set()
            results = await asyncio.gather(*callers, return_exceptions=True)
            for caller, result in zip(callers, results, strict=True):
                assert isinstance(result, asyncio.CancelledError) if caller in doomed else result == "k"
            await settle()
            assert (running, shared.in_flight()) == (0, 0)
            assert len(asyncio.all_tasks()) == 1

        asyncio.run(main())


class TestThreads:
    """Callers in threads."""

    def test_fifty_threads_make_one_call(self):
        """The first calls, the others wait and get its result."""
        entered, release, calls, results = threading.Event(), threading.Event(), [], []

        @single_flight
        def shared(key):
            calls.append(key)
            entered.set()
            release.wait(10)
            return object()

        threads = [threading.Thread(target=lambda: results.append(shared("k"))) for _ in range(50)]
        threads[0].start()
        entered.wait(10)
        for thread in threads[1:]:
            thread.start()
        release.set()
        for thread in threads:
            thread.join(10)
        late = 50 - len([result for result in results if result is results[0]])
        assert len(results) == 50
        assert len(calls) == 1 + (late > 0)
        assert shared.in_flight() == 0

    def test_an_error_reaches_every_thread_and_is_not_kept(self):
        """Waiting threads see the first one's error; later callers call again."""
        entered, release, seen, fail = threading.Event(), threading.Event(), [], [True]

        @single_flight
        def shared(key):
            entered.set()
            release.wait(10)
            if fail[0]:
                raise ValueError("no")
            return "yes"

        def call():
            try:
                shared("k")
            except ValueError as error:
                seen.append(str(error))

        first, second = threading.Thread(target=call), threading.Thread(target=call)
        first.start()
        entered.wait(10)
        second.start()
        release.set()
        first.join(10), second.join(10)
        assert seen == ["no", "no"]
        fail[0] = False
        assert shared("k") == "yes"

    def test_a_function_that_waits_for_itself_is_told(self):
        """Recursion with the same arguments raises SingleFlightError; with others it is a call like any."""

        @single_flight
        def factorial(number, again=False):
            return 1 if number == 0 else number * factorial(number if again else number - 1, again)

        assert factorial(5) == 120
        with pytest.raises(SingleFlightError, match="factorial calls itself"):
            factorial(5, True)


def test_a_key_of_ones_own():
    """key= decides which calls are the same."""

    async def main():
        calls = []

        @single_flight(key=lambda user, **rest: user)
        async def shared(user, trace_id):
            calls.append(user)
            await asyncio.sleep(0)

        await asyncio.gather(shared("a", trace_id=1), shared("a", trace_id=2))
        assert calls == ["a"]

    asyncio.run(main())


def test_generators_are_refused():
    """A stream cannot be shared between callers."""
    with pytest.raises(InvalidValueError, match="generator"):

        @single_flight
        async def stream():
            yield 1
