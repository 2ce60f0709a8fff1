"""DemoServer: the demo API on a socket of this machine, in the event loop that starts it."""

from __future__ import annotations

import asyncio
import errno
import time
from types import TracebackType
from typing import Any, Self

from aiohttp import web

from skilllab.demo.app import Api
from skilllab.demo.counters import DemoStatistics, Served
from skilllab.demo.service import CallLater, Clock
from skilllab.demo.settings import DemoSettings
from skilllab.errors import InvalidValueError, SkilllabError

HOST = "127.0.0.1"
_BACKLOG = 1024  # connections that the system accepts for a server that is busy: a burst waits, and is not refused
_CUT = 0.05  # s that aiohttp waits for handlers which are still sending when the server closes


class DemoServer:
    """A demo API server in this event loop, on 127.0.0.1: `async with DemoServer() as server: server.url`.

    settings: how it behaves. port: 0 takes any free one. clock, call_later: what its queue takes for time, and how it is
    woken; by default time.monotonic and the event loop's. In a notebook use `await server.start()` and `aclose()`.
    """

    def __init__(
        self,
        settings: DemoSettings | None = None,
        *,
        port: int = 0,
        clock: Clock = time.monotonic,
        call_later: CallLater | None = None,
    ) -> None:
        self._settings = checked_settings(settings)
        self._wanted = checked_port(port)
        self._clock = clock
        self._call_later = call_later
        self._api: Api | None = None
        self._runner: web.AppRunner | None = None
        self._listening: asyncio.Server | None = None

    @property
    def settings(self) -> DemoSettings:
        """How the server behaves now."""
        return self._settings

    @property
    def port(self) -> int:
        """The port it listens on; raises SkilllabError before the start and after the end."""
        if self._listening is None:
            raise SkilllabError(NOT_STARTED)
        return int(self._listening.sockets[0].getsockname()[1])

    @property
    def url(self) -> str:
        """Its address, without a slash at the end."""
        return f"http://{HOST}:{self.port}"

    async def start(self) -> Self:
        """Listens; raises InvalidValueError when the port is in use, SkilllabError when the server runs already."""
        if self._runner is not None:
            raise SkilllabError("the demo server has been started already: use it, or start another")
        loop = asyncio.get_running_loop()
        api = Api(self._settings, self._clock, self._call_later or loop.call_later)
        runner = web.AppRunner(api.application(), access_log=None, shutdown_timeout=_CUT)
        self._api, self._runner = api, runner
        try:
            await runner.setup()
            self._listening = await loop.create_server(self._accept, HOST, self._wanted, backlog=_BACKLOG)
        except OSError as error:
            await self.aclose()
            raise _port_error(self._wanted, error) from error
        except BaseException:
            await self.aclose()
            raise
        return self

    async def aclose(self) -> None:
        """Stops listening, drops what is being served, and closes every connection; a second time does no harm."""
        api, runner, listening = self._api, self._runner, self._listening
        self._api = self._runner = self._listening = None
        if listening is not None:
            listening.close()
        if api is not None:
            api.service.close()
        if runner is not None:
            connections = runner.server.connections if runner.server is not None else []
            transports = [connection.transport for connection in connections]
            await runner.cleanup()
            for transport in transports:
                if transport is not None:
                    transport.abort()  # what a client does not read is not waited for
            await asyncio.sleep(0)  # sockets close in the next round of the loop

    async def __aenter__(self) -> Self:
        return await self.start()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    async def configure(self, settings: DemoSettings | None = None, /, **changes: Any) -> DemoSettings:
        """Goes on with other settings, or with some changed: `await server.configure(error_rate=0.1)`; returns them.

        What is being served keeps the service time that it drew and the work done so far. Raises InvalidValueError and
        leaves everything as it was when a setting is not valid.
        """
        self._settings = checked_settings(self._settings if settings is None else settings).changed(**changes)
        if self._api is not None:
            self._api.configure(self._settings)
        return self._settings

    async def stall(self) -> None:
        """Serves nothing from now on, until `resume`: what it has begun stands still, what comes waits."""
        self._running().service.stall()

    async def resume(self) -> None:
        """Serves again, where `stall` interrupted."""
        self._running().service.resume()

    async def statistics(self) -> DemoStatistics:
        """Returns what was counted since the start."""
        api = self._running()
        server = self._runner.server if self._runner is not None else None
        return api.statistics(len(server.connections) if server is not None else 0)

    async def log(self) -> list[Served]:
        """Returns the times of the last served requests, in the order in which they were answered."""
        return list(self._running().counters.log)

    def _running(self) -> Api:
        if self._api is None:
            raise SkilllabError(NOT_STARTED)
        return self._api

    def _accept(self) -> asyncio.BaseProtocol:
        assert self._api is not None
        assert self._runner is not None
        assert self._runner.server is not None
        self._api.counters.connections += 1
        return self._runner.server()


NOT_STARTED = "the demo server is not running: use `async with`, or `await server.start()`"


def checked_settings(settings: DemoSettings | None) -> DemoSettings:
    """Returns the settings, or those by default for None; raises InvalidValueError for anything else."""
    if settings is None:
        return DemoSettings()
    if not isinstance(settings, DemoSettings):
        raise InvalidValueError(f"settings={settings!r} must be DemoSettings, or None for the default ones")
    return settings


def checked_port(port: int) -> int:
    """Returns the port; raises InvalidValueError unless it is 0 to 65535."""
    if type(port) is not int or not 0 <= port <= 65535:
        raise InvalidValueError(f"port={port!r} must be 0 (any free one) to 65535")
    return port


def _port_error(port: int, error: OSError) -> InvalidValueError:
    if error.errno == errno.EADDRINUSE:
        return InvalidValueError(f"port={port} is in use on {HOST}: stop what listens there, or take another (0: any)")
    return InvalidValueError(
        f"port={port} cannot be opened on {HOST} ({error.strerror}): take another (0: any free one)"
    )
