"""DemoProcess: the demo server in a process of its own, so that it shares no interpreter lock with who measures it."""

from __future__ import annotations

import asyncio
import os
import sys
from asyncio.subprocess import PIPE, Process
from types import TracebackType
from typing import Any, Self

from skilllab import settings as defaults
from skilllab.demo.counters import DemoStatistics, Served
from skilllab.demo.server import HOST, NOT_STARTED, checked_port, checked_settings
from skilllab.demo.settings import DemoSettings
from skilllab.errors import SkilllabError
from skilllab.programs.values import Values, pack


class DemoProcess:
    """A demo API server in a process of its own, used like DemoServer: `async with DemoProcess() as server: server.url`.

    settings: how it behaves. port: 0 takes any free one. grace: seconds it may take to end before it is killed. It ends
    with `aclose`, and by itself when this process is gone. It is controlled over pipes: others reach the API only.
    """

    def __init__(
        self, settings: DemoSettings | None = None, *, port: int = 0, grace: float = defaults.DEMO_GRACE
    ) -> None:
        self._settings = checked_settings(settings)
        self._wanted = checked_port(port)
        self._grace = grace
        self._process: Process | None = None
        self._answers: Values | None = None
        self._port: int | None = None
        self._number = 0
        self._turn = asyncio.Lock()

    @property
    def settings(self) -> DemoSettings:
        """How the server behaves now."""
        return self._settings

    @property
    def port(self) -> int:
        """The port it listens on; raises SkilllabError before the start and after the end."""
        if self._port is None:
            raise SkilllabError(NOT_STARTED)
        return self._port

    @property
    def url(self) -> str:
        """Its address, without a slash at the end."""
        return f"http://{HOST}:{self.port}"

    @property
    def pid(self) -> int:
        """The number of its process."""
        return self._running().pid

    async def start(self) -> Self:
        """Starts the process and returns when it listens.

        Raises InvalidValueError when the port is in use, SkilllabError when it runs already or does not come up.
        """
        if self._process is not None:
            raise SkilllabError("the demo server has been started already: use it, or start another")
        # -P: a file in the current folder must not stand in for a module. A session of its own: Ctrl-C is not for it.
        self._process = await asyncio.create_subprocess_exec(
            sys.executable, "-P", "-m", "skilllab.demo", stdin=PIPE, stdout=PIPE, start_new_session=True
        )
        try:
            assert self._process.stdout is not None
            self._answers = Values(self._process.stdout)
            async with asyncio.timeout(defaults.DEMO_START):
                self._port = await self._ask("start", self._settings, self._wanted, os.getpid())
        except TimeoutError:
            await self.aclose()
            raise SkilllabError(
                f"the demo server's process said nothing for {defaults.DEMO_START:g} s: ended"
            ) from None
        except BaseException:
            await self.aclose()
            raise
        return self

    async def aclose(self) -> None:
        """Ends the process: by closing its input, else, after the grace, by killing it; a second time does no harm."""
        process, self._process, self._port = self._process, None, None
        if process is None:
            return
        assert process.stdin is not None
        process.stdin.close()
        try:
            async with asyncio.timeout(self._grace):
                await self._ended(process)
        except TimeoutError:
            process.kill()
            await self._ended(process)
        finally:
            if process.returncode is None:
                process.kill()

    async def _ended(self, process: Process) -> None:
        """Returns when the process has ended; what it still says is read, since a full pipe would keep it."""
        assert process.stdout is not None
        async with self._turn:
            while await process.stdout.read(1 << 16):
                continue
            await process.wait()

    async def __aenter__(self) -> Self:
        return await self.start()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    async def configure(self, settings: DemoSettings | None = None, /, **changes: Any) -> DemoSettings:
        """Goes on with other settings, or with some changed, from the moment this returns; as DemoServer does."""
        self._settings = checked_settings(self._settings if settings is None else settings).changed(**changes)
        if self._process is not None:
            await self._ask("configure", self._settings)
        return self._settings

    async def stall(self) -> None:
        """Serves nothing from now on, until `resume`: what it has begun stands still, what comes waits."""
        await self._ask("stall")

    async def resume(self) -> None:
        """Serves again, where `stall` interrupted."""
        await self._ask("resume")

    async def statistics(self) -> DemoStatistics:
        """Returns what was counted since the start."""
        found: DemoStatistics = await self._ask("statistics")
        return found

    async def log(self) -> list[Served]:
        """Returns the times of the last served requests; making it holds the server up, so ask after a measurement."""
        found: list[Served] = await self._ask("log")
        return found

    def _running(self) -> Process:
        if self._process is None:
            raise SkilllabError(NOT_STARTED)
        return self._process

    async def _ask(self, command: str, *arguments: object) -> Any:
        """Returns what the process answers to a command, or raises the error that it answers with."""
        process, answers = self._running(), self._answers
        assert process.stdin is not None
        assert answers is not None
        async with self._turn:
            self._number += 1
            asked = self._number
            try:
                process.stdin.write(pack((asked, command, arguments)))
                await process.stdin.drain()
                answered = None
                while answered != asked:  # a caller who was cancelled has left an answer behind
                    answered, answer = await answers.read()
            except (EOFError, ConnectionError):
                code = await process.wait()
                raise SkilllabError(
                    f"the demo server's process {process.pid} has ended with exit code {code}: start another"
                ) from None
        if isinstance(answer, SkilllabError):
            raise answer
        return answer
