"""Parameters made from a JSON Schema: the plainest value that each part allows, the same every time."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_DEEPEST = 8  # of nested schemas; one that refers to itself ends there
_TEXT = "example"
_FORMATS = {
    "date": "2026-01-01",
    "date-time": "2026-01-01T00:00:00Z",
    "time": "00:00:00Z",
    "email": "someone@example.org",
    "uri": "https://example.org/",
    "uuid": "00000000-0000-4000-8000-000000000000",
    "ipv4": "127.0.0.1",
    "hostname": "example.org",
}


def made_up(schema: Mapping[str, Any]) -> dict[str, Any]:
    """Returns parameters for an object schema: its first example, else its required members.

    A member is its example, default, const or first enum value, else the least of its type. Not all that a schema can say
    is heeded (a pattern is not): whether the result fits must be checked.
    """
    for example in schema.get("examples", ()):
        if isinstance(example, Mapping):
            return dict(example)
    value = _value(schema, schema, 0)
    return value if isinstance(value, dict) else {}


def _value(schema: Any, root: Mapping[str, Any], depth: int) -> Any:
    schema = _resolved(schema, root)
    if not isinstance(schema, Mapping) or depth > _DEEPEST:
        return None
    for key in ("const", "default"):
        if key in schema:
            return schema[key]
    for key in ("examples", "enum"):
        if schema.get(key):
            return next(iter(schema[key]))
    for key in ("anyOf", "oneOf", "allOf"):
        if schema.get(key):
            options = [_resolved(option, root) for option in schema[key]]
            return _value(next((option for option in options if not _is_null(option)), options[0]), root, depth + 1)
    return _of_type(schema, root, depth)


def _of_type(schema: Mapping[str, Any], root: Mapping[str, Any], depth: int) -> Any:
    kind = schema.get("type", "object" if "properties" in schema else "string")
    if not isinstance(kind, str):
        kind = next((each for each in kind if each != "null"), "null")
    if kind == "object":
        properties = schema.get("properties", {})
        return {name: _value(properties.get(name, {}), root, depth + 1) for name in schema.get("required", ())}
    if kind == "array":
        return [_value(schema.get("items", {}), root, depth + 1) for _ in range(schema.get("minItems", 0))]
    if kind in ("integer", "number"):
        return _number(schema)
    if kind == "string":
        return _text(schema)
    return False if kind == "boolean" else None


def _number(schema: Mapping[str, Any]) -> float:
    step = schema.get("multipleOf", 1)
    low = schema.get("minimum", schema.get("exclusiveMinimum"))
    high = schema.get("maximum", schema.get("exclusiveMaximum"))
    value: float = step  # 1 where it may be
    if (low is not None and value < low) or value == schema.get("exclusiveMinimum"):
        value = -(-low // step) * step
        value += step if value == schema.get("exclusiveMinimum") else 0
    if (high is not None and value > high) or value == schema.get("exclusiveMaximum"):
        value = high // step * step
        value -= step if value == schema.get("exclusiveMaximum") else 0
    return value


def _text(schema: Mapping[str, Any]) -> str:
    text = _FORMATS.get(schema.get("format", ""), _TEXT)
    text = text.ljust(schema.get("minLength", 0), "x")
    return text[: schema.get("maxLength", len(text))]


def _resolved(schema: Any, root: Mapping[str, Any]) -> Any:
    for _ in range(_DEEPEST):
        if not isinstance(schema, Mapping) or "$ref" not in schema:
            break
        found: Any = root
        for step in str(schema["$ref"]).removeprefix("#").strip("/").split("/"):
            found = (
                found.get(step.replace("~1", "/").replace("~0", "~"), {})
                if isinstance(found, Mapping) and step
                else found
            )
        schema = found
    return schema


def _is_null(schema: Any) -> bool:
    return isinstance(schema, Mapping) and schema.get("type") == "null"
