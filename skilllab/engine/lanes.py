"""Lane: what an engine keeps of one skill between executions, so that each finds everything ready."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from typing import Any

from skilllab.engine.execution import Runner
from skilllab.engine.guard import CircuitBreaker, ConcurrencyLimit, GuardOptions, State
from skilllab.errors import (
    CacheKeyError,
    HandlerNotRunnableError,
    InvalidOutputError,
    InvalidParametersError,
    InvalidValueError,
    LimitNotEnforceableError,
)
from skilllab.loading import LoadedSkill
from skilllab.model import ResourceLimits, SkillDefinition

NO_LIMITS = ResourceLimits()
_MOST_HELD = 100  # combinations of limits that calls of one skill ask for
_KEPT = 10_000  # lanes, a few hundred bytes each
_SCALARS = frozenset({str, int, float, bool, type(None)})


class Lane:
    """One skill at one revision: how it runs, how long, in which limits, behind which breaker."""

    __slots__ = (
        "_held",
        "begin",
        "breaker",
        "cache_ttl",
        "cacheable",
        "fits",
        "gates",
        "isolation",
        "key_of",
        "layer",
        "limits",
        "own_gate",
        "runner",
        "seen",
        "skill",
        "skill_id",
        "streaming",
        "timeout",
        "token",
    )

    def __init__(
        self,
        skill: LoadedSkill,
        runner: Runner,
        breaker: CircuitBreaker | None,
        own_gate: ConcurrencyLimit | None,
        gates: tuple[ConcurrencyLimit, ...],
        guards: GuardOptions,
        cache_ttl: float | None,
    ) -> None:
        definition = skill.definition
        self.skill = skill
        self.runner = runner
        self.isolation = runner.isolation
        self.breaker = breaker
        self.own_gate = own_gate
        self.gates = gates
        self.layer = definition.layer
        # A runner may take the first step of a plain coroutine at once, which saves two layers of awaiting.
        self.begin = getattr(runner, "begin", None) if skill.direct and definition.isolation is None else None
        self.fits = skill.check_input.fits
        self.skill_id = definition.id
        self.seen = -1  # the registry's changes when it was last found to be up to date
        self.limits = _filled(definition.resource_limits, runner.limits)
        self._held: dict[ResourceLimits | None, ResourceLimits] = {}
        self.timeout = guards.timeout if definition.timeout == "inherit" else definition.timeout
        self.cache_ttl = cache_ttl if definition.cache_ttl == "inherit" else definition.cache_ttl
        self.streaming = definition.streaming
        self.token = object()  # names this skill at this revision in this engine, in keys of kept outputs
        self.cacheable = definition.cacheable and not definition.streaming
        self.key_of = cache_key_of(definition)

    @property
    def idle(self) -> bool:
        """Whether nothing would be lost with it: no execution, no wait, no failure."""
        still = self.own_gate is None or self.own_gate.statistics()[1:] == (0, 0)
        return still and (self.breaker is None or (self.breaker.state == "closed" and not self.breaker.failures))

    def checked(self, params: Mapping[str, Any]) -> dict[str, Any]:
        """Returns the skill's own copy of the parameters; raises InvalidParametersError when they do not fit."""
        own = own_copy(self.skill_id, params)
        try:
            if self.fits(own):
                return own
        except ValueError:
            pass  # no JSON: as below, the check says what is wrong
        self.skill.check_input(own)
        return own

    def enforceable(self, asked: ResourceLimits | None) -> ResourceLimits | None:
        """Returns the tightest of what the call and the definition allow.

        Raises LimitNotEnforceableError for limits that the runner cannot hold, InvalidValueError for what is no limits.
        """
        held = self._held.get(asked) if asked is None or isinstance(asked, ResourceLimits) else None
        if held is None:
            if len(self._held) >= _MOST_HELD:
                self._held.clear()
            held = self._held[asked] = self._enforceable(asked)
        return held if held is not NO_LIMITS else None

    def _enforceable(self, asked: ResourceLimits | None) -> ResourceLimits:
        if asked is not None and not isinstance(asked, ResourceLimits):
            raise InvalidValueError(f"resource_limits={asked!r} must be ResourceLimits(...) or None")
        limits = _tightest(asked or NO_LIMITS, self.limits or NO_LIMITS)
        unheld = self.runner.unheld(self.skill, limits) if limits.asked() else {}
        if unheld:
            named = "; ".join(f"{name}={getattr(limits, name)!r} cannot be held: {why}" for name, why in unheld.items())
            raise LimitNotEnforceableError(
                f"{self.skill.definition.id}: {named}. The skill did not start: leave the limit out of the call and of "
                "the definition to run without it",
                limits=tuple(unheld),
            )
        return limits if limits.asked() else NO_LIMITS


class Lanes:
    """The lanes of an engine by skill id, with the limits that they share; made when first needed, renewed by revision.

    runners: by kind of handler. cache_ttl: seconds by layer. clock: for breakers. on_change: told (skill_id, state before,
    state after) of every breaker.
    """

    def __init__(
        self,
        guards: GuardOptions,
        runners: Mapping[str, Runner],
        cache_ttl: Mapping[int, float | None],
        clock: Callable[[], float],
        on_change: Callable[[str, State, State], object],
    ) -> None:
        self._guards = guards
        self._runners = runners
        self._cache_ttl = cache_ttl
        self._clock = clock
        self._on_change = on_change
        self.gates = {"engine": self._gate(guards.concurrency, "the engine")} if guards.concurrency else {}
        for layer, limit in guards.layer_concurrency.items():
            self.gates[f"layer {layer}"] = self._gate(limit, f"layer {layer}")
        self._lanes: dict[str, Lane] = {}
        self.get = self._lanes.get

    def add(self, skill: LoadedSkill) -> Lane:
        """Returns the lane of a skill at its revision; a former revision's hands on its places and its breaker."""
        definition = skill.definition
        skill_id = definition.id
        former = self._lanes.get(skill_id)
        if former is not None and former.skill.revision == skill.revision:  # others loaded it at the same time
            return former
        runner = runner_for(definition, self._runners)
        breaker = former.breaker if former is not None else self._breaker(skill_id)
        own_gate = self._own_gate(definition, former)
        shared = (self.gates.get(f"layer {definition.layer}"), self.gates.get("engine"))
        # The skill's own place first: who waits for it holds none of those that others need.
        gates = tuple(gate for gate in (own_gate, *shared) if gate is not None)
        lane = Lane(skill, runner, breaker, own_gate, gates, self._guards, self._cache_ttl[definition.layer])
        if former is None and len(self._lanes) >= _KEPT:
            for idle in [key for key, kept in self._lanes.items() if kept.idle]:
                del self._lanes[idle]
        self._lanes[skill_id] = lane
        return lane

    def _own_gate(self, definition: SkillDefinition, former: Lane | None) -> ConcurrencyLimit | None:
        limit = definition.max_concurrency or self._guards.skill_concurrency
        if limit is None:
            return None
        if former is None or former.own_gate is None:
            return self._gate(limit, definition.id)
        former.own_gate.resize(limit)
        return former.own_gate

    def _gate(self, limit: int, name: str) -> ConcurrencyLimit:
        return ConcurrencyLimit(limit, self._guards.queue_size, name)

    def _breaker(self, skill_id: str) -> CircuitBreaker | None:
        if self._guards.breaker_failures is None:
            return None
        return CircuitBreaker(
            self._guards.breaker_failures,
            self._guards.breaker_recovery,
            clock=self._clock,
            on_change=lambda before, after: self._on_change(skill_id, before, after),
            name=skill_id,
        )


def cache_key_of(definition: SkillDefinition) -> Callable[[Mapping[str, Any]], Any] | None:
    """Returns the function that picks from a skill's parameters what its cached outputs depend on; None for all."""
    asked = definition.cache_key
    if asked is None:
        return None
    if isinstance(asked, str):
        return _path_reader(definition.id, asked)

    def computed(params: Mapping[str, Any]) -> Hashable:
        try:
            key: Hashable = asked(own_copy(definition.id, params))  # foreign code, which may change what it gets
        except Exception as error:
            raise CacheKeyError(
                f"{definition.id}: its cache_key function raised {type(error).__name__}: {error}; mend it, or leave "
                "cache_key out to use all parameters",
                skill_id=definition.id,
            ) from error
        return key

    return computed


def own_copy(skill_id: str, params: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the parameters with every dict and list inside copied; raises InvalidParametersError for no mapping."""
    if type(params) is not dict and not isinstance(params, Mapping):
        raise InvalidParametersError(
            f"{skill_id}: parameters={params!r} must be a mapping of names to values", skill_id=skill_id
        )
    try:
        for value in params.values():
            if type(value) not in _SCALARS:
                return {name: _copied(value) for name, value in params.items()}
        return dict(params)
    except RecursionError:
        raise InvalidParametersError(
            f"{skill_id}: parameters are nested too deeply, or hold themselves", skill_id=skill_id
        ) from None


def check_output(skill: LoadedSkill, output: Any) -> None:
    """Raises InvalidOutputError when the output does not fit the skill's output schema."""
    check: Any = skill.check_output
    try:
        check(output)
        return
    except InvalidParametersError as error:
        told, skill_id, path = str(error), error.skill_id, error.path
    if getattr(skill.definition.handler, "secrets", None):  # its server may have sent one back
        told = f"{skill_id}: output at {path or 'its root'} is not what its schema says (the value is withheld)"
    raise InvalidOutputError(f"{told}; mend the skill or its output schema", skill_id=skill_id, path=path)


def runner_for(definition: SkillDefinition, runners: Mapping[str, Runner]) -> Runner:
    """Returns the runner of the skill's kind of handler; raises HandlerNotRunnableError when there is none."""
    handler = definition.handler
    if handler is None:
        raise HandlerNotRunnableError(
            f"{definition.id}: it has no handler, so it can be found but not run: give it one"
        )
    return runners[handler.kind]


def _path_reader(skill_id: str, path: str) -> Callable[[Mapping[str, Any]], Any]:
    """Returns a reader of "input.a.0": the parameters, their member a, its first item."""
    root, *steps = path.split(".")
    if root != "input":
        steps = [root, *steps]

    def read(params: Mapping[str, Any]) -> Any:
        value: Any = params
        for step in steps:
            try:
                value = value[int(step)] if isinstance(value, list | tuple) else value[step]
            except (LookupError, TypeError, ValueError):
                raise CacheKeyError(
                    f"{skill_id}: the parameters have no {path!r}, which its cache_key names ({step!r} is missing): "
                    "give it, or make it required in the input schema",
                    skill_id=skill_id,
                    path=f"/{'/'.join(steps)}",
                ) from None
        return value

    return read


def _tightest(one: ResourceLimits, other: ResourceLimits) -> ResourceLimits:
    both = {name: (getattr(one, name), getattr(other, name)) for name in ResourceLimits.model_fields}
    return ResourceLimits(
        **{name: min((x for x in pair if x is not None), default=None) for name, pair in both.items()}
    )


def _filled(own: ResourceLimits | None, usual: ResourceLimits | None) -> ResourceLimits | None:
    """Returns a definition's limits, with the runner's where it names none."""
    if own is None or usual is None:
        return own or usual
    return ResourceLimits(**{name: getattr(own, name) or getattr(usual, name) for name in ResourceLimits.model_fields})


def _copied(value: Any) -> Any:
    """Returns plain dicts and lists all the way down, and anything else as it is."""
    if isinstance(value, list | tuple):
        return [item if type(item) in _SCALARS else _copied(item) for item in value]
    if isinstance(value, Mapping):
        return {name: item if type(item) in _SCALARS else _copied(item) for name, item in value.items()}
    return value
