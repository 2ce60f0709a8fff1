"""json-processor-v1."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from skilllab.errors import InvalidValueError
from skilllab.skills.json_processor import json_processor

ROWS = [{"city": "Oslo", "rain": 2}, {"city": "Bergen", "rain": 9}, {"city": "Bergen", "rain": 7}]


@pytest.mark.parametrize(
    ("step", "value", "expected"),
    [
        ({"do": "query", "path": "[0].city"}, ROWS, "Oslo"),
        ({"do": "filter", "where": "rain > `5`"}, ROWS, ROWS[1:]),
        ({"do": "filter", "where": "@"}, [0, 1, "", None, False, [], {}, [0], "a"], [0, 1, [0], "a"]),
        ({"do": "map", "path": "rain"}, ROWS, [2, 9, 7]),
        ({"do": "sort", "by": "rain"}, ROWS, [ROWS[0], ROWS[2], ROWS[1]]),
        ({"do": "sort", "by": "city", "descending": True}, ROWS, [ROWS[0], ROWS[1], ROWS[2]]),
        ({"do": "sort", "by": "@"}, [None, 2, 1.5], [1.5, 2, None]),
        ({"do": "sort", "by": "@", "descending": True}, [None, 1, 2], [2, 1, None]),
        ({"do": "group", "by": "city"}, ROWS, {"Oslo": ROWS[:1], "Bergen": ROWS[1:]}),
        ({"do": "group", "by": "rain"}, ROWS, {"2": ROWS[:1], "9": ROWS[1:2], "7": ROWS[2:]}),
        ({"do": "rename", "names": {"city": "place"}}, ROWS[0], {"place": "Oslo", "rain": 2}),
        ({"do": "rename", "names": {"a": "b", "b": "a"}}, [{"a": 1, "b": 2}], [{"b": 1, "a": 2}]),
        ({"do": "pick", "fields": ["rain", "none"]}, ROWS[:1], [{"rain": 2}]),
        ({"do": "drop", "fields": ["rain", "none"]}, ROWS[0], {"city": "Oslo"}),
        ({"do": "flatten"}, [[1], 2, [[3]]], [1, 2, [3]]),
        ({"do": "flatten", "depth": 2.0}, [[1], 2, [[3]]], [1, 2, 3]),
        ({"do": "flatten", "depth": 0}, [[1]], [[1]]),
        ({"do": "limit", "count": 2}, [1, 2, 3], [1, 2]),
        ({"do": "limit", "count": 0}, [1], []),
    ],
)
def test_each_step(step: dict[str, Any], value: Any, expected: Any) -> None:
    """A step does what its line in the description says; a sort is stable with null last, and 0 is true as in JMESPath."""
    assert json_processor(value=value, steps=[step]) == expected


def test_query_then_steps_in_order() -> None:
    """The query comes first, and each step works on what the one before left."""
    text = json.dumps({"rows": ROWS})
    steps = [{"do": "sort", "by": "rain"}, {"do": "limit", "count": 1}, {"do": "query", "path": "[0].city"}]
    assert json_processor(text=text, query="rows", steps=steps) == "Oslo"
    assert json_processor(text="null") is None
    assert json_processor(value=0) == 0


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({}, "give one of text and value, not none"),
        ({"text": "1", "value": 1}, "not both"),
        ({"text": '{"a": 1,\n "b" 2}'}, "line 2, column 6: Expecting ':'"),
        ({"text": ""}, "line 1, column 1"),
        ({"text": "[NaN]"}, "holds NaN, which JSON does not have"),
        ({"text": "[" * 100_000}, "cannot be read as JSON"),
        ({"text": "9" * 5000}, "cannot be read as JSON"),
        ({"value": 1, "query": "a..b"}, r"query='a..b' is not JMESPath: character 3"),
        ({"value": 1, "query": ""}, "query='': .*cannot be empty"),
        ({"value": 1, "query": "abs('x')"}, r"query=.*abs\(\)"),
        ({"value": 1, "query": "nope(@)"}, "nope"),
        (
            {"value": [1], "steps": [{"do": "limit", "count": 1}, {"do": "map"}]},
            r"steps\[1\] \(map\): it takes path, not nothing",
        ),
        (
            {"value": [1], "steps": [{"do": "sort", "by": "@", "path": "@"}]},
            r"takes by, descending \(may be left out\), not by, path",
        ),
        ({"value": {}, "steps": [{"do": "filter", "where": "@"}]}, "needs a list, and the value is an object"),
        ({"value": [1, {}], "steps": [{"do": "pick", "fields": []}]}, "needs objects, and item 0 is a number"),
        ({"value": True, "steps": [{"do": "drop", "fields": []}]}, "the value is true"),
        (
            {"value": [1, "a"], "steps": [{"do": "sort", "by": "@"}]},
            "all numbers or all texts, not a number and a text",
        ),
        ({"value": [True], "steps": [{"do": "sort", "by": "@"}]}, "not neither"),
        ({"value": {"a": 1, "b": 2}, "steps": [{"do": "rename", "names": {"a": "b"}}]}, "two fields of .* one name"),
        ({"value": [1], "steps": [{"do": "limit", "count": -1}]}, "count=-1 must be at least 0"),
    ],
)
def test_bad_input(params: dict[str, Any], message: str) -> None:
    """What is wrong is named with its line and column, its character or its step."""
    with pytest.raises(InvalidValueError, match=message):
        json_processor(**params)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=4),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=8,
)


@pytest.mark.slow
@given(JSON.filter(lambda value: value is not None))
def test_without_query_and_steps_nothing_changes(value: Any) -> None:
    """A value, or its text, comes out as it went in."""
    assert json_processor(value=value) == json_processor(text=json.dumps(value)) == value


@given(st.lists(st.integers() | st.none()), st.booleans())
def test_sort_agrees_with_sorted(values: list[int | None], descending: bool) -> None:
    """A sort by the item itself is sorted(), with nulls last either way."""
    expected: list[int | None] = [*sorted((value for value in values if value is not None), reverse=descending)]
    expected += [None] * values.count(None)
    assert json_processor(value=values, steps=[{"do": "sort", "by": "@", "descending": descending}]) == expected
