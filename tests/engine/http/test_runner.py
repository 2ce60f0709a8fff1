"""The runner of layer 3: requests and answers, over real sockets."""

from __future__ import annotations

import asyncio
import gc
import gzip
import json
import warnings
import zlib
from typing import Any

import pytest
from aiohttp import web
from http_servers import (
    FAST,
    Api,
    Handler,
    answers,
    ask,
    body,
    execution,
    in_loop,
    raw_talk,
    running,
    sends,
    serving,
    talk,
)

from skilllab.define import http_skill
from skilllab.engine.http import HttpOptions, HttpRunner
from skilllab.errors import (
    EngineClosedError,
    HandlerNotRunnableError,
    HttpStatusError,
    InvalidParametersError,
    InvalidResponseError,
    InvalidValueError,
    LimitExceededError,
    TransportError,
)
from skilllab.loading import load
from skilllab.model import FunctionHandler, ResourceLimits, SkillDefinition


def once(handler: Handler, path: str = "/", params: dict[str, Any] | None = None, /, **fields: Any) -> Any:
    """The output of one run against a server with this handler."""

    async def work(runner: HttpRunner, api: Api) -> Any:
        return await runner.run(execution(ask(api, path, **fields), params))

    return talk(handler, work)


def response(**fields: Any) -> Handler:
    async def handler(_: web.Request) -> web.Response:
        return web.Response(**fields)

    return handler


async def echo(request: web.Request) -> web.Response:
    """Answers with what it was asked."""
    return web.json_response(
        {
            "method": request.method,
            "path": request.raw_path,
            "headers": {name.lower(): value for name, value in request.headers.items()},
            "body": (await request.read()).decode(),
        }
    )


# requests


def test_a_request_is_what_its_template_says() -> None:
    """Method, path, query, headers and body arrive as they were rendered."""
    said = once(
        echo,
        "/x/{a}?k=1",
        {"a": "b/c", "n": 2, "tags": ["x", "y z"]},
        method="POST",
        query={"t": "{tags}"},
        headers={"X-N": "<{n}>"},
        body={"n": "{n}", "text": "n={n}"},
    )
    assert (said["method"], said["path"]) == ("POST", "/x/b%2Fc?k=1&t=x&t=y%20z")
    assert json.loads(said["body"]) == {"n": 2, "text": "n=2"}
    headers = said["headers"]
    assert (headers["x-n"], headers["content-type"]) == ("<2>", "application/json")
    assert headers["accept-encoding"] == "gzip, deflate"
    assert "cookie" not in headers
    assert "authorization" not in headers


@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "PATCH", "DELETE"])
def test_methods(method: Any) -> None:
    """Each method is sent, without a body when there is none."""
    said = once(echo, method=method)
    assert (said["method"], said["body"]) == (method, "")


def test_a_large_body_is_sent_whole() -> None:
    """Three MiB arrive, and aiohttp has nothing to warn of."""

    async def size(request: web.Request) -> web.Response:
        return web.json_response(len(await request.read()))

    async def work(runner: HttpRunner, api: Api) -> Any:
        return await runner.run(execution(ask(api, method="PUT", body="{a}"), {"a": "x" * 3 * 2**20}))

    assert talk(size, work) == 3 * 2**20 + 2


def test_bad_parameters_send_nothing() -> None:
    """An error of the parameters comes before any request, and the usage says so."""

    async def work(runner: HttpRunner, api: Api) -> Any:
        made = execution(ask(api, "/{a}"), {})
        with pytest.raises(InvalidParametersError, match="s: parameters at /a"):
            await runner.run(made)
        assert api.requests == []
        return made.usage

    assert talk(echo, work)[2:4] == (0, 0)


def test_usage() -> None:
    """Requests and redirects are counted; CPU time and memory are None, with the reason."""

    async def work(runner: HttpRunner, api: Api) -> Any:
        made = execution(ask(api))
        await runner.run(made)
        return made

    made = talk(echo, work)
    assert made.usage[:4] == (None, None, 1, 0)
    assert set(made.usage.unmeasured) == {"cpu_time", "memory_used"}
    assert (made.attempts, made.waited, made.longest_step) == (1, 0.0, None)


def test_the_environment_names_no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    """A proxy in the environment is not used: nothing listens there, and the request arrives."""
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    monkeypatch.delenv("no_proxy", raising=False)
    assert once(answers_with(1)) == 1


def test_cookies_are_not_kept() -> None:
    """What a server sets for one call is not sent with another."""

    async def handler(request: web.Request) -> web.Response:
        reply = web.json_response(request.headers.get("Cookie"))
        reply.set_cookie("session", "of-another-caller")
        return reply

    async def work(runner: HttpRunner, api: Api) -> Any:
        return [await runner.run(execution(ask(api))) for _ in range(2)]

    assert talk(handler, work) == [None, None]


def answers_with(value: Any) -> Handler:
    async def handler(_: web.Request) -> web.Response:
        return await answers(value)

    return handler


# answers


@pytest.mark.parametrize(
    ("fields", "output"),
    [
        ({"text": '{"a": [1, null]}', "content_type": "application/json"}, {"a": [1, None]}),
        ({"text": "[1]", "content_type": "application/problem+json"}, [1]),
        ({"text": "[1]", "content_type": "text/plain"}, "[1]"),
        ({"text": "", "content_type": "text/plain"}, ""),
        ({"body": "é".encode("latin-1"), "headers": {"Content-Type": "text/plain; charset=latin-1"}}, "é"),
        ({"body": "é".encode("utf-16"), "headers": {"Content-Type": 'text/plain; charset="UTF-16"'}}, "é"),
        ({"body": b"\xef\xbb\xbf[1]", "content_type": "application/json"}, [1]),
        ({"body": '"é"'.encode("latin-1"), "headers": {"Content-Type": "application/json;charset=latin-1"}}, "é"),
        ({"status": 204}, None),
        ({"status": 205}, None),
        ({"status": 201, "text": "1", "content_type": "application/json"}, 1),
        ({"status": 300, "text": "choose"}, "choose"),
    ],
)
def test_an_answer_is_what_its_type_says(fields: dict[str, Any], output: Any) -> None:
    """JSON types give the value, other types the text in their charset, no body gives None."""
    assert once(response(**fields)) == output


def test_head_has_no_body() -> None:
    """The answer to HEAD is None, whatever it says about its length, and whatever the limit."""

    async def work(runner: HttpRunner, url: str) -> Any:
        return await runner.run(execution(ask(url, method="HEAD", response_path="a")))

    assert raw_talk(sends(body(b"", length=10**12)), work) is None


def test_an_empty_answer_of_no_type_is_none() -> None:
    """A 200 without a body and without a type is None."""

    async def work(runner: HttpRunner, url: str) -> Any:
        return await runner.run(execution(ask(url)))

    assert raw_talk(sends(body(b"", head=b"X: y")), work) is None


@pytest.mark.parametrize(
    ("fields", "why"),
    [
        ({"text": '{"a": ', "content_type": "application/json"}, "no JSON: line 1, column 7"),
        ({"text": "", "content_type": "application/json"}, "no JSON: it is empty"),
        ({"text": "[NaN]", "content_type": "application/json"}, "no JSON: it has NaN"),
        ({"text": "[" * 100_000, "content_type": "application/json"}, "no JSON: it is nested too deeply"),
        ({"text": "9" * 5000, "content_type": "application/json"}, "no JSON: Exceeds the limit"),
        ({"body": b"\xff\xfe\xfd", "content_type": "application/json"}, "no utf-8 text"),
        ({"body": b"\x89PNG\xff", "content_type": "image/png"}, r"\(image/png\) is no utf-8 text"),
        ({"body": b"a", "headers": {"Content-Type": "text/plain; charset=klingon"}}, "charset 'klingon' is unknown"),
        ({"body": b"a", "headers": {"Content-Type": "text/plain; charset=base64"}}, "charset 'base64' is unknown"),
        ({"body": b"\xff", "headers": {"Content-Type": "text/plain; charset=ascii"}}, "no ascii text"),
        ({"body": b"x", "headers": {"Content-Encoding": "br"}}, "Content-Encoding 'br' was not asked for"),
        ({"body": b"xxxxxx", "headers": {"Content-Encoding": "gzip"}}, "gzip is broken"),
        ({"body": zlib.compress(b"x") + b"y", "headers": {"Content-Encoding": "deflate"}}, "deflate is broken"),
    ],
)
def test_an_answer_that_is_not_what_it_says(fields: dict[str, Any], why: str) -> None:
    """The error names the skill, its request, and what was wrong with the answer."""
    with pytest.raises(InvalidResponseError, match=rf"s: GET http://127.0.0.1:\d+/ gave an answer .*{why}"):
        once(response(**fields))


def test_response_path() -> None:
    """The part at the path is the output, whatever the Content-Type; a missing key is named."""
    reply = response(text='{"items": [{"id": 1}], "none": null}', content_type="text/html")
    assert once(reply, response_path="items[].id") == [1]
    assert once(reply, response_path="none") is None
    with pytest.raises(InvalidResponseError, match=r"response_path='items\[0\].name': there is no 'name'"):
        once(reply, response_path="items[0].name")
    with pytest.raises(InvalidResponseError, match="no JSON"):
        once(response(text="<html>"), response_path="items")


@pytest.mark.parametrize("status", [400, 401, 404, 418, 501])
def test_a_status_that_says_error(status: int) -> None:
    """The error has the status, the request and the first words of the answer."""
    with pytest.raises(HttpStatusError) as caught:
        once(response(status=status, text="no\n  such <thing>" + "x" * 10_000))
    assert caught.value.status == status
    assert f"answered {status}: no such <thing>xxx" in str(caught.value)
    assert len(str(caught.value)) < 300
    assert caught.value.trips_breaker is (status == 501)


@pytest.mark.parametrize(
    "fields",
    [
        {"body": b"\xff\xfe"},
        {"body": b"x", "headers": {"Content-Type": "text/plain; charset=klingon"}},
        {"body": b"x", "headers": {"Content-Encoding": "gzip"}},
        {"body": b"x" * 2**20},
        {"body": b""},
    ],
)
def test_a_status_counts_more_than_an_unreadable_body(fields: dict[str, Any]) -> None:
    """The status is told even when the body that came with it is no text, broken, or too long."""
    with pytest.raises(HttpStatusError, match="answered 404"):
        once(response(status=404, **fields))


# compression


@pytest.mark.parametrize(
    ("encoding", "content"),
    [
        ("gzip", gzip.compress(b'{"a": 1}')),
        ("x-gzip", gzip.compress(b'{"a": 1}')),
        ("gzip", gzip.compress(b'{"a"') + gzip.compress(b": 1}") + gzip.compress(b"")),
        ("gzip", gzip.compress(b'{"a": 1}') + b"\0" * 512),
        ("deflate", zlib.compress(b'{"a": 1}')),
        ("deflate", zlib.compress(b'{"a": 1}')[2:-4]),
        ("identity", b'{"a": 1}'),
    ],
    ids=["gzip", "x-gzip", "gzip in parts", "gzip with zeros behind", "deflate", "raw deflate", "identity"],
)
@pytest.mark.parametrize("step", [1, 7, 10_000])
def test_compressed_answers(encoding: str, content: bytes, step: int) -> None:
    """Gzip (many members, padding) and both kinds of deflate are inflated, in whatever pieces they come."""

    async def work(runner: HttpRunner, url: str) -> Any:
        return await runner.run(execution(ask(url)))

    whole = body(content, head=b"Content-Type: application/json\r\nContent-Encoding: " + encoding.encode())
    pieces = [whole[i : i + step] for i in range(0, len(whole), step)]
    assert raw_talk(sends(*pieces), work) == {"a": 1}


@pytest.mark.parametrize("cut", [1, 5, 12, 20, -9, -1])
@pytest.mark.parametrize("encoding", ["gzip", "deflate"])
def test_compression_that_ends_too_early(encoding: str, cut: int) -> None:
    """A text whose compression stops early is an error, even though the bytes that were announced all came."""
    text = b"some text that compresses hardly at all: 0123456789"
    content = (gzip.compress(text) if encoding == "gzip" else zlib.compress(text))[:cut]

    async def work(runner: HttpRunner, url: str) -> Any:
        with pytest.raises(InvalidResponseError, match=f"s: GET .*its {encoding} (ends too early|is broken)"):
            await runner.run(execution(ask(url)))

    raw_talk(sends(body(content, head=b"Content-Type: text/plain\r\nContent-Encoding: " + encoding.encode())), work)


# connections


def test_one_connection_is_kept() -> None:
    """Calls one after the other, errors and skipped bodies among them, use one connection."""

    async def handler(request: web.Request) -> web.Response:
        return web.Response(status=int(request.path[1:]), text="x" * 100)

    async def work(runner: HttpRunner, api: Api) -> None:
        for status in (200, 404, 200, 200):
            made = execution(ask(api, "/{status}"), {"status": status})
            if status == 404:
                with pytest.raises(HttpStatusError):
                    await runner.run(made)
            else:
                await runner.run(made)
        assert len(api.connections) == 1

    talk(handler, work)


def test_max_sockets_bounds_requests_and_waiting_is_noted() -> None:
    """Of ten calls two are at the server at once; the others wait, and their waiting is no time of the skill."""
    at_once, most = 0, 0

    async def handler(_: web.Request) -> web.Response:
        nonlocal at_once, most
        at_once += 1
        most = max(most, at_once)
        await asyncio.sleep(0.005)
        at_once -= 1
        return web.json_response(1)

    async def work(runner: HttpRunner, api: Api) -> Any:
        made = [execution(ask(api)) for _ in range(10)]
        await asyncio.gather(*map(runner.run, made))
        return [each.waited for each in made]

    waited = talk(handler, work, HttpOptions(max_sockets=2))
    assert most == 2
    assert waited[:2] == [0.0, 0.0]
    assert all(seconds > 0 for seconds in waited[2:])


def test_who_leaves_the_queue_for_a_connection_leaves_it_whole() -> None:
    """A call cancelled while it waits has sent nothing, its waiting is noted, and its place goes to the next."""
    gate = asyncio.Event

    async def main() -> None:
        go = gate()

        async def handler(_: web.Request) -> web.Response:
            await go.wait()
            return web.json_response(1)

        async with serving(handler) as api, running(HttpOptions(max_sockets=1)) as runner:
            made = [execution(ask(api)) for _ in range(3)]
            tasks = [asyncio.create_task(runner.run(each)) for each in made]
            await api.asked()
            tasks[1].cancel()
            await asyncio.wait([tasks[1]])
            go.set()
            assert [await tasks[0], await tasks[2]] == [1, 1]
            assert [each.usage.network_requests for each in made] == [1, 0, 1]
            assert made[1].waited > 0
            assert len(api.requests) == 2

    in_loop(main)


@pytest.mark.parametrize(
    "cut",
    [
        body(b'{"a": 1}', length=100),
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Type: text/plain\r\n\r\n5\r\nhello\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Le",
        b"",
    ],
)
def test_a_connection_that_is_cut(cut: bytes) -> None:
    """A connection that ends within an answer, or before one, is a TransportError that names the skill."""

    async def work(runner: HttpRunner, url: str) -> Any:
        with pytest.raises(TransportError, match=r"s: POST http://127.*the connection (was cut|broke)"):
            await runner.run(execution(ask(url, method="POST")))

    raw_talk(sends(cut), work)


@pytest.mark.parametrize(
    "garbage",
    [
        b"SSH-2.0-OpenSSH\r\n\r\n",
        b"HTTP/1.1 two hundred\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX: " + b"y" * 100_000 + b"\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n: novalue\r\n\r\n",
    ],
)
def test_an_answer_that_is_no_http(garbage: bytes) -> None:
    """What is no HTTP is an answer that cannot be used, and not one to ask for again."""

    async def work(runner: HttpRunner, url: str) -> Any:
        made = execution(ask(url))
        with pytest.raises(InvalidResponseError, match="no valid HTTP"):
            await runner.run(made)
        assert made.attempts == 1

    raw_talk(sends(garbage), work)


def test_a_server_that_is_not_there() -> None:
    """A refused connection names the host, through the template, and why."""

    async def main() -> None:
        server = await asyncio.start_server(lambda *_: None, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        server.close()
        await server.wait_closed()
        async with running() as runner:
            with pytest.raises(
                TransportError, match=rf"s: POST http://127.0.0.1:{port}/: cannot connect: Connection refused"
            ):
                await runner.run(execution(ask(f"http://127.0.0.1:{port}", method="POST")))

    in_loop(main)


def test_a_request_that_takes_too_long() -> None:
    """One request ends after its timeout; its connection is closed and not used again."""

    async def main() -> None:
        closed = asyncio.Event()

        async def stall(request: web.Request) -> web.Response:
            try:
                await asyncio.sleep(20)
            finally:
                closed.set()
            return web.Response()

        async with serving(stall) as api, running(HttpOptions(timeout=0.02)) as runner:
            with pytest.raises(TransportError, match=r"s: POST .*no whole answer within 20\.0 ms"):
                await runner.run(execution(ask(api, method="POST")))
            await closed.wait()

    in_loop(main)


def test_a_body_that_never_ends() -> None:
    """The timeout covers the whole answer: a body that comes in drops does not prolong it."""

    async def drip(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n")
        while True:
            writer.write(b"x")
            await writer.drain()
            await asyncio.sleep(0.002)

    async def work(runner: HttpRunner, url: str) -> Any:
        with pytest.raises(TransportError, match=r"no whole answer within 50\.0 ms"):
            await runner.run(execution(ask(url, method="POST")))

    raw_talk(drip, work, HttpOptions(timeout=0.05))


# lifetime


def test_closing_leaves_nothing_open() -> None:
    """After aclose no task and no transport of the runner is left, and nothing warns."""

    async def main() -> None:
        async with serving(echo) as api:
            runner = HttpRunner(FAST)
            before = asyncio.all_tasks()
            await asyncio.gather(*(runner.run(execution(ask(api))) for _ in range(5)))
            stuck = asyncio.create_task(runner.run(execution(ask(api))))
            await asyncio.sleep(0)
            stuck.cancel()
            await asyncio.wait([stuck])
            await runner.aclose()
            for _ in range(20):  # the server's side of the connections ends
                await asyncio.sleep(0.001)
            assert asyncio.all_tasks() <= before
            assert all(transport.is_closing() for transport in api.connections)
            await runner.aclose()
            with pytest.raises(EngineClosedError):
                await runner.run(execution(ask(api)))

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        in_loop(main)
        gc.collect()


def test_a_runner_that_was_not_used_closes() -> None:
    """Closing without a request opens nothing."""

    async def main() -> None:
        await HttpRunner().aclose()

    in_loop(main)


def test_closing_during_a_request_ends_it() -> None:
    """A request under way when the runner is closed fails with a typed error."""

    async def main() -> None:
        async with serving(lambda _: asyncio.sleep(20, web.Response())) as api:
            runner = HttpRunner(FAST)
            task = asyncio.create_task(runner.run(execution(ask(api, method="POST"))))
            await api.asked()
            await runner.aclose()
            with pytest.raises((EngineClosedError, TransportError)):
                await task

    in_loop(main)


def test_cancelling_ends_the_request() -> None:
    """Cancellation passes through, closes the connection, and the request that was sent is counted."""

    async def main() -> None:
        closed = asyncio.Event()

        async def stall(_: web.Request) -> web.Response:
            try:
                await asyncio.sleep(20)
            finally:
                closed.set()
            return web.Response()

        async with serving(stall) as api, running() as runner:
            made = execution(ask(api))
            task = asyncio.create_task(runner.run(made))
            await api.asked()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            await closed.wait()
            assert made.usage.network_requests == 1

    in_loop(main)


def test_calls_that_end_badly_give_their_place_back() -> None:
    """With one connection at most, a call goes through after others were cancelled, cut off or refused."""

    async def main() -> None:
        async def handler(request: web.Request) -> web.Response:
            if request.path == "/stall":
                await asyncio.sleep(20)
            return web.Response(status=418 if request.path == "/pot" else 200, text="x" * 100)

        async with serving(handler) as api, running(HttpOptions(max_sockets=1, timeout=0.05, retries=0)) as runner:
            task = asyncio.create_task(runner.run(execution(ask(api, "/stall"))))
            await api.asked()
            task.cancel()
            await asyncio.wait([task])
            for path, limits, kind in (
                ("/stall", None, TransportError),
                ("/pot", None, HttpStatusError),
                ("/", ResourceLimits(max_file_size=9), LimitExceededError),
            ):
                with pytest.raises(kind):
                    await runner.run(execution(ask(api, path), limits=limits))
            made = execution(ask(api))
            assert len(await runner.run(made)) == 100
            assert made.waited == 0

    in_loop(main)


def test_streams_are_refused() -> None:
    """An answer comes whole."""
    with pytest.raises(HandlerNotRunnableError, match="s: an http handler does not stream"):
        HttpRunner().stream(execution(http_skill(id="s", url="http://h/")))


def test_another_kind_of_handler_is_refused() -> None:
    """A function in the wrong hands is a typed error."""
    wrong = SkillDefinition(id="f", name="f", layer=1, handler=FunctionHandler(target="m:f", function=len))

    async def main() -> None:
        async with running() as runner:
            with pytest.raises(HandlerNotRunnableError, match="f: its handler is no request"):
                await runner.run(execution(wrong))

    in_loop(main)


def test_a_new_revision_is_compiled_anew() -> None:
    """A skill that was changed sends its new request."""

    async def work(runner: HttpRunner, api: Api) -> Any:
        paths = []
        for path in ("/one", "/two", "/one"):
            made = execution(ask(api, path))
            made.skill = load(made.skill.definition, 2)
            paths.append((await runner.run(made))["path"])
        return paths

    assert talk(echo, work) == ["/one", "/two", "/one"]


@pytest.mark.parametrize(
    "fields",
    [
        {"max_sockets": 0},
        {"max_sockets": True},
        {"timeout": 0},
        {"timeout": "1"},
        {"retries": -1},
        {"retries": 1.0},
        {"backoff": None},
        {"backoff": 0},
        {"max_backoff": float("inf")},
        {"max_bytes": 0},
        {"max_redirects": -1},
        {"batch_wait": -1},
        {"batch_wait": None},
        {"keep_alive": 0},
        {"cache_ttl": 0},
        {"allowed_hosts": "a"},
        {"allowed_hosts": ["http://a"]},
        {"allowed_hosts": [1]},
    ],
)
def test_options_are_checked(fields: dict[str, Any]) -> None:
    """An option that makes no sense is refused by name."""
    with pytest.raises(InvalidValueError, match=next(iter(fields))):
        HttpOptions(**fields)


def test_options_that_turn_off() -> None:
    """None is no end, 0 is none at all, and hosts are kept as a tuple."""
    options = HttpOptions(timeout=None, cache_ttl=None, retries=0, max_redirects=0, batch_wait=0, allowed_hosts=["a"])
    assert options.allowed_hosts == ("a",)
