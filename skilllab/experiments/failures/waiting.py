"""Waiting for what tells nobody: counters of a server, threads that run on."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

_LOOK = 0.005  # s between two looks


async def until(holds: Callable[[], Awaitable[bool]], limit: float) -> bool:
    """Returns True as soon as `holds()` does, False when it has not for `limit` seconds."""
    try:
        async with asyncio.timeout(limit):
            while not await holds():  # noqa: ASYNC110 - there is no event to wait for
                await asyncio.sleep(_LOOK)
    except TimeoutError:
        return False
    return True
