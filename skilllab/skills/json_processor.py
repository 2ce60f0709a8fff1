"""json-processor-v1: a JSON value through a path query and a list of steps."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Annotated, Any, Literal, NoReturn, Required, TypeAlias

from pydantic import Field
from typing_extensions import TypedDict

from skilllab.define import skill
from skilllab.errors import InvalidValueError

StepName: TypeAlias = Literal["query", "filter", "map", "sort", "group", "rename", "pick", "drop", "flatten", "limit"]


class Step(TypedDict, total=False):
    """One step; `do` names it, and each takes only the fields that its line in the description of `steps` names."""

    do: Required[StepName]
    path: str
    where: str
    by: str
    descending: bool
    names: dict[str, str]
    fields: list[str]
    depth: int
    count: int


_STEPS_HELP = (
    "done in order: {do: query, path} a JMESPath of the value; {do: filter, where} items for which it is true; "
    "{do: map, path} of each item; {do: sort, by, descending?} null last; {do: group, by} an object of lists, "
    "other keys than texts as JSON; {do: rename, names} {old: new} in an object or in each of a list; {do: pick, fields} "
    "and {do: drop, fields} likewise; {do: flatten, depth?} lists in a list; {do: limit, count} the first items. "
    "where, by and path are JMESPath."
)


@skill(
    id="json-processor-v1",
    category="data-processing",
    tags=("json", "query", "transform"),
    cacheable=True,
    check_output=False,
    examples=(
        {"text": '{"orders": [{"total": 5}, {"total": 7}]}', "query": "sum(orders[].total)"},
        {
            "value": [{"city": "Bergen", "rain": 7}, {"city": "Oslo", "rain": 2}, {"city": "Bergen", "rain": 9}],
            "steps": [
                {"do": "filter", "where": "rain > `5`"},
                {"do": "group", "by": "city"},
                {"do": "query", "path": "Bergen[].rain"},
            ],
        },
        {"value": [[3], [1, 2]], "steps": [{"do": "flatten"}, {"do": "sort", "by": "@", "descending": True}]},
    ),
)
def json_processor(
    text: Annotated[str | None, Field(description="JSON text")] = None,
    value: Annotated[Any, Field(description="a JSON value, in place of text")] = None,
    query: Annotated[str | None, Field(description="a JMESPath, applied before the steps")] = None,
    steps: Annotated[list[Step] | None, Field(description=_STEPS_HELP)] = None,
) -> Any:
    """Queries and transforms JSON: a path query, then filter, map, sort, group, rename, pick, drop, flatten, limit.

    Paths are JMESPath (jmespath.org); in a filter null, false, "" and empty lists and objects are false.
    Raises InvalidValueError for text that is not JSON (line and column), a path that cannot be read (character), and a
    step that does not suit the value (number of the step).
    """
    if (text is None) == (value is None):
        raise InvalidValueError(f"give one of text and value, not {'none' if text is None else 'both'}")
    result = _parsed(text) if text is not None else value
    if query is not None:
        result = _searched(query, result, "query")
    for number, step in enumerate(steps or [], start=1):
        result = _done(number, step, result)
    return result


def _parsed(text: str) -> Any:
    def refuse(constant: str) -> NoReturn:
        raise InvalidValueError(f"text is not JSON: it holds {constant}, which JSON does not have; write null")

    try:
        return json.loads(text, parse_constant=refuse)
    except json.JSONDecodeError as error:
        raise InvalidValueError(f"text is not JSON: line {error.lineno}, column {error.colno}: {error.msg}") from None
    except (ValueError, RecursionError) as error:
        if isinstance(error, InvalidValueError):
            raise
        raise InvalidValueError(f"text cannot be read as JSON: {error}") from None


def _searched(path: str, value: Any, where: str) -> Any:
    import jmespath  # a few milliseconds to import
    from jmespath.exceptions import JMESPathError, ParseError

    try:
        return jmespath.search(path, value)
    except ParseError as error:
        at = f"character {error.lex_position + 1}: " if isinstance(error.lex_position, int) else ""
        raise InvalidValueError(f"{where}={path!r} is not JMESPath: {at}{error.msg}") from None
    except JMESPathError as error:
        raise InvalidValueError(f"{where}={path!r}: {' '.join(str(error).split())}") from None
    except (TypeError, ValueError, ArithmeticError, RecursionError) as error:
        raise InvalidValueError(f"{where}={path!r} cannot be applied: {error}") from None


def _done(number: int, step: Step, value: Any) -> Any:
    name = step["do"]
    label = f"steps[{number - 1}] ({name})"
    work, required, optional = _STEPS[name]
    given = set(step) - {"do"}
    if given - required - optional or required - given:
        takes = ", ".join([*sorted(required), *(f"{field} (may be left out)" for field in sorted(optional))])
        raise InvalidValueError(f"{label}: it takes {takes}, not {', '.join(sorted(given)) or 'nothing'}")
    return work(dict(step), value, label)


def _query(step: dict[str, Any], value: Any, label: str) -> Any:
    return _searched(step["path"], value, f"{label} path")


def _filter(step: dict[str, Any], value: Any, label: str) -> Any:
    return [item for item in _list(value, label) if _true(_searched(step["where"], item, f"{label} where"))]


def _map(step: dict[str, Any], value: Any, label: str) -> Any:
    return [_searched(step["path"], item, f"{label} path") for item in _list(value, label)]


def _sort(step: dict[str, Any], value: Any, label: str) -> Any:
    keyed = [(_searched(step["by"], item, f"{label} by"), item) for item in _list(value, label)]
    present = [pair for pair in keyed if pair[0] is not None]
    kinds = {"a number" if _number(key) else "a text" if isinstance(key, str) else "neither" for key, _ in present}
    if len(kinds) > 1 or "neither" in kinds:
        raise InvalidValueError(
            f"{label}: by={step['by']!r} must give all numbers or all texts, not {' and '.join(sorted(kinds))}"
        )
    present.sort(key=lambda pair: pair[0], reverse=step.get("descending", False))
    return [item for _, item in present] + [item for key, item in keyed if key is None]


def _group(step: dict[str, Any], value: Any, label: str) -> Any:
    groups: dict[str, list[Any]] = {}
    for item in _list(value, label):
        key = _searched(step["by"], item, f"{label} by")
        groups.setdefault(key if isinstance(key, str) else json.dumps(key, ensure_ascii=False), []).append(item)
    return groups


def _rename(step: dict[str, Any], value: Any, label: str) -> Any:
    names: dict[str, str] = step["names"]

    def renamed(item: dict[str, Any]) -> dict[str, Any]:
        result = {names.get(field, field): content for field, content in item.items()}
        if len(result) < len(item):
            raise InvalidValueError(f"{label}: names={names!r} gives two fields of {sorted(item)} one name")
        return result

    return _each_object(renamed, value, label)


def _pick(step: dict[str, Any], value: Any, label: str) -> Any:
    return _each_object(lambda item: {field: item[field] for field in step["fields"] if field in item}, value, label)


def _drop(step: dict[str, Any], value: Any, label: str) -> Any:
    return _each_object(
        lambda item: {field: item[field] for field in item if field not in step["fields"]}, value, label
    )


def _flatten(step: dict[str, Any], value: Any, label: str) -> Any:
    items = _list(value, label)
    for _ in range(int(_at_least(0, step.get("depth", 1), label, "depth"))):
        if not any(isinstance(item, list) for item in items):
            break
        items = [inner for item in items for inner in (item if isinstance(item, list) else [item])]
    return items


def _limit(step: dict[str, Any], value: Any, label: str) -> Any:
    return _list(value, label)[: int(_at_least(0, step["count"], label, "count"))]


def _list(value: Any, label: str) -> list[Any]:
    if not isinstance(value, list):
        raise InvalidValueError(f"{label}: it needs a list, and the value is {_kind(value)}")
    return value


def _each_object(work: Callable[[dict[str, Any]], Any], value: Any, label: str) -> Any:
    if isinstance(value, dict):
        return work(value)
    for index, item in enumerate(_list(value, label)):
        if not isinstance(item, dict):
            raise InvalidValueError(f"{label}: it needs objects, and item {index} is {_kind(item)}")
    return [work(item) for item in value]


def _at_least(least: int, value: int, label: str, field: str) -> int:
    if value < least:
        raise InvalidValueError(f"{label}: {field}={value!r} must be at least {least}")
    return value


def _true(value: Any) -> bool:
    return value is not None and value is not False and value not in ("", [], {})


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _kind(value: Any) -> str:
    if value is None or isinstance(value, bool):
        return json.dumps(value)
    names: dict[type, str] = {str: "a text", dict: "an object", list: "a list"}
    return names.get(type(value), "a number")


_Work: TypeAlias = Callable[[dict[str, Any], Any, str], Any]
_NOTHING: frozenset[str] = frozenset()
_STEPS: dict[str, tuple[_Work, frozenset[str], frozenset[str]]] = {
    "query": (_query, frozenset({"path"}), _NOTHING),
    "filter": (_filter, frozenset({"where"}), _NOTHING),
    "map": (_map, frozenset({"path"}), _NOTHING),
    "sort": (_sort, frozenset({"by"}), frozenset({"descending"})),
    "group": (_group, frozenset({"by"}), _NOTHING),
    "rename": (_rename, frozenset({"names"}), _NOTHING),
    "pick": (_pick, frozenset({"fields"}), _NOTHING),
    "drop": (_drop, frozenset({"fields"}), _NOTHING),
    "flatten": (_flatten, _NOTHING, frozenset({"depth"})),
    "limit": (_limit, frozenset({"count"}), _NOTHING),
}
