"""A connection to an MCP server, kept by a task of its own, so that whoever opens it need not be who closes it.

The SDK's client holds cancel scopes, which are entered and left by one task; notebook cells and skills are many.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import shutil
import tempfile
import time
from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack, suppress
from dataclasses import dataclass, field
from typing import IO, TYPE_CHECKING, Any
from urllib.parse import urlsplit

from skilllab import format as fmt
from skilllab.errors import InvalidValueError, ServerLostError
from skilllab.frozen import FrozenDict
from skilllab.programs import tree
from skilllab.settings import MCP_CONNECT_TIMEOUT
from skilllab.skills._guard import Guard
from skilllab.skills.redaction import redacted_words

if TYPE_CHECKING:
    from anyio import CancelScope
    from mcp import Client

_GOODBYE = 8.0  # s that a server may take to hear of the end: more than the SDK gives a process before it kills it
_LAST_WORDS = 2000  # bytes of a server's standard error that are looked at
_MOST_WORDS = 2**20  # bytes of it beyond which only the last words are kept
_LOOK = 1.0  # s between looks at how much it is


@dataclass(frozen=True, slots=True)
class Server:
    """Where an MCP server is: a program to start and talk to over its pipes, or an address (streamable HTTP).

    env: variables for the program besides HOME, PATH and the few that the SDK hands on. headers: of each HTTP request.
    """

    argv: tuple[str, ...] = ()
    url: str = ""
    env: Mapping[str, str] = field(default=FrozenDict(), repr=False)
    headers: Mapping[str, str] = field(default=FrozenDict(), repr=False)

    def __str__(self) -> str:
        if self.argv:
            return " ".join(redacted_words(self.argv))
        parts = urlsplit(self.url)  # what may be a secret is left out: a password, a query
        host = parts.netloc.rpartition("@")[2]
        return f"{parts.scheme}://{host}{parts.path}"

    def require(self) -> None:
        """Raises InvalidValueError when the program is not there."""
        path = self.env.get("PATH", os.environ.get("PATH"))
        if self.argv and shutil.which(self.argv[0], path=path) is None:
            raise InvalidValueError(
                f"{self.argv[0]!r} is no program that can be found: check its spelling and the PATH"
            )

    async def transport(self, stack: AsyncExitStack, words: IO[str]) -> AbstractAsyncContextManager[Any]:
        """Returns what the SDK's client talks through; `stack` holds what has to be closed after it."""
        if self.argv:
            from mcp.client.stdio import StdioServerParameters, stdio_client

            program, *args = self.argv
            return stdio_client(StdioServerParameters(command=program, args=args, env=dict(self.env)), errlog=words)  # type: ignore[arg-type]  # any file with a descriptor
        import httpx2
        from mcp.client.streamable_http import streamable_http_client

        timeout = httpx2.Timeout(MCP_CONNECT_TIMEOUT, read=None)  # how long an answer may take is the engine's business
        client = httpx2.AsyncClient(headers=dict(self.headers), timeout=timeout)
        return streamable_http_client(self.url, http_client=await stack.enter_async_context(client))


class Session:
    """One life of a connection: `open` once, `aclose` at the end, by any task of the event loop.

    pid: of the server's process, None without one. duration: seconds that opening took, a process's start and the
    negotiation of the protocol.
    """

    def __init__(self, server: Server) -> None:
        self._server = server
        self._leave = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._scope: CancelScope | None = None
        # the file is read by its descriptor: a program that fills it does not come into this process
        self._words: IO[str] = tempfile.TemporaryFile("w+", encoding="utf-8")  # noqa: SIM115 - closed by _live
        _append(self._words.fileno())
        self._said = ""
        self._guard: Guard | None = None
        self._client: Client | None = None
        self.pid: int | None = None
        self.duration = 0.0

    @property
    def client(self) -> Client:
        """The SDK's client, once `open` has returned."""
        assert self._client is not None
        return self._client

    @property
    def alive(self) -> bool:
        """Whether the connection has been opened and is not known to be broken."""
        return self._client is not None and not self._leave.is_set() and not self.ended

    @property
    def ended(self) -> bool:
        """Whether nothing of it is left, or it was never opened."""
        return self._task is None or self._task.done()

    async def open(self, timeout: float) -> None:
        """Connects; `client` is there afterwards.

        Raises ServerLostError, with nothing left running, when it takes `timeout` s, fails, or is closed meanwhile.
        """
        begin = time.perf_counter()
        opened: asyncio.Future[Client] = asyncio.get_running_loop().create_future()
        self._task = asyncio.create_task(self._live(opened), name=f"skilllab MCP {self._server}")
        try:
            async with asyncio.timeout(timeout):
                self._client = await opened
        except TimeoutError:
            what = f"did not answer `initialize` within {fmt.duration(timeout)}"
            raise await self._failed(what) from None
        except asyncio.CancelledError:
            self._end()
            raise
        except Exception as error:
            raise await self._failed(f"cannot be connected to: {reason(error)}") from error
        self.duration = time.perf_counter() - begin

    async def aclose(self) -> None:
        """Ends the connection and the server that it started; done when nothing of either is left."""
        self._end()
        if self._task is None:
            return
        _, left = await asyncio.wait([self._task], timeout=_GOODBYE)
        if left:
            assert self._scope is not None
            self._scope.cancel()
            await asyncio.wait([self._task])

    def _end(self) -> None:
        self._leave.set()
        if self._client is None and self._scope is not None:
            self._scope.cancel()  # and no `task.cancel()`, before which the SDK's shields would not hold

    def last_words(self) -> str:
        """Returns the last line that the server wrote to standard error."""
        if self._words.closed:
            return self._said
        lines = _end_of(self._words.fileno()).decode("utf-8", "replace").split("\n")
        return next((line.strip() for line in reversed(lines) if line.strip()), "")

    def lost(self) -> str:
        """Returns how the end of the connection reads in messages."""
        return told("the MCP server ended, or the connection to it broke", self.last_words())

    async def _failed(self, what: str) -> ServerLostError:
        words = self.last_words()
        await self.aclose()
        return ServerLostError(told(f"MCP server {self._server} {what}", words))

    async def _live(self, opened: asyncio.Future[Client]) -> None:
        """Holds the client open from its first to its last moment."""
        import anyio
        from mcp import Client

        try:
            with anyio.CancelScope() as self._scope:
                async with AsyncExitStack() as stack:
                    if self._leave.is_set():
                        return
                    transport = await self._server.transport(stack, self._words)
                    client = await stack.enter_async_context(Client(_Noted(transport, self._find_process), cache=None))
                    if not opened.done():
                        opened.set_result(client)
                    while not self._leave.is_set():
                        with anyio.move_on_after(_LOOK):
                            await self._leave.wait()
                        with suppress(OSError):  # a disk that is full ends no connection
                            _cut_short(self._words.fileno())
        except Exception as error:  # noqa: BLE001 - who opens it is told; afterwards its calls have been
            if not opened.done():
                opened.set_exception(error)
        finally:
            self._leave.set()
            self._said = self.last_words()
            self._words.close()
            if self._guard is not None:
                self._guard.close()
            if not opened.done():  # nobody must wait for what will not come
                opened.set_exception(ConnectionError("it was closed meanwhile"))

    def _find_process(self) -> None:
        """Notes the child of this process that writes its standard error where this session reads it, and guards it."""
        if not self._server.argv:
            return
        own = os.fstat(self._words.fileno())
        for pid in tree.children(os.getpid()):
            with suppress(OSError):
                if os.path.samestat(os.stat(f"/proc/{pid}/fd/2"), own):
                    self.pid = pid
                    self._guard = Guard(pid)
                    return


class _Noted:
    """A transport that tells when it has been entered."""

    def __init__(self, transport: AbstractAsyncContextManager[Any], entered: Any) -> None:
        self._transport = transport
        self._entered = entered

    async def __aenter__(self) -> Any:
        streams = await self._transport.__aenter__()
        self._entered()
        return streams

    async def __aexit__(self, *exc: Any) -> Any:
        return await self._transport.__aexit__(*exc)


def _append(descriptor: int) -> None:
    """Makes everybody who has the file write to its end, which is another one after it has been cut short."""
    fcntl.fcntl(descriptor, fcntl.F_SETFL, fcntl.fcntl(descriptor, fcntl.F_GETFL) | os.O_APPEND)


def _end_of(descriptor: int) -> bytes:
    """Returns the last words of a file."""
    return os.pread(descriptor, _LAST_WORDS, max(0, os.fstat(descriptor).st_size - _LAST_WORDS))


def _cut_short(descriptor: int) -> None:
    """Keeps of a file that has grown too large only its last words; what comes in that very moment may be lost."""
    if os.fstat(descriptor).st_size > _MOST_WORDS:
        kept = _end_of(descriptor)
        os.ftruncate(descriptor, 0)
        os.write(descriptor, kept)


def reason(error: BaseException) -> str:
    """Returns the first cause inside groups of errors, in words."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return str(error) or type(error).__name__


def told(what: str, words: str) -> str:
    """Returns a message with the last words of a server, if there are any."""
    return f"{what}; it last wrote {words[:200]!r} to standard error" if words else what
