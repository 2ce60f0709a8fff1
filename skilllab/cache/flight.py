"""single_flight: many callers that ask the same thing at once share one call.

Tasks share a task of its own, which no caller owns: it ends early only when every caller has been cancelled.
Threads share the call of the first; the others wait for it.

A flight knows which flights it waits for, and a caller which flights it is inside of: so a caller that would close a
circle of flights, each waiting for the next, is told instead of hung.
"""

from __future__ import annotations

import asyncio
import functools
import inspect
import threading
from collections.abc import Callable, Coroutine, Hashable, Iterator
from concurrent.futures import CancelledError, Future
from contextlib import contextmanager
from contextvars import Context, ContextVar, copy_context
from typing import Any, ParamSpec, TypeVar, cast, overload

from skilllab.cache.keys import canonical_key, hashable
from skilllab.errors import InvalidValueError, SingleFlightError

P = ParamSpec("P")
R = TypeVar("R")
KeyOf = Callable[..., Hashable]


@overload
def single_flight(function: Callable[P, R], /) -> Callable[P, R]: ...


@overload
def single_flight(*, key: KeyOf | None = None) -> Callable[[Callable[P, R]], Callable[P, R]]: ...


def single_flight(function: Callable[..., Any] | None = None, /, *, key: KeyOf | None = None) -> Any:
    """Decorates a `def` or `async def` so that calls with equal arguments at the same time become one call.

    key: makes the key from the arguments; by default it is the canonical key of all of them, defaults included, however
    they were passed. Every caller gets the same result or the same error; nothing is kept after the call ends. A caller
    that is cancelled leaves the others served; when all are cancelled, so is the call. A thread that leaves by what is
    no Exception (SystemExit, KeyboardInterrupt) leaves alone: another one calls again. Tasks of different event loops
    do not share calls. `.in_flight()` counts.

    A call that waits for itself, directly or through other single-flight calls, raises SingleFlightError. What a call
    does counts as done inside it, and so does what a task does that it started, until the call ends; what a thread does
    that it started does not, unless asyncio.to_thread started it.
    Raises InvalidValueError for a function or a key that cannot be called, and for generators.
    """
    if key is not None:
        _check_callable("key", key)
    if function is None:
        return functools.partial(single_flight, key=key)
    _check_callable("function", function)
    called = (function, type(function).__call__)  # of an object, its method says what a call is
    if any(inspect.isasyncgenfunction(each) or inspect.isgeneratorfunction(each) for each in called):
        raise InvalidValueError(
            f"{_name_of(function)} is a generator: a stream cannot be shared; collect it in a function"
        )
    key_of = _key_of_arguments(function) if key is None else _checked_key(key)
    if any(inspect.iscoroutinefunction(each) for each in called):
        return _share_tasks(cast(Callable[..., Coroutine[Any, Any, Any]], function), key_of)
    return _share_threads(function, key_of)


def _check_callable(name: str, given: object) -> None:
    if not callable(given):
        raise InvalidValueError(f"{name}={given!r} cannot be called: give single_flight a function")


def _name_of(function: Any) -> str:
    return str(getattr(function, "__name__", None) or repr(function))


def _checked_key(key: KeyOf) -> KeyOf:
    return lambda *args, **kwargs: hashable(key(*args, **kwargs))


def _key_of_arguments(function: Callable[..., Any]) -> KeyOf:
    """Returns what makes one key of every way to pass the same arguments."""
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):  # some built-in functions have none
        signature = None

    def key_of(*args: Any, **kwargs: Any) -> Hashable:
        if signature is not None:
            try:
                bound = signature.bind(*args, **kwargs)
            except TypeError:
                pass  # the call itself says what is wrong, in the function's own words
            else:
                bound.apply_defaults()
                return canonical_key(bound.arguments, normal_form=None)
        return canonical_key([list(args), kwargs], normal_form=None)

    return key_of


# flights


class _Flight:
    """One call under way: its outcome, the callers that wait for it, and the flights that it waits for."""

    __slots__ = ("awaits", "name", "outcome", "waiting")

    def __init__(self, name: str, outcome: asyncio.Task[Any] | Future[Any] | None = None) -> None:
        self.name = name
        self.outcome: Any = outcome  # None while an eager task is being made
        self.waiting = 0
        self.awaits: list[_Flight] = []

    @property
    def ended(self) -> bool:
        """Whether there is nothing left to wait for."""
        return self.outcome is not None and self.outcome.done()

    def takes_callers_of(self, loop: asyncio.AbstractEventLoop) -> bool:
        """Whether a task of the loop may join: not when the call ended, or is being cancelled."""
        task = self.outcome
        return task is None or not (task.done() or task.cancelling() or task.get_loop() is not loop)

    def leads_to(self, flights: tuple[_Flight, ...]) -> bool:
        """Whether this flight is one of `flights`, or waits for one, directly or through others."""
        seen: set[_Flight] = set()
        unseen = [self]
        while unseen:
            flight = unseen.pop()
            if flight in flights:
                return True
            if flight not in seen and not flight.ended:
                seen.add(flight)
                unseen.extend(flight.awaits)
        return False


_inside: ContextVar[tuple[_Flight, ...]] = ContextVar("skilllab_flights", default=())
"""The flights that the code now running is part of, the innermost last."""

_graph = threading.RLock()  # reentrant: a coroutine that is collected while it is held leaves `_waiting_for` by it
"""Guards `awaits` of every flight: looking for a circle and adding what may close one is one step."""


def _flights_inside() -> tuple[_Flight, ...]:
    """Returns the flights that the caller is inside of and that have not ended."""
    inside = _inside.get()
    return tuple([flight for flight in inside if not flight.ended]) if inside else inside


@contextmanager
def _waiting_for(flight: _Flight) -> Iterator[None]:
    """Notes that the caller's own flight waits for `flight`; raises SingleFlightError if that would be for ever."""
    inside = _flights_inside()
    if not inside:
        yield
        return
    own = inside[-1]
    with _graph:
        if flight.leads_to(inside):
            through = "" if own is flight else f", through {own.name},"
            raise SingleFlightError(
                f"{flight.name} calls itself with the same arguments{through} and would wait for itself: "
                "call it with others, or call the undecorated function"
            )
        own.awaits.append(flight)
    try:
        yield
    finally:
        with _graph:
            own.awaits.remove(flight)


# tasks


def _share_tasks(function: Callable[..., Coroutine[Any, Any, R]], key_of: KeyOf) -> Any:
    flights: dict[Hashable, _Flight] = {}
    name = _name_of(function)

    @functools.wraps(function)
    async def shared(*args: Any, **kwargs: Any) -> R:
        loop = asyncio.get_running_loop()
        key = (id(loop), key_of(*args, **kwargs))
        flight = flights.get(key)
        if flight is None or not flight.takes_callers_of(loop):
            call = function(*args, **kwargs)
            flight = flights[key] = _Flight(name)
            flight.outcome = loop.create_task(call, context=_context_in(flight))
            flight.outcome.add_done_callback(functools.partial(_land, flights, key, flight))
        with _waiting_for(flight):
            return cast(R, await _joined(flight))

    shared.in_flight = lambda: len(flights)  # type: ignore[attr-defined]
    return shared


def _context_in(flight: _Flight) -> Context:
    context = copy_context()
    context.run(_inside.set, (*_flights_inside(), flight))
    return context


async def _joined(flight: _Flight) -> Any:
    flight.waiting += 1
    try:
        return await asyncio.shield(flight.outcome)
    except asyncio.CancelledError:
        if flight.waiting == 1 and not flight.outcome.done():
            flight.outcome.cancel()
        raise
    finally:
        flight.waiting -= 1


def _land(flights: dict[Hashable, _Flight], key: Hashable, flight: _Flight, task: asyncio.Task[Any]) -> None:
    if flights.get(key) is flight:
        del flights[key]
    if not task.cancelled():
        task.exception()  # read, so that an error whose callers have all left is not reported as never retrieved


# threads


def _share_threads(function: Callable[..., R], key_of: KeyOf) -> Any:
    flights: dict[Hashable, _Flight] = {}
    lock = threading.Lock()
    name = _name_of(function)

    @functools.wraps(function)
    def shared(*args: Any, **kwargs: Any) -> R:
        key = key_of(*args, **kwargs)
        while True:
            with lock:
                flight = flights.get(key)
                leads = flight is None
                if flight is None:
                    flight = flights[key] = _Flight(name, Future())
            if leads:
                return _fly(flight, functools.partial(function, *args, **kwargs), lambda: flights.pop(key))
            with _waiting_for(flight):
                try:
                    return cast(R, flight.outcome.result())
                except CancelledError:
                    if not flight.outcome.cancelled():
                        raise  # the function's own

    shared.in_flight = lambda: len(flights)  # type: ignore[attr-defined]
    return shared


def _fly(flight: _Flight, call: Callable[[], R], land: Callable[[], object]) -> R:
    """Calls for all: the flight has left the table before anyone hears, so that an error is not met by later callers.

    What is no Exception ends this thread's work and nobody else's: those that wait are told that nobody called.
    """
    try:
        with _waiting_for(flight):
            token = _inside.set((*_flights_inside(), flight))
            try:
                result = call()
            finally:
                _inside.reset(token)
    except BaseException as error:
        land()
        if isinstance(error, Exception):
            flight.outcome.set_exception(error)
        else:
            flight.outcome.cancel()
        raise
    land()
    flight.outcome.set_result(result)
    return result
