"""DemoServer over real sockets: the queue, stalls, limits, counters, and that nothing is left behind."""

from __future__ import annotations

import asyncio
import os
import socket
import sys
from collections.abc import Callable, Coroutine
from itertools import pairwise
from typing import Any

import aiohttp
import pytest

from skilllab.demo import DemoServer, DemoSettings, DemoStatistics, Exponential, RateLimit, Served, Stall
from skilllab.errors import InvalidValueError, SkilllabError

PLAIN = {"Accept-Encoding": "identity"}


def run(main: Coroutine[Any, Any, Any]) -> Any:
    return asyncio.run(asyncio.wait_for(main, 30))


def session(server: DemoServer) -> aiohttp.ClientSession:
    return aiohttp.ClientSession(server.url, connector=aiohttp.TCPConnector(limit=0))


async def status(client: aiohttp.ClientSession, path: str = "/users/17", **options: Any) -> int:
    async with client.request(options.pop("method", "GET"), path, **options) as answer:
        await answer.read()
        return answer.status


async def until(condition: Callable[[DemoStatistics], bool], server: DemoServer) -> None:
    """Lets the event loop turn until the server has counted what is waited for."""
    while not condition(await server.statistics()):  # noqa: ASYNC110 - a server has no event for everything
        await asyncio.sleep(0)


async def inside(server: DemoServer, number: int) -> None:
    """Returns when so many requests are in."""
    await until(lambda now: now.in_flight >= number, server)


async def arrive(time: Any, server: DemoServer, client: aiohttp.ClientSession, moments: list[float]) -> list[Any]:
    """Sends a request at each moment of the fake time and returns their tasks, in order of arrival."""
    tasks = []
    for came, moment in enumerate(moments, (await server.statistics()).count() + 1):
        time.run_until(moment)
        tasks.append(asyncio.create_task(status(client)))
        await until(lambda now, came=came: now.count() + now.in_flight == came, server)  # type: ignore[misc]
    return tasks


def lindley(log: list[Served]) -> list[float]:
    """Waiting times of one worker from the realised arrivals and services (Lindley 1952)."""
    waits = [0.0]
    for one, following in pairwise(log):
        waits.append(max(0.0, waits[-1] + (one.done - one.started) - (following.arrived - one.arrived)))
    return waits


def test_requests_queue_as_lindley_says(fake_time: Any) -> None:
    """Thirty requests over sockets to one worker with exponential services wait exactly as the recursion says."""
    time = fake_time()

    async def main() -> list[Served]:
        settings = DemoSettings(latency=Exponential(1.0), workers=1)
        async with DemoServer(settings, clock=time.clock, call_later=time.call_later) as server:
            async with session(server) as client:
                tasks = await arrive(time, server, client, [0.7 * n for n in range(30)])
                time.run()
                assert await asyncio.gather(*tasks) == [200] * 30
            return await server.log()

    log = run(main())
    assert [one.arrived for one in log] == pytest.approx([0.7 * n for n in range(30)])
    assert [one.started - one.arrived for one in log] == pytest.approx(lindley(log), abs=1e-9)
    assert max(lindley(log)) > 1
    assert all(one.answered >= one.done for one in log)


def test_requests_queue_in_real_time() -> None:
    """With the real clock, eight requests at once to one worker of 2 ms take turns and none is answered early."""

    async def main() -> list[Served]:
        async with DemoServer(DemoSettings(latency=0.002, workers=1)) as server:
            async with session(server) as client:
                assert await asyncio.gather(*(status(client) for _ in range(8))) == [200] * 8
            return await server.log()

    log = run(main())
    assert [one.started - one.arrived for one in log] == pytest.approx(lindley(log), abs=1e-9)
    assert [one.done - one.started for one in log] == pytest.approx([0.002] * 8)
    assert log[-1].answered - log[0].arrived >= 8 * 0.002 - 1e-9
    assert all(one.answered >= one.done for one in log)


def test_a_stall_holds_everyone_up(fake_time: Any) -> None:
    """In a stall nothing is answered, and those who came meanwhile then queue: the last waits for all of them."""
    time = fake_time()

    async def main() -> tuple[list[Served], int]:
        settings = DemoSettings(latency=1.0, workers=1, stall=Stall(duration=6, every=10))
        async with DemoServer(settings, clock=time.clock, call_later=time.call_later) as server:
            async with session(server) as client:
                tasks = await arrive(time, server, client, [0, 3.5, 5, 6, 7])
                time.run_until(9.9)
                await asyncio.sleep(0.001)
                answered = (await server.statistics()).count()
                time.run()
                await asyncio.gather(*tasks)
            return await server.log(), answered

    log, answered = run(main())
    assert answered == 1
    assert [one.done for one in log] == [1, 10.5, 11.5, 12.5, 13.5]


def test_stall_and_resume_by_hand(fake_time: Any) -> None:
    """`stall` stops the server until `resume`, whatever time passes; what was begun goes on where it stood."""
    time = fake_time()

    async def main() -> list[Served]:
        settings = DemoSettings(latency=2.0, workers=1)
        async with DemoServer(settings, clock=time.clock, call_later=time.call_later) as server:
            async with session(server) as client:
                tasks = await arrive(time, server, client, [0, 0])
                time.run_until(1)
                await server.stall()
                await server.stall()
                time.run_until(1000)
                statistics = await server.statistics()
                assert (statistics.count(), statistics.in_flight, statistics.waiting) == (0, 2, 1)
                await server.resume()
                time.run()
                await asyncio.gather(*tasks)
            return await server.log()

    assert [(one.started, one.done) for one in run(main())] == [(0, 1001), (1001, 1003)]


def test_the_rate_limit_says_when_to_come_back(fake_time: Any) -> None:
    """Beyond the burst a request is answered with 429 and Retry-After in whole seconds; who waits so long is served."""
    time = fake_time()

    async def main() -> None:
        settings = DemoSettings(rate_limit=RateLimit(rate=0.4, burst=2), latency=0.0)
        async with (
            DemoServer(settings, clock=time.clock, call_later=time.call_later) as server,
            session(server) as client,
        ):
            assert [await status(client), await status(client)] == [200, 200]
            async with client.get("/users/17") as answer:
                assert (answer.status, answer.headers["Retry-After"]) == (429, "3")
                assert (await answer.json())["retry_after"] == pytest.approx(2.5)
            time.run_until(2.4)
            assert await status(client) == 429
            time.run_until(3)
            assert await status(client) == 200
            await server.configure(rate_limit=None)
            assert [await status(client) for _ in range(5)] == [200] * 5
            assert (await server.statistics()).requests == {"user": {200: 8, 429: 2}}
            assert len(await server.log()) == 8

    run(main())


def test_the_rate_limit_stands_at_the_door() -> None:
    """A stalled server still refuses at once what exceeds its rate limit."""

    async def main() -> None:
        async with DemoServer(DemoSettings(rate_limit=RateLimit(0.001))) as server, session(server) as client:
            await server.stall()
            first = asyncio.create_task(status(client))
            await inside(server, 1)
            assert await status(client) == 429
            await server.resume()
            assert await first == 200

    run(main())


def test_errors_are_drawn() -> None:
    """The same seed fails the same requests, with the status of the settings and a JSON error, after their service."""

    async def main(seed: int) -> list[int]:
        settings = DemoSettings(error_rate=0.3, error_status=503, seed=seed)
        async with DemoServer(settings) as server, session(server) as client:
            seen = [await status(client) for _ in range(40)]
            assert [one.status for one in await server.log()] == seen
            assert (await server.statistics()).count("user", 503) == seen.count(503)
            return seen

    seen = run(main(1))
    assert set(seen) == {200, 503}
    assert seen == run(main(1)) != run(main(2))


def test_a_batch_costs_little_more_than_one(fake_time: Any) -> None:
    """A batch of ten takes one service time and ten item shares, on one worker, and is one request."""
    time = fake_time()

    async def main() -> list[Served]:
        settings = DemoSettings(latency=1.0, batch_item_share=0.125)
        async with DemoServer(settings, clock=time.clock, call_later=time.call_later) as server:
            async with session(server) as client:
                items = {"items": [{"user_id": n + 1} for n in range(10)]}
                task = asyncio.create_task(status(client, "/batch/users", method="POST", json=items))
                await until(lambda _: time.waiting == 1, server)
                time.run()
                assert await task == 200
            return await server.log()

    assert run(main()) == [Served("batch", 200, 0, 0, 2.25, 2.25)]


def test_routes_have_their_own_latency(fake_time: Any) -> None:
    """A route with a latency of its own takes that, the others the server's."""
    time = fake_time()

    async def main() -> list[Served]:
        settings = DemoSettings(latency=None, route_latency={"user": 3.0})
        async with DemoServer(settings, clock=time.clock, call_later=time.call_later) as server:
            async with session(server) as client:
                assert await status(client, "/products") == 200
                (task,) = await arrive(time, server, client, [0])
                time.run()
                assert await task == 200
            return await server.log()

    assert [(one.route, one.done - one.started) for one in run(main())] == [("products", 0), ("user", 3)]


def test_settings_change_while_it_runs() -> None:
    """configure takes single changes or other settings and is in force at once; a bad one changes nothing."""

    async def main() -> None:
        async with DemoServer() as server, session(server) as client:
            assert await status(client) == 200
            assert await server.configure(error_rate=1.0) == server.settings == DemoSettings(error_rate=1.0)
            assert await status(client) == 500
            for bad in ({"error_rate": 2}, {"sped": 1}):
                with pytest.raises(InvalidValueError):
                    await server.configure(**bad)
            with pytest.raises(InvalidValueError, match="settings=3 must be DemoSettings"):
                await server.configure(3)  # type: ignore[arg-type]
            assert await status(client) == 500
            await server.configure(DemoSettings(seed=1))
            assert await status(client) == 200
            async with client.get("/users/17") as answer:
                other = await answer.json()
            await server.configure(seed=0)
            async with client.get("/users/17") as answer:
                assert await answer.json() != other

    run(main())


def test_more_workers_take_those_who_wait() -> None:
    """A worker that is added takes the first who waits, at once."""

    async def main() -> None:
        async with DemoServer(DemoSettings(latency=3600, workers=1)) as server, session(server) as client:
            tasks = [asyncio.create_task(status(client)) for _ in range(3)]
            await inside(server, 3)
            assert (await server.statistics()).waiting == 2
            await server.configure(workers=2)
            assert (await server.statistics()).waiting == 1
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    run(main())


def test_counters_are_exact() -> None:
    """Requests by route and status, the most in flight and in the queue, and the connections are counted exactly."""

    async def main() -> None:
        async with DemoServer(DemoSettings(workers=2)) as server, session(server) as client:
            await server.stall()
            tasks = [asyncio.create_task(status(client)) for _ in range(7)]
            await inside(server, 7)
            before = await server.statistics()
            await server.resume()
            await asyncio.gather(*tasks)
            assert [await status(client, path) for path in ("/users/0", "/none", "/users/x")] == [404, 404, 400]
            after = await server.statistics()
        assert (before.in_flight, before.waiting, before.connections, before.open_connections) == (7, 5, 7, 7)
        assert after.requests == {"other": {404: 1}, "user": {200: 7, 400: 1, 404: 1}}
        assert (after.in_flight, after.max_in_flight, after.waiting, after.max_waiting) == (0, 7, 0, 5)
        assert after.connections == 7
        assert [after.count(), after.count("user"), after.count(status=404), after.count("user", 404)] == [10, 9, 2, 1]

    run(main())


def test_the_log_keeps_the_last() -> None:
    """The log holds the last requests, as many as the settings say."""

    async def main() -> None:
        async with DemoServer(DemoSettings(log=3)) as server, session(server) as client:
            for number in range(1, 6):
                await status(client, f"/users/{number}" if number < 5 else "/products")
            assert [one.route for one in await server.log()] == ["user", "user", "products"]
            await server.configure(log=1)
            assert [one.route for one in await server.log()] == ["products"]

    run(main())


def test_who_leaves_a_large_answer_is_counted() -> None:
    """A client that goes away while a large answer is sent is a 499, and its request is over."""

    async def main() -> None:
        async with DemoServer() as server:
            async with session(server) as client, client.get("/bytes?size=50000000", headers=PLAIN) as answer:
                await answer.content.readexactly(10)
                answer.close()
            await until(lambda now: now.in_flight == 0, server)
            assert (await server.statistics()).requests == {"bytes": {499: 1}}

    run(main())


def sockets() -> int:
    """Sockets that this process has open."""
    links = [f"/proc/self/fd/{name}" for name in os.listdir("/proc/self/fd")]
    return sum(os.readlink(link).startswith("socket:") for link in links if os.path.islink(link))


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="counts sockets in /proc")
def test_closing_leaves_no_socket(fake_time: Any) -> None:
    """Closing ends idle connections, requests in service and in the queue, with their sockets, tasks and timers."""
    time = fake_time()

    async def main() -> None:
        before = sockets()
        settings = DemoSettings(workers=1, latency=3600, route_latency={"products": None})
        server = await DemoServer(settings, clock=time.clock, call_later=time.call_later).start()
        port = server.port
        async with session(server) as client:
            assert await status(client, "/products") == 200
            tasks = [asyncio.create_task(status(client)) for _ in range(4)]
            await inside(server, 4)
            await server.aclose()
            await server.aclose()
            with pytest.raises(ConnectionRefusedError):
                await asyncio.open_connection("127.0.0.1", port)
            failures = await asyncio.gather(*tasks, return_exceptions=True)
            assert all(isinstance(failure, aiohttp.ClientError) for failure in failures)
        await asyncio.sleep(0)
        assert (sockets(), time.waiting) == (before, 0)
        assert len(asyncio.all_tasks()) == 2  # this one, and the one that bounds its time

    run(main())


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="counts sockets in /proc")
def test_closing_waits_for_no_reader() -> None:
    """A client that asks for a large answer and reads nothing does not keep its connection open."""

    async def main() -> None:
        server = await DemoServer().start()
        before = sockets()
        with socket.create_connection(("127.0.0.1", server.port)) as deaf:
            deaf.sendall(b"GET /bytes?size=60000000 HTTP/1.1\r\nHost: a\r\n\r\n")
            await inside(server, 1)
            while await server.log() == []:  # noqa: ASYNC110 - a server has no event for everything
                await asyncio.sleep(0)
            await server.aclose()
            assert sockets() == before - 1 + 1  # less the one that listened, plus the client's

    run(main())


def test_a_large_answer_lets_others_have_their_turn() -> None:
    """While an answer of 20 MB is compressed, another request comes in and is answered."""

    async def main() -> None:
        async with DemoServer() as server, session(server) as client:
            large = asyncio.create_task(status(client, "/bytes?size=20000000", headers={"Accept-Encoding": "gzip"}))
            await inside(server, 1)
            assert await status(client) == 200
            assert (await server.statistics()).requests == {"user": {200: 1}}
            large.cancel()
            await asyncio.gather(large, return_exceptions=True)

    run(main())


def test_a_port_in_use_is_named() -> None:
    """A taken port is an error with its number; nothing is left of the attempt, and the server can be started later."""

    async def main() -> None:
        with socket.create_server(("127.0.0.1", 0)) as taken:
            port = taken.getsockname()[1]
            server = DemoServer(port=port)
            with pytest.raises(InvalidValueError, match=f"port={port} is in use on 127.0.0.1"):
                await server.start()
        async with server:
            assert server.url == f"http://127.0.0.1:{port}"

    run(main())


@pytest.mark.parametrize("port", [-1, 65536, "80", True, 1.0])
def test_a_bad_port_is_refused(port: Any) -> None:
    """What is no port is refused before anything is opened."""
    with pytest.raises(InvalidValueError, match="must be 0"):
        DemoServer(port=port)


def test_it_listens_on_this_machine_only() -> None:
    """The listening socket is bound to the loopback address."""

    async def main() -> None:
        async with DemoServer() as server:
            assert server._listening is not None
            assert [part.getsockname()[0] for part in server._listening.sockets] == ["127.0.0.1"]

    run(main())


def test_use_out_of_turn_is_told() -> None:
    """Before the start, after the end, and on a second start the error says what to do; a restart works."""

    async def main() -> None:
        server = DemoServer()
        assert (await server.configure(error_rate=1.0)).error_rate == 1
        for use in (server.stall, server.resume, server.statistics, server.log):
            with pytest.raises(SkilllabError, match=r"not running: use `async with`"):
                await use()
        with pytest.raises(SkilllabError, match="not running"):
            server.url  # noqa: B018
        await server.start()
        with pytest.raises(SkilllabError, match="started already"):
            await server.start()
        await server.aclose()
        async with server, session(server) as client:
            assert await status(client) == 500
        with pytest.raises(SkilllabError, match="not running"):
            await server.statistics()

    run(main())


def test_notebook_cells_share_it() -> None:
    """Cells are tasks of one loop: what one starts another uses and a third closes."""

    async def main() -> None:
        server = DemoServer()
        await asyncio.create_task(server.start())

        async def cell() -> int:
            async with session(server) as client:
                return await status(client)

        assert await asyncio.create_task(cell()) == 200
        await asyncio.create_task(server.aclose())

    run(main())
