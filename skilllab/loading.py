"""From a definition to something that runs: import the function, compile the schemas; slow once, then cached."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from types import FunctionType
from typing import Any

from skilllab.errors import HandlerNotRunnableError, InvalidDefinitionError
from skilllab.model import FunctionHandler, SkillDefinition
from skilllab.schema import Validator


@dataclass(frozen=True, slots=True)
class LoadedSkill:
    """A definition at one revision, with its function and batch function (None without) and compiled schemas."""

    definition: SkillDefinition
    revision: int
    function: Callable[..., Any] | None
    check_input: Validator
    check_output: Validator | None
    batch: Callable[..., Any] | None = None
    direct: bool = False
    """Whether the function is a plain `async def` that needs nothing but its parameters."""

    def __deepcopy__(self, memo: object) -> LoadedSkill:
        return self


@dataclass(frozen=True, slots=True)
class Validation:
    """The result of checking one revision of a definition: `problems` is empty when it can be loaded."""

    skill_id: str
    revision: int
    problems: tuple[str, ...] = ()

    @property
    def valid(self) -> bool:
        """True when nothing was found."""
        return not self.problems

    def __deepcopy__(self, memo: object) -> Validation:
        return self


def load(definition: SkillDefinition, revision: int) -> LoadedSkill:
    """Returns the definition ready to run.

    Raises HandlerNotRunnableError when its function cannot be imported, InvalidDefinitionError for a bad schema.
    """
    check_input, check_output = compile_schemas(definition)
    handler = definition.handler
    if not isinstance(handler, FunctionHandler):
        return LoadedSkill(definition, revision, None, check_input, check_output)
    function = import_function(handler.target, handler.function, definition.id)
    batch = None if handler.batch is None else import_function(handler.batch, handler.batch_function, definition.id)
    coroutine = isinstance(function, FunctionType) and bool(function.__code__.co_flags & inspect.CO_COROUTINE)
    direct = coroutine and batch is None and not handler.leases
    return LoadedSkill(definition, revision, function, check_input, check_output, batch, direct)


def check(definition: SkillDefinition, revision: int) -> Validation:
    """Returns what keeps the definition from running: no handler, a bad schema, a function that cannot be imported."""
    problems = () if definition.handler is not None else ("it has no handler: give one to run it",)
    try:
        load(definition, revision)
    except (HandlerNotRunnableError, InvalidDefinitionError) as error:
        problems = (*problems, str(error))
    return Validation(definition.id, revision, problems)


def compile_schemas(definition: SkillDefinition) -> tuple[Validator, Validator | None]:
    """Returns the compiled input and output schemas; raises InvalidDefinitionError when one is not valid."""
    check_input = Validator(definition.input_schema, skill_id=definition.id)
    if definition.output_schema is None:
        return check_input, None
    return check_input, Validator(definition.output_schema, skill_id=definition.id, field="output_schema", of="output")


def import_function(target: str, function: Callable[..., Any] | None, skill_id: str) -> Callable[..., Any]:
    """Returns the callable, imported from "package.module:name" unless it was given as one."""
    if function is not None:
        return function
    module_name, _, name = target.partition(":")
    try:
        found: Any = importlib.import_module(module_name)
        for part in name.split("."):
            found = getattr(found, part)
    except (ImportError, AttributeError) as error:
        raise HandlerNotRunnableError(
            f"skill {skill_id!r}: {target!r} cannot be imported: {error}; "
            "check the spelling and that its package is installed"
        ) from error
    except (Exception, SystemExit) as error:
        raise HandlerNotRunnableError(
            f"skill {skill_id!r}: {target!r} cannot be imported: its module raised {type(error).__qualname__}: {error}"
        ) from error
    if not callable(found):
        raise HandlerNotRunnableError(f"skill {skill_id!r}: {target!r} is {type(found).__name__}, not a function")
    imported: Callable[..., Any] = found
    return imported
