"""What the demo server answers, over real sockets."""

from __future__ import annotations

import asyncio
import gzip
import io
import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from skilllab.demo import DemoServer, DemoSettings
from skilllab.demo.answers import accepts_gzip
from skilllab.demo.content import USERS

CATALOGUE = json.loads((Path(__file__).parents[2] / "data" / "catalogue.json").read_text(encoding="utf-8"))
Check = Callable[[DemoServer, aiohttp.ClientSession], Awaitable[Any]]


def with_server(check: Check, settings: DemoSettings | None = None, **session: Any) -> Any:
    """Runs a check against a new server, with a client whose paths begin at its address."""

    async def run() -> Any:
        async with DemoServer(settings) as server, aiohttp.ClientSession(server.url, **session) as client:
            return await asyncio.wait_for(check(server, client), 30)

    return asyncio.run(run())


def get(path: str, settings: DemoSettings | None = None, method: str = "GET", **options: Any) -> tuple[int, Any, Any]:
    """Status, headers and JSON of one request to a new server."""

    async def check(_: DemoServer, client: aiohttp.ClientSession) -> tuple[int, Any, Any]:
        async with client.request(method, path, allow_redirects=False, **options) as answer:
            assert answer.content_type == "application/json"
            return answer.status, answer.headers, await answer.json()

    result: tuple[int, Any, Any] = with_server(check, settings)
    return result


def api_examples() -> list[tuple[dict[str, Any], dict[str, Any]]]:
    skills = [skill for skill in CATALOGUE["skills"] if skill["layer"] == 3]
    return [(skill["handler"], example) for skill in skills for example in skill["input_schema"]["examples"]]


def fill(template: Any, params: dict[str, Any]) -> Any:
    if isinstance(template, dict):
        return {key: fill(value, params) for key, value in template.items()}
    return template.format(**params)


@pytest.mark.parametrize(("handler", "params"), api_examples(), ids=lambda part: str(part.get("url", "")))
def test_the_catalogues_examples_are_answered(handler: dict[str, Any], params: dict[str, Any]) -> None:
    """Every API skill of the shipped catalogue gets an answer to its own example, with what its response path names."""
    path = "/" + fill(handler["url"], params).split("/", 3)[3]
    options = {"params": fill(handler.get("query", {}), params)}
    if "body" in handler:
        options["json"] = fill(handler["body"], params)
    status, _, answer = get(path, method=handler.get("method", "GET"), headers=handler.get("headers"), **options)
    assert status == 200
    assert answer[handler["response_path"]] if "response_path" in handler else answer


def test_content_is_that_of_the_seed() -> None:
    """The same seed gives the same answers on every server, another seed others."""
    for path in ("/cities/Bergen/weather", "/users/17", "/products?q=lamp+oil&limit=5"):
        assert get(path)[2] == get(path)[2] != get(path, DemoSettings(seed=1))[2]


def test_weather_is_found_in_any_case() -> None:
    """A city is found however it is written, and answered by its name."""
    assert get("/cities/bERGEN/weather")[2]["city"] == "Bergen"


def test_users_have_numbers() -> None:
    """The first and the last user exist and carry their numbers."""
    assert get("/users/1")[2]["id"] == 1
    assert get(f"/users/{USERS}")[2]["id"] == USERS


def test_products_hold_every_word() -> None:
    """A search returns at most `limit` products, all with every word of the text, and says how many there are."""
    found = get("/products?q=OIL+lamp&limit=3")[2]
    assert len(found["items"]) == 3 < found["total"]
    assert all("lamp" in item["name"] and "oil" in item["name"] for item in found["items"])
    assert get("/products?q=unicorn")[2]["items"] == []


def test_echo_returns_what_came() -> None:
    """Echo returns method, query, headers and body, but neither credentials nor cookies."""
    headers = {"X-Trace": "7", "Authorization": "Bearer hush", "Cookie": "a=hush"}
    _, _, answer = get("/echo?a=1", method="POST", json={"message": ["hi", None, "ü"]}, headers=headers)
    assert answer["body"] == {"message": ["hi", None, "ü"]}
    assert (answer["method"], answer["query"], answer["headers"]["x-trace"]) == ("POST", {"a": "1"}, "7")
    assert "hush" not in json.dumps(answer)
    assert get("/echo", method="POST", data="plain")[2]["body"] == "plain"


@pytest.mark.parametrize(
    ("method", "path", "options", "status", "message"),
    [
        ("GET", "/cities/Atlantis/weather", {}, 404, "city='Atlantis'"),
        ("GET", f"/users/{USERS + 1}", {}, 404, f"no user {USERS + 1}"),
        ("GET", "/users/0", {}, 404, "no user 0"),
        ("GET", "/users/me", {}, 400, "user_id='me'"),
        ("GET", "/users/" + "9" * 5000, {}, 400, "must be a whole number"),
        ("GET", "/products?limit=51", {}, 400, "limit='51' must be a whole number of 1 to 50"),
        ("GET", "/bytes?size=-1", {}, 400, "size='-1'"),
        ("GET", "/bytes?size=67108865", {}, 400, "size='67108865'"),
        ("GET", "/redirect?times=0", {}, 400, "times='0'"),
        ("GET", "/redirect?to=http://[", {}, 400, "is no URL"),
        ("GET", "/nothing", {}, 404, "Not Found"),
        ("GET", "/echo", {}, 405, "Method Not Allowed"),
        ("POST", "/echo", {"data": b"{", "headers": {"Content-Type": "application/json"}}, 400, "not JSON"),
        ("POST", "/echo", {"data": b"[" * 5000, "headers": {"Content-Type": "application/json"}}, 400, "not JSON"),
        ("POST", "/echo", {"data": b"NaN", "headers": {"Content-Type": "application/json"}}, 400, "NaN is not JSON"),
        ("POST", "/echo", {"data": io.BytesIO(b"a" * 2_000_000)}, 413, "Maximum request body size"),
        ("POST", "/batch/users", {"json": [1]}, 400, '"items"'),
        ("POST", "/batch/users", {"data": b"x"}, 400, "not JSON"),
        ("POST", "/batch/users", {"json": {"items": [{}] * 101}}, 413, "101 items are too many: send at most 100"),
    ],
)
def test_errors_are_json(method: str, path: str, options: dict[str, Any], status: int, message: str) -> None:
    """What cannot be answered is refused with the right status and a JSON error that says why."""
    seen, headers, answer = get(path, method=method, **options)
    assert (seen, message in answer["error"]) == (status, True)
    assert headers.get("Allow") == ("POST" if status == 405 else None)


def test_a_batch_answers_each_item_in_order() -> None:
    """Every item has its own status and body; one that fails does not fail its neighbours."""
    items = [{"user_id": 17}, {"user_id": USERS + 1}, {"user_id": "17"}, 3, {"user_id": 1}]
    status, _, answer = get("/batch/users", method="POST", json={"items": items})
    assert status == 200
    assert [one["status"] for one in answer["answers"]] == [200, 404, 400, 400, 200]
    assert answer["answers"][0]["body"] == get("/users/17")[2]
    assert answer["answers"][4]["body"]["id"] == 1
    assert get("/batch/users", method="POST", json={"items": []})[2] == {"answers": []}


def test_secret_wants_the_token() -> None:
    """Only the token of the settings opens /secret; any other is told how to ask."""
    settings = DemoSettings(token="hush ü")
    assert get("/secret", settings, headers={"Authorization": "Bearer hush ü"})[0] == 200
    for headers in ({}, {"Authorization": "Bearer hush"}, {"Authorization": "hush ü"}):
        status, told, answer = get("/secret", settings, headers=headers)
        assert (status, told["WWW-Authenticate"]) == (401, "Bearer")
        assert "hush" not in answer["error"]


def test_redirects_are_counted_out() -> None:
    """`times` redirects lead to the target, one request each."""

    async def check(server: DemoServer, client: aiohttp.ClientSession) -> None:
        async with client.get("/redirect", params={"to": "/users/17", "times": 4}) as answer:
            assert [hop.status for hop in answer.history] == [302] * 4
            assert (await answer.json())["id"] == 17
        assert (await server.statistics()).requests == {"redirect": {302: 4}, "user": {200: 1}}

    with_server(check)


def test_redirects_lead_anywhere_but_into_headers() -> None:
    """A target on another host is sent as it is; a line break in it stays within its header."""
    assert get("/redirect?to=http://192.0.2.1:99/x%3Fa%3D1")[1]["Location"] == "http://192.0.2.1:99/x?a=1"
    _, headers, _ = get("/redirect", params={"to": "/a\r\nX-Injected: 1"})
    assert "X-Injected" not in headers


@pytest.mark.parametrize("size", [0, 1, 1024, 65_536, 65_537, 1_000_000])
@pytest.mark.parametrize("encoding", ["identity", "gzip"])
def test_bytes_have_their_size(size: int, encoding: str) -> None:
    """The answer has the size asked for, compressed or not, in one piece or in many."""

    async def check(server: DemoServer, client: aiohttp.ClientSession) -> None:
        async with client.get(f"/bytes?size={size}", headers={"Accept-Encoding": encoding}) as answer:
            body = await answer.read()
            squeezed = encoding == "gzip" and size >= 1024
            assert answer.headers.get("Content-Encoding") == ("gzip" if squeezed else None)
            if squeezed:
                assert len(body) < size / 10 + 100
                body = gzip.decompress(body)
            elif encoding == "identity":
                assert answer.content_length == size
            assert len(body) == size
        async with client.get("/users/17") as answer:  # the connection is in order afterwards
            assert answer.status == 200
        assert (await server.statistics()).connections == 1

    with_server(check, auto_decompress=False)


@pytest.mark.parametrize(
    ("header", "accepted"),
    [
        ("gzip", True),
        ("deflate, GZIP;q=0.5", True),
        ("*", True),
        ("br, *;q=0.1", True),
        ("gzip;q=0, *", False),
        ("gzip; q=0.000", False),
        ("deflate", False),
        ("", False),
    ],
)
def test_gzip_is_for_those_who_ask(header: str, accepted: bool) -> None:
    """Accept-Encoding decides, by name before *, and a weight of 0 refuses."""
    assert accepts_gzip(header) is accepted


def test_large_json_is_compressed_unless_switched_off() -> None:
    """A long answer says that it depends on Accept-Encoding; a short one and a server without gzip send it plain."""
    asked = {"Accept-Encoding": "gzip"}
    long = get("/products?limit=50", headers=asked)
    assert (long[1]["Content-Encoding"], long[1]["Vary"], len(long[2]["items"])) == ("gzip", "Accept-Encoding", 50)
    assert "Content-Encoding" not in get("/users/17", headers=asked)[1]
    assert "Content-Encoding" not in get("/products?limit=50", DemoSettings(gzip=False), headers=asked)[1]


def test_head_has_no_body() -> None:
    """HEAD gives the size of a large answer without sending it, and leaves the connection in order."""

    async def check(server: DemoServer, client: aiohttp.ClientSession) -> None:
        for size in (10, 1_000_000):
            async with client.head(f"/bytes?size={size}", headers={"Accept-Encoding": "identity"}) as answer:
                assert (answer.status, answer.content_length, await answer.read()) == (200, size, b"")
            async with client.get("/users/17") as answer:
                assert answer.status == 200
        assert (await server.statistics()).connections == 1

    with_server(check)
