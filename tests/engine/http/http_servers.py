"""Real servers on 127.0.0.1 for the tests of layer 3, and executions made by hand."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

from aiohttp import web

from skilllab.define import http_skill
from skilllab.engine.execution import Execution
from skilllab.engine.http import HttpOptions, HttpRunner
from skilllab.loading import load
from skilllab.model import ResourceLimits, SkillDefinition

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
Raw = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
FAST = HttpOptions(backoff=1.0, batch_wait=0.0)


class Api:
    """A server that notes what it was asked. url: its start, without a slash at the end."""

    def __init__(self, handler: Handler) -> None:
        self.requests: list[web.Request] = []
        self.bodies: list[bytes] = []
        self.connections: set[Any] = set()
        self.url = ""
        self._handler = handler
        self._asked = asyncio.Event()

    async def asked(self) -> None:
        """Returns when a request has come."""
        await self._asked.wait()

    @property
    def host(self) -> str:
        return self.url.partition("//")[2]

    async def handle(self, request: web.Request) -> web.StreamResponse:
        self.requests.append(request)
        self.connections.add(request.transport)
        self.bodies.append(await request.read())
        self._asked.set()
        return await self._handler(request)


@asynccontextmanager
async def serving(handler: Handler) -> AsyncIterator[Api]:
    """A server on a free port for the time of the block."""
    api = Api(handler)
    app = web.Application(client_max_size=2**25)
    app.router.add_route("*", "/{path:.*}", api.handle)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.01, handler_cancellation=True)
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        api.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        yield api
    finally:
        await runner.cleanup()


@asynccontextmanager
async def raw_serving(answer: Raw) -> AsyncIterator[str]:
    """A server that writes bytes of its own after it read the head of a request; yields its URL."""
    writers: list[asyncio.StreamWriter] = []

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writers.append(writer)
        try:
            await reader.readuntil(b"\r\n\r\n")
            await answer(reader, writer)
        except (asyncio.IncompleteReadError, ConnectionError):
            return
        finally:
            writer.close()

    server = await asyncio.start_server(accept, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()
        for writer in writers:
            writer.transport.abort()
        await asyncio.sleep(0)


def sends(*parts: bytes) -> Raw:
    """What a raw server does that writes these bytes and closes the connection."""

    async def answer(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for part in parts:
            writer.write(part)
            await writer.drain()

    return answer


def body(content: bytes, *, head: bytes = b"Content-Type: application/json", length: int | None = None) -> bytes:
    """A whole answer with this body; `length` may lie."""
    length = len(content) if length is None else length
    return b"HTTP/1.1 200 OK\r\n%s\r\nContent-Length: %d\r\n\r\n%s" % (head, length, content)


def execution(
    definition: SkillDefinition,
    params: dict[str, Any] | None = None,
    limits: ResourceLimits | None = None,
    *,
    deadline: float | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> Execution:
    """An execution as an engine makes it."""
    made = Execution.of("e-1", definition.id, 0.0, 0.0)
    made.skill = _loaded(definition)
    made.params, made.limits, made.deadline, made.clock = params or {}, limits, deadline, clock
    return made


_LOADED: dict[int, Any] = {}


def _loaded(definition: SkillDefinition) -> Any:
    found = _LOADED.get(id(definition))
    if found is None or found.definition is not definition:
        found = _LOADED[id(definition)] = load(definition, 1)
    return found


class Sleeper:
    """A sleep that takes no time and notes how long it should have taken."""

    def __init__(self, advance: Callable[[float], object] | None = None) -> None:
        self.slept: list[float] = []
        self._advance = advance

    async def __call__(self, seconds: float) -> None:
        self.slept.append(float(seconds))
        if self._advance is not None:
            self._advance(seconds)
        await asyncio.sleep(0)


def in_loop(work: Callable[[], Awaitable[Any]]) -> Any:
    """Runs `work` in a loop of its own, for 30 seconds at most."""

    async def main() -> Any:
        async with asyncio.timeout(30):
            return await work()

    return asyncio.run(main())


@asynccontextmanager
async def running(options: HttpOptions = FAST, **seams: Any) -> AsyncIterator[HttpRunner]:
    """A runner that is closed after the block, and has nothing left to do then."""
    runner = HttpRunner(options, **{"sleep": Sleeper(), "random": lambda: 0.5, "environ": {}, **seams})
    try:
        yield runner
    finally:
        await runner.aclose()


def talk(
    handler: Handler, work: Callable[[HttpRunner, Api], Awaitable[Any]], options: HttpOptions = FAST, **seams: Any
) -> Any:
    """Returns what `work` returns, with a runner and a server."""

    async def main() -> Any:
        async with serving(handler) as api, running(options, **seams) as runner:
            return await work(runner, api)

    return in_loop(main)


def raw_talk(
    answer: Raw, work: Callable[[HttpRunner, str], Awaitable[Any]], options: HttpOptions = FAST, **seams: Any
) -> Any:
    """Returns what `work` returns, with a runner and the URL of a raw server."""

    async def main() -> Any:
        async with raw_serving(answer) as url, running(options, **seams) as runner:
            return await work(runner, url)

    return in_loop(main)


def ask(api: Api | str, path: str = "/", **fields: Any) -> SkillDefinition:
    """A skill of this server."""
    return http_skill(id="s", url=f"{api if isinstance(api, str) else api.url}{path}", **fields)


async def answers(value: Any) -> web.Response:
    return web.json_response(value)
