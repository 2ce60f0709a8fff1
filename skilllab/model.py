"""What people write: SkillDefinition, its handlers and ResourceLimits (pydantic, deep-frozen)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)

from skilllab import settings
from skilllab.errors import InvalidDefinitionError
from skilllab.frozen import FrozenDict, freeze, normal_text
from skilllab.templates import (
    checked_argv,
    checked_batch_url,
    checked_environment,
    checked_headers,
    checked_hosts,
    checked_json_path,
    checked_module,
    checked_path,
    checked_query,
    checked_script,
    checked_template,
    checked_url,
    open_host,
    template_names,
)

Layer = Literal[1, 2, 3]
Level = Literal["none", "low", "medium", "high"]
Isolation = Literal["process", "bubblewrap"]
LAYERS = (1, 2, 3)


def _in_order(value: object) -> object:
    if isinstance(value, list | set | frozenset):
        return tuple(value) if isinstance(value, list) else tuple(sorted(value, key=str))
    return value


def _whole(value: object) -> object:
    if type(value) in (bool, float):  # both equal an int to Literal
        raise ValueError("must be 1, 2 or 3 as a whole number")
    return value


def _function_handler(value: object) -> object:
    """Lets people write a callable or "package.module:name" where a handler is asked for."""
    if isinstance(value, BaseModel) or not (callable(value) or isinstance(value, str)):
        return value
    if isinstance(value, str):
        return FunctionHandler(target=value)
    return FunctionHandler(
        target=f"{value.__module__}:{getattr(value, '__qualname__', type(value).__qualname__)}", function=value
    )


Text = Annotated[str, AfterValidator(normal_text)]
Name = Annotated[str, Field(min_length=1, max_length=200, pattern=r"\S"), AfterValidator(normal_text)]
Identifier = Annotated[str, Field(max_length=200, pattern=r"^[A-Za-z0-9][A-Za-z0-9._:/-]*$")]
Tags = Annotated[tuple[Name, ...], BeforeValidator(_in_order)]
Frozen = Annotated[Mapping[str, Any], AfterValidator(freeze)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=0)]
PositiveCount = Annotated[int, Field(gt=0)]
Target = Annotated[str, Field(pattern=r"^[\w.]+:[\w.<>]+$")]
Url = Annotated[str, Field(pattern=r"^https?://")]
Path = Annotated[str, AfterValidator(checked_path)]
Paths = Annotated[tuple[Path, ...], BeforeValidator(_in_order)]
Modules = Annotated[tuple[Annotated[str, AfterValidator(checked_module)], ...], BeforeValidator(_in_order)]
Environment = Annotated[Mapping[str, str], AfterValidator(checked_environment), AfterValidator(freeze)]
ExitCode = Annotated[int, Field(ge=0, le=255)]


class _Checked(BaseModel):
    """A frozen model whose construction raises InvalidDefinitionError, with the field and the offending value."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", strict=True, arbitrary_types_allowed=True, hide_input_in_errors=False
    )

    def __init__(self, /, **data: Any) -> None:
        try:
            super().__init__(**data)
        except ValidationError as error:
            raise definition_error(type(self).__name__, error, data.get("id")) from None

    def __copy__(self) -> Self:
        return self

    def __deepcopy__(self, memo: Any = None) -> Self:
        return self

    def model_copy(self, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> Self:
        """Returns a copy with the fields of `update` changed and everything checked again (frozen values are shared)."""
        return type(self)(**{**dict(self), **(update or {})})


def definition_error(what: str, error: ValidationError, name: object = None) -> InvalidDefinitionError:
    """Returns the InvalidDefinitionError that says all of a pydantic error in a line per field."""
    fields, rows = [], []
    for item in error.errors(include_url=False):
        field = ".".join(str(part) for part in item["loc"]) or "definition"
        inner = item.get("ctx", {}).get("error")
        if isinstance(inner, InvalidDefinitionError):  # a model inside this one has said it already
            within = f"{field}." if item["loc"] else ""
            field, row = f"{within}{inner.field}", f"{within}{str(inner).partition(': ')[2]}"
        elif item["type"] == "missing":
            row = f"{field} is missing"
        else:
            row = f"{field}={_short(item['input'])}: {item['msg'].removeprefix('Value error, ')}"
        fields.append(field)
        rows.append(row)
    title = f"{what} {name!r}" if name is not None else what
    return InvalidDefinitionError(f"{title}: {'; '.join(rows)}", field=fields[0])


def _short(value: object, limit: int = 80) -> str:
    text = repr(value)
    return text if len(text) <= limit else f"{text[: limit - 1]}…"


class FunctionHandler(_Checked):
    """A Python function, named by "package.module:qualified.name" or given as a callable (layer 1).

    batch: a second function, named the same way, that answers many calls at once: it takes a list of parameter objects
    and returns a list with one answer for each; an exception as an answer fails that call alone. It gets its leases as
    keywords, one connection for the whole batch.
    leases: parameters that the engine fills with a connection from the pool of that name, for the time of the call.
    """

    kind: Literal["function"] = "function"
    target: Target
    function: Callable[..., Any] | None = Field(default=None, exclude=True, repr=False)
    batch: Target | None = None
    batch_function: Callable[..., Any] | None = Field(default=None, exclude=True, repr=False)
    leases: Tags = ()


class CommandHandler(_Checked):
    """A program and its arguments (layer 2); parameters never reach a shell.

    argv: the program, then its arguments, each a template: {placeholders} take parameters, {{ and }} are braces. An
    argument that is one placeholder and nothing else takes a list as several arguments, and is left out when its parameter
    is optional and not given. stdin: a template of what the program reads from standard input; None is nothing.
    output: what becomes of standard output: one text, a list of its lines, or the JSON value that it holds.
    exit_codes: codes that mean success, 0 to 255. cwd: the folder that the program starts in, None a private temporary one.
    paths: files and folders, from the root on, that it may read and not write. env: environment variables.
    """

    kind: Literal["command"] = "command"
    argv: Annotated[tuple[str, ...], BeforeValidator(_in_order), Field(min_length=1), AfterValidator(checked_argv)]
    stdin: Annotated[str | None, AfterValidator(checked_template)] = None
    output: Literal["text", "lines", "json"] = "text"
    exit_codes: Annotated[tuple[ExitCode, ...], BeforeValidator(_in_order), Field(min_length=1)] = (0,)
    cwd: Path | None = None
    paths: Paths = ()
    env: Environment = FrozenDict()

    def placeholders(self) -> tuple[str, ...]:
        """Returns the names in argv and stdin, each once and in order."""
        return tuple(dict.fromkeys(template_names((self.argv, self.stdin))))


class ScriptHandler(_Checked):
    """Python source that has `run(params)`, a def or async def, at its top level (layer 2).

    preload: modules that are imported before the first call, by their whole names. paths: files and folders, from the root
    on, that it may read and not write. env: environment variables.
    """

    kind: Literal["script"] = "script"
    source: Annotated[str, Field(min_length=1), AfterValidator(checked_script)]
    preload: Modules = ()
    paths: Paths = ()
    env: Environment = FrozenDict()


class HttpBatch(_Checked):
    """An endpoint that answers several calls of one skill in one request.

    It is sent `{items: [...]}`, each item the skill's parameters, and answers `{answers: [...]}`, one for each item in
    order: `{"status": 200, "body": ...}`, where a status of 400 or more fails that call alone. max_size: items at most.
    The skill's headers and query go with it as far as they take no parameter; a redirect is not followed.
    """

    method: Literal["POST", "PUT"] = "POST"
    url: Annotated[Url, AfterValidator(checked_batch_url)]
    items: Name = "items"
    answers: Name = "answers"
    max_size: PositiveCount = settings.HTTP_BATCH_SIZE


class HttpHandler(_Checked):
    """A request template; {placeholders} in url, headers, query and body take parameters (layer 3).

    {{ and }} are braces. A part of the query, a header or a member of the body is left out when its parameter is optional
    and not given. body: sent as JSON; a value that is a placeholder and nothing else keeps its type. response_path: a
    JMESPath into the JSON answer. secrets: placeholders that take the value of an environment variable, by its name; they
    may stand in headers, query and body only. allowed_hosts: "host" or "host:port" that a request or a redirect may go to;
    None allows host and port of the URLs alone. idempotent: whether a request may be sent again after a failure; None asks
    the method.
    """

    kind: Literal["http"] = "http"
    method: Literal["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"] = "GET"
    url: Annotated[Url, AfterValidator(checked_url)]
    headers: Annotated[Frozen, AfterValidator(checked_headers)] = FrozenDict()
    query: Annotated[Frozen, AfterValidator(checked_query)] = FrozenDict()
    body: Annotated[Any, AfterValidator(freeze), AfterValidator(checked_template)] = None
    response_path: Annotated[str | None, AfterValidator(checked_json_path)] = None
    secrets: Frozen = FrozenDict()
    allowed_hosts: Annotated[Tags | None, AfterValidator(checked_hosts)] = Field(default=None, validate_default=True)
    idempotent: bool | None = None
    batch: HttpBatch | None = None

    @field_validator("secrets")
    @classmethod
    def _secrets_stand_where_they_may(cls, secrets: Mapping[str, Any], info: ValidationInfo) -> Mapping[str, Any]:
        used = {name for part in ("headers", "query", "body") for name in template_names(info.data.get(part))}
        for name, variable in secrets.items():
            if not isinstance(variable, str) or not variable or "=" in variable or "\0" in variable:
                raise ValueError(f"{name!r} must have the name of an environment variable")
            if name in template_names(info.data.get("url")):
                raise ValueError(f"{name!r} stands in the url, which logs everywhere keep: put it into a header")
            if name not in used:
                raise ValueError(f"{name!r} stands nowhere: write {{{name}}} in a header, the query or the body")
        return secrets

    @field_validator("allowed_hosts")
    @classmethod
    def _open_host_has_bounds(cls, hosts: Any, info: ValidationInfo) -> Any:
        host = open_host(info.data.get("url", ""))
        if hosts is None and host is not None:
            raise ValueError(f"the url leaves its host open ({host}): name the hosts that it may be")
        return hosts

    def placeholders(self) -> tuple[str, ...]:
        """Returns the names in the template, secrets among them, each once and in order."""
        return tuple(dict.fromkeys(template_names((self.url, self.headers, self.query, self.body))))


Handler = Annotated[
    Annotated[FunctionHandler | CommandHandler | ScriptHandler | HttpHandler, Field(discriminator="kind")] | None,
    BeforeValidator(_function_handler),
]
LAYER_OF_HANDLER: dict[str, Layer] = {"function": 1, "command": 2, "script": 2, "http": 3}


class ResourceLimits(_Checked):
    """What one execution may use at most; None leaves that resource unlimited. Sizes in bytes, times in seconds."""

    max_memory: PositiveCount | None = None
    max_cpu_time: Positive | None = None
    max_duration: Positive | None = None
    max_network_requests: Count | None = None
    max_file_size: PositiveCount | None = None
    max_disk: PositiveCount | None = None
    max_processes: PositiveCount | None = None
    max_open_files: PositiveCount | None = None

    def asked(self) -> tuple[str, ...]:
        """Returns the names of the limits that are set."""
        return tuple(name for name in type(self).model_fields if getattr(self, name) is not None)


class ResourceRequirements(_Checked):
    """What a skill says that it needs, in words; a hint for people and schedulers, never a limit."""

    memory: Level = "low"
    cpu: Level = "medium"
    network: Level = "none"


class SkillDefinition(_Checked):
    """One skill: its identity, what finds it, what runs it, and what its parameters look like.

    `id` is unique in a registry, `name` within a layer. `layer` is 1 (function), 2 (sandboxed tool) or 3 (API wrapper)
    and must suit the handler. Schemas are JSON Schema (draft 2020-12). Everything inside is frozen.
    cacheable: equal parameters give an equal output, so that an engine may keep it; cache_key: a path such as "input.hash"
    into the parameters, or a function of them, that says which are equal (None: all of them); cache_ttl: seconds that a
    kept output lives. max_concurrency: executions at once. timeout: seconds a caller waits. "inherit" takes the engine's.
    isolation: what stands around the process that runs it; None takes what the engine has, "bubblewrap" refuses to run
    without it, "process" holds limits only.
    Raises InvalidDefinitionError, which names each offending field and value.
    """

    id: Identifier
    name: Name
    version: Name = "1.0.0"
    layer: Annotated[Layer, BeforeValidator(_whole)]
    description: Text = ""
    category: Text = ""
    tags: Tags = ()
    author: Text = ""
    handler: Handler = None
    input_schema: Frozen | None = None
    output_schema: Frozen | None = None
    cacheable: bool = False
    cache_key: Name | Callable[..., Any] | None = None
    cache_ttl: Positive | Literal["inherit"] | None = "inherit"
    max_concurrency: PositiveCount | None = None
    timeout: Positive | Literal["inherit"] | None = "inherit"
    streaming: bool = False
    isolation: Isolation | None = None
    resource_requirements: ResourceRequirements = ResourceRequirements()
    resource_limits: ResourceLimits | None = None

    @model_validator(mode="after")
    def _handler_suits_layer(self) -> Self:
        if self.handler is not None and LAYER_OF_HANDLER[self.handler.kind] != self.layer:
            suited = LAYER_OF_HANDLER[self.handler.kind]
            raise ValueError(f"a {self.handler.kind} handler belongs to layer {suited}, not {self.layer}")
        return self

    @model_validator(mode="after")
    def _handler_can_do_what_is_asked(self) -> Self:
        field = why = ""
        if isinstance(self.handler, HttpHandler) and self.isolation is not None:
            field, why = "isolation", "an http handler starts no process that could be isolated"
        elif isinstance(self.handler, CommandHandler) and self.streaming:
            field, why = "streaming", "a command's output comes when it has ended"
        if why:
            told = f"SkillDefinition: {field}={getattr(self, field)!r}: {why}: leave {field} out"
            raise InvalidDefinitionError(told, field=field)
        return self

    @model_validator(mode="after")
    def _parameters_suit_template(self) -> Self:
        handler, schema = self.handler, self.input_schema
        if not isinstance(handler, CommandHandler | HttpHandler) or schema is None:
            return self
        secrets = handler.secrets if isinstance(handler, HttpHandler) else FrozenDict()
        known = schema.get("properties", FrozenDict())
        closed = schema.get("additionalProperties") is False and "patternProperties" not in schema
        for name in handler.placeholders():
            why = ""
            if name in secrets and name in known:
                why = f"{name!r} is a secret and a parameter of input_schema: give one another name"
            elif name not in secrets and name not in known and closed:
                why = f"{{{name}}} is no parameter of input_schema, which allows no other: mend one of them"
            if why:
                raise InvalidDefinitionError(f"SkillDefinition: handler: {why}", field="handler")
        return self

    def __hash__(self) -> int:
        return hash((self.id, self.version, self.layer))
