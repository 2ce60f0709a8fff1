"""Frames: where a coroutine stands, and what in it belongs to its task."""

from __future__ import annotations

import asyncio
import gc
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from types import AsyncGeneratorType, CodeType, CoroutineType, FrameType, GeneratorType, TracebackType
from typing import Any

from skilllab.engine.execution import Execution

_PREFIXES = {CoroutineType: "cr", GeneratorType: "gi", AsyncGeneratorType: "ag"}
_MACHINERY = ("asyncio", "skilllab.engine")
_ENGINE = f"{Path(__file__).parent}{os.sep}"


def where_ended(function: Callable[..., Any] | None, coroutine: Any, raised: TracebackType | None) -> str:
    """Returns "module.function (file:line)" of the place at which the step of a coroutine ended just now.

    That is where it waits now, else where it raised what it ended with, else the function that returned. The innermost
    place counts, but outside asyncio and the engine, which only wait in a skill's stead.
    """
    frames = [(frame, frame.f_lineno) for part in _chain(coroutine) if (frame := _frame(part)) is not None]
    frames = frames or list(_traceback(raised))
    for frame, line in reversed(frames):
        module = frame.f_globals.get("__name__", "")
        if not _is_machinery(module):
            return _place(module, frame.f_code, line)
    code = getattr(coroutine, "cr_code", None)
    if code is None or code.co_filename.startswith(_ENGINE):
        code = getattr(function, "__code__", None)
    module = getattr(function, "__module__", "")
    return f"{module}.{function!r}" if code is None else _place(module, code, code.co_firstlineno)


def move_to_task(coroutine: Any, before: asyncio.Task[Any], task: asyncio.Task[Any]) -> None:
    """Makes what a suspended coroutine would cancel at a timeout or a failure its new task instead of the one before.

    That is each asyncio.timeout and TaskGroup that it is inside of, and each execution that it waits for. They are found
    on the stacks of its frames, which only the garbage collector's view shows.
    """
    for part in _chain(coroutine, through_executions=True):
        for thing in gc.get_referents(part):
            owner = getattr(thing, "__self__", thing)  # an `async with` keeps the bound __aexit__
            if isinstance(owner, asyncio.Timeout) and owner._task is before:  # type: ignore[attr-defined]
                owner._task = task  # type: ignore[attr-defined]
            elif isinstance(owner, asyncio.TaskGroup) and owner._parent_task is before:  # type: ignore[attr-defined]
                owner._parent_task = task  # type: ignore[attr-defined]
            elif isinstance(owner, Execution) and owner.task is before:
                owner.task, owner.cancelling = task, 0


def _chain(awaitable: Any, *, through_executions: bool = False) -> Iterator[Any]:
    """Yields the coroutine and what it waits for, inwards, as far as these are coroutines and generators.

    through_executions: whether to go on into the coroutine of an execution that it waits for.
    """
    while awaitable is not None:
        prefix = _PREFIXES.get(type(awaitable))
        if prefix is not None:
            yield awaitable
            inner = getattr(awaitable, "gi_yieldfrom" if prefix == "gi" else f"{prefix}_await")
            awaitable = _stepped(awaitable) if inner is None and through_executions else inner
        else:  # the awaitable of an async generator or of __await__, which does not show what is inside
            awaitable = next((part for part in gc.get_referents(awaitable) if type(part) in _PREFIXES), None)


def _stepped(generator: Any) -> Any:
    """Returns the coroutine that a stepper drives, which nothing shows but its frame; None for everything else."""
    frame = _frame(generator)
    if frame is None or frame.f_globals.get("__name__") != "skilllab.engine.stepping":
        return None
    return frame.f_locals.get("coroutine")


def _frame(part: Any) -> FrameType | None:
    frame: FrameType | None = getattr(part, f"{_PREFIXES[type(part)]}_frame")
    return frame


def _traceback(raised: TracebackType | None) -> Iterator[tuple[FrameType, int]]:
    while raised is not None:
        yield raised.tb_frame, raised.tb_lineno
        raised = raised.tb_next


def _is_machinery(module: str) -> bool:
    return any(module == name or module.startswith(f"{name}.") for name in _MACHINERY)


def _place(module: str, code: CodeType, line: int) -> str:
    return f"{module}.{code.co_qualname} ({Path(code.co_filename).name}:{line})"
