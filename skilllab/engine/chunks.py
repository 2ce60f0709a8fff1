"""Chunks: a generator read to its end, one chunk at a time, each made when it is asked for."""

from __future__ import annotations

import contextvars
from collections.abc import AsyncGenerator, Callable, Coroutine
from typing import Any

from skilllab.engine.execution import Execution
from skilllab.engine.stepping import Stepper, awaited, measured

_END = object()
"""What follows the last chunk."""


async def chunks_on_loop(stepper: Stepper, execution: Execution, source: Any) -> AsyncGenerator[Any, None]:
    """Yields what an async generator yields; its usage is that of all chunks together. Closes it at the end."""
    execution.usage = measured(0.0)
    try:
        while True:
            chunk = await stepper.run(execution, _next_on_loop(execution, source))
            if chunk is _END:
                return
            yield chunk
    finally:
        if execution.left_behind is None:
            await stepper.run(execution, awaited(source.aclose()))


async def chunks_in_thread(
    in_thread: Callable[..., Coroutine[Any, Any, Any]], execution: Execution, source: Any
) -> AsyncGenerator[Any, None]:
    """Yields what a plain generator yields, which runs in threads, one at a time, in one context. Closes it at the end.

    in_thread: runs a function of an execution in a thread.
    """
    context = contextvars.copy_context()
    execution.usage = measured(0.0)
    try:
        while True:
            chunk = await in_thread(
                execution, _next_in_thread, (source,), context=context, after=lambda _: source.close()
            )
            if chunk is _END:
                return
            yield chunk
    finally:
        if execution.left_behind is None:
            await in_thread(execution, source.close, context=context)


async def _next_on_loop(execution: Execution, source: Any) -> Any:
    try:
        chunk = await source.__anext__()
    except StopAsyncIteration:
        return _END
    if execution.left_behind is not None:  # nobody takes this chunk, and nobody asks for a next one
        await source.aclose()
    return chunk


def _next_in_thread(source: Any) -> Any:
    return next(source, _END)
