"""What people write (SkillDefinition, ResourceLimits: pydantic, deep-frozen; SkillQuery: a checked tuple) and what runs produce.

A query is made for every call of `discover`, which itself takes two microseconds: SkillQuery is therefore a tuple that
checks its fields by hand (a pydantic model of the same fields costs more than the query).
"""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Annotated, Any, Literal, NamedTuple, NoReturn, Self

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from skilllab.errors import ExecutionError, InvalidDefinitionError, InvalidValueError

Layer = Literal[1, 2, 3]
Level = Literal["none", "low", "medium", "high"]
LAYERS = (1, 2, 3)


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


Text = Annotated[str, AfterValidator(normal_text)]
Name = Annotated[str, Field(min_length=1, max_length=200, pattern=r"\S"), AfterValidator(normal_text)]
Identifier = Annotated[str, Field(max_length=200, pattern=r"^[A-Za-z0-9][A-Za-z0-9._:/-]*$")]
Tags = Annotated[tuple[Name, ...], BeforeValidator(_strings)]
Frozen = Annotated[Mapping[str, Any], AfterValidator(freeze)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=0)]
PositiveCount = Annotated[int, Field(gt=0)]


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
            field, row = f"{field}.{inner.field}", f"{field}.{str(inner).partition(': ')[2]}"
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
    """A Python function, named by "package.module:qualified.name" or given as a callable (layer 1)."""

    kind: Literal["function"] = "function"
    target: Annotated[str, Field(pattern=r"^[\w.]+:[\w.<>]+$")]
    function: Callable[..., Any] | None = Field(default=None, exclude=True, repr=False)


class CommandHandler(_Checked):
    """A program and its arguments, with {placeholders} for parameters; never a shell string (layer 2)."""

    kind: Literal["command"] = "command"
    argv: Annotated[tuple[str, ...], BeforeValidator(_strings), Field(min_length=1)]


class ScriptHandler(_Checked):
    """Python source that defines `run(params)` (layer 2)."""

    kind: Literal["script"] = "script"
    source: Annotated[str, Field(min_length=1)]


class HttpHandler(_Checked):
    """A request template; {placeholders} in url, headers, query and body take parameters (layer 3)."""

    kind: Literal["http"] = "http"
    method: Literal["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"] = "GET"
    url: Annotated[str, Field(pattern=r"^https?://")]
    headers: Frozen = FrozenDict()
    query: Frozen = FrozenDict()
    body: Annotated[Any, AfterValidator(freeze)] = None
    response_path: str | None = None


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
    streaming: bool = False
    resource_requirements: ResourceRequirements = ResourceRequirements()
    resource_limits: ResourceLimits | None = None

    @model_validator(mode="after")
    def _handler_suits_layer(self) -> Self:
        if self.handler is not None and LAYER_OF_HANDLER[self.handler.kind] != self.layer:
            suited = LAYER_OF_HANDLER[self.handler.kind]
            raise ValueError(f"a {self.handler.kind} handler belongs to layer {suited}, not {self.layer}")
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


@dataclass(frozen=True, slots=True)
class ResourceUsage:
    """What one execution used; None where it was not measured, with the reason in `unmeasured`."""

    cpu_time: float | None = None
    memory_used: int | None = None
    network_requests: int | None = None
    unmeasured: Mapping[str, str] = FrozenDict()


@dataclass(frozen=True, slots=True)
class ExecutionMetadata:
    """How one execution went.

    start: seconds since the epoch. duration: seconds the skill itself ran, None when it did not start (so that a refused
    call is no fast one in any mean). overhead: seconds of all the rest, from the call to its result.
    layer: None when the skill is unknown. isolation: what stood between skill and process, None when it did not start.
    """

    execution_id: str
    skill_id: str
    layer: int | None
    isolation: str | None
    start: float
    duration: float | None
    overhead: float
    resource_usage: ResourceUsage


@dataclass(frozen=True, slots=True)
class ExecutionResult:
    """The outcome of one execution: `output` when it succeeded, a typed `error` when it did not."""

    output: Any
    error: ExecutionError | Exception | None
    metadata: ExecutionMetadata

    @property
    def success(self) -> bool:
        """True when the skill ran to its end and its output was accepted."""
        return self.error is None
