"""Ways to write a skill: @skill turns a typed function into a definition (layer 1), http_skill a request (layer 3)."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, NoReturn, ParamSpec, Protocol, TypeVar, cast

from skilllab.errors import InvalidDefinitionError, InvalidValueError
from skilllab.model import (
    FunctionHandler,
    HttpBatch,
    HttpHandler,
    ResourceLimits,
    ResourceRequirements,
    SkillDefinition,
)
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
    cache_ttl: float | Literal["inherit"] | None = "inherit",
    max_concurrency: int | None = None,
    timeout: float | Literal["inherit"] | None = "inherit",
    batch: Callable[..., Any] | None = None,
    leases: Sequence[str] = (),
    streaming: bool = False,
    resource_requirements: ResourceRequirements | None = None,
    resource_limits: ResourceLimits | None = None,
) -> Callable[[Callable[P, R_co]], SkillFunction[P, R_co]]:
    """Returns a decorator that gives a typed `def` or `async def` a `.definition`; the function itself is returned.

    name: the function's name in words unless given. description: the first paragraph of its docstring unless given.
    examples: parameter objects that work, kept as the `examples` of the input schema.
    cacheable, cache_key, cache_ttl (s), max_concurrency and timeout (s): see SkillDefinition.
    batch: a function that answers a list of parameter objects at once. leases: parameters that the engine fills with a
    connection of the pool of that name, which are no part of the schema (see FunctionHandler); a batch function gets
    them as keywords, one connection for the whole batch.
    check_output: whether the return hint becomes the output schema, so that a skill that breaks its own word fails.
    A function inside another one, or in a notebook, runs in this process only: its definition read back from JSON
    elsewhere cannot be imported. Raises InvalidDefinitionError for what is not a function with a name and type hints.
    """

    def decorate(function: Callable[P, R_co]) -> SkillFunction[P, R_co]:
        _require_function(function, id, streaming)
        for field, texts in (("tags", tags), ("leases", leases)):
            if isinstance(texts, str):
                _refuse(id, f"{field}={texts!r} must be a list of texts; write [{texts!r}]", field=field)
        _require_parameters(function, id, leases)
        if batch is not None:
            _require_batch(batch, id, streaming)
        definition = SkillDefinition(
            id=id,
            name=function.__name__.replace("_", " ").strip() if name is None else name,
            version=version,
            layer=1,
            description=_first_paragraph(function) if description is None else description,
            category=category,
            tags=tuple(tags),
            author=author,
            handler=FunctionHandler(
                target=_target(function),
                function=function,
                batch=None if batch is None else _target(batch),
                batch_function=batch,
                leases=tuple(leases),
            ),
            input_schema=_with_examples(parameter_schema(function, id, without=leases), examples),
            output_schema=return_schema(function, id, without=leases) if check_output and not streaming else None,
            cacheable=cacheable,
            cache_key=cache_key,
            cache_ttl=cache_ttl,
            max_concurrency=max_concurrency,
            timeout=timeout,
            streaming=streaming,
            resource_requirements=resource_requirements or ResourceRequirements(),
            resource_limits=resource_limits,
        )
        described = cast(SkillFunction[P, R_co], function)
        described.definition = definition
        return described

    return decorate


def http_skill(
    *,
    id: str,
    url: str,
    method: Literal["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"] = "GET",
    headers: Mapping[str, str] | None = None,
    query: Mapping[str, Any] | None = None,
    body: Any = None,
    response_path: str | None = None,
    secrets: Mapping[str, str] | None = None,
    allowed_hosts: Sequence[str] | None = None,
    idempotent: bool | None = None,
    batch: HttpBatch | Mapping[str, Any] | None = None,
    name: str | None = None,
    version: str = "1.0.0",
    description: str = "",
    category: str = "",
    tags: Sequence[str] = (),
    author: str = "",
    examples: Sequence[Mapping[str, Any]] = (),
    input_schema: Schema | None = None,
    output_schema: Schema | None = None,
    cacheable: bool = False,
    cache_key: str | Callable[..., Any] | None = None,
    cache_ttl: float | Literal["inherit"] | None = "inherit",
    max_concurrency: int | None = None,
    timeout: float | Literal["inherit"] | None = "inherit",
    resource_requirements: ResourceRequirements | None = None,
    resource_limits: ResourceLimits | None = None,
) -> SkillDefinition:
    """Returns the definition of a skill that calls an API (layer 3); see HttpHandler for its template.

    method to batch: the request (an HttpBatch may be given as a mapping). input_schema: unless given, an object that has
    each placeholder as a required parameter of any type. name: the id unless given. The rest: see SkillDefinition.
    Raises InvalidDefinitionError for a template that cannot work, and for a placeholder that a schema without further
    parameters does not have.
    """
    for field, texts in (("tags", tags), ("allowed_hosts", allowed_hosts)):
        if isinstance(texts, str):
            _refuse(id, f"{field}={texts!r} must be a list of texts; write [{texts!r}]", field=field)
    handler = _http_handler(
        id,
        batch,
        method=method,
        url=url,
        headers=headers or {},
        query=query or {},
        body=body,
        response_path=response_path,
        secrets=secrets or {},
        allowed_hosts=None if allowed_hosts is None else tuple(allowed_hosts),
        idempotent=idempotent,
    )
    if input_schema is None:
        parameters = [placeholder for placeholder in handler.placeholders() if placeholder not in handler.secrets]
        input_schema = {"type": "object", "properties": {each: {} for each in parameters}, "required": parameters}
    return SkillDefinition(
        id=id,
        name=id if name is None else name,
        version=version,
        layer=3,
        description=description,
        category=category,
        tags=tuple(tags),
        author=author,
        handler=handler,
        input_schema=_with_examples(input_schema, examples),
        output_schema=output_schema,
        cacheable=cacheable,
        cache_key=cache_key,
        cache_ttl=cache_ttl,
        max_concurrency=max_concurrency,
        timeout=timeout,
        resource_requirements=resource_requirements or ResourceRequirements(cpu="low", network="medium"),
        resource_limits=resource_limits,
    )


def definition_of(thing: object) -> SkillDefinition:
    """Returns the definition that `thing` is or carries; raises InvalidValueError when it is neither."""
    found = thing if isinstance(thing, SkillDefinition) else getattr(thing, "definition", None)
    if not isinstance(found, SkillDefinition):
        raise InvalidValueError(
            f"{thing!r} is no skill: give a SkillDefinition, or a function decorated with @skill(id=...)"
        )
    return found


def _http_handler(skill_id: str, batch: HttpBatch | Mapping[str, Any] | None, **fields: Any) -> HttpHandler:
    try:
        return HttpHandler(batch=HttpBatch(**batch) if isinstance(batch, Mapping) else batch, **fields)
    except InvalidDefinitionError as error:
        what, _, why = str(error).partition(": ")
        where = "batch." if what == "HttpBatch" else ""
        refused = InvalidDefinitionError(f"skill {skill_id!r}: {where}{why}", field=f"{where}{error.field}")
    raise refused


def _require_function(function: Any, skill_id: str, streaming: bool) -> None:
    if not inspect.isfunction(function):
        _refuse(skill_id, f"@skill decorates functions, not {function!r}; wrap it in a def with type hints")
    if function.__name__ == "<lambda>":
        _refuse(skill_id, "a lambda has neither name nor type hints; write a def")
    if not streaming and (inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function)):
        _refuse(skill_id, f"{function.__name__}() yields; return a value, or say streaming=True")


def _require_parameters(function: Callable[..., Any], skill_id: str, leases: Sequence[str]) -> None:
    parameters = inspect.signature(function).parameters if leases else {}
    missing = [lease for lease in leases if lease not in parameters]
    if missing:
        named = ", ".join(map(repr, missing))
        _refuse(skill_id, f"leases={named}: {function.__name__}() has no such parameter; add it", field="leases")


def _require_batch(batch: Any, skill_id: str, streaming: bool) -> None:
    if not inspect.isfunction(batch) or inspect.isgeneratorfunction(batch) or inspect.isasyncgenfunction(batch):
        _refuse(skill_id, f"batch={batch!r} must be a def or async def that returns a list of answers", field="batch")
    if streaming:
        _refuse(skill_id, "a skill that streams cannot answer in batches; leave out streaming or batch", field="batch")


def _target(function: Callable[..., Any]) -> str:
    return f"{function.__module__}:{function.__qualname__}"


def _first_paragraph(function: Callable[..., Any]) -> str:
    return " ".join((inspect.getdoc(function) or "").split("\n\n")[0].split())


def _with_examples(schema: Schema, examples: Sequence[Mapping[str, Any]]) -> Schema:
    return {**schema, "examples": list(examples)} if examples else schema


def _refuse(skill_id: str, reason: str, field: str = "handler") -> NoReturn:
    raise InvalidDefinitionError(f"skill {skill_id!r}: {reason}", field=field)
