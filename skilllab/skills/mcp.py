"""The tools of an MCP server as skills (extra `mcp`: the official SDK)."""

from __future__ import annotations

import asyncio
import importlib
import importlib.util
import os
import re
import shlex
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import urlsplit

from skilllab import format as fmt
from skilllab.errors import (
    InvalidDefinitionError,
    InvalidResponseError,
    InvalidValueError,
    ServerLostError,
    ToolError,
)
from skilllab.frozen import FrozenDict
from skilllab.loading import compile_schemas
from skilllab.model import FunctionHandler, ResourceRequirements, SkillDefinition
from skilllab.settings import MCP_CONNECT_TIMEOUT
from skilllab.skills._mapping import SkillMapping
from skilllab.skills._session import Server, Session, reason, told
from skilllab.skills.redaction import redacted

if TYPE_CHECKING:
    from mcp import Client, MCPError
    from mcp.types import CallToolResult, Tool

READ_ONLY = "read-only"
"""The tag of a tool that says of itself (readOnlyHint) that it changes nothing."""

_NEEDS = ResourceRequirements(cpu="low", network="medium")
_LONGEST = 300  # characters of what a server says that are told
_PAGES = 100  # of a list of tools; one that never ends must not hang whoever connects
_CLOSED, _INVALID = (
    -32000,
    -32600,
)  # the SDK's codes for a connection that ended and a session that did; servers use both, too
_ENDED = re.compile(r"connection closed|session terminated|stream (ended|failed)", re.IGNORECASE)


async def from_mcp(
    target: str | Sequence[str],
    *,
    prefix: str = "",
    env: Mapping[str, str] | None = None,
    headers: Mapping[str, str] | None = None,
    timeout: float = MCP_CONNECT_TIMEOUT,
) -> McpSource:
    """Connects to an MCP server and returns its tools as skills.

    target: the server's address (streamable HTTP), or the command that starts it (stdio), as a list, or as a text, in which
    ~/ is the home folder. prefix: of the skills' ids, which are the tools' names otherwise. env: variables that a started
    server gets besides HOME, PATH and the like. headers: of each HTTP request. timeout: seconds for its start and first
    answer, and as many again for the list of its tools.
    Raises, with nothing left running, InvalidValueError for a target that can be neither and when the SDK is not installed,
    ServerLostError for a server that cannot be reached, ends, or does not answer in time, ToolError for one that refuses to
    list its tools, and InvalidResponseError for one whose list is none.
    """
    if not 0 < timeout < float("inf"):
        raise InvalidValueError(f"timeout={timeout!r} must be seconds above 0: a server may never answer")
    server = _server(target, env or {}, headers or {})
    found = importlib.util.find_spec("mcp")
    if found is None:
        raise InvalidValueError(
            'tools of MCP servers take the official SDK: install it with pip install "skilllab[mcp]"'
        )
    try:
        await asyncio.to_thread(_import_sdk)
    except ImportError as error:
        raise InvalidValueError(
            f"the MCP SDK cannot be imported: {error}; does a file of one's own called mcp hide it? Found: {found.origin}"
        ) from error
    source = McpSource(server, prefix, timeout)
    try:
        await source._list()
    except BaseException:
        await source.aclose()
        raise
    return source


class McpSource(SkillMapping):
    """The tools of a connected MCP server by skill id, in the server's order; `async with` or `aclose` ends it.

    Each is a layer 1 skill whose function asks the server. Its output is the structured content of the answer, else its
    text, else its content as the list of JSON objects that was sent. An answer that says isError fails with ToolError; a
    server that is lost fails the calls under way with ServerLostError, and the next call connects again. A call that is
    cancelled or timed out is cancelled at the server as well.
    problems: tools that cannot be skills, each with the reason. name, version, protocol: of the server, as it says.
    """

    def __init__(self, server: Server, prefix: str, timeout: float) -> None:
        self._server = server
        self._prefix = prefix
        self._timeout = timeout
        self._lock = asyncio.Lock()
        self._session: Session | None = None
        self._ended: list[Session] = []
        self._closed = False
        self._skills: dict[str, SkillDefinition] = {}
        self.connects: list[float] = []
        """Seconds that each connection took: one is usual, more mean that the server was lost."""
        self.problems: tuple[str, ...] = ()
        self.name = self.version = self.protocol = ""

    def __repr__(self) -> str:
        return f"<McpSource {self.name or self._server!s} of {len(self)} tools>"

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    @property
    def pid(self) -> int | None:
        """The process of the server, None when this source did not start one or it has ended."""
        return self._session.pid if self._session is not None and self._session.alive else None

    async def ping(self) -> float:
        """Returns the seconds of a round trip that asks the server for nothing but an answer.

        It is a `ping`, which the protocol had until 2025-11-25, and `server/discover` from 2026-07-28 on.
        """
        from mcp import MCPError

        session = await self._connected("")
        client = session.client
        begin = time.perf_counter()
        try:
            if client.session.initialize_result is not None:
                await client.session.send_ping()
            else:
                await client.session.send_discover(client.protocol_version)
        except MCPError as error:
            if _is_lost(session, error):
                raise await self._lost(session, "ping") from error
            return time.perf_counter() - begin  # that it does not know the question is an answer
        return time.perf_counter() - begin

    async def aclose(self) -> None:
        """Ends the connection and the server that it started: asked to end, it has two seconds, then it is killed."""
        self._closed = True
        sessions = [*self._ended, *([self._session] if self._session is not None else [])]
        self._session, self._ended = None, []
        await asyncio.gather(*(session.aclose() for session in sessions))

    # calls

    async def _call(self, skill_id: str, tool: str, params: dict[str, Any]) -> Any:
        from mcp import MCPError

        session = await self._connected(skill_id)
        try:
            result = await session.client.call_tool(tool, params)
        except MCPError as error:
            if _is_lost(session, error):
                raise await self._lost(session, skill_id) from error
            raise ToolError(
                f"{skill_id}: the server refused: {error.message}", skill_id=skill_id, code=error.code
            ) from error
        except RuntimeError as error:  # the SDK's word for content that is not what the tool's output schema says
            raise InvalidResponseError(f"{skill_id}: {fmt.cut(str(error), _LONGEST)}") from error
        if result.is_error:
            raise ToolError(f"{skill_id}: {fmt.cut(_text(result) or 'it gave no reason', _LONGEST)}", skill_id=skill_id)
        return _output(result)

    async def _connected(self, skill_id: str) -> Session:
        """Returns the session, open; one of many calls connects again while the others wait."""
        async with self._lock:
            if self._closed:
                raise ServerLostError(f"{self._server}: its source is closed: connect again", skill_id=skill_id)
            if self._session is not None and self._session.alive:
                return self._session
            left = [*self._ended, *([self._session] if self._session is not None else [])]
            self._ended = [session for session in left if not session.ended]
            self._session = session = Session(self._server)
            try:
                await session.open(self._timeout)
            except ServerLostError as error:
                raise ServerLostError(str(error), skill_id=skill_id) from error.__cause__
            self.connects.append(session.duration)
            return session

    async def _lost(self, session: Session, skill_id: str) -> ServerLostError:
        why = session.lost()
        await session.aclose()
        return ServerLostError(f"{skill_id}: {why}", skill_id=skill_id)

    # tools

    async def _list(self) -> None:
        session = await self._connected("")
        client = session.client
        self.protocol = client.protocol_version
        if client.server_info is not None:
            self.name, self.version = client.server_info.name, client.server_info.version
        problems = []
        for tool in await self._listed(session):
            try:
                definition = self._definition(tool)
                compile_schemas(definition)
            except InvalidDefinitionError as error:
                problems.append(f"{tool.name}: {error}")
                continue
            if definition.id in self._skills:
                problems.append(f"{tool.name}: another tool has the id {definition.id!r} already")
            else:
                self._skills[definition.id] = definition
        self.problems = tuple(problems)

    async def _listed(self, session: Session) -> list[Tool]:
        """Returns what the server lists, in the time that it has to connect; what goes wrong is told as a typed error."""
        from mcp import MCPError

        try:
            async with asyncio.timeout(self._timeout):
                return await _tools(session.client)
        except TimeoutError:
            within = f"did not answer `tools/list` within {fmt.duration(self._timeout)}"
            raise ServerLostError(told(f"MCP server {self._server} {within}", session.last_words())) from None
        except MCPError as error:
            if _is_lost(session, error):
                raise await self._lost(session, f"{self._server}: tools/list") from error
            refused = f"MCP server {self._server} refused `tools/list`: {fmt.cut(error.message, _LONGEST)}"
            raise ToolError(refused, skill_id="", code=error.code) from error
        except (RuntimeError, ValueError) as error:  # the SDK's words for an answer that is not what the protocol says
            answered = f"MCP server {self._server} answered `tools/list` with no list of tools: {fmt.cut(str(error), _LONGEST)}"
            raise InvalidResponseError(answered) from error

    def _definition(self, tool: Tool) -> SkillDefinition:
        skill_id = f"{self._prefix}{tool.name}"
        hints = tool.annotations
        tags = ("mcp", *([READ_ONLY] if hints is not None and hints.read_only_hint else []))
        return SkillDefinition(
            id=skill_id,
            name=skill_id,
            version=self.version or "1.0.0",
            layer=1,
            description=tool.description or tool.title or "",
            category="mcp",
            tags=tags,
            author=self.name,
            handler=FunctionHandler(
                target=f"{__name__}:McpSource", function=_function(self._call, skill_id, tool.name)
            ),
            input_schema=tool.input_schema,
            output_schema=tool.output_schema,
            resource_requirements=_NEEDS,
        )


def _is_lost(session: Session, error: MCPError) -> bool:
    return not session.alive or (error.code in (_CLOSED, _INVALID) and _ENDED.search(error.message) is not None)


def _import_sdk() -> None:
    """Imports what connections and their first calls need, so that no server is charged for the second that it takes."""
    for module in ("mcp", "mcp.client.stdio", "mcp.client.streamable_http", "jsonschema.validators"):
        importlib.import_module(module)


def _function(call: Callable[[str, str, dict[str, Any]], Any], skill_id: str, tool: str) -> Callable[..., Any]:
    async def ask(**params: Any) -> Any:
        return await call(skill_id, tool, params)

    return ask


async def _tools(client: Client) -> list[Tool]:
    page = await client.list_tools()
    found = list(page.tools)
    for _ in range(_PAGES):
        if page.next_cursor is None:
            return found
        page = await client.list_tools(cursor=page.next_cursor)
        found += page.tools
    raise InvalidResponseError(f"the server's list of tools has no end: {_PAGES} pages and {len(found)} tools so far")


def _server(target: str | Sequence[str], env: Mapping[str, str], headers: Mapping[str, str]) -> Server:
    if isinstance(target, str) and re.match(r"https?://", target, re.IGNORECASE):
        try:
            host = urlsplit(target).hostname
        except ValueError:
            host = None
        if not host:
            raise InvalidValueError(f"target={redacted(target)!r} has no host: write http://host:port/mcp")
        return Server(url=target, headers=FrozenDict(headers))
    argv = _words(target) if isinstance(target, str) else list(target)
    if not argv or not all(isinstance(part, str) for part in argv):
        raise InvalidValueError(f"target={target!r} must be the command of an MCP server, or its address")
    server = Server(argv=tuple(argv), env=FrozenDict(env))
    server.require()
    return server


def _words(command: str) -> list[str]:
    """Returns the words of a command as a shell would hand them on; within its quotes ~/ is still the home folder."""
    try:
        words = shlex.split(command)
    except ValueError as error:
        raise InvalidValueError(f"target={redacted(command)!r} is no command: {error}") from None
    return [os.path.expanduser(word) if word.startswith("~/") else word for word in words]


def _output(result: CallToolResult) -> Any:
    if result.structured_content is not None:
        return result.structured_content
    if all(part.type == "text" for part in result.content):
        return _text(result)
    return [part.model_dump(mode="json", by_alias=True, exclude_none=True) for part in result.content]


def _text(result: CallToolResult) -> str:
    return "\n".join(part.text for part in result.content if part.type == "text")


__all__ = ["READ_ONLY", "McpSource", "from_mcp", "reason"]
