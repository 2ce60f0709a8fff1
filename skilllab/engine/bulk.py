"""Long work in small portions: process_batch and iter_batches take a few items at a time, and rest in between."""

from __future__ import annotations

import asyncio
import ctypes
import gc
import inspect
import math
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Iterable, Iterator, Sized
from functools import cache
from itertools import islice
from typing import Any

from skilllab.errors import BatchError, InvalidValueError
from skilllab.settings import BATCH_PAUSE, BATCH_SIZE

Items = Iterable[Any] | AsyncIterable[Any]
Progress = Callable[[int, int | None], object]


async def process_batch(
    items: Items,
    fn: Callable[[Any], Any],
    batch_size: int = BATCH_SIZE,
    pause: float = BATCH_PAUSE,
    *,
    return_exceptions: bool = False,
    collect: bool = False,
    on_progress: Progress | None = None,
    sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
) -> list[Any]:
    """Returns what `fn` made of every item, in order; arguments and errors as in `iter_batches`.

    Only the results are kept. Where they are large, use `iter_batches`, which keeps those of a batch.
    """
    batches = iter_batches(
        items,
        fn,
        batch_size,
        pause,
        return_exceptions=return_exceptions,
        collect=collect,
        on_progress=on_progress,
        sleep=sleep,
    )
    return [result async for batch in batches for result in batch]


async def iter_batches(
    items: Items,
    fn: Callable[[Any], Any],
    batch_size: int = BATCH_SIZE,
    pause: float = BATCH_PAUSE,
    *,
    return_exceptions: bool = False,
    collect: bool = False,
    on_progress: Progress | None = None,
    sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
) -> AsyncIterator[list[Any]]:
    """Yields what `fn` made of each batch of items, in order; at most two batches are in memory, the caller's and the next.

    items: an iterable or async iterable, read a batch at a time. fn: async, or plain and then run in a thread; all items
    of a batch run at once. batch_size: items. pause: seconds between two batches, in which freed memory also goes back to
    the system (glibc's malloc_trim: half a millisecond); 0 for neither. collect: whether garbage is collected after each
    batch, which only results that hold themselves need and takes 100 ms where pandas and numba are loaded.
    on_progress: called after each batch with the items done and their number, None where `items` has no length.
    The first error cancels the rest of its batch and is raised with a note of the item's position, counted from 0; with
    return_exceptions it stands in the item's place. A plain function that has begun runs on to its end in its thread.
    Raises InvalidValueError for arguments without a meaning, BatchError for an item that was cancelled on its own.
    """
    require_count("batch_size", batch_size)
    require_seconds("pause", pause)
    call, source, done = async_form(fn), _iterator(items), 0
    total = len(items) if isinstance(items, Sized) else None
    batch = await _taken(source, batch_size)
    while batch:
        results = await _results(call, batch, done, return_exceptions)
        done += len(batch)
        del batch
        if on_progress is not None:
            on_progress(done, total)
        yield results
        del results
        if collect:
            gc.collect()
        if pause:
            _return_memory()
        batch = await _taken(source, batch_size)
        if batch and pause:
            await sleep(pause)


async def _results(call: Callable[[Any], Any], items: list[Any], position: int, return_exceptions: bool) -> list[Any]:
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [
                group.create_task(_one(call, item, position + place, return_exceptions))
                for place, item in enumerate(items)
            ]
    except BaseExceptionGroup as failures:
        first = failures.exceptions[0]
    else:
        return [task.result() for task in tasks]
    try:
        raise first
    finally:
        del first, tasks  # the error's traceback holds this frame: it must not hold the error in turn


async def _one(call: Callable[[Any], Any], item: Any, position: int, return_exceptions: bool) -> Any:
    try:
        return await call(item)
    except asyncio.CancelledError as error:
        task = asyncio.current_task()
        if task is None or task.cancelling():
            raise
        failure = BatchError(f"item {position} was cancelled, by nobody who waits for it")
        failure.__cause__ = error
        if not return_exceptions:
            raise failure from error
        return failure
    except Exception as error:
        if return_exceptions:
            return error
        error.add_note(f"raised by item {position}, counted from 0")
        raise


def _iterator(items: Items) -> Iterator[Any] | AsyncIterator[Any]:
    if isinstance(items, AsyncIterable):
        return aiter(items)
    try:
        return iter(items)
    except TypeError:
        raise InvalidValueError(f"items={items!r:.80} must be an iterable or an async iterable") from None


async def _taken(source: Iterator[Any] | AsyncIterator[Any], size: int) -> list[Any]:
    if not isinstance(source, AsyncIterator):
        return list(islice(source, size))
    taken: list[Any] = []
    while len(taken) < size:
        try:
            taken.append(await anext(source))
        except StopAsyncIteration:
            break
    return taken


@cache
def _malloc_trim() -> Callable[[int], object]:
    """Returns glibc's function that gives free memory back to the system, or one that does nothing."""
    return getattr(ctypes.CDLL(None), "malloc_trim", lambda _: None)


def _return_memory() -> None:
    _malloc_trim()(0)


def async_form(function: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Returns an async function as it is, and of a plain one a form that runs it in a thread."""
    if not callable(function):
        raise InvalidValueError(f"{function!r} must be a function of one argument, async or plain")
    if inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(getattr(function, "__call__", None)):  # noqa: B004
        return function

    async def in_thread(argument: Any) -> Any:
        answer = await asyncio.to_thread(_without_stop, function, argument)
        return await answer if inspect.isawaitable(answer) else answer

    return in_thread


def _without_stop(function: Callable[[Any], Any], argument: Any) -> Any:
    """Calls a function in a thread; no future can carry a StopIteration out of it."""
    try:
        return function(argument)
    except StopIteration as error:
        raise RuntimeError("the function raised StopIteration") from error


def require_count(name: str, value: Any) -> None:
    """Raises InvalidValueError unless the value is a whole number of at least 1."""
    if type(value) is not int or value < 1:
        raise InvalidValueError(f"{name}={value!r} must be a whole number of at least 1")


def require_seconds(name: str, value: Any) -> None:
    """Raises InvalidValueError unless the value is a number of seconds, 0 or more."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < math.inf:
        raise InvalidValueError(f"{name}={value!r} must be a number of seconds, 0 or more")
