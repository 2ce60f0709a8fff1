"""Ways to write a skill: @skill turns a typed function into a layer 1 definition and leaves it a function."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NoReturn, ParamSpec, Protocol, TypeVar, cast

from skilllab.errors import InvalidDefinitionError, InvalidValueError
from skilllab.model import FunctionHandler, ResourceLimits, ResourceRequirements, SkillDefinition
from skilllab.schema import Schema, parameter_schema, return_schema

P = ParamSpec("P")
R_co = TypeVar("R_co", covariant=True)


class SkillFunction(Protocol[P, R_co]):
    """A function that `skill` decorated: called as before, and described by `definition`."""

    definition: SkillDefinition

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R_co: ...


def skill(
    *,
    id: str,
    name: str | None = None,
    version: str = "1.0.0",
    description: str | None = None,
    category: str = "",
    tags: Sequence[str] = (),
    author: str = "",
    examples: Sequence[Mapping[str, Any]] = (),
    check_output: bool = True,
    cacheable: bool = False,
    cache_key: str | Callable[..., Any] | None = None,
    streaming: bool = False,
    resource_requirements: ResourceRequirements | None = None,
    resource_limits: ResourceLimits | None = None,
) -> Callable[[Callable[P, R_co]], SkillFunction[P, R_co]]:
    """Returns a decorator that gives a typed `def` or `async def` a `.definition`; the function itself is returned.

    name: the function's name in words unless given. description: the first paragraph of its docstring unless given.
    examples: parameter objects that work, kept as the `examples` of the input schema.
    check_output: whether the return hint becomes the output schema, so that a skill that breaks its own word fails.
    A function inside another one, or in a notebook, runs in this process only: its definition read back from JSON
    elsewhere cannot be imported. Raises InvalidDefinitionError for what is not a function with a name and type hints.
    """

    def decorate(function: Callable[P, R_co]) -> SkillFunction[P, R_co]:
        _require_function(function, id, streaming)
        if isinstance(tags, str):
            _refuse(id, f"tags={tags!r} must be a list of texts; write [{tags!r}]", field="tags")
        definition = SkillDefinition(
            id=id,
            name=function.__name__.replace("_", " ").strip() if name is None else name,
            version=version,
            layer=1,
            description=_first_paragraph(function) if description is None else description,
            category=category,
            tags=tuple(tags),
            author=author,
            handler=FunctionHandler(target=f"{function.__module__}:{function.__qualname__}", function=function),
            input_schema=_with_examples(parameter_schema(function, id), examples),
            output_schema=return_schema(function, id) if check_output and not streaming else None,
            cacheable=cacheable,
            cache_key=cache_key,
            streaming=streaming,
            resource_requirements=resource_requirements or ResourceRequirements(),
            resource_limits=resource_limits,
        )
        described = cast(SkillFunction[P, R_co], function)
        described.definition = definition
        return described

    return decorate


def definition_of(thing: object) -> SkillDefinition:
    """Returns the definition that `thing` is or carries; raises InvalidValueError when it is neither."""
    found = thing if isinstance(thing, SkillDefinition) else getattr(thing, "definition", None)
    if not isinstance(found, SkillDefinition):
        raise InvalidValueError(
            f"{thing!r} is no skill: give a SkillDefinition, or a function decorated with @skill(id=...)"
        )
    return found


def _require_function(function: Any, skill_id: str, streaming: bool) -> None:
    if not inspect.isfunction(function):
        _refuse(skill_id, f"@skill decorates functions, not {function!r}; wrap it in a def with type hints")
    if function.__name__ == "<lambda>":
        _refuse(skill_id, "a lambda has neither name nor type hints; write a def")
    if not streaming and (inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function)):
        _refuse(skill_id, f"{function.__name__}() yields; return a value, or say streaming=True")


def _first_paragraph(function: Callable[..., Any]) -> str:
    return " ".join((inspect.getdoc(function) or "").split("\n\n")[0].split())


def _with_examples(schema: Schema, examples: Sequence[Mapping[str, Any]]) -> Schema:
    return {**schema, "examples": list(examples)} if examples else schema


def _refuse(skill_id: str, reason: str, field: str = "handler") -> NoReturn:
    raise InvalidDefinitionError(f"skill {skill_id!r}: {reason}", field=field)
