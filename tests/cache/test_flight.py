"""single_flight: one call for many, whoever is cancelled, whatever fails."""

from __future__ import annotations

import asyncio
import concurrent.futures
import functools
import gc
import random
import threading

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from skilllab.cache import flight, single_flight
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


class ToldWaits(list):
    """The flights that a flight waits for; releases a semaphore for each wait that begins."""

    def __init__(self, began):
        super().__init__()
        self.began = began

    def append(self, awaited):
        super().append(awaited)
        self.began.release()


def tell_of_waits(began):
    """Called inside a flight: from now on `began` is released whenever it begins to wait for another."""
    flight._inside.get()[-1].awaits = ToldWaits(began)


def count_to(number, semaphore):
    for _ in range(number):
        assert semaphore.acquire(timeout=5)


def both_ways(test):
    """Runs a test with a `def` and with an `async def` that do the same: `share` decorates, `run` calls."""

    def plain(function, **options):
        return single_flight(function, **options)

    def coroutine(function, **options):
        @functools.wraps(function)
        async def call(*args, **kwargs):
            return function(*args, **kwargs)

        return single_flight(call, **options)

    async def started(shared, args, kwargs):
        return await shared(*args, **kwargs)

    ways = [
        (plain, lambda shared, *args, **kwargs: shared(*args, **kwargs)),
        (coroutine, lambda shared, *args, **kwargs: asyncio.run(started(shared, args, kwargs))),
    ]
    return pytest.mark.parametrize(("share", "run"), ways, ids=["def", "async def"])(test)


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

    @pytest.mark.parametrize("left_by", [SystemExit, KeyboardInterrupt, GeneratorExit, asyncio.CancelledError])
    def test_a_thread_that_leaves_by_what_is_no_exception_leaves_alone(self, left_by):
        """It alone raises; one of the twenty that waited calls again, and all twenty are served by that call."""
        entered, waits = threading.Event(), threading.Semaphore(0)
        calls, ended = [], []

        @single_flight
        def shared(key):
            calls.append(key)
            if len(calls) == 1:
                entered.set()
            count_to(20, waits)  # all others wait for this call, or it is one of them
            if len(calls) == 1:
                raise left_by
            return "served"

        def call(number):
            try:
                ended.append(waiter(number) if number else shared("k"))
            except BaseException as error:  # noqa: BLE001 - what is no Exception is what is tested
                ended.append(type(error).__name__)

        @single_flight
        def waiter(number):
            tell_of_waits(waits)
            return shared("k")

        threads = [threading.Thread(target=call, args=(number,), daemon=True) for number in range(21)]
        threads[0].start()
        entered.wait(10)
        for thread in threads[1:]:
            thread.start()
        for thread in threads:
            thread.join(10)
        assert sorted(ended) == sorted([left_by.__name__, *["served"] * 20])
        assert len(calls) == 2
        assert shared.in_flight() == 0

    def test_a_cancellation_that_the_function_raises_as_an_error_is_shared(self):
        """concurrent.futures.CancelledError is an Exception: the one that waits gets it, and nobody calls again."""
        entered, waits, calls, seen = threading.Event(), threading.Semaphore(0), [], []

        @single_flight
        def shared():
            calls.append(1)
            entered.set()
            count_to(1, waits)
            raise concurrent.futures.CancelledError

        @single_flight
        def waiter():
            tell_of_waits(waits)
            return shared()

        def call(function):
            try:
                function()
            except concurrent.futures.CancelledError:
                seen.append(function)

        first, second = (threading.Thread(target=call, args=(each,), daemon=True) for each in (shared, waiter))
        first.start()
        entered.wait(10)
        second.start()
        first.join(10), second.join(10)
        assert set(seen) == {shared, waiter}
        assert calls == [1]

    def test_a_thread_that_is_done_is_inside_of_nothing(self):
        """Neither a result nor an error leaves a flight behind in the thread."""

        @single_flight
        def shared(fail):
            if fail:
                raise ValueError("no")
            return len(flight._inside.get())

        assert shared(False) == 1
        with pytest.raises(ValueError, match="no"):
            shared(True)
        assert flight._inside.get() == ()


graphs = st.integers(2, 5).flatmap(
    lambda count: st.lists(st.lists(st.integers(0, count - 1), max_size=2, unique=True), min_size=count, max_size=count)
)


def ends_in_a_circle(graph, start):
    """Whether a walk from `start` can go on for ever."""
    alive = set(range(len(graph)))
    while doomed := {node for node in alive if not alive.intersection(graph[node])}:
        alive -= doomed
    return start in alive


def expected(graph):
    return ["circle" if ends_in_a_circle(graph, node) else node for node in range(len(graph))]


class TestCircles:
    """Flights that wait for each other."""

    @pytest.mark.parametrize("length", [1, 2, 3, 7])
    def test_a_chain_that_closes_is_told(self, length):
        """A call that comes back to itself through any number of others raises, and names both ends."""
        names = [f"load_{number}" for number in range(length)]

        def link(number):
            async def load():
                return await loads[(number + 1) % length]()

            load.__name__ = names[number]
            return single_flight(load)

        loads = [link(number) for number in range(length)]
        words = "load_0 calls itself" + (f".* through load_{length - 1}," if length > 1 else "")
        with pytest.raises(SingleFlightError, match=words):
            asyncio.run(asyncio.wait_for(loads[0](), 5))
        assert all(load.in_flight() == 0 for load in loads)

    def test_two_tasks_that_start_apart_and_then_wait_for_each_other_are_told(self):
        """Each joins the other's flight, which is under way already: both end with the error, none hangs."""

        async def main():
            started = {"a": asyncio.Event(), "b": asyncio.Event()}

            @single_flight
            async def load(name, other):
                started[name].set()
                await started[other].wait()
                return await load(other, name)

            calls = asyncio.gather(load("a", "b"), load("b", "a"), load("a", "b"), return_exceptions=True)
            assert {type(error) for error in await asyncio.wait_for(calls, 5)} == {SingleFlightError}
            assert load.in_flight() == 0

        asyncio.run(main())

    def test_two_threads_that_start_apart_and_then_wait_for_each_other_are_told(self):
        """The one that would close the circle raises, and the other gets its error."""
        started, seen = {"a": threading.Event(), "b": threading.Event()}, []

        @single_flight
        def load(name, other):
            started[name].set()
            started[other].wait(5)
            return load(other, name)

        def call(*names):
            try:
                load(*names)
            except SingleFlightError:
                seen.append(names)

        threads = [threading.Thread(target=call, args=names, daemon=True) for names in (("a", "b"), ("b", "a"))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(5)
        assert sorted(seen) == [("a", "b"), ("b", "a")]

    def test_a_circle_through_a_call_that_a_call_made_is_told(self):
        """first calls second, which waits for third in another thread, which would wait for first: third is told."""
        waits, started, seen = threading.Semaphore(0), threading.Event(), []

        @single_flight
        def first():
            return second()

        @single_flight
        def second():
            tell_of_waits(waits)
            started.wait(5)
            return third()

        @single_flight
        def third():
            started.set()
            count_to(1, waits)
            return first()

        def call(function):
            try:
                function()
            except SingleFlightError as error:
                seen.append(str(error))

        threads = [threading.Thread(target=call, args=(each,), daemon=True) for each in (first, third)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(5)
        assert len(seen) == 2
        assert all("first calls itself with the same arguments, through third," in error for error in seen)

    def test_a_circle_through_a_thread_and_back_is_told(self):
        """A coroutine waits in to_thread for a function that waits on the loop for the coroutine."""

        async def main():
            loop = asyncio.get_running_loop()

            @single_flight
            async def outer():
                return await asyncio.to_thread(inner)

            @single_flight
            def inner():
                return asyncio.run_coroutine_threadsafe(outer(), loop).result(5)

            with pytest.raises(SingleFlightError, match=r"outer calls itself .* through inner"):
                await asyncio.wait_for(outer(), 5)

        asyncio.run(main())

    @given(graph=graphs, together=st.booleans())
    def test_tasks_on_any_graph_of_calls(self, graph, together):
        """Every node started at once: exactly the calls that can come back to a flight fail, and nothing hangs."""

        async def main():
            @single_flight
            async def visit(node):
                await asyncio.sleep(0)
                if together:
                    await asyncio.gather(*(visit(other) for other in graph[node]))
                else:
                    for other in graph[node]:
                        await visit(other)
                return node

            calls = asyncio.gather(*map(visit, range(len(graph))), return_exceptions=True)
            outcomes = await asyncio.wait_for(calls, 20)
            assert ["circle" if isinstance(each, SingleFlightError) else each for each in outcomes] == expected(graph)
            await settle(20)
            assert visit.in_flight() == 0

        asyncio.run(main())

    @settings(max_examples=25)
    @given(graph=graphs)
    def test_threads_on_any_graph_of_calls(self, graph):
        """The same with a thread for each node, all of them in their own flight before any calls another."""
        outcomes = [None] * len(graph)
        all_started, started = threading.Barrier(len(graph)), set()

        @single_flight
        def visit(node):
            if node not in started:
                started.add(node)
                all_started.wait(10)
            for other in graph[node]:
                visit(other)
            return node

        def call(node):
            try:
                outcomes[node] = visit(node)
            except SingleFlightError:
                outcomes[node] = "circle"

        threads = [threading.Thread(target=call, args=(node,), daemon=True) for node in range(len(graph))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(20)
        assert outcomes == expected(graph)
        assert visit.in_flight() == 0

    def test_what_a_flight_started_is_inside_it_until_it_ends(self):
        """A task that joins the flight it was started by is told; one that calls after it ended makes a new call."""

        async def main():
            children, ended, calls = [], asyncio.Event(), []

            @single_flight
            async def work(key):
                calls.append(key)
                if len(calls) == 1:
                    children.extend([asyncio.create_task(work(key)), asyncio.create_task(later(key))])
                    await settle()
                return len(calls)

            async def later(key):
                await ended.wait()
                return await work(key)

            assert await work("k") == 1
            ended.set()
            told, again = await asyncio.gather(*children, return_exceptions=True)
            assert isinstance(told, SingleFlightError)
            assert again == 2

        asyncio.run(main())

    def test_flights_that_ended_are_forgotten(self):
        """A refresher that each call starts anew is inside of one flight, not of all before it; nor are waits kept."""

        async def main():
            depths, tasks = [], []

            @single_flight
            async def refresh(left):
                depths.append(len(flight._inside.get()))
                await asyncio.gather(part(left), part(left))
                own = flight._inside.get()[-1]
                assert own.awaits == []
                if left:
                    tasks.append(asyncio.create_task(later(left - 1)))

            @single_flight
            async def part(left):
                await asyncio.sleep(0)

            async def later(left):
                await settle()
                await refresh(left)

            await refresh(30)
            for task in tasks:  # each adds the next before it ends
                await task
            assert depths == [1] * 31

        asyncio.run(main())

    def test_a_caller_that_left_closes_no_circle(self):
        """When its call was cancelled a flight waits no more: what it waited for may call whom it pleases."""

        async def main():
            gate = asyncio.Event()

            @single_flight
            async def slow():
                await gate.wait()
                return await impatient()

            @single_flight
            async def impatient():
                waiting = asyncio.create_task(slow())
                await settle()
                waiting.cancel()
                await gate.wait()
                return "served"

            kept = asyncio.create_task(slow())
            hasty = asyncio.create_task(impatient())
            await settle(20)
            gate.set()
            assert await asyncio.wait_for(asyncio.gather(kept, hasty), 5) == ["served", "served"]

        asyncio.run(main())


class TestKeys:
    """Which calls are the same."""

    def calls_of(self, function, *calls):
        """How many calls reach an `async def` like `function` when all are made at once."""
        made = []

        @single_flight
        @functools.wraps(function)
        async def shared(*args, **kwargs):
            made.append((args, kwargs))
            await asyncio.sleep(0)

        async def main():
            await asyncio.gather(*(shared(*args, **kwargs) for args, kwargs in calls))

        asyncio.run(main())
        return len(made)

    def test_by_position_by_name_or_by_default_is_one_call(self):
        """f(1), f(x=1) and f(1, y=2) are the same when 2 is the default of y; f(1, 3) and f(True) are others."""

        def function(x, y=2, *rest, z=(), **more):
            """A signature."""

        same = [((1,), {}), ((), {"x": 1}), ((1, 2), {}), ((1,), {"y": 2, "z": []}), ((), {"y": 2, "x": 1})]
        assert self.calls_of(function, *same) == 1
        others = [((1, 3), {}), ((True,), {}), ((1, 2, 3), {}), ((1,), {"w": 3}), ((1,), {"z": [3]})]
        assert self.calls_of(function, *same, *others) == 6

    @both_ways
    def test_wrong_arguments_are_the_functions_own_error(self, share, run):
        """TypeError in Python's words, and no flight is left behind."""

        def function(x):
            return x

        shared = share(function)
        with pytest.raises(TypeError, match=r"function\(\) takes 1 positional argument but 2 were given"):
            run(shared, 1, 2)
        with pytest.raises(TypeError, match="unexpected keyword argument 'y'"):
            run(shared, y=1)
        assert shared.in_flight() == 0
        assert run(shared, 1) == 1

    @both_ways
    def test_a_wrapper_may_take_more_than_it_shows(self, share, run):
        """A decorator that shows the signature of what it wraps, and takes another argument, is called all the same."""

        def inner(x):
            return x

        @functools.wraps(inner)
        def outer(extra, x):
            return inner(x) + extra

        assert run(share(outer), 1, 2) == 3

    def test_a_function_without_a_signature_is_shared_by_its_arguments_as_given(self):
        """Some built-in functions do not tell theirs."""
        assert single_flight(max)(1, 3, 2) == 3

    def test_methods_tell_their_objects_apart(self):
        """Two objects with equal arguments make two calls."""
        calls = []

        class Loader:
            @single_flight
            async def load(self, key):
                calls.append(self)
                await asyncio.sleep(0)

        async def main():
            one, other = Loader(), Loader()
            await asyncio.gather(one.load("k"), other.load("k"), one.load(key="k"))

        asyncio.run(main())
        assert len(calls) == 2

    @both_ways
    def test_a_key_that_cannot_be_hashed_is_refused(self, share, run):
        """A key= that returns a list is a typed error that shows it, and nothing is called."""
        shared = share(lambda x: x, key=lambda x: [x])
        with pytest.raises(InvalidValueError, match=r"\[1\] of type list cannot be a cache key"):
            run(shared, 1)


class Loader:
    """An object whose call is a coroutine."""

    def __init__(self):
        self.calls = 0

    async def __call__(self, key):
        self.calls += 1
        await asyncio.sleep(0)
        return self.calls


@pytest.mark.parametrize("wrap", [lambda loader: loader, lambda loader: functools.partial(loader.__call__)])
def test_every_kind_of_coroutine_function_is_shared_as_one(wrap):
    """An object with an async call, and a partial, share a task like any `async def`."""

    async def main():
        shared = single_flight(wrap(Loader()))
        assert await asyncio.gather(shared("k"), shared("k")) == [1, 1]

    asyncio.run(main())


@pytest.mark.parametrize("given", [5, "load", [len]])
def test_what_cannot_be_called_is_refused(given):
    """As the function, and as key=, in both ways to write it: an InvalidValueError that shows it."""
    with pytest.raises(InvalidValueError, match=r"function=.* cannot be called"):
        single_flight(given)
    with pytest.raises(InvalidValueError, match=r"key=.* cannot be called"):
        single_flight(key=given)
    with pytest.raises(InvalidValueError, match=r"key=.* cannot be called"):
        single_flight(len, key=given)


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
