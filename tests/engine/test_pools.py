"""Connection pools: bounded, fair, and never short of a connection that somebody dropped."""

from __future__ import annotations

import asyncio
import functools
import gc
import json
import random
import sqlite3
import threading
import weakref
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import hypothesis
import pytest
from hypothesis import strategies as st

from skilllab.engine.pools import ConnectionPool, PoolStatistics
from skilllab.errors import InvalidValueError, LeaseError
from skilllab.testing import FakeClock


class Connection:
    """A connection that knows whether it is open, and who has it."""

    def __init__(self, source: Source, number: int) -> None:
        self.source = source
        self.number = number
        self.open = True
        self.works = True
        self.users = 0
        self.resets = 0


class Source:
    """Opens connections and counts them; `turns` of the loop are what each of its functions takes."""

    def __init__(self, turns: int = 0) -> None:
        self.turns = turns
        self.made: list[Connection] = []
        self.most = 0
        self.fails: set[str] = set()

    @property
    def live(self) -> list[Connection]:
        return [connection for connection in self.made if connection.open]

    async def _take_turns(self, name: str) -> None:
        for _ in range(self.turns):
            await asyncio.sleep(0)
        if name in self.fails:
            raise OSError(f"{name} failed")

    async def open(self) -> Connection:
        connection = Connection(self, len(self.made))  # the socket is open from here on, whatever follows
        self.made.append(connection)
        self.most = max(self.most, len(self.live))
        try:
            await self._take_turns("open")
        except BaseException:
            connection.open = False
            raise
        return connection

    async def close(self, connection: Connection) -> None:
        assert connection.open
        try:
            await self._take_turns("close")
        finally:
            connection.open = False

    async def reset(self, connection: Connection) -> None:
        assert connection.open
        connection.resets += 1
        await self._take_turns("reset")

    async def check(self, connection: Connection) -> bool:
        assert connection.open
        await self._take_turns("check")
        return connection.works

    def pool(self, *used: str, **options: Any) -> ConnectionPool:
        return ConnectionPool(self.open, **{name: getattr(self, name) for name in used}, **options)


def with_pool(pool: ConnectionPool, work: Callable[[ConnectionPool], Awaitable[Any]]) -> Any:
    async def run() -> Any:
        try:
            return await work(pool)
        finally:
            await pool.aclose()

    return asyncio.run(run())


async def use(pool: ConnectionPool) -> Connection:
    async with pool.lease() as connection:
        assert isinstance(connection, Connection)
        return connection


async def turns(number: int = 10) -> None:
    for _ in range(number):
        await asyncio.sleep(0)


# leasing


def test_connections_are_opened_when_needed_and_used_again() -> None:
    """One lease after another has one connection; the one used last is the first to be used again."""
    source = Source()

    async def work(pool: ConnectionPool) -> None:
        first = await use(pool)
        assert await use(pool) is first
        async with pool.lease() as one, pool.lease() as two:
            assert one is first
        assert await use(pool) is one
        assert two is not one
        assert pool.statistics() == PoolStatistics(opened=2, closed=0, in_use=0, idle=2, waited=0, wait_seconds=0.0)

    with_pool(source.pool("close"), work)
    assert (len(source.made), source.live) == (2, [])


def test_there_are_never_more_than_may_be() -> None:
    """A hundred callers share three places; each has a connection to itself."""
    source = Source(turns=2)

    async def work(pool: ConnectionPool) -> None:
        async def caller() -> None:
            async with pool.lease() as connection:
                connection.users += 1
                assert connection.users == 1
                await turns(3)
                connection.users -= 1

        await asyncio.gather(*(caller() for _ in range(100)))
        statistics = pool.statistics()
        assert (statistics.opened, statistics.idle, statistics.in_use, statistics.waited) == (3, 3, 0, 97)

    with_pool(source.pool("close", "reset", "check", max_size=3), work)
    assert (source.most, source.live) == (3, [])


def test_who_waits_longest_is_served_first() -> None:
    """Places are given in the order in which they were asked for, and the waiting is counted in seconds."""
    clock = FakeClock()

    async def work(pool: ConnectionPool) -> None:
        order: list[int] = []

        async def caller(number: int) -> None:
            async with pool.lease():
                order.append(number)
                await turns(2)

        async with pool.lease():
            waiting = [asyncio.create_task(caller(number)) for number in range(5)]
            await turns()
            assert pool.statistics().in_use == 1
            clock.advance(2.0)
        await asyncio.gather(*waiting)
        assert order == [0, 1, 2, 3, 4]
        statistics = pool.statistics()
        assert (statistics.waited, statistics.wait_seconds) == (5, 10.0)

    with_pool(Source().pool(max_size=1, clock=clock), work)


def test_a_waiting_caller_that_is_cancelled_loses_nobody_a_turn() -> None:
    """Cancelled while it waits, or in the very turn in which it was given a connection, it passes the place on."""

    async def work(pool: ConnectionPool) -> None:
        for given in (False, True):
            async with pool.lease():
                first, second = (asyncio.create_task(use(pool)) for _ in range(2))
                await turns()
                if not given:
                    first.cancel()
                    await turns()
            if given:
                first.cancel()  # the place is its own already
            await second
            assert first.cancelled()
            assert pool.statistics().in_use == 0

    with_pool(Source().pool(max_size=1), work)


def test_the_pool_can_be_off() -> None:
    """With max_idle=0 each lease opens a connection of its own and closes it, at most max_size at once."""
    source = Source(turns=1)

    async def work(pool: ConnectionPool) -> None:
        await asyncio.gather(*(use(pool) for _ in range(20)))
        assert pool.statistics()[:4] == (20, 20, 0, 0)

    with_pool(source.pool("close", max_size=2, max_idle=0), work)
    assert (len(source.made), source.most, source.live) == (20, 2, [])


@pytest.mark.parametrize("in_thread", [True, False])
def test_functions_are_async_or_run_in_a_thread(in_thread: bool) -> None:
    """A plain function never runs on the loop's thread, an async one always; a plain one may return an awaitable."""
    threads: set[bool] = set()
    here = threading.current_thread()

    def note(*_: Any) -> bool:
        threads.add(threading.current_thread() is here)
        return True

    async def note_on_loop(*_: Any) -> bool:
        return note()

    function: Any = note if in_thread else note_on_loop

    async def work(pool: ConnectionPool) -> None:
        for _ in range(2):
            async with pool.lease() as connection:
                assert connection is True

    with_pool(ConnectionPool(function, close=function, reset=function, check=function), work)
    assert threads == {not in_thread}
    threads.clear()
    with_pool(ConnectionPool(functools.partial(functools.partial(note_on_loop))), work)
    assert threads == {True}
    threads.clear()
    with_pool(ConnectionPool(Callable_(note_on_loop)), work)
    assert threads == {True}


class Callable_:  # noqa: N801
    def __init__(self, function: Callable[..., Any]) -> None:
        self.function = function

    def __call__(self) -> Any:
        return self.function()


# broken connections


def test_a_connection_that_no_longer_works_is_replaced() -> None:
    """A check that is false, or raises, closes the connection; the next idle one that works is taken, else a new one."""
    source = Source(turns=1)

    async def work(pool: ConnectionPool) -> None:
        async with pool.lease() as one, pool.lease() as two:
            pass
        two.works = False
        assert await use(pool) is one
        source.fails = {"check"}
        assert (await use(pool)).number == 2
        assert pool.statistics()[:4] == (3, 2, 0, 1)

    with_pool(source.pool("close", "check", max_size=2), work)
    assert (source.most, source.live) == (2, [])


def test_after_an_error_a_connection_is_reset_or_replaced() -> None:
    """With a reset that works it is used again; when the reset fails, or there is none, it is closed and replaced."""

    async def fails(pool: ConnectionPool) -> Connection:
        with pytest.raises(ValueError, match="of the caller"):
            async with pool.lease() as connection:
                raise ValueError("of the caller")
        assert isinstance(connection, Connection)
        return connection

    async def work(pool: ConnectionPool) -> bool:
        return await fails(pool) is await use(pool)

    source = Source()
    assert with_pool(source.pool("close", "reset"), work)
    assert source.made[0].resets == 2
    assert not with_pool(Source().pool("close"), work)
    broken = Source()
    broken.fails = {"reset"}
    assert not with_pool(broken.pool("close", "reset"), work)
    assert broken.live == []


def test_a_connection_that_cannot_be_opened_is_an_error_and_takes_no_place() -> None:
    """The LeaseError has the error as its cause; later leases have all places again."""
    source = Source()
    source.fails = {"open"}

    async def work(pool: ConnectionPool) -> None:
        for _ in range(5):
            with pytest.raises(LeaseError, match="no connection could be opened: OSError: open failed") as caught:
                await use(pool)
            assert isinstance(caught.value.__cause__, OSError)
        source.fails = set()
        async with pool.lease(), pool.lease():
            assert pool.statistics()[:4] == (2, 0, 2, 0)

    with_pool(source.pool(max_size=2), work)


@pytest.mark.parametrize("name", ["open", "close", "reset", "check"])
def test_no_function_of_a_pool_ends_the_program(name: str) -> None:
    """sys.exit() in one of them is an error like others: no place is lost, and the caller's error stays the caller's."""

    async def work(pool: ConnectionPool) -> None:
        asyncio.get_running_loop().set_exception_handler(lambda *_: None)
        for _ in range(3):
            try:
                await use(pool)
            except LeaseError:
                assert name == "open"
        assert pool.statistics().in_use == 0

    source = Source()

    async def leave(*_: Any) -> Any:
        raise SystemExit(3)

    setattr(source, name, leave)
    with_pool(source.pool("close", "reset", "check", max_size=1), work)


def test_a_close_that_fails_is_reported_and_harms_no_caller() -> None:
    """The loop's exception handler is told; the connection counts as closed and its place is free."""
    source, told = Source(), []
    source.fails = {"close"}

    async def work(pool: ConnectionPool) -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, context: told.append(context))
        await use(pool)
        await use(pool)
        assert pool.statistics()[:4] == (2, 2, 0, 0)

    with_pool(source.pool("close", max_idle=0, max_size=1), work)
    assert [str(context["exception"]) for context in told] == ["close failed"] * 2
    assert {context["message"] for context in told} == {"a connection could not be closed by its pool"}


# idle connections


def test_an_old_connection_is_not_given_out() -> None:
    """One that nobody used for max_idle seconds is closed, and a lease gets another."""
    source, clock = Source(turns=1), FakeClock()

    async def work(pool: ConnectionPool) -> None:
        first = await use(pool)
        clock.advance(9)
        assert await use(pool) is first
        clock.advance(10)
        second = await use(pool)
        assert (second is not first, first.open, second.open) == (True, False, True)

    with_pool(source.pool("close", max_idle=10.0, max_size=1, clock=clock), work)
    assert source.most == 1


def test_idle_connections_are_closed_without_a_lease() -> None:
    """A pool that nobody uses any more closes its connections by itself, one after the other as they grow old."""
    source = Source()

    async def work(pool: ConnectionPool) -> None:
        async with pool.lease():
            await use(pool)
        assert pool.statistics().idle == 2
        async with asyncio.timeout(5):
            await all_closed.wait()
        assert pool.statistics().idle == 0

    all_closed = asyncio.Event()

    async def close(connection: Connection) -> None:
        await Source.close(source, connection)
        if not source.live:
            all_closed.set()

    source.close = close  # type: ignore[method-assign]
    with_pool(source.pool("close", max_idle=0.01), work)


# closing


def test_a_closed_pool_closes_all_and_leases_no_more() -> None:
    """Idle connections are closed at once, a leased one when it comes back, and who waits gets a LeaseError."""
    source = Source(turns=1)

    async def work(pool: ConnectionPool) -> None:
        async with pool.lease(), pool.lease():
            pass
        async with pool.lease() as leased, pool.lease():
            waiting = asyncio.create_task(use(pool))
            await turns()
            await pool.aclose()
            with pytest.raises(LeaseError, match="closed while"):
                await waiting
            with pytest.raises(LeaseError, match="the pool is closed"):
                await use(pool)
            assert leased.open
        assert source.live == []
        statistics = pool.statistics()
        assert (statistics.opened, statistics.closed, statistics.in_use, statistics.idle) == (2, 2, 0, 0)

    with_pool(source.pool("close", max_size=2), work)


def test_a_place_given_in_the_turn_of_closing_opens_nothing() -> None:
    """A lease that was next when the pool was closed gets a LeaseError, and the connection is closed."""
    source = Source()

    async def work(pool: ConnectionPool) -> None:
        async with pool.lease():
            waiting = asyncio.create_task(use(pool))
            await turns()
        await pool.aclose()
        with pytest.raises(LeaseError, match="the pool is closed"):
            await waiting
        await turns()
        assert (len(source.made), source.live, pool.statistics().in_use) == (1, [], 0)

    with_pool(source.pool("close", max_size=1), work)


@pytest.mark.parametrize("in_thread", [True, False])
def test_closing_gives_up_what_is_being_opened(in_thread: bool) -> None:
    """Who waits for a connection that takes for ever gets a LeaseError; one that still opens in a thread is closed."""
    closed: list[str] = []

    async def work() -> None:
        go, begun = threading.Event(), asyncio.Event()
        loop = asyncio.get_running_loop()

        def open_in_thread() -> str:
            loop.call_soon_threadsafe(begun.set)
            assert go.wait(10)
            return "connection"

        async def open_on_loop() -> str:
            begun.set()
            await asyncio.Event().wait()
            return "never"

        pool = ConnectionPool(open_in_thread if in_thread else open_on_loop, close=closed.append)
        leasing = asyncio.create_task(use(pool))
        await begun.wait()
        await pool.aclose()
        with pytest.raises(LeaseError, match="before there was a connection"):
            await leasing
        go.set()
        for thread in threading.enumerate():
            if thread.name.startswith("skilllab-pool"):
                await asyncio.to_thread(thread.join, 5)

    asyncio.run(work())
    assert closed == (["connection"] if in_thread else [])


# cancellation


def test_a_lease_cancelled_while_it_opens_leaves_the_connection_to_the_next() -> None:
    """What is being opened is not thrown away, and its place not given twice."""
    source = Source(turns=5)

    async def work(pool: ConnectionPool) -> None:
        task = asyncio.create_task(use(pool))
        await turns(3)
        task.cancel()
        await asyncio.wait([task])
        assert (task.cancelled(), pool.statistics().in_use) == (True, 1)
        assert (await use(pool)).number == 0
        assert (pool.statistics().opened, pool.statistics().in_use) == (1, 0)

    with_pool(source.pool("close", max_size=1), work)
    assert source.live == []


STEP = st.tuples(st.integers(0, 12), st.integers(0, 6), st.booleans(), st.booleans())
"""One caller: turns until it is cancelled (0: never), turns that it holds the lease, whether it fails, breaks it."""


@pytest.mark.slow
@hypothesis.given(
    st.lists(STEP, min_size=1, max_size=20),
    st.integers(1, 3),
    st.integers(0, 3),
    st.sets(st.sampled_from(["reset", "check"])),
    st.sampled_from([60.0, 0]),
    st.lists(st.sampled_from(["open", "close", "reset", "check", ""]), max_size=10),
)
def test_nothing_is_lost_whoever_is_cancelled(
    callers: list[tuple[int, int, bool, bool]],
    max_size: int,
    slowness: int,
    used: set[str],
    max_idle: float,
    failures: list[str],
) -> None:
    """Whenever callers are cancelled, fail or break their connection, and whatever the pool's own functions do:

    never more connections than places, none shared, none left in use, each idle one open, and none open after closing.
    """
    source = Source(turns=slowness)

    async def caller(pool: ConnectionPool, holds: int, fails: bool, breaks: bool) -> None:
        async with pool.lease() as connection:
            assert connection.open
            connection.users += 1
            assert connection.users == 1
            connection.works = not breaks
            try:
                await turns(holds)
                if fails:
                    raise ValueError
            finally:
                connection.users -= 1

    async def work(pool: ConnectionPool) -> None:
        asyncio.get_running_loop().set_exception_handler(lambda *_: None)
        tasks = []
        for number, (cancelled, holds, fails, breaks) in enumerate(callers):
            source.fails = {failures[number]} if number < len(failures) else set()
            task = asyncio.create_task(caller(pool, holds, fails, breaks))
            tasks.append(task)
            if cancelled:
                asyncio.get_running_loop().create_task(cancel_after(task, cancelled))
            if number % 3 == 0:
                await turns(number % 5)
        await asyncio.wait(tasks)
        assert all(
            isinstance(task.exception(), ValueError | LeaseError | None) for task in tasks if not task.cancelled()
        )
        source.fails = set()
        for _ in range(50):
            await turns()
        statistics = pool.statistics()
        assert statistics.in_use == 0
        assert statistics.idle == len(source.live) <= max_size
        async with asyncio.timeout(5):  # every place can be had
            leases = [pool.lease() for _ in range(max_size)]
            for lease in leases:
                await lease.__aenter__()
            for lease in leases:
                await lease.__aexit__(None, None, None)

    with_pool(source.pool("close", *used, max_size=max_size, max_idle=max_idle), work)
    assert source.most <= max_size
    assert source.live == []


async def cancel_after(task: asyncio.Task[Any], number: int) -> None:
    await turns(number)
    task.cancel()


@pytest.mark.slow
def test_thousands_of_leases_of_a_real_database(tmp_path: Path) -> None:
    """3,000 calls of SQLite with errors and cancellations at random: never more than four connections, none left open."""
    chance, lock = random.Random(1), threading.Lock()
    live: set[sqlite3.Connection] = set()
    most = 0

    def connect() -> sqlite3.Connection:
        nonlocal most
        connection = sqlite3.connect(tmp_path / "data.db", check_same_thread=False)
        with lock:
            live.add(connection)
            most = max(most, len(live))
        return connection

    def close(connection: sqlite3.Connection) -> None:
        connection.close()
        with lock:
            live.remove(connection)

    async def caller(pool: ConnectionPool, number: int) -> int:
        async with pool.lease() as connection:
            connection.execute("BEGIN")  # fails where a connection comes out of another's transaction
            cursor = connection.execute("SELECT square FROM squares WHERE n = ?", (number % 100,))
            await asyncio.sleep(0)
            if number % 10 == 9:
                connection.execute("SELECT * FROM missing")
            ((square,),) = cursor
            await asyncio.sleep(0)
            return int(square)

    async def work(pool: ConnectionPool) -> list[Any]:
        async with pool.lease() as connection:
            connection.execute(
                "CREATE TABLE squares AS SELECT value AS n, value * value AS square FROM json_each(?)",
                (json.dumps(list(range(100))),),
            )
            connection.commit()
        results: list[Any] = []
        for begin in range(0, 3000, 50):
            tasks = [asyncio.create_task(caller(pool, number)) for number in range(begin, begin + 50)]
            while waiting := [task for task in tasks if not task.done()]:
                if chance.random() < 0.02:
                    chance.choice(waiting).cancel()
                await asyncio.sleep(0)
            results += await asyncio.gather(*tasks, return_exceptions=True)
        return results

    pool = ConnectionPool(connect, close=close, reset=sqlite3.Connection.rollback, max_size=4)
    results = with_pool(pool, work)
    errors = {type(result) for result in results if not isinstance(result, int)}
    assert errors == {asyncio.CancelledError, sqlite3.OperationalError}
    assert {str(result) for result in results if isinstance(result, sqlite3.Error)} == {"no such table: missing"}
    worked = [number for number, result in enumerate(results) if result == (number % 100) ** 2]
    assert len(worked) > 1000
    assert (most, live, pool.statistics().in_use) == (4, set(), 0)


# arguments


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"open": None}, "open=None must be a function"),
        ({"close": 5}, "close=5 must be a function"),
        ({"max_size": 0}, "max_size=0 must be a whole number of at least 1"),
        ({"max_size": True}, "max_size=True"),
        ({"max_size": 2.0}, "max_size=2.0"),
        ({"max_idle": -1}, "max_idle=-1 must be seconds of at least 0"),
        ({"max_idle": float("nan")}, "max_idle=nan"),
        ({"max_idle": float("inf")}, "max_idle=inf"),
    ],
)
def test_bad_options_are_refused(options: dict[str, Any], message: str) -> None:
    """A wrong argument is an InvalidValueError that shows it."""
    with pytest.raises(InvalidValueError, match=message):
        ConnectionPool(**{"open": object, **options})


def test_errors_of_a_lease_leave_no_cycles() -> None:
    """A LeaseError goes with its last holder, without the garbage collector."""

    class Failure(Exception):  # noqa: N818 - built-in errors take no weak references
        pass

    async def fail() -> None:
        raise Failure

    async def work(pool: ConnectionPool) -> list[weakref.ref[Any]]:
        seen = []
        try:
            await use(pool)
        except LeaseError as error:
            seen += [weakref.ref(error), weakref.ref(error.__cause__)]  # type: ignore[arg-type]
        await turns()
        return seen

    gc.disable()
    try:
        assert [reference() for reference in with_pool(ConnectionPool(fail), work)] == [None, None]
    finally:
        gc.enable()
