"""Results: outputs of cacheable skills, kept while they are good, and computed once for all who ask at the same time."""

from __future__ import annotations

import asyncio
import copy
import functools
import logging
from collections.abc import Awaitable, Callable, Hashable
from contextvars import ContextVar
from typing import Any

from skilllab.cache.cache import SkillCache
from skilllab.cache.keys import Key, canonical_key
from skilllab.engine.execution import Execution
from skilllab.engine.lanes import Lane
from skilllab.errors import InvalidParametersError, InvalidValueError, SingleFlightError

RESULT = "result"
_MISSING = object()
_new: Any = tuple.__new__
_PLAIN = frozenset({str, int, type(None)})
_log = logging.getLogger("skilllab.engine")


class Results:
    """The result cache of one engine, and its flights: outputs that are being computed.

    run: runs an execution in its lane. leave: told the execution of a flight that every caller has left, and that of
    the last who did; a flight belongs to none of them, so that it ends early only then.
    """

    def __init__(
        self,
        cache: SkillCache,
        run: Callable[[Execution, Lane], Awaitable[Any]],
        leave: Callable[[Execution, Execution], object],
    ) -> None:
        self._cache = cache
        self._run = run
        self._leave = leave
        self._flights: dict[Key, Flight] = {}
        self._aloft: set[asyncio.Task[Any]] = set()

    def kept(self, run: Execution, lane: Lane, params: Any, caller: Hashable) -> Any:
        """Returns the kept output with `run.ended` set; without one, notes `run.key` and `run.asked`, the parameters."""
        if lane.key_of is not None or type(params) is not dict:  # else they equal parameters that were checked before
            params = lane.checked(params)
        try:
            value = _flat_key(params) if lane.key_of is None else canonical_key(lane.key_of(params), normal_form=None)
        except InvalidParametersError:
            raise
        except InvalidValueError as error:
            raise _no_key(lane, error) from None
        if caller is not None:
            caller = canonical_key(caller, normal_form=None)
        # Lane, limits and caller are part of the key: nothing leaks between revisions, engines, limits or callers.
        key = _new(Key, (RESULT, (lane.token, value, run.limits, caller)))
        output = self._cache.get(key, _MISSING)
        if output is _MISSING:
            run.key, run.asked = key, params
        else:
            run.cached = run.ended = True
        return output

    async def shared(self, run: Execution, lane: Lane) -> Any:
        """Returns a copy of the output of an equal call under way, or runs the skill and keeps what it returns."""
        key, params = run.key, run.asked
        flight = self._joinable(key, run, lane)
        if flight is None:
            flight = self._start(key, _twin(run, lane.checked(params)), lane)
            try:
                output = await flight.join(run)
            finally:
                run.take_over(flight.run)
            return _own(output, otherwise=output) if flight.joined else output
        output = _own(await flight.join(run), otherwise=_MISSING)
        if output is _MISSING:  # what cannot be copied cannot be shared
            run.params = lane.checked(params)
            return await self._run(run, lane)
        run.cached = True
        return output

    async def landed(self) -> None:
        """Waits until no flight is under way."""
        while self._aloft:
            await asyncio.wait(self._aloft)

    def _joinable(self, key: Key, run: Execution, lane: Lane) -> Flight | None:
        """Returns the flight of the key, unless it has been left or lasts longer than its skill should."""
        flight = self._flights.get(key)
        if flight is None or not flight.takes_callers:
            return None
        if lane.timeout is not None and run.begin - flight.run.begin > lane.timeout:
            return None
        if flight.leads_to(_inside.get()):
            raise SingleFlightError(
                f"{run.skill_id}: it calls itself with the same parameters, or through others that wait for it, and would "
                "wait for itself: call it with others, or with cache=False"
            )
        return flight

    def _start(self, key: Key, run: Execution, lane: Lane) -> Flight:
        flight = self._flights[key] = Flight(run, self._leave)
        task = flight.task = run.task = asyncio.ensure_future(self._fly(key, flight, lane))
        self._aloft.add(task)
        task.add_done_callback(functools.partial(self._land, key, flight))
        return flight

    async def _fly(self, key: Key, flight: Flight, lane: Lane) -> Any:
        _inside.set((*_inside.get(), flight))
        run = flight.run
        output = await self._run(run, lane)
        if run.interruption is None:  # else it may be half of one
            try:
                self._cache.set(key, output, ttl=lane.cache_ttl)
            except InvalidValueError as error:
                _log.warning("%s: its output is not kept although it says cacheable: %s", run.skill_id, error)
        return output

    def _land(self, key: Key, flight: Flight, task: asyncio.Task[Any]) -> None:
        self._aloft.discard(task)
        if self._flights.get(key) is flight:
            del self._flights[key]
        if flight.run.watched is not None:
            flight.run.watched.pop(flight.run, None)
        flight.task = flight.run.task = None  # an error's traceback holds these frames, and the task holds the error
        if not task.cancelled():
            task.exception()  # read, so that an error whose callers have all left is not reported as lost


class Flight:
    """One shared run: its task while it lasts, and the number of callers that wait for it.

    left: the last caller has gone. joined: more than one has come. awaits: the flights that its own work waits for.
    """

    __slots__ = ("_leave", "awaits", "joined", "left", "run", "task", "waiting")

    def __init__(self, run: Execution, leave: Callable[[Execution, Execution], object]) -> None:
        self.task: asyncio.Task[Any] | None = None
        self.run = run
        self.waiting = 0
        self.awaits: list[Flight] = []
        self.left = self.joined = False
        self._leave = leave

    @property
    def takes_callers(self) -> bool:
        """Whether it is under way and somebody waits for it."""
        return not self.left and self.task is not None and not self.task.done()

    def leads_to(self, flights: tuple[Flight, ...]) -> bool:
        """Returns whether one of the flights is this one, or one that this one waits for, however indirectly."""
        return self in flights or any(flight.leads_to(flights) for flight in self.awaits)

    async def join(self, caller: Execution) -> Any:
        """Returns the output when it is there; a caller that is cancelled leaves the others served.

        The last one who leaves ends the run and, as if it were its own, waits for its end.
        """
        task = self.task
        assert task is not None
        self.joined = self.waiting > 0
        self.waiting += 1
        outer = _inside.get()[-1:]
        for flight in outer:
            flight.awaits.append(self)
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            caller.isolation = self.run.isolation
            if self.waiting == 1 and not task.done():
                self.left = True
                self._leave(self.run, caller)
                await asyncio.wait([task])
            raise
        finally:
            self.waiting -= 1
            for flight in outer:
                flight.awaits.remove(self)
            del task


_inside: ContextVar[tuple[Flight, ...]] = ContextVar("skilllab_engine_flights", default=())
"""The flights that the code now running is part of."""


def _own(output: Any, *, otherwise: Any) -> Any:
    """Returns a copy of an output that several callers get, or `otherwise` when it cannot be copied."""
    try:
        return copy.deepcopy(output)
    except Exception:  # noqa: BLE001 - foreign __deepcopy__
        return otherwise


def _twin(run: Execution, params: dict[str, Any]) -> Execution:
    """Returns the execution of a flight: like the one that starts it, but no caller's deadline ends it."""
    twin = Execution.of(run.execution_id, run.skill_id, run.start, run.clock())
    twin.skill, twin.limits, twin.params, twin.layer = run.skill, run.limits, params, run.layer
    twin.clock, twin.on_block = run.clock, run.on_block
    return twin


def _flat_key(params: dict[str, Any]) -> Hashable:
    """Returns a key as good as the canonical one; that of a few texts and whole numbers is sooner made and compared."""
    item: tuple[Any, ...] = ()
    for item in params.items():
        name, value = item
        if type(name) is not str or type(value) not in _PLAIN:
            return canonical_key(params, normal_form=None)
    return tuple(sorted(params.items())) if len(params) > 1 else item


def _no_key(lane: Lane, error: InvalidValueError) -> InvalidParametersError:
    skill_id = lane.skill.definition.id
    return InvalidParametersError(
        f"{skill_id}: its output cannot be cached, since {error}; call it with cache=False", skill_id=skill_id
    )
