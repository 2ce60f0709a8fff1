"""The runner of layer 2: commands and Python scripts in sandboxes that are reused."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

from cachetools import LRUCache

from skilllab import settings
from skilllab.engine.argv import arguments, standard_input
from skilllab.engine.execution import Execution
from skilllab.engine.guard import checked_count, checked_seconds
from skilllab.engine.workers.calls import call, stream
from skilllab.engine.workers.machine import LEAST, Isolation, checked_isolation
from skilllab.engine.workers.rooms import COMMANDS, PYTHON, Room, checked_texts, library_path
from skilllab.engine.workers.seats import Seat, Seats
from skilllab.engine.workers.supervision import Supervision
from skilllab.engine.workers.tightening import limits_to_set, more_tasks
from skilllab.engine.workers.verdicts import command_failure, exceeded, failure
from skilllab.engine.workers.worker import MOST_JOBS, Answer, Job, made_once
from skilllab.errors import (
    HandlerNotRunnableError,
    InvalidOutputError,
    InvalidParametersError,
    InvalidValueError,
    WorkerLostError,
)
from skilllab.frozen import FrozenDict
from skilllab.loading import LoadedSkill
from skilllab.model import CommandHandler, ResourceLimits, ScriptHandler
from skilllab.outcome import ResourceUsage
from skilllab.programs import wire

_encoded = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode


LIMITS = ResourceLimits(max_memory=settings.SANDBOX_MEMORY, max_cpu_time=settings.SANDBOX_CPU_TIME)
"""The limits of a sandboxed call where neither its skill nor the engine's options name others."""


@dataclass(frozen=True, slots=True)
class SandboxOptions:
    """How commands and scripts run. Sizes in bytes, times in seconds.

    reuse_instances: whether a script's worker serves further calls; False gives each call a new process, forked from a
    warm parent. max_concurrent: sandboxes at once; further calls wait their turn. resource_limits: of a skill that does not
    name its own. isolation: "bubblewrap", "process" (limits only: nothing is shut in), or None for bubblewrap where it is
    installed. paths: files and folders that every skill may read, besides the system and the interpreter. env: variables that
    every skill gets. preload: modules that scripts find imported. disk: of the private folder, in bubblewrap, where
    max_disk does not say otherwise. max_output: of what a call may return. cache_ttl: that the output of a cacheable skill
    is kept; None keeps it.

    Where no control group can be written, max_memory bounds the address space of each process, and every 50 ms what all of
    them hold with their open files of memory; what waits in sockets is not seen. CPU time of children that nobody waits
    for is then estimated from samples, and the error says so.
    """

    reuse_instances: bool = True
    max_concurrent: int = settings.SANDBOX_CONCURRENCY
    resource_limits: ResourceLimits = LIMITS
    isolation: Isolation | None = None
    paths: tuple[str, ...] = ()
    env: Mapping[str, str] = FrozenDict()
    preload: tuple[str, ...] = ()
    disk: int = settings.SANDBOX_DISK
    max_output: int = settings.SANDBOX_MAX_OUTPUT
    cache_ttl: float | None = settings.RESULT_TTL

    def __post_init__(self) -> None:
        for name in ("max_concurrent", "disk", "max_output"):
            checked_count(name, getattr(self, name), least=LEAST["max_disk"] if name == "disk" else 1)
        checked_seconds("cache_ttl", self.cache_ttl)
        checked_isolation(self.isolation)
        if not isinstance(self.resource_limits, ResourceLimits):
            raise InvalidValueError(f"resource_limits={self.resource_limits!r} must be ResourceLimits(...)")
        for name in ("paths", "preload"):
            object.__setattr__(self, name, checked_texts(name, getattr(self, name)))
        object.__setattr__(self, "env", FrozenDict(self.env))


class SandboxRunner:
    """Runs commands and scripts in sandboxes; see SandboxOptions.

    A script's `run(params)` gets its parameters and gives its output as JSON; a generator streams. A command's output is
    what it writes to standard output. What either prints besides is not kept. Each call begins with an empty private folder.
    supervision: of the engine, which closes it.
    """

    def __init__(self, options: SandboxOptions, supervision: Supervision) -> None:
        self._options = options
        self._supervision = supervision
        self.seats = Seats(supervision, options.max_concurrent)
        self.limits: ResourceLimits | None = options.resource_limits
        self.jobs = LRUCache[Any, Job](MOST_JOBS)

    @property
    def isolation(self) -> str:
        """What stands between skill and process where a skill does not ask for more."""
        there = self._supervision.machine.bubblewrap is not None
        return "bubblewrap" if there and self._options.isolation != "process" else "process"

    def unheld(self, skill: LoadedSkill, limits: ResourceLimits) -> Mapping[str, str]:
        """Returns the limits that cannot be held for the skill, each with the reason; raises IsolationError."""
        return self._supervision.machine.unheld(limits, self._isolation_of(skill))

    async def run(self, execution: Execution) -> Any:
        """Returns the output; raises what `call` of skilllab.engine.workers.calls raises."""
        job, body = self._prepared(execution)
        once = not self._options.reuse_instances
        reader = _command_output if isinstance(execution.skill.definition.handler, CommandHandler) else _script_output
        return await call(self.seats, execution, job, body, lambda *told: reader(execution, job, *told), once)

    async def stream(self, execution: Execution) -> AsyncGenerator[Any, None]:
        """Yields the chunks of a script whose `run` is a generator."""
        job, body = self._prepared(execution)
        chunks = stream(self.seats, execution, job, body, lambda *told: _script_output(execution, job, *told))
        async with aclosing(chunks) as made:
            async for chunk in made:
                yield chunk

    async def aclose(self) -> None:
        """Ends every sandbox."""
        await self.seats.aclose()

    def _isolation_of(self, skill: LoadedSkill) -> Isolation:
        machine = self._supervision.machine
        return machine.isolation(skill.definition.isolation or self._options.isolation)

    def _prepared(self, execution: Execution) -> tuple[Job, bytes]:
        """Returns the job and what the call says; raises for what cannot work before anything starts."""
        handler, skill_id = execution.skill.definition.handler, execution.skill_id
        job = self._job(execution.skill, execution.limits or ResourceLimits())
        if isinstance(handler, CommandHandler):
            _require_program(handler, skill_id)
            asked = {
                "argv": arguments(handler, execution.params, skill_id),
                "stdin": standard_input(handler, execution.params, skill_id),
            }
            return job, json.dumps(asked).encode()
        try:
            return job, _encoded(execution.params).encode("utf-8", "surrogatepass")
        except (TypeError, ValueError) as error:
            raise InvalidParametersError(
                f"{skill_id}: its parameters cannot be sent to a sandbox as JSON: {error}", skill_id=skill_id
            ) from None

    @made_once
    def _job(self, skill: LoadedSkill, limits: ResourceLimits) -> Job:
        handler, options, definition = skill.definition.handler, self._options, skill.definition
        assert isinstance(handler, CommandHandler | ScriptHandler)
        script = isinstance(handler, ScriptHandler)
        cwd = None if script else handler.cwd  # type: ignore[union-attr]  # a script has none
        for path in (*options.paths, *handler.paths, *(() if cwd is None else (cwd,))):
            if not os.path.exists(path):
                raise HandlerNotRunnableError(f"{definition.id}: {path!r} is not there: make it, or mend the path")
        if cwd is not None and not os.path.isdir(cwd):
            raise HandlerNotRunnableError(f"{definition.id}: its working folder {cwd!r} is no folder")
        isolation = self._isolation_of(skill)
        room = Room(
            isolation=isolation,
            own_folder=True,
            disk=limits.max_disk or options.disk,
            paths=(*options.paths, *handler.paths),
            env=tuple({**options.env, **handler.env}.items()),
            cwd=cwd,
            preload=(PYTHON, *options.preload, *handler.preload) if script else (COMMANDS,),  # type: ignore[union-attr]
            path=library_path() if script else library_path()[:3],
        )
        load = {
            "kind": handler.kind,
            "skill": definition.id,
            "limits": limits_to_set(limits, self._supervision.machine, command=not script),
            "max_output": options.max_output,
            "cwd": cwd,
        }
        source = handler.source.encode() if isinstance(handler, ScriptHandler) else b""
        body = json.dumps(load).encode() + b"\n" + source
        more = more_tasks(limits.max_processes, command=not script)
        return Job(definition.id, room, limits, body, options.max_output, more)


def _require_program(handler: CommandHandler, skill_id: str) -> None:
    program = handler.argv[0]
    path = handler.env.get("PATH") or "/usr/local/bin:/usr/bin:/bin"
    if shutil.which(program, path=path) is None:
        raise HandlerNotRunnableError(
            f"{skill_id}: there is no program {program!r} in {path}: install it, or give its full path"
        )


def _script_output(execution: Execution, job: Job, answer: Answer, usage: ResourceUsage, seat: Seat) -> Any:
    said = _parsed(job, answer)
    if answer.kind == wire.FAILED:
        raise failure(job, said, None, usage.memory_used, seat)
    return said


def _command_output(execution: Execution, job: Job, answer: Answer, usage: ResourceUsage, seat: Seat) -> Any:
    head, _, written = answer.body.partition(b"\n")
    said = _parsed(job, answer._replace(body=head))
    if answer.kind == wire.FAILED:
        raise failure(job, said, None, usage.memory_used, seat)
    said["stderr"] = written[said["written"] :]
    handler = execution.skill.definition.handler
    assert isinstance(handler, CommandHandler)
    held, floor = said["memory"], said["floor"]
    unmeasured = dict(usage.unmeasured)
    if held > floor:
        unmeasured.pop("memory_used", None)
    else:
        unmeasured["memory_used"] = f"it stayed below {floor} bytes, what the process held that started it"
    execution.usage = usage._replace(memory_used=held if held > floor else None, unmeasured=FrozenDict(unmeasured))
    if said["size"] > job.max_output:
        raise exceeded(job.skill_id, "max_output", job.max_output, said["size"])
    if said["status"] not in handler.exit_codes:
        raise command_failure(job, said, execution.usage.memory_used, seat)
    return _text(execution.skill_id, handler.output, written[: said["written"]])


def _parsed(job: Job, answer: Answer) -> Any:
    """Returns what the answer says; raises WorkerLostError for what no worker of ours would send."""
    try:
        said = json.loads(answer.body)
    except ValueError:
        raise WorkerLostError(f"{job.skill_id}: its worker sent an answer that is no JSON") from None
    if answer.kind == wire.FAILED and not (
        isinstance(said, dict) and said.keys() >= {"type", "message", "limit", "trace"}
    ):
        raise WorkerLostError(f"{job.skill_id}: its worker sent an answer that says nothing")
    return said


def _text(skill_id: str, form: str, data: bytes) -> Any:
    try:
        text = data.decode()
        return text if form == "text" else text.splitlines() if form == "lines" else json.loads(text)
    except UnicodeDecodeError:
        wrong = "is no UTF-8 text"
    except ValueError as error:
        wrong = f"is no JSON: {error}"
    raise InvalidOutputError(f"{skill_id}: what it wrote to standard output {wrong}", skill_id=skill_id)
