"""Functions in workers: what a limit, or a skill that asks for isolation, takes out of this process."""

from __future__ import annotations

import functools
import importlib.machinery
import inspect
import json
import os
import pickle
import sys
from collections.abc import AsyncGenerator, Callable, Iterable, Iterator, Mapping
from contextlib import aclosing, contextmanager
from typing import TYPE_CHECKING, Any

import cloudpickle
from cachetools import LRUCache

from skilllab.engine.execution import Execution
from skilllab.engine.workers.calls import call, stream
from skilllab.engine.workers.machine import Isolation
from skilllab.engine.workers.rooms import PYTHON, Room, current_path
from skilllab.engine.workers.seats import Seat, Seats
from skilllab.engine.workers.supervision import Supervision
from skilllab.engine.workers.tightening import limits_to_set, more_tasks
from skilllab.engine.workers.verdicts import failure
from skilllab.engine.workers.worker import MOST_JOBS, Answer, Job, made_once
from skilllab.errors import HandlerNotRunnableError, InvalidParametersError, WorkerLostError
from skilllab.loading import LoadedSkill
from skilllab.model import FunctionHandler, ResourceLimits
from skilllab.outcome import ResourceUsage
from skilllab.programs import wire
from skilllab.settings import SANDBOX_DISK

if TYPE_CHECKING:
    from skilllab.engine.functions import FunctionOptions

_PLAIN = frozenset({str, int, float, bool, type(None), bytes})
_EVERYWHERE = {"skilllab", "__main__", *sys.stdlib_module_names}  # what others have, or cloudpickle sends by itself


class ConfinedFunctions:
    """Runs functions in warm workers, each of one skill. A function travels by reference, else pickled by value.

    What does not travel: changed globals, context variables, leased connections, and what cannot be pickled. Arguments,
    outputs and chunks are pickled; to unpickle an output is to trust the function, as calling it here would be.
    """

    def __init__(self, options: FunctionOptions, supervision: Supervision) -> None:
        self._options = options
        self._supervision = supervision
        self.seats = Seats(supervision, options.max_workers)
        self.jobs = LRUCache[Any, Job](MOST_JOBS)

    def unheld(self, skill: LoadedSkill, limits: ResourceLimits) -> Mapping[str, str]:
        """Returns the limits that cannot be held for the function, each with the reason; raises IsolationError."""
        reasons = self._supervision.machine.unheld(limits, self._isolation_of(skill))
        if getattr(skill.definition.handler, "leases", ()):
            return dict.fromkeys(limits.asked(), "leased connections do not travel to a worker process")
        if reasons and self._isolation_of(skill) == "process":
            more = "; FunctionOptions(isolation='bubblewrap') or the skill's isolation='bubblewrap' would hold it"
            reasons = {name: f"{why}{more if 'only bubblewrap' in why else ''}" for name, why in reasons.items()}
        return reasons

    async def run(self, execution: Execution) -> Any:
        """Returns what the function returns; raises what `call` of skilllab.engine.workers.calls raises."""
        job = self._job(execution.skill, execution.limits or ResourceLimits())
        body = _pickled_params(execution)
        return await call(self.seats, execution, job, body, functools.partial(_output, job), once=False)

    async def stream(self, execution: Execution) -> AsyncGenerator[Any, None]:
        """Yields the chunks of a generator function."""
        job = self._job(execution.skill, execution.limits or ResourceLimits())
        body = _pickled_params(execution)
        async with aclosing(stream(self.seats, execution, job, body, functools.partial(_output, job))) as chunks:
            async for chunk in chunks:
                yield chunk

    async def aclose(self) -> None:
        """Ends every worker."""
        await self.seats.aclose()

    def _isolation_of(self, skill: LoadedSkill) -> Isolation:
        return self._supervision.machine.isolation(skill.definition.isolation or self._options.isolation)

    @made_once
    def _job(self, skill: LoadedSkill, limits: ResourceLimits) -> Job:
        definition, function, options = skill.definition, skill.function, self._options
        if function is None or not isinstance(definition.handler, FunctionHandler):
            raise HandlerNotRunnableError(f"{definition.id}: its handler is no function")
        reference = reference_of(function)
        content = b"" if reference else _pickled(function, definition.id)
        isolation = self._isolation_of(skill)
        inside = isolation == "bubblewrap"
        room = Room(
            isolation=isolation,
            own_folder=inside,
            disk=limits.max_disk or SANDBOX_DISK,
            paths=options.paths,
            env=tuple(options.env.items()),
            cwd=None if inside else os.getcwd(),
            # The warm parent imports it, so that a renewed worker finds it there.
            preload=(PYTHON, "cloudpickle", *options.preload, *((reference.partition(":")[0],) if reference else ())),
            path=current_path(),
        )
        load = {
            "kind": "function",
            "skill": definition.id,
            "reference": reference,
            "limits": limits_to_set(limits, self._supervision.machine),
            "max_output": options.max_output,
        }
        body = json.dumps(load).encode() + b"\n" + content
        more = more_tasks(limits.max_processes, command=False)
        return Job(definition.id, room, limits, body, options.max_output, more)


def reference_of(function: Callable[..., Any]) -> str:
    """Returns "module:name" if a worker can import the function by it, else nothing.

    A module that is only in this process (a notebook, one that a test runner made) cannot be imported elsewhere.
    """
    module, name = getattr(function, "__module__", None), getattr(function, "__qualname__", "")
    if not module or module == "__main__" or "<" in name or not inspect.isfunction(function):
        return ""
    found: Any = sys.modules.get(module)
    for part in name.split("."):
        found = getattr(found, part, None)
    if found is not function:
        return ""
    spec, path = None, None
    for at in range(1, module.count(".") + 2):
        spec = importlib.machinery.PathFinder.find_spec(".".join(module.split(".")[:at]), path)
        if spec is None:
            return ""
        path = spec.submodule_search_locations
    return f"{module}:{name}"


@contextmanager
def by_value(functions: Iterable[Any]) -> Iterator[None]:
    """Has cloudpickle send the modules of functions by value, where another process cannot import them by their names.

    Of a partial, a method and an object that can be called it is the module of the plain function in it.
    """
    plain = [each for each in map(_plain, functions) if inspect.isfunction(each) and not reference_of(each)]
    names = {each.__module__ for each in plain} - cloudpickle.list_registry_pickle_by_value()
    here = [name for name in names if name in sys.modules and name.partition(".")[0] not in _EVERYWHERE]
    modules = [sys.modules[name] for name in here]
    for module in modules:
        cloudpickle.register_pickle_by_value(module)
    try:
        yield
    finally:
        for module in modules:
            cloudpickle.unregister_pickle_by_value(module)


def _plain(function: Any) -> Any:
    while isinstance(function, functools.partial):
        function = function.func
    if inspect.ismethod(function):
        return function.__func__
    return function if inspect.isfunction(function) else getattr(type(function), "__call__", None)  # noqa: B004 - it itself


def _pickled(function: Callable[..., Any], skill_id: str) -> bytes:
    try:
        with by_value([function]):
            pickled: bytes = cloudpickle.dumps(function)
    except Exception as error:
        raise HandlerNotRunnableError(
            f"{skill_id}: its function cannot travel to a worker, where its limits would be held: "
            f"{type(error).__name__}: {error}; let it make what it needs itself, or put it into a module"
        ) from error
    return pickled


def _pickled_params(execution: Execution) -> bytes:
    params = execution.params
    try:
        if all(type(value) in _PLAIN for value in params.values()):
            return pickle.dumps(params, protocol=5)
        pickled: bytes = cloudpickle.dumps(params, protocol=5)
    except Exception as error:
        raise InvalidParametersError(
            f"{execution.skill_id}: its parameters cannot travel to a worker: {type(error).__name__}: {error}",
            skill_id=execution.skill_id,
        ) from error
    return pickled


def _output(job: Job, answer: Answer, usage: ResourceUsage, seat: Seat) -> Any:
    try:
        said = pickle.loads(answer.body)
    except Exception as error:
        raise WorkerLostError(
            f"{job.skill_id}: what its worker sent cannot be read: {type(error).__name__}: {error}"
        ) from error
    if answer.kind != wire.FAILED:
        return said
    told, cause = said
    raise failure(job, told, _cause(cause), usage.memory_used, seat)


def _cause(pickled: bytes | None) -> BaseException | None:
    if pickled is None:
        return None
    try:
        cause = pickle.loads(pickled)
    except Exception:  # noqa: BLE001 - an error whose class is only in the worker comes back as its text
        return None
    return cause if isinstance(cause, BaseException) else None
