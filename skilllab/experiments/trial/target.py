"""What is tried: a function, an MCP server or an address, opened as skills, and its connect time."""

from __future__ import annotations

import asyncio
import math
import re
import ssl
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Literal, get_args
from urllib.parse import urlsplit

from skilllab import format as fmt
from skilllab.define import http_skill
from skilllab.demo import DemoProcess
from skilllab.errors import InvalidDefinitionError, InvalidValueError, TransportError
from skilllab.model import FunctionHandler, SkillDefinition
from skilllab.settings import MCP_CONNECT_TIMEOUT
from skilllab.skills.mcp import READ_ONLY, McpSource, from_mcp, reason
from skilllab.skills.module import ModuleSource, from_module
from skilllab.skills.redaction import redacted, redacted_addresses

Kind = Literal["module", "mcp", "http"]
KINDS: tuple[Kind, ...] = get_args(Kind)

_MCP = re.compile(r"https?://[^/?#]*(/[^?#]*)?/mcp/*([?#].*)?", re.IGNORECASE | re.DOTALL)
_MODULE = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_][\w.]*")
_NOTHING = "skilllab-nothing"  # the id of what does nothing


@dataclass(frozen=True, slots=True)
class Target:
    """An opened target.

    tools: its skills by id. allowed: ids that may be called without being named: those that say they only read, or the one
    that whoever gave the target has named. connect: seconds until it could be called. connecting: what that was.
    nothing: a skill of the same kind that does nothing, whose time is the noise floor. ping: returns the seconds of a round
    trip to the server that asks for nothing. pid: returns the process of a server that was started, else None.
    connects: connections made so far. problems: what its tools could not be taken as. options: of the command line, which
    open it again besides its text, as whoever opened it gave them.
    """

    kind: Kind
    text: str
    title: str
    tools: Mapping[str, SkillDefinition]
    allowed: frozenset[str]
    connect: float
    connecting: str
    nothing: SkillDefinition
    ping: Callable[[], Awaitable[float]] | None = None
    pid: Callable[[], int | None] = lambda: None
    connects: Sequence[float] = field(default=())
    problems: tuple[str, ...] = ()
    options: tuple[str, ...] = ()


def kind_of(target: str) -> Kind:
    """Returns what a target is taken for.

    "package.module:function" is a module's function, an http(s) address whose path ends in /mcp or /mcp/ an MCP server,
    any other address one to GET, and anything else the command of an MCP server.
    """
    if _MODULE.fullmatch(target):
        return "module"
    if re.match(r"https?://", target, re.IGNORECASE):
        return "mcp" if _MCP.fullmatch(target) else "http"
    return "mcp"


@asynccontextmanager
async def opened(
    target: str,
    kind: Kind | None = None,
    *,
    env: Mapping[str, str] | None = None,
    headers: Mapping[str, str] | None = None,
    timeout: float = MCP_CONNECT_TIMEOUT,
    options: Sequence[str] = (),
) -> AsyncIterator[Target]:
    """Opens a target, and ends what it started at the end.

    kind: what it is, None takes `kind_of`. env: variables for an MCP server that is started. headers: of HTTP requests.
    timeout: seconds to connect, and as many again to list a server's tools. options: of a command line, for the next command:
    `--env NAME`, `--header NAME:VARIABLE`. Raises InvalidValueError for a target that cannot be one, TransportError for a
    server that cannot be reached or does not answer, ToolError and InvalidResponseError for one that does not list its tools,
    InvalidDefinitionError for a function that cannot be a skill.
    """
    kind = kind or kind_of(target)
    if kind not in KINDS:
        raise InvalidValueError(f"kind={kind!r} must be one of {', '.join(KINDS)}")
    if not 0 < timeout < math.inf:
        raise InvalidValueError(f"timeout={timeout!r} must be seconds above 0: a server may never answer")
    if not target.strip():
        raise InvalidValueError("target is empty: give package.module:function, an MCP server's command or an address")
    if kind == "module":
        yield _module(target, tuple(options))
    elif kind == "mcp":
        async with await from_mcp(target, env=env, headers=headers, timeout=timeout) as source:
            yield _mcp(target, source, tuple(options))
    else:
        connect = await _connect_time(target, timeout)
        # what the same request costs to a server that answers at once, in a process of its own as the target is
        async with DemoProcess() as server:
            yield _http(target, headers or {}, connect, server.url, tuple(options))


def _module(target: str, options: tuple[str, ...]) -> Target:
    begin = time.perf_counter()
    source: ModuleSource = from_module(target)
    connect = time.perf_counter() - begin
    if ":" not in target:
        known = ", ".join(source) or "none"
        raise InvalidValueError(
            f"{target!r} is a module, and a trial calls one function: write {target}:function; its functions: {known}"
        )
    ((skill_id, definition),) = source.items()
    if definition.streaming:
        raise InvalidValueError(
            f"{target}: it yields, and a trial times calls that return: wrap it in a def that returns"
        )
    handler = definition.handler
    function = handler.function if isinstance(handler, FunctionHandler) else None
    like = _nothing_async if asyncio.iscoroutinefunction(function) else _nothing
    return Target(
        kind="module",
        text=target,
        title=f"function {target}",
        tools=source,
        allowed=frozenset([skill_id]),
        connect=connect,
        connecting="import of the module",
        nothing=_doing_nothing(like),
        options=options,
    )


def _mcp(target: str, source: McpSource, options: tuple[str, ...]) -> Target:
    said = " ".join(part for part in (source.name, source.version) if part) or "a server without a name"
    started = source.pid is not None
    return Target(
        kind="mcp",
        text=target,
        title=f"MCP server {said}, protocol {source.protocol}",
        tools=source,
        allowed=frozenset(skill_id for skill_id, tool in source.items() if READ_ONLY in tool.tags),
        connect=source.connects[0],
        connecting="start of the process and first answer" if started else "connection and first answer",
        nothing=_doing_nothing(_nothing_async),
        ping=source.ping,
        pid=lambda: source.pid,
        connects=source.connects,
        problems=source.problems,
        options=options,
    )


def _http(target: str, headers: Mapping[str, str], connect: float, floor: str, options: tuple[str, ...]) -> Target:
    try:
        definition = http_skill(id="GET", url=target, headers=headers)
    except InvalidDefinitionError as error:
        raise InvalidValueError(
            f"{redacted(target)!r} cannot be requested: {redacted_addresses(str(error))}"
        ) from error
    parts = urlsplit(target)
    return Target(
        kind="http",
        text=target,
        title=f"GET {parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}",
        tools={definition.id: definition},
        allowed=frozenset([definition.id]),
        connect=connect,
        connecting="connection" if parts.scheme == "http" else "connection and TLS",
        nothing=http_skill(id=_NOTHING, url=f"{floor}/users/1"),
        options=options,
    )


async def _connect_time(url: str, timeout: float) -> float:
    """Returns the seconds that a connection to the address takes; raises TransportError when there is none to be had."""
    try:
        parts = urlsplit(url)
        port = parts.port or (443 if parts.scheme.lower() == "https" else 80)
    except ValueError:  # whose words may quote what was meant as a password
        raise InvalidValueError(f"{redacted(url)!r} has no port or no host that can be one") from None
    if not parts.hostname:
        raise InvalidValueError(f"{redacted(url)!r} has no host: write http://host:port/path")
    secure = ssl.create_default_context() if parts.scheme.lower() == "https" else None
    begin = time.perf_counter()
    try:
        async with asyncio.timeout(timeout):
            _, writer = await asyncio.open_connection(parts.hostname, port, ssl=secure)
    except TimeoutError:
        told = f"no connection to {parts.hostname}:{port} within {fmt.duration(timeout)}: is the address right?"
        raise TransportError(told) from None
    except OSError as error:
        told = f"no connection to {parts.hostname}:{port}: {reason(error)}: is the server running?"
        raise TransportError(told) from error
    taken = time.perf_counter() - begin
    writer.close()
    try:
        await writer.wait_closed()
    except OSError:
        return taken  # how the other side takes the end of it changes nothing
    return taken


def _doing_nothing(function: Callable[..., object]) -> SkillDefinition:
    handler = FunctionHandler(target=f"{__name__}:{function.__name__}", function=function)
    return SkillDefinition(id=_NOTHING, name=_NOTHING, layer=1, handler=handler)


def _nothing() -> None:
    return None


async def _nothing_async() -> None:
    return None
