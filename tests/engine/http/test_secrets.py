"""A planted secret is sent where it belongs and found nowhere else."""

from __future__ import annotations

import asyncio
import gc
import json
import logging
import pickle
import traceback
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

import pytest
from aiohttp import web
from http_servers import Api, Handler, Sleeper, ask, execution, in_loop, raw_talk, running, sends, serving, talk

from skilllab.define import http_skill
from skilllab.engine import LayeredExecutionEngine
from skilllab.engine.http import HttpOptions, HttpRunner
from skilllab.engine.lanes import check_output
from skilllab.errors import InvalidOutputError, SkilllabError
from skilllab.loading import load
from skilllab.model import ResourceLimits
from skilllab.registry import InMemorySkillRegistry

SECRET = 'zq7"xk/vv9\\wj8 é+%'
FORMS = {SECRET, quote(SECRET), quote(SECRET, safe=""), json.dumps(SECRET)[1:-1], repr(SECRET)[1:-1], "zq7", "wj8"}
ENVIRON = {"API_TOKEN": SECRET}
EVERYWHERE: dict[str, Any] = {
    "headers": {"Authorization": "Bearer {token}"},
    "query": {"key": "{token}"},
    "body": {"deep": ["{token}", "x{token}"]},
    "secrets": {"token": "API_TOKEN"},
    "method": "PUT",
}


def chain(error: BaseException) -> Iterator[BaseException]:
    """The error and everything that hangs on it."""
    seen: list[BaseException | None] = [None]
    waiting: list[BaseException | None] = [error]
    while waiting:
        found = waiting.pop()
        if found in seen:
            continue
        assert found is not None
        seen.append(found)
        yield found
        waiting += [found.__cause__, found.__context__]


def texts(error: BaseException) -> Iterator[str]:
    """All that can be read of an error: texts, pickles, tracebacks, and the variables of their frames."""
    yield "".join(traceback.format_exception(error))
    for each in chain(error):
        yield from (
            str(each),
            repr(each),
            repr(vars(each)),
            repr(each.args),
            repr(each.__notes__ if hasattr(each, "__notes__") else ""),
        )
        for frame, _ in traceback.walk_tb(each.__traceback__):
            if "/tests/" not in frame.f_code.co_filename:
                yield from (f"{frame.f_code.co_qualname} {name}={value!r}" for name, value in frame.f_locals.items())
    if isinstance(error, SkilllabError):
        yield pickle.dumps(error).decode("latin-1")


def assert_clean(found: Iterator[str] | list[str]) -> None:
    for text in found:
        for form in FORMS:
            assert form not in text, text


async def said(request: web.Request) -> str:
    """All that a server was told."""
    return f"{dict(request.headers)} {request.path_qs} {request.query_string} {(await request.read()).decode()}"


def status(code: int) -> Handler:
    async def handler(request: web.Request) -> web.Response:
        return web.Response(status=code, text=await said(request) + SECRET * 30, headers={"Retry-After": "1"})

    return handler


async def json_status(request: web.Request) -> web.Response:
    return web.json_response({"you": SECRET, "sent": dict(request.headers)}, status=401)


async def no_json(request: web.Request) -> web.Response:
    return web.Response(text="{" + await said(request), content_type="application/json")


async def no_text(_: web.Request) -> web.Response:
    return web.Response(body=SECRET.encode() + b"\xff", content_type="text/plain")


async def no_charset(_: web.Request) -> web.Response:
    return web.Response(body=b"x", headers={"Content-Type": f"text/plain; charset={quote(SECRET, safe='')}"})


async def no_encoding(_: web.Request) -> web.Response:
    return web.Response(body=b"x", headers={"Content-Encoding": SECRET})


async def no_path(_: web.Request) -> web.Response:
    return web.json_response({SECRET: SECRET})


def redirect(to: str) -> Handler:
    async def handler(_: web.Request) -> web.Response:
        return web.Response(status=307, headers={"Location": to})

    return handler


HANDLERS: dict[str, tuple[Handler, dict[str, Any]]] = {
    "400": (status(400), {}),
    "503 four times": (status(503), {}),
    "503 unrepeated": (status(503), {"idempotent": False}),
    "JSON error": (json_status, {}),
    "no JSON": (no_json, {}),
    "no text": (no_text, {}),
    "no charset": (no_charset, {}),
    "no encoding": (no_encoding, {}),
    "no path": (no_path, {"response_path": "a.b"}),
    "redirect away": (redirect(f"http://other.example/?{quote(SECRET)}"), {}),
    "redirect with secret": (
        redirect(f"http://localhost:1/{quote(SECRET)}"),
        {"allowed_hosts": ["127.0.0.1", "localhost"]},
    ),
    "redirect to secret": (redirect("http://zq7.example/"), {}),
    "redirect to no URL": (redirect(f"http://[{quote(SECRET)}"), {}),
    "redirect to no web": (redirect(f"ftp://h/{quote(SECRET)}"), {}),
    "redirect for ever": (redirect("/"), {}),
}


@pytest.mark.parametrize("name", HANDLERS)
def test_no_error_tells_a_secret(name: str, caplog: pytest.LogCaptureFixture) -> None:
    """Whatever a server answers, quoting what it was sent: nothing of the error, its chain, its frames or a log has it."""
    handler, fields = HANDLERS[name]
    caplog.set_level(logging.DEBUG)

    async def work(runner: HttpRunner, api: Api) -> None:
        assert asyncio.get_running_loop().get_debug() is False
        made = execution(ask(api, **{**EVERYWHERE, **fields}))
        with pytest.raises(SkilllabError) as caught:
            await runner.run(made)
        assert api.requests[0].headers["Authorization"] == f"Bearer {SECRET}"
        assert api.requests[0].query["key"] == SECRET
        assert json.loads(api.bodies[0]) == {"deep": [SECRET, f"x{SECRET}"]}
        shown = [repr(made), repr(made.usage), repr(runner), repr(made.skill), made.skill.definition.model_dump_json()]
        error = caught.value
        if name == "redirect to secret":
            return  # the host of another server; see the test of scrubbing
        assert_clean([*texts(error), *shown, caplog.text])

    talk(handler, work, environ=ENVIRON)


RAW = {
    "cut": b"",
    "cut in the body": b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n" + SECRET.encode(),
    "no HTTP": SECRET.encode() + b"\r\n\r\n",
    "bad header": b"HTTP/1.1 200 OK\r\n" + SECRET.encode() + b"\r\n\r\n",
    "bad chunk": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + SECRET.encode() + b"\r\n\r\n",
    "too large": b"HTTP/1.1 200 OK\r\n\r\n" + SECRET.encode() * 100,
    "bad gzip": b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 9\r\n\r\n" + SECRET.encode()[:9],
}


@pytest.mark.parametrize("name", RAW)
def test_no_broken_connection_tells_a_secret(name: str, caplog: pytest.LogCaptureFixture) -> None:
    """The errors of aiohttp quote URLs and headers; ours do not, and theirs do not hang on them."""
    caplog.set_level(logging.DEBUG)

    async def work(runner: HttpRunner, url: str) -> None:
        made = execution(ask(url, **EVERYWHERE), limits=ResourceLimits(max_file_size=500))
        with pytest.raises(SkilllabError) as caught:
            await runner.run(made)
        assert_clean([*texts(caught.value), caplog.text])
        assert [type(each).__module__ for each in chain(caught.value)] == ["skilllab.errors"]

    raw_talk(sends(RAW[name]), work, environ=ENVIRON)


def test_no_timeout_or_refused_connection_tells_a_secret(caplog: pytest.LogCaptureFixture) -> None:
    """Stalls, limits of time, budgets, and a server that is not there."""
    caplog.set_level(logging.DEBUG)

    async def stall(_: web.Request) -> web.Response:
        await asyncio.sleep(20)
        return web.Response()

    async def main() -> None:
        async with serving(stall) as api, running(HttpOptions(timeout=0.01, retries=1), environ=ENVIRON) as runner:
            skill = ask(api, **EVERYWHERE)
            cases = [
                execution(skill),
                execution(skill, limits=ResourceLimits(max_duration=0.005)),
                execution(skill, limits=ResourceLimits(max_network_requests=1)),
                execution(ask("http://127.0.0.1:9", **EVERYWHERE)),
                execution(ask("http://no-such-host.invalid", **EVERYWHERE)),
                execution(ask(api, "/{p}", **EVERYWHERE), {}),
                execution(ask(api, "/{p}", **EVERYWHERE), {"p": ".."}),
            ]
            for made in cases:
                with pytest.raises(SkilllabError) as caught:
                    await runner.run(made)
                assert_clean([*texts(caught.value), caplog.text])

    in_loop(main)


def test_no_missing_secret_tells_the_others() -> None:
    """With one of two secrets missing, the error names the variable and has nothing of the other."""

    async def main() -> None:
        fields = {"headers": {"A": "{token}", "B": "{other}"}, "secrets": {"token": "API_TOKEN", "other": "OTHER"}}
        async with running(environ=ENVIRON) as runner:
            with pytest.raises(SkilllabError, match="OTHER") as caught:
                await runner.run(execution(ask("http://127.0.0.1:9", **fields)))
            assert_clean(texts(caught.value))

    in_loop(main)


def test_a_batch_keeps_the_secret_too() -> None:
    """Requests that are shared, their parts and their failures tell nothing either."""

    async def handler(request: web.Request) -> web.Response:
        parts = [
            {"status": 401, "body": {"you": await said(request) + SECRET}},
            SECRET,
            {"status": 200, "body": SECRET},
        ]
        return web.json_response({"answers": parts})

    async def work(runner: HttpRunner, api: Api) -> None:
        fields = {"headers": {"A": "{token}"}, "query": {"k": "{token}"}, "secrets": {"token": "API_TOKEN"}}
        skill = ask(api, "/{n}", batch={"url": f"{api.url}/b"}, response_path="x", **fields)
        outcomes = await asyncio.gather(
            *(runner.run(execution(skill, {"n": n})) for n in range(3)), return_exceptions=True
        )
        for outcome in outcomes:
            assert isinstance(outcome, SkilllabError)
            assert_clean(texts(outcome))
        assert api.requests[0].query["k"] == SECRET

    talk(handler, work, environ=ENVIRON)


def test_no_event_result_or_cache_key_of_an_engine_tells_a_secret(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Through a whole engine: events, results, reprs, the cache of results and the log, after success and failure."""
    caplog.set_level(logging.DEBUG)
    monkeypatch.setenv("API_TOKEN", SECRET)

    async def handler(request: web.Request) -> web.Response:
        if request.path == "/good":
            return web.json_response("there")
        return web.Response(status=404, text=await said(request))

    async def main() -> None:
        async with serving(handler) as api:
            registry = InMemorySkillRegistry()
            await registry.register(ask(api, "/{p}", cacheable=True, **EVERYWHERE))
            found: list[str] = []
            async with LayeredExecutionEngine(registry) as engine:
                for name in ("execution-start", "execution-complete"):
                    engine.on(name, lambda event: found.append(repr(event)))
                for path in ("good", "good", "bad"):
                    result = await engine.execute("s", {"p": path})
                    found += [repr(result), repr(result.metadata), *(texts(result.error) if result.error else ())]
                assert engine.results is not None
                found += [repr(engine.results), repr(engine.results.stats()), repr(vars(engine.results))]
            assert len(api.requests) == 2
            assert all(request.query["key"] == SECRET for request in api.requests)
            assert_clean([*found, caplog.text])

    in_loop(main)


def test_nothing_is_logged_when_a_caller_leaves(caplog: pytest.LogCaptureFixture) -> None:
    """In the loop's debug mode, which logs what was not closed with its URL, a cancelled call leaves no word."""
    caplog.set_level(logging.DEBUG)

    async def main() -> None:
        asyncio.get_running_loop().set_debug(True)
        asyncio.get_running_loop().slow_callback_duration = 60.0

        async def stall(_: web.Request) -> web.Response:
            await asyncio.sleep(20)
            return web.Response()

        async with serving(stall) as api, running(environ=ENVIRON, sleep=Sleeper()) as runner:
            task = asyncio.create_task(runner.run(execution(ask(api, **EVERYWHERE))))
            await api.asked()
            task.cancel()
            with pytest.raises(asyncio.CancelledError) as caught:
                await task
            assert_clean(["".join(traceback.format_exception(caught.value)), str(caught.value), repr(caught.value)])
        gc.collect()

    in_loop(main)
    assert_clean([caplog.text])


def test_an_answer_that_echoes_a_secret_is_not_quoted() -> None:
    """The error of an output that does not fit its schema withholds the value where the skill has secrets."""
    schema = {"type": "object", "properties": {"echo": {"type": "integer"}}}
    made = http_skill(
        id="s", url="http://127.0.0.1/", headers={"A": "{token}"}, secrets={"token": "API_TOKEN"}, output_schema=schema
    )
    with pytest.raises(InvalidOutputError, match=r"output at /echo .* withheld") as caught:
        check_output(load(made, 1), {"echo": SECRET})
    assert not any(form in str(each) for each in chain(caught.value) for form in FORMS)
