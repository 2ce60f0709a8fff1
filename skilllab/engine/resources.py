"""ResourceManager: what work holds is released, whatever happens."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable, Iterable
from types import TracebackType
from typing import Any, Self, TypeVar

from skilllab import format as fmt
from skilllab.engine.tracking import ResourceReport, ResourceTracker
from skilllab.errors import EngineClosedError, ExecutionCancelledError, ExecutionTimeoutError, InvalidValueError
from skilllab.settings import CANCEL_GRACE

__all__ = ["ResourceManager", "ResourceReport", "ResourceTracker", "execute_with_cleanup"]

T = TypeVar("T")
E = TypeVar("E", bound=BaseException)

_WAYS_TO_CLOSE = ("aclose", "close", "cleanup")


class ResourceManager:
    """Releases resources in reverse order, when its `async with` block ends or `cleanup` is called.

    What it adds to contextlib.AsyncExitStack: a cleanup that has begun is not interrupted when the task is cancelled
    (the cancellation goes on after the last cleanup); an async one may take `cleanup_timeout` seconds, None for any time;
    and the errors of all are kept, where the stack lets each hide the one before. The block's own error is raised as it
    is, with a note for each cleanup that failed; without one an ExceptionGroup of the failures is raised. `failures`
    holds them in any case. Plain cleanups run in the thread of the block, since much of what needs closing (a SQLite
    connection) may not be touched by another.
    """

    def __init__(self, *, cleanup_timeout: float | None = None) -> None:
        if cleanup_timeout is not None and not (isinstance(cleanup_timeout, int | float) and cleanup_timeout > 0):
            raise InvalidValueError(
                f"cleanup_timeout={cleanup_timeout!r} must be seconds above 0, or None for any time"
            )
        self.failures: tuple[BaseException, ...] = ()
        self._timeout = cleanup_timeout
        self._held: list[tuple[Callable[..., object], tuple[Any, ...]]] = []
        self._closed = False

    async def add(self, open: Callable[[], Any], close: Callable[[Any], object] | None = None) -> Any:
        """Returns what `open` (plain or async) returned, to be released by `close` of it; see `register`.

        An `open` that is cancelled or fails has nothing registered, and must itself leave nothing open.
        """
        self._require_open()
        if not callable(open) or not (close is None or callable(close)):
            raise InvalidValueError(f"open={open!r} and close={close!r} must be functions, async or plain")
        resource = open()
        if inspect.isawaitable(resource):
            resource = await resource
        if self._closed:  # the block ended while `open` was at work
            late = ResourceManager(cleanup_timeout=self._timeout)
            late.register(resource, close)
            await late.cleanup()
        return self.register(resource, close)

    def register(self, resource: T, close: Callable[[T], object] | None = None) -> T:
        """Returns the resource, to be released by `close` of it; None uses its own aclose, close or cleanup.

        Raises InvalidValueError when it has none of these, EngineClosedError after the block.
        """
        if close is not None:
            self.callback(close, resource)
            return resource
        for name in _WAYS_TO_CLOSE:
            if callable(method := getattr(resource, name, None)):
                self.callback(method)
                return resource
        raise InvalidValueError(f"{resource!r:.80} has no {', '.join(_WAYS_TO_CLOSE)}: say how to close it")

    def callback(self, cleanup: Callable[..., object], *args: Any) -> None:
        """Has `cleanup(*args)` called at the release; raises EngineClosedError after the block."""
        self._require_open()
        if not callable(cleanup):
            raise InvalidValueError(f"cleanup={cleanup!r} must be a function, async or plain")
        self._held.append((cleanup, args))

    def __len__(self) -> int:
        """Returns how many cleanups are registered and have not begun."""
        return len(self._held)

    async def cleanup(self) -> None:
        """Releases everything, the last first; the manager may be used again.

        Raises an ExceptionGroup of what the cleanups raised; when the task is cancelled meanwhile, CancelledError.
        """
        failures, cancelled = await self._release()
        self.failures = tuple(failures)
        if cancelled is not None:
            raise _noted(cancelled, failures)
        if failures:
            raise BaseExceptionGroup("some resources could not be released", failures)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            await self.cleanup()
        except BaseExceptionGroup:
            if error is None:
                raise
        finally:
            self._closed = True
        if error is not None:
            _noted(error, self.failures)

    def _require_open(self) -> None:
        if self._closed:
            raise EngineClosedError("the block of this ResourceManager has ended: nobody would release what is added")

    async def _release(self) -> tuple[list[BaseException], asyncio.CancelledError | None]:
        """Runs every cleanup to its end; returns what they raised, and the cancellation that came meanwhile."""
        failures: list[BaseException] = []
        cancelled: asyncio.CancelledError | None = None
        while self._held:
            cleanup, args = self._held.pop()
            name = getattr(cleanup, "__qualname__", repr(cleanup))
            try:
                pending = cleanup(*args)
                if inspect.isawaitable(pending):
                    task = asyncio.ensure_future(pending)
                    cancelled = await _ended(task, self._timeout) or cancelled
                    if not task.done():
                        task.cancel()
                        cancelled = await _ended(task, CANCEL_GRACE) or cancelled
                        raise _too_long(task, name, self._timeout)
                    task.result()
            except asyncio.CancelledError as error:
                failures.append(
                    _chained(ExecutionCancelledError(f"the cleanup {name} was cancelled on its own"), error)
                )
            except BaseException as error:  # noqa: BLE001 - whatever it is, the other cleanups come first
                error.add_note(f"raised by the cleanup {name}")
                failures.append(error)
        return failures, cancelled


async def _ended(task: asyncio.Future[Any], seconds: float | None) -> asyncio.CancelledError | None:
    """Waits until the task has ended or the time is up, and through cancellations of this one; returns the last."""
    clock = asyncio.get_running_loop().time
    deadline = None if seconds is None else clock() + seconds
    cancelled = None
    while not task.done():
        left = None if deadline is None else deadline - clock()
        if left is not None and left <= 0:
            break
        try:
            await asyncio.wait([task], timeout=left)
        except asyncio.CancelledError as error:
            cancelled = error
    return cancelled


def _too_long(task: asyncio.Future[Any], name: str, timeout: float | None) -> ExecutionTimeoutError:
    message = f"the cleanup {name} took longer than {fmt.duration(timeout)}"
    if not task.done():
        message += " and did not heed its cancellation: it was left behind"
        task.add_done_callback(lambda late: late.cancelled() or late.exception())
    error = ExecutionTimeoutError(message, timeout=timeout or 0.0, stage="cleanup")
    return _chained(error, None if not task.done() or task.cancelled() else task.exception())


def _chained(error: E, cause: BaseException | None) -> E:
    error.__cause__ = cause
    return error


def _noted(error: E, failures: Iterable[BaseException]) -> E:
    for failure in failures:
        error.add_note(f"its clean-up failed too: {failure!r}")
    return error


async def execute_with_cleanup(
    operation: Callable[[ResourceManager], Any],
    *cleanups: Callable[[], object],
    cleanup_timeout: float | None = None,
) -> Any:
    """Returns what `operation(resources)` returned, after the release of all that it added to `resources`.

    operation, cleanups: plain or async. The cleanups run after those that the operation added, the last given first.
    Errors as in ResourceManager.
    """
    async with ResourceManager(cleanup_timeout=cleanup_timeout) as resources:
        for cleanup in cleanups:
            resources.callback(cleanup)
        result = operation(resources)
        return await result if inspect.isawaitable(result) else result
