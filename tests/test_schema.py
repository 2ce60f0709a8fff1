"""JSON Schema from functions, and compiled validators."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable
from typing import Annotated, Any, Literal

import jsonschema
import pytest
import typing_extensions
from hypothesis import given
from hypothesis import strategies as st
from pydantic import Field

from skilllab.errors import InvalidDefinitionError, InvalidParametersError
from skilllab.frozen import freeze
from skilllab.schema import Validator, parameter_schema, pointer, return_schema

SCHEMA = {
    "type": "object",
    "properties": {"a": {"type": "integer", "minimum": 0}, "b~/c": {"type": "array", "items": {"type": "string"}}},
    "required": ["a"],
    "additionalProperties": False,
}


class Point(typing_extensions.TypedDict):
    x: float
    label: typing_extensions.NotRequired[str]


# validators


@pytest.mark.parametrize(
    ("value", "path", "message"),
    [
        ({}, "", 'x: parameters as a whole: "a" is a required property'),
        ({"a": -1}, "/a", "x: parameters at /a: -1 is less than the minimum of 0"),
        ({"a": "1"}, "/a", 'x: parameters at /a: "1" is not of type "integer"'),
        ({"a": True}, "/a", 'x: parameters at /a: true is not of type "integer"'),
        ({"a": float("nan")}, "/a", "x: parameters at /a: "),
        ({"a": 1, "b~/c": ["d", 5]}, "/b~0~1c/1", "x: parameters at /b~0~1c/1: 5 is not of type"),
        ({"a": 1, "d": 1}, "", "x: parameters as a whole: Additional properties"),
        ([], "", 'x: parameters as a whole: [] is not of type "object"'),
        ({"a": object()}, "", "x: parameters must be JSON values: "),
        ({"a": "\ud800"}, "", "x: parameters must be JSON values: "),
        ({1: 2}, "", "x: parameters must be JSON values: "),
    ],
)
def test_an_offence_has_a_path_and_a_reason(value: Any, path: str, message: str) -> None:
    """The error has the JSON Pointer of the first offence and says what is wrong there; no JSON is an error as well."""
    with pytest.raises(InvalidParametersError) as caught:
        Validator(SCHEMA, skill_id="x")(value)
    assert (caught.value.skill_id, caught.value.path) == ("x", path)
    assert str(caught.value).startswith(message)


def test_good_values_pass() -> None:
    """A value that fits returns None, whether it is frozen or not; tuples are arrays; 1.0 is an integer to JSON Schema."""
    check = Validator(freeze(SCHEMA), skill_id="x")
    for value in ({"a": 1}, freeze({"a": 1, "b~/c": ["d"]}), {"a": 1, "b~/c": ("d",)}, {"a": 1.0}):
        assert check(value) is None


def test_no_schema_accepts_every_json_value() -> None:
    """None as a schema lets anything pass."""
    for value in ({}, [], "a", None, 1.5):
        assert Validator(None, skill_id="x")(value) is None


def test_a_long_value_is_cut_in_the_message() -> None:
    """A megabyte in a wrong place does not make a message of a megabyte; its end, which says what is wrong, stays."""
    with pytest.raises(InvalidParametersError) as caught:
        Validator(SCHEMA, skill_id="x")({"a": "y" * 10**6})
    assert len(str(caught.value)) < 400
    assert str(caught.value).endswith('is not of type "integer"')


def test_values_nested_beyond_reason_are_refused() -> None:
    """A value too deep to be shown is an error of the parameters, not a crash."""
    deep: list[Any] = []
    for _ in range(5000):
        deep = [deep]
    with pytest.raises(InvalidParametersError):
        Validator({"type": "object"}, skill_id="x")(deep)


@pytest.mark.parametrize(
    ("schema", "reason"),
    [
        ({"type": "text"}, 'input_schema/type is no valid JSON Schema: "text"'),
        ({"properties": {"a": {"minimum": "low"}}}, "input_schema/properties/a/minimum is no valid"),
        ({"pattern": "("}, "input_schema/pattern"),
        ({"$ref": "#/$defs/none"}, "none"),
        (
            {"$ref": "https://example.org/schema.json"},
            r"https://example.org/schema.json: write the part out under \$defs",
        ),
        ({"$schema": "https://example.org/draft"}, "example.org"),
        ({"enum": [object()]}, "object"),
    ],
)
def test_a_bad_schema_is_refused_when_compiled(schema: dict[str, Any], reason: str) -> None:
    """A schema that is not valid, or lies elsewhere, is an InvalidDefinitionError with its field; nothing is fetched."""
    with pytest.raises(InvalidDefinitionError, match=reason) as caught:
        Validator(schema, skill_id="x")
    assert caught.value.field == "input_schema"
    with pytest.raises(InvalidDefinitionError, match="output_schema") as caught:
        Validator(schema, skill_id="x", field="output_schema")
    assert caught.value.field == "output_schema"


def test_a_schema_that_holds_itself_is_refused() -> None:
    """A dict inside itself is no schema."""
    schema: dict[str, Any] = {}
    schema["not"] = schema
    with pytest.raises(InvalidDefinitionError, match="no valid JSON Schema"):
        Validator(schema, skill_id="x")


def test_a_deep_copy_shares_the_compiled_schema() -> None:
    """Validators hold nothing that a caller could change, so a copy is the validator."""
    check = Validator(SCHEMA, skill_id="x")
    assert copy.deepcopy(check) is check


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 5) | st.text("ab", max_size=2),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["a", "b~/c", "d"]), inner, max_size=3),
    max_leaves=6,
)


@pytest.mark.slow
@given(VALUES)
def test_verdicts_agree_with_the_reference_implementation(value: Any) -> None:
    """The compiled validator and jsonschema, in pure Python, accept the same values and find offences at the same places."""
    reference = list(jsonschema.Draft202012Validator(SCHEMA).iter_errors(value))
    check = Validator(SCHEMA, skill_id="x")
    if not reference:
        assert check(value) is None
        return
    with pytest.raises(InvalidParametersError) as caught:
        check(value)
    assert caught.value.path in {pointer(offence.absolute_path) for offence in reference}


@given(st.lists(st.integers(0, 9) | st.text("a~/01", max_size=3)))
def test_pointers_can_be_read_back(steps: list[str | int]) -> None:
    """A JSON Pointer split at its slashes, ~1 and ~0 undone in this order (RFC 6901), gives the steps."""
    parts = pointer(steps).split("/")
    assert parts[0] == ""
    assert [part.replace("~1", "/").replace("~0", "~") for part in parts[1:]] == [str(step) for step in steps]


# schemas of functions


def test_parameters_become_properties() -> None:
    """Hints become types, defaults optional properties, Annotated bounds; nothing else may be given."""

    def function(
        text: str,
        count: Annotated[int, Field(ge=1, description="how many")] = 5,
        *,
        mode: Literal["a", "b"] = "a",
        items: list[dict[str, float]] | None = None,
        anything: Any = None,
    ) -> None: ...

    assert parameter_schema(function, "x") == {
        "type": "object",
        "properties": {
            "text": {"type": "string"},
            "count": {"type": "integer", "minimum": 1, "description": "how many", "default": 5},
            "mode": {"enum": ["a", "b"], "type": "string", "default": "a"},
            "items": {
                "anyOf": [
                    {"type": "array", "items": {"type": "object", "additionalProperties": {"type": "number"}}},
                    {"type": "null"},
                ],
                "default": None,
            },
            "anything": {"default": None},
        },
        "required": ["text"],
        "additionalProperties": False,
    }


def test_typed_dicts_and_titles() -> None:
    """A TypedDict is an object with its fields; a parameter named title keeps its name, derived titles go."""

    def function(point: Point, title: str) -> Point:
        return point

    schema = parameter_schema(function, "x")
    assert set(schema["properties"]) == {"point", "title"}
    check = Validator(schema, skill_id="x")
    check({"point": {"x": 1}, "title": "t"})
    with pytest.raises(InvalidParametersError) as caught:
        check({"point": {"label": "l"}, "title": "t"})
    assert caught.value.path == "/point"
    assert return_schema(function, "x") == {
        "type": "object",
        "properties": {"x": {"type": "number"}, "label": {"type": "string"}},
        "required": ["x"],
    }


def test_parameters_that_no_caller_gives_are_left_out() -> None:
    """They may have any hint, one that only a type checker can read, or none; the others are described as ever."""

    def function(a: int, db: Nowhere, pool, *, b: Annotated[str, Field(min_length=1)] = "x") -> list[str]:  # type: ignore  # noqa
        return [b]

    schema = parameter_schema(function, "x", without=["db", "pool"])
    assert schema == {
        "type": "object",
        "properties": {"a": {"type": "integer"}, "b": {"type": "string", "minLength": 1, "default": "x"}},
        "required": ["a"],
        "additionalProperties": False,
    }
    assert return_schema(function, "x", without=["db"]) == {"type": "array", "items": {"type": "string"}}
    check = Validator(schema, skill_id="x")
    check({"a": 1})
    with pytest.raises(InvalidParametersError):
        check({"a": 1, "db": "the caller's"})


def test_stars_may_be_left_out() -> None:
    """What takes the rest of the arguments can be left out by name, and only so; the others are described as ever."""

    def function(a: int, *rest: Nowhere, b: Literal["c"] = "c", **others) -> None: ...  # type: ignore  # noqa

    schema = parameter_schema(function, "x", without=["rest", "others"])
    assert list(schema["properties"]) == ["a", "b"]
    assert schema["additionalProperties"] is False
    with pytest.raises(InvalidDefinitionError, match=r"parameter \*\*others cannot be given by name"):
        parameter_schema(function, "x", without=["rest"])


def test_what_is_left_out_must_be_given_by_name_all_the_same() -> None:
    """A positional-only parameter cannot be filled in; the hints of the others are checked as ever."""
    with pytest.raises(InvalidDefinitionError, match="cannot be given by name"):
        parameter_schema(positional, "x", without=["a"])
    with pytest.raises(InvalidDefinitionError, match="parameter 'a' has no type hint"):
        parameter_schema(lambda a, b: None, "x", without=["b"])


def test_a_wrapped_function_is_read_through() -> None:
    """The hints of what a decorator wraps are read where it was written."""

    @functools.wraps(wrapped)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        return wrapped(*args, **kwargs)

    assert set(parameter_schema(wrapper, "x", without=["db"])["properties"]) == {"point"}


def wrapped(point: Point, db: set[int]) -> Point:
    return point


def no_hint(a): ...
def other_type(a: set[int]) -> None: ...
def inner_other_type(a: list[bytes]) -> None: ...
def star(*a: int) -> None: ...
def double_star(**a: int) -> None: ...
def positional(a: int, /) -> None: ...
def unknown_name(a: Nowhere) -> None: ...  # type: ignore[name-defined]  # noqa: F821


@pytest.mark.parametrize(
    ("function", "reason"),
    [
        (no_hint, "parameter 'a' has no type hint; add one"),
        (other_type, r"parameter 'a' is hinted set\[int\], which is no JSON type"),
        (inner_other_type, "which is no JSON type"),
        (star, r"parameter \*a: .* cannot be given by name"),
        (double_star, r"parameter \*\*a: .* cannot be given by name"),
        (positional, "cannot be given by name"),
        (unknown_name, "cannot be read: name 'Nowhere' is not defined"),
    ],
)
def test_functions_without_a_json_signature_are_refused(function: Callable[..., Any], reason: str) -> None:
    """What cannot come as a JSON object of named parameters is an error that names the parameter and what to write."""
    with pytest.raises(InvalidDefinitionError, match=reason) as caught:
        parameter_schema(function, "x")
    assert caught.value.field == "input_schema"


@pytest.mark.parametrize(
    ("hint", "schema"),
    [
        (int, {"type": "integer"}),
        (None, {"type": "null"}),
        (dict[str, int], {"type": "object", "additionalProperties": {"type": "integer"}}),
        (str | None, {"anyOf": [{"type": "string"}, {"type": "null"}]}),
        (Any, None),
        (set[int], None),
        (object, None),
    ],
)
def test_return_hints(hint: Any, schema: Any) -> None:
    """A JSON type becomes a schema; Any and other types are not checked."""

    def function(): ...

    function.__annotations__["return"] = hint
    got = return_schema(function, "x")
    assert (got or None) == schema
