"""What people write: SkillDefinition and ResourceLimits (pydantic, deep-frozen), SkillQuery (a checked tuple), and its Page.

A query is made for every call of `discover`, which itself takes two microseconds: SkillQuery is therefore a tuple that
checks its fields by hand (a pydantic model of the same fields costs more than the query).
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import lru_cache
from string import Formatter
from typing import Annotated, Any, Literal, NamedTuple, NoReturn, Self
from urllib.parse import urlsplit

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
from skilllab.errors import InvalidDefinitionError, InvalidValueError

Layer = Literal[1, 2, 3]
Level = Literal["none", "low", "medium", "high"]
LAYERS = (1, 2, 3)
_PLACEHOLDER = re.compile(r"[^\W\d][\w-]*")
_AUTHORITY = re.compile(r"https?://([^/?#]*)")
_HOST = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[\w.-]+)(:[0-9]{1,5})?")
_HEADER = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_CONTROL = re.compile(r"[\x00-\x08\x0a-\x1f\x7f\ud800-\udfff]")
_FRAMING = frozenset(
    {"host", "content-length", "transfer-encoding", "connection", "upgrade", "te", "trailer", "expect"}
)


class FrozenDict(dict[str, Any]):
    """A dict that cannot be changed; `freeze` makes one with frozen values."""

    __slots__ = ()

    def _refuse(self, *_: object, **__: object) -> NoReturn:
        raise TypeError("this mapping is frozen: make a changed copy with {**mapping, key: value}")

    __setitem__ = __delitem__ = __ior__ = _refuse
    clear = pop = popitem = setdefault = update = _refuse

    def __hash__(self) -> int:  # type: ignore[override]
        return hash(frozenset(self.items()))

    def __copy__(self) -> FrozenDict:
        return self

    def __deepcopy__(self, memo: object) -> FrozenDict:
        return self

    def __reduce__(self) -> Any:
        return FrozenDict, (dict(self),)


def freeze(value: Any) -> Any:
    """Returns `value` with every dict, list and set inside replaced by its frozen kin (FrozenDict, tuple, frozenset)."""
    if isinstance(value, Mapping):
        return FrozenDict({key: freeze(item) for key, item in value.items()})
    if isinstance(value, list | tuple):
        return tuple(freeze(item) for item in value)
    if isinstance(value, set | frozenset):
        return frozenset(freeze(item) for item in value)
    if isinstance(value, bytearray):
        return bytes(value)
    return value


def normal_text(text: str) -> str:
    """Returns `text` in Unicode normal form C, so that an accent typed in two ways is one name."""
    return text if text.isascii() else unicodedata.normalize("NFC", text)


def _strings(value: object) -> object:
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


def template_pieces(text: str) -> tuple[tuple[str, str | None], ...]:
    """Returns a template as pairs of a text and the {placeholder} after it, None after the last text.

    {{ and }} are braces. Raises ValueError for any other brace and for a name that is none.
    """
    pieces: list[tuple[str, str | None]] = []
    try:
        parsed = list(Formatter().parse(text))
    except ValueError:
        raise ValueError("a brace stands alone: write {name} for a parameter, and {{ or }} for a brace") from None
    before = ""
    for literal, name, form, conversion in parsed:
        before += literal
        if name is None:
            continue
        if form or conversion or not _PLACEHOLDER.fullmatch(name):
            raise ValueError(f"{{{name}}} is no placeholder: a name has letters, digits, _ and - only")
        pieces.append((before, name))
        before = ""
    return (*pieces, (before, None)) if before or not pieces else tuple(pieces)


def template_names(value: Any) -> Iterator[str]:
    """Yields the placeholders in a text, or in the texts of a mapping's values or a list, as often as they stand there."""
    if isinstance(value, str):
        yield from (name for _, name in template_pieces(value) if name is not None)
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from template_names(item)
    elif isinstance(value, tuple):
        for item in value:
            yield from template_names(item)


def _template(value: Any) -> Any:
    for _ in template_names(value):
        pass
    return value


def _url_template(url: str) -> str:
    found = _AUTHORITY.match(url)
    if found is None or not found[1]:
        raise ValueError("it names no host")
    if "@" in found[1]:
        raise ValueError("it holds a user or a password: send them in a header, from a secret")
    if re.search(r"[\s\\]", found[1]):
        raise ValueError("its host holds a space or a backslash")
    if not any(template_names(found[1])):
        parts = urlsplit(url)
        if not parts.hostname or parts.port == 0:  # reading the port checks it
            raise ValueError("it names no host, or port 0")
    return _template(url)  # type: ignore[no-any-return]


def _batch_url(url: str) -> str:
    if names := sorted(set(template_names(_url_template(url)))):
        raise ValueError(f"{{{names[0]}}} has no place in it: the parameters of all calls are in the body")
    return url


def _header_templates(headers: Mapping[str, Any]) -> Mapping[str, Any]:
    for name, value in headers.items():
        if not _HEADER.fullmatch(name) or name.lower() in _FRAMING:
            raise ValueError(f"{name!r} is no header that a skill may set")
        if not isinstance(value, str) or _CONTROL.search(value):
            raise ValueError(f"{name!r} must have a text in one line, not {value!r}")
    return _template(headers)  # type: ignore[no-any-return]


def _query_template(query: Mapping[str, Any]) -> Mapping[str, Any]:
    for name, value in query.items():
        if isinstance(value, Mapping):
            raise ValueError(f"{name!r} must have a text, a number or a list of them, not an object")
    return _template(query)  # type: ignore[no-any-return]


def checked_hosts(hosts: tuple[str, ...] | None) -> tuple[str, ...] | None:
    """Returns names of hosts, each "host" or "host:port"; raises ValueError for anything else."""
    for host in hosts or ():
        found = _HOST.fullmatch(host) if isinstance(host, str) else None
        if found is None or int((found[2] or ":0")[1:]) > 65535:
            raise ValueError(f'{host!r} is no host: write "api.example.org" or "127.0.0.1:8080"')
    return hosts


def _json_path(path: str | None) -> str | None:
    if path is not None:
        import jmespath  # some milliseconds to import

        try:
            jmespath.compile(path)
        except ValueError as error:
            raise ValueError(f"it is no JMESPath: {' '.join(str(error).split())}") from None
    return path


Text = Annotated[str, AfterValidator(normal_text)]
Name = Annotated[str, Field(min_length=1, max_length=200, pattern=r"\S"), AfterValidator(normal_text)]
Identifier = Annotated[str, Field(max_length=200, pattern=r"^[A-Za-z0-9][A-Za-z0-9._:/-]*$")]
Tags = Annotated[tuple[Name, ...], BeforeValidator(_strings)]
Frozen = Annotated[Mapping[str, Any], AfterValidator(freeze)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=0)]
PositiveCount = Annotated[int, Field(gt=0)]
Target = Annotated[str, Field(pattern=r"^[\w.]+:[\w.<>]+$")]
Url = Annotated[str, Field(pattern=r"^https?://")]


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
    """A program and its arguments, with {placeholders} for parameters; never a shell string (layer 2)."""

    kind: Literal["command"] = "command"
    argv: Annotated[tuple[str, ...], BeforeValidator(_strings), Field(min_length=1)]


class ScriptHandler(_Checked):
    """Python source that defines `run(params)` (layer 2)."""

    kind: Literal["script"] = "script"
    source: Annotated[str, Field(min_length=1)]


class HttpBatch(_Checked):
    """An endpoint that answers several calls of one skill in one request.

    It is sent `{items: [...]}`, each item the skill's parameters, and answers `{answers: [...]}`, one for each item in
    order: `{"status": 200, "body": ...}`, where a status of 400 or more fails that call alone. max_size: items at most.
    The skill's headers and query go with it as far as they take no parameter; a redirect is not followed.
    """

    method: Literal["POST", "PUT"] = "POST"
    url: Annotated[Url, AfterValidator(_batch_url)]
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
    url: Annotated[Url, AfterValidator(_url_template)]
    headers: Annotated[Frozen, AfterValidator(_header_templates)] = FrozenDict()
    query: Annotated[Frozen, AfterValidator(_query_template)] = FrozenDict()
    body: Annotated[Any, AfterValidator(freeze), AfterValidator(_template)] = None
    response_path: Annotated[str | None, AfterValidator(_json_path)] = None
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
        found = _AUTHORITY.match(info.data.get("url", ""))
        if hosts is None and found is not None and any(template_names(found[1])):
            raise ValueError(f"the url leaves its host open ({found[1]}): name the hosts that it may be")
        return hosts

    def placeholders(self) -> tuple[str, ...]:
        """Returns the names in the template, secrets among them, each once and in order."""
        return tuple(dict.fromkeys(template_names((self.url, self.headers, self.query, self.body))))


Handler = Annotated[
    Annotated[FunctionHandler | CommandHandler | ScriptHandler | HttpHandler, Field(discriminator="kind")] | None,
    BeforeValidator(_function_handler),
]
LAYER_OF_HANDLER = {"function": 1, "command": 2, "script": 2, "http": 3}


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
    resource_requirements: ResourceRequirements = ResourceRequirements()
    resource_limits: ResourceLimits | None = None

    @model_validator(mode="after")
    def _handler_suits_layer(self) -> Self:
        if self.handler is not None and LAYER_OF_HANDLER[self.handler.kind] != self.layer:
            suited = LAYER_OF_HANDLER[self.handler.kind]
            raise ValueError(f"a {self.handler.kind} handler belongs to layer {suited}, not {self.layer}")
        return self

    @model_validator(mode="after")
    def _parameters_suit_template(self) -> Self:
        handler, schema = self.handler, self.input_schema
        if not isinstance(handler, HttpHandler) or schema is None:
            return self
        known = schema.get("properties", FrozenDict())
        closed = schema.get("additionalProperties") is False and "patternProperties" not in schema
        for name in handler.placeholders():
            why = ""
            if name in handler.secrets and name in known:
                why = f"{name!r} is a secret and a parameter of input_schema: give one another name"
            elif name not in handler.secrets and name not in known and closed:
                why = f"{{{name}}} is no parameter of input_schema, which allows no other: mend one of them"
            if why:
                raise InvalidDefinitionError(f"SkillDefinition: handler: {why}", field="handler")
        return self

    def __hash__(self) -> int:
        return hash((self.id, self.version, self.layer))


class _QueryFields(NamedTuple):
    layer: Layer | None
    category: str | None
    tags: tuple[str, ...]
    all_tags: tuple[str, ...]
    name: str | None
    text: str | None
    author: str | None
    limit: int | None
    offset: int


class SkillQuery(_QueryFields):
    """What to look for: all conditions must hold; None and () ask for nothing.

    layer (1, 2, 3), category, author and name: exact. tags: any of them. all_tags: every one. text: every word of it
    occurs, case folded, in name, description or tags. limit: at most so many skills (None: all), after `offset` others.
    Raises InvalidValueError for a wrong type, an unknown layer, and negative numbers.
    """

    __slots__ = ()

    def __new__(
        cls,
        layer: int | None = None,
        category: str | None = None,
        tags: Iterable[str] = (),
        all_tags: Iterable[str] = (),
        name: str | None = None,
        text: str | None = None,
        author: str | None = None,
        limit: int | None = None,
        offset: int = 0,
    ) -> SkillQuery:
        if layer is not None and (type(layer) is not int or not 1 <= layer <= 3):
            raise InvalidValueError(f"layer={layer!r} must be 1, 2 or 3")
        if limit is not None and (type(limit) is not int or limit < 0):
            raise InvalidValueError(f"limit={limit!r} must be a whole number of at least 0, or None for all")
        if type(offset) is not int or offset < 0:
            raise InvalidValueError(f"offset={offset!r} must be a whole number of at least 0")
        if category is not None and not (type(category) is str and category.isascii()):
            category = _word("category", category)
        if name is not None:
            name = _word("name", name)
        if text is not None:
            text = _word("text", text)
        if author is not None:
            author = _word("author", author)
        if type(tags) is not tuple or tags:
            tags = _words("tags", tags)
        if type(all_tags) is not tuple or all_tags:
            all_tags = _words("all_tags", all_tags)
        return tuple.__new__(cls, (layer, category, tags, all_tags, name, text, author, limit, offset))

    def _replace(self, **conditions: Any) -> SkillQuery:
        """Returns the query with some conditions changed, checked like any other."""
        return SkillQuery.of({**self._asdict(), **conditions})

    @classmethod
    def of(cls, conditions: Mapping[str, Any]) -> SkillQuery:
        """Returns the query for a mapping of conditions; an unknown field is an InvalidValueError that names the known."""
        if not isinstance(conditions, Mapping):
            raise InvalidValueError(f"query={conditions!r} must be a SkillQuery or a mapping of conditions")
        unknown = [str(field) for field in conditions if field not in cls._fields]
        if unknown:
            raise InvalidValueError(f"unknown condition {', '.join(unknown)}: known are {', '.join(cls._fields)}")
        return cls(**conditions)


def _word(field: str, value: object) -> str:
    if not isinstance(value, str):
        raise InvalidValueError(f"{field}={value!r} must be text or None")
    return value if value.isascii() else normal_text(value)


def _words(field: str, values: Iterable[str]) -> tuple[str, ...]:
    """Returns the distinct words in order, so that two ways to write one set are one query."""
    if values is None:
        return ()
    if isinstance(values, str):
        raise InvalidValueError(f"{field}={values!r} must be a list of texts; write [{values!r}]")
    try:
        return _distinct(tuple(values))
    except TypeError:
        raise InvalidValueError(f"{field}={values!r} must be a list of texts") from None


@lru_cache(maxsize=1024)
def _distinct(words: tuple[str, ...]) -> tuple[str, ...]:
    """Returns the words in order, each once, in normal form; remembered, since agents ask with the same few sets."""
    "".join(words)
    return tuple(sorted({normal_text(word) for word in words}))


class Page(tuple[SkillDefinition, ...]):
    """The skills found, as a tuple, with .total (matches of the whole query), .next_offset and .as_of (registry revision)."""

    total: int
    next_offset: int | None
    as_of: int

    def __new__(cls, skills: Iterable[SkillDefinition], total: int, next_offset: int | None, as_of: int = 0) -> Page:
        page = tuple.__new__(cls, skills)
        facts = page.__dict__
        facts["total"] = total
        facts["next_offset"] = next_offset
        facts["as_of"] = as_of
        return page

    def __setattr__(self, name: str, value: object = None) -> NoReturn:
        raise AttributeError(f"a page is frozen: {name!r} cannot be set")

    __delattr__ = __setattr__

    def __deepcopy__(self, memo: object) -> Page:
        return self

    def __reduce__(self) -> Any:
        return Page, (tuple(self), self.total, self.next_offset, self.as_of)

    def __repr__(self) -> str:
        shown = ", ".join(skill.id for skill in self[:5])
        return f"<Page of {len(self)} of {self.total} skills: {shown}{' …' if len(self) > 5 else ''}>"
