"""What the demo server answers: one function a route, from a request to an Answer."""

from __future__ import annotations

import hmac
import json
from collections.abc import Awaitable, Callable
from typing import Any, NoReturn

from aiohttp import web
from yarl import URL

from skilllab.demo.answers import Answer, problem
from skilllab.demo.content import USERS, Content
from skilllab.demo.settings import DemoSettings
from skilllab.settings import DEMO_MAX_BYTES

Route = Callable[[web.Request, Content, DemoSettings], Awaitable[Answer]]

_MOST_REDIRECTS = 100
_PRIVATE = frozenset({"authorization", "proxy-authorization", "cookie"})


async def _weather(request: web.Request, content: Content, settings: DemoSettings) -> Answer:
    city = request.match_info["city"]
    weather = content.weather(city)
    return Answer(200, weather) if weather else problem(404, f"no weather for city={city!r}: ask for Bergen")


async def _user(request: web.Request, content: Content, settings: DemoSettings) -> Answer:
    text = request.match_info["user_id"]
    return _profile(int(text) if text.isdecimal() and len(text) < 20 else text, content)


async def _batch(request: web.Request, content: Content, settings: DemoSettings) -> Answer:
    asked = await _json_body(request)
    items = asked.get("items") if isinstance(asked, dict) else None
    if not isinstance(items, list):
        _refuse('the body must be {"items": [{"user_id": 17}, ...]}')
    if len(items) > settings.batch_max:
        raise web.HTTPRequestEntityTooLarge(
            settings.batch_max, len(items), text=f"{len(items)} items are too many: send at most {settings.batch_max}"
        )
    answers = [_profile(item.get("user_id") if isinstance(item, dict) else None, content) for item in items]
    return Answer(
        200, {"answers": [{"status": one.status, "body": one.payload} for one in answers]}, items=len(answers)
    )


def _profile(user_id: object, content: Content) -> Answer:
    if type(user_id) is not int:
        return problem(400, f"user_id={user_id!r} must be a whole number")
    user = content.user(user_id)
    return Answer(200, user) if user else problem(404, f"no user {user_id}: they have the numbers 1 to {USERS}")


async def _products(request: web.Request, content: Content, settings: DemoSettings) -> Answer:
    return Answer(200, content.products(request.query.get("q", ""), _whole(request, "limit", 10, 1, 50)))


async def _echo(request: web.Request, content: Content, settings: DemoSettings) -> Answer:
    is_json = request.content_type == "application/json"
    received = {
        "method": request.method,
        "query": dict(request.query),
        "headers": {name.lower(): value for name, value in request.headers.items() if name.lower() not in _PRIVATE},
        "body": await _json_body(request) if is_json else (await request.read()).decode("utf-8", "replace"),
    }
    return Answer(200, received)


async def _bytes(request: web.Request, content: Content, settings: DemoSettings) -> Answer:
    return Answer(200, size=_whole(request, "size", 1024, 0, DEMO_MAX_BYTES))


async def _redirect(request: web.Request, content: Content, settings: DemoSettings) -> Answer:
    times = _whole(request, "times", 1, 1, _MOST_REDIRECTS)
    to = request.query.get("to", "/users/1")
    try:
        target = URL(to) if times == 1 else URL("/redirect").with_query(to=to, times=times - 1)
    except ValueError:
        _refuse(f"to={to!r} is no URL")
    return Answer(302, {"location": str(target)}, {"Location": str(target)})


async def _secret(request: web.Request, content: Content, settings: DemoSettings) -> Answer:
    given = request.headers.get("Authorization", "").encode("utf-8", "surrogateescape")
    if hmac.compare_digest(given, f"Bearer {settings.token}".encode()):
        return Answer(200, {"secret": "the ferry leaves at noon"})
    return problem(401, "send the header Authorization: Bearer <token>", WWW_Authenticate="Bearer")


def _whole(request: web.Request, name: str, default: int, low: int, high: int) -> int:
    text = request.query.get(name, str(default))
    if not (text.isdecimal() and len(text) < 20 and low <= int(text) <= high):
        _refuse(f"{name}={text!r} must be a whole number of {low} to {high}")
    return int(text)


async def _json_body(request: web.Request) -> Any:
    body = await request.read()
    try:
        return json.loads(body, parse_constant=lambda name: _refuse(f"{name} is not JSON"))
    except (ValueError, RecursionError) as error:
        _refuse(f"the body is not JSON: {error}")


def _refuse(message: str) -> NoReturn:
    raise web.HTTPBadRequest(text=message)


TABLE: dict[str, tuple[str, str, Route]] = {
    "weather": ("GET", "/cities/{city}/weather", _weather),
    "user": ("GET", "/users/{user_id}", _user),
    "products": ("GET", "/products", _products),
    "echo": ("POST", "/echo", _echo),
    "batch": ("POST", "/batch/users", _batch),
    "bytes": ("GET", "/bytes", _bytes),
    "redirect": ("GET", "/redirect", _redirect),
    "secret": ("GET", "/secret", _secret),
}
"""Method, path and function of each route."""
