"""LayeredExecutionEngine: looks a skill up, checks limits and parameters, runs it, checks its output and measures."""

from __future__ import annotations

import asyncio
import itertools
import secrets
import time
from collections.abc import Callable, Mapping
from typing import Any, Protocol, Self

from skilllab.engine.functions import FunctionOptions, FunctionRunner, skill_failure
from skilllab.errors import (
    EngineClosedError,
    HandlerNotRunnableError,
    InvalidOutputError,
    InvalidParametersError,
    InvalidValueError,
    LimitNotEnforceableError,
    SkilllabError,
)
from skilllab.loading import LoadedSkill
from skilllab.model import (
    LAYER_OF_HANDLER,
    ExecutionMetadata,
    ExecutionResult,
    FrozenDict,
    ResourceLimits,
    ResourceUsage,
    SkillDefinition,
)

_NO_PARAMS: Mapping[str, Any] = FrozenDict()
_NOT_STARTED = ResourceUsage(
    unmeasured=FrozenDict(dict.fromkeys(("cpu_time", "memory_used", "network_requests"), "the skill did not start"))
)
_SCALARS = frozenset({str, int, float, bool, type(None)})


class Skills(Protocol):
    """Where an engine finds skills: InMemorySkillRegistry, or whatever has these two methods."""

    def loaded(self, skill_id: str) -> LoadedSkill | None: ...

    async def load(self, skill_id: str) -> LoadedSkill: ...


class Runner(Protocol):
    """Runs one kind of handler.

    isolation: what stands between skill and process, by name. enforces: the fields of ResourceLimits that it can hold.
    usage: what it measured, or why not. `run` returns the output, raises an ExecutionError, and lets cancellation pass.
    """

    isolation: str
    enforces: frozenset[str]
    usage: ResourceUsage

    async def run(self, skill: LoadedSkill, params: dict[str, Any], limits: ResourceLimits | None) -> Any: ...

    async def aclose(self) -> None: ...


class LayeredExecutionEngine:
    """Executes the skills of a registry; this release runs layer 1 (functions).

    registry: finds and loads skills. functions: how functions run. runners: further runners by kind of handler
    ("function", "command", "script", "http"), in place of the built-in one of that kind. clock: seconds that only grow,
    for durations. wall_clock: seconds since the epoch. Close it with `aclose` or `async with`.
    """

    def __init__(
        self,
        registry: Skills,
        *,
        functions: FunctionOptions | None = None,
        runners: Mapping[str, Runner] | None = None,
        clock: Callable[[], float] = time.perf_counter,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        unknown = set(runners or ()) - set(LAYER_OF_HANDLER)
        if unknown:
            raise InvalidValueError(
                f"runners={sorted(unknown)} name no kind of handler: known are {', '.join(LAYER_OF_HANDLER)}"
            )
        self._registry = registry
        self._runners: dict[str, Runner] = {
            "function": FunctionRunner(functions or FunctionOptions()),
            **(runners or {}),
        }
        self._clock = clock
        self._wall_clock = wall_clock
        self._prefix = secrets.token_hex(4)
        self._numbers = itertools.count(1)
        self._active = 0
        self._closed = False
        self._idle = asyncio.Event()

    async def execute(
        self, skill_id: str, params: Mapping[str, Any] = _NO_PARAMS, *, resource_limits: ResourceLimits | None = None
    ) -> ExecutionResult:
        """Runs a skill and returns its result, failed or not.

        params: its parameters by name; the skill gets a copy of every dict and list inside, so it cannot change the
        caller's. resource_limits: what this call may use; it can tighten the limits of the skill's definition, never
        loosen them, and a limit that cannot be held refuses the call before it starts.
        Raises EngineClosedError; every other error is the `.error` of the result. Cancellation passes through.
        """
        if self._closed:
            raise EngineClosedError("the engine is closed: make a new one")
        run = _Run(skill_id, self._wall_clock(), self._clock())
        self._active += 1
        try:
            output = await self._perform(run, params, resource_limits)
        # No variable keeps the error: its traceback holds this frame, and each would keep the other alive.
        except SkilllabError as caught:
            return self._result(run, None, caught)
        except Exception as caught:  # noqa: BLE001 - a foreign error of a registry or runner is a failed result as well
            return self._result(run, None, _wrapped(run.skill_id, caught))
        finally:
            self._active -= 1
            if self._closed and not self._active:
                self._idle.set()
        return self._result(run, output, None)

    async def call(
        self, skill_id: str, params: Mapping[str, Any] = _NO_PARAMS, *, resource_limits: ResourceLimits | None = None
    ) -> Any:
        """Runs a skill as `execute` does and returns its output, or raises the error."""
        result = await self.execute(skill_id, params, resource_limits=resource_limits)
        if result.error is None:
            return result.output
        try:
            raise result.error
        finally:
            del result  # the traceback holds this frame: see execute

    async def aclose(self) -> None:
        """Refuses further executions, waits for those that run, and closes the runners; to be called from no skill.

        Every runner is closed even if another one's close fails; the failures come as an ExceptionGroup.
        """
        self._closed = True
        if self._active:
            await self._idle.wait()
        outcomes = await asyncio.gather(*(runner.aclose() for runner in self._runners.values()), return_exceptions=True)
        failures = [outcome for outcome in outcomes if isinstance(outcome, Exception)]
        if failures:
            raise ExceptionGroup("some runners could not be closed", failures)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    async def _perform(self, run: _Run, params: Mapping[str, Any], asked: ResourceLimits | None) -> Any:
        skill_id = run.skill_id
        if not isinstance(skill_id, str):
            raise InvalidValueError(f"skill_id={skill_id!r} must be the id of a registered skill, as text")
        skill = self._registry.loaded(skill_id)
        if skill is None:
            skill = await self._registry.load(skill_id)
        definition = skill.definition
        run.layer = definition.layer
        runner = self._runner(definition)
        limits = definition.resource_limits
        if asked is not None or limits is not None:
            limits = _held(definition, asked, runner)
        own = _own_copy(skill_id, params)
        skill.check_input(own)
        run.isolation, run.usage = runner.isolation, runner.usage
        begin = self._clock()
        try:
            output = await runner.run(skill, own, limits)
        finally:
            run.duration = self._clock() - begin
        if skill.check_output is not None:
            _check_output(skill, output)
        return output

    def _runner(self, definition: SkillDefinition) -> Runner:
        handler = definition.handler
        if handler is None:
            raise HandlerNotRunnableError(
                f"{definition.id}: it has no handler, so it can be found but not run: give it one"
            )
        runner = self._runners.get(handler.kind)
        if runner is None:
            raise HandlerNotRunnableError(
                f"{definition.id}: a {handler.kind} handler (layer {definition.layer}) has no runner: this "
                f"release runs layer 1 only; give the engine one with runners={{{handler.kind!r}: ...}}"
            )
        if definition.streaming:
            raise HandlerNotRunnableError(f"{definition.id}: it streams its output, which this release does not run")
        return runner

    def _result(self, run: _Run, output: Any, error: SkilllabError | None) -> ExecutionResult:
        total = self._clock() - run.begin
        metadata = ExecutionMetadata(
            f"{self._prefix}-{next(self._numbers)}",
            run.skill_id,
            run.layer,
            run.isolation,
            run.start,
            run.duration,
            total if run.duration is None else total - run.duration,
            run.usage,
        )
        return ExecutionResult(output, error, metadata)


class _Run:
    """What is known of one execution so far."""

    __slots__ = ("begin", "duration", "isolation", "layer", "skill_id", "start", "usage")

    def __init__(self, skill_id: str, start: float, begin: float) -> None:
        self.skill_id = skill_id
        self.start = start
        self.begin = begin
        self.layer: int | None = None
        self.isolation: str | None = None
        self.duration: float | None = None
        self.usage = _NOT_STARTED


def _held(definition: SkillDefinition, asked: ResourceLimits | None, runner: Runner) -> ResourceLimits:
    """Returns the tightest of both limits; raises LimitNotEnforceableError for those that the runner cannot hold."""
    if asked is not None and not isinstance(asked, ResourceLimits):
        raise InvalidValueError(f"resource_limits={asked!r} must be ResourceLimits(...) or None")
    limits = _tightest(asked or ResourceLimits(), definition.resource_limits or ResourceLimits())
    loose = [name for name in limits.asked() if name not in runner.enforces]
    if loose:
        named = ", ".join(f"{name}={getattr(limits, name)!r}" for name in loose)
        raise LimitNotEnforceableError(
            f"{definition.id}: {named} cannot be held with isolation {runner.isolation!r}, so the skill did not start; "
            "a worker process with operating-system limits would hold it, which this release does not have: leave the "
            "limit out of the call and of the definition to run without",
            limits=tuple(loose),
        )
    return limits


def _tightest(one: ResourceLimits, other: ResourceLimits) -> ResourceLimits:
    both = {name: (getattr(one, name), getattr(other, name)) for name in ResourceLimits.model_fields}
    return ResourceLimits(
        **{name: min((x for x in pair if x is not None), default=None) for name, pair in both.items()}
    )


def _own_copy(skill_id: str, params: Mapping[str, Any]) -> dict[str, Any]:
    if type(params) is not dict and not isinstance(params, Mapping):
        raise InvalidParametersError(
            f"{skill_id}: parameters={params!r} must be a mapping of names to values", skill_id=skill_id
        )
    try:
        return {name: value if type(value) in _SCALARS else _copied(value) for name, value in params.items()}
    except RecursionError:
        raise InvalidParametersError(
            f"{skill_id}: parameters are nested too deeply, or hold themselves", skill_id=skill_id
        ) from None


def _copied(value: Any) -> Any:
    """Returns plain dicts and lists all the way down, and anything else as it is."""
    if isinstance(value, list | tuple):
        return [item if type(item) in _SCALARS else _copied(item) for item in value]
    if isinstance(value, Mapping):
        return {name: item if type(item) in _SCALARS else _copied(item) for name, item in value.items()}
    return value


def _check_output(skill: LoadedSkill, output: Any) -> None:
    check: Any = skill.check_output
    try:
        check(output)
    except InvalidParametersError as error:
        raise InvalidOutputError(
            f"{error}; mend the skill or its output schema", skill_id=error.skill_id, path=error.path
        ) from None


def _wrapped(skill_id: str, error: Exception) -> SkilllabError:
    failure = skill_failure(skill_id, error)
    failure.__cause__ = error
    return failure
