"""Limits of layer 3: requests, hosts, bytes and time, each exact, over real sockets."""

from __future__ import annotations

import asyncio
import gzip
import random
import tracemalloc
import zlib
from collections import Counter
from typing import Any

import pytest
from aiohttp import web
from http_servers import Api, ask, body, execution, in_loop, raw_talk, running, sends, serving, talk
from hypothesis import example, given, settings
from hypothesis import strategies as st

from skilllab.engine.http import HttpOptions, HttpRunner
from skilllab.errors import (
    HostNotAllowedError,
    HttpStatusError,
    InvalidResponseError,
    LimitExceededError,
    SkilllabError,
    TransportError,
)
from skilllab.model import ResourceLimits

MIB = 2**20


def requests(number: int) -> ResourceLimits:
    return ResourceLimits(max_network_requests=number)


async def hops(request: web.Request) -> web.Response:
    """/3 redirects to /2, /1, /0, which answers with the number of requests that this server saw."""
    left = int(request.path.rpartition("/")[2])
    if left:
        return web.Response(status=302, headers={"Location": f"/{left - 1}"})
    return web.json_response("there")


# the budget of requests


def test_a_budget_of_none_sends_none() -> None:
    """With max_network_requests=0 nothing leaves, and the error says what was allowed."""

    async def work(runner: HttpRunner, api: Api) -> None:
        made = execution(ask(api, "/0"), limits=requests(0))
        with pytest.raises(
            LimitExceededError, match="s: max_network_requests=0 allows no further request after 0"
        ) as got:
            await runner.run(made)
        assert (got.value.limit, got.value.allowed, got.value.used) == ("max_network_requests", 0, 1)
        assert api.requests == []
        assert made.usage[2:4] == (0, 0)

    talk(hops, work)


@pytest.mark.parametrize("budget", [1, 2, 3, 4, 5])
def test_redirects_are_charged(budget: int) -> None:
    """A chain of three redirects needs four requests; a smaller budget stops it before the next one leaves."""

    async def work(runner: HttpRunner, api: Api) -> None:
        made = execution(ask(api, "/3"), limits=requests(budget))
        if budget < 4:
            with pytest.raises(LimitExceededError) as caught:
                await runner.run(made)
            assert (caught.value.allowed, caught.value.used) == (budget, budget + 1)
        else:
            assert await runner.run(made) == "there"
        sent = min(budget, 4)
        assert len(api.requests) == sent
        assert made.usage[2:4] == (sent, sent - 1)

    talk(hops, work)


@pytest.mark.parametrize("budget", [1, 2, 3, 9])
def test_repetitions_are_charged(budget: int) -> None:
    """A budget ends the repetitions: nobody sleeps for one that may not leave, and the last failure is told."""
    slept: list[float] = []

    async def sleep(seconds: float) -> None:
        slept.append(seconds)

    async def broken(_: web.Request) -> web.Response:
        return web.Response(status=503, text="down")

    async def work(runner: HttpRunner, api: Api) -> None:
        made = execution(ask(api), limits=requests(budget))
        with pytest.raises(SkilllabError) as caught:
            await runner.run(made)
        sent = min(budget, 4)
        assert isinstance(caught.value, LimitExceededError if budget < 4 else HttpStatusError)
        assert "answered 503: down" in str(caught.value)
        assert (len(api.requests), made.usage.network_requests, made.attempts) == (sent, sent, sent)
        assert made.usage.redirects == 0
        assert len(slept) == sent - 1

    talk(broken, work, sleep=sleep)


def test_redirects_of_each_repetition_are_counted() -> None:
    """Two tries of one redirect each are four requests, two of which were redirects."""
    tries = Counter[str]()

    async def handler(request: web.Request) -> web.Response:
        tries[request.path] += 1
        if request.path == "/":
            return web.Response(status=307, headers={"Location": "/next"})
        return web.json_response("there") if tries["/next"] == 2 else web.Response(status=500)

    async def work(runner: HttpRunner, api: Api) -> None:
        made = execution(ask(api))
        assert await runner.run(made) == "there"
        assert made.usage[2:4] == (4, 2)
        assert made.attempts == 2

    talk(handler, work)


class Flaky:
    """A server that counts each head that arrives, by its `who`, and fails, redirects, cuts or answers by chance."""

    def __init__(self, seed: int) -> None:
        self.seen = Counter[str]()
        self._chance = random.Random(seed)

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                target = (await reader.readuntil(b"\r\n\r\n")).split()[1]
                self.seen[target.rpartition(b"=")[2].decode()] += 1
                what = self._chance.random()
                if what < 0.1:
                    return
                await asyncio.sleep(0.002 if what > 0.7 else 0)
                status, where = (
                    (503, b"") if what < 0.3 else (307, b"Location: %s\r\n" % target) if what < 0.6 else (200, b"")
                )
                writer.write(b"HTTP/1.1 %d X\r\n%sContent-Length: 5\r\n\r\nthere" % (status, where))
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            return
        finally:
            writer.close()


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_the_budget_is_exact_under_a_hundred_executions(seed: int) -> None:
    """With a server that fails, redirects and cuts, and callers that are cancelled, each of a hundred executions reports
    as many requests as arrived of it, and never sends more than its budget."""

    async def main() -> None:
        flaky = Flaky(seed)
        server = await asyncio.start_server(flaky, "127.0.0.1", 0)
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        budgets = {i: i % 6 if i % 7 else None for i in range(100)}
        async with running(HttpOptions(max_redirects=9)) as runner:
            skill = ask(url, "/?who={who}")
            made = {
                i: execution(skill, {"who": str(i)}, None if budget is None else requests(budget))
                for i, budget in budgets.items()
            }
            tasks = [asyncio.create_task(runner.run(each)) for each in made.values()]
            for number, task in enumerate(tasks[::9]):
                await asyncio.sleep(0.001 * (number % 3))
                task.cancel()
            outcomes = await asyncio.gather(*tasks, return_exceptions=True)
        reported = {i: each.usage.network_requests for i, each in made.items()}
        for _ in range(1000):  # what was sent by callers that left arrives a little later
            if sum(flaky.seen.values()) >= sum(reported.values()):
                break
            await asyncio.sleep(0.001)
        server.close()
        assert {str, LimitExceededError, asyncio.CancelledError} <= {type(outcome) for outcome in outcomes}
        assert reported == {i: flaky.seen[str(i)] for i in made}
        assert all(flaky.seen[str(i)] <= budget for i, budget in budgets.items() if budget is not None)
        assert sum(flaky.seen.values()) > 100

    in_loop(main)


def test_a_request_that_never_left_is_not_charged() -> None:
    """Where nobody listens no request is sent: four attempts, none counted, and a budget of one is not used up."""

    async def main() -> None:
        server = await asyncio.start_server(lambda *_: None, "127.0.0.1", 0)
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        server.close()
        await server.wait_closed()
        async with running() as runner:
            made = execution(ask(url), limits=requests(1))
            with pytest.raises(TransportError, match="after 4 attempts"):
                await runner.run(made)
            assert (made.attempts, made.usage.network_requests) == (4, 0)

    in_loop(main)


def test_nothing_is_sent_behind_the_ledgers_back() -> None:
    """A kept connection that breaks is not tried again unasked: what may not be repeated arrives once."""
    arrived: list[bytes] = []

    async def main() -> None:
        async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            arrived.append(b"first")
            writer.write(body(b"1"))
            await reader.readuntil(b"\r\n\r\n")
            arrived.append(b"second")  # and no answer

        from http_servers import raw_serving

        async with raw_serving(answer) as url, running() as runner:
            skill = ask(url, idempotent=False)
            assert await runner.run(execution(skill)) == 1
            made = execution(skill)
            with pytest.raises(TransportError, match="not repeated"):
                await runner.run(made)
            assert made.usage.network_requests == 1
            assert arrived == [b"first", b"second"]

    in_loop(main)


# redirects


def test_too_many_redirects() -> None:
    """More redirects than the option allows is an answer that cannot be used."""

    async def work(runner: HttpRunner, api: Api) -> None:
        made = execution(ask(api, "/3"))
        with pytest.raises(InvalidResponseError, match="redirect, after 2 others"):
            await runner.run(made)
        assert made.usage[2:4] == (3, 2)

    talk(hops, work, HttpOptions(max_redirects=2))


@pytest.mark.parametrize(
    ("method", "status", "seen"),
    [
        ("POST", 301, ("GET", "")),
        ("POST", 302, ("GET", "")),
        ("POST", 303, ("GET", "")),
        ("PUT", 303, ("GET", "")),
        ("PUT", 302, ("PUT", '{"a":1}')),
        ("POST", 307, ("POST", '{"a":1}')),
        ("DELETE", 308, ("DELETE", '{"a":1}')),
    ],
)
def test_what_a_redirect_makes_of_a_request(method: Any, status: int, seen: tuple[str, str]) -> None:
    """303, and 301 and 302 after POST, become GET without a body; all others repeat the request elsewhere."""

    async def handler(request: web.Request) -> web.Response:
        if request.path == "/":
            return web.Response(status=status, headers={"Location": "../to?x=1#part"})
        assert request.path_qs == "/to?x=1"
        return web.json_response([request.method, (await request.read()).decode(), request.headers.get("Content-Type")])

    async def work(runner: HttpRunner, api: Api) -> Any:
        return await runner.run(execution(ask(api, method=method, body={"a": 1})))

    assert tuple(talk(handler, work)) == (*seen, "application/json" if seen[1] else None)


@pytest.mark.parametrize("location", ["ftp://h/x", "file:///etc/passwd", "http://[bad/", "https:", "http://h:99999/"])
def test_a_redirect_to_nowhere(location: str) -> None:
    """A Location that is no web address is an answer that cannot be used."""

    async def handler(_: web.Request) -> web.Response:
        return web.Response(status=302, headers={"Location": location})

    async def work(runner: HttpRunner, api: Api) -> None:
        with pytest.raises((InvalidResponseError, HostNotAllowedError)):
            await runner.run(execution(ask(api)))
        assert len(api.requests) == 1

    talk(handler, work)


def test_a_redirect_without_a_place_is_an_answer() -> None:
    """A 302 without a Location is returned like any other answer."""

    async def handler(_: web.Request) -> web.Response:
        return web.Response(status=302, text="moved")

    async def work(runner: HttpRunner, api: Api) -> Any:
        return await runner.run(execution(ask(api)))

    assert talk(handler, work) == "moved"


# hosts


async def two_servers(work: Any, **seams: Any) -> None:
    """A first server that redirects to a second, and a runner."""

    async def second(request: web.Request) -> web.Response:
        return web.json_response({key.lower(): value for key, value in request.headers.items()})

    async def first(request: web.Request) -> web.Response:
        to = f"{other.url}/next" + (f"?{request.query_string}" if "keep" in request.query else "")
        return web.Response(status=307, headers={"Location": to})

    async with serving(second) as other, serving(first) as api, running(**seams) as runner:
        await work(runner, api, other)


def test_a_redirect_to_another_host_is_refused_before_it_is_sent() -> None:
    """Without allowed_hosts only host and port of the URL are; the other server hears nothing."""

    async def work(runner: HttpRunner, api: Api, other: Api) -> None:
        made = execution(ask(api))
        with pytest.raises(
            HostNotAllowedError, match=f"s: its redirect \\(307\\) would go to {other.host}, which is not"
        ):
            await runner.run(made)
        assert (len(api.requests), len(other.requests)) == (1, 0)
        assert made.usage[2:4] == (1, 0)

    in_loop(lambda: two_servers(work))


def test_a_redirect_to_an_allowed_host_carries_no_credentials() -> None:
    """Headers with secrets, and credentials of any origin, stay with the first host; other headers travel."""

    async def work(runner: HttpRunner, api: Api, other: Api) -> None:
        headers = {"X-Key": "{t}", "Authorization": "Bearer own", "Cookie": "a=b", "X-Plain": "{p}"}
        skill = ask(api, headers=headers, secrets={"t": "T"}, allowed_hosts=["127.0.0.1"])
        seen = await runner.run(execution(skill, {"p": "plain"}))
        assert api.requests[0].headers["X-Key"] == "planted"
        assert api.requests[0].headers["Authorization"] == "Bearer own"
        assert {"x-key", "authorization", "cookie"}.isdisjoint(seen)
        assert seen["x-plain"] == "plain"

    in_loop(lambda: two_servers(work, environ={"T": "planted"}))


def test_a_redirect_within_the_host_carries_them() -> None:
    """To the same host and port the request keeps its secrets."""

    async def handler(request: web.Request) -> web.Response:
        if request.path == "/":
            return web.Response(status=302, headers={"Location": "/next"})
        return web.json_response(request.headers.get("X-Key"))

    async def work(runner: HttpRunner, api: Api) -> Any:
        return await runner.run(execution(ask(api, headers={"X-Key": "{t}"}, secrets={"t": "T"})))

    assert talk(handler, work, environ={"T": "planted"}) == "planted"


def test_a_redirect_gives_no_credentials() -> None:
    """User and password that a server writes into the new address are not sent."""

    async def handler(request: web.Request) -> web.Response:
        if request.path == "/":
            return web.Response(status=302, headers={"Location": f"http://user:word@{request.host}/next"})
        return web.json_response([request.headers.get("Authorization"), request.path_qs])

    async def work(runner: HttpRunner, api: Api) -> Any:
        return await runner.run(execution(ask(api)))

    assert talk(handler, work) == [None, "/next"]


@pytest.mark.parametrize(
    "fields", [{"method": "POST", "body": {"k": "{t}"}}, {"query": {"k": "{t}", "keep": "1"}}], ids=["body", "query"]
)
def test_a_redirect_that_would_hand_over_a_secret_is_refused(fields: Any) -> None:
    """A secret in the body, or one that the server copies into the new address, does not reach another host."""

    async def work(runner: HttpRunner, api: Api, other: Api) -> None:
        with pytest.raises(
            HostNotAllowedError, match=f"with its secret, its redirect would go to {other.host}"
        ) as caught:
            await runner.run(execution(ask(api, secrets={"t": "T"}, allowed_hosts=["127.0.0.1"], **fields)))
        assert "planted" not in str(caught.value)
        assert other.requests == []

    in_loop(lambda: two_servers(work, environ={"T": "planted/value"}))


@pytest.mark.parametrize(
    ("skill", "engine"), [(["localhost"], None), (None, ("localhost",)), (["127.0.0.1"], ("127.0.0.1:1",)), (None, ())]
)
def test_a_first_request_is_checked_too(skill: Any, engine: Any) -> None:
    """Neither skill nor engine may name only other hosts; nothing is sent."""

    async def work(runner: HttpRunner, api: Api) -> None:
        made = execution(ask(api, "/0", allowed_hosts=skill))
        with pytest.raises(HostNotAllowedError, match=f"s: its request would go to {api.host}"):
            await runner.run(made)
        assert api.requests == []
        assert made.usage[2:4] == (0, 0)

    talk(hops, work, HttpOptions(allowed_hosts=engine))


def test_the_engine_narrows_redirects_too() -> None:
    """A redirect that the skill allows and the engine does not is refused."""

    async def work(runner: HttpRunner, api: Api, other: Api) -> None:
        async with running(HttpOptions(allowed_hosts=[api.host])) as narrow:
            with pytest.raises(HostNotAllowedError, match=other.host):
                await narrow.run(execution(ask(api, allowed_hosts=["127.0.0.1"])))
        assert other.requests == []

    in_loop(lambda: two_servers(work))


# bytes


def answer_of(content: bytes, encoding: str, chunked: bool) -> bytes:
    packed = {"identity": lambda x: x, "gzip": gzip.compress, "deflate": zlib.compress}[encoding](content)
    head = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Encoding: " + encoding.encode() + b"\r\n"
    if not chunked:
        return head + b"Content-Length: %d\r\n\r\n" % len(packed) + packed
    pieces = [packed[i : i + 50] for i in range(0, len(packed), 50)]
    return (
        head
        + b"Transfer-Encoding: chunked\r\n\r\n"
        + b"".join(b"%x\r\n%s\r\n" % (len(piece), piece) for piece in [*pieces, b""])
    )


@settings(max_examples=60)
@given(
    limit=st.integers(1, 400),
    over=st.integers(-2, 2) | st.integers(-400, 400),
    encoding=st.sampled_from(["identity", "gzip", "deflate"]),
    chunked=st.booleans(),
    even=st.booleans(),
)
@example(limit=10, over=1, encoding="identity", chunked=True, even=True)
@example(limit=10, over=1, encoding="identity", chunked=False, even=True)
@example(limit=10, over=1, encoding="gzip", chunked=False, even=True)
def test_the_limit_of_bytes_is_exact(limit: int, over: int, encoding: str, chunked: bool, even: bool) -> None:
    """An answer of at most max_file_size bytes, decompressed, passes, however it comes; one byte more does not."""
    size = max(0, limit + over)
    content = b"x" * size if even else bytes(random.Random(size).choices(b"abcdefghij", k=size))

    async def work(runner: HttpRunner, url: str) -> None:
        made = execution(ask(url), limits=ResourceLimits(max_file_size=limit))
        if size <= limit:
            assert await runner.run(made) == content.decode()
            return
        with pytest.raises(LimitExceededError, match=r"s: GET .* answered with more than") as caught:
            await runner.run(made)
        assert (caught.value.limit, caught.value.allowed) == ("max_file_size", limit)
        assert caught.value.used is not None
        assert limit < caught.value.used
        assert made.attempts == 1

    raw_talk(sends(answer_of(content, encoding, chunked)), work)


def test_without_a_limit_the_option_holds() -> None:
    """max_bytes bounds an answer unless max_file_size says otherwise, which may also be more."""

    async def large(_: web.Request) -> web.Response:
        return web.Response(text="x" * 100)

    async def work(runner: HttpRunner, api: Api) -> None:
        with pytest.raises(LimitExceededError) as caught:
            await runner.run(execution(ask(api)))
        assert caught.value.allowed == 99
        assert len(await runner.run(execution(ask(api), limits=ResourceLimits(max_file_size=100)))) == 100

    talk(large, work, HttpOptions(max_bytes=99))


@pytest.mark.slow
@pytest.mark.parametrize("status", [200, 500])
def test_a_bomb_never_fills_memory(status: int) -> None:
    """256 MiB of zeros in 256 KiB of gzip are refused with a few MiB in use, also as the body of an error."""
    packer = zlib.compressobj(9, wbits=31)
    bomb = b"".join([packer.compress(bytes(MIB)) for _ in range(256)] + [packer.flush()])
    head = b"HTTP/1.1 %d X\r\nContent-Encoding: gzip\r\nContent-Length: %d\r\n\r\n" % (status, len(bomb))

    async def work(runner: HttpRunner, url: str) -> int:
        made = execution(ask(url, method="POST"), limits=ResourceLimits(max_file_size=2 * MIB))
        with pytest.raises(LimitExceededError if status == 200 else HttpStatusError):
            await runner.run(made)
        tracemalloc.start()
        with pytest.raises(LimitExceededError if status == 200 else HttpStatusError):
            await runner.run(made)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return peak

    assert raw_talk(sends(head, bomb), work) < 8 * MIB


def test_an_endless_gzip_of_nothing_ends() -> None:
    """Empty members without end give no byte, and are refused when no honest gzip would have sent as much."""
    empty = gzip.compress(b"") * 100

    async def endless(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\n\r\n")
        while True:
            writer.write(empty)
            await writer.drain()

    async def work(runner: HttpRunner, url: str) -> None:
        with pytest.raises(LimitExceededError):
            await runner.run(execution(ask(url), limits=ResourceLimits(max_file_size=10_000)))

    raw_talk(endless, work)


def test_an_announced_size_is_refused_unread() -> None:
    """An answer that says it is too large is not read: the server sends a head only, and nobody waits for more."""

    async def head(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\nx")
        await writer.drain()
        await asyncio.sleep(20)

    async def work(runner: HttpRunner, url: str) -> None:
        with pytest.raises(LimitExceededError) as caught:
            await runner.run(execution(ask(url), limits=ResourceLimits(max_file_size=1000)))
        assert caught.value.used == 1_000_000

    raw_talk(head, work)


# time


def test_max_duration_ends_the_request() -> None:
    """A call that runs longer is ended, its connection closed, and what it sent counted."""

    async def main() -> None:
        closed = asyncio.Event()

        async def stall(_: web.Request) -> web.Response:
            try:
                await asyncio.sleep(20)
            finally:
                closed.set()
            return web.Response()

        async with serving(stall) as api, running() as runner:
            made = execution(ask(api), limits=ResourceLimits(max_duration=0.03))
            with pytest.raises(LimitExceededError, match=r"s: it ran longer than max_duration=0\.03") as caught:
                await runner.run(made)
            assert (caught.value.limit, caught.value.allowed) == ("max_duration", 0.03)
            assert made.usage.network_requests == 1
            await closed.wait()

    in_loop(main)


def test_max_duration_does_not_count_waiting() -> None:
    """A call that waits longer than its max_duration for a connection, and then runs shortly, succeeds."""

    async def main() -> None:
        go = asyncio.Event()

        async def handler(request: web.Request) -> web.Response:
            if request.path == "/slow":
                await go.wait()
            return web.json_response("there")

        async with serving(handler) as api, running(HttpOptions(max_sockets=1)) as runner:
            slow = asyncio.create_task(runner.run(execution(ask(api, "/slow"))))
            await api.asked()
            made = execution(ask(api, "/quick"), limits=ResourceLimits(max_duration=0.1))
            quick = asyncio.create_task(runner.run(made))
            await asyncio.sleep(0.15)
            go.set()
            assert await slow == await quick == "there"
            assert made.waited > 0.1

    in_loop(main)
