"""Ways to write a skill: @skill turns a typed function into a definition (layer 1), command_skill a program and
script_skill a Python source (layer 2), http_skill a request (layer 3).
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Literal, NoReturn, ParamSpec, Protocol, TypedDict, TypeVar, Unpack, cast

from skilllab.errors import InvalidDefinitionError, InvalidValueError
from skilllab.model import (
    LAYER_OF_HANDLER,
    CommandHandler,
    FunctionHandler,
    HttpBatch,
    HttpHandler,
    Isolation,
    ResourceLimits,
    ResourceRequirements,
    ScriptHandler,
    SkillDefinition,
)
from skilllab.schema import Schema, parameter_schema, return_schema

P = ParamSpec("P")
R_co = TypeVar("R_co", covariant=True)
Part = TypeVar("Part", CommandHandler, ScriptHandler, HttpHandler, HttpBatch)


class SkillFunction(Protocol[P, R_co]):
    """A function that `skill` decorated: called as before, and described by `definition`."""

    definition: SkillDefinition

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R_co: ...


class Fields(TypedDict, total=False):
    """What command_skill, script_skill and http_skill all take besides what runs the skill; see SkillDefinition.

    name: the id unless given. examples: parameter objects that work, kept as the `examples` of the input schema.
    """

    name: str | None
    version: str
    description: str
    category: str
    tags: Sequence[str]
    author: str
    examples: Sequence[Mapping[str, Any]]
    input_schema: Schema | None
    output_schema: Schema | None
    cacheable: bool
    cache_key: str | Callable[..., Any] | None
    cache_ttl: float | Literal["inherit"] | None
    max_concurrency: int | None
    timeout: float | Literal["inherit"] | None
    resource_requirements: ResourceRequirements | None
    resource_limits: ResourceLimits | None


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
    isolation: Isolation | None = None,
    resource_requirements: ResourceRequirements | None = None,
    resource_limits: ResourceLimits | None = None,
) -> Callable[[Callable[P, R_co]], SkillFunction[P, R_co]]:
    """Returns a decorator that gives a typed `def` or `async def` a `.definition`; the function itself is returned.

    name: the function's name in words unless given. description: the first paragraph of its docstring unless given.
    examples: parameter objects that work, kept as the `examples` of the input schema.
    cacheable, cache_key, cache_ttl (s), max_concurrency, timeout (s) and isolation: see SkillDefinition.
    batch: a function that answers a list of parameter objects at once. leases: parameters that the engine fills with a
    connection of the pool of that name, which are no part of the schema (see FunctionHandler); a batch function gets
    them as keywords, one connection for the whole batch.
    check_output: whether the return hint becomes the output schema, so that a skill that breaks its own word fails.
    A function inside another one, or in a notebook, runs in this process only: its definition read back from JSON
    elsewhere cannot be imported. Raises InvalidDefinitionError for what is not a function with a name and type hints.
    """

    def decorate(function: Callable[P, R_co]) -> SkillFunction[P, R_co]:
        _require_function(function, id, streaming)
        _require_lists(id, tags=tags, leases=leases)
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
            isolation=isolation,
            resource_requirements=resource_requirements or ResourceRequirements(),
            resource_limits=resource_limits,
        )
        described = cast(SkillFunction[P, R_co], function)
        described.definition = definition
        return described

    return decorate


def command_skill(
    *,
    id: str,
    argv: Sequence[str],
    stdin: str | None = None,
    output: Literal["text", "lines", "json"] = "text",
    exit_codes: Sequence[int] = (0,),
    cwd: str | None = None,
    paths: Sequence[str] = (),
    env: Mapping[str, str] | None = None,
    isolation: Isolation | None = None,
    **fields: Unpack[Fields],
) -> SkillDefinition:
    """Returns the definition of a skill that starts a program (layer 2); see CommandHandler for argv to env.

    isolation: see SkillDefinition. fields: name, description, tags, cacheable, timeout and the others of Fields;
    input_schema is, unless given, an object that has each placeholder as a required parameter of any type.
    Raises InvalidDefinitionError for a command that cannot work, and for a placeholder that a schema without further
    parameters does not have.
    """
    _require_lists(id, argv=argv, paths=paths)
    handler = _part(
        CommandHandler,
        id,
        argv=argv,
        stdin=stdin,
        output=output,
        exit_codes=exit_codes,
        cwd=cwd,
        paths=paths,
        env={} if env is None else env,
    )
    return _definition(id, handler, fields, schema=_schema_of(handler.placeholders()), isolation=isolation)


def script_skill(
    *,
    id: str,
    source: str,
    preload: Sequence[str] = (),
    paths: Sequence[str] = (),
    env: Mapping[str, str] | None = None,
    streaming: bool = False,
    isolation: Isolation | None = None,
    **fields: Unpack[Fields],
) -> SkillDefinition:
    """Returns the definition of a skill that is Python source (layer 2); see ScriptHandler for source to env.

    streaming, isolation: see SkillDefinition. fields: name, description, tags, cacheable, timeout and the others of Fields;
    without an input_schema any parameters will do.
    Raises InvalidDefinitionError for a source that is no Python or has no `run` that takes parameters.
    """
    _require_lists(id, preload=preload, paths=paths)
    handler = _part(ScriptHandler, id, source=source, preload=preload, paths=paths, env={} if env is None else env)
    return _definition(id, handler, fields, streaming=streaming, isolation=isolation)


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
    **fields: Unpack[Fields],
) -> SkillDefinition:
    """Returns the definition of a skill that calls an API (layer 3); see HttpHandler for its template.

    method to batch: the request (an HttpBatch may be given as a mapping). fields: name, description, tags, cacheable, timeout
    and the others of Fields; input_schema is, unless given, an object that has each placeholder but secrets as a required
    parameter of any type. Raises InvalidDefinitionError for a template that cannot work, and for a placeholder that a schema
    without further parameters does not have.
    """
    _require_lists(id, allowed_hosts=allowed_hosts)
    handler = _part(
        HttpHandler,
        id,
        method=method,
        url=url,
        headers=headers or {},
        query=query or {},
        body=body,
        response_path=response_path,
        secrets=secrets or {},
        allowed_hosts=None if allowed_hosts is None else tuple(allowed_hosts),
        idempotent=idempotent,
        batch=_part(HttpBatch, id, "batch.", **batch) if isinstance(batch, Mapping) else batch,
    )
    schema = _schema_of(name for name in handler.placeholders() if name not in handler.secrets)
    return _definition(id, handler, fields, schema=schema, needs=ResourceRequirements(cpu="low", network="medium"))


def definition_of(thing: object) -> SkillDefinition:
    """Returns the definition that `thing` is or carries; raises InvalidValueError when it is neither."""
    found = thing if isinstance(thing, SkillDefinition) else getattr(thing, "definition", None)
    if not isinstance(found, SkillDefinition):
        raise InvalidValueError(
            f"{thing!r} is no skill: give a SkillDefinition, or a function decorated with @skill(id=...)"
        )
    return found


def _part(kind: type[Part], skill_id: str, within: str = "", /, **fields: Any) -> Part:
    """Returns a handler or a part of one; `within` is where its fields stand in messages."""
    try:
        return kind(**fields)
    except InvalidDefinitionError as error:
        why = str(error).partition(": ")[2]
        refused = InvalidDefinitionError(f"skill {skill_id!r}: {within}{why}", field=f"{within}{error.field}")
    raise refused


def _definition(
    skill_id: str,
    handler: CommandHandler | ScriptHandler | HttpHandler,
    fields: Fields,
    *,
    schema: Schema | None = None,
    needs: ResourceRequirements | None = None,
    **own: Any,
) -> SkillDefinition:
    """Returns the definition of a skill without a function; `schema` and `needs` stand in for what is not given."""
    for field, value in fields.items():
        if field not in Fields.__annotations__:
            known = ", ".join(Fields.__annotations__)
            _refuse(skill_id, f"{field}={value!r}: it has no such field; known are {known}", field=field)
    given: dict[str, Any] = {"tags": (), **fields, **own}
    _require_lists(skill_id, tags=given["tags"])
    examples = given.pop("examples", ())
    instead = {"name": skill_id, "input_schema": schema, "resource_requirements": needs or ResourceRequirements()}
    given |= {field: value for field, value in instead.items() if given.get(field) is None}
    given["input_schema"] = _with_examples(given["input_schema"], examples)
    given["tags"] = tuple(given["tags"])
    return SkillDefinition(id=skill_id, layer=LAYER_OF_HANDLER[handler.kind], handler=handler, **given)


def _schema_of(names: Iterable[str]) -> Schema:
    """Returns the schema of an object with required parameters of any type."""
    required = list(names)
    return {"type": "object", "properties": {name: {} for name in required}, "required": required}


def _require_lists(skill_id: str, **fields: Any) -> None:
    for field, texts in fields.items():
        if isinstance(texts, str):
            items = texts.split() if field == "argv" else [texts]
            _refuse(skill_id, f"{field}={texts!r} must be a list of texts; write {items!r}", field=field)


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


def _with_examples(schema: Schema | None, examples: Sequence[Mapping[str, Any]]) -> Schema | None:
    return {**(schema or {}), "examples": list(examples)} if examples else schema


def _refuse(skill_id: str, reason: str, field: str = "handler") -> NoReturn:
    raise InvalidDefinitionError(f"skill {skill_id!r}: {reason}", field=field)
