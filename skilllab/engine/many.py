"""run_many: many calls, some at a time, results in order."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterable, Awaitable, Callable, Iterable, Mapping, Sized
from contextlib import aclosing
from typing import Any

from skilllab.engine.guard import checked_count
from skilllab.errors import InvalidValueError
from skilllab.outcome import ExecutionResult

Call = tuple[str, Mapping[str, Any]]
Calls = Iterable[Call] | AsyncIterable[Call]


async def run_many(
    execute: Callable[..., Awaitable[ExecutionResult]],
    calls: Calls,
    limit: int,
    on_progress: Callable[[int, int | None], object] | None,
    options: Mapping[str, Any],
) -> list[ExecutionResult]:
    """Returns the results of `execute(skill_id, params, **options)` in the order of the calls, `limit` of them at once.

    The calls are drawn one by one, each when a worker is free for it. Raises InvalidValueError for a limit below 1 and
    for a call that is no pair, after those already begun were cancelled.
    """
    checked_count("limit", limit)
    total = len(calls) if isinstance(calls, Sized) else None
    numbered = _numbered(calls)
    results: dict[int, ExecutionResult] = {}
    drawing = asyncio.Lock()

    async def work() -> None:
        while True:
            async with drawing:  # an async generator cannot be advanced by two workers at once
                drawn = await anext(numbered, None)
            if drawn is None:
                return
            position, call = drawn
            skill_id, params = _checked(position, call)
            results[position] = await execute(skill_id, params, **options)
            if on_progress is not None:
                on_progress(len(results), total)

    workers = limit if total is None else min(limit, total)
    async with aclosing(numbered):
        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(workers):
                    group.create_task(work())
        except BaseExceptionGroup as failures:
            raise failures.exceptions[0] from None
    return [results[position] for position in range(len(results))]


async def _numbered(calls: Any) -> AsyncGenerator[tuple[int, Any], None]:
    position = 0
    if isinstance(calls, AsyncIterable):
        async for call in calls:
            yield position, call
            position += 1
        return
    if isinstance(calls, str | bytes | Mapping) or not isinstance(calls, Iterable):
        raise InvalidValueError(f"calls={calls!r} must be pairs of skill id and parameters")
    for call in calls:
        yield position, call
        position += 1


def _checked(position: int, call: Any) -> Call:
    if not isinstance(call, tuple | list) or len(call) != 2 or not isinstance(call[0], str):
        raise InvalidValueError(f"call {position} is {call!r}: it must be a pair of skill id and parameters")
    skill_id, params = call
    return skill_id, params
