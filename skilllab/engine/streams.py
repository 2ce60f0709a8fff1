"""streamed: the chunks of an execution that runs in a task of its own, at most one ahead of who reads them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine
from typing import Any

from skilllab.outcome import ExecutionResult

_END = object()
Sink = Callable[[Any], Awaitable[None]]


async def streamed(start: Callable[[Sink], Coroutine[Any, Any, ExecutionResult]]) -> AsyncGenerator[Any, None]:
    """Yields what the execution hands to its sink, then raises its error if it failed.

    The execution has a task of its own, so that its deadline holds also while the reader does something else; when the
    reader stops, it is cancelled.
    """
    chunks: asyncio.Queue[Any] = asyncio.Queue()
    room = asyncio.Semaphore(1)
    left = False

    async def sink(chunk: Any) -> None:
        await room.acquire()
        if left:  # the skill has swallowed the cancellation that told it so
            raise asyncio.CancelledError
        chunks.put_nowait(chunk)

    task = asyncio.create_task(start(sink))
    task.add_done_callback(lambda _: chunks.put_nowait(_END))
    try:
        while (chunk := await chunks.get()) is not _END:
            yield chunk
            room.release()
        error = (await task).error
        if error is not None:
            raise error
    finally:
        if not task.done():
            left = True
            room.release()
            task.cancel()
            await asyncio.wait([task])
        error = task = None  # type: ignore[assignment]  # the error's traceback holds this frame
