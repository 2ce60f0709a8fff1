"""Pipeline: from a call to its output. Lane, limits, parameters, kept result, place, breaker, run, output."""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Hashable, Mapping
from contextlib import aclosing
from functools import partial
from typing import Any, Protocol

from skilllab.cache.cache import UNSET, SkillCache
from skilllab.engine.execution import Execution, Runner
from skilllab.engine.guard import ConcurrencyLimit, checked_seconds, counts_as_failure
from skilllab.engine.interruptions import Interruptions, interruption_error
from skilllab.engine.lanes import Lane, Lanes, check_output
from skilllab.engine.results import Results
from skilllab.errors import ExecutionTimeoutError, HandlerNotRunnableError, InvalidValueError
from skilllab.loading import LoadedSkill
from skilllab.model import ResourceLimits


class Skills(Protocol):
    """Where an engine finds skills: InMemorySkillRegistry, or whatever has these three.

    changes: a number that another change of any skill makes another.
    """

    @property
    def changes(self) -> int: ...

    def revision(self, skill_id: str) -> int: ...

    async def load(self, skill_id: str) -> LoadedSkill: ...


class Pipeline:
    """Takes executions to their output, or raises why there is none; notes on the way what their metadata tell.

    timeout: seconds, while a skill is being loaded and where it says nothing itself. on_block: told (execution, seconds,
    where) of a step that held up the loop. `interruptions` are set by the engine when it knows its event loop.
    """

    interruptions: Interruptions

    def __init__(
        self,
        registry: Skills,
        lanes: Lanes,
        cache: SkillCache | None,
        clock: Callable[[], float],
        timeout: float | None,
        on_block: Callable[[Execution, float, str], object],
    ) -> None:
        self._registry = registry
        self._lanes = lanes
        self._results = None if cache is None else Results(cache, self._guarded, self._give_up)
        self._clock = clock
        self._timeout = timeout
        self._on_block = on_block
        self.left_behind = 0

    def output(
        self,
        run: Execution,
        params: Mapping[str, Any],
        asked: ResourceLimits | None,
        timeout: float | Any | None,
        cache: bool,
        caller: Hashable,
    ) -> Any:
        """Returns the output, with `run.ended` set, or else what to await for it.

        It is no coroutine itself, since every layer of those costs.
        """
        lane = self._lanes.get(run.skill_id) if type(run.skill_id) is str else None
        if lane is None or (lane.seen != self._registry.changes and not self._still_valid(lane)):
            return self._load_first(run, params, asked, timeout, cache, caller)
        run.layer = lane.layer
        run.skill = lane.skill
        if lane.streaming and run.sink is None:
            raise HandlerNotRunnableError(f"{run.skill_id}: it streams its output: read it with engine.stream(...)")
        timeout = lane.timeout if timeout is UNSET else checked_seconds("timeout", timeout)
        if asked is not None or lane.limits is not None:
            run.limits = lane.enforceable(asked)
        results = self._results if lane.cacheable and cache and run.sink is None else None
        if results is not None:
            output = results.kept(run, lane, params, caller)
            if run.ended:
                return output
        run.clock, run.on_block = self._clock, self._on_block
        if lane.begin is not None and results is None and run.sink is None and run.limits is None:
            run.params = lane.checked(params)
            return self._at_once(run, lane, timeout)
        self.interruptions.attach(run, timeout)
        if results is not None:
            return results.shared(run, lane)
        run.params = lane.checked(params)
        return self._guarded(run, lane)

    def _still_valid(self, lane: Lane) -> bool:
        changes = self._registry.changes
        if self._registry.revision(lane.skill.definition.id) != lane.skill.revision:
            return False
        lane.seen = changes
        return True

    async def _load_first(
        self,
        run: Execution,
        params: Mapping[str, Any],
        asked: ResourceLimits | None,
        timeout: float | Any | None,
        cache: bool,
        caller: Hashable,
    ) -> Any:
        """Loads the skill, under the call's timeout, and begins again in its new lane."""
        if not isinstance(run.skill_id, str):
            raise InvalidValueError(f"skill_id={run.skill_id!r} must be the id of a registered skill, as text")
        allowed = self._timeout if timeout is UNSET else checked_seconds("timeout", timeout)
        self.interruptions.attach(run, math.inf if allowed is None else allowed)
        skill = await self._registry.load(run.skill_id)
        run.layer = skill.definition.layer
        self._lanes.add(skill)
        output = self.output(run, params, asked, timeout, cache, caller)
        return output if run.ended else await output

    async def _queue(self, run: Execution, lane: Lane) -> None:
        """Waits for every place that the skill needs; gives back those it has when one cannot be had."""
        if lane.breaker is not None:
            lane.breaker.check()  # who would be refused after the wait is refused before it
        begin = self._clock()
        held: list[ConcurrencyLimit] = []
        try:
            for gate in lane.gates:
                await gate.acquire()
                held.append(gate)
        except BaseException:
            for gate in held:
                gate.release()
            raise
        finally:
            run.queued = self._clock() - begin

    def _at_once(self, run: Execution, lane: Lane, timeout: float | None) -> Any:
        """Takes the first step of a skill for which there is a place; returns the output, or what to await for it.

        The deadline is watched only then: while a step runs nothing else does, and so nothing could end it.
        """
        gates = lane.gates
        for gate in gates:
            if gate.free <= 0:
                self.interruptions.attach(run, timeout)
                return self._guarded(run, lane)
        for gate in gates:
            gate.free -= 1
        ticket = self._enter(run, lane)
        try:
            run.ended = lane.begin(run)  # type: ignore[misc]  # who comes here has one
        except BaseException as error:
            self._leave(run, lane, ticket, error)
            raise
        if not run.ended:
            self.interruptions.attach(run, timeout)
            return self._through(run, lane, ticket, lane.runner.go_on(run))  # type: ignore[attr-defined]
        self._leave(run, lane, ticket)
        if lane.skill.check_output is not None:
            check_output(lane.skill, run.output)
        return run.output

    async def _guarded(self, run: Execution, lane: Lane) -> Any:
        """Runs the skill when there is a place for it and its breaker admits it."""
        for gate in lane.gates:
            if gate.free <= 0:
                await self._queue(run, lane)
                break
        else:
            for gate in lane.gates:
                gate.free -= 1
        ticket = self._enter(run, lane)
        work = lane.runner.run(run) if run.sink is None else self._drain(run, lane.runner)
        return await self._through(run, lane, ticket, work)

    async def _through(self, run: Execution, lane: Lane, ticket: int, work: Awaitable[Any]) -> Any:
        try:
            output = await work
        except BaseException as error:
            self._leave(run, lane, ticket, error)
            raise
        self._leave(run, lane, ticket)
        if lane.skill.check_output is not None and run.sink is None:
            check_output(lane.skill, output)
        return output

    def _enter(self, run: Execution, lane: Lane) -> int:
        """Begins the run of an execution that has its places; returns the ticket of its breaker."""
        try:
            ticket = 0 if lane.breaker is None else lane.breaker.admit()
        except BaseException:
            _release(lane.gates)
            raise
        run.isolation = lane.isolation
        run.attempts = 1
        run.began = self._clock()
        return ticket

    def _leave(self, run: Execution, lane: Lane, ticket: int, error: BaseException | None = None) -> None:
        """Ends the run: measures it, tells its breaker, gives its places back."""
        run.duration = self._clock() - run.began - run.waited
        breaker = lane.breaker
        if breaker is not None and (breaker.failures or error is not None or run.interrupts):
            breaker.report(ticket, _worked(run, error))
        if run.left_behind is None:
            for gate in lane.gates:
                if gate.waiting:
                    gate.release()
                else:
                    gate.free += 1
        else:  # what could not be stopped keeps its places until it ends
            self.left_behind += 1
            run.left_behind.add_done_callback(partial(self._released, lane.gates))

    def _released(self, gates: tuple[ConcurrencyLimit, ...], _: object) -> None:
        self.left_behind -= 1
        _release(gates)

    async def _drain(self, run: Execution, runner: Runner) -> None:
        assert run.sink is not None
        skill = run.skill
        if not skill.definition.streaming:
            await self._hand_out(run, await runner.run(run))
            return
        async with aclosing(runner.stream(run)) as chunks:  # type: ignore[type-var]  # a stream has aclose
            async for chunk in chunks:
                await self._hand_out(run, chunk)

    async def _hand_out(self, run: Execution, chunk: Any) -> None:
        assert run.sink is not None
        if run.skill.check_output is not None:
            check_output(run.skill, chunk)
        begin = self._clock()
        try:
            await run.sink(chunk)
        finally:
            run.waited += self._clock() - begin  # a slow reader is no fault of the skill

    def _give_up(self, flight: Execution, last: Execution) -> None:
        """Ends a flight that every caller has left, for the reason that the last one had."""
        flight.timeout = last.allowed
        self.interruptions.interrupt(flight, last.interruption or "cancel")

    async def aclose(self) -> None:
        """Waits for what runs on although its callers have left, and stops watching."""
        if self._results is not None:
            await self._results.landed()
        self.interruptions.close()


def _release(gates: tuple[ConcurrencyLimit, ...]) -> None:
    for gate in gates:
        gate.release()


def _worked(run: Execution, error: BaseException | None) -> bool | None:
    """Returns what the end of a run tells its breaker: it failed, it works, or nothing (None)."""
    if run.interruption == "timeout":
        error = interruption_error(run)
        return False if isinstance(error, ExecutionTimeoutError) and error.stage == "run" else None
    if error is None:
        return True if run.interruption is None else None
    failed = counts_as_failure(error)
    return None if failed is None else not failed
