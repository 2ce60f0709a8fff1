"""single_flight: many callers that ask the same thing at once share one call.

Tasks share a task of its own, which no caller owns: it ends early only when every caller has been cancelled.
Threads share the call of the first; the others wait for it.
"""

from __future__ import annotations

import asyncio
import functools
import inspect
import threading
from collections.abc import Callable, Coroutine, Hashable
from concurrent.futures import Future
from typing import Any, ParamSpec, TypeVar, cast

from skilllab.cache.keys import canonical_key
from skilllab.errors import InvalidValueError, SingleFlightError

P = ParamSpec("P")
R = TypeVar("R")
KeyOf = Callable[..., Hashable]


def single_flight(function: Callable[P, R] | None = None, /, *, key: KeyOf | None = None) -> Any:
    """Decorates a `def` or `async def` so that calls with equal arguments at the same time become one call.

    key: makes the key from the arguments; by default it is the canonical key of all of them. Every caller gets the same
    result or the same error; nothing is kept after the call ends. A caller that is cancelled leaves the others served;
    when all are cancelled, so is the call. Tasks of different event loops do not share calls. `.in_flight()` counts.
    Raises SingleFlightError when the function calls itself with the same arguments, and so would wait for itself.
    """
    if function is None:
        return functools.partial(single_flight, key=key)
    if inspect.isasyncgenfunction(function) or inspect.isgeneratorfunction(function):
        raise InvalidValueError(
            f"{function.__name__} is a generator: a stream cannot be shared; collect it in a function"
        )
    if inspect.iscoroutinefunction(function):
        return _share_tasks(function, key or _key_of_arguments)
    return _share_threads(function, key or _key_of_arguments)


def _key_of_arguments(*args: Any, **kwargs: Any) -> Hashable:
    return canonical_key([list(args), kwargs], normal_form=None)


class _TaskFlight:
    """One shared task and the number of callers that wait for it."""

    __slots__ = ("task", "waiting")

    def __init__(self, task: asyncio.Task[Any]) -> None:
        self.task = task
        self.waiting = 0

    async def join(self) -> Any:
        if self.task is asyncio.current_task():
            raise SingleFlightError("the function calls itself with the same arguments and would wait for itself")
        self.waiting += 1
        try:
            return await asyncio.shield(self.task)
        except asyncio.CancelledError:
            if self.waiting == 1 and not self.task.done():
                self.task.cancel()
            raise
        finally:
            self.waiting -= 1


def _share_tasks(function: Callable[..., Coroutine[Any, Any, R]], key_of: KeyOf) -> Any:
    flights: dict[Hashable, _TaskFlight] = {}

    @functools.wraps(function)
    async def shared(*args: Any, **kwargs: Any) -> R:
        loop = asyncio.get_running_loop()
        key = (id(loop), key_of(*args, **kwargs))
        flight = flights.get(key)
        if flight is None or flight.task.done() or flight.task.cancelling() or flight.task.get_loop() is not loop:
            flight = flights[key] = _TaskFlight(loop.create_task(function(*args, **kwargs)))
            flight.task.add_done_callback(functools.partial(_land, flights, key, flight))
        return cast(R, await flight.join())

    shared.in_flight = lambda: len(flights)  # type: ignore[attr-defined]
    return shared


def _land(flights: dict[Hashable, _TaskFlight], key: Hashable, flight: _TaskFlight, task: asyncio.Task[Any]) -> None:
    if flights.get(key) is flight:
        del flights[key]
    if not task.cancelled():
        task.exception()  # read, so that an error whose callers have all left is not reported as never retrieved


def _share_threads(function: Callable[..., R], key_of: KeyOf) -> Any:
    flights: dict[Hashable, tuple[int, Future[R]]] = {}
    lock = threading.Lock()

    @functools.wraps(function)
    def shared(*args: Any, **kwargs: Any) -> R:
        key = key_of(*args, **kwargs)
        here = threading.get_ident()
        with lock:
            first, future = flights.get(key, (None, None))
            if future is None:
                future = Future()
                flights[key] = (here, future)
        if first is None:
            return _fly(function, args, kwargs, future, lambda: flights.pop(key))
        if first == here:
            raise SingleFlightError(
                f"{function.__name__} calls itself with the same arguments and would wait for itself"
            )
        return future.result()

    shared.in_flight = lambda: len(flights)  # type: ignore[attr-defined]
    return shared


def _fly(function: Callable[..., R], args: Any, kwargs: Any, future: Future[R], land: Callable[[], object]) -> R:
    """Calls for all: the flight has left the table before anyone hears, so that an error is not met by later callers."""
    try:
        result = function(*args, **kwargs)
    except BaseException as error:
        land()
        future.set_exception(error)
        raise
    land()
    future.set_result(result)
    return result
