"""data-validator-v1."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from skilllab.errors import InvalidDefinitionError, InvalidValueError
from skilllab.skills.data_validator import data_validator

SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {"a/b": {"type": "array", "items": {"type": "integer"}}, "when": {"format": "date"}},
    "required": ["a/b"],
}


def test_errors_name_record_and_place() -> None:
    """An error has the record's index and a JSON Pointer with / and ~ escaped; a missing field is the whole record's."""
    report = data_validator([{"a/b": [1]}, {"a/b": [1, "x"]}, {}], SCHEMA)
    assert (report["valid"], report["invalid"], report["more_errors"]) == (1, 2, False)
    assert [(error["record"], error["pointer"]) for error in report["errors"]] == [(1, "/a~1b/1"), (2, "")]
    assert '"a/b" is a required property' in report["errors"][1]["message"]


@pytest.mark.parametrize(
    ("limit", "listed", "more"), [(0, 0, True), (3, 3, True), (4, 4, False), (9, 4, False), (3.0, 3, True)]
)
def test_the_list_is_bounded_and_the_counts_are_not(limit: int, listed: int, more: bool) -> None:
    """At most max_errors are listed, all invalid records are counted, and more_errors tells whether some are left out."""
    report = data_validator([{"a/b": ["x", "y"]}, {"a/b": ["x"]}, {}, {"a/b": []}], SCHEMA, max_errors=limit)
    assert (len(report["errors"]), report["more_errors"]) == (listed, more)
    assert (report["valid"], report["invalid"]) == (1, 3)


def test_formats_count_unless_told_otherwise() -> None:
    """format is checked by default and only a note with check_formats=False."""
    records = [{"a/b": [], "when": "2023-02-30"}]
    assert data_validator(records, SCHEMA)["invalid"] == 1
    assert data_validator(records, SCHEMA, check_formats=False)["invalid"] == 0


def test_long_values_are_cut_in_messages() -> None:
    """An error about a long text shows both ends of it, not all."""
    [error] = data_validator([{"a/b": "x" * 100_000}], SCHEMA)["errors"]
    assert len(error["message"]) < 400
    assert error["message"].endswith('is not of type "array"')


@pytest.mark.parametrize(
    "schema", [{"type": "nonsense"}, {"$ref": "http://example.org/schema"}, {"$ref": "#/none"}, {"pattern": "("}]
)
def test_bad_schemas_are_refused(schema: dict[str, Any]) -> None:
    """A schema that is not valid or lies elsewhere is an error, and nothing is fetched."""
    with pytest.raises(InvalidDefinitionError, match=r"schema.* is no valid JSON Schema"):
        data_validator([1], schema)


def test_what_is_no_json_is_refused() -> None:
    """A record that JSON cannot hold is an error with its index."""
    with pytest.raises(InvalidValueError, match=r"records\[1\] is no JSON value"):
        data_validator([{}, object()], {"type": "object"})


@given(st.lists(st.integers() | st.text(max_size=3)), st.integers(0, 5))
def test_counts_agree_with_a_hand_check(records: list[Any], limit: int) -> None:
    """For {"type": "integer"} the counts are those of isinstance, and every error is about a text."""
    report = data_validator(records, {"type": "integer"}, max_errors=limit)
    wrong = [index for index, record in enumerate(records) if isinstance(record, str)]
    assert (report["valid"], report["invalid"]) == (len(records) - len(wrong), len(wrong))
    assert [error["record"] for error in report["errors"]] == wrong[:limit]
    assert report["more_errors"] == (len(wrong) > limit)
