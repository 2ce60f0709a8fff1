"""The process of a DemoProcess: takes commands on its standard input, and ends when that ends."""

from __future__ import annotations

import asyncio
import contextlib
import os
import stat
import sys
from typing import Any

from skilllab.demo.server import DemoServer
from skilllab.errors import SkilllabError
from skilllab.programs.values import Values, pack

_LOOK_UP = 1.0  # s between two looks for the parent: another child of it may hold our input open after its end


async def serve() -> None:
    """Serves until the input ends or the parent is gone."""
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader()
    source, _ = await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin.buffer)
    transport, protocol = await loop.connect_write_pipe(asyncio.streams.FlowControlMixin, sys.stdout.buffer)
    writer = asyncio.StreamWriter(transport, protocol, None, loop)
    try:
        await _converse(Values(reader), writer)
    except (EOFError, ConnectionError):
        return
    finally:
        writer.close()
        source.close()


async def _converse(commands: Values, writer: asyncio.StreamWriter) -> None:
    number, _, (settings, port, parent) = await commands.read()
    server = DemoServer(settings, port=port)
    try:
        await server.start()
    except SkilllabError as error:
        await _say(writer, number, error)
        return
    async with contextlib.aclosing(server):
        await _say(writer, number, server.port)
        while os.getppid() == parent:
            try:
                async with asyncio.timeout(_LOOK_UP):
                    number, command, arguments = await commands.read()
            except TimeoutError:
                continue
            await _say(writer, number, await _obey(server, command, arguments))


async def _obey(server: DemoServer, command: str, arguments: tuple[Any, ...]) -> object:
    try:
        return await getattr(server, command)(*arguments)
    except SkilllabError as error:
        return error


async def _say(writer: asyncio.StreamWriter, number: int, answer: object) -> None:
    writer.write(pack((number, answer)))
    await writer.drain()


def _is_pipe(mode: int) -> bool:
    return stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode)  # which of the two depends on the Python version


if __name__ == "__main__":
    if not _is_pipe(os.fstat(0).st_mode):
        sys.exit("This is the process of a DemoProcess: for a server to look at, run `skilllab demo`.")
    asyncio.run(serve())
