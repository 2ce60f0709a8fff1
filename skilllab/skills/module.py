"""The functions of a Python module as skills."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Mapping
from types import ModuleType
from typing import Any

from skilllab.define import definition_of
from skilllab.errors import InvalidDefinitionError, InvalidValueError
from skilllab.loading import compile_schemas
from skilllab.model import FunctionHandler, SkillDefinition
from skilllab.schema import Schema, parameter_schema, return_schema
from skilllab.skills._mapping import SkillMapping

_STARS = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)


class ModuleSource(SkillMapping):
    """The skills of a module by id, in the order of the module; read-only.

    problems: public functions that cannot be skills, each with the reason.
    """

    def __init__(self, name: str, skills: Mapping[str, SkillDefinition], problems: tuple[str, ...] = ()) -> None:
        self.name = name
        self.problems = problems
        self._skills = dict(skills)

    def __repr__(self) -> str:
        return f"<ModuleSource {self.name!r} of {len(self)} skills>"


def from_module(target: str | ModuleType | Callable[..., Any], *, prefix: str = "") -> ModuleSource:
    """Returns the functions of a module as layer 1 skills; what @skill or another maker defined there stays as it is.

    target: a module or its name; or one function, itself or as "package.module:function". Of a module, its own public
    functions are taken, not those that it imports. prefix: of the ids, which are the functions' names otherwise.
    A parameter without a type hint takes any JSON value; *args and **kwargs take nothing. Importing a module runs it.
    Raises InvalidValueError for a module or function that is not there or cannot be imported, and InvalidDefinitionError
    for one function that cannot be a skill; of a module such functions are named in `problems`.
    """
    if isinstance(target, ModuleType):
        return _all_of(target, prefix)
    if not isinstance(target, str):
        return _one(target, prefix)
    name, _, path = target.partition(":")
    module = _module(name)
    if ":" not in target:
        return _all_of(module, prefix)
    found: Any = module
    for part in path.split("."):
        found = getattr(found, part, None)
    if found is None:
        known = (
            ", ".join(sorted(name for name, value in vars(module).items() if _is_public(name, value, module))) or "none"
        )
        raise InvalidValueError(f"{target!r}: module {name} has no {path!r}; its functions: {known}")
    return _one(found, prefix)


def _module(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise InvalidValueError(
            f"module {name!r} cannot be imported: {error}; check the spelling and the folder"
        ) from error
    except (Exception, SystemExit) as error:
        raise InvalidValueError(
            f"module {name!r} cannot be imported: it raised {type(error).__name__}: {error}"
        ) from error


def _one(thing: Any, prefix: str) -> ModuleSource:
    definition = _definition(thing, prefix)
    return ModuleSource(getattr(thing, "__module__", ""), {definition.id: definition})


def _all_of(module: ModuleType, prefix: str) -> ModuleSource:
    skills: dict[str, SkillDefinition] = {}
    problems = []
    for name, value in vars(module).items():
        if not _is_public(name, value, module):
            continue
        try:
            definition = _definition(value, prefix)
        except InvalidDefinitionError as error:
            problems.append(f"{name}: {error}")
        else:
            skills.setdefault(definition.id, definition)
    return ModuleSource(module.__name__, skills, tuple(problems))


def _is_public(name: str, value: Any, module: ModuleType) -> bool:
    if name.startswith("_") or isinstance(value, SkillDefinition):
        return not name.startswith("_")
    return inspect.isfunction(value) and value.__module__ == module.__name__


def _definition(thing: Any, prefix: str) -> SkillDefinition:
    if isinstance(thing, SkillDefinition) or isinstance(getattr(thing, "definition", None), SkillDefinition):
        made = definition_of(thing)
        return made.model_copy(update={"id": f"{prefix}{made.id}"}) if prefix else made
    if not inspect.isfunction(thing):
        raise InvalidValueError(f"{thing!r} is no Python function: wrap it in a def with type hints")
    skill_id = f"{prefix}{thing.__name__}"
    definition = SkillDefinition(
        id=skill_id,
        name=skill_id,
        layer=1,
        description=" ".join((inspect.getdoc(thing) or "").split("\n\n")[0].split()),
        category=thing.__module__,
        handler=FunctionHandler(target=f"{thing.__module__}:{thing.__qualname__}", function=thing),
        input_schema=_schema(thing, skill_id),
        output_schema=None if _yields(thing) else return_schema(thing, skill_id, without=_unhinted(thing)),
        streaming=_yields(thing),
    )
    compile_schemas(definition)
    return definition


def _yields(function: Callable[..., Any]) -> bool:
    return inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function)


def _unhinted(function: Callable[..., Any]) -> list[str]:
    parameters = inspect.signature(function).parameters.values()
    return [each.name for each in parameters if each.kind in _STARS or each.name not in function.__annotations__]


def _schema(function: Callable[..., Any], skill_id: str) -> Schema:
    """Returns the schema of the parameters; one without a hint is of any type."""
    parameters = inspect.signature(function).parameters
    for each in parameters.values():
        if each.kind is inspect.Parameter.POSITIONAL_ONLY:
            raise InvalidDefinitionError(
                f"skill {skill_id!r}: parameter {each.name!r} cannot be given by name; wrap the function",
                field="input_schema",
            )
    open_ones = _unhinted(function)
    schema = dict(parameter_schema(function, skill_id, without=open_ones))
    bare = [name for name in open_ones if parameters[name].kind not in _STARS]
    free = {name: _any(parameters[name]) for name in bare}
    known = {**schema.get("properties", {}), **free}
    needed = {
        *schema.get("required", ()),
        *(name for name in bare if parameters[name].default is inspect.Parameter.empty),
    }
    schema["properties"] = {name: known[name] for name in parameters if name in known}
    schema["required"] = [name for name in parameters if name in needed]
    return schema


def _any(parameter: inspect.Parameter) -> Schema:
    default = parameter.default
    return {"default": default} if default is None or isinstance(default, str | int | float | bool) else {}
