"""A server on this machine that only counts who came."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class Door:
    """How often somebody came, and the port at which."""

    def __init__(self) -> None:
        self.port = 0
        self.came = 0


@asynccontextmanager
async def door() -> AsyncIterator[Door]:
    """Listens on a free port of 127.0.0.1 for as long as the block lasts."""
    made = Door()

    async def come(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        made.came += 1
        writer.close()

    server = await asyncio.start_server(come, "127.0.0.1", 0)
    made.port = server.sockets[0].getsockname()[1]
    try:
        yield made
    finally:
        server.close()
        await server.wait_closed()
