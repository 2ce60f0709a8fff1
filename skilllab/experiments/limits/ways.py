"""Ways to run a misbehaviour with limits: as a function, as a script and as a command, in an engine for one isolation."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from skilllab import format as fmt
from skilllab.define import command_skill, script_skill
from skilllab.engine import FunctionOptions, LayeredExecutionEngine, SandboxOptions
from skilllab.engine.workers.machine import ISOLATIONS, Isolation, this_machine
from skilllab.experiments.failures import registry_of
from skilllab.experiments.limits.misbehaviours import MISBEHAVIOURS, Misbehaviour
from skilllab.model import FunctionHandler, ResourceLimits, SkillDefinition

__all__ = [
    "ISOLATIONS",
    "KINDS",
    "NETWORK",
    "definition",
    "engine_for",
    "here",
    "limits_from",
    "limits_of",
    "parameters",
    "show",
    "skill_id",
]

KINDS = ("function", "warm script", "fresh script", "command")
"""A function in a worker, a script in a worker that is kept, a script in a new worker for each call, a command."""

NETWORK = "max_network_requests"


def here() -> tuple[Isolation, ...]:
    """Returns the isolations of this machine."""
    found = this_machine()
    return ("bubblewrap", "process") if found.bubblewrap is not None and not found.problem else ("process",)


def skill_id(limit: str, kind: str) -> str:
    """Returns the id of the skill that misbehaves so."""
    return f"{limit}-{kind.replace(' ', '-')}"


def definition(misbehaviour: Misbehaviour, kind: str) -> SkillDefinition:
    """Returns the misbehaviour as a skill of a kind."""
    its_id, function = skill_id(misbehaviour.limit, kind), misbehaviour.function
    if kind == "function":
        handler = FunctionHandler(target=f"{function.__module__}:{function.__name__}", function=function)
        return SkillDefinition(id=its_id, name=its_id, layer=1, handler=handler)
    if kind == "command":
        return command_skill(id=its_id, argv=misbehaviour.argv, exit_codes=misbehaviour.exit_codes)
    return script_skill(id=its_id, source=misbehaviour.source)


def engine_for(isolation: Isolation, limits: Iterable[str], kinds: Iterable[str]) -> LayeredExecutionEngine:
    """Returns an engine with the misbehaviours against these limits, in these kinds, and one worker for each kind.

    Workers are new for each call if the scripts among the kinds are to be fresh.
    """
    kinds = tuple(kinds)
    registry = registry_of(*(definition(MISBEHAVIOURS[limit], kind) for limit in limits for kind in kinds))
    functions = FunctionOptions(isolation=isolation, max_workers=1)
    sandbox = SandboxOptions(isolation=isolation, reuse_instances="fresh script" not in kinds, max_concurrent=1)
    return LayeredExecutionEngine(registry, functions=functions, sandbox=sandbox)


def parameters(misbehaviour: Misbehaviour, port: int) -> dict[str, float]:
    """Returns the parameters that make the skill want too much. port: of a server on this machine."""
    return {"port": port} if misbehaviour.limit == NETWORK else {"want": misbehaviour.want}


def limits_of(misbehaviour: Misbehaviour, allowed: float | None = None) -> ResourceLimits:
    """Returns the one limit that is against the misbehaviour, its own unless said."""
    return limits_from({misbehaviour.limit: misbehaviour.allowed if allowed is None else allowed})


def limits_from(amounts: Mapping[str, Any]) -> ResourceLimits:
    """Returns the limits that allow so much, by name."""
    return ResourceLimits(**amounts)


def show(limit: str, amount: float | None) -> str:
    """Returns an amount of what the limit is for, in its unit."""
    return fmt.trimmed(_UNITS[limit](amount))


_UNITS: dict[str, Callable[[float | None], str]] = {
    "max_memory": fmt.size,
    "max_cpu_time": fmt.duration,
    "max_duration": fmt.duration,
    "max_file_size": fmt.size,
    "max_disk": fmt.size,
    "max_processes": fmt.number,
    "max_open_files": fmt.number,
    "max_network_requests": fmt.number,
}
