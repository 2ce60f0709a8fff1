"""A real MCP server made with the SDK, which works, fails, hangs, crashes and lies on request: `python mcp_server.py`.

Over stdio, or with --http over streamable HTTP, on the port PORT of 127.0.0.1, or a free one, that it prints.
"""

from __future__ import annotations

import asyncio
import os
import socket
import sys
import time

from mcp.server.mcpserver import MCPServer
from mcp.server.mcpserver.exceptions import ToolError
from mcp_types import ToolAnnotations

READ_ONLY = ToolAnnotations(read_only_hint=True)
server = MCPServer("workshop", version="3.1")
calls: dict[str, int] = {}
cancelled: list[str] = []


@server.tool(annotations=READ_ONLY)
def add(a: int, b: int = 1) -> int:
    """Adds two whole numbers."""
    calls["add"] = calls.get("add", 0) + 1
    return a + b


@server.tool(annotations=READ_ONLY)
async def nap(seconds: float) -> str:
    """Sleeps, without keeping others waiting."""
    try:
        await asyncio.sleep(seconds)
    except asyncio.CancelledError:
        cancelled.append("nap")
        raise
    return f"slept {seconds}"


@server.tool(annotations=READ_ONLY)
def stall(seconds: float) -> str:
    """Sleeps, and keeps the whole server waiting when it does so in its loop."""
    time.sleep(seconds)
    return "done"


@server.tool(annotations=READ_ONLY)
def fail(about: str) -> str:
    """Answers with an error."""
    raise ToolError(f"no {about} here")


@server.tool(annotations=READ_ONLY)
async def crash() -> str:
    """Ends the server in the middle of a call."""
    print("workshop: out of luck", file=sys.stderr, flush=True)
    os._exit(7)


@server.tool(annotations=READ_ONLY)
def words(count: int) -> str:
    """Returns so many words."""
    return "word " * count


@server.tool()
def order(item: str) -> str:
    """Orders something: it changes the world, and does not say that it only reads."""
    calls["order"] = calls.get("order", 0) + 1
    return item


@server.tool(annotations=READ_ONLY)
def seen() -> dict[str, int]:
    """Returns how often tools were called, how many naps were cut short, and the server's process."""
    return {**calls, "cancelled": len(cancelled), "pid": os.getpid()}


def serve_http() -> None:
    import uvicorn

    # with the protocol's number asyncio turns Nagle's algorithm off; without it every answer comes 40 ms late
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind(("127.0.0.1", int(os.environ.get("PORT", "0"))))
    listener.listen()
    print(listener.getsockname()[1], flush=True)
    config = uvicorn.Config(server.streamable_http_app(), log_level="error")
    asyncio.run(uvicorn.Server(config).serve(sockets=[listener]))


if __name__ == "__main__":
    if "--http" in sys.argv:
        serve_http()
    else:
        server.run("stdio")
