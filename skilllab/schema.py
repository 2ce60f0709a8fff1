"""JSON Schema: made from a typed function, compiled once, and checked in about a microsecond."""

from __future__ import annotations

import inspect
import types
import typing
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NoReturn

import jsonschema_rs
import typing_extensions
from pydantic import TypeAdapter
from pydantic.errors import PydanticSchemaGenerationError, PydanticUserError

from skilllab.errors import InvalidDefinitionError, InvalidParametersError

Schema = Mapping[str, Any]
_STARS = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
_SCALARS = (str, int, float, bool, type(None), object)
_LONGEST_REASON = 300
_CONTAINERS = (list, dict, tuple, Sequence, Mapping)


class Validator:
    """A compiled JSON Schema; a call returns None or raises InvalidParametersError with the path of the offence.

    `of` says what is checked in messages ("parameters", "output"). None as a schema accepts every JSON value.
    Raises InvalidDefinitionError when the schema itself is not valid (`field` names it) or points to another document.
    """

    __slots__ = ("_compiled", "fits", "of", "skill_id")

    def __init__(
        self, schema: Schema | None, *, skill_id: str, field: str = "input_schema", of: str = "parameters"
    ) -> None:
        self.skill_id = skill_id
        self.of = of
        self._compiled = jsonschema_rs.validator_for({}) if schema is None else compile_schema(schema, skill_id, field)
        self.fits = self._compiled.is_valid
        """Whether a value fits, without a reason; raises ValueError for what is no JSON."""

    def __call__(self, value: Any) -> None:
        try:
            if self.fits(value):
                return
            offence = next(self._compiled.iter_errors(value))
        except ValueError as error:
            raise InvalidParametersError(
                f"{self.skill_id}: {self.of} must be JSON values: {error}", skill_id=self.skill_id
            ) from None
        path = pointer(offence.instance_path)
        where = f"at {path}" if path else "as a whole"
        raise InvalidParametersError(
            f"{self.skill_id}: {self.of} {where}: {reason(offence)}", skill_id=self.skill_id, path=path
        )

    def __deepcopy__(self, memo: object) -> Validator:
        return self


def pointer(steps: Iterable[str | int]) -> str:
    """Returns the JSON Pointer (RFC 6901) of the steps from a whole to a part; "" is the whole."""
    return "".join(f"/{str(step).replace('~', '~0').replace('/', '~1')}" for step in steps)


def reason(offence: Any) -> str:
    """Returns the message of a schema error, with a long offending value cut in its middle."""
    text: str = offence.message
    return text if len(text) <= _LONGEST_REASON else f"{text[: _LONGEST_REASON // 2]} … {text[-_LONGEST_REASON // 2 :]}"


def parameter_schema(function: Callable[..., Any], skill_id: str, *, without: Iterable[str] = ()) -> Schema:
    """Returns the JSON Schema of a function's parameters, taken by name from an object.

    Hints must be JSON types (str, int, float, bool, None, list, dict, tuple, Literal, TypedDict, unions of these), as
    a skill receives what came as JSON, unchanged; `Annotated[int, Field(ge=0)]` adds bounds.
    without: parameters that no caller gives; they are no part of the schema and may have any hint, or none.
    Raises InvalidDefinitionError for a missing or other hint, for positional-only parameters, and for star parameters
    that are not left out.
    """
    without = frozenset(without)
    hints = _hints(function, skill_id, without)
    for name, parameter in inspect.signature(function).parameters.items():
        star = parameter.kind in _STARS and name not in without
        if star or parameter.kind is inspect.Parameter.POSITIONAL_ONLY:
            _refuse(skill_id, f"parameter {parameter} cannot be given by name; write it as a plain parameter")
        if name in without:
            continue
        if name not in hints:
            _refuse(skill_id, f"parameter {name!r} has no type hint; add one, as in `{name}: str`")
        _require_json(hints[name], skill_id, name)
    return _generate(_stand_in(function, hints, without) if without else function, skill_id)


def return_schema(function: Callable[..., Any], skill_id: str, *, without: Iterable[str] = ()) -> Schema | None:
    """Returns the JSON Schema of a function's return hint, or None when it has none or is no JSON type.

    without: parameters whose hints are not read.
    """
    hint = _hints(function, skill_id, frozenset(without)).get("return", Any)
    if hint is Any or not _is_json(hint):
        return None
    return _generate(hint, skill_id)


def _stand_in(function: Callable[..., Any], hints: Mapping[str, Any], without: frozenset[str]) -> Callable[..., Any]:
    """Returns a function with the same signature but for some parameters; it is looked at, never called."""
    signature = inspect.signature(function)
    kept = [parameter for name, parameter in signature.parameters.items() if name not in without]

    def stand_in() -> None:
        return None

    stand_in.__name__ = getattr(function, "__name__", "function")
    stand_in.__annotations__ = dict(hints)
    stand_in.__signature__ = signature.replace(parameters=kept)  # type: ignore[attr-defined]
    return stand_in


def _generate(source: Any, skill_id: str) -> Schema:
    try:
        schema: Schema = _untitled(TypeAdapter(source).json_schema())
    except (PydanticSchemaGenerationError, PydanticUserError) as error:
        why = str(error).split("\n")[0]
        _refuse(skill_id, f"no schema can be made of {getattr(source, '__name__', source)}: {why}")
    return schema


def compile_schema(schema: Any, skill_id: str, field: str, *, check_formats: bool = False) -> Any:
    """Returns the jsonschema_rs validator of a schema; `check_formats` makes its `format` keywords count.

    Raises InvalidDefinitionError when the schema is not valid or points to another document.
    """
    try:
        return jsonschema_rs.validator_for(schema, retriever=_refuse_remote, validate_formats=check_formats)
    except (jsonschema_rs.ValidationError, jsonschema_rs.ReferencingError, ValueError) as error:
        why = reason(error) if hasattr(error, "message") else str(error).split("\n")[0]
        where = pointer(getattr(error, "instance_path", ()))
        raise InvalidDefinitionError(
            f"skill {skill_id!r}: {field}{where} is no valid JSON Schema: {why}", field=field
        ) from None


def _refuse_remote(uri: str) -> NoReturn:
    raise ValueError(f"it refers to {uri}: write the part out under $defs")


def _hints(function: Callable[..., Any], skill_id: str, without: frozenset[str] = frozenset()) -> dict[str, Any]:
    annotated: Any = function
    if without:  # a name that only a type checker imports may stand in the hint of what is left out
        annotations = {name: hint for name, hint in function.__annotations__.items() if name not in without}
        namespace = inspect.unwrap(function).__globals__
        annotated = types.SimpleNamespace(__annotations__=annotations, __globals__=namespace)
    try:
        return typing.get_type_hints(annotated, include_extras=True)
    except (NameError, TypeError) as error:
        _refuse(skill_id, f"a type hint of {getattr(function, '__name__', function)!r} cannot be read: {error}")


def _require_json(hint: Any, skill_id: str, name: str) -> None:
    if not _is_json(hint):
        _refuse(
            skill_id,
            f"parameter {name!r} is hinted {hint!r}, which is no JSON type; take str or dict and convert inside",
        )


def _is_json(hint: Any) -> bool:
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any or hint in _SCALARS or hint in _CONTAINERS or hint is ...:
        return True
    if origin is typing.Literal:
        return all(isinstance(item, str | int | bool | None) for item in inner)
    if origin is typing.Annotated:
        return _is_json(inner[0])
    if origin in (typing.Union, types.UnionType, typing.Required, typing.NotRequired) or origin in _CONTAINERS:
        return all(_is_json(item) for item in inner)
    if typing_extensions.is_typeddict(hint):
        return all(_is_json(item) for item in typing_extensions.get_type_hints(hint, include_extras=True).values())
    return False


def _untitled(schema: Any) -> Any:
    """Drops the titles that pydantic derives from names: they say nothing that the name does not."""
    if isinstance(schema, dict):
        return {key: _untitled(value) for key, value in schema.items() if key != "title" or not isinstance(value, str)}
    return [_untitled(item) for item in schema] if isinstance(schema, list) else schema


def _refuse(skill_id: str, why: str) -> NoReturn:
    raise InvalidDefinitionError(f"skill {skill_id!r}: {why}", field="input_schema")
